"""The history under load: what a point costs on disk, hot and cold, and how fast reports are stored and read.

The reports are those of simulated meters that play the measured curves, each with loads and a time shift of its own,
as a reader would get them from the registers. A whole day of them, in the order in which they would come.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson

from libs.common.bus import topics
from libs.common.bus.port import Received
from libs.common.clock import SystemClock
from libs.common.db import Database
from libs.common.migrations import migrate
from libs.common.points import PointKind
from libs.common.profiles import DeviceProfile, ProfileCatalogue
from libs.common.settings import DatabaseSettings
from libs.fieldsim.electrical import Load, Mains
from libs.fieldsim.events import EventLog
from libs.fieldsim.faults import FaultBoard
from libs.fieldsim.meter import Meter
from libs.suite.postgres import EmbeddedPostgres
from services.ingest.domain.resolution import rounded_points
from services.ingest.store.coldfiles import LocalFiles
from services.ingest.usecases.cooling import Cooling
from services.ingest.usecases.history import HistoryHandler
from services.ingest.usecases.readings import Readings

POINTS = 30
GAUGES = 26
METERS = 600
PERIOD_S = 300
ROUNDS = 288
BATCH = 5000
READS = 21
PROFILES = ("chint_dtsu666", "eastron_sdm630")
DAY = datetime(2026, 3, 2, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of one profile."""

    profile: str
    points_per_s: float
    hot_bytes: float
    """A point, index included."""
    moved_points_per_s: float
    """Out of the database, into a file, read back and compared."""
    cold_bytes: float
    """A point."""
    hot_read_s: float
    """A day of one meter, by the hour."""
    cold_read_s: float
    """The same out of the file."""


async def measure(profile: str) -> Figures:
    """Store a day of reports of one kind of meter and measure."""
    found = ProfileCatalogue.load().get(profile)
    batches = list(_batches(found))
    points = sum(len(orjson.loads(received.value or b"")["points"]) for batch in batches for received in batch)
    with tempfile.TemporaryDirectory(prefix="wattring-bench-") as place:
        with EmbeddedPostgres(Path(place)) as server:
            await migrate(server.url, phase="post")
            db = Database(DatabaseSettings(url=server.url), schema="ingest", role="wattring_ingest")
            await db.open()
            try:
                stored_s = await _store(db, found, batches)
                async with db.read() as conn:
                    size = await conn.fetchval(
                        "select sum(pg_total_relation_size(inhrelid)) from pg_inherits "
                        "where inhparent = 'readings'::regclass"
                    )
                files = LocalFiles(Path(place) / "cold")
                readings = Readings(db, files)
                hot_read_s = await _read(readings)
                began = time.perf_counter()
                moved = await Cooling(db=db, files=files, clock=SystemClock()).cool(DAY.date(), _nobody_asks)
                moved_s = time.perf_counter() - began
                if moved["reports"] * POINTS != points:
                    raise RuntimeError(f"{moved['reports']} reports moved of {points / POINTS:.0f}")
                return Figures(
                    profile=profile,
                    points_per_s=points / stored_s,
                    hot_bytes=int(size) / points,
                    moved_points_per_s=points / moved_s,
                    cold_bytes=moved["bytes"] / points,
                    hot_read_s=hot_read_s,
                    cold_read_s=await _read(readings),
                )
            finally:
                await db.close()


async def _read(readings: Readings) -> float:
    """Return how long a day of one meter takes, by the hour; the median of some."""
    took: list[float] = []
    for number in range(READS):
        began = time.perf_counter()
        buckets = await readings.buckets(
            f"meter-{number * METERS // READS}",
            points=None,
            start=DAY,
            end=DAY + timedelta(days=1),
            bucket_s=3600,
            limit=100,
        )
        took.append(time.perf_counter() - began)
        if sum(bucket.reports for bucket in buckets) != ROUNDS:
            raise RuntimeError("a meter's day is not whole")
    return sorted(took)[READS // 2]


async def _nobody_asks(done: int) -> None:
    """Take how far the move is."""


async def _store(db: Database, profile: DeviceProfile, batches: Sequence[Sequence[Received]]) -> float:
    digits = rounded_points(profile)
    handler = HistoryHandler(SystemClock(), lambda name, version: digits)
    async with db.effects() as conn:
        await handler.load(conn, frozenset({0}))
    began = time.perf_counter()
    for batch in batches:
        async with db.effects() as conn:
            await handler.handle(conn, batch)
        handler.committed()
    return time.perf_counter() - began


def _batches(profile: DeviceProfile) -> Iterator[list[Received]]:
    batch: list[Received] = []
    for message in _messages(profile):
        batch.append(message)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _messages(profile: DeviceProfile) -> Iterator[Received]:
    meters = [_meter(number, profile) for number in range(METERS)]
    names = _thirty_points(profile)
    for number in range(ROUNDS):
        for place, meter in enumerate(meters):
            # Every meter has an offset of its own within the period.
            at = DAY + timedelta(seconds=number * PERIOD_S + place * PERIOD_S / METERS)
            shown = meter.shown(at.timestamp())
            payload = {
                "device_id": meter.device_id,
                "site_id": f"s-{place // 10}",
                "source_time": at,
                "received_at": at + timedelta(milliseconds=37),
                "driver": "modbus",
                "profile": profile.name,
                "profile_version": profile.version,
                "points": {name: shown[name] for name in names},
            }
            value = orjson.dumps(payload, option=orjson.OPT_UTC_Z)
            yield Received(topics.READINGS, 0, 0, f"s-{place // 10}", value, (), at)


def _thirty_points(profile: DeviceProfile) -> list[str]:
    """Return at most 26 gauges, and counters up to 30 points, those that turn first."""
    by_kind: dict[PointKind, list[str]] = {}
    for name, point in sorted(profile.points.items()):
        if point.canonical is not None and not point.is_text:
            by_kind.setdefault(point.canonical.kind, []).append(name)
    gauges = by_kind[PointKind.GAUGE][:GAUGES]
    counters = sorted(by_kind[PointKind.COUNTER], key=lambda name: ("import" not in name, name))
    return [*gauges, *counters, *by_kind.get(PointKind.SETTING, ())][:POINTS]


def _meter(number: int, profile: DeviceProfile) -> Meter:
    loads = [
        Load(f"steady-{number}", constant_kw=0.5 + number % 7, gain=0.05 + number % 11 / 50, shift_s=number * 1237.0),
        Load(f"varying-{number}", gain=0.1 + number % 13 / 20, shift_s=number * 4001.0, power_factor=0.9),
    ]
    return Meter(
        f"meter-{number}",
        profile,
        loads=loads,
        mains=Mains(shift_s=number * 977.0),
        installed_at=DAY - timedelta(days=30 + number),
        initial_kwh=100.0 * number,
        faults=FaultBoard(),
        events=EventLog(),
    )
