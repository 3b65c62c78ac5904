"""What people do at the device itself: a load that we have switched off and that reads closed was closed there.

Somebody on the spot has decided, so the OFF in force is over: a wake-up of priority ``local`` takes the place of what
the OFF had planned. It proves that the load is on, which ends the lease, the planned wake-up and the occurrence, and it
ends every OFF on its way that gives way to it. Nothing is closed against anybody: the breaker reads closed already,
and where that reading is wrong the load is woken too early. An opening at the device is no order, for nothing but
an isolation or the lock puts a wake-up off; the watchdog closes it.
"""

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta

from libs.common.contracts.control import CommandAction, CommandState, Priority
from libs.common.db import Database, WriteConn
from services.control.domain.audit import LOOK, Entry
from services.control.domain.commands import CLOSED, Command
from services.control.domain.loads import LoadInfo
from services.control.store import commands as store
from services.control.store import leases as lease_store
from services.control.store import loads as load_store
from services.control.store.leases import OffLease
from services.control.usecases.auditing import record
from services.control.usecases.ports import Readings, SteadyClock
from services.control.usecases.switching import Switching

logger = logging.getLogger(__name__)

ACTOR = "local"
AT_ONCE = 1000
"""Loads in one transaction; the others are found again with the next look."""


class LocalActions:
    """Finds loads that were closed at the device while an OFF of ours was in force."""

    def __init__(self, *, db: Database, clock: SteadyClock, switching: Switching, readings: Readings) -> None:
        self._db = db
        self._clock = clock
        self._switching = switching
        self._readings = readings

    async def has_leases(self) -> bool:
        """Return whether anything is off, so that it is worth looking."""
        async with self._db.read() as conn:
            return bool(await lease_store.open_leases(conn))

    async def look(self) -> int:
        """Compare what should be off with what it reads; return how many loads somebody has closed."""
        async with self._db.read() as conn:
            suspects = [lease for lease in await lease_store.open_leases(conn) if self._reads_closed(lease)]
        if not suspects:
            return 0
        async with self._db.write() as conn:
            ids = [lease.load_id for lease in suspects[:AT_ONCE]]
            locked = await load_store.lock_loads(conn, ids, skip_locked=True)
            now = self._clock.now()
            closed = await self._closed_there(conn, locked, now)
            await self._wake(conn, closed, now)
        return len(closed)

    def _reads_closed(self, lease: OffLease, after: datetime | None = None) -> bool:
        reading = self._readings.of(lease.load_id)
        if lease.isolation_id is not None or reading is None or reading.breaker != CLOSED or reading.read_at is None:
            return False
        return after is None or reading.read_at > after

    async def _closed_there(self, conn: WriteConn, load_ids: list[str], now: datetime) -> list[LoadInfo]:
        """Return which of these locked loads were proven off, read closed since, and are not being woken anyway."""
        leases = await lease_store.open_leases(conn, load_ids)
        offs = await store.fetch_many(conn, [lease.command_id for lease in leases])
        proven_at = await load_store.last_offs(conn, load_ids)
        waking = {on.load_id for on in await store.fetch_running(conn, load_ids, CommandAction.CLOSE) if _acts(on, now)}
        settle = timedelta(seconds=self._switching.policy.settle_s)
        found: dict[str, LoadInfo] = {}
        for lease in leases:
            off, load = offs.get(lease.command_id), self._switching.loads.get(lease.load_id)
            proven = proven_at.get(lease.load_id)
            if off is None or off.state is not CommandState.SUCCEEDED or load is None or proven is None:
                continue  # in flight or in doubt: its own life decides
            if lease.load_id not in waking and self._reads_closed(lease, proven + settle):
                found[lease.load_id] = load
        return list(found.values())

    async def _wake(self, conn: WriteConn, loads: Sequence[LoadInfo], now: datetime) -> None:
        await self._switching.clear_the_way(conn, [load.load_id for load in loads], Priority.LOCAL, ACTOR, now)
        commands = await self._switching.wake(
            conn, loads, now, priority=Priority.LOCAL, actor=ACTOR, note="closed at the device"
        )
        entries = []
        for command in commands:
            reading = self._readings.of(command.load_id)
            seen = None if reading is None else reading.as_evidence()
            entries.append(Entry(ACTOR, LOOK, "command.close", f"load:{command.load_id}", now, after=seen))
            logger.info("closed at the device", extra={"load_id": command.load_id, "command_id": command.command_id})
        await record(conn, *entries)


def _acts(on: Command, now: datetime) -> bool:
    """Return whether a wake-up is at work already, so that the closing may be its own."""
    return on.was_sent or on.not_before <= now
