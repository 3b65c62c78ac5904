"""Fuels that are burnt.

    E_CO2 = energy · CC · OF · 44/12, energy = amount · NCV
    E_CH4 = energy · EF_CH4 · GWP, E_N2O likewise

Source:
    GB/T 32151 and the MEE corporate accounting guidelines (default NCV, CC, OF); IPCC 2006 Guidelines vol. 2,
    table 2.4 (CH4, N2O).
"""

import math

from libs.common.errors import InvalidInput
from services.carbon.domain.emissions.knowledge import Chosen, Emission, Knowledge, product
from services.carbon.domain.emissions.units import WrongUnit, convert, kind_of, not_negative
from services.carbon.domain.factors import Choice, Place, Use
from services.carbon.domain.figures import Mark

CO2_PER_C = 44 / 12
"""Molar mass of carbon dioxide over that of carbon. [1]"""
ANYWHERE = Place(None)
FORMULA = "E = amount * NCV * CC * OF * 44/12 (+ energy * EF_CH4 * GWP + energy * EF_N2O * GWP)"
SOURCE = "GB/T 32151; IPCC 2006 Guidelines vol. 2"


def burn(
    knowledge: Knowledge,
    *,
    fuel: str,
    amount: float | None,
    unit: str,
    year: int,
    origin: str,
    place: Place = ANYWHERE,
    density_kg_per_l: float | None = None,
    ncv: float | None = None,
    biogenic_share: float = 0.0,
) -> Emission:
    """Return what a burnt fuel emitted.

    Args:
        knowledge: Factors as of a day.
        fuel: As the library names it: ``DIESEL``, ``PETROL``, ``NATGAS``, ``LPG``.
        amount: None where it is unknown. [unit]
        unit: ``kg``, ``t``, ``L`` (with a density), ``Nm3`` (0 °C), ``m3@20C``, ``1e4Nm3``, or ``GJ``.
        year: Civil year of burning.
        origin: Fuel card, stock balance, meter.
        place: Where; a province may have factors of its own.
        density_kg_per_l: From the delivery ticket; without it the library's, if a person enabled that. [kg/L]
        ncv: Measured, in the unit of the library's: GJ/t, or GJ/1e4Nm3 for gases.
        biogenic_share: Share of the energy from biomass; its carbon dioxide is in no total. [1]

    Raises:
        InvalidInput: A negative amount, a share outside 0 to 1, or a unit that the fuel is not measured in.
    """
    not_negative(f"{fuel}: amount", amount)
    not_negative(f"{fuel}: density", density_kg_per_l)
    not_negative(f"{fuel}: net calorific value", ncv)
    if not 0 <= biogenic_share <= 1:
        raise InvalidInput(
            f"biogenic share: expected 0 to 1, found {biogenic_share}",
            message_zh=f"生物质比例:应在 0 到 1 之间,实际为 {biogenic_share}",
        )
    chosen = Chosen()
    chosen.given("amount", amount, unit, origin)

    def parameter(name: str) -> float | None:
        found = knowledge.choose(f"FUEL-{fuel}-{name}", use=Use.COMBUSTION, place=place, year=year)
        return chosen.take(name, found)

    energy_gj = _energy_gj(chosen, knowledge, fuel, amount, unit, year, place, density_kg_per_l, ncv)
    co2 = product(energy_gj, parameter("CC"), parameter("OX"), CO2_PER_C, 1e3)
    fossil = product(co2, 1 - biogenic_share)
    biogenic = product(co2, biogenic_share)
    by_gas: dict[str, float | None] = {"CO2": fossil}
    more: set[Mark] = set()
    # Well under one per cent of the total: the figure stands without them, and says so (ISO 14064-1, 5.2.3).
    for gas, substance in (("CH4", "CH4-FOSSIL"), ("N2O", "N2O")):
        per_tj = knowledge.choose(f"FUEL-{fuel}-{gas}", use=Use.COMBUSTION, place=place, year=year, unit=f"kg{gas}/TJ")
        warming = knowledge.warming(substance)
        trace = Chosen()
        kg = product(energy_gj, 1e-3, trace.take(f"EF_{gas}", per_tj), trace.take(f"GWP_{gas}", warming))
        if trace.absent:
            more.add(Mark.METHANE_NOT_QUANTIFIED)
            chosen.absent += trace.absent
            continue
        chosen.used += trace.used
        chosen.inputs += trace.inputs
        chosen.marks |= trace.marks
        by_gas[gas] = kg
    parts = list(by_gas.values())
    total = None if any(part is None for part in parts) else math.fsum(part for part in parts if part is not None)
    emission = chosen.emission(by_gas, total, FORMULA, SOURCE, more)
    return Emission(
        emission.figure,
        emission.by_gas,
        emission.used,
        emission.absent,
        biogenic_kg_co2=biogenic if biogenic_share else 0.0,
    )


def _energy_gj(
    chosen: Chosen,
    knowledge: Knowledge,
    fuel: str,
    amount: float | None,
    unit: str,
    year: int,
    place: Place,
    density_kg_per_l: float | None,
    ncv: float | None,
) -> float | None:
    """Return the heat of an amount of fuel. [GJ]"""
    if kind_of(unit) == "energy":
        return None if amount is None else convert(amount, unit, "GJ")
    found = knowledge.choose(f"FUEL-{fuel}-NCV", use=Use.COMBUSTION, place=place, year=year)
    expected = found.factor.unit if isinstance(found, Choice) else _ncv_unit(unit)
    if ncv is not None:
        chosen.given("NCV", ncv, expected, "measured")
        heat = ncv
    else:
        heat_found = chosen.take("NCV", found)
        if heat_found is None:
            return None
        heat = heat_found
    base = expected.removeprefix("GJ/")
    if kind_of(unit) == "liquid" and base == "t":
        density = density_kg_per_l
        if density is not None:
            chosen.given("density", density, "kg/L", "delivery ticket")
        else:
            density = chosen.take(
                "density", knowledge.choose(f"FUEL-{fuel}-DENSITY", use=Use.COMBUSTION, place=place, year=year)
            )
        mass_kg = product(amount, density)
        return product(mass_kg, 1e-3, heat)
    if kind_of(unit) != kind_of(base):
        raise WrongUnit(
            f"{fuel}: expected an amount that converts to {base}, found {unit!r}",
            message_zh=f"{fuel}:数量单位应能换算为 {base},实际为 {unit!r}",
            unit=unit,
            expected=base,
        )
    return None if amount is None else convert(amount, unit, base) * heat


def _ncv_unit(unit: str) -> str:
    return "GJ/1e4Nm3" if kind_of(unit) == "gas" else "GJ/t"
