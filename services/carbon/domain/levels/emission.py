"""Location-based emissions of a node's energy: each site's by its own grid, each interval's by its civil year.

Source:
    GHG Protocol Scope 2 Guidance (2015), ch. 6: E = A · EF.
"""

import polars as pl

from libs.common.clock import CIVIL_ZONE
from services.carbon.domain.levels.energy import known_energy
from services.carbon.domain.levels.periods import Step, period_of
from services.carbon.domain.sums import rounded_sums

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
        intervals: ``site_id``, ``circuit_id``, ``start: Datetime [UTC]``, ``energy_kwh: Float64 [kWh]``.
        factors: Frame of factors.
        step: Length of a period.

    Returns:
        One row per period that has an interval, sorted by ``start``:

        start: Datetime[us, UTC]
        emission_kg_co2: Float64 [kgCO2], of the energy that is known; null where there is none, or a factor is missing
        factor_ids: List[String], the factors used, sorted
    """
    year = pl.col("start").dt.convert_time_zone(CIVIL_ZONE.key).dt.year()
    dated = intervals.with_columns(period_of(step).alias("period"), year.alias("year"))
    emitted = (
        known_energy(dated, ["site_id", "period", "year"])
        .join(factors, on=["site_id", "year"], how="left")
        .with_columns((pl.col("energy_kwh") * pl.col("factor_kg_per_kwh")).alias("emission_kg_co2"))
    )
    by_period = emitted.group_by("period").agg(
        pl.col("factor_kg_per_kwh").is_not_null().all().alias("whole"),
        pl.col("factor_id").drop_nulls().unique().sort().alias("factor_ids"),
    )
    return (
        dated.select("period")
        .unique()
        .join(by_period, on="period", how="left")
        .join(rounded_sums(emitted, "emission_kg_co2", ["period"]), on="period", how="left")
        .select(
            pl.col("period").alias("start"),
            pl.when(pl.col("whole")).then(pl.col("emission_kg_co2")).alias("emission_kg_co2"),
            "factor_ids",
        )
        .sort("start")
    )
