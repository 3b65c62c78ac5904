"""Comprehensive energy consumption of an inventory's boundary, from the same lines as its emissions.

Counted is what is bought or burnt: electricity, heat, steam and fuels of scopes 1 and 2, as shares and spans of the
boundary have them. What one's own plant makes is no purchase. Natural gas has a range of printed values, so it counts
by its measured heat value alone, and purchased cold has no coefficient: such a line is unknown and named.

Source:
    GB/T 2589-2020, clauses 4 to 6.
"""

from collections.abc import Sequence

from services.carbon.domain.coal import KJ_PER_KGCE, CoalCoefficient, CoalTable, CoalTotal, EnergyUse
from services.carbon.domain.emissions.knowledge import product
from services.carbon.domain.emissions.units import convert, kind_of
from services.carbon.domain.inventory.categories import Scope
from services.carbon.domain.inventory.compute import Line
from services.carbon.domain.inventory.sources import (
    ColdUse,
    ElectricityUse,
    FuelUse,
    HeatUse,
    HotWaterUse,
    Inputs,
    SteamUse,
)

ELECTRICITY, HEAT, KGCE = "ELEC-EQ", "HEAT-EQ", "TCE-ENERGY"
COEFFICIENTS = {
    "DIESEL": "DIESEL",
    "PETROL": "PETROL",
    "KEROSENE": "KEROSENE",
    "LPG": "LPG",
    "LNG": "LNG",
    "CRUDE": "CRUDE",
    "FUELOIL": "FUEL-OIL",
    "COALTAR": "COAL-TAR",
    "RAWCOAL": "RAW-COAL",
    "COKE": "COKE",
}
"""Fuels as the factor library names them, to their coefficients per kilogram."""
KJ_PER_GJ = 1e6
MJ_PER_GJ = 1e3


def coal_of(inputs: Inputs, lines: Sequence[Line], coefficients: Sequence[CoalCoefficient]) -> CoalTotal:
    """Return the comprehensive consumption of a boundary, electricity at its equivalent value. [kgce]

    Args:
        inputs: Of the inventory; what a person enabled counts for coefficients too.
        lines: As computed.
        coefficients: As shipped.
    """
    table = CoalTable(coefficients, enabled=frozenset(one.factor_id for one in inputs.enabled))
    bought = [line for line in lines if line.category.scope in (Scope.DIRECT, Scope.ENERGY)]
    return table.total([use for line in bought for use in _uses(line)])


def _uses(line: Line) -> list[EnergyUse]:
    use, origin = line.source.activity, f"line {line.source.line_id}"
    match use:
        case ElectricityUse():
            return [EnergyUse(coeff_id=ELECTRICITY, amount=use.imported_kwh, unit="kWh", origin=origin)]
        case HeatUse() | SteamUse() | HotWaterUse():
            gj = line.location.facts["heat_gj"]
            return [EnergyUse(coeff_id=HEAT, amount=product(gj, MJ_PER_GJ), unit="MJ", origin=origin)]
        case ColdUse():
            return [EnergyUse(coeff_id=KGCE, amount=None, unit="kgce", origin=f"{origin}: cold has no coefficient")]
        case FuelUse():
            return [_fuel(use, origin)]
        case _:
            return []


def _fuel(use: FuelUse, origin: str) -> EnergyUse:
    kind, mass_kg = kind_of(use.unit), _mass_kg(use)
    gj: float | None = None
    if use.amount is not None and kind == "energy":
        gj = convert(use.amount, use.unit, "GJ")
    elif use.amount is not None and use.ncv is not None and kind == "gas":
        gj = convert(use.amount, use.unit, "1e4Nm3") * use.ncv
    elif mass_kg is not None and use.ncv is not None:
        gj = mass_kg / 1e3 * use.ncv
    coefficient = COEFFICIENTS.get(use.fuel)
    if gj is None and coefficient is not None and kind in ("mass", "liquid"):
        return EnergyUse(coeff_id=coefficient, amount=mass_kg, unit="kg", origin=origin)
    kgce = None if gj is None else gj * KJ_PER_GJ / KJ_PER_KGCE
    return EnergyUse(coeff_id=KGCE, amount=kgce, unit="kgce", origin=f"{origin}: heat value / 29307.6 kJ per kgce")


def _mass_kg(use: FuelUse) -> float | None:
    """Return the mass of an amount, None where it is unknown or no ticket tells the density. [kg]"""
    if use.amount is None:
        return None
    if kind_of(use.unit) == "mass":
        return convert(use.amount, use.unit, "kg")
    if kind_of(use.unit) == "liquid" and use.density_kg_per_l is not None:
        return convert(use.amount, use.unit, "L") * use.density_kg_per_l
    return None
