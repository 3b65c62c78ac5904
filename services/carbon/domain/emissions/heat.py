"""Purchased heat, steam, hot water and cold.

    heat    E = Q · EF
    steam   Q = m · (h − h_feed) / 1000
    water   Q = m · (T − 20 °C) · 4.1868 / 1000
    cold    E = Q / COP · EF_grid, where the supplier states no factor

Source:
    MEE corporate accounting guidelines (0.11 tCO2/GJ, conversion of steam and hot water).
"""

from dataclasses import replace

from libs.common.errors import InvalidInput
from services.carbon.domain.emissions.electricity import grid_factor
from services.carbon.domain.emissions.knowledge import Chosen, Emission, Knowledge, product
from services.carbon.domain.emissions.units import WrongUnit, convert, kind_of, not_negative
from services.carbon.domain.factors import Place, Use
from services.carbon.domain.figures import Mark

DEFAULT_SERIES = "HEAT-CN-DEFAULT"
FEED_WATER_SERIES = "HEAT-ENTHALPY-FEEDWATER"
WATER_KJ_PER_KG_K = 4.1868
"""Heat capacity of water. [kJ/(kg K)]"""
COLD_WATER_C = 20.0
"""What hot water is counted from. [°C]"""
SOURCE = "MEE corporate accounting guidelines, purchased heat"


def purchased_heat(
    knowledge: Knowledge,
    *,
    amount: float | None,
    unit: str,
    year: int,
    place: Place,
    origin: str,
    supplier: str | None = None,
) -> Emission:
    """Return what purchased heat emitted; a supplier's factor with evidence comes before the default.

    ``facts`` has ``heat_gj``.

    Raises:
        InvalidInput: A negative amount, or a unit that is none of energy.
    """
    not_negative("heat", amount)
    if kind_of(unit) != "energy":
        raise WrongUnit(
            f"heat: expected an energy such as GJ or kWh, found {unit!r}",
            message_zh=f"热量:单位应为 GJ、kWh 等能量单位,实际为 {unit!r}",
            unit=unit,
        )
    chosen = Chosen()
    chosen.given("heat", amount, unit, origin)
    gj = None if amount is None else convert(amount, unit, "GJ")
    return _of_heat(knowledge, chosen, gj, "E = Q * EF", year, place, supplier)


def purchased_steam(
    knowledge: Knowledge,
    *,
    mass_t: float | None,
    enthalpy_kj_per_kg: float,
    year: int,
    place: Place,
    origin: str,
    supplier: str | None = None,
) -> Emission:
    """Return what purchased steam emitted, by the heat that it holds above its feed water; ``facts`` has ``heat_gj``.

    Raises:
        InvalidInput: A negative mass, or steam that holds less heat than its water.
    """
    not_negative("steam", mass_t)
    chosen = Chosen()
    chosen.given("m", mass_t, "t", origin)
    chosen.given("h", enthalpy_kj_per_kg, "kJ/kg", "steam table")
    feed = chosen.take(
        "h_feed", knowledge.choose(FEED_WATER_SERIES, use=Use.HEAT, place=place, year=year, unit="kJ/kg")
    )
    gj = None
    if mass_t is not None and feed is not None:
        gj = steam_heat_gj(mass_t, enthalpy_kj_per_kg=enthalpy_kj_per_kg, feed_water_kj_per_kg=feed)
    return _of_heat(knowledge, chosen, gj, "E = m * (h - h_feed) / 1000 * EF", year, place, supplier)


def purchased_hot_water(
    knowledge: Knowledge,
    *,
    mass_t: float | None,
    temperature_c: float,
    year: int,
    place: Place,
    origin: str,
    supplier: str | None = None,
) -> Emission:
    """Return what purchased hot water emitted, by its heat above 20 °C; ``facts`` has ``heat_gj``.

    Raises:
        InvalidInput: A negative mass, or water below 20 °C.
    """
    not_negative("hot water", mass_t)
    chosen = Chosen()
    chosen.given("m", mass_t, "t", origin)
    chosen.given("T", temperature_c, "°C", origin)
    gj = None if mass_t is None else hot_water_heat_gj(mass_t, temperature_c=temperature_c)
    return _of_heat(knowledge, chosen, gj, "E = m * (T - 20) * 4.1868 / 1000 * EF", year, place, supplier)


def _of_heat(
    knowledge: Knowledge, chosen: Chosen, gj: float | None, formula: str, year: int, place: Place, supplier: str | None
) -> Emission:
    factor = chosen.take(
        "EF",
        knowledge.choose(DEFAULT_SERIES, use=Use.HEAT, place=place, year=year, unit="kgCO2/GJ", supplier=supplier),
    )
    total = product(gj, factor)
    return replace(chosen.emission({"CO2": total}, total, formula, SOURCE), facts={"heat_gj": gj})


def steam_heat_gj(mass_t: float, *, enthalpy_kj_per_kg: float, feed_water_kj_per_kg: float) -> float:
    """Return the heat of steam. [GJ]

    Args:
        mass_t: Steam delivered. [t]
        enthalpy_kj_per_kg: Of the steam at its pressure and temperature. [kJ/kg]
        feed_water_kj_per_kg: Of the water that it was made from, series ``HEAT-ENTHALPY-FEEDWATER``. [kJ/kg]

    Raises:
        InvalidInput: A negative mass, or steam that holds less heat than its water.
    """
    not_negative("steam", mass_t)
    not_negative("steam enthalpy above feed water", enthalpy_kj_per_kg - feed_water_kj_per_kg)
    return mass_t * (enthalpy_kj_per_kg - feed_water_kj_per_kg) / 1000


def hot_water_heat_gj(mass_t: float, *, temperature_c: float) -> float:
    """Return the heat of hot water. [GJ]

    Raises:
        InvalidInput: A negative mass, or water below 20 °C.
    """
    not_negative("hot water", mass_t)
    not_negative("temperature above 20 °C", temperature_c - COLD_WATER_C)
    return mass_t * (temperature_c - COLD_WATER_C) * WATER_KJ_PER_KG_K / 1000


def purchased_cold(
    knowledge: Knowledge, *, cold_kwh: float | None, cop: float, year: int, place: Place, origin: str
) -> Emission:
    """Return what purchased cold emitted, by the electricity that a plant of this COP takes for it.

    Args:
        knowledge: Factors as of a day.
        cold_kwh: None where it is unknown. [kWh of cold]
        cop: Coefficient of performance of the plant, a documented parameter. [1]
        year: Civil year.
        place: Where the plant is.
        origin: Meter or bill.

    Raises:
        InvalidInput: A negative amount, or a COP that is not above zero.
    """
    not_negative("cold", cold_kwh)
    if not cop > 0:
        raise InvalidInput(f"cop: expected more than 0, found {cop}", message_zh=f"COP:应大于 0,实际为 {cop}")
    chosen = Chosen()
    chosen.given("cold", cold_kwh, "kWh", origin)
    chosen.given("COP", cop, "1", "parameter")
    factor = chosen.take("EF", grid_factor(knowledge, place=place, year=year))
    total = product(cold_kwh, 1 / cop, factor)
    return chosen.emission({"CO2": total}, total, "E = Q / COP * EF_grid", SOURCE, {Mark.ESTIMATE})
