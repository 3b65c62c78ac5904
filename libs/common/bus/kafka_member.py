"""A member of a Kafka consumer group that claims its partitions in the database before it reads them.

aiokafka calls its listener in a task of its own, goes on delivering while an async listener waits, and only logs what
a listener raises. So our listener does nothing but pause and note, without an await; the claim happens in ``fetch``,
in the owner's task, where nothing else runs and errors come out. A partition is resumed after its claim and seek.

A process that was stopped for longer than its session has lost its partitions and does not know it yet. It notices
by a pulse that missed its time, forgets all it holds and joins anew, before it would claim what others hold by now.
"""

import asyncio
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import IllegalStateError, KafkaError

from libs.common.bus.kafka_client import (
    CALL_TIMEOUT_S,
    READING,
    close_consumer,
    ends_of,
    starts_of,
    to_received,
    within,
)
from libs.common.bus.port import BusUnavailable, GroupListener, Received, TopicPartition

if TYPE_CHECKING:
    from libs.common.bus.kafka import KafkaBus

logger = logging.getLogger(__name__)

PULSES_PER_SESSION = 12
SESSIONS_UNTIL_ANSWERED = 3
"""A group decides once its dead members' sessions have run out. One that says nothing for longer will not: a member
whose broker was killed while it joined was seen to wait for minutes."""
MAX_POLL_MS = 300_000
"""A member that asks for nothing for so long leaves the group; its process is stuck. [ms]"""


class KafkaMember:
    """A member of a group."""

    def __init__(
        self, bus: "KafkaBus", group: str, topics: Sequence[str], listener: GroupListener, member_id: str
    ) -> None:
        """Prepare a member, not yet joined."""
        self._bus = bus
        self._group = group
        self._topics = topics
        self._listener = listener
        self._member_id = member_id
        self._session_s = bus.settings.session_timeout_s
        self._consumer: AIOKafkaConsumer | None = None
        self._notes = _Notes()
        self._active: set[TopicPartition] = set()
        """Claimed by the owner, sought and read."""
        self._held_back: set[TopicPartition] = set()
        """Paused by the owner."""
        self._asked_at = 0.0
        """When this consumer asked to be let in. [s]"""
        self._pulse_at = 0.0
        self._pulse: asyncio.Task[None] | None = None
        self._broken: str | None = None
        """Why the consumer has to be replaced before it is used again."""

    @property
    def joined(self) -> bool:
        """Whether the group has answered."""
        return self._consumer is not None and self._notes.answered and self._broken is None

    @property
    def assignment(self) -> frozenset[TopicPartition]:
        """The partitions that are claimed and read."""
        return frozenset(self._active)

    async def __aenter__(self) -> Self:
        await self._open()
        # It lives exactly as long as the member is entered.
        self._pulse = asyncio.create_task(self._keep_pulse(), name=f"member {self._group}")
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._pulse is not None:
            self._pulse.cancel()
            await asyncio.wait([self._pulse])
        self._active.clear()
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await close_consumer(consumer)

    async def fetch(self, *, max_messages: int, timeout_s: float) -> list[Received]:
        """Return what there is, after telling the listener what has changed."""
        self._look_at_pulse()
        self._look_at_answer()
        await self._follow_group()
        if max_messages <= 0:
            return []
        consumer = self._usable()
        with self._member_errors():
            async with asyncio.timeout(timeout_s + CALL_TIMEOUT_S):
                batches = await consumer.getmany(timeout_ms=int(timeout_s * 1000), max_records=max_messages)
        return [
            to_received(record)
            for place, batch in batches.items()
            if TopicPartition(*place) in self._active
            for record in batch
        ]

    async def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read on at these offsets."""
        consumer = self._usable()
        with self._member_errors():
            for place, offset in positions.items():
                if place in self._active:
                    consumer.seek(KafkaPartition(*place), offset)

    async def pause(self, partitions: Sequence[TopicPartition]) -> None:
        """Stop fetching these partitions and stay their owner."""
        consumer = self._usable()
        with self._member_errors():
            consumer.pause(*(KafkaPartition(*place) for place in partitions if place in self._active))
        self._held_back.update(self._active.intersection(partitions))

    async def resume(self, partitions: Sequence[TopicPartition]) -> None:
        """Fetch them again."""
        consumer = self._usable()
        with self._member_errors():
            consumer.resume(*(KafkaPartition(*place) for place in partitions if place in self._active))
        self._held_back.difference_update(partitions)

    async def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        """Tell the broker how far the group is, for its tools; never read back."""
        consumer = self._usable()
        async with within(CALL_TIMEOUT_S, "positions not committed"):
            await consumer.commit(
                {KafkaPartition(*place): offset for place, offset in positions.items() if place in self._active}
            )

    async def end_offsets(self) -> Mapping[TopicPartition, int]:
        """Return the offset after the last message of each assigned partition."""
        consumer = self._usable()
        async with within(CALL_TIMEOUT_S, "Kafka does not answer"):
            return await ends_of(consumer, self._active)

    async def start_offsets(self) -> Mapping[TopicPartition, int]:
        """Return the first offset of each assigned partition that retention has left."""
        consumer = self._usable()
        async with within(CALL_TIMEOUT_S, "Kafka does not answer"):
            return await starts_of(consumer, self._active)

    # What the group decides.

    async def _follow_group(self) -> None:
        """Do what the notes of the listener ask for, in the owner's task."""
        if self._broken is not None:
            await self._reopen(self._broken)
        if self._notes.revoked:
            gone = sorted(self._active)
            self._notes.revoked = False
            self._active.clear()
            self._held_back.clear()
            if gone:
                await self._listener.revoked(gone)
        offered = self._notes.offered
        new = sorted(offered - self._active)
        if not new:
            return
        positions = await self._listener.assigned(new)
        if self._notes.offered is not offered or self._notes.revoked:
            return  # the group has changed its mind meanwhile; the next fetch follows
        consumer = self._usable()
        with self._member_errors():
            for place in new:
                consumer.seek(KafkaPartition(*place), positions.get(place, 0))
            consumer.resume(*(KafkaPartition(*place) for place in new))
        self._active.update(new)

    async def _open(self) -> None:
        for topic in self._topics:
            await self._bus.partitions(topic)  # a topic that is missing would look like an empty assignment
        consumer = AIOKafkaConsumer(
            **self._bus.client,
            **READING,
            group_id=self._group,
            group_instance_id=self._member_id,
            session_timeout_ms=int(self._session_s * 1000),
            heartbeat_interval_ms=min(3000, int(self._session_s * 1000 / 4)),
            max_poll_interval_ms=MAX_POLL_MS,
            # The others give equal numbers of two topics to different members.
            partition_assignment_strategy=(RangePartitionAssignor,),
        )
        try:
            async with within(CALL_TIMEOUT_S, "group not joined"):
                await consumer.start()
        except BaseException:
            await close_consumer(consumer)
            raise
        # Subscribing after the start lets the join go on beside us; started together, start waits for the group.
        self._notes = _Notes()
        self._asked_at = self._bus.clock.monotonic()
        consumer.subscribe(self._topics, listener=_NotingListener(consumer, self._notes))
        self._consumer = consumer
        self._pulse_at = self._bus.clock.monotonic()
        self._broken = None

    async def _reopen(self, reason: str) -> None:
        logger.warning("member joins anew", extra={"group": self._group, "reason": reason})
        gone = sorted(self._active)
        self._active.clear()
        self._held_back.clear()
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await close_consumer(consumer)
        if gone:
            await self._listener.revoked(gone)
        await self._open()

    def _usable(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            self._broken = self._broken or "not connected"
            raise BusUnavailable("Kafka: the member is not connected")
        return self._consumer

    @contextmanager
    def _member_errors(self) -> Iterator[None]:
        """After an error of the consumer it is replaced: some of them it does not recover from by itself."""
        try:
            yield
        except IllegalStateError as exc:
            # The assignment has changed a moment ago; the notes say so.
            raise BusUnavailable(f"Kafka: {exc}") from exc
        except (KafkaError, TimeoutError) as exc:
            self._broken = repr(exc)
            raise BusUnavailable(f"Kafka: {exc or type(exc).__name__}") from exc

    # Being frozen.

    async def _keep_pulse(self) -> None:
        while True:
            await asyncio.sleep(self._session_s / PULSES_PER_SESSION)
            self._look_at_pulse()

    def _look_at_pulse(self) -> None:
        now = self._bus.clock.monotonic()
        if now - self._pulse_at > self._session_s * 0.8 and self._consumer is not None:
            self._broken = f"stood still for {now - self._pulse_at:.1f} s"
        self._pulse_at = now

    def _look_at_answer(self) -> None:
        waited_s = self._bus.clock.monotonic() - self._asked_at
        if self._consumer is not None and not self._notes.answered:
            if waited_s > self._session_s * SESSIONS_UNTIL_ANSWERED:
                self._broken = f"the group has not answered for {waited_s:.0f} s"


class _Notes:
    """What the listener has seen."""

    def __init__(self) -> None:
        self.answered = False
        self.revoked = False
        self.offered: frozenset[TopicPartition] = frozenset()


class _NotingListener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Pauses and notes, without giving up control: see the module's docstring."""

    def __init__(self, consumer: AIOKafkaConsumer, notes: _Notes) -> None:
        self._consumer = consumer
        self._notes = notes

    def on_partitions_revoked(self, revoked: Collection[KafkaPartition]) -> None:
        """Note that nothing is ours until the group has decided."""
        self._notes.revoked = True
        self._notes.offered = frozenset()

    def on_partitions_assigned(self, assigned: Collection[KafkaPartition]) -> None:
        """Pause what we got, before anything else can run."""
        self._consumer.pause(*assigned)
        self._notes.offered = frozenset(TopicPartition(*place) for place in assigned)
        self._notes.answered = True
