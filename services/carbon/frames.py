"""Energy and emissions by period, in polars.

Frames of intervals: one row per circuit and interval, sorted by circuit and start.

    circuit_id: String
    start: Datetime[us, UTC]     start of the interval
    energy_kwh: Float64 [kWh]    null where it is unknown
    grade: Int8                  0 measured, 1 interpolated, 2 allocated, 3 missing
    lower_bound: Boolean         a register was reset inside
    uncertain: Boolean           a register behind it was flagged
    provisional: Boolean         the interval is still running
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum

import polars as pl

from libs.common.clock import CIVIL_ZONE
from services.carbon.domain.booking import BookedInterval
from services.carbon.domain.intervals import STEP_S, Grade

SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "circuit_id": pl.String,
    "start": pl.Datetime("us", "UTC"),
    "energy_kwh": pl.Float64,
    "grade": pl.Int8,
    "lower_bound": pl.Boolean,
    "uncertain": pl.Boolean,
    "provisional": pl.Boolean,
}


class Step(StrEnum):
    """Length of a period, in civil time."""

    QUARTER_HOUR = "quarter_hour"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"

    @property
    def every(self) -> str:
        """The period as polars writes it."""
        return {"quarter_hour": "15m", "hour": "1h", "day": "1d", "month": "1mo"}[self.value]


def interval_frame(booked: Sequence[BookedInterval], running: Sequence[tuple[str, datetime, float]]) -> pl.DataFrame:
    """Return the frame of booked intervals and of running ones (circuit, start, energy so far [kWh])."""
    rows = [
        (one.circuit_id, one.start, one.energy_kwh, int(one.grade), one.lower_bound, one.uncertain, False)
        for one in booked
    ] + [(circuit, start, energy, int(Grade.MEASURED), False, False, True) for circuit, start, energy in running]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row").sort("circuit_id", "start")


def by_period(
    intervals: pl.DataFrame, *, circuits: int, step: Step, start: datetime, end: datetime, now: datetime
) -> pl.DataFrame:
    """Sum intervals of some circuits by civil period.

    The sum is over what is known; ``interval_completeness`` says how much of the expected that is, so a
    hole is never a silent zero. A period without any known interval has a null energy.

    Args:
        intervals: Frame of intervals, of ``circuits`` circuits.
        circuits: How many circuits should have intervals.
        step: Length of a period.
        start: Start of the span, aware.
        end: End of the span, aware.
        now: The time of asking: a period that ends after it is provisional and only its past is expected.

    Returns:
        One row per period that overlaps the span, sorted by ``start``:

        start, end: Datetime[us, UTC]
        energy_kwh: Float64 [kWh], null when unknown
        provisional: Boolean
        interval_completeness: Float64 [1], measured intervals over expected ones
        estimated_share: Float64 [1], share of the energy that was interpolated or allocated
        lower_bound, uncertain: Boolean
    """
    periods = _periods(step, start, end)
    keyed = intervals.with_columns(
        pl.col("start").dt.convert_time_zone(CIVIL_ZONE.key).dt.truncate(step.every).dt.convert_time_zone("UTC")
        .alias("period")
    )  # fmt: skip
    known = pl.col("energy_kwh").is_not_null()
    sums = keyed.group_by("period").agg(
        pl.when(known.any()).then(pl.col("energy_kwh").sum()).alias("energy_kwh"),
        ((pl.col("grade") == int(Grade.MEASURED)) & ~pl.col("provisional")).sum().alias("measured"),
        pl.col("energy_kwh").filter(pl.col("grade").is_in([1, 2])).sum().alias("estimated_kwh"),
        pl.col("provisional").any().alias("running"),
        pl.col("lower_bound").any(),
        pl.col("uncertain").any(),
    )
    past_end = pl.min_horizontal(pl.col("end"), pl.lit(now).dt.convert_time_zone("UTC"))
    expected = ((past_end - pl.col("start")).dt.total_seconds() // int(STEP_S)).clip(0) * circuits
    return (
        periods.join(sums, left_on="start", right_on="period", how="left")
        .with_columns(expected.alias("expected"))
        .select(
            "start",
            "end",
            "energy_kwh",
            (pl.col("end") > now).alias("provisional") | pl.col("running").fill_null(False),
            pl.when(pl.col("expected") > 0)
            .then((pl.col("measured").fill_null(0) / pl.col("expected")).clip(0.0, 1.0))
            .alias("interval_completeness"),
            pl.when(pl.col("energy_kwh") > 0)
            .then(pl.col("estimated_kwh") / pl.col("energy_kwh"))
            .otherwise(0.0)
            .alias("estimated_share"),
            pl.col("lower_bound").fill_null(False),
            pl.col("uncertain").fill_null(False),
        )
        .sort("start")
    )


def location_based_emissions(energy_kwh: pl.Series, factor_kg_per_kwh: float) -> pl.Series:
    """Return location-based emissions of purchased electricity per period.

    E = A · EF. Missing energy stays missing; nothing is rounded here.

    Args:
        energy_kwh: Imported active energy per period, shape (n,), Float64. [kWh]
        factor_kg_per_kwh: Grid-average factor valid for the whole series. [kgCO2/kWh]

    Returns:
        Emissions, shape (n,), Float64, null where ``energy_kwh`` is null. [kgCO2]

    Source:
        GHG Protocol Scope 2 Guidance (2015), ch. 6.
    """
    return (energy_kwh * factor_kg_per_kwh).alias("emission_kg_co2")


def _periods(step: Step, start: datetime, end: datetime) -> pl.DataFrame:
    """Return the civil periods that overlap ``[start, end)``."""
    first = pl.Series([start], dtype=pl.Datetime("us", "UTC")).dt.convert_time_zone(CIVIL_ZONE.key)
    opening = first.dt.truncate(step.every)[0]
    closing = (end - timedelta(microseconds=1)).astimezone(CIVIL_ZONE)
    starts = pl.datetime_range(
        opening, closing, interval=step.every, closed="both", time_unit="us", time_zone=CIVIL_ZONE.key, eager=True
    )
    return pl.DataFrame({"start": starts}).select(
        pl.col("start").dt.convert_time_zone("UTC"),
        pl.col("start").dt.offset_by(step.every).dt.convert_time_zone("UTC").alias("end"),
    )
