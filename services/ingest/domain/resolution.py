"""How finely a number is kept: as finely as a meter can mean it, and no finer.

A register of whole numbers has the step of its scale and is left as it is. A register of floats comes with digits
that no meter measures and that no compression can shorten; it is rounded to the step that meters of whole numbers
commonly show for the unit. What a program sends keeps the digits that it has.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from libs.common.points import PointKind
from libs.common.profiles import DeviceProfile, ModbusPoint

DECIMALS: Mapping[str, int] = {
    "V": 1, "A": 2, "kW": 3, "kvar": 3, "kVA": 3, "Hz": 2, "%": 1, "degC": 1, "kWh": 2, "kvarh": 2, "m3": 2,
}  # fmt: skip
"""Digits behind the point, by canonical unit; a unit that is not here is not rounded."""
POWER_FACTOR_DECIMALS = 3
SMALL = 0.1
"""A number below it keeps one digit more: a lamp of 15.2 W is not one of 15 W."""
LARGE = 1e9
"""A larger number is not rounded: it has no digits behind the point that mean anything."""


def rounded(values: npt.NDArray[np.float64], decimals: int) -> npt.NDArray[np.float64]:
    """Return values with so many digits behind the point; NaN stays NaN."""
    size = np.abs(values)
    with np.errstate(over="ignore"):
        coarse, fine = np.round(values, decimals), np.round(values, decimals + 1)
    return np.where(size < SMALL, fine, np.where(size < LARGE, coarse, values))


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
