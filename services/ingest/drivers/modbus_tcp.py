"""Modbus TCP: one request at a time on one connection, its answer known by the number that it repeats.

Requests and answers are pymodbus's classes; the connection is ours. The library's client makes two tasks and two timers
of a request, keeps a log of texts, and closes the connection by itself after some unanswered requests, so that a dead
unit behind a gateway would tear down its neighbours. When the connection is doubted here is ``liveness.py``'s.

Source:
    MODBUS Messaging on TCP/IP Implementation Guide V1.0b, 3.1 (MBAP header) and 4.2; southbound.md 2.2 to 2.4.
"""

import asyncio
import logging
import socket
import struct

from pymodbus.pdu import ModbusPDU

from libs.common.clock import Clock
from libs.common.errors import InvalidInput
from libs.common.profiles import Protocol
from services.ingest.drivers.liveness import Liveness
from services.ingest.drivers.modbus import ModbusDevice, unit_of
from services.ingest.drivers.modbus_answers import decode_answer
from services.ingest.drivers.port import Address, BadAnswer, DeviceSilent, LineDown
from services.ingest.drivers.taps import Taps

# The library logs every frame that it cannot decode as a warning; what that means is judged here.
logging.getLogger("pymodbus.logging").setLevel(logging.CRITICAL)

CONNECT_TIMEOUT_S = 5.0
READS = (1, 2, 3, 4)
"""Functions whose answer never is the request itself."""
MAX_KEPT_BYTES = 512
"""Of what came and was no answer. [B]"""
MAX_UNSENT_BYTES = 4096
"""A peer that takes less than this of what is sent is as good as gone. [B]"""
HEAD = struct.Struct(">HHHB")
"""Transaction, protocol (0), octets from the unit on, unit."""
LENGTHS = range(2, 255)
"""Octets that may follow the length: unit and function at least, a PDU of 253 at most."""
MOST_NUMBER = 0xFFFF
EXCEPTION = 0x80


class Unreadable(Exception):
    """What comes on the connection is no Modbus TCP, and where the next frame would begin is not known."""


class Hanging(asyncio.Protocol):
    """One connection, and the request that hangs on it.

    An answer counts when it repeats the request's number and unit. Devices exist that answer every request with number
    0: theirs is taken as long as nothing on this connection has gone unanswered, so that it cannot be a late one.
    """

    def __init__(self, line: "ModbusTcpLine") -> None:
        self._line = line
        self._transport: asyncio.Transport | None = None
        self._data = b""
        self._number = 0
        self._unit = 0
        self._waiter: asyncio.Future[bytes] | None = None
        self._unanswered = False
        self.ended: str | None = None
        """Why nothing more comes; None while something may."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport, and let the kernel notice a peer that is gone."""
        self._transport = transport  # type: ignore[assignment]  # uvloop's is none, but behaves like one
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        """Give the answer to whoever waits for it; drop what answers nothing."""
        self._line.note_received(data)
        self._data = self._data + data if self._data else data
        try:
            while (found := self._next_frame()) is not None:
                self._take(*found)
        except Unreadable as exc:
            # A transport lies in circles that last until they are collected: what came must not hang on them,
            # neither here nor in the frames behind the caught exception, so it is a new one that is told.
            self._data = b""
            self._end(str(exc), Unreadable(str(exc)))
            self.abort()

    def eof_received(self) -> bool | None:
        """Close: there is no half-open conversation with a device."""
        self._end("the peer has hung up")
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        self._end("the peer has hung up" if exc is None else str(exc))

    async def ask(self, pdu: bytes, unit: int, limit_s: float) -> bytes:
        """Send a request and return the PDU of its answer; one at a time.

        Raises:
            LineDown: It could not be sent.
            TimeoutError: Nothing came in time.
            OSError: The connection broke after the request was sent: it may have been done.
            Unreadable: What came is no Modbus TCP.
        """
        if self._transport is None or self.ended is not None:
            raise LineDown(f"{self._line.place}: {self.ended or 'not connected'}")
        if self._transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self.abort()
            raise LineDown(f"{self._line.place} does not take what is sent")
        self._number = self._number % MOST_NUMBER + 1
        self._unit = unit
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bytes] = loop.create_future()
        self._waiter = waiter
        timer = loop.call_later(limit_s, _expire, waiter)
        answered = False
        try:
            sent = HEAD.pack(self._number, 0, len(pdu) + 1, unit) + pdu
            self._line.note_sent(sent)
            self._transport.write(sent)
            answer = await waiter
            answered = True
            return answer
        finally:
            timer.cancel()
            self._waiter = None
            self._unanswered = self._unanswered or not answered

    def abort(self) -> None:
        """Disconnect at once."""
        self._end("disconnected")
        if self._transport is not None:
            self._transport.abort()

    def _next_frame(self) -> tuple[int, int, bytes] | None:
        """Take the next whole frame off what has come: number, unit and PDU.

        Raises:
            Unreadable: None can begin here.
        """
        data = self._data
        if len(data) < HEAD.size + 1:
            return None
        number, protocol, length, unit = HEAD.unpack_from(data)
        if protocol != 0 or length not in LENGTHS:
            raise Unreadable(f"no Modbus TCP: {data[:16].hex(' ')}")
        end = 6 + length
        if length == LENGTHS[0] and data[HEAD.size] & EXCEPTION:
            end += 1  # An exception has two octets; some devices forget to count the second.
        if len(data) < end:
            return None
        self._data = data[end:]
        return number, unit, data[HEAD.size : end]

    def _take(self, number: int, unit: int, pdu: bytes) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        # Unit 0 in a request asks the device at this address itself, which answers with a unit of its choice.
        if self._unit and unit != self._unit:
            return
        if number == self._number or (number == 0 and not self._unanswered):
            waiter.set_result(pdu)

    def _end(self, reason: str, exc: Exception | None = None) -> None:
        if self.ended is None:
            self.ended = reason
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(exc or ConnectionError(reason))


class ModbusTcpLine:
    """One connection to a device or to a gateway with several units behind it."""

    protocol = "modbus"

    def __init__(
        self,
        *,
        host: str,
        port: int,
        clock: Clock,
        timeout_s: float = 1.0,
        pacing_s: float = 0.0,
        max_gap: int = 16,
    ) -> None:
        """Prepare a line; the first request connects.

        Args:
            host: Where the device or gateway listens.
            port: Its port.
            clock: Ours.
            timeout_s: An answer must come within this. [s]
            pacing_s: Silence kept between two requests. [s]
            max_gap: Unasked registers that are read along to save a request.
        """
        self._host = host
        self._port = port
        self.place = f"{host}:{port}"
        self._clock = clock
        self._timeout_s = timeout_s
        self._pacing_s = pacing_s
        self._max_gap = max_gap
        self._connection: Hanging | None = None
        self._last_request_at = float("-inf")
        self._liveness = Liveness()
        self._heard = b""
        self._asked = ""
        self.taps = Taps()

    def session(self, address: Address) -> ModbusDevice:
        """Return a session for one unit.

        Raises:
            InvalidInput: The device speaks no Modbus, or its address is no unit id.
        """
        if address.profile.protocol is not Protocol.MODBUS:
            raise InvalidInput(
                f"device {address.device_id}: {address.profile.protocol} needs a line of kind rtu_over_tcp, serial or "
                "dtu; a line of kind tcp is Modbus TCP",
                message_zh=f"设备 {address.device_id}:{address.profile.protocol} 应接在 rtu_over_tcp、serial 或 dtu "
                "类型的线路上,tcp 类型的线路是 Modbus TCP",
            )
        asking = TcpAsking(self, address.device_id)
        return ModbusDevice(asking, address, unit=unit_of(address), clock=self._clock, max_gap=self._max_gap)

    async def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        self._liveness = Liveness()
        if connection is not None:
            connection.abort()
            await asyncio.sleep(0)  # the loop lets go of the socket in its next round

    async def request(self, what: str, pdu: ModbusPDU, *, device: str, timeout_s: float | None = None) -> ModbusPDU:
        """Send one request and return its answer; one at a time, by whoever owns the line.

        Args:
            what: For messages.
            pdu: The request.
            device: Who is asked; empty: nobody that is known to be there, whose silence says nothing of the line.
            timeout_s: Other than the line's, and at most ``CONNECT_TIMEOUT_S``.

        Raises:
            LineDown, DeviceSilent, BadAnswer: As the port says.
            InvalidInput: The request cannot be written.
        """
        try:
            request = bytes((pdu.function_code,)) + pdu.encode()
        except ValueError as exc:
            raise InvalidInput(f"{what}: {exc}") from exc
        connection = await self._connected()
        if self._pacing_s:
            await self._keep_pace()
        self._heard, self._asked = b"", device
        limit_s = self._timeout_s if timeout_s is None else min(timeout_s, CONNECT_TIMEOUT_S)
        try:
            found = await connection.ask(request, pdu.dev_id, limit_s)
        except TimeoutError:
            if device and self._liveness.silent(device):
                await self.close()
            raise DeviceSilent(f"{what}: no answer within {limit_s:g} s", raw=self._heard) from None
        except (OSError, Unreadable) as exc:
            # Sent, and then something broke: what was asked may have been done.
            await self.close()
            raise DeviceSilent(f"{what}: {exc}", raw=self._heard) from exc
        finally:
            self._last_request_at = self._clock.monotonic()
        if device:
            self._liveness.answered(device)
        if found == request and pdu.function_code in READS:
            # By its form it is an answer: a read from address 0x0200 on says that two bytes follow.
            raise BadAnswer(f"{what}: the request came back as its own answer", raw=self._heard)
        answer = decode_answer(found)
        if answer is None:
            raise BadAnswer(f"{what}: no Modbus answer", raw=self._heard)
        return answer

    @property
    def heard(self) -> bytes:
        """What came after the last request."""
        return self._heard

    def note_sent(self, data: bytes) -> None:
        """Let listeners see a request."""
        self.taps.tell(self._asked, data, sent=True)

    def note_received(self, data: bytes) -> None:
        """Keep what came, and let listeners see it."""
        self.taps.tell(self._asked, data, sent=False)
        if len(self._heard) < MAX_KEPT_BYTES:
            self._heard = (self._heard + data)[:MAX_KEPT_BYTES] if self._heard else data[:MAX_KEPT_BYTES]

    async def _connected(self) -> Hanging:
        if self._connection is not None and self._connection.ended is None:
            return self._connection
        await self.close()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, connection = await loop.create_connection(lambda: Hanging(self), self._host, self._port)
        except TimeoutError:
            raise LineDown(f"{self.place} cannot be connected: no answer within {CONNECT_TIMEOUT_S:g} s") from None
        except (OSError, UnicodeError) as exc:  # a name that cannot even be asked for
            raise LineDown(f"{self.place} cannot be connected: {exc}") from exc
        self._connection = connection
        return connection

    async def _keep_pace(self) -> None:
        wait_s = self._last_request_at + self._pacing_s - self._clock.monotonic()
        if wait_s > 0:
            await self._clock.sleep(wait_s)


def _expire(waiter: asyncio.Future[bytes]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())


class TcpAsking:
    """Carries a device's requests over the line; empty ``device_id`` for units that nobody knows."""

    def __init__(self, line: ModbusTcpLine, device_id: str) -> None:
        self._line = line
        self._device_id = device_id

    async def request(self, what: str, pdu: ModbusPDU, *, timeout_s: float | None = None) -> ModbusPDU:
        """Send one request and return its answer. Raises as ``modbus.Asking``."""
        return await self._line.request(what, pdu, device=self._device_id, timeout_s=timeout_s)

    def distrust(self) -> bytes:
        """Return the bytes of the last answer, which was wrong; the next one carries a number of its own."""
        return self._line.heard
