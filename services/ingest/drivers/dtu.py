"""Devices behind data terminals (DTU) that dial in to us: one listening port, many lines.

A terminal connects over the cellular network, sends its registration packet and from then on carries bytes between
us and its RS485 pair, with a heartbeat now and then. The packet says which line it is; after that the connection is
a ``Channel`` like any other. The newest connection of a line wins: a terminal that lost its network dials again long
before anybody notices that the old connection is dead.

A connection costs one small object and no task, so that ten thousand can be idle in one process.
"""

import asyncio
import logging
from bisect import bisect_left
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from libs.common.clock import Clock
from libs.common.errors import InvalidInput, Unavailable
from libs.common.registry.packets import Pattern, parse_packet, parse_pattern
from services.ingest import metrics
from services.ingest.drivers.channel import MAX_KEPT_BYTES, Connection
from services.ingest.drivers.port import LineDown
from services.ingest.settings import DtuSettings

logger = logging.getLogger(__name__)

BACKLOG = 4096
"""Connections that may wait to be taken: after an outage all terminals come back together."""
SETTLE_S = 1.0
"""A packet that is the beginning of another line's packet too is believed after this silence. [s]"""
RESENT_FROM_BYTES = 4
"""A registration packet this long that comes again is a heartbeat, or stands before a frame, and no data."""


class CannotListen(Unavailable):
    """The port for terminals cannot be had."""

    code = "cannot_listen"
    title_zh = "无法监听"


@dataclass(frozen=True, slots=True)
class Registration:
    """How the terminal of a line makes itself known."""

    packet: bytes
    noise: tuple[Pattern, ...] = ()
    """What it sends besides data."""

    @classmethod
    def of(cls, endpoint: str, heartbeat: str | None) -> "Registration":
        """Return the registration of a line from its endpoint and its setting ``heartbeat``.

        Raises:
            InvalidInput: One of them cannot be read.
        """
        try:
            packet = parse_packet(endpoint)
        except ValueError as exc:
            raise InvalidInput(
                f"endpoint {endpoint!r}: expected a registration packet, text or hex: and bytes; {exc}",
                message_zh=f"端点 {endpoint!r} 应为注册包(文本,或 hex: 加字节)",
            ) from None
        try:
            noise: tuple[Pattern, ...] = () if heartbeat is None else (parse_pattern(heartbeat),)
        except ValueError as exc:
            raise InvalidInput(
                f"settings.heartbeat {heartbeat!r}: expected text or hex: and bytes, with ? and one * for any; {exc}",
                message_zh=f"settings.heartbeat {heartbeat!r} 应为文本,或 hex: 加字节,可用 ? 和一个 * 表示任意字节",
            ) from None
        if len(packet) >= RESENT_FROM_BYTES:
            noise += (Pattern(tuple(packet)),)
        return cls(packet, noise)


class HubWatch(Protocol):
    """Whoever has to know what happens at the port."""

    def connected(self, line_id: str) -> None:
        """The terminal of a line is there, or there again."""

    def refused(self, place: str, packet: bytes, reason: str) -> None:
        """A connection is not wanted; ``packet`` is what it sent."""


class DtuConnection(Connection):
    """One terminal."""

    __slots__ = ("_hub", "accepted_at", "heard_at", "line_id", "packet", "registration")

    def __init__(self, hub: "DtuHub") -> None:
        super().__init__()
        self._hub = hub
        self.accepted_at = 0.0
        self.heard_at = 0.0
        self.packet = b""
        """What came before it was known."""
        self.line_id: str | None = None
        self.registration: Registration | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the registration packet."""
        super().connection_made(transport)
        self._hub.arrived(self)

    def data_received(self, data: bytes) -> None:
        """Learn who it is, then keep what it carries."""
        self._hub.heard(self)
        if self.registration is None:
            self.packet += data
            self._hub.identify(self)
        else:
            self.carry(data)

    def carry(self, data: bytes) -> None:
        """Keep what is data."""
        if self.registration is not None:
            # More than is kept is not looked at: one that sends heartbeats without end must not hold up the others.
            data = without_noise(data[-MAX_KEPT_BYTES:], self.registration.noise)
        if data:
            self.inbox.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        super().connection_lost(exc)
        self._hub.left(self)


def without_noise(data: bytes, noise: Collection[Pattern]) -> bytes:
    """Return a piece of the stream without the heartbeats before and behind the data in it.

    A heartbeat of one byte is told from data only where it is all that came. What is left in the middle of data is
    no harm: whoever looks for a frame passes over it, or finds the checksum wrong.
    """
    cut = True
    while cut and data:
        cut = False
        for pattern in noise:
            end = pattern.end_in(data)
            if end is not None and (end > 1 or end == len(data)):
                data, cut = data[end:], True
            start = pattern.start_in(data) if data else None
            if start is not None and (len(data) - start > 1 or start == 0):
                data, cut = data[:start], True
    return data


class DtuHub:
    """The terminals that are connected to this process, by line."""

    def __init__(self, *, clock: Clock, settings: DtuSettings, watch: HubWatch) -> None:
        self.settings = settings
        self._clock = clock
        self._watch = watch
        self._lines: dict[str, Registration] = {}
        self._by_packet: dict[bytes, str] = {}
        self._ordered: list[bytes] | None = None
        self._lengths: list[int] = []
        self._waiting: dict[DtuConnection, None] = {}
        self._connected: dict[str, DtuConnection] = {}
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int | None:
        """Where it listens now."""
        return None if self._server is None else int(self._server.sockets[0].getsockname()[1])

    @property
    def knows_lines(self) -> bool:
        """Whether any line could dial in."""
        return bool(self._lines)

    def learn(self, line_id: str, registration: Registration | None) -> str | None:
        """Learn how a line registers, None when it is gone or no line of terminals any more.

        Returns:
            The other line that registers with the same packet, and keeps it; None when there is none.
        """
        known = self._lines.get(line_id)
        if known == registration:
            return None
        if known is not None:
            del self._lines[line_id], self._by_packet[known.packet]
            self._ordered = None
        if registration is None:
            self.drop(line_id)
            return None
        other = self._by_packet.get(registration.packet)
        if other is not None:
            self.drop(line_id)
            return other
        self._lines[line_id] = registration
        self._by_packet[registration.packet] = line_id
        self._ordered = None
        connection = self._connected.get(line_id)
        if connection is not None and known is not None and known.packet != registration.packet:
            self.drop(line_id)
        elif connection is not None:
            connection.registration = registration
        return None

    def channel(self, line_id: str) -> "DtuChannel":
        """Return the way to the devices of a line, whether its terminal is there or not."""
        return DtuChannel(self, line_id)

    def connected(self) -> Collection[str]:
        """Return the lines whose terminals are there."""
        return self._connected.keys()

    def connection(self, line_id: str) -> DtuConnection | None:
        """Return the terminal of a line, None when it is not there."""
        return self._connected.get(line_id)

    def drop(self, line_id: str) -> None:
        """Disconnect the terminal of a line: it belongs to another process, or to nobody."""
        connection = self._connected.pop(line_id, None)
        if connection is not None:
            connection.abort()

    async def listen(self) -> None:
        """Take connections from now on.

        Raises:
            CannotListen: The address cannot be had.
        """
        host, port = self.settings.host, self.settings.port
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: DtuConnection(self), host, port, backlog=BACKLOG
            )
        except OSError as exc:
            raise CannotListen(
                f"terminals cannot be listened to on {host}:{port}: {exc.strerror or exc}; "
                "WATTRING_INGEST__DTU__PORT chooses another port",
                message_zh=f"无法在 {host}:{port} 监听 DTU 连接;可用 WATTRING_INGEST__DTU__PORT 另选端口",
            ) from exc
        logger.info("listening for terminals", extra={"address": f"{host}:{self.port}"})

    async def close(self) -> None:
        """Disconnect all of them and listen no longer."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for connection in (*self._waiting, *self._connected.values()):
            connection.abort()
        self._waiting.clear()
        self._connected.clear()
        await asyncio.sleep(0)  # the loop lets go of the sockets in its next round
        metrics.DTU_CONNECTIONS.set(0)

    def sweep(self) -> None:
        """Let go of who does not register in time, and of who has been silent for too long; from time to time."""
        now = self._clock.monotonic()
        for connection in [found for found in self._waiting if now - found.heard_at >= SETTLE_S]:
            self._settle(connection)
        for connection in list(self._waiting):  # in the order of their arrival
            if now - connection.accepted_at < self.settings.registration_within_s:
                break
            self._refuse(connection, f"no known registration packet within {self.settings.registration_within_s:g} s")
        silent = [line_id for line_id, found in self._connected.items() if now - found.heard_at >= self.settings.idle_s]
        for line_id in silent:
            logger.info("terminal disconnected after its silence", extra={"line_id": line_id})
            self.drop(line_id)
        metrics.DTU_CONNECTIONS.set(len(self._connected))

    # What the connections tell.

    def arrived(self, connection: DtuConnection) -> None:
        """A connection was made."""
        connection.accepted_at = connection.heard_at = self._clock.monotonic()
        if len(self._waiting) + len(self._connected) >= self.settings.max_connections:
            self._refuse(connection, f"there are {self.settings.max_connections} connections already")
            return
        self._waiting[connection] = None

    def heard(self, connection: DtuConnection) -> None:
        """Bytes came."""
        connection.heard_at = self._clock.monotonic()

    def identify(self, connection: DtuConnection) -> None:
        """Find the line of a connection by what it has sent so far."""
        if connection not in self._waiting:
            return
        packet = connection.packet
        if self._could_become_longer(packet):
            return
        self._settle(connection)
        if connection.line_id is None:
            self._refuse(connection, "no line registers with this")

    def left(self, connection: DtuConnection) -> None:
        """A connection has ended."""
        self._waiting.pop(connection, None)
        line_id = connection.line_id
        if line_id is not None and self._connected.get(line_id) is connection:
            del self._connected[line_id]
            logger.info("terminal has left", extra={"line_id": line_id, "reason": connection.inbox.ended})

    def _settle(self, connection: DtuConnection) -> None:
        """Register a connection by the longest packet that it has sent; nothing happens when there is none."""
        for length in self._packet_lengths():
            line_id = self._by_packet.get(connection.packet[:length]) if length <= len(connection.packet) else None
            if line_id is not None:
                self._register(connection, line_id, connection.packet[length:])
                return

    def _register(self, connection: DtuConnection, line_id: str, rest: bytes) -> None:
        del self._waiting[connection]
        connection.line_id, connection.registration = line_id, self._lines[line_id]
        connection.packet = b""
        former = self._connected.get(line_id)
        self._connected[line_id] = connection
        if former is not None:
            former.abort()
        logger.info(
            "terminal connected", extra={"line_id": line_id, "peer": connection.place, "again": former is not None}
        )
        # Many end their packet with a line's end.
        connection.carry(rest.lstrip(b"\r\n"))
        self._watch.connected(line_id)

    def _refuse(self, connection: DtuConnection, reason: str) -> None:
        self._waiting.pop(connection, None)
        packet, connection.packet = connection.packet, b""
        connection.abort()
        metrics.DTU_REFUSED.inc()
        self._watch.refused(connection.place, packet, reason)

    def _packet_lengths(self) -> list[int]:
        """Return the lengths of the known packets, longest first."""
        self._in_order()
        return self._lengths

    def _could_become_longer(self, packet: bytes) -> bool:
        """Return whether a known packet is longer and begins with this."""
        if len(packet) >= self.settings.max_registration_bytes:
            return False
        ordered = self._in_order()
        at = bisect_left(ordered, packet + b"\0")
        return at < len(ordered) and ordered[at].startswith(packet)

    def _in_order(self) -> list[bytes]:
        if self._ordered is None:
            self._ordered = sorted(self._by_packet)
            self._lengths = sorted({len(packet) for packet in self._ordered}, reverse=True)
        return self._ordered


class DtuChannel:
    """The way through the terminal of one line, whichever of its connections is the newest."""

    def __init__(self, hub: DtuHub, line_id: str) -> None:
        self._hub = hub
        self._line_id = line_id
        self._connection: DtuConnection | None = None

    async def open(self) -> None:
        """Take the connection that the terminal has made."""
        self._connection = self._hub.connection(self._line_id)
        if self._connection is None:
            raise LineDown(f"the terminal of line {self._line_id} has not dialled in", message_zh="DTU 未上线")

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        self._opened().send(data)

    async def receive(self, timeout_s: float) -> bytes:
        """Return what comes next."""
        return await self._opened().inbox.take(timeout_s)

    async def close(self) -> None:
        """Let go; the connection is the terminal's, which could not be told to dial again at once."""
        self._connection = None

    def _opened(self) -> DtuConnection:
        if self._connection is None:
            raise LineDown(f"line {self._line_id} is not open")
        return self._connection
