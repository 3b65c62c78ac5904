"""Values that units push: when, which, and what follows of the time that the centre has missed. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from services.export.dialects.messages import DeviceValues
from services.export.domain.connection import UnitKey

MISSED_AFTER = 2.5
"""The centre has missed values when it was told none for so many intervals."""
MOST_BACK = timedelta(days=31)
"""What it has missed follows so far back; the samples are kept a little longer."""
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
