"""Modbus RTU frames in a stream of bytes: over TCP, on a serial port, through a DTU.

The frame repeats the unit and the function of the request, neither address nor quantity, and has a length only for
who knows the function. So an answer is looked for by what was asked, at every place where it could begin.
"""

from functools import partial

from pymodbus.framer import FramerRTU
from pymodbus.pdu import ModbusPDU

from libs.common.errors import InvalidInput
from services.ingest.drivers.modbus import ModbusDevice, unit_of
from services.ingest.drivers.modbus_answers import decode_answer
from services.ingest.drivers.port import Address, BadAnswer
from services.ingest.drivers.stream import StreamLine

UNITS = (1, 247)
"""0 is everybody's and never answered: a write to it would switch every device on the pair. 248 up is reserved."""
READS = (1, 2, 3, 4)
COUNTED = (*READS, 17)
"""Functions whose answer has its byte count after them: reads, and the report of a server's id."""
IDENTIFICATION = 43
EXCEPTION = 0x80
EXCEPTION_BYTES = 5
ECHO_BYTES = 8
"""An answer to a write."""


def frame(pdu: ModbusPDU) -> bytes:
    """Return the frame of a request.

    Raises:
        ValueError: An address or count that does not exist.
    """
    body = bytes((pdu.dev_id, pdu.function_code)) + pdu.encode()
    return body + _crc(body)


def scan_answer(data: bytes, *, unit: int, function: int, request: bytes = b"") -> tuple[int, bytes | None]:
    """Find the answer of a unit to a function, as ``stream.Scan``.

    Bytes before it are garbage: noise, an echo of the request, a frame of somebody else. A place where an answer
    could begin that is not complete yet is kept, and does not hide a complete one behind it.

    Args:
        data: What has come.
        unit: Who was asked.
        function: What with.
        request: The frame that asked. A half-duplex converter gives it back, and that of a read from address 0x0300 on
            is an answer of three bytes by its form; a write is answered by its own frame.

    Returns:
        Bytes done with, and the answer from its function code to before its checksum.
    """
    kept: int | None = None
    start = data.find(unit)
    while start >= 0:
        length = _length(data, start, function)
        if length is None or start + length > len(data):
            kept = start if kept is None else kept
        elif function in READS and request and data.startswith(request, start):
            start += len(request) - 1  # our own
        elif length and _crc(data[start : start + length - 2]) == data[start + length - 2 : start + length]:
            return start + length, data[start + 1 : start + length - 2]
        start = data.find(unit, start + 1)
    return (len(data) if kept is None else kept), None


def device(line: StreamLine, address: Address, *, max_gap: int) -> ModbusDevice:
    """Return a session for a unit on a stream.

    Raises:
        InvalidInput: The address is no unit id.
    """
    unit = unit_of(address, least=UNITS[0], most=UNITS[1])
    return ModbusDevice(RtuAsking(line, address.device_id), address, unit=unit, clock=line.clock, max_gap=max_gap)


class RtuAsking:
    """Carries requests over a stream; empty ``device_id`` for units that nobody knows."""

    def __init__(self, line: StreamLine, device_id: str) -> None:
        self._line = line
        self._device_id = device_id

    async def request(self, what: str, pdu: ModbusPDU, *, timeout_s: float | None = None) -> ModbusPDU:
        """Send one request and return its answer. Raises as ``modbus.Asking``."""
        try:
            request = frame(pdu)
        except ValueError as exc:
            raise InvalidInput(f"{what}: {exc}") from exc
        scan = partial(scan_answer, unit=pdu.dev_id, function=pdu.function_code, request=request)
        found = await self._line.exchange(request, scan, device=self._device_id, what=what, timeout_s=timeout_s)
        answer = decode_answer(found)
        if answer is None:
            raise BadAnswer(f"{what}: no Modbus answer", raw=self.distrust())
        return answer

    def distrust(self) -> bytes:
        """Say that the last answer was wrong, and return its bytes."""
        return self._line.distrust()


def _length(data: bytes, start: int, function: int) -> int | None:
    """Return how long an answer that begins here is; 0 where none does, None where that cannot be said yet."""
    if start + 1 >= len(data):
        return None
    found = data[start + 1]
    if found == function | EXCEPTION:
        return EXCEPTION_BYTES
    if found != function:
        return 0
    if function == IDENTIFICATION:
        return _identification_length(data, start)
    if function not in COUNTED:
        return ECHO_BYTES
    return 5 + data[start + 2] if start + 2 < len(data) else None


def _identification_length(data: bytes, start: int) -> int | None:
    """Return how long the answer to a read of the identification is: objects, each with a length of its own."""
    at = start + 8
    if at > len(data):
        return None
    for _ in range(data[at - 1]):
        if at + 2 > len(data):
            return None
        at += 2 + data[at + 1]
    return at + 2 - start


def _crc(data: bytes) -> bytes:
    return FramerRTU.compute_CRC(data).to_bytes(2, "big")
