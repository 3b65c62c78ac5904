"""A lean door answers what is plainly its own, and whatever else comes is answered by the application behind it."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Request, Response
from prometheus_client import REGISTRY
from starlette.types import Message

from libs.common import errors
from libs.common.bus.port import Bus
from libs.common.errors import Bilingual
from libs.common.health import Health
from libs.common.lean import LeanDoor, LeanRequest
from libs.common.log import current_context
from libs.common.serving import Platform
from libs.common.settings import CommonSettings
from libs.common.testing.clock import FakeClock
from libs.common.tokens import KeyRing
from libs.common.tracing import current_trace_id
from libs.common.web import create_app, open_lean_door, require

LIMIT = 100
SERVICE = "ingest"
TRACE = "0af7651916cd43dd8448eb211c80319c"


class World:
    """An application with a lean door, and the same path behind it."""

    def __init__(self, folder: Path) -> None:
        KeyRing.create(folder)
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
        self.body_within_s = 10.0

        @self.app.post("/push/{line}/{token}", dependencies=[Depends(require("ingest:push"))])
        async def push(request: Request, line: str, token: str) -> Response:
            self.usual.append(await request.body())
            if self.raises is not None:
                raise self.raises
            return Response(status_code=200)

    def open(self, **more: Any) -> None:
        path = re.compile(r"/push/(?P<line>[^/]+)/(?P<token>[^/]+)")
        open_lean_door(self.app, LeanDoor(path, "ingest:push", LIMIT, self._take, **more))

    async def _take(self, request: LeanRequest) -> None:
        self.lean.append(request)
        self.facts = {"request_id": current_context()["request_id"], "trace": current_trace_id()}
        if self.raises is not None:
            raise self.raises

    def headers(self, *scopes: str, subject: str = "10.0.0.9") -> dict[str, str]:
        kind: Any = "service"
        token = self.keys.sign_token("gateway", audience=SERVICE, subject=subject, kind=kind, scopes=list(scopes))
        return {"authorization": f"Bearer {token}"}

    async def post(self, path: str = "/push/line-1/abc", method: str = "POST", **more: Any) -> httpx.Response:
        arguments: dict[str, Any] = {"content": b"{}", "headers": self.headers("ingest:push"), **more}
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://ingest") as client:
            return await client.request(method, path, **arguments)

    async def ask(self, receive: Callable[[], Any], **headers: str) -> list[Message]:
        """Ask without a client between, and return what was sent."""
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        given = {"content-length": "4", **self.headers("ingest:push"), **headers}
        scope = {
            "type": "http", "method": "POST", "path": "/push/line-1/abc", "query_string": b"", "http_version": "1.1",
            "headers": [(name.encode(), value.encode()) for name, value in given.items()], "root_path": "",
        }  # fmt: skip
        await self.app(scope, receive, send)
        return sent


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
    assert (found.status_code, found.content, dict(found.headers)) == (status, without.content, dict(without.headers))
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
    assert dict(found.headers) == dict(without.headers)
    assert logged() == said
    assert (len(world.lean), len(world.usual), counted(status)) == (1, 1, before + 1)


async def test_until_the_service_has_started_the_application_says_so(world: World) -> None:
    world.open()
    world.health.starting = Bilingual("waiting for database", "等待数据库")
    found = await world.post()
    assert (found.status_code, found.json()["code"], world.lean) == (503, "starting", [])


async def test_a_body_in_pieces_is_put_together(world: World) -> None:
    world.open()
    pieces = iter([b"ab", b"c", b"d"])

    async def receive() -> Message:
        piece = next(pieces)
        return {"type": "http.request", "body": piece, "more_body": piece != b"d"}

    sent = await world.ask(receive)
    assert (sent[0]["status"], world.lean[0].body) == (200, b"abcd")


async def test_a_body_that_does_not_come_is_given_up(world: World) -> None:
    world.open(body_within_s=0.0)
    first = [{"type": "http.request", "body": b"ab", "more_body": True}]

    async def receive() -> Message:
        if first:
            return first.pop()
        await asyncio.Event().wait()
        raise AssertionError("never")

    sent = await world.ask(receive)
    assert sent[0]["status"] == 400
    assert b"too slowly" in sent[1]["body"]
    assert world.lean == []


async def test_who_goes_away_before_the_body_is_there_gets_no_answer(world: World) -> None:
    world.open()
    before = counted(499)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    assert await world.ask(receive) == []
    assert (world.lean, counted(499)) == ([], before + 1)


async def test_what_the_drain_cuts_short_is_told_so(world: World) -> None:
    world.open()

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError("never")

    asked = asyncio.create_task(world.ask(receive))
    await asyncio.sleep(0)
    world.health.drain()
    asked.cancel()
    sent = await asked
    assert sent[0]["status"] == 503
    assert b'"draining"' in sent[1]["body"]


async def test_who_is_cancelled_otherwise_stays_so(world: World) -> None:
    world.open()
    world.raises = asyncio.CancelledError()

    async def receive() -> Message:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    with pytest.raises(asyncio.CancelledError):
        await world.ask(receive)


def test_an_application_has_one_lean_door(world: World) -> None:
    world.open()
    with pytest.raises(ValueError, match="without a lean door"):
        world.open()
    with pytest.raises(ValueError, match="application of ours"):
        open_lean_door(FastAPI(), LeanDoor(re.compile("/a"), "a:b", 1, world._take))
