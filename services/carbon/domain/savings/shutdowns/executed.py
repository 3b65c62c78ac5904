"""What was really switched off, and for how long: from changes of state to the windows that are measured.

A plan says when a load should be off; a saving is claimed only for the time in which it verifiably was. An
emergency wake-up inside a window therefore ends one executed part, and what is switched off again afterwards begins
the next.

Measured windows are whole intervals around the executed parts. At both edges they contain a few minutes in which
the load was on; so does the baseline, which is taken over the same clock times, and the difference is not biased.

Source:
    The platform's energy methods, section 15, rules 1 and 6.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from services.carbon.domain.savings.shutdowns.course import ceil_step, floor_step


@dataclass(frozen=True, slots=True)
class Switching:
    """A load was seen to have gone off, or to have come on."""

    load_id: str
    at: datetime
    off: bool
    occurrence_id: str | None = None
    plan_id: str | None = None


@dataclass(frozen=True, slots=True)
class ExecutedPart:
    """A time in which one load was off without interruption."""

    load_id: str
    off_at: datetime
    on_at: datetime | None
    """None while it is off still."""
    occurrence_id: str | None
    """None for a switching by hand."""
    plan_id: str | None

    @property
    def off_s(self) -> float:
        """How long it was off, 0 while it is off still. [s]"""
        return 0.0 if self.on_at is None else (self.on_at - self.off_at).total_seconds()


@dataclass(frozen=True, slots=True)
class MeasuredWindow:
    """Whole intervals around executed parts that share an interval, all of one circuit."""

    start: datetime
    end: datetime
    parts: tuple[ExecutedPart, ...]

    @property
    def off_at(self) -> datetime:
        """When the first of its loads went off."""
        return min(part.off_at for part in self.parts)


def executed_parts(switchings: Iterable[Switching]) -> list[ExecutedPart]:
    """Return the executed parts of all loads, by load and time.

    Repeated and replayed changes alter nothing: a load that is off cannot go off again, and one that is on cannot
    come on. The part belongs to the occurrence under which it went off.
    """
    found: list[ExecutedPart] = []
    open_: Switching | None = None
    for one in sorted(switchings, key=lambda one: (one.load_id, one.at, not one.off)):
        if open_ is not None and open_.load_id != one.load_id:
            found.append(_part(open_, None))
            open_ = None
        if one.off and open_ is None:
            open_ = one
        elif one.off and open_ is not None and open_.occurrence_id is None and one.at == open_.at:
            open_ = one  # the command was told first, the occurrence that it belongs to second
        elif not one.off and open_ is not None:
            if one.at > open_.at:
                found.append(_part(open_, one.at))
            open_ = None
    if open_ is not None:
        found.append(_part(open_, None))
    return found


def measured_windows(parts: Sequence[ExecutedPart]) -> list[MeasuredWindow]:
    """Return the windows to measure on one circuit, rising and without an interval in common.

    Args:
        parts: The executed parts of every load behind the circuit's meter; those still off are left out.
    """
    windows: list[MeasuredWindow] = []
    closed = [(part, part.on_at) for part in parts if part.on_at is not None]
    for part, on_at in sorted(closed, key=lambda pair: (pair[0].off_at, pair[1], pair[0].load_id)):
        start, end = floor_step(part.off_at), ceil_step(on_at)
        if windows and start < windows[-1].end:
            before = windows.pop()
            windows.append(MeasuredWindow(before.start, max(before.end, end), (*before.parts, part)))
        else:
            windows.append(MeasuredWindow(start, end, (part,)))
    return windows


def _part(off: Switching, on_at: datetime | None) -> ExecutedPart:
    return ExecutedPart(off.load_id, off.at, on_at, off.occurrence_id, off.plan_id)
