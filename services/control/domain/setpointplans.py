"""Plans that set a point inside devices at the begin of a window and again at its end, such as less cooling at night.

Nothing is switched. What a window's begin has ordered is set back at its end, however late that is; a begin that comes
too late is dropped, as an OFF would be. A device whose point is just being set by somebody else is waited for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from libs.common.ids import PlanId
from services.control.domain.plans import InvalidPlan, PlanState, Schedule, check_schedule

MIN_WINDOW_S = 600.0
"""Shortest window, and shortest time between two: a room follows slowly. [s]"""
GRACE = timedelta(seconds=600)
"""A begin that is later than this is dropped."""
AGAIN = timedelta(seconds=15)
"""Until a device is asked again whose point is being set by another order."""
MAX_DEVICES = 2000


class WindowState(StrEnum):
    """How far one window of such a plan is."""

    PLANNED = "planned"
    BEGUN = "begun"
    """Its value was ordered, and will be set back."""
    DONE = "done"
    """It was set back, as far as the orders say."""
    SKIPPED = "skipped"
    CALLED_OFF = "called_off"


@dataclass(frozen=True, slots=True)
class SetpointPlan:
    """What is to be set, in which devices, and when."""

    plan_id: PlanId
    name: str
    state: PlanState
    target: Mapping[str, Any]
    """Which devices are meant, as the plan says it."""
    device_ids: tuple[str, ...]
    """Those that it meant at the approval; of a draft those that it meant when it was drafted."""
    point: str
    value: float
    """From the begin of a window, in the point's unit."""
    value_after: float
    """From its end on."""
    schedule: Schedule
    calendar_ids: tuple[str, ...]
    created_by: str
    created_at: datetime
    note: str | None = None
    approved_by: str | None = None
    approved_at: datetime | None = None
    ended_by: str | None = None
    ended_at: datetime | None = None
    end_reason: str | None = None

    @property
    def is_agreed(self) -> bool:
        """Whether a second person stands behind it."""
        return self.approved_by is not None and self.approved_by != self.created_by


@dataclass(frozen=True, slots=True)
class SetpointWindow:
    """One window on one date."""

    plan_id: PlanId
    start_local: datetime
    """Wall time of its begin in the plan's zone, without offset."""
    begin_at: datetime
    end_at: datetime
    state: WindowState
    next_at: datetime | None
    """When it is looked at again; None once it is over."""
    reason: str = ""
    left: tuple[str, ...] = ()
    """Devices that the present step waits for; empty before its first try, which is about all."""
    set_in: tuple[str, ...] = ()
    """Devices in which the value was ordered."""
    begin_groups: tuple[str, ...] = ()
    end_groups: tuple[str, ...] = ()


def check_times(schedule: Schedule) -> None:
    """Check that the schedule can be followed.

    Raises:
        InvalidPlan: It names the field and what was expected.
    """
    check_schedule(schedule, min_off_s=0.0, min_on_s=MIN_WINDOW_S)
    for window in schedule.windows:
        if window.length.total_seconds() < MIN_WINDOW_S:
            raise InvalidPlan(
                f"windows: {window.start} to {window.end} is shorter than {MIN_WINDOW_S:g} s",
                message_zh=f"时段 {window.start} 到 {window.end} 短于 {MIN_WINDOW_S:g} 秒",
                field="windows",
            )


def is_too_late(window: SetpointWindow, now: datetime) -> bool:
    """Return whether nothing more of a window is begun."""
    return now > window.begin_at + GRACE or now >= window.end_at


def begun(
    window: SetpointWindow, ordered: Sequence[str], busy: Sequence[str], group_id: str | None, why: str, now: datetime
) -> SetpointWindow:
    """Return a window after a try to begin it.

    Args:
        window: As it was.
        ordered: Devices in which the value was ordered now.
        busy: Devices that are to be asked again.
        group_id: The order, if there was one.
        why: What kept the others as they were.
        now: The time.
    """
    after = replace(
        window, set_in=(*window.set_in, *ordered),
        begin_groups=window.begin_groups if group_id is None else (*window.begin_groups, group_id),
    )  # fmt: skip
    if busy and not is_too_late(window, now + AGAIN):
        return replace(after, left=tuple(busy), reason="being_adjusted", next_at=now + AGAIN)
    if after.set_in:
        return replace(after, state=WindowState.BEGUN, left=(), reason="", next_at=window.end_at)
    return replace(after, state=WindowState.SKIPPED, left=(), reason=why or "being_adjusted", next_at=None)


def finished(window: SetpointWindow, busy: Sequence[str], group_id: str | None, now: datetime) -> SetpointWindow:
    """Return a window after a try to set back what it has set.

    Args:
        window: As it was.
        busy: Devices that are to be asked again.
        group_id: The order, if there was one.
        now: The time.
    """
    groups = window.end_groups if group_id is None else (*window.end_groups, group_id)
    if busy:
        return replace(window, left=tuple(busy), reason="being_adjusted", next_at=now + AGAIN, end_groups=groups)
    return replace(window, state=WindowState.DONE, left=(), reason="", next_at=None, end_groups=groups)
