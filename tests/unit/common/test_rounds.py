"""The loop of a worker: when its next round begins."""

import asyncio
import logging

import pytest

from libs.common.errors import Unavailable
from libs.common.rounds import CAP_S, FIRST_S, Rounds
from libs.common.testing.clock import FakeClock

HOUR_S = 3600.0
STEP_S = 0.01


class Worker:
    """Notes its rounds; each does what was said of it, and the last one ends the loop."""

    def __init__(self, *rounds: object) -> None:
        self.clock = FakeClock()
        self.rounds = Rounds(self.clock, worker="w", every_s=HOUR_S)
        self.begun = asyncio.Event()
        self.count = 0
        self.beats = 0
        self._rounds = rounds

    async def work(self) -> bool:
        self.count += 1
        self.begun.set()
        this = self._rounds[self.count - 1]
        if isinstance(this, Exception):
            raise this
        if this == "is woken":
            self.rounds.wake()
        return this == "more"

    def beat(self) -> None:
        self.beats += 1

    async def run(self) -> None:
        with pytest.raises(ZeroDivisionError):
            await self.rounds.run(self.work, self.beat)


async def test_the_next_round_begins_at_once_when_there_is_more_or_it_was_woken_within_the_last() -> None:
    worker = Worker("more", "is woken", ZeroDivisionError())
    await worker.run()
    assert (worker.count, worker.beats) == (3, 3)


async def test_a_worker_with_nothing_to_do_waits_for_whoever_wakes_it() -> None:
    worker = Worker("nothing", ZeroDivisionError())
    async with asyncio.TaskGroup() as group:
        group.create_task(worker.run(), name="worker")
        await worker.begun.wait()
        for _ in range(5):
            await asyncio.sleep(0)
        assert worker.count == 1
        worker.rounds.wake()
    assert worker.count == 2


async def test_a_worker_that_nobody_wakes_looks_when_its_time_has_come() -> None:
    worker = Worker("nothing", ZeroDivisionError())
    worker.rounds = Rounds(worker.clock, worker="w", every_s=0.0)
    await worker.run()
    assert worker.count == 2


async def test_what_is_away_is_waited_for_longer_and_longer_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    away = Unavailable("the database is away", message_zh="数据库不可用")
    worker = Worker(away, away, "more", away, ZeroDivisionError())
    with caplog.at_level(logging.WARNING):
        async with asyncio.TaskGroup() as group:
            group.create_task(worker.run(), name="worker")
            await worker.begun.wait()
            for begun, waits_s in ((1, FIRST_S), (2, 2 * FIRST_S), (4, FIRST_S)):
                assert worker.count == begun
                worker.rounds.wake()  # who wakes it does not make it ask sooner
                await worker.clock.advance(waits_s / 2 - STEP_S)
                assert worker.count == begun
                while worker.count == begun:
                    await worker.clock.advance(STEP_S)
    assert [record.message for record in caplog.records] == ["waits", "waits"]  # anew after a round that went well
    assert worker.beats == 5
    assert FIRST_S < CAP_S
