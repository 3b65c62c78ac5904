"""Lines of several protocols through a whole ingest, and a DL/T 645 meter that this project did not write."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from libs.common.bus import topics
from libs.common.clock import SystemClock
from libs.common.contracts.control import CommandAction
from libs.common.contracts.registry import Line, LineKind
from libs.common.profiles import ProfileCatalogue
from libs.fieldsim.faults import parse_order
from libs.fieldsim.field import Field
from libs.fieldsim.fieldfile import FieldFile
from services.ingest.drivers.dlt645 import Dlt645Device
from services.ingest.drivers.factory import open_line
from services.ingest.drivers.port import Address, DeviceRefused
from services.ingest.settings import PollingSettings
from tests.conftest import ROOT
from tests.integration.ingest.conftest import SITE, RunningIngest, quick, running, until
from tests.integration.ingest.test_ingest_gaps import put_gap, settled_gap
from tests.integration.ingest.test_ingest_switching import door_load, ended, order, send, stages
from tests.unit.ingest.ingest_fakes import MEANS

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

PASSWORD, OPERATOR = "731946", "20"
HERE: dict[str, Any] = {"site": "site-1", "line": "line-1"}
DEVICES: dict[str, dict[str, Any]] = {
    "meter-1": {"address": "1234", "profile": "dlt645_2007_meter", "loads": ["room"], "ct_ratio": 20},
    "breaker-1": {
        "address": "000000005678", "profile": "dlt645_2007_breaker", "loads": ["aau"], "password": PASSWORD,
        "motor_delay_s": 0.05,
    },
    "water-1": {"address": "112233445566", "profile": "cjt188_water_meter", "loads": ["room"]},
    "rectifier-1": {"address": "1", "profile": "yd1363_rectifier", "loads": ["aau"], "counts": {"module": 2}},
    "branch-1": {"unit": 7, "profile": "eastron_sdm630", "loads": ["aau"]},
}  # fmt: skip
KINDS = {
    "meter-1": "meter_3p", "breaker-1": "breaker", "water-1": "water_meter", "rectifier-1": "rectifier",
    "branch-1": "meter_3p",
}  # fmt: skip
DRIVERS = {
    "meter-1": "dlt645", "breaker-1": "dlt645", "water-1": "cjt188", "rectifier-1": "yd1363", "branch-1": "modbus",
}  # fmt: skip


@pytest.fixture
async def field() -> AsyncIterator[Field]:
    """A room whose devices share one line behind a converter."""
    file = FieldFile.model_validate(
        {
            "schema": "field/1",
            "loads": [{"id": "room", "constant_kw": 6.0, "gain": 0.0}, {"id": "aau", "constant_kw": 1.2, "gain": 0.0}],
            "lines": [{"id": "line-1", "framing": "stream"}],
            "devices": [{"id": name, **HERE, **device} for name, device in DEVICES.items()],
        }
    )
    running = Field(file, clock=SystemClock(), refresh_s=0.05)
    await running.start()
    yield running
    await running.stop()


async def create_room(ingest: RunningIngest, field: Field, folder: Path, *, password: str = PASSWORD) -> None:
    """Write down the room, with the secret of its breaker in a file of its own."""
    secret = folder / "secrets" / "room"
    secret.parent.mkdir()
    secret.touch(0o600)
    secret.write_text(f"password={password}\noperator={OPERATOR}\n")
    await ingest.create("/api/v1/sites/site-1", SITE)
    await ingest.create(
        "/api/v1/lines/line-1",
        {"name": "RS485", "kind": "rtu_over_tcp", "endpoint": field.endpoints["line-1"], "credentials_ref": "room"},
    )
    for name, device in DEVICES.items():
        await ingest.create(
            f"/api/v1/devices/{name}",
            {"name": name, "kind": KINDS[name], **HERE, "profile": device["profile"],
             "address": str(device.get("address", device.get("unit"))), "ct_ratio": device.get("ct_ratio", 1)},
        )  # fmt: skip
    await ingest.create("/api/v1/circuits/circuit-1", {"name": "AAU", "level": 3, "role": "load", "site": "site-1"})
    await ingest.create(
        "/api/v1/bindings/binding-1", {"name": "own meter", "device": "breaker-1", "circuit": "circuit-1"}
    )
    await ingest.create(
        "/api/v1/loads/load-1",
        {"name": "AAU 1", "kind": "aau", "site": "site-1", "sector": "1", "breaker": {"device": "breaker-1"},
         "meter": "circuit-1"},
    )  # fmt: skip
    await until(lambda: door_load(ingest, breaker_state=1), "the breaker read closed", within_s=40)


async def latest(ingest: RunningIngest) -> dict[str, Any]:
    items = (await ingest.get("/api/v1/readings/latest", site="site-1"))["items"]
    return {item["device_id"]: item["points"] for item in items}


async def test_room_of_four_protocols_is_read_and_its_breaker_switched(
    ingest: RunningIngest, field: Field, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await create_room(ingest, field, tmp_path)

    async def all_read() -> Any:
        found = await latest(ingest)
        return found if found.keys() == DEVICES.keys() else None

    points = await until(all_read, "a reading of every device", within_s=40)
    now_s = datetime.now(UTC).timestamp()
    meter = field.devices["meter-1"].shown(now_s)
    assert points["meter-1"]["active_power_total"] == pytest.approx(6.0, abs=0.01)
    assert points["meter-1"]["energy_active_import"] == pytest.approx(meter["energy_active_import"], abs=0.05)
    assert points["breaker-1"]["active_power_total"] == pytest.approx(1.2, abs=0.001)
    assert points["branch-1"]["active_power_total"] == pytest.approx(1.2, abs=0.001)
    assert points["water-1"]["valve_state"] == 1
    assert points["rectifier-1"]["voltage_dc"] == 53.5
    readings = [m for m in await ingest.messages(topics.READINGS) if "device_id" in m]
    assert {m["device_id"]: m["driver"] for m in readings} == DRIVERS

    off = await send(ingest, order(ingest, CommandAction.OPEN))
    proof = await ended(ingest, off, "verified")
    assert [m["stage"] for m in await stages(ingest, off)] == ["accepted", "executed", "verified"]
    assert (proof["evidence"]["feedback_value"], proof["evidence"]["meter_power_kw"]) == (0, 0)
    await until(lambda: has(ingest, "branch-1", active_power_total=0), "the branch meter without power", within_s=40)
    on = await send(ingest, order(ingest, CommandAction.CLOSE))
    assert (await ended(ingest, on, "verified"))["evidence"]["feedback_value"] == 1
    controls = [event.facts for event in field.events.after() if event.what == "control"]
    assert [(facts["kind"], facts["refused"]) for facts in controls] == [("1A", None), ("1C", None)]
    assert PASSWORD not in caplog.text
    assert PASSWORD[::-1] not in caplog.text


async def has(ingest: RunningIngest, device_id: str, **points: float) -> bool:
    found = (await latest(ingest)).get(device_id, {})
    return all(found.get(name) == value for name, value in points.items())


async def test_wrong_password_is_told_and_nothing_moves(ingest: RunningIngest, field: Field, tmp_path: Path) -> None:
    await create_room(ingest, field, tmp_path, password="111111")
    off = await send(ingest, order(ingest, CommandAction.OPEN))
    result = await ended(ingest, off, "failed")
    assert result["evidence"]["feedback_value"] == 1
    assert "111111" not in json.dumps(result)
    assert field.devices["breaker-1"].values(datetime.now(UTC).timestamp())["breaker_state"] == 1


async def test_alarm_of_the_rectifier_begins_and_ends(ingest: RunningIngest, field: Field, tmp_path: Path) -> None:
    await create_room(ingest, field, tmp_path)
    placed = field.faults.place(
        "rectifier-1", parse_order("alarm:field=module[2].fault"), datetime.now(UTC).timestamp()
    )

    async def told() -> list[Any]:
        events = await ingest.messages(topics.DEVICE_EVENTS)
        return [e for e in events if e["device_id"] == "rectifier-1" and "module_2" in e["code"]]

    async def begun() -> Any:
        return next((e for e in await told() if e["phase"] == "begin"), None)

    async def over() -> Any:
        last = (await told())[-1]
        return last if last["phase"] == "end" else None

    event = await until(begun, "the alarm begins", within_s=40)
    assert (event["site_id"], event["text"]) == ("site-1", "Rectifier module 2: fault")
    field.faults.withdraw(placed.fault_id)
    assert (await until(over, "the alarm ends", within_s=40))["code"] == event["code"]


async def test_gap_of_a_meter_is_filled_out_of_its_load_records_between_polls(
    field: Field, tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.ingest.worker.backfill.LOOK_S", 0.2)
    quick(monkeypatch)
    # Half a second, as elsewhere here, leaves the line no time to spare.
    monkeypatch.setenv("WATTRING_INGEST__POLLING__INTERVAL_S", "10")
    async with running(postgres_url, tmp_path) as ingest:
        await create_room(ingest, field, tmp_path)
        await fill_gap(ingest, field, postgres_url)


async def fill_gap(ingest: RunningIngest, field: Field, postgres_url: str) -> None:
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    quarter = now - timedelta(minutes=now.minute % 15)
    began, ended_at = quarter - timedelta(hours=3), quarter - timedelta(hours=1)
    await put_gap(postgres_url, "meter-1", "line-1", began, ended_at)
    gap = await until(lambda: settled_gap(ingest), "the gap to be settled", within_s=60)
    assert (gap["state"], gap["reason"], gap["recovered"]) == ("filled", "memory", 7)
    late = [one for one in await ingest.messages(topics.BACKFILL) if one["device_id"] == "meter-1"]
    times = [datetime.fromisoformat(one["source_time"]) for one in late]
    assert times == [began + number * timedelta(minutes=15) for number in range(1, 8)]
    for report, at in zip(late, times, strict=True):
        shown = field.devices["meter-1"].shown(at.timestamp())["energy_active_import"]
        assert report["points"]["energy_active_import"] == pytest.approx(shown, abs=0.05)
    live = [one for one in await ingest.messages(topics.READINGS) if one.get("device_id") == "meter-1"]
    assert {one["source_time"] for one in live}.isdisjoint(one["source_time"] for one in late)


async def test_memory_of_a_meter_is_read_from_where_it_is_wanted(field: Field) -> None:
    line, meter = opened(field.servers["line-1"].port, "1234")
    until_ = datetime.now(UTC)
    since = until_ - timedelta(hours=2)
    found = [report async for report in meter.read_archive(["energy_active_import", "voltage_a"], since, until_)]
    await line.close()
    times = [report.source_time for report in found if report.raw and report.source_time is not None]
    assert len(times) == 8
    assert times == [times[0] + n * timedelta(minutes=15) for n in range(8)]
    assert since <= times[0] < since + timedelta(minutes=15)
    for report in found:
        if report.source_time is not None:
            shown = field.devices["meter-1"].shown(report.source_time.timestamp())
            for name, digits in (("energy_active_import", 100), ("voltage_a", 10)):
                register = shown[name]
                assert register is not None
                assert report.raw[name] == round(register * digits)


@asynccontextmanager
async def foreign_meter(address: str, values: dict[str, dict[int, float]]) -> AsyncIterator[int]:
    """Run a meter of the library dlt645 and give its port; the address is that of the wire, lowest pair first."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, ROOT / "tests" / "peers" / "dlt645_meter.py", address, json.dumps(values),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            while not (line := await process.stdout.readline()).startswith(b"port "):
                assert line, "the meter ended"
        yield int(line.split()[1])
    finally:
        process.kill()
        await process.wait()


def opened(port: int, address: str, profile: str = "dlt645_2007_meter") -> tuple[Any, Dlt645Device]:
    line = Line(
        id="line-1", name="Line", valid_from=datetime(2026, 1, 1, tzinfo=UTC), version=1, changed_by="user:test",
        kind=LineKind.RTU_OVER_TCP, endpoint=f"127.0.0.1:{port}", settings={"timeout_s": 5},
    )  # fmt: skip
    opened_line = open_line(line, SystemClock(), PollingSettings(), MEANS)
    session = opened_line.session(Address("meter-1", address, ProfileCatalogue.load().get(profile)))
    assert isinstance(session, Dlt645Device)
    return opened_line, session


async def test_foreign_meter_is_read() -> None:
    values = {
        "0": {0x00010000: 1234.56, 0x00020000: 7.89},
        "2": {0x02010100: 230.1, 0x02020100: 5.123, 0x02030000: 1.2345, 0x02030100: -0.5, 0x02800002: 50.01},
    }
    async with foreign_meter("341200000000", values) as port:
        line, meter = opened(port, "1234")
        found = await meter.read()
        again = await meter.read()
        await line.close()
    raw = found.raw
    assert (raw["energy_active_import"], raw["energy_active_export"]) == (123456, 789)
    assert (raw["voltage_a"], raw["current_a"], raw["active_power_total"]) == (2301, 5123, 12345)
    assert (raw["active_power_a"], raw["frequency"]) == (-5000, 5001)
    assert again.raw["voltage_a"] == 2301


async def test_foreign_meter_tells_its_address_and_refuses_who_asks_for_another() -> None:
    async with foreign_meter("341200000000", {}) as port:
        line, nameless = opened(port, "AAAAAAAAAAAA")
        assert await nameless.read_address() == "000000001234"
        await line.close()
        line, other = opened(port, "9999")  # where a real meter would be silent
        with pytest.raises(DeviceRefused):
            await other.read_points(["voltage_a"])
        await line.close()
