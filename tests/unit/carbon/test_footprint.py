"""Product footprints by hand, and the rules of ISO 14067 that a product cannot get around."""

from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import InvalidInput
from services.carbon import library
from services.carbon.domain.factors import EmissionFactor, Family, WrongFamily
from services.carbon.domain.footprint import (
    Account,
    Allocation,
    AllocationBy,
    Boundary,
    CutOff,
    CutOffBy,
    DataQuality,
    Flow,
    Footprint,
    Product,
    Stage,
    footprint,
    require_negligible,
)

TODAY = date(2026, 11, 22)


def factor(series: str, value: str, unit: str, **more: object) -> EmissionFactor:
    usual = {
        "factor_id": f"{series}-2024", "series": series, "family": Family.ACTIVITY, "category": "material",
        "region": "CN", "data_year": 2024, "value": Decimal(value), "unit": unit, "gas": "CO2e",
        "source": "environmental product declaration", "source_year": 2025, "known_from": date(2025, 6, 1),
        "confidence": "verified", "name_en": series, "name_zh": series,
    }  # fmt: skip
    return EmissionFactor(**(usual | more))  # type: ignore[arg-type]


OWN = [
    factor("OWN-FIBRE", "0.5", "kgCO2e/kg"),
    factor("OWN-TRUCK", "0.1", "kgCO2e/tkm"),
    factor("OWN-WASTE", "0.02", "kgCO2e/kg"),
    factor("OWN-POWER", "0.57", "kgCO2e/kWh", category="electricity"),
    factor("OWN-CO2", "0.5", "kgCO2/kg"),
    factor("OWN-LATER", "0.5", "kgCO2e/kg", data_year=2030),
]
LIBRARY = library.load_library().with_rows(OWN)
GOOD, POOR = (DataQuality(technology=n, time=n, geography=n, completeness=n, reliability=n) for n in (1, 4))


def flow(flow_id: str, stage: Stage, amount: float, unit: str, series: str, **more: Any) -> Flow:
    usual: dict[str, Any] = {"electricity": False, "source": "bill of materials", "quality": GOOD, "primary": True}
    return Flow(
        flow_id=flow_id, name=flow_id, stage=stage, amount=amount, unit=unit, series=series, **(usual | more)
    )  # fmt: skip


FIBRE = flow("fibre", Stage.RAW_MATERIALS, 12.0, "kg", "OWN-FIBRE", scrap_rate=0.04, quality=POOR, primary=False)
TRUCK = flow("truck", Stage.INBOUND_TRANSPORT, 2.5, "tkm", "OWN-TRUCK")
POWER = flow("power", Stage.MANUFACTURING, 8.0, "kWh", "CFP-ELEC-CN", electricity=True)
BOARD = Product(
    product_id="board-20",
    name="Fibre board",
    name_zh="纤维板",
    functional_unit="1 m2 of board, 20 mm",
    boundary=Boundary.CRADLE_TO_GATE,
    year=2024,
    flows=(FIBRE, TRUCK, POWER),
)


def known(product: Product = BOARD) -> Footprint:
    return footprint(LIBRARY, TODAY, product)


def test_a_square_metre_of_board_by_hand() -> None:
    """12 kg at 4 % scrap are 12.5 kg in, 6.25 kg; 2.5 tkm are 0.25 kg; 8 kWh at 0.5777 are 4.6216 kg: 11.1216 kg."""
    found = known()
    assert [one.input for one in found.flows] == [pytest.approx(12.5), 2.5, 8.0]
    assert [one.emission for one in found.flows] == [pytest.approx(6.25), 0.25, pytest.approx(4.6216)]
    assert found.total == found.at_least == pytest.approx(11.1216)
    assert found.stage_total(Stage.RAW_MATERIALS) == pytest.approx(6.25)
    assert found.primary_share == pytest.approx((0.25 + 4.6216) / 11.1216)
    assert found.quality == pytest.approx((6.25 * 4 + 0.25 + 4.6216) / 11.1216)
    assert found.marks == []


def test_electricity_has_the_life_cycle_factor_of_its_year() -> None:
    """0.6205 kgCO2e/kWh for 2023, 0.5777 for 2024; a later year takes 2024's and says so."""
    values = {}
    for year in (2023, 2024, 2025):
        (one,) = known(replace(BOARD, year=year, flows=(POWER,))).flows
        assert one.factor is not None
        values[year] = (one.factor.factor_id, float(one.factor.value))
    assert values == {
        2023: ("CFP-ELEC-CN-2023", 0.6205), 2024: ("CFP-ELEC-CN-2024", 0.5777), 2025: ("CFP-ELEC-CN-2024", 0.5777),
    }  # fmt: skip
    assert "provisional_factor" in known(replace(BOARD, year=2025)).marks


@pytest.mark.parametrize("series", ["grid-average", "grid-margin", "grid-residual", "FUEL-DIESEL-EF", "GWP-AR6-CO2"])
def test_a_factor_that_is_not_made_for_products_is_refused(series: str) -> None:
    with pytest.raises(WrongFamily) as refused:
        known(replace(BOARD, flows=(replace(POWER, series=series),)))
    assert refused.value.both.chinese


def test_an_own_factor_of_electricity_is_refused_unless_it_is_of_its_whole_life() -> None:
    for one in (replace(POWER, series="OWN-POWER"), replace(POWER, series="OWN-POWER", electricity=False)):
        with pytest.raises(WrongFamily, match="life-cycle"):
            known(replace(BOARD, flows=(one,)))
    with pytest.raises(WrongFamily, match="life-cycle"):
        known(replace(BOARD, flows=(replace(FIBRE, electricity=True),)))


def test_a_series_that_is_none_and_a_unit_that_does_not_fit_are_refused() -> None:
    for wrong in (
        replace(FIBRE, series="OWN-NOTHING"),
        replace(FIBRE, unit="kWh"),
        replace(FIBRE, series="OWN-CO2"),  # leaves out every other gas
    ):
        with pytest.raises(InvalidInput):
            known(replace(BOARD, flows=(wrong,)))


def test_units_are_converted_to_that_of_the_factor() -> None:
    (one,) = known(replace(BOARD, flows=(replace(FIBRE, amount=0.012, unit="t"),))).flows
    assert (one.net, one.unit) == (12.0, "kg")
    assert one.emission == pytest.approx(6.25)


def test_a_footprint_is_unknown_as_soon_as_a_flow_is() -> None:
    found = known(replace(BOARD, flows=(FIBRE, TRUCK, POWER, replace(FIBRE, flow_id="resin", series="OWN-LATER"))))
    assert (found.total, found.primary_share, found.quality) == (None, None, None)
    assert found.at_least == pytest.approx(11.1216)
    assert found.marks == ["no_factor:resin"]
    assert found.stage_total(Stage.RAW_MATERIALS) is None
    assert found.stage_total(Stage.MANUFACTURING) == pytest.approx(4.6216)


def allocated(**shares: float) -> Product:
    named = {name.replace("_", "-"): share for name, share in shares.items()}
    one = Allocation(allocation_id="press", by=AllocationBy.MASS, reason="one meter for both lines", shares=named)
    return replace(BOARD, allocations=(one,), flows=(FIBRE, TRUCK, replace(POWER, allocation="press")))


def test_a_shared_process_counts_by_its_share() -> None:
    """70 % of 8 kWh at 0.5777 are 3.23512 kg."""
    found = known(allocated(board_20=0.7, bark=0.3))
    assert found.flows[2].emission == pytest.approx(3.23512)
    assert found.total == pytest.approx(6.25 + 0.25 + 3.23512)


@pytest.mark.parametrize("shares", [{"board_20": 0.7, "bark": 0.2}, {"board_20": 1.2, "bark": -0.2}, {"bark": 1.0}, {}])
def test_shares_that_do_not_sum_to_one_or_are_of_others_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(InvalidInput):
        allocated(**shares)


def test_a_stage_out_of_the_boundary_is_refused_and_an_empty_one_told() -> None:
    waste = flow("waste", Stage.END_OF_LIFE, 12.0, "kg", "OWN-WASTE")
    with pytest.raises(InvalidInput, match="not within cradle_to_gate"):
        replace(BOARD, flows=(FIBRE, waste))
    found = known(replace(BOARD, boundary=Boundary.CRADLE_TO_GRAVE, flows=(FIBRE, TRUCK, POWER, waste)))
    assert found.total == pytest.approx(11.1216 + 0.24)
    assert found.marks == ["no_flows:distribution", "no_flows:use"]


def test_biogenic_carbon_land_use_and_aircraft_stand_beside_the_footprint() -> None:
    beside = [
        flow(account.value, Stage.RAW_MATERIALS, 10.0, "kg", "OWN-FIBRE", account=account)
        for account in Account
        if account is not Account.FOOTPRINT
    ]
    found = known(replace(BOARD, flows=(FIBRE, TRUCK, POWER, *beside)))
    assert found.total == pytest.approx(11.1216)
    assert [found.of_account(account) for account in Account][1:] == [5.0] * 4
    with pytest.raises(InvalidInput, match="of the footprint at least"):
        replace(BOARD, flows=tuple(beside))


def left_out(*amounts: float, by: CutOffBy = CutOffBy.MASS) -> Product:
    rows = (
        CutOff(name=f"c{number}", stage=Stage.RAW_MATERIALS, by=by, amount=amount, reason="packaging")
        for number, amount in enumerate(amounts)
    )
    return replace(BOARD, cut_offs=tuple(rows))


def test_what_is_left_out_is_listed_with_its_share() -> None:
    """0.1 kg beside 12.5 kg of inputs are 0.1 / 12.6 = 0.79 %; 0.1 kgCO2e beside 11.1216 are 0.89 %."""
    (one,) = known(left_out(0.1)).left_out
    assert one.share == pytest.approx(0.1 / 12.6)
    (one,) = known(left_out(0.1, by=CutOffBy.IMPACT)).left_out
    assert one.share == pytest.approx(0.1 / 11.2216)
    require_negligible(known(left_out(0.1)))


def test_a_flow_of_one_per_cent_or_five_per_cent_together_may_not_be_left_out() -> None:
    for wrong in (left_out(0.13), left_out(*[0.12] * 6), left_out(0.12, by=CutOffBy.IMPACT)):
        found = known(wrong)
        assert "cut_off_too_much" in found.marks
        with pytest.raises(InvalidInput):
            require_negligible(found)
    five = known(left_out(*[0.12] * 5))
    assert five.cut_off_share == pytest.approx(0.6 / 13.1)
    require_negligible(five)


def test_a_share_of_nothing_known_is_not_judged() -> None:
    found = known(replace(left_out(0.1), flows=(TRUCK, POWER)))
    assert (found.left_out[0].share, found.marks) == (None, ["cut_off_not_judged", "no_flows:raw_materials"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"functional_unit": "  "},
        {"flows": ()},
        {"flows": (FIBRE, FIBRE)},
        {"flows": (replace(FIBRE, amount=-1.0),)},
        {"flows": (replace(FIBRE, amount=float("nan")),)},
        {"flows": (replace(FIBRE, scrap_rate=1.0),)},
        {"flows": (replace(FIBRE, scrap_rate=-0.1),)},
        {"flows": (replace(FIBRE, allocation="none"),)},
    ],
)
def test_a_product_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInput) as refused:
        replace(BOARD, **wrong)  # type: ignore[arg-type]
    assert refused.value.both.chinese


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=20))
def test_the_shares_of_all_products_of_a_process_are_the_process(parts: list[int]) -> None:
    names = [f"p{number}" for number in range(len(parts))]
    shares = {name: part / sum(parts) for name, part in zip(names, parts, strict=True)}
    one = Allocation(allocation_id="a", by=AllocationBy.ECONOMIC, reason="no other", shares=shares)
    each = [
        known(replace(BOARD, product_id=name, allocations=(one,), flows=(replace(POWER, allocation="a"),))).total
        for name in names
    ]
    assert sum(total or 0.0 for total in each) == pytest.approx(8.0 * 0.5777)


@given(st.floats(0.0, 1e9), st.floats(0.0, 0.99), st.floats(0.0, 0.99))
def test_more_scrap_is_never_less_and_an_input_never_below_its_net_amount(
    amount: float, one: float, two: float
) -> None:
    low, high = sorted([one, two])
    less, more = (
        known(replace(BOARD, flows=(replace(FIBRE, amount=amount, scrap_rate=rate),))) for rate in (low, high)
    )
    assert less.total is not None
    assert more.total is not None
    assert less.total <= more.total
    assert less.flows[0].input >= amount
