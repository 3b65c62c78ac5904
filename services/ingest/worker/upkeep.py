"""Small loops: heartbeats into every partition, daily partitions of the history, the topic kept equal to the tables."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, date, timedelta
from pathlib import Path

import asyncpg

from libs.common import jobs
from libs.common.bus import topics
from libs.common.bus.port import Bus
from libs.common.bus.tail import Tail
from libs.common.clock import Clock
from libs.common.contracts.registry import EntityKind
from libs.common.db import Database
from libs.common.errors import Unavailable
from services.ingest.settings import HistorySettings
from services.ingest.spool import SpoolFull
from services.ingest.store import counts, days, gaps, history, rejected
from services.ingest.store.coldfiles import ColdFiles
from services.ingest.store.commands import PgCommandStore
from services.ingest.store.snapshot import same, save_snapshot, snapshot_of
from services.ingest.usecases.acceptor import Acceptor
from services.ingest.usecases.registry import Registry
from services.ingest.usecases.topology import Topology

logger = logging.getLogger(__name__)

SNAPSHOT_EVERY_S = 1.0
PARTITIONS_EVERY_S = 600.0
RECONCILE_EVERY_S = 600.0
REJECTED_KEPT_S = 90 * 86400.0
"""How long what was not understood can be looked at. [s]"""
DELETE_AT_A_TIME = 10_000
DAYS_AT_A_TIME = 20
"""Days that are put into the queue at once; the next ones come at the next look."""


class Heartbeats:
    """Says, once a second and in every partition, that ingest lives and that its way to the bus is open."""

    def __init__(self, *, acceptor: Acceptor, bus: Bus, clock: Clock, instance: str, every_s: float) -> None:
        self._acceptor = acceptor
        self._bus = bus
        self._clock = clock
        self._instance = instance
        self._every_s = every_s

    async def run(self, beat: Callable[[], None]) -> None:
        """Beat for ever; a closed way is told by silence."""
        seq = 0
        partitions = 0
        while True:
            beat()
            try:
                partitions = partitions or await self._bus.partitions(topics.READINGS)
                await self._acceptor.heartbeat(self._instance, partitions, seq)
                seq += 1
            except SpoolFull:
                logger.debug("no heartbeat: the spool is full")
            except Unavailable as exc:
                logger.debug("no heartbeat", extra={"reason": exc.message})
            await self._clock.sleep(self._every_s)


class HistoryUpkeep:
    """Makes daily partitions ahead, has old ones moved to files and drops what is older than the policy keeps."""

    def __init__(
        self,
        db: Database,
        commands: PgCommandStore,
        clock: Clock,
        settings: HistorySettings,
        files: ColdFiles | None = None,
    ) -> None:
        self._db = db
        self._commands = commands
        self._clock = clock
        self._settings = settings
        self._files = files

    async def run(self, beat: Callable[[], None]) -> None:
        """Look after the partitions, for ever."""
        while True:
            beat()
            wait_s = PARTITIONS_EVERY_S
            try:
                await self.once()
            except Unavailable as exc:
                logger.warning("the history's upkeep waits", extra={"reason": exc.message})
                wait_s = 10.0
            await self._clock.sleep(wait_s)

    async def once(self) -> None:
        """Make what is missing, move what is no longer new, drop what is too old."""
        today = self._clock.now().astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        for ahead in range(self._settings.days_ahead + 1):
            async with self._db.write() as conn:
                await history.ensure_partition(conn, today + timedelta(days=ahead))
        oldest = (today - timedelta(days=self._settings.retention_days)).date()
        async with self._db.read() as conn:
            partitions = await history.fetch_partition_days(conn)
        for day in partitions:
            if day < oldest:
                await self._drop(day)
        if self._files is not None:
            await self._cool([day for day in partitions if oldest <= day < (today - self._hot).date()])
            await self._drop_files(self._files, oldest)
        async with self._db.write() as conn:
            await counts.forget_counts(conn, oldest)
            await gaps.forget(conn, today - timedelta(days=self._settings.retention_days))
        await self._commands.forget(self._clock.now())
        async with self._db.write() as conn:
            await rejected.delete_before(conn, self._clock.now() - timedelta(seconds=REJECTED_KEPT_S), DELETE_AT_A_TIME)

    @property
    def _hot(self) -> timedelta:
        return timedelta(days=self._settings.hot_days)

    async def _cool(self, candidates: Sequence[date]) -> None:
        """Put some days into the queue of the job worker, the oldest first."""
        quiet_since = self._clock.now() - timedelta(seconds=self._settings.settle_s)
        async with self._db.write() as conn:
            for day in (await days.fetch_quiet_days(conn, candidates, quiet_since))[:DAYS_AT_A_TIME]:
                await jobs.enqueue(conn, days.COOL_JOB, {"day": day.isoformat()}, actor="ingest")

    async def _drop_files(self, files: ColdFiles, oldest: date) -> None:
        async with self._db.write() as conn:
            dropping = await days.mark_dropping(conn, oldest)
        for file in dropping:
            await asyncio.to_thread(files.delete, file.name)
            async with self._db.write() as conn:
                await days.forget_file(conn, file)
            logger.info("cold file dropped by policy", extra={"day": str(file.day), "part": file.part})
        async with self._db.write() as conn:
            await days.forget_days(conn, oldest)

    async def _drop(self, day: date) -> None:
        try:
            async with self._db.write() as conn:
                await history.drop_partition(conn, day)
        except asyncpg.LockNotAvailableError:
            logger.info("partition in use, dropped later", extra={"day": str(day)})
        else:
            logger.info("partition dropped by policy", extra={"day": str(day)})


class RegistryKeeper:
    """Keeps the topic equal to the tables: publishes what the topic lacks, at the start and now and then."""

    def __init__(self, *, registry: Registry, topology: Topology, tail: Tail, clock: Clock) -> None:
        self._registry = registry
        self._topology = topology
        self._tail = tail
        self._clock = clock

    async def run(self, beat: Callable[[], None]) -> None:
        """Compare for ever."""
        while not self._tail.ready:
            beat()
            await self._clock.sleep(0.2)
        while True:
            beat()
            wait_s = RECONCILE_EVERY_S
            try:
                missing = await self._registry.publish_missing(self._topology.revision)
                if missing:
                    logger.info("registry published again", extra={"entities": missing})
            except Unavailable as exc:
                logger.warning("registry cannot be compared", extra={"reason": exc.message})
                wait_s = 10.0
            for _ in range(int(wait_s // 10) or 1):
                beat()
                await self._clock.sleep(10.0)


_KEPT = frozenset({EntityKind.LOAD, EntityKind.DEVICE, EntityKind.LINE, EntityKind.SITE, EntityKind.REGION})


class SnapshotKeeper:
    """Keeps on disk what waking needs of the registry."""

    def __init__(self, *, path: Path, topology: Topology, tail: Tail, clock: Clock) -> None:
        self._path = path
        self._topology = topology
        self._tail = tail
        self._clock = clock
        self._changed = True
        topology.on_change(self._note)

    async def run(self, beat: Callable[[], None]) -> None:
        """Save after changes, for ever; a disk that does not take it is said and tried again."""
        while True:
            beat()
            if self._changed and self._tail.ready:
                self._changed = False
                blob = snapshot_of(self._topology, self._clock.now())
                try:
                    await asyncio.to_thread(_save_when_new, self._path, blob)
                except OSError as exc:
                    logger.error("the registry cannot be saved for waking", extra={"reason": exc.strerror})
                    self._changed = True
            await self._clock.sleep(SNAPSHOT_EVERY_S)

    def _note(self, kind: EntityKind, _: str) -> None:
        if kind in _KEPT:
            self._changed = True


def _save_when_new(path: Path, blob: bytes) -> None:
    if not same(path, blob):
        save_snapshot(path, blob)
