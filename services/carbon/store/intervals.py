"""SQL of registers, intervals and findings."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import polars as pl
from asyncpg import Record

from libs.common.db import ReadConn, WriteConn
from libs.common.ids import CircuitId, DeviceId, SiteId
from services.carbon.domain.booking import BookedInterval, RegisterReading
from services.carbon.domain.intervals import Grade

FRAME: dict[str, pl.DataType | type[pl.DataType]] = {
    "circuit_id": pl.String,
    "start": pl.Datetime("us", "UTC"),
    "energy_kwh": pl.Float64,
    "flag": pl.String,
    "version": pl.Int32,
}
"""Columns of a frame of stored intervals; a null energy is unknown."""


async def add_registers(conn: WriteConn, readings: Sequence[RegisterReading]) -> list[tuple[DeviceId, datetime]]:
    """Store registers that are not there yet; return (device, source time) of those that were new."""
    rows = await conn.fetch(
        """
        insert into register_readings (device_id, point, source_time, shown, ratio, uncertain, received_at)
        select * from unnest($1::text[], $2::text[], $3::timestamptz[], $4::float8[], $5::float8[], $6::boolean[],
                             $7::timestamptz[])
            on conflict on constraint register_readings_pk do nothing
        returning device_id, source_time
        """,
        [one.device_id for one in readings],
        [one.point for one in readings],
        [one.source_time for one in readings],
        [one.shown for one in readings],
        [one.ratio for one in readings],
        [one.uncertain for one in readings],
        [one.received_at for one in readings],
    )
    return [(DeviceId(row["device_id"]), row["source_time"]) for row in rows]


async def fetch_last_times(conn: ReadConn | WriteConn, devices: Sequence[DeviceId]) -> dict[DeviceId, datetime]:
    """Return the newest register time of each device that has one."""
    rows = await conn.fetch(
        """
        select d.id, l.source_time
          from unnest($1::text[]) as d(id)
          cross join lateral (
              select source_time from register_readings r
               where r.device_id = d.id order by source_time desc limit 1
          ) as l
        """,
        list(devices),
    )
    return {DeviceId(row["id"]): row["source_time"] for row in rows}


async def fetch_registers(
    conn: ReadConn | WriteConn, device: DeviceId, point: str, start: datetime, end: datetime | None
) -> list[tuple[datetime, float, float, bool]]:
    """Return (time, shown, ratio, uncertain) from the last trusted register at or before ``start`` until ``end``."""
    rows = await conn.fetch(
        """
        select source_time, shown, ratio, uncertain
          from register_readings
         where device_id = $1 and point = $2 and ($4::timestamptz is null or source_time <= $4)
           and source_time >= coalesce(
               (select source_time from register_readings
                 where device_id = $1 and point = $2 and source_time <= $3 and not set_aside
                 order by source_time desc limit 1), $3)
         order by source_time
        """,
        device,
        point,
        start,
        end,
    )
    return [(row["source_time"], row["shown"], row["ratio"], row["uncertain"]) for row in rows]


async def mark_set_aside(
    conn: WriteConn, device: DeviceId, point: str, start: datetime, end: datetime, set_aside: Sequence[datetime]
) -> None:
    """Record which registers of a span the correction set aside, so that none of them serves as a base."""
    await conn.execute(
        """
        update register_readings set set_aside = (source_time = any($5::timestamptz[]))
         where device_id = $1 and point = $2 and source_time between $3 and $4
           and set_aside <> (source_time = any($5::timestamptz[]))
        """,
        device,
        point,
        start,
        end,
        list(set_aside),
    )


async def lock_circuit(conn: WriteConn, circuit: CircuitId) -> None:
    """Keep other recomputations of this circuit out until the transaction ends."""
    await conn.execute("select pg_advisory_xact_lock(hashtextextended($1, 77))", circuit)


async def fetch_current(
    conn: ReadConn | WriteConn, circuits: Sequence[CircuitId], start: datetime, end: datetime
) -> list[BookedInterval]:
    """Return the intervals that hold, of ``[start, end)``, by circuit and time."""
    rows = await conn.fetch(
        """
        select circuit_id, site_id, start, step_s, version, energy_kwh, flag, lower_bound, uncertain, computed_at
          from intervals
         where circuit_id = any($1::text[]) and start >= $2 and start < $3 and current
         order by circuit_id, start
        """,
        list(circuits),
        start,
        end,
    )
    return [_booked(row) for row in rows]


async def fetch_frame(conn: ReadConn, circuits: Sequence[CircuitId], start: datetime, end: datetime) -> pl.DataFrame:
    """Return the intervals that hold, of ``[start, end)``, with the columns of ``FRAME``."""
    rows = await conn.fetch(
        """
        select circuit_id, start, energy_kwh, flag, version
          from intervals
         where circuit_id = any($1::text[]) and start >= $2 and start < $3 and current
         order by circuit_id, start
        """,
        list(circuits),
        start,
        end,
    )
    return pl.DataFrame([tuple(row) for row in rows], schema=FRAME, orient="row")


async def fetch_versions(conn: ReadConn, circuit: CircuitId, start: datetime) -> list[BookedInterval]:
    """Return all versions of one interval, oldest first."""
    rows = await conn.fetch(
        """
        select circuit_id, site_id, start, step_s, version, energy_kwh, flag, lower_bound, uncertain, computed_at
          from intervals where circuit_id = $1 and start = $2 order by version
        """,
        circuit,
        start,
    )
    return [_booked(row) for row in rows]


async def book(conn: WriteConn, intervals: Sequence[BookedInterval]) -> None:
    """Add versions of intervals, to be attested; the version before each stays and no longer holds."""
    await conn.execute(
        """
        update intervals i set current = false
          from unnest($1::text[], $2::timestamptz[]) as n(circuit_id, start)
         where i.circuit_id = n.circuit_id and i.start = n.start and i.current
        """,
        [one.circuit_id for one in intervals],
        [one.start for one in intervals],
    )
    await conn.execute(
        """
        with booked as (
            insert into intervals (circuit_id, site_id, start, step_s, version, current, energy_kwh, flag, lower_bound,
                                   uncertain, computed_at)
            select circuit_id, site_id, start, step_s, version, true, energy_kwh, flag, lower_bound, uncertain,
                   computed_at
              from unnest($1::text[], $2::text[], $3::timestamptz[], $4::integer[], $5::integer[], $6::float8[],
                          $7::text[], $8::boolean[], $9::boolean[], $10::timestamptz[])
                as n(circuit_id, site_id, start, step_s, version, energy_kwh, flag, lower_bound, uncertain, computed_at)
            returning circuit_id, start, version
        )
        insert into attest_pending (kind, subject, at, version)
        select 'interval', 'circuit:' || circuit_id, start, version from booked order by circuit_id, start, version
        """,
        [one.circuit_id for one in intervals],
        [one.site_id for one in intervals],
        [one.start for one in intervals],
        [one.step_s for one in intervals],
        [one.version for one in intervals],
        [one.energy_kwh for one in intervals],
        [one.grade.flag for one in intervals],
        [one.lower_bound for one in intervals],
        [one.uncertain for one in intervals],
        [one.computed_at for one in intervals],
    )


async def add_findings(
    conn: WriteConn,
    circuit: CircuitId,
    findings: Sequence[tuple[datetime, str, float, float]],
    found_at: datetime,
) -> list[datetime]:
    """Store findings (time, kind, previous, shown) that are not there yet; return the times of the new ones."""
    rows = await conn.fetch(
        """
        insert into findings (circuit_id, at, kind, previous_shown, shown, found_at)
        select $1, at, kind, previous_shown, shown, $6
          from unnest($2::timestamptz[], $3::text[], $4::float8[], $5::float8[]) as f(at, kind, previous_shown, shown)
            on conflict on constraint findings_pk do nothing
        returning at
        """,
        circuit,
        [one[0] for one in findings],
        [one[1] for one in findings],
        [one[2] for one in findings],
        [one[3] for one in findings],
        found_at,
    )
    return [row["at"] for row in rows]


async def mark_dirty(conn: WriteConn, circuits: Mapping[CircuitId, datetime]) -> None:
    """Ask for a recomputation of circuits from a time on."""
    await conn.execute(
        """
        insert into dirty_circuits (circuit_id, since)
        select * from unnest($1::text[], $2::timestamptz[])
            on conflict on constraint dirty_circuits_pk
            do update set since = least(dirty_circuits.since, excluded.since)
        """,
        list(circuits),
        list(circuits.values()),
    )


async def take_dirty(conn: WriteConn) -> tuple[CircuitId, datetime] | None:
    """Take one circuit to recompute, with the time to start from; it is gone when the transaction commits."""
    row = await conn.fetchrow(
        """
        delete from dirty_circuits where circuit_id = (
            select circuit_id from dirty_circuits order by since limit 1 for update skip locked)
        returning circuit_id, since
        """
    )
    return None if row is None else (CircuitId(row["circuit_id"]), row["since"])


async def fetch_last_starts(conn: ReadConn | WriteConn) -> dict[CircuitId, datetime]:
    """Return the start of the newest interval of every circuit that has one."""
    rows = await conn.fetch("select circuit_id, max(start) as start from intervals where current group by circuit_id")
    return {CircuitId(row["circuit_id"]): row["start"] for row in rows}


def _booked(row: Record) -> BookedInterval:
    return BookedInterval(
        circuit_id=CircuitId(row["circuit_id"]),
        site_id=SiteId(row["site_id"]),
        start=row["start"],
        step_s=row["step_s"],
        version=row["version"],
        energy_kwh=row["energy_kwh"],
        grade=Grade.of(row["flag"]),
        lower_bound=row["lower_bound"],
        uncertain=row["uncertain"],
        computed_at=row["computed_at"],
    )


async def fetch_trace(
    conn: ReadConn, device: DeviceId, point: str, start: datetime, end: datetime
) -> list[tuple[datetime, float, float, bool, bool]]:
    """Return (time, shown, ratio, uncertain, set aside) within a span and the neighbour on either side."""
    rows = await conn.fetch(
        """
        select source_time, shown, ratio, uncertain, set_aside
          from register_readings
         where device_id = $1 and point = $2
           and source_time >= coalesce((select max(source_time) from register_readings
                                         where device_id = $1 and point = $2 and source_time <= $3), $3)
           and source_time <= coalesce((select min(source_time) from register_readings
                                         where device_id = $1 and point = $2 and source_time >= $4), $4)
         order by source_time
        """,
        device,
        point,
        start,
        end,
    )
    return [(row["source_time"], row["shown"], row["ratio"], row["uncertain"], row["set_aside"]) for row in rows]
