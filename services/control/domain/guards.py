"""Guards: what forbids an OFF, and the two things that may stop an ON.

An OFF is forbidden by anything that makes its end doubtful. Some reasons end it at once (the load may never
be off), others may pass (stale data), and the OFF waits for that within its grace time.

An ON is stopped by nothing but danger to a person or to the plant: an active isolation or a lock set at the
breaker, and a protection trip that nobody has released. Both call a person at once.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from services.control.domain.refusals import Refusal

PROTECTION_TRIPS: Mapping[int, str] = {
    1: "overload",
    2: "short_circuit",
    3: "leakage",
    4: "overvoltage",
    5: "undervoltage",
    6: "phase_loss",
    7: "overtemperature",
    8: "arc",
}
"""Values of ``breaker_trip_reason`` that are protection trips. Remote (9), manual (10), test button (11), energy
limit (12), arrears (13) and unknown (99) are none: no rule lets them block an ON."""


RESTART_S = 240.0
"""A restarted device answers again within this, or a person is needed; the holder itself waits shorter. [s]"""


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits of switching, from the settings. [s] and [kW] as the names say."""

    off_grace_s: float = 600.0
    """A late OFF is dropped after this."""
    min_off_s: float = 300.0
    """Less off time than this is not worth a switching."""
    min_on_s: float = 300.0
    """Least time between a wake-up and the next OFF."""
    max_offs_per_day: int = 12
    """OFFs of one load within 24 hours."""
    stale_after_s: float = 300.0
    """A breaker not read for this long is not switched off; the age limit of ``breaker_state``."""
    max_command_latency_s: float = 60.0
    """A device that hears commands later than this (sleeping NB-IoT) is not switched off."""
    accept_timeout_s: float = 10.0
    """A sending that no holder of a line has accepted by then is void."""
    verify_timeout_s: float = 45.0
    """An accepted command is executed and read back by then."""
    settle_s: float = 2.0
    """Clocks of control and ingest may differ by this much."""
    look_every_s: float = 2.0
    """Pause between looks at a breaker whose state is in doubt."""
    on_look_limit_s: float = 6.0
    """An ON in doubt is sent again after this even if nobody can look."""
    off_look_limit_s: float = 60.0
    """An OFF in doubt is given up, and woken from, after this."""
    off_attempts: int = 2
    """Sendings of one OFF; the second only after the breaker was read closed."""
    on_retry_first_s: float = 2.0
    on_retry_cap_s: float = 60.0
    """Pauses between sendings of an ON double from the first to the cap."""
    hold_look_s: float = 10.0
    """How often a held wake-up looks whether the obstacle has gone."""
    queue_look_s: float = 1.0
    """How often a waiting command looks again."""
    overdue_margin_s: float = 60.0
    """A wake-up not verified by then raises an alarm of level 1."""
    off_power_max_kw: float = 0.05
    """A load that draws more than this behind an open breaker is not off."""
    coverage_layer_stays: bool = True
    """Radio units of the layer that keeps coverage, or of an unknown one, stay on."""
    min_on_sector: int = 0
    """Radio units of a sector that stay on at least."""
    min_on_site: int = 0
    """Radio units of a site that stay on at least."""
    max_off_site: int | None = None
    """Loads of a site that are off at once at most; None is any number."""
    max_off_region: Mapping[str, int] = field(default_factory=dict)
    """Loads that are off at once at most, by region; all of them hold."""
    alarm_level: int = 1
    """An active alarm of the site of this level or worse forbids OFFs; 0 is none."""
    device_alarm_level: int = 2
    """The same for an alarm of the breaker or of the meter behind it."""
    alarm_signals: tuple[str, ...] = ()
    """Signals that forbid OFFs at any level, as patterns (``0?18002*``)."""
    backup_power_signals: tuple[str, ...] = ("0?06005*", "0?06016*", "0?16005*", "0?16006*")
    """Signals that say that battery or generator feeds the site: running on battery, mains failed at the rectifier,
    mains route without voltage, generator route with voltage; of the compact tower dictionary."""
    maintenance: bool = True
    """A maintenance window over the load forbids OFFs."""
    two_persons: bool = False
    """A second person has to agree to an OFF that was ordered."""
    two_persons_above: int = 0
    """The same for orders of more loads than this; 0 is none."""

    def wants_second_person(self, loads: int) -> bool:
        """Return whether a second person has to agree to an order or a plan of so many loads."""
        return self.two_persons or 0 < self.two_persons_above < loads


class Hold(StrEnum):
    """Why an ON stands still."""

    ISOLATION = "isolation"
    LOCAL_LOCK = "local_lock"
    PROTECTION_TRIP = "protection_trip"


@dataclass(frozen=True, slots=True)
class Reading:
    """What ingest's direct door says of a load's breaker."""

    breaker: int | None
    """0 open, 1 closed, None unknown."""
    read_at: datetime | None
    age_s: float | None
    local_lock: bool | None = None
    trip_reason: int | None = None

    def as_evidence(self) -> dict[str, object]:
        """Return the reading for the command's history."""
        return {
            "breaker_state": self.breaker,
            "read_at": None if self.read_at is None else self.read_at.isoformat(),
            "local_lock": self.local_lock,
            "trip_reason": self.trip_reason,
            "source": "direct_door",
        }


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a load when a command for it is due."""

    reading: Reading | None = None
    """None when the direct door did not answer or does not know the load."""
    obstacle: str | None = None
    """Why the load may never be switched off by us: ``never_off``, ``no_breaker``, ``unknown_load`` …"""
    busy: bool = False
    """Another command for the device is in flight."""
    lease_acknowledged: bool = False
    """The watchdog has the OFF's lease on its disk."""
    isolation_id: str | None = None
    """Isolation in force on the load."""
    emergency: str | None = None
    """Wake-up order in force over the load, not released."""
    released_trip: int | None = None
    """Trip reason that a person has released since it was last seen."""
    clock_problem: str | None = None
    """Why our clock cannot be trusted; None when it can."""
    command_latency_s: float | None = None
    already_off: bool = False
    """Another OFF of the load is in force."""
    last_on_at: datetime | None = None
    """When it was last proven on after an OFF."""
    offs_last_day: int = 0
    """OFFs sent within 24 hours, without this one."""
    keeps_coverage: bool = False
    """It belongs to the coverage layer, or nobody has said that it does not."""
    unreadable: str | None = None
    """Why the policies, or what they need, could not be read; None when all is known."""
    emergency_mode: str | None = None
    """Emergency mode that a person has declared over the load's place."""
    maintenance: str | None = None
    """Maintenance window over the load, with its end."""
    alarm: str | None = None
    """Active alarm that the policy names, with signal and level."""
    backup_power: str | None = None
    """Active alarm that says that battery or generator feeds the site."""
    restart: str | None = None
    """Restart of the device that was sent and is not proven over."""
    crowding: Refusal | None = None
    """What the counts of the sector, the site and the regions say."""
    condition: Refusal | None = None
    """Condition of its plan that is not met."""
    caller: Refusal | None = None
    """What the limits of the upstream app that ordered it say, or its site, which has opted out."""
    answers_come: bool = False
    """The lines have answered something within the last seconds: the bus works."""


def off_refusal(
    restore_at: datetime | None, isolation_id: str | None, facts: Facts, now: datetime, policy: Policy
) -> Refusal | None:
    """Return the first guard that forbids an OFF now, None when it may be sent.

    Args:
        restore_at: When the load is to be on again; absent only under an isolation.
        isolation_id: The work permit under which the OFF is open-ended.
        facts: What is known of the load.
        now: The time.
        policy: Limits in force for the load.
    """
    return next(off_refusals(restore_at, isolation_id, facts, now, policy), None)


def off_refusals(
    restore_at: datetime | None, isolation_id: str | None, facts: Facts, now: datetime, policy: Policy
) -> Iterator[Refusal]:
    """Yield every guard that forbids an OFF now, those that waiting does not help before the others.

    What protects the network, the plant's supply or somebody's wear does not keep a person from isolating what they
    have to work on.
    """
    isolating = isolation_id is not None
    if restore_at is None and not isolating:
        yield Refusal("restore_at_missing", None, None, True)
    if facts.obstacle is not None:
        yield Refusal(facts.obstacle, True, False, True)
    if facts.isolation_id is not None and facts.isolation_id != isolation_id:
        yield Refusal("isolation", facts.isolation_id, None, True)
    latency_s = facts.command_latency_s
    if latency_s is not None and latency_s > policy.max_command_latency_s:
        yield Refusal("command_latency", latency_s, policy.max_command_latency_s, True)
    found = [] if isolating else list(_of_the_place(restore_at, facts, now, policy))
    yield from (refusal for refusal in found if refusal.is_final)
    yield from (refusal for refusal in found if not refusal.is_final)
    if facts.clock_problem is not None:
        yield Refusal("clock_not_synchronised", facts.clock_problem, None, False)
    if facts.restart is not None:
        yield Refusal("restarting", facts.restart, RESTART_S, False)
    doubt = _doubtful_reading(facts.reading, facts.released_trip, policy)
    if doubt is not None:
        yield doubt


def _of_the_place(restore_at: datetime | None, facts: Facts, now: datetime, policy: Policy) -> Iterator[Refusal]:
    """Yield what an isolation passes."""
    if facts.caller is not None:
        yield facts.caller
    if facts.emergency is not None:
        yield Refusal("emergency", facts.emergency, None, True)
    if facts.emergency_mode is not None:
        yield Refusal("emergency_mode", facts.emergency_mode, None, True)
    if facts.already_off:
        yield Refusal("already_off", True, False, True)
    if facts.keeps_coverage and policy.coverage_layer_stays:
        yield Refusal("coverage_layer", True, False, True)
    if restore_at is not None:
        left_s = (restore_at - now).total_seconds()
        if left_s < policy.min_off_s:
            yield Refusal("too_little_left", left_s, policy.min_off_s, True)
    if facts.offs_last_day >= policy.max_offs_per_day:
        yield Refusal("switches_per_day", facts.offs_last_day, policy.max_offs_per_day, True)
    if facts.last_on_at is not None:
        on_s = (now - facts.last_on_at).total_seconds()
        if on_s < policy.min_on_s:
            yield Refusal("min_on_time", on_s, policy.min_on_s, False)
    if facts.unreadable is not None:
        yield Refusal("guards_unknown", facts.unreadable, None, False)
    if facts.maintenance is not None and policy.maintenance:
        yield Refusal("maintenance", facts.maintenance, None, False)
    if facts.alarm is not None:
        yield Refusal("active_alarm", facts.alarm, policy.alarm_level, False)
    if facts.backup_power is not None:
        yield Refusal("backup_power", facts.backup_power, None, False)
    if facts.condition is not None:
        yield facts.condition
    if facts.crowding is not None:
        yield facts.crowding


def _doubtful_reading(reading: Reading | None, released_trip: int | None, policy: Policy) -> Refusal | None:
    if reading is None or reading.age_s is None or reading.breaker is None:
        return Refusal("stale_data", None, policy.stale_after_s, False)
    if reading.age_s > policy.stale_after_s:
        return Refusal("stale_data", reading.age_s, policy.stale_after_s, False)
    if reading.local_lock:
        return Refusal("local_lock", True, False, False)
    # Some breakers keep the reason of their last trip for ever: the wake-up would be taken for that of a fresh one.
    trip = unreleased_trip(reading.trip_reason, released_trip)
    return None if trip is None else Refusal("protection_trip", trip, None, False)


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What stops an ON."""

    hold: Hold
    evidence: Mapping[str, object]


def on_obstacle(facts: Facts) -> Obstacle | None:
    """Return which of the two exceptions stops an ON, None when it must be sent.

    A lock or a trip matters only while the breaker is not known to be closed: otherwise nothing is to be switched.
    """
    if facts.isolation_id is not None:
        return Obstacle(Hold.ISOLATION, {"isolation_id": facts.isolation_id})
    reading = facts.reading
    if reading is None:
        return None
    return obstacle_seen(
        reading.breaker, reading.local_lock, reading.trip_reason, facts.released_trip, evidence=reading.as_evidence()
    )


def obstacle_seen(
    breaker: int | None,
    local_lock: bool | None,
    trip_reason: int | None,
    released_trip: int | None,
    *,
    evidence: Mapping[str, object],
) -> Obstacle | None:
    """Return which obstacle the breaker itself shows, None while it is closed or shows none."""
    if breaker == 1:
        return None
    if local_lock:
        return Obstacle(Hold.LOCAL_LOCK, evidence)
    trip = unreleased_trip(trip_reason, released_trip)
    if trip is not None:
        return Obstacle(Hold.PROTECTION_TRIP, {**evidence, "trip": trip})
    return None


def unreleased_trip(trip_reason: int | None, released: int | None) -> str | None:
    """Return the name of a protection trip that stands and that nobody has released."""
    if trip_reason is None or trip_reason == released:
        return None
    return PROTECTION_TRIPS.get(trip_reason)
