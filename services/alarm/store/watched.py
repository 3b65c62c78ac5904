"""SQL of what fault localisation knows of devices: status as told, what else was told, and what is around them."""

from collections.abc import Collection, Sequence
from datetime import datetime

from libs.common.contracts.alarm import ConditionKind
from libs.common.contracts.device import DeviceStatus
from libs.common.db import ReadConn, WriteConn
from services.alarm.dictionary import CONDITION_PREFIX
from services.alarm.domain.diagnosis.observed import Around, Mark, Watched

LINE_DOWN = CONDITION_PREFIX + ConditionKind.LINE_DOWN.value
METER_ADDRESS = "meter_address"
MAX_NEIGHBOURS = 5_000
"""Devices of a site that are looked at."""

# The list of columns is ours; nothing from outside gets into a statement.
_WATCHED = ", ".join(Watched.__dataclass_fields__)


async def put_statuses(conn: WriteConn, statuses: Sequence[DeviceStatus], told_at: Sequence[datetime]) -> None:
    """Write the latest status of devices, one per device; an older one than known changes nothing."""
    rows = [
        (
            one.device_id,
            one.site_id,
            one.connectivity.value,
            one.connectivity_since,
            one.last_report_at,
            one.line_id,
            one.reason,
            one.signal.rsrp_dbm,
            one.signal.sinr_db,
            one.signal.coverage_level,
            one.signal.at,
            one.battery.level_percent,
            one.battery.voltage_v,
            one.battery.at,
            one.sim.iccid,
            one.sim.imei,
            one.texts.get(METER_ADDRESS),
            at,
        )
        for one, at in zip(statuses, told_at, strict=True)
    ]
    await conn.execute(
        f"""
        insert into watched_devices as w ({_WATCHED})
        select * from unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::text[],
                             $7::text[], $8::double precision[], $9::double precision[], $10::integer[],
                             $11::timestamptz[], $12::double precision[], $13::double precision[], $14::timestamptz[],
                             $15::text[], $16::text[], $17::text[], $18::timestamptz[])
            on conflict (device_id) do update set
               site_id = excluded.site_id, connectivity = excluded.connectivity, since = excluded.since,
               last_report_at = excluded.last_report_at, line_id = excluded.line_id, reason = excluded.reason,
               rsrp_dbm = excluded.rsrp_dbm, sinr_db = excluded.sinr_db, coverage_level = excluded.coverage_level,
               radio_at = excluded.radio_at, battery_percent = excluded.battery_percent,
               battery_v = excluded.battery_v, battery_at = excluded.battery_at, iccid = excluded.iccid,
               imei = excluded.imei, meter_address = excluded.meter_address, told_at = excluded.told_at
         where excluded.told_at >= w.told_at
        """,  # noqa: S608
        *(list(column) for column in zip(*rows, strict=True)),
    )


async def fetch_watched(conn: ReadConn, device_id: str) -> Watched | None:
    """Return a device as last told, None when nobody told of it."""
    row = await conn.fetchrow(f"select {_WATCHED} from watched_devices where device_id = $1", device_id)  # noqa: S608
    return None if row is None else Watched(**dict(row))


async def put_marks(conn: WriteConn, marks: Sequence[Mark]) -> None:
    """Write what was told of devices, in order; an older one than known changes nothing."""
    await conn.executemany(
        """
        insert into device_marks as m (device_id, name, subject, value, at, source, lasting)
        values ($1, $2, $3, $4, $5, $6, $7)
            on conflict (device_id, name, subject) do update set
               value = excluded.value, at = excluded.at, source = excluded.source, lasting = excluded.lasting
         where excluded.at >= m.at
        """,
        [(one.device_id, one.name, one.subject, one.value, one.at, one.source, one.lasting) for one in marks],
    )


async def delete_marks(conn: WriteConn, marks: Collection[tuple[str, str, str]]) -> None:
    """Forget what was told of devices, by device, name and subject."""
    await conn.executemany(
        "delete from device_marks where device_id = $1 and name = $2 and subject = $3",
        [list(key) for key in sorted(marks)],
    )


async def purge_marks(conn: WriteConn, device_id: str, *, before: datetime) -> None:
    """Forget what says nothing any more."""
    await conn.execute("delete from device_marks where device_id = $1 and not lasting and at < $2", device_id, before)


async def fetch_marks(conn: ReadConn, device_id: str, *, since: datetime) -> list[Mark]:
    """Return what was told of a device since then, and what was told before and still holds."""
    rows = await conn.fetch(
        """
        select device_id, name, subject, value, at, source, lasting from device_marks
         where device_id = $1 and (lasting or at >= $2) order by name, subject
        """,
        device_id,
        since,
    )
    return [Mark(**dict(row)) for row in rows]


async def fetch_around(
    conn: ReadConn, device_id: str, site_id: str, *, line_id: str | None, iccid: str | None, now: datetime
) -> Around:
    """Return what alarms, windows, shutdowns and neighbours say of a device's surroundings.

    Args:
        conn: Where to read.
        device_id: The device.
        site_id: Where it is.
        line_id: What it hangs on.
        iccid: The card that it reports.
        now: Our clock.
    """
    planned = await conn.fetchval(
        "select reference from shutdowns where device_id = $1 and (until is null or until > $2)", device_id, now
    )
    window = await conn.fetchval(
        """
        select window_id from maintenance_windows
         where site_id = $1 and (device_ids is null or $2 = any(device_ids))
           and starts_at <= $3 and ends_at > $3 and called_off_at is null
         order by window_id limit 1
        """,
        site_id,
        device_id,
        now,
    )
    mains = await conn.fetchval(
        """
        select min(a.began_at) from alarms a join rules r on r.rule_id = a.rule_id
         where a.site_id = $1 and a.ended_at is null and r.takes = 'supply'
        """,
        site_id,
    )
    voltage = await conn.fetchval(
        """
        select min(began_at) from alarms
         where site_id = $1 and ended_at is null and point like 'voltage%' and value < threshold
        """,
        site_id,
    )
    line_down = await conn.fetchval(
        """
        select min(began_at) from alarms
         where site_id = $1 and ended_at is null and signal = $2 and subject = $3
        """,
        site_id,
        LINE_DOWN,
        line_id,
    )
    shared = await conn.fetchval(
        """
        select o.device_id from watched_devices o join watched_devices m on m.device_id = $1
         where o.iccid = $2 and o.device_id <> $1 and o.imei <> m.imei order by o.device_id limit 1
        """,
        device_id,
        iccid,
    )
    rows = await conn.fetch(
        f"select {_WATCHED} from watched_devices where site_id = $1 and device_id <> $2 order by device_id limit $3",  # noqa: S608
        site_id,
        device_id,
        MAX_NEIGHBOURS,
    )
    return Around(
        planned=planned,
        window=window,
        mains_alarm=mains,
        low_voltage=voltage,
        line_down=line_down,
        shared_card=shared,
        neighbours=[Watched(**dict(row)) for row in rows],
    )
