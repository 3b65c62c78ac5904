"""Orders begin some at a time, and those that wait for their devices keep nobody from beginning."""

import asyncio
from typing import Any

from libs.common.testing.clock import FakeClock, settle
from services.ingest.worker import commands
from services.ingest.worker.commands import AT_ONCE, HOLDS_UP_S, CommandWorker


class FakeOrders:
    """Every order ends when it is let."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.end = asyncio.Event()

    async def take(self, batch: list[Any]) -> list[Any]:
        return batch

    async def execute(self, order: Any) -> None:
        self.begun.append(order.command.command_id)
        await self.end.wait()


class Order:
    """What the worker needs of one."""

    def __init__(self, number: int) -> None:
        self.command: Any = self
        self.command_id = f"c{number}"


async def test_orders_begin_some_at_a_time_and_in_their_order(monkeypatch: Any) -> None:
    monkeypatch.setattr(commands, "AT_A_TIME", 10 * AT_ONCE)
    clock, orders = FakeClock(), FakeOrders()
    bus: Any = None
    of_all: Any = orders
    worker = CommandWorker(orders=of_all, bus=bus, clock=clock)
    async with asyncio.TaskGroup() as group:
        worker._tasks = group
        batch: Any = [Order(number) for number in range(3 * AT_ONCE)]
        handled = group.create_task(worker._handle(batch))
        await settle()
        assert len(orders.begun) == AT_ONCE
        await clock.advance(HOLDS_UP_S)
        await settle()
        assert len(orders.begun) == 2 * AT_ONCE, "silent devices make room after a moment"
        orders.end.set()
        await handled
    assert orders.begun == [f"c{number}" for number in range(3 * AT_ONCE)]
    assert worker._room._value == AT_ONCE
