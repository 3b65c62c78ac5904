"""A channel whose other end is a function: what a request brings back, in whichever pieces."""

import asyncio
from collections.abc import Callable

from libs.common.clock import SystemClock
from services.ingest.drivers.port import LineDown
from services.ingest.drivers.stream import Sessions, StreamLine

Answer = Callable[[bytes], bytes | list[bytes]]


class Wire:
    """Answers by a function of the request; remembers what was sent."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.sent: list[bytes] = []
        self.opened = 0
        self._coming: list[bytes] = []

    async def open(self) -> None:
        self.opened += 1

    async def send(self, data: bytes) -> None:
        self.sent.append(data)
        answer = self.answer(data)
        self._coming += [answer] if isinstance(answer, bytes) else answer

    async def receive(self, timeout_s: float) -> bytes:
        await asyncio.sleep(0)
        while self._coming:
            piece = self._coming.pop(0)
            if piece:
                return piece
        raise TimeoutError

    async def close(self) -> None:
        self._coming.clear()


class Gone(Wire):
    """Nobody is there."""

    def __init__(self) -> None:
        super().__init__(lambda request: b"")

    async def open(self) -> None:
        raise LineDown("nobody there")


def line_of(wire: Wire, sessions: Sessions | None = None) -> StreamLine:
    """Return a line over a wire, quick to give up."""
    return StreamLine(wire, sessions=sessions or {}, clock=SystemClock(), timeout_s=0.01, quiet_s=0.001)
