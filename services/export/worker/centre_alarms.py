"""Alarms told to a centre: the call, and what became of it, written for many units at once."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from libs.common import metrics
from libs.common.bus import outbox
from libs.common.contracts.delivery import DeliveryState
from libs.common.tracing import span
from services.export import bus
from services.export.dialects.messages import Operation, Outcome, ReportAlarms
from services.export.domain import session
from services.export.domain.connection import Phase, Unit, UnitKey, service_url
from services.export.domain.delivery import Delivery
from services.export.soap_client import Answered, BadAnswer, CallOutcome
from services.export.store import deliveries as delivery_store
from services.export.store import queues as queue_store
from services.export.store import units as unit_store
from services.export.worker.centre_link import CentreLink, reason_of, wants_a_login

CLAIM_SPARE_S = 5.0
"""A claim outlasts the call that it is for by this; a call that would begin later than that is not made. [s]"""

GATHER_S = 0.02
"""While there is work, what is due or has ended is gathered for so long, to be claimed or written at once. [s]"""

_seconds = metrics.histogram(
    "export_alarm_acknowledged_seconds", "From the queue to the centre's acknowledgement", ("destination",)
)


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


class AlarmReports:
    """Tells a centre the messages that have been claimed for it."""

    def __init__(
        self,
        link: CentreLink,
        owner: str,
        *,
        remember: Callable[[Iterable[UnitKey]], None],
        others: Callable[[], bool],
    ) -> None:
        """Prepare.

        Args:
            link: The centre.
            owner: Name of this replica, whose the claims are.
            remember: Told of units in whose queues there is more.
            others: Says whether something else is under way, for whose end it is worth waiting a moment.
        """
        self._link = link
        self._owner = owner
        self._remember = remember
        self._others = others
        self._told: list[_Told] = []
        self._writing = asyncio.Lock()

    async def report(self, unit: Unit, batch: Sequence[Delivery], claimed_at: float) -> None:
        """Send the claimed message of a unit's queue.

        Args:
            unit: Whose.
            batch: What it says.
            claimed_at: When the claim was asked for, by monotonic time. [s]
        """
        if self._link.clock.monotonic() - claimed_at > CLAIM_SPARE_S:
            return  # the machine stood still: the claim may end before the call; it is ours to be taken again
        request = ReportAlarms(unit.ref, tuple(each.report() for each in batch))
        url = service_url(self._link.connection, unit.assigned_address)
        with span("sc.report_alarms", traceparent=batch[0].traceparent, destination=self._link.connection.id):
            outcome = await self._link.call(url, request, Operation.REPORT_ALARMS)
        await self._write(_Told(unit, batch, outcome))

    async def _write(self, told: _Told) -> None:
        """Write what became of a message, with all others whose calls have ended meanwhile."""
        self._told.append(told)
        async with self._writing:
            if told.written:
                return
            if self._others():
                await self._link.clock.sleep(GATHER_S)
            chosen, self._told = self._told, []
            try:
                await self._link.persistently(partial(self._after_reports, chosen))
            except BaseException:
                self._told = chosen + self._told  # who waits behind us writes them
                raise
            for each in chosen:
                each.written = True

    async def _after_reports(self, told: Sequence[_Told]) -> None:
        """Write what became of messages with alarms, one of each unit."""
        now = self._link.clock.now()
        keys = [each.unit.key for each in told]
        before = {delivery.id: delivery for each in told for delivery in each.batch}
        after = [self._after(delivery, each) for each in told for delivery in each.batch]
        async with self._link.db.write() as conn:
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
            await self._link.save_all(conn, sessions, released_by=self._owner)
            if len(sessions) < len(told):  # the others were taken leave of meanwhile
                await queue_store.release_sending(conn, set(keys) - {unit.key for unit, _ in sessions}, self._owner)
            more = await queue_store.units_with_more(conn, keys, now)
        self._remember(more)
        self._link.committed()
        for each in written:
            if each.state is DeliveryState.DELIVERED:
                _seconds.labels(self._link.connection.id).observe(max((now - each.queued_at).total_seconds(), 0.0))

    def _session_after(self, unit: Unit, told: _Told, now: datetime) -> Unit:
        if told.accepted:
            return session.alarms_acknowledged(unit, now)
        if wants_a_login(told.outcome):
            return session.forgotten(unit)
        if isinstance(told.outcome, Answered):  # a no is an answer: the connection works
            return unit
        return session.alarms_failed(unit, reason_of(told.outcome), self._link.connection.options)

    def _after(self, delivery: Delivery, told: _Told) -> Delivery:
        now, outcome = self._link.clock.now(), told.outcome
        if told.accepted:
            return session.acknowledged(delivery, now)
        answered = isinstance(outcome, Answered)
        return session.not_taken(
            delivery,
            now,
            self._link.connection.options,
            refused=answered,
            # After a message that the centre could not digest each alarm goes alone; silence says nothing.
            company=len(told.batch) > 1 and isinstance(outcome, Answered | BadAnswer),
            reason="the centre answered Result 0" if answered else reason_of(outcome),
            jitter=self._link.rng.random(),
        )
