"""Simulators that are asked: each answer has a number of its own, written down when it is given.

Modbus TCP, Modbus through a data terminal that dials in, DL/T 645 and IEC 60870-5-104.
"""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from libs.common.clock import Clock
from libs.common.profiles import DeviceProfile, load_profile
from libs.fieldsim.device import Device
from libs.fieldsim.dtu import Dialling, Terminal
from libs.fieldsim.events import EventLog
from libs.fieldsim.faults import FaultBoard
from libs.fieldsim.modbus import Framing, ModbusServer
from libs.fieldsim.outstation import Outstation, Station
from libs.fieldsim.registers import Image
from libs.fieldsim.stream.dlt645 import READ, Dlt645Face
from libs.fieldsim.stream.server import StreamServer
from libs.suite.soak.journal import COUNTER, Answer, Entry, Journal, counter_kwh, voltage_of

TCP, TERMINAL, METER_645, STATION = "soak-modbus", "soak-dtu", "soak-645", "soak-104"
SERVED = (TCP, TERMINAL, METER_645, STATION)
REGISTRATION = "SOAK-DTU-0001"
REDIAL_S = 0.5
ADDRESS_645 = "000000000645"
ENERGY_ITEMS = frozenset({0x00010000, 0x0001FF00})
"""The item of the energy, and the block that it stands in."""


def profile_folder() -> Path:
    """Return the folder of the profiles that only a soak has."""
    return Path(str(resources.files("libs.suite") / "data" / "soak"))


def soak_profile(name: str) -> DeviceProfile:
    """Return one of them."""
    return load_profile(profile_folder() / f"{name}.yaml")


class CountingMeter(Device):
    """A meter whose counter goes on by one with each answer."""

    def __init__(self, device_id: str, profile: DeviceProfile, journal: Journal, faults: FaultBoard) -> None:
        names = tuple(soak_profile("soak_modbus").points)
        super().__init__(device_id, profile, names=names, faults=faults, events=EventLog())
        self._journal = journal
        self._number = 0

    def step(self, now_s: float) -> None:
        """Go on by one, and write down that this is answered now."""
        self._number = number = self._journal.number(self.device_id)
        shown = [name for name in self.values(now_s) if name in self.profile.points]
        self._journal.add(
            Entry(
                self.device_id,
                number,
                datetime.fromtimestamp(now_s, UTC),
                {name: value for name, value in self.values(now_s).items() if name in shown},
                served=True,
                answer=Answer.ACCEPTED,
            )
        )

    def values(self, time_s: float) -> Mapping[str, float]:
        """Return what it shows."""
        return {COUNTER: counter_kwh(self._number), "voltage_a": voltage_of(self._number)}

    def image(self, now_s: float) -> Image:
        """Return its registers, as the next answer."""
        self.step(now_s)
        return super().image(now_s)


class CountingFace(Dlt645Face):
    """The same in DL/T 645: only who asks for the energy gets a number."""

    def answer(self, frame: bytes, now_s: float) -> bytes | None:
        """Answer a request."""
        item = int.from_bytes(bytes((byte - 0x33) & 0xFF for byte in frame[10:14]), "little")
        if frame[8] & 0x1F == READ and item in ENERGY_ITEMS and isinstance(self.device, CountingMeter):
            self.device.step(now_s)
        return super().answer(frame, now_s)


class CountingStation(Outstation):
    """A station whose counter goes on with each interrogation."""

    def _everything(self, address: int, station: Station, cause: Any, *, counters: bool) -> Iterator[Any]:
        if not counters and isinstance(station.device, CountingMeter):
            station.device.step(self.clock.now().timestamp())
        yield from super()._everything(address, station, cause, counters=counters)


class ServedField:
    """The devices that are asked."""

    def __init__(self, journal: Journal, clock: Clock, terminals: tuple[str, int]) -> None:
        """Prepare; ``terminals`` is where data terminals dial to."""
        faults = FaultBoard()

        def meter(device_id: str, profile: str) -> CountingMeter:
            return CountingMeter(device_id, soak_profile(profile), journal, faults)

        self._clock = clock
        self._modbus = ModbusServer({1: meter(TCP, "soak_modbus")}, clock=clock, faults=faults)
        self._pair = ModbusServer({1: meter(TERMINAL, "soak_modbus")}, clock=clock, faults=faults, framing=Framing.RTU)
        face = CountingFace(meter(METER_645, "soak_dlt645"), address=ADDRESS_645, password="000000")  # noqa: S106 - nothing is switched
        self._meters = StreamServer([face], clock=clock, faults=faults)
        station = Station(meter(STATION, "soak_modbus"), soak_profile("soak_iec104"))
        self._station = CountingStation({1: station}, clock=clock, faults=faults, port=0)
        self._terminals = terminals
        self._dialling: Dialling | None = None
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Listen."""
        for server in (self._modbus, self._pair, self._meters, self._station):
            await server.start()
            self._stack.push_async_callback(server.stop)

    def dial(self) -> None:
        """Let the terminals dial; before their lines are known they would only be refused."""
        if self._dialling is not None:
            return
        terminal = Terminal(
            server=self._terminals,
            registration=REGISTRATION.encode(),
            slave=(self._pair.host, self._pair.port),
            redial_s=REDIAL_S,
        )
        self._dialling = Dialling([terminal], clock=self._clock)
        self._stack.push_async_callback(_ended, asyncio.create_task(self._dialling.run(), name="soak terminals"))

    async def stop(self) -> None:
        """Answer nobody any more; may be called again."""
        await self._stack.aclose()

    def registry(self, period_s: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return their lines and devices, as a registry file has them."""
        patient = {"timeout_s": 5}
        lines = [
            {"id": "l-modbus", "kind": "tcp", "endpoint": self._modbus.endpoint, "settings": patient},
            {"id": "l-dtu", "kind": "dtu", "endpoint": REGISTRATION, "settings": {**patient, "quiet_s": 0.5}},
            {"id": "l-645", "kind": "rtu_over_tcp", "endpoint": self._meters.endpoint, "settings": patient},
            {"id": "l-104", "kind": "iec104", "endpoint": f"{self._station.host}:{self._station.port}",
             "settings": {"interrogation_s": period_s}},
        ]  # fmt: skip
        devices = [
            {"id": TCP, "line": "l-modbus", "profile": "soak_modbus", "address": "1"},
            {"id": TERMINAL, "line": "l-dtu", "profile": "soak_modbus", "address": "1"},
            {"id": METER_645, "line": "l-645", "profile": "soak_dlt645", "address": ADDRESS_645},
            {"id": STATION, "line": "l-104", "profile": "soak_iec104", "address": "1"},
        ]
        return lines, devices

    def cut_lines(self) -> None:
        """Reset every connection that we were called on."""
        for called in tuple(self._modbus.connections):
            called.abort()
        for connection in tuple(self._meters.connections):
            connection.abort()
        self._station.hang_up()

    def hang_up(self) -> None:
        """End the connections of the terminals; they dial again."""
        if self._dialling is not None:
            self._dialling.hang_up()


async def _ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task])
