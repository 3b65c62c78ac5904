"""Measures: formulas that run nothing, savings above the baseline, and what a meter overrules."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import InvalidInput
from services.carbon.domain.savings.measurement.measured import Basis, Doubt, MeasuredSaving
from services.carbon.domain.savings.projects.claims import Claim, ClaimKind, Verdict, check, differences
from services.carbon.domain.savings.projects.formula import Formula, Parameter
from services.carbon.domain.savings.projects.measures import (
    Factor,
    Measure,
    Origin,
    SavingAboveBaseline,
    Statement,
    emissions_by_statement,
    estimate,
    outcome,
)
from services.carbon.domain.savings.projects.project import Investment, Project, Stage, economics, yearly_money

GRID = Factor(factor_id="GRID-51-2018", value=0.103, unit="kgCO2/kWh", source="printed with the case")


def parameters(**values: float) -> dict[str, Parameter]:
    return {name: Parameter(name=name, value=value, unit="1") for name, value in values.items()}


def lamps(saving: str = "lamps * power_kw * (hours_before - hours_after) * days", **more: object) -> Measure:
    fields: dict[str, object] = {
        "measure_id": "lighting",
        "name": "LED lamps",
        "name_zh": "LED 照明",
        "statement": Statement.ELECTRICITY,
        "unit": "kWh",
        "saving": Formula.of(saving),
        "baseline": Formula.of("lamps * power_kw * hours_before * days"),
        "parameters": parameters(lamps=3000, power_kw=0.008, hours_before=24, hours_after=6, days=300),
        "factor": GRID,
        **more,
    }
    return Measure(**fields)  # type: ignore[arg-type]


def measured(saving: float | None, *, baseline: float = 200_000.0, end: date = date(2024, 1, 1)) -> MeasuredSaving:
    return MeasuredSaving(
        basis=Basis.REGRESSION,
        start=date(2023, 1, 1),
        end=end,
        saving_kwh=saving,
        baseline_kwh=baseline,
        actual_kwh=None if saving is None else baseline - saving,
        adjustments=(),
        days=365,
        days_known=365,
        fractional_uncertainty=0.2,
        doubts=frozenset() if saving and saving > 0 else frozenset({Doubt.NOT_POSITIVE}),
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [("a + b * 2", 7.0), ("(a + b) * 2", 8.0), ("-a / b", -1 / 3), ("1.5e3 * a", 1500.0), ("a - b - 1", -3.0)],
)
def test_a_formula_is_arithmetic(text: str, value: float) -> None:
    assert Formula.of(text).value({"a": 1.0, "b": 3.0}) == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    [
        "", "a +", "a ** b", "a(b)", "a.b", "a[0]", "'a'", "True", "a if b else a", "lambda: a", "[a]", "a; b", "a = b",
        "1e999", "a < b", "__import__('os')", "a" * 501, "+".join("a" * 150), "用电量", "1j", "9" * 400,
        "a @ b", "a // b", "a % b", "~a", "not a", "f'{a}'", "(a := 1)", "...",
    ],
)  # fmt: skip
def test_nothing_but_arithmetic_is_a_formula(text: str) -> None:
    with pytest.raises(InvalidInput):
        Formula.of(text)


@given(st.text(max_size=60))
def test_any_text_is_a_formula_or_refused(text: str) -> None:
    try:
        Formula.of(text)
    except InvalidInput:
        return


def test_what_has_no_value_is_refused() -> None:
    with pytest.raises(InvalidInput, match="division"):
        Formula.of("a / b").value({"a": 1.0, "b": 0.0})
    with pytest.raises(InvalidInput, match="values for b"):
        Formula.of("a / b").value({"a": 1.0})
    with pytest.raises(InvalidInput, match="within"):
        Formula.of("a * a").value({"a": 1e200})


def test_lamps_save_the_hours_in_which_they_are_dark() -> None:
    found = estimate(lamps())
    assert found.quantity == pytest.approx(129_600)
    assert found.baseline == pytest.approx(172_800)
    assert found.emission_kg == pytest.approx(13_348.8)


def test_a_formula_that_saves_more_than_was_used_is_refused() -> None:
    with pytest.raises(SavingAboveBaseline, match="691200 kWh") as refused:
        lamps("lamps * power_kw * hours_before / (hours_after / 24) * days")
    assert refused.value.facts["baseline"] == pytest.approx(172_800)
    assert refused.value.message_zh is not None


@given(st.floats(0, 1), st.floats(0, 1e6))
def test_any_share_of_the_baseline_up_to_all_of_it_is_accepted(share: float, used: float) -> None:
    one = lamps("used * share", baseline=Formula.of("used"), parameters=parameters(used=used, share=share))
    assert estimate(one).quantity <= used * (1 + 1e-9)


def test_parameters_that_are_missing_or_unused_are_refused() -> None:
    with pytest.raises(InvalidInput, match="wrong: hours_spare"):
        lamps(parameters={**lamps().parameters, **parameters(hours_spare=1)})
    with pytest.raises(InvalidInput, match="wrong: watts"):
        lamps("lamps * watts * (hours_before - hours_after) * days")


def test_a_negative_saving_by_formula_and_a_factor_of_another_unit_are_refused() -> None:
    with pytest.raises(InvalidInput, match="0 or more"):
        lamps("lamps * power_kw * (hours_after - hours_before) * days")
    with pytest.raises(InvalidInput, match="factor per kWh"):
        lamps(factor=Factor(factor_id="WATER", value=0.194, unit="kgCO2e/t", source="s"))


def test_a_measured_saving_outranks_the_formula_even_where_it_is_smaller_or_negative() -> None:
    for saving in (90_000.0, -5.0):
        found = outcome(lamps(), [measured(saving)])
        assert (found.origin, found.quantity) == (Origin.MEASURED, saving)
        assert found.emission_kg == pytest.approx(saving * 0.103)
        assert found.estimate.quantity == pytest.approx(129_600)
        assert found.publishable is (saving > 0)


def test_a_measurement_that_knows_nothing_leaves_the_formula() -> None:
    assert outcome(lamps(), [measured(None)]).origin is Origin.FORMULA
    assert outcome(lamps(), years=0.5).quantity == pytest.approx(64_800)


def test_the_latest_measured_period_counts() -> None:
    found = outcome(lamps(), [measured(2.0, end=date(2025, 1, 1)), measured(1.0)])
    assert found.quantity == 2.0


def test_a_measured_saving_above_its_baseline_is_refused() -> None:
    with pytest.raises(SavingAboveBaseline):
        outcome(lamps(), [measured(101.0, baseline=100.0)])


def test_avoided_emissions_are_stated_beside_the_others() -> None:
    waste = lamps(
        "mass_kg",
        measure_id="waste",
        statement=Statement.AVOIDED,
        unit="kg",
        baseline=None,
        parameters=parameters(mass_kg=1000),
        factor=Factor(factor_id="WASTE", value=2.06, unit="kgCO2e/kg", source="s"),
    )
    found = emissions_by_statement([outcome(lamps()), outcome(waste)])
    assert found == {Statement.ELECTRICITY: pytest.approx(13_348.8), Statement.AVOIDED: pytest.approx(2060)}


def test_simple_economics() -> None:
    found = economics(investment_cny=1000, yearly_cny=400, yearly_kg_co2e=2500, years=10, offset_price_cny_per_t=80)
    assert found.payback_years == 2.5
    assert (found.sum_cny, found.net_cny) == (4000, 3000)
    assert (found.yearly_offset_cny, found.sum_offset_cny, found.sum_t_co2e) == (200, 2000, 25)


@pytest.mark.parametrize("yearly", [None, 0.0, -10.0])
def test_without_yearly_money_nothing_is_paid_back(yearly: float | None) -> None:
    found = economics(investment_cny=1000, yearly_cny=yearly, yearly_kg_co2e=0, years=1, offset_price_cny_per_t=0)
    assert found.payback_years is None
    assert (found.sum_cny is None) is (yearly is None)
    assert yearly_money([None, None]) is None
    assert yearly_money([None, 3.0]) == 3.0


def stage(name: str, actual: date | None = None, **more: str) -> Stage:
    return Stage(name=name, name_zh=name, planned=date(2022, 4, 1), actual=actual, **more)


def test_a_finished_stage_has_a_person_and_evidence() -> None:
    with pytest.raises(InvalidInput, match="evidence"):
        stage("survey", date(2022, 4, 2), person="user:li")
    done = stage("survey", date(2022, 4, 4), person="user:li", evidence="minutes 12")
    assert done.delay_days(date(2023, 1, 1)) == 3
    assert stage("build").delay_days(date(2022, 3, 1)) == 0
    assert stage("build").delay_days(date(2022, 4, 11)) == 10


def test_stages_are_done_in_their_order_and_things_are_named_once() -> None:
    first = stage("survey", date(2022, 4, 4), person="p", evidence="e")
    early = stage("build", date(2022, 4, 3), person="p", evidence="e")
    with pytest.raises(InvalidInput, match="build"):
        Project(project_id="p", name="P", name_zh="P", nodes=(), measures=(), stages=(first, early))
    with pytest.raises(InvalidInput, match="each once"):
        Project(project_id="p", name="P", name_zh="P", nodes=(), measures=(lamps(), lamps()))
    half = Project(
        project_id="p",
        name="P",
        name_zh="P",
        nodes=(),
        measures=(lamps(),),
        stages=(first, stage("build")),
        investments=(Investment(name="a", amount_cny=5), Investment(name="b", amount_cny=7)),
    )
    assert half.progress == 0.5
    assert half.investment_cny == 12
    with pytest.raises(InvalidInput, match="CNY"):
        Investment(name="a", amount_cny=-1)


def claim(printed: float, formula: str | None = None, **more: object) -> Claim:
    fields: dict[str, object] = {
        "claim_id": "c", "name": "c", "name_zh": "c", "kind": ClaimKind.LINE, "unit": "kg", "decimals": 1,
        "source": "s",
        **more,
    }  # fmt: skip
    return Claim(printed=printed, formula=Formula.of(formula) if formula else None, **fields)  # type: ignore[arg-type]


def test_a_claim_is_checked_by_its_own_arithmetic_to_the_last_printed_digit() -> None:
    assert check(claim(3.3, "10 / 3"), {}).verdict is Verdict.AGREES
    assert check(claim(3.4, "10 / 3"), {}).verdict is Verdict.DIFFERS
    assert check(claim(3.4), {}).verdict is Verdict.NOT_SHOWN


def test_differences_name_what_has_no_support() -> None:
    table = [claim(3.3, corrected_by="right"), claim(9.9, corrected_by="wrong"), claim(1.0, reason="no basis")]
    found = differences(table, {"right": 3.3333, "wrong": 8.9})
    assert [(one.printed, one.corrected) for one in found] == [(9.9, 8.9), (1.0, None)]
    assert found[0].delta == pytest.approx(-1.0)
