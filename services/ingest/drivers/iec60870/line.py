"""A line of stations as the rest of ingest sees it: connected by somebody, mastered here."""

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from libs.common.clock import Clock
from libs.common.contracts.telemetry import RejectReason
from libs.common.errors import InvalidInput
from libs.common.profiles import Control, Iec60870Control, Iec60870Point
from services.ingest.drivers.iec60870.asdu import Widths
from services.ingest.drivers.iec60870.master import Habits, Link, Master
from services.ingest.drivers.iec60870.objects import Directory, place_of
from services.ingest.drivers.port import (
    Address,
    Care,
    Cared,
    DeviceEvent,
    DeviceSession,
    DeviceSilent,
    LineDown,
    LineSink,
    NotOffered,
    RawReport,
)

logger = logging.getLogger(__name__)

RESTARTS = frozenset({"iec101", "iec104"})
"""Protocols with a command to begin anew."""
Connect = Callable[[Directory], Awaitable[Link]]
"""Connect to the stations of a line. Raises ``LineDown``."""


class Iec60870Line:
    """One connection, or one serial line, with the stations on it; implements ``TellingLine``."""

    def __init__(
        self, *, protocol: str, connect: Connect, widths: Widths, clock: Clock, habits: Habits, beside: bool
    ) -> None:
        """Prepare.

        Args:
            protocol: ``iec104`` or ``iec101``.
            connect: How.
            widths: Of the fields of an ASDU.
            clock: Ours.
            habits: How the stations are spoken to.
            beside: It is a second connection for one order: what is told is not reported, and no clock is set.
        """
        self.protocol = protocol
        self._connect = connect
        self._widths = widths
        self._clock = clock
        self._habits = habits
        self._beside = beside
        self._master: Master | None = None
        self._link: Link | None = None

    async def run(self, devices: Mapping[str, Address], sink: LineSink) -> None:
        """Connect, ask and listen until cancelled or the connection is lost."""
        directory = Directory(devices, self._widths)
        self._link = link = await self._connect(directory)
        try:
            master = Master(
                link,
                widths=self._widths,
                directory=directory,
                sink=_Unheard() if self._beside else sink,
                clock=self._clock,
                habits=self._habits,
            )
            self._master = master
            sink.up()
            await master.run(ask=not self._beside)
        finally:
            self._master = None
            await link.close()

    def session(self, address: Address) -> DeviceSession:
        """Return a session for a device on this line.

        Raises:
            InvalidInput: The address is none of a station.
        """
        return _Session(self, address)

    async def close(self) -> None:
        """Close the connection."""
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    @property
    def widths(self) -> Widths:
        """Of the fields of an ASDU."""
        return self._widths

    @property
    def clock(self) -> Clock:
        """Ours."""
        return self._clock

    def master(self) -> Master:
        """Return who speaks with the stations now.

        Raises:
            LineDown: Nobody, since there is no connection.
        """
        if self._master is None:
            raise LineDown("not connected")
        return self._master


class _Session:
    """One device of a station."""

    def __init__(self, line: Iec60870Line, address: Address) -> None:
        self._line = line
        self._device_id = address.device_id
        self._profile = address.profile
        self._place = place_of(address, line.widths)
        self._points: Mapping[str, Iec60870Point] = {
            point.name: point for point in address.profile.iec60870_points() if point.copy_of is None
        }

    async def read(self) -> RawReport:
        """Read all points."""
        return await self.read_points(list(self._points))

    async def read_points(self, names: Collection[str]) -> RawReport:
        """Read some points: by interrogation of their station, or one by one where it can be asked so."""
        wanted = [self._points[name] for name in names if name in self._points]
        master = self._line.master()
        said = await master.read(self._place, wanted, single=self._profile.single_read)
        if wanted and not said:
            raise DeviceSilent(f"{self._device_id}: the station tells none of its {len(wanted)} points")
        return RawReport(
            {name: known.value.raw for name, known in said.items()},
            max((known.received_at for known in said.values()), default=self._line.clock.now()),
            failed={point.name: "not told" for point in wanted if point.name not in said},
            quality={name: known.value.quality for name, known in said.items() if known.value.quality is not None},
        )

    async def write(self, control: Control, value: float | None) -> str:
        """Do a control."""
        if not isinstance(control, Iec60870Control):
            raise InvalidInput(f"{control.name} is no control of IEC 60870-5")
        raw = control.value if control.value is not None else self._raw(control, value)
        return await self._line.master().command(self._place, control, raw)

    async def care(self, task: Care) -> Cared:
        """Set the clock of the station (C_CS_NA_1), or restart it (C_RP_NA_1, not with 103); no clock is ever told."""
        master, station = self._line.master(), self._place.station
        if task is Care.SET_CLOCK:
            await master.synchronise(station)
            return Cared("clock synchronisation confirmed")
        if task is Care.RESTART and self._line.protocol in RESTARTS:
            await master.restart(station)
            return Cared("reset process confirmed")
        raise NotOffered(
            f"{self._device_id}: a station of {self._line.protocol} has no {task.value}",
            message_zh=f"{self._device_id}:{self._line.protocol} 站没有 {task.value}",
        )

    def _raw(self, control: Iec60870Control, value: float | None) -> float:
        """Return the raw value of a set point.

        Raises:
            InvalidInput: No value, or one outside the device's limits.
        """
        low = control.min if control.min is not None else float("-inf")
        high = control.max if control.max is not None else float("inf")
        if value is None or not low <= value <= high:
            raise InvalidInput(
                f"{control.name} takes a value from {low:g} to {high:g}, not {value}",
                message_zh=f"{control.name} 的取值范围为 {low:g} 至 {high:g},收到 {value}",
            )
        point = self._points.get(control.read_back.points[0])
        scale, offset = (point.scale, point.offset) if point is not None else (1.0, 0.0)
        return (value - offset) / scale


class _Unheard:
    """A sink for a connection beside the holder's, who is told the same."""

    async def report(self, device_id: str, report: RawReport) -> None:
        pass

    async def reports(self, told: Sequence[tuple[str, RawReport]]) -> None:
        pass

    async def event(self, device_id: str, event: DeviceEvent) -> None:
        pass

    async def reject(self, reason: RejectReason, raw: bytes, detail: str, *, device_id: str | None = None) -> None:
        pass

    def up(self) -> None:
        pass

    def failed(self, device_id: str, reason: str) -> None:
        pass
