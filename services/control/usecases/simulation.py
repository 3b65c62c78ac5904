"""What a plan would have switched and saved on past days, from ingest's history."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Protocol

from libs.common.db import Database
from libs.common.errors import Conflict, NotFound, Unavailable
from libs.common.ids import LoadId
from services.control.domain.conditions import MAX_AGE_S, Quantity, Sample
from services.control.domain.loads import LoadInfo
from services.control.domain.plans import (
    InvalidPlan,
    PlanOptions,
    Schedule,
    WindowInstance,
    check_conditions,
    check_schedule,
    check_stagger,
    parse_zone,
)
from services.control.domain.simulation import LoadWindow, Past, Replay, SimulatedWindow
from services.control.domain.stagger import offsets
from services.control.domain.targets import Groups, resolve
from services.control.store import plans as plan_store
from services.control.usecases.calendars import fetch_days
from services.control.usecases.guardfacts import GuardFacts
from services.control.usecases.plans import CheckLoads
from services.control.usecases.ports import SteadyClock
from services.control.usecases.switching import Switching

MAX_LOADS = 100
MAX_LOAD_WINDOWS = 1000
"""Loads times windows of one simulation: the history of each is read."""
AT_ONCE = 2
"""Simulations at the same time; they share the event loop with wake-ups, and the door with emergency ones."""
TIME_LIMIT_S = 25.0
"""Less than a gateway waits for an answer. [s]"""
USUAL_DAYS = 7
"""A stored plan is laid over so many days before today unless others are asked for."""


class History(Protocol):
    """What was measured."""

    async def values(
        self, loads: Sequence[LoadInfo], quantity: Quantity, start: datetime, end: datetime
    ) -> Mapping[LoadId, Sequence[Sequence[Sample]]]:
        """Return the good values of each load's sources within ``[start, end)``, oldest first.

        Raises:
            Unavailable: Nobody answered.
        """

    async def states(
        self, loads: Sequence[LoadInfo], start: datetime, end: datetime
    ) -> Mapping[LoadId, Sequence[Sample]]:
        """Return what each load's breaker read within ``[start, end)``, oldest first.

        Raises:
            Unavailable: Nobody answered.
        """


class SimulationBusy(Conflict):
    """Enough simulations are running."""

    code = "simulation_busy"
    title_zh = "仿真繁忙"


class SimulationTooLong(Unavailable):
    """The history did not tell everything in time."""

    code = "simulation_too_long"
    title_zh = "仿真超时"


@dataclass(frozen=True, slots=True)
class Simulated:
    """What would have become of a plan."""

    loads: tuple[LoadInfo, ...]
    windows: tuple[SimulatedWindow, ...]
    """Of all loads, in the order of time."""
    ahead: int
    """Windows of the plan that are not over yet, and are left out."""


class Simulation:
    """Lays plans over past days."""

    def __init__(
        self, *, db: Database, clock: SteadyClock, switching: Switching, guards: GuardFacts, history: History
    ) -> None:
        """Prepare.

        Args:
            db: Control's database, for plans and calendars.
            clock: The time: only windows that are over are simulated.
            switching: Knows loads and limits.
            guards: Knows the policies of the loads.
            history: What was measured.
        """
        self._db = db
        self._clock = clock
        self._switching = switching
        self._guards = guards
        self._history = history
        self._running = 0

    async def run_stored(
        self, plan_id: str, first_date: date | None, last_date: date | None, check: CheckLoads
    ) -> Simulated:
        """Return what a stored plan would have done on past dates, by default in the last week.

        Raises:
            NotFound: There is no such plan.
            InvalidPlan: See ``run``.
            SimulationBusy: Others are running.
            Unavailable: The history does not answer, or not in time.
        """
        async with self._db.read() as conn:
            plan = await plan_store.fetch(conn, plan_id)
        if plan is None:
            raise NotFound(f"no plan {plan_id}", message_zh=f"没有策略 {plan_id}")
        today = self._clock.now().astimezone(parse_zone(plan.schedule.zone)).date()
        last = last_date or today - timedelta(days=1)
        first = first_date or date.fromordinal(max(last.toordinal() - USUAL_DAYS + 1, 1))
        schedule = replace(plan.schedule, first_date=first, last_date=last)
        named, options = plan.named, plan.options
        if plan.approved_at is not None:  # what its groups mean is settled
            named, options = plan.load_ids, replace(options, groups=Groups())
        return await self.run(named, schedule, plan.calendar_ids, options, check, plan_id=plan_id)

    async def run(
        self,
        load_ids: Sequence[str],
        schedule: Schedule,
        calendar_ids: Sequence[str],
        options: PlanOptions,
        check: CheckLoads,
        *,
        plan_id: str = "",
    ) -> Simulated:
        """Return what a plan would have done in those of its windows that are over.

        Raises:
            InvalidPlan: It cannot be followed, is too large to be simulated, or has no window that is over.
            SimulationBusy: Others are running.
            Unavailable: The history does not answer, or not in time.
        """
        loads = self._loads(load_ids, options, check)
        self._check(schedule, options, loads)
        async with self._db.read() as conn:
            days = await fetch_days(conn, schedule, calendar_ids)
            book = await self._guards.book(conn)
        every = list(days.instances(schedule))
        windows = [window for window in every if window.on_at <= self._clock.now()]
        _check_size(len(loads), len(windows))
        replays = {load.load_id: Replay(load, options.conditions, book.of(load).policy) for load in loads}
        longest_s = max(book.of(load).policy.stale_after_s for load in loads)
        delays = _delays(plan_id, loads, windows, options)
        found: list[SimulatedWindow] = []
        async with self._turn():
            for window in windows:
                pasts = await self._pasts(window, loads, options, longest_s)
                for load in loads:
                    off_at = window.off_at + delays[load.load_id, window.start_local]
                    if off_at < window.on_at:
                        one = LoadWindow(off_at, window.on_at)
                        found.append(replays[load.load_id].run(one, pasts[load.load_id]))
                    await asyncio.sleep(0)  # some milliseconds a load; wake-ups go on in between
        return Simulated(tuple(loads), tuple(found), len(every) - len(windows))

    def _loads(self, load_ids: Sequence[str], options: PlanOptions, check: CheckLoads) -> list[LoadInfo]:
        everything = self._switching.loads
        meant = resolve(load_ids, options.groups, everything.all() if options.groups else ())
        check(meant)
        if not 1 <= len(meant) <= MAX_LOADS or len(set(meant)) != len(meant):
            raise InvalidPlan(
                f"load_ids: a simulation takes 1 to {MAX_LOADS} different loads, not {len(meant)}",
                message_zh=f"仿真须有 1 到 {MAX_LOADS} 个不同的负载,实际 {len(meant)} 个",
                field="load_ids",
            )
        loads = [load for load_id in meant if (load := everything.get(load_id)) is not None]
        if len(loads) != len(meant):
            unknown = sorted(set(meant) - {load.load_id for load in loads})
            raise InvalidPlan(
                f"load_ids: the registry has no {', '.join(unknown)}",
                message_zh=f"档案中没有负载:{', '.join(unknown)}",
                field="load_ids",
                loads=[{"load_id": load_id, "reason": "unknown_load"} for load_id in unknown],
            )
        return loads

    def _check(self, schedule: Schedule, options: PlanOptions, loads: Sequence[LoadInfo]) -> None:
        policy = self._switching.policy
        check_schedule(schedule, min_off_s=policy.min_off_s, min_on_s=policy.min_on_s)
        check_stagger(options.stagger, schedule.windows, min_off_s=policy.min_off_s)
        check_conditions(options.conditions, has_meter=all(load.meter_device_id for load in loads))

    async def _pasts(
        self, window: WindowInstance, loads: Sequence[LoadInfo], options: PlanOptions, stale_after_s: float
    ) -> dict[LoadId, Past]:
        """Return what is known of each load around a window, back to where a guard or a condition may look."""
        lead_s = {Quantity.POWER: 0.0}
        for one in options.conditions.measured:
            lead_s[one.quantity] = max(lead_s.get(one.quantity, 0.0), one.for_s)
        latest = window.off_at + timedelta(seconds=options.stagger.within_s + self._switching.policy.off_grace_s + 1)
        values: dict[Quantity, Mapping[LoadId, Sequence[Sequence[Sample]]]] = {}
        for quantity, length_s in lead_s.items():
            start = window.off_at - timedelta(seconds=length_s + 2 * MAX_AGE_S[quantity])
            end = window.on_at if quantity is Quantity.POWER else min(latest, window.on_at)
            values[quantity] = await self._history.values(loads, quantity, start, end)
        since = window.off_at - timedelta(seconds=stale_after_s)
        states = await self._history.states(loads, since, min(latest, window.on_at))
        return {
            load.load_id: Past(
                powers=next(iter(values[Quantity.POWER].get(load.load_id, ())), ()),
                states=states.get(load.load_id, ()),
                values={quantity: by_load.get(load.load_id, ()) for quantity, by_load in values.items()},
            )
            for load in loads
        }

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Let a few run, each for a bounded time."""
        if self._running >= AT_ONCE:
            raise SimulationBusy(
                f"{AT_ONCE} simulations are running; ask again in a moment",
                message_zh=f"已有 {AT_ONCE} 个仿真正在运行,请稍后再试",
            )
        self._running += 1
        try:
            async with asyncio.timeout(TIME_LIMIT_S):
                yield
        except TimeoutError as exc:
            raise SimulationTooLong(
                f"the history did not tell everything within {TIME_LIMIT_S:g} s; ask for fewer loads or days",
                message_zh=f"历史数据未能在 {TIME_LIMIT_S:g} 秒内读完,请减少负载或天数",
            ) from exc
        finally:
            self._running -= 1


def _check_size(loads: int, windows: int) -> None:
    if windows == 0:
        raise InvalidPlan(
            "first_date: no window of these dates is over; a simulation is about past days",
            message_zh="所选日期内没有已结束的时段,仿真只针对过去的日期",
            field="first_date",
        )
    if loads * windows > MAX_LOAD_WINDOWS:
        raise InvalidPlan(
            f"last_date: a simulation takes at most {MAX_LOAD_WINDOWS} loads times windows,"
            f" not {loads} x {windows} = {loads * windows}",
            message_zh=f"仿真最多 {MAX_LOAD_WINDOWS} 个负载×时段,实际 {loads}×{windows}={loads * windows}",
            field="last_date",
        )


def _delays(
    plan_id: str, loads: Sequence[LoadInfo], windows: Sequence[WindowInstance], options: PlanOptions
) -> dict[tuple[LoadId, datetime], timedelta]:
    """Return by how much each load goes off after a window's start."""
    names = sorted(load.load_id for load in loads)
    starts = [window.start_local for window in windows]
    spread = offsets(plan_id, names, starts, options.stagger)
    shifts = spread.of_loads or [0] * len(names)
    return {
        (name, start): timedelta(seconds=(own + of_window) % spread.modulus)
        for name, own in zip(names, shifts, strict=True)
        for start, of_window in zip(starts, spread.of_windows, strict=True)
    }
