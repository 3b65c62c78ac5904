"""Thresholds that a supervision centre writes, over HTTP on a real database."""

from typing import Any

import pytest

from libs.common.bus import topics
from libs.common.contracts.audit import AuditEvent
from tests.integration.alarm.alarm_door import Door
from tests.integration.alarm.alarm_world import LOW

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

HIGH = "0s16002001"


async def write(door: Door, *orders: dict[str, Any], status: int = 200) -> Any:
    body = {"connection": "sc-gd", "orders": [{"device_id": "m-1", **order} for order in orders]}
    reply = await door.ask("PUT", "/alarm-rules/thresholds", body, service="export", status=status)
    return reply["outcomes"] if status == 200 else reply


async def read(door: Door, signal: str, device: str = "m-1") -> dict[str, Any]:
    reply = await door.ask("GET", "/alarm-rules/thresholds", service="export", device=device, signal=signal)
    [found] = reply["thresholds"]
    return dict(found)


async def book_version(door: Door) -> int:
    async with door.world.db.read() as conn:
        version: int = await conn.fetchval("select version from rulebook")
    return version


async def test_what_a_centre_writes_reads_back_the_same_and_judges(door: Door) -> None:
    before = await read(door, HIGH)
    assert (before["threshold"], before["source"]) == (260, "dictionary")
    [outcome] = await write(door, {"signal": HIGH, "threshold": 255.5, "unit": "V"})
    assert outcome["accepted"]
    assert outcome["now"] == await read(door, HIGH)
    assert (outcome["now"]["threshold"], outcome["now"]["source"]) == (255.5, "device:m-1")
    assert outcome["now"]["version"] > before["version"]
    assert (await read(door, HIGH, "m-2"))["threshold"] == 260
    await door.world.take(door.world.volts(0, 257))
    await door.world.take(door.world.volts(181, 257))
    [event] = await door.world.events()
    assert (event.rule_id, event.threshold) == (HIGH, 255.5)


async def test_a_repeated_message_makes_no_version_and_a_new_value_one(door: Door) -> None:
    await write(door, {"signal": HIGH, "threshold": 255})
    version = await book_version(door)
    [again] = await write(door, {"signal": HIGH, "threshold": 255})
    assert again["accepted"]
    assert await book_version(door) == version
    await write(door, {"signal": HIGH, "threshold": 258})
    history = (await door.ask("GET", f"/alarm-rules/{HIGH}/versions"))["overrides"]
    assert [(one["threshold"], one["changed_by"], one["reason"]) for one in history] == [
        (258, "service:export", "SC sc-gd"), (255, "service:export", "SC sc-gd"),
    ]  # fmt: skip
    async with door.world.db.read() as conn:
        rows = await conn.fetch("select value from outbox where topic = $1 order by id", topics.AUDIT)
    said = [AuditEvent.from_json(row["value"]) for row in rows]
    assert [(one.door, one.action, one.before) for one in said] == [
        ("sc", "alarm_rule.sc_threshold", None), ("sc", "alarm_rule.sc_threshold", {"threshold": 255}),
    ]  # fmt: skip


async def test_what_people_gave_the_device_besides_stays(door: Door) -> None:
    await door.override({"level": 1, "start_delay_s": 5}, rule=HIGH)
    await write(door, {"signal": HIGH, "threshold": 255})
    rule = await door.ask("GET", f"/alarm-rules/{HIGH}")
    [override] = rule["overrides"]
    assert (override["level"], override["start_delay_s"], override["threshold"]) == (1, 5, 255)


async def test_delays_and_hysteresis_come_with_a_threshold_or_alone(door: Door) -> None:
    before = await read(door, HIGH)
    [outcome] = await write(door, {"signal": HIGH, "threshold": 255, "hysteresis": 3, "start_delay_s": 45})
    now = outcome["now"]
    assert (now["threshold"], now["hysteresis"], now["start_delay_s"]) == (255, 3, 45)
    assert (now["end_delay_s"], now["level"]) == (before["end_delay_s"], before["level"])
    [outcome] = await write(door, {"signal": HIGH, "end_delay_s": 15})
    assert outcome["now"] == await read(door, HIGH)
    assert (outcome["now"]["threshold"], outcome["now"]["end_delay_s"]) == (255, 15)
    outcomes = await write(door, {"signal": HIGH, "start_delay_s": -1}, {"signal": LOW})
    assert [one["code"] for one in outcomes] == ["invalid_rule", "invalid_input"]


async def test_each_order_is_answered_by_itself(door: Door) -> None:
    outcomes = await write(
        door,
        {"signal": HIGH, "threshold": 255},
        {"signal": HIGH, "threshold": 255, "device_id": "nobody"},
        {"signal": "nothing", "threshold": 1},
        {"signal": LOW, "threshold": 1e6},
        {"signal": LOW, "threshold": 170, "unit": "kV"},
    )
    assert [(one["accepted"], one["code"]) for one in outcomes] == [
        (True, None), (False, "not_found"), (False, "no_threshold"), (False, "invalid_rule"), (False, "invalid_rule"),
    ]  # fmt: skip
    assert all(one["detail"] and one["detail_zh"] for one in outcomes[1:])


async def test_orders_that_only_fit_together_are_taken_together(door: Door) -> None:
    """Low above the high that holds now, and the high above both: alone the first would be refused."""
    [alone] = await write(door, {"signal": LOW, "threshold": 265})
    assert alone["code"] == "invalid_rule"
    outcomes = await write(door, {"signal": LOW, "threshold": 265}, {"signal": HIGH, "threshold": 290})
    assert [one["accepted"] for one in outcomes] == [True, True]
    assert (await read(door, LOW))["threshold"] == 265


async def test_people_and_readers_may_not_write_for_a_centre(door: Door) -> None:
    body = {"connection": "sc-gd", "orders": [{"device_id": "m-1", "signal": HIGH, "threshold": 255}]}
    await door.ask("PUT", "/alarm-rules/thresholds", body, status=403)
    await door.ask("PUT", "/alarm-rules/thresholds", body, service="export", scopes=("alarm:read",), status=403)
    await door.ask("GET", "/alarm-rules/thresholds", device="m-2", sites=("site-1",), status=404)
    reply = await door.ask("GET", "/alarm-rules/thresholds", device="m-1")
    assert {one["signal"] for one in reply["thresholds"]} >= {HIGH, LOW}
