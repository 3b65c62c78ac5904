"""Location-based emissions of a node's energy: each site's by its own grid, each interval's by its civil year.

Source:
    GHG Protocol Scope 2 Guidance (2015), ch. 6: E = A · EF.
"""

from collections.abc import Sequence

import polars as pl

from services.carbon.domain.cells import gathered, lay_out, span_of, sum_of_circuits
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
    start, end = span_of(intervals)
    layout = lay_out(start, end, period_of(step))
    return emissions_of(gathered(intervals, layout, by=["circuit_id", "site_id"]), factors)


def emissions_of(cells: pl.DataFrame, factors: pl.DataFrame, *, by: Sequence[str] = ()) -> pl.DataFrame:
    """Return the same of cells (``domain/cells.py``) of circuits and sites, by period and the columns of ``by``.

    Each site's energy of a period and year is multiplied by its factor, and the products are added up and rounded once.
    """
    groups = [*by, "start"]
    cells = cells.rename({"period": "start"})
    emitted = (
        sum_of_circuits(cells, ["site_id", "start", "year"])
        .join(factors, on=["site_id", "year"], how="left")
        .with_columns((pl.col("energy_kwh") * pl.col("factor_kg_per_kwh")).alias("emission_kg_co2"))
    )
    used = emitted.group_by(groups).agg(
        pl.col("factor_kg_per_kwh").is_not_null().all().alias("whole"),
        pl.col("factor_id").drop_nulls().unique().sort().alias("factor_ids"),
    )
    return (
        cells.select(groups)
        .unique()
        .join(used, on=groups, how="left")
        .join(rounded_sums(emitted, "emission_kg_co2", groups), on=groups, how="left")
        .select(
            *groups, pl.when(pl.col("whole")).then(pl.col("emission_kg_co2")).alias("emission_kg_co2"), "factor_ids"
        )
        .sort(groups)
    )
