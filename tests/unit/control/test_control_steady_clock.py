"""Time for switching: a wall clock that is set neither delays a wake-up nor is believed for an OFF."""

import asyncio
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.testing.clock import FakeClock
from services.control.usecases.ports import JUMP_S, SteadyClock

HOUR = timedelta(hours=1)


async def test_it_follows_the_wall_clock() -> None:
    clock = FakeClock()
    steady = SteadyClock(clock)
    await clock.advance(100)
    assert steady.now() == clock.now()
    assert steady.problem() is None


@pytest.mark.parametrize("hours", [-1, 1])
async def test_no_wake_up_is_later_than_by_either_clock(hours: int) -> None:
    clock = FakeClock()
    steady = SteadyClock(clock)
    due = clock.now() + timedelta(seconds=600)
    clock.set_wall(clock.now() + hours * HOUR)
    await clock.advance(600)
    assert steady.now() >= due
    assert steady.problem() is not None


async def test_it_believes_the_wall_clock_again_once_nothing_depends_on_the_old_reckoning() -> None:
    clock = FakeClock()
    steady = SteadyClock(clock)
    restore_at = clock.now() + timedelta(seconds=600)
    clock.set_wall(clock.now() - HOUR)
    assert not steady.settle(restore_at, steady.now())
    await clock.advance(599)
    assert not steady.settle(restore_at, steady.now())
    done_until = steady.now()
    await clock.advance(1)
    assert not steady.settle(restore_at, done_until)
    assert steady.settle(restore_at, steady.now())
    assert steady.problem() is None
    assert steady.now() == clock.now()


async def test_with_nothing_off_it_believes_at_once() -> None:
    clock = FakeClock()
    steady = SteadyClock(clock)
    clock.set_wall(clock.now() - HOUR)
    assert steady.settle(None, steady.now())
    assert steady.now() == clock.now()


async def test_a_clock_put_ahead_is_believed_at_once() -> None:
    clock = FakeClock()
    steady = SteadyClock(clock)
    clock.set_wall(clock.now() + HOUR)
    assert steady.problem() is not None
    assert steady.settle(clock.now() + HOUR, steady.now())
    assert steady.problem() is None


async def test_small_corrections_are_taken_over() -> None:
    clock = FakeClock()
    steady = SteadyClock(clock)
    for _ in range(100):
        clock.set_wall(clock.now() - timedelta(seconds=JUMP_S * 0.9))
        assert steady.problem() is None
        assert steady.settle(None, steady.now())
        await clock.advance(10)
    assert steady.now() == clock.now()


@given(st.lists(st.tuples(st.floats(0, 3600), st.floats(-7200, 7200)), max_size=12))
def test_it_is_never_behind_the_wall_or_the_monotonic_clock(story: list[tuple[float, float]]) -> None:
    clock = FakeClock()
    steady = SteadyClock(clock)
    began, at = clock.now(), clock.monotonic()
    for advance_s, jump_s in story:
        asyncio.run(clock.advance(advance_s))
        clock.set_wall(clock.now() + timedelta(seconds=jump_s))
        assert steady.now() >= clock.now()
        assert steady.now() >= began + timedelta(seconds=clock.monotonic() - at) - timedelta(microseconds=50)
