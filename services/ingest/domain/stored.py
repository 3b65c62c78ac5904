"""Reports as rows of the history: what is packed, what stands beside it, and when two of them are one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import IntFlag
from typing import Any

from libs.common.contracts.telemetry import Quality
from services.ingest.domain.layout import Layout


class RowFlag(IntFlag):
    """What is peculiar about a stored report."""

    NONE = 0
    MOVED = 1
    """Another report with other content has its time; this one is kept under the time of its arrival."""
    BACKFILL = 2
    """It came late and was not judged live."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredReport:
    """One report on its way into the history, or out of it."""

    device_id: str
    site_id: str
    source_time: datetime
    received_at: datetime
    points: Mapping[str, float | None]
    quality: Mapping[str, Quality] = field(default_factory=dict)
    flags: RowFlag = RowFlag.NONE
    layout_key: "LayoutKey"
    extra: Mapping[str, Any] | None = None
    """What few reports have: raw numbers, seq, device_time, message_id, and the own time of a moved one."""


@dataclass(frozen=True, slots=True)
class LayoutKey:
    """What reports of one layout have in common besides their points."""

    driver: str
    profile: str | None = None
    profile_version: str | None = None
    ct_ratio: float | None = None
    pt_ratio: float | None = None
    energy_ratio: float | None = None

    @classmethod
    def of(cls, layout: Layout) -> "LayoutKey":
        """Return the key of a layout."""
        return cls(
            layout.driver, layout.profile, layout.profile_version, layout.ct_ratio, layout.pt_ratio,
            layout.energy_ratio,
        )  # fmt: skip


_EXTRA = ("raw", "seq", "device_time", "message_id", "replaces")


def stored_report(payload: Mapping[str, Any], *, backfill: bool) -> StoredReport:
    """Return the row of a message on the readings topics.

    Raises:
        ValueError: It is not a reading: a field is missing or of another type.
    """
    try:
        points = payload["points"]
        if not isinstance(points, dict) or not points:
            raise ValueError("points: expected an object with at least one point")
        if any(value is not None and not isinstance(value, int | float) for value in points.values()):
            raise ValueError("points: expected numbers or null")
        quality = payload.get("quality") or {}
        if not isinstance(quality, dict):
            raise ValueError("quality: expected an object")
        return StoredReport(
            device_id=_text(payload, "device_id"),
            site_id=_text(payload, "site_id"),
            source_time=_time(payload, "source_time"),
            received_at=_time(payload, "received_at"),
            points=points,
            quality={name: Quality(flag) for name, flag in quality.items()} if quality else quality,
            flags=RowFlag.BACKFILL if backfill else RowFlag.NONE,
            layout_key=LayoutKey(
                _text(payload, "driver"), payload.get("profile"), payload.get("profile_version"),
                payload.get("ct_ratio"), payload.get("pt_ratio"), payload.get("energy_ratio"),
            ),
            extra={name: payload[name] for name in _EXTRA if name in payload} or None,
        )  # fmt: skip
    except KeyError as exc:
        raise ValueError(f"{exc.args[0]}: the field is missing") from None


def moved(report: StoredReport, attempt: int) -> StoredReport:
    """Return the report under the time of its arrival; a later attempt takes the next microsecond."""
    place = report.received_at + timedelta(microseconds=attempt)
    if RowFlag.MOVED in report.flags:
        return replace(report, source_time=place)
    extra = {**(report.extra or {}), "source_time": report.source_time.isoformat()}
    return replace(report, source_time=place, flags=report.flags | RowFlag.MOVED, extra=extra)


def days_of(reports: Sequence[StoredReport]) -> set[datetime]:
    """Return the UTC days that the reports fall on, as their first instants."""
    return {
        datetime(time.year, time.month, time.day, tzinfo=UTC) for time in (report.source_time for report in reports)
    }


def by_device(reports: Sequence[StoredReport]) -> dict[str, list[StoredReport]]:
    """Return the reports of each device, the youngest last."""
    found: dict[str, list[StoredReport]] = {}
    for report in reports:
        found.setdefault(report.device_id, []).append(report)
    for group in found.values():
        group.sort(key=lambda report: report.source_time)
    return found


def _text(payload: Mapping[str, Any], name: str) -> str:
    value = payload[name]
    if not isinstance(value, str):
        raise ValueError(f"{name}: expected text")
    return value


def _time(payload: Mapping[str, Any], name: str) -> datetime:
    value = datetime.fromisoformat(_text(payload, name))
    if value.tzinfo is None:
        raise ValueError(f"{name}: expected a time with an offset")
    try:
        return value.astimezone(UTC)
    except OverflowError:  # the first and the last day of the calendar
        raise ValueError(f"{name}: expected a time of our years") from None
