"""Alarm on a real database, fed message by message: what a consumer's runtime would do, without the bus."""

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import orjson
from pydantic import SecretStr

from libs.common.bus import envelope, topics
from libs.common.bus.port import Message, Received
from libs.common.clock import SystemClock
from libs.common.contracts.alarm import AlarmEvent, Condition
from libs.common.contracts.base import Payload
from libs.common.contracts.telemetry import HEARTBEAT_TYPE, Heartbeat, Quality, Reading
from libs.common.db import Database
from libs.common.ids import DeviceId, SiteId
from libs.common.settings import DatabaseSettings
from libs.common.tokens import Principal
from services.alarm.dictionary import load_shipped
from services.alarm.domain.beats import Beats
from services.alarm.domain.energy import CircuitFacts
from services.alarm.domain.engine import Limits
from services.alarm.domain.model import SECOND_US
from services.alarm.domain.places import Place
from services.alarm.domain.rulebook import Target
from services.alarm.domain.sites import SiteLimits
from services.alarm.store import rulebook as rulebook_store
from services.alarm.worker.judging import JudgeHandler

START = datetime(2026, 3, 1, 4, tzinfo=UTC)
CLASSES = {"A": "A", "B": "B", "C": "C", "D": "D", "E": "D"}
SITE = "site-1"
PHASES = ("voltage_a", "voltage_b", "voltage_c")
LOW = "0s16003001"
FAILURE = "0s16001001"


@dataclass
class Registry:
    """A directory that a test changes."""

    def __init__(self) -> None:
        self.devices: dict[str, Target] = {}
        self.removed: set[str] = set()
        self.orders: dict[str, int] = {}
        self.changed: set[str] = set()
        self.loads: dict[str, list[str]] = {}
        self.circuits: dict[str, CircuitFacts] = {}
        self.supplied_by: dict[str, list[frozenset[str]]] = {}
        self.carried_by: dict[str, frozenset[str]] = {}
        self.at: dict[str, Place] = {}

    def add(self, device_id: str, *, site_id: str = SITE, station_class: str = "D", kind: str = "meter_3p",
            period_s: float | None = None) -> None:  # fmt: skip
        points = frozenset({*PHASES, "frequency"}) if kind == "meter_3p" else frozenset({"temperature", "humidity"})
        self.devices[device_id] = Target(
            device_id, site_id, kind, station_class, f"{kind}/1", points, period_s=period_s
        )

    def circuit(self, circuit_id: str) -> CircuitFacts | None:
        return self.circuits.get(circuit_id)

    def remove(self, device_id: str) -> None:
        self.removed.add(device_id)
        self.changed.add(device_id)

    def target(self, device_id: str) -> Target | None:
        return None if device_id in self.removed else self.devices.get(device_id)

    def targets(self) -> list[Target]:
        return [target for device_id, target in self.devices.items() if device_id not in self.removed]

    def is_removed(self, device_id: str) -> bool:
        return device_id in self.removed

    def take_changed(self) -> set[str]:
        changed, self.changed = self.changed, set()
        return changed

    def suppliers(self, device_id: str) -> list[frozenset[str]]:
        return self.supplied_by.get(device_id, [])

    def carriers(self, device_id: str) -> frozenset[str]:
        return self.carried_by.get(device_id, frozenset())

    def devices_of(self, site_id: str) -> frozenset[str]:
        return frozenset(target.device_id for target in self.targets() if target.site_id == site_id)

    def order_of(self, device_id: str) -> int:
        return self.orders.get(device_id, 1)

    def fed_by(self, load_id: str) -> list[str]:
        return self.loads.get(load_id, [])

    def kinds(self) -> dict[str, frozenset[str]]:
        meter = frozenset({*PHASES, "frequency", "current_a", "current_b", "current_c", "voltage_ab"})
        return {
            "meter_3p": meter,
            "env_sensor": frozenset({"temperature", "humidity"}),
            "breaker": frozenset({"breaker_state"}),
        }

    def has_site(self, site_id: str) -> bool:
        return any(target.site_id == site_id for target in self.devices.values())

    def place(self, site_id: str) -> Place | None:
        if site_id in self.at:
            return self.at[site_id]
        return Place(site_id, site_id, regions=("r-1", "r-0")) if self.has_site(site_id) else None

    def places(self) -> list[Place]:
        sites = {target.site_id for target in self.devices.values()} | set(self.at)
        return [place for site_id in sorted(sites) if (place := self.place(site_id)) is not None]

    def device_name(self, device_id: str, language: str) -> str:
        return f"电表 {device_id}" if language == "zh" else f"meter {device_id}"

    def region_name(self, region_id: str, language: str) -> str:
        return f"区域 {region_id}" if language == "zh" else f"region {region_id}"

    def sites_of(self, who: Principal) -> frozenset[str] | None:
        return None if who.sites is None else frozenset(who.sites)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


class World:
    """The handler on a database; ``restart`` is what a crash leaves."""

    def __init__(self, db: Database, partitions: Sequence[int] = (0,)) -> None:
        self.db = db
        self.registry = Registry()
        self.registry.add("m-1")
        self.partitions = frozenset(partitions)
        self.woken = 0
        self._offsets = itertools.count()
        self.handler = self._new()

    def _new(self) -> JudgeHandler:
        return JudgeHandler(
            directory=self.registry,
            clock=SystemClock(),
            limits=Limits(),
            site_limits=SiteLimits(),
            heartbeats=Beats(gone_us=900 * SECOND_US, deaf_us=30 * SECOND_US),
            partition_of=lambda site_id: min(self.partitions),
            class_map=CLASSES,
            wake=self._wake,
        )

    def _wake(self) -> None:
        self.woken += 1

    async def load(self) -> None:
        async with self.db.effects() as conn:
            self.handler.drop(self.partitions)
            await self.handler.load(conn, self.partitions)

    async def restart(self) -> None:
        """Go on as a new process would, from the database."""
        self.handler = self._new()
        await self.load()

    async def take(self, *batch: Received) -> None:
        async with self.db.effects() as conn:
            await self.handler.handle(conn, batch)
        self.handler.committed()

    async def fail(self, *batch: Received) -> None:
        """Handle a batch and crash before the commit."""
        try:
            async with self.db.effects() as conn:
                await self.handler.handle(conn, batch)
                raise InterruptedError
        except InterruptedError:
            await self.load()

    def volts(self, seconds: float, *volts: float, device_id: str = "m-1", partition: int = 0) -> Received:
        values = volts * 3 if len(volts) == 1 else volts
        return self.reading(seconds, dict(zip(PHASES, values, strict=True)), device_id=device_id, partition=partition)

    def reading(
        self,
        seconds: float,
        points: dict[str, float | None],
        *,
        device_id: str = "m-1",
        quality: dict[str, Quality] | None = None,
        partition: int = 0,
    ) -> Received:
        payload = Reading(
            device_id=DeviceId(device_id),
            site_id=SiteId(SITE),
            source_time=at(seconds),
            received_at=at(seconds),
            driver="modbus",
            points=points,
            quality=quality,
        )
        return self.received(topics.READINGS, payload, at(seconds), partition)

    def heartbeat(self, seconds: float, partition: int = 0) -> Received:
        payload = Heartbeat(instance="ingest-0", partition=partition, received_at=at(seconds))
        return self.received(topics.READINGS, payload, at(seconds), partition, event_type=HEARTBEAT_TYPE)

    def condition(self, payload: Condition, seconds: float) -> Received:
        return self.received(topics.CONDITIONS, payload, at(seconds))

    def received(
        self, topic: str, payload: Payload, time: datetime, partition: int = 0, event_type: str | None = None
    ) -> Received:
        return self.raw(topic, payload.to_json(), time, partition, event_type)

    def raw(
        self, topic: str, value: bytes, time: datetime, partition: int = 0, event_type: str | None = None
    ) -> Received:
        headers = envelope.headers(
            event_type=event_type or topic, source="test", event_id=envelope.new_event_id(), time=time
        )
        return Received(topic, partition, next(self._offsets), SITE, value, headers, time)

    async def events(self) -> list[AlarmEvent]:
        """What was put into the outbox, in order."""
        async with self.db.read() as conn:
            rows = await conn.fetch("select value from outbox where topic = $1 order by id", topics.ALARM_EVENTS)
        return [AlarmEvent.from_json(row["value"]) for row in rows]

    async def told(self) -> list[tuple[str, str, float]]:
        """Phase, rule and second of the begin or the end of every event."""
        return [
            (
                event.phase.value,
                event.rule_id or event.signal,
                ((event.ended_at or event.began_at) - START).total_seconds(),
            )
            for event in await self.events()
        ]

    async def states(self) -> dict[tuple[str, str], str]:
        async with self.db.read() as conn:
            rows = await conn.fetch("select device_id, rule_id, state, dismissed from episodes")
        names = {1: "PENDING", 2: "ACTIVE", 3: "CLEARING"}
        return {
            (row["device_id"], row["rule_id"]): "DISMISSED" if row["dismissed"] else names[row["state"]] for row in rows
        }

    async def short_delays(self, *rule_ids: str, start_s: float = 3.0, end_s: float = 3.0) -> None:
        """The override that the demonstration has."""
        from services.alarm.domain.rulebook import Override, Scope
        from services.alarm.views import StoredOverride

        async with self.db.write() as conn:
            for rule_id in rule_ids or (LOW,):
                override = Override(
                    rule_id=rule_id,
                    scope=Scope.SITE,
                    scope_id=SITE,
                    version=await rulebook_store.next_book_version(conn),
                    start_delay_s=start_s,
                    end_delay_s=end_s,
                )
                await rulebook_store.put_override(conn, StoredOverride(override, "user:test", START, None))


@asynccontextmanager
async def database(postgres_url: str) -> AsyncIterator[Database]:
    # A busy machine may give a test no turn for longer than a consumer may be frozen.
    settings = DatabaseSettings(url=SecretStr(postgres_url), effects_idle_timeout_s=60.0)
    db = Database(settings, schema="alarm", role="wattring_alarm")
    await db.open()
    try:
        async with db.write() as conn:
            await rulebook_store.seed(conn, load_shipped(), at(0))
        yield db
    finally:
        await db.close()


def body(message: Message) -> object:
    return orjson.loads(message.value or b"null")
