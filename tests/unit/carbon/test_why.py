"""A figure and its trace cannot disagree: each rule gives back, to the last bit, what the domain computed."""

import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.errors import InvalidInput
from libs.common.ids import CircuitId, SiteId
from services.carbon.domain.intervals import Grade
from services.carbon.domain.levels.balance import Measured, NoPue, PueCategory, group_pue, mix, pue
from services.carbon.domain.levels.cover import Term
from services.carbon.domain.levels.emission import FACTORS, emissions_by_period
from services.carbon.domain.levels.energy import Promise, energy_by_period, energy_in_span, known_energy, node_intervals
from services.carbon.domain.levels.periods import Step
from services.carbon.domain.money import exact
from services.carbon.domain.tariff.cost import EnergyPrice, PriceKey
from services.carbon.domain.why import FORMULAS, Because, InputKind, NotByInputs, Page, Rule, Why, recomputed
from services.carbon.tree import Node, NodeKind
from services.carbon.usecases.why import Figure, Wanted
from services.carbon.usecases.why.asked import question
from tests.unit.carbon.levels_data import QUARTER, START, Row, frame

ENERGY = st.just(0.0) | st.floats(1e-6, 1e5)
KNOWN = ENERGY | st.none()
CIRCUITS = ("a", "b", "c", "d")
DAY = timedelta(days=1)


def booked(energies: list[list[float | None]]) -> tuple[pl.DataFrame, list[Term]]:
    rows: list[Row] = [
        (circuit, number, energy, Grade.MISSING if energy is None else Grade.MEASURED)
        for circuit, of_it in zip(CIRCUITS, energies, strict=False)
        for number, energy in enumerate(of_it)
    ]
    terms = [
        Term(CircuitId(circuit), SiteId(f"s{index % 2}"), START, START + 30 * DAY)
        for index, circuit in enumerate(CIRCUITS[: len(energies)])
    ]
    return node_intervals(frame(rows), terms), terms


BOOKS = st.lists(st.lists(KNOWN, min_size=1, max_size=40), min_size=1, max_size=4)


@settings(max_examples=15)  # each makes frames
@given(BOOKS)
def test_an_energy_is_the_rounded_sum_of_its_circuits_and_each_of_its_intervals(
    energies: list[list[float | None]],
) -> None:
    found, terms = booked(energies)
    whole = energy_in_span(found, Promise(terms, START + 9 * DAY), start=START, end=START + DAY)
    circuits = dict(known_energy(found, ["circuit_id"]).iter_rows())
    for circuit, of_it in zip(CIRCUITS, energies, strict=False):
        known = [energy for energy in of_it if energy is not None]
        assert circuits.get(circuit) == (math.fsum(known) if known else None)
        assert recomputed(Rule.SUM, of_it) == circuits.get(circuit)
    assert whole["energy_kwh"] == recomputed(Rule.SUM, [circuits.get(one.circuit) for one in terms])


@settings(max_examples=15)  # each makes frames
@given(BOOKS)
def test_the_days_figure_is_that_of_its_span(energies: list[list[float | None]]) -> None:
    found, terms = booked(energies)
    promise = Promise(terms, START + 9 * DAY)
    (day,) = energy_by_period(found, promise, step=Step.DAY, start=START, end=START + DAY).to_dicts()
    assert day["energy_kwh"] == energy_in_span(found, promise, start=START, end=START + DAY)["energy_kwh"]


@settings(max_examples=15)  # each makes frames
@given(BOOKS, st.floats(0.1, 1.0), st.floats(0.1, 1.0))
def test_an_emission_is_the_sum_over_sites_of_energy_times_factor(
    energies: list[list[float | None]], first: float, second: float
) -> None:
    found, _ = booked(energies)
    factors = pl.DataFrame([("s0", 2026, first, "F0"), ("s1", 2026, second, "F1")], schema=FACTORS, orient="row")
    rows = emissions_by_period(found, factors, Step.DAY).to_dicts()
    by_site = dict(known_energy(found, ["site_id"]).iter_rows())
    parts = [
        recomputed(Rule.PRODUCT, [by_site[site], factor])
        for site, factor in (("s0", first), ("s1", second))
        if site in by_site
    ]
    assert rows[0]["emission_kg_co2"] == recomputed(Rule.WHOLE_SUM, parts)


@given(KNOWN, KNOWN, KNOWN, KNOWN)
def test_a_balance_is_what_came_in_and_was_generated_less_what_went_out(
    imported: float | None, exported: float | None, pv: float | None, generator: float | None
) -> None:
    assert mix(imported, exported, pv, generator).consumed == recomputed(
        Rule.BALANCE, [imported, pv, generator, exported]
    )


@given(st.lists(st.tuples(ENERGY, ENERGY), min_size=1, max_size=5))
def test_a_pue_is_a_quotient_and_that_of_a_group_one_of_sums(sides: list[tuple[float, float]]) -> None:
    found = [
        pue(Measured(dc, 1.0), Measured(it, 1.0), category=PueCategory.BASIC, whole_site=True, days=30.0, months=1.0)
        for dc, it in sides
    ]
    for one, (dc, it) in zip(found, sides, strict=True):
        if one.reason is None:
            assert one.value == recomputed(Rule.AT_LEAST_ONE, [dc, it])
        else:
            assert one.reason in (NoPue.NO_IT_ENERGY, NoPue.BELOW_ONE)
    counted = [side for one, side in zip(found, sides, strict=True) if one.value is not None]
    value, _ = group_pue(found)
    assert value == recomputed(Rule.QUOTIENT_OF_SUMS, [each for side in counted for each in side])


@given(
    st.decimals(0, 10**6, places=6), st.decimals(0, 10, places=6), st.decimals(0, 3, places=4),
    st.decimals(-1, 1, places=6),
)  # fmt: skip
def test_a_line_of_a_cost_is_exact(energy: Decimal, base: Decimal, ratio: Decimal, fixed: Decimal) -> None:
    price = EnergyPrice(
        key=PriceKey("CN-44", "ic", "1-10kV", date(2026, 3, 1)),
        version=1,
        base_cny_per_kwh=base,
        fixed_cny_per_kwh=fixed,
        source="sheet",
        recorded_at=datetime(2026, 4, 1, tzinfo=UTC),
    )
    with exact():
        cost = energy * price.of(ratio)
    assert recomputed(Rule.BAND_COST, [energy, base, ratio, fixed]) == cost
    assert recomputed(Rule.SUM, [cost, None, cost]) == 2 * cost


@pytest.mark.parametrize(
    ("rule", "values", "expected"),
    [
        (Rule.SUM, [], None),
        (Rule.SUM, [None], None),
        (Rule.SUM, [0.0, None], 0.0),
        (Rule.WHOLE_SUM, [1.0, None], None),
        (Rule.PRODUCT, [2.0, None], None),
        (Rule.QUOTIENT, [1.0, 0.0], None),
        (Rule.QUOTIENT, [1.0, 4.0], 0.25),
        (Rule.QUOTIENT_OF_SUMS, [1.0, None], None),
        (Rule.AT_MOST_ONE, [1.0 + 1e-12, 1.0], 1.0),
        (Rule.CENTS, [Decimal("0.004"), Decimal("0.001")], Decimal("0.01")),
        (Rule.CENTS, [Decimal("-0.005")], Decimal("0.00")),
        (Rule.CENTS, [Decimal(1), None], None),
        (Rule.PRODUCT, [Decimal("0.1"), Decimal("3")], Decimal("0.3")),
        (Rule.DEVIATION, [3.0, 3.0, 6.0], 0.5),
        (Rule.DEVIATION, [0.0, 0.0, 0.0], None),
        (Rule.DIFFERENCE, [Decimal("0.3"), Decimal("0.1")], Decimal("0.2")),
        (Rule.DIFFERENCE, [10.0, 4.0, 1.0, 0.5], 4.5),
        (Rule.DIFFERENCE, [1.0, 4.0, 0.0, 0.0], -3.0),
        (Rule.BALANCE, [1.0, 0.0, 0.0, 2.0], 0.0),
        (Rule.EXCESS, [1.0, 2.0], 0.0),
        (Rule.EXCESS, [3.0, None], None),
        (Rule.MEDIAN, [3.0, 1.0, 2.0, 4.0], 2.5),
        (Rule.MEDIAN, [3.0, 1.0, None], None),
        (Rule.MEAN, [1.0, 2.0], 1.5),
        (Rule.HIGHEST, [None, 2.0, 1.0], 2.0),
        (Rule.HIGHEST, [], None),
        (Rule.APPARENT, [4.0, 1.0, 4.0, 2.0, 0.0], 20.0),
        (Rule.BY_FACTOR, [4.0, 0.5, 1.0, 1.0], 16.0),
        # 250 kW declared, 400 kW used, 1.05 tolerated, what is above counts twice, 32 CNY/kW.
        (Rule.CONTRACT_DEMAND, [*map(Decimal, ("250", "2", "400", "1.05", "32"))], Decimal("16800")),
        (Rule.CONTRACT_DEMAND, [*map(Decimal, ("250", "2", "200", "1.05", "32"))], Decimal("8000")),
        (Rule.HALF_WIDTH, [1.0, 4.0, 1.0, 3.0], 10.0),
        (Rule.ROOT_OF_SUM, [9.0, 16.0], 5.0),
        (Rule.CHANGE_OF_SUMS, [3.0, 1.0, 3.0, 3.0], 0.5),
        (Rule.CHANGE_OF_SUMS, [], None),
    ],
)
def test_unknown_is_not_zero_in_any_rule(
    rule: Rule, values: list[float | Decimal | None], expected: float | Decimal | None
) -> None:
    assert recomputed(rule, values) == expected


@pytest.mark.parametrize("rule", [Rule.REGISTERS, Rule.STATED])
def test_a_rule_that_needs_more_than_numbers_says_so(rule: Rule) -> None:
    with pytest.raises(NotByInputs):
        recomputed(rule, [1.0])


def test_what_is_withheld_is_no_figure_though_its_inputs_are_known() -> None:
    parts = [Because(name=name, value=1.0, unit="kWh", kind=InputKind.FIGURE) for name in ("E_DC", "E_IT")]
    one = Why(
        figure="pue", node="s1", value=None, unit="1", rule=Rule.QUOTIENT, formula="", source="", inputs=parts,
        marks=["incomplete"], withheld=True,
    )  # fmt: skip
    assert one.again() is None


def test_every_figure_that_computes_has_a_formula_with_its_source() -> None:
    named = set(Figure) - {Figure.INVENTORY_LINE, Figure.AVOIDED_LINE}
    assert named <= FORMULAS.keys()
    assert all(text and source for text, source in FORMULAS.values())


@given(st.integers(0, 50), st.integers(1, 20))
def test_pages_show_every_input_once(count: int, most: int) -> None:
    inputs = [Because(name=str(number), value=0.0, unit="kWh", kind=InputKind.INTERVAL) for number in range(count)]
    seen: list[Because] = []
    page: Page | None = Page(0, most)
    while page is not None:
        seen += page.of(inputs)
        following = page.following(count)
        page = None if following is None else Page(following, most)
    assert seen == inputs


def test_a_question_names_what_it_is_about() -> None:
    asked = question(Figure.CIRCUIT, Node(NodeKind.SITE, "s1"), START, START + DAY, part="c1", category=None)
    assert asked == {
        "figure": "circuit", "site": "s1", "from": "2026-03-01T16:00:00Z", "to": "2026-03-02T16:00:00Z", "part": "c1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("length", "step"),
    [(QUARTER, Step.QUARTER_HOUR), (timedelta(hours=1), Step.HOUR), (DAY, Step.DAY), (7 * DAY, Step.WEEK)],
)
def test_the_period_of_a_span_is_found(length: timedelta, step: Step) -> None:
    assert Wanted(figure=Figure.PUE, start=START, end=START + length).period is step


def test_a_span_that_is_no_civil_period_has_none() -> None:
    with pytest.raises(InvalidInput, match="one civil"):
        _ = Wanted(figure=Figure.PUE, start=START, end=START + 2 * DAY).period
