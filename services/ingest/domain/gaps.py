"""Stretches without reports: where they begin and end, and how many reports are missing in them.

A device may miss a slot or two, by itself or because somebody else was first on its line; from ``limit_s`` on it is a
gap. What a device numbers itself tells more: each number that is left out is a report that was lost on its way.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

EARLY = 0.01
"""Share of an interval that a report may come before its slot."""
MAX_LEFT_OUT = 10_000
"""Numbers left out at once; more of them is a counter that began anew."""


class GapKind(StrEnum):
    """How a gap was noticed."""

    SILENCE = "silence"
    """Nothing came for longer than some intervals."""
    SEQUENCE = "sequence"
    """The device's own numbers of its reports leave some out."""


class GapState(StrEnum):
    """What is to be done about a gap."""

    OPEN = "open"
    """It has not ended."""
    WAITING = "waiting"
    """The device reports again; its memory is asked, or late reports may come."""
    FILLED = "filled"
    """Reports of it came later."""
    LOST = "lost"
    """It stays; the reason is on record."""


@dataclass(frozen=True, slots=True)
class Hole:
    """Between two reports of a device: from the last before it to the first after it."""

    began_at: datetime
    ended_at: datetime | None
    """None: nothing came so far."""
    missing: int | None = None
    """What the device's own numbers say; None is not known."""


def holes(times: Sequence[datetime], *, before: datetime | None, until: datetime, limit_s: float) -> list[Hole]:
    """Return the stretches longer than ``limit_s`` between reports, the one that goes on at ``until`` last.

    Args:
        times: Of reports, in order, all before ``until``.
        before: Of the last report before them; None is not known, and then the first of them begins.
        until: Up to where all reports are known.
        limit_s: A stretch up to this is no gap. [s]
    """
    found: list[Hole] = []
    last = before
    for time in times:
        if last is not None and (time - last).total_seconds() > limit_s:
            found.append(Hole(last, time))
        last = time
    if last is not None and (until - last).total_seconds() > limit_s:
        found.append(Hole(last, None))
    return found


def slots_held(times: Sequence[datetime], *, interval_s: float, offset: float) -> int:
    """Return in how many slots at least one report came; slots begin at ``k * interval_s + offset`` (POSIX). [s]"""
    # A clock that woke a poll a moment early has kept the slot that follows.
    return len({math.floor((time.timestamp() - offset) / interval_s + EARLY) for time in times})


def left_out(numbered: Sequence[tuple[datetime, int]]) -> list[Hole]:
    """Return where numbers are left out between reports, which are in order of time.

    A number that is not greater than the one before it is a counter that began anew, or came round.
    """
    found: list[Hole] = []
    for (earlier, number), (later, following) in itertools.pairwise(numbered):
        missing = following - number - 1
        if 0 < missing <= MAX_LEFT_OUT:
            found.append(Hole(earlier, later, missing))
    return found
