"""When a group of alarms is told, and what of it.

As Alertmanager does: a new group gathers for ``group_wait``, what is new afterwards waits for ``group_interval`` after
the last message, and what nobody takes up is told again after ``repeat_interval``. Further: quiet hours put off what
is not bad enough, a digest tells at its times only, and steps of escalation tell others of what is not acknowledged.
An end is told to whom the begin was told, whatever the route has become since then.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from services.alarm.domain.routing import Route


class MemberState(StrEnum):
    """Where an alarm of a group stands."""

    WAITING = "waiting"
    """Its begin, or that it became worse, is to be told."""
    TOLD = "told"
    ENDED = "ended"
    """Its begin was told, its end is to be."""


class Kind(StrEnum):
    """What a message is."""

    NEWS = "news"
    REMINDER = "reminder"
    ESCALATION = "escalation"
    DIGEST = "digest"
    SUMMARY = "summary"
    """Several groups in one message, because there would be too many messages."""
    TRIAL = "trial"


@dataclass(frozen=True, slots=True)
class Member:
    """An alarm in a group."""

    alarm_id: str
    site_id: str
    device_id: str | None
    signal: str
    level: int
    began_at: datetime
    sequence: int
    """Of the last event that was taken in."""
    text: str | None = None
    text_zh: str | None = None
    ended_at: datetime | None = None
    state: MemberState = MemberState.WAITING
    told_at: datetime | None = None
    """When its begin was first told."""
    told_to: tuple[str, ...] = ()
    escalated: int = 0
    """Steps of escalation that were taken."""
    inhibited: bool = False
    """Something explains it by now; what was told stays told, but nobody is reminded."""
    acknowledged: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """A group and when something of it was told."""

    group_id: str
    news_at: datetime | None
    """When what is new is due; None while nothing is."""
    told_at: datetime | None = None
    """When it was last told."""


@dataclass(frozen=True, slots=True)
class Telling:
    """A message to one channel."""

    kind: Kind
    channel_id: str
    begins: Sequence[Member]
    ends: Sequence[Member] = ()
    standing: int = 0
    """How many others of the group were told before and are still active."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to happen with a group now."""

    tellings: Sequence[Telling]
    changed: Sequence[Member]
    """Members as they stand afterwards, those that changed."""
    gone: Sequence[str]
    """Alarms that leave the group."""
    group: Group
    next_at: datetime | None
    """When to look again; None: not before something happens."""


def news_due(route: Route, group: Group, now: datetime) -> datetime:
    """Return when something that is new in a group now is to be told, with what is due there already.

    What quiet hours hold does not hold what comes later: whether that is loud enough is seen when its own time comes.
    """
    if route.digest_at:
        due = route.next_digest(now)
    elif group.told_at is None:
        due = now + timedelta(seconds=route.group_wait_s)
    else:
        due = max(group.told_at + timedelta(seconds=route.group_interval_s), now)
    return due if group.news_at is None else min(due, group.news_at)


def decide(route: Route, group: Group, members: Iterable[Member], now: datetime) -> Decision:
    """Return what is told of a group now, and how it stands afterwards."""
    standing = {member.alarm_id: member for member in members}
    changed: dict[str, Member] = {}
    gone: list[str] = []
    tellings: list[Telling] = []
    news_at, told_at = group.news_at, group.told_at
    quiet_until = route.quiet_until(now)

    def loud(member: Member) -> bool:
        return quiet_until is None or member.level <= route.quiet_told_level

    if news_at is not None and news_at <= now:
        begins = [m for m in standing.values() if m.state is MemberState.WAITING and not m.inhibited]
        ends = [m for m in standing.values() if m.state is MemberState.ENDED]
        said = [m for m in [*begins, *ends] if loud(m)]
        held = len(said) < len(begins) + len(ends)
        tellings += _news(route, said, standing.values())
        if tellings:
            told_at = now
        for member in said:
            if member.ended_at is not None:
                gone.append(member.alarm_id)
                del standing[member.alarm_id]
                continue
            told_to = tuple(dict.fromkeys((*member.told_to, *route.channels)))
            standing[member.alarm_id] = changed[member.alarm_id] = replace(
                member, state=MemberState.TOLD, told_at=member.told_at or now, told_to=told_to
            )
        news_at = quiet_until if held else None

    open_ = [m for m in standing.values() if _is_open(m)]
    for member, channels, steps in _escalated(route, filter(loud, open_), now):
        tellings += [Telling(Kind.ESCALATION, channel_id, [member]) for channel_id in channels]
        told_to = tuple(dict.fromkeys((*member.told_to, *channels)))
        standing[member.alarm_id] = changed[member.alarm_id] = replace(member, escalated=steps, told_to=told_to)
    repeat = timedelta(seconds=route.repeat_interval_s)
    if repeat and told_at is not None and open_ and not route.digest_at and told_at + repeat <= now:
        again = list(filter(loud, open_))
        tellings += [Telling(Kind.REMINDER, channel_id, again) for channel_id in route.channels if again]
        # In quiet hours there was nothing to say of the others; the next reminder comes after them.
        told_at = now
    after = replace(group, news_at=news_at, told_at=told_at)
    held_until = None if quiet_until is None else (route.quiet_told_level, quiet_until)
    next_at = _next(route, after, standing.values(), held_until)
    return Decision(_joined(tellings), list(changed.values()), gone, after, next_at)


def _is_open(member: Member) -> bool:
    """Return whether an alarm was told and nobody has taken it up, nor does anything explain it."""
    return member.state is MemberState.TOLD and not member.acknowledged and not member.inhibited


def _news(route: Route, said: Sequence[Member], members: Iterable[Member]) -> list[Telling]:
    kind = Kind.DIGEST if route.digest_at else Kind.NEWS
    told = {m.alarm_id for m in members if m.state is MemberState.TOLD}
    channels = dict.fromkeys((*route.channels, *(channel for m in said for channel in m.told_to)))
    found = []
    for channel_id in channels:
        begins = [m for m in said if m.state is MemberState.WAITING and channel_id in route.channels]
        ends = [m for m in said if m.state is MemberState.ENDED and channel_id in m.told_to]
        if begins or ends:
            found.append(Telling(kind, channel_id, begins, ends, len(told)))
    return found


def _escalated(route: Route, members: Iterable[Member], now: datetime) -> Iterable[tuple[Member, tuple[str, ...], int]]:
    """Yield the members whose next steps of escalation are due, with the channels and how many steps are taken then."""
    for member in members:
        if member.told_at is None:
            continue
        due = [
            step
            for step in route.escalation[member.escalated :]
            if member.told_at + timedelta(seconds=step.after_s) <= now
        ]
        if due:
            channels = tuple(dict.fromkeys(channel for step in due for channel in step.channels))
            yield member, channels, member.escalated + len(due)


def _joined(tellings: Iterable[Telling]) -> list[Telling]:
    """Return one telling for each kind and channel."""
    found: dict[tuple[Kind, str], Telling] = {}
    for telling in tellings:
        key = (telling.kind, telling.channel_id)
        known = found.get(key)
        found[key] = telling if known is None else replace(known, begins=[*known.begins, *telling.begins])
    return list(found.values())


def _next(route: Route, group: Group, members: Iterable[Member], held: tuple[int, datetime] | None) -> datetime | None:
    """Return when something of the group will be due.

    Args:
        route: Its route.
        group: As it stands afterwards.
        members: Those that stay.
        held: In quiet hours: the mildest level that is told, and when they end.
    """
    times = [] if group.news_at is None else [group.news_at]
    open_ = [m for m in members if _is_open(m)]
    if open_ and route.repeat_interval_s and group.told_at is not None and not route.digest_at:
        times.append(group.told_at + timedelta(seconds=route.repeat_interval_s))
    for member in open_:
        if member.told_at is not None and member.escalated < len(route.escalation):
            due = member.told_at + timedelta(seconds=route.escalation[member.escalated].after_s)
            times.append(due if held is None or member.level <= held[0] else max(due, held[1]))
    return min(times, default=None)
