"""The whole service as a process of its own on a real bus, killed with SIGKILL: every alarm is told once."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import asyncpg
import httpx
import pytest
from pydantic import SecretStr

from libs.common.bus import envelope, topics
from libs.common.bus.pglog import PgLogBus
from libs.common.bus.port import Message, StartAt, partition_of
from libs.common.client import NO_TLS
from libs.common.clock import SystemClock
from libs.common.contracts.alarm import AlarmEvent, EndReason
from libs.common.contracts.registry import Device, Entity, Site, SiteKind, StationClass, record_of
from libs.common.contracts.telemetry import Heartbeat, Reading
from libs.common.ids import DeviceId, SiteId
from libs.common.settings import BusSettings, DatabaseSettings
from libs.common.tokens import KeyRing

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

ROOT = Path(__file__).parents[3]
START = (datetime.now(UTC) - timedelta(minutes=30)).replace(microsecond=0)
COMMON = {"valid_from": START - timedelta(days=1), "version": 1, "changed_by": "user:test"}
SITE = SiteId("site-1")
LOW, SILENT = "0s16003001", "0s19012001"
PATIENCE_S = 60.0


def meter(device_id: str, period_s: float | None = None) -> Device:
    return Device(
        id=device_id, name=device_id, kind="meter_3p", site=SITE, profile="eastron_sdm630", period_s=period_s, **COMMON
    )


def reading(device_id: str, second: int, volts: float) -> Message:
    at = START + timedelta(seconds=second)
    payload = Reading(
        device_id=DeviceId(device_id),
        site_id=SITE,
        source_time=at,
        received_at=at,
        driver="modbus",
        points={"voltage_a": volts, "voltage_b": 230.0, "voltage_c": 230.0},
    )
    return envelope.message(topics.READINGS, SITE, payload, source="test", time=at)


def heartbeat(second: int, partition: int) -> Message:
    at = START + timedelta(seconds=second)
    payload = Heartbeat(instance="ingest-0", partition=partition, received_at=at)
    return envelope.message(topics.READINGS, SITE, payload, source="test", time=at, partition=partition)


class Field:
    """What surrounds the service: bus, registry, database, and the process itself."""

    def __init__(self, url: str, bus: PgLogBus, folder: Path) -> None:
        self.url = url
        self.bus = bus
        self.socket = folder / "alarm.sock"
        self.keys = KeyRing.open(folder / "keys", SystemClock())
        self.settings: dict[str, str] = {}
        """Further variables of the process."""
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("WATTRING_")}
        environment |= {
            "WATTRING_DATABASE__URL": self.url,
            "WATTRING_DATA_DIR": str(self._folder),
            "WATTRING_SERVICE_URLS": f'{{"alarm": "unix:{self.socket}"}}',
            "WATTRING_UDS": str(self.socket),
            "WATTRING_LOG_FORMAT": "text",
            "WATTRING_BUS__LEASE_S": "1.0",
            # The same alarm every 20 s on 40 devices of a site is both; here each is to be told by itself.
            "WATTRING_ALARM__FLAP_COUNT": "100",
            "WATTRING_ALARM__STORM_COUNT": "10000",
            "PYTHONPATH": str(ROOT),
            **self.settings,
        }
        with (self._folder / "alarm.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services.alarm", cwd=self._folder, env=environment, stderr=log
            )

    async def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
            await process.wait()

    async def publish(self, messages: Iterable[Message]) -> None:
        await self.bus.publish(list(messages), timeout_s=10.0)

    async def until(self, what: str, seen: Callable[[], Awaitable[bool]]) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not await seen():
                    assert self._process is not None
                    assert self._process.returncode is None, self.log()
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pytest.fail(f"never seen: {what}\n{self.log()}")

    def log(self) -> str:
        return (self._folder / "alarm.log").read_text(errors="replace")[-4000:]

    async def value(self, statement: str, *arguments: object) -> object:
        conn = await asyncpg.connect(self.url)
        try:
            return await conn.fetchval(statement, *arguments)
        finally:
            await conn.close()

    async def state_of(self, device_id: str) -> object:
        return await self.value("select state from alarm.episodes where device_id = $1", device_id)

    async def dismissed(self, device_id: str) -> bool:
        return await self.value("select dismissed from alarm.episodes where device_id = $1", device_id) is True

    async def events(self) -> list[AlarmEvent]:
        """Everything on the topic, each event id once, in the order of the first time it was published."""
        found: dict[str, AlarmEvent] = {}
        async with self.bus.tail((topics.ALARM_EVENTS,), StartAt(beginning=True)) as reader:
            ends = await reader.end_offsets()
            while any(reader.positions().get(where, 0) < end for where, end in ends.items()):
                for received in await reader.fetch(max_messages=1000, timeout_s=0.5):
                    event = AlarmEvent.from_json(received.value or b"")
                    known = found.setdefault(envelope.event_id(received) or "", event)
                    assert known == event
        return list(found.values())

    async def ready(self) -> bool:
        return await self.get("/readyz") == 200

    async def get(self, path: str) -> int:
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket), verify=NO_TLS)
        async with httpx.AsyncClient(transport=transport, base_url="http://alarm") as client:
            try:
                return (await client.get(path)).status_code
            except httpx.HTTPError:
                return 0

    async def call(self, method: str, path: str, body: object = None) -> httpx.Response:
        token = self.keys.sign_token("gateway", audience="alarm", scopes=("alarm:*",))
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket), verify=NO_TLS)
        async with httpx.AsyncClient(transport=transport, base_url="http://alarm") as client:
            return await client.request(method, path, json=body, headers={"authorization": f"Bearer {token}"})


@asynccontextmanager
async def field_of(url: str, folder: Path, devices: Iterable[str | Device]) -> AsyncIterator[Field]:
    settings = DatabaseSettings(url=SecretStr(url))
    bus = PgLogBus(settings, BusSettings(), SystemClock())
    await bus.start()
    await bus.ensure_topics(topics.specs(BusSettings()))
    KeyRing.create(folder / "keys")
    site = Site(id=SITE, name="Site", code="1", kind=SiteKind.ACCESS_ROOM, station_class=StationClass.D, **COMMON)
    entities: list[Entity] = [site, *(meter(one) if isinstance(one, str) else one for one in devices)]
    found = Field(url, bus, folder)
    try:
        await found.publish(
            envelope.message(topics.REGISTRY, one.id, record_of([one]), source="test", time=START) for one in entities
        )
        yield found
    finally:
        await found.kill()
        await bus.stop()


async def short_delays(field: Field, *rule_ids: str) -> None:
    body = {"start_delay_s": 3, "end_delay_s": 3, "reason": "test"}
    for rule_id in rule_ids or (LOW,):
        reply = await field.call("PUT", f"/api/v1/alarm-rules/{rule_id}/overrides/site/{SITE}", body)
        assert reply.status_code == 200, reply.text


async def test_killed_while_pending_active_and_clearing_an_alarm_is_told_once(
    postgres_url: str, tmp_path: Path
) -> None:
    async with field_of(postgres_url, tmp_path, ["m-1"]) as field:
        await field.start()
        await field.until("ready", field.ready)
        await short_delays(field)
        second = 0
        for state, volts, until in ((1, 150.0, 2), (2, 150.0, 5), (3, 230.0, 7)):
            await field.publish(reading("m-1", at, volts) for at in range(second, until))
            second = until
            await field.until(f"state {state}", partial(_is, field, "m-1", state))
            await field.kill()
            await field.start()
        await field.publish(reading("m-1", at, 230.0) for at in range(second, 12))
        await field.until("end of the alarm", lambda: _ended(field, 1))
        await field.until("outbox empty", lambda: _empty(field))
        begin, end = await field.events()
    assert (begin.phase.value, begin.sequence, begin.began_at) == ("begin", 1, START)
    assert (end.phase.value, end.sequence, end.alarm_id) == ("end", 2, begin.alarm_id)
    assert end.ended_at == START + timedelta(seconds=5)


async def test_killed_after_a_person_ended_an_alarm_and_while_a_device_is_silent(
    postgres_url: str, tmp_path: Path
) -> None:
    async with field_of(postgres_url, tmp_path, ["m-1", meter("m-2", period_s=10.0)]) as field:
        partition = partition_of(SITE, await field.bus.partitions(topics.READINGS))

        async def killed() -> None:
            await field.kill()
            await field.start()

        await field.start()
        await field.until("ready", field.ready)
        await short_delays(field, LOW, SILENT)
        await field.publish([reading("m-2", 0, 230.0), heartbeat(0, partition)])
        await field.publish(reading("m-1", at, 150.0) for at in range(5))
        await field.until("alarm", partial(_is, field, "m-1", 2))
        alarm_id = await field.value("select alarm_id from alarm.alarms")
        reply = await field.call("POST", f"/api/v1/alarms/{alarm_id}/clear", {"reason": "seen to"})
        assert reply.status_code == 202, reply.text
        await field.until("dismissed", partial(field.dismissed, "m-1"))
        await killed()
        # It goes on being violated, then not, then again: only that is another alarm. m-2 has been waited for since 0.
        volts = [150.0] * 4 + [230.0] * 2 + [150.0] * 4 + [230.0] * 5
        await field.publish(reading("m-1", at, one) for at, one in enumerate(volts, start=5))
        await field.publish([heartbeat(20, partition), heartbeat(36, partition)])
        await field.until("m-2 is silent", partial(_is, field, "m-2", 2))
        await killed()
        await field.publish([reading("m-2", 40, 230.0), heartbeat(56, partition)])
        await field.until("all alarms ended", lambda: _ended(field, 3))
        await field.until("outbox empty", lambda: _empty(field))
        events = await field.events()
    told = [
        (event.rule_id, event.phase.value, _second(event.began_at), event.ended_at and _second(event.ended_at), reason)
        for event in events
        for reason in [event.end_reason]
    ]
    assert sorted(told, key=str) == [
        (LOW, "begin", 0, None, None),
        (LOW, "begin", 11, None, None),
        (LOW, "end", 0, 4, EndReason.MANUAL),
        (LOW, "end", 11, 15, EndReason.RECOVERED),
        (SILENT, "begin", 30, None, None),
        (SILENT, "end", 30, 40, EndReason.RECOVERED),
    ]


async def test_killed_again_and_again_in_a_backlog_every_alarm_is_told_once(postgres_url: str, tmp_path: Path) -> None:
    devices = [f"m-{number}" for number in range(40)]
    async with field_of(postgres_url, tmp_path, devices) as field:
        await field.start()
        await field.until("ready", field.ready)
        await short_delays(field)
        await field.kill()
        backlog = [
            reading(device_id, second, 150.0 if second % 20 in range(5, 14) else 230.0)
            for second in range(200)
            for device_id in devices
        ]
        for first in range(0, len(backlog), 1000):
            await field.publish(backlog[first : first + 1000])
        for wanted in (20, 100, 200, 300):
            await field.start()
            await field.until(f"{wanted} alarms", partial(_begun, field, wanted))
            await field.kill()
        await field.start()
        await field.until("all alarms ended", lambda: _ended(field, 400))
        await field.until("outbox empty", lambda: _empty(field))
        events = await field.events()
    expected = {(device_id, 20 * turn + 5, 20 * turn + 14) for device_id in devices for turn in range(10)}
    begins = [event for event in events if event.phase.value == "begin"]
    ends = [event for event in events if event.phase.value == "end"]
    assert len(begins) == len(ends) == 400
    told = {(end.device_id, _second(end.began_at), _second(end.ended_at)) for end in ends}
    assert told == expected
    assert {event.alarm_id for event in begins} == {event.alarm_id for event in ends}


def _second(when: datetime | None) -> int:
    assert when is not None
    return round((when - START).total_seconds())


async def _is(field: Field, device_id: str, state: int) -> bool:
    return await field.state_of(device_id) == state


async def _begun(field: Field, number: int) -> bool:
    count = await field.value("select count(*) from alarm.alarms")
    return isinstance(count, int) and count >= number


async def _ended(field: Field, number: int) -> bool:
    count = await field.value("select count(*) from alarm.alarms where ended_at is not null")
    return isinstance(count, int) and count >= number


async def _empty(field: Field) -> bool:
    return await field.value("select count(*) from alarm.outbox") == 0
