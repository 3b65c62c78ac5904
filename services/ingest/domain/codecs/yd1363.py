"""YD/T 1363.3 (电总): frames between a station's collector and its power and air-conditioning equipment.

Everything between ``~`` and the carriage return is hexadecimal text. A frame has two checks: a nibble over its length
and sixteen bits over all of its characters. An answer does not repeat what was asked for; it says only how it went.

Source:
    YD/T 1363.3-2005 clauses 4 and 5 (YDN 023); the figures in ``southbound.md`` 14.1.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

START, END = ord("~"), ord("\r")
HEAD_CHARS = 12
"""Characters from ``~`` to the information: version, address, CID1, CID2, length."""
SUM_CHARS = 4
MAX_INFO_CHARS = 0xFFF
MAX_CHARS = HEAD_CHARS + MAX_INFO_CHARS + SUM_CHARS
"""Between ``~`` and the carriage return."""
MISSING = b"\x20\x20\x20\x20"
"""In place of a number that the device does not have."""

GET_TIME, SET_TIME = 0x4D, 0x4E
"""CID2 of the clock; its information is year (two bytes, high byte first), month, day, hour, minute, second."""
OK = 0x00
RETURNS: Mapping[int, str] = {
    0x01: "wrong protocol version",
    0x02: "wrong CHKSUM",
    0x03: "wrong LCHKSUM",
    0x04: "invalid CID2",
    0x05: "wrong command format",
    0x06: "invalid data",
    0xE0: "no permission",
    0xE1: "operation failed",
    0xE2: "device fault",
    0xE3: "device is write-protected",
}
"""Codes with which a device says no; E0 and above are the maker's, most of whom use these."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame, out of its wrapping."""

    version: int
    address: int
    cid1: int
    """What kind of equipment."""
    code: int
    """In a request what is asked for (CID2), in an answer how it went (RTN)."""
    info: bytes = b""


def time_info(local: datetime) -> bytes:
    """Return a time as the information of 4E."""
    head = local.year.to_bytes(2, "big")
    return head + bytes((local.month, local.day, local.hour, local.minute, local.second))


def time_of(info: bytes) -> datetime:
    """Return the time, without zone, that the information of an answer to 4D says.

    Raises:
        ValueError: It is none.
    """
    if len(info) != 7:
        raise ValueError(f"expected 7 bytes of time, found {len(info)}")
    return datetime(int.from_bytes(info[:2], "big"), *info[2:])  # noqa: DTZ001  # the device says no zone


def scan(buffer: bytes) -> tuple[int, Frame | None]:
    """Find the first whole frame.

    Returns:
        How many bytes are done with, and the frame if there is one. Bytes that can begin a frame are kept.
    """
    at = buffer.find(START)
    while at >= 0:
        end = buffer.find(END, at)
        again = buffer.find(START, at + 1, None if end < 0 else end)
        if again >= 0:  # a frame that broke off
            at = again
            continue
        if end < 0:
            return (at, None) if len(buffer) - at <= MAX_CHARS + 1 else (at + 1, None)
        frame = _frame(buffer[at + 1 : end])
        if frame is not None:
            return end + 1, frame
        at = buffer.find(START, end)
    return len(buffer), None


def encode(frame: Frame) -> bytes:
    """Return a frame as it goes over the wire.

    Raises:
        ValueError: There is too much information.
    """
    info = frame.info.hex().upper()
    if len(info) > MAX_INFO_CHARS:
        raise ValueError(f"{len(info)} characters of information, at most {MAX_INFO_CHARS} fit")
    head = bytes((frame.version, frame.address, frame.cid1, frame.code)).hex().upper()
    text = f"{head}{_length(len(info)):04X}{info}".encode()
    return b"~" + text + f"{_sum(text):04X}\r".encode()


def refusal(code: int) -> str:
    """Return in words why a device says no."""
    return f"{code:02X} ({RETURNS.get(code, 'reason of the maker')})"


def float32(data: bytes) -> float | None:
    """Return a number of four bytes, the lowest first; None where the device has none."""
    if len(data) != 4 or data == MISSING:
        return None
    (value,) = struct.unpack("<f", data)
    return value if math.isfinite(value) else None


def int16(data: bytes) -> int | None:
    """Return a number of two bytes in two's complement, the highest first; None where the device has none."""
    return None if len(data) != 2 or data == MISSING[:2] else int.from_bytes(data, "big", signed=True)


def _frame(text: bytes) -> Frame | None:
    if len(text) < HEAD_CHARS + SUM_CHARS:
        return None
    body, check = text[:-SUM_CHARS], _bytes(text[-SUM_CHARS:])
    head, length, info = _bytes(body[:8]), _bytes(body[8:HEAD_CHARS]), _bytes(body[HEAD_CHARS:])
    if check is None or head is None or length is None or info is None:
        return None
    if int.from_bytes(check, "big") != _sum(body):
        return None
    if int.from_bytes(length, "big") != _length(len(body) - HEAD_CHARS):
        return None
    return Frame(head[0], head[1], head[2], head[3], info)


def _bytes(text: bytes) -> bytes | None:
    """Return what hexadecimal text says, None for other text; two blanks stand for themselves (not measured)."""
    pairs = [text[n : n + 2] for n in range(0, len(text), 2)]
    try:
        return bytes(0x20 if pair == b"  " else _byte(pair) for pair in pairs)
    except ValueError:
        return None


def _byte(pair: bytes) -> int:
    if len(pair) != 2 or not pair.isalnum():  # int() would take a sign or blanks
        raise ValueError(pair)
    return int(pair, 16)


def _length(chars: int) -> int:
    """Return the length field: a check nibble over the three nibbles of the count, and the count."""
    nibbles = (chars & 0xF) + (chars >> 4 & 0xF) + (chars >> 8 & 0xF)
    return (-nibbles & 0xF) << 12 | chars


def _sum(text: bytes) -> int:
    return -sum(text) & 0xFFFF
