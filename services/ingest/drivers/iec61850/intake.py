"""What an IED tells, made reports and events of its device.

As with other stations the order of an association is the truth, see ``drivers/order.py``; a buffered entry whose time
lies before what its attribute has said already is history.
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
from libs.common.profiles import Iec61850Point
from services.ingest.drivers.iec61850.names import Variable, attribute, beside
from services.ingest.drivers.iec61850.values import quality_of, raw_of, time_of
from services.ingest.drivers.order import Order
from services.ingest.drivers.port import Address, DeviceEvent, LineSink, RawReport

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


@dataclass(slots=True)
class _Batch:
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
    """Takes what one device's IED tells on one association."""

    def __init__(self, address: Address, sink: LineSink, clock: Clock) -> None:
        self.places = places_of(address)
        self._device_id = address.device_id
        self._sink = sink
        self._clock = clock
        self._known: dict[str, Known] = {}
        self._order = Order()
        self._full = False

    async def take_read(self, values: Mapping[Variable, Any]) -> None:
        """Take values that were asked for: they hold now."""
        batch = _Batch()
        for place in self.places:
            known = said(place, values)
            if known is not None:
                self._known[place.point.name] = known
                batch.add(place.point.name, known)
        await self._deliver({None: batch})

    async def take_report(self, values: Mapping[Variable, Any], *, changed: bool) -> None:
        """Take a report.

        Args:
            values: Leaves of its entries.
            changed: It tells changes, and not everything in turn or because it was asked for.
        """
        batches: dict[datetime | None, _Batch] = {}
        history: dict[datetime, _Batch] = {}
        for place in self.places:
            before = self._known.get(place.point.name)
            known = said(place, values, before)
            if known is None:
                continue
            if changed and before is not None and before.raw != known.raw:
                await self._tell(place.point, known)
            if changed and _is_older(known, before) and known.time is not None:
                history.setdefault(known.time, _Batch()).add(place.point.name, known)
                continue
            self._known[place.point.name] = known
            batches.setdefault(known.time if changed else None, _Batch()).add(place.point.name, known)
        await self._deliver(history, old=True)
        await self._deliver(batches)

    async def _tell(self, point: Iec61850Point, known: Known) -> None:
        event = point.event
        if event is None or known.raw is None or (known.quality is not None and known.quality.is_bad):
            return
        if event.begin is None:
            phase = Phase.ONCE
        else:
            phase = Phase.BEGIN if known.raw == event.begin else Phase.END
        mapped = known.raw * point.scale + point.offset
        if point.value_map is not None:
            if int(known.raw) not in point.value_map:
                return  # a position on the way
            mapped = point.value_map[int(known.raw)]
        at = known.time or self._clock.now()
        told = DeviceEvent(
            event.code, phase, event.text_zh, at, severity=event.severity, point=point.name, value=mapped
        )
        try:
            await self._sink.event(self._device_id, told)
        except Unavailable as exc:
            self._note_full(exc)

    async def _deliver(self, batches: Mapping[Any, _Batch], *, old: bool = False) -> None:
        now = self._clock.now()
        reports: list[tuple[str, RawReport]] = []
        for told_at in sorted(batches, key=lambda time: time or now):
            batch = batches[told_at]
            if not batch.raw:
                continue
            if old:
                source_time = told_at
            else:
                source_time = self._order.untimed(now) if told_at is None else self._order.timed(told_at, now)
            device_time = None if told_at == source_time else told_at
            report = RawReport(
                batch.raw, now, device_time=device_time, quality=batch.quality, source_time=source_time, archive=old
            )
            reports.append((self._device_id, report))
        if not reports:
            return
        try:
            await self._sink.reports(reports)
        except Unavailable as exc:
            self._note_full(exc)
        else:
            self._full = False

    def _note_full(self, exc: Unavailable) -> None:
        if not self._full:
            logger.error("what an IED tells is lost", extra={"device_id": self._device_id, "reason": exc.message})
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


def _is_older(known: Known, before: Known | None) -> bool:
    return before is not None and before.time is not None and known.time is not None and known.time < before.time
