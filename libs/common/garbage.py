"""Cyclic garbage, collected so that nobody waits for it: no collection stops the process for long, but one a day.

A full collection looks at every container that lives. With a registry in memory that is a quarter of a second, several
times a minute under load, in which no device is asked and no command is taken. So what has survived a long one is set
aside and not looked at again (``gc.freeze``), and the next ones are as short as what has come since is small. Objects
set aside still go by their reference counts; only cycles among them stay. Once a day all is looked at again, and sooner
when twice as much lies there: what thousands of orders held when it was set aside may be cycles by now.
"""

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any

from libs.common.clock import Clock

YOUNG = 10_000
"""Containers made and not yet given back, after which the young are looked at. The default of 700 looks at messages
that are under way, finds them alive and so calls them old, which makes the full collections come often."""
LONG_S = 0.02
"""A full collection that takes more than this ends with setting aside what it found alive. [s of processor time]"""
WHOLE_EVERY_S = 86400.0
ASIDE_ANYWAY = 200_000
"""So many more than twice as before may be set aside until all is looked at again: some tens of megabytes."""
OLDEST = 2
UNDISTURBED_AT_MOST_S = 20.0
"""For one that asks. What is garbage meanwhile stays: some ten megabytes when ten thousand are woken. [s]"""
UNDISTURBED_IN_ALL_S = 60.0
"""For all who ask while it lasts. [s]"""


class GarbageKeeper:
    """Hears of every collection of this process; see the module."""

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        processor: Callable[[], float] = time.thread_time,
    ) -> None:
        """Prepare; nothing happens before ``begin``.

        Args:
            monotonic: For the day between two whole collections. [s]
            processor: Time that this thread has worked; a collection is not long because others work. [s]
        """
        self.later: Callable[[Callable[[], object]], object] = lambda call: None
        """Has something called soon, outside of a collection; the running loop's ``call_soon_threadsafe``."""
        self._monotonic = monotonic
        self._processor = processor
        self._thresholds = gc.get_threshold()
        self._began_at = 0.0
        self._whole_at = monotonic()
        self._is_whole = True
        """Whether the next full collection sees everything."""
        self._aside = 0
        """So many were set aside when everything had been looked at."""

    def begin(self) -> None:
        """Take charge of this process's collections."""
        self._thresholds = gc.get_threshold()
        gc.set_threshold(YOUNG, *self._thresholds[1:])
        gc.callbacks.append(self.heard)

    def end(self) -> None:
        """Leave them as they were."""
        gc.callbacks.remove(self.heard)
        gc.set_threshold(*self._thresholds)
        gc.unfreeze()

    def heard(self, phase: str, info: Mapping[str, Any]) -> None:
        """A collection begins or has ended; the interpreter calls this, whatever thread it is in."""
        if info["generation"] != OLDEST:
            return
        if phase == "start":
            self._began_at = self._processor()
            return
        if self._processor() - self._began_at > LONG_S:
            gc.freeze()
            # The interpreter waits until a quarter of what it last saw has come anew; now it sees how little is left.
            self.later(gc.collect)
        aside = gc.get_freeze_count()
        if self._is_whole and aside:
            self._is_whole, self._aside = False, aside
        if self._monotonic() - self._whole_at >= WHOLE_EVERY_S or aside > 2 * self._aside + ASIDE_ANYWAY:
            # The next one sees everything, is long for that, and sets aside what it found alive.
            self._whole_at = self._monotonic()
            self._is_whole = True
            gc.unfreeze()


class Undisturbed:
    """Spans without any collection, for when thousands wait for this process.

    What ten thousand orders hold lives for seconds and goes by its reference counts; to look through it again and again
    finds nothing, and takes a tenth to a seventh of all that the process does.
    """

    def __init__(self, clock: Clock) -> None:
        """Prepare; nothing happens before ``for_s``."""
        self._clock = clock
        self._began_at = self._until = self._rest_until = float("-inf")

    def for_s(self, seconds: float) -> None:
        """Make no collection for so long from now on, also where others have asked for a while that goes on. [s]

        After it they are made for a quarter as long at least, whoever asks.
        """
        now = self._clock.monotonic()
        goes_on = now < self._until
        if not goes_on and now < self._rest_until:
            return
        seconds = min(seconds, UNDISTURBED_AT_MOST_S)
        if not goes_on:
            self._began_at = now
            gc.disable()
            self._clock.call_later(seconds, self._look)
        self._until = max(self._until, min(now + seconds, self._began_at + UNDISTURBED_IN_ALL_S))
        self._rest_until = self._until + (self._until - self._began_at) / 4

    def _look(self) -> None:
        left_s = self._until - self._clock.monotonic()
        if left_s > 0:
            self._clock.call_later(left_s, self._look)
        else:
            gc.enable()
