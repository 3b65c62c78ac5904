"""What the simulators of a soak said, and what they were answered.

Every report has a number of its own, which is what its energy counter shows: a row of the history says by itself which
report it is. A report that is sent has a time of its own too; one that is served to whoever asks has the time of the
answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

COUNTER = "energy_active_import"
UNIT_KWH = 0.01
"""One step of the counter. [kWh]"""


class Answer(StrEnum):
    """What a sender knows of a report."""

    UNSENT = "unsent"
    """It never left: lost on the way to us."""
    NONE = "none"
    """It was offered and nothing was promised: no answer, or one that says to send again."""
    ACCEPTED = "accepted"
    """We said that we have it. Of what is served: it was answered, and nothing stood in the way."""


@dataclass(slots=True)
class Entry:
    """One right report."""

    device_id: str
    number: int
    at: datetime
    points: Mapping[str, float]
    """In canonical units; what history has to show for them."""
    served: bool = False
    """Somebody asked for it at ``at``; else it carries ``at`` as the device's time."""
    has_twin: bool = False
    """Another report with other content carries the same time: both are kept, one of them under its arrival."""
    answer: Answer = Answer.NONE
    refused: str | None = None
    """Why we said that it is not taken, though it is right."""


@dataclass(slots=True)
class Wrong:
    """Something that has to be refused; its marker is in its bytes."""

    marker: str
    device_id: str
    """Of the simulator that sent it."""
    at: datetime
    what: str
    attempts: int = 0
    is_redelivered: bool = False
    """Somebody on the way delivers it again by himself, so that it may be refused more than once."""
    refused: bool = False
    """The sender was told that it is not taken, or that it waits for its device to become known."""
    taken: bool = False
    """The sender was told that it was taken."""


@dataclass(slots=True)
class Journal:
    """All that the simulators have said."""

    entries: dict[tuple[str, int], Entry] = field(default_factory=dict)
    wrongs: dict[str, Wrong] = field(default_factory=dict)
    _next: dict[str, int] = field(default_factory=dict)

    def number(self, device_id: str) -> int:
        """Return the next number of a device."""
        number = self._next[device_id] = self._next.get(device_id, 0) + 1
        return number

    def add(self, entry: Entry) -> Entry:
        """Write a report down."""
        self.entries[entry.device_id, entry.number] = entry
        return entry

    def add_wrong(self, device_id: str, at: datetime, what: str) -> Wrong:
        """Write something wrong down, with a marker of its own."""
        marker = f"soak-wrong-{len(self.wrongs):06d}-"
        found = self.wrongs[marker] = Wrong(marker, device_id, at, what)
        return found

    def of(self, device_id: str) -> list[Entry]:
        """Return the reports of a device, by number."""
        return sorted(
            (entry for (name, _), entry in self.entries.items() if name == device_id), key=lambda entry: entry.number
        )


def counter_kwh(number: int) -> float:
    """Return what the counter shows. [kWh]"""
    return number / 100


def voltage_of(number: int) -> float:
    """Return a voltage that belongs to a number, so that a value that was exchanged shows. [V]"""
    return 200.0 + number % 60


def number_of(points: Mapping[str, float | None]) -> int | None:
    """Return the number of a report by its counter, None without one."""
    counter = points.get(COUNTER)
    return None if counter is None else round(counter / UNIT_KWH)
