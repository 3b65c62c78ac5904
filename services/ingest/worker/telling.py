"""The task that owns a line whose devices speak by themselves: a 104 connection, an OPC UA server, a broker.

It keeps the line connected, with growing pauses, and puts what comes through the one door. Orders do not wait for
each other here, since nothing is polled; one for a line that is not connected lets it connect at once. What a
device says never ends this task.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import NoReturn, TypeVar

from libs.common.backoff import Backoff
from libs.common.clock import Clock
from libs.common.contracts.base import PLATFORM_SITE
from libs.common.contracts.registry import Device, Line
from libs.common.contracts.telemetry import RejectReason
from libs.common.errors import InvalidInput, PlatformError
from libs.common.ids import DeviceId, LineId
from libs.common.profiles import DeviceProfile
from services.ingest.domain.normalise import Normaliser, Normalisers
from services.ingest.domain.report import Rejection, Report
from services.ingest.drivers.port import (
    Address,
    ArchiveSession,
    DeviceEvent,
    DeviceRefused,
    DeviceSession,
    DeviceSilent,
    LineDown,
    ListeningLine,
    NotLetIn,
    RawReport,
    TellingLine,
)
from services.ingest.settings import PollingSettings
from services.ingest.spool import SpoolFull
from services.ingest.usecases.acceptor import Acceptor
from services.ingest.usecases.status import StatusBoard
from services.ingest.worker.line import DOWN_TOLD_AFTER_S, LineFindings
from services.ingest.worker.memory import Memory
from services.ingest.worker.reports import event_of, ratios_of, report_of
from services.ingest.worker.waiting import wait_for

logger = logging.getLogger(__name__)

IDLE_S = 30.0
ATTEMPT_PAUSE_S = 1.0
"""Least time between two attempts to connect, whoever is in a hurry. [s]"""
STEADY_S = 10.0
"""A connection that has held this long is a good one: the pauses begin anew and the line is called up again. [s]"""
REFUSED_AGAIN_S = 300.0
"""A peer that does not want us is asked again after this: somebody has to change something first. [s]"""
RERUN_EVERY_S = 5.0
"""Changes of the line's devices are taken over at most this often, since each makes the connection anew. [s]"""
CONNECT_WITHIN_S = 10.0
"""How long an order waits for a line that is not connected. [s]"""
HEARD_WITHIN_S = 5.0
"""What a device says at once is looked for elsewhere after this: it may have said it to another process. [s]"""
JOBS_AT_ONCE = 512
"""Orders at work on one line; the others wait for their turn. Each waits for seconds for what its device says. So many
looks may be at work beside them."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Told:
    """One device of the line."""

    device: Device
    profile: DeviceProfile
    normaliser: Normaliser
    address: Address


class Intake:
    """Where the line's driver puts what its devices say; implements ``LineSink``."""

    def __init__(
        self,
        *,
        line_id: str,
        protocol: str,
        acceptor: Acceptor,
        status: StatusBoard,
        clock: Clock,
        on_up: Callable[[], None],
    ) -> None:
        self.devices: dict[str, Told] = {}
        self._line_id = line_id
        self._protocol = protocol
        self._acceptor = acceptor
        self._status = status
        self._clock = clock
        self._on_up = on_up

    async def report(self, device_id: str, report: RawReport) -> None:
        """Accept a report."""
        await self.reports([(device_id, report)])

    async def reports(self, told: Sequence[tuple[str, RawReport]]) -> None:
        """Accept reports of several devices at once."""
        live: list[Report] = []
        archived: list[Report] = []
        for device_id, report in told:
            made = self._made(device_id, report)
            if made is not None:
                (archived if report.archive else live).append(made)
        for reports, history in ((live, False), (archived, True)):
            if reports:
                await self._acceptor.accept(reports, history=history)

    def _made(self, device_id: str, report: RawReport) -> Report | None:
        """Return the report of a device; None when there is no number in it, or no such device."""
        told = self.devices.get(device_id)
        if told is None:
            self._note_stranger(device_id)
            return None
        self._status.texts(device_id, report.texts)
        return report_of(
            report, device=told.device, profile=told.profile, normaliser=told.normaliser, driver=self._protocol,
            line_id=self._line_id,
        )  # fmt: skip

    async def event(self, device_id: str, event: DeviceEvent) -> None:
        """Accept an event."""
        told = self.devices.get(device_id)
        if told is None:
            self._note_stranger(device_id)
            return
        made = event_of(event, device=told.device, driver=self._protocol, received_at=self._clock.now())
        await self._acceptor.accept_events([made])

    async def reject(self, reason: RejectReason, raw: bytes, detail: str, *, device_id: str | None = None) -> None:
        """Put something that cannot be understood on record."""
        told = None if device_id is None else self.devices.get(device_id)
        rejection = Rejection(
            reason=reason,
            source=self._line_id,
            received_at=self._clock.now(),
            raw=raw,
            detail=detail,
            device_id=None if device_id is None else DeviceId(device_id),
            site_id=None if told is None else told.device.site,
            line_id=LineId(self._line_id),
            driver=self._protocol,
        )
        await self._acceptor.reject([rejection])

    def up(self) -> None:
        """The line works."""
        self._on_up()

    def failed(self, device_id: str, reason: str) -> None:
        """A device is not well though the line is."""
        self._status.failed(device_id, reason)

    def _note_stranger(self, device_id: str) -> None:
        # It left the line a moment ago and the driver does not know yet.
        logger.info("device is not on this line any more", extra={"device_id": device_id, "line_id": self._line_id})


class TellingRunner:
    """Keeps one line connected while this process holds it."""

    def __init__(
        self,
        *,
        line: Line,
        driver: TellingLine,
        acceptor: Acceptor,
        status: StatusBoard,
        findings: LineFindings,
        clock: Clock,
        settings: PollingSettings,
        normalisers: Normalisers | None = None,
    ) -> None:
        self.line = line
        self._normalisers = normalisers or Normalisers()
        self._driver = driver
        self._status = status
        self._findings = findings
        self._clock = clock
        self._settings = settings
        self._intake = Intake(
            line_id=line.id, protocol=driver.protocol, acceptor=acceptor, status=status, clock=clock,
            on_up=self._note_up,
        )  # fmt: skip
        self._backoff = Backoff(first_s=1.0, cap_s=settings.reconnect_cap_s)
        self._down_since: float | None = None
        self._up = asyncio.Event()
        self._changed = asyncio.Event()
        self._hurry = asyncio.Event()
        self._attempted = asyncio.Event()
        """The line is up, or an attempt to connect has failed."""
        self._orders = _Lane()
        self._looks = _Lane()
        """Beside the orders: a proof does not stand in line behind thousands of orders that have not begun."""

    @property
    def device_ids(self) -> AbstractSet[str]:
        """The devices that are listened to."""
        return self._intake.devices.keys()

    def update(self, devices: Mapping[str, tuple[Device, DeviceProfile]]) -> None:
        """Learn which devices are on the line now; the connection is made anew only when an address has changed."""
        before = self._addresses()
        for device_id in self._intake.devices.keys() - devices.keys():
            del self._intake.devices[device_id]
            self._status.forget(device_id)
        for device_id, (device, profile) in devices.items():
            known = self._intake.devices.get(device_id)
            if known is None or (known.device, known.profile.version) != (device, profile.version):
                self._add(device, profile)
        if self._addresses() != before:
            self._changed.set()

    async def run(self) -> None:
        """Keep the line connected for ever; close it when cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._stay_connected(), name=f"connection {self.line.id}")
                group.create_task(self._serve(self._looks, group), name=f"looks on {self.line.id}")
                await self._serve(self._orders, group)
        finally:
            for job in (*self._orders.jobs, *self._looks.jobs):
                _fail(job.done, LineDown(f"line {self.line.id} was given up"))
            self._orders.jobs.clear()
            self._looks.jobs.clear()
            await self._driver.close()

    async def first(self, job: Callable[[], Awaitable[Result]]) -> Result:
        """Do ``job`` while the line is connected, connecting at once if need be, and return what it returns.

        Raises:
            LineDown: The line was given up before the job could be done.
            Exception: Whatever the job raises; ``LineDown`` among it when the line cannot be connected.
        """
        return await self._in_turn(self._orders, job)

    async def look(self, job: Callable[[], Awaitable[Result]]) -> Result:
        """Do ``job``, which only reads, as ``first`` does, but not in line behind orders."""
        return await self._in_turn(self._looks, job)

    async def _in_turn(self, lane: "_Lane", job: Callable[[], Awaitable[Result]]) -> Result:
        results: list[Result] = []

        async def keep() -> None:
            results.append(await job())

        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lane.jobs.append(_Job(keep, done))
        lane.some.set()
        await done
        return results[0]

    def memory(self, device_id: str) -> Memory | None:
        """Return what a device remembers, None when it does not or is not listened to here."""
        told = self._intake.devices.get(device_id)
        if told is None:
            return None
        try:
            session = self._driver.session(told.address)
        except InvalidInput as exc:
            logger.info("memory cannot be asked", extra={"device_id": device_id, "reason": exc.message})
            return None
        if not isinstance(session, ArchiveSession):
            return None

        async def deliver(raw: RawReport) -> None:
            await self._intake.reports([(device_id, raw)])

        return Memory(session, frozenset(told.profile.points), self.first, deliver)

    async def read_now(
        self, device_id: str, names: Collection[str]
    ) -> tuple[Mapping[str, float | None], datetime] | None:
        """Read points of a device now, in canonical units; None when it has none of them.

        Raises:
            LineDown, DeviceSilent, DeviceRefused, BadAnswer: As the driver.
        """
        told = self._intake.devices.get(device_id)
        wanted = [] if told is None else [name for name in names if name in told.profile.points]
        if told is None or not wanted:
            return None
        session = self._driver.session(told.address)
        raw = await self.look(lambda: session.read_points(wanted))
        return told.normaliser.measure(raw.raw, ratios_of(told.device), raw.quality).points, raw.received_at

    def session(self, address: Address) -> DeviceSession:
        """Return a session for a device on this line; to be used within ``first`` only.

        Raises:
            InvalidInput: The address is none of this line's protocol.
        """
        return self._driver.session(address)

    async def pause(self, device_id: str, delay_s: float, *, since: float) -> None:
        """Wait before the next look at a device, or until it has spoken.

        Args:
            device_id: Which.
            delay_s: How long. [s]
            since: When it was looked at, by the monotonic clock. [s]
        """
        if isinstance(self._driver, ListeningLine):
            await wait_for(self._driver.listen(device_id, since), self._clock, max(delay_s, HEARD_WITHIN_S))
        else:
            await self._clock.sleep(delay_s)

    def poll_soon(self, device_ids: Collection[str], *, after_s: float = 0.0) -> None:
        """Do nothing: what has changed is told by the devices."""

    def _add(self, device: Device, profile: DeviceProfile) -> None:
        address = Address(device.id, device.address, profile)
        try:
            self._driver.session(address)
        except InvalidInput as exc:
            logger.error("device cannot be listened to", extra={"device_id": device.id, "reason": exc.message})
            if self._intake.devices.pop(device.id, None) is not None:
                self._status.forget(device.id)
            return
        self._intake.devices[device.id] = Told(device, profile, self._normalisers.of(profile), address)
        interval_s = self._settings.interval_of(device.kind, device.period_s)
        self._status.watch(device.id, site_id=device.site, line_id=device.line, interval_s=interval_s)

    def _addresses(self) -> dict[str, Address]:
        return {device_id: told.address for device_id, told in self._intake.devices.items()}

    # the connection

    async def _stay_connected(self) -> None:
        while True:
            self._changed.clear()
            if not self._intake.devices:
                self._attempted.set()
                await wait_for(self._changed, self._clock, IDLE_S)
                continue
            try:
                await self._connect_once()
            except LineDown as exc:
                await self._rest_after(exc, self._backoff.next_s())
            except DeviceRefused as exc:
                await self._rest_after(exc, REFUSED_AGAIN_S)

    async def _connect_once(self) -> None:
        """Stay connected until the line's devices change.

        Raises:
            LineDown, DeviceRefused: As the driver.
        """
        running = asyncio.create_task(
            self._driver.run(self._addresses(), self._intake), name=f"telling line {self.line.id}"
        )
        steady = asyncio.create_task(self._note_steady(), name="steady")
        changed = asyncio.create_task(self._changed_devices(), name="changed")
        try:
            await asyncio.wait({running, changed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._up.clear()
            await _end(running, steady, changed)
        if not running.cancelled():
            running.result()
            raise LineDown(f"line {self.line.id}: the connection has ended")

    async def _changed_devices(self) -> None:
        await self._clock.sleep(RERUN_EVERY_S)
        await self._changed.wait()

    async def _note_steady(self) -> None:
        await self._up.wait()
        await self._clock.sleep(STEADY_S)
        self._backoff.reset()
        self._down_since = None
        self._findings.line_up(self.line.id, self._site())

    def _note_up(self) -> None:
        if not self._backoff.first:
            logger.info("line is connected again", extra={"line_id": self.line.id})
        self._up.set()
        self._attempted.set()

    async def _rest_after(self, exc: PlatformError, pause_s: float) -> None:
        now = self._clock.monotonic()
        if self._down_since is None:
            self._down_since = now
            logger.warning("line is down", extra={"line_id": self.line.id, "reason": exc.message})
        if now - self._down_since >= DOWN_TOLD_AFTER_S:
            self._findings.line_down(self.line.id, self._site(), exc.message)
        for device_id in self._intake.devices:
            self._status.failed(device_id, exc.code if isinstance(exc, NotLetIn) else "line_down")
        self._attempted.set()
        await self._clock.sleep(ATTEMPT_PAUSE_S)
        await wait_for(self._hurry, self._clock, pause_s - ATTEMPT_PAUSE_S)

    def _site(self) -> str:
        return next((told.device.site for told in self._intake.devices.values()), PLATFORM_SITE)

    # orders

    async def _serve(self, lane: "_Lane", group: asyncio.TaskGroup) -> None:
        room = asyncio.Semaphore(JOBS_AT_ONCE)
        while True:
            await lane.some.wait()
            lane.some.clear()
            while lane.jobs:
                await room.acquire()
                task = group.create_task(self._do(lane.jobs.popleft()), name=f"order on {self.line.id}")
                task.add_done_callback(lambda _: room.release())

    async def _do(self, job: "_Job") -> None:
        if job.done.done():
            return
        began = False
        try:
            await self._connected()
            began = True
            await job.work()
        except asyncio.CancelledError:
            # Cut off in the middle: what was sent may have been done.
            given_up = f"line {self.line.id} was given up"
            _fail(job.done, DeviceSilent(f"{given_up} while it was asked") if began else LineDown(given_up))
            raise
        except Exception as exc:  # whoever asked gets it; the line goes on
            _fail(job.done, exc)
        else:
            if not job.done.done():
                job.done.set_result(None)

    async def _connected(self) -> None:
        """Return when the line is up, or when an attempt to connect has failed: the session then says so."""
        if self._up.is_set():
            return
        self._attempted.clear()
        self._hurry.set()
        try:
            async with asyncio.timeout(CONNECT_WITHIN_S):
                await self._attempted.wait()
        except TimeoutError:
            logger.info("line does not connect in time for an order", extra={"line_id": self.line.id})


@asynccontextmanager
async def connected(driver: TellingLine, address: Address) -> AsyncIterator[None]:
    """Connect a line for one order, beside whoever holds it; what devices tell meanwhile is not taken.

    Raises:
        LineDown, DeviceRefused: It cannot be connected.
    """
    sink = _Deaf()
    running = asyncio.create_task(driver.run({address.device_id: address}, sink), name="line for one order")
    up = asyncio.create_task(sink.is_up.wait(), name="line for one order is up")
    try:
        await asyncio.wait({running, up}, timeout=CONNECT_WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        if not up.done():
            raise LineDown(f"no connection within {CONNECT_WITHIN_S:g} s")
        yield
    finally:
        await _end(running, up)
        await driver.close()


class _Deaf:
    """A sink that takes nothing, so that nothing is acknowledged that the holder of the line has to hear."""

    def __init__(self) -> None:
        self.is_up = asyncio.Event()

    async def report(self, device_id: str, report: RawReport) -> None:
        self._refuse()

    async def reports(self, told: Sequence[tuple[str, RawReport]]) -> None:
        self._refuse()

    async def event(self, device_id: str, event: DeviceEvent) -> None:
        self._refuse()

    async def reject(self, reason: RejectReason, raw: bytes, detail: str, *, device_id: str | None = None) -> None:
        self._refuse()

    def up(self) -> None:
        self.is_up.set()

    def failed(self, device_id: str, reason: str) -> None:
        pass

    def _refuse(self) -> NoReturn:
        raise SpoolFull("this connection serves one order and takes no reports")


@dataclass(slots=True)
class _Lane:
    """What waits for its turn."""

    jobs: "deque[_Job]" = field(default_factory=deque)
    some: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class _Job:
    """Something to be done while the line is connected."""

    work: Callable[[], Awaitable[None]]
    done: "asyncio.Future[None]"


def _fail(done: "asyncio.Future[None]", exc: Exception) -> None:
    if not done.done():
        done.set_exception(exc)
        done.exception()  # whoever waited may have gone


async def _end(*tasks: "asyncio.Task[object]") -> None:
    """Cancel tasks and wait until they have ended; a library may swallow a cancellation that comes with a result."""
    for task in tasks:
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=0.2)
        if not task.cancelled():
            task.exception()  # looked at, or the interpreter says that nobody did
