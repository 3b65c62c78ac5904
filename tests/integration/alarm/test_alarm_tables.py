"""The signal table in versions, over HTTP on a real database, with readings judged by what was imported."""

from pathlib import Path
from typing import Any

import pytest

from libs.common.bus import topics
from libs.common.contracts.audit import AuditEvent
from services.alarm.dictionary import SHIPPED_VERSION, load_shipped
from services.alarm.files import table_file
from services.alarm.files.table_file import read_table
from services.alarm.store import rulebook as rulebook_store
from tests.integration.alarm.alarm_door import Door
from tests.integration.alarm.alarm_world import FAILURE, LOW, SITE, at

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

GD = "telecom-2020-excerpt"
TOWER = "tower-compact-20150416"
PRINTED = Path("services/alarm/data") / f"{GD}.csv"
HEAD = "标准信号名称,信号类别,单位,告警级别,告警门限,告警开始延时,测点,省内备注"
TABLE = f"{HEAD}\n#路电压Ua过低,阈值,V,2,170,0,voltage_a,甲\n#路电压Ua,遥测,V,,,,voltage_a,乙\n"


async def take(door: Door, dictionary: str, body: str | bytes, *, status: int = 200, **params: Any) -> Any:
    content = body.encode() if isinstance(body, str) else body
    return await door.send(f"/signals/tables/{dictionary}/imports", content, status=status, file="t.csv", **params)


async def version_of(door: Door, dictionary: str) -> int:
    found = {one["dictionary"]: one["latest"]["version"] for one in (await door.ask("GET", "/signals/tables"))["items"]}
    return int(found.get(dictionary, 0))


async def book_version(door: Door) -> int:
    async with door.world.db.read() as conn:
        version: int = await conn.fetchval("select version from rulebook")
    return version


async def test_shipped_tables_are_versions_too_and_the_printed_one_is_exported_as_printed(door: Door) -> None:
    tables = (await door.ask("GET", "/signals/tables"))["items"]
    assert {one["dictionary"] for one in tables} == {GD, TOWER, "wattring"}
    assert all(one["latest"]["version"] == 1 and one["latest"]["shipped"] for one in tables)
    body = await door.file(f"/signals/tables/{GD}/export", format="csv")
    printed = read_table(PRINTED.read_bytes(), "x")
    exported = read_table(body, "x")
    assert exported.layout == printed.layout
    assert [row.cells for row in exported.rows] == [row.cells for row in printed.rows]
    workbook = await door.file(f"/signals/tables/{GD}/export", format="xlsx")
    assert [row.cells for row in read_table(workbook, "x").rows] == [row.cells for row in printed.rows]


@pytest.mark.parametrize("dictionary", [GD, TOWER, "wattring"])
@pytest.mark.parametrize("kind", ["csv", "xlsx"])
async def test_what_was_exported_changes_nothing_when_imported(door: Door, dictionary: str, kind: str) -> None:
    body = await door.file(f"/signals/tables/{dictionary}/export", format=kind)
    before = await book_version(door)
    done = await take(door, dictionary, body, missing="remove")
    assert (done["version"], done["diff"]["rows"]) == (1, [])
    assert done["diff"]["unchanged"] == done["rows"]
    assert await book_version(door) == before


async def test_a_dry_run_shows_what_an_import_then_does(door: Door) -> None:
    dry = await take(door, "province", TABLE, dry_run=True, name="某省信号表", reason="试点")
    assert dry["version"] is None
    assert await version_of(door, "province") == 0
    done = await take(door, "province", TABLE, name="某省信号表", reason="试点")
    assert (done["version"], done["diff"]["added"]) == (1, 2)
    assert done["diff"] == dry["diff"]
    changed = TABLE.replace("170", "165").replace("甲", "丙") + "#路零线电流,遥测,A,,,,current_n,\n"
    dry = await take(door, "province", changed, dry_run=True)
    assert await version_of(door, "province") == 1
    first, second = dry["diff"]["rows"]
    assert [(one["field"], one["before"], one["after"]) for one in first["fields"]] == [
        ("thresholds", dict.fromkeys("ABCD", 170), dict.fromkeys("ABCD", 165)), ("省内备注", "甲", "丙"),
    ]  # fmt: skip
    assert (first["line"], second["change"], second["line"]) == (2, "added", 4)
    done = await take(door, "province", changed, reason="调整")
    assert done["version"] == 2
    found = await door.ask("GET", "/signals/tables/province/versions/2")
    assert [row["fields"] for row in found["diff"]["rows"]] == [row["fields"] for row in done["diff"]["rows"]]
    assert (found["imported_by"], found["reason"], found["file_name"]) == ("user:wang", "调整", "t.csv")
    versions = (await door.ask("GET", "/signals/tables/province/versions"))["items"]
    assert [(one["version"], one["reason"], one["rows"]) for one in versions] == [(2, "调整", 3), (1, "试点", 2)]
    old = read_table(await door.file("/signals/tables/province/export", format="csv", version=1), "x")
    assert [row.cells["省内备注"] for row in old.rows] == ["甲", "乙"]
    async with door.world.db.read() as conn:
        rows = await conn.fetch("select value from outbox where topic = $1 order by id", topics.AUDIT)
    said = [AuditEvent.from_json(row["value"]) for row in rows]
    assert [(one.action, one.reason) for one in said] == [
        ("signal_table.import", "试点"), ("signal_table.import", "调整"),
    ]  # fmt: skip


async def test_an_imported_signal_is_judged_by_a_rule_and_named_by_its_circuit(door: Door) -> None:
    done = await take(door, "province", TABLE)
    code = next(row["code"] for row in done["diff"]["rows"] if row["name_zh"].endswith("过低"))
    rule = {"rule_id": "own.low", "signal": code, "comparison": "below", "points": ["voltage_a"], "unit": "V",
            "device_kinds": ["meter_3p"]}  # fmt: skip
    await door.ask("POST", "/alarm-rules", rule, status=201)
    door.world.registry.orders["m-1"] = 3
    await door.world.take(door.world.volts(0, 168))
    await door.world.take(door.world.volts(1, 168))
    [event] = [one for one in await door.world.events() if one.rule_id == "own.low"]
    assert (event.signal_name_zh, int(event.level), event.threshold) == ("03路电压Ua过低", 2, 170)
    [shown] = (await door.ask("GET", "/alarms", signal=code))["items"]
    assert shown["signal_name_zh"] == "03路电压Ua过低"
    effective = await door.ask("GET", "/alarm-rules/effective", device="m-1")
    assert "03路电压Ua过低" in {one["name_zh"] for one in effective["rules"]}
    dry = await take(door, "province", TABLE.replace("170", "165"), dry_run=True)
    assert dry["diff"]["rows"][0]["rules"] == ["own.low"]
    await take(door, "province", TABLE.replace("170", "165"))
    await door.world.take(door.world.volts(2, 168))
    last = [one for one in await door.world.events() if one.rule_id == "own.low"][-1]
    assert (last.phase.value, last.end_reason and last.end_reason.value) == ("end", "rule_changed")


async def test_rows_that_a_file_lacks_stay_unless_it_says_that_they_go(door: Door) -> None:
    await take(door, "province", TABLE)
    one = f"{HEAD}\n#路电压Ua,遥测,V,,,,voltage_a,乙\n"
    kept = await take(door, "province", one)
    assert (kept["version"], kept["rows"], kept["diff"]["rows"]) == (1, 2, [])
    gone = await take(door, "province", one, missing="remove")
    assert (gone["version"], gone["rows"], gone["diff"]["removed"]) == (2, 1, 1)
    left = (await door.ask("GET", "/signals", dictionary="province"))["items"]
    assert [signal["name_zh"] for signal in left] == ["#路电压Ua"]
    retired = (await door.ask("GET", "/signals", dictionary="province", retired=True))["items"]
    assert [signal["name_zh"] for signal in retired] == ["#路电压Ua过低"]
    again = await take(door, "province", TABLE)
    assert (again["version"], again["diff"]["added"]) == (3, 1)


async def test_columns_that_a_file_lacks_stay_unless_it_says_that_they_go(door: Door) -> None:
    await take(door, "province", TABLE)
    narrow = "标准信号名称,信号类别,告警门限\n#路电压Ua过低,阈值,165\n#路电压Ua,遥测,\n"
    await take(door, "province", narrow)
    wide = read_table(await door.file("/signals/tables/province/export", format="csv"), "x")
    assert [(row.cells["省内备注"], row.cells.get("告警门限")) for row in wide.rows] == [("甲", "165"), ("乙", None)]
    done = await take(door, "province", narrow, missing="remove")
    assert [(one["field"], one["before"]) for row in done["diff"]["rows"] for one in row["fields"]] == [
        ("省内备注", "甲"), ("省内备注", "乙"),
    ]  # fmt: skip
    left = (await door.ask("GET", "/signals", dictionary="province"))["items"]
    assert {tuple(signal["points"]) for signal in left} == {("voltage_a",)}  # what is read holds until it is changed


async def test_a_rule_over_a_row_that_has_gone_sleeps(door: Door) -> None:
    body = (await door.file(f"/signals/tables/{TOWER}/export", format="csv")).decode("utf-8-sig")
    less = "\r\n".join(line for line in body.split("\r\n") if LOW not in line)
    done = await take(door, TOWER, less, missing="remove")
    assert [(row["change"], row["code"], row["rules"]) for row in done["diff"]["rows"]] == [("removed", LOW, [LOW])]
    await door.ask("GET", f"/alarm-rules/{LOW}", status=404)
    await door.world.take(door.world.volts(0, 150))
    await door.world.take(door.world.volts(400, 150))
    assert await door.world.events() == []


async def test_the_platforms_own_rows_change_and_never_go(door: Door) -> None:
    body = (await door.file("/signals/tables/wattring/export", format="csv")).decode("utf-8-sig")
    head, *rows = body.split("\r\n")
    first = rows[0].replace(",52,52,52,52,", ",51,51,51,51,")
    done = await take(door, "wattring", f"{head}\r\n{first}\r\n", missing="remove")
    assert (done["diff"]["changed"], done["diff"]["removed"]) == (1, 0)
    rule = await door.ask("GET", "/alarm-rules/wattring.frequency_high")
    assert rule["defaults"]["A"]["threshold"] == 51


async def test_thresholds_that_would_contradict_others_are_refused_with_their_line(door: Door) -> None:
    body = (await door.file(f"/signals/tables/{TOWER}/export", format="csv")).decode("utf-8-sig")
    line = 1 + next(place for place, row in enumerate(body.split("\r\n")) if LOW in row)
    wrong = body.replace("160,160,160,160", "270,270,270,270", 1)
    refused = await take(door, TOWER, wrong, status=400)
    assert refused["code"] == "invalid_file"
    assert {problem["line"] for problem in refused["facts"]["problems"]} == {line}
    assert all("须低于" in problem["expected_zh"] for problem in refused["facts"]["problems"])
    assert await version_of(door, TOWER) == 1
    await door.override({"threshold": 155})
    await take(door, TOWER, body.replace("260,260,260,260", "158,158,158,158", 1), status=400)


async def test_another_unit_than_a_rule_compares_in_is_refused_with_its_line(door: Door) -> None:
    """A row without points may be in any unit, until a rule compares with its threshold."""
    table = f"{HEAD}\n进线过压,阈值,kV,2,10.5,0,,\n"
    [row] = (await take(door, "province", table))["diff"]["rows"]
    rule = {"rule_id": "own.high", "signal": row["code"], "comparison": "above", "points": ["voltage_a"], "unit": "V"}
    refused = await door.ask("POST", "/alarm-rules", rule, status=400)
    assert [(one["field"], one["found"]) for one in refused["facts"]["problems"]] == [("unit", "V")]
    await take(door, "province", table.replace("kV,2,10.5", "V,2,250"))
    await door.ask("POST", "/alarm-rules", rule, status=201)
    refused = await take(door, "province", table, status=400)
    assert [(one["line"], one["field"], one["expected"]) for one in refused["facts"]["problems"]] == [
        (2, "单位", "V, for rule own.high"),
    ]  # fmt: skip
    refused = await take(door, "province", table.replace("kV,2,10.5", "V,2,9000"), status=400)
    assert [(one["line"], one["field"]) for one in refused["facts"]["problems"]] == [(2, "告警门限")]


async def test_nothing_of_a_wrong_file_is_taken_and_every_wrong_place_is_told(door: Door) -> None:
    wrong = TABLE.replace(",2,170,", ",7,abc,").replace("voltage_a,乙", "voltage_x,乙")
    refused = await take(door, "province", wrong, status=400)
    assert [(one["line"], one["field"]) for one in refused["facts"]["problems"]] == [
        (2, "告警级别"), (2, "告警门限"), (3, "测点"),
    ]  # fmt: skip
    assert "第" in refused["detail_zh"] or "处错误" in refused["detail_zh"]
    assert await version_of(door, "province") == 0
    alarm_as_value = f"信号名称,信号类别,信号编码\n交流输入停电告警,遥测,{FAILURE}\n"
    refused = await take(door, TOWER, alarm_as_value, status=400)
    assert f"rule {FAILURE}" in refused["facts"]["problems"][0]["expected"]


async def test_uploads_are_bounded_and_only_for_who_may(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.alarm.api.tables.MAX_TABLE_BYTES", 100)
    await take(door, "province", TABLE, status=400)
    monkeypatch.setattr("services.alarm.api.tables.MAX_TABLE_BYTES", table_file.MAX_TABLE_BYTES)
    await take(door, "Not A Table", TABLE, status=400)
    with monkeypatch.context() as few:
        few.setattr("services.alarm.usecases.tables.MAX_TABLES", 3)
        assert "3" in (await take(door, "province", TABLE, status=400))["detail"]
        await take(door, GD, await door.file(f"/signals/tables/{GD}/export", format="csv"))  # what is there goes on
    await take(door, "province", TABLE, status=403, scopes=("alarm:read",))
    await take(door, "province", TABLE, status=403, sites=(SITE,))
    for path in (
        "/signals/tables/nothing/versions",
        "/signals/tables/nothing/export",
        f"/signals/tables/{GD}/versions/9",
    ):
        await door.ask("GET", path, status=404)


async def test_a_new_release_leaves_imported_rows_and_adds_those_that_are_new(door: Door) -> None:
    body = (await door.file(f"/signals/tables/{TOWER}/export", format="csv")).decode("utf-8-sig")
    less = "\r\n".join(line for line in body.split("\r\n") if LOW not in line)
    await take(door, TOWER, less.replace("260,260,260,260", "265,265,265,265", 1), missing="remove")
    async with door.world.db.write() as conn:
        await conn.execute("update rulebook set shipped_version = $1", SHIPPED_VERSION - 1)
        assert await rulebook_store.seed(conn, load_shipped(), at(0))
    assert await version_of(door, TOWER) == 2
    assert (await door.ask("GET", "/signals/0s16002001"))["thresholds"]["A"] == 265
    assert (await door.ask("GET", f"/signals/{LOW}"))["retired"]
