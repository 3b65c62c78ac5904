"""Whether each device can be heard, told to everybody when it changes.

Judged on the age of its data, not on a connection: a device is offline when its reports have been missing for
some intervals, counted from when we began to listen.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

from libs.common.clock import Clock
from libs.common.contracts.device import Battery, Connectivity, RadioSignal, SimState
from libs.common.errors import Unavailable
from services.ingest import metrics
from services.ingest.domain.loose import printable
from services.ingest.domain.report import Report

logger = logging.getLogger(__name__)

SCAN_S = 1.0
DEVICES_PER_S = 20_000
"""Devices looked at per second, on average: a large board is looked at less often."""
DEVICES_AT_A_TIME = 2_000
REFRESH_S = 300.0
"""A device that stays online is told about again after this, with a younger ``last_report_at``. [s]"""


NO_SIGNAL, NO_BATTERY, NO_SIM = RadioSignal(), Battery(), SimState()


@dataclass(frozen=True, slots=True)
class StatusRow:
    """What is known, and told, about one device."""

    device_id: str
    site_id: str
    connectivity: Connectivity
    since: datetime
    last_report_at: datetime | None
    reason: str | None
    line_id: str | None
    published_at: datetime
    texts: Mapping[str, str] = field(default_factory=dict)
    """Text points, such as ``meter_address``, as last read."""
    signal: RadioSignal = NO_SIGNAL
    battery: Battery = NO_BATTERY
    sim: SimState = NO_SIM


class StatusStore(Protocol):
    """Where the status is kept and from where it is published."""

    async def load(self, device_ids: Sequence[str]) -> Mapping[str, StatusRow]:
        """Return what was last told about devices."""

    async def publish(self, rows: Sequence[StatusRow]) -> None:
        """Keep and publish, in one transaction."""


@dataclass(slots=True)
class _Watched:
    """One device that this process listens to."""

    site_id: str
    line_id: str | None
    interval_s: float
    since: datetime
    """When we began to listen."""
    told: StatusRow | None = None
    last_report_at: datetime | None = None
    reason: str | None = None
    texts: dict[str, str] = field(default_factory=dict)
    signal: RadioSignal = NO_SIGNAL
    battery: Battery = NO_BATTERY
    sim: SimState = NO_SIM
    lost_at: datetime | None = None
    """When the platform behind which it is said that it is offline; None once it was heard after that."""
    quiet_until: datetime | None = None
    """While it stays online and nothing about it changes there is nothing to tell before; None: it is to be judged."""


class StatusBoard:
    """The devices of the lines that this process holds."""

    def __init__(
        self,
        store: StatusStore,
        clock: Clock,
        *,
        offline_after_missed: int,
        give_way: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Begin with no device.

        Args:
            store: Where the status is kept and told.
            clock: Time.
            offline_after_missed: So many reports have to be missing.
            give_way: Awaited before each look at all devices: what is more urgent goes first, for some seconds.
        """
        self._store = store
        self._clock = clock
        self._give_way = give_way
        self._missed = offline_after_missed
        self._watched: dict[str, _Watched] = {}
        self._unknown: set[str] = set()

    def watch(self, device_id: str, *, site_id: str, line_id: str | None, interval_s: float) -> None:
        """Begin to listen to a device, or learn that something about it has changed."""
        known = self._watched.get(device_id)
        if known is None:
            self._watched[device_id] = _Watched(site_id, line_id, interval_s, self._clock.now())
            self._unknown.add(device_id)
        else:
            known.site_id, known.line_id, known.interval_s = site_id, line_id, interval_s
            known.quiet_until = None

    def forget(self, device_id: str) -> None:
        """Stop listening: another process does, or the device is gone."""
        self._watched.pop(device_id, None)
        self._unknown.discard(device_id)

    def heard(self, report: Report) -> None:
        """A report of the device has been accepted."""
        found = self._watched.get(report.device_id)
        if found is None:
            return
        found.signal = _updated(found.signal, report, _SIGNAL)
        found.battery = _updated(found.battery, report, _BATTERY)
        if report.points.get(ONLINE_POINT) == 0:
            found.lost_at, found.reason = report.received_at, LOST_REASON
            found.quiet_until = None
            return
        found.last_report_at = report.received_at
        found.lost_at = None
        found.reason = None

    def failed(self, device_id: str, reason: str) -> None:
        """The device did not answer; the reason is told when it becomes offline."""
        found = self._watched.get(device_id)
        if found is not None:
            found.reason = reason

    def texts(self, device_id: str, texts: Mapping[str, str]) -> None:
        """Text points of the device have been read; they are told when they are others than before."""
        found = self._watched.get(device_id)
        if found is not None and texts:
            found.quiet_until = None
            # A single NUL would keep the database from taking the status of all devices.
            found.texts.update({name: printable(text) for name, text in texts.items()})

    def sim(self, device_id: str, sim: SimState) -> None:
        """The device's card and module are known; they are told when they are others than before."""
        found = self._watched.get(device_id)
        if found is not None:
            given = {name: value for name in _SIM if (value := getattr(sim, name)) is not None}
            if all(getattr(found.sim, name) == value for name, value in given.items()):
                return  # platforms say it with each message
            found.sim = found.sim.model_copy(update={**given, "at": sim.at})
            found.quiet_until = None

    def cell(self, device_id: str, *, cell_id: str | None, pci: int | None) -> None:
        """The cell that the device is in is known; it is told with what else changes."""
        found = self._watched.get(device_id)
        if found is not None:
            given = {"cell_id": cell_id, "pci": pci}
            found.signal = found.signal.model_copy(
                update={name: value for name, value in given.items() if value is not None}
            )

    def connectivity(self, device_id: str) -> Connectivity | None:
        """Return what holds for a device now, None when we do not listen to it."""
        found = self._watched.get(device_id)
        return None if found is None else self._judge(found, self._clock.now())

    async def run(self, beat: Callable[[], None]) -> None:
        """Tell changes, for ever."""
        waiting = False
        while True:
            beat()
            if self._give_way is not None:
                await self._give_way()
            try:
                await self.scan()
                waiting = False
            except Unavailable as exc:
                if not waiting:
                    logger.warning("device status waits", extra={"reason": exc.message})
                waiting = True
            await self._clock.sleep(max(SCAN_S, len(self._watched) / DEVICES_PER_S))

    async def scan(self) -> int:
        """Look at every device once and tell what has changed; return how many have.

        Raises:
            DatabaseUnavailable: Nothing was told.
        """
        if self._unknown:
            asked = sorted(self._unknown)
            told = await self._store.load(asked)
            for device_id in asked:
                found = self._watched.get(device_id)
                if found is not None:
                    found.told = told.get(device_id)
                    if found.told is not None:
                        found.last_report_at = found.last_report_at or found.told.last_report_at
                        found.texts = {**found.told.texts, **found.texts}
                        found.signal = _over(found.told.signal, found.signal)
                        found.battery = _over(found.told.battery, found.battery)
                        found.sim = _over(found.told.sim, found.sim)
            self._unknown.difference_update(asked)
        now = self._clock.now()
        rows: list[StatusRow] = []
        counted: Counter[Connectivity] = Counter()
        watched = list(self._watched.items())
        for first in range(0, len(watched), DEVICES_AT_A_TIME):
            for device_id, found in watched[first : first + DEVICES_AT_A_TIME]:
                if found.quiet_until is not None and now < found.quiet_until:
                    counted[Connectivity.ONLINE] += 1
                    continue
                connectivity = self._judge(found, now)
                counted[connectivity] += 1
                row = self._to_tell(device_id, found, connectivity, now)
                if row is not None:
                    rows.append(row)
                else:
                    found.quiet_until = self._quiet_until(found, connectivity)
            await asyncio.sleep(0)
        if rows:
            await self._store.publish(rows)
            for row in rows:
                if row.device_id in self._watched:
                    self._watched[row.device_id].told = row
        for state in Connectivity:
            metrics.DEVICE_STATE.labels(state).set(counted.get(state, 0))
        return len(rows)

    def _judge(self, found: _Watched, now: datetime) -> Connectivity:
        if found.lost_at is not None:
            return Connectivity.OFFLINE
        limit = timedelta(seconds=self._silence_s(found))
        last = found.last_report_at
        if last is not None and last >= found.since:
            return Connectivity.ONLINE if now - last <= limit else Connectivity.OFFLINE
        # Not heard since we listen: what was told before holds until it must be wrong.
        if now - found.since <= limit:
            return found.told.connectivity if found.told is not None else Connectivity.NEVER_SEEN
        return Connectivity.OFFLINE if last is not None else Connectivity.NEVER_SEEN

    def _quiet_until(self, found: _Watched, connectivity: Connectivity) -> datetime | None:
        """Return until when a device of which all is told stays as it is, whether it is heard or not."""
        if connectivity is not Connectivity.ONLINE or found.told is None or found.last_report_at is None:
            return None
        silent_at = found.last_report_at + timedelta(seconds=self._silence_s(found))
        return min(silent_at, found.told.published_at + timedelta(seconds=REFRESH_S))

    def _silence_s(self, found: _Watched) -> float:
        """Return after which silence a device is offline. [s]"""
        return max(self._missed * found.interval_s, 5.0)

    def _to_tell(self, device_id: str, found: _Watched, connectivity: Connectivity, now: datetime) -> StatusRow | None:
        told = found.told
        changed = (
            told is None
            or told.connectivity is not connectivity
            or (told.site_id, told.line_id, told.texts) != (found.site_id, found.line_id, found.texts)
            or any(getattr(told.sim, name) != getattr(found.sim, name) for name in _SIM)
        )
        stale = (
            told is not None
            and connectivity is Connectivity.ONLINE
            and now - told.published_at >= timedelta(seconds=REFRESH_S)
        )
        if not changed and not stale:
            return None
        same = told is not None and told.connectivity is connectivity
        return StatusRow(
            device_id=device_id,
            site_id=found.site_id,
            connectivity=connectivity,
            since=told.since if same and told is not None else now,
            last_report_at=found.last_report_at,
            reason=found.reason if connectivity is Connectivity.OFFLINE else None,
            line_id=found.line_id,
            published_at=now,
            texts=dict(found.texts),
            signal=found.signal,
            battery=found.battery,
            sim=found.sim,
        )


ONLINE_POINT = "online_state"
"""What a platform says of a device behind it, 1 or 0; not heard from the device itself."""
LOST_REASON = "platform_event"
_SIM = ("iccid", "imsi", "imei")
_SIGNAL = {
    "signal_rsrp": "rsrp_dbm",
    "signal_rsrq": "rsrq_db",
    "signal_rssi": "rssi_dbm",
    "signal_sinr": "sinr_db",
    "coverage_level": "coverage_level",
}
_BATTERY = {"battery_level": "level_percent", "battery_voltage": "voltage_v"}

Told = TypeVar("Told", RadioSignal, Battery, SimState)


def _updated(known: Told, report: Report, names: Mapping[str, str]) -> Told:
    """Return what is known with what a report adds; a coverage level is 0, 1 or 2."""
    given: dict[str, float | int | datetime] = {}
    for point, name in names.items():
        value = report.points.get(point)
        flag = report.quality.get(point)
        if value is None or (flag is not None and flag.is_bad):
            continue
        if point != "coverage_level":
            given[name] = value
        elif value in (0, 1, 2):
            given[name] = int(value)
    return known.model_copy(update={**given, "at": report.received_at}) if given else known


def _over(told: Told, found: Told) -> Told:
    """Return what was told before, with what has been found since over it."""
    return told.model_copy(update=found.model_dump(exclude_none=True))
