"""Reports as columns, for whoever wants many of them as few: minimum, maximum, mean and last per bucket of time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt

from services.ingest.domain.buckets import Bucket, Statistics
from services.ingest.domain.layout import Matrix

Times = npt.NDArray[np.int64]
"""Microseconds since 1970, UTC."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CIVIL_OFFSET_S = 8 * 3600
"""Asia/Shanghai has been this far ahead of UTC, without summer time, since 1991. [s]"""
_US = 1_000_000


@dataclass(frozen=True, slots=True)
class Series:
    """Reports of one device, the oldest first, no two of one time."""

    times: Times
    """Shape (reports,)."""
    names: tuple[str, ...]
    values: Matrix
    """Shape (reports, names), NaN where there is none."""

    def __len__(self) -> int:
        return len(self.times)

    def slice(self, start: int, stop: int) -> "Series":
        """Return some of the reports, by place."""
        return Series(self.times[start:stop], self.names, self.values[start:stop])


def microseconds(when: datetime) -> int:
    """Return a time as microseconds since 1970."""
    return (when - EPOCH) // timedelta(microseconds=1)


def moment(time_us: int) -> datetime:
    """Return microseconds since 1970 as a time."""
    return EPOCH + timedelta(microseconds=time_us)


def joined(parts: Sequence[Series], names: Sequence[str] | None = None) -> Series:
    """Return series as one. Of two reports with one time that of the later part stands.

    Args:
        parts: Each in order; they may overlap and have different points.
        names: The points that are wanted; all without.
    """
    found = dict.fromkeys(name for part in parts for name in part.names)
    columns = tuple(name for name in found if names is None or name in names)
    place = {name: column for column, name in enumerate(columns)}
    times = np.concatenate([part.times for part in parts]) if parts else np.empty(0, dtype=np.int64)
    values = np.full((len(times), len(columns)), np.nan)
    start = 0
    for part in parts:
        kept = [column for column, name in enumerate(part.names) if name in place]
        values[start : start + len(part), [place[part.names[column]] for column in kept]] = part.values[:, kept]
        start += len(part)
    order = np.argsort(times, kind="stable")
    times, values = times[order], values[order]
    last_of_its_time = np.append(times[1:] != times[:-1], True) if len(times) else np.empty(0, dtype=bool)
    return Series(times[last_of_its_time], columns, values[last_of_its_time])


def bucket_starts(times: Times, length_s: int) -> Times:
    """Return the beginning of the bucket that each time falls into; buckets count from civil midnight."""
    local = times + CIVIL_OFFSET_S * _US
    starts: Times = times - local % (length_s * _US)
    return starts


def downsampled(series: Series, length_s: int) -> list[Bucket]:
    """Return the buckets that hold reports, in order; a point without any value in a bucket is not in it."""
    starts = bucket_starts(series.times, length_s)
    if not len(starts):
        return []
    firsts = np.flatnonzero(np.append(True, starts[1:] != starts[:-1]))
    counts = np.diff(np.append(firsts, len(starts)))
    present = ~np.isnan(series.values)
    number = np.add.reduceat(present, firsts, axis=0, dtype=np.int64)
    total = np.add.reduceat(np.where(present, series.values, 0.0), firsts, axis=0)
    low = np.minimum.reduceat(np.where(present, series.values, np.inf), firsts, axis=0)
    high = np.maximum.reduceat(np.where(present, series.values, -np.inf), firsts, axis=0)
    # The place of the last value: the greatest row that has one.
    rows = np.where(present, np.arange(len(starts))[:, None], 0)
    last = np.take_along_axis(series.values, np.maximum.reduceat(rows, firsts, axis=0), axis=0)
    return [
        Bucket(
            start=moment(int(starts[first])),
            reports=int(counts[i]),
            points={
                name: Statistics(
                    count=int(number[i, column]),
                    minimum=float(low[i, column]),
                    maximum=float(high[i, column]),
                    total=float(total[i, column]),
                    last=float(last[i, column]),
                )
                for column, name in enumerate(series.names)
                if number[i, column]
            },
        )
        for i, first in enumerate(firsts)
    ]
