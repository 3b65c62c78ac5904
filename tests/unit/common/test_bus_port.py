"""Where a message goes, and what every bus refuses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.bus.headers import pack_headers, unpack_headers
from libs.common.bus.port import (
    MAX_MESSAGE_BYTES,
    Message,
    MessageRefused,
    check_message,
    murmur2,
    partition_for,
)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_agrees_with_the_java_client(data: bytes, expected: int) -> None:
    # Values of Apache Kafka's own test, org.apache.kafka.common.utils.UtilsTest.testMurmur2.
    assert murmur2(data) == expected


def test_the_partition_follows_the_key_unless_something_else_is_said() -> None:
    by_key = partition_for(Message("t", "foobar", b""), 48)
    assert by_key == (-790332482 & 0x7FFFFFFF) % 48
    assert partition_for(Message("t", "device-7", b"", partition_key="foobar"), 48) == by_key
    assert partition_for(Message("t", "foobar", b"", partition_key="x", partition=3), 48) == 3


def test_a_message_of_the_most_bytes_passes_and_one_more_does_not() -> None:
    headers = (("ce_id", b"12345"),)
    room = MAX_MESSAGE_BYTES - len("key") - len("ce_id") - 5
    check_message(Message("t", "key", b"x" * room, headers))
    with pytest.raises(MessageRefused, match=f"{MAX_MESSAGE_BYTES + 1} bytes"):
        check_message(Message("t", "key", b"x" * (room + 1), headers))


@pytest.mark.parametrize("key", ["a\0b", "\ud800"], ids=["NUL", "half a surrogate pair"])
def test_a_key_that_not_every_bus_can_keep_is_refused(key: str) -> None:
    message = Message("t", key, b"")
    with pytest.raises(MessageRefused) as caught:
        check_message(message)
    assert caught.value.refused is message
    with pytest.raises(MessageRefused):
        check_message(Message("t", "fine", b"", partition_key="\ud800"))


@given(st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.binary()), max_size=5).map(tuple))
def test_headers_come_out_of_a_text_column_as_they_went_in(headers: tuple[tuple[str, bytes], ...]) -> None:
    text = pack_headers(headers)
    assert "\0" not in text  # PostgreSQL's text cannot hold it
    assert unpack_headers(text) == headers
