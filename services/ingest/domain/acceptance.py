"""Whether a report is believed, which time it carries, and whether it is live or late.

A delivery can be delayed but never early. So a device time far ahead of ours is a wrong clock; one far behind
is a wrong clock only when it runs in step with ours from report to report, else it is a delayed delivery. A clock that
was read beside values of now dates nothing: it is right or wrong by itself, and the values are good either way.

Source:
    contracts.md 4.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from libs.common.contracts.base import EARLIEST, LATEST
from libs.common.contracts.telemetry import Quality, RejectReason
from services.ingest.domain.report import Report

IN_STEP_S = 10.0
"""Two reports run in step with our clock when both steps differ by no more than this. [s]"""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is still believed."""

    max_skew_s: float = 300.0
    """A device clock that is off by more is not used. [s]"""
    max_future_s: float = 86400.0
    """A report further ahead than this is no wrong clock but nonsense, and is rejected. [s]"""
    max_lateness_s: float = 60.0
    """A spooled report older than this is not live any more. [s]"""
    max_age_s: float = 400 * 86400.0
    """History is kept this long; an older report has no place in it. [s]"""


class Route(StrEnum):
    """Where an accepted report goes."""

    LIVE = "live"
    LATE = "late"
    DUPLICATE = "duplicate"
    """The last report of the device again; it is acknowledged and goes nowhere."""


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """What is remembered of a device's last report."""

    source_time: datetime
    received_at: datetime
    device_time: datetime | None = None
    content: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """An accepted report with its final time."""

    report: Report
    route: Route
    memory: DeviceMemory
    skew_s: float | None = None
    """Device clock minus ours where the device's clock was not used. [s]"""


@dataclass(frozen=True, slots=True)
class Refused:
    """A report that is not taken."""

    reason: RejectReason
    detail: str
    detail_zh: str


def judge(report: Report, last: DeviceMemory | None, limits: Limits, *, history: bool = False) -> Verdict | Refused:
    """Return what becomes of a report.

    Args:
        report: With the device's own time as ``source_time``, or ours where the device gave none.
        last: What is remembered of the device.
        limits: What is still believed.
        history: The report is not live by nature (an import): its time is taken as it is, or not at all.
    """
    ahead = (report.source_time - report.received_at).total_seconds()
    future_limit = limits.max_skew_s if history else limits.max_future_s
    if ahead > future_limit:
        return Refused(
            RejectReason.FUTURE_TIME,
            f"source_time {report.source_time.isoformat()} lies {ahead:.0f} s ahead of our clock, "
            f"expected at most {future_limit:.0f} s",
            f"上报时间 {report.source_time.isoformat()} 超前本地时钟 {ahead:.0f} 秒,允许 {future_limit:.0f} 秒",
        )
    if -ahead > limits.max_age_s:
        return Refused(
            RejectReason.TOO_OLD,
            f"source_time {report.source_time.isoformat()} is older than the history that is kept "
            f"({limits.max_age_s / 86400:.0f} days)",
            f"上报时间 {report.source_time.isoformat()} 早于历史保存期限({limits.max_age_s / 86400:.0f} 天)",
        )
    device_time = report.device_time or report.source_time
    skew = None
    if report.tells_clock:
        off_s = (device_time - report.received_at).total_seconds()
        skew = off_s if abs(off_s) > limits.max_skew_s else None
    elif not history and _clock_is_wrong(device_time, report.received_at, last, limits.max_skew_s):
        skew = (device_time - report.received_at).total_seconds()
        report = replace(
            report,
            source_time=report.received_at,
            device_time=device_time,
            quality=_marked(report.points, report.quality),
        )
    if report.device_time is not None and not EARLIEST <= report.device_time < LATEST:
        # A clock that shows no year of ours is told as wrong; the time itself is none that a topic carries.
        report = replace(report, device_time=None)
    content = report.content()
    memory = DeviceMemory(report.source_time, report.received_at, device_time, content)
    if last is not None and report.source_time == last.source_time and content == last.content:
        return Verdict(report, Route.DUPLICATE, last, skew)
    newer = last is None or report.source_time > last.source_time
    if history or not newer or (report.received_at - report.source_time).total_seconds() > limits.max_skew_s:
        return Verdict(report, Route.LATE, memory if newer else (last or memory), skew)
    return Verdict(report, Route.LIVE, memory, skew)


def is_still_live(source_time: datetime, now: datetime, last_published: datetime | None, max_lateness_s: float) -> bool:
    """Return whether a report that waited in the spool may still go to the live topic."""
    if now - source_time > timedelta(seconds=max_lateness_s):
        return False
    return last_published is None or source_time > last_published


def _clock_is_wrong(device_time: datetime, received_at: datetime, last: DeviceMemory | None, max_skew_s: float) -> bool:
    ahead = (device_time - received_at).total_seconds()
    if abs(ahead) <= max_skew_s:
        return False
    if ahead > 0:
        return True
    if last is None or last.device_time is None:
        return False
    ours = (received_at - last.received_at).total_seconds()
    theirs = (device_time - last.device_time).total_seconds()
    was_off = (last.received_at - last.device_time).total_seconds() > max_skew_s
    # A backlog sent in one go has steps of its own; a slow clock has ours.
    return was_off and ours > IN_STEP_S and abs(ours - theirs) <= IN_STEP_S


def _marked(points: Mapping[str, float | None], quality: Mapping[str, Quality]) -> dict[str, Quality]:
    """Return the flags with ``clock_skew`` on every point that has none worse."""
    return {name: quality.get(name, Quality.CLOCK_SKEW) for name in points}
