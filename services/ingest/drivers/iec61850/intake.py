"""What an IED tells, made reports and events of its device.

The order of an association is the truth, see ``drivers/order.py``. What a report buffer has kept for us while there was
no association is history: it goes to backfill with its own times and is never judged live, for the general
interrogation behind it tells how things are now. Events are told of it all the same. An event is told of every change
of state, however it was learnt: a report may have been lost.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from libs.common.clock import Clock
from libs.common.contracts.base import Phase
from libs.common.contracts.telemetry import Quality
from libs.common.errors import Unavailable
from libs.common.profiles import ChangeEvent, Iec61850Point
from services.ingest.drivers.iec61850.names import Variable, attribute, beside
from services.ingest.drivers.iec61850.reports import Report
from services.ingest.drivers.iec61850.values import quality_of, raw_of, time_of
from services.ingest.drivers.order import Order
from services.ingest.drivers.port import Address, DeviceEvent, EventPhase, LineSink, RawReport

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a point is in the IED."""

    point: Iec61850Point
    value: Variable
    quality: Variable
    time: Variable


@dataclass(frozen=True, slots=True)
class Known:
    """What an attribute has said last."""

    raw: int | float | None
    quality: Quality | None
    time: datetime | None
    """By the IED, where its clock can be believed."""


@dataclass(slots=True)
class _Batch:
    """Values that hold at one time."""

    raw: dict[str, float | int | None] = field(default_factory=dict)
    quality: dict[str, Quality] = field(default_factory=dict)

    def add(self, point: str, known: Known) -> None:
        self.raw[point] = known.raw
        if known.quality is not None:
            self.quality[point] = known.quality


def places_of(address: Address) -> list[Place]:
    """Return where the points of a device are."""
    ied = address.text or ""
    places = []
    for point in address.profile.iec61850_points():
        if point.copy_of is None:
            value = attribute(ied, point.reference, point.constraint)
            places.append(Place(point, value, beside(value, "q"), beside(value, "t")))
    return places


class Intake:
    """Takes what one device's IED tells, on one association after the other."""

    def __init__(self, address: Address, sink: LineSink, clock: Clock) -> None:
        self.places = places_of(address)
        self._address = address
        self._sink = sink
        self._clock = clock
        self._known: dict[str, Known] = {}
        self._states: dict[str, int | float] = {}
        """By point, the last state that an event can begin or end with."""
        self._reported: dict[str, int] = {}
        """By point, the number of the report that told it last on this association."""
        self._order = Order()
        self._full = False

    def serves(self, address: Address, sink: LineSink) -> bool:
        """Return whether this is the intake of such a device; what it knows then still holds."""
        return self._address == address and self._sink is sink

    def begin(self) -> None:
        """Begin with an association, whose reports are numbered from 1."""
        self._reported.clear()

    async def take_read(self, values: Mapping[Variable, Any], *, since: int) -> None:
        """Take values that were read: they hold now.

        Args:
            values: As read.
            since: Number of the last report that had come when they were asked for; what a later one told is younger.
        """
        batch = _Batch()
        for place in self.places:
            name = place.point.name
            known = said(place, values)
            if known is None or self._reported.get(name, 0) > since:
                continue
            self._known[name] = known
            batch.add(name, known)
            await self._tell_movement(place.point, known, known.time or self._clock.now())
        await self._deliver({None: batch})

    async def take_report(self, report: Report, *, number: int, kept: bool, made_at: datetime | None) -> None:
        """Take a report.

        Args:
            report: What it says.
            number: Of the reports of this association.
            kept: It was kept in a buffer from before the association.
            made_at: When it was put there, where that is known.
        """
        batches: dict[datetime | None, _Batch] = {}
        for place in self.places:
            name = place.point.name
            known = said(place, report.values, self._known.get(name))
            if known is None:
                continue
            self._known[name] = known
            self._reported[name] = number
            at = known.time or made_at
            await self._tell_movement(place.point, known, at or self._clock.now())
            if not kept and not report.changed:
                at = None  # told again in turn or because it was asked for: it holds now
            batches.setdefault(at, _Batch()).add(name, known)
        await self._deliver(batches, kept=kept)

    async def _tell_movement(self, point: Iec61850Point, known: Known, at: datetime) -> None:
        """Tell the event of a state that is another than before; what was never known before is none."""
        event = point.event
        if event is None or known.raw is None or (known.quality is not None and known.quality.is_bad):
            return
        if point.value_map is not None and int(known.raw) not in point.value_map:
            return  # a position on the way
        before = self._states.get(point.name)
        self._states[point.name] = known.raw
        if before is None or before == known.raw:
            return
        told = DeviceEvent(
            event.code, _phase(event, known.raw), event.text_zh, at, severity=event.severity, point=point.name,
            value=_canonical(point, known.raw),
        )  # fmt: skip
        try:
            await self._sink.event(self._address.device_id, told)
        except Unavailable as exc:
            self._note_full(exc)

    async def _deliver(self, batches: Mapping[datetime | None, _Batch], *, kept: bool = False) -> None:
        now = self._clock.now()
        reports: list[tuple[str, RawReport]] = []
        for told_at in sorted(batches, key=lambda time: time or now):
            batch = batches[told_at]
            if not batch.raw:
                continue
            if told_at is None:
                source_time = self._order.untimed(now)
            else:
                source_time = told_at if kept else self._order.timed(told_at, now)
            report = RawReport(
                batch.raw,
                now,
                device_time=None if told_at == source_time else told_at,
                quality=batch.quality,
                source_time=source_time,
                archive=kept and told_at is not None,
            )
            reports.append((self._address.device_id, report))
        if not reports:
            return
        try:
            await self._sink.reports(reports)
        except Unavailable as exc:
            self._note_full(exc)
        else:
            self._full = False

    def _note_full(self, exc: Unavailable) -> None:
        """Say once that reports are lost: MMS acknowledges none."""
        if not self._full:
            logger.error(
                "what an IED tells is lost", extra={"device_id": self._address.device_id, "reason": exc.message}
            )
        self._full = True


def said(place: Place, values: Mapping[Variable, Any], before: Known | None = None) -> Known | None:
    """Return what values say of a point, None when they say nothing.

    A report may carry a quality alone that has changed; the value is then the one ``before``.
    """
    if place.value in values:
        raw = raw_of(values[place.value])
    elif place.quality in values and before is not None:
        raw = before.raw
    else:
        return None
    quality = quality_of(values.get(place.quality))
    if place.quality not in values and before is not None:
        quality = before.quality
    return Known(raw, quality, time_of(values.get(place.time)))


def _phase(event: ChangeEvent, raw: int | float) -> EventPhase:
    if event.begin is None:
        return Phase.ONCE
    return Phase.BEGIN if raw == event.begin else Phase.END


def _canonical(point: Iec61850Point, raw: int | float) -> float:
    return point.value_map[int(raw)] if point.value_map is not None else raw * point.scale + point.offset
