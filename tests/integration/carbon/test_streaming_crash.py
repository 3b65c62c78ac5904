"""Booking killed between any two statements, and carbon killed with SIGKILL: the books are as if it had lived."""

import random
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from libs.common.bus import envelope, topics
from libs.common.bus.pglog import PgLogBus
from libs.common.bus.port import StartAt
from libs.common.clock import SystemClock
from libs.common.contracts.carbon import Interval
from libs.common.contracts.registry import Binding as BindingEntity
from libs.common.contracts.registry import Circuit, CircuitRole, Entity, Site, SiteKind, record_of
from libs.common.contracts.telemetry import Reading
from libs.common.db import Database
from libs.common.ids import CircuitId, DeviceId, SiteId
from libs.common.settings import BusSettings, DatabaseSettings
from libs.common.testing.bus import until
from services.carbon.domain.booking import ENERGY_POINT, Binding, BookedInterval, RegisterReading
from services.carbon.store import intervals as store
from services.carbon.usecases.intervals import Booking
from services.carbon.worker import OutboxPublisher
from tests.integration.carbon.carbon_process import process
from tests.integration.carbon.mortal import Mortal, everything, kill_at_every_statement
from tests.unit.carbon.memory_books import FixedDirectory, MemoryBooks

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

KEPT = ("register_readings", "intervals", "findings", "outbox", "attest_pending")
START = datetime(2026, 3, 1, 16, tzinfo=UTC)
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
SITE = SiteId("site-1")
METERS = 12
MINUTES = 300
PATIENCE_S = 120.0
COMMON = {"valid_from": LONG_AGO, "version": 1, "changed_by": "user:test"}


@pytest.fixture
async def db(postgres_url: str) -> AsyncIterator[Database]:
    found = Database(DatabaseSettings(url=SecretStr(postgres_url)), schema="carbon", role="wattring_carbon")
    await found.open()
    try:
        yield found
    finally:
        await found.close()


def register(meter: int, minutes: float, shown: float) -> RegisterReading:
    at = START + timedelta(minutes=minutes)
    return RegisterReading(DeviceId(f"m{meter}"), ENERGY_POINT, at, at, shown, 1.0, uncertain=False)


def course(meter: int) -> list[RegisterReading]:
    """What a meter says of five hours, with a reset, a spike and a silence."""
    rng = random.Random(meter)
    shown, found = 100.0 * meter, []
    for minute in range(0, MINUTES, 5):
        shown = 0.25 if minute == 100 and meter % 3 == 0 else round(shown + rng.choice([0.0, 0.25, 0.5]), 2)
        if not (150 <= minute < 230 and meter % 2):
            found.append(register(meter, minute, shown + (3_000.0 if minute == 60 and meter % 4 == 0 else 0.0)))
    return found


def directory() -> FixedDirectory:
    bindings = {
        CircuitId(f"c{meter}"): [Binding(DeviceId(f"m{meter}"), LONG_AGO, None, None, None)] for meter in range(METERS)
    }
    return FixedDirectory(bindings, 40.0)


async def as_if_told_once(readings: Sequence[RegisterReading]) -> dict[tuple[str, datetime], tuple[Any, ...]]:
    """Return the intervals that books in memory have, which were told everything in order."""
    memory = MemoryBooks()
    booking = Booking(directory=directory(), books=memory, publisher=memory, clock=SystemClock(), point=ENERGY_POINT)
    no_conn: Any = None
    await booking.take(no_conn, sorted(readings, key=lambda one: one.source_time))
    return {key: facts(one) for key, one in memory.state.current.items()}


def facts(one: BookedInterval) -> tuple[Any, ...]:
    return None if one.energy_kwh is None else round(one.energy_kwh, 6), one.grade, one.lower_bound


async def held(db: Database) -> dict[tuple[str, datetime], tuple[Any, ...]]:
    circuits = [CircuitId(f"c{meter}") for meter in range(METERS)]
    async with db.read() as conn:
        found = await store.fetch_current(conn, circuits, START, START + timedelta(days=1))
    return {(one.circuit_id, one.start): facts(one) for one in found}


async def test_killed_at_any_statement_the_books_are_as_if_it_had_lived(db: Database) -> None:
    readings = [one for meter in range(4) for one in course(meter)]
    rng = random.Random(1)
    rng.shuffle(readings)
    third = len(readings) // 3
    deaths = []
    for batch in (readings[:third], readings[third : 2 * third], readings[2 * third :]):

        async def take(mortal: Any, batch: Sequence[RegisterReading] = batch) -> None:
            booking = Booking(
                directory=directory(), books=store, publisher=OutboxPublisher(), clock=SystemClock(), point=ENERGY_POINT
            )
            async with mortal.write() as conn:
                await booking.take(conn, batch)

        deaths.append(await kill_at_every_statement(db, await everything(db, KEPT), take))
        taken = await everything(db, KEPT)
        await take(Mortal(db))  # told again, it changes nothing
        assert await everything(db, KEPT) == taken
    assert min(deaths) >= 2 * 7, "registers, reach, registers, intervals, versions, messages, findings …"
    assert await held(db) == await as_if_told_once(readings)


def registry() -> list[Entity]:
    found: list[Entity] = [Site(id=SITE, name="Site", code="1", kind=SiteKind.ACCESS_ROOM, **COMMON)]
    for meter in range(METERS):
        circuit = CircuitId(f"c{meter}")
        found += [
            Circuit(id=circuit, name="C", level=2, role=CircuitRole.LOAD, site=SITE, rated_power_kw=40.0, **COMMON),
            BindingEntity(id=f"b{meter}", name="B", device=DeviceId(f"m{meter}"), circuit=circuit, **COMMON),
        ]
    return found


async def publish(bus: PgLogBus, readings: Sequence[RegisterReading]) -> None:
    """Publish readings, every third one as one that was filled in."""
    messages = [
        envelope.message(
            topics.BACKFILL if number % 3 == 0 else topics.READINGS,
            SITE,
            Reading(
                device_id=one.device_id, site_id=SITE, source_time=one.source_time, received_at=one.received_at,
                driver="modbus", points={ENERGY_POINT: one.shown}, energy_ratio=one.ratio,
            ),
            source="test",
            time=one.received_at,
        )
        for number, one in enumerate(readings)
    ]  # fmt: skip
    await bus.publish(messages, timeout_s=20)


async def test_killed_while_it_books_carbon_goes_on_and_tells_every_version_once(
    postgres_url: str, db: Database, tmp_path: Path
) -> None:
    settings = DatabaseSettings(url=SecretStr(postgres_url))
    bus = PgLogBus(settings, BusSettings(), SystemClock())
    await bus.start()
    try:
        await bus.ensure_topics(topics.specs(BusSettings()))
        records = [
            envelope.message(topics.REGISTRY, one.id, record_of([one]), source="test", time=LONG_AGO)
            for one in registry()
        ]
        await bus.publish(records, timeout_s=20)
        readings = [one for meter in range(METERS) for one in course(meter)]
        rng = random.Random(2)
        told = [*readings, *rng.choices(readings, k=len(readings) // 4)]
        told.sort(key=lambda one: (one.source_time.timestamp() + 60 * rng.choice([0, 0, 0, 45]), rng.random()))
        await publish(bus, told)
        expected = await as_if_told_once(readings)

        async def registers() -> int:
            async with db.read() as conn:
                return int(await conn.fetchval("select count(*) from register_readings"))

        async with process(postgres_url, tmp_path, WATTRING_CARBON__MAX_BATCH="40") as carbon:

            async def has_gone_on() -> bool:
                return await registers() >= len(readings) // 3

            await until(has_gone_on, within_s=PATIENCE_S)
            await carbon.end(signal.SIGKILL)
            await carbon.start()

            async def is_done() -> bool:
                async with db.read() as conn:
                    waiting = await conn.fetchval("select count(*) from outbox where topic = $1", topics.INTERVALS)
                return waiting == 0 and await registers() == len(readings) and await held(db) == expected

            await until(is_done, within_s=PATIENCE_S)
        await every_version_is_told(db, bus)
    finally:
        await bus.stop()


async def every_version_is_told(db: Database, bus: PgLogBus) -> None:
    """Every version of an interval is on the topic under one event id, in its order."""
    async with db.read() as conn:
        rows = await conn.fetch("select circuit_id, start, version, energy_kwh from intervals")
    booked = {(row["circuit_id"], row["start"], row["version"]): row["energy_kwh"] for row in rows}
    told: dict[str, tuple[str, datetime, int]] = {}
    values = {}
    async with bus.tail((topics.INTERVALS,), StartAt(beginning=True)) as reader:

        async def are_all_there() -> bool:
            for received in await reader.fetch(timeout_s=0.2, max_messages=1000):
                one = Interval.from_json(received.value or b"")
                key = told.setdefault(str(received.header("ce_id")), (one.circuit_id, one.start, one.version))
                values[key] = one.energy_kwh
            return len(told) >= len(booked)

        await until(are_all_there, within_s=PATIENCE_S)
    assert values == booked
    assert len(told) == len(booked)
    versions = defaultdict(list)
    for circuit, start, version in told.values():
        versions[circuit, start].append(version)
    assert all(found == list(range(1, len(found) + 1)) for found in versions.values())
