"""Registers to numbers and back, in every order."""

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.profiles import RegisterType
from services.ingest.domain.registers import ByteOrder, NotWritable, block_decoder, decode, encode, pattern, text

FLOAT_TYPES = (RegisterType.FLOAT32, RegisterType.FLOAT64)
NUMBERS = [type_ for type_ in RegisterType if type_ not in (RegisterType.BOOL, RegisterType.STRING)]
INTEGERS = [type_ for type_ in NUMBERS if not type_.is_float]


@pytest.mark.parametrize(
    ("order", "registers"),
    [
        (ByteOrder.ABCD, [0x4366, 0x199A]),
        (ByteOrder.CDAB, [0x199A, 0x4366]),
        (ByteOrder.BADC, [0x6643, 0x9A19]),
        (ByteOrder.DCBA, [0x9A19, 0x6643]),
    ],
    ids=list(ByteOrder),
)
def test_230_1_volt_in_every_order(order: ByteOrder, registers: list[int]) -> None:
    # 230.1 as IEEE 754 single precision is 0x4366199A.
    assert decode(registers, RegisterType.FLOAT32, order) == struct.unpack(">f", bytes.fromhex("4366199A"))[0]


@pytest.mark.parametrize(
    ("registers", "type_", "value"),
    [
        ([0xFF9C], RegisterType.INT16, -100),  # XY-MD02: -10.0 degC
        ([0xFFFF, 0xFFFF], RegisterType.UINT32, 0xFFFFFFFF),
        ([0xFFFF, 0xFFFF], RegisterType.INT32, -1),
        ([0x0000, 0x0001, 0x0000, 0x0000], RegisterType.UINT64, 1 << 32),
        ([1], RegisterType.BOOL, 1),
    ],
    ids=["negative temperature", "all ones unsigned", "all ones signed", "64 bits", "bit"],
)
def test_integers(registers: list[int], type_: RegisterType, value: int) -> None:
    assert decode(registers, type_) == value


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("type_", FLOAT_TYPES)
def test_what_is_no_number_is_none_and_not_zero(number: float, type_: RegisterType) -> None:
    packed = struct.pack(">f" if type_ is RegisterType.FLOAT32 else ">d", number)
    assert decode(struct.unpack(f">{len(packed) // 2}H", packed), type_) is None


@given(st.sampled_from(INTEGERS), st.sampled_from(list(ByteOrder)), st.data())
def test_integer_that_was_written_is_read_again(type_: RegisterType, order: ByteOrder, data: st.DataObject) -> None:
    low = -(1 << type_.bits - 1) if type_.is_signed else 0
    high = (1 << type_.bits - 1) - 1 if type_.is_signed else (1 << type_.bits) - 1
    value = data.draw(st.integers(low, high))
    registers = encode(value, type_, order)
    assert all(0 <= register <= 0xFFFF for register in registers)
    assert decode(registers, type_, order) == value
    assert pattern(value, type_) == value % (1 << type_.bits)


@given(st.floats(allow_nan=False, allow_infinity=False, width=32), st.sampled_from(list(ByteOrder)))
def test_float_that_was_written_is_read_again(value: float, order: ByteOrder) -> None:
    assert decode(encode(value, RegisterType.FLOAT32, order), RegisterType.FLOAT32, order) == value


@given(st.data())
def test_block_is_decoded_as_its_values_one_by_one(data: st.DataObject) -> None:
    registers = data.draw(st.lists(st.integers(0, 0xFFFF), min_size=4, max_size=20))
    items = data.draw(
        st.lists(
            st.sampled_from(NUMBERS).flatmap(
                lambda type_: st.tuples(
                    side_by_side(len(registers), type_.bits // 16) | apart(len(registers), type_.bits // 16),
                    st.just(type_),
                    st.sampled_from(list(ByteOrder)),
                )
            ),
            max_size=8,
        )
    )
    alone = [decode([registers[place] for place in places], type_, order) for places, type_, order in items]
    wanted = tuple((tuple(places), type_, order) for places, type_, order in items)
    assert block_decoder(wanted)(registers) == alone


def side_by_side(size: int, count: int) -> st.SearchStrategy[list[int]]:
    return st.integers(0, size - count).map(lambda at: list(range(at, at + count)))


def apart(size: int, count: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, size - 1), min_size=count, max_size=count)


@pytest.mark.parametrize(
    ("raw", "big_bytes", "found"),
    [
        (b"DTSU666\0", True, "DTSU666"),
        (b"TDUS66 \0", False, "DTSU66"),
        (b"  V1.2   ", True, "V1.2"),
        ("电表".encode(), True, "电表"),
        ("电表".encode("gb18030"), True, "电表"),
        (b"\xff\xff\xff\xff", True, None),
        (b"\0\0", True, None),
        (b"SN1\0\x12\x34", True, "SN1"),
        (b"A\x07B\x1b", True, "AB"),
    ],
)
def test_text(raw: bytes, big_bytes: bool, found: str | None) -> None:
    raw += b" " * (len(raw) % 2)
    assert text(struct.unpack(f">{len(raw) // 2}H", raw), big_bytes=big_bytes) == found


@given(st.lists(st.integers(0, 0xFFFF), max_size=60), st.booleans())
def test_any_registers_are_some_text_or_none(registers: list[int], big_bytes: bool) -> None:
    found = text(registers, big_bytes=big_bytes)
    assert found is None or (found.isprintable() and found == found.strip() and found)


@pytest.mark.parametrize(
    ("value", "type_"),
    [
        (70000, RegisterType.UINT16),
        (-1, RegisterType.UINT16),
        (0.5, RegisterType.INT16),
        (math.nan, RegisterType.FLOAT32),
    ],
)
def test_number_that_does_not_fit_is_refused(value: float, type_: RegisterType) -> None:
    with pytest.raises(NotWritable):
        encode(value, type_)
