"""CJ/T 188 frames, values and units, by the vectors of southbound.md 5 and by frames cut and garbled at random."""

from collections.abc import Sequence
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.units import unit_of
from services.ingest.domain.codecs import bcd, cjt188
from services.ingest.domain.codecs.cjt188 import Frame, Function
from tests.unit.ingest.stream_scan import cut, every_split, feed

METER = "00112233445566"
READ = "FE FE 68 10 66 55 44 33 22 11 00 01 03 1F 90 00 90 16"
ANSWER = (
    "FE FE 68 10 66 55 44 33 22 11 00 81 16 1F 90 00 56 34 12 00 2C 00 10 00 00 2C 30 59 06 02 06 26 20 00 00 04 16"
)
CLOSE_VALVE = "FE FE 68 10 66 55 44 33 22 11 00 04 04 17 A0 01 99 36 16"

addresses = st.from_regex(r"[0-9]{14}", fullmatch=True)
frames = st.builds(Frame, st.integers(0, 255), addresses, st.integers(0, 255), st.binary(max_size=60))


def only(text: str) -> Frame:
    consumed, frame = cjt188.scan(bytes.fromhex(text))
    assert consumed == len(bytes.fromhex(text))
    assert frame is not None
    return frame


def test_read_request() -> None:
    assert b"\xfe\xfe" + cjt188.encode(cjt188.read(0x10, METER, 0x901F, 0)) == bytes.fromhex(READ)


def test_answer_1234_56_m3() -> None:
    frame = only(ANSWER)
    assert (frame.meter_type, frame.address, frame.function, frame.is_answer) == (0x10, METER, Function.READ, True)
    assert (frame.identifier, frame.serial) == (0x901F, 0)
    assert bcd.number(frame.data[3:7]) == 123456
    assert cjt188.UNITS[frame.data[7]] == cjt188.UnitCode("m3")
    assert bcd.number(frame.data[8:12]) == 1000
    assert cjt188.clock(frame.data[13:20]) == datetime(2026, 6, 2, 6, 59, 30)  # noqa: DTZ001


def test_valve_close() -> None:
    frame = cjt188.write(0x10, METER, 0xA017, 1, b"\x99")
    assert b"\xfe\xfe" + cjt188.encode(frame) == bytes.fromhex(CLOSE_VALVE)


def test_vectors_joined_are_found_wherever_they_are_cut() -> None:
    texts = (READ, ANSWER, CLOSE_VALVE)
    every_split(cjt188.scan, b"".join(map(bytes.fromhex, texts)), [only(text) for text in texts])


def test_false_start_that_promises_much_hides_no_frame() -> None:
    lie = bytes.fromhex("68 10 00 00 00 00 00 00 00 81 FF")
    every_split(cjt188.scan, lie + bytes.fromhex(ANSWER), [only(ANSWER)])


@given(st.lists(frames, max_size=4), st.lists(st.integers(0, 400), max_size=6))
def test_frames_with_wake_up_bytes_are_all_found(sent: list[Frame], places: Sequence[int]) -> None:
    # That a start byte within a frame makes a frame with what follows is a chance of one in 65,536.
    stream = b"".join(cjt188.WAKE_UP + cjt188.encode(frame) for frame in sent)
    assert feed(cjt188.scan, cut(stream, places))[0] == sent


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=4))
def test_no_bytes_raise(garbage: bytes, places: Sequence[int]) -> None:
    _, kept = feed(cjt188.scan, cut(garbage, places))
    assert len(kept) <= cjt188.HEADER + 0xFF + cjt188.TRAILER
    cjt188.clock(garbage)


@given(frames)
def test_what_was_encoded_is_read_back(frame: Frame) -> None:
    assert cjt188.scan(cjt188.encode(frame)) == (len(frame.data) + 13, frame)


@pytest.mark.parametrize("text", ["", "1234567890123456", "12 34", "xyz"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no CJ/T 188 address"):
        cjt188.normal_address(text)


def test_wildcards() -> None:
    assert cjt188.matches(cjt188.ANY, METER)
    assert cjt188.matches("AAAA2233445566", METER)
    assert not cjt188.matches("AAAA2233445567", METER)


def test_every_unit_code_names_a_unit_of_the_platform() -> None:
    assert {unit_of(code.unit).symbol for code in cjt188.UNITS.values()} >= {"m3", "kWh", "GJ", "kW", "m3/h", "L"}


@pytest.mark.parametrize("code", [0x0A, 0x0B])
def test_unit_codes_on_which_sources_disagree_are_not_guessed(code: int) -> None:
    assert code not in cjt188.UNITS
