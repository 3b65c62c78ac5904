"""Orders in line: taken up as soon as they are read, begun some at a time and in turn, given back by a process that
stops."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from libs.common.testing.clock import FakeClock, settle
from services.ingest.worker import commands
from services.ingest.worker.commands import CommandWorker


class Topic:
    """Stands in for the command topic."""

    def __init__(self) -> None:
        self.handle: Callable[[Sequence[Any]], Any] | None = None

    def __call__(self, *, handle: Callable[[Sequence[Any]], Any], **_: object) -> "Topic":
        self.handle = handle
        return self

    async def run(self, beat: Callable[[], None]) -> None:
        await asyncio.Event().wait()

    async def give(self, *orders: str) -> None:
        assert self.handle is not None
        await self.handle(orders)


class FakeOrders:
    """Takes everything, and lets each order go on until it is told to end."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.missed: dict[str, list[str]] = {}
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.given_back: list[str] = []
        self.go = asyncio.Event()

    async def take(self, batch: Sequence[Any]) -> list[Any]:
        self.taken += batch
        return [_Order(one) for one in batch]

    async def take_over(self, line_id: str) -> list[Any]:
        return await self.take(self.missed.pop(line_id))

    async def execute(self, order: Any) -> None:
        self.begun.append(order.name)
        await self.go.wait()
        self.ended.append(order.name)

    def give_back(self, order: Any) -> None:
        self.given_back.append(order.name)


class _Order:
    def __init__(self, name: str) -> None:
        self.name = name
        self.command = self
        self.command_id = name


@asynccontextmanager
async def working(
    monkeypatch: pytest.MonkeyPatch, *, at_once: int = 2, in_line: int = 100
) -> AsyncIterator[tuple[FakeOrders, Topic, CommandWorker, FakeClock, "asyncio.Task[None]"]]:
    topic, orders, clock = Topic(), FakeOrders(), FakeClock()
    for name, value in {"Tail": topic, "AT_ONCE": at_once, "IN_LINE_AT_MOST": in_line}.items():
        monkeypatch.setattr(commands, name, value)
    worker = CommandWorker(orders=cast(Any, orders), bus=cast(Any, None), clock=clock)
    task = asyncio.create_task(worker.run(lambda: None))
    await settle()
    try:
        yield orders, topic, worker, clock, task
    finally:
        task.cancel()
        await asyncio.wait([task])


NAMES = tuple("abcdef")


async def test_all_are_taken_up_at_once_and_begin_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    async with working(monkeypatch) as (orders, topic, _, _, _):
        await topic.give(*NAMES)
        await settle()
        assert (orders.taken, orders.begun) == (list(NAMES), ["a", "b"])
        orders.go.set()
        await settle()
        assert (orders.begun, orders.ended) == (list(NAMES), list(NAMES))


async def test_orders_begin_some_at_a_time_and_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = commands.AT_ONCE
    async with working(monkeypatch, at_once=at_once, in_line=commands.IN_LINE_AT_MOST) as (
        orders,
        topic,
        worker,
        clock,
        _,
    ):
        names = [f"c{number}" for number in range(3 * at_once)]
        await topic.give(*names)
        await settle()
        assert len(orders.begun) == at_once
        await clock.advance(commands.HOLDS_UP_S)
        assert len(orders.begun) == 2 * at_once, "silent devices make room after a moment"
        orders.go.set()
        await clock.advance(0.0)
        assert orders.begun == orders.ended == names
        assert worker._room._value == at_once - 1  # one is ready for the next


async def test_one_that_waits_for_its_device_lets_the_next_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    async with working(monkeypatch) as (orders, topic, _, clock, _):
        await topic.give(*NAMES)
        await clock.advance(commands.HOLDS_UP_S)
        assert orders.begun == ["a", "b", "c", "d"]
        await clock.advance(commands.HOLDS_UP_S)
        assert (orders.begun, orders.ended) == (list(NAMES), [])


async def test_a_full_line_is_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    async with working(monkeypatch, at_once=1, in_line=2) as (orders, topic, _, _, _):
        giving = asyncio.create_task(topic.give(*NAMES))
        await settle()
        assert not giving.done()  # the topic is read no further
        orders.go.set()
        await giving
        await settle()
        assert orders.ended == list(NAMES)


async def test_a_stop_gives_back_what_the_full_line_had_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async with working(monkeypatch, at_once=1, in_line=2) as (orders, _, worker, _, task):
        orders.missed["line-1"] = list(NAMES)
        worker.line_taken("line-1")
        await settle()
        task.cancel()
        await asyncio.wait([task])
        assert (orders.begun, sorted(orders.given_back)) == (["a"], ["b", "c", "d", "e", "f"])


async def test_those_of_a_line_taken_over_are_lined_up_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async with working(monkeypatch, at_once=1) as (orders, topic, worker, _, _):
        orders.missed["line-1"] = ["m"]
        await topic.give("a")
        worker.line_taken("line-1")
        await settle()
        assert (orders.taken, orders.begun) == (["a", "m"], ["a"])
        orders.go.set()
        await settle()
        assert orders.ended == ["a", "m"]


async def test_a_stop_gives_back_at_once_what_has_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    async with working(monkeypatch) as (orders, topic, _, _, task):
        await topic.give(*NAMES)
        await settle()
        task.cancel()
        await asyncio.wait([task])
        assert (orders.begun, orders.given_back) == (["a", "b"], ["c", "d", "e", "f"])
        await topic.give("late")  # it was read as the process stopped
        assert orders.given_back[-1] == "late"
