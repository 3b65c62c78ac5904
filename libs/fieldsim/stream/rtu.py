"""Modbus RTU beside other protocols on one line: requests are looked for by unit and checksum."""

from libs.common.errors import InvalidInput
from libs.fieldsim.device import Device
from libs.fieldsim.modbus import EXCEPTION_BIT, WRITE_COILS, WRITE_REGISTERS, answer, crc16
from libs.fieldsim.stream.server import Face

FUNCTIONS = frozenset({1, 2, 3, 4, 5, 6, 15, 16})


class RtuFace(Face):
    """A Modbus unit on the line."""

    protocol = "modbus"

    def __init__(self, device: Device, *, unit: int) -> None:
        super().__init__(device)
        if not 1 <= unit <= 247:
            raise InvalidInput(f"device {device.device_id}: a unit id is 1 to 247, not {unit}")
        self.unit = unit

    @staticmethod
    def find(data: bytes) -> tuple[int, int] | None:
        """Return the first whole frame."""
        for start in range(len(data) - 7):
            function = data[start + 1]
            if function not in FUNCTIONS:
                continue
            size = 8 if function not in (WRITE_COILS, WRITE_REGISTERS) else 9 + data[start + 6]
            end = start + size
            if end <= len(data) and crc16(data[start : end - 2]) == data[end - 2 : end]:
                return start, end
        return None

    def is_asked(self, frame: bytes) -> bool:
        """Return whether the unit is ours."""
        return frame[0] == self.unit

    def answer(self, frame: bytes, now_s: float) -> bytes | None:
        """Answer a request."""
        return self._frame(answer(self.device, frame[1:-2], now_s))

    def refuse(self, frame: bytes, code: int) -> bytes:
        """Return an exception."""
        return self._frame(bytes((frame[1] | EXCEPTION_BIT, code)))

    def foreign(self, answer: bytes) -> bytes:
        """Return the answer of the next unit."""
        body = bytes((answer[0] % 247 + 1,)) + answer[1:-2]
        return body + crc16(body)

    def misfit(self, answer: bytes) -> bytes:
        """Return the answer to another function."""
        return self._frame(bytes((answer[1] % 4 + 1,)) + answer[2:-2])

    def _frame(self, pdu: bytes) -> bytes:
        body = bytes((self.unit,)) + pdu
        return body + crc16(body)
