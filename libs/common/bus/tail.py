"""A worker that reads whole topics for itself, outside any group: projections, live views, command topics.

What it has read is kept in memory or written idempotently by the handler; it keeps no positions.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from libs.common.backoff import Backoff
from libs.common.bus.port import Bus, Received, StartAt, TailReader, TopicPartition
from libs.common.clock import Clock
from libs.common.errors import Unavailable
from libs.common.metrics import counter

logger = logging.getLogger(__name__)

FETCH_TIMEOUT_S = 0.5
MAX_BATCH = 2000

SKIPPED = counter("bus_tail_skipped_total", "Messages that a tail's handler could not take", ("topic",))

Handle = Callable[[Sequence[Received]], Awaitable[None]]


class Tail:
    """Reads the topics and hands over what comes, in order per partition."""

    def __init__(self, *, bus: Bus, clock: Clock, topics: Sequence[str], start: StartAt, handle: Handle) -> None:
        """Prepare a tail.

        Args:
            bus: Where to read.
            clock: Used for waiting.
            topics: What to read.
            start: Where to begin; after an interruption it goes on where it was.
            handle: Takes a batch. When it raises ``Unavailable`` the batch is offered again. When it raises
                anything else the messages are offered one by one, and one that fails again is logged and left out.
        """
        self._bus = bus
        self._clock = clock
        self._topics = tuple(topics)
        self._start = start
        self._handle = handle
        self._goal: Mapping[TopicPartition, int] | None = None
        self._caught_up = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Whether it has read to the ends that it saw at its start."""
        return self._caught_up.is_set()

    async def caught_up(self) -> None:
        """Wait until it has read to the ends that it saw at its start."""
        await self._caught_up.wait()

    async def run(self, beat: Callable[[], None]) -> None:
        """Read for ever; wait and go on when the bus is away."""
        backoff = Backoff(first_s=0.2, cap_s=5.0)
        while True:
            beat()
            try:
                async with self._bus.tail(self._topics, self._start) as reader:
                    await self._read(reader, beat, backoff)
            except Unavailable as exc:
                if backoff.first:
                    logger.warning("tail waits for the bus", extra={"topics": self._topics, "reason": exc.message})
                await self._clock.sleep(backoff.next_s())

    async def _read(self, reader: TailReader, beat: Callable[[], None], backoff: Backoff) -> None:
        # From here on every partition has its position: an interruption goes on there, also after `end()`.
        self._start = StartAt(positions=reader.positions())
        if self._goal is None:
            self._goal = await reader.end_offsets()
        while True:
            beat()
            self._note_progress(reader.positions())
            batch = await reader.fetch(max_messages=MAX_BATCH, timeout_s=FETCH_TIMEOUT_S)
            backoff.reset()
            if batch:
                await self._offer(batch, beat)
                self._start = StartAt(positions=reader.positions())

    def _note_progress(self, positions: Mapping[TopicPartition, int]) -> None:
        if self._goal is not None and all(positions.get(where, 0) >= end for where, end in self._goal.items()):
            self._caught_up.set()

    async def _offer(self, batch: Sequence[Received], beat: Callable[[], None]) -> None:
        try:
            await self._patiently(batch, beat)
        except Exception as exc:
            if len(batch) == 1:
                _leave_out(batch[0], exc)
                return
            for received in batch:
                try:
                    await self._patiently([received], beat)
                except Exception as again:
                    _leave_out(received, again)

    async def _patiently(self, batch: Sequence[Received], beat: Callable[[], None]) -> None:
        """Hand over the batch, again and again while something that the handler needs is away."""
        backoff = Backoff(first_s=0.1, cap_s=5.0)
        while True:
            try:
                await self._handle(batch)
            except Unavailable as exc:
                if backoff.first:
                    logger.warning("tail's handler waits", extra={"topics": self._topics, "reason": exc.message})
                beat()
                await self._clock.sleep(backoff.next_s())
            else:
                return


def _leave_out(received: Received, exc: Exception) -> None:
    SKIPPED.labels(received.topic).inc()
    logger.error(
        "message left out by a tail",
        exc_info=exc,
        extra={"topic": received.topic, "partition": received.partition, "offset": received.offset},
    )
