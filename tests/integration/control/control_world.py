"""Control on a real database with a clock that is moved by hand, breakers that are objects, and a bus that is a list.

The outbox is read in place of a bus, so that a test decides when, whether and how often a message arrives.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import orjson
from pydantic import SecretStr

from libs.common.bus import topics
from libs.common.bus.headers import unpack_headers
from libs.common.bus.port import Received
from libs.common.contracts.control import Command as WireCommand
from libs.common.contracts.control import CommandAction, Evidence, Result, Stage
from libs.common.db import Database
from libs.common.ids import DeviceId, LineId, LoadId, SiteId
from libs.common.settings import DatabaseSettings
from libs.common.signing import signed_bytes
from libs.common.testing.clock import FakeClock
from libs.common.tokens import KeyRing, canonical
from services.control.domain.conditions import Quantity, Sample
from services.control.domain.guards import PROTECTION_TRIPS, Policy, Reading
from services.control.domain.inrush import InrushLimits
from services.control.domain.loads import LoadInfo
from services.control.store import leases as lease_store
from services.control.usecases.guardfacts import GuardFacts
from services.control.usecases.isolations import Isolations
from services.control.usecases.orders import Orders
from services.control.usecases.plans import Plans
from services.control.usecases.ports import Alone, Neighbours, SteadyClock
from services.control.usecases.results import ResultHandler
from services.control.usecases.rush import Rush
from services.control.usecases.scheduler import Scheduler
from services.control.usecases.switching import Switching

SITE = SiteId("site-1")


@dataclass
class Breaker:
    """A breaker and the ingest process that holds its line."""

    closed: bool = True
    reachable: bool = True
    answers: bool = True
    """Whether results come back."""
    local_lock: bool = False
    trip_reason: int = 0
    draws_kw: float | None = None
    refuses_to_open: bool = False
    opened_at: float | None = None
    switched: int = 0
    executed: set[str] = field(default_factory=set)
    restore_at: datetime | None = None
    deadline: float | None = None
    """Monotonic time at which the holder closes by itself."""


class FieldSim:
    """Ingest and the field: executes signed commands once each, reads back, closes by itself."""

    def __init__(self, clock: FakeClock, keys: KeyRing, *, holder_margin_s: float = 5.0) -> None:
        self.clock = clock
        self.keys = keys
        self.breakers: dict[str, Breaker] = {}
        self.door_open = True
        self.holder_alive = True
        self.holder_margin_s = holder_margin_s
        self.loses_answer: Callable[[], bool] = lambda: False
        """Asked at every exchange with a device: whether its answer is lost, after it has done what it was asked."""
        self.results: list[Result] = []

    def reading(self, load_id: str) -> Reading | None:
        breaker = self.breakers.get(load_id)
        if breaker is None or not self.door_open or not self.holder_alive:
            return None
        if not breaker.reachable or self.loses_answer():
            return Reading(breaker=None, read_at=None, age_s=1e6)
        return Reading(
            breaker=int(breaker.closed), read_at=self.clock.now(), age_s=0.0, local_lock=breaker.local_lock,
            trip_reason=breaker.trip_reason,
        )  # fmt: skip

    def execute(self, command: WireCommand, raw: dict[str, object]) -> None:
        signed = signed_bytes(canonical(WireCommand.signed_part(raw)), command.proof)  # type: ignore[arg-type]
        assert self.keys.verify_bytes("control", signed, command.signature)
        breaker = self.breakers[str(command.load_id)]
        if not self.holder_alive or command.command_id in breaker.executed:
            return
        if command.action is not CommandAction.CLOSE and self.clock.now() > command.not_after:
            return
        breaker.executed.add(command.command_id)
        if command.action is CommandAction.READ_BACK:
            self._say_read(command, breaker)
            return
        self._say(command, Stage.ACCEPTED)
        if not breaker.reachable:
            self._say(command, Stage.UNKNOWN)
        elif breaker.local_lock:
            self._say(command, Stage.REFUSED, reason="local_lock")
        elif command.action is CommandAction.OPEN:
            self._open(breaker, command)
        elif breaker.trip_reason in PROTECTION_TRIPS and not breaker.closed:
            self._say(command, Stage.REFUSED, reason="protection_trip")
        else:
            self.close(breaker)
            self._say_read(command, breaker)

    def door_on(self, load_id: str) -> bool:
        """Close by the direct door; returns whether it was taken and proven."""
        breaker = self.breakers[load_id]
        stopped = breaker.local_lock or (breaker.trip_reason in PROTECTION_TRIPS and not breaker.closed)
        if not (self.holder_alive and self.door_open and breaker.reachable) or stopped:
            return False
        self.close(breaker)
        return not self.loses_answer()

    def _open(self, breaker: Breaker, command: WireCommand) -> None:
        if breaker.refuses_to_open:
            self._say(command, Stage.FAILED, reason="reads_closed")
            return
        if breaker.closed:
            breaker.opened_at = self.clock.monotonic()
            breaker.switched += 1
        breaker.closed = False
        breaker.restore_at = command.restore_at
        breaker.deadline = None
        if command.off_at_most_s is not None:
            breaker.deadline = self.clock.monotonic() + command.off_at_most_s
        self._say_read(command, breaker)

    def close(self, breaker: Breaker) -> None:
        if not breaker.closed:
            breaker.switched += 1
        breaker.closed, breaker.opened_at, breaker.restore_at, breaker.deadline = True, None, None, None

    def holder_turn(self) -> None:
        """Close what is over, as the line's holder does from its own disk."""
        if not self.holder_alive:
            return
        for breaker in self.breakers.values():
            stopped = breaker.local_lock or breaker.trip_reason in PROTECTION_TRIPS
            if breaker.closed or breaker.restore_at is None or stopped or not breaker.reachable:
                continue
            late_s = (self.clock.now() - breaker.restore_at).total_seconds()
            by_length = (
                breaker.deadline is not None and self.clock.monotonic() > breaker.deadline + self.holder_margin_s
            )
            if late_s > self.holder_margin_s or by_length:
                self.close(breaker)

    def _say_read(self, command: WireCommand, breaker: Breaker) -> None:
        self._say(command, Stage.VERIFIED if breaker.reachable and not self.loses_answer() else Stage.UNKNOWN)

    def _say(self, command: WireCommand, stage: Stage, reason: str | None = None) -> None:
        breaker = self.breakers[str(command.load_id)]
        seen = stage not in (Stage.ACCEPTED, Stage.UNKNOWN)
        result = Result(
            command_id=command.command_id, site_id=command.site_id, stage=stage, epoch=1, at=self.clock.now(),
            evidence=Evidence(
                feedback_point="breaker_state" if seen else None,
                feedback_value=float(breaker.closed) if seen else None,
                meter_power_kw=breaker.draws_kw if seen else None,
                local_lock=breaker.local_lock if seen else None,
                trip_reason=breaker.trip_reason if seen else None,
            ),
            reason=reason,
        )  # fmt: skip
        if breaker.answers:
            self.results.append(result)


class LoadTable:
    """Loads in a dict."""

    def __init__(self) -> None:
        self.loads: dict[str, LoadInfo] = {}

    def get(self, load_id: str) -> LoadInfo | None:
        return self.loads.get(load_id)

    def all(self) -> list[LoadInfo]:
        return list(self.loads.values())

    def at_site(self, site_id: str) -> list[LoadInfo]:
        return [load for load in self.loads.values() if load.site_id == site_id]


class SyncedClock:
    """A clock whose synchronisation a test decides."""

    def __init__(self) -> None:
        self.why: str | None = None

    def problem(self) -> str | None:
        return self.why


OCCURRENCES = """
    (select plan_no, start_local, load_id, off_at, on_at from plan_occurrences
      union all
     select plan_no, start_local, load_id, d.off_at, w.on_at
       from distant_shutdowns d join plan_windows w using (window_no) join plan_loads l using (plan_no, load_no)
      union all
     select plan_no, start_local, load_id, d.off_at, w.on_at
       from distant_occurrences d join plan_windows w using (plan_no, start_local)) every
"""
"""All of them, near and distant, also those of a former release."""


class World:
    """One installation of control, its field and its bus."""

    def __init__(
        self, db: Database, clock: FakeClock, keys: KeyRing, policy: Policy, *, watchdog: bool = False
    ) -> None:
        self.db = db
        self.clock = clock
        self.keys = keys
        self.loads = LoadTable()
        self.field = FieldSim(clock, keys)
        self.sync = SyncedClock()
        self.watchdog_required = watchdog
        self.policy = policy
        self.inrush = InrushLimits()
        self.neighbours: Neighbours = Alone()
        self.samples: dict[tuple[str, Quantity], list[list[Sample]]] = {}
        self.published: list[tuple[str, dict[str, object]]] = []
        """Everything that left the outbox: topic and payload."""
        self.commands: list[dict[str, object]] = []
        """Commands that left the outbox and have not reached the field."""
        self._offsets = itertools.count()
        self.start()

    def of(self, load_id: str) -> Reading | None:
        """Be the board."""
        return self.field.reading(load_id)

    def series(self, load_id: str, quantity: Quantity) -> list[list[Sample]]:
        """Be the board of samples."""
        return self.samples.get((load_id, quantity), [])

    def start(self) -> None:
        """Make new objects, as a process that starts does."""
        self.steady = SteadyClock(self.clock)
        self.rush = Rush(self.clock)
        self.switching = Switching(loads=self.loads, keys=self.keys, policy=self.policy)
        self.guards = GuardFacts(
            loads=self.loads, readings=self, settings=self.policy, neighbours=self.neighbours
        )  # fmt: skip
        self.scheduler = Scheduler(
            db=self.db, clock=self.steady, sync=self.sync, readings=self, samples=self, switching=self.switching,
            guards=self.guards, prepare_s=30, watchdog_required=self.watchdog_required, inrush=self.inrush,
            answers_come=lambda: self.handler.answers_come(), rush=self.rush,
        )  # fmt: skip
        self.plans = Plans(
            db=self.db, clock=self.steady, switching=self.switching, guards=self.guards, two_persons=False
        )
        self.orders = Orders(
            db=self.db, clock=self.steady, switching=self.switching, readings=self, scheduler=self.scheduler,
            guards=self.guards,
        )  # fmt: skip
        self.isolations = Isolations(db=self.db, clock=self.steady, switching=self.switching)
        self.handler = ResultHandler(
            clock=self.steady, switching=self.switching, wake_relay=lambda: None, rush=self.rush
        )

    def add_load(self, load_id: str, **changes: object) -> Breaker:
        self.loads.loads[load_id] = LoadInfo(
            **{  # type: ignore[arg-type]
                "load_id": LoadId(load_id), "name": load_id, "site_id": SITE, "region_ids": ("440106", "440100"),
                "device_id": DeviceId(f"brk-{load_id}"), "line_id": LineId("line-1"), **changes,
            }
        )  # fmt: skip
        self.field.breakers[load_id] = Breaker()
        return self.field.breakers[load_id]

    # Steps.

    async def tick(self) -> None:
        while await self.scheduler.tick():
            pass

    async def relay(self) -> int:
        """Publish the outbox."""
        async with self.db.write() as conn:
            rows = await conn.fetch("delete from outbox returning id, topic, value, headers")
        for row in sorted(rows, key=lambda row: row["id"]):
            unpack_headers(row["headers"])
            payload = orjson.loads(row["value"])
            self.published.append((row["topic"], payload))
            if row["topic"] == topics.COMMANDS:
                self.commands.append(payload)
        return len(rows)

    def deliver(self) -> None:
        """Let the field have the commands that were published; it knows nothing of orders inside devices."""
        for raw in self.commands:
            if raw.get("load_id") is None:
                continue
            self.field.execute(WireCommand.from_json(orjson.dumps(raw)), raw)
        self.commands.clear()

    async def answer(self) -> None:
        """Let control have the field's results, in one batch and one transaction."""
        results, self.field.results = self.field.results, []
        if results:
            await self.handle([received(result, next(self._offsets)) for result in results])

    async def handle(self, batch: list[Received]) -> None:
        async with self.db.effects() as conn:
            await self.handler.handle(conn, batch)

    async def tell_watchdog(self) -> None:
        async with self.db.read() as conn:
            untold = await lease_store.untold_leases(conn, 1000)
        async with self.db.write() as write:
            await lease_store.mark_told(write, untold)

    async def turn(self, *, by_s: float = 0.0) -> None:
        """Move the clock and let every part have its turn once."""
        if by_s:
            await self.clock.advance(by_s)
        await self.tick()
        await self.relay()
        self.deliver()
        self.field.holder_turn()
        await self.answer()

    async def run(self, for_s: float, *, step_s: float = 1.0) -> None:
        for _ in range(int(for_s / step_s)):
            await self.turn(by_s=step_s)

    # Looking.

    def events(self, topic: str) -> list[dict[str, object]]:
        return [payload for name, payload in self.published if name == topic]

    async def states(self, load_id: str) -> list[tuple[str, str, str]]:
        """Return (action, state, reason) of a load's commands, the oldest first."""
        async with self.db.read() as conn:
            rows = await conn.fetch(
                "select action, state, reason from commands where load_id = $1 order by created_at, not_before", load_id
            )
        return [(row["action"], row["state"], row["reason"]) for row in rows]

    async def occurrence_states(self) -> list[str]:
        async with self.db.read() as conn:
            rows = await conn.fetch("select state from plan_occurrences order by off_at, load_id")
        return [row["state"] for row in rows]

    async def value(self, sql: str, *arguments: object) -> object:
        async with self.db.read() as conn:
            return await conn.fetchval(sql, *arguments)


def received(result: Result, offset: int) -> Received:
    return Received(topics.RESULTS, 0, offset, result.site_id, result.to_json(), (), result.at)


def new_keys(folder: Path, clock: FakeClock) -> KeyRing:
    KeyRing.create(folder)
    return KeyRing.open(folder, clock)


def database(url: str) -> Database:
    return Database(DatabaseSettings(url=SecretStr(url), pool_max=4), schema="control", role="wattring_control")


def local(clock: FakeClock, offset_s: float) -> datetime:
    """Return the wall time in Shanghai that many seconds from now, to the second."""
    return (clock.now() + timedelta(seconds=offset_s, hours=8)).replace(tzinfo=None, microsecond=0)
