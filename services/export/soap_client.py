"""Calls to a centre's SOAP service: one request, one answer, told apart by how far it came.

Whether a message may have arrived decides what follows (a LOGIN that never left does not count towards
the interval), so the outcomes are values and no exceptions.
"""

import asyncio
from dataclasses import dataclass
from functools import lru_cache

import h11

from libs.common.errors import InvalidInput, PlatformError
from libs.common.outgoing import EVERYWHERE, AddressGuard, public_authorities
from libs.common.wire import NotConnected, Wire
from services.export.dialects import Dialect, soap
from services.export.dialects.messages import CentreReply, Operation, PointType, UnitRequest

MAX_REPLY_BYTES = 1 << 20
"""A centre's replies are a few hundred bytes; more than this is none. [B]"""
PLACES_KNOWN = 64
"""Of a centre, to which connections are kept: where units register and where they were sent from there."""
REPLIES_KNOWN = 64
"""Of a centre, each with what it means."""
SHORT_BYTES = 2048
"""A reply that is longer is not remembered. [B]"""
HEADERS = {"content-type": soap.CONTENT_TYPE, "soapaction": '""', "accept": "*/*", "user-agent": "Wattring"}


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
    """A client for one centre; its connections are its own, so that a slow centre delays nobody else.

    A centre may stand anywhere: its address is an administrator's, or one that it has assigned itself.
    """

    def __init__(self, dialect: Dialect, *, timeout_s: float) -> None:
        self._dialect = dialect
        self._timeout_s = timeout_s
        self._guard = AddressGuard(EVERYWHERE)
        # A centre says yes to thousands of alarms in the same bytes.
        self._read = lru_cache(REPLIES_KNOWN)(self._read_anew)
        self._wires: dict[str, Wire] = {}

    async def close(self) -> None:
        """Close all connections."""
        self._forget()
        await asyncio.sleep(0)  # sockets are closed in the loop's next turn

    async def call(self, url: str, request: UnitRequest, operation: Operation) -> CallOutcome:
        """Send a request and return what became of it; never raises for what the centre does."""
        body = soap.write_request(self._dialect.write_request(request, operation), self._dialect.centre)
        try:
            answer = await self._wire(url).call(
                "POST", url, HEADERS, body, timeout_s=self._timeout_s, max_bytes=MAX_REPLY_BYTES
            )
        except (NotConnected, PlatformError) as exc:  # before TimeoutError: it may be both
            return NotSent(f"cannot connect: {exc}"[:300])
        except TimeoutError:
            return NoAnswer(f"no answer within {self._timeout_s:g} s")
        except (OSError, h11.ProtocolError) as exc:
            return NoAnswer(f"{type(exc).__name__}: {exc}"[:300])
        if not answer.is_whole:
            if len(answer.body) < MAX_REPLY_BYTES:
                return NoAnswer("the connection was lost within the answer")
            return BadAnswer(f"answer larger than {MAX_REPLY_BYTES} bytes")
        try:
            read = self._read if len(answer.body) <= SHORT_BYTES else self._read_anew
            return Answered(read(answer.body, operation, getattr(request, "types", None)))
        except InvalidInput as exc:
            return BadAnswer((exc.message if answer.status == 200 else f"HTTP {answer.status}: {exc.message}")[:300])

    def _read_anew(self, body: bytes, operation: Operation, types: frozenset[PointType] | None) -> CentreReply:
        return self._dialect.read_reply(soap.read_response(body, limit=MAX_REPLY_BYTES), operation, types)

    def _wire(self, url: str) -> Wire:
        """Return the connections to a place."""
        wire = self._wires.get(url)
        if wire is None:
            if len(self._wires) >= PLACES_KNOWN:
                self._forget()
            wire = self._wires[url] = Wire(self._guard, public_authorities())
        return wire

    def _forget(self) -> None:
        wires, self._wires = self._wires, {}
        for wire in wires.values():
            wire.close()
