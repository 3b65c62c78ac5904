"""Energy of any span: additive wherever it is cut, and a hole is never a zero."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.clock import CIVIL_ZONE
from services.carbon.domain.inventory.boundary import Span
from services.carbon.domain.inventory.metered import SCHEMA, STEP, by_civil_year, energy_of

START = datetime(2026, 5, 10, 1, tzinfo=UTC)


def frame(energies: list[float | None], flags: list[str] | None = None, circuit: str = "c-1") -> pl.DataFrame:
    names = flags or ["missing" if energy is None else "measured" for energy in energies]
    rows = [(circuit, START + STEP * n, energy, names[n], 1) for n, energy in enumerate(energies)]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def span(first_min: float, last_min: float) -> Span:
    return Span(START + timedelta(minutes=first_min), START + timedelta(minutes=last_min))


def test_a_meeting_from_seven_minutes_past_takes_its_part_of_the_first_quarter() -> None:
    found = energy_of(frame([3.0, 6.0, 9.0]), circuits=1, span=span(5, 30))
    assert found.energy_kwh == pytest.approx(3.0 * 10 / 15 + 6.0)
    assert found.apportioned_kwh == pytest.approx(2.0)
    assert found.completeness == pytest.approx(1.0)
    assert found.usable == pytest.approx(1.0)


def test_a_hole_is_no_zero_but_a_smaller_share_of_the_span() -> None:
    found = energy_of(frame([1.0, None, 1.0, 1.0]), circuits=1, span=span(0, 60))
    assert (found.energy_kwh, found.completeness) == (3.0, 0.75)


def test_below_half_of_the_span_there_is_no_figure() -> None:
    found = energy_of(frame([1.0, None, None, None]), circuits=1, span=span(0, 60))
    assert (found.energy_kwh, found.usable) == (None, 0.25)
    assert energy_of(frame([]), circuits=1, span=span(0, 60)).energy_kwh is None


def test_a_circuit_without_any_interval_is_missed() -> None:
    assert energy_of(frame([1.0, 1.0]), circuits=2, span=span(0, 30)).usable == 0.5


def test_the_estimated_share_is_of_the_energy() -> None:
    found = energy_of(
        frame([1.0, 3.0], ["measured", "estimated_allocated"]), circuits=1, span=span(0, 30)
    )  # fmt: skip
    assert (found.estimated_share, found.completeness, found.usable) == (0.75, 0.5, 1.0)


@given(
    energies=st.lists(st.floats(0, 1e6), min_size=8, max_size=8),
    cuts=st.tuples(st.integers(0, 7200), st.integers(0, 7200), st.integers(0, 7200)),
)
def test_energy_is_additive_wherever_a_span_is_cut(energies: list[float], cuts: tuple[int, int, int]) -> None:
    first, middle, last = (START + timedelta(seconds=second) for second in sorted(cuts))
    if not first < middle < last:
        return
    intervals = frame(list(energies))
    whole = energy_of(intervals, circuits=1, span=Span(first, last)).energy_kwh
    left = energy_of(intervals, circuits=1, span=Span(first, middle)).energy_kwh
    right = energy_of(intervals, circuits=1, span=Span(middle, last)).energy_kwh
    assert whole is not None
    assert left is not None
    assert right is not None
    assert left + right == pytest.approx(whole, rel=1e-9, abs=1e-9)


def test_a_span_is_cut_at_the_new_year_of_civil_time() -> None:
    year_end = datetime(2025, 1, 1, tzinfo=CIVIL_ZONE)
    found = by_civil_year(Span(datetime(2024, 12, 31, 15, tzinfo=UTC), datetime(2024, 12, 31, 17, tzinfo=UTC)))
    assert [one.end for one in found] == [year_end, datetime(2024, 12, 31, 17, tzinfo=UTC)]
    assert len(by_civil_year(Span(datetime(2022, 5, 1, tzinfo=UTC), datetime(2025, 5, 1, tzinfo=UTC)))) == 4
