"""What else than electricity flows through a circuit: which registers say so, and in which unit.

A register of water or heat becomes intervals as one of electricity does. Other media are never summed with it: a
quantity has its unit, and becomes energy only by a conversion that somebody can name. The unit of a gas says its
reference condition (20 °C or 0 °C, 101.325 kPa), or a bare ``m3`` that nobody may convert.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from libs.common.contracts.carbon import Medium


@dataclass(frozen=True, slots=True)
class MediumPoint:
    """A register of a medium."""

    point: str
    """Canonical name of the register."""
    medium: Medium
    unit: str
    """Canonical unit of its intervals; of a gas with the reference condition where the register has one."""


MEDIA: Final[Mapping[str, MediumPoint]] = {
    one.point: one
    for one in (
        MediumPoint("water_volume", Medium.WATER, "m3"),
        MediumPoint("gas_volume", Medium.GAS, "m3"),
        MediumPoint("gas_volume_standard", Medium.GAS, "m3@20C"),
        MediumPoint("gas_volume_normal", Medium.GAS, "Nm3"),
        MediumPoint("heat_energy", Medium.HEAT, "kWh"),
        MediumPoint("cold_energy", Medium.COLD, "kWh"),
        MediumPoint("steam_mass", Medium.STEAM, "t"),
        MediumPoint("fuel_volume", Medium.FUEL, "m3"),
        MediumPoint("fuel_mass", Medium.FUEL, "t"),
    )
}
"""Every register that is booked, by its point."""

_COUNTED_BESIDE: Final = {
    "water_volume": frozenset({"heat_energy", "cold_energy"}),
    "gas_volume": frozenset({"gas_volume_standard", "gas_volume_normal"}),
    "gas_volume_standard": frozenset({"gas_volume_normal"}),
    "fuel_volume": frozenset({"fuel_mass"}),
}
"""Registers that are no consumption of their own in a report that has one of the others."""


def consumed(points: Collection[str]) -> list[MediumPoint]:
    """Return the registers of a report that say what was consumed.

    The water that passes a heat meter comes back; a gas meter with a corrector tells one volume twice; a fuel meter
    that weighs tells volume and mass of one fuel. Points that are there and have no value stand in the way as well.
    """
    return [
        one
        for point, one in MEDIA.items()
        if point in points and not _COUNTED_BESIDE.get(point, frozenset()) & {*points}
    ]
