"""Telling people: groups that are due become messages, and messages are sent until they are taken or given up.

One process does it at a time, under a lease. A message is a row, made in the transaction that notes its alarms as
told; it is sent afterwards, so that a crash in between sends it again under the same id, and never not at all.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from libs.common import metrics
from libs.common.backoff import Backoff
from libs.common.bus import outbox
from libs.common.clock import Clock
from libs.common.contracts.base import JsonObject, Phase
from libs.common.db import Database, WriteConn
from libs.common.errors import PlatformError, Unavailable
from libs.common.ids import new_id
from libs.common.lease import Lease, LeaseKeeper
from libs.common.redact import redact
from libs.common.secretstore import SecretStore
from services.alarm import bus
from services.alarm.channels.config import host_of
from services.alarm.channels.port import Channel, Credentials, NotDelivered, Outgoing
from services.alarm.domain.grouping import Decision, Group, Kind, Member, Telling, decide
from services.alarm.domain.places import Place
from services.alarm.domain.routing import Route
from services.alarm.domain.wording import Names, words_for
from services.alarm.store import groups as groups_store
from services.alarm.store import notifications as store
from services.alarm.store.groups import GroupRow
from services.alarm.store.notifications import ChannelRow, NewNotification, NotificationRow

logger = logging.getLogger(__name__)

LEASE_NAME = "notifications"
LEASE_S = 60.0
"""Longer than a pass with a delivery that takes all its time. [s]"""
GROUPS_AT_ONCE = 500
"""Groups that are told in one transaction."""
SEND_FOR_S = 5.0
"""In one pass no further message of a channel is begun after this. [s]"""
ALARMS_SHOWN = 50
"""Alarms of a message that are kept with it for programs."""
SITES_KEPT = 500
"""Sites of a message that are kept with it, for the question who may see it."""
FORGET_EVERY_S = 60.0
MINUTE = timedelta(minutes=1)
ERROR_CHARS = 500

MADE = metrics.counter("alarm_notifications_total", "Messages to people", ("kind",))
SENT = metrics.counter("alarm_notification_attempts_total", "Attempts to send messages", ("channel_kind", "outcome"))


@dataclass(frozen=True, slots=True)
class TellingLimits:
    """What telling may do, at most."""

    max_attempts: int = 8
    max_age_s: float = 14_400.0
    """A message that could not be sent for so long is given up. [s]"""
    backoff_first_s: float = 5.0
    backoff_cap_s: float = 300.0
    keep_s: float = 90 * 86_400.0
    """How long messages can be looked at. [s]"""


class Directory(Protocol):
    """What wording asks of the registry."""

    def place(self, site_id: str) -> Place | None:
        """Return where a site is."""

    def device_name(self, device_id: str, language: str) -> str:
        """Return what people call a device."""


class Teller:
    """Makes messages of groups and sends them."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        directory: Directory,
        channels: Mapping[str, Channel],
        secrets: SecretStore,
        owner: str,
        limits: TellingLimits,
        every_s: float = 1.0,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """Keep what is needed.

        Args:
            db: Where groups and messages are.
            clock: Our clock.
            directory: The registry.
            channels: By kind.
            secrets: Where the ``credentials_ref`` of a channel leads to.
            owner: Name of this process in the lease.
            limits: What it may do.
            every_s: How often it looks. [s]
            wake: Called after something was put into the outbox.
        """
        self._db = db
        self._clock = clock
        self._directory = directory
        self._channels = channels
        self._secrets = secrets
        self._limits = limits
        self._every_s = every_s
        self._wake = wake
        self._keeper = LeaseKeeper(db, clock, owner, LEASE_S)
        self._lease: Lease | None = None
        self._forgot_at = float("-inf")
        self._names = Names(site=self._site_name, device=directory.device_name, signal=lambda code, _: code)

    async def run(self, beat: Callable[[], None]) -> None:
        """Tell for ever; while another process holds the lease, stand by."""
        backoff = Backoff(first_s=0.2, cap_s=5.0)
        try:
            while True:
                beat()
                try:
                    if await self._hold_lease():
                        while await self.flush() == GROUPS_AT_ONCE:
                            beat()
                        await self.send()
                        await self.forget()
                except Unavailable as exc:
                    if backoff.first:
                        logger.warning("notifications wait", extra={"reason": exc.message})
                    await self._clock.sleep(backoff.next_s())
                    continue
                backoff.reset()
                await self._clock.sleep(self._every_s)
        finally:
            lease, self._lease = self._lease, None
            if lease is not None:
                try:
                    async with asyncio.timeout(1.0):
                        await self._keeper.release(lease)
                except (Unavailable, TimeoutError):
                    logger.info("the lease of notifications runs out by itself")

    async def _hold_lease(self) -> bool:
        lease = self._lease
        if lease is not None and lease.valid_for_s() > LEASE_S / 2:
            return True
        self._lease = None if lease is None else await self._keeper.renew(lease)
        if self._lease is None:
            self._lease = await self._keeper.acquire(LEASE_NAME)
        return self._lease is not None

    # Groups into messages

    async def flush(self) -> int:
        """Make messages of the groups that are due; return how many groups were looked at."""
        now = self._clock.now()
        async with self._db.write() as conn:
            due = await groups_store.take_due(conn, now, GROUPS_AT_ONCE)
            if not due:
                return 0
            routes = {
                row.route_id: row.body.to_route(row.route_id)
                for row in (await store.fetch_routes(conn)).values()
                if row.body.enabled
            }
            channels = await store.fetch_channels(conn)
            members = await groups_store.fetch_members(conn, [row.group.group_id for row in due])
            decided: list[tuple[Route, GroupRow, Decision]] = []
            for row in due:
                # A route that is gone tells nobody anything new; those whom it told hear of the ends.
                route = routes.get(row.route_id) or Route(row.route_id, 0, (), repeat_interval_s=0.0)
                decided.append((route, row, decide(route, row.group, members[row.group.group_id], now)))
            made = self._messages(decided, channels, await store.count_lately(conn, now - MINUTE), now)
            await store.put_notifications(conn, made)
            await self._store(conn, decided, members)
        for one in made:
            MADE.labels(one.row.kind).inc()
        return len(due)

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
            most = 1 if channel is None else channel.rate_per_min
            if len(tellings) > 1 and len(tellings) + lately.get(channel_id, 0) > most:
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

    # Messages to receivers

    async def send(self) -> None:
        """Send what is pending, each channel in its order and beside the others."""
        async with self._db.read() as conn:
            waiting = await store.fetch_waiting_channels(conn, self._clock.now())
            channels = await store.fetch_channels(conn)
        async with asyncio.TaskGroup() as group:
            for channel_id in waiting:
                group.create_task(
                    self._send_all(channel_id, channels.get(channel_id)), name=f"notifications to {channel_id}"
                )

    async def _send_all(self, channel_id: str, channel: ChannelRow | None) -> None:
        until = self._clock.monotonic() + SEND_FOR_S
        while self._clock.monotonic() < until:
            now = self._clock.now()
            async with self._db.read() as conn:
                row = await store.fetch_oldest(conn, channel_id)
                sent = await store.count_sent(conn, channel_id, now - MINUTE)
            if row is None or (row.next_attempt_at is not None and row.next_attempt_at > now):
                return
            if channel is not None and sent >= channel.rate_per_min:
                return
            if not await self._send_one(row, channel):
                return

    async def _send_one(self, row: NotificationRow, channel: ChannelRow | None) -> bool:
        """Try one message; return whether it is done with."""
        if channel is None or not channel.enabled:
            await self._give_up(row, "the channel is switched off or gone", "通知渠道已停用或删除", failing=False)
            return True
        if row.attempts >= self._limits.max_attempts:  # each of them has ended the process
            await self._give_up(row, row.error or "no attempt came to an end", "多次尝试均未完成", failing=True)
            return True
        async with self._db.write() as conn:
            await store.note_attempt(conn, row.notification_id)
        kind = channel.config.kind
        try:
            await self.deliver(channel, row)
        except PlatformError as exc:
            SENT.labels(kind, "failed").inc()
            return await self._failed(row, exc)
        SENT.labels(kind, "sent").inc()
        async with self._db.write() as conn:
            now = self._clock.now()
            await store.note_sent(conn, row.notification_id, now)
            mended = await store.set_failing(conn, channel.channel_id, None)
            if mended:
                await outbox.put(conn, [bus.notification_condition(channel.channel_id, Phase.END, now)])
        if mended:
            self._wake()
        return True

    async def deliver(self, channel: ChannelRow, row: NotificationRow) -> None:
        """Hand one message to its channel.

        Raises:
            PlatformError: It was not taken, for all that we know.
        """
        credentials = Credentials("")
        if channel.credentials_ref is not None:
            secret = self._secrets.read(channel.credentials_ref)
            secret.check_host(host_of(channel.config))
            credentials = Credentials(f"secret {channel.credentials_ref}", secret.values)
        message = Outgoing(
            notification_id=row.notification_id,
            kind=row.kind,
            created_at=row.created_at,
            title=row.title,
            text=row.body,
            language=channel.language,
            alarms=row.alarms,
            alarm_count=row.alarm_count,
        )
        try:
            await self._channels[channel.config.kind].send(channel.config, credentials, message)
        except ValueError as exc:  # a character that a header or an address cannot hold
            raise NotDelivered(
                f"the message cannot be written: {type(exc).__name__}", message_zh="消息无法编码"
            ) from exc

    async def _failed(self, row: NotificationRow, exc: PlatformError) -> bool:
        now = self._clock.now()
        error, error_zh = redact(exc.message)[:ERROR_CHARS], redact(exc.message_zh or exc.title_zh)[:ERROR_CHARS]
        attempts = row.attempts + 1
        too_old = now - row.created_at > timedelta(seconds=self._limits.max_age_s)
        if attempts >= self._limits.max_attempts or too_old:
            await self._give_up(row, error, error_zh, failing=True)
            return True
        wait_s = min(self._limits.backoff_first_s * 2.0 ** (attempts - 1), self._limits.backoff_cap_s)
        async with self._db.write() as conn:
            await store.note_failure(
                conn,
                row.notification_id,
                error=error,
                error_zh=error_zh,
                next_attempt_at=now + timedelta(seconds=wait_s),
            )
        return False

    async def _give_up(self, row: NotificationRow, error: str, error_zh: str, *, failing: bool) -> None:
        now = self._clock.now()
        async with self._db.write() as conn:
            await store.note_failure(conn, row.notification_id, error=error, error_zh=error_zh, next_attempt_at=None)
            found = failing and await store.set_failing(conn, row.channel_id, now)
            if found:
                await outbox.put(conn, [bus.notification_condition(row.channel_id, Phase.BEGIN, now)])
        if found:
            self._wake()
            logger.error("notifications fail", extra={"channel": row.channel_id, "reason": error})

    async def forget(self) -> None:
        """Delete messages that are older than they are kept, now and then."""
        if self._clock.monotonic() - self._forgot_at < FORGET_EVERY_S:
            return
        self._forgot_at = self._clock.monotonic()
        async with self._db.write() as conn:
            await store.delete_old(conn, self._clock.now() - timedelta(seconds=self._limits.keep_s), 1000)


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
