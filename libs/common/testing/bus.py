"""Helpers for tests on a real bus: a handler that writes down what it does, and consumers that run beside a test."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from libs.common.bus.consumer import EffectsConsumer
from libs.common.bus.port import Received
from libs.common.db import Database, WriteConn
from libs.common.schema import RUNTIME_TABLES

EFFECTS = """
    create table effects (
        id bigint generated always as identity primary key,
        by text not null, topic text not null, partition integer not null, "off" bigint not null,
        key text, value bytea
    )
"""
"""No uniqueness on purpose: an effect that happens twice must show."""


class Recorder:
    """Writes every message into ``effects``; remembers what was loaded and dropped."""

    def __init__(self, name: str = "a", *, before: Callable[[Received], Awaitable[None]] | None = None) -> None:
        """Prepare a handler; ``before`` runs before each effect and may raise or wait."""
        self.name = name
        self.before = before
        self.loads: list[frozenset[int]] = []
        self.drops: list[frozenset[int]] = []
        self.offered: list[Received] = []
        self.commits = 0

    async def load(self, conn: WriteConn, partitions: frozenset[int]) -> None:
        """Note it."""
        self.loads.append(partitions)

    def drop(self, partitions: frozenset[int]) -> None:
        """Note it."""
        self.drops.append(partitions)

    async def handle(self, conn: WriteConn, batch: Sequence[Received]) -> None:
        """Write the effects."""
        for received in batch:
            self.offered.append(received)
            if self.before is not None:
                await self.before(received)
            await conn.execute(
                'insert into effects (by, topic, partition, "off", key, value) values ($1, $2, $3, $4, $5, $6)',
                self.name,
                received.topic,
                received.partition,
                received.offset,
                received.key,
                received.value,
            )

    def committed(self) -> None:
        """Count it."""
        self.commits += 1


async def create_effects_schema(db: Database) -> None:
    """Create the schema of ``db`` with the runtime's tables and ``effects``."""
    async with db.write() as conn:
        await conn.execute(f'create schema "{db.schema}"')
        for statement in (*RUNTIME_TABLES, EFFECTS):
            await conn.execute(statement)


async def effects(db: Database) -> list[tuple[str, int, int, str, bytes]]:
    """Return (by, partition, offset, key, value) of every effect, in the order in which they happened."""
    async with db.read() as conn:
        rows = await conn.fetch('select by, partition, "off", key, value from effects order by id')
    return [tuple(row) for row in rows]


@asynccontextmanager
async def running(*consumers: EffectsConsumer) -> AsyncIterator[None]:
    """Run consumers beside the block; cancel them at its end. One that fails ends the block with its error."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(consumer.run(_no_beat)) for consumer in consumers]
        yield
        for task in tasks:
            task.cancel()


async def until(condition: Callable[[], Awaitable[bool] | bool], *, within_s: float = 40.0) -> None:
    """Wait until something that other tasks or processes bring about has come true.

    Raises:
        TimeoutError: It has not, within ``within_s``.
    """
    async with asyncio.timeout(within_s):
        while True:
            answer = condition()
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(0.02)


def _no_beat() -> None:
    """Nobody watches."""
