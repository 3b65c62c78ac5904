"""Codes of the bus, provoked at simulated meters that are polled by ingest: from the fault on the wire to the code."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from libs.common.clock import SystemClock
from libs.common.contracts.device import Connectivity, DeviceStatus
from libs.common.profiles import DeviceProfile, parse_profile
from libs.fieldsim.device import Device
from libs.fieldsim.events import EventLog
from libs.fieldsim.faults import FaultBoard, parse_order
from libs.fieldsim.modbus import ModbusServer
from services.ingest.domain.acceptance import Limits
from services.ingest.drivers.factory import open_line
from services.ingest.drivers.modbus_tcp import ModbusTcpLine
from services.ingest.settings import PollingSettings
from services.ingest.spool import Spool
from services.ingest.store.status import status_message
from services.ingest.usecases.acceptor import Acceptor
from services.ingest.usecases.status import StatusBoard
from services.ingest.worker.line import LineRunner
from tests.integration.alarm.diagnosis_world import Field, field_of
from tests.unit.ingest.ingest_fakes import MEANS, FakeBus, device, line
from tests.unit.ingest.test_ingest_line import FakeStatusStore, Watch

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

POLLING = PollingSettings(interval_s=1.0, response_timeout_s=0.5, quiet_s=0.1, retries=0)
PROFILE = parse_profile(
    """
schema: device-profile/1
vendor: Test
vendor_zh: 测试
model: Test
category: meter_3p
protocol: modbus
transports: [tcp]
address_base: 0
byte_order: big
word_order: big
max_registers_per_read: 60
confidence: high
side: primary
points:
  - {name: voltage_a, area: holding, addr: 0, type: uint16, scale: 0.1, unit: V}
source: [made for this test]
""",
    name="test",
    source="test.yaml",
)
FAULTS: Mapping[str, Mapping[str, str | None]] = {
    "bus": {"m-1": "silent", "m-2": None, "m-3": "exception:code=2", "m-4": "garbage:shape=wrong_function"},
    "quiet": {"q-1": "silent", "q-2": "silent"},
    "gone": {"g-1": None, "g-2": None},
}
"""Line to device to what is wrong with it; behind the line ``gone`` nobody listens."""
CODES = {"m-1": "22", "m-3": "25", "m-4": "25", "q-1": "30", "q-2": "30", "g-1": "17", "g-2": "17"}


class Steady(Device):
    """A meter that shows the same for ever."""

    def __init__(self, device_id: str, profile: DeviceProfile, faults: FaultBoard) -> None:
        super().__init__(device_id, profile, names=("voltage_a",), faults=faults, events=EventLog())

    def values(self, time_s: float) -> Mapping[str, float]:
        return {"voltage_a": 230.1}


@pytest.fixture
async def field(postgres_url: str, tmp_path: Path) -> AsyncIterator[Field]:
    async with field_of(postgres_url, tmp_path) as made:
        yield made


class Ingest:
    """Polls simulated meters line by line, and says what it makes of them."""

    def __init__(self, spool: Spool, stack: AsyncExitStack) -> None:
        self.board = FaultBoard()
        self.clock = SystemClock()
        self.store = FakeStatusStore()
        self.watch = Watch()
        self.status = StatusBoard(self.store, self.clock, offline_after_missed=3)
        self.acceptor = Acceptor(bus=FakeBus(), spool=spool, clock=self.clock, limits=Limits(), watch=self.watch)
        self.acceptor.on_live(self.status.heard)
        self._stack = stack

    async def begin(self, line_id: str, names: Sequence[str]) -> ModbusServer:
        """Start the meters of a line, and poll them."""
        meters = {number: Steady(name, PROFILE, self.board) for number, name in enumerate(names, start=1)}
        server = ModbusServer(meters, clock=self.clock, faults=self.board)
        await server.start()
        self._stack.push_async_callback(server.stop)
        of_line = line(id=line_id, endpoint=server.endpoint)
        driver = open_line(of_line, self.clock, POLLING, MEANS)
        assert isinstance(driver, ModbusTcpLine)
        runner = LineRunner(
            line=of_line,
            driver=driver,
            acceptor=self.acceptor,
            status=self.status,
            findings=self.watch,
            clock=self.clock,
            settings=POLLING,
        )
        runner.update({
            name: (device(id=name, line=line_id, address=str(number), kind="meter_3p", profile="test"), PROFILE)
            for number, name in enumerate(names, start=1)
        })  # fmt: skip
        running = asyncio.create_task(runner.run(), name=f"line {line_id}")
        self._stack.push_async_callback(ended, running)
        return server

    async def until(self, wanted: Mapping[str, Connectivity]) -> None:
        """Wait until the devices are told to be so, all at the same time."""
        async with asyncio.timeout(40):
            while {name: row.connectivity for name, row in self.store.rows.items()} != wanted:
                await self.status.scan()
                await asyncio.sleep(0.05)


async def ended(running: asyncio.Task[None]) -> None:
    running.cancel()
    await asyncio.wait([running])


async def test_from_the_fault_on_the_wire_to_the_code(field: Field, tmp_path: Path) -> None:
    names = [name for faults in FAULTS.values() for name in faults]
    (tmp_path / "spool").mkdir()
    async with (
        Spool(tmp_path / "spool", max_bytes=1 << 20, wall=lambda: SystemClock().now().timestamp()) as spool,
        AsyncExitStack() as stack,
    ):
        ingest = Ingest(spool, stack)
        servers = {line_id: await ingest.begin(line_id, list(faults)) for line_id, faults in FAULTS.items()}
        await ingest.until(dict.fromkeys(names, Connectivity.ONLINE))  # one that was never heard is not silent
        for faults in FAULTS.values():
            for name, order in faults.items():
                if order is not None:
                    ingest.board.place(name, parse_order(order), ingest.clock.now().timestamp())
        await servers["gone"].stop()
        await ingest.until({
            name: Connectivity.OFFLINE if name in CODES else Connectivity.ONLINE for name in names
        })  # fmt: skip
        told = [DeviceStatus.from_json(status_message(row).value or b"") for row in ingest.store.rows.values()]
    for line_id, faults in FAULTS.items():
        for name in faults:
            field.registry.add(name, line=line_id)
    await field.tell(*told)
    await field.clock.advance(60)
    await field.look()
    assert {device_id: code for _, device_id, code in await field.causes()} == CODES
