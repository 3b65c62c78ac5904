"""Makes the units' measurement files when their periods are over, and brings them to the centres.

One process does it, under a lease. A file is in the unit's folder before it is noted, and noted before it is pushed:
nothing is lost by a crash, and making it again makes the same file. Files of a unit go to its centre in their order,
for as long as it takes, or until a person gives one up; a centre that is away delays nobody else's.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

from libs.common import metrics
from libs.common.bus import outbox
from libs.common.clock import Clock
from libs.common.contracts.base import Phase
from libs.common.db import Database
from libs.common.errors import PlatformError, Unavailable
from libs.common.lease import Lease, LeaseKeeper
from services.export import bus
from services.export.dialects import messages as m
from services.export.domain.connection import Unit, UnitKey
from services.export.domain.latest import LatestReadings, latest_values, stored_values
from services.export.domain.mapping import Mapping, SourceKind
from services.export.domain.unitfiles import Content, FileTemplate, Period, Row, file_name, period_before, render
from services.export.files import queue, shelf
from services.export.files.push import PushFailed, PushTarget, push
from services.export.files.queue import FilePlan, FileState, PushPlace, UnitFile, Waiting
from services.export.secrets import Secrets
from services.export.store import mappings as mapping_store
from services.export.store import samples as sample_store
from services.export.store import units as unit_store

logger = logging.getLogger(__name__)

LEASE = "unit-files"
AT_ONCE = 4
"""Files on their way to one centre."""
BATCH = 100
"""Files that are looked at in one round of one centre."""
MOST_BACK = timedelta(days=31)
"""Hourly files that are missing are made so far back; the samples are kept a little longer."""
LATE_AFTER = timedelta(hours=1)
"""A file that has waited for its centre so long is a finding, until none has any more."""
READ_WAITS = timedelta(seconds=10)
"""A period's file is made so long after its end: its last readings are on their way."""

WAITING = metrics.gauge("export_files_waiting", "Measurement files that wait for a centre", ("destination",))
_pushed = metrics.counter("export_files_pushed_total", "Attempts to push a file, by what came of it",
                          ("destination", "outcome"))  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Due:
    unit: Unit
    template: FileTemplate
    period: Period


@dataclass(slots=True)
class _Round:
    """What several tasks bring to one centre, each taking the next file."""

    place: PushPlace
    target: PushTarget
    files: Iterator[UnitFile]
    failed: bool = False


class UnitFiles:
    """The makers and bringers of this process."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        secrets: Secrets,
        latest: LatestReadings,
        folder: Path,
        owner: str,
        lease_s: float,
        poll_s: float,
        committed: Callable[[], None],
    ) -> None:
        """Prepare it.

        Args:
            db: Of the service.
            clock: For periods and waits.
            secrets: Decrypts the accounts of the centres' servers.
            latest: Newest values.
            folder: Below it each unit has a folder, named by its key.
            owner: Of the lease.
            lease_s: A dead replica's work is taken over after this. [s]
            poll_s: How often is looked. [s]
            committed: Called after a commit that has filled the outbox.
        """
        self._db = db
        self._clock = clock
        self._secrets = secrets
        self._latest = latest
        self._folder = folder
        self._keeper = LeaseKeeper(db, clock, owner, lease_s)
        self._lease_s = lease_s
        self._poll_s = poll_s
        self._committed = committed
        self._lease: Lease | None = None
        self._made: dict[tuple[UnitKey, str], datetime] | None = None
        self._random = Random()  # noqa: S311 - spreads retries

    async def run(self, beat: Callable[[], None]) -> None:
        """Make and bring for ever, while this process has the lease."""
        running: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                beat()
                try:
                    if await self._hold():
                        for plan in await self.make(beat):
                            known = running.get(plan.connection_id)
                            if known is None or known.done():
                                name = f"files {plan.connection_id}"
                                running[plan.connection_id] = group.create_task(self.bring(plan), name=name)
                        await self.measure()
                except Unavailable as exc:
                    logger.warning("files cannot be looked after", extra={"reason": exc.message})
                await self._clock.sleep(self._poll_s)

    async def measure(self) -> None:
        """Measure what waits, and tell alarm of a centre whose files begin or cease to wait for too long."""
        async with self._db.read() as conn:
            waiting = await queue.measure_waiting(conn)
        WAITING.clear()
        now = self._clock.now()
        for destination, found in waiting.items():
            WAITING.labels(destination).set(found.count)
            late = found.oldest_at is not None and now - found.oldest_at > LATE_AFTER
            if late is not found.told_late:
                await self._tell(destination, Phase.BEGIN if late else Phase.END, found, now)

    async def _tell(self, destination: str, phase: Phase, found: Waiting, now: datetime) -> None:
        async with self._db.write() as conn:
            if not await queue.note_late(conn, destination, late=phase is Phase.BEGIN):
                return  # another process was sooner
            await outbox.put(
                conn, [bus.files_finding(destination, phase, count=found.count, oldest_at=found.oldest_at, at=now)]
            )
        logger.log(
            logging.WARNING if phase is Phase.BEGIN else logging.INFO,
            "files wait too long for a centre" if phase is Phase.BEGIN else "no file waits too long any more",
            extra={"destination": destination, "waiting": found.count},
        )
        self._committed()

    async def _hold(self) -> bool:
        if self._lease is not None and self._lease.valid_for_s() > self._lease_s / 2:
            return True
        if self._lease is not None:
            kept = await self._keeper.renew_many([self._lease])
            self._lease = kept[0] if kept else None
        if self._lease is None:
            self._made = None  # another process may have made some meanwhile
            self._lease = await self._keeper.acquire(LEASE)
        return self._lease is not None

    # ---- making ----------------------------------------------------------------------------------

    async def make(self, beat: Callable[[], None]) -> list[FilePlan]:
        """Make what is due and return the plans whose files are pushed."""
        async with self._db.read() as conn:
            plans = await queue.fetch_plans(conn)
            if self._made is None:
                self._made = await queue.made_until(conn)
        now = self._clock.now() - READ_WAITS
        for plan in plans:
            async with self._db.read() as conn:
                units = await unit_store.fetch_units(conn, plan.connection_id)
            for due in self._due(plan, units, self._made, now):
                beat()
                await self._make_one(plan, due)
                self._made[due.unit.key, due.template.id] = due.period.end
        return [plan for plan in plans if plan.push is not None]

    def _due(
        self, plan: FilePlan, units: Sequence[Unit], made: dict[tuple[UnitKey, str], datetime], now: datetime
    ) -> list[_Due]:
        """Return what is to be made: of latest values the last period only, of stored ones all that are missing.

        A template that is new begins with the first period that ends after this process has begun to look.
        """
        found = []
        for unit in units:
            for template in plan.templates:
                last = period_before(now, template.every_s)
                until = made.setdefault((unit.key, template.id), last.end)
                if until >= last.end:
                    continue
                if template.content is Content.LATEST:
                    found.append(_Due(unit, template, last))
                    continue
                step = timedelta(seconds=template.every_s)
                end = max(until, last.end - MOST_BACK) + step
                while end <= last.end:
                    found.append(_Due(unit, template, Period(end - step, end)))
                    end += step
        return found

    async def _make_one(self, plan: FilePlan, due: _Due) -> None:
        unit, template, period = due.unit, due.template, due.period
        async with self._db.read() as conn:
            mapping = await mapping_store.fetch_mapping(conn, unit.key)
            mapping = _measured(mapping)
            samples: dict[tuple[str, str], list[tuple[datetime, float]]] = {}
            if template.content is Content.HOURLY:
                devices = {point.device_id for point in mapping.points}
                for sample in await sample_store.fetch_samples(conn, devices, period.start, period.end):
                    if period.start <= sample.at < period.end:
                        samples.setdefault((sample.device_id, sample.point), []).append((sample.at, sample.value))
        everything = (m.DeviceSelection(None, None),)
        if template.content is Content.HOURLY:
            values = stored_values(mapping, everything, samples)
        else:
            values = latest_values(
                mapping, everything, latest=self._latest, active=(), type_of=lambda _: m.PointType.AI,
                now=self._clock.now(),
            )  # fmt: skip
        content = render(
            template,
            unit.ref.unit_id,
            _rows(mapping, values, period.end if template.content is Content.LATEST else None),
        )
        name = file_name(template, unit.ref.unit_id, period)
        home = self._folder / str(unit.key)
        await asyncio.to_thread(shelf.put, home, template.folder, name, content)
        async with self._db.write() as conn:
            await queue.insert(
                conn, connection_id=plan.connection_id, unit_key=unit.key, template_id=template.id,
                period_end=period.end, folder=template.folder, name=name, size_bytes=len(content),
                now=self._clock.now(), pushed=plan.push is not None,
            )  # fmt: skip
            gone = await queue.make_room(conn, unit.key, template.id, template.keep)
        for folder, old in gone:
            await asyncio.to_thread(shelf.drop, home, folder, old)

    # ---- bringing --------------------------------------------------------------------------------

    async def bring(self, plan: FilePlan) -> None:
        """Push what is due of one connection, once; after the first failure the others wait for the next round."""
        if plan.push is None:
            return
        try:
            account = self._secrets.unseal(plan.sealed)
            async with self._db.read() as conn:
                due = await queue.fetch_due(conn, plan.connection_id, self._clock.now(), limit=BATCH)
        except PlatformError as exc:  # the database is away, or the account was encrypted with another key
            logger.warning("files cannot be brought", extra={"destination": plan.connection_id, "reason": exc.message})
            return
        round_ = _Round(
            plan.push,
            PushTarget(url=plan.push.url, host_key=plan.push.host_key, timeout_s=plan.push.timeout_s).with_account(
                account
            ),
            iter(due),
        )
        async with asyncio.TaskGroup() as group:
            for number in range(min(AT_ONCE, len(due))):
                group.create_task(self._bring_some(round_), name=f"files {plan.connection_id} {number}")

    async def _bring_some(self, round_: _Round) -> None:
        for file in round_.files:
            try:
                round_.failed |= not await self._bring_one(file, round_.place, round_.target)
            except Unavailable as exc:  # what became of the file is not written down: it is pushed once more
                logger.warning("a pushed file cannot be noted", extra={"reason": exc.message})
                round_.failed = True
            if round_.failed:
                return

    async def _bring_one(self, file: UnitFile, place: PushPlace, target: PushTarget) -> bool:
        """Push one file and note what came of it; return whether the next may be tried."""
        attempts = file.attempts + 1
        content = await asyncio.to_thread(shelf.read, self._folder / str(file.unit_key), file.folder, file.name)
        state, error, next_at = FileState.DELIVERED, None, None
        if content is None:
            state, error = FileState.GIVEN_UP, "the file is gone from the unit's folder"
        else:
            try:
                await push(target, file.folder, file.name, content)
            except PushFailed as exc:
                state, error = FileState.RETRYING, exc.message
                wait_s = min(place.retry_first_s * 2.0 ** min(attempts - 1, 30), place.retry_cap_s)
                next_at = self._clock.now() + timedelta(seconds=wait_s * (1 - self._random.random() / 3))
        _pushed.labels(file.connection_id, state.value).inc()
        if error is not None:
            logger.info("a file was not taken", extra={"destination": file.connection_id, "reason": error})
        now = self._clock.now()
        async with self._db.write() as conn:
            await queue.save_attempt(
                conn, file.id, state, attempts=attempts, next_attempt_at=next_at,
                finished_at=None if state is FileState.RETRYING else now, error=error,
            )  # fmt: skip
        return state is not FileState.RETRYING


def _measured(mapping: Mapping) -> Mapping:
    """Return the mapping without its signals: alarms have a way of their own."""
    return replace(mapping, points=tuple(point for point in mapping.points if point.kind is SourceKind.POINT))


def _rows(mapping: Mapping, values: Sequence[m.DeviceValues], at: datetime | None) -> list[Row]:
    """Return what stands in a file; ``at`` is the instant of all values, None where each has its own."""
    points = {(point.sc_device_id, point.point_id): point for point in mapping.points}
    names = {device.ref.device_id: device.name for device in mapping.devices}
    return [
        Row(
            device=device.device,
            device_name=names.get(device.device.device_id, ""),
            point=points[device.device.device_id, value.point_id],
            at=instant,
            value=value.value,
            state=value.state,
        )
        for device in values
        for value in device.values
        if (instant := at or value.recorded_at) is not None
    ]
