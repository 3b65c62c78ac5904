"""Control, the watchdog, a line's holder and a bus between them, each of which may be killed between any two steps.

Control is the real one on a real database, the watchdog the real engine on a real file; field, bus and the calls
between processes are objects. The bus keeps what it was given and brings it at least once; time is moved by hand.
"""

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson

from libs.common.bus import outbox, topics
from libs.common.bus.headers import unpack_headers
from libs.common.contracts.alarm import ConditionKind
from libs.common.contracts.base import Phase
from libs.common.contracts.control import Command as WireCommand
from libs.common.errors import InvalidInput, Unavailable
from libs.common.testing.clock import FakeClock
from libs.common.tokens import KeyRing
from services.control import bus
from services.control.domain.guards import PROTECTION_TRIPS, Policy
from services.control.domain.watch import Judgement, Seen
from services.control.store import commands as store
from services.control.store import leases as lease_store
from services.control.store import loads as load_store
from services.control.usecases.orders import WakeOrder
from services.control.watchdog.engine import Look, Watchdog
from services.control.watchdog.journal import Journal
from services.control.watchdog.settings import WatchdogSettings
from tests.integration.control.control_world import World, received
from tests.integration.control.mortal import Killed, Mortal

SECOND_PATH_BATCH = 100
UNANSWERED = timedelta(seconds=2)
WATCHDOG_LOOKS_EVERY_S = 20.0
"""Slower than it is, and dear with a thousand units: whatever depends on how often it looks shows the sooner. [s]"""


class MortalWorld(World):
    """An installation with a watchdog, in which a step that is killed is taken up by the next process."""

    def __init__(self, db: Mortal, clock: FakeClock, keys: KeyRing, policy: Policy, journal: Path) -> None:
        self.mortal = db
        self.control_up = self.bus_up = self.watchdog_up = True
        self.dies_publishing: Callable[[], bool] = lambda: False
        """Asked between any two messages that control publishes."""
        self.delivers_again: Callable[[], bool] = lambda: False
        """Asked of every command that the bus brings."""
        self._journal_path = journal
        self._epochs = itertools.count(1)
        self._positions = itertools.count()
        self._tried: set[str] = set()
        self._looks_at = float("-inf")
        self.starts = 0
        super().__init__(db, clock, keys, policy, watchdog=True)  # type: ignore[arg-type]
        self.start_watchdog()

    # Processes.

    def start(self) -> None:
        super().start()
        self.epoch = next(self._epochs)
        self.told_all = False
        self._tried.clear()
        self._recovered = False
        self.starts += 1

    def start_watchdog(self) -> None:
        self.journal = Journal(self._journal_path)
        self.journal.open()
        self.dog = Watchdog(
            journal=self.journal, reach=_Reach(self), clock=self.clock, boot="boot-1", settings=WatchdogSettings()
        )

    def kill_watchdog(self) -> None:
        self.watchdog_up = False
        self.journal.close()

    def revive_watchdog(self) -> None:
        self.watchdog_up = True
        self.start_watchdog()

    async def survive(self, step: Coroutine[Any, Any, object]) -> None:
        """Take a step of control; when it is killed in it, another process starts. A refusal is an answer."""
        try:
            await step
        except (InvalidInput, Unavailable):
            return
        except Killed:
            self.start()

    # One turn of everything.

    async def live(self, by_s: float = 0.0) -> None:
        """Move the clock and let every part have its turn once, as far as it is there."""
        if by_s:
            await self.clock.advance(by_s)
        if self.control_up:
            for step in (self.recover, self.tick, self.tell_watchdog, self.relay, self.second_path):
                await self.survive(step())
        if self.bus_up:
            self.deliver()
        self.field.holder_turn()
        if self.watchdog_up and self.clock.monotonic() >= self._looks_at:
            self._looks_at = self.clock.monotonic() + WATCHDOG_LOOKS_EVERY_S
            async with asyncio.TaskGroup() as group:
                await self.dog.turn(group)
        if self.control_up and self.bus_up:
            await self.survive(self.answer())

    async def recover(self) -> None:
        if not self._recovered:
            await self.scheduler.recover()
            self._recovered = True

    async def relay(self) -> int:
        """Publish the outbox, in its order; what was published and not deleted is published again."""
        if not self.bus_up:
            return 0
        async with self.db.write() as conn:
            rows = await conn.fetch("select id, topic, value, headers from outbox order by id")
            if not rows:
                return 0
            for row in rows:
                if self.dies_publishing():
                    self.mortal.deaths += 1
                    raise Killed(committed=False)
                unpack_headers(row["headers"])
                payload = orjson.loads(row["value"])
                self.published.append((row["topic"], payload))
                if row["topic"] == topics.COMMANDS:
                    self.commands.append(payload)
            await conn.execute("delete from outbox where id = any($1::bigint[])", [row["id"] for row in rows])
        return len(rows)

    def deliver(self) -> None:
        """Let the field have the commands; a holder that is not there reads them when it is there again."""
        if not self.field.holder_alive:
            return
        twice = [raw for raw in self.commands if self.delivers_again()]
        for raw in [*self.commands, *twice]:
            self.field.execute(WireCommand.from_json(orjson.dumps(raw)), raw)
        self.commands.clear()

    async def answer(self) -> None:
        """Let control have the results; its position on the bus is part of the transaction."""
        taken = list(self.field.results)
        if not taken:
            return
        try:
            await self.handle([received(result, next(self._positions)) for result in taken])
        except Killed as exc:
            if exc.committed:
                del self.field.results[: len(taken)]
            raise
        del self.field.results[: len(taken)]

    async def tell_watchdog(self) -> None:
        """Tell what is new, or everything after a start, as the pusher of leases does."""
        if not self.watchdog_up:
            return
        async with self.db.read() as conn:
            untold = await lease_store.untold_leases(conn, 2000)
            if not untold and self.told_all:
                return
            open_ones = await lease_store.open_leases(conn)
            released = await load_store.released_trips(conn)
        leases = [one for one in untold if one.closed_at is None] if self.told_all else open_ones
        now = self.steady.now()
        self.dog.put_leases(
            {
                "epoch": self.epoch, "complete": not self.told_all, "released_trips": released,
                "ended": [one.command_id for one in untold if one.closed_at is not None],
                "leases": [
                    {
                        "command_id": one.command_id, "load_id": one.load_id, "device_id": one.device_id,
                        "channel": one.channel, "site_id": one.site_id, "restore_at": one.restore_at.isoformat(),
                        "restore_in_s": max((one.restore_at - now).total_seconds(), 0.0),
                        "off_at_most_s": one.off_at_most_s, "isolation_id": one.isolation_id,
                    }
                    for one in leases
                ],
            }
        )  # fmt: skip
        async with self.db.write() as write:
            await lease_store.mark_told(write, list({one.command_id: one for one in (*untold, *leases)}.values()))
        self.told_all = True

    async def second_path(self) -> None:
        """Send wake-ups that the bus did not carry through by the direct door as well."""
        async with self.db.read() as conn:
            stuck = await store.stuck_wake_ups(conn, self.steady.now() - UNANSWERED, SECOND_PATH_BATCH)
        for command in stuck:
            if command.wire_id not in self._tried:
                self._tried.add(command.wire_id)
                self.field.door_on(command.load_id)


class _Reach:
    """What the watchdog can call."""

    def __init__(self, world: MortalWorld) -> None:
        self._world = world

    async def look(self) -> Look:
        field = self._world.field
        if not (field.door_open and field.holder_alive):
            return Look({}, ("door: away",), False)
        seen: dict[str, Seen] = {}
        for load_id in field.breakers:
            reading = field.reading(load_id)
            if reading is not None:
                seen[load_id] = Seen(load_id, f"brk-{load_id}", None, None, reading.breaker, reading.age_s,
                                     reading.local_lock, reading.trip_reason)  # fmt: skip
        return Look(seen, (), True)

    async def wake(self, load: Judgement, request_id: str, reason: str, released_trip: int | None) -> str:
        if not self._world.field.door_on(load.load_id):
            raise Unavailable("door: did not take it")
        return "verified"

    async def ask_control(self, load_ids: Sequence[str], request_id: str, reason: str) -> None:
        world = self._world

        async def wake() -> None:
            loads = tuple(load for load_id in load_ids if (load := world.loads.get(load_id)) is not None)
            async with world.db.write() as conn:
                await world.orders.wake(
                    conn, WakeOrder("loads", "", loads, "service:watchdog", "api", reason, suspends=False)
                )

        await self._at_control(wake)

    async def tell_control(self, findings: Sequence[Mapping[str, Any]]) -> None:
        world = self._world

        async def take() -> None:
            messages = []
            for one in findings:
                load = world.loads.loads[one["load_id"]]
                messages.append(
                    bus.condition(
                        ConditionKind(one["kind"]), Phase(one["phase"]), load_id=one["load_id"], site_id=load.site_id,
                        at=world.clock.now(), text=one["text"], source="watchdog",
                    )
                )  # fmt: skip
            async with world.db.write() as conn:
                await outbox.put(conn, messages)

        await self._at_control(take)

    async def call_person(self, text: str) -> None:
        raise Unavailable("no webhook is configured")

    async def _at_control(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if not self._world.control_up:
            raise Unavailable("control: away")
        try:
            await call()
        except Killed as exc:
            self._world.start()
            raise Unavailable("control: killed while it was asked") from exc


def is_stopped(breaker: Any) -> bool:
    """Return whether nobody but a person may close it."""
    return breaker.local_lock or (breaker.trip_reason in PROTECTION_TRIPS and not breaker.closed)
