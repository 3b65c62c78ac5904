"""ASDUs of IEC 60870-5-101 and -104, as pure functions from bytes and to bytes.

The length must fit to the byte: a cut or padded ASDU gives no values, since a measurement of which half the bytes
are missing looks like any other.

Source:
    IEC 60870-5-101:2003 clause 7, IEC 60870-5-104:2006 clause 8.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from libs.common.contracts.telemetry import Quality
from libs.common.profiles import ObjectType

MAX_OBJECTS = 127


class Undecodable(ValueError):
    """The bytes are no ASDU."""

    def __init__(self, message: str, raw: bytes = b"") -> None:
        """Prepare; ``raw`` is what came, where whoever catches this has not seen it."""
        super().__init__(message)
        self.raw = raw


@dataclass(frozen=True, slots=True)
class Widths:
    """How many octets the fields take; 104 fixes them, on a 101 line they are agreed. [B]"""

    cause: int
    """1, or 2 with the originator address."""
    common_address: int
    """1 or 2."""
    object_address: int
    """1 to 3."""


WIDTHS_104 = Widths(cause=2, common_address=2, object_address=3)


class Cause(IntEnum):
    """Causes of transmission that this side acts on."""

    SPONTANEOUS = 3
    REQUEST = 5
    ACTIVATION = 6
    ACTIVATION_CONFIRMED = 7
    DEACTIVATION = 8
    DEACTIVATION_CONFIRMED = 9
    TERMINATION = 10
    REMOTE_COMMAND = 11
    LOCAL_COMMAND = 12
    UNKNOWN_TYPE = 44
    UNKNOWN_CAUSE = 45
    UNKNOWN_COMMON_ADDRESS = 46
    UNKNOWN_OBJECT_ADDRESS = 47


CHANGES = frozenset({Cause.SPONTANEOUS, Cause.REMOTE_COMMAND, Cause.LOCAL_COMMAND})
"""Causes of a value that has changed, as against one that was asked for or is told in turn."""
ASKED_FOR = frozenset({Cause.REQUEST, *range(20, 37)})
"""Causes of a value that holds now, because it was asked for; a time tag says since when."""
REFUSALS: Mapping[int, str] = {
    Cause.UNKNOWN_TYPE: "unknown type",
    Cause.UNKNOWN_CAUSE: "unknown cause",
    Cause.UNKNOWN_COMMON_ADDRESS: "unknown common address",
    Cause.UNKNOWN_OBJECT_ADDRESS: "unknown object address",
}

SINGLE_COMMAND, DOUBLE_COMMAND = 45, 46
SET_NORMALISED, SET_SCALED, SET_FLOAT = 48, 49, 50
TIMED = 13
"""What is added to a command's type when it carries a time tag: 45 becomes 58."""
END_OF_INITIALISATION = 70
INTERROGATION = 100
COUNTER_INTERROGATION = 101
READ = 102
CLOCK_SYNCHRONISATION = 103
RESET_PROCESS = 105

GENERAL_RESET = bytes([1])
"""Qualifier of a reset: the whole process (IEC 60870-5-101:2003 7.2.6.27)."""
SELECT = 0x80
STATION = bytes([20])
"""Qualifier of an interrogation: the whole station."""
COUNTERS = bytes([5])
"""Qualifier of a counter interrogation: all counters, as they are."""
COUNTERS_FREEZE = bytes([5 | 0x40])
"""All counters, frozen and not reset."""


@dataclass(frozen=True, slots=True)
class _Form:
    """How an object of one type is laid out after its address. [B]"""

    size: int
    time: int = 0
    """Length of its time tag."""


def _with_times(untagged: int, cp24: int | None, cp56: int, size: int) -> dict[int, _Form]:
    """Return the forms of a value without time, with the short time of 101, and with the long one."""
    forms = {untagged: _Form(size), cp56: _Form(size, 7)}
    return forms if cp24 is None else {**forms, cp24: _Form(size, 3)}


_FORMS: Mapping[int, _Form] = {
    **_with_times(1, 2, 30, 1),  # single point
    **_with_times(3, 4, 31, 1),  # double point
    **_with_times(5, 6, 32, 2),  # step position
    **_with_times(7, 8, 33, 5),  # bitstring
    **_with_times(9, 10, 34, 3),  # normalised
    **_with_times(11, 12, 35, 3),  # scaled
    **_with_times(13, 14, 36, 5),  # short float
    **_with_times(15, 16, 37, 5),  # integrated total
    20: _Form(5),  # packed single points with change detection
    21: _Form(2),  # normalised without quality
    **{type_id: _Form(size) for type_id, size in ((45, 1), (46, 1), (47, 1), (48, 3), (49, 3), (50, 5), (51, 4))},
    **{type_id: _Form(size, 7) for type_id, size in ((58, 1), (59, 1), (60, 1), (61, 3), (62, 3), (63, 5), (64, 4))},
    END_OF_INITIALISATION: _Form(1),
    INTERROGATION: _Form(1),
    COUNTER_INTERROGATION: _Form(1),
    READ: _Form(0),
    CLOCK_SYNCHRONISATION: _Form(7),
    RESET_PROCESS: _Form(1),
}

_VALUES: Mapping[int, ObjectType] = {
    **dict.fromkeys((1, 2, 30), ObjectType.SINGLE),
    **dict.fromkeys((3, 4, 31), ObjectType.DOUBLE),
    **dict.fromkeys((5, 6, 32), ObjectType.STEP),
    **dict.fromkeys((7, 8, 33, 20), ObjectType.BITSTRING),
    **dict.fromkeys((9, 10, 34, 21), ObjectType.NORMALISED),
    **dict.fromkeys((11, 12, 35), ObjectType.SCALED),
    **dict.fromkeys((13, 14, 36), ObjectType.FLOAT),
    **dict.fromkeys((15, 16, 37), ObjectType.COUNTER),
}


@dataclass(frozen=True, slots=True)
class Information:
    """One information object."""

    address: int
    element: bytes
    """Value and qualifiers, as they are on the wire."""
    time: bytes = b""
    """Its time tag: 7 octets, 3 with 101's old types, or none."""


@dataclass(frozen=True, slots=True)
class Asdu:
    """One application service data unit."""

    type_id: int
    cause: int
    common_address: int
    objects: tuple[Information, ...]
    negative: bool = False
    test: bool = False
    originator: int = 0

    @property
    def value_type(self) -> ObjectType | None:
        """What its objects are; None for what carries no measured values."""
        return _VALUES.get(self.type_id)


@dataclass(frozen=True, slots=True)
class Value:
    """What an information object says."""

    raw: int | float
    quality: Quality | None
    """None is good."""


def decode(data: bytes, widths: Widths) -> Asdu:
    """Return the ASDU that the bytes are.

    Raises:
        Undecodable: They are none, or one of a type that is not supported.
    """
    head = 2 + widths.cause + widths.common_address
    if len(data) < head:
        raise Undecodable(f"{len(data)} octets, expected at least the {head} of the identifier")
    type_id, count, consecutive = data[0], data[1] & 0x7F, bool(data[1] & 0x80)
    form = _FORMS.get(type_id)
    if form is None:
        raise Undecodable(f"type {type_id} is not supported")
    object_size = form.size + form.time  # in a sequence too each object has its own time, as lib60870 sends it
    if consecutive:
        expected = head + (widths.object_address + count * object_size if count else 0)
    else:
        expected = head + count * (widths.object_address + object_size)
    if len(data) != expected:
        raise Undecodable(f"type {type_id} with {count} objects takes {expected} octets, found {len(data)}")
    common_at = 2 + widths.cause
    return Asdu(
        type_id=type_id,
        cause=data[2] & 0x3F,
        common_address=int.from_bytes(data[common_at:head], "little"),
        objects=tuple(_objects(data[head:], count, form, widths.object_address, consecutive=consecutive)),
        negative=bool(data[2] & 0x40),
        test=bool(data[2] & 0x80),
        originator=data[3] if widths.cause == 2 else 0,
    )


def _objects(data: bytes, count: int, form: _Form, address_size: int, *, consecutive: bool) -> list[Information]:
    found: list[Information] = []
    at = 0
    first = 0
    for number in range(count):
        if number == 0 or not consecutive:
            first = int.from_bytes(data[at : at + address_size], "little")
            at += address_size
        element = data[at : at + form.size]
        time = data[at + form.size : at + form.size + form.time]
        at += form.size + form.time
        found.append(Information(first + number if consecutive else first, element, time))
    return found


def encode(asdu: Asdu, widths: Widths) -> bytes:
    """Return the bytes of an ASDU, its objects each with its own address.

    Raises:
        ValueError: Something does not fit its field.
    """
    if len(asdu.objects) > MAX_OBJECTS:
        raise ValueError(f"{len(asdu.objects)} objects, at most {MAX_OBJECTS} fit")
    cause = asdu.cause | (0x40 if asdu.negative else 0) | (0x80 if asdu.test else 0)
    out = bytearray([asdu.type_id, len(asdu.objects), cause])
    if widths.cause == 2:
        out.append(asdu.originator)
    out += _octets(asdu.common_address, widths.common_address, "common address")
    for found in asdu.objects:
        out += _octets(found.address, widths.object_address, "object address") + found.element + found.time
    return bytes(out)


def _octets(number: int, width: int, what: str) -> bytes:
    if not 0 <= number < 1 << 8 * width:
        raise ValueError(f"{what} {number} does not fit {width} octets")
    return number.to_bytes(width, "little")


def value_of(type_id: int, element: bytes) -> Value:
    """Return the raw value of a monitored object and its quality.

    Normalised values are fractions, -1 up to 1; counters and scaled values are signed; double points are 0 to 3.
    """
    match _VALUES[type_id]:
        case ObjectType.SINGLE:
            return Value(element[0] & 0x01, _quality(element[0] & 0xF0))
        case ObjectType.DOUBLE:
            return Value(element[0] & 0x03, _quality(element[0] & 0xF0))
        case ObjectType.STEP:
            step = element[0] & 0x7F
            return Value(step - 128 if step & 0x40 else step, _quality(element[1]))
        case ObjectType.BITSTRING if type_id == 20:
            # Sixteen single points; which of them have changed stands behind them.
            return Value(int.from_bytes(element[:2], "little"), _quality(element[4]))
        case ObjectType.BITSTRING:
            return Value(int.from_bytes(element[:4], "little"), _quality(element[4]))
        case ObjectType.NORMALISED:
            fraction = int.from_bytes(element[:2], "little", signed=True) / 32768
            return Value(fraction, None if type_id == 21 else _quality(element[2]))
        case ObjectType.SCALED:
            return Value(int.from_bytes(element[:2], "little", signed=True), _quality(element[2]))
        case ObjectType.FLOAT:
            (number,) = struct.unpack("<f", element[:4])
            return Value(number, _quality(element[4]) if math.isfinite(number) else Quality.INVALID)
        case ObjectType.COUNTER:
            return Value(int.from_bytes(element[:4], "little", signed=True), _counter_quality(element[4]))


def _quality(bits: int) -> Quality | None:
    """Return the worst that the quality descriptor says.

    A value that overflowed is none; one that is not topical is old; a blocked one is what it was when it was blocked.
    """
    if bits & 0x80 or bits & 0x01:
        return Quality.INVALID
    if bits & 0x40:
        return Quality.STALE
    if bits & 0x10:
        return Quality.FROZEN
    return Quality.SUBSTITUTED if bits & 0x20 else None


def _counter_quality(bits: int) -> Quality | None:
    """Return what the sequence octet says; that a counter rolled over is no fault of it."""
    if bits & 0x80:
        return Quality.INVALID
    return Quality.SUSPECT if bits & 0x40 else None


def command_element(type_: ObjectType, raw: float, *, qualifier: int, select: bool) -> tuple[int, bytes]:
    """Return the type, without time tag, and the element of a command.

    Args:
        type_: Of the command.
        raw: 0 or 1 of a single, 1 or 2 of a double command; a fraction, a whole number or any number of a set point.
        qualifier: Kind of pulse of a single or double command, 0 to 31; a set point has none here.
        select: Select, not yet operate.

    Raises:
        ValueError: The value does not fit the type.
    """
    mark = SELECT if select else 0
    match type_:
        case ObjectType.SINGLE if raw in (0, 1):
            return SINGLE_COMMAND, bytes([int(raw) | qualifier << 2 | mark])
        case ObjectType.DOUBLE if raw in (1, 2):
            return DOUBLE_COMMAND, bytes([int(raw) | qualifier << 2 | mark])
        case ObjectType.NORMALISED if -1 <= raw <= 1:
            number = min(round(raw * 32768), 32767)  # 1 itself is just beyond the range
            return SET_NORMALISED, number.to_bytes(2, "little", signed=True) + bytes([mark])
        case ObjectType.SCALED if -32768 <= round(raw) <= 32767:
            return SET_SCALED, round(raw).to_bytes(2, "little", signed=True) + bytes([mark])
        case ObjectType.FLOAT:
            return SET_FLOAT, struct.pack("<f", raw) + bytes([mark])
        case _:
            raise ValueError(f"{raw:g} cannot be the value of a command of type {type_}")
