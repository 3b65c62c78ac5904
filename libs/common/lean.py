"""Lean doors: a request that comes by the thousand is answered without the framework around it.

Of what a platform's push cost, nine tenths were the server's cycle, routing, parameters and layers that have nothing to
do with it. A lean door stands at the connection (``listening.py``), before the application, and takes only what is
plainly its own: the method, the whole path, a caller who may, a body whose length is told and within bounds. Everything
else it leaves, untouched, to the operation of the same path behind it, which is also what the description shows; so
whatever is refused is refused there and in the same words. What the handler raises is answered, counted and logged
here as it would be there.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass

from starlette.responses import Response

from libs.common import errors
from libs.common.health import Health
from libs.common.log import log_context
from libs.common.middleware import CLIENT_GONE, count, draining, request_id_of, unforeseen
from libs.common.problems import problem_of, status_of
from libs.common.redact import shown_path
from libs.common.tokens import KeyRing, Principal
from libs.common.tracing import is_sent, span

logger = logging.getLogger(__name__)

BODY_WITHIN_S = 10.0
"""A body that takes longer is given up: the caller is a neighbour that has all of it. [s]"""
METHOD = "POST"
_NO_SPAN = nullcontext()

Head = Sequence[tuple[bytes, bytes]]
"""Headers, names in lower case."""


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
    take: Callable[[LeanRequest], "asyncio.Future[None] | None"]
    """Does it at once, or returns what is done when it is; answered with 200 and nothing else then. Either may raise
    ``PlatformError``. No task is made for what is done at once."""
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
        self.door = door
        self.service = service
        self._health = health
        self._keys = keys

    def enter(self, method: bytes, url: bytes, head: Head, answer: Callable[[Response | None], None]) -> "Lean | None":
        """Return a request whose body has to come yet; None for one that is not taken here, with nothing done.

        Args:
            method: As it came.
            url: As it came.
            head: Its headers.
            answer: Called once, with the answer; None is for 200 and nothing else.
        """
        if method != b"POST" or b"?" in url or b"%" in url or self._health.starting is not None:
            return None
        found = self.door.path.fullmatch(url.decode("latin-1"))
        if found is None:
            return None
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head}
        length = headers.get("content-length", "")
        if not length.isdecimal() or int(length) > self.door.max_body_bytes or "expect" in headers:
            return None
        principal = self._caller(headers.get("authorization", ""))
        return None if principal is None else Lean(self, found.groupdict(), principal, headers, url, answer)

    def _caller(self, authorization: str) -> Principal | None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            return None
        with suppress(errors.PlatformError):  # the application says what is wrong with it
            principal = self._keys.verify_token(token, audience=self.service)
            return principal if principal.may(self.door.scope) else None
        return None


class Lean:
    """A request that a lean door has taken, until it is answered."""

    def __init__(
        self,
        entrance: LeanEntrance,
        parts: Mapping[str, str],
        principal: Principal,
        headers: Mapping[str, str],
        url: bytes,
        answer: Callable[[Response | None], None],
    ) -> None:
        """Begin; only ``LeanEntrance.enter`` does."""
        self.body = bytearray()
        self.request_id = request_id_of(headers.get("x-request-id", "").encode("latin-1"))
        self.is_answered = False
        """Also when nobody is there any more to hear it."""
        self._door = entrance.door
        self._service = entrance.service
        self._parts, self._principal, self._headers, self._url = parts, principal, headers, url
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self._asked_at = self._loop.time()
        self._has_body = False
        self._given_up: asyncio.TimerHandle | None = None

    def wait(self) -> None:
        """Give up a body that is not there yet after its time; called again it changes nothing."""
        if not (self._has_body or self.is_answered or self._given_up):
            self._given_up = self._loop.call_later(self._door.body_within_s, self._too_slow)

    def take(self) -> None:
        """Take the request: its body is whole."""
        self._has_body = True
        self._stop_waiting()
        parent = self._headers.get("traceparent")
        # One that goes on from none and is sent nowhere would be ids that nobody can use.
        traced = (
            span(f"{self._service} {METHOD}", traceparent=parent, method=METHOD) if parent or is_sent() else _NO_SPAN
        )
        with log_context(request_id=self.request_id.decode()), traced:
            request = LeanRequest(self._parts, self._principal, self._headers, bytes(self.body))
            try:
                done = self._door.take(request)
            except Exception as exc:
                self._refuse(exc)
                return
            if done is None:
                self._end(None)
            else:
                done.add_done_callback(self._done)

    def drain(self) -> None:
        """Answer one whose body is not there yet: the service is stopping."""
        if not self._has_body:
            self._say(draining)

    def lose(self) -> None:
        """Nobody is there any more."""
        if not self.is_answered:
            self._stop_waiting()
            self.is_answered = True
            count(self._service, METHOD, CLIENT_GONE, None)

    def _too_slow(self) -> None:
        slow = errors.InvalidInput("the body comes too slowly", message_zh="请求体传输过慢")
        self._say(lambda: problem_of(slow))

    def _say(self, response: Callable[[], Response]) -> None:
        with log_context(request_id=self.request_id.decode()):
            self._end(response())

    def _done(self, done: "asyncio.Future[None]") -> None:
        if done.cancelled():
            self._say(draining)
        elif (exc := done.exception()) is not None:
            self._refuse(exc)
        else:
            self._end(None)

    def _refuse(self, exc: BaseException) -> None:
        path = self._url.decode("latin-1")
        if isinstance(exc, errors.PlatformError):
            if status_of(exc) >= 500:
                facts = {"code": exc.code, "reason": exc.message, "path": shown_path(path)}
                logger.warning("request refused", extra=facts)
            self._end(problem_of(exc))
        else:
            self._end(unforeseen(exc, path=path, method=METHOD))

    def _end(self, response: Response | None) -> None:
        if self.is_answered:
            return
        self._stop_waiting()
        self.is_answered = True
        status = 200 if response is None else response.status_code
        count(self._service, METHOD, status, self._loop.time() - self._asked_at)
        self._answer(response)

    def _stop_waiting(self) -> None:
        if self._given_up is not None:
            self._given_up.cancel()
            self._given_up = None
