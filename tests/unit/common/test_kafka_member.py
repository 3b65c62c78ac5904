"""A member whose group does not answer asks again; found by the soak, with the broker killed while it joined."""

from typing import Any

import pytest

from libs.common.bus import kafka_member
from libs.common.bus.kafka_member import SESSIONS_UNTIL_ANSWERED, KafkaMember
from libs.common.testing.clock import FakeClock

SESSION_S = 12.0


class Consumer:
    """Joins, and hears from its group only when somebody says so."""

    made: list["Consumer"] = []  # noqa: RUF012  # emptied by each test

    def __init__(self, **_: Any) -> None:
        self.listener: Any = None
        self.is_closed = False
        Consumer.made.append(self)

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        self.is_closed = True

    def subscribe(self, topics: Any, listener: Any) -> None:
        self.listener = listener

    def pause(self, *partitions: Any) -> None:
        pass

    async def getmany(self, **_: Any) -> dict[Any, Any]:
        return {}


class Bus:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.client: dict[str, Any] = {}
        self.settings = self
        self.session_timeout_s = SESSION_S

    async def partitions(self, topic: str) -> int:
        return 1


class Listener:
    async def assigned(self, partitions: Any) -> dict[Any, int]:
        return {}

    async def revoked(self, partitions: Any) -> None:
        pass


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Bus:
    Consumer.made = []
    monkeypatch.setattr(kafka_member, "AIOKafkaConsumer", Consumer)
    return Bus()


async def fetch(member: KafkaMember, bus: Bus, for_s: float) -> None:
    """Fetch once a second for some time."""
    for _ in range(round(for_s)):
        await bus.clock.advance(1.0)
        await member.fetch(max_messages=10, timeout_s=0.1)


def joining(bus: Any) -> KafkaMember:
    return KafkaMember(bus, "group", ["topic"], Listener(), "member")


async def test_group_that_never_answers_is_joined_anew(bus: Bus) -> None:
    async with joining(bus) as member:
        await fetch(member, bus, SESSION_S * SESSIONS_UNTIL_ANSWERED)
        assert len(Consumer.made) == 1
        await fetch(member, bus, 2)
        assert [consumer.is_closed for consumer in Consumer.made] == [True, False]
        assert not member.joined
        await fetch(member, bus, SESSION_S)
        assert len(Consumer.made) == 2


async def test_group_that_has_answered_may_be_silent(bus: Bus) -> None:
    async with joining(bus) as member:
        Consumer.made[0].listener.on_partitions_assigned([])
        assert member.joined
        await fetch(member, bus, 3 * SESSION_S * SESSIONS_UNTIL_ANSWERED)
        assert len(Consumer.made) == 1
