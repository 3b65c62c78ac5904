"""The load curve of a node: its highest, lowest and mean quarter hour and when, and what follows from them.

Source:
    The platform's energy methods, section 11. A quarter hour's power is four times its energy (source 002 calls
    the energy itself the load). Stored quarter hours are a lower bound of a billing meter's sliding demand.
"""

import polars as pl

from services.carbon.domain.intervals import Grade
from services.carbon.domain.levels.energy import STEPS_PER_HOUR
from services.carbon.domain.levels.periods import Step, period_of
from services.carbon.domain.sums import LAYERS, layers_of, rounded

ROUNDING = 1e-12
"""A mean of equal numbers may come out above them by this share."""


def load_curve(total: pl.DataFrame, step: Step) -> pl.DataFrame:
    """Return the curve's figures by civil period.

    Quarter hours whose shape was allocated over a gap are in the mean and neither highest nor lowest.

    Args:
        total: ``energy.totals`` of the node.
        step: Length of a period.

    Returns:
        One row per period that has a known quarter hour, sorted by ``start``:

        start: Datetime[us, UTC]
        max_kw, min_kw, mean_kw: Float64 [kW], null where no quarter hour counts
        max_at, min_at: Datetime[us, UTC], start of the quarter hour; of equal ones the first
        load_factor: Float64 [1], mean over max; null where max is not above zero, or below the mean: the highest then
            lies in a gap
        peak_valley_rate: Float64 [1], (max - min) over max; null where max is not above zero
        utilisation_h: Float64 [h], energy of the known quarter hours over max; null where max is not above zero
        curve_quarters: UInt32, quarter hours that all terms have
    """
    shaped = pl.col("kw").filter(pl.col("grade") < int(Grade.ALLOCATED))
    shaped_at = pl.col("start").filter(pl.col("grade") < int(Grade.ALLOCATED))
    positive = pl.col("max_kw") > 0
    known = (
        total.filter(pl.col("energy_kwh").is_not_null())
        .with_columns((pl.col("energy_kwh") * STEPS_PER_HOUR).alias("kw"), period_of(step).alias("period"))
        .sort("start")
    )
    layers = [layer.alias(label) for label, layer in zip(LAYERS, layers_of(known["kw"]), strict=True)]
    return (
        known.with_columns(layers)
        .group_by("period", maintain_order=True)
        .agg(
            shaped.max().alias("max_kw"),
            shaped_at.get(shaped.arg_max(), null_on_oob=True).alias("max_at"),
            shaped.min().alias("min_kw"),
            shaped_at.get(shaped.arg_min(), null_on_oob=True).alias("min_at"),
            *(pl.col(layer).sum() for layer in LAYERS),
            pl.col("energy_kwh").sum().alias("known_kwh"),
            pl.len().cast(pl.UInt32).alias("curve_quarters"),
        )
        .with_columns((rounded() / pl.col("curve_quarters")).alias("mean_kw"))
        .select(
            pl.col("period").alias("start"),
            "max_kw",
            "max_at",
            "min_kw",
            "min_at",
            "mean_kw",
            pl.when(positive & (pl.col("mean_kw") <= pl.col("max_kw") * (1 + ROUNDING)))
            .then((pl.col("mean_kw") / pl.col("max_kw")).clip(upper_bound=1.0))
            .alias("load_factor"),
            pl.when(positive).then((pl.col("max_kw") - pl.col("min_kw")) / pl.col("max_kw")).alias("peak_valley_rate"),
            pl.when(positive).then(pl.col("known_kwh") / pl.col("max_kw")).alias("utilisation_h"),
            "curve_quarters",
        )
        .sort("start")
    )
