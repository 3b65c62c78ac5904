"""A soak's plan can be repeated, does everything, and keeps to its time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.suite.soak.plan import AWAY_S, FIRST_AT_S, KILLS, LEAST_GAP_S, Deed, draw


@given(st.integers(min_value=0, max_value=10_000), st.floats(min_value=10, max_value=3600))
def test_everything_is_done_in_order_and_in_time(seed: int, length_s: float) -> None:
    steps = draw(seed, length_s)
    assert set(Deed) == {step.deed for step in steps}
    assert steps == sorted(steps, key=lambda step: step.at_s)
    assert FIRST_AT_S <= steps[0].at_s
    assert steps[-1].at_s <= max(length_s, FIRST_AT_S + LEAST_GAP_S * len(steps))
    for step in steps:
        least, most = AWAY_S[step.deed]
        assert least <= step.away_s <= most


def test_seed_decides() -> None:
    assert draw(7, 300) == draw(7, 300)
    assert draw(7, 300) != draw(8, 300)


def test_longer_run_does_more() -> None:
    assert len(draw(7, 600)) > len(draw(7, 120))


@pytest.mark.parametrize("seed", range(5))
def test_short_run_kills_one_of_each_kind(seed: int) -> None:
    assert sorted(step.deed for step in draw(seed, 12, KILLS)) == sorted(KILLS)
