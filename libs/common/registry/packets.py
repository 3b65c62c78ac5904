"""Packets as the registry writes them: what a data terminal (DTU) registers with, and what its heartbeats look like.

A packet is a text, or ``hex:`` and its bytes: ``IMEI867123456789012``, ``hex:AA 55 01``. A pattern may besides hold
wildcards: ``?`` for any byte (``??`` after ``hex:``), and one ``*`` for any bytes. Not regular expressions: one
of those can stop a process for hours, and these are written by people in a hurry.
"""

import re
from dataclasses import dataclass

MAX_PACKET_BYTES = 256
"""Longest registration packet or heartbeat. [B]"""

_HEX = "hex:"
_ANY: None = None


@dataclass(frozen=True, slots=True)
class Pattern:
    """What heartbeats look like; each byte is one that must stand there, or None for any."""

    head: tuple[int | None, ...]
    """Up to the ``*``, or all."""
    tail: tuple[int | None, ...] | None = None
    """After the ``*``; None where there is none."""

    @property
    def least(self) -> int:
        """How long a heartbeat is at least. [B]"""
        return len(self.head) + len(self.tail or ())

    def end_in(self, data: bytes) -> int | None:
        """Return where a heartbeat that begins with the data ends, None where none begins."""
        if not _stands(self.head, data, 0):
            return None
        if self.tail is None:
            return len(self.head)
        for start in range(len(self.head), len(data) - len(self.tail) + 1):
            if _stands(self.tail, data, start):
                return start + len(self.tail)
        return None

    def start_in(self, data: bytes) -> int | None:
        """Return where a heartbeat that ends with the data starts, None where none does; one with a ``*`` never does,
        since nobody could say where it began."""
        start = len(data) - len(self.head)
        return start if self.tail is None and start >= 0 and _stands(self.head, data, start) else None


def parse_packet(text: str) -> bytes:
    """Return the bytes of a packet.

    Raises:
        ValueError: It is empty, too long, or no hexadecimal.
    """
    if text.startswith(_HEX):
        try:
            packet = bytes.fromhex(text.removeprefix(_HEX))
        except ValueError:
            raise ValueError("no hexadecimal bytes after hex:") from None
    else:
        packet = text.encode()
    if not 1 <= len(packet) <= MAX_PACKET_BYTES:
        raise ValueError(f"{len(packet)} bytes; a packet has 1 to {MAX_PACKET_BYTES}")
    return packet


def parse_pattern(text: str) -> Pattern:
    """Return a pattern.

    Raises:
        ValueError: It is empty, too long, no hexadecimal, has several ``*``, or is nothing but wildcards.
    """
    if text.count("*") > 1:
        raise ValueError("more than one *")
    parts = [_bytes_of(part, text.startswith(_HEX)) for part in text.removeprefix(_HEX).split("*")]
    pattern = Pattern(*parts)
    if all(byte is _ANY for part in parts for byte in part):
        raise ValueError("a pattern that fits everything")
    if pattern.least > MAX_PACKET_BYTES:
        raise ValueError(f"{pattern.least} bytes; a packet has at most {MAX_PACKET_BYTES}")
    return pattern


def _bytes_of(text: str, as_hex: bool) -> tuple[int | None, ...]:
    if not as_hex:
        return tuple(_ANY if byte == ord("?") else byte for byte in text.encode())
    digits = re.sub(r"\s", "", text)
    pairs = [digits[i : i + 2] for i in range(0, len(digits), 2)]
    if not all(re.fullmatch(r"\?\?|[0-9A-Fa-f]{2}", pair) for pair in pairs):
        raise ValueError("no hexadecimal bytes after hex:")
    return tuple(_ANY if pair == "??" else int(pair, 16) for pair in pairs)


def _stands(wanted: tuple[int | None, ...], data: bytes, start: int) -> bool:
    if len(data) - start < len(wanted):
        return False
    return all(byte is _ANY or data[start + i] == byte for i, byte in enumerate(wanted))
