"""What only the Kafka bus does by itself."""

import secrets
from collections.abc import AsyncIterator, Sequence

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError, OutOfOrderSequenceNumber

from libs.common.bus.kafka import KafkaBus
from libs.common.bus.port import BusUnavailable, Message, Received, StartAt, TopicPartition, TopicSpec
from libs.common.clock import SystemClock
from libs.common.settings import BusSettings
from libs.common.testing.bus import until

pytestmark = [pytest.mark.integration, pytest.mark.kafka]


class Jumping(SystemClock):
    """The machine's clock, with time added as if the process had stood still."""

    jumped_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.jumped_s


@pytest.fixture
def clock() -> Jumping:
    return Jumping()


@pytest.fixture
async def bus(kafka_bootstrap: str, clock: Jumping) -> AsyncIterator[KafkaBus]:
    bus = KafkaBus(BusSettings(bootstrap_servers=kafka_bootstrap, session_timeout_s=3.0), clock)
    await bus.start()
    yield bus
    await bus.stop()


def name() -> str:
    return f"probe.{secrets.token_hex(6)}"


async def config_of(bootstrap: str, topic: str) -> dict[str, str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        await admin.start()
        (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    finally:
        await admin.close()
    return {entry[0]: entry[1] for entry in answer.resources[0][4]}


async def test_topics_are_created_as_their_specs_say(bus: KafkaBus, kafka_bootstrap: str) -> None:
    plain, compacted = name(), name()
    await bus.ensure_topics(
        [
            TopicSpec(plain, 3, retention_s=3600.0, retention_bytes=3_000_000),
            TopicSpec(compacted, 1, compacted=True, retention_s=None),
        ]
    )
    found = await config_of(kafka_bootstrap, plain)
    assert found["cleanup.policy"] == "delete"
    assert found["retention.ms"] == "3600000"
    assert found["retention.bytes"] == "1000000"  # Kafka counts by partition
    assert found["message.timestamp.type"] == "LogAppendTime"
    found = await config_of(kafka_bootstrap, compacted)
    assert found["cleanup.policy"] == "compact"
    assert found["retention.ms"] == "-1"
    assert found["delete.retention.ms"] == "86400000"


class Watcher:
    def __init__(self) -> None:
        self.log: list[str] = []
        self.fail = 0

    async def assigned(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        self.log.append("assigned")
        if self.fail:
            self.fail -= 1
            raise ValueError("the claim fails")
        return {}

    async def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        self.log.append("revoked")


async def test_a_member_that_stood_still_forgets_and_joins_anew_before_it_reads(bus: KafkaBus, clock: Jumping) -> None:
    topic, watcher = name(), Watcher()
    await bus.ensure_topics([TopicSpec(topic, 1)])
    async with bus.member(f"g.{topic}", [topic], watcher, member_id="m") as member:

        async def holds() -> bool:
            await member.fetch(max_messages=10, timeout_s=0.05)
            return bool(member.assignment)

        await until(holds)
        assert watcher.log == ["assigned"]
        clock.jumped_s += 10.0
        await member.fetch(max_messages=10, timeout_s=0.0)
        assert watcher.log[:2] == ["assigned", "revoked"]
        await until(holds)
        assert watcher.log == ["assigned", "revoked", "assigned"]


async def test_what_the_listener_raises_comes_out_of_fetch_and_the_partitions_are_offered_again(bus: KafkaBus) -> None:
    topic, watcher = name(), Watcher()
    watcher.fail = 2
    await bus.ensure_topics([TopicSpec(topic, 1)])
    await bus.publish([Message(topic, "k", b"1")], timeout_s=30)
    failures = 0
    found: list[Received] = []
    async with bus.member(f"g.{topic}", [topic], watcher, member_id="m") as member:
        while not found:
            try:
                found = await member.fetch(max_messages=10, timeout_s=0.1)
            except ValueError:
                failures += 1
                assert member.assignment == frozenset()
    assert failures == 2
    assert [received.value for received in found] == [b"1"]


@pytest.mark.parametrize(
    ("error", "replaced"),
    [(OutOfOrderSequenceNumber(), True), (KafkaTimeoutError(), False), (KafkaConnectionError(), False)],
    ids=["failed for good", "slow", "away"],
)
async def test_a_producer_is_replaced_when_waiting_does_not_mend_it(
    bus: KafkaBus, monkeypatch: pytest.MonkeyPatch, error: KafkaError, replaced: bool
) -> None:
    topic = name()
    await bus.ensure_topics([TopicSpec(topic, 1)])
    before = bus._producer
    assert before is not None

    async def fail(*args: object, **kwargs: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(before, "send", fail)
        with pytest.raises(BusUnavailable):
            await bus.publish([Message(topic, "k", b"0")], timeout_s=30)
    await bus.publish([Message(topic, "k", b"1")], timeout_s=30)
    assert (bus._producer is not before) is replaced
    async with bus.tail([topic], StartAt(beginning=True)) as tail:
        found: list[Received] = []
        while not found:
            found = await tail.fetch(max_messages=10, timeout_s=0.5)
    assert [received.value for received in found] == [b"1"]
