"""Quality and load of a supply: power factor and what it costs, three-phase imbalance, load rates.

Source:
    The platform's energy methods, sections 11 and 12; GB/T 15543 for voltage unbalance; for the adjustment of the bill
    功率因数调整电费办法 (1983).
"""

import math
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum

import numpy as np
import polars as pl
from numpy.typing import NDArray

from services.carbon.domain.levels.energy import STEPS_PER_HOUR
from services.carbon.domain.levels.periods import Step, period_of

HUNDREDTH = Decimal("0.01")
_REWARDED = Decimal("0.90")
"""The class whose reduction above the standard is known."""
REWARD_PER_STEP, REWARD_MAX = Decimal("0.0015"), Decimal("0.0075")
IMBALANCE_LOAD_MIN = 0.05
"""Below this share of the rated current imbalance says nothing. [1]"""
LINE_VOLTAGE_V = 380.0
"""By which a rated power becomes a rated current. [V]"""
ASSUMED_PF = 0.9
"""Stands in for a power factor that nobody measured; it is told wherever it was used. [1]"""
BANDS = (0.3, 0.8, 1.0)
"""Up to where a load rate is light, normal and heavy; beyond is overload. [1]"""
OVERLOAD_STEPS = 2
"""So many quarter hours above the rating in a row are an overload."""


def power_factor(active_kwh: float | None, reactive_kvarh: float | None) -> float | None:
    """Return the power factor of a period from its energies; None where one is unknown or nothing was used."""
    if active_kwh is None or reactive_kvarh is None or active_kwh <= 0:
        return None
    return active_kwh / math.hypot(active_kwh, reactive_kvarh)


def billed_power_factor(factor: float) -> Decimal:
    """Return a power factor as bills show it: two decimals, halves up."""
    return Decimal(repr(factor)).quantize(HUNDREDTH, rounding=ROUND_HALF_UP)


def adjustment(billed: Decimal, standard: Decimal) -> Decimal | None:
    """Return by which share basic and energy fee are raised, or lowered where it is negative.

    Below the standard 0.5 % per hundredth down to 0.70, 1 % per hundredth from there to 0.65, then 2 %. Above it
    0.15 % less per hundredth for the class of 0.90, at most 0.75 %; for the other classes None, which is unknown.
    """
    if billed > standard:
        if standard != _REWARDED:
            return None
        return -min(REWARD_MAX, (billed - standard) / HUNDREDTH * REWARD_PER_STEP)
    first = max(Decimal(0), standard - max(billed, Decimal("0.70")))
    second = max(Decimal(0), Decimal("0.70") - max(billed, Decimal("0.65")))
    third = max(Decimal(0), Decimal("0.65") - billed)
    steps = first * Decimal("0.5") + second + third * 2
    return steps / HUNDREDTH / 100


def rated_current_a(rated_kw: float | None) -> float | None:
    """Return the phase current of a rated power at 380 V and a power factor of one. [A]"""
    return None if rated_kw is None else rated_kw * 1000 / (np.sqrt(3.0) * LINE_VOLTAGE_V)


def current_imbalance(currents_a: pl.DataFrame, rated_a: float | None) -> pl.DataFrame:
    """Return both usual imbalances of each sample.

    Args:
        currents_a: ``start: Datetime [UTC]``, ``a``, ``b``, ``c: Float64 [A]``; a sample with a null has no imbalance.
        rated_a: Rated current, below 5 % of which there is no imbalance; None leaves that test out. [A]

    Returns:
        start: Datetime[us, UTC]
        deviation: Float64 [1], (I_max - I_mean) / I_mean
        spread: Float64 [1], (I_max - I_min) / I_max
    """
    phases = [pl.col(name).abs() for name in "abc"]
    counts = (
        pl.all_horizontal(pl.col(name).is_not_null() for name in "abc")
        & (pl.col("sum") > 0)
        & (pl.col("sum") >= (0.0 if rated_a is None else 3 * IMBALANCE_LOAD_MIN * rated_a))
    )
    return currents_a.with_columns(
        pl.max_horizontal(phases).alias("max"),
        pl.min_horizontal(phases).alias("min"),
        (phases[0] + phases[1] + phases[2]).alias("sum"),
    ).select(
        "start",
        pl.when(counts).then((3.0 * pl.col("max") - pl.col("sum")) / pl.col("sum")).alias("deviation"),
        pl.when(counts).then((pl.col("max") - pl.col("min")) / pl.col("max")).alias("spread"),
    )


def voltage_unbalance(line_v: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the unbalance (negative over positive sequence) from line-to-line magnitudes. [1]

    ``L = (a^4+b^4+c^4) / (a^2+b^2+c^2)^2``, ``eps = sqrt((1 - sqrt(3-6L)) / (1 + sqrt(3-6L)))``.

    Args:
        line_v: Shape (n, 3), NaN where unknown. [V]

    Returns:
        Shape (n,); NaN where a voltage is unknown or all are zero.
    """
    squares = line_v**2
    sums = squares.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (squares**2).sum(axis=1) / sums**2
        root = np.sqrt(np.clip(3.0 - 6.0 * ratio, 0.0, 1.0))
        return np.asarray(np.sqrt((1.0 - root) / (1.0 + root)), dtype=np.float64)


class Rating(StrEnum):
    """What a load rate is of."""

    TRANSFORMER = "transformer"
    LINE = "line"


@dataclass(frozen=True, slots=True)
class LoadRate:
    """How far a transformer or line, or all of a site's transformers, were loaded."""

    what: Rating
    name: str
    """Of the transformer or line; empty for all transformers of the node together."""
    rated_kva: float | None
    max_rate: float | None
    """Apparent power over rating; of several transformers total over the sum of ratings. [1]"""
    max_at: datetime | None
    mean_rate: float | None
    light: float | None
    """Share of the known time below 30 % of the rating. [1]"""
    normal: float | None
    heavy: float | None
    overload: float | None
    overload_episodes: int
    """How often the rating was exceeded for two quarter hours or more in a row."""
    assumed_power_factor: float | None
    """The factor that stood in for quarter hours without reactive energy; None where none needed it."""
    quarters: int
    """Quarter hours with a figure."""


def load_rate(power: pl.DataFrame, rated_kva: float | None, what: Rating, name: str) -> LoadRate:
    """Return the load rate of a span.

    Args:
        power: ``start: Datetime [UTC]``, ``energy_kwh``, ``reactive_kvarh: Float64`` by quarter hour, all terms known;
            without reactive energy the assumed power factor stands in.
        rated_kva: What it may carry; None leaves the rates unknown. [kVA]
        what: Whether it is a transformer or a line.
        name: Its name.
    """
    known = apparent_power(power)
    factor = ASSUMED_PF if known["assumed"].any() else None
    if rated_kva is None or not rated_kva or known.is_empty():
        return LoadRate(what, name, rated_kva, None, None, None, None, None, None, None, 0, factor, known.height)
    rates = known.select("start", (pl.col("kva") / rated_kva).alias("rate"))
    rate = rates["rate"]
    light, normal, heavy = BANDS
    over = rates.filter(pl.col("rate") > heavy)["start"]
    return LoadRate(
        what=what,
        name=name,
        rated_kva=rated_kva,
        max_rate=float(rate.max()),  # type: ignore[arg-type]  # not empty
        max_at=rates["start"][int(rate.arg_max() or 0)],
        mean_rate=math.fsum(rate) / rates.height,
        light=float((rate < light).mean()),  # type: ignore[arg-type]
        normal=float(((rate >= light) & (rate <= normal)).mean()),  # type: ignore[arg-type]
        heavy=float(((rate > normal) & (rate <= heavy)).mean()),  # type: ignore[arg-type]
        overload=over.len() / rates.height,
        overload_episodes=_episodes(over),
        assumed_power_factor=factor,
        quarters=rates.height,
    )


def apparent_power(power: pl.DataFrame) -> pl.DataFrame:
    """Return the apparent power of the quarter hours of which the energy is known.

    Args:
        power: As ``load_rate`` takes it.

    Returns:
        One row per quarter hour, sorted by ``start``:

        start: Datetime[us, UTC]
        kva: Float64 [kVA]
        assumed: Boolean, whether the assumed power factor stands in for the reactive energy
    """
    active, reactive = pl.col("energy_kwh"), pl.col("reactive_kvarh")
    # Products, and the factor 4 last: a checker gets the same bits by a root and two multiplications.
    kva = (
        pl.when(reactive.is_null())
        .then(active * STEPS_PER_HOUR / ASSUMED_PF)
        .otherwise((active * active + reactive * reactive).sqrt() * STEPS_PER_HOUR)
    )
    return (
        power.filter(active.is_not_null())
        .sort("start")
        .select("start", kva.alias("kva"), reactive.is_null().alias("assumed"))
    )


def imbalance_by_period(samples: pl.DataFrame, step: Step) -> pl.DataFrame:
    """Return the highest imbalances of each civil period and when, and the mean of the samples.

    Args:
        samples: ``start``, ``deviation``, ``spread``, and ``voltage: Float64 [1]``, the voltage unbalance.
        step: Length of a period.
    """

    def highest(name: str) -> list[pl.Expr]:
        known = pl.col(name).drop_nulls()
        at = pl.col("start").filter(pl.col(name).is_not_null())
        return [
            known.max().alias(f"{name}_max"),
            at.get(known.arg_max(), null_on_oob=True).alias(f"{name}_max_at"),
            known.mean().alias(f"{name}_mean"),
        ]

    return (
        samples.with_columns(period_of(step).alias("period"))
        .sort("start")
        .group_by("period", maintain_order=True)
        .agg(*highest("deviation"), *highest("spread"), *highest("voltage"), pl.len().alias("samples"))
        .rename({"period": "start"})
        .sort("start")
    )


def _episodes(over: pl.Series) -> int:
    """Return how many runs of ``OVERLOAD_STEPS`` quarter hours and more there are among starts in order."""
    if over.is_empty():
        return 0
    step_s = int(3600 / STEPS_PER_HOUR)
    run = (over.diff().dt.total_seconds() != step_s).fill_null(True).cum_sum()
    lengths = run.value_counts()["count"]
    return int((lengths >= OVERLOAD_STEPS).sum())
