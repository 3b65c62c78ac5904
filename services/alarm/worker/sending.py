"""Messages to receivers: each channel in its order, beside the others, until a message is taken or given up.

A message is sent again under the same id when nobody knows whether it was taken: after a failure, or after the death
of the process that sent it.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from libs.common import metrics
from libs.common.clock import Clock
from libs.common.db import Database
from libs.common.errors import PlatformError, Unavailable
from libs.common.redact import redact
from libs.common.secretstore import SecretStore
from services.alarm.channels.config import host_of
from services.alarm.channels.port import Channel, Credentials, NotDelivered, Outgoing
from services.alarm.store import channels as channels_store
from services.alarm.store import notifications as store
from services.alarm.store.channels import ChannelRow
from services.alarm.store.notifications import NotificationRow
from services.alarm.usecases.channels import note_fails, note_works

logger = logging.getLogger(__name__)

MINUTE = timedelta(minutes=1)
ERROR_CHARS = 500

SENT = metrics.counter("alarm_notification_attempts_total", "Attempts to send messages", ("channel_kind", "outcome"))


@dataclass(frozen=True, slots=True)
class SendingLimits:
    """How long it is tried to send a message."""

    max_attempts: int = 8
    max_age_s: float = 14_400.0
    """A message that could not be sent for so long is given up. [s]"""
    backoff_first_s: float = 5.0
    backoff_cap_s: float = 300.0


class Sender:
    """Sends messages, and says since when a channel does not take them."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        channels: Mapping[str, Channel],
        secrets: SecretStore,
        limits: SendingLimits,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """Keep what is needed.

        Args:
            db: Where messages are.
            clock: Our clock.
            channels: By kind.
            secrets: Where the ``credentials_ref`` of a channel leads to.
            limits: How long a message is tried.
            wake: Called after something was put into the outbox.
        """
        self._db = db
        self._clock = clock
        self._channels = channels
        self._secrets = secrets
        self._limits = limits
        self._wake = wake
        self._busy: set[str] = set()
        self._taken: set[str] = set()
        """Messages that were taken when the database was away, one of a channel at most: they are not sent again."""

    async def begin(self, tasks: asyncio.TaskGroup, may: Callable[[], bool]) -> None:
        """Begin to send on each channel that has something to send and is not at it already.

        A channel that hangs hangs alone: nobody waits for its task.

        Args:
            tasks: Where the sending happens.
            may: Asked before each attempt; once it says no, nothing more is begun.
        """
        async with self._db.read() as conn:
            waiting = await store.fetch_waiting_channels(conn, self._clock.now())
        for channel_id in waiting:
            if channel_id not in self._busy:
                self._busy.add(channel_id)
                tasks.create_task(self._send_all(channel_id, may), name=f"notifications to {channel_id}")

    async def _send_all(self, channel_id: str, may: Callable[[], bool]) -> None:
        try:
            while may() and await self._send_next(channel_id):
                pass
        except Unavailable as exc:  # the database; the messages stay pending
            logger.info("sending waits", extra={"channel": channel_id, "reason": exc.message})
        finally:
            self._busy.discard(channel_id)

    async def _send_next(self, channel_id: str) -> bool:
        """Try the oldest message of a channel; return whether the next one may be tried at once."""
        now = self._clock.now()
        async with self._db.read() as conn:
            row = await store.fetch_oldest(conn, channel_id)
            channel = await channels_store.fetch_channel(conn, channel_id)
            sent = await store.count_sent(conn, channel_id, now - MINUTE)
        if row is None or (row.next_attempt_at is not None and row.next_attempt_at > now):
            return False
        if channel is None or not channel.enabled:
            await self._give_up(row, "the channel is switched off or gone", "通知渠道已停用或删除", failing=False)
            return True
        return sent < channel.rate_per_min and await self._send_one(row, channel)

    async def _send_one(self, row: NotificationRow, channel: ChannelRow) -> bool:
        """Try one message; return whether it is done with."""
        if row.notification_id not in self._taken:
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
            self._taken.add(row.notification_id)
        async with self._db.write() as conn:
            now = self._clock.now()
            await store.note_sent(conn, row.notification_id, now)
            mended = await note_works(conn, channel.channel_id, now)
        self._taken.discard(row.notification_id)
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
        except PlatformError as exc:
            shown, shown_zh = credentials.hidden(exc.message), credentials.hidden(exc.message_zh or "")
            if (shown, shown_zh) == (exc.message, exc.message_zh or ""):
                raise
            # A receiver that repeats what it was sent does not make us tell it.
            raise NotDelivered(shown, message_zh=shown_zh) from None
        except ValueError as exc:  # a character that a header or an address cannot hold
            raise NotDelivered(
                f"the message cannot be written: {type(exc).__name__}", message_zh="消息无法编码"
            ) from None  # the error shows what could not be written, which may be a secret

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
            found = failing and await note_fails(conn, row.channel_id, now)
        if found:
            self._wake()
            logger.error("notifications fail", extra={"channel": row.channel_id, "reason": error})
