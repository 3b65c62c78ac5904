"""The civil period that a report is of, by the name that people and file names use.

    energy_daily    2026-03-01        in hours
    energy_weekly   2026-W09          in days, from Monday (GB/T 7408)
    energy_monthly  2026-03           in days
    energy_yearly   2026              in months
    savings         2026-03           a month

A recurrence is as ``libs.common.recurrence`` has it. What falls due is the report of the last period that is over,
some time after its end, since late data still arrive.
"""

import re
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from enum import StrEnum

from libs.common.clock import CIVIL_ZONE
from libs.common.errors import InvalidInput
from libs.common.recurrence import FIRST_YEAR, LAST_YEAR
from services.carbon.domain.levels.periods import Step
from services.carbon.domain.reports.content import ReportKind, Text


class Length(StrEnum):
    """How long a period is."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"


LENGTHS = {
    ReportKind.ENERGY_DAILY: Length.DAY,
    ReportKind.ENERGY_WEEKLY: Length.WEEK,
    ReportKind.ENERGY_MONTHLY: Length.MONTH,
    ReportKind.ENERGY_YEARLY: Length.YEAR,
    ReportKind.SAVINGS: Length.MONTH,
}
"""Of the reports that are of a civil period; the others are of what somebody published or signed."""
STEPS = {Length.DAY: Step.HOUR, Length.WEEK: Step.DAY, Length.MONTH: Step.DAY, Length.YEAR: Step.MONTH}
"""Of the rows of a report of energy."""
WHOLE_STEPS = {Length.DAY: Step.DAY, Length.WEEK: Step.WEEK, Length.MONTH: Step.MONTH, Length.YEAR: Step.YEAR}
"""Of a period as a whole."""
_SHAPES = {
    Length.DAY: re.compile(r"(\d{4})-(\d{2})-(\d{2})", re.ASCII),
    Length.WEEK: re.compile(r"(\d{4})-W(\d{2})", re.ASCII),
    Length.MONTH: re.compile(r"(\d{4})-(\d{2})", re.ASCII),
    Length.YEAR: re.compile(r"(\d{4})", re.ASCII),
}
_EXAMPLES = {Length.DAY: "2026-03-01", Length.WEEK: "2026-W09", Length.MONTH: "2026-03", Length.YEAR: "2026"}


@dataclass(frozen=True, slots=True)
class Period:
    """A civil period with its name."""

    length: Length
    first: date
    end: date
    """The day after its last."""

    @property
    def name(self) -> str:
        """As it is written in addresses and file names."""
        match self.length:
            case Length.DAY:
                return self.first.isoformat()
            case Length.WEEK:
                year, week, _ = self.first.isocalendar()
                return f"{year:04}-W{week:02}"
            case Length.MONTH:
                return f"{self.first.year:04}-{self.first.month:02}"
            case Length.YEAR:
                return f"{self.first.year:04}"

    @property
    def words(self) -> Text:
        """As it is written in titles."""
        last = self.end - timedelta(days=1)
        match self.length:
            case Length.DAY:
                return Text(self.name, f"{self.first.year}年{self.first.month}月{self.first.day}日")
            case Length.WEEK:
                year, week, _ = self.first.isocalendar()
                days = f"{self.first.isoformat()} – {last.isoformat()}"
                return Text(f"week {week} of {year} ({days})", f"{year}年第{week}周({days})")
            case Length.MONTH:
                return Text(self.name, f"{self.first.year}年{self.first.month}月")
            case Length.YEAR:
                return Text(self.name, f"{self.first.year}年")

    @property
    def start_at(self) -> datetime:
        """Midnight of its first day."""
        return datetime.combine(self.first, time(), CIVIL_ZONE)

    @property
    def end_at(self) -> datetime:
        """Midnight after its last day."""
        return datetime.combine(self.end, time(), CIVIL_ZONE)


def period_around(length: Length, day: date) -> Period:
    """Return the period that a day lies in."""
    match length:
        case Length.DAY:
            return Period(length, day, day + timedelta(days=1))
        case Length.WEEK:
            monday = day - timedelta(days=day.weekday())
            return Period(length, monday, monday + timedelta(days=7))
        case Length.MONTH:
            first = day.replace(day=1)
            return Period(length, first, (first + timedelta(days=31)).replace(day=1))
        case Length.YEAR:
            return Period(length, date(day.year, 1, 1), date(day.year + 1, 1, 1))


def parse_period(length: Length, name: str) -> Period:
    """Return a period by its name.

    Raises:
        InvalidInput: There is none of that name.
    """
    found = _SHAPES[length].fullmatch(name)
    try:
        if found is None:
            raise ValueError(name)
        numbers = [int(one) for one in found.groups()]
        if not FIRST_YEAR <= numbers[0] <= LAST_YEAR:
            raise ValueError(name)
        if length is Length.WEEK:
            return period_around(length, date.fromisocalendar(numbers[0], numbers[1], 1))
        return period_around(length, date(*[*numbers, 1, 1][:3]))
    except ValueError as exc:
        raise InvalidInput(
            f"period: expected a {length} such as {_EXAMPLES[length]}, found {name!r}",
            message_zh=f"period:应为{_LENGTHS_ZH[length]},如 {_EXAMPLES[length]},实际为 {name!r}",
        ) from exc


_LENGTHS_ZH = {Length.DAY: "日", Length.WEEK: "周", Length.MONTH: "月", Length.YEAR: "年"}


def last_over(length: Length, at: datetime) -> Period:
    """Return the last period that is over at a time."""
    running = period_around(length, at.astimezone(CIVIL_ZONE).date())
    return period_around(length, running.first - timedelta(days=1))
