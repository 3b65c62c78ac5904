"""A small city on a real database, for tests of levels: its tree, its books, and how to ask them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import SecretStr

from libs.common.bus import envelope, topics
from libs.common.bus.pglog import PgLogBus
from libs.common.bus.port import Message
from libs.common.clock import SystemClock
from libs.common.contracts.registry import (
    Circuit,
    CircuitRole,
    Entity,
    Organisation,
    OrganisationKind,
    Region,
    Room,
    Site,
    SiteKind,
    record_of,
)
from libs.common.db import Database
from libs.common.ids import CircuitId, OrganisationId, RegionId, RoomId, SiteId
from libs.common.registry import RegistryView
from libs.common.settings import BusSettings, DatabaseSettings
from services.carbon.boundary import Boundaries, Limits
from services.carbon.domain.booking import BookedInterval
from services.carbon.domain.intervals import Grade
from services.carbon.store import intervals as store
from services.carbon.tree import Tree

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
START = datetime(2026, 3, 1, 16, tzinfo=UTC)
"""Midnight of 2 March in the civil zone."""
QUARTER = timedelta(minutes=15)
COMMON: dict[str, Any] = {"valid_from": LONG_AGO, "version": 1, "changed_by": "user:test"}


def circuit(name: str, level: int, role: CircuitRole, parent: str | None = None, **more: Any) -> Circuit:
    if "room" not in more:
        more.setdefault("site", SiteId("site-1"))
    above = None if parent is None else CircuitId(parent)
    return Circuit(id=CircuitId(name), name=name, level=level, role=role, parent=above, **{**COMMON, **more})


def city() -> list[Entity]:
    """Two sites of one city; the second is fed by the first."""
    place = {"region": RegionId("gz"), "organisation": OrganisationId("branch")}
    return [
        Region(id=RegionId("gd"), name="Guangdong", code="440000", **COMMON),
        Region(id=RegionId("gz"), name="Guangzhou", code="440100", parent=RegionId("gd"), **COMMON),
        Organisation(id="operator", name="Operator", kind=OrganisationKind.OPERATOR, **COMMON),
        Organisation(
            id="branch", name="Branch", kind=OrganisationKind.OPERATOR, parent=OrganisationId("operator"), **COMMON
        ),
        Site(id=SiteId("site-1"), name="One", code="1", kind=SiteKind.IDC, area_m2=100.0, persons=4, **place, **COMMON),
        Site(id=SiteId("site-2"), name="Two", code="2", kind=SiteKind.BASE_STATION, **place, **COMMON),
        Room(id=RoomId("room-1"), name="Room", code="r1", site=SiteId("site-1"), **COMMON),
        circuit("feed", 1, CircuitRole.SITE_FEED, rated_power_kw=100.0, transformer="T1", line="L1"),
        circuit("roof", 1, CircuitRole.PV),
        circuit("room-feed", 2, CircuitRole.ROOM_FEED, "feed", room=RoomId("room-1")),
        circuit("it", 3, CircuitRole.IT_OUTPUT, "room-feed", room=RoomId("room-1")),
        circuit("cool", 3, CircuitRole.COOLING, "room-feed", room=RoomId("room-1"), tags=("use:cooling",)),
        circuit("lift", 2, CircuitRole.LOAD, "feed", tags=("use:power",)),
        circuit("tenant", 1, CircuitRole.SITE_FEED, "feed", site=SiteId("site-2")),
    ]


class City:
    """Its books, and how to ask them."""

    def __init__(self, db: Database, view: RegistryView, bus: PgLogBus) -> None:
        self.db, self.view, self.bus = db, view, bus
        self.clock = SystemClock()
        self.boundaries = Boundaries(
            db=db, tree=Tree(view), clock=self.clock, limits=Limits(days=800, intervals=1_000_000, periods=10_000)
        )

    async def book(
        self,
        name: str,
        energies: Sequence[float | None],
        *,
        first: int = 0,
        site: str = "site-1",
        version: int = 1,
        grade: Grade = Grade.MEASURED,
    ) -> None:
        """Book quarter hours of a circuit from START on; None is one that is known to be missing. [kWh]"""
        async with self.db.write() as conn:
            await store.book(
                conn,
                [
                    BookedInterval(
                        circuit_id=CircuitId(name),
                        site_id=SiteId(site),
                        start=START + (first + index) * QUARTER,
                        step_s=900,
                        version=version,
                        energy_kwh=energy,
                        grade=Grade.MISSING if energy is None else grade,
                        lower_bound=False,
                        uncertain=False,
                        computed_at=START,
                    )
                    for index, energy in enumerate(energies)
                ],
            )

    async def change(self, *entities: Entity) -> None:
        """Publish records and wait until the registry has them."""
        seen = asyncio.Event()
        waiting = {entity.id for entity in entities}

        def note(_: object, entity_id: str) -> None:
            waiting.discard(entity_id)
            if not waiting:
                seen.set()

        self.view.on_change(note)
        await publish(self.bus, [[entity] for entity in entities])
        async with asyncio.timeout(30):
            await seen.wait()


async def publish(bus: PgLogBus, histories: Sequence[Sequence[Entity]]) -> None:
    """Publish the records of entities, each with its versions."""
    messages: list[Message] = [
        envelope.message(topics.REGISTRY, versions[0].id, record_of(list(versions)), source="test", time=LONG_AGO)
        for versions in histories
    ]
    await bus.publish(messages, timeout_s=30.0)


@asynccontextmanager
async def open_city(postgres_url: str, histories: Sequence[Sequence[Entity]]) -> AsyncIterator[City]:
    """Yield a city whose registry has been read."""
    clock = SystemClock()
    settings = DatabaseSettings(url=SecretStr(postgres_url))
    db = Database(settings, schema="carbon", role="wattring_carbon")
    bus = PgLogBus(settings, BusSettings(), clock)
    await db.open()
    await bus.start()
    await bus.ensure_topics(topics.specs(BusSettings()))
    await publish(bus, histories)
    view = RegistryView(bus=bus, db=db, clock=clock)
    running = asyncio.create_task(view.run(lambda: None))
    try:
        async with asyncio.timeout(30):
            await view.ready()
        yield City(db, view, bus)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await bus.stop()
        await db.close()
