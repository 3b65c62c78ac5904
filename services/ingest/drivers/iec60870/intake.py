"""What a station tells, made reports and events of its devices.

Two rules about time. The order within a connection is the truth: a value that comes later is newer, whatever the
station's clock says, which may run some seconds beside ours. The exception is a value with a time tag that is
older than what the same object has said already: stations that buffer changes send them after an interrogation has
shown how things ended. Such a value is history and never live.

What was asked for holds now, and its time tag only says since when.

Values without time are gathered for a moment, so that an interrogation becomes one report and not a hundred.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from libs.common.clock import Clock
from libs.common.contracts.base import Phase
from libs.common.contracts.telemetry import Quality, RejectReason
from libs.common.errors import Unavailable
from libs.common.profiles import ChangeEvent, Iec60870Point, ObjectType
from services.ingest.drivers.iec60870.asdu import ASKED_FOR, CHANGES, Asdu, Information, Value, value_of
from services.ingest.drivers.iec60870.objects import Directory, Owned
from services.ingest.drivers.iec60870.times import UnreadableTime, decode_time
from services.ingest.drivers.order import Order
from services.ingest.drivers.port import DeviceEvent, EventPhase, LineSink, RawReport

logger = logging.getLogger(__name__)

GATHER_S = 0.1
"""Values without time are delivered when nothing has come for this long. [s]"""
GATHER_AT_MOST_S = 1.0
"""They do not wait longer than this, however much comes. [s]"""
CLOCK_OFF_AT_MOST = timedelta(minutes=5)
"""A station whose clock is not known to be right may be off by this; more is a delayed delivery."""
CLOCK_SET_OFF_AT_MOST = timedelta(seconds=2)
"""The same once it has confirmed the time that we told it."""
JITTER = timedelta(seconds=1)
"""What deliveries may differ in their delay."""
REJECT_EVERY_S = 60.0
"""What cannot be understood for one reason is put on record once in this time. [s]"""


@dataclass(frozen=True, slots=True)
class Known:
    """The last thing that an object has said on this connection."""

    value: Value
    received_at: datetime
    monotonic: float
    """When it came. [s]"""
    told_at: datetime | None
    """Its time tag, by the station's clock."""


@dataclass(slots=True)
class _Batch:
    """Values of one device that make one report."""

    received_at: datetime
    told_at: datetime | None = None
    old: bool = False
    raw: dict[str, float | int | None] = field(default_factory=dict)
    quality: dict[str, Quality] = field(default_factory=dict)

    def add(self, point: str, value: Value) -> None:
        self.raw[point] = value.raw
        if value.quality is not None:
            self.quality[point] = value.quality


class Intake:
    """Takes the ASDUs of one connection that carry values."""

    def __init__(self, *, directory: Directory, sink: LineSink, clock: Clock, zone: ZoneInfo, use_times: bool) -> None:
        """Prepare.

        Args:
            directory: Whose objects they are.
            sink: Where reports and events go.
            clock: Ours.
            zone: What the stations' clocks are set to.
            use_times: Believe time tags; without it they are kept beside our own time.
        """
        self._directory = directory
        self._sink = sink
        self._clock = clock
        self._zone = zone
        self._use_times = use_times
        self._known: dict[tuple[int, int], Known] = {}
        self._orders: dict[str, Order] = {}
        self._gathered: dict[str, _Batch] = {}
        self._gathering_since: float | None = None
        self._behind: dict[int, timedelta] = {}
        """By station, the least that its time tags were behind their arrival: its clock, and the way."""
        self._clock_set: set[int] = set()
        self._events: dict[tuple[int, int], tuple[int | float, datetime]] = {}
        self._rejected_at: dict[tuple[object, ...], float] = {}
        self._full = False

    def known(self, station: int, object_address: int) -> Known | None:
        """Return what an object has last said, None when it has not."""
        return self._known.get((station, object_address))

    def clock_is_set(self, station: int) -> None:
        """The station has confirmed our time."""
        self._clock_set.add(station)
        self._behind.pop(station, None)

    def flush_in_s(self) -> float | None:
        """Return how long gathered values may still wait, None when there are none. [s]"""
        if self._gathering_since is None:
            return None
        left_s = self._gathering_since + GATHER_AT_MOST_S - self._clock.monotonic()
        return min(max(left_s, 0.0), GATHER_S)

    async def flush(self) -> None:
        """Deliver what was gathered."""
        self._gathering_since = None
        gathered, self._gathered = self._gathered, {}
        await self._deliver(gathered.items())

    async def take(self, asdu: Asdu) -> None:
        """Take an ASDU of values; a test frame is passed over."""
        if asdu.test:
            return
        now = self._clock.now()
        timed: dict[tuple[str, datetime, bool], _Batch] = {}
        for said in asdu.objects:
            owners = self._directory.owners(asdu.common_address, said.address)
            if not owners:
                self._note_stranger(asdu, said)
                continue
            if not await self._fits(asdu, said, owners[0]):
                continue
            try:
                told_at = decode_time(said.time, self._zone, now) if said.time else None
            except UnreadableTime as exc:
                await self._reject(RejectReason.UNREADABLE_TIME, asdu, said, str(exc), owners[0].device_id)
                continue
            await self._take_object(asdu, said, owners, told_at, now, timed)
        await self._deliver((device_id, batch) for (device_id, _, _), batch in timed.items())
        left_s = self.flush_in_s()
        if left_s is not None and left_s <= 0:
            await self.flush()

    async def _take_object(
        self,
        asdu: Asdu,
        said: Information,
        owners: tuple[Owned, ...],
        told_at: datetime | None,
        now: datetime,
        timed: dict[tuple[str, datetime, bool], _Batch],
    ) -> None:
        value = value_of(asdu.type_id, said.element)
        key = (asdu.common_address, said.address)
        if asdu.cause in CHANGES:
            await self._tell_events(key, owners, value, told_at or now)
        asked_for = asdu.cause in ASKED_FOR
        if told_at is not None and not asked_for:
            self._note_delay(asdu.common_address, now - told_at)
        if told_at is not None and not asked_for and self._is_old(key, told_at):
            for owned in owners:
                batch = timed.setdefault((owned.device_id, told_at, True), _Batch(now, told_at, old=True))
                batch.add(owned.point.name, value)
            return
        self._known[key] = Known(value, now, self._clock.monotonic(), told_at)
        for owned in owners:
            if told_at is None or asked_for:
                await self._gather(owned, value, now)
            else:
                gathered = self._gathered.pop(owned.device_id, None)
                if gathered is not None:
                    await self._deliver([(owned.device_id, gathered)])
                batch = timed.setdefault((owned.device_id, told_at, False), _Batch(now, told_at))
                batch.add(owned.point.name, value)

    async def _gather(self, owned: Owned, value: Value, now: datetime) -> None:
        batch = self._gathered.get(owned.device_id)
        if batch is not None and batch.raw.get(owned.point.name, value.raw) != value.raw:
            # It has changed since: both are told.
            await self._deliver([(owned.device_id, self._gathered.pop(owned.device_id))])
            batch = None
        if batch is None:
            batch = self._gathered[owned.device_id] = _Batch(now)
        batch.received_at = now
        batch.add(owned.point.name, value)
        if self._gathering_since is None:
            self._gathering_since = self._clock.monotonic()

    def _note_delay(self, station: int, delay: timedelta) -> None:
        known = self._behind.get(station)
        if known is None or delay < known:
            self._behind[station] = delay

    def _is_old(self, key: tuple[int, int], told_at: datetime) -> bool:
        """Return whether a time tag lies before what its object has said already."""
        known = self._known.get(key)
        if known is None:
            return False
        if known.told_at is not None:
            return told_at < known.told_at
        most = CLOCK_SET_OFF_AT_MOST if key[0] in self._clock_set else CLOCK_OFF_AT_MOST
        return told_at + min(self._behind[key[0]], most) < known.received_at - JITTER

    async def _tell_events(self, key: tuple[int, int], owners: tuple[Owned, ...], value: Value, at: datetime) -> None:
        if self._events.get(key) == (value.raw, at):
            return  # spontaneous and as return information of a command: one movement
        self._events[key] = (value.raw, at)
        for owned in owners:
            event = owned.point.event
            phase = None if event is None else _phase(event, owned.point, value)
            if event is None or phase is None:
                continue
            told = DeviceEvent(
                event.code, phase, event.text_zh, at, severity=event.severity, point=owned.point.name,
                value=_canonical(owned.point, value),
            )  # fmt: skip
            try:
                await self._sink.event(owned.device_id, told)
            except Unavailable as exc:
                self._note_full(exc)

    async def _deliver(self, batches: Iterable[tuple[str, _Batch]]) -> None:
        reports = [(device_id, self._report(device_id, batch)) for device_id, batch in batches]
        if not reports:
            return
        try:
            await self._sink.reports(reports)
        except Unavailable as exc:
            self._note_full(exc)
        else:
            self._full = False

    def _report(self, device_id: str, batch: _Batch) -> RawReport:
        order = self._orders.setdefault(device_id, Order())
        told_at = batch.told_at
        if batch.old:
            source_time = told_at
        elif told_at is None or not self._use_times:
            source_time = order.untimed(batch.received_at)
        else:
            source_time = order.timed(told_at, batch.received_at)
        return RawReport(
            batch.raw,
            batch.received_at,
            device_time=None if told_at == source_time else told_at,
            quality=batch.quality,
            source_time=source_time,
            archive=batch.old,
        )

    async def _fits(self, asdu: Asdu, said: Information, owned: Owned) -> bool:
        """Return whether an object is of the type that the profile says; put it on record when it is not."""
        if asdu.value_type is owned.point.type:
            return True
        detail = f"object {said.address} is {asdu.value_type} here, {owned.point.type} in the device's profile"
        self._sink.failed(owned.device_id, "protocol_mismatch")
        await self._reject(RejectReason.UNDECODABLE, asdu, said, detail, owned.device_id)
        return False

    async def _reject(self, reason: RejectReason, asdu: Asdu, said: Information, detail: str, device_id: str) -> None:
        raw = said.element + said.time
        what = f"station {asdu.common_address}, type {asdu.type_id}, object {said.address}: {detail}"
        await self.reject(reason, raw, what, device_id=device_id, once_for=(asdu.common_address, said.address, reason))

    async def reject(
        self,
        reason: RejectReason,
        raw: bytes,
        detail: str,
        *,
        once_for: tuple[object, ...],
        device_id: str | None = None,
    ) -> None:
        """Put something on record, once a minute for each ``once_for``."""
        now = self._clock.monotonic()
        if now - self._rejected_at.get(once_for, float("-inf")) < REJECT_EVERY_S:
            return
        self._rejected_at[once_for] = now
        try:
            await self._sink.reject(reason, raw, detail, device_id=device_id)
        except Unavailable as exc:
            self._note_full(exc)

    def _note_stranger(self, asdu: Asdu, said: Information) -> None:
        key = (asdu.common_address, said.address, "stranger")
        if key not in self._rejected_at:
            self._rejected_at[key] = self._clock.monotonic()
            logger.debug(
                "information object of no device", extra={"station": asdu.common_address, "object": said.address}
            )

    def _note_full(self, exc: Unavailable) -> None:
        """Say once that reports are lost: this protocol acknowledges what was received, not what was stored."""
        if not self._full:
            logger.error("what a station tells is lost", extra={"reason": exc.message})
        self._full = True


def _phase(event: ChangeEvent, point: Iec60870Point, value: Value) -> EventPhase | None:
    """Return what a change means; None for a bad value and for a position on the way."""
    if value.quality is not None and value.quality.is_bad:
        return None
    if point.type is ObjectType.DOUBLE and value.raw not in (1, 2):
        return None
    if event.begin is None:
        return Phase.ONCE
    return Phase.BEGIN if value.raw == event.begin else Phase.END


def _canonical(point: Iec60870Point, value: Value) -> float | None:
    if point.value_map is not None:
        return point.value_map.get(int(value.raw))
    return value.raw * point.scale + point.offset
