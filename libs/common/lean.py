"""Lean doors: a request that comes by the thousand is answered without the framework around it.

Of what a platform's push cost, nine tenths were routing, parameters and layers that have nothing to do with it. A lean
door stands before the application and takes only what is plainly its own: the method, the whole path, a caller who may,
a body whose length is told and within bounds. Everything else it leaves, untouched, to the operation of the same path
behind it, which is also what the description shows; so whatever is refused is refused there and in the same words.
What the handler raises is answered, counted and logged here as it would be there.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from libs.common import errors
from libs.common.health import Health
from libs.common.log import log_context
from libs.common.middleware import Answer, ended, request_id_of
from libs.common.problems import problem_of, status_of
from libs.common.redact import shown_path
from libs.common.tokens import KeyRing, Principal
from libs.common.tracing import span

logger = logging.getLogger(__name__)

BODY_WITHIN_S = 10.0
"""A body that takes longer is given up: the caller is a neighbour that has all of it. [s]"""


@dataclass(frozen=True, slots=True)
class LeanRequest:
    """A request that a lean door has taken."""

    parts: Mapping[str, str]
    """Named parts of the path."""
    principal: Principal
    headers: Mapping[str, str]
    """Names in lower case; of one that is said twice, the last."""
    body: bytes


@dataclass(frozen=True, slots=True)
class LeanDoor:
    """What is taken, and by whom."""

    path: "re.Pattern[str]"
    """Of the whole path, with named groups."""
    scope: str
    """The right that the caller needs."""
    max_body_bytes: int
    """What is longer is left to the application. [B]"""
    take: Callable[[LeanRequest], Awaitable[None]]
    """Answered with 200 and nothing else once it returns. Raises ``PlatformError``."""
    body_within_s: float = BODY_WITHIN_S


class LeanEntrance:
    """The lean door of one application, for POST."""

    def __init__(self, door: LeanDoor, *, service: str, health: Health, keys: KeyRing) -> None:
        """Prepare.

        Args:
            door: What is taken.
            service: In whose name; callers' tokens are for it.
            health: Until it has started everything is left to the application.
            keys: By which callers are known.
        """
        self._door = door
        self._service = service
        self._health = health
        self._keys = keys

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Answer a request; return False, with nothing received and nothing sent, for one that is not taken here."""
        door = self._door
        if scope["method"] != "POST" or scope["query_string"] or self._health.starting is not None:
            return False
        found = door.path.fullmatch(scope["path"])
        if found is None:
            return False
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        length = headers.get("content-length", "")
        if not length.isdecimal() or int(length) > door.max_body_bytes:
            return False
        principal = self._caller(headers.get("authorization", ""))
        if principal is None:
            return False
        request_id = request_id_of(headers.get("x-request-id", "").encode("latin-1"))
        told = Answer(send, request_id, self._health)
        try:
            with (
                log_context(request_id=request_id.decode()),
                span(f"{self._service} POST", traceparent=headers.get("traceparent"), method="POST"),
            ):
                await self._answer(scope, receive, told, found.groupdict(), principal, headers)
        finally:
            told.count(self._service, "POST")
        return True

    def _caller(self, authorization: str) -> Principal | None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            return None
        with suppress(errors.PlatformError):  # the application says what is wrong with it
            principal = self._keys.verify_token(token, audience=self._service)
            return principal if principal.may(self._door.scope) else None
        return None

    async def _answer(
        self,
        scope: Scope,
        receive: Receive,
        told: Answer,
        parts: Mapping[str, str],
        principal: Principal,
        headers: Mapping[str, str],
    ) -> None:
        async with ended(scope, receive, told):
            try:
                await self._door.take(LeanRequest(parts, principal, headers, await self._body(receive)))
            except errors.PlatformError as exc:
                if status_of(exc) >= 500:
                    facts = {"code": exc.code, "reason": exc.message, "path": shown_path(scope["path"])}
                    logger.warning("request refused", extra=facts)
                await problem_of(exc)(scope, receive, told.send)
            else:
                await told.send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
                await told.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _body(self, receive: Receive) -> bytes:
        """Return the whole body.

        Raises:
            InvalidInput: It comes too slowly.
            ClientDisconnect: The caller has gone.
        """
        try:
            async with asyncio.timeout(self._door.body_within_s):
                return await _body(receive)
        except TimeoutError:
            raise errors.InvalidInput("the body comes too slowly", message_zh="请求体传输过慢") from None


async def _body(receive: Receive) -> bytes:
    """Return the whole body; the server sees to it that it is no longer than was told.

    Raises:
        ClientDisconnect: The caller has gone.
    """
    message = await receive()
    body = message.get("body", b"")
    while message.get("more_body", False):
        message = await receive()
        body += message.get("body", b"")
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return bytes(body)
