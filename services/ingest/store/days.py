"""Days of the history: which were written to late, which lie in files, and who may move or drop them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from libs.common.db import Connection, ReadConn, WriteConn
from services.ingest.domain.cold import DEVICES_PER_FILE

COOL_JOB = "history.cool"


@dataclass(frozen=True, slots=True)
class ColdFile:
    """A file that may be read."""

    day: date
    part: int
    name: str
    reports: int
    bytes: int
    sha256: str


async def touch_days(conn: WriteConn, days: Sequence[date], now: datetime) -> None:
    """Note that old days are about to be written to; whoever moves one of them waits for the transaction to end."""
    await conn.execute(
        """
        insert into history_days as d (day, version, touched_at)
        select day, 1, $2 from unnest($1::date[]) as day order by day
        on conflict (day) do update set version = d.version + 1, touched_at = excluded.touched_at
        """,
        days,
        now,
    )


async def fetch_version(conn: WriteConn, day: date, now: datetime) -> int:
    """Return how often a day was written to late."""
    await conn.execute(
        "insert into history_days (day, touched_at) values ($1, $2) on conflict (day) do nothing", day, now
    )
    version: int = await conn.fetchval("select version from history_days where day = $1", day)
    return version


async def lock_version(conn: WriteConn, day: date) -> int:
    """Return the same, and let nobody write to the day until the transaction ends."""
    version: int = await conn.fetchval("select version from history_days where day = $1 for update", day)
    return version


async def try_claim(conn: Connection, day: date) -> bool:
    """Claim the moving of a day for as long as the session lives; return whether nobody else has it."""
    claimed: bool = await conn.fetchval("select pg_try_advisory_lock(hashtextextended($1, 0))", _claim(day))
    return claimed


async def release(conn: Connection, day: date) -> None:
    """Give a claim back."""
    await conn.execute("select pg_advisory_unlock(hashtextextended($1, 0))", _claim(day))


async def fetch_quiet_days(conn: ReadConn, days: Sequence[date], quiet_since: datetime) -> list[date]:
    """Return those of ``days`` that nobody has written to since, and that nobody is about to move, the oldest first.

    One that has not been looked at for gaps stays: they are looked for where reports are quickly found.
    """
    rows = await conn.fetch(
        """
        select day from unnest($1::date[]) as day
         where not exists (select from history_days d where d.day = day.day and d.touched_at > $2)
           and not exists (select from jobs j where j.kind = $3 and j.state in ('queued', 'running')
                              and j.payload ->> 'day' = day.day::text)
           and not exists (select from gap_scan s where s.scanned_until < (day.day + 1)::timestamp at time zone 'UTC')
         order by day
        """,
        days,
        quiet_since,
        COOL_JOB,
    )
    return [row["day"] for row in rows]


async def put_files(conn: WriteConn, files: Sequence[ColdFile], now: datetime) -> None:
    """Let readers find files."""
    await conn.execute(
        """
        insert into cold_files (day, part, name, reports, bytes, sha256, written_at)
        select *, $7 from unnest($1::date[], $2::integer[], $3::text[], $4::bigint[], $5::bigint[], $6::text[])
        on conflict (day, part) do update
           set name = excluded.name, reports = excluded.reports, bytes = excluded.bytes, sha256 = excluded.sha256,
               written_at = excluded.written_at, dropping = false
        """,
        [file.day for file in files],
        [file.part for file in files],
        [file.name for file in files],
        [file.reports for file in files],
        [file.bytes for file in files],
        [file.sha256 for file in files],
        now,
    )


async def fetch_files_of_day(conn: ReadConn | WriteConn, day: date) -> dict[int, ColdFile]:
    """Return the files of a day by part."""
    rows = await conn.fetch(
        "select day, part, name, reports, bytes, sha256 from cold_files where day = $1 and not dropping", day
    )
    return {row["part"]: ColdFile(**dict(row)) for row in rows}


async def fetch_files_of_device(conn: ReadConn, device_id: str, first: date, last: date) -> list[ColdFile]:
    """Return the files in which a device's reports of ``[first, last]`` may lie, the oldest first."""
    rows = await conn.fetch(
        """
        select f.day, f.part, f.name, f.reports, f.bytes, f.sha256
          from devices d join cold_files f on f.part = d.no / $4
         where d.device_id = $1 and f.day between $2 and $3 and not f.dropping
         order by f.day
        """,
        device_id,
        first,
        last,
        DEVICES_PER_FILE,
    )
    return [ColdFile(**dict(row)) for row in rows]


async def mark_dropping(conn: WriteConn, before: date) -> list[ColdFile]:
    """Hide the files of days before ``before`` from readers, and return all that are hidden."""
    await conn.execute("update cold_files set dropping = true where day < $1 and not dropping", before)
    rows = await conn.fetch(
        "select day, part, name, reports, bytes, sha256 from cold_files where dropping order by day, part"
    )
    return [ColdFile(**dict(row)) for row in rows]


async def forget_file(conn: WriteConn, file: ColdFile) -> None:
    """Forget a file that is gone."""
    await conn.execute("delete from cold_files where day = $1 and part = $2 and dropping", file.day, file.part)


async def forget_days(conn: WriteConn, before: date) -> None:
    """Forget what was noted of days that are no longer kept."""
    await conn.execute("delete from history_days where day < $1", before)


def _claim(day: date) -> str:
    return f"{COOL_JOB}/{day.isoformat()}"
