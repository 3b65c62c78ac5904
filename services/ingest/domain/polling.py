"""When a device is read: aligned slots with an offset of its own, and a breaker that leaves silent ones alone.

Source:
    southbound.md 1.7; lessons.md 3.1 (one dead device stalls the others).
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field


def offset_s(device_id: str, interval_s: float) -> float:
    """Return the device's place within an interval, the same for ever, spread evenly over devices. [s]"""
    return zlib.crc32(device_id.encode()) / 2**32 * interval_s


def next_slot(now: float, interval_s: float, offset: float) -> float:
    """Return the first slot after ``now``; slots are ``k * interval_s + offset`` in POSIX time. [s]"""
    return (math.floor((now - offset) / interval_s) + 1) * interval_s + offset


def missed_slots(due: float, now: float, interval_s: float) -> int:
    """Return how many slots after the one at ``due`` have passed by ``now`` and can no longer be kept."""
    return max(math.floor((now - due) / interval_s), 0)


@dataclass(frozen=True, slots=True)
class BreakerLimits:
    """How patient we are with a silent device."""

    failures: int = 2
    """Polls in a row without an answer after which a device leaves the fast cycle."""
    waits_s: Sequence[float] = (30.0, 60.0, 120.0, 300.0, 600.0)
    """Pauses between probes; the last one repeats. [s]"""


@dataclass(slots=True)
class DeviceBreaker:
    """Whether a device is asked at its slots, or only probed now and then."""

    limits: BreakerLimits = field(default_factory=BreakerLimits)
    failures: int = 0
    probes: int = 0

    @property
    def is_open(self) -> bool:
        """Whether the device has left the fast cycle."""
        return self.failures >= self.limits.failures

    def succeeded(self) -> None:
        """The device answered: it is back in the fast cycle."""
        self.failures = self.probes = 0

    def failed(self) -> None:
        """The device did not answer."""
        if self.is_open:
            self.probes += 1
        self.failures += 1

    @property
    def wait_s(self) -> float:
        """Pause before the next probe of a device that has left the fast cycle. [s]"""
        return self.limits.waits_s[min(self.probes, len(self.limits.waits_s) - 1)]
