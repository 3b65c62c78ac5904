"""SQL of the last known step of alarms."""

from collections.abc import Collection
from datetime import datetime

from libs.common.db import ReadConn, WriteConn
from services.export.domain.latest import ActiveAlarm, AlarmState
from services.export.domain.pushing import Held

Conn = ReadConn | WriteConn


async def save_alarm_states(conn: WriteConn, states: Collection[AlarmState]) -> None:
    """Write the last known step of alarms, one each; an older step than the one known changes nothing."""
    await conn.execute(
        """
        insert into alarm_states
               (alarm_id, site_id, device_id, signal, level, sequence, began_at, ended_at, historical)
        select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::integer[], $6::bigint[],
                             $7::timestamptz[], $8::timestamptz[], $9::boolean[])
        on conflict (alarm_id) do update
           set level = excluded.level, sequence = excluded.sequence, ended_at = excluded.ended_at
         where alarm_states.sequence < excluded.sequence
        """,
        [state.alarm_id for state in states],
        [state.site_id for state in states],
        [state.device_id for state in states],
        [state.signal for state in states],
        [state.level for state in states],
        [state.sequence for state in states],
        [state.began_at for state in states],
        [state.ended_at for state in states],
        [state.historical for state in states],
    )


async def active_alarms(conn: Conn, devices: Collection[str]) -> list[ActiveAlarm]:
    """Return the alarms that hold at these devices."""
    rows = await conn.fetch(
        """
        select device_id, signal, level from alarm_states
         where device_id = any($1) and ended_at is null and not historical
        """,
        list(devices),
    )
    return [ActiveAlarm(row["device_id"], row["signal"], row["level"]) for row in rows]


async def alarms_within(conn: Conn, devices: Collection[str], start: datetime, end: datetime) -> list[Held]:
    """Return the alarms that held at these devices at some time within a span, in the order in which they began."""
    rows = await conn.fetch(
        """
        select device_id, signal, level, began_at, ended_at from alarm_states
         where device_id = any($1) and not historical and began_at <= $3 and (ended_at is null or ended_at > $2)
         order by began_at
        """,
        list(devices),
        start,
        end,
    )
    return [Held(row["device_id"], row["signal"], row["level"], row["began_at"], row["ended_at"]) for row in rows]
