"""Packed reports: many points of one report as a short string of bytes, and back, many reports at a time.

A *layout* names the points of a body in order and says how each is written: a gauge as a 32-bit float, or, while its
values have few digits, as a 16-bit count of its last digit; a counter and whatever must not lose a digit as a 64-bit
float, or as a 32-bit count of its last digit (above 131,072 kWh a 32-bit float would step by 0.016). So 230.1 V
takes two bytes and 12345.67 kWh four, and both come back as they were. The lowest count, or NaN, is "no value". What
is the same for thousands of reports of a device (profile, driver, ratios) is in the layout too and not in them.
Flags, when there are any, are one byte per point beside the body. A layout never changes; new points, or values
that do not fit, make a new one.

Source:
    dry-runs.md 3.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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

SHORT_GAUGE_MAX = 2**15 - 1
"""Largest count in 16 bits. Below it all digits survive in a 32-bit float too: one value has one look."""
SHORT_COUNTER_MAX = 2**31 - 1
MAX_DECIMALS = 4
"""Digits behind the point that are counted; a gauge with more takes 32 bits anyway."""
USUAL_DECIMALS: Mapping[str, int] = {"V": 1, "A": 2, "kW": 3, "kvar": 3, "kVA": 3, "Hz": 2, "degC": 1, "%": 1}
"""A layout begins with these where values leave room for them, lest the first 0.0 makes it one for whole numbers."""
ROOM = 4
"""Values may become this many times as large before a gauge no longer fits."""


class DoesNotFit(ValueError):
    """Some values cannot be written in a layout without a loss."""


@dataclass(frozen=True)
class Layout:
    """The points of a body and what its reports have in common."""

    gauges: tuple[str, ...]
    """First those that are floats, then those that are counts."""
    counters: tuple[str, ...]
    """In the same order."""
    decimals: tuple[int | None, ...]
    """Per point, in the order of the body: digits behind the point of a count, None for a float."""
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
        return np.dtype([(block.name, block.type, (block.width,)) for block in self._blocks])

    def values(self, reports: Sequence[Mapping[str, float | None]]) -> Matrix:
        """Return the values of reports, shape (reports, points), NaN where there is none; all have a place."""
        if len(self.points) > 1 and all(len(points) == len(self.points) for points in reports):
            rows = [self._values_of(points) for points in reports]
            return np.array(rows, dtype=np.float64).reshape(len(reports), len(self.points))
        return values_of(self.points, reports)

    def pack(self, values: Matrix) -> list[bytes]:
        """Return the body of each row of values.

        Raises:
            DoesNotFit: A value would change; ``widened`` gives a layout in which it does not.
        """
        bodies = np.empty(len(values), dtype=self.dtype)
        for block in self._blocks:
            part = values[:, block.start : block.start + block.width]
            if block.scale is None:
                with np.errstate(over="ignore"):
                    bodies[block.name] = part
                if block.narrow:
                    bodies[block.name][np.isinf(bodies[block.name])] = np.nan
                continue
            with np.errstate(over="ignore"):
                counts = np.rint(part * block.scale)
            if not _returns(part, counts, block.scale, narrow=block.narrow).all():
                raise DoesNotFit("values need more digits, or are larger, than the layout has room for")
            bodies[block.name] = np.where(np.isnan(counts), block.no_value, counts)
        blob, size = bodies.tobytes(), self.dtype.itemsize
        return [blob[at : at + size] for at in range(0, len(blob), size)] if size else [b""] * len(values)

    def unpack(self, bodies: Sequence[bytes]) -> Matrix:
        """Return the values, shape (reports, points), NaN where there is none."""
        return self.unpack_blob(b"".join(bodies), len(bodies))

    def unpack_blob(self, blob: bytes, count: int) -> Matrix:
        """Return the values of ``count`` bodies that stand one behind the other.

        Gauges are rounded to what a 32-bit float can tell apart, so that 230.1 is not 230.10000610351562.
        """
        packed = np.frombuffer(blob, dtype=self.dtype) if self.points else np.empty(count, dtype=self.dtype)
        matrix = np.empty((count, len(self.points)), dtype=np.float64)
        for block in self._blocks:
            part = matrix[:, block.start : block.start + block.width]
            if block.scale is not None:
                counts = packed[block.name]
                part[...] = counts / block.scale
                part[counts == block.no_value] = np.nan
            else:
                part[...] = shortest(packed[block.name]) if block.narrow else packed[block.name]
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

    def widened(self, names: Sequence[str], values: Matrix) -> "Layout":
        """Return a layout that has a place for these points too and fits these values.

        Points keep the digits that they have, so that a layout only ever grows.

        Args:
            names: At least the points of this layout.
            values: Shape (reports, names), NaN where there is none.
        """
        known = dict(zip(self.points, self.decimals, strict=True))
        forms: dict[str, int | None] = {}
        for column, name in enumerate(names):
            present = values[~np.isnan(values[:, column]), column]
            forms[name] = _decimals(name, present, known.get(name, -1))
        ordered = sorted(names, key=lambda name: (forms[name] is not None, name))
        gauges = tuple(name for name in ordered if fits_float32(name))
        counters = tuple(name for name in ordered if not fits_float32(name))
        return replace(
            self, gauges=gauges, counters=counters, decimals=tuple(forms[name] for name in gauges + counters)
        )

    @cached_property
    def _values_of(self) -> Callable[[Mapping[str, float | None]], tuple[float | None, ...]]:
        return itemgetter(*self.points)

    @cached_property
    def _blocks(self) -> tuple["_Block", ...]:
        forms = [
            (place < len(self.gauges), decimals is not None, decimals) for place, decimals in enumerate(self.decimals)
        ]
        blocks: list[_Block] = []
        for (narrow, counted), group in itertools.groupby(forms, key=lambda form: form[:2]):
            digits = [decimals or 0 for _, _, decimals in group]
            blocks.append(
                _Block(
                    name=f"{'gauges' if narrow else 'counters'}_{'counted' if counted else 'float'}",
                    type=("<i2" if narrow else "<i4") if counted else ("<f4" if narrow else "<f8"),
                    start=sum(block.width for block in blocks),
                    width=len(digits),
                    narrow=narrow,
                    scale=np.power(10.0, digits) if counted else None,
                    no_value=-(2**15) if narrow else -(2**31),
                )
            )
        return tuple(blocks)


@dataclass(frozen=True)
class _Block:
    """Neighbouring points of a body that are written alike."""

    name: str
    type: str
    start: int
    """Place of its first point."""
    width: int
    narrow: bool
    """Whether they are gauges, of which a 32-bit float keeps all that is to be kept."""
    scale: npt.NDArray[np.float64] | None
    """What a value is multiplied with to be a whole number; None for floats."""
    no_value: int


def values_of(names: Sequence[str], reports: Sequence[Mapping[str, float | None]]) -> Matrix:
    """Return the values of reports, shape (reports, names), NaN where there is none."""
    # None becomes NaN here, at once for all.
    rows = [[points.get(name) for name in names] for points in reports]
    return np.array(rows, dtype=np.float64).reshape(len(reports), len(names))


def empty_layout(
    *,
    driver: str,
    profile: str | None = None,
    profile_version: str | None = None,
    ct_ratio: float | None = None,
    pt_ratio: float | None = None,
    energy_ratio: float | None = None,
) -> Layout:
    """Return the layout from which those of some reports grow."""
    return Layout((), (), (), driver, profile, profile_version, ct_ratio, pt_ratio, energy_ratio)


def _decimals(name: str, values: npt.NDArray[np.float64], known: int | None) -> int | None:
    """Return the fewest digits behind the point in which values can be counted, None when they cannot.

    Args:
        name: Of the point.
        values: Without NaN.
        known: What the point has now; -1 is nothing yet, None is a float, which it stays.
    """
    narrow = fits_float32(name)
    largest = float(np.abs(values).max(initial=0.0))
    if known is None or not np.isfinite(largest):
        return None
    limit = SHORT_GAUGE_MAX if narrow else SHORT_COUNTER_MAX
    for decimals in range(max(known, 0), MAX_DECIMALS + 1):
        scale = 10.0**decimals
        if largest * scale > limit:
            return None
        if _returns(values, np.rint(values * scale), np.float64(scale), narrow=narrow).all():
            break
    else:
        return None
    point = POINTS.get(name)
    usual = 2 if not narrow else USUAL_DECIMALS.get(point.unit, 0) if point is not None else 0
    while known < 0 and usual > decimals:
        if largest * 10.0**usual * ROOM <= limit:
            return usual
        usual -= 1
    return decimals


def _returns(values: Matrix, counts: Matrix, scale: Any, *, narrow: bool) -> npt.NDArray[np.bool_]:
    """Return which counts come back as the value that they were; a NaN does."""
    back = counts / scale
    same: npt.NDArray[np.bool_] = back == values
    if narrow:
        with np.errstate(over="ignore"):
            same = back.astype(np.float32) == values.astype(np.float32)
    fits: npt.NDArray[np.bool_] = np.abs(counts) <= (SHORT_GAUGE_MAX if narrow else SHORT_COUNTER_MAX)
    return (same & fits) | np.isnan(values)


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
