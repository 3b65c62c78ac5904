"""The days that count for a plan: those of its calendars, stored or shipped."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from libs.common.db import ReadConn, WriteConn
from services.control.domain.calendars import Calendar
from services.control.domain.plans import InvalidPlan, Schedule, WindowInstance, instances
from services.control.library import shipped
from services.control.store import plans as plan_store


@dataclass(frozen=True, slots=True)
class PlanDays:
    """What calendars say about a schedule."""

    holidays: frozenset[date]
    working: Calendar | None

    def instances(self, schedule: Schedule) -> Iterable[WindowInstance]:
        """Yield the schedule's windows."""
        return instances(schedule, holidays=self.holidays, working=self.working)


async def fetch_calendars(conn: ReadConn | WriteConn) -> list[Calendar]:
    """Return all calendars; a stored one takes the place of a shipped one of that id."""
    found = {calendar.calendar_id: calendar for calendar in shipped()}
    found.update((calendar.calendar_id, calendar) for calendar in await plan_store.fetch_calendars(conn))
    return [found[calendar_id] for calendar_id in sorted(found)]


async def fetch_days(conn: ReadConn | WriteConn, schedule: Schedule, calendar_ids: Sequence[str]) -> PlanDays:
    """Return the days that count for a schedule.

    Raises:
        InvalidPlan: It names a calendar that does not exist.
    """
    wanted = {*calendar_ids} | ({schedule.working_calendar} - {None})
    if not wanted:
        return PlanDays(frozenset(), None)
    known = {calendar.calendar_id: calendar for calendar in await fetch_calendars(conn)}
    missing = ", ".join(sorted(str(one) for one in wanted - known.keys()))
    if missing:
        raise InvalidPlan(f"calendar_ids: unknown: {missing}", message_zh=f"未知日历:{missing}", field="calendar_ids")
    return PlanDays(
        holidays=frozenset(day for calendar_id in calendar_ids for day in known[calendar_id].days),
        working=None if schedule.working_calendar is None else known[schedule.working_calendar],
    )
