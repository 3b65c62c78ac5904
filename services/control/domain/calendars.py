"""Calendars: days off, working weekends (调休), and the tariff's bands of a day.

The day of the week alone does not say whether people work: China moves weekends so that holidays become longer. The
State Council publishes the days for one year at a time, so a calendar speaks only for the years of which it has days.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum

from libs.common.errors import InvalidInput

SATURDAY = 6
"""ISO number of the first day of the weekend."""


class DayClass(StrEnum):
    """On which days of a working calendar windows may start."""

    ANY = "any"
    WORKING_DAYS = "working_days"
    DAYS_OFF = "days_off"


class YearNotCovered(InvalidInput):
    """Nobody knows yet which days of that year are worked."""

    code = "calendar_year_missing"
    title_zh = "日历缺少该年数据"


@dataclass(frozen=True, slots=True)
class Calendar:
    """Named days."""

    calendar_id: str
    name: str
    source: str
    """Where the days were taken from."""
    days: Mapping[date, str]
    """Days off, with the reason."""
    changed_by: str
    changed_at: datetime | None
    """None of a calendar that ships with Wattring."""
    working_days: Mapping[date, str] = field(default_factory=dict)
    """Saturdays and Sundays that are worked, with the reason."""

    @property
    def years(self) -> frozenset[int]:
        """Years that it speaks for."""
        return frozenset(day.year for days in (self.days, self.working_days) for day in days)

    def is_working(self, day: date) -> bool:
        """Return whether people work on that day; the year must be covered (``require_years``)."""
        if day in self.working_days:
            return True
        return day.isoweekday() < SATURDAY and day not in self.days

    def allows(self, day: date, day_class: DayClass) -> bool:
        """Return whether a window may start on that day."""
        if day_class is DayClass.ANY:
            return True
        return self.is_working(day) is (day_class is DayClass.WORKING_DAYS)

    def require_years(self, years: Iterable[int]) -> None:
        """Check that it speaks for all these years.

        Raises:
            YearNotCovered: It does not for some.
        """
        missing = sorted(set(years) - self.years)
        if missing:
            known = f"{min(self.years)}-{max(self.years)}" if self.years else "none"
            names = ", ".join(map(str, missing))
            raise YearNotCovered(
                f"working_calendar: {self.calendar_id} has no days of {names} (it has {known}); import them when they"
                " are published, or let the plan end before",
                message_zh=f"日历 {self.calendar_id} 没有 {names} 年的数据(现有 {known});请在发布后导入,或缩短策略",
                field="working_calendar",
                years=missing,
            )
