"""A field for tests of fault localisation: a real database, simulated platforms behind sockets, a clock to turn."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from libs.common.bus import envelope, topics
from libs.common.bus.port import Bus, Received
from libs.common.client import ServiceClient
from libs.common.contracts.alarm import Condition, Diagnosis
from libs.common.contracts.base import Payload
from libs.common.contracts.control import ControlEvent
from libs.common.contracts.device import Battery, Connectivity, DeviceEvent, DeviceStatus, RadioSignal, SimState
from libs.common.db import Database
from libs.common.ids import DeviceId, LineId, SiteId
from libs.common.listening import Listener, Serving
from libs.common.outgoing import AddressGuard, GuardedClient
from libs.common.runtime import Health, Platform
from libs.common.settings import CommonSettings
from libs.common.testing.clock import FakeClock
from libs.common.tokens import KeyRing, Principal
from libs.common.web import create_app
from libs.fieldsim.aep.platform import DevicePlatform
from libs.fieldsim.cards import CardPlatform, SimulatedCard
from services.alarm.domain.diagnosis.causes import Cause, Limits
from services.alarm.domain.diagnosis.grouping import GroupLimits, Place
from services.alarm.domain.diagnosis.subject import Card, FaultCard, Installed
from services.alarm.drivers.cards import ExportCards
from services.alarm.drivers.platforms import ExportPlatforms
from services.alarm.faultcodes import load_codes
from services.alarm.usecases.gathering import Gatherer
from services.alarm.usecases.localising import Localiser, Pauses
from services.alarm.worker.diagnosing import ListenerPulse, Looking
from services.alarm.worker.news import NewsHandler
from services.export.api.cards import build_cards_router
from services.export.api.platforms import build_platforms_router
from services.export.cards.client import CmpClient
from services.export.platforms.aep import AepClient
from tests.integration.alarm.alarm_world import database

START = datetime(2026, 3, 1, 4, tzinfo=UTC)
SITE = "site-1"
NUMBER = "1064900000000"
ICCID = "89860304279605344613"
IMEI = "869951041747345"
SIM = Card("sim-1", ICCID, NUMBER, None, date(2026, 3, 20), "d-1", SITE)


class Registry:
    """Devices and who may see them, as a test sets them up."""

    def __init__(self) -> None:
        self.devices: dict[str, Installed] = {}

    def add(self, device_id: str, *, line: str | None = None, sim: Card | None = None, site: str = SITE) -> None:
        face = FaultCard(
            device_name="低压配电房电表",
            device_number=IMEI if device_id == "d-1" else device_id,
            iccid=None if sim is None else sim.iccid,
            device_kind="meter_3p",
            address="广东省广州市",
            station_code="03921",
            station_name="荔枝湾",
            room_code="003",
            room_name="3号机房",
        )
        imei = IMEI if sim is not None else None
        self.devices[device_id] = Installed(device_id, Place(site, line), face, 300.0, False, imei, sim, (), 1)
        if line is not None:
            behind = [one for one, device in self.devices.items() if device.place.line_id == line]
            for one in behind:
                self.devices[one] = replace(self.devices[one], behind=behind)

    def installed(self, device_id: str) -> Installed | None:
        return self.devices.get(device_id)

    def cards(self) -> list[Card]:
        return [one.sim for one in self.devices.values() if one.sim is not None]

    def sites_of(self, who: Principal) -> frozenset[str] | None:
        return None if who.sites is None else frozenset(who.sites)


class Wires:
    """What hangs on what."""

    def breaker_of(self, load_id: str) -> str | None:
        return {"load-1": "d-1"}.get(load_id)

    def meters_of(self, circuit_id: str) -> list[str]:
        return {"circuit-1": ["d-1"]}.get(circuit_id, [])


class Field:
    """News of devices in, looks at what is due, diagnoses out."""

    def __init__(
        self,
        db: Database,
        calls: ServiceClient,
        platform: CardPlatform,
        aep: DevicePlatform,
        clock: FakeClock,
    ) -> None:
        self.db = db
        self.platform = platform
        self.aep = aep
        self.registry = Registry()
        self.clock = clock
        self.pulse = ListenerPulse(bus=None, clock=self.clock)  # type: ignore[arg-type]  # a test notes the ends itself
        self.cards = ExportCards(calls, timeout_s=30.0)
        self.platforms = ExportPlatforms(calls, timeout_s=30.0)
        self.offset = 0
        self.handler = NewsHandler(
            clock=self.clock,
            settle=timedelta(seconds=60),
            pause=timedelta(seconds=600),
            wiring=Wires(),
        )
        self.looking = self.new_looking()

    def new_looking(self, per_minute: int = 1000) -> Looking:
        limits = Limits()
        gatherer = Gatherer(
            db=self.db,
            clock=self.clock,
            cards=self.cards,
            platforms=self.platforms,
            pulse=self.pulse,
            limits=limits,
            timeout_s=30.0,
            our_address="203.0.113.9",
            battery_low_v=3.2,
        )
        localiser = Localiser(
            db=self.db,
            clock=self.clock,
            devices=self.registry,
            gatherer=gatherer,
            codes=load_codes(),
            limits=limits,
            groups=GroupLimits(),
            pauses=Pauses(timedelta(seconds=600), timedelta(seconds=3600)),
            wake=lambda: None,
        )
        return Looking(
            db=self.db, clock=self.clock, localiser=localiser, owner="test", per_minute=per_minute, at_a_time=4
        )

    async def tell(self, *payloads: Payload, event_id: str | None = None) -> None:
        """Hand news over as the bus would."""
        named: Mapping[type[Payload], str] = {
            DeviceStatus: topics.DEVICE_STATUS,
            DeviceEvent: topics.DEVICE_EVENTS,
            ControlEvent: topics.CONTROL_EVENTS,
            Condition: topics.CONDITIONS,
        }
        batch = []
        for payload in payloads:
            topic, now = named[type(payload)], self.clock.now()
            headers = envelope.headers(
                event_type=topic, source="test", event_id=event_id or envelope.new_event_id(), time=now
            )
            self.offset += 1
            batch.append(Received(topic, 0, self.offset, SITE, payload.to_json(), headers, now))
        async with self.db.effects() as conn:
            await self.handler.handle(conn, batch)

    async def look(self) -> None:
        """Look at all that is due."""
        while await self.looking.round(lambda: None):
            pass

    async def silent(self, *device_ids: str, after_s: float = 60.0, **changes: Any) -> None:
        """Let devices fall silent, and look when it is time."""
        await self.tell(*(self.status(one, Connectivity.OFFLINE, **changes) for one in device_ids))
        await self.clock.advance(after_s)
        await self.look()

    async def heard(self, *device_ids: str) -> None:
        """Let devices report again, and look."""
        await self.tell(*(self.status(one, Connectivity.ONLINE) for one in device_ids))
        await self.look()

    def status(
        self, device_id: str, connectivity: Connectivity, *, long_ago_s: float = 900.0, **changes: Any
    ) -> DeviceStatus:
        now = self.clock.now()
        online = connectivity is Connectivity.ONLINE
        device = self.registry.devices[device_id]
        line = device.place.line_id
        return DeviceStatus(
            **{
                "device_id": DeviceId(device_id),
                "site_id": SiteId(device.place.site_id),
                "connectivity": connectivity,
                "texts": {},
                "signal": RadioSignal(),
                "battery": Battery(),
                "sim": SimState(),
                "last_report_at": now if online else now - timedelta(minutes=15),
                "connectivity_since": now,
                "line_id": None if line is None else LineId(line),
            }
            | changes
        )

    async def told(self) -> list[Diagnosis]:
        """What others were told, in order."""
        async with self.db.read() as conn:
            rows = await conn.fetch("select value from outbox where topic = $1 order by id", topics.DIAGNOSES)
        return [Diagnosis.from_json(row["value"]) for row in rows]

    async def causes(self) -> list[tuple[str, str, str]]:
        return [(one.phase.value, one.device_id, one.code) for one in await self.told()]

    async def codes(self) -> dict[str, str]:
        """What was found at each device, told or not."""
        async with self.db.read() as conn:
            rows = await conn.fetch("select device_id, cause from diagnoses where ended_at is null order by began_at")
        codes = load_codes()
        return {row["device_id"]: codes[Cause(row["cause"])].code for row in rows}

    async def conditions(self) -> list[tuple[str, str, str]]:
        async with self.db.read() as conn:
            rows = await conn.fetch("select value from outbox where topic = $1 order by id", topics.CONDITIONS)
        found = [Condition.from_json(row["value"]) for row in rows]
        return [(one.phase.value, one.kind, one.subject) for one in found]


@asynccontextmanager
async def field_of(postgres_url: str, tmp_path: Path) -> AsyncIterator[Field]:
    """Give a field on a database of its own, with export and both platforms behind sockets."""
    clock = FakeClock(START)
    KeyRing.create(tmp_path / "keys")
    keys = KeyRing.open(tmp_path / "keys", clock)
    bus: Bus = None  # type: ignore[assignment]  # nothing here publishes but by the outbox
    health = Health(clock)
    health.starting = None
    app = create_app("export", Platform(CommonSettings(), clock, bus, keys), health, title="export")
    platform = CardPlatform(cards={NUMBER: SimulatedCard()})
    await platform.start()
    aep = DevicePlatform(clock=clock)
    await aep.start()
    async with GuardedClient(AddressGuard(["127.0.0.0/8"])) as http, database(postgres_url) as db:
        client = CmpClient(
            url=platform.url,
            app_key=platform.app_key,
            secret=platform.secret,
            customer="C1",
            arrears_path="/openapi/v1/prodinst/queryOwe",
            http=http,
            clock=clock,
            timeout_s=20.0,
            remember_s=0.0,
            calls_per_minute=10_000,
        )
        app.include_router(build_cards_router(client))
        devices = AepClient(
            url=aep.url,
            app_key=aep.account.app_key,
            app_secret=aep.account.app_secret,
            products={aep.account.product: aep.account.master_key},
            http=http,
            clock=clock,
            timeout_s=20.0,
            calls_per_minute=10_000,
        )
        app.include_router(build_platforms_router(devices))
        socket = tmp_path / "export.sock"
        serving = await Serving.start(Listener(app, uds=socket))
        calls = ServiceClient(
            keys, f"unix:{socket}", caller="alarm", audience="export", scopes=("export:cards", "export:platforms")
        )
        async with calls:
            yield Field(db, calls, platform, aep, clock)
        await serving.stop(5.0)
    await aep.stop()
    await platform.stop()
