"""Readings that a person took: append-only, a correction is a row that names the one it corrects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from libs.common.db import ReadConn, WriteConn


@dataclass(frozen=True, slots=True, kw_only=True)
class ManualReading:
    """One reading."""

    id: str
    device_id: str
    site_id: str
    source_time: datetime
    recorded_at: datetime
    points: Mapping[str, float]
    reader: str
    """Who read the meter."""
    recorded_by: str
    """Who sent it in."""
    note: str | None = None
    confirmed: Sequence[Mapping[str, Any]] | None = None
    """Doubts that were confirmed to be right."""
    corrects: str | None = None
    reason: str | None = None
    """Of a correction."""
    photo_type: str | None = None
    photo_sha256: str | None = None
    corrected_by: str | None = None
    """The reading that corrects this one."""


_COLUMNS = """
    m.id, m.device_id, m.site_id, m.source_time, m.recorded_at, m.points, m.reader, m.recorded_by, m.note, m.confirmed,
    m.corrects, m.reason, m.photo_type, m.photo_sha256, c.id as corrected_by
"""


async def insert(conn: WriteConn, found: ManualReading, photo: bytes | None) -> None:
    """Keep a reading and its photo."""
    await conn.execute(
        """
        insert into manual_readings (id, device_id, site_id, source_time, recorded_at, points, reader, recorded_by,
                                     note, confirmed, corrects, reason, photo_type, photo_sha256)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
        """,
        found.id, found.device_id, found.site_id, found.source_time, found.recorded_at, dict(found.points),
        found.reader, found.recorded_by, found.note, found.confirmed, found.corrects, found.reason,
        found.photo_type, found.photo_sha256,
    )  # fmt: skip
    if photo is not None:
        await conn.execute("insert into manual_photos (reading_id, body) values ($1, $2)", found.id, photo)


async def lock_device(conn: WriteConn, device_id: str) -> None:
    """Let one reading of a device be taken at a time, until the end of the transaction."""
    await conn.execute("select pg_advisory_xact_lock(hashtextextended($1, 0))", f"manual:{device_id}")


async def fetch(conn: ReadConn | WriteConn, reading_id: str) -> ManualReading | None:
    """Return a reading, None when there is none."""
    row = await conn.fetchrow(
        f"""
        select {_COLUMNS} from manual_readings m left join manual_readings c on c.corrects = m.id where m.id = $1
        """,  # noqa: S608  # columns of ours
        reading_id,
    )
    return None if row is None else ManualReading(**dict(row.items()))


async def fetch_page(
    conn: ReadConn, *, device_id: str | None, sites: Sequence[str] | None, before: str | None, limit: int
) -> list[ManualReading]:
    """Return readings, the last recorded first, from behind the id ``before``."""
    rows = await conn.fetch(
        f"""
        select {_COLUMNS} from manual_readings m left join manual_readings c on c.corrects = m.id
         where ($1::text is null or m.device_id = $1) and ($2::text[] is null or m.site_id = any($2))
           and ($3::text is null or m.id < $3)
         order by m.id desc limit $4
        """,  # noqa: S608  # columns of ours
        device_id,
        sites,
        before,
        limit,
    )
    return [ManualReading(**dict(row.items())) for row in rows]


async def fetch_around(
    conn: ReadConn | WriteConn, device_id: str, at: datetime, *, without: str | None, limit: int
) -> tuple[list[ManualReading], list[ManualReading]]:
    """Return the readings before (the last first) and after (the first first) a time that no other one corrects."""
    found: list[list[ManualReading]] = []
    for side, order in (("<", "desc"), (">", "asc")):
        rows = await conn.fetch(
            f"""
            select {_COLUMNS} from manual_readings m left join manual_readings c on c.corrects = m.id
             where m.device_id = $1 and m.source_time {side} $2 and c.id is null and m.id is distinct from $3
             order by m.source_time {order} limit $4
            """,  # noqa: S608  # columns and operators of ours
            device_id,
            at,
            without,
            limit,
        )
        found.append([ManualReading(**dict(row.items())) for row in rows])
    return found[0], found[1]


async def fetch_photo(conn: ReadConn, reading_id: str) -> bytes | None:
    """Return a reading's photo, None when it has none."""
    body: bytes | None = await conn.fetchval("select body from manual_photos where reading_id = $1", reading_id)
    return body
