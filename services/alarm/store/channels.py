"""SQL of the channels that people are told on."""

from dataclasses import dataclass
from datetime import datetime

import asyncpg

from libs.common.db import ReadConn, WriteConn
from services.alarm.channels.config import CONFIG, ChannelConfig


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


async def fetch_channel(conn: ReadConn | WriteConn, channel_id: str) -> ChannelRow | None:
    """Return a channel, None when there is none."""
    row = await conn.fetchrow(
        """
        select channel_id, name, config, credentials_ref, language, enabled, rate_per_min, failing_since, changed_by,
               changed_at
          from notification_channels where channel_id = $1
        """,
        channel_id,
    )
    return None if row is None else _channel(row)


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
