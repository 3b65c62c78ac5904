"""A clock that stands still until it is advanced; sleepers wake in order of their time."""

import asyncio
import heapq
import itertools
from datetime import UTC, datetime, timedelta


class FakeClock:
    """Wall and monotonic time that move together, or apart when the wall clock is set."""

    def __init__(self, start: datetime | None = None) -> None:
        self._now = start or datetime(2026, 3, 1, 4, 0, tzinfo=UTC)
        self._monotonic = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now(self) -> datetime:
        """Return the wall time."""
        return self._now

    def monotonic(self) -> float:
        """Return the monotonic time. [s]"""
        return self._monotonic

    def set_wall(self, now: datetime) -> None:
        """Set the wall clock as an administrator or NTP would; monotonic time is not touched."""
        self._now = now

    async def sleep(self, delay_s: float) -> None:
        """Wait until the clock has been advanced by ``delay_s``. [s]"""
        if delay_s <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic + delay_s, next(self._order), future))
        await future

    async def advance(self, by_s: float) -> None:
        """Move both clocks, waking every sleeper on the way at its own time. [s]"""
        target = self._monotonic + by_s
        await settle()
        while self._sleepers and self._sleepers[0][0] <= target:
            at, _, future = heapq.heappop(self._sleepers)
            self._move(at - self._monotonic)
            if not future.done():
                future.set_result(None)
            await settle()
        self._move(target - self._monotonic)
        await settle()

    def _move(self, by_s: float) -> None:
        self._monotonic += by_s
        self._now += timedelta(seconds=by_s)


async def settle(rounds: int = 20) -> None:
    """Let tasks that are ready run until they wait again."""
    for _ in range(rounds):
        await asyncio.sleep(0)
