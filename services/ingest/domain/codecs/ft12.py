"""FT1.2 frames of IEC 60870-5: the link layer of 101 and 103.

Three forms: a single octet E5, ``10 C A CS 16`` without and ``68 L L 68 C A … CS 16`` with user data; CS is the sum of
control field, address and data modulo 256.

Source:
    IEC 60870-5-1:1990 6.2.4.2; IEC 60870-5-2:1992 clauses 5 and 6.
"""

from dataclasses import dataclass
from enum import IntEnum

SINGLE = 0xE5
FIXED, VARIABLE, END = 0x10, 0x68, 0x16
MAX_DATA = 253
PRIMARY = 0x40
DIRECTION = 0x80
COUNT, COUNT_VALID = 0x20, 0x10
ACCESS_DEMAND, FLOW_CONTROL = 0x20, 0x10


class Request(IntEnum):
    """Functions of the primary station."""

    RESET_LINK = 0
    RESET_PROCESS = 1
    TEST = 2
    DATA = 3
    DATA_NO_REPLY = 4
    RESET_COUNT = 7
    """103: reset the frame count bit."""
    STATUS = 9
    CLASS_1 = 10
    CLASS_2 = 11


class Reply(IntEnum):
    """Functions of the secondary station."""

    ACK = 0
    NACK = 1
    DATA = 8
    NO_DATA = 9
    STATUS = 11
    NOT_FUNCTIONING = 14
    NOT_IMPLEMENTED = 15


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame; the octet E5 stands for the confirmation of whoever was asked, and has neither address nor flags."""

    control: int
    address: int
    data: bytes = b""
    single: bool = False

    @property
    def primary(self) -> bool:
        """Whether it comes from who asks."""
        return bool(self.control & PRIMARY)

    @property
    def function(self) -> int:
        """``Request`` or ``Reply``."""
        return self.control & 0x0F

    @property
    def more_to_tell(self) -> bool:
        """Of a reply: class 1 data waits."""
        return not self.single and bool(self.control & ACCESS_DEMAND)

    @property
    def busy(self) -> bool:
        """Of a reply: send no more data for now."""
        return not self.single and bool(self.control & FLOW_CONTROL)


CONFIRMED = Frame(int(Reply.ACK), 0, single=True)


def encode(frame: Frame, address_size: int) -> bytes:
    """Return the octets of a frame.

    Args:
        frame: Of at most ``MAX_DATA`` octets of data.
        address_size: Octets of a link address, 0 to 2.

    Raises:
        ValueError: It does not fit.
    """
    if frame.single:
        return bytes([SINGLE])
    if not 0 <= frame.address < 1 << 8 * address_size and (address_size or frame.address):
        raise ValueError(f"link address {frame.address} does not fit {address_size} octets")
    body = bytes([frame.control]) + frame.address.to_bytes(address_size, "little") + frame.data
    if len(body) > MAX_DATA + 2:
        raise ValueError(f"{len(frame.data)} octets of data, at most {MAX_DATA} fit")
    tail = bytes([sum(body) & 0xFF, END])
    if frame.data:
        return bytes([VARIABLE, len(body), len(body), VARIABLE]) + body + tail
    return bytes([FIXED]) + body + tail


def scan(data: bytes, address_size: int) -> tuple[int, Frame | None]:
    """Return how many octets are done with, and the first frame among them; None when more is needed.

    What is no frame is skipped octet by octet, so that noise that looks like a beginning hides no frame behind it
    for longer than that frame could be. An E5 counts only where nothing stands before it: in the remains of a broken
    frame it is an octet like others.
    """
    at = 0
    while at < len(data):
        length = _length(data[at:], address_size)
        if length is None:
            return at, None
        if length and length <= len(data) - at:
            frame = _frame(data[at : at + length], address_size)
            if frame is not None and not (frame.single and at):
                return at + length, frame
        elif length:
            return at, None
        at += 1
    return at, None


def _length(data: bytes, address_size: int) -> int | None:
    """Return the length of the frame that begins here, 0 when none can, None when that cannot be told yet."""
    match data[0]:
        case 0xE5:
            return 1
        case 0x10:
            return 4 + address_size
        case 0x68:
            if len(data) < 4:
                plausible = len(data) < 3 or data[1] == data[2]
                return None if plausible else 0
            fits = data[1] == data[2] and data[3] == VARIABLE and data[1] >= 1 + address_size
            return data[1] + 6 if fits else 0
        case _:
            return 0


def _frame(octets: bytes, address_size: int) -> Frame | None:
    """Return the frame that whole octets are, None when their check or their end is wrong."""
    if octets[0] == SINGLE:
        return CONFIRMED
    body = octets[1:-2] if octets[0] == FIXED else octets[4:-2]
    if octets[-1] != END or octets[-2] != sum(body) & 0xFF:
        return None
    return Frame(body[0], int.from_bytes(body[1 : 1 + address_size], "little"), bytes(body[1 + address_size :]))
