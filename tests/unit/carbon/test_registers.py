"""Registers to cumulative energy: every deviation has its defined answer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.carbon.domain.registers import FindingKind, Series, _Corrector, accumulate

HOUR = 3600.0


def series(*shown: float, step_s: float = HOUR, start: float = 0.0, **facts: object) -> Series:
    at = start + step_s * np.arange(len(shown))
    return Series(at=at, shown_kwh=np.array(shown), **facts)  # type: ignore[arg-type]


def test_plain_registers_are_the_difference_times_the_ratio() -> None:
    found = accumulate([series(100.0, 101.5, 101.5, 104.0, ratio=40.0)])
    assert found.energy_kwh.tolist() == [0.0, 60.0, 60.0, 160.0]
    assert not found.findings


def test_a_wrapped_register_goes_on_counting() -> None:
    found = accumulate([series(9998.0, 9999.5, 1.0, 3.0, modulus_kwh=10_000.0, rated_kw=10.0)])
    assert found.energy_kwh.tolist() == [0.0, 1.5, 3.0, 5.0]
    assert [one.kind for one in found.findings] == [FindingKind.ROLLOVER]


def test_one_count_backwards_is_a_glitch_and_is_dropped() -> None:
    found = accumulate([series(500.0, 500.01, 500.0, 500.5, rated_kw=10.0)])
    assert found.at.tolist() == [0.0, HOUR, 3 * HOUR]
    assert found.energy_kwh.tolist() == pytest.approx([0.0, 0.01, 0.5])
    assert [one.kind for one in found.findings] == [FindingKind.GLITCH]


def test_a_reset_counts_what_is_shown_since_and_says_that_it_is_a_lower_bound() -> None:
    found = accumulate([series(500.0, 503.0, 2.0, 4.0, rated_kw=10.0)])
    assert found.energy_kwh.tolist() == [0.0, 3.0, 5.0, 7.0]
    assert found.lower_bound.tolist() == [False, False, True, False]


def test_a_reset_without_rated_power_needs_to_be_on_record() -> None:
    at_reset = 1.5 * HOUR
    recorded = accumulate([series(500.0, 503.0, 2.0, 4.0, resets=(at_reset,))])
    assert recorded.energy_kwh.tolist() == [0.0, 3.0, 5.0, 7.0]
    unrecorded = accumulate([series(500.0, 503.0, 2.0, 4.0)])
    assert unrecorded.at.tolist() == [0.0, HOUR]
    assert {one.kind for one in unrecorded.findings} == {FindingKind.UNEXPLAINED_DECREASE}


def test_an_impossible_spike_is_set_aside_and_the_next_reading_judged_against_the_old_base() -> None:
    found = accumulate([series(10.0, 11.0, 9_999.0, 13.0, rated_kw=2.0)])
    assert found.at.tolist() == [0.0, HOUR, 3 * HOUR]
    assert found.energy_kwh.tolist() == [0.0, 1.0, 3.0]
    assert [one.kind for one in found.findings] == [FindingKind.SPIKE]


def test_readings_that_agree_with_each_other_overrule_the_base_and_leave_the_gap_unknown() -> None:
    found = accumulate([series(10.0, 11.0, 5000.0, 5001.0, 5002.0, 5003.0, rated_kw=2.0)])
    assert found.run.tolist() == [0, 0, 1, 1, 1, 1]
    assert found.energy_kwh.tolist() == [0.0, 1.0, 1.0, 2.0, 3.0, 4.0]
    assert found.findings[-1].kind is FindingKind.IMPOSSIBLE_JUMP


def test_a_replacement_with_both_registers_is_bridged() -> None:
    old = series(100.0, 101.0, 101.4, ratio=10.0)  # the last one is the final register at the exchange
    new = series(5.0, 5.6, start=2 * HOUR, ratio=20.0)  # the first one is the initial register
    found = accumulate([old, new])
    assert found.energy_kwh.tolist() == pytest.approx([0.0, 10.0, 14.0, 26.0])
    assert set(found.run.tolist()) == {0}


def test_a_replacement_without_the_registers_leaves_the_gap_unknown() -> None:
    found = accumulate([series(100.0, 101.0), series(5.0, 5.6, start=5 * HOUR)])
    assert found.run.tolist() == [0, 0, 1, 1]


def test_no_reading_is_no_energy() -> None:
    assert accumulate([]).at.size == 0


@given(
    st.lists(st.floats(0.0, 8.0), min_size=1, max_size=40),
    st.floats(0.0, 1e6),
    st.sampled_from([1.0, 10.0, 40.0]),
)
def test_the_fast_path_and_the_careful_one_agree(steps: list[float], base: float, ratio: float) -> None:
    one = Series(
        at=np.linspace(0.0, HOUR * len(steps), len(steps) + 1),
        shown_kwh=base + np.concatenate([[0.0], np.cumsum(steps)]),
        ratio=ratio,
        rated_kw=10.0 * ratio,
    )
    fast, careful = accumulate([one]), _Corrector(one).run()
    np.testing.assert_allclose(fast.energy_kwh, careful.energy_kwh, atol=1e-6)
    assert fast.findings == careful.findings == ()


@given(st.lists(st.floats(0.0, 1e5, allow_nan=False), min_size=2, max_size=60), st.booleans())
def test_whatever_a_meter_shows_energy_never_falls_within_a_run(shown: list[float], rated: bool) -> None:
    found = accumulate([series(*shown, rated_kw=50.0 if rated else None, modulus_kwh=1e5)])
    assert np.all(np.diff(found.at) > 0)
    for run in set(found.run.tolist()):
        assert np.all(np.diff(found.energy_kwh[found.run == run]) >= 0.0)
