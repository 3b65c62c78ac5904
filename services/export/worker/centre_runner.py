"""What is due for the units of one centre, and whose turn it is.

Several units at a time, and one call at a time per unit, which is what keeps the order. A lease on a unit may lapse
while its holder's call is under way, so each message with alarms is preceded by a claim on the unit's row: it keeps the
next holder from sending the same alarms meanwhile, or an END past a BEGIN that is still on its way. A call is made
outside any transaction; its outcome is written only to rows that are still open, so that a delivery is told of once.
Claims and outcomes of many units go into one transaction, since with one unit's at a time the statements cost more than
the calls.

Whose queue is worth a look is mostly known without looking: who puts something into a queue says whose it is, and after
a call its unit's queue is looked at in the transaction of the outcome. All queues are looked through only now and then,
for what became due by time or was put there by another process.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

from libs.common.clock import Clock
from libs.common.db import Database
from libs.common.errors import Unavailable
from libs.common.rounds import Rounds
from services.export.dialects import Dialect
from services.export.dialects.messages import Operation
from services.export.domain.connection import Connection, Unit, UnitKey
from services.export.domain.delivery import Delivery, batch_of
from services.export.domain.latest import LatestReadings
from services.export.secrets import Secrets
from services.export.store import deliveries as delivery_store
from services.export.store import queues as queue_store
from services.export.store import sessions as session_store
from services.export.worker.centre_alarms import CLAIM_SPARE_S, GATHER_S, AlarmReports
from services.export.worker.centre_link import CentreLink
from services.export.worker.centre_logins import SLOTS, Logins
from services.export.worker.centre_values import ValuePushes
from services.export.worker.finishing import to_its_end

logger = logging.getLogger(__name__)

LOOK = 500
"""So many units with something due are remembered from one look at all queues."""


@dataclass(frozen=True, slots=True)
class _Task:
    """One thing to do for a unit."""

    unit: Unit
    operation: Operation
    batch: tuple[Delivery, ...] = ()
    """Of ``REPORT_ALARMS``: the next message of the unit's queue, which has been claimed."""
    claimed_at: float = 0.0
    """When the claim was asked for, by monotonic time. [s]"""


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
        self._db = db
        self._clock = clock
        self._owner = owner
        self._slots = slots
        self._poll_s = poll_s
        self._rounds = Rounds(clock, worker=f"centre {connection.id}", every_s=poll_s)
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
        self._link = CentreLink(
            connection, db=db, clock=clock, dialect=dialect, committed=committed, phase_changed=self._look_for_logins
        )
        self._logins = Logins(self._link, secrets, remember=self._remember)
        self._alarms = AlarmReports(self._link, owner, remember=self._remember, others=lambda: len(self._busy) > 1)
        self._values = ValuePushes(self._link, latest)

    @property
    def connection(self) -> Connection:
        """The centre's."""
        return self._link.connection

    def follow(self, connection: Connection) -> None:
        """Go on with a changed connection, which is one that the runner ``serves``."""
        self._link.connection = connection

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
        self._rounds.wake()

    def look_at_units(self) -> None:
        """Look for LOGINs and LOGOUTs now, and through all queues."""
        self._units_at = self._look_s = float("-inf")
        self._rounds.wake()

    async def run(self) -> None:
        """Work until cancelled; calls that are under way then get a moment to be answered."""
        try:
            async with asyncio.TaskGroup() as group:
                await self._rounds.run(partial(self._round, group, self.connection.options.concurrency))
        finally:
            async with asyncio.timeout(2.0):
                await self._link.close()

    async def _round(self, group: asyncio.TaskGroup, concurrency: int) -> bool:
        due = await self._due(concurrency - len(self._busy))
        for task in due:
            if len(self._busy) >= concurrency:
                break
            if task.unit.key not in self._busy:
                self._busy.add(task.unit.key)
                group.create_task(self._do(task), name=f"{task.operation} {task.unit.ref.unit_id}")
        if due:
            await self._clock.sleep(GATHER_S)
        return False

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
        if now_s < self._pushes_s or not self._link.dialect.spoken(Operation.SEND_POINTS):
            return []
        async with self._db.read() as conn:
            units = await session_store.units_in(conn, self.connection.id, slots=slots, slot_count=SLOTS)
        due = [_Task(unit, Operation.SEND_POINTS) for unit in units if self._values.rhythm.due(unit.key, now_s)]
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
                interval_s=self._link.login_interval_s,
                limit=self._logins.pace.allowed(self._clock.monotonic(), connection.options.logins_per_s),
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
            self._rounds.wake()  # should these have nothing, the next ones are not to wait for it
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
        slots = self._slots()
        if slots:
            await self._logins.lose_silent_units(slots)

    def _look_for_logins(self) -> None:
        self._units_at = float("-inf")

    def _remember(self, keys: Iterable[UnitKey]) -> None:
        self._ready |= dict.fromkeys(keys)

    async def _do(self, task: _Task) -> None:
        try:
            # A LOGIN cut off in the middle would cost the unit an interval, an alarm would be sent twice.
            match task.operation:
                case Operation.REGISTER:
                    await to_its_end(self._logins.log_in(task.unit))
                    self._look_for_logins()  # others may wait for their turn
                case Operation.UNREGISTER:
                    await to_its_end(self._logins.log_out(task.unit))
                    self._look_for_logins()
                case Operation.SEND_POINTS:
                    await self._values.push(task.unit)  # cut off, the values are said again with newer ones
                case _:
                    await to_its_end(self._alarms.report(task.unit, task.batch, task.claimed_at))
        except Unavailable as exc:
            logger.warning("call put off", extra={"unit": task.unit.ref.unit_id, "reason": exc.message})
        finally:
            self._busy.discard(task.unit.key)
            self._rounds.wake()  # there may be more of this unit, and of others that waited for a place
