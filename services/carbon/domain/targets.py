"""Targets and budgets of nodes (定额、预算、店长划小): what is allowed, the pace, and how the period will end.

A target allows a node an amount of one measure (kWh, kgCO2e or CNY) in a period; it is the sum of its dated
adjustments. Children's targets may not sum to more than their parent's.

Source:
    The platform's energy methods, sections 16 (forecast) and 17 (quota and performance).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from math import fsum, isfinite, sqrt
from statistics import fmean

from libs.common.errors import Conflict, InvalidInput

INTERVAL_Z = 1.2816
"""Half-width of the forecast interval in standard errors: 80 % of a normal distribution lies within. [1]"""
SAME = 1e-9
"""Sums of allocations that differ by less, relatively, are the same."""


class OverAllocated(Conflict):
    """The children of a target were given more than it has."""

    code = "over_allocated"
    title_zh = "下级定额超出上级"


class Status(StrEnum):
    """How a target stands."""

    GREEN = "green"
    """Even the upper end of the forecast lies within it."""
    AMBER = "amber"
    """The forecast lies within it and its upper end does not, or is not known."""
    RED = "red"
    """The forecast lies beyond it."""
    UNKNOWN = "unknown"
    """There is no forecast."""


@dataclass(frozen=True, slots=True)
class Adjustment:
    """A change of what is allowed; the first one is the allocation itself."""

    on: date
    amount: float
    """Added to what was allowed before; less than zero takes away. [the target's unit]"""
    reason: str
    author: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a node may use, emit or spend in ``[start, end)``."""

    target_id: str
    node: str
    measure: str
    """``energy``, ``emission_location_based``, ``cost`` …"""
    unit: str
    start: date
    end: date
    """The day after the last."""
    adjustments: tuple[Adjustment, ...]
    parent_id: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be a target.

        Raises:
            InvalidInput: An empty period, no adjustment, or an amount that is none.
        """
        if self.end <= self.start:
            raise InvalidInput(
                f"last_day: expected {self.start} or later, found {self.end - timedelta(days=1)}",
                message_zh=f"last_day:应不早于 {self.start},实际为 {self.end - timedelta(days=1)}",
            )
        if not self.adjustments or not all(isfinite(one.amount) for one in self.adjustments):
            raise InvalidInput(
                "adjustments: expected one or more, with finite amounts",
                message_zh="adjustments:应至少有一项,且数值有限",
            )
        if self.allowed(date.max) < 0:
            raise InvalidInput(
                f"adjustments: expected a sum of 0 or more, found {self.allowed(date.max)}",
                message_zh=f"adjustments:合计应不小于 0,实际为 {self.allowed(date.max)}",
            )

    @property
    def days(self) -> int:
        """Length of the period. [d]"""
        return (self.end - self.start).days

    def allowed(self, on: date) -> float:
        """Return what is allowed by the adjustments up to a day. [unit]"""
        return sum(one.amount for one in self.adjustments if one.on <= on)


@dataclass(frozen=True, slots=True)
class Forecast:
    """How a period is expected to end."""

    value: float
    low: float | None
    """None where history is too short to say how sure it is."""
    high: float | None
    half: float | None
    """Half the width between them."""
    differences: tuple[float, ...]
    """Of the known days so far to those of last year, of which low and high follow; none without that history."""
    ahead: int
    """Days that are expected, not measured."""
    by_day: tuple[float, ...]
    """Every day of the period: what was measured, or what is expected of it; they add up to ``value``."""
    method: str


@dataclass(frozen=True, slots=True)
class Standing:
    """A target at a day, with all that its figures are made of."""

    target: Target
    as_of: date
    """The first day that is not measured."""
    allowed: float
    measured: float | None
    """None where nothing is known, which is not zero. [unit]"""
    completeness: float
    """Share of the days so far that are known, 0 to 1."""
    expected_share: float
    """Share of the period's amount that is expected by now: last year's profile, or of the time. [1]"""
    profile: str
    """``last_year`` or ``time``."""
    pace: float | None
    """Measured over what is expected by now; above 1 is too fast. [1]"""
    forecast: Forecast | None
    gap: float | None
    """Allowed minus forecast; below 0 it will not do. [unit]"""
    status: Status
    exhausted_on: date | None
    """The first day at whose end more is used than allowed; None when the period ends before."""


def standing(
    target: Target, *, as_of: date, measured: Sequence[float | None], last_year: Sequence[float | None] | None
) -> Standing:
    """Return how a target stands.

    Args:
        target: The target.
        as_of: The first day that is not measured.
        measured: Amount of each day from the target's start to ``as_of``; None is unknown.
        last_year: The same for every day of the period a year (52 weeks) before, so that weekdays meet; None
            without history. Both are in the target's unit.
    """
    until = min(max(as_of, target.start), target.end)
    elapsed = (until - target.start).days
    if len(measured) != elapsed:
        raise ValueError(f"measured: expected {elapsed} days, found {len(measured)}")
    if last_year is not None and len(last_year) != target.days:
        raise ValueError(f"last_year: expected {target.days} days, found {len(last_year)}")
    known = [one for one in measured if one is not None]
    allowed = target.allowed(max(as_of, target.start))
    share, profile = _expected_share(elapsed, target.days, last_year)
    forecast = _forecast(measured, target.days, last_year)
    amount = fsum(known) if known else None
    gap = None if forecast is None else allowed - forecast.value
    due = allowed * share
    return Standing(
        target=target,
        as_of=as_of,
        allowed=allowed,
        measured=amount,
        completeness=len(known) / elapsed if elapsed else 1.0,
        expected_share=share,
        profile=profile,
        pace=amount / due if amount is not None and due > 0 else None,
        forecast=forecast,
        gap=gap,
        status=_status(allowed, forecast),
        exhausted_on=_exhausted_on(target, allowed, forecast),
    )


def unallocated(parent: Target, children: Iterable[Target], *, on: date) -> float:
    """Return what of a target its children have not been given. [unit]

    Raises:
        InvalidInput: A child measures something else, or lies outside of the parent's period.
        OverAllocated: The children were given more than the parent has.
    """
    given = 0.0
    for child in children:
        if (child.measure, child.unit) != (parent.measure, parent.unit):
            raise InvalidInput(
                f"target {child.target_id}: expected {parent.measure} in {parent.unit} as its parent "
                f"{parent.target_id}, found {child.measure} in {child.unit}",
                message_zh=f"定额 {child.target_id}:指标与单位应与上级 {parent.target_id} 相同"
                f"({parent.measure},{parent.unit}),实际为 {child.measure},{child.unit}",
            )
        if child.start < parent.start or child.end > parent.end:
            raise InvalidInput(
                f"target {child.target_id}: expected a period within {parent.start} to {parent.end}, "
                f"found {child.start} to {child.end}",
                message_zh=f"定额 {child.target_id}:期间应在 {parent.start} 至 {parent.end} 之内,"
                f"实际为 {child.start} 至 {child.end}",
            )
        given += child.allowed(on)
    allowed = parent.allowed(on)
    if given > allowed + SAME * abs(allowed):
        raise OverAllocated(
            f"target {parent.target_id} allows {allowed} {parent.unit}; its children were given {given}",
            message_zh=f"定额 {parent.target_id} 为 {allowed} {parent.unit},下级合计 {given}",
        )
    return max(allowed - given, 0.0)


def performance(target: float, actual: float | None) -> float | None:
    """Return (target - actual) / target; None where the actual is unknown or the target is 0. [1]"""
    return None if actual is None or target == 0 else (target - actual) / target


@dataclass(frozen=True, slots=True)
class Compliance:
    """What exceeding a quota costs."""

    exceeded: float
    """[unit]"""
    offset: float
    """The part that offsets may cover. [unit]"""
    cost_cny: float
    """Of all that is exceeded, at the price of allowances. [CNY]"""


def compliance(*, allowed: float, forecast: float, price_cny: float, offset_share: float) -> Compliance:
    """Return what a quota's excess costs.

    Args:
        allowed: The quota. [unit]
        forecast: How the year is expected to end. [unit]
        price_cny: Price of an allowance, which is data of the scheme. [CNY/unit]
        offset_share: Share of the emissions that offsets may cover at most, likewise. [1]
    """
    exceeded = max(0.0, forecast - allowed)
    return Compliance(exceeded, min(exceeded, offset_share * max(forecast, 0.0)), exceeded * price_cny)


def _expected_share(elapsed: int, days: int, last_year: Sequence[float | None] | None) -> tuple[float, str]:
    """Return the share of the period's amount that is expected by now, and what it rests on."""
    if last_year is not None:
        year = [one for one in last_year if one is not None]
        if len(year) == len(last_year) and sum(year) > 0:
            return sum(year[:elapsed]) / sum(year), "last_year"
    return elapsed / days, "time"


def _forecast(measured: Sequence[float | None], days: int, last_year: Sequence[float | None] | None) -> Forecast | None:
    """Return measured to date and the rest as last year's days (seasonal naive); without them as the mean so far.

    Days of the past that are unknown are expected as the rest is, so that a hole does not look like saving.
    The interval is that of the rest alone: the mean difference to last year's days so far, repeated on every day
    ahead, and the spread around it, taken as independent between days.
    """
    errors: list[float] = []
    if last_year is None or any(one is None for one in last_year):
        known = [one for one in measured if one is not None]
        if not known:
            return None
        expected = [fmean(known)] * days
        method = "mean_so_far"
    else:
        expected = [one for one in last_year if one is not None]
        method = "seasonal_naive"
        errors = [new - old for new, old in zip(measured, expected, strict=False) if new is not None]
    by_day = tuple(
        expected[index] if index >= len(measured) or (one := measured[index]) is None else one for index in range(days)
    )
    value = fsum(by_day)
    ahead = days - sum(one is not None for one in measured)
    if ahead == 0:
        return Forecast(value, value, value, 0.0, tuple(errors), ahead, by_day, method)
    if len(errors) < 2:
        return Forecast(value, None, None, None, tuple(errors), ahead, by_day, method)
    # A bias is repeated by every naive day: it adds up where the spread cancels out.
    bias = fmean(errors)
    spread = fmean([(error - bias) ** 2 for error in errors])
    half = INTERVAL_Z * sqrt(ahead * spread) + abs(bias) * ahead
    return Forecast(value, value - half, value + half, half, tuple(errors), ahead, by_day, method)


def _status(allowed: float, forecast: Forecast | None) -> Status:
    if forecast is None:
        return Status.UNKNOWN
    if forecast.value > allowed:
        return Status.RED
    return Status.GREEN if forecast.high is not None and forecast.high <= allowed else Status.AMBER


def _exhausted_on(target: Target, allowed: float, forecast: Forecast | None) -> date | None:
    """Return the first day at whose end more than allowed is used, by what was measured and then by the forecast."""
    used = 0.0
    for index, one in enumerate(() if forecast is None else forecast.by_day):
        used += one
        if used > allowed:
            return target.start + timedelta(days=index)
    return None
