"""The loop that holds targets against the books: when it looks, whom it wakes, what does not stop it."""

import asyncio
from collections.abc import Callable
from typing import Any

from libs.common.errors import Unavailable
from libs.common.testing.clock import FakeClock
from services.carbon.worker import TargetWatch


class Books:
    """Targets that have news as a test says, a registry that is ready, and a relay that counts."""

    def __init__(self, *news: int | None) -> None:
        self.news = list(news)
        self.looked = self.woken = 0

    async def publish_due(self, beat: Callable[[], None]) -> int:
        self.looked += 1
        found = self.news.pop(0) if self.news else 0
        if found is None:
            raise Unavailable("the database is away")
        return found

    async def ready(self) -> None:
        return None

    def wake(self) -> None:
        self.woken += 1


async def test_targets_are_looked_at_every_poll_and_an_absent_database_is_waited_out() -> None:
    clock, books, beats = FakeClock(), Books(2, None, 1, 0), []
    parts: Any = books
    watch = TargetWatch(targets=parts, directory=parts, relay=parts, clock=clock, poll_s=60.0)
    task = asyncio.create_task(watch.run(lambda: beats.append(1)))
    try:
        seen = []
        for _ in range(4):
            await clock.advance(59.0)
            seen.append((books.looked, books.woken))
            await clock.advance(1.0)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert seen == [(1, 1), (2, 1), (3, 2), (4, 2)]
    assert len(beats) >= 4 * 12
