"""The civil period that a report is of, by the name that people and file names use, and when a scheduled one is due.

    energy_daily    2026-03-01        in hours
    energy_weekly   2026-W09          in days, from Monday (GB/T 7408)
    energy_monthly  2026-03           in days
    energy_yearly   2026              in months
    savings         2026-03           a month

A recurrence is an RFC 5545 rule in civil time. What falls due is the report of the last period that is over, some time
after its end, since late data still arrive.
"""

import re
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from enum import StrEnum

from dateutil.rrule import rrulestr

from libs.common.clock import CIVIL_ZONE
from libs.common.errors import InvalidInput
from services.carbon.domain.levels.periods import Step
from services.carbon.domain.reports.content import ReportKind, Text

FIRST_YEAR, LAST_YEAR = 2000, 2199
"""Of periods; what lies outside is a slip of the pen."""
RULE_LENGTH_MAX = 200
DEFAULT_PARTS = {"BYHOUR": "6", "BYMINUTE": "0", "BYSECOND": "0"}
"""At six in the morning: at midnight the last readings of a period are still on their way."""
LAST_DAY_OF_ALL = 28
"""The last day that every month has."""
_DAY_OF_MONTH = r"(?:-?(?:[1-9]|1[0-9]|2[0-8]))"
_WEEKDAY = "(?:MO|TU|WE|TH|FR|SA|SU)"
_PART_VALUES = {
    "INTERVAL": r"[1-9][0-9]?",
    "BYHOUR": r"1?[0-9]|2[0-3]",
    "BYMINUTE": r"[1-5]?[0-9]",
    "BYDAY": rf"(?:-?[1-4])?{_WEEKDAY}(?:,(?:-?[1-4])?{_WEEKDAY}){{0,9}}",
    "BYMONTHDAY": rf"{_DAY_OF_MONTH}(?:,{_DAY_OF_MONTH}){{0,9}}",
    "BYSETPOS": r"-?[1-4]",
    "BYMONTH": r"(?:[1-9]|1[0-2])(?:,(?:[1-9]|1[0-2])){0,11}",
}
_TIME_OF_DAY = frozenset({"FREQ", "INTERVAL", "BYHOUR", "BYMINUTE"})
_DAYS = {"DAILY": 1, "WEEKLY": 7}
"""Length of the periods that are always as long."""
_OF_MONTH = _TIME_OF_DAY | {"BYDAY", "BYMONTHDAY", "BYSETPOS"}
_PARTS = {
    "DAILY": _TIME_OF_DAY,
    "WEEKLY": _TIME_OF_DAY | {"BYDAY"},
    "MONTHLY": _OF_MONTH,
    "YEARLY": _OF_MONTH | {"BYMONTH"},
}
"""Parts of a rule by its frequency: so few that each of its periods has a time, and none has two on one day. What never
falls due would be looked for until the year 9999, which takes seconds of a processor."""


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


@dataclass(frozen=True, slots=True)
class Schedule:
    """When reports are made by themselves."""

    rule: str
    """RFC 5545 recurrence without its start, such as ``FREQ=MONTHLY;BYMONTHDAY=3;BYHOUR=6``; civil time."""
    since: date
    """The first day that counts."""

    def __post_init__(self) -> None:
        """Refuse a rule by which nothing or far too much would be made.

        Raises:
            InvalidInput: It is no rule of those above, or begins in another century.
        """
        if _parts_of(self.rule) is None:
            raise _wrong_rule(self.rule)
        if not FIRST_YEAR <= self.since.year <= LAST_YEAR:
            raise InvalidInput(
                f"schedule: expected a first day from {FIRST_YEAR} to {LAST_YEAR}, found {self.since.isoformat()}",
                message_zh=f"schedule:起始日应在 {FIRST_YEAR} 至 {LAST_YEAR} 年间,实际为 {self.since.isoformat()}",
            )

    def next_after(self, at: datetime) -> datetime:
        """Return when the next report is due after a time, in civil time."""
        parts = {**DEFAULT_PARTS, **(_parts_of(self.rule) or {})}
        if parts["FREQ"] in ("MONTHLY", "YEARLY") and not parts.keys() & {"BYDAY", "BYMONTHDAY"}:
            parts["BYMONTHDAY"] = str(min(self.since.day, LAST_DAY_OF_ALL))
            if parts["FREQ"] == "YEARLY":
                parts.setdefault("BYMONTH", str(self.since.month))
        text = ";".join(f"{name}={value}" for name, value in parts.items())
        first, local = datetime.combine(self.since, time()), at.astimezone(CIVIL_ZONE).replace(tzinfo=None)
        days = _DAYS.get(parts["FREQ"])
        if days is not None and local > first:  # decades of days would be walked through for nothing
            whole = timedelta(days=days * int(parts.get("INTERVAL", "1")))
            first += (local - first) // whole * whole
        found = rrulestr(text, dtstart=first).after(local)
        if found is None:
            raise ValueError(f"{self.rule} is never due after {at.isoformat()}")
        return found.replace(tzinfo=CIVIL_ZONE)


def _parts_of(rule: str) -> dict[str, str] | None:
    """Return the parts of a rule that a schedule may have, None for any other."""
    if len(rule) > RULE_LENGTH_MAX:
        return None
    parts: dict[str, str] = {}
    for part in rule.split(";"):
        name, _, value = part.partition("=")
        if name in parts:
            return None
        parts[name] = value
    frequency = parts.get("FREQ", "")
    if not parts.keys() <= _PARTS.get(frequency, frozenset()):
        return None
    if not all(re.fullmatch(_PART_VALUES[name], value) for name, value in parts.items() if name != "FREQ"):
        return None
    days = parts.get("BYDAY", "")
    ordinal = any(sign.isdigit() for sign in days)
    if days and "BYMONTHDAY" in parts:  # the Friday that is a 13th: years apart
        return None
    if "BYSETPOS" in parts and (not days or ordinal):
        return None
    if ordinal and frequency == "WEEKLY":
        return None
    return parts


def _wrong_rule(rule: str) -> InvalidInput:
    return InvalidInput(
        "schedule: expected a recurrence of at most once a day, on days that every month has, "
        "such as FREQ=MONTHLY;BYMONTHDAY=3;BYHOUR=6, "
        f"found {rule[:RULE_LENGTH_MAX]!r}",
        message_zh=f"schedule:应为每日至多一次、且日期每月都有的重复规则,如 FREQ=MONTHLY;BYMONTHDAY=3;BYHOUR=6,"
        f"实际为 {rule[:RULE_LENGTH_MAX]!r}",
    )
