"""Values that units push: when, which, and what follows of the time that the centre has missed. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from services.export.dialects.messages import DeviceValues, PointValue, ValueState
from services.export.domain.connection import UnitKey
from services.export.domain.mapping import Mapping as UnitMapping
from services.export.domain.mapping import SourceKind

MISSED_AFTER = 2.5
"""The centre has missed values when it was told none for so many intervals."""
MOST_BACK = timedelta(days=31)
"""What it has missed follows so far back; the samples are kept a little longer."""
SIGNALS_BACK = timedelta(days=7)
"""Of signals it follows only as far back as ended alarms are remembered for certain."""
AT_ONCE = timedelta(days=1)
"""What it has missed follows in messages of so much each."""


@dataclass(slots=True)
class Rhythm:
    """When each unit is to push next, by monotonic time; nothing is kept over a restart, which pushes at once."""

    _next_s: dict[UnitKey, float] = field(default_factory=dict)

    def due(self, key: UnitKey, now_s: float) -> bool:
        """Return whether it is a unit's time."""
        return self._next_s.get(key, now_s) <= now_s

    def pushed(self, key: UnitKey, now_s: float, every_s: float) -> None:
        """Note that a unit has pushed, or has tried to: the next time is an interval away."""
        self._next_s[key] = now_s + every_s


def known_values(devices: Sequence[DeviceValues]) -> tuple[DeviceValues, ...]:
    """Return what can be pushed: values that there are, of devices that have some.

    A value that is stale or bad has no state of its own in these messages, so it is not said at all.
    """
    kept = (replace(each, values=tuple(one for one in each.values if one.value is not None)) for each in devices)
    return tuple(each for each in kept if each.values)


def missed(told_at: datetime | None, now: datetime, every_s: float) -> tuple[datetime, datetime] | None:
    """Return the span of time whose values are to follow next, None when nothing was missed.

    Args:
        told_at: Up to when the centre has been told; None when it was never told anything.
        now: The time.
        every_s: The interval. [s]
    """
    if told_at is None or now - told_at <= timedelta(seconds=MISSED_AFTER * every_s):
        return None
    start = max(told_at, now - MOST_BACK)
    return start, min(start + AT_ONCE, now)


@dataclass(frozen=True, slots=True)
class Held:
    """An alarm as far as its signal's value goes."""

    device_id: str
    signal: str
    level: int
    began_at: datetime
    ended_at: datetime | None
    """None while it holds."""


def changes(mapping: UnitMapping, alarms: Iterable[Held], start: datetime, end: datetime) -> tuple[DeviceValues, ...]:
    """Return what signals were at the start of a span, and each change within it: 1 while an alarm of it held, else 0.

    Args:
        mapping: The unit's; only its signals are looked at.
        alarms: Those of the mapping's devices that held at some time within the span.
        start: Of the span.
        end: Of the span; changes at it belong to it.
    """
    if start >= end:
        return ()
    by_signal: dict[tuple[str, str], list[Held]] = {}
    for alarm in alarms:
        by_signal.setdefault((alarm.device_id, alarm.signal), []).append(alarm)
    found: dict[str, list[PointValue]] = {}
    for point in mapping.points:
        if point.kind is not SourceKind.SIGNAL:
            continue
        own = by_signal.get((point.device_id, point.source), ())
        moments = {start, *(at for alarm in own for at in (alarm.began_at, alarm.ended_at) if at and start < at <= end)}
        last: ValueState | None = None
        for at in sorted(moments):
            state = _state_at(own, at, point.level)
            if state is not last:
                value = 0.0 if state is ValueState.NORMAL else 1.0
                found.setdefault(point.sc_device_id, []).append(
                    PointValue(point.point_id, point.type, value, state, at)
                )
            last = state
    return tuple(
        DeviceValues(device.ref, tuple(found[device.ref.device_id]))
        for device in mapping.devices
        if device.ref.device_id in found
    )


def _state_at(alarms: Sequence[Held], at: datetime, level: int | None) -> ValueState:
    held = [each.level for each in alarms if each.began_at <= at and (each.ended_at is None or at < each.ended_at)]
    return ValueState(level or min(held)) if held else ValueState.NORMAL


def together(first: Sequence[DeviceValues], second: Sequence[DeviceValues]) -> tuple[DeviceValues, ...]:
    """Return values of the same devices in one list each, the oldest first within a point."""
    values: dict[str, DeviceValues] = {}
    for each in (*first, *second):
        before = values.get(each.device.device_id)
        values[each.device.device_id] = (
            each if before is None else replace(before, values=(*before.values, *each.values))
        )
    return tuple(values.values())
