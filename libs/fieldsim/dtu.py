"""Data terminals (DTU) that dial in: they register, send heartbeats and carry bytes to a slave.

What a 4G terminal on an RS485 pair does, with a TCP port in place of the pair: any slave that speaks a stream protocol
stands behind it, those of this package with framing ``rtu`` too.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

from libs.common.clock import Clock

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1024
"""A terminal sends what it has read from the pair in pieces of about this. [B]"""
DIAL_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """One terminal as it is configured."""

    server: tuple[str, int]
    """Where it dials to."""
    registration: bytes
    """Sent once, right after connecting."""
    slave: tuple[str, int] | None = None
    """What is on its pair; None is nothing."""
    heartbeat: bytes = b""
    """Empty sends none."""
    heartbeat_every_s: float = 60.0
    redial_s: float = 5.0
    """Pause before it dials again. [s]"""
    latency_s: float = 0.0
    """One way through the network. [s]"""


class Dialling:
    """Terminals while they run."""

    def __init__(self, terminals: list[Terminal], *, clock: Clock) -> None:
        self._terminals = terminals
        self._clock = clock
        self._writers: set[asyncio.StreamWriter] = set()
        self.dialled = 0
        """Connections made so far."""

    @property
    def connected(self) -> int:
        """How many are connected now."""
        return len(self._writers)

    async def run(self) -> None:
        """Dial and stay connected, for ever."""
        async with asyncio.TaskGroup() as group:
            for number, terminal in enumerate(self._terminals):
                group.create_task(self._stay_connected(terminal), name=f"dtu {number}")

    def hang_up(self) -> None:
        """End every connection, as a mast that reboots does; they dial again."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _stay_connected(self, terminal: Terminal) -> None:
        while True:
            try:
                async with asyncio.timeout(DIAL_TIMEOUT_S):
                    reader, writer = await asyncio.open_connection(*terminal.server)
            except (OSError, TimeoutError) as exc:
                logger.debug("terminal cannot dial", extra={"reason": str(exc)})
            else:
                await self._serve(terminal, reader, writer)
            await self._clock.sleep(terminal.redial_s)

    async def _serve(self, terminal: Terminal, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self.dialled += 1
        beating = asyncio.create_task(self._beat(terminal, writer), name="dtu heartbeat")
        try:
            writer.write(terminal.registration)
            async with _on_the_pair(terminal) as pair:
                await self._carry(terminal, reader, writer, pair)
        except OSError as exc:
            logger.debug("terminal disconnected", extra={"reason": str(exc)})
        finally:
            self._writers.discard(writer)
            beating.cancel()
            await asyncio.wait([beating])
            writer.transport.abort()

    async def _carry(
        self, terminal: Terminal, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pair: "_Pair | None"
    ) -> None:
        """Carry bytes both ways until one side has gone."""
        answering: asyncio.Task[None] | None = None
        try:
            while data := await reader.read(CHUNK_BYTES):
                if pair is None:
                    continue
                if terminal.latency_s:
                    await self._clock.sleep(terminal.latency_s)
                answers = await pair.send(data)
                if answering is None or answering.done():
                    answering = asyncio.create_task(self._answer(terminal, answers, writer), name="dtu answers")
        finally:
            if answering is not None:
                answering.cancel()
                await asyncio.wait([answering])

    async def _answer(self, terminal: Terminal, answers: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):  # the slave is gone; the next request looks for it again
            while data := await answers.read(CHUNK_BYTES):
                if terminal.latency_s:
                    await self._clock.sleep(terminal.latency_s)
                writer.write(data)

    async def _beat(self, terminal: Terminal, writer: asyncio.StreamWriter) -> None:
        while terminal.heartbeat:
            await self._clock.sleep(terminal.heartbeat_every_s)
            writer.write(terminal.heartbeat)


class _Pair:
    """The slave behind a terminal; connected when the first byte is for it, so that idle terminals cost little."""

    def __init__(self, slave: tuple[str, int]) -> None:
        self._slave = slave
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, data: bytes) -> asyncio.StreamReader:
        """Send to the slave, and return where its answers come from."""
        if self._streams is None or self._streams[0].at_eof():
            await self.close()
            self._streams = await asyncio.open_connection(*self._slave)
        self._streams[1].write(data)
        return self._streams[0]

    async def close(self) -> None:
        """Disconnect."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def _on_the_pair(terminal: Terminal) -> AsyncIterator[_Pair | None]:
    pair = None if terminal.slave is None else _Pair(terminal.slave)
    try:
        yield pair
    finally:
        if pair is not None:
            await pair.close()
