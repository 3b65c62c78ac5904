"""The consumer's runtime on a real database and a bus that misbehaves as the test says.

What it does on buses that behave is stated in ``tests/contract/common/test_bus.py``.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Self, cast

import pytest

from libs.common.bus.consumer import EffectsConsumer, PoisonMessage
from libs.common.bus.port import Bus, BusUnavailable, GroupListener, Received, TopicPartition
from libs.common.clock import Clock, SystemClock
from libs.common.db import Database, WriteConn
from libs.common.settings import DatabaseSettings
from libs.common.testing.bus import Recorder, create_effects_schema, effects, running, until
from libs.common.testing.clock import FakeClock

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

WHERE = TopicPartition("t", 0)
AGE = timedelta(seconds=100)


def received(offset: int, partition: int = 0) -> Received:
    return Received(
        topic="t",
        partition=partition,
        offset=offset,
        key="k",
        value=b"%d" % offset,
        headers=(),
        appended_at=datetime.now(UTC) - AGE,
    )


class ScriptedBus:
    """A bus whose member gives ``steps`` one after the other, whatever its position, and then nothing."""

    def __init__(self, *steps: Sequence[int] | Exception, end: int = 100, start: int = 0) -> None:
        self.steps = list(steps)
        self.end, self.start = end, start
        self.seeks: list[dict[TopicPartition, int]] = []
        self.committed: dict[TopicPartition, int] = {}
        self.entered = 0

    def member(self, group: str, topics: Sequence[str], listener: GroupListener, *, member_id: str) -> "Member":
        return Member(self, listener)


class Member:
    joined = True

    def __init__(self, bus: ScriptedBus, listener: GroupListener) -> None:
        self.bus, self.listener = bus, listener
        self.assignment: frozenset[TopicPartition] = frozenset()

    async def __aenter__(self) -> Self:
        self.bus.entered += 1
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    async def fetch(self, *, max_messages: int, timeout_s: float) -> list[Received]:
        if not self.assignment:
            await self.listener.assigned([WHERE])
            self.assignment = frozenset([WHERE])
        if max_messages == 0:
            return []
        if not self.bus.steps:
            await asyncio.sleep(0.01)
            return []
        step = self.bus.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return [received(offset) for offset in step]

    async def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        self.bus.seeks.append(dict(positions))

    async def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        self.bus.committed.update(positions)

    async def end_offsets(self) -> Mapping[TopicPartition, int]:
        return {WHERE: self.bus.end}

    async def start_offsets(self) -> Mapping[TopicPartition, int]:
        return {WHERE: self.bus.start}


@pytest.fixture
async def db(postgres_url: str) -> AsyncIterator[Database]:
    db = Database(DatabaseSettings.model_validate({"url": postgres_url}), schema="probe")
    await db.open()
    await create_effects_schema(db)
    yield db
    await db.close()


def consumer(
    db: Database, bus: ScriptedBus, handler: Recorder, clock: Clock | None = None, **settings: Any
) -> EffectsConsumer:
    return EffectsConsumer(
        bus=cast(Bus, bus),
        db=db,
        clock=clock or SystemClock(),
        group="g",
        topics=["t"],
        handler=handler,
        member_id="m",
        fetch_timeout_s=0.0,
        **settings,
    )


async def run(db: Database, bus: ScriptedBus, wanted: int, handler: Recorder | None = None) -> list[int]:
    """Run until ``wanted`` effects have happened and the script is over; return their offsets."""

    async def done() -> bool:
        return not bus.steps and len(await effects(db)) >= wanted

    async with running(consumer(db, bus, handler or Recorder())):
        await until(done)
    return [effect[2] for effect in await effects(db)]


async def test_what_comes_below_the_position_is_refused(db: Database) -> None:
    bus = ScriptedBus(range(5), range(3), [4, 5], [6])
    assert await run(db, bus, 7) == list(range(7))
    assert bus.seeks == [{WHERE: 5}]  # a part that held nothing new: read on where we are


async def test_a_gap_is_asked_for_again_before_it_is_believed(db: Database) -> None:
    bus = ScriptedBus([0, 1], [5, 6], [2, 3, 4], [5])
    assert await run(db, bus, 6) == list(range(6))
    assert bus.seeks == [{WHERE: 2}]


async def test_a_gap_that_compaction_left_is_passed_and_is_no_loss(db: Database) -> None:
    bus = ScriptedBus([0, 1], [5, 6], [5, 6])
    assert await run(db, bus, 4) == [0, 1, 5, 6]
    async with db.read() as conn:
        assert await conn.fetchval("select count(*) from consumer_losses") == 0


async def test_a_gap_that_retention_left_is_a_loss(db: Database) -> None:
    bus = ScriptedBus([0, 1], [5, 6], start=5)
    assert await run(db, bus, 4) == [0, 1, 5, 6]
    async with db.read() as conn:
        row = await conn.fetchrow("select expected, found, kind from consumer_losses")
    assert tuple(row) == (2, 5, "retention")


async def test_a_bus_that_is_away_is_waited_for_without_losing_state(db: Database) -> None:
    handler = Recorder()
    bus = ScriptedBus([0], BusUnavailable("away"), BusUnavailable("away"), [1])
    assert await run(db, bus, 2, handler) == [0, 1]
    assert len(handler.loads) == 1


async def test_positions_are_told_to_the_bus_when_it_stops(db: Database) -> None:
    bus = ScriptedBus([0, 1, 2])
    await run(db, bus, 3)
    assert bus.committed == {WHERE: 3}


async def test_nothing_is_delivered_twice_after_the_handler_failed_in_the_middle(db: Database) -> None:
    failed = False

    async def fail_once(message: Received) -> None:
        nonlocal failed
        if message.offset == 2 and not failed:
            failed = True
            raise ValueError("once")

    bus = ScriptedBus(range(4), range(4))
    handler = Recorder(before=fail_once)
    assert await run(db, bus, 4, handler) == list(range(4))
    async with db.read() as conn:
        assert await conn.fetchval("select count(*) from dead_letters") == 0
    # After the rollback one transaction per message, so that only the guilty one could have been set aside.
    assert handler.commits == 4
    assert bus.seeks == [{WHERE: 0}]


async def test_a_handler_that_blames_a_message_it_was_not_given_is_a_fault_of_the_program(db: Database) -> None:
    class Confused(Recorder):
        async def handle(self, conn: WriteConn, batch: Sequence[Received]) -> None:
            raise PoisonMessage(received(77), "not mine")

    with pytest.raises(PoisonMessage):
        await consumer(db, ScriptedBus([0]), Confused()).run(lambda: None)


async def test_a_value_that_does_not_fit_its_column_is_the_messages_fault(db: Database) -> None:
    class Clumsy(Recorder):
        async def handle(self, conn: WriteConn, batch: Sequence[Received]) -> None:
            await super().handle(conn, batch)
            for message in batch:
                if message.offset == 1:
                    await conn.execute("select $1::integer", 1 << 40)  # asyncpg's own error, before the server sees it

    assert await run(db, ScriptedBus([0, 1, 2], [0, 1, 2], [1, 2], [1, 2]), 2, Clumsy()) == [0, 2]
    async with db.read() as conn:
        assert [row[0] for row in await conn.fetch('select "offset" from dead_letters')] == [1]


async def test_it_beats_while_it_waits_for_the_bus_and_while_it_handles(db: Database) -> None:
    beats = 0

    def beat() -> None:
        nonlocal beats
        beats += 1

    task = asyncio.create_task(consumer(db, ScriptedBus(), Recorder()).run(beat))
    await until(lambda: beats > 5)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_the_lag_is_the_age_of_the_oldest_message_not_handled(db: Database) -> None:
    bus = ScriptedBus([0, 1], end=10)
    it = consumer(db, bus, Recorder())
    async with running(it):
        await until(lambda: it.lag().records == 8)
        assert AGE.total_seconds() <= it.lag().seconds < 1000
    assert it.lag().records == 0  # nothing is ours any more


async def test_after_a_batch_that_was_not_full_it_waits_for_company_and_after_a_full_one_not(db: Database) -> None:
    clock, bus = FakeClock(), ScriptedBus([0, 1, 2], [3], [4])

    async def stored(count: int) -> bool:
        return len(await effects(db)) >= count

    async with running(consumer(db, bus, Recorder(), clock, max_batch=3, gather_s=0.1)):
        await until(lambda: stored(4))
        await until(lambda: asyncio.sleep(0, clock.sleeping == 1))
        assert bus.steps == [[4]]
        await clock.advance(0.1)
        await until(lambda: stored(5))
