"""Shutdown savings: the rules of the methods page, section 15, one by one, and what must hold for all of them."""

import math
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.clock import CIVIL_ZONE
from services.carbon.domain.savings.shutdowns.course import STEP, Course, Spans
from services.carbon.domain.savings.shutdowns.executed import ExecutedPart, Switching, executed_parts, measured_windows
from services.carbon.domain.savings.shutdowns.totals import cluster, total, totals_by
from services.carbon.domain.savings.shutdowns.windows import (
    Branch,
    Cooling,
    Mark,
    Method,
    Peer,
    Rules,
    Unknown,
    WindowSaving,
    branch_savings,
    day_of,
    weekday_class,
    window_saving,
)

DAYS = 30
FIRST = datetime(2022, 4, 18, tzinfo=CIVIL_ZONE)
NIGHT = FIRST + timedelta(days=20)
"""Midnight at which the night begins that the load is switched off in: Sunday, 8 May 2022."""
STEPS_A_DAY = 96
USUAL = 0.5
"""Energy of an interval of a load of 2 kW. [kWh]"""


def at(hours: float, day: int = 20) -> datetime:
    return FIRST + timedelta(days=day, hours=hours)


def part(off: datetime, on: datetime | None, occurrence: str | None = "o1", load: str = "aau") -> ExecutedPart:
    return ExecutedPart(load, off, on, occurrence, "plan")


def course(energy: np.ndarray, circuit: str = "branch") -> Course:
    count = energy.size
    return Course(circuit, FIRST.astimezone(UTC), energy, ~np.isnan(energy), np.ones(count, np.int32))


def usual(days: int = DAYS) -> np.ndarray:
    return np.full(days * STEPS_A_DAY, USUAL)


def switched_off(energy: np.ndarray, parts: list[ExecutedPart], *, left: float = 0.0) -> np.ndarray:
    """Take the load off in proportion to time, ``left`` of it stays."""
    found = energy.copy()
    for index in range(found.size):
        start = FIRST + index * STEP
        for one in parts:
            end = one.on_at or FIRST + timedelta(days=DAYS)
            off = (min(start + STEP, end) - max(start, one.off_at)) / STEP
            if off > 0:
                found[index] -= energy[index] * off * (1 - left)
    return found


def branch(energy: np.ndarray, parts: list[ExecutedPart], **more: object) -> Branch:
    fields: dict[str, object] = {"outages": Spans([]), "day_class": lambda _: "any", **more}
    shutdowns = Spans([(one.off_at, one.on_at or FIRST + timedelta(days=DAYS)) for one in parts])
    return Branch(course=course(energy), shutdowns=shutdowns, **fields)  # type: ignore[arg-type]


def one_night(**more: object) -> WindowSaving:
    parts = [part(at(0), at(6))]
    (window,) = measured_windows(parts)
    return window_saving(branch(switched_off(usual(), parts), parts, **more), window)


# What was executed


def test_a_wake_up_inside_the_window_ends_the_executed_part() -> None:
    told = [
        Switching("aau", at(0), True, "o1", "plan"),
        Switching("aau", at(2), False),
        Switching("aau", at(3), True, "o1", "plan"),
        Switching("aau", at(6), False, "o1", "plan"),
    ]
    parts = executed_parts(told)
    assert [(one.off_at, one.on_at) for one in parts] == [(at(0), at(2)), (at(3), at(6))]
    assert sum(one.off_s for one in parts) == 5 * 3600


def test_a_load_that_is_off_still_has_an_open_part_and_no_window() -> None:
    parts = executed_parts([Switching("aau", at(0), True, "o1")])
    assert parts == [ExecutedPart("aau", at(0), None, "o1", None)]
    assert measured_windows(parts) == []


switchings = st.lists(
    st.builds(
        Switching,
        load_id=st.sampled_from(["a", "b"]),
        at=st.integers(0, 400).map(lambda minute: FIRST + timedelta(minutes=7 * minute)),
        off=st.booleans(),
        occurrence_id=st.sampled_from([None, "o1", "o2"]),
    ),
    max_size=30,
)


@given(switchings)
def test_replayed_switchings_change_nothing_and_parts_of_a_load_never_overlap(told: list[Switching]) -> None:
    parts = executed_parts(told)
    assert executed_parts([*told, *told]) == parts
    for before, after in pairwise(parts):
        if before.load_id == after.load_id:
            assert before.on_at is not None
            assert before.off_at < before.on_at <= after.off_at


@given(switchings)
def test_measured_windows_cover_every_part_and_share_no_interval(told: list[Switching]) -> None:
    parts = [one for one in executed_parts(told) if one.on_at is not None]
    windows = measured_windows(parts)
    assert sorted(id(one) for window in windows for one in window.parts) == sorted(id(one) for one in parts)
    for window in windows:
        assert window.start.timestamp() % 900 == window.end.timestamp() % 900 == 0
        assert all(window.start <= one.off_at and one.on_at and one.on_at <= window.end for one in window.parts)
    assert all(before.end <= after.start for before, after in pairwise(windows))


# One window


def test_a_night_of_six_hours_at_two_kilowatts_saves_twelve_kilowatt_hours() -> None:
    found = one_night()
    assert found.saving_kwh == pytest.approx(12.0)
    assert found.baseline_kwh == pytest.approx(12.0)
    assert (found.actual_kwh, found.rebound_kwh) == (0.0, 0.0)
    assert found.method is Method.CLEAN_DAYS
    assert len(found.days) == 20
    assert found.successful is True


def test_minutes_at_the_edges_in_which_the_load_was_on_do_not_bias_the_saving() -> None:
    parts = [part(at(0) - timedelta(seconds=1), at(6) + timedelta(minutes=4))]
    (window,) = measured_windows(parts)
    found = window_saving(branch(switched_off(usual(), parts), parts), window)
    assert found.saving_kwh == pytest.approx(2.0 * parts[0].off_s / 3600)


def test_the_night_that_begins_a_second_before_midnight_is_that_of_the_following_day() -> None:
    (window,) = measured_windows([part(at(0) - timedelta(seconds=1), at(6))])
    assert day_of(window) == NIGHT.date()


def test_a_window_across_midnight_is_measured_whole() -> None:
    parts = [part(at(22), at(30))]
    (window,) = measured_windows(parts)
    found = window_saving(branch(switched_off(usual(), parts), parts), window)
    assert found.saving_kwh == pytest.approx(16.0)
    assert day_of(window) == NIGHT.date()


def test_what_is_used_more_after_the_wake_up_is_taken_off() -> None:
    parts = [part(at(0), at(6))]
    energy = switched_off(usual(), parts)
    first = 20 * STEPS_A_DAY + 24
    energy[first : first + 4] += 0.3
    (window,) = measured_windows(parts)
    found = window_saving(branch(energy, parts), window)
    assert found.rebound_kwh == pytest.approx(1.2)
    assert found.saving_kwh == pytest.approx(12.0 - 1.2)


def test_using_less_than_usual_after_the_wake_up_is_no_saving() -> None:
    parts = [part(at(0), at(6))]
    energy = switched_off(usual(), parts)
    energy[20 * STEPS_A_DAY + 24] = 0.0
    (window,) = measured_windows(parts)
    assert window_saving(branch(energy, parts), window).saving_kwh == pytest.approx(12.0)


def test_the_equipment_that_switches_uses_energy_itself() -> None:
    assert one_night(control_power_kw=0.01).saving_kwh == pytest.approx(12.0 - 0.06)


def test_a_shutdown_that_did_nothing_is_counted_as_measured_and_failed() -> None:
    parts = [part(at(0), at(6))]
    energy = usual()
    energy[20 * STEPS_A_DAY : 20 * STEPS_A_DAY + 24] += 0.1
    (window,) = measured_windows(parts)
    found = window_saving(branch(energy, parts), window)
    assert found.saving_kwh == pytest.approx(-2.4)
    assert found.successful is False


def test_half_of_the_baseline_is_still_a_success() -> None:
    parts = [part(at(0), at(6))]
    (window,) = measured_windows(parts)
    for left, good in ((0.5, True), (0.51, False)):
        assert window_saving(branch(switched_off(usual(), parts, left=left), parts), window).successful is good


def test_a_missing_interval_makes_the_saving_unknown_and_not_larger() -> None:
    parts = [part(at(0), at(6))]
    (window,) = measured_windows(parts)
    for missing in (20 * STEPS_A_DAY + 5, 20 * STEPS_A_DAY + 25):
        energy = switched_off(usual(), parts)
        energy[missing] = math.nan
        found = window_saving(branch(energy, parts), window)
        assert found.saving_kwh is None
        assert found.reason is Unknown.WINDOW_INCOMPLETE


def test_the_median_of_the_clean_days_is_not_moved_by_one_odd_day() -> None:
    parts = [part(at(0), at(6))]
    energy = switched_off(usual(), parts)
    energy[10 * STEPS_A_DAY : 11 * STEPS_A_DAY] = 5.0
    (window,) = measured_windows(parts)
    assert window_saving(branch(energy, parts), window).baseline_kwh == pytest.approx(12.0)


def test_days_with_a_shutdown_an_outage_a_hole_or_of_another_class_are_not_clean() -> None:
    earlier = part(at(12, day=19), at(13, day=19), "o0")
    parts = [earlier, part(at(0), at(6))]
    energy = switched_off(usual(), parts)
    energy[17 * STEPS_A_DAY + 3] = math.nan
    where = branch(
        energy,
        parts,
        outages=Spans([(at(20, day=18), at(21, day=18))]),
        day_class=lambda day: "odd" if day == (NIGHT - timedelta(days=4)).date() else "even",
    )
    found = window_saving(where, measured_windows(parts)[1])
    left_out = {(NIGHT - timedelta(days=back)).date() for back in (1, 2, 3, 4)}
    assert not left_out & set(found.days)
    assert len(found.days) == 16


def test_an_allocated_day_has_no_shape_and_is_not_clean() -> None:
    rows = [
        (FIRST.astimezone(UTC) + index * STEP, USUAL, "estimated_allocated" if index < 96 else "measured", 1)
        for index in range(192)
    ]
    frame = pl.DataFrame(rows, schema=["start", "energy_kwh", "flag", "version"], orient="row")
    found = Course.of("c", frame.with_columns(circuit_id=pl.lit("c")))
    assert found.take(at(0, 0), at(6, 0), located_share_min=0.95) is None
    assert found.take(at(0, 1), at(6, 1), located_share_min=0.95) is not None


def test_the_highest_version_of_an_interval_holds_and_null_stays_unknown() -> None:
    start = FIRST.astimezone(UTC)
    frame = pl.DataFrame(
        {
            "circuit_id": ["c", "c", "c", "other"],
            "start": [start + STEP, start, start, start],
            "energy_kwh": [None, 3.0, 2.0, 9.0],
            "flag": ["missing", "measured", "measured", "measured"],
            "version": [1, 2, 1, 7],
        }
    )
    found = Course.of("c", frame)
    assert found.energy_kwh[0] == 3.0
    assert math.isnan(found.energy_kwh[1])
    assert found.newest_version(start, start + 2 * STEP) == 2


def test_fewer_than_ten_clean_days_are_marked() -> None:
    rules = Rules(lookback_days=7)
    parts = [part(at(0), at(6))]
    (window,) = measured_windows(parts)
    found = window_saving(branch(switched_off(usual(), parts), parts), window, rules=rules)
    assert Mark.FEW_CLEAN_DAYS in found.marks
    assert found.saving_kwh == pytest.approx(12.0)


def nightly(peer_factor: float) -> WindowSaving:
    """Return the last of eighteen nights: two clean days before them, and all circuits moved since."""
    parts = [part(at(0, day), at(6, day), f"o{day}") for day in range(2, 20)]
    moved = usual()
    moved[2 * STEPS_A_DAY :] *= peer_factor
    group = [Peer(course=course(moved * 3, "peer"), shutdowns=Spans([]), outages=Spans([]))]
    where = branch(switched_off(moved, parts), parts, control_group=group)
    return window_saving(where, measured_windows(parts)[-1])


def test_with_too_few_clean_days_the_control_group_says_how_the_branch_would_have_moved() -> None:
    found = nightly(0.8)
    assert found.method is Method.CONTROL_GROUP
    assert found.peers == ("peer",)
    assert len(found.days) == 2
    assert found.baseline_kwh == pytest.approx(12.0 * 0.8)
    assert found.saving_kwh == pytest.approx(9.6)


def test_without_a_control_group_too_few_clean_days_give_no_figure() -> None:
    parts = [part(at(0, day), at(6, day)) for day in range(2, 20)]
    found = window_saving(branch(switched_off(usual(), parts), parts), measured_windows(parts)[-1])
    assert (found.saving_kwh, found.reason) == (None, Unknown.NO_BASELINE)


def test_cooling_in_the_branch_moves_the_baseline_with_the_weather() -> None:
    parts = [part(at(0), at(6))]
    (window,) = measured_windows(parts)
    where = branch(switched_off(usual(), parts), parts)
    days = {FIRST.date() + timedelta(days=back): 20.0 for back in range(DAYS)}
    warm = Cooling(slope_kw_per_k=0.1, temperature_c=25.0, daily_c=days)
    found = window_saving(where, window, cooling=warm)
    assert found.adjustment_kwh == pytest.approx(0.1 * 5 * 6)
    assert found.saving_kwh == pytest.approx(15.0)
    blind = window_saving(where, window, cooling=Cooling(slope_kw_per_k=0.1, temperature_c=None, daily_c=days))
    assert Mark.TEMPERATURE_UNKNOWN in blind.marks
    assert blind.adjustment_kwh == 0


def test_the_time_after_ends_where_the_next_shutdown_begins() -> None:
    parts = [part(at(0), at(2), "o1"), part(at(2.5), at(6), "o1")]
    windows = measured_windows(parts)
    found = branch_savings(branch(switched_off(usual(), parts), parts), windows)
    assert [one.saving_kwh for one in found] == [pytest.approx(4.0), pytest.approx(7.0)]
    assert Mark.SHORT_POST in found[0].marks
    assert Mark.SHORT_POST not in found[1].marks


def test_weekends_and_the_holiday_calendar_make_the_classes_of_days() -> None:
    assert weekday_class(date(2022, 5, 7)) == "restday"
    assert weekday_class(date(2022, 5, 7), exceptions={date(2022, 5, 7): "workday"}) == "workday"
    assert weekday_class(date(2022, 5, 6)) == "workday"


# Many windows


def test_a_period_is_published_only_beyond_two_standard_errors() -> None:
    rng = np.random.default_rng(5)
    parts = [part(at(0, day), at(6, day), f"o{day}") for day in range(20, 27)]
    for left, published in ((0.0, True), (0.995, False)):
        # The spread belongs to whole days, as weather and traffic do.
        energy = switched_off(usual() * np.repeat(1 + 0.05 * rng.standard_normal(DAYS), STEPS_A_DAY), parts, left=left)
        found = total(branch_savings(branch(energy, parts), measured_windows(parts)))
        assert found.windows_known == 7
        assert found.standard_error_kwh is not None
        assert found.publishable is published


def test_the_standard_error_of_a_sum_is_the_root_of_the_summed_variances() -> None:
    rng = np.random.default_rng(6)
    parts = [part(at(0, day), at(6, day), f"o{day}") for day in (20, 24)]
    energy = switched_off(usual() * (1 + 0.05 * rng.standard_normal(DAYS * STEPS_A_DAY)), parts)
    savings = branch_savings(branch(energy, parts), measured_windows(parts))
    sums = np.array([energy[day * 96 : day * 96 + 28].sum() for day in range(20)])
    assert savings[0].variance_kwh2 == pytest.approx(float(sums.var(ddof=1)) * (1 + math.pi / 2 / 20))
    variances = [one.variance_kwh2 or 0.0 for one in savings]
    assert total(savings).standard_error_kwh == pytest.approx(math.sqrt(sum(variances)))


def test_unknown_windows_are_counted_and_not_summed_as_zero() -> None:
    parts = [part(at(0, day), at(6, day), f"o{day}") for day in (20, 24)]
    energy = switched_off(usual(), parts)
    energy[24 * STEPS_A_DAY] = math.nan
    found = total(branch_savings(branch(energy, parts), measured_windows(parts)))
    assert (found.windows, found.windows_known, found.completeness) == (2, 1, 0.5)
    assert found.saving_kwh == pytest.approx(12.0)
    assert total([]).saving_kwh is None


def test_occurrences_that_share_a_meter_divide_the_window_by_their_time_off() -> None:
    parts = [part(at(0), at(6), "o1", "aau-1"), part(at(0), at(3), "o2", "aau-2")]
    (window,) = measured_windows(parts)
    savings = branch_savings(branch(switched_off(usual(), parts[:1]), parts), [window])
    by = totals_by(savings, lambda one: one.occurrence_id)
    assert by["o1"].saving_kwh == pytest.approx(8.0)
    assert by["o2"].saving_kwh == pytest.approx(4.0)
    assert Mark.SHARED_METER in savings[0].marks


@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(1, 300)), min_size=1, max_size=6),
    st.floats(0.0, 1.0),
    st.floats(0.0, 0.5),
)
def test_shares_and_shapes_sum_to_the_whole(times: list[tuple[int, int]], left: float, more_kw: float) -> None:
    parts = [
        part(at(0) + timedelta(minutes=start), at(0) + timedelta(minutes=start + length), f"o{index}")
        for index, (start, length) in enumerate(times)
    ]
    where = branch(switched_off(usual(), parts[:1], left=left), parts, control_power_kw=more_kw)
    savings = branch_savings(where, measured_windows(parts))
    whole = total(savings)
    assert whole.saving_kwh is not None
    by = totals_by(savings, lambda one: one.occurrence_id)
    assert sum(one.saving_kwh or 0.0 for one in by.values()) == pytest.approx(whole.saving_kwh, abs=1e-9)
    for one in savings:
        assert sum(energy for _, energy in one.shape) == pytest.approx(one.saving_kwh, abs=1e-9)


def test_a_cluster_counts_what_the_neighbours_used_more() -> None:
    site = total([one_night()])
    neighbour = branch_savings(
        branch(switched_off(usual(), [part(at(0), at(6))], left=1.1), [part(at(0), at(6))]),
        measured_windows([part(at(0), at(6))]),
    )
    both = cluster(site, [total(neighbour)])
    assert both.saving_kwh == pytest.approx(12.0 - 1.2)
    assert cluster(site, [total([])]).saving_kwh is None


def test_emissions_are_summed_where_every_factor_is_known() -> None:
    known = replace(one_night(), emission_kg=12.0 * 0.4403)
    assert total([known]).emission_kg == pytest.approx(12.0 * 0.4403)
    assert total([known, one_night()]).emission_kg is None
    assert total([]).emission_kg is None
