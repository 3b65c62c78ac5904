"""Which lines this process owns: it takes its share of them under leases and runs a task for each.

A lease that another process has taken stops the task at once. While only the database is away the polling goes
on (the readings are accepted through the bus or the spool, and nobody else can take the line either), but
the lease runs out by our own clock, and with it the right to open a breaker.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from libs.common.clock import Clock
from libs.common.contracts.registry import EntityKind, Line, LineKind
from libs.common.errors import Unavailable
from libs.common.lease import Lease, LeaseKeeper
from libs.common.profiles import ProfileCatalogue
from services.ingest import metrics
from services.ingest.domain.normalise import Normalisers
from services.ingest.drivers.factory import open_line
from services.ingest.drivers.means import Means
from services.ingest.drivers.port import TellingLine
from services.ingest.settings import PollingSettings
from services.ingest.usecases.acceptor import Acceptor
from services.ingest.usecases.status import StatusBoard
from services.ingest.usecases.topology import Topology
from services.ingest.worker.line import LineFindings, LineRunner
from services.ingest.worker.memory import Memory
from services.ingest.worker.rush import Rush
from services.ingest.worker.telling import TellingRunner
from services.ingest.worker.waiting import wait_for
from services.ingest.worker.wanted import WantedLines

logger = logging.getLogger(__name__)

LOOK_S = 1.0
RESTART_AFTER_S = 5.0
"""Pause before a line's task that failed unexpectedly is started again. [s]"""
LEASE_PREFIX = "line/"
HOLDER_TIMEOUT_S = 1.0


class Instances(Protocol):
    """Which ingest processes live."""

    async def seen(self, instance: str) -> int:
        """Note that we live, and return how many do."""

    async def gone(self, instance: str) -> None:
        """Note that we stop."""


Runner = LineRunner | TellingRunner
"""Whoever owns a line: one that polls its devices, or one that listens to them."""


@dataclass(slots=True)
class Held:
    """A line that this process holds."""

    lease: Lease
    runner: Runner
    task: asyncio.Task[None]


class LineManager:
    """Takes and gives back lines, and keeps their tasks running."""

    def __init__(
        self,
        *,
        topology: Topology,
        catalogue: ProfileCatalogue,
        keeper: LeaseKeeper,
        instances: Instances,
        acceptor: Acceptor,
        status: StatusBoard,
        findings: LineFindings,
        clock: Clock,
        settings: PollingSettings,
        means: Means,
        instance: str,
        complete: Callable[[], bool],
        rush: Rush | None = None,
    ) -> None:
        """Prepare; ``complete`` says whether the registry has been read to its end."""
        self._topology = topology
        self._wanted = WantedLines(topology=topology, catalogue=catalogue, clock=clock, settings=settings, means=means)
        self._keeper = keeper
        self._instances = instances
        self._acceptor = acceptor
        self._status = status
        self._findings = findings
        self._clock = clock
        self._settings = settings
        self._means = means
        self._normalisers = Normalisers()
        self.rush = rush or Rush(clock)
        """The orders under way on all lines."""
        self._instance = instance
        self._complete = complete
        self._held: dict[str, Held] = {}
        self._wake = asyncio.Event()
        self._renewed_at = float("-inf")
        self._alive = 1
        self._said_away = False
        self._on_taken: list[Callable[[str], None]] = []
        self._keeps: Callable[[str], bool] = lambda line_id: False
        topology.on_change(self._changed)

    def on_taken(self, listener: Callable[[str], None]) -> None:
        """Call ``listener`` with the id of every line that this process takes."""
        self._on_taken.append(listener)

    def keep_while(self, needed: Callable[[str], bool]) -> None:
        """Give no line away of its own accord for which ``needed`` says true (a breaker on it is open)."""
        self._keeps = needed

    def terminal_connected(self, line_id: str) -> None:
        """A terminal has dialled in to this process: take its line, and use it at once."""
        runner = self.runner(line_id)
        if isinstance(runner, LineRunner):
            runner.connect_now()
        else:
            self._wake.set()

    def runner(self, line_id: str) -> Runner | None:
        """Return the task of a line, None when this process does not hold it."""
        held = self._held.get(line_id)
        return None if held is None else held.runner

    def runner_of(self, device_id: str) -> Runner | None:
        """Return the task that polls a device or listens to it, None when this process does not."""
        device = self._topology.device(device_id, self._clock.now())
        found = None if device is None or device.line is None else self.runner(device.line)
        return found if found is not None and device_id in found.device_ids else None

    def polled_devices(self) -> dict[str, str]:
        """Return the devices that this process polls or listens to, and the line of each."""
        return {device_id: line_id for line_id, held in self._held.items() for device_id in held.runner.device_ids}

    def memory(self, device_id: str) -> Memory | None:
        """Return what a device remembers, None when it does not or this process does not hold its line."""
        runner = self.runner_of(device_id)
        return None if runner is None else runner.memory(device_id)

    def lease(self, line_id: str) -> Lease | None:
        """Return the lease of a line; it may have run out."""
        held = self._held.get(line_id)
        return None if held is None else held.lease

    async def holder_of(self, line_id: str) -> str | None:
        """Return who else holds a line now; None when nobody does, or when that cannot be known."""
        name = LEASE_PREFIX + line_id
        try:
            async with asyncio.timeout(HOLDER_TIMEOUT_S):
                owner = (await self._keeper.holders(name)).get(name)
        except (Unavailable, TimeoutError):
            return None
        return None if owner == self._instance or line_id in self._held else owner

    def held(self) -> frozenset[str]:
        """Return the lines that this process holds."""
        return frozenset(self._held)

    async def run(self, beat: Callable[[], None]) -> None:
        """Keep the lines, for ever; give them back when cancelled."""
        async with asyncio.TaskGroup() as group:
            try:
                while True:
                    beat()
                    changed = self._wanted.refresh()
                    await self._stop_unwanted(changed)
                    try:
                        await self._keep_leases()
                        await self._take_heard(group)
                        await self._take_more(group)
                        self._said_away = False
                    except Unavailable as exc:
                        if not self._said_away:
                            logger.warning("leases cannot be renewed", extra={"reason": exc.message})
                        self._said_away = True
                    for line_id in changed & self._held.keys():
                        self._held[line_id].runner.update(self._wanted.lines[line_id].devices)
                    metrics.LINES_HELD.set(len(self._held))
                    await wait_for(self._wake, self._clock, LOOK_S)
            finally:
                await self._give_all_back()

    def _changed(self, kind: EntityKind, entity_id: str) -> None:
        if self._wanted.note(kind, entity_id):
            self._wake.set()

    async def _stop_unwanted(self, changed: Collection[str]) -> None:
        wanted = self._wanted.lines
        gone = [
            line_id
            for line_id in changed
            if (held := self._held.get(line_id)) is not None
            and ((found := wanted.get(line_id)) is None or found.line != held.runner.line)
        ]
        leases = [await self._stop(line_id) for line_id in gone]
        if leases:
            await self._release(leases)

    async def _keep_leases(self) -> None:
        now = self._clock.monotonic()
        if now - self._renewed_at < self._settings.lease_s / 3:
            return
        self._alive = max(await self._instances.seen(self._instance), 1)
        renewed = {lease.name: lease for lease in await self._keeper.renew_many(h.lease for h in self._held.values())}
        # One that has only run out, because database or process were slow, is taken again unless somebody else has it:
        # thousands of orders may be under way on the line. An OFF among them is refused, for the epoch is another.
        gone = [held.lease.name for held in self._held.values() if held.lease.name not in renewed]
        renewed |= {lease.name: lease for lease in await self._keeper.acquire_many(gone, len(gone))}
        self._renewed_at = now
        for line_id in list(self._held):
            lease = renewed.get(LEASE_PREFIX + line_id)
            if lease is None:
                logger.warning("line lost to another process", extra={"line_id": line_id})
                await self._stop(line_id)
                if self._means.hub is not None:
                    # Its terminal has dialled in there; what we have is a connection that nobody has ended.
                    self._means.hub.drop(line_id)
            else:
                self._held[line_id].lease = lease
        surplus = len(self._held) - self._share()
        if surplus > 0:
            heard = self._heard()
            spare = [line for line in sorted(self._held) if line not in heard and not self._keeps(line)][:surplus]
            await self._release([await self._stop(line_id) for line_id in spare])

    def _heard(self) -> Collection[str]:
        """Return the lines whose terminals have dialled in to this process."""
        return () if self._means.hub is None else self._means.hub.connected()

    async def _take_heard(self, group: asyncio.TaskGroup) -> None:
        """Take the lines whose terminals are here, from whoever holds them: nobody else can reach them."""
        heard = [line_id for line_id in self._heard() if line_id in self._wanted.lines and line_id not in self._held]
        for lease in await self._keeper.take_over([LEASE_PREFIX + line_id for line_id in sorted(heard)]):
            self._start(group, lease)

    async def _take_more(self, group: asyncio.TaskGroup) -> None:
        room = self._share() - len(self._held)
        if room <= 0:
            return
        free = [line_id for line_id in sorted(self._wanted.lines) if line_id not in self._held and self._may(line_id)]
        leases = await self._keeper.acquire_many([LEASE_PREFIX + line_id for line_id in free], room)
        for lease in leases:
            self._start(group, lease)

    def _may(self, line_id: str) -> bool:
        """Return whether a line may be taken before the registry is whole.

        A broker's message of a device that is only not read yet would be refused, and acknowledged.
        """
        return self._complete() or self._wanted.lines[line_id].line.kind is not LineKind.MQTT

    def _start(self, group: asyncio.TaskGroup, lease: Lease) -> None:
        """Begin to serve a line whose lease was taken."""
        line_id = lease.name.removeprefix(LEASE_PREFIX)
        wanted = self._wanted.lines[line_id]
        runner = self._runner(wanted.line)
        runner.update(wanted.devices)
        task = group.create_task(self._keep_running(runner), name=f"line {line_id}")
        self._held[line_id] = Held(lease, runner, task)
        for listener in self._on_taken:
            listener(line_id)

    def _runner(self, line: Line) -> Runner:
        driver = open_line(line, self._clock, self._settings, self._means)
        if isinstance(driver, TellingLine):
            return TellingRunner(
                line=line, driver=driver, acceptor=self._acceptor, status=self._status, findings=self._findings,
                clock=self._clock, settings=self._settings, normalisers=self._normalisers,
            )  # fmt: skip
        return LineRunner(
            line=line, driver=driver, acceptor=self._acceptor, status=self._status, findings=self._findings,
            clock=self._clock, settings=self._settings, normalisers=self._normalisers, rush=self.rush,
        )  # fmt: skip

    def _share(self) -> int:
        """Return how many lines this process should hold: an equal part, rounded up."""
        return math.ceil(len(self._wanted.lines) / self._alive)

    async def _keep_running(self, runner: Runner) -> None:
        while True:
            try:
                await runner.run()
            except Exception:
                # One line's unforeseen trouble is logged and must not take the other lines down.
                logger.exception("line task failed", extra={"line_id": runner.line.id})
            await self._clock.sleep(RESTART_AFTER_S)

    async def _stop(self, line_id: str) -> Lease:
        held = self._held.pop(line_id)
        for device_id in held.runner.device_ids:
            self._status.forget(device_id)
        # asyncio.wait_for of Python 3.11, which the Modbus library uses, swallows a cancellation that comes together
        # with its result.
        while not held.task.done():
            held.task.cancel()
            await asyncio.wait([held.task], timeout=0.2)
        return held.lease

    async def _release(self, leases: list[Lease]) -> None:
        try:
            await self._keeper.release_many(leases)
        except Unavailable as exc:
            logger.info("leases left to run out", extra={"reason": exc.message})

    async def _give_all_back(self) -> None:
        leases = [await self._stop(line_id) for line_id in list(self._held)]
        try:
            async with asyncio.timeout(2.0):
                await self._keeper.release_many(leases)
                await self._instances.gone(self._instance)
        except (Unavailable, TimeoutError) as exc:
            logger.info("leases left to run out", extra={"reason": str(exc)})
