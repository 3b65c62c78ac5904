"""How far a call to a centre came, whatever the centre does to the connection."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.export.dialects import Dialects, soap
from services.export.dialects.messages import Operation, Outcome, ReportAlarms, UnitRef
from services.export.soap_client import (
    MAX_REPLY_BYTES,
    PLACES_KNOWN,
    Answered,
    BadAnswer,
    CallOutcome,
    CentreClient,
    NoAnswer,
    NotSent,
)
from tests.integration.export.conftest import ALARM_OK, FSU
from tests.peers.certificates import Authority

pytestmark = pytest.mark.integration

DIALECT = Dialects.shipped().named("T")
OK = soap.write_response(ALARM_OK, DIALECT.centre)
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(OK) + OK


class RawCentre:
    """Answers every request with the same bytes."""

    def __init__(self, answer: bytes | None, *, then_close: bool) -> None:
        self.answer = answer
        self.then_close = then_close
        self.heads: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/services/SCService"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
                if self.answer is None:
                    continue
                writer.write(self.answer)
                await writer.drain()
                if self.then_close:
                    writer.close()
                    return


@asynccontextmanager
async def raw(
    answer: bytes | None, *, then_close: bool = True, silent: bool = False, tls: ssl.SSLContext | None = None
) -> AsyncIterator[RawCentre]:
    centre = RawCentre(answer, then_close=then_close)

    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        centre.writers.append(writer)

    server = await asyncio.start_server(say_nothing if silent else centre.serve, "127.0.0.1", 0, ssl=tls)
    centre.port = server.sockets[0].getsockname()[1]
    try:
        yield centre
    finally:
        server.close()
        for writer in centre.writers:
            writer.transport.abort()
        await server.wait_closed()


@asynccontextmanager
async def client(timeout_s: float = 20.0) -> AsyncIterator[CentreClient]:
    found = CentreClient(DIALECT, timeout_s=timeout_s)
    try:
        yield found
    finally:
        await found.close()


async def told(found: CentreClient, url: str) -> CallOutcome:
    return await found.call(url, ReportAlarms(UnitRef(FSU, FSU), ()), Operation.REPORT_ALARMS)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (WHOLE, Answered(Outcome(None, True))),
        (b"HTTP/1.0 200 OK\r\n\r\n" + OK, Answered(Outcome(None, True))),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n" + OK, NoAnswer("within the answer")),
        (b"", NoAnswer("closed without an answer")),
        (b"SSH-2.0-x\r\n\r\n", NoAnswer("RemoteProtocolError")),
        (b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", BadAnswer("HTTP 302")),
        (b"HTTP/1.1 500 X\r\ncontent-length: 2\r\n\r\nno", BadAnswer("HTTP 500: not well formed")),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (MAX_REPLY_BYTES + 1), BadAnswer("answer larger than 1048576 bytes")),
    ],
    ids=["whole", "to the end of the connection", "cut", "nothing", "no HTTP", "moved", "error", "endless"],
)
async def test_an_answer_is_one_or_says_why_it_is_none(answer: bytes, outcome: CallOutcome) -> None:
    async with raw(answer) as centre, client() as found:
        became = await told(found, centre.url)
        assert type(became) is type(outcome)
        if isinstance(became, Answered):
            assert isinstance(became.reply, Outcome)
            assert became.reply.ok
        else:
            assert not isinstance(outcome, Answered)
            assert outcome.reason in became.reason
        assert len(centre.heads) == 1


async def test_a_centre_that_says_nothing_may_have_been_told() -> None:
    async with raw(None) as centre, client(timeout_s=0.2) as found:
        assert await told(found, centre.url) == NoAnswer("no answer within 0.2 s")
        assert len(centre.heads) == 1


async def test_what_nobody_took_was_not_sent() -> None:
    async with raw(WHOLE) as centre, client() as found:
        pass
    gone = await told(found, centre.url)
    assert isinstance(gone, NotSent)
    assert "cannot connect" in gone.reason
    nameless = await told(found, "http://no-such-host.invalid/services/SCService")
    assert isinstance(nameless, NotSent)
    assert "no-such-host.invalid" in nameless.reason


async def test_a_connection_that_is_not_ready_in_time_has_carried_nothing() -> None:
    async with raw(None, silent=True) as centre, client(timeout_s=0.2) as found:
        became = await told(found, centre.url.replace("http:", "https:"))  # the greeting of TLS is never answered
        assert isinstance(became, NotSent)
        assert "in time" in became.reason


async def test_a_centre_inside_may_be_called_by_name() -> None:
    async with raw(WHOLE) as centre, client() as found:
        assert isinstance(await told(found, centre.url.replace("127.0.0.1", "localhost")), Answered)


async def test_a_centre_with_a_certificate_of_nobody_known_is_told_nothing(tmp_path: Path) -> None:
    (tmp_path / "centre.pem").write_bytes(b"".join(Authority().issue("centre")))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(tmp_path / "centre.pem")
    async with raw(WHOLE, tls=tls) as centre, client() as found:
        became = await told(found, centre.url.replace("http:", "https:"))
        assert isinstance(became, NotSent)
        assert "CERTIFICATE_VERIFY_FAILED" in became.reason
        assert centre.heads == []


async def test_connections_are_kept_to_each_place_and_to_no_more_places_than_a_centre_has() -> None:
    async with raw(WHOLE, then_close=False) as one, raw(WHOLE, then_close=False) as other, client() as found:
        for _ in range(3):
            for url in (one.url, other.url):
                assert isinstance(await told(found, url), Answered)
        assert (len(one.writers), len(other.writers)) == (1, 1)
        for number in range(PLACES_KNOWN):
            assert isinstance(await told(found, f"{one.url}?n={number}"), Answered)
        assert isinstance(await told(found, other.url), Answered)
        assert len(other.writers) == 2
