"""When something that recurs is due: an RFC 5545 rule in civil time, of at most once a day.

``FREQ=DAILY``, ``FREQ=WEEKLY;BYDAY=MO``, ``FREQ=MONTHLY;BYMONTHDAY=3;BYHOUR=6``; at six in the morning unless it says
otherwise.
"""

import re
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, tzinfo

from dateutil.rrule import rrulestr

from libs.common.clock import CIVIL_ZONE
from libs.common.errors import InvalidInput

FIRST_YEAR, LAST_YEAR = 2000, 2199
"""Of periods and first days; what lies outside is a slip of the pen."""
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


@dataclass(frozen=True, slots=True)
class Schedule:
    """When something is made by itself."""

    rule: str
    """RFC 5545 recurrence without its start, such as ``FREQ=MONTHLY;BYMONTHDAY=3;BYHOUR=6``; civil time."""
    since: date
    """The first day that counts."""
    zone: tzinfo = CIVIL_ZONE
    """Whose civil time."""

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

    @property
    def frequency(self) -> str:
        """``DAILY``, ``WEEKLY``, ``MONTHLY`` or ``YEARLY``."""
        return (_parts_of(self.rule) or {})["FREQ"]

    @property
    def interval(self) -> int:
        """Every how many days, weeks, months or years."""
        return int((_parts_of(self.rule) or {}).get("INTERVAL", "1"))

    def next_after(self, at: datetime) -> datetime:
        """Return when the next one is due after a time, in civil time."""
        parts = {**DEFAULT_PARTS, **(_parts_of(self.rule) or {})}
        if parts["FREQ"] in ("MONTHLY", "YEARLY") and not parts.keys() & {"BYDAY", "BYMONTHDAY"}:
            parts["BYMONTHDAY"] = str(min(self.since.day, LAST_DAY_OF_ALL))
            if parts["FREQ"] == "YEARLY":
                parts.setdefault("BYMONTH", str(self.since.month))
        text = ";".join(f"{name}={value}" for name, value in parts.items())
        first, local = datetime.combine(self.since, time()), at.astimezone(self.zone).replace(tzinfo=None)
        days = _DAYS.get(parts["FREQ"])
        if days is not None and local > first:  # decades of days would be walked through for nothing
            whole = timedelta(days=days * int(parts.get("INTERVAL", "1")))
            first += (local - first) // whole * whole
        found = rrulestr(text, dtstart=first).after(local)
        if found is None:
            raise ValueError(f"{self.rule} is never due after {at.isoformat()}")
        return found.replace(tzinfo=self.zone)


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
