"""Reads the whole command topic, from ten minutes back, and does what concerns the lines of this process."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from datetime import timedelta

from libs.common.bus import topics
from libs.common.bus.port import Bus, Received, StartAt
from libs.common.bus.tail import Tail
from libs.common.clock import Clock
from services.ingest.usecases.orders import Order, Orders

logger = logging.getLogger(__name__)

BACK_S = 600.0
"""How far back the topic is read at the start: what is older is control's to repeat. [s]"""
AT_A_TIME = 250
"""Commands checked and noted together: some ten milliseconds in which nothing else is done."""
AT_ONCE = 1_000
"""Orders begun side by side: with ten thousand each step of each would wait for all others, and telling how they ended
too."""
IN_LINE_AT_MOST = 20_000
"""Orders that were taken up and wait for their turn; beyond them the topic is read no further."""
HOLDS_UP_S = 2.0
"""An order that takes longer waits for its device; it does not keep the next one from beginning. [s]"""


class CommandWorker:
    """One task per order, so that a slow breaker keeps nobody waiting for long.

    An order is taken up as soon as it is read, and waits for its turn here: whoever sent it hears that it is known, and
    does not send it again.
    """

    def __init__(self, *, orders: Orders, bus: Bus, clock: Clock) -> None:
        self._orders = orders
        self._bus = bus
        self._clock = clock
        self._taken: asyncio.Queue[str] = asyncio.Queue()
        self._room = asyncio.Semaphore(AT_ONCE)
        self._in_line: asyncio.Queue[Order] = asyncio.Queue(IN_LINE_AT_MOST)
        self._stopping = False

    def line_taken(self, line_id: str) -> None:
        """Look whether the line's former holder has missed a command."""
        self._taken.put_nowait(line_id)

    async def run(self, beat: Callable[[], None]) -> None:
        """Work for ever."""
        start = StartAt(since=self._clock.now() - timedelta(seconds=BACK_S))
        tail = Tail(bus=self._bus, clock=self._clock, topics=(topics.COMMANDS,), start=start, handle=self._handle)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take_over(), name="commands of lines taken over")
            group.create_task(self._begin_in_turn(group), name="orders in line")
            group.create_task(tail.run(beat), name="command topic")
            try:
                await asyncio.Event().wait()  # until this is stopped, or one of them fails
            finally:
                self._give_back()

    def _give_back(self) -> None:
        """Tell at once of the orders whose turn does not come here any more: nothing was done for them."""
        self._stopping = True
        while not self._in_line.empty():
            self._orders.give_back(self._in_line.get_nowait())

    async def _handle(self, batch: Sequence[Received]) -> None:
        for first in range(0, len(batch), AT_A_TIME):
            await self._line_up(await self._orders.take(batch[first : first + AT_A_TIME]))

    async def _take_over(self) -> None:
        while True:
            line_id = await self._taken.get()
            await self._line_up(await self._orders.take_over(line_id))

    async def _line_up(self, orders: Sequence[Order]) -> None:
        left = deque(orders)
        try:
            while left and not self._stopping:
                await self._in_line.put(left[0])
                left.popleft()
        finally:
            for order in left:
                self._orders.give_back(order)

    async def _begin_in_turn(self, group: asyncio.TaskGroup) -> None:
        while True:
            await self._room.acquire()
            order = await self._in_line.get()
            group.create_task(self._execute(order), name=f"command {order.command.command_id}")

    async def _execute(self, order: Order) -> None:
        left = False

        def leave() -> None:
            nonlocal left
            if not left:
                left = True
                self._room.release()

        held_up = self._clock.call_later(HOLDS_UP_S, leave)
        try:
            await self._orders.execute(order)
        finally:
            held_up.cancel()
            leave()
