"""Who is told of alarms: channels, routes, what would be told to whom, and what became of messages."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from libs.common.clock import Clock
from libs.common.contracts.audit import AuditEvent
from libs.common.contracts.base import JsonObject
from libs.common.db import Database, WriteConn
from libs.common.errors import Conflict, Forbidden, InvalidInput, NotFound
from libs.common.ids import new_id
from libs.common.tokens import Principal
from services.alarm.channels.config import ChannelConfig, SmtpConfig
from services.alarm.domain.grouping import Kind
from services.alarm.domain.routing import Route, Subject, routes_for
from services.alarm.domain.wording import trial_words
from services.alarm.routebody import RouteBody
from services.alarm.store import notifications as store
from services.alarm.store.notifications import (
    ChannelRow,
    NewNotification,
    NotificationFilter,
    NotificationRow,
    RouteRow,
)
from services.alarm.usecases.ports import Audit, Directory, actor_of

MAX_CHANNELS = 500
MAX_ROUTES = 500


class UnknownChannel(NotFound):
    """There is no such channel."""

    code = "unknown_channel"
    title_zh = "通知渠道不存在"


class UnknownRoute(NotFound):
    """There is no such route."""

    code = "unknown_route"
    title_zh = "通知路由不存在"


class UnknownNotification(NotFound):
    """There is no such message, or none that the asker may see."""

    code = "unknown_notification"
    title_zh = "通知不存在"


class InvalidRoute(InvalidInput):
    """A route names what is not there."""

    code = "invalid_route"
    title_zh = "通知路由有误"


class ChannelInUse(Conflict):
    """Routes name the channel."""

    code = "channel_in_use"
    title_zh = "通知渠道正在使用"


class NotAllSites(Forbidden):
    """Only who may see all sites says who is told of alarms."""

    code = "not_all_sites"
    title_zh = "仅限可查看全部站点的用户"


@dataclass(frozen=True, slots=True)
class ChannelRequest:
    """What somebody wants a channel to be."""

    name: str
    config: ChannelConfig
    credentials_ref: str | None
    language: str
    enabled: bool
    rate_per_min: int


@dataclass(frozen=True, slots=True)
class Expected:
    """Who would be told of an alarm by one route, and when."""

    route: Route
    name: str
    group_key: str
    first_told_at: datetime
    held_until: datetime | None
    """End of the quiet hours that hold it."""
    channels: Sequence[ChannelRow]
    escalation: Sequence[tuple[float, Sequence[str]]]


class Notifications:
    """Channels, routes and messages."""

    def __init__(
        self,
        *,
        db: Database,
        directory: Directory,
        clock: Clock,
        audit: Audit,
        deliver: Callable[[ChannelRow, NotificationRow], Awaitable[None]],
    ) -> None:
        """Keep what is needed.

        Args:
            db: Where they are.
            directory: The registry.
            clock: Our clock.
            audit: Publishes who changed what.
            deliver: Sends one message at once.
        """
        self._db = db
        self._directory = directory
        self._clock = clock
        self._audit = audit
        self._deliver = deliver

    def now(self) -> datetime:
        """Return what our clock shows."""
        return self._clock.now()

    # Channels

    async def channels(self) -> list[ChannelRow]:
        """Return all channels."""
        async with self._db.read() as conn:
            return list((await store.fetch_channels(conn)).values())

    async def put_channel(
        self, channel_id: str, wanted: ChannelRequest, who: Principal, request_id: str | None
    ) -> ChannelRow:
        """Set a channel up, or change it.

        Raises:
            NotAllSites: The asker is limited to some sites.
            InvalidInput: It would send a password without TLS, or there are too many.
        """
        self._sees_all(who)
        if isinstance(wanted.config, SmtpConfig) and wanted.config.tls == "none" and wanted.credentials_ref:
            raise InvalidInput(
                "config.tls: expected starttls or tls where there are credentials, found none",
                message_zh="config.tls：使用凭据时应为 starttls 或 tls，实际为 none",
            )
        now, actor = self._clock.now(), actor_of(who)
        row = ChannelRow(
            channel_id=channel_id,
            name=wanted.name,
            config=wanted.config,
            credentials_ref=wanted.credentials_ref,
            language=wanted.language,
            enabled=wanted.enabled,
            rate_per_min=wanted.rate_per_min,
            failing_since=None,
            changed_by=actor,
            changed_at=now,
        )
        async with self._db.write() as conn:
            known = await store.fetch_channels(conn)
            before = known.get(channel_id)
            if before is None and len(known) >= MAX_CHANNELS:
                raise InvalidInput(f"at most {MAX_CHANNELS} channels", message_zh=f"通知渠道最多 {MAX_CHANNELS} 个")
            await store.put_channel(conn, row)
            await self._tell(
                conn,
                actor,
                "notification_channel.put",
                f"notification_channel:{channel_id}",
                None if before is None else _channel_facts(before),
                _channel_facts(row),
                request_id,
            )
        return replace(row, failing_since=None if before is None else before.failing_since)

    async def delete_channel(self, channel_id: str, who: Principal, request_id: str | None) -> None:
        """Forget a channel that no route names.

        Raises:
            NotAllSites: The asker is limited to some sites.
            UnknownChannel: There is none.
            ChannelInUse: Routes name it.
        """
        self._sees_all(who)
        async with self._db.write() as conn:
            before = _known(await store.fetch_channels(conn), channel_id)
            users = [
                row.route_id
                for row in (await store.fetch_routes(conn)).values()
                if channel_id in row.body.named_channels()
            ]
            if users:
                raise ChannelInUse(
                    f"channel {channel_id} is named by routes {', '.join(users)}",
                    message_zh=f"通知渠道 {channel_id} 正被路由 {', '.join(users)} 使用",
                    routes=users,
                )
            await store.delete_channel(conn, channel_id)
            await self._tell(
                conn,
                actor_of(who),
                "notification_channel.delete",
                f"notification_channel:{channel_id}",
                _channel_facts(before),
                None,
                request_id,
            )

    async def test_channel(self, channel_id: str, who: Principal, request_id: str | None) -> None:
        """Send a trial message now.

        Raises:
            UnknownChannel: There is none.
            PlatformError: It was not taken; with the reason.
        """
        self._sees_all(who)
        async with self._db.read() as conn:
            channel = _known(await store.fetch_channels(conn), channel_id)
        words = trial_words(channel.name, channel.language)
        message = NotificationRow(
            notification_id=new_id(),
            channel_id=channel_id,
            route_id=None,
            kind=Kind.TRIAL.value,
            created_at=self._clock.now(),
            title=words.title,
            body=words.text,
            alarms=(),
            alarm_count=0,
            state="pending",
            attempts=1,
            next_attempt_at=None,
            sent_at=None,
            error=None,
            error_zh=None,
        )
        await self._deliver(channel, message)
        async with self._db.write() as conn:
            await store.put_notifications(conn, [NewNotification(message, (), ())])
            await store.note_sent(conn, message.notification_id, self._clock.now())
            await self._tell(
                conn,
                actor_of(who),
                "notification_channel.test",
                f"notification_channel:{channel_id}",
                None,
                {"notification_id": message.notification_id},
                request_id,
            )

    # Routes

    async def routes(self) -> list[RouteRow]:
        """Return all routes, in their order."""
        async with self._db.read() as conn:
            return list((await store.fetch_routes(conn)).values())

    async def put_route(self, route_id: str, body: RouteBody, who: Principal, request_id: str | None) -> RouteRow:
        """Set a route up, or change it.

        Raises:
            NotAllSites: The asker is limited to some sites.
            InvalidRoute: It names channels or sites that are not there.
        """
        self._sees_all(who)
        actor = actor_of(who)
        row = RouteRow(route_id, body, actor, self._clock.now())
        strangers = sorted(site for site in body.match.sites or () if not self._directory.has_site(site))
        if strangers:
            raise _invalid("match.sites", "sites of the registry", "已登记的站点", ", ".join(strangers[:20]))
        async with self._db.write() as conn:
            missing = sorted(body.named_channels() - set(await store.fetch_channels(conn)))
            if missing:
                raise _invalid("channels", "channels that are there", "已建立的通知渠道", ", ".join(missing))
            known = await store.fetch_routes(conn)
            if route_id not in known and len(known) >= MAX_ROUTES:
                raise InvalidInput(f"at most {MAX_ROUTES} routes", message_zh=f"通知路由最多 {MAX_ROUTES} 条")
            before = known.get(route_id)
            await store.put_route(conn, row)
            await self._tell(
                conn,
                actor,
                "notification_route.put",
                f"notification_route:{route_id}",
                None if before is None else before.body.model_dump(mode="json", by_alias=True),
                body.model_dump(mode="json", by_alias=True),
                request_id,
            )
        return row

    async def delete_route(self, route_id: str, who: Principal, request_id: str | None) -> None:
        """Forget a route; whom it told of alarms still hears that they ended.

        Raises:
            NotAllSites: The asker is limited to some sites.
            UnknownRoute: There is none.
        """
        self._sees_all(who)
        async with self._db.write() as conn:
            before = (await store.fetch_routes(conn)).get(route_id)
            if before is None:
                raise UnknownRoute(f"there is no route {route_id}", message_zh=f"通知路由 {route_id} 不存在")
            await store.delete_route(conn, route_id)
            await self._tell(
                conn,
                actor_of(who),
                "notification_route.delete",
                f"notification_route:{route_id}",
                before.body.model_dump(mode="json", by_alias=True),
                None,
                request_id,
            )

    async def expect(
        self, *, site_id: str, signal: str, level: int, device_id: str | None, at: datetime, who: Principal
    ) -> list[Expected]:
        """Return who would be told of an alarm that begins at a time; nothing is sent.

        Raises:
            InvalidRoute: The site or the device is not there, or not for the asker.
        """
        place = self._directory.place(site_id)
        allowed = self._directory.sites_of(who)
        if place is None or (allowed is not None and site_id not in allowed):
            raise _invalid("site_id", "a site of the registry", "已登记的站点", site_id)
        target = None if device_id is None else self._directory.target(device_id)
        if device_id is not None and (target is None or target.site_id != site_id):
            raise _invalid("device_id", f"a device of {site_id}", f"{site_id} 的设备", device_id)
        subject = Subject(
            alarm_id="",
            site_id=site_id,
            signal=signal,
            level=level,
            regions=place.regions,
            station_class=place.station_class,
            device_kind=None if target is None else target.kind,
        )
        async with self._db.read() as conn:
            rows = await store.fetch_routes(conn)
            channels = await store.fetch_channels(conn)
        routes = [row.body.to_route(row.route_id) for row in rows.values() if row.body.enabled]
        found = []
        for route in routes_for(routes, subject, at):
            told_at = route.next_digest(at) if route.digest_at else at + timedelta(seconds=route.group_wait_s)
            quiet = route.quiet_until(told_at) if level > route.quiet_told_level else None
            found.append(
                Expected(
                    route=route,
                    name=rows[route.route_id].body.name,
                    group_key=route.key_of(subject),
                    first_told_at=quiet or told_at,
                    held_until=quiet,
                    channels=[channels[one] for one in route.channels if one in channels],
                    escalation=[(step.after_s, step.channels) for step in route.escalation],
                )
            )
        return found

    # Messages

    async def page(
        self, wanted: NotificationFilter, who: Principal, *, after: tuple[datetime, str] | None, limit: int
    ) -> list[NotificationRow]:
        """Return messages that the asker may see, the youngest first."""
        async with self._db.read() as conn:
            wanted = replace(wanted, sites=self._directory.sites_of(who))
            return await store.fetch_notifications(conn, wanted, after=after, limit=limit)

    async def notification(self, notification_id: str, who: Principal) -> NotificationRow:
        """Return a message.

        Raises:
            UnknownNotification: There is none, or none that the asker may see.
        """
        async with self._db.read() as conn:
            row = await store.fetch_notification(conn, notification_id, self._directory.sites_of(who))
        return _there(row, notification_id)

    async def retry(self, notification_id: str, who: Principal, request_id: str | None) -> NotificationRow:
        """Let a message that has failed be tried again.

        Raises:
            UnknownNotification: There is none, or none that the asker may see.
            Conflict: It has not failed.
        """
        sites = self._directory.sites_of(who)
        async with self._db.write() as conn:
            row = _there(await store.fetch_notification(conn, notification_id, sites), notification_id)
            if row.state != "failed":
                raise Conflict(
                    f"notification {notification_id} is {row.state}; only one that has failed can be tried again",
                    message_zh=f"通知 {notification_id} 状态为 {row.state}，仅失败的通知可重试",
                )
            await store.try_again(conn, notification_id, self._clock.now())
            await self._tell(
                conn,
                actor_of(who),
                "notification.retry",
                f"notification:{notification_id}",
                {"state": row.state, "error": row.error},
                {"state": "pending"},
                request_id,
            )
            return _there(await store.fetch_notification(conn, notification_id, sites), notification_id)

    def _sees_all(self, who: Principal) -> None:
        if self._directory.sites_of(who) is not None:
            raise NotAllSites(
                "channels and routes concern all sites; you are limited to some",
                message_zh="通知渠道与路由涉及全部站点，您仅可管理部分站点",
            )

    async def _tell(
        self,
        conn: WriteConn,
        actor: str,
        action: str,
        subject: str,
        before: JsonObject | None,
        after: JsonObject | None,
        request_id: str | None,
    ) -> None:
        await self._audit(
            conn,
            AuditEvent(
                actor=actor,
                door="api",
                action=action,
                subject=subject,
                at=self._clock.now(),
                before=before,
                after=after,
                request_id=request_id,
            ),
        )


def _known(channels: dict[str, ChannelRow], channel_id: str) -> ChannelRow:
    channel = channels.get(channel_id)
    if channel is None:
        raise UnknownChannel(f"there is no channel {channel_id}", message_zh=f"通知渠道 {channel_id} 不存在")
    return channel


def _there(row: NotificationRow | None, notification_id: str) -> NotificationRow:
    if row is None:
        raise UnknownNotification(
            f"there is no notification {notification_id}", message_zh=f"通知 {notification_id} 不存在"
        )
    return row


def _invalid(field: str, expected: str, expected_zh: str, found: str) -> InvalidRoute:
    return InvalidRoute(
        f"{field}: expected {expected}, found {found}",
        message_zh=f"{field}：应为{expected_zh}，实际为 {found}",
        problems=[{"field": field, "expected": expected, "expected_zh": expected_zh, "found": found}],
    )


def _channel_facts(row: ChannelRow) -> JsonObject:
    return {
        "name": row.name,
        "config": row.config.model_dump(mode="json"),
        "credentials_ref": row.credentials_ref,
        "language": row.language,
        "enabled": row.enabled,
        "rate_per_min": row.rate_per_min,
    }
