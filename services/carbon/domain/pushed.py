"""The energies that a meter tells of intervals of its own, held against its register a civil day at a time.

The register has the last word. A day whose intervals do not add up to what the register counted is a finding: an
interval was lost or told twice under another time, the meter's clock jumped, or the number is not what its profile
says it is.

Source:
    The platform's energy methods, section 1.3.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, time, timedelta

from libs.common.clock import CIVIL_ZONE
from libs.common.ids import CircuitId, DeviceId
from services.carbon.domain.booking import CircuitFinding
from services.carbon.domain.intervals import STEP_S
from services.carbon.domain.registers import COUNT_KWH, Finding, FindingKind

TOLERANCE = 0.005
"""Both may differ by this share of the day's energy."""
DAY = timedelta(days=1)
GRACE = timedelta(hours=1)
"""So long after midnight a day is looked at: its last register may come a little after its last interval."""
LOOKED_BACK = 3
"""Days that are looked at when one is over: what was late for the days before has come meanwhile."""


@dataclass(frozen=True, slots=True)
class AskedDay:
    """A civil day that one meter served a circuit throughout."""

    circuit: CircuitId
    device: DeviceId
    start: datetime
    period_s: float
    """How long the meter's intervals are. [s]"""

    @property
    def end(self) -> datetime:
        """The next midnight."""
        return self.start + DAY


@dataclass(frozen=True, slots=True)
class PushedDay:
    """What was told and what was counted in it."""

    asked: AskedDay
    told: int
    """Intervals that the meter told."""
    told_kwh: float
    counted: int
    """Quarter hours whose energy is known by the register."""
    counted_kwh: float

    @property
    def finding(self) -> CircuitFinding | None:
        """What a person has to look at; None where both agree, or one of them is not whole."""
        day_s = DAY.total_seconds()
        if self.told != round(day_s / self.asked.period_s) or self.counted != round(day_s / STEP_S):
            return None
        most = TOLERANCE * self.counted_kwh + 2.0 * COUNT_KWH
        if abs(self.told_kwh - self.counted_kwh) <= most:
            return None
        at = self.asked.start.timestamp()
        return CircuitFinding(self.asked.circuit, Finding(FindingKind.SUM_DIFFERS, at, self.counted_kwh, self.told_kwh))


def midnight_before(at: datetime) -> datetime:
    """Return when the civil day began of the interval that ends at a time; at midnight that is the day before."""
    day = (at - timedelta(microseconds=1)).astimezone(CIVIL_ZONE).date()
    return datetime.combine(day, time(), CIVIL_ZONE)


def days_due(before: datetime | None, told: Collection[datetime]) -> set[datetime]:
    """Return the days to look at, by their beginning, now that a meter has told these intervals.

    Args:
        before: The end of the newest interval that was known before; None where there was none.
        told: Ends of intervals that are new, or other than they were; at least one.
    """
    newest = max(told) if before is None else max(before, *told)
    over = midnight_before(newest - GRACE)  # the day that runs
    due = {day for at in told if before is not None and at <= before and (day := midnight_before(at)) < over}
    reached = midnight_before((before or min(told)) - GRACE)
    if reached < over:
        day = reached - (LOOKED_BACK - 1) * DAY
        while day < over:
            due.add(day)
            day += DAY
    return due
