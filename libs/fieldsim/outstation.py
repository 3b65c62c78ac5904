"""A telecontrol station of IEC 60870-5-104 in front of simulated devices.

Each device is a station of its own, by its common address. It is interrogated, tells changes by itself (states with a
time tag and at once, measurements when they have moved by more than a deadband), counts, and takes commands with
or without selection. Written on hat-drivers' slave side; the platform's master is tried against another station too.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from hat.drivers import iec104, net

from libs.common.clock import Clock
from libs.common.errors import InvalidInput
from libs.common.profiles import (
    Control,
    DeviceProfile,
    Iec60870Control,
    Iec60870Point,
    ModbusControl,
    ObjectType,
    ProfileCatalogue,
    Protocol,
    load_profile,
)
from libs.common.settings import load_common
from libs.fieldsim.device import Device, RefusedRequest
from libs.fieldsim.faults import Drop, FaultBoard, IgnoresCommands, Silent

logger = logging.getLogger(__name__)

LOOK_S = 0.1
"""How often changes are looked for. [s]"""
DEADBAND_SHARE = 0.01
"""A measurement is told when it has moved by this part of itself; steps of ``DEADBAND`` at least."""
DEADBAND = 0.05
SELECTED_FOR_S = 10.0

Cause = iec104.DataResCause


@dataclass(slots=True)
class Station:
    """One device as a station."""

    device: Device
    profile: DeviceProfile
    """How it looks to a master; the device itself has a Modbus one."""
    told: dict[str, int | float] = field(default_factory=dict)
    """Raw value per point as it was last told."""
    selected: dict[int, float] = field(default_factory=dict)
    """Until when an object is selected. [s]"""

    @property
    def points(self) -> list[Iec60870Point]:
        """The information objects that it has."""
        return [point for point in self.profile.iec60870_points() if point.copy_of is None]

    def raw(self, now_s: float) -> dict[str, int | float]:
        """Return the raw value of every object; what the device knows nothing of is 0."""
        self.device.settle(now_s)
        values = self.device.values(now_s)
        return {point.name: _raw(point, values.get(point.name, 0.0)) for point in self.points}


class Outstation:
    """Stations behind one port.

    Args:
        stations: By common address.
        clock: What the devices are asked at.
        faults: Looked at before every answer: silent, drop, ignore_command.
        host: Where to listen.
        port: 0: a free one, see ``port`` after ``start``.
        zone: What the stations' clocks are set to.
        look_s: How often changes are looked for. [s]
    """

    def __init__(
        self,
        stations: Mapping[int, Station],
        *,
        clock: Clock,
        faults: FaultBoard,
        host: str = "127.0.0.1",
        port: int = 2404,
        zone: str = "Asia/Shanghai",
        look_s: float = LOOK_S,
    ) -> None:
        self.stations = dict(stations)
        self.clock = clock
        self.host = host
        self.port = port
        self.commands: list[str] = []
        """Executed, in words."""
        self.clocks: dict[int, Any] = {}
        """What the stations' clocks were last set to."""
        self.restarts = 0
        self.accepted = 0
        """Connections so far."""
        self._faults = faults
        self._zone = ZoneInfo(zone)
        self._look_s = look_s
        self._server: net.Server | None = None
        self._masters: set[iec104.Connection] = set()

    async def start(self) -> None:
        """Listen. Raises ``OSError``."""
        self._server = await iec104.listen(self._serve, net.TcpAddress(self.host, self.port))
        self.port = self._server.info.addresses[0].port

    async def stop(self) -> None:
        """Stop listening and end every connection."""
        server, self._server = self._server, None
        if server is not None:
            await server.async_close()

    def hang_up(self) -> None:
        """End every connection; masters connect again."""
        for master in tuple(self._masters):
            master.close()

    async def run(self) -> None:
        """Tell changes, until cancelled."""
        while True:
            await self.clock.sleep(self._look_s)
            for address, station in self.stations.items():
                if self._active(station, Silent):
                    continue
                changed = list(self._changes(address, station))
                for master in tuple(self._masters):
                    if changed and master.is_enabled:
                        with suppress(ConnectionError):
                            await master.send(changed)

    async def _serve(self, master: iec104.Connection) -> None:
        self.accepted += 1
        self._masters.add(master)
        master.async_group.spawn(self._listen, master)

    async def _listen(self, master: iec104.Connection) -> None:
        try:
            while True:
                for message in await master.receive():
                    station = self.stations.get(message.asdu_address)
                    if station is not None and self._active(station, Silent):
                        continue
                    if station is not None and self._active(station, Drop):
                        return
                    answers = list(self._answers(message, station))
                    if answers:
                        await master.send(answers)
                    if isinstance(message, iec104.ResetMsg) and station is not None:
                        await master.drain()
                        self._restart()
                        return
        except ConnectionError:
            pass
        finally:
            self._masters.discard(master)
            master.close()

    def _answers(self, message: Any, station: Station | None) -> Iterator[Any]:
        """Yield what one message is answered with."""
        if isinstance(message, iec104.InterrogationMsg | iec104.CounterInterrogationMsg | iec104.ClockSyncMsg):
            if station is None:
                yield _answer(message, iec104.CommandResCause.UNKNOWN_ASDU_ADDRESS, negative=True)
                return
            yield _answer(message, iec104.CommandResCause.ACTIVATION_CONFIRMATION)
            if isinstance(message, iec104.ClockSyncMsg):
                self.clocks[message.asdu_address] = message.time
                return
            counters = isinstance(message, iec104.CounterInterrogationMsg)
            cause = Cause.INTERROGATED_COUNTER if counters else Cause.INTERROGATED_STATION
            yield from self._everything(message.asdu_address, station, cause, counters=counters)
            yield _answer(message, iec104.CommandResCause.ACTIVATION_TERMINATION)
        elif isinstance(message, iec104.ResetMsg):
            cause = "UNKNOWN_ASDU_ADDRESS" if station is None else "ACTIVATION_CONFIRMATION"
            yield message._replace(cause=iec104.ActivationResCause[cause])
        elif isinstance(message, iec104.ReadMsg):
            yield self._read(message, station)
        elif isinstance(message, iec104.CommandMsg):
            yield from self._command(message, station)

    def _restart(self) -> None:
        """Begin anew: connections end, and what was told and selected is forgotten."""
        self.restarts += 1
        for station in self.stations.values():
            station.told.clear()
            station.selected.clear()
        self.hang_up()

    def _everything(self, address: int, station: Station, cause: Any, *, counters: bool) -> Iterator[Any]:
        raw = station.raw(self._now_s())
        for point in station.points:
            if (point.type is ObjectType.COUNTER) == counters:
                station.told[point.name] = raw[point.name]
                yield self._data(address, point, raw[point.name], cause)

    def _changes(self, address: int, station: Station) -> Iterator[Any]:
        raw = station.raw(self._now_s())
        for point in station.points:
            now, before = raw[point.name], station.told.get(point.name)
            if point.type is ObjectType.COUNTER or before is None:
                station.told.setdefault(point.name, now)
                continue
            state = point.type in (ObjectType.SINGLE, ObjectType.DOUBLE)
            if now != before if state else abs(now - before) > max(abs(before) * DEADBAND_SHARE, DEADBAND):
                station.told[point.name] = now
                yield self._data(address, point, now, Cause.SPONTANEOUS, timed=state)

    def _read(self, message: iec104.ReadMsg, station: Station | None) -> Any:
        points = [] if station is None else [p for p in station.points if p.object_address == message.io_address]
        if station is None or not points:
            return message._replace(cause=iec104.ReadResCause.UNKNOWN_IO_ADDRESS)
        raw = station.raw(self._now_s())[points[0].name]
        return self._data(message.asdu_address, points[0], raw, Cause.REQUEST)

    def _command(self, message: iec104.CommandMsg, station: Station | None) -> Iterator[Any]:
        control = None if station is None else _control(station.profile, message)
        if station is None or control is None or message.cause != iec104.CommandReqCause.ACTIVATION:
            yield message._replace(cause=iec104.CommandResCause.UNKNOWN_IO_ADDRESS, is_negative_confirm=True)
            return
        now_s = self._now_s()
        confirmed = message._replace(cause=iec104.CommandResCause.ACTIVATION_CONFIRMATION)
        if message.command.select:
            station.selected[message.io_address] = now_s + SELECTED_FOR_S
            yield confirmed
            return
        selected = station.selected.pop(message.io_address, 0.0) >= now_s
        if control.select != selected or not self._done(station, control, now_s):
            yield confirmed._replace(is_negative_confirm=True)
            return
        self.commands.append(f"{message.asdu_address} {control.name}")
        yield confirmed
        if control.termination:
            yield message._replace(cause=iec104.CommandResCause.ACTIVATION_TERMINATION)

    def _done(self, station: Station, control: Control, now_s: float) -> bool:
        """Let the device do a control of the same name in its own profile; return whether it takes it."""
        own = station.device.profile.controls.get(control.name)
        if not isinstance(own, ModbusControl) or own.value is None:
            return False
        if self._active(station, IgnoresCommands):
            return True
        try:
            station.device.write(own.area, own.address, [own.value], now_s)
        except RefusedRequest:
            return False
        return True

    def _data(self, address: int, point: Iec60870Point, raw: int | float, cause: Any, *, timed: bool = False) -> Any:
        return iec104.DataMsg(
            is_test=False,
            originator_address=0,
            asdu_address=address,
            io_address=point.object_address,
            data=_DATA[point.type](raw),
            time=self._time(self.clock.now()) if timed else None,
            cause=cause,
        )

    def _time(self, when: datetime) -> iec104.Time:
        local = when.astimezone(self._zone)
        return iec104.Time(
            size=iec104.TimeSize.SEVEN,
            milliseconds=local.second * 1000 + local.microsecond // 1000,
            invalid=False,
            substituted=False,
            minutes=local.minute,
            summer_time=bool(local.dst()),
            hours=local.hour,
            day_of_week=local.isoweekday(),
            day_of_month=local.day,
            months=local.month,
            years=local.year % 100,
        )

    def _active(self, station: Station, kind: type[Silent] | type[Drop] | type[IgnoresCommands]) -> bool:
        return self._faults.active(station.device.device_id, kind, self._now_s()) is not None

    def _now_s(self) -> float:
        return self.clock.now().astimezone(UTC).timestamp()


def station_profile(name: str) -> DeviceProfile:
    """Return a shipped profile of IEC 60870-5 by name, or one from a YAML file by path.

    Raises:
        NotFound: There is no such profile.
        InvalidInput: It is for another protocol, or the file is wrong.
    """
    file = name.endswith((".yaml", ".yml"))
    profile = load_profile(Path(name)) if file else ProfileCatalogue.load(load_common().profile_dirs).get(name)
    if profile.protocol is not Protocol.IEC60870_5:
        raise InvalidInput(
            f"profile {name} is for {profile.protocol}, a station speaks {Protocol.IEC60870_5}",
            message_zh=f"设备模板 {name} 的协议为 {profile.protocol}，厂站只支持 {Protocol.IEC60870_5}",
        )
    return profile


_GOOD = iec104.MeasurementQuality(False, False, False, False, False)
_GOOD_STATE = iec104.IndicationQuality(False, False, False, False)
_DATA: Mapping[ObjectType, Callable[[Any], Any]] = {
    ObjectType.SINGLE: lambda raw: iec104.SingleData(iec104.SingleValue(int(raw)), _GOOD_STATE),
    ObjectType.DOUBLE: lambda raw: iec104.DoubleData(iec104.DoubleValue(int(raw)), _GOOD_STATE),
    ObjectType.STEP: lambda raw: iec104.StepPositionData(iec104.StepPositionValue(int(raw), transient=False), _GOOD),
    ObjectType.BITSTRING: lambda raw: iec104.BitstringData(
        iec104.BitstringValue(int(raw).to_bytes(4, "little")), _GOOD
    ),
    ObjectType.NORMALISED: lambda raw: iec104.NormalizedData(iec104.NormalizedValue(raw), _GOOD),
    ObjectType.SCALED: lambda raw: iec104.ScaledData(iec104.ScaledValue(round(raw)), _GOOD),
    ObjectType.FLOAT: lambda raw: iec104.FloatingData(iec104.FloatingValue(raw), _GOOD),
    ObjectType.COUNTER: lambda raw: iec104.BinaryCounterData(
        iec104.BinaryCounterValue(round(raw) % (1 << 31)), iec104.CounterQuality(False, False, False, 0)
    ),
}


def _raw(point: Iec60870Point, value: float) -> int | float:
    """Return what an object holds for a canonical value."""
    if point.value_map is not None:
        return next((raw for raw, mapped in point.value_map.items() if mapped == value), 0)
    raw = (value - point.offset) / point.scale
    if point.type is ObjectType.NORMALISED:
        return min(max(raw, -1.0), 1.0)
    return round(raw) if point.type.is_whole else raw


def _control(profile: DeviceProfile, message: iec104.CommandMsg) -> Iec60870Control | None:
    """Return the control that a command is; None where the station has none."""
    value = getattr(message.command.value, "value", None)
    for control in profile.controls.values():
        if isinstance(control, Iec60870Control) and control.object_address == message.io_address:
            expects = {ObjectType.SINGLE: iec104.SingleCommand, ObjectType.DOUBLE: iec104.DoubleCommand}
            if control.value == value and isinstance(message.command, expects.get(control.type, ())):
                return control
    return None


def _answer(message: Any, cause: Any, *, negative: bool = False) -> Any:
    if isinstance(message, iec104.ClockSyncMsg):
        cause = iec104.ClockSyncResCause(cause.value)
    return message._replace(cause=cause, is_negative_confirm=negative)
