"""From what a device's registers said to a report: canonical points, units, ratios and quality flags.

A value that could not be read is not in the report; one that the device marks as "not measured" is null with
quality ``invalid``, and so is one that no number can hold once it is scaled. None of them ever becomes 0. Volts,
amperes and powers are put on the primary side; energy registers stay as the meter shows them, with the ratio beside
them (points.md, rule 7).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from libs.common.contracts.telemetry import Quality
from libs.common.points import POINTS, Quantity
from libs.common.profiles import DeviceProfile, Encoding, ModbusPoint, ProfilePoint
from services.ingest.domain.perprofile import PerProfile
from services.ingest.domain.registers import pattern

Convert = Callable[[float | int | None], tuple[float | None, bool]]
"""Raw number to a number in the canonical unit and whether the device said that it is one."""

NOTHING_TOLD: Mapping[str, Quality] = {}


@dataclass(frozen=True, slots=True)
class Ratios:
    """Transformer ratios of a device at the time of a report."""

    ct: float = 1.0
    pt: float = 1.0

    def of(self, quantity: Quantity) -> float:
        """Return what a secondary value of this quantity is multiplied with."""
        match quantity:
            case Quantity.VOLTAGE:
                return self.pt
            case Quantity.CURRENT:
                return self.ct
            case Quantity.POWER | Quantity.ENERGY:
                return self.ct * self.pt
            case Quantity.OTHER:
                return 1.0


UNITY = Ratios()
"""Of a device without transformers."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The points of one report."""

    points: dict[str, float | None] = field(default_factory=dict)
    quality: dict[str, Quality] = field(default_factory=dict)
    raw: dict[str, float] = field(default_factory=dict)
    """Numbers of bad points as they came."""
    energy_ratio: float | None = None
    """What energy registers still have to be multiplied with; None when nothing is left to do."""


class Normaliser:
    """Turns raw numbers of one profile's points into a report's points; made once per profile and used often."""

    def __init__(self, profile: DeviceProfile) -> None:
        self._profile = profile
        self._converts = {name: _convert(point) for name, point in profile.points.items()}
        self._copies = {name: point.copy_of for name, point in profile.points.items() if point.copy_of is not None}
        self._applies = profile.ratio_applies_to
        # Vendor points have no canonical quantity and are never multiplied.
        self._quantities = {
            name: POINTS[name].quantity if name in POINTS else Quantity.OTHER for name in profile.points
        }

    def measure(
        self, raw: Mapping[str, float | int | None], ratios: Ratios, told: Mapping[str, Quality] = NOTHING_TOLD
    ) -> Measured:
        """Return the points of a report.

        Args:
            raw: Raw number per point that was read; None where the registers held no number. Points that were
                not read are absent, and stay so.
            ratios: Of the device's transformers.
            told: What the protocol itself says of points; absent is good. A bad one keeps no number.
        """
        factors: dict[Quantity, float] = {}
        found = Measured()
        if ratios is not UNITY:
            factors = {quantity: ratios.of(quantity) for quantity in self._applies if quantity is not Quantity.ENERGY}
            found = Measured(energy_ratio=energy_ratio(self._profile, ratios))
        for name, number in raw.items():
            value, valid = self._converts[name](number)
            flag = told.get(name)
            factor = factors.get(self._quantities[name])
            if value is not None and factor is not None:
                value *= factor
            if not valid or value is None or not math.isfinite(value) or (flag is not None and flag.is_bad):
                found.points[name] = None
                found.quality[name] = flag if flag is not None and flag.is_bad else Quality.INVALID
                if number is not None and math.isfinite(number):
                    found.raw[name] = float(number)
                continue
            found.points[name] = value
            point = POINTS.get(name)
            if flag is not None:
                found.quality[name] = flag
            elif point is not None and not point.is_plausible(value):
                found.quality[name] = Quality.SUSPECT
        for name, source in self._copies.items():
            if source in found.points:
                found.points[name] = found.points[source]
                if source in found.quality:
                    found.quality[name] = found.quality[source]
        return found


class Normalisers(PerProfile[Normaliser]):
    """One normaliser per profile, however many devices have it: it is thirty kilobytes, and devices are many."""

    def __init__(self) -> None:
        """Prepare; none is made yet."""
        super().__init__(Normaliser)


def energy_ratio(profile: DeviceProfile, ratios: Ratios) -> float | None:
    """Return what energy registers still have to be multiplied with, None when nothing is left to do."""
    if Quantity.ENERGY not in profile.ratio_applies_to:
        return None
    ratio = ratios.of(Quantity.ENERGY)
    return None if ratio == 1.0 else ratio


def four_quadrant_power_factor(raw: float) -> float:
    """Return the power factor that Schneider's register codes over four quadrants.

    Source:
        Schneider PM5000 register list, power factor format 4Q_FP_PF: above 1 it is 2 - raw, below -1 it is -2 - raw.
    """
    if raw > 1.0:
        return 2.0 - raw
    return -2.0 - raw if raw < -1.0 else raw


def _convert(point: ProfilePoint) -> Convert:
    scale, offset = point.scale, point.offset
    mask, mapping = point.mask, point.value_map
    markers = point.invalid_raw if isinstance(point, ModbusPoint) else frozenset()
    type_ = point.type if isinstance(point, ModbusPoint) else None
    decode_factor = isinstance(point, ModbusPoint) and point.encoding is Encoding.SCHNEIDER_4Q_PF
    digits = _digits(scale)

    def convert(raw: float | int | None) -> tuple[float | None, bool]:
        if raw is None or not math.isfinite(raw):
            return None, False
        if markers and type_ is not None and pattern(raw, type_) in markers:
            return None, False
        if mask is not None:
            raw = int(raw) & mask
        if mapping is not None:
            mapped = mapping.get(raw)  # type: ignore[arg-type]  # 1.0 is found as 1, and 1.5 is no state
            return mapped, mapped is not None
        if decode_factor:
            raw = four_quadrant_power_factor(raw)
        value = raw * scale + offset
        # 2301 * 0.1 is 230.10000000000002: an integer register has the digits of its scale and no more.
        return (round(value, digits) if digits is not None and isinstance(raw, int) else value), True

    return convert


def _digits(scale: float) -> int | None:
    """Return the decimals of a scale that is a power of ten, None for any other."""
    exponent = round(math.log10(abs(scale))) if scale else 0
    return max(-exponent, 0) if math.isclose(abs(scale), 10.0**exponent) else None
