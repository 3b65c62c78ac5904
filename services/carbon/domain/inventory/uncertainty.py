"""How sure a total is.

    product  u = √(u_AD² + u_EF²)
    sum      u_tot = √(Σ (E_i u_i)²) / |Σ E_i|

The sum assumes independence. Lines that share a factor are not independent: they are grouped first, the activity
data within the group are added as independent, and the factor's uncertainty counts once for the group. Above 30 %
the formula no longer holds and a simulation stands in, whose seed is stored so that it can be repeated.

Source:
    GHG Protocol guidance on uncertainty assessment; IPCC 2006 Guidelines vol. 1, chapter 3.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

LINEAR_LIMIT = 0.30
"""Relative half-width above which the formula no longer holds. [1]"""
DRAWS = 100_000
LEAST_DRAWS = 1_000
NUMBERS_MAX = 200_000_000
"""Random numbers of one simulation: some seconds. Of many lines fewer draws are made."""
NORMAL_95 = 1.959963984540054
"""Half-width of the central 95 % of a normal distribution in standard deviations."""


class Grade(StrEnum):
    """Of a total's relative half-width at 95 %."""

    HIGH = "high"
    GOOD = "good"
    FAIR = "fair"
    POOR = "poor"


_GRADES: tuple[tuple[float, Grade], ...] = ((0.05, Grade.HIGH), (0.15, Grade.GOOD), (0.30, Grade.FAIR))
"""Upper limits, included (GHG Protocol guidance on uncertainty assessment)."""


@dataclass(frozen=True, slots=True)
class Uncertain:
    """An emission with the relative half-widths of what it was made of, at 95 %."""

    emission_kg_co2e: float
    activity: float
    """[1]"""
    factor: float
    """[1]"""
    factor_key: str
    """Lines of one key share their factor."""


@dataclass(frozen=True, slots=True)
class Simulation:
    """A total by simulation."""

    low: float
    """2.5th percentile. [kgCO2e]"""
    high: float
    """97.5th percentile. [kgCO2e]"""
    seed: int
    draws: int


def combined(activity: float, factor: float) -> float:
    """Return the relative half-width of activity times factor. [1]"""
    return math.hypot(activity, factor)


def of_total(lines: Sequence[Uncertain]) -> float | None:
    """Return the relative half-width of a sum, None where the sum is zero or there are no lines. [1]"""
    total = math.fsum(line.emission_kg_co2e for line in lines)
    if not lines or total == 0:
        return None
    widths = []
    for group in _groups(lines).values():
        emission = math.fsum(line.emission_kg_co2e for line in group)
        # The factor of a group is one quantity, so its uncertainty does not average out over the lines.
        factor = max(line.factor for line in group)
        widths += [line.emission_kg_co2e * line.activity for line in group]
        widths.append(emission * factor)
    return math.sqrt(math.fsum(width * width for width in widths)) / abs(total)


def grade(relative: float) -> Grade:
    """Return the grade of a relative half-width."""
    return next((name for limit, name in _GRADES if relative <= limit), Grade.POOR)


def simulate(lines: Sequence[Uncertain], *, seed: int) -> Simulation:
    """Return the central 95 % of a total by simulation; the same seed gives the same answer.

    Activity data and factors are drawn log-normally with the line's value as median, so that neither becomes negative
    however wide they are; one draw of a factor serves all lines that share it.

    Args:
        lines: What is added.
        seed: Stored with the result.
    """
    draws = max(LEAST_DRAWS, min(DRAWS, NUMBERS_MAX // max(1, len(lines))))
    random = np.random.Generator(np.random.PCG64(seed))
    total = np.zeros(draws)
    for _, group in sorted(_groups(lines).items()):
        activity = np.zeros(draws)
        for line in group:
            activity += line.emission_kg_co2e * np.exp(_sigma(line.activity) * random.standard_normal(draws))
        total += activity * np.exp(_sigma(max(line.factor for line in group)) * random.standard_normal(draws))
    low, high = np.percentile(total, [2.5, 97.5])
    return Simulation(float(low), float(high), seed, draws)


def _sigma(relative: float) -> float:
    """Return the deviation of the logarithm whose upper 95 % bound is ``1 + relative``."""
    return math.log1p(relative) / NORMAL_95


def _groups(lines: Sequence[Uncertain]) -> Mapping[str, list[Uncertain]]:
    found: dict[str, list[Uncertain]] = {}
    for line in lines:
        found.setdefault(line.factor_key, []).append(line)
    return found
