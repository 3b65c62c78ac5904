"""Plans and calendars as people handle them: draft, approve, end."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date, datetime, timedelta

from libs.common.bus import outbox
from libs.common.contracts.control import CommandState
from libs.common.db import Database, ReadConn, WriteConn
from libs.common.errors import Conflict, Forbidden, InvalidInput, NotFound
from libs.common.ids import LoadId, PlanId, SiteId, new_id
from services.control import bus
from services.control.domain import commands as life
from services.control.domain.apps import AppAction
from services.control.domain.audit import Entry, plan_step
from services.control.domain.calendars import Calendar
from services.control.domain.overlap import Overlap, find_overlap
from services.control.domain.plans import (
    MAX_LOADS,
    RANKS,
    InvalidPlan,
    Plan,
    PlanOptions,
    PlanState,
    Preview,
    Schedule,
    WindowInstance,
    check_conditions,
    check_schedule,
    check_stagger,
    ends_at,
    narrowed,
    require_transition,
    summary,
)
from services.control.domain.targets import NothingMeant, resolve
from services.control.store import commands as store
from services.control.store import loads as load_store
from services.control.store import occurrences as occurrence_store
from services.control.store import plans as plan_store
from services.control.store.plans import StoredPlan
from services.control.usecases.apps import admit, require_spans
from services.control.usecases.auditing import record
from services.control.usecases.calendars import fetch_days
from services.control.usecases.guardfacts import GuardFacts
from services.control.usecases.ports import SteadyClock
from services.control.usecases.scheduler import make_occurrences, sites_of
from services.control.usecases.switching import Switching

PLAIN = PlanOptions()
TOLD = timedelta(days=1)
"""Whoever follows occurrences is told that these do not come when a plan ends; of later ones nobody has heard."""
LOADS_AT_ONCE = 1000
"""A plan's loads are gone through in parts of so many; wake-ups go on in between."""
CheckLoads = Callable[[Sequence[LoadId]], None]


class Plans:
    """What people do with plans."""

    def __init__(
        self, *, db: Database, clock: SteadyClock, switching: Switching, guards: GuardFacts, two_persons: bool
    ) -> None:
        """Prepare.

        Args:
            db: Control's database.
            clock: The time.
            switching: Writes what follows for commands.
            guards: Knows the policies of the loads.
            two_persons: Whether whoever drafted a plan may not approve it.
        """
        self._db = db
        self._clock = clock
        self._switching = switching
        self._guards = guards
        self._two_persons = two_persons

    async def preview(
        self,
        load_ids: Sequence[str],
        schedule: Schedule,
        calendar_ids: Sequence[str],
        *,
        options: PlanOptions = PLAIN,
        check: CheckLoads = lambda _: None,
    ) -> Preview:
        """Return what a plan would amount to, without storing it.

        Raises:
            InvalidPlan: It cannot be followed; every load that may not be in it is listed.
        """
        plan = self._planned("", load_ids, schedule, calendar_ids, options, "")
        check(plan.load_ids)
        self._check(plan)
        async with self._db.read() as conn:
            return await self._amount(conn, plan)

    async def draft(
        self,
        name: str,
        load_ids: Sequence[str],
        schedule: Schedule,
        calendar_ids: Sequence[str],
        note: str | None,
        actor: str,
        door: str,
        *,
        options: PlanOptions = PLAIN,
        check: CheckLoads = lambda _: None,
        app: str | None = None,
    ) -> tuple[Plan, Preview]:
        """Store a draft.

        Args:
            name: What people call it.
            load_ids: Loads that are named one by one.
            schedule: When.
            calendar_ids: Calendars whose days off are exceptions.
            note: Anything.
            actor: Who drafts it.
            door: Through which door.
            options: Groups of loads, rank, and what else a plan may say.
            check: Raises when the caller may not switch these loads.
            app: The upstream app whose plan it is.

        Raises:
            InvalidPlan: It cannot be followed; every load that may not be in it is listed.
            NotAllowedToApp: The app's limits forbid it.
            TooManyOrders: The app has ordered too often.
        """
        if app is not None:  # a rank is a priority too, and that of an app is the lowest
            options = replace(options, rank=RANKS[-1])
        plan = replace(self._planned(name, load_ids, schedule, calendar_ids, options, actor), note=note, app=app)
        check(plan.load_ids)
        self._check(plan)
        async with self._db.write() as conn:
            judge = None if app is None else await admit(conn, app, AppAction.PLANS, (), plan.created_at)
            found = await self._amount(conn, plan)
            if app is not None and judge is not None:
                require_spans(judge, app, found.instances)
            await plan_store.insert(conn, plan)
            await self._tell(conn, plan, plan.created_at, actor)
            await record(conn, plan_step(None, plan, actor, door, "plan.draft", plan.created_at))
        return plan, found

    async def approve(self, plan_id: str, actor: str, door: str, *, check: CheckLoads = lambda _: None) -> Plan:
        """Put a draft into force, for the loads that its groups have now, and make its occurrences.

        Raises:
            NotFound: There is no such plan.
            PlanTransitionRefused: It is no draft.
            Forbidden: Policy asks for a second person.
            InvalidPlan: It has become impossible since it was drafted.
        """
        now = self._clock.now()
        async with self._db.write() as conn:
            stored = await self._lock(conn, plan_id)
            plan = stored.plan
            require_transition(plan_id, plan.state, PlanState.APPROVED)
            plan = replace(plan, load_ids=self._resolved(plan.named, plan.options))
            check(plan.load_ids)
            if plan.created_by == actor and await self._wants_second_person(conn, plan):
                raise Forbidden(
                    "policy asks that somebody else than its author approves a plan",
                    message_zh="按策略要求,节能策略须由制定者以外的人批准",
                )
            self._check(plan)
            approved = replace(plan, state=PlanState.APPROVED, approved_by=actor, approved_at=now)
            await plan_store.update_state(conn, approved)
            await self._tell(conn, approved, now, actor)
            await make_occurrences(conn, replace(stored, plan=approved), now, self._switching.policy)
            await record(conn, plan_step(stored.plan, approved, actor, door, "plan.approve", now))
        return approved

    async def _wants_second_person(self, conn: WriteConn, plan: Plan) -> bool:
        """Return whether the setting or the policy of one of the loads asks for it."""
        loads = [load for load_id in plan.load_ids if (load := self._switching.loads.get(load_id)) is not None]
        return self._two_persons or await self._guards.wants_second_person(conn, loads)

    async def end(self, plan_id: str, reason: str, actor: str, door: str) -> Plan:
        """End a plan before its time: nothing more is switched off; what is off is woken as it was going to be.

        Raises:
            NotFound: There is no such plan.
            PlanTransitionRefused: It has ended.
        """
        now = self._clock.now()
        async with self._db.write() as conn:
            plan = (await self._lock(conn, plan_id)).plan
            require_transition(plan_id, plan.state, PlanState.ENDED)
            ended = replace(plan, state=PlanState.ENDED, ended_by=actor, ended_at=now, end_reason=reason or "ended")
            await plan_store.update_state(conn, ended)
            await self._tell(conn, ended, now, actor)
            called_off = await occurrence_store.call_off(conn, plan_id, now, "plan_ended", told_until=now + TOLD)
            await outbox.put(
                conn, [bus.occurrence_event(one, None, self._site(one.load_id), now) for one in called_off]
            )
            await load_store.lock_loads(conn, plan.load_ids)
            running = await store.fetch_running(conn, plan.load_ids)
            unsent = [command for command in running if command.plan_id == plan_id and command.is_off
                      and command.state is CommandState.SCHEDULED and not command.was_sent]  # fmt: skip
            await self._switching.apply(
                conn, [life.cancelled(command, actor, "plan_ended", now) for command in unsent], now
            )
            await record(conn, plan_step(plan, ended, actor, door, "plan.end", now))
        return ended

    async def fetch(self, plan_id: str) -> tuple[Plan, Preview]:
        """Return a plan with what it amounts to; of a draft's groups with the loads that they have now.

        Raises:
            NotFound: There is no such plan.
        """
        async with self._db.read() as conn:
            plan = await plan_store.fetch(conn, plan_id)
            if plan is None:
                raise _no_plan(plan_id)
            if plan.state is PlanState.DRAFT:
                with suppress(NothingMeant):  # said when somebody approves it
                    plan = replace(plan, load_ids=self._resolved(plan.named, plan.options))
            return plan, await self._amount(conn, plan)

    async def export(self, plan_id: str) -> tuple[Plan, list[WindowInstance]]:
        """Return a plan with all its windows.

        Raises:
            NotFound: There is no such plan.
        """
        async with self._db.read() as conn:
            plan = await plan_store.fetch(conn, plan_id)
            if plan is None:
                raise _no_plan(plan_id)
            days = await fetch_days(conn, plan.schedule, plan.calendar_ids)
        return plan, list(days.instances(plan.schedule))

    async def put_calendar(
        self,
        calendar_id: str,
        name: str,
        source: str,
        days: Mapping[date, str],
        actor: str,
        door: str,
        *,
        working_days: Mapping[date, str] | None = None,
    ) -> Calendar:
        """Insert or replace a calendar; occurrences that exist already stay as they are.

        Raises:
            InvalidInput: A day is both worked and off.
            Conflict: Running plans use it; changing what they were approved with needs new plans.
        """
        now = self._clock.now()
        calendar = Calendar(calendar_id, name, source, days, actor, now, working_days or {})
        if both := sorted(calendar.days.keys() & calendar.working_days.keys()):
            raise InvalidInput(
                f"days: {both[0]} is both off and worked", message_zh=f"{both[0]} 既是休息日又是工作日", field="days"
            )
        async with self._db.write() as conn:
            using = await plan_store.plans_using(conn, calendar_id)
            if using:
                raise Conflict(
                    f"calendar {calendar_id} is used by running plans: {', '.join(using[:5])}",
                    message_zh=f"日历 {calendar_id} 正被运行中的策略使用:{', '.join(using[:5])}",
                    plans=using,
                )
            known = next(iter(await plan_store.fetch_calendars(conn, [calendar_id])), None)
            await plan_store.put_calendar(conn, calendar)
            entry = Entry(
                actor, door, "calendar.put", f"calendar:{calendar_id}", now,
                before=None if known is None else _days(known), after=_days(calendar), reason=source,
            )  # fmt: skip
            await record(conn, entry)
        return calendar

    def _planned(
        self,
        name: str,
        load_ids: Sequence[str],
        schedule: Schedule,
        calendar_ids: Sequence[str],
        options: PlanOptions,
        actor: str,
    ) -> Plan:
        return Plan(
            plan_id=PlanId(new_id()), name=name, state=PlanState.DRAFT, load_ids=self._resolved(load_ids, options),
            schedule=schedule, calendar_ids=tuple(calendar_ids), created_by=actor, created_at=self._clock.now(),
            named=tuple(LoadId(load_id) for load_id in load_ids), options=options,
        )  # fmt: skip

    def _resolved(self, load_ids: Sequence[str], options: PlanOptions) -> tuple[LoadId, ...]:
        return resolve(load_ids, options.groups, self._switching.loads.all() if options.groups else ())

    def _check(self, plan: Plan) -> None:
        load_ids, schedule = plan.load_ids, plan.schedule
        policy = self._switching.policy
        check_schedule(schedule, min_off_s=policy.min_off_s, min_on_s=policy.min_on_s)
        check_stagger(plan.options.stagger, schedule.windows, min_off_s=policy.min_off_s)
        loads = self._switching.loads
        has_meters = all((load := loads.get(load_id)) is None or load.meter_device_id for load_id in load_ids)
        check_conditions(plan.options.conditions, has_meter=has_meters)
        if plan.rank not in RANKS:
            raise InvalidPlan("rank: expected 1 to 100", message_zh="优先级应为 1 到 100", field="rank")
        end = ends_at(schedule)
        if end <= self._clock.now():
            raise InvalidPlan(
                f"last_date: the plan lies in the past, its last window ends at {end.isoformat()}",
                message_zh=f"策略已过期,其最后时段结束于 {end.isoformat()}",
                field="last_date",
            )
        if not 1 <= len(load_ids) <= MAX_LOADS or len(set(load_ids)) != len(load_ids):
            raise InvalidPlan(
                f"load_ids: expected 1 to {MAX_LOADS} different loads",
                message_zh=f"load_ids 应为 1 到 {MAX_LOADS} 个不同的负载",
                field="load_ids",
            )
        refused = [
            {"load_id": load_id, "reason": reason} for load_id in load_ids if (reason := self._obstacle(load_id))
        ]
        if refused:
            names = ", ".join(f"{one['load_id']} ({one['reason']})" for one in refused[:20])
            raise InvalidPlan(
                f"load_ids: {len(refused)} load(s) may not be in a plan: {names}",
                message_zh=f"{len(refused)} 个负载不能进入策略:{names}",
                field="load_ids",
                loads=refused,
            )

    def _obstacle(self, load_id: str) -> str | None:
        load = self._switching.loads.get(load_id)
        if load is None:
            return "unknown_load"
        if load.obstacle is None and not load.can_wake:
            return "no_line"
        limit_s = self._switching.policy.max_command_latency_s
        if load.obstacle is None and load.command_latency_s is not None and load.command_latency_s > limit_s:
            return "command_latency"
        return load.obstacle

    async def _amount(self, conn: ReadConn | WriteConn, plan: Plan) -> Preview:
        """Return what a plan amounts to, and which plans in force it meets.

        Raises:
            InvalidPlan: It is nothing.
        """
        days = await fetch_days(conn, plan.schedule, plan.calendar_ids)
        windows = list(days.instances(plan.schedule))
        if not windows:
            raise InvalidPlan(
                "the plan has no window: weekdays, exceptions and calendars leave no date",
                message_zh="策略没有任何时段:星期、例外日期和日历排除了所有日期",
                field="exceptions",
            )
        overlaps = await self._overlaps(conn, plan, windows)
        stays_on = await self._coverage(conn, plan)
        return replace(summary(windows), load_ids=plan.load_ids, overlaps=overlaps, stays_on=stays_on)

    async def _coverage(self, conn: ReadConn | WriteConn, plan: Plan) -> tuple[LoadId, ...]:
        """Return loads of the plan that will be refused night after night, as their policies stand now."""
        book = await self._guards.book(conn)
        loads = (self._switching.loads.get(load_id) for load_id in plan.load_ids)
        found: list[LoadId] = []
        for position, load in enumerate(loads):
            if position % LOADS_AT_ONCE == 0:
                await asyncio.sleep(0)
            if load is not None and load.keeps_coverage and book.of(load).policy.coverage_layer_stays:
                found.append(load.load_id)
        return tuple(found)

    async def _overlaps(
        self, conn: ReadConn | WriteConn, plan: Plan, windows: Sequence[WindowInstance]
    ) -> tuple[Overlap, ...]:
        if plan.state is PlanState.ENDED:
            return ()
        ahead = [window for window in windows if window.on_at > self._clock.now()]
        if not ahead:
            return ()
        first, last = min(one.off_at for one in ahead), max(one.on_at for one in ahead)
        found: list[Overlap] = []
        for other in await plan_store.fetch_sharing(conn, plan.plan_id, plan.load_ids, first, last):
            await asyncio.sleep(0)  # some milliseconds a plan
            days = await fetch_days(conn, other.schedule, other.calendar_ids)
            overlap = find_overlap(plan, ahead, other, list(days.instances(narrowed(other.schedule, first, last))))
            if overlap is not None:
                found.append(overlap)
        return tuple(sorted(found, key=lambda one: (one.rank, one.first_at, one.plan_id)))

    async def _tell(self, conn: WriteConn, plan: Plan, now: datetime, actor: str) -> None:
        sites = sites_of(plan.load_ids, self._switching.loads)
        await outbox.put(conn, [bus.plan_event(plan, sites, now, actor=actor)])

    def _site(self, load_id: str) -> SiteId:
        load = self._switching.loads.get(load_id)
        return SiteId("platform") if load is None else load.site_id

    async def _lock(self, conn: WriteConn, plan_id: str) -> StoredPlan:
        stored = await plan_store.lock(conn, plan_id)
        if stored is None:
            raise _no_plan(plan_id)
        return stored


def _no_plan(plan_id: str) -> NotFound:
    return NotFound(f"no plan {plan_id}", message_zh=f"没有策略 {plan_id}")


def _days(calendar: Calendar) -> dict[str, object]:
    return {
        "name": calendar.name,
        "source": calendar.source,
        "days": {day.isoformat(): text for day, text in sorted(calendar.days.items())},
        "working_days": {day.isoformat(): text for day, text in sorted(calendar.working_days.items())},
    }
