"""Records of the data-access standard to their real homes: ingest, carbon and export in one process, over HTTP."""

import asyncio
import csv
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from libs.common.bus import topics
from libs.common.bus.pglog import PgLogBus
from libs.common.client import NO_TLS
from libs.common.clock import CIVIL_ZONE, SystemClock
from libs.common.db import Database
from libs.common.jobs import JobWorker
from libs.common.runtime import Listener, Platform, serve
from libs.common.settings import BusSettings, CommonSettings, DatabaseSettings
from libs.common.tokens import KeyRing
from services.carbon.main import build as build_carbon
from services.export.jobs import JOB_HANDLERS
from services.export.main import build as build_export
from services.ingest.main import build as build_ingest
from tests.integration.export.conftest import until

pytestmark = [pytest.mark.e2e, pytest.mark.integration, pytest.mark.postgres, pytest.mark.timeout(240)]

NOW = datetime.now(CIVIL_ZONE)
DAY = (NOW - timedelta(days=3)).replace(hour=0, minute=0, second=0, microsecond=0)
MONTH_END = DAY.replace(day=1)
MONTH = (MONTH_END - timedelta(days=1)).replace(day=1)
REGISTRY = f"""
schema: registry/1
valid_from: {(MONTH - timedelta(days=9)).isoformat()}
organisations:
  - {{id: op, name: Operator, name_zh: 某运营商, kind: operator}}
sites:
  - {{id: s-1, name: Yuexiu, code: GZ-001, kind: exchange, organisation: op, account_number: "0440-77"}}
lines:
  - {{id: utility, name: Utility, kind: push, endpoint: standard}}
circuits:
  - {{id: feed, name: Feed, site: s-1, level: 1, role: site_feed, rated_power_kw: 500}}
devices:
  - {{id: utility-kwh, name: Utility, kind: meter_3p, site: s-1, line: utility, tags: ["access:2:energy_kwh:0440-77"]}}
  - {{id: bay-1, name: Bay, kind: meter_3p, site: s-1, line: utility}}
  - {{id: own-1, name: Own meter, kind: meter_3p, site: s-1}}
bindings:
  - {{id: b-1, name: b-1, device: utility-kwh, circuit: feed}}
"""


@dataclass
class Suite:
    """Three services and who calls them."""

    folder: Path
    platform: Platform

    async def call(
        self, service: str, method: str, path: str, body: Any = None, *, status: int | None = None, **claims: Any
    ) -> Any:
        given = {"subject": "wang", "kind": "user", "scopes": [f"{service}:*"], **claims}
        token = self.platform.keys.sign_token("gateway", audience=service, **given)
        transport = httpx.AsyncHTTPTransport(uds=str(self.folder / f"{service}.sock"), verify=NO_TLS)
        content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{service}", timeout=30) as client:
            answer = await client.request(
                method, f"/api/v1{path}", content=content,
                headers={"authorization": f"Bearer {token}", "content-type": "application/json"},
            )  # fmt: skip
        assert answer.is_success if status is None else answer.status_code == status, answer.text
        return answer.json()

    async def delivered(self, name: str, *records: dict[str, Any]) -> dict[str, Any]:
        """Deliver and return what came of it."""
        told = await self.call(
            "export", "POST", "/exports/standard/records", {"delivery": name, "records": list(records)}
        )
        return await self.finished(told["delivery_id"])

    async def finished(self, delivery_id: str) -> dict[str, Any]:
        found: dict[str, Any] = {}

        async def done() -> bool:
            found.update(await self.call("export", "GET", f"/exports/standard/deliveries/{delivery_id}"))
            return found["finished_at"] is not None

        await until(done)
        return found

    async def eventually(self, service: str, path: str, fits: Callable[[Any], bool]) -> Any:
        last: list[Any] = [None]

        async def fit() -> bool:
            try:
                last[0] = await self.call(service, "GET", path)
            except AssertionError:  # what is asked for is not known yet
                return False
            return fits(last[0])

        await until(fit)
        return last[0]


@asynccontextmanager
async def suite(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Suite]:
    clock = SystemClock()
    KeyRing.create(folder / "keys")
    urls = {name: f"unix:{folder}/{name}.sock" for name in ("ingest", "carbon", "export")}
    monkeypatch.setenv("WATTRING_DATA_DIR", str(folder))
    monkeypatch.setenv("WATTRING_SERVICE_URLS", json.dumps(urls))
    settings = CommonSettings(
        data_dir=folder, drain_s=2.0, database=DatabaseSettings(url=SecretStr(url)), service_urls=urls
    )
    setting_up = PgLogBus(settings.database, settings.bus, clock)
    await setting_up.start()
    await setting_up.ensure_topics(topics.specs(BusSettings()))
    await setting_up.stop()
    bus = PgLogBus(settings.database, settings.bus, clock)
    platform = Platform(settings, clock, bus, KeyRing.open(folder / "keys", clock))
    services = [build_ingest(platform), build_carbon(platform), build_export(platform)]
    stop = asyncio.Event()
    places = [Listener(service.app, uds=folder / f"{service.name}.sock") for service in services]
    running = asyncio.create_task(serve(services, platform, stop, places))
    db = Database(DatabaseSettings(url=SecretStr(url)), schema="export")
    await db.open()
    worker = asyncio.create_task(JobWorker(db=db, clock=clock, handlers=JOB_HANDLERS).run(lambda: None))
    found = Suite(folder, platform)

    async def ready() -> bool:
        try:
            await found.call("ingest", "GET", "/sites")
            await found.call("carbon", "GET", "/bills")
            await found.call("export", "GET", "/exports")
        except (httpx.HTTPError, AssertionError):
            return False
        return True

    try:
        await until(ready)
        yield found
    finally:
        worker.cancel()
        await asyncio.wait([worker])
        await db.close()
        stop.set()
        await running


def day(number: int) -> dict[str, str]:
    """Return start and end of a civil day, counted from the first."""
    return {"start": (DAY + timedelta(days=number)).isoformat(), "end": (DAY + timedelta(days=number + 1)).isoformat()}


def kwh(value: float, number: int, **changed: Any) -> dict[str, Any]:
    return {
        "table": 2, "item": "energy_kwh", "subject": "0440-77", **day(number), "value": value, "unit": "kWh", **changed
    }  # fmt: skip


async def test_every_record_goes_where_it_belongs_and_bad_ones_are_refused_by_themselves(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped = tmp_path / "dropped"
    dropped.mkdir()
    for name, value in {
        "WATTRING_EXPORT__UNIT_PORT": "0", "WATTRING_EXPORT__POLL_S": "0.1",
        "WATTRING_EXPORT__RECORDS__SENDERS": '["key:utility"]', "WATTRING_EXPORT__RECORDS__FOLDER": str(dropped),
        "WATTRING_EXPORT__RECORDS__SETTLE_S": "0",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    async with suite(postgres_url, tmp_path, monkeypatch) as found:
        await found.call("ingest", "POST", "/imports?kind=registry&file=registry.yaml", REGISTRY.encode())
        await _export_knows_the_registry(found)
        await _measured_days_become_a_register(found)
        await _gauges_become_reports(found)
        await _archives_become_versions(found)
        await _bills_and_emissions_reach_the_books(found)
        await _bills_of_water_and_heating_reach_the_books(found)
        await _files_are_taken_from_the_folder(found, dropped)
        await _only_who_was_named_may_deliver(found)


async def _export_knows_the_registry(found: Suite) -> None:
    at = DAY.isoformat()
    probe = {
        "table": 5,
        "item": "active_power_kw",
        "subject": "bay-1",
        "start": at,
        "end": at,
        "value": 1,
        "unit": "kW",
    }
    tries = count()

    async def known() -> bool:
        told = await found.delivered(f"probe {next(tries)}", probe)
        return bool(told["counts"] == {"taken": 1})

    await until(known)


async def _measured_days_become_a_register(found: Suite) -> None:
    first = await found.delivered("days", kwh(120.5, 0), kwh(130.25, 1), kwh(99.0, 0), kwh(1.0, 5, unit="kW"))
    assert first["counts"] == {"taken": 2, "refused": 2}
    assert [row["line"] for row in first["refused"]] == [3, 4]
    assert "once; line 1" in first["refused"][0]["problem"]
    assert "unit: expected kWh, found kW" in first["refused"][1]["problem"]
    assert "表2 用电量:unit:应为kWh" in first["refused"][1]["problem_zh"]
    span = f"from={DAY.timestamp():.0f}"
    question = f"/readings?device=utility-kwh&from={_utc(DAY - timedelta(days=1))}&to={_utc(NOW)}"
    page = await found.eventually("ingest", question, lambda answer: len(answer["items"]) == 3)
    assert [row["points"] for row in page["items"]] == [
        {"energy_active_import": register} for register in (0.0, 120.5, 250.75)
    ], span
    energy = f"/energy?site=s-1&from={_utc(DAY)}&to={_utc(DAY + timedelta(days=2))}&step=day"
    books = await found.eventually(
        "carbon", energy, lambda answer: [one["energy_kwh"] for one in answer["periods"]] == [120.5, 130.25]
    )
    assert len(books["periods"]) == 2
    again = await found.delivered("days again", kwh(120.5, 0), kwh(131.0, 1), kwh(10.0, 0, end=day(1)["end"]))
    assert again["counts"] == {"unchanged": 1, "refused": 2}
    assert "expected 130.25" in again["refused"][0]["problem"]
    assert "a whole civil period" in again["refused"][1]["problem"]
    assert (await found.delivered("days", kwh(120.5, 0), kwh(130.25, 1), kwh(99.0, 0), kwh(1.0, 5, unit="kW")))[
        "delivery_id"
    ] == first["delivery_id"]
    await found.call(
        "export", "POST", "/exports/standard/records", {"delivery": "days", "records": [kwh(1.0, 0)]}, status=409
    )
    hole = await found.delivered("a hole", kwh(1.0, 3))
    assert hole["counts"] == {"refused": 1}
    assert "a register has no holes" in hole["refused"][0]["problem"]


async def _gauges_become_reports(found: Suite) -> None:
    at = (DAY + timedelta(hours=1)).isoformat()
    common = {"table": 5, "subject": "bay-1", "start": at, "end": at}
    told = await found.delivered(
        "bay",
        {**common, "item": "voltage_v", "point": "voltage_ab", "value": 398.5, "unit": "V"},
        {**common, "item": "reactive_power_var", "value": 1500, "unit": "Var"},
        {**common, "item_zh": "电流", "value": 12.5, "unit": "A", "subject": "own-1"},
    )
    assert told["counts"] == {"taken": 2, "refused": 1}
    assert "a line of kind push" in told["refused"][0]["problem"]
    page = await found.eventually(
        "ingest", f"/readings?device=bay-1&from={_utc(DAY)}&to={_utc(NOW)}", lambda answer: len(answer["items"]) == 2
    )
    assert page["items"][-1]["points"] == {"voltage_ab": 398.5, "reactive_power_total": 1.5}
    mixed = await found.delivered("mixed", {**kwh(1.0, 0), "table": 6, "subject": "bay-1"})
    assert "a device of its own" in mixed["refused"][0]["problem"]


async def _archives_become_versions(found: Suite) -> None:
    since = (await found.call("ingest", "GET", "/sites/s-1"))["valid_from"]
    later = (datetime.fromisoformat(since) + timedelta(milliseconds=1)).isoformat()
    rows = (
        {"table": 2, "item": "address", "subject": "GZ-001", "start": later, "text": "中山五路 1 号"},
        {"table": 2, "item": "substation_capacity_kva", "subject": "s-1", "start": later, "value": 31.5, "unit": "MVA"},
        {"table": 1, "item": "social_credit_code", "subject": "某运营商", "start": later, "text": "91350100M000100Y43"},
        {"table": 1, "item": "social_credit_code", "subject": "op", "start": later, "text": "91350100M000100Y44"},
        {"table": 2, "item": "user_name", "subject": "s-1", "start": "2020-01-01T00:00:00+08:00", "text": "某公司"},
    )
    told = await found.delivered("archives", *rows)
    assert told["counts"] == {"taken": 3, "refused": 2}, told
    assert [row["line"] for row in told["refused"]] == [4, 5]
    assert "since when the site is as it is" in told["refused"][1]["problem"]
    site = await found.call("ingest", "GET", "/sites/s-1")
    assert (site["address"], site["archive"]) == ("中山五路 1 号", {"t2_substation_capacity_kva": "31500"})
    versions = (await found.call("ingest", "GET", "/sites/s-1/history"))["versions"]
    assert [one.get("address") for one in versions] == [None, "中山五路 1 号"]  # both rows are one version
    assert versions[0]["valid_to"] == versions[1]["valid_from"]
    again = await found.delivered("archives again", *rows[:3])
    assert again["counts"] == {"unchanged": 3}
    assert len((await found.call("ingest", "GET", "/sites/s-1/history"))["versions"]) == 2
    table = await found.eventually(
        "export", "/exports/standard/tables/2?site=s-1&span=day",
        lambda answer: any(one["item"] == "substation_capacity_kva" for one in answer["records"]),
    )  # fmt: skip
    [capacity] = [one for one in table["records"] if one["item"] == "substation_capacity_kva"]
    assert (capacity["value"], capacity["unit"]) == (31500.0, "kVA")


async def _bills_and_emissions_reach_the_books(found: Suite) -> None:
    month = {"start": MONTH.isoformat(), "end": MONTH_END.isoformat()}
    cost = {"table": 2, "item": "electricity_cost_cny", "subject": "0440-77", **month, "value": 812.34, "unit": "元"}
    emission = {"table": 1, "item": "emission_tco2e", "subject": "op", **month, "value": 12.5, "unit": "tCO2"}
    told = await found.delivered("month", cost, kwh(1000.5, 0, **month), emission, {**cost, "subject": "nobody's"})
    assert told["counts"] == {"taken": 3, "refused": 1}, told
    assert "energy_kwh of the same account and month" in told["refused"][0]["problem"]
    question = f"/bills?account=0440-77&from={MONTH.date()}&to={MONTH_END.date()}"
    [bill] = (await found.call("carbon", "GET", question))["items"]
    assert (float(bill["energy_kwh"]), float(bill["amount_cny"])) == (1000.5, 812.34)
    span = f"first_day={MONTH.date()}&end_day={MONTH_END.date()}"
    [fact] = await found.call("carbon", "GET", f"/energy/facts?node=op&{span}")
    assert (fact["kind"], fact["value"]) == ("reported_emission_kg_co2e", 12500.0)
    again = await found.delivered("month again", cost, kwh(1000.5, 0, **month), emission)
    assert again["counts"] == {"unchanged": 3}
    corrected = await found.delivered("corrected", {**cost, "value": 800.0}, kwh(1000.5, 0, **month))
    assert corrected["counts"] == {"taken": 2}
    [bill] = (await found.call("carbon", "GET", question))["items"]
    assert float(bill["amount_cny"]) == 800.0


async def _bills_of_water_and_heating_reach_the_books(found: Suite) -> None:
    since = (await found.call("ingest", "GET", "/sites/s-1"))["valid_from"]
    later = (datetime.fromisoformat(since) + timedelta(milliseconds=1)).isoformat()
    for table, number in ((3, "W-77"), (4, "H-77")):
        account = {"table": table, "item": "account_number", "subject": "s-1", "start": later, "text": number}
        assert (await found.delivered(f"account {number}", account))["counts"] == {"taken": 1}
        later = (datetime.fromisoformat(later) + timedelta(milliseconds=1)).isoformat()
    await found.eventually("carbon", "/bills/media/heat/accounts", lambda answer: len(answer["items"]) == 1)
    month = {"start": MONTH.isoformat(), "end": MONTH_END.isoformat()}
    first, after = MONTH_END.replace(year=MONTH_END.year - 1, month=1), MONTH_END.replace(month=1)
    year = {"start": first.isoformat(), "end": after.isoformat()}
    fee = {"table": 3, "item_zh": "水费", "subject": "W-77", **month, "value": 412.5, "unit": "元"}
    water = {"table": 3, "item": "water_t", "subject": "W-77", **month, "value": 120.25, "unit": "m3"}
    heating = {"table": 4, "item": "heating_cost_cny", "subject": "GZ-001", **year, "value": 9000, "unit": "CNY"}
    rows = [fee, water, heating, {**fee, "subject": "W-99"}, {**heating, **month}]
    told = await found.delivered("fees", *rows)
    assert told["counts"] == {"taken": 3, "refused": 2}, told
    assert "a whole civil period: year" in told["refused"][1]["problem"]
    assert "the water account of a site, found 'W-99'" in told["refused"][0]["problem"]
    question = f"/bills/media?site=s-1&from={first.date()}&to={MONTH_END.date()}"
    bills = (await found.call("carbon", "GET", question))["items"]
    assert [(one["medium"], one["account_number"], one["quantity"], one["unit"], one["number"]) for one in bills] == [
        ("heat", "H-77", None, None, f"{first:%Y}-access"), ("water", "W-77", "120.25", "m3", f"{MONTH:%Y%m}-access"),
    ]  # fmt: skip
    assert (await found.delivered("fees again", *rows[:3]))["counts"] == {"unchanged": 3}
    assert (await found.delivered("corrected fee", {**fee, "value": 400.5}))["counts"] == {"taken": 1}
    versions = (await found.call("carbon", "GET", f"/bills/media/water/W-77/{MONTH:%Y%m}-access"))["items"]
    assert [(one["version"], one["quantity"], one["amount_cny"]) for one in versions] == [
        (1, "120.25", "412.5"), (2, "120.25", "400.5"),
    ]  # fmt: skip
    at = (MONTH_END + timedelta(days=1)).isoformat().replace("+", "%2B")
    for table, span, key, value in ((3, "month", "water_cost_cny", 400.5), (4, "year", "heating_cost_cny", 9000.0)):
        path = f"/exports/standard/tables/{table}?site=s-1&span={span}&at={at}"
        records = (await found.call("export", "GET", path))["records"]
        assert [(one["value"], one["unit"]) for one in records if one["item"] == key] == [(value, "CNY")]


async def _files_are_taken_from_the_folder(found: Suite, dropped: Path) -> None:
    (dropped / "bad.csv").write_text("a,b\n1,2\n")
    lines = [
        "table,item_zh,subject,start,end,value,unit",
        "5,有功功率,bay-1,{0},{0},3.5,kW",
        "5,有功功率,bay-1,soon,,1,kW",
    ]
    at = (DAY + timedelta(hours=2)).isoformat()
    draft = dropped / "bay.tmp"
    draft.write_bytes("\n".join(lines).format(at).encode("gb18030"))
    draft.rename(dropped / "bay.csv")
    results: list[Path] = []

    async def told() -> bool:
        results[:] = [
            one for one in _files(dropped) if one.name.endswith(("-bay.csv.result.csv", "bad.csv.result.csv"))
        ]
        return len(results) == 2

    await until(told)
    bad, taken = results
    rows = list(csv.DictReader(taken.read_text(encoding="utf-8-sig").splitlines()))
    assert [(row["line"], row["state"]) for row in rows] == [("2", "taken"), ("3", "refused")]
    assert "start: expected a time with an offset" in rows[1]["problem"]
    assert "headings with table and subject" in bad.read_text(encoding="utf-8-sig")
    assert [one.parent.name for one in _files(dropped)] == ["bad", "bad", "taken", "taken"]


async def _only_who_was_named_may_deliver(found: Suite) -> None:
    body = {"delivery": "by key", "records": [kwh(1.0, 9)]}
    key: dict[str, Any] = {"kind": "key", "scopes": ["export:write"]}
    path = "/exports/standard/records"
    assert (await found.call("export", "POST", path, body, subject="utility", **key))["sender"] == "key:utility"
    await found.call("export", "POST", path, body, subject="stranger", **key, status=403)
    await found.call("export", "POST", path, body, subject="utility", **key, sites=["s-1"], status=403)
    empty: dict[str, Any] = {"delivery": "x", "records": []}
    await found.call("export", "POST", path, empty, status=422)


def _files(folder: Path) -> list[Path]:
    return sorted(one for one in folder.rglob("*") if one.is_file())


def _utc(at: datetime) -> str:
    return at.astimezone(CIVIL_ZONE).isoformat().replace("+", "%2B")
