"""Pulls end to end over real sockets: an HTTP API with its moods, a transfer database, a folder, and kill -9."""

import asyncio
import base64
import contextlib
import gzip
import hashlib
import hmac
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

import asyncpg
import httpx
import orjson
import pytest

from libs.common.bus import open_bus, topics
from libs.common.bus.port import Bus, StartAt
from libs.common.clock import SystemClock
from libs.common.settings import CommonSettings
from libs.common.tokens import KeyRing
from libs.fieldsim.sc.httpserver import HttpServer, Reply, Request
from services.ingest.worker import pulls as worker
from tests.integration.ingest.conftest import SITE, RunningIngest, quick, running, until
from tests.integration.ingest.test_ingest_takeover import process

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

HEAD = """\
schema: pull/1
every_s: 1
device: {field: meter}
time: {field: at}
points:
  - {name: voltage_a, field: ua, unit: V}
  - {name: active_power_total, field: p, unit: W}
"""
HMAC = """\
kind: rest
path: /v1/data
query: {begin: "{since}", end: "{until}", page: "{page}", size: "{size}"}
items: data.list
ok: {field: code, value: 0}
paging: {kind: page, size: 10}
watermark: {field: updated, overlap_s: 3600, initial_s: 7200}
auth:
  kind: hmac
  text: "{method}\\n{path}\\n{query}\\n{timestamp}\\n{nonce}"
  headers: {x-key: "{key}", x-time: "{timestamp}", x-nonce: "{nonce}", x-sign: "{signature}"}
  encoding: base64
"""
OAUTH = """\
kind: rest
path: /v2/data
method: POST
body: {cursor: "{cursor}", count: "{size}"}
items: rows
paging: {kind: cursor, size: 10, next: next}
auth: {kind: oauth2, token_url: /token, scope: read}
"""
SQL = """\
kind: postgresql
sql: select id, meter, at, ua, p from readings where id > $1 order by id limit $2
limit: {limit}
watermark: {{column: id, type: integer, initial: 0, overlap: 20}}
"""


class Api:
    """Somebody's platform: signed pages, tokens that are taken back, trouble when it is ordered."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.server = HttpServer(self._answer)
        self.trouble: list[Reply] = []
        self.tokens: set[str] = set()
        self.calls: Counter[str] = Counter()
        self.findings: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    async def _answer(self, request: Request) -> Reply:
        self.calls[request.path] += 1
        if self.trouble:
            return self.trouble.pop(0)
        match request.path:
            case "/v1/data":
                return self._signed_page(request)
            case "/token":
                return self._token(request)
            case "/v2/data":
                return self._cursor_page(request)
            case _:
                return Reply(404)

    def _signed_page(self, request: Request) -> Reply:
        asked = dict(parse_qsl(request.query))
        headers = request.headers
        text = f"GET\n/v1/data\n{request.query}\n{headers.get('x-time')}\n{headers.get('x-nonce')}"
        digest = hmac.new(b"s3cret", text.encode(), hashlib.sha256).digest()
        if headers.get("x-key") != "k" or headers.get("x-sign") != base64.b64encode(digest).decode():
            self.findings.append("signature")
            return _json({"code": 9, "msg": "signature"})
        begin, end = datetime.fromisoformat(asked["begin"]), datetime.fromisoformat(asked["end"])
        found = [row for row in self.rows if begin <= datetime.fromisoformat(row["updated"]) <= end]
        page, size = int(asked["page"]), int(asked["size"])
        return _json({"code": 0, "data": {"list": found[(page - 1) * size : page * size]}})

    def _token(self, request: Request) -> Reply:
        form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        if (form.get("client_id"), form.get("client_secret"), form.get("scope")) != ("me", "s3cret", "read"):
            return Reply(401)
        token = f"token-{len(self.tokens)}"
        self.tokens = {token}
        return _json({"access_token": token, "expires_in": 3600})

    def _cursor_page(self, request: Request) -> Reply:
        if request.headers.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
            return Reply(401)
        asked = orjson.loads(request.body)
        start = int(asked["cursor"] or 0)
        rows = self.rows[start : start + asked["count"]]
        more = start + len(rows) < len(self.rows)
        return _json({"rows": rows, "next": str(start + len(rows)) if more else None})


def _json(payload: Any) -> Reply:
    return Reply(body=orjson.dumps(payload), content_type="application/json")


def row(number: int, when: datetime, **changed: Any) -> dict[str, Any]:
    return {"meter": "M-1", "at": when.isoformat(), "updated": when.isoformat(), "ua": 200 + number / 10, "p": 1500,
            "id": number, **changed}  # fmt: skip


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    found = Api()
    await found.server.start()
    yield found
    await found.server.stop()


def prepare(folder: Path, monkeypatch: pytest.MonkeyPatch, **files: str) -> None:
    """Write pull files and secrets, and set what an operator sets."""
    quick(monkeypatch)
    monkeypatch.setattr(worker, "FIRST_PAUSE_S", 0.05)
    (folder / "pulls").mkdir()
    (folder / "drop").mkdir()
    for name, text in files.items():
        (folder / "pulls" / f"{name}.yaml").write_text(HEAD + text)
    (folder / "secrets").mkdir(mode=0o700)
    monkeypatch.setenv("WATTRING_INGEST__PULLS__FOLDERS", f'["{folder}/pulls"]')
    monkeypatch.setenv("WATTRING_INGEST__PULLS__DROP_DIRS", f'["{folder}/drop"]')
    monkeypatch.setenv("WATTRING_INGEST__PULLS__LEASE_S", "2")
    monkeypatch.setenv("WATTRING_INGEST__OUTGOING_ALLOWED", '["127.0.0.0/8"]')
    secret(folder, "api", key="k", secret="s3cret", client_id="me", client_secret="s3cret")


def secret(folder: Path, name: str, **values: str) -> None:
    (folder / "secrets" / name).write_text("\n".join(f"{key}={value}" for key, value in values.items()))
    (folder / "secrets" / name).chmod(0o600)


async def create(ingest: RunningIngest, kind: str, endpoint: str, **settings: Any) -> None:
    await ingest.create("/api/v1/sites/site-1", SITE)
    await ingest.create(
        "/api/v1/lines/source-1",
        {"name": "Source", "kind": kind, "endpoint": endpoint, "credentials_ref": "api", "settings": settings},
    )
    await meter(ingest, "meter-1", "M-1")


async def meter(ingest: RunningIngest, device: str, address: str, line: str = "source-1") -> None:
    await ingest.create(
        f"/api/v1/devices/{device}",
        {"name": "Meter", "kind": "meter", "site": "site-1", "line": line, "address": address},
    )


async def voltages(ingest: RunningIngest) -> list[float]:
    """Return the voltages that are on the bus, each as often as it is there."""
    found = [*await ingest.messages(topics.READINGS), *await ingest.messages(topics.BACKFILL)]
    said = [one["points"]["voltage_a"] for one in found if one.get("driver") in ("pull", "file")]
    return sorted(value for value in said if value is not None)


def there(ingest: RunningIngest, numbers: Iterable[int]) -> Any:
    wanted = [200 + number / 10 for number in numbers]

    async def found() -> bool:
        return len(await voltages(ingest)) >= len(wanted)

    return found


async def rejected(ingest: RunningIngest) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (await ingest.get("/api/v1/rejected", limit=100))["items"]
    return items


async def test_an_api_is_read_page_by_page_and_what_comes_late_or_twice_is_taken_once(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, api: Api
) -> None:
    prepare(tmp_path, monkeypatch, acme=HMAC)
    async with running(postgres_url, tmp_path) as ingest:
        began = ingest.platform.clock.now() - timedelta(minutes=50)
        api.rows = [row(number, began + timedelta(minutes=number)) for number in range(25)]
        api.rows += [row(90, began, meter="stranger"), row(91, began, at="yesterday"), row(92, began, ua="x", p=None)]
        await create(ingest, "pull", api.url, file="acme")
        await until(there(ingest, range(25)), "all rows")
        api.trouble = [Reply(500), Reply(302, headers={"location": "/secret"}), Reply(drop=True), Reply(body=b"<html>")]
        api.rows.append(row(30, began + timedelta(minutes=3, seconds=30)))  # written late there, within the overlap
        api.rows.append(row(31, began + timedelta(minutes=40)))
        await until(there(ingest, range(27)), "what came late and what is new", within_s=60)
        calls = api.calls["/v1/data"]

        async def again() -> bool:
            return api.calls["/v1/data"] > calls + 4

        await until(again, "further readings")
        assert await voltages(ingest) == [200 + n / 10 for n in (*range(25), 30, 31)]
        assert api.findings == []
        assert api.calls["/secret"] == 0
        refused = await rejected(ingest)
        assert sorted((one["reason"], one["driver"]) for one in refused) == [
            ("unknown_device", "pull"), ("unreadable_time", "pull"),
        ]  # fmt: skip
        await meter(ingest, "meter-2", "stranger")
        (unknown,) = [one for one in refused if one["reason"] == "unknown_device"]

        async def replayed() -> bool:
            path = f"/api/v1/rejected/{unknown['id']}/replay"
            answer = await ingest.http.post(path, headers=ingest.headers())
            return bool(answer.json()["accepted"] == 1)

        await until(replayed, "the row of a device that is known now")
        state = await ingest.get("/api/v1/lines/source-1/progress")
        assert state["rows_refused"] == 2
        assert state["failing_since"] is None
        assert datetime.fromisoformat(state["watermark"]) == began + timedelta(minutes=40)


async def test_a_token_that_is_taken_back_is_asked_for_again_and_cursors_lead_to_the_end(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, api: Api
) -> None:
    prepare(tmp_path, monkeypatch, acme=OAUTH)
    async with running(postgres_url, tmp_path) as ingest:
        now = ingest.platform.clock.now() - timedelta(minutes=10)
        api.rows = [row(number, now + timedelta(seconds=number)) for number in range(35)]
        bare = {
            "name": "Bare",
            "kind": "pull",
            "endpoint": api.url,
            "credentials_ref": "api",
            "settings": {"file": "acme"},
        }
        await ingest.create("/api/v1/lines/source-0", bare)
        await create(ingest, "pull", api.url, file="acme")
        await until(there(ingest, range(35)), "all rows")
        answer = await ingest.http.get("/api/v1/lines/source-0/progress", headers=ingest.headers())
        assert (answer.status_code, answer.json()["code"]) == (404, "never_read")  # all its rows would be strangers'
        assert await rejected(ingest) == []
        api.tokens.clear()
        api.rows.append(row(35, now + timedelta(minutes=1)))
        await until(there(ingest, range(36)), "the new row with a new token")
        assert await voltages(ingest) == [200 + number / 10 for number in range(36)]
        assert api.calls["/token"] == 2


async def test_a_source_inside_is_not_called_unless_allowed_and_a_missing_file_is_named(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, api: Api
) -> None:
    prepare(tmp_path, monkeypatch, acme=HMAC)
    monkeypatch.setenv("WATTRING_INGEST__OUTGOING_ALLOWED", "[]")
    async with running(postgres_url, tmp_path) as ingest:
        await create(ingest, "pull", api.url, file="acme")

        def says(text: str) -> Any:
            async def found() -> Any:
                answer = await ingest.http.get("/api/v1/lines/source-1/progress", headers=ingest.headers())
                return answer.status_code == 200 and text in (answer.json().get("detail") or "")

            return found

        await until(says("127.0.0.1 is an address inside"), "the refusal")
        assert not api.calls
        line = {"name": "Source", "kind": "pull", "endpoint": api.url, "settings": {"file": "nobody"}}
        answer = await ingest.http.get("/api/v1/lines/source-1", headers=ingest.headers())
        etag = {"if-match": answer.headers["etag"]}
        assert (await ingest.put("/api/v1/lines/source-1", line, **etag)).status_code == 200
        await until(says("there is no pull file 'nobody'"), "the missing file", within_s=30)

        async def told() -> bool:
            found = await ingest.messages(topics.CONDITIONS)
            return any(one["kind"] == "line_down" and one["subject"] == "source-1" for one in found)

        await until(told, "the condition", within_s=30)


@asynccontextmanager
async def transfer_database(url: str) -> AsyncIterator[tuple[str, dict[str, str], asyncpg.Connection]]:
    """Offer a database over TCP: its endpoint, its secret, and a connection to fill it."""
    parts = urlsplit(url)
    socket = dict(parse_qsl(parts.query)).get("host")
    conn = await asyncpg.connect(url, timeout=30)
    await conn.execute("create table readings (id bigint primary key, meter text, at timestamptz, ua numeric, p float)")

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(f"{socket}/.s.PGSQL.5432")
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(pipe(reader, back), pipe(there, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1] if socket else parts.port
    host = "127.0.0.1" if socket else parts.hostname
    credentials = {"user": unquote(parts.username or ""), "password": unquote(parts.password or "")}
    try:
        yield f"postgresql://{host}:{port}{parts.path}", credentials, conn
    finally:
        server.close()
        await conn.close()


async def fill(conn: asyncpg.Connection, numbers: Iterable[int], began: datetime) -> None:
    await conn.executemany(
        "insert into readings values ($1, 'M-1', $2, $3, 1500)",
        [(number, began + timedelta(seconds=number), 200 + number / 10) for number in numbers],
    )


async def test_a_transfer_database_is_read_only_and_rows_that_are_committed_late_are_found(
    postgres_url: str, empty_postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(
        tmp_path, monkeypatch, transit=SQL.format(limit=10),
        evil=SQL.format(limit=10).replace(
            "select id, meter, at, ua, p from readings where id > $1 order by id limit $2",
            "delete from readings where id > $1 and id < $2 returning *",
        ),
    )  # fmt: skip
    async with (
        transfer_database(empty_postgres_url) as (endpoint, credentials, conn),
        running(postgres_url, tmp_path) as ingest,
    ):
        secret(tmp_path, "api", **credentials)
        began = ingest.platform.clock.now() - timedelta(hours=1)
        await fill(conn, [number for number in range(1, 61) if number != 57], began)
        await create(ingest, "pull", endpoint, file="transit", tls="prefer")
        await until(there(ingest, range(59)), "all rows, ten at a time with an overlap of twenty")
        await fill(conn, [57], began)  # its transaction took longer than those behind it
        await fill(conn, range(61, 65), began)
        await until(there(ingest, range(64)), "the one committed late and the new ones")
        assert await voltages(ingest) == [200 + number / 10 for number in range(1, 65)]
        await ingest.create(
            "/api/v1/lines/source-2",
            {"name": "Evil", "kind": "pull", "endpoint": endpoint, "credentials_ref": "api",
             "settings": {"file": "evil"}},
        )  # fmt: skip
        await meter(ingest, "meter-2", "M-2", line="source-2")

        async def refused() -> bool:
            answer = await ingest.http.get("/api/v1/lines/source-2/progress", headers=ingest.headers())
            return answer.status_code == 200 and "read-only transaction" in (answer.json()["detail"] or "")

        await until(refused, "a query that writes to be refused")
        assert await conn.fetchval("select count(*) from readings") == 64


async def test_dropped_files_are_taken_moved_and_reported_each_in_its_way(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path, monkeypatch)
    folder = tmp_path / "drop"
    now = SystemClock().now() - timedelta(minutes=30)

    def line(number: int, **changed: Any) -> str:
        time = (now + timedelta(seconds=number)).isoformat()
        return json.dumps(
            {"device_id": "meter-1", "source_time": time, "points": {"voltage_a": 200 + number / 10}, **changed}
        )

    (folder / "one.jsonl").write_text("\n".join(line(number) for number in range(5)))
    packed = gzip.compress("\n".join([line(5), "no json", line(6, device_id="stranger"), line(7)]).encode())
    (folder / "two.ndjson.gz").write_bytes(packed)

    def table(*numbers: int) -> str:
        rows = (f"M-1,{(now + timedelta(seconds=n)).isoformat()},{200 + n / 10}" for n in numbers)
        return "\n".join(["device_id,source_time,voltage_a", *rows])

    (folder / "three.csv").write_text(table(8, 9))
    (folder / "bad.csv").write_text("what,is,this\n1,2,3\n")
    (folder / "a-nul.csv").write_text("device_id,source_time,volt\0age\n1,2,3\n")
    chinese = os.fsdecode("电表.csv".encode("gb18030"))  # as a machine with Windows names it
    (folder / chinese).write_text(table(10))
    (folder / "cut.jsonl.gz").write_bytes(packed[:-10])
    (folder / ".hidden.csv").write_text("x")
    (folder / "coming.csv.part").write_text("x")
    (tmp_path / "outside.csv").write_text(table(11))
    (folder / "link.csv").symlink_to(tmp_path / "outside.csv")
    async with running(postgres_url, tmp_path) as ingest:
        await create(ingest, "file", str(folder), settle_s=0.2, every_s=0.2)

        async def moved() -> bool:
            done, bad = folder / "done", folder / "bad"
            return {path.name for path in done.glob("*[!n]")} >= {
                "one.jsonl",
                "two.ndjson.gz",
                "three.csv",
                chinese,
            } and {path.name for path in bad.glob("*")} >= {"bad.csv", "cut.jsonl.gz", "a-nul.csv"}

        await until(moved, "the files to be moved", within_s=40)
        await until(there(ingest, range(10)), "the reports")
        assert await voltages(ingest) == [200 + number / 10 for number in (0, 1, 2, 3, 4, 5, 7, 8, 9, 10)]
        report = orjson.loads((folder / "done" / "two.ndjson.gz.report.json").read_bytes())
        assert (report["outcome"], report["lines"]) == ("taken", {"taken": 2, "refused": 2})
        assert [(one["line"], one["reason"]) for one in report["problems"]] == [
            (2, "undecodable"),
            (3, "unknown_device"),
        ]
        assert orjson.loads((folder / "bad" / "bad.csv.report.json").read_bytes())["problems"]
        assert sorted(path.name for path in folder.iterdir() if path.is_file()) == [
            ".hidden.csv", "coming.csv.part", "link.csv",
        ]  # fmt: skip
        details = {one["detail"] for one in await rejected(ingest)}
        assert any(detail.startswith("two.ndjson.gz, line 2: ") for detail in details)
        # The same file again: moved, and nothing of it is taken twice.
        (folder / "again.jsonl").write_text("\n".join(line(number) for number in range(5)))

        async def moved_again() -> bool:
            return (folder / "done" / "again.jsonl").exists()

        await until(moved_again, "the file that was dropped again", within_s=30)
        assert len(await voltages(ingest)) == 10


async def test_checksums_are_compared_and_what_was_wrong_with_a_file_may_be_right_the_next_time(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path, monkeypatch)
    folder = tmp_path / "drop"
    now = SystemClock().now() - timedelta(minutes=30)

    def table(number: int, device: str = "M-1") -> str:
        time = (now + timedelta(seconds=number)).isoformat()
        return f"device_id,source_time,voltage_a,message_id\n{device},{time},{200 + number / 10},第{number}份\n"

    def drop(name: str, body: bytes, **checksums: str) -> None:
        for algorithm, text in checksums.items():
            (folder / f"{name}.{algorithm}").write_text(text)
        (folder / name).write_bytes(body)

    def problems(name: str) -> list[dict[str, Any]]:
        report = orjson.loads((folder / "bad" / f"{name}.report.json").read_bytes())
        return [{key: one[key] for key in one if key in ("field", "reason")} for one in report["problems"]]

    (folder / "done").write_text("a file stands where a folder has to be")
    bom, gbk = table(0).encode("utf-8-sig"), table(1).encode("gb18030")
    drop("bom.csv", bom, sha256=f"{hashlib.sha256(bom).hexdigest()}  bom.csv\n")
    drop("gbk.csv", gbk, md5=hashlib.md5(gbk, usedforsecurity=False).hexdigest().upper())
    damaged = table(2).encode()
    drop("damaged.csv", damaged, sha256=hashlib.sha256(b"as it was sent").hexdigest())
    early = table(3, "M-2").encode()
    drop("early.csv", early, sha256=hashlib.sha256(early).hexdigest())
    drop("alone.csv", table(4).encode())  # its checksum is still to come
    async with running(postgres_url, tmp_path) as ingest:
        await create(ingest, "file", str(folder), settle_s=0.2, every_s=0.2, checksum="required")

        async def blocked() -> bool:
            answer = await ingest.http.get("/api/v1/lines/source-1/progress", headers=ingest.headers())
            return answer.status_code == 200 and answer.json()["failing_since"] is not None

        await until(blocked, "the folder that cannot be used to be told", within_s=60)
        (folder / "done").unlink()

        def lie_in(**wanted: str) -> Any:
            async def there() -> bool:
                return all((folder / place / f"{name}.csv").exists() for name, place in wanted.items())

            return there

        everywhere = lie_in(bom="done", gbk="done", damaged="bad", early="bad")
        await until(everywhere, "each file where it belongs", within_s=60)
        assert problems("damaged.csv") == [{"field": "checksum"}]
        assert problems("early.csv") == [{"reason": "unknown_device"}]
        assert (folder / "alone.csv").exists()
        assert await voltages(ingest) == [200.0, 200.1]
        # What was wrong was the checksum, the missing device, and that nothing was there yet.
        await meter(ingest, "meter-2", "M-2")
        for name in ("damaged", "early"):
            (folder / "bad" / f"{name}.csv.report.json").unlink()
            (folder / "bad" / f"{name}.csv").rename(folder / f"{name}.csv")
        for name, number in (("damaged", 2), ("alone", 4)):
            (folder / f"{name}.csv.sha256").write_text(hashlib.sha256(table(number).encode()).hexdigest())
        (folder / "bad" / "early.csv.sha256").rename(folder / "early.csv.sha256")
        await until(lie_in(damaged="done", early="done", alone="done"), "the others", within_s=60)
        await until(there(ingest, range(5)), "all reports")
        assert await voltages(ingest) == [200 + number / 10 for number in range(5)]
        assert not [path.name for path in folder.iterdir() if path.is_file()]
        assert len(list((folder / "done").glob("*.csv.*[0-9]"))) == 5  # their checksums beside them


async def test_a_folder_that_no_operator_gave_us_is_not_looked_into(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path, monkeypatch)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.jsonl").write_text("{}")
    async with running(postgres_url, tmp_path) as ingest:
        await create(ingest, "file", f"{tmp_path}/drop/../outside", settle_s=0.1, every_s=0.1)

        async def refused() -> bool:
            answer = await ingest.http.get("/api/v1/lines/source-1/progress", headers=ingest.headers())
            return answer.status_code == 200 and "DROP_DIRS" in (answer.json()["detail"] or "")

        await until(refused, "the refusal")
        assert [path.name for path in outside.iterdir()] == ["a.jsonl"]
        for sites, status in ((("site-1",), 200), (("site-2",), 404)):  # wrong lines name devices of its sites
            limited = ingest.headers(scopes=("ingest:read",), sites=sites)
            answer = await ingest.http.get("/api/v1/lines/source-1/progress", headers=limited)
            assert answer.status_code == status, answer.text


async def test_nothing_is_lost_or_doubled_over_kill_9_at_any_moment(
    postgres_url: str, empty_postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle of a database and of a file, again and again; the same instance goes on each time."""
    prepare(tmp_path, monkeypatch, transit=SQL.format(limit=40))
    clock = SystemClock()
    KeyRing.create(tmp_path / "keys")
    settings = CommonSettings(data_dir=tmp_path, database={"url": postgres_url})
    bus = open_bus(settings, clock)
    await bus.start()
    await bus.ensure_topics(topics.specs(settings.bus))
    rows, lines, began = 2_000, 4_000, clock.now() - timedelta(hours=3)
    async with transfer_database(empty_postgres_url) as (endpoint, credentials, conn):
        secret(tmp_path, "api", **credentials)
        await fill(conn, range(1, rows + 1), began)
        ours = await asyncpg.connect(postgres_url, timeout=30)

        midway: list[int] = []

        def taken(least: int) -> Any:
            async def found() -> bool:
                done: int = await ours.fetchval("select coalesce(sum(rows_taken), 0)::int from ingest.pulls")
                return done >= least

            return found

        for number, least in enumerate((300, 2_100, rows + lines)):
            async with process(postgres_url, tmp_path, "one") as (ingest, http):
                if number == 0:
                    await _create_both(http, KeyRing.open(tmp_path / "keys", clock), endpoint, tmp_path / "drop")
                    _drop(tmp_path / "drop" / "archive.jsonl", lines, began)
                await until(taken(least), f"{least} rows and lines", within_s=60, every_s=0.02)
                if least < rows + lines:
                    ingest.send_signal(signal.SIGKILL)
                    ingest.wait(20)
                    midway.append(await ours.fetchval("select sum(rows_taken)::int from ingest.pulls"))
                    continue

                async def stored() -> bool:
                    kept: int = await ours.fetchval("select count(*) from ingest.readings")
                    return kept >= rows + lines and (tmp_path / "drop" / "done" / "archive.jsonl").exists()

                await until(stored, "the history", within_s=60)
        assert midway[0] < rows + lines  # at least the first came in the middle
        assert await ours.fetchval("select count(*) from ingest.readings") == rows + lines
        assert await ours.fetchval("select sum(rows_taken) from ingest.pulls") == rows + lines
        await ours.close()
    identities = await _on_the_bus(bus)
    await bus.stop()
    assert len(identities) == rows + lines  # events; the relay may publish one of them twice, under its own id
    assert len(set(identities.values())) == rows + lines  # and no report is two events


def _drop(path: Path, lines: int, began: datetime) -> None:
    text = "\n".join(
        json.dumps({"device_id": "meter-2", "source_time": (began + timedelta(seconds=number)).isoformat(),
                    "points": {"voltage_b": number / 100}})
        for number in range(lines)
    )  # fmt: skip
    path.with_suffix(".part").write_text(text)
    path.with_suffix(".part").rename(path)


async def _create_both(http: httpx.AsyncClient, keys: KeyRing, endpoint: str, folder: Path) -> None:
    token = keys.sign_token("cli", audience="ingest", scopes=("*:*",), ttl_s=300)

    headers = {"authorization": f"Bearer {token}"}

    async def put(path: str, body: dict[str, Any], **more: str) -> None:
        response = await http.put(f"/api/v1/{path}", json=body, headers={**headers, **more})
        assert response.status_code in (200, 201), response.text

    await put("sites/site-1", SITE)
    for line, device, kind, where, own in (
        ("source-1", "meter-1", "pull", endpoint, {"file": "transit"}),
        ("folder-1", "meter-2", "file", str(folder), {"settle_s": 0.1, "every_s": 0.1}),
    ):
        source: dict[str, Any] = {"name": "S", "kind": "manual", "endpoint": "-"}
        await put(f"lines/{line}", source)
        await put(f"devices/{device}", {"name": "M", "kind": "meter", "site": "site-1", "line": line, "address": "M-1"})
        # What it really is comes last, so that no row is a stranger's.
        source |= {"kind": kind, "endpoint": where, "credentials_ref": "api", "settings": own}
        etag = (await http.get(f"/api/v1/lines/{line}", headers=headers)).headers["etag"]
        await put(f"lines/{line}", source, **{"if-match": etag})


async def _on_the_bus(bus: Bus) -> dict[str, tuple[str, str]]:
    """Return device and time of every event, by its id."""
    found: dict[str, tuple[str, str]] = {}
    async with bus.tail((topics.READINGS, topics.BACKFILL), StartAt(beginning=True)) as reader:
        ends = await reader.end_offsets()
        while any(reader.positions().get(where, 0) < end for where, end in ends.items()):
            for message in await reader.fetch(max_messages=1000, timeout_s=1.0):
                value = orjson.loads(message.value or b"{}")
                if value.get("driver") in ("pull", "file"):
                    event_id = dict(message.headers)["ce_id"].decode()
                    found[event_id] = (value["device_id"], value["source_time"])
    return found
