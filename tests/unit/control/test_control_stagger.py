"""Delays within a window: bounded, the same for everybody, spread."""

from datetime import datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import InvalidInput
from services.control.domain.plans import InvalidPlan, Window, check_stagger
from services.control.domain.stagger import Offsets, Spread, Stagger, offsets
from services.control.store.occurrences import Key, key_of

NIGHTS = [datetime.fromisoformat("2026-03-01T23:00:00") + timedelta(days=day) for day in range(30)]
LOADS = [f"aau-{number:04d}" for number in range(1000)]


def delays(found: Offsets, window: int = 0) -> list[int]:
    return [(load + found.of_windows[window]) % found.modulus for load in found.of_loads]


def test_without_it_all_begin_together() -> None:
    assert offsets("p", LOADS, NIGHTS, Stagger()) == Offsets([], [0] * 30, 1)


def test_even_is_one_after_the_other_over_the_whole_time() -> None:
    found = delays(offsets("p", LOADS, NIGHTS, Stagger(Spread.EVEN, 1999)))
    assert found == list(range(0, 2000, 2))
    assert delays(offsets("p", LOADS[:2], NIGHTS, Stagger(Spread.EVEN, 99))) == [0, 50]


def test_random_is_spread_and_another_every_night() -> None:
    found = offsets("p", LOADS, NIGHTS, Stagger(Spread.RANDOM, 599))
    for window in (0, 17):
        by_minute = [sum(delay // 60 == minute for delay in delays(found, window)) for minute in range(10)]
        assert all(60 <= count <= 140 for count in by_minute), by_minute
    assert len({delays(found, window)[0] for window in range(30)}) > 20
    assert found != offsets("another plan", LOADS, NIGHTS, Stagger(Spread.RANDOM, 599))


@given(st.sampled_from([Spread.EVEN, Spread.RANDOM]), st.integers(1, 7200), st.integers(1, 50), st.integers(1, 5))
def test_it_is_bounded_and_the_same_for_everybody(spread: Spread, within_s: int, loads: int, nights: int) -> None:
    stagger = Stagger(spread, within_s)
    found = offsets("p", LOADS[:loads], NIGHTS[:nights], stagger)
    assert found == offsets("p", LOADS[:loads], NIGHTS[:nights], stagger)
    for window in range(nights):
        assert all(0 <= delay <= within_s for delay in delays(found, window))


@pytest.mark.parametrize("stagger", [
    Stagger(Spread.NONE, 5), Stagger(Spread.EVEN, 0), Stagger(Spread.RANDOM, -1), Stagger(Spread.EVEN, 3301),
])  # fmt: skip
def test_what_makes_no_sense_or_leaves_nothing_is_refused(stagger: Stagger) -> None:
    with pytest.raises(InvalidPlan) as refused:
        check_stagger(stagger, [Window(time(1), time(6)), Window(time(23), time(0))], min_off_s=300)
    assert refused.value.facts["field"] == "stagger"


def test_the_longest_delay_that_leaves_enough_is_taken() -> None:
    check_stagger(Stagger(Spread.EVEN, 3300), [Window(time(23), time(0))], min_off_s=300)


@given(st.integers(1, 2**31 - 1), st.datetimes().map(lambda at: at.replace(microsecond=0)), st.text(min_size=1))
def test_an_id_is_a_key_in_words(number: int, wall: datetime, load_id: str) -> None:
    if wall.year < 1000:
        return  # strftime does not pad years
    assert key_of(f"{number}.{wall:%Y%m%dT%H%M%S}.{load_id}") == Key(number, wall, load_id)


@pytest.mark.parametrize(
    "text", ["", "1", "1.2.3", "x.20260301T230000.a", "0.20260301T230000.a", f"{2**31}.20260301T230000.a"]
)
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="no id"):
        key_of(text)
