"""The outbox on a real database and a bus that does what the test says."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import cast

import pytest

from libs.common.bus import outbox, topics
from libs.common.bus.outbox import OutboxRelay
from libs.common.bus.port import Bus, BusUnavailable, Message, MessageRefused
from libs.common.clock import SystemClock
from libs.common.db import Database
from libs.common.settings import DatabaseSettings
from libs.common.testing.bus import create_effects_schema, until

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]


class ScriptedBus:
    """Takes messages, unless ``refuse`` or ``fail`` objects."""

    def __init__(self) -> None:
        self.taken: list[Message] = []
        self.calls = 0
        self.fail: Callable[[Sequence[Message]], None] | None = None

    async def publish(self, messages: Sequence[Message], *, timeout_s: float) -> None:
        self.calls += 1
        if self.fail is not None:
            self.fail(messages)
        self.taken += messages

    def values(self, key: str | None = None) -> list[bytes | None]:
        return [message.value for message in self.taken if key is None or message.key == key]


@pytest.fixture
async def db(postgres_url: str) -> AsyncIterator[Database]:
    db = Database(DatabaseSettings.model_validate({"url": postgres_url}), schema="probe")
    await db.open()
    await create_effects_schema(db)
    yield db
    await db.close()


class Relaying:
    """A relay that runs beside the block."""

    def __init__(
        self, db: Database, bus: ScriptedBus, owner: str = "one", only_urgent: Callable[[], bool] = lambda: False
    ) -> None:
        self.relay = OutboxRelay(bus=cast(Bus, bus), db=db, clock=SystemClock(), owner=owner, only_urgent=only_urgent)
        self.beats = 0

    async def __aenter__(self) -> OutboxRelay:
        self._task = asyncio.create_task(self.relay.run(self._beat))
        return self.relay

    async def __aexit__(self, *exc: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        assert self._task.cancelled(), self._task
        assert self.beats > 0

    def _beat(self) -> None:
        self.beats += 1


def messages(key: str, *values: bytes) -> list[Message]:
    return [Message("t", key, value, (("ce_id", key.encode() + value),)) for value in values]


async def put(db: Database, *wanted: Message) -> None:
    async with db.write() as conn:
        await outbox.put(conn, wanted)


async def rows(db: Database) -> list[tuple[str, bytes, bool]]:
    async with db.read() as conn:
        found = await conn.fetch("select key, value, parked_at is not null as parked from outbox order by id")
    return [(row["key"], row["value"], row["parked"]) for row in found]


async def empty(db: Database) -> bool:
    return not await rows(db)


async def test_what_was_written_is_published_in_order_with_all_its_parts_and_removed(db: Database) -> None:
    bus = ScriptedBus()
    wanted = [
        *messages("a", b"1", b"2"),
        Message("other", "站点", None, (("raw", b"\xff\x00"),), partition_key="p", partition=3),
        *messages("a", b"3"),
    ]
    await put(db, *wanted)
    async with Relaying(db, bus):
        await until(lambda: empty(db))
    assert bus.taken == wanted


async def test_many_at_once_are_written_as_few_are(db: Database) -> None:
    wanted = [
        Message("t", f"k{number % 7}", value, (("ce_id", b"\xff%d" % number), ("n", b"")), partition_key, partition)
        for number, (value, partition_key, partition) in enumerate(
            [(b"\0\xff {}", "站点", 3), (None, None, None), (b"", "", -1)] * outbox.COPIED_FROM
        )
    ]
    bus = ScriptedBus()
    await put(db, *wanted)
    async with Relaying(db, bus):
        await until(lambda: len(bus.taken) == len(wanted))
    assert bus.taken == wanted


async def test_nothing_of_a_transaction_that_is_rolled_back_is_published(db: Database) -> None:
    bus = ScriptedBus()

    async def change(fails: bool) -> None:
        async with db.write() as conn:
            await outbox.put(conn, messages("a", b"lost" if fails else b"kept"))
            if fails:
                raise ValueError("the change is refused")

    with pytest.raises(ValueError, match="refused"):
        await change(fails=True)
    await change(fails=False)
    async with Relaying(db, bus):
        await until(lambda: empty(db))
    assert bus.values() == [b"kept"]


async def test_waking_saves_the_wait_for_the_next_look(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "POLL_S", 3600.0)
    bus = ScriptedBus()
    async with Relaying(db, bus) as relay:
        await put(db, *messages("a", b"1"))
        relay.wake()
        await until(lambda: bus.values() == [b"1"])
        await put(db, *messages("a", b"2"))
        relay.wake()
        await until(lambda: bus.values() == [b"1", b"2"])


async def test_a_relay_that_dies_after_publishing_publishes_again_under_the_same_ids(db: Database) -> None:
    bus = ScriptedBus()
    wanted = messages("a", b"1", b"2")
    await put(db, *wanted)

    def acknowledge_lost(published: Sequence[Message]) -> None:
        bus.taken += published
        bus.fail = None
        raise BusUnavailable("no acknowledgement came")

    bus.fail = acknowledge_lost
    async with Relaying(db, bus):
        await until(lambda: empty(db))
    assert bus.taken == [*wanted, *wanted]


async def test_an_absent_bus_is_waited_for(db: Database) -> None:
    bus = ScriptedBus()
    failures = 0

    def away(_: Sequence[Message]) -> None:
        nonlocal failures
        failures += 1
        if failures == 3:
            bus.fail = None
        raise BusUnavailable("away")

    bus.fail = away
    await put(db, *messages("a", b"1"))
    async with Relaying(db, bus):
        await until(lambda: empty(db))
    assert bus.values() == [b"1"]
    assert failures == 3


async def test_a_message_that_is_never_taken_stops_its_key_and_no_other(
    db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    bus = ScriptedBus()

    def refuse(published: Sequence[Message]) -> None:
        for message in published:
            if message.value == b"too long":
                raise MessageRefused(message, "it is too long")

    bus.fail = refuse
    await put(
        db,
        *messages("a", b"1"),
        *messages("b", b"1", b"too long", b"3"),
        *messages("a", b"2"),
        Message("u", "b", b"another topic"),
    )
    async with Relaying(db, bus) as relay:

        async def only_b_left() -> bool:
            return await rows(db) == [("b", b"too long", True), ("b", b"3", False)]

        await until(only_b_left)
        await put(db, *messages("b", b"4"), *messages("c", b"1"))
        relay.wake()
        await until(lambda: bus.values("c") == [b"1"])
        assert bus.values("a") == [b"1", b"2"]
        assert bus.values("b") == [b"1", b"another topic"]
        async with db.read() as conn:
            assert "it is too long" in await conn.fetchval(
                "select parked_reason from outbox where parked_at is not null"
            )
        assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1
        # A person removes the message; the key goes on.
        async with db.write() as conn:
            await conn.execute("delete from outbox where parked_at is not null")
        relay.wake()
        await until(lambda: empty(db))
    assert bus.values("b") == [b"1", b"another topic", b"3", b"4"]


async def test_one_relay_works_at_a_time_and_the_next_takes_over_when_it_stops(db: Database) -> None:
    first, second = ScriptedBus(), ScriptedBus()
    await put(db, *messages("a", b"1"))
    async with Relaying(db, first, "one"):
        await until(lambda: first.values() == [b"1"])
        async with Relaying(db, second, "two") as standby:
            await put(db, *messages("a", b"2"))
            standby.wake()
            await until(lambda: empty(db))
            assert first.values() == [b"1", b"2"]
            assert second.calls == 0
    async with Relaying(db, second, "two"):
        await put(db, *messages("a", b"3"))
        await until(lambda: second.values() == [b"3"])
    assert first.values() == [b"1", b"2"]


async def test_more_than_one_batch_goes_out_without_waiting(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "POLL_S", 3600.0)
    monkeypatch.setattr(outbox, "BATCH", 10)
    bus = ScriptedBus()
    values = [b"%d" % number for number in range(35)]
    await put(db, *messages("a", *values))
    async with Relaying(db, bus):
        await until(lambda: len(bus.taken) == 35)
    assert bus.values() == values
    assert bus.calls == 4


async def test_commands_do_not_wait_for_what_is_only_told(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "BATCH", 3)
    bus = ScriptedBus()
    told = messages("s", *(b"%d" % n for n in range(5)))
    urgent = [Message(topics.COMMANDS, "s", b"c%d" % n, (("ce_id", b"c%d" % n),)) for n in range(4)]
    await put(db, *told, *urgent)
    async with Relaying(db, bus):
        await until(lambda: len(bus.taken) == 9)
    assert [one.value for one in bus.taken[:4]] == [b"c0", b"c1", b"c2", b"c3"]
    assert [one.value for one in bus.taken[4:]] == [b"0", b"1", b"2", b"3", b"4"]


async def test_what_is_only_told_waits_as_long_as_it_is_to(db: Database) -> None:
    bus, waits = ScriptedBus(), True
    await put(db, *messages("s", b"1", b"2"), Message(topics.CONDITIONS, "s", b"c", (("ce_id", b"c"),)))
    relaying = Relaying(db, bus, only_urgent=lambda: waits)
    async with relaying as relay:
        await until(lambda: bool(bus.taken))
        await put(db, *messages("s", b"3"), Message(topics.COMMANDS, "s", b"d", (("ce_id", b"d"),)))
        relay.wake()
        await until(lambda: len(bus.taken) == 2)
        assert bus.values() == [b"c", b"d"]
        waits = False
        relay.wake()
        await until(lambda: len(bus.taken) == 5)
    assert bus.values("s")[2:] == [b"1", b"2", b"3"]


async def test_a_sudden_backlog_is_not_read_by_a_plan_made_for_an_empty_table(db: Database) -> None:
    async with db.write() as conn:
        await conn.execute("analyze outbox")  # as the server does by itself while there is nothing
        await conn.execute(outbox.BY_INDEX)
        found = await conn.fetch(f"explain (costs off) {outbox.TAKE}", outbox.BATCH)
    plan = "\n".join(row[0] for row in found)
    assert plan.count("using outbox_pk on outbox o") == 2, plan
    assert plan.count("using outbox_parked on outbox p") == 2, plan
    assert not any(slow in plan for slow in ("Seq Scan", "Sort", "Bitmap", "Gather")), plan
