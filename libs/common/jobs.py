"""Long work outside the request: a durable queue per service, worked off by a process of its own.

Imports, exports, reports: whatever would hold a service's event loop for more than 50 ms is put into the
service's table ``jobs``, in the transaction that decides it, and done by a job worker, which is niced and may be
killed at any moment. A service offers its handlers as ``JOB_HANDLERS`` (kind of job to handler) in
``services/<name>/jobs.py``, which run as a program calls ``jobworker.run_worker({"<name>": JOB_HANDLERS})``, and
creates the table in a migration by ``create_job_tables(op)``.

A job that was running when its worker died is run again, up to ``MAX_ATTEMPTS`` times: handlers are idempotent. Who
works on a job holds an advisory lock of its session, so a dead worker is noticed without a heartbeat. A handler
ends with a result, or with a ``PlatformError`` that is kept for the person who asked (``Unavailable`` is tried
again later); any other exception is a bug and is logged and kept as such. Work that must happen once ends its job in
its own transaction (``finish``). A job that was cancelled has failed; its handler notices when it says how far it is.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NewType

import asyncpg

from libs.common.backoff import Backoff
from libs.common.clock import Clock
from libs.common.db import Connection, Database, DatabaseUnavailable, ReadConn, WriteConn
from libs.common.errors import Conflict, NotFound, PlatformError, Unavailable
from libs.common.ids import new_id
from libs.common.schema import Operations

logger = logging.getLogger(__name__)

JobId = NewType("JobId", str)
JobState = Literal["queued", "running", "succeeded", "failed"]

MAX_ATTEMPTS = 5
"""A job that has ended this many workers is not tried on another."""
KEEP_S = 30 * 86400.0
"""How long a finished job can be asked about. [s]"""
POLL_S = 2.0
"""The net below the notification that a job was put in. [s]"""
PROGRESS_EVERY_S = 0.5
"""Progress is written at most this often. [s]"""
MAX_SILENCE_S = 900.0
"""A handler reports progress at least this often, or its process is restarted. [s]"""
CHANNEL = "wattring_jobs"

JOBS = """
    create table jobs (
        id text not null,
        kind text not null,
        actor text not null,
        payload jsonb not null,
        body bytea,
        state text not null default 'queued'
            constraint jobs_state check (state in ('queued', 'running', 'succeeded', 'failed')),
        attempts integer not null default 0,
        done bigint not null default 0,
        total bigint,
        note text,
        result jsonb,
        error jsonb,
        due_at timestamptz not null default now(),
        created_at timestamptz not null default now(),
        started_at timestamptz,
        finished_at timestamptz,
        constraint jobs_pk primary key (id)
    )
"""
JOBS_BODY = "alter table jobs alter column body set storage external"
JOBS_OPEN = "create index jobs_open on jobs (due_at, id) where state in ('queued', 'running')"
JOBS_FINISHED = "create index jobs_finished on jobs (finished_at) where finished_at is not null"


def create_job_tables(op: Operations) -> None:
    """Create the queue, in a migration of a service."""
    for statement in (JOBS, JOBS_BODY, JOBS_OPEN, JOBS_FINISHED):
        op.execute(statement)


class JobNotFound(NotFound):
    """No such job, or it ended more than ``KEEP_S`` ago."""

    code = "job_not_found"
    title_zh = "任务不存在"


class JobEnded(Conflict):
    """A job has ended already: it was done, it failed, or somebody cancelled it."""

    code = "job_ended"
    title_zh = "任务已结束"


@dataclass(frozen=True, slots=True)
class Job:
    """A piece of work and how far it is."""

    id: JobId
    kind: str
    actor: str
    """Who asked."""
    payload: Mapping[str, Any]
    state: JobState
    attempts: int
    done: int
    total: int | None
    """How much there is to do, in the handler's own unit; None while unknown."""
    note: str | None
    """What is being done, for people."""
    result: Mapping[str, Any] | None
    error: Mapping[str, Any] | None
    """``code, detail, detail_zh, facts`` of a failed job."""
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class JobContext:
    """What a handler is given besides the job."""

    def __init__(
        self, job: Job, body: bytes | None, db: Database, clock: Clock, beat: Callable[[], None] | None = None
    ) -> None:
        self.job = job
        self.body = body
        """The file that came with the job."""
        self.db = db
        """The pool of the service that the job belongs to."""
        self.clock = clock
        self._beat = beat or (lambda: None)
        self._written_at: float | None = None

    async def progress(self, done: int, total: int | None = None, note: str | None = None) -> None:
        """Say how far the job is; cheap enough for an inner loop.

        Raises:
            JobEnded: Somebody cancelled it, or another worker has it by now: there is nothing more to do.
        """
        self._beat()
        now = self.clock.monotonic()
        if self._written_at is not None and now - self._written_at < PROGRESS_EVERY_S and done != total:
            return
        self._written_at = now
        async with self.db.write() as conn:
            known = await conn.fetchval(
                "update jobs set done = $2, total = $3, note = coalesce($4, note) "
                "where id = $1 and attempts = $5 and finished_at is null returning id",
                self.job.id,
                done,
                total,
                note,
                self.job.attempts,
            )
        if known is None:
            raise _ended(self.job.id)

    async def finish(self, conn: WriteConn, result: Mapping[str, Any]) -> None:
        """End the job in the transaction that does its work: either both happen, once, or neither.

        Raises:
            JobEnded: See ``progress``; the transaction must not be committed.
        """
        known = await conn.fetchval(
            "update jobs set state = 'succeeded', result = $3, body = null, finished_at = now() "
            "where id = $1 and attempts = $2 and finished_at is null returning id",
            self.job.id,
            self.job.attempts,
            result,
        )
        if known is None:
            raise _ended(self.job.id)


Handler = Callable[[JobContext], Awaitable[Mapping[str, Any] | None]]
"""Does a job and returns its result as JSON-ready facts. Heavy Python goes to a thread: the loop answers probes."""


async def enqueue(
    conn: WriteConn, kind: str, payload: Mapping[str, Any], *, actor: str, body: bytes | None = None
) -> JobId:
    """Put a job into the queue of the connection's service; it starts when the transaction is committed."""
    job_id = JobId(new_id())
    await conn.execute(
        "insert into jobs (id, kind, actor, payload, body) values ($1, $2, $3, $4, $5)",
        job_id,
        kind,
        actor,
        payload,
        body,
    )
    await conn.execute("select pg_notify($1, '')", CHANNEL)
    return job_id


async def cancel(conn: WriteConn, job_id: str, *, actor: str) -> None:
    """End a job that waits or runs: it has failed, by somebody's will.

    Raises:
        JobNotFound: There is none of that id.
        JobEnded: It has ended before.
    """
    error = {
        "code": "cancelled",
        "detail": f"{actor} cancelled the job",
        "detail_zh": f"{actor} 已取消该任务",
        "facts": {"actor": actor},
    }
    found = await conn.fetchval(
        "update jobs set state = 'failed', error = $2, body = null, finished_at = now() "
        "where id = $1 and finished_at is null returning id",
        job_id,
        error,
    )
    if found is not None:
        return
    if await conn.fetchval("select id from jobs where id = $1", job_id) is None:
        raise _not_found(job_id)
    raise _ended(job_id)


async def fetch_job(conn: ReadConn, job_id: str) -> Job:
    """Return a job.

    Raises:
        JobNotFound: There is none of that id.
    """
    row = await conn.fetchrow(f"select {_COLUMNS} from jobs where id = $1", job_id)  # noqa: S608 - a constant
    if row is None:
        raise _not_found(job_id)
    return _job(row)


async def list_jobs(conn: ReadConn, *, before: str | None, limit: int) -> list[Job]:
    """Return jobs, the youngest first, below the id ``before``."""
    rows = await conn.fetch(
        f"select {_COLUMNS} from jobs where $1::text is null or id < $1 order by id desc limit $2",  # noqa: S608
        before,
        limit,
    )
    return [_job(row) for row in rows]


class JobWorker:
    """Does the jobs of one service, one after the other."""

    def __init__(self, *, db: Database, clock: Clock, handlers: Mapping[str, Handler]) -> None:
        self._db = db
        self._clock = clock
        self._handlers = handlers
        self._wake = asyncio.Event()

    async def run(self, beat: Callable[[], None]) -> None:
        """Work until cancelled; a job that is cut short is taken up again by the next worker."""
        backoff = Backoff(first_s=0.5, cap_s=10.0)
        while True:
            try:
                async with self._db.listen() as conn:
                    await conn.add_listener(CHANNEL, self._notified)
                    try:
                        await self._work(conn, beat, backoff)
                    finally:
                        if not conn.is_closed():
                            await conn.remove_listener(CHANNEL, self._notified)
            except DatabaseUnavailable as exc:
                if backoff.first:
                    logger.warning("jobs wait for the database", extra={"reason": exc.message})
                beat()
                await self._clock.sleep(backoff.next_s())

    async def _work(self, conn: Connection, beat: Callable[[], None], backoff: Backoff) -> None:
        while True:
            beat()
            self._wake.clear()
            await self._release_orphans(conn)
            job = await self._claim(conn)
            backoff.reset()
            if job is not None:
                await self._do(conn, job, beat)
                continue
            try:
                async with asyncio.timeout(POLL_S):
                    await self._wake.wait()
            except TimeoutError:
                pass  # the poll
            await conn.execute(
                "delete from jobs where finished_at < now() - make_interval(secs => $1)", KEEP_S, timeout=30
            )

    def _notified(self, *_: object) -> None:
        self._wake.set()

    async def _claim(self, conn: Connection) -> Job | None:
        async with conn.transaction():
            row = await conn.fetchrow(
                f"""
                update jobs set state = 'running', attempts = attempts + 1, started_at = now()
                 where id = (select id from jobs where state = 'queued' and due_at <= now() and kind = any($1)
                              order by due_at, id limit 1 for update skip locked)
                returning {_COLUMNS}
                """,  # noqa: S608 - a constant
                list(self._handlers),
            )
            if row is None:
                return None
            # Taken before the commit, so that nobody sees the job running and unlocked.
            await conn.fetchval("select pg_advisory_lock(hashtextextended($1, 0))", row["id"])
        return _job(row)

    async def _release_orphans(self, conn: Connection) -> None:
        """Put the jobs of dead workers back, or give them up."""
        for row in await conn.fetch("select id, attempts from jobs where state = 'running'"):
            if not await conn.fetchval("select pg_try_advisory_lock(hashtextextended($1, 0))", row["id"]):
                continue
            try:
                if row["attempts"] < MAX_ATTEMPTS:
                    await conn.execute(
                        "update jobs set state = 'queued' where id = $1 and state = 'running' and attempts = $2",
                        row["id"],
                        row["attempts"],
                    )
                else:
                    error = {
                        "code": "worker_died",
                        "detail": f"the job ended its worker {row['attempts']} times and was given up",
                        "detail_zh": f"任务已使工作进程终止 {row['attempts']} 次,不再重试",
                    }
                    await self._finish(conn, row["id"], row["attempts"], "failed", error=error)
            finally:
                await conn.execute("select pg_advisory_unlock(hashtextextended($1, 0))", row["id"])

    async def _do(self, conn: Connection, job: Job, beat: Callable[[], None]) -> None:
        logger.info("job started", extra={"job_id": job.id, "kind": job.kind, "attempt": job.attempts})
        body = await conn.fetchval("select body from jobs where id = $1", job.id)
        context = JobContext(job, body, self._db, self._clock, beat)
        try:
            result = await self._handlers[job.kind](context)
        except Unavailable as exc:
            if job.attempts < MAX_ATTEMPTS:
                logger.warning("job waits for a dependency", extra={"job_id": job.id, "reason": exc.message})
                await conn.execute(
                    "update jobs set state = 'queued', due_at = now() + make_interval(secs => $3), note = $4 "
                    "where id = $1 and attempts = $2 and finished_at is null",
                    job.id,
                    job.attempts,
                    float(2**job.attempts),
                    exc.message,
                )
            else:
                await self._finish(conn, job.id, job.attempts, "failed", error=_error(exc))
        except JobEnded:
            logger.info("job was ended by somebody else", extra={"job_id": job.id, "kind": job.kind})
        except PlatformError as exc:
            logger.warning("job refused", extra={"job_id": job.id, "kind": job.kind, "reason": exc.message})
            await self._finish(conn, job.id, job.attempts, "failed", error=_error(exc))
        except Exception as exc:
            logger.exception("job failed unexpectedly", extra={"job_id": job.id, "kind": job.kind})
            error = {"code": "internal", "detail": f"unexpected {type(exc).__name__}", "detail_zh": "内部错误,已记录"}
            await self._finish(conn, job.id, job.attempts, "failed", error=error)
        else:
            await self._finish(conn, job.id, job.attempts, "succeeded", result=result or {})
            logger.info("job done", extra={"job_id": job.id, "kind": job.kind})
        finally:
            if not conn.is_closed():
                await conn.execute("select pg_advisory_unlock(hashtextextended($1, 0))", job.id)

    async def _finish(
        self,
        conn: Connection,
        job_id: str,
        attempts: int,
        state: JobState,
        *,
        result: Mapping[str, Any] | None = None,
        error: Mapping[str, Any] | None = None,
    ) -> None:
        await conn.execute(
            "update jobs set state = $3, result = $4, error = $5, body = null, finished_at = now() "
            "where id = $1 and attempts = $2 and finished_at is null",
            job_id,
            attempts,
            state,
            result,
            error,
        )


_COLUMNS = (
    "id, kind, actor, payload, state, attempts, done, total, note, result, error, created_at, started_at, finished_at"
)


def _not_found(job_id: str) -> JobNotFound:
    return JobNotFound(f"there is no job {job_id}", message_zh=f"任务 {job_id} 不存在")


def _ended(job_id: str) -> JobEnded:
    return JobEnded(f"job {job_id} has ended", message_zh=f"任务 {job_id} 已结束")


def _job(row: asyncpg.Record) -> Job:
    return Job(**dict(row.items()))


def _error(exc: PlatformError) -> dict[str, Any]:
    return {
        "code": exc.code,
        "detail": exc.message,
        "detail_zh": exc.message_zh or exc.title_zh,
        "facts": exc.facts,
    }
