"""What must be when a night is over: pure, so that it can be shown to see every kind of mistake.

Every unit that can be reached is on, proven on, and nothing stands against it; every one that cannot, and that
somebody waits for, has an alarm; every one that a person has to go to has called one.

Source:
    contracts.md 5.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

OVERDUE, STOPPED = "wake_up_overdue", "wake_up_stopped"


@dataclass(frozen=True, slots=True)
class Unit:
    """What a unit is, as the field knows it."""

    load_id: str
    closed: bool
    reachable: bool
    stopped: bool
    """Locked or tripped: nobody but a person may close it."""


@dataclass(frozen=True, slots=True)
class Books:
    """What the platform holds."""

    waking: Collection[str]
    """Loads with a command that is not over."""
    leased: Collection[str]
    """Loads that may be off."""
    unfinished: Collection[str]
    """Loads with an occurrence that is not over."""
    alarms: Mapping[str, Collection[str]]
    """Kinds of conditions that stand, by load."""


def faults(units: Sequence[Unit], books: Books) -> list[str]:
    """Return what is not as it has to be, empty when all is well."""
    found = []
    for unit in units:
        alarms = books.alarms.get(unit.load_id, ())
        if unit.stopped:
            if not unit.closed and STOPPED not in alarms:
                found.append(f"{unit.load_id}: a person has to go there, and nobody was called")
        elif not unit.reachable:
            waited_for = not unit.closed or unit.load_id in books.waking
            if waited_for and not {OVERDUE, STOPPED} & set(alarms):
                found.append(f"{unit.load_id}: cannot be reached, and there is no alarm")
        else:
            wrong = {
                "sleeps": not unit.closed,
                "a command is not over": unit.load_id in books.waking,
                "a lease stands": unit.load_id in books.leased,
                "an occurrence is not over": unit.load_id in books.unfinished,
                "an alarm stands": bool(alarms),
            }
            found += [f"{unit.load_id}: {what}" for what, is_so in wrong.items() if is_so]
    return found
