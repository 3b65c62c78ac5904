"""Years of history beside live traffic: an archive through job worker, broker and history, live pushes all along.

Speed without the work is no figure: every row and every live reading must be in the history once, or the benchmark
fails.
"""

import asyncio
import tempfile
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import asyncpg
import polars as pl

from libs.suite.archives import import_archive
from libs.suite.cluster import Cluster
from libs.suite.kafka_node import KafkaNode
from libs.suite.postgres import EmbeddedPostgres
from libs.suite.words import words_for

DEVICES = 200
DAYS = 15
A_DAY = 96
POINTS = ("energy_active_import", "energy_active_export", "active_power_total", "voltage_a")
FIRST = datetime(2023, 11, 1, tzinfo=UTC)
LIVE_EVERY_S = 0.2
WAIT_S = 900.0


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured."""

    rows_per_s: float
    """From the file to the history."""
    live: int
    live_slowest_s: float
    """Of live readings meanwhile: from the push to the answer that it is safe."""


class _Api:
    """Ingest's own door, as imports need it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def get(self, path: str, **params: Any) -> Any:
        """Return the parsed answer of a GET."""
        return self._cluster.call("ingest", "GET", f"/api/v1/{path}?{urlencode(params)}")

    def upload(self, path: str, content: bytes, *, media_type: str, **params: Any) -> Any:
        """Return the parsed answer of a POST of a file's content."""
        return self._cluster.call("ingest", "POST", f"/api/v1/{path}?{urlencode(params)}", content=content)


def measure() -> Figures:
    """Import a fortnight of quarter hours of two hundred meters and measure.

    Raises:
        RuntimeError: Not all of it is in the history.
    """
    environ = {
        "WATTRING_INGEST__HISTORY__RETENTION_DAYS": "3650",
        "WATTRING_INGEST__IMPORT_SYNC_BYTES": "1000000",
    }
    with tempfile.TemporaryDirectory(prefix="wattring-bench-") as place:
        folder = Path(place)
        with KafkaNode(folder / "kafka") as node, EmbeddedPostgres(folder / "postgres") as server:
            with Cluster(
                folder, server.url, node.bootstrap, environ=environ, names=("ingest", "ingest-jobs")
            ) as cluster:
                cluster.prepare()
                cluster.start()
                cluster.wait_ready()
                cluster.call(
                    "ingest", "POST", "/api/v1/imports?kind=registry&file=bench.yaml", content=_registry().encode()
                )
                return _measure(cluster, server.url, _archive(folder))


def _measure(cluster: Cluster, url: str, file: Path) -> Figures:
    with _LiveTraffic(cluster) as live:
        began = time.perf_counter()
        counts = import_archive(_Api(cluster), file, words=words_for("en"), say=lambda _: None)
        rows = DEVICES * DAYS * A_DAY
        if counts["accepted"] != rows:
            raise RuntimeError(f"{dict(counts)} of {rows} rows were taken")
        took = asyncio.run(_stored(url, rows)) - began
    asyncio.run(_all_live(url, live))
    return Figures(rows / took, len(live.times), max(live.took))


class _LiveTraffic:
    """Pushes a reading of now, over and over, in a thread."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live")
        self._failed: Exception | None = None
        self.times: list[datetime] = []
        self.took: list[float] = []

    def __enter__(self) -> "_LiveTraffic":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._failed is not None:
            raise self._failed

    def _run(self) -> None:
        try:
            while not self._stop.wait(LIVE_EVERY_S):
                now = datetime.now(UTC)
                report = {"device_id": "m-0", "source_time": now.isoformat(), "points": dict.fromkeys(POINTS, 1.0)}
                began = time.perf_counter()
                found = self._cluster.call("ingest", "POST", "/api/v1/readings", json=report)
                self.took.append(time.perf_counter() - began)
                if found["accepted"] + found["parked"] != 1:
                    raise RuntimeError(f"a live reading was not taken as such: {found}")
                self.times.append(now)
        except Exception as exc:
            self._failed = exc


async def _stored(url: str, rows: int) -> float:
    """Wait until all rows are in the history, and return when they were."""
    async with asyncio.timeout(WAIT_S):
        conn = await asyncpg.connect(url)
        try:
            while True:
                until = FIRST + timedelta(days=DAYS)
                found = await conn.fetchval("select count(*) from ingest.readings where source_time < $1", until)
                if found == rows:
                    return time.perf_counter()
                if found > rows:
                    raise RuntimeError(f"{found} reports are in the history of {rows}")
                await asyncio.sleep(0.5)
        finally:
            await conn.close()


async def _all_live(url: str, live: _LiveTraffic) -> None:
    async with asyncio.timeout(WAIT_S):
        conn = await asyncpg.connect(url)
        try:
            while True:
                rows = await conn.fetch(
                    "select source_time from ingest.readings where source_time >= $1", live.times[0]
                )
                if {row["source_time"] for row in rows} == set(live.times):
                    return
                await asyncio.sleep(0.5)
        finally:
            await conn.close()


def _archive(folder: Path) -> Path:
    times = [FIRST + timedelta(minutes=15 * number) for number in range(DAYS * A_DAY)]
    devices = pl.DataFrame({"device_id": [f"m-{number}" for number in range(DEVICES)]}).with_row_index("number")
    frame = devices.join(pl.DataFrame({"source_time": times}).with_row_index("quarter"), how="cross").select(
        "device_id",
        "source_time",
        (pl.col("number") * 1000 + pl.col("quarter") / 4).round(2).alias(POINTS[0]),
        (pl.col("quarter") / 400).round(2).alias(POINTS[1]),
        (1 + pl.col("quarter") % 96 / 96).round(3).alias(POINTS[2]),
        (225 + pl.col("quarter") % 97 / 10).round(1).alias(POINTS[3]),
    )
    file = folder / "archive.parquet"
    frame.write_parquet(file)
    return file


def _registry() -> str:
    lines = ["schema: registry/1", "valid_from: 2020-01-01T00:00:00+08:00", "sites:"]
    lines += [f"  - {{id: s-{n}, code: S{n}, name: Site {n}, kind: base_station}}" for n in range(DEVICES // 10)]
    lines.append("devices:")
    lines += [
        f"  - {{id: m-{n}, name: Meter {n}, kind: meter_3p, profile: eastron_sdm630, site: s-{n % (DEVICES // 10)}}}"
        for n in range(DEVICES)
    ]
    return "\n".join(lines) + "\n"
