"""The scheduler: what becomes of plans, occurrences and commands because time passes.

One replica runs it at a time. Every step is a transaction of its own over a set of rows, and everything that a
step depends on is in the database, so that it can be killed between any two of them.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from libs.common.bus import outbox
from libs.common.contracts.alarm import AlarmLevel, ConditionKind
from libs.common.contracts.base import Phase
from libs.common.contracts.control import CommandAction, CommandState, OccurrenceState, Priority
from libs.common.db import Database, WriteConn
from libs.common.errors import InvalidInput
from libs.common.ids import OccurrenceId, SiteId
from services.control import bus, metrics
from services.control.domain.apps import AppJudge
from services.control.domain.audit import CLOCKWORK, SERVICE, Entry, plan_step
from services.control.domain.commands import Change, Command, on_due, wait
from services.control.domain.conditions import Samples, refusal
from services.control.domain.guards import Facts, Policy
from services.control.domain.inrush import REASON as INRUSH
from services.control.domain.inrush import Inrush, InrushLimits
from services.control.domain.loads import LoadInfo
from services.control.domain.plans import Plan, PlanState
from services.control.domain.refusals import Refusal
from services.control.store import apps as app_store
from services.control.store import commands as store
from services.control.store import leases as lease_store
from services.control.store import loads as load_store
from services.control.store import occurrences as occurrence_store
from services.control.store import orders as order_store
from services.control.store import places as place_store
from services.control.store import plans as plan_store
from services.control.store.commands import DueRow
from services.control.store.occurrences import Occurrence
from services.control.store.plans import StoredPlan
from services.control.usecases.apps import judge_again, judge_planned
from services.control.usecases.auditing import record, record_skipped
from services.control.usecases.calendars import fetch_days
from services.control.usecases.guardfacts import GuardFacts, Judge
from services.control.usecases.isolations import end_isolation
from services.control.usecases.ports import ClockSync, Loads, Readings, SteadyClock
from services.control.usecases.rush import Rush
from services.control.usecases.switching import Switching, Wanted
from services.control.usecases.waking import Waking

logger = logging.getLogger(__name__)

BATCH = 1000
"""Commands or occurrences in one transaction."""
HORIZON = timedelta(days=62)
"""How far ahead occurrences are made."""
PLANS_AT_A_TIME = 100
OCCURRENCES_AT_A_TIME = 100_000
"""Made in one transaction, half a second or so: no wake-up that comes due meanwhile may wait longer."""
NEAR = timedelta(days=2)
"""Occurrences are followed, and found by time, from so long before their window."""
REACH = timedelta(hours=27)
"""Windows that may touch one that is about to begin begin within this: a day, the longest, and some hours."""
WINDOWS_AT_A_TIME = 100
HORIZON_STEP = timedelta(days=1)
"""They are made again when the horizon has moved by this much."""
IDEMPOTENCY_KEPT = timedelta(days=7)
LEASES_KEPT = timedelta(days=7)
PLACES_KEPT = timedelta(days=14)
"""Ended alarms and windows; longer than the bus keeps their topics, so that none comes again as new."""
EXPIRY_WARNING = timedelta(minutes=30)
"""A person hears this long before an isolation ends."""


class Scheduler:
    """One tick at a time; who ticks and how often is the worker's matter."""

    def __init__(
        self,
        *,
        db: Database,
        clock: SteadyClock,
        sync: ClockSync,
        readings: Readings,
        samples: Samples,
        switching: Switching,
        guards: GuardFacts,
        prepare_s: float,
        watchdog_required: bool,
        inrush: InrushLimits | None = None,
        answers_come: Callable[[], bool] = lambda: False,
        rush: Rush,
    ) -> None:
        """Prepare a scheduler.

        Args:
            db: Control's database.
            clock: Time that no setting of the wall clock holds back.
            sync: Whether the wall clock is right.
            readings: What the direct door last said.
            samples: What conditions of plans compare.
            switching: Writes what follows.
            guards: Reads what the guards have to know.
            prepare_s: How long before its OFF an occurrence gets its commands. [s]
            watchdog_required: Whether an OFF waits for the watchdog's acknowledgement.
            inrush: How many planned wake-ups are sent at once.
            answers_come: Whether the lines have answered anything within the last seconds.
            rush: Hears of many wake-ups at once.
        """
        self._db = db
        self._clock = clock
        self._sync = sync
        self._readings = readings
        self._samples = samples
        self._switching = switching
        self._guards = guards
        self._prepare = timedelta(seconds=prepare_s)
        self._watchdog_required = watchdog_required
        self._inrush = Inrush(inrush or InrushLimits())
        self._answers_come = answers_come
        self._housekept_at: datetime | None = None
        self._made: StoredPlan | None = None
        """The plan whose occurrences were made last."""
        self.waking = Waking(db=db, switching=switching, readings=readings, answers_come=answers_come, rush=rush)

    @property
    def _loads(self) -> Loads:
        return self._switching.loads

    @property
    def _policy(self) -> Policy:
        return self._switching.policy

    async def recover(self) -> None:
        """Take up everything that a scheduler before us left in whatever state."""
        async with self._db.write() as conn:
            left = await store.recover(conn, self._clock.now())
        logger.info("scheduler takes over", extra={"commands": left})

    async def tick(self) -> bool:
        """Do what is due; returns whether there may be more at once."""
        now = self._clock.now()
        # Wake-ups first: nothing that plans shutdowns may delay them.
        busy = await self.waking.turn(now)
        busy |= await self.run_due(now)
        if not busy:
            await self.believe_clock(now)
        await self.note_overdue(now)
        await self.expire_isolations(now)
        busy |= await self.advance_plans(now)
        busy |= await self.bring_near(now)
        busy |= await self.prepare(now)
        await self._housekeep(now)
        return busy

    # Commands.

    async def run_due(self, now: datetime) -> bool:
        """Move on every command whose time has come."""
        problem = self.clock_problem()
        async with self._db.write() as conn:
            rows = await store.due(conn, now, BATCH)
            apps = await self._judge_apps(conn, rows, now)
            changes = self._decide(rows, now, problem, await self._judge(conn, rows, now), apps)
            await self._switching.apply(conn, changes, now)
        return len(rows) >= BATCH

    async def _judge(self, conn: WriteConn, rows: list[DueRow], now: datetime) -> Judge:
        """Read what the guards have to know of the OFFs that may be sent now; a wake-up asks for nothing."""
        offs = [row.command for row in rows if row.command.is_off and row.command.state is CommandState.SCHEDULED]
        if not offs:
            return self._guards.settings_only()
        return await self._guards.judge(conn, [self._loads.get(off.load_id) for off in offs], now, sending=True)

    async def _judge_apps(self, conn: WriteConn, rows: list[DueRow], now: datetime) -> AppJudge | None:
        """Read what the limits of upstream apps say of their OFFs that may be sent now; None where there are none."""
        offs = [
            row.command for row in rows
            if row.command.priority is Priority.UPSTREAM_APP and row.command.is_off
            and row.command.state is CommandState.SCHEDULED
        ]  # fmt: skip
        if not offs:
            return None
        return await judge_again(conn, {off.actor for off in offs}, {off.site_id for off in offs}, now)

    def _decide(
        self, rows: list[DueRow], now: datetime, problem: str | None, judge: Judge, apps: AppJudge | None
    ) -> list[Change]:
        changes: list[Change] = []
        taken: set[str] = set()
        for row in rows:
            command = row.command
            load = self._loads.get(command.load_id)
            facts = self._facts(row, load, problem, busy=row.busy or command.device_id in taken)
            if command.is_off:
                facts = replace(facts, condition=self._condition(row, now), caller=_caller(command, load, apps, now))
                facts = judge.add_to(facts, load)
            change = on_due(command, facts, now, judge.policy(load))
            if change.after.attempt > command.attempt and self._inrush.must_wait(command, now):
                change = wait(command, now, INRUSH, self._inrush.limits.step_s)
            elif change.after.attempt > command.attempt:
                # Of several that are due for one device only the most urgent is sent in this round.
                taken.add(command.device_id)
                if command.is_off:
                    judge.passed(load)
            changes.append(change)
        return changes

    def _facts(self, row: DueRow, load: LoadInfo | None, problem: str | None, *, busy: bool) -> Facts:
        return Facts(
            reading=self._readings.of(row.command.load_id),
            obstacle=_obstacle(load, row),
            busy=busy,
            lease_acknowledged=row.lease_acknowledged or not self._watchdog_required,
            isolation_id=row.isolation_id,
            emergency=row.suspended_by,
            released_trip=row.released_trip,
            clock_problem=problem,
            command_latency_s=None if load is None else load.command_latency_s,
            already_off=row.already_off,
            last_on_at=row.last_on_at,
            offs_last_day=row.offs_last_day,
            answers_come=self._answers_come(),
        )

    def _condition(self, row: DueRow, now: datetime) -> Refusal | None:
        return refusal(plan_store.conditions_of(row.conditions), row.command.load_id, self._samples, now)

    def clock_problem(self) -> str | None:
        """Return why no OFF may be sent by our clock, None when it may."""
        return self._clock.problem() or self._sync.problem()

    async def believe_clock(self, now: datetime) -> None:
        """Follow the wall clock; after somebody has put it back, only when no wake-up depends on it any more.

        Args:
            now: Everything that was due by then has been done.
        """
        jump_s = self._clock.jump_s()
        metrics.CLOCK_JUMP.set(jump_s)
        if self._clock.problem() is None:
            self._clock.settle(None, now)
            return
        async with self._db.read() as conn:
            leases = await lease_store.open_leases(conn)
        last = max((lease.restore_at for lease in leases if lease.isolation_id is None), default=None)
        if self._clock.settle(last, now):
            logger.warning("the wall clock was set and is believed again", extra={"jump_s": jump_s})
            async with self._db.write() as write:
                new = self._clock.now()
                await store.follow_clock(write, now, new)
                entry = Entry(
                    CLOCKWORK, SERVICE, "clock.follow", "clock:control", new, before={"time": now, "jump_s": jump_s},
                    after={"time": new}, reason="the wall clock was set, and no wake-up depends on the old time",
                )  # fmt: skip
                await record(write, entry)

    # Overdue wake-ups.

    async def note_overdue(self, now: datetime) -> None:
        """Raise the alarm for wake-ups that are not verified in time."""
        limit = now - timedelta(seconds=self._policy.overdue_margin_s)
        async with self._db.write() as conn:
            late = await store.newly_overdue(conn, limit, BATCH)
            changes = [
                Change(command, replace(command, alarmed=True), now, {"not_before": command.not_before.isoformat()})
                for command in late
            ]
            await self._switching.apply(conn, changes, now)
            await outbox.put(
                conn,
                [
                    bus.condition(
                        ConditionKind.WAKE_UP_OVERDUE, Phase.BEGIN, load_id=command.load_id, site_id=command.site_id,
                        device_id=command.device_id, at=now, text="overdue", detail=command.reason or None,
                    )
                    for command in late
                ],
            )  # fmt: skip
        for command in late:
            logger.error("wake-up overdue", extra={"load_id": command.load_id, "command_id": command.command_id})
        async with self._db.read() as read:
            metrics.OVERDUE.set(await store.count_overdue(read, limit))

    # Plans and occurrences.

    async def advance_plans(self, now: datetime) -> bool:
        """Activate and end plans, make the occurrences that the horizon has reached; returns whether more are due."""
        async with self._db.write() as conn:
            steps = await plan_store.advance_states(conn, now)
            changed = [plan for _, plan in steps]
            await outbox.put(
                conn,
                [bus.plan_event(one, sites_of(one.load_ids, self._loads), now, actor=None) for one in changed],
            )
            await record(conn, *(_turned(before, plan, now) for before, plan in steps))
            more = await self._extend_plans(conn, now)
        for plan in changed:
            logger.info("plan changes its state", extra={"plan_id": plan.plan_id, "state": plan.state.value})
        return more

    async def _extend_plans(self, conn: WriteConn, now: datetime) -> bool:
        """Make some of the occurrences that the horizon has reached; returns whether there may be more."""
        room = OCCURRENCES_AT_A_TIME
        for _ in range(PLANS_AT_A_TIME):
            if room <= 0:
                return True
            stored = await plan_store.lock_to_make(conn, now + HORIZON - HORIZON_STEP, self._made)
            self._made = stored
            if stored is None:
                return False
            await occurrence_store.make_lazily(conn)
            try:
                room -= await make_occurrences(conn, stored, now, self._policy, room=room)
            except InvalidInput as exc:  # no fault of one plan may hold up the others; tried again tomorrow
                await plan_store.set_made_until(conn, stored.plan.plan_id, now + HORIZON)
                await record(conn, _not_followed(stored, exc, now))
                logger.error("plan cannot be followed", extra={"plan_id": stored.plan.plan_id, "reason": exc.message})
        return True

    async def bring_near(self, now: datetime) -> bool:
        """Follow the occurrences whose windows have come near; returns whether more are due."""
        async with self._db.write() as conn:
            windows = await occurrence_store.lock_distant(conn, now + NEAR, WINDOWS_AT_A_TIME)
            room = OCCURRENCES_AT_A_TIME
            for window in windows:
                if room <= 0:
                    break
                room -= await occurrence_store.bring_near(conn, window)
        return room <= 0 or len(windows) >= WINDOWS_AT_A_TIME

    async def prepare(self, now: datetime) -> bool:
        """Give the occurrences that are about to begin their OFF, their ON and their lease, in one transaction."""
        async with self._db.write() as conn:
            if await occurrence_store.has_distant(conn, now + REACH):
                return False  # after days away: which plan prevails is known when all that may meet are near
            occurrences = await occurrence_store.lock_due(conn, now + self._prepare, BATCH)
            if not occurrences:
                return False
            load_ids = [occurrence.load_id for occurrence in occurrences]
            await load_store.lock_loads(conn, load_ids)
            known = await load_store.facts_of(conn, load_ids, now)
            running = await store.fetch_running(conn, load_ids, CommandAction.OPEN)
            keys = [occurrence_store.key_of(one.occurrence_id) for one in occurrences]
            outranked = await occurrence_store.fetch_outranked(conn, keys)
            pending = {command.load_id for command in running if command.state is not CommandState.APPROVAL}
            owners = await app_store.fetch_owners(conn, {one.plan_id for one in occurrences})
            apps = await self._judge_planned(conn, occurrences, owners, now)
            wanted: list[Wanted] = []
            skipped: list[tuple[Occurrence, str]] = []
            for occurrence in occurrences:
                load = self._loads.get(occurrence.load_id)
                reason = self._skip_reason(occurrence, load, known[occurrence.load_id].suspended_by, now)
                if reason is None and occurrence_store.key_of(occurrence.occurrence_id) in outranked:
                    reason = "outranked"
                if reason is None and occurrence.load_id in pending:
                    reason = "already_off"
                app = owners.get(occurrence.plan_id)
                if app is not None and app in apps.busy and reason is None:
                    continue  # somebody is counting what it has off; looked at again in a moment
                if app is not None and load is not None and reason is None:
                    refusal = apps.refusal(app, load, occurrence.off_at, occurrence.on_at)
                    reason = None if refusal is None else refusal.guard
                if reason is not None or load is None:
                    skipped.append((occurrence, reason or "unknown_load"))
                    continue
                pending.add(occurrence.load_id)
                if app is not None:
                    apps.passed(app)
                wanted.append(_shutdown(occurrence, load, app))
            offs = await self._switching.shut_down(conn, wanted, now)
            await occurrence_store.set_commands(
                conn,
                [(OccurrenceId(str(off.occurrence_id)), off.command_id, str(off.pair_id)) for off in offs],
                now,
            )
            await self._skip(conn, skipped, owners, now)
        return len(occurrences) >= BATCH

    async def _judge_planned(
        self, conn: WriteConn, occurrences: list[Occurrence], owners: Mapping[str, str], now: datetime
    ) -> AppJudge:
        """Read what the limits of upstream apps say of shutdowns by their plans."""
        if not owners:
            return AppJudge({})
        loads = (self._loads.get(one.load_id) for one in occurrences if one.plan_id in owners)
        sites = {load.site_id for load in loads if load is not None}
        return await judge_planned(conn, set(owners.values()), sites, now)

    def _skip_reason(
        self, occurrence: Occurrence, load: LoadInfo | None, suspended_by: str | None, now: datetime
    ) -> str | None:
        if load is None:
            return "unknown_load"
        if load.obstacle is not None:
            return load.obstacle
        if not load.can_wake:
            return "no_line"
        if suspended_by is not None:
            return "emergency"
        if now > occurrence.off_at + timedelta(seconds=self._policy.off_grace_s):
            return "too_late"
        if (occurrence.on_at - now).total_seconds() < self._policy.min_off_s:
            return "too_little_left"
        return None

    async def _skip(
        self, conn: WriteConn, skipped: list[tuple[Occurrence, str]], owners: Mapping[str, str], now: datetime
    ) -> None:
        rows = [(occurrence.occurrence_id, OccurrenceState.SKIPPED, reason, None, None)
                for occurrence, reason in skipped]  # fmt: skip
        messages = []
        found = await occurrence_store.set_states(conn, rows, now)
        for occurrence in found:
            load = self._loads.get(occurrence.load_id)
            site_id = SiteId("platform") if load is None else load.site_id
            app = owners.get(occurrence.plan_id)
            messages.append(bus.occurrence_event(occurrence, None, site_id, now, app=app))
        await outbox.put(conn, messages)
        await record_skipped(conn, found, owners, now)

    # Isolations.

    async def expire_isolations(self, now: datetime) -> None:
        """End isolations whose time is over, which wakes their loads, and warn before."""
        async with self._db.write() as conn:
            expiring = await order_store.lock_expiring(conn, now, now + EXPIRY_WARNING)
            for isolation in expiring:
                if isolation.expires_at <= now:
                    await end_isolation(
                        conn, self._switching, isolation, now, actor=CLOCKWORK, door=SERVICE, why="expired"
                    )
                    continue
                await order_store.update_isolation(conn, replace(isolation, warned=True))
                message = bus.condition(
                    ConditionKind.ISOLATION_ACTIVE, Phase.UPDATE, load_id=isolation.load_id,
                    site_id=isolation.site_id, at=now, text="isolation_expiring", level=AlarmLevel.MAJOR,
                    detail=isolation.expires_at.isoformat(),
                )  # fmt: skip
                await outbox.put(conn, [message])

    async def _housekeep(self, now: datetime) -> None:
        if self._housekept_at is not None and now - self._housekept_at < timedelta(hours=1):
            return
        async with self._db.write() as conn:
            await order_store.forget_keys(conn, now - IDEMPOTENCY_KEPT)
            await lease_store.forget_leases(conn, now - LEASES_KEPT)
            await place_store.forget_alarms(conn, now - PLACES_KEPT)
            await place_store.forget_windows(conn, now - PLACES_KEPT)
        self._housekept_at = now


def sites_of(load_ids: Collection[str], loads: Loads) -> set[SiteId]:
    """Return where loads are; one that the registry does not know any more is nowhere."""
    return {load.site_id for load_id in load_ids if (load := loads.get(load_id)) is not None}


async def make_occurrences(
    conn: WriteConn, stored: StoredPlan, now: datetime, policy: Policy, *, room: int = OCCURRENCES_AT_A_TIME
) -> int:
    """Make a locked plan's occurrences from where they end up to the horizon; returns how many are new.

    Args:
        conn: The transaction.
        stored: The plan.
        now: The time.
        policy: Limits.
        room: How many there may be; whole windows are made, one at least, and the next call goes on behind them.

    Raises:
        InvalidInput: A calendar does not say any more what it said when the plan was approved.
    """
    plan, made_until, until = stored.plan, stored.made_until, now + HORIZON
    late = timedelta(seconds=policy.off_grace_s + plan.options.stagger.within_s)
    days = await fetch_days(conn, plan.schedule, plan.calendar_ids)
    found = [
        instance
        for instance in days.instances(plan.schedule)
        if instance.off_at + late > now and (made_until is None or instance.off_at >= made_until)
        and instance.off_at < until
    ]  # fmt: skip
    found.sort(key=lambda instance: instance.off_at)
    at_once = max(room // len(plan.load_ids), 1)
    # The next call goes on with the instant at which this one ends.
    while at_once < len(found) and found[at_once].off_at == found[at_once - 1].off_at:
        at_once += 1
    made, left = found[:at_once], found[at_once:]
    await plan_store.set_made_until(conn, plan.plan_id, left[0].off_at if left else until)
    return await occurrence_store.insert(conn, plan, stored.plan_no, made, now, near_until=now + NEAR)


def _turned(before: Plan, plan: Plan, now: datetime) -> Entry:
    """Return the record of a plan whose hour has come."""
    ended = plan.state is PlanState.ENDED
    return plan_step(
        before, plan, CLOCKWORK, SERVICE, "plan.end" if ended else "plan.activate", now,
        why=None if ended else "first_date_reached",
    )  # fmt: skip


def _not_followed(stored: StoredPlan, exc: InvalidInput, now: datetime) -> Entry:
    """Return the record of a plan of which no further occurrence can be made."""
    return Entry(
        CLOCKWORK, SERVICE, "plan.follow", f"plan:{stored.plan.plan_id}", now, before={"made_until": stored.made_until},
        after={"code": exc.code, "passed_until": now + HORIZON}, reason=exc.message, succeeded=False,
    )  # fmt: skip


def _obstacle(load: LoadInfo | None, row: DueRow) -> str | None:
    """Return why the load may not be switched off; a sector is asked of plans only."""
    if load is None:
        return "unknown_load"
    return load.obstacle if row.command.plan_id is not None else load.off_obstacle


def _caller(command: Command, load: LoadInfo | None, apps: AppJudge | None, now: datetime) -> Refusal | None:
    """Return what speaks against an upstream app's OFF now that spoke not against its acceptance."""
    if apps is None or load is None or command.priority is not Priority.UPSTREAM_APP:
        return None
    return apps.standing(command.actor, load, now, command.restore_at)


def _shutdown(occurrence: Occurrence, load: LoadInfo, app: str | None) -> Wanted:
    return Wanted(
        load=load,
        off_at=occurrence.off_at,
        restore_at=occurrence.on_at,
        priority=Priority.SCHEDULE if app is None else Priority.UPSTREAM_APP,
        actor=f"plan:{occurrence.plan_id}" if app is None else app,
        occurrence_id=occurrence.occurrence_id,
        plan_id=occurrence.plan_id,
    )
