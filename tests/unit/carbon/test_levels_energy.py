"""Energy of a node by period: what is missing is said, nothing is counted twice, and cuts change nothing."""

import math
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.clock import CIVIL_ZONE
from libs.common.errors import InvalidInput
from libs.common.ids import CircuitId, SiteId
from services.carbon.domain.intervals import Grade
from services.carbon.domain.levels.cover import Term, clip
from services.carbon.domain.levels.curve import load_curve
from services.carbon.domain.levels.emission import FACTORS, emissions_by_period
from services.carbon.domain.levels.energy import (
    Absence,
    Promise,
    circuits_of,
    energy_by_period,
    energy_in_span,
    node_intervals,
    running_frame,
    totals,
)
from services.carbon.domain.levels.periods import Shift, Step, in_shift, parse_shifts, periods
from tests.unit.carbon.levels_data import (
    QUARTER,
    START,
    Row,
    frame,
    household,
    household_minutes,
    measured,
    register_kwh,
)

LATER = START + timedelta(days=400)
SITE = SiteId("s1")


def term(circuit: str, *parts: str, start: datetime = START, end: datetime = START + timedelta(days=30)) -> Term:
    return Term(CircuitId(circuit), SITE, start, end, tuple(CircuitId(one) for one in parts))


def by_period(rows: list[Row], terms: list[Term], step: Step, quarters: int, **more: object) -> pl.DataFrame:
    end = START + quarters * QUARTER
    inside = clip(terms, START, end)
    promise = Promise(inside, LATER, **more)  # type: ignore[arg-type]
    return energy_by_period(node_intervals(frame(rows), inside), promise, step=step, start=START, end=end)


def test_hours_sum_their_quarters_and_say_how_complete_they_are() -> None:
    rows: list[Row] = [
        ("c1", 0, 1.0, Grade.MEASURED),
        ("c1", 1, 2.0, Grade.MEASURED),
        ("c1", 2, 3.0, Grade.ALLOCATED),
        ("c1", 4, 4.0, Grade.MEASURED),
    ]
    found = by_period(rows, [term("c1")], Step.HOUR, 12)
    assert found["energy_kwh"].to_list() == [6.0, 4.0, None]
    assert found["interval_completeness"].to_list() == [0.5, 0.25, 0.0]
    assert found["usable_share"].to_list() == [0.75, 0.25, 0.0]
    assert found["estimated_share"].to_list() == [0.5, 0.0, 0.0]
    assert found["provisional"].to_list() == [False, False, False]


def test_the_running_hour_is_provisional_and_only_its_past_is_expected() -> None:
    end = START + timedelta(hours=1)
    terms = [term("c1", end=end)]
    running = running_frame([(CircuitId("c1"), START + QUARTER, 0.4)])
    found = energy_by_period(
        node_intervals(pl.concat([frame(measured("c1", [1.0])), running]), terms),
        Promise(terms, START + timedelta(minutes=20)),
        step=Step.HOUR,
        start=START,
        end=end,
    )
    assert found["energy_kwh"].to_list() == [pytest.approx(1.4)]
    assert found["provisional"].to_list() == [True]
    assert found["interval_completeness"].to_list() == [1.0]


def test_a_missing_month_is_no_zero() -> None:
    found = by_period(measured("c1", [1.0] * 96), [term("c1", end=START + timedelta(days=90))], Step.MONTH, 62 * 96)
    assert found["energy_kwh"].to_list() == [96.0, None, None]
    assert found["interval_completeness"].to_list()[1:] == [0.0, 0.0]


def test_the_next_level_stands_in_only_where_all_of_it_is_known() -> None:
    rows = [
        *measured("feed", [10.0, None]),
        *measured("a", [1.0, 6.0, 7.0, 8.0]),
        *measured("b", [1.0, 3.0, 2.0]),
    ]
    found = by_period(rows, [term("feed", "a", "b")], Step.QUARTER_HOUR, 4)
    assert found["energy_kwh"].to_list() == [10.0, 9.0, 9.0, None]
    assert found["from_parts_share"].to_list() == [0.0, 1.0, 1.0, 0.0]
    assert found["estimated_share"].to_list() == [0.0, 1.0, 1.0, 0.0]
    assert found["interval_completeness"].to_list() == [1.0, 0.0, 0.0, 0.0]
    assert found["usable_share"].to_list() == [1.0, 1.0, 1.0, 0.0]


def test_completeness_weighs_circuits_by_what_they_usually_use() -> None:
    rows = [*measured("big", [90.0, None]), *measured("small", [10.0, 10.0])]
    usual = {CircuitId("big"): 90.0, CircuitId("small"): 10.0}
    terms = [term("big"), term("small")]
    assert by_period(rows, terms, Step.HOUR, 2, weights=usual)["interval_completeness"].to_list() == [
        pytest.approx((90 + 2 * 10) / (2 * 90 + 2 * 10))
    ]
    assert by_period(rows, terms, Step.HOUR, 2)["interval_completeness"].to_list() == [pytest.approx(0.75)]


def test_a_dead_meter_does_not_vanish_from_completeness() -> None:
    usual = {CircuitId("a"): 10.0, CircuitId("b"): 20.0}
    terms = [term("a"), term("b"), term("dead")]
    rows = [*measured("a", [1.0] * 4), *measured("b", [1.0] * 4)]
    found = by_period(rows, terms, Step.HOUR, 4, weights=usual)
    assert found["interval_completeness"].to_list() == [pytest.approx(30 / 45)]


def test_nothing_is_expected_during_a_recorded_outage() -> None:
    rows = [*measured("a", [1.0, 0.0, None, 1.0]), *measured("b", [1.0] * 4)]
    absent = [Absence(SITE, CircuitId("a"), START + QUARTER, START + 3 * QUARTER)]
    found = by_period(rows, [term("a"), term("b")], Step.QUARTER_HOUR, 4, absences=absent)
    assert found["interval_completeness"].to_list() == [1.0, 1.0, 1.0, 1.0]
    everything = [Absence(SITE, None, START, START + QUARTER)]
    found = by_period(rows, [term("a"), term("b")], Step.QUARTER_HOUR, 4, absences=everything)
    assert found["interval_completeness"].to_list() == [None, 1.0, 0.5, 1.0]


def test_a_span_is_one_period_of_any_length() -> None:
    rows = [*measured("a", [1.0, None, 3.0, 4.0]), *measured("b", [1.0] * 4)]
    terms = [term("a"), term("b")]
    end = START + 3 * QUARTER
    found = energy_in_span(node_intervals(frame(rows), terms), Promise(terms, LATER), start=START, end=end)
    assert (found["energy_kwh"], found["interval_completeness"]) == (7.0, pytest.approx(5 / 6))
    nothing = energy_in_span(node_intervals(frame(rows), []), Promise([], LATER), start=START, end=end)
    assert (nothing["energy_kwh"], nothing["interval_completeness"]) == (None, None)


def test_a_shift_has_a_completeness_of_its_own() -> None:
    night = Shift("night", 1320, 360)
    rows = measured("c1", [1.0] * 24 + [None] * 64 + [2.0] * 8)
    found = by_period(rows, [term("c1")], Step.DAY, 96, shift=night)
    assert found["energy_kwh"].to_list() == [40.0]
    assert found["interval_completeness"].to_list() == [1.0]


def test_a_circuit_counts_only_while_it_is_part_of_the_node() -> None:
    half = START + 2 * QUARTER
    terms = [term("old", end=half), term("new", start=half)]
    rows = [*measured("old", [1.0] * 4), *measured("new", [5.0] * 4)]
    found = by_period(rows, terms, Step.HOUR, 4)
    assert found["energy_kwh"].to_list() == [12.0]
    assert found["interval_completeness"].to_list() == [1.0]


@pytest.mark.parametrize(
    ("step", "local", "first", "last"),
    [
        (Step.DAY, "2026-03-01T00:30", "2026-03-01", "2026-03-02"),
        (Step.WEEK, "2026-03-04T12:00", "2026-03-02", "2026-03-09"),
        (Step.MONTH, "2026-02-28T23:59", "2026-02-01", "2026-03-01"),
        (Step.YEAR, "2026-03-04T12:00", "2026-01-01", "2027-01-01"),
    ],
)
def test_periods_are_civil_and_weeks_begin_on_monday(step: Step, local: str, first: str, last: str) -> None:
    at = datetime.fromisoformat(local).replace(tzinfo=CIVIL_ZONE)
    (only,) = periods(step, at.astimezone(UTC), at.astimezone(UTC) + timedelta(minutes=1)).iter_rows()
    assert [edge.astimezone(CIVIL_ZONE).date().isoformat() for edge in only] == [first, last]


def test_shifts_cross_midnight_and_may_not_overlap() -> None:
    day, night = parse_shifts("day=08:00-20:00, night=20:00-08:00")
    assert (day, night) == (Shift("day", 480, 1200), Shift("night", 1200, 480))
    assert day.minutes.isdisjoint(night.minutes)
    assert len(day.minutes | night.minutes) == 96
    rows = frame(measured("c1", [1.0] * 96))
    assert rows.filter(in_shift(night))["energy_kwh"].sum() == 48.0


@pytest.mark.parametrize(
    "text", ["", "day", "day=8-20", "day=08:10-20:00", "a=08:00-12:00,b=11:00-13:00", "a=00:00-01:00,a=02:00-03:00"]
)
def test_shifts_that_cannot_be_meant_are_refused_in_both_languages(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_shifts(text)
    assert "shifts" in refused.value.both.english
    assert "班次" in refused.value.both.chinese or "应为" in refused.value.both.chinese


class TestLoadCurve:
    """Methods 11."""

    def test_highest_lowest_and_mean_with_their_times(self) -> None:
        rows = measured("c1", [1.0, 2.0, 2.0, 0.5])
        found = load_curve(totals(node_intervals(frame(rows), [term("c1")]), [term("c1")]), Step.DAY).to_dicts()
        assert found == [
            {
                "start": START,
                "max_kw": 8.0,
                "max_at": START + QUARTER,
                "min_kw": 2.0,
                "min_at": START + 3 * QUARTER,
                "mean_kw": 5.5,
                "load_factor": 5.5 / 8,
                "peak_valley_rate": 0.75,
                "utilisation_h": 5.5 / 8,
                "curve_quarters": 4,
            }
        ]

    def test_an_allocated_quarter_is_in_the_mean_and_neither_highest_nor_lowest(self) -> None:
        rows: list[Row] = [*measured("c1", [1.0, 1.0]), ("c1", 2, 4.0, Grade.ALLOCATED)]
        (found,) = load_curve(totals(node_intervals(frame(rows), [term("c1")]), [term("c1")]), Step.DAY).to_dicts()
        assert (found["max_kw"], found["mean_kw"]) == (4.0, 8.0)
        assert found["load_factor"] is None  # a mean above the highest: the highest lies in the gap

    def test_a_quarter_that_a_feed_lacks_is_no_low_of_the_sum(self) -> None:
        rows = [*measured("a", [5.0, 5.0]), *measured("b", [1.0])]
        terms = [term("a"), term("b")]
        (found,) = load_curve(totals(node_intervals(frame(rows), terms), terms), Step.DAY).to_dicts()
        assert (found["min_kw"], found["curve_quarters"]) == (24.0, 1)

    def test_nothing_used_has_no_load_factor(self) -> None:
        rows = measured("c1", [0.0, 0.0])
        (found,) = load_curve(totals(node_intervals(frame(rows), [term("c1")]), [term("c1")]), Step.DAY).to_dicts()
        assert (found["max_kw"], found["load_factor"], found["utilisation_h"]) == (0.0, None, None)


energies = st.lists(st.none() | st.floats(0, 500, allow_subnormal=False), min_size=1, max_size=60)


@given(st.lists(energies, min_size=1, max_size=4), st.lists(st.integers(1, 59), max_size=3))
def test_cutting_a_span_anywhere_changes_no_sum(series: list[list[float | None]], cuts: list[int]) -> None:
    rows = [row for index, one in enumerate(series) for row in measured(f"c{index}", one)]
    terms = [term(f"c{index}", end=START + 60 * QUARTER) for index in range(len(series))]
    edges = sorted({0, 60, *cuts})
    whole = node_intervals(frame(rows), terms)
    pieces = []
    for first, last in pairwise(edges):
        span = (START + first * QUARTER, START + last * QUARTER)
        part = frame(rows).filter((pl.col("start") >= span[0]) & (pl.col("start") < span[1]))
        pieces.append(node_intervals(part, clip(terms, *span)))
    joined = pl.concat(pieces).sort("circuit_id", "start")
    assert joined.equals(whole)


@given(st.lists(st.tuples(*[st.floats(0, 500, allow_subnormal=False)] * 3), min_size=1, max_size=40), st.data())
def test_the_sum_of_the_children_is_the_parent_where_complete(
    children: list[tuple[float, float, float]], data: st.DataObject
) -> None:
    known = data.draw(st.lists(st.booleans(), min_size=len(children), max_size=len(children)))
    rows = [row for index in range(3) for row in measured(f"c{index}", [one[index] for one in children])]
    rows += measured("p", [sum(one) if is_known else None for one, is_known in zip(children, known, strict=True)])
    terms = [term("p", "c0", "c1", "c2")]
    found = node_intervals(frame(rows), terms)
    assert found.height == len(children)
    assert found["energy_kwh"].sum() == pytest.approx(math.fsum(sum(one) for one in children), rel=1e-9, abs=1e-9)
    assert found["from_parts"].to_list() == [not one for one in known]


class TestRealHousehold:
    """The aggregates by another path: differences of registers that are read off minute by minute, in plain Python."""

    TERMS = (term("feed", "kitchen", "laundry", "heater", "rest", start=datetime(2006, 1, 1, tzinfo=UTC)),)

    @pytest.mark.parametrize("step", [Step.HOUR, Step.DAY, Step.WEEK])
    def test_energy_by_period_is_the_difference_of_the_registers(self, step: Step) -> None:
        booked = household("feed")
        terms = [Term(CircuitId("feed"), SITE, booked["start"].min(), booked["start"].max() + QUARTER)]  # type: ignore[arg-type,operator]
        start, end = terms[0].start, terms[0].end
        found = energy_by_period(node_intervals(booked, terms), Promise(terms, LATER), step=step, start=start, end=end)
        whole = found.filter((pl.col("start") > start) & (pl.col("end") < end))
        assert whole.height >= 2
        for first, last, energy in whole.select("start", "end", "energy_kwh").iter_rows():
            assert energy == pytest.approx(register_kwh("feed", last) - register_kwh("feed", first), rel=1e-9)

    def test_two_lost_minutes_lose_no_energy(self) -> None:
        booked = household("feed")
        day = datetime(2006, 12, 21, tzinfo=CIVIL_ZONE)
        terms = [Term(CircuitId("feed"), SITE, day.astimezone(UTC), (day + timedelta(days=1)).astimezone(UTC))]
        found = node_intervals(booked, terms)
        assert found.height == 96
        assert found["energy_kwh"].null_count() == 0  # the registers around them tell the energy

    def test_load_curve_is_that_of_a_walk_through_the_intervals(self) -> None:
        booked = household("feed")
        terms = [Term(CircuitId("feed"), SITE, booked["start"].min(), booked["start"].max() + QUARTER)]  # type: ignore[arg-type,operator]
        found = load_curve(totals(node_intervals(booked, terms), terms), Step.DAY)
        days: dict[str, list[tuple[datetime, float]]] = {}
        for start in booked["start"].sort():
            if register_known("feed", start) and register_known("feed", start + QUARTER):
                kw = 4 * (register_kwh("feed", start + QUARTER) - register_kwh("feed", start))
                days.setdefault(start.astimezone(CIVIL_ZONE).date().isoformat(), []).append((start, kw))
        assert found.height == len(days)
        for row, walked in zip(found.to_dicts(), days.values(), strict=True):
            highest = max(kw for _, kw in walked)
            assert row["max_kw"] == pytest.approx(highest, rel=1e-9)
            assert row["mean_kw"] == pytest.approx(math.fsum(kw for _, kw in walked) / len(walked), rel=1e-9)
            assert row["min_kw"] == pytest.approx(min(kw for _, kw in walked), rel=1e-9)
            assert dict(walked)[row["max_at"]] == pytest.approx(highest, rel=1e-9)
            assert row["curve_quarters"] == len(walked)

    def test_four_circuits_stand_in_for_the_feed_within_the_rounding_of_the_source(self) -> None:
        terms = list(self.TERMS)
        span = (household("feed")["start"].min(), household("feed")["start"].max())
        terms = clip([Term(t.circuit, t.site, t.start, LATER, t.parts) for t in terms], span[0], span[1])  # type: ignore[arg-type]
        assert len(circuits_of(terms)) == 5
        parts = pl.concat([household(name) for name in ("kitchen", "laundry", "heater", "rest")])
        own = node_intervals(household("feed"), terms)
        stood_in = node_intervals(parts, terms)
        assert stood_in["from_parts"].all()
        assert stood_in.height == own.filter(pl.col("energy_kwh").is_not_null()).height
        assert stood_in["energy_kwh"].sum() == pytest.approx(own["energy_kwh"].sum(), rel=1e-4)


def register_known(name: str, at: datetime) -> bool:
    rows = household_minutes()[name]
    return rows[0][0] <= at.timestamp() <= rows[-1][0]


FACTORS_OF = pl.DataFrame(
    [("s1", 2025, 0.4, "A-2025"), ("s1", 2026, 0.5, "A-2026"), ("s2", 2026, 0.8, "B-2026")],
    schema=FACTORS,
    orient="row",
)


def test_each_site_emits_by_its_own_grid_and_each_interval_by_its_year() -> None:
    new_year = datetime(2026, 1, 1, tzinfo=CIVIL_ZONE).astimezone(UTC)
    first = int((new_year - START) / QUARTER)
    rows = frame([*measured("c1", [1.0, 2.0], first - 1), *measured("c2", [4.0], first)])
    terms = [
        Term(CircuitId("c1"), SITE, START - timedelta(days=400), LATER),
        Term(CircuitId("c2"), SiteId("s2"), START - timedelta(days=400), LATER),
    ]
    (week,) = emissions_by_period(node_intervals(rows, terms), FACTORS_OF, Step.WEEK).to_dicts()
    assert week["emission_kg_co2"] == pytest.approx(1.0 * 0.4 + 2.0 * 0.5 + 4.0 * 0.8)
    assert week["factor_ids"] == ["A-2025", "A-2026", "B-2026"]


def test_an_emission_is_unknown_without_energy_or_without_a_factor() -> None:
    terms = [term("c1"), Term(CircuitId("c3"), SiteId("s3"), START, LATER)]
    rows = frame([*measured("c1", [1.0, None, 1.0]), *measured("c3", [1.0], 2)])
    found = emissions_by_period(node_intervals(rows, terms), FACTORS_OF, Step.QUARTER_HOUR)
    assert found["emission_kg_co2"].to_list() == [0.5, None, None]
