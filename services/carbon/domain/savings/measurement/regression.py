"""A baseline of daily energy over outdoor temperature, day type and, where it is metered, the load inside.

    y = b0 + bh·max(0, Th - T) + bc·max(0, T - Tc) + d·restday + l·load,   Tc >= Th, bh >= 0, bc >= 0

The balance points Th and Tc are searched on a grid of half degrees, everything else is least squares; a term whose
|t| is below 2 is dropped, and of the four shapes (mean, heating, cooling, both) the one with the lowest BIC is taken.

A model that does not meet the acceptance criteria is returned with what it fails, so that a person sees why; nothing
is claimed from it.

Source:
    The platform's energy methods, section 14; ASHRAE Guideline 14 for the statistics.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum

import numpy as np

from services.carbon.domain.registers import BoolArray, FloatArray

GRID_C = 0.5
"""Distance of the balance points that are tried. [K]"""
EDGE_DAYS = 5
"""A balance point has at least so many days beyond it: fewer are weather, not a slope."""
T_MIN = 2.0
"""Terms with a smaller |t| are dropped."""
CV_RMSE_MAX = 0.30
"""Acceptance of a daily model (monthly: 0.25)."""
NMBE_MAX = 0.005
DAYS_MIN = 365
"""A baseline covers at least twelve months of days …"""
COVERAGE_MIN = 0.9
"""… of which so many are known."""
RANGE_MARGIN = 0.1
"""How far beyond the fitted temperatures the model may be used, as a share of their range."""
HEATING_BASE_C = 18.0
COOLING_BASE_C = 26.0
"""Degree-day bases of Chinese buildings."""


class Shape(StrEnum):
    """Which temperature terms a model has."""

    MEAN = "mean"
    HEATING = "heating"
    COOLING = "cooling"
    BOTH = "both"


class Failing(StrEnum):
    """What a model lacks to be used."""

    TOO_FEW_DAYS = "too_few_days"
    COVERAGE = "coverage"
    CV_RMSE = "cv_rmse"
    NMBE = "nmbe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Days:
    """Daily values, one row per civil day, rising."""

    day: tuple[date, ...]
    temperature_c: FloatArray
    """Mean outdoor temperature; NaN where it is unknown. Shape (n,). [°C]"""
    energy_kwh: FloatArray
    """NaN where it is unknown. Shape (n,). [kWh]"""
    restday: BoolArray
    load_kwh: FloatArray | None = None
    """Energy of the equipment inside, where it is metered. Shape (n,). [kWh]"""

    @property
    def known(self) -> BoolArray:
        """Days with every value."""
        found = ~np.isnan(self.temperature_c) & ~np.isnan(self.energy_kwh)
        return found if self.load_kwh is None else found & ~np.isnan(self.load_kwh)

    @property
    def predictable(self) -> BoolArray:
        """Days with everything but the energy."""
        found = ~np.isnan(self.temperature_c)
        return found if self.load_kwh is None else found & ~np.isnan(self.load_kwh)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A fitted baseline, with the statistics that say what it is worth."""

    shape: Shape
    base_kwh: float
    heating_kwh_per_k: float
    cooling_kwh_per_k: float
    heating_below_c: float | None
    cooling_above_c: float | None
    restday_kwh: float
    load_kwh_per_kwh: float
    uses_load: bool
    """Whether the model was fitted beside a load inside, so that a prediction needs one."""
    t_values: tuple[tuple[str, float], ...]
    """|t| of each term that is left."""
    days: int
    parameters: int
    """Coefficients and balance points."""
    coldest_c: float
    hottest_c: float
    mean_kwh: float
    r2: float | None
    """None where the energy does not vary."""
    cv_rmse: float | None
    """None where the mean energy is not positive."""
    nmbe: float | None
    autocorrelation: float
    """Of the residuals of days that follow each other (lag 1)."""
    bic: float
    failing: frozenset[Failing]

    @property
    def acceptable(self) -> bool:
        """Whether a saving may be computed with it."""
        return not self.failing

    def predict(self, days: Days) -> FloatArray:
        """Return what would have been used on each day, NaN where the model cannot say. Shape (n,). [kWh]

        It cannot where a value is unknown, and where the temperature lies further outside the fitted range than
        ``RANGE_MARGIN`` of it.
        """
        margin = RANGE_MARGIN * (self.hottest_c - self.coldest_c)
        temperature = days.temperature_c
        with np.errstate(invalid="ignore"):
            inside = (temperature >= self.coldest_c - margin) & (temperature <= self.hottest_c + margin)
        found = np.full(temperature.size, self.base_kwh) + self.restday_kwh * days.restday
        if self.heating_below_c is not None:
            found = found + self.heating_kwh_per_k * np.maximum(0.0, self.heating_below_c - temperature)
        if self.cooling_above_c is not None:
            found = found + self.cooling_kwh_per_k * np.maximum(0.0, temperature - self.cooling_above_c)
        if self.uses_load:
            if days.load_kwh is None:
                return np.full(temperature.size, np.nan)
            found = found + self.load_kwh_per_kwh * days.load_kwh
        return np.where(inside & days.predictable, found, np.nan)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """One least-squares solution."""

    shape: Shape
    names: tuple[str, ...]
    coefficients: FloatArray
    t_values: FloatArray
    heating_below_c: float | None
    cooling_above_c: float | None
    rss: float
    bic: float
    parameters: int


def fit(days: Days) -> Model | None:
    """Return the baseline model of a period, or None if there are fewer than two known days.

    Args:
        days: The baseline period; days that are not known are left out.
    """
    known = days.known
    count = int(known.sum())
    if count < 2:
        return None
    temperature, energy = days.temperature_c[known], days.energy_kwh[known]
    fixed: list[tuple[str, FloatArray]] = [("base", np.ones(count))]
    restday = days.restday[known].astype(np.float64)
    if 0 < restday.sum() < count:
        fixed.append(("restday", restday))
    if days.load_kwh is not None:
        fixed.append(("load", days.load_kwh[known]))
    best = min(
        (one for shape in Shape if (one := _best_of(shape, fixed, temperature, energy)) is not None),
        key=lambda one: one.bic,
        default=None,
    )
    return None if best is None else _model(best, days, known)


def heating_degree_days(temperature_c: FloatArray, *, base_c: float = HEATING_BASE_C) -> float:
    """Return the heating degree days of daily mean temperatures; NaN if one of them is unknown. [K·d]"""
    return float(np.maximum(0.0, base_c - temperature_c).sum())


def cooling_degree_days(temperature_c: FloatArray, *, base_c: float = COOLING_BASE_C) -> float:
    """Return the cooling degree days of daily mean temperatures; NaN if one of them is unknown. [K·d]"""
    return float(np.maximum(0.0, temperature_c - base_c).sum())


def _best_of(
    shape: Shape, fixed: Sequence[tuple[str, FloatArray]], temperature: FloatArray, energy: FloatArray
) -> _Candidate | None:
    """Return the best candidate of one shape over the grid of balance points, or None if none is admissible."""
    grid = _grid(temperature)
    pairs: list[tuple[float | None, float | None]]
    match shape:
        case Shape.MEAN:
            pairs = [(None, None)]
        case Shape.HEATING:
            pairs = [(heat, None) for heat in grid]
        case Shape.COOLING:
            pairs = [(None, cool) for cool in grid]
        case Shape.BOTH:
            pairs = [(heat, cool) for heat in grid for cool in grid if cool >= heat]
    best: _Candidate | None = None
    for heat, cool in pairs:
        one = _solve(shape, fixed, temperature, energy, heat, cool)
        if one is not None and (best is None or one.rss < best.rss):
            best = one
    return best and _without_weak(best, shape, fixed, temperature, energy)


def _grid(temperature: FloatArray) -> list[float]:
    """Return the balance points to try: at least ``EDGE_DAYS`` days lie on either side of each."""
    if temperature.size < 2 * EDGE_DAYS:
        return []
    ordered = np.sort(temperature)
    low = math.ceil(float(ordered[EDGE_DAYS - 1]) / GRID_C)
    high = math.floor(float(ordered[-EDGE_DAYS]) / GRID_C)
    return [step * GRID_C for step in range(low, high + 1)]


def _solve(
    shape: Shape,
    fixed: Sequence[tuple[str, FloatArray]],
    temperature: FloatArray,
    energy: FloatArray,
    heat: float | None,
    cool: float | None,
) -> _Candidate | None:
    """Return the least-squares solution with given balance points, or None if a slope is negative or undetermined."""
    terms = list(fixed)
    if heat is not None:
        terms.append(("heating", np.maximum(0.0, heat - temperature)))
    if cool is not None:
        terms.append(("cooling", np.maximum(0.0, temperature - cool)))
    matrix = np.column_stack([column for _, column in terms])
    count, width = matrix.shape
    if count <= width:
        return None
    coefficients, _, rank, _ = np.linalg.lstsq(matrix, energy, rcond=None)
    if rank < width:
        return None
    names = tuple(name for name, _ in terms)
    if any(name in ("heating", "cooling") and value < 0 for name, value in zip(names, coefficients, strict=True)):
        return None
    residuals = energy - matrix @ coefficients
    # A perfect fit would have an infinitely good criterion; what is smaller than rounding is rounding.
    rss = max(float(residuals @ residuals), count * (1e-12 * max(float(np.abs(energy).max()), 1.0)) ** 2)
    parameters = width + (heat is not None) + (cool is not None)
    inverse = np.linalg.inv(matrix.T @ matrix)
    errors = np.sqrt(np.maximum(np.diag(inverse), 0.0) * rss / (count - width))
    return _Candidate(
        shape=shape,
        names=names,
        coefficients=coefficients.astype(np.float64),
        t_values=np.abs(coefficients) / np.where(errors > 0, errors, np.inf),
        heating_below_c=heat,
        cooling_above_c=cool,
        rss=rss,
        bic=count * math.log(rss / count) + parameters * math.log(count),
        parameters=parameters,
    )


def _without_weak(
    best: _Candidate,
    shape: Shape,
    fixed: Sequence[tuple[str, FloatArray]],
    temperature: FloatArray,
    energy: FloatArray,
) -> _Candidate | None:
    """Drop the weakest term again and again while its |t| is too small; None if a temperature term has to go.

    A shape without one of its temperature terms is another shape, which stands for itself in the choice.
    """
    weak = [(float(t), name) for name, t in zip(best.names, best.t_values, strict=True) if t < T_MIN and name != "base"]
    if not weak:
        return best
    _, weakest = min(weak)
    if weakest in ("heating", "cooling"):
        return None
    rest = [term for term in fixed if term[0] != weakest]
    again = _solve(shape, rest, temperature, energy, best.heating_below_c, best.cooling_above_c)
    return None if again is None else _without_weak(again, shape, rest, temperature, energy)


def _model(best: _Candidate, days: Days, known: BoolArray) -> Model:
    value = dict(zip(best.names, (float(one) for one in best.coefficients), strict=True))
    temperature, energy = days.temperature_c[known], days.energy_kwh[known]
    count, mean = int(known.sum()), float(energy.mean())
    partial = Model(
        shape=best.shape,
        base_kwh=value["base"],
        heating_kwh_per_k=value.get("heating", 0.0),
        cooling_kwh_per_k=value.get("cooling", 0.0),
        heating_below_c=best.heating_below_c,
        cooling_above_c=best.cooling_above_c,
        restday_kwh=value.get("restday", 0.0),
        load_kwh_per_kwh=value.get("load", 0.0),
        uses_load="load" in value,
        t_values=tuple(zip(best.names, (float(one) for one in best.t_values), strict=True)),
        days=count,
        parameters=best.parameters,
        coldest_c=float(temperature.min()),
        hottest_c=float(temperature.max()),
        mean_kwh=mean,
        r2=None,
        cv_rmse=None,
        nmbe=None,
        autocorrelation=0.0,
        bic=best.bic,
        failing=frozenset(),
    )
    residuals = energy - partial.predict(days)[known]
    return _judged(partial, residuals, energy, days, known)


def _judged(model: Model, residuals: FloatArray, energy: FloatArray, days: Days, known: BoolArray) -> Model:
    """Return the model with its statistics and what it fails."""
    count, mean = energy.size, model.mean_kwh
    freedom = max(count - model.parameters, 1)
    spread = float(((energy - mean) ** 2).sum())
    cv_rmse = math.sqrt(float(residuals @ residuals) / freedom) / mean if mean > 0 else None
    nmbe = float(residuals.sum()) / (freedom * mean) if mean > 0 else None
    failing: set[Failing] = set()
    if len(days.day) < DAYS_MIN:
        failing.add(Failing.TOO_FEW_DAYS)
    if count < COVERAGE_MIN * len(days.day):
        failing.add(Failing.COVERAGE)
    if cv_rmse is None or cv_rmse > CV_RMSE_MAX:
        failing.add(Failing.CV_RMSE)
    if nmbe is None or abs(nmbe) > NMBE_MAX:
        failing.add(Failing.NMBE)
    return replace(
        model,
        r2=1 - float(residuals @ residuals) / spread if spread > 0 else None,
        cv_rmse=cv_rmse,
        nmbe=nmbe,
        autocorrelation=_lag_one(residuals, [day for day, there in zip(days.day, known, strict=True) if there]),
        failing=frozenset(failing),
    )


def _lag_one(residuals: FloatArray, days: Sequence[date]) -> float:
    """Return the correlation of residuals of days that follow each other, 0 where it cannot be told."""
    ordinal = np.array([day.toordinal() for day in days])
    following = np.flatnonzero(np.diff(ordinal) == 1)
    centred = residuals - residuals.mean()
    power = float(centred @ centred)
    if following.size < 2 or power <= 0:
        return 0.0
    return float((centred[following] * centred[following + 1]).sum()) / power * residuals.size / following.size
