"""How much alarms ask of operators: the measures of ISA-18.2 (2016) clause 16 and EEMUA 191.

An operator can answer about one alarm in ten minutes, and at most ten. More than ten in ten minutes begin a flood,
which ends with ten minutes of fewer than five.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

WINDOW = timedelta(minutes=10)
FLOOD_BEGINS_ABOVE = 10
"""Alarms of one operator within ``WINDOW``."""
FLOOD_ENDS_BELOW = 5
STALE_AFTER = timedelta(hours=24)
CHATTER_COUNT = 3
CHATTER_WITHIN = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Flood:
    """A time in which there were more alarms than anybody can answer."""

    start: datetime
    end: datetime
    alarms: int
    peak: int
    """The most in one window."""


@dataclass(frozen=True, slots=True)
class Load:
    """What alarms asked of each operator in a range."""

    windows: int
    alarms: int
    """Told ones, of all operators."""
    mean_per_window: float
    """Alarms of one operator in ten minutes."""
    peak_per_window: float
    windows_above: int
    """Windows with more than ``FLOOD_BEGINS_ABOVE`` for one operator."""
    flood_share: float
    """Part of the time that was flood, 0 to 1."""
    floods: Sequence[Flood]


def load_of(counts: Iterable[tuple[datetime, int]], start: datetime, end: datetime, operators: int) -> Load:
    """Return the load of a range.

    Args:
        counts: Told alarms of the windows that have any: begin of the window, counted from ``start``, and number.
        start: Begin of the range.
        end: Its end, after it.
        operators: Among how many the alarms were shared.
    """
    found = dict(counts)
    windows = -((start - end) // WINDOW)
    floods: list[Flood] = []
    open_: list[tuple[datetime, int]] = []
    for number in range(windows):
        at = start + WINDOW * number
        count = found.get(at, 0)
        share = count / operators
        if share > FLOOD_BEGINS_ABOVE or (open_ and share >= FLOOD_ENDS_BELOW):
            open_.append((at, count))
        elif open_:
            floods.append(_flood(open_, at))
            open_ = []
    if open_:
        floods.append(_flood(open_, end))
    alarms = sum(found.values())
    flooded = sum(((flood.end - flood.start) for flood in floods), timedelta())
    return Load(
        windows=windows,
        alarms=alarms,
        mean_per_window=alarms / operators / ((end - start) / WINDOW),
        peak_per_window=max(found.values(), default=0) / operators,
        windows_above=sum(count / operators > FLOOD_BEGINS_ABOVE for count in found.values()),
        flood_share=flooded / (end - start),
        floods=floods,
    )


def _flood(windows: Sequence[tuple[datetime, int]], end: datetime) -> Flood:
    counts = [count for _, count in windows]
    return Flood(windows[0][0], end, sum(counts), max(counts))
