"""SQL of units' queues: in which something is due, whose turn it is, and who may send it."""

from collections.abc import Collection
from datetime import datetime

from libs.common.db import ReadConn, WriteConn
from services.export.domain.connection import Unit, UnitKey
from services.export.domain.delivery import Delivery
from services.export.store.deliveries import delivery_of
from services.export.store.units import UNIT_COLUMNS, unit_of

Conn = ReadConn | WriteConn


async def units_with_due_alarms(
    conn: Conn, connection_id: str, *, slots: Collection[int], slot_count: int, now: datetime,
    besides: Collection[UnitKey], limit: int,
) -> list[UnitKey]:  # fmt: skip
    """Return units that have been let in once and have something due, those that have waited longest first.

    All that is open is looked through, so it is not to be asked with every alarm.

    Args:
        conn: Where.
        connection_id: Of which connection.
        slots: Units are spread over slots by their key; those of these.
        slot_count: How many slots there are.
        now: What is due by then.
        besides: Units that are left out.
        limit: At most so many.
    """
    rows = await conn.fetch(
        """
        with due as (
            select unit_key, min(seq) as first
              from deliveries
             where connection_id = $1 and state in ('queued', 'retrying', 'refused')
               and (next_attempt_at is null or next_attempt_at <= $4)
             group by unit_key
        )
        select u.key
          from units u join due on due.unit_key = u.key
         where u.key % $3 = any($2) and u.phase in ('registered', 'lost') and u.logged_in_at is not null
           and u.key <> all($5)
         order by due.first
         limit $6
        """,
        connection_id,
        list(slots),
        slot_count,
        now,
        list(besides),
        limit,
    )
    return [UnitKey(row["key"]) for row in rows]


async def units_with_more(conn: Conn, keys: Collection[UnitKey], now: datetime) -> list[UnitKey]:
    """Return those of the units in whose queues something is due, be it behind what is not."""
    rows = await conn.fetch(
        """
        select key from unnest($1::bigint[]) as wanted (key)
         where exists (select from deliveries
                        where unit_key = wanted.key and state in ('queued', 'retrying', 'refused')
                          and (next_attempt_at is null or next_attempt_at <= $2))
        """,
        list(keys),
        now,
    )
    return [UnitKey(row["key"]) for row in rows]


async def due_heads(
    conn: Conn, keys: Collection[UnitKey], *, now: datetime, limit: int
) -> dict[UnitKey, list[Delivery]]:
    """Return, by unit, the first open delivery of each point, those that are due, oldest first.

    Args:
        conn: Where.
        keys: Of which units.
        now: What is due by then.
        limit: At most so many of a unit.
    """
    rows = await conn.fetch(
        """
        select heads.*
          from unnest($1::bigint[]) as wanted (key)
         cross join lateral (
            select first.*
              from (select distinct on (sc_device_id, point_id)
                           id, connection_id, unit_key, alarm_id, event_id, site_id, device_id, step, serial,
                           sc_device_id, sc_device_code, point_id, level, at, began_at, text, detail, value,
                           traceparent, state, attempts, alone, queued_at, next_attempt_at, finished_at, error,
                           network_alarm, seq
                      from deliveries
                     where unit_key = wanted.key and state in ('queued', 'retrying', 'refused')
                     order by sc_device_id, point_id, seq) as first
             where next_attempt_at is null or next_attempt_at <= $2
             order by seq
             limit $3
         ) as heads
         order by seq
        """,
        list(keys),
        now,
        limit,
    )
    found: dict[UnitKey, list[Delivery]] = {}
    for row in rows:
        found.setdefault(UnitKey(row["unit_key"]), []).append(delivery_of(row))
    return found


async def hurry(conn: WriteConn, key: UnitKey, now: datetime) -> None:
    """Make everything that waits at a unit due now: it has just been let in."""
    await conn.execute(
        """
        update deliveries set next_attempt_at = $2
         where unit_key = $1 and state in ('queued', 'retrying', 'refused') and next_attempt_at > $2
        """,
        key,
        now,
    )


async def claim_sending(
    conn: WriteConn, keys: Collection[UnitKey], owner: str, *, hold_s: float
) -> dict[UnitKey, Unit]:
    """Reserve units' queues for one call of ``owner`` each; return the units of which it may be made.

    That is those that have been let in once. Whoever believes in a lease that has lapsed is held off by this as long as
    a call of the new holder may last, and the other way round. Like leases it counts in the database's time, and an
    owner's own claim is its former self's.
    """
    rows = await conn.fetch(
        f"""
        with free as (
            select key as free_key from units
             where key = any($1) and (sending_until is null or sending_by = $2 or sending_until <= clock_timestamp())
               and phase in ('registered', 'lost') and logged_in_at is not null
             order by key
               for update
        )
        update units set sending_by = $2, sending_until = clock_timestamp() + make_interval(secs => $3)
          from free where key = free_key
        returning {UNIT_COLUMNS}
        """,  # noqa: S608 - our own words
        list(keys),
        owner,
        hold_s,
    )
    return {UnitKey(row["key"]): unit_of(row) for row in rows}


async def release_sending(conn: WriteConn, keys: Collection[UnitKey], owner: str) -> None:
    """Give units' queues free again, unless they are another's by now; their rows are locked before, in one order."""
    await conn.execute(
        "update units set sending_by = null, sending_until = null where key = any($1) and sending_by = $2",
        list(keys),
        owner,
    )
