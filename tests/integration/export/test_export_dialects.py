"""Units of other dialects beside each other: the whole way from LOGIN to alarms and polls, workbooks, own paths."""

import asyncio
import html
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import orjson
import pytest

from libs.common.bus import envelope, topics
from libs.common.client import http_client
from libs.common.clock import CIVIL_ZONE, SystemClock
from libs.common.contracts.registry import EntityKind, EntityState, Site, SiteRecord
from libs.common.workbook import Sheet, SheetRow, read_workbook, write_workbook
from libs.fieldsim.sc import draft
from libs.fieldsim.sc.server import Policy, SupervisionCentre
from libs.fieldsim.sc.spec import DRAFT
from tests.integration.export.conftest import Answer, Export, Heard, Kit, ScriptedCentre, ack

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

ENVELOPE = "http://schemas.xmlsoap.org/soap/envelope/"
SU = "44010600000000001"
DEVICE = "2020001"
FAILURE = "<FailureCode/><FailureCause/>"


def mapping(device: str = DEVICE, signal: str = "230200050010", value: str = "230200050020") -> dict[str, Any]:
    def row(kind: str, source: str, point_id: str, type_: str, name: str) -> dict[str, str]:
        return {"device_id": "m-1", "kind": kind, "source": source, "sc_device_id": device, "point_id": point_id,
                "type": type_, "name": name}  # fmt: skip

    return {
        "devices": [{"device_id": device, "name": "1号进线柜"}],
        "points": [row("point", "voltage_a", value, "AI", "A相电压"),
                   row("signal", "0s16003001", signal, "DI", "线电压Uab过低")],
    }  # fmt: skip


async def connect(
    export: Export,
    centre: ScriptedCentre | SupervisionCentre,
    dialect: str,
    unit: str,
    table: dict[str, Any],
    **options: Any,
) -> None:
    quick = {"timeout_s": 5.0, "login_interval_s": 0.3, "retry_first_s": 0.1, "retry_cap_s": 0.3, **options}
    body = {"id": dialect.lower(), "name": dialect, "dialect": dialect, "url": centre.url, "options": quick,
            "account": {"username": "u", "password": "p"}}  # fmt: skip
    await export.api("POST", "/sc-connections", body)
    await export.api("PUT", f"/sc-connections/{dialect.lower()}/units/{unit}", {"name": "一号站", "sites": ["s-1"]})
    await export.api("PUT", f"/mappings/{dialect.lower()}/{unit}", table)


async def ask(export: Export, path: str, name: str, code: int | None, info: str) -> tuple[str, ET.Element]:
    """Return the namespace that answered, and the answer."""
    kind = f"<Name>{name}</Name>" + ("" if code is None else f"<Code>{code}</Code>")
    payload = f"<Request><PK_Type>{kind}</PK_Type><Info>{info}</Info></Request>"
    body = (
        f'<S:Envelope xmlns:S="{ENVELOPE}"><S:Body><a:invoke xmlns:a="urn:any">'
        f"<xmlData>{html.escape(payload)}</xmlData></a:invoke></S:Body></S:Envelope>"
    )
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        answer = await http.post(f"http://127.0.0.1:{export.unit_port}/services/{path}", content=body.encode())
    assert answer.status_code == 200, answer.text
    found = ET.fromstring(answer.text).find(f"{{{ENVELOPE}}}Body")
    assert found is not None
    return found[0].tag.split("}")[0][1:], ET.fromstring(found[0].findtext("invokeReturn", "").encode())


async def test_a_unit_of_dialect_y_lives_from_login_to_alarms(export: Export, centre: ScriptedCentre, kit: Kit) -> None:
    unready = iter(["0"])

    async def answers(heard: Heard) -> Answer:
        result = next(unready, "1") if heard.name == "SUREADY" else "1"
        if heard.name == "ASK_SCHEMECONFIG":
            return b"not a word of SOAP"  # not every centre has the files; the unit goes on without
        return ack(heard.name, int(heard.code), f"<SUID>{SU}</SUID><Result>{result}</Result>{FAILURE}")

    centre.script = answers
    await connect(export, centre, "Y", SU, mapping())

    async def phase() -> bool:
        return bool((await export.api("GET", "/sc-connections/y"))["units"][0]["phase"] == "registered")

    await kit.until(phase)
    calls = [each.name for each in centre.heard]
    # The first time the centre does not take SUREADY: the unit is refused, and begins again with LOGIN.
    assert calls[:6] == ["LOGIN", "ASK_SCHEMECONFIG", "SUREADY"] * 2
    assert centre.heard[0].info.findtext("SUPort") == str(export.unit_port)

    await export.publish(kit.begin("a-1"), kit.begin("a-2", signal="0s16001001"))

    async def sent(count: int) -> bool:
        return len([alarm for heard in centre.named("SEND_ALARM") for alarm in heard.alarms()]) >= count

    await kit.until(lambda: sent(1))
    _, active = await ask(export, "SUService", "GET_ACTIVEALARM", 603, f"<SUID>{SU}</SUID>")
    assert active.findtext("PK_Type/Code") == "604"
    [listed] = [{child.tag: child.text for child in alarm} for alarm in active.iter("TAlarm")]
    [begun] = [alarm for heard in centre.named("SEND_ALARM") for alarm in heard.alarms()]
    assert {name: text or "" for name, text in listed.items()} == begun
    assert begun["StartTime"] == "2026-03-08 14:02:11"
    assert (begun["AlarmFlag"], begun["EndTime"], begun["TriggerVal"]) == ("BEGIN", "", "152.3")
    assert begun["AlarmDesc"] == "线电压Uab过低"
    assert begun["AlarmFriDesc"] == "1号进线柜 线电压Uab过低(152.3V)"

    await export.publish(kit.end("a-1"))
    await kit.until(lambda: sent(2))
    ended = centre.named("SEND_ALARM")[-1].alarms()[0]
    assert (ended["SerialNo"], ended["StartTime"]) == (begun["SerialNo"], begun["StartTime"])
    assert (ended["AlarmFlag"], ended["EndTime"]) == ("END", "2026-03-08 14:05:00")

    await export.publish(kit.reading({"voltage_a": 228.4}))
    everything = f'<SUID>{SU}</SUID><DeviceList><Device DeviceID="9999999"/></DeviceList>'

    async def polled() -> bool:
        _, answer = await ask(export, "SUService", "GET_DATA", 501, everything)
        return {each.attrib["SPID"]: each.attrib["MeasuredVal"] for each in answer.iter("TSemaphore")} == {
            "230200050020": "228.4", "230200050010": "0"
        }  # fmt: skip

    await kit.until(polled)
    _, status = await ask(export, "SUService", "GET_SUINFO", 1001, f"<SUID>{SU}</SUID>")
    assert status.findtext("Info/Result") == "1"
    assert status.findtext("Info/TSUStatus/SUDateTime")
    _, no = await ask(export, "SUService", "SET_SPCONFIGOPTION", 403, f"<SUID>{SU}</SUID>")
    assert [child.tag for child in no[1]] == ["SUID", "Result", "FailureCode", "FailureCause", "DeviceList"]
    assert no.findtext("Info/Result") == "0"
    _, history = await ask(export, "SUService", "ASK_TODAYHISDATA", 503, everything)
    assert history.findtext("Info/Result") == "1"

    await export.api("DELETE", f"/sc-connections/y/units/{SU}")  # Y has no LOGOUT: it goes without a word

    async def gone() -> bool:
        return not (await export.api("GET", "/sc-connections/y"))["units"]

    await kit.until(gone)
    assert not centre.named("LOGOUT")


async def test_a_strict_centre_of_dialect_y_finds_nothing_to_say(export: Export, kit: Kit) -> None:
    unit_url = f"http://127.0.0.1:{export.unit_port}/services/SUService"
    policy = Policy(spec=DRAFT, strict=True, info_every_s=1.0, data_every_s=1.0, unit_urls={"*": unit_url})
    centre = SupervisionCentre(clock=SystemClock(), policy=policy)
    await centre.start()
    polls = asyncio.create_task(centre.run(), name="centre")
    try:
        await connect(export, centre, "Y", SU, mapping(), login_interval_s=180)
        now = datetime.now(UTC)
        began, over = now - timedelta(seconds=20), now - timedelta(seconds=5)
        await export.publish(kit.reading({"voltage_a": 152.3}))
        await export.publish(kit.begin("a-1", began_at=began), kit.end("a-1", began_at=began, ended_at=over))

        async def all_seen() -> bool:
            names = {entry["name"] for entry in centre.journal.after()}
            delivered = await export.deliveries(state="delivered")
            return len(delivered) == 2 and {"SUREADY", "GET_DATA", "GET_SUINFO", "SET_TIME"} <= names

        await kit.until(all_seen)
        for name in ("ASK_TODAYHISDATA", "GET_DATA"):
            await centre.call(SU, name, draft.get_data(SU, name=name))
        for name in ("GET_ACTIVEALARM", "GET_SUFTP", "SET_SUREBOOT"):
            await centre.call(SU, name, draft.about(name, SU))
        options = await centre.call(SU, "GET_SPCONFIGOPTION", draft.get_options(SU))
        chosen = [
            await centre.call(SU, "SET_SPCONFIGOPTION", draft.set_option(SU, DEVICE, "230200050010", option))
            for option in ("1", "2")
        ]
    finally:
        polls.cancel()
        await asyncio.wait([polls])
        await centre.stop()
    assert {one["OptionID"] for device in options.facts()["devices"] for one in device["values"]} == {"1"}  # type: ignore[attr-defined]
    assert [each.result for each in chosen] == ["1", "0"], "a point has one option"
    # What is refused carries no FailureCode: the draft's list of them is not public, and none is made up.
    told: list[Any] = list(centre.journal.after(findings_only=True))
    objections = [
        (entry["name"], finding)
        for entry in told
        for finding in entry["findings"]
        if (finding["rule"], finding["severity"]) != ("failure", "unconfirmed")
    ]
    assert objections == []


async def test_dialects_share_a_port_and_a_site_says_where_it_reports(
    export: Export, centre: ScriptedCentre, kit: Kit
) -> None:
    async def answers(heard: Heard) -> Answer:
        # This centre has forgotten the unit after its first LOGIN.
        result = "2" if heard.name == "SEND_ALARM" and len(other.named("LOGIN")) < 2 else "1"
        kind = f"<PK_Type><Name>{heard.name}_ACK</Name></PK_Type>"
        return f"<Response>{kind}<Info><Result>{result}</Result><FailureCause>NULL</FailureCause></Info></Response>"

    # A site that says that it is local only: alarms of its devices are told to nobody.
    local = Site.model_validate({"id": "s-2", "name": "local", "code": "L", "kind": "base_station",
                                 "valid_from": kit.began, "version": 1, "changed_by": "test"})  # fmt: skip
    record = SiteRecord(kind=EntityKind.SITE, id=local.id, state=EntityState.ACTIVE, versions=(local,))
    news = envelope.message(topics.REGISTRY, local.id, record, source="test", time=kit.began)
    await export.bus.publish([news], timeout_s=5)
    other = ScriptedCentre(script=answers, namespace="http://LSCService.chinamobile.com")
    await other.start()
    try:
        await export.connect(centre)
        await export.api("PUT", f"/sc-connections/gd/units/{kit.fsu}", {"name": "一号站", "sites": ["s-1", "s-2"]})

        async def routed() -> bool:
            found = await export.api("GET", f"/mappings/gd/{kit.fsu}/gaps")
            return ("not_routed", "s-2") in {(each["gap"], each["subject"]) for each in found}

        await kit.until(routed)
        await connect(export, other, "C", "CFSU1", mapping("00001", "092004", "092301"))
        await export.publish(kit.begin("a-0", site_id="s-2"), kit.begin("a-1"))

        async def told() -> bool:
            delivered = await export.deliveries(state="delivered")
            return {each["connection_id"] for each in delivered} == {"gd", "c"}

        await kit.until(told)  # told to log in again, the unit of C did, and sent the alarm once more
        assert len(other.named("LOGIN")) == 2
        serials = {alarm["SerialNo"] for heard in other.named("SEND_ALARM") for alarm in heard.alarms()}
        assert len(serials) == 1
        assert len(centre.acknowledged) == 1, "the local site's alarm stays here"
    finally:
        await other.stop()

    # One path for both: each is answered in its own dialect, found by its id.
    ids = f"<FsuId>{kit.fsu}</FsuId><FsuCode>{kit.fsu}</FsuCode>"
    space, tower = await ask(export, "FSUService", "GET_FSUINFO", 1701, ids)
    assert (space, tower.findtext("PK_Type/Code")) == ("http://FSUService.chinatowercom.com", "1702")
    space, mobile = await ask(export, "FSUService", "GET_FSUINFO", None, "<FSUID>CFSU1</FSUID>")
    assert (space, mobile.find("PK_Type/Code")) == ("http://FSUService.chinamobile.com", None)
    assert mobile.findtext("Info/FailureCause") == "NULL"
    every = "<FSUID>CFSU1</FSUID><Interval>60</Interval>"
    _, interval = await ask(export, "FSUService", "UPDATE_FSUINFO_INTERVAL", None, every)
    assert interval.findtext("Info/Result") == "1"
    # A unit's own path: what names no unit is meant for it, what names another is not.
    parts = {"Years": 2020, "Month": 1, "Day": 1, "Hour": 0, "Minute": 0, "Second": 0}
    time = f"<Time>{''.join(f'<{name}>{part}</{name}>' for name, part in parts.items())}</Time>"
    _, check = await ask(export, f"FSUService/{kit.fsu}", "TIME_CHECK", 1301, time)
    assert check.findtext("Info/FsuId") == kit.fsu
    assert check.findtext("Info/Result") == "0"
    skews = {each["id"]: each["units"][0]["clock_skew_s"] for each in await export.api("GET", "/sc-connections")}
    assert skews["gd"] < -1e8
    assert skews["c"] is None
    _, wrong = await ask(export, "FSUService/CFSU1", "GET_FSUINFO", 1701, ids)
    assert wrong.findtext("Info/Result") == "0"


async def test_mappings_travel_as_a_workbook_and_are_checked(export: Export, centre: ScriptedCentre, kit: Kit) -> None:
    await export.connect(centre)
    token = export.keys.sign_token("gateway", audience="export", subject="wang", kind="user", scopes=["export:*"])
    async with http_client(f"http://127.0.0.1:{export.api_port}", "export") as http:
        headers = {"authorization": f"Bearer {token}"}
        book = (await http.get("/api/v1/mappings/gd.xlsx", headers=headers, timeout=30)).content
        stored = await export.api("GET", f"/mappings/gd/{kit.fsu}")
        done = await http.put("/api/v1/mappings/gd.xlsx", headers=headers, content=book, timeout=30)
        assert done.json() == [{"connection_id": "gd", "unit_id": kit.fsu, "devices": 1, "points": 4}]
        assert await export.api("GET", f"/mappings/gd/{kit.fsu}") == stored

        sheets = {sheet.title: sheet for sheet in read_workbook(book, "book")}
        points = [SheetRow(row.number, dict(row.cells)) for row in sheets["points"].rows]
        points[1] = SheetRow(points[1].number, {**points[1].cells, "point_id": 416118001, "type": "XX"})
        changed = write_workbook([sheets["devices"], Sheet("points", sheets["points"].columns, points)])
        refused = await http.put("/api/v1/mappings/gd.xlsx", headers=headers, content=changed, timeout=30)
        assert refused.status_code == 400
        assert "points.type" in refused.text
        points[1] = SheetRow(points[1].number, {**points[1].cells, "type": "AI"})
        changed = write_workbook([sheets["devices"], Sheet("points", sheets["points"].columns, points)])
        refused = await http.put("/api/v1/mappings/gd.xlsx", headers=headers, content=changed, timeout=30)
        assert refused.status_code == 400
        assert f"3: points.point_id ({kit.fsu})" in refused.text
    assert await export.api("GET", f"/mappings/gd/{kit.fsu}") == stored

    gaps = {(each["gap"], each["subject"]) for each in await export.api("GET", f"/mappings/gd/{kit.fsu}/gaps")}
    assert gaps == {("unknown_site", "s-1"), ("unknown_device", "m-1")}
    listed = {each["name"]: each for each in await export.api("GET", "/sc-connections/dialects")}
    assert set(listed) == {"T", "Y", "M", "C", "U"}
    marked = [each["name"] for each in listed["Y"]["commands"] if each["evidence"] == "reconstructed"]
    assert "GET_DATA" in marked
    assert all(each["reason"] for each in listed["Y"]["commands"])
    unknown = {"id": "x", "name": "x", "dialect": "Z", "url": centre.url}
    answer = await export.api("POST", "/sc-connections", unknown, status=400)
    assert "known are C, M, T, U, Y" in answer["detail"]


async def test_a_variant_of_the_operator_s_own_is_spoken(
    export: Export, centre: ScriptedCentre, kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "variants"
    folder.mkdir()
    text = "name: T-GD\ntitle: own\nbase: T\ncommands:\n  LOGIN:\n    request:\n      change:\n"
    text += '        - {after: Version, add: [{Internet_mode: "=1"}]}\n'
    (folder / "gd.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setenv("WATTRING_EXPORT__DIALECTS_DIR", str(folder))
    await export.stop()
    await export.start()
    await export.api("POST", "/sc-connections", {"id": "gd", "name": "g", "dialect": "T-GD", "url": centre.url})
    await export.api("PUT", f"/sc-connections/gd/units/{kit.fsu}", {"name": "一号站", "sites": ["s-1"]})
    await export.api("PUT", f"/mappings/gd/{kit.fsu}", kit.mapping())

    async def known() -> bool:
        return bool(centre.named("LOGIN"))

    await kit.until(known)
    assert centre.named("LOGIN")[0].info.findtext("Internet_mode") == "1"


def signals(heard: Heard) -> list[Any]:
    """Return the values that a unit of dialect U has pushed."""
    return list(heard.info.iter("Signal"))


@pytest.mark.sql
async def test_units_of_u_push_their_values_and_what_the_centre_has_missed(
    export: Export, postgres_url: str, centre: ScriptedCentre, kit: Kit
) -> None:
    centre.namespace = "http://SUService.chinaunicom.com"

    async def answers(heard: Heard) -> Answer:
        return ack(heard.name, int(heard.code), "<Result>1</Result>")

    centre.script = answers
    await connect(export, centre, "U", "4401", mapping("41901", "10A", "101"), push_values_s=1)

    async def told(name: str) -> bool:
        return bool(centre.named(name))

    async def told_values() -> bool:
        await export.publish(kit.reading({"voltage_a": 228.4}))  # once the devices of the mapping are followed
        return await told("SEND_AIDATA")

    await kit.until(lambda: told("SEND_DIDATA"))
    await kit.until(told_values)
    pushed = centre.named("SEND_AIDATA")[-1]
    assert (pushed.code, pushed.info.findtext("SUId")) == ("203", "4401")
    [signal] = pushed.info.iter("Signal")
    assert (signal.get("Id"), signal.text) == ("101", "228.4")
    [signal] = centre.named("SEND_DIDATA")[-1].info.iter("Signal")
    assert (signal.get("Id"), signal.text) == ("10A", "0")

    # Told nothing for three hours, it is told what was sampled in them.
    missed_at = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    database = await asyncpg.connect(postgres_url)
    try:
        points = orjson.dumps({"voltage_a": [221.5, missed_at.timestamp() + 60]}).decode()
        await database.execute(
            "insert into export.hourly_samples (device_id, hour, points) values ('m-1', $1, $2)", missed_at, points
        )

        async def told_of_before() -> bool:  # a push that is under way writes that it was told just now
            await database.execute("update export.units set values_told_at = now() - interval '3 hours'")
            return "221.5" in [signal.text for heard in centre.named("SEND_HISAIDATA") for signal in signals(heard)]

        await kit.until(told_of_before)
        # So are the changes of its signals, each with its own time.
        began, ended = (missed_at + timedelta(minutes=minutes) for minutes in (10, 25))
        await export.publish(kit.begin("a-0", began_at=began), kit.end("a-0", began_at=began, ended_at=ended))

        async def told_of_changes() -> bool:
            await database.execute("update export.units set values_told_at = now() - interval '3 hours'")
            heard = [signals(each) for each in centre.named("SEND_HISDIDATA")]
            return [signal.text for signal in (heard[-1] if heard else [])] == ["0", "1", "0"]

        await kit.until(told_of_changes)
        changed = signals(centre.named("SEND_HISDIDATA")[-1])
        assert {signal.get("Id") for signal in changed} == {"10A"}
        times = [signal.get("RecordTime") for signal in changed[1:]]
        local = [at.astimezone(CIVIL_ZONE).strftime("%Y-%m-%d %H:%M:%S") for at in (began, ended)]
        assert times == local
    finally:
        await database.close()
    for heard in centre.named("SEND_HISAIDATA"):  # one that was sent late may have what was read here meanwhile
        assert all(signal.get("Id") == "101" and signal.get("RecordTime") for signal in signals(heard))
    ids = "<SUId>4401</SUId><SURId>4401</SURId>"
    await export.publish(kit.begin("a-1"))

    async def begun() -> bool:
        alarms = [alarm["AlarmFlag"] for heard in centre.named("SEND_ALARM") for alarm in heard.alarms()]
        return alarms.count("BEGIN") == 2

    await kit.until(begun)
    _, active = await ask(export, "SUService", "GET_ALARM", 601, ids)
    assert [each.findtext("AlarmFlag") for each in active.iter("TAlarm")] == ["BEGIN"]
    _, moved = await ask(export, "SUService", "SET_IP", 105, f"{ids}<SCIP>10.0.0.9</SCIP>")
    assert moved.findtext("Info/Result") == "0", "nobody has permitted it"
