"""Rules that people add, change, disable and remove, over HTTP on a real database, with readings judged by them."""

from typing import Any

import pytest

from libs.common.bus import topics
from libs.common.contracts.alarm import EndReason
from libs.common.contracts.audit import AuditEvent
from services.alarm.dictionary import SHIPPED_VERSION, load_shipped
from services.alarm.store import rulebook as rulebook_store
from tests.integration.alarm.alarm_door import Door
from tests.integration.alarm.alarm_world import LOW, SITE, at

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

OWN = "own.very_low"
BODY: dict[str, Any] = {
    "signal": LOW,
    "comparison": "below",
    "points": ["voltage_a", "voltage_b", "voltage_c"],
    "unit": "V",
    "device_kinds": ["meter_3p"],
    "threshold": 100,
    "level": 1,
    "start_delay_s": 0,
    "end_delay_s": 0,
}


async def audits(door: Door) -> list[AuditEvent]:
    async with door.world.db.read() as conn:
        rows = await conn.fetch("select value from outbox where topic = $1 order by id", topics.AUDIT)
    return [AuditEvent.from_json(row["value"]) for row in rows]


async def test_an_added_rule_judges_and_a_removed_one_ends_its_alarms(door: Door) -> None:
    made = await door.ask("POST", "/alarm-rules", {**BODY, "rule_id": OWN, "reason": "pilot"}, status=201)
    assert (made["rule_id"], made["name_zh"]) == (OWN, "交流电压过低告警")
    assert {found["level"] for found in made["defaults"].values()} == {1}
    await door.world.take(door.world.volts(0, 95))
    await door.world.take(door.world.volts(1, 95))
    assert ("begin", OWN, 0.0) in await door.world.told()
    await door.ask("DELETE", f"/alarm-rules/{OWN}", status=204, reason="pilot is over")
    await door.world.take(door.world.volts(2, 95))
    last = [event for event in await door.world.events() if event.rule_id == OWN][-1]
    assert (last.phase.value, last.end_reason and last.end_reason.value) == ("end", "rule_changed")
    await door.ask("GET", f"/alarm-rules/{OWN}", status=404)
    again = await door.ask("POST", "/alarm-rules", {**BODY, "rule_id": OWN}, status=409)
    assert again["code"] == "rule_exists"
    assert [(one.action, one.actor, one.reason) for one in await audits(door)] == [
        ("alarm_rule.add", "user:wang", "pilot"),
        ("alarm_rule.remove", "user:wang", "pilot is over"),
    ]


async def test_a_changed_rule_ends_what_does_not_hold_and_its_versions_can_be_looked_up(door: Door) -> None:
    made = await door.ask("POST", "/alarm-rules", {**BODY, "rule_id": OWN}, status=201)
    await door.world.take(door.world.volts(0, 95))
    await door.world.take(door.world.volts(1, 95))
    changed = await door.ask(
        "PUT", f"/alarm-rules/{OWN}", {**BODY, "threshold": 90, "version": made["version"], "reason": "too eager"}
    )
    assert changed["version"] > made["version"]
    await door.world.take(door.world.volts(2, 95))
    assert [event.phase.value for event in await door.world.events() if event.rule_id == OWN] == ["begin", "end"]
    stale = await door.ask("PUT", f"/alarm-rules/{OWN}", {**BODY, "version": made["version"]}, status=409)
    assert stale["code"] == "rule_has_changed"
    disabled = await door.ask("PUT", f"/alarm-rules/{OWN}", {**BODY, "enabled": False})
    assert {found["enabled"] for found in disabled["defaults"].values()} == {False}
    history = await door.ask("GET", f"/alarm-rules/{OWN}/versions")
    assert [(one["definition"]["threshold"], one["definition"]["enabled"]) for one in history["definitions"]] == [
        (100, False), (90, True), (100, True),
    ]  # fmt: skip
    assert history["definitions"][1]["reason"] == "too eager"


async def test_there_are_as_many_rules_as_there_may_be(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    await door.ask("DELETE", f"/alarm-rules/{LOW}", status=204)
    async with door.world.db.read() as conn:
        count: int = await conn.fetchval("select count(*) from rules where not removed")
    monkeypatch.setattr("services.alarm.usecases.rulemaking.MAX_RULES", count + 1)
    await door.ask("POST", "/alarm-rules", {**BODY, "rule_id": OWN, "signal": "0s16004001"}, status=201)
    refused = await door.ask("POST", "/alarm-rules", {**BODY, "rule_id": "own.more"}, status=409)
    assert refused["code"] == "too_many_rules"


@pytest.mark.parametrize("value", [False, "100", "nan"])
@pytest.mark.parametrize("field", ["threshold", "level", "start_delay_s", "hysteresis"])
async def test_what_is_no_number_is_not_guessed(door: Door, field: str, value: object) -> None:
    """``false`` would be a threshold of 0."""
    await door.ask("POST", "/alarm-rules", {**BODY, "rule_id": OWN, field: value}, status=422)
    await door.override({field: value}, status=422)


async def test_versions_of_overrides_are_kept_with_who_and_why(door: Door) -> None:
    await door.override({"threshold": 150, "reason": "first"})
    await door.override({"threshold": 140, "reason": "second"})
    await door.ask("DELETE", f"/alarm-rules/{LOW}/overrides/device/m-1", status=204)
    found = (await door.ask("GET", f"/alarm-rules/{LOW}/versions"))["overrides"]
    assert [(one["threshold"], one["reason"], one["changed_by"]) for one in found] == [
        (None, None, "user:wang"), (140, "second", "user:wang"), (150, "first", "user:wang"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "field", "expected_zh"),
    [
        ({"signal": "nothing"}, "signal", "信号表中的信号编码"),
        ({"points": ["voltage_x"]}, "points", "平台的数值测点"),
        ({"unit": "kV"}, "unit", "voltage_a 的单位 V"),
        ({"points": ["water_volume"], "unit": "m3"}, "device_kinds", "模板上报 water_volume 的设备类型"),
        ({"threshold": 9000}, "threshold", "0 至 300 V"),
    ],
)  # fmt: skip
async def test_an_impossible_rule_is_refused_in_both_languages(
    door: Door, changes: dict[str, Any], field: str, expected_zh: str
) -> None:
    refused = await door.ask("POST", "/alarm-rules", {**BODY, "rule_id": OWN, **changes}, status=400)
    assert refused["code"] == "invalid_rule"
    assert (field, expected_zh) in [
        (problem["field"], problem["expected_zh"]) for problem in refused["facts"]["problems"]
    ]
    await door.ask("GET", f"/alarm-rules/{OWN}", status=404)
    assert await audits(door) == []


async def test_a_rule_that_contradicts_an_override_of_one_device_is_refused(door: Door) -> None:
    await door.override({"threshold": 290}, rule="0s16002001")
    body = {**BODY, "rule_id": OWN, "band": "high_high", "group": "phase_voltage", "comparison": "above"}
    refused = await door.ask("POST", "/alarm-rules", {**body, "threshold": 280}, status=400)
    [problem] = refused["facts"]["problems"]
    assert problem["expected"] == "0s16002001 (high) below own.very_low (high_high)"
    await door.ask("POST", "/alarm-rules", {**body, "threshold": 295}, status=201)
    warm = {"points": ["temperature"], "unit": "degC", "threshold": 30, "device_kinds": ["env_sensor"]}
    other = {**body, **warm, "rule_id": "own.temperature", "band": "high"}
    refused = await door.ask("POST", "/alarm-rules", other, status=400)
    assert refused["facts"]["problems"][0]["field"] == "group"


async def test_who_is_limited_to_sites_may_not_make_rules_for_all(door: Door) -> None:
    await door.ask("POST", "/alarm-rules", {**BODY, "rule_id": OWN}, sites=(SITE,), status=403)
    await door.ask("PUT", f"/alarm-rules/{LOW}", BODY, sites=(SITE,), status=403)
    await door.ask("DELETE", f"/alarm-rules/{LOW}", sites=(SITE,), status=403)
    await door.ask("POST", "/alarm-rules", {**BODY, "rule_id": OWN}, scopes=("alarm:read",), status=403)
    await door.ask("DELETE", "/alarm-rules/nothing", status=404)
    await door.ask("GET", "/alarm-rules/nothing/versions", status=404)


async def test_a_new_release_does_not_bring_back_what_people_changed(door: Door) -> None:
    await door.ask("DELETE", f"/alarm-rules/{LOW}", status=204)
    changed = {**BODY, "signal": "0s16002001", "comparison": "above", "threshold": 265, "level": None}
    await door.ask("PUT", "/alarm-rules/0s16002001", changed)
    async with door.world.db.write() as conn:
        await conn.execute("update rulebook set shipped_version = $1", SHIPPED_VERSION - 1)
        assert await rulebook_store.seed(conn, load_shipped(), at(0))
    await door.ask("GET", f"/alarm-rules/{LOW}", status=404)
    kept = await door.ask("GET", "/alarm-rules/0s16002001")
    assert kept["defaults"]["D"]["threshold"] == 265


async def test_a_rule_over_what_is_made_of_points_comes_back_as_it_was_written_and_judges(door: Door) -> None:
    spread = {"measure": "expression", "expression": "max(voltage_a, voltage_b, voltage_c) - voltage_a",
              "comparison": "above", "threshold": 20, "no_data": "clear", "max_gap_s": 60}  # fmt: skip
    made = await door.ask("POST", "/alarm-rules", {**BODY, **spread, "rule_id": "own.spread"}, status=201)
    assert {name: made[name] for name in ("measure", "expression", "unit")} == {
        "measure": "expression", "expression": spread["expression"], "unit": "V",
    }  # fmt: skip
    assert {(found["no_data"], found["max_gap_s"]) for found in made["defaults"].values()} == {("clear", 60)}
    unbalance = {"measure": "unbalance", "unit": "%", "comparison": "above", "threshold": 10}
    await door.ask("POST", "/alarm-rules", {**BODY, **unbalance, "rule_id": "own.unbalance"}, status=201)
    lost = {"measure": "silence", "points": [], "unit": "1", "comparison": "above", "threshold": 2}
    await door.ask("POST", "/alarm-rules", {**BODY, **lost, "rule_id": "own.lost"}, status=201)
    door.world.registry.add("m-1", period_s=10.0)
    await door.world.restart()
    await door.world.take(door.world.volts(0, 200, 230, 230), door.world.heartbeat(1))
    await door.world.take(door.world.heartbeat(19), door.world.heartbeat(22))
    await door.world.take(door.world.heartbeat(45), door.world.heartbeat(70))
    told = [one for one in await door.world.told() if one[1].startswith("own.")]
    assert sorted(told, key=str) == [
        ("begin", "own.lost", 20),
        ("begin", "own.spread", 0),
        ("begin", "own.unbalance", 0),
        ("end", "own.spread", 60),
    ]
    ended = {event.rule_id: event.end_reason for event in await door.world.events() if event.phase.value == "end"}
    assert ended["own.spread"] is EndReason.NO_DATA
    [definition] = (await door.ask("GET", "/alarm-rules/own.lost/versions"))["definitions"]
    assert definition["definition"]["measure"] == "silence"


@pytest.mark.parametrize(
    ("changes", "field", "expected_zh"),
    [
        ({"measure": "rate"}, "unit", "voltage_a 的单位 V/min"),
        ({"measure": "silence"}, "points", "判断失联时不填测点"),
        ({"measure": "expression", "expression": "voltage_a.real"}, "expression", "数字、测点"),
        ({"measure": "unbalance", "unit": "%", "threshold": 120, "comparison": "above"}, "threshold", "0 至 100 %"),
    ],
)  # fmt: skip
async def test_an_impossible_measure_is_refused_in_both_languages(
    door: Door, changes: dict[str, Any], field: str, expected_zh: str
) -> None:
    refused = await door.ask("POST", "/alarm-rules", {**BODY, "rule_id": OWN, **changes}, status=400)
    problems = [(problem["field"], problem["expected_zh"]) for problem in refused["facts"]["problems"]]
    assert any(name == field and text.startswith(expected_zh) for name, text in problems), problems
