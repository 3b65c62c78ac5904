"""Where an alarm stands with each centre, out of its deliveries."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from libs.common.contracts.delivery import DeliveryState
from services.alarm.domain.reporting import BEGIN, END, ReportState, centre_reports, overall

NOON = datetime(2026, 5, 1, 4, tzinfo=UTC)


@dataclass(frozen=True)
class Row:
    destination: str
    item_kind: str | None
    state: str
    second: float = 0.0
    error: str | None = None

    @property
    def at(self) -> datetime:
        return NOON + timedelta(seconds=self.second)


def test_each_centre_has_its_own_times_and_state() -> None:
    rows = [
        Row("sc-2", BEGIN, "delivered", 3),
        Row("sc-1", BEGIN, "delivered", 1),
        Row("sc-1", END, "delivered", 9),
        Row("sc-2", END, "retrying", 10, "timeout"),
    ]
    first, second = centre_reports(rows)
    assert (first.destination, first.state, first.begin_reported_at, first.end_reported_at, first.error) == (
        "sc-1", ReportState.REPORTED, rows[1].at, rows[2].at, None,
    )  # fmt: skip
    assert (second.state, second.begin_reported_at, second.end_reported_at, second.error) == (
        ReportState.WAITING, rows[0].at, None, "timeout",
    )  # fmt: skip
    assert overall([first, second]) is ReportState.WAITING


def test_an_alarm_that_goes_nowhere_is_not_reported() -> None:
    assert centre_reports([]) == []
    assert overall([]) is ReportState.NONE


def test_a_no_of_one_centre_is_the_state_of_the_whole() -> None:
    reports = centre_reports(
        [Row("a", BEGIN, "refused", 1, "code 3"), Row("b", BEGIN, "queued"), Row("c", BEGIN, "delivered")]
    )
    assert [report.state for report in reports] == [ReportState.REFUSED, ReportState.WAITING, ReportState.REPORTED]
    assert overall(reports) is ReportState.REFUSED
    assert reports[0].error == "code 3"


def test_what_was_tried_in_vain_before_it_was_taken_is_no_error_any_more() -> None:
    (report,) = centre_reports([Row("a", BEGIN, "delivered", 5, "timeout")])
    assert (report.state, report.error) == (ReportState.REPORTED, None)


@pytest.mark.parametrize("state", list(DeliveryState))
def test_every_state_of_a_delivery_means_something(state: DeliveryState) -> None:
    (report,) = centre_reports([Row("a", BEGIN, state.value)])
    wanted = {"queued": "waiting", "retrying": "waiting", "delivered": "reported"}
    assert report.state.value == wanted.get(state.value, "refused")
