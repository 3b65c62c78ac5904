"""The highest demand of a month, as the basic tariff bills it.

Source:
    The platform's energy methods, sections 10 and 11. Billing meters slide the quarter hour by the minute, so
    the highest of stored quarter hours is a lower bound of theirs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

import polars as pl

from libs.common.clock import CIVIL_ZONE
from services.carbon.domain.intervals import STEP_S, Grade
from services.carbon.domain.sums import rounded_sums


@dataclass(frozen=True, slots=True)
class PeakDemand:
    """The highest mean power over a quarter hour of one civil month."""

    month: date
    demand_kw: float
    at: datetime
    """Start of the quarter hour; of equal ones the first."""
    completeness: float
    """Quarter hours that count over those of the frame, 0 to 1."""


def peak_demands(intervals: pl.DataFrame, circuits: Sequence[str]) -> list[PeakDemand]:
    """Return the highest demand of each civil month that has one.

    Args:
        intervals: ``circuit_id``, ``start: Datetime [UTC]``, ``energy_kwh: Float64 [kWh]``, ``grade: Int8``; quarter
            hours. Steps whose shape was allocated over a gap count neither as high nor as low.
        circuits: The feeds of one supply point, whose demand is that of their sum; a quarter hour counts only
            when all of them have it.
    """
    known = pl.col("energy_kwh").is_not_null() & (pl.col("grade") < int(Grade.ALLOCATED))
    mine = intervals.filter(pl.col("circuit_id").is_in(list(circuits)))
    together = (
        mine.group_by("start")
        .agg(known.sum().alias("known"))
        .join(rounded_sums(mine.filter(known), "energy_kwh", ["start"]), on="start", how="left")
        .select(
            "start",
            pl.when(pl.col("known") == len(circuits)).then(pl.col("energy_kwh") * (3600 / STEP_S)).alias("kw"),
        )
        .sort("start")
        .with_columns(
            pl.col("start").dt.convert_time_zone(CIVIL_ZONE.key).dt.truncate("1mo").dt.date().alias("month"),
        )
    )
    months = (
        together.group_by("month")
        .agg(
            pl.col("kw").max(),
            pl.col("start").filter(pl.col("kw") == pl.col("kw").max()).min().alias("at"),
            pl.col("kw").is_not_null().mean().alias("completeness"),
        )
        .filter(pl.col("kw").is_not_null())
        .sort("month")
    )
    return [PeakDemand(*row) for row in months.select("month", "kw", "at", "completeness").iter_rows()]
