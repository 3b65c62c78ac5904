"""What went wrong with a command, as one of a few faults that a person can do something about.

A command's ``reason`` says exactly what its last step rested on; the fault says what is the matter with the load. It
stays while the command is sent again and ends with its success, so that a list of what is not awake does not flicker.
"""

from collections.abc import Mapping
from enum import StrEnum

from libs.common.contracts.control import CommandState

S = CommandState


class Fault(StrEnum):
    """What is the matter; codes and texts are data (``data/switch_faults.csv``)."""

    NO_ANSWER = "no_answer"
    """The device does not answer."""
    LINE_DOWN = "line_down"
    """The way to the device does not stand."""
    NOT_TAKEN = "not_taken"
    """No process holds the line, or it cannot be reached over the bus."""
    NOT_SENT = "not_sent"
    """It waits in control itself."""
    REFUSED = "refused"
    """The device answers no: a limit of its own, a wrong password."""
    NOT_CARRIED_OUT = "not_carried_out"
    """The holder of the line cannot carry it out: no such device, no such switch."""
    LOCAL_LOCK = "local_lock"
    PROTECTION_TRIP = "protection_trip"
    ISOLATION = "isolation"
    NO_BREAKER = "no_breaker"
    """The registry knows no breaker of the load, or no line to it."""
    STILL_OPEN = "still_open"
    """It was closed and reads open."""
    STILL_CLOSED = "still_closed"
    """It was opened and reads closed."""
    STILL_DRAWS_POWER = "still_draws_power"
    """It reads open and its meter shows power."""
    NO_POWER = "no_power"
    """It reads closed and its meter shows none."""
    NOT_PROVEN = "not_proven"
    """It was carried out, and nothing shows its effect."""
    FORBIDDEN = "forbidden"
    """A guard of control or of the line's holder keeps the load on; the reason names it."""
    TOO_LATE = "too_late"
    """Its time was over before it could be sent."""


NO_POWER_KW = 0.005
"""A load that is on draws more than this. [kW]"""
SILENT_AFTER_S = 15.0
"""A wake-up that is not proven by then is reported; a breaker's motor and two looks at it take less. [s]"""

_HOLDS = frozenset({Fault.LOCAL_LOCK, Fault.PROTECTION_TRIP, Fault.ISOLATION})

_FAULTS: Mapping[str, Fault] = {
    "no_answer": Fault.NO_ANSWER,
    "device_silent": Fault.NO_ANSWER,
    "bad_answer": Fault.NO_ANSWER,
    "not_verified": Fault.NO_ANSWER,
    "unresolved": Fault.NO_ANSWER,
    "line_down": Fault.LINE_DOWN,
    "not_accepted": Fault.NOT_TAKEN,
    "device_refused": Fault.REFUSED,
    "auth_failed": Fault.REFUSED,
    "invalid_input": Fault.NOT_CARRIED_OUT,
    "bad_arguments": Fault.NOT_CARRIED_OUT,
    "unknown_device": Fault.NOT_CARRIED_OUT,
    "wrong_line": Fault.NOT_CARRIED_OUT,
    "no_control": Fault.NOT_CARRIED_OUT,
    "unsupported": Fault.NOT_CARRIED_OUT,
    "refused": Fault.NOT_CARRIED_OUT,
    "failed": Fault.NOT_CARRIED_OUT,
    "local_lock": Fault.LOCAL_LOCK,
    "protection_trip": Fault.PROTECTION_TRIP,
    "isolation": Fault.ISOLATION,
    "no_breaker": Fault.NO_BREAKER,
    "no_line": Fault.NO_BREAKER,
    "unknown_load": Fault.NO_BREAKER,
    "reads_open": Fault.STILL_OPEN,
    "reads_closed": Fault.STILL_CLOSED,
    "read_closed": Fault.STILL_CLOSED,
    "still_draws_power": Fault.STILL_DRAWS_POWER,
    "no_power": Fault.NO_POWER,
    "no_evidence": Fault.NOT_PROVEN,
    "too_late": Fault.TOO_LATE,
    "too_little_left": Fault.TOO_LATE,
    "expired": Fault.TOO_LATE,
    "restore_at_passed": Fault.TOO_LATE,
    "not_approved": Fault.TOO_LATE,
}


def fault_after(before: Fault | None, state: CommandState, reason: str, *, is_off: bool) -> Fault | None:
    """Return what is the matter after a step.

    Args:
        before: What was before it.
        state: The new state.
        reason: On what it rests.
        is_off: Whether the command takes the load off.
    """
    match state:
        case S.SUCCEEDED:
            return Fault.NO_POWER if reason == Fault.NO_POWER else None
        case S.CANCELLED | S.SUPERSEDED:
            return None
        case S.DISPATCHED | S.ACCEPTED | S.VERIFYING:
            # What needs a person has gone, else it would not have been sent.
            return None if before in _HOLDS else before
        case S.REJECTED | S.EXPIRED | S.FAILED:
            # Guards are many and have names of their own.
            return fault_named(reason, is_off=is_off) or Fault.FORBIDDEN
        case _:
            return fault_named(reason, is_off=is_off) or before


def fault_named(reason: str, *, is_off: bool) -> Fault | None:
    """Return the fault that a reason of ours or of the line's holder means, None when it means none."""
    if reason == "not_followed":
        return Fault.STILL_CLOSED if is_off else Fault.STILL_OPEN
    return _FAULTS.get(reason)
