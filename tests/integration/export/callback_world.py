"""Callbacks without a bus: events are handed to the consumer's handler, the senders run, time is ours."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from libs.common.bus import envelope, topics
from libs.common.bus.consumer import EffectHandler
from libs.common.bus.port import Received
from libs.common.contracts.alarm import AlarmEvent
from libs.common.contracts.base import Payload
from libs.common.contracts.control import CommandAction, CommandState, ControlEvent, OccurrenceState
from libs.common.db import Database
from libs.common.ids import CommandId, DeviceId, LoadId, OccurrenceId, SiteId
from libs.common.outgoing import AddressGuard
from libs.common.settings import DatabaseSettings
from libs.common.testing.clock import FakeClock
from services.export.callbacks import endpoints, queues
from services.export.callbacks.outlet import Outlet
from services.export.callbacks.queues import Logged
from services.export.domain.callbacks import TYPES, Choice, Endpoint, NewsType
from services.export.secrets import Secrets
from services.export.usecases.administration import Actor
from services.export.usecases.callbacks import CallbackAdministration, Caller, Wish
from services.export.worker.callback_batches import CallbackBatches
from services.export.worker.callback_keeping import CallbackKeeper
from services.export.worker.callback_owners import CallbackOwners
from services.export.worker.callback_queue import CallbackQueue
from services.export.worker.callbacks import Callbacks

REGIONS = {"s-1": frozenset({"s-1", "region:r-1"}), "s-2": frozenset({"s-2", "region:r-2"})}
KEY = Caller(Actor("key:app", None), None, sees_all=False)
ADMIN = Caller(Actor("user:admin", None), None, sees_all=True)
_numbers = itertools.count(1)


class Places:
    """A registry: a site tree, and devices whose ids begin with their kind."""

    def places_of(self, site_id: str) -> frozenset[str]:
        return REGIONS.get(site_id, frozenset({site_id}))

    def kind_of(self, device_id: str) -> str | None:
        return device_id.partition("-")[0]


def control(
    state: CommandState | OccurrenceState, *, load: str = "l-1", site: str = "s-1", **more: Any
) -> ControlEvent:
    of_command = isinstance(state, CommandState)
    fields: dict[str, Any] = {
        "site_id": SiteId(site), "state": state, "at": datetime(2026, 3, 8, 6, 2, 11, tzinfo=UTC), "reason": "",
        "load_id": LoadId(load), "command_id": CommandId("c-1") if of_command else None,
        "occurrence_id": None if of_command else OccurrenceId("o-1"), "device_id": DeviceId("b-1"),
        "action": CommandAction.CLOSE, "actor": "key:app",
    }  # fmt: skip
    return ControlEvent(**{**fields, **more})


def received(payload: Payload, *, event_id: str | None = None, at: datetime | None = None) -> Received:
    topic = topics.ALARM_EVENTS if isinstance(payload, AlarmEvent) else topics.CONTROL_EVENTS
    now = at or datetime.now(UTC)
    message = envelope.message(topic, "k", payload, source="test", time=now, event_id=event_id)
    return Received(topic, 0, next(_numbers), "k", message.value, message.headers, now)


@dataclass
class World:
    """Everything of one test."""

    db: Database
    clock: FakeClock
    handler: CallbackQueue
    administration: CallbackAdministration
    outlet: Outlet
    secrets: Secrets
    keeper: CallbackKeeper
    batches: CallbackBatches
    owners: CallbackOwners
    senders: list[Callbacks] = field(default_factory=list)
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    async def endpoint(
        self, url: str, *types: NewsType, caller: Caller = KEY, sites: Sequence[str] | None = None,
        actors: Sequence[str] | None = None, concurrency: int = 8, timeout_s: float = 20.0,
        points: Sequence[str] | None = None, kinds: Sequence[str] | None = None,
    ) -> tuple[Endpoint, str]:  # fmt: skip
        choice = Choice(
            frozenset(types or TYPES),
            None if sites is None else tuple(sites),
            None if actors is None else tuple(actors),
            None if points is None else tuple(points),
            None if kinds is None else tuple(kinds),
        )
        wish = Wish("test", url, choice, concurrency, timeout_s)
        return await self.administration.create(wish, caller, owner=None)

    async def tell(self, *payloads: Payload | Received) -> None:
        """Hand events to the consumer's handler, in one transaction."""
        now = self.clock.now()
        batch = [each if isinstance(each, Received) else received(each, at=now) for each in payloads]
        await self.hand(self.handler, *batch)

    async def hand(self, handler: EffectHandler, *batch: Received) -> None:
        """Hand messages to a consumer's handler, in one transaction."""
        async with self.db.effects() as conn:
            await handler.handle(conn, batch)
        handler.committed()

    def start(self, owner: str = "export-a") -> Callbacks:
        """Run one more sender."""
        sender = Callbacks(
            db=self.db, clock=self.clock, outlet=self.outlet, secrets=self.secrets, owner=owner, poll_s=0.05,
            committed=lambda: None,
        )  # fmt: skip
        self.senders.append(sender)
        self._tasks[owner] = asyncio.create_task(sender.run(lambda: None), name=f"sender {owner}")
        return sender

    async def stop(self, owner: str = "export-a") -> None:
        """Stop a sender as a process that is stopped stops it."""
        task = self._tasks.pop(owner)
        task.cancel()
        await asyncio.wait([task])

    async def stop_all(self) -> None:
        for owner in list(self._tasks):
            task = self._tasks[owner]
            if task.done() and not task.cancelled():
                task.result()
            await self.stop(owner)

    def wake(self) -> None:
        for sender in self.senders:
            sender.changed()

    async def advance(self, by_s: float) -> None:
        await self.clock.advance(by_s)
        self.wake()

    async def log(self, endpoint: Endpoint) -> list[Logged]:
        """Return an endpoint's deliveries, the oldest first."""
        async with self.db.read() as conn:
            found = await queues.fetch_log(
                conn, endpoint.id, state=None, resource=None, event_id=None, before=None, limit=1000
            )
        return sorted(found, key=lambda each: each.event_key)

    async def settled(self, endpoint: Endpoint, *states: str) -> None:
        """Wait until an endpoint's deliveries are in these states, in their order."""
        async with asyncio.timeout(40):
            while [each.state.value for each in await self.log(endpoint)] != list(states):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def attempted(self, endpoint: Endpoint, attempts: int) -> Logged:
        """Wait until so many attempts of an endpoint's first delivery are on record."""
        async with asyncio.timeout(40):
            while True:
                found = (await self.log(endpoint))[0]
                if found.attempts >= attempts:
                    return found
                await asyncio.sleep(0.02)

    async def now(self, endpoint: Endpoint) -> Endpoint:
        async with self.db.read() as conn:
            found = await endpoints.fetch(conn, endpoint.id)
        assert found is not None
        return found

    async def outbox(self) -> list[tuple[str, bytes]]:
        async with self.db.read() as conn:
            rows = await conn.fetch("select topic, value from outbox order by id")
        return [(row["topic"], row["value"]) for row in rows]

    async def check_books(self) -> None:
        """Check that each queue's row says what its deliveries say."""
        async with self.db.read() as conn:
            wrong = await conn.fetch(
                """
                select q.endpoint_id, q.resource, q.waiting, q.due_at, count(d.event_key) as open
                  from callback_queues q left join callback_deliveries d
                    on d.endpoint_id = q.endpoint_id and d.resource = q.resource
                   and d.state in ('queued', 'retrying', 'refused')
                 group by q.endpoint_id, q.resource
                having q.waiting <> count(d.event_key) or (q.due_at is null) <> (count(d.event_key) = 0)
                """
            )
        assert [dict(row) for row in wrong] == []


@asynccontextmanager
async def world(url: str, folder: Path, *, allowed: Sequence[str] = ("127.0.0.1",)) -> AsyncIterator[World]:
    """Build everything on a database of its own."""
    db = Database(DatabaseSettings(url=SecretStr(url)), schema="export")
    await db.open()
    # The machine's time, since receivers' libraries refuse what is minutes old.
    clock = FakeClock(datetime.now(UTC))
    secrets = Secrets.open(None, folder)
    guard = AddressGuard(allowed, setting="WATTRING_EXPORT__CALLBACKS__ALLOWED")
    outlet = Outlet(guard, clock)
    found: World

    def wake() -> None:
        found.wake()

    found = World(
        db=db,
        clock=clock,
        handler=CallbackQueue(clock, Places(), wake=wake),
        administration=CallbackAdministration(
            db=db, clock=clock, secrets=secrets, guard=guard, outlet=outlet, max_endpoints=200, changed=wake
        ),
        outlet=outlet,
        secrets=secrets,
        keeper=CallbackKeeper(
            db=db,
            clock=clock,
            max_age_s=5 * 86400.0,
            max_waiting=100,
            retention_s=30 * 86400.0,
            batch_age_s=86400.0,
            max_batches=10,
        ),
        batches=CallbackBatches(clock, Places(), wake=wake),
        owners=CallbackOwners(clock, changed=wake),
    )
    try:
        yield found
    finally:
        await found.stop_all()
        await outlet.close()
        await db.close()
