"""The readings history in PostgreSQL: daily partitions of packed reports, and the latest report of each device."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import orjson

from libs.common.contracts.telemetry import Quality
from libs.common.db import ReadConn, WriteConn
from services.ingest.domain.latest import OlderPoint
from services.ingest.domain.layout import Layout
from services.ingest.domain.series import Times
from services.ingest.domain.stored import RowFlag

HOURS = tuple(f"h{hour:02d}" for hour in range(24))
"""Columns of ``report_counts``."""
COUNTED_MAX = 32767
"""Reports of a device in an hour that are counted, nine a second."""

_INSERT_AND_COUNT = f"""
    with stored as (
        insert into readings (device_no, source_time, received_at, layout, flags, body, quality, extra)
        select * from unnest($1::integer[], $2::timestamptz[], $3::timestamptz[], $4::integer[], $5::smallint[],
                             $6::bytea[], $7::bytea[], $8::jsonb[])
        on conflict do nothing
        returning device_no, source_time, flags),
    hourly as (
        select (source_time at time zone 'UTC')::date as day, device_no,
               extract(hour from source_time at time zone 'UTC')::integer as hour, count(*) as n
          from stored where flags & 1 = 0 group by 1, 2, 3),
    counted as (
        insert into report_counts as c (day, device_no, {", ".join(HOURS)})
        select day, device_no,
               {", ".join(f"least(coalesce(sum(n) filter (where hour = {h}), 0), {COUNTED_MAX})" for h in range(24))}
          from hourly group by day, device_no order by day, device_no
        on conflict (day, device_no) do update
           set {", ".join(f"{name} = least(c.{name}::integer + excluded.{name}, {COUNTED_MAX})" for name in HOURS)})
    select count(*) from stored
"""  # noqa: S608 - constants

PARTITION_LOCK = 0x77725F70
"""Key of the advisory lock under which partitions are made ("wr_p")."""


@dataclass(frozen=True, slots=True)
class Row:
    """One packed report."""

    device_no: int
    source_time: datetime
    received_at: datetime
    layout_no: int
    flags: int
    body: bytes
    quality: bytes | None
    extra: Mapping[str, Any] | None

    def same_content(self, other: "Row") -> bool:
        """Return whether both say the same; when they came does not matter."""
        return (self.layout_no, self.body, self.quality) == (other.layout_no, other.body, other.quality)


async def fetch_device_numbers(conn: WriteConn, device_ids: Sequence[str]) -> dict[str, int]:
    """Return the numbers of devices, giving one to those that have none."""
    known = await conn.fetch("select device_id, no from devices where device_id = any($1::text[])", device_ids)
    numbers: dict[str, int] = {row["device_id"]: row["no"] for row in known}
    new = sorted(set(device_ids) - numbers.keys())
    if new:
        # Another process may give a number to the same device now: its row is waited for and read.
        await conn.execute(
            "insert into devices (device_id) select unnest($1::text[]) on conflict (device_id) do nothing", new
        )
        rows = await conn.fetch("select device_id, no from devices where device_id = any($1::text[])", new)
        numbers.update((row["device_id"], row["no"]) for row in rows)
    return numbers


async def fetch_layouts(conn: ReadConn | WriteConn, numbers: Sequence[int] | None = None) -> dict[int, Layout]:
    """Return layouts by number; all of them without ``numbers``."""
    rows = await conn.fetch(
        """
        select no, driver, profile, profile_version, ct_ratio, pt_ratio, energy_ratio, gauges, counters,
               coalesce(decimals, array_fill(null::smallint, array[cardinality(gauges) + cardinality(counters)]))
               as decimals
          from layouts where $1::integer[] is null or no = any($1) order by no
        """,
        numbers,
    )
    return {
        row["no"]: Layout(
            gauges=tuple(row["gauges"]),
            counters=tuple(row["counters"]),
            decimals=tuple(row["decimals"]),
            driver=row["driver"],
            profile=row["profile"],
            profile_version=row["profile_version"],
            ct_ratio=row["ct_ratio"],
            pt_ratio=row["pt_ratio"],
            energy_ratio=row["energy_ratio"],
        )
        for row in rows
    }


async def store_layout(conn: WriteConn, layout: Layout) -> int:
    """Return the number of a layout, giving it one when it is new."""
    identity = orjson.dumps(
        [
            layout.driver, layout.profile, layout.profile_version, layout.ct_ratio, layout.pt_ratio,
            layout.energy_ratio, layout.gauges, layout.counters, layout.decimals,
        ]
    ).decode()  # fmt: skip
    await conn.execute(
        """
        insert into layouts (identity, driver, profile, profile_version, ct_ratio, pt_ratio, energy_ratio,
                             gauges, counters, decimals)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
        on conflict (identity) do nothing
        """,
        identity, layout.driver, layout.profile, layout.profile_version, layout.ct_ratio, layout.pt_ratio,
        layout.energy_ratio, layout.gauges, layout.counters, layout.decimals,
    )  # fmt: skip
    number: int = await conn.fetchval("select no from layouts where identity = $1", identity)
    return number


async def insert_rows(conn: WriteConn, rows: Sequence[Row]) -> int:
    """Insert rows whose key is free, and count them by device and hour; return how many were."""
    stored: int = await conn.fetchval(_INSERT_AND_COUNT, *_columns(rows))
    return stored


async def replace_row(conn: WriteConn, row: Row) -> bool:
    """Put a correction in the place of the report that it names; False when that one does not stand there.

    ``extra.replaced`` keeps the ids of all that stood there, to know them again when they are delivered again.
    """
    status = await conn.execute(
        """
        update readings
           set received_at = $3, layout = $4, flags = $5, body = $6, quality = $7,
               extra = $8::jsonb || jsonb_build_object(
                   'replaced', coalesce(extra -> 'replaced', '[]'::jsonb) || (extra -> 'message_id'))
         where device_no = $1 and source_time = $2 and extra ->> 'message_id' = $8::jsonb ->> 'replaces'
        """,
        row.device_no, row.source_time, row.received_at, row.layout_no, row.flags, row.body, row.quality, row.extra,
    )  # fmt: skip
    return bool(status != "UPDATE 0")


async def fetch_rows_at(conn: WriteConn, keys: Iterable[tuple[int, datetime]]) -> dict[tuple[int, datetime], Row]:
    """Return the rows that stand under these keys."""
    wanted = list(keys)
    rows = await conn.fetch(
        """
        select r.device_no, r.source_time, r.received_at, r.layout, r.flags, r.body, r.quality, r.extra
          from unnest($1::integer[], $2::timestamptz[]) as k (device_no, source_time)
          join readings r on r.device_no = k.device_no and r.source_time = k.source_time
        """,
        [number for number, _ in wanted],
        [time for _, time in wanted],
    )
    return {(row["device_no"], row["source_time"]): _row(row) for row in rows}


async def fetch_moved(
    conn: WriteConn, wanted: Sequence[tuple[int, str, datetime]], within: timedelta
) -> dict[tuple[int, str], list[Row]]:
    """Return the rows that stand under their arrival, by device number and their own time as ``extra`` has it.

    Args:
        conn: In a transaction.
        wanted: Device number, own time, and an arrival around which to look.
        within: How far before and after it.
    """
    if not wanted:
        return {}
    arrivals = [arrival for _, _, arrival in wanted]
    rows = await conn.fetch(
        """
        select distinct on (r.device_no, r.source_time)
               r.device_no, r.source_time, r.received_at, r.layout, r.flags, r.body, r.quality, r.extra
          from unnest($1::integer[], $2::text[], $3::timestamptz[]) as k (device_no, own_time, arrival)
          join readings r on r.device_no = k.device_no
                         and r.source_time between k.arrival - $4::interval and k.arrival + $4::interval
                         and r.flags & $7::smallint <> 0 and r.extra ->> 'source_time' = k.own_time
         where r.source_time between $5 and $6 -- for the days that are looked into
        """,
        [number for number, _, _ in wanted],
        [own_time for _, own_time, _ in wanted],
        arrivals,
        within,
        min(arrivals) - within,
        max(arrivals) + within,
        int(RowFlag.MOVED),
    )
    found: dict[tuple[int, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["device_no"], row["extra"]["source_time"]), []).append(_row(row))
    return found


@dataclass(frozen=True, slots=True)
class LatestRow:
    """The latest report of a device, and the last values of points that it does not hold."""

    device_id: str
    site_id: str
    row: Row
    points_key: int
    """What it has in common with every report of the same points; 0 is not known."""
    older: Mapping[str, OlderPoint] = field(default_factory=dict)


async def replace_latest_alike(conn: WriteConn, rows: Sequence[LatestRow]) -> frozenset[int]:
    """Put younger reports in the place of older ones of the same points, and of none; return whose were put there.

    Args:
        conn: In a transaction.
        rows: One per device, in order of their numbers; ``older`` is not looked at.
    """
    found = await conn.fetch(
        """
        insert into latest as l (device_no, source_time, received_at, layout, flags, body, quality, extra, site_id,
                                 points_key)
        select * from unnest($1::integer[], $2::timestamptz[], $3::timestamptz[], $4::integer[], $5::smallint[],
                             $6::bytea[], $7::bytea[], $8::jsonb[], $9::text[], $10::bigint[])
        on conflict (device_no) do update
           set source_time = excluded.source_time, received_at = excluded.received_at, layout = excluded.layout,
               flags = excluded.flags, body = excluded.body, quality = excluded.quality, extra = excluded.extra,
               site_id = excluded.site_id
         where l.source_time < excluded.source_time and l.points_key = excluded.points_key
        returning l.device_no
        """,
        *_columns([latest.row for latest in rows]),
        [latest.site_id for latest in rows],
        [latest.points_key for latest in rows],
    )
    return frozenset(row["device_no"] for row in found)


async def fetch_latest_for_update(conn: WriteConn, device_nos: Sequence[int]) -> dict[int, LatestRow]:
    """Return the latest of devices by their numbers, locked until the transaction ends."""
    rows = await conn.fetch(
        """
        select d.device_id, l.site_id, l.device_no, l.source_time, l.received_at, l.layout, l.flags, l.body,
               l.quality, l.extra, l.points_key, l.older
          from latest l join devices d on d.no = l.device_no
         where l.device_no = any($1::integer[])
         order by l.device_no
           for update of l
        """,
        device_nos,
    )
    return {row["device_no"]: _latest(row) for row in rows}


async def upsert_latest(conn: WriteConn, rows: Sequence[LatestRow]) -> None:
    """Put down what ``fetch_latest_for_update`` has been joined to, in order of device numbers."""
    if not rows:
        return
    await conn.execute(
        """
        insert into latest (device_no, source_time, received_at, layout, flags, body, quality, extra, site_id,
                            points_key, older)
        select * from unnest($1::integer[], $2::timestamptz[], $3::timestamptz[], $4::integer[], $5::smallint[],
                             $6::bytea[], $7::bytea[], $8::jsonb[], $9::text[], $10::bigint[], $11::jsonb[])
        on conflict (device_no) do update
           set source_time = excluded.source_time, received_at = excluded.received_at, layout = excluded.layout,
               flags = excluded.flags, body = excluded.body, quality = excluded.quality, extra = excluded.extra,
               site_id = excluded.site_id, points_key = excluded.points_key, older = excluded.older
        """,
        *_columns([latest.row for latest in rows]),
        [latest.site_id for latest in rows],
        [latest.points_key for latest in rows],
        [_older_json(latest.older) for latest in rows],
    )


async def fetch_last_times(conn: ReadConn) -> dict[str, datetime]:
    """Return the time of the latest report of every device."""
    rows = await conn.fetch("select d.device_id, l.source_time from latest l join devices d on d.no = l.device_no")
    return {row["device_id"]: row["source_time"] for row in rows}


async def fetch_latest(
    conn: ReadConn, *, site_ids: Sequence[str] | None, device_ids: Sequence[str] | None, after: str | None, limit: int
) -> list[LatestRow]:
    """Return the latest reports of sites or devices, by device id, from behind ``after``."""
    rows = await conn.fetch(
        """
        select d.device_id, l.site_id, l.device_no, l.source_time, l.received_at, l.layout, l.flags, l.body,
               l.quality, l.extra, l.points_key, l.older
          from latest l join devices d on d.no = l.device_no
         where ($1::text[] is null or l.site_id = any($1))
           and ($2::text[] is null or d.device_id = any($2))
           and ($3::text is null or d.device_id > $3)
         order by d.device_id
         limit $4
        """,
        site_ids,
        device_ids,
        after,
        limit,
    )
    return [_latest(row) for row in rows]


async def fetch_range(
    conn: ReadConn, device_id: str, *, start: datetime, end: datetime, after: datetime | None, limit: int
) -> list[Row]:
    """Return a device's reports in ``[start, end)``, oldest first, from behind ``after``."""
    rows = await conn.fetch(
        """
        select r.device_no, r.source_time, r.received_at, r.layout, r.flags, r.body, r.quality, r.extra
          from devices d join readings r on r.device_no = d.no
         where d.device_id = $1 and r.source_time >= $2 and r.source_time < $3
           and ($4::timestamptz is null or r.source_time > $4)
         order by r.source_time
         limit $5
        """,
        device_id,
        start,
        end,
        after,
        limit,
    )
    return [_row(row) for row in rows]


@dataclass(frozen=True, slots=True)
class PackedBlock:
    """Reports of one device in one layout, the oldest first, each column as one string of bytes."""

    device_no: int
    layout_no: int
    times: bytes
    """As PostgreSQL sends them: microseconds since 2000, 64 bits, high byte first."""
    received: bytes
    flags: bytes
    """16 bits, high byte first."""
    bodies: bytes


@dataclass(frozen=True, slots=True)
class OddRow:
    """What few reports have beside their body."""

    device_no: int
    source_time: datetime
    layout_no: int
    quality: bytes | None
    extra: Mapping[str, Any] | None


async def fetch_series(
    conn: ReadConn, device_id: str, *, start: datetime, end: datetime, after: datetime | None, limit: int
) -> list[PackedBlock]:
    """Return a device's first ``limit`` reports in ``[start, end)`` from behind ``after``, a block per layout."""
    rows = await conn.fetch(
        f"""
        with page as (
            select r.device_no, r.source_time, r.received_at, r.layout, r.flags, r.body
              from devices d join readings r on r.device_no = d.no
             where d.device_id = $1 and r.source_time >= $2 and r.source_time < $3
               and ($4::timestamptz is null or r.source_time > $4)
             order by r.source_time
             limit $5)
        select {_PACKED_COLUMNS} from page group by device_no, layout
        """,  # noqa: S608 - a constant
        device_id,
        start,
        end,
        after,
        limit,
    )
    return [PackedBlock(**dict(row)) for row in rows]


async def fetch_day(conn: ReadConn, day: date, device_nos: Sequence[int]) -> tuple[list[PackedBlock], list[OddRow]]:
    """Return what devices reported on a UTC day."""
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    blocks = await conn.fetch(
        f"""
        select {_PACKED_COLUMNS} from readings
         where source_time >= $1 and source_time < $2 and device_no = any($3::integer[])
         group by device_no, layout
        """,  # noqa: S608 - a constant
        start,
        start + timedelta(days=1),
        device_nos,
    )
    odd = await conn.fetch(
        """
        select device_no, source_time, layout as layout_no, quality, extra from readings
         where source_time >= $1 and source_time < $2 and device_no = any($3::integer[])
           and (quality is not null or extra is not null)
        """,
        start,
        start + timedelta(days=1),
        device_nos,
    )
    return [PackedBlock(**dict(row)) for row in blocks], [OddRow(**dict(row)) for row in odd]


async def fetch_odd(conn: ReadConn, device_id: str, *, first: datetime, last: datetime) -> list[OddRow]:
    """Return what a device's reports of ``[first, last]`` have beside their bodies."""
    rows = await conn.fetch(
        """
        select r.device_no, r.source_time, r.layout as layout_no, r.quality, r.extra
          from devices d join readings r on r.device_no = d.no
         where d.device_id = $1 and r.source_time between $2 and $3
           and (r.quality is not null or r.extra is not null)
        """,
        device_id,
        first,
        last,
    )
    return [OddRow(**dict(row)) for row in rows]


_PACKED_COLUMNS = """
    device_no, layout as layout_no,
    string_agg(timestamptz_send(source_time), ''::bytea order by source_time) as times,
    string_agg(timestamptz_send(received_at), ''::bytea order by source_time) as received,
    string_agg(int2send(flags), ''::bytea order by source_time) as flags,
    string_agg(body, ''::bytea order by source_time) as bodies
"""


def times_of(packed: bytes) -> Times:
    """Return times as PostgreSQL sends them, as microseconds since 1970."""
    return np.frombuffer(packed, dtype=">i8").astype(np.int64) + POSTGRES_EPOCH_US


POSTGRES_EPOCH_US = 946_684_800_000_000
"""From 1970 to 2000. [µs]"""


@dataclass(frozen=True, slots=True)
class DeviceDay:
    """What a partition holds of one device."""

    device_id: str
    reports: int
    youngest: datetime
    """When the last of them came, a correction among them."""


async def count_per_device(conn: ReadConn, day: date) -> dict[int, DeviceDay]:
    """Return what the partition of a UTC day holds, by number of the device."""
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    rows = await conn.fetch(
        """
        select d.no, d.device_id, c.reports, c.youngest
          from (select device_no, count(*) as reports, max(received_at) as youngest from readings
                 where source_time >= $1 and source_time < $2 group by device_no) as c
          join devices d on d.no = c.device_no
        """,
        start,
        start + timedelta(days=1),
    )
    return {row["no"]: DeviceDay(row["device_id"], row["reports"], row["youngest"]) for row in rows}


async def ensure_partition(conn: WriteConn, day: datetime) -> bool:
    """Make the partition of a UTC day unless it is there; return whether it is new.

    Attaching a table lets readers and writers of other days go on.
    """
    name = _partition(day.date())
    if await conn.fetchval("select to_regclass($1)", name) is not None:
        return False
    await conn.execute("select pg_advisory_xact_lock($1)", PARTITION_LOCK)
    if await conn.fetchval("select to_regclass($1)", name) is not None:
        return False
    first, last = day.isoformat(), (day + timedelta(days=1)).isoformat()
    await conn.execute(f"create table {name} (like readings including all)")
    await conn.execute(f"alter table readings attach partition {name} for values from ('{first}') to ('{last}')")
    return True


async def fetch_partition_days(conn: ReadConn) -> list[date]:
    """Return the days that have a partition, oldest first."""
    rows = await conn.fetch(
        """
        select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
         where i.inhparent = 'readings'::regclass order by 1
        """
    )
    return [datetime.strptime(row["relname"].rpartition("_")[2], "%Y%m%d").replace(tzinfo=UTC).date() for row in rows]


async def drop_partition(conn: WriteConn, day: date) -> None:
    """Remove a day; gives way when it cannot have its lock at once."""
    await conn.execute("set local lock_timeout = '2s'")
    await conn.execute(f"drop table if exists {_partition(day)}")


async def has_partition(conn: ReadConn, day: date) -> bool:
    """Return whether a day has a partition."""
    found: bool = await conn.fetchval("select to_regclass($1) is not null", _partition(day))
    return found


def _partition(day: date) -> str:
    return f"readings_{day:%Y%m%d}"


def _columns(rows: Sequence[Row]) -> tuple[list[Any], ...]:
    return (
        [row.device_no for row in rows],
        [row.source_time for row in rows],
        [row.received_at for row in rows],
        [row.layout_no for row in rows],
        [row.flags for row in rows],
        [row.body for row in rows],
        [row.quality for row in rows],
        [row.extra for row in rows],
    )


def _row(record: Any) -> Row:
    return Row(
        device_no=record["device_no"],
        source_time=record["source_time"],
        received_at=record["received_at"],
        layout_no=record["layout"],
        flags=record["flags"],
        body=record["body"],
        quality=record["quality"],
        extra=record["extra"],
    )


def _latest(record: Any) -> LatestRow:
    return LatestRow(
        device_id=record["device_id"],
        site_id=record["site_id"],
        row=_row(record),
        points_key=record["points_key"],
        older={
            name: OlderPoint(
                point["value"],
                datetime.fromisoformat(point["source_time"]),
                Quality(point["quality"]) if "quality" in point else None,
            )
            for name, point in (record["older"] or {}).items()
        },
    )


def _older_json(older: Mapping[str, OlderPoint]) -> dict[str, dict[str, Any]] | None:
    return {
        name: {
            "value": point.value,
            "source_time": point.source_time.isoformat(),
            **({} if point.quality is None else {"quality": point.quality}),
        }
        for name, point in older.items()
    } or None
