"""Exports that recur: periods without gap or overlap, runs of a downtime in order, names, and what is refused."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.export.domain.exports import (
    Column,
    ColumnKind,
    Dataset,
    Destination,
    DestinationKind,
    Dues,
    ExportPlan,
    FileForm,
    MadeFile,
    Run,
    RunState,
    Span,
    dues_until,
    file_name,
    manifest,
    manifest_name,
    next_due,
    period_of,
    plan_of,
    problems_of,
    wait_s,
)
from services.export.exports.outlet import destination_problem

FTP = Destination(kind=DestinationKind.FTP, url="ftp://files.example:21/inbox")
PLAN = ExportPlan(
    export_id="energy-daily",
    version=1,
    name="Energy",
    dataset=Dataset.ENERGY,
    form=FileForm.CSV,
    span=Span.DAY,
    rule="FREQ=DAILY",
    file_name="{export}_{start:%Y%m%d}",
    destination=FTP,
    since=date(2026, 3, 1),
    sites=("s-1",),
)
RULES = {
    Span.QUARTER_HOUR: None,
    Span.HOUR: None,
    Span.DAY: "FREQ=DAILY;BYHOUR=2",
    Span.WEEK: "FREQ=WEEKLY;BYDAY=TU",
    Span.MONTH: "FREQ=MONTHLY;BYMONTHDAY=3",
    Span.YEAR: "FREQ=YEARLY;BYMONTH=1;BYMONTHDAY=20",
}
HERE = ZoneInfo("Asia/Shanghai")
ZONES = st.sampled_from(["Asia/Shanghai", "Europe/Berlin", "America/New_York", "Asia/Kathmandu"])


def of(span: Span, **changed: Any) -> ExportPlan:
    return replace(PLAN, span=span, rule=RULES[span], file_name="{due:%Y%m%d%H%M}", **changed)


@given(st.sampled_from(Span), ZONES, st.integers(0, 5 * 366 * 86_400))
def test_the_periods_of_following_runs_follow_each_other(span: Span, zone: str, later_s: int) -> None:
    at = datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=later_s)
    plan = of(span, zone=zone)
    due = next_due(plan, at)
    assert due > at
    for _ in range(5):
        following = next_due(plan, due)
        assert following > due
        assert period_of(plan, following).start == period_of(plan, due).end
        assert period_of(plan, due).end <= due
        due = following


def test_the_hour_that_the_clock_shows_twice_is_two_periods() -> None:
    plan = of(Span.HOUR, zone="Europe/Berlin", delay_s=0)
    due, periods = datetime(2026, 10, 24, 22, tzinfo=UTC), set()  # midnight of the day with 25 hours
    for _ in range(25):
        due = next_due(plan, due)
        period = period_of(plan, due)
        assert period.end - period.start == timedelta(hours=1)
        periods.add(period.start)
    assert len(periods) == 25
    assert due == datetime(2026, 10, 25, 23, tzinfo=UTC)


def test_a_day_is_of_the_civil_time_that_the_plan_names() -> None:
    due = next_due(PLAN, datetime(2026, 3, 7, 23, tzinfo=UTC))
    assert due == datetime(2026, 3, 9, 6, tzinfo=HERE)
    assert period_of(PLAN, due).start == datetime(2026, 3, 7, 16, tzinfo=UTC)
    assert file_name(PLAN, due) == "energy-daily_20260308.csv"


def test_the_first_day_counts_and_none_before() -> None:
    assert next_due(PLAN, datetime(2020, 1, 1, tzinfo=UTC)) == datetime(2026, 3, 1, 6, tzinfo=HERE)
    quarter = of(Span.QUARTER_HOUR, delay_s=60)
    first = next_due(quarter, datetime(2020, 1, 1, tzinfo=UTC))
    assert first == datetime(2026, 3, 1, 0, 16, tzinfo=HERE)
    assert period_of(quarter, first).start == datetime(2026, 3, 1, tzinfo=HERE)


def days(found: Dues) -> list[int]:
    return [one.astimezone(HERE).day for one in found.runs]


def test_runs_of_a_downtime_are_found_in_order_and_some_at_a_time() -> None:
    first = next_due(PLAN, datetime(2026, 3, 1, tzinfo=UTC))
    now = first + timedelta(days=9, hours=1)
    found = dues_until(PLAN, first, now, most=4)
    assert days(found) == [2, 3, 4, 5]
    rest = dues_until(PLAN, found.next_due, now, most=100)
    assert days(rest) == [6, 7, 8, 9, 10, 11]
    assert found.missed is rest.missed is None
    assert rest.next_due > now
    assert dues_until(PLAN, rest.next_due, now, most=100).runs == ()


def test_what_is_older_than_is_made_up_is_counted_and_the_youngest_is_made_all_the_same() -> None:
    plan = replace(PLAN, make_up_s=2 * 86_400.0)
    first = next_due(plan, datetime(2026, 3, 1, tzinfo=UTC))
    now = first + timedelta(days=9, hours=1)
    found = dues_until(plan, first, now, most=100)
    assert days(found) == [10, 11]
    assert found.missed is not None
    assert (found.missed.first_due, found.missed.count) == (first, 8)
    assert found.missed.last_due.astimezone(HERE).day == 9
    none = dues_until(replace(plan, make_up_s=0), first, now, most=100)
    assert days(none) == [11]


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([Span.QUARTER_HOUR, Span.HOUR, Span.DAY]),
    st.floats(0, 3 * 86_400.0),
    st.floats(0, 5 * 86_400.0),
    st.integers(1, 50),
)
def test_no_run_is_lost_or_doubled_however_the_looks_fall(
    span: Span, make_up_s: float, away_s: float, most: int
) -> None:
    plan = of(span, make_up_s=make_up_s)
    first = next_due(plan, datetime(2026, 3, 1, tzinfo=UTC))
    now = first + timedelta(seconds=away_s)
    made: list[datetime] = []
    missed, at = 0, first
    while True:
        found = dues_until(plan, at, now, most=most)
        made += found.runs
        missed += 0 if found.missed is None else found.missed.count
        at = found.next_due
        if at > now:
            break
        assert found.runs  # every look gets on
    expected, due = 0, first
    while due <= now:
        expected, due = expected + 1, next_due(plan, due)
    assert len(made) + missed == expected
    assert made == sorted(set(made))


def test_a_plan_reads_back_from_what_is_stored() -> None:
    plan = replace(PLAN, points=("a", "b"), circuits=("c",), zone="Europe/Berlin", enabled=False)
    assert plan_of(plan.export_id, plan.version, plan.document()) == plan


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"rule": None}, "FREQ=DAILY"),
        ({"rule": "FREQ=WEEKLY"}, "FREQ=DAILY"),
        ({"rule": "FREQ=DAILY;INTERVAL=2"}, "INTERVAL"),
        ({"rule": "FREQ=SECONDLY"}, "rule"),
        ({"span": Span.HOUR}, "none with 1h"),
        ({"zone": "Mars/Olympus"}, "IANA"),
        ({"since": date(9999, 12, 31), "span": Span.HOUR, "rule": None}, "since"),
        ({"zone": "../../etc/passwd"}, "IANA"),
        ({"file_name": "always"}, "tell two runs apart"),
        ({"file_name": "{start.__class__}"}, "file_name"),
        ({"file_name": "{start:%Y/%m}"}, "no plain file name"),
        ({"file_name": "{start:%Y%m%d"}, "file_name"),
        ({"folder": "../up"}, "folder"),
        ({"devices": ("d-1",)}, "devices"),
        ({"sites": ("s-1", "s-1")}, "each once"),
        ({"table": 2}, "table"),
        ({"dataset": Dataset.STANDARD, "table": 7}, "1 to 6"),
        ({"dataset": Dataset.STANDARD, "table": 3}, "table 3 is told by month"),
        ({"delay_s": float("nan")}, "delay_s"),
        ({"destination": replace(FTP, retry_cap_s=1.0)}, "retry_cap_s"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_cannot_be_made_is_refused_with_its_field(changed: dict[str, object], said: str) -> None:
    problems = problems_of(replace(PLAN, **changed))  # type: ignore[arg-type]
    assert any(said in one for one in problems), problems
    assert problems_of(PLAN) == []


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (replace(FTP, kind=DestinationKind.SFTP), "expected sftp"),
        (replace(FTP, bucket="b"), "S3 only"),
        (Destination(kind=DestinationKind.SFTP, url="sftp://host/x"), "host_key"),
        (Destination(kind=DestinationKind.S3, url="https://host"), "bucket"),
        (Destination(kind=DestinationKind.S3, url="https://host/path", bucket="b"), "without a path"),
        (Destination(kind=DestinationKind.S3, url="https://user:pw@host", bucket="b"), "without an account"),
        (Destination(kind=DestinationKind.S3, url="file:///etc", bucket="b"), "endpoint"),
        (Destination(kind=DestinationKind.S3, url="http://host:x", bucket="b"), "cannot be read"),
        (Destination(kind=DestinationKind.S3, url="http://host", bucket="b", prefix="a/../b"), "prefix"),
        (Destination(kind=DestinationKind.FTP, url="ftp://[::1/x"), "cannot be read"),
    ],
)
def test_a_destination_that_cannot_be_used_is_refused(one: Destination, said: str) -> None:
    assert said in (destination_problem(one, {}) or "")


def test_destinations_that_can_be_used_are_not_refused() -> None:
    assert destination_problem(FTP, {}) is None
    assert destination_problem(Destination(kind=DestinationKind.S3, url="http://10.0.0.1:9000", bucket="b"), {}) is None


def test_a_manifest_says_what_is_there_and_of_when() -> None:
    due = next_due(PLAN, datetime(2026, 3, 7, tzinfo=UTC))
    period = period_of(PLAN, due)
    run = Run(id=7, export_id="energy-daily", due_at=due, start=period.start, end=period.end, state=RunState.DUE)
    file = MadeFile("energy-daily_20260307.csv", 24, 1000, "ab" * 32)
    said = manifest(PLAN, run, [file], [Column("energy_kwh", ColumnKind.NUMBER, "kWh")], due)
    assert said["period"] == {"start": "2026-03-06T16:00:00Z", "end": "2026-03-07T16:00:00Z"}
    assert said["files"] == [{"name": file.name, "rows": 24, "bytes": 1000, "sha256": "ab" * 32}]
    assert said["columns"] == [{"key": "energy_kwh", "kind": "number", "unit": "kWh"}]
    assert manifest_name(file.name) == "energy-daily_20260307.csv.manifest.json"
    assert MadeFile.of_json(file.as_json()) == file


def test_waits_double_up_to_the_cap_and_spread() -> None:
    one = replace(FTP, retry_first_s=10, retry_cap_s=100)
    assert [wait_s(one, attempts, 0) for attempts in (1, 2, 3, 4, 5, 1000)] == [10, 20, 40, 80, 100, 100]
    assert wait_s(one, 1, 1) == pytest.approx(20 / 3)
