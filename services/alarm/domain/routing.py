"""Who is told of an alarm: routes, in their order, by place, level, signal, device kind and time of day.

The first route that matches takes an alarm, unless it says that those behind it may take it too. A route knows what
belongs together in one message (``group_by``) and when the message goes out: see ``grouping``.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

GROUP_NAMESPACE = uuid.UUID("6b3f3f0e-5f59-4c5b-9b55-0a4c5d8a6d2e")
EVERY_DAY = frozenset(range(7))
DAY = timedelta(days=1)


class GroupBy(StrEnum):
    """What alarms of one message have in common."""

    SITE = "site"
    REGION = "region"
    SIGNAL = "signal"
    LEVEL = "level"


@dataclass(frozen=True, slots=True)
class Subject:
    """What a route sees of an alarm."""

    alarm_id: str
    site_id: str
    signal: str
    level: int
    regions: Sequence[str] = ()
    """The region of its site and those that this lies in, smallest first."""
    station_class: str | None = None
    device_kind: str | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """Which alarms; None does not limit."""

    regions: frozenset[str] | None = None
    sites: frozenset[str] | None = None
    station_classes: frozenset[str] | None = None
    levels: frozenset[int] | None = None
    signals: tuple[str, ...] | None = None
    """Codes of the signal table; one that ends in ``*`` stands for all that begin so."""
    device_kinds: frozenset[str] | None = None

    def takes(self, subject: Subject) -> bool:
        """Return whether an alarm is one of these."""
        return (
            (self.regions is None or not self.regions.isdisjoint(subject.regions))
            and (self.sites is None or subject.site_id in self.sites)
            and (self.station_classes is None or subject.station_class in self.station_classes)
            and (self.levels is None or subject.level in self.levels)
            and (self.signals is None or any(_is_like(subject.signal, code) for code in self.signals))
            and (self.device_kinds is None or subject.device_kind in self.device_kinds)
        )


@dataclass(frozen=True, slots=True)
class Hours:
    """Hours of some days of the week, ``[start, end)`` in local time; an end that is not later is that of the next day.

    What goes over midnight belongs to the day on which it begins.
    """

    start: time
    end: time
    days: frozenset[int] = EVERY_DAY
    """Monday is 0."""

    def ends_at(self, local: datetime) -> datetime | None:
        """Return when the hours end that a local time lies in, None when it lies in none."""
        for day in (local.date() - DAY, local.date()):
            if day.weekday() not in self.days:
                continue
            start = datetime.combine(day, self.start, local.tzinfo)
            end = datetime.combine(day if self.end > self.start else day + DAY, self.end, local.tzinfo)
            if start <= local < end:
                return end
        return None


@dataclass(frozen=True, slots=True)
class Step:
    """Whom to tell as well when nobody has acknowledged for so long."""

    after_s: float
    channels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Route:
    """Which alarms are told to whom, and how."""

    route_id: str
    position: int
    channels: tuple[str, ...]
    match: Match = field(default_factory=Match)
    times: tuple[Hours, ...] = ()
    """When it counts; none: always."""
    zone: str = "Asia/Shanghai"
    """Whose local time all hours are in."""
    group_by: tuple[GroupBy, ...] = (GroupBy.REGION, GroupBy.SIGNAL)
    group_wait_s: float = 30.0
    """A new group gathers for so long before it is told."""
    group_interval_s: float = 300.0
    """What is new in a group that was told waits until so long after."""
    repeat_interval_s: float = 14_400.0
    """What nobody has acknowledged is told again; 0: never."""
    quiet: tuple[Hours, ...] = ()
    """When nothing is told but ``quiet_told_level`` and worse; the rest follows afterwards if it still lasts."""
    quiet_told_level: int = 1
    digest_at: tuple[time, ...] = ()
    """Where given, everything is told together at these times only."""
    escalation: tuple[Step, ...] = ()
    tell_ends: bool = True
    continues: bool = False
    """Routes behind this one may take the alarm too."""

    def counts_at(self, now: datetime) -> bool:
        """Return whether the route counts now."""
        return not self.times or _end_of(self.times, self.local(now)) is not None

    def quiet_until(self, now: datetime) -> datetime | None:
        """Return when the quiet hours end that now lies in, None when it lies in none."""
        end = _end_of(self.quiet, self.local(now))
        return None if end is None else end.astimezone(UTC)

    def next_digest(self, now: datetime) -> datetime:
        """Return the next time of a digest, after now."""
        local = self.local(now)
        times = (
            datetime.combine(local.date() + DAY * ahead, at, local.tzinfo) for ahead in (0, 1) for at in self.digest_at
        )
        return min(at for at in times if at > local).astimezone(UTC)

    def local(self, now: datetime) -> datetime:
        """Return a time as the clocks of the route's zone show it."""
        return now.astimezone(ZoneInfo(self.zone))

    def key_of(self, subject: Subject) -> str:
        """Return what an alarm has in common with the others of its group, ``name=value`` joined by commas."""
        values = {
            GroupBy.SITE: subject.site_id,
            GroupBy.REGION: subject.regions[0] if subject.regions else "-",
            GroupBy.SIGNAL: subject.signal,
            GroupBy.LEVEL: str(subject.level),
        }
        return ",".join(f"{by.value}={values[by]}" for by in self.group_by)

    def group_of(self, subject: Subject) -> str:
        """Return the id of the group that an alarm belongs to; the same whoever asks."""
        return str(uuid.uuid5(GROUP_NAMESPACE, f"{self.route_id}|{self.key_of(subject)}"))


def routes_for(routes: Iterable[Route], subject: Subject, now: datetime) -> list[Route]:
    """Return the routes that take an alarm, in their order."""
    found: list[Route] = []
    for route in sorted(routes, key=lambda one: (one.position, one.route_id)):
        if route.match.takes(subject) and route.counts_at(now):
            found.append(route)
            if not route.continues:
                break
    return found


def _end_of(hours: Iterable[Hours], local: datetime) -> datetime | None:
    ends = [end for one in hours if (end := one.ends_at(local)) is not None]
    return max(ends, default=None)


def _is_like(signal: str, code: str) -> bool:
    return signal.startswith(code[:-1]) if code.endswith("*") else signal == code
