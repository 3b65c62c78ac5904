"""SQL of levels: the intervals of many circuits as one frame, samples by the quarter hour, and facts of nodes."""

from collections.abc import Sequence
from datetime import date, datetime

import numpy as np
import polars as pl

from libs.common.db import ReadConn, WriteConn
from libs.common.ids import CircuitId, DeviceId
from services.carbon.domain.intervals import Grade
from services.carbon.domain.levels.energy import SCHEMA
from services.carbon.domain.levels.facts import Fact, FactKind
from services.carbon.domain.samples import Sample

_ROW = np.dtype(
    [
        ("fields", ">i2"),
        ("circuit_len", ">i4"), ("circuit", ">i4"),
        ("start_len", ">i4"), ("start", ">i8"),
        ("energy_len", ">i4"), ("energy", ">f8"),
        ("grade_len", ">i4"), ("grade", ">i2"),
        ("marks_len", ">i4"), ("marks", ">i2"),
    ]
)  # fmt: skip
"""A row of ``COPY … (format binary)`` whose columns all have a fixed length (PostgreSQL manual, COPY, file formats)."""
_HEADER = 19
"""Signature (11), flags (4) and length of the extension (4), which is always 0. [bytes]"""
_TRAILER = 2
_LOWER_BOUND, _UNCERTAIN = 1, 2


async def fetch_interval_frame(
    conn: ReadConn, circuits: Sequence[CircuitId], start: datetime, end: datetime
) -> pl.DataFrame:
    """Return the intervals that hold, of ``[start, end)``, as a frame of intervals (``domain/levels/energy.py``).

    Millions of rows are read this way: they come as fixed-length binary and are never Python objects.
    """
    if not circuits or end <= start:
        return pl.DataFrame(schema=SCHEMA)
    received = bytearray()

    async def take(chunk: bytes) -> None:
        received.extend(chunk)

    await conn.copy_from_query(
        """
        select c.number::int4,
               (extract(epoch from i.start) * 1000000)::int8,
               coalesce(i.energy_kwh, 'NaN')::float8,
               (array_position($4::text[], i.flag) - 1)::int2,
               (i.lower_bound::int + 2 * i.uncertain::int)::int2
          from unnest($1::text[]) with ordinality as c(id, number)
          join intervals i on i.circuit_id = c.id
         where i.start >= $2 and i.start < $3 and i.current
        """,
        list(circuits),
        start,
        end,
        [grade.flag for grade in Grade],
        output=take,
        format="binary",
    )
    rows = np.frombuffer(
        received, dtype=_ROW, offset=_HEADER, count=(len(received) - _HEADER - _TRAILER) // _ROW.itemsize
    )
    marks = rows["marks"].astype(np.int16)
    ids = pl.Series("circuit_id", list(circuits), dtype=pl.String)
    return pl.DataFrame(
        {
            "circuit_id": ids.gather(rows["circuit"].astype(np.int64) - 1),
            "start": pl.Series(rows["start"].astype(np.int64)).cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
            "energy_kwh": pl.Series(rows["energy"].astype(np.float64)).fill_nan(None),
            "grade": rows["grade"].astype(np.int8),
            "lower_bound": (marks & _LOWER_BOUND) != 0,
            "uncertain": (marks & _UNCERTAIN) != 0,
            "provisional": np.zeros(rows.size, np.bool_),
        },
        schema=SCHEMA,
    )


async def fetch_usual_energy(
    conn: ReadConn, circuits: Sequence[CircuitId], start: datetime, end: datetime
) -> dict[CircuitId, float]:
    """Return the median over the civil days of a span of each circuit's mean energy of an interval. [kWh]"""
    rows = await conn.fetch(
        """
        select circuit_id, percentile_cont(0.5) within group (order by mean_kwh) as usual_kwh
          from (select circuit_id, (start at time zone 'Asia/Shanghai')::date as day, avg(energy_kwh) as mean_kwh
                  from intervals
                 where circuit_id = any($1::text[]) and start >= $2 and start < $3 and current
                   and energy_kwh is not null
                 group by circuit_id, day) as days
         group by circuit_id
        """,
        list(circuits),
        start,
        end,
    )
    return {CircuitId(row["circuit_id"]): row["usual_kwh"] for row in rows}


async def add_samples(conn: WriteConn, samples: Sequence[Sample]) -> None:
    """Keep samples, of each quarter hour the earliest."""
    await conn.execute(
        """
        insert into quarter_samples (device_id, point, slot, source_time, value, ratio)
        select * from unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::float8[], $6::float8[])
            on conflict on constraint quarter_samples_pk
            do update set source_time = excluded.source_time, value = excluded.value, ratio = excluded.ratio
            where excluded.source_time < quarter_samples.source_time
        """,
        [one.device_id for one in samples],
        [one.point for one in samples],
        [one.slot for one in samples],
        [one.source_time for one in samples],
        [one.value for one in samples],
        [one.ratio for one in samples],
    )


async def fetch_samples(
    conn: ReadConn, devices: Sequence[DeviceId], points: Sequence[str], start: datetime, end: datetime
) -> list[Sample]:
    """Return samples with a time within ``[start, end]``, by device, point and time."""
    rows = await conn.fetch(
        """
        select device_id, point, source_time, value, ratio
          from quarter_samples
         where device_id = any($1::text[]) and point = any($2::text[]) and source_time between $3 and $4
           and slot between $3 - interval '15 minutes' and $4
         order by device_id, point, source_time
        """,
        list(devices),
        list(points),
        start,
        end,
    )
    return [
        Sample(DeviceId(row["device_id"]), row["point"], row["source_time"], row["value"], row["ratio"]) for row in rows
    ]


async def lock_facts(conn: WriteConn, node: str) -> None:
    """Keep others from entering facts of a node until the transaction ends."""
    await conn.execute("select pg_advisory_xact_lock(hashtextextended($1, 78))", node)


async def add_fact(conn: WriteConn, one: Fact, *, version: int, by: str, at: datetime) -> None:
    """Store a version of a fact."""
    await conn.execute(
        """
        insert into node_facts (node, kind, subject, first_day, end_day, version, value, negative, basis, source,
                                recorded_at, recorded_by)
        values ($1, $2, $3, $4, $5, $6, abs($7::float8), $7::float8 < 0, $8, $9, $10, $11)
        """,
        one.node,
        one.kind.value,
        one.subject,
        one.first_day,
        one.end_day,
        version,
        one.value,
        one.basis,
        one.source,
        at,
        by,
    )


async def fetch_facts(
    conn: ReadConn | WriteConn, nodes: Sequence[str], kinds: Sequence[FactKind], first_day: date, end_day: date
) -> list[tuple[Fact, int]]:
    """Return the facts that hold and touch ``[first_day, end_day)``, with their versions, by node, kind and day."""
    rows = await conn.fetch(
        """
        select distinct on (node, kind, subject, first_day)
               node, kind, subject, first_day, end_day, version,
               case when negative then -value else value end as value, basis, source
          from node_facts
         where node = any($1::text[]) and kind = any($2::text[]) and first_day < $4 and end_day > $3
         order by node, kind, subject, first_day, version desc
        """,
        list(nodes),
        [kind.value for kind in kinds],
        first_day,
        end_day,
    )
    return [
        (
            Fact(
                node=row["node"],
                kind=FactKind(row["kind"]),
                subject=row["subject"],
                first_day=row["first_day"],
                end_day=row["end_day"],
                value=row["value"],
                basis=row["basis"],
                source=row["source"],
            ),
            row["version"],
        )
        for row in rows
    ]
