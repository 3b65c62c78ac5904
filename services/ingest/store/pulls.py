"""How far other systems were read, and which files were taken; every write is fenced by the lease's epoch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from libs.common.db import ReadConn, WriteConn
from libs.common.errors import Conflict
from services.ingest.domain.pull import Mark

MAX_PROBLEMS = 1_000
"""Wrong lines of a file that are kept with it; all of them are listed under ``/api/v1/rejected``."""


class NoLongerOurs(Conflict):
    """Another process has taken the source over: nothing of this was written."""

    code = "lease_lost"
    title_zh = "租约已失"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a source was read."""

    mark: Mark | None
    cycle: int
    """Of the last complete reading."""


@dataclass(frozen=True, slots=True)
class PullState:
    """What is known of a pull, for people."""

    line_id: str
    mark: Mark | None
    rows_taken: int
    rows_refused: int
    last_success_at: datetime | None
    failing_since: datetime | None
    detail: str | None
    detail_zh: str | None


@dataclass(frozen=True, slots=True)
class DroppedFile:
    """A file and how far it was taken."""

    sha256: bytes
    name: str
    bytes: int
    found_at: datetime
    lines_done: int
    counts: Mapping[str, int]
    problems: Sequence[Mapping[str, Any]]
    outcome: str | None
    """``taken`` or ``refused``; None while it is not finished."""
    finished_at: datetime | None


async def claim(conn: WriteConn, line_id: str, epoch: int) -> Progress:
    """Take a source over and return how far it was read.

    Raises:
        NoLongerOurs: Somebody with a higher epoch has it.
    """
    row = await conn.fetchrow(
        """
        insert into pulls (line_id, epoch) values ($1, $2)
        on conflict (line_id) do update set epoch = excluded.epoch where pulls.epoch <= excluded.epoch
        returning watermark, cycle
        """,
        line_id,
        epoch,
    )
    if row is None:
        raise NoLongerOurs(f"{line_id}: another process reads it", message_zh=f"{line_id}:已由其他进程读取")
    return Progress(_mark(row["watermark"]), row["cycle"])


async def hold(conn: WriteConn, line_id: str, epoch: int) -> None:
    """Lock a source for this transaction.

    Raises:
        NoLongerOurs: Somebody else has it.
    """
    mine = await conn.fetchval("select epoch = $2 from pulls where line_id = $1 for update", line_id, epoch)
    if not mine:
        raise NoLongerOurs(f"{line_id}: another process reads it", message_zh=f"{line_id}:已由其他进程读取")


async def seen_keys(conn: ReadConn, line_id: str, keys: Sequence[bytes]) -> set[bytes]:
    """Return those of the rows that were taken before."""
    rows = await conn.fetch("select key from pulled_keys where line_id = $1 and key = any($2::bytea[])", line_id, keys)
    return {row["key"] for row in rows}


async def note_keys(conn: WriteConn, line_id: str, keys: Sequence[bytes], cycle: int) -> None:
    """Note rows, each of them once in ``keys``."""
    await conn.execute(
        """
        insert into pulled_keys (line_id, key, cycle)
        select $1, key, $3 from unnest($2::bytea[]) as k(key) order by key
        on conflict (line_id, key) do update set cycle = excluded.cycle
        """,
        line_id,
        keys,
        cycle,
    )


async def count(conn: WriteConn, line_id: str, *, taken: int, refused: int) -> None:
    """Count rows."""
    await conn.execute(
        "update pulls set rows_taken = rows_taken + $2, rows_refused = rows_refused + $3 where line_id = $1",
        line_id,
        taken,
        refused,
    )


async def complete(conn: WriteConn, line_id: str, *, cycle: int, mark: Mark | None, at: datetime) -> None:
    """Note that everything up to a watermark is taken, and forget what the overlap does not reach any more."""
    await conn.execute(
        """
        update pulls set watermark = $2, cycle = $3, last_success_at = $4, failing_since = null, detail = null,
                         detail_zh = null
         where line_id = $1
        """,
        line_id,
        None if mark is None else mark.dump(),
        cycle,
        at,
    )
    await conn.execute("delete from pulled_keys where line_id = $1 and cycle <> $2", line_id, cycle)


async def fail(conn: WriteConn, line_id: str, *, at: datetime, detail: str, detail_zh: str | None) -> None:
    """Note why a source cannot be read."""
    await conn.execute(
        """
        insert into pulls (line_id, epoch, failing_since, detail, detail_zh) values ($1, 0, $2, $3, $4)
        on conflict (line_id) do update
           set failing_since = coalesce(pulls.failing_since, excluded.failing_since),
               detail = excluded.detail, detail_zh = excluded.detail_zh
        """,
        line_id,
        at,
        detail,
        detail_zh,
    )


async def fetch(conn: ReadConn, line_id: str) -> PullState | None:
    """Return what is known of a pull, None when it was never read."""
    row = await conn.fetchrow(
        """
        select line_id, watermark, rows_taken, rows_refused, last_success_at, failing_since, detail, detail_zh
          from pulls where line_id = $1
        """,
        line_id,
    )
    if row is None:
        return None
    found = dict(row.items())
    return PullState(mark=_mark(found.pop("watermark")), **found)


async def begin_file(
    conn: WriteConn, line_id: str, *, sha256: bytes, name: str, size: int, epoch: int, at: datetime
) -> DroppedFile:
    """Note a file, or return how far it was taken before.

    One that was refused, moved away and is dropped again has another chance: what was wrong may be right by now.
    """
    await conn.execute(
        """
        insert into dropped_files (line_id, sha256, name, bytes, epoch, found_at) values ($1, $2, $3, $4, $5, $6)
        on conflict (line_id, sha256) do update set epoch = excluded.epoch
        """,
        line_id,
        sha256,
        name,
        size,
        epoch,
        at,
    )
    await conn.execute(
        """
        update dropped_files
           set name = $3, found_at = $4, outcome = null, finished_at = null, moved_at = null, problems = '[]',
               lines_done = 0, counts = '{}'
         where line_id = $1 and sha256 = $2 and outcome = 'refused' and moved_at is not null
           and coalesce((counts ->> 'taken')::integer, 0) = 0
        """,
        line_id,
        sha256,
        name,
        at,
    )
    rows = await conn.fetch(_FILES + " and sha256 = $2", line_id, sha256)
    return _file(rows[0])


async def note_lines(
    conn: WriteConn,
    line_id: str,
    sha256: bytes,
    *,
    done: int,
    counts: Mapping[str, int],
    problems: Sequence[Mapping[str, Any]],
) -> None:
    """Note how far a file was taken, and what was wrong in it."""
    await conn.execute(
        """
        update dropped_files
           set lines_done = $3, counts = $4,
               problems = case when jsonb_array_length(problems) < $6 then problems || $5::jsonb else problems end
         where line_id = $1 and sha256 = $2
        """,
        line_id,
        sha256,
        done,
        counts,
        problems,
        MAX_PROBLEMS,
    )


async def finish_file(
    conn: WriteConn, line_id: str, sha256: bytes, *, outcome: str, at: datetime, problems: Sequence[Mapping[str, Any]]
) -> None:
    """Note that nothing is left to do with a file but to move it."""
    await conn.execute(
        """
        update dropped_files set outcome = $3, finished_at = $4, problems = problems || $5::jsonb
         where line_id = $1 and sha256 = $2 and finished_at is null
        """,
        line_id,
        sha256,
        outcome,
        at,
        problems,
    )


async def note_moved(conn: WriteConn, line_id: str, sha256: bytes, at: datetime) -> None:
    """Note that a finished file is not in the folder any more."""
    await conn.execute(
        "update dropped_files set moved_at = $3 where line_id = $1 and sha256 = $2 and finished_at is not null",
        line_id,
        sha256,
        at,
    )


async def note_gone(conn: WriteConn, line_id: str, names_there: Sequence[str], at: datetime) -> None:
    """Note the files that were moved by a process that could not say so any more."""
    await conn.execute(
        """
        update dropped_files set moved_at = $3
         where line_id = $1 and finished_at is not null and moved_at is null and name <> all($2::text[])
        """,
        line_id,
        names_there,
        at,
    )


async def fetch_file(conn: ReadConn, line_id: str, sha256: bytes) -> DroppedFile | None:
    """Return a file by its content, None when it was never begun."""
    row = await conn.fetchrow(_FILES + " and sha256 = $2", line_id, sha256)
    return None if row is None else _file(row)


async def fetch_files(conn: ReadConn, line_id: str, limit: int) -> list[DroppedFile]:
    """Return the files of a folder, the youngest first."""
    rows = await conn.fetch(_FILES + " order by found_at desc limit $2", line_id, limit)
    return [_file(row) for row in rows]


_FILES = """
    select sha256, name, bytes, found_at, lines_done, counts, problems, outcome, finished_at
      from dropped_files where line_id = $1"""


def _file(row: Any) -> DroppedFile:
    return DroppedFile(**dict(row.items()))


def _mark(stored: Any) -> Mark | None:
    return None if stored is None else Mark.load(stored)
