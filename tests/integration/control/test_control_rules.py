"""The switching rules of contracts.md 5 on a real database, each tried the wrong way."""

from datetime import time, timedelta
from itertools import pairwise

import asyncpg
import pytest

from libs.common.bus import topics
from libs.common.contracts.control import CommandAction, Evidence, Priority, Result, Stage
from libs.common.errors import Conflict, InvalidInput
from libs.common.metrics import render
from services.control.domain.conditions import Condition, Conditions, Quantity, Sample, Side
from services.control.domain.inrush import InrushLimits
from services.control.domain.plans import InvalidPlan, PlanOptions, Schedule, Window
from services.control.domain.stagger import Spread, Stagger
from services.control.domain.targets import Groups
from services.control.usecases import scheduler
from services.control.usecases.isolations import IsolationRequest, LoadIsolated, SamePerson
from services.control.usecases.orders import Group, SwitchOrder, WakeOrder
from tests.integration.control.control_world import OCCURRENCES, SITE, World, local

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]


async def plan_in(world: World, *load_ids: str, off_in_s: float = 60, off_for_s: float = 600, rank: int = 50) -> str:
    start, end = local(world.clock, off_in_s), local(world.clock, off_in_s + off_for_s)
    schedule = Schedule(start.date(), start.date(), (Window(start.time(), end.time()),), "Asia/Shanghai")
    plan, _ = await world.plans.draft(
        "night", load_ids, schedule, (), None, "user:a", "api", options=PlanOptions(rank=rank)
    )
    await world.plans.approve(plan.plan_id, "user:b", "api")
    return plan.plan_id


async def switch(
    world: World, action: str, *load_ids: str, restore_in_s: float | None = 3600, **changes: object
) -> Group:
    restore_at = None if restore_in_s is None else world.clock.now() + timedelta(seconds=restore_in_s)
    order = SwitchOrder(
        **{  # type: ignore[arg-type]
            "action": CommandAction(action), "load_ids": load_ids, "actor": "user:duty", "door": "api",
            "priority": Priority.OPERATOR, "restore_at": restore_at if action == "open" else None, **changes,
        }
    )  # fmt: skip
    async with world.db.write() as conn:
        return await world.orders.switch(conn, order)


async def wake(world: World, *load_ids: str, suspends: bool = True) -> str:
    loads = tuple(load for load_id in load_ids if (load := world.loads.get(load_id)) is not None)
    order = WakeOrder("loads", "", loads, "user:duty", "api", "storm", suspends)
    async with world.db.write() as conn:
        return (await world.orders.wake(conn, order)).order.wake_up_id


def conditions(world: World, load_id: str) -> list[tuple[object, object]]:
    return [(one["kind"], one["phase"]) for one in world.events(topics.CONDITIONS) if one["subject"] == load_id]


def result_of(world: World, command_id: str, stage: Stage, breaker: float) -> Result:
    seen = Evidence(feedback_point="breaker_state", feedback_value=breaker)
    return Result(command_id=command_id, site_id=SITE, stage=stage, epoch=1, at=world.clock.now(), evidence=seen)


class TestOffs:
    async def test_an_off_without_an_end_is_refused(self, world: World) -> None:
        world.add_load("a")
        with pytest.raises(InvalidInput, match="restore_at"):
            await switch(world, "open", "a", restore_in_s=None)

    @pytest.mark.parametrize("missing", ["restore_at", "off_at_most_s", "pair_id"])
    async def test_the_database_itself_refuses_an_off_without_an_end(self, world: World, missing: str) -> None:
        world.add_load("a")
        await switch(world, "open", "a")
        async with world.db.read() as conn:
            rows = await conn.fetch("select * from commands where action = 'open'")
            generated = {"is_final"}
        columns = [name for name in rows[0].keys() if name not in generated]
        values = {name: rows[0][name] for name in columns} | {"command_id": "c-2", "state": "received", missing: None}
        places = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
        insert = f"insert into commands ({', '.join(columns)}) values ({places})"
        with pytest.raises(asyncpg.CheckViolationError, match="commands_off_has_end"):
            async with world.db.write() as conn:
                await conn.execute(insert, *values.values())
        with pytest.raises(asyncpg.CheckViolationError, match="commands_off_has_end"):
            async with world.db.write() as conn:
                await conn.execute(f"update commands set {missing} = null where action = 'open'")
        # The same row with its end is taken, so it is the end that was missed.
        async with world.db.write() as conn:
            await conn.execute(insert, *(values | {missing: rows[0][missing]}).values())

    async def test_never_off_in_a_group_is_listed_and_refused_and_the_others_go_on(self, world: World) -> None:
        world.add_load("a")
        world.add_load("hospital", obstacle="never_off")
        group = await switch(world, "open", "a", "hospital", "nowhere")
        assert [command.load_id for command in group.commands] == ["a"]
        assert [(one["load_id"], one["guard"]) for one in group.refused] == [
            ("hospital", "never_off"), ("nowhere", "unknown_load"),
        ]  # fmt: skip
        await world.run(5)
        assert not world.field.breakers["a"].closed
        assert world.field.breakers["hospital"].closed

    async def test_never_off_in_a_plan_refuses_the_plan_and_lists_it(self, world: World) -> None:
        world.add_load("a")
        world.add_load("hospital", obstacle="never_off")
        with pytest.raises(InvalidPlan) as refused:
            await plan_in(world, "a", "hospital")
        assert refused.value.facts["loads"] == [{"load_id": "hospital", "reason": "never_off"}]

    async def test_a_load_that_became_never_off_is_not_switched(self, world: World) -> None:
        world.add_load("a")
        await plan_in(world, "a")
        await world.turn(by_s=31)
        world.add_load("a", obstacle="never_off")
        await world.run(60)
        assert world.field.breakers["a"].switched == 0
        assert await world.states("a") == [("open", "rejected", "never_off"), ("close", "cancelled", "off_not_sent")]
        assert await world.occurrence_states() == ["skipped"]

    @pytest.mark.parametrize(("trouble", "reason"), [
        ("stale", "stale_data"), ("clock", "clock_not_synchronised"), ("lock", "local_lock"),
    ])  # fmt: skip
    async def test_what_may_pass_is_waited_for_within_the_grace(self, world: World, trouble: str, reason: str) -> None:
        breaker = world.add_load("a")
        await plan_in(world, "a", off_in_s=60, off_for_s=3600)
        breaker.reachable = trouble != "stale"
        breaker.local_lock = trouble == "lock"
        world.sync.why = "not synchronised" if trouble == "clock" else None
        await world.run(120, step_s=5)
        assert await world.states("a") == [("open", "scheduled", reason), ("close", "scheduled", "")]
        breaker.reachable, breaker.local_lock, world.sync.why = True, False, None
        await world.run(10)
        assert not breaker.closed

    async def test_beyond_its_grace_it_is_dropped_with_what_it_waited_for(self, world: World) -> None:
        breaker = world.add_load("a")
        await plan_in(world, "a", off_in_s=60, off_for_s=7200)
        breaker.reachable = False
        await world.run(700, step_s=10)
        breaker.reachable = True
        await world.run(60, step_s=5)
        assert breaker.switched == 0
        assert await world.states("a") == [("open", "expired", "stale_data"), ("close", "cancelled", "off_not_sent")]

    async def test_after_an_outage_too_little_left_is_not_worth_it(self, world: World) -> None:
        world.add_load("a")
        await plan_in(world, "a", off_in_s=60, off_for_s=600)
        await world.clock.advance(60 + 301)
        await world.run(10)
        assert world.field.breakers["a"].switched == 0
        assert await world.occurrence_states() == ["skipped"]

    async def test_an_off_waits_until_the_watchdog_has_its_lease(self, world: World) -> None:
        breaker = world.add_load("a")
        world.watchdog_required = True
        world.start()
        await plan_in(world, "a")
        await world.run(70)
        assert breaker.closed
        await world.tell_watchdog()
        await world.run(3)
        assert not breaker.closed

    async def test_an_off_that_still_draws_power_failed_and_is_woken(self, world: World) -> None:
        breaker = world.add_load("a")
        breaker.draws_kw = 0.3
        await switch(world, "open", "a")
        await world.run(10)
        assert (await world.states("a"))[0] == ("open", "failed", "still_draws_power")
        assert breaker.closed

    async def test_a_second_off_of_a_load_that_is_off_is_refused(self, world: World) -> None:
        world.add_load("a")
        await switch(world, "open", "a")
        await world.run(5)
        group = await switch(world, "open", "a")
        assert group.refused[0]["guard"] == "already_off"

    async def test_a_higher_off_takes_the_place_of_a_lower_one_and_not_the_reverse(self, world: World) -> None:
        world.add_load("a")
        await plan_in(world, "a")
        await world.turn(by_s=31)
        lower = await switch(world, "open", "a", priority=Priority.UPSTREAM_APP)
        assert lower.refused[0]["guard"] == "already_pending"
        await switch(world, "open", "a")
        await world.run(5)
        assert ("open", "superseded", "superseded") in await world.states("a")
        assert not world.field.breakers["a"].closed
        assert await world.occurrence_states() == ["called_off"]

    async def test_minimum_on_time_and_switches_a_day(self, world: World) -> None:
        world.add_load("a")
        await switch(world, "open", "a")
        await world.run(5)
        await switch(world, "close", "a")
        await world.run(5)
        assert (await switch(world, "open", "a")).refused[0]["guard"] == "min_on_time"
        for _ in range(11):
            await world.clock.advance(301)
            await switch(world, "open", "a")
            await world.run(3)
            await switch(world, "close", "a")
            await world.run(3)
        await world.clock.advance(301)
        assert (await switch(world, "open", "a")).refused[0]["guard"] == "switches_per_day"


class TestDoubt:
    async def test_silence_after_an_off_is_resolved_by_reading_and_never_repeated(self, world: World) -> None:
        breaker = world.add_load("a")
        breaker.answers = False
        await switch(world, "open", "a")
        await world.run(20)
        assert (await world.states("a"))[0] == ("open", "succeeded", "read_open")
        assert breaker.switched == 1
        assert len(breaker.executed) == 1

    async def test_an_off_that_nobody_took_is_sent_once_more_after_a_look(self, world: World) -> None:
        breaker = world.add_load("a")
        await switch(world, "open", "a")
        await world.tick()
        await world.relay()
        world.commands.clear()
        await world.run(20)
        assert not breaker.closed
        assert breaker.switched == 1

    async def test_an_off_in_doubt_that_nobody_can_look_at_is_woken_from(self, world: World) -> None:
        breaker = world.add_load("a")
        breaker.answers = False
        await switch(world, "open", "a")
        await world.tick()
        await world.relay()
        world.deliver()
        assert not breaker.closed
        world.field.door_open = False
        await world.run(100)
        assert breaker.closed
        assert (await world.states("a"))[0] == ("open", "failed", "unresolved")

    async def test_an_off_that_comes_out_late_is_woken_from_again(self, world: World) -> None:
        breaker = world.add_load("a")
        group = await switch(world, "open", "a")
        await world.tick()
        await world.relay()
        world.commands.clear()
        world.field.holder_alive = False
        await world.run(100)
        world.field.holder_alive = True
        await world.run(70)
        assert [state for _, state, _ in await world.states("a")] == ["failed", "succeeded"]
        breaker.closed = False
        world.field.results.append(result_of(world, group.commands[0].command_id, Stage.VERIFIED, 0.0))
        await world.answer()
        await world.run(5)
        assert breaker.closed
        assert ("close", "succeeded", "off_after_wake_up") not in await world.states("a")
        assert len(await world.states("a")) == 3

    async def test_the_holder_closing_by_itself_ends_the_wake_up(self, world: World) -> None:
        breaker = world.add_load("a")
        group = await switch(world, "open", "a", restore_in_s=1000)
        await world.run(5)
        world.field.close(breaker)
        world.field.results.append(result_of(world, group.commands[0].command_id, Stage.RESTORED, 1.0))
        await world.answer()
        assert (await world.states("a"))[1] == ("close", "succeeded", "restored_by_holder")
        assert await world.value("select count(*) from off_leases where closed_at is null") == 0


class TestOns:
    async def test_an_on_is_sent_until_it_is_proven(self, world: World) -> None:
        breaker = world.add_load("a")
        await switch(world, "open", "a", restore_in_s=400)
        await world.run(5)
        world.field.holder_alive = False
        await world.run(600, step_s=5)
        assert not breaker.closed
        assert conditions(world, "a") == [("wake_up_overdue", "begin")]
        assert b"wattring_control_overdue_wakeups 1.0" in render()
        assert await world.value("select max(attempt) from commands where action = 'close'") > 4  # type: ignore[operator]
        world.field.holder_alive = True
        await world.run(70)
        assert breaker.closed
        assert conditions(world, "a") == [("wake_up_overdue", "begin"), ("wake_up_overdue", "end")]
        assert b"wattring_control_overdue_wakeups 0.0" in render()

    @pytest.mark.parametrize("trouble", ["lock", "trip"])
    async def test_the_two_exceptions_stop_it_call_a_person_and_let_go(self, world: World, trouble: str) -> None:
        breaker = world.add_load("a")
        await switch(world, "open", "a", restore_in_s=400)
        await world.run(5)
        breaker.local_lock = trouble == "lock"
        breaker.trip_reason = 2 if trouble == "trip" else 0
        sent = len(breaker.executed)
        await world.run(500, step_s=5)
        assert len(breaker.executed) == sent
        kinds = conditions(world, "a")
        assert kinds[0] == ("wake_up_stopped", "begin")
        assert kinds.count(("wake_up_stopped", "begin")) == 1
        breaker.local_lock, breaker.trip_reason = False, 0
        await world.run(20)
        assert breaker.closed
        assert ("wake_up_stopped", "end") in conditions(world, "a")

    async def test_a_trip_that_a_person_released_is_woken_and_the_line_told(self, world: World) -> None:
        breaker = world.add_load("a")
        await switch(world, "open", "a", restore_in_s=400)
        await world.run(5)
        breaker.trip_reason = 2
        await world.run(420, step_s=5)
        assert not breaker.closed
        await world.orders.release_trip("a", 2, "looked at it", "user:engineer", "api")
        await world.clock.advance(11)
        await world.tick()
        await world.relay()
        assert world.commands[-1]["arguments"] == {"released_trip": 2.0}

    async def test_nothing_but_an_isolation_puts_an_on_off(self, world: World) -> None:
        world.add_load("a")
        await plan_in(world, "a", off_in_s=40, off_for_s=600)
        await world.run(50)
        assert not world.field.breakers["a"].closed
        # An operator's ON outranks the plan's OFF; the plan's own wake-up is then over as well.
        await switch(world, "close", "a")
        await world.run(5)
        assert world.field.breakers["a"].closed
        assert [state for action, state, _ in await world.states("a") if action == "close"] == [
            "superseded",
            "succeeded",
        ]
        assert await world.occurrence_states() == ["awake"]

    async def test_neither_a_higher_off_nor_a_person_puts_a_plans_on_off(self, world: World) -> None:
        breaker = world.add_load("a")
        plan_id = await plan_in(world, "a", off_in_s=40, off_for_s=600)
        await world.run(50)
        assert not breaker.closed
        on = await world.value("select command_id from commands where load_id = 'a' and action = 'close'")
        with pytest.raises(Conflict, match="only an isolation"):
            await world.orders.cancel(str(on), "not now", "user:duty", "api")
        longer = await switch(world, "open", "a", restore_in_s=7200)
        assert longer.refused[0]["guard"] == "already_off"
        await world.plans.end(plan_id, "no longer wanted", "user:duty", "api")
        # Nobody answers when it is due, and meanwhile an operator wants it off for longer.
        breaker.reachable = False
        await world.run(620, step_s=5)
        await switch(world, "open", "a", restore_in_s=7200)
        breaker.reachable = True
        await world.run(90, step_s=2)
        assert breaker.closed
        assert await world.value("select state from commands where command_id = $1", on) == "succeeded"


class TestEmergency:
    async def test_one_key_wakes_cancels_and_suspends_until_released(self, world: World) -> None:
        for load_id in ("a", "b", "c"):
            world.add_load(load_id)
        await switch(world, "open", "a")
        await world.run(5)
        await plan_in(world, "a", "b", "c", off_in_s=60, off_for_s=600)
        await world.turn(by_s=31)
        order = await wake(world, "a", "b", "c")
        await world.run(5)
        assert all(breaker.closed for breaker in world.field.breakers.values())
        progress = await world.orders.progress(order)
        assert (progress.loads, progress.verified) == (3, 3)
        await world.run(60)
        assert all(breaker.closed for breaker in world.field.breakers.values())
        assert set(await world.occurrence_states()) <= {"called_off", "skipped"}
        assert (await switch(world, "open", "b")).refused[0]["guard"] == "emergency"
        await world.orders.release(order, "user:duty", "api")
        await world.clock.advance(301)
        await switch(world, "open", "b")
        await world.run(5)
        assert not world.field.breakers["b"].closed

    async def test_an_off_in_flight_does_not_outlive_it(self, world: World) -> None:
        breaker = world.add_load("a")
        await switch(world, "open", "a")
        await world.tick()
        await world.relay()
        off = list(world.commands)
        world.commands.clear()
        await wake(world, "a")
        await world.tick()
        await world.relay()
        world.commands[:0] = off
        world.deliver()
        await world.answer()
        await world.run(20)
        assert breaker.closed
        # Even when the OFF overtakes the emergency's ON on its way:
        assert await world.value("select count(*) from off_leases where closed_at is null") == 0

    async def test_an_off_that_overtakes_is_undone(self, world: World) -> None:
        breaker = world.add_load("a")
        await switch(world, "open", "a")
        await world.tick()
        await world.relay()
        off = list(world.commands)
        world.commands.clear()
        await wake(world, "a")
        await world.turn()
        assert breaker.closed
        world.commands[:] = off
        world.deliver()
        assert not breaker.closed
        await world.answer()
        await world.run(20)
        assert breaker.closed

    async def test_it_releases_leases_so_that_the_watchdog_wakes_too(self, world: World) -> None:
        world.add_load("a")
        await switch(world, "open", "a")
        await world.run(5)
        world.field.holder_alive = False
        await wake(world, "a")
        assert await world.value("select count(*) from off_leases where closed_at is null") == 0

    async def test_a_lock_stops_it_too(self, world: World) -> None:
        breaker = world.add_load("a")
        await switch(world, "open", "a")
        await world.run(5)
        breaker.local_lock = True
        order = await wake(world, "a")
        await world.run(20)
        assert (await world.orders.progress(order)).held == 1
        assert ("wake_up_stopped", "begin") in conditions(world, "a")


class TestIsolation:
    async def isolate(self, world: World, load_id: str = "a", for_s: float = 7200) -> str:
        load = world.loads.get(load_id)
        assert load is not None
        wanted = IsolationRequest(load, "Li", "WP-7", "new fan", world.clock.now() + timedelta(seconds=for_s))
        return (await world.isolations.request(wanted, "user:a", "api")).isolation_id

    async def test_it_needs_two_persons(self, world: World) -> None:
        breaker = world.add_load("a")
        isolation = await self.isolate(world)
        await world.run(20)
        assert breaker.closed
        assert await world.value("select count(*) from off_leases") == 0
        with pytest.raises(SamePerson):
            await world.isolations.approve(isolation, "user:a", "api")
        await world.isolations.approve(isolation, "user:b", "api")
        await world.run(5)
        assert not breaker.closed
        assert breaker.restore_at is None
        assert conditions(world, "a") == [("isolation_active", "begin")]

    async def test_nothing_wakes_it_but_its_end(self, world: World) -> None:
        breaker = world.add_load("a")
        isolation = await self.isolate(world)
        await world.isolations.approve(isolation, "user:b", "api")
        await world.run(5)
        await wake(world, "a")
        await switch(world, "close", "a")
        await world.run(60)
        assert not breaker.closed
        assert ("wake_up_stopped", "begin") in conditions(world, "a")
        await world.isolations.release(isolation, "user:a", "api", "done")
        await world.run(20)
        assert breaker.closed

    async def test_a_plans_wake_up_waits_for_it(self, world: World) -> None:
        breaker = world.add_load("a")
        await plan_in(world, "a", off_in_s=40, off_for_s=600)
        await world.run(50)
        isolation = await self.isolate(world)
        await world.isolations.approve(isolation, "user:b", "api")
        await world.run(700, step_s=5)
        assert not breaker.closed
        await world.isolations.release(isolation, "user:a", "api", "done")
        await world.run(30)
        assert breaker.closed
        assert await world.occurrence_states() == ["awake"]

    async def test_it_ends_by_itself_after_a_warning(self, world: World) -> None:
        breaker = world.add_load("a")
        await world.isolations.approve(await self.isolate(world, for_s=3600), "user:b", "api")
        await world.run(1860, step_s=20)
        assert ("isolation_active", "update") in conditions(world, "a")
        await world.run(1800, step_s=20)
        assert breaker.closed
        assert conditions(world, "a")[-1] == ("isolation_active", "end")

    async def test_a_request_that_nobody_approves_goes_away(self, world: World) -> None:
        breaker = world.add_load("a")
        isolation = await self.isolate(world, for_s=600)
        await world.run(700, step_s=20)
        with pytest.raises(Conflict):
            await world.isolations.approve(isolation, "user:b", "api")
        assert breaker.switched == 0
        assert await world.states("a") == [("open", "cancelled", "expired")]

    async def test_only_one_at_a_time(self, world: World) -> None:
        world.add_load("a")
        first, second = await self.isolate(world), await self.isolate(world)
        await world.isolations.approve(first, "user:b", "api")
        with pytest.raises(LoadIsolated):
            await world.isolations.approve(second, "user:b", "api")

    async def test_an_off_of_somebody_else_is_refused(self, world: World) -> None:
        world.add_load("a")
        await world.isolations.approve(await self.isolate(world), "user:b", "api")
        assert (await switch(world, "open", "a")).refused[0]["guard"] == "isolation"


class TestClock:
    @pytest.mark.parametrize("hours", [-1, 1])
    async def test_setting_the_wall_clock_delays_no_wake_up(self, world: World, hours: int) -> None:
        breaker = world.add_load("a")
        await switch(world, "open", "a", restore_in_s=1800)
        await world.run(5)
        world.field.holder_margin_s = 1e9  # control alone
        world.clock.set_wall(world.clock.now() + timedelta(hours=hours))
        await world.run(1800, step_s=5)
        assert breaker.closed

    async def test_an_on_that_waits_is_not_forgotten_when_the_clock_is_believed_again(self, world: World) -> None:
        breaker = world.add_load("a")
        await switch(world, "open", "a", restore_in_s=600)
        await world.run(5)
        world.field.holder_alive = False
        world.field.holder_margin_s = 1e9
        world.clock.set_wall(world.clock.now() - timedelta(hours=1))
        await world.run(610, step_s=5)
        await switch(world, "close", "a")
        await world.run(120, step_s=5)
        assert world.steady.problem() is None
        world.field.holder_alive = True
        await world.run(140, step_s=5)
        assert breaker.closed
        assert [state for _, state, _ in await world.states("a") if state not in ("succeeded", "superseded")] == []

    async def test_nothing_is_switched_off_by_a_clock_that_was_set(self, world: World) -> None:
        world.add_load("a")
        world.add_load("b")
        await switch(world, "open", "a", restore_in_s=1800)
        await world.run(5)
        world.clock.set_wall(world.clock.now() - timedelta(hours=1))
        await world.turn()
        assert (await switch(world, "open", "b", restore_in_s=7200)).refused[0]["guard"] == "clock_not_synchronised"
        await world.run(1800, step_s=5)
        assert (await switch(world, "open", "b")).refused == ()


class TestPlans:
    async def test_ending_a_plan_stops_offs_and_leaves_wake_ups(self, world: World) -> None:
        world.add_load("a")
        world.add_load("b")
        first = await plan_in(world, "a", off_in_s=40, off_for_s=600)
        second = await plan_in(world, "b", off_in_s=90, off_for_s=600)
        await world.run(61)
        assert not world.field.breakers["a"].closed
        await world.plans.end(first, "done", "user:a", "api")
        await world.plans.end(second, "done", "user:a", "api")
        await world.run(60)
        assert not world.field.breakers["a"].closed
        assert world.field.breakers["b"].switched == 0
        await world.run(600, step_s=5)
        assert world.field.breakers["a"].closed
        assert sorted(await world.occurrence_states()) == ["awake", "called_off"]

    async def test_two_plans_of_one_load_do_not_fight(self, world: World) -> None:
        breaker = world.add_load("a")
        await plan_in(world, "a", off_in_s=40, off_for_s=900)
        await plan_in(world, "a", off_in_s=100, off_for_s=400)
        await world.run(1000, step_s=5)
        assert breaker.closed
        assert breaker.switched == 2
        assert sorted(await world.occurrence_states()) == ["awake", "skipped"]

    async def test_a_plan_that_meets_an_off_in_force_neither_prolongs_nor_repeats_it(self, world: World) -> None:
        breaker = world.add_load("a")
        await plan_in(world, "a", off_in_s=60, off_for_s=1800)
        await switch(world, "open", "a", restore_in_s=900)
        await world.run(100, step_s=5)
        assert not breaker.closed
        assert await world.occurrence_states() == ["skipped"]
        assert await world.value("select reason from plan_occurrences") == "already_off"
        await world.run(820, step_s=5)
        assert breaker.closed
        assert breaker.switched == 2

    async def test_the_lower_rank_decides_also_when_it_begins_later(self, world: World) -> None:
        breaker = world.add_load("a")
        world.add_load("b")
        weak = await plan_in(world, "a", "b", off_in_s=40, off_for_s=900)
        strong = await plan_in(world, "a", off_in_s=400, off_for_s=900, rank=10)
        _, shown = await world.plans.fetch(weak)
        (overlap,) = shown.overlaps
        assert (overlap.plan_id, overlap.outcome, overlap.load_ids) == (strong, "yields", ("a",))
        assert (await world.plans.fetch(strong))[1].overlaps[0].outcome == "prevails"
        await world.run(100, step_s=5)
        assert breaker.closed
        assert not world.field.breakers["b"].closed
        await world.run(350, step_s=5)
        assert not breaker.closed
        await world.run(900, step_s=5)
        assert breaker.closed
        assert breaker.switched == 2
        reasons = await world.value("select array_agg(reason order by plan_no, load_id) from plan_occurrences")
        assert reasons == ["outranked", "", ""]

    async def test_a_plan_that_has_ended_outranks_nobody(self, world: World) -> None:
        breaker = world.add_load("a")
        strong = await plan_in(world, "a", off_in_s=400, off_for_s=900, rank=10)
        weak = await plan_in(world, "a", off_in_s=60, off_for_s=900)
        await world.plans.end(strong, "done", "user:a", "api")
        assert (await world.plans.fetch(weak))[1].overlaps == ()
        await world.run(100, step_s=5)
        assert not breaker.closed

    async def test_a_group_is_settled_at_the_approval(self, world: World) -> None:
        start = local(world.clock, 60)
        schedule = Schedule(start.date(), start.date(), (Window(start.time(), time(6)),), "Asia/Shanghai")
        world.add_load("a", tags=("night",))
        groups = PlanOptions(groups=Groups(tags=("night",)))
        plan, shown = await world.plans.draft("p", [], schedule, (), None, "user:a", "api", options=groups)
        assert shown.load_ids == ("a",)
        world.add_load("b", tags=("night",))
        assert (await world.plans.fetch(plan.plan_id))[0].load_ids == ("a", "b")
        world.add_load("never", tags=("night",), obstacle="never_off")
        with pytest.raises(InvalidPlan, match="never_off"):
            await world.plans.approve(plan.plan_id, "user:a", "api")
        world.loads.loads.pop("never")
        assert (await world.plans.approve(plan.plan_id, "user:a", "api")).load_ids == ("a", "b")
        world.add_load("c", tags=("night",))
        assert (await world.plans.fetch(plan.plan_id))[0].load_ids == ("a", "b")
        assert await world.value("select array_agg(load_id order by load_id) from plan_occurrences") == ["a", "b"]

    async def test_a_preview_names_the_loads_that_will_be_refused_for_coverage(self, world: World) -> None:
        world.add_load("a")
        world.add_load("layer", keeps_coverage=True)
        start = local(world.clock, 3600)
        schedule = Schedule(start.date(), start.date(), (Window(time(23), time(6)),), "Asia/Shanghai")
        assert (await world.plans.preview(["a"], schedule, ())).stays_on == ()
        assert (await world.plans.preview(["a", "layer"], schedule, ())).stays_on == ("layer",)

    async def test_shutdowns_are_spread_and_all_are_on_at_the_end(self, world: World) -> None:
        for number in range(10):
            world.add_load(f"a{number}")
        start, end = local(world.clock, 60), local(world.clock, 1000)
        schedule = Schedule(start.date(), start.date(), (Window(start.time(), end.time()),), "Asia/Shanghai")
        spread = PlanOptions(stagger=Stagger(Spread.EVEN, 199))
        plan, _ = await world.plans.draft("p", list(world.loads.loads), schedule, (), None, "u", "api", options=spread)
        await world.plans.approve(plan.plan_id, "user:a", "api")
        off = []
        for _ in range(60):
            await world.run(5, step_s=5)
            off.append(sum(not breaker.closed for breaker in world.field.breakers.values()))
        assert off == sorted(off)
        assert set(off) == set(range(11))
        await world.run(760, step_s=5)
        assert all(breaker.closed and breaker.switched == 2 for breaker in world.field.breakers.values())

    async def test_wake_ups_of_a_site_come_one_after_the_other_within_the_margin(self, world: World) -> None:
        for number in range(30):
            world.add_load(f"a{number}")
        world.inrush = InrushLimits(per_site=2, step_s=1, margin_s=10)
        world.field.holder_margin_s = 60
        world.start()
        await plan_in(world, *world.loads.loads, off_in_s=40, off_for_s=400)
        await world.run(435, step_s=5)
        assert not any(breaker.closed for breaker in world.field.breakers.values())
        on = []
        for _ in range(20):
            await world.turn(by_s=1)
            on.append(sum(breaker.closed for breaker in world.field.breakers.values()))
        steps = [after - before for before, after in pairwise(on)]
        assert max(steps[:10]) == 2, on
        assert on[-1] == 30
        assert all(breaker.switched == 2 for breaker in world.field.breakers.values())

    async def test_a_condition_is_judged_right_before_the_off_and_never_stops_an_on(self, world: World) -> None:
        quiet = Condition(Quantity.TRAFFIC_LOAD, Side.BELOW, 5.0, 600)
        busy, still, silent = (world.add_load(load_id) for load_id in ("busy", "still", "silent"))
        start, end = local(world.clock, 60), local(world.clock, 1500)
        schedule = Schedule(start.date(), start.date(), (Window(start.time(), end.time()),), "Asia/Shanghai")
        options = PlanOptions(conditions=Conditions((quiet,)))
        plan, _ = await world.plans.draft(
            "p", ["busy", "still", "silent"], schedule, (), None, "user:a", "api", options=options
        )
        await world.plans.approve(plan.plan_id, "user:a", "api")
        assert (await world.plans.fetch(plan.plan_id))[0].options == options

        def traffic(load_id: str, *values: float) -> None:
            now = world.clock.now()
            ages = range(700 * len(values) - 700, -1, -700)
            series = [Sample(now - timedelta(seconds=age), value) for age, value in zip(ages, values, strict=True)]
            world.samples[load_id, Quantity.TRAFFIC_LOAD] = [series]

        traffic("busy", 2, 9)
        traffic("still", 2, 3)
        await world.run(100, step_s=5)
        assert (busy.closed, still.closed, silent.closed) == (True, False, True)
        reasons = {load_id: (await world.states(load_id))[0][2] for load_id in ("busy", "silent")}
        assert reasons == {"busy": "condition_traffic_load", "silent": "stale_traffic_load"}
        # It becomes quiet within the grace time; the other one stays unknown, and what is off is not asked again.
        traffic("busy", 2, 3)
        traffic("still", 99)
        await world.run(100, step_s=5)
        assert (busy.closed, still.closed, silent.closed) == (False, False, True)
        await world.run(1500, step_s=5)
        assert busy.closed
        assert still.closed
        assert silent.switched == 0
        assert (await world.states("silent"))[0] == ("open", "expired", "stale_traffic_load")
        assert sorted(await world.occurrence_states()) == ["awake", "awake", "skipped"]

    async def test_a_large_plan_is_made_in_parts_and_each_window_once(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scheduler, "OCCURRENCES_AT_A_TIME", 6)
        monkeypatch.setattr(scheduler.make_occurrences, "__kwdefaults__", {"room": 6})
        for load_id in "abc":
            world.add_load(load_id)
        day = local(world.clock, 0).date()
        schedule = Schedule(day, day + timedelta(days=9), (Window(time(23), time(6)),), "Asia/Shanghai")
        plan, _ = await world.plans.draft("p", "abc", schedule, (), None, "user:a", "api")
        await world.plans.approve(plan.plan_id, "user:a", "api")
        assert await world.value(f"select count(*) from {OCCURRENCES}") == 6
        assert await world.scheduler.tick()
        assert await world.value(f"select count(*) from {OCCURRENCES}") == 12
        await world.tick()
        assert await world.value(f"select count(*) from {OCCURRENCES}") == 30
        assert await world.value("select count(*) from plan_windows") == 10
        await world.plans.end(plan.plan_id, "done", "user:a", "api")
        assert await world.occurrence_states() == ["called_off"] * 3
        await world.relay()
        assert len([one for one in world.events(topics.CONTROL_EVENTS) if one.get("state") == "called_off"]) == 3

    async def test_calendars_are_exceptions(self, world: World) -> None:
        world.add_load("a")
        day = local(world.clock, 0).date()
        await world.plans.put_calendar("cn", "China", "State Council notice", {day: "holiday"}, "user:a", "api")
        start = local(world.clock, 60).time()
        window = Window(start, local(world.clock, 700).time())
        schedule = Schedule(day, day + timedelta(days=1), (window,), "Asia/Shanghai")
        plan, found = await world.plans.draft("p", ["a"], schedule, ["cn"], None, "user:a", "api")
        assert found.count == 1
        await world.plans.approve(plan.plan_id, "user:a", "api")
        assert await world.value("select count(*) from plan_occurrences") == 1
        with pytest.raises(Conflict):
            await world.plans.put_calendar("cn", "China", "another", {}, "user:a", "api")
        with pytest.raises(InvalidPlan, match="unknown"):
            await world.plans.preview(["a"], schedule, ["us"])
        with pytest.raises(InvalidPlan, match="no window"):
            await world.plans.preview(["a"], Schedule(day, day, (window,), "Asia/Shanghai"), ["cn"])
