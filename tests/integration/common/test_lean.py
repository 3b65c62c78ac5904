"""A lean door answers what is plainly its own, and whatever else comes is answered by the application behind it."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Request, Response
from prometheus_client import REGISTRY

from libs.common import errors
from libs.common.bus.port import Bus
from libs.common.errors import Bilingual
from libs.common.health import Health
from libs.common.lean import LeanDoor, LeanRequest
from libs.common.listening import Listener, Serving
from libs.common.log import current_context
from libs.common.serving import Platform
from libs.common.settings import CommonSettings
from libs.common.testing.clock import FakeClock
from libs.common.tokens import KeyRing
from libs.common.tracing import current_trace_id
from libs.common.web import create_app, open_lean_door, require

pytestmark = pytest.mark.integration

LIMIT = 100
SERVICE = "ingest"
TRACE = "0af7651916cd43dd8448eb211c80319c"


class World:
    """An application with a lean door, and the same path behind it."""

    def __init__(self, folder: Path) -> None:
        KeyRing.create(folder)
        self.place = Path(folder / "s")
        self.clock = FakeClock(datetime(2026, 3, 1, tzinfo=UTC))
        self.keys = KeyRing.open(folder, self.clock)
        bus: Bus = None  # type: ignore[assignment]  # nothing here publishes
        self.health = Health(self.clock)
        self.health.starting = None
        platform = Platform(CommonSettings(data_dir=folder), self.clock, bus, self.keys)
        self.app: FastAPI = create_app(SERVICE, platform, self.health, title="Lean")
        self.lean: list[LeanRequest] = []
        self.usual: list[bytes] = []
        self.facts: dict[str, Any] = {}
        self.raises: BaseException | None = None
        self.safe: asyncio.Future[None] | None = None
        """What the lean door hands back."""

        @self.app.post("/push/{line}/{token}", dependencies=[Depends(require("ingest:push"))])
        async def push(request: Request, line: str, token: str) -> Response:
            self.usual.append(await request.body())
            if self.raises is not None:
                raise self.raises
            return Response(status_code=200)

    def open(self, **more: Any) -> None:
        path = re.compile(r"/push/(?P<line>[^/]+)/(?P<token>[^/]+)")
        open_lean_door(self.app, LeanDoor(path, "ingest:push", LIMIT, self._take, **more))

    def _take(self, request: LeanRequest) -> asyncio.Future[None] | None:
        self.lean.append(request)
        self.facts = {"request_id": current_context()["request_id"], "trace": current_trace_id()}
        if self.raises is not None:
            raise self.raises
        return self.safe

    @asynccontextmanager
    async def served(self) -> AsyncIterator[Serving]:
        server = await Serving.start(Listener(self.app, uds=self.place))
        try:
            yield server
        finally:
            await server.stop(5.0)

    def headers(self, *scopes: str, subject: str = "10.0.0.9") -> dict[str, str]:
        kind: Any = "service"
        token = self.keys.sign_token("gateway", audience=SERVICE, subject=subject, kind=kind, scopes=list(scopes))
        return {"authorization": f"Bearer {token}"}

    async def post(self, path: str = "/push/line-1/abc", method: str = "POST", **more: Any) -> httpx.Response:
        arguments: dict[str, Any] = {"content": b"{}", "headers": self.headers("ingest:push"), **more}
        transport = httpx.AsyncHTTPTransport(uds=str(self.place))
        async with self.served(), httpx.AsyncClient(transport=transport, base_url="http://ingest") as client:
            return await client.request(method, path, **arguments)

    def request(self, body: bytes = b"{}", *, length: int | None = None, **headers: str) -> bytes:
        """Return a request as it stands on the wire."""
        given = {"host": "ingest", "content-length": str(len(body) if length is None else length),
                 **self.headers("ingest:push"), **headers}  # fmt: skip
        head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        return f"POST /push/line-1/abc HTTP/1.1\r\n{head}\r\n".encode() + body

    @asynccontextmanager
    async def called(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection without a client's library."""
        reader, writer = await asyncio.open_unix_connection(str(self.place))
        try:
            yield reader, writer
        finally:
            writer.close()
            await writer.wait_closed()


def said_in(answer: httpx.Response) -> dict[str, str]:
    """Return the headers of an answer but for the second in which it was given."""
    return {name: value for name, value in answer.headers.items() if name != "date"}


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Return status and body of the next answer."""
    async with asyncio.timeout(10.0):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().splitlines() if line.startswith(b"content-length:"))
        return int(head.split()[1]), await reader.readexactly(int(length.partition(b":")[2]))


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(10.0):
        while not holds():  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.005)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def counted(status: int) -> float:
    labels = {"service": SERVICE, "method": "POST", "status": str(status)}
    return REGISTRY.get_sample_value("wattring_http_requests_total", labels) or 0.0


async def test_what_is_plainly_its_own_is_answered_without_the_application(world: World) -> None:
    world.open()
    before = counted(200)
    headers = {
        **world.headers("ingest:push"), "x-request-id": "abc-1", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01",
        "Signature": "s",
    }  # fmt: skip
    answer = await world.post(headers=headers)
    assert (answer.status_code, answer.content, answer.headers["x-request-id"]) == (200, b"", "abc-1")
    (taken,) = world.lean
    assert (taken.parts, taken.body, taken.principal.subject) == ({"line": "line-1", "token": "abc"}, b"{}", "10.0.0.9")
    assert taken.headers["signature"] == "s"
    assert world.facts == {"request_id": "abc-1", "trace": TRACE}
    assert world.usual == []
    assert counted(200) == before + 1


UNUSUAL: dict[str, tuple[Callable[[World], dict[str, Any]], int]] = {
    "another method": (lambda _: {"method": "PUT"}, 405),
    "another path": (lambda _: {"path": "/push/line-1/abc/more"}, 404),
    "half a path": (lambda _: {"path": "/push/line-1"}, 404),
    "a parameter": (lambda _: {"path": "/push/line-1/abc?a=b"}, 422),
    "too long a body": (lambda _: {"content": b"x" * (LIMIT + 1)}, 200),
    "a body of unknown length": (lambda _: {"content": _chunks()}, 200),
    "nobody": (lambda _: {"headers": {}}, 401),
    "no token of ours": (lambda _: {"headers": {"authorization": "Bearer abc"}}, 401),
    "a token that was changed": (lambda world: {"headers": _changed(world.headers("ingest:push"))}, 401),
    "another way to sign in": (lambda _: {"headers": {"authorization": "Basic abc"}}, 401),
    "somebody without the right": (lambda world: {"headers": world.headers("ingest:read")}, 403),
}


async def _chunks() -> AsyncIterator[bytes]:
    yield b"ab"
    yield b"cd"


def _changed(headers: dict[str, str]) -> dict[str, str]:
    good = headers["authorization"]
    return {"authorization": good[:-9] + ("A" if good[-9] != "A" else "B") + good[-8:]}


@pytest.mark.parametrize("unusual", UNUSUAL)
async def test_whatever_else_comes_is_answered_as_without_it(world: World, unusual: str) -> None:
    make, status = UNUSUAL[unusual]

    async def asked() -> httpx.Response:
        more = make(world)
        headers = {**more.pop("headers", world.headers("ingest:push")), "x-request-id": "abc-1"}
        return await world.post(headers=headers, **more)

    without = await asked()
    world.open()
    before = counted(status)
    found = await asked()
    assert (found.status_code, found.content, said_in(found)) == (status, without.content, said_in(without))
    assert world.lean == []
    assert counted(status) == before + (unusual != "another method")
    assert len(world.usual) == (2 if status == 200 else 0)


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (errors.NotFound("there is nothing here", message_zh="此处无内容"), 404),
        (errors.InvalidInput("no", message_zh="否"), 400),
        (errors.Unavailable("the spool is full", message_zh="缓存已满"), 503),
        (errors.TooManyRequests("slowly", message_zh="请放慢", retry_after_s=3), 429),
        (KeyError("nobody expected it"), 500),
    ],
)
async def test_what_goes_wrong_behind_it_is_answered_and_logged_as_without_it(
    world: World, raised: Exception, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    def logged() -> list[tuple[str, str]]:
        found = [(one.levelname, one.message) for one in caplog.records if one.name.startswith("libs.common")]
        caplog.clear()
        return found

    caplog.set_level(logging.INFO)
    world.raises = raised
    headers = {**world.headers("ingest:push"), "x-request-id": "abc-1"}
    without, said = await world.post(headers=headers), logged()
    world.open()
    before = counted(status)
    found = await world.post(headers=headers)
    assert (found.status_code, found.content) == (without.status_code, without.content)
    assert found.status_code == status
    assert said_in(found) == said_in(without)
    assert logged() == said
    assert (len(world.lean), len(world.usual), counted(status)) == (1, 1, before + 1)


async def test_until_the_service_has_started_the_application_says_so(world: World) -> None:
    world.open()
    world.health.starting = Bilingual("waiting for database", "等待数据库")
    found = await world.post()
    assert (found.status_code, found.json()["code"], world.lean) == (503, "starting", [])


async def test_a_body_in_pieces_is_put_together(world: World) -> None:
    world.open()
    async with world.served(), world.called() as (reader, writer):
        whole = world.request(b"abcd")
        for piece in (whole[:20], whole[20:-3], whole[-3:-1], whole[-1:]):
            writer.write(piece)
            await asyncio.sleep(0.01)
        assert await answer_of(reader) == (200, b"")
    assert [one.body for one in world.lean] == [b"abcd"]


async def test_one_connection_serves_one_after_the_other_in_their_order(world: World) -> None:
    world.open()
    world.safe = asyncio.get_running_loop().create_future()
    async with world.served(), world.called() as (reader, writer):
        writer.write(world.request(b"1") + world.request(b"2") + world.request(b"x" * (LIMIT + 1)))
        await until(lambda: world.lean)
        await asyncio.sleep(0.02)
        assert [one.body for one in world.lean] == [b"1"]
        assert world.usual == []
        world.safe.set_result(None)
        answers = [await answer_of(reader) for _ in range(3)]
        writer.write(world.request(b"4"))
        answers.append(await answer_of(reader))
    assert answers == [(200, b"")] * 4
    assert [one.body for one in world.lean] + world.usual == [b"1", b"4", b"2", b"x" * (LIMIT + 1)]


@pytest.mark.parametrize(
    ("raised", "status"),
    [(errors.Unavailable("the spool is full", message_zh="缓存已满"), 503), (KeyError("nobody expected it"), 500)],
)
async def test_what_fails_later_is_answered_as_what_fails_at_once(world: World, raised: Exception, status: int) -> None:
    world.open()
    world.raises = raised
    headers = {**world.headers("ingest:push"), "x-request-id": "abc-1"}
    at_once = await world.post(headers=headers)
    world.raises, world.safe = None, asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.01, world.safe.set_exception, raised)
    later = await world.post(headers=headers)
    assert (later.status_code, later.content) == (status, at_once.content)


async def test_a_body_that_does_not_come_is_given_up_and_what_comes_of_it_later_is_none(world: World) -> None:
    world.open(body_within_s=0.02)
    async with world.served(), world.called() as (reader, writer):
        writer.write(world.request(b"ab", length=4))
        status, body = await answer_of(reader)
        assert status == 400
        assert b"too slowly" in body
        writer.write(b"cd" + world.request(b"next"))
        assert await answer_of(reader) == (200, b"")
    assert [one.body for one in world.lean] == [b"next"]


@pytest.mark.parametrize("length", [2, 4], ids=["after the body was there", "before"])
async def test_who_goes_away_gets_no_answer(world: World, length: int) -> None:
    world.open()
    world.safe = asyncio.get_running_loop().create_future()
    before = counted(499), counted(200)
    async with world.served():
        async with world.called() as (_, writer):
            writer.write(world.request(b"ab", length=length))
            await asyncio.sleep(0.02)
        await until(lambda: counted(499) > before[0])
        world.safe.set_result(None)
        await asyncio.sleep(0)
    assert (len(world.lean), counted(499), counted(200)) == (length == 2, before[0] + 1, before[1])


async def test_who_still_sends_is_told_that_the_service_stops_and_who_waits_is_answered(world: World) -> None:
    world.open()
    world.safe = asyncio.get_running_loop().create_future()
    async with world.served() as server, world.called() as (first, sends), world.called() as (second, waits):
        sends.write(world.request(b"ab", length=4))
        waits.write(world.request(b"ab"))
        await until(lambda: world.lean)
        await asyncio.sleep(0.02)
        stopping = asyncio.create_task(server.stop(5.0))
        status, body = await answer_of(first)
        assert status == 503
        assert b'"draining"' in body
        world.safe.set_result(None)
        assert await answer_of(second) == (200, b"")
        assert await second.read() == b""
        assert await stopping


def test_an_application_has_one_lean_door(world: World) -> None:
    world.open()
    with pytest.raises(ValueError, match="without a lean door"):
        world.open()
    with pytest.raises(ValueError, match="application of ours"):
        open_lean_door(FastAPI(), LeanDoor(re.compile("/a"), "a:b", 1, world._take))
