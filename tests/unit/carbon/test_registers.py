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


def test_a_small_value_is_a_reset_unless_the_register_was_near_its_end() -> None:
    # Within ten hours 7,001 of a register of 10,000 could have been used, so a rollover would fit as well.
    found = accumulate([series(3000.0, 1.0, 2.0, step_s=10 * HOUR, modulus_kwh=10_000.0, rated_kw=700.0)])
    assert [one.kind for one in found.findings] == [FindingKind.RESET]
    assert found.energy_kwh.tolist() == [0.0, 1.0, 2.0]
    near = accumulate([series(8000.0, 1.0, 2.0, step_s=10 * HOUR, modulus_kwh=10_000.0, rated_kw=700.0)])
    assert [one.kind for one in near.findings] == [FindingKind.ROLLOVER]
    assert near.energy_kwh.tolist() == [0.0, 2001.0, 2002.0]


def test_more_than_one_wrap_could_hide_in_a_long_gap_and_then_nothing_is_known() -> None:
    found = accumulate([series(9000.0, 1.0, 2.0, 3.0, 4.0, step_s=20 * HOUR, modulus_kwh=10_000.0, rated_kw=700.0)])
    assert {one.kind for one in found.findings} == {FindingKind.UNEXPLAINED_DECREASE}
    assert found.run.tolist() == [0, 1, 1, 1, 1]
    assert found.energy_kwh.tolist() == [0.0, 0.0, 1.0, 2.0, 3.0]


def test_what_a_register_cannot_show_is_dropped() -> None:
    found = accumulate([series(-4.0, 1.0, 10_000.0, 2.0, modulus_kwh=10_000.0)])
    assert found.at.tolist() == [HOUR, 3 * HOUR]
    assert found.energy_kwh.tolist() == [0.0, 1.0]
    assert [one.kind for one in found.findings] == [FindingKind.OUT_OF_RANGE] * 2


courses = st.lists(
    st.tuples(
        st.sampled_from([60.0, 900.0, 7200.0]),
        st.sampled_from(["plain"] * 12 + ["back", "zero", "jump"]),
        st.integers(0, 300),
    ),
    min_size=1,
    max_size=60,
)


def course_of(rows: list[tuple[float, str, int]], start: float) -> tuple[np.ndarray, np.ndarray]:
    shown, found = start, [start]
    for _, kind, counts in rows:
        if kind == "plain":
            shown = round((shown + counts / 100.0) % 1000.0, 2)
        elif kind == "zero":
            shown = counts / 1000.0
        told = max(shown - 0.01, 0.0) if kind == "back" else (shown + 400.0) % 1000.0 if kind == "jump" else shown
        found.append(round(told, 2))
    return np.cumsum([0.0, *(seconds for seconds, _, _ in rows)]), np.array(found)


def one_by_one(one: Series) -> list[tuple[float, float, int, bool]]:
    """Walk the registers without taking any stretch at once."""
    walker = _Corrector(one)
    walker._accept(0, 0.0)
    for i in range(1, one.at.size):
        walker._judge(i)
    count = walker._count
    rows = zip(walker._kept[:count], walker._energy[:count], walker._run[:count], walker._lower[:count], strict=True)
    return [(float(one.at[i]), round(float(energy), 6), int(run), bool(lower)) for i, energy, run, lower in rows]


@given(courses, st.sampled_from([0.0, 500.0, 995.0]), st.sampled_from([None, 20.0, 4000.0]))
def test_taking_plain_stretches_at_once_changes_nothing(
    rows: list[tuple[float, str, int]], start: float, rated_kw: float | None
) -> None:
    at, shown = course_of(rows, start)
    one = Series(at=at, shown_kwh=shown, ratio=3.0, modulus_kwh=1000.0, rated_kw=rated_kw)
    found = _Corrector(one).run()
    whole = [
        (float(time), round(float(energy), 6), int(run), bool(lower))
        for time, energy, run, lower in zip(found.at, found.energy_kwh, found.run, found.lower_bound, strict=True)
    ]
    assert whole == one_by_one(one)


@given(courses, st.sampled_from([0.0, 500.0, 995.0]), st.sampled_from([None, 20.0, 4000.0]), st.data())
def test_whatever_ends_at_an_accepted_register_was_judged_for_good(
    rows: list[tuple[float, str, int]], start: float, rated_kw: float | None, data: st.DataObject
) -> None:
    """Booking reads no further than to a register that counted before: what follows must not change that."""
    at, shown = course_of(rows, start)
    whole = accumulate([Series(at=at, shown_kwh=shown, modulus_kwh=1000.0, rated_kw=rated_kw)])
    end = data.draw(st.integers(1, at.size))
    part = accumulate([Series(at=at[:end], shown_kwh=shown[:end], modulus_kwh=1000.0, rated_kw=rated_kw)])
    if part.at[-1] != at[end - 1]:
        return
    size = part.at.size
    assert whole.at[:size].tolist() == part.at.tolist()
    np.testing.assert_allclose(whole.energy_kwh[:size], part.energy_kwh, atol=1e-6)
    assert whole.run[:size].tolist() == part.run.tolist()


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
