"""Streams of bytes to the devices of a line: a TCP connection and a serial port.

A channel knows nothing of frames. What comes while nobody asks is kept up to a limit and then thrown away: by the
time somebody asks it is no answer to that.
"""

import asyncio
import os
import socket
import termios
from collections.abc import Callable

import serial

from services.ingest.drivers.port import LineDown

CONNECT_TIMEOUT_S = 5.0
SEND_TIMEOUT_S = 5.0
"""A serial port that takes no bytes for this long is out of order (flow control, a device that was pulled). [s]"""
MAX_KEPT_BYTES = 4096
"""Of what came and was not taken; an answer has at most a few hundred. [B]"""
MAX_UNSENT_BYTES = 4096
"""A peer that takes less than this of what is sent is as good as gone. [B]"""


class Inbox:
    """What has come and was not taken yet."""

    __slots__ = ("_data", "_ended", "_waiter")

    def __init__(self) -> None:
        self._data = bytearray()
        self._ended: str | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def ended(self) -> str | None:
        """Why nothing more comes; None while something may."""
        return self._ended

    def feed(self, data: bytes) -> None:
        """Add what came; of more than ``MAX_KEPT_BYTES`` the oldest are dropped."""
        self._data += data
        if len(self._data) > MAX_KEPT_BYTES:
            del self._data[:-MAX_KEPT_BYTES]
        self._wake()

    def end(self, reason: str) -> None:
        """Say that nothing more comes."""
        if self._ended is None:
            self._ended = reason
        self._wake()

    async def take(self, timeout_s: float) -> bytes:
        """Return all that came, at least one byte; with 0 what has come already.

        Raises:
            TimeoutError: Nothing came in time.
            LineDown: All was taken and nothing more comes.
        """
        if not self._data:
            async with asyncio.timeout(max(timeout_s, 0.0)):
                while not self._data:
                    if self._ended is not None:
                        raise LineDown(self._ended)
                    self._waiter = asyncio.get_running_loop().create_future()
                    try:
                        await self._waiter
                    finally:
                        self._waiter = None
        taken = bytes(self._data)
        self._data.clear()
        return taken

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Connection(asyncio.Protocol):
    """One TCP connection, whoever made it."""

    __slots__ = ("inbox", "place", "transport")

    def __init__(self, place: str = "") -> None:
        """Prepare.

        Args:
            place: What to call the other side in messages; empty takes its address.
        """
        self.place = place
        self.inbox = Inbox()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport, and let the kernel notice a peer that is gone."""
        self.transport = transport  # type: ignore[assignment]  # uvloop's is none, but behaves like one
        self.place = self.place or _peer(transport)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        """Keep what came."""
        self.inbox.feed(data)

    def eof_received(self) -> bool | None:
        """Close: there is no half-open conversation with a device."""
        self.inbox.end(f"{self.place} has hung up")
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        self.inbox.end(f"{self.place}: {exc}" if exc is not None else f"{self.place} has hung up")

    def send(self, data: bytes) -> None:
        """Send. Raises ``LineDown`` when nobody takes it."""
        if self.transport is None or self.inbox.ended is not None:
            raise LineDown(self.inbox.ended or f"{self.place} is not connected")
        if self.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            raise LineDown(f"{self.place} does not take what is sent")
        self.transport.write(data)

    def abort(self) -> None:
        """Disconnect at once; what was not sent yet is nobody's any more."""
        self.inbox.end(f"{self.place} was disconnected")
        if self.transport is not None:
            self.transport.abort()


class TcpChannel:
    """A connection that we make."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._connection: Connection | None = None

    async def open(self) -> None:
        """Connect unless connected."""
        if self._connection is not None and self._connection.inbox.ended is None:
            return
        await self.close()
        place = f"{self._host}:{self._port}"
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, self._connection = await loop.create_connection(lambda: Connection(place), self._host, self._port)
        except TimeoutError:
            raise LineDown(f"{place} cannot be connected: no answer within {CONNECT_TIMEOUT_S:g} s") from None
        except (OSError, UnicodeError) as exc:  # a name that cannot even be asked for
            raise LineDown(f"{place} cannot be connected: {exc}") from exc

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        self._connected().send(data)

    async def receive(self, timeout_s: float) -> bytes:
        """Return what comes next."""
        return await self._connected().inbox.take(timeout_s)

    async def close(self) -> None:
        """Disconnect."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
            await asyncio.sleep(0)  # the loop lets go of the socket in its next round

    def _connected(self) -> Connection:
        if self._connection is None:
            raise LineDown(f"{self._host}:{self._port} is not connected")
        return self._connection


class SerialChannel:
    """A serial port: an RS485 or RS232 adapter of this machine."""

    def __init__(self, path: str, *, baud: int, data_bits: int = 8, parity: str = "N", stop_bits: int = 1) -> None:
        """Prepare a port; nothing is opened yet.

        Args:
            path: The device, ``/dev/ttyUSB0`` or better one of ``/dev/serial/by-id``, which survives replugging.
            baud: Speed. [bit/s]
            data_bits: 7 or 8.
            parity: N, E or O.
            stop_bits: 1 or 2.
        """
        self._path = path
        self._baud = baud
        self._data_bits = data_bits
        self._parity = parity
        self._stop_bits = stop_bits
        self._port: serial.Serial | None = None
        self._inbox = Inbox()

    async def open(self) -> None:
        """Open the port unless it is open, for this process alone."""
        if self._port is not None and self._inbox.ended is None:
            return
        await self.close()
        try:
            # Opens without waiting for a carrier and returns at once.
            self._port = serial.Serial(
                port=self._path,
                baudrate=self._baud,
                bytesize=self._data_bits,
                parity=self._parity,
                stopbits=self._stop_bits,
                timeout=0,
                exclusive=True,
            )
        except (OSError, ValueError, termios.error) as exc:
            settings = f"{self._baud} {self._data_bits}{self._parity}{self._stop_bits}"
            raise LineDown(f"{self._path} cannot be opened with {settings}: {exc}") from exc
        self._inbox = Inbox()
        asyncio.get_running_loop().add_reader(self._port.fileno(), self._read)

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        port = self._opened()
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                while data:
                    data = data[_write(port.fileno(), data) :]
                    if data:
                        await _writable(port.fileno())
        except TimeoutError:
            raise LineDown(f"{self._path} takes no bytes") from None
        except OSError as exc:
            self._inbox.end(f"{self._path}: {exc}")
            raise LineDown(f"{self._path}: {exc}") from exc

    async def receive(self, timeout_s: float) -> bytes:
        """Return what comes next."""
        self._opened()
        return await self._inbox.take(timeout_s)

    async def close(self) -> None:
        """Close the port."""
        port, self._port = self._port, None
        if port is not None:
            asyncio.get_running_loop().remove_reader(port.fileno())
            port.close()

    def _opened(self) -> serial.Serial:
        if self._port is None:
            raise LineDown(f"{self._path} is not open")
        return self._port

    def _read(self) -> None:
        """Take what the kernel has; called by the loop."""
        port = self._port
        if port is None:
            return
        try:
            data = os.read(port.fileno(), MAX_KEPT_BYTES)
        except BlockingIOError:
            return
        except OSError as exc:
            self._lost(port, f"{self._path}: {exc}")
            return
        if data:
            self._inbox.feed(data)
        else:
            self._lost(port, f"{self._path} is gone")

    def _lost(self, port: serial.Serial, reason: str) -> None:
        # A port that is gone stays readable for ever: the loop must not ask again.
        asyncio.get_running_loop().remove_reader(port.fileno())
        self._inbox.end(reason)


def _peer(transport: asyncio.BaseTransport) -> str:
    name = transport.get_extra_info("peername")
    return f"{name[0]}:{name[1]}" if name else "the other side"


def _write(fd: int, data: bytes) -> int:
    try:
        return os.write(fd, data)
    except BlockingIOError:
        return 0


async def _writable(fd: int) -> None:
    """Return when the port takes bytes again."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    say: Callable[[], None] = lambda: None if ready.done() else ready.set_result(None)  # noqa: E731
    loop.add_writer(fd, say)
    try:
        await ready
    finally:
        loop.remove_writer(fd)
