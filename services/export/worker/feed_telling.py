"""Destinations are told their feeds: one after the other per destination, and no destination waits for another.

Each destination is one process' at a time, under a lease, and has a task of its own there. What a task writes counts
only while the destination still stands where the task found it, so that one that was replaced moves nothing. A batch
that was told when the process died is told again, under its number.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

from libs.common import metrics
from libs.common.backoff import Backoff
from libs.common.bus import outbox
from libs.common.clock import Clock
from libs.common.contracts.base import Phase
from libs.common.db import Database
from libs.common.errors import Unavailable
from libs.common.lease import Lease, LeaseKeeper
from libs.common.outgoing import AddressGuard
from libs.common.rounds import Rounds
from libs.common.tracing import span
from services.export import bus
from services.export.connectors.factory import connector_of
from services.export.connectors.port import BadAddress, Connector
from services.export.domain.callbacks import Outcome, Verdict
from services.export.domain.feeds import BREAKER_FAILURES, Destination, standing_after
from services.export.domain.rendering import Batch
from services.export.domain.rows import DAY_ZONE
from services.export.feeds import batches, destinations, statements
from services.export.feeds.destinations import Todo
from services.export.secrets import Secrets, SecretsUnreadable
from services.export.worker.finishing import to_its_end

logger = logging.getLogger(__name__)

ATTEMPTS = metrics.counter("export_feed_attempts_total", "Attempts to tell batches", ("kind", "outcome"))
ROWS = metrics.counter("export_feed_rows_total", "Rows that destinations have acknowledged", ("kind",))
FORGET_S = 60.0
"""How often rows that nobody needs any more are deleted. [s]"""
FORGET_BATCHES = 2000
HISTORY_S = 400 * 86_400.0
"""How long it is known what batches had and what became of them. [s]"""
STATEMENT_AFTER_S = 2 * 3600.0
"""After midnight, when what was on its way has mostly come. [s]"""
GONE = "its rows are no longer kept"
RECENT_BATCHES = 4
"""Kept in memory: a few megabytes each, with what was rendered of them."""


@dataclass(slots=True, eq=False)
class _Running:
    """A destination that this process tells."""

    lease: Lease
    version: int
    task: asyncio.Task[None]
    news: asyncio.Event = field(default_factory=asyncio.Event)


class FeedTelling:
    """Tells every destination whose lease this process holds."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        guard: AddressGuard,
        secrets: Secrets,
        owner: str,
        lease_s: float,
        poll_s: float,
        max_bytes: int,
        committed: Callable[[], None],
        rng: random.Random | None = None,
    ) -> None:
        """Prepare.

        Args:
            db: The service's database.
            clock: Our clock.
            guard: Knows which addresses may be called.
            secrets: Decrypts the destinations' secrets.
            owner: Name of this process, for leases.
            lease_s: How long a lease lasts. [s]
            poll_s: How often the queues are looked at without a call. [s]
            max_bytes: What a feed may keep, compressed; its oldest batches go beyond it, told or not. [B]
            committed: Called after news was put into the outbox.
            rng: For jitter.
        """
        self._db = db
        self._clock = clock
        self._guard = guard
        self._secrets = secrets
        self._keeper = LeaseKeeper(db, clock, owner, lease_s)
        self._lease_s = lease_s
        self._max_bytes = max_bytes
        self._committed = committed
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, protects nothing
        self._running: dict[str, _Running] = {}
        self._recent = _RecentBatches(db)
        self._rounds = Rounds(clock, worker="feeds", every_s=poll_s)
        self._forgot_at_s = float("-inf")
        """When rows were last deleted, by monotonic time. [s]"""

    def wake(self) -> None:
        """Say that a batch may have been closed, or a destination changed."""
        self._rounds.wake()

    async def run(self, beat: Callable[[], None]) -> None:
        """Tell for ever, until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                await self._rounds.run(partial(self._round, group), beat)
        finally:
            await self._let_go()

    async def _round(self, group: asyncio.TaskGroup) -> bool:
        await self._close_due()
        await self._look(group)
        await self._call_due()
        if self._clock.monotonic() - self._forgot_at_s >= FORGET_S:
            await self._write_statements()
            await self._forget()
            self._forgot_at_s = self._clock.monotonic()
        return False

    # ---- feeds -----------------------------------------------------------------------------------

    async def _close_due(self) -> None:
        """Close batches that have waited long enough; when readings come, nobody else looks at the clock."""
        async with self._db.read() as conn:
            due = await batches.due_to_close(conn, self._clock.now())
        for feed_id in due:
            async with self._db.write() as conn:
                progress = await batches.lock_progress(conn, feed_id)
                # Meanwhile it may have been filled, and closed.
                if progress is not None and feed_id in await batches.due_to_close(conn, self._clock.now()):
                    await batches.close_open(conn, feed_id, progress, self._clock.now())

    async def _forget(self) -> None:
        async with self._db.write() as conn:
            count = await batches.forget_rows(conn, self._clock.now(), limit=FORGET_BATCHES)
        async with self._db.write() as conn:
            excess = await batches.forget_excess(conn, max_bytes=self._max_bytes, limit=FORGET_BATCHES)
        async with self._db.write() as conn:
            before = self._clock.now() - timedelta(seconds=HISTORY_S)
            await batches.forget_history(conn, before, limit=FORGET_BATCHES)
        if count:
            logger.info("rows of told batches deleted", extra={"batches": count})
        if excess:
            logger.error("a feed holds too much, rows of its oldest batches deleted", extra={"batches": excess})

    async def _write_statements(self) -> None:
        """Write down what each feed had of yesterday, once; what comes later shows in the statement of the API."""
        now = self._clock.now()
        yesterday = (now - timedelta(seconds=STATEMENT_AFTER_S)).astimezone(DAY_ZONE).date() - timedelta(days=1)
        async with self._db.read() as conn:
            lacking = await statements.without_statement(conn, yesterday)
        for feed_id, last_number in lacking:
            async with self._db.write() as conn:
                of = await destinations.fetch_of(conn, feed_id)
                found = await statements.make(conn, feed_id, yesterday, through=last_number, of=of)
                await statements.put(conn, found, now)

    # ---- who tells whom --------------------------------------------------------------------------

    async def _look(self, group: asyncio.TaskGroup) -> None:
        """Take and renew leases; begin, end and begin anew what people have changed."""
        async with self._db.read() as conn:
            active = {each.id: each for each in await destinations.fetch_active(conn)}
        over = [
            destination_id
            for destination_id, running in self._running.items()
            if (wanted := active.get(destination_id)) is None
            or wanted.version != running.version
            or running.task.done()
        ]
        await self._keeper.release_many(await self._end(over))
        stale = [each for each in self._running.values() if each.lease.valid_for_s() < self._lease_s / 2]
        kept = {lease.name: lease for lease in await self._keeper.renew_many([each.lease for each in stale])}
        for running in stale:
            running.lease = kept.get(running.lease.name, running.lease)
        await self._end([name for name, each in self._running.items() if each in stale and each.lease.name not in kept])
        free = [_lease_name(each) for each in active if each not in self._running]
        for lease in await self._keeper.acquire_many(free, len(free)):
            destination = active[lease.name.partition("/")[2]]
            news = asyncio.Event()
            task = group.create_task(self._tell_all(destination.id, news), name=f"feed destination {destination.id}")
            self._running[destination.id] = _Running(lease, destination.version, task, news)

    async def _end(self, destination_ids: Collection[str]) -> list[Lease]:
        """End tasks, all at the same time since each may be in the middle of an attempt; return their leases."""
        ended = [self._running.pop(destination_id) for destination_id in destination_ids]
        for running in ended:
            running.task.cancel()
        if ended:
            await asyncio.wait([running.task for running in ended])
        return [running.lease for running in ended]

    async def _call_due(self) -> None:
        """Call the tasks that have something to do: one question for all, or each would ask all the time."""
        async with self._db.read() as conn:
            due = await destinations.due(conn, self._clock.now())
        for destination_id in due:
            running = self._running.get(destination_id)
            if running is not None:
                running.news.set()

    async def _let_go(self) -> None:
        leases = [each.lease for each in self._running.values()]
        self._running.clear()
        try:
            async with asyncio.timeout(1.0):
                await self._keeper.release_many(leases)
        except (Unavailable, TimeoutError):
            logger.debug("leases of destinations left to run out")

    # ---- one destination -------------------------------------------------------------------------

    async def _tell_all(self, destination_id: str, news: asyncio.Event) -> None:
        """Tell one destination for ever; whatever changes of it begins a new task."""
        connector: Connector | None = None
        backoff = Backoff(first_s=0.2, cap_s=5.0)
        try:
            while True:
                news.clear()
                try:
                    async with self._db.read() as conn:
                        destination = await destinations.fetch(conn, destination_id)
                        if destination is None:
                            return
                        waits = destination.not_before is not None and destination.not_before > self._clock.now()
                        todo = None if waits else await destinations.todo(conn, destination)
                    if todo is None:
                        await news.wait()
                        continue
                    if connector is None:
                        connector = self._connector(destination)
                    await to_its_end(self._tell(destination, todo, connector))
                except Unavailable as exc:
                    if backoff.first:
                        logger.warning("a destination waits", extra={"reason": exc.message})
                    await self._clock.sleep(backoff.next_s())
                else:
                    backoff.reset()
        finally:
            if connector is not None:
                await connector.close()

    def _connector(self, destination: Destination) -> Connector:
        try:
            return connector_of(
                destination, self._secrets.unseal(destination.sealed), guard=self._guard, clock=self._clock
            )
        except (BadAddress, SecretsUnreadable) as exc:
            return _Unusable(str(exc))

    async def _tell(self, destination: Destination, todo: Todo, connector: Connector) -> None:
        """Make one attempt and write what became of it."""
        batch = await self._recent.batch(destination.feed_id, todo.number)
        if batch is None:
            await self._leave_out(destination, todo)
            return
        with span("feed batch", destination=destination.id):
            outcome = await connector.tell(batch)
        ATTEMPTS.labels(destination.kind.value, outcome.verdict.value).inc()
        now = self._clock.now()
        standing = standing_after(destination, outcome, now, jitter=self._rng.random())
        fails = standing.failures >= BREAKER_FAILURES
        async with self._db.write() as conn:
            saved = await destinations.save(conn, destination, todo, standing, outcome, now)
            news = saved and await destinations.set_finding(conn, destination.id, fails=fails)
            if news:
                phase = Phase.BEGIN if fails else Phase.END
                await outbox.put(conn, [bus.feed_finding(destination, phase, error=standing.error, at=now)])
        if saved and standing.taken:
            ROWS.labels(destination.kind.value).inc(len(batch.lines))
        if news:
            self._committed()

    async def _leave_out(self, destination: Destination, todo: Todo) -> None:
        """Go on without a batch whose rows are gone; that is written down, and shows in the day's statement."""
        outcome = Outcome(Verdict.FAILED, 0.0, error=GONE)
        async with self._db.write() as conn:
            held = await destinations.lock(conn, destination.id)
            if held is not None and held.next_number == destination.next_number:
                await destinations.leave_out(conn, held, todo.number, outcome, self._clock.now(), moves=not todo.again)
        logger.error("a batch is left out", extra={"destination": destination.id, "number": todo.number})


class _RecentBatches:
    """The batches that are told at this moment: destinations of a feed are at the same ones, and share them."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._reading = asyncio.Lock()
        self._known: dict[tuple[str, int], Batch] = {}

    async def batch(self, feed_id: str, number: int) -> Batch | None:
        """Return a closed batch with its rows, None when they are not here (any more)."""
        key = feed_id, number
        async with self._reading:
            found = self._known.get(key)
            if found is None:
                async with self._db.read() as conn:
                    found = await batches.fetch_batch(conn, feed_id, number)
                if found is not None:
                    if len(self._known) >= RECENT_BATCHES:
                        del self._known[next(iter(self._known))]
                    self._known[key] = found
        return found


class _Unusable:
    """Stands for a connector that cannot be made: every attempt says why."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def tell(self, batch: Batch) -> Outcome:
        return Outcome(Verdict.FAILED, 0.0, error=self._reason[:300])

    async def close(self) -> None:
        """Nothing is open."""


def _lease_name(destination_id: str) -> str:
    return f"feed-destination/{destination_id}"
