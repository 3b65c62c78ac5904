"""The unbalanced link of 101 and 103: one master asks, several stations on one line answer.

Each station is asked in turn for class 2 data, and for class 1 as long as it says that it has some; what is to be
sent goes first. A station that does not answer is left alone for growing pauses, so that the others keep their pace.
hat-drivers' link layer is not used: it takes any answer for the one that it waits for, whoever's address it bears,
and has serial ports only.

Source:
    IEC 60870-5-2:1992 clause 5; IEC 60870-5-101:2003 clause 6.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from libs.common.backoff import Backoff
from libs.common.clock import Clock
from services.ingest.domain.codecs.ft12 import COUNT, COUNT_VALID, PRIMARY, Frame, Reply, Request, encode, scan
from services.ingest.drivers.port import DeviceSilent, LineDown
from services.ingest.drivers.stream import StreamLine

logger = logging.getLogger(__name__)

RETRIES = 1
"""Further attempts of a frame that was not answered, with the same count bit."""
PAUSE_FIRST_S, PAUSE_CAP_S = 1.0, 60.0
"""Pauses between attempts to reach a station that does not answer. [s]"""
BUSY_PAUSE_S = 0.5
KEPT = 1024
"""ASDUs that wait for whoever takes them; then the line waits too."""


@dataclass(slots=True)
class _Outgoing:
    """An ASDU on its way."""

    asdu: bytes
    done: "asyncio.Future[None]"


@dataclass(slots=True)
class _Secondary:
    """One station on the line."""

    station: int
    address: int
    """Of its link."""
    reset: bool = False
    """Whether its link has been reset since it was last lost."""
    count: bool = True
    """Frame count bit of the next frame."""
    class_1: bool = False
    """It has class 1 data."""
    due_at: float = 0.0
    """When it is asked next. [s]"""
    outgoing: deque[_Outgoing] = field(default_factory=deque)
    pauses: Backoff = field(default_factory=lambda: Backoff(first_s=PAUSE_FIRST_S, cap_s=PAUSE_CAP_S))


class UnbalancedLink:
    """Carries ASDUs between a master and its stations; implements ``Link``."""

    def __init__(
        self,
        line: StreamLine,
        stations: Collection[int],
        *,
        link_address: Callable[[int], int],
        address_size: int,
        poll_s: float,
        clock: Clock,
    ) -> None:
        """Begin to ask.

        Args:
            line: Whose channel is used by nobody else.
            stations: By common address.
            link_address: Of a station.
            address_size: Of a link address. [B]
            poll_s: Between two questions to a station that has nothing to tell. [s]
            clock: Ours.
        """
        self._line = line
        self._link_address = link_address
        self._address_size = address_size
        self._poll_s = poll_s
        self._clock = clock
        self._secondaries = {station: _Secondary(station, link_address(station)) for station in sorted(stations)}
        self._received: asyncio.Queue[bytes | None] = asyncio.Queue(KEPT)
        self._wake = asyncio.Event()
        self._ended: LineDown | None = None
        self._tell_back: Callable[[int], None] = lambda station: None
        self._task = asyncio.create_task(self._work(), name="unbalanced link")

    async def send(self, asdu: bytes, station: int) -> None:
        """Return once the station's link has confirmed the ASDU.

        Raises:
            LineDown: The line is gone.
            DeviceSilent: The station has not confirmed it; it may have it all the same.
        """
        if self._ended is not None:
            raise self._ended
        secondary = self._secondaries.get(station)
        if secondary is None:
            secondary = self._secondaries[station] = _Secondary(station, self._link_address(station))
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        secondary.outgoing.append(_Outgoing(asdu, done))
        secondary.due_at = self._clock.monotonic()
        self._wake.set()
        await done

    async def receive(self) -> bytes:
        """Return the next ASDU of any station."""
        if self._ended is not None and self._received.empty():
            raise self._ended
        data = await self._received.get()
        if data is None:
            raise self._ended or LineDown("the line was closed")
        return data

    def on_back(self, listener: Callable[[int], None]) -> None:
        """Call ``listener`` with every station that answers again."""
        self._tell_back = listener

    async def close(self) -> None:
        """Stop asking and close the channel."""
        while not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=0.2)
        self._end(LineDown("the line was closed"))
        await self._line.close()

    async def _work(self) -> None:
        try:
            while True:
                now = self._clock.monotonic()
                secondary = min(self._secondaries.values(), key=lambda found: found.due_at)
                if secondary.due_at > now:
                    await self._rest(secondary.due_at - now)
                    continue
                try:
                    await self._serve(secondary)
                except DeviceSilent as exc:
                    self._lose(secondary, exc)
        except LineDown as exc:
            self._end(exc)

    async def _rest(self, wait_s: float) -> None:
        self._wake.clear()
        try:
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _serve(self, secondary: _Secondary) -> None:
        """Do one thing with a station: bring its link up, send, or ask.

        Raises:
            LineDown: The line is gone.
            DeviceSilent: It does not answer.
        """
        if not secondary.reset:
            await self._reset(secondary)
        self._drop_given_up(secondary)
        if secondary.outgoing:
            await self._send_next(secondary)
            return
        function = Request.CLASS_1 if secondary.class_1 else Request.CLASS_2
        reply = await self._exchange(secondary, function)
        secondary.class_1 = reply.more_to_tell
        told = not reply.single and reply.function == Reply.DATA
        if told:
            await self._received.put(reply.data)
        # One that had something may have more; it still waits until the others were asked.
        secondary.due_at = self._clock.monotonic() + (0.0 if told or secondary.class_1 else self._poll_s)

    async def _reset(self, secondary: _Secondary) -> None:
        reply = await self._exchange(secondary, Request.RESET_LINK, counted=False)
        if reply.function != Reply.ACK:
            raise DeviceSilent(f"station {secondary.station}: its link does not reset (function {reply.function})")
        secondary.reset = secondary.count = True
        if not secondary.pauses.first:
            logger.info("station answers again", extra={"station": secondary.station})
            self._tell_back(secondary.station)
        secondary.pauses.reset()

    async def _send_next(self, secondary: _Secondary) -> None:
        outgoing = secondary.outgoing[0]
        reply = await self._exchange(secondary, Request.DATA, outgoing.asdu)
        secondary.class_1 |= reply.more_to_tell
        if reply.function == Reply.NACK:
            secondary.due_at = self._clock.monotonic() + BUSY_PAUSE_S  # it is busy; whoever sends has a limit
            return
        secondary.outgoing.popleft()
        if not outgoing.done.done():
            outgoing.done.set_result(None)
        secondary.due_at = self._clock.monotonic()

    async def _exchange(
        self, secondary: _Secondary, function: Request, data: bytes = b"", *, counted: bool = True
    ) -> Frame:
        control = PRIMARY | function
        if counted:
            control |= COUNT_VALID | (COUNT if secondary.count else 0)
        request = encode(Frame(control, secondary.address, data), self._address_size)
        what = f"station {secondary.station}: {function.name.lower()}"

        def look(buffer: bytes) -> tuple[int, Frame | None]:
            consumed, frame = scan(buffer, self._address_size)
            if frame is None or frame.single or (not frame.primary and frame.address == secondary.address):
                return consumed, frame
            return consumed, None  # of another station, or our own echo

        left = RETRIES
        while True:
            try:
                reply = await self._line.exchange(request, look, device=str(secondary.station), what=what)
            except DeviceSilent:
                if not left:
                    raise
                left -= 1
            else:
                secondary.count = not secondary.count if counted else secondary.count
                return reply

    def _lose(self, secondary: _Secondary, exc: DeviceSilent) -> None:
        """Leave a station alone that does not answer, and tell whoever wants to send to it."""
        if secondary.pauses.first:
            logger.info("station does not answer", extra={"station": secondary.station, "reason": exc.message})
        secondary.reset = secondary.class_1 = False
        secondary.due_at = self._clock.monotonic() + secondary.pauses.next_s()
        while secondary.outgoing:
            done = secondary.outgoing.popleft().done
            if not done.done():
                done.set_exception(exc)

    @staticmethod
    def _drop_given_up(secondary: _Secondary) -> None:
        """Forget what nobody waits for any more: it must not be sent later."""
        while secondary.outgoing and secondary.outgoing[0].done.done():
            secondary.outgoing.popleft()

    def _end(self, exc: LineDown) -> None:
        if self._ended is not None:
            return
        self._ended = exc
        for secondary in self._secondaries.values():
            while secondary.outgoing:
                done = secondary.outgoing.popleft().done
                if not done.done():
                    done.set_exception(exc)
        if not self._received.full():
            self._received.put_nowait(None)
