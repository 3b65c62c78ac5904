"""Our applications and our client over real sockets: limits, streams, and every way in which a service can be away."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import httpx
import orjson
import pytest
from fastapi import Depends, Request
from fastapi.responses import StreamingResponse

from libs.common import errors
from libs.common.bus.port import Bus
from libs.common.health import Health
from libs.common.listening import Listener, Serving
from libs.common.log import log_context
from libs.common.serving import Platform
from libs.common.settings import CommonSettings
from libs.common.testing.clock import FakeClock
from libs.common.tokens import KeyRing, Principal
from libs.common.tracing import current_trace_id, span
from libs.common.web import ServiceClient, create_app, require

pytestmark = pytest.mark.integration

LIMIT = 100_000


@pytest.fixture(scope="module")
def keys_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    KeyRing.create(folder)
    return folder


def platform(keys_folder: Path, **urls: str) -> Platform:
    clock = FakeClock(datetime(2026, 3, 1, tzinfo=UTC))
    bus: Bus = None  # type: ignore[assignment]  # nothing here publishes
    return Platform(CommonSettings(service_urls=urls), clock, bus, KeyRing.open(keys_folder, clock))


# -- our applications on the wire -----------------------------------------------------------------


@asynccontextmanager
async def control(keys_folder: Path, place: Listener | None = None) -> AsyncIterator[str]:
    """A service that answers in many ways; yields its address."""
    ours = platform(keys_folder)
    health = Health(ours.clock)
    health.starting = None
    app = create_app("control", ours, health, title="control", max_body_bytes=LIMIT)
    asked = asyncio.Event()

    @app.post("/echo")
    async def echo(request: Request) -> dict[str, Any]:
        return {"bytes": len(await request.body())}

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"data: 1\n\n"
            await asked.wait()
            yield b"data: 2\n\n"

        return StreamingResponse(parts(), media_type="text/event-stream")

    @app.get("/go-on")
    async def go_on() -> None:
        asked.set()

    @app.get("/who")
    async def who(
        request: Request, one: Annotated[Principal, Depends(require("control:read"))], name: str | None = None
    ) -> dict[str, Any]:
        return {
            "actor": one.actor,
            "query": name,
            "trace_id": current_trace_id(),
            "request_id": request.headers["x-request-id"],
        }

    @app.post("/refuse")
    async def refuse(body: dict[str, Any]) -> None:
        kind: type[errors.PlatformError] = getattr(errors, body["kind"])
        error = kind("the load may not be switched", message_zh="该负载不可操作", load_id="l-1", code="fact")
        error.code = "load_never_off"
        raise error

    @app.post("/nothing", status_code=204)
    async def nothing(body: dict[str, Any]) -> None:
        assert body

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    chosen = Listener(app, host="127.0.0.1", port=port) if place is None else Listener(app, uds=place.uds)
    server = await Serving.start(chosen)
    try:
        yield f"unix:{chosen.uds}" if chosen.uds is not None else f"http://{chosen.place}"
    finally:
        asked.set()
        await server.stop(5.0)


async def test_a_body_too_large_is_refused_however_it_comes(keys_folder: Path) -> None:
    async def chunked(total: int) -> AsyncIterator[bytes]:
        for _ in range(total // 1000):
            yield b"x" * 1000

    async with control(keys_folder) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        for content in (b"x" * LIMIT, chunked(LIMIT)):
            assert (await client.post("/echo", content=content)).json() == {"bytes": LIMIT}
        for content in (b"x" * (LIMIT * 30), chunked(LIMIT * 30)):
            answer = await client.post("/echo", content=content)
            assert (answer.status_code, answer.json()["code"]) == (413, "http_413")
        assert (await client.post("/echo", content=b"x")).json() == {"bytes": 1}


async def test_a_stream_comes_as_it_is_made(keys_folder: Path) -> None:
    async with control(keys_folder) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        async with asyncio.timeout(20), client.stream("GET", "/stream") as answer:
            parts = answer.aiter_bytes()
            assert await anext(parts) == b"data: 1\n\n"  # here while the rest is not made yet
            await client.get("/go-on")
            assert [part async for part in parts] == [b"data: 2\n\n"]


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\x01b\r\nConnection: close\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\nConnection: close\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 200_000 + b"\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"X-Short: x\r\n" * 20_000 + b"\r\n",
        b"GET /livez?" + b"x" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Endless: " + b"x" * 2_000_000,
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 2_000_000,
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Endless: " + b"x" * 2_000_000,
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        b"GET /%ff%fe\xff HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"\x16\x03\x01 this is TLS\r\n\r\n",
        b"BREW /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ],
)
async def test_rubbish_on_the_wire_is_answered_or_cut_and_the_next_caller_is_served(
    keys_folder: Path, request_line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with control(keys_folder) as url:
        port = int(url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_line)
        answer = b""
        with contextlib.suppress(ConnectionResetError):  # cut
            async with asyncio.timeout(20):
                answer = await reader.read()
        writer.close()
        assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 200"))
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            assert (await client.get("/livez")).status_code == 200
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]


async def test_a_head_request_gets_the_head_of_a_problem_and_no_body(keys_folder: Path) -> None:
    async with control(keys_folder) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        answer = await client.head("/nothing-here")
        assert (answer.status_code, answer.content) == (404, b"")
        assert answer.headers["content-type"] == "application/problem+json"


def calls(ours: Platform) -> ServiceClient:
    """Return what export would call control with."""
    url = ours.settings.service_urls.get("control")
    return ServiceClient(ours.keys, url, caller="export", audience="control", scopes=("*:*",))


# -- calls that succeed ---------------------------------------------------------------------------


@pytest.fixture(params=["tcp", "unix"])
async def calling(request: pytest.FixtureRequest, keys_folder: Path, tmp_path: Path) -> AsyncIterator[ServiceClient]:
    place = None if request.param == "tcp" else Listener(None, uds=tmp_path / "control.sock")  # type: ignore[arg-type]  # replaced
    async with control(keys_folder, place) as url:
        ours = platform(keys_folder, control=url)
        async with calls(ours) as client:
            yield client


async def test_a_call_says_who_we_are_and_passes_trace_and_id_on(calling: ServiceClient) -> None:
    with span("of the caller"), log_context(request_id="r-7"):
        answer = await calling.get("/who", name="中 文&x=1")
        assert answer == {
            "actor": "service:export",
            "query": "中 文&x=1",
            "trace_id": current_trace_id(),
            "request_id": "r-7",
        }
    assert (await calling.get("/who"))["query"] is None


async def test_a_call_sends_json_and_may_get_nothing_back(calling: ServiceClient) -> None:
    assert await calling.post("/nothing", {"a": 1}) is None
    assert await calling.post("/echo", {"at": datetime(2026, 3, 1, tzinfo=UTC)}) == {"bytes": 34}


# -- calls that are refused -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [errors.InvalidInput, errors.Forbidden, errors.NotFound, errors.Conflict])
async def test_a_refusal_keeps_kind_code_words_and_facts(
    calling: ServiceClient, kind: type[errors.PlatformError]
) -> None:
    with pytest.raises(kind, match="the load may not be switched") as caught:
        await calling.post("/refuse", {"kind": kind.__name__})
    error = caught.value
    assert type(error) is kind
    assert (error.code, error.message_zh) == ("load_never_off", "该负载不可操作")
    assert error.facts == {"load_id": "l-1", "code": "fact"}
    assert kind.code != "load_never_off"  # only this one carries it


async def test_what_we_ask_wrongly_is_an_invalid_input(calling: ServiceClient) -> None:
    with pytest.raises(errors.InvalidInput, match="body") as caught:
        await calling.post("/refuse", [1])
    assert caught.value.code == "malformed"
    with pytest.raises(errors.NotFound):
        await calling.get("/nothing-here")
    with pytest.raises(errors.InvalidInput):
        await calling.get("/refuse")
    with pytest.raises(errors.InvalidInput):
        await calling.post("/echo", "x" * LIMIT)


async def test_a_service_that_does_not_take_our_token_is_not_available_and_blames_no_user(
    keys_folder: Path, tmp_path: Path
) -> None:
    strangers = tmp_path / "keys"
    KeyRing.create(strangers)
    async with control(keys_folder) as url:
        ours = platform(strangers, control=url)
        async with calls(ours) as client:
            with pytest.raises(errors.Unavailable, match="control is not available: the token is not valid"):
                await client.get("/who")


# -- services that are away, or not themselves ----------------------------------------------------

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def says(answer: bytes, *, slowly: bool = False) -> Serve:
    """Return a server that reads a request's head and says this, whatever was asked."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            for part in [bytes([byte]) for byte in answer] if slowly else [answer]:
                writer.write(part)
                await writer.drain()
                if slowly:
                    await asyncio.sleep(0.05)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the caller has given up

    return serve


def http(status: str, body: bytes, *headers: bytes) -> bytes:
    head = [b"HTTP/1.1 " + status.encode(), b"Content-Length: %d" % len(body), b"Connection: close", *headers]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


@asynccontextmanager
async def impostor(serve: Serve, kind: str, tmp_path: Path) -> AsyncIterator[str]:
    tasks: set[asyncio.Task[Any]] = set()

    async def tracked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    if kind == "unix":
        server = await asyncio.start_unix_server(tracked, tmp_path / "s.sock")
        url = f"unix:{tmp_path / 's.sock'}"
    else:
        server = await asyncio.start_server(tracked, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield url
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


DRIP = http("200 OK", b'{"answer": "one byte at a time, for ever and ever and ever and ever and ever and ever"}')


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize(
    ("serve", "reason"),
    [
        pytest.param(says(http("500 Internal Server Error", b"oops")), "it answered 500 without JSON", id="500 text"),
        pytest.param(says(http("500 x", b'{"detail": "it broke"}')), "it broke", id="500 problem"),
        pytest.param(says(http("502 Bad Gateway", b"<html>")), "it answered 502 without JSON", id="502 html"),
        pytest.param(says(http("503 x", b'{"detail": "starting", "code": "starting"}')), "starting", id="503 problem"),
        pytest.param(says(http("429 x", b'{"detail": "slow down"}')), "slow down", id="429"),
        pytest.param(says(http("404 x", b"no JSON")), "it answered 404 without JSON", id="404 text"),
        pytest.param(says(http("200 OK", b"<html>hello</html>")), "it answered 200 without JSON", id="200 html"),
        pytest.param(says(http("302 Found", b"{}", b"Location: http://127.0.0.1:1/")), "it answered 302", id="302"),
        pytest.param(says(http("301 Moved", b"", b"Location: /")), "it answered 301", id="301"),
        pytest.param(says(b""), "disconnected", id="closes"),
        pytest.param(says(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"), "closed", id="closes half way"),
        pytest.param(says(b"SSH-2.0-OpenSSH\r\n\r\n"), "illegal status line", id="another protocol"),
        pytest.param(says(DRIP, slowly=True), "no answer within 0.3 s", id="drips"),
    ],
)
async def test_whatever_goes_wrong_the_service_is_not_available(
    keys_folder: Path, tmp_path: Path, serve: Serve, reason: str, kind: str
) -> None:
    async with impostor(serve, kind, tmp_path) as url:
        ours = platform(keys_folder, control=url)
        async with calls(ours) as client:
            with pytest.raises(errors.Unavailable, match="control is not available: ") as caught:
                await client.get("/x", timeout_s=0.3 if "within" in reason else 20.0)
    assert reason in caught.value.message
    assert caught.value.message_zh is not None
    assert caught.value.message_zh.startswith("服务 control 不可用:")
    assert type(caught.value) is errors.Unavailable
    assert caught.value.code == "unavailable"


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"null", b'{"detail": 7, "facts": [1], "code": null}', b"17"])
async def test_an_error_that_is_no_problem_is_still_of_its_kind(keys_folder: Path, tmp_path: Path, body: bytes) -> None:
    async with impostor(says(http("409 Conflict", body)), "tcp", tmp_path) as url:
        async with calls(platform(keys_folder, control=url)) as client:
            with pytest.raises(errors.Conflict, match="it answered 409") as caught:
                await client.post("/x", {})
    assert (caught.value.code, caught.value.facts) == ("conflict", {})


async def test_a_redirection_is_not_followed(keys_folder: Path, tmp_path: Path) -> None:
    asked: list[bytes] = []

    async def elsewhere(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(http("200 OK", b"{}"))

    async with impostor(elsewhere, "tcp", tmp_path) as other:
        moved = says(http("307 Temporary Redirect", b"", b"Location: " + other.encode()))
        async with impostor(moved, "unix", tmp_path) as url:
            async with calls(platform(keys_folder, control=url)) as client:
                with pytest.raises(errors.Unavailable):
                    await client.get("/x")
    assert asked == []  # or our token would have gone there


async def test_a_service_that_never_answers_is_given_up(keys_folder: Path, tmp_path: Path) -> None:
    async def silent(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with impostor(silent, "tcp", tmp_path) as url:
        async with calls(platform(keys_folder, control=url)) as client:
            with pytest.raises(errors.Unavailable, match=r"no answer within 0\.2 s"):
                await client.get("/x", timeout_s=0.2)


async def test_nobody_there(keys_folder: Path, tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        for url in (closed, f"unix:{tmp_path / 'absent.sock'}", "http://no.such.host.invalid:80"):
            async with calls(platform(keys_folder, control=url)) as client:
                with pytest.raises(errors.Unavailable, match="control is not available: "):
                    await client.get("/x")


async def test_no_address_is_said_at_the_call_and_does_not_hold_the_start(keys_folder: Path) -> None:
    async with calls(platform(keys_folder)) as client:
        with pytest.raises(errors.Unavailable, match="is its address in WATTRING_SERVICE_URLS"):
            await client.get("/x")
    with pytest.raises(errors.Unavailable, match="not connected"):
        await client.get("/x")


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_no_proxy_of_the_environment_comes_between(
    keys_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    async with impostor(says(http("200 OK", b'{"here": true}')), kind, tmp_path) as url:
        async with calls(platform(keys_folder, control=url)) as client:
            assert await client.get("/x") == {"here": True}


async def test_after_a_restart_of_the_service_the_next_call_works(keys_folder: Path, tmp_path: Path) -> None:
    place = Listener(None, uds=tmp_path / "control.sock")  # type: ignore[arg-type]  # replaced
    ours = platform(keys_folder, control=f"unix:{place.uds}")
    async with calls(ours) as client:
        for _ in range(3):
            async with control(keys_folder, place):
                assert (await client.get("/who"))["actor"] == "service:export"
            with pytest.raises(errors.Unavailable):
                await client.get("/who")


def test_the_drip_would_take_longer_than_it_is_given() -> None:
    assert len(DRIP) * 0.05 > 5 * 0.3
    assert orjson.loads(DRIP.partition(b"\r\n\r\n")[2])
