"""A circuit's energy on the grid of intervals, made for taking many windows out of it."""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from services.carbon.domain.intervals import STEP_S, Grade
from services.carbon.domain.registers import BoolArray, FloatArray

STEP = timedelta(seconds=STEP_S)

LOCATED = (Grade.MEASURED.flag, Grade.INTERPOLATED.flag)
"""Flags of intervals whose energy is known where it lies. An allocated one has a measured total over a gap and no
shape, so that a window inside the gap knows nothing; an interpolated one is off by less than a step at its edges."""


@dataclass(frozen=True, slots=True)
class Course:
    """Energy of one circuit by interval, without holes in the grid."""

    circuit_id: str
    first: datetime
    """Start of the first interval, UTC, on the grid."""
    energy_kwh: FloatArray
    """Shape (n,); NaN where it is unknown. [kWh]"""
    located: BoolArray
    """Whether the energy is known to lie in the interval; see ``LOCATED``. Shape (n,)."""
    version: NDArray[np.int32]
    """The version of each interval that was read, 0 where there is none. Shape (n,)."""

    @classmethod
    def of(cls, circuit_id: str, frame: pl.DataFrame) -> "Course":
        """Return the course of one circuit; of several versions of an interval the highest holds.

        Args:
            circuit_id: Whose rows to take.
            frame: Columns ``circuit_id: String``, ``start: Datetime[UTC]``, ``energy_kwh: Float64 [kWh]`` (null is
                unknown), ``flag: String``, ``version: Int``; in any order.
        """
        rows = (
            frame.filter(pl.col("circuit_id") == circuit_id)
            .sort("start", "version")
            .unique("start", keep="last", maintain_order=True)
        )
        if rows.is_empty():
            empty = np.empty(0)
            return cls(circuit_id, datetime(1970, 1, 1, tzinfo=UTC), empty, empty.astype(bool), empty.astype(np.int32))
        first: datetime = rows["start"][0]
        at = ((rows["start"] - first).dt.total_seconds() // int(STEP_S)).to_numpy().astype(np.int64)
        count = int(at[-1]) + 1
        energy = np.full(count, np.nan)
        located = np.zeros(count, np.bool_)
        version = np.zeros(count, np.int32)
        energy[at] = rows["energy_kwh"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
        located[at] = rows["flag"].is_in(LOCATED).to_numpy()
        version[at] = rows["version"].to_numpy()
        return cls(circuit_id, first.astimezone(UTC), energy, located & ~np.isnan(energy), version)

    def take(self, start: datetime, end: datetime, *, located_share_min: float) -> FloatArray | None:
        """Return the energy of each interval of ``[start, end)``, both on the grid, or None if it is not known.

        Every interval has to be known; one that is missing is not zero, and a sum without it would be too small.

        Args:
            start: Start of the first interval.
            end: End of the last interval; equal to ``start`` gives an empty array, which is known.
            located_share_min: Share of the intervals that has to be located, 0 to 1.
        """
        count = round((end - start) / STEP)
        offset = round((start - self.first) / STEP)
        if count <= 0:
            return np.empty(0)
        if offset < 0 or offset + count > self.energy_kwh.size:
            return None
        energy = self.energy_kwh[offset : offset + count]
        if np.isnan(energy).any():
            return None
        if self.located[offset : offset + count].mean() < located_share_min:
            return None
        return energy

    def located_share(self, start: datetime, end: datetime) -> float:
        """Return the share of the intervals of ``[start, end)`` whose energy is known where it lies, 0 to 1."""
        count = round((end - start) / STEP)
        offset = round((start - self.first) / STEP)
        inside = self.located[max(offset, 0) : max(offset + count, 0)]
        return float(inside.sum()) / count if count > 0 else 1.0

    def newest_version(self, start: datetime, end: datetime) -> int:
        """Return the highest version among the intervals of a span, 0 where there is none."""
        offset = max(round((start - self.first) / STEP), 0)
        part = self.version[offset : max(round((end - self.first) / STEP), 0)]
        return int(part.max()) if part.size else 0


class Spans:
    """Half-open spans of time, merged, that can be asked whether one of them touches another span."""

    def __init__(self, spans: Iterable[tuple[datetime, datetime]]) -> None:
        self._starts: list[datetime] = []
        self._ends: list[datetime] = []
        for start, end in sorted(spans):
            if end <= start:
                continue
            if self._ends and start <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], end)
            else:
                self._starts.append(start)
                self._ends.append(end)

    def touch(self, start: datetime, end: datetime) -> bool:
        """Return whether any of the spans has an instant in common with ``[start, end)``."""
        if end <= start:
            return False
        index = bisect_right(self._ends, start)
        return index < len(self._starts) and self._starts[index] < end


def floor_step(at: datetime) -> datetime:
    """Return the start of the interval that ``at`` lies in."""
    return datetime.fromtimestamp(at.timestamp() // STEP_S * STEP_S, UTC)


def ceil_step(at: datetime) -> datetime:
    """Return the first boundary of the grid at or after ``at``."""
    return datetime.fromtimestamp(-(-at.timestamp() // STEP_S) * STEP_S, UTC)
