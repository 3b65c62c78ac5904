"""Alarms on their way to a centre that does everything wrong: in order, once, the END after its BEGIN."""

import asyncio
from collections import Counter
from dataclasses import replace

import asyncpg
import pytest

from tests.integration.export.conftest import Answer, Export, Heard, Kit, ScriptedCentre

pytestmark = [pytest.mark.integration, pytest.mark.postgres]


async def test_a_begin_and_its_end_reach_the_centre(export: Export, centre: ScriptedCentre, kit: Kit) -> None:
    await export.connect(centre)

    await export.publish(kit.begin("a-1"))
    await kit.until(lambda: _acknowledged(centre, 1))
    await export.publish(kit.end("a-1"))
    await kit.until(lambda: _acknowledged(centre, 2))

    [login] = centre.named("LOGIN")
    assert login.code == "101"
    assert [device.get("Id") for device in login.info.iter("Device")] == [kit.fsu, kit.meter]
    first, second = centre.acknowledged
    assert first == {
        "SerialNo": "0000000001",
        "Id": "0416003001",
        "FsuId": kit.fsu,
        "FsuCode": kit.fsu,
        "DeviceId": kit.meter,
        "DeviceCode": kit.meter,
        "AlarmTime": "2026-03-08 14:02:11",
        "AlarmLevel": "3",
        "AlarmFlag": "BEGIN",
        "AlarmDesc": "交流电压过低告警(152.3V)",
    }
    changed = {"AlarmTime": "2026-03-08 14:05:00", "AlarmFlag": "END", "AlarmDesc": "交流电压过低告警(221.0V)"}
    assert second == {**first, **changed}
    unit = await export.unit()
    assert (unit["phase"], unit["right"]) == ("registered", 2)

    async def written() -> bool:  # the centre has said yes a moment before export has heard it
        rows = await export.deliveries()
        return [(row["step"], row["state"], row["attempts"]) for row in rows] == [
            ("end", "delivered", 1),
            ("begin", "delivered", 1),
        ]

    await kit.until(written)


async def test_each_change_of_a_delivery_is_told(export: Export, centre: ScriptedCentre, kit: Kit) -> None:
    refusals = iter([kit.alarm_no])

    async def refuse_once(heard: Heard) -> Answer:
        return next(refusals, None) or await kit.obedient(heard) if heard.name == "SEND_ALARM" else kit.login_ok

    centre.script = refuse_once
    await export.connect(centre)
    await export.publish(kit.begin("a-1"))
    await kit.until(lambda: _acknowledged(centre, 1))

    async def told() -> bool:
        return len(await export.delivery_events()) >= 3

    await kit.until(told)
    events = await export.delivery_events()
    assert [(event.state, event.attempts, event.item_kind) for event in events] == [
        ("queued", 0, "alarm_begin"),
        ("refused", 1, "alarm_begin"),
        ("delivered", 2, "alarm_begin"),
    ]
    assert {(event.destination, event.alarm_id, event.site_id) for event in events} == {("gd", "a-1", "s-1")}


async def test_order_is_kept_and_each_is_acknowledged_once_by_a_faulty_centre(
    export: Export, centre: ScriptedCentre, kit: Kit
) -> None:
    faults = iter(["drop", "no", "hang", "garbage", "wrong", "drop", "no", "entity", "fault"] * 3)

    async def faulty(heard: Heard) -> Answer:
        if heard.name != "SEND_ALARM":
            return await kit.obedient(heard)
        match next(faults, "ok"):
            case "drop":
                return None
            case "no":
                return kit.alarm_no
            case "hang":
                await asyncio.sleep(1.5)
                return None
            case "garbage":
                return b"\x00\xff<<<not xml"
            case "wrong":
                return kit.login_ok
            case "entity":
                return b'<!DOCTYPE x [<!ENTITY a "1">]><x>&a;</x>'
            case "fault":
                return (
                    b'<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault>'
                    b"<faultcode>s:Server</faultcode></s:Fault></s:Body></s:Envelope>"
                )
        return kit.alarm_ok

    centre.script = faulty
    await export.connect(centre)
    alarms = [f"a-{number}" for number in range(12)]
    signals = ["0s16003001", "0s16001001"]
    for number, alarm in enumerate(alarms):
        signal = signals[number % 2]
        await export.publish(kit.begin(alarm, signal), kit.end(alarm, signal))
    await kit.until(lambda: _acknowledged(centre, 24), 60)

    assert centre.too_early == []
    assert set(Counter(kit.flags(centre.acknowledged)).values()) == {1}
    by_point: dict[str, list[tuple[str, str]]] = {"0416003001": [], "0416001001": []}
    for taken in centre.acknowledged:
        by_point[taken["Id"]].append((taken["SerialNo"], taken["AlarmFlag"]))
    for told in by_point.values():
        serials = sorted({serial for serial, _ in told})
        assert told == [(serial, flag) for serial in serials for flag in ("BEGIN", "END")]


@pytest.mark.sql
async def test_one_bad_alarm_does_not_hold_up_the_others(export: Export, centre: ScriptedCentre, kit: Kit) -> None:
    async def hates_power_failures(heard: Heard) -> Answer:
        if heard.name == "SEND_ALARM" and any(alarm["Id"] == "0416001001" for alarm in heard.alarms()):
            return kit.alarm_no
        return await kit.obedient(heard)

    centre.script = hates_power_failures
    await export.connect(centre)
    await export.publish(kit.begin("bad", "0s16001001"), kit.begin("good"), kit.end("good"))
    await kit.until(lambda: _acknowledged(centre, 2))

    assert [(flag, serial) for serial, flag in kit.flags(centre.acknowledged)] == [
        ("BEGIN", "0000000002"),
        ("END", "0000000002"),
    ]
    [row] = await export.deliveries(alarm="bad")
    assert row["state"] == "refused"
    assert (await export.unit())["phase"] == "registered"

    await export.publish(kit.end("bad", "0s16001001"))

    async def both() -> bool:
        return len(await export.deliveries(alarm="bad")) == 2

    await kit.until(both)
    await export.api("POST", f"/deliveries/{row['id']}/give-up", {"reason": "the centre has no such point"})
    states = {each["step"]: each["state"] for each in await export.deliveries(alarm="bad")}
    assert states == {"begin": "given_up", "end": "given_up"}
    await export.api("POST", f"/deliveries/{row['id']}/retry", status=409)


async def test_nothing_is_lost_or_doubled_when_the_process_is_killed(
    export: Export, centre: ScriptedCentre, kit: Kit
) -> None:
    reached = asyncio.Event()

    async def silent(heard: Heard) -> Answer:
        if heard.name == "SEND_ALARM":
            reached.set()
            await asyncio.sleep(5)
            return None
        return await kit.obedient(heard)

    centre.script = silent
    await export.connect(centre)
    await export.publish(kit.begin("a-1"), kit.begin("a-2", "0s16001001"))
    await reached.wait()
    await export.kill()

    centre.script = kit.obedient
    await export.publish(kit.end("a-1"), kit.end("a-2", "0s16001001"), kit.begin("a-3"))
    await export.start()
    await kit.until(lambda: _acknowledged(centre, 5))

    assert centre.too_early == []
    flags = Counter(kit.flags(centre.acknowledged))
    assert flags == {
        ("0000000001", "BEGIN"): 1,
        ("0000000001", "END"): 1,
        ("0000000002", "BEGIN"): 1,
        ("0000000002", "END"): 1,
        ("0000000003", "BEGIN"): 1,
    }
    assert len(centre.named("LOGIN")) == 1, "a unit that is registered does not log in again because we restarted"


async def test_inhibited_and_unmapped_alarms_are_not_told(export: Export, centre: ScriptedCentre, kit: Kit) -> None:
    await export.connect(centre)
    await export.publish(
        kit.begin("inhibited", inhibited_by="parent"),
        kit.begin("late", historical=True),
        kit.begin("unmapped", signal="0s16002001"),
        kit.begin("foreign", device_id="m-2"),
        kit.end("inhibited", inhibited_by="parent"),
        kit.begin("released", "0s16001001", inhibited_by="parent"),
        kit.begin("released", "0s16001001", sequence=2, phase="update"),
    )
    await kit.until(lambda: _acknowledged(centre, 1))

    assert [row["alarm_id"] for row in await export.deliveries()] == ["released"]
    assert centre.acknowledged[0]["AlarmFlag"] == "BEGIN"


async def test_an_event_that_comes_twice_is_told_once(export: Export, centre: ScriptedCentre, kit: Kit) -> None:
    await export.connect(centre)
    first, last = export.message(kit.begin("a-1")), export.message(kit.end("a-1"))
    await export.bus.publish([first, last, first, last], timeout_s=5)
    await export.publish(kit.begin("a-2"))
    await kit.until(lambda: _acknowledged(centre, 3))

    assert kit.flags(centre.acknowledged) == [
        ("0000000001", "BEGIN"),
        ("0000000001", "END"),
        ("0000000002", "BEGIN"),
    ]


@pytest.mark.sql
async def test_numbers_wrap_and_pass_over_those_of_open_alarms(
    export: Export, centre: ScriptedCentre, kit: Kit, postgres_url: str
) -> None:
    await export.connect(centre)
    await export.publish(kit.begin("open"))
    await kit.until(lambda: _acknowledged(centre, 1))
    connection = await asyncpg.connect(postgres_url)
    try:
        await connection.execute("update export.units set next_serial = 4294967295")
    finally:
        await connection.close()
    await export.publish(*(kit.begin(f"a-{n}", "0s16001001") for n in range(3)))
    await kit.until(lambda: _acknowledged(centre, 4))
    await export.publish(kit.end("a-0", "0s16001001"))
    await kit.until(lambda: _acknowledged(centre, 5))

    assert [serial for serial, _ in kit.flags(centre.acknowledged)] == [
        "0000000001",
        "4294967295",
        "0000000000",
        "0000000002",
        "4294967295",
    ]


@pytest.mark.sql
async def test_what_is_no_alarm_event_is_put_aside_and_the_rest_goes_on(
    export: Export, centre: ScriptedCentre, kit: Kit, postgres_url: str
) -> None:
    await export.connect(centre)
    good = export.message(kit.begin("a-1"))
    await export.bus.publish([replace(good, value=b'{"alarm_id": 7}'), replace(good, value=b"\xff"), good], timeout_s=5)
    await kit.until(lambda: _acknowledged(centre, 1))
    connection = await asyncpg.connect(postgres_url)
    try:
        reasons = [
            row["reason"]
            for row in await connection.fetch("select reason from export.dead_letters where grp = 'export.alarms'")
        ]
    finally:
        await connection.close()
    assert len(reasons) == 2
    assert all(reason.startswith("no alarm event") for reason in reasons)


async def test_a_connection_that_is_switched_off_keeps_its_queue(
    export: Export, centre: ScriptedCentre, kit: Kit
) -> None:
    await export.connect(centre)
    body = {"name": "x", "url": centre.url, "options": {"login_interval_s": 0.3}}
    await export.api("PUT", "/sc-connections/gd", {**body, "enabled": False})
    await export.publish(kit.begin("a-1"))

    async def queued() -> bool:
        return [row["state"] for row in await export.deliveries()] == ["queued"]

    await kit.until(queued)
    assert centre.named("SEND_ALARM") == []
    await export.api("PUT", "/sc-connections/gd", body)
    await kit.until(lambda: _acknowledged(centre, 1))


async def test_an_end_goes_where_its_begin_went_though_the_mapping_has_changed(
    export: Export, centre: ScriptedCentre, kit: Kit
) -> None:
    await export.connect(centre)
    await export.publish(kit.begin("a-1"))
    await kit.until(lambda: _acknowledged(centre, 1))
    mapping = kit.mapping()
    mapping["points"] = mapping["points"][:2]
    await export.api("PUT", f"/mappings/gd/{kit.fsu}", mapping)
    await export.publish(kit.end("a-1"))
    await kit.until(lambda: _acknowledged(centre, 2))

    assert kit.flags(centre.acknowledged) == [("0000000001", "BEGIN"), ("0000000001", "END")]


async def _acknowledged(centre: ScriptedCentre, count: int) -> bool:
    return len(centre.acknowledged) >= count
