"""A peer on TCP that breaks every rule that a stream of bytes can be broken by, whatever protocol flows in it.

It plays a line with two devices. What the victim is asked is answered by a trick; its neighbour is answered as it
should be, so that a test sees whether one bad device costs the others anything. Tricks are changed while it runs.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Protocol

NOISE = bytes(range(256)) + b"\xff" * 32 + b"\0" * 32
"""Every byte once, so every protocol's first one among them, and long runs of ones and of zeros."""
FLOOD = NOISE * 100
PIECE_PAUSE_S, FLOOD_PAUSE_S = 0.0005, 0.005


class Trick(StrEnum):
    """What becomes of an answer."""

    PIECES = "pieces"
    """It comes byte by byte."""
    DOUBLED = "doubled"
    """It comes twice in one segment."""
    GARBAGE_FIRST = "garbage first"
    """Noise stands before it."""
    ECHO_FIRST = "echo first"
    """Our own question comes back before it, as from a half-duplex converter."""
    NEVER = "never"
    LATE = "late"
    """It comes when nobody waits for it any more."""
    HALF = "half"
    """Its second half never comes."""
    DRIBBLED = "dribbled"
    """It comes byte by byte, so slowly that the time is up long before its end."""
    CORRUPT = "corrupt"
    """One bit of it is another."""
    FOREIGN = "foreign"
    """Another device's answer comes in its place."""
    MISFIT = "misfit"
    """The answer to another question comes in its place."""
    ECHO = "echo"
    """Our own question comes back, and nothing else."""
    ENDLESS = "endless"
    """Noise comes without end."""
    BEGINNINGS = "beginnings"
    """First bytes of an answer come again and again without end."""
    HUGE = "huge"
    """The largest length that a frame can claim comes, and nothing after it."""
    ONES = "ones"
    """Nothing but ones, as from a line without its terminator."""
    RESET = "reset"
    """The connection is reset."""
    HANGS_UP = "hangs up"
    """The connection is closed in the middle of the answer."""


COMES_TRUE = frozenset({Trick.PIECES, Trick.DOUBLED, Trick.GARBAGE_FIRST, Trick.ECHO_FIRST})
"""Tricks under which the right answer comes all the same."""
LASTS = frozenset({Trick.DRIBBLED, Trick.ENDLESS, Trick.BEGINNINGS})
"""Tricks that leave the line no silence."""


class Words(Protocol):
    """A protocol, as far as the peer has to know it."""

    huge: bytes
    """A beginning that claims as much as the protocol can say."""

    def find(self, data: bytes) -> tuple[int, int] | None:
        """Return where the first whole question begins and ends, None while there is none."""

    def answer(self, question: bytes) -> bytes | None:
        """Return the right answer of whoever is asked, None where nobody is."""

    def is_for_victim(self, question: bytes) -> bool:
        """Return whether the device is asked that tricks are played with."""

    def foreign(self, answer: bytes) -> bytes:
        """Return the answer as if another device had given it."""

    def misfit(self, answer: bytes) -> bytes:
        """Return an answer to another question."""


class HostilePeer:
    """A line of two devices, one of which is not what it should be.

    Args:
        words: How the devices speak.
        late_s: How late an answer is that comes too late; a byte of one that is dribbled takes a quarter. [s]
    """

    def __init__(self, words: Words, *, late_s: float) -> None:
        self.trick: Trick | None = None
        """None: it behaves."""
        self.questions = 0
        self.connections = 0
        self.sent_bytes = 0
        self.port = 0
        self._words = words
        self._late_s = late_s
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["HostilePeer"]:
        """Listen on a free port."""
        server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            await self._stop()

    @asynccontextmanager
    async def dialling(self, port: int, registration: bytes) -> AsyncIterator["HostilePeer"]:
        """Dial in to a port as a data terminal does, and again whenever the connection has ended."""
        task = asyncio.create_task(self._dial(port, registration), name="hostile terminal")
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.wait([task])
            await self._stop()

    async def _dial(self, port: int, registration: bytes) -> None:
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(registration)
            await self._serve(reader, writer)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer), name="hostile connection")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stop(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection until it ends; what goes on beside it ends with it."""
        self.connections += 1
        buffer = b""
        beside: set[asyncio.Task[None]] = set()
        try:
            while data := await reader.read(4096):
                buffer += data
                while (span := self._words.find(buffer)) is not None:
                    question, buffer = buffer[span[0] : span[1]], buffer[span[1] :]
                    self.questions += 1
                    answer = self._words.answer(question)
                    if answer is None:
                        continue
                    if self.trick is None or not self._words.is_for_victim(question):
                        self._send(writer, answer)
                        continue
                    task = asyncio.create_task(self._play(self.trick, question, answer, writer), name="trick")
                    beside.add(task)
                    task.add_done_callback(beside.discard)
        except ConnectionError:
            pass
        finally:
            for task in tuple(beside):
                task.cancel()
            if beside:
                await asyncio.wait(tuple(beside))
            writer.close()

    async def _play(self, trick: Trick, question: bytes, answer: bytes, writer: asyncio.StreamWriter) -> None:
        half = answer[: len(answer) // 2]
        match trick:
            case Trick.NEVER:
                pass
            case Trick.PIECES:
                await self._piecewise(writer, answer, PIECE_PAUSE_S)
            case Trick.DRIBBLED:
                await self._piecewise(writer, answer, self._late_s / 4)
            case Trick.LATE:
                await asyncio.sleep(self._late_s)
                self._send(writer, answer)
            case Trick.ENDLESS:
                await self._flood(writer, FLOOD)
            case Trick.BEGINNINGS:
                await self._flood(writer, answer[:3] * 10_000)
            case Trick.RESET:
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            case Trick.HANGS_UP:
                self._send(writer, half)
                writer.close()
            case _:
                self._send(writer, self._instead(trick, question, answer, half))

    def _instead(self, trick: Trick, question: bytes, answer: bytes, half: bytes) -> bytes:
        """Return what is sent at once in place of an answer."""
        match trick:
            case Trick.DOUBLED:
                return answer + answer
            case Trick.GARBAGE_FIRST:
                return NOISE + answer
            case Trick.ECHO_FIRST:
                return question + answer
            case Trick.ECHO:
                return question
            case Trick.HALF:
                return half
            case Trick.CORRUPT:
                return half[:-1] + bytes((half[-1] ^ 0x01,)) + answer[len(half) :]
            case Trick.FOREIGN:
                return self._words.foreign(answer)
            case Trick.MISFIT:
                return self._words.misfit(answer)
            case Trick.HUGE:
                return self._words.huge
            case Trick.ONES:
                return b"\xff" * 256
            case _:
                raise ValueError(f"{trick} takes time")

    async def _piecewise(self, writer: asyncio.StreamWriter, answer: bytes, pause_s: float) -> None:
        for n in range(len(answer)):
            self._send(writer, answer[n : n + 1])
            await asyncio.sleep(pause_s)

    async def _flood(self, writer: asyncio.StreamWriter, chunk: bytes) -> None:
        try:
            while not writer.is_closing():
                self._send(writer, chunk)
                await writer.drain()
                await asyncio.sleep(FLOOD_PAUSE_S)
        except ConnectionError:
            pass

    def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if not writer.is_closing():
            writer.write(data)
            self.sent_bytes += len(data)
