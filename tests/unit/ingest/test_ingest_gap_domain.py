"""Where reports are missing, by the clock and by the device's own numbers."""

import itertools
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.ingest.domain.gaps import Hole, holes, left_out, slots_held

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def at(second: int) -> datetime:
    return NOON + timedelta(seconds=second)


@given(st.lists(st.integers(0, 3599), unique=True, max_size=30), st.none() | st.integers(-7200, -1))
def test_every_long_stretch_is_a_hole_and_nothing_else(seconds: list[int], before: int | None) -> None:
    times = [at(second) for second in sorted(seconds)]
    found = holes(times, before=None if before is None else at(before), until=at(3600), limit_s=180)
    marks = [*([at(before)] if before is not None else []), *times]
    expected = [Hole(a, b) for a, b in itertools.pairwise(marks) if (b - a).total_seconds() > 180]
    if marks and (at(3600) - marks[-1]).total_seconds() > 180:
        expected.append(Hole(marks[-1], None))
    assert found == expected


@given(st.lists(st.tuples(st.integers(0, 59), st.floats(-0.5, 58.0)), max_size=80))
def test_slot_is_held_by_one_report_or_by_many_in_any_order(reports: list[tuple[int, float]]) -> None:
    times = [at(0) + timedelta(seconds=60 * slot + 13.0 + after_s) for slot, after_s in reports]
    assert slots_held(times, interval_s=60.0, offset=13.0) == len({slot for slot, _ in reports})


def test_numbers_that_are_left_out_are_reports_that_were_lost() -> None:
    numbered = [(at(0), 5), (at(60), 6), (at(120), 9), (at(180), 10)]
    assert left_out(numbered) == [Hole(at(60), at(120), 2)]


def test_counter_that_begins_anew_comes_round_or_leaps_has_lost_nothing() -> None:
    for first, second in ((65535, 0), (900, 1), (1, 50_000), (7, 7)):
        assert left_out([(at(0), first), (at(60), second)]) == []
