"""What a plan would have done: its windows laid over past days, with what was known in each of them.

Each window is judged by the guards that judge a real OFF (``guards.off_refusals``), from what the history holds: the
age of the breaker's last reading, the plan's conditions, minimum times and switches a day as they follow from the
windows before, and what the registry says of the load today. As in reality an OFF waits within its grace time for what
may pass. What no history of readings tells is in ``NOT_REPLAYED``.

A window that would have run saved what the load drew in it: mean power times time, over the stretches that values
cover. Where values are missing nothing is made up; the share that is covered stands beside the figure.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from libs.common.ids import LoadId
from services.control.domain.conditions import MAX_AGE_S, Conditions, Quantity, Sample, refusal
from services.control.domain.guards import Facts, Policy, Reading, off_refusal
from services.control.domain.loads import LoadInfo
from services.control.domain.refusals import Refusal

TRY_EVERY = timedelta(seconds=60)
"""An OFF that waits within its grace time is tried again this often."""
DAY = timedelta(days=1)
NOT_REPLAYED = (
    "active_alarm", "backup_power", "maintenance", "emergency", "emergency_mode", "isolation", "local_lock",
    "protection_trip", "restarting", "coverage_sector", "coverage_site", "max_off_site", "max_off_region", "outranked",
)  # fmt: skip
"""Guards of which a history of readings tells nothing; with them a plan may switch less than is said here."""


@dataclass(frozen=True, slots=True)
class Past:
    """What the history holds of one load around one window, oldest first."""

    powers: Sequence[Sample] = ()
    """Of its meter. [kW]"""
    states: Sequence[Sample] = ()
    """Of its breaker: 0 open, 1 closed."""
    values: Mapping[Quantity, Sequence[Sequence[Sample]]] = field(default_factory=dict)
    """What conditions compare, of each source."""


@dataclass(frozen=True, slots=True)
class LoadWindow:
    """One window of one load."""

    off_at: datetime
    """With the load's own delay."""
    on_at: datetime


@dataclass(frozen=True, slots=True)
class SimulatedWindow:
    """What would have become of it."""

    load_id: LoadId
    off_at: datetime
    on_at: datetime
    went_off_at: datetime | None
    """When it would have gone off; None when it would have stayed on."""
    refusal: Refusal | None
    """What would have kept it on."""
    saved_kwh: float | None
    """What it drew from then on; None when nothing is known of it, and when it would have stayed on. [kWh]"""
    covered: float
    """Share of the time off that values cover, 0 to 1; 0 when it would have stayed on."""

    @property
    def off_s(self) -> float:
        """How long it would have been off. [s]"""
        return 0.0 if self.went_off_at is None else (self.on_at - self.went_off_at).total_seconds()


@dataclass(frozen=True, slots=True)
class Total:
    """What several windows come to."""

    count: int
    switched: int
    off_s: float
    saved_kwh: float | None
    """What is known to have been drawn in the windows that would have run; None when nothing is known. [kWh]"""
    covered: float | None
    """Share of these windows' time that values cover; None when none would have run."""
    skipped: Mapping[str, tuple[int, Refusal]]
    """How many would not have run, by guard, with the first refusal."""


def total(windows: Sequence[SimulatedWindow]) -> Total:
    """Return what windows come to."""
    known = [window.saved_kwh for window in windows if window.saved_kwh is not None]
    off_s = sum(window.off_s for window in windows)
    skipped: dict[str, tuple[int, Refusal]] = {}
    for window in windows:
        if window.refusal is not None:
            count, first = skipped.get(window.refusal.guard, (0, window.refusal))
            skipped[window.refusal.guard] = (count + 1, first)
    return Total(
        count=len(windows),
        switched=sum(window.went_off_at is not None for window in windows),
        off_s=off_s,
        saved_kwh=sum(known) if known else None,
        covered=sum(window.off_s * window.covered for window in windows) / off_s if off_s else None,
        skipped=skipped,
    )


class Replay:
    """One load through its windows, the oldest first: each may depend on those before."""

    def __init__(self, load: LoadInfo, conditions: Conditions, policy: Policy) -> None:
        """Begin with a load that was on and that nothing had switched.

        Args:
            load: As the registry has it today.
            conditions: Of the plan.
            policy: Limits in force for the load today.
        """
        self._load = load
        self._conditions = conditions
        self._policy = policy
        self._last_on_at: datetime | None = None
        self._offs: list[datetime] = []

    def run(self, window: LoadWindow, past: Past) -> SimulatedWindow:
        """Return what would have become of a window."""
        at, found = window.off_at, None
        last = min(window.off_at + timedelta(seconds=self._policy.off_grace_s), window.on_at)
        while True:
            found = self._refusal(window, past, at)
            if found is None or found.is_final or at + TRY_EVERY > last:
                break
            at += TRY_EVERY
        if found is not None:
            return SimulatedWindow(self._load.load_id, window.off_at, window.on_at, None, found, None, 0.0)
        self._last_on_at = window.on_at
        self._offs = [one for one in self._offs if one > at - DAY] + [at]
        energy_kwh, covered = energy(past.powers, at, window.on_at)
        return SimulatedWindow(self._load.load_id, window.off_at, window.on_at, at, None, energy_kwh, covered)

    def _refusal(self, window: LoadWindow, past: Past, at: datetime) -> Refusal | None:
        known = past.states[: bisect_right(past.states, at, key=_time)]
        read = known[-1] if known else None
        facts = Facts(
            reading=None
            if read is None
            else Reading(breaker=int(read.value), read_at=read.at, age_s=(at - read.at).total_seconds()),
            obstacle=self._load.obstacle if self._load.can_wake else (self._load.obstacle or "no_line"),
            lease_acknowledged=True,
            command_latency_s=self._load.command_latency_s,
            already_off=read is not None and read.value == 0,
            last_on_at=self._last_on_at,
            offs_last_day=sum(one > at - DAY for one in self._offs),
            keeps_coverage=self._load.keeps_coverage,
            condition=refusal(self._conditions, self._load.load_id, _Known(past, at), at),
        )
        return off_refusal(window.on_at, None, facts, at, self._policy)


class _Known:
    """What was known of a load at a time."""

    def __init__(self, past: Past, at: datetime) -> None:
        self._past = past
        self._at = at

    def series(self, load_id: str, quantity: Quantity) -> Sequence[Sequence[Sample]]:
        """Return the values up to then; whose they are is settled already."""
        sources = [self._past.powers] if quantity is Quantity.POWER else self._past.values.get(quantity, ())
        known = (samples[: bisect_right(samples, self._at, key=_time)] for samples in sources)
        return [samples for samples in known if samples]


def energy(powers: Sequence[Sample], start: datetime, end: datetime) -> tuple[float | None, float]:
    """Return the energy of ``[start, end)`` and the share of it that values cover.

    A value stands until the next one, and for ``MAX_AGE_S`` at most; missing stretches add nothing.

    Args:
        powers: Oldest first. [kW]
        start: Begin.
        end: End.

    Returns:
        Energy, None when no value covers any of it [kWh]; share, 0 to 1.
    """
    stands = timedelta(seconds=MAX_AGE_S[Quantity.POWER])
    energy_kwh = known_s = 0.0
    first = max(bisect_right(powers, start, key=_time) - 1, 0)
    for position in range(first, len(powers)):
        sample = powers[position]
        if sample.at >= end:
            break
        until = min(sample.at + stands, end)
        if position + 1 < len(powers):
            until = min(until, powers[position + 1].at)
        length_s = (until - max(sample.at, start)).total_seconds()
        if length_s > 0:
            known_s += length_s
            energy_kwh += sample.value * length_s / 3600
    if known_s == 0:
        return None, 0.0
    return energy_kwh, known_s / (end - start).total_seconds()


def _time(sample: Sample) -> datetime:
    return sample.at
