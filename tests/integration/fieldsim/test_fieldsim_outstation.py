"""The simulated telecontrol station, looked at by a master of lib60870 and by the platform's own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from libs.common.clock import SystemClock
from libs.common.contracts.registry import LineKind
from libs.common.profiles import ProfileCatalogue
from libs.fieldsim.breaker import Breaker
from libs.fieldsim.device import modbus_profile
from libs.fieldsim.electrical import Load, Mains
from libs.fieldsim.events import EventLog
from libs.fieldsim.faults import FaultBoard, Silent
from libs.fieldsim.outstation import Outstation, Station
from tests.integration.ingest.telling_field import eventually, telling_field
from tests.peers.processes import peer
from tests.unit.ingest.ingest_fakes import device, line

pytestmark = pytest.mark.integration

PROFILE = ProfileCatalogue.load().get("iec60870_breaker_example")


@asynccontextmanager
async def outstation(board: FaultBoard) -> AsyncIterator[Outstation]:
    clock = SystemClock()
    breaker = Breaker(
        "breaker-1", modbus_profile("lx47le_125"), load=Load("load", constant_kw=3.0, gain=0.0), mains=Mains(),
        faults=board, events=EventLog(), motor_delay_s=0.2,
    )  # fmt: skip
    found = Outstation({1: Station(breaker, PROFILE)}, clock=clock, faults=board, port=0, zone="UTC", look_s=0.02)
    await found.start()
    working = asyncio.create_task(found.run(), name="outstation")
    try:
        yield found
    finally:
        working.cancel()
        await asyncio.wait([working])
        await found.stop()


async def test_master_of_others_interrogates_switches_and_sees_it_move() -> None:
    async with outstation(FaultBoard()) as station, peer("iec104", "c104_master.py", str(station.port)) as master:
        assert await master.ask(interrogate=True)
        assert await master.ask(count=True)
        assert await master.ask(clock=True)
        values = await master.ask(values=True)
        assert values["1"] == 2
        assert 2.5 < values[str(0x4007)] < 3.5
        assert not await master.ask(command=0x6001, value=1, select=False)  # without a selection
        assert await master.ask(command=0x6001, value=1, select=True)
        assert station.commands == ["1 breaker_open"]
        async with asyncio.timeout(30):
            while not await master.ask(interrogate=True) or (await master.ask(values=True))["1"] != 1:  # noqa: ASYNC110  # the other process tells nobody
                await asyncio.sleep(0.05)
        assert await master.ask(read=1)


async def test_the_platforms_own_master_sees_changes_and_silence(tmp_path: Path) -> None:
    board = FaultBoard()
    the_device = device(id="breaker-1", kind="breaker", profile=PROFILE.name, address="1")
    async with outstation(board) as station:
        the_line = line(
            kind=LineKind.IEC104, endpoint=f"127.0.0.1:{station.port}",
            settings={"zone": "UTC", "interrogation_s": 0.5, "confirm_s": 0.3},
        )  # fmt: skip
        async with telling_field(tmp_path, the_line, {"breaker-1": (the_device, PROFILE)}) as field:
            await eventually(lambda: field.last("active_power_total"), "interrogation")
            assert field.last("breaker_state") == 1
            board.place("breaker-1", Silent(), SystemClock().now().timestamp())
            # The connection stands and nothing comes any more: it is made anew again and again.
            await eventually(lambda: station.accepted >= 3, "new connections")
