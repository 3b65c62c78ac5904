"""A plan as an iCalendar file (RFC 5545), for the calendars that people already look at.

Every window is an event of its own, with its instants in UTC. So the file shows exactly what will be switched, also
where a recurrence rule would have to say what happens when the clock is put forward.
"""

from collections.abc import Iterable
from datetime import datetime

from icalendar import Calendar, Event

from services.control.domain.plans import Plan, PlanState, WindowInstance
from services.control.domain.setpointplans import SetpointPlan

PRODUCT = "-//Wattring//plans//ZH"
STATUS = {PlanState.DRAFT: "TENTATIVE", PlanState.ENDED: "CANCELLED"}
"""RFC 5545 3.8.1.11; plans in force are CONFIRMED."""


def write_plan(plan: Plan, windows: Iterable[WindowInstance], now: datetime) -> bytes:
    """Return the plan's windows as a file.

    Args:
        plan: Whose windows.
        windows: Which.
        now: The time, of which the file is (DTSTAMP).
    """
    return _file(plan, windows, now, f"关断 OFF: {plan.name} ({len(plan.load_ids)})")


def write_setpoint_plan(plan: SetpointPlan, windows: Iterable[WindowInstance], now: datetime) -> bytes:
    """Return the windows of a plan of set points as a file; the arguments are those of ``write_plan``."""
    what = f"{plan.point} {plan.value:g} → {plan.value_after:g}"
    return _file(plan, windows, now, f"设定 SET: {plan.name}: {what} ({len(plan.device_ids)})")


def _file(plan: Plan | SetpointPlan, windows: Iterable[WindowInstance], now: datetime, summary: str) -> bytes:
    file = Calendar()
    file.add("prodid", PRODUCT)
    file.add("version", "2.0")
    file.add("calscale", "GREGORIAN")
    file.add("x-wr-calname", plan.name)
    for window in windows:
        file.add_component(_event(plan, window, now, summary))
    return bytes(file.to_ical())


def _event(plan: Plan | SetpointPlan, window: WindowInstance, now: datetime, summary: str) -> Event:
    event = Event()
    event.add("uid", f"{window.start_local:%Y%m%dT%H%M%S}.{plan.plan_id}@wattring")
    event.add("dtstamp", now)
    event.add("dtstart", window.off_at)
    event.add("dtend", window.on_at)
    event.add("summary", summary)
    if plan.note:
        event.add("description", plan.note)
    event.add("status", STATUS.get(plan.state, "CONFIRMED"))
    # Whoever looks at the plan is not busy for it.
    event.add("transp", "TRANSPARENT")
    return event
