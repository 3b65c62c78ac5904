"""Carbon's books, registry and HTTP for the tests of savings: a real database, the real bus, the real routes."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from libs.common.bus import envelope, topics
from libs.common.bus.consumer import EffectsConsumer
from libs.common.bus.pglog import PgLogBus
from libs.common.clock import CIVIL_ZONE, SystemClock
from libs.common.contracts.control import CommandAction, CommandState, ControlEvent, OccurrenceState
from libs.common.contracts.registry import (
    Binding,
    BreakerRef,
    Circuit,
    CircuitRole,
    Entity,
    Load,
    LoadKind,
    Region,
    Site,
    SiteKind,
    record_of,
)
from libs.common.db import Database
from libs.common.ids import CircuitId, DeviceId, RegionId, SiteId
from libs.common.profiles import ProfileCatalogue
from libs.common.registry import RegistryView
from libs.common.runtime import Health, Platform
from libs.common.settings import BusSettings, CommonSettings, DatabaseSettings
from libs.common.tokens import KeyRing
from libs.common.web import create_app
from services.carbon.api.why import build_why_router
from services.carbon.directory import RegistryDirectory
from services.carbon.domain.booking import BookedInterval, RegisterReading
from services.carbon.domain.intervals import Grade
from services.carbon.main import explainers, saving_routers
from services.carbon.settings import CarbonSettings
from services.carbon.store import intervals as store
from services.carbon.wiring import Answers
from services.carbon.wiring import World as Wired
from services.carbon.worker import SwitchingsHandler

LONG_AGO = datetime(2021, 1, 1, tzinfo=UTC)
COMMON = {"valid_from": LONG_AGO, "version": 1, "changed_by": "user:test"}
STEP = timedelta(minutes=15)
NIGHT = datetime(2022, 5, 11, tzinfo=CIVIL_ZONE)
"""A Wednesday; the branch has run since four weeks before."""


def registry() -> list[Entity]:
    """Two base stations in Guangdong with an AAU branch each, and a load that nobody meters."""
    found: list[Entity] = [Region(id="gd", name="Guangdong", code="440000", **COMMON)]
    for number in (1, 2):
        site, meter = SiteId(f"site-{number}"), DeviceId(f"meter-{number}")
        branch = CircuitId(f"branch-{number}")
        found += [
            Site(id=site, name=site, code=f"0392{number}", kind=SiteKind.BASE_STATION, region=RegionId("gd"), **COMMON),
            Circuit(id=branch, name=branch, level=3, role=CircuitRole.LOAD, site=site, **COMMON),
            Binding(id=f"b-{number}", name="Binding", device=meter, circuit=branch, **COMMON),
            Load(
                id=f"aau-{number}",
                name="AAU",
                kind=LoadKind.AAU,
                site=site,
                sector="s1",
                breaker=BreakerRef(device=DeviceId(f"breaker-{number}")),
                meter=branch,
                **COMMON,
            ),
        ]
    return [*found, Load(id="dark", name="Unmetered", kind=LoadKind.LIGHTING, site=SiteId("site-1"), **COMMON)]


def control_event(state: CommandState | OccurrenceState, at: datetime, **more: object) -> ControlEvent:
    fields: dict[str, object] = {
        "site_id": "site-1",
        "state": state,
        "at": at.astimezone(UTC),
        "reason": "",
        "load_id": "aau-1",
        "occurrence_id": "o1",
        "plan_id": "p1",
        **more,
    }
    return ControlEvent.model_validate(fields)


def night(off: datetime, on: datetime, occurrence: str, **more: object) -> list[ControlEvent]:
    """What control says of one night, as it says it: of the commands and of the occurrence."""
    names: dict[str, object] = {"occurrence_id": occurrence, **more}
    opened: dict[str, object] = {"command_id": f"{occurrence}-off", "action": CommandAction.OPEN}
    closed: dict[str, object] = {"command_id": f"{occurrence}-on", "action": CommandAction.CLOSE}
    went = {"off_at": off.astimezone(UTC)}
    return [
        control_event(OccurrenceState.SHUTTING_DOWN, off - timedelta(seconds=3), **opened, **names),
        control_event(CommandState.DISPATCHED, off - timedelta(seconds=3), **opened, **names),
        control_event(CommandState.SUCCEEDED, off, **opened, **went, **names),
        control_event(OccurrenceState.SHUT_DOWN, off, **opened, **went, **names),
        control_event(OccurrenceState.WAKING, on - timedelta(seconds=3), **closed, **names),
        control_event(CommandState.SUCCEEDED, on, **closed, **names),
        control_event(OccurrenceState.AWAKE, on, **closed, **went, **names),
    ]


@dataclass
class World:
    """Carbon without the parts that savings do not use."""

    db: Database
    bus: PgLogBus
    view: RegistryView
    directory: RegistryDirectory
    clock: SystemClock
    client: httpx.AsyncClient
    keys: KeyRing

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        status: int = 200,
        subject: str = "li",
        kind: Any = "user",
        scopes: tuple[str, ...] = ("carbon:read", "carbon:write"),
        sites: tuple[str, ...] | None = None,
        **params: Any,
    ) -> Any:
        token = self.keys.sign_token(
            "gateway", subject=subject, kind=kind, audience="carbon", scopes=scopes, sites=sites
        )
        params = {"from" if name == "start" else "to" if name == "end" else name: one for name, one in params.items()}
        reply = await self.client.request(
            method, f"/api/v1{path}", json=body, params=params, headers={"authorization": f"Bearer {token}"}
        )
        assert reply.status_code == status, reply.text
        return reply.json() if reply.content else None

    async def book(
        self,
        circuit: str,
        start: datetime,
        energy_kwh: Iterable[float | None],
        *,
        version: int = 1,
        grade: Grade = Grade.MEASURED,
    ) -> None:
        """Book intervals from a time on."""
        site = self.directory.site_of(CircuitId(circuit))
        assert site is not None
        async with self.db.write() as conn:
            await store.book(
                conn,
                [
                    BookedInterval(
                        circuit_id=CircuitId(circuit),
                        site_id=site,
                        start=start.astimezone(UTC) + index * STEP,
                        step_s=900,
                        version=version,
                        energy_kwh=energy,
                        grade=Grade.MISSING if energy is None else grade,
                        lower_bound=False,
                        uncertain=False,
                        computed_at=self.clock.now(),
                    )
                    for index, energy in enumerate(energy_kwh)
                ],
            )

    async def learn(self, entities: Sequence[Entity]) -> None:
        """Publish what the registry says anew, and wait until it was read."""
        changed: set[str] = set()
        self.view.on_change(lambda kind, entity: changed.add(entity))
        messages = [
            envelope.message(topics.REGISTRY, one.id, record_of([one]), source="test", time=LONG_AGO)
            for one in entities
        ]
        await self.bus.publish(messages, timeout_s=20.0)
        async with asyncio.timeout(60):
            while True:
                if changed >= {one.id for one in entities}:
                    return
                await asyncio.sleep(0.02)

    async def read(self, device: str, registers: Sequence[tuple[datetime, float]], *, ratio: float = 1.0) -> None:
        """Store what a meter showed."""
        async with self.db.write() as conn:
            await store.add_registers(
                conn,
                [
                    RegisterReading(
                        device_id=DeviceId(device),
                        point="energy_active_import",
                        source_time=at.astimezone(UTC),
                        received_at=at.astimezone(UTC),
                        shown=shown,
                        ratio=ratio,
                        uncertain=False,
                    )
                    for at, shown in registers
                ],
            )

    async def tell(self, events: Sequence[ControlEvent]) -> None:
        """Publish events of control on their topic."""
        messages = [
            envelope.message(topics.CONTROL_EVENTS, one.site_id, one, source="control", time=one.at) for one in events
        ]
        await self.bus.publish(messages, timeout_s=20.0)

    def consumer(self, name: str = "carbon-test") -> EffectsConsumer:
        return EffectsConsumer(
            bus=self.bus,
            db=self.db,
            clock=self.clock,
            group="carbon.switchings",
            topics=[topics.CONTROL_EVENTS],
            handler=SwitchingsHandler(),
            member_id=name,
            fetch_timeout_s=0.05,
        )

    async def consume(self, handled: int) -> None:
        """Run a new member of the group until it has handled so many events in all."""
        consumer = self.consumer()
        async with running(consumer), asyncio.timeout(60):
            while True:
                if await self.handled() >= handled:
                    return
                await asyncio.sleep(0.02)

    async def handled(self) -> int:
        async with self.db.read() as conn:
            return int(
                await conn.fetchval(
                    "select coalesce(sum(greatest(next, 0)), 0) from consumer_cursors where grp = $1",
                    "carbon.switchings",
                )
            )

    async def switchings(self) -> list[tuple[str, datetime, bool, str | None, str | None]]:
        async with self.db.read() as conn:
            rows = await conn.fetch(
                "select load_id, at, off, occurrence_id, plan_id from load_switchings order by load_id, at"
            )
        return [tuple(row) for row in rows]


@asynccontextmanager
async def running(runner: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(runner.run(lambda: None))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def open_world(postgres_url: str, tmp_path: Path, entities: Sequence[Entity]) -> AsyncIterator[World]:
    """Carbon on a fresh database, with the registry read and the routes of savings open."""
    clock = SystemClock()
    settings = DatabaseSettings(url=SecretStr(postgres_url))
    db = Database(settings, schema="carbon", role="wattring_carbon")
    bus = PgLogBus(settings, BusSettings(), clock)
    await db.open()
    await bus.start()
    try:
        await bus.ensure_topics(topics.specs(BusSettings()))
        messages = [
            envelope.message(topics.REGISTRY, one.id, record_of([one]), source="test", time=LONG_AGO)
            for one in entities
        ]
        await bus.publish(messages, timeout_s=20.0)
        view = RegistryView(bus=bus, db=db, clock=clock)
        directory = RegistryDirectory(view, ProfileCatalogue.load(), clock, point="energy_active_import")
        KeyRing.create(tmp_path / "keys")
        keys = KeyRing.open(tmp_path / "keys", clock)
        platform = Platform(CommonSettings(), clock, bus, keys)
        health = Health(clock)
        health.starting = None
        app = create_app("carbon", platform, health, title="carbon")
        answers = Answers.of(Wired(db, clock, view, directory), CarbonSettings(), intervals_max=1_000_000)
        routers = saving_routers(answers.savings, db, clock, CarbonSettings())
        for router in (*routers, build_why_router(explainers(answers, db))):
            app.include_router(router)
        async with running(view):
            async with asyncio.timeout(60):
                await view.ready()
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://carbon") as client:
                yield World(db, bus, view, directory, clock, client, keys)
    finally:
        await bus.stop()
        await db.close()
