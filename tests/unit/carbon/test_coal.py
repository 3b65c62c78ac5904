"""Standard coal by GB/T 2589: printed coefficients, bases that are not mixed, media that have to be declared."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import InvalidFile, InvalidInput, NotFound
from services.carbon.domain.coal import Basis, CoalTable, EnergyUse, StockBalance
from services.carbon.domain.figures import Mark
from services.carbon.library import load_coal, parse_coal

SHIPPED = load_coal()
TABLE = CoalTable(SHIPPED)


def use(coeff_id: str, amount: float | None, unit: str, **more: object) -> EnergyUse:
    return EnergyUse(coeff_id=coeff_id, amount=amount, unit=unit, origin="bill", **more)  # type: ignore[arg-type]


def test_electricity_diesel_and_heat_by_their_printed_coefficients() -> None:
    # GB/T 2589-2020: 0.1229 kgce/kWh, 1.4571 kgce/kg, 0.03412 kgce/MJ.
    found = TABLE.total([use("ELEC-EQ", 10_000, "kWh"), use("DIESEL", 100, "kg"), use("HEAT-EQ", 1000, "MJ")])
    assert [line.value for line in found.lines] == pytest.approx([1229, 145.71, 34.12])
    assert found.total.value == pytest.approx(1408.83)


def test_what_leaves_the_boundary_is_subtracted() -> None:
    found = TABLE.total([use("ELEC-EQ", 1000, "kWh"), use("ELEC-EQ", 200, "kWh", exported=True)])
    assert found.total.value == pytest.approx(0.1229 * 800)


def test_fresh_water_counts_only_when_declared_and_three_times_what_it_was() -> None:
    water = use("WATER-FRESH", 100, "t")
    undeclared = TABLE.total([water])
    assert undeclared.total.value == 0.0
    assert Mark.OUTSIDE_BOUNDARY in undeclared.lines[0].marks
    assert TABLE.total([water], working_media=True).total.value == pytest.approx(25.71)
    old = CoalTable(SHIPPED, edition=2008).total([use("WATER-FRESH-2008", 100, "t")], working_media=True)
    assert old.total.value == pytest.approx(8.57)
    with pytest.raises(NotFound, match="edition 2020"):
        TABLE.total([use("WATER-FRESH-2008", 100, "t")])


def test_energy_made_inside_is_counted_once_at_its_input() -> None:
    diesel = use("DIESEL", 100, "kg")
    made = use("ELEC-EQ", 350, "kWh", made_inside=True)
    found = TABLE.total([diesel, made])
    assert found.total.value == pytest.approx(145.71)
    assert Mark.CONVERTED_INSIDE in found.lines[1].marks


def test_the_equal_value_of_electricity_is_a_dated_parameter() -> None:
    electricity = [use("ELEC-EQ", 1000, "kWh")]
    without = TABLE.total(electricity, basis=Basis.EQUAL_VALUE)
    given_one = CoalTable(SHIPPED, equal_value_kgce_per_kwh=0.3).total(electricity, basis=Basis.EQUAL_VALUE)
    assert without.total.value is None
    assert given_one.total.value == pytest.approx(300)
    assert (given_one.basis, TABLE.total(electricity).basis) == (Basis.EQUAL_VALUE, Basis.EQUIVALENT)


def test_a_measured_heat_value_comes_before_the_printed_range() -> None:
    found = TABLE.total([use("NG-GASFIELD", 100, "m3", ncv_kj=36_000)])
    assert found.total.value == pytest.approx(100 * 36_000 / 29_307.6)
    assert TABLE.total([use("NG-GASFIELD", 100, "m3")]).total.value == pytest.approx(121.43)


def test_a_doubted_coefficient_is_unknown_until_a_person_enables_it() -> None:
    petrol = [use("PETROL", 100, "kg")]
    assert TABLE.total(petrol).total.value is None
    enabled = CoalTable(SHIPPED, enabled=frozenset({"PETROL"})).total(petrol)
    assert enabled.total.value == pytest.approx(147.14)
    assert Mark.ENABLED_BY_PERSON in enabled.total.marks


def test_one_unknown_amount_makes_the_total_unknown() -> None:
    found = TABLE.total([use("ELEC-EQ", None, "kWh"), use("DIESEL", 1, "kg")])
    assert found.total.value is None
    assert found.lines[1].value == pytest.approx(1.4571)


def test_renewables_of_the_site_stand_beside_the_total_unless_asked() -> None:
    uses = [use("ELEC-EQ", 1000, "kWh"), use("ELEC-EQ", 100, "kWh", renewable_on_site=True)]
    assert TABLE.total(uses).total.value == pytest.approx(122.9)
    assert TABLE.total(uses).on_site_renewables.value == pytest.approx(12.29)
    assert TABLE.total(uses, include_on_site_renewables=True).total.value == pytest.approx(135.19)


def test_a_wrong_unit_or_a_negative_amount_is_refused() -> None:
    with pytest.raises(InvalidInput, match="DIESEL: expected kg, found L"):
        TABLE.total([use("DIESEL", 1, "L")])
    with pytest.raises(InvalidInput, match="mark what leaves as exported"):
        TABLE.total([use("DIESEL", -1, "kg")])


def test_stock_is_opening_plus_purchases_less_closing_and_transfers() -> None:
    assert StockBalance(opening=10, purchased=100, closing=20, transferred_out=5).consumed == 85
    with pytest.raises(InvalidInput, match="stock balance"):
        _ = StockBalance(opening=10, purchased=0, closing=20).consumed


def test_printed_coefficients_agree_with_their_heat_values() -> None:
    """The table's own check: kgce = heat value / 29,307.6, within the rounding of print; exceptions carry a note."""
    by_id = {row.coeff_id: row for row in SHIPPED}
    for coeff_id, heat_kj in {"DIESEL": 42_705, "RAW-COAL": 20_934, "NG-GASFIELD": 35_588, "LNG": 51_498}.items():
        printed = by_id[coeff_id].kgce_per_unit
        assert printed is not None
        assert float(printed) == pytest.approx(heat_kj / 29_307.6, abs=1e-4)


def test_a_wrong_row_of_the_table_is_named() -> None:
    header = "coeff_id,energy_en,energy_zh,kind,physical_unit,heat_value,heat_value_unit,kgce_per_unit,"
    header += "coefficient_unit,basis,source_title,source_year,confidence,note"
    with pytest.raises(InvalidFile, match=r"mine\.csv:2: basis: expected one of"):
        parse_coal(f"{header}\nX,a,b,fuel,kg,1,kJ/kg,1,kgce/kg,other,s,2020,verified,", source="mine.csv")


@given(amounts=st.lists(st.floats(0, 1e9), min_size=1, max_size=6))
def test_the_total_is_the_sum_of_its_lines(amounts: list[float]) -> None:
    found = TABLE.total([use("ELEC-EQ", amount, "kWh") for amount in amounts])
    assert found.total.value == pytest.approx(0.1229 * sum(amounts), rel=1e-12)
