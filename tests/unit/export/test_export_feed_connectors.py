"""HTTP destinations over real sockets: five ways to authenticate, proxies, source address, trust store, the guard."""

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import httpcore
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.outgoing import AddressGuard
from libs.common.testing.clock import FakeClock
from services.export.connectors.dial import Dialler, Proxy, ProxyFailed
from services.export.connectors.factory import connector_of
from services.export.connectors.port import BadAddress, Connector
from services.export.connectors.relay import joined
from services.export.domain.callbacks import Outcome, Verdict
from services.export.domain.feeds import Destination, DestinationKind, Egress, Format
from services.export.domain.rendering import Batch
from services.export.domain.rows import tally_of
from tests.peers.callback_receiver import Call, Receiver, Say, receiver
from tests.peers.certificates import Authority
from tests.peers.proxies import proxy, socks_by_ssh

NOW = datetime(2026, 3, 8, 6, 2, 11, tzinfo=UTC)
LINES = ("s-1\tm-1\tvoltage_a\t2026-03-08T06:02:11.000000Z\t220.5\t",)
BATCH = Batch("feed-1", 7, tally_of(LINES).hash, LINES)
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
LOOPBACK = AddressGuard(["127.0.0.0/8"], setting="X")


def built(
    url: str, secrets: Mapping[str, str] | None = None, *, egress: Egress | None = None, guard: AddressGuard = LOOPBACK,
    clock: FakeClock | None = None, timeout_s: float = 20.0, format_: Format | None = None, **address: object,
) -> Connector:  # fmt: skip
    destination = Destination(
        id="d", feed_id="feed-1", name="d", kind=DestinationKind.HTTP, address={"url": url, **address},
        egress=egress or Egress(), format=format_ or Format(), timeout_s=timeout_s, created_at=NOW, updated_at=NOW,
    )  # fmt: skip
    return connector_of(destination, secrets or {}, guard=guard, clock=clock or FakeClock(datetime.now(UTC)))


async def told(connector: Connector, batch: Batch = BATCH) -> Outcome:
    try:
        return await connector.tell(batch)
    finally:
        await connector.close()


@pytest.fixture
async def party() -> AsyncIterator[Receiver]:
    async with receiver() as running:
        yield running


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def serving(authority: Authority, folder: Path, *, wants_certificate: bool = False) -> ssl.SSLContext:
    certificate, key = authority.issue("party")
    (folder / "party.pem").write_bytes(certificate + key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=authority.pem.decode())
    context.load_cert_chain(folder / "party.pem")
    if wants_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


async def test_a_batch_arrives_with_its_number_and_hash(party: Receiver) -> None:
    outcome = await told(built(party.url, method="PUT", headers={"X-App": "a"}))
    assert (outcome.verdict, outcome.status) == (Verdict.DELIVERED, 200)
    (call,) = party.calls
    assert json.loads(call.body)["rows"][0]["value"] == 220.5
    shown = {name: call.headers[name] for name in ("wattring-feed", "wattring-batch", "wattring-rows", "wattring-hash")}
    assert shown == {
        "wattring-feed": "feed-1", "wattring-batch": "7", "wattring-rows": "1", "wattring-hash": BATCH.hash,
    }  # fmt: skip
    assert (call.headers["idempotency-key"], call.headers["x-app"]) == ("feed-1:7", "a")
    assert "authorization" not in call.headers


async def test_basic_and_bearer(party: Receiver) -> None:
    await told(built(party.url, {"username": "wattring", "password": "käse:1"}, auth="basic"))
    await told(built(party.url, {"token": "t-1"}, auth="bearer"))
    basic = "Basic " + base64.b64encode("wattring:käse:1".encode()).decode()
    assert [call.headers["authorization"] for call in party.calls] == [basic, "Bearer t-1"]


async def test_hmac_is_what_standard_webhooks_receivers_check(party: Receiver) -> None:
    await told(built(party.url, {"signing_key": SECRET}, auth="hmac"))
    assert party.calls[0].is_signed_with(SECRET)
    assert party.calls[0].id == "feed-1:7"


class TestClientCredentials:
    """RFC 6749, 4.4."""

    CREDENTIALS = {"client_id": "app 1", "client_secret": "s:ü"}  # noqa: RUF012

    async def test_a_token_is_fetched_once_and_anew_before_it_ends(self) -> None:
        tokens = iter(["one", "two"])

        def script(call: Call) -> Say:
            if call.path != "/token":
                return Say()
            answer = {"access_token": next(tokens), "token_type": "Bearer", "expires_in": 300}
            return Say(body=json.dumps(answer).encode())

        clock = FakeClock(datetime.now(UTC))
        async with receiver(script) as party:
            base = party.url.removesuffix("/hooks")
            connector = built(
                party.url, self.CREDENTIALS, auth="oauth2", token_url=f"{base}/token", scope="write", clock=clock
            )
            assert (await connector.tell(BATCH)).verdict is Verdict.DELIVERED
            await connector.tell(BATCH)
            await clock.advance(280)
            await told(connector)
        seen = [(call.path, call.headers["authorization"]) for call in party.calls]
        account = "Basic " + base64.b64encode(b"app%201:s%3A%C3%BC").decode()
        assert seen == [
            ("/token", account), ("/hooks", "Bearer one"), ("/hooks", "Bearer one"), ("/token", account),
            ("/hooks", "Bearer two"),
        ]  # fmt: skip
        assert party.calls[0].body == b"grant_type=client_credentials&scope=write"

    async def test_a_token_that_was_taken_back_is_replaced_once(self) -> None:
        def script(call: Call) -> Say:
            if call.path == "/token":
                return Say(body=json.dumps({"access_token": f"t{len(server.calls)}", "token_type": "bearer"}).encode())
            return Say(401) if call.headers["authorization"] == "Bearer t1" else Say()

        async with receiver(script) as server:
            base = server.url.removesuffix("/hooks")
            connector = built(server.url, self.CREDENTIALS, auth="oauth2", token_url=f"{base}/token")
            assert (await told(connector)).verdict is Verdict.DELIVERED
        assert [call.path for call in server.calls] == ["/token", "/hooks", "/token", "/hooks"]

    @pytest.mark.parametrize(
        "say",
        [Say(401, body=b'{"error":"invalid_client","description":"s:\xc3\xbc"}'), Say(body=b"<html>"), Say(body=b"{}"),
         Say(body=b'{"access_token":"a b","token_type":"bearer"}'),
         Say(body=b'{"access_token":"a","token_type":"mac"}'), Say(fault="drop")],
    )  # fmt: skip
    async def test_a_server_that_gives_none_is_a_failure_that_shows_no_secret(self, say: Say) -> None:
        async with receiver(lambda call: say) as party:
            connector = built(party.url, self.CREDENTIALS, auth="oauth2", token_url=party.url)
            outcome = await told(connector)
        assert outcome.verdict is Verdict.FAILED
        assert "s:" not in (outcome.error or "")


class TestAnswers:
    @pytest.mark.parametrize(
        ("say", "verdict"),
        [(Say(204), Verdict.DELIVERED), (Say(302, (("location", "http://127.0.0.1/"),)), Verdict.REFUSED),
         (Say(400, body=b"bad\x00 row"), Verdict.REFUSED), (Say(503, (("retry-after", "9"),)), Verdict.FAILED),
         (Say(fault="garbage"), Verdict.FAILED), (Say(fault="drop"), Verdict.FAILED)],
    )  # fmt: skip
    async def test_what_an_answer_means(self, say: Say, verdict: Verdict) -> None:
        async with receiver(lambda call: say) as party:
            outcome = await told(built(party.url))
        assert outcome.verdict is verdict
        assert len(party.calls) == 1
        assert (outcome.retry_after_s == 9.0) is (say.status == 503)

    async def test_no_answer_in_time(self) -> None:
        async with receiver(lambda call: Say(fault="hang")) as party:
            outcome = await told(built(party.url, timeout_s=0.3))
        assert outcome.verdict is Verdict.TIMEOUT

    async def test_nobody_there(self) -> None:
        async with receiver() as party:
            url = party.url
        assert (await told(built(url))).verdict is Verdict.FAILED

    async def test_an_address_inside_is_not_called(self, party: Receiver) -> None:
        outcome = await told(built(party.url, guard=AddressGuard((), setting="WATTRING_EXPORT__FEEDS__ALLOWED")))
        assert outcome.verdict is Verdict.NOT_ALLOWED
        assert "WATTRING_EXPORT__FEEDS__ALLOWED" in (outcome.error or "")
        assert party.connections == 0


class TestWayThere:
    @pytest.mark.parametrize("scheme", ["http", "socks5"])
    async def test_through_a_proxy_with_an_account(self, scheme: str, party: Receiver) -> None:
        async with proxy(scheme, account=("u", "p:1")) as between:
            account = {"proxy_username": "u", "proxy_password": "p:1"}
            outcome = await told(built(party.url, account, egress=Egress(proxy=between.url)))
            assert outcome.verdict is Verdict.DELIVERED
            assert between.asked == [f"127.0.0.1:{party.port}"]
            wrong = await told(
                built(party.url, {**account, "proxy_password": "secret"}, egress=Egress(proxy=between.url))
            )
            none = await told(built(party.url, egress=Egress(proxy=between.url)))
        assert (wrong.verdict, none.verdict) == (Verdict.FAILED, Verdict.FAILED)
        assert "proxy" in (wrong.error or "")
        assert "secret" not in (wrong.error or "")
        assert len(party.calls) == 1

    async def test_through_a_socks_server_that_we_did_not_write(self, party: Receiver) -> None:
        async with socks_by_ssh() as url:
            outcome = await told(built(party.url, egress=Egress(proxy=url)))
            assert outcome.verdict is Verdict.DELIVERED, outcome.error
            async with receiver() as gone:
                nobody = gone.url
            assert (await told(built(nobody, egress=Egress(proxy=url)))).verdict is Verdict.FAILED

    @pytest.mark.parametrize(
        ("scheme", "blunder", "expected"),
        [
            ("http", b"HTTP/1.1 502 Bad\r\n\r\n", "it answered 502"),
            ("http", b"SSH-2.0-x\r\n\r\n", "not answer as an HTTP proxy"),
            ("http", b"HTTP/1.1 200" + b"x" * 9000, "longer than"),
            ("http", b"HTTP/1.1 20", "closed the connection"),
            ("socks5", b"HTTP/1.1 400\r\n", "not answer as a SOCKS 5"),
            ("socks5", b"\x05\xff", "it wants an account"),
            ("socks5", b"\x05\x00\x05\x05\x00\x01", "connection refused"),
            ("socks5", b"\x05", "closed the connection"),
        ],
    )
    async def test_a_proxy_that_blunders(self, scheme: str, blunder: bytes, expected: str, party: Receiver) -> None:
        async with proxy(scheme, blunder=blunder) as between:
            outcome = await told(built(party.url, egress=Egress(proxy=between.url)))
        assert outcome.verdict is Verdict.FAILED
        assert expected in (outcome.error or "")
        assert party.connections == 0

    async def test_a_proxy_that_says_nothing(self, party: Receiver) -> None:
        async with proxy("socks5", silent=True) as between:
            outcome = await told(built(party.url, egress=Egress(proxy=between.url), timeout_s=0.3))
        assert outcome.verdict in (Verdict.TIMEOUT, Verdict.FAILED)

    async def test_nobody_gets_inside_through_a_proxy(self, party: Receiver) -> None:
        async with proxy("http") as between:
            only_proxy = AddressGuard(["127.0.0.2"], setting="X")
            url = between.url.replace("127.0.0.1", "127.0.0.2")
            outcome = await told(built(party.url, egress=Egress(proxy=url), guard=only_proxy))
            assert outcome.verdict is Verdict.NOT_ALLOWED
            outside = built("http://192.0.2.1/", egress=Egress(proxy=between.url), guard=AddressGuard(["192.0.2.1"]))
            assert (await told(outside)).verdict is Verdict.NOT_ALLOWED
            assert between.callers == []

    async def test_an_operator_may_allow_a_name(self, party: Receiver) -> None:
        class Named(AddressGuard):
            """Knows a name that lies inside and is allowed."""

            async def address_of(self, host: str, port: int) -> str:
                return "127.0.0.1" if host == "party.test" else await super().address_of(host, port)

        url = party.url.replace("127.0.0.1", "party.test")
        assert (await told(built(url, guard=Named((), setting="X")))).verdict is Verdict.DELIVERED
        assert party.calls[0].headers["host"] == f"party.test:{party.port}"
        assert (await told(built(party.url, guard=Named((), setting="X")))).verdict is Verdict.NOT_ALLOWED

    async def test_from_an_address_of_ours(self, party: Receiver) -> None:
        await told(built(party.url, egress=Egress(source_address="127.0.0.9")))
        async with proxy("socks5") as between:
            await told(built(party.url, egress=Egress(source_address="127.0.0.8", proxy=between.url)))
            assert between.callers == ["127.0.0.8"]
        assert party.callers[0] == "127.0.0.9"


class Spoken(httpcore.AsyncNetworkStream):
    """A connection on which somebody says what was settled before."""

    def __init__(self, said: bytes) -> None:
        self.said = said
        self.closed = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        chunk, self.said = self.said[:max_bytes], self.said[max_bytes:]
        return chunk

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        return

    async def aclose(self) -> None:
        self.closed = True


class Network(httpcore.AsyncNetworkBackend):
    """Opens that connection."""

    def __init__(self, stream: Spoken) -> None:
        self.stream = stream

    async def connect_tcp(self, *arguments: object, **named: object) -> Spoken:
        return self.stream


PROXY_SAYS = st.one_of(
    st.binary(max_size=40),
    st.tuples(
        st.sampled_from(
            [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 2", b"\x05\x00\x05\x00\x00\x01", b"\x05\x02\x01\x00\x05\x00\x00\x03"]
        ),
        st.binary(max_size=40),
        st.sampled_from([b"", b"\r\n\r\n"]),
    ).map(b"".join),
)


@given(said=PROXY_SAYS, scheme=st.sampled_from(["http", "socks5"]))
async def test_whatever_a_proxy_says_is_a_connection_or_a_failure_that_leaves_none(said: bytes, scheme: str) -> None:
    stream = Spoken(said)
    dialler = Dialler(LOOPBACK, proxy=Proxy.of(f"{scheme}://127.0.0.1:1", username="u", password="p"),
                      network=Network(stream))  # fmt: skip
    try:
        found = await dialler.connect_tcp("127.0.0.1", 80, 5.0)
    except ProxyFailed:
        assert stream.closed
    else:
        assert found is stream
        assert not stream.closed


class Silent(Spoken):
    """A connection on which nobody says anything."""

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        await asyncio.Event().wait()
        return b""


async def test_a_connection_that_nobody_came_to_use_is_closed() -> None:
    stream = Silent(b"")
    async with joined(stream):
        pass
    assert stream.closed


class TestTrust:
    @pytest.mark.parametrize("through", [None, "http", "socks5"])
    async def test_a_certificate_counts_by_the_destinations_own_trust_store(
        self, authority: Authority, tmp_path: Path, through: str | None
    ) -> None:
        async with receiver(tls=serving(authority, tmp_path)) as party, proxy(through or "http") as between:
            way = None if through is None else between.url
            trusted = await told(built(party.url, egress=Egress(proxy=way, trust=authority.pem.decode())))
            public = await told(built(party.url, egress=Egress(proxy=way)))
        assert trusted.verdict is Verdict.DELIVERED, trusted.error
        assert public.verdict is Verdict.FAILED
        assert "certificate" in (public.error or "").lower()
        assert len(party.calls) == 1
        assert bool(between.asked) is (through is not None)

    async def test_we_show_a_certificate_where_one_is_wanted(self, authority: Authority, tmp_path: Path) -> None:
        certificate, key = authority.issue("wattring")
        pair = {"certificate": certificate.decode(), "private_key": key.decode()}
        async with receiver(tls=serving(authority, tmp_path, wants_certificate=True)) as party:
            egress = Egress(trust=authority.pem.decode())
            assert (await told(built(party.url, pair, egress=egress))).verdict is Verdict.DELIVERED
            assert (await told(built(party.url, egress=egress))).verdict is Verdict.FAILED


@pytest.mark.parametrize(
    ("address", "secrets", "expected"),
    [
        ({"url": "ftp://x/"}, {}, "address.url"),
        ({"url": "http://u:p@x/"}, {}, "address.url"),
        ({"url": "http://x/#a"}, {}, "fragment"),
        ({}, {}, "address.url: expected a text"),
        ({"url": "http://x/", "methud": "PUT"}, {}, "address.methud: not known"),
        ({"url": "http://x/", "method": "GET"}, {}, "address.method"),
        ({"url": "http://x/", "auth": "digest"}, {}, "address.auth"),
        ({"url": "http://x/", "auth": "basic"}, {"username": "u"}, "secrets.password"),
        ({"url": "http://x/", "auth": "oauth2"}, {"client_id": "u", "client_secret": "x"}, "address.token_url"),
        ({"url": "http://x/", "auth": "hmac"}, {"signing_key": "whsec_*"}, "secrets.signing_key"),
        ({"url": "http://x/", "headers": {"Host": "y"}}, {}, "address.headers"),
        ({"url": "http://x/", "headers": {"X": "a\r\nB: c"}}, {}, "address.headers.X"),
        ({"url": "http://x/", "headers": ["X"]}, {}, "address.headers"),
    ],
)
def test_an_address_that_cannot_be_used_says_which_field(
    address: dict[str, object], secrets: dict[str, str], expected: str
) -> None:
    destination = Destination(
        id="d", feed_id="f", name="d", kind=DestinationKind.HTTP, address=address, created_at=NOW, updated_at=NOW
    )
    with pytest.raises(BadAddress) as raised:
        connector_of(destination, secrets, guard=LOOPBACK, clock=FakeClock(NOW))
    assert expected in str(raised.value)


@pytest.mark.parametrize(
    ("egress", "secrets"),
    [(Egress(proxy="ftp://x"), {}), (Egress(proxy="http://u:p@x:1"), {}), (Egress(source_address="eth0"), {}),
     (Egress(trust="no pem"), {}), (Egress(), {"certificate": "x"}),
     (Egress(), {"certificate": "x", "private_key": "y"})],
)  # fmt: skip
def test_a_way_that_cannot_be_gone_is_refused(egress: Egress, secrets: dict[str, str]) -> None:
    with pytest.raises(BadAddress):
        built("https://x/", secrets, egress=egress)


class TestContained:
    """What goes wrong at one destination stays its own."""

    async def test_a_failure_that_nobody_expected_is_an_outcome(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def broken(*_: object) -> None:
            raise LookupError("token-of-mine")

        monkeypatch.setattr("services.export.connectors.http.HttpConnector.tell", broken)
        outcome = await told(built("http://127.0.0.1:1/"))
        assert (outcome.verdict, outcome.error) == (Verdict.FAILED, "unexpected: LookupError")

    async def test_a_receiver_that_repeats_our_secret_does_not_have_it_shown(self) -> None:
        async with receiver(lambda call: Say(403, body=call.headers["authorization"].encode())) as nosy:
            outcome = await told(built(nosy.url, {"token": "of-mine-alone"}, auth="bearer"))
        assert outcome.verdict is Verdict.REFUSED
        assert "of-mine-alone" not in (outcome.error or "")
