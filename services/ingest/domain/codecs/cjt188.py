"""CJ/T 188: the frames of water, heat and gas meters, and the units that their values carry with them.

As DL/T 645 without the second 68 and without the 33 added to the data; the address has fourteen digits, two bytes of
them the maker's, and the meter's type stands in front of it.

Source:
    CJ/T 188-2004 clauses 5 to 7; the figures in ``southbound.md`` 5.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

from services.ingest.domain.codecs import bcd

START, END = 0x68, 0x16
WAKE_UP = b"\xfe\xfe\xfe"
HEADER = 11
"""Bytes before the data: 68, type, address, control, length."""
TRAILER = 2

ANY = "A" * 14
"""Address that the only meter on a line answers."""
ANY_TYPE = 0xAA
ANSWER, ERROR = 0x80, 0x40

_ADDRESS = re.compile(r"[0-9A-F]{1,14}")


class Function(IntEnum):
    """What a frame asks for."""

    READ = 0x01
    READ_ADDRESS = 0x03
    WRITE = 0x04
    WRITE_ADDRESS = 0x15
    SET_BASE = 0x16


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame, out of its wrapping."""

    meter_type: int
    address: str
    """Fourteen digits, highest first; the first four are the maker's code and may be hexadecimal."""
    control: int
    data: bytes = b""

    @property
    def function(self) -> int:
        """What it asks for, or answers to."""
        return self.control & 0x3F

    @property
    def is_answer(self) -> bool:
        """Whether a meter sent it."""
        return bool(self.control & ANSWER)

    @property
    def is_error(self) -> bool:
        """Whether it says no."""
        return bool(self.control & ERROR)

    @property
    def identifier(self) -> int | None:
        """The data identifier, ``0x901F`` for 1F 90 on the wire; None in a frame that has none."""
        return int.from_bytes(self.data[:2], "little") if len(self.data) >= 2 else None

    @property
    def serial(self) -> int | None:
        """The number that tells one request from the next; the answer repeats it."""
        return self.data[2] if len(self.data) >= 3 else None


def scan(buffer: bytes) -> tuple[int, Frame | None]:
    """Find the first whole frame.

    Returns:
        How many bytes are done with, and the frame if there is one. Bytes that can begin a frame are kept.
    """
    keep = len(buffer)
    at = buffer.find(START)
    while at >= 0:
        length_at = at + HEADER - 1
        end = at + HEADER + buffer[length_at] + TRAILER if len(buffer) > length_at else len(buffer) + 1
        if end > len(buffer):
            # It may be a false start in front of a whole frame: what follows is looked at all the same.
            keep = min(keep, at)
        elif buffer[end - 1] == END and sum(buffer[at : end - TRAILER]) & 0xFF == buffer[end - TRAILER]:
            address = buffer[at + 2 : at + 9][::-1].hex().upper()
            return end, Frame(buffer[at + 1], address, buffer[at + 9], buffer[at + HEADER : end - TRAILER])
        at = buffer.find(START, at + 1)
    return keep, None


def encode(frame: Frame) -> bytes:
    """Return a frame as it goes over the wire, without wake-up bytes.

    Raises:
        ValueError: The address is none, or there is too much data.
    """
    if len(frame.data) > 0xFF:
        raise ValueError(f"{len(frame.data)} bytes of data, at most 255 fit")
    address = bytes.fromhex(normal_address(frame.address))[::-1]
    body = bytes((START, frame.meter_type, *address, frame.control, len(frame.data))) + frame.data
    return body + bytes((sum(body) & 0xFF, END))


def normal_address(text: str) -> str:
    """Return an address in its fourteen digits.

    Raises:
        ValueError: It is none.
    """
    upper = text.upper()
    if _ADDRESS.fullmatch(upper) is None:
        raise ValueError(f"{text!r} is no CJ/T 188 address: expected at most 14 digits")
    return upper.rjust(14, "0")


def matches(pattern: str, address: str) -> bool:
    """Return whether an address is one that a pattern with wildcards ``AA`` means."""
    pairs = ((pattern[n : n + 2], address[n : n + 2]) for n in range(0, 14, 2))
    return all(wanted in ("AA", found) for wanted, found in pairs)


def read(meter_type: int, address: str, di: int, serial: int) -> Frame:
    """Return the request for a data item; a ``di`` of ``0x901F`` is sent as 1F 90."""
    return Frame(meter_type, address, Function.READ, di.to_bytes(2, "little") + bytes((serial,)))


def write(meter_type: int, address: str, di: int, serial: int, data: bytes, *, control: int = Function.WRITE) -> Frame:
    """Return the request that writes a data item: a valve, a clock."""
    return Frame(meter_type, address, control, di.to_bytes(2, "little") + bytes((serial,)) + data)


def read_address() -> Frame:
    """Return the question for type and address of the only meter on a line."""
    return Frame(ANY_TYPE, ANY, Function.READ_ADDRESS)


def clock(data: bytes) -> datetime | None:
    """Return the seven bytes of a meter's time (second first, century last) without a zone; None for no time."""
    numbers = [bcd.number(data[n : n + 1]) for n in range(7)]
    if len(data) < 7 or any(number is None for number in numbers):
        return None
    second, minute, hour, day, month, year, century = (number or 0 for number in numbers)
    try:
        return datetime(100 * century + year, month, day, hour, minute, second)  # noqa: DTZ001 - the meter has no zone
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class UnitCode:
    """What a unit byte means: the platform's name of a unit, and how many of it."""

    unit: str
    times: float = 1.0


UNITS: Mapping[int, UnitCode] = {
    0x02: UnitCode("Wh"),
    0x03: UnitCode("Wh", 10),
    0x04: UnitCode("Wh", 100),
    0x05: UnitCode("kWh"),
    0x06: UnitCode("kWh", 10),
    0x07: UnitCode("kWh", 100),
    0x08: UnitCode("MWh"),
    0x09: UnitCode("MWh", 10),
    0x0E: UnitCode("MJ"),
    0x0F: UnitCode("MJ", 10),
    0x10: UnitCode("MJ", 100),
    0x11: UnitCode("GJ"),
    0x12: UnitCode("GJ", 10),
    0x13: UnitCode("GJ", 100),
    0x14: UnitCode("W"),
    0x15: UnitCode("W", 10),
    0x16: UnitCode("W", 100),
    0x17: UnitCode("kW"),
    0x18: UnitCode("kW", 10),
    0x19: UnitCode("kW", 100),
    0x1A: UnitCode("MW"),
    0x29: UnitCode("L"),
    0x2A: UnitCode("L", 10),
    0x2B: UnitCode("L", 100),
    0x2C: UnitCode("m3"),
    0x2D: UnitCode("m3", 10),
    0x2E: UnitCode("m3", 100),
    0x32: UnitCode("L/h"),
    0x33: UnitCode("L/h", 10),
    0x34: UnitCode("L/h", 100),
    0x35: UnitCode("m3/h"),
    0x36: UnitCode("m3/h", 10),
    0x37: UnitCode("m3/h", 100),
}
"""Unit bytes: those of EN 1434-3 (the M-Bus), which the standard took over.

0A to 0D are left out: sources disagree whether they count kilojoules or hundreds of megawatt-hours; a wrong guess is
wrong by eight orders of magnitude.
"""
