"""How the total of a long gap is laid over its hours."""

from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.carbon.domain.intervals import STEP_S, Grade, align, long_gaps
from services.carbon.domain.registers import Series, accumulate
from services.carbon.domain.shape import CIVIL_S, DAY_S, LEAST_DAYS, Shape, usual_shape, weekday_class

A_DAY = round(DAY_S / STEP_S)
MONDAY = 1_772_380_800.0  # 2026-03-02 00:00 in Shanghai
WORKING_HOURS = (np.arange(A_DAY) >= 32) & (np.arange(A_DAY) < 72)  # 8 to 18


def history(days: int, *, until: float = MONDAY, level: float = 1.0) -> Shape:
    """Return the shape of an office that works from 8 to 18, of so many days before."""
    start = until - DAY_S * days + STEP_S * np.arange(days * A_DAY, dtype=np.float64)
    energy = level * np.where(np.tile(WORKING_HOURS, days), 3.0, 1.0)
    return usual_shape(start, energy, np.ones(start.size, np.bool_), until=until, step_s=STEP_S)


def test_the_monday_of_these_tests_is_one() -> None:
    assert (MONDAY + CIVIL_S) % DAY_S == 0
    assert weekday_class(date(2026, 3, 2)) == 0


def test_a_gap_is_allocated_as_the_circuit_usually_uses() -> None:
    shape = history(28)
    whole = accumulate([Series(at=np.array([MONDAY, MONDAY + DAY_S]), shown_kwh=np.array([0.0, 176.0]))])
    found = align(whole, first=MONDAY, last=MONDAY + DAY_S, shapes={MONDAY: shape})
    assert found.energy_kwh.tolist() == pytest.approx(np.where(WORKING_HOURS, 3.0, 1.0).tolist())
    assert set(found.grade.tolist()) == {Grade.ALLOCATED}
    assert long_gaps(whole, first=MONDAY, last=MONDAY + DAY_S) == [MONDAY]


def test_too_few_days_of_a_class_leave_the_gap_flat() -> None:
    # Six days before a Monday are one Saturday and one Sunday, and four working days.
    shape = history(6)
    assert LEAST_DAYS == 5
    assert shape.shares(MONDAY, MONDAY + DAY_S, np.array([MONDAY])) is None
    assert history(7).shares(MONDAY, MONDAY + DAY_S, np.array([MONDAY])) is not None
    saturday = MONDAY + 5 * DAY_S
    assert history(7).shares(saturday, saturday + DAY_S, np.array([saturday])) is None


def test_days_that_are_not_measured_and_days_after_the_gap_say_nothing() -> None:
    start = MONDAY - DAY_S * 28 + STEP_S * np.arange(35 * A_DAY, dtype=np.float64)
    energy = np.where(start < MONDAY, 1.0, 9.0)
    measured = np.ones(start.size, np.bool_)
    measured[: 21 * A_DAY : 10] = False  # a tenth of each of the first 21 days
    shape = usual_shape(start, energy, measured, until=MONDAY, step_s=STEP_S)
    assert {name: usual.max() for name, usual in shape.usual_kwh.items()} == {0: 1.0}


def test_a_circuit_that_was_off_has_no_shape() -> None:
    assert history(28, level=0.0).shares(MONDAY, MONDAY + DAY_S, np.array([MONDAY + STEP_S])) is None


gaps = st.tuples(st.floats(0.0, 5 * DAY_S), st.floats(2_000.0, 3 * DAY_S), st.floats(0.0, 1e4))


@given(gaps, st.integers(5, 28))
def test_the_total_of_a_gap_is_kept_and_no_interval_is_negative(gap: tuple[float, float, float], days: int) -> None:
    begin, length, energy = gap
    at = MONDAY + begin + np.array([0.0, 900.0, 900.0 + length, 1800.0 + length])
    whole = accumulate([Series(at=at, shown_kwh=np.array([5.0, 5.5, 5.5 + energy, 6.0 + energy]))])
    first, last = np.ceil(at[0] / STEP_S) * STEP_S, np.floor(at[-1] / STEP_S) * STEP_S
    flat = align(whole, first=float(first), last=float(last))
    shaped = align(whole, first=float(first), last=float(last), shapes={float(at[1]): history(days)})
    assert np.all(shaped.energy_kwh >= -1e-9)
    assert np.array_equal(flat.grade, shaped.grade)
    # Outside the gap nothing is moved, and all of it together is what the registers say.
    ends = [(first, at[0]), (last, at[-1])]
    missing = sum(abs(np.interp(a, at, whole.energy_kwh) - np.interp(b, at, whole.energy_kwh)) for a, b in ends)
    assert shaped.energy_kwh.sum() <= whole.energy_kwh[-1] + 1e-6
    if at[1] >= first and at[2] <= last:
        assert shaped.energy_kwh.sum() == pytest.approx(whole.energy_kwh[-1] - missing, abs=1e-6)


@given(gaps, st.integers(-3, 3))
def test_shifting_by_whole_weeks_shifts_the_shape_with_it(gap: tuple[float, float, float], weeks: int) -> None:
    begin, length, _ = gap
    start, end = MONDAY + begin, MONDAY + begin + length
    at = np.linspace(start, end, 7)
    moved = weeks * 7 * DAY_S
    here = history(28).shares(start, end, at)
    there = history(28, until=MONDAY + moved).shares(start + moved, end + moved, at + moved)
    assert here is not None
    assert there is not None
    np.testing.assert_allclose(here, there, atol=1e-9)
    assert here[0] == 0.0
    assert here[-1] == pytest.approx(1.0)
    assert np.all(np.diff(here) >= 0.0)
