"""When a plan switches: dates, midnight, zones, leap days, and what it refuses."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.control.domain.plans import (
    InvalidPlan,
    PlanState,
    PlanTransitionRefused,
    Schedule,
    Window,
    check_schedule,
    ends_at,
    instances,
    instant,
    require_transition,
    starts_at,
    summary,
)

NIGHT = Window(time(23, 59, 59), time(6))
ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Shanghai", "America/Sao_Paulo")
wall = datetime.fromisoformat


def schedule(first: date, last: date, *windows: Window, zone: str = "Asia/Shanghai", **changes: object) -> Schedule:
    return Schedule(first, last, windows or (NIGHT,), zone, **changes)  # type: ignore[arg-type]


def check(wanted: Schedule, *, min_off_s: float = 300, min_on_s: float = 300) -> None:
    check_schedule(wanted, min_off_s=min_off_s, min_on_s=min_on_s)


def test_the_example_of_source_000() -> None:
    wanted = schedule(date(2022, 5, 1), date(2022, 6, 1))
    check(wanted)
    found = summary(list(instances(wanted)))
    assert found.count == 32
    assert found.first_off_at == datetime(2022, 5, 1, 15, 59, 59, tzinfo=UTC)
    assert found.last_on_at == datetime(2022, 6, 1, 22, 0, 0, tzinfo=UTC)
    zone = ZoneInfo("Asia/Shanghai")
    assert found.instances[0].off_at.astimezone(zone).isoformat() == "2022-05-01T23:59:59+08:00"
    assert found.last_on_at.astimezone(zone).isoformat() == "2022-06-02T06:00:00+08:00"


def test_a_window_that_ends_later_on_the_clock_face_ends_on_the_same_day() -> None:
    (only,) = instances(schedule(date(2026, 3, 1), date(2026, 3, 1), Window(time(1), time(5))))
    assert only.on_at - only.off_at == timedelta(hours=4)


def test_several_windows_a_day_come_in_their_order() -> None:
    found = list(
        instances(schedule(date(2026, 3, 1), date(2026, 3, 2), Window(time(22), time(2)), Window(time(3), time(5))))
    )
    assert [one.start_local.hour for one in found] == [3, 22, 3, 22]
    assert [one.off_at for one in found] == sorted(one.off_at for one in found)


def test_the_leap_day_is_a_day() -> None:
    assert summary(list(instances(schedule(date(2028, 2, 28), date(2028, 3, 1))))).count == 3
    assert summary(list(instances(schedule(date(2027, 2, 28), date(2027, 3, 1))))).count == 2
    found = list(instances(schedule(date(2028, 2, 29), date(2028, 2, 29))))
    assert found[0].on_at == datetime(2028, 2, 29, 22, tzinfo=UTC)


@pytest.mark.parametrize(("first", "last", "days"), [
    (date(2026, 1, 31), date(2026, 1, 31), 1), (date(2026, 1, 31), date(2026, 2, 1), 2),
    (date(2026, 12, 31), date(2027, 1, 1), 2), (date(2026, 4, 30), date(2026, 5, 1), 2),
])  # fmt: skip
def test_month_and_year_ends(first: date, last: date, days: int) -> None:
    found = list(instances(schedule(first, last)))
    assert len(found) == days
    assert {one.on_at - one.off_at for one in found} == {timedelta(hours=6, seconds=1)}


def test_weekdays_exceptions_and_holidays_are_those_of_the_start() -> None:
    # 2026-03-01 is a Sunday; a window that starts on Friday may end on Saturday.
    wanted = schedule(
        date(2026, 3, 1), date(2026, 3, 14), weekdays=frozenset({5}), exceptions=frozenset({date(2026, 3, 13)})
    )
    assert [one.start_local.date() for one in instances(wanted)] == [date(2026, 3, 6)]
    assert list(instances(wanted, holidays=[date(2026, 3, 6)])) == []


class TestDaylightSaving:
    berlin = ZoneInfo("Europe/Berlin")

    def test_a_time_that_the_clock_jumps_over_is_the_moment_of_the_jump(self) -> None:
        jump = datetime(2026, 3, 29, 1, tzinfo=UTC)
        assert instant(wall("2026-03-29T02:30:00"), self.berlin) == jump
        assert instant(wall("2026-03-29T02:00:01"), self.berlin) == jump
        assert instant(wall("2026-03-29T01:59:59"), self.berlin) == jump - timedelta(seconds=1)
        assert instant(wall("2026-03-29T03:00:00"), self.berlin) == jump

    def test_a_time_that_comes_twice_is_the_first(self) -> None:
        assert instant(wall("2026-10-25T02:30:00"), self.berlin) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)

    def test_nights_are_an_hour_shorter_and_longer(self) -> None:
        night = Window(time(23), time(6))
        spring = list(instances(schedule(date(2026, 3, 28), date(2026, 3, 28), night, zone="Europe/Berlin")))
        autumn = list(instances(schedule(date(2026, 10, 24), date(2026, 10, 24), night, zone="Europe/Berlin")))
        assert spring[0].on_at - spring[0].off_at == timedelta(hours=6)
        assert autumn[0].on_at - autumn[0].off_at == timedelta(hours=8)

    def test_a_window_inside_the_gap_does_not_happen(self) -> None:
        inside = Window(time(2, 10), time(2, 50))
        assert list(instances(schedule(date(2026, 3, 29), date(2026, 3, 29), inside, zone="Europe/Berlin"))) == []

    def test_a_day_that_a_zone_left_out(self) -> None:
        # Samoa went from the 29th to the 31st of December 2011.
        found = list(
            instances(schedule(date(2011, 12, 29), date(2011, 12, 31), Window(time(1), time(5)), zone="Pacific/Apia"))
        )
        assert [one.start_local.day for one in found] == [29, 31]

    @given(
        st.datetimes(wall("2000-01-01T00:00:00"), wall("2037-01-01T00:00:00")).map(lambda d: d.replace(microsecond=0)),
        st.sampled_from(ZONES),
    )
    def test_it_is_the_first_moment_that_shows_the_time_or_a_later_one(self, shown: datetime, name: str) -> None:
        zone = ZoneInfo(name)
        found = instant(shown, zone)
        assert found.astimezone(zone).replace(tzinfo=None) >= shown
        before = (found - timedelta(seconds=1)).astimezone(zone).replace(tzinfo=None)
        assert before < shown


@given(
    st.dates(date(2020, 1, 1), date(2035, 1, 1)), st.integers(0, 80),
    st.times().map(lambda t: t.replace(microsecond=0)), st.times().map(lambda t: t.replace(microsecond=0)),
)  # fmt: skip
def test_without_daylight_saving_every_day_has_its_window(first: date, days: int, start: time, end: time) -> None:
    if start == end:
        return
    wanted = schedule(first, first + timedelta(days=days), Window(start, end))
    found = list(instances(wanted))
    assert len(found) == days + 1
    assert {one.on_at - one.off_at for one in found} == {Window(start, end).length}
    assert starts_at(wanted) <= found[0].off_at
    assert found[-1].on_at == ends_at(wanted)
    assert len({one.start_local for one in found}) == len(found)


@pytest.mark.parametrize(("wanted", "field"), [
    (schedule(date(2026, 3, 1), date(2026, 3, 1), Window(time(1), time(1))), "windows"),
    (schedule(date(2026, 3, 1), date(2026, 3, 1), Window(time(1), time(1, 0, 30))), "windows"),
    (schedule(date(2026, 3, 1), date(2026, 3, 1), Window(time(1), time(4)), Window(time(3), time(5))), "windows"),
    (schedule(date(2026, 3, 1), date(2026, 3, 1), Window(time(1), time(4)), Window(time(4), time(5))), "windows"),
    (schedule(date(2026, 3, 1), date(2026, 3, 1), Window(time(23), time(22, 59))), "windows"),
    (schedule(date(2026, 3, 1), date(2026, 3, 1), Window(time(1, tzinfo=UTC), time(4))), "windows"),
    (schedule(date(2026, 3, 1), date(2026, 3, 1), Window(time(1, 0, 0, 5), time(4))), "windows"),
    (schedule(date(2026, 3, 2), date(2026, 3, 1)), "last_date"),
    (schedule(date(2026, 3, 1), date(2056, 3, 1)), "last_date"),
    (schedule(date(2026, 3, 1), date(2026, 3, 1), zone="Asia/Guangzhou"), "zone"),
    (schedule(date(2026, 3, 1), date(2026, 3, 1), zone="../../etc/passwd"), "zone"),
    (schedule(date(2026, 3, 1), date(2026, 3, 1), weekdays=frozenset()), "weekdays"),
    (schedule(date(2026, 3, 1), date(2026, 3, 1), weekdays=frozenset({0})), "weekdays"),
])  # fmt: skip
def test_what_cannot_be_followed_is_refused_and_named(wanted: Schedule, field: str) -> None:
    with pytest.raises(InvalidPlan) as refused:
        check(wanted)
    assert refused.value.facts["field"] == field
    assert refused.value.message.startswith(field)
    assert refused.value.message_zh


@pytest.mark.parametrize(("current", "wanted"), [
    (PlanState.APPROVED, PlanState.APPROVED), (PlanState.ENDED, PlanState.APPROVED),
    (PlanState.ACTIVE, PlanState.DRAFT), (PlanState.DRAFT, PlanState.ACTIVE), (PlanState.ENDED, PlanState.ENDED),
])  # fmt: skip
def test_a_plan_goes_one_way(current: PlanState, wanted: PlanState) -> None:
    with pytest.raises(PlanTransitionRefused):
        require_transition("p", current, wanted)
