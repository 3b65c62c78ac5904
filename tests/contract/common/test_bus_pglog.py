"""What only the log in PostgreSQL does by itself: retention, compaction, sharing by lease, waking other processes."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import asyncpg
import orjson
import pytest

from libs.common.bus import pglog, pglog_read, topics
from libs.common.bus.pglog import PgLogBus
from libs.common.bus.port import (
    BusUnavailable,
    GroupMember,
    Message,
    MessageRefused,
    Received,
    StartAt,
    TopicPartition,
    TopicSpec,
)
from libs.common.bus.risks import RiskWatch
from libs.common.clock import SystemClock
from libs.common.settings import BusSettings, DatabaseSettings
from libs.common.testing.bus import until

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

LEASE_S = 2.0


@dataclass
class Place:
    """Buses as of several processes, and the database behind them."""

    url: str
    conn: asyncpg.Connection
    buses: list[PgLogBus]

    async def open_bus(self) -> PgLogBus:
        bus = PgLogBus(DatabaseSettings.model_validate({"url": self.url}), BusSettings(lease_s=LEASE_S), SystemClock())
        await bus.start()
        self.buses.append(bus)
        return bus

    async def age(self, topic: str, below: int, by: str) -> None:
        """Let the messages below an offset be older, in every partition."""
        await self.conn.execute(
            f"""
            update messages m set at = at - interval '{by}' from streams s
             where s.id = m.stream and s.topic = $1 and m."off" < $2
            """,
            topic,
            below,
        )

    async def floors(self, topic: str) -> list[int]:
        rows = await self.conn.fetch("select floor from streams where topic = $1 order by partition", topic)
        return [row["floor"] for row in rows]


@pytest.fixture
async def place(postgres_url: str) -> AsyncIterator[Place]:
    conn = await asyncpg.connect(postgres_url, server_settings={"search_path": "bus"}, timeout=10)
    place = Place(postgres_url, conn, [])
    yield place
    for bus in place.buses:
        await bus.stop()
    await conn.close()


@pytest.fixture
async def bus(place: Place) -> PgLogBus:
    return await place.open_bus()


async def publish(bus: PgLogBus, topic: str, count: int, *, size: int = 1, partition: int = 0, first: int = 0) -> None:
    values = [(b"%d" % number).rjust(size) for number in range(first, first + count)]
    await bus.publish([Message(topic, "k", value, partition=partition) for value in values], timeout_s=30)


async def offsets(bus: PgLogBus, topic: str) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    async with bus.tail([topic], StartAt(beginning=True)) as tail:
        while tail.positions() != await tail.end_offsets():
            for received in await tail.fetch(max_messages=1000, timeout_s=1.0):
                found.setdefault(received.partition, []).append(received.offset)
    return found


class Watcher:
    """A listener that begins every partition at its beginning."""

    def __init__(self) -> None:
        self.assigned_to: list[set[int]] = []
        self.revoked_from: list[set[int]] = []

    async def assigned(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        self.assigned_to.append({where.partition for where in partitions})
        return {}

    async def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        self.revoked_from.append({where.partition for where in partitions})


# Retention.


async def test_messages_leave_by_age_and_their_offsets_are_never_given_again(place: Place, bus: PgLogBus) -> None:
    await bus.ensure_topics([TopicSpec("t", 2, retention_s=3600.0)])
    await publish(bus, "t", 10)
    await publish(bus, "t", 4, partition=1)
    await place.age("t", 6, "2 hours")
    await bus.keep()
    assert await offsets(bus, "t") == {0: [6, 7, 8, 9]}
    assert await place.floors("t") == [6, 4]
    await place.age("t", 100, "2 hours")
    await bus.keep()
    assert await offsets(bus, "t") == {}
    await publish(bus, "t", 2)
    await publish(bus, "t", 1, partition=1)
    assert await offsets(bus, "t") == {0: [10, 11], 1: [4]}


async def test_a_young_message_before_an_old_one_stays_with_it(place: Place, bus: PgLogBus) -> None:
    # Times never fall within a stream, whatever the server's clock does: the second append is not older.
    await bus.ensure_topics([TopicSpec("t", 1)])
    await publish(bus, "t", 1)
    await place.conn.execute("update messages set at = at + interval '1 hour'")
    await publish(bus, "t", 1)
    times = [row["at"] for row in await place.conn.fetch('select at from messages order by "off"')]
    assert times[0] <= times[1]


async def test_a_topic_above_its_size_gives_up_its_oldest_messages(place: Place, bus: PgLogBus) -> None:
    size = 1000 + len("k") + len("[]")
    await bus.ensure_topics([TopicSpec("t", 2, retention_bytes=10 * size)])
    await publish(bus, "t", 30, size=1000)
    await publish(bus, "t", 10, size=1000, partition=1)
    await bus.keep()
    found = await offsets(bus, "t")
    assert found[0][-1] == 29  # the newest stay
    assert found[1][-1] == 9
    assert 7 <= len(found[0]) <= 9  # 30 of 40 shares
    assert 2 <= len(found[1]) <= 4
    before = found
    await bus.keep()
    after = await offsets(bus, "t")
    assert sum(map(len, before.values())) - sum(map(len, after.values())) <= 2  # it settles, and does not eat on


async def test_a_new_retention_holds_for_a_topic_that_exists(place: Place, bus: PgLogBus) -> None:
    await bus.ensure_topics([TopicSpec("t", 1, retention_s=7200.0)])
    await publish(bus, "t", 3)
    await place.age("t", 2, "90 minutes")
    await bus.keep()
    assert await offsets(bus, "t") == {0: [0, 1, 2]}
    await bus.ensure_topics([TopicSpec("t", 1, retention_s=3600.0)])
    await bus.keep()
    assert await offsets(bus, "t") == {0: [2]}


async def test_a_topic_without_retention_keeps_everything(place: Place, bus: PgLogBus) -> None:
    await bus.ensure_topics([TopicSpec("t", 1, retention_s=None)])
    await publish(bus, "t", 3)
    await place.age("t", 3, "10 years")
    await bus.keep()
    assert await offsets(bus, "t") == {0: [0, 1, 2]}


@pytest.mark.parametrize("by_size", [False, True], ids=["age", "size"])
async def test_a_group_that_retention_is_about_to_overtake_is_at_risk(
    place: Place, bus: PgLogBus, caplog: pytest.LogCaptureFixture, by_size: bool
) -> None:
    size = 1000 + len("k") + len("[]")
    spec = TopicSpec("t", 1, retention_bytes=40 * size) if by_size else TopicSpec("t", 1, retention_s=3600.0)
    await bus.ensure_topics([spec])
    await publish(bus, "t", 20, size=1000)
    async with bus.member("slow", ["t"], Watcher(), member_id="m") as member:
        await member.fetch(max_messages=1, timeout_s=0.0)
        await member.commit({TopicPartition("t", 0): 4})
        assert await bus.at_risk() == []
        if by_size:
            await publish(bus, "t", 16, size=1000)  # 32 unread of 40 that fit
        else:
            await place.age("t", 20, "50 minutes")
        (risk,) = await bus.at_risk()
        assert (risk.group, risk.topic, risk.partition) == ("slow", "t", 0)
        assert risk.records == (32 if by_size else 16)
        if not by_size:
            assert risk.left_s is not None
            assert 500 < risk.left_s <= 600
        with caplog.at_level(logging.ERROR, "libs.common.bus"):
            await bus.keep()
            await bus.keep()
        assert caplog.text.count("about to lose messages") == 1
        await member.commit({TopicPartition("t", 0): 36 if by_size else 20})
        assert await bus.at_risk() == []


async def test_risk_of_a_service_is_a_finding_from_its_begin_to_its_end(place: Place, bus: PgLogBus) -> None:
    await bus.ensure_topics([TopicSpec("t", 1, retention_s=3600.0), TopicSpec(topics.CONDITIONS, 1)])
    await publish(bus, "t", 20)
    watch = RiskWatch(bus, SystemClock(), "alarm")
    async with bus.member("alarm.rules", ["t"], Watcher(), member_id="m") as member:
        await member.fetch(max_messages=1, timeout_s=0.0)
        await member.commit({TopicPartition("t", 0): 4})
        await place.age("t", 20, "50 minutes")
        await watch.look()
        await watch.look()  # nothing has changed, so nothing is said
        await member.commit({TopicPartition("t", 0): 20})
        await watch.look()
    async with bus.tail([topics.CONDITIONS], StartAt(beginning=True)) as tail:
        said = [orjson.loads(one.value or b"") for one in await tail.fetch(max_messages=10, timeout_s=5.0)]
    assert [(one["kind"], one["phase"], one["subject"]) for one in said] == [
        ("retention_risk", "begin", "alarm"),
        ("retention_risk", "end", "alarm"),
    ]
    assert "16 messages are not read" in said[0]["detail"]


# Compaction.


async def test_a_tombstone_goes_after_a_day_and_the_offsets_go_on(place: Place, bus: PgLogBus) -> None:
    await bus.ensure_topics([TopicSpec("t", 1, compacted=True, retention_s=None)])
    for key, value in (("a", b"1"), ("b", b"1"), ("a", None), ("b", b"2"), ("b", None)):
        await bus.publish([Message("t", key, value)], timeout_s=30)
    await bus.keep()
    assert await offsets(bus, "t") == {0: [2, 4]}
    await place.age("t", 5, "25 hours")
    await bus.keep()
    # The newest message stays whatever it is: the next offset follows it.
    assert await offsets(bus, "t") == {0: [4]}
    await bus.publish([Message("t", "c", b"1")], timeout_s=30)
    await bus.keep()
    assert await offsets(bus, "t") == {0: [5]}
    assert await place.floors("t") == [0]  # compaction loses nothing, so no reader has missed anything


async def test_compaction_goes_on_where_it_stopped_and_in_parts(
    place: Place, bus: PgLogBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("libs.common.bus.pglog_keep.DELETE_BATCH", 4)
    await bus.ensure_topics([TopicSpec("t", 1, compacted=True, retention_s=None)])
    for rounds in range(3):
        await bus.publish([Message("t", f"k{n % 5}", b"%d" % rounds) for n in range(15)], timeout_s=30)
        await bus.keep()
        last = 15 * (rounds + 1)
        assert await offsets(bus, "t") == {0: list(range(last - 5, last))}


# Groups by lease.


async def settle(*members: GroupMember, within_s: float = 15.0) -> None:
    """Fetch with all members, as their owners do, until each has its share."""
    numbers = 8

    async def fetch_with(member: GroupMember) -> None:
        await member.fetch(max_messages=0, timeout_s=0.0)

    async def shared() -> bool:
        await asyncio.gather(*(fetch_with(member) for member in members))
        held = [{where.partition for where in member.assignment} for member in members]
        sizes = sorted(map(len, held))
        return len(set().union(*held)) == sum(sizes) == numbers and sizes[-1] - sizes[0] <= 1

    await until(shared, within_s=within_s)


async def test_members_share_evenly_as_they_come_and_go(place: Place, bus: PgLogBus) -> None:
    await bus.ensure_topics([TopicSpec("t", 8)])
    others = [await place.open_bus() for _ in range(2)]
    watchers = [Watcher() for _ in range(3)]
    async with bus.member("g", ["t"], watchers[0], member_id="a") as a:
        await settle(a)
        async with others[0].member("g", ["t"], watchers[1], member_id="b") as b:
            await settle(a, b)
            async with others[1].member("g", ["t"], watchers[2], member_id="c") as c:
                await settle(a, b, c)
                assert sorted(len(member.assignment) for member in (a, b, c)) == [2, 3, 3]
            await settle(a, b)
        await settle(a)
    first, second, third = watchers
    assert first.assigned_to[0] == set(range(8))
    assert second.revoked_from or first.revoked_from  # what was too much was given up before another had it
    given_up = sum(map(len, first.revoked_from)) + sum(map(len, second.revoked_from))
    assert given_up >= sum(map(len, third.assigned_to)) + len(second.assigned_to[0])


async def test_a_restarted_member_has_its_partitions_back_at_once(place: Place, bus: PgLogBus) -> None:
    await bus.ensure_topics([TopicSpec("t", 8)])
    killed = bus.member("g", ["t"], Watcher(), member_id="a")
    await killed.__aenter__()
    await settle(killed)
    heart = killed._heart  # type: ignore[attr-defined]
    heart.cancel()  # as by kill -9: nothing is given back
    again = Watcher()
    async with bus.member("g", ["t"], again, member_id="a") as member:
        assert await member.fetch(max_messages=0, timeout_s=0.0) == []
        assert len(member.assignment) == 8
    killed._reader.close()  # type: ignore[attr-defined]
    await asyncio.wait([heart])


async def test_a_member_whose_leases_ran_out_gives_up_before_it_reads_on(place: Place, bus: PgLogBus) -> None:
    await bus.ensure_topics([TopicSpec("t", 8)])
    await publish(bus, "t", 1)
    watcher = Watcher()
    async with bus.member("g", ["t"], watcher, member_id="a") as member:
        await settle(member)
        await place.conn.execute("update leases set owner = 'thief', epoch = epoch + 1, until = now() + interval '1 h'")
        await until(lambda: not member.joined or not member._leases)  # type: ignore[attr-defined]
        found: list[Received] = await member.fetch(max_messages=10, timeout_s=0.0)
        assert found == []
        assert watcher.revoked_from == [set(range(8))]
        assert member.assignment == frozenset()


async def test_topics_of_different_size_are_shared_by_partition_number(place: Place, bus: PgLogBus) -> None:
    await bus.ensure_topics([TopicSpec("t", 8), TopicSpec("small", 1)])
    async with bus.member("g", ["t", "small"], Watcher(), member_id="a") as member:
        await until(lambda: _fetched(member))
        assert member.assignment == {TopicPartition("t", n) for n in range(8)} | {TopicPartition("small", 0)}


async def _fetched(member: GroupMember) -> bool:
    await member.fetch(max_messages=0, timeout_s=0.0)
    return len(member.assignment) == 9


# Appending, and hearing of it.


async def test_one_long_call_keeps_its_order_over_several_appends(bus: PgLogBus) -> None:
    await bus.ensure_topics([TopicSpec("t", 1)])
    await publish(bus, "t", 2 * pglog.APPEND_MESSAGES + 7)
    async with bus.tail(["t"], StartAt(beginning=True)) as tail:
        values: list[bytes | None] = []
        while len(values) < 2 * pglog.APPEND_MESSAGES + 7:
            values += [received.value for received in await tail.fetch(max_messages=700, timeout_s=1.0)]
    assert values == [b"%d" % number for number in range(2 * pglog.APPEND_MESSAGES + 7)]


async def test_a_fetch_is_bounded_in_bytes_but_gives_at_least_one_message(
    bus: PgLogBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bus.ensure_topics([TopicSpec("t", 1)])
    await publish(bus, "t", 10, size=1000)
    monkeypatch.setattr(pglog_read, "FETCH_BYTES", 3500)
    async with bus.tail(["t"], StartAt(beginning=True)) as tail:
        assert [len(await tail.fetch(max_messages=100, timeout_s=1.0)) for _ in range(3)] == [4, 4, 2]
    monkeypatch.setattr(pglog_read, "FETCH_BYTES", 10)
    async with bus.tail(["t"], StartAt(beginning=True)) as tail:
        assert len(await tail.fetch(max_messages=100, timeout_s=1.0)) == 1


async def test_a_message_that_the_server_refuses_fails_its_own_call_only(place: Place, bus: PgLogBus) -> None:
    await bus.ensure_topics([TopicSpec("t", 1), TopicSpec("gone", 1)])
    await publish(bus, "gone", 1)  # its stream is known from here on
    await place.conn.execute("delete from streams where topic = 'gone'")
    wrong = Message("gone", "k", b"1")
    calls = [
        bus.publish([Message("t", "k", b"1")], timeout_s=30),
        bus.publish([Message("t", "k", b"2"), wrong], timeout_s=30),
        bus.publish([Message("t", "k", b"3")], timeout_s=30),
    ]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert results[0] is None
    assert results[2] is None
    assert isinstance(results[1], MessageRefused)
    assert results[1].refused is wrong
    assert await offsets(bus, "t") == {0: [0, 1, 2]}


async def test_a_lost_connection_is_replaced_within_the_time_of_a_publish(place: Place, bus: PgLogBus) -> None:
    await bus.ensure_topics([TopicSpec("t", 1)])
    await publish(bus, "t", 1)
    for _ in range(3):
        await place.conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'wattring-bus'"
        )
        await publish(bus, "t", 1)
    found = await offsets(bus, "t")
    assert found[0] == list(range(len(found[0])))
    assert len(found[0]) >= 4
    await bus.check()


async def test_other_processes_hear_of_an_append_without_looking(
    place: Place, bus: PgLogBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pglog_read, "POLL_S", 3600.0)
    other = await place.open_bus()
    await bus.ensure_topics([TopicSpec("t", 1)])
    async with asyncio.timeout(40), other.tail(["t"], StartAt.end()) as tail:
        assert await tail.fetch(max_messages=10, timeout_s=0.2) == []
        for round_ in range(3):
            await publish(bus, "t", 1)
            assert len(await tail.fetch(max_messages=10, timeout_s=15.0)) == 1, round_


async def test_what_no_notification_told_of_is_found_by_looking(
    place: Place, bus: PgLogBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PgLogBus, "_heard", lambda *_: None)  # a process that hears nothing
    monkeypatch.setattr(pglog_read, "POLL_S", 0.1)
    deaf = await place.open_bus()
    await bus.ensure_topics([TopicSpec("t", 1)])
    async with deaf.tail(["t"], StartAt.end()) as tail:
        assert await tail.fetch(max_messages=10, timeout_s=0.2) == []
        await publish(bus, "t", 1)
        found: list[Received] = []
        async with asyncio.timeout(30):
            while not found:
                found = await tail.fetch(max_messages=10, timeout_s=0.2)


async def test_what_does_not_get_through_in_time_is_not_appended_later(place: Place, bus: PgLogBus) -> None:
    await bus.ensure_topics([TopicSpec("t", 1)])
    stream = await place.conn.fetchval("select id from streams where topic = 't'")
    async with place.conn.transaction():
        await place.conn.execute("select pg_advisory_xact_lock(1937010020, $1)", stream)
        slow = asyncio.create_task(publish(bus, "t", 1))
        # What is queued before its append waits for the lock would go with it.
        waiting = "select count(*) from pg_locks where not granted and locktype = 'advisory' and objid = $1::int"
        while not await place.conn.fetchval(waiting, stream):  # noqa: ASYNC110  # PostgreSQL tells nobody
            await asyncio.sleep(0.01)
        with pytest.raises(BusUnavailable, match="not appended within"):
            await bus.publish([Message("t", "k", b"late")], timeout_s=0.2)
    await slow
    async with bus.tail(["t"], StartAt(beginning=True)) as tail:
        assert [received.value for received in await tail.fetch(max_messages=10, timeout_s=1.0)] == [b"0"]


async def test_a_stopped_bus_says_so(bus: PgLogBus) -> None:
    await bus.ensure_topics([TopicSpec("t", 1)])
    await bus.stop()
    with pytest.raises(BusUnavailable, match="not running"):
        await publish(bus, "t", 1)
    with pytest.raises(BusUnavailable):
        await bus.check()
    await bus.start()
    await publish(bus, "t", 1)


async def test_a_database_without_the_schema_names_the_command_that_creates_it(
    postgres_template: str, empty_postgres_url: str
) -> None:
    bus = PgLogBus(DatabaseSettings.model_validate({"url": empty_postgres_url}), BusSettings(), SystemClock())
    with pytest.raises(BusUnavailable, match="wattring migrate"):
        await bus.start()
    await bus.stop()
