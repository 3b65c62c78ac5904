"""Modbus registers to numbers and back: every type, all four orders of a value's bytes.

A register is 16 bits. A value of several registers exists in four orders, named for where the bytes A (the
most significant) to D stand: ABCD, CDAB, BADC, DCBA. Nothing here knows scales, units or points.
"""

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache

from libs.common.errors import InvalidInput
from libs.common.profiles import RegisterType

DECODERS = 1024
"""Of different blocks that are kept; a profile has a handful."""


class ByteOrder(StrEnum):
    """Where the bytes of a value stand."""

    ABCD = "ABCD"
    CDAB = "CDAB"
    BADC = "BADC"
    DCBA = "DCBA"

    @classmethod
    def of(cls, *, big_bytes: bool, big_words: bool) -> "ByteOrder":
        """Return the order of a profile's ``byte_order`` (in a register) and ``word_order`` (of registers)."""
        if big_bytes:
            return cls.ABCD if big_words else cls.CDAB
        return cls.BADC if big_words else cls.DCBA


BYTE_ORDERS: Sequence[ByteOrder] = tuple(ByteOrder)
"""By the number that a meter gives its order in ``float_byte_order`` (CHINT DTSU666, register 0x000C): 0 is ABCD."""


class NotWritable(InvalidInput):
    """A number cannot be written as this type."""

    code = "not_writable"
    title_zh = "数值无法写入"


_CODES: Mapping[RegisterType, str] = {
    RegisterType.INT16: "h",
    RegisterType.UINT16: "H",
    RegisterType.INT32: "i",
    RegisterType.UINT32: "I",
    RegisterType.INT64: "q",
    RegisterType.UINT64: "Q",
    RegisterType.FLOAT32: "f",
    RegisterType.FLOAT64: "d",
}


def decode(registers: Sequence[int], type_: RegisterType, order: ByteOrder = ByteOrder.ABCD) -> float | int | None:
    """Return the raw number that the registers hold, None for NaN and infinities (never a measurement).

    Args:
        registers: Exactly the registers of one value, as read; one bit for ``bool``.
        type_: How the number is written.
        order: Of the bytes; a value of one register knows only the order within it.
    """
    if type_ is RegisterType.BOOL:
        return int(bool(registers[0]))
    (value,) = struct.unpack(">" + _CODES[type_], _bytes(registers, order))
    number: float | int = value
    return number if math.isfinite(number) else None


def encode(value: float, type_: RegisterType, order: ByteOrder = ByteOrder.ABCD) -> tuple[int, ...]:
    """Return the registers that hold ``value``, the inverse of ``decode``.

    Raises:
        NotWritable: The number is not finite, has a fraction that the type cannot hold, or lies outside its range.
    """
    if type_ is RegisterType.BOOL:
        return (int(bool(value)),)
    if not math.isfinite(value):
        raise NotWritable(f"{value} cannot be written", message_zh=f"{value} 无法写入")
    if not type_.is_float and value != int(value):
        raise NotWritable(f"{value} is not a whole number, as {type_} needs", message_zh=f"{value} 不是整数")
    try:
        packed = struct.pack(">" + _CODES[type_], value if type_.is_float else int(value))
    except (struct.error, OverflowError) as exc:
        raise NotWritable(f"{value} does not fit {type_}", message_zh=f"{value} 超出 {type_} 的范围") from exc
    return _registers(packed, order)


def pattern(value: float, type_: RegisterType) -> int | None:
    """Return the bits of an integer as an unsigned number, for comparison with markers; None for a float."""
    return None if type_.is_float else int(value) & ((1 << type_.bits) - 1)


def text(registers: Sequence[int], *, big_bytes: bool = True) -> str | None:
    """Return the characters that registers hold, None where there are none.

    What stands behind the first NUL and spaces around are left out; what is no UTF-8 is GB 18030.

    Args:
        registers: As read, two characters in each.
        big_bytes: Whether the first character is the high byte.
    """
    packed = struct.pack(f"{'>' if big_bytes else '<'}{len(registers)}H", *registers)
    raw = packed.partition(b"\0")[0].rstrip(b"\xff")
    try:
        found = raw.decode()
    except UnicodeDecodeError:
        found = raw.decode("gb18030", errors="replace")
    return "".join(letter for letter in found if letter.isprintable()).strip() or None


@lru_cache(maxsize=DECODERS)
def block_decoder(
    items: tuple[tuple[tuple[int, ...], RegisterType, ByteOrder], ...],
) -> Callable[[Sequence[int]], list[float | int | None]]:
    """Return a function that decodes many values of one block at once, as ``decode`` does one by one.

    Thousands of devices of one profile share it.

    Args:
        items: Of each value: where its registers stand, counted from the block's first, its type and its order.
    """
    plans = [
        (places, _straight(places, type_, order), type_, order)
        for places, type_, order in items
    ]  # fmt: skip
    isfinite = math.isfinite

    def decode_block(registers: Sequence[int]) -> list[float | int | None]:
        straight = struct.pack(f">{len(registers)}H", *registers)
        found: list[float | int | None] = []
        for places, code, type_, order in plans:
            if code is None:
                found.append(decode([registers[place] for place in places], type_, order))
                continue
            (value,) = code.unpack_from(straight, 2 * places[0])
            found.append(value if isfinite(value) else None)
        return found

    return decode_block


def _straight(places: Sequence[int], type_: RegisterType, order: ByteOrder) -> struct.Struct | None:
    """Return how a value is taken from the block as it came, None where its bytes must be put in order first."""
    side_by_side = list(places) == list(range(places[0], places[0] + len(places)))
    if type_ is RegisterType.BOOL or order is not ByteOrder.ABCD or not side_by_side:
        return None
    return struct.Struct(">" + _CODES[type_])


def _bytes(registers: Sequence[int], order: ByteOrder) -> bytes:
    words = registers if order in (ByteOrder.ABCD, ByteOrder.BADC) else tuple(reversed(registers))
    endian = ">" if order in (ByteOrder.ABCD, ByteOrder.CDAB) else "<"
    return struct.pack(f"{endian}{len(words)}H", *words)


def _registers(packed: bytes, order: ByteOrder) -> tuple[int, ...]:
    endian = ">" if order in (ByteOrder.ABCD, ByteOrder.CDAB) else "<"
    words = struct.unpack(f"{endian}{len(packed) // 2}H", packed)
    return words if order in (ByteOrder.ABCD, ByteOrder.BADC) else tuple(reversed(words))
