"""FT1.2 frames, against the library's codec, with noise around them and cut everywhere."""

import pytest
from hat.drivers.iec60870.link import common as others
from hat.drivers.iec60870.link.encoder import Encoder
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.domain.codecs.ft12 import CONFIRMED, MAX_DATA, Frame, Reply, Request, encode, scan

SIZES = {1: others.AddressSize.ONE, 2: others.AddressSize.TWO}
frames = st.builds(
    Frame, st.integers(0, 255), st.integers(0, 254), st.one_of(st.just(b""), st.binary(min_size=1, max_size=60))
)


@given(
    size=st.sampled_from([1, 2]),
    function=st.sampled_from([Request.RESET_LINK, Request.DATA, Request.STATUS, Request.CLASS_1, Request.CLASS_2]),
    address=st.integers(0, 254),
    count=st.booleans(),
    data=st.binary(max_size=60),
)
def test_requests_are_read_by_another_codec(
    size: int, function: Request, address: int, count: bool, data: bytes
) -> None:
    control = 0x40 | (0x20 if count else 0) | 0x10 | function
    octets = encode(Frame(control, address, data), size)
    encoder = Encoder(address_size=SIZES[size], direction_valid=False)
    assert encoder.get_next_frame_size(memoryview(octets)) == len(octets)
    found = encoder.decode(memoryview(octets))
    assert isinstance(found, others.ReqFrame)
    assert (found.function.value, found.address, bytes(found.data)) == (function, address, data)
    assert (found.frame_count_bit, found.frame_count_valid) == (count, True)


@given(
    size=st.sampled_from([1, 2]),
    function=st.sampled_from(
        [
            others.ResFunction.ACK,
            others.ResFunction.RES_DATA,
            others.ResFunction.RES_NACK,
            others.ResFunction.RES_STATUS,
        ]
    ),
    address=st.integers(0, 254),
    more=st.booleans(),
    busy=st.booleans(),
    data=st.binary(max_size=60),
)
def test_replies_of_another_codec_are_read(
    size: int, function: others.ResFunction, address: int, more: bool, busy: bool, data: bytes
) -> None:
    theirs = others.ResFrame(None, more, busy, function, address, data)
    octets = bytes(Encoder(address_size=SIZES[size], direction_valid=False).encode(theirs))
    consumed, found = scan(octets, size)
    assert found is not None
    assert consumed == len(octets)
    assert (found.primary, found.function, found.address, found.data) == (False, function.value, address, data)
    assert (found.more_to_tell, found.busy) == (more, busy)


@given(size=st.integers(0, 2), frame=frames, noise=st.binary(max_size=8), after=st.binary(max_size=8))
def test_frame_is_found_wherever_the_stream_is_cut(size: int, frame: Frame, noise: bytes, after: bytes) -> None:
    frame = frame if size else Frame(frame.control, 0, frame.data)
    octets = encode(frame, size)
    stream = octets + after
    whole = scan(stream, size)
    assert whole == (len(octets), frame)
    for cut in range(len(octets)):
        assert scan(stream[:cut], size)[1] is None
    # Noise before it that can be no beginning is skipped.
    harmless = bytes(octet for octet in noise if octet not in (0x10, 0x68, 0xE5))
    assert scan(harmless + octets, size) == (len(harmless) + len(octets), frame)


@given(size=st.integers(0, 2), data=st.binary(max_size=300))
def test_any_octets_are_consumed_or_kept(size: int, data: bytes) -> None:
    consumed, frame = scan(data, size)
    assert 0 <= consumed <= len(data)
    if frame is None:
        assert len(data) - consumed <= 6 + MAX_DATA + 2  # no more is ever kept than one frame
        assert scan(data[consumed:], size)[0] == 0 or data[consumed:][:1] == b"\xe5"


@given(frame=frames, at=st.integers(0, 5), flip=st.integers(1, 255))
def test_broken_frame_is_none_and_hides_none(frame: Frame, at: int, flip: int) -> None:
    octets = bytearray(encode(frame, 1))
    octets[min(at, len(octets) - 1)] ^= flip
    good = encode(Frame(0x08, 7), 1)
    _, found = scan(bytes(octets) + bytes(300) + good, 1)
    assert found is not None
    assert found != frame or found == Frame(0x08, 7)


def test_single_octet_confirms_only_where_nothing_stands_before_it() -> None:
    assert scan(b"\xe5", 1) == (1, CONFIRMED)
    assert encode(CONFIRMED, 1) == b"\xe5"
    assert CONFIRMED.function == Reply.ACK
    assert not CONFIRMED.more_to_tell
    assert scan(b"\x00\xe5", 1) == (2, None)


def test_what_does_not_fit_a_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="link address 256"):
        encode(Frame(0, 256), 1)
    with pytest.raises(ValueError, match="octets of data"):
        encode(Frame(0, 1, bytes(MAX_DATA + 2)), 1)
