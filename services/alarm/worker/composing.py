"""Groups of alarms that are due become messages: rows, made in the transaction that notes their alarms as told."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from libs.common import metrics
from libs.common.clock import Clock
from libs.common.contracts.base import JsonObject
from libs.common.db import Database, WriteConn
from libs.common.ids import new_id
from services.alarm.domain.grouping import Decision, Group, Kind, Member, Telling, decide
from services.alarm.domain.places import Place
from services.alarm.domain.routing import Route
from services.alarm.domain.wording import Names, words_for
from services.alarm.store import channels as channels_store
from services.alarm.store import groups as groups_store
from services.alarm.store import notifications as store
from services.alarm.store import routes as routes_store
from services.alarm.store.channels import ChannelRow
from services.alarm.store.groups import GroupRow
from services.alarm.store.notifications import NewNotification, NotificationRow

GROUPS_AT_ONCE = 500
"""Groups that are told in one transaction."""
ALARMS_SHOWN = 50
"""Alarms of a message that are kept with it for programs."""
SITES_KEPT = 500
"""Sites of a message that are kept with it, for the question who may see it."""
MINUTE = timedelta(minutes=1)
FULL_FOR = timedelta(seconds=5)
"""A group waits so long for a channel that has got all that it takes in a minute, then it is looked at again."""

MADE = metrics.counter("alarm_notifications_total", "Messages to people", ("kind",))


class Directory(Protocol):
    """What wording asks of the registry."""

    def place(self, site_id: str) -> Place | None:
        """Return where a site is."""

    def device_name(self, device_id: str, language: str) -> str:
        """Return what people call a device."""


class Composer:
    """Makes messages of groups."""

    def __init__(self, *, db: Database, clock: Clock, directory: Directory) -> None:
        """Keep what is needed."""
        self._db = db
        self._clock = clock
        self._directory = directory
        self._names = Names(site=self._site_name, device=directory.device_name, signal=lambda code, _: code)

    async def flush(self) -> bool:
        """Make messages of the groups that are due; return whether there may be more of them."""
        now = self._clock.now()
        async with self._db.write() as conn:
            due = await groups_store.take_due(conn, now, GROUPS_AT_ONCE)
            if not due:
                return False
            routes = await routes_store.fetch_enabled_routes(conn)
            channels = await channels_store.fetch_channels(conn)
            members = await groups_store.fetch_members(conn, [row.group.group_id for row in due])
            lately = await store.count_lately(conn, now - MINUTE)
            full = {one.channel_id for one in channels.values() if one.enabled and _room(one, lately) <= 0}
            decided: list[tuple[Route, GroupRow, Decision]] = []
            waiting: list[tuple[Group, datetime | None]] = []
            for row in due:
                # A route that is gone tells nobody anything new; those whom it told hear of the ends.
                route = routes.get(row.route_id) or Route(row.route_id, 0, (), repeat_interval_s=0.0)
                decision = decide(route, row.group, members[row.group.group_id], now)
                if any(telling.channel_id in full for telling in decision.tellings):
                    # It is one message with all that comes up until then, in place of one in a growing row.
                    waiting.append((row.group, now + FULL_FOR))
                else:
                    decided.append((route, row, decision))
            made = self._messages(decided, channels, lately, now)
            await store.put_notifications(conn, made)
            await self._store(conn, decided, members)
            await groups_store.put_groups(conn, waiting)
        for one in made:
            MADE.labels(one.row.kind).inc()
        return len(due) == GROUPS_AT_ONCE

    async def _store(
        self,
        conn: WriteConn,
        decided: Sequence[tuple[Route, GroupRow, Decision]],
        members: Mapping[str, Sequence[Member]],
    ) -> None:
        changed: dict[tuple[str, str], Member] = {}
        gone: list[tuple[str, str]] = []
        empty: list[str] = []
        kept: list[tuple[Group, datetime | None]] = []
        for _, row, decision in decided:
            group_id = row.group.group_id
            changed |= {(group_id, member.alarm_id): member for member in decision.changed}
            gone += [(group_id, alarm_id) for alarm_id in decision.gone]
            if len(decision.gone) == len(members[group_id]):
                empty.append(group_id)
            else:
                kept.append((decision.group, decision.next_at))
        await groups_store.put_members(conn, changed)
        await groups_store.delete_members(conn, gone)
        await groups_store.put_groups(conn, kept)
        await groups_store.delete_groups(conn, empty)

    def _messages(
        self,
        decided: Iterable[tuple[Route, GroupRow, Decision]],
        channels: Mapping[str, ChannelRow],
        lately: Mapping[str, int],
        now: datetime,
    ) -> list[NewNotification]:
        """Return the messages; where a channel would get more than it takes in a minute, all of them as one."""
        by_channel: dict[str, list[tuple[Route, Telling]]] = {}
        for route, _, decision in decided:
            for telling in decision.tellings:
                by_channel.setdefault(telling.channel_id, []).append((route, telling))
        made = []
        for channel_id, tellings in by_channel.items():
            channel = channels.get(channel_id)
            if len(tellings) > 1 and (channel is None or len(tellings) > _room(channel, lately)):
                route = tellings[0][0]
                begins = {m.alarm_id: m for _, telling in tellings for m in telling.begins}
                ends = {m.alarm_id: m for _, telling in tellings for m in telling.ends}
                summary = Telling(Kind.SUMMARY, channel_id, list(begins.values()), list(ends.values()))
                made.append(self._message(route, summary, channel, now))
            else:
                made += [self._message(route, telling, channel, now) for route, telling in tellings]
        return made

    def _message(self, route: Route, telling: Telling, channel: ChannelRow | None, now: datetime) -> NewNotification:
        language = "zh" if channel is None else channel.language
        words = words_for(telling, self._names, route.local, language)
        alarms = [*telling.begins, *telling.ends]
        sites = {member.site_id for member in alarms}
        away = channel is None or not channel.enabled
        row = NotificationRow(
            notification_id=new_id(),
            channel_id=telling.channel_id,
            route_id=route.route_id if telling.kind is not Kind.SUMMARY else None,
            kind=telling.kind.value,
            created_at=now,
            title=words.title,
            body=words.text,
            alarms=[_facts(member) for member in alarms[:ALARMS_SHOWN]],
            alarm_count=len(alarms),
            state="failed" if away else "pending",
            attempts=0,
            next_attempt_at=None,
            sent_at=None,
            error="the channel is switched off or gone" if away else None,
            error_zh="通知渠道已停用或删除" if away else None,
        )
        return NewNotification(
            row,
            list(dict.fromkeys(member.alarm_id for member in alarms)),
            sorted(sites) if len(sites) <= SITES_KEPT else None,
        )

    def _site_name(self, site_id: str, language: str) -> str:
        place = self._directory.place(site_id)
        return site_id if place is None else place.called(language)


def _room(channel: ChannelRow, lately: Mapping[str, int]) -> int:
    """Return how many messages more a channel takes in this minute."""
    return channel.rate_per_min - lately.get(channel.channel_id, 0)


def _facts(member: Member) -> JsonObject:
    return {
        "alarm_id": member.alarm_id,
        "site_id": member.site_id,
        "device_id": member.device_id,
        "signal": member.signal,
        "level": member.level,
        "began_at": member.began_at.isoformat(),
        "ended_at": None if member.ended_at is None else member.ended_at.isoformat(),
        "text": member.text,
        "text_zh": member.text_zh,
    }
