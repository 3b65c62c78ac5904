"""The same cause on many devices within a short time is one event: a power failure, a broken platform, a bad batch."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.alarm.domain.diagnosis.causes import Cause


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """When diagnoses are a group."""

    more_than: int = 5
    within: timedelta = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a device is, as far as causes can have that in common."""

    site_id: str
    line_id: str | None = None
    gateway_id: str | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """An open diagnosis, as grouping sees it."""

    diagnosis_id: str
    began_at: datetime
    group_id: str | None


@dataclass(frozen=True, slots=True)
class Grouped:
    """What becomes of a new diagnosis."""

    joins: str | None
    """The group that it belongs to; None for none."""
    formed_by: Collection[str] = ()
    """The earlier diagnoses that now belong to the group as well; not empty only when the group is new."""


def common_cause(cause: Cause, place: Place) -> str:
    """Return what diagnoses must share to have one cause: a lost site explains that site only."""
    if cause is Cause.SITE_POWER_LOSS:
        return f"{cause}|site:{place.site_id}"
    if cause is Cause.GATEWAY_OFFLINE and (place.gateway_id or place.line_id):
        return f"{cause}|gateway:{place.gateway_id or place.line_id}"
    if cause in (Cause.LINE_SILENT, Cause.PLATFORM_PUSH_BROKEN) and place.line_id:
        return f"{cause}|line:{place.line_id}"
    return cause.value


def group(new: Member, others: Collection[Member], limits: GroupLimits) -> Grouped:
    """Return the group of a new diagnosis.

    It joins a group one of whose members began within the window before it; else it forms one when more than the
    limit, itself included, began within the window. The id of a group is that of its first diagnosis.

    Args:
        new: The new one.
        others: The open diagnoses of the same ``common_cause``.
        limits: When diagnoses are a group.
    """
    recent = [
        one
        for one in others
        if one.diagnosis_id != new.diagnosis_id and abs(new.began_at - one.began_at) <= limits.within
    ]
    groups = sorted({one.group_id for one in recent if one.group_id is not None})
    if groups:
        return Grouped(groups[0])
    if len(recent) + 1 <= limits.more_than:
        return Grouped(None)
    first = min([*recent, new], key=lambda one: (one.began_at, one.diagnosis_id))
    return Grouped(first.diagnosis_id, tuple(sorted(one.diagnosis_id for one in recent)))
