"""Packed reports: many points of one report as a short string of bytes, and back, many reports at a time.

A *layout* names the points of a body in order: gauges as 32-bit floats, then counters and whatever must not
lose a digit as 64-bit floats (above 131,072 kWh a 32-bit float steps by 0.016). NaN is "no value". What is
the same for thousands of reports of a device (profile, driver, ratios) is in the layout too and not in them.
Flags, when there are any, are one byte per point beside the body. A layout never changes; new points make a
new one.

Source:
    dry-runs.md 3.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from libs.common.contracts.telemetry import Quality
from libs.common.points import POINTS, PointKind

_EXACT_UNITS = frozenset({"kWh", "kvarh", "m3", "h"})
_SMALL_KINDS = frozenset({PointKind.GAUGE, PointKind.STATE})

QUALITY_CODES: Mapping[Quality, int] = {
    Quality.SUSPECT: 1,
    Quality.ESTIMATED: 2,
    Quality.SUBSTITUTED: 3,
    Quality.MANUAL: 4,
    Quality.CLOCK_SKEW: 5,
    Quality.INVALID: 6,
    Quality.STALE: 7,
    Quality.FROZEN: 8,
}
"""Stored; a number is never given to another flag. 0 is good or absent."""
QUALITY_NAMES: Mapping[int, Quality] = {code: flag for flag, code in QUALITY_CODES.items()}

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Layout:
    """The points of a body and what its reports have in common."""

    gauges: tuple[str, ...]
    counters: tuple[str, ...]
    driver: str
    profile: str | None = None
    profile_version: str | None = None
    ct_ratio: float | None = None
    pt_ratio: float | None = None
    energy_ratio: float | None = None

    @cached_property
    def points(self) -> tuple[str, ...]:
        """All points, in the order of the body."""
        return self.gauges + self.counters

    @cached_property
    def known(self) -> frozenset[str]:
        """The same, to ask whether a point has a place."""
        return frozenset(self.points)

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """One body; little-endian, without padding."""
        return np.dtype([("gauges", "<f4", (len(self.gauges),)), ("counters", "<f8", (len(self.counters),))])

    @cached_property
    def _values_of(self) -> Callable[[Mapping[str, float | None]], tuple[float | None, ...]]:
        return itemgetter(*self.points)

    def pack(self, reports: Sequence[Mapping[str, float | None]]) -> list[bytes]:
        """Return the body of each report; every point in them has a place."""
        names = self.points
        rows: list[Any] = []
        for points in reports:
            if len(points) == len(names) > 1:
                rows.append(self._values_of(points))
            else:
                rows.append([points.get(name) for name in names])
        # None becomes NaN here, at once for all.
        matrix = np.array(rows, dtype=np.float64).reshape(len(reports), len(names))
        bodies = np.empty(len(reports), dtype=self.dtype)
        with np.errstate(over="ignore"):
            bodies["gauges"] = matrix[:, : len(self.gauges)]
        bodies["gauges"][np.isinf(bodies["gauges"])] = np.nan
        bodies["counters"] = matrix[:, len(self.gauges) :]
        blob, size = bodies.tobytes(), self.dtype.itemsize
        return [blob[at : at + size] for at in range(0, len(blob), size)] if size else [b""] * len(reports)

    def unpack(self, bodies: Sequence[bytes]) -> Matrix:
        """Return the values, shape (reports, points), NaN where there is none.

        Gauges are rounded to what a 32-bit float can tell apart, so that 230.1 is not 230.10000610351562.
        """
        packed = np.frombuffer(b"".join(bodies), dtype=self.dtype)
        matrix = np.empty((len(bodies), len(self.points)), dtype=np.float64)
        matrix[:, : len(self.gauges)] = shortest(packed["gauges"])
        matrix[:, len(self.gauges) :] = packed["counters"]
        return matrix

    def pack_quality(self, flags: Mapping[str, Quality]) -> bytes | None:
        """Return one byte per point, None when all are good."""
        if not flags:
            return None
        return bytes(QUALITY_CODES[Quality(flags[name])] if name in flags else 0 for name in self.points)

    def unpack_quality(self, packed: bytes | None) -> dict[str, Quality]:
        """Return the flags of the points that are not good."""
        if packed is None:
            return {}
        return {name: QUALITY_NAMES[code] for name, code in zip(self.points, packed, strict=True) if code}


def layout_for(
    names: Sequence[str],
    *,
    driver: str,
    profile: str | None = None,
    profile_version: str | None = None,
    ct_ratio: float | None = None,
    pt_ratio: float | None = None,
    energy_ratio: float | None = None,
) -> Layout:
    """Return the layout of reports with these points."""
    ordered = sorted(set(names))
    return Layout(
        gauges=tuple(name for name in ordered if fits_float32(name)),
        counters=tuple(name for name in ordered if not fits_float32(name)),
        driver=driver,
        profile=profile,
        profile_version=profile_version,
        ct_ratio=ct_ratio,
        pt_ratio=pt_ratio,
        energy_ratio=energy_ratio,
    )


def fits_float32(name: str) -> bool:
    """Return whether seven digits are enough for a point; an unknown one, a register or a status word needs more."""
    point = POINTS.get(name)
    if point is None or point.kind not in _SMALL_KINDS or point.unit in _EXACT_UNITS:
        return False
    return not (name.endswith("_raw") or name.startswith("meter_status"))


def shortest(values: npt.NDArray[np.float32]) -> Matrix:
    """Return 32-bit floats as the 64-bit floats with the fewest digits that are still the same 32-bit float."""
    wide = values.astype(np.float64)
    result = wide.copy()
    open_ = np.isfinite(wide) & (wide != 0.0)
    for digits in (6, 7, 8, 9):
        if not open_.any():
            break
        with np.errstate(divide="ignore", over="ignore"):
            magnitude = np.floor(np.log10(np.abs(wide, where=open_, out=np.ones_like(wide))))
        power = digits - 1 - magnitude
        # A positive power is multiplied, a negative one divided by: both are exact powers of ten then.
        factor = np.power(10.0, np.abs(power))
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = np.where(power >= 0, np.rint(wide * factor) / factor, np.rint(wide / factor) * factor)
        same = open_ & (scaled.astype(np.float32) == values)
        result[same] = scaled[same]
        open_ &= ~same
    return result
