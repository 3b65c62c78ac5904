"""The watchdog's listener: control tells it leases, people may end them all; probes and metrics.

A few lines on h11 in place of a web framework: what wakes the radio units depends on as little as possible.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h11
import orjson

from libs.common.errors import Forbidden, InvalidInput, PlatformError, Unauthenticated
from libs.common.metrics import render
from libs.common.tokens import KeyRing
from services.control.watchdog.engine import StaleEpoch, Watchdog

logger = logging.getLogger(__name__)

AUDIENCE = "watchdog"
MAX_BODY_BYTES = 64 << 20
"""A hundred thousand leases are 25 MB. [B]"""
STOP_S = 2.0
"""An open connection ends within this when we stop. [s]"""
IDLE_S = 30.0
"""A connection that says nothing is closed after this. [s]"""


@dataclass(frozen=True, slots=True)
class Request:
    """One request, read whole."""

    method: str
    path: str
    headers: Mapping[bytes, bytes]
    body: bytes
    inside: bool = False
    """It came by an address that only those reach who may see all that the probes know."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer."""

    status: int
    body: bytes
    content_type: str = "application/json"

    @classmethod
    def of(cls, status: int, content: object) -> "Answer":
        """Return an answer in JSON."""
        return cls(status, orjson.dumps(content))

    @classmethod
    def problem(cls, status: int, code: str, detail: str) -> "Answer":
        """Return an error as RFC 9457 shapes it."""
        body = {"type": "about:blank", "title": code, "status": status, "code": code, "detail": detail}
        return cls(status, orjson.dumps(body), "application/problem+json")


class Routes:
    """What the listener answers."""

    def __init__(
        self, watchdog: Watchdog, keys: KeyRing, *, version: str, stuck_for_s: Callable[[], float], stuck_after_s: float
    ) -> None:
        self._watchdog = watchdog
        self._keys = keys
        self._version = version
        self._stuck_for_s = stuck_for_s
        self._stuck_after_s = stuck_after_s

    async def answer(self, request: Request) -> Answer:
        """Return the answer to any request from anywhere."""
        return self._safely(self._answer, request)

    async def answer_inside(self, request: Request) -> Answer:
        """Return the answer to a request on an address that only our own account reaches."""
        return self._safely(self._answer, replace(request, inside=True))

    async def answer_monitoring(self, request: Request) -> Answer:
        """Return the answer to a request on the internal listener: probes, and all that they know."""
        return self._safely(self._probe, replace(request, inside=True))

    def _safely(self, answer: Callable[[Request], Answer], request: Request) -> Answer:
        try:
            return answer(request)
        except StaleEpoch as exc:
            return Answer.problem(409, "stale_epoch", str(exc))
        except Unauthenticated as exc:
            return Answer.problem(401, exc.code, exc.message)
        except Forbidden as exc:
            return Answer.problem(403, exc.code, exc.message)
        except PlatformError as exc:
            return Answer.problem(400, exc.code, exc.message)
        except (KeyError, TypeError, ValueError) as exc:
            return Answer.problem(400, "malformed", f"{type(exc).__name__}: {exc}")
        except OSError as exc:
            return Answer.problem(503, "journal", f"cannot write: {exc}")

    def _answer(self, request: Request) -> Answer:
        match request.method, request.path:
            case "PUT", "/leases":
                self._require(request, "watchdog:leases")
                return Answer.of(200, {"leases": self._watchdog.put_leases(_object(request.body))})
            case "GET", "/leases":
                self._require(request, "watchdog:leases")
                return Answer.of(200, self._watchdog.describe())
            case "POST", "/wake":
                self._require(request, "watchdog:wake")
                wanted = _object(request.body).get("load_ids")
                if wanted is not None and not isinstance(wanted, list):
                    raise InvalidInput("load_ids: expected a list, or nothing for all")
                return Answer.of(202, {"load_ids": self._watchdog.end_leases(wanted)})
            case _:
                return self._probe(request)

    def _probe(self, request: Request) -> Answer:
        match request.method, request.path:
            case "GET", "/livez" | "/readyz":
                silent_s = self._stuck_for_s()
                stuck = silent_s > self._stuck_after_s
                body: dict[str, object] = {"service": "watchdog", "status": "stuck" if stuck else "ready"}
                if self._sees_all(request):
                    body["reasons"] = {"loop": f"no turn for {silent_s:.0f} s"} if stuck else {}
                    body["reasons_zh"] = {"loop": f"{silent_s:.0f} 秒没有动作"} if stuck else {}
                return Answer.of(503 if stuck else 200, body)
            case "GET", "/metrics":
                if not request.inside:
                    self._require(request, "watchdog:read")
                return Answer(200, render(), "text/plain; version=0.0.4; charset=utf-8")
            case "GET", "/version":
                return Answer.of(200, {"service": "watchdog", "version": self._version})
            case _:
                return Answer.problem(404, "not_found", f"no {request.method} {request.path}")

    def _sees_all(self, request: Request) -> bool:
        if request.inside:
            return True
        with contextlib.suppress(PlatformError):
            self._require(request, "watchdog:read")
            return True
        return False

    def _require(self, request: Request, scope: str) -> None:
        scheme, _, token = request.headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("no service token")
        principal = self._keys.verify_token(token, audience=AUDIENCE)
        if not principal.may(scope):
            raise Forbidden(f"{principal.subject} lacks the right {scope}")


def _object(body: bytes) -> dict[str, Any]:
    parsed = orjson.loads(body or b"{}")
    if not isinstance(parsed, dict):
        raise InvalidInput("expected a JSON object")
    return parsed


@asynccontextmanager
async def listening(
    answer: Callable[[Request], Awaitable[Answer]], *, host: str, port: int, uds: Path | None = None
) -> AsyncIterator[asyncio.Server]:
    """Serve within the block, on a Unix socket or on a port."""

    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio runs this in a task of its own
        connections.add(task)
        try:
            await _connection(reader, writer, answer)
        except asyncio.CancelledError:
            # We stop. Passed on, Python 3.11's streams would report every open connection as a failed callback.
            logger.debug("connection ended by us")
        finally:
            connections.discard(task)

    if uds is not None:
        _clear(uds)
        server = await asyncio.start_unix_server(serve, path=uds)
    else:
        server = await asyncio.start_server(serve, host, port)
    try:
        yield server
    finally:
        server.close()
        for task in connections:
            task.cancel()
        if connections:
            await asyncio.wait(connections, timeout=STOP_S)


def _clear(uds: Path) -> None:
    """Remove the socket that a killed process has left."""
    uds.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    uds.unlink(missing_ok=True)


async def _connection(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Callable[[Request], Awaitable[Answer]]
) -> None:
    connection = h11.Connection(h11.SERVER)
    try:
        while True:
            request = await _read(connection, reader)
            if request is None:
                return
            reply = await answer(request)
            writer.write(_bytes(connection, reply))
            async with asyncio.timeout(IDLE_S):
                await writer.drain()
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()
    except h11.RemoteProtocolError as exc:
        if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            writer.write(_bytes(connection, Answer.problem(exc.error_status_hint, "http", str(exc))))
    except (ConnectionError, TimeoutError):
        logger.debug("connection ended")
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(1.0):
                await writer.wait_closed()


async def _read(connection: h11.Connection, reader: asyncio.StreamReader) -> Request | None:
    """Return the next request, None when the other side has nothing more to say."""
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            async with asyncio.timeout(IDLE_S):
                connection.receive_data(await reader.read(1 << 16))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_BODY_BYTES:
                raise h11.RemoteProtocolError("the body is too large", error_status_hint=413)
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            path = head.target.decode("latin-1").partition("?")[0]
            return Request(head.method.decode("latin-1"), path, dict(head.headers), bytes(body))
        else:
            return None


def _bytes(connection: h11.Connection, reply: Answer) -> bytes:
    headers = [("content-type", reply.content_type), ("content-length", str(len(reply.body)))]
    data = connection.send(h11.Response(status_code=reply.status, headers=headers)) or b""
    data += connection.send(h11.Data(data=reply.body)) or b""
    return data + (connection.send(h11.EndOfMessage()) or b"")
