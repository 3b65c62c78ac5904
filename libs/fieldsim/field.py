"""A simulated field: loads, breakers and meters wired to each other, behind Modbus ports and other lines."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import TypeAdapter

from libs.common.clock import Clock
from libs.common.profiles import Protocol
from libs.fieldsim.breaker import Breaker
from libs.fieldsim.device import Device, modbus_profile, spoken_profile
from libs.fieldsim.electrical import HOUR_S, Load, Mains, Step
from libs.fieldsim.equipment import PowerEquipment
from libs.fieldsim.events import EventLog
from libs.fieldsim.faults import FaultBoard
from libs.fieldsim.fieldfile import DevicePart, FieldFile, LinePart
from libs.fieldsim.flow import FlowMeter
from libs.fieldsim.meter import Meter, RoomSensor
from libs.fieldsim.modbus import Framing, ModbusServer
from libs.fieldsim.plain import PlainDevice
from libs.fieldsim.state import StateFile
from libs.fieldsim.stream.cjt188 import Cjt188Face
from libs.fieldsim.stream.dlt645 import Dlt645Face
from libs.fieldsim.stream.rtu import RtuFace
from libs.fieldsim.stream.server import Face, StreamServer
from libs.fieldsim.stream.yd1363 import Yd1363Face

logger = logging.getLogger(__name__)

REFRESH_S = 0.2
"""One picture of a device's memory serves all requests of this time. [s]"""
SAVE_EVERY_S = 0.5
"""State is looked at this often and saved when something has happened. [s]"""

_STEPS: TypeAdapter[list[Step]] = TypeAdapter(list[Step])


class Field:
    """The devices of a field file and the ports they answer on.

    Args:
        file: What there is.
        clock: What the devices are asked at.
        state_path: Where breaker positions and energy that did not flow are kept; none: nowhere.
        ports: Ports by line id that win over those of the file.
        host: Where to listen.
        refresh_s: See ``Device``.
    """

    def __init__(
        self,
        file: FieldFile,
        *,
        clock: Clock,
        state_path: Path | None = None,
        ports: Mapping[str, int] | None = None,
        host: str = "127.0.0.1",
        refresh_s: float = REFRESH_S,
    ) -> None:
        self.file = file
        self.clock = clock
        self.faults = FaultBoard()
        self.events = EventLog()
        self._refresh_s = refresh_s
        self._state = None if state_path is None else StateFile(state_path)
        self._saved = 0
        self.loads = {
            part.id: Load(
                part.id,
                phases=part.phases,
                constant_kw=part.constant_kw,
                gain=part.gain,
                power_factor=part.power_factor,
                shift_s=part.shift_h * HOUR_S,
            )
            for part in file.loads
        }
        self._mains = {part.site: Mains(part.shift_h * HOUR_S) for part in file.mains}
        self.devices: dict[str, Device] = {part.id: self._device(part) for part in file.devices}
        self.servers = {
            part.id: self._server(part, host=host, port=(ports or {}).get(part.id, part.port)) for part in file.lines
        }

    @property
    def breakers(self) -> dict[str, Breaker]:
        """The breakers by id."""
        return {name: device for name, device in self.devices.items() if isinstance(device, Breaker)}

    @property
    def endpoints(self) -> dict[str, str]:
        """``host:port``, or the path of a terminal, by line id; real ports once started."""
        return {name: server.endpoint for name, server in self.servers.items()}

    async def start(self) -> None:
        """Take over the state of the last run, tell the story to the fault board and listen.

        Raises:
            InvalidFile: The state file cannot be used.
            OSError: A port is taken.
        """
        if self._state is not None:
            self.restore(await asyncio.to_thread(self._state.load))
        now_s = self.clock.now().timestamp()
        for happening in self.file.story:
            self.faults.place(happening.device, happening.fault, now_s)
        for server in self.servers.values():
            await server.start()

    async def stop(self) -> None:
        """Close the ports and save the state."""
        for server in self.servers.values():
            await server.stop()
        await self.save()

    async def keep_saving(self) -> None:
        """Save after every change, until cancelled."""
        while True:
            await self.clock.sleep(SAVE_EVERY_S)
            self.settle()
            await self.save()

    async def save(self) -> None:
        """Write the state file when something has happened since it was written."""
        happened = self.events.last
        if self._state is None or happened == self._saved:
            return
        await asyncio.to_thread(self._state.save, self.snapshot())
        self._saved = happened

    def settle(self) -> None:
        """Let every device come up to now, as somebody looking at it would."""
        now_s = self.clock.now().timestamp()
        for device in self.devices.values():
            device.settle(now_s)

    def snapshot(self) -> dict[str, dict[str, object]]:
        """Return what a later run has to know, JSON-ready."""
        return {
            "devices": {name: kept for name, device in self.devices.items() if (kept := device.snapshot())},
            "loads": {name: _STEPS.dump_python(list(load.steps()), mode="json") for name, load in self.loads.items()},
        }

    def restore(self, kept: Mapping[str, Mapping[str, object]]) -> None:
        """Take over what an earlier run knew about devices and loads that still exist."""
        for name, device_state in kept.get("devices", {}).items():
            if name in self.devices and isinstance(device_state, dict):
                self.devices[name].restore(device_state)
        for name, steps in kept.get("loads", {}).items():
            if name in self.loads:
                self.loads[name].restore(_STEPS.validate_python(steps))

    def _server(self, part: LinePart, *, host: str, port: int) -> ModbusServer | StreamServer:
        devices = [device for device in self.file.devices if device.line == part.id]
        if part.framing is Framing.STREAM:
            return StreamServer(
                [self._face(device) for device in devices],
                clock=self.clock,
                faults=self.faults,
                host=host,
                port=port,
                pty=part.pty,
                pace_s=part.pace_s,
            )
        for device in devices:
            modbus_profile(device.profile)  # says what is wrong with any other
        return ModbusServer(
            {device.unit: self.devices[device.id] for device in devices if device.unit is not None},
            clock=self.clock,
            faults=self.faults,
            host=host,
            port=port,
            framing=part.framing,
            absent=part.absent,
            pace_s=part.pace_s,
        )

    def _face(self, part: DevicePart) -> Face:
        """Return how a device looks on a line of several protocols."""
        device = self.devices[part.id]
        match device.profile.protocol:
            case Protocol.DLT645:
                dlt645 = Dlt645Face(
                    device,
                    address=part.place,
                    password=part.password,
                    blocks=part.blocks,
                    clock_offset_s=part.clock_offset_s,
                )
                device.shows = dlt645.shown
                return dlt645
            case Protocol.CJT188:
                face: Face = Cjt188Face(device, address=part.place)
            case Protocol.YD1363:
                face = Yd1363Face(device, address=part.place, counts=part.counts, clock_offset_s=part.clock_offset_s)
            case _:
                return RtuFace(device, unit=-1 if part.unit is None else part.unit)
        device.shows = face.shown
        return face

    def _device(self, part: DevicePart) -> Device:
        profile = spoken_profile(part.profile)
        mains = self._mains.get(part.site, Mains())
        loads = [self.loads[name] for name in part.loads]
        if profile.protocol is Protocol.CJT188:
            return FlowMeter(
                part.id,
                profile,
                loads=loads,
                installed_at=part.installed_at,
                faults=self.faults,
                events=self.events,
            )
        if profile.protocol is Protocol.YD1363 and profile.category not in ("env_sensor", "ac_panel"):
            return PowerEquipment(
                part.id, profile, values=part.values, loads=loads, faults=self.faults, events=self.events
            )
        if profile.category.startswith("meter") or profile.category == "ac_panel":
            return Meter(
                part.id,
                profile,
                loads=loads,
                mains=mains,
                installed_at=part.installed_at,
                initial_kwh=part.initial_kwh,
                faults=self.faults,
                events=self.events,
                ct_ratio=part.ct_ratio,
                pt_ratio=part.pt_ratio,
                refresh_s=self._refresh_s,
                gap_registers=part.gap_registers,
            )
        if profile.category == "breaker":
            return Breaker(
                part.id,
                profile,
                load=_only(loads, part.id),
                mains=mains,
                faults=self.faults,
                events=self.events,
                poles=part.poles,
                motor_delay_s=part.motor_delay_s,
                refresh_s=self._refresh_s,
                installed_at=part.installed_at,
            )
        if profile.category == "env_sensor":
            return RoomSensor(
                part.id,
                profile,
                faults=self.faults,
                events=self.events,
                room_degc=part.room_degc,
                refresh_s=self._refresh_s,
            )
        return PlainDevice(
            part.id,
            profile,
            values=part.values,
            faults=self.faults,
            events=self.events,
            refresh_s=self._refresh_s,
        )


def _only(loads: Sequence[Load], device_id: str) -> Load | None:
    if len(loads) > 1:
        raise ValueError(f"breaker {device_id} feeds {len(loads)} loads, it can feed one")
    return loads[0] if loads else None
