"""Metrics of switching. The one to be woken up for is ``wattring_control_overdue_wakeups``."""

from functools import cache

from prometheus_client import Counter, Histogram

from libs.common.contracts.control import CommandAction, CommandState
from libs.common.metrics import counter, gauge, histogram
from services.control.domain.commands import Change

COMMANDS = counter("control_commands_total", "Commands that reached a state", ("action", "state"))
STAGE_SECONDS = histogram(
    "control_stage_seconds",
    "From the wanted time to dispatch, and from dispatch to each answer",
    ("action", "stage"),
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
OVERDUE = gauge("control_overdue_wakeups", "Wake-ups that are not verified within their margin")
OPEN_LEASES = gauge("control_open_off_leases", "Loads that are off, or about to be, under a lease")
UNTOLD_LEASES = gauge("control_untold_leases", "Lease changes that the watchdog has not acknowledged")
CLOCK_JUMP = gauge("control_clock_jump_seconds", "By how much the wall clock has left the monotonic one")
DOOR_AGE = gauge("control_door_age_seconds", "Age of the last answer of ingest's direct door")


def note(change: Change) -> None:
    """Count a transition and measure how long its stage took."""
    command = change.after
    if change.before.state is command.state:
        return
    _count(command.action, command.state).inc()
    if command.state is CommandState.DISPATCHED:
        since = command.not_before
    elif command.sent_at is not None and command.state in _ANSWERS:
        since = command.sent_at
    else:
        return
    _stage_seconds(command.action, command.state).observe(max((change.at - since).total_seconds(), 0.0))


_ANSWERS = (CommandState.ACCEPTED, CommandState.VERIFYING, CommandState.SUCCEEDED, CommandState.FAILED)


@cache
def _count(action: CommandAction, state: CommandState) -> Counter:
    return COMMANDS.labels(action.value, state.value)


@cache
def _stage_seconds(action: CommandAction, state: CommandState) -> Histogram:
    return STAGE_SECONDS.labels(action.value, state.value)
