"""Interval energy on a regular grid, from a circuit's corrected cumulative energy.

Intervals are half-open, ``[start, end)``, and labelled by their start. The total over a gap is measured
even where its shape is not, so the sum over any span between two accepted readings equals the corrected
register difference; nothing is extrapolated before the first reading or after the last.

Source:
    The platform's energy methods, section 1.2.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from services.carbon.domain.registers import BoolArray, Cumulative, FloatArray
from services.carbon.domain.shape import Shape

STEP_S = 900.0
"""Length of an interval: the fifteen minutes of load curves and demand. [s]"""
GAP_MAX_STEPS = 2.0
"""Readings further apart than this many steps leave the shape of the load unknown."""
NEAR_SHARE = 0.1
"""A reading within this share of a step of a boundary makes the boundary measured."""


class Grade(IntEnum):
    """How well an interval is known, best first; aggregates take the worst."""

    MEASURED = 0
    INTERPOLATED = 1
    ALLOCATED = 2
    MISSING = 3

    @property
    def flag(self) -> str:
        """The name that the contract and the database use (``interval_flag``)."""
        return _FLAGS[self]

    @classmethod
    def of(cls, flag: str) -> "Grade":
        """Return the grade of a name."""
        return cls(_FLAGS.index(flag))


_FLAGS = ("measured", "estimated_interpolated", "estimated_allocated", "missing")


@dataclass(frozen=True, slots=True)
class Intervals:
    """Energy per interval of a span of the grid."""

    start: FloatArray
    """Shape (n,). [s since the epoch]"""
    energy_kwh: FloatArray
    """Shape (n,); NaN where it is unknown. [kWh]"""
    grade: NDArray[np.int8]
    """``Grade`` of each. Shape (n,)."""
    lower_bound: BoolArray
    """Whether some of the energy was lost in a reset. Shape (n,)."""
    step_s: float


def align(
    cumulative: Cumulative,
    *,
    first: float,
    last: float,
    step_s: float = STEP_S,
    shapes: Mapping[float, Shape] = MappingProxyType({}),
) -> Intervals:
    """Return the intervals of the grid from ``first`` to ``last``, both boundaries of it.

    Args:
        cumulative: The circuit's energy.
        first: Start of the first interval, a multiple of the step. [s since the epoch]
        last: End of the last interval, a multiple of the step. [s since the epoch]
        step_s: Length of an interval. [s]
        shapes: What the circuit usually used before a long gap, by the time at which the gap begins; the total of
            the gap is allocated by it, flat where there is none. [s since the epoch]

    Returns:
        (last - first) / step_s intervals; unknown ones are NaN and ``MISSING``.
    """
    count = max(round((last - first) / step_s), 0)
    edges = np.linspace(first, first + step_s * count, count + 1)
    energy = np.full(count, np.nan)
    grade = np.full(count, Grade.MISSING, np.int8)
    lower = np.zeros(count, np.bool_)
    if not count or cumulative.at.size < 2:
        return Intervals(edges[:-1] if count else np.empty(0), energy, grade, lower, step_s)
    begins = np.flatnonzero(np.diff(cumulative.run, prepend=cumulative.run[0] - 1))
    for begin, end in zip(begins, [*begins[1:], cumulative.run.size], strict=True):
        inside = slice(int(begin), int(end))
        readings = cumulative.at[inside], cumulative.energy_kwh[inside], cumulative.best[inside]
        _align_run(*readings, edges, step_s, energy, grade, shapes)
    for i in np.flatnonzero(cumulative.lower_bound):
        # What was lost lies anywhere between the reading before and this one.
        lost_from = max(int((cumulative.at[i - 1] - first) // step_s), 0)
        lost_until = max(int(-(-(cumulative.at[i] - first) // step_s)), 0)
        lower[lost_from:lost_until] = True
    lower &= grade != Grade.MISSING
    return Intervals(edges[:-1], energy, grade, lower, step_s)


def long_gaps(cumulative: Cumulative, *, first: float, last: float, step_s: float = STEP_S) -> list[float]:
    """Return where the gaps begin whose totals are allocated to intervals of ``[first, last)``. [s since the epoch]"""
    long = (np.diff(cumulative.at) > GAP_MAX_STEPS * step_s) & (np.diff(cumulative.run) == 0)
    gaps = long & (cumulative.at[1:] > first) & (cumulative.at[:-1] < last)
    return [float(at) for at in cumulative.at[:-1][gaps]]


def _align_run(
    at: FloatArray,
    energy_kwh: FloatArray,
    best: NDArray[np.int8],
    edges: FloatArray,
    step_s: float,
    energy: FloatArray,
    grade: NDArray[np.int8],
    shapes: Mapping[float, Shape],
) -> None:
    """Fill in the intervals that lie within one run; every total between two readings is kept."""
    low, high = np.searchsorted(edges, at[0], side="left"), np.searchsorted(edges, at[-1], side="right")
    if high - low < 2:
        return
    edges = edges[low:high]
    right = np.clip(np.searchsorted(at, edges, side="left"), 0, at.size - 1)
    left = np.clip(np.searchsorted(at, edges, side="right") - 1, 0, at.size - 1)
    long = at[right] - at[left] > GAP_MAX_STEPS * step_s
    near = np.minimum(np.abs(edges - at[left]), np.abs(at[right] - edges)) <= NEAR_SHARE * step_s
    edge_grade = np.where(long, Grade.ALLOCATED, np.where(near, Grade.MEASURED, Grade.INTERPOLATED)).astype(np.int8)
    edge_grade = np.maximum(edge_grade, np.maximum(best[left], best[right]))
    at_edges = np.interp(edges, at, energy_kwh)
    for i in np.unique(left[long]) if shapes else ():
        shape = shapes.get(float(at[i]))
        inside = long & (left == i)
        share = None if shape is None else shape.shares(float(at[i]), float(at[i + 1]), edges[inside])
        if share is not None:
            at_edges[inside] = energy_kwh[i] + share * (energy_kwh[i + 1] - energy_kwh[i])
    energy[low : high - 1] = np.diff(at_edges)
    grade[low : high - 1] = np.maximum(edge_grade[:-1], edge_grade[1:])


def partial(cumulative: Cumulative, *, start: float, until: float) -> float | None:
    """Return the energy since ``start`` up to the last reading at or before ``until``, or None. [kWh]

    This is the provisional figure of a running hour; it is shown, never booked.
    """
    usable = cumulative.at <= until
    if not usable.any():
        return None
    last = int(np.flatnonzero(usable)[-1])
    inside = cumulative.run == cumulative.run[last]
    at, energy_kwh = cumulative.at[inside], cumulative.energy_kwh[inside]
    if at[0] > start or cumulative.at[last] <= start:
        return None
    return float(cumulative.energy_kwh[last] - np.interp(start, at, energy_kwh))
