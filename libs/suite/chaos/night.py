"""One night with real processes: ingest, control, watchdog, broker and database, each killed again and again."""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg
import httpx
import orjson

from libs.common.bus import topics
from libs.common.bus.kafka import KafkaBus
from libs.common.bus.port import StartAt
from libs.common.clock import SystemClock
from libs.common.errors import Unavailable
from libs.common.settings import BusSettings
from libs.suite.breakers import BreakerField, load_id, registry_of, write_profile
from libs.suite.chaos.judge import Books, Unit, faults
from libs.suite.chaos.plan import AROUND_S, Kill, Trouble, draw
from libs.suite.cluster import Cluster, ClusterError
from libs.suite.kafka_node import KafkaNode
from libs.suite.postgres import EXPENDABLE, EmbeddedPostgres

PROCESSES = ("ingest", "control", "watchdog")
LOST_ANSWERS = 0.05
POLL_S = 2.0
POLLS_PER_S = 100.0
"""So many units are read a second at most: a small machine has the kills to cope with as well. [1/s]"""
LEASE_S = 3.0
"""Of a line; with many of them longer, else a busy machine renews some too late, and their OFFs are refused. [s]"""
READY_TIMEOUT_S = 240.0
REST_S = 180.0
"""All is well again within this, or it is a fault; on a quiet machine it takes some seconds. [s]"""
REVIVE_AFTER_S = 1.0
LOOK_S = 0.5
SETTINGS = {
    "WATTRING_INGEST__POLLING__RESPONSE_TIMEOUT_S": "1",
    "WATTRING_INGEST__POLLING__BREAKER_WAITS_S": "[2]",
    "WATTRING_INGEST__POLLING__RECONNECT_CAP_S": "2",
    "WATTRING_INGEST__SWITCHING__RESTORE_MARGIN_S": "5",
    "WATTRING_INGEST__SWITCHING__RETRY_CAP_S": "5",
    "WATTRING_INGEST__SWITCHING__OFF_LEASE_MARGIN_S": "0.5",
    "WATTRING_INGEST__OUTGOING_ALLOWED": '["127.0.0.0/8"]',
    "WATTRING_INGEST__IMPORT_SYNC_BYTES": "20000000",
    "WATTRING_CONTROL__MIN_OFF_S": "1",
    "WATTRING_CONTROL__MIN_ON_S": "0",
    "WATTRING_CONTROL__SCHEDULER_LEASE_S": "3",
    "WATTRING_CONTROL__OVERDUE_MARGIN_S": "10",
    "WATTRING_CONTROL__ON_RETRY_CAP_S": "5",
    "WATTRING_WATCHDOG__MARGIN_S": "8",
    "WATTRING_WATCHDOG__RETRY_CAP_S": "5",
    "WATTRING_LOG_FORMAT": "text",
}
"""A night of a minute: margins and pauses are shortened with it, nothing else is other than in an installation."""

Say = Callable[[str], None]


class NightFailed(RuntimeError):
    """The night shows nothing, because it could not be begun."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a night showed."""

    seed: int
    units: int
    went_off: int
    """Units that were off at some moment."""
    kills: int
    faults: Sequence[str]
    settled_s: float
    """From the end of all disturbances until all was well. [s]"""
    alarmed: int
    """Units with an alarm that stands in the end."""


class House:
    """Everything that runs, and where it is kept: started once, for as many nights as are wanted."""

    def __init__(self, folder: Path, units: int, say: Say) -> None:
        """Prepare."""
        self.field = BreakerField(units)
        self.node = KafkaNode(folder / "kafka", "-XX:TieredStopAtLevel=1")
        self.server = EmbeddedPostgres(folder / "postgres", settings=EXPENDABLE)
        self._folder = folder
        self._say = say
        self._stack = AsyncExitStack()
        self._locks: dict[str, asyncio.Lock] = {}
        self._processes = asyncio.Lock()
        self._cluster: Cluster | None = None

    @property
    def cluster(self) -> Cluster:
        """The processes."""
        if self._cluster is None:
            raise RuntimeError("the house is not open")
        return self._cluster

    async def __aenter__(self) -> "House":
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def _open(self) -> None:
        await self.field.start()
        self._stack.push_async_callback(self.field.stop)
        for start, stop in ((self.node.start, self.node.stop), (self.server.start, self.server.stop)):
            await asyncio.to_thread(start)
            self._stack.push_async_callback(asyncio.to_thread, stop)
        write_profile(self._folder / "profiles")
        environ = {
            **SETTINGS,
            "WATTRING_PROFILE_DIRS": orjson.dumps([str(self._folder / "profiles")]).decode(),
            "WATTRING_INGEST__POLLING__LEASE_S": str(max(LEASE_S, len(self.field.breakers) / POLLS_PER_S)),
            "WATTRING_INGEST__POLLING__INTERVAL_S": str(max(POLL_S, len(self.field.breakers) / POLLS_PER_S)),
        }
        self._cluster = Cluster(self._folder, self.server.url, self.node.bootstrap, environ=environ, names=PROCESSES)
        self._stack.push_async_callback(asyncio.to_thread, self._cluster.stop)
        await asyncio.to_thread(self._cluster.prepare)
        await asyncio.to_thread(self._cluster.start)
        await asyncio.to_thread(self._cluster.wait_ready, timeout_s=READY_TIMEOUT_S)
        document = orjson.dumps(registry_of(self.field))  # JSON is YAML
        await self.call("ingest", "POST", "/api/v1/imports?kind=registry&file=chaos.yaml", content=document)
        supervising = asyncio.create_task(self._supervise(), name="chaos supervises")

        async def end() -> None:
            supervising.cancel()
            await asyncio.wait([supervising])

        self._stack.push_async_callback(end)
        await self._until(self._all_read_closed, "every breaker is read closed")

    async def all_awake(self) -> None:
        """Wait until no unit is off any more, as those may be that were mended after a night.

        Raises:
            NightFailed: That takes too long.
        """

        async def awake() -> bool:
            return all(one.closed for one in self.field.breakers) and not (await self.books()).waking

        await self._until(awake, "every unit is awake")

    async def call(self, service: str, method: str, path: str, **arguments: Any) -> Any:
        """Call a process. Raises ``ClusterError``."""
        return await asyncio.to_thread(self.cluster.call, service, method, path, **arguments)

    async def persistently(self, service: str, method: str, path: str, **arguments: Any) -> Any:
        """Call a process until it takes the call: it may be dead.

        Raises:
            NightFailed: It did not for minutes; with its last answer.
        """
        found: list[Any] = []
        said = ""

        async def taken() -> bool:
            nonlocal said
            try:
                found.append(await self.call(service, method, path, **arguments))
            except (ClusterError, httpx.HTTPError) as exc:
                said = str(exc)
            return bool(found)

        await self._until(taken, f"{method} {path}", lambda: said)
        return found[0]

    async def _all_read_closed(self) -> bool:
        conn = await asyncpg.connect(self.server.url, timeout=30)
        try:
            seen = await conn.fetchval("select count(distinct device_no) from ingest.readings")
        finally:
            await conn.close(timeout=10)
        return bool(seen >= len(self.field.breakers))

    async def _until(self, holds: Callable[[], Any], what: str, detail: Callable[[], str] = lambda: "") -> None:
        end = time.monotonic() + READY_TIMEOUT_S
        while not await holds():
            if time.monotonic() > end:
                raise NightFailed(f"not within {READY_TIMEOUT_S:.0f} s: {what} {detail()}")
            await asyncio.sleep(LOOK_S)

    async def _supervise(self) -> None:
        """Start again what ends by itself, as an orchestrator does."""
        while True:
            async with self._processes:
                await asyncio.to_thread(self.cluster.revive, REVIVE_AFTER_S)
            await asyncio.sleep(LOOK_S)

    async def kill(self, kill: Kill) -> None:
        """Kill somebody and start him again; one that is still away by then is killed when he is back."""
        async with self._locks.setdefault(kill.victim, asyncio.Lock()):
            self._say(f"kill {kill.victim}, away for {kill.away_s:.1f} s")
            if kill.victim == "broker":
                await asyncio.to_thread(self.node.kill)
                await asyncio.sleep(kill.away_s)
                await asyncio.to_thread(self.node.start)
            elif kill.victim == "database":
                await asyncio.to_thread(self.server.kill)
                await asyncio.sleep(kill.away_s)
                await asyncio.to_thread(self.server.start)
            else:
                await self._kill_process(kill.victim)

    async def _kill_process(self, name: str) -> None:
        """Kill one of ours; whoever supervises starts it again."""
        async with self._processes:
            with contextlib.suppress(KeyError):  # it has just been killed, and is not back yet
                await asyncio.to_thread(self.cluster.kill, name)

    async def books(self) -> Books:
        """Return what the platform holds. Raises when broker or database do not answer."""
        conn = await asyncpg.connect(self.server.url, timeout=30)
        try:
            waking, leased, unfinished = [
                {row["load_id"] for row in await conn.fetch(sql)}
                for sql in (
                    """
                    select load_id from control.commands where not is_final
                     union select load_id from control.wake_up_todo
                    """,
                    "select distinct load_id from control.off_leases where closed_at is null",
                    """
                    select distinct load_id from control.occurrences
                     where state not in ('awake', 'skipped', 'called_off')
                    """,
                )
            ]
            return Books(waking, leased, unfinished, await self._alarms())
        finally:
            await conn.close(timeout=10)

    async def _alarms(self) -> dict[str, set[str]]:
        """Return the kinds of conditions that stand, by load: begun by a source and not ended by it."""
        bus = KafkaBus(BusSettings(bootstrap_servers=self.node.bootstrap, site_partitions=8), SystemClock())
        standing: dict[str, dict[tuple[str, str], str]] = {}
        await bus.start()
        try:
            async with bus.tail([topics.CONDITIONS], StartAt(beginning=True)) as reader:
                ends = dict(await reader.end_offsets())
                while any(reader.positions().get(where, 0) < end for where, end in ends.items()):
                    for received in await reader.fetch(max_messages=1000, timeout_s=1.0):
                        one = orjson.loads(received.value or b"{}")
                        if one.get("kind") in ("wake_up_overdue", "wake_up_stopped"):
                            standing.setdefault(one["subject"], {})[one["source"], one["kind"]] = one["phase"]
        finally:
            await bus.stop()
        return {
            load: {kind for (_, kind), phase in kinds.items() if phase != "end"} for load, kinds in standing.items()
        }

    def mend(self) -> None:
        """Let whoever was called do his work: everything can be reached, nothing is locked or tripped."""
        for breaker in self.field.breakers:
            breaker.reachable, breaker.locked, breaker.trip_reason = True, False, 0

    def units(self) -> list[Unit]:
        """Return what the field is."""
        return [
            Unit(load_id(n), one.closed, one.reachable, one.locked or bool(one.trip_reason))
            for n, one in enumerate(self.field.breakers)
        ]


async def live_through(house: House, seed: int, window_s: float, say: Say) -> Outcome:
    """Live through one night and say what it showed.

    Raises:
        NightFailed: Its plan could not be made.
    """
    await house.all_awake()
    kills, troubles = draw(seed, window_s, len(house.field.breakers))
    chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    start = await _plan(house, window_s)
    went_off: set[int] = set()
    house.field.loses_answer = lambda: chance.random() < LOST_ANSWERS
    watching = asyncio.create_task(_watch(house, went_off), name="chaos watches")
    try:
        await _let_it_happen(house, start, kills, troubles, window_s)
    finally:
        watching.cancel()
        await asyncio.wait([watching])
    house.field.loses_answer = lambda: False
    say("nothing is disturbed any more; coming to rest")
    began = time.monotonic()
    found, alarmed = await _at_rest(house)
    return Outcome(seed, len(house.field.breakers), len(went_off), len(kills), found, time.monotonic() - began, alarmed)


async def _plan(house: House, window_s: float) -> datetime:
    """Make and approve a plan whose window begins in some seconds; return when."""
    zone = ZoneInfo("Asia/Shanghai")
    lead_s = 8.0 + len(house.field.breakers) / 100
    start = (datetime.now(UTC) + timedelta(seconds=lead_s)).astimezone(zone).replace(microsecond=0)
    end = start + timedelta(seconds=round(window_s))
    body = {
        "name": "chaos", "load_ids": [load_id(n) for n in range(len(house.field.breakers))],
        "first_date": start.date().isoformat(), "last_date": start.date().isoformat(),
        "windows": [{"start": f"{start:%H:%M:%S}", "end": f"{end:%H:%M:%S}"}],
    }  # fmt: skip
    plan = await house.persistently("control", "POST", "/api/v1/plans", json=body)
    await house.persistently("control", "POST", f"/api/v1/plans/{plan['plan_id']}/approve")
    return start


async def _let_it_happen(
    house: House, start: datetime, kills: Sequence[Kill], troubles: Sequence[Trouble], window_s: float
) -> None:
    async def at(seconds: float) -> None:
        await asyncio.sleep(max((start - datetime.now(UTC)).total_seconds() + seconds, 0.0))

    async def trouble(one: Trouble) -> None:
        await at(one.at_s)
        breaker = house.field.breakers[one.unit]
        if one.what == "leaves":
            breaker.reachable = False
        elif not breaker.closed:
            breaker.locked = one.what == "lock"
            breaker.trip_reason = 2 if one.what == "trip" else 0

    async with asyncio.TaskGroup() as group:
        for one in troubles:
            group.create_task(trouble(one), name=f"chaos: {one.what}")
        for kill in kills:
            await at(kill.at_s)
            group.create_task(house.kill(kill), name=f"chaos: kill {kill.victim}")
        await at(window_s + AROUND_S)


async def _watch(house: House, went_off: set[int]) -> None:
    while True:
        went_off |= {n for n, one in enumerate(house.field.breakers) if not one.closed}
        await asyncio.sleep(0.1)


async def _at_rest(house: House) -> tuple[list[str], int]:
    """Judge until all is well, or it has had time enough; return the faults and the number of alarms that stand."""
    end = time.monotonic() + REST_S
    while True:
        try:
            books = await house.books()
        except (OSError, asyncpg.PostgresError, Unavailable) as exc:
            found, alarmed = [f"cannot be judged: {exc}"], 0
        else:
            found, alarmed = faults(house.units(), books), sum(bool(kinds) for kinds in books.alarms.values())
        if not found or time.monotonic() > end:
            return found, alarmed
        await asyncio.sleep(1.0)
