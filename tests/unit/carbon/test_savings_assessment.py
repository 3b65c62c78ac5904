"""A whole project over a year: measured before formula, avoided beside own, claims in nothing."""

from dataclasses import replace
from datetime import date

import pytest

from services.carbon.documents.projects import load_published
from services.carbon.domain.savings.measurement.measured import Basis, MeasuredSaving
from services.carbon.domain.savings.projects.assessment import Assessment, assess
from services.carbon.domain.savings.projects.measures import Origin, Statement

CASE = load_published()


def saving(kwh: float, *, end: date = date(2024, 1, 1), days: int = 365) -> MeasuredSaving:
    return MeasuredSaving(
        basis=Basis.REGRESSION,
        start=date.fromordinal(end.toordinal() - days),
        end=end,
        saving_kwh=kwh,
        baseline_kwh=10 * kwh,
        actual_kwh=9 * kwh,
        adjustments=(),
        days=days,
        days_known=days,
        fractional_uncertainty=0.1,
        doubts=frozenset(),
    )


def assessed(measured: dict[str, list[MeasuredSaving]], money: dict[str, float] | None = None) -> Assessment:
    return assess(CASE.project, measured=measured, measured_money_cny=money or {}, years=15, offset_price_cny_per_t=130)


def test_avoided_emissions_are_stated_and_not_in_the_projects_emission() -> None:
    found = assessed({})
    own = sum(value for name, value in found.by_statement.items() if name is not Statement.AVOIDED)
    assert found.by_statement[Statement.AVOIDED] == pytest.approx(92_060)
    assert found.economics.yearly_t_co2e * 1000 == pytest.approx(own)
    assert own == pytest.approx(175_452.8 - 92_060, abs=0.05)
    assert found.measured_share == 0


def test_claims_change_no_figure() -> None:
    without = replace(CASE.project, claims=())
    bare = assess(without, measured={}, measured_money_cny={}, years=15, offset_price_cny_per_t=130)
    assert bare == assessed({})


def test_a_meter_overrules_the_formula_of_its_measure_only() -> None:
    before, after = assessed({}), assessed({"lighting": [saving(100_000)]}, {"lighting": 61_000.0})
    lamps = next(one for one in after.measures if one.outcome.measure_id == "lighting")
    assert (lamps.outcome.origin, lamps.quantity, lamps.money_cny) == (Origin.MEASURED, 100_000, 61_000.0)
    difference = before.by_statement[Statement.ELECTRICITY] - after.by_statement[Statement.ELECTRICITY]
    assert difference == pytest.approx(29_600 * 0.103)
    assert "lighting" in before.money_unknown
    assert "lighting" not in after.money_unknown
    assert after.measured_share == pytest.approx(10_300 / (after.economics.yearly_t_co2e * 1000))


def test_a_part_of_a_year_is_multiplied_up_and_says_so() -> None:
    found = assessed({"lighting": [saving(10_000, days=73)]}, {"lighting": 600.0})
    lamps = next(one for one in found.measures if one.outcome.measure_id == "lighting")
    assert lamps.annualised
    assert lamps.quantity == pytest.approx(50_000)
    assert lamps.money_cny == pytest.approx(3_000)
    assert not any(one.annualised for one in assessed({"lighting": [saving(1.0, days=366)]}).measures)


def test_payback_stands_on_the_money_that_is_known() -> None:
    found = assessed({"lighting": [saving(100_000)]}, {"lighting": 61_000.0})
    # 80,000 for office paper, 50,000 for meeting paper, 61,000 by the meter; what participants save is theirs
    assert found.economics.yearly_cny == pytest.approx(191_000)
    assert found.economics.payback_years == pytest.approx(2_230_000 / 191_000)
