"""Control alone on one core: commands through their whole life, from the order to the proof.

Wake-ups are ordered, signed, published out of the outbox, answered three times (accepted, executed, verified) and
settled, with history and events of every step; sending, relay and answers work side by side, as in the service. The
database is on the other cores, the bus hands messages over.

    python -m libs.suite.bench_control COMMANDS

prints after how many seconds each part was done, as JSON; all of it with ``told``.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping
from itertools import count
from pathlib import Path

import orjson
import uvloop
from pydantic import SecretStr

from libs.common.bus import topics
from libs.common.bus.headers import unpack_headers
from libs.common.bus.port import Received
from libs.common.clock import SystemClock
from libs.common.contracts.control import Evidence, Result, Stage
from libs.common.db import Database
from libs.common.ids import CommandId, DeviceId, LineId, LoadId, SiteId
from libs.common.migrations import migrate
from libs.common.settings import DatabaseSettings
from libs.common.tokens import KeyRing
from libs.suite.postgres import EmbeddedPostgres
from services.control.domain.conditions import Quantity, Sample
from services.control.domain.guards import Policy, Reading
from services.control.domain.loads import LoadInfo
from services.control.usecases.guardfacts import GuardFacts
from services.control.usecases.orders import Orders, WakeOrder
from services.control.usecases.ports import AssumedClock, SteadyClock
from services.control.usecases.results import ResultHandler
from services.control.usecases.rush import Rush
from services.control.usecases.scheduler import Scheduler
from services.control.usecases.switching import Switching

BATCH = 1000
"""Messages that the outbox's relay and the consumer of results take at a time. [1]"""
LOOK_S = 0.01
"""How long the relay waits where nothing is in the outbox. [s]"""
PER_SITE = 20
STAGES = (Stage.ACCEPTED, Stage.EXECUTED, Stage.VERIFIED)


class Loads:
    """The registry's loads, and a board that has not looked: results are the proof."""

    def __init__(self, count: int) -> None:
        """Make them."""
        self._loads = {
            f"aau-{n}": LoadInfo(
                load_id=LoadId(f"aau-{n}"), name=f"AAU {n}", site_id=SiteId(f"s-{n // PER_SITE}"),
                device_id=DeviceId(f"brk-{n}"), line_id=LineId(f"l-{n}"),
            )
            for n in range(count)
        }  # fmt: skip

    def get(self, load_id: str) -> LoadInfo | None:
        """Return a load."""
        return self._loads.get(load_id)

    def all(self) -> list[LoadInfo]:
        """Return every load."""
        return list(self._loads.values())

    def at_site(self, site_id: str) -> list[LoadInfo]:
        """Return the loads of a site."""
        return [load for load in self._loads.values() if load.site_id == site_id]

    def of(self, load_id: str) -> Reading | None:
        """Return no reading."""
        return None

    def series(self, load_id: str, quantity: Quantity) -> list[list[Sample]]:
        """Return no values."""
        return []


class Control:
    """Control as its process runs it, and when its parts were done."""

    def __init__(self, db: Database, keys: KeyRing, count: int) -> None:
        """Wire it."""
        steady = SteadyClock(SystemClock())
        rush = Rush(SystemClock())
        self.took: dict[str, float] = {}
        """When each part was done, from the order on. [s]"""
        self._began = 0.0
        self._line = Line()
        self._answers: deque[Received] = deque()
        self._come = asyncio.Event()
        self._is_settled = False
        self.loads = Loads(count)
        self._db = db
        self._steady = steady
        switching = Switching(loads=self.loads, keys=keys, policy=Policy())
        guards = GuardFacts(loads=self.loads, readings=self.loads, settings=switching.policy)
        self._scheduler = Scheduler(
            db=db, clock=steady, sync=AssumedClock(), readings=self.loads, samples=self.loads, switching=switching,
            guards=guards, prepare_s=30, watchdog_required=False, rush=rush,
        )  # fmt: skip
        self._orders = Orders(
            db=db, clock=steady, switching=switching, readings=self.loads, scheduler=self._scheduler, guards=guards
        )
        self._results = ResultHandler(clock=steady, switching=switching, wake_relay=lambda: None, rush=rush)

    async def live(self) -> None:
        """Order every load's wake-up and see all of them through; sending, relay and answers work side by side."""
        loads = tuple(self.loads.all())
        order = WakeOrder("all", "", loads, "user:bench", "api", "bench", suspends=False)
        self._began = time.perf_counter()
        async with self._db.write() as conn:
            await self._orders.wake(conn, order)
        self._note("ordered")
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send())
            answering = group.create_task(self._answer(len(loads)))
            relay = group.create_task(self._relay())
            await answering
            self._is_settled = True
            await relay

    async def _send(self) -> None:
        while await self._scheduler.waking.turn(self._steady.now()):
            pass
        self._note("sent")

    async def _relay(self) -> None:
        """Take everything out of the outbox, as its relay does, until all is settled and told; the lines answer."""
        while True:
            last = self._is_settled
            async with self._db.read() as conn:
                rows = await conn.fetch("select id, topic, value, headers from outbox order by id limit $1", BATCH)
            for row in rows:
                unpack_headers(row["headers"])
            found = [orjson.loads(row["value"]) for row in rows if row["topic"] == topics.COMMANDS]
            self._answers.extend(self._line.answer(one, stage) for stage in STAGES for one in found)
            self._come.set()
            if rows:
                async with self._db.write() as write:
                    await write.execute("delete from outbox where id = any($1::bigint[])", [row["id"] for row in rows])
            elif last:
                break
            else:
                await asyncio.sleep(LOOK_S)
        self._note("told")

    async def _answer(self, count: int) -> None:
        """Take the answers as they come, as the consumer does."""
        left = count * len(STAGES)
        while left:
            if not self._answers:
                self._come.clear()
                await self._come.wait()
            batch = [self._answers.popleft() for _ in range(min(BATCH, len(self._answers)))]
            if batch:
                async with self._db.effects() as conn:
                    await self._results.handle(conn, batch)
            left -= len(batch)
        self._note("settled")

    def _note(self, part: str) -> None:
        self.took[part] = time.perf_counter() - self._began


class Line:
    """What the holder of lines says of commands. Its work is not control's, so it is next to none."""

    def __init__(self) -> None:
        """Write an answer of each stage, with blanks."""
        self._offsets = count()
        self._now = SystemClock().now()
        proof = Evidence(feedback_point="breaker_state", feedback_value=1.0)
        self._blanks = {
            stage: Result(
                command_id=CommandId("(command)"), site_id=SiteId("(site)"), stage=stage, epoch=1, at=self._now,
                evidence=proof if stage is Stage.VERIFIED else Evidence(),
            ).to_json()
            for stage in STAGES
        }  # fmt: skip

    def answer(self, command: Mapping[str, object], stage: Stage) -> Received:
        """Return what it says of a command."""
        command_id, site_id = str(command["command_id"]), str(command["site_id"])
        value = self._blanks[stage].replace(b"(command)", command_id.encode()).replace(b"(site)", site_id.encode())
        return Received(topics.RESULTS, 0, next(self._offsets), site_id, value, (), self._now)


async def measure(commands: int) -> dict[str, float]:
    """Return when each part was done with as many commands, from the order on. [s]

    Raises:
        RuntimeError: Not every command ended well: speed without the work is no figure.
    """
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, set(cores[1:]) or set(cores))  # what is started from here on inherits it
    with tempfile.TemporaryDirectory(prefix="wattring-bench-") as place:
        folder = Path(place)
        with EmbeddedPostgres(folder / "postgres") as server:
            os.sched_setaffinity(0, {cores[0]})
            await migrate(server.url, ["bus", "control"], phase="post")
            KeyRing.create(folder / "keys")
            settings = DatabaseSettings(url=SecretStr(server.url))
            db = Database(settings, schema="control", role="wattring_control")
            await db.open()
            try:
                control = Control(db, KeyRing.open(folder / "keys", SystemClock()), commands)
                await control.live()
                async with db.read() as conn:
                    done = await conn.fetchval("select count(*) from commands where state = 'succeeded'")
            finally:
                await db.close()
    if done != commands:
        raise RuntimeError(f"{done} commands of {commands} succeeded")
    return control.took


def main() -> int:
    """Measure, and print what was measured."""
    found = uvloop.run(measure(int(sys.argv[1])))
    sys.stdout.write(orjson.dumps(found).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
