"""How many reports each device sent in each hour; counted as they are stored (``store/history.py``)."""

from collections.abc import Mapping, Sequence
from datetime import date

import numpy as np
import numpy.typing as npt

from libs.common.db import ReadConn, WriteConn
from services.ingest.store.history import COUNTED_MAX, HOURS

Hours = npt.NDArray[np.int64]
"""Reports of a device in each hour of a UTC day, shape (24,)."""

_PACKED = " || ".join(f"int2send(c.{name})" for name in HOURS)


async def fetch_counts(conn: ReadConn, day: date, device_ids: Sequence[str] | None = None) -> dict[str, Hours]:
    """Return the reports of devices on a day, of all without ``device_ids``; a device without any is absent."""
    rows = await conn.fetch(
        f"""
        select d.device_id, {_PACKED} as hours
          from report_counts c join devices d on d.no = c.device_no
         where c.day = $1 and ($2::text[] is null or d.device_id = any($2))
        """,  # noqa: S608 - constants
        day,
        device_ids,
    )
    return {row["device_id"]: np.frombuffer(row["hours"], dtype=">i2").astype(np.int64) for row in rows}


async def set_counts(conn: WriteConn, day: date, counts: Mapping[int, Hours]) -> None:
    """Put counts in the place of those that stand, by device number."""
    if not counts:
        return
    numbers = sorted(counts)
    await conn.execute(
        f"""
        insert into report_counts as c (day, device_no, {", ".join(HOURS)})
        select $1, * from unnest($2::integer[], {", ".join(f"${place}::smallint[]" for place in range(3, 27))})
        on conflict (day, device_no) do update set {", ".join(f"{name} = excluded.{name}" for name in HOURS)}
        """,  # noqa: S608 - constants
        day,
        numbers,
        *(np.minimum([counts[number][hour] for number in numbers], COUNTED_MAX).tolist() for hour in range(24)),
    )


async def forget_counts(conn: WriteConn, before: date) -> None:
    """Forget days that are no longer kept."""
    await conn.execute("delete from report_counts where day < $1", before)
