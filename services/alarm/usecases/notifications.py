"""Messages to people, and what became of them."""

from dataclasses import replace
from datetime import datetime

from libs.common.clock import Clock
from libs.common.db import Database
from libs.common.errors import Conflict, NotFound
from libs.common.tokens import Principal
from services.alarm.store import notifications as store
from services.alarm.store.notifications import NotificationFilter, NotificationRow
from services.alarm.usecases.changes import Asker
from services.alarm.usecases.ports import Audit, Directory


class UnknownNotification(NotFound):
    """There is no such message, or none that the asker may see."""

    code = "unknown_notification"
    title_zh = "通知不存在"


class Notifications:
    """Messages, for whom they may see."""

    def __init__(self, *, db: Database, directory: Directory, clock: Clock, audit: Audit) -> None:
        """Keep what is needed.

        Args:
            db: Where they are.
            directory: The registry.
            clock: Our clock.
            audit: Publishes who changed what.
        """
        self._db = db
        self._directory = directory
        self._clock = clock
        self._audit = audit

    async def page(
        self, wanted: NotificationFilter, who: Principal, *, after: tuple[datetime, str] | None, limit: int
    ) -> list[NotificationRow]:
        """Return messages that the asker may see, the youngest first."""
        async with self._db.read() as conn:
            wanted = replace(wanted, sites=self._directory.sites_of(who))
            return await store.fetch_notifications(conn, wanted, after=after, limit=limit)

    async def one(self, notification_id: str, who: Principal) -> NotificationRow:
        """Return a message.

        Raises:
            UnknownNotification: There is none, or none that the asker may see.
        """
        async with self._db.read() as conn:
            row = await store.fetch_notification(conn, notification_id, self._directory.sites_of(who))
        return _there(row, notification_id)

    async def retry(self, notification_id: str, asker: Asker) -> NotificationRow:
        """Let a message that has failed be tried again.

        Raises:
            UnknownNotification: There is none, or none that the asker may see.
            Conflict: It has not failed.
        """
        sites = self._directory.sites_of(asker.who)
        now = self._clock.now()
        async with self._db.write() as conn:
            row = _there(await store.fetch_notification(conn, notification_id, sites), notification_id)
            if row.state != "failed":
                raise Conflict(
                    f"notification {notification_id} is {row.state}; only one that has failed can be tried again",
                    message_zh=f"通知 {notification_id} 状态为 {row.state}，仅失败的通知可重试",
                )
            await store.try_again(conn, notification_id, now)
            await self._audit(
                conn,
                asker.did(
                    "notification.retry",
                    f"notification:{notification_id}",
                    now,
                    before={"state": row.state, "error": row.error},
                    after={"state": "pending"},
                ),
            )
            return _there(await store.fetch_notification(conn, notification_id, sites), notification_id)


def _there(row: NotificationRow | None, notification_id: str) -> NotificationRow:
    if row is None:
        raise UnknownNotification(
            f"there is no notification {notification_id}", message_zh=f"通知 {notification_id} 不存在"
        )
    return row
