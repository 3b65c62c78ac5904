"""Serial lines on pseudo terminals, with a slave of modbus-tk at the other end of the pair."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from libs.common.clock import SystemClock
from libs.common.contracts.registry import Line, LineKind
from libs.common.errors import InvalidInput
from libs.common.profiles import ProfileCatalogue
from services.ingest.drivers.factory import open_line
from services.ingest.drivers.port import Address, DeviceSession, DeviceSilent, LineDown, LineDriver
from services.ingest.settings import PollingSettings
from tests.conftest import ROOT
from tests.peers.environments import peer_python
from tests.peers.terminals import pair
from tests.unit.ingest.ingest_fakes import MEANS

pytestmark = pytest.mark.integration

METER = ProfileCatalogue.load().get("chint_dtsu666")
RELAYS = ProfileCatalogue.load().get("waveshare_modbus_rtu_relay8")


class Slave:
    """Units on the far end of a pair."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def set(self, unit: int, start: int, values: list[int], area: str = "holding") -> None:
        await self._ask({"unit": unit, "start": start, "set": values, "area": area})

    async def get(self, unit: int, start: int, count: int, area: str = "holding") -> list[int]:
        found: list[int] = await self._ask({"unit": unit, "start": start, "get": count, "area": area})
        return found

    async def _ask(self, order: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(orjson.dumps(order) + b"\n")
        async with asyncio.timeout(60):
            return orjson.loads(await self._process.stdout.readline())


@asynccontextmanager
async def slave_on(port: str) -> AsyncIterator[Slave]:
    process = await asyncio.create_subprocess_exec(
        peer_python("modbus"), ROOT / "tests" / "peers" / "modbus_tk_slave.py", port, "115200",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"ready\n"
        yield Slave(process)
    finally:
        process.kill()
        await process.wait()


def opened(port: str, **settings: bool | int | float | str) -> LineDriver:
    line = Line(
        id="line-1", name="Line", valid_from=datetime(2026, 1, 1, tzinfo=UTC), version=1, changed_by="user:test",
        kind=LineKind.SERIAL, endpoint=port, settings={"baud": 115200, **settings},
    )  # fmt: skip
    return open_line(line, SystemClock(), PollingSettings(), MEANS)


def meter(line: LineDriver, unit: int) -> DeviceSession:
    return line.session(Address(f"meter-{unit}", str(unit), METER))


async def test_units_on_one_pair_are_read_and_a_dead_one_costs_only_its_time(tmp_path: Path) -> None:
    async with pair(tmp_path) as (ours, theirs), slave_on(theirs) as slave:
        for unit in (1, 7):
            await slave.set(unit, 0x0006, [unit * 10, 1])
            await slave.set(unit, 0x2006, [0x450F, 0xE000])  # 2302.0 as ABCD, order 0
        line = opened(ours, timeout_s=1)
        alive, dead = [meter(line, 1), meter(line, 7)], meter(line, 3)
        for _ in range(2):
            for unit, device in zip((1, 7), alive, strict=True):
                found = await device.read()
                assert found.raw["voltage_a"] == 2302.0
                assert (await device.read_points(["ct_ratio"])).raw == {"ct_ratio": unit * 10}
            with pytest.raises(DeviceSilent):
                await dead.read()
        await line.close()


async def test_relay_is_switched_on_a_serial_line(tmp_path: Path) -> None:
    async with pair(tmp_path) as (ours, theirs), slave_on(theirs) as slave:
        await slave.set(1, 0, [0, 1], "coil")
        line = opened(ours, timeout_s=5)
        relays = line.session(Address("relays", "1", RELAYS))
        await relays.write(RELAYS.controls["relay_1_close"], None)
        await relays.write(RELAYS.controls["relay_2_open"], None)
        assert await slave.get(1, 0, 2, "coil") == [1, 0]
        await line.close()


async def test_port_that_goes_and_comes_back_is_found_again(tmp_path: Path) -> None:
    line = opened(str(tmp_path / "ttyA"), timeout_s=5)
    device = meter(line, 1)
    with pytest.raises(LineDown, match="ttyA"):
        await device.read()
    for _ in range(2):
        async with pair(tmp_path) as (_, theirs), slave_on(theirs) as slave:
            await slave.set(1, 0x0006, [20, 1])
            assert (await device.read_points(["ct_ratio"])).raw == {"ct_ratio": 20}
        with pytest.raises((LineDown, DeviceSilent)):
            await device.read()
    await line.close()


async def test_port_belongs_to_one_line(tmp_path: Path) -> None:
    async with pair(tmp_path) as (ours, theirs), slave_on(theirs) as slave:
        await slave.set(1, 0x0006, [20, 1])
        first, second = opened(ours, timeout_s=5), opened(ours, timeout_s=5)
        assert (await meter(first, 1).read_points(["ct_ratio"])).raw == {"ct_ratio": 20}
        with pytest.raises(LineDown, match="lock"):
            await meter(second, 1).read()
        await first.close()
        assert (await meter(second, 1).read_points(["ct_ratio"])).raw == {"ct_ratio": 20}
        await second.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [("baud", 5), ("baud", "9600"), ("data", 9), ("parity", "even"), ("stop", 3), ("stop", True), ("quiet_s", 0)],
)
def test_setting_of_a_port_that_cannot_be_is_named(name: str, value: int | str) -> None:
    with pytest.raises(InvalidInput, match=rf"line-1: settings\.{name}: expected"):
        opened("/dev/ttyS9", **{name: value})


def test_unit_that_everybody_would_obey_is_refused() -> None:
    """0 is the broadcast of RTU: a write to it would switch every device on the pair."""
    for address in ("0", "248", "x"):
        with pytest.raises(InvalidInput, match="1 to 247"):
            opened("/dev/ttyS9").session(Address("d", address, RELAYS))
