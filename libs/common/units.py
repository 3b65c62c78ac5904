"""Units: how to write them, and how to get from any accepted one to a point's canonical unit.

Conversion happens once, at the edge where a number comes in. Each unit is a quantity (its dimension), a
factor and, for temperatures, an offset: ``base = value * factor + offset``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from libs.common.errors import InvalidInput


class UnknownUnit(InvalidInput):
    """A unit is not known, or does not measure what is wanted."""

    code = "unknown_unit"
    title_zh = "单位无法识别"


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit of one dimension."""

    symbol: str
    """As it is written here, canonical spelling."""
    dimension: str
    factor: Decimal
    """What one of it is in the dimension's base unit."""
    offset: Decimal = Decimal(0)
    """Added after the factor."""


_GJ_KWH = Decimal(10**9) / Decimal(3_600_000)
_TABLE: tuple[tuple[str, str, str | Decimal], ...] = (
    # dimension, symbol, factor to the base unit (the first of its dimension)
    ("voltage", "V", "1"),
    ("voltage", "mV", "0.001"),
    ("voltage", "kV", "1000"),
    ("current", "A", "1"),
    ("current", "mA", "0.001"),
    ("current", "kA", "1000"),
    ("active power", "kW", "1"),
    ("active power", "W", "0.001"),
    ("active power", "MW", "1000"),
    ("reactive power", "kvar", "1"),
    ("reactive power", "var", "0.001"),
    ("reactive power", "Mvar", "1000"),
    ("apparent power", "kVA", "1"),
    ("apparent power", "VA", "0.001"),
    ("apparent power", "MVA", "1000"),
    ("energy", "kWh", "1"),
    ("energy", "Wh", "0.001"),
    ("energy", "MWh", "1000"),
    ("energy", "GWh", "1000000"),
    ("energy", "J", Decimal(1) / Decimal(3_600_000)),
    ("energy", "kJ", Decimal(1) / Decimal(3600)),
    ("energy", "MJ", Decimal(1000) / Decimal(3600)),
    ("energy", "GJ", _GJ_KWH),
    ("reactive energy", "kvarh", "1"),
    ("reactive energy", "varh", "0.001"),
    ("reactive energy", "Mvarh", "1000"),
    ("frequency", "Hz", "1"),
    ("frequency", "mHz", "0.001"),
    ("frequency", "kHz", "1000"),
    ("volume", "m3", "1"),
    ("volume", "L", "0.001"),
    ("flow", "m3/h", "1"),
    ("flow", "L/h", "0.001"),
    ("flow", "L/min", "0.06"),
    ("flow", "L/s", "3.6"),
    ("flow", "m3/s", "3600"),
    ("time", "h", "1"),
    ("time", "min", Decimal(1) / Decimal(60)),
    ("time", "s", Decimal(1) / Decimal(3600)),
    ("time", "ms", Decimal(1) / Decimal(3_600_000)),
    ("time", "d", "24"),
    ("ratio", "1", "1"),
    ("ratio", "%", "0.01"),
    ("ratio", "‰", "0.001"),
    ("pressure", "hPa", "1"),
    ("pressure", "Pa", "0.01"),
    ("pressure", "kPa", "10"),
    ("pressure", "bar", "1000"),
    ("pressure", "mbar", "1"),
    ("illuminance", "lx", "1"),
    ("illuminance", "klx", "1000"),
    ("share of volume", "ppm", "1"),
    ("share of volume", "ppb", "0.001"),
    ("concentration", "mg/m3", "1"),
    ("concentration", "ug/m3", "0.001"),
    ("level in mW", "dBm", "1"),
    ("level", "dB", "1"),
    ("mass", "t", "1"),
    ("mass", "kg", "0.001"),
    ("mass", "g", "0.000001"),
)

UNITS: Mapping[str, Unit] = {
    **{symbol: Unit(symbol, dimension, Decimal(factor)) for dimension, symbol, factor in _TABLE},
    "degC": Unit("degC", "temperature", Decimal(1)),
    "K": Unit("K", "temperature", Decimal(1), Decimal("-273.15")),
    "degF": Unit("degF", "temperature", Decimal(5) / Decimal(9), Decimal(-160) / Decimal(9)),
}
"""Every unit by its symbol."""

_SPELLINGS: Mapping[str, str] = {
    "℃": "degC",
    "°C": "degC",
    "C": "degC",
    "Cel": "degC",
    "℉": "degF",
    "°F": "degF",
    "F": "degF",
    "度": "kWh",
    "千瓦时": "kWh",
    "兆瓦时": "MWh",
    "KWH": "kWh",
    "kwh": "kWh",
    "KW": "kW",
    "kw": "kW",
    "千瓦": "kW",
    "Var": "var",
    "VAr": "var",
    "VAR": "var",
    "kVar": "kvar",
    "kVAr": "kvar",
    "KVAR": "kvar",
    "kVarh": "kvarh",
    "kVArh": "kvarh",
    "KVARH": "kvarh",
    "Varh": "varh",
    "VArh": "varh",
    "KVA": "kVA",
    "kva": "kVA",
    "伏": "V",
    "安": "A",
    "m³": "m3",
    "m^3": "m3",
    "立方米": "m3",
    "m³/h": "m3/h",
    "m^3/h": "m3/h",
    "l": "L",
    "升": "L",
    "μg/m3": "ug/m3",
    "µg/m3": "ug/m3",
    "μg/m³": "ug/m3",
    "µg/m³": "ug/m3",
    "ug/m³": "ug/m3",
    "mg/m³": "mg/m3",
    "lux": "lx",
    "percent": "%",
    "％": "%",
    "hz": "Hz",
    "HZ": "Hz",
    "": "1",
    "吨": "t",
}
"""Other ways of writing a unit that the sources use; capitals are meant: mW and MW differ."""


def unit_of(text: str) -> Unit:
    """Return the unit that a text names.

    Raises:
        UnknownUnit: There is no such unit.
    """
    name = text.strip()
    unit = UNITS.get(_SPELLINGS.get(name, name))
    if unit is None:
        raise UnknownUnit(
            f"unit {text!r} is not known",
            message_zh=f"无法识别单位 {text!r}",
            unit=text,
        )
    return unit


def convert(value: float, unit: str, wanted: str) -> float:
    """Return ``value`` given in ``unit`` as a number in ``wanted``.

    The arithmetic is decimal, so that a conversion there and back gives the number again and 2301 mV does
    not gain digits.

    Raises:
        UnknownUnit: One of the units is not known, or they measure different things; it names both.
    """
    source, target = _pair(unit, wanted)
    if source is target or not math.isfinite(value):
        return value
    base = Decimal(repr(float(value))) * source.factor + source.offset
    return float((base - target.offset) / target.factor)


def _pair(unit: str, wanted: str) -> tuple[Unit, Unit]:
    """Return both units.

    Raises:
        UnknownUnit: One is not known, or they measure different things.
    """
    try:
        source, target = unit_of(unit), unit_of(wanted)
    except UnknownUnit as exc:
        raise UnknownUnit(
            f"cannot convert unit {unit!r} to {wanted!r}: {exc.message}",
            message_zh=f"单位 {unit!r} 无法换算为 {wanted!r}:{exc.message_zh}",
            unit=unit,
            wanted=wanted,
        ) from exc
    if source.dimension != target.dimension:
        raise UnknownUnit(
            f"cannot convert unit {unit!r} ({source.dimension}) to {wanted!r} ({target.dimension})",
            message_zh=f"单位 {unit!r} 与 {wanted!r} 量纲不同,无法换算",
            unit=unit,
            wanted=wanted,
        )
    return source, target
