"""The worker that keeps units logged in and empties their queues: one runner per centre.

A slow centre so delays nobody else. Which replica works for a unit is decided by leases on slots (a unit's key modulo
``SLOTS``).
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from libs.common.clock import Clock
from libs.common.db import Database
from libs.common.errors import Unavailable
from libs.common.lease import Lease, LeaseKeeper
from libs.common.rounds import Rounds
from services.export.dialects import Dialects
from services.export.domain.connection import ConnectionId, UnitKey
from services.export.domain.latest import LatestReadings
from services.export.secrets import Secrets
from services.export.store import connections as connection_store
from services.export.worker.centre_logins import SLOTS
from services.export.worker.centre_runner import CentreRunner

logger = logging.getLogger(__name__)


class Centres:
    """Runs one runner for every connection that is in use."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        secrets: Secrets,
        latest: LatestReadings,
        dialects: Dialects,
        owner: str,
        lease_s: float,
        poll_s: float,
        committed: Callable[[], None],
    ) -> None:
        """Prepare the worker.

        Args:
            db: The service's database.
            clock: For times and leases.
            secrets: Opens the connections' credentials.
            latest: Newest values, for dialects whose units push them.
            dialects: Those that can be spoken.
            owner: Name of this replica.
            lease_s: A dead replica's units are taken over after this. [s]
            poll_s: How often the queues are looked at without being woken. [s]
            committed: Called after a commit that may have filled the outbox.
        """
        self._db = db
        self._clock = clock
        self._secrets = secrets
        self._latest = latest
        self._dialects = dialects
        self._owner = owner
        self._keeper = LeaseKeeper(db, clock, owner, lease_s)
        self._lease_s = lease_s
        self._poll_s = poll_s
        self._committed = committed
        self._leases: list[Lease] = []
        self._runners: dict[ConnectionId, CentreRunner] = {}
        self._tasks: dict[ConnectionId, asyncio.Task[None]] = {}
        self._rounds = Rounds(clock, worker="centres", every_s=poll_s)

    def wake(self) -> None:
        """Look at the connections, their units and the queues now."""
        self._rounds.wake()
        for runner in self._runners.values():
            runner.look_at_units()

    def queued(self, units: Mapping[ConnectionId, Iterable[UnitKey]]) -> None:
        """Look at queues now: something was put into those of these units."""
        for connection_id, keys in units.items():
            if (runner := self._runners.get(connection_id)) is not None:
                runner.look_at(keys)

    def slots(self) -> list[int]:
        """Return the slots that are ours at this moment."""
        return [int(lease.name.removeprefix("units-")) for lease in self._leases if lease.valid]

    async def run(self, beat: Callable[[], None]) -> None:
        """Work for ever; waits while the database is away."""
        try:
            async with asyncio.TaskGroup() as group:
                await self._rounds.run(partial(self._round, group), beat)
        finally:
            await self._let_go()

    async def _round(self, group: asyncio.TaskGroup) -> bool:
        await self._hold_leases()
        await self._follow_connections(group)
        for runner in self._runners.values():
            await runner.lose_silent_units()
        return False

    async def _hold_leases(self) -> None:
        if self._leases and all(lease.valid_for_s() > self._lease_s / 2 for lease in self._leases):
            if len(self._leases) == SLOTS:
                return
        else:
            self._leases = await self._keeper.renew_many(self._leases)
        held = {lease.name for lease in self._leases}
        missing = [name for slot in range(SLOTS) if (name := f"units-{slot}") not in held]
        self._leases += await self._keeper.acquire_many(missing, SLOTS)

    async def _follow_connections(self, group: asyncio.TaskGroup) -> None:
        async with self._db.read() as conn:
            connections = {each.id: each for each in await connection_store.fetch_connections(conn)}
        wanted = {each.id: each for each in connections.values() if each.enabled or each.removed}
        for connection_id in [*self._runners]:
            runner = self._runners[connection_id]
            if connection_id in wanted and runner.serves(wanted[connection_id]):
                runner.follow(wanted[connection_id])
                continue
            task = self._tasks.pop(connection_id)
            del self._runners[connection_id]
            task.cancel()
            await asyncio.wait([task], timeout=5.0)
        for connection_id, connection in wanted.items():
            if connection_id not in self._runners:
                runner = CentreRunner(
                    connection,
                    db=self._db,
                    clock=self._clock,
                    secrets=self._secrets,
                    latest=self._latest,
                    dialect=self._dialects.named(connection.dialect),
                    owner=self._owner,
                    slots=self.slots,
                    poll_s=self._poll_s,
                    committed=self._committed,
                )
                self._runners[connection_id] = runner
                self._tasks[connection_id] = group.create_task(runner.run(), name=f"centre {connection_id}")

    async def _let_go(self) -> None:
        """Give the leases back when stopping, so that another replica need not wait for their end."""
        try:
            async with asyncio.timeout(1.0):
                await self._keeper.release_many(self._leases)
        except (Unavailable, TimeoutError):
            logger.debug("leases on units left to run out")
