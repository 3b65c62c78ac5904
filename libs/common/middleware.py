"""Around every request: an id, a trace, a bound on the body, a count, and an answer whatever happens.

* The id comes from ``x-request-id`` when that is harmless, else it is made; it is in every log line, in the answer,
  and in the request that a proxy passes on.
* Until the service has started, everything but the probes answers 503 with the reason.
* A live stream (server-sent events) has no end of its own; the drain ends it, so that it does not hold the stop.
* What nobody expected is logged once, with the id, and answered with 500.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from fastapi.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from libs.common import metrics
from libs.common.health import Health
from libs.common.ids import new_id
from libs.common.inside import PROBES
from libs.common.log import log_context
from libs.common.problems import problem
from libs.common.redact import shown_path
from libs.common.tracing import span

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 32 << 20
"""Largest request body taken. [B]"""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
CLIENT_GONE = 499
"""What is counted for a request whose client did not wait for the answer."""
_HARMLESS = re.compile(rb"[A-Za-z0-9._:-]{1,64}")

_requests = metrics.counter("http_requests_total", "HTTP requests answered", ("service", "method", "status"))
_seconds = metrics.histogram("http_request_duration_seconds", "Time until the answer begins", ("service",))
# What is looked up for each request: there are as many as services, methods and kinds of answers.
_requests_of = cache(_requests.labels)
_seconds_of = cache(_seconds.labels)


class Envelope:
    """The middleware that every application of ours is in."""

    def __init__(self, app: ASGIApp, *, service: str, health: Health, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._service = service
        self._health = health
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id = request_id_of(headers.get(b"x-request-id", b""))
        kept = [(name, value) for name, value in scope["headers"] if name != b"x-request-id"]
        scope = {**scope, "headers": [*kept, (b"x-request-id", request_id)]}
        answer = Answer(send, request_id, self._health)
        if scope["path"] in PROBES:
            with log_context(request_id=request_id.decode()):
                await self._respond(scope, receive, answer, declared=0)
            return
        method = scope["method"] if scope["method"] in METHODS else "other"
        parent = headers.get(b"traceparent", b"").decode("latin-1") or None
        declared = int(headers.get(b"content-length", b"0") or 0)  # the server has checked that it is a number
        try:
            with (
                log_context(request_id=request_id.decode()),
                span(f"{self._service} {method}", traceparent=parent, method=method),
            ):
                await self._respond(scope, receive, answer, declared=declared)
        finally:
            answer.count(self._service, method)

    async def _respond(self, scope: Scope, receive: Receive, answer: "Answer", *, declared: int) -> None:
        limit = self._max_body_bytes
        too_large = f"the body is larger than {limit} bytes"
        taken = 0

        async def bounded_receive() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > limit:
                raise HTTPException(413, too_large)  # FastAPI's own kind: it makes a 400 of any other
            return message

        starting = self._health.starting
        waits = starting is not None and not scope["path"].startswith(self._health.always_open)
        async with ended(scope, receive, answer):
            if starting is not None and waits and scope["path"] not in PROBES:
                refusal = problem(
                    503, code="starting", title="Service unavailable", detail=starting.english,
                    detail_zh=starting.chinese,
                )  # fmt: skip
                await refusal(scope, receive, answer.send)
            elif declared > limit:
                refusal = problem(
                    413, code="http_413", title="Content too large", detail=too_large, detail_zh="请求体过大"
                )
                await refusal(scope, receive, answer.send)
            else:
                await self._app(scope, bounded_receive, answer.send)


def request_id_of(given: bytes) -> bytes:
    """Return the id of a request: the one that came with it when that is harmless, else a new one."""
    return given if _HARMLESS.fullmatch(given) else new_id().encode()


@asynccontextmanager
async def ended(scope: Scope, receive: Receive, answer: "Answer") -> AsyncIterator[None]:
    """End a request whatever becomes of it: its client went away, the drain cancels it, or it fails.

    Raises:
        CancelledError: It was cancelled by something else, or when half of its answer was out.
    """
    try:
        yield
    except ClientDisconnect:
        logger.debug("the client went away")
    except asyncio.CancelledError:
        if not await answer.finish(scope, receive):
            raise
    except Exception as exc:
        failure = unforeseen(exc, path=scope["path"], method=scope["method"])
        if not answer.status:
            await failure(scope, receive, answer.send)


def unforeseen(exc: BaseException, *, path: str, method: str) -> Response:
    """Log an exception that nobody expected, and return what is answered."""
    logger.error("unexpected error in a request", exc_info=exc, extra={"path": shown_path(path), "method": method})
    return problem(
        500, code="internal", title="Internal error", detail="unexpected error; it was logged",
        detail_zh="内部错误,已记录",
    )  # fmt: skip


def draining() -> Response:
    """Return what is answered to a request that the drain cuts short."""
    return problem(
        503, code="draining", title="Service unavailable", detail="the service is stopping",
        detail_zh="服务正在停止",
    )  # fmt: skip


def count(service: str, method: str, status: int, began_after_s: float | None) -> None:
    """Count a request that is over.

    Args:
        service: Whose.
        method: Of HTTP.
        status: What was answered.
        began_after_s: When the answer began; None for none. [s]
    """
    _requests_of(service, method, str(status)).inc()
    if began_after_s is not None:
        _seconds_of(service).observe(began_after_s)


class Answer:
    """What has been answered so far."""

    def __init__(self, send: Send, request_id: bytes, health: Health) -> None:
        """Begin; nothing is sent by that."""
        self._send = send
        self._request_id = request_id
        self._health = health
        self._loop = asyncio.get_running_loop()
        self._asked_at = self._loop.time()
        self._streaming = False
        self._complete = False
        self.task: asyncio.Task[Any] | None = asyncio.current_task()
        self.status = 0
        self.began_after_s: float | None = None

    async def send(self, message: Message) -> None:
        """Pass a part of the answer on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.began_after_s = self._loop.time() - self._asked_at
            headers = [(name, value) for name, value in message.get("headers", ()) if name.lower() != b"x-request-id"]
            message = {**message, "headers": [*headers, (b"x-request-id", self._request_id)]}
            self._streaming = any(
                name.lower() == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers
            )
            if self._streaming and self.task is not None:
                self._health.streams.add(self.task)
                if self._health.draining:
                    self.task.cancel()
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self._complete = True
        await self._send(message)

    def count(self, service: str, method: str) -> None:
        """Count it, once it is over."""
        self._health.streams.discard(self.task)
        count(service, method, self.status or CLIENT_GONE, self.began_after_s)

    async def finish(self, scope: Scope, receive: Receive) -> bool:
        """End an answer that the drain has cut short; return False when it was not that, or it cannot end decently."""
        if not self._health.draining or self.task is None or (self.status and not self._streaming):
            return False  # half of a document must not look like a whole one: the connection is cut
        self.task.uncancel()
        if not self.status:
            await draining()(scope, receive, self.send)
        elif not self._complete:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        return True
