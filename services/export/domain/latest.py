"""Latest values of the devices that some centre asks about, and the samples of every full hour.

A value is *fresh* for twice the slowest acceptable update of its point (one report may be missed); older
ones, bad ones and points never seen are answered as invalid. The newest by the device's own time wins;
freshness is counted from when it was received.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from libs.common.contracts.telemetry import Reading
from libs.common.points import POINTS
from services.export.dialects import Dialect
from services.export.dialects.messages import (
    DeviceRef,
    DeviceSelection,
    DeviceValues,
    PointType,
    PointValue,
    ValueState,
)
from services.export.domain.mapping import MappedPoint, SourceKind
from services.export.domain.mapping import Mapping as UnitMapping

FRESH_FACTOR = 2.0
"""Of the point's slowest acceptable update."""
DEFAULT_MAX_AGE_S = 900.0
"""Slowest acceptable update of a vendor's point that nobody has named. [s]"""

TypeOfPoint = Callable[[str], PointType]


@dataclass(frozen=True, slots=True)
class LatestValue:
    """The newest value of one point."""

    value: float | None
    """None when it was bad."""
    source_time: datetime
    received_at: datetime

    def fresh_at(self, now: datetime, point: str) -> bool:
        """Return whether the value still speaks of ``now``."""
        known = POINTS.get(point)
        max_age_s = DEFAULT_MAX_AGE_S if known is None else known.max_age_s
        return max_age_s is None or now - self.received_at <= timedelta(seconds=FRESH_FACTOR * max_age_s)


@dataclass(frozen=True, slots=True)
class Sample:
    """The first good value of a point in an hour."""

    device_id: str
    point: str
    hour: datetime
    value: float
    at: datetime


class LatestReadings:
    """Newest values per device in memory, for the devices that are mapped; O(1) per point and report."""

    def __init__(self) -> None:
        self._devices: dict[str, dict[str, LatestValue]] = {}
        self._sampled: dict[str, dict[str, datetime]] = {}
        self._samples: list[Sample] = []

    def keep(self, devices: Collection[str]) -> None:
        """Hold exactly these devices from now on; the others are forgotten."""
        self._devices = {device: self._devices.get(device, {}) for device in devices}
        self._sampled = {device: self._sampled.get(device, {}) for device in devices}

    def holds(self, device_id: str) -> bool:
        """Return whether the device is one of those."""
        return device_id in self._devices

    def seed(self, samples: Iterable[Sample]) -> None:
        """Take stored samples as values where nothing newer is known; their hour counts as sampled."""
        for sample in samples:
            values = self._devices.get(sample.device_id)
            if values is None:
                continue
            before = values.get(sample.point)
            if before is None or before.source_time < sample.at:
                values[sample.point] = LatestValue(sample.value, sample.at, sample.at)
            sampled = self._sampled[sample.device_id]
            sampled[sample.point] = max(sampled.get(sample.point, sample.hour), sample.hour)

    def observe(self, reading: Reading) -> None:
        """Take a report in."""
        values = self._devices.get(reading.device_id)
        if values is None:
            return
        for point in reading.points:
            usable = reading.usable(point)
            before = values.get(point)
            if before is None or before.source_time <= reading.source_time:
                values[point] = LatestValue(usable, reading.source_time, reading.received_at)
            if usable is not None:
                self._sample(reading, point, usable)

    def value(self, device_id: str, point: str) -> LatestValue | None:
        """Return the newest value of a point, None when none was seen."""
        return self._devices.get(device_id, {}).get(point)

    def take_samples(self) -> list[Sample]:
        """Return the hourly samples taken since the last call."""
        taken, self._samples = self._samples, []
        return taken

    def give_back(self, samples: Sequence[Sample]) -> None:
        """Put samples back that could not be stored."""
        self._samples[:0] = samples

    def _sample(self, reading: Reading, point: str, value: float) -> None:
        sampled = self._sampled[reading.device_id]
        hour = hour_of(reading.source_time)
        last = sampled.get(point)
        if last is None or last < hour:
            sampled[point] = hour
            self._samples.append(Sample(reading.device_id, point, hour, value, reading.source_time))


def hour_of(when: datetime) -> datetime:
    """Return the beginning of the hour, in UTC; China's zones differ from it by whole hours."""
    return when.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


@dataclass(frozen=True, slots=True)
class ActiveAlarm:
    """An alarm that holds now."""

    device_id: str
    signal: str
    level: int


@dataclass(frozen=True, slots=True)
class AlarmState:
    """The last known step of an alarm."""

    alarm_id: str
    site_id: str
    device_id: str | None
    signal: str
    level: int
    sequence: int
    began_at: datetime
    ended_at: datetime | None
    historical: bool


def selected(
    mapping: UnitMapping, selection: Sequence[DeviceSelection]
) -> Iterable[tuple[DeviceRef, Sequence[tuple[str, MappedPoint | None]]]]:
    """Yield what a centre selects, device by device: point ids with the mapped point, None where there is none.

    A device is found by its id and, when one is given, its code. What does not exist is yielded as asked,
    so that the reply can say that it is invalid instead of leaving it out.
    """
    refs = {device.ref.device_id: device.ref for device in mapping.devices}
    by_device: dict[str, dict[str, MappedPoint]] = {device_id: {} for device_id in refs}
    for point in mapping.points:
        by_device[point.sc_device_id][point.point_id] = point
    for asked in selection:
        if asked.device is None:
            for device_id, ref in refs.items():
                yield ref, list(by_device[device_id].items())
            continue
        ref = refs.get(asked.device.device_id, asked.device)
        matches = asked.device.device_code in ("", ref.device_code)
        known = by_device.get(ref.device_id, {}) if matches else {}
        shown = ref if matches else asked.device
        ids = tuple(known) if asked.points is None else asked.points
        yield shown, [(point_id, known.get(point_id)) for point_id in ids]


def with_numbers(
    mapping: UnitMapping, selection: Sequence[DeviceSelection], dialect: Dialect
) -> tuple[DeviceSelection, ...]:
    """Return the selection with every repeated point of an id that is asked for without its running number."""
    if not dialect.number_separator:
        return tuple(selection)
    numbered: dict[tuple[str, str], list[str]] = {}
    for point in mapping.points:
        base = dialect.split_point(point.point_id)[0]
        numbered.setdefault((point.sc_device_id, base), []).append(point.point_id)

    def every(device_id: str, points: tuple[str, ...]) -> tuple[str, ...]:
        found = (each for point in points for each in numbered.get((device_id, point), (point,)))
        return tuple(dict.fromkeys(found))

    return tuple(
        each
        if each.device is None or each.points is None
        else replace(each, points=every(each.device.device_id, each.points))
        for each in selection
    )


def latest_values(
    mapping: UnitMapping,
    selection: Sequence[DeviceSelection],
    *,
    latest: LatestReadings,
    active: Iterable[ActiveAlarm],
    type_of: TypeOfPoint,
    now: datetime,
    kinds: Collection[PointType] | None = None,
) -> tuple[DeviceValues, ...]:
    """Return the answer to a poll; with ``kinds`` of points of these kinds only."""
    levels: dict[tuple[str, str], int] = {}
    for alarm in active:
        key = (alarm.device_id, alarm.signal)
        levels[key] = min(levels.get(key, alarm.level), alarm.level)
    answer = []
    for device, points in selected(mapping, selection):
        values = []
        for point_id, point in points:
            kind = type_of(point_id) if point is None else point.type
            if kinds is not None and kind not in kinds:
                continue
            if point is None:
                values.append(PointValue(point_id, kind, None, ValueState.INVALID))
            elif point.kind is SourceKind.SIGNAL:
                values.append(_signal_value(point, levels.get((point.device_id, point.source)), now))
            else:
                values.append(_point_value(point, latest.value(point.device_id, point.source), now))
        answer.append(DeviceValues(device, tuple(values)))
    return tuple(answer)


def _signal_value(point: MappedPoint, level: int | None, now: datetime) -> PointValue:
    if level is None:
        return PointValue(point.point_id, point.type, 0.0, ValueState.NORMAL, recorded_at=now)
    return PointValue(point.point_id, point.type, 1.0, ValueState(point.level or level), recorded_at=now)


def _point_value(point: MappedPoint, newest: LatestValue | None, now: datetime) -> PointValue:
    if newest is None or newest.value is None or not newest.fresh_at(now, point.source):
        # The last number is not repeated: a centre that overlooks the state would take it for a measurement.
        return PointValue(point.point_id, point.type, None, ValueState.INVALID)
    return PointValue(point.point_id, point.type, newest.value, ValueState.NORMAL, recorded_at=newest.source_time)


def stored_values(
    mapping: UnitMapping,
    selection: Sequence[DeviceSelection],
    samples: Mapping[tuple[str, str], Sequence[tuple[datetime, float]]],
) -> tuple[DeviceValues, ...]:
    """Return the answer to a question about the past; points without samples have no value in it.

    Args:
        mapping: The unit's.
        selection: What is asked for.
        samples: (device, point) of ours to time and value, oldest first, within the span asked for.
    """
    answer = []
    for device, points in selected(mapping, selection):
        values = [
            PointValue(point_id, point.type, value, ValueState.NORMAL, recorded_at=at)
            for point_id, point in points
            if point is not None and point.kind is SourceKind.POINT
            for at, value in samples.get((point.device_id, point.source), ())
        ]
        answer.append(DeviceValues(device, tuple(values)))
    return tuple(answer)
