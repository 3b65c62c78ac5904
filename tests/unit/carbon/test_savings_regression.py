"""Baselines by regression and before/after savings: the methods page, section 14."""

import math
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.errors import InvalidInput
from services.carbon.domain.savings.measurement.measured import (
    Adjustment,
    Basis,
    Doubt,
    by_comparison,
    by_regression,
    fractional_uncertainty,
    t_quantile,
)
from services.carbon.domain.savings.measurement.regression import (
    Days,
    Failing,
    Model,
    Shape,
    cooling_degree_days,
    fit,
    heating_degree_days,
)

YEAR = 365


def weather(count: int = YEAR, *, shift: float = 0.0, seed: int = 1) -> np.ndarray:
    """Return a year of daily means between -2 and 32 °C, with some noise."""
    turn = 2 * math.pi * (np.arange(count) - 200) / 365
    found: np.ndarray = 15 + shift + 15 * np.cos(turn) + np.random.default_rng(seed).normal(0, 1.5, count)
    return found


def days(
    temperature: np.ndarray,
    energy: np.ndarray,
    *,
    load: np.ndarray | None = None,
    first: date = date(2023, 1, 1),
) -> Days:
    day = tuple(first + timedelta(days=index) for index in range(temperature.size))
    restday = np.array([one.weekday() >= 5 for one in day])
    return Days(day=day, temperature_c=temperature, energy_kwh=energy, restday=restday, load_kwh=load)


def heated_and_cooled(temperature: np.ndarray) -> np.ndarray:
    found: np.ndarray = 100 + 3 * np.maximum(0, 12 - temperature) + 5 * np.maximum(0, temperature - 22)
    return found


def noisy(energy: np.ndarray, spread: float = 4.0, seed: int = 2) -> np.ndarray:
    return energy + np.random.default_rng(seed).normal(0, spread, energy.size)


def fitted(temperature: np.ndarray, energy: np.ndarray, load: np.ndarray | None = None) -> Model:
    found = fit(days(temperature, energy, load=load))
    assert found is not None
    return found


def test_a_building_that_heats_and_cools_gets_both_slopes_and_balance_points() -> None:
    temperature = weather()
    found = fitted(temperature, noisy(heated_and_cooled(temperature)))
    assert found.shape is Shape.BOTH
    assert found.base_kwh == pytest.approx(100, abs=2)
    assert found.heating_kwh_per_k == pytest.approx(3, rel=0.15)
    assert found.cooling_kwh_per_k == pytest.approx(5, rel=0.15)
    assert found.heating_below_c == pytest.approx(12, abs=1)
    assert found.cooling_above_c == pytest.approx(22, abs=1)
    assert found.restday_kwh == 0
    assert found.acceptable
    assert found.cv_rmse is not None
    assert found.cv_rmse < 0.05


def test_a_telecom_room_cools_only_and_its_load_inside_explains_most() -> None:
    temperature = weather()
    load = 200 + np.linspace(0, 100, YEAR)
    energy = noisy(20 + 1.02 * load + 4 * np.maximum(0, temperature - 15), 3)
    found = fitted(temperature, energy, load=load)
    assert found.shape is Shape.COOLING
    assert found.heating_kwh_per_k == 0
    assert found.load_kwh_per_kwh == pytest.approx(1.02, abs=0.03)
    assert found.cooling_above_c == pytest.approx(15, abs=1)


def test_energy_that_does_not_follow_the_weather_has_a_mean_and_nothing_else() -> None:
    found = fitted(weather(), noisy(np.full(YEAR, 80.0), 4, seed=8))
    assert found.shape is Shape.MEAN
    assert found.base_kwh == pytest.approx(80, abs=1)


def test_rest_days_have_a_term_where_they_differ() -> None:
    temperature = weather()
    where = days(temperature, np.zeros(YEAR))
    found = fitted(temperature, noisy(heated_and_cooled(temperature) - 30 * where.restday))
    assert found.restday_kwh == pytest.approx(-30, abs=2)


def test_an_exact_relation_is_found_exactly() -> None:
    temperature = np.round(weather() * 2) / 2
    found = fitted(temperature, heated_and_cooled(temperature))
    assert found.base_kwh == pytest.approx(100, rel=1e-9)
    assert (found.heating_below_c, found.cooling_above_c) == (12.0, 22.0)
    assert found.nmbe == pytest.approx(0, abs=1e-9)


@settings(max_examples=10)
@given(st.integers(0, 10_000))
def test_slopes_are_never_negative_and_balance_points_never_cross(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = fit(days(weather(120, seed=seed), rng.uniform(0, 100, 120)))
    assert found is not None
    assert found.heating_kwh_per_k >= 0
    assert found.cooling_kwh_per_k >= 0
    if found.heating_below_c is not None and found.cooling_above_c is not None:
        assert found.heating_below_c <= found.cooling_above_c


def test_the_least_squares_are_those_of_the_normal_equations() -> None:
    temperature = weather()
    energy = noisy(heated_and_cooled(temperature))
    found = fitted(temperature, energy)
    assert found.heating_below_c is not None
    assert found.cooling_above_c is not None
    matrix = [
        [1.0, max(0.0, found.heating_below_c - t), max(0.0, t - found.cooling_above_c)] for t in temperature.tolist()
    ]
    squares = [[math.fsum(row[i] * row[j] for row in matrix) for j in range(3)] for i in range(3)]
    sides = [math.fsum(row[i] * value for row, value in zip(matrix, energy.tolist(), strict=True)) for i in range(3)]
    for i in range(3):  # elimination in plain Python
        for j in range(i + 1, 3):
            ratio = squares[j][i] / squares[i][i]
            squares[j] = [a - ratio * b for a, b in zip(squares[j], squares[i], strict=True)]
            sides[j] -= ratio * sides[i]
    solved = [0.0, 0.0, 0.0]
    for i in (2, 1, 0):
        solved[i] = (sides[i] - sum(squares[i][j] * solved[j] for j in range(i + 1, 3))) / squares[i][i]
    assert solved == pytest.approx([found.base_kwh, found.heating_kwh_per_k, found.cooling_kwh_per_k], rel=1e-9)


def test_a_short_or_holed_or_wild_baseline_is_not_accepted() -> None:
    assert Failing.TOO_FEW_DAYS in fitted(weather(200), noisy(heated_and_cooled(weather(200)))).failing
    energy = noisy(heated_and_cooled(weather()))
    energy[:50] = math.nan
    assert Failing.COVERAGE in fitted(weather(), energy).failing
    wild = np.abs(np.random.default_rng(4).normal(10, 20, YEAR))
    assert Failing.CV_RMSE in fitted(weather(), wild).failing
    assert fit(days(weather(1), np.ones(1))) is None


def test_nothing_is_predicted_far_outside_the_fitted_temperatures() -> None:
    found = fitted(weather(), noisy(heated_and_cooled(weather())))
    reach = 0.1 * (found.hottest_c - found.coldest_c)
    predicted = found.predict(
        days(np.array([found.hottest_c + 0.9 * reach, found.hottest_c + 1.1 * reach, math.nan]), np.ones(3))
    )
    assert not math.isnan(predicted[0])
    assert math.isnan(predicted[1])
    assert math.isnan(predicted[2])


def test_a_saving_is_prediction_less_measured_plus_what_somebody_answers_for() -> None:
    model = fitted(weather(), noisy(heated_and_cooled(weather())))
    after = weather(seed=9) * 0.95
    reporting = days(after, noisy(0.8 * heated_and_cooled(after), seed=3), first=date(2024, 1, 1))
    plain = by_regression(model, reporting)
    assert plain.basis is Basis.REGRESSION
    assert plain.saving_kwh == pytest.approx(0.2 * heated_and_cooled(after).sum(), rel=0.05)
    assert plain.publishable
    assert plain.fractional_uncertainty is not None
    assert plain.fractional_uncertainty < 0.1
    one = Adjustment(
        energy_kwh=500,
        reason="a floor was let in March",
        author="user:li",
        made_at=datetime(2025, 1, 5, tzinfo=UTC),
        evidence="lease 2024-17",
    )
    adjusted = by_regression(model, reporting, adjustments=[one])
    assert adjusted.saving_kwh == pytest.approx((plain.saving_kwh or 0) + 500)
    assert adjusted.adjustments == (one,)


def test_an_adjustment_without_evidence_is_refused() -> None:
    with pytest.raises(InvalidInput, match="evidence"):
        Adjustment(energy_kwh=1, reason="r", author="a", made_at=datetime(2025, 1, 5, tzinfo=UTC), evidence=" ")


def test_unknown_days_are_left_out_on_both_sides_and_counted() -> None:
    model = fitted(weather(), noisy(heated_and_cooled(weather())))
    energy = 0.8 * heated_and_cooled(weather())
    whole = by_regression(model, days(weather(), energy))
    holed = energy.copy()
    holed[100:200] = math.nan
    found = by_regression(model, days(weather(), holed))
    assert found.days_known == whole.days_known - 100
    assert Doubt.COVERAGE in found.doubts
    assert found.baseline_kwh is not None
    assert whole.baseline_kwh is not None
    assert found.baseline_kwh < whole.baseline_kwh
    assert not found.publishable


def test_a_saving_that_drowns_in_the_spread_is_not_published() -> None:
    model = fitted(weather(), noisy(heated_and_cooled(weather()), 25))
    month = days(weather(30), np.zeros(30))
    for left, doubt in ((0.99, Doubt.UNCERTAINTY), (1.01, Doubt.NOT_POSITIVE)):
        found = by_regression(model, days(weather(30), left * model.predict(month)))
        assert found.doubts == {doubt}
        assert not found.publishable


def test_the_fractional_uncertainty_is_the_published_formula() -> None:
    model = fitted(weather(), noisy(heated_and_cooled(weather())))
    assert model.cv_rmse is not None
    rho = max(model.autocorrelation, 0)
    effective = 365 * (1 - rho) / (1 + rho)
    t = t_quantile(0.68, 365 - model.parameters)
    expected = 1.26 * t * model.cv_rmse / 0.1 * math.sqrt(365 / effective * (1 + 2 / effective) / 90)
    assert fractional_uncertainty(model, saving_kwh=10.0, baseline_kwh=100.0, days=90) == pytest.approx(expected)
    assert fractional_uncertainty(model, saving_kwh=-1.0, baseline_kwh=100.0, days=90) is None


@pytest.mark.parametrize(
    ("confidence", "freedom", "printed"),
    [(0.6827, 5, 1.11), (0.6827, 10, 1.05), (0.6827, 20, 1.03), (0.95, 10, 2.23), (0.95, 30, 2.04), (0.90, 20, 1.72)],
)
def test_the_quantile_of_students_t_is_that_of_the_tables(confidence: float, freedom: int, printed: float) -> None:
    """JCGM 100:2008 (GUM), table G.2."""
    assert t_quantile(confidence, freedom) == pytest.approx(printed, abs=0.0051)


def test_a_comparison_scales_the_time_before_by_its_driver() -> None:
    before = days(np.full(30, math.nan), noisy(np.full(30, 100.0), 2))
    after = days(np.full(30, math.nan), noisy(np.full(30, 60.0), 2, seed=5), first=date(2024, 1, 1))
    found = by_comparison(before, after, driver_before=10, driver_after=8)
    assert found.basis is Basis.COMPARISON
    assert found.baseline_kwh == pytest.approx(0.8 * before.energy_kwh.sum())
    assert found.saving_kwh == pytest.approx(0.8 * before.energy_kwh.sum() - after.energy_kwh.sum())
    assert found.publishable
    with pytest.raises(InvalidInput, match="driver_before"):
        by_comparison(before, after, driver_before=0, driver_after=8)


def test_degree_days_have_the_bases_of_chinese_buildings() -> None:
    temperature = np.array([8.0, 18.0, 28.0, 30.0])
    assert heating_degree_days(temperature) == 10.0
    assert cooling_degree_days(temperature) == 6.0
    assert math.isnan(heating_degree_days(np.array([8.0, math.nan])))
