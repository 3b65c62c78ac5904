"""What people and upstream apps order at once: switching, waking, calling off, releasing a trip."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from libs.common.contracts.control import CommandAction, CommandState, Priority
from libs.common.db import Database, WriteConn
from libs.common.errors import Conflict, InvalidInput, NotFound
from libs.common.ids import LoadId, new_id
from services.control.domain import commands as life
from services.control.domain.apps import OPTED_OUT, AppAction, AppJudge
from services.control.domain.audit import Entry
from services.control.domain.commands import Command, Effect
from services.control.domain.faults import Fault
from services.control.domain.guards import PROTECTION_TRIPS, Facts, off_refusals
from services.control.domain.loads import LoadInfo
from services.control.domain.refusals import Refusal
from services.control.store import commands as store
from services.control.store import leases as lease_store
from services.control.store import loads as load_store
from services.control.store import lookup
from services.control.store import orders as order_store
from services.control.store import wakeups as progress_store
from services.control.store import waking as waking_store
from services.control.store.loads import LoadRow
from services.control.store.orders import WakeUp
from services.control.store.wakeups import Counted, WakeLoad, Which
from services.control.usecases.apps import admit, judge_agreed
from services.control.usecases.auditing import record
from services.control.usecases.guardfacts import GuardFacts, Judge
from services.control.usecases.isolations import SamePerson
from services.control.usecases.ports import Readings, SteadyClock
from services.control.usecases.scheduler import Scheduler
from services.control.usecases.switching import Switching, Wanted

logger = logging.getLogger(__name__)

S = CommandState
MAX_GROUP = 20_000
"""Loads in one request."""
APPROVE_WITHIN_S = 3600.0
"""An order that nobody has agreed to is over this long after the OFF it asked for. [s]"""


@dataclass(frozen=True, slots=True)
class SwitchOrder:
    """A request to switch loads."""

    action: CommandAction
    load_ids: tuple[str, ...]
    actor: str
    door: str
    priority: Priority
    not_before: datetime | None = None
    not_after: datetime | None = None
    """Until when an OFF may be sent; until then it waits for guards that may pass."""
    restore_at: datetime | None = None
    reason: str | None = None
    by_app: bool = False
    """The actor is an upstream app, which may do what its limits say and nothing else."""
    take_by: datetime | None = None
    """When whoever sent an OFF gives up waiting for it to be taken; what it orders after that must come after it."""


class OrderTooLate(Conflict):
    """Whoever sent the OFF has given up waiting for it to be taken."""

    code = "order_too_late"
    title_zh = "命令到达过晚"


@dataclass(frozen=True, slots=True)
class Group:
    """What became of a request: commands, and loads that were refused with guard, value and limit."""

    group_id: str
    action: CommandAction
    actor: str
    created_at: datetime
    commands: tuple[Command, ...]
    refused: tuple[Mapping[str, object], ...]

    @property
    def opted_out(self) -> bool:
        """Whether a site's opt-out is among the answers."""
        return any(one["guard"] == OPTED_OUT for one in self.refused)

    @property
    def state(self) -> CommandState:
        """State of the whole: PARTIAL when some loads succeeded and others did not or were refused."""
        states = [command.state for command in self.commands if command.action is self.action]
        states += [S.REJECTED] * len(self.refused)
        return life.group_state(states)

    @property
    def by_state(self) -> dict[str, int]:
        """How many of what was asked for are in which state; wake-ups of OFFs and refused loads are not counted."""
        return dict(Counter(command.state.value for command in self.commands if command.action is self.action))


@dataclass(frozen=True, slots=True)
class WakeOrder:
    """One key: wake these loads, whatever else was wanted."""

    scope: str
    target: str
    loads: tuple[LoadInfo, ...]
    actor: str
    door: str
    reason: str
    suspends: bool = True
    """Whether plans over these loads rest until somebody releases the order."""


@dataclass(frozen=True, slots=True)
class WakeProgress:
    """How far a wake-up order is."""

    order: WakeUp
    loads: int
    """Those with a breaker."""
    commanded: int
    accepted: int
    verified: int
    held: int
    """Stopped by an isolation, a lock or a trip; a person was called."""
    failed: int
    """Not awake, and it is known what is the matter; tried on all the same."""
    faults: Mapping[Fault, int]
    """How many loads have which; ``no_power`` ones are awake, and nobody ever switched ``no_breaker`` ones off."""


class Orders:
    """Switching and waking at once."""

    def __init__(
        self,
        *,
        db: Database,
        clock: SteadyClock,
        switching: Switching,
        readings: Readings,
        scheduler: Scheduler,
        guards: GuardFacts,
    ) -> None:
        self._db = db
        self._clock = clock
        self._switching = switching
        self._readings = readings
        self._scheduler = scheduler
        self._guards = guards

    # Switching.

    async def switch(self, conn: WriteConn, order: SwitchOrder) -> Group:
        """Take an order in the caller's transaction; loads that a guard refuses are listed, the others go on.

        Also a group of which everything was refused is kept: the attempt is on record.

        Raises:
            InvalidInput: No end is given for an OFF, or no load, or too many.
            OrderTooLate: The loads of an OFF are ours only after its ``take_by``; nothing of it is kept.
        """
        now = self._clock.now()
        self._check(order, now)
        group_id = new_id()
        await load_store.lock_loads(conn, order.load_ids)
        self._check_in_time(order)
        apps = await self._judge_app(conn, order, now)
        if order.action is CommandAction.OPEN:
            commands, refused = await self._switch_off(conn, order, group_id, now, apps)
        else:
            commands, refused = await self._switch_on(conn, order, group_id, now, apps)
        await store.insert_group(conn, group_id, order.action.value, order.actor, now, refused)
        facts = {
            "loads": list(order.load_ids),
            "refused": refused,
            "priority": order.priority.name.lower(),
            "not_before": order.not_before,
            "restore_at": order.restore_at,
        }
        entry = Entry(
            order.actor, order.door, f"command.{order.action.value}", f"group:{group_id}", now, after=facts,
            reason=order.reason, succeeded=bool(commands) or any(one["guard"] == OPTED_OUT for one in refused),
        )  # fmt: skip
        await record(conn, entry)
        return Group(group_id, order.action, order.actor, now, tuple(commands), tuple(refused))

    async def _judge_app(self, conn: WriteConn, order: SwitchOrder, now: datetime) -> AppJudge | None:
        """Return what judges an upstream app's order by its caller, None for everybody else's.

        Raises:
            NotAllowedToApp: The app's limits do not have the action.
            TooManyOrders: The app has ordered too often.
        """
        loads = (self._switching.loads.get(load_id) for load_id in order.load_ids)
        sites = {load.site_id for load in loads if load is not None}
        if order.by_app:
            action = AppAction.OFF if order.action is CommandAction.OPEN else AppAction.ON
            return await admit(conn, order.actor, action, sites, now)
        if order.priority is Priority.UPSTREAM_APP:
            return await judge_agreed(conn, order.actor, sites, now)
        return None

    def _check(self, order: SwitchOrder, now: datetime) -> None:
        if not 1 <= len(order.load_ids) <= MAX_GROUP or len(set(order.load_ids)) != len(order.load_ids):
            raise InvalidInput(
                f"load_ids: expected 1 to {MAX_GROUP} different loads",
                message_zh=f"load_ids 应为 1 到 {MAX_GROUP} 个不同的负载",
                field="load_ids",
            )
        if order.action is not CommandAction.OPEN:
            if order.not_after is not None:
                raise InvalidInput(
                    "not_after: an ON is repeated until it is proven, it has no end",
                    message_zh="not_after:合闸命令重复执行直到确认,不设截止时间",
                    field="not_after",
                )
            return
        start = order.not_before or now
        self._check_not_after(order, start, now)
        if order.restore_at is None:
            raise InvalidInput(
                "restore_at: every OFF carries the time of its wake-up; an open-ended one is an isolation",
                message_zh="每个分闸命令都必须带唤醒时间 restore_at;无限期停电须走检修隔离",
                field="restore_at",
            )
        if (order.restore_at - start).total_seconds() < self._switching.policy.min_off_s:
            raise InvalidInput(
                f"restore_at: less than the minimum off time of {self._switching.policy.min_off_s:g} s after the OFF",
                message_zh=f"restore_at 距分闸时间不足最小关断时长 {self._switching.policy.min_off_s:g} 秒",
                field="restore_at",
            )

    def _check_not_after(self, order: SwitchOrder, start: datetime, now: datetime) -> None:
        grace_s = self._switching.policy.off_grace_s
        latest = start + timedelta(seconds=grace_s)
        if order.not_after is not None and not max(start, now) < order.not_after <= latest:
            raise InvalidInput(
                f"not_after: expected a time after the OFF and at most {grace_s:g} s after it,"
                f" so until {latest.isoformat()}, not {order.not_after.isoformat()}",
                message_zh=f"not_after 应晚于分闸时间且不超过其后 {grace_s:g} 秒(至 {latest.isoformat()}),"
                f"实际为 {order.not_after.isoformat()}",
                field="not_after",
            )

    def _check_in_time(self, order: SwitchOrder) -> None:
        """Check, with the loads locked, that an OFF is not taken behind what its sender has ordered since.

        Who got no answer has told somebody that the load was not switched off, and may have ordered an ON; that one
        waits for the lock, or has had it.
        """
        if order.action is not CommandAction.OPEN or order.take_by is None:
            return
        now = self._clock.now()
        if now > order.take_by:
            logger.warning("OFF came too late", extra={"actor": order.actor, "loads": len(order.load_ids)})
            raise OrderTooLate(
                f"Take-By: nobody waits for this OFF since {order.take_by.isoformat()}, now it is {now.isoformat()}",
                message_zh=f"Take-By:下令方已于 {order.take_by.isoformat()} 停止等待,当前为 {now.isoformat()}",
            )

    async def _switch_off(
        self, conn: WriteConn, order: SwitchOrder, group_id: str, now: datetime, apps: AppJudge | None
    ) -> tuple[list[Command], list[dict[str, object]]]:
        found = await self._sort(conn, order, now, apps)
        wanted = [
            Wanted(
                load=load, off_at=order.not_before or now, restore_at=order.restore_at, priority=order.priority,
                actor=order.actor, group_id=group_id, not_after=order.not_after, note=order.reason,
            )
            for load in found.passing
        ]  # fmt: skip
        refused = [{"load_id": load_id, **refusal.as_evidence()} for load_id, refusal in found.refused.items()]
        if any(found.judge.policy(load).wants_second_person(len(order.load_ids)) for load in found.passing):
            # Until somebody agrees nothing else gives way, and no lease is made.
            approve_by = (order.not_before or now) + timedelta(seconds=APPROVE_WITHIN_S)
            if order.restore_at is not None:
                approve_by = min(approve_by, order.not_after or approve_by)
                approve_by = min(approve_by, order.restore_at - timedelta(seconds=self._switching.policy.min_off_s))
            return await self._switching.shut_down(conn, wanted, now, approve_by=approve_by), refused
        changes = [life.superseded(other, group_id, now, Effect.DROP_WAKE_UP) for other in found.gives_way]
        await self._switching.apply(conn, changes, now)
        return await self._switching.shut_down(conn, wanted, now), refused

    async def _sort(self, conn: WriteConn, order: SwitchOrder, now: datetime, apps: AppJudge | None) -> "_Sorted":
        """Return which loads of an OFF the guards let pass, which they refuse, and what gives way; all are locked."""
        known = await load_store.facts_of(conn, order.load_ids, now)
        running = await store.fetch_running(conn, order.load_ids, CommandAction.OPEN)
        pending = {command.load_id: command for command in running if command.state is not S.APPROVAL}
        loads = {load_id: self._switching.loads.get(load_id) for load_id in order.load_ids}
        judge = await self._guards.judge(
            conn, loads.values(), now, sending=False, start=order.not_before and max(order.not_before, now),
            end=order.restore_at,
        )  # fmt: skip
        found = _Sorted(judge)
        for load_id, load in loads.items():
            refusal = _caller_refusal(load_id, load, order, now, apps)
            if refusal is None:
                refusal = self._refusal(load, known[load_id], judge, order, now)
            other = pending.get(LoadId(load_id))
            if refusal is None and other is not None:
                if life.gives_way_to_off(other, order.priority):
                    found.gives_way.append(other)
                else:
                    refusal = Refusal("already_pending", other.command_id, None, True)
            if refusal is not None or load is None:
                found.refused[load_id] = refusal or _UNKNOWN_LOAD
                continue
            judge.passed(load)
            if apps is not None:
                apps.passed(order.actor)
            found.passing.append(load)
        return found

    # The second person.

    async def approve(self, group_id: str, actor: str, door: str) -> Group:
        """Let the OFFs of an order go on that a second person has to agree to; the guards are asked again.

        Raises:
            NotFound: There is no such order.
            SamePerson: Whoever ordered it may not approve it.
            Conflict: Nothing of it waits for approval.
        """
        now = self._clock.now()
        async with self._db.write() as conn:
            head, waiting = await self._waiting(conn, group_id)
            if head["actor"] == actor:
                raise SamePerson(
                    "policy asks for a second person: whoever gave the order cannot approve it",
                    message_zh="按策略须由另一人批准:下令人不能自行批准",
                )
            first = waiting[0]
            order = SwitchOrder(
                action=CommandAction.OPEN, load_ids=tuple(off.load_id for off in waiting), actor=first.actor, door=door,
                priority=first.priority, not_before=max(first.not_before, now), restore_at=first.restore_at,
            )  # fmt: skip
            found = await self._sort(conn, order, now, await self._judge_app(conn, order, now))
            changes = [life.superseded(other, group_id, now, Effect.DROP_WAKE_UP) for other in found.gives_way]
            await self._switching.apply(conn, changes, now)
            grace = self._switching.policy.off_grace_s
            changes = [
                life.rejected(off, found.refused[off.load_id], now)
                if off.load_id in found.refused
                else life.approved(off, actor, now, grace)
                for off in waiting
            ]
            await self._switching.apply(conn, changes, now)
            leased = [change.after for change in changes if change.after.state is S.SCHEDULED]
            await lease_store.insert_leases(conn, leased, [off.restore_at for off in leased if off.restore_at])
            facts = {"approved": [off.load_id for off in leased], "refused": sorted(found.refused)}
            entry = Entry(
                actor, door, "command.approve", f"group:{group_id}", now, before=_waited(head, waiting), after=facts
            )
            await record(conn, entry)
        return await self.group(group_id)

    async def decline(self, group_id: str, reason: str, actor: str, door: str) -> Group:
        """Call off the OFFs of an order that wait for a second person; whoever gave the order may do so too.

        Raises:
            NotFound: There is no such order.
            Conflict: Nothing of it waits for approval.
        """
        now = self._clock.now()
        async with self._db.write() as conn:
            head, waiting = await self._waiting(conn, group_id)
            changes = [life.cancelled(off, actor, reason or "declined", now) for off in waiting]
            await self._switching.apply(conn, changes, now)
            entry = Entry(
                actor, door, "command.decline", f"group:{group_id}", now, before=_waited(head, waiting),
                after={"declined": [off.load_id for off in waiting]}, reason=reason or None,
            )  # fmt: skip
            await record(conn, entry)
        return await self.group(group_id)

    async def _waiting(self, conn: WriteConn, group_id: str) -> tuple[Mapping[str, Any], list[Command]]:
        """Lock and return the OFFs of an order that wait for a second person, and who gave the order."""
        head = await lookup.fetch_group_head(conn, group_id)
        if head is None:
            raise NotFound(f"no group {group_id}", message_zh=f"没有命令组 {group_id}")
        await load_store.lock_loads(conn, [command.load_id for command in await lookup.fetch_group(conn, group_id)])
        commands = await lookup.fetch_group(conn, group_id)
        waiting = [command for command in commands if command.is_off and command.state is S.APPROVAL]
        if not waiting:
            raise Conflict(
                f"group {group_id}: nothing waits for approval", message_zh=f"命令组 {group_id} 没有待批准的命令"
            )
        return head, waiting

    async def group(self, group_id: str) -> Group:
        """Return what became of an order.

        Raises:
            NotFound: There is no such order.
        """
        async with self._db.read() as conn:
            head = await lookup.fetch_group_head(conn, group_id)
            commands = await lookup.fetch_group(conn, group_id)
        if head is None:
            raise NotFound(f"no group {group_id}", message_zh=f"没有命令组 {group_id}")
        action = CommandAction(head["action"])
        return Group(group_id, action, head["actor"], head["created_at"], tuple(commands), tuple(head["refused"]))

    def expected_by(self, group: Group) -> datetime | None:
        """Return when the results of an order are expected; None when it is over or waits for a person."""
        ends = (life.expected_end(one, self._switching.policy) for one in group.commands if one.action is group.action)
        return max((end for end in ends if end is not None), default=None)

    def _refusal(
        self, load: LoadInfo | None, known: LoadRow, judge: Judge, order: SwitchOrder, now: datetime
    ) -> Refusal | None:
        if load is None:
            return _UNKNOWN_LOAD
        facts = judge.add_to(self.facts(load, known), load)
        later = order.not_before is not None and order.not_before > now
        at = order.not_before if order.not_before is not None and later else now
        refusals = off_refusals(order.restore_at, None, facts, at, judge.policy(load))
        # What may have passed by then is judged again right before it is sent; the counts are those of then.
        waits = later or order.not_after is not None
        return next((one for one in refusals if not waits or one.is_final or one is facts.crowding), None)

    def facts(self, load: LoadInfo, known: LoadRow) -> Facts:
        """Return what is known of a load itself; its place is the judge's matter."""
        return Facts(
            reading=self._readings.of(load.load_id),
            obstacle=load.off_obstacle,
            isolation_id=known.isolation_id,
            emergency=known.suspended_by,
            clock_problem=self._scheduler.clock_problem(),
            command_latency_s=load.command_latency_s,
            already_off=known.already_off,
            released_trip=known.released_trip,
            last_on_at=known.last_on_at,
            offs_last_day=known.offs_last_day,
        )

    async def _switch_on(
        self, conn: WriteConn, order: SwitchOrder, group_id: str, now: datetime, apps: AppJudge | None
    ) -> tuple[list[Command], list[dict[str, object]]]:
        loads = [load for load_id in order.load_ids if (load := self._switching.loads.get(load_id)) is not None]
        if order.by_app and apps is not None:
            loads = [load for load in loads if apps.lists(order.actor, load)]
        await self._switching.clear_the_way(conn, [load.load_id for load in loads], order.priority, group_id, now)
        commands = await self._switching.wake(
            conn, loads, now, priority=order.priority, actor=order.actor, group_id=group_id, at=order.not_before,
            note=order.reason,
        )  # fmt: skip
        found = {command.load_id for command in commands}
        listed = {load.load_id for load in loads}
        missing = [load_id for load_id in order.load_ids if load_id not in found]
        return commands, [
            {"load_id": load_id, **_not_woken(load_id, order, strange=load_id not in listed).as_evidence()}
            for load_id in missing
        ]

    # Waking.

    async def wake(self, conn: WriteConn, order: WakeOrder) -> WakeProgress:
        """Take a wake-up order in the caller's transaction: pending OFFs end, leases end, every load is to be woken.

        The commands are made after it (``Waking``), so that nobody waits for those of ten thousand loads.
        """
        now = self._clock.now()
        wake_up = WakeUp(
            wake_up_id=new_id(), scope=order.scope, target=order.target, reason=order.reason, actor=order.actor,
            created_at=now, suspends=order.suspends,
        )  # fmt: skip
        load_ids = [load.load_id for load in order.loads]
        reachable = [load for load in order.loads if load.can_wake]
        unreachable = [load.load_id for load in order.loads if not load.can_wake]
        await load_store.lock_loads(conn, load_ids)
        await order_store.insert_wake_up(conn, wake_up, load_ids, unreachable)
        await self._switching.clear_the_way(conn, load_ids, Priority.EMERGENCY, wake_up.wake_up_id, now)
        await lease_store.release_leases(conn, load_ids, now)  # so that the watchdog wakes them as well
        await waking_store.insert_todo(conn, wake_up.wake_up_id, reachable, now)
        facts = {"scope": order.scope, "target": order.target, "loads": len(load_ids), "suspends": order.suspends}
        entry = Entry(
            order.actor, order.door, "wake_up.order", f"wake_up:{wake_up.wake_up_id}", now, after=facts,
            reason=order.reason,
        )  # fmt: skip
        await record(conn, entry)
        logger.warning("wake-up ordered", extra={"wake_up_id": wake_up.wake_up_id, **facts})
        counted = [Counted(False, False, None, len(reachable), 0, 0)]
        if unreachable:
            counted.append(Counted(False, False, Fault.NO_BREAKER, len(unreachable), 0, 0))
        return _progress(wake_up, counted)

    async def progress(self, wake_up_id: str) -> WakeProgress:
        """Return how far an order is.

        Raises:
            NotFound: There is no such order.
        """
        async with self._db.read() as conn:
            order = await order_store.fetch_wake_up(conn, wake_up_id)
            if order is None:
                raise NotFound(f"no wake-up {wake_up_id}", message_zh=f"没有唤醒命令 {wake_up_id}")
            counted = await progress_store.count(conn, [wake_up_id], self._clock.now())
        return _progress(order, counted[wake_up_id])

    async def wake_up_loads(self, wake_up_id: str, *, which: Which, after: str, limit: int) -> list[WakeLoad]:
        """Return loads of an order in the order of their ids, and how far each is.

        Raises:
            NotFound: There is no such order.
        """
        async with self._db.read() as conn:
            if await order_store.fetch_wake_up(conn, wake_up_id) is None:
                raise NotFound(f"no wake-up {wake_up_id}", message_zh=f"没有唤醒命令 {wake_up_id}")
            return await progress_store.fetch_loads(
                conn, wake_up_id, which=which, after=after, limit=limit, now=self._clock.now()
            )

    async def page(self, before: tuple[datetime, str] | None, limit: int) -> list[WakeProgress]:
        """Return orders, the youngest first."""
        async with self._db.read() as conn:
            orders = await order_store.fetch_wake_ups(conn, before=before, limit=limit)
            counted = await progress_store.count(conn, [order.wake_up_id for order in orders], self._clock.now())
        return [_progress(order, counted[order.wake_up_id]) for order in orders]

    async def release(self, wake_up_id: str, actor: str, door: str) -> WakeProgress:
        """Let the plans over the woken loads go on.

        Raises:
            NotFound: There is no such order.
        """
        now = self._clock.now()
        async with self._db.write() as conn:
            if await order_store.release_wake_up(conn, wake_up_id, actor, now):
                entry = Entry(
                    actor, door, "wake_up.release", f"wake_up:{wake_up_id}", now,
                    before={"suspends": True}, after={"suspends": False},
                )  # fmt: skip
                await record(conn, entry)
        return await self.progress(wake_up_id)

    # Single commands.

    async def cancel(self, command_id: str, reason: str, actor: str, door: str) -> Command:
        """Call off an OFF that has not been sent.

        Raises:
            NotFound: There is no such command.
            TransitionRefused: It has been sent, has ended, or is a wake-up.
        """
        now = self._clock.now()
        async with self._db.write() as conn:
            loads = await store.loads_of(conn, [command_id])
            if not loads:
                raise NotFound(f"no command {command_id}", message_zh=f"没有命令 {command_id}")
            await load_store.lock_loads(conn, loads.values())
            command = next(iter((await store.fetch_many(conn, [command_id])).values()))
            change = life.cancelled(command, actor, reason, now)
            await self._switching.apply(conn, [change], now)
            entry = Entry(
                actor, door, "command.cancel", f"command:{command_id}", now, before=_cancelled(change.before),
                after=_cancelled(change.after), reason=reason,
            )  # fmt: skip
            await record(conn, entry)
        return change.after

    async def release_trip(self, load_id: str, trip_reason: int, reason: str, actor: str, door: str) -> None:
        """Note that a person has dealt with a protection trip, so that the load may be woken.

        Raises:
            NotFound: There is no such load.
            InvalidInput: The reason is no protection trip.
        """
        load = self._switching.loads.get(load_id)
        if load is None:
            raise NotFound(f"no load {load_id}", message_zh=f"没有负载 {load_id}")
        if trip_reason not in PROTECTION_TRIPS:
            raise InvalidInput(
                f"trip_reason: {trip_reason} is no protection trip ({', '.join(map(str, PROTECTION_TRIPS))})",
                message_zh=f"trip_reason {trip_reason} 不是保护跳闸",
                field="trip_reason",
            )
        now = self._clock.now()
        async with self._db.write() as conn:
            await load_store.lock_loads(conn, [load_id])
            released = (await load_store.released_trips(conn, [load_id])).get(load_id)
            await load_store.release_trip(conn, load_id, trip_reason, actor, now)
            entry = Entry(
                actor, door, "trip.release", f"load:{load_id}", now, before={"released_trip": released},
                after={"released_trip": trip_reason, "trip": PROTECTION_TRIPS[trip_reason]}, reason=reason,
            )  # fmt: skip
            await record(conn, entry)


@dataclass(slots=True)
class _Sorted:
    """What the guards say of the loads of one OFF."""

    judge: Judge
    passing: list[LoadInfo] = field(default_factory=list)
    refused: dict[str, Refusal] = field(default_factory=dict)
    gives_way: list[Command] = field(default_factory=list)
    """OFFs of a lower priority that have not been sent."""


_UNKNOWN_LOAD = Refusal("unknown_load", True, False, True)


def _caller_refusal(
    load_id: str, load: LoadInfo | None, order: SwitchOrder, now: datetime, apps: AppJudge | None
) -> Refusal | None:
    """Return what the caller's own limits say; to an app a load that does not exist is one that is not on its list."""
    if apps is None:
        return None
    if load is None:
        return Refusal("app_load", load_id, None, True) if order.by_app else None
    return apps.refusal(order.actor, load, max(order.not_before or now, now), order.restore_at)


def _not_woken(load_id: str, order: SwitchOrder, *, strange: bool) -> Refusal:
    if order.by_app and strange:
        return Refusal("app_load", load_id, None, True)
    return Refusal("no_breaker", True, False, True)


def _waited(head: Mapping[str, Any], waiting: Sequence[Command]) -> dict[str, object]:
    return {"state": S.APPROVAL, "ordered_by": head["actor"], "loads": [off.load_id for off in waiting]}


def _cancelled(command: Command) -> dict[str, object]:
    return {
        "load_id": command.load_id,
        "state": command.state,
        "not_before": command.not_before,
        "restore_at": command.restore_at,
        "ordered_by": command.actor,
    }


def _progress(order: WakeUp, counted: Sequence[Counted]) -> WakeProgress:
    reached = [one for one in counted if one.fault is not Fault.NO_BREAKER]
    faults: Counter[Fault] = Counter()
    for one in counted:
        if one.fault is not None:
            faults[one.fault] += one.loads
    return WakeProgress(
        order=order,
        loads=sum(one.loads for one in reached),
        commanded=sum(one.commanded for one in counted),
        accepted=sum(one.accepted for one in counted),
        verified=sum(one.loads for one in counted if one.awake),
        held=sum(one.loads for one in counted if one.held),
        failed=sum(one.loads for one in reached if one.fault is not None and not one.awake),
        faults=faults,
    )
