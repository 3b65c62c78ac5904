"""What is written into the books: registers as they came, and versions of intervals.

An interval is booked when its end is known to be past, and again, as a new version, when late data change
it; the version before stays. A running interval is shown as provisional and never booked.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from math import inf, isfinite

import numpy as np
from numpy.typing import NDArray

from libs.common.ids import CircuitId, DeviceId, SiteId
from libs.common.points import INTERVAL_ENERGY
from services.carbon.domain.intervals import STEP_S, Grade, Intervals
from services.carbon.domain.registers import (
    PERIOD_SLACK,
    BoolArray,
    Cumulative,
    Finding,
    FindingKind,
    FloatArray,
    GradeArray,
    IntArray,
    Series,
)

ENERGY_POINT = "energy_active_import"
"""The register of imported active energy; meters' sums of import and export are never booked."""
POWER_POINT = "active_power_total"
"""Of a meter that has no register of energy: the power that is integrated instead. [kW]"""
INTERVAL_POINT = INTERVAL_ENERGY
"""The energy of intervals that a meter forms itself: booked where it has no register, else held against it. [kWh]"""
TOLERANCE_KWH = 1e-9
"""Two computations of one interval that differ by less are the same. [kWh]"""
FUTURE = timedelta(minutes=5)
"""A reading that is further ahead of its receipt has the time of a wrong clock."""


@dataclass(frozen=True, slots=True)
class RegisterReading:
    """One register as a meter showed it."""

    device_id: DeviceId
    point: str
    source_time: datetime
    received_at: datetime
    shown: float
    """As on the display, before any ratio. [kWh]"""
    ratio: float
    """What it has to be multiplied with. [1]"""
    uncertain: bool
    disputed: bool = False
    """Whether the meter has told another register of the same time."""
    manual: bool = False
    """Whether a person has read it."""


@dataclass(frozen=True, slots=True)
class BookedInterval:
    """One version of one interval of one circuit."""

    circuit_id: CircuitId
    site_id: SiteId
    start: datetime
    step_s: int
    version: int
    energy_kwh: float | None
    """None where it is unknown, which is not zero. [kWh]"""
    grade: Grade
    lower_bound: bool
    uncertain: bool
    """Whether a register behind it was flagged uncertain."""
    computed_at: datetime


@dataclass(frozen=True, slots=True)
class Told:
    """What a meter tells in place of a register, or beside it."""

    point: str
    """``INTERVAL_POINT`` or ``POWER_POINT``."""
    period_s: float | None = None
    """How long the meter's own intervals are. [s]"""
    at_start: bool = False
    """Whether it tells an interval with the time of its start."""

    def moved(self, one: RegisterReading) -> RegisterReading:
        """Return a reading at the end of its interval, where all of them are kept."""
        if self.period_s is None or not self.at_start:
            return one
        return replace(one, source_time=one.source_time + timedelta(seconds=self.period_s))


@dataclass(frozen=True, slots=True)
class Binding:
    """When a meter measured a circuit, and what its register showed when it began and ended."""

    device_id: DeviceId
    valid_from: datetime
    valid_to: datetime | None
    initial_register: float | None
    final_register: float | None
    modulus_kwh: float | None = None
    resets: tuple[datetime, ...] = ()
    """When its register is on record to have been set to zero while nobody wrote down what it showed before."""
    point: str = ENERGY_POINT
    """What of the meter is booked: a register, or of one that has none ``INTERVAL_POINT``, else ``POWER_POINT``."""
    period_s: float | None = None
    """How long the intervals are that the meter forms itself, where these are booked. [s]"""

    @property
    def by_power(self) -> bool:
        """Whether power is integrated."""
        return self.point == POWER_POINT

    @property
    def has_register(self) -> bool:
        """Whether a register is booked, and not what stands in for one."""
        return self.point not in (POWER_POINT, INTERVAL_POINT)

    def serves_in(self, start: datetime, end: datetime | None) -> bool:
        """Return whether it holds at some time of ``[start, end]``; None is no end."""
        return (self.valid_to is None or self.valid_to >= start) and (end is None or self.valid_from <= end)


@dataclass(frozen=True, slots=True)
class Registers:
    """The registers of one meter over a span, as they are stored."""

    at: FloatArray
    """Source times, rising. Shape (n,). [s since the epoch]"""
    shown: FloatArray
    """Shape (n,). [kWh]"""
    ratio: FloatArray
    """Shape (n,). [1]"""
    uncertain: BoolArray
    """Shape (n,)."""
    set_aside: BoolArray
    """What the correction did not use when it last looked at them. Shape (n,)."""
    manual: BoolArray
    """What people have read. Shape (n,)."""

    @classmethod
    def of(cls, rows: Sequence[tuple[datetime, float, float, bool]]) -> "Registers":
        """Return the registers of (time, shown [kWh], ratio, uncertain), rising in time."""
        return cls(
            np.array([row[0].timestamp() for row in rows], np.float64),
            np.array([row[1] for row in rows], np.float64),
            np.array([row[2] for row in rows], np.float64),
            np.array([row[3] for row in rows], np.bool_),
            np.zeros(len(rows), np.bool_),
            np.zeros(len(rows), np.bool_),
        )

    def within(self, binding: "Binding") -> slice:
        """Return which of them a binding has, its first and last instant included."""
        end = inf if binding.valid_to is None else binding.valid_to.timestamp()
        first = np.searchsorted(self.at, binding.valid_from.timestamp(), side="left")
        return slice(int(first), int(np.searchsorted(self.at, end, side="right")))


@dataclass(frozen=True, slots=True)
class Change:
    """Between which times registers are new or different."""

    since: datetime
    until: datetime | None
    """None: all that follow may count differently, as after a binding was corrected."""

    def with_(self, other: "Change") -> "Change":
        """Return the span of both."""
        until = None if self.until is None or other.until is None else max(self.until, other.until)
        return Change(min(self.since, other.since), until)


@dataclass(frozen=True, slots=True)
class Window:
    """Where to look for the registers around a change of one circuit."""

    before: Binding
    """The meter that served where the change begins."""
    since: datetime
    after: Binding
    """The meter that served where it ends."""
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Span:
    """Registers to be read: from the last trusted one at or before ``start``, until ``end``."""

    device_id: DeviceId
    start: datetime
    end: datetime | None
    point: str = ENERGY_POINT


@dataclass(frozen=True, slots=True)
class CircuitSpan:
    """Intervals to be read, of ``[start, end)``; None is no end."""

    circuit_id: CircuitId
    start: datetime
    end: datetime | None


@dataclass(frozen=True, slots=True)
class CircuitFinding:
    """A finding, and where."""

    circuit_id: CircuitId
    finding: Finding

    @property
    def at(self) -> datetime:
        """Time of the register."""
        return datetime.fromtimestamp(self.finding.at, UTC)

    @property
    def key(self) -> tuple[CircuitId, datetime, FindingKind]:
        """What makes it another one than those on record."""
        return self.circuit_id, self.at, self.finding.kind


def usable(readings: Iterable[RegisterReading]) -> list[RegisterReading]:
    """Return the readings that can be of the past and of a register; at most one of each meter and time.

    What a meter says of the future is a wrong clock, and a register without a number no register. Of two that a batch
    has for one time the one that was received last counts, and is uncertain where they differ.
    """
    past = [
        one
        for one in readings
        if one.source_time - one.received_at <= FUTURE and isfinite(one.shown) and one.ratio > 0.0
    ]
    newest: dict[DeviceId, datetime] = {}
    for one in past:
        before = newest.get(one.device_id)
        if before is not None and one.source_time <= before:
            return _last_received(past)
        newest[one.device_id] = one.source_time
    return past  # each later than the one before it, which is how meters tell nearly always


def _last_received(readings: Iterable[RegisterReading]) -> list[RegisterReading]:
    """Return one reading of each meter, point and time."""
    found: dict[tuple[DeviceId, str, datetime], RegisterReading] = {}
    for one in readings:
        key = (one.device_id, one.point, one.source_time)
        other = found.get(key)
        if other is None:
            found[key] = one
            continue
        last = max(one, other, key=lambda each: (each.received_at, each.shown, each.ratio))
        differ = (one.shown, one.ratio) != (other.shown, other.ratio)
        found[key] = replace(last, disputed=differ or one.disputed or other.disputed)
    return list(found.values())


def series_of(binding: Binding, registers: Registers, rated_kw: float | None) -> list[Series]:
    """Cut one meter's registers where its ratio changed; no difference is taken across a change.

    Args:
        binding: When it measured the circuit.
        registers: Its registers; those from another time are left out.
        rated_kw: Rated power of the circuit. [kW]
    """
    begin = binding.valid_from.timestamp()
    end = inf if binding.valid_to is None else binding.valid_to.timestamp()
    inside = registers.within(binding)
    at, shown, ratio = registers.at[inside], registers.shown[inside], registers.ratio[inside]
    if not at.size:
        return []
    if binding.by_power:
        best = np.full(at.size, Grade.INTERPOLATED, np.int8)
        return [Series(at=at, shown_kwh=shown, best=best, is_power=True)]
    if binding.period_s is not None:
        # An interval that began before the binding is of another circuit too, and nobody knows how much.
        whole = at - binding.period_s >= begin - PERIOD_SLACK * binding.period_s
        energy = shown[whole] * ratio[whole]
        return [Series(at=at[whole], shown_kwh=energy, rated_kw=rated_kw, period_s=binding.period_s, since=begin)]
    best = np.where(registers.manual[inside], np.int8(Grade.ALLOCATED), np.int8(Grade.MEASURED)).astype(np.int8)
    if binding.initial_register is not None and at[0] > begin:
        at, shown, ratio, best = _with(0, begin, binding.initial_register, at, shown, ratio, best)
    if binding.final_register is not None and at[-1] < end < inf:
        at, shown, ratio, best = _with(at.size, end, binding.final_register, at, shown, ratio, best)
    cuts = [0, *(np.flatnonzero(np.diff(ratio)) + 1).tolist(), at.size]
    resets = tuple(one.timestamp() for one in binding.resets)
    return [
        Series(
            at=at[first:last],
            shown_kwh=shown[first:last],
            ratio=float(ratio[first]),
            modulus_kwh=binding.modulus_kwh,
            rated_kw=rated_kw,
            resets=resets,
            best=best[first:last],
        )
        for first, last in pairwise(cuts)
    ]


def uncertain_times(binding: Binding, registers: Registers) -> FloatArray:
    """Return the times that what is uncertain of a meter is about. [s since the epoch]

    An uncertain register is an instant, an uncertain interval all quarter hours that it touches.
    """
    at = registers.at[registers.uncertain]
    if binding.period_s is None or not at.size:
        return at
    inside = np.append(np.arange(1.0, binding.period_s, STEP_S), binding.period_s - 1.0)
    times: FloatArray = (at[:, None] - inside[None, :]).ravel()
    return times


def _with(
    place: int, time: float, register: float, at: FloatArray, shown: FloatArray, ratio: FloatArray, best: GradeArray
) -> tuple[FloatArray, FloatArray, FloatArray, GradeArray]:
    """Return registers with one more, which has the ratio of its neighbour and is a boundary for good."""
    neighbour = ratio[0] if place == 0 else ratio[-1]
    return (
        np.insert(at, place, time),
        np.insert(shown, place, register),
        np.insert(ratio, place, neighbour),
        np.insert(best, place, np.int8(Grade.MEASURED)),
    )


def floor(at: datetime, step_s: float = STEP_S) -> datetime:
    """Return the start of the interval that ``at`` lies in."""
    return datetime.fromtimestamp(at.timestamp() // step_s * step_s, UTC)


@dataclass(frozen=True, slots=True)
class Current:
    """The versions of one circuit's intervals that hold, of a span."""

    start: FloatArray
    """Rising. Shape (n,). [s since the epoch]"""
    version: IntArray
    energy_kwh: FloatArray
    """NaN where it is unknown. Shape (n,). [kWh]"""
    grade: NDArray[np.int8]
    lower_bound: BoolArray
    uncertain: BoolArray

    @classmethod
    def none(cls) -> "Current":
        """Return that of a circuit that has no intervals."""
        empty = np.empty(0)
        no = np.empty(0, np.bool_)
        return cls(empty, np.empty(0, np.int64), empty, np.empty(0, np.int8), no, no)


def changes(
    computed: Intervals,
    current: Current,
    *,
    circuit_id: CircuitId,
    site_id: SiteId,
    uncertain_at: FloatArray,
    now: datetime,
) -> list[BookedInterval]:
    """Return the versions to book: intervals that are new, or that come out differently now.

    An interval that was never known is not booked as missing; one that was booked and is unknown now is.

    Args:
        computed: The intervals as the registers give them now.
        current: The versions that hold.
        circuit_id: Whose they are.
        site_id: Where it is.
        uncertain_at: Times of uncertain registers, rising. [s since the epoch]
        now: When they were computed.
    """
    start, step_s = computed.start, computed.step_s
    if not start.size:
        return []
    known = computed.grade != Grade.MISSING
    uncertain = np.searchsorted(uncertain_at, start + step_s, side="right") > np.searchsorted(uncertain_at, start)
    version = np.zeros(start.size, np.int64)
    same = ~known
    place = np.searchsorted(start, current.start)
    held = place < start.size
    held[held] = start[place[held]] == current.start[held]
    place = place[held]
    version[place] = current.version[held]
    energy, was = computed.energy_kwh[place], current.energy_kwh[held]
    same[place] = (
        (computed.grade[place] == current.grade[held])
        & (computed.lower_bound[place] == current.lower_bound[held])
        & (uncertain[place] == current.uncertain[held])
        & ((np.abs(energy - was) <= TOLERANCE_KWH) | (np.isnan(energy) & np.isnan(was)))
    )
    news = np.flatnonzero(~same)
    rows = zip(
        start[news].tolist(),
        version[news].tolist(),
        computed.energy_kwh[news].tolist(),
        computed.grade[news].tolist(),
        computed.lower_bound[news].tolist(),
        uncertain[news].tolist(),
        strict=True,
    )
    return [
        BookedInterval(
            circuit_id=circuit_id,
            site_id=site_id,
            start=datetime.fromtimestamp(at, UTC),
            step_s=int(step_s),
            version=before + 1,
            energy_kwh=energy_kwh if grade != Grade.MISSING else None,
            grade=Grade(grade),
            lower_bound=lower_bound,
            uncertain=is_uncertain,
            computed_at=now,
        )
        for at, before, energy_kwh, grade, lower_bound, is_uncertain in rows
    ]


def last_boundary(cumulative: Cumulative, step_s: float = STEP_S) -> float | None:
    """Return the newest boundary of the grid that the readings have reached. [s since the epoch]"""
    return None if not cumulative.at.size else float(cumulative.at[-1] // step_s * step_s)
