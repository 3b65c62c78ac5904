"""Many reports as few: minimum, maximum, mean and last of each point per bucket of time."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from libs.common.errors import InvalidInput

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


@dataclass(frozen=True, slots=True)
class Statistics:
    """One point in one bucket."""

    count: int
    """Of values, at least one."""
    minimum: float
    maximum: float
    total: float
    last: float

    def followed_by(self, other: "Statistics") -> "Statistics":
        """Return the statistics of these values and later ones."""
        return Statistics(
            count=self.count + other.count,
            minimum=min(self.minimum, other.minimum),
            maximum=max(self.maximum, other.maximum),
            total=self.total + other.total,
            last=other.last,
        )

    @property
    def mean(self) -> float:
        """Arithmetic mean of the values."""
        return self.total / self.count


@dataclass(frozen=True, slots=True)
class Bucket:
    """All points in one bucket."""

    start: datetime
    reports: int
    points: Mapping[str, Statistics]

    def followed_by(self, other: "Bucket") -> "Bucket":
        """Return this bucket with those of its reports that come later."""
        points = dict(self.points)
        for name, one in other.points.items():
            points[name] = points[name].followed_by(one) if name in points else one
        return Bucket(self.start, self.reports + other.reports, points)
