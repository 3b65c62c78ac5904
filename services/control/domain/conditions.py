"""Conditions of a plan: a load goes off only if it carries little, or if the day is hot, or in a band of the tariff.

They are judged right before the OFF is sent, and again while it waits within its grace time. Whatever is not known,
not known for long enough, or too old is not met: no data, no OFF. They never have a say in a wake-up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time
from enum import StrEnum
from typing import Protocol
from zoneinfo import ZoneInfo

from services.control.domain.refusals import Refusal


class Quantity(StrEnum):
    """What is compared."""

    POWER = "power"
    """Of the load's meter. [kW]"""
    TRAFFIC_LOAD = "traffic_load"
    """Of the load, as the radio network tells it. [%]"""
    TEMPERATURE_OUTDOOR = "temperature_outdoor"
    """Of every device of the site that measures it. [degC]"""


class Side(StrEnum):
    """On which side of the limit the value has to be."""

    BELOW = "below"
    ABOVE = "above"


class Band(StrEnum):
    """Bands of a time-of-use tariff."""

    SHARP = "sharp"
    PEAK = "peak"
    FLAT = "flat"
    VALLEY = "valley"


MAX_AGE_S: Mapping[Quantity, float] = {
    Quantity.POWER: 300.0,
    Quantity.TRAFFIC_LOAD: 1800.0,
    Quantity.TEMPERATURE_OUTDOOR: 1800.0,
}
"""A value stands for this long: traffic comes every 15 minutes, meters are read at least every 5. [s]"""


@dataclass(frozen=True, slots=True)
class Condition:
    """A quantity on one side of a limit for some time."""

    quantity: Quantity
    side: Side
    limit: float
    """In the unit of the quantity."""
    for_s: float = 0.0
    """How long it must have been there without a break. [s]"""


@dataclass(frozen=True, slots=True)
class BandTime:
    """One part of the tariff's day; over midnight when the end is not later than the start."""

    start: time
    end: time
    band: Band

    def holds(self, wall: time) -> bool:
        """Return whether a clock that shows ``wall`` is within it."""
        if self.start < self.end:
            return self.start <= wall < self.end
        return wall >= self.start or wall < self.end


@dataclass(frozen=True, slots=True)
class TariffCondition:
    """Only in some bands of the tariff."""

    bands: frozenset[Band]
    table: tuple[BandTime, ...]
    """The bands of a day, on the clock face of the plan's zone."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What has to hold for an OFF of a plan; all of it."""

    measured: tuple[Condition, ...] = ()
    tariff: TariffCondition | None = None
    zone: str = "UTC"
    """The plan's, for the tariff."""

    def __bool__(self) -> bool:
        """Return whether anything is asked."""
        return bool(self.measured) or self.tariff is not None


class Samples(Protocol):
    """Values of loads that are about to go off."""

    def series(self, load_id: str, quantity: Quantity) -> "Sequence[Sequence[Sample]]":
        """Return the good values of each source, oldest first; nothing when none are known."""


def refusal(conditions: Conditions, load_id: str, samples: Samples, now: datetime) -> Refusal | None:
    """Return the first condition of a load's plan that forbids an OFF now, None when all are met."""
    if conditions.tariff is not None:
        found = outside_bands(conditions.tariff, ZoneInfo(conditions.zone), now)
        if found is not None:
            return found
    for condition in conditions.measured:
        found = unmet(condition, samples.series(load_id, condition.quantity), now)
        if found is not None:
            return found
    return None


@dataclass(frozen=True, slots=True)
class Sample:
    """A good value at a time."""

    at: datetime
    value: float


def unmet(condition: Condition, series: Sequence[Sequence[Sample]], now: datetime) -> Refusal | None:
    """Return why a condition forbids an OFF now, None when it is met.

    Args:
        condition: What is asked.
        series: Good values of each source, oldest first; all sources have to agree.
        now: The time.
    """
    if not series:
        return _stale(condition, None)
    for samples in series:
        found = _unmet_by(condition, samples, now)
        if found is not None:
            return found
    return None


def _unmet_by(condition: Condition, samples: Sequence[Sample], now: datetime) -> Refusal | None:
    max_age_s = MAX_AGE_S[condition.quantity]
    later = now
    for sample in reversed(samples):
        if (later - sample.at).total_seconds() > max_age_s:
            return _stale(condition, (now - sample.at).total_seconds())
        if not _is_met(condition, sample.value):
            return Refusal(f"condition_{condition.quantity}", sample.value, _limit(condition), False)
        if (now - sample.at).total_seconds() >= condition.for_s:
            return None
        later = min(sample.at, now)
    return _stale(condition, None)


def outside_bands(tariff: TariffCondition, zone: ZoneInfo, now: datetime) -> Refusal | None:
    """Return why the tariff forbids an OFF now; a time that the table leaves out is in no band."""
    wall = now.astimezone(zone).time()
    band = next((one.band for one in tariff.table if one.holds(wall)), None)
    if band in tariff.bands:
        return None
    return Refusal("condition_tariff_band", band, ", ".join(sorted(tariff.bands)), False)


def _is_met(condition: Condition, value: float) -> bool:
    return value < condition.limit if condition.side is Side.BELOW else value > condition.limit


def _limit(condition: Condition) -> str:
    return f"{condition.side} {condition.limit:g} for {condition.for_s:g} s"


def _stale(condition: Condition, age_s: float | None) -> Refusal:
    return Refusal(f"stale_{condition.quantity}", age_s, MAX_AGE_S[condition.quantity], False)
