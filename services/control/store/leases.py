"""SQL of the OFF leases: what the watchdog is told before an OFF is sent."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from libs.common.db import ReadConn, WriteConn
from libs.common.ids import CommandId, DeviceId, LoadId, SiteId
from services.control.domain.commands import Command


@dataclass(frozen=True, slots=True)
class OffLease:
    """What the watchdog is told of an OFF before it is sent."""

    command_id: CommandId
    load_id: LoadId
    device_id: DeviceId
    channel: int | None
    site_id: SiteId
    restore_at: datetime
    off_at_most_s: float
    isolation_id: str | None
    closed_at: datetime | None


async def insert_leases(conn: WriteConn, offs: Sequence[Command], restore_ats: Sequence[datetime]) -> None:
    """Write what the watchdog is to be told of these OFFs; ``restore_ats`` holds an isolation's expiry."""
    if not offs:
        return
    await conn.execute(
        """
        insert into off_leases
               (command_id, load_id, device_id, channel, site_id, restore_at, off_at_most_s, isolation_id, made_at)
        select command_id, load_id, device_id, channel, site_id, restore_at,
               greatest(extract(epoch from restore_at - not_before), 1), isolation_id, made_at
          from unnest($1::text[], $2::text[], $3::text[], $4::integer[], $5::text[], $6::timestamptz[],
                      $7::text[], $8::timestamptz[], $9::timestamptz[])
            as l(command_id, load_id, device_id, channel, site_id, restore_at, isolation_id, made_at, not_before)
        """,
        [c.command_id for c in offs],
        [c.load_id for c in offs],
        [c.device_id for c in offs],
        [c.channel for c in offs],
        [c.site_id for c in offs],
        list(restore_ats),
        [c.isolation_id for c in offs],
        [c.created_at for c in offs],
        [c.not_before for c in offs],
    )


async def untold_leases(conn: ReadConn, limit: int) -> list[OffLease]:
    """Return leases whose present state the watchdog has not acknowledged, oldest first."""
    rows = await conn.fetch(
        """
        select command_id, load_id, device_id, channel, site_id, restore_at, off_at_most_s, isolation_id, closed_at
          from off_leases where not told order by made_at limit $1
        """,
        limit,
    )
    return [_lease(row) for row in rows]


async def open_leases(conn: ReadConn | WriteConn, load_ids: Iterable[str] | None = None) -> list[OffLease]:
    """Return the leases in force, of these loads or of all."""
    rows = await conn.fetch(
        """
        select command_id, load_id, device_id, channel, site_id, restore_at, off_at_most_s, isolation_id, closed_at
          from off_leases
         where closed_at is null and ($1::text[] is null or load_id = any($1::text[]))
         order by command_id
        """,
        None if load_ids is None else sorted(set(load_ids)),
    )
    return [_lease(row) for row in rows]


async def over_leases(conn: WriteConn, command_ids: Iterable[str]) -> set[str]:
    """Return which of these OFFs have a lease that is over: somebody wants their loads awake."""
    rows = await conn.fetch(
        "select command_id from off_leases where command_id = any($1::text[]) and closed_at is not null",
        sorted(set(command_ids)),
    )
    return {row["command_id"] for row in rows}


async def mark_told(conn: WriteConn, leases: Sequence[OffLease]) -> None:
    """Note that the watchdog has acknowledged exactly this state of the leases; one that has closed since stays."""
    await conn.execute(
        """
        update off_leases l
           set told = true
          from unnest($1::text[], $2::boolean[]) as t(command_id, closed)
         where l.command_id = t.command_id and (l.closed_at is not null) = t.closed
        """,
        [lease.command_id for lease in leases],
        [lease.closed_at is not None for lease in leases],
    )


async def close_leases(conn: WriteConn, *, command_ids: Sequence[str], at: datetime) -> None:
    """End the leases of these OFFs."""
    await conn.execute(
        """
        update off_leases set closed_at = $2, told = false
         where closed_at is null and command_id = any($1::text[])
        """,
        list(command_ids),
        at,
    )


async def release_leases(conn: WriteConn, load_ids: Sequence[str], at: datetime) -> None:
    """End the leases of loads that are wanted awake; an isolation's stays."""
    await conn.execute(
        """
        update off_leases set closed_at = $2, told = false
         where closed_at is null and isolation_id is null and load_id = any($1::text[])
        """,
        list(load_ids),
        at,
    )


async def forget_leases(conn: WriteConn, before: datetime) -> None:
    """Delete leases that have been over, and known to be, since before that time."""
    await conn.execute("delete from off_leases where closed_at < $1 and told", before)


def _lease(row: Mapping[str, Any]) -> OffLease:
    return OffLease(**dict(row))
