"""What a circuit usually uses, by kind of day and time of day: how the total of a long gap is laid over its hours.

The total between two registers is measured and its shape is not. An office that was silent for a night and a morning
used little in the night; laid flat over the gap, the night would have cost as much as the morning.

Source:
    The platform's energy methods, section 1.2: weights are the medians of the same weekday class and clock time over
    the last 28 valid days, flat where there are fewer than five.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date

import numpy as np

from services.carbon.domain.registers import BoolArray, FloatArray

CIVIL_S = 8 * 3600.0
"""The platform's civil time is UTC+8 all year. [s]"""
DAY_S = 86400.0
LAST_DAYS = 28
"""So many valid days of a class are looked at."""
LEAST_DAYS = 5
"""Fewer valid days of a class make no shape."""
VALID_SHARE = 0.95
"""A day of which at least this share is measured is valid."""
LOOK_BACK_DAYS = 60
"""Valid days that are older say nothing about today."""

DayClass = Callable[[date], int]
"""Which days are alike: 0 for working days, 1 for others."""


def weekday_class(day: date) -> int:
    """Return 0 from Monday to Friday, 1 on Saturday and Sunday."""
    return int(day.weekday() >= 5)


@dataclass(frozen=True, slots=True)
class Shape:
    """Usual energy of each step of a day, by class of day."""

    usual_kwh: Mapping[int, FloatArray]
    """By class, shape (steps of a day,), never negative; a class of too few days is absent. [kWh]"""
    step_s: float
    day_class: DayClass

    def shares(self, start: float, end: float, at: FloatArray) -> FloatArray | None:
        """Return the share of a gap's total that lies before each time, or None where there is no shape.

        Args:
            start: Where the gap begins. [s since the epoch]
            end: Where it ends. [s since the epoch]
            at: Times within. [s since the epoch]

        Returns:
            Shares that rise from 0 at ``start`` to 1 at ``end``.
        """
        first = np.floor(start / self.step_s)
        steps = np.arange(first, np.ceil(end / self.step_s), dtype=np.float64)
        weights = self._weights(steps)
        if weights is None:
            return None
        edges = np.append(steps, steps[-1] + 1) * self.step_s
        risen = np.concatenate([[0.0], np.cumsum(weights)])
        before, whole = np.interp([start, end], edges, risen)
        if not whole > before:
            return None
        share: FloatArray = np.clip((np.interp(at, edges, risen) - before) / (whole - before), 0.0, 1.0)
        return share

    def _weights(self, steps: FloatArray) -> FloatArray | None:
        """Return the usual energy of steps of the grid, None when a day is of a class that has none."""
        civil = steps * self.step_s + CIVIL_S
        days = np.floor(civil / DAY_S)
        places = ((civil - days * DAY_S) // self.step_s).astype(np.int64)
        weights = np.empty(steps.size)
        for day in np.unique(days):
            usual = self.usual_kwh.get(self.day_class(_date(day)))
            if usual is None:
                return None
            inside = days == day
            weights[inside] = usual[places[inside]]
        return weights


def usual_shape(
    start: FloatArray,
    energy_kwh: FloatArray,
    measured: BoolArray,
    *,
    until: float,
    step_s: float,
    day_class: DayClass = weekday_class,
) -> Shape:
    """Return the shape of a circuit's days before a time.

    Args:
        start: Starts of its intervals. Shape (n,). [s since the epoch]
        energy_kwh: Their energy; what is not measured is not looked at. Shape (n,). [kWh]
        measured: Which of them are measured. Shape (n,).
        until: Only days that are over by then count: the start of the gap. [s since the epoch]
        step_s: Length of an interval; it divides a day. [s]
        day_class: Which days are alike.
    """
    a_day = round(DAY_S / step_s)
    civil = start + CIVIL_S
    days = np.floor(civil / DAY_S)
    counts = measured & ((days + 1) * DAY_S - CIVIL_S <= until) & (civil >= until + CIVIL_S - LOOK_BACK_DAYS * DAY_S)
    found, rows = np.unique(days[counts], return_inverse=True)
    table = np.full((found.size, a_day), np.nan)
    table[rows, ((civil - days * DAY_S)[counts] // step_s).astype(np.int64)] = energy_kwh[counts]
    valid = np.isfinite(table).sum(axis=1) >= VALID_SHARE * a_day
    classes = np.array([day_class(_date(day)) for day in found], np.int64)
    usual: dict[int, FloatArray] = {}
    for one in np.unique(classes[valid]):
        alike = table[valid & (classes == one)][-LAST_DAYS:]
        if alike.shape[0] >= LEAST_DAYS and np.isfinite(alike).any(axis=0).all():
            usual[int(one)] = np.maximum(np.nanmedian(alike, axis=0), 0.0)
    return Shape(usual, step_s, day_class)


def _date(day: float) -> date:
    return date.fromordinal(date(1970, 1, 1).toordinal() + int(day))
