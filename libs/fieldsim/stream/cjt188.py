"""CJ/T 188 as a water or heat meter speaks it, written from the standard and apart from the platform's own codec."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from libs.common.errors import InvalidInput
from libs.common.profiles import Cjt188Control, Cjt188Point
from libs.fieldsim.device import Device
from libs.fieldsim.faults import ClockOffset, IgnoresCommands
from libs.fieldsim.flow import FlowMeter
from libs.fieldsim.stream.dlt645 import ZONE
from libs.fieldsim.stream.server import Face

UNIT_CODES = {"kWh": 0x05, "kW": 0x17, "m3": 0x2C, "m3/h": 0x35}
READ, READ_ADDRESS, WRITE = 0x01, 0x03, 0x04
WAKE_UP = b"\xfe\xfe"


class Cjt188Face(Face):
    """A meter on the line.

    Args:
        device: What it measures.
        address: Its number, at most 14 digits.
    """

    protocol = "cjt188"

    def __init__(self, device: Device, *, address: str) -> None:
        super().__init__(device)
        if not (address.isdecimal() and len(address) <= 14):
            raise InvalidInput(f"device {device.device_id}: a CJ/T 188 address is at most 14 digits, not {address!r}")
        self.address = address.rjust(14, "0")
        self._wire_address = bytes.fromhex(self.address)[::-1]
        self._type = device.profile.meter_type or 0x10
        self._di = (device.profile.read_di or 0x901F).to_bytes(2, "little")
        self._points = [point for point in device.profile.cjt188_points() if point.copy_of is None]
        self._controls = [one for one in device.profile.controls.values() if isinstance(one, Cjt188Control)]

    @staticmethod
    def find(data: bytes) -> tuple[int, int] | None:
        """Return the first whole frame."""
        start = data.find(0x68)
        while start >= 0:
            if len(data) > start + 10:
                end = start + 13 + data[start + 10]
                if data[end - 1 : end] == b"\x16" and data[end - 2] == sum(data[start : end - 2]) & 0xFF:
                    return start, end
            start = data.find(0x68, start + 1)
        return None

    def is_asked(self, frame: bytes) -> bool:
        """Return whether type and address are ours, with AA for any."""
        mine = all(byte in (0xAA, own) for byte, own in zip(frame[2:9], self._wire_address, strict=True))
        return mine and frame[1] in (0xAA, self._type) and not frame[9] & 0x80

    def answer(self, frame: bytes, now_s: float) -> bytes | None:
        """Answer a request."""
        function, data = frame[9], frame[11:-2]
        if function == READ_ADDRESS:
            return self._frame(0x83, b"\x0a\x81" + data[2:3])
        if function == READ and data[:2] == self._di:
            return self._frame(0x81, data[:3] + self._reading(now_s))
        if function == WRITE:
            for control in self._controls:
                if data[:2] == control.di.to_bytes(2, "little") and data[3:] == control.data:
                    self._obey(control, now_s)
                    return self._frame(0x84, data[:3] + self._status(now_s))
        return self.refuse(frame, 1)

    def refuse(self, frame: bytes, code: int) -> bytes:
        """Return an error answer."""
        return self._frame(frame[9] | 0xC0, frame[13:14] + bytes((code, 0)))

    def foreign(self, answer: bytes) -> bytes:
        """Return the answer of the meter with the next number."""
        return self._changed(answer, 2)

    def misfit(self, answer: bytes) -> bytes:
        """Return an answer to another question."""
        return self._changed(answer, 13)

    def _changed(self, answer: bytes, at: int) -> bytes:
        body = bytearray(answer[answer.index(0x68) : -2])
        body[at] = (body[at] + 1) & 0x77
        return WAKE_UP + bytes(body) + bytes((sum(body) & 0xFF, 0x16))

    def _reading(self, now_s: float) -> bytes:
        values = self.device.values(now_s)
        end = max(point.data_offset + point.byte_count for point in self._points)
        data = bytearray(end)
        for point in self._points:
            content = self._content(point, values, now_s)
            data[point.data_offset : point.data_offset + len(content)] = content
        return bytes(data[3:])

    def _content(self, point: Cjt188Point, values: Mapping[str, float], now_s: float) -> bytes:
        if point.is_text:
            return self._clock(now_s)
        if point.format.endswith("bitmap"):
            return self._status(now_s)[: point.byte_count]
        digits = round(values.get(point.name, 0.0) / point.scale) % 10 ** (2 * point.byte_count)
        number = bytes.fromhex(str(digits).rjust(2 * point.byte_count, "0"))[::-1]
        return number if point.unit_byte_offset is None else number + bytes((UNIT_CODES[point.unit],))

    def _status(self, now_s: float) -> bytes:
        valve = self.device.values(now_s).get("valve_state", 1.0)
        return bytes((0 if valve else 1, 0))

    def _clock(self, now_s: float) -> bytes:
        fault = self.device.faults.active(self.device.device_id, ClockOffset, now_s)
        offset_s = 0.0 if fault is None else fault.offset_s
        local = (datetime.fromtimestamp(now_s, UTC) + timedelta(seconds=offset_s)).astimezone(ZONE)
        return bytes.fromhex(local.strftime("%Y%m%d%H%M%S"))[::-1]

    def _obey(self, control: Cjt188Control, now_s: float) -> None:
        device = self.device
        ignored = device.faults.active(device.device_id, IgnoresCommands, now_s) is not None
        device.events.record(now_s, device.device_id, "command", close=control.name, ignored=ignored)
        if isinstance(device, FlowMeter) and not ignored:
            device.set_valve(control.name == "valve_open", now_s)

    def _frame(self, control: int, data: bytes) -> bytes:
        body = bytes((0x68, self._type)) + self._wire_address + bytes((control, len(data))) + data
        return WAKE_UP + body + bytes((sum(body) & 0xFF, 0x16))
