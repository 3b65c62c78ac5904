"""SQL of exports: plans by version, when each is due, and its runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from asyncpg import Record

from libs.common.db import ReadConn, WriteConn
from services.export.domain.exports import ExportPlan, MadeFile, Missed, Period, Run, RunState, plan_of

Conn = ReadConn | WriteConn


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredExport:
    """A plan as it is now."""

    plan: ExportPlan
    sealed: bytes | None
    changed_by: str
    changed_at: datetime
    next_due_at: datetime


_EXPORT = "select export_id, version, document, sealed, changed_by, changed_at, next_due_at from exports"


async def lock_export(conn: WriteConn, export_id: str) -> None:
    """Keep other changes of an export out until the transaction ends."""
    await conn.execute("select pg_advisory_xact_lock(hashtextextended($1, 83))", export_id)


async def fetch_export(conn: Conn, export_id: str) -> StoredExport | None:
    """Return an export, None when there is none or it was removed."""
    row = await conn.fetchrow(_EXPORT + " where export_id = $1 and removed_at is null", export_id)
    return None if row is None else _export(row)


async def fetch_exports(conn: Conn, *, after: str, limit: int) -> list[StoredExport]:
    """Return exports by id."""
    rows = await conn.fetch(
        _EXPORT + " where export_id > $1 and removed_at is null order by export_id limit $2", after, limit
    )
    return [_export(row) for row in rows]


async def fetch_due_exports(conn: Conn, now: datetime, *, limit: int) -> list[StoredExport]:
    """Return enabled exports that runs are due of, the longest due first."""
    rows = await conn.fetch(
        _EXPORT
        + """
         where removed_at is null and next_due_at <= $1 and (document ->> 'enabled')::boolean
         order by next_due_at, export_id limit $2
        """,
        now,
        limit,
    )
    return [_export(row) for row in rows]


async def last_version(conn: Conn, export_id: str) -> int:
    """Return the last version of an export, removed or not; 0 when there was none."""
    return int(await conn.fetchval("select version from exports where export_id = $1", export_id) or 0)


async def count_exports(conn: Conn) -> int:
    """Return how many exports there are."""
    return int(await conn.fetchval("select count(*) from exports where removed_at is null"))


async def put_export(conn: WriteConn, one: StoredExport) -> None:
    """Write an export's next version."""
    plan = one.plan
    document = plan.document()
    await conn.execute(
        """
        insert into exports (export_id, version, document, sealed, changed_by, changed_at, next_due_at)
        values ($1, $2, $3, $4, $5, $6, $7)
        on conflict (export_id) do update
           set version = excluded.version, document = excluded.document, sealed = excluded.sealed,
               changed_by = excluded.changed_by, changed_at = excluded.changed_at,
               next_due_at = excluded.next_due_at, removed_at = null
        """,
        plan.export_id,
        plan.version,
        document,
        one.sealed,
        one.changed_by,
        one.changed_at,
        one.next_due_at,
    )
    await conn.execute(
        """
        insert into export_versions (export_id, version, document, changed_by, changed_at)
        values ($1, $2, $3, $4, $5)
        """,
        plan.export_id,
        plan.version,
        document,
        one.changed_by,
        one.changed_at,
    )


async def remove_export(conn: WriteConn, export_id: str, now: datetime, reason: str) -> None:
    """Take an export and its account away; what is open of it is given up."""
    await conn.execute("update exports set removed_at = $2, sealed = null where export_id = $1", export_id, now)
    await conn.execute(
        """
        update export_runs set state = 'given_up', finished_at = $2, next_attempt_at = null, job_id = null, error = $3
         where export_id = $1 and state in ('due', 'made')
        """,
        export_id,
        now,
        reason,
    )


async def put_next_due(conn: WriteConn, export_id: str, version: int, before: datetime, after: datetime) -> bool:
    """Say when an export's next run is due; return False when somebody has changed it meanwhile."""
    changed = await conn.fetchval(
        """
        update exports set next_due_at = $4
         where export_id = $1 and version = $2 and next_due_at = $3 and removed_at is null returning export_id
        """,
        export_id,
        version,
        before,
        after,
    )
    return changed is not None


async def add_runs(conn: WriteConn, export_id: str, runs: Sequence[tuple[datetime, Period]], now: datetime) -> None:
    """Add runs that are due; of one that is there already nothing changes."""
    await conn.executemany(
        """
        insert into export_runs (export_id, due_at, start_at, end_at, state, next_attempt_at)
        values ($1, $2, $3, $4, 'due', $5)
        on conflict on constraint export_runs_once do nothing
        """,
        [(export_id, due, period.start, period.end, now) for due, period in runs],
    )


async def add_missed(conn: WriteConn, export_id: str, missed: Missed, span: Period, now: datetime, error: str) -> None:
    """Note runs that are too old to be made, in one row for all of them."""
    await conn.execute(
        """
        insert into export_runs (export_id, due_at, start_at, end_at, state, finished_at, error)
        values ($1, $2, $3, $4, 'given_up', $5, $6)
        on conflict on constraint export_runs_once do nothing
        """,
        export_id,
        missed.first_due,
        span.start,
        span.end,
        now,
        error,
    )


_RUN = """
    select id, export_id, due_at, start_at, end_at, state, version, job_id, attempts, next_attempt_at, made_at,
           finished_at, files, error
      from export_runs
"""


async def fetch_run(conn: Conn, run_id: int) -> Run | None:
    """Return a run."""
    row = await conn.fetchrow(_RUN + " where id = $1", run_id)
    return None if row is None else _run(row)


async def lock_run(conn: WriteConn, run_id: int) -> Run | None:
    """Return a run, which nobody else changes until the transaction ends."""
    row = await conn.fetchrow(_RUN + " where id = $1 for update", run_id)
    return None if row is None else _run(row)


async def fetch_runs(
    conn: Conn, export_id: str, *, state: RunState | None, before: tuple[datetime, int] | None, limit: int
) -> list[Run]:
    """Return runs of an export, the youngest first."""
    rows = await conn.fetch(
        _RUN
        + """
         where export_id = $1 and ($2::text is null or state = $2)
           and ($3::timestamptz is null or (due_at, id) < ($3, $4::bigint))
         order by due_at desc, id desc limit $5
        """,
        export_id,
        None if state is None else state.value,
        None if before is None else before[0],
        None if before is None else before[1],
        limit,
    )
    return [_run(row) for row in rows]


async def fetch_to_make(conn: Conn, now: datetime, *, ahead: int, limit: int) -> list[Run]:
    """Return of each export the oldest run without files, when it may be made now.

    Args:
        conn: Of the service.
        now: When.
        ahead: So many runs of one export may lie here and wait for its destination.
        limit: No more than these.
    """
    rows = await conn.fetch(
        """
        select r.id, r.export_id, r.due_at, r.start_at, r.end_at, r.state, r.version, r.job_id, r.attempts,
               r.next_attempt_at, r.made_at, r.finished_at, r.files, r.error
          from (select distinct on (export_id) * from export_runs where state = 'due' order by export_id, due_at) r
          join exports e on e.export_id = r.export_id and e.removed_at is null
         where r.job_id is null and r.next_attempt_at <= $1
           and (select count(*) from export_runs m where m.export_id = r.export_id and m.state = 'made') < $2
         order by r.next_attempt_at, r.id limit $3
        """,
        now,
        ahead,
        limit,
    )
    return [_run(row) for row in rows]


async def put_job(conn: WriteConn, run_id: int, job_id: str) -> bool:
    """Note the job that makes a run; return False when there is no need any more."""
    found = await conn.fetchval(
        "update export_runs set job_id = $2 where id = $1 and state = 'due' and job_id is null returning id",
        run_id,
        job_id,
    )
    return found is not None


async def release_ended_jobs(conn: WriteConn, now: datetime, error: str) -> int:
    """Let runs be made again whose job has ended without saying what came of it; return how many."""
    return len(
        await conn.fetch(
            """
            update export_runs r set job_id = null, attempts = attempts + 1, next_attempt_at = $1,
                   error = coalesce((select j.error ->> 'detail' from jobs j where j.id = r.job_id), $2)
             where r.state = 'due' and r.job_id is not null
               and not exists (select from jobs j where j.id = r.job_id and j.state in ('queued', 'running'))
            returning r.id
            """,
            now,
            error,
        )
    )


async def save_made(
    conn: WriteConn, run_id: int, job_id: str, *, version: int, files: Sequence[MadeFile], now: datetime
) -> bool:
    """Note a run's files; return False when the run is no longer this job's."""
    found = await conn.fetchval(
        """
        update export_runs set state = 'made', version = $3, files = $4, made_at = $5, job_id = null, attempts = 0,
               next_attempt_at = $5, error = null
         where id = $1 and state = 'due' and job_id = $2 returning id
        """,
        run_id,
        job_id,
        version,
        [file.as_json() for file in files],
        now,
    )
    return found is not None


async def save_not_made(
    conn: WriteConn, run_id: int, job_id: str, *, attempts: int, next_attempt_at: datetime, error: str
) -> None:
    """Note that a run could not be made and when that is tried again."""
    await conn.execute(
        """
        update export_runs set job_id = null, attempts = $3, next_attempt_at = $4, error = $5
         where id = $1 and state = 'due' and job_id = $2
        """,
        run_id,
        job_id,
        attempts,
        next_attempt_at,
        error,
    )


async def fetch_to_deliver(conn: Conn, now: datetime) -> list[str]:
    """Return the exports whose oldest open run is made and may be brought now."""
    rows = await conn.fetch(
        """
        select r.export_id
          from (select distinct on (export_id) export_id, state, next_attempt_at
                  from export_runs where state in ('due', 'made') order by export_id, due_at) r
         where r.state = 'made' and r.next_attempt_at <= $1
         order by r.export_id
        """,
        now,
    )
    return [row["export_id"] for row in rows]


async def fetch_oldest_open(conn: Conn, export_id: str) -> Run | None:
    """Return an export's oldest run that something is still to be done for."""
    row = await conn.fetchrow(
        _RUN + " where export_id = $1 and state in ('due', 'made') order by due_at limit 1", export_id
    )
    return None if row is None else _run(row)


async def save_delivery(
    conn: WriteConn,
    run_id: int,
    *,
    state: RunState,
    attempts: int,
    next_attempt_at: datetime | None,
    finished_at: datetime | None,
    error: str | None,
) -> bool:
    """Note what came of bringing a run; return False when somebody has given it up meanwhile."""
    found = await conn.fetchval(
        """
        update export_runs set state = $2, attempts = $3, next_attempt_at = $4, finished_at = $5, error = $6
         where id = $1 and state = 'made' returning id
        """,
        run_id,
        state.value,
        attempts,
        next_attempt_at,
        finished_at,
        error,
    )
    return found is not None


async def give_up(conn: WriteConn, run_id: int, now: datetime, reason: str) -> None:
    """End an open run without bringing it."""
    await conn.execute(
        """
        update export_runs set state = 'given_up', finished_at = $2, next_attempt_at = null, job_id = null, error = $3
         where id = $1 and state in ('due', 'made')
        """,
        run_id,
        now,
        reason,
    )


async def hurry(conn: WriteConn, run_id: int, now: datetime) -> None:
    """Try an open run at the next look instead of later."""
    await conn.execute(
        "update export_runs set next_attempt_at = $2 where id = $1 and state in ('due', 'made')", run_id, now
    )


async def save_lost(conn: WriteConn, run_id: int, next_attempt_at: datetime, error: str) -> None:
    """Let a run be made again whose files are gone."""
    await conn.execute(
        """
        update export_runs set state = 'due', job_id = null, next_attempt_at = $2, made_at = null, files = '[]',
               error = $3
         where id = $1 and state = 'made'
        """,
        run_id,
        next_attempt_at,
        error,
    )


async def make_again(conn: WriteConn, run_id: int, now: datetime) -> None:
    """Make a finished run's files once more and bring them, after what is open before it."""
    await conn.execute(
        """
        update export_runs set state = 'due', job_id = null, attempts = 0, next_attempt_at = $2, made_at = null,
               finished_at = null, files = '[]', error = null
         where id = $1 and state in ('delivered', 'given_up')
        """,
        run_id,
        now,
    )


async def kept_folders(conn: Conn) -> set[tuple[str, int]]:
    """Return export and id of the runs whose files lie here, or are being made."""
    rows = await conn.fetch("select export_id, id from export_runs where state in ('due', 'made')")
    return {(row["export_id"], row["id"]) for row in rows}


async def drop_old(conn: WriteConn, before: datetime, *, limit: int) -> int:
    """Remove runs that ended long ago; return how many."""
    return len(
        await conn.fetch(
            """
            delete from export_runs where id in (
                select id from export_runs where finished_at < $1 order by finished_at limit $2)
            returning id
            """,
            before,
            limit,
        )
    )


async def count_open(conn: Conn) -> dict[tuple[str, RunState], int]:
    """Return how many runs are open, by export and state."""
    rows = await conn.fetch(
        "select export_id, state, count(*) as runs from export_runs where state in ('due', 'made') group by 1, 2"
    )
    return {(row["export_id"], RunState(row["state"])): row["runs"] for row in rows}


def _export(row: Record) -> StoredExport:
    return StoredExport(
        plan=plan_of(row["export_id"], row["version"], row["document"]),
        sealed=row["sealed"],
        changed_by=row["changed_by"],
        changed_at=row["changed_at"],
        next_due_at=row["next_due_at"],
    )


def _run(row: Record) -> Run:
    plain: dict[str, Any] = dict(row.items())
    return Run(
        id=plain["id"],
        export_id=plain["export_id"],
        due_at=plain["due_at"],
        start=plain["start_at"],
        end=plain["end_at"],
        state=RunState(plain["state"]),
        version=plain["version"],
        job_id=plain["job_id"],
        attempts=plain["attempts"],
        next_attempt_at=plain["next_attempt_at"],
        made_at=plain["made_at"],
        finished_at=plain["finished_at"],
        files=tuple(MadeFile.of_json(one) for one in plain["files"]),
        error=plain["error"],
    )
