"""What lives between the reports of a device is in the database: silence, last values, heartbeats of ingest."""

import pytest

from libs.common.contracts.alarm import EndReason
from services.alarm.domain.model import NoData
from services.alarm.domain.rulebook import Override, Scope
from services.alarm.store import rulebook as rulebook_store
from services.alarm.views import StoredOverride
from services.alarm.worker import judging
from tests.integration.alarm.alarm_world import LOW, SITE, START, World

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

SILENT = "0s19012001"
PATIENCE_S, DELAY_S, GRACE_S = 30, 180, 2
"""Three reports of a device that reports every ten seconds, and the delay of the signal."""


async def override(world: World, rule_id: str, **parameters: object) -> None:
    async with world.db.write() as conn:
        version = await rulebook_store.next_book_version(conn)
        changed = Override(rule_id, Scope.SITE, SITE, version, **parameters)  # type: ignore[arg-type]
        await rulebook_store.put_override(conn, StoredOverride(changed, "user:test", START, None))


async def beat(world: World, first: int, after: int) -> None:
    for second in range(first, after, 20):
        await world.take(world.heartbeat(second))


async def test_a_device_that_never_reported_is_lost_though_the_process_died_meanwhile(world: World) -> None:
    world.registry.add("m-2", period_s=10.0)
    world.registry.changed.add("m-2")
    await beat(world, 0, 100)
    await world.restart()
    await beat(world, 100, PATIENCE_S + DELAY_S)
    assert await world.told() == []
    await world.restart()
    await beat(world, PATIENCE_S + DELAY_S + GRACE_S, 240)
    assert await world.told() == [("begin", SILENT, PATIENCE_S)]
    await world.restart()
    await world.take(world.volts(240, 230, device_id="m-2"), world.heartbeat(241))
    await world.take(world.heartbeat(263))
    assert await world.told() == [("begin", SILENT, PATIENCE_S), ("end", SILENT, 240)]


async def test_a_batch_that_is_rolled_back_is_as_if_it_had_not_been(world: World) -> None:
    world.registry.add("m-2", period_s=10.0)
    world.registry.changed.add("m-2")
    await world.take(world.volts(0, 230, device_id="m-2"), world.heartbeat(0))
    for second in range(20, 300, 20):
        await world.fail(world.heartbeat(second))
        await world.take(world.heartbeat(second))
    assert await world.told() == [("begin", SILENT, PATIENCE_S)]


async def test_nobody_is_lost_because_ingest_was_away(world: World) -> None:
    world.registry.add("m-2", period_s=10.0)
    world.registry.changed.add("m-2")
    await world.take(world.volts(0, 230, device_id="m-2"), world.heartbeat(0))
    await world.restart()
    await world.take(world.heartbeat(7200))
    await world.restart()
    await world.take(world.heartbeat(7201), world.volts(7205, 230, device_id="m-2"))
    await world.take(world.heartbeat(7210))
    assert await world.told() == []


async def test_a_rate_goes_on_over_a_crash(world: World) -> None:
    world.registry.add("t-1", kind="env_sensor")
    await override(world, "wattring.temperature_rise", level=2, threshold=5.0, start_delay_s=0.0)
    await world.take(world.reading(0, {"temperature": 20.0, "humidity": 50.0}, device_id="t-1"))
    await world.restart()
    await world.take(world.reading(60, {"temperature": 26.0, "humidity": 50.0}, device_id="t-1"))
    [begin] = await world.events()
    assert (begin.point, begin.value, begin.unit, begin.threshold) == ("temperature", 6.0, "degC/min", 5.0)


async def test_no_data_clears_where_a_rule_says_so(world: World) -> None:
    await override(world, LOW, start_delay_s=3.0, max_gap_s=60.0, no_data=NoData.CLEAR)
    await world.take(world.volts(0, 150))
    await world.take(world.volts(5, 150))
    await world.restart()
    await world.take(world.heartbeat(70))
    [_, end] = await world.events()
    assert (end.end_reason, end.rule_id) == (EndReason.NO_DATA, LOW)
    assert await world.told() == [("begin", LOW, 0.0), ("end", LOW, 65.0)]


async def test_devices_are_told_of_in_portions_and_those_that_changed_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "INTRODUCED_AT_ONCE", 2)
    for number in range(2, 7):
        world.registry.add(f"m-{number}", period_s=10.0)
    await world.restart()
    world.registry.add("m-9", period_s=10.0)
    world.registry.changed.add("m-9")
    for second in (0, 1, 2, 3):
        await world.take(world.heartbeat(second))
    since = {one[0]: one[2] for slot in range(20) if (one := _heard(world, slot)) is not None}
    assert sorted(since) == ["m-2", "m-3", "m-4", "m-5", "m-6", "m-9"]
    assert since["m-9"] < since["m-6"]


def _heard(world: World, slot: int) -> tuple[str, int, int] | None:
    try:
        return world.handler.engine.heard(slot)
    except IndexError:
        return None
