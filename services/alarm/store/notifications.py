"""SQL of messages to people."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from libs.common.contracts.base import JsonObject
from libs.common.db import ReadConn, WriteConn


@dataclass(frozen=True, slots=True)
class NotificationRow:
    """A message to a channel, and what became of it."""

    notification_id: str
    channel_id: str
    route_id: str | None
    kind: str
    created_at: datetime
    title: str
    body: str
    alarms: Sequence[JsonObject]
    """The first of its alarms."""
    alarm_count: int
    state: str
    attempts: int
    next_attempt_at: datetime | None
    sent_at: datetime | None
    error: str | None
    error_zh: str | None


@dataclass(frozen=True, slots=True)
class NewNotification:
    """A message that is to be sent."""

    row: NotificationRow
    alarm_ids: Sequence[str]
    site_ids: Sequence[str] | None
    """Sites that it speaks of; None: too many to be kept, so that only who may see all may see it."""


@dataclass(frozen=True, slots=True)
class NotificationFilter:
    """Which messages are asked for; None does not limit."""

    state: str | None = None
    channel_id: str | None = None
    kind: str | None = None
    alarm_id: str | None = None
    created_from: datetime | None = None
    created_before: datetime | None = None
    sites: Collection[str] | None = None
    """What the asker may see."""


async def put_notifications(conn: WriteConn, news: Sequence[NewNotification]) -> None:
    """Write messages that are to be sent."""
    if not news:
        return
    await conn.executemany(
        """
        insert into notifications (notification_id, channel_id, route_id, kind, created_at, title, body, alarms,
               alarm_count, site_ids, state, next_attempt_at, error, error_zh)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $5, $12, $13)
        """,
        [
            (
                one.row.notification_id,
                one.row.channel_id,
                one.row.route_id,
                one.row.kind,
                one.row.created_at,
                one.row.title,
                one.row.body,
                list(one.row.alarms),
                one.row.alarm_count,
                None if one.site_ids is None else list(one.site_ids),
                one.row.state,
                one.row.error,
                one.row.error_zh,
            )
            for one in news
        ],
    )
    await conn.execute(
        "insert into notification_alarms (notification_id, alarm_id) select * from unnest($1::text[], $2::text[])",
        [one.row.notification_id for one in news for _ in one.alarm_ids],
        [alarm_id for one in news for alarm_id in one.alarm_ids],
    )


async def count_lately(conn: ReadConn | WriteConn, since: datetime) -> dict[str, int]:
    """Return how many messages were made for each channel since then."""
    rows = await conn.fetch(
        "select channel_id, count(*) as number from notifications where created_at > $1 group by channel_id", since
    )
    return {row["channel_id"]: row["number"] for row in rows}


async def count_sent(conn: ReadConn, channel_id: str, since: datetime) -> int:
    """Return how many messages a channel has sent since then."""
    number: int = await conn.fetchval(
        "select count(*) from notifications where channel_id = $1 and sent_at > $2", channel_id, since
    )
    return number


async def fetch_waiting_channels(conn: ReadConn, now: datetime) -> list[str]:
    """Return the channels whose oldest pending message may be tried now."""
    rows = await conn.fetch(
        """
        select channel_id from (
            select distinct on (channel_id) channel_id, next_attempt_at
              from notifications where state = 'pending'
             order by channel_id, created_at, notification_id) as oldest
         where next_attempt_at is null or next_attempt_at <= $1
        """,
        now,
    )
    return [row["channel_id"] for row in rows]


async def fetch_oldest(conn: ReadConn, channel_id: str) -> NotificationRow | None:
    """Return the oldest pending message of a channel."""
    row = await conn.fetchrow(
        """
        select notification_id, channel_id, route_id, kind, created_at, title, body, alarms, alarm_count, state,
               attempts, next_attempt_at, sent_at, error, error_zh
          from notifications where channel_id = $1 and state = 'pending'
         order by created_at, notification_id limit 1
        """,
        channel_id,
    )
    return None if row is None else NotificationRow(**dict(row))


async def note_attempt(conn: WriteConn, notification_id: str) -> None:
    """Note before an attempt that there is one, so that one which ends the process counts too."""
    await conn.execute("update notifications set attempts = attempts + 1 where notification_id = $1", notification_id)


async def note_sent(conn: WriteConn, notification_id: str, at: datetime) -> None:
    """Note that the receiver has taken a message."""
    await conn.execute(
        """
        update notifications set state = 'sent', sent_at = $2, next_attempt_at = null, error = null, error_zh = null
         where notification_id = $1
        """,
        notification_id,
        at,
    )


async def note_failure(
    conn: WriteConn, notification_id: str, *, error: str, error_zh: str, next_attempt_at: datetime | None
) -> None:
    """Note why an attempt failed, and when the next is; None: there is none any more."""
    await conn.execute(
        """
        update notifications set error = $2, error_zh = $3, next_attempt_at = $4,
               state = case when $4::timestamptz is null then 'failed' else 'pending' end
         where notification_id = $1
        """,
        notification_id,
        error,
        error_zh,
        next_attempt_at,
    )


async def try_again(conn: WriteConn, notification_id: str, at: datetime) -> None:
    """Let a message that has failed be tried again, as often as a new one."""
    await conn.execute(
        """
        update notifications set state = 'pending', attempts = 0, next_attempt_at = $2, created_at = $2
         where notification_id = $1 and state = 'failed'
        """,
        notification_id,
        at,
    )


async def delete_old(conn: WriteConn, before: datetime, limit: int) -> int:
    """Forget messages that are not pending and older than that; return how many."""
    rows = await conn.fetch(
        """
        delete from notifications where notification_id in (
            select notification_id from notifications where created_at < $1 and state <> 'pending'
             order by created_at limit $2)
        returning notification_id
        """,
        before,
        limit,
    )
    await conn.execute(
        "delete from notification_alarms where notification_id = any($1::text[])",
        [row["notification_id"] for row in rows],
    )
    return len(rows)


async def fetch_notifications(
    conn: ReadConn, wanted: NotificationFilter, *, after: tuple[datetime, str] | None, limit: int
) -> list[NotificationRow]:
    """Return messages, the youngest first."""
    rows = await conn.fetch(
        """
        select notification_id, channel_id, route_id, kind, created_at, title, body, alarms, alarm_count, state,
               attempts, next_attempt_at, sent_at, error, error_zh
          from notifications n
         where ($1::text is null or n.state = $1)
           and ($2::text is null or n.channel_id = $2)
           and ($3::text is null or n.kind = $3)
           and ($4::text is null or n.notification_id in (
                select a.notification_id from notification_alarms a where a.alarm_id = $4))
           and ($5::timestamptz is null or n.created_at >= $5)
           and ($6::timestamptz is null or n.created_at < $6)
           and ($7::text[] is null or n.site_ids <@ $7)
           and ($8::timestamptz is null or (n.created_at, n.notification_id) < ($8, $9::text))
         order by n.created_at desc, n.notification_id desc
         limit $10
        """,
        wanted.state,
        wanted.channel_id,
        wanted.kind,
        wanted.alarm_id,
        wanted.created_from,
        wanted.created_before,
        None if wanted.sites is None else sorted(wanted.sites),
        None if after is None else after[0],
        None if after is None else after[1],
        limit,
    )
    return [NotificationRow(**dict(row)) for row in rows]


async def fetch_notification(
    conn: ReadConn | WriteConn, notification_id: str, sites: Collection[str] | None
) -> NotificationRow | None:
    """Return a message, None when there is none or it speaks of other sites than these."""
    row = await conn.fetchrow(
        """
        select notification_id, channel_id, route_id, kind, created_at, title, body, alarms, alarm_count, state,
               attempts, next_attempt_at, sent_at, error, error_zh
          from notifications where notification_id = $1 and ($2::text[] is null or site_ids <@ $2)
        """,
        notification_id,
        None if sites is None else sorted(sites),
    )
    return None if row is None else NotificationRow(**dict(row))
