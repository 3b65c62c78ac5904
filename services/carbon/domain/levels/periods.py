"""Civil periods: quarter hours to years, and which shift a quarter hour belongs to."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import polars as pl

from libs.common.clock import CIVIL_ZONE
from libs.common.errors import InvalidInput

QUARTER_MIN = 15
DAY_MIN = 24 * 60


class Step(StrEnum):
    """Length of a period, in civil time; weeks begin on Monday (GB/T 7408)."""

    QUARTER_HOUR = "quarter_hour"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"

    @property
    def every(self) -> str:
        """The period as polars writes it."""
        return {"quarter_hour": "15m", "hour": "1h", "day": "1d", "week": "1w", "month": "1mo", "year": "1y"}[
            self.value
        ]


def period_of(step: Step) -> pl.Expr:
    """Return the start of the civil period that ``start`` lies in. Datetime[us, UTC]"""
    return pl.col("start").dt.convert_time_zone(CIVIL_ZONE.key).dt.truncate(step.every).dt.convert_time_zone("UTC")


def periods(step: Step, start: datetime, end: datetime) -> pl.DataFrame:
    """Return the civil periods that overlap ``[start, end)``: ``start``, ``end``: Datetime[us, UTC]."""
    first = pl.Series([start], dtype=pl.Datetime("us", "UTC")).dt.convert_time_zone(CIVIL_ZONE.key)
    opening = first.dt.truncate(step.every)[0]
    closing = (end - timedelta(microseconds=1)).astimezone(CIVIL_ZONE)
    starts = pl.datetime_range(
        opening, closing, interval=step.every, closed="both", time_unit="us", time_zone=CIVIL_ZONE.key, eager=True
    )
    return pl.DataFrame({"start": starts}).select(
        pl.col("start").dt.convert_time_zone("UTC"),
        pl.col("start").dt.offset_by(step.every).dt.convert_time_zone("UTC").alias("end"),
    )


@dataclass(frozen=True, slots=True)
class Shift:
    """A part of the civil day (班次), ``[start_min, end_min)``; one that ends before it starts crosses midnight."""

    name: str
    start_min: int
    end_min: int

    @property
    def minutes(self) -> frozenset[int]:
        """The quarter hours of the day that belong to it, by their first minute."""
        end = self.end_min if self.end_min > self.start_min else self.end_min + DAY_MIN
        return frozenset(minute % DAY_MIN for minute in range(self.start_min, end, QUARTER_MIN))


def parse_shifts(text: str) -> list[Shift]:
    """Return the shifts of ``day=08:00-20:00,night=20:00-08:00``.

    Raises:
        InvalidInput: It reads differently, is off the quarter-hour grid, or two shifts overlap.
    """
    found: list[Shift] = []
    taken: set[int] = set()
    for part in text.split(","):
        name, equals, span = part.strip().partition("=")
        begin, dash, finish = span.partition("-")
        start_min, end_min = _minute(begin), _minute(finish)
        if not (name and equals and dash) or start_min is None or end_min is None or start_min == DAY_MIN:
            raise InvalidInput(
                f"shifts: expected name=HH:MM-HH:MM on quarter hours, found {part!r}",
                message_zh=f"shifts:应为 名称=HH:MM-HH:MM(以 15 分钟为单位),实际为 {part!r}",
            )
        shift = Shift(name, start_min, end_min)
        if not taken.isdisjoint(shift.minutes) or any(one.name == name for one in found):
            raise InvalidInput(
                f"shifts: expected shifts with names of their own that do not overlap, found {part!r}",
                message_zh=f"shifts:班次名称不得重复,时段不得重叠,实际为 {part!r}",
            )
        taken |= shift.minutes
        found.append(shift)
    return found


def in_shift(shift: Shift) -> pl.Expr:
    """Return whether ``start`` lies in a shift."""
    local = pl.col("start").dt.convert_time_zone(CIVIL_ZONE.key)
    minute = local.dt.hour().cast(pl.Int32) * 60 + local.dt.minute().cast(pl.Int32)
    return minute.is_in(sorted(shift.minutes))


def _minute(text: str) -> int | None:
    hours, colon, minutes = text.strip().partition(":")
    if not (colon and hours.isdecimal() and minutes.isdecimal() and len(minutes) == 2):
        return None
    minute = int(hours) * 60 + int(minutes)
    return minute if int(minutes) < 60 and minute <= DAY_MIN and not minute % QUARTER_MIN else None


def step_count(step: Step, start: datetime, end: datetime) -> int:
    """Return at most how many periods overlap a span; cheap, for limits."""
    shortest = {"quarter_hour": 900, "hour": 3600, "day": 86400, "week": 7 * 86400, "month": 28 * 86400}
    return int((end - start).total_seconds() // shortest.get(step.value, 365 * 86400)) + 2
