"""SQL of what is known of each load's switching; whoever changes a command locks its load here first."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from libs.common.db import ReadConn, WriteConn
from libs.common.ids import LoadId


@dataclass(frozen=True, slots=True)
class LoadRow:
    """What the database knows of a load's switching."""

    load_id: LoadId
    isolation_id: str | None
    suspended_by: str | None
    last_on_at: datetime | None
    released_trip: int | None
    already_off: bool
    offs_last_day: int


async def lock_loads(conn: WriteConn, load_ids: Iterable[str], *, skip_locked: bool = False) -> list[str]:
    """Lock loads, in one order for everybody; until the transaction ends nobody else changes their commands.

    Args:
        conn: Where.
        load_ids: Which.
        skip_locked: Leave out those that somebody else is working on, instead of waiting.

    Returns:
        The loads that are locked.
    """
    ids = sorted(set(load_ids))
    if not ids:
        return []
    await conn.execute(
        "insert into load_switching (load_id) select unnest($1::text[]) on conflict (load_id) do nothing", ids
    )
    if skip_locked:
        rows = await conn.fetch(
            """
            select load_id from load_switching where load_id = any($1::text[]) order by load_id
               for update skip locked
            """,
            ids,
        )
    else:
        rows = await conn.fetch(
            "select load_id from load_switching where load_id = any($1::text[]) order by load_id for update", ids
        )
    return [row["load_id"] for row in rows]


async def facts_of(conn: ReadConn | WriteConn, load_ids: Sequence[str], now: datetime) -> dict[str, LoadRow]:
    """Return what the database knows of loads that are about to get a command."""
    rows = await conn.fetch(
        """
        select l.load_id, i.isolation_id, s.wake_up_id as suspended_by, w.last_on_at, w.released_trip,
               exists (select from off_leases o join commands b using (command_id)
                        where o.load_id = l.load_id and o.closed_at is null and b.attempt > 0) as already_off,
               (select count(*) from commands b
                 where b.load_id = l.load_id and b.action = 'open' and b.attempt > 0
                   and b.created_at > $2::timestamptz - interval '1 day') as offs_last_day
          from unnest($1::text[]) as l(load_id)
          left join isolations i on i.load_id = l.load_id and i.state = 'active'
          left join lateral (select wake_up_id from suspensions p where p.load_id = l.load_id limit 1) s on true
          left join load_switching w on w.load_id = l.load_id
        """,
        sorted(set(load_ids)),
        now,
    )
    return {row["load_id"]: LoadRow(**dict(row)) for row in rows}


async def note_switched(conn: WriteConn, load_ids: Sequence[str], at: datetime, *, on: bool) -> None:
    """Note when loads were last proven off or on; a wake-up also ends a release of a trip."""
    if not load_ids:
        return
    ids = sorted(set(load_ids))
    if on:
        await conn.execute(
            """
            insert into load_switching (load_id, last_on_at) select unnest($1::text[]), $2
            on conflict (load_id) do update
               set last_on_at = excluded.last_on_at, released_trip = null, released_by = null, released_at = null
            """,
            ids,
            at,
        )
    else:
        await conn.execute(
            """
            insert into load_switching (load_id, last_off_at) select unnest($1::text[]), $2
            on conflict (load_id) do update set last_off_at = excluded.last_off_at
            """,
            ids,
            at,
        )


async def last_offs(conn: ReadConn | WriteConn, load_ids: Iterable[str]) -> dict[str, datetime]:
    """Return when each of these loads was last proven off; one that never was is left out."""
    rows = await conn.fetch(
        "select load_id, last_off_at from load_switching where load_id = any($1::text[]) and last_off_at is not null",
        sorted(set(load_ids)),
    )
    return {row["load_id"]: row["last_off_at"] for row in rows}


async def release_trip(conn: WriteConn, load_id: str, trip_reason: int, actor: str, at: datetime) -> None:
    """Note that a person has released a protection trip, until the load is proven on."""
    await conn.execute(
        """
        insert into load_switching (load_id, released_trip, released_by, released_at) values ($1, $2, $3, $4)
        on conflict (load_id) do update
           set released_trip = excluded.released_trip, released_by = excluded.released_by,
               released_at = excluded.released_at
        """,
        load_id,
        trip_reason,
        actor,
        at,
    )


async def released_trips(conn: ReadConn | WriteConn, load_ids: Iterable[str] | None = None) -> dict[str, int]:
    """Return the released trip reason by load."""
    rows = await conn.fetch(
        """
        select load_id, released_trip from load_switching
         where released_trip is not null and ($1::text[] is null or load_id = any($1::text[]))
        """,
        None if load_ids is None else sorted(set(load_ids)),
    )
    return {row["load_id"]: row["released_trip"] for row in rows}
