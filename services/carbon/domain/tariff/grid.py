"""The rate of every slot of a span, as an array: what years of intervals are split by.

A slot is as long as an interval, or as the longest time that divides it and every boundary of the tariff, so
that a slot always lies in exactly one band. Days are civil; there is no daylight saving time in the civil zone.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import reduce
from itertools import combinations
from math import gcd

import numpy as np
import polars as pl
from numpy.typing import NDArray

from libs.common.clock import CIVIL_ZONE
from services.carbon.domain.cells import Layout, as_slots, gathered, lay_out, span_of, summed
from services.carbon.domain.intervals import STEP_S
from services.carbon.domain.levels.periods import Step, period_of
from services.carbon.domain.tariff.periods import (
    ALL_DAYS,
    DAY_MIN,
    PRECEDENCE,
    Band,
    DayCalendar,
    Special,
    Tariff,
    TariffVersion,
)

DAY_S = DAY_MIN * 60
NO_RATE = -1
"""Code of a slot that no version covers: its band is unknown."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Why a slot has its band: the version and the kind of day that say so."""

    tariff_id: str
    valid_from: date
    band: Band
    ratio: Decimal
    day_type: str
    """``all``, or the kind of special day."""
    ratio_base: str
    source: str
    trusted: bool


@dataclass(frozen=True)
class RateGrid:
    """Rates of the civil days ``[first, last)``."""

    first: date
    last: date
    step_s: int
    """Length of the intervals that it is made for. [s]"""
    slot_s: int
    """Length of a slot, which divides ``step_s``. [s]"""
    code: NDArray[np.int16]
    """Index into ``rates`` or ``NO_RATE``, by slot. Shape (days * 86400 / slot_s,)."""
    rates: tuple[Rate, ...]

    @property
    def first_s(self) -> int:
        """Start of the first slot. [s since the epoch]"""
        return int(datetime.combine(self.first, time(), CIVIL_ZONE).timestamp())

    def layout(self, start: datetime, end: datetime, period: pl.Expr) -> Layout:
        """Return the cells of a span, whose ends lie on the grid, by the rates of this grid; outside of it is none."""
        count = max(0, int((end - start).total_seconds())) // self.slot_s
        index = (int(start.timestamp()) - self.first_s) // self.slot_s + np.arange(count)
        inside = (index >= 0) & (index < self.code.size)
        rates = np.full(count, NO_RATE, np.int16)
        rates[inside] = self.code[index[inside]]
        return lay_out(start, end, period, step_s=self.step_s, slot_s=self.slot_s, rates=rates)


def rate_grid(
    tariff: Tariff,
    *,
    first: date,
    last: date,
    calendar: DayCalendar,
    assumed: Collection[str] = (),
    step_s: int = int(STEP_S),
) -> RateGrid:
    """Return the rates of the civil days ``[first, last)``.

    Args:
        tariff: What is paid by.
        first: The first day.
        last: The day after the last.
        calendar: Which days are special. A day of which that is not known counts as an ordinary one.
        assumed: Kinds that every day counts as of which it is not known; see ``possible_grids``.
        step_s: Length of the intervals to be split, which divides a day. [s]
    """
    if step_s <= 0 or DAY_S % step_s:
        raise ValueError(f"step_s: expected a length that divides a day, found {step_s}")
    slot_s = _slot_s(tariff, step_s)
    per_day = DAY_S // slot_s
    rates: dict[Rate, int] = {}
    laid_out: dict[tuple[str, date, int, tuple[Special, ...]] | None, NDArray[np.int16]] = {
        None: np.full(per_day, NO_RATE, np.int16)
    }
    codes = []
    for day in _days(first, last):
        version = tariff.version_on(day)
        key = None
        if version is not None:
            # A day is laid out once for all that are alike.
            specials = _specials_on(version, day, calendar, assumed)
            key = (version.tariff_id, version.valid_from, day.month, specials)
            if key not in laid_out:
                laid_out[key] = _lay_out(version, day.month, specials, slot_s, rates)
        codes.append(laid_out[key])
    return RateGrid(
        first=first,
        last=last,
        step_s=step_s,
        slot_s=slot_s,
        code=np.concatenate(codes) if codes else np.empty(0, np.int16),
        rates=tuple(rates),
    )


def possible_grids(
    tariff: Tariff, *, first: date, last: date, calendar: DayCalendar, step_s: int = int(STEP_S)
) -> list[RateGrid]:
    """Return the grids that may turn out to be true, the one by ``all`` rows first.

    There is one for every set of kinds of special days that the calendar does not know of some day on which
    they would matter; just one when everything is known.
    """
    open_kinds = sorted(
        {
            special.day_type
            for day in _days(first, last)
            if (version := tariff.version_on(day)) is not None
            for special in version.specials
            if special.applies(day) and not calendar.knows(special.day_type, day)
        }
    )
    return [
        rate_grid(tariff, first=first, last=last, calendar=calendar, assumed=chosen, step_s=step_s)
        for size in range(len(open_kinds) + 1)
        for chosen in combinations(open_kinds, size)
    ]


def split(intervals: pl.DataFrame, grid: RateGrid, *, keys: Sequence[str] = (), daily: bool = False) -> pl.DataFrame:
    """Sum intervals by civil month (or day) and rate; one over a boundary is divided in proportion to time.

    Args:
        intervals: ``start: Datetime [UTC]``, ``energy_kwh: Float64 [kWh]``, null where it is unknown, and the
            columns of ``keys``; each is ``grid.step_s`` long and begins on that grid.
        grid: The rates. Intervals outside of it have no rate.
        keys: Columns to keep apart, for example ``circuit_id``.
        daily: Whether to sum by day instead of month.

    Returns:
        One row per key, period and rate that occurs, sorted by them:

        period: Date           first day of the month, or the day
        rate: Int16            index into ``grid.rates``; null where no tariff is in force
        energy_kwh: Float64    sum of what is known, null where nothing is [kWh]
        slots: UInt32          how many slots of ``grid.slot_s`` there were
        unknown: UInt32        how many of them had no energy

    Raises:
        ValueError: An interval does not begin on the grid.
    """
    layout = _layout_of(intervals, grid, daily=daily)
    return by_rate(gathered(intervals, layout, by=keys), keys=keys)


def by_rate(cells: pl.DataFrame, *, keys: Sequence[str] = ()) -> pl.DataFrame:
    """Return cells that were laid out by the rates of a grid as ``split`` does."""
    by = [*keys, "period", "rate"]
    return (
        summed(cells, by)
        .with_columns(_date_of("period"), pl.col("slots", "unknown").cast(pl.UInt32))
        .select(*by, "energy_kwh", "slots", "unknown")
        .sort(by)
    )


def slots_of(
    intervals: pl.DataFrame, grid: RateGrid, *, period: date, rate: Rate | None, keys: Sequence[str], daily: bool
) -> pl.DataFrame:
    """Return the slots that one line of ``split`` is the sum of: ``keys``, ``energy_kwh``, in the intervals' order."""
    code = None if rate is None else grid.rates.index(rate)
    layout = _layout_of(intervals, grid, daily=daily)
    line = layout.table.select(_date_of("period").eq(period) & pl.col("rate").eq_missing(code)).to_series().arg_true()
    mine = as_slots(intervals, layout, keys).filter(pl.col("cell").is_in(line.to_list()))
    return mine.select(*keys, "energy_kwh")


def _layout_of(intervals: pl.DataFrame, grid: RateGrid, *, daily: bool) -> Layout:
    start, end = span_of(intervals, grid.step_s)
    return grid.layout(start, end, period_of(Step.DAY if daily else Step.MONTH))


def _date_of(name: str) -> pl.Expr:
    """Return the civil day that a time lies in."""
    return pl.col(name).dt.convert_time_zone(CIVIL_ZONE.key).dt.date()


def _slot_s(tariff: Tariff, step_s: int) -> int:
    """Return the longest slot that divides the step and every boundary of the tariff. [s]"""
    boundaries = [
        60 * minute
        for version in tariff.versions
        for windows in (*version.months.values(), [special.window for special in version.specials])
        for window in windows
        for minute in (window.start_min, window.end_min)
    ]
    return reduce(gcd, boundaries, step_s)


def _specials_on(
    version: TariffVersion, day: date, calendar: DayCalendar, assumed: Collection[str]
) -> tuple[Special, ...]:
    """Return the special windows that hold on a day, in the order in which they replace each other."""
    kinds = calendar.kinds_on(day)
    found = [
        special
        for special in version.specials
        if special.applies(day)
        and (special.day_type in kinds or (special.day_type in assumed and not calendar.knows(special.day_type, day)))
    ]
    return tuple(sorted(found, key=lambda one: (_rank(one.day_type), one.day_type, one.window.start_min)))


def _lay_out(
    version: TariffVersion, month: int, specials: Sequence[Special], slot_s: int, rates: dict[Rate, int]
) -> NDArray[np.int16]:
    """Return the codes of one day; new rates are added to ``rates``."""
    codes = np.full(DAY_S // slot_s, NO_RATE, np.int16)
    placed = [(window, ALL_DAYS, version.source) for window in version.months[month]]
    placed += [(special.window, special.day_type, special.source) for special in specials]
    for window, day_type, source in placed:
        rate = Rate(
            tariff_id=version.tariff_id,
            valid_from=version.valid_from,
            band=window.band,
            ratio=window.ratio,
            day_type=day_type,
            ratio_base=version.ratio_base,
            source=source,
            trusted=version.trusted,
        )
        codes[window.start_min * 60 // slot_s : window.end_min * 60 // slot_s] = rates.setdefault(rate, len(rates))
    return codes


def _rank(kind: str) -> int:
    return PRECEDENCE.index(kind) if kind in PRECEDENCE else -1


def _days(first: date, last: date) -> list[date]:
    return [first + timedelta(days=offset) for offset in range((last - first).days)]
