"""Year on year (同比), period on period (环比), rank and benchmark.

Source:
    The platform's energy methods, sections 6 and 7.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from libs.common.clock import CIVIL_ZONE
from services.carbon.domain.levels.periods import Step

LIKE_FOR_LIKE = 0.9
"""A site counts in a like-for-like comparison from this completeness on, in both periods. [1]"""
SPRING_MONTHS = (1, 2)
"""Spring Festival moves between them, so only the two together compare."""
PEERS_MIN = 5
"""Fewer peers than this are no benchmark."""


class NoChange(StrEnum):
    """Why a relative change has no value."""

    NO_BASE = "no_base"
    ZERO_BASE = "zero_base"
    SIGN_CHANGE = "sign_change"
    UNKNOWN = "unknown"


class Against(StrEnum):
    """What a period is compared with."""

    YEAR = "year_on_year"
    """同比: the same dates a year earlier."""
    PERIOD = "period_on_period"
    """环比: the period before."""


@dataclass(frozen=True, slots=True)
class Span:
    """``[start, end)``, aware."""

    start: datetime
    end: datetime

    @property
    def days(self) -> float:
        """Its length. [d]"""
        return (self.end - self.start) / timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Change:
    """A figure beside the one it is compared with."""

    value: float | None
    base: float | None
    absolute: float | None
    relative: float | None
    """(value - base) / |base|; null with a reason. [1]"""
    reason: NoChange | None


def change(value: float | None, base: float | None) -> Change:
    """Return the change from a base to a value."""
    if value is None or base is None:
        return Change(value, base, None, None, NoChange.UNKNOWN if value is None else NoChange.NO_BASE)
    absolute = value - base
    if base == 0:
        return Change(value, base, absolute, None, NoChange.ZERO_BASE)
    if value * base < 0:
        return Change(value, base, absolute, None, NoChange.SIGN_CHANGE)
    return Change(value, base, absolute, absolute / abs(base), None)


def per_day(value: float | None, span: Span) -> float | None:
    """Return a figure per day of its span, which months of different lengths compare by."""
    return None if value is None else value / span.days


def base_of(span: Span, step: Step, against: Against, now: datetime) -> tuple[Span, Span]:
    """Return what of a civil period is compared, and with what.

    A period that is not over is compared to date: as many days and hours as have passed, on both sides. Where the
    base is shorter (March to date against February), it ends with its period.
    """
    current = Span(span.start, max(span.start, min(span.end, now)))
    start, end = (_back(at.astimezone(CIVIL_ZONE), step, against) for at in (span.start, span.end))
    return current, Span(start, end if now >= span.end else min(end, start + (current.end - current.start)))


def leap_day_in(*spans: Span) -> bool:
    """Return whether 29 February lies in one of them, so that the figure per day is the one to look at."""
    for span in spans:
        day = span.start.astimezone(CIVIL_ZONE)
        for year in range(day.year, span.end.astimezone(CIVIL_ZONE).year + 1):
            if year % 4 == 0 and (year % 100 or year % 400 == 0):
                leap = datetime(year, 2, 29, tzinfo=CIVIL_ZONE)
                if span.start <= leap < span.end:
                    return True
    return False


def spring(span: Span) -> Span | None:
    """Return January and February together for a month of the two, else None."""
    first = span.start.astimezone(CIVIL_ZONE)
    last = span.end.astimezone(CIVIL_ZONE)
    one_month = (last.year * 12 + last.month) - (first.year * 12 + first.month) == 1 and first.day == last.day == 1
    if not one_month or first.month not in SPRING_MONTHS:
        return None
    return Span(datetime(first.year, 1, 1, tzinfo=CIVIL_ZONE), datetime(first.year, 3, 1, tzinfo=CIVIL_ZONE))


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A figure among those of its peers, itself one of them."""

    peers: int
    """With a value, itself among them."""
    median: float
    lower_quartile: float
    upper_quartile: float
    share_below: float
    """Share of the other peers whose figure is lower. [1]"""
    above_median: float | None
    """(value - median) / median; null at a median of zero. [1]"""


def benchmark(value: float | None, others: Iterable[float]) -> Benchmark | None:
    """Return where a figure stands; None without one, or with fewer than ``PEERS_MIN`` peers.

    Quartiles are interpolated linearly between the neighbours in order (Hyndman and Fan 1996, type 7).
    """
    rest = list(others)
    if value is None or len(rest) + 1 < PEERS_MIN:
        return None
    ordered = sorted([value, *rest])
    median = _quantile(ordered, 0.5)
    return Benchmark(
        peers=len(ordered),
        median=median,
        lower_quartile=_quantile(ordered, 0.25),
        upper_quartile=_quantile(ordered, 0.75),
        share_below=sum(one < value for one in rest) / len(rest),
        above_median=(value - median) / median if median else None,
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    at = share * (len(ordered) - 1)
    below = int(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)


def _back(at: datetime, step: Step, against: Against) -> datetime:
    """Return the same civil time a year, or a period, earlier; 29 February becomes 1 March as an end and a start."""
    if against is Against.YEAR:
        if step is Step.WEEK:
            return at - timedelta(weeks=52)
        if (at.month, at.day) == (2, 29):
            return at.replace(year=at.year - 1, month=3, day=1)
        return at.replace(year=at.year - 1)
    if step is Step.YEAR:
        return at.replace(year=at.year - 1)
    if step is Step.MONTH:
        return at.replace(year=at.year - (at.month == 1), month=12 if at.month == 1 else at.month - 1)
    lengths = {Step.WEEK: timedelta(weeks=1), Step.DAY: timedelta(days=1), Step.HOUR: timedelta(hours=1)}
    return at - lengths.get(step, timedelta(minutes=15))
