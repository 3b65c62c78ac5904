"""The job queue on a real server: once, in order, again after a worker's death."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import asyncpg
import pytest

from libs.common import jobs
from libs.common.clock import SystemClock
from libs.common.db import Database
from libs.common.errors import InvalidInput, Unavailable
from libs.common.jobs import (
    Handler,
    JobContext,
    JobEnded,
    JobNotFound,
    JobWorker,
    cancel,
    enqueue,
    fetch_job,
    list_jobs,
)
from libs.common.settings import DatabaseSettings

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]


class Statements:
    """Takes the place of Alembic's ``op``."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def execute(self, sqltext: str) -> None:
        self.texts.append(sqltext)


@pytest.fixture
async def db(empty_postgres_url: str) -> AsyncIterator[Database]:
    connection = await asyncpg.connect(empty_postgres_url)
    op = Statements()
    jobs.create_job_tables(op)
    await connection.execute("create schema work")
    await connection.execute("set search_path to work")
    for text in op.texts:
        await connection.execute(text)
    await connection.close()
    database = Database(DatabaseSettings(url=empty_postgres_url), schema="work")
    await database.open()
    yield database
    await database.close()


async def put(db: Database, kind: str = "count", body: bytes | None = None, **payload: Any) -> str:
    async with db.write() as conn:
        return await enqueue(conn, kind, payload, actor="tester", body=body)


async def until(db: Database, job_id: str, *states: str) -> jobs.Job:
    async with asyncio.timeout(20):
        while True:
            async with db.read() as conn:
                job = await fetch_job(conn, job_id)
            if job.state in states:
                return job
            await asyncio.sleep(0.02)


class Working:
    """A worker that runs for the length of a block."""

    def __init__(self, db: Database, handlers: Mapping[str, Handler]) -> None:
        self._worker = JobWorker(db=db, clock=SystemClock(), handlers=handlers)
        self.beats = 0

    def _beat(self) -> None:
        self.beats += 1

    async def __aenter__(self) -> "Working":
        self._task = asyncio.create_task(self._worker.run(self._beat))
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


async def test_job_gets_its_file_reports_progress_and_leaves_a_result(db: Database) -> None:
    seen = asyncio.Event()
    go_on = asyncio.Event()

    async def count(context: JobContext) -> Mapping[str, Any]:
        await context.progress(1, 4, "reading")
        seen.set()
        await go_on.wait()
        return {"bytes": len(context.body or b""), "asked": context.job.payload["asked"]}

    job_id = await put(db, body=b"12345", asked="by hand")
    async with Working(db, {"count": count}) as working:
        await seen.wait()
        running = await until(db, job_id, "running")
        assert (running.done, running.total, running.note) == (1, 4, "reading")
        go_on.set()
        done = await until(db, job_id, "succeeded")
        assert working.beats >= 2
    assert done.result == {"bytes": 5, "asked": "by hand"}
    assert done.actor == "tester"
    async with db.read() as conn:
        assert await conn.fetchval("select body from jobs where id = $1", job_id) is None


async def test_job_of_a_rolled_back_transaction_does_not_exist(db: Database) -> None:
    job_ids: list[str] = []

    async def enqueue_and_fail() -> None:
        async with db.write() as conn:
            job_ids.append(await enqueue(conn, "count", {}, actor="tester"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await enqueue_and_fail()
    [job_id] = job_ids
    async with db.read() as conn:
        with pytest.raises(JobNotFound):
            await fetch_job(conn, job_id)


async def test_refusal_is_kept_with_its_facts_and_a_bug_without_its_text(db: Database) -> None:
    async def refuse(_: JobContext) -> None:
        raise InvalidInput("line 3: expected a number", message_zh="第 3 行:应为数字", line=3)

    async def break_down(_: JobContext) -> None:
        raise ValueError("secret")

    refused, broken = await put(db, "refuse"), await put(db, "break")
    async with Working(db, {"refuse": refuse, "break": break_down}):
        error = (await until(db, refused, "failed")).error
        assert error == {
            "code": "invalid_input",
            "detail": "line 3: expected a number",
            "detail_zh": "第 3 行:应为数字",
            "facts": {"line": 3},
        }
        bug = (await until(db, broken, "failed")).error
        assert bug is not None
        assert bug["code"] == "internal"
        assert "secret" not in str(bug)


async def test_job_of_a_worker_that_died_is_run_again_and_given_up_in_the_end(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "MAX_ATTEMPTS", 2)
    monkeypatch.setattr(jobs, "POLL_S", 0.05)
    started: asyncio.Queue[int] = asyncio.Queue()

    async def never_ends(context: JobContext) -> None:
        await started.put(context.job.attempts)
        await asyncio.Event().wait()

    job_id = await put(db, "never")
    for attempt in (1, 2):
        async with Working(db, {"never": never_ends}):
            async with asyncio.timeout(10):
                assert await started.get() == attempt
            # A second worker leaves alone what a living one works on.
            async with Working(db, {"never": never_ends}):
                await asyncio.sleep(0.2)
                assert started.empty()
    async with Working(db, {"never": never_ends}):
        error = (await until(db, job_id, "failed")).error
    assert error is not None
    assert error["code"] == "worker_died"


async def test_unavailable_dependency_puts_the_job_off_and_others_pass(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "POLL_S", 0.05)
    calls: list[str] = []

    async def needy(context: JobContext) -> None:
        calls.append(f"needy {context.job.attempts}")
        if context.job.attempts == 1:
            raise Unavailable("the store is away")

    async def easy(_: JobContext) -> None:
        calls.append("easy")

    first, second = await put(db, "needy"), await put(db, "easy")
    async with Working(db, {"needy": needy, "easy": easy}):
        await until(db, second, "succeeded")
        waiting = await until(db, first, "queued")
        assert waiting.note == "the store is away"
        async with db.write() as conn:
            await conn.execute("update jobs set due_at = now()")
        await until(db, first, "succeeded")
    assert calls == ["needy 1", "easy", "needy 2"]


async def test_jobs_of_other_kinds_wait_and_old_ones_are_forgotten(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "POLL_S", 0.05)

    async def easy(_: JobContext) -> None: ...

    foreign = await put(db, "foreign")
    done = await put(db, "easy")
    async with Working(db, {"easy": easy}):
        await until(db, done, "succeeded")
        async with db.write() as conn:
            await conn.execute("update jobs set finished_at = now() - interval '31 days' where id = $1", done)
        async with asyncio.timeout(10):
            while True:
                async with db.read() as conn:
                    left = await list_jobs(conn, before=None, limit=10)
                if [job.id for job in left] == [foreign]:
                    break
                await asyncio.sleep(0.02)
    assert left[0].state == "queued"


async def test_cancelled_job_fails_and_its_handler_is_told(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "PROGRESS_EVERY_S", 0.0)
    started, let_go, told = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work(context: JobContext) -> None:
        started.set()
        await let_go.wait()
        try:
            await context.progress(1, 3)
        except JobEnded:
            told.set()
            raise

    running, waiting = await put(db, "work"), await put(db, "work")
    async with Working(db, {"work": work}):
        async with asyncio.timeout(20):
            await started.wait()
        for job_id in (running, waiting):
            async with db.write() as conn:
                await cancel(conn, job_id, actor="user:wang")
        let_go.set()
        async with asyncio.timeout(20):
            await told.wait()
        last = await put(db, "work")
        assert (await until(db, last, "succeeded")).attempts == 1
    async with db.read() as conn:
        found = [await fetch_job(conn, job_id) for job_id in (running, waiting)]
    assert [(one.state, one.error and one.error["code"], one.attempts) for one in found] == [
        ("failed", "cancelled", 1),
        ("failed", "cancelled", 0),
    ]
    async with db.write() as conn:
        with pytest.raises(JobEnded):
            await cancel(conn, last, actor="user:wang")
        with pytest.raises(JobNotFound):
            await cancel(conn, "none", actor="user:wang")


async def test_work_and_the_end_of_its_job_are_one_transaction(db: Database) -> None:
    async def work(context: JobContext) -> Mapping[str, Any]:
        async with context.db.write() as conn:
            await conn.execute("insert into works values ($1)", context.job.id)
            if context.job.payload["cancelled"]:
                async with context.db.write() as other:
                    await cancel(other, context.job.id, actor="user:wang")
            await context.finish(conn, {"made": 1})
        return {"made": 2}  # the first word counts

    async with db.write() as conn:
        await conn.execute("create table works (job_id text)")
    async with Working(db, {"work": work}):
        cancelled, done = await put(db, "work", cancelled=True), await put(db, "work", cancelled=False)
        found = await until(db, done, "succeeded", "failed")
        assert (found.state, found.result) == ("succeeded", {"made": 1})
        assert (await until(db, cancelled, "failed")).error is not None
    async with db.read() as conn:
        assert [row["job_id"] for row in await conn.fetch("select job_id from works")] == [done]


async def test_list_pages_from_the_youngest(db: Database) -> None:
    ids = [await put(db) for _ in range(3)]
    async with db.read() as conn:
        page = await list_jobs(conn, before=None, limit=2)
        rest = await list_jobs(conn, before=page[-1].id, limit=2)
    assert [job.id for job in [*page, *rest]] == sorted(ids, reverse=True)
