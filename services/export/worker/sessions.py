"""The worker that keeps units logged in and empties their queues.

One runner per centre, so that a slow one delays nobody else; within a centre several units at a time, and
one call at a time per unit, which is what keeps the order. Which replica works for a unit is decided by
leases on slots (a unit's key modulo ``SLOTS``). A lease may lapse while its holder's call is under way, so each
message with alarms is preceded by a claim on the unit's row: it keeps the next holder from sending the same alarms
meanwhile, or an END past a BEGIN that is still on its way. A call is made outside any transaction; its outcome is
written only to rows that are still open, so that a delivery is told of once. Claims and outcomes of many units go
into one transaction, since with one unit's at a time the statements cost more than the calls.

Whose queue is worth a look is mostly known without looking: who puts something into a queue says whose it is, and after
a call its unit's queue is looked at in the transaction of the outcome. All queues are looked through only now and then,
for what became due by time or was put there by another process.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from libs.common import metrics
from libs.common.backoff import Backoff
from libs.common.bus import outbox
from libs.common.clock import Clock
from libs.common.contracts.alarm import ConditionKind
from libs.common.contracts.base import Phase as FindingPhase
from libs.common.contracts.delivery import DeliveryState
from libs.common.db import Database, WriteConn
from libs.common.errors import Unavailable
from libs.common.lease import Lease, LeaseKeeper
from libs.common.tracing import span
from services.export import bus
from services.export.dialects import Dialect, Dialects
from services.export.dialects.messages import (
    Announce,
    DeviceRef,
    DeviceSelection,
    Operation,
    Outcome,
    PointType,
    Register,
    Registered,
    ReportAlarms,
    ReportDevices,
    ReportPoints,
    UnitRequest,
    Unregister,
)
from services.export.domain import session
from services.export.domain.connection import Connection, ConnectionId, Phase, Unit, UnitKey, service_url
from services.export.domain.delivery import Delivery, batch_of
from services.export.domain.description import described
from services.export.domain.latest import LatestReadings, latest_values, stored_values
from services.export.domain.mapping import Mapping as UnitMapping
from services.export.domain.mapping import SourceKind
from services.export.domain.pace import Pace
from services.export.domain.pushing import SIGNALS_BACK, Rhythm, changes, known_values, missed, together
from services.export.secrets import Secrets, SecretsUnreadable
from services.export.soap_client import Answered, BadAnswer, CallOutcome, CentreClient, NoAnswer, NotSent
from services.export.store import alarms as alarm_store
from services.export.store import connections as connection_store
from services.export.store import deliveries as delivery_store
from services.export.store import mappings as mapping_store
from services.export.store import queues as queue_store
from services.export.store import samples as sample_store
from services.export.store import sessions as session_store
from services.export.store import units as unit_store

logger = logging.getLogger(__name__)

T = TypeVar("T")

GRACE_S = 2.0
"""A call that is under way when we are stopped may still be answered within this. [s]"""
SLOTS = 16
"""Units are spread over so many leases; replicas share the work in these portions."""

CLAIM_SPARE_S = 5.0
"""A claim outlasts the call that it is for by this; a call that would begin later than that is not made. [s]"""

GATHER_S = 0.02
"""While there is work, what is due or has ended is gathered for so long, to be claimed or written at once. [s]"""

LOOK = 500
"""So many units with something due are remembered from one look at all queues."""

MISSED_HEARTBEATS = 2.5
"""A centre that has said how often it asks is given up after as many intervals."""

_calls = metrics.counter("export_sc_calls_total", "Calls to centres", ("destination", "operation", "outcome"))
_seconds = metrics.histogram(
    "export_alarm_acknowledged_seconds", "From the queue to the centre's acknowledgement", ("destination",)
)


@dataclass(frozen=True, slots=True)
class _Task:
    """One thing to do for a unit."""

    unit: Unit
    operation: Operation
    batch: tuple[Delivery, ...] = ()
    """Of ``REPORT_ALARMS``: the next message of the unit's queue, which has been claimed."""
    claimed_at: float = 0.0
    """When the claim was asked for, by monotonic time. [s]"""


@dataclass(slots=True)
class _Told:
    """A message with alarms whose call has ended."""

    unit: Unit
    batch: Sequence[Delivery]
    outcome: CallOutcome
    written: bool = False

    @property
    def accepted(self) -> bool:
        """Whether the centre has said yes."""
        return isinstance(self.outcome, Answered) and isinstance(self.outcome.reply, Outcome) and self.outcome.reply.ok


class Centres:
    """Runs one runner for every connection that is in use."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        secrets: Secrets,
        latest: LatestReadings,
        dialects: Dialects,
        owner: str,
        lease_s: float,
        poll_s: float,
        committed: Callable[[], None],
    ) -> None:
        """Prepare the worker.

        Args:
            db: The service's database.
            clock: For times and leases.
            secrets: Opens the connections' credentials.
            latest: Newest values, for dialects whose units push them.
            dialects: Those that can be spoken.
            owner: Name of this replica.
            lease_s: A dead replica's units are taken over after this. [s]
            poll_s: How often the queues are looked at without being woken. [s]
            committed: Called after a commit that may have filled the outbox.
        """
        self._db = db
        self._clock = clock
        self._secrets = secrets
        self._latest = latest
        self._dialects = dialects
        self._owner = owner
        self._keeper = LeaseKeeper(db, clock, owner, lease_s)
        self._lease_s = lease_s
        self._poll_s = poll_s
        self._committed = committed
        self._leases: list[Lease] = []
        self._runners: dict[ConnectionId, CentreRunner] = {}
        self._tasks: dict[ConnectionId, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Look at the connections, their units and the queues now."""
        self._wake.set()
        for runner in self._runners.values():
            runner.look_at_units()

    def queued(self, units: Mapping[ConnectionId, Iterable[UnitKey]]) -> None:
        """Look at queues now: something was put into those of these units."""
        for connection_id, keys in units.items():
            if (runner := self._runners.get(connection_id)) is not None:
                runner.look_at(keys)

    def slots(self) -> list[int]:
        """Return the slots that are ours at this moment."""
        return [int(lease.name.removeprefix("units-")) for lease in self._leases if lease.valid]

    async def run(self, beat: Callable[[], None]) -> None:
        """Work for ever; waits while the database is away."""
        backoff = Backoff(first_s=0.2, cap_s=5.0)
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    beat()
                    self._wake.clear()
                    try:
                        await self._hold_leases()
                        await self._follow_connections(group)
                        for runner in self._runners.values():
                            await runner.lose_silent_units()
                    except Unavailable as exc:
                        if backoff.first:
                            logger.warning("centres wait for the database", extra={"reason": exc.message})
                        await self._clock.sleep(backoff.next_s())
                        continue
                    backoff.reset()
                    await wait_for(self._wake, self._poll_s)
        finally:
            await self._let_go()

    async def _hold_leases(self) -> None:
        if self._leases and all(lease.valid_for_s() > self._lease_s / 2 for lease in self._leases):
            if len(self._leases) == SLOTS:
                return
        else:
            self._leases = await self._keeper.renew_many(self._leases)
        held = {lease.name for lease in self._leases}
        missing = [name for slot in range(SLOTS) if (name := f"units-{slot}") not in held]
        self._leases += await self._keeper.acquire_many(missing, SLOTS)

    async def _follow_connections(self, group: asyncio.TaskGroup) -> None:
        async with self._db.read() as conn:
            connections = {each.id: each for each in await connection_store.fetch_connections(conn)}
        wanted = {each.id: each for each in connections.values() if each.enabled or each.removed}
        for connection_id in [*self._runners]:
            runner = self._runners[connection_id]
            if connection_id in wanted and runner.serves(wanted[connection_id]):
                runner.connection = wanted[connection_id]
                continue
            task = self._tasks.pop(connection_id)
            del self._runners[connection_id]
            task.cancel()
            await asyncio.wait([task], timeout=5.0)
        for connection_id, connection in wanted.items():
            if connection_id not in self._runners:
                runner = CentreRunner(
                    connection,
                    db=self._db,
                    clock=self._clock,
                    secrets=self._secrets,
                    latest=self._latest,
                    dialect=self._dialects.named(connection.dialect),
                    owner=self._owner,
                    slots=self.slots,
                    poll_s=self._poll_s,
                    committed=self._committed,
                )
                self._runners[connection_id] = runner
                self._tasks[connection_id] = group.create_task(runner.run(), name=f"centre {connection_id}")

    async def _let_go(self) -> None:
        """Give the leases back when stopping, so that another replica need not wait for their end."""
        try:
            async with asyncio.timeout(1.0):
                await self._keeper.release_many(self._leases)
        except (Unavailable, TimeoutError):
            logger.debug("leases on units left to run out")


class CentreRunner:
    """Does what is due for the units of one centre."""

    def __init__(
        self,
        connection: Connection,
        *,
        db: Database,
        clock: Clock,
        secrets: Secrets,
        latest: LatestReadings,
        dialect: Dialect,
        owner: str,
        slots: Callable[[], Sequence[int]],
        poll_s: float,
        committed: Callable[[], None],
    ) -> None:
        """Prepare a runner; arguments as for ``Centres``."""
        self.connection = connection
        """May be replaced while it runs, by one that it ``serves``."""
        self._db = db
        self._clock = clock
        self._secrets = secrets
        self._latest = latest
        self._owner = owner
        self._slots = slots
        self._poll_s = poll_s
        self._committed = committed
        self._dialect = dialect
        self._wake = asyncio.Event()
        self._busy: set[UnitKey] = set()
        self._ready: dict[UnitKey, None] = {}
        """Units whose queues are worth a look, those that have waited longest first."""
        self._look_s = float("-inf")
        """When all queues are looked through next, by monotonic time. [s]"""
        self._there_are_more = False
        """Whether the last look through all queues had more units than it remembered."""
        self._units_at = float("-inf")
        """When LOGINs and LOGOUTs are looked for next, by monotonic time. [s]"""
        self._pushes_s = float("-inf")
        """When units that push values are looked for next, by monotonic time. [s]"""
        self._told: list[_Told] = []
        self._writing = asyncio.Lock()
        self._rhythm = Rhythm()
        self._pace = Pace(clock.monotonic())
        self._rng = random.Random()  # noqa: S311 - spreads load, protects nothing

    def serves(self, connection: Connection) -> bool:
        """Return whether the runner can go on with a changed connection, or has to be replaced."""
        mine, new = self.connection, connection
        return (mine.dialect, mine.options.timeout_s, mine.options.concurrency) == (
            new.dialect,
            new.options.timeout_s,
            new.options.concurrency,
        )

    def look_at(self, keys: Iterable[UnitKey]) -> None:
        """Look at the queues of these units now."""
        self._ready |= dict.fromkeys(keys)
        self._wake.set()

    def look_at_units(self) -> None:
        """Look for LOGINs and LOGOUTs now, and through all queues."""
        self._units_at = self._look_s = float("-inf")
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled; calls that are under way then get a moment to be answered."""
        options = self.connection.options
        client = CentreClient(self._dialect, timeout_s=options.timeout_s)
        backoff = Backoff(first_s=0.2, cap_s=5.0)
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._wake.clear()
                    try:
                        due = await self._due(options.concurrency - len(self._busy))
                    except Unavailable as exc:
                        if backoff.first:
                            logger.warning("centre waits for the database", extra={"reason": exc.message})
                        await self._clock.sleep(backoff.next_s())
                        continue
                    backoff.reset()
                    for task in due:
                        if len(self._busy) >= options.concurrency:
                            break
                        if task.unit.key not in self._busy:
                            self._busy.add(task.unit.key)
                            group.create_task(self._do(client, task), name=f"{task.operation} {task.unit.ref.unit_id}")
                    if due:
                        await self._clock.sleep(GATHER_S)
                    await wait_for(self._wake, self._poll_s)
        finally:
            async with asyncio.timeout(2.0):
                await client.close()

    async def _due(self, free: int) -> list[_Task]:
        """Return what is due, at most ``free`` but for pushes, the more urgent first: a LOGIN lets all else follow.

        What is returned of alarms has been claimed.
        """
        slots = self._slots()
        if not slots or free <= 0:
            return []
        due = await self._units_due(slots) if self._units_at <= self._clock.monotonic() else []
        due = due[:free]
        if self.connection.removed or not self.connection.enabled:
            return due
        if len(due) < free:
            besides = {*self._busy, *(task.unit.key for task in due)}
            due += await self._claimed(slots, besides, free - len(due))
        return due + await self._pushes_due(slots)

    async def _pushes_due(self, slots: Sequence[int]) -> list[_Task]:
        """Return the units that are to push their values, however many."""
        now_s = self._clock.monotonic()
        if now_s < self._pushes_s or not self._dialect.spoken(Operation.SEND_POINTS):
            return []
        async with self._db.read() as conn:
            units = await session_store.units_in(conn, self.connection.id, slots=slots, slot_count=SLOTS)
        due = [_Task(unit, Operation.SEND_POINTS) for unit in units if self._rhythm.due(unit.key, now_s)]
        if not due:
            self._pushes_s = now_s + self._poll_s
        return due

    async def _units_due(self, slots: Sequence[int]) -> list[_Task]:
        """Return the LOGOUTs and LOGINs that are due."""
        connection, now = self.connection, self._clock.now()
        self._units_at = self._clock.monotonic() + self._poll_s
        async with self._db.read() as conn:
            leaving = await session_store.units_to_log_out(conn, connection.id, slots=slots, slot_count=SLOTS, now=now)
            due = [_Task(unit, Operation.UNREGISTER) for unit in leaving]
            if connection.removed or not connection.enabled:
                return due
            logins = await session_store.units_to_log_in(
                conn,
                connection.id,
                slots=slots,
                slot_count=SLOTS,
                now=now,
                interval_s=self._login_interval_s,
                limit=self._pace.allowed(self._clock.monotonic(), connection.options.logins_per_s),
            )
        return due + [_Task(unit, Operation.REGISTER) for unit in logins]

    async def _claimed(self, slots: Sequence[int], besides: Collection[UnitKey], limit: int) -> list[_Task]:
        """Return the next messages of queues, each of which is ours alone for as long as its call may take.

        The queues are read after the claim: what those before us were told stands in them by then.
        """
        if self._look_s <= self._clock.monotonic():
            await self._look(slots, besides)
        chosen = self._next(slots, besides, limit)
        if not chosen and self._there_are_more:
            await self._look(slots, besides)
            chosen = self._next(slots, besides, limit)
        if not chosen:
            return []
        options, claimed_at = self.connection.options, self._clock.monotonic()
        try:
            async with self._db.write() as conn:
                await delivery_store.plan_by_index(conn)
                ours = await queue_store.claim_sending(
                    conn, chosen, self._owner, hold_s=options.timeout_s + CLAIM_SPARE_S
                )
                heads = await queue_store.due_heads(conn, ours.keys(), now=self._clock.now(), limit=options.batch_size)
                if len(heads) < len(ours):
                    await queue_store.release_sending(conn, ours.keys() - heads.keys(), self._owner)
        except BaseException:
            self._look_s = float("-inf")
            raise
        if self._ready:
            self._wake.set()  # should these have nothing, the next ones are not to wait for it
        if len(ours) < len(chosen):
            logger.debug("other processes tell the centre of units", extra={"units": len(chosen) - len(ours)})
        return [
            _Task(ours[key], Operation.REPORT_ALARMS, tuple(batch_of(heads[key], options.batch_size)), claimed_at)
            for key in chosen
            if key in heads
        ]

    def _next(self, slots: Sequence[int], besides: Collection[UnitKey], limit: int) -> list[UnitKey]:
        """Return the next units to be looked at, which are none of ``besides``; they are to be named again.

        Whose slots are another process's are forgotten: it looks through all queues itself.
        """
        ours = frozenset(slots)
        for key in [key for key in self._ready if key % SLOTS not in ours]:
            del self._ready[key]
        chosen = list(islice((key for key in self._ready if key not in besides), limit))
        for key in chosen:
            del self._ready[key]
        return chosen

    async def _look(self, slots: Sequence[int], besides: Collection[UnitKey]) -> None:
        """Look through all queues."""
        async with self._db.read() as conn:
            found = await queue_store.units_with_due_alarms(
                conn,
                self.connection.id,
                slots=slots,
                slot_count=SLOTS,
                now=self._clock.now(),
                besides={*besides, *self._ready},
                limit=LOOK,
            )
        self._ready |= dict.fromkeys(found)
        self._there_are_more = len(found) >= LOOK
        self._look_s = self._clock.monotonic() + self._poll_s

    async def lose_silent_units(self) -> None:
        """Mark the units as lost whose centre has not been heard of for too long; a LOGIN follows."""
        silence_s, slots = self.connection.options.silence_s, self._slots()
        if silence_s is None or self.connection.removed or not self.connection.enabled or not slots:
            return
        async with self._db.write() as conn:
            silent = await session_store.lock_silent_units(
                conn,
                self.connection.id,
                slots=slots,
                slot_count=SLOTS,
                now=self._clock.now(),
                silence_s=silence_s,
                heartbeats=MISSED_HEARTBEATS,
            )
            for unit in silent:
                waited_s = max(silence_s, MISSED_HEARTBEATS * (unit.heartbeat_s or 0.0))
                lost = replace(unit, phase=Phase.LOST, error=f"nothing heard from the centre for {waited_s:g} s")
                await self._save(conn, lost, before=unit)

    @property
    def _login_interval_s(self) -> float:
        own = self.connection.options.login_interval_s
        return self._dialect.login_interval_s if own is None else own

    async def _do(self, client: CentreClient, task: _Task) -> None:
        try:
            # A LOGIN cut off in the middle would cost the unit an interval, an alarm would be sent twice.
            match task.operation:
                case Operation.REGISTER:
                    await to_its_end(self._log_in(client, task.unit))
                    self._units_at = float("-inf")  # others may wait for their turn
                case Operation.UNREGISTER:
                    await to_its_end(self._log_out(client, task.unit))
                    self._units_at = float("-inf")
                case Operation.SEND_POINTS:
                    await self._push(client, task.unit)  # cut off, the values are said again with newer ones
                case _:
                    await to_its_end(self._report(client, task))
        except Unavailable as exc:
            logger.warning("call put off", extra={"unit": task.unit.ref.unit_id, "reason": exc.message})
        finally:
            self._busy.discard(task.unit.key)
            self._wake.set()  # there may be more of this unit, and of others that waited for a place

    # ---- LOGIN and LOGOUT ------------------------------------------------------------------------

    async def _log_in(self, client: CentreClient, unit: Unit) -> bool:
        async with self._db.read() as conn:
            mapping = await mapping_store.fetch_mapping(conn, unit.key)
            sealed = await connection_store.fetch_credentials(conn, self.connection.id)
        try:
            account = self._secrets.unseal(sealed)
        except SecretsUnreadable as exc:
            await self._persistently(partial(self._after_login, unit, NotSent(exc.message)))
            return False
        own = self._dialect.own_device(DeviceRef(unit.ref.unit_id, unit.ref.unit_code))
        request = Register(
            unit=unit.ref,
            facts=unit.facts,
            # The unit itself stands in the list as a device.
            devices=(own, *(device.ref for device in mapping.devices if device.ref.device_id != own.device_id)),
            username=account.get("username", ""),
            password=account.get("password", ""),
        )
        async with self._db.write() as conn:
            if not await session_store.claim_login(
                conn, unit.key, now=self._clock.now(), interval_s=self._login_interval_s
            ):
                return False
        self._pace.took(self._clock.monotonic(), self.connection.options.logins_per_s)
        # Registration goes to the registration address, events to the one that is assigned there.
        outcome = await self._call(client, self.connection.url, request, Operation.REGISTER)
        outcome = await self._prepared(client, unit, mapping, outcome)
        return await self._persistently(partial(self._after_login, unit, outcome))

    async def _prepared(
        self, client: CentreClient, unit: Unit, mapping: UnitMapping, outcome: CallOutcome
    ) -> CallOutcome:
        """Go through what the dialect wants between the LOGIN and the work; return the LOGIN's outcome after it.

        A step without a yes that is required turns the LOGIN into a refusal, or into one without an answer.
        """
        if not isinstance(outcome, Answered) or not isinstance(outcome.reply, Registered):
            return outcome
        reply = outcome.reply
        if not reply.accepted:
            return outcome
        url = service_url(self.connection, reply.centre_address)
        for step in self._dialect.steps:
            done = await self._call(client, url, _step_request(unit, mapping, step.operation), step.operation)
            if isinstance(done, Answered) and isinstance(done.reply, Outcome) and done.reply.ok:
                continue
            logger.warning(
                "a step after the LOGIN was not taken",
                extra={"unit": unit.ref.unit_id, "step": step.operation.value, "reason": _reason(done)},
            )
            if not step.required:
                continue
            if isinstance(done, Answered):
                return Answered(replace(reply, accepted=False, reason=f"{step.operation.value}: {_reason(done)}"))
            return NoAnswer(f"{step.operation.value}: {done.reason}")  # the LOGIN itself did arrive
        return outcome

    async def _after_login(self, unit: Unit, outcome: CallOutcome) -> bool:
        """Write what became of a LOGIN; return whether the unit was let in."""
        options, now = self.connection.options, self._clock.now()
        async with self._db.write() as conn:
            current = await unit_store.lock_unit(conn, unit.key)
            if current is None or current.phase in (Phase.LEAVING, Phase.LEFT):
                return False
            match outcome:
                case Answered(reply=Registered() as reply):
                    after = session.let_in_or_refused(current, reply, now)
                case NotSent(reason=reason):
                    after = session.login_not_sent(
                        current, reason, now, options, last_login_at=unit.last_login_at, jitter=self._rng.random()
                    )
                case _:
                    after = session.login_unanswered(current, _reason(outcome), now)
            await self._save(conn, after, before=current)
            if after.phase is Phase.REGISTERED:
                await queue_store.hurry(conn, unit.key, now)
                self._ready[unit.key] = None
        self._committed()
        return after.phase is Phase.REGISTERED

    async def _log_out(self, client: CentreClient, unit: Unit) -> None:
        if not self._dialect.has(Operation.UNREGISTER):
            farewell = Answered(Outcome(unit.ref, True))  # the dialect knows none
            await self._persistently(partial(self._after_logout, unit, farewell))
            return
        url = service_url(self.connection, unit.assigned_address)
        outcome = await self._call(client, url, Unregister(unit.ref), Operation.UNREGISTER)
        await self._persistently(partial(self._after_logout, unit, outcome))

    async def _after_logout(self, unit: Unit, outcome: CallOutcome) -> None:
        async with self._db.write() as conn:
            current = await unit_store.lock_unit(conn, unit.key)
            if current is None or current.phase is not Phase.LEAVING:
                return
            after = session.logged_out(
                current,
                answered=isinstance(outcome, Answered | BadAnswer),
                now=self._clock.now(),
                options=self.connection.options,
                jitter=self._rng.random(),
            )
            await self._save(conn, after, before=current)
        self._committed()

    async def _save(self, conn: WriteConn, unit: Unit, *, before: Unit) -> None:
        """Write a session; see ``_save_all``."""
        await self._save_all(conn, [(unit, before)])

    async def _save_all(
        self, conn: WriteConn, changes: Sequence[tuple[Unit, Unit]], *, released_by: str | None = None
    ) -> None:
        """Write sessions, each with what it was before, and tell the platform which findings have changed.

        With ``released_by`` the claim on their queues is given up, if it is still that owner's.
        """
        saved, news = [], []
        for after, before in changes:
            found = session.finding_of(after, self.connection.options)
            unit = replace(after, finding=None if found is None else found.value)
            saved.append(unit)
            if unit.phase is not before.phase:
                self._units_at = float("-inf")  # a LOGIN may follow
                logger.info(
                    "unit changed its phase",
                    extra={"unit": unit.ref.unit_id, "phase": unit.phase.value, "reason": unit.error},
                )
            if unit.finding == before.finding:
                continue
            kinds = []
            if before.finding is not None:
                kinds.append((ConditionKind(before.finding), FindingPhase.END))
            if found is not None:
                kinds.append((found, FindingPhase.BEGIN))
            news += [
                bus.finding(
                    unit,
                    kind,
                    phase,
                    detail=unit.error or "the centre has let the unit in",
                    detail_zh=unit.error or "监控中心已接受注册",
                    at=self._clock.now(),
                )
                for kind, phase in kinds
            ]
        await session_store.save_sessions(conn, saved, released_by=released_by)
        if news:
            await outbox.put(conn, news)

    # ---- alarms ----------------------------------------------------------------------------------

    async def _report(self, client: CentreClient, task: _Task) -> None:
        """Send the claimed message of a unit's queue."""
        if self._clock.monotonic() - task.claimed_at > CLAIM_SPARE_S:
            return  # the machine stood still: the claim may end before the call; it is ours to be taken again
        unit, batch = task.unit, task.batch
        request = ReportAlarms(unit.ref, tuple(each.report() for each in batch))
        url = service_url(self.connection, unit.assigned_address)
        with span("sc.report_alarms", traceparent=batch[0].traceparent, destination=self.connection.id):
            outcome = await self._call(client, url, request, Operation.REPORT_ALARMS)
        await self._write(_Told(unit, batch, outcome))

    async def _write(self, told: _Told) -> None:
        """Write what became of a message, with all others whose calls have ended meanwhile."""
        self._told.append(told)
        async with self._writing:
            if told.written:
                return
            if len(self._busy) > 1:
                await self._clock.sleep(GATHER_S)
            chosen, self._told = self._told, []
            try:
                await self._persistently(partial(self._after_reports, chosen))
            except BaseException:
                self._told = chosen + self._told  # who waits behind us writes them
                raise
            for each in chosen:
                each.written = True

    async def _after_reports(self, told: Sequence[_Told]) -> None:
        """Write what became of messages with alarms, one of each unit."""
        now = self._clock.now()
        keys = [each.unit.key for each in told]
        before = {delivery.id: delivery for each in told for delivery in each.batch}
        after = [self._after(delivery, each) for each in told for delivery in each.batch]
        async with self._db.write() as conn:
            await delivery_store.plan_by_index(conn)
            units = await unit_store.lock_units(conn, keys)
            still_open = await delivery_store.save_attempts(conn, after)
            written = [each for each in after if each.id in still_open]
            changed = [each for each in written if each.state is not before[each.id].state]
            await outbox.put(conn, [bus.delivery_event(each, at=now) for each in changed])
            sessions = [
                (self._session_after(unit, each, now), unit)
                for each in told
                if (unit := units.get(each.unit.key)) is not None and unit.phase in (Phase.REGISTERED, Phase.LOST)
            ]
            await self._save_all(conn, sessions, released_by=self._owner)
            if len(sessions) < len(told):  # the others were taken leave of meanwhile
                await queue_store.release_sending(conn, set(keys) - {unit.key for unit, _ in sessions}, self._owner)
            more = await queue_store.units_with_more(conn, keys, now)
        self._ready |= dict.fromkeys(more)
        self._committed()
        for each in written:
            if each.state is DeliveryState.DELIVERED:
                _seconds.labels(self.connection.id).observe(max((now - each.queued_at).total_seconds(), 0.0))

    def _session_after(self, unit: Unit, told: _Told, now: datetime) -> Unit:
        if told.accepted:
            return session.alarms_acknowledged(unit, now)
        if _log_in_again(told.outcome):
            return session.forgotten(unit)
        if isinstance(told.outcome, Answered):  # a no is an answer: the connection works
            return unit
        return session.alarms_failed(unit, _reason(told.outcome), self.connection.options)

    def _after(self, delivery: Delivery, told: _Told) -> Delivery:
        now, outcome = self._clock.now(), told.outcome
        if told.accepted:
            return session.acknowledged(delivery, now)
        answered = isinstance(outcome, Answered)
        return session.not_taken(
            delivery,
            now,
            self.connection.options,
            refused=answered,
            # After a message that the centre could not digest each alarm goes alone; silence says nothing.
            company=len(told.batch) > 1 and isinstance(outcome, Answered | BadAnswer),
            reason="the centre answered Result 0" if answered else _reason(outcome),
            jitter=self._rng.random(),
        )

    # ---- values ----------------------------------------------------------------------------------

    async def _push(self, client: CentreClient, unit: Unit) -> None:
        """Tell the centre the latest values, a message for each kind, and then what it has missed."""
        every_s = self.connection.options.push_values_s
        self._rhythm.pushed(unit.key, self._clock.monotonic(), every_s)
        now = self._clock.now()
        async with self._db.read() as conn:
            mapping = await mapping_store.fetch_mapping(conn, unit.key)
            told_at = await session_store.values_told_at(conn, unit.key)
            signalling = {point.device_id for point in mapping.points if point.kind is SourceKind.SIGNAL}
            active = await alarm_store.active_alarms(conn, signalling)
        told = False
        for command in self._dialect.spoken(Operation.SEND_POINTS):
            devices = latest_values(
                mapping,
                (DeviceSelection(None, None),),
                latest=self._latest,
                active=active,
                type_of=self._dialect.type_of_point,
                now=now,
                kinds=command.types,
            )
            request = ReportPoints(unit.ref, known_values(devices), command.types)
            if not request.devices:
                continue
            if not await self._tell(client, unit, request, Operation.SEND_POINTS):
                return
            told = True
        if not told:
            return  # nothing is known, as after a start: what was missed stays missed until it is
        while (span := missed(told_at, now, every_s)) is not None:
            if not await self._tell_missed(client, unit, mapping, *span):
                return
            told_at = span[1]
        async with self._db.write() as conn:
            await session_store.note_values_told(conn, unit.key, now)

    async def _tell_missed(
        self, client: CentreClient, unit: Unit, mapping: UnitMapping, start: datetime, end: datetime
    ) -> bool:
        """Tell the hourly samples and the changes of signals of a span of time; return whether they were taken."""
        devices = {point.device_id for point in mapping.points if point.kind is SourceKind.POINT}
        signalling = {point.device_id for point in mapping.points if point.kind is SourceKind.SIGNAL}
        since = max(start, self._clock.now() - SIGNALS_BACK)
        async with self._db.read() as conn:
            found = await sample_store.fetch_samples(conn, devices, start, end)
            alarms = await alarm_store.alarms_within(conn, signalling, since, end) if since < end else []
        samples: dict[tuple[str, str], list[tuple[datetime, float]]] = {}
        for sample in found:
            samples.setdefault((sample.device_id, sample.point), []).append((sample.at, sample.value))
        for command in self._dialect.spoken(Operation.SEND_HISTORY):
            kinds = frozenset(PointType) if command.types is None else command.types
            own = replace(mapping, points=tuple(point for point in mapping.points if point.type in kinds))
            values = known_values(stored_values(own, (DeviceSelection(None, None),), samples))
            values = together(values, changes(own, alarms, since, end))
            request = ReportPoints(unit.ref, values, command.types)
            if values and not await self._tell(client, unit, request, Operation.SEND_HISTORY):
                return False
        async with self._db.write() as conn:
            await session_store.note_values_told(conn, unit.key, end)
        return True

    async def _tell(self, client: CentreClient, unit: Unit, request: ReportPoints, operation: Operation) -> bool:
        """Say values; return whether the centre took them. Silence counts towards a lost connection as with alarms."""
        url = service_url(self.connection, unit.assigned_address)
        outcome = await self._call(client, url, request, operation)
        taken = isinstance(outcome, Answered) and isinstance(outcome.reply, Outcome) and outcome.reply.ok
        async with self._db.write() as conn:
            current = await unit_store.lock_unit(conn, unit.key)
            if current is not None and current.phase is Phase.REGISTERED:
                if taken:
                    after = session.alarms_acknowledged(current, self._clock.now())
                elif _log_in_again(outcome):
                    after = session.forgotten(current)
                elif isinstance(outcome, Answered):
                    after = current
                else:
                    after = session.alarms_failed(current, _reason(outcome), self.connection.options)
                await self._save(conn, after, before=current)
        self._committed()
        if not taken:
            logger.info("values were not taken", extra={"unit": unit.ref.unit_id, "reason": _reason(outcome)})
        return taken

    async def _persistently(self, write: Callable[[], Awaitable[T]]) -> T:
        """Write an outcome, again and again while the database is away: the call itself must not be made twice."""
        backoff = Backoff(first_s=0.2, cap_s=5.0)
        while True:
            try:
                return await write()
            except Unavailable as exc:
                if backoff.first:
                    logger.warning("outcome of a call waits for the database", extra={"reason": exc.message})
                await self._clock.sleep(backoff.next_s())

    async def _call(self, client: CentreClient, url: str, request: UnitRequest, operation: Operation) -> CallOutcome:
        outcome = await client.call(url, request, operation)
        kind = type(outcome).__name__
        _calls.labels(self.connection.id, operation.value, kind).inc()
        return outcome


def _step_request(unit: Unit, mapping: UnitMapping, operation: Operation) -> UnitRequest:
    """Return what a step after the LOGIN says; of devices without thresholds, which alarm is not asked for here."""
    if operation is Operation.SEND_DEVICES:
        return ReportDevices(unit.ref, described(mapping, {}))
    return Announce(unit.ref)


def _reason(outcome: CallOutcome) -> str:
    if not isinstance(outcome, Answered):
        return outcome.reason
    if isinstance(outcome.reply, Outcome) and not outcome.reply.ok:
        return f"the centre answered no {outcome.reply.reason}".rstrip()
    return "unexpected reply"


def _log_in_again(outcome: CallOutcome) -> bool:
    return isinstance(outcome, Answered) and isinstance(outcome.reply, Outcome) and outcome.reply.log_in_again


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Do the work; when cancelled meanwhile, give it ``GRACE_S`` to end before it is cut."""
    task = asyncio.create_task(work, name="call")
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=GRACE_S)
        raise
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
        elif not task.cancelled():
            task.exception()  # what was raised after we were cancelled has been seen


async def wait_for(event: asyncio.Event, limit_s: float) -> None:
    """Wait for an event, at most ``limit_s``. [s]"""
    try:
        async with asyncio.timeout(limit_s):
            await event.wait()
    except TimeoutError:
        return
