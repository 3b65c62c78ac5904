"""Closes by itself what nobody else has closed in time: the last word on "a radio unit that should be awake is awake".

Needs the off book on this machine's disk and the line, and nothing else: no bus, no database, no lease. A load is due
at the earlier of its wall time and its longest off time by the monotonic clock, with a margin that lets control and
the watchdog be first. It is tried until it reads closed; only a lock at the breaker or a protection trip stops
the writing, calls a person, and is looked at again.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

from libs.common.backoff import Backoff
from libs.common.clock import Clock
from libs.common.contracts.alarm import AlarmLevel, ConditionKind
from libs.common.contracts.control import CommandAction, Stage
from services.ingest import metrics
from services.ingest.domain.switching import OffLease, switch_of
from services.ingest.settings import SwitchingSettings
from services.ingest.store.offbook import OffBook
from services.ingest.usecases.findings import Findings
from services.ingest.usecases.orders import Orders
from services.ingest.usecases.results import Results
from services.ingest.usecases.switching import Switched, Switcher

logger = logging.getLogger(__name__)

LOOK_S = 0.5
AT_ONCE = 200
"""Loads that are closed at the same time."""


@dataclass(slots=True)
class _Trying:
    """A load that is due."""

    backoff: Backoff
    next_at: float
    """Monotonic time of the next attempt. [s]"""
    failures: int = 0


class WakeKeeper:
    """Watches the off book."""

    def __init__(
        self,
        *,
        book: OffBook,
        orders: Orders,
        switcher: Switcher,
        results: Results,
        findings: Findings,
        clock: Clock,
        settings: SwitchingSettings,
    ) -> None:
        self._book = book
        self._orders = orders
        self._switcher = switcher
        self._results = results
        self._findings = findings
        self._clock = clock
        self._settings = settings
        self._trying: dict[str, _Trying] = {}
        self._running: set[str] = set()
        self._room = asyncio.Semaphore(AT_ONCE)

    async def run(self, beat: Callable[[], None]) -> None:
        """Watch for ever."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    beat()
                    for lease in self.due():
                        self._running.add(lease.key)
                        group.create_task(self._attempt(lease), name=f"wake {lease.key}")
                    metrics.OFF_LEASES.set(len(self._book))
                    metrics.OVERDUE_CLOSINGS.set(len(self._trying))
                    await self._clock.sleep(LOOK_S)
        finally:
            await self._book.settled()

    def due(self) -> list[OffLease]:
        """Return the loads to be closed now: their time has come, and nobody is at it."""
        now = self._orders.moment()
        margin_s = self._settings.restore_margin_s
        due_before = replace(now, wall=now.wall - timedelta(seconds=margin_s), monotonic=now.monotonic - margin_s)
        found = []
        keys = set()
        for lease in self._book.all():
            if not lease.is_due(due_before):
                continue
            keys.add(lease.key)
            trying = self._trying.get(lease.key)
            if lease.key not in self._running and (trying is None or trying.next_at <= now.monotonic):
                found.append(lease)
        for gone in self._trying.keys() - keys:
            del self._trying[gone]
        return found

    async def _attempt(self, lease: OffLease) -> None:
        try:
            async with self._room:
                await self.close(lease)
        except Exception:
            # Nothing may end the attempts at waking, and nothing may be hidden.
            logger.exception("wake-up failed unexpectedly", extra={"device_id": lease.device_id})
            self._again(lease)
        finally:
            self._running.discard(lease.key)

    async def close(self, lease: OffLease) -> None:
        """Try once to close a load that is due."""
        target = self._orders.target_of(lease.device_id, self._clock.now()) or self._orders.target_from(lease)
        switch = None if target is None else switch_of(target.profile, lease.channel)
        if target is None or switch is None:
            logger.error("a load is due and there is no way to it", extra={"device_id": lease.device_id})
            self._again(lease)
            return
        logger.warning(
            "closing a load that nobody has closed",
            extra={"device_id": lease.device_id, "load_id": lease.load_id, "command_id": lease.command_id},
        )
        closed = await self._switcher.close(
            target, switch, channel=lease.channel, meter=lease.meter_device_id, alone=True
        )
        subject = lease.load_id or lease.key
        if closed.verified:
            self._trying.pop(lease.key, None)
            self._tell(lease, closed)
            for kind in (ConditionKind.WAKE_UP_OVERDUE, ConditionKind.WAKE_UP_STOPPED):
                self._findings.end(
                    kind, subject, "the load is on again", detail_zh="负载已恢复供电", site_id=lease.site_id,
                    device_id=lease.device_id, load_id=lease.load_id,
                )  # fmt: skip
            self._book.remove(lease)
            return
        self._again(lease)
        if closed.stage is Stage.REFUSED:
            self._orders.call_person(subject, target, lease.load_id, closed)
            return
        self._findings.begin(
            ConditionKind.WAKE_UP_OVERDUE,
            subject,
            f"should be on and does not follow: {closed.reason or closed.stage}; it is tried again",
            detail_zh=f"应已唤醒但未恢复({closed.reason or closed.stage}),持续重试",
            site_id=lease.site_id,
            level=AlarmLevel.CRITICAL,
            device_id=lease.device_id,
            load_id=lease.load_id,
        )

    def _again(self, lease: OffLease) -> None:
        trying = self._trying.get(lease.key)
        if trying is None:
            backoff = Backoff(first_s=self._settings.retry_first_s, cap_s=self._settings.retry_cap_s)
            trying = self._trying[lease.key] = _Trying(backoff, 0.0)
        trying.failures += 1
        trying.next_at = self._clock.monotonic() + trying.backoff.next_s()

    def _tell(self, lease: OffLease, closed: Switched) -> None:
        written = closed.evidence.answer is not None
        if not written and not lease.wake:
            return  # somebody else has closed it, and told so
        self._results.emit(
            lease.command_id,
            Stage.VERIFIED if lease.wake else Stage.RESTORED,
            site_id=lease.site_id,
            device_id=lease.device_id,
            line_id=lease.line_id,
            epoch=lease.epoch,
            action=CommandAction.CLOSE,
            evidence=closed.evidence,
            reason=None if lease.wake else "restore_at",
        )
