"""Fuels, gases, heat, activities: the worked examples of the methods, and what is refused."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import InvalidInput
from services.carbon.domain.emissions.activity import activity
from services.carbon.domain.emissions.fuels import burn
from services.carbon.domain.emissions.heat import hot_water_heat_gj, purchased_cold, purchased_heat, steam_heat_gj
from services.carbon.domain.emissions.knowledge import GwpSet, Knowledge
from services.carbon.domain.emissions.refrigerants import (
    ImplausibleBalance,
    LeakRate,
    MassBalance,
    TopUp,
    escaped,
)
from services.carbon.domain.emissions.units import NORMAL_PER_STANDARD, WrongUnit, convert
from services.carbon.domain.factors import Place, Use, WrongFamily
from services.carbon.domain.figures import Mark
from services.carbon.library import load_library

LIBRARY = load_library()
NOW = Knowledge(LIBRARY, date(2026, 11, 21), gwp_set=GwpSet.AR5)
ALL_FUELS = Knowledge(
    LIBRARY,
    date(2026, 11, 21),
    frozenset({"FUEL-DIESEL-DENSITY", "FUEL-DIESEL-CH4", "FUEL-DIESEL-N2O"}),
    GwpSet.AR5,
)
SICHUAN = Place("51")


class TestFuels:
    def test_natural_gas_is_the_worked_example_of_the_methods(self) -> None:
        # Methods 3.1: 389.31 x 0.0153 x 0.99 x 44/12 = 21.622 tCO2 per 10^4 Nm3.
        found = burn(NOW, fuel="NATGAS", amount=1.0, unit="1e4Nm3", year=2026, origin="meter")
        assert found.figure.value == pytest.approx(21_622, abs=0.5)
        assert found.figure.value == pytest.approx(389.31 * 0.0153 * 0.99 * 44 / 12 * 1000, rel=1e-12)

    def test_gas_measured_at_twenty_degrees_is_less_gas(self) -> None:
        cold = burn(NOW, fuel="NATGAS", amount=100.0, unit="Nm3", year=2026, origin="meter").figure.value
        warm = burn(NOW, fuel="NATGAS", amount=100.0, unit="m3@20C", year=2026, origin="meter").figure.value
        assert cold is not None
        assert warm == pytest.approx(cold * 0.9318, rel=1e-4)
        assert pytest.approx(0.9318, abs=5e-5) == NORMAL_PER_STANDARD

    def test_a_cubic_metre_without_its_condition_is_refused(self) -> None:
        with pytest.raises(WrongUnit, match="found 'm3'"):
            burn(NOW, fuel="NATGAS", amount=100.0, unit="m3", year=2026, origin="meter")

    def test_litres_of_diesel_need_a_density_that_somebody_vouches_for(self) -> None:
        without = burn(NOW, fuel="DIESEL", amount=100.0, unit="L", year=2026, origin="card")
        ticket = burn(
            NOW, fuel="DIESEL", amount=100.0, unit="L", year=2026, origin="card", density_kg_per_l=0.84
        ).figure.value
        enabled = burn(ALL_FUELS, fuel="DIESEL", amount=100.0, unit="L", year=2026, origin="card")
        assert without.figure.value is None
        assert Mark.NO_FACTOR in without.figure.marks
        # FUEL-DIESEL-EF of the library: 3.0959 kgCO2/kg.
        assert ticket == pytest.approx(84 * 3.0959, rel=1e-4)
        assert enabled.by_gas["CO2"] == pytest.approx(ticket)
        assert Mark.ENABLED_BY_PERSON in enabled.figure.marks

    def test_methane_and_nitrous_oxide_are_counted_or_said_to_be_left_out(self) -> None:
        without = burn(NOW, fuel="DIESEL", amount=1.0, unit="t", year=2026, origin="card")
        with_them = burn(ALL_FUELS, fuel="DIESEL", amount=1.0, unit="t", year=2026, origin="card")
        assert Mark.METHANE_NOT_QUANTIFIED in without.figure.marks
        energy_tj = 42.652e-3
        assert with_them.by_gas["CH4"] == pytest.approx(energy_tj * 10 * 28)
        assert with_them.by_gas["N2O"] == pytest.approx(energy_tj * 0.6 * 265)
        assert with_them.figure.value is not None
        assert without.figure.value is not None
        assert (with_them.figure.value / without.figure.value - 1) < 0.01

    def test_biogenic_carbon_dioxide_stands_beside_the_total(self) -> None:
        whole = burn(NOW, fuel="DIESEL", amount=1.0, unit="t", year=2026, origin="card").figure.value
        mixed = burn(NOW, fuel="DIESEL", amount=1.0, unit="t", year=2026, origin="card", biogenic_share=0.05)
        assert whole is not None
        assert mixed.figure.value == pytest.approx(0.95 * whole)
        assert mixed.biogenic_kg_co2 == pytest.approx(0.05 * whole)

    def test_an_unknown_amount_is_an_unknown_emission(self) -> None:
        found = burn(NOW, fuel="DIESEL", amount=None, unit="t", year=2026, origin="card")
        assert found.figure.value is None
        assert Mark.UNKNOWN_INPUT in found.figure.marks

    def test_a_negative_amount_is_refused(self) -> None:
        with pytest.raises(InvalidInput, match="DIESEL: amount: expected 0 or more"):
            burn(NOW, fuel="DIESEL", amount=-1.0, unit="t", year=2026, origin="card")

    def test_the_trace_names_every_factor(self) -> None:
        found = burn(NOW, fuel="DIESEL", amount=1.0, unit="t", year=2026, origin="card 17")
        origins = [one.origin for one in found.figure.inputs]
        assert origins[0] == "card 17"
        assert any("FUEL-DIESEL-NCV r1" in origin for origin in origins)
        assert {row.factor_id for row in found.used} == {"FUEL-DIESEL-NCV", "FUEL-DIESEL-CC", "FUEL-DIESEL-OX"}

    @given(amount=st.floats(0, 1e9), parts=st.integers(1, 9))
    def test_parts_emit_what_the_whole_emits(self, amount: float, parts: int) -> None:
        whole = burn(NOW, fuel="DIESEL", amount=amount, unit="kg", year=2026, origin="x").figure.value
        part = burn(NOW, fuel="DIESEL", amount=amount / parts, unit="kg", year=2026, origin="x").figure.value
        assert part is not None
        assert part * parts == pytest.approx(whole, rel=1e-12)


class TestRefrigerants:
    @pytest.mark.parametrize(
        ("edition", "blend", "gwp"),
        [
            # The rows of the library, computed there from the same components; 2088 is AR4 under a wrong name.
            (GwpSet.AR5, "R410A", 1923.5),
            (GwpSet.AR5, "R407C", 1624.2),
            (GwpSet.AR5, "R404A", 3942.8),
            (GwpSet.AR5, "R507A", 3985.0),
            (GwpSet.AR6, "R410A", 2255.5),
            (GwpSet.AR6, "R407C", 1907.9),
            (GwpSet.AR6, "R404A", 4728.0),
            (GwpSet.AR6, "R507A", 4775.0),
        ],
    )
    def test_blends_are_computed_from_their_components(self, edition: GwpSet, blend: str, gwp: float) -> None:
        known = Knowledge(LIBRARY, date(2026, 11, 21), gwp_set=edition)
        one_kg = escaped(known, gas=blend, loss=TopUp(added=1), origin="service book")
        assert one_kg.figure.value == pytest.approx(gwp, abs=0.06)

    def test_the_mass_balance_counts_stock_and_charge(self) -> None:
        balance = MassBalance(
            opening_stock=20, purchased=50, sold_or_returned=5, closing_stock=25, increase_of_charge=30
        )
        assert balance.loss_kg() == 10
        found = escaped(NOW, gas="R410A", loss=balance, origin="service book")
        assert found.figure.value == pytest.approx(19_235)
        assert found.by_gas == {"R32": pytest.approx(3385), "R125": pytest.approx(15_850)}

    def test_a_balance_that_makes_gas_is_refused(self) -> None:
        balance = MassBalance(opening_stock=1, purchased=0, sold_or_returned=0, closing_stock=2)
        with pytest.raises(ImplausibleBalance, match="found -1 kg"):
            balance.loss_kg()

    def test_a_leak_rate_is_marked_as_an_estimate(self) -> None:
        found = escaped(NOW, gas="R32", loss=LeakRate(charge_kg=100, rate_per_year=0.05, years=1), origin="list")
        assert found.figure.value == pytest.approx(5 * 677)
        assert Mark.ESTIMATE in found.figure.marks
        topped_up = escaped(NOW, gas="R32", loss=TopUp(added=5), origin="book")
        assert Mark.ESTIMATE not in topped_up.figure.marks

    def test_a_montreal_gas_is_a_memo_item_unless_asked(self) -> None:
        enabled = Knowledge(LIBRARY, date(2026, 11, 21), frozenset({"GWP-AR5-R22"}), GwpSet.AR5)
        outside = escaped(enabled, gas="R22", loss=TopUp(added=2), origin="book")
        inside = escaped(enabled, gas="R22", loss=TopUp(added=2), origin="book", include_montreal_gases=True)
        assert (outside.figure.value, outside.memo_kg_co2e) == (0.0, 3520)
        assert (inside.figure.value, inside.memo_kg_co2e) == (3520, 0.0)
        assert Mark.MONTREAL_GAS in outside.figure.marks & inside.figure.marks

    def test_a_montreal_gas_whose_potential_nobody_vouches_for_is_unknown_and_not_zero(self) -> None:
        assert escaped(NOW, gas="R22", loss=TopUp(added=2), origin="book").memo_kg_co2e is None


class TestHeat:
    def test_heat_by_gigajoule_and_by_kilowatt_hour_agree(self) -> None:
        # 0.11 tCO2/GJ; 0.396 kgCO2 per kWh of heat (HEAT-CN-DEFAULT-KWH).
        gj = purchased_heat(NOW, amount=1.0, unit="GJ", year=2026, place=SICHUAN, origin="bill")
        kwh = purchased_heat(NOW, amount=1.0, unit="kWh", year=2026, place=SICHUAN, origin="meter")
        assert gj.figure.value == pytest.approx(110)
        assert kwh.figure.value == pytest.approx(0.396)

    def test_steam_and_hot_water_become_heat(self) -> None:
        assert steam_heat_gj(10, enthalpy_kj_per_kg=2763.7, feed_water_kj_per_kg=83.74) == pytest.approx(26.7996)
        assert hot_water_heat_gj(10, temperature_c=80) == pytest.approx(2.51208)
        with pytest.raises(InvalidInput):
            hot_water_heat_gj(10, temperature_c=10)

    def test_cold_is_the_electricity_that_it_took(self) -> None:
        found = purchased_cold(NOW, cold_kwh=4000, cop=4.0, year=2023, place=SICHUAN, origin="meter")
        assert found.figure.value == pytest.approx(1000 * 0.1564)
        assert Mark.ESTIMATE in found.figure.marks

    def test_heat_in_tonnes_is_refused(self) -> None:
        with pytest.raises(WrongUnit, match="heat: expected an energy"):
            purchased_heat(NOW, amount=1.0, unit="t", year=2026, place=SICHUAN, origin="bill")


class TestActivity:
    def test_rain_water_is_the_figure_of_source_003(self) -> None:
        # Source 003, item 6: 6 m3 x 150 days x 0.194 = 174.6 kg.
        found = activity(
            NOW, series="WATER-SOURCE-003", amount=900.0, unit="t", year=2022, place=SICHUAN, origin="source 003"
        )
        assert found.figure.value == pytest.approx(174.6)

    def test_a_life_cycle_factor_serves_the_value_chain(self) -> None:
        found = activity(NOW, series="CFP-ELEC-CN", amount=1.0, unit="MWh", year=2024, place=SICHUAN, origin="meter")
        assert found.figure.value == pytest.approx(577.7)

    def test_what_others_did_not_emit_is_no_emission(self) -> None:
        with pytest.raises(WrongFamily, match="WASTE-RECYCLE-SOURCE-003 is of family avoided"):
            activity(
                NOW, series="WASTE-RECYCLE-SOURCE-003", amount=1.0, unit="t", year=2022, place=SICHUAN, origin="bin"
            )
        found = activity(
            NOW,
            series="WASTE-RECYCLE-SOURCE-003",
            amount=1000.0,
            unit="kg",
            year=2022,
            place=SICHUAN,
            origin="source 003",
            use=Use.AVOIDED,
        )
        # Source 003, item 7: 1000 kg x 2.06 = 2060 kg.
        assert found.figure.value == pytest.approx(2060)

    def test_a_wrong_unit_is_refused_with_both(self) -> None:
        with pytest.raises(WrongUnit, match="converts to t, found 'kWh'"):
            activity(NOW, series="WATER-SOURCE-003", amount=1.0, unit="kWh", year=2022, place=SICHUAN, origin="x")


@given(
    amount=st.floats(0, 1e12),
    pair=st.sampled_from([("kg", "t"), ("kWh", "GJ"), ("m3@20C", "1e4Nm3"), ("TJ", "MJ")]),
)
def test_units_convert_there_and_back(amount: float, pair: tuple[str, str]) -> None:
    assert convert(convert(amount, pair[0], pair[1]), pair[1], pair[0]) == pytest.approx(amount, rel=1e-12)
