"""Which lines this process owns: it takes its share of them under leases and runs a task for each.

A lease that another process has taken stops the task at once. While only the database is away the polling goes
on (the readings are accepted through the bus or the spool, and nobody else can take the line either), but
the lease runs out by our own clock, and with it the right to open a breaker.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from libs.common.clock import Clock
from libs.common.contracts.registry import Device, EntityKind, Line
from libs.common.errors import InvalidInput, Unavailable
from libs.common.lease import Lease, LeaseKeeper
from libs.common.profiles import DeviceProfile, ProfileCatalogue
from services.ingest import metrics
from services.ingest.drivers.factory import POLLED_KINDS, open_line
from services.ingest.drivers.modbus import supports
from services.ingest.settings import PollingSettings
from services.ingest.usecases.acceptor import Acceptor
from services.ingest.usecases.status import StatusBoard
from services.ingest.usecases.topology import Topology
from services.ingest.worker.line import LineFindings, LineRunner
from services.ingest.worker.waiting import wait_for

logger = logging.getLogger(__name__)

LOOK_S = 1.0
RESTART_AFTER_S = 5.0
"""Pause before a line's task that failed unexpectedly is started again. [s]"""
LEASE_PREFIX = "line/"


class Instances(Protocol):
    """Which ingest processes live."""

    async def seen(self, instance: str) -> int:
        """Note that we live, and return how many do."""


@dataclass(slots=True)
class Held:
    """A line that this process holds."""

    lease: Lease
    runner: LineRunner
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
        instance: str,
    ) -> None:
        self._topology = topology
        self._catalogue = catalogue
        self._keeper = keeper
        self._instances = instances
        self._acceptor = acceptor
        self._status = status
        self._findings = findings
        self._clock = clock
        self._settings = settings
        self._instance = instance
        self._held: dict[str, Held] = {}
        self._refused: dict[str, str] = {}
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

    def runner(self, line_id: str) -> LineRunner | None:
        """Return the task of a line, None when this process does not hold it."""
        held = self._held.get(line_id)
        return None if held is None else held.runner

    def runner_of(self, device_id: str) -> LineRunner | None:
        """Return the task that polls a device, None when this process does not."""
        device = self._topology.device(device_id, self._clock.now())
        found = None if device is None or device.line is None else self.runner(device.line)
        return found if found is not None and device_id in found.device_ids else None

    def lease(self, line_id: str) -> Lease | None:
        """Return the lease of a line; it may have run out."""
        held = self._held.get(line_id)
        return None if held is None else held.lease

    def held(self) -> frozenset[str]:
        """Return the lines that this process holds."""
        return frozenset(self._held)

    async def run(self, beat: Callable[[], None]) -> None:
        """Keep the lines, for ever; give them back when cancelled."""
        async with asyncio.TaskGroup() as group:
            try:
                while True:
                    beat()
                    wanted = self._wanted()
                    await self._stop_unwanted(wanted)
                    try:
                        await self._keep_leases(wanted)
                        await self._take_more(wanted, group)
                        self._said_away = False
                    except Unavailable as exc:
                        if not self._said_away:
                            logger.warning("leases cannot be renewed", extra={"reason": exc.message})
                        self._said_away = True
                    for line_id, held in self._held.items():
                        held.runner.update(wanted[line_id][1])
                    metrics.LINES_HELD.set(len(self._held))
                    await wait_for(self._wake, self._clock, LOOK_S)
            finally:
                await self._give_all_back()

    def _changed(self, kind: EntityKind, _: str) -> None:
        if kind in (EntityKind.LINE, EntityKind.DEVICE):
            self._wake.set()

    def _wanted(self) -> dict[str, tuple[Line, dict[str, tuple[Device, DeviceProfile]]]]:
        """Return the lines that have something to poll, with their devices."""
        now = self._clock.now()
        found: dict[str, tuple[Line, dict[str, tuple[Device, DeviceProfile]]]] = {}
        for line in self._topology.lines(now):
            if line.kind not in POLLED_KINDS:
                continue
            devices = {}
            for device in self._topology.devices_on(line.id, now):
                profile = self._profile(device)
                if profile is not None:
                    devices[device.id] = (device, profile)
            if devices:
                found[line.id] = (line, devices)
        return found

    def _profile(self, device: Device) -> DeviceProfile | None:
        if device.profile is None:
            return None
        profile = self._catalogue.find(device.profile, device.profile_version)
        if profile is None:
            self._say_once(device.id, f"no profile {device.profile} {device.profile_version or ''}".rstrip())
            return None
        return profile if supports(profile) else None

    def _say_once(self, subject: str, reason: str) -> None:
        if self._refused.get(subject) != reason:
            logger.error("cannot be polled", extra={"subject": subject, "reason": reason})
            self._refused[subject] = reason

    async def _stop_unwanted(self, wanted: Mapping[str, tuple[Line, object]]) -> None:
        gone = [
            line_id
            for line_id, held in self._held.items()
            if line_id not in wanted or wanted[line_id][0] != held.runner.line
        ]
        leases = [await self._stop(line_id) for line_id in gone]
        if leases:
            await self._release(leases)

    async def _keep_leases(self, wanted: Mapping[str, object]) -> None:
        now = self._clock.monotonic()
        if now - self._renewed_at < self._settings.lease_s / 3:
            return
        self._alive = max(await self._instances.seen(self._instance), 1)
        renewed = {lease.name: lease for lease in await self._keeper.renew_many(h.lease for h in self._held.values())}
        self._renewed_at = now
        for line_id in list(self._held):
            lease = renewed.get(LEASE_PREFIX + line_id)
            if lease is None:
                logger.warning("line lost to another process", extra={"line_id": line_id})
                await self._stop(line_id)
            else:
                self._held[line_id].lease = lease
        surplus = len(self._held) - self._share(len(wanted))
        if surplus > 0:
            spare = [line_id for line_id in sorted(self._held) if not self._keeps(line_id)][:surplus]
            await self._release([await self._stop(line_id) for line_id in spare])

    async def _take_more(
        self, wanted: Mapping[str, tuple[Line, dict[str, tuple[Device, DeviceProfile]]]], group: asyncio.TaskGroup
    ) -> None:
        free = [line_id for line_id in sorted(wanted) if line_id not in self._held]
        room = self._share(len(wanted)) - len(self._held)
        leases = await self._keeper.acquire_many([LEASE_PREFIX + line_id for line_id in free], max(room, 0))
        for lease in leases:
            line_id = lease.name.removeprefix(LEASE_PREFIX)
            line, devices = wanted[line_id]
            try:
                driver = open_line(line, self._clock, self._settings)
            except InvalidInput as exc:
                self._say_once(line_id, exc.message)
                continue
            runner = LineRunner(
                line=line,
                driver=driver,
                acceptor=self._acceptor,
                status=self._status,
                findings=self._findings,
                clock=self._clock,
                settings=self._settings,
            )
            runner.update(devices)
            task = group.create_task(self._keep_running(runner), name=f"line {line_id}")
            self._held[line_id] = Held(lease, runner, task)
            for listener in self._on_taken:
                listener(line_id)

    def _share(self, lines: int) -> int:
        """Return how many lines this process should hold: an equal part, rounded up."""
        return math.ceil(lines / self._alive)

    async def _keep_running(self, runner: LineRunner) -> None:
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
        held.task.cancel()
        await asyncio.wait([held.task])
        return held.lease

    async def _release(self, leases: list[Lease]) -> None:
        try:
            await self._keeper.release_many(leases)
        except Unavailable as exc:
            logger.info("leases left to run out", extra={"reason": exc.message})

    async def _give_all_back(self) -> None:
        leases = [await self._stop(line_id) for line_id in list(self._held)]
        if leases:
            try:
                async with asyncio.timeout(2.0):
                    await self._release(leases)
            except TimeoutError:
                logger.info("leases left to run out", extra={"reason": "the database is slow"})
