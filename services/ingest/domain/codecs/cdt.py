"""CDT (DL 451-91): telecontrol frames that a station sends round and round, nobody asking.

``EB 90`` three times, a control word, information words; every word is six octets, the last one a check. Octets on the
line go low bit first, so that whoever writes the synchronisation to a UART bit by bit as the standard draws it writes
``D7 09``; both are met and both are understood. Only what a station tells is read here: commands are not part of it.

Source:
``D7 09``; both are met and both are understood. Only what a station tells is read here, its commands are no part of it.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

WORD = 6
SYNCHRONISATIONS = (b"\xeb\x90" * 3, b"\xd7\x09" * 3)
MAX_WORDS = 255
POLYNOMIAL = 0x07
"""x^8 + x^2 + x + 1, the rest inverted."""


class Kind(StrEnum):
    """What a value is."""

    TELEMETRY = "telemetry"
    """Twelve bits, signed."""
    STATE = "state"
    COUNTER = "counter"
    """Twenty-four bits, or six digits."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame whose control word is right."""

    kind: int
    """Frame type: 61 A, C2 B, B3 C, F4 states, 85 counters, 26 events."""
    source: int
    destination: int
    words: tuple[bytes, ...]
    """Those whose check is right, without it: function code and four octets."""
    broken: int
    """How many others there were."""


@dataclass(frozen=True, slots=True)
class Value:
    """One value of a frame."""

    kind: Kind
    number: int
    """Telemetry: twice the function code, plus 1 for the second of a word; state: from function F0, 32 a word;
    counter: from function A0."""
    raw: int | None
    """None where the station marks it as invalid."""
    overflow: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """A change of state with the time of day at which it happened."""

    number: int
    closed: bool
    day: int
    hour: int
    minute: int
    second: int
    millisecond: int


def check(octets: bytes) -> int:
    """Return the check octet of a word's first five."""
    rest = 0
    for octet in octets:
        rest ^= octet
        for _ in range(8):
            rest = (rest << 1 ^ POLYNOMIAL if rest & 0x80 else rest << 1) & 0xFF
    return rest ^ 0xFF


def scan(data: bytes) -> tuple[int, Frame | None]:
    """Return how many octets are done with, and the first frame among them; None when more is needed."""
    at = 0
    while True:
        found = _synchronised(data, at)
        if found is None:
            # What may be the beginning of a synchronisation is kept.
            return max(len(data) - len(SYNCHRONISATIONS[0]) + 1, at), None
        begin = found + len(SYNCHRONISATIONS[0])
        control = data[begin : begin + WORD]
        if len(control) < WORD:
            return found, None
        if not _is_right(control):
            at = found + 2
            continue
        end = begin + WORD * (1 + control[2])
        again = _synchronised(data, begin)
        if again is not None and again < end:
            at = again  # the frame was cut off
            continue
        if len(data) < end:
            return found, None
        words = [data[at : at + WORD] for at in range(begin + WORD, end, WORD)]
        right = tuple(bytes(word[:5]) for word in words if _is_right(word))
        return end, Frame(control[1], control[3], control[4], right, len(words) - len(right))


def encode(kind: int, words: Sequence[bytes], *, source: int = 1, destination: int = 0) -> bytes:
    """Return a frame of words of five octets each, as a station sends it; for tests and simulators.

    Raises:
        ValueError: There are too many words.
    """
    if len(words) > MAX_WORDS:
        raise ValueError(f"{len(words)} words, at most {MAX_WORDS} fit")
    control = bytes([0x71, kind, len(words), source, destination])
    return SYNCHRONISATIONS[0] + b"".join(word + bytes([check(word)]) for word in (control, *words))


def values(frame: Frame) -> list[Value]:
    """Return what a frame says of values."""
    found: list[Value] = []
    for word in frame.words:
        function, content = word[0], word[1:]
        if function <= 0x7F:
            found += [_telemetry(2 * function + n, content[2 * n : 2 * n + 2]) for n in (0, 1)]
        elif 0xA0 <= function <= 0xDF:
            found.append(Value(Kind.COUNTER, function - 0xA0, _count(content)))
        elif function >= 0xF0:
            bits = int.from_bytes(content, "little")
            found += [Value(Kind.STATE, 32 * (function - 0xF0) + n, bits >> n & 1) for n in range(32)]
    return found


def events(frame: Frame) -> list[Event]:
    """Return the events of a frame: pairs of words, each of which a station sends three times."""
    found: list[Event] = []
    for first, second in itertools.pairwise(frame.words):
        if first[0] == 0x80 and second[0] == 0x81:
            found.append(
                Event(
                    number=second[3] | (second[4] & 0x0F) << 8,
                    closed=bool(second[4] & 0x80),
                    day=second[2],
                    hour=second[1],
                    minute=first[4],
                    second=first[3],
                    millisecond=first[1] | (first[2] & 0x03) << 8,
                )
            )
    return found


def _telemetry(number: int, octets: bytes) -> Value:
    word = int.from_bytes(octets, "little")
    raw = word & 0x0FFF
    signed = raw - 0x1000 if raw & 0x0800 else raw
    return Value(Kind.TELEMETRY, number, None if word & 0x8000 else signed, overflow=bool(word & 0x4000))


def _count(content: bytes) -> int | None:
    if content[3] & 0x80:
        return None
    count = int.from_bytes(content[:3], "little")
    if not content[3] & 0x20:
        return count
    digits = f"{count:06x}"
    return int(digits) if digits.isdecimal() else None


def _is_right(word: bytes) -> bool:
    return check(word[:5]) == word[5]


def _synchronised(data: bytes, begin: int) -> int | None:
    """Return where the first synchronisation from ``begin`` on stands."""
    places = [at for mark in SYNCHRONISATIONS if (at := data.find(mark, begin)) >= 0]
    return min(places, default=None)
