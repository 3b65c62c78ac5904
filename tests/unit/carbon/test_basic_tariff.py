"""The basic tariff by capacity, actual and contract demand, and which is cheaper."""

from datetime import date
from decimal import Decimal
from typing import Any

import hypothesis.strategies as st
import polars as pl
import pytest
from hypothesis import given, settings

from libs.common.errors import InvalidInput
from services.carbon.domain.intervals import Grade
from services.carbon.domain.tariff.basic import (
    BasicPrices,
    DemandMonth,
    Mode,
    Obligation,
    Transformer,
    basic_fees,
    billed_capacity,
    compare,
    contract_demand_billed,
    obligation,
    recommend_contract,
)
from services.carbon.domain.tariff.demand import peak_demands
from tests.unit.carbon.tariffs import figures, intervals

PRICES = BasicPrices(capacity_cny_per_kva=Decimal(23), demand_cny_per_kw=Decimal(32))


def month(
    number: int,
    demand: str | None,
    prices: BasicPrices | None = PRICES,
    *,
    contract: str | None = None,
    energy: str | None = None,
) -> DemandMonth:
    return DemandMonth(
        month=date(2026, number, 1),
        capacity_kva=Decimal(1000),
        demand_kw=None if demand is None else Decimal(demand),
        contract_kw=None if contract is None else Decimal(contract),
        energy_kwh=None if energy is None else Decimal(energy),
        prices=prices,
    )


@pytest.mark.parametrize(
    ("kva", "expected"),
    [
        ("100", Obligation.SINGLE_PART),
        ("101", Obligation.MAY_CHOOSE),
        ("314.9", Obligation.MAY_CHOOSE),
        ("315", Obligation.TWO_PART),
    ],
)
def test_who_pays_a_basic_fee(kva: str, expected: Obligation) -> None:
    assert obligation(Decimal(kva)) is expected


def test_a_sealed_standby_is_outside_of_the_capacity() -> None:
    assert billed_capacity([Transformer(Decimal(630)), Transformer(Decimal(630), sealed=True)]) == 630


def test_below_the_break_even_demand_paying_by_demand_is_cheaper() -> None:
    # 1000 kVA x 23 / 32 = 718.75 kW.
    assert basic_fees(month(1, "700")).break_even_kw == Decimal("718.75")
    assert basic_fees(month(1, "718")).cheapest is Mode.ACTUAL_DEMAND
    assert basic_fees(month(1, "719")).cheapest is Mode.CAPACITY
    assert basic_fees(month(1, "718.75")).cheapest is Mode.CAPACITY  # no difference, and it was chosen before
    assert basic_fees(month(1, "700")).by_mode == {
        Mode.CAPACITY: 23000, Mode.ACTUAL_DEMAND: 22400, Mode.CONTRACT_DEMAND: None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("demand", "billed"), [("500", "700"), ("735", "700"), ("736", "702"), ("800", "830")],
    ids=["below", "tolerated", "just above", "well above"],
)  # fmt: skip
def test_a_contract_is_billed_with_twice_what_exceeds_its_tolerance(demand: str, billed: str) -> None:
    found = contract_demand_billed(Decimal(demand), Decimal(700), capacity_kva=Decimal(1000), prices=PRICES)
    assert found == Decimal(billed)


def test_a_contract_below_its_floor_is_refused_where_there_is_one() -> None:
    prices = BasicPrices(
        capacity_cny_per_kva=Decimal(23), demand_cny_per_kw=Decimal(32), contract_floor_share=Decimal("0.4")
    )
    with pytest.raises(InvalidInput, match="at least 400"):
        basic_fees(month(1, "300", prices, contract="399"))


def test_well_used_capacity_has_a_cheaper_demand() -> None:
    prices = BasicPrices(
        capacity_cny_per_kva=Decimal(23), demand_cny_per_kw=Decimal(32),
        discount_from_kwh_per_kva=Decimal(260), discount_multiple=Decimal("0.9"),
    )  # fmt: skip
    assert basic_fees(month(1, "700", prices, energy="259999")).by_mode[Mode.ACTUAL_DEMAND] == 22400
    assert basic_fees(month(1, "700", prices, energy="260000")).by_mode[Mode.ACTUAL_DEMAND] == 20160
    assert basic_fees(month(1, "700", prices)).by_mode[Mode.ACTUAL_DEMAND] is None


def test_what_is_not_known_has_no_fee_and_no_advice() -> None:
    assert basic_fees(month(1, "700", None)).cheapest is None
    assert basic_fees(month(1, None)).by_mode[Mode.ACTUAL_DEMAND] is None
    found = compare([month(1, "700"), month(2, None), month(3, "700")], hold_months=1)
    assert figures(found.compared, found.totals[Mode.CAPACITY], len(found.months)) == (2, 46000, 3)
    nothing = compare([month(1, None)], hold_months=3)
    assert (nothing.plan, nothing.plan_cny, nothing.totals[Mode.CAPACITY]) == ((), None, None)


@pytest.mark.parametrize("name", ["capacity_cny_per_kva", "demand_cny_per_kw"])
def test_prices_beyond_reason_are_refused(name: str) -> None:
    prices: dict[str, Any] = {"capacity_cny_per_kva": None, "demand_cny_per_kw": None}
    with pytest.raises(InvalidInput, match=name):
        BasicPrices(**(prices | {name: Decimal(3200)}))


def test_a_choice_has_to_be_kept() -> None:
    # One month of high demand is not worth leaving demand for, when capacity then has to be kept for three.
    demands = ["300", "300", "300", "900", "300", "300", "300"]
    months = [month(number, demand) for number, demand in enumerate(demands, 1)]
    free, held = compare(months, hold_months=1), compare(months, hold_months=3)
    assert free.plan == tuple(Mode.CAPACITY if demand == "900" else Mode.ACTUAL_DEMAND for demand in demands)
    assert held.plan == (Mode.ACTUAL_DEMAND,) * 7
    assert held.plan_cny == held.totals[Mode.ACTUAL_DEMAND]


@settings(max_examples=40)
@given(demands=st.lists(st.integers(0, 1500), min_size=1, max_size=7), hold=st.integers(1, 4))
def test_no_plan_that_keeps_its_choices_is_cheaper(demands: list[int], hold: int) -> None:
    months = [month(number, str(demand)) for number, demand in enumerate(demands, 1)]
    found = compare(months, hold_months=hold)
    fees = [one.by_mode for one in found.months]
    best = min(
        sum((fees[index][mode] or Decimal(0)) for index, mode in enumerate(plan))
        for plan in plans(len(demands), hold)
    )  # fmt: skip
    assert found.plan_cny == best
    assert found.plan in set(plans(len(demands), hold))


def plans(length: int, hold: int) -> list[tuple[Mode, ...]]:
    """Every sequence of two modes in which all but the last run are at least ``hold`` long."""
    found = []
    for number in range(2**length):
        plan = [Mode.CAPACITY if number >> index & 1 else Mode.ACTUAL_DEMAND for index in range(length)]
        runs, start = [], 0
        for index in range(1, length + 1):
            if index == length or plan[index] is not plan[start]:
                runs.append(index - start)
                start = index
        if all(run >= hold for run in runs[:-1]):
            found.append(tuple(plan))
    return found


@settings(max_examples=40)
@given(
    demands=st.lists(st.integers(0, 400), min_size=1, max_size=12),
    floor=st.sampled_from([None, Decimal("0.4")]),
    step=st.sampled_from([Decimal(1), Decimal(7)]),
)
def test_the_recommended_contract_is_the_best_of_all_that_were_tried(
    demands: list[int], floor: Decimal | None, step: Decimal
) -> None:
    prices = BasicPrices(capacity_cny_per_kva=None, demand_cny_per_kw=Decimal(32), contract_floor_share=floor)
    capacity = Decimal(500)
    found = recommend_contract([Decimal(one) for one in demands], capacity_kva=capacity, prices=prices, step_kw=step)
    assert found is not None
    lowest = (floor or Decimal(0)) * capacity
    tried = [lowest + step * index for index in range(int(max(*demands, 0) / step) + 2)]
    means = [
        (sum(one + 2 * max(demand - Decimal("1.05") * one, Decimal(0)) for demand in demands), one) for one in tried
    ]
    billed, contract = min(means)
    assert found[0] == contract
    assert found[1] == pytest.approx(billed * 32 / len(demands))


def test_without_history_or_price_no_contract_is_recommended() -> None:
    no_price = BasicPrices(capacity_cny_per_kva=None, demand_cny_per_kw=None)
    assert recommend_contract([], capacity_kva=Decimal(500), prices=PRICES) is None
    assert recommend_contract([Decimal(1)], capacity_kva=Decimal(500), prices=no_price) is None


def test_the_demand_of_two_feeds_is_that_of_their_sum_and_never_of_a_guess() -> None:
    def feed(name: str, energies: list[float | None], *grades: Grade) -> pl.DataFrame:
        return intervals(date(2026, 3, 2), energies).with_columns(
            pl.lit(name).alias("circuit_id"), pl.Series("grade", [int(one) for one in grades], dtype=pl.Int8)
        )

    good, guess = Grade.MEASURED, Grade.ALLOCATED
    frame = pl.concat(
        [
            feed("a", [10.0, 5.0, 90.0, 5.0], good, good, guess, good),
            feed("b", [1.0, 8.0, 1.0, None], good, good, good, Grade.MISSING),
        ]
    )
    (found,) = peak_demands(frame, ["a", "b"])
    assert (found.month, found.demand_kw, found.completeness) == (date(2026, 3, 1), 52.0, 0.5)
    assert found.at == frame["start"][1]
