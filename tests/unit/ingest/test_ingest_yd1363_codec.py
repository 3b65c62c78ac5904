"""YD/T 1363.3 frames and values, by the vectors of southbound.md 14.1 and by frames cut and garbled at random."""

import struct
from collections.abc import Sequence
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.domain.codecs import yd1363
from services.ingest.domain.codecs.yd1363 import Frame
from tests.unit.ingest.stream_scan import cut, every_split, feed

byte = st.integers(0, 255)
frames = st.builds(Frame, byte, byte, byte, byte, st.binary(max_size=100))
noise = st.binary(max_size=20).map(lambda data: data.replace(b"~", b" "))
VECTORS = {
    b"~200140430000FDB2\r": Frame(0x20, 1, 0x40, 0x43),
    b"~21012A42E00201FD2B\r": Frame(0x21, 1, 0x2A, 0x42, b"\x01"),
}


@pytest.mark.parametrize("text", VECTORS)
def test_vectors_both_ways(text: bytes) -> None:
    assert yd1363.encode(VECTORS[text]) == text
    assert yd1363.scan(text) == (len(text), VECTORS[text])


def test_vectors_joined_are_found_wherever_they_are_cut() -> None:
    every_split(yd1363.scan, b"\n".join(VECTORS), list(VECTORS.values()))


def test_frame_that_broke_off_costs_itself_only() -> None:
    first, second = VECTORS
    every_split(yd1363.scan, first[:9] + second, [VECTORS[second]])
    every_split(yd1363.scan, first[:-3] + b"00\r" + second, [VECTORS[second]])


def test_small_letters_are_hexadecimal_too() -> None:
    body = b"210141420000"
    text = b"~" + body + f"{-sum(body) & 0xFFFF:04x}\r".encode()
    assert yd1363.scan(text)[1] == Frame(0x21, 1, 0x41, 0x42)


def test_blanks_in_place_of_digits_are_a_missing_number() -> None:
    body = b"20014100" + b"C00A" + b"00" + b"        "
    text = b"~" + body + f"{-sum(body) & 0xFFFF:04X}\r".encode()
    frame = yd1363.scan(text)[1]
    assert frame is None  # the length says ten characters and nine came: the check nibble is of the count


def test_blanks_with_the_right_length() -> None:
    body = b"20014100" + b"600A" + b"00" + b"        "
    text = b"~" + body + f"{-sum(body) & 0xFFFF:04X}\r".encode()
    frame = yd1363.scan(text)[1]
    assert frame is not None
    assert yd1363.float32(frame.info[1:]) is None


@given(st.lists(st.tuples(noise, frames), max_size=4), st.lists(st.integers(0, 2000), max_size=6))
def test_frames_between_noise_are_all_found(parts: list[tuple[bytes, Frame]], places: Sequence[int]) -> None:
    stream = b"".join(before + yd1363.encode(frame) for before, frame in parts)
    assert feed(yd1363.scan, cut(stream, places))[0] == [frame for _, frame in parts]


@given(st.text("~0123456789ABCDEFabcdef+-_ \r\n", max_size=200), st.lists(st.integers(0, 200), max_size=4), frames)
def test_no_text_raises_and_none_deafens(text: str, places: Sequence[int], last: Frame) -> None:
    found, kept = feed(yd1363.scan, [*cut(text.encode(), places), yd1363.encode(last)])
    assert found[-1] == last
    assert kept == b""


def test_endless_frame_is_given_up() -> None:
    found, kept = feed(yd1363.scan, [b"~" + b"0" * 9000, next(iter(VECTORS))])
    assert found == [Frame(0x20, 1, 0x40, 0x43)]
    assert kept == b""


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_floats(value: float) -> None:
    packed = struct.pack("<f", value)
    assert yd1363.float32(packed) == (None if packed == yd1363.MISSING else value)


@pytest.mark.parametrize(
    "data", [yd1363.MISSING, struct.pack("<f", float("nan")), struct.pack("<f", float("inf")), b""]
)
def test_what_is_no_number_is_none(data: bytes) -> None:
    assert yd1363.float32(data) is None


def test_integers_and_refusals() -> None:
    assert yd1363.int16(b"\xff\x9c") == -100
    assert yd1363.int16(b"\x20\x20") is None
    assert yd1363.refusal(4) == "04 (invalid CID2)"
    assert yd1363.refusal(0xE9) == "E9 (reason of the maker)"


@given(st.binary(max_size=12))
def test_a_time_is_read_or_refused(info: bytes) -> None:
    try:
        assert yd1363.time_info(yd1363.time_of(info)) == info
    except ValueError:
        pass


def test_a_time_as_the_standard_writes_it() -> None:
    noon = datetime(2026, 5, 20, 12, 34, 56)  # noqa: DTZ001
    assert yd1363.time_info(noon) == bytes.fromhex("07EA05140C2238")
    assert yd1363.time_of(bytes.fromhex("07EA05140C2238")) == noon
