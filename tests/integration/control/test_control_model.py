"""Nights with a crash between any two steps, on a real database.

Promised is, whatever is killed, silent, locked or lost and in whatever order: no OFF without its wake-up stored with
it; no load off beyond its time and a margin without an alarm or a person called; every command ends once; and when
all is well again, everything is on, proven, and every lease is over.
"""

import asyncio
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from libs.common.bus import topics
from libs.common.contracts.control import CommandAction, Priority
from libs.common.testing.clock import FakeClock
from services.control.domain.guards import Policy
from services.control.domain.plans import Schedule, Window
from services.control.usecases.orders import SwitchOrder, WakeOrder
from tests.integration.control.control_world import database, local, new_keys
from tests.integration.control.mortal import Fate, Fuse, Mortal
from tests.integration.control.mortal_world import MortalWorld

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.timeout(600)]

LOADS = ("a", "b")
POLICY = Policy(min_off_s=60, min_on_s=0, max_offs_per_day=1000, overdue_margin_s=60)
SLACK_S = 70.0
"""Longest pause between attempts, and a step of the clock. [s]"""


class Nights(RuleBasedStateMachine):
    """See the module."""

    url: str
    runner: asyncio.Runner

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = FakeClock()
        self.real = database(self.url)
        self.mortal = Mortal(self.real)
        self.mortal.fate = self.fuse = Fuse()
        self.ahead_h = self.ahead_at_most_h = 0
        """How far the wall clock has been set ahead, and was at the most."""
        self.do(self.begin())

    def do(self, work: Any) -> Any:
        return self.runner.run(work)

    async def begin(self) -> None:
        await self.real.open()
        async with self.real.write() as conn:
            await conn.execute(
                """
                truncate plans, occurrences, commands, command_history, command_groups, off_leases, isolations,
                         wake_ups, wake_up_todo, suspensions, load_switching, outbox cascade
                """
            )
        keys = new_keys(Path(self.folder.name) / "keys", self.clock)
        self.world = MortalWorld(self.mortal, self.clock, keys, POLICY, Path(self.folder.name) / "leases.journal")
        self.world.field.holder_margin_s = 30
        for load_id in LOADS:
            self.world.add_load(load_id)

    @initialize(length_s=st.sampled_from([100, 400]))
    def it_is_night(self, length_s: float) -> None:
        self.operator_off("a", length_s)
        self.plan("b", 20, length_s)
        self.do(self.pass_time(60, 10))

    def teardown(self) -> None:
        try:
            self.do(self.all_is_well_again())
        finally:
            self.world.journal.close()
            self.do(self.real.close())
            self.folder.cleanup()

    async def survive(self, work: Any) -> None:
        await self.world.survive(work)

    async def pass_time(self, seconds: float, step_s: float) -> None:
        for _ in range(int(seconds / step_s)):
            await self.world.live(step_s)

    # What people and the world do.

    @rule(load=st.sampled_from(LOADS), off_in_s=st.sampled_from([20, 60]), length_s=st.sampled_from([70, 200, 600]))
    def plan(self, load: str, off_in_s: float, length_s: float) -> None:
        start, end = local(self.clock, off_in_s), local(self.clock, off_in_s + length_s)
        schedule = Schedule(start.date(), start.date(), (Window(start.time(), end.time()),), "Asia/Shanghai")

        async def approve() -> None:
            plan, _ = await self.world.plans.draft("night", [load], schedule, (), None, "user:a", "api")
            await self.world.plans.approve(plan.plan_id, "user:b", "api")

        self.do(self.survive(approve()))

    @rule(load=st.sampled_from(LOADS), length_s=st.sampled_from([61, 300]))
    def operator_off(self, load: str, length_s: float) -> None:
        restore_at = self.world.steady.now() + timedelta(seconds=length_s)
        order = SwitchOrder(CommandAction.OPEN, (load,), "user:duty", "api", Priority.OPERATOR, restore_at=restore_at)

        async def switch() -> None:
            async with self.mortal.write() as conn:
                await self.world.orders.switch(conn, order)

        self.do(self.survive(switch()))

    @rule(load=st.sampled_from(LOADS))
    def operator_on(self, load: str) -> None:
        order = SwitchOrder(CommandAction.CLOSE, (load,), "user:duty", "api", Priority.OPERATOR)

        async def switch() -> None:
            async with self.mortal.write() as conn:
                await self.world.orders.switch(conn, order)

        self.do(self.survive(switch()))

    @rule()
    def one_key(self) -> None:
        loads = tuple(self.world.loads.all())

        async def wake() -> None:
            async with self.mortal.write() as conn:
                await self.world.orders.wake(conn, WakeOrder("all", "", loads, "user:duty", "api", "storm", False))

        self.do(self.survive(wake()))

    @rule(load=st.sampled_from(LOADS), answers=st.booleans(), reachable=st.booleans())
    def the_air(self, load: str, answers: bool, reachable: bool) -> None:
        breaker = self.world.field.breakers[load]
        breaker.answers, breaker.reachable = answers, reachable

    @rule(load=st.sampled_from(LOADS), locked=st.booleans(), trip=st.sampled_from([0, 0, 2, 10]))
    def somebody_at_the_breaker(self, load: str, locked: bool, trip: int) -> None:
        breaker = self.world.field.breakers[load]
        breaker.local_lock, breaker.trip_reason = locked, trip

    @rule(alive=st.booleans(), door=st.booleans(), seconds=st.sampled_from([0, 90, 400]))
    def ingest(self, alive: bool, door: bool, seconds: float) -> None:
        self.world.field.holder_alive, self.world.field.door_open = alive, door
        self.do(self.pass_time(seconds, 15))

    @rule(jump_h=st.sampled_from([-1, 1]))
    def wall_clock_set(self, jump_h: int) -> None:
        self.clock.set_wall(self.clock.now() + timedelta(hours=jump_h))
        self.ahead_h += jump_h
        self.ahead_at_most_h = max(self.ahead_at_most_h, self.ahead_h)

    @rule()
    def commands_lost_on_the_way(self) -> None:
        # Stands for a bus that is away for longer than a sending is valid.
        self.world.commands.clear()

    @rule(steps=st.integers(0, 12), how=st.sampled_from([Fate.DIES_BEFORE, Fate.DIES_AFTER]))
    def will_be_killed(self, steps: int, how: Fate) -> None:
        self.fuse.steps, self.fuse.how = steps, how

    @rule(messages=st.integers(0, 12))
    def will_be_killed_publishing(self, messages: int) -> None:
        left = iter(range(messages))
        self.world.dies_publishing = lambda: next(left, None) is None and self.publishes_again()

    def publishes_again(self) -> bool:
        self.world.dies_publishing = lambda: False
        return True

    @rule()
    def watchdog_killed(self) -> None:
        self.world.kill_watchdog()
        self.world.revive_watchdog()

    @rule(part=st.sampled_from(["control", "bus", "database"]), seconds=st.sampled_from([15, 90, 400]))
    def away(self, part: str, seconds: float) -> None:
        self.set_there(part, there=False)
        self.do(self.pass_time(seconds, 15 if seconds < 100 else 40))
        self.set_there(part, there=True)
        # Without them nobody can be told; now those who could not tell it have to try again.
        self.do(self.pass_time(SLACK_S, 35))

    def set_there(self, part: str, *, there: bool) -> None:
        if part == "control":
            self.world.control_up = there
            if there:
                self.world.start()
        elif part == "bus":
            self.world.bus_up = there
        else:
            self.mortal.away = not there

    @rule(seconds=st.sampled_from([5, 30, 90]))
    def time_passes(self, seconds: float) -> None:
        self.do(self.pass_time(seconds, 5 if seconds < 60 else 15))

    @rule()
    def long_time_passes(self) -> None:
        self.do(self.pass_time(300, 20))

    # What holds at every moment.

    @invariant()
    def no_off_without_its_wake_up(self) -> None:
        orphans = self.do(self.value(
            """
            select count(*) from commands off
             where off.action = 'open' and not exists (
                 select from commands wake where wake.command_id = off.pair_id and wake.action = 'close'
                    and (wake.not_before <= off.restore_at or wake.state = 'cancelled'))
            """
        ))  # fmt: skip
        assert orphans == 0

    @invariant()
    def every_command_ends_once(self) -> None:
        twice = self.do(self.value(
            """
            select count(*) from (
                select command_id from command_history
                 where state in ('succeeded', 'rejected', 'cancelled', 'expired', 'failed', 'superseded')
                   and reason <> 'late_answer'
                 group by command_id having count(*) > 1) t
            """
        ))  # fmt: skip
        assert twice == 0
        assert self.do(self.value("select coalesce(max(attempt), 0) from commands where action = 'open'")) <= 2

    @invariant()
    def an_order_wakes_each_of_its_loads_once(self) -> None:
        doubled = self.do(self.value(
            """
            select count(*) from (
                select wake_up_id, load_id
                  from (select wake_up_id, load_id from commands where wake_up_id is not null
                        union all select wake_up_id, load_id from wake_up_todo) t
                 group by wake_up_id, load_id having count(*) > 1) d
            """
        ))  # fmt: skip
        assert doubled == 0

    @invariant()
    def each_sending_has_its_own_id(self) -> None:
        sent: dict[object, object] = {}
        for topic, payload in self.world.published:
            if topic == topics.COMMANDS:
                assert sent.setdefault(payload["command_id"], payload) == payload, "published again as another one"

    @invariant()
    def nothing_sleeps_unnoticed(self) -> None:
        for load_id, breaker in self.world.field.breakers.items():
            if breaker.closed or breaker.deadline is None:
                continue
            over_s = self.clock.monotonic() - breaker.deadline
            if over_s > POLICY.overdue_margin_s + SLACK_S:
                assert self.noticed(load_id), f"{load_id} sleeps {over_s:.0f} s beyond its time and nobody was told"

    def noticed(self, load_id: str) -> bool:
        state: dict[object, object] = {}
        for one in self.world.events(topics.CONDITIONS):
            if one["subject"] == load_id:
                state[one["kind"]] = one["phase"]
        return "begin" in state.values()

    async def value(self, sql: str) -> Any:
        async with self.real.read() as conn:
            return await conn.fetchval(sql)

    # And in the end.

    async def all_is_well_again(self) -> None:
        self.fuse.steps = None
        self.world.field.holder_alive = self.world.field.door_open = True
        for breaker in self.world.field.breakers.values():
            breaker.answers = breaker.reachable = True
            breaker.local_lock, breaker.trip_reason = False, 0
        # Longer than the longest window, its grace, and the hours by which the clock has been put back.
        await self.pass_time(600, 30)
        await self.pass_time(1200 + 3600 * (self.ahead_at_most_h - self.ahead_h), 120)
        await self.pass_time(600, 20)
        for load_id, breaker in self.world.field.breakers.items():
            assert breaker.closed, f"{load_id} is not awake"
            assert not self.noticed(load_id), f"{load_id} is awake and its alarm stands"
        open_ones = await self.value("select count(*) from commands where not is_final")
        assert open_ones == 0, await self.value("select json_agg(c) from commands c where not is_final")
        assert await self.value("select count(*) from off_leases where closed_at is null") == 0
        assert await self.value("select count(*) from wake_up_todo") == 0
        forgotten = await self.value(
            f"""
            select count(*) from wake_ups w
             where scope = 'all'
               and (select count(*) from commands c where c.wake_up_id = w.wake_up_id) <> {len(LOADS)}
            """
        )
        assert forgotten == 0
        unfinished = await self.value(
            "select count(*) from plan_occurrences where state not in ('awake', 'skipped', 'called_off')"
        )
        assert unfinished == 0


def test_nights(postgres_url: str) -> None:
    with asyncio.Runner() as runner:
        Nights.url, Nights.runner = postgres_url, runner
        run_state_machine_as_test(
            Nights,
            settings=settings(
                max_examples=20, stateful_step_count=14, deadline=None,
                suppress_health_check=list(HealthCheck), phases=(Phase.explicit, Phase.reuse, Phase.generate),
            ),
        )  # fmt: skip
