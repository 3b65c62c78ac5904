"""Energy of any span: additive wherever it is cut, and a hole is never a zero."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.clock import CIVIL_ZONE
from libs.common.ids import CircuitId, SiteId
from services.carbon.domain.intervals import Grade
from services.carbon.domain.inventory.boundary import Approach, Boundary, Part, Span
from services.carbon.domain.inventory.metered import Metered, by_civil_year, metered, on_grid, spans_of, sums_of
from services.carbon.domain.levels.cover import Term
from services.carbon.domain.levels.energy import NODE_SCHEMA

START = datetime(2026, 5, 10, 1, tzinfo=UTC)
STEP = timedelta(minutes=15)


def rows(
    energies: Sequence[float | None], circuit: str = "c-1", grades: Sequence[Grade] | None = None
) -> list[tuple[object, ...]]:
    known = grades or [Grade.MISSING if energy is None else Grade.MEASURED for energy in energies]
    return [
        (circuit, "site-1", START + STEP * n, energy, int(known[n]), False, False, False, False)
        for n, energy in enumerate(energies)
    ]


def term(circuit: str = "c-1", first: datetime = START, last: datetime = START + 9 * STEP) -> Term:
    return Term(CircuitId(circuit), SiteId("site-1"), first, last)


def span(first_min: float, last_min: float) -> Span:
    return Span(START + timedelta(minutes=first_min), START + timedelta(minutes=last_min))


def energy_of(found: list[tuple[object, ...]], over: Span, *terms: Term) -> Metered:
    frame = pl.DataFrame(found, schema=NODE_SCHEMA, orient="row")
    return metered(terms or (term(),), sums_of(frame, over), over)


def test_a_meeting_from_five_minutes_past_takes_its_part_of_the_first_quarter() -> None:
    found = energy_of(rows([3.0, 6.0, 9.0]), span(5, 30))
    assert found.energy_kwh == pytest.approx(3.0 * 10 / 15 + 6.0)
    assert found.apportioned_kwh == pytest.approx(2.0)
    assert (found.completeness, found.usable) == pytest.approx((1.0, 1.0))
    assert on_grid(span(5, 25)) == span(0, 30)


def test_a_hole_is_no_zero_but_a_smaller_share_of_the_span() -> None:
    found = energy_of(rows([1.0, None, 1.0, 1.0]), span(0, 60))
    assert (found.energy_kwh, found.completeness) == (3.0, 0.75)


def test_below_half_of_the_span_there_is_no_figure() -> None:
    found = energy_of(rows([1.0, None, None, None]), span(0, 60))
    assert (found.energy_kwh, found.usable, found.unknown) == (None, 0.25, ("c-1",))
    assert energy_of([], span(0, 60)).energy_kwh is None


def test_a_circuit_without_any_interval_makes_its_node_unknown() -> None:
    found = energy_of(rows([1.0, 1.0]), span(0, 30), term("c-1"), term("c-2"))
    assert (found.energy_kwh, found.unknown, found.usable) == (None, ("c-2",), 0.5)


def test_the_hole_of_a_large_circuit_weighs_more_than_that_of_a_small_one() -> None:
    large = energy_of(rows([9.0, None]) + rows([1.0, 1.0], "c-2"), span(0, 30), term("c-1"), term("c-2"))
    small = energy_of(rows([9.0, 9.0]) + rows([1.0, None], "c-2"), span(0, 30), term("c-1"), term("c-2"))
    assert large.usable == pytest.approx((18 * 0.5 + 2) / 20)
    assert small.usable == pytest.approx((18 + 2 * 0.5) / 20)


def test_time_without_any_circuit_is_a_hole() -> None:
    late = energy_of(rows([None, 1.0, 1.0, 1.0]), span(0, 60), term(first=START + STEP))
    assert (late.energy_kwh, late.usable, late.completeness) == (3.0, 0.75, 0.75)
    none = metered((), {}, span(0, 60))
    assert (none.energy_kwh, none.usable, none.circuits) == (None, 0.0, ())


def test_a_meter_that_takes_over_is_expected_from_then_on() -> None:
    change = START + 2 * STEP
    found = energy_of(
        rows([1.0, 1.0]) + [(("c-2"), *row[1:]) for row in rows([None, None, 2.0, 2.0])[2:]],
        span(0, 60),
        term("c-1", last=change),
        term("c-2", first=change),
    )
    assert (found.energy_kwh, found.usable, found.circuits) == (6.0, 1.0, ("c-1", "c-2"))


def test_the_estimated_share_is_of_the_energy() -> None:
    found = energy_of(rows([1.0, 3.0], grades=[Grade.MEASURED, Grade.ALLOCATED]), span(0, 30))
    assert (found.estimated_share, found.completeness, found.usable) == (0.75, 0.5, 1.0)


@given(
    energies=st.lists(st.floats(0, 1e6), min_size=8, max_size=8),
    cuts=st.tuples(st.integers(0, 7200), st.integers(0, 7200), st.integers(0, 7200)),
)
@settings(max_examples=50)
def test_energy_is_additive_wherever_a_span_is_cut(energies: list[float], cuts: tuple[int, int, int]) -> None:
    first, middle, last = (START + timedelta(seconds=second) for second in sorted(cuts))
    if not first < middle < last:
        return
    parts = [energy_of(rows(energies), Span(*one)).energy_kwh for one in ((first, middle), (middle, last))]
    # The same by hand, each second of a quarter hour the same.
    by_hand = sum(
        energy * max(0.0, (min(START + (n + 1) * STEP, last) - max(START + n * STEP, first)).total_seconds()) / 900
        for n, energy in enumerate(energies)
    )
    assert None not in parts
    assert sum(part for part in parts if part is not None) == pytest.approx(by_hand, rel=1e-9, abs=1e-9)


def test_a_span_is_cut_at_the_new_year_of_civil_time() -> None:
    year_end = datetime(2025, 1, 1, tzinfo=CIVIL_ZONE)
    found = by_civil_year(Span(datetime(2024, 12, 31, 15, tzinfo=UTC), datetime(2024, 12, 31, 17, tzinfo=UTC)))
    assert [one.end for one in found] == [year_end, datetime(2024, 12, 31, 17, tzinfo=UTC)]
    assert len(by_civil_year(Span(datetime(2022, 5, 1, tzinfo=UTC), datetime(2025, 5, 1, tzinfo=UTC)))) == 4


def test_the_spans_of_parts_are_cut_where_one_of_them_begins_or_ends() -> None:
    half, third = Part("site-1", span(0, 90), 0.5, "x"), Part("org-1", span(30, 60), 0.3, "x")
    boundary = Boundary("org-1", Approach.EQUITY_SHARE, [half, third, Part("site-2", span(0, 300))])
    assert spans_of(boundary, ("site-1", "org-1")) == [span(0, 30), span(30, 60), span(60, 90)]
    apart = Boundary("org-1", Approach.EQUITY_SHARE, [Part("a", span(0, 15)), Part("a", span(30, 45))])
    assert spans_of(apart, ("a",)) == [span(0, 15), span(30, 45)]
