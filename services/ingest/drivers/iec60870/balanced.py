"""The balanced link of 101: two stations on one full-duplex line, each of which may begin.

Source:
    IEC 60870-5-2:1992 clause 5; IEC 60870-5-101:2003 6.4.
"""

import asyncio
import logging
from collections.abc import Callable

from libs.common.clock import Clock
from services.ingest.domain.codecs.ft12 import (
    COUNT,
    COUNT_VALID,
    DIRECTION,
    PRIMARY,
    Frame,
    Reply,
    Request,
    encode,
    scan,
)
from services.ingest.drivers.port import Channel, LineDown

logger = logging.getLogger(__name__)

RETRIES = 2
TEST_EVERY_S = 20.0
"""A line on which nothing was sent for this long is tested. [s]"""
MAX_HELD_BYTES = 4096
KEPT = 1024


class BalancedLink:
    """Carries ASDUs between this station and the one at the other end; implements ``Link``."""

    def __init__(self, channel: Channel, *, address: int, address_size: int, timeout_s: float, clock: Clock) -> None:
        """Prepare a link over an open channel.

        Args:
            channel: Used by nobody else.
            address: Of the link.
            address_size: Of it, 0 to 2. [B]
            timeout_s: For a confirmation. [s]
            clock: Ours.
        """
        self._channel = channel
        self._address = address
        self._address_size = address_size
        self._timeout_s = timeout_s
        self._clock = clock
        self._received: asyncio.Queue[bytes | None] = asyncio.Queue(KEPT)
        self._reply: asyncio.Future[Frame] | None = None
        self._sending = asyncio.Lock()
        self._count = True
        self._their_count: bool | None = None
        self._answered = b""
        self._sent_at = clock.monotonic()
        self._ended: LineDown | None = None
        self._reading = asyncio.create_task(self._read(), name="balanced link")
        self._testing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Reset the link of the other side. Raises ``LineDown``."""
        reply = await self._request(Request.RESET_LINK, counted=False)
        if reply.function != Reply.ACK:
            raise LineDown(f"the link does not reset (function {reply.function})")
        self._count = True
        self._testing = asyncio.create_task(self._test(), name="balanced link test")

    async def send(self, asdu: bytes, station: int) -> None:
        """Return once the other side has confirmed the ASDU; there is one station only. Raises ``LineDown``."""
        while True:
            reply = await self._request(Request.DATA, asdu)
            if reply.function != Reply.NACK:
                return
            await self._clock.sleep(self._timeout_s)  # busy; whoever sends has a limit

    async def receive(self) -> bytes:
        """Return the next ASDU."""
        if self._ended is not None and self._received.empty():
            raise self._ended
        data = await self._received.get()
        if data is None:
            raise self._ended or LineDown("the line was closed")
        return data

    def on_back(self, listener: Callable[[int], None]) -> None:
        """Do nothing: the line is lost with its one station."""

    async def close(self) -> None:
        """Close the channel."""
        for task in (self._reading, self._testing):
            while task is not None and not task.done():
                task.cancel()
                await asyncio.wait([task], timeout=0.2)
        self._end(LineDown("the line was closed"))
        await self._channel.close()

    async def _request(self, function: Request, data: bytes = b"", *, counted: bool = True) -> Frame:
        """Send a frame of ours until it is answered.

        Raises:
            LineDown: It is not.
        """
        async with self._sending:
            control = DIRECTION | PRIMARY | function
            if counted:
                control |= COUNT_VALID | (COUNT if self._count else 0)
            octets = encode(Frame(control, self._address, data), self._address_size)
            for _ in range(RETRIES + 1):
                if self._ended is not None:
                    raise self._ended
                self._reply = asyncio.get_running_loop().create_future()
                await self._channel.send(octets)
                self._sent_at = self._clock.monotonic()
                try:
                    async with asyncio.timeout(self._timeout_s):
                        reply = await self._reply
                except TimeoutError:
                    continue
                finally:
                    self._reply = None
                self._count = not self._count if counted else self._count
                return reply
            raise self._end(LineDown(f"no confirmation of {function.name.lower()} after {RETRIES + 1} attempts"))

    async def _read(self) -> None:
        rest = b""
        try:
            while True:
                try:
                    rest += await self._channel.receive(TEST_EVERY_S)
                except TimeoutError:
                    continue
                consumed, frame = scan(rest, self._address_size)
                while frame is not None:
                    rest = rest[consumed:]
                    await self._take(frame)
                    consumed, frame = scan(rest, self._address_size)
                rest = rest[consumed:][-MAX_HELD_BYTES:]
        except LineDown as exc:
            self._end(exc)

    async def _take(self, frame: Frame) -> None:
        if frame.single or not frame.primary:
            ours = frame.single or frame.address == self._address
            if ours and self._reply is not None and not self._reply.done():
                self._reply.set_result(frame)
            return
        if frame.address != self._address or frame.control & DIRECTION:
            return  # not for us, or our own echo
        counted, count = bool(frame.control & COUNT_VALID), bool(frame.control & COUNT)
        if counted and count == self._their_count:
            await self._channel.send(self._answered)  # our answer was lost
            return
        self._their_count = count if counted else self._their_count
        match frame.function:
            case Request.RESET_LINK:
                self._their_count = False  # what comes first after a reset has the bit set
                reply = Reply.ACK
            case Request.DATA | Request.DATA_NO_REPLY:
                if frame.data:
                    await self._received.put(frame.data)
                reply = Reply.ACK
            case Request.TEST:
                reply = Reply.ACK
            case Request.STATUS:
                reply = Reply.STATUS
            case _:
                reply = Reply.NOT_IMPLEMENTED
        if frame.function != Request.DATA_NO_REPLY:
            self._answered = encode(Frame(DIRECTION | reply, self._address), self._address_size)
            await self._channel.send(self._answered)

    async def _test(self) -> None:
        """Find out that the other side is gone, when nothing else is sent."""
        while True:
            idle_s = self._clock.monotonic() - self._sent_at
            if idle_s < TEST_EVERY_S:
                await self._clock.sleep(TEST_EVERY_S - idle_s)
                continue
            try:
                await self._request(Request.TEST)
            except LineDown:
                return

    def _end(self, exc: LineDown) -> LineDown:
        if self._ended is None:
            self._ended = exc
            if self._reply is not None and not self._reply.done():
                self._reply.set_exception(exc)
            if not self._received.full():
                self._received.put_nowait(None)
        return self._ended
