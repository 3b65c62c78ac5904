"""Intervals that are alike, added up: the one place that looks at every interval of a boundary.

Intervals are alike when they have the same keys (a circuit, its site), the same kind (grade, marks) and lie in the same
civil period, year and rate. A circuit's year is 35,040 intervals and some dozens of such cells, and whatever a report
says (energy by period, split by band, emissions, completeness) follows from the cells. Cells of two pieces of a
boundary are cells of both, so pieces are gathered one after the other and never lie in memory as a whole.

Nothing is rounded in a cell: its energy is kept in layers (``domain/sums.py``), so that a figure is the same to the
last bit whatever cells it is added up from.

Frame of cells:

    the keys and kinds           as they were asked for
    period: Datetime[us, UTC]    start of the civil period
    year: Int32                  civil year
    rate: Int16                  index of a rate, null where there is none; only with rates
    high, middle, rest: Float64  layers of the sum of what is known [kWh]
    slots: Int64                 how many slots there were
    unknown: Int64               how many of them had no energy
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

from libs.common.clock import CIVIL_ZONE
from services.carbon.domain.intervals import STEP_S
from services.carbon.domain.sums import LAYERS, layers_of, rounded, rounded_sums

KIND_BITS = 3
"""A kind is a flag, or a number from 0 to 6; what is missing is 7."""
AT_ONCE = 1 << 16
"""Rows whose slots and layers are computed together: as many as stay in the processor's cache."""
_SUMS = (*LAYERS, "slots", "unknown")
_COUNTS = ("slots", "unknown")
_US = 1_000_000


@dataclass(frozen=True)
class Layout:
    """Which cell every slot of a span belongs to."""

    first_s: int
    """Start of the first slot. [s since the epoch]"""
    step_s: int
    """Length of an interval. [s]"""
    slot_s: int
    """Length of a slot, which divides ``step_s``. [s]"""
    cell: NDArray[np.int32]
    """Row of ``table``, by slot. Shape (slots,)."""
    table: pl.DataFrame
    """``period``, ``year`` and, with rates, ``rate`` of each cell."""


def lay_out(
    start: datetime,
    end: datetime,
    period: pl.Expr,
    *,
    step_s: int = int(STEP_S),
    slot_s: int | None = None,
    rates: NDArray[np.int16] | None = None,
) -> Layout:
    """Return the cells of the span ``[start, end)``, whose ends lie on the grid of intervals.

    Args:
        start: Start of the first interval.
        end: End of the last.
        period: The start of the period that ``start`` lies in. Datetime[us, UTC]
        step_s: Length of an interval. [s]
        slot_s: Length of a slot where it is shorter. [s]
        rates: Index of the rate of every slot, negative where there is none. Shape (slots,).
    """
    slot_s = step_s if slot_s is None else slot_s
    first_s = int(start.timestamp())
    count = max(0, int(end.timestamp()) - first_s) // slot_s
    slots = pl.DataFrame({"start": _times(first_s + slot_s * np.arange(count, dtype=np.int64))})
    columns = [
        period.alias("period"),
        pl.col("start").dt.convert_time_zone(CIVIL_ZONE.key).dt.year().alias("year"),
    ]
    if rates is not None:
        slots = slots.with_columns(pl.Series("rate", rates, dtype=pl.Int16))
        columns.append(pl.when(pl.col("rate") >= 0).then(pl.col("rate")).alias("rate"))
    labels = slots.select(columns)
    table = labels.unique(maintain_order=True)
    numbered = table.with_columns(pl.int_range(pl.len(), dtype=pl.Int32).alias("cell"))
    found = labels.join(numbered, on=table.columns, how="left", nulls_equal=True, maintain_order="left")
    return Layout(first_s, step_s, slot_s, found["cell"].to_numpy(), table)


def span_of(intervals: pl.DataFrame, step_s: int = int(STEP_S)) -> tuple[datetime, datetime]:
    """Return the civil days that intervals lie in, from midnight to midnight; an empty span where there are none."""
    first, last = intervals["start"].min(), intervals["start"].max()
    if not (isinstance(first, datetime) and isinstance(last, datetime)):
        return _NOTHING, _NOTHING
    return _midnight(first), _midnight(last + timedelta(seconds=step_s - 1)) + timedelta(days=1)


def as_slots(intervals: pl.DataFrame, layout: Layout, columns: Sequence[str]) -> pl.DataFrame:
    """Return the slots that intervals consist of: some columns, ``energy_kwh``, and ``cell``, the row of the layout.

    They are in the order of the intervals; those outside of the layout are left out.

    Raises:
        ValueError: An interval does not begin on the grid.
    """
    at, step_us = intervals["start"].dt.epoch("us").to_numpy(), layout.step_s * _US
    slot = np.empty(at.size, np.int64)
    for begin in range(0, at.size, AT_ONCE):
        some = slice(begin, begin + AT_ONCE)
        since = at[some] - layout.first_s * _US
        np.floor_divide(since, step_us, out=slot[some])
        if (slot[some] * step_us != since).any():
            raise ValueError(f"start: expected intervals that begin on the grid of {layout.step_s} s")
    frame = intervals.select(*columns, "energy_kwh")
    parts = layout.step_s // layout.slot_s
    if parts > 1:
        rows = np.repeat(np.arange(frame.height), parts)
        frame = frame.select(pl.all().gather(rows)).with_columns(pl.col("energy_kwh") / parts)
        slot = (slot[:, None] * parts + np.arange(parts)).ravel()
    if slot.size and not 0 <= slot.min() <= slot.max() < layout.cell.size:
        inside = (slot >= 0) & (slot < layout.cell.size)
        frame, slot = frame.filter(pl.Series(inside)), slot[inside]
    return frame.with_columns(pl.Series("cell", layout.cell[slot], dtype=pl.Int32))


def gathered(
    intervals: pl.DataFrame, layout: Layout, *, by: Sequence[str] = (), kinds: Sequence[str] = ()
) -> pl.DataFrame:
    """Add up intervals that are alike.

    What follows each other in the frame and is alike is added up first, so that intervals that come circuit by circuit
    in the order of time cost a few nanoseconds each; any other order gives the same and takes longer.

    Args:
        intervals: ``start: Datetime[us, UTC]``, ``energy_kwh: Float64 [kWh]``, null where it is unknown, and the
            columns of ``by`` and ``kinds``. One over several slots is divided among them in proportion to time.
        layout: What is laid out of the time; intervals outside of it are left out.
        by: Keys, of any type.
        kinds: Flags, and numbers from 0 to 6.

    Returns:
        Frame of cells that are all different, in no particular order.

    Raises:
        ValueError: An interval does not begin on the grid.
    """
    frame = as_slots(intervals, layout, [*by, *kinds])
    if frame.is_empty():
        return _labelled(frame, layout, [*by, *kinds]).with_columns(
            *(pl.lit(0.0).alias(name) for name in LAYERS), *(pl.lit(0, pl.Int64).alias(name) for name in _COUNTS)
        )
    telling = [name for name in kinds if frame[name].null_count() or frame[name].min() != frame[name].max()]
    begins = frame.select(pl.any_horizontal(_differs([*telling, "cell"]))).to_series()
    block = frame.select(pl.any_horizontal(_differs(by))).to_series() if by else None
    if block is not None:
        begins |= block
    first = begins.arg_true()
    at = first.to_numpy().astype(np.int64)
    key = frame["cell"].gather(first).to_numpy().astype(np.int64)
    if block is not None:
        key += block.gather(first).cast(pl.Int64).cum_sum().to_numpy() * layout.table.height
    for name in telling:
        code = frame[name].gather(first).cast(pl.Int64).fill_null((1 << KIND_BITS) - 1).to_numpy()
        key = (key << KIND_BITS) | code
    alike = (
        _run_sums(frame["energy_kwh"], at)
        .with_columns(pl.Series("key", key), pl.Series("row", at), pl.Series("slots", np.diff(at, append=frame.height)))
        .group_by("key")
        .agg(pl.col("row").first(), *(pl.col(name).sum() for name in _SUMS))
    )
    labels = _labelled(frame.select(pl.all().gather(alike["row"])), layout, [*by, *kinds])
    return merged(labels.with_columns(alike[name] for name in _SUMS))


def merged(cells: pl.DataFrame) -> pl.DataFrame:
    """Return cells that are all different: those that occur several times, as of several pieces, are added up."""
    return _added(cells, [name for name in cells.columns if name not in _SUMS])


def summed(cells: pl.DataFrame, labels: Sequence[str]) -> pl.DataFrame:
    """Add up cells by some of their columns: these, ``energy_kwh``, ``slots`` and ``unknown``.

    Each energy is rounded once, and null where nothing is known.
    """
    known = pl.col("slots") > pl.col("unknown")
    return _added(cells, labels).select(*labels, pl.when(known).then(rounded()).alias("energy_kwh"), *_COUNTS)


def sum_of_circuits(cells: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """Return the known energy of each group: the sum of its circuits' sums, each of them rounded once.

    Args:
        cells: Frame of cells that keep circuits apart.
        by: Columns that make a group; at least one, and not ``circuit_id``.

    Returns:
        The columns of ``by`` and ``energy_kwh``; groups in which nothing is known are left out.
    """
    return rounded_sums(summed(cells, [*by, "circuit_id"]), "energy_kwh", by)


def _added(cells: pl.DataFrame, labels: Sequence[str]) -> pl.DataFrame:
    return cells.group_by(labels).agg(pl.col(name).sum() for name in _SUMS)


def _run_sums(energy: pl.Series, at: NDArray[np.int64]) -> pl.DataFrame:
    """Return the layers of the sum of each run of rows, and how many of them are unknown; runs begin ``at``."""
    found = {name: np.empty(at.size) for name in LAYERS}
    known = energy.fill_null(0.0).to_numpy()
    edges = np.unique(np.append(np.searchsorted(at, np.arange(0, known.size, AT_ONCE)), at.size))
    for begin, end in pairwise(edges.tolist()):
        rows = slice(at[begin], at[end] if end < at.size else None)
        for name, layer in zip(LAYERS, layers_of(known[rows]), strict=True):
            np.add.reduceat(layer, at[begin:end] - at[begin], out=found[name][begin:end])
    holes = energy.is_null().arg_true().to_numpy()
    unknown = np.bincount(np.searchsorted(at, holes, side="right") - 1, minlength=at.size).astype(np.int64)
    return pl.DataFrame({**found, "unknown": unknown})


def _differs(names: Sequence[str]) -> list[pl.Expr]:
    """Return for each column whether a row has another value than the one before; the first always has."""
    return [pl.col(name).ne_missing(pl.col(name).shift()) for name in names]


def _labelled(rows: pl.DataFrame, layout: Layout, columns: Sequence[str]) -> pl.DataFrame:
    """Return columns of rows with what their cell stands for."""
    return layout.table.select(pl.all().gather(rows["cell"])).with_columns(rows.select(columns).get_columns())


def _times(at_s: NDArray[np.int64]) -> pl.Series:
    return pl.Series("start", at_s * _US).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


def _midnight(at: datetime) -> datetime:
    return at.astimezone(CIVIL_ZONE).replace(hour=0, minute=0, second=0, microsecond=0).astimezone(UTC)


_NOTHING = datetime(2000, 1, 1, tzinfo=UTC)
