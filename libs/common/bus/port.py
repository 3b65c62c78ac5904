"""The bus as the services see it: ordered, partitioned logs with groups of readers.

Two adapters implement it, Apache Kafka (``kafka.py``) and a log in PostgreSQL (``pglog.py``);
``tests/contract/common/test_bus.py`` states their common behaviour once and runs on both. Services use
the runtimes above it (``consumer.py``, ``outbox.py``, ``tail.py``) and seldom this port itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple, Protocol, Self

from libs.common.errors import InvalidInput, Unavailable

Header = tuple[str, bytes]

MAX_MESSAGE_BYTES = 1_000_000
"""Key, value and headers of one message together; what a Kafka broker takes by default is a little more. [B]"""


class BusUnavailable(Unavailable):
    """The bus did not acknowledge in time; nothing is known about the messages."""

    code = "bus_unavailable"
    title_zh = "消息总线不可用"


class MessageRefused(InvalidInput):
    """The bus will never take this message."""

    code = "message_refused"
    title_zh = "消息被拒绝"

    def __init__(self, refused: "Message", reason: str) -> None:
        super().__init__(
            f"{refused.topic}, key {refused.key!r}: {reason}", message_zh=f"{refused.topic} 消息被拒绝:{reason}"
        )
        self.refused = refused


class TopicPartition(NamedTuple):
    """One ordered log."""

    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """How a topic is to be created."""

    name: str
    partitions: int
    compacted: bool = False
    retention_s: float | None = 7 * 86400.0
    """Age after which messages may go; None keeps them. [s]"""
    retention_bytes: int | None = None
    """Size of the whole topic above which the oldest messages go; None is without bound. [B]"""


@dataclass(frozen=True, slots=True)
class Message:
    """A message to be published."""

    topic: str
    key: str
    value: bytes | None
    """UTF-8 JSON; None is a tombstone on a compacted topic."""
    headers: tuple[Header, ...] = ()
    partition_key: str | None = None
    """Chooses the partition in place of the key (a device's status lies in its site's partition)."""
    partition: int | None = None
    """Chooses the partition outright (heartbeats go into every one)."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message as it was read."""

    topic: str
    partition: int
    offset: int
    key: str | None
    value: bytes | None
    headers: tuple[Header, ...] = field(repr=False)
    appended_at: datetime
    """When the bus took it, in UTC."""

    @property
    def topic_partition(self) -> TopicPartition:
        """The log this was read from."""
        return TopicPartition(self.topic, self.partition)

    def header(self, name: str) -> bytes | None:
        """Return the first header of that name."""
        return next((value for key, value in self.headers if key == name), None)


@dataclass(frozen=True, slots=True)
class AtRisk:
    """A group that retention is about to overtake in one partition."""

    group: str
    topic: str
    partition: int
    records: int
    """Messages that it has not handled."""
    left_s: float | None
    """Until the oldest of them goes by its age; None where only size counts. [s]"""


class GroupListener(Protocol):
    """What a member's owner does when partitions come and go.

    Both are called from within ``GroupMember.fetch`` only, so never beside the handling of a batch. What they
    raise comes out of ``fetch``, and the partitions are offered again by the next one.
    """

    async def assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Claim the partitions and return where to read on; a partition left out starts at its beginning.

        Nothing of these partitions is fetched before this has returned.
        """

    async def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        """Forget the partitions; they may already belong to another member."""


class GroupMember(Protocol):
    """One member of a group of readers that share the partitions of some topics."""

    @property
    def joined(self) -> bool:
        """Whether the group has answered; an empty assignment counts."""

    @property
    def assignment(self) -> frozenset[TopicPartition]:
        """The partitions that are claimed and read."""

    async def fetch(self, *, max_messages: int, timeout_s: float) -> list[Received]:
        """Return what is there, in order per partition, at the latest after ``timeout_s``; may be empty.

        With ``max_messages`` 0 it only tells the listener what has changed in the group.

        Raises:
            BusUnavailable: The bus cannot be reached.
        """

    async def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read on at these offsets."""

    async def pause(self, partitions: Sequence[TopicPartition]) -> None:
        """Stop fetching these partitions and stay their owner."""

    async def resume(self, partitions: Sequence[TopicPartition]) -> None:
        """Fetch them again."""

    async def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        """Tell the bus how far the group is, for tools that show lag; best effort, never read back."""

    async def end_offsets(self) -> Mapping[TopicPartition, int]:
        """Return the offset after the last message of each assigned partition."""

    async def start_offsets(self) -> Mapping[TopicPartition, int]:
        """Return the first offset of each assigned partition that retention has left; compaction does not move it."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...


class TailReader(Protocol):
    """A reader of its own of all partitions of some topics, outside any group."""

    async def fetch(self, *, max_messages: int, timeout_s: float) -> list[Received]:
        """Return what is there, in order per partition; may be empty.

        Raises:
            BusUnavailable: The bus cannot be reached.
        """

    async def end_offsets(self) -> Mapping[TopicPartition, int]:
        """Return the offset after the last message of every partition."""

    def positions(self) -> Mapping[TopicPartition, int]:
        """Return the offset that is read next, for every partition."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...


@dataclass(frozen=True, slots=True)
class StartAt:
    """Where a tail begins."""

    beginning: bool = False
    since: datetime | None = None
    positions: Mapping[TopicPartition, int] | None = None
    """Partitions left out start at the beginning."""

    @classmethod
    def end(cls) -> "StartAt":
        """Only what is published from now on."""
        return cls()


class Bus(Protocol):
    """A bus. Methods raise ``BusUnavailable`` when it cannot be reached within their time."""

    async def start(self) -> None:
        """Connect."""

    async def stop(self) -> None:
        """Publish what was taken and disconnect."""

    async def ensure_topics(self, specs: Sequence[TopicSpec]) -> None:
        """Create the topics that are missing; one that exists keeps its partitions, whatever the spec says."""

    async def partitions(self, topic: str) -> int:
        """Return how many partitions the topic has."""

    async def publish(self, messages: Sequence[Message], *, timeout_s: float) -> None:
        """Append all messages and return once every one is durable (acks=all).

        Messages of one key keep their order. After an error some may have been appended: publishing
        again can double them, and readers are idempotent for that reason.

        Raises:
            BusUnavailable: Not acknowledged within ``timeout_s``, or a topic does not exist.
            MessageRefused: One message will never be taken (longer than ``MAX_MESSAGE_BYTES``, no such
                partition); it is named. Messages of the call may have been taken, those before it in order.
        """

    def member(self, group: str, topics: Sequence[str], listener: GroupListener, *, member_id: str) -> GroupMember:
        """Return a member, not yet joined; enter it to join. ``member_id`` is stable over restarts."""

    def tail(self, topics: Sequence[str], start: StartAt) -> TailReader:
        """Return a reader outside any group; enter it to start."""

    async def at_risk(self) -> Sequence[AtRisk]:
        """Return the groups that will lose messages unless they catch up soon.

        Empty on Kafka, where retention is days long and the broker's tools watch it.
        """

    async def check(self) -> None:
        """Raise ``BusUnavailable`` with the reason when the bus cannot be used; for readiness."""


def murmur2(data: bytes) -> int:
    """Return Kafka's murmur2 of ``data`` as a signed 32-bit number.

    Source:
        Apache Kafka, org.apache.kafka.common.utils.Utils.murmur2.
    """
    length = len(data)
    m = 0x5BD1E995
    mask = 0xFFFFFFFF
    h = (0x9747B28C ^ length) & mask
    for i in range(0, length - length % 4, 4):
        k = int.from_bytes(data[i : i + 4], "little")
        k = (k * m) & mask
        k ^= k >> 24
        k = (k * m) & mask
        h = ((h * m) & mask) ^ k
    tail = data[length - length % 4 :]
    if tail:
        h ^= int.from_bytes(tail, "little")
        h = (h * m) & mask
    h ^= h >> 13
    h = (h * m) & mask
    h ^= h >> 15
    return h - (1 << 32) if h & 0x80000000 else h


@lru_cache(maxsize=100_000)
def _positive_hash(key: str) -> int:
    return murmur2(key.encode()) & 0x7FFFFFFF


def partition_for(message: Message, partitions: int) -> int:
    """Return the partition of a message: Kafka's standard rule, so that every client agrees."""
    if message.partition is not None:
        return message.partition
    return partition_of(message.key if message.partition_key is None else message.partition_key, partitions)


def partition_of(key: str, partitions: int) -> int:
    """Return the partition that a key chooses."""
    return _positive_hash(key) % partitions


def check_message(message: Message) -> None:
    """Check what every bus asks of a message.

    Raises:
        MessageRefused: It is too long, or its key is no text that every bus can keep.
    """
    try:
        key = message.key.encode()
        if message.partition_key is not None:
            message.partition_key.encode()
    except UnicodeEncodeError as exc:
        raise MessageRefused(message, f"its key is no valid text: {exc.reason}") from exc
    if b"\0" in key:
        raise MessageRefused(message, "its key holds a NUL")
    size = len(key) + len(message.value or b"") + sum(len(name) + len(value) for name, value in message.headers)
    if size > MAX_MESSAGE_BYTES:
        raise MessageRefused(message, f"it has {size} bytes, the most is {MAX_MESSAGE_BYTES}")
