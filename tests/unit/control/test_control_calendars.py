"""Working days, working weekends, and what a calendar does not know."""

from datetime import UTC, date, datetime, time, timedelta

import pytest
from icalendar import Calendar as ICalendar

from libs.common.ids import LoadId, PlanId
from services.control.domain.calendars import Calendar, DayClass, YearNotCovered
from services.control.domain.plans import (
    InvalidPlan,
    Plan,
    PlanState,
    Schedule,
    Window,
    check_schedule,
    instances,
    summary,
)
from services.control.files.calendar_file import write_plan
from services.control.library import CHINA, shipped

(CN,) = shipped()
NIGHT = Window(time(23), time(6))


def by_days(first: date, last: date, day_class: DayClass, *, window: Window = NIGHT) -> Schedule:
    return Schedule(first, last, (window,), "Asia/Shanghai", day_class=day_class, working_calendar=CHINA)


def dates(schedule: Schedule, calendar: Calendar = CN) -> list[date]:
    return [one.start_local.date() for one in instances(schedule, working=calendar)]


class TestShipped:
    def test_it_says_where_it_comes_from_and_for_which_years(self) -> None:
        assert CN.calendar_id == CHINA
        assert CN.years == set(range(2020, 2027))
        assert "State Council" in CN.source
        assert "MIT" in CN.source

    # Notices of the General Office of the State Council: 2024 (国办发明电〔2023〕7号), 2025 (国办发明电〔2024〕12号).
    @pytest.mark.parametrize(("year", "off", "worked"), [(2024, 28, 8), (2025, 28, 5), (2026, 33, 6)])
    def test_days_of_a_year(self, year: int, off: int, worked: int) -> None:
        assert sum(day.year == year for day in CN.days) == off
        assert sum(day.year == year for day in CN.working_days) == worked

    def test_only_weekends_are_worked_in_exchange(self) -> None:
        assert {day.isoweekday() for day in CN.working_days} == {6, 7}
        assert not CN.days.keys() & CN.working_days.keys()

    def test_national_day_2025_and_its_working_weekends(self) -> None:
        assert CN.is_working(date(2025, 9, 28))  # a Sunday
        assert not CN.is_working(date(2025, 10, 8))  # a Wednesday
        assert CN.is_working(date(2025, 10, 9))
        assert CN.is_working(date(2025, 10, 11))  # a Saturday
        assert not CN.is_working(date(2025, 10, 12))


class TestPlansByWorkingDays:
    def test_a_working_weekend_is_worked_and_a_holiday_is_not(self) -> None:
        week = by_days(date(2025, 10, 6), date(2025, 10, 12), DayClass.WORKING_DAYS)
        assert dates(week) == [date(2025, 10, 9), date(2025, 10, 10), date(2025, 10, 11)]

    def test_days_off_are_all_the_others(self) -> None:
        week = by_days(date(2025, 10, 6), date(2025, 10, 12), DayClass.DAYS_OFF)
        assert dates(week) == [date(2025, 10, 6), date(2025, 10, 7), date(2025, 10, 8), date(2025, 10, 12)]

    def test_every_day_is_one_or_the_other(self) -> None:
        first, last = date(2025, 1, 1), date(2025, 12, 31)
        working = dates(by_days(first, last, DayClass.WORKING_DAYS))
        off = dates(by_days(first, last, DayClass.DAYS_OFF))
        assert sorted(working + off) == [first + timedelta(days=n) for n in range(365)]
        # 365 days, 104 at weekends, 28 in the notice (8 of them at weekends), 5 weekends worked.
        assert len(working) == 365 - 104 - (28 - sum(day.isoweekday() > 5 for day in CN.days if day.year == 2025)) + 5

    def test_the_day_of_the_start_counts(self) -> None:
        # Thursday 2025-05-01 is off; the window of Wednesday night goes on into it.
        found = list(instances(by_days(date(2025, 4, 30), date(2025, 5, 1), DayClass.WORKING_DAYS), working=CN))
        assert [(one.start_local.day, one.on_at) for one in found] == [(30, datetime(2025, 4, 30, 22, tzinfo=UTC))]

    def test_a_year_that_is_not_published_is_refused(self) -> None:
        with pytest.raises(YearNotCovered) as refused:
            summary(list(instances(by_days(date(2026, 12, 1), date(2027, 1, 5), DayClass.WORKING_DAYS), working=CN)))
        assert "2027" in refused.value.message
        assert refused.value.facts["field"] == "working_calendar"

    @pytest.mark.parametrize("changes", [
        {"day_class": DayClass.WORKING_DAYS}, {"day_class": DayClass.ANY, "working_calendar": CHINA},
    ])  # fmt: skip
    def test_class_and_calendar_belong_together(self, changes: dict[str, object]) -> None:
        wanted = Schedule(date(2025, 1, 1), date(2025, 1, 1), (NIGHT,), "Asia/Shanghai", **changes)  # type: ignore[arg-type]
        with pytest.raises(InvalidPlan) as refused:
            check_schedule(wanted, min_off_s=300, min_on_s=300)
        assert refused.value.facts["field"] == "working_calendar"


class TestCalendarFile:
    now = datetime(2022, 4, 1, tzinfo=UTC)

    def plan(self, state: PlanState = PlanState.APPROVED, note: str | None = None) -> Plan:
        schedule = Schedule(date(2022, 5, 1), date(2022, 6, 1), (Window(time(23, 59, 59), time(6)),), "Asia/Shanghai")
        return Plan(
            plan_id=PlanId("p-1"), name="五月夜间;AAU,关断", state=state, load_ids=(LoadId("aau-1"), LoadId("aau-2")),
            schedule=schedule, calendar_ids=(), created_by="user:a", created_at=self.now, note=note,
        )  # fmt: skip

    def test_every_window_is_an_event(self) -> None:
        plan = self.plan(note="一行\n二行 " + "长" * 100)
        raw = write_plan(plan, instances(plan.schedule), self.now)
        file = ICalendar.from_ical(raw)
        events = file.walk("VEVENT")
        assert len(events) == 32
        assert events[0].decoded("DTSTART") == datetime(2022, 5, 1, 15, 59, 59, tzinfo=UTC)
        assert events[-1].decoded("DTEND") == datetime(2022, 6, 1, 22, tzinfo=UTC)
        assert len({str(event["UID"]) for event in events}) == 32
        assert str(events[0]["SUMMARY"]) == "关断 OFF: 五月夜间;AAU,关断 (2)"
        assert str(events[0]["DESCRIPTION"]) == plan.note
        assert str(events[0]["STATUS"]) == "CONFIRMED"

    def test_lines_are_folded_and_end_as_the_rfc_wants(self) -> None:
        plan = self.plan(note="长" * 300)
        lines = write_plan(plan, instances(plan.schedule), self.now).split(b"\r\n")
        assert lines[0] == b"BEGIN:VCALENDAR"
        assert lines[-2:] == [b"END:VCALENDAR", b""]
        assert max(map(len, lines)) <= 75  # octets, RFC 5545 3.1
        assert not any(b"\n" in line for line in lines)

    @pytest.mark.parametrize(("state", "shown"), [
        (PlanState.DRAFT, "TENTATIVE"), (PlanState.ACTIVE, "CONFIRMED"), (PlanState.ENDED, "CANCELLED"),
    ])  # fmt: skip
    def test_the_state_is_shown(self, state: PlanState, shown: str) -> None:
        plan = self.plan(state)
        (event, *_) = ICalendar.from_ical(write_plan(plan, instances(plan.schedule), self.now)).walk("VEVENT")
        assert str(event["STATUS"]) == shown
