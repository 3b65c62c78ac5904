"""A clock that stands still until it is advanced; sleepers wake in order of their time."""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta


class FakeClock:
    """Wall and monotonic time that move together, or apart when the wall clock is set."""

    def __init__(self, start: datetime | None = None) -> None:
        """Stand at ``start``, which is aware; by default at noon in Shanghai on 2026-03-01."""
        self._monotonic = 1000.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self.set_wall(start or datetime(2026, 3, 1, 4, 0, tzinfo=UTC))

    def now(self) -> datetime:
        """Return the wall time, in UTC."""
        # From where it was set, not step by step: a million small steps must not add up a million roundings.
        return self._wall + timedelta(seconds=self._monotonic - self._wall_set_at)

    def monotonic(self) -> float:
        """Return the monotonic time. [s]"""
        return self._monotonic

    def set_wall(self, now: datetime) -> None:
        """Set the wall clock as an administrator or NTP would; monotonic time and sleepers are not touched."""
        if now.utcoffset() is None:
            raise ValueError(f"the wall clock needs a time zone: {now.isoformat()}")
        self._wall = now.astimezone(UTC)
        self._wall_set_at = self._monotonic

    @property
    def sleeping(self) -> int:
        """How many tasks wait for this clock."""
        return sum(not future.done() for _, _, future in self._sleepers)

    async def sleep(self, delay_s: float) -> None:
        """Wait until the clock has been advanced by ``delay_s``. [s]"""
        if delay_s <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic + delay_s, next(self._order), future))
        await future

    def call_later(self, delay_s: float, call: Callable[[], None]) -> asyncio.Future[None]:
        """Call ``call`` when the clock has been advanced by ``delay_s``. [s]"""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: None if done.cancelled() else call())
        if delay_s <= 0:
            future.set_result(None)
        else:
            heapq.heappush(self._sleepers, (self._monotonic + delay_s, next(self._order), future))
        return future

    async def advance(self, by_s: float) -> None:
        """Move both clocks, waking every sleeper on the way at its own time. [s]

        Whoever wakes runs until it waits again, so what it then sleeps for counts too.
        """
        if by_s < 0:
            raise ValueError(f"time does not run backwards, not even by {by_s} s: see set_wall")
        target = self._monotonic + by_s
        await settle()
        while self._sleepers and self._sleepers[0][0] <= target:
            wakes_at, _, future = heapq.heappop(self._sleepers)
            if future.done():  # its task was cancelled
                continue
            self._monotonic = wakes_at
            future.set_result(None)
            await settle()
        self._monotonic = target
        await settle()


async def settle(rounds: int = 20) -> None:
    """Let tasks that are ready run until they wait again; ``rounds`` bounds how often they hand on to each other."""
    for _ in range(rounds):
        await asyncio.sleep(0)
