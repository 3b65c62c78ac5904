"""Whether what was read of an unknown device looks like what a profile says: windows that only a live meter falls into.

Wider windows (``points.csv``) tell a broken reading from a real one; these tell the right register from its neighbour.
A reading of 0 says nothing: unused registers are 0, and so is the current of an idle load.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from libs.common.points import POINTS, PointKind
from libs.common.profiles import DeviceProfile, ProfilePoint

WINDOWS: Mapping[str, tuple[float, float]] = {
    "voltage_a": (85.0, 300.0), "voltage_b": (85.0, 300.0), "voltage_c": (85.0, 300.0),
    "voltage_ab": (150.0, 520.0), "voltage_bc": (150.0, 520.0), "voltage_ca": (150.0, 520.0),
    "frequency": (45.0, 65.0), "voltage_dc": (20.0, 800.0), "temperature": (-40.0, 85.0), "humidity": (1.0, 100.0),
    "current_a": (0.001, 5000.0), "power_factor_total": (-1.0, 1.0), "active_power_total": (-10_000.0, 10_000.0),
}  # fmt: skip
"""Canonical unit, bounds included; the first ones tell most and are looked at first."""
MOST_LOOKED_AT = 5
"""Points of a profile that are read to try it."""


class Look(StrEnum):
    """What a value says of the place that it was read from."""

    FITS = "fits"
    SAYS_NOTHING = "says_nothing"
    """0, or of a point whose right values nobody can tell from wrong ones."""
    WRONG = "wrong"
    """Outside its window, or marked as no value."""
    UNREADABLE = "unreadable"


_WEIGHT = {Look.FITS: 1.0, Look.SAYS_NOTHING: 0.0, Look.WRONG: -1.0, Look.UNREADABLE: -1.0}


@dataclass(frozen=True, slots=True)
class Looked:
    """One point of a profile that was tried."""

    name: str
    value: float | None
    look: Look


def look_at(name: str, value: float | None, *, read: bool = True) -> Look:
    """Return what a value says.

    Args:
        name: Of the point.
        value: In the canonical unit, None where the device marks it as none.
        read: Whether it could be read at all.
    """
    if not read:
        return Look.UNREADABLE
    if value is None or not math.isfinite(value):
        return Look.WRONG
    if value == 0:
        return Look.SAYS_NOTHING
    if name in WINDOWS:
        low, high = WINDOWS[name]
        return Look.FITS if low <= value <= high else Look.WRONG
    point = POINTS.get(name)
    if point is None:
        return Look.SAYS_NOTHING
    if point.kind is PointKind.STATE:
        return Look.FITS
    return Look.SAYS_NOTHING if point.is_plausible(value) else Look.WRONG


def telling_points(points: Mapping[str, ProfilePoint]) -> list[ProfilePoint]:
    """Return the points of a profile that tell most about whether it is the right one, the best first."""
    usable = [point for point in points.values() if point.copy_of is None and not point.is_text]
    order = {name: place for place, name in enumerate(WINDOWS)}
    usable.sort(key=lambda point: (order.get(point.name, len(order)), point.slow, point.optional))
    return usable[:MOST_LOOKED_AT]


def score(looked: Iterable[Looked]) -> float:
    """Return how well a profile fits, from -1 (not at all) to 1 (everything that was read looks right)."""
    found = list(looked)
    return sum(_WEIGHT[one.look] for one in found) / len(found) if found else 0.0


def best_offset(by_offset: Mapping[int, Iterable[Looked]]) -> int | None:
    """Return the offset at which most values look right; None where none stands out."""
    scores = {offset: score(looked) for offset, looked in by_offset.items()}
    best = max(scores.values(), default=0.0)
    winners = [offset for offset, found in scores.items() if found == best]
    return winners[0] if best > 0 and len(winners) == 1 else None


def is_candidate(profile: DeviceProfile, protocol: str) -> bool:
    """Return whether a profile may be tried on a device that speaks a protocol; examples to be copied may not."""
    return profile.protocol == protocol and not profile.name.startswith("example_")
