"""While thousands are woken what is only told waits, and not for long."""

import pytest

from libs.common.testing.clock import FakeClock
from services.control.usecases.rush import AT_MOST_S, LASTS_S, RUSH, Rush


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def test_few_wake_ups_are_no_rush(clock: FakeClock) -> None:
    rush = Rush(clock)
    rush.note(RUSH - 1)
    assert not rush.is_on


async def test_it_lasts_while_answers_come_and_a_little_longer(clock: FakeClock) -> None:
    rush = Rush(clock)
    rush.note(RUSH)
    for _ in range(3):
        await clock.advance(LASTS_S - 0.5)
        assert rush.is_on
        rush.note(1)
    await clock.advance(LASTS_S)
    assert not rush.is_on
    rush.note(1)
    assert not rush.is_on


async def test_what_waits_gets_its_turn_however_many_are_woken(clock: FakeClock) -> None:
    rush, waited_s, longest_s = Rush(clock), 0.0, 0.0
    free_s = 0.0
    for _ in range(300):
        rush.note(1000)
        waited_s = waited_s + 0.5 if rush.is_on else 0.0
        longest_s = max(longest_s, waited_s)
        free_s += 0.0 if rush.is_on else 0.5
        await clock.advance(0.5)
    assert longest_s <= AT_MOST_S
    assert free_s >= 50.0
