"""A Modbus TCP server, and RTU frames over TCP, in front of simulated devices.

It is our own and not pymodbus's: answers are cut from a device's memory at the instant of the request, every
fault of a real line can be played (an answer held back, garbled, doubled or cut, a reset connection), and a
request costs a fraction (figures: README.md, decisions).

Several units behind one port are a gateway with a serial line: unknown units are answered as gateways do, with
exception 0x0B, or not at all.
"""

import asyncio
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import cast

from libs.common.clock import Clock
from libs.common.profiles import Area
from libs.fieldsim.device import Device, ExceptionCode, RefusedRequest
from libs.fieldsim.faults import (
    Drop,
    FaultBoard,
    Garbage,
    GarbageShape,
    Refuses,
    Silent,
    Slow,
    Stale,
)
from libs.fieldsim.registers import NoSuchAddress

READ_COILS, READ_DISCRETE, READ_HOLDING, READ_INPUT = 1, 2, 3, 4
WRITE_COIL, WRITE_REGISTER, WRITE_COILS, WRITE_REGISTERS = 5, 6, 15, 16
EXCEPTION_BIT = 0x80
MAX_READ_BITS = 2000
MAX_READ_REGISTERS = 125
MAX_WRITE_BITS = 1968
MAX_WRITE_REGISTERS = 123
COIL_ON = 0xFF00

BACKLOG = 4096
MAX_LENGTH = 254
"""Largest length field of a Modbus TCP header: unit id and PDU."""
SPLIT_PAUSE_S = 0.02
NOISE = bytes(range(0xA0, 0xB7))

_BIT_AREAS = {READ_COILS: Area.COIL, READ_DISCRETE: Area.DISCRETE}
_REGISTER_AREAS = {READ_HOLDING: Area.HOLDING, READ_INPUT: Area.INPUT}


class Framing(StrEnum):
    """How requests are wrapped in the TCP stream."""

    TCP = "tcp"
    RTU = "rtu"
    STREAM = "stream"
    """Frames of each device's own protocol, several protocols at a time; see ``stream``."""


class Absent(StrEnum):
    """What happens to a request for a unit that is not there."""

    EXCEPTION = "exception"
    SILENT = "silent"


@dataclass(slots=True)
class Traffic:
    """What a server has seen since it started."""

    connections: int = 0
    """Open now."""
    accepted: int = 0
    requests: int = 0
    refused: int = 0
    """Answered with an exception."""


class ModbusServer:
    """A TCP port with devices behind it.

    Args:
        devices: By unit id.
        clock: What the devices are asked at.
        faults: The board that is looked at before every answer.
        host: Where to listen.
        port: 0: a free one, see ``port`` after ``start``.
        framing: How requests are wrapped.
        absent: What happens to a request for an unknown unit.
        pace_s: Time that one answer keeps the serial line behind the port busy; 0: no line. [s]
    """

    def __init__(
        self,
        devices: Mapping[int, Device],
        *,
        clock: Clock,
        faults: FaultBoard,
        host: str = "127.0.0.1",
        port: int = 0,
        framing: Framing = Framing.TCP,
        absent: Absent = Absent.EXCEPTION,
        pace_s: float = 0.0,
    ) -> None:
        self.devices = dict(devices)
        self.clock = clock
        self.faults = faults
        self.host = host
        self.port = port
        self.framing = framing
        self.absent = absent
        self.traffic = Traffic()
        self.connections: set[_Connection] = set()
        self._pace_s = pace_s
        self._line_free_at = 0.0
        self._server: asyncio.Server | None = None

    @property
    def endpoint(self) -> str:
        """``host:port``."""
        return f"{self.host}:{self.port}"

    async def start(self) -> None:
        """Listen; afterwards ``port`` is the real one.

        Raises:
            OSError: The port is taken.
        """
        loop = asyncio.get_running_loop()
        make: Callable[[], asyncio.Protocol] = lambda: _Connection(self, loop)  # noqa: E731
        self._server = await loop.create_server(make, self.host, self.port, backlog=BACKLOG)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and reset every connection."""
        if self._server is None:
            return
        self._server.close()
        for connection in tuple(self.connections):
            connection.abort()
        await self._server.wait_closed()
        self._server = None

    async def __aenter__(self) -> "ModbusServer":
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def wait_for_line_s(self, now_s: float) -> float:
        """Return how long the next answer has to wait for the serial line, and keep the line busy for it. [s]"""
        if self._pace_s == 0.0:
            return 0.0
        self._line_free_at = max(self._line_free_at, now_s) + self._pace_s
        return self._line_free_at - now_s


class _Connection(asyncio.Protocol):
    """One client: cuts requests from the stream and sends what the faults leave of the answers."""

    __slots__ = ("_buffer", "_held", "_loop", "_server", "_transport")

    def __init__(self, server: ModbusServer, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop
        self._buffer = bytearray()
        self._held: bytes | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none, but behaves like one
        self._server.connections.add(self)
        self._server.traffic.connections += 1
        self._server.traffic.accepted += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._server.connections.discard(self)
        self._server.traffic.connections -= 1

    def abort(self) -> None:
        """Reset the connection."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        cut = _cut_tcp if self._server.framing is Framing.TCP else _cut_rtu
        while self._transport is not None and not self._transport.is_closing():
            try:
                request = cut(self._buffer)
            except _Unframed:
                self.abort()
                return
            if request is None:
                return
            self._answer(request)

    def _answer(self, request: "_Request") -> None:
        server = self._server
        server.traffic.requests += 1
        device = server.devices.get(request.unit)
        if device is None:
            if server.absent is Absent.EXCEPTION:
                self._deliver(request.frame(_refusal(request.pdu, ExceptionCode.GATEWAY_TARGET)), 0.0)
            return
        now_s = server.clock.now().timestamp()
        if server.faults.of(device.device_id):
            self._answer_with_faults(request, device, now_s)
        else:
            self._deliver(request.frame(self._pdu(device, request, now_s)), 0.0)

    def _answer_with_faults(self, request: "_Request", device: Device, now_s: float) -> None:
        faults, name = self._server.faults, device.device_id
        if faults.active(name, Drop, now_s):
            self.abort()
            return
        if faults.active(name, Silent, now_s):
            return
        refuses = faults.active(name, Refuses, now_s)
        if refuses and (refuses.functions is None or request.pdu[0] in refuses.functions):
            pdu = _refusal(request.pdu, refuses.code)
        else:
            pdu = self._pdu(device, request, now_s)
        frame = request.frame(pdu)
        held, self._held = self._held, None
        if held is not None:
            self._deliver(held, 0.0)
        if faults.active(name, Stale, now_s):
            self._held = frame
            return
        slow = faults.active(name, Slow, now_s)
        delay_s = 0.0 if slow is None else slow.delay_s
        garbage = faults.active(name, Garbage, now_s)
        if garbage is None:
            self._deliver(frame, delay_s)
            return
        for number, piece in enumerate(_garble(garbage.shape, request, pdu)):
            self._deliver(piece, delay_s + number * SPLIT_PAUSE_S)

    def _pdu(self, device: Device, request: "_Request", now_s: float) -> bytes:
        pdu = answer(device, request.pdu, now_s)
        if pdu[0] & EXCEPTION_BIT:
            self._server.traffic.refused += 1
        return pdu

    def _deliver(self, frame: bytes, delay_s: float) -> None:
        delay_s += self._server.wait_for_line_s(self._loop.time())
        if delay_s > 0.0:
            self._loop.call_later(delay_s, self._send, frame)
        else:
            self._send(frame)

    def _send(self, frame: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)


def answer(device: Device, pdu: bytes, now_s: float) -> bytes:
    """Return what a healthy device answers to one request: function code and data, without frame."""
    try:
        return _handle(device, pdu, now_s)
    except RefusedRequest as exc:
        return _refusal(pdu, exc.code)
    except NoSuchAddress:
        return _refusal(pdu, ExceptionCode.ILLEGAL_ADDRESS)
    except struct.error:  # too short for what its function needs
        return _refusal(pdu, ExceptionCode.ILLEGAL_VALUE)


def crc16(data: bytes | bytearray) -> bytes:
    """Return the checksum of an RTU frame, low byte first (polynomial A001, start FFFF)."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0xA001 if crc & 1 else crc >> 1
    return crc.to_bytes(2, "little")


def _handle(device: Device, pdu: bytes, now_s: float) -> bytes:
    function = pdu[0]
    if function in _REGISTER_AREAS:
        address, count = struct.unpack_from(">HH", pdu, 1)
        limit = min(MAX_READ_REGISTERS, device.profile.max_registers_per_read)
        _require(1 <= count <= limit)
        content = device.image(now_s).registers(_REGISTER_AREAS[function], address, count)
        return bytes((function, len(content))) + content
    if function in _BIT_AREAS:
        address, count = struct.unpack_from(">HH", pdu, 1)
        _require(1 <= count <= MAX_READ_BITS)
        content = _pack_bits(device.image(now_s).flags(_BIT_AREAS[function], address, count))
        return bytes((function, len(content))) + content
    if function in (WRITE_COIL, WRITE_REGISTER):
        address, word = struct.unpack_from(">HH", pdu, 1)
        _require(function == WRITE_REGISTER or word in (0, COIL_ON))
        device.write(Area.COIL if function == WRITE_COIL else Area.HOLDING, address, [word], now_s)
        return pdu[:5]
    if function == WRITE_REGISTERS:
        address, count, size = struct.unpack_from(">HHB", pdu, 1)
        _require(1 <= count <= MAX_WRITE_REGISTERS and size == 2 * count and len(pdu) == 6 + size)
        device.write(Area.HOLDING, address, struct.unpack_from(f">{count}H", pdu, 6), now_s)
        return pdu[:5]
    if function == WRITE_COILS:
        address, count, size = struct.unpack_from(">HHB", pdu, 1)
        _require(1 <= count <= MAX_WRITE_BITS and size == (count + 7) // 8 and len(pdu) == 6 + size)
        bits = [pdu[6 + index // 8] >> index % 8 & 1 for index in range(count)]
        device.write(Area.COIL, address, [COIL_ON if bit else 0 for bit in bits], now_s)
        return pdu[:5]
    raise RefusedRequest(ExceptionCode.ILLEGAL_FUNCTION)


def _require(condition: bool) -> None:
    if not condition:
        raise RefusedRequest(ExceptionCode.ILLEGAL_VALUE)


def _refusal(pdu: bytes, code: int) -> bytes:
    return bytes((pdu[0] | EXCEPTION_BIT, code))


def _pack_bits(bits: list[bool]) -> bytes:
    packed = bytearray((len(bits) + 7) // 8)
    for index, bit in enumerate(bits):
        packed[index // 8] |= bit << index % 8
    return bytes(packed)


class _Unframed(Exception):
    """The stream is not Modbus, and there is no way back into step."""


@dataclass(slots=True)
class _Request:
    """A request out of its frame, and how to frame its answer."""

    unit: int
    pdu: bytes
    transaction: int | None
    """None: an RTU frame."""

    def frame(self, pdu: bytes, *, unit: int | None = None, transaction: int | None = None) -> bytes:
        unit = self.unit if unit is None else unit
        if self.transaction is None:
            body = bytes((unit,)) + pdu
            return body + crc16(body)
        number = self.transaction if transaction is None else transaction
        return struct.pack(">HHHB", number, 0, len(pdu) + 1, unit) + pdu


def _cut_tcp(buffer: bytearray) -> _Request | None:
    """Take one request off the front of the stream; none when it is not complete."""
    if len(buffer) < 8:
        return None
    transaction, protocol, length, unit = struct.unpack_from(">HHHB", buffer)
    if protocol != 0 or not 2 <= length <= MAX_LENGTH:
        raise _Unframed
    if len(buffer) < 6 + length:
        return None
    request = _Request(unit, bytes(buffer[7 : 6 + length]), transaction)
    del buffer[: 6 + length]
    return request


def _cut_rtu(buffer: bytearray) -> _Request | None:
    """Take one request off the front of the stream; bytes that make no frame are thrown away."""
    while len(buffer) >= 8:
        size = _rtu_size(buffer)
        if len(buffer) < size:
            return None
        if crc16(buffer[: size - 2]) == buffer[size - 2 : size]:
            request = _Request(buffer[0], bytes(buffer[1 : size - 2]), None)
            del buffer[:size]
            return request
        del buffer[0]
    return None


def _rtu_size(buffer: bytearray) -> int:
    if buffer[1] in (WRITE_COILS, WRITE_REGISTERS):
        return 9 + buffer[6]
    return 8


def _garble(shape: GarbageShape, request: _Request, pdu: bytes) -> list[bytes]:
    """Return the pieces that are sent instead of an answer."""
    frame = request.frame(pdu)
    match shape:
        case GarbageShape.NOISE:
            return [NOISE]
        case GarbageShape.WRONG_UNIT:
            return [request.frame(pdu, unit=request.unit % 247 + 1)]
        case GarbageShape.WRONG_FUNCTION:
            return [request.frame(bytes((pdu[0] % 4 + 1,)) + pdu[1:])]
        case GarbageShape.WRONG_COUNT:
            return [request.frame(pdu[:1] + bytes((pdu[1] ^ 0x02,)) + pdu[2:])]
        case GarbageShape.WRONG_TRANSACTION:
            return [request.frame(pdu, transaction=((request.transaction or 0) + 1) & 0xFFFF)]
        case GarbageShape.WRONG_CHECKSUM:
            return [frame[:-1] + bytes((frame[-1] ^ 0x01,))]
        case GarbageShape.TRUNCATED:
            return [frame[: len(frame) // 2]]
        case GarbageShape.DOUBLED:
            return [frame + frame]
        case GarbageShape.SPLIT:
            return [frame[: len(frame) // 2], frame[len(frame) // 2 :]]
