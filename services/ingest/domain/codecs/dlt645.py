"""DL/T 645-2007: the frames of multi-function meters and many breakers, and the values in them.

Nothing here knows a line: a frame may come from a serial port, a tunnel or the payload of a platform. An address is
its twelve digits as on the plate; on the wire the lowest pair comes first, with 33 (hexadecimal) added to every byte
of the data.

Source:
    DL/T 645-2007 clauses 5 to 7 and annexes A, B; the figures in ``southbound.md`` 3.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum, IntFlag

from services.ingest.domain.codecs import bcd

START, END = 0x68, 0x16
WAKE_UP = b"\xfe\xfe\xfe\xfe"
"""Sent before a request; a receiver must take any number of them, or none."""
OFFSET = 0x33
"""Added to every byte of the data on the wire."""
HEADER = 10
"""Bytes before the data: 68, address, 68, control, length."""
TRAILER = 2
MAX_DATA = 0xFF
"""What the length byte can say; the standard allows 200, and meters have been seen to send more."""

BROADCAST = "999999999999"
"""Address that every meter takes and none answers."""
ANY = "AAAAAAAAAAAA"
"""Address that the only meter on a line answers, with its own."""

ANSWER, ERROR, MORE = 0x80, 0x40, 0x20
FUNCTION = 0x1F

_ADDRESS = re.compile(r"[0-9]{1,12}|(?=.{12}$)(?:AA)+(?:[0-9]{2})*")


class Function(IntEnum):
    """What a frame asks for: the low five bits of the control byte."""

    BROADCAST_TIME = 0x08
    READ = 0x11
    READ_NEXT = 0x12
    READ_ADDRESS = 0x13
    WRITE = 0x14
    CONTROL = 0x1C


class Refusal(IntFlag):
    """Bits of the byte in an answer that says no."""

    OTHER = 0x01
    NO_SUCH_DATA = 0x02
    NOT_AUTHORISED = 0x04
    BAUD_RATE = 0x08
    TIME_ZONES = 0x10
    DAY_SLOTS = 0x20
    TARIFFS = 0x40


_REFUSALS: Mapping[Refusal, str] = {
    Refusal.OTHER: "other error",
    Refusal.NO_SUCH_DATA: "no such data",
    Refusal.NOT_AUTHORISED: "wrong password or not authorised",
    Refusal.BAUD_RATE: "baud rate cannot be changed",
    Refusal.TIME_ZONES: "too many time zones",
    Refusal.DAY_SLOTS: "too many day slots",
    Refusal.TARIFFS: "too many tariffs",
}


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame, out of its wrapping."""

    address: str
    """Twelve digits, highest first; a wildcard byte reads ``AA``."""
    control: int
    data: bytes = field(default=b"", repr=False)
    """Without the 33 of the wire; not shown, for it may hold a password."""

    @property
    def function(self) -> int:
        """What it asks for, or answers to."""
        return self.control & FUNCTION

    @property
    def is_answer(self) -> bool:
        """Whether a meter sent it; half-duplex converters give our own requests back."""
        return bool(self.control & ANSWER)

    @property
    def is_error(self) -> bool:
        """Whether it says no."""
        return bool(self.control & ERROR)

    @property
    def has_more(self) -> bool:
        """Whether the data goes on in a next frame."""
        return bool(self.control & MORE)


def scan(buffer: bytes) -> tuple[int, Frame | None]:
    """Find the first whole frame.

    Returns:
        How many bytes are done with, and the frame if there is one. Bytes that can begin a frame are kept.
    """
    keep = len(buffer)
    at = buffer.find(START)
    while at >= 0:
        end = _end(buffer, at)
        if end is not None and end <= len(buffer):
            if buffer[end - 1] == END and sum(buffer[at : end - TRAILER]) & 0xFF == buffer[end - TRAILER]:
                return end, _frame(buffer, at, end)
        elif end is not None:
            # It may be a false start in front of a whole frame: what follows is looked at all the same.
            keep = min(keep, at)
        at = buffer.find(START, at + 1)
    return keep, None


def encode(frame: Frame) -> bytes:
    """Return a frame as it goes over the wire, without wake-up bytes.

    Raises:
        ValueError: The address is none, or there is too much data.
    """
    if len(frame.data) > MAX_DATA:
        raise ValueError(f"{len(frame.data)} bytes of data, at most {MAX_DATA} fit")
    body = bytes((START, *_address_bytes(frame.address), START, frame.control, len(frame.data)))
    body += bytes((byte + OFFSET) & 0xFF for byte in frame.data)
    return body + bytes((sum(body) & 0xFF, END))


def normal_address(text: str) -> str:
    """Return an address in its twelve digits.

    Raises:
        ValueError: It is none: at most twelve digits, or six pairs of which the first are wildcards ``AA``.
    """
    if _ADDRESS.fullmatch(text) is None:
        raise ValueError(f"{text!r} is no DL/T 645 address: expected at most 12 digits, or AA pairs in front of digits")
    return text.rjust(12, "0")


def matches(pattern: str, address: str) -> bool:
    """Return whether an address is one that a pattern with wildcards means."""
    pairs = zip(_pairs(pattern), _pairs(address), strict=True)
    return all(wanted in ("AA", found) for wanted, found in pairs)


# Requests.


def read(address: str, di: int, *, blocks: int | None = None, since: datetime | None = None) -> Frame:
    """Return the request for a data item.

    Args:
        address: Of the meter; may have wildcards.
        di: Data identifier, ``0x00010000`` for DI3 DI2 DI1 DI0 = 00 01 00 00.
        blocks: Of load records: how many.
        since: Of load records at a given time: from which minute on, in the meter's own time.
    """
    data = di.to_bytes(4, "little")
    if blocks is not None:
        data += bytes((blocks,))
    if since is not None:
        data += bcd_time(since)[1:]
    return Frame(address, Function.READ, data)


def read_next(address: str, di: int, sequence: int) -> Frame:
    """Return the request for what follows an answer that has more; ``sequence`` counts from 1."""
    return Frame(address, Function.READ_NEXT, di.to_bytes(4, "little") + bytes((sequence,)))


def read_address() -> Frame:
    """Return the question for the address of the only meter on a line."""
    return Frame(ANY, Function.READ_ADDRESS)


def broadcast_time(local: datetime) -> Frame:
    """Return the telegram that sets all clocks on a line; nobody answers it."""
    return Frame(BROADCAST, Function.BROADCAST_TIME, bcd_time(local))


def control(address: str, kind: int, *, level: int, password: str, operator: str, until: datetime) -> Frame:
    """Return a control: trip, close, alarm, protect.

    Args:
        address: Of the meter.
        kind: N1 of the standard: 1A trip, 1B permit closing, 1C close …
        level: Of the password.
        password: Six digits.
        operator: Eight digits, for the meter's own record.
        until: The meter refuses it after this time of its own clock.

    Raises:
        ValueError: Password or operator are none; the message does not show them.
    """
    return Frame(address, Function.CONTROL, _secret(level, password, operator) + bytes((kind, 0)) + bcd_time(until))


def write(address: str, di: int, content: bytes, *, level: int, password: str, operator: str) -> Frame:
    """Return a request that writes an item; level, password and operator as of ``control``.

    Raises:
        ValueError: Password or operator are none; the message does not show them.
    """
    return Frame(address, Function.WRITE, di.to_bytes(4, "little") + _secret(level, password, operator) + content)


def date_content(local: datetime) -> bytes:
    """Return the date as item 04000101 holds it: day of the week (Sunday is 0), day, month, year."""
    return bytes((local.isoweekday() % 7,)) + bytes.fromhex(local.strftime("%d%m%y"))


def time_content(local: datetime) -> bytes:
    """Return the time as item 04000102 holds it: second, minute, hour."""
    return bytes.fromhex(local.strftime("%S%M%H"))


def _secret(level: int, password: str, operator: str) -> bytes:
    if re.fullmatch(r"[0-9]{6}", password) is None:
        raise ValueError("the password is not six digits")
    if re.fullmatch(r"[0-9]{1,8}", operator) is None:
        raise ValueError("the operator code is not at most eight digits")
    return bytes((level,)) + bytes.fromhex(password)[::-1] + bytes.fromhex(operator.rjust(8, "0"))[::-1]


# Answers.


def identifier(data: bytes) -> int | None:
    """Return the data identifier that an answer repeats, None when it is too short for one."""
    return int.from_bytes(data[:4], "little") if len(data) >= 4 else None


def refusal(frame: Frame) -> tuple[Refusal, str]:
    """Return why a meter says no, as bits and in words."""
    code = frame.data[0] if frame.data else 0
    words = [text for bit, text in _REFUSALS.items() if code & bit]
    return Refusal(code & 0x7F), ", ".join(words) or f"error byte {code:02X}"


# Values.


def bits(data: bytes) -> int:
    """Return a status word as an unsigned number."""
    return int.from_bytes(data, "little")


def clock(date: bytes, time: bytes) -> datetime | None:
    """Return what a meter's clock shows, without a zone.

    Args:
        date: Of item 04000101: weekday, day, month, year.
        time: Of item 04000102: second, minute, hour.
    """
    numbers = [bcd.number(bytes((byte,))) for byte in (*date[1:4], *time[:3])]
    if len(numbers) != 6 or any(number is None for number in numbers):
        return None
    day, month, year, second, minute, hour = (int(number or 0) for number in numbers)
    return _datetime(year, month, day, hour, minute, second)


def bcd_time(local: datetime) -> bytes:
    """Return a local time as ss mm hh DD MM YY."""
    return bytes.fromhex(local.strftime("%S%M%H%d%m%y"))


# Blocks: several items in one answer.


@dataclass(frozen=True, slots=True)
class BlockItem:
    """One of the items of a block."""

    di: int
    byte_count: int


def block_of(di: int) -> int | None:
    """Return the identifier of the block that an item is part of, None when it is in none."""
    for group, first, last, _ in _BLOCKS:
        if di & 0xFFFF00FF == group and first <= di >> 8 & 0xFF <= last:
            return group | 0xFF00
    return 0x040005FF if di & 0xFFFFFF00 == 0x04000500 and 1 <= di & 0xFF <= 7 else None


def block_items(block: int) -> tuple[BlockItem, ...]:
    """Return the items of a block in the order of its answer, which may break off earlier."""
    for group, first, last, size in _BLOCKS:
        if block == group | 0xFF00:
            return tuple(BlockItem(group | n << 8, size) for n in range(first, last + 1))
    if block == 0x040005FF:
        return tuple(BlockItem(0x04000500 | n, 2) for n in range(1, 8))
    return ()


MAX_TARIFFS = 63
_BLOCKS: Sequence[tuple[int, int, int, int]] = (
    # group, first and last DI1, bytes of an item
    *((0x00000000 | kind << 16, 0, MAX_TARIFFS, 4) for kind in range(9)),  # energies: total and tariffs
    (0x02010000, 1, 3, 2),  # voltages
    (0x02020000, 1, 3, 3),  # currents
    (0x02030000, 0, 3, 3),  # active, reactive, apparent power: total and phases
    (0x02040000, 0, 3, 3),
    (0x02050000, 0, 3, 3),
    (0x02060000, 0, 3, 2),  # power factors
    (0x02070000, 1, 3, 2),  # phase angles
)


# Load records: what the meter keeps of the past.


@dataclass(frozen=True, slots=True)
class LoadRecord:
    """What a meter stored at one time."""

    local: datetime
    """In the meter's own time, without a zone."""
    values: Mapping[int, bytes]
    """Data identifier to the bytes of its value; only classes that the meter records."""


LOAD_RECORDS_SINCE = 0x06000001
"""Records of all classes from a given time on."""
_RECORD_START, _RECORD_BAD, _CLASS_END, _RECORD_END = b"\xa0\xa0", b"\xe0\xe0", 0xAA, 0xE5
_CLASSES: Sequence[Sequence[BlockItem]] = (
    (
        *(BlockItem(0x02010000 | n << 8, 2) for n in (1, 2, 3)),
        *(BlockItem(0x02020000 | n << 8, 3) for n in (1, 2, 3)),
        BlockItem(0x02800002, 2),
    ),
    tuple(BlockItem(group | n << 8, 3) for group in (0x02030000, 0x02040000) for n in range(4)),
    tuple(BlockItem(0x02060000 | n << 8, 2) for n in range(4)),
    tuple(BlockItem(di, 4) for di in (0x00010000, 0x00020000, 0x00030000, 0x00040000)),
    tuple(BlockItem(0x00050000 + (n << 16), 4) for n in range(4)),
    tuple(BlockItem(di, 3) for di in (0x02800004, 0x02800005)),
)
"""Contents of the six classes of a record, in their order."""


def load_records(data: bytes) -> Iterator[LoadRecord]:
    """Yield the records in an answer (without its identifier); one that is marked or found wrong is left out.

    Source:
        DL/T 645-2007 annex B: A0 A0, length, mm hh DD MM YY, six classes each ended by AA, sum, E5.
    """
    at = 0
    while at + 8 <= len(data):
        end = at + 3 + data[at + 2] + 2
        whole = data[at:end]
        if whole[:2] not in (_RECORD_START, _RECORD_BAD) or len(whole) != end - at or whole[-1] != _RECORD_END:
            at += 1  # filling between records, or a record that is not one
            continue
        at = end
        if whole[:2] == _RECORD_START and sum(whole[:-2]) & 0xFF == whole[-2]:
            record = _load_record(whole[3:-2])
            if record is not None:
                yield record


def _load_record(body: bytes) -> LoadRecord | None:
    minute, hour, day, month, year = (bcd.number(body[n : n + 1]) for n in range(5))
    if minute is None or hour is None or day is None or month is None or year is None:
        return None
    local = _datetime(year, month, day, hour, minute, 0)
    values: dict[int, bytes] = {}
    at = 5
    for items in _CLASSES:
        if at >= len(body):
            break
        size = sum(item.byte_count for item in items)
        if body[at : at + 1] == bytes((_CLASS_END,)):
            at += 1  # a class that is not recorded
            continue
        if body[at + size : at + size + 1] != bytes((_CLASS_END,)):
            return None
        for item in items:
            values[item.di] = body[at : at + item.byte_count]
            at += item.byte_count
        at += 1
    return None if local is None else LoadRecord(local, values)


# When clocks may be set.

NEAR_MIDNIGHT = timedelta(minutes=5)
MAX_BROADCAST_SKEW = timedelta(minutes=5)


def may_broadcast(local: datetime, skew: timedelta, settlement_hours: Sequence[int] = ()) -> bool:
    """Return whether the standard allows a broadcast time now; that it is only once a day is the caller's matter.

    Args:
        local: The time that would be sent.
        skew: How far the meter's clock is off.
        settlement_hours: Full hours at which meters settle; midnight always is one.

    Source:
        DL/T 645-2007 clause 7.5: not within 5 minutes of midnight or of a settlement, less than 5 minutes off.
    """
    if abs(skew) >= MAX_BROADCAST_SKEW:
        return False
    minutes = local.hour * 60 + local.minute + local.second / 60
    near = NEAR_MIDNIGHT.total_seconds() / 60
    moments = (0, *(hour * 60 for hour in settlement_hours), 24 * 60)
    return all(abs(minutes - moment) > near for moment in moments)


def _end(buffer: bytes, at: int) -> int | None:
    """Return where a frame that starts at ``at`` would end; beyond the buffer while that cannot be known."""
    if len(buffer) > at + 7 and buffer[at + 7] != START:
        return None
    if len(buffer) <= at + 9:
        return len(buffer) + 1
    return at + HEADER + buffer[at + 9] + TRAILER


def _frame(buffer: bytes, at: int, end: int) -> Frame:
    address = buffer[at + 1 : at + 7][::-1].hex().upper()
    data = bytes((byte - OFFSET) & 0xFF for byte in buffer[at + HEADER : end - TRAILER])
    return Frame(address, buffer[at + 8], data)


def _address_bytes(address: str) -> bytes:
    return bytes.fromhex(normal_address(address))[::-1]


def _pairs(address: str) -> list[str]:
    return [address[n : n + 2] for n in range(0, len(address), 2)]


def _datetime(year: int, month: int, day: int, hour: int, minute: int, second: int) -> datetime | None:
    try:
        return datetime(2000 + year, month, day, hour, minute, second)  # noqa: DTZ001 - the meter has no zone
    except ValueError:
        return None
