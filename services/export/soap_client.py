"""Calls to a centre's SOAP service: one request, one answer, told apart by how far it came.

Whether a message may have arrived decides what follows (a LOGIN that never left does not count towards
the interval), so the outcomes are values and no exceptions.
"""

import asyncio
from dataclasses import dataclass

import httpx

from libs.common.errors import InvalidInput
from services.export.dialects import Dialect, soap
from services.export.dialects.messages import CentreReply, Operation, UnitRequest

MAX_REPLY_BYTES = 1 << 20
"""A centre's replies are a few hundred bytes; more than this is none. [B]"""


@dataclass(frozen=True, slots=True)
class Answered:
    """The centre answered the question."""

    reply: CentreReply


@dataclass(frozen=True, slots=True)
class NotSent:
    """Nobody took the connection: the message has not arrived."""

    reason: str


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """The message may have arrived; no answer came."""

    reason: str


@dataclass(frozen=True, slots=True)
class BadAnswer:
    """What came is no answer to the question: a fault, garbage, another command's reply."""

    reason: str


CallOutcome = Answered | NotSent | NoAnswer | BadAnswer


class CentreClient:
    """A client for one centre; its connections are its own, so that a slow centre delays nobody else."""

    def __init__(self, dialect: Dialect, *, timeout_s: float, concurrency: int) -> None:
        self._dialect = dialect
        self._timeout_s = timeout_s
        self._http = httpx.AsyncClient(
            # Four finite bounds; the whole call has one of its own, since a centre may trickle.
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, 5.0)),
            limits=httpx.Limits(max_connections=concurrency + 2, max_keepalive_connections=concurrency),
            follow_redirects=False,
            trust_env=False,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def call(self, url: str, request: UnitRequest, operation: Operation) -> CallOutcome:
        """Send a request and return what became of it; never raises for what the centre does."""
        payload = self._dialect.write_request(request, operation)
        try:
            async with asyncio.timeout(self._timeout_s):
                status, body = await self._post(url, soap.write_request(payload, self._dialect.centre))
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol) as exc:
            return NotSent(f"cannot connect: {exc or type(exc).__name__}"[:300])
        except TimeoutError:
            return NoAnswer(f"no answer within {self._timeout_s:g} s")
        except httpx.HTTPError as exc:
            return NoAnswer(f"{type(exc).__name__}: {exc}"[:300])
        except _TooLarge:
            return BadAnswer(f"answer larger than {MAX_REPLY_BYTES} bytes")
        try:
            text = soap.read_response(body, limit=MAX_REPLY_BYTES)
            return Answered(self._dialect.read_reply(text, operation, getattr(request, "types", None)))
        except InvalidInput as exc:
            return BadAnswer((exc.message if status == 200 else f"HTTP {status}: {exc.message}")[:300])

    async def _post(self, url: str, body: bytes) -> tuple[int, bytes]:
        headers = {"content-type": soap.CONTENT_TYPE, "soapaction": '""'}
        async with self._http.stream("POST", url, content=body, headers=headers) as response:
            received = bytearray()
            async for chunk in response.aiter_bytes():
                received += chunk
                if len(received) > MAX_REPLY_BYTES:
                    raise _TooLarge
            return response.status_code, bytes(received)


class _TooLarge(Exception):
    """The answer is longer than any answer."""
