"""A plan over very many loads: from its approval until every shutdown of a month is a row.

The plan is drafted, approved and gone on with by the code that runs in control, on a database of its own; the clock
runs from the approval until the last row is committed.
"""

import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from datetime import time as wall_time
from pathlib import Path

from libs.common.clock import SystemClock
from libs.common.db import Database
from libs.common.ids import DeviceId, LineId, LoadId, SiteId
from libs.common.migrations import migrate
from libs.common.settings import DatabaseSettings
from libs.common.tokens import KeyRing
from libs.suite.postgres import EmbeddedPostgres
from services.control.domain.guards import Policy
from services.control.domain.loads import LoadInfo
from services.control.domain.plans import PlanOptions, Schedule, Window
from services.control.domain.stagger import Spread, Stagger
from services.control.domain.targets import Groups
from services.control.drivers.door import Board, Doors
from services.control.drivers.samples import SampleBoard
from services.control.usecases.guardfacts import GuardFacts
from services.control.usecases.plans import Plans
from services.control.usecases.ports import AssumedClock, SteadyClock
from services.control.usecases.rush import Rush
from services.control.usecases.scheduler import Scheduler
from services.control.usecases.switching import Switching

LOADS = 100_000
DAYS = 30
TAG = "night"


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured."""

    draft_s: float
    made_s: float
    """From the order to approve until all rows are there."""
    longest_s: float
    """The longest single step, which a wake-up that comes due in it has to wait for."""
    rows: int
    megabytes: float


class _Table:
    """Loads in a table, as the registry's projection has them."""

    def __init__(self) -> None:
        self._loads = {
            LoadId(load_id): LoadInfo(
                load_id=LoadId(load_id), name=load_id, site_id=SiteId(f"site-{number // 10}"),
                device_id=DeviceId(f"breaker-{number}"), line_id=LineId(f"line-{number // 100}"), tags=(TAG,),
            )
            for number in range(LOADS) for load_id in [f"load-{number:06d}"]
        }  # fmt: skip

    def get(self, load_id: str) -> LoadInfo | None:
        return self._loads.get(LoadId(load_id))

    def all(self) -> list[LoadInfo]:
        return list(self._loads.values())

    def at_site(self, site_id: str) -> list[LoadInfo]:
        return [load for load in self._loads.values() if load.site_id == site_id]


async def measure() -> Figures:
    """Return how long it takes.

    Raises:
        RuntimeError: Not every shutdown is there.
    """
    with tempfile.TemporaryDirectory(prefix="wattring-bench-") as place:
        folder = Path(place)
        with EmbeddedPostgres(folder / "postgres") as server:
            await migrate(server.url, phase="post")
            KeyRing.create(folder / "keys")
            db = Database(DatabaseSettings(url=server.url), schema="control", role="wattring_control")
            await db.open()
            try:
                return await _measure(db, KeyRing.open(folder / "keys", SystemClock()))
            finally:
                await db.close()


async def _measure(db: Database, keys: KeyRing) -> Figures:
    clock = SystemClock()
    steady = SteadyClock(clock)
    switching = Switching(loads=_Table(), keys=keys, policy=Policy())
    doors = Doors((), keys)
    board = Board(doors, clock, steady)
    guards = GuardFacts(loads=switching.loads, readings=board, settings=switching.policy)
    scheduler = Scheduler(
        db=db, clock=steady, sync=AssumedClock(), readings=board,
        samples=SampleBoard(doors, clock, steady, load_of=switching.loads.get, devices_of_site=lambda _: ()),
        switching=switching, guards=guards,
        prepare_s=30, watchdog_required=False, rush=Rush(clock),
    )  # fmt: skip
    plans = Plans(db=db, clock=steady, switching=switching, guards=guards, two_persons=False)
    # Tomorrow on, so that none of it begins while it is measured.
    first = (datetime.now(UTC) + timedelta(days=2)).date()
    night = Window(wall_time(23), wall_time(6))
    schedule = Schedule(first, first + timedelta(days=DAYS - 1), (night,), "Asia/Shanghai")
    options = PlanOptions(groups=Groups(tags=(TAG,)), stagger=Stagger(Spread.RANDOM, 1800))

    began = time.perf_counter()
    plan, _ = await plans.draft("bench", [], schedule, (), None, "bench", "bench", options=options)
    draft_s = time.perf_counter() - began

    began = last = time.perf_counter()
    longest_s, more = 0.0, True
    await plans.approve(plan.plan_id, "bench", "bench")
    while more:
        longest_s, last = max(longest_s, time.perf_counter() - last), time.perf_counter()
        more = await scheduler.advance_plans(steady.now())
    made_s = time.perf_counter() - began
    async with db.read() as conn:
        tables = ("plan_occurrences", "distant_shutdowns")
        rows = sum([await conn.fetchval(f"select count(*) from {table}") for table in tables])  # noqa: S608
        size = sum([await conn.fetchval("select pg_total_relation_size($1::regclass)", table) for table in tables])
    if rows != LOADS * DAYS:
        raise RuntimeError(f"{rows} rows for {LOADS} loads and {DAYS} nights")
    return Figures(draft_s=draft_s, made_s=made_s, longest_s=longest_s, rows=rows, megabytes=size / 1e6)
