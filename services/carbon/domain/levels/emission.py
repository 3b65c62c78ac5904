"""Location-based emissions of a node's energy: each site's by its own grid, each interval's by its civil year.

Source:
    GHG Protocol Scope 2 Guidance (2015), ch. 6: E = A · EF.
"""

import polars as pl

from libs.common.clock import CIVIL_ZONE
from services.carbon.domain.levels.periods import Step, period_of

FACTORS: dict[str, pl.DataType | type[pl.DataType]] = {
    "site_id": pl.String,
    "year": pl.Int32,
    "factor_kg_per_kwh": pl.Float64,
    "factor_id": pl.String,
}
"""Frame of factors: at most one per site and civil year. [kgCO2/kWh]"""


def emissions_by_period(intervals: pl.DataFrame, factors: pl.DataFrame, step: Step) -> pl.DataFrame:
    """Return location-based emissions of purchased electricity per civil period.

    Missing energy stays missing; nothing is rounded here.

    Args:
        intervals: ``site_id``, ``start: Datetime [UTC]``, ``energy_kwh: Float64 [kWh]``.
        factors: Frame of factors.
        step: Length of a period.

    Returns:
        One row per period that has an interval, sorted by ``start``:

        start: Datetime[us, UTC]
        emission_kg_co2: Float64 [kgCO2], of the energy that is known; null where there is none, or a factor is missing
        factor_ids: List[String], the factors used, sorted
    """
    year = pl.col("start").dt.convert_time_zone(CIVIL_ZONE.key).dt.year()
    known = (
        intervals.filter(pl.col("energy_kwh").is_not_null())
        .group_by("site_id", period_of(step).alias("period"), year.alias("year"))
        .agg(pl.col("energy_kwh").sum())
        .join(factors, on=["site_id", "year"], how="left")
    )
    every = intervals.select(period_of(step).alias("start")).unique()
    return every.join(
        known.group_by(pl.col("period").alias("start")).agg(
            pl.when(pl.col("factor_kg_per_kwh").is_not_null().all())
            .then((pl.col("energy_kwh") * pl.col("factor_kg_per_kwh")).sum())
            .alias("emission_kg_co2"),
            pl.col("factor_id").drop_nulls().unique().sort().alias("factor_ids"),
        ),
        on="start",
        how="left",
    ).sort("start")
