"""What is believed of a report, and which way it goes (contracts.md 4)."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from libs.common.contracts.telemetry import Quality, RejectReason
from libs.common.ids import DeviceId, SiteId
from services.ingest.domain.acceptance import DeviceMemory, Limits, Refused, Route, Verdict, is_still_live, judge
from services.ingest.domain.report import Report

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LIMITS = Limits()


def report(source_s: float = 0.0, received_s: float = 0.0, voltage: float = 230.0) -> Report:
    return Report(
        device_id=DeviceId("m-1"),
        site_id=SiteId("s-1"),
        source_time=NOON + timedelta(seconds=source_s),
        received_at=NOON + timedelta(seconds=received_s),
        driver="push",
        points={"voltage_a": voltage},
    )


def accepted(found: Report, last: DeviceMemory | None = None, *, history: bool = False) -> Verdict:
    verdict = judge(found, last, LIMITS, history=history)
    assert isinstance(verdict, Verdict)
    return verdict


def refused(found: Report, *, history: bool = False) -> RejectReason:
    verdict = judge(found, None, LIMITS, history=history)
    assert isinstance(verdict, Refused)
    return verdict.reason


def test_report_of_now_is_live() -> None:
    verdict = accepted(report())
    assert (verdict.route, verdict.report.source_time, verdict.report.quality) == (Route.LIVE, NOON, {})


def test_same_report_again_is_a_duplicate_and_another_one_is_not() -> None:
    first = accepted(report())
    assert accepted(report(), first.memory).route is Route.DUPLICATE
    assert accepted(report(voltage=231.0), first.memory).route is Route.LATE


def test_report_older_than_the_last_is_late() -> None:
    last = accepted(report(60, 60)).memory
    verdict = accepted(report(0, 61), last)
    assert verdict.route is Route.LATE
    assert verdict.memory == last


def test_clock_that_is_ahead_is_not_used_and_said() -> None:
    verdict = accepted(report(source_s=400))
    assert verdict.report.source_time == NOON
    assert verdict.report.device_time == NOON + timedelta(seconds=400)
    assert verdict.report.quality == {"voltage_a": Quality.CLOCK_SKEW}
    assert (verdict.skew_s, verdict.route) == (400, Route.LIVE)


def test_flag_that_is_worse_than_skew_stays() -> None:
    bad = replace(report(source_s=400), quality={"voltage_a": Quality.INVALID})
    assert accepted(bad).report.quality == {"voltage_a": Quality.INVALID}


def test_skew_within_the_limit_is_believed() -> None:
    assert accepted(report(source_s=299)).report.source_time == NOON + timedelta(seconds=299)


def test_nonsense_in_the_future_is_rejected() -> None:
    assert refused(report(source_s=2 * 86400)) is RejectReason.FUTURE_TIME


def test_archive_cannot_hold_the_future() -> None:
    assert refused(report(source_s=400), history=True) is RejectReason.FUTURE_TIME


def test_report_older_than_the_history_is_rejected() -> None:
    assert refused(report(source_s=-500 * 86400)) is RejectReason.TOO_OLD


def test_backlog_after_an_outage_keeps_its_own_times() -> None:
    """Thirty minutes of backlog arrive within two seconds: no clock runs like that."""
    last = accepted(report(-3600, -3600)).memory
    for i in range(30):
        verdict = accepted(report(-1800 + 60 * i, i / 15), last)
        assert verdict.report.source_time == NOON + timedelta(seconds=-1800 + 60 * i)
        assert verdict.route is (Route.LATE if -1800 + 60 * i - i / 15 < -300 else Route.LIVE)
        last = verdict.memory


def test_slow_clock_that_runs_in_step_is_skew() -> None:
    """An hour slow, a report a minute: the first could be a delayed delivery, from the second on it is the clock."""
    first = accepted(report(-3600, 0))
    assert first.route is Route.LATE
    second = accepted(report(-3540, 60), first.memory)
    assert second.report.source_time == NOON + timedelta(seconds=60)
    assert (second.route, second.skew_s) == (Route.LIVE, -3600)
    third = accepted(report(-3480, 120), second.memory)
    assert (third.route, third.skew_s) == (Route.LIVE, -3600)


@pytest.mark.parametrize(("off_s", "skew_s"), [(-3600, -3600), (400, 400), (-299, None)])
def test_clock_read_beside_values_of_now_is_judged_at_once_and_spoils_no_value(
    off_s: float, skew_s: float | None
) -> None:
    verdict = accepted(replace(report(), device_time=NOON + timedelta(seconds=off_s)))
    assert (verdict.skew_s, verdict.route, verdict.report.quality) == (skew_s, Route.LIVE, {})
    assert verdict.report.source_time == NOON


@pytest.mark.parametrize(
    ("age_s", "last_s", "live"),
    [(59, None, True), (61, None, False), (30, -31, True), (30, -29, False)],
    ids=["young", "old", "newer than the last", "older than the last"],
)
def test_spooled_report_is_live_only_while_young_and_newest(age_s: float, last_s: float | None, live: bool) -> None:
    last = None if last_s is None else NOON + timedelta(seconds=last_s)
    assert is_still_live(NOON - timedelta(seconds=age_s), NOON, last, 60.0) is live
