"""Many orders at once: while one key wakes thousands, polls let them by, and so does storing what was reported."""

from collections.abc import Iterator
from contextlib import contextmanager

from libs.common.clock import Clock
from libs.common.garbage import UNDISTURBED_AT_MOST_S, Undisturbed

RUSH = 300
"""So many orders are at their lines, or waiting for them, or have just been, before a poll lets them by."""
CALM_PER_S = 100
"""So many orders a second are no rush, however long they go on."""
PUT_OFF_AT_MOST_S = 30.0
"""A poll is put off once, by half its interval and no longer than this: nothing is called silent for it. [s]"""
LET_BY_S = 5.0
"""What can wait does so for this long, then does its next part. [s]"""
LOOK_S = 0.2


class Rush:
    """Counts the orders at the lines of this process, and those that have just been there.

    The latter run out of a bucket of ``2 * RUSH`` at ``CALM_PER_S``: ten thousand orders that come and go at once are a
    rush as well, and it ends some seconds after the last of them.
    """

    def __init__(self, clock: Clock) -> None:
        """Nothing is under way yet."""
        self._clock = clock
        self._undisturbed = Undisturbed(clock)
        self._orders = 0
        self._level = 0.0
        """Of the bucket at ``_level_at``."""
        self._level_at = float("-inf")

    @contextmanager
    def order(self) -> Iterator[None]:
        """Count one order while it is at its line."""
        was_on = self.is_on
        self._orders += 1
        self._level, self._level_at = min(self._level_now() + 1, 2 * RUSH), self._clock.monotonic()
        if self.is_on and not was_on:
            self._undisturbed.for_s(UNDISTURBED_AT_MOST_S)
        try:
            yield
        finally:
            self._orders -= 1

    @property
    def is_on(self) -> bool:
        """Whether polls let the orders by."""
        return self._orders >= RUSH or self._level_now() >= RUSH

    def _level_now(self) -> float:
        return max(self._level - CALM_PER_S * (self._clock.monotonic() - self._level_at), 0.0)

    async def let_by(self) -> None:
        """Return when no rush is on, at the latest after ``LET_BY_S``."""
        until = self._clock.monotonic() + LET_BY_S
        while self.is_on and self._clock.monotonic() < until:
            await self._clock.sleep(LOOK_S)

    @staticmethod
    def puts_off_by_s(interval_s: float) -> float:
        """Return how much later a device of this interval is polled. [s]"""
        return min(interval_s / 2, PUT_OFF_AT_MOST_S)
