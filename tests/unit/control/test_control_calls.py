"""The watchdog's calls: a door that never finishes its answer, or refuses, keeps no load asleep."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from libs.common.errors import Unavailable
from libs.common.testing.clock import FakeClock
from libs.common.tokens import KeyRing
from services.control.domain.watch import Judgement, Verdict
from services.control.watchdog import calls
from services.control.watchdog.calls import Calls
from services.control.watchdog.settings import WatchdogSettings, call_body

Answer = Callable[[asyncio.StreamWriter, str, bytes], Awaitable[None]]
LOADS = {"loads": [{"load_id": "aau-1", "device_id": "brk-1", "site_id": "s", "breaker_state": 0, "age_s": 1.0}]}
PROBLEM = {"detail": "line line-1 is held by ingest-1", "code": "not_the_holder"}


@asynccontextmanager
async def door(answer: Answer) -> AsyncIterator[str]:
    """Serve at an address of its own; each connection is answered once."""
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            await answer(writer, head.split(b" ")[1].decode(), head)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the caller has given up
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def says(**answers: tuple[str, Mapping[str, Any]]) -> Answer:
    """Return what a door says by the last part of the path."""

    async def answer(writer: asyncio.StreamWriter, path: str, head: bytes) -> None:
        status, body = answers[path.rpartition("/")[2]]
        content = orjson.dumps(body)
        writer.write(f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n".encode())
        writer.write(content)
        await writer.drain()

    return answer


async def drips(writer: asyncio.StreamWriter, path: str, head: bytes) -> None:
    """A byte now and then, and never the last."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


@pytest.fixture
def keys(tmp_path: Path) -> KeyRing:
    KeyRing.create(tmp_path / "keys")
    return KeyRing.open(tmp_path / "keys", FakeClock())


def overdue() -> Judgement:
    return Judgement(load_id="aau-1", device_id="brk-1", site_id="s", channel=None, verdict=Verdict.WAKE)


async def test_door_that_never_finishes_its_answer_is_given_up_and_the_others_are_heard(
    keys: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "LOOK_TIMEOUT_S", 0.5)
    monkeypatch.setattr(calls, "ON_TIMEOUT_S", 0.5)
    good = says(loads=("200 OK", LOADS), on=("200 OK", {"verified": True}))
    async with door(drips) as bad, door(good) as other, Calls([bad, other], None, keys) as reach, asyncio.timeout(60):
        look = await reach.look()
        assert set(look.seen) == {"aau-1"}
        [problem] = look.problems
        assert problem.startswith(bad)
        assert "no answer within 0.5 s" in problem
        assert await reach.wake(overdue(), "r-1", "watchdog", None) == '{"verified":true}'


async def test_every_door_is_asked_until_one_takes_it(keys: KeyRing) -> None:
    refuses = says(on=("409 Conflict", PROBLEM))
    async with door(refuses) as one, door(refuses) as two, Calls([one, two], None, keys) as reach:
        with pytest.raises(Unavailable) as refused:
            await reach.wake(overdue(), "r-1", "watchdog", None)
    assert refused.value.message.count("is held by ingest-1") == 2
    assert one in refused.value.message
    assert two in refused.value.message


async def test_control_without_an_address_or_with_a_refusal_is_not_available(keys: KeyRing) -> None:
    async with Calls([], None, keys) as reach:
        with pytest.raises(Unavailable, match="WATTRING_SERVICE_URLS"):
            await reach.tell_control([])
        with pytest.raises(Unavailable, match="no direct door"):
            await reach.wake(overdue(), "r-1", "watchdog", None)
    refuses = says(findings=("422 x", {"detail": "odd"}), **{"wake-ups": ("202 Accepted", {})})
    async with door(refuses) as control, Calls([], control, keys) as reach:
        with pytest.raises(Unavailable, match="control does not take it: odd"):
            await reach.tell_control([])
        await reach.ask_control(["aau-1"], "r-2", "watchdog")


async def test_a_person_is_called_in_the_words_of_their_robot(keys: KeyRing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "WEBHOOK_TIMEOUT_S", 0.5)
    body = '{"msgtype": "text", "text": {"content": {text}}}'
    posted: list[bytes] = []

    async def takes(writer: asyncio.StreamWriter, path: str, head: bytes) -> None:
        posted.append(head)
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()

    async with door(takes) as robot:
        async with Calls([], None, keys, call_url=SecretStr(f"{robot}/send?key=k"), body=body) as reach:
            await reach.call_person('a "b" 负载')
        assert posted[0].startswith(b"POST /send?key=k HTTP/1.1")
    assert orjson.loads(call_body(body, 'a "b" 负载')) == {"msgtype": "text", "text": {"content": 'a "b" 负载'}}
    async with door(drips) as robot:
        async with Calls([], None, keys, call_url=SecretStr(f"{robot}/send?key=secret"), body=body) as reach:
            with pytest.raises(Unavailable) as refused:
                await reach.call_person("x")
    assert "secret" not in refused.value.message
    async with Calls([], None, keys) as reach:
        with pytest.raises(Unavailable, match="no webhook"):
            await reach.call_person("x")


@pytest.mark.parametrize("body", ['{"text": "fixed"}', "{text", "text={text}"])
def test_a_body_that_would_not_be_json_with_the_text_is_refused(body: str) -> None:
    with pytest.raises(ValueError, match="call_body"):
        WatchdogSettings(call_body=body)
