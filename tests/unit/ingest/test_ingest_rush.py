"""When so many orders are under way that everything else lets them by."""

from contextlib import ExitStack

from libs.common.testing.clock import FakeClock
from services.ingest.worker.rush import CALM_PER_S, RUSH, Rush


async def test_many_at_their_lines_are_a_rush_for_as_long_as_they_are_there() -> None:
    clock = FakeClock()
    rush = Rush(clock)
    with ExitStack() as under_way:
        for _ in range(RUSH):
            assert not rush.is_on
            under_way.enter_context(rush.order())
        await clock.advance(60.0)
        assert rush.is_on
    assert not rush.is_on


async def test_many_that_come_and_go_are_a_rush_until_some_seconds_after_the_last() -> None:
    clock = FakeClock()
    rush = Rush(clock)
    for _ in range(10):
        for _ in range(CALM_PER_S):
            with rush.order():
                pass
        await clock.advance(0.1)
    assert rush.is_on
    await clock.advance(RUSH / CALM_PER_S + 0.1)
    assert not rush.is_on


async def test_a_few_a_second_are_none_however_long_they_go_on() -> None:
    clock = FakeClock()
    rush = Rush(clock)
    for _ in range(20):
        for _ in range(CALM_PER_S):
            with rush.order():
                assert not rush.is_on
        await clock.advance(1.0)
