"""How many reports should have come, and what share of them is missing.

A device is expected to report once per slot; slots are those at which polled devices are read (``domain/polling.py``),
so an hour has exactly as many as there are polls in it. A report too many in one hour does not make up for one that is
missing in another, unless the device reports less often than once in a quarter of an hour.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from libs.common.contracts.registry import Device
from services.ingest.domain.polling import offset_s

HOUR_S = 3600
SELDOM_S = 900.0
"""A device that reports less often may come in another hour than its slot lies in. [s]"""

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Duty:
    """A stretch of time in which a device is expected to report, all the same."""

    device_id: str
    site_id: str
    begins: float
    """POSIX time. [s]"""
    ends: float
    interval_s: float
    protocol: str

    def goes_on_in(self, other: "Duty") -> bool:
        """Return whether another follows at once and asks the same."""
        return self.ends == other.begins and (self.device_id, self.site_id, self.interval_s, self.protocol) == (
            other.device_id, other.site_id, other.interval_s, other.protocol,
        )  # fmt: skip

    @property
    def offset(self) -> float:
        """The device's place within the interval. [s]"""
        return offset_s(self.device_id, self.interval_s)


@dataclass(frozen=True, slots=True)
class Loss:
    """Expected against received."""

    expected: int = 0
    received: int = 0
    """Of those expected; at most as many."""

    def plus(self, other: "Loss") -> "Loss":
        """Return both together."""
        return Loss(self.expected + other.expected, self.received + other.received)

    @property
    def completeness(self) -> float | None:
        """Received ÷ expected; None where nothing was expected."""
        return self.received / self.expected if self.expected else None

    @property
    def ratio(self) -> float | None:
        """Missing ÷ expected."""
        return 1.0 - self.received / self.expected if self.expected else None


def in_use_within(device: Device, start: datetime, end: datetime) -> tuple[datetime, datetime] | None:
    """Return the part of ``[start, end)`` in which a version of a device holds and the device is in use."""
    begins = max([start, device.valid_from, *([device.installed_at] if device.installed_at else [])])
    ends = min([end, *(time for time in (device.valid_to, device.decommissioned_at) if time is not None)])
    return (begins, ends) if begins < ends else None


def expected(duties: Sequence[Duty], hours: Sequence[float]) -> Counts:
    """Return how many reports each duty expects in each hour, shape (duties, hours).

    Args:
        duties: In any order.
        hours: Beginnings, POSIX time. [s]
    """
    starts = np.array(hours, dtype=np.float64)[None, :]
    begins, ends, interval, offset = (
        np.array([getattr(duty, name) for duty in duties], dtype=np.float64)[:, None]
        for name in ("begins", "ends", "interval_s", "offset")
    )
    first, last = np.maximum(starts, begins), np.minimum(starts + HOUR_S, ends)
    # Slots before a time are those whose number is below it, rounded up.
    slots = np.ceil((last - offset) / interval) - np.ceil((first - offset) / interval)
    counts: Counts = np.where(last > first, slots, 0.0).astype(np.int64)
    return counts


def losses(duties: Sequence[Duty], expected: Counts, received: Counts) -> list[Loss]:
    """Return the loss of each duty over all hours; ``received`` has the shape of ``expected``."""
    in_its_hour = np.minimum(expected, received).sum(axis=1)
    total = expected.sum(axis=1)
    whenever = np.minimum(total, received.sum(axis=1))
    seldom = np.array([duty.interval_s > SELDOM_S for duty in duties])
    taken = np.where(seldom, whenever, in_its_hour)
    return [Loss(int(one), int(other)) for one, other in zip(total, taken, strict=True)]


def hours_between(start: datetime, end: datetime) -> list[datetime]:
    """Return the hours that touch ``[start, end)``, as their beginnings."""
    first = start.replace(minute=0, second=0, microsecond=0)
    count = int((end - first) / timedelta(hours=1) + 1)
    return [hour for i in range(count) if (hour := first + timedelta(hours=i)) < end]
