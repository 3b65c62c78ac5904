"""The task that owns one line: it polls the devices on it in turn and lets commands go first.

A device that does not answer costs its neighbours one time limit and then leaves the fast cycle; a line that
cannot be reached is tried again with growing pauses. Nothing that a device does ends this task.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar

from libs.common.backoff import Backoff
from libs.common.clock import Clock
from libs.common.contracts.base import PLATFORM_SITE
from libs.common.contracts.registry import Device, Line
from libs.common.contracts.telemetry import RejectReason
from libs.common.errors import InvalidInput, PlatformError
from libs.common.ids import DeviceId, LineId
from libs.common.profiles import DeviceProfile
from services.ingest import metrics
from services.ingest.domain.normalise import Normaliser, Normalisers
from services.ingest.domain.polling import BreakerLimits, DeviceBreaker, missed_slots, next_slot, offset_s
from services.ingest.domain.report import Rejection
from services.ingest.drivers.port import (
    Address,
    ArchiveSession,
    BadAnswer,
    DeviceRefused,
    DeviceSession,
    DeviceSilent,
    LineDown,
    LineDriver,
    RawReport,
)
from services.ingest.settings import PollingSettings
from services.ingest.spool import SpoolFull
from services.ingest.usecases.acceptor import Acceptor
from services.ingest.usecases.status import StatusBoard
from services.ingest.worker.memory import Memory
from services.ingest.worker.reports import event_of, ratios_of, report_of
from services.ingest.worker.rush import Rush
from services.ingest.worker.waiting import wait_for

logger = logging.getLogger(__name__)

FIRST_POLL_WITHIN_S = 5.0
"""A device that was added is read for the first time within this, whatever its interval. [s]"""
IDLE_S = 30.0
REJECT_EVERY_S = 60.0
DOWN_TOLD_AFTER_S = 10.0
"""A line that is back within this was down too shortly to tell. [s]"""

Result = TypeVar("Result")


class LineFindings(Protocol):
    """Whoever has to hear that a line is down."""

    def line_down(self, line_id: str, site_id: str, detail: str) -> None:
        """It cannot be reached."""

    def line_up(self, line_id: str, site_id: str) -> None:
        """It answers again."""


@dataclass(slots=True)
class Polled:
    """One device of the line, as it is polled."""

    device: Device
    profile: DeviceProfile
    normaliser: Normaliser
    session: DeviceSession
    interval_s: float
    breaker: DeviceBreaker
    due: float
    """Monotonic time of its next poll. [s]"""
    slot: float | None = None
    """The same as POSIX time, while it keeps its slots. [s]"""
    rejected_at: float = float("-inf")
    """Monotonic time at which bytes of it were last put on record. [s]"""
    is_put_off: bool = False
    """Its poll has let orders by already."""


class LineRunner:
    """Polls one line while this process holds it."""

    def __init__(
        self,
        *,
        line: Line,
        driver: LineDriver,
        acceptor: Acceptor,
        status: StatusBoard,
        findings: LineFindings,
        clock: Clock,
        settings: PollingSettings,
        normalisers: Normalisers | None = None,
        rush: Rush | None = None,
    ) -> None:
        self.line = line
        self._rush = rush or Rush(clock)
        self._normalisers = normalisers or Normalisers()
        self._driver = driver
        self._acceptor = acceptor
        self._status = status
        self._findings = findings
        self._clock = clock
        self._settings = settings
        self._down_since: float | None = None
        self._polled: dict[str, Polled] = {}
        self._jobs: deque[tuple[Callable[[], Awaitable[None]], asyncio.Future[None]]] = deque()
        self._spare: deque[tuple[Callable[[], Awaitable[None]], asyncio.Future[None]]] = deque()
        self._spare_takes_s = settings.response_timeout_s
        """How long the last job for spare time took that succeeded, or what it may take at first. [s]"""
        self._wake = asyncio.Event()
        self._connect_at = float("-inf")
        self._backoff = Backoff(first_s=1.0, cap_s=settings.reconnect_cap_s)
        self._limits = BreakerLimits(settings.breaker_failures, settings.breaker_waits_s)

    @property
    def driver(self) -> LineDriver:
        """The line's driver; to be used within ``first`` only."""
        return self._driver

    @property
    def device_ids(self) -> AbstractSet[str]:
        """The devices that are polled."""
        return self._polled.keys()

    def update(self, devices: Mapping[str, tuple[Device, DeviceProfile]]) -> None:
        """Learn which devices are on the line now; those that have not changed keep their state."""
        for device_id in self._polled.keys() - devices.keys():
            del self._polled[device_id]
            self._status.forget(device_id)
        for device_id, (device, profile) in devices.items():
            known = self._polled.get(device_id)
            if known is not None and (known.device, known.profile.version) == (device, profile.version):
                continue
            self._add(device, profile)
        self._wake.set()

    async def run(self) -> None:
        """Poll for ever; close the connection when cancelled."""
        try:
            while True:
                if self._jobs:
                    await self._do_next_job()
                    continue
                now = self._clock.monotonic()
                polled = min(self._polled.values(), key=lambda found: found.due, default=None)
                due = now + IDLE_S if polled is None else max(polled.due, self._connect_at)
                if due > now or polled is None:
                    if self._spare and due - now > self._spare_takes_s:
                        await self._do_spare_job()
                    else:
                        await wait_for(self._wake, self._clock, due - now)
                    continue
                if self._rush.is_on and not polled.is_put_off:
                    polled.is_put_off = True
                    polled.due = now + self._rush.puts_off_by_s(polled.interval_s)
                    continue
                await self._poll(polled)
        finally:
            for _, done in (*self._jobs, *self._spare):
                _fail(done, LineDown(f"line {self.line.id} was given up"))
            self._jobs.clear()
            self._spare.clear()
            await self._driver.close()

    async def first(self, job: Callable[[], Awaitable[Result]]) -> Result:
        """Do ``job`` on the line before the next poll, and return what it returns.

        Raises:
            LineDown: The line was given up before the job could be done.
            Exception: Whatever the job raises.
        """
        results: list[Result] = []

        async def keep() -> None:
            results.append(await job())

        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._jobs.append((keep, done))
        self._wake.set()
        await done
        return results[0]

    async def spare(self, job: Callable[[], Awaitable[Result]]) -> Result:
        """Do ``job`` when no order waits and no poll is due before it will be over, and return what it returns.

        Raises:
            LineDown: The line was given up before the job could be done.
            Exception: Whatever the job raises.
        """
        results: list[Result] = []

        async def keep() -> None:
            results.append(await job())

        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._spare.append((keep, done))
        self._wake.set()
        await done
        return results[0]

    def memory(self, device_id: str) -> Memory | None:
        """Return what a device remembers, None when it does not or is not polled here."""
        polled = self._polled.get(device_id)
        if polled is None or not isinstance(polled.session, ArchiveSession):
            return None

        async def deliver(raw: RawReport) -> None:
            report = report_of(
                raw, device=polled.device, profile=polled.profile, normaliser=polled.normaliser,
                driver=polled.profile.protocol.code, line_id=self.line.id,
            )  # fmt: skip
            if report is not None:
                await self._acceptor.accept([report], history=True)

        return Memory(polled.session, frozenset(polled.profile.points), self.spare, deliver)

    async def read_now(
        self, device_id: str, names: Collection[str]
    ) -> tuple[Mapping[str, float | None], datetime] | None:
        """Read points of a device before the next poll, in canonical units; None when it has none of them.

        Raises:
            LineDown, DeviceSilent, DeviceRefused, BadAnswer: As the driver.
        """
        polled = self._polled.get(device_id)
        wanted = [] if polled is None else [name for name in names if name in polled.profile.points]
        if polled is None or not wanted:
            return None
        session, ratios = polled.session, ratios_of(polled.device)
        raw = await self.first(lambda: session.read_points(wanted))
        return polled.normaliser.measure(raw.raw, ratios, raw.quality).points, raw.received_at

    def session(self, address: Address) -> DeviceSession:
        """Return a session for a device on this line, polled or not; to be used within ``first`` only.

        Raises:
            InvalidInput: The address is none of this line's protocol.
        """
        found = self._polled.get(address.device_id)
        if found is not None and found.profile is address.profile:
            return found.session
        return self._driver.session(address)

    def poll_soon(self, device_ids: Collection[str], *, after_s: float = 0.0) -> None:
        """Let the next polls of these devices be now, or within ``after_s``. [s]"""
        for device_id in device_ids:
            found = self._polled.get(device_id)
            if found is not None:
                found.due = min(found.due, self._clock.monotonic() + after_s)
        self._wake.set()

    def connect_now(self) -> None:
        """Do not wait any longer: the line is there."""
        self._connect_at = float("-inf")
        self.poll_soon(self.device_ids)

    def _add(self, device: Device, profile: DeviceProfile) -> None:
        try:
            session = self._driver.session(Address(device.id, device.address, profile))
        except InvalidInput as exc:
            logger.error("device cannot be polled", extra={"device_id": device.id, "reason": exc.message})
            return
        interval_s = self._settings.interval_of(device.kind, device.period_s)
        self._polled[device.id] = Polled(
            device=device,
            profile=profile,
            normaliser=self._normalisers.of(profile),
            session=session,
            interval_s=interval_s,
            breaker=DeviceBreaker(self._limits),
            due=self._clock.monotonic() + offset_s(device.id, min(interval_s, FIRST_POLL_WITHIN_S)),
        )
        self._status.watch(device.id, site_id=device.site, line_id=device.line, interval_s=interval_s)

    async def _do_spare_job(self) -> None:
        job, done = self._spare.popleft()
        if done.done():
            return  # whoever asked has gone
        began = self._clock.monotonic()
        await self._do(job, done)
        if done.cancelled() or done.exception() is not None:
            return  # a time limit says nothing of those that answer; who does not is not asked again soon
        # At least a tenth of what was feared at first: one that is answered at once says nothing of the next.
        self._spare_takes_s = max(self._clock.monotonic() - began, self._settings.response_timeout_s / 10)

    async def _do_next_job(self) -> None:
        await self._do(*self._jobs.popleft())

    async def _do(self, job: Callable[[], Awaitable[None]], done: "asyncio.Future[None]") -> None:
        if done.done():
            return
        try:
            await job()
        except asyncio.CancelledError:
            # Cut off in the middle: what was sent may have been done.
            _fail(done, DeviceSilent(f"line {self.line.id} was given up while it was asked"))
            raise
        except Exception as exc:  # whoever asked gets it; the line goes on
            _fail(done, exc)
        else:
            if not done.done():
                done.set_result(None)

    async def _poll(self, polled: Polled) -> None:
        protocol = polled.profile.protocol.code
        began, wall = self._clock.monotonic(), self._clock.now().timestamp()
        if polled.slot is not None:
            missed = missed_slots(polled.slot, wall, polled.interval_s)
            if missed:
                metrics.POLL_OVERRUNS.labels(protocol).inc(missed)
        outcome = "ok"
        try:
            raw = await self._read(polled)
        except LineDown as exc:
            outcome = "line_down"
            self._note_line_down(exc)
            self._status.failed(polled.device.id, "line_down")
        except DeviceSilent as exc:
            outcome = "timeout"
            if not polled.breaker.is_open:
                logger.debug("device silent", extra={"device_id": polled.device.id, "reason": exc.message})
            polled.breaker.failed()
            if polled.breaker.failures == self._limits.failures:
                logger.warning(
                    "device does not answer, it is probed from now on",
                    extra={"device_id": polled.device.id, "line_id": self.line.id, "reason": exc.message},
                )
            self._status.failed(polled.device.id, "timeout")
            await self._reject(polled, exc)
        except (DeviceRefused, BadAnswer) as exc:
            outcome = exc.code
            await self._reject(polled, exc)
            logger.info("device answers without values", extra={"device_id": polled.device.id, "reason": exc.message})
            self._status.failed(polled.device.id, exc.code)
        else:
            self._note_answer(polled)
            await self._deliver(polled, raw)
        metrics.POLLS.labels(protocol, outcome).inc()
        metrics.POLL_SECONDS.labels(protocol).observe(self._clock.monotonic() - began)
        self._schedule(polled)

    async def _read(self, polled: Polled) -> RawReport:
        """Read a device; ask again at once when a healthy one does not answer."""
        attempts = 1 if polled.breaker.is_open else 1 + self._settings.retries
        while True:
            attempts -= 1
            try:
                return await polled.session.read()
            except DeviceSilent:
                if attempts <= 0 or self._jobs:
                    raise

    def _note_line_down(self, exc: LineDown) -> None:
        if self._backoff.first:
            logger.warning("line is down", extra={"line_id": self.line.id, "reason": exc.message})
        now = self._clock.monotonic()
        self._connect_at = now + self._backoff.next_s()
        if self._down_since is None:
            self._down_since = now
        if now - self._down_since >= DOWN_TOLD_AFTER_S:
            self._findings.line_down(self.line.id, self._site(), exc.message)

    def _site(self) -> str:
        return next((polled.device.site for polled in self._polled.values()), PLATFORM_SITE)

    def _note_answer(self, polled: Polled) -> None:
        if not self._backoff.first:
            logger.info("line is up again", extra={"line_id": self.line.id})
            self._findings.line_up(self.line.id, self._site())
        self._backoff.reset()
        self._down_since = None
        self._connect_at = float("-inf")
        if polled.breaker.is_open:
            logger.info("device answers again", extra={"device_id": polled.device.id})
        polled.breaker.succeeded()

    async def _reject(self, polled: Polled, exc: PlatformError) -> None:
        """Put bytes that came and were no answer on record, at most once a minute per device."""
        raw = exc.facts.get("raw")
        now = self._clock.monotonic()
        if not raw or now - polled.rejected_at < REJECT_EVERY_S:
            return
        polled.rejected_at = now
        rejection = Rejection(
            reason=RejectReason.UNDECODABLE,
            source=self.line.id,
            received_at=self._clock.now(),
            raw=raw,
            detail=exc.message,
            device_id=DeviceId(polled.device.id),
            site_id=polled.device.site,
            line_id=LineId(self.line.id),
            driver=polled.profile.protocol.code,
        )
        try:
            await self._acceptor.reject([rejection])
        except SpoolFull:
            logger.debug("rejection lost, the spool is full", extra={"device_id": polled.device.id})

    async def _deliver(self, polled: Polled, raw: RawReport) -> None:
        self._status.texts(polled.device.id, raw.texts)
        driver = polled.profile.protocol.code
        report = report_of(
            raw, device=polled.device, profile=polled.profile, normaliser=polled.normaliser, driver=driver,
            line_id=self.line.id,
        )  # fmt: skip
        events = [
            event_of(event, device=polled.device, driver=driver, received_at=raw.received_at) for event in raw.events
        ]
        try:
            if events:
                await self._acceptor.accept_events(events)
            if report is not None:
                await self._acceptor.accept([report], history=raw.archive)
        except SpoolFull:
            metrics.DROPPED.labels("spool_full").inc(len(events) + (0 if report is None else len(report.points)))

    def _schedule(self, polled: Polled) -> None:
        now, wall = self._clock.monotonic(), self._clock.now().timestamp()
        polled.is_put_off = False
        if polled.breaker.is_open:
            polled.slot = None
            polled.due = now + polled.breaker.wait_s
            return
        # A clock that woke us a moment early must not make us keep the same slot twice.
        after = wall if polled.slot is None else max(wall, polled.slot + polled.interval_s / 100)
        polled.slot = next_slot(after, polled.interval_s, offset_s(polled.device.id, polled.interval_s))
        polled.due = now + (polled.slot - wall)


def _fail(done: asyncio.Future[None], exc: Exception) -> None:
    if not done.done():
        done.set_exception(exc)
        done.exception()  # whoever waited may have gone
