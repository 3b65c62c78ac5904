"""Sees that deliveries of records are worked off, one after the other, and takes files that are dropped: one process.

A file is taken once it has stood still for a while, and goes to ``taken/`` or, when it cannot be read, to ``bad/``.
What came of its rows is written beside it as ``<file>.result.csv`` when it is known. A file that is dropped again is
moved and not taken twice.
"""

import asyncio
import csv
import hashlib
import io
import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

from libs.common import jobs
from libs.common.clock import Clock
from libs.common.db import Database
from libs.common.errors import InvalidFile, PlatformError, Unavailable
from libs.common.lease import OneHolder
from services.export.records import rows
from services.export.records.reading import MAX_FILE_BYTES, MAX_ROWS, read_file
from services.export.records.taking import RECORDS_JOB
from services.export.usecases.administration import Actor
from services.export.usecases.records import FOLDER, Deliveries

logger = logging.getLogger(__name__)

LEASE = "records"
ACTOR = "service:export"
TAKEN, BAD = "taken", "bad"
KINDS = (".csv", ".xlsx")
"""Ends of names that are taken; what is called otherwise may still be on its way."""
RESULT = ".result.csv"
FILES_AT_ONCE = 100
LOST_JOB = "the job ended without a word"
LOST_JOB_WAIT_S = 60.0
"""What ends its worker is not tried without a pause. [s]"""
KEEP_EVERY_S = 600.0
DROP_AT_ONCE = 100


class RecordWorker:
    """The loop of this process."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        deliveries: Deliveries,
        folder: Path | None,
        owner: str,
        lease_s: float,
        poll_s: float,
        settle_s: float,
        retention_s: float,
    ) -> None:
        """Prepare it.

        Args:
            db: Of the service.
            clock: Ours.
            deliveries: The door.
            folder: Where files are dropped; None takes none.
            owner: Of the lease.
            lease_s: A dead replica's work is taken over after this. [s]
            poll_s: How often is looked. [s]
            settle_s: A file that has not changed for this long is whole. [s]
            retention_s: Finished deliveries leave the database after this. [s]
        """
        self._db = db
        self._clock = clock
        self._deliveries = deliveries
        self._folder = folder
        self._turn = OneHolder(db=db, clock=clock, owner=owner, name=LEASE, ttl_s=lease_s)
        self._poll_s = poll_s
        self._settle_s = settle_s
        self._retention_s = retention_s
        self._seen: dict[str, tuple[int, int, float]] = {}
        self._kept_at: float | None = None

    async def run(self, beat: Callable[[], None]) -> None:
        """Look for ever, while this process has the lease."""
        while True:
            beat()
            try:
                if await self._turn.hold():
                    await self.enqueue()
                    await self.look()
                    await self.tell()
                    await self._keep()
            except Unavailable as exc:
                logger.warning("records cannot be looked after", extra={"reason": exc.message})
            except OSError as exc:
                logger.warning("the folder of records cannot be used", extra={"reason": str(exc)})
            await self._clock.sleep(self._poll_s)

    async def enqueue(self) -> None:
        """Have the oldest delivery worked on, when none is."""
        now = self._clock.now()
        async with self._db.write() as conn:
            await rows.release_ended_jobs(conn, now + timedelta(seconds=LOST_JOB_WAIT_S), LOST_JOB)
            delivery_id = await rows.fetch_to_take(conn, now)
            if delivery_id is not None:
                job_id = await jobs.enqueue(conn, RECORDS_JOB, {"delivery_id": delivery_id}, actor=ACTOR)
                await rows.put_job(conn, delivery_id, job_id)

    # ---- files -----------------------------------------------------------------------------------

    async def look(self) -> None:
        """Take the files that stand still."""
        if self._folder is None:
            return
        settled = await asyncio.to_thread(self._settled, self._folder, self._clock.monotonic())
        for path in settled:
            await self._take(path)

    def _settled(self, folder: Path, now_s: float) -> list[Path]:
        """Return files that look as they did for ``settle_s``, oldest name first."""
        found, seen = [], {}
        for path in sorted(folder.iterdir())[: FILES_AT_ONCE * 10]:
            if path.suffix.lower() not in KINDS or path.name.endswith(RESULT) or not path.is_file():
                continue
            stat = path.stat()
            size, modified, since = self._seen.get(path.name, (-1, -1, now_s))
            since = since if (size, modified) == (stat.st_size, stat.st_mtime_ns) else now_s
            seen[path.name] = (stat.st_size, stat.st_mtime_ns, since)
            if now_s - since >= self._settle_s:
                found.append(path)
        self._seen = seen
        return found[:FILES_AT_ONCE]

    async def _take(self, path: Path) -> None:
        try:
            body = await asyncio.to_thread(_read, path)
            digest = hashlib.sha256(body).hexdigest()[:16]
            fields = await asyncio.to_thread(read_file, body, path.name)
            told = await self._deliveries.deliver(f"{path.name} {digest}", fields, Actor(FOLDER))
        except Unavailable:
            raise
        except PlatformError as exc:
            lines = exc.problems if isinstance(exc, InvalidFile) else []
            told_rows = [(one.line or 0, "refused", str(one), one.text_zh()) for one in lines]
            told_rows = told_rows or [(0, "refused", exc.message, exc.message_zh or exc.message)]
            logger.warning("a file of records cannot be read", extra={"file": path.name, "reason": exc.message[:500]})
            await asyncio.to_thread(_put_away, path, BAD, path.name, told_rows)
            return
        await asyncio.to_thread(_put_away, path, TAKEN, f"{told.delivery.delivery_id}-{path.name}", None)

    async def tell(self) -> None:
        """Write down beside dropped files what came of their rows."""
        if self._folder is None:
            return
        async with self._db.read() as conn:
            finished = await rows.fetch_untold(conn, FOLDER, limit=FILES_AT_ONCE)
        for one in finished:
            async with self._db.read() as conn:
                found = await rows.fetch_rows(conn, one.delivery_id, state=None, after=0, limit=MAX_ROWS)
            name = f"{one.delivery_id}-{one.name.rpartition(' ')[0]}"
            told = [(row.line, row.state.value, row.problem or "", row.problem_zh or "") for row in found]
            await asyncio.to_thread(_write_result, self._folder / TAKEN / (name + RESULT), told)
            async with self._db.write() as conn:
                await rows.save_told(conn, one.delivery_id, self._clock.now())

    # ---- keeping ---------------------------------------------------------------------------------

    async def _keep(self) -> None:
        now_s = self._clock.monotonic()
        if self._kept_at is not None and now_s - self._kept_at < KEEP_EVERY_S:
            return
        self._kept_at = now_s
        async with self._db.write() as conn:
            before = self._clock.now() - timedelta(seconds=self._retention_s)
            await rows.drop_old(conn, before, limit=DROP_AT_ONCE)
            await rows.drop_old_periods(conn, before)


Result = Sequence[tuple[int, str, str, str]]


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_FILE_BYTES + 1)  # one more is refused as too large


def _put_away(path: Path, folder: str, name: str, result: Result | None) -> None:
    place = path.parent / folder
    place.mkdir(exist_ok=True)
    if result is not None:
        _write_result(place / (name + RESULT), result)
    path.replace(place / name)


def _write_result(path: Path, result: Result) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([("line", "state", "problem", "problem_zh"), *result])
    path.parent.mkdir(exist_ok=True)
    draft = path.with_name(path.name + ".part")
    draft.write_text(text.getvalue(), encoding="utf-8-sig")  # the mark tells Excel the encoding
    draft.replace(path)
