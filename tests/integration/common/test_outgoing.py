"""Calls to configured addresses over real sockets: where they may lead, and what an answer may do to us."""

import asyncio
import gzip
import ipaddress
import socket
from collections.abc import AsyncIterator

import pytest

from libs.common.errors import InvalidInput
from libs.common.outgoing import AddressGuard, Answer, CallFailed, GuardedClient, NotAllowed, is_outside
from libs.fieldsim.sc.httpserver import HttpServer, Reply, Request

pytestmark = pytest.mark.integration


class Peer:
    """Answers as it is told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.reply = Reply(body=b"{}")
        self.asked: list[Request] = []
        self.server = HttpServer(self._answer)

    async def _answer(self, request: Request) -> Reply:
        self.asked.append(request)
        return self.reply

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    found = Peer()
    await found.server.start()
    yield found
    await found.server.stop()


async def get(url: str, *allowed: str, **given: float) -> Answer:
    async with GuardedClient(AddressGuard(allowed)) as client:
        return await client.request("GET", url, **{"timeout_s": 20.0, **given})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("address", "outside"),
    [("8.8.8.8", True), ("2400:3200::1", True), ("127.0.0.1", False), ("10.0.0.1", False), ("169.254.169.254", False),
     ("100.64.0.1", False), ("192.168.1.1", False), ("0.0.0.0", False), ("224.0.0.1", False), ("::1", False),
     ("fd00::1", False), ("fe80::1", False), ("::ffff:127.0.0.1", False), ("::ffff:8.8.8.8", True),
     ("64:ff9b::7f00:1", False), ("2002:7f00:1::", False), ("255.255.255.255", False)],
)  # fmt: skip
def test_what_lies_inside(address: str, *, outside: bool) -> None:
    assert is_outside(ipaddress.ip_address(address)) is outside


async def test_inside_is_refused_before_anything_is_sent(peer: Peer) -> None:
    for url in (peer.url, peer.url.replace("127.0.0.1", "localhost"), peer.url.replace("127.0.0.1", "2130706433")):
        with pytest.raises((NotAllowed, CallFailed)):
            await get(url)
    assert peer.asked == []


@pytest.mark.parametrize("allowed", ["127.0.0.0/8", "127.0.0.1"])
async def test_an_operator_allows_networks_and_addresses(peer: Peer, allowed: str) -> None:
    assert (await get(peer.url + "/a?b=1", allowed)).json() == {}
    assert (peer.asked[0].path, peer.asked[0].query) == ("/a", "b=1")


async def test_an_operator_allows_a_name_and_it_stands_in_the_request(peer: Peer) -> None:
    url = peer.url.replace("127.0.0.1", "localhost")
    assert (await get(url, "LOCALHOST")).is_success
    assert peer.asked[0].headers["host"] == f"localhost:{peer.server.port}"


async def test_a_name_with_one_address_inside_is_refused(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def two(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(0, 0, 0, "", ("8.8.8.8", port)), (0, 0, 0, "", ("127.0.0.1", port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", two)
    with pytest.raises(NotAllowed):
        await get("http://both.example/")


async def test_a_redirection_is_an_answer_and_not_followed(peer: Peer) -> None:
    peer.reply = Reply(302, headers={"location": peer.url + "/secret"})
    answer = await get(peer.url, "127.0.0.1")
    assert (answer.status, answer.is_success) == (302, False)
    assert len(peer.asked) == 1


async def test_an_answer_has_a_largest_size_unpacked(peer: Peer) -> None:
    packed = gzip.compress(b"0" * 3_000_000)
    assert len(packed) < 10_000
    peer.reply = Reply(body=packed, headers={"content-encoding": "gzip"})
    with pytest.raises(CallFailed, match="longer than 1000000 bytes"):
        await get(peer.url, "127.0.0.1", max_bytes=1_000_000)
    for _ in range(50):  # the library's generators of a body that was not read to its end, one in the other
        await asyncio.sleep(0)


async def test_where_the_status_counts_a_long_answer_is_cut(peer: Peer) -> None:
    peer.reply = Reply(body=b"0" * 3_000_000)
    async with GuardedClient(AddressGuard(["127.0.0.1"])) as client:
        answer = await client.request("POST", peer.url, content=b"{}", timeout_s=20.0, max_bytes=1000, cut=True)
        assert (answer.status, answer.body) == (200, b"0" * 1000)


async def test_no_answer_in_time_and_nobody_there(peer: Peer) -> None:
    peer.reply = Reply(delay_s=30)
    with pytest.raises(CallFailed, match=r"no answer within 0\.3 s") as late:
        await get(peer.url + "/path?token=hidden", "127.0.0.1", timeout_s=0.3)
    assert late.value.facts["sent"] is True
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(CallFailed) as caught:
            await get(f"http://127.0.0.1:{free.getsockname()[1]}/path?token=hidden", "127.0.0.1")
    assert "hidden" not in caught.value.message
    assert caught.value.facts["sent"] is False


@pytest.mark.parametrize(
    "url", ["ftp://8.8.8.8/", "file:///etc/passwd", "http://", "x", "http://user:pw@example.com/", "http://[::1"]
)
async def test_what_is_no_url_to_call_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await get(url)
    assert "pw" not in caught.value.message


@pytest.mark.parametrize("allowed", ["", "http://a", "a b", "10.0.0.0/33"])
def test_a_wrong_allowance_is_named(allowed: str) -> None:
    with pytest.raises(ValueError, match="no network"):
        AddressGuard([allowed])
