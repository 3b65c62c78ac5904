"""Not everything of a site or of a line comes on in the same second: at first it draws several times its current.

Only planned wake-ups wait for each other, each for its first sending, and never longer than a margin that is shorter
than the one after which the line's holder closes by itself. One key, operators and whatever wakes in doubt do not wait.
"""

from collections import Counter, deque
from dataclasses import dataclass
from datetime import datetime, timedelta

from libs.common.contracts.control import Priority
from services.control.domain.commands import Command

REASON = "inrush"
"""Why a wake-up that waits has not been sent."""


@dataclass(frozen=True, slots=True)
class InrushLimits:
    """How many planned wake-ups may be sent."""

    per_site: int = 100
    per_line: int = 500
    step_s: float = 1.0
    """Within this time. [s]"""
    margin_s: float = 20.0
    """None waits longer than this. [s]"""


class Inrush:
    """Counts what was sent in the last step; it lives in memory, so that a start forgets it."""

    def __init__(self, limits: InrushLimits) -> None:
        self.limits = limits
        self._sent: deque[tuple[datetime, str, str]] = deque()
        self._sites: Counter[str] = Counter()
        self._lines: Counter[str] = Counter()

    def must_wait(self, command: Command, now: datetime) -> bool:
        """Return whether a command that is about to be sent has to wait; one that has not is counted."""
        if not _is_planned_wake_up(command):
            return False
        self._forget(now)
        full = (
            self._sites[command.site_id] >= self.limits.per_site or self._lines[command.line_id] >= self.limits.per_line
        )
        if full and now - command.not_before < timedelta(seconds=self.limits.margin_s):
            return True
        self._sent.append((now, command.site_id, command.line_id))
        self._sites[command.site_id] += 1
        self._lines[command.line_id] += 1
        return False

    def _forget(self, now: datetime) -> None:
        while self._sent and abs(now - self._sent[0][0]) >= timedelta(seconds=self.limits.step_s):
            _, site_id, line_id = self._sent.popleft()
            self._sites[site_id] -= 1
            self._lines[line_id] -= 1


def _is_planned_wake_up(command: Command) -> bool:
    return (
        not command.is_off
        and command.priority in (Priority.SCHEDULE, Priority.UPSTREAM_APP)
        and not command.was_sent
        and command.reason in ("", REASON)
    )
