"""Conversion of units."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import InvalidInput
from libs.common.points import POINTS
from libs.common.units import UNITS, Unit, UnknownUnit, convert, unit_of

SAME = [(a, b) for a in UNITS.values() for b in UNITS.values() if a.dimension == b.dimension]


@pytest.mark.parametrize(
    ("value", "unit", "wanted", "expected"),
    [
        (2301.0, "mV", "V", 2.301),
        (10.0, "kV", "V", 10000.0),
        (12345.0, "mA", "A", 12.345),
        (962.0, "W", "kW", 0.962),
        (1.5, "MW", "kW", 1500.0),
        (1234.5, "Wh", "kWh", 1.2345),
        (1.0, "MWh", "kWh", 1000.0),
        (3.6, "MJ", "kWh", 1.0),
        (1.0, "GJ", "kWh", 277.77777777777777),  # 1 GJ = 10^9 J, 1 kWh = 3.6 x 10^6 J
        (1500.0, "var", "kvar", 1.5),
        (2.0, "kvar", "var", 2000.0),
        (1500.0, "VA", "kVA", 1.5),
        (250.0, "L", "m3", 0.25),
        (60.0, "L/min", "m3/h", 3.6),
        (212.0, "degF", "degC", 100.0),
        (-40.0, "degF", "degC", -40.0),
        (0.0, "K", "degC", -273.15),
        (25.0, "degC", "K", 298.15),
        (1013.25, "hPa", "Pa", 101325.0),
        (0.5, "1", "%", 50.0),
        (90.0, "min", "h", 1.5),
        (50000.0, "mHz", "Hz", 50.0),
        (-3.5, "W", "kW", -0.0035),
        (0.1, "kWh", "kWh", 0.1),
    ],
)
def test_known_conversions(value: float, unit: str, wanted: str, expected: float) -> None:
    assert convert(value, unit, wanted) == expected


@pytest.mark.parametrize(
    ("text", "symbol"),
    [
        ("℃", "degC"),
        ("℉", "degF"),
        ("°C", "degC"),
        ("度", "kWh"),
        ("Var", "var"),
        ("kVar", "kvar"),
        ("m³", "m3"),
        ("KWH", "kWh"),
        (" kW ", "kW"),
        ("μg/m³", "ug/m3"),
        ("", "1"),
        ("％", "%"),
    ],
)
def test_spellings_of_the_sources_are_understood(text: str, symbol: str) -> None:
    assert unit_of(text).symbol == symbol


def test_milli_and_mega_are_not_confused() -> None:
    with pytest.raises(UnknownUnit):
        unit_of("mw")
    assert convert(1, "mA", "A") == 0.001
    assert convert(1, "MW", "W") == 1e6


def test_every_canonical_unit_converts_to_itself() -> None:
    for point in POINTS.values():
        assert convert(12.5, point.unit, point.unit) == 12.5


@pytest.mark.parametrize(
    ("unit", "wanted"),
    [
        ("kW", "kWh"),
        ("V", "A"),
        ("kvar", "kW"),
        ("kVA", "kW"),
        ("t", "m3"),
        ("furlong", "V"),
        ("V", "furlong"),
        ("K", "%"),
    ],
)
def test_what_cannot_be_converted_names_both_units(unit: str, wanted: str) -> None:
    with pytest.raises(UnknownUnit) as caught:
        convert(1.0, unit, wanted)
    for text in (caught.value.message, caught.value.message_zh or ""):
        assert repr(unit) in text
        assert repr(wanted) in text
    assert isinstance(caught.value, InvalidInput)
    assert caught.value.facts["unit"] == unit
    assert caught.value.facts["wanted"] == wanted


@given(pair=st.sampled_from(SAME), value=st.floats(-1e12, 1e12, allow_subnormal=False))
def test_conversion_there_and_back_gives_the_value_again(pair: tuple[Unit, Unit], value: float) -> None:
    unit, wanted = (u.symbol for u in pair)
    back = convert(convert(value, unit, wanted), wanted, unit)
    # Temperatures lose digits near 0 of the other scale, as any sum of a large and a small number does.
    assert math.isclose(back, value, rel_tol=1e-12, abs_tol=1e-9)


@given(pair=st.sampled_from([(a, b) for a, b in SAME if a.dimension != "temperature"]), value=st.floats(1e-6, 1e12))
def test_sign_and_order_survive(pair: tuple[Unit, Unit], value: float) -> None:
    unit, wanted = (u.symbol for u in pair)
    assert convert(-value, unit, wanted) == -convert(value, unit, wanted)
    assert convert(value * 2, unit, wanted) > convert(value, unit, wanted) > 0


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinity_stays_what_it_is(value: float) -> None:
    assert convert(value, "W", "kW") == value
    assert math.isnan(convert(math.nan, "W", "kW"))
