"""Ingest alone on one core, with a thousand meters in its registry: what the benchmarks of acquisition run against.

Everything else (meters, broker, database, whoever pushes) is on the other cores. Speed without the work is no figure:
what was polled or pushed must be in the history, or the benchmark fails.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import orjson
import yaml

from libs.common.profiles import DeviceProfile, ProfileCatalogue
from libs.suite.cluster import Cluster
from libs.suite.kafka_node import KafkaNode
from libs.suite.postgres import EmbeddedPostgres
from services.ingest.domain.normalise import Normaliser, Ratios

WHOLE_PROFILE = "eastron_sdm630"
"""A three-phase meter of 39 points in four requests."""
PROFILE = "bench_sdm630_30"
"""The same meter, of which the first 30 points are wanted: those up to the voltages between phases, which two requests
read. No shipped profile has exactly 30, and most meters' registers lie in two or three stretches."""
LAST_ADDRESS = 0x00CC
METERS = 1000
SITES = 50
PERIOD_S = 1.0
RESPONSE_TIMEOUT_S = 0.5
PUSH_BATCH = 1000
PUSH_SENDERS = 4
PUSH_BATCHES = 120
NORMALISE_ROUNDS = 20_000


@dataclass(frozen=True, slots=True)
class Running:
    """Ingest that runs."""

    cluster: Cluster
    database_url: str
    pid: int


@contextmanager
def running_ingest(registry: str) -> Iterator[Running]:
    """Run ingest alone on the first core, with broker and database on the others."""
    cores = sorted(os.sched_getaffinity(0))
    others = set(cores[1:]) or set(cores)
    os.sched_setaffinity(0, others)  # what is started from here on inherits it
    try:
        with tempfile.TemporaryDirectory(prefix="wattring-bench-") as place:
            folder = Path(place)
            write_profile(folder / "profiles")
            environ = {
                "WATTRING_PROFILE_DIRS": orjson.dumps([str(folder / "profiles")]).decode(),
                "WATTRING_INGEST__POLLING__INTERVAL_S": str(PERIOD_S),
                "WATTRING_INGEST__POLLING__RESPONSE_TIMEOUT_S": str(RESPONSE_TIMEOUT_S),
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
                    yield Running(cluster, server.url, pid)
    finally:
        os.sched_setaffinity(0, set(cores))


def registry_of(profile: str, port_of: Callable[[int], int] | None) -> str:
    """Return a registry of ``METERS`` meters of a profile.

    Args:
        profile: Of every meter.
        port_of: Number of a meter to the port at which it is, each with a line of its own; None hangs them on no line.
    """
    lines = ["schema: registry/1", "valid_from: 2026-01-01T00:00:00+08:00", "sites:"]
    lines += [f"  - {{id: s-{n}, code: S{n}, name: Site {n}, kind: base_station}}" for n in range(SITES)]
    if port_of is not None:
        lines.append("lines:")
        lines += [
            f'  - {{id: l-{n}, name: Line {n}, kind: tcp, endpoint: "127.0.0.1:{port_of(n)}"}}' for n in range(METERS)
        ]
    lines.append("devices:")
    for n in range(METERS):
        wiring = "" if port_of is None else f", line: l-{n}, address: 1"
        lines.append(
            f"  - {{id: m-{n}, name: Meter {n}, kind: meter_3p, profile: {profile}, site: s-{n % SITES}{wiring}}}"
        )
    return "\n".join(lines) + "\n"


def write_profile(folder: Path) -> None:
    """Write the profile of 30 points into a new folder."""
    shipped = Path(__file__).parents[1] / "common" / "data" / "device_profiles" / f"{WHOLE_PROFILE}.yaml"
    profile = yaml.safe_load(shipped.read_text(encoding="utf-8"))
    profile["points"] = [point for point in profile["points"] if point["addr"] <= LAST_ADDRESS]
    folder.mkdir()
    (folder / f"{PROFILE}.yaml").write_text(yaml.safe_dump(profile, allow_unicode=True), encoding="utf-8")


def normalise() -> float:
    """Return points a second from raw numbers to canonical points, one core."""
    profile = ProfileCatalogue.load().get(WHOLE_PROFILE)
    normaliser = Normaliser(profile)
    raw = dict.fromkeys(_polled(profile), 2301)
    ratios = Ratios(ct=20.0, pt=1.0)
    began = time.perf_counter()
    for _ in range(NORMALISE_ROUNDS):
        normaliser.measure(raw, ratios)
    return NORMALISE_ROUNDS * len(raw) / (time.perf_counter() - began)


def pushing() -> float:
    """Return points a second that are taken from pushed batches, answered only when they are safe."""
    with running_ingest(registry_of(WHOLE_PROFILE, None)) as running:
        return asyncio.run(_push(running))


async def _push(running: Running) -> float:
    points = dict.fromkeys(_polled(ProfileCatalogue.load().get(WHOLE_PROFILE)), 230.0)
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


async def _known(client: httpx.AsyncClient, url: str, headers: Mapping[str, str], points: Mapping[str, float]) -> None:
    """Wait until ingest knows the meters: reports of strangers wait and cost otherwise."""
    while True:
        body = orjson.dumps(_batch(points, time.time() - 1000, count=METERS))
        found = (await client.post(url, content=body, headers=headers)).json()
        if found["parked"] == 0:
            return
        await asyncio.sleep(0.2)


def _batch(points: Mapping[str, float], at: float, count: int = PUSH_BATCH) -> list[dict[str, object]]:
    time_text = datetime.fromtimestamp(at, UTC).isoformat()
    return [{"device_id": f"m-{n % METERS}", "source_time": time_text, "points": points} for n in range(count)]


def _polled(profile: DeviceProfile) -> list[str]:
    """Return the points that a poll of the fast cycle reads."""
    return [point.name for point in profile.modbus_points() if not point.slow]


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
