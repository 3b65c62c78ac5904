"""The registry view on the embedded bus: complete before ready, at work through restarts, replicas and bad records."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from libs.common.bus.envelope import message, tombstone
from libs.common.bus.pglog import PgLogBus
from libs.common.bus.port import Message, StartAt
from libs.common.bus.topics import REGISTRY, specs
from libs.common.clock import SystemClock
from libs.common.contracts.registry import Device, EntityKind, EntityState, RegistryRecord, Site, record_of
from libs.common.db import Database
from libs.common.errors import Unavailable
from libs.common.ids import DeviceId, SiteId
from libs.common.migrations import migrate
from libs.common.registry import RegistryNotReady, RegistryView, create_registry_tables
from libs.common.settings import BusSettings, DatabaseSettings

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

T0 = datetime(2026, 1, 1, tzinfo=UTC)
CLOCK = SystemClock()
SITE = SiteId("s1")


class Statements:
    """Takes the place of Alembic's ``op``."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def execute(self, sqltext: str) -> None:
        self.texts.append(sqltext)


@pytest.fixture
async def url(empty_postgres_url: str) -> str:
    await migrate(empty_postgres_url, ["bus"])
    op = Statements()
    create_registry_tables(op)
    connection = await asyncpg.connect(empty_postgres_url)
    try:
        await connection.execute("create schema service")
        await connection.execute("set search_path to service")
        for text in op.texts:
            await connection.execute(text)
    finally:
        await connection.close()
    return empty_postgres_url


@pytest.fixture
async def db(url: str) -> AsyncIterator[Database]:
    database = Database(DatabaseSettings.model_validate({"url": url}), schema="service")
    await database.open()
    yield database
    await database.close()


@pytest.fixture
async def bus(url: str) -> AsyncIterator[PgLogBus]:
    settings = BusSettings()
    bus = PgLogBus(DatabaseSettings.model_validate({"url": url}), settings, CLOCK)
    await bus.start()
    await bus.ensure_topics([spec for spec in specs(settings) if spec.name == REGISTRY])
    yield bus
    await bus.stop()


def site(name: str = "one") -> RegistryRecord:
    version = Site.model_validate(
        {"id": SITE, "name": name, "valid_from": T0, "version": 1, "changed_by": "u", "code": "1", "kind": "idc"}
    )
    return record_of([version])


def device(number: int, *, name: str = "meter", removed: bool = False) -> RegistryRecord:
    version = Device.model_validate(
        {
            "id": f"d{number}",
            "name": name,
            "valid_from": T0,
            "valid_to": T0 + timedelta(days=1) if removed else None,
            "version": 1,
            "changed_by": "u",
            "kind": "meter_3p",
            "site": SITE,
        }
    )
    return record_of([version], state=EntityState.REMOVED if removed else EntityState.ACTIVE)


async def publish(bus: PgLogBus, *records: RegistryRecord) -> None:
    messages = [message(REGISTRY, record.id, record, source="ingest", time=T0) for record in records]
    await bus.publish(messages, timeout_s=10)


@asynccontextmanager
async def running(view: RegistryView) -> AsyncIterator[RegistryView]:
    task = asyncio.create_task(view.run(lambda: None))
    try:
        async with asyncio.timeout(20):
            await view.ready()
        yield view
    finally:
        task.cancel()
        await asyncio.wait([task])


async def seen(changes: "asyncio.Queue[tuple[EntityKind, str]]", *ids: str) -> None:
    """Wait until these entities have changed."""
    missing = set(ids)
    async with asyncio.timeout(20):
        while missing:
            missing.discard((await changes.get())[1])


def watch(view: RegistryView) -> "asyncio.Queue[tuple[EntityKind, str]]":
    changes: asyncio.Queue[tuple[EntityKind, str]] = asyncio.Queue()
    view.on_change(lambda kind, entity_id: changes.put_nowait((kind, entity_id)))
    return changes


async def stored(db: Database) -> dict[str, int]:
    async with db.read() as conn:
        rows = await conn.fetch('select id, "offset" from registry_entities')
    return {row["id"]: row["offset"] for row in rows}


def names(devices: Sequence[Device]) -> dict[str, str]:
    return {found.id: found.name for found in devices}


async def test_ready_means_everything_published_before_is_known(bus: PgLogBus, db: Database) -> None:
    await publish(bus, site(), *(device(number) for number in range(500)))
    view = RegistryView(bus=bus, db=db, clock=CLOCK)
    assert not view.is_ready
    with pytest.raises(RegistryNotReady):
        await view.check()
    async with running(view):
        assert view.is_ready
        await view.check()
        assert len(view.devices()) == len(view.devices(SITE)) == 500
        found = view.site(SITE)
        assert found is not None
        assert found.name == "one"
        assert len(await stored(db)) == 501


async def test_empty_registry_is_ready(bus: PgLogBus, db: Database) -> None:
    async with running(RegistryView(bus=bus, db=db, clock=CLOCK)) as view:
        assert view.sites() == []


async def test_changes_are_followed_and_told(bus: PgLogBus, db: Database) -> None:
    view = RegistryView(bus=bus, db=db, clock=CLOCK)
    changes = watch(view)
    async with running(view):
        await publish(bus, site(), device(1), device(2), device(1, name="new"), device(2, removed=True))
        await seen(changes, "s1", "d1", "d2")
        while len(names(view.devices())) != 1:
            await seen(changes, "d2")
        assert names(view.devices()) == {"d1": "new"}
        assert view.device(DeviceId("d2")) is None
        assert view.at(EntityKind.DEVICE, "d2", T0) is not None
        assert view.record(EntityKind.DEVICE, "d2") is not None
        await bus.publish([tombstone(REGISTRY, "d2", source="ingest", time=T0)], timeout_s=10)
        await seen(changes, "d2")
        assert view.record(EntityKind.DEVICE, "d2") is None
        assert set(await stored(db)) == {"s1", "d1"}


async def test_start_reads_the_table_and_only_what_is_new(bus: PgLogBus, db: Database) -> None:
    await publish(bus, site(), device(1))
    async with running(RegistryView(bus=bus, db=db, clock=CLOCK)):
        pass
    async with db.write() as conn:  # only the table knows this: a second start takes it from there
        await conn.execute("update registry_entities set record = jsonb_set(record, '{versions,0,name}', '\"kept\"')")
    await publish(bus, device(2))
    view = RegistryView(bus=bus, db=db, clock=CLOCK)
    changes = watch(view)
    async with running(view):
        assert names(view.devices()) == {"d1": "kept", "d2": "meter"}
        assert changes.get_nowait() == (EntityKind.DEVICE, "d2")
        assert changes.empty()


async def test_replicas_share_the_table_and_each_sees_everything(bus: PgLogBus, db: Database) -> None:
    await publish(bus, site(), device(1))
    first, second = (RegistryView(bus=bus, db=db, clock=CLOCK) for _ in range(2))
    both = watch(first), watch(second)
    async with running(first), running(second):
        await publish(bus, *(device(1, name=f"name {number}") for number in range(50)), device(2))
        for changes in both:
            await seen(changes, "d2")
        for view in (first, second):
            assert names(view.devices()) == {"d1": "name 49", "d2": "meter"}
    offsets = await stored(db)
    assert offsets["d1"] == 51
    assert offsets["d2"] == 52


async def test_slow_replica_does_not_bring_back_what_was_removed(bus: PgLogBus, db: Database) -> None:
    await publish(bus, device(1))
    async with bus.tail((REGISTRY,), StartAt(beginning=True)) as reader:
        (old,) = await reader.fetch(max_messages=10, timeout_s=5)
    await bus.publish([tombstone(REGISTRY, "d1", source="ingest", time=T0)], timeout_s=10)
    view = RegistryView(bus=bus, db=db, clock=CLOCK)
    async with running(view):
        assert await stored(db) == {}
        await view._take([old])
        assert await stored(db) == {}


async def test_record_that_cannot_be_read_is_left_out(
    bus: PgLogBus, db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    good = message(REGISTRY, "d1", device(1), source="ingest", time=T0)
    bad = [Message(REGISTRY, "x", b"{"), Message(REGISTRY, "y", b'{"kind":"castle"}'), Message(REGISTRY, "z", b"[]")]
    await bus.publish([*bad, good], timeout_s=10)
    async with running(RegistryView(bus=bus, db=db, clock=CLOCK)) as view:
        assert names(view.devices()) == {"d1": "meter"}
    assert sum("left out" in record.message for record in caplog.records) == 3
    async with running(RegistryView(bus=bus, db=db, clock=CLOCK)) as view:
        assert names(view.devices()) == {"d1": "meter"}


async def test_replaced_log_is_read_from_its_beginning(bus: PgLogBus, db: Database) -> None:
    async with db.write() as conn:
        await conn.execute("insert into registry_positions (partition, next) values (0, 1000)")
    await publish(bus, device(1))
    async with running(RegistryView(bus=bus, db=db, clock=CLOCK)) as view:
        assert names(view.devices()) == {"d1": "meter"}
    async with db.read() as conn:
        assert await conn.fetchval("select next from registry_positions") == 1


async def test_start_waits_for_the_database(bus: PgLogBus, db: Database, url: str) -> None:
    await publish(bus, device(1))
    closed = Database(DatabaseSettings.model_validate({"url": url}), schema="service")
    view = RegistryView(bus=bus, db=closed, clock=CLOCK)
    beats = 0
    waiting = asyncio.Event()

    def beat() -> None:
        nonlocal beats
        beats += 1
        if beats > 1:
            waiting.set()

    task = asyncio.create_task(view.run(beat))
    try:
        async with asyncio.timeout(20):
            await waiting.wait()
            assert not view.is_ready
            with pytest.raises(Unavailable):
                await view.check()
            await closed.open()
            await view.ready()
        assert names(view.devices()) == {"d1": "meter"}
    finally:
        task.cancel()
        await asyncio.wait([task])
        await closed.close()
