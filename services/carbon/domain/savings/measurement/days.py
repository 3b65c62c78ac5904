"""Civil days of quarter hours out of the books: what was used when, and what was saved when.

A day is known if every quarter hour of every circuit is; a sum without one of them would be too small. An allocated
quarter hour counts: its shape is not known, but the total of its gap is.
"""

from collections.abc import Collection
from datetime import UTC, date, datetime, time, timedelta

import numpy as np
import polars as pl

from libs.common.clock import CIVIL_ZONE
from services.carbon.domain.intervals import STEP_S
from services.carbon.domain.registers import FloatArray

SLOTS = 96
"""Quarter hours of a civil day, which has 24 hours: the civil time of China knows no summer time."""


def opening(day: date) -> datetime:
    """Return when a civil day begins."""
    return datetime.combine(day, time(), CIVIL_ZONE)


def days_between(first: date, last: date) -> tuple[date, ...]:
    """Return the civil days of ``[first, last)``."""
    return tuple(first + timedelta(days=index) for index in range((last - first).days))


def slots_of(frame: pl.DataFrame, circuits: Collection[str], first: date, last: date) -> FloatArray:
    """Return the energy of some circuits together, by civil day and quarter hour.

    Args:
        frame: Intervals with ``circuit_id: String``, ``start: Datetime[UTC]`` and ``energy_kwh: Float64 [kWh]`` (null
            is unknown), each once; in any order.
        circuits: Whose energy to sum.
        first: The first civil day.
        last: The day after the last.

    Returns:
        Shape (days, 96), NaN where the energy of one of the circuits is unknown. [kWh]
    """
    count = (last - first).days * SLOTS
    found = np.full(count, np.nan)
    summed = (
        frame.filter(pl.col("circuit_id").is_in(list(circuits)) & pl.col("energy_kwh").is_not_null())
        .group_by("start")
        .agg(pl.col("energy_kwh").sum(), pl.col("circuit_id").n_unique().alias("circuits"))
        .filter(pl.col("circuits") == len(set(circuits)))
        .select(
            ((pl.col("start") - pl.lit(opening(first).astimezone(UTC))).dt.total_seconds() // int(STEP_S)).alias("at"),
            "energy_kwh",
        )
        .filter((pl.col("at") >= 0) & (pl.col("at") < count))
    )
    found[summed["at"].to_numpy().astype(np.int64)] = summed["energy_kwh"].to_numpy()
    return found.reshape(-1, SLOTS)


def saving_by_slot(
    baseline_kwh: FloatArray, actual: FloatArray, before: FloatArray, *, adjustment_kwh: float = 0.0
) -> FloatArray:
    """Return the saving of each quarter hour, which its price needs; it sums to the whole saving.

    What would have been used on a day is spread over it as the days before were on the mean. An adjustment belongs to
    no day and is spread evenly over those that are known.

    Args:
        baseline_kwh: What would have been used on each day, NaN where that is unknown. Shape (n,). [kWh]
        actual: What was used. Shape (n, 96). [kWh]
        before: What was used before. Shape (m, 96). [kWh]
        adjustment_kwh: Non-routine adjustments, added to the saving.

    Returns:
        Shape (n, 96), NaN on days that are not known. [kWh]
    """
    whole = before[~np.isnan(before).any(axis=1)]
    profile = whole.mean(axis=0) if whole.size else np.zeros(SLOTS)
    share = profile / profile.sum() if profile.sum() > 0 else np.full(SLOTS, 1 / SLOTS)
    known = ~np.isnan(baseline_kwh) & ~np.isnan(actual).any(axis=1)
    found = np.full(actual.shape, np.nan)
    found[known] = baseline_kwh[known, None] * share - actual[known]
    if known.any():
        found[known] += adjustment_kwh * share / int(known.sum())
    return found
