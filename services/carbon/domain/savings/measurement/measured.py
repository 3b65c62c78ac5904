"""Before against after: what a retrofit saved, under the conditions of the time after it.

    saving = prediction of the baseline - measured + non-routine adjustments

Days that the model cannot predict or the meter does not know are left out on both sides and counted. The fractional
uncertainty says how sure the figure is; it may be published below one half at 68 % confidence.

Source:
    The platform's energy methods, section 14; ASHRAE Guideline 14 for the fractional savings uncertainty.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from statistics import NormalDist

import numpy as np

from libs.common.errors import InvalidInput
from services.carbon.domain.savings.measurement.regression import Days, Model
from services.carbon.domain.savings.shutdowns.totals import total
from services.carbon.domain.savings.shutdowns.windows import WindowSaving

CONFIDENCE = 0.68
UNCERTAINTY_MAX = 0.5
"""A saving with a larger fractional uncertainty is shown and not published."""
COVERAGE_MIN = 0.9
"""Share of the days of the reporting period that have to be known."""


class Basis(StrEnum):
    """How a measured saving was computed."""

    REGRESSION = "regression"
    COMPARISON = "comparison"
    SHUTDOWN = "shutdown"
    """Sum of measured windows (``shutdowns/windows.py``)."""


class Doubt(StrEnum):
    """Why a figure is shown and not published."""

    MODEL = "model_not_accepted"
    COVERAGE = "coverage"
    UNCERTAINTY = "uncertainty"
    NOT_POSITIVE = "not_positive"
    UNCERTAINTY_UNKNOWN = "uncertainty_unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjustment:
    """A non-routine adjustment: a change that neither the retrofit nor the weather explains."""

    energy_kwh: float
    """Added to the saving. [kWh]"""
    reason: str
    author: str
    made_at: datetime
    evidence: str
    """Where the document is that shows it."""

    def __post_init__(self) -> None:
        for name in ("reason", "author", "evidence"):
            if not getattr(self, name).strip():
                raise InvalidInput(
                    f"adjustment: {name}: expected a text, found none", message_zh=f"非常规调整缺少 {name}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredSaving:
    """A saving by measurement, with what it was computed from."""

    basis: Basis
    start: date
    end: date
    """The first day after the reporting period."""
    saving_kwh: float | None
    """None where nothing is known; may be negative. [kWh]"""
    baseline_kwh: float | None
    """What would have been used on the days that are known. [kWh]"""
    actual_kwh: float | None
    adjustments: tuple[Adjustment, ...]
    days: int
    """Days of the period; of shutdowns their windows."""
    days_known: int
    fractional_uncertainty: float | None
    """Half-width over the saving at ``CONFIDENCE``; None where it cannot be told."""
    doubts: frozenset[Doubt]

    @property
    def publishable(self) -> bool:
        """Whether the figure may be called a saving."""
        return self.saving_kwh is not None and not self.doubts

    @property
    def completeness(self) -> float | None:
        """Known days over all days, 0 to 1."""
        return self.days_known / self.days if self.days else None


def by_regression(model: Model, reporting: Days, *, adjustments: Sequence[Adjustment] = ()) -> MeasuredSaving:
    """Return the saving of a reporting period against a fitted baseline."""
    predicted = model.predict(reporting)
    both = ~np.isnan(predicted) & ~np.isnan(reporting.energy_kwh)
    known = int(both.sum())
    baseline = float(predicted[both].sum()) if known else None
    actual = float(reporting.energy_kwh[both].sum()) if known else None
    saving = None
    if baseline is not None and actual is not None:
        saving = baseline - actual + math.fsum(one.energy_kwh for one in adjustments)
    uncertainty = fractional_uncertainty(model, saving_kwh=saving, baseline_kwh=baseline, days=known)
    doubts: set[Doubt] = set()
    if not model.acceptable:
        doubts.add(Doubt.MODEL)
    return MeasuredSaving(
        basis=Basis.REGRESSION,
        start=reporting.day[0],
        end=date.fromordinal(reporting.day[-1].toordinal() + 1),
        saving_kwh=saving,
        baseline_kwh=baseline,
        actual_kwh=actual,
        adjustments=tuple(adjustments),
        days=len(reporting.day),
        days_known=known,
        fractional_uncertainty=uncertainty,
        doubts=frozenset(doubts | _doubts(saving, uncertainty, known, len(reporting.day))),
    )


def by_comparison(
    before: Days, after: Days, *, driver_before: float, driver_after: float, adjustments: Sequence[Adjustment] = ()
) -> MeasuredSaving:
    """Return the saving of a reporting period against the same quantity before, scaled by one driver.

        baseline = energy before · driver after / driver before

    The uncertainty is that of the two means of days, which are taken as independent.

    Args:
        before: Days before the retrofit; those that are known count.
        after: Days after it.
        driver_before: What the use is in proportion to, per known day before: hours of operation, output, degree
            days; 1 for none.
        driver_after: The same per known day after.

    Raises:
        InvalidInput: A driver is not positive.
    """
    for name, value in (("driver_before", driver_before), ("driver_after", driver_after)):
        if not (math.isfinite(value) and value > 0):
            raise InvalidInput(
                f"{name}: expected a number above 0, found {value:g}", message_zh=f"{name} 应为大于 0 的数"
            )
    old, new = before.energy_kwh[~np.isnan(before.energy_kwh)], after.energy_kwh[~np.isnan(after.energy_kwh)]
    saving = baseline = actual = uncertainty = None
    if old.size and new.size:
        scale = driver_after / driver_before
        baseline = float(old.mean()) * scale * new.size
        actual = float(new.sum())
        saving = baseline - actual + math.fsum(one.energy_kwh for one in adjustments)
        if old.size > 1 and new.size > 1 and saving > 0:
            variance = new.size**2 * (scale**2 * np.var(old, ddof=1) / old.size + np.var(new, ddof=1) / new.size)
            uncertainty = t_quantile(CONFIDENCE, old.size + new.size - 2) * math.sqrt(float(variance)) / saving
    coverage_before = old.size >= COVERAGE_MIN * len(before.day)
    doubts = _doubts(saving, uncertainty, new.size, len(after.day))
    return MeasuredSaving(
        basis=Basis.COMPARISON,
        start=after.day[0],
        end=date.fromordinal(after.day[-1].toordinal() + 1),
        saving_kwh=saving,
        baseline_kwh=baseline,
        actual_kwh=actual,
        adjustments=tuple(adjustments),
        days=len(after.day),
        days_known=int(new.size),
        fractional_uncertainty=uncertainty,
        doubts=frozenset(doubts if coverage_before else doubts | {Doubt.COVERAGE}),
    )


def by_windows(
    windows: Sequence[WindowSaving], *, start: date, end: date, adjustments: Sequence[Adjustment] = ()
) -> MeasuredSaving:
    """Return the saving of a period as the sum of measured shutdown windows; they stand for the days.

    Args:
        windows: All windows of the period; those without a figure are counted.
        start: The first civil day.
        end: The day after the last.
        adjustments: Added to the saving.
    """
    known = [one for one in windows if one.saving_kwh is not None]
    summed = total(windows)
    saving = summed.saving_kwh
    if saving is not None:
        saving += math.fsum(one.energy_kwh for one in adjustments)
    uncertainty = None
    if saving is not None and saving > 0 and summed.standard_error_kwh is not None:
        uncertainty = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * summed.standard_error_kwh / saving
    return MeasuredSaving(
        basis=Basis.SHUTDOWN,
        start=start,
        end=end,
        saving_kwh=saving,
        baseline_kwh=math.fsum(one.baseline_kwh or 0.0 for one in known) if known else None,
        actual_kwh=math.fsum(one.actual_kwh or 0.0 for one in known) if known else None,
        adjustments=tuple(adjustments),
        days=len(windows),
        days_known=len(known),
        fractional_uncertainty=uncertainty,
        doubts=frozenset(_doubts(saving, uncertainty, len(known), len(windows))),
    )


def fractional_uncertainty(
    model: Model, *, saving_kwh: float | None, baseline_kwh: float | None, days: int
) -> float | None:
    """Return the half-width of a saving over the saving, at ``CONFIDENCE``.

        FSU = 1.26 · t · CV / F · sqrt(n / n' · (1 + 2 / n') / m),   n' = n · (1 - rho) / (1 + rho)

    Args:
        model: The baseline, with n days, CV(RMSE) and the autocorrelation rho of its residuals.
        saving_kwh: F times the baseline.
        baseline_kwh: The prediction over the same days.
        days: m, the days of the reporting period that are known.

    Returns:
        The fraction, or None if it is undefined: no saving, no day, or residuals so alike that no day is independent.
    """
    if saving_kwh is None or baseline_kwh is None or saving_kwh <= 0 or baseline_kwh <= 0 or days <= 0:
        return None
    rho = max(model.autocorrelation, 0.0)
    if model.cv_rmse is None or rho >= 1 or model.days <= model.parameters:
        return None
    independent = model.days * (1 - rho) / (1 + rho)
    t = t_quantile(CONFIDENCE, model.days - model.parameters)
    spread = math.sqrt(model.days / independent * (1 + 2 / independent) / days)
    return 1.26 * t * model.cv_rmse / (saving_kwh / baseline_kwh) * spread


def t_quantile(confidence: float, freedom: int) -> float:
    """Return the two-sided quantile of Student's t.

    By the expansion of Cornish and Fisher about the normal quantile; at 68 % its error is below 1e-3 from five
    degrees of freedom on.

    Source:
        Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 26.7.5.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def _doubts(saving: float | None, uncertainty: float | None, known: int, days: int) -> set[Doubt]:
    found: set[Doubt] = set()
    if known < COVERAGE_MIN * days:
        found.add(Doubt.COVERAGE)
    if saving is None or saving <= 0:
        found.add(Doubt.NOT_POSITIVE)
    elif uncertainty is None:
        found.add(Doubt.UNCERTAINTY_UNKNOWN)
    elif uncertainty >= UNCERTAINTY_MAX:
        found.add(Doubt.UNCERTAINTY)
    return found
