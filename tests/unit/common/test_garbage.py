"""Collections that set aside what they found alive."""

import gc
from collections.abc import Iterator

import pytest

from libs.common.garbage import (
    ASIDE_ANYWAY,
    LONG_S,
    OLDEST,
    UNDISTURBED_AT_MOST_S,
    UNDISTURBED_IN_ALL_S,
    WHOLE_EVERY_S,
    YOUNG,
    GarbageKeeper,
    Undisturbed,
)
from libs.common.testing.clock import FakeClock


class Times:
    """Both clocks of a keeper."""

    def __init__(self) -> None:
        self.monotonic = self.processor = 0.0


@pytest.fixture
def times() -> Times:
    return Times()


@pytest.fixture
def keeper(times: Times) -> Iterator[GarbageKeeper]:
    keeper = GarbageKeeper(lambda: times.monotonic, lambda: times.processor)
    keeper.begin()
    gc.callbacks.remove(keeper.heard)  # the test says when a collection was
    yield keeper
    gc.callbacks.append(keeper.heard)
    keeper.end()


def collected(keeper: GarbageKeeper, times: Times, took_s: float, generation: int = OLDEST) -> None:
    keeper.heard("start", {"generation": generation})
    times.processor += took_s
    keeper.heard("stop", {"generation": generation})


def test_what_survives_a_long_collection_is_set_aside(keeper: GarbageKeeper, times: Times) -> None:
    collected(keeper, times, LONG_S * 2, generation=1)
    collected(keeper, times, LONG_S / 2)
    assert gc.get_freeze_count() == 0
    collected(keeper, times, LONG_S * 2)
    assert gc.get_freeze_count() > 1000


def test_once_a_day_all_is_looked_at_again(keeper: GarbageKeeper, times: Times) -> None:
    collected(keeper, times, LONG_S * 2)
    times.monotonic = WHOLE_EVERY_S - 1
    collected(keeper, times, 0.0)
    assert gc.get_freeze_count() > 0
    times.monotonic = WHOLE_EVERY_S
    collected(keeper, times, 0.0)
    assert gc.get_freeze_count() == 0
    collected(keeper, times, LONG_S * 2)
    assert gc.get_freeze_count() > 0


def test_all_is_looked_at_again_when_twice_as_much_is_set_aside(keeper: GarbageKeeper, times: Times) -> None:
    collected(keeper, times, LONG_S * 2)
    before = gc.get_freeze_count()
    held: list[list[object]] = [[] for _ in range(ASIDE_ANYWAY + before + 1)]
    collected(keeper, times, LONG_S * 2)
    assert gc.get_freeze_count() == 0
    collected(keeper, times, LONG_S * 2)
    assert gc.get_freeze_count() > len(held)
    collected(keeper, times, LONG_S * 2)
    assert gc.get_freeze_count() > len(held)


def test_the_interpreter_tells_it_and_gets_its_own_ways_back() -> None:
    before = gc.get_threshold()
    keeper = GarbageKeeper(processor=iter(range(1000)).__next__)
    keeper.begin()
    assert gc.get_threshold()[0] == YOUNG
    gc.collect()
    assert gc.get_freeze_count() > 0  # by that clock it took a second
    keeper.end()
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)
    assert keeper.heard not in gc.callbacks


@pytest.fixture
def undisturbed(clock: FakeClock) -> Iterator[Undisturbed]:
    yield Undisturbed(clock)
    gc.enable()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def test_while_thousands_wait_nothing_is_collected_and_then_a_quarter_as_long_it_is(
    undisturbed: Undisturbed, clock: FakeClock
) -> None:
    undisturbed.for_s(UNDISTURBED_AT_MOST_S * 10)
    assert not gc.isenabled()
    await clock.advance(UNDISTURBED_AT_MOST_S)
    assert gc.isenabled()
    undisturbed.for_s(5.0)
    assert gc.isenabled()  # whoever asks without end cannot have it without end
    await clock.advance(UNDISTURBED_AT_MOST_S / 4)
    undisturbed.for_s(5.0)
    assert not gc.isenabled()
    await clock.advance(5.0)
    assert gc.isenabled()


async def test_whoever_asks_while_it_lasts_has_all_of_his_time(undisturbed: Undisturbed, clock: FakeClock) -> None:
    undisturbed.for_s(10.0)
    await clock.advance(8.0)
    undisturbed.for_s(10.0)
    undisturbed.for_s(1.0)
    await clock.advance(9.0)
    assert not gc.isenabled()
    await clock.advance(1.0)
    assert gc.isenabled()


async def test_nobody_has_it_without_end(undisturbed: Undisturbed, clock: FakeClock) -> None:
    without, longest = 0.0, 0.0
    for _ in range(600):
        undisturbed.for_s(UNDISTURBED_AT_MOST_S)
        without = 0.0 if gc.isenabled() else without + 0.5
        longest = max(longest, without)
        await clock.advance(0.5)
    assert UNDISTURBED_AT_MOST_S < longest <= UNDISTURBED_IN_ALL_S
