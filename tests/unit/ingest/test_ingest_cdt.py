"""CDT frames: what is in them, and how they are found in a stream that is cut, noisy or in the middle of a frame."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.domain.codecs.cdt import (
    MAX_WORDS,
    SYNCHRONISATIONS,
    WORD,
    Event,
    Kind,
    Value,
    check,
    encode,
    events,
    scan,
    values,
)

words = st.lists(st.binary(min_size=5, max_size=5), max_size=8)


def word(function: int, content: str) -> bytes:
    return bytes([function]) + bytes.fromhex(content)


def read(*told: bytes) -> list[Value]:
    _, frame = scan(encode(0x61, told))
    assert frame is not None
    return values(frame)


def test_check_is_the_remainder_inverted() -> None:
    # x^8 + x^2 + x + 1 over nothing but zeros leaves nothing.
    assert check(bytes(5)) == 0xFF
    assert check(bytes([0, 0, 0, 0, 1])) == 0x07 ^ 0xFF


def test_telemetry_is_twelve_bits_with_a_sign() -> None:
    assert read(word(0x03, "e703 190c")) == [Value(Kind.TELEMETRY, 6, 999), Value(Kind.TELEMETRY, 7, -999)]
    assert read(word(0x00, "0080 0a40")) == [
        Value(Kind.TELEMETRY, 0, None),  # the station calls it invalid
        Value(Kind.TELEMETRY, 1, 10, overflow=True),
    ]


def test_states_are_thirty_two_to_a_word() -> None:
    told = read(word(0xF1, "0500 0080"))
    assert [one.number for one in told] == list(range(32, 64))
    assert [one.number for one in told if one.raw] == [32, 34, 63]


def test_counters_are_binary_or_digits() -> None:
    assert read(word(0xA2, "40e201 00")) == [Value(Kind.COUNTER, 2, 123456)]
    assert read(word(0xA0, "563412 20")) == [Value(Kind.COUNTER, 0, 123456)]
    assert read(word(0xA0, "5f3412 20")) == [Value(Kind.COUNTER, 0, None)]  # no digits
    assert read(word(0xA0, "40e201 80")) == [Value(Kind.COUNTER, 0, None)]


def test_event_is_two_words_with_the_time_of_day() -> None:
    _, frame = scan(encode(0x26, [word(0x80, "d703 3b 0c"), word(0x81, "17 1f 05 81")] * 3))
    assert frame is not None
    happened = Event(number=0x105, closed=True, day=31, hour=23, minute=12, second=59, millisecond=983)
    assert set(events(frame)) == {happened}
    assert values(frame) == []


@given(told=words, noise=st.binary(max_size=20), mark=st.sampled_from(SYNCHRONISATIONS), kind=st.integers(0, 255))
def test_frame_is_found_wherever_the_stream_is_cut(told: list[bytes], noise: bytes, mark: bytes, kind: int) -> None:
    octets = mark + encode(kind, told)[len(mark) :]
    stream = noise.replace(mark[:1], b"") + octets
    rest, found = b"", []
    for octet in stream:
        rest += bytes([octet])
        consumed, frame = scan(rest)
        rest = rest[consumed:]
        found += [] if frame is None else [frame]
    assert [frame.words for frame in found] == [tuple(told)]
    assert (found[0].kind, found[0].broken) == (kind, 0)


@given(data=st.binary(max_size=400))
def test_any_octets_are_consumed_or_kept(data: bytes) -> None:
    consumed, frame = scan(data)
    assert 0 <= consumed <= len(data)
    if frame is not None:
        values(frame)
        events(frame)


@given(
    told=st.lists(st.binary(min_size=5, max_size=5), min_size=1, max_size=5),
    at=st.integers(12, 200),
    flip=st.integers(1, 255),
)
def test_broken_word_is_left_out_and_its_neighbours_stay(told: list[bytes], at: int, flip: int) -> None:
    octets = bytearray(encode(0x61, told))
    at = 2 * WORD + (at - 2 * WORD) % (len(octets) - 2 * WORD)
    octets[at] ^= flip
    _, frame = scan(bytes(octets))
    assert frame is not None
    broken = at // WORD - 2
    assert frame.broken == 1
    assert list(frame.words) == [one for n, one in enumerate(told) if n != broken]


def test_frame_that_is_cut_off_does_not_swallow_the_next() -> None:
    first, second = encode(0x61, [bytes(5)] * 20), encode(0xC2, [word(0x01, "01000200")])
    _, frame = scan(first[:60] + second)
    assert frame is not None
    assert frame.kind == 0xC2


def test_too_many_words_do_not_fit() -> None:
    with pytest.raises(ValueError, match="words"):
        encode(0x61, list(itertools.repeat(bytes(5), MAX_WORDS + 1)))
