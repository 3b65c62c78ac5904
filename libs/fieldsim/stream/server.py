"""A line of meters as a stream of bytes, over TCP or on a pseudo terminal: only whoever is asked answers.

Devices of several protocols can share it, as they share an RS485 pair. A request is looked for in what has come by
every protocol on the line; wake-up bytes, noise and frames for nobody are thrown away.
"""

import asyncio
import os
import tty
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol, cast

from libs.common.clock import Clock
from libs.fieldsim.device import Device
from libs.fieldsim.faults import Drop, FaultBoard, Garbage, GarbageShape, Refuses, Silent, Slow, Stale
from libs.fieldsim.modbus import BACKLOG, NOISE, SPLIT_PAUSE_S, Traffic

MAX_BUFFER = 8192
"""Of what made no request; more is noise. [B]"""


class Face(ABC):
    """How one device looks on the line: its address and its frames."""

    protocol: ClassVar[str]

    def __init__(self, device: Device) -> None:
        self.device = device

    @staticmethod
    @abstractmethod
    def find(data: bytes) -> tuple[int, int] | None:
        """Return where the first whole request of this protocol begins and ends, None while there is none."""

    @abstractmethod
    def is_asked(self, frame: bytes) -> bool:
        """Return whether a request is for this device."""

    @abstractmethod
    def answer(self, frame: bytes, now_s: float) -> bytes | None:
        """Do what a request says and return the answer, None for what is not answered (a broadcast)."""

    @abstractmethod
    def refuse(self, frame: bytes, code: int) -> bytes:
        """Return an answer that says no."""

    @abstractmethod
    def foreign(self, answer: bytes) -> bytes:
        """Return an answer as if another device had given it."""

    @abstractmethod
    def misfit(self, answer: bytes) -> bytes:
        """Return an answer to another question."""

    def shown(self, values: Mapping[str, float]) -> dict[str, float | None]:
        """Return what a perfect reader gets of canonical values."""
        return {name: value for name, value in values.items() if name in self.device.profile.points}


class Wire(Protocol):
    """What an answer is written to."""

    def write(self, data: bytes) -> None:
        """Send."""

    def abort(self) -> None:
        """Break the connection."""


class StreamServer:
    """A line with devices on it.

    Args:
        faces: The devices.
        clock: What they are asked at.
        faults: The board that is looked at before every answer.
        host: Where to listen.
        port: 0: a free one, see ``port`` after ``start``.
        pty: Link to a pseudo terminal that the line is on, instead of listening.
        pace_s: Time that one answer keeps the line busy. [s]
    """

    def __init__(
        self,
        faces: Sequence[Face],
        *,
        clock: Clock,
        faults: FaultBoard,
        host: str = "127.0.0.1",
        port: int = 0,
        pty: Path | None = None,
        pace_s: float = 0.0,
    ) -> None:
        self.faces = tuple(faces)
        self.clock = clock
        self.faults = faults
        self.host = host
        self.port = port
        self.traffic = Traffic()
        self.connections: set[_Connection] = set()
        self._pty = pty
        self._pace_s = pace_s
        self._free_at = 0.0
        self._server: asyncio.Server | None = None
        self._terminal: _Terminal | None = None
        self._protocols: tuple[Callable[[bytes], tuple[int, int] | None], ...] = tuple(
            {face.protocol: face.find for face in faces}.values()
        )

    @property
    def endpoint(self) -> str:
        """``host:port``, or the path of the terminal."""
        return f"{self.host}:{self.port}" if self._pty is None else str(self._pty)

    async def start(self) -> None:
        """Listen, or open the terminal.

        Raises:
            OSError: The port is taken, or the path is.
        """
        loop = asyncio.get_running_loop()
        if self._pty is not None:
            self._terminal = _Terminal(self, self._pty, loop)
            return
        make: Callable[[], asyncio.Protocol] = lambda: _Connection(self)  # noqa: E731
        self._server = await loop.create_server(make, self.host, self.port, backlog=BACKLOG)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and break every connection."""
        if self._terminal is not None:
            self._terminal.close()
            self._terminal = None
        if self._server is None:
            return
        self._server.close()
        for connection in tuple(self.connections):
            connection.abort()
        await self._server.wait_closed()
        self._server = None

    def hear(self, buffer: bytearray, wire: Wire, held: list[bytes]) -> None:
        """Answer the whole requests in what has come and take them off.

        Args:
            buffer: What has come.
            wire: Where answers go.
            held: Answers that are held back for the next request.
        """
        while True:
            spans = [span for find in self._protocols if (span := find(bytes(buffer))) is not None]
            if not spans:
                del buffer[:-MAX_BUFFER]
                return
            start, end = min(spans)
            frame = bytes(buffer[start:end])
            del buffer[:end]
            self.traffic.requests += 1
            asked = [face for face in self.faces if face.find(frame) == (0, len(frame)) and face.is_asked(frame)]
            for face in asked:
                self._answer(face, frame, wire, held)

    def _answer(self, face: Face, frame: bytes, wire: Wire, held: list[bytes]) -> None:
        name, now_s = face.device.device_id, self.clock.now().timestamp()
        if self.faults.active(name, Drop, now_s):
            wire.abort()
            return
        if self.faults.active(name, Silent, now_s):
            return
        refuses = self.faults.active(name, Refuses, now_s)
        if refuses is not None:
            self.traffic.refused += 1
        answer = face.answer(frame, now_s) if refuses is None else face.refuse(frame, refuses.code)
        if answer is None:
            return
        for late in held:
            self._send(wire, late, 0.0)
        held.clear()
        if self.faults.active(name, Stale, now_s):
            held.append(answer)
            return
        slow = self.faults.active(name, Slow, now_s)
        garbage = self.faults.active(name, Garbage, now_s)
        pieces = [answer] if garbage is None else _garble(garbage.shape, face, answer)
        for number, piece in enumerate(pieces):
            self._send(wire, piece, (0.0 if slow is None else slow.delay_s) + number * SPLIT_PAUSE_S)

    def _send(self, wire: Wire, data: bytes, delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        if self._pace_s:
            self._free_at = max(self._free_at, loop.time()) + self._pace_s
            delay_s += self._free_at - loop.time()
        if delay_s > 0.0:
            loop.call_later(delay_s, wire.write, data)
        else:
            wire.write(data)


class _Connection(asyncio.Protocol):
    """One client over TCP."""

    def __init__(self, server: StreamServer) -> None:
        self._server = server
        self._buffer = bytearray()
        self._held: list[bytes] = []
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.connections.add(self)
        self._server.traffic.connections += 1
        self._server.traffic.accepted += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._server.connections.discard(self)
        self._server.traffic.connections -= 1

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._server.hear(self._buffer, self, self._held)

    def write(self, data: bytes) -> None:
        """Send, unless the client has gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def abort(self) -> None:
        """Reset the connection."""
        if self._transport is not None:
            self._transport.abort()


class _Terminal:
    """The line's end of a pseudo terminal; a link with a name of our own leads to the other."""

    def __init__(self, server: StreamServer, link: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._link = link
        self._loop = loop
        self._buffer = bytearray()
        self._held: list[bytes] = []
        self._ours, self._theirs = os.openpty()
        tty.setraw(self._theirs)
        os.set_blocking(self._ours, False)
        link.unlink(missing_ok=True)
        link.symlink_to(os.ttyname(self._theirs))
        loop.add_reader(self._ours, self._read)

    def write(self, data: bytes) -> None:
        """Send; what does not fit is lost, as on a line."""
        try:
            os.write(self._ours, data)
        except (BlockingIOError, OSError):
            return

    def abort(self) -> None:
        """Do nothing: a cable cannot be reset."""

    def close(self) -> None:
        """Take the terminal away."""
        self._loop.remove_reader(self._ours)
        os.close(self._ours)
        os.close(self._theirs)
        self._link.unlink(missing_ok=True)

    def _read(self) -> None:
        try:
            self._buffer += os.read(self._ours, 4096)
        except (BlockingIOError, OSError):
            return
        self._server.hear(self._buffer, self, self._held)


def _garble(shape: GarbageShape, face: Face, answer: bytes) -> list[bytes]:
    """Return the pieces that are sent instead of an answer."""
    half = len(answer) // 2
    match shape:
        case GarbageShape.NOISE:
            return [NOISE]
        case GarbageShape.WRONG_UNIT:
            return [face.foreign(answer)]
        case GarbageShape.WRONG_FUNCTION | GarbageShape.WRONG_COUNT | GarbageShape.WRONG_TRANSACTION:
            return [face.misfit(answer)]
        case GarbageShape.WRONG_CHECKSUM:
            broken = bytearray(answer)
            broken[-2] ^= 0x01
            return [bytes(broken)]
        case GarbageShape.TRUNCATED:
            return [answer[:half]]
        case GarbageShape.DOUBLED:
            return [answer + answer]
        case GarbageShape.SPLIT:
            return [answer[:half], answer[half:]]
