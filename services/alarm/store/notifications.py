"""SQL of channels, routes and messages of notifications."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from libs.common.contracts.base import JsonObject
from libs.common.db import ReadConn, WriteConn
from services.alarm.channels.config import CONFIG, ChannelConfig
from services.alarm.routebody import RouteBody


@dataclass(frozen=True, slots=True)
class ChannelRow:
    """A channel as it stands."""

    channel_id: str
    name: str
    config: ChannelConfig
    credentials_ref: str | None
    language: str
    enabled: bool
    rate_per_min: int
    failing_since: datetime | None
    changed_by: str
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class RouteRow:
    """A route as it stands."""

    route_id: str
    body: RouteBody
    changed_by: str
    changed_at: datetime


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


async def fetch_channels(conn: ReadConn | WriteConn) -> dict[str, ChannelRow]:
    """Return all channels by id."""
    rows = await conn.fetch(
        """
        select channel_id, name, config, credentials_ref, language, enabled, rate_per_min, failing_since, changed_by,
               changed_at
          from notification_channels order by channel_id
        """
    )
    return {row["channel_id"]: _channel(row) for row in rows}


async def put_channel(conn: WriteConn, row: ChannelRow) -> None:
    """Write a channel."""
    await conn.execute(
        """
        insert into notification_channels (channel_id, name, config, credentials_ref, language, enabled, rate_per_min,
               changed_by, changed_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
            on conflict (channel_id) do update set
               name = excluded.name, config = excluded.config, credentials_ref = excluded.credentials_ref,
               language = excluded.language, enabled = excluded.enabled, rate_per_min = excluded.rate_per_min,
               changed_by = excluded.changed_by, changed_at = excluded.changed_at
        """,
        row.channel_id,
        row.name,
        row.config.model_dump(mode="json"),
        row.credentials_ref,
        row.language,
        row.enabled,
        row.rate_per_min,
        row.changed_by,
        row.changed_at,
    )


async def delete_channel(conn: WriteConn, channel_id: str) -> None:
    """Forget a channel."""
    await conn.execute("delete from notification_channels where channel_id = $1", channel_id)


async def set_failing(conn: WriteConn, channel_id: str, since: datetime | None) -> bool:
    """Note since when a channel fails, None for not; return whether that is news."""
    status = await conn.execute(
        """
        update notification_channels set failing_since = $2
         where channel_id = $1 and (failing_since is null) <> ($2::timestamptz is null)
        """,
        channel_id,
        since,
    )
    return bool(status == "UPDATE 1")


async def fetch_routes(conn: ReadConn | WriteConn) -> dict[str, RouteRow]:
    """Return all routes by id, in their order."""
    rows = await conn.fetch(
        "select route_id, route, changed_by, changed_at from notification_routes order by position, route_id"
    )
    return {
        row["route_id"]: RouteRow(
            row["route_id"], RouteBody.model_validate(row["route"]), row["changed_by"], row["changed_at"]
        )
        for row in rows
    }


async def put_route(conn: WriteConn, row: RouteRow) -> None:
    """Write a route."""
    await conn.execute(
        """
        insert into notification_routes (route_id, name, position, enabled, route, changed_by, changed_at)
        values ($1, $2, $3, $4, $5, $6, $7)
            on conflict (route_id) do update set
               name = excluded.name, position = excluded.position, enabled = excluded.enabled, route = excluded.route,
               changed_by = excluded.changed_by, changed_at = excluded.changed_at
        """,
        row.route_id,
        row.body.name,
        row.body.position,
        row.body.enabled,
        row.body.model_dump(mode="json", by_alias=True),
        row.changed_by,
        row.changed_at,
    )


async def delete_route(conn: WriteConn, route_id: str) -> None:
    """Forget a route; what it told is still told to have ended."""
    await conn.execute("delete from notification_routes where route_id = $1", route_id)


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


async def count_by_state(conn: ReadConn) -> dict[str, int]:
    """Return how many messages there are in each state but sent."""
    rows = await conn.fetch("select state, count(*) as number from notifications where state <> 'sent' group by state")
    return {row["state"]: row["number"] for row in rows}


def _channel(row: asyncpg.Record) -> ChannelRow:
    return ChannelRow(
        channel_id=row["channel_id"],
        name=row["name"],
        config=CONFIG.validate_python(row["config"]),
        credentials_ref=row["credentials_ref"],
        language=row["language"],
        enabled=row["enabled"],
        rate_per_min=row["rate_per_min"],
        failing_since=row["failing_since"],
        changed_by=row["changed_by"],
        changed_at=row["changed_at"],
    )
