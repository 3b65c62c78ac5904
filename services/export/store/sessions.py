"""SQL of units' sessions: LOGINs and LOGOUTs that are due, what is known of a session, silence, pushed values."""

from collections.abc import Collection
from datetime import datetime

from libs.common.db import ReadConn, WriteConn
from services.export.domain.connection import Unit, UnitKey
from services.export.store.units import UNIT, unit_of

Conn = ReadConn | WriteConn


async def save_session(conn: WriteConn, unit: Unit) -> None:
    """Write what is known of a unit's session."""
    await save_sessions(conn, [unit])


async def save_sessions(conn: WriteConn, units: Collection[Unit], *, released_by: str | None = None) -> None:
    """Write what is known of units' sessions, whose rows are locked.

    Args:
        conn: Where.
        units: As they are now.
        released_by: Who gives their queues free, unless these are another's by now.
    """
    await conn.execute(
        """
        update units u
           set phase = n.phase, assigned_address = n.assigned_address, access_right = n.access_right,
               last_login_at = n.last_login_at, login_not_before = n.login_not_before,
               login_failures = n.login_failures, logged_in_at = n.logged_in_at, heard_at = n.heard_at,
               send_failures = n.send_failures, error = n.error, clock_skew_s = n.clock_skew_s, finding = n.finding,
               sending_by = nullif(u.sending_by, $14),
               sending_until = case when u.sending_by = $14 then null else u.sending_until end
          from unnest($1::bigint[], $2::text[], $3::text[], $4::integer[], $5::timestamptz[], $6::timestamptz[],
                      $7::integer[], $8::timestamptz[], $9::timestamptz[], $10::integer[], $11::text[],
                      $12::double precision[], $13::text[])
            as n (key, phase, assigned_address, access_right, last_login_at, login_not_before, login_failures,
                  logged_in_at, heard_at, send_failures, error, clock_skew_s, finding)
         where u.key = n.key
        """,
        [unit.key for unit in units],
        [unit.phase for unit in units],
        [unit.assigned_address for unit in units],
        [unit.right for unit in units],
        [unit.last_login_at for unit in units],
        [unit.login_not_before for unit in units],
        [unit.login_failures for unit in units],
        [unit.logged_in_at for unit in units],
        [unit.heard_at for unit in units],
        [unit.send_failures for unit in units],
        [unit.error for unit in units],
        [unit.clock_skew_s for unit in units],
        [unit.finding for unit in units],
        released_by,
    )


async def note_heard(conn: WriteConn, keys: Collection[UnitKey], now: datetime, *, not_since: datetime) -> None:
    """Note that the centre asked these units something, unless that was noted after ``not_since``."""
    await conn.execute(
        """
        with silent as (
            select key from units where key = any($1) and (heard_at is null or heard_at < $3) order by key for update
        )
        update units set heard_at = $2 from silent where units.key = silent.key
        """,
        list(keys),
        now,
        not_since,
    )


async def save_heartbeats(conn: WriteConn, keys: Collection[UnitKey], interval_s: float) -> None:
    """Write how often the centre says that it asks for units' status."""
    await conn.execute("update units set heartbeat_s = $2 where key = any($1)", list(keys), interval_s)


async def note_skew(conn: WriteConn, keys: Collection[UnitKey], skew_s: float) -> None:
    """Note how much a centre's clock differs from ours."""
    await conn.execute(
        """
        with told as (select key from units where key = any($1) order by key for update)
        update units set clock_skew_s = $2 from told where units.key = told.key
        """,
        list(keys),
        skew_s,
    )


async def units_in(conn: Conn, connection_id: str, *, slots: Collection[int], slot_count: int) -> list[Unit]:
    """Return the units of these slots that the centre has let in."""
    rows = await conn.fetch(
        UNIT + " where connection_id = $1 and key % $3 = any($2) and phase = 'registered' order by key",
        connection_id,
        list(slots),
        slot_count,
    )
    return [unit_of(row) for row in rows]


async def values_told_at(conn: Conn, key: UnitKey) -> datetime | None:
    """Return up to when a unit's centre has been told its values; None when it was told none yet."""
    found: datetime | None = await conn.fetchval("select values_told_at from units where key = $1", key)
    return found


async def note_values_told(conn: WriteConn, key: UnitKey, at: datetime) -> None:
    """Write up to when a unit's centre has been told its values."""
    await conn.execute("update units set values_told_at = $2 where key = $1", key, at)


async def units_to_log_in(
    conn: Conn, connection_id: str, *, slots: Collection[int], slot_count: int, now: datetime,
    interval_s: float, limit: int,
) -> list[Unit]:  # fmt: skip
    """Return units that wait for a LOGIN and may have it now, the longest waiting first.

    A unit without a mapping waits for one, since a LOGIN carries the list of devices; when that list changes
    afterwards, another LOGIN tells the centre.
    """
    rows = await conn.fetch(
        UNIT
        + """
         where connection_id = $1 and key % $3 = any($2)
           and (phase in ('new', 'refused', 'lost') or phase = 'registered' and devices_changed)
           and exists (select from mapping_devices d where d.unit_key = units.key)
           and (last_login_at is null or last_login_at <= $4::timestamptz - make_interval(secs => $5)
                or last_login_at > $4::timestamptz + make_interval(secs => $5))
           and (login_not_before is null or login_not_before <= $4)
         order by last_login_at nulls first, key
         limit $6
        """,
        connection_id,
        list(slots),
        slot_count,
        now,
        interval_s,
        limit,
    )
    return [unit_of(row) for row in rows]


async def units_to_log_out(
    conn: Conn, connection_id: str, *, slots: Collection[int], slot_count: int, now: datetime
) -> list[Unit]:
    """Return units whose LOGOUT is due."""
    rows = await conn.fetch(
        UNIT
        + """
         where connection_id = $1 and key % $3 = any($2) and phase = 'leaving'
           and (login_not_before is null or login_not_before <= $4)
         order by key
        """,
        connection_id,
        list(slots),
        slot_count,
        now,
    )
    return [unit_of(row) for row in rows]


async def claim_login(conn: WriteConn, key: UnitKey, *, now: datetime, interval_s: float) -> bool:
    """Write the time of a LOGIN before it is sent; return whether it may be sent.

    A last LOGIN further in the future than the interval is nonsense (the wall clock was set back); one that is less
    far may be another replica's clock, and is believed.
    """
    done = await conn.execute(
        """
        update units set last_login_at = $2, devices_changed = false
         where key = $1 and (phase in ('new', 'refused', 'lost') or phase = 'registered' and devices_changed)
           and (last_login_at is null or last_login_at <= $2::timestamptz - make_interval(secs => $3)
                or last_login_at > $2::timestamptz + make_interval(secs => $3))
        """,
        key,
        now,
        interval_s,
    )
    return bool(done == "UPDATE 1")


async def lock_silent_units(
    conn: WriteConn, connection_id: str, *, slots: Collection[int], slot_count: int, now: datetime, silence_s: float,
    heartbeats: float,
) -> list[Unit]:  # fmt: skip
    """Return registered units whose centre has not been heard of for too long; holds their rows.

    Where a centre has said how often it asks, as many of its questions must have failed to come at least.
    """
    rows = await conn.fetch(
        UNIT
        + """
         where connection_id = $1 and key % $3 = any($2) and phase = 'registered'
           and heard_at < $4::timestamptz
                          - make_interval(secs => greatest($5::float8, $6::float8 * coalesce(heartbeat_s, 0)))
         order by key
           for update skip locked
        """,
        connection_id,
        list(slots),
        slot_count,
        now,
        silence_s,
        heartbeats,
    )
    return [unit_of(row) for row in rows]
