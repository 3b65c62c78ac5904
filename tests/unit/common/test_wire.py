"""What a receiver may answer, byte by byte: it never does more than end the call."""

import asyncio

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.wire import MAX_ANSWER_BYTES, Connection, Head

PLACE = ("http", "8.8.8.8", 80)
HEADS = [
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 103 X\r\n\r\n", b"HTTP/1.0 503 X\r\n", b"content-length: 3\r\n", b"\r\n",
    b"transfer-encoding: chunked\r\n", b"retry-after: \xff\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n", b"abc", b"x" * 5000,
    b"connection: close\r\n", b"content-length: -1\r\n", b"HTTP/1.1 101 X\r\nupgrade: y\r\n\r\n",
]  # fmt: skip


class Socket(asyncio.Transport):
    """Where the connection writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_aborted = False

    def write(self, data: object) -> None:
        assert isinstance(data, bytes)
        self.written += data

    def abort(self) -> None:
        self.is_aborted = True


@given(st.lists(st.sampled_from(HEADS) | st.binary(max_size=30), max_size=12), st.sampled_from([0.0, None]))
async def test_whatever_comes_the_call_ends_within_its_bounds(chunks: list[bytes], cut_after_s: float | None) -> None:
    connection, socket = Connection(PLACE), Socket()
    connection.connection_made(socket)
    head = Head("POST", b"/", [("host", "a"), ("content-length", "2")])
    call = asyncio.create_task(connection.call(head, b"{}", cut_after_s=cut_after_s))
    await asyncio.sleep(0)
    assert socket.written.startswith(b"POST / HTTP/1.1\r\n")
    for chunk in chunks:
        connection.data_received(chunk)
    connection.connection_lost(None)
    try:
        answer = await call
    except (OSError, h11.RemoteProtocolError):
        assert socket.is_aborted
        return
    assert 200 <= answer.status <= 999
    assert len(answer.body) <= MAX_ANSWER_BYTES
    assert socket.is_aborted  # it was lost in the end
    assert not connection.is_usable


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=9), st.integers(0, 200))
async def test_an_answer_is_whole_exactly_when_all_of_it_came(chunks: list[bytes], missing: int) -> None:
    connection, socket = Connection(PLACE), Socket()
    connection.connection_made(socket)
    head = Head("GET", b"/", [("host", "a")])
    call = asyncio.create_task(connection.call(head, b"", cut_after_s=None))
    await asyncio.sleep(0)
    body = b"".join(chunks)
    connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (len(body) + missing))
    for chunk in chunks:
        connection.data_received(chunk)
    is_usable = connection.is_usable
    connection.connection_lost(None)
    answer = await call
    assert (answer.body, answer.is_whole) == (body, not missing)
    assert is_usable is answer.is_whole


VALUES = st.sampled_from(["a", "a b", "", " a", "a ", "a\r\nb: c", "a\n", "\x00", "é", "a:b", "\t"]) | st.text(
    max_size=5
)
NAMES = st.sampled_from(["x", "X-Long-Name", "a b", "", "a:", "a\r\nb", "é"])


@given(st.lists(st.tuples(NAMES, VALUES), max_size=3), st.sampled_from([b"/", b"/a?b=c", b"/a b", b"/\r\n", b"/\xff"]))
def test_a_request_is_written_as_h11_writes_it_or_not_at_all(headers: list[tuple[str, str]], target: bytes) -> None:
    head = Head("POST", target, [("host", "a"), *headers])
    try:
        expected = h11.Connection(h11.CLIENT).send(head.for_h11())
    except (h11.LocalProtocolError, UnicodeEncodeError) as exc:
        with pytest.raises(type(exc)):
            head.written()
    else:
        assert head.written() == expected


@given(st.lists(st.sampled_from(HEADS) | st.binary(max_size=9), max_size=7))
async def test_in_one_piece_an_answer_says_the_same_as_in_two(chunks: list[bytes]) -> None:
    async def said(pieces: list[bytes]) -> object:
        connection = Connection(PLACE)
        connection.connection_made(Socket())
        call = asyncio.create_task(connection.call(Head("GET", b"/", [("host", "a")]), b"", cut_after_s=None))
        await asyncio.sleep(0)
        for piece in pieces:
            connection.data_received(piece)
        is_usable = connection.is_usable
        connection.connection_lost(None)
        try:
            answer = await call
        except (OSError, h11.RemoteProtocolError) as exc:
            return type(exc)
        return answer.status, list(answer.headers), answer.body, answer.is_whole, is_usable

    whole = b"".join(chunks)
    in_two = [piece for piece in (whole[:1], whole[1:]) if piece]  # a socket that gives nothing has ended
    assert await said([whole] if whole else []) == await said(in_two)
