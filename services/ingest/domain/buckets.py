"""Many reports as few: minimum, maximum, mean and last of each point per bucket of time."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt

from libs.common.clock import CIVIL_ZONE
from libs.common.errors import InvalidInput
from services.ingest.domain.layout import Matrix

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
MIN_BUCKET_S, MAX_BUCKET_S = 1, 31 * 86400


def parse_bucket(text: str) -> int:
    """Return the length of ``15m``, ``1h``, ``1d`` … in seconds.

    Raises:
        InvalidInput: It is none, or shorter than a second or longer than a month.
    """
    number, unit = text[:-1], text[-1:]
    length = int(number) * _UNITS[unit] if number.isdigit() and unit in _UNITS else 0
    if not MIN_BUCKET_S <= length <= MAX_BUCKET_S:
        raise InvalidInput(
            f"bucket {text!r}: expected a length such as 30s, 15m, 1h or 1d", message_zh=f"时间粒度 {text!r} 无效"
        )
    return length


def bucket_start(when: datetime, length_s: int) -> datetime:
    """Return the beginning of the bucket that a time falls into.

    Buckets of a day and more begin at civil midnight; shorter ones count from there too, so that days are whole.
    """
    offset = CIVIL_ZONE.utcoffset(when.astimezone(CIVIL_ZONE).replace(tzinfo=None)) or timedelta()
    local = when.timestamp() + offset.total_seconds()
    return datetime.fromtimestamp(local - local % length_s - offset.total_seconds(), tz=UTC)


@dataclass(slots=True)
class Statistics:
    """One point in one bucket."""

    count: int = 0
    minimum: float = float("inf")
    maximum: float = float("-inf")
    total: float = 0.0
    last: float = float("nan")

    def add(self, values: npt.NDArray[np.float64]) -> None:
        """Take more values, in order of time, none of them NaN."""
        if len(values) == 0:
            return
        self.count += len(values)
        self.minimum = min(self.minimum, float(values.min()))
        self.maximum = max(self.maximum, float(values.max()))
        self.total += float(values.sum())
        self.last = float(values[-1])

    @property
    def mean(self) -> float:
        """Arithmetic mean of the values."""
        return self.total / self.count


@dataclass(slots=True)
class Bucket:
    """All points in one bucket."""

    start: datetime
    points: dict[str, Statistics] = field(default_factory=dict)
    reports: int = 0

    def add(self, names: Sequence[str], rows: Matrix) -> None:
        """Take rows of reports, in order of time; a column per name."""
        self.reports += len(rows)
        for column, name in enumerate(names):
            values = rows[:, column]
            present = values[~np.isnan(values)]
            if len(present):
                self.points.setdefault(name, Statistics()).add(present)
