"""A plan's night on a real database: off at the start, on at the end, each step proven."""

from datetime import UTC, date, datetime, time, timedelta

import pytest

from libs.common.bus import topics
from services.control.domain.plans import Schedule, Window
from tests.integration.control.control_world import OCCURRENCES, World, local

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]


async def plan_in(world: World, *load_ids: str, off_in_s: float = 60, off_for_s: float = 600) -> str:
    start, end = local(world.clock, off_in_s), local(world.clock, off_in_s + off_for_s)
    schedule = Schedule(start.date(), start.date(), (Window(start.time(), end.time()),), "Asia/Shanghai")
    plan, _ = await world.plans.draft("night", load_ids, schedule, (), None, "user:a", "api")
    await world.plans.approve(plan.plan_id, "user:b", "api")
    return plan.plan_id


async def test_a_load_goes_off_and_comes_back_with_proof(world: World) -> None:
    breaker = world.add_load("aau-1")
    await plan_in(world, "aau-1")
    await world.turn(by_s=30)
    assert await world.states("aau-1") == [("open", "scheduled", ""), ("close", "scheduled", "")]
    await world.run(35)
    assert not breaker.closed
    assert await world.states("aau-1") == [("open", "succeeded", ""), ("close", "scheduled", "")]
    assert await world.occurrence_states() == ["shut_down"]
    await world.run(600)
    assert breaker.closed
    assert await world.states("aau-1") == [("open", "succeeded", ""), ("close", "succeeded", "")]
    assert await world.occurrence_states() == ["awake"]
    assert await world.value("select count(*) from off_leases where closed_at is null") == 0
    states = [event["state"] for event in world.events(topics.CONTROL_EVENTS) if "occurrence_id" in event]
    for earlier, later in [("shutting_down", "shut_down"), ("shut_down", "waking"), ("waking", "awake")]:
        assert states.index(earlier) < states.index(later)


async def test_a_plan_says_what_becomes_of_it(world: World) -> None:
    world.add_load("aau-1")
    world.add_load("aau-2", site_id="site-2")
    plan_id = await plan_in(world, "aau-1", "aau-2")
    await world.run(700, step_s=10)
    told = world.events(topics.PLANS)
    assert [one["state"] for one in told] == ["draft", "approved", "active", "ended"]
    assert [one.get("actor") for one in told] == ["user:a", "user:b", None, None]
    assert {one["plan_id"] for one in told} == {plan_id}
    assert all(one["site_ids"] == ["site-1", "site-2"] and one["load_count"] == 2 for one in told)
    assert told[-1]["reason"] == "finished"


async def test_the_off_its_end_and_its_wake_up_are_one_transaction(world: World) -> None:
    world.add_load("aau-1")
    await plan_in(world, "aau-1")
    await world.turn(by_s=30)
    row = await world.value(
        """
        select count(*) from commands off
          join commands wake on wake.command_id = off.pair_id and wake.not_before = off.restore_at
          join off_leases l on l.command_id = off.command_id and l.restore_at = off.restore_at
         where off.action = 'open' and off.xmin = wake.xmin and off.xmin = l.xmin
        """
    )
    assert row == 1


async def test_source_000_is_32_windows(world: World) -> None:
    world.clock.set_wall(datetime(2022, 4, 30, tzinfo=UTC))
    world.start()
    world.add_load("aau-1")
    window = Window(time(23, 59, 59), time(6))
    schedule = Schedule(date(2022, 5, 1), date(2022, 6, 1), (window,), "Asia/Shanghai")
    plan, preview = await world.plans.draft("may", ["aau-1"], schedule, (), None, "user:a", "api")
    assert preview.count == 32
    await world.plans.approve(plan.plan_id, "user:a", "api")
    assert await world.value(f"select count(*) from {OCCURRENCES}") == 32
    assert await world.value(f"select min(off_at) from {OCCURRENCES}") == datetime(2022, 5, 1, 15, 59, 59, tzinfo=UTC)
    assert await world.value(f"select max(on_at) from {OCCURRENCES}") == datetime(2022, 6, 1, 22, tzinfo=UTC)
    await world.tick()
    assert await world.value(f"select count(*) from {OCCURRENCES}") == 32
    assert timedelta(hours=6, seconds=1) == await world.value(f"select min(on_at - off_at) from {OCCURRENCES}")


@pytest.mark.parametrize(("first", "last", "zone", "nights"), [
    # The leap day of 2028; the end of a month and of a year; both changes of the clock of 2026 in Berlin.
    ("2028-02-28", "2028-03-01", "Asia/Shanghai", ["28T15/28T22", "29T15/29T22", "01T15/01T22"]),
    ("2026-12-30", "2027-01-01", "Asia/Shanghai", ["30T15/30T22", "31T15/31T22", "01T15/01T22"]),
    ("2026-03-28", "2026-03-29", "Europe/Berlin", ["28T22/29T04", "29T21/30T04"]),
    ("2026-10-24", "2026-10-25", "Europe/Berlin", ["24T21/25T05", "25T22/26T05"]),
])  # fmt: skip
async def test_every_night_has_its_off_and_its_on(
    world: World, first: str, last: str, zone: str, nights: list[str]
) -> None:
    begin, end = date.fromisoformat(first), date.fromisoformat(last)
    world.clock.set_wall(datetime.combine(begin, time(), tzinfo=UTC))
    world.start()
    breaker = world.add_load("aau-1")
    schedule = Schedule(begin, end, (Window(time(23), time(6)),), zone)
    plan, _ = await world.plans.draft("p", ["aau-1"], schedule, (), None, "user:a", "api")
    await world.plans.approve(plan.plan_id, "user:a", "api")
    seen = []
    for _ in range(len(nights)):
        for wanted in (False, True):  # off, on
            while breaker.closed is not wanted:
                assert world.clock.now() < datetime.combine(end + timedelta(days=2), time(), tzinfo=UTC)
                await _to_next_hour(world)
            seen.append(f"{world.clock.now():%dT%H}")
    assert [f"{off}/{on}" for off, on in zip(seen[::2], seen[1::2], strict=True)] == nights
    await _to_next_hour(world)
    assert await world.occurrence_states() == ["awake"] * len(nights)


async def _to_next_hour(world: World) -> None:
    """Let control have its turns just before the hour, and in the first seconds of it."""
    now = world.clock.now()
    await world.turn(by_s=3600 - now.minute * 60 - now.second - 10)
    for by_s in (10.0, 2.0, 3.0):
        await world.turn(by_s=by_s)
