"""Sources of pulls alone: an HTTP API behind uvicorn in its ways of paging and signing in, and a real PostgreSQL."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import pytest
import uvicorn
from fastapi import FastAPI, Request, Response

from libs.common.clock import SystemClock
from libs.common.contracts.registry import Line, LineKind
from libs.common.errors import InvalidInput
from libs.common.ids import LineId
from libs.common.outgoing import AddressGuard
from libs.common.secretstore import SecretStore
from libs.common.settings import CommonSettings
from libs.suite import pulltest
from libs.suite.api import Refused
from libs.suite.words import words_for
from services.ingest.domain.pull import Mark, MarkKind
from services.ingest.domain.pull_source import RestSource, SqlSource
from services.ingest.drivers.means import Means
from services.ingest.drivers.pull_port import Page, PullFailed, PullSource
from services.ingest.drivers.pull_rest import RestPull
from services.ingest.drivers.pull_sql import SqlPull
from services.ingest.files.pull_file import parse_pull
from tests.integration.ingest.test_ingest_pulls import secret, transfer_database
from tests.unit.ingest.ingest_fakes import MEANS

pytestmark = [pytest.mark.integration]

HEAD = """\
schema: pull/1
every_s: 60
device: {field: meter}
time: {field: at, zone: Asia/Shanghai}
points: [{name: voltage_a, field: ua, unit: V}]
"""
REST = HEAD + "kind: rest\npath: /rows\n"
HIDDEN = "s3cret-of-theirs"
ENGLISH = words_for("en")


def line(endpoint: str, **settings: str) -> Line:
    return Line(
        id=LineId("source-1"), name="S", version=1, valid_from=datetime(2025, 1, 1, tzinfo=UTC), changed_by="test",
        kind=LineKind.PULL, endpoint=endpoint, credentials_ref="api", settings=settings,
    )  # fmt: skip


def means(folder: Path, *allowed: str) -> Means:
    return replace(MEANS, secrets=SecretStore(folder / "secrets"), guard=AddressGuard(allowed), folder=folder)


async def read(source: PullSource, mark: Mark | None = None) -> tuple[list[Any], Page]:
    """Return the rows of one reading, and its last page."""
    rows: list[Any] = []
    async for page in source.pages(mark):
        rows += page.rows
    return rows, page


ROWS = [{"meter": "M-1", "at": f"2026-06-01T08:00:{n:02d}", "ua": 220 + n} for n in range(25)]


def application(seen: list[Request]) -> FastAPI:
    app = FastAPI()

    @app.get("/rows")
    async def rows(request: Request, response: Response, offset: int = 0, size: int = 100) -> list[dict[str, Any]]:
        seen.append(request)
        if offset + size < len(ROWS):
            following = f"/rows?offset={offset + size}&size={size}"
            response.headers["link"] = f'<{following}>; rel="next", </rows>; rel="first"'
        return ROWS[offset : offset + size]

    @app.get("/elsewhere")
    async def elsewhere(response: Response) -> list[dict[str, Any]]:
        response.headers["link"] = '<http://10.0.0.1/rows>; rel="next"'
        return ROWS[:1]

    @app.get("/busy")
    async def busy() -> Response:
        return Response(status_code=429, headers={"retry-after": "7"})

    @app.get("/huge")
    async def huge() -> Response:
        return Response(b" " * (9 << 20), media_type="application/json")

    return app


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[str]:
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve([listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secrets").mkdir(mode=0o700)
    secret(tmp_path, "api", user="me", password=HIDDEN, token=HIDDEN, key=HIDDEN)
    return tmp_path


def rest(url: str, folder: Path, text: str, *allowed: str) -> RestPull:
    source = parse_pull(text, name="x", source="x").source
    assert isinstance(source, RestSource)
    return RestPull(line(url), source, SystemClock(), means(folder, *(allowed or ("127.0.0.0/8",))))


async def test_every_way_of_paging_and_of_signing_in_leads_to_all_rows(folder: Path) -> None:
    ways = {
        "auth: {kind: basic}\n": ("authorization", "Basic bWU6czNjcmV0LW9mLXRoZWlycw=="),
        "auth: {kind: bearer}\nquery: {offset: '{offset}', size: '{size}'}\npaging: {kind: offset, size: 10}\n": (
            "authorization", f"Bearer {HIDDEN}",
        ),
        "auth: {kind: header, header: X-Api-Key}\nquery: {size: '10'}\npaging: {kind: link}\n": ("x-api-key", HIDDEN),
    }  # fmt: skip
    seen: list[Request] = []
    async with serving(application(seen)) as url:
        for text, (header, value) in ways.items():
            seen.clear()
            pull = rest(url, folder, REST + text)
            rows, last = await read(pull)
            await pull.close()
            assert rows == ROWS, text
            assert (last.complete, last.mark, last.behind) == (True, None, False)
            assert [request.headers[header] for request in seen] == [value] * (3 if "paging" in text else 1)


async def test_an_api_that_leads_astray_or_is_busy_or_endless_is_a_failure_that_tells_no_secret(folder: Path) -> None:
    async with serving(application([])) as url:
        for path, extra, told in (
            ("/elsewhere", "paging: {kind: link}\n", "another server, 10.0.0.1"),
            ("/busy", "", "429"),
            ("/huge", "", "longer than"),
            ("/nothing", "items: data.list\n", "404"),
        ):
            pull = rest(url, folder, REST.replace("/rows", path) + extra + "auth: {kind: header, header: X-Api-Key}\n")
            with pytest.raises(PullFailed) as caught:
                await read(pull)
            await pull.close()
            assert told in caught.value.message
            assert HIDDEN not in f"{caught.value!r} {caught.value.message} {caught.value.message_zh}"
            if path == "/busy":
                assert caught.value.facts["retry_after_s"] == 7
        pull = rest(url, folder, REST, "10.0.0.0/8")
        with pytest.raises(PullFailed, match="is an address inside"):
            await read(pull)
        await pull.close()


async def test_a_secret_goes_nowhere_but_to_the_host_that_it_is_for(folder: Path) -> None:
    seen: list[Request] = []
    async with serving(application(seen)) as url:
        for hosts, right in (("platform.example", False), ("platform.example, 127.0.0.1", True)):
            secret(folder, "api", key=HIDDEN, host=hosts)
            pull = rest(url, folder, REST + "auth: {kind: header, header: X-Api-Key}\n")
            if right:
                await read(pull)
            else:
                with pytest.raises(InvalidInput, match=r"is for platform\.example, not for 127\.0\.0\.1"):
                    await read(pull)
            await pull.close()
            assert bool(seen) is right


SQL = HEAD + "kind: postgresql\nlimit: 10\n"


def sql(endpoint: str, folder: Path, text: str, **settings: str) -> SqlPull:
    file = parse_pull(SQL + text, name="x", source="x")
    assert isinstance(file.source, SqlSource)
    where = line(endpoint, **settings)
    return SqlPull(where, file.source, file.rows.time.zone, SystemClock(), means(folder, "127.0.0.0/8", "::1"))


@pytest.mark.postgres
async def test_watermarks_of_every_type_lose_no_row_where_many_share_one_or_lie_in_the_future(
    empty_postgres_url: str, folder: Path
) -> None:
    async with transfer_database(empty_postgres_url) as (endpoint, credentials, conn):
        secret(folder, "api", **credentials)
        await conn.execute("create table t (id bigint, batch int, at timestamptz, local timestamp, code text)")
        await conn.execute(
            """
            insert into t select n, n / 12, now() - interval '1 day' + n / 12 * interval '1 second',
                                 timestamp '2026-06-01 08:00:00' + n * interval '1 second', lpad(n::text, 5, '0')
              from generate_series(1, 40) n
            """
        )
        await conn.execute("insert into t values (41, 4, now() + interval '9 years', '2026-06-01 09:00:00', '00041')")
        for mark in (
            "{column: batch, type: integer, initial: -1}",  # many rows share one
            "{column: at, type: time, initial: 2025-01-01T00:00:00Z, overlap: 5}",
            "{column: local, type: local_time, initial: 2026-06-01 00:00:00}",
            "{column: code, type: text, initial: '0'}",
        ):
            column = mark[len("{column: ") :].partition(",")[0]
            select = f"sql: select * from t where {column} > $1 order by {column} limit $2\nwatermark: {mark}\n"
            pull = sql(endpoint, folder, select)
            found: set[int] = set()
            reached: Mark | None = None
            for _ in range(20):
                rows, last = await read(pull, reached)
                found |= {row["id"] for row in rows}
                reached = last.mark
                if not last.behind:
                    break
            assert found == set(range(1, 42)), mark
            assert not last.behind
            assert reached is not None
            if column == "at":  # what lies in the future does not stand in the way of what is to come
                assert reached.kind is MarkKind.TIME
                assert isinstance(reached.value, datetime)
                assert reached.value <= datetime.now(UTC) + timedelta(seconds=1)


@pytest.mark.postgres
async def test_a_query_is_bounded_in_rows_and_time_and_its_mistakes_are_told_without_the_password(
    empty_postgres_url: str, folder: Path
) -> None:
    async with transfer_database(empty_postgres_url) as (endpoint, credentials, conn):
        secret(folder, "api", **{"password": HIDDEN, **{k: v for k, v in credentials.items() if v}})
        await conn.execute("create table t as select n as id from generate_series(1, 100000) n")
        mark = "watermark: {column: id, type: integer, initial: 0}\n"
        heedless = sql(endpoint, folder, "sql: select * from t where id > $1 and $2 > 0 order by id\n" + mark)
        rows, last = await read(heedless)
        assert (len(rows), last.behind) == (10, True)
        for text, told in (
            ("sql: select * from t where id > $1 order by id desc limit $2\n", "order by id"),
            ("sql: select pg_sleep(600), $1::int + $2::int as id\nstatement_timeout_s: 0.2\n", "statement timeout"),
            ("sql: select $1::int + $2::int as id; drop table t\n", "multiple commands"),
            ("sql: select n from t where id > $1 limit $2\n", '"n" does not exist'),
            ("sql: select 'x' as id where $1 < 1 + $2\n", "expected a watermark of type integer"),
        ):
            with pytest.raises(PullFailed) as caught:
                await read(sql(endpoint, folder, text + mark))
            assert told in caught.value.message, caught.value.message
            assert HIDDEN not in f"{caught.value!r} {caught.value.message_zh}"
        assert await conn.fetchval("select count(*) from t") == 100_000
        with pytest.raises(InvalidInput, match="without user and password") as wrong:
            sql(f"postgresql://me:{HIDDEN}@127.0.0.1/x", folder, "sql: select $1, $2\n" + mark)
        assert HIDDEN not in repr(wrong.value)
        with pytest.raises(PullFailed):
            await read(sql("postgresql://127.0.0.1:1/x", folder, "sql: select $1, $2\n" + mark))


async def test_a_pull_file_is_tried_from_the_command_line_and_nothing_is_taken(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATTRING_INGEST__SECRETS_DIR", str(folder / "secrets"))
    monkeypatch.setenv("WATTRING_INGEST__OUTGOING_ALLOWED", '["127.0.0.0/8"]')
    file = folder / "acme.yaml"
    file.write_text(REST + "auth: {kind: header, header: X-Api-Key}\nquery: {size: '10'}\npaging: {kind: link}\n")
    seen: list[Request] = []
    async with serving(application(seen)) as url:

        def tried(rows: int) -> tuple[bool, list[str]]:
            said: list[str] = []
            source = pulltest.Source(url, "api")
            settings = CommonSettings(data_dir=folder)
            return pulltest.try_pull(settings, file, source, rows=rows, words=ENGLISH, say=said.append), said

        good, said = await asyncio.to_thread(tried, 2)
        assert good
        assert said == [
            "good     M-1                  2026-06-01T00:00:00+00:00  voltage_a=220",
            "good     M-1                  2026-06-01T00:00:01+00:00  voltage_a=221",
            "10 rows on the first page, 2 reports shown, 0 of them refused",
        ]
        assert len(seen) == 1
        file.write_text(file.read_text().replace("field: at, zone: Asia/Shanghai", "field: when"))
        good, said = await asyncio.to_thread(tried, 1)
        assert not good
        assert said[0].startswith("refused  unreadable_time: when: ")


def test_pulls_are_listed_with_what_came_of_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    state = {
        "rows_taken": 7, "rows_refused": 1, "watermark": 41, "last_success_at": "2026-06-01T00:00:00Z",
        "failing_since": "2026-06-02T00:00:00Z", "detail": "answered 500", "detail_zh": "应答状态 500",
    }  # fmt: skip
    answers = {
        "lines": {"items": [{"id": name, "kind": kind} for name, kind in (("p", "pull"), ("t", "tcp"), ("f", "file"))]},
        "lines/p/progress": state,
        "lines/f/progress": Refused("never", status=404),
    }

    class Api:
        def __enter__(self) -> Self:
            return self

        def __exit__(self, *exc: object) -> None: ...

        def get(self, path: str, **params: Any) -> Any:
            answer = answers[path]
            if isinstance(answer, Refused):
                raise answer
            return answer

    monkeypatch.setattr(pulltest, "LocalApi", lambda settings: Api())
    said: list[str] = []
    pulltest.list_pulls(CommonSettings(data_dir=tmp_path), words_for("zh"), said.append)
    assert "41" in said[0]
    assert "已取 7,被拒 1" in said[0]
    assert "应答状态 500" in said[1]
    assert said[2].split() == ["f", "尚未读取"]
