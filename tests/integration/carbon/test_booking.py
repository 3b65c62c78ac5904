"""Carbon on a real database and bus: what is booked, once, whatever the order and however often."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta

import pytest
from pydantic import SecretStr

from libs.common.bus import envelope, topics
from libs.common.bus.outbox import OutboxRelay
from libs.common.bus.pglog import PgLogBus
from libs.common.bus.port import Message, Received
from libs.common.clock import CIVIL_ZONE, SystemClock
from libs.common.contracts.carbon import Interval, Medium
from libs.common.contracts.registry import (
    Binding,
    Circuit,
    CircuitRole,
    Device,
    Entity,
    Region,
    Site,
    SiteKind,
    record_of,
)
from libs.common.contracts.telemetry import Quality, Reading
from libs.common.db import Database
from libs.common.ids import CircuitId, DeviceId, RegionId, SiteId
from libs.common.profiles import ProfileCatalogue, parse_profile
from libs.common.registry import RegistryView
from libs.common.settings import BusSettings, DatabaseSettings
from libs.common.testing.bus import until
from services.carbon.boundary import Boundaries, Limits
from services.carbon.bus import reports
from services.carbon.directory import RegistryDirectory
from services.carbon.domain.booking import ENERGY_POINT, INTERVAL_POINT, CircuitSpan, Span, Window
from services.carbon.domain.intervals import Grade
from services.carbon.domain.levels.periods import Step
from services.carbon.library import load_shipped
from services.carbon.queries import Queries
from services.carbon.store import intervals as store
from services.carbon.store import levels as levels_store
from services.carbon.store.media import MediumBooks
from services.carbon.tree import Node, NodeKind, Tree
from services.carbon.usecases.intervals import Booking
from services.carbon.worker import BookingHandler, Recomputation, build_bookings, build_pushed
from tests.unit.carbon.memory_books import FixedDirectory, MemoryBooks

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
START = datetime(2026, 3, 1, 16, tzinfo=UTC)
SITE, METER, FEED = SiteId("site-1"), DeviceId("meter-1"), CircuitId("feed-1")
COMMON = {"valid_from": LONG_AGO, "version": 1, "changed_by": "user:test"}


def registry() -> list[Entity]:
    return [
        Region(id="gd", name="Guangdong", code="440000", **COMMON),
        Site(id=SITE, name="Site", code="03921", kind=SiteKind.ACCESS_ROOM, region=RegionId("gd"), **COMMON),
        Circuit(id=FEED, name="Feed", level=1, role=CircuitRole.SITE_FEED, site=SITE, **COMMON),
    ]


def binding() -> Binding:
    return Binding(id="b-1", name="Binding", device=METER, circuit=FEED, **COMMON)


def reading(
    minutes: float, shown: float, *, ratio: float = 40.0, quality: Quality | None = None, since: datetime = START
) -> Received:
    at = since + timedelta(minutes=minutes)
    payload = Reading(
        device_id=METER,
        site_id=SITE,
        source_time=at,
        received_at=at,
        driver="modbus",
        points={ENERGY_POINT: shown, "voltage_a": 230.0},
        quality=None if quality is None else {ENERGY_POINT: quality},
        energy_ratio=ratio,
    )
    return Received(
        topic=topics.READINGS,
        partition=0,
        offset=round(minutes * 60),
        key=SITE,
        value=payload.to_json(),
        headers=(),
        appended_at=at,
    )


OWN_INTERVALS = """
schema: device-profile/1
vendor: Test
vendor_zh: Test
model: A meter that pushes what was used within a quarter hour
category: meter_3p
version: "1"
protocol: mqtt
transports: [mqtt]
address: serial number
confidence: high
side: secondary
reports:
  - {topic: "m/{device}", time: {path: t, format: unix_ms}}
points:
  - {name: energy_active_import_interval, path: e, scale: 1, unit: kWh, period_s: 900, stamped: STAMPED}
source: [test]
"""
REGISTER = "points:\n  - {name: energy_active_import, path: r, scale: 1, unit: kWh}"


def profiles() -> ProfileCatalogue:
    """The shipped ones, and two meters that form intervals themselves."""
    beside = OWN_INTERVALS.replace("STAMPED", "end").replace("points:", REGISTER)
    return ProfileCatalogue(
        [
            *ProfileCatalogue.load(),
            parse_profile(OWN_INTERVALS.replace("STAMPED", "start"), name="own", source="own.yaml"),
            parse_profile(beside, name="beside", source="beside.yaml"),
        ]
    )


class Carbon:
    """Carbon without its loops: what they call, called by the test."""

    def __init__(self, db: Database, view: RegistryView, bus: PgLogBus) -> None:
        clock = SystemClock()
        self.db, self.bus, self.view = db, bus, view
        self.directory = RegistryDirectory(view, profiles(), clock, point=ENERGY_POINT)
        self.relay = OutboxRelay(bus=bus, db=db, clock=clock, owner="test")
        bookings = build_bookings(self.directory, clock, point=ENERGY_POINT)
        self.handler = BookingHandler(bookings, build_pushed(self.directory, clock), self.relay)
        self.recomputation = Recomputation(
            db=db, directory=self.directory, bookings=bookings, relay=self.relay, clock=clock, poll_s=0.05
        )
        self.queries = Queries(
            db=db,
            directory=self.directory,
            boundaries=Boundaries(db=db, tree=Tree(view), clock=clock, limits=Limits(400, 1_000_000, 10_000)),
            clock=clock,
            factors=load_shipped(),
            point=ENERGY_POINT,
        )

    async def take(self, *batch: Received) -> None:
        async with self.db.effects() as conn:
            await self.handler.handle(conn, batch)

    async def booked(self) -> list[tuple[int, int, float | None, Grade]]:
        """(quarter, version, kWh, grade) of what holds."""
        async with self.db.read() as conn:
            found = await store.fetch_current(conn, [FEED], START - timedelta(days=9), START + timedelta(days=9))
        return [
            (
                round((one.start - START).total_seconds() / 900),
                one.version,
                None if one.energy_kwh is None else round(one.energy_kwh, 6),
                one.grade,
            )
            for one in found
        ]

    async def published(self) -> int:
        async with self.db.read() as conn:
            return int(await conn.fetchval("select count(*) from outbox where topic = $1", topics.INTERVALS))


async def publish(bus: PgLogBus, entities: list[Entity]) -> None:
    messages: list[Message] = [
        envelope.message(topics.REGISTRY, one.id, record_of([one]), source="test", time=LONG_AGO) for one in entities
    ]
    await bus.publish(messages, timeout_s=5.0)


@asynccontextmanager
async def running(coroutine_of: object) -> AsyncIterator[None]:
    task = asyncio.create_task(coroutine_of.run(lambda: None))  # type: ignore[attr-defined]
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def carbon(postgres_url: str) -> AsyncIterator[Carbon]:
    clock = SystemClock()
    settings = DatabaseSettings(url=SecretStr(postgres_url))
    db = Database(settings, schema="carbon", role="wattring_carbon")
    bus = PgLogBus(settings, BusSettings(), clock)
    await db.open()
    await bus.start()
    await bus.ensure_topics(topics.specs(BusSettings()))
    await publish(bus, [*registry(), binding()])
    view = RegistryView(bus=bus, db=db, clock=clock)
    try:
        async with running(view):
            async with asyncio.timeout(20):
                await view.ready()
            yield Carbon(db, view, bus)
    finally:
        await bus.stop()
        await db.close()


async def test_intervals_are_booked_when_they_close_with_the_ratio_of_the_meter(carbon: Carbon) -> None:
    await carbon.take(reading(0, 100.0), reading(7, 100.5))
    assert await carbon.booked() == []
    await carbon.take(reading(15, 101.0), reading(30, 103.0))
    assert await carbon.booked() == [(0, 1, 40.0, Grade.MEASURED), (1, 1, 80.0, Grade.MEASURED)]
    assert await carbon.published() == 2


async def test_the_same_readings_again_change_nothing(carbon: Carbon) -> None:
    batch = [reading(minutes, 100.0 + minutes / 15) for minutes in range(0, 60, 5)]
    await carbon.take(*batch)
    before, published = await carbon.booked(), await carbon.published()
    carbon.handler.drop(frozenset({0}))
    await carbon.take(*batch)
    await carbon.take(*reversed(batch))
    assert await carbon.booked() == before
    assert await carbon.published() == published


async def test_order_of_arrival_does_not_matter(carbon: Carbon) -> None:
    batch = [reading(minutes, 100.0 + minutes**1.5) for minutes in range(0, 120, 4)]
    for one in [*batch[::2], *reversed(batch[1::2])]:
        await carbon.take(one)
    shuffled = [(quarter, energy, grade) for quarter, _, energy, grade in await carbon.booked()]
    async with carbon.db.write() as conn:
        await conn.execute("delete from intervals")
        await conn.execute("delete from register_readings")
    carbon.handler.drop(frozenset({0}))
    await carbon.take(*batch)
    in_order = [(quarter, energy, grade) for quarter, _, energy, grade in await carbon.booked()]
    assert len(in_order) == 7
    assert shuffled == in_order


async def test_late_data_make_a_new_version_and_keep_the_old_one(carbon: Carbon) -> None:
    await carbon.take(reading(0, 100.0), reading(30, 102.0))
    assert await carbon.booked() == [(0, 1, 40.0, Grade.INTERPOLATED), (1, 1, 40.0, Grade.INTERPOLATED)]
    await carbon.take(reading(15, 101.5))
    assert await carbon.booked() == [(0, 2, 60.0, Grade.MEASURED), (1, 2, 20.0, Grade.MEASURED)]
    trace = await carbon.queries.trace(FEED, START)
    assert [(one.version, one.energy_kwh) for one in trace.versions] == [(1, 40.0), (2, 60.0)]
    assert [row.shown for row in trace.registers] == [100.0, 101.5, 102.0]
    assert [one.device_id for one in trace.bindings] == [METER]
    assert trace.again() == 60.0


async def test_a_bad_register_is_not_used_and_an_uncertain_one_is_marked(carbon: Carbon) -> None:
    await carbon.take(
        reading(0, 100.0), reading(15, 0.0, quality=Quality.INVALID), reading(15, 101.0, quality=Quality.ESTIMATED)
    )
    async with carbon.db.read() as conn:
        (only,) = await store.fetch_current(conn, [FEED], START, START + timedelta(hours=1))
    assert (only.energy_kwh, only.uncertain) == (40.0, True)


async def test_what_else_a_meter_says_is_kept_once_a_quarter_hour_the_earliest(carbon: Carbon) -> None:
    def said(minutes: float, current: float, offset: int, quality: Quality | None = None) -> Received:
        at = START + timedelta(minutes=minutes)
        payload = Reading(
            device_id=METER,
            site_id=SITE,
            source_time=at,
            received_at=at,
            driver="modbus",
            points={"current_a": current, "energy_active_export": 5.0},
            quality=None if quality is None else {"current_a": quality},
            energy_ratio=40.0,
        )
        return replace(reading(minutes, 1.0), value=payload.to_json(), offset=offset)

    await carbon.take(said(3, 3.0, 1), said(9, 9.0, 2), said(1, 0.0, 3, Quality.INVALID), said(16, 16.0, 4))
    await carbon.take(said(2, 2.0, 5), said(4, 4.0, 6))
    carbon.handler.drop(frozenset({0}))
    await carbon.take(said(9, 9.0, 2), said(3, 3.0, 1))
    async with carbon.db.read() as conn:
        rows = await levels_store.fetch_samples(
            conn, [METER], ["current_a", "energy_active_export"], START, START + timedelta(hours=1)
        )
    assert [(one.point, (one.source_time - START).total_seconds() / 60, one.value, one.ratio) for one in rows] == [
        ("current_a", 2, 2.0, 1.0),
        ("current_a", 16, 16.0, 1.0),
        ("energy_active_export", 1, 5.0, 40.0),
        ("energy_active_export", 16, 5.0, 40.0),
    ]
    assert await carbon.booked() == []


async def test_readings_that_came_before_the_binding_are_booked_when_it_comes(carbon: Carbon) -> None:
    new = CircuitId("late-1")
    await carbon.take(reading(0, 100.0), reading(15, 101.0))
    async with running(carbon.recomputation):
        await publish(
            carbon.bus,
            [
                Circuit(id=new, name="Late", level=1, role=CircuitRole.LOAD, site=SITE, **COMMON),
                Binding(id="b-2", name="Late", device=METER, circuit=new, **COMMON),
            ],
        )
        async with asyncio.timeout(20):
            while True:
                async with carbon.db.read() as conn:
                    found = await store.fetch_current(conn, [new], START, START + timedelta(hours=1))
                if found:
                    break
                await asyncio.sleep(0.05)
    assert [one.energy_kwh for one in found] == [40.0]


DECREASING = [500.0, 501.0, 20.0, 21.0, 22.0, 23.0]


async def findings(carbon: Carbon) -> tuple[list[str], int]:
    """Return the kinds of what was found, and how many conditions were told."""
    async with carbon.db.read() as conn:
        kinds = [row["kind"] for row in await conn.fetch("select kind from findings order by at")]
        return kinds, await conn.fetchval("select count(*) from outbox where topic = $1", topics.CONDITIONS)


async def test_an_unexplained_decrease_of_today_is_a_condition(carbon: Carbon) -> None:
    since = SystemClock().now() - timedelta(hours=3)
    await carbon.take(*(reading(15 * i, shown, since=since) for i, shown in enumerate(DECREASING)))
    kinds, conditions = await findings(carbon)
    assert "unexplained_decrease" in kinds
    assert conditions >= 1


async def test_an_unexplained_decrease_in_history_is_no_energy_and_alarms_nobody(carbon: Carbon) -> None:
    await carbon.take(*(reading(15 * i, shown) for i, shown in enumerate(DECREASING)))
    booked = await carbon.booked()
    assert (0, 1, 40.0, Grade.MEASURED) in booked
    assert all(energy is None or energy == 40.0 for _, _, energy, _ in booked)
    kinds, conditions = await findings(carbon)
    assert "unexplained_decrease" in kinds
    assert conditions == 0


async def test_hours_energy_and_emissions_of_a_site(carbon: Carbon) -> None:
    await carbon.take(*(reading(15 * i, 100.0 + i) for i in range(6)))
    found = await carbon.queries.emissions(
        node=Node(NodeKind.SITE, SITE), start=START, end=START + timedelta(hours=2), step=Step.HOUR
    )
    assert found.frame["energy_kwh"].to_list() == [160.0, 40.0]
    # MEE/NBS announcement 2025 No. 47: Guangdong, data year 2023, 0.4419 kgCO2/kWh.
    assert found.frame["emission_kg_co2"].to_list() == pytest.approx([160.0 * 0.4419, 40.0 * 0.4419])
    assert [choice.factor.factor_id for choice in found.choices] == ["GRID-44-2023"]
    assert found.choices[0].provisional


async def test_a_register_that_comes_late_into_a_long_gap_changes_both_sides_of_it(carbon: Carbon) -> None:
    await carbon.take(reading(0, 100.0), reading(360, 124.0))
    await carbon.take(reading(180, 103.0))
    booked = await carbon.booked()
    assert len(booked) == 24
    assert {grade for *_, grade in booked} == {Grade.ALLOCATED}
    assert sum(energy or 0.0 for _, _, energy, _ in booked) == pytest.approx(24.0 * 40.0)
    assert booked[0][1:3] == (2, 10.0)


async def test_a_late_register_is_read_around_and_not_to_the_end(carbon: Carbon) -> None:
    await carbon.take(*(reading(15 * i, 100.0 + i) for i in range(30) if i != 10))
    async with carbon.db.write() as conn:
        binding_ = carbon.directory.bindings_of(FEED)[0]
        at = START + timedelta(minutes=150)
        ((first, last),) = await store.fetch_reach(conn, [Window(binding_, at, binding_, at)])
        (rows,) = await store.fetch_registers_of(conn, [Span(METER, first, last)])
    assert [round((one - START).total_seconds() / 900) for one in (first, last) if one is not None] == [7, 12]
    assert rows.shown.tolist() == [107.0, 108.0, 109.0, 111.0, 112.0]
    await carbon.take(reading(150, 110.5))
    booked = {quarter: (version, energy) for quarter, version, energy, _ in await carbon.booked()}
    assert {quarter for quarter, (version, _) in booked.items() if version > 1} == {9, 10}
    assert (booked[9][1], booked[10][1]) == (60.0, 20.0)


async def test_of_two_registers_of_one_time_the_last_received_counts(carbon: Carbon) -> None:
    def told(shown: float, received: float) -> Received:
        at = START + timedelta(minutes=15)
        payload = Reading(
            device_id=METER, site_id=SITE, source_time=at, received_at=at + timedelta(seconds=received),
            driver="modbus", points={ENERGY_POINT: shown}, energy_ratio=40.0,
        )  # fmt: skip
        return replace(reading(15, shown), value=payload.to_json())

    await carbon.take(reading(0, 100.0), told(102.0, 9.0))
    await carbon.take(told(101.0, 3.0), reading(30, 103.0))
    await carbon.take(told(102.0, 9.0))
    async with carbon.db.read() as conn:
        found = await store.fetch_current(conn, [FEED], START, START + timedelta(hours=1))
    assert [(one.energy_kwh, one.uncertain) for one in found] == [(80.0, True), (40.0, True)]
    await carbon.take(told(101.5, 12.0), told(101.0, 3.0))
    async with carbon.db.read() as conn:
        found = await store.fetch_current(conn, [FEED], START, START + timedelta(hours=1))
    assert [one.energy_kwh for one in found] == pytest.approx([60.0, 60.0])


async def test_water_is_booked_as_water_and_published_with_its_unit(carbon: Carbon) -> None:
    def water(minutes: float, shown: float) -> Received:
        at = START + timedelta(minutes=minutes)
        payload = Reading(
            device_id=METER, site_id=SITE, source_time=at, received_at=at, driver="cjt188",
            points={"water_volume": shown}, energy_ratio=40.0,
        )  # fmt: skip
        return replace(reading(minutes, shown), value=payload.to_json())

    await carbon.take(reading(0, 100.0), water(0, 7.0), reading(15, 101.0), water(15, 7.25))
    await carbon.take(water(15, 7.25), water(30, 7.75))
    assert [energy for _, _, energy, _ in await carbon.booked()] == [40.0]
    books = MediumBooks("water_volume")
    async with carbon.db.read() as conn:
        (held,) = await books.fetch_current_of(conn, [CircuitSpan(FEED, START, None)])
        values = await conn.fetch("select value from outbox where topic = $1 order by id", topics.INTERVALS)
    assert held.energy_kwh.tolist() == pytest.approx([0.25, 0.5])
    told = [Interval.from_json(row["value"]) for row in values]
    assert [(one.medium, one.quantity, one.unit) for one in told if one.medium is not None] == [
        (Medium.WATER, 0.25, "m3"),
        (Medium.WATER, 0.5, "m3"),
    ]
    await carbon.take(water(10, 7.2))
    async with carbon.db.read() as conn:
        (held,) = await books.fetch_current_of(conn, [CircuitSpan(FEED, START, None)])
    assert held.energy_kwh.tolist() == pytest.approx([0.25, 0.5])


async def test_a_breaker_without_a_register_is_booked_by_its_power(carbon: Carbon) -> None:
    branch, breaker = CircuitId("branch-1"), DeviceId("breaker-1")
    await publish(
        carbon.bus,
        [
            Circuit(id=branch, name="Branch", level=3, role=CircuitRole.LOAD, site=SITE, **COMMON),
            Device(id=breaker, name="Breaker", kind="breaker", profile="lx47le_125", site=SITE, **COMMON),
            Binding(id="b-3", name="Branch", device=breaker, circuit=branch, **COMMON),
        ],
    )
    await until(lambda: bool(carbon.directory.bindings_of(branch)))

    def told(minutes: float, power: float) -> Received:
        at = START + timedelta(minutes=minutes)
        payload = Reading(
            device_id=breaker, site_id=SITE, source_time=at, received_at=at, driver="modbus",
            points={"active_power_total": power},
        )  # fmt: skip
        return replace(reading(minutes, 1.0), value=payload.to_json())

    await carbon.take(told(0, 4.0), told(15, 8.0), told(30, 8.0), reading(0, 100.0), reading(15, 101.0))
    await carbon.take(told(7.5, 0.0))
    async with carbon.db.read() as conn:
        found = await store.fetch_current(conn, [branch], START, START + timedelta(hours=1))
    assert [(one.version, one.energy_kwh, one.grade) for one in found] == [
        (2, 0.75, Grade.INTERPOLATED),
        (1, 2.0, Grade.INTERPOLATED),
    ]
    assert [energy for _, _, energy, _ in await carbon.booked()] == [40.0]


async def metered_by(carbon: Carbon, device: str, profile: str, circuit: str) -> None:
    """Bind a meter of a profile to a new circuit, and wait until carbon knows of it."""
    await publish(
        carbon.bus,
        [
            Circuit(id=CircuitId(circuit), name=circuit, level=3, role=CircuitRole.LOAD, site=SITE, **COMMON),
            Device(id=DeviceId(device), name=device, kind="meter", profile=profile, site=SITE, **COMMON),
            Binding(id=f"b-{circuit}", name=circuit, device=DeviceId(device), circuit=CircuitId(circuit), **COMMON),
        ],
    )
    await until(lambda: bool(carbon.directory.bindings_of(CircuitId(circuit))))


def pushed(device: str, at: datetime, points: dict[str, float | None], ratio: float | None = None) -> Received:
    payload = Reading(
        device_id=DeviceId(device), site_id=SITE, source_time=at, received_at=at + timedelta(minutes=16),
        driver="mqtt", points=points, energy_ratio=ratio,
    )  # fmt: skip
    return replace(reading(0, 1.0), value=payload.to_json())


async def test_intervals_that_a_meter_forms_itself_are_booked_where_it_has_no_register(carbon: Carbon) -> None:
    await metered_by(carbon, "own-1", "own", "branch-own")
    quarter = timedelta(minutes=15)
    told = [pushed("own-1", START + i * quarter, {INTERVAL_POINT: 0.1 * (i + 1)}, ratio=40.0) for i in range(4)]
    await carbon.take(told[0], told[3])
    await carbon.take(told[1])
    async with carbon.db.read() as conn:
        found = await store.fetch_current(conn, [CircuitId("branch-own")], START, START + timedelta(hours=2))
    assert [one.start for one in found] == [START, START + quarter, START + 3 * quarter]
    assert [one.energy_kwh for one in found] == pytest.approx([4.0, 8.0, 16.0])
    assert {one.grade for one in found} == {Grade.MEASURED}
    trace = await carbon.queries.trace("branch-own", START + quarter)
    assert trace.again() == pytest.approx(8.0)
    assert [(one.point, one.period_s) for one in trace.bindings] == [(INTERVAL_POINT, 900.0)]


async def test_intervals_beside_a_register_are_held_against_it_when_their_day_is_over(carbon: Carbon) -> None:
    await metered_by(carbon, "beside-1", "beside", "branch-beside")
    today = SystemClock().now().astimezone(CIVIL_ZONE).date()
    day = datetime.combine(today - timedelta(days=2), time(), CIVIL_ZONE)
    said = [
        pushed(
            "beside-1",
            day + i * timedelta(minutes=15),
            {ENERGY_POINT: 100.0 + 0.25 * i, INTERVAL_POINT: 0.26 if i else 0.0},
        )
        for i in range(102)
    ]
    await carbon.take(*said[:97])
    assert await findings(carbon) == ([], 0)
    for _ in range(2):
        await carbon.take(*said[97:])
        carbon.handler.drop(frozenset({0}))
    async with carbon.db.read() as conn:
        (held,) = await conn.fetch("select at, previous_shown, shown from findings")
        booked = await store.fetch_current(conn, [CircuitId("branch-beside")], day, day + timedelta(days=1))
    assert (held["at"], held["previous_shown"], held["shown"]) == (day, pytest.approx(24.0), pytest.approx(24.96))
    assert await findings(carbon) == (["sum_differs"], 1)
    assert [one.energy_kwh for one in booked] == [pytest.approx(0.25)] * 96  # the register has the last word


async def test_a_reset_is_on_record_when_a_binding_begins_anew_with_zero(carbon: Carbon) -> None:
    again = START + timedelta(minutes=20)
    ended = binding().model_copy(update={"valid_to": again, "version": 2})
    begun = Binding(
        id="b-4", name="Again", device=METER, circuit=FEED, valid_from=again, initial_register=0.0, version=1,
        changed_by="user:test",
    )  # fmt: skip
    await publish(carbon.bus, [ended, begun])
    await until(lambda: bool(carbon.directory.bindings_of(FEED)[-1].resets))
    (served,) = carbon.directory.bindings_of(FEED)
    assert (served.valid_to, served.resets) == (None, (again,))
    await carbon.take(reading(0, 100.0), reading(15, 101.0), reading(30, 0.5), reading(45, 1.5))
    assert [energy for _, _, energy, _ in await carbon.booked()] == [40.0, 20.0, 40.0]
    async with carbon.db.read() as conn:
        found = await store.fetch_current(conn, [FEED], START, START + timedelta(hours=1))
    assert [one.lower_bound for one in found] == [False, True, False]


async def test_a_batch_that_fails_leaves_nothing_and_is_booked_when_it_comes_again(carbon: Carbon) -> None:
    batch = [reading(5 * i, 100.0 + i) for i in range(12)]

    async def fails() -> None:
        async with carbon.db.effects() as conn:
            await carbon.handler.handle(conn, batch)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fails()
    carbon.handler.drop(frozenset({0}))
    assert await carbon.booked() == []
    assert await carbon.published() == 0
    await carbon.take(*batch)
    assert [energy for _, _, energy, _ in await carbon.booked()] == pytest.approx([120.0] * 3)
    assert await carbon.published() == 3


async def test_the_tables_do_what_the_books_in_memory_do(carbon: Carbon) -> None:
    """The tests of every order run on books in memory; here both are told the same, with its faults, out of order."""
    rng = random.Random(7)
    shown, course = 990.0, []
    for minute in range(0, 600, 5):
        shown += rng.choice([0.0, 0.1, 0.4])
        told = shown + rng.choice([0.0] * 12 + [-0.01, 3_000.0])
        if rng.random() < 0.03:
            shown = told = 0.5
        by = Quality.MANUAL if rng.random() < 0.05 else None
        course.append((minute, round(told, 2), by))
    shuffled = [course[i] for i in sorted(range(len(course)), key=lambda i: i + rng.choice([0, 0, 0, 30]))]
    memory = MemoryBooks()
    directory = FixedDirectory({FEED: list(carbon.directory.bindings_of(FEED))})
    there = Booking(directory=directory, books=memory, publisher=memory, clock=SystemClock(), point=ENERGY_POINT)
    for begin in range(0, len(shuffled), 7):
        batch = [reading(minute, told, quality=by) for minute, told, by in shuffled[begin : begin + 7]]
        await carbon.take(*batch)
        async with carbon.db.write() as conn:
            await there.take(conn, reports(batch)[0])
    assert await carbon.booked() == [
        (
            round((start - START).total_seconds() / 900),
            one.version,
            None if one.energy_kwh is None else round(one.energy_kwh, 6),
            one.grade,
        )
        for (_, start), one in sorted(memory.state.current.items())
    ]
    kinds, _ = await findings(carbon)
    assert sorted(kinds) == sorted(kind.value for _, _, kind in memory.state.findings)
