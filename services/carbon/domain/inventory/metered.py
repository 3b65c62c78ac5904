"""Electricity of a boundary from intervals: any span, also one that begins inside a quarter of an hour.

An interval that a span cuts gives its part in proportion to time, and the figure says that some of it is
apportioned. A hole is never a zero: the sum is over what is known, beside the share of the span that it covers, and
where less than half of the span is known there is no figure.

Source:
    The platform's energy methods, sections 0 and 2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from libs.common.clock import CIVIL_ZONE
from services.carbon.domain.inventory.boundary import Span

STEP = timedelta(minutes=15)
LEAST_USABLE = 0.5
"""Below this share of the expected intervals there is no figure. [1]"""
ESTIMATED = ("estimated_interpolated", "estimated_allocated")
SCHEMA: dict[str, type[pl.DataType] | pl.DataType] = {
    "circuit_id": pl.String,
    "start": pl.Datetime("us", "UTC"),
    "energy_kwh": pl.Float64,
    "flag": pl.String,
    "version": pl.Int64,
}
"""Frame of intervals: one row per circuit and interval, the highest version only; ``energy_kwh`` null is unknown."""


@dataclass(frozen=True, slots=True)
class Metered:
    """Energy of some circuits over a span."""

    energy_kwh: float | None
    """Of what is known; None below half of the expected intervals. [kWh]"""
    completeness: float
    """Measured intervals over expected ones, by time. [1]"""
    usable: float
    """Measured and estimated intervals over expected ones, by time. [1]"""
    estimated_share: float
    """Of the energy. [1]"""
    apportioned_kwh: float
    """Energy of intervals that the span cuts. [kWh]"""


def energy_of(intervals: pl.DataFrame, *, circuits: int, span: Span) -> Metered:
    """Return the energy of circuits over a span.

    Args:
        intervals: Frame of ``SCHEMA``, of the ``circuits`` circuits; intervals outside the span are ignored.
        circuits: How many circuits should have intervals, at least one.
        span: Half-open, not empty.

    Raises:
        ValueError: No circuit, or an empty span.
    """
    if circuits < 1 or span.seconds <= 0:
        raise ValueError(f"expected circuits and a span, found {circuits} and {span}")
    step_s = STEP.total_seconds()
    overlap_s = (
        pl.min_horizontal(pl.col("start") + STEP, _utc(span.end)) - pl.max_horizontal(pl.col("start"), _utc(span.start))
    ).dt.total_microseconds() / 1e6
    inside = (
        intervals.with_columns((overlap_s / step_s).alias("weight"))
        .filter(pl.col("weight") > 0)
        .with_columns((pl.col("energy_kwh") * pl.col("weight")).alias("kwh"))
    )
    known = inside.filter(pl.col("kwh").is_not_null())
    expected = circuits * span.seconds / step_s
    estimated = known.filter(pl.col("flag").is_in(ESTIMATED))
    measured_weight = known.filter(pl.col("flag") == "measured")["weight"].sum()
    usable = min(1.0, float(known["weight"].sum()) / expected)
    energy = float(known["kwh"].sum())
    return Metered(
        energy_kwh=energy if usable >= LEAST_USABLE else None,
        completeness=min(1.0, float(measured_weight) / expected),
        usable=usable,
        estimated_share=float(estimated["kwh"].sum()) / energy if energy else 0.0,
        apportioned_kwh=float(known.filter(pl.col("weight") < 1)["kwh"].sum()),
    )


def by_civil_year(span: Span) -> Sequence[Span]:
    """Return a span cut at each new year of civil time; factors are of years."""
    found = []
    start = span.start
    while start < span.end:
        local = start.astimezone(CIVIL_ZONE)
        end = min(span.end, datetime(local.year + 1, 1, 1, tzinfo=CIVIL_ZONE))
        found.append(Span(start, end))
        start = end
    return found


def _utc(at: datetime) -> pl.Expr:
    return pl.lit(at).dt.convert_time_zone("UTC").dt.cast_time_unit("us")
