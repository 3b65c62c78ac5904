"""The tasks that read other systems: one per line of kind ``pull`` or ``file``, in one process at a time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from libs.common.backoff import Backoff
from libs.common.clock import Clock
from libs.common.contracts.base import PLATFORM_SITE
from libs.common.contracts.registry import EntityKind, Line, LineKind
from libs.common.errors import InvalidInput, PlatformError, Unavailable
from libs.common.lease import Lease, LeaseKeeper
from services.ingest import metrics
from services.ingest.domain.pull_source import PullFile, RestSource
from services.ingest.drivers.line_settings import seconds
from services.ingest.drivers.means import Means
from services.ingest.drivers.pull_port import PullSource
from services.ingest.drivers.pull_rest import RestPull
from services.ingest.drivers.pull_sql import SqlPull
from services.ingest.store.pulls import NoLongerOurs
from services.ingest.usecases.drops import Drops
from services.ingest.usecases.pulls import Pulls
from services.ingest.usecases.taking import Taking
from services.ingest.usecases.topology import Topology
from services.ingest.worker.line import LineFindings
from services.ingest.worker.waiting import wait_for

logger = logging.getLogger(__name__)

KINDS = frozenset({LineKind.PULL, LineKind.FILE})
LEASE_PREFIX = "pull/"
LOOK_S = 1.0
FILES_EVERY_S = 5.0
"""How often a folder is looked into, where the line does not say. [s]"""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 600.0
"""Between attempts at a source that fails. [s]"""
TOLD_AFTER_FAILURES = 2
"""A source that failed this often is told as a line that is down."""
RESTART_AFTER_S = 5.0
STOP_WITHIN_S = 5.0


@dataclass(slots=True)
class _Held:
    """A source that this process reads."""

    line: Line
    lease: Lease
    task: "asyncio.Task[None]"


class PullManager:
    """Takes sources under leases and keeps their tasks running."""

    def __init__(
        self,
        *,
        topology: Topology,
        keeper: LeaseKeeper,
        pulls: Pulls,
        drops: Drops,
        taking: Taking,
        findings: LineFindings,
        means: Means,
        clock: Clock,
        lease_s: float,
    ) -> None:
        self._topology = topology
        self._keeper = keeper
        self._pulls = pulls
        self._drops = drops
        self._taking = taking
        self._findings = findings
        self._means = means
        self._clock = clock
        self._lease_s = lease_s
        self._known: set[str] = set()
        self._held: dict[str, _Held] = {}
        self._wake = asyncio.Event()
        self._renewed_at = float("-inf")
        self._said_away = False
        topology.on_change(self._changed)

    def held(self) -> frozenset[str]:
        """Return the lines whose sources this process reads."""
        return frozenset(self._held)

    async def run(self, beat: Callable[[], None]) -> None:
        """Keep the sources, for ever; give them back when cancelled."""
        async with asyncio.TaskGroup() as group:
            try:
                while True:
                    beat()
                    await self._stop_changed()
                    try:
                        await self._keep_leases()
                        await self._take_more(group)
                        self._said_away = False
                    except Unavailable as exc:
                        if not self._said_away:
                            logger.warning("leases of pulls cannot be renewed", extra={"reason": exc.message})
                        self._said_away = True
                    await wait_for(self._wake, self._clock, LOOK_S)
            finally:
                await self._give_all_back()

    def _changed(self, kind: EntityKind, entity_id: str) -> None:
        if kind is not EntityKind.LINE:
            return
        record = self._topology.index.record(kind, entity_id)
        if record is not None and any(isinstance(one, Line) and one.kind in KINDS for one in record.versions):
            self._known.add(entity_id)
            self._wake.set()

    def _wanted(self) -> dict[str, Line]:
        now = self._clock.now()
        lines = ((line_id, self._topology.line(line_id, now)) for line_id in sorted(self._known))
        return {line_id: line for line_id, line in lines if line is not None and line.kind in KINDS}

    async def _stop_changed(self) -> None:
        wanted = self._wanted()
        gone = [line_id for line_id, held in self._held.items() if wanted.get(line_id) != held.line]
        leases = [await self._stop(line_id) for line_id in gone]
        if leases:
            await self._release(leases)

    async def _keep_leases(self) -> None:
        now = self._clock.monotonic()
        if not self._held or now - self._renewed_at < self._lease_s / 3:
            return
        renewed = {
            lease.name: lease for lease in await self._keeper.renew_many(held.lease for held in self._held.values())
        }
        self._renewed_at = now
        for line_id in list(self._held):
            lease = renewed.get(LEASE_PREFIX + line_id)
            if lease is None:
                logger.warning("pull lost to another process", extra={"line_id": line_id})
                await self._stop(line_id)
            else:
                self._held[line_id].lease = lease

    async def _take_more(self, group: asyncio.TaskGroup) -> None:
        wanted = self._wanted()
        free = [LEASE_PREFIX + line_id for line_id in wanted if line_id not in self._held and self._has_device(line_id)]
        for lease in await self._keeper.acquire_many(free, len(free)):
            line = wanted[lease.name.removeprefix(LEASE_PREFIX)]
            work = self._read_folder if line.kind is LineKind.FILE else self._read_source
            task = group.create_task(self._keep_running(line, work), name=f"pull {line.id}")
            self._held[line.id] = _Held(line, lease, task)

    def _has_device(self, line_id: str) -> bool:
        """Return whether anything of a source could be taken: before that, every row would be one of a stranger."""
        return bool(self._topology.devices_on(line_id, self._clock.now()))

    async def _keep_running(self, line: Line, work: Callable[[Line], Awaitable[None]]) -> None:
        while True:
            try:
                await work(line)
            except Exception:
                # One source's unforeseen trouble is logged and must not take the others down.
                logger.exception("pull failed unexpectedly", extra={"line_id": line.id})
            await self._clock.sleep(RESTART_AFTER_S)

    # one source

    def _lease(self, line_id: str) -> Callable[[], Lease]:
        def held() -> Lease:
            found = self._held.get(line_id)
            if found is None:
                raise NoLongerOurs(f"{line_id}: given up", message_zh=f"{line_id}:已放弃")
            return found.lease

        return held

    async def _read_source(self, line: Line) -> None:
        """Read one API or database for ever."""
        backoff = Backoff(first_s=FIRST_PAUSE_S, cap_s=LONGEST_PAUSE_S)
        failures = 0
        source: PullSource | None = None
        try:
            while True:
                began = self._clock.monotonic()
                try:
                    file = self._file(line)
                    source = source or self._open(line, file)
                    self._taking.watch(line.id, file.every_s)
                    cycle = await self._pulls.cycle(line, file, source, self._lease(line.id))
                except NoLongerOurs:
                    return
                except (Unavailable, InvalidInput) as exc:
                    failures += 1
                    await self._note_failure(line, exc, failures)
                    wanted = exc.facts.get("retry_after_s")
                    await self._clock.sleep(max(backoff.next_s(), float(wanted or 0.0)))
                    continue
                failures = 0
                backoff.reset()
                self._findings.line_up(line.id, self._site(line))
                metrics.PULLED.labels("taken").inc(cycle.new)
                metrics.PULLED.labels("refused").inc(cycle.refused)
                if not cycle.behind:
                    await self._clock.sleep(max(file.every_s - (self._clock.monotonic() - began), 0.0))
        finally:
            if source is not None:
                await source.close()

    async def _read_folder(self, line: Line) -> None:
        """Look into one folder for ever."""
        failures = 0
        backoff = Backoff(first_s=FIRST_PAUSE_S, cap_s=LONGEST_PAUSE_S)
        while True:
            try:
                every_s = seconds(line, "every_s", FILES_EVERY_S, most=86400)
                self._taking.watch(line.id, max(every_s, 60.0))
                await self._drops.look(line, self._lease(line.id))
            except NoLongerOurs:
                return
            except OSError as exc:
                failures += 1
                reason = exc.strerror or str(exc)
                await self._note_failure(line, Unavailable(f"{line.endpoint}: {reason}"), failures)
                await self._clock.sleep(backoff.next_s())
            except (Unavailable, InvalidInput) as exc:
                failures += 1
                await self._note_failure(line, exc, failures)
                await self._clock.sleep(backoff.next_s())
            else:
                failures = 0
                backoff.reset()
                self._findings.line_up(line.id, self._site(line))
                await self._clock.sleep(every_s)

    def _file(self, line: Line) -> PullFile:
        file = self._pulls.file_of(line)
        if file is None:
            name = (line.settings or {}).get("file")
            raise InvalidInput(
                f"line {line.id}: settings.file: there is no pull file {name!r} in WATTRING_INGEST__PULLS__FOLDERS",
                message_zh=f"线路 {line.id}:WATTRING_INGEST__PULLS__FOLDERS 中没有拉取配置 {name!r}",
            )
        return file

    def _open(self, line: Line, file: PullFile) -> PullSource:
        if isinstance(file.source, RestSource):
            return RestPull(line, file.source, self._clock, self._means)
        return SqlPull(line, file.source, file.rows.time.zone, self._clock, self._means)

    async def _note_failure(self, line: Line, exc: PlatformError, failures: int) -> None:
        if failures == 1:
            logger.warning("source cannot be read", extra={"line_id": line.id, "reason": exc.message})
        if failures >= TOLD_AFTER_FAILURES:
            self._findings.line_down(line.id, self._site(line), exc.message)
        try:
            await self._pulls.failed(line.id, exc.message, exc.message_zh)
        except Unavailable:
            logger.debug("the failure cannot be noted", extra={"line_id": line.id})

    def _site(self, line: Line) -> str:
        return self._taking.site_of(line.id) or PLATFORM_SITE

    # the end

    async def _stop(self, line_id: str) -> Lease:
        held = self._held.pop(line_id)
        self._taking.forget(line_id)
        while not held.task.done():
            held.task.cancel()
            await asyncio.wait([held.task], timeout=STOP_WITHIN_S)
        return held.lease

    async def _release(self, leases: list[Lease]) -> None:
        try:
            async with asyncio.timeout(2.0):
                await self._keeper.release_many(leases)
        except (Unavailable, TimeoutError) as exc:
            logger.info("leases left to run out", extra={"reason": str(exc)})

    async def _give_all_back(self) -> None:
        leases = [await self._stop(line_id) for line_id in list(self._held)]
        if leases:
            await self._release(leases)
