"""What every bus promises, stated once and run on both: the log in PostgreSQL and Apache Kafka.

Effects and positions are in PostgreSQL in either case; which bus it is decides only how members share partitions.
"""

import asyncio
import json
import logging
import os
import secrets
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.structs import TopicPartition as KafkaPartition

from libs.common.bus import open_bus
from libs.common.bus.consumer import EffectsConsumer, PoisonMessage
from libs.common.bus.kafka import KafkaBus
from libs.common.bus.pglog import PgLogBus
from libs.common.bus.port import (
    MAX_MESSAGE_BYTES,
    Bus,
    BusUnavailable,
    Message,
    MessageRefused,
    Received,
    StartAt,
    TopicPartition,
    TopicSpec,
    partition_for,
)
from libs.common.clock import SystemClock
from libs.common.db import Database
from libs.common.errors import Unavailable
from libs.common.settings import BusSettings, CommonSettings, DatabaseSettings
from libs.common.testing.bus import Recorder, create_effects_schema, effects, running, until

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

SCHEMA = "probe"
LEASE_S = 2.0
SESSION_S = 3.0
IDLE_S = 1.5
"""Short, so that takeovers are quick; long enough for a machine on which a turn takes half a second."""
ROOT = Path(__file__).parents[3]


@dataclass
class Place:
    """A bus, a database for effects, and topics that nobody else uses."""

    settings: CommonSettings
    bus: Bus
    db: Database
    _buses: list[Bus]

    @property
    def kafka(self) -> bool:
        return self.settings.bus.effective_kind == "kafka"

    async def topic(self, partitions: int = 2, *, compacted: bool = False, retention_s: float | None = 3600.0) -> str:
        name = f"probe.{secrets.token_hex(6)}"
        await self.bus.ensure_topics(
            [TopicSpec(name, partitions, compacted=compacted, retention_s=None if compacted else retention_s)]
        )
        return name

    async def another_bus(self) -> Bus:
        """Another connection to the same bus, as another process has."""
        bus = open_bus(self.settings, SystemClock())
        await bus.start()
        self._buses.append(bus)
        return bus

    def consumer(
        self,
        topic: str,
        handler: Recorder,
        *,
        group: str | None = None,
        bus: Bus | None = None,
        max_batch: int = 2000,
    ) -> EffectsConsumer:
        return EffectsConsumer(
            bus=bus or self.bus,
            db=self.db,
            clock=SystemClock(),
            group=group or f"group.{topic}",
            topics=[topic],
            handler=handler,
            member_id=handler.name,
            max_batch=max_batch,
            fetch_timeout_s=0.1,
        )

    async def publish(self, topic: str, values: Sequence[bytes], *, key: str = "k", partition: int | None = 0) -> None:
        await self.bus.publish([Message(topic, key, value, partition=partition) for value in values], timeout_s=30)

    async def values(self) -> list[bytes]:
        """The values whose effects have happened, in order."""
        return [effect[4] for effect in await effects(self.db)]

    async def lose(self, topic: str, before: int) -> None:
        """Let retention take the offsets below ``before`` of partition 0."""
        if self.kafka:
            async with admin(self.settings.bus) as client:
                await client.delete_records({KafkaPartition(topic, 0): RecordsToDelete(before_offset=before)})
            return
        await self.sql(
            """
            update bus.messages m set at = at - interval '1 year' from bus.streams s
             where s.id = m.stream and s.topic = $1 and s.partition = 0 and m."off" < $2
            """,
            topic,
            before,
        )
        await self.keep()

    async def keep(self) -> None:
        assert isinstance(self.bus, PgLogBus)
        await self.bus.keep()

    async def sql(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        url = self.settings.database.url
        assert url is not None
        conn = await asyncpg.connect(url.get_secret_value(), timeout=10)
        try:
            return await conn.fetch(statement, *arguments)
        finally:
            await conn.close(timeout=5)


@pytest.fixture(params=["postgres", pytest.param("kafka", marks=pytest.mark.kafka)])
def common_settings(request: pytest.FixtureRequest, postgres_url: str) -> CommonSettings:
    bus = (
        BusSettings(lease_s=LEASE_S)
        if request.param == "postgres"
        else BusSettings(bootstrap_servers=request.getfixturevalue("kafka_bootstrap"), session_timeout_s=SESSION_S)
    )
    return CommonSettings(
        database=DatabaseSettings.model_validate({"url": postgres_url, "effects_idle_timeout_s": IDLE_S}), bus=bus
    )


@pytest.fixture
async def place(common_settings: CommonSettings) -> AsyncIterator[Place]:
    async with a_place(common_settings) as found:
        yield found


@asynccontextmanager
async def a_place(settings: CommonSettings) -> AsyncIterator[Place]:
    db = Database(settings.database, schema=SCHEMA)
    await db.open()
    await create_effects_schema(db)
    bus = open_bus(settings, SystemClock())
    buses: list[Bus] = [bus]
    try:
        await bus.start()
        yield Place(settings, bus, db, buses)
    finally:
        for opened in reversed(buses):
            await opened.stop()
        await db.close()


@asynccontextmanager
async def admin(settings: BusSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
    try:
        await client.start()
        yield client
    finally:
        await client.close()


async def read(bus: Bus, topic: str, count: int, start: StartAt | None = None) -> list[Received]:
    """Return ``count`` messages of a tail, and see that there are no more."""
    async with asyncio.timeout(40), bus.tail([topic], start or StartAt(beginning=True)) as tail:
        found: list[Received] = []
        while len(found) < count:
            found += await tail.fetch(max_messages=1000, timeout_s=0.5)
        found += await tail.fetch(max_messages=1000, timeout_s=0.1)
    assert len(found) == count
    return found


def numbered(count: int, first: int = 0) -> list[bytes]:
    return [str(number).encode() for number in range(first, first + count)]


# Publishing and reading.


async def test_messages_of_a_key_keep_their_order_and_lie_where_kafka_would_put_them(place: Place) -> None:
    topic = await place.topic(4)
    keys = [f"site-{number}" for number in range(12)]

    async def writer(key: str) -> None:
        for part in range(5):
            messages = [Message(topic, key, value) for value in numbered(20, part * 20)]
            await place.bus.publish(messages, timeout_s=30)

    async with asyncio.TaskGroup() as group:
        for key in keys:
            group.create_task(writer(key))
    found = await read(place.bus, topic, 1200)
    by_key: dict[str | None, list[Received]] = defaultdict(list)
    for received in found:
        by_key[received.key].append(received)
    for key in keys:
        assert [received.value for received in by_key[key]] == numbered(100)
        assert {received.partition for received in by_key[key]} == {partition_for(Message(topic, key, b""), 4)}
    assert len({received.partition for received in found}) > 1
    for partition in range(4):
        offsets = [received.offset for received in found if received.partition == partition]
        assert offsets == list(range(len(offsets)))


async def test_a_message_arrives_as_it_was_sent(place: Place) -> None:
    topic = await place.topic(3)
    headers = (("ce_id", b"1"), ("raw", bytes(range(256))), ("ce_id", b"twice"), ("empty", b""))
    before = datetime.now(UTC) - timedelta(seconds=1)
    await place.bus.publish(
        [
            Message(topic, "站点", '{"值":1}'.encode(), headers),
            Message(topic, "a", None),
            Message(topic, "b", b"", partition=2),
            Message(topic, "device-1", b"x", partition_key="b"),
        ],
        timeout_s=30,
    )
    found = {received.key: received for received in await read(place.bus, topic, 4)}
    first = found["站点"]
    assert (first.value, first.headers) == ('{"值":1}'.encode(), headers)
    assert first.header("ce_id") == b"1"
    assert before < first.appended_at < datetime.now(UTC) + timedelta(seconds=1)
    assert found["a"].value is None
    assert (found["b"].value, found["b"].partition) == (b"", 2)
    assert found["device-1"].partition == partition_for(Message(topic, "b", b""), 3)


async def test_no_reader_skips_a_message_under_concurrent_writers(place: Place) -> None:
    topic = await place.topic(2)
    writers, each = 8, 60

    async def writer(name: int) -> None:
        bus = await place.another_bus()
        for number in range(each):
            await bus.publish([Message(topic, f"w{name}", b"%d" % number, partition=number % 2)], timeout_s=30)

    seen: dict[TopicPartition, list[int]] = defaultdict(list)
    async with place.bus.tail([topic], StartAt(beginning=True)) as tail, asyncio.TaskGroup() as group:
        for name in range(writers):
            group.create_task(writer(name))
        async with asyncio.timeout(30):
            while sum(map(len, seen.values())) < writers * each:
                for received in await tail.fetch(max_messages=50, timeout_s=0.2):
                    seen[received.topic_partition].append(received.offset)
    for offsets in seen.values():
        assert offsets == list(range(writers * each // 2))


async def test_a_tail_begins_at_the_beginning_at_a_time_at_the_end_or_where_it_was(place: Place) -> None:
    topic = await place.topic(2)
    await place.publish(topic, [b"old"])
    await asyncio.sleep(0.02)  # Kafka's times are whole milliseconds
    since = datetime.now(UTC)
    await place.publish(topic, [b"new"])
    await place.publish(topic, [b"new too"], partition=1)
    assert {received.value for received in await read(place.bus, topic, 3)} == {b"old", b"new", b"new too"}
    assert {received.value for received in await read(place.bus, topic, 2, StartAt(since=since))} == {
        b"new",
        b"new too",
    }
    later = StartAt(since=datetime.now(UTC) + timedelta(hours=1))
    assert await read(place.bus, topic, 0, later) == []
    positions = StartAt(positions={TopicPartition(topic, 0): 1})
    assert [received.value for received in await read(place.bus, topic, 2, positions)] in (
        [b"new", b"new too"],
        [b"new too", b"new"],
    )
    async with place.bus.tail([topic], StartAt.end()) as tail:
        assert tail.positions() == {TopicPartition(topic, 0): 2, TopicPartition(topic, 1): 1}
        assert tail.positions() == await tail.end_offsets()
        await place.publish(topic, [b"newest"])
        found: list[Received] = []
        async with asyncio.timeout(30):
            while not found:
                found = await tail.fetch(max_messages=10, timeout_s=0.5)
        assert [received.value for received in found] == [b"newest"]
        assert tail.positions()[TopicPartition(topic, 0)] == 3


async def test_a_fetch_ends_in_time_and_keeps_to_its_number(place: Place) -> None:
    topic = await place.topic(2)
    await place.publish(topic, numbered(30))
    await place.publish(topic, numbered(30), partition=1)
    async with place.bus.tail([topic], StartAt(beginning=True)) as tail:
        found: list[Received] = []
        async with asyncio.timeout(30):
            while len(found) < 60:
                part = await tail.fetch(max_messages=7, timeout_s=0.5)
                assert len(part) <= 7
                found += part
            assert await tail.fetch(max_messages=7, timeout_s=0.05) == []
    for partition in (0, 1):
        assert [received.value for received in found if received.partition == partition] == numbered(30)


async def test_a_message_that_can_never_be_taken_is_named(place: Place) -> None:
    topic = await place.topic(1)
    too_long = Message(topic, "k", b"x" * (MAX_MESSAGE_BYTES + 1))
    for wrong in (too_long, Message(topic, "k", b"1", partition=1), Message(topic, "a\0b", b"1")):
        with pytest.raises(MessageRefused) as caught:
            await place.bus.publish([Message(topic, "k", b"fine"), wrong], timeout_s=30)
        assert caught.value.refused is wrong
    await place.publish(topic, [b"x" * (MAX_MESSAGE_BYTES - 100)])
    found = await read(place.bus, topic, 1)
    assert len(found[0].value or b"") == MAX_MESSAGE_BYTES - 100


async def test_a_missing_topic_is_unavailable_until_it_is_created(place: Place) -> None:
    name = f"probe.{secrets.token_hex(6)}"
    with pytest.raises(BusUnavailable, match="does not exist"):
        await place.bus.publish([Message(name, "k", b"1")], timeout_s=30)
    with pytest.raises(BusUnavailable, match="does not exist"):
        async with place.bus.tail([name], StartAt.end()):
            pass
    await place.bus.ensure_topics([TopicSpec(name, 1)])
    await place.bus.publish([Message(name, "k", b"1")], timeout_s=30)
    assert await place.bus.partitions(name) == 1


async def test_a_topic_that_exists_keeps_its_partitions(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    topic = await place.topic(2)
    with caplog.at_level(logging.WARNING, "libs.common.bus"):
        await place.bus.ensure_topics([TopicSpec(topic, 5)])
    assert await place.bus.partitions(topic) == 2
    assert "keeps its number of partitions" in caplog.text


async def test_compaction_keeps_the_last_message_of_each_key(place: Place) -> None:
    topic = await place.topic(1, compacted=True)
    if place.kafka:
        async with admin(place.settings.bus) as client:
            resource = ConfigResource(
                ConfigResourceType.TOPIC,
                topic,
                configs={"cleanup.policy": "compact", "segment.ms": "50", "min.cleanable.dirty.ratio": "0.001"},
            )
            await client.alter_configs([resource])
    for value in numbered(5):
        await place.bus.publish([Message(topic, key, key.encode() + value) for key in "abc"], timeout_s=30)
        await asyncio.sleep(0.06 if place.kafka else 0)  # a broker compacts only segments that are closed
    await place.bus.publish([Message(topic, "d", b"last")], timeout_s=30)
    if not place.kafka:
        await place.keep()

    async def left() -> list[Received]:
        async with place.bus.tail([topic], StartAt(beginning=True)) as tail:
            ends = dict(await tail.end_offsets())
            found: list[Received] = []
            while tail.positions() != ends:
                found += await tail.fetch(max_messages=100, timeout_s=0.2)
        return found

    async def compacted() -> bool:
        return len(await left()) == 4

    await until(compacted)
    found = await left()
    assert [(received.key, received.value) for received in found] == [
        ("a", b"a4"),
        ("b", b"b4"),
        ("c", b"c4"),
        ("d", b"last"),
    ]
    # What is left has the offsets that it always had.
    assert [received.offset for received in found] == [12, 13, 14, 15]


# Groups and effects.


async def test_two_members_share_a_group_and_every_effect_happens_once(place: Place) -> None:
    topic = await place.topic(4)
    first, second = Recorder("first"), Recorder("second")
    one = place.consumer(topic, first)
    two = place.consumer(topic, second, bus=await place.another_bus())
    published = 0

    async def publish_some() -> None:
        nonlocal published
        messages = [Message(topic, f"k{n % 8}", b"%d" % n, partition=n % 4) for n in range(published, published + 40)]
        await place.bus.publish(messages, timeout_s=30)
        published += 40

    async def all_done() -> bool:
        return len(await effects(place.db)) >= published

    async with running(one):
        await publish_some()
        await until(lambda: one.ready and len(one.partitions) == 4)
        async with running(two):

            def shared() -> bool:
                held = one.partitions, two.partitions
                return one.ready and two.ready and [len(part) for part in held] == [2, 2] and not held[0] & held[1]

            await until(shared)
            await publish_some()
            await until(all_done)
        await until(lambda: len(one.partitions) == 4)  # what the other left is taken over
        await publish_some()
        await until(all_done)
    done = await effects(place.db)
    by_partition: dict[int, list[int]] = defaultdict(list)
    for _, partition, offset, _, _ in done:
        by_partition[partition].append(offset)
    assert all(offsets == list(range(30)) for offsets in by_partition.values())
    assert {effect[0] for effect in done} == {"first", "second"}


async def test_a_member_without_partitions_is_ready(place: Place) -> None:
    topic = await place.topic(1)
    one = place.consumer(topic, Recorder("a"))
    two = place.consumer(topic, Recorder("b"), bus=await place.another_bus())
    assert not one.ready
    async with running(one, two):
        await until(lambda: one.ready and two.ready)
        await until(lambda: sorted(map(len, (one.partitions, two.partitions))) == [0, 1])


async def test_nothing_is_delivered_before_the_claim_and_reading_goes_on_at_the_position(place: Place) -> None:
    topic = await place.topic(1)
    await place.publish(topic, numbered(40))
    group = f"group.{topic}"
    await place.sql(
        f'insert into "{SCHEMA}".consumer_cursors (grp, topic, partition, next, epoch, owner) '
        "values ($1, $2, 0, 25, 7, 'former')",
        group,
        topic,
    )
    loading, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Recorder):
        async def load(self, conn: object, partitions: frozenset[int]) -> None:
            assert not self.offered
            loading.set()
            await go_on.wait()
            self.loads.append(partitions)

    # The statement that opened the claim is awaited longer than a fetch takes, and the messages are there.
    handler = Slow()
    async with running(place.consumer(topic, handler)):
        await asyncio.wait_for(loading.wait(), 40)
        await asyncio.sleep(0.2)
        assert handler.offered == []
        go_on.set()

        async def done() -> bool:
            return len(await place.values()) == 15

        await until(done)
    assert [received.offset for received in handler.offered] == list(range(25, 40))
    assert handler.loads == [frozenset({0})]
    rows = await place.sql(f'select next, epoch, owner from "{SCHEMA}".consumer_cursors')
    assert [tuple(row) for row in rows] == [(40, 8, "a")]


async def test_a_restarted_member_goes_on_where_it_was(place: Place) -> None:
    topic = await place.topic(2)
    for part in range(3):
        handler = Recorder("a")
        await place.publish(topic, numbered(10, part * 10))

        async def done(wanted: int = (part + 1) * 10) -> bool:
            return len(await place.values()) == wanted

        async with running(place.consumer(topic, handler)):
            await until(done)
        assert len(handler.offered) == 10
    assert await place.values() == numbered(30)


async def test_a_member_whose_claim_was_taken_writes_nothing_and_claims_again(place: Place) -> None:
    topic = await place.topic(1)
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def wait(received: Received) -> None:
        if received.value == b"1" and not go_on.is_set():
            reached.set()
            await go_on.wait()

    handler = Recorder(before=wait)
    consumer = place.consumer(topic, handler, max_batch=1)
    async with running(consumer):
        await place.publish(topic, numbered(3))
        await asyncio.wait_for(reached.wait(), 40)
        await place.sql(f'update "{SCHEMA}".consumer_cursors set epoch = epoch + 1')
        loads, drops = len(handler.loads), len(handler.drops)
        go_on.set()
        await until(lambda: handler.commits == 3)
    assert await place.values() == numbered(3)
    assert len(handler.loads) == loads + 1  # state was dropped and loaded again
    assert len(handler.drops) > drops
    assert [received.value for received in handler.offered] == [b"0", b"1", b"1", b"2"]


async def test_an_effect_happens_once_although_the_member_dies_between_handling_and_commit(place: Place) -> None:
    topic = await place.topic(1)
    with child(place, topic, "dies") as (process, told):
        await told("ready")
        await place.publish(topic, [b"0", b"hold", b"2"])
        await told("holding")
        process.kill()
        process.wait(10)
    async with running(place.consumer(topic, Recorder("heir"))):

        async def done() -> bool:
            return len(await place.values()) >= 3

        await until(done)
    assert await place.values() == [b"0", b"hold", b"2"]


async def test_a_frozen_member_neither_blocks_the_takeover_nor_writes_when_it_comes_back(place: Place) -> None:
    topic = await place.topic(1)
    heir = Recorder("heir")
    with child(place, topic, "frozen") as (process, told):
        await told("ready")
        await place.publish(topic, [b"hold", b"1"])
        await told("holding")  # its transaction is open and holds what it wrote
        os.kill(process.pid, signal.SIGSTOP)
        try:
            consumer = place.consumer(topic, heir, bus=await place.another_bus())
            async with running(consumer):

                async def done() -> bool:
                    return await place.values() == [b"hold", b"1"]

                await until(done)
                os.kill(process.pid, signal.SIGCONT)
                assert process.stdin is not None
                process.stdin.write(b"go on\n")
                process.stdin.flush()
                # Both are members now; whoever holds the partition, each further effect happens once.
                for number in range(2, 12):
                    await place.publish(topic, numbered(1, number))

                async def all_done() -> bool:
                    return len(await place.values()) >= 12

                await until(all_done)
        finally:
            os.kill(process.pid, signal.SIGCONT)
        assert process.poll() is None  # it has survived, as a member
    assert await place.values() == [b"hold", *numbered(11, 1)]
    assert {effect[0] for effect in (await effects(place.db))[:2]} == {"heir"}


@pytest.mark.parametrize("said", [False, True], ids=["an exception", "the handler's own word"])
async def test_a_poison_message_goes_to_the_dead_letters_and_the_partition_goes_on(
    place: Place, caplog: pytest.LogCaptureFixture, said: bool
) -> None:
    topic = await place.topic(1)

    async def choke(received: Received) -> None:
        if received.value in (b"3", b"6"):
            if said:
                raise PoisonMessage(received, "cannot be eaten")
            raise ValueError("cannot be eaten")

    handler = Recorder(before=choke)
    await place.bus.publish(
        [Message(topic, "k", value, (("ce_id", value),), partition=0) for value in numbered(10)], timeout_s=30
    )
    consumer = place.consumer(topic, handler)
    with caplog.at_level(logging.ERROR, "libs.common.bus"):
        async with running(consumer):

            async def done() -> bool:
                return len(await place.values()) >= 8

            await until(done)
    assert await place.values() == [value for value in numbered(10) if value not in (b"3", b"6")]
    rows = await place.sql(f'select "offset", key, value, headers, reason from "{SCHEMA}".dead_letters order by id')
    assert [(row["offset"], row["key"], row["value"]) for row in rows] == [(3, "k", b"3"), (6, "k", b"6")]
    assert all("cannot be eaten" in row["reason"] for row in rows)
    assert json.loads(rows[0]["headers"]) == ["ce_id", "3"]
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2  # one per message, not one per attempt
    positions = await place.sql(f'select next from "{SCHEMA}".consumer_cursors')
    assert [row["next"] for row in positions] == [10]


async def test_what_is_away_is_waited_for_and_no_message_is_blamed(place: Place) -> None:
    topic = await place.topic(1)
    failures = iter((Unavailable("away"), asyncpg.DeadlockDetectedError("deadlock"), ConnectionResetError("gone")))

    async def sometimes(received: Received) -> None:
        if received.value == b"2":
            for failure in failures:
                raise failure

    handler = Recorder(before=sometimes)
    await place.publish(topic, numbered(4))
    async with running(place.consumer(topic, handler)):

        async def done() -> bool:
            return len(await place.values()) >= 4

        await until(done)
    assert await place.values() == numbered(4)
    assert await place.sql(f'select 1 from "{SCHEMA}".dead_letters') == []
    assert len(handler.loads) == 4  # after every rollback the state is loaded anew


async def test_a_schema_that_does_not_fit_ends_the_consumer_and_blames_no_message(place: Place) -> None:
    topic = await place.topic(1)
    await place.publish(topic, numbered(1))
    await place.sql(f'drop table "{SCHEMA}".effects')
    with pytest.raises(asyncpg.UndefinedTableError):
        async with asyncio.timeout(40):
            await place.consumer(topic, Recorder()).run(lambda: None)
    await place.sql(f'select from "{SCHEMA}".dead_letters')
    rows = await place.sql(f'select next from "{SCHEMA}".consumer_cursors')
    assert [row["next"] for row in rows] == [-1]


async def test_messages_that_left_before_they_were_read_are_recorded_as_a_loss(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    topic = await place.topic(1)
    handler = Recorder()

    async def done(wanted: int) -> bool:
        return len(await place.values()) == wanted

    await place.publish(topic, numbered(5))
    async with running(place.consumer(topic, handler)):
        await until(lambda: done(5))
    await place.publish(topic, numbered(10, 5))
    await place.lose(topic, 12)
    with caplog.at_level(logging.ERROR, "libs.common.bus"):
        async with running(place.consumer(topic, handler)):
            await until(lambda: done(8))
    assert [received.offset for received in handler.offered] == [0, 1, 2, 3, 4, 12, 13, 14]
    rows = await place.sql(f'select topic, partition, expected, found, kind from "{SCHEMA}".consumer_losses')
    assert [tuple(row) for row in rows] == [(topic, 0, 5, 12, "retention")]
    assert "had left the bus" in caplog.text


async def test_a_new_group_begins_at_what_is_left_and_has_lost_nothing(place: Place) -> None:
    topic = await place.topic(1)
    await place.publish(topic, numbered(6))
    await place.lose(topic, 4)
    handler = Recorder()
    async with running(place.consumer(topic, handler)):
        await until(lambda: len(handler.offered) == 2)
    assert [received.offset for received in handler.offered] == [4, 5]
    assert await place.sql(f'select 1 from "{SCHEMA}".consumer_losses') == []


async def test_a_log_that_was_replaced_is_read_from_its_beginning(place: Place) -> None:
    topic = await place.topic(1)
    await place.sql(
        f'insert into "{SCHEMA}".consumer_cursors (grp, topic, partition, next, epoch, owner) '
        "values ($1, $2, 0, 5000, 1, 'former')",
        f"group.{topic}",
        topic,
    )
    await place.publish(topic, numbered(3))
    handler = Recorder()

    async def done() -> bool:
        return len(await place.values()) >= 3

    async with running(place.consumer(topic, handler)):
        await until(done)
    assert await place.values() == numbered(3)
    rows = await place.sql(f'select expected, found, kind from "{SCHEMA}".consumer_losses')
    assert [tuple(row) for row in rows] == [(5000, 0, "replaced")]


async def test_two_topics_of_a_group_are_in_one_hand_by_partition_number(place: Place) -> None:
    # An odd number, at which dealing out all partitions in turn would part the topics.
    topics = [await place.topic(3), await place.topic(3)]

    def consumer(name: str, bus: Bus) -> EffectsConsumer:
        return EffectsConsumer(
            bus=bus,
            db=place.db,
            clock=SystemClock(),
            group=f"group.{topics[0]}",
            topics=topics,
            handler=Recorder(name),
            member_id=name,
            fetch_timeout_s=0.1,
        )

    one, two = consumer("one", place.bus), consumer("two", await place.another_bus())
    async with running(one, two):
        await until(lambda: sorted((len(one.partitions), len(two.partitions))) == [2, 4])
        for held in (one.partitions, two.partitions):
            numbers = {where.partition for where in held}
            assert held == {TopicPartition(topic, number) for topic in topics for number in numbers}


async def test_a_paused_partition_is_kept_and_not_read(place: Place) -> None:
    topic = await place.topic(2)
    await place.publish(topic, numbered(3))
    await place.publish(topic, numbered(3), partition=1)

    class FromTheStart:
        async def assigned(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
            return {}

        async def revoked(self, partitions: Sequence[TopicPartition]) -> None:
            raise AssertionError("nothing was to be revoked")

    paused = TopicPartition(topic, 1)
    async with (
        asyncio.timeout(30),
        place.bus.member(f"group.{topic}", [topic], FromTheStart(), member_id="a") as member,
    ):
        while not member.assignment:
            assert await member.fetch(max_messages=0, timeout_s=0) == []
            await asyncio.sleep(0.02)
        assert member.joined
        await member.pause([paused])
        found: list[Received] = []
        while len(found) < 3:
            found += await member.fetch(max_messages=100, timeout_s=0.3)
        found += await member.fetch(max_messages=100, timeout_s=0.3)
        assert {received.partition for received in found} == {0}
        assert paused in member.assignment
        await member.resume([paused])
        while len(found) < 6:
            found += await member.fetch(max_messages=100, timeout_s=0.3)
        assert [received.value for received in found if received.partition == 1] == numbered(3)
        await member.seek({paused: 1})
        again: list[Received] = []
        while len(again) < 2:
            again += await member.fetch(max_messages=100, timeout_s=0.3)
        assert [received.offset for received in again] == [1, 2]
        assert await member.end_offsets() == {TopicPartition(topic, 0): 3, paused: 3}
        assert await member.start_offsets() == {TopicPartition(topic, 0): 0, paused: 0}


async def test_the_lag_counts_what_is_not_handled(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("libs.common.bus.consumer.MEASURE_S", 0.05)
    topic = await place.topic(1)
    go_on = asyncio.Event()

    async def refuse(received: Received) -> None:
        if received.value == b"5" and not go_on.is_set():
            raise Unavailable("not yet")

    consumer = place.consumer(topic, Recorder(before=refuse), max_batch=5)
    await place.publish(topic, numbered(20))
    async with running(consumer):
        await until(lambda: consumer.lag().records == 15)
        await until(lambda: consumer.lag().seconds > 0.1)
        go_on.set()
        await until(lambda: consumer.lag().records == 0)
        assert consumer.lag().seconds == 0.0


# When the server is away, or goes.


@pytest.mark.parametrize("kind", ["postgres", "kafka"])
async def test_a_server_that_is_away_at_the_start_is_unavailable_and_waited_for(
    kind: str, postgres_url: str, tmp_path: Path
) -> None:
    port = free_ports()[0]
    settings = CommonSettings(
        database=DatabaseSettings.model_validate({"url": f"postgresql://x@/y?host={tmp_path}", "connect_timeout_s": 1}),
        bus=BusSettings(bootstrap_servers=f"127.0.0.1:{port}") if kind == "kafka" else BusSettings(),
    )
    bus = open_bus(settings, SystemClock())
    messages = [Message("t", "k", b"1")]
    for _ in range(2):
        with pytest.raises(BusUnavailable):
            await bus.start()
    with pytest.raises(BusUnavailable):
        await bus.publish(messages, timeout_s=0.5)
    with pytest.raises(BusUnavailable):
        await bus.check()
    with pytest.raises(BusUnavailable):
        await bus.ensure_topics([TopicSpec("t", 1)])
    with pytest.raises(BusUnavailable):
        async with bus.tail(["t"], StartAt.end()):
            pass
    db = Database(DatabaseSettings.model_validate({"url": postgres_url}), schema=SCHEMA)
    await db.open()
    beats = 0

    def beat() -> None:
        nonlocal beats
        beats += 1

    consumer = EffectsConsumer(
        bus=bus, db=db, clock=SystemClock(), group="g", topics=["t"], handler=Recorder(), member_id="m"
    )
    task = asyncio.create_task(consumer.run(beat))
    await until(lambda: beats >= 3)
    assert not task.done()
    assert not consumer.ready
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await bus.stop()
    await db.close()


@pytest.fixture(params=["postgres", pytest.param("kafka", marks=pytest.mark.kafka)])
def own_server(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


async def test_what_was_acknowledged_survives_kill_9_and_everybody_goes_on(
    own_server: str, tmp_path: Path, postgres_url: str, request: pytest.FixtureRequest
) -> None:
    server = PostgresServer(tmp_path) if own_server == "postgres" else KafkaServer(tmp_path, request)
    await asyncio.to_thread(server.start)
    try:
        bus_settings = await server.settings()
        settings = CommonSettings(
            database=DatabaseSettings.model_validate(
                {"url": server.url or postgres_url, "effects_idle_timeout_s": IDLE_S, "connect_timeout_s": 1.0}
            ),
            bus=bus_settings,
        )
        async with a_place(settings) as place:
            topic = await place.topic(2)
            handler = Recorder()
            consumer = place.consumer(topic, handler)
            acknowledged: list[bytes] = []
            refused = 0

            async def publish(value: bytes) -> None:
                nonlocal refused
                try:
                    await place.bus.publish([Message(topic, "k", value, partition=0)], timeout_s=0.5)
                except BusUnavailable:
                    refused += 1
                else:
                    acknowledged.append(value)

            async with running(consumer):
                await until(lambda: consumer.ready)
                for value in numbered(50):
                    await publish(value)
                await asyncio.to_thread(server.kill)
                for value in numbered(4, 50):
                    await publish(value)
                assert refused == 4
                if place.kafka:  # what was taken is bounded: later calls were refused before they gave anything
                    assert isinstance(place.bus, KafkaBus)
                    assert len(place.bus._overdue) == 1
                with pytest.raises(BusUnavailable):
                    await place.bus.check()
                await asyncio.to_thread(server.start)

                async def back() -> bool:
                    count = len(acknowledged)
                    await publish(b"after")
                    return len(acknowledged) > count

                await until(back, within_s=40)

                async def all_handled() -> bool:
                    return set(acknowledged) <= set(await place.values())

                await until(all_handled, within_s=40)
            done = [value for value in await place.values() if value in set(numbered(50))]
            assert done == numbered(50)  # none lost, none twice, in order
            await place.bus.check()
    finally:
        await asyncio.to_thread(server.stop)


class PostgresServer:
    """A PostgreSQL of this test's own, with the bus in it."""

    def __init__(self, folder: Path) -> None:
        from libs.suite.postgres import EXPENDABLE, EmbeddedPostgres

        binaries = os.environ.get("WATTRING_TEST_POSTGRES_BIN")
        self._server = EmbeddedPostgres(
            folder / "pg", binaries=Path(binaries) if binaries else None, settings=EXPENDABLE
        )
        self.url: str | None = None

    def start(self) -> None:
        self._server.start()
        self.url = self._server.url

    def kill(self) -> None:
        self._server.kill()

    def stop(self) -> None:
        self._server.stop(timeout_s=10)

    async def settings(self) -> BusSettings:
        from libs.common.migrations import migrate

        assert self.url is not None
        await migrate(self.url, ["bus"], phase="post")
        return BusSettings(lease_s=LEASE_S)


class KafkaServer:
    """A broker of this test's own."""

    url: str | None = None

    def __init__(self, folder: Path, request: pytest.FixtureRequest) -> None:
        request.getfixturevalue("kafka_bootstrap")  # says what is missing, where something is
        self._script = ROOT / "deploy" / "kafka" / "kafka.sh"
        self._folder = folder / "kafka"
        port, controller = free_ports()
        self._environ = {
            **os.environ,
            "KAFKA_DATA": str(self._folder),
            "KAFKA_PORT": str(port),
            "KAFKA_CONTROLLER_PORT": str(controller),
            "KAFKA_HEAP_MB": "192",
            "KAFKA_JAVA_OPTS": "-XX:TieredStopAtLevel=1",
        }
        self._bootstrap = f"127.0.0.1:{port}"

    def start(self) -> None:
        subprocess.run([self._script, "start"], env=self._environ, check=True, timeout=100, capture_output=True)

    def kill(self) -> None:
        os.kill(int((self._folder / "pid").read_text()), signal.SIGKILL)

    def stop(self) -> None:
        subprocess.run([self._script, "stop"], env=self._environ, check=True, timeout=60, capture_output=True)

    async def settings(self) -> BusSettings:
        return BusSettings(bootstrap_servers=self._bootstrap, session_timeout_s=6.0)


def free_ports() -> tuple[int, int]:
    import socket

    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


# Other processes.

Told = Callable[[str], Awaitable[None]]


@contextmanager
def child(place: Place, topic: str, name: str) -> Iterator[tuple["subprocess.Popen[bytes]", Told]]:
    """Run a member in a process of its own."""
    url = place.settings.database.url
    assert url is not None
    database = place.settings.database.model_dump(mode="json") | {"url": url.get_secret_value()}
    arguments = {
        "settings": {"database": database, "bus": place.settings.bus.model_dump(mode="json")},
        "schema": SCHEMA,
        "group": f"group.{topic}",
        "topic": topic,
        "name": name,
    }
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("bus_member.py")), json.dumps(arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    output: IO[bytes] = process.stdout

    async def told(word: str) -> None:
        async with asyncio.timeout(30):
            line = await asyncio.to_thread(output.readline)
        assert line.decode().strip() == word

    try:
        yield process, told
    finally:
        process.kill()
        process.wait(10)
        process.stdin and process.stdin.close()
        output.close()
