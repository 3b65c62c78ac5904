"""Control alone on one core: commands through their whole life, from the order to the proof.

Wake-ups are ordered, signed, published out of the outbox, answered three times (accepted, executed, verified) and
settled, with history and events of every step; the database is on the other cores, the bus hands messages over.

    python -m libs.suite.bench_control COMMANDS

prints how many seconds each part took, as JSON.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import orjson
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
    """Control, and how long its parts took."""

    def __init__(self, db: Database, keys: KeyRing, count: int) -> None:
        """Wire it."""
        steady = SteadyClock(SystemClock())
        rush = Rush(SystemClock())
        self.took: defaultdict[str, float] = defaultdict(float)
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
        """Order every load's wake-up and see all of them through."""
        began = time.perf_counter()
        order = WakeOrder("all", "", tuple(self.loads.all()), "user:bench", "api", "bench", suspends=False)
        async with self._db.write() as conn:
            await self._orders.wake(conn, order)
        began = self._note("order", began)
        while await self._scheduler.waking.turn(self._steady.now()):
            pass
        began = self._note("dispatch", began)
        sent = await self._publish()
        began = self._note("publish", began)
        for stage in STAGES:
            answers = [_answer(raw, stage, offset) for offset, raw in enumerate(sent)]
            began = time.perf_counter()
            for first in range(0, len(answers), BATCH):
                async with self._db.effects() as conn:
                    await self._results.handle(conn, answers[first : first + BATCH])
            began = self._note(stage.value, began)
        await self._publish()
        self._note("publish", began)

    async def _publish(self) -> list[dict[str, object]]:
        """Take everything out of the outbox, as its relay does, and return the commands."""
        sent: list[dict[str, object]] = []
        while True:
            async with self._db.read() as conn:
                rows = await conn.fetch("select id, topic, value, headers from outbox order by id limit $1", BATCH)
            if not rows:
                return sent
            for row in rows:
                unpack_headers(row["headers"])
                if row["topic"] == topics.COMMANDS:
                    sent.append(orjson.loads(row["value"]))
            async with self._db.write() as write:
                await write.execute("delete from outbox where id = any($1::bigint[])", [row["id"] for row in rows])

    def _note(self, part: str, began: float) -> float:
        now = time.perf_counter()
        self.took[part] += now - began
        return now


def _answer(raw: dict[str, object], stage: Stage, offset: int) -> Received:
    """Return what the line's holder says of a command."""
    proven = stage is Stage.VERIFIED
    evidence = Evidence(feedback_point="breaker_state", feedback_value=1.0) if proven else Evidence()
    result = Result(
        command_id=CommandId(str(raw["command_id"])), site_id=SiteId(str(raw["site_id"])), stage=stage, epoch=1,
        at=SystemClock().now(), evidence=evidence,
    )  # fmt: skip
    return Received(topics.RESULTS, 0, offset, result.site_id, result.to_json(), (), result.at)


async def measure(count: int) -> dict[str, float]:
    """Return how long each part took of as many commands, together ``total``. [s]

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
                control = Control(db, KeyRing.open(folder / "keys", SystemClock()), count)
                await control.live()
                async with db.read() as conn:
                    done = await conn.fetchval("select count(*) from commands where state = 'succeeded'")
            finally:
                await db.close()
    if done != count:
        raise RuntimeError(f"{done} commands of {count} succeeded")
    return {**control.took, "total": sum(control.took.values())}


def main() -> int:
    """Measure, and print what was measured."""
    found = asyncio.run(measure(int(sys.argv[1])))
    sys.stdout.write(orjson.dumps(found).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
