"""The main chain under load: encode → Kafka → decode → alarm and history, all on this machine.

A broker, a database, ingest and alarm as processes of their own, and this process as the one that encodes and
publishes. The clock runs from the first report published until both groups have committed the last one, so what is
measured is what the machine can take for good, not what it can queue.
"""

import asyncio
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg

from libs.common.bus import topics
from libs.common.bus.kafka import KafkaBus
from libs.common.bus.port import StartAt
from libs.common.clock import SystemClock
from libs.common.ids import DeviceId, SiteId
from libs.common.profiles import ProfileCatalogue
from libs.common.settings import BusSettings
from libs.suite.cluster import Cluster
from libs.suite.kafka_node import KafkaNode
from libs.suite.postgres import EmbeddedPostgres
from services.ingest.bus import reading_message
from services.ingest.domain.report import Report

PROFILE = "chint_dtsu666"
SITES = 100
METERS_PER_SITE = 10
ROUNDS = 120
WARM_UP_ROUNDS = 5
SAG_EVERY = 100
"""One report in so many has a voltage that violates a rule."""
GROUPS = {"ingest": "ingest.history", "alarm": "alarm.rules"}
GIVE_UP_S = 600.0


async def measure() -> tuple[float, float, int]:
    """Return points a second through the whole chain, seconds it took, and points in a report."""
    with tempfile.TemporaryDirectory(prefix="wattring-bench-") as place:
        folder = Path(place)
        with KafkaNode(folder / "kafka") as node, EmbeddedPostgres(folder / "postgres") as server:
            at_once = {"WATTRING_INGEST__IMPORT_SYNC_BYTES": "10000000"}
            with Cluster(folder, server.url, node.bootstrap, environ=at_once, names=("ingest", "alarm")) as cluster:
                cluster.prepare()
                cluster.start()
                cluster.wait_ready()
                cluster.call(
                    "ingest", "POST", "/api/v1/imports?kind=registry&file=bench.yaml", content=registry_file().encode()
                )
                return await _drive(node.bootstrap, server.url)


async def _drive(bootstrap: str, database_url: str) -> tuple[float, float, int]:
    clock = SystemClock()
    bus = KafkaBus(BusSettings(bootstrap_servers=bootstrap, site_partitions=8), clock)
    await bus.start()
    conn = await asyncpg.connect(database_url)
    try:
        points = points_of_a_report()
        began = datetime.now(UTC) - timedelta(seconds=WARM_UP_ROUNDS + ROUNDS + 5)
        await _registry_known(conn)
        await _publish(bus, points, began, range(WARM_UP_ROUNDS))
        await _all_committed(bus, conn)
        started = time.perf_counter()
        await _publish(bus, points, began, range(WARM_UP_ROUNDS, WARM_UP_ROUNDS + ROUNDS))
        await _all_committed(bus, conn)
        took_s = time.perf_counter() - started
        # Speed without the work is no figure: every report is in the history, every meter was judged to its last.
        expected = (WARM_UP_ROUNDS + ROUNDS) * SITES * METERS_PER_SITE
        stored = await conn.fetchval("select count(*) from ingest.readings")
        last = began + timedelta(seconds=WARM_UP_ROUNDS + ROUNDS - 1)
        judged = await conn.fetchval("select count(*) from alarm.judged where judged_at = $1", last)
        if (stored, judged) != (expected, SITES * METERS_PER_SITE):
            raise RuntimeError(f"{stored} reports stored of {expected}, {judged} meters judged to the last report")
        return ROUNDS * SITES * METERS_PER_SITE * len(points) / took_s, took_s, len(points)
    finally:
        await conn.close()
        await bus.stop()


async def _registry_known(conn: asyncpg.Connection) -> None:
    """Wait until alarm knows every meter; a report of a stranger would not be judged."""
    give_up = time.monotonic() + GIVE_UP_S
    while time.monotonic() < give_up:
        known = await conn.fetchval("select count(*) from alarm.registry_entities where kind = 'device'")
        if known == SITES * METERS_PER_SITE:
            return
        await asyncio.sleep(0.1)
    raise RuntimeError("alarm does not learn of the meters")


async def _publish(bus: KafkaBus, points: dict[str, float], began: datetime, rounds: range) -> None:
    for number in rounds:
        at = began + timedelta(seconds=number)
        messages = []
        for meter in range(SITES * METERS_PER_SITE):
            values = {**points, "energy_active_import": 1000.0 + meter + number / 100}
            if (meter + number) % SAG_EVERY == 0:
                values["voltage_a"] = 150.0
            report = Report(
                device_id=DeviceId(f"m-{meter}"),
                site_id=SiteId(f"s-{meter // METERS_PER_SITE}"),
                source_time=at,
                received_at=datetime.now(UTC),
                driver="bench",
                points=values,
                profile=PROFILE,
            )
            messages.append(reading_message(report, topics.READINGS))
        await bus.publish(messages, timeout_s=60.0)


async def _all_committed(bus: KafkaBus, conn: asyncpg.Connection) -> None:
    """Wait until every group has committed what is in the topic now."""
    async with bus.tail([topics.READINGS], StartAt.end()) as reader:
        ends = {where.partition: end for where, end in (await reader.end_offsets()).items()}
    give_up = time.monotonic() + GIVE_UP_S
    while True:
        behind = 0
        for schema, group in GROUPS.items():
            rows = await conn.fetch(
                f"select partition, next from {schema}.consumer_cursors where grp = $1 and topic = $2",  # noqa: S608
                group,
                topics.READINGS,
            )
            at = {row["partition"]: row["next"] for row in rows}
            behind += sum(max(end - at.get(partition, 0), 0) for partition, end in ends.items())
        if not behind:
            return
        if time.monotonic() > give_up:
            raise RuntimeError(f"{behind} messages are not handled after {GIVE_UP_S:.0f} s")
        await asyncio.sleep(0.02)


def points_of_a_report() -> dict[str, float]:
    """Return values for all points that the profile reads in its fast cycle."""
    profile = ProfileCatalogue.load().get(PROFILE)
    return {
        point.name: 230.0 if "voltage" in point.name else 5.0 for point in profile.modbus_points() if not point.slow
    }


def registry_file() -> str:
    """Return a registry with all sites and meters; the meters hang on no line, so nobody polls them."""
    lines = ["schema: registry/1", "valid_from: 2026-01-01T00:00:00+08:00", "regions:"]
    lines += ["  - {id: gd, code: 440000, name: Guangdong}", "sites:"]
    lines += [
        f"  - {{id: s-{n}, code: S{n}, name: Site {n}, kind: base_station, station_class: C, region: gd}}"
        for n in range(SITES)
    ]
    lines.append("devices:")
    lines += [
        f"  - {{id: m-{n}, name: Meter {n}, kind: meter_3p, profile: {PROFILE}, site: s-{n // METERS_PER_SITE}}}"
        for n in range(SITES * METERS_PER_SITE)
    ]
    return "\n".join(lines) + "\n"
