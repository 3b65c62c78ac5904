"""SQL of maintenance windows and shelves."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from libs.common.db import ReadConn, WriteConn
from services.alarm.domain.model import to_us
from services.alarm.domain.sites import Shelf, Window

KEPT = timedelta(days=7)
"""Windows and shelves that ended longer ago explain nothing to a process that starts, however far behind it is."""


@dataclass(frozen=True, slots=True)
class WindowRow:
    """A maintenance window as it stands."""

    window_id: str
    site_id: str
    device_ids: Sequence[str] | None
    starts_at: datetime
    ends_at: datetime
    owner: str
    reason: str
    created_by: str
    created_at: datetime
    changed_by: str
    changed_at: datetime
    called_off_at: datetime | None


@dataclass(frozen=True, slots=True)
class ShelfRow:
    """What a person has put aside."""

    shelf_id: str
    """That of the alarm that it was put aside with."""
    site_id: str
    device_id: str | None
    rule_key: str
    until: datetime
    actor: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class WindowFilter:
    """Which windows are asked for; None does not limit."""

    sites: Sequence[str] | None = None
    at: datetime | None = None
    """Those that last then, and were not called off."""


# The list of columns is ours; nothing from outside gets into a statement.
_COLUMNS = """
    window_id, site_id, device_ids, starts_at, ends_at, owner, reason, created_by, created_at, changed_by, changed_at,
    called_off_at
"""


async def put_window(conn: WriteConn, row: WindowRow) -> None:
    """Write a window, a new one or what it is to be from now on."""
    await conn.execute(
        f"""
        insert into maintenance_windows ({_COLUMNS}) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
            on conflict (window_id) do update set
               device_ids = excluded.device_ids, starts_at = excluded.starts_at, ends_at = excluded.ends_at,
               owner = excluded.owner, reason = excluded.reason, changed_by = excluded.changed_by,
               changed_at = excluded.changed_at, called_off_at = excluded.called_off_at
        """,  # noqa: S608
        row.window_id,
        row.site_id,
        None if row.device_ids is None else list(row.device_ids),
        row.starts_at,
        row.ends_at,
        row.owner,
        row.reason,
        row.created_by,
        row.created_at,
        row.changed_by,
        row.changed_at,
        row.called_off_at,
    )


async def fetch_window(conn: ReadConn | WriteConn, window_id: str, *, lock: bool = False) -> WindowRow | None:
    """Return a window, None when there is none; ``lock`` keeps others from changing it in this transaction."""
    row = await conn.fetchrow(
        f"select {_COLUMNS} from maintenance_windows where window_id = $1 {'for update' if lock else ''}",  # noqa: S608
        window_id,
    )
    return None if row is None else WindowRow(**dict(row))


async def fetch_windows(
    conn: ReadConn, wanted: WindowFilter, *, after: tuple[datetime, str] | None, limit: int
) -> list[WindowRow]:
    """Return windows, the latest begin first.

    Args:
        conn: Where to read.
        wanted: The filter.
        after: Begin and id of the last window of the page before.
        limit: How many at most.
    """
    rows = await conn.fetch(
        f"""
        select {_COLUMNS} from maintenance_windows
         where ($1::text[] is null or site_id = any($1))
           and ($2::timestamptz is null or (starts_at <= $2 and ends_at > $2 and called_off_at is null))
           and ($3::timestamptz is null or (starts_at, window_id) < ($3, $4::text))
         order by starts_at desc, window_id desc
         limit $5
        """,  # noqa: S608
        None if wanted.sites is None else list(wanted.sites),
        wanted.at,
        None if after is None else after[0],
        None if after is None else after[1],
        limit,
    )
    return [WindowRow(**dict(row)) for row in rows]


async def fetch_explaining_windows(conn: WriteConn) -> list[Window]:
    """Return the windows that may still explain alarms."""
    rows = await conn.fetch(
        f"""
        select {_COLUMNS} from maintenance_windows
         where called_off_at is null and ends_at > now() - $1::interval
        """,  # noqa: S608
        KEPT,
    )
    return [
        Window(
            window_id=row["window_id"],
            site_id=row["site_id"],
            device_ids=None if row["device_ids"] is None else frozenset(row["device_ids"]),
            from_us=to_us(row["starts_at"]),
            to_us=to_us(row["ends_at"]),
        )
        for row in rows
    ]


async def put_shelf(conn: WriteConn, row: ShelfRow) -> None:
    """Write a shelf, in place of an earlier one of that id."""
    await conn.execute(
        """
        insert into shelves (shelf_id, site_id, device_id, rule_key, until, actor, reason, at)
        values ($1, $2, $3, $4, $5, $6, $7, $8)
            on conflict (shelf_id) do update set
               until = excluded.until, actor = excluded.actor, reason = excluded.reason, at = excluded.at
        """,
        row.shelf_id,
        row.site_id,
        row.device_id,
        row.rule_key,
        row.until,
        row.actor,
        row.reason,
        row.at,
    )


async def delete_shelf(conn: WriteConn, shelf_id: str) -> bool:
    """Remove a shelf; return whether there was one."""
    found: str | None = await conn.fetchval("delete from shelves where shelf_id = $1 returning shelf_id", shelf_id)
    return found is not None


async def fetch_explaining_shelves(conn: WriteConn) -> list[Shelf]:
    """Return the shelves that may still explain alarms; older ones are forgotten."""
    await conn.execute("delete from shelves where until < now() - $1::interval", KEPT)
    rows = await conn.fetch("select shelf_id, site_id, device_id, rule_key, until from shelves")
    return [
        Shelf(row["shelf_id"], row["site_id"], row["device_id"], row["rule_key"], to_us(row["until"])) for row in rows
    ]
