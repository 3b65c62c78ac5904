"""The bus on Apache Kafka, by raw aiokafka: publishing, topics, tails. Members of groups: ``kafka_member.py``.

Settings and the reasons for them stand in ``README.md``. The broker may be away at any time: then every call
raises ``BusUnavailable`` within its time, and works again when the broker is back.

An idempotent producer of aiokafka never gives up a message it has taken. So when the broker has been silent for
longer than a publish may take, nothing more is given to it until that has been delivered: the caller is told at once
and keeps the message (ingest in its spool), instead of memory filling with messages nobody waits for.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    UnknownTopicOrPartitionError,
)

from libs.common.bus.kafka_client import (
    CALL_TIMEOUT_S,
    READING,
    client_settings,
    close_consumer,
    ends_of,
    starts_of,
    to_received,
    within,
)
from libs.common.bus.kafka_member import KafkaMember
from libs.common.bus.kafka_security import why_refused
from libs.common.bus.port import (
    AtRisk,
    BusUnavailable,
    GroupListener,
    GroupMember,
    Message,
    MessageRefused,
    Received,
    StartAt,
    TailReader,
    TopicPartition,
    TopicSpec,
    check_message,
    partition_for,
)
from libs.common.clock import Clock
from libs.common.settings import BusSettings

logger = logging.getLogger(__name__)

BATCH_BYTES = 256 << 10
"""Compressed messages of one partition in one request, at most; a longer message travels alone. [B]"""
REQUEST_BYTES = 1_100_000
"""Above ``MAX_MESSAGE_BYTES``, below what a broker takes by default. [B]"""
TOMBSTONE_MS = 86_400_000
TOPIC_EXISTS = 36
"""Error code TOPIC_ALREADY_EXISTS of the Kafka protocol."""


class KafkaBus:
    """A Kafka cluster."""

    def __init__(self, settings: BusSettings, clock: Clock) -> None:
        """Prepare the bus; ``settings.bootstrap_servers`` names the cluster.

        Raises:
            InvalidSettings: A certificate or key that the settings name cannot be used.
        """
        self.settings = settings
        self.client = client_settings(settings)
        """What every client is made with; holds the password."""
        self.clock = clock
        self._producer: AIOKafkaProducer | None = None
        self._broken = False
        """Whether the producer is to be replaced before it is used again."""
        self._opening = asyncio.Lock()
        self._partitions: dict[str, int] = {}
        self._overdue: set[asyncio.Future[Any]] = set()
        """Messages given to the producer whose caller has been told that it failed."""

    async def start(self) -> None:
        """Connect; may be called again after it has raised."""
        await self._usable_producer(CALL_TIMEOUT_S)

    async def stop(self) -> None:
        """Publish what was taken, then disconnect."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await _close_producer(producer, flush_s=self.settings.publish_timeout_s)

    async def check(self) -> None:
        """Raise ``BusUnavailable`` when no broker answers."""
        if self._overdue:
            raise BusUnavailable(f"Kafka has not acknowledged {len(self._overdue)} messages")
        producer = await self._usable_producer(CALL_TIMEOUT_S)
        async with within(CALL_TIMEOUT_S, "Kafka does not answer"):
            await producer.client.fetch_all_metadata()

    async def at_risk(self) -> Sequence[AtRisk]:
        """Return nothing: retention is days long, and the broker's tools watch it."""
        return ()

    # Topics.

    async def ensure_topics(self, specs: Sequence[TopicSpec]) -> None:
        """Create the topics that are missing; those that exist are left as they are."""
        async with within(4 * CALL_TIMEOUT_S, "topics not created"):
            admin = AIOKafkaAdminClient(**self.client)
            try:
                await admin.start()
                answer = await admin.create_topics([self._new_topic(spec) for spec in specs])
            finally:
                await admin.close()
        for name, code, *reason in answer.topic_errors:
            if code not in (0, TOPIC_EXISTS):
                raise BusUnavailable(f"Kafka did not create {name}: error {code}, {reason}")
        for spec in specs:
            partitions = await self.partitions(spec.name)
            if partitions != spec.partitions:
                logger.warning(
                    "topic keeps its number of partitions: changing it would break the order per key",
                    extra={"topic": spec.name, "partitions": partitions, "wanted": spec.partitions},
                )

    def _new_topic(self, spec: TopicSpec) -> NewTopic:
        replicas = self.settings.replication_factor
        config = {
            "message.timestamp.type": "LogAppendTime",
            "min.insync.replicas": str(max(1, replicas - 1)),
            "cleanup.policy": "compact" if spec.compacted else "delete",
            "retention.ms": "-1" if spec.retention_s is None else str(int(spec.retention_s * 1000)),
        }
        if spec.compacted:
            config["delete.retention.ms"] = str(TOMBSTONE_MS)
        if spec.retention_bytes is not None:
            config["retention.bytes"] = str(max(spec.retention_bytes // spec.partitions, 1))
        return NewTopic(spec.name, spec.partitions, replicas, topic_configs=config)

    async def partitions(self, topic: str) -> int:
        """Return how many partitions the topic has."""
        known = self._partitions.get(topic)
        if known is not None:
            return known
        producer = await self._usable_producer(CALL_TIMEOUT_S)
        async with within(CALL_TIMEOUT_S, "Kafka does not answer"):
            # Right after its creation a topic is not yet known to every broker.
            for _ in range(10):
                found = (await producer.client.fetch_all_metadata()).partitions_for_topic(topic)
                if found:
                    self._partitions[topic] = len(found)
                    return len(found)
                await asyncio.sleep(0.1)
        raise BusUnavailable(
            f"topic {topic} does not exist: run `wattring topics`",
            message_zh=f"主题 {topic} 不存在:请运行 `wattring topics`",
        )

    # Publishing.

    async def publish(self, messages: Sequence[Message], *, timeout_s: float) -> None:
        """Publish the messages and wait until all in-sync replicas have them."""
        if not messages:
            return
        sent: list[asyncio.Future[Any]] = []
        try:
            async with asyncio.timeout(timeout_s):
                places = [await self._place(message) for message in messages]
                if self._overdue:
                    # What was taken before goes first: order per key, and a bound on what memory holds.
                    await asyncio.wait(list(self._overdue))
                producer = await self._usable_producer(timeout_s)
                with self._publish_errors(producer, messages):
                    for message, partition in zip(messages, places, strict=True):
                        sent.append(
                            await producer.send(
                                message.topic,
                                message.value,
                                key=message.key.encode(),
                                partition=partition,
                                headers=list(message.headers),
                            )
                        )
                    await asyncio.wait(sent)
                    for future in sent:
                        future.result()
        except TimeoutError:
            raise BusUnavailable(
                f"Kafka did not acknowledge within {timeout_s:g} s", message_zh=f"Kafka 在 {timeout_s:g} 秒内未确认"
            ) from None
        finally:
            for future in sent:
                if not future.done():
                    self._overdue.add(future)
                    future.add_done_callback(self._settled)
                elif not future.cancelled():
                    future.exception()  # one of them was raised; the others say the same

    async def _place(self, message: Message) -> int:
        check_message(message)
        partitions = self._partitions.get(message.topic) or await self.partitions(message.topic)
        partition = partition_for(message, partitions)
        if not 0 <= partition < partitions:
            raise MessageRefused(message, f"there is no partition {partition}, only {partitions}")
        return partition

    @contextmanager
    def _publish_errors(self, producer: AIOKafkaProducer, messages: Sequence[Message]) -> Iterator[None]:
        """Translate what the producer raises; after an error that waiting does not mend it is replaced.

        A batch that failed for good leaves a hole in the sequence numbers that the broker expects, and every later
        batch of that partition would be refused too.
        """
        try:
            yield
        except MessageSizeTooLargeError as exc:
            self._replace(producer, exc)
            longest = max(messages, key=lambda message: len(message.value or b""))
            raise MessageRefused(longest, "it is longer than the broker takes") from exc
        except UnknownTopicOrPartitionError as exc:
            self._partitions.clear()
            raise BusUnavailable("a topic does not exist: run `wattring topics`") from exc
        except KafkaError as exc:
            # A timeout only says that the broker is slow: what is under way goes on.
            if not exc.retriable and not isinstance(exc, KafkaTimeoutError):
                self._replace(producer, exc)
            raise BusUnavailable(f"Kafka: {exc or type(exc).__name__}") from exc

    def _replace(self, producer: AIOKafkaProducer, reason: KafkaError) -> None:
        """Have the producer replaced before it is used again, unless that has happened already."""
        if producer is self._producer and not self._broken:
            self._broken = True
            logger.warning("producer is replaced", extra={"reason": repr(reason)})

    def _settled(self, future: asyncio.Future[Any]) -> None:
        self._overdue.discard(future)
        if not future.cancelled():
            future.exception()

    async def _usable_producer(self, timeout_s: float) -> AIOKafkaProducer:
        """Return the producer, opening it or a new one where need be; several who come at once share the attempt."""
        if self._producer is not None and not self._broken and not self._opening.locked():
            return self._producer
        async with within(timeout_s, "Kafka does not answer"), self._opening:
            if self._broken and self._producer is not None:
                producer, self._producer = self._producer, None
                await _close_producer(producer, flush_s=0.0)
            if self._producer is None:
                self._producer = await self._open_producer()
                self._broken = False
            return self._producer

    async def _open_producer(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **self.client,
            acks="all",
            enable_idempotence=True,
            linger_ms=int(self.settings.linger_s * 1000),
            max_batch_size=BATCH_BYTES,
            max_request_size=REQUEST_BYTES,
            compression_type="zstd",
        )
        try:
            await producer.start()
        except BaseException as exc:
            await _close_producer(producer, flush_s=0.0)
            if isinstance(exc, KafkaConnectionError) and (why := await why_refused(self.settings)) is not None:
                raise BusUnavailable(f"Kafka, {why.english}", message_zh=f"Kafka,{why.chinese}") from exc
            raise
        return producer

    # Reading.

    def member(self, group: str, topics: Sequence[str], listener: GroupListener, *, member_id: str) -> GroupMember:
        """Return a member, not yet joined."""
        return KafkaMember(self, group, topics, listener, member_id)

    def tail(self, topics: Sequence[str], start: StartAt) -> TailReader:
        """Return a reader outside any group."""
        return KafkaTailReader(self, topics, start)


class KafkaTailReader:
    """A reader of all partitions of some topics, with positions of its own."""

    def __init__(self, bus: KafkaBus, topics: Sequence[str], start: StartAt) -> None:
        """Prepare a reader, not yet started."""
        self._bus = bus
        self._topics = topics
        self._start = start
        self._consumer: AIOKafkaConsumer | None = None
        self._next: dict[TopicPartition, int] = {}

    async def __aenter__(self) -> Self:
        places = [
            TopicPartition(topic, partition)
            for topic in self._topics
            for partition in range(await self._bus.partitions(topic))
        ]
        consumer = AIOKafkaConsumer(**self._bus.client, **READING, group_id=None)
        try:
            async with within(CALL_TIMEOUT_S, "tail not started"):
                await consumer.start()
                consumer.assign([KafkaPartition(*place) for place in places])
                self._next = await _starts(consumer, places, self._start)
                for place, offset in self._next.items():
                    consumer.seek(KafkaPartition(*place), offset)
        except BaseException:
            await close_consumer(consumer)
            raise
        self._consumer = consumer
        return self

    async def __aexit__(self, *exc: object) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await close_consumer(consumer)

    async def fetch(self, *, max_messages: int, timeout_s: float) -> list[Received]:
        """Return what there is; may be empty."""
        consumer = self._entered()
        async with within(timeout_s + CALL_TIMEOUT_S, "Kafka does not answer"):
            batches = await consumer.getmany(timeout_ms=int(timeout_s * 1000), max_records=max_messages)
            if not batches:
                # Compaction may leave nothing before an end: the client has read on where no message was.
                self._next = {place: await consumer.position(KafkaPartition(*place)) for place in self._next}
        found = [to_received(record) for batch in batches.values() for record in batch]
        for received in found:
            self._next[received.topic_partition] = received.offset + 1
        return found

    async def end_offsets(self) -> Mapping[TopicPartition, int]:
        """Return the offset after the last message of every partition."""
        consumer = self._entered()
        async with within(CALL_TIMEOUT_S, "Kafka does not answer"):
            return await ends_of(consumer, self._next)

    def positions(self) -> Mapping[TopicPartition, int]:
        """Return the offset that is read next, for every partition."""
        return dict(self._next)

    def _entered(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            raise BusUnavailable("the tail is not open")
        return self._consumer


async def _starts(
    consumer: AIOKafkaConsumer, places: Sequence[TopicPartition], start: StartAt
) -> dict[TopicPartition, int]:
    if start.positions is not None or start.beginning:
        floors = await starts_of(consumer, places)
        return {place: (start.positions or {}).get(place, floors[place]) for place in places}
    ends = await ends_of(consumer, places)
    if start.since is None:
        return ends
    # Broker times are whole milliseconds, cut off: without the cut here the message of that very moment is missed.
    since_ms = int(start.since.timestamp() * 1000)
    found = await consumer.offsets_for_times({KafkaPartition(*place): since_ms for place in places})
    at_time = {TopicPartition(*place): answer.offset for place, answer in found.items() if answer is not None}
    return {place: at_time.get(place, ends[place]) for place in places}


async def _close_producer(producer: AIOKafkaProducer, flush_s: float) -> None:
    """Close a producer within a bound, whatever the broker does; what cannot be sent by then is lost to it."""
    try:
        async with asyncio.timeout(flush_s):
            await producer.flush()
    except TimeoutError:
        # aiokafka has no public way to give up what it holds, and its stop() waits for that without end.
        producer._message_accumulator.fail_all(KafkaConnectionError("given up"))  # noqa: SLF001
        await producer.client.close()
    try:
        async with asyncio.timeout(CALL_TIMEOUT_S):
            await producer.stop()
    except (TimeoutError, KafkaError):
        logger.warning("producer not closed cleanly")
