"""Descriptions of devices that a centre writes: what of the mapping they change, or why they cannot. Pure.

A centre's description is its own: names, details, levels and its network's ids of alarms go into the mapping, which is
how the centre's world is said here; the registry, which says what stands on a site, is not touched by it. Thresholds
are alarm's, so those that would change are orders of their own. A device is taken whole or not at all.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from services.export.dialects.messages import DeviceOrder, DeviceRef, PointOrder, SignalOrder
from services.export.domain.description import Thresholds
from services.export.domain.mapping import MappedDevice, MappedPoint, SourceKind
from services.export.domain.mapping import Mapping as UnitMapping

MAX_TEXT_BYTES = 200
"""Longest text of a description; the longest that any text names are remarks of 120. [B of UTF-8]"""
MAX_SIGNALS = 1000
"""Signals in one message; a longer one is refused whole."""
SAME_THRESHOLD = 5e-5
"""Thresholds are told with four decimals: what differs less is the same."""


class Unfit(StrEnum):
    """Why a description cannot be taken; a centre is only told of which device."""

    NOT_PERMITTED = "not_permitted"
    NOT_MAPPED = "not_mapped"
    """The device, or one of its signals, is not in the mapping."""
    OTHER_TYPE = "other_type"
    UNREADABLE = "unreadable"
    TOO_LONG = "too_long"
    TWICE = "twice"
    NO_THRESHOLD = "no_threshold"
    """A threshold is said of a point that is no alarm."""
    THRESHOLD_REFUSED = "threshold_refused"
    TOO_MANY = "too_many"
    NOT_KNOWN = "not_known"
    """Alarm could not be asked in time."""


@dataclass(frozen=True, slots=True)
class Description:
    """What one device shall be in the mapping, and which thresholds change."""

    device: MappedDevice
    points: tuple[MappedPoint, ...]
    """Those that change, as they shall be."""
    thresholds: tuple[PointOrder, ...] = ()


Judged = Description | Unfit


def judge_descriptions(
    orders: Sequence[DeviceOrder], mapping: UnitMapping, thresholds: Thresholds | None
) -> list[Judged]:
    """Return what each description means, or why it cannot be taken; in their order.

    Args:
        orders: What the centre wants.
        mapping: The unit's.
        thresholds: What holds in alarm for the devices that are named; None when alarm could not be asked.
    """
    devices = {device.ref.device_id: device for device in mapping.devices}
    points = {(point.sc_device_id, point.point_id): point for point in mapping.points}
    named = [order.device.device_id for order in orders]
    found: list[Judged] = []
    for order in orders:
        device = devices.get(order.device.device_id)
        if device is None or order.device.device_code not in ("", device.ref.device_code):
            found.append(Unfit.NOT_MAPPED)
        elif named.count(order.device.device_id) > 1:
            found.append(Unfit.TWICE)
        else:
            found.append(_judge(order, device, points, thresholds))
    return found


def applied(mapping: UnitMapping, descriptions: Iterable[Description]) -> UnitMapping:
    """Return the mapping as the descriptions say."""
    devices: dict[str, MappedDevice] = {}
    points: dict[tuple[str, str], MappedPoint] = {}
    for each in descriptions:
        devices[each.device.ref.device_id] = each.device
        points |= {(point.sc_device_id, point.point_id): point for point in each.points}
    return UnitMapping(
        devices=tuple(devices.get(device.ref.device_id, device) for device in mapping.devices),
        points=tuple(points.get((point.sc_device_id, point.point_id), point) for point in mapping.points),
    )


def _judge(
    order: DeviceOrder,
    device: MappedDevice,
    points: Mapping[tuple[str, str], MappedPoint],
    thresholds: Thresholds | None,
) -> Judged:
    ids = [signal.point_id for signal in order.signals]
    if len(set(ids)) != len(ids):
        return Unfit.TWICE
    texts = [order.name, *order.details.values()]
    texts += [text for signal in order.signals for text in (signal.name, signal.network_alarm)]
    if any(len((text or "").encode()) > MAX_TEXT_BYTES for text in texts):
        return Unfit.TOO_LONG
    changed: list[MappedPoint] = []
    wanted: list[PointOrder] = []
    for signal in order.signals:
        point = points.get((device.ref.device_id, signal.point_id))
        unfit = _unfit(signal, point, thresholds)
        if point is None or unfit is not None:
            return unfit or Unfit.NOT_MAPPED
        held = None if thresholds is None else thresholds.get((device.ref.device_id, signal.point_id))
        told = point.level or (None if held is None else held.level)
        new = replace(
            point,
            name=signal.name or point.name,
            level=point.level if signal.level is None or signal.level == told else signal.level,
            network_alarm=point.network_alarm if signal.network_alarm is None else signal.network_alarm or None,
        )
        if new != point:
            changed.append(new)
        value = None if held is None else held.value
        if signal.threshold is not None and (value is None or abs(value - signal.threshold) > SAME_THRESHOLD):
            wanted.append(PointOrder(device.ref, signal.point_id, signal.threshold, point.type))
    details = {**device.details, **order.details}
    described = replace(
        device, name=order.name or device.name, details={name: text for name, text in details.items() if text}
    )
    return Description(described, tuple(changed), tuple(wanted))


def _unfit(signal: SignalOrder, point: MappedPoint | None, thresholds: Thresholds | None) -> Unfit | None:
    if point is None:
        return Unfit.NOT_MAPPED
    if signal.unreadable:
        return Unfit.UNREADABLE
    if signal.type not in (None, point.type):
        return Unfit.OTHER_TYPE
    if signal.threshold is None:
        return None
    if point.kind is not SourceKind.SIGNAL:
        return Unfit.NO_THRESHOLD
    return Unfit.NOT_KNOWN if thresholds is None else None


def listed(orders: Sequence[DeviceOrder], done: Sequence[bool]) -> tuple[tuple[DeviceRef, ...], tuple[DeviceRef, ...]]:
    """Return the devices that were taken and those that were not, each once; one that is named twice was not."""
    holds: dict[str, tuple[DeviceRef, bool]] = {}
    for order, taken in zip(orders, done, strict=True):
        ref, before = holds.get(order.device.device_id, (order.device, True))
        holds[order.device.device_id] = ref, before and taken
    return (
        tuple(ref for ref, taken in holds.values() if taken),
        tuple(ref for ref, taken in holds.values() if not taken),
    )
