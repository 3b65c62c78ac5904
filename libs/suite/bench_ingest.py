"""Ingest under load: polling a thousand meters, taking pushed batches, making points of registers.

Ingest runs on one core, everything else (meters, broker, database, whoever pushes) on the others. Speed without the
work is no figure: what was polled or pushed must be in the history, or the benchmark fails.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import httpx
import orjson

from libs.common.profiles import ProfileCatalogue
from libs.suite.cluster import Cluster
from libs.suite.kafka_node import KafkaNode
from libs.suite.postgres import EmbeddedPostgres
from services.ingest.domain.normalise import Normaliser, Ratios
from services.ingest.domain.polling import offset_s

PROFILE = "eastron_sdm630"
"""Of 39 points in its fast cycle."""
METERS = 1000
SITES = 50
PERIOD_S = 1.0
WARM_UP_S = 15.0
WATCHED_S = 30.0
EARLY_S = 0.05
DEAD_SHARE = 5
"""One meter in so many does not answer, in the second round."""
PUSH_BATCH = 1000
PUSH_SENDERS = 4
PUSH_BATCHES = 120
NORMALISE_ROUNDS = 20_000


@dataclass(frozen=True, slots=True)
class Polling:
    """What a round of polling showed."""

    points_per_s: float
    overruns: float
    """Share of the polls that were due and could not be done. [1]"""
    lateness_p99_s: float
    """Of the answers, against their slots. [s]"""
    core: float
    """Part of its core that ingest used. [1]"""


def normalise() -> float:
    """Return points a second from raw numbers to canonical points, one core."""
    profile = ProfileCatalogue.load().get(PROFILE)
    normaliser = Normaliser(profile)
    raw = dict.fromkeys((point.name for point in profile.modbus_points() if not point.slow), 2301)
    ratios = Ratios(ct=20.0, pt=1.0)
    began = time.perf_counter()
    for _ in range(NORMALISE_ROUNDS):
        normaliser.measure(raw, ratios)
    return NORMALISE_ROUNDS * len(raw) / (time.perf_counter() - began)


def polling(*, with_dead: bool) -> Polling:
    """Poll a thousand meters every second on one core; with one in five of them dead if wanted."""
    with _slaves() as (port, silent_port), _ingest(_registry(port, silent_port if with_dead else port)) as running:
        return asyncio.run(_watch_polls(running))


def pushing() -> float:
    """Return points a second that are taken from pushed batches, answered only when they are safe."""
    with _ingest(_registry(None, None)) as running:
        return asyncio.run(_push(running))


@dataclass(frozen=True, slots=True)
class _Running:
    cluster: Cluster
    database_url: str
    pid: int


@contextmanager
def _ingest(registry: str) -> Iterator[_Running]:
    """Run ingest alone on the first core, with broker and database on the others."""
    cores = sorted(os.sched_getaffinity(0))
    others = set(cores[1:]) or set(cores)
    os.sched_setaffinity(0, others)  # what is started from here on inherits it
    try:
        with tempfile.TemporaryDirectory(prefix="wattring-bench-") as place:
            folder = Path(place)
            environ = {
                "WATTRING_INGEST__POLLING__INTERVAL_S": str(PERIOD_S),
                "WATTRING_INGEST__POLLING__RESPONSE_TIMEOUT_S": "0.5",
                "WATTRING_INGEST__IMPORT_SYNC_BYTES": "10000000",
            }
            with KafkaNode(folder / "kafka") as node, EmbeddedPostgres(folder / "postgres") as server:
                with Cluster(folder, server.url, node.bootstrap, environ=environ, names=("ingest",)) as cluster:
                    cluster.prepare()
                    cluster.start()
                    cluster.wait_ready()
                    [pid] = _children_running("services.ingest")
                    for task in Path(f"/proc/{pid}/task").iterdir():
                        os.sched_setaffinity(int(task.name), {cores[0]})
                    path = "/api/v1/imports?kind=registry&file=bench.yaml"
                    cluster.call("ingest", "POST", path, content=registry.encode())
                    yield _Running(cluster, server.url, pid)
    finally:
        os.sched_setaffinity(0, set(cores))


@contextmanager
def _slaves() -> Iterator[tuple[int, int]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "libs.suite.bench_slaves"], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None  # noqa: S101 - piped above
        answering, silent = (int(word) for word in process.stdout.readline().split())
        yield answering, silent
    finally:
        process.terminate()
        process.wait(timeout=10)


def _children_running(module: str) -> list[int]:
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                line = (place / "cmdline").read_bytes().split(b"\0")
                parent = int((place / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
            except OSError:
                continue
            if module.encode() in line and parent == os.getpid():
                found.append(int(place.name))
    return found


async def _watch_polls(running: _Running) -> Polling:
    await asyncio.sleep(WARM_UP_S)
    polls, missed, cpu = _polls(running)
    began, wall = time.perf_counter(), datetime.now(UTC)
    await asyncio.sleep(WATCHED_S)
    took = time.perf_counter() - began
    more_polls, more_missed, more_cpu = _polls(running)
    await asyncio.sleep(2.0)
    conn = await asyncpg.connect(running.database_url)
    try:
        rows = await conn.fetch(
            """
            select d.device_id, extract(epoch from r.source_time)::float8 as at
              from ingest.readings r join ingest.devices d on d.no = r.device_no
             where r.source_time >= $1 and r.source_time < $1 + make_interval(secs => $2)
            """,
            wall,
            took,
        )
    finally:
        await conn.close()
    answered, unkept = more_polls - polls, more_missed - missed
    if not rows or len(rows) < 0.98 * answered:
        raise RuntimeError(f"{answered} polls were answered, {len(rows)} reports are in the history")
    # A timer may wake us a moment before the slot: that is early, not a period late.
    phases = ((row["at"] - offset_s(row["device_id"], PERIOD_S) + EARLY_S) % PERIOD_S - EARLY_S for row in rows)
    lateness = sorted(phases)
    return Polling(
        points_per_s=len(rows) * len(_points()) / took,
        overruns=unkept / (answered + unkept),
        lateness_p99_s=lateness[int(len(lateness) * 0.99)],
        core=(more_cpu - cpu) / took,
    )


def _polls(running: _Running) -> tuple[float, float, float]:
    """Return polls that were answered, slots that were missed, and the processor time of ingest. [s]"""
    answer = httpx.get(
        f"http://127.0.0.1:{running.cluster.ports['ingest']}/metrics",
        headers=running.cluster.credentials("ingest"),
        trust_env=False,
        timeout=30,
    )
    answer.raise_for_status()
    found = {"ok": 0.0, "missed": 0.0}
    for line in answer.text.splitlines():
        if line.startswith("wattring_ingest_polls_total") and 'outcome="ok"' in line:
            found["ok"] += float(line.rpartition(" ")[2])
        elif line.startswith("wattring_ingest_poll_overrun_total"):
            found["missed"] += float(line.rpartition(" ")[2])
    fields = Path(f"/proc/{running.pid}/stat").read_text().rpartition(")")[2].split()
    return found["ok"], found["missed"], (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _push(running: _Running) -> float:
    points = _points()
    queue: asyncio.Queue[int] = asyncio.Queue()
    for number in range(PUSH_BATCHES):
        queue.put_nowait(number)
    base = datetime.now(UTC).timestamp() - PUSH_BATCHES
    url = f"http://127.0.0.1:{running.cluster.ports['ingest']}/api/v1/readings"
    bodies = [orjson.dumps(_batch(points, base + number)) for number in range(PUSH_BATCHES)]
    headers = {**running.cluster.credentials("ingest"), "content-type": "application/json"}

    async def send(client: httpx.AsyncClient) -> int:
        taken = 0
        while not queue.empty():
            answer = await client.post(url, content=bodies[queue.get_nowait()], headers=headers)
            answer.raise_for_status()
            found = answer.json()
            taken += found["accepted"] + found["late"]
        return taken

    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        await _known(client, url, headers, points)
        began = time.perf_counter()
        taken = sum(await asyncio.gather(*(send(client) for _ in range(PUSH_SENDERS))))
        took = time.perf_counter() - began
    if taken != PUSH_BATCHES * PUSH_BATCH:
        raise RuntimeError(f"{taken} reports were taken of {PUSH_BATCHES * PUSH_BATCH}")
    return taken * len(points) / took


async def _known(client: httpx.AsyncClient, url: str, headers: dict[str, str], points: dict[str, float]) -> None:
    """Wait until ingest knows the meters: reports of strangers wait and cost otherwise."""
    while True:
        body = orjson.dumps(_batch(points, time.time() - 1000, count=METERS))
        found = (await client.post(url, content=body, headers=headers)).json()
        if found["parked"] == 0:
            return
        await asyncio.sleep(0.2)


def _points() -> dict[str, float]:
    """Return values for all points that a poll of the fast cycle reads."""
    profile = ProfileCatalogue.load().get(PROFILE)
    return {point.name: 230.0 for point in profile.modbus_points() if not point.slow}


def _batch(points: dict[str, float], at: float, count: int = PUSH_BATCH) -> list[dict[str, object]]:
    time_text = datetime.fromtimestamp(at, UTC).isoformat()
    return [{"device_id": f"m-{n % METERS}", "source_time": time_text, "points": points} for n in range(count)]


def _registry(port: int | None, every_fifth: int | None) -> str:
    """Return a registry with a meter per line; without a port they hang on no line."""
    lines = ["schema: registry/1", "valid_from: 2026-01-01T00:00:00+08:00", "sites:"]
    lines += [f"  - {{id: s-{n}, code: S{n}, name: Site {n}, kind: base_station}}" for n in range(SITES)]
    if port is not None:
        lines.append("lines:")
        for n in range(METERS):
            there = every_fifth if n % DEAD_SHARE == 0 else port
            lines.append(f'  - {{id: l-{n}, name: Line {n}, kind: tcp, endpoint: "127.0.0.1:{there}"}}')
    lines.append("devices:")
    wiring: Sequence[str] = [f", line: l-{n}, address: 1" if port is not None else "" for n in range(METERS)]
    lines += [
        f"  - {{id: m-{n}, name: Meter {n}, kind: meter_3p, profile: {PROFILE}, site: s-{n % SITES}{wiring[n]}}}"
        for n in range(METERS)
    ]
    return "\n".join(lines) + "\n"
