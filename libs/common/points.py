"""Canonical points: what a quantity is called, in which unit, and what is plausible.

Source:
    ``data/points.csv``: the access standard's tables and the provincial signal table, see its header.
"""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files

MAX_NAME = 64
"""Characters in the name of a point, as the contracts of the topics have it."""
VENDOR_POINT = re.compile(r"^x_[a-z0-9]+(_[a-z0-9]+)+$")
"""Points of one vendor that nobody has named yet; never used by rules or reports."""

INTERVAL_ENERGY = "energy_active_import_interval"
"""What was used within an interval that the device itself has formed; its profile says how long one is."""
INTERVAL_POINTS = frozenset({INTERVAL_ENERGY})
"""Points that are of an interval and not of an instant."""


class PointKind(StrEnum):
    """How the values of a point behave."""

    GAUGE = "gauge"
    COUNTER = "counter"
    """A register that only grows, until it rolls over or is reset."""
    STATE = "state"
    SETTING = "setting"
    TEXT = "text"
    """Not a number: goes to the device's status."""


class Quantity(StrEnum):
    """What a transformer ratio changes: the four that a profile may name, and the rest."""

    VOLTAGE = "voltage"
    CURRENT = "current"
    POWER = "power"
    ENERGY = "energy"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Point:
    """A canonical point."""

    name: str
    unit: str
    """Canonical unit; the stored number is in it."""
    kind: PointKind
    max_age_s: float | None
    """Slowest acceptable update; None for what reports on events only. [s]"""
    plausible_min: float | None
    """Below it a value is flagged ``suspect``, never dropped; None is no bound."""
    plausible_max: float | None
    name_zh: str

    def is_plausible(self, value: float) -> bool:
        """Return whether a value lies within the plausible range, bounds included."""
        low = self.plausible_min is None or value >= self.plausible_min
        return low and (self.plausible_max is None or value <= self.plausible_max)

    @property
    def quantity(self) -> Quantity:
        """What a transformer ratio does to it."""
        return _QUANTITIES.get(self.unit, Quantity.OTHER) if self.kind in _MEASURED else Quantity.OTHER


_MEASURED = (PointKind.GAUGE, PointKind.COUNTER)
_QUANTITIES = {
    "V": Quantity.VOLTAGE,
    "A": Quantity.CURRENT,
    "kW": Quantity.POWER,
    "kvar": Quantity.POWER,
    "kVA": Quantity.POWER,
    "kWh": Quantity.ENERGY,
    "kvarh": Quantity.ENERGY,
}


def _number(text: str) -> float | None:
    return float(text) if text else None


@cache
def _load() -> Mapping[str, Point]:
    text = files("libs.common").joinpath("data/points.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return {
        row["name"]: Point(
            name=row["name"],
            unit=row["unit"],
            kind=PointKind(row["kind"]),
            max_age_s=_number(row["max_age_s"]),
            plausible_min=_number(row["plausible_min"]),
            plausible_max=_number(row["plausible_max"]),
            name_zh=row["name_zh"],
        )
        for row in rows
    }


POINTS: Mapping[str, Point] = _load()
"""Every canonical point by its name."""


def is_point_name(name: str) -> bool:
    """Return whether a report may carry this name: a canonical one, or a vendor's ``x_…``."""
    return name in POINTS or (len(name) <= MAX_NAME and VENDOR_POINT.fullmatch(name) is not None)
