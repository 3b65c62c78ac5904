"""Probes: liveness is about progress only, readiness says what is missing, and both are logged once per change."""

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from libs.common.errors import Bilingual, PlatformError, Unavailable
from libs.common.health import DISK_FULL_BYTES, Check, Health, Worker, disk_check, flag_check, group_check, wait_beating
from libs.common.testing.clock import FakeClock, settle


async def idle(_: object) -> None:
    """A worker's body; never run here."""


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def health(clock: FakeClock) -> Health:
    return Health(clock)


def messages(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


def failing(error: Exception) -> Callable[[], Awaitable[None]]:
    async def probe() -> None:
        raise error

    return probe


async def holds() -> None:
    """A condition that holds."""


# -- liveness -------------------------------------------------------------------------------------


async def test_a_worker_is_stuck_when_it_has_been_silent_for_longer_than_it_may(
    clock: FakeClock, health: Health
) -> None:
    patient = health.beat(Worker("patient", idle, max_silence_s=100))
    health.beat(Worker("quick", idle, max_silence_s=10))
    assert health.stuck() == []
    await clock.advance(10)
    assert health.stuck() == []
    await clock.advance(1)
    assert health.stuck() == ["quick"]
    await clock.advance(90)
    patient()
    assert health.stuck() == ["quick"]


async def test_setting_the_wall_clock_makes_nobody_stuck(clock: FakeClock, health: Health) -> None:
    health.beat(Worker("w", idle, max_silence_s=10))
    clock.set_wall(clock.now().replace(year=2030))
    assert health.stuck() == []


async def test_who_has_not_begun_is_not_stuck(clock: FakeClock, health: Health) -> None:
    """While a database is away no worker runs; restarting the process would not bring it back."""
    await clock.advance(10_000)
    assert health.stuck() == []


async def test_while_draining_nobody_is_stuck(clock: FakeClock, health: Health) -> None:
    health.beat(Worker("w", idle, max_silence_s=1))
    health.drain()
    await clock.advance(100)
    assert health.stuck() == []


async def test_stuck_workers_are_logged_once_and_so_is_their_recovery(
    clock: FakeClock, health: Health, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    beat = health.beat(Worker("w", idle, max_silence_s=1))
    await clock.advance(2)
    for _ in range(3):
        health.stuck()
    beat()
    for _ in range(3):
        health.stuck()
    assert messages(caplog) == ["workers make no progress", "all workers make progress again"]
    assert vars(caplog.records[0])["workers"] == ["w"]


# -- readiness ------------------------------------------------------------------------------------


async def test_before_the_start_it_says_what_is_awaited(health: Health) -> None:
    health.checks = [Check("database", holds)]
    assert await health.not_ready() == {"process": Bilingual("starting", "启动中")}
    health.starting = Bilingual("waiting for bus: away", "等待 bus:不可用")
    assert (await health.not_ready())["process"].english == "waiting for bus: away"
    health.starting = None
    assert await health.not_ready() == {}


async def test_draining_comes_before_everything(health: Health) -> None:
    health.drain()
    assert await health.not_ready() == {"process": Bilingual("draining", "正在停止")}


async def test_every_condition_that_does_not_hold_is_named_in_both_languages(health: Health) -> None:
    flags = {"joined": False}
    health.starting = None
    health.checks = [
        Check("bus", holds),
        Check("database", failing(Unavailable("away", message_zh="不可用"))),
        flag_check("flag", lambda: flags["joined"], "not joined", "未加入"),
        group_check("group", lambda: False, "alarm.rules"),
        Check("bug", failing(KeyError("x"))),
        Check("other", failing(PlatformError("no", message_zh="否"))),
    ]
    reasons = await health.not_ready()
    assert list(reasons) == ["database", "flag", "group", "bug", "other"]
    assert reasons["database"] == Bilingual("away", "不可用")
    assert reasons["flag"] == Bilingual("not joined", "未加入")
    assert "alarm.rules" in reasons["group"].english
    assert "KeyError" in reasons["bug"].english
    assert all(reason.chinese for reason in reasons.values())
    flags["joined"] = True
    assert "flag" not in await health.not_ready()


async def test_a_check_that_does_not_answer_counts_as_failed_and_the_others_are_asked_beside_it(
    health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("libs.common.health.PROBE_TIMEOUT_S", 0.05)
    asked: list[str] = []

    async def hangs() -> None:
        asked.append("hangs")
        await asyncio.Event().wait()

    async def answers() -> None:
        asked.append("answers")

    health.starting = None
    health.checks = [Check("one", hangs), Check("two", hangs), Check("three", answers)]
    asking = asyncio.create_task(health.not_ready())
    await settle()
    assert asked == ["hangs", "hangs", "answers"]
    assert {name: reason.english for name, reason in (await asking).items()} == {
        "one": "no answer within 0.05 s",
        "two": "no answer within 0.05 s",
    }


async def test_losing_and_finding_readiness_is_logged_once_each(
    health: Health, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    there = {"bus": True, "database": True}
    health.starting = None
    health.checks = [flag_check(name, lambda name=name: there[name], f"{name} away", "不可用") for name in there]  # type: ignore[misc]  # mypy does not infer a lambda's default
    for change in ({}, {"bus": False}, {}, {"database": False}, {}, {"bus": True, "database": True}, {}):
        there.update(change)
        await health.not_ready()
        await health.not_ready()
    assert messages(caplog) == ["not ready", "not ready", "ready"]
    assert vars(caplog.records[0])["reasons"] == {"bus": "bus away"}


async def test_the_drain_ends_live_streams(health: Health) -> None:
    stream = asyncio.create_task(asyncio.Event().wait())
    health.streams.add(stream)
    await settle()
    health.drain()
    await settle()
    assert stream.cancelled()


# -- waiting as a worker that is alive --------------------------------------------------------------


async def test_waiting_beats_and_returns_when_it_is_over() -> None:
    ready = asyncio.Event()
    beats: list[int] = []

    async def wait() -> None:
        await ready.wait()

    waiting = asyncio.create_task(wait_beating(wait, lambda: beats.append(1)))
    await settle()
    assert beats
    assert not waiting.done()
    ready.set()
    await waiting


async def test_what_is_waited_for_may_fail() -> None:
    with pytest.raises(Unavailable):
        await wait_beating(failing(Unavailable("away")), lambda: None)


async def test_a_cancelled_wait_gives_back_what_it_held() -> None:
    let_go: list[str] = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            let_go.append("given back")

    waiting = asyncio.create_task(wait_beating(wait, lambda: None))
    await settle()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert let_go == ["given back"]


async def test_a_full_disk_keeps_a_service_from_being_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    health = Health(FakeClock())
    health.starting = None
    health.checks = (disk_check(tmp_path),)
    assert await health.not_ready() == {}
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=DISK_FULL_BYTES - 1))
    (reason,) = (await health.not_ready()).values()
    assert reason.english == f"disk full: 31 MB left at {tmp_path}; free some space"
    assert reason.chinese == f"磁盘已满:{tmp_path} 仅剩 31 MB,请清理空间"


async def test_a_folder_that_is_not_there_needs_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: pytest.fail("looked at"))
    await disk_check(tmp_path / "nothing").probe()
