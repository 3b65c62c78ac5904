"""The channels that people are told on: set up, tried, taken away."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime

from libs.common.bus import outbox
from libs.common.clock import Clock
from libs.common.contracts.base import JsonObject, Phase
from libs.common.db import Database, WriteConn
from libs.common.errors import Conflict, InvalidInput, NotFound
from libs.common.ids import new_id
from services.alarm import bus
from services.alarm.channels.config import ChannelConfig, SmtpConfig
from services.alarm.domain.grouping import Kind
from services.alarm.domain.wording import trial_words
from services.alarm.store import channels as store
from services.alarm.store import notifications as notifications_store
from services.alarm.store import routes as routes_store
from services.alarm.store.channels import ChannelRow
from services.alarm.store.notifications import NewNotification, NotificationRow
from services.alarm.usecases.changes import Asker
from services.alarm.usecases.ports import Audit, Directory

MAX_CHANNELS = 500


class UnknownChannel(NotFound):
    """There is no such channel."""

    code = "unknown_channel"
    title_zh = "通知渠道不存在"


class ChannelInUse(Conflict):
    """Routes name the channel."""

    code = "channel_in_use"
    title_zh = "通知渠道正在使用"


@dataclass(frozen=True, slots=True)
class ChannelRequest:
    """What somebody wants a channel to be."""

    name: str
    config: ChannelConfig
    credentials_ref: str | None
    language: str
    enabled: bool
    rate_per_min: int


class Channels:
    """Ways to tell people."""

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

    async def all(self) -> list[ChannelRow]:
        """Return all channels."""
        async with self._db.read() as conn:
            return list((await store.fetch_channels(conn)).values())

    async def put(self, channel_id: str, wanted: ChannelRequest, asker: Asker) -> ChannelRow:
        """Set a channel up, or change it.

        Raises:
            NotAllSites: The asker is limited to some sites.
            InvalidInput: It would send a password without TLS, or there are too many.
        """
        asker.require_all_sites(self._directory)
        if isinstance(wanted.config, SmtpConfig) and wanted.config.tls == "none" and wanted.credentials_ref:
            raise InvalidInput(
                "config.tls: expected starttls or tls where there are credentials, found none",
                message_zh="config.tls：使用凭据时应为 starttls 或 tls，实际为 none",
            )
        now = self._clock.now()
        row = ChannelRow(
            channel_id=channel_id,
            name=wanted.name,
            config=wanted.config,
            credentials_ref=wanted.credentials_ref,
            language=wanted.language,
            enabled=wanted.enabled,
            rate_per_min=wanted.rate_per_min,
            failing_since=None,
            changed_by=asker.name,
            changed_at=now,
        )
        async with self._db.write() as conn:
            known = await store.fetch_channels(conn)
            before = known.get(channel_id)
            if before is None and len(known) >= MAX_CHANNELS:
                raise InvalidInput(f"at most {MAX_CHANNELS} channels", message_zh=f"通知渠道最多 {MAX_CHANNELS} 个")
            await store.put_channel(conn, row)
            if not wanted.enabled:  # nobody expects it to work
                await note_works(conn, channel_id, now)
            await self._audit(
                conn,
                asker.did(
                    "notification_channel.put",
                    f"notification_channel:{channel_id}",
                    now,
                    before=_channel_facts(before),
                    after=_channel_facts(row),
                ),
            )
        return replace(row, failing_since=None if before is None or not row.enabled else before.failing_since)

    async def delete(self, channel_id: str, asker: Asker) -> None:
        """Forget a channel that no route names.

        Raises:
            NotAllSites: The asker is limited to some sites.
            UnknownChannel: There is none.
            ChannelInUse: Routes name it.
        """
        asker.require_all_sites(self._directory)
        async with self._db.write() as conn:
            before = _known(await store.fetch_channel(conn, channel_id), channel_id)
            users = [
                row.route_id
                for row in (await routes_store.fetch_routes(conn)).values()
                if channel_id in row.body.named_channels()
            ]
            if users:
                raise ChannelInUse(
                    f"channel {channel_id} is named by routes {', '.join(users)}",
                    message_zh=f"通知渠道 {channel_id} 正被路由 {', '.join(users)} 使用",
                    routes=users,
                )
            now = self._clock.now()
            await note_works(conn, channel_id, now)
            await store.delete_channel(conn, channel_id)
            await self._audit(
                conn,
                asker.did(
                    "notification_channel.delete",
                    f"notification_channel:{channel_id}",
                    now,
                    before=_channel_facts(before),
                    after=None,
                ),
            )

    async def test(self, channel_id: str, asker: Asker) -> None:
        """Send a trial message now; a channel that takes it works again.

        Raises:
            NotAllSites: The asker is limited to some sites.
            UnknownChannel: There is none.
            PlatformError: It was not taken; with the reason.
        """
        asker.require_all_sites(self._directory)
        async with self._db.read() as conn:
            channel = _known(await store.fetch_channel(conn, channel_id), channel_id)
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
            now = self._clock.now()
            await notifications_store.put_notifications(conn, [NewNotification(message, (), ())])
            await notifications_store.note_sent(conn, message.notification_id, now)
            await note_works(conn, channel_id, now)
            await self._audit(
                conn,
                asker.did(
                    "notification_channel.test",
                    f"notification_channel:{channel_id}",
                    now,
                    before=None,
                    after={"notification_id": message.notification_id},
                ),
            )


async def note_fails(conn: WriteConn, channel_id: str, now: datetime) -> bool:
    """Raise the finding that a channel does not take messages; return whether that is news."""
    news = await store.set_failing(conn, channel_id, now)
    if news:
        await outbox.put(conn, [bus.notification_condition(channel_id, Phase.BEGIN, now)])
    return news


async def note_works(conn: WriteConn, channel_id: str, now: datetime) -> bool:
    """End that finding; return whether it was there."""
    news = await store.set_failing(conn, channel_id, None)
    if news:
        await outbox.put(conn, [bus.notification_condition(channel_id, Phase.END, now)])
    return news


def _known(channel: ChannelRow | None, channel_id: str) -> ChannelRow:
    if channel is None:
        raise UnknownChannel(f"there is no channel {channel_id}", message_zh=f"通知渠道 {channel_id} 不存在")
    return channel


def _channel_facts(row: ChannelRow | None) -> JsonObject | None:
    if row is None:
        return None
    return {
        "name": row.name,
        "config": row.config.model_dump(mode="json"),
        "credentials_ref": row.credentials_ref,
        "language": row.language,
        "enabled": row.enabled,
        "rate_per_min": row.rate_per_min,
    }
