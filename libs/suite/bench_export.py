"""The B interface of a whole operator from one process of export; broker, database and centre beside it.

* 12,604 units log in at a centre of ``fieldsim`` that judges every message. LOGINs are spread to ``LOGINS_PER_S``; the
  interval between two LOGINs of one unit plays no part, since each logs in once. What the process takes is told at its
  peak and when all are in.
* Alarms at 200 a second, each of another unit, from before their message is given to the broker until export has
  written the centre's acknowledgement down.
* A poll of 2,000 points of one unit by the wildcard, all with a fresh value, from the request to the whole reply.

    python -m libs.suite.bench_export [units]
"""

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import httpx
import orjson

from libs.common.bus import envelope, topics
from libs.common.bus.kafka import KafkaBus
from libs.common.bus.port import Message
from libs.common.clock import SystemClock
from libs.common.contracts.alarm import AlarmEvent, AlarmLevel
from libs.common.contracts.base import Phase
from libs.common.contracts.telemetry import Reading
from libs.common.ids import AlarmId, DeviceId, SiteId
from libs.common.points import POINTS
from libs.common.settings import BusSettings
from libs.fieldsim.sc import messages
from libs.fieldsim.sc.soap import request_envelope
from libs.fieldsim.sc.spec import TOWER
from libs.suite.cluster import Cluster
from libs.suite.kafka_node import KafkaNode
from libs.suite.ports import free_port
from libs.suite.postgres import EmbeddedPostgres
from services.export.dialects.messages import UnitFacts

UNITS = 12_604
"""Sites of the operator of the requirements."""
LOGINS_PER_S = 100.0
CONCURRENCY = 64
"""Units that talk to the centre at the same time."""
ALARMS_PER_S = 200
ALARMS_S = 30
TURN_S = 0.05
SIGNAL, SIGNAL_POINT = "0s16002001", "0416002001"
POLL_DEVICES, POLL_POINTS = 100, 20
POLLS = 300
PARTITIONS = 8
GIVE_UP_S = 900.0
SETTLE_S = 10.0
CENTRE = "gd"
POLLED = "44010643899999"

_UNITS = """
    insert into export.units (connection_id, unit_id, unit_code, name, sites, facts)
    select $1, id, id, 'Site ' || n, array['s-' || n], $3::jsonb
      from generate_series(1, $2::integer) as n cross join lateral (select (44010643800000 + n)::text as id) as i
"""
_DEVICES = """
    insert into export.mapping_devices (unit_key, sc_device_id, sc_device_code, name, place)
    select key, id, id, 'Meter', 0 from export.units
           cross join lateral (select (unit_id::bigint - 2200000)::text as id) as i
"""
_POINTS = """
    insert into export.mapping_points (unit_key, sc_device_id, point_id, device_id, kind, source, type, name, place)
    select d.unit_key, d.sc_device_id, p.point_id, 'm-' || (u.unit_id::bigint - 44010643800000), p.kind, p.source,
           p.type, p.name, p.place
      from export.mapping_devices d join export.units u on u.key = d.unit_key
           cross join (values ('0416104001', 'point', 'voltage_a', 'AI', 'Ua', 0),
                              ($1, 'signal', $2, 'DI', '过压', 1)) as p (point_id, kind, source, type, name, place)
"""


@dataclass(frozen=True, slots=True)
class Export:
    """What the run came to."""

    units: int
    logged_in: int
    """As the centre has counted them."""
    logins_s: float
    """From the connection's start until the last one was let in."""
    memory_mb: float
    """Of export's process when all are in (PSS)."""
    peak_mb: float
    """The most it ever took (resident)."""
    alarms: int
    alarms_per_s: float
    """As really published."""
    alarm_p50_ms: float
    alarm_p99_ms: float
    alarm_worst_ms: float
    alarm_cpu_ms: float
    """Of export's process for each alarm, which other work on the machine changes less."""
    points: int
    """Good values in each reply."""
    poll_p50_ms: float
    poll_p99_ms: float
    poll_cpu_ms: float
    """Of export's process for each poll."""
    findings: int
    """What the centre holds against all that it has heard."""


def measure(units: int = UNITS) -> Export:
    """Run it."""
    with tempfile.TemporaryDirectory(prefix="wattring-bench-") as place:
        folder = Path(place)
        unit_port = free_port()
        environ = {"WATTRING_EXPORT__UNIT_PORT": str(unit_port)}
        with (
            KafkaNode(folder / "kafka") as node,
            EmbeddedPostgres(folder / "postgres") as server,
            _centre(folder, unit_port) as centre,
            Cluster(folder, server.url, node.bootstrap, environ=environ, names=("export",)) as cluster,
        ):
            cluster.prepare()
            return asyncio.run(_run(cluster, node.bootstrap, server.url, centre, unit_port, units))


async def _run(
    cluster: Cluster, bootstrap: str, database_url: str, centre: Mapping[str, str], unit_port: int, units: int
) -> Export:
    bus = KafkaBus(BusSettings(bootstrap_servers=bootstrap, site_partitions=PARTITIONS), SystemClock())
    await bus.start()
    conn = await asyncpg.connect(database_url)
    try:
        cluster.start()
        await asyncio.to_thread(cluster.wait_ready)
        pid = cluster.pid("export")
        began = time.monotonic()
        await asyncio.to_thread(_connect, cluster, centre["sc_url"])
        await _fill(conn, units)
        await _registered(conn, units + 1)
        logins_s = time.monotonic() - began
        await asyncio.sleep(SETTLE_S)
        memory_mb = _memory_mb(pid, "smaps_rollup", "Pss")
        before_s = _cpu_s(pid)
        waited, pace = await _alarms(bus, conn, units)
        alarms_cpu_s = _cpu_s(pid) - before_s
        await _filled(bus, unit_port)
        before_s = _cpu_s(pid)
        points, polls = await _polls(unit_port)
        polls_cpu_s = _cpu_s(pid) - before_s
        heard = await _heard(centre["control_url"])
        return Export(
            units=units + 1,
            logged_in=heard["logged_in"],
            logins_s=logins_s,
            memory_mb=memory_mb,
            peak_mb=_memory_mb(pid, "status", "VmHWM"),
            alarms=len(waited),
            alarms_per_s=pace,
            alarm_p50_ms=_share(waited, 0.5),
            alarm_p99_ms=_share(waited, 0.99),
            alarm_worst_ms=waited[-1],
            alarm_cpu_ms=1000 * alarms_cpu_s / len(waited),
            points=points,
            poll_p50_ms=_share(polls, 0.5),
            poll_p99_ms=_share(polls, 0.99),
            poll_cpu_ms=1000 * polls_cpu_s / len(polls),
            findings=heard["findings"],
        )
    finally:
        await conn.close()
        await bus.stop()


def _share(sorted_ms: list[float], share: float) -> float:
    return sorted_ms[max(round(len(sorted_ms) * share) - 1, 0)]


# ---- what there is ------------------------------------------------------------------------------------


@contextmanager
def _centre(folder: Path, unit_port: int) -> Iterator[Mapping[str, str]]:
    """Run the centre; yield its addresses. It tells the time to each unit that logs in."""
    ready = folder / "centre.json"
    units = f"http://127.0.0.1:{unit_port}{TOWER.unit_path}"
    command = [
        sys.executable, "-m", "libs.fieldsim.cli", "sc", "--port", "0", "--control-port", "0", "--info-every-s", "0",
        "--unit-url", units,
    ]  # fmt: skip
    with (folder / "centre.log").open("wb") as log:
        process = subprocess.Popen([*command, "--ready-file", str(ready)], stdout=log, stderr=log)
    try:
        give_up = time.monotonic() + 60.0
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError((folder / "centre.log").read_text(encoding="utf-8", errors="replace")[-2000:])
            time.sleep(0.05)
        yield orjson.loads(ready.read_bytes())
    finally:
        process.terminate()
        process.wait(timeout=60)


def _connect(cluster: Cluster, url: str) -> None:
    options = {
        "logins_per_s": LOGINS_PER_S, "concurrency": CONCURRENCY, "silence_s": None, "peers": ["127.0.0.0/8"],
    }  # fmt: skip
    body = {"id": CENTRE, "name": "Centre", "url": url, "options": options}
    cluster.call("export", "POST", "/api/v1/sc-connections", json=body)


async def _fill(conn: asyncpg.Connection, units: int) -> None:
    """Make the units with a meter each, and one with 2,000 points; by SQL, since entering them is not measured."""
    facts = orjson.dumps(asdict(UnitFacts())).decode()
    async with conn.transaction():
        await conn.execute(_UNITS, CENTRE, units, facts)
        await conn.execute(_DEVICES)
        await conn.execute(_POINTS, SIGNAL_POINT, SIGNAL)
        key = await conn.fetchval(
            "insert into export.units (connection_id, unit_id, unit_code, name, sites, facts) "
            "values ($1, $2, $2, 'Polled', array['s-0'], $3::jsonb) returning key",
            CENTRE,
            POLLED,
            facts,
        )
        names = _polled_points()
        devices = [(key, str(44010641700000 + number), f"p-{number}") for number in range(POLL_DEVICES)]
        await conn.executemany(
            "insert into export.mapping_devices (unit_key, sc_device_id, sc_device_code, name, place) "
            "values ($1, $2, $2, '', 0)",
            [(key, device) for key, device, _ in devices],
        )
        await conn.executemany(
            "insert into export.mapping_points "
            "(unit_key, sc_device_id, point_id, device_id, kind, source, type, place) "
            "values ($1, $2, $3, $4, 'point', $5, 'AI', $6)",
            [
                (key, device, str(416170001 + place).zfill(10), own, name, place)
                for key, device, own in devices
                for place, name in enumerate(names)
            ],
        )
    await conn.execute("analyze")


def _polled_points() -> list[str]:
    """Return points that are numbers and stay fresh for the run."""
    found = [name for name, point in POINTS.items() if point.unit and (point.max_age_s or 0) >= 60]
    if len(found) < POLL_POINTS:
        raise RuntimeError(f"there are {len(found)} points of that kind, {POLL_POINTS} are wanted")
    return found[:POLL_POINTS]


async def _registered(conn: asyncpg.Connection, units: int) -> None:
    give_up = time.monotonic() + GIVE_UP_S
    while time.monotonic() < give_up:
        if await conn.fetchval("select count(*) from export.units where phase = 'registered'") == units:
            return
        await asyncio.sleep(0.5)
    phases = await conn.fetch("select phase, error, count(*) from export.units group by 1, 2")
    raise RuntimeError(f"not all units are in: {[tuple(row) for row in phases]}")


def _memory_mb(pid: int, file: str, name: str) -> float:
    text = Path(f"/proc/{pid}/{file}").read_text(encoding="ascii", errors="replace")
    match = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) / 1024 if match else 0.0


def _cpu_s(pid: int) -> float:
    """Return what a process has taken of processors so far. [s]"""
    user, system = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


# ---- alarms ---------------------------------------------------------------------------------------------


async def _alarms(bus: KafkaBus, conn: asyncpg.Connection, units: int) -> tuple[list[float], float]:
    """Return how long each alarm took until it was acknowledged, sorted, and the pace. [ms], [1/s]"""
    count = min(ALARMS_PER_S * ALARMS_S, units)
    a_turn = round(ALARMS_PER_S * TURN_S)
    given: dict[str, datetime] = {}
    began = time.monotonic()
    for turn, first in enumerate(range(1, count + 1, a_turn)):
        await asyncio.sleep(max(began + turn * TURN_S - time.monotonic(), 0))
        now = datetime.now(UTC)
        numbers = range(first, min(first + a_turn, count + 1))
        given |= {f"a-{number}": now for number in numbers}
        await bus.publish([_alarm(number, now) for number in numbers], timeout_s=60.0)
    pace = count / (time.monotonic() - began)
    give_up = time.monotonic() + GIVE_UP_S
    delivered = "select alarm_id, finished_at from export.deliveries where state = 'delivered'"
    while len(rows := await conn.fetch(delivered)) < count:
        if time.monotonic() > give_up:
            raise RuntimeError(f"{len(rows)} of {count} alarms were acknowledged")
        await asyncio.sleep(0.5)
    return sorted(1000 * (row["finished_at"] - given[row["alarm_id"]]).total_seconds() for row in rows), pace


def _alarm(number: int, now: datetime) -> Message:
    event = AlarmEvent(
        alarm_id=AlarmId(f"a-{number}"), site_id=SiteId(f"s-{number}"), sequence=1, phase=Phase.BEGIN,
        level=AlarmLevel.MINOR, signal=SIGNAL, began_at=now, device_id=DeviceId(f"m-{number}"), point="voltage_a",
        value=262.0, unit="V",
    )  # fmt: skip
    return envelope.message(topics.ALARM_EVENTS, event.site_id, event, source="bench", time=now)


# ---- polls ----------------------------------------------------------------------------------------------


async def _filled(bus: KafkaBus, unit_port: int) -> None:
    """Let export know a value of every point that is polled."""
    give_up = time.monotonic() + 120.0
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
        while await _poll(http, unit_port) < POLL_DEVICES * POLL_POINTS and time.monotonic() < give_up:
            await _values(bus)
            await asyncio.sleep(0.5)


async def _polls(unit_port: int) -> tuple[int, list[float]]:
    """Return how many good values each reply had, and how long the polls took, sorted. [ms]"""
    points, took = POLL_DEVICES * POLL_POINTS, []
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
        for _ in range(POLLS):
            began = time.perf_counter()
            points = min(points, await _poll(http, unit_port))
            took.append(1000 * (time.perf_counter() - began))
    return points, sorted(took)


async def _poll(http: httpx.AsyncClient, unit_port: int) -> int:
    """Ask for everything that a unit has; return how many good values came."""
    answer = await http.post(
        f"http://127.0.0.1:{unit_port}{TOWER.unit_path}",
        content=request_envelope(TOWER.unit_namespace, messages.get_data(POLLED)),
        headers={"content-type": "text/xml; charset=utf-8", "soapaction": '""'},
    )
    return answer.text.count("Status=&quot;0&quot;") + answer.text.count('Status="0"')


async def _values(bus: KafkaBus) -> None:
    now = datetime.now(UTC)
    names = _polled_points()
    readings = [
        Reading(
            device_id=DeviceId(f"p-{number}"), site_id=SiteId("s-0"), source_time=now, received_at=now, driver="bench",
            points={name: 50.0 + place for place, name in enumerate(names)},
        )
        for number in range(POLL_DEVICES)
    ]  # fmt: skip
    await bus.publish(
        [envelope.message(topics.READINGS, each.site_id, each, source="bench", time=now) for each in readings],
        timeout_s=60.0,
    )


async def _heard(control_url: str) -> dict[str, int]:
    """Return what the centre has counted."""
    async with httpx.AsyncClient(trust_env=False, timeout=120) as http:
        units = (await http.get(f"{control_url}/sc/units")).json()
        held = (await http.get(f"{control_url}/sc/journal", params={"findings_only": True})).json()
    return {"logged_in": len(units), "findings": sum(len(entry["findings"]) for entry in held)}


def main() -> int:
    """Measure and print as JSON."""
    with contextlib.suppress(BrokenPipeError):
        found = measure(int(sys.argv[1]) if len(sys.argv) > 1 else UNITS)
        print(json.dumps({name: round(value, 1) for name, value in asdict(found).items()}, indent=2))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
