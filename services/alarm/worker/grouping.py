"""Alarm events into groups that are told together: who is to be told, decided with the position of the event."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from libs.common.bus.port import Received
from libs.common.clock import Clock
from libs.common.contracts.alarm import AlarmEvent
from libs.common.contracts.base import Phase
from libs.common.db import WriteConn
from services.alarm import bus
from services.alarm.domain.grouping import Group, Member, MemberState, news_due
from services.alarm.domain.places import Place
from services.alarm.domain.routing import Route, Subject, routes_for
from services.alarm.domain.rulebook import Target
from services.alarm.store import groups as groups_store
from services.alarm.store import routes as routes_store
from services.alarm.store.groups import GroupRow

logger = logging.getLogger(__name__)

NOTIFICATIONS_GROUP = "alarm.notifications"
EVENTS_AT_ONCE = 500
"""Events of a transaction: each is held against every route while the server waits, and that it does for
``effects_idle_timeout_s`` only."""

_Key = tuple[str, str]
"""Group and alarm."""


class Directory(Protocol):
    """What routing asks of the registry."""

    def target(self, device_id: str) -> Target | None:
        """Return what is known of a device."""

    def place(self, site_id: str) -> Place | None:
        """Return where a site is."""


@dataclass(slots=True)
class _Work:
    """What a batch makes of groups and members."""

    groups: Mapping[str, GroupRow]
    members: dict[_Key, Member]
    over: set[str]
    """Alarms that have ended by now, whatever an old event says."""
    put: set[_Key] = field(default_factory=set)
    gone: set[_Key] = field(default_factory=set)
    news: dict[str, datetime] = field(default_factory=dict)
    """Group to when what is new in it is due."""
    looks: set[str] = field(default_factory=set)
    """Groups in which something changed that may change when they are told."""


class GroupingHandler:
    """Effects of alarm events: see ``consumer.EffectHandler``. Keeps nothing in memory."""

    def __init__(self, *, directory: Directory, clock: Clock) -> None:
        """Keep what is needed.

        Args:
            directory: The registry; to be ready before the first batch.
            clock: Our clock.
        """
        self._directory = directory
        self._clock = clock

    async def load(self, conn: WriteConn, partitions: frozenset[int]) -> None:
        """Nothing is kept in memory."""

    def drop(self, partitions: frozenset[int]) -> None:
        """Nothing is kept in memory."""

    def committed(self) -> None:
        """Nothing is kept in memory; the teller looks by itself."""

    async def handle(self, conn: WriteConn, batch: Sequence[Received]) -> None:
        """Take events into the groups of their alarms.

        Raises:
            PoisonMessage: A message is no alarm event.
        """
        events = [event for event in map(bus.read_alarm_event, batch) if not event.historical]
        if not events:
            return
        now = self._clock.now()
        subjects = [self._subject(event) for event in events]
        alarm_ids = {event.alarm_id for event in events}
        routes = await routes_store.fetch_enabled_routes(conn)
        taking: dict[int, list[Route]] = {}
        wanted: dict[str, tuple[str, str]] = {}
        for number, (event, subject) in enumerate(zip(events, subjects, strict=True)):
            if event.phase is not Phase.END and event.inhibited_by is None:
                taking[number] = routes_for(routes.values(), subject, now)
                for route in taking[number]:
                    wanted[route.group_of(subject)] = (route.route_id, route.key_of(subject))
        known = await groups_store.fetch_groups_of(conn, alarm_ids)
        groups = await groups_store.lock_groups(conn, wanted, known)
        members = await groups_store.fetch_members_of(conn, alarm_ids)
        work = _Work(groups, members, await groups_store.fetch_ended(conn, alarm_ids))
        by_alarm: dict[str, set[str]] = {}
        for group_id, alarm_id in members:
            by_alarm.setdefault(alarm_id, set()).add(group_id)
        for number, event in enumerate(events):
            mine = by_alarm.setdefault(event.alarm_id, set())
            for group_id in mine:
                self._update(work, routes, (group_id, event.alarm_id), event, now)
            # An alarm stays in the group that it came into, also when its level would put it into another.
            told_by = {groups[group_id].route_id for group_id in mine if group_id in groups}
            for route in taking.get(number, ()):
                key = (route.group_of(subjects[number]), event.alarm_id)
                if route.route_id not in told_by and self._join(work, route, key, event, now):
                    mine.add(key[0])
        await self._store(conn, work)

    def _join(self, work: _Work, route: Route, key: _Key, event: AlarmEvent, now: datetime) -> bool:
        """Let an alarm into a group, unless it is over already and nobody will want to know."""
        if event.alarm_id in work.over and not route.digest_at:
            return False
        work.members[key] = Member(
            alarm_id=event.alarm_id,
            site_id=event.site_id,
            device_id=event.device_id,
            signal=event.signal,
            level=int(event.level),
            began_at=event.began_at,
            sequence=event.sequence,
            text=_text(event.signal_name, event),
            text_zh=_text(event.signal_name_zh, event) or event.text_zh,
        )
        self._is_new(work, route, key, now)
        return True

    def _update(self, work: _Work, routes: Mapping[str, Route], key: _Key, event: AlarmEvent, now: datetime) -> None:
        """Take an event of an alarm that is in a group."""
        member = work.members.get(key)
        row = work.groups.get(key[0])
        if member is None or row is None or event.sequence <= member.sequence:
            return
        route = routes.get(row.route_id) or Route(row.route_id, 0, ())
        if event.phase is Phase.END:
            self._end(work, route, key, replace(member, sequence=event.sequence, ended_at=event.ended_at), now)
            return
        worse = int(event.level) < member.level
        after = replace(
            member,
            sequence=event.sequence,
            level=int(event.level),
            inhibited=event.inhibited_by is not None,
            state=MemberState.WAITING if worse else member.state,
        )
        work.members[key] = after
        work.put.add(key)
        work.looks.add(key[0])
        if after.state is MemberState.WAITING and not after.inhibited:
            self._is_new(work, route, key, now)

    def _end(self, work: _Work, route: Route, key: _Key, ended: Member, now: datetime) -> None:
        if ended.told_to and route.tell_ends:
            work.members[key] = replace(ended, state=MemberState.ENDED)
        elif route.digest_at and not ended.inhibited and not ended.told_to:
            work.members[key] = ended
        else:
            del work.members[key]
            work.put.discard(key)
            work.gone.add(key)
            return
        self._is_new(work, route, key, now)

    def _is_new(self, work: _Work, route: Route, key: _Key, now: datetime) -> None:
        work.put.add(key)
        work.gone.discard(key)
        group = work.groups[key[0]].group
        known = work.news.get(key[0], group.news_at)
        work.news[key[0]] = news_due(route, replace(group, news_at=known), now)

    async def _store(self, conn: WriteConn, work: _Work) -> None:
        await groups_store.put_members(conn, {key: work.members[key] for key in work.put})
        await groups_store.delete_members(conn, work.gone)
        changed: list[tuple[Group, datetime | None]] = []
        for group_id, row in work.groups.items():
            news_at = work.news.get(group_id, row.group.news_at)
            times = [at for at in (row.next_at, news_at) if at is not None]
            if news_at != row.group.news_at or row.next_at is None or group_id in work.looks:
                # A group that nothing came of is looked at once, and forgotten if it is empty.
                next_at = self._clock.now() if group_id in work.looks else min(times, default=self._clock.now())
                changed.append((replace(row.group, news_at=news_at), next_at))
        await groups_store.put_groups(conn, changed)

    def _subject(self, event: AlarmEvent) -> Subject:
        place = self._directory.place(event.site_id)
        target = None if event.device_id is None else self._directory.target(event.device_id)
        return Subject(
            alarm_id=event.alarm_id,
            site_id=event.site_id,
            signal=event.signal,
            level=int(event.level),
            regions=() if place is None else place.regions,
            station_class=None if place is None else place.station_class,
            device_kind=None if target is None else target.kind,
        )


def _text(name: str | None, event: AlarmEvent) -> str | None:
    """Return what an alarm is, with the value that decided where there is one."""
    if name is None:
        return event.text
    if event.value is None:
        return name if event.subject is None else f"{name} {event.subject}"
    threshold = "" if event.threshold is None else f" ({event.threshold:g})"
    return f"{name} {event.value:g}{event.unit or ''}{threshold}"
