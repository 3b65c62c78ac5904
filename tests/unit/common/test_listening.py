"""Addresses: had, refused with the reason and the way out, given back, and never taken from a living owner."""

import asyncio
import contextlib
import logging
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from libs.common.client import NO_TLS
from libs.common.listening import CannotListen, Listener, PortTaken, Serving


async def hello(_: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


APP = Starlette(routes=[Route("/", hello)])


@contextlib.asynccontextmanager
async def serving(place: Listener) -> AsyncIterator[Serving]:
    found = await Serving.start(place)
    try:
        yield found
    finally:
        await found.stop(5.0)


def client(place: Listener) -> httpx.AsyncClient:
    if place.uds is not None:
        transport = httpx.AsyncHTTPTransport(uds=str(place.uds), verify=NO_TLS)
        return httpx.AsyncClient(transport=transport, base_url="http://localhost", trust_env=False)
    return httpx.AsyncClient(base_url=f"http://{place.place}", trust_env=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_a_port_is_served_and_free_afterwards(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    place = Listener(APP, host="127.0.0.1", port=free_port())
    for _ in range(2):
        async with serving(place), client(place) as http:
            assert (await http.get("/")).text == "hello"
    said = [vars(record)["address"] for record in caplog.records if record.getMessage() == "listening"]
    assert said == [f"127.0.0.1:{place.port}"] * 2


async def test_port_zero_is_any_port_and_the_log_says_which(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serving(Listener(APP, host="127.0.0.1", port=0)):
        (address,) = [vars(record)["address"] for record in caplog.records if record.getMessage() == "listening"]
        async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as http:
            assert (await http.get("/")).text == "hello"


async def test_a_taken_port_is_named_with_the_setting_that_chooses_another() -> None:
    with socket.socket() as owner:
        owner.bind(("127.0.0.1", 0))
        owner.listen()
        port = owner.getsockname()[1]
        with pytest.raises(
            PortTaken, match=rf"cannot listen on 127\.0\.0\.1:{port}; another program holds it"
        ) as caught:
            await Serving.start(Listener(APP, host="127.0.0.1", port=port, setting="WATTRING_EXPORT__UNIT_PORT"))
    assert "WATTRING_EXPORT__UNIT_PORT=" in caught.value.message
    assert "WATTRING_EXPORT__UNIT_PORT=" in (caught.value.message_zh or "")


async def test_an_address_of_another_machine_is_refused_in_words() -> None:
    with pytest.raises(CannotListen, match=r"192\.0\.2\.1:0: Cannot assign requested address; .* WATTRING_HOST"):
        await Serving.start(Listener(APP, host="192.0.2.1", port=0))
    with pytest.raises(CannotListen, match=r"cannot listen on no\.such\.host\.invalid:0: "):
        await Serving.start(Listener(APP, host="no.such.host.invalid", port=0))


async def test_a_unix_socket_is_private_and_gone_afterwards(tmp_path: Path) -> None:
    place = Listener(APP, uds=tmp_path / "run" / "alarm.sock")
    assert place.uds is not None
    async with serving(place), client(place) as http:
        assert (await http.get("/")).text == "hello"
        assert stat.S_IMODE(place.uds.stat().st_mode) == 0o600
        assert stat.S_IMODE(place.uds.parent.stat().st_mode) == 0o700
    assert not place.uds.exists()


async def test_a_socket_that_a_dead_process_left_is_replaced(tmp_path: Path) -> None:
    place = Listener(APP, uds=tmp_path / "alarm.sock")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place.uds))
    assert (tmp_path / "alarm.sock").exists()
    async with serving(place), client(place) as http:
        assert (await http.get("/")).text == "hello"


async def test_a_socket_that_somebody_answers_on_is_left_to_them(tmp_path: Path) -> None:
    place = Listener(APP, uds=tmp_path / "alarm.sock")
    async with serving(place), client(place) as http:
        with pytest.raises(PortTaken, match=r"alarm\.sock; another process answers there; stop it first"):
            await Serving.start(place)
        assert (await http.get("/")).text == "hello"


async def test_a_file_in_the_place_of_a_socket_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "alarm.sock").write_text("precious")
    with pytest.raises(CannotListen, match="there is a file of that name"):
        await Serving.start(Listener(APP, uds=tmp_path / "alarm.sock"))
    assert (tmp_path / "alarm.sock").read_text() == "precious"


async def test_a_path_too_long_for_a_socket_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(CannotListen, match="path too long"):
        await Serving.start(Listener(APP, uds=tmp_path / ("x" * 120) / "alarm.sock"))


async def test_a_successors_socket_is_not_removed(tmp_path: Path) -> None:
    place = Listener(APP, uds=tmp_path / "alarm.sock")
    assert place.uds is not None
    first = await Serving.start(place)
    place.uds.unlink()
    async with serving(place), client(place) as http:
        await first.stop(1.0)
        assert (await http.get("/")).text == "hello"


async def test_a_request_under_way_is_finished_and_no_new_one_is_taken() -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: Request) -> PlainTextResponse:
        began.set()
        await go_on.wait()
        return PlainTextResponse("done")

    place = Listener(Starlette(routes=[Route("/", slow)]), host="127.0.0.1", port=free_port())
    server = await Serving.start(place)
    async with client(place) as http, client(place) as late:
        answer = asyncio.create_task(http.get("/"))
        await began.wait()
        stopping = asyncio.create_task(server.stop(30.0))
        async with asyncio.timeout(10):
            while True:
                try:
                    await late.get("/", timeout=0.2)
                except httpx.ConnectError:
                    break
                except httpx.TimeoutException:
                    continue
        go_on.set()
        assert (await answer).text == "done"
        assert await stopping is True


async def test_an_answer_without_end_does_not_hold_the_stop(caplog: pytest.LogCaptureFixture) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(0.01)

    async def stream(_: Request) -> StreamingResponse:
        return StreamingResponse(endless())

    place = Listener(Starlette(routes=[Route("/", stream)]), host="127.0.0.1", port=free_port())
    server = await Serving.start(place)
    async with client(place) as http, http.stream("GET", "/") as answer:
        assert answer.status_code == 200
        await server.stop(1.0)
    assert server.task.done()
    caplog.clear()
