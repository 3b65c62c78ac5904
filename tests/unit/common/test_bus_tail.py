"""The tail on a scripted bus: what it does when the bus or its handler fails."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Self, cast

import pytest

from libs.common.bus.port import Bus, BusUnavailable, Received, StartAt, TopicPartition
from libs.common.bus.tail import Tail
from libs.common.errors import Unavailable
from libs.common.testing.clock import FakeClock

WHERE = TopicPartition("t", 0)


def received(offset: int) -> Received:
    return Received(
        topic="t", partition=0, offset=offset, key="k", value=b"%d" % offset, headers=(), appended_at=datetime.now(UTC)
    )


class Script:
    """A bus with one log; each fetch does what stands next in ``steps``, then waits for ever."""

    def __init__(self, end: int, steps: list[int | Exception]) -> None:
        self.end = end
        self.steps = steps
        self.starts: list[StartAt] = []

    def tail(self, topics: Sequence[str], start: StartAt) -> "Reader":
        self.starts.append(start)
        return Reader(self, start)


class Reader:
    def __init__(self, script: Script, start: StartAt) -> None:
        self.script = script
        self.next = 0 if start.beginning else script.end
        if start.positions is not None:
            self.next = start.positions[WHERE]

    async def __aenter__(self) -> Self:
        if isinstance(self.script.steps[0], BusUnavailable) and len(self.script.starts) == 1:
            raise cast(BusUnavailable, self.script.steps.pop(0))
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    async def fetch(self, *, max_messages: int, timeout_s: float) -> list[Received]:
        if not self.script.steps:
            await asyncio.Event().wait()
        step = self.script.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        found = [received(self.next + n) for n in range(step)]
        self.next += step
        return found

    async def end_offsets(self) -> Mapping[TopicPartition, int]:
        return {WHERE: self.script.end}

    def positions(self) -> Mapping[TopicPartition, int]:
        return {WHERE: self.next}


async def run_script(script: Script, handle: Any, start: StartAt, *, advance_s: float = 30.0) -> Tail:
    clock = FakeClock()
    tail = Tail(bus=cast(Bus, script), clock=clock, topics=["t"], start=start, handle=handle)
    beats = 0

    def beat() -> None:
        nonlocal beats
        beats += 1

    task = asyncio.create_task(tail.run(beat))
    for _ in range(10):
        await clock.advance(advance_s / 10)
    assert not task.done(), task
    assert not script.steps
    assert beats > 0
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return tail


async def test_it_is_ready_once_it_has_read_to_the_ends_seen_at_the_start() -> None:
    states: list[bool] = []
    tail: Tail

    async def handle(batch: Sequence[Received]) -> None:
        states.append(tail.ready)

    script = Script(3, [2, 1, 4])
    clock = FakeClock()
    tail = Tail(bus=cast(Bus, script), clock=clock, topics=["t"], start=StartAt(beginning=True), handle=handle)
    task = asyncio.create_task(tail.run(lambda: None))
    await asyncio.wait_for(tail.caught_up(), 5)
    await clock.advance(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert states == [False, False, True]


async def test_a_tail_of_nothing_is_ready_at_once() -> None:
    async def handle(batch: Sequence[Received]) -> None:
        raise AssertionError("there is nothing to handle")

    tail = await run_script(Script(0, [0]), handle, StartAt(beginning=True))
    assert tail.ready


async def test_after_an_interruption_it_goes_on_where_it_was() -> None:
    seen: list[int] = []

    async def handle(batch: Sequence[Received]) -> None:
        seen.extend(received.offset for received in batch)

    script = Script(5, [BusUnavailable("away"), 2, BusUnavailable("away"), 3])
    await run_script(script, handle, StartAt.end())
    assert seen == [5, 6, 7, 8, 9]
    assert [start.positions for start in script.starts] == [None, None, {WHERE: 7}]


async def test_what_the_handler_cannot_take_now_is_offered_again() -> None:
    attempts: list[list[int]] = []

    async def handle(batch: Sequence[Received]) -> None:
        attempts.append([received.offset for received in batch])
        if len(attempts) < 3:
            raise Unavailable("database away")

    await run_script(Script(0, [2]), handle, StartAt(beginning=True))
    assert attempts == [[0, 1], [0, 1], [0, 1]]


async def test_a_message_that_fails_alone_is_left_out_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    taken: list[int] = []

    async def handle(batch: Sequence[Received]) -> None:
        if any(received.offset == 1 for received in batch):
            raise ValueError("no such thing")
        taken.extend(received.offset for received in batch)

    await run_script(Script(0, [3, 1]), handle, StartAt(beginning=True))
    assert taken == [0, 2, 3]
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [record.__dict__["offset"] for record in errors] == [1]
