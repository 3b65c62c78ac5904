"""Sees that exports are made when they are due and brought until they are taken: one process, under a lease.

What is due becomes a run in the database first, those of a downtime too, in their order. A run's files are made by a
job; then they are brought, run after run, tried again until the destination has them or a person gives one up. Each
export has a task of its own, so that a destination that is away or slow keeps nobody else's files waiting.
"""

import asyncio
import logging
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from random import Random

from libs.common import jobs, metrics
from libs.common.clock import Clock
from libs.common.db import Database
from libs.common.errors import PlatformError, Unavailable
from libs.common.lease import OneHolder
from services.export.domain.exports import Period, Run, RunState, dues_until, period_of, wait_s
from services.export.exports import rows
from services.export.exports.making import EXPORT_JOB, run_folder
from services.export.exports.outlet import FileOutlet
from services.export.exports.rows import StoredExport
from services.export.files.push import PushFailed
from services.export.secrets import Secrets

logger = logging.getLogger(__name__)

LEASE = "exports"
RUNS_AT_ONCE = 200
"""Runs of one export that are written down in one transaction."""
EXPORTS_AT_ONCE = 100
MADE_AHEAD = 20
"""Runs of one export whose files may lie here and wait for its destination; the disk is finite."""
ACTOR = "service:export"
LOST_FILES = "its files are not here: do the service and its job worker share WATTRING_EXPORT__EXPORTS__FOLDER?"
LOST_JOB = "the job ended without a word"
KEEP_EVERY_S = 600.0
DROP_AT_ONCE = 1000

OPEN = metrics.gauge("export_runs_open", "Runs of exports that are not finished", ("export", "state"))
_brought = metrics.counter("export_runs_brought_total", "Attempts to bring the files of a run", ("export", "outcome"))


class Exports:
    """The scheduler and bringer of this process."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        secrets: Secrets,
        outlet: FileOutlet,
        root: Path,
        owner: str,
        lease_s: float,
        poll_s: float,
        retention_s: float,
        random: Callable[[], float] | None = None,
    ) -> None:
        """Prepare it.

        Args:
            db: Of the service.
            clock: For due times and waits.
            secrets: Decrypts the accounts of destinations.
            outlet: The way out.
            root: Where files lie until they are brought.
            owner: Of the lease.
            lease_s: A dead replica's work is taken over after this. [s]
            poll_s: How often is looked. [s]
            retention_s: Finished runs leave the list after this. [s]
            random: 0 to 1, spreads retries.
        """
        self._db = db
        self._clock = clock
        self._secrets = secrets
        self._outlet = outlet
        self._root = root
        self._turn = OneHolder(db=db, clock=clock, owner=owner, name=LEASE, ttl_s=lease_s)
        self._poll_s = poll_s
        self._retention_s = retention_s
        self._kept_at: float | None = None
        self._random = random or Random().random  # noqa: S311 - spreads retries

    async def run(self, beat: Callable[[], None]) -> None:
        """Look for ever, while this process has the lease."""
        running: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                beat()
                try:
                    if await self._turn.hold():
                        await self.schedule()
                        await self.enqueue()
                        for export_id in await self.to_bring():
                            known = running.get(export_id)
                            if known is None or known.done():
                                running[export_id] = group.create_task(
                                    self.bring(export_id), name=f"export {export_id}"
                                )
                        await self._measure()
                        await self._keep()
                except Unavailable as exc:
                    logger.warning("exports cannot be looked after", extra={"reason": exc.message})
                running = {name: task for name, task in running.items() if not task.done()}
                await self._clock.sleep(self._poll_s)

    # ---- what is due -----------------------------------------------------------------------------

    async def schedule(self) -> int:
        """Write down the runs that have fallen due, and return how many; a long downtime takes several looks."""
        now, count = self._clock.now(), 0
        async with self._db.read() as conn:
            due = await rows.fetch_due_exports(conn, now, limit=EXPORTS_AT_ONCE)
        for stored in due:
            plan = stored.plan
            # In a thread: the dues of many years are some seconds of a processor.
            found = await asyncio.to_thread(dues_until, plan, stored.next_due_at, now, most=RUNS_AT_ONCE)
            async with self._db.write() as conn:
                if not await rows.put_next_due(conn, plan.export_id, plan.version, stored.next_due_at, found.next_due):
                    continue  # somebody has changed the export meanwhile: the next look sees how it is now
                if found.missed is not None:
                    missed = found.missed
                    span = Period(period_of(plan, missed.first_due).start, period_of(plan, missed.last_due).end)
                    reason = f"{missed.count} runs until {missed.last_due.isoformat()} are older than is made up"
                    await rows.add_missed(conn, plan.export_id, missed, span, now, reason)
                    logger.warning("runs of an export are too old", extra={"export": plan.export_id, "reason": reason})
                await rows.add_runs(conn, plan.export_id, [(at, period_of(plan, at)) for at in found.runs], now)
            count += len(found.runs)
        return count

    async def enqueue(self) -> int:
        """Have the files of runs made, one run of each export at a time, and return how many jobs were put in."""
        now, count = self._clock.now(), 0
        async with self._db.write() as conn:
            await rows.release_ended_jobs(conn, now, LOST_JOB)
        async with self._db.read() as conn:
            ready = await rows.fetch_to_make(conn, now, ahead=MADE_AHEAD, limit=EXPORTS_AT_ONCE)
        for run in ready:
            async with self._db.write() as conn:
                locked = await rows.lock_run(conn, run.id)
                if locked is None or locked.state is not RunState.DUE or locked.job_id is not None:
                    continue
                job_id = await jobs.enqueue(conn, EXPORT_JOB, {"run_id": run.id}, actor=ACTOR)
                await rows.put_job(conn, run.id, job_id)
                count += 1
        return count

    # ---- bringing --------------------------------------------------------------------------------

    async def to_bring(self) -> list[str]:
        """Return the exports whose oldest open run lies ready."""
        async with self._db.read() as conn:
            return await rows.fetch_to_deliver(conn, self._clock.now())

    async def bring(self, export_id: str) -> None:
        """Bring an export's runs in their order, until one fails, is not made yet, or none is left."""
        try:
            while await self._bring_next(export_id):
                pass
        except PlatformError as exc:  # the database is away, or the account was encrypted with another key
            logger.warning("an export cannot be brought", extra={"export": export_id, "reason": exc.message})

    async def _bring_next(self, export_id: str) -> bool:
        """Bring the oldest open run and note what came of it; return whether the next may be tried."""
        now = self._clock.now()
        async with self._db.read() as conn:
            run = await rows.fetch_oldest_open(conn, export_id)
            stored = await rows.fetch_export(conn, export_id)
        if run is None or stored is None or run.state is not RunState.MADE:
            return False
        if run.next_attempt_at is not None and run.next_attempt_at > now:
            return False
        folder = run_folder(self._root, export_id, run.id)
        paths = [folder / file.name for file in run.files]
        if not await asyncio.to_thread(_all_there, paths):
            await self._lost(run, stored)
            return False
        return await self._bring_files(stored, run, paths)

    async def _bring_files(self, stored: StoredExport, run: Run, paths: list[Path]) -> bool:
        destination = stored.plan.destination
        attempts, error, next_at = run.attempts + 1, None, None
        account = self._secrets.unseal(stored.sealed)
        try:
            await self._outlet.bring(destination, account, stored.plan.folder, paths)
        except PushFailed as exc:
            error = exc.message
            wait = timedelta(seconds=wait_s(destination, attempts, self._random()))
            next_at = self._clock.now() + wait
            logger.info("an export was not taken", extra={"export": run.export_id, "run": run.id, "reason": error})
        delivered = error is None
        _brought.labels(run.export_id, "delivered" if delivered else "failed").inc()
        async with self._db.write() as conn:
            await rows.save_delivery(
                conn, run.id, state=RunState.DELIVERED if delivered else RunState.MADE, attempts=attempts,
                next_attempt_at=next_at, finished_at=self._clock.now() if delivered else None, error=error,
            )  # fmt: skip
        if delivered:
            await asyncio.to_thread(shutil.rmtree, run_folder(self._root, run.export_id, run.id), ignore_errors=True)
        return delivered

    async def _lost(self, run: Run, stored: StoredExport) -> None:
        """Have the files of a run made again that are not here; not at once, since that may be so for all of them."""
        logger.warning("files of an export are gone and made again", extra={"export": run.export_id, "run": run.id})
        again = self._clock.now() + timedelta(seconds=stored.plan.destination.retry_first_s)
        async with self._db.write() as conn:
            await rows.save_lost(conn, run.id, again, LOST_FILES)

    # ---- keeping ---------------------------------------------------------------------------------

    async def _measure(self) -> None:
        async with self._db.read() as conn:
            counts = await rows.count_open(conn)
        OPEN.clear()
        for (export_id, state), count in counts.items():
            OPEN.labels(export_id, state.value).set(count)

    async def _keep(self) -> None:
        now_s = self._clock.monotonic()
        if self._kept_at is not None and now_s - self._kept_at < KEEP_EVERY_S:
            return
        self._kept_at = now_s
        await self.keep()

    async def keep(self) -> None:
        """Remove what is over: rows of runs that ended long ago, and folders of runs that are finished."""
        on_disk = await asyncio.to_thread(_folders, self._root)
        async with self._db.write() as conn:
            await rows.drop_old(
                conn, self._clock.now() - timedelta(seconds=self._retention_s), limit=DROP_AT_ONCE
            )  # fmt: skip
            wanted = await rows.kept_folders(conn)
        for export_id, run_id in on_disk - wanted:
            await asyncio.to_thread(shutil.rmtree, run_folder(self._root, export_id, run_id), ignore_errors=True)


def _all_there(paths: list[Path]) -> bool:
    return bool(paths) and all(path.is_file() for path in paths)


def _folders(root: Path) -> set[tuple[str, int]]:
    if not root.is_dir():
        return set()
    return {
        (run.parent.name, int(run.name)) for export in root.iterdir() if export.is_dir()
        for run in export.iterdir() if run.name.isdigit()
    }  # fmt: skip
