"""Finds stretches without reports, hour by hour, and settles those that are filled or will not be.

An hour is looked at when it has been over for a while, so that what waited in a spool is there. All devices are: that
as many reports came as were expected says nothing, where some came besides and others are missing.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

from libs.common.clock import Clock
from libs.common.contracts.alarm import ConditionKind
from libs.common.db import Database, WriteConn
from libs.common.ids import new_id
from services.ingest.domain.completeness import Duty, expected
from services.ingest.domain.gaps import GapKind, GapState, Hole, holes, left_out, slots_held
from services.ingest.domain.polling import offset_s
from services.ingest.settings import GapSettings
from services.ingest.store import gaps as store
from services.ingest.store.gaps import Gap, HourOfDevice
from services.ingest.usecases.loss import Losses, Scope
from services.ingest.usecases.topology import Topology

logger = logging.getLogger(__name__)

HOUR = timedelta(hours=1)
LOOK_BACK = timedelta(days=8)
"""How long before an hour the last report of a device is looked for."""
DEVICES_AT_A_TIME = 200
GAPS_AT_A_TIME = 200
NO_MEMORY = "no_memory"
NOT_REACHED = "not_reached"
NOT_IN_USE = "not_in_use"
LATE = "late"


class GapFindings(Protocol):
    """Whoever has to hear that reports are missing."""

    def begin(
        self, kind: str, subject: str, detail: str, *, detail_zh: str | None, site_id: str, device_id: str | None
    ) -> None:
        """Say that something is wrong."""

    def end(
        self,
        kind: str,
        subject: str,
        detail: str,
        *,
        detail_zh: str | None,
        site_id: str,
        device_id: str | None,
        unsaid: bool,
    ) -> None:
        """Say that it is over, also when a former process said that it began."""


class GapFinder:
    """Looks at one hour after the other; one process does it at a time."""

    def __init__(
        self,
        *,
        db: Database,
        losses: Losses,
        topology: Topology,
        findings: GapFindings,
        clock: Clock,
        settings: GapSettings,
    ) -> None:
        self._db = db
        self._losses = losses
        self._topology = topology
        self._findings = findings
        self._clock = clock
        self._settings = settings

    async def once(self) -> bool:
        """Look at the next hour, if it is due, and at what waits; return whether another hour is due at once."""
        now = self._clock.now()
        async with self._db.read() as conn:
            scanned = await store.fetch_scanned(conn)
        if scanned is None:
            # What came before the first look is nobody's gap.
            scanned = store.hour_of(now)
            async with self._db.write() as conn:
                await store.set_scanned(conn, scanned)
        due = scanned + HOUR + timedelta(seconds=self._settings.settle_s)
        if due <= now:
            await self.scan(scanned)
        await self._settle()
        await self._tell()
        return due + HOUR <= now

    async def scan(self, hour: datetime) -> None:
        """Look for gaps in an hour, and note that it has been looked at."""
        duties = await self._losses.duties(Scope(), hour, hour + HOUR)
        by_device: dict[str, Duty] = {duty.device_id: duty for duty in duties}
        async with self._db.read() as conn:
            open_ = await store.fetch_open(conn)
        device_ids = sorted(by_device)
        found: list[Gap] = []
        for start in range(0, len(device_ids), DEVICES_AT_A_TIME):
            ids = device_ids[start : start + DEVICES_AT_A_TIME]
            async with self._db.read() as conn:
                hours = await store.fetch_hour(conn, ids, start=hour, end=hour + HOUR, not_before=hour - LOOK_BACK)
            for device_id, of_device in hours.items():
                found += self._gaps(by_device[device_id], of_device, open_.get(device_id), hour)
        found += [self._ended(gap, hour) for device_id, gap in open_.items() if device_id not in by_device]
        async with self._db.write() as conn:
            await store.put(conn, found)
            for gap in found:
                if gap.state is GapState.LOST:
                    await store.settle(conn, gap.id, GapState.LOST, NOT_IN_USE, self._clock.now())
            await store.set_scanned(conn, hour + HOUR)
        if found:
            logger.info("gaps found", extra={"hour": hour.isoformat(), "gaps": len(found)})

    def _gaps(self, duty: Duty, hour: HourOfDevice, open_: Gap | None, start: datetime) -> list[Gap]:
        limit_s = duty.interval_s * self._settings.after_intervals
        before = hour.before if open_ is None else open_.began_at
        if before is None and not hour.times:
            return []  # it never reported, or not for so long that nobody remembers
        until = min(start + HOUR, datetime.fromtimestamp(duty.ends, start.tzinfo))
        found = holes(hour.times, before=before, until=until, limit_s=limit_s)
        if open_ is not None and not any(hole.began_at == open_.began_at for hole in found):
            found.insert(0, Hole(open_.began_at, hour.times[0] if hour.times else until))
        silences = {hole.began_at for hole in found}
        gaps = [self._gap(duty, hole, GapKind.SILENCE, until) for hole in found]
        for hole in left_out(hour.numbered):
            if hole.began_at not in silences:
                gaps.append(self._gap(duty, hole, GapKind.SEQUENCE, until))
        return gaps

    def _gap(self, duty: Duty, hole: Hole, kind: GapKind, until: datetime) -> Gap:
        device = self._topology.device(duty.device_id, hole.began_at) or self._topology.device(duty.device_id, until)
        missing = hole.missing
        if missing is None:
            # Half an interval off either end: the reports there came.
            half = timedelta(seconds=duty.interval_s / 2)
            missing = _slots(duty, hole.began_at + half, until if hole.ended_at is None else hole.ended_at - half)
        return Gap(
            id=new_id(),
            device_id=duty.device_id,
            site_id=duty.site_id,
            line_id=None if device is None else device.line,
            kind=kind,
            began_at=hole.began_at,
            ended_at=hole.ended_at,
            missing=missing,
            interval_s=duty.interval_s,
            state=GapState.OPEN if hole.ended_at is None else GapState.WAITING,
            found_at=self._clock.now(),
        )

    def _ended(self, gap: Gap, hour: datetime) -> Gap:
        """Return the gap of a device that is not in use any more."""
        return replace(gap, ended_at=hour, state=GapState.LOST, found_at=self._clock.now())

    async def _settle(self) -> None:
        """Look at what waits: reports of it may have come, or it has waited long enough."""
        now = self._clock.now()
        after: str | None = None
        while True:
            async with self._db.read() as conn:
                waiting = await store.fetch_waiting(conn, after=after, limit=GAPS_AT_A_TIME)
                within = await store.count_within(conn, waiting)
            if not waiting:
                return
            after = waiting[-1].id
            async with self._db.write() as conn:
                for gap in waiting:
                    await self._settle_one(conn, gap, within.get(gap.id, ()), now)

    async def _settle_one(self, conn: WriteConn, gap: Gap, times: Sequence[datetime], now: datetime) -> None:
        if gap.ended_at is None:
            return
        # Of a day that lies in files already only what was counted while it came is known.
        recovered = max(self._recovered(gap, times), gap.recovered)
        if recovered >= gap.missing * self._settings.filled_share:
            await store.settle(conn, gap.id, GapState.FILLED, gap.reason or LATE, now, recovered=recovered)
            return
        wait_s = self._settings.late_wait_s if gap.reason == NO_MEMORY else self._settings.give_up_s
        if gap.kind is GapKind.SEQUENCE:
            wait_s = self._settings.late_wait_s
        if now - max(gap.ended_at, gap.found_at) >= timedelta(seconds=wait_s):
            await store.settle(conn, gap.id, GapState.LOST, gap.reason or NOT_REACHED, now, recovered=recovered)

    def _recovered(self, gap: Gap, times: Sequence[datetime]) -> int:
        """Return how many of the missing reports have come; two for one of them are one."""
        if gap.kind is GapKind.SEQUENCE:
            return min(len(times), gap.missing)
        offset = offset_s(gap.device_id, gap.interval_s)
        return min(slots_held(times, interval_s=gap.interval_s, offset=offset), gap.missing)

    async def _tell(self) -> None:
        async with self._db.write() as conn:
            untold = await store.fetch_untold(conn)
            over = await store.fetch_told_and_settled(conn)
            await store.set_told(conn, [gap.device_id for gap in untold], told=True)
            await store.set_told(conn, [device_id for device_id, _, _ in over], told=False)
        for gap in untold:
            self._findings.begin(
                ConditionKind.DATA_GAP,
                gap.device_id,
                f"no report since {gap.began_at.isoformat()}"
                if gap.ended_at is None
                else f"{gap.missing} reports are missing between {gap.began_at.isoformat()} and "
                f"{gap.ended_at.isoformat()}",
                detail_zh=f"自 {gap.began_at.isoformat()} 起数据缺失",
                site_id=gap.site_id,
                device_id=gap.device_id,
            )
        for device_id, site_id, lost in over:
            self._findings.end(
                ConditionKind.DATA_GAP,
                device_id,
                "all reports that were missing have come" if lost <= 0 else f"{lost} reports are lost for good",
                detail_zh="缺失数据已补齐" if lost <= 0 else f"{lost} 条数据无法补采",
                site_id=site_id,
                device_id=device_id,
                unsaid=True,
            )


def _slots(duty: Duty, start: datetime, end: datetime) -> int:
    """Return how many reports are expected in a stretch, at least one."""
    stretch = replace(duty, begins=start.timestamp(), ends=end.timestamp())
    hours = [start.timestamp() + 3600.0 * number for number in range(int((end - start) / HOUR) + 1)]
    return max(int(expected([stretch], hours).sum()), 1)
