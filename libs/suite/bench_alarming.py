"""Alarms under load, with a broker, a database and alarm as a process of its own, all on this machine.

* How long it takes from the acceptance of the reading that decides to the alarm event on the bus, while meters report
  at a given pace. The clock of a begin starts before its reading is given to the broker, and stops when a reader of the
  alarm events has it in hand. Delays of the rule are overridden with 0.
* A province without power: every meter of many sites reports no voltage within a minute. Every begin is counted on the
  bus, in the table and through the API, and so are the messages to people.

    python -m libs.suite.bench_alarming [pace in points/s]
"""

import asyncio
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import asyncpg

from libs.common.bus import envelope, topics
from libs.common.bus.kafka import KafkaBus
from libs.common.bus.port import Message, StartAt, TailReader
from libs.common.clock import SystemClock
from libs.common.contracts.alarm import AlarmEvent
from libs.common.contracts.base import Phase
from libs.common.contracts.registry import (
    Device,
    DeviceRecord,
    EntityKind,
    EntityState,
    Region,
    RegionRecord,
    Site,
    SiteKind,
    SiteRecord,
    StationClass,
)
from libs.common.ids import DeviceId, RegionId, SiteId
from libs.common.settings import BusSettings
from libs.suite.bench_pipeline import PROFILE, points_of_a_report
from libs.suite.cluster import Cluster
from libs.suite.kafka_node import KafkaNode
from libs.suite.postgres import EmbeddedPostgres
from services.ingest.bus import heartbeat_message, reading_message
from services.ingest.domain.report import Report

PACE = 100_000
"""Points a second of the latency run, unless said otherwise."""
RUN_S = 40
"""How long the meters report. [s]"""
TURN_S = 0.1
METERS = 4_000
METERS_PER_SITE = 10
SAGS = 2_500
"""Meters whose voltage sags once; fewer begins at a site than make a storm."""
PROVINCE = 50_000
PROVINCE_PER_SITE = 25
PROVINCE_WITHIN_S = 50
PARTITIONS = 8
GIVE_UP_S = 600.0
LOW, FAILURE = "0s16003001", "0s16001001"
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Latency:
    """What the latency run came to."""

    points_per_s: float
    """As really published."""
    begins: int
    p50_s: float
    p99_s: float
    worst_s: float


@dataclass(frozen=True, slots=True)
class Outage:
    """What the province's run came to."""

    meters: int
    published_within_s: float
    on_the_bus: int
    listed: int
    """Through the API, page by page."""
    settled_s: float
    """From the first reading to the last begin on the bus."""
    messages: int
    """To people."""


def measure(pace: int = PACE) -> tuple[Latency, Outage]:
    """Run both."""
    with tempfile.TemporaryDirectory(prefix="wattring-bench-") as place, _receiver() as (address, received):
        folder = Path(place)
        with KafkaNode(folder / "kafka") as node, EmbeddedPostgres(folder / "postgres") as server:
            environ = {"WATTRING_ALARM__OUTGOING_ALLOWED": '["127.0.0.0/8"]'}
            with Cluster(folder, server.url, node.bootstrap, environ=environ, names=("alarm",)) as cluster:
                cluster.prepare()
                return asyncio.run(_run(cluster, node.bootstrap, server.url, address, received, pace))


async def _run(
    cluster: Cluster, bootstrap: str, database_url: str, address: str, received: list[float], pace: int
) -> tuple[Latency, Outage]:
    bus = KafkaBus(BusSettings(bootstrap_servers=bootstrap, site_partitions=PARTITIONS), SystemClock())
    await bus.start()
    conn = await asyncpg.connect(database_url)
    try:
        await _publish_registry(bus)
        cluster.start()
        await asyncio.to_thread(cluster.wait_ready)
        await _known(conn, METERS + PROVINCE)
        await asyncio.to_thread(_prepare, cluster, address)
        async with _beating(bus):
            latency = await _latency(bus, pace)
            outage = await _outage(bus, cluster, received)
        return latency, outage
    finally:
        await conn.close()
        await bus.stop()


# What there is


async def _publish_registry(bus: KafkaBus) -> None:
    region = Region(id="p", name="Province", valid_from=START, version=1, changed_by="bench", code="440000")
    records: list[RegionRecord | SiteRecord | DeviceRecord] = [
        RegionRecord(kind=EntityKind.REGION, id="p", state=EntityState.ACTIVE, versions=(region,))
    ]
    for prefix, meters, per_site in (("m", METERS, METERS_PER_SITE), ("p", PROVINCE, PROVINCE_PER_SITE)):
        for number in range(meters // per_site):
            site = Site(
                id=f"{prefix}s-{number}", name=f"Site {number}", valid_from=START, version=1, changed_by="bench",
                code=f"{prefix}{number}", kind=SiteKind.BASE_STATION, station_class=StationClass.C,
                region=RegionId("p"),
            )  # fmt: skip
            records.append(SiteRecord(kind=EntityKind.SITE, id=site.id, state=EntityState.ACTIVE, versions=(site,)))
        for number in range(meters):
            device = Device(
                id=f"{prefix}-{number}", name=f"Meter {number}", valid_from=START, version=1, changed_by="bench",
                kind="meter_3p", profile=PROFILE, site=SiteId(f"{prefix}s-{number // per_site}"),
            )  # fmt: skip
            records.append(
                DeviceRecord(kind=EntityKind.DEVICE, id=device.id, state=EntityState.ACTIVE, versions=(device,))
            )
    now = datetime.now(UTC)
    messages = [envelope.message(topics.REGISTRY, record.id, record, source="ingest", time=now) for record in records]
    for first in range(0, len(messages), 5000):
        await bus.publish(messages[first : first + 5000], timeout_s=60.0)


async def _known(conn: asyncpg.Connection, devices: int) -> None:
    give_up = time.monotonic() + GIVE_UP_S
    while time.monotonic() < give_up:
        if await conn.fetchval("select count(*) from alarm.registry_entities where kind = 'device'") == devices:
            return
        await asyncio.sleep(0.1)
    raise RuntimeError("alarm does not learn of the meters")


def _prepare(cluster: Cluster, address: str) -> None:
    """Take the delays away, and have somebody told."""
    for rule in (LOW, FAILURE):
        path = f"/api/v1/alarm-rules/{rule}/overrides/site_class/C"
        cluster.call("alarm", "PUT", path, json={"start_delay_s": 0, "end_delay_s": 0, "reason": "bench"})
    channel = {"name": "bench", "config": {"kind": "webhook", "url": address}, "rate_per_min": 6000}
    cluster.call("alarm", "PUT", "/api/v1/notifications/channels/bench", json=channel)
    route = {"name": "province", "channels": ["bench"], "match": {"signals": [FAILURE]}}
    cluster.call("alarm", "PUT", "/api/v1/notifications/routes/bench", json=route)


@contextmanager
def _receiver() -> Iterator[tuple[str, list[float]]]:
    """Run what notifications go to; yield its address and the times at which one came."""
    received: list[float] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            received.append(time.monotonic())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/", received
    finally:
        server.shutdown()
        thread.join()


class _beating:  # noqa: N801 - reads as a verb where it is entered
    """Ingest's heartbeats into every partition, as long as it is entered."""

    def __init__(self, bus: KafkaBus) -> None:
        self._bus = bus
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._run(), name="heartbeats")

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        seq = 0
        while True:
            now = datetime.now(UTC)
            beats = [heartbeat_message("bench", partition, now, seq) for partition in range(PARTITIONS)]
            await self._bus.publish(beats, timeout_s=30.0)
            seq += 1
            await asyncio.sleep(1.0)


def _reading(meter: str, site: str, at: datetime, points: dict[str, float]) -> Message:
    report = Report(
        device_id=DeviceId(meter), site_id=SiteId(site), source_time=at, received_at=at, driver="bench", points=points,
        profile=PROFILE,
    )  # fmt: skip
    return reading_message(report, topics.READINGS)


# From the reading to the alarm


async def _latency(bus: KafkaBus, pace: int) -> Latency:
    points = points_of_a_report()
    sag = {**points, "voltage_a": 150.0}
    a_turn = max(round(pace * TURN_S / len(points)), 1)
    turns = round(RUN_S / TURN_S)
    sagging = {turn: range(turn * SAGS // turns, (turn + 1) * SAGS // turns) for turn in range(turns)}
    given: dict[str, float] = {}
    seen: dict[str, float] = {}
    async with bus.tail([topics.ALARM_EVENTS], StartAt.end()) as reader:
        watching = asyncio.create_task(_watch(reader, LOW, SAGS, seen), name="reader")
        began = time.monotonic()
        sent, meter = 0, 0
        for turn in range(turns):
            await asyncio.sleep(max(began + turn * TURN_S - time.monotonic(), 0))
            now = datetime.now(UTC)
            news = [SAGS + (meter + step) % (METERS - SAGS) for step in range(a_turn)]
            meter += a_turn
            messages = []
            for step, number in enumerate([*news, *sagging[turn]]):
                # A meter may report twice in one turn, and two of its reports must not have one time.
                at = now + timedelta(microseconds=step)
                values = points if step < a_turn else sag
                messages.append(_reading(f"m-{number}", f"ms-{number // METERS_PER_SITE}", at, values))
            given |= dict.fromkeys((f"m-{number}" for number in sagging[turn]), time.monotonic())
            await bus.publish(messages, timeout_s=60.0)
            sent += len(messages)
        took_s = time.monotonic() - began
        await asyncio.wait_for(watching, GIVE_UP_S)
    waited = sorted(seen[meter_id] - at for meter_id, at in given.items())
    return Latency(
        points_per_s=sent * len(points) / took_s,
        begins=len(waited),
        p50_s=waited[len(waited) // 2],
        p99_s=waited[round(len(waited) * 0.99) - 1],
        worst_s=waited[-1],
    )


async def _watch(reader: TailReader, signal: str, count: int, seen: dict[str, float]) -> None:
    """Note when the begin of each device's alarm was in hand, until so many were."""
    while len(seen) < count:
        for received in await reader.fetch(max_messages=5000, timeout_s=1.0):
            event = AlarmEvent.from_json(received.value or b"null")
            if event.phase is Phase.BEGIN and event.signal == signal and event.device_id is not None:
                seen.setdefault(event.device_id, time.monotonic())


# A province without power


async def _outage(bus: KafkaBus, cluster: Cluster, received: list[float]) -> Outage:
    dead = {name: (0.0 if "voltage" in name else value) for name, value in points_of_a_report().items()}
    seen: dict[str, float] = {}
    told = len(received)
    async with bus.tail([topics.ALARM_EVENTS], StartAt.end()) as reader:
        watching = asyncio.create_task(_watch(reader, FAILURE, PROVINCE, seen), name="reader")
        began = time.monotonic()
        for turn in range(PROVINCE_WITHIN_S):
            await asyncio.sleep(max(began + turn - time.monotonic(), 0))
            now = datetime.now(UTC)
            numbers = range(turn * PROVINCE // PROVINCE_WITHIN_S, (turn + 1) * PROVINCE // PROVINCE_WITHIN_S)
            meters = [(f"p-{number}", f"ps-{number // PROVINCE_PER_SITE}") for number in numbers]
            await bus.publish([_reading(meter, site, now, dead) for meter, site in meters], timeout_s=60.0)
        published_s = time.monotonic() - began
        await asyncio.wait_for(watching, GIVE_UP_S)
    settled_s = max(seen.values()) - began
    listed = await asyncio.to_thread(_listed, cluster)
    await _told(received, told)
    return Outage(PROVINCE, published_s, len(seen), listed, settled_s, len(received) - told)


def _listed(cluster: Cluster) -> int:
    """Return of how many meters the API lists an active alarm."""
    found: set[str] = set()
    cursor: dict[str, str] = {}
    while True:
        page = cluster.call(
            "alarm", "GET", "/api/v1/alarms", params={"signal": FAILURE, "state": "active", "limit": 1000, **cursor}
        )
        found |= {alarm["device_id"] for alarm in page["items"]}
        if page["next_cursor"] is None:
            return len(found)
        cursor = {"cursor": page["next_cursor"]}


async def _told(received: Sequence[float], before: int, quiet_s: float = 60.0) -> None:
    """Wait until messages have come and none has for a while: groups wait 30 s for what belongs to them."""
    give_up = time.monotonic() + 3 * quiet_s
    while time.monotonic() < give_up:
        if len(received) > before and time.monotonic() - received[-1] > quiet_s:
            return
        await asyncio.sleep(1.0)


def main() -> int:
    """Measure and print as JSON."""
    latency, outage = measure(int(sys.argv[1]) if len(sys.argv) > 1 else PACE)
    print(json.dumps({"latency": _shown(latency), "outage": _shown(outage)}, indent=2))  # noqa: T201 - a program
    return 0


def _shown(found: Latency | Outage) -> dict[str, float]:
    return {name: round(float(getattr(found, name)), 3) for name in found.__dataclass_fields__}


if __name__ == "__main__":
    sys.exit(main())
