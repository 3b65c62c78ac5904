"""The sockets of calls out against a peer that answers byte by byte what a test wants: which connections are kept, and
where they may lead."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import h11
import pytest

from libs.common import wire as wires
from libs.common.outgoing import AddressGuard, NotAllowed
from libs.common.wire import MAX_ANSWER_BYTES, NotConnected, NotConnectedInTime, Wire
from tests.peers.certificates import Authority

pytestmark = pytest.mark.integration

OK = b"HTTP/1.1 204 No Content\r\n\r\n"
PATIENCE_S = 20.0


class Peer:
    """Answers each request with the next of its answers, the last one again and again."""

    def __init__(self, *answers: bytes, then_close: bool = False) -> None:
        self.answers = list(answers)
        self.then_close = then_close
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                length = int(head.partition(b"ontent-length: ")[2].partition(b"\r\n")[0] or 0)
                self.bodies.append(await reader.readexactly(length))
                writer.write(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
                if self.then_close:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


@asynccontextmanager
async def peer(*answers: bytes, then_close: bool = False, tls: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
    found = Peer(*answers, then_close=then_close)
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0, ssl=tls)
    found.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{server.sockets[0].getsockname()[1]}/hooks?a=b"
    try:
        yield found
    finally:
        server.close()
        for writer in found.writers:
            writer.transport.abort()
        await server.wait_closed()


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def trust() -> ssl.SSLContext:
    return ssl.create_default_context()


@pytest.fixture
async def wire(trust: ssl.SSLContext) -> AsyncIterator[Wire]:
    found = Wire(AddressGuard(["127.0.0.1", "localhost"]), trust)
    yield found
    found.close()
    await asyncio.sleep(0)


async def post(wire: Wire, url: str, body: bytes = b"{}") -> wires.Answer:
    return await wire.post(url, {"content-type": "application/json"}, body, timeout_s=PATIENCE_S)


async def test_the_receiver_is_sent_one_whole_request(wire: Wire) -> None:
    async with peer(OK) as app:
        answer = await post(wire, app.url, b'{"a": 1}')
        assert (answer.status, answer.body, answer.header("retry-after")) == (204, b"", None)
        (head,) = app.heads
        assert head.startswith(b"POST /hooks?a=b HTTP/1.1\r\n")
        assert f"ost: {app.url.split('/')[2]}\r\n".encode() in head
        assert app.bodies == [b'{"a": 1}']


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (OK, 204, b""),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", 200, b"ok"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200, b"ok"),
        (b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + OK, 204, b""),
        (b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n", 302, b""),
    ],
    ids=["no content", "length", "chunks", "hints before", "redirection"],
)
async def test_a_connection_is_used_again_after_a_whole_answer(
    wire: Wire, answer: bytes, status: int, body: bytes
) -> None:
    async with peer(answer) as app:
        for _ in range(3):
            found = await post(wire, app.url)
            assert (found.status, found.body) == (status, body)
        assert len(app.writers) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
        OK + OK,  # an answer that nobody asked for would be taken for that of the next call
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n" + b"x" * MAX_ANSWER_BYTES,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nno number\r\n",
    ],
    ids=["it says so", "old", "one too many", "too long", "broken after its head"],
)
async def test_a_connection_that_is_not_as_it_was_is_not_used_again(wire: Wire, answer: bytes) -> None:
    async with peer(answer) as app:
        for calls in range(1, 3):
            found = await post(wire, app.url)
            assert found.status in (200, 204)
            assert len(found.body) <= MAX_ANSWER_BYTES
            assert len(app.writers) == calls


async def test_a_body_that_ends_with_the_connection_is_an_answer(wire: Wire) -> None:
    async with peer(b"HTTP/1.1 503 X\r\nretry-after: 7\r\n\r\nbusy", then_close=True) as app:
        found = await post(wire, app.url)
        assert (found.status, found.header("retry-after"), found.body) == (503, "7", b"busy")


async def test_calls_at_the_same_time_have_a_connection_each(wire: Wire) -> None:
    async with peer(OK) as app:
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(post(wire, app.url))
        assert len(app.writers) == 4
        await post(wire, app.url)
        assert len(app.writers) == 4


async def test_what_was_idle_or_used_for_long_is_not_used_again(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    async with peer(OK) as app:
        await post(wire, app.url)
        monkeypatch.setattr(wires, "IDLE_S", 0.0)
        await post(wire, app.url)
        assert len(app.writers) == 2
        wire.close_old()
        monkeypatch.setattr(wires, "IDLE_S", 1000.0)
        await post(wire, app.url)
        assert len(app.writers) == 3
        monkeypatch.setattr(wires, "AGE_S", 0.0)
        await post(wire, app.url)
        assert len(app.writers) == 4


async def test_a_kept_connection_serves_only_the_place_that_it_was_opened_to(wire: Wire) -> None:
    async with peer(OK) as one, peer(OK) as other:
        await post(wire, one.url)
        await post(wire, other.url)
        await post(wire, other.url.replace("127.0.0.1", "localhost"))
        assert (len(one.writers), len(other.writers)) == (1, 2)


async def test_a_name_is_checked_whenever_a_connection_is_opened(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    async with peer(OK) as app:
        url, meant = app.url.replace("127.0.0.1", "app.example"), ["127.0.0.1"]

        async def resolved(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
            assert host == "app.example"
            return [(0, 0, 0, "", (meant[0], port))]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
        await post(wire, url)
        assert b"ost: app.example:" in app.heads[0]
        # The name comes to mean something inside: what is open leads where it led, and nothing new is opened.
        meant[0] = "169.254.169.254"
        await post(wire, url)
        monkeypatch.setattr(wires, "AGE_S", 0.0)
        with pytest.raises(NotAllowed):
            await post(wire, url)
        assert len(app.writers) == 1


@pytest.mark.parametrize("answer", [b"\x00\xffno http\r\n\r\n", b"HTTP/1.1 101 X\r\nupgrade: x\r\n\r\n", b"x" * 20_000])
async def test_what_is_no_answer_is_an_error(wire: Wire, answer: bytes) -> None:
    async with peer(answer) as app:
        with pytest.raises(h11.RemoteProtocolError):
            await post(wire, app.url)


async def test_a_connection_that_is_closed_without_an_answer_is_an_error(wire: Wire) -> None:
    async with peer(b"", then_close=True) as app:
        with pytest.raises(OSError, match="closed without an answer"):
            await post(wire, app.url)


async def test_over_tls_the_name_is_that_of_the_address_as_it_was_given(
    authority: Authority, tmp_path: Path, wire: Wire
) -> None:
    (tmp_path / "peer.pem").write_bytes(b"".join(authority.issue("peer")))  # good for 127.0.0.1
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "peer.pem")
    trusting = Wire(AddressGuard(["127.0.0.1", "localhost"]), ssl.create_default_context(cadata=authority.pem.decode()))
    async with peer(OK, tls=context) as app:
        for _ in range(2):
            assert (await post(trusting, app.url)).status == 204
        assert len(app.writers) == 1
        with pytest.raises(NotConnected, match="localhost"):
            await post(trusting, app.url.replace("127.0.0.1", "localhost"))
        with pytest.raises(NotConnected, match="CERTIFICATE_VERIFY_FAILED"):
            await post(wire, app.url)  # knows other authorities
        assert len(app.heads) == 2
        trusting.close()
        await asyncio.sleep(0)


async def test_a_header_cannot_be_ended_by_what_it_says(wire: Wire) -> None:
    async with peer(OK) as app:
        with pytest.raises(h11.LocalProtocolError):
            await wire.post(app.url, {"x": "a\r\nb: c"}, b"{}", timeout_s=PATIENCE_S)
        assert app.heads == []


LONG = b"x" * (3 * MAX_ANSWER_BYTES)


@pytest.mark.parametrize(
    ("answer", "is_whole"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(LONG) + LONG, True),
        (b"HTTP/1.1 200 OK\r\n\r\n" + LONG, True),
        (b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (len(LONG) + 1) + LONG, False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (len(LONG) + 9) + LONG + b"more than", False),
    ],
    ids=["length", "to the end of the connection", "cut short", "too long"],
)
async def test_who_asks_for_an_answer_hears_whether_it_is_whole(wire: Wire, answer: bytes, is_whole: bool) -> None:
    async with peer(answer, then_close=True) as app:
        found = await wire.call("GET", app.url, {}, timeout_s=PATIENCE_S, max_bytes=len(LONG))
        assert (found.status, found.body, found.is_whole) == (200, LONG, is_whole)
        (head,) = app.heads
        assert head.startswith(b"GET /hooks?a=b HTTP/1.1\r\n")
        assert b"content-length" not in head.lower()


async def test_where_nobody_listens_nothing_was_sent(wire: Wire) -> None:
    async with peer(OK) as app:
        pass
    with pytest.raises(NotConnected):
        await post(wire, app.url)


async def test_a_host_is_reached_at_the_address_that_takes_the_connection(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def resolved(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(0, 0, 0, "", ("127.0.0.9", port)), (0, 0, 0, "", ("127.0.0.1", port))]

    async with peer(OK) as app:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
        assert (await post(wire, app.url.replace("127.0.0.1", "localhost"))).status == 204


async def test_a_connection_that_is_not_there_in_time_is_told_from_an_answer_that_is_not(wire: Wire) -> None:
    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    with pytest.raises(NotConnectedInTime):  # the greeting of TLS is never answered
        await wire.post(url, {}, b"{}", timeout_s=0.1)
    with pytest.raises(TimeoutError) as caught:
        await wire.post(url.replace("https:", "http:"), {}, b"{}", timeout_s=0.1)
    assert not isinstance(caught.value, NotConnected)
    server.close()
    for writer in writers:
        writer.transport.abort()
    await server.wait_closed()
