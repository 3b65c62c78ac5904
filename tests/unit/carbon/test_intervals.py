"""Cumulative energy to intervals: the invariants of the methods page, section 1.2."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.carbon.domain.intervals import STEP_S, Grade, align, partial
from services.carbon.domain.registers import Series, accumulate

readings = st.lists(
    st.tuples(st.integers(1, 4000), st.floats(0.0, 5.0)),  # seconds since the reading before, energy since
    min_size=2,
    max_size=60,
)


def cumulative(rows: list[tuple[int, float]], shift: float = 0.0):  # type: ignore[no-untyped-def]
    at = shift + np.cumsum([float(seconds) for seconds, _ in rows])
    return accumulate([Series(at=at, shown_kwh=1000.0 + np.cumsum([energy for _, energy in rows]))])


def whole_grid(one) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    return float(np.floor(one.at[0] / STEP_S) * STEP_S), float(np.ceil(one.at[-1] / STEP_S) * STEP_S)


@given(readings)
def test_the_sum_over_known_intervals_is_the_register_difference(rows: list[tuple[int, float]]) -> None:
    one = cumulative(rows)
    first, last = whole_grid(one)
    found = align(one, first=first, last=last)
    known = ~np.isnan(found.energy_kwh)
    if not known.any():
        return
    starts = found.start[known]
    expected = np.interp(starts[-1] + STEP_S, one.at, one.energy_kwh) - np.interp(starts[0], one.at, one.energy_kwh)
    assert found.energy_kwh[known].sum() == pytest.approx(expected, abs=1e-6)


@given(readings)
def test_no_interval_is_negative_and_none_is_extrapolated(rows: list[tuple[int, float]]) -> None:
    one = cumulative(rows)
    first, last = whole_grid(one)
    found = align(one, first=first - 3 * STEP_S, last=last + 3 * STEP_S)
    known = ~np.isnan(found.energy_kwh)
    assert np.all(found.energy_kwh[known] >= -1e-9)
    assert np.all(found.start[known] >= one.at[0])
    assert np.all(found.start[known] + STEP_S <= one.at[-1])
    assert np.array_equal(known, found.grade != Grade.MISSING)


@given(readings, st.integers(-50, 50))
def test_shifting_by_whole_steps_shifts_the_intervals(rows: list[tuple[int, float]], steps: int) -> None:
    one, moved = cumulative(rows), cumulative(rows, shift=steps * STEP_S)
    first, last = whole_grid(one)
    here = align(one, first=first, last=last)
    there = align(moved, first=first + steps * STEP_S, last=last + steps * STEP_S)
    np.testing.assert_allclose(here.energy_kwh, there.energy_kwh, atol=1e-6)
    assert np.array_equal(here.grade, there.grade)


@given(readings, st.integers(0, 1000), st.floats(0.01, 0.99))
def test_a_redundant_reading_on_the_line_changes_flags_only(
    rows: list[tuple[int, float]], place: int, share: float
) -> None:
    one = cumulative(rows)
    i = place % (one.at.size - 1)
    at = one.at[i] + share * (one.at[i + 1] - one.at[i])
    energy = float(np.interp(at, one.at, one.energy_kwh))
    more = accumulate([Series(at=np.insert(one.at, i + 1, at), shown_kwh=np.insert(one.energy_kwh, i + 1, energy))])
    first, last = whole_grid(one)
    np.testing.assert_allclose(
        align(one, first=first, last=last).energy_kwh, align(more, first=first, last=last).energy_kwh, atol=1e-6
    )


def test_grades_follow_the_distance_of_readings_from_the_boundaries() -> None:
    at = np.array([0.0, 900.0, 1400.0, 2100.0, 2700.0, 9000.0, 9900.0])
    one = accumulate([Series(at=at, shown_kwh=np.arange(7.0))])
    found = align(one, first=0.0, last=9900.0)
    assert found.grade.tolist() == [
        Grade.MEASURED,
        Grade.INTERPOLATED,
        Grade.INTERPOLATED,
        *[Grade.ALLOCATED] * 7,
        Grade.MEASURED,
    ]
    assert found.energy_kwh[3:10].sum() == pytest.approx(1.0)


def test_everything_between_a_reset_and_the_register_before_it_is_a_lower_bound() -> None:
    at = np.array([0.0, 900.0, 1800.0, 3600.0, 4500.0])
    one = accumulate([Series(at=at, shown_kwh=np.array([500.0, 501.0, 502.0, 0.5, 1.5]), rated_kw=40.0)])
    found = align(one, first=0.0, last=4500.0)
    assert found.lower_bound.tolist() == [False, False, True, True, False]


def test_a_break_between_runs_is_missing_and_not_zero() -> None:
    old = Series(at=np.array([0.0, 900.0]), shown_kwh=np.array([10.0, 11.0]))
    new = Series(at=np.array([1800.0, 2700.0]), shown_kwh=np.array([3.0, 4.0]))
    found = align(accumulate([old, new]), first=0.0, last=2700.0)
    assert found.grade.tolist() == [Grade.MEASURED, Grade.MISSING, Grade.MEASURED]
    assert np.isnan(found.energy_kwh[1])


def test_the_running_interval_is_known_up_to_the_last_reading() -> None:
    one = accumulate([Series(at=np.array([0.0, 900.0, 1200.0]), shown_kwh=np.array([0.0, 3.0, 4.0]))])
    assert partial(one, start=900.0, until=5000.0) == pytest.approx(1.0)
    assert partial(one, start=900.0, until=1000.0) is None
    assert partial(one, start=-900.0, until=5000.0) is None
