"""How finely a number is kept: as finely as its device shows it, and no finer.

A register of whole numbers has the step of its scale. A register of floats comes with digits that no meter measures
and that no compression can shorten; it is rounded to the finest step that any meter of whole numbers shows for the
unit. What a program sends keeps the digits that it has.
"""

from collections.abc import Mapping

from libs.common.points import PointKind
from libs.common.profiles import DeviceProfile, ModbusPoint

DECIMALS: Mapping[str, int] = {
    "V": 2, "A": 3, "kW": 4, "kvar": 4, "kVA": 4, "Hz": 2, "%": 2, "degC": 2, "kWh": 3, "kvarh": 3, "m3": 3,
}  # fmt: skip
"""Digits behind the point, by canonical unit; a unit that is not here is not rounded."""
POWER_FACTOR_DECIMALS = 3


def rounded_points(profile: DeviceProfile) -> Mapping[str, int]:
    """Return the points of a profile that are rounded, with the digits that they keep behind the point."""
    found: dict[str, int] = {}
    for name, point in profile.points.items():
        if not isinstance(point, ModbusPoint) or not point.type.is_float or point.canonical is None:
            continue
        if name.startswith("power_factor"):
            found[name] = POWER_FACTOR_DECIMALS
        elif point.unit in DECIMALS and point.canonical.kind in (PointKind.GAUGE, PointKind.COUNTER):
            found[name] = DECIMALS[point.unit]
    return found
