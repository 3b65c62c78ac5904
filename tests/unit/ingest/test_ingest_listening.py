"""Looks that wait for what a device says, and looks into the history that go together."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from libs.common.errors import Unavailable
from libs.common.testing.clock import FakeClock, settle
from services.ingest.drivers import pushed
from services.ingest.drivers.pushed import PushBoard
from services.ingest.store import commands
from services.ingest.store.commands import PgLatest
from services.ingest.worker.telling import HEARD_WITHIN_S, TellingRunner

AT = datetime(2026, 3, 1, tzinfo=UTC)


class History:
    """Answers when it is let go, and notes what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.go = asyncio.Event()
        self.fails = False

    async def latest(self, *, sites: None, devices: Sequence[str], after: None, limit: int) -> list[Any]:
        assert limit == len(devices)
        self.asked.append(list(devices))
        await self.go.wait()
        if self.fails:
            raise Unavailable("away")
        known = [one for one in devices if not one.startswith("unknown")]
        return [SimpleNamespace(device_id=one, points={"breaker_state": 1.0}, received_at=AT) for one in known]


@pytest.fixture
def history() -> History:
    return History()


@pytest.fixture
def latest(history: History) -> PgLatest:
    return PgLatest(cast(Any, history))


FOUND = ({"breaker_state": 1.0}, AT)


async def test_whoever_asks_meanwhile_is_asked_for_together(history: History, latest: PgLatest) -> None:
    asks = [asyncio.create_task(latest.latest("a"))]
    await settle()
    asks += [asyncio.create_task(latest.latest(name)) for name in ("b", "c", "b", "unknown")]
    await settle()
    assert history.asked == [["a"]]
    history.go.set()
    assert await asyncio.gather(*asks) == [FOUND, FOUND, FOUND, FOUND, None]
    assert history.asked == [["a"], ["b", "c", "unknown"]]
    assert await latest.latest("a") == FOUND  # asked anew: it may have reported since
    assert history.asked[2:] == [["a"]]


async def test_so_many_at_once_and_no_more(history: History, latest: PgLatest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "LOOKED_UP_TOGETHER", 2)
    history.go.set()
    assert await asyncio.gather(*(latest.latest(name) for name in "abcde")) == [FOUND] * 5
    assert history.asked == [["a", "b"], ["c", "d"], ["e"]]


async def test_a_history_that_is_away_or_slow_tells_nothing(
    history: History, latest: PgLatest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "LOOK_TIMEOUT_S", 0.01)
    assert list(await asyncio.gather(latest.latest("a"), latest.latest("b"))) == [None, None]
    history.fails = True
    history.go.set()
    assert await latest.latest("a") is None


async def test_who_has_gone_keeps_nobody_else_from_an_answer(history: History, latest: PgLatest) -> None:
    gone = asyncio.create_task(latest.latest("a"))
    await settle()
    gone.cancel()
    await settle()
    assert gone.cancelled()
    stays = asyncio.create_task(latest.latest("b"))
    left = asyncio.create_task(latest.latest("c"))
    await settle()
    left.cancel()
    history.go.set()
    assert await stays == FOUND
    assert history.asked[0] == ["a"]
    assert await latest.latest("a") == FOUND


async def test_a_device_is_heard_once_it_has_spoken() -> None:
    clock = FakeClock()
    board = PushBoard(clock)
    looked_at = clock.monotonic()
    heard, other = board.listen("a", looked_at), board.listen("b", looked_at)
    await clock.advance(1.0)
    assert not heard.is_set()
    board.note_values("a", {"breaker_state": 1}, clock.now())
    assert (heard.is_set(), other.is_set()) == (True, False)
    assert board.listen("a", looked_at).is_set()
    assert not board.listen("a", clock.monotonic()).is_set()


async def test_so_many_devices_are_listened_for_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushed, "MAX_DEVICES", 2)
    board = PushBoard(FakeClock())
    events = [board.listen(name, 0.0) for name in "abc"]
    for name in "abc":
        board.note_values(name, {"breaker_state": 1}, AT)
    assert [event.is_set() for event in events] == [False, True, True]  # the first only looks again in its time


class Listening:
    """A line that hears of devices."""

    def __init__(self, clock: FakeClock) -> None:
        self.board = PushBoard(clock)

    def listen(self, device_id: str, since: float) -> asyncio.Event:
        return self.board.listen(device_id, since)


@pytest.mark.parametrize("speaks_after_s", [0.2, 2.0, None])
async def test_the_next_look_comes_when_the_device_has_spoken(speaks_after_s: float | None) -> None:
    clock = FakeClock()
    line = Listening(clock)
    runner = cast(Any, SimpleNamespace(_driver=line, _clock=clock))
    began = clock.monotonic()

    async def wait() -> float:
        await TellingRunner.pause(runner, "a", 1.0, since=began)
        return clock.monotonic() - began

    waiting = asyncio.create_task(wait())
    await clock.advance(speaks_after_s or 0.0)
    if speaks_after_s is not None:
        line.board.note_values("a", {"breaker_state": 1}, clock.now())
    await clock.advance(60.0)
    assert await waiting == pytest.approx(speaks_after_s or HEARD_WITHIN_S)


async def test_a_line_that_does_not_hear_of_devices_is_looked_at_in_time() -> None:
    clock = FakeClock()
    runner = cast(Any, SimpleNamespace(_driver=object(), _clock=clock))
    waiting = asyncio.create_task(TellingRunner.pause(runner, "a", 1.0, since=0.0))
    await clock.advance(0.9)
    assert not waiting.done()
    await clock.advance(0.1)
    await waiting
