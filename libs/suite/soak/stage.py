"""What a soak runs on: a real broker, a real database, ingest as a process of its own, and everything done to them."""

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import orjson

from libs.common.bus import topics
from libs.common.bus.kafka import KafkaBus
from libs.common.bus.port import StartAt
from libs.common.clock import SystemClock
from libs.common.settings import BusSettings
from libs.suite.cluster import Cluster
from libs.suite.kafka_node import KafkaNode
from libs.suite.ports import free_port
from libs.suite.postgres import EXPENDABLE, EmbeddedPostgres
from libs.suite.soak.judge import Disturbance
from libs.suite.soak.mosquitto import Mosquitto
from libs.suite.soak.plan import Deed, Step
from libs.suite.soak.served import SERVED, TERMINAL, ServedField, profile_folder

INGEST = "ingest"
TOKEN = "soak0123456789abcdef0123456789abcdef"  # noqa: S105 - of a platform that is simulated
SECRET = f"app_key=soak\napp_secret=soak\nmaster_key=soak\npush_token={TOKEN}\n"
PARK_S = 3
READY_TIMEOUT_S = 300.0
LOOK_S = 0.5
REVIVE_AFTER_S = 1.0
GROUPS: Mapping[str, tuple[str, ...]] = {
    "ingest.history": (topics.READINGS, topics.BACKFILL),
    "ingest.rejected": (topics.REJECTED,),
}
HEARTBEATS = 8
"""They go on, one a second and partition: so many messages are always new."""
UNSETTLED = ("select count(*) from ingest.outbox", "select count(*) from ingest.parked")

Say = Callable[[str], None]


class Stage:
    """Everything that can be killed."""

    def __init__(self, folder: Path, say: Say, *, mqtt: bool) -> None:
        """Prepare; ``say`` is told what is done."""
        self._say = say
        self._stack = ExitStack()
        self._setting = threading.Lock()
        self.terminal_port = free_port()
        self.node = KafkaNode(folder / "kafka", "-XX:TieredStopAtLevel=1")
        self.server = EmbeddedPostgres(folder / "postgres", settings=EXPENDABLE)
        self.mosquitto = Mosquitto(folder / "mosquitto") if mqtt else None
        self.disturbances: list[Disturbance] = []
        self.done: list[str] = []
        self._folder = folder
        self._locks: dict[str, asyncio.Lock] = {}
        self._cluster: Cluster | None = None

    @property
    def cluster(self) -> Cluster:
        """The processes."""
        if self._cluster is None:
            raise RuntimeError("the stage is not set")
        return self._cluster

    @property
    def address(self) -> tuple[str, int]:
        """Where ingest listens."""
        return "127.0.0.1", self.cluster.ports[INGEST]

    def headers(self) -> dict[str, str]:
        """Return fresh credentials for ingest."""
        return self.cluster.credentials(INGEST)

    def start(self) -> None:
        """Start everything.

        Raises:
            PlatformError, ClusterError: Something does not start; what had been started is stopped again.
        """
        with self._setting:
            try:
                self._start()
            except BaseException:
                self._stack.close()
                raise

    def stop(self) -> None:
        """Stop everything; a start that is still going on in another thread is waited for."""
        with self._setting:
            self._stack.close()

    def _start(self) -> None:
        self.node.start()
        self._stack.callback(self.node.stop)
        self.server.start()
        self._stack.callback(self.server.stop, timeout_s=10)
        if self.mosquitto is not None:
            self.mosquitto.start()
            self._stack.callback(self.mosquitto.stop)
        secrets = self._folder / INGEST / "secrets"
        secrets.mkdir(parents=True, mode=0o700)
        (secrets / "soak").touch(0o600)
        (secrets / "soak").write_text(SECRET)
        environ = {
            "WATTRING_PROFILE_DIRS": orjson.dumps([str(profile_folder())]).decode(),
            "WATTRING_INGEST__DTU__PORT": str(self.terminal_port),
            "WATTRING_INGEST__DTU__HOST": "127.0.0.1",
            "WATTRING_INGEST__ACCEPTANCE__PARK_S": str(PARK_S),
            "WATTRING_INGEST__OUTGOING_ALLOWED": '["127.0.0.0/8"]',
            "WATTRING_INGEST__POLLING__BREAKER_WAITS_S": "[1]",
            "WATTRING_INGEST__POLLING__RECONNECT_CAP_S": "2",
        }
        self._cluster = self._stack.enter_context(
            Cluster(self._folder, self.server.url, self.node.bootstrap, environ=environ, names=(INGEST,))
        )
        self.cluster.prepare()
        self.cluster.start()
        self.cluster.wait_ready(timeout_s=READY_TIMEOUT_S)

    # what goes wrong

    async def do(self, step: Step, field: ServedField) -> None:
        """Do one deed, and put things right again."""
        deeds: Mapping[Deed, Callable[[float], Awaitable[None]]] = {
            Deed.KILL_INGEST: self._kill_ingest,
            Deed.KILL_BROKER: self._kill_broker,
            Deed.STOP_BROKER: self._stop_broker,
            Deed.FREEZE_BROKER: self._freeze_broker,
            Deed.KILL_DATABASE: self._kill_database,
            Deed.STOP_DATABASE: self._stop_database,
            Deed.STOP_MQTT: self._stop_mosquitto,
        }
        async with self._locks.setdefault(step.deed.rpartition(" ")[2], asyncio.Lock()):
            began = datetime.now(UTC)
            self._say(f"{step.deed}, away for {step.away_s:.1f} s")
            self.done.append(f"{began.isoformat(timespec='milliseconds')} {step.deed}, away for {step.away_s:.1f} s")
            if step.deed is Deed.CUT_LINES:
                field.cut_lines()
                self._disturbed(began, devices=frozenset(SERVED) - {TERMINAL})
            elif step.deed is Deed.HANG_UP:
                field.hang_up()
                self._disturbed(began, devices=frozenset({TERMINAL}))
            else:
                await deeds[step.deed](step.away_s)

    async def supervise(self) -> None:
        """Start ingest again when it ends by itself, as an orchestrator does."""
        while True:
            lock = self._locks.setdefault(INGEST, asyncio.Lock())
            if not lock.locked():
                async with lock:
                    before = len(self.cluster.endings)
                    await asyncio.to_thread(self.cluster.revive, REVIVE_AFTER_S)
                    if len(self.cluster.endings) > before:
                        self._say(f"ingest ended by itself with {self.cluster.endings[-1].code}")
            await asyncio.sleep(LOOK_S)

    def _disturbed(self, began: datetime, *, devices: frozenset[str] | None = None) -> None:
        self.disturbances.append(Disturbance(began, datetime.now(UTC), devices))

    async def _kill_ingest(self, away_s: float) -> None:
        began = datetime.now(UTC)
        await asyncio.to_thread(self.cluster.kill, INGEST)
        await asyncio.sleep(away_s)
        await asyncio.to_thread(self.cluster.start, INGEST)
        await self.ready()
        self._disturbed(began)

    async def ready(self) -> None:
        """Wait until ingest can work."""
        await asyncio.to_thread(self.cluster.wait_ready, INGEST, timeout_s=READY_TIMEOUT_S)

    async def _kill_broker(self, away_s: float) -> None:
        await asyncio.to_thread(self.node.kill)
        await asyncio.sleep(away_s)
        await asyncio.to_thread(self.node.start)

    async def _stop_broker(self, away_s: float) -> None:
        await asyncio.to_thread(self.node.stop)
        await asyncio.sleep(away_s)
        await asyncio.to_thread(self.node.start)

    async def _freeze_broker(self, away_s: float) -> None:
        self.node.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(away_s)
        finally:
            self.node.signal(signal.SIGCONT)

    async def _kill_database(self, away_s: float) -> None:
        await asyncio.to_thread(self.server.kill)
        await asyncio.sleep(away_s)
        await asyncio.to_thread(self.server.start)

    async def _stop_database(self, away_s: float) -> None:
        await asyncio.to_thread(self.server.stop, timeout_s=20)
        await asyncio.sleep(away_s)
        await asyncio.to_thread(self.server.start)

    async def _stop_mosquitto(self, away_s: float) -> None:
        if self.mosquitto is not None:
            await asyncio.to_thread(self.mosquitto.stop)
            await asyncio.sleep(away_s)
            await asyncio.to_thread(self.mosquitto.start)

    def ended_by_themselves(self) -> list[str]:
        """Return which processes ended though nobody had killed them, with their last words."""
        return [
            f"{one.name} ended with {one.code}: {self.cluster.last_words(one.name, 5)}"
            for one in self.cluster.endings
            if not one.by_us
        ]

    # what is there at the end

    async def drained(self, within_s: float) -> str | None:
        """Wait until spool, outbox, waiting room and topics are empty; return what is not, None when all is."""
        end = asyncio.get_running_loop().time() + within_s
        while True:
            found = await self._left()
            if found is None or asyncio.get_running_loop().time() > end:
                return found
            await asyncio.sleep(LOOK_S)

    async def _left(self) -> str | None:
        spooled = await asyncio.to_thread(self._spooled)
        if spooled:
            return f"{spooled:.0f} messages are in the spool"
        conn = await asyncpg.connect(self.server.url, timeout=30)
        try:
            outbox, parked = [await conn.fetchval(statement) for statement in UNSETTLED]
            if outbox or parked:
                return f"{outbox} messages are in the outbox, {parked} reports wait for their device"
            return await self._behind(conn)
        finally:
            await conn.close(timeout=10)

    async def _behind(self, conn: asyncpg.Connection) -> str | None:
        bus = KafkaBus(BusSettings(bootstrap_servers=self.node.bootstrap, site_partitions=8), SystemClock())
        await bus.start()
        try:
            for group, names in GROUPS.items():
                async with bus.tail(names, StartAt.end()) as reader:
                    ends = dict(await reader.end_offsets())
                rows = await conn.fetch(
                    "select topic, partition, next from ingest.consumer_cursors where grp = $1", group
                )
                at = {(row["topic"], row["partition"]): row["next"] for row in rows}
                behind = sum(max(end - at.get((where.topic, where.partition), 0), 0) for where, end in ends.items())
                if behind > HEARTBEATS:
                    return f"{group} has {behind} messages before it"
        finally:
            await bus.stop()
        return None

    def _spooled(self) -> float:
        answer = httpx.get(
            f"http://127.0.0.1:{self.cluster.ports[INGEST]}/metrics",
            headers=self.headers(), trust_env=False, timeout=30,
        )  # fmt: skip
        answer.raise_for_status()
        lines = answer.text.splitlines()
        return sum(
            float(line.rpartition(" ")[2]) for line in lines if line.startswith("wattring_ingest_buffer_records")
        )

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """Call ingest. Raises ``ClusterError``."""
        return self.cluster.call(INGEST, method, path, **arguments)

    def pages(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """Return the items of all pages of a list."""
        items: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            page = self.call("GET", path, params={**query, **({} if cursor is None else {"cursor": cursor})})
            items += page["items"]
            cursor = page.get("next_cursor")
            if cursor is None:
                return items
