"""Isolations: the only open-ended OFF, under a work permit, by two persons, with an owner and an end.

A person works on what the breaker feeds, so nothing wakes it, not even an emergency: every wake-up that meets an
isolation waits and calls a person. An isolation that has expired protects nobody any more; the load is woken,
after a warning half an hour before.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from libs.common.bus import outbox
from libs.common.contracts.alarm import AlarmLevel, ConditionKind
from libs.common.contracts.base import Phase
from libs.common.contracts.control import CommandState, Priority
from libs.common.db import Database, WriteConn
from libs.common.errors import Conflict, Forbidden, InvalidInput, NotFound
from libs.common.ids import CommandId, new_id
from services.control import bus
from services.control.domain import commands as life
from services.control.domain.audit import Entry
from services.control.domain.commands import Command
from services.control.domain.loads import LoadInfo
from services.control.store import commands as store
from services.control.store import leases as lease_store
from services.control.store import loads as load_store
from services.control.store import orders as order_store
from services.control.store.orders import Isolation
from services.control.usecases.auditing import record
from services.control.usecases.ports import SteadyClock
from services.control.usecases.switching import Switching, Wanted

MAX_ISOLATION_S = 30 * 86400.0
"""Longest work permit. [s]"""


class SamePerson(Forbidden):
    """The second person must be another one."""

    code = "second_person_needed"
    title_zh = "需要另一人复核"


class LoadIsolated(Conflict):
    """The load is isolated already."""

    code = "load_isolated"
    title_zh = "负载已处于检修隔离"


@dataclass(frozen=True, slots=True)
class IsolationRequest:
    """What the first person asks for."""

    load: LoadInfo
    owner: str
    permit: str
    reason: str
    expires_at: datetime


class Isolations:
    """Requests, approvals and ends of isolations."""

    def __init__(self, *, db: Database, clock: SteadyClock, switching: Switching) -> None:
        self._db = db
        self._clock = clock
        self._switching = switching

    async def request(self, wanted: IsolationRequest, actor: str, door: str) -> Isolation:
        """Store a request; nothing is switched before a second person agrees.

        Raises:
            InvalidInput: It has no end in the near future, or the load cannot be switched.
        """
        now = self._clock.now()
        if not 0 < (wanted.expires_at - now).total_seconds() <= MAX_ISOLATION_S:
            raise InvalidInput(
                f"expires_at: expected a time within the next {MAX_ISOLATION_S / 86400:g} days",
                message_zh=f"expires_at 应在未来 {MAX_ISOLATION_S / 86400:g} 天之内",
                field="expires_at",
            )
        if not wanted.load.can_wake:
            raise InvalidInput(
                f"load {wanted.load.load_id} has no breaker that can be reached",
                message_zh=f"负载 {wanted.load.load_id} 没有可控的断路器",
                field="load_id",
            )
        isolation_id = new_id()
        async with self._db.write() as conn:
            await load_store.lock_loads(conn, [wanted.load.load_id])
            off = (await self._switching.shut_down(conn, [_off(wanted, isolation_id, actor, now)], now, approval=True))[
                0
            ]
            isolation = Isolation(
                isolation_id=isolation_id, load_id=wanted.load.load_id, site_id=wanted.load.site_id, state="requested",
                owner=wanted.owner, permit=wanted.permit, reason=wanted.reason, requested_by=actor, requested_at=now,
                expires_at=wanted.expires_at, off_command_id=off.command_id,
            )  # fmt: skip
            await order_store.insert_isolation(conn, isolation)
            await record(conn, _entry(None, isolation, actor, door, "isolation.request", now))
        return isolation

    async def approve(self, isolation_id: str, actor: str, door: str) -> Isolation:
        """Put an isolation into force: from this moment nothing wakes the load.

        Raises:
            SamePerson: Who asked for it may not approve it.
            LoadIsolated: Another isolation of the load is in force.
            Conflict: It is not waiting for approval.
        """
        now = self._clock.now()
        async with self._db.write() as conn:
            isolation = await self._lock(conn, isolation_id)
            if isolation.requested_by == actor:
                raise SamePerson(
                    "an isolation needs two persons: whoever requested it cannot approve it",
                    message_zh="检修隔离需两人操作:申请人不能自行批准",
                )
            if isolation.state != "requested" or isolation.expires_at <= now:
                raise Conflict(
                    f"isolation {isolation_id} is {isolation.state}, it cannot be approved",
                    message_zh=f"检修隔离 {isolation_id} 当前状态为 {isolation.state},无法批准",
                )
            await load_store.lock_loads(conn, [isolation.load_id])
            known = (await load_store.facts_of(conn, [isolation.load_id], now))[isolation.load_id]
            if known.isolation_id is not None:
                raise LoadIsolated(
                    f"load {isolation.load_id} is isolated already by {known.isolation_id}",
                    message_zh=f"负载 {isolation.load_id} 已处于检修隔离 {known.isolation_id}",
                )
            active = replace(isolation, state="active", approved_by=actor, approved_at=now)
            await order_store.update_isolation(conn, active)
            running = await store.fetch_running(conn, [isolation.load_id])
            off = next(command for command in running if command.command_id == isolation.off_command_id)
            # Whatever else wanted to switch it off gives way; its wake-up is no longer needed.
            for other in running:
                if other.is_off and other is not off and other.state is CommandState.SCHEDULED and not other.was_sent:
                    change = life.superseded(other, off.command_id, now, life.Effect.DROP_WAKE_UP)
                    await self._switching.apply(conn, [change], now)
            change = life.step(
                off, CommandState.SCHEDULED, now, "approved", evidence={"approved_by": actor}, next_at=now,
                not_before=now, not_after=now + timedelta(seconds=self._switching.policy.off_grace_s),
            )  # fmt: skip
            await self._switching.apply(conn, [change], now)
            await lease_store.insert_leases(conn, [change.after], [isolation.expires_at])
            await outbox.put(
                conn,
                [
                    bus.condition(
                        ConditionKind.ISOLATION_ACTIVE, Phase.BEGIN, load_id=isolation.load_id,
                        site_id=isolation.site_id, at=now, text="isolation_active", level=AlarmLevel.MAJOR,
                        detail=f"{isolation.permit}, {isolation.owner}, {isolation.expires_at.isoformat()}",
                    )
                ],
            )  # fmt: skip
            await record(conn, _entry(isolation, active, actor, door, "isolation.approve", now))
        return active

    async def release(self, isolation_id: str, actor: str, door: str, reason: str) -> Isolation:
        """End an isolation, or take back a request; a load that was switched off under it is woken.

        Raises:
            Conflict: It has ended already.
        """
        now = self._clock.now()
        async with self._db.write() as conn:
            isolation = await self._lock(conn, isolation_id)
            if isolation.state == "ended":
                raise Conflict(
                    f"isolation {isolation_id} has ended already", message_zh=f"检修隔离 {isolation_id} 已结束"
                )
            return await end_isolation(
                conn, self._switching, isolation, now, actor=actor, door=door, why=reason or "released"
            )

    async def _lock(self, conn: WriteConn, isolation_id: str) -> Isolation:
        isolation = await order_store.lock_isolation(conn, isolation_id)
        if isolation is None:
            raise NotFound(f"no isolation {isolation_id}", message_zh=f"没有检修隔离 {isolation_id}")
        return isolation


async def end_isolation(
    conn: WriteConn, switching: Switching, isolation: Isolation, now: datetime, *, actor: str, door: str, why: str
) -> Isolation:
    """End a locked isolation: the permit is over, so the load is woken like any other."""
    ended = replace(isolation, state="ended", ended_by=actor, ended_at=now, end_reason=why)
    await order_store.update_isolation(conn, ended)
    await record(conn, _entry(isolation, ended, actor, door, "isolation.release", now))
    await load_store.lock_loads(conn, [isolation.load_id])
    off = (await store.fetch_many(conn, [isolation.off_command_id]))[CommandId(isolation.off_command_id)]
    if not off.state.is_final and not off.was_sent:
        await switching.apply(conn, [life.cancelled(off, actor, why, now)], now)
    await lease_store.close_leases(conn, command_ids=[isolation.off_command_id], at=now)
    if isolation.state != "active":
        return ended
    if off.was_sent:
        load = switching.loads.get(isolation.load_id)
        target = load if load is not None and load.can_wake else _as_load(off)
        await switching.wake(conn, [target], now, priority=Priority.OPERATOR, actor=actor, note=f"isolation {why}")
    await outbox.put(
        conn,
        [
            bus.condition(
                ConditionKind.ISOLATION_ACTIVE, Phase.END, load_id=isolation.load_id, site_id=isolation.site_id,
                at=now, text="isolation_active", level=AlarmLevel.MAJOR,
            )
        ],
    )  # fmt: skip
    return ended


def _off(wanted: IsolationRequest, isolation_id: str, actor: str, now: datetime) -> Wanted:
    return Wanted(
        load=wanted.load,
        off_at=now,
        restore_at=None,
        priority=Priority.OPERATOR,
        actor=actor,
        isolation_id=isolation_id,
        lease_until=wanted.expires_at,
        note=wanted.reason,
    )


def _as_load(off: Command) -> LoadInfo:
    """Return how a load that has left the registry was reached when it was switched off."""
    return LoadInfo(
        load_id=off.load_id,
        name=off.load_id,
        site_id=off.site_id,
        device_id=off.device_id,
        channel=off.channel,
        line_id=off.line_id,
    )


def _entry(before: Isolation | None, isolation: Isolation, actor: str, door: str, action: str, now: datetime) -> Entry:
    return Entry(
        actor, door, action, f"isolation:{isolation.isolation_id}", now,
        before=None if before is None else _facts(before), after=_facts(isolation),
        reason=isolation.end_reason or isolation.reason,
    )  # fmt: skip


def _facts(isolation: Isolation) -> dict[str, object]:
    return {
        "load_id": isolation.load_id,
        "owner": isolation.owner,
        "permit": isolation.permit,
        "state": isolation.state,
        "expires_at": isolation.expires_at,
        "requested_by": isolation.requested_by,
        "approved_by": isolation.approved_by,
    }
