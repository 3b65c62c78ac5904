"""Many orders at once: while one key wakes thousands, polls let them by, and so does storing what was reported."""

from collections.abc import Iterator
from contextlib import contextmanager

from libs.common.clock import Clock
from libs.common.garbage import UNDISTURBED_AT_MOST_S, Undisturbed

RUSH = 300
"""So many orders are under way, or waiting for their lines, before a poll lets them by."""
PUT_OFF_AT_MOST_S = 30.0
"""A poll is put off once, by half its interval and no longer than this: nothing is called silent for it. [s]"""
LET_BY_S = 5.0
"""What can wait does so for this long, then does its next part. [s]"""
LOOK_S = 0.2


class Rush:
    """Counts the orders under way in this process."""

    def __init__(self, clock: Clock) -> None:
        """Nothing is under way yet."""
        self._clock = clock
        self._undisturbed = Undisturbed(clock)
        self._orders = 0

    @contextmanager
    def order(self) -> Iterator[None]:
        """Count one order while it lasts."""
        self._orders += 1
        if self._orders == RUSH:
            self._undisturbed.for_s(UNDISTURBED_AT_MOST_S)
        try:
            yield
        finally:
            self._orders -= 1

    @property
    def is_on(self) -> bool:
        """Whether polls let the orders by."""
        return self._orders >= RUSH

    async def let_by(self) -> None:
        """Return when no rush is on, at the latest after ``LET_BY_S``."""
        until = self._clock.monotonic() + LET_BY_S
        while self.is_on and self._clock.monotonic() < until:
            await self._clock.sleep(LOOK_S)

    @staticmethod
    def puts_off_by_s(interval_s: float) -> float:
        """Return how much later a device of this interval is polled. [s]"""
        return min(interval_s / 2, PUT_OFF_AT_MOST_S)
