"""What devices tell by themselves: which of their events is which signal of the table.

A device has judged already, with limits and delays of its own, so an event is an alarm as it comes. A row of the
table names profiles and a code, both as patterns in which ``*`` stands for anything. What the code's ``*`` stand for
tells several of a kind apart: ``module_*_fault`` is an alarm for each module. Where rows overlap, the one that says
most about the profile and then about the code holds.
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum

from services.alarm.domain.model import Need

MAX_PATTERN = 200
"""Characters of a pattern, and of a code that is compared with it."""
MAX_STARS = 6
"""A pattern with more of them would be slow to compare, and nobody could read it."""
CACHED = 20_000
"""So many pairs of profile and code are remembered; beyond that all are looked up anew."""
ANY = "*"


class Meaning(StrEnum):
    """What an event does to its alarm."""

    AS_SENT = "as_sent"
    """Begin, end, or an alarm that ends at once, as the event's own phase says."""
    BEGIN = "begin"
    """It begins whatever the phase says; an event of another code ends it."""
    END = "end"
    """It ends the alarm of the same occurrence."""
    IGNORE = "ignore"
    """It is no alarm."""


@dataclass(frozen=True, slots=True)
class EventRule:
    """A row of the table."""

    rule_id: str
    profiles: tuple[str, ...]
    """Names of device profiles, as patterns."""
    code: str
    """The device's own code, as a pattern."""
    meaning: Meaning
    signal: str | None
    """Code of the signal table; None where it is no alarm."""
    occurrence: str
    """Rows of the same one speak of the same alarm: one begins it, another ends it."""
    level: int | None = None
    """In place of the signal's level for the class of the site."""
    needs: frozenset[Need] = frozenset()
    takes: Need | None = None
    enabled: bool = True
    version: int = 1


@dataclass(frozen=True, slots=True)
class Match:
    """The row that an event comes under."""

    rule: EventRule
    part: str
    """What the ``*`` of the code stood for, joined by hyphens: which module, which input."""


@dataclass(frozen=True)
class EventTable:
    """All rows."""

    rules: tuple[EventRule, ...] = ()
    _rows: tuple[tuple[re.Pattern[str], re.Pattern[str], EventRule], ...] = field(init=False, repr=False, compare=False)
    _known: dict[tuple[str, str], Match | None] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        rows = [
            (weight(profile), weight(rule.code), profile, rule)
            for rule in self.rules
            if rule.enabled
            for profile in rule.profiles
        ]
        rows.sort(key=lambda row: (-row[0], -row[1], row[3].rule_id))
        compiled = tuple((expression(profile), expression(rule.code), rule) for _, _, profile, rule in rows)
        object.__setattr__(self, "_rows", compiled)

    def match(self, profile: str, code: str) -> Match | None:
        """Return the row that an event of a device of this profile comes under, None when there is none."""
        key = (profile, code)
        if key in self._known:
            return self._known[key]
        if len(self._known) >= CACHED:
            self._known.clear()
        found = self._known[key] = self._find(profile, code)
        return found

    def _find(self, profile: str, code: str) -> Match | None:
        if len(code) > MAX_PATTERN:
            return None
        for profiles, codes, rule in self._rows:
            if profiles.fullmatch(profile):
                hit = codes.fullmatch(code)
                if hit is not None:
                    return Match(rule, "-".join(hit.groups()))
        return None


def weight(pattern: str) -> int:
    """Return how much a pattern says: its characters without the stars."""
    return len(pattern) - pattern.count(ANY)


def expression(pattern: str) -> re.Pattern[str]:
    """Return a pattern as a regular expression with a group for each star."""
    return re.compile("(.+?)".join(re.escape(part) for part in pattern.split(ANY)), re.DOTALL)


def pattern_fault(pattern: str) -> str | None:
    """Return what is wrong with a pattern, None when nothing is."""
    if not pattern or len(pattern) > MAX_PATTERN or pattern.count(ANY) > MAX_STARS or "**" in pattern:
        return f"1 to {MAX_PATTERN} characters with at most {MAX_STARS} single stars"
    return None
