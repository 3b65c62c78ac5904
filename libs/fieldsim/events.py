"""What happened in the simulated field, for people and for tests that ask afterwards."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

KEPT = 10_000
"""Happenings kept in memory; older ones are forgotten."""


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happened."""

    sequence: int
    at: datetime
    device_id: str
    what: str
    """``command``, ``moved``, ``refused``, ``tripped``, ``released``, ``written``, ``fault_placed``, ..."""
    facts: Mapping[str, object]

    def as_dict(self) -> dict[str, object]:
        """Return it as JSON-ready facts."""
        return {
            "sequence": self.sequence,
            "at": self.at.isoformat(timespec="milliseconds"),
            "device_id": self.device_id,
            "what": self.what,
            **self.facts,
        }


class EventLog:
    """The latest happenings, numbered from 1."""

    def __init__(self) -> None:
        self._kept: deque[Happening] = deque(maxlen=KEPT)
        self._next = 1

    @property
    def last(self) -> int:
        """The number of the youngest happening; 0 before the first."""
        return self._next - 1

    def record(self, at_s: float, device_id: str, what: str, **facts: object) -> None:
        """Add a happening. [s since 1970]"""
        self._kept.append(Happening(self._next, datetime.fromtimestamp(at_s, UTC), device_id, what, facts))
        self._next += 1

    def after(self, sequence: int = 0, *, device_id: str | None = None) -> list[Happening]:
        """Return what is younger than ``sequence``, oldest first."""
        return [
            happening
            for happening in self._kept
            if happening.sequence > sequence and device_id in (None, happening.device_id)
        ]
