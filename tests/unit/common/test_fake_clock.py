"""The clock that tests stand on keeps order, survives cancellation, and does not drift."""

import asyncio
from datetime import UTC, datetime, timedelta, timezone

import pytest

from libs.common.clock import Clock
from libs.common.testing.clock import FakeClock, settle

START = datetime(2026, 3, 1, 4, 0, tzinfo=UTC)


async def test_sleepers_wake_in_the_order_of_their_times_each_at_its_own() -> None:
    clock = FakeClock(START)
    woken: list[tuple[str, float, datetime]] = []

    async def sleeper(name: str, delay_s: float) -> None:
        await clock.sleep(delay_s)
        woken.append((name, clock.monotonic(), clock.now()))

    tasks = [asyncio.create_task(sleeper(*one)) for one in (("late", 3.0), ("early", 1.0), ("with early", 1.0))]
    await clock.advance(2.0)
    assert woken == [
        ("early", 1001.0, START + timedelta(seconds=1)),
        ("with early", 1001.0, START + timedelta(seconds=1)),
    ]
    await clock.advance(1.0)
    assert woken[-1] == ("late", 1003.0, START + timedelta(seconds=3))
    await asyncio.gather(*tasks)


async def test_what_a_woken_task_sleeps_for_counts_within_the_same_advance() -> None:
    clock = FakeClock(START)
    beats: list[float] = []

    async def ticker() -> None:
        while True:
            await clock.sleep(0.1)
            beats.append(clock.monotonic())

    task = asyncio.create_task(ticker())
    await clock.advance(1.0 + 1e-9)
    assert len(beats) == 10
    task.cancel()
    await settle()
    assert task.cancelled()


async def test_a_cancelled_sleeper_does_not_wake_and_holds_nobody() -> None:
    clock = FakeClock(START)
    cancelled = asyncio.create_task(clock.sleep(1.0))
    other = asyncio.create_task(clock.sleep(1.0))
    await settle()
    assert clock.sleeping == 2
    cancelled.cancel()
    await settle()
    assert clock.sleeping == 1
    await clock.advance(1.0)
    assert cancelled.cancelled()
    assert other.done()
    assert clock.sleeping == 0


async def test_setting_the_wall_clock_moves_neither_monotonic_time_nor_sleepers() -> None:
    clock = FakeClock(START)
    sleeper = asyncio.create_task(clock.sleep(10.0))
    await settle()
    clock.set_wall(START + timedelta(days=1))
    await settle()
    assert clock.now() == START + timedelta(days=1)
    assert clock.monotonic() == 1000.0
    assert not sleeper.done()
    clock.set_wall(START - timedelta(hours=1))
    await clock.advance(10.0)
    assert sleeper.done()
    assert clock.now() == START - timedelta(hours=1) + timedelta(seconds=10)


async def test_a_deadline_has_come_when_its_sleeper_wakes() -> None:
    """`while monotonic() < deadline: sleep(deadline - monotonic())` ends: no rounding leaves it a hair short."""
    clock = FakeClock(START)
    rounds = 0

    async def wait_until(deadline: float) -> None:
        nonlocal rounds
        while clock.monotonic() < deadline:
            rounds += 1
            await clock.sleep(deadline - clock.monotonic())

    for delay_s in (0.1, 0.7, 1 / 3, 0.123456789):
        rounds = 0
        deadline = clock.monotonic() + delay_s
        task = asyncio.create_task(wait_until(deadline))
        await clock.advance(1.0)
        assert task.done()
        assert rounds <= 2


async def test_many_small_steps_add_up() -> None:
    clock = FakeClock(START)
    for _ in range(1000):
        await clock.advance(1 / 3)
    assert abs((clock.now() - START).total_seconds() - 1000 / 3) < 2e-6


async def test_sleeping_for_nothing_gives_way_once() -> None:
    clock = FakeClock(START)
    await clock.sleep(0)
    await clock.sleep(-1.0)
    assert clock.monotonic() == 1000.0


async def test_impossible_uses_are_refused() -> None:
    clock = FakeClock(START)
    with pytest.raises(ValueError, match="backwards"):
        await clock.advance(-1.0)
    with pytest.raises(ValueError, match="time zone"):
        clock.set_wall(datetime(2026, 3, 1, 4, 0))  # noqa: DTZ001 - the point of the test
    with pytest.raises(ValueError, match="time zone"):
        FakeClock(datetime(2026, 3, 1))  # noqa: DTZ001 - the point of the test


def test_it_is_a_clock_and_tells_utc() -> None:
    clock: Clock = FakeClock(datetime(2026, 3, 1, 12, 0, tzinfo=timezone(timedelta(hours=8))))
    assert clock.now() == START
    assert clock.now().utcoffset() == timedelta(0)
