"""SQL of deliveries: what centres are to be told of alarms, and what became of it; rows to deliveries and back."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from libs.common.contracts.delivery import DeliveryState
from libs.common.db import ReadConn, WriteConn
from services.export.dialects.messages import DeviceRef
from services.export.domain.connection import ConnectionId, UnitKey
from services.export.domain.delivery import Begun, Delivery, Step, Target
from services.export.store.mappings import target_of

Conn = ReadConn | WriteConn

_DELIVERY = """
    select id, connection_id, unit_key, alarm_id, event_id, site_id, device_id, step, serial, sc_device_id,
           sc_device_code, point_id, level, at, began_at, text, detail, value, traceparent, state, attempts, alone,
           queued_at, next_attempt_at, finished_at, error, network_alarm
      from deliveries
"""

PointKey = tuple[UnitKey, str, str, str]
"""Unit, alarm, device of the centre, point."""


async def plan_by_index(conn: WriteConn) -> None:
    """Have the statements of this transaction planned for few rows of large tables.

    A plan is kept with its connection. One that was made while there were hardly any deliveries reads all of them for
    each unit, and goes on to do so when there are thousands.
    """
    await conn.execute("set local enable_seqscan = off")


async def fetch_begun(conn: Conn, alarms: Collection[str]) -> dict[PointKey, tuple[Begun, Target]]:
    """Return what was queued for these alarms, and whom it was queued for (mapped still, or no longer)."""
    rows = await conn.fetch(
        """
        select b.unit_key, b.alarm_id, b.sc_device_id, b.sc_device_code, b.point_id, b.serial, b.level,
               b.state = 'given_up' as given_up, b.connection_id, c.dialect, p.name, d.name as device_name,
               b.network_alarm,
               exists (select from deliveries e
                        where e.unit_key = b.unit_key and e.alarm_id = b.alarm_id and e.sc_device_id = b.sc_device_id
                          and e.point_id = b.point_id and e.step = 'end') as ended
          from unnest($1::text[]) as wanted (alarm)
         cross join lateral (select * from deliveries where alarm_id = wanted.alarm offset 0) as b
          join units u on u.key = b.unit_key
          join sc_connections c on c.id = b.connection_id
          left join mapping_points p
            on p.unit_key = b.unit_key and p.sc_device_id = b.sc_device_id and p.point_id = b.point_id
          left join mapping_devices d on d.unit_key = b.unit_key and d.sc_device_id = b.sc_device_id
         where b.step = 'begin' and u.phase not in ('leaving', 'left')
        """,
        list(alarms),
    )
    return {
        (UnitKey(row["unit_key"]), row["alarm_id"], row["sc_device_id"], row["point_id"]): (
            Begun(row["serial"], row["level"], row["given_up"], row["ended"]),
            target_of(row),
        )
        for row in rows
    }


async def insert_deliveries(conn: WriteConn, deliveries: Sequence[Delivery]) -> None:
    """Queue deliveries, in this order; one that is queued already is left as it is."""
    if not deliveries:
        return
    await conn.execute(
        """
        insert into deliveries
               (id, connection_id, unit_key, alarm_id, event_id, site_id, device_id, step, serial, sc_device_id,
                sc_device_code, point_id, level, at, began_at, text, value, traceparent, state, queued_at,
                next_attempt_at, finished_at, detail, network_alarm)
        select id, connection_id, unit_key, alarm_id, event_id, site_id, device_id, step, serial, sc_device_id,
               sc_device_code, point_id, level, at, began_at, text, value, traceparent, state, queued_at,
               next_attempt_at, finished_at, detail, network_alarm
          from unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
                      $9::bigint[], $10::text[], $11::text[], $12::text[], $13::integer[], $14::timestamptz[],
                      $15::timestamptz[], $16::text[], $17::double precision[], $18::text[], $19::text[],
                      $20::timestamptz[], $21::timestamptz[], $22::timestamptz[], $23::text[],
                      $24::text[]) with ordinality
            as n (id, connection_id, unit_key, alarm_id, event_id, site_id, device_id, step, serial, sc_device_id,
                  sc_device_code, point_id, level, at, began_at, text, value, traceparent, state, queued_at,
                  next_attempt_at, finished_at, detail, network_alarm, place)
         order by place
        on conflict on constraint deliveries_once do nothing
        """,
        *map(
            list,
            zip(
                *(
                    (
                        d.id, d.connection_id, d.unit_key, d.alarm_id, d.event_id, d.site_id, d.device_id, d.step,
                        d.serial, d.sc_device.device_id, d.sc_device.device_code, d.point_id, d.level, d.at, d.began_at,
                        d.text, d.value, d.traceparent, d.state, d.queued_at, d.next_attempt_at, d.finished_at,
                        d.detail, d.network_alarm,
                    )
                    for d in deliveries
                ),
                strict=True,
            ),
        ),
    )  # fmt: skip


async def active_reports(conn: Conn, key: UnitKey) -> list[Delivery]:
    """Return the BEGINs of a unit's alarms that have no END yet, oldest first."""
    rows = await conn.fetch(
        _DELIVERY
        + """
         where unit_key = $1 and step = 'begin' and state <> 'given_up'
           and not exists (select from deliveries e
                            where e.unit_key = deliveries.unit_key and e.alarm_id = deliveries.alarm_id
                              and e.sc_device_id = deliveries.sc_device_id and e.point_id = deliveries.point_id
                              and e.step = 'end')
         order by seq
        """,
        key,
    )
    return [delivery_of(row) for row in rows]


async def save_attempts(conn: WriteConn, deliveries: Collection[Delivery]) -> set[str]:
    """Write what became of deliveries that are still open; return the ids of these."""
    rows = await conn.fetch(
        """
        with still as (
            select id as still_id from deliveries
             where id = any($1) and state in ('queued', 'retrying', 'refused')
             order by seq
               for update
        )
        update deliveries d
           set state = n.state, attempts = n.attempts, alone = n.alone, next_attempt_at = n.next_attempt_at,
               finished_at = n.finished_at, error = n.error
          from still
          join unnest($1::text[], $2::text[], $3::integer[], $4::boolean[], $5::timestamptz[], $6::timestamptz[],
                      $7::text[]) as n (id, state, attempts, alone, next_attempt_at, finished_at, error)
            on n.id = still_id
         where d.id = still_id
        returning d.id
        """,
        [d.id for d in deliveries],
        [d.state for d in deliveries],
        [d.attempts for d in deliveries],
        [d.alone for d in deliveries],
        [d.next_attempt_at for d in deliveries],
        [d.finished_at for d in deliveries],
        [d.error for d in deliveries],
    )
    return {row["id"] for row in rows}


async def lock_open_of_units(conn: WriteConn, keys: Collection[UnitKey]) -> list[Delivery]:
    """Return everything open of these units, and hold the rows until the transaction ends."""
    rows = await conn.fetch(
        _DELIVERY + " where unit_key = any($1) and state in ('queued', 'retrying', 'refused') order by seq for update",
        list(keys),
    )
    return [delivery_of(row) for row in rows]


async def lock_with_end(conn: WriteConn, delivery_id: str) -> list[Delivery]:
    """Return a delivery and, when it is a BEGIN, its END if that is queued; holds the rows."""
    rows = await conn.fetch(
        """
        select d.id, d.connection_id, d.unit_key, d.alarm_id, d.event_id, d.site_id, d.device_id, d.step, d.serial,
               d.sc_device_id, d.sc_device_code, d.point_id, d.level, d.at, d.began_at, d.text, d.detail, d.value,
               d.traceparent, d.state, d.attempts, d.alone, d.queued_at, d.next_attempt_at, d.finished_at, d.error,
               d.network_alarm
          from deliveries d join deliveries named
            on d.unit_key = named.unit_key and d.alarm_id = named.alarm_id and d.sc_device_id = named.sc_device_id
           and d.point_id = named.point_id
         where named.id = $1 and (d.id = named.id or named.step = 'begin')
         order by d.seq
           for update of d
        """,
        delivery_id,
    )
    return [delivery_of(row) for row in rows]


async def list_deliveries(
    conn: Conn, *, connection_id: str | None, unit_id: str | None, site_id: str | None, state: str | None,
    alarm_id: str | None, sites: Sequence[str] | None, before: tuple[datetime, str] | None, limit: int,
) -> list[tuple[Delivery, str]]:  # fmt: skip
    """Return deliveries with their unit's id, newest first, after the cursor."""
    rows = await conn.fetch(
        """
        select d.id, d.connection_id, d.unit_key, d.alarm_id, d.event_id, d.site_id, d.device_id, d.step, d.serial,
               d.sc_device_id, d.sc_device_code, d.point_id, d.level, d.at, d.began_at, d.text, d.detail, d.value,
               d.traceparent, d.state, d.attempts, d.alone, d.queued_at, d.next_attempt_at, d.finished_at,
               d.error, d.network_alarm, u.unit_id
          from deliveries d join units u on u.key = d.unit_key
         where ($1::text is null or d.connection_id = $1)
           and ($2::text is null or u.unit_id = $2)
           and ($3::text is null or d.state = $3)
           and ($4::text is null or d.alarm_id = $4)
           and ($5::text[] is null or d.site_id = any($5))
           and ($6::timestamptz is null or (d.queued_at, d.id) < ($6, $7))
           and ($9::text is null or d.site_id = $9)
         order by d.queued_at desc, d.id desc
         limit $8
        """,
        connection_id,
        unit_id,
        state,
        alarm_id,
        None if sites is None else list(sites),
        None if before is None else before[0],
        None if before is None else before[1],
        limit,
        site_id,
    )
    return [(delivery_of(row), row["unit_id"]) for row in rows]


async def waiting(conn: Conn) -> dict[str, tuple[dict[str, int], datetime]]:
    """Return per connection how many deliveries wait in which state, and since when the oldest does."""
    rows = await conn.fetch(
        """
        select connection_id, state, count(*) as n, min(queued_at) as oldest
          from deliveries
         where state in ('queued', 'retrying', 'refused')
         group by connection_id, state
        """
    )
    found: dict[str, tuple[dict[str, int], datetime]] = {}
    for row in rows:
        counts, oldest = found.get(row["connection_id"], ({}, row["oldest"]))
        counts[row["state"]] = row["n"]
        found[row["connection_id"]] = (counts, min(oldest, row["oldest"]))
    return found


def delivery_of(row: Mapping[str, Any]) -> Delivery:
    """Return the delivery of a row with the columns of its table."""
    return Delivery(
        id=row["id"],
        connection_id=ConnectionId(row["connection_id"]),
        unit_key=UnitKey(row["unit_key"]),
        alarm_id=row["alarm_id"],
        event_id=row["event_id"],
        site_id=row["site_id"],
        device_id=row["device_id"],
        step=Step(row["step"]),
        serial=row["serial"],
        sc_device=DeviceRef(row["sc_device_id"], row["sc_device_code"]),
        point_id=row["point_id"],
        level=row["level"],
        at=row["at"],
        began_at=row["began_at"],
        text=row["text"],
        detail=row["detail"],
        network_alarm=row["network_alarm"],
        value=row["value"],
        traceparent=row["traceparent"],
        state=DeliveryState(row["state"]),
        attempts=row["attempts"],
        alone=row["alone"],
        queued_at=row["queued_at"],
        next_attempt_at=row["next_attempt_at"],
        finished_at=row["finished_at"],
        error=row["error"],
    )
