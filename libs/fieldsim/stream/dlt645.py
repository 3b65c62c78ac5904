"""DL/T 645-2007 as a meter or a breaker speaks it, written from the standard and apart from the platform's own codec.

A real meter is silent to frames that are not for it. It judges the time limit of a control by its own clock, which a
broadcast may set once a day by less than five minutes, and refuses a trip while its supply is protected.
"""

import itertools
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from libs.common.errors import InvalidInput
from libs.common.points import PointKind
from libs.common.profiles import Dlt645Point
from libs.fieldsim.breaker import Breaker
from libs.fieldsim.device import Device
from libs.fieldsim.faults import ClockOffset, Frozen, Markers
from libs.fieldsim.registers import ratio_of
from libs.fieldsim.stream.server import Face

ZONE = ZoneInfo("Asia/Shanghai")
"""Meters' clocks show Chinese time."""
MAX_DATA = 200
RECORD_EVERY = timedelta(minutes=15)
RECORDS_KEPT = timedelta(days=31)
WAKE_UP = b"\xfe\xfe"

READ, READ_NEXT, READ_ADDRESS, BROADCAST, WRITE, CONTROL = 0x11, 0x12, 0x13, 0x08, 0x14, 0x1C
DATE, TIME = 0x04000101, 0x04000102
OTHER_ERROR, NO_SUCH_DATA, WRONG_PASSWORD = 0x01, 0x02, 0x04
TRIP, PERMIT, CLOSE, PROTECT, UNPROTECT = 0x1A, 0x1B, 0x1C, 0x3A, 0x3B
BLOCKS = {
    **{0x0000FF00 | kind << 16: [kind << 16 | n << 8 for n in range(5)] for kind in range(5)},
    0x0201FF00: [0x02010100, 0x02010200, 0x02010300],
    0x0202FF00: [0x02020100, 0x02020200, 0x02020300],
    **{0x0200FF00 | kind << 16: [0x02000000 | kind << 16 | n << 8 for n in range(4)] for kind in (3, 4, 5, 6)},
}
"""Block identifier to its items: energies with four tariffs, voltages, currents, powers, power factors."""
SINCE = 0x06000001
RECORD_CLASSES: tuple[list[int], ...] = (
    [0x02010100, 0x02010200, 0x02010300, 0x02020100, 0x02020200, 0x02020300, 0x02800002],
    [0x02030000, 0x02030100, 0x02030200, 0x02030300, 0x02040000, 0x02040100, 0x02040200, 0x02040300],
    [0x02060000, 0x02060100, 0x02060200, 0x02060300],
    [0x00010000, 0x00020000, 0x00030000, 0x00040000],
    [],
    [],
)
RECORD_SIZES = {
    **dict.fromkeys((0x0201, 0x0206, 0x0280), 2),
    **dict.fromkeys((0x0202, 0x0203, 0x0204), 3),
    **dict.fromkeys((1, 2, 3, 4), 4),
}
"""Bytes of an item by the upper half of its identifier, for what the device does not measure."""


class Dlt645Face(Face):
    """A meter or breaker on the line.

    Args:
        device: What it measures, and what it switches.
        address: Its number, at most 12 digits.
        password: Six digits that a control has to bring.
        level: Of the password.
        blocks: Whether it answers blocks of items.
        clock_offset_s: How wrong its clock is. [s]
    """

    protocol = "dlt645"

    def __init__(
        self,
        device: Device,
        *,
        address: str,
        password: str,
        level: int = 2,
        blocks: bool = True,
        clock_offset_s: float = 0.0,
    ) -> None:
        super().__init__(device)
        if not (address.isdecimal() and len(address) <= 12):
            raise InvalidInput(f"device {device.device_id}: a DL/T 645 address is at most 12 digits, not {address!r}")
        self.address = address.rjust(12, "0")
        self.protected = False
        self._wire_address = bytes.fromhex(self.address)[::-1]
        self._secret = bytes((level,)) + bytes.fromhex(password)[::-1]
        self._blocks = blocks
        self._clock_offset_s = clock_offset_s
        self._clock_set_on: datetime | None = None
        self._following: tuple[int, list[bytes]] = (0, [])
        self._items: dict[int, list[Dlt645Point]] = {}
        for point in device.profile.dlt645_points():
            if point.copy_of is None and point.name in device.names:
                self._items.setdefault(point.di, []).append(point)

    @staticmethod
    def find(data: bytes) -> tuple[int, int] | None:
        """Return the first whole frame."""
        start = data.find(0x68)
        while start >= 0:
            if data[start + 7 : start + 8] == b"\x68" and len(data) > start + 9:
                end = start + 12 + data[start + 9]
                if data[end - 1 : end] == b"\x16" and data[end - 2] == sum(data[start : end - 2]) & 0xFF:
                    return start, end
            start = data.find(0x68, start + 1)
        return None

    def is_asked(self, frame: bytes) -> bool:
        """Return whether the address is ours, with AA for any pair, or everybody's."""
        if frame[8] & 0x80:
            return False
        wanted = frame[1:7]
        if wanted == b"\x99" * 6:
            return frame[8] == BROADCAST
        return all(byte in (0xAA, own) for byte, own in zip(wanted, self._wire_address, strict=True))

    def answer(self, frame: bytes, now_s: float) -> bytes | None:
        """Answer a request."""
        function, data = frame[8] & 0x1F, bytes((byte - 0x33) & 0xFF for byte in frame[10:-2])
        match function:
            case 0x08:
                self._set_clock(data, now_s)
                return None
            case 0x13:
                return self._frame(function, self._wire_address)
            case 0x11 if len(data) >= 4:
                return self._read(data, now_s)
            case 0x12 if len(data) == 5:
                return self._next(data)
            case 0x14 if len(data) >= 12:
                return self._write(data, now_s)
            case 0x1C if len(data) == 16:
                return self._control(data, now_s)
            case _:
                return self._no(function, OTHER_ERROR)

    def refuse(self, frame: bytes, code: int) -> bytes:
        """Return an error answer; the code is its error byte."""
        return self._no(frame[8] & 0x1F, code)

    def foreign(self, answer: bytes) -> bytes:
        """Return the answer of the meter with the next number."""
        start = answer.index(0x68)
        body = bytearray(answer[start:-2])
        body[1] = (body[1] + 1) & 0x77
        return WAKE_UP + bytes(body) + bytes((sum(body) & 0xFF, 0x16))

    def misfit(self, answer: bytes) -> bytes:
        """Return an answer with another identifier."""
        start = answer.index(0x68)
        body = bytearray(answer[start:-2])
        if len(body) > 11:
            body[11] = (body[11] + 1) & 0xFF
        return WAKE_UP + bytes(body) + bytes((sum(body) & 0xFF, 0x16))

    def shown(self, values: Mapping[str, float]) -> dict[str, float | None]:
        """Return what a perfect reader gets of canonical values, voltage, current and power on the primary side."""
        found: dict[str, float | None] = {}
        for points in self._items.values():
            for point in points:
                if point.is_text or point.name not in values:
                    continue
                if point.format == "bitmap":
                    found[point.name] = values[point.name]
                    continue
                ratio = self._ratio(point)
                digits = _digits(point, values[point.name] / ratio)
                back = 1.0 if point.unit in ("kWh", "kvarh") else ratio
                found[point.name] = digits * point.scale * back
        return found

    def clock(self, now_s: float) -> datetime:
        """Return what the meter's own clock shows."""
        fault = self.device.faults.active(self.device.device_id, ClockOffset, now_s)
        offset_s = self._clock_offset_s + (0.0 if fault is None else fault.offset_s)
        return (datetime.fromtimestamp(now_s, UTC) + timedelta(seconds=offset_s)).astimezone(ZONE)

    def _read(self, data: bytes, now_s: float) -> bytes:
        di = int.from_bytes(data[:4], "little")
        if di == SINCE and len(data) == 10:
            content = self._records(data[4], data[5:10], now_s)
        else:
            content = self._item(di, now_s)
        if content is None:
            return self._no(READ, NO_SUCH_DATA)
        room = MAX_DATA - 5
        pieces = [content[at : at + room] for at in range(0, len(content), room)]
        self._following = (di, pieces)
        return self._frame(READ | (0x20 if len(pieces) > 1 else 0), data[:4] + pieces[0])

    def _next(self, data: bytes) -> bytes:
        di, number = int.from_bytes(data[:4], "little"), data[4]
        kept, pieces = self._following
        if di != kept or not 0 < number < len(pieces):
            return self._no(READ_NEXT, NO_SUCH_DATA)
        more = 0x20 if number + 1 < len(pieces) else 0
        return self._frame(READ_NEXT | more, data[:4] + pieces[number] + data[4:5])

    def _item(self, di: int, now_s: float) -> bytes | None:
        device = self.device
        device.settle(now_s)
        frozen_at_s = device.faults.began(device.device_id, Frozen, now_s)
        values = device.values(now_s if frozen_at_s is None else frozen_at_s)
        if di in BLOCKS:
            if not self._blocks:
                return None
            parts = itertools.takewhile(bool, (self._content(one, values, now_s) for one in BLOCKS[di]))
            return b"".join(part for part in parts if part is not None) or None
        return self._content(di, values, now_s)

    def _content(self, di: int, values: Mapping[str, float], now_s: float) -> bytes | None:
        points = self._items.get(di)
        if points is None:
            return None
        local = self.clock(now_s)
        if points[0].is_text:
            return _text(points[0].format, local, self._wire_address)
        if points[0].format == "bitmap":
            word = sum(_bit(point, values) << (point.bit or 0) for point in points)
            return word.to_bytes(points[0].byte_count, "little")
        point = points[0]
        if self._is_marked(point, now_s) or self._is_missing_phase(point):
            return b"\xff" * point.byte_count
        value = values.get(point.name)
        return None if value is None else _bcd(point, _digits(point, value / self._ratio(point)))

    def _ratio(self, point: Dlt645Point) -> float:
        device = self.device
        return ratio_of(device.profile, point, ct_ratio=device.ct_ratio, pt_ratio=device.pt_ratio)

    def _is_marked(self, point: Dlt645Point, now_s: float) -> bool:
        order = self.device.faults.active(self.device.device_id, Markers, now_s)
        if order is None:
            return False
        gauge = point.canonical is not None and point.canonical.kind is PointKind.GAUGE
        return point.name in order.points if order.points else gauge

    def _is_missing_phase(self, point: Dlt645Point) -> bool:
        single = isinstance(self.device, Breaker) and self.device.poles == 1
        return single and point.name.endswith(("_b", "_c"))

    def _set_clock(self, data: bytes, now_s: float) -> None:
        wished = _time(data)
        local = self.clock(now_s)
        if wished is None or (self._clock_set_on is not None and self._clock_set_on.date() == local.date()):
            return
        off_s = (wished - local).total_seconds()
        if abs(off_s) < 300.0:
            self._clock_offset_s += off_s
            self._clock_set_on = local
            self.device.events.record(now_s, self.device.device_id, "clock_set", by_s=off_s)

    def _write(self, data: bytes, now_s: float) -> bytes:
        """Take a date or a time of day; there is nothing else to be written."""
        di, local = int.from_bytes(data[:4], "little"), self.clock(now_s)
        if data[4:8] != self._secret:
            return self._no(WRITE, WRONG_PASSWORD)
        wished = None
        if di == DATE and len(data) == 16:
            wished = _time(bytes.fromhex(local.strftime("%S%M%H")) + data[13:16])
        elif di == TIME and len(data) == 15:
            wished = _time(data[12:15] + bytes.fromhex(local.strftime("%d%m%y")))
        if wished is None:
            return self._no(WRITE, NO_SUCH_DATA)
        by_s = (wished - local.replace(microsecond=0)).total_seconds()
        self._clock_offset_s += by_s
        self.device.events.record(now_s, self.device.device_id, "clock_written", by_s=by_s)
        return self._frame(WRITE, b"")

    def _control(self, data: bytes, now_s: float) -> bytes:
        device, kind = self.device, data[8]
        reason = self._why_not(data, now_s)
        device.events.record(now_s, device.device_id, "control", kind=f"{kind:02X}", refused=reason)
        if reason == "password":
            return self._no(CONTROL, WRONG_PASSWORD)
        if reason is not None:
            return self._no(CONTROL, OTHER_ERROR)
        if kind in (PROTECT, UNPROTECT):
            self.protected = kind == PROTECT
        elif isinstance(device, Breaker):
            if kind == PERMIT:
                device.permit(now_s)
            else:
                device.order(kind == CLOSE, now_s)
        return self._frame(CONTROL, b"")

    def _why_not(self, data: bytes, now_s: float) -> str | None:
        if data[:4] != self._secret:
            return "password"
        until = _time(data[10:16])
        if until is None or until < self.clock(now_s):
            return "expired"
        kind = data[8]
        if kind in (PROTECT, UNPROTECT):
            return None
        if kind not in (TRIP, PERMIT, CLOSE) or not isinstance(self.device, Breaker):
            return "unknown"
        return "protected" if kind == TRIP and self.protected else None

    def _records(self, count: int, since: bytes, now_s: float) -> bytes | None:
        begin = _time(b"\x00" + since)
        if begin is None:
            return None
        local = self.clock(now_s)
        at = max(begin, local - RECORDS_KEPT)
        minutes = RECORD_EVERY // timedelta(minutes=1)
        first = at.replace(minute=0, second=0, microsecond=0)
        while first < at:
            first += timedelta(minutes=minutes)
        stored = [first + n * RECORD_EVERY for n in range(count) if first + n * RECORD_EVERY <= local]
        if not stored:
            return None
        return b"".join(self._record(moment, now_s) for moment in stored)

    def _record(self, moment: datetime, now_s: float) -> bytes:
        values = self.device.values(moment.timestamp())
        body = bytes.fromhex(moment.strftime("%M%H%d%m%y"))
        for items in RECORD_CLASSES:
            for di in items:
                body += self._content(di, values, now_s) or b"\xff" * RECORD_SIZES[di >> 16]
            body += b"\xaa"
        start = b"\xa0\xa0" + bytes((len(body),)) + body
        return start + bytes((sum(start) & 0xFF, 0xE5))

    def _no(self, function: int, error: int) -> bytes:
        return self._frame(function | 0x40, bytes((error,)))

    def _frame(self, control: int, data: bytes) -> bytes:
        body = b"\x68" + self._wire_address + b"\x68" + bytes((0x80 | control, len(data)))
        body += bytes((byte + 0x33) & 0xFF for byte in data)
        return WAKE_UP + body + bytes((sum(body) & 0xFF, 0x16))


def _digits(point: Dlt645Point, value: float) -> int:
    """Return the digits of a value, rolled over like a counter, held at the picture's limits otherwise."""
    most: int = 10 ** (2 * point.byte_count)
    digits: int = round(value / point.scale)
    if point.canonical is not None and point.canonical.kind is PointKind.COUNTER:
        return digits % most
    limit: int = most * 8 // 10 - 1 if point.signed else most - 1
    return max(-limit if point.signed else 0, min(digits, limit))


def _bcd(point: Dlt645Point, digits: int) -> bytes:
    data = bytearray(bytes.fromhex(str(abs(digits)).rjust(2 * point.byte_count, "0"))[::-1])
    if digits < 0:
        data[-1] |= 0x80
    return bytes(data)


def _bit(point: Dlt645Point, values: Mapping[str, float]) -> int:
    value = int(values.get(point.name, 0.0))
    return value if point.bit is None else int(bool(value) != point.invert)


def _text(format_: str, local: datetime, address: bytes) -> bytes:
    match format_:
        case "YYMMDDWW":
            return bytes((local.isoweekday() % 7,)) + bytes.fromhex(local.strftime("%d%m%y"))
        case "hhmmss":
            return bytes.fromhex(local.strftime("%S%M%H"))
        case _:
            return address


def _time(data: bytes) -> datetime | None:
    """Return ss mm hh DD MM YY as a time."""
    try:
        return datetime.strptime(data[::-1].hex(), "%y%m%d%H%M%S").replace(tzinfo=ZONE)
    except ValueError:
        return None
