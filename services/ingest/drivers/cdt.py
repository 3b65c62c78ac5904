"""CDT (DL 451-91) as a telling line: a station sends its frames round and round, and nobody asks.

Values come again every few seconds, most of them unchanged: they are delivered together every ``report_s``, a change of
state at once. Commands of CDT are not sent: what proves them comes with the next round like everything else, and the
layouts of their words that are known to us are second-hand.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from libs.common.clock import Clock
from libs.common.contracts.base import Phase
from libs.common.contracts.telemetry import Quality, RejectReason
from libs.common.errors import InvalidInput, Unavailable
from libs.common.profiles import CdtPoint, ChangeEvent, Control, DeviceProfile
from services.ingest.domain.codecs.cdt import Event, Frame, Kind, Value, events, scan, values
from services.ingest.drivers.line_settings import only, seconds, zone
from services.ingest.drivers.port import (
    Address,
    Channel,
    DeviceEvent,
    DeviceRefused,
    DeviceSession,
    DeviceSilent,
    EventPhase,
    LineDown,
    LineSink,
    Opening,
    RawReport,
)
from services.ingest.drivers.wire import SERIAL_SETTINGS, wire_of

logger = logging.getLogger(__name__)

REPORT_S = 10.0
SILENT_S = 60.0
"""A line on which no frame was found for this long is opened anew. [s]"""
LOOK_S = 0.2
FRESH_S = 15.0
"""A value that is to be read now comes with the next round; a round is done within this. [s]"""
MAX_HELD_BYTES = 4096
REJECT_EVERY_S = 60.0
ANY_SOURCE = "any"
AHEAD = timedelta(days=1)
"""A day of the month that lies further ahead was in the month before."""


def open_line(opening: Opening) -> "CdtLine":
    """Return the driver of a CDT line.

    Raises:
        InvalidInput: Its endpoint or settings are wrong.
    """
    line = opening.line
    only(line, {"report_s", "silent_s", "zone"} | SERIAL_SETTINGS)
    wire_of(line)  # says what is wrong
    return CdtLine(
        lambda: wire_of(line),
        clock=opening.clock,
        report_s=seconds(line, "report_s", REPORT_S, most=3600),
        silent_s=seconds(line, "silent_s", SILENT_S, most=3600),
        zone=zone(line),
    )


def supports(profile: DeviceProfile) -> bool:
    """Return whether a profile is one of CDT."""
    return any(True for _ in profile.cdt_points())


@dataclass(slots=True)
class _Heard:
    """What one device has said, and not all of it delivered yet."""

    address: Address
    source: int | None
    """None takes frames of whatever source."""
    points: Mapping[tuple[str, int], list[CdtPoint]]
    raw: dict[str, int | None] = field(default_factory=dict)
    quality: dict[str, Quality] = field(default_factory=dict)
    changed: bool = False
    """A state is another than it was."""
    delivered_at: float = float("-inf")
    last: dict[str, int | None] = field(default_factory=dict)
    """What each point last said."""
    heard_at: dict[str, float] = field(default_factory=dict)
    """When that was. [s]"""
    told: dict[int, tuple[bool, datetime]] = field(default_factory=dict)
    """Last event of each state."""


class CdtLine:
    """One line with one or more stations that send; implements ``TellingLine``."""

    protocol = "cdt"

    def __init__(
        self, make: Callable[[], Channel], *, clock: Clock, report_s: float, silent_s: float, zone: ZoneInfo
    ) -> None:
        """Prepare.

        Args:
            make: A channel to the line.
            clock: Ours.
            report_s: Unchanged values are delivered this often. [s]
            silent_s: A line without any frame for this long is opened anew. [s]
            zone: What the stations' clocks are set to.
        """
        self._make = make
        self.clock = self._clock = clock
        self._report_s = report_s
        self._silent_s = silent_s
        self._zone = zone
        self._heard: dict[str, _Heard] = {}
        self._arrived = asyncio.Condition()
        self._connected = False
        self._rejected_at = float("-inf")

    async def run(self, devices: Mapping[str, Address], sink: LineSink) -> None:
        """Listen until cancelled or the line is lost."""
        self._heard = {device_id: _heard_of(address) for device_id, address in devices.items()}
        channel = self._make()
        await channel.open()
        try:
            self._connected = True
            sink.up()
            await self._listen(channel, sink)
        finally:
            self._connected = False
            await channel.close()

    async def _listen(self, channel: Channel, sink: LineSink) -> None:
        rest = b""
        frame_at = self._clock.monotonic()
        while True:
            try:
                rest += await channel.receive(LOOK_S)
            except TimeoutError:
                pass
            consumed, frame = scan(rest)
            while frame is not None:
                frame_at = self._clock.monotonic()
                rest = rest[consumed:]
                await self._take(frame, sink)
                consumed, frame = scan(rest)
            rest = rest[consumed:][-MAX_HELD_BYTES:]
            await self._deliver(sink)
            if self._clock.monotonic() - frame_at > self._silent_s:
                raise LineDown(f"no frame for {self._silent_s:g} s")

    async def _take(self, frame: Frame, sink: LineSink) -> None:
        """Take a frame for the devices that it is about."""
        if frame.broken:
            await self._reject(frame, sink)
        now = self._clock.now()
        for device_id, heard in self._heard.items():
            if heard.source is not None and heard.source != frame.source:
                continue
            for value in values(frame):
                _note(heard, value, self._clock.monotonic())
            for event in events(frame):
                await self._tell(device_id, heard, event, now, sink)
        async with self._arrived:
            self._arrived.notify_all()

    async def _deliver(self, sink: LineSink) -> None:
        """Deliver what is due: a change at once, the rest in its time."""
        now = self._clock.monotonic()
        due = [
            (device_id, heard)
            for device_id, heard in self._heard.items()
            if heard.raw and (heard.changed or now - heard.delivered_at >= self._report_s)
        ]
        if not due:
            return
        reports = [
            (device_id, RawReport(dict(heard.raw), self._clock.now(), quality=dict(heard.quality)))
            for device_id, heard in due
        ]
        for _, heard in due:
            heard.raw.clear()
            heard.quality.clear()
            heard.changed = False
            heard.delivered_at = now
        try:
            await sink.reports(reports)
        except Unavailable as exc:
            logger.error("what a station tells is lost", extra={"reason": exc.message})

    async def _tell(self, device_id: str, heard: _Heard, event: Event, now: datetime, sink: LineSink) -> None:
        """Tell an event once; a station sends each three times."""
        try:
            at = _time_of(event, now, self._zone)
        except ValueError:
            return  # a word that is right and no time: the state itself comes all the same
        if heard.told.get(event.number) == (event.closed, at):
            return
        heard.told[event.number] = (event.closed, at)
        for point in heard.points.get((Kind.STATE, event.number), ()):
            if point.event is None:
                continue
            told = DeviceEvent(
                point.event.code, _phase(point.event, event.closed), point.event.text_zh, at,
                severity=point.event.severity, point=point.name, value=float(event.closed),
            )  # fmt: skip
            try:
                await sink.event(device_id, told)
            except Unavailable as exc:
                logger.error("an event of a station is lost", extra={"reason": exc.message})

    async def _reject(self, frame: Frame, sink: LineSink) -> None:
        now = self._clock.monotonic()
        if now - self._rejected_at < REJECT_EVERY_S:
            return
        self._rejected_at = now
        detail = f"{frame.broken} of {frame.broken + len(frame.words)} words with a wrong check, source {frame.source}"
        try:
            await sink.reject(RejectReason.CHECKSUM, b"".join(frame.words), detail)
        except Unavailable as exc:
            logger.debug("rejection is lost", extra={"reason": exc.message})

    def session(self, address: Address) -> DeviceSession:
        """Return a session for a device on this line.

        Raises:
            InvalidInput: The address is no source address.
        """
        _source(address)
        return _Session(self, address)

    async def close(self) -> None:
        """Do nothing: the line is open only while it runs."""

    async def next_round(self, address: Address, names: Collection[str]) -> dict[str, int | None]:
        """Return values of a device that come from now on, all that come within a round.

        Raises:
            LineDown: The line is not open.
        """
        if not self._connected:
            raise LineDown("not connected")
        heard = self._heard.get(address.device_id)
        began = self._clock.monotonic()
        found: dict[str, int | None] = {}
        if heard is None:
            return found
        latest = heard.heard_at
        try:
            async with asyncio.timeout(FRESH_S), self._arrived:
                await self._arrived.wait_for(
                    lambda: not self._connected or all(latest.get(name, -1.0) >= began for name in names)
                )
        except TimeoutError:
            pass
        return {name: heard.last[name] for name in names if latest.get(name, -1.0) >= began}


class _Session:
    """One device on a line that only tells."""

    def __init__(self, line: CdtLine, address: Address) -> None:
        self._line = line
        self._address = address
        self._names = [point.name for point in address.profile.cdt_points() if point.copy_of is None]

    async def read(self) -> RawReport:
        """Wait for a round of all points."""
        return await self.read_points(self._names)

    async def read_points(self, names: Collection[str]) -> RawReport:
        """Wait until these points have come again."""
        wanted = [name for name in names if name in self._names]
        found = await self._line.next_round(self._address, wanted)
        if wanted and not found:
            raise DeviceSilent(f"{self._address.device_id}: none of its {len(wanted)} points came within {FRESH_S:g} s")
        missing = {name: "did not come" for name in wanted if name not in found}
        return RawReport(found, self._line.clock.now(), failed=missing)

    async def write(self, control: Control, value: float | None) -> str:
        """Refuse: nothing is sent on these lines."""
        raise DeviceRefused(f"{self._address.device_id}: CDT lines are listened to, {control.name} cannot be sent")


def _heard_of(address: Address) -> _Heard:
    points: dict[tuple[str, int], list[CdtPoint]] = {}
    for point in address.profile.cdt_points():
        if point.copy_of is None:
            points.setdefault((point.element, point.number), []).append(point)
    return _Heard(address, _source(address), points)


def _source(address: Address) -> int | None:
    """Return the source address of a device's frames, None for any.

    Raises:
        InvalidInput: It is neither.
    """
    text = (address.text or "").strip()
    if text == ANY_SOURCE:
        return None
    if text.isdecimal() and int(text) <= 255:
        return int(text)
    raise InvalidInput(
        f"device {address.device_id}: address {address.text!r}: expected the source address of the station's frames "
        "(0 to 255), or any",
        message_zh=f"设备 {address.device_id}:地址 {address.text!r} 应为报文源站址(0–255)或 any",
    )


def _note(heard: _Heard, value: Value, now: float) -> None:
    for point in heard.points.get((value.kind, value.number), ()):
        known = point.name in heard.last
        if known and value.kind is Kind.STATE and heard.last[point.name] != value.raw:
            heard.changed = True
        heard.raw[point.name] = heard.last[point.name] = value.raw
        heard.heard_at[point.name] = now
        if value.overflow:
            heard.quality[point.name] = Quality.INVALID
        else:
            heard.quality.pop(point.name, None)


def _phase(event: ChangeEvent, closed: bool) -> EventPhase:
    if event.begin is None:
        return Phase.ONCE
    return Phase.BEGIN if int(closed) == event.begin else Phase.END


def _time_of(event: Event, now: datetime, zone: ZoneInfo) -> datetime:
    """Return when an event was: the last such day and time of day before now, by the station's clock.

    Raises:
        ValueError: There is no such time.
    """
    local = now.astimezone(zone)
    this_month = (local.year, local.month)
    before = (local.year, local.month - 1) if local.month > 1 else (local.year - 1, 12)
    for year, month in (this_month, before):
        try:
            at = datetime(
                year, month, event.day, event.hour, event.minute, event.second, event.millisecond * 1000, tzinfo=zone
            ).astimezone(UTC)
        except ValueError:
            continue  # this month has no such day
        if at <= now + AHEAD:
            return at
    raise ValueError(f"no such time: day {event.day}, {event.hour:02}:{event.minute:02}:{event.second:02}")
