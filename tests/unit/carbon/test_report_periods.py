"""Periods and schedules of reports: names that read back, civil time, and rules that would never or always fall due."""

from datetime import UTC, date, datetime, time, timedelta

import pytest
from dateutil.rrule import rrulestr
from hypothesis import given
from hypothesis import strategies as st

from libs.common.clock import CIVIL_ZONE
from libs.common.errors import InvalidInput
from libs.common.recurrence import Schedule
from services.carbon.domain.reports.periods import Length, last_over, parse_period, period_around

DAYS = st.dates(date(2000, 1, 3), date(2199, 12, 27))


@given(st.sampled_from(Length), DAYS)
def test_a_period_is_found_again_by_its_name(length: Length, day: date) -> None:
    period = period_around(length, day)
    assert period.first <= day < period.end
    assert parse_period(length, period.name) == period


@given(st.sampled_from(Length), DAYS)
def test_periods_follow_each_other_without_gap_or_overlap(length: Length, day: date) -> None:
    period = period_around(length, day)
    before = period_around(length, period.first - timedelta(days=1))
    assert before.end == period.first


@pytest.mark.parametrize(
    ("length", "name", "first", "end"),
    [
        (Length.DAY, "2024-02-29", date(2024, 2, 29), date(2024, 3, 1)),
        (Length.WEEK, "2026-W01", date(2025, 12, 29), date(2026, 1, 5)),
        (Length.WEEK, "2020-W53", date(2020, 12, 28), date(2021, 1, 4)),
        (Length.MONTH, "2026-12", date(2026, 12, 1), date(2027, 1, 1)),
        (Length.YEAR, "2026", date(2026, 1, 1), date(2027, 1, 1)),
    ],
)
def test_named_periods(length: Length, name: str, first: date, end: date) -> None:
    period = parse_period(length, name)
    assert (period.first, period.end, period.name) == (first, end, name)


@pytest.mark.parametrize(
    ("length", "name"),
    [
        (Length.DAY, "2026-02-30"),
        (Length.DAY, "2026-2-3"),
        (Length.WEEK, "2026-W54"),
        (Length.WEEK, "2026-W00"),
        (Length.MONTH, "2026-13"),
        (Length.YEAR, "0026"),
        (Length.YEAR, "２０２６"),
        (Length.MONTH, "2026-03 "),
    ],
)
def test_what_is_no_period_is_refused(length: Length, name: str) -> None:
    with pytest.raises(InvalidInput, match="period: expected"):
        parse_period(length, name)


def test_the_last_period_that_is_over_is_civil() -> None:
    # 1 March 01:00 in Shanghai is still February in UTC.
    at = datetime(2026, 2, 28, 17, tzinfo=UTC)
    assert last_over(Length.MONTH, at).name == "2026-02"
    assert last_over(Length.DAY, at).name == "2026-02-28"
    assert last_over(Length.YEAR, at).name == "2025"


def test_a_monthly_schedule_falls_due_in_civil_time() -> None:
    schedule = Schedule("FREQ=MONTHLY;BYMONTHDAY=3;BYHOUR=7;BYMINUTE=30", date(2026, 1, 1))
    due = schedule.next_after(datetime(2026, 3, 2, 23, 30, tzinfo=UTC))  # 3 March 07:30 in Shanghai
    assert due == datetime(2026, 4, 3, 7, 30, tzinfo=CIVIL_ZONE)


def test_without_an_hour_a_report_waits_for_the_last_readings() -> None:
    due = Schedule("FREQ=DAILY", date(2026, 1, 1)).next_after(datetime(2026, 3, 1, tzinfo=UTC))
    assert due == datetime(2026, 3, 2, 6, tzinfo=CIVIL_ZONE)


def test_nothing_is_due_before_the_first_day() -> None:
    due = Schedule("FREQ=WEEKLY;BYDAY=MO", date(2026, 6, 1)).next_after(datetime(2026, 1, 1, tzinfo=UTC))
    assert due == datetime(2026, 6, 1, 6, tzinfo=CIVIL_ZONE)


@pytest.mark.parametrize(
    ("rule", "since", "due"),
    [
        ("FREQ=MONTHLY", date(2026, 1, 31), date(2026, 3, 28)),  # not the 31st, which most months lack
        ("FREQ=YEARLY", date(2024, 2, 29), date(2027, 2, 28)),
        ("FREQ=YEARLY;BYMONTH=2", date(2026, 1, 31), date(2027, 2, 28)),
        ("FREQ=MONTHLY;BYMONTHDAY=-1", date(2026, 1, 1), date(2026, 3, 31)),
        ("FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1", date(2026, 1, 1), date(2026, 3, 31)),
        ("FREQ=MONTHLY;BYDAY=1MO", date(2026, 1, 1), date(2026, 4, 6)),
        ("FREQ=WEEKLY;INTERVAL=2;BYDAY=TU", date(2026, 3, 3), date(2026, 3, 17)),
    ],
)
def test_a_day_of_a_rule_is_one_that_its_periods_have(rule: str, since: date, due: date) -> None:
    at = datetime(2026, 3, 10, tzinfo=UTC)
    assert Schedule(rule, since).next_after(at) == datetime(due.year, due.month, due.day, 6, tzinfo=CIVIL_ZONE)


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "FREQ=MINUTELY",
        "FREQ=HOURLY",
        "FREQ=DAILY;BYHOUR=6,18",
        "FREQ=DAILY;BYMINUTE=0,30",
        "FREQ=DAILY;INTERVAL=0",
        "FREQ=DAILY;COUNT=3",
        "FREQ=DAILY;UNTIL=20260101T000000",
        "FREQ=DAILY;BYHOUR=6;BYHOUR=7",
        "FREQ=MONTHLY;BYMONTHDAY=30",
        "FREQ=MONTHLY;BYMONTHDAY=13;BYDAY=FR",
        "FREQ=MONTHLY;BYMONTHDAY=1;BYSETPOS=2",
        "FREQ=MONTHLY;BYDAY=5FR",
        "FREQ=MONTHLY;BYMONTH=2",
        "FREQ=WEEKLY;BYDAY=1FR",
        "FREQ=DAILY;BYMONTH=13",
        "FREQ=DAILY;BYDAY=TU",
        "FREQ=WEEKLY;BYDAY=XX",
        "FREQ=DAILY;BYHOUR=25",
        "FREQ=DAILY\nFREQ=DAILY",
        "FREQ=DAILY\n",
        "RRULE:FREQ=DAILY",
        "INTERVAL=2",
        "FREQ=DAILY;BYHOUR=" + ",".join(["6"] * 100),
    ],
)
def test_a_rule_that_may_never_or_too_often_fall_due_is_refused(rule: str) -> None:
    with pytest.raises(InvalidInput, match="schedule: expected a recurrence"):
        Schedule(rule, date(2026, 1, 1))


def test_a_schedule_does_not_begin_in_antiquity() -> None:
    with pytest.raises(InvalidInput, match="schedule: expected a first day from 2000 to 2199"):
        Schedule("FREQ=DAILY", date(1, 1, 1))


RULES = st.one_of(
    st.just("FREQ=DAILY"),
    st.sampled_from(["MO", "SU,WE"]).map(lambda days: f"FREQ=WEEKLY;BYDAY={days}"),
    st.sampled_from([*range(-28, 0), *range(1, 29)]).map(lambda day: f"FREQ=MONTHLY;BYMONTHDAY={day}"),
    st.sampled_from([-4, -1, 1, 4]).map(lambda place: f"FREQ=YEARLY;BYMONTH=2;BYDAY={place}FR"),
    st.just("FREQ=MONTHLY"),
    st.just("FREQ=YEARLY;BYMONTH=2"),
)


@given(RULES, st.integers(1, 99), st.dates(date(2020, 1, 1), date(2030, 12, 31)), st.integers(0, 15 * 365))
def test_the_next_time_lies_ahead_and_is_reached_from_anywhere_before(
    rule: str, interval: int, since: date, days: int
) -> None:
    schedule = Schedule(f"{rule};INTERVAL={interval}", since)
    now = datetime(2020, 1, 1, tzinfo=UTC) + timedelta(days=days, hours=5)
    due = schedule.next_after(now)
    assert due > now
    if "DAILY" in rule or "WEEKLY" in rule:  # as if every time since the first day had been counted
        plain = rrulestr(f"{schedule.rule};BYHOUR=6;BYMINUTE=0;BYSECOND=0", dtstart=datetime.combine(since, time()))
        assert due.replace(tzinfo=None) == plain.after(now.astimezone(CIVIL_ZONE).replace(tzinfo=None))
    assert schedule.next_after(due - timedelta(microseconds=1)) == due
