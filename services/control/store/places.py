"""SQL of what goes on at sites: active alarms, maintenance windows, emergency mode."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from libs.common.contracts.alarm import AlarmEvent
from libs.common.contracts.alarm import MaintenanceWindow as WindowPayload
from libs.common.contracts.base import Phase
from libs.common.db import ReadConn, WriteConn
from services.control.domain.places import ActiveAlarm, EmergencyMode, MaintenanceWindow

# Alarms. One that ended stays as a row for a while, so that an older step that comes again does not raise it anew.


async def put_alarms(conn: WriteConn, events: Sequence[AlarmEvent], at: datetime) -> None:
    """Take steps in alarms' lives; of each alarm only the last one is given, and an older one changes nothing."""
    if not events:
        return
    await conn.execute(
        """
        insert into active_alarms (alarm_id, site_id, device_id, level, signal, began_at, sequence, stands, changed_at)
        select alarm_id, site_id, device_id, level, signal, began_at, sequence, stands, $9
          from unnest($1::text[], $2::text[], $3::text[], $4::smallint[], $5::text[], $6::timestamptz[],
                      $7::integer[], $8::boolean[])
            as a(alarm_id, site_id, device_id, level, signal, began_at, sequence, stands)
        on conflict (alarm_id) do update
           set level = excluded.level, signal = excluded.signal, sequence = excluded.sequence,
               stands = excluded.stands, changed_at = excluded.changed_at
         where active_alarms.sequence < excluded.sequence
        """,
        [event.alarm_id for event in events],
        [event.site_id for event in events],
        [event.device_id for event in events],
        [int(event.level) for event in events],
        [event.signal for event in events],
        [event.began_at for event in events],
        [event.sequence for event in events],
        # What something else explains (our own shutdown, a window, a shelf) is no reason; its cause is one itself.
        [event.phase is not Phase.END and event.inhibited_by is None for event in events],
        at,
    )


async def alarms_at(conn: ReadConn | WriteConn, site_ids: Collection[str]) -> list[ActiveAlarm]:
    """Return the alarms that stand at these sites."""
    rows = await conn.fetch(
        """
        select alarm_id, site_id, device_id, level, signal, began_at from active_alarms
         where stands and site_id = any($1::text[])
        """,
        sorted(set(site_ids)),
    )
    return [ActiveAlarm(**dict(row)) for row in rows]


async def forget_alarms(conn: WriteConn, before: datetime) -> None:
    """Delete alarms that have not stood since before that time."""
    await conn.execute(
        """
        delete from active_alarms where alarm_id in (
            select alarm_id from active_alarms where not stands and changed_at < $1 limit 10000)
        """,
        before,
    )


# Maintenance windows.


async def put_window(conn: WriteConn, window: WindowPayload) -> None:
    """Insert or replace a window."""
    await conn.execute(
        """
        insert into maintenance_windows (window_id, site_id, device_ids, starts_at, ends_at)
        values ($1, $2, $3, $4, $5)
        on conflict (window_id) do update
           set site_id = excluded.site_id, device_ids = excluded.device_ids, starts_at = excluded.starts_at,
               ends_at = excluded.ends_at
        """,
        window.window_id,
        window.scope.site_id,
        None if window.scope.device_ids is None else list(window.scope.device_ids),
        window.from_,
        window.to,
    )


async def drop_windows(conn: WriteConn, window_ids: Sequence[str]) -> None:
    """Forget windows that were called off."""
    await conn.execute("delete from maintenance_windows where window_id = any($1::text[])", list(window_ids))


async def windows_at(conn: ReadConn | WriteConn, site_ids: Collection[str], at: datetime) -> list[MaintenanceWindow]:
    """Return the windows of these sites that are open then."""
    rows = await conn.fetch(
        """
        select window_id, site_id, device_ids, starts_at, ends_at from maintenance_windows
         where site_id = any($1::text[]) and starts_at <= $2 and ends_at > $2
         order by ends_at desc, window_id
        """,
        sorted(set(site_ids)),
        at,
    )
    return [
        MaintenanceWindow(
            window_id=row["window_id"],
            site_id=row["site_id"],
            device_ids=None if row["device_ids"] is None else tuple(row["device_ids"]),
            starts_at=row["starts_at"],
            ends_at=row["ends_at"],
        )
        for row in rows
    ]


async def forget_windows(conn: WriteConn, before: datetime) -> None:
    """Delete windows that ended before that time."""
    await conn.execute("delete from maintenance_windows where ends_at < $1", before)


# Emergency mode.

GATE = "hashtextextended('control.emergency_mode', 0)"


async def enter(conn: WriteConn, *, wait: bool) -> bool:
    """Keep emergency mode from being declared, and restarts from being sent, until the transaction ends.

    Returns:
        False when somebody is at it.
    """
    if wait:
        await conn.execute(f"select pg_advisory_xact_lock_shared({GATE})")
        return True
    entered: bool = await conn.fetchval(f"select pg_try_advisory_xact_lock_shared({GATE})")
    return entered


async def close_gate(conn: WriteConn) -> None:
    """Wait for everybody who is letting OFFs pass, and let nobody begin until the transaction ends."""
    await conn.execute(f"select pg_advisory_xact_lock({GATE})")


EMERGENCY_COLUMNS = "emergency_id, scope, target, reason, declared_by, declared_at, ended_by, ended_at"


async def insert_emergency(conn: WriteConn, mode: EmergencyMode) -> bool:
    """Insert an emergency mode; False when one is in force for that very place."""
    tag = await conn.execute(
        """
        insert into emergency_modes (emergency_id, scope, target, reason, declared_by, declared_at)
        values ($1, $2, $3, $4, $5, $6)
        on conflict (scope, target) where ended_at is null do nothing
        """,
        mode.emergency_id,
        mode.scope,
        mode.target,
        mode.reason,
        mode.declared_by,
        mode.declared_at,
    )
    return bool(tag.split()[-1] == "1")


async def end_emergency(conn: WriteConn, emergency_id: str, actor: str, at: datetime) -> bool:
    """End an emergency mode; returns whether it was in force."""
    tag = await conn.execute(
        "update emergency_modes set ended_by = $2, ended_at = $3 where emergency_id = $1 and ended_at is null",
        emergency_id,
        actor,
        at,
    )
    return bool(tag == "UPDATE 1")


async def fetch_emergency(conn: ReadConn | WriteConn, emergency_id: str) -> EmergencyMode | None:
    """Return one emergency mode."""
    row = await conn.fetchrow(
        f"select {EMERGENCY_COLUMNS} from emergency_modes where emergency_id = $1",  # noqa: S608
        emergency_id,
    )
    return None if row is None else _emergency(row)


async def emergencies_in_force(conn: ReadConn | WriteConn) -> list[EmergencyMode]:
    """Return what is in force."""
    rows = await conn.fetch(
        f"select {EMERGENCY_COLUMNS} from emergency_modes where ended_at is null order by declared_at"  # noqa: S608
    )
    return [_emergency(row) for row in rows]


async def fetch_emergencies(conn: ReadConn, *, before: tuple[datetime, str] | None, limit: int) -> list[EmergencyMode]:
    """Return emergency modes, ended ones too, the youngest first."""
    rows = await conn.fetch(
        f"""
        select {EMERGENCY_COLUMNS} from emergency_modes
         where $1::timestamptz is null or (declared_at, emergency_id) < ($1, $2)
         order by declared_at desc, emergency_id desc
         limit $3
        """,  # noqa: S608
        None if before is None else before[0],
        None if before is None else before[1],
        limit,
    )
    return [_emergency(row) for row in rows]


def _emergency(row: Mapping[str, Any]) -> EmergencyMode:
    return EmergencyMode(**dict(row))
