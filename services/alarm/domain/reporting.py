"""Where an alarm stands with each centre (上报状态), out of what became of its deliveries."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

BEGIN = "alarm_begin"
END = "alarm_end"
"""Kinds of items that are delivered."""


class ReportState(StrEnum):
    """How far the reports of an alarm are."""

    NONE = "none"
    """No centre is to be told, or not yet: it is explained by something, or of no routed site."""
    WAITING = "waiting"
    """Something is queued or tried again."""
    REPORTED = "reported"
    """All that there was to tell has been acknowledged."""
    REFUSED = "refused"
    """A centre said no, or somebody gave up."""


class Delivery(Protocol):
    """What became of the delivery of one event to one destination."""

    @property
    def destination(self) -> str:
        """The centre or subscriber."""

    @property
    def item_kind(self) -> str | None:
        """Begin or end."""

    @property
    def state(self) -> str:
        """As on ``delivery.events``."""

    @property
    def at(self) -> datetime:
        """Since when."""

    @property
    def error(self) -> str | None:
        """What the receiver or the network said."""


@dataclass(frozen=True, slots=True)
class CentreReport:
    """Where an alarm stands with one centre."""

    destination: str
    state: ReportState
    begin_reported_at: datetime | None
    """When the centre acknowledged the begin (上报时间); None while it has not."""
    end_reported_at: datetime | None
    error: str | None
    """Of what is not acknowledged."""


_STATES = {
    "queued": ReportState.WAITING,
    "retrying": ReportState.WAITING,
    "delivered": ReportState.REPORTED,
    "refused": ReportState.REFUSED,
    "given_up": ReportState.REFUSED,
}
_WORST_FIRST = (ReportState.REFUSED, ReportState.WAITING, ReportState.REPORTED, ReportState.NONE)


def centre_reports(deliveries: Iterable[Delivery]) -> list[CentreReport]:
    """Return how an alarm stands with each centre, in order of their ids."""
    by_centre: dict[str, list[Delivery]] = {}
    for one in deliveries:
        by_centre.setdefault(one.destination, []).append(one)
    return [_report(destination, found) for destination, found in sorted(by_centre.items())]


def overall(reports: Iterable[CentreReport]) -> ReportState:
    """Return how an alarm stands altogether: as with the centre where it stands worst."""
    states = {report.state for report in reports}
    return next((state for state in _WORST_FIRST if state in states), ReportState.NONE)


def _report(destination: str, found: list[Delivery]) -> CentreReport:
    states = {_STATES.get(one.state, ReportState.WAITING) for one in found}
    errors = [one.error for one in sorted(found, key=lambda one: one.at) if one.error and one.state != "delivered"]
    return CentreReport(
        destination=destination,
        state=next(state for state in _WORST_FIRST if state in states),
        begin_reported_at=_acknowledged(found, BEGIN),
        end_reported_at=_acknowledged(found, END),
        error=errors[-1] if errors else None,
    )


def _acknowledged(found: list[Delivery], kind: str) -> datetime | None:
    return min((one.at for one in found if one.item_kind == kind and one.state == "delivered"), default=None)
