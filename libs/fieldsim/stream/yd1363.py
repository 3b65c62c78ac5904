"""YD/T 1363.3 as power-room equipment speaks it, written from the standard and apart from the platform's own codec."""

import re
import struct
from collections.abc import Mapping
from datetime import datetime
from zoneinfo import ZoneInfo

from libs.common.errors import InvalidInput
from libs.common.points import PointKind
from libs.common.profiles import Yd1363Control, Yd1363Point, Yd1363Table
from libs.common.profiles.layout import FieldType, write
from libs.fieldsim.device import Device
from libs.fieldsim.equipment import PowerEquipment
from libs.fieldsim.faults import Frozen, IgnoresCommands, Markers, RaisesAlarm
from libs.fieldsim.stream.server import Face

FRAME = re.compile(rb"~([0-9A-Fa-f]{12}(?:[0-9A-Fa-f]{2})*[0-9A-Fa-f]{4})\r")
WRONG_VERSION, INVALID_CID2, INVALID_DATA = 0x01, 0x04, 0x06
GET_VERSION, GET_ADDRESS = 0x4F, 0x50
GET_TIME, SET_TIME = 0x4D, 0x4E
ZONE = ZoneInfo("Asia/Shanghai")
"""Equipment's clocks show Chinese time."""


class Yd1363Face(Face):
    """Equipment on the line.

    Args:
        device: What it is.
        address: 1 to 254.
        counts: How often a group of its layouts is repeated, by its way: ``module``, ``panel[1].input``.
        clock_offset_s: How wrong its clock is. [s]
    """

    protocol = "yd1363"

    def __init__(
        self, device: Device, *, address: str, counts: dict[str, int] | None = None, clock_offset_s: float = 0.0
    ) -> None:
        super().__init__(device)
        equipment = device.profile.yd1363
        if equipment is None or not (address.isdecimal() and 1 <= int(address) <= 254):
            raise InvalidInput(f"device {device.device_id}: a YD/T 1363.3 address is 1 to 254, not {address!r}")
        self.address = int(address)
        self._equipment = equipment
        self._counts = counts or {}
        self._clock_offset_s = clock_offset_s
        self._points = {(point.table, point.field): point for point in device.profile.yd1363_points()}

    @staticmethod
    def find(data: bytes) -> tuple[int, int] | None:
        """Return the first whole frame with right checks."""
        for found in FRAME.finditer(data):
            text = found[1]
            if int(text[-4:], 16) == -sum(text[:-4]) & 0xFFFF and int(text[8:12], 16) == _length(len(text) - 16):
                return found.span()
        return None

    def is_asked(self, frame: bytes) -> bool:
        """Return whether address and kind of equipment are ours."""
        return (int(frame[3:5], 16), int(frame[5:7], 16)) == (self.address, self._equipment.cid1)

    def answer(self, frame: bytes, now_s: float) -> bytes | None:
        """Answer a request."""
        cid2, info = int(frame[7:9], 16), bytes.fromhex(frame[13:-5].decode())
        if cid2 in (GET_VERSION, GET_ADDRESS):
            return self._frame(0, b"")
        if int(frame[1:3], 16) != self._equipment.version:
            return self._frame(WRONG_VERSION, b"")
        if cid2 == GET_TIME:
            shown = datetime.fromtimestamp(now_s + self._clock_offset_s, ZONE)
            return self._frame(0, struct.pack(">HBBBBB", *shown.timetuple()[:6]))
        if cid2 == SET_TIME:
            return self._set_clock(info, now_s)
        for table in self._equipment.tables.values():
            if table.cid2 == cid2 and table.info == info:
                return self._frame(0, self._table(table, now_s))
        for control in self.device.profile.controls.values():
            if isinstance(control, Yd1363Control) and control.cid2 == cid2 and info.startswith(control.info):
                return self._obey(control, info[len(control.info) :], now_s)
        return self._frame(INVALID_CID2, b"")

    def refuse(self, frame: bytes, code: int) -> bytes:
        """Return an error answer; the code is its RTN."""
        return self._frame(code, b"")

    def foreign(self, answer: bytes) -> bytes:
        """Return the answer of the device with the next address."""
        return _wrapped(answer[1:3] + f"{self.address % 254 + 1:02X}".encode() + answer[5:-5])

    def misfit(self, answer: bytes) -> bytes:
        """Return an answer with a byte more than its table has."""
        info = answer[13:-5] + b"00"
        return _wrapped(answer[1:9] + f"{_length(len(info)):04X}".encode() + info)

    def _table(self, table: Yd1363Table, now_s: float) -> bytes:
        device = self.device
        device.settle(now_s)
        frozen_at_s = device.faults.began(device.device_id, Frozen, now_s)
        values = device.values(now_s if frozen_at_s is None else frozen_at_s)
        marked = device.faults.active(device.device_id, Markers, now_s)
        alarms = {
            placed.order.field: placed.order.byte
            for placed in device.faults.of(device.device_id)
            if isinstance(placed.order, RaisesAlarm) and placed.begin_of(now_s) is not None
        }
        plain: Mapping[str, float] = device.fields if isinstance(device, PowerEquipment) else {}

        def content(way: str, type_: FieldType) -> bytes:
            if type_ is FieldType.BYTE and way in alarms:
                return bytes((alarms[way],))
            point = self._points.get((table.name, way))
            if point is not None and marked is not None and _is_marked(point, marked):
                return b"\x20" * type_.size
            named = f"{table.name}.{way}"
            number = _raw(point, values[point.name]) if point and point.name in values else plain.get(named, 0.0)
            return _written(type_, number)

        return write(table.layout, lambda way: self._counts.get(way, _default_count(way)), content)

    def _set_clock(self, info: bytes, now_s: float) -> bytes:
        try:
            year, month, day, hour, minute, second = struct.unpack(">HBBBBB", info)
            wished = datetime(year, month, day, hour, minute, second, tzinfo=ZONE)
        except (struct.error, ValueError):
            return self._frame(INVALID_DATA, b"")
        self._clock_offset_s = wished.timestamp() - now_s
        self.device.events.record(now_s, self.device.device_id, "clock_set", to=wished.isoformat())
        return self._frame(0, b"")

    def _obey(self, control: Yd1363Control, rest: bytes, now_s: float) -> bytes:
        device = self.device
        value = control.read_back.value
        if control.value_type is not None:
            if len(rest) != control.value_type.size:
                return self._frame(INVALID_DATA, b"")
            value = _read(control.value_type, rest)
        ignored = device.faults.active(device.device_id, IgnoresCommands, now_s) is not None
        device.events.record(now_s, device.device_id, "command", control=control.name, value=value, ignored=ignored)
        if isinstance(device, PowerEquipment) and not ignored and value is not None:
            for name in control.read_back.points:
                device.put(name, value)
        return self._frame(0, b"")

    def _frame(self, code: int, info: bytes) -> bytes:
        text = info.hex().upper()
        head = f"{self._equipment.version:02X}{self.address:02X}{self._equipment.cid1:02X}{code:02X}"
        return _wrapped(f"{head}{_length(len(text)):04X}{text}".encode())


def _default_count(way: str) -> int:
    """Return how often a group of which nobody has said it is repeated: one panel, one input, no user data."""
    return 0 if way.endswith("user") else 1


def _is_marked(point: Yd1363Point, order: Markers) -> bool:
    gauge = point.canonical is not None and point.canonical.kind is PointKind.GAUGE
    return point.name in order.points if order.points else gauge


def _raw(point: Yd1363Point, value: float) -> float:
    """Return the number that stands for a canonical value."""
    if point.value_map is not None:
        return float(next((raw for raw, meaning in point.value_map.items() if meaning == value), 0))
    return (value - point.offset) / point.scale


def _written(type_: FieldType, number: float) -> bytes:
    if type_ is FieldType.FLOAT:
        return struct.pack("<f", number)
    return round(number).to_bytes(type_.size, "big", signed=type_ is FieldType.INT16)


def _read(type_: FieldType, data: bytes) -> float:
    if type_ is FieldType.FLOAT:
        return float(struct.unpack("<f", data)[0])
    return float(int.from_bytes(data, "big", signed=type_ is FieldType.INT16))


def _length(chars: int) -> int:
    nibbles = (chars & 0xF) + (chars >> 4 & 0xF) + (chars >> 8 & 0xF)
    return (-nibbles & 0xF) << 12 | chars


def _wrapped(text: bytes) -> bytes:
    return b"~" + text + f"{-sum(text) & 0xFFFF:04X}\r".encode()
