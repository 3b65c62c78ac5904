"""Alarm events into the queues of units: the handler of group ``export.alarms``.

Everything happens in the consumer's transaction: state of the alarm, serial number, delivery, news of it.
What is kept in memory is only whom to wake after it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from libs.common.bus import envelope, outbox
from libs.common.bus.consumer import PoisonMessage
from libs.common.bus.port import Received
from libs.common.clock import Clock
from libs.common.contracts.alarm import AlarmEvent
from libs.common.contracts.delivery import DeliveryState
from libs.common.db import WriteConn
from libs.common.ids import new_id
from services.export import bus
from services.export.dialects import Dialect, Dialects
from services.export.domain.connection import ConnectionId, UnitKey
from services.export.domain.delivery import (
    Begun,
    Delivery,
    Step,
    Target,
    alarm_detail,
    alarm_text,
    event_time,
    next_serials,
    step_for,
)
from services.export.domain.latest import AlarmState
from services.export.store import alarms as alarm_store
from services.export.store import deliveries as delivery_store
from services.export.store import mappings as mapping_store
from services.export.store import serials as serial_store

GROUP = "export.alarms"
GATHER_S = 0.03
"""While alarms keep coming, they are gathered for so long: ten in a transaction cost little more than one. [s]"""


class Routing(Protocol):
    """To which centres a site reports."""

    def routed(self, site_id: str, connection_id: str) -> bool:
        """Return whether the registry lets a site report over a connection.

        Raises:
            Unavailable: The registry has not been read to its end.
        """


@dataclass(frozen=True, slots=True)
class _Told:
    """An alarm event with its identity and trace."""

    event: AlarmEvent
    event_id: str
    traceparent: str | None


class AlarmQueue:
    """Queues what centres are to be told."""

    def __init__(
        self,
        clock: Clock,
        dialects: Dialects,
        routing: Routing,
        *,
        wake: Callable[[Mapping[ConnectionId, Iterable[UnitKey]]], None],
    ) -> None:
        """Prepare the handler; ``wake`` is told after a commit which units' queues may have become longer."""
        self._clock = clock
        self._dialects = dialects
        self._routing = routing
        self._wake = wake
        self._queued: dict[ConnectionId, set[UnitKey]] = {}
        """By the last batch."""

    async def load(self, conn: WriteConn, partitions: frozenset[int]) -> None:
        """Nothing is kept in memory that a partition needs."""

    def drop(self, partitions: frozenset[int]) -> None:
        """Nothing is kept in memory that a partition needs."""

    def committed(self) -> None:
        """Let the senders look at once."""
        queued, self._queued = self._queued, {}
        self._wake(queued)

    async def handle(self, conn: WriteConn, batch: Sequence[Received]) -> None:
        """Queue a batch of alarm events.

        Raises:
            PoisonMessage: One is no alarm event.
        """
        told = [_read(received) for received in batch]
        await delivery_store.plan_by_index(conn)
        await alarm_store.save_alarm_states(conn, last_states(each.event for each in told))
        devices = {each.event.device_id for each in told if each.event.device_id is not None}
        targets = await mapping_store.alarm_targets(conn, devices, {each.event.signal for each in told})
        begun = await delivery_store.fetch_begun(conn, {each.event.alarm_id for each in told})
        # Before numbers are given the units' rows are locked, in one order, so that consumers of two
        # partitions that serve one unit do not wait for each other in a circle.
        planned = self._plan(told, targets, begun)
        deliveries = await _with_serials(conn, planned)
        await delivery_store.insert_deliveries(conn, deliveries)
        await outbox.put(conn, [bus.delivery_event(each, at=self._clock.now()) for each in deliveries])
        self._queued = {}
        for each in deliveries:
            self._queued.setdefault(each.connection_id, set()).add(each.unit_key)

    def _plan(
        self,
        told: Sequence[_Told],
        targets: Mapping[tuple[str, str], Sequence[Target]],
        begun: dict[delivery_store.PointKey, tuple[Begun, Target]],
    ) -> list[Delivery]:
        """Return the deliveries of a batch; a BEGIN has no serial number yet (-1), nor has its END.

        A BEGIN goes to whom the alarm is mapped now, an END to whom the BEGIN went.
        """
        now = self._clock.now()
        planned: list[Delivery] = []
        went_to: dict[str, dict[delivery_store.PointKey, Target]] = {}
        for key, (_, target) in begun.items():
            went_to.setdefault(key[1], {})[key] = target
        for each in told:
            event = each.event
            at_points = dict(went_to.get(event.alarm_id, {}))
            for target in targets.get((event.device_id or "", event.signal), ()):
                if not self._routing.routed(event.site_id, target.connection_id):
                    continue  # the site is local only, or another centre's; an END goes where its BEGIN went
                at_points[target.unit_key, event.alarm_id, target.sc_device.device_id, target.point_id] = target
            for key, target in at_points.items():
                known = begun[key][0] if key in begun else None
                step = step_for(event, known)
                if step is None:
                    continue
                dialect = self._dialects.named(target.dialect)
                planned.append(_delivery(each, target, dialect, step, known, now))
                after = Begun(-1, planned[-1].level, given_up=False) if known is None else replace(known, ended=True)
                begun[key] = (after, target)
                went_to.setdefault(event.alarm_id, {})[key] = target
        return planned


def _read(received: Received) -> _Told:
    try:
        event = bus.read_alarm(received)
    except ValueError as exc:
        raise PoisonMessage(received, str(exc)) from exc
    return _Told(event, bus.event_identity(received, event), envelope.traceparent(received))


def last_states(events: Iterable[AlarmEvent]) -> list[AlarmState]:
    """Return the last step of each alarm among events, whatever order they have."""
    found: dict[str, AlarmState] = {}
    for event in events:
        known = found.get(event.alarm_id)
        if known is None:
            found[event.alarm_id] = _state(event)
        elif known.sequence < event.sequence:
            found[event.alarm_id] = replace(
                known, level=int(event.level), sequence=event.sequence, ended_at=event.ended_at
            )
    return list(found.values())


def _state(event: AlarmEvent) -> AlarmState:
    return AlarmState(
        alarm_id=event.alarm_id,
        site_id=event.site_id,
        device_id=event.device_id,
        signal=event.signal,
        level=int(event.level),
        sequence=event.sequence,
        began_at=event.began_at,
        ended_at=event.ended_at,
        historical=bool(event.historical),
    )


def _delivery(
    told: _Told, target: Target, dialect: Dialect, step: Step, begun: Begun | None, now: datetime
) -> Delivery:
    event = told.event
    given_up = begun is not None and begun.given_up
    level = begun.level if begun is not None else target.level or int(event.level)
    return Delivery(
        id=new_id(),
        connection_id=target.connection_id,
        unit_key=target.unit_key,
        alarm_id=event.alarm_id,
        event_id=told.event_id,
        site_id=event.site_id,
        device_id=event.device_id,
        step=step,
        serial=-1 if begun is None else begun.serial,
        sc_device=target.sc_device,
        point_id=target.point_id,
        level=level,
        at=event_time(event, step),
        began_at=event.began_at,
        text=alarm_text(event, target, dialect),
        detail=alarm_detail(event, target, dialect),
        network_alarm=target.network_alarm,
        value=event.value,
        traceparent=told.traceparent,
        state=DeliveryState.GIVEN_UP if given_up else DeliveryState.QUEUED,
        queued_at=now,
        finished_at=now if given_up else None,
    )


async def _with_serials(conn: WriteConn, planned: Sequence[Delivery]) -> list[Delivery]:
    """Return the deliveries with serial numbers; an END takes its BEGIN's, also one of the same batch."""
    wanted: dict[UnitKey, int] = {}
    for each in planned:
        if each.step is Step.BEGIN:
            wanted[each.unit_key] = wanted.get(each.unit_key, 0) + 1
    numbers: dict[UnitKey, list[int]] = {}
    if wanted:
        firsts = await serial_store.lock_serials(conn, wanted)
        taken = await serial_store.open_serials(conn, wanted, firsts)
        following: dict[UnitKey, int] = {}
        for key, first in firsts.items():
            numbers[key], following[key] = next_serials(first, wanted[key], taken.get(key, set()))
        await serial_store.save_next_serials(conn, following)
    given: dict[delivery_store.PointKey, int] = {}
    numbered = []
    for each in planned:
        point = (each.unit_key, each.alarm_id, each.sc_device.device_id, each.point_id)
        serial = each.serial
        if each.step is Step.BEGIN:
            serial = given[point] = numbers[each.unit_key].pop(0)
        elif serial < 0:
            serial = given[point]
        numbered.append(replace(each, serial=serial))
    return numbered
