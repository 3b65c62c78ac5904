"""What switching needs from outside: the registry, the breakers' readings, the trust in our clock."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol

from libs.common.clock import Clock
from services.control.domain.guards import Reading
from services.control.domain.loads import LoadInfo

JUMP_S = 2.0
"""A wall clock that runs away from the monotonic one by more than this was set by somebody. [s]"""


class Loads(Protocol):
    """The registry's loads."""

    def get(self, load_id: str) -> LoadInfo | None:
        """Return a load, None when there is no such load now."""

    def all(self) -> Sequence[LoadInfo]:
        """Return every load there is."""

    def at_site(self, site_id: str) -> Sequence[LoadInfo]:
        """Return the loads of a site."""


class Readings(Protocol):
    """What ingest's direct door last said of the breakers."""

    def of(self, load_id: str) -> Reading | None:
        """Return a load's reading, with its age brought up to now; None when nothing recent was heard."""


class Neighbours(Protocol):
    """Who hangs together with whom."""

    def stopped_with(self, device_id: str) -> Sequence[str]:
        """Return what a restart of a device stops: itself, and with a telecontrol station all that is on its line."""


class Alone:
    """No device hangs together with another one."""

    def stopped_with(self, device_id: str) -> Sequence[str]:
        """Return the device."""
        return (device_id,)


class ClockSync(Protocol):
    """Whether this machine's clock may be trusted."""

    def problem(self) -> str | None:
        """Return why it may not; None when it may."""


class SteadyClock:
    """Time for switching, which no setting of the wall clock can hold back.

    A wake-up must come at its wall time, and no later than it would by the monotonic clock: whoever puts the wall
    clock back by an hour must not keep radio units asleep for it. So ``now`` is the later of the wall clock and of
    the wall clock at an anchor plus the monotonic time since. After a jump OFFs are refused (``problem``) until the
    wall clock is believed again: at once when it jumped ahead, and when it was put back, once every wake-up of what
    is off has come due under the old reckoning.
    """

    def __init__(self, clock: Clock) -> None:
        """Anchor the clock."""
        self._clock = clock
        self._anchor = clock.now()
        self._anchored_at = clock.monotonic()
        self._until: datetime | None = None

    def now(self) -> datetime:
        """Return the time by which commands are due."""
        return max(self._clock.now(), self._reckoned())

    def jump_s(self) -> float:
        """Return by how much the wall clock has left the monotonic one. [s]"""
        return (self._clock.now() - self._reckoned()).total_seconds()

    def problem(self) -> str | None:
        """Return why the wall clock may not be trusted for an OFF; None when it may."""
        jump_s = self.jump_s()
        return f"set by {jump_s:+.0f} s" if abs(jump_s) > JUMP_S else None

    def settle(self, last_restore_at: datetime | None, done_until: datetime) -> bool:
        """Believe the wall clock again when nothing depends on the old reckoning; returns whether it is believed.

        Args:
            last_restore_at: The latest time at which a load that is off now is to be on again; None without any.
            done_until: Everything that was due by then, by ``now``, has been done.
        """
        if self.jump_s() < -JUMP_S:
            if self._until is None:
                self._until = last_restore_at or done_until
            if done_until < self._until:
                return False
        # The monotonic clock is not disciplined; small differences are taken over as they come.
        self._anchor, self._anchored_at, self._until = self._clock.now(), self._clock.monotonic(), None
        return True

    def _reckoned(self) -> datetime:
        return self._anchor + timedelta(seconds=self._clock.monotonic() - self._anchored_at)


class AssumedClock:
    """For machines where nobody can say whether the clock is synchronised; the setting ``clock_sync=assumed``."""

    def problem(self) -> str | None:
        """Return None: the operator vouches for the clock."""
        return None
