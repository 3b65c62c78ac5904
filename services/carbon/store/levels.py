"""SQL of energy by set: the intervals of many circuits as one frame."""

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import polars as pl

from libs.common.db import ReadConn
from libs.common.ids import CircuitId
from services.carbon.domain.intervals import Grade
from services.carbon.domain.levels.energy import SCHEMA

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
