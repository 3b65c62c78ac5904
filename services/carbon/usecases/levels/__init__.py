"""Figures of any node: curve, shifts, metering levels, breakdown, balance, PUE, intensities, comparisons, ranks.

Each kind of figure has its module; ``Levels`` is all of them over one set of books.
"""

from services.carbon.usecases.levels.balances import BalancePeriod, Balances, Counted, Flows, PuePeriod
from services.carbon.usecases.levels.comparisons import Comparison, Comparisons, Measure, Ranked
from services.carbon.usecases.levels.intensities import Intensities, Intensity, IntensityPeriod
from services.carbon.usecases.levels.parts import By, LevelCoverage, Parts, Profile, Slice
from services.carbon.usecases.levels.shared import SAMPLED_MAX, midnight

__all__ = [
    "SAMPLED_MAX", "BalancePeriod", "By", "Comparison", "Counted", "Flows", "Intensity", "IntensityPeriod",
    "LevelCoverage", "Levels", "Measure", "Profile", "PuePeriod", "Ranked", "Slice", "midnight",
]  # fmt: skip


class Levels(Parts, Balances, Comparisons, Intensities):
    """Every figure of a node."""
