"""Asks devices for what was missed, in the spare time of their lines.

Every ingest process looks after the gaps of the devices whose lines it holds. A line gives away at most its share of
time, and only while no order waits and no poll is due. Where a line goes to another process, that one goes on from
where this one got.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Protocol

from libs.common.clock import Clock
from libs.common.db import Database
from libs.common.errors import Unavailable
from libs.common.lease import Lease, LeaseKeeper
from services.ingest import metrics
from services.ingest.domain.gaps import GapState
from services.ingest.drivers.port import BadAnswer, DeviceRefused, DeviceSilent, LineDown, RawReport
from services.ingest.settings import GapSettings
from services.ingest.spool import SpoolFull
from services.ingest.store import gaps as store
from services.ingest.store.gaps import Gap
from services.ingest.usecases.gaps import NO_MEMORY, GapFinder
from services.ingest.worker.memory import Memory

logger = logging.getLogger(__name__)

LOOK_S = 30.0
FIND_S = 60.0
GAPS_AT_ONCE = 500
NOTE_EVERY = 20
"""Records of a memory after which it is noted how far it was asked."""
RETRY_CAP_S = 86400.0
FINDER = "gap-finder"


class Memories(Protocol):
    """The lines that this process holds."""

    def polled_devices(self) -> Mapping[str, str]:
        """Return the devices on them, and the line of each."""

    def memory(self, device_id: str) -> Memory | None:
        """Return what a device remembers, None when it does not."""


class GapKeeper:
    """Lets one process at a time look for gaps."""

    def __init__(self, *, finder: GapFinder, keeper: LeaseKeeper, clock: Clock) -> None:
        self._finder = finder
        self._keeper = keeper
        self._clock = clock

    async def run(self, beat: Callable[[], None]) -> None:
        """Look for gaps, for ever, while nobody else does."""
        lease: Lease | None = None
        while True:
            beat()
            more = False
            try:
                lease = await (self._keeper.acquire(FINDER) if lease is None else self._keeper.renew(lease))
                if lease is not None:
                    more = await self._finder.once()
            except Unavailable as exc:
                logger.info("gaps are not looked for", extra={"reason": exc.message})
            # The lease is short, so that another process takes over soon; it is renewed while there is nothing to do.
            for _ in range(1 if more else int(FIND_S / LEASE_EVERY_S)):
                beat()
                await self._clock.sleep(0.0 if more else LEASE_EVERY_S)
                with suppress(Unavailable):
                    lease = None if lease is None else await self._keeper.renew(lease)


LEASE_EVERY_S = 2.0


class Backfill:
    """Fills gaps of the devices of this process."""

    def __init__(self, *, db: Database, lines: Memories, clock: Clock, settings: GapSettings) -> None:
        self._db = db
        self._lines = lines
        self._clock = clock
        self._settings = settings
        self._room = asyncio.Semaphore(settings.lines_at_once)
        self._at_work: set[str] = set()
        """Lines whose devices are being asked; a long memory on one keeps no other waiting."""

    async def run(self, beat: Callable[[], None]) -> None:
        """Fill gaps, for ever."""
        async with asyncio.TaskGroup() as group:
            while True:
                beat()
                try:
                    await self._begin(group)
                except Unavailable as exc:
                    logger.info("gaps are not filled now", extra={"reason": exc.message})
                await self._clock.sleep(LOOK_S)

    async def once(self) -> int:
        """Ask for what is due, and return how many gaps were looked at when all is done."""
        async with asyncio.TaskGroup() as group:
            return await self._begin(group)

    async def _begin(self, group: asyncio.TaskGroup) -> int:
        """Let what is due be asked for, one device of a line after the other; return how many gaps that is."""
        line_of = self._lines.polled_devices()
        idle = [device_id for device_id, line_id in line_of.items() if line_id not in self._at_work]
        async with self._db.read() as conn:
            due = await store.fetch_due(conn, idle, self._clock.now(), GAPS_AT_ONCE)
        by_line: dict[str, list[Gap]] = {}
        for gap in due:
            by_line.setdefault(line_of[gap.device_id], []).append(gap)
        for line_id, gaps in by_line.items():
            self._at_work.add(line_id)
            group.create_task(self._line(line_id, gaps), name=f"backfill {line_id}")
        return len(due)

    async def _line(self, line_id: str, gaps: Sequence[Gap]) -> None:
        try:
            async with self._room:
                for gap in gaps:
                    await self._fill(gap)
        except Unavailable as exc:  # the database: this line's turn comes again
            logger.info("gaps left for later", extra={"line_id": line_id, "reason": exc.message})
        finally:
            self._at_work.discard(line_id)

    async def _fill(self, gap: Gap) -> None:
        memory = self._lines.memory(gap.device_id)
        if memory is None:
            await self._put_off(gap, NO_MEMORY, None)
            return
        since, until = gap.asked_until or gap.began_at, gap.ended_at
        if until is None:
            return
        asking = _Asking(gap, since)
        try:
            await self._ask(asking, memory, until)
        except (LineDown, DeviceSilent, BadAnswer, SpoolFull) as exc:
            await self._note(asking)
            wait_s = min(self._settings.retry_s * 2**gap.attempts, RETRY_CAP_S)
            await self._put_off(gap, exc.code, self._clock.now() + timedelta(seconds=wait_s))
        except DeviceRefused as exc:
            logger.info("gap stays", extra={"device_id": gap.device_id, "reason": exc.message})
            await self._settle(asking, exc.code)
        else:
            await self._settle(asking, "nothing_remembered")

    async def _ask(self, asking: "_Asking", memory: Memory, until: datetime) -> None:
        records = memory.session.read_archive(memory.points, asking.until, until)
        try:
            while True:
                began = self._clock.monotonic()
                raw = await memory.spare(lambda: anext(records, None))
                if raw is None:
                    return
                if asking.takes(raw):
                    await memory.deliver(raw)
                    metrics.RECOVERED.inc()
                    if asking.recovered % NOTE_EVERY == 0:
                        await self._note(asking)
                took_s = self._clock.monotonic() - began
                await self._clock.sleep(took_s * (1 / self._settings.share - 1))
        finally:
            if (close := getattr(records, "aclose", None)) is not None:
                # While we are cancelled the line may be in the middle of the last exchange, and ends it by itself.
                with suppress(RuntimeError):
                    await close()

    async def _note(self, asking: "_Asking") -> None:
        async with self._db.write() as conn:
            await store.note_progress(
                conn, asking.gap.id, asked_until=asking.until, recovered=asking.gap.recovered + asking.recovered
            )

    async def _put_off(self, gap: Gap, reason: str, due_at: datetime | None) -> None:
        async with self._db.write() as conn:
            await store.put_off(conn, gap.id, reason, due_at)

    async def _settle(self, asking: "_Asking", reason: str) -> None:
        recovered = asking.gap.recovered + asking.recovered
        state, reason = (GapState.FILLED, "memory") if recovered else (GapState.LOST, reason)
        async with self._db.write() as conn:
            await store.settle(conn, asking.gap.id, state, reason, self._clock.now(), recovered=recovered)
        logger.info("gap asked for", extra={"device_id": asking.gap.device_id, "state": state, "recovered": recovered})


class _Asking:
    """How far the memory of a device has been asked."""

    def __init__(self, gap: Gap, since: datetime) -> None:
        self.gap = gap
        self.until = since
        self.recovered = 0

    def takes(self, raw: RawReport) -> bool:
        """Return whether a record is one of the gap, and note it."""
        if not raw.raw or raw.source_time is None:
            return False
        # The one from which it goes on after a pause comes again.
        inside = self.until < raw.source_time and (self.gap.ended_at is None or raw.source_time < self.gap.ended_at)
        if inside:
            self.until = max(self.until, raw.source_time)
            self.recovered += 1
        return inside
