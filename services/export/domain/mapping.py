"""Mappings: which of our devices' points and alarms stand behind which points of a centre's unit.

A mapped point has a source of ours (a canonical point of a device, or a signal of alarm's table) and a
place at the centre (device id and code, point id). One meter of ours may stand behind several devices of
the centre: its voltages are points of the meter, its lost communication is an alarm of the site's
monitoring equipment.
"""

import re
from collections import abc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from libs.common.errors import Problem
from services.export.dialects import Dialect
from services.export.dialects.messages import DeviceDetail, DeviceRef, PointType


class SourceKind(StrEnum):
    """What a mapped point is fed from."""

    POINT = "point"
    """A canonical point of a device."""
    SIGNAL = "signal"
    """An alarm signal of a device: 1 while an alarm is active, else 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedDevice:
    """A device as the centre knows it."""

    ref: DeviceRef
    name: str = ""
    details: abc.Mapping[DeviceDetail, str] = field(default_factory=dict)
    """What the centre wants said of it besides, in its own words; empty texts are not kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedPoint:
    """One row of a mapping."""

    device_id: str
    """Our device."""
    kind: SourceKind
    source: str
    """Canonical point name, or signal code."""
    sc_device_id: str
    point_id: str
    type: PointType
    name: str | None = None
    """The centre's name of the signal; used in alarm texts."""
    level: int | None = None
    """Alarm level that the centre wants; None keeps the alarm's."""
    network_alarm: str | None = None
    """Id of the alarm in the network's own table (NMAlarmID of dialect M)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """All of one unit."""

    devices: tuple[MappedDevice, ...] = ()
    points: tuple[MappedPoint, ...] = ()


def in_dialect(mapping: Mapping, dialect: Dialect) -> Mapping:
    """Return the mapping with devices named as the dialect names them."""
    devices = tuple(replace(device, ref=dialect.own_device(device.ref)) for device in mapping.devices)
    return replace(mapping, devices=devices)


def problems_of(mapping: Mapping, dialect: Dialect, known_point: Callable[[str], bool]) -> list[Problem]:
    """Return everything that is wrong with a mapping, by row; empty when it can be used."""
    found: list[Problem] = []

    def wrong(place: str, expected: str, value: object) -> None:
        found.append(Problem(line=None, field=place, expected=expected, found=value))

    rule = dialect.id_rule
    seen_devices: set[str] = set()
    for number, device in enumerate(mapping.devices):
        place = f"devices[{number}]"
        if not dialect.check_device_id(device.ref.device_id):
            wrong(f"{place}.device_id", rule, device.ref.device_id)
        if dialect.device_has_code and not dialect.check_device_id(device.ref.device_code):
            wrong(f"{place}.device_code", rule, device.ref.device_code)
        if device.ref.device_id in seen_devices:
            wrong(f"{place}.device_id", "each device once", device.ref.device_id)
        seen_devices.add(device.ref.device_id)
    seen_points: set[tuple[str, str]] = set()
    for number, point in enumerate(mapping.points):
        place = f"points[{number}]"
        if point.sc_device_id not in seen_devices:
            wrong(f"{place}.sc_device_id", "one of the mapping's devices", point.sc_device_id)
        if not dialect.check_point_id(point.point_id):
            wrong(f"{place}.point_id", rule, point.point_id)
        if (point.sc_device_id, point.point_id) in seen_points:
            wrong(f"{place}.point_id", "each point of a device once", point.point_id)
        seen_points.add((point.sc_device_id, point.point_id))
        if point.kind is SourceKind.POINT and not known_point(point.source):
            wrong(f"{place}.source", "a canonical point name", point.source)
        if point.level is not None and point.level not in dialect.levels:
            wrong(f"{place}.level", f"one of {sorted(dialect.levels)}", point.level)
    return found


# ---- proposals --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DictionaryRow:
    """One signal of the compact dictionary of dialect T."""

    equipment: int
    """Two-digit equipment type."""
    number: str
    """Fifth to seventh digit of the point id: kind and running number."""
    name_zh: str
    type: PointType
    source_kind: SourceKind
    sources: tuple[str, ...]
    """Our points or signals that mean it, the better one first."""
    unit_wide: bool
    """A point of the site's monitoring equipment, one per device of ours by order number."""
    categories: tuple[str, ...]
    """Kinds of our devices that have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposedDevice:
    """What a proposal needs to know of a device of ours."""

    device_id: str
    name: str
    category: str
    points: frozenset[str]
    signals: frozenset[str] | None = None
    """Signals that can be raised for it; None when that is not known."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A mapping to start from, and what it leaves out."""

    mapping: Mapping
    notes: tuple[str, ...] = field(default=())


STATION_DIGITS = {"A": "1", "B": "2", "C": "3", "D": "4", "E": "4"}
"""Second digit of a point id; class E has no column in the dictionary and takes D's."""

_SIGNAL_ID = re.compile(r"^0[0-4s]([0-9]{8})$")


def propose(
    *,
    region_code: str,
    station_class: str,
    devices: Sequence[ProposedDevice],
    dictionary: Iterable[DictionaryRow],
    taken: frozenset[str] = frozenset(),
) -> Proposal:
    """Return a mapping by the compact dictionary of dialect T.

    Device ids are region (6 digits), class and equipment type (3), serial (5). The order number of a point
    is 001, except for points of the monitoring equipment, where it counts our devices.

    Args:
        region_code: GB/T 2260 code of the site's region.
        station_class: A to E.
        devices: Our devices, in the order in which serials are given.
        dictionary: Rows to choose from.
        taken: Device ids that are in use at the unit already.
    """
    digit = STATION_DIGITS[station_class]
    rows = list(dictionary)
    serials = _Serials(f"{region_code}{digit}", taken)
    mapped: list[MappedDevice] = []
    points: list[MappedPoint] = []
    notes: list[str] = []
    monitor: str | None = None
    monitored = 0
    for device in devices:
        own = [row for row in rows if device.category in row.categories]
        if not own:
            notes.append(f"{device.device_id}: the dictionary has no signals for a device of kind {device.category}")
            continue
        chosen = [(row, source) for row in own if (source := _source_of(row, device)) is not None]
        ids: dict[int, str] = {}
        for row, source in chosen:
            if row.unit_wide:
                if monitor is None:
                    monitor = serials.next(row.equipment)
                    mapped.append(MappedDevice(ref=DeviceRef(monitor, monitor), name="监控设备"))
                sc_device, order = monitor, monitored + 1
            else:
                if row.equipment not in ids:
                    ids[row.equipment] = serials.next(row.equipment)
                    ref = DeviceRef(ids[row.equipment], ids[row.equipment])
                    mapped.append(MappedDevice(ref=ref, name=device.name))
                sc_device, order = ids[row.equipment], 1
            points.append(
                MappedPoint(
                    device_id=device.device_id,
                    kind=row.source_kind,
                    source=source,
                    sc_device_id=sc_device,
                    point_id=f"0{digit}{row.equipment:02d}{row.number}{order:03d}",
                    type=row.type,
                    name=row.name_zh,
                )
            )
        monitored += any(row.unit_wide for row, _ in chosen)
        known = {source for row in own for source in row.sources}
        left_out = sorted(device.points - known)
        if left_out:
            notes.append(f"{device.device_id}: not in the dictionary: {', '.join(left_out)}")
    return Proposal(Mapping(devices=tuple(mapped), points=tuple(points)), tuple(notes))


def _source_of(row: DictionaryRow, device: ProposedDevice) -> str | None:
    if row.source_kind is SourceKind.POINT:
        return next((source for source in row.sources if source in device.points), None)
    if device.signals is None:
        return row.sources[0]
    return next((source for source in row.sources if source in device.signals), None)


class _Serials:
    """Gives device ids per equipment type, passing over those that are taken."""

    def __init__(self, prefix: str, taken: frozenset[str]) -> None:
        self._prefix = prefix
        self._taken = taken
        self._last: dict[int, int] = {}

    def next(self, equipment: int) -> str:
        while True:
            number = self._last[equipment] = self._last.get(equipment, 0) + 1
            candidate = f"{self._prefix}{equipment:02d}{number:05d}"
            if candidate not in self._taken:
                return candidate
