"""What the watchdog knows and decides: which loads may be off, until when, and which it has to wake.

It is level-triggered. It never asks what was commanded, only what the breakers read and which leases stand. A
load that reads open without a valid lease is woken, whoever opened it: also a person at the breaker who has set
neither the lock nor a work permit, for nobody but an isolation may put off an ON.

A lease ends at the earliest of three times, each with a margin: its wall time; the same as a length, counted by the
monotonic clock from the moment we were told; and the longest off time, counted from the moment the breaker was first
read open. So a wall clock that is put back does not prolong it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from services.control.domain.guards import Hold, unreleased_trip


@dataclass(frozen=True, slots=True)
class Moment:
    """Now, by every clock there is."""

    wall: datetime
    monotonic: float
    """[s]"""
    boot: str
    """Which run of the kernel the monotonic clock belongs to."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A load may be off."""

    command_id: str
    load_id: str
    device_id: str
    channel: int | None
    site_id: str
    restore_at: datetime
    off_at_most_s: float
    isolation_id: str | None
    boot: str
    deadline: float
    """Monotonic time of its end, in the run ``boot`` of the kernel. [s]"""
    opened_at: float | None = None
    """Monotonic time at which the breaker was first read open under it. [s]"""

    def is_valid(self, now: Moment, margin_s: float) -> bool:
        """Return whether the load may be off now."""
        return self.over_for_s(now) < margin_s

    def over_for_s(self, now: Moment) -> float:
        """Return how long the lease has been over; negative while it is not. [s]"""
        bounds = [(now.wall - self.restore_at).total_seconds()]
        if now.boot == self.boot:
            bounds.append(now.monotonic - self.deadline)
            if self.opened_at is not None:
                bounds.append(now.monotonic - self.opened_at - self.off_at_most_s)
        return max(bounds)

    def rebooted(self, now: Moment) -> "Lease":
        """Return the lease with its lengths counted from now, after the machine has been started again."""
        if now.boot == self.boot:
            return self
        left_s = min(max((self.restore_at - now.wall).total_seconds(), 0.0), self.off_at_most_s)
        return replace(self, boot=now.boot, deadline=now.monotonic + left_s, opened_at=None)


@dataclass(slots=True)
class Book:
    """Everything the watchdog must not forget; a fold over its journal."""

    leases: dict[str, Lease] = field(default_factory=dict)
    """By OFF command."""
    released_trips: dict[str, int] = field(default_factory=dict)
    """Trip reasons that a person has released, by load."""
    told: dict[str, str] = field(default_factory=dict)
    """Findings that control has taken over and that have not ended: ``<load>|<kind>`` to their text."""
    epoch: int = 0
    """Of the control process that spoke last; an older one is not listened to."""
    is_complete: bool = False
    """Whether control has ever told us everything; before that an isolation may be missing."""

    def apply(self, record: Mapping[str, Any]) -> None:
        """Take one record of the journal."""
        match record["kind"]:
            case "put":
                self._put(record)
            case "opened":
                lease = self.leases.get(record["command_id"])
                if lease is not None:
                    self.leases[lease.command_id] = replace(
                        lease, boot=record["boot"], opened_at=record["monotonic"], deadline=record["deadline"]
                    )
            case "rebooted":
                lease = self.leases.get(record["command_id"])
                if lease is not None:
                    changes = {"boot": record["boot"], "deadline": record["deadline"], "opened_at": None}
                    self.leases[lease.command_id] = replace(lease, **changes)
            case "ended":
                for command_id in record["command_ids"]:
                    self.leases.pop(command_id, None)
            case "told":
                for key, text in record["findings"].items():
                    if text is None:
                        self.told.pop(key, None)
                    else:
                        self.told[key] = text
            case "state":
                self._restore(record)
            case unknown:
                raise ValueError(f"unknown record {unknown!r}")

    def _put(self, record: Mapping[str, Any]) -> None:
        incoming = {lease["command_id"]: read_lease(lease) for lease in record["leases"]}
        if record["complete"]:
            self.is_complete = True
            for command_id in self.leases.keys() - incoming.keys():
                del self.leases[command_id]
        for command_id, lease in incoming.items():
            known = self.leases.get(command_id)
            if known is not None and known.boot == lease.boot:
                # Told again: it never gets longer by that, and what was seen of it stays.
                lease = replace(lease, deadline=min(known.deadline, lease.deadline), opened_at=known.opened_at)
            self.leases[command_id] = lease
        for command_id in record["ended"]:
            self.leases.pop(command_id, None)
        self.released_trips = {load_id: int(trip) for load_id, trip in record["released_trips"].items()}
        self.epoch = max(self.epoch, record["epoch"])

    def _restore(self, record: Mapping[str, Any]) -> None:
        self.leases = {lease["command_id"]: read_lease(lease) for lease in record["leases"]}
        self.released_trips = {load_id: int(trip) for load_id, trip in record["released_trips"].items()}
        self.told = dict(record["told"])
        self.epoch = record["epoch"]
        self.is_complete = record["is_complete"]

    def as_record(self) -> dict[str, Any]:
        """Return the whole book as one record."""
        return {
            "kind": "state",
            "leases": [write_lease(lease) for lease in self.leases.values()],
            "released_trips": self.released_trips,
            "told": self.told,
            "epoch": self.epoch,
            "is_complete": self.is_complete,
        }


def read_lease(raw: Mapping[str, Any]) -> Lease:
    """Return the lease of a journal record."""
    values = dict(raw)
    values["restore_at"] = datetime.fromisoformat(values["restore_at"])
    return Lease(**values)


def write_lease(lease: Lease) -> dict[str, Any]:
    """Return a lease for the journal."""
    return {
        "command_id": lease.command_id,
        "load_id": lease.load_id,
        "device_id": lease.device_id,
        "channel": lease.channel,
        "site_id": lease.site_id,
        "restore_at": lease.restore_at.isoformat(),
        "off_at_most_s": lease.off_at_most_s,
        "isolation_id": lease.isolation_id,
        "boot": lease.boot,
        "deadline": lease.deadline,
        "opened_at": lease.opened_at,
    }


@dataclass(frozen=True, slots=True)
class Seen:
    """What a door says of one load."""

    load_id: str
    device_id: str | None
    site_id: str | None
    channel: int | None
    breaker: int | None
    """0 open, 1 closed, None never read."""
    age_s: float | None
    local_lock: bool | None = None
    trip_reason: int | None = None
    isolation_id: str | None = None
    """Work permit under which the line's holder has opened it."""


class Verdict(StrEnum):
    """What is to be done about a load."""

    FINE = "fine"
    """Closed, or off by right."""
    OVER = "over"
    """Closed, and its leases are over: they can be forgotten."""
    WAKE = "wake"
    CALL = "call"
    """To be woken, but a person has to go there first."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A load and what is to be done about it."""

    load_id: str
    device_id: str | None
    site_id: str | None
    channel: int | None
    verdict: Verdict
    text: str = "overdue"
    """``overdue``, or the hold that forbids the ON."""
    had_lease: bool = False
    """A lease has run out, as opposed to none ever having been there."""
    is_closed: bool = False
    """It reads closed; ``age_s`` says how long ago that was seen."""
    age_s: float | None = None
    """[s]"""


def judge(book: Book, seen: Mapping[str, Seen], waking: Iterable[str], now: Moment, margin_s: float) -> list[Judgement]:
    """Return what is to be done about every load that a door shows, that has a lease, or that is being woken.

    Args:
        book: Leases and released trips.
        seen: What the doors show, by load; a load that is not there is unknown.
        waking: Loads that are being woken already; they stay so until they are read closed.
        now: The time.
        margin_s: How long after its end a lease is still honoured. [s]
    """
    leases: dict[str, list[Lease]] = {}
    for lease in book.leases.values():
        leases.setdefault(lease.load_id, []).append(lease)
    already = set(waking)
    found = []
    for load_id in sorted(seen.keys() | leases.keys() | already):
        found.append(
            _judge_one(book, load_id, seen.get(load_id), leases.get(load_id, []), load_id in already, now, margin_s)
        )
    return found


def _judge_one(
    book: Book, load_id: str, seen: Seen | None, leases: list[Lease], waking: bool, now: Moment, margin_s: float
) -> Judgement:
    about = leases[0] if leases else None
    is_closed = seen is not None and seen.breaker == 1
    judgement = Judgement(
        load_id=load_id,
        device_id=seen.device_id
        if seen is not None and seen.device_id
        else (None if about is None else about.device_id),
        site_id=seen.site_id if seen is not None and seen.site_id else (None if about is None else about.site_id),
        channel=seen.channel if seen is not None and seen.channel else (None if about is None else about.channel),
        verdict=Verdict.FINE,
        had_lease=bool(leases),
        is_closed=is_closed,
        age_s=seen.age_s if seen is not None and is_closed else None,
    )
    valid = [lease for lease in leases if lease.is_valid(now, margin_s)]
    isolated = any(lease.isolation_id is not None for lease in valid)
    if seen is not None and is_closed:
        if valid or not leases:
            return judgement
        # A reading from before the lease ended says nothing: the OFF may have come after it.
        since_end_s = min(lease.over_for_s(now) for lease in leases)
        if seen.age_s is not None and seen.age_s < since_end_s:
            return replace(judgement, verdict=Verdict.OVER)
    if valid and not waking:
        return judgement
    if isolated:
        return replace(judgement, verdict=Verdict.CALL, text=Hold.ISOLATION.value)
    if valid:
        return judgement  # a lease has come while we were waking: it is off by right again
    known_open = seen is not None and seen.breaker == 0
    if not (known_open or leases or waking):
        return judgement  # never read, and nobody ever wanted it off
    if seen is not None and seen.isolation_id is not None and not book.is_complete:
        # Control has never told us what is isolated; the line's holder may know.
        return replace(judgement, verdict=Verdict.CALL, text=Hold.ISOLATION.value)
    if seen is not None and seen.local_lock:
        return replace(judgement, verdict=Verdict.CALL, text=Hold.LOCAL_LOCK.value)
    trip = None if seen is None else unreleased_trip(seen.trip_reason, book.released_trips.get(load_id))
    if trip is not None:
        return replace(judgement, verdict=Verdict.CALL, text=Hold.PROTECTION_TRIP.value)
    return replace(judgement, verdict=Verdict.WAKE)
