"""What rules compare besides plain values: columns made of the points of a report, and of what was before it.

Every measure is a column beside those of the points, so that screens, thresholds, hysteresis and quantifiers work on
it as on any value. Where an input is missing or bad the column is NaN, and the condition is open.

Two measures remember: the rate of change needs the value before, the age the time of the last usable value. What is
remembered per device is state like any other: stored with the batch, loaded after a claim.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from services.alarm.domain.expressions import Expression, parse
from services.alarm.domain.model import NEVER_US, SECOND_US, Measure, Rule

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MINUTE_US = 60 * SECOND_US
MAX_RATE_GAP_US = 900 * SECOND_US
"""Between two values further apart than this there is no rate: three reports at the slowest permitted pace. [µs]"""
_PER_POINT = (Measure.RATE, Measure.AGE, Measure.RATED)
REMEMBERING = (Measure.RATE, Measure.AGE)
"""Measures that need what was before."""

Remembered = Mapping[str, tuple[float | None, int]]
"""Point to its last usable value, None when there was none yet, and since when it is so. [µs]"""


@dataclass(frozen=True, slots=True)
class Column:
    """One number per report that a rule compares."""

    name: str
    """That of the point, or the measure with what it is made of."""
    measure: Measure
    points: tuple[str, ...]
    expression: str | None = None


def columns_of(rule: Rule, there: Collection[str]) -> tuple[Column, ...]:
    """Return what a rule compares on a device with these points, in the order of its points."""
    measure = rule.measure
    if measure is Measure.SILENCE:
        return ()
    if measure is Measure.VALUE:
        return tuple(Column(point, measure, (point,)) for point in rule.points if point in there)
    if measure in _PER_POINT:
        return tuple(Column(f"{measure.value}:{point}", measure, (point,)) for point in rule.points if point in there)
    what = " ".join(rule.points) if rule.expression is None else rule.expression
    return (Column(f"{measure.value}:{what}", measure, rule.points, rule.expression),)


def point_of(column: str) -> str | None:
    """Return the point that a column is about, None when it is made of several."""
    measure, colon, rest = column.partition(":")
    if not colon:
        return column
    return rest if measure in _PER_POINT else None


def unbalance(phases: Floats) -> Floats:
    """Return how far phases lie apart, (greatest - least) / greatest of their amounts. [%]

    Args:
        phases: Shape (reports, phases); NaN where unknown.

    Source:
        Load unbalance of three phases as the operating rules of Chinese distribution transformers define it.
    """
    amounts = np.abs(phases)
    greatest, least = np.max(amounts, axis=1), np.min(amounts, axis=1)
    with np.errstate(all="ignore"):
        return np.where(greatest > 0, (greatest - least) / greatest * 100.0, np.where(greatest == 0, 0.0, np.nan))


class Derived:
    """The columns of one shape that are no points."""

    def __init__(self, columns: Sequence[Column], places: Mapping[str, int]) -> None:
        """Compile.

        Args:
            columns: Those behind the columns of the points, in order.
            places: Name of a point or column to its place.
        """
        self._rated = [(places[one.name], places[one.points[0]]) for one in columns if one.measure is Measure.RATED]
        self._unbalance = [
            (places[one.name], [places[point] for point in one.points])
            for one in columns
            if one.measure is Measure.UNBALANCE
        ]
        self._expressions: list[tuple[int, Expression]] = [
            (places[one.name], _parsed(one.expression or "", one.points))
            for one in columns
            if one.measure is Measure.EXPRESSION
        ]
        self._places = places
        self.remembered: tuple[str, ...] = tuple(
            sorted({one.points[0] for one in columns if one.measure in REMEMBERING})
        )
        """Points whose last usable value has to be known."""
        order = {point: number for number, point in enumerate(self.remembered)}
        self._inputs = np.array([places[point] for point in self.remembered], dtype=np.int64)
        self._rate = _pairs((places[one.name], order[one.points[0]]) for one in columns if one.measure is Measure.RATE)
        self._age = _pairs((places[one.name], order[one.points[0]]) for one in columns if one.measure is Measure.AGE)

    def fill(self, values: Floats, rated_a: Floats) -> None:
        """Fill the columns that a report alone decides.

        Args:
            values: Shape (reports, columns); those of the points are known.
            rated_a: Rated current per report, NaN where unknown. [A]
        """
        for place, source in self._rated:
            with np.errstate(all="ignore"):
                values[:, place] = np.abs(values[:, source]) / rated_a * 100.0
        for place, phases in self._unbalance:
            values[:, place] = unbalance(values[:, phases])
        for place, expression in self._expressions:
            columns = {point: values[:, self._places[point]] for point in expression.points}
            values[:, place] = expression.values(columns, len(values))

    def follow(self, values: Floats, at_us: Ints, last: Floats, since_us: Ints) -> tuple[Floats, Ints]:
        """Fill the columns that what was before decides; return what is to be remembered from now on.

        Args:
            values: Shape (reports, columns), no two reports of one device.
            at_us: Event times of the reports. [µs]
            last: Last usable values, shape (reports, remembered), NaN where there was none.
            since_us: When they were so, ``NEVER_US`` for a device that is new. [µs]
        """
        now = values[:, self._inputs]
        usable = ~np.isnan(now)
        new = since_us == NEVER_US
        times = np.broadcast_to(at_us[:, np.newaxis], since_us.shape)
        gap_us = np.where(new, 0, times - np.where(new, 0, since_us))
        if self._rate[0].size:
            with np.errstate(all="ignore"):
                rate = (now - last) / (gap_us / MINUTE_US)
            rate[(gap_us <= 0) | (gap_us > MAX_RATE_GAP_US)] = np.nan
            values[:, self._rate[0]] = rate[:, self._rate[1]]
        if self._age[0].size:
            values[:, self._age[0]] = np.where(usable, 0.0, gap_us / SECOND_US)[:, self._age[1]]
        return np.where(usable, now, last), np.where(usable | new, times, since_us)


class Memory:
    """Last usable values of the points that some rule asks about, for the devices that have such rules."""

    def __init__(self) -> None:
        """Start with nothing remembered."""
        self._row_of: dict[int, int] = {}
        self._column_of: dict[str, int] = {}
        self._free: list[int] = []
        self._last: Floats = np.full((0, 0), np.nan)
        self._since: Ints = np.full((0, 0), NEVER_US, dtype=np.int64)

    def get(self, slots: Ints, points: Sequence[str]) -> tuple[Floats, Ints]:
        """Return values and times, shape (slots, points) each."""
        where = self._where(slots, points)
        return self._last[where], self._since[where]

    def put(self, slots: Ints, points: Sequence[str], last: Floats, since_us: Ints) -> None:
        """Remember values and times of devices, none twice."""
        where = self._where(slots, points)
        self._last[where] = last
        self._since[where] = since_us

    def of(self, slot: int) -> Remembered:
        """Return what is remembered of a device."""
        row = self._row_of.get(slot)
        if row is None:
            return {}
        return {
            point: (None if np.isnan(self._last[row, column]) else float(self._last[row, column]), since_us)
            for point, column in self._column_of.items()
            if (since_us := int(self._since[row, column])) != NEVER_US
        }

    def load(self, slot: int, remembered: Remembered) -> None:
        """Take over what was stored of a device."""
        for point, (value, since_us) in remembered.items():
            self.put(
                np.array([slot]),
                (point,),
                np.array([[np.nan if value is None else value]]),
                np.array([[since_us]], dtype=np.int64),
            )

    def forget(self, slots: Iterable[int]) -> bool:
        """Forget devices; return whether anything was known of them."""
        rows = [row for slot in slots if (row := self._row_of.pop(slot, None)) is not None]
        self._last[rows], self._since[rows] = np.nan, NEVER_US
        self._free += rows
        return bool(rows)

    def _where(self, slots: Ints, points: Sequence[str]) -> tuple[Ints, Ints]:
        rows = np.array([self._row(slot) for slot in slots.tolist()], dtype=np.int64)
        columns = np.array([self._column(point) for point in points], dtype=np.int64)
        return rows[:, np.newaxis], columns[np.newaxis, :]

    def _row(self, slot: int) -> int:
        row = self._row_of.get(slot)
        if row is None:
            row = self._row_of[slot] = self._free.pop() if self._free else len(self._row_of)
            if row >= len(self._last):
                self._resize(max(64, 2 * len(self._last)), self._last.shape[1])
        return row

    def _column(self, point: str) -> int:
        column = self._column_of.get(point)
        if column is None:
            column = self._column_of[point] = len(self._column_of)
            self._resize(len(self._last), column + 1)
        return column

    def _resize(self, rows: int, columns: int) -> None:
        last = np.full((rows, columns), np.nan)
        since = np.full((rows, columns), NEVER_US, dtype=np.int64)
        old = self._last.shape
        last[: old[0], : old[1]] = self._last
        since[: old[0], : old[1]] = self._since
        self._last, self._since = last, since


def _pairs(found: Iterable[tuple[int, int]]) -> tuple[Ints, Ints]:
    """Return places of columns, and which of the remembered points each is about."""
    pairs = np.array(list(found), dtype=np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


@lru_cache(maxsize=10_000)
def _parsed(text: str, points: tuple[str, ...]) -> Expression:
    return parse(text, points)
