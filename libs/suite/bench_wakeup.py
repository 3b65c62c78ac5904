"""One key: ten thousand breakers, each with a connection of its own, are woken by real processes.

Ingest, control, broker and database run as they do in an installation; the breakers are simulated in this process.
All of them are switched off by orders first, so that every wake-up ends a lease; then some die, and one key wakes all.

    python -m libs.suite.bench_wakeup BREAKERS [modbus | aep | aep-reports]

prints what was seen, as JSON.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, get_args

import asyncpg
import orjson
import uvloop

from libs.suite import processor
from libs.suite.breakers import BreakerField, load_id, registry_of, write_profile
from libs.suite.breakers_aep import SECRET, AepBreakerField
from libs.suite.breakers_aep import registry_of as aep_registry_of
from libs.suite.cluster import Cluster
from libs.suite.kafka_node import KafkaNode
from libs.suite.postgres import EmbeddedPostgres

BREAKERS = 10_000
DEAD = 0.02
"""Share of the breakers that are dead when the key is pressed. [1]"""
PATIENCE_S = 240.0
SETTLE_S = 60.0
"""Between the last word about the OFFs and the key: as in life, nobody has just switched ten thousand, and every poll
that has let those by is over. [s]"""
LOOK_S = 0.1
PROGRESS_EVERY_S = 0.5
"""Twice as often as the page asks: what is to be done within five seconds is not told by the second. [s]"""
PAGE = 1000
BLOCK = 1000
"""So many are switched off by one order."""
SETTINGS = {
    "WATTRING_INGEST__OUTGOING_ALLOWED": '["127.0.0.0/8"]',
    "WATTRING_INGEST__IMPORT_SYNC_BYTES": "20000000",
    "WATTRING_CONTROL__MIN_ON_S": "0",
    "WATTRING_CONTROL__WATCHDOG": "absent",
}


@dataclass(frozen=True, slots=True)
class WakeUp:
    """What one key showed. Times are since the order was sent. [s]"""

    breakers: int
    dead: int
    off_s: float
    """From the order until the last breaker was open and proven so, before."""
    answered_s: float
    """The order was stored and answered."""
    closed_s: float
    """The contacts of the last living breaker had moved."""
    commanded_s: float
    """The progress said that every command was on its way: signed and sent to the holder of its line."""
    verified_s: float
    """Every living one was read back closed, and the progress said so."""
    dead_reported_s: float
    """The progress named every dead one."""
    cpu_s: Mapping[str, float] = field(default_factory=dict)
    """The processor's time from the order until then, by process; ``field`` is this one, with the breakers. [s]"""
    cpu_ms_per_closing: Mapping[str, float] = field(default_factory=dict)
    """The same for each breaker that was closed. [ms]"""


Way = Literal["modbus", "aep", "aep-reports"]
"""How the breakers are reached: a Modbus TCP connection each; a device platform that tells of each command three times
and of what the device reports; or one whose subscription has only what devices report."""


async def measure(count: int, way: Way = "modbus") -> WakeUp:
    """Wake all with one key, and return what was seen.

    Args:
        count: Number of breakers.
        way: How they are reached. Those with a connection each are switched off first, the others begin open.
    """
    breakers = BreakerField(count) if way == "modbus" else AepBreakerField(count, reports_only=way == "aep-reports")
    await breakers.start()
    with tempfile.TemporaryDirectory(prefix="wattring-bench-") as place:
        folder = Path(place)
        write_profile(folder / "profiles")
        secrets = folder / "ingest" / "secrets"
        secrets.mkdir(parents=True, mode=0o700)
        (secrets / "ctwing").write_text(SECRET, encoding="utf-8")
        (secrets / "ctwing").chmod(0o600)
        environ = {**SETTINGS, "WATTRING_PROFILE_DIRS": orjson.dumps([str(folder / "profiles")]).decode()}
        # A node as young as this one would spend half of its processor's time on compiling itself.
        kafka = KafkaNode(folder / "kafka", "-XX:TieredStopAtLevel=1")
        with kafka as node, EmbeddedPostgres(folder / "postgres") as server:
            names = ("ingest", "control")
            with Cluster(folder, server.url, node.bootstrap, environ=environ, names=names) as cluster:
                await asyncio.to_thread(cluster.prepare)
                await asyncio.to_thread(cluster.start)
                await asyncio.to_thread(cluster.wait_ready)
                assert server.pid is not None  # noqa: S101 - it has been started
                carriers = {"postgres": server.pid, "kafka": node.pid}
                conn = await asyncpg.connect(server.url)
                try:
                    return await _Night(breakers, cluster, conn, carriers).live()
                finally:
                    await conn.close()
                    await breakers.stop()


class _Night:
    """All off, some dead, all awake."""

    def __init__(
        self,
        field: BreakerField | AepBreakerField,
        cluster: Cluster,
        conn: asyncpg.Connection,
        carriers: Mapping[str, int],
    ) -> None:
        self._field = field
        self._cluster = cluster
        self._conn = conn
        self._processes = {"ingest": cluster.pid("ingest"), "control": cluster.pid("control"), **carriers}
        """Whose processor's time is told besides our own."""

    async def live(self) -> WakeUp:
        breakers = self._field.breakers
        off_s = await self._all_off()
        await self._until(self._told, "everything about the OFFs was told")
        await asyncio.sleep(SETTLE_S)
        dead = {load_id(n) for n in range(0, len(breakers), round(1 / DEAD))}
        for n, one in enumerate(breakers):
            one.reachable = load_id(n) not in dead
        used = self._used_s()
        began = time.perf_counter()
        order = await self._call("control", "POST", "/api/v1/wake-ups", json={"scope": "all", "reason": "bench"})
        answered_s = time.perf_counter() - began
        async with asyncio.TaskGroup() as group:
            closed = group.create_task(self._closed(began))
            progress = group.create_task(self._progress(order["wake_up_id"], dead, began))
        cpu_s = {name: round(until - used[name], 2) for name, until in self._used_s().items()}
        each_ms = {name: round(1000 * one / (len(breakers) - len(dead)), 2) for name, one in cpu_s.items()}
        return WakeUp(
            len(breakers), len(dead), off_s, answered_s, closed.result(), *progress.result(),
            cpu_s=cpu_s, cpu_ms_per_closing=each_ms,
        )  # fmt: skip

    def _used_s(self) -> dict[str, float]:
        """Return the processor's time of each process so far. [s]"""
        used = processor.used_s(self._processes)
        return {**used, "field": time.process_time()}

    async def _all_off(self) -> float:
        """Register all, wait until each was heard of, and see that all are off; return how long the last took. [s]"""
        if isinstance(self._field, AepBreakerField):
            await self._register(aep_registry_of(self._field))
            self._field.push_to(
                self._cluster.ports["ingest"], lambda: self._cluster.credentials("ingest")["authorization"]
            )
            await self._until(self._all_read, "every breaker was heard of")
            return 0.0
        await self._register(registry_of(self._field))
        await self._until(self._all_read, "every breaker was read")
        return await self._switch_off()

    async def _register(self, document: Mapping[str, Any]) -> None:
        path = "/api/v1/imports?kind=registry&file=bench.yaml"
        await self._call("ingest", "POST", path, content=orjson.dumps(document))  # JSON is YAML

    async def _closed(self, began: float) -> float:
        """Return when the contacts of the last living breaker have closed."""
        living = [one for one in self._field.breakers if one.reachable]
        await self._until(lambda: all(one.closed for one in living), "every living breaker is closed", LOOK_S / 10)
        return time.perf_counter() - began

    async def _progress(self, wake_up_id: str, dead: set[str], began: float) -> tuple[float, float, float]:
        """Ask for the progress as the page does; return when it said commanded, verified and dead of all there are."""
        count = len(self._field.breakers)
        seen: dict[str, float] = {}

        async def settled() -> bool:
            progress = await self._call("control", "GET", f"/api/v1/wake-ups/{wake_up_id}")
            reached = {
                "commanded": progress["commanded"] >= count,
                "verified": progress["verified"] >= count - len(dead),
                # Asked for until they are all named: ten pages a second would be a load of their own.
                "dead": "dead" in seen or (progress["failed"] >= len(dead) and dead <= await self._faulty(wake_up_id)),
            }
            for what, holds in reached.items():
                if holds:
                    seen.setdefault(what, time.perf_counter() - began)
            return len(seen) == len(reached)

        await self._until(settled, "all are settled", PROGRESS_EVERY_S)
        return seen["commanded"], seen["verified"], seen["dead"]

    async def _faulty(self, wake_up_id: str) -> set[str]:
        """Return the loads of which the progress says that, and why, they are not awake."""
        found: set[str] = set()
        path = f"/api/v1/wake-ups/{wake_up_id}/loads?which=failed&limit={PAGE}"
        cursor = ""
        while True:
            page = await self._call("control", "GET", path + cursor)
            found |= {one["load_id"] for one in page["items"]}
            if page["next_cursor"] is None:
                return found
            cursor = f"&cursor={page['next_cursor']}"

    async def _switch_off(self) -> float:
        """Switch all off, block by block, as a plan with a stagger does: an OFF is valid for seconds only."""
        began = time.perf_counter()
        while closed := [load_id(n) for n, one in enumerate(self._field.breakers) if one.closed]:
            body = {
                "action": "open", "load_ids": closed[:BLOCK], "reason": "bench",
                "restore_at": (datetime.now(UTC) + timedelta(hours=2)).isoformat(),
            }  # fmt: skip
            await self._call("control", "POST", "/api/v1/commands", json=body)
            await self._until(self._quiet, "every OFF has ended")
        return time.perf_counter() - began

    async def _all_read(self) -> bool:
        seen = await self._conn.fetchval("select count(distinct device_no) from ingest.readings")
        return bool(seen >= len(self._field.breakers))

    async def _quiet(self) -> bool:
        sql = """
            select not exists (select from control.commands
                                where not is_final and (action = 'open' or not_before <= now()))
        """
        return bool(await self._conn.fetchval(sql))

    async def _told(self) -> bool:
        sql = """
            select not exists (select from control.outbox) and not exists (select from control.audit_pending)
               and not exists (select from ingest.outbox)
        """
        return bool(await self._conn.fetchval(sql))

    async def _call(self, service: str, method: str, path: str, **arguments: Any) -> Any:
        return await asyncio.to_thread(self._cluster.call, service, method, path, **arguments)

    async def _until(self, holds: Callable[[], Any], what: str, every_s: float = LOOK_S) -> None:
        """Wait.

        Raises:
            RuntimeError: It takes minutes: speed without the work is no figure.
        """
        end = time.monotonic() + PATIENCE_S
        while True:
            found = holds()
            if await found if asyncio.iscoroutine(found) else found:
                return
            if time.monotonic() > end:
                raise RuntimeError(f"not within {PATIENCE_S:.0f} s: {what}")
            await asyncio.sleep(every_s)


def main() -> int:
    """Measure, and print what was measured."""
    parser = argparse.ArgumentParser(description="One key wakes breakers; prints what was seen, as JSON.")
    parser.add_argument("breakers", type=int)
    parser.add_argument("way", nargs="?", choices=get_args(Way), default="modbus")
    wanted = parser.parse_args()
    found = uvloop.run(measure(wanted.breakers, wanted.way))
    sys.stdout.write(orjson.dumps(asdict(found)).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
