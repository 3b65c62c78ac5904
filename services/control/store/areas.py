"""SQL of what is off, or about to be, at sites; counted under locks of the places.

Order of locks, for everybody: loads (``store.loads.lock_loads``), then the gate of emergency mode
(``store.places.enter``), then the places here by their names. Nobody asks for a load while holding a place.
"""

from collections.abc import Collection, Iterable
from datetime import datetime

from libs.common.db import ReadConn, WriteConn


async def lock_areas(conn: WriteConn, areas: Iterable[str], *, wait: bool) -> set[str]:
    """Lock places until the transaction ends and return those that are locked.

    Args:
        conn: Where.
        areas: ``site:<id>`` and ``region:<id>``.
        wait: For others; else what they hold is left out, because whoever carries wake-ups waits for nobody.
    """
    names = sorted(set(areas))
    if not names:
        return set()
    known = await conn.fetch("select area from counted_areas where area = any($1::text[])", names)
    fresh = sorted(set(names) - {row["area"] for row in known})
    # A row that somebody else has inserted and not committed would be waited for, so one transaction inserts at a time.
    if fresh and await _may_insert(conn, wait=wait):
        await conn.execute(
            "insert into counted_areas (area) select unnest($1::text[]) on conflict (area) do nothing", fresh
        )
    ending = "for update" if wait else "for update skip locked"
    rows = await conn.fetch(
        f"select area from counted_areas where area = any($1::text[]) order by area {ending}",  # noqa: S608
        names,
    )
    return {row["area"] for row in rows}


async def _may_insert(conn: WriteConn, *, wait: bool) -> bool:
    if wait:
        await conn.execute("select pg_advisory_xact_lock(hashtextextended('control.counted_areas', 0))")
        return True
    taken: bool = await conn.fetchval("select pg_try_advisory_xact_lock(hashtextextended('control.counted_areas', 0))")
    return taken


OFF = """
    select c.site_id, c.load_id from commands c
     where c.action = 'open' and not c.is_final and ($1::text[] is null or c.site_id = any($1))
       and (c.state in ('dispatched', 'accepted', 'verifying', 'unknown') or c.attempt > 0
            or ($2 and c.state = 'scheduled' and c.not_before < $4 and coalesce(c.restore_at, $4) > $3))
    union
    select o.site_id, o.load_id from off_leases o join commands c using (command_id)
     where o.closed_at is null and c.attempt > 0 and ($1::text[] is null or o.site_id = any($1))
       and greatest(o.restore_at, $5) >= $3
    union
    select c.site_id, c.load_id from commands c
     where c.action = 'close' and not c.is_final and c.not_before <= $5 and $3 <= $5
       and ($1::text[] is null or c.site_id = any($1))
    union
    select t.site_id, t.load_id from wake_up_todo t where $3 <= $5 and ($1::text[] is null or t.site_id = any($1))
"""
"""Loads whose OFF is on its way, that are off under a lease, or that are being woken and not proven on."""


async def off_loads(
    conn: ReadConn | WriteConn,
    site_ids: Collection[str],
    *,
    pending: bool,
    start: datetime,
    end: datetime,
    now: datetime,
) -> dict[str, set[str]]:
    """Return the loads that are off or about to be, by site.

    Args:
        conn: Where; the places are locked.
        site_ids: Which sites.
        pending: Also OFFs that are scheduled for a time that meets [start, end) and have not been sent.
        start: When the OFF that is asked about would begin.
        end: When it would end.
        now: The time.
    """
    found: dict[str, set[str]] = {}
    for row in await conn.fetch(OFF, sorted(set(site_ids)), pending, start, end, now):
        found.setdefault(row["site_id"], set()).add(row["load_id"])
    return found


async def count_off(
    conn: ReadConn | WriteConn, *, pending: bool, start: datetime, end: datetime, now: datetime
) -> dict[str, int]:
    """Return how many loads are off or about to be at every site that has any; arguments as of ``off_loads``."""
    rows = await conn.fetch(
        f"select site_id, count(*) as number from ({OFF}) o group by site_id",  # noqa: S608
        None,
        pending,
        start,
        end,
        now,
    )
    return {row["site_id"]: row["number"] for row in rows}
