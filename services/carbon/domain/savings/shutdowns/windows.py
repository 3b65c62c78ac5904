"""What one executed shutdown saved, on the meter of the branch that was switched off.

    saving = baseline - actual - max(0, actual after - baseline after) - energy of the control equipment

The baseline is the median of the same clock window on clean days before: no shutdown, no outage, known energy, the
same class of day. Where a plan has left fewer than five of them, a group of similar circuits says how the branch
would have moved since. What is negative stays negative, and what is not known is not guessed.

Rated power times hours is never used where there is a meter.

Source:
    The platform's energy methods, section 15; measured branch is option B of the IPMVP.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from statistics import fmean, median

import numpy as np

from libs.common.clock import CIVIL_ZONE
from services.carbon.domain.registers import FloatArray
from services.carbon.domain.savings.shutdowns.course import STEP, Course, Spans, ceil_step, floor_step
from services.carbon.domain.savings.shutdowns.executed import MeasuredWindow

DAY = timedelta(days=1)

DayClass = Callable[[date], str]
"""Names the class of a civil day: days of one class are compared with each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The numbers of the method; all of them can be set, none of them is hidden."""

    clean_days_max: int = 28
    """No more clean days than these are taken, the newest first."""
    clean_days_good: int = 10
    """Fewer clean days than these are marked."""
    clean_days_min: int = 5
    """With fewer clean days than these the control group decides."""
    lookback_days: int = 92
    """How far back clean days are looked for: further back it is another season."""
    control_lookback_days: int = 366
    """How far back the days are looked for that the control group is compared over."""
    located_share_min: float = 0.95
    """Share of a window's intervals that has to be known where it lies."""
    post: timedelta = timedelta(hours=1)
    """How long after the wake-up the load may catch up; on the grid of intervals."""
    success_share: float = 0.5
    """The shutdown was a success if no more than this share of the baseline was used."""


DEFAULT_RULES = Rules()


class Method(StrEnum):
    """Where the baseline comes from."""

    CLEAN_DAYS = "clean_days"
    CONTROL_GROUP = "control_group"


class Unknown(StrEnum):
    """Why there is no figure."""

    WINDOW_INCOMPLETE = "window_incomplete"
    """The meter's intervals do not cover the window or the time after it."""
    NO_BASELINE = "no_baseline"
    """Too few clean days, and no control group that covers the window and the days before."""


class Mark(StrEnum):
    """What a reader of the figure has to know."""

    FEW_CLEAN_DAYS = "few_clean_days"
    SHORT_POST = "short_post"
    """The next shutdown began before the time after the wake-up was over."""
    TEMPERATURE_UNKNOWN = "temperature_unknown"
    """The branch contains cooling and could not be adjusted to the weather."""
    SHARED_METER = "shared_meter"
    """Several loads or occurrences are in one measured window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cooling:
    """How a branch with cooling in it moves with the weather (section 14)."""

    slope_kw_per_k: float
    temperature_c: float | None
    """Mean outdoor temperature of the window. [°C]"""
    daily_c: Mapping[date, float]
    """The same of earlier days, by civil day. [°C]"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """Everything that is known of one measured branch."""

    course: Course
    shutdowns: Spans
    """Every time in which any load behind the meter was off."""
    outages: Spans
    day_class: DayClass
    control_group: Sequence["Peer"] = ()
    """Similar circuits that were not switched off."""
    control_power_kw: float = 0.0
    """Power of the equipment that does the switching. [kW]"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A circuit of the control group."""

    course: Course
    shutdowns: Spans
    outages: Spans


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSaving:
    """What one measured window saved, and every number that it was computed from."""

    circuit_id: str
    window: MeasuredWindow
    post_end: datetime
    saving_kwh: float | None
    """None where it is unknown; may be negative. [kWh]"""
    variance_kwh2: float | None
    """Of the saving, from the spread of the days behind the baseline; None where two of them are missing. [kWh²]"""
    reason: Unknown | None = None
    method: Method | None = None
    baseline_kwh: float | None = None
    """With the weather adjustment in it. [kWh]"""
    adjustment_kwh: float = 0.0
    actual_kwh: float | None = None
    post_baseline_kwh: float | None = None
    post_actual_kwh: float | None = None
    rebound_kwh: float | None = None
    """What was used more than usual after the wake-up. [kWh]"""
    control_kwh: float = 0.0
    days: tuple[date, ...] = ()
    """The clean days, newest first."""
    days_kwh: tuple[float, ...] = ()
    """What was used on each of them at the clock time of the window, scaled by the control group. [kWh]"""
    days_post_kwh: tuple[float, ...] = ()
    """The same of the time after it. [kWh]"""
    scale: float = 1.0
    """Of the control group, by which the days were multiplied. [1]"""
    peers: tuple[str, ...] = ()
    """The circuits of the control group that were used."""
    successful: bool | None = None
    marks: frozenset[Mark] = frozenset()
    version: int = 0
    """Highest version of the intervals in the window and after it."""
    shape: tuple[tuple[datetime, float], ...] = ()
    """The saving by interval; sums to it exactly, with rebound and control equipment where they were used. [kWh]"""
    interval_completeness: float | None = None
    """Located intervals of the window and the time after it over all of them, 0 to 1."""
    emission_kg: float | None = None
    """What was not emitted for it; None where the saving or the factor is unknown. [kgCO2]"""
    factor_id: str | None = None
    money_cny: float | None = None
    """What the saved energy would have cost, each quarter hour at its own price; None where one is unknown. [CNY]"""


@dataclass(frozen=True, slots=True)
class _Reference:
    """Energies that stand for the window had there been no shutdown, one row per day."""

    method: Method
    days: tuple[date, ...]
    window: FloatArray
    """Shape (days, intervals). [kWh]"""
    post: FloatArray
    """Shape (days, intervals of the time after). [kWh]"""
    peers: tuple[str, ...] = ()

    scale: float = 1.0
    """By which the control group has moved since; it is in ``window`` and ``post``. [1]"""

    def middle(self, energy: FloatArray) -> float:
        """Return the middle of the days' sums: the median of clean days, the mean of scaled ones. [kWh]"""
        sums = _rounded(energy)
        return median(sums) if self.method is Method.CLEAN_DAYS else fmean(sums)

    def variance(self) -> float | None:
        """Return the variance of one day's energy about the middle, with that of the middle itself. [kWh²]

        The variance of a median of n values is π/2 times that of their mean (normal spread, large n).
        """
        count = len(self.days)
        if count < 2:
            return None
        spread = float(np.var(self.window.sum(axis=1) + self.post.sum(axis=1), ddof=1))
        return spread * (1 + (math.pi / 2 if self.method is Method.CLEAN_DAYS else 1.0) / count)


def window_saving(
    branch: Branch,
    window: MeasuredWindow,
    *,
    next_start: datetime | None = None,
    cooling: Cooling | None = None,
    rules: Rules = DEFAULT_RULES,
) -> WindowSaving:
    """Return what a window saved.

    Args:
        branch: The metered branch.
        window: Whole intervals around the executed parts.
        next_start: Start of the next measured window of the branch, which ends the time after this one.
        cooling: How the branch moves with the weather; None for one without cooling.
        rules: The numbers of the method.
    """
    post_end = window.end + rules.post
    if next_start is not None:
        post_end = max(min(post_end, next_start), window.end)
    actual = branch.course.take(window.start, window.end, located_share_min=rules.located_share_min)
    after = branch.course.take(window.end, post_end, located_share_min=rules.located_share_min)
    version = branch.course.newest_version(window.start, post_end)
    completeness = branch.course.located_share(window.start, post_end)
    if actual is None or after is None:
        return _unknown(branch, window, post_end, Unknown.WINDOW_INCOMPLETE, version, completeness)
    reference = _clean_reference(branch, window, post_end, rules) or _group_reference(branch, window, post_end, rules)
    if reference is None:
        return _unknown(branch, window, post_end, Unknown.NO_BASELINE, version, completeness)

    marks = _marks(reference, window, post_end, rules)
    adjustment = 0.0
    if cooling is not None and reference.method is Method.CLEAN_DAYS:
        known = [cooling.daily_c[day] for day in reference.days if day in cooling.daily_c]
        if cooling.temperature_c is None or len(known) < len(reference.days):
            marks |= {Mark.TEMPERATURE_UNKNOWN}
        else:
            hours = (window.end - window.start) / timedelta(hours=1)
            adjustment = cooling.slope_kw_per_k * (cooling.temperature_c - float(np.median(known))) * hours

    used = math.fsum(actual)
    baseline = reference.middle(reference.window) + adjustment
    post_baseline = reference.middle(reference.post)
    used_after = math.fsum(after)
    rebound = max(0.0, used_after - post_baseline)
    off_h = sum(part.off_s for part in window.parts) / 3600
    control = branch.control_power_kw * off_h
    off = _wholly_off(window)
    return WindowSaving(
        circuit_id=branch.course.circuit_id,
        window=window,
        post_end=post_end,
        saving_kwh=baseline - used - rebound - control,
        variance_kwh2=reference.variance(),
        method=reference.method,
        baseline_kwh=baseline,
        adjustment_kwh=adjustment,
        actual_kwh=used,
        post_baseline_kwh=post_baseline,
        post_actual_kwh=used_after,
        rebound_kwh=rebound,
        control_kwh=control,
        days=reference.days,
        days_kwh=_rounded(reference.window),
        days_post_kwh=_rounded(reference.post),
        scale=reference.scale,
        peers=reference.peers,
        successful=float(actual[off].sum()) <= rules.success_share * reference.middle(reference.window[:, off]),
        marks=marks,
        version=version,
        shape=_shape(window, post_end, reference, actual, baseline, rebound, control),
        interval_completeness=completeness,
    )


def branch_savings(
    branch: Branch,
    windows: Sequence[MeasuredWindow],
    *,
    cooling: Callable[[MeasuredWindow], Cooling | None] = lambda _: None,
    rules: Rules = DEFAULT_RULES,
) -> list[WindowSaving]:
    """Return what each of a branch's windows saved; ``windows`` are all of them in the span, rising."""
    following = [*[window.start for window in windows[1:]], None]
    return [
        window_saving(branch, window, next_start=after, cooling=cooling(window), rules=rules)
        for window, after in zip(windows, following, strict=True)
    ]


def day_of(window: MeasuredWindow) -> date:
    """Return the civil day that a window counts for.

    One that begins within the last interval of a day is meant for the next: 23:59:59 to 06:00:00 is the
    night of the following civil day.
    """
    return (window.off_at + STEP).astimezone(CIVIL_ZONE).date()


def weekday_class(day: date, *, exceptions: Mapping[date, str] | None = None) -> str:
    """Return ``workday`` or ``restday`` by the day of the week, or what the holiday calendar says instead."""
    said = (exceptions or {}).get(day)
    return said or ("restday" if day.weekday() >= 5 else "workday")


def _clean_reference(branch: Branch, window: MeasuredWindow, post_end: datetime, rules: Rules) -> _Reference | None:
    """Return the clean days before a window, or None if there are too few."""
    found = _days_before(branch, window, post_end, rules, lookback_days=rules.lookback_days)
    if len(found) < rules.clean_days_min:
        return None
    days, inside, after = zip(*found, strict=True)
    return _Reference(Method.CLEAN_DAYS, days, np.vstack(inside), np.vstack(after))


def _days_before(
    branch: Branch, window: MeasuredWindow, post_end: datetime, rules: Rules, *, lookback_days: int
) -> list[tuple[date, FloatArray, FloatArray]]:
    """Return (day, energy in the window, energy after it) of the newest clean days before a window."""
    day, kind = day_of(window), branch.day_class(day_of(window))
    found: list[tuple[date, FloatArray, FloatArray]] = []
    for back in range(1, lookback_days + 1):
        shift = back * DAY
        if branch.day_class(day - shift) != kind:
            continue
        start, end, last = window.start - shift, window.end - shift, post_end - shift
        opening = datetime.combine(day - shift, datetime.min.time(), CIVIL_ZONE)
        if _disturbed(branch, min(start, opening), max(last, opening + DAY)):
            continue
        inside = branch.course.take(start, end, located_share_min=rules.located_share_min)
        after = branch.course.take(end, last, located_share_min=rules.located_share_min)
        if inside is None or after is None:
            continue
        found.append((day - shift, inside, after))
        if len(found) == rules.clean_days_max:
            break
    return found


def _group_reference(branch: Branch, window: MeasuredWindow, post_end: datetime, rules: Rules) -> _Reference | None:
    """Return the days before a window, scaled by how the control group has moved since, or None.

    A circuit of the group counts only if it is known and undisturbed now and on every one of the days, so that the
    same circuits stand above and below the line.
    """
    found = _days_before(branch, window, post_end, rules, lookback_days=rules.control_lookback_days)
    if not found or not branch.control_group:
        return None
    day = day_of(window)
    used: list[str] = []
    now = 0.0
    before = np.zeros(len(found))
    for peer in branch.control_group:
        spans = [(window.start - (day - one), post_end - (day - one)) for one in [day, *(day for day, _, _ in found)]]
        if any(peer.shutdowns.touch(*span) or peer.outages.touch(*span) for span in spans):
            continue
        taken = [peer.course.take(*span, located_share_min=rules.located_share_min) for span in spans]
        sums = [float(energy.sum()) for energy in taken if energy is not None]
        if len(sums) < len(spans):
            continue
        used.append(peer.course.circuit_id)
        now += sums[0]
        before += np.array(sums[1:])
    if before.mean() <= 0:
        return None
    scale = now / float(before.mean())
    return _Reference(
        Method.CONTROL_GROUP,
        tuple(one for one, _, _ in found),
        np.vstack([inside for _, inside, _ in found]) * scale,
        np.vstack([after for _, _, after in found]) * scale,
        tuple(used),
        scale,
    )


def _rounded(energy: FloatArray) -> tuple[float, ...]:
    """Return the sum of each day, rounded once. [kWh]"""
    return tuple(math.fsum(day) for day in energy)


def _disturbed(branch: Branch, start: datetime, end: datetime) -> bool:
    return branch.shutdowns.touch(start, end) or branch.outages.touch(start, end)


def _marks(reference: _Reference, window: MeasuredWindow, post_end: datetime, rules: Rules) -> frozenset[Mark]:
    found: set[Mark] = set()
    if len(reference.days) < rules.clean_days_good:
        found.add(Mark.FEW_CLEAN_DAYS)
    if post_end < window.end + rules.post:
        found.add(Mark.SHORT_POST)
    if len({(part.load_id, part.occurrence_id) for part in window.parts}) > 1:
        found.add(Mark.SHARED_METER)
    return frozenset(found)


def _wholly_off(window: MeasuredWindow) -> list[int]:
    """Return the places of the intervals in which a load was off throughout, or of all where there is none."""
    places: set[int] = set()
    for part in window.parts:
        if part.on_at is not None:
            first = round((ceil_step(part.off_at) - window.start) / STEP)
            places |= set(range(first, round((floor_step(part.on_at) - window.start) / STEP)))
    return sorted(places) or list(range(round((window.end - window.start) / STEP)))


def _shape(
    window: MeasuredWindow,
    post_end: datetime,
    reference: _Reference,
    actual: FloatArray,
    baseline: float,
    rebound: float,
    control: float,
) -> tuple[tuple[datetime, float], ...]:
    """Return the saving by interval, which money needs: a night's kilowatt-hours are not the day's.

    The middle of sums is not the sum of middles; the difference is spread in proportion to the usual load. The
    rebound lies evenly in the time after.
    """
    usual = np.median(reference.window, axis=0)
    weight = usual / usual.sum() if usual.sum() > 0 else np.full(usual.size, 1 / usual.size)
    inside = usual - actual + weight * (baseline - float(usual.sum())) - control / usual.size
    steps = round((post_end - window.end) / STEP)
    after = np.full(steps, -rebound / steps) if steps else np.empty(0)
    return tuple((window.start + index * STEP, float(energy)) for index, energy in enumerate([*inside, *after]))


def _unknown(
    branch: Branch, window: MeasuredWindow, post_end: datetime, reason: Unknown, version: int, completeness: float
) -> WindowSaving:
    return WindowSaving(
        circuit_id=branch.course.circuit_id,
        window=window,
        post_end=post_end,
        saving_kwh=None,
        variance_kwh2=None,
        reason=reason,
        version=version,
        interval_completeness=completeness,
    )
