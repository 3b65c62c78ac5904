"""ASDUs of IEC 60870-5-103, and the same said in the words of 101.

103 is the same link with ASDUs of its own: information is found by function type and information number, has a double
point with time of day, or measurands in a row. Said as 101 it has object addresses (``iec103_address``), double points
with the long time and normalised values, so that one master and one intake serve both.

Source:
    IEC 60870-5-103:1997 clause 7.2 (structure of ASDUs), 7.3 (what they are for).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from zoneinfo import ZoneInfo

from libs.common.profiles import iec103_address
from services.ingest.drivers.iec60870.asdu import Asdu, Cause, Information, Undecodable

HEAD = 6
"""Octets of type, count, cause, station, function type and information number."""
ONE = 0x81
"""One information object of one element."""
GLOBAL = 255
"""Function type of what is for the whole station."""


class Type(IntEnum):
    """Types of ASDU that this side acts on; in each direction the numbers are its own."""

    MESSAGE = 1
    MESSAGE_RELATIVE = 2
    """With the time since a fault began."""
    MEASURANDS_1 = 3
    IDENTIFICATION = 5
    TIME = 6
    INTERROGATION = 7
    END_OF_INTERROGATION = 8
    MEASURANDS_2 = 9
    COMMAND = 20


PASSED_OVER = frozenset({4, 10, 11, 23, 26, 27, 28, 29, 30, 31})
"""Fault locations, generic services and disturbance records: known, and none of our business."""
_SIZES: Mapping[int, int] = {
    Type.MESSAGE: 6, Type.MESSAGE_RELATIVE: 10, Type.IDENTIFICATION: 13, Type.TIME: 7, Type.END_OF_INTERROGATION: 1,
}  # fmt: skip
"""Octets behind the head."""


class Why(IntEnum):
    """Causes of transmission."""

    SPONTANEOUS = 1
    CYCLIC = 2
    RESTARTED = 5
    POWER_ON = 6
    TEST = 7
    TIME = 8
    INTERROGATION = 9
    LOCAL = 11
    REMOTE = 12
    COMMAND = 20
    COMMAND_REFUSED = 21


_CAUSES: Mapping[int, int] = {
    Why.SPONTANEOUS: Cause.SPONTANEOUS, Why.CYCLIC: 1, Why.TEST: Cause.SPONTANEOUS, Why.INTERROGATION: 20,
    Why.LOCAL: Cause.LOCAL_COMMAND, Why.REMOTE: Cause.REMOTE_COMMAND,
}  # fmt: skip
"""What a cause is in 101, of values."""
DOUBLE_TIMED, NORMALISED = 31, 9
"""Types of 101."""


@dataclass(frozen=True, slots=True)
class Message:
    """One ASDU from a station."""

    type: Type
    cause: int
    station: int
    function: int
    information: int
    body: bytes

    @property
    def supplement(self) -> int:
        """Return the last octet of a time-tagged message: which command or interrogation it belongs to."""
        return self.body[-1]


def decode(data: bytes) -> Message | None:
    """Return the ASDU that the bytes are; None for one that is passed over.

    Raises:
        Undecodable: They are none.
    """
    if len(data) < HEAD:
        raise Undecodable(f"{len(data)} octets, expected at least the {HEAD} of the head")
    number, count, cause, station, function, information = data[:HEAD]
    if number in PASSED_OVER:
        return None
    if number in (Type.MEASURANDS_1, Type.MEASURANDS_2):
        size = 2 * (count & 0x7F)
    elif number in _SIZES:
        size = _SIZES[number]
    else:
        raise Undecodable(f"type {number} is not supported")
    if len(data) != HEAD + size:
        raise Undecodable(f"type {number} takes {HEAD + size} octets, found {len(data)}")
    return Message(Type(number), cause, station, function, information, data[HEAD:])


def values_of(message: Message, zone: ZoneInfo, received_at: datetime) -> Asdu | None:
    """Return the values of an ASDU as 101 says them; None when it has none.

    Args:
        message: From a station.
        zone: Where the station's clock is set to.
        received_at: Times of day are the nearest such ones to this.
    """
    cause = _CAUSES.get(message.cause)
    if cause is None:
        return None
    said: tuple[Information, ...]
    body = message.body
    match message.type:
        case Type.MESSAGE | Type.MESSAGE_RELATIVE:
            type_id = DOUBLE_TIMED
            address = iec103_address(message.function, message.information)
            said = (Information(address, bytes([body[0] & 0x03]), _dated(body[-5:-1], zone, received_at)),)
        case Type.MEASURANDS_1 | Type.MEASURANDS_2:
            type_id = NORMALISED
            row = [_normalised(body[at : at + 2]) for at in range(0, len(body), 2)]
            address = iec103_address(message.function, message.information, 0)
            said = tuple(Information(address + (n << 16), found) for n, found in enumerate(row))
        case _:
            return None
    return Asdu(type_id, cause, message.station, said, test=message.cause == Why.TEST)


def interrogation(station: int, scan: int) -> bytes:
    """Return the question for everything; its end repeats the scan number."""
    return bytes([Type.INTERROGATION, ONE, Why.INTERROGATION, station, GLOBAL, 0, scan])


def clock_time(station: int, time: bytes) -> bytes:
    """Return what sets a clock, to seven octets of time."""
    return bytes([Type.TIME, ONE, Why.TIME, station, GLOBAL, 0]) + time


def command(station: int, address: int, state: int, number: int) -> bytes:
    """Return a general command: 1 is off, 2 on; its answer repeats the number."""
    return bytes([Type.COMMAND, ONE, Why.COMMAND, station, address >> 8 & 0xFF, address & 0xFF, state, number])


def _normalised(measurand: bytes) -> bytes:
    """Return a measurand (13 bits of fraction, error, overflow) as a normalised value with its quality."""
    return bytes([measurand[0] & 0xF8, measurand[1], (measurand[0] & 0x01) | (0x80 if measurand[0] & 0x02 else 0)])


def _dated(time: bytes, zone: ZoneInfo, received_at: datetime) -> bytes:
    """Return a time of day (four octets) with the date that makes it the nearest one; what is no time stays none."""
    local = received_at.astimezone(zone).replace(tzinfo=None)
    since_midnight = timedelta(
        hours=time[3] & 0x1F, minutes=time[2] & 0x3F, milliseconds=int.from_bytes(time[:2], "little")
    )
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
    days = (midnight + timedelta(days=n) for n in (-1, 0, 1))
    day = min(days, key=lambda found: abs(found + since_midnight - local))
    return time + bytes([day.isoweekday() << 5 | day.day, day.month, day.year % 100])
