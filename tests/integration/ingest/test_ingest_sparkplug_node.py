"""Sparkplug B with a node of pysparkplug behind mosquitto: births, data, commands, a node that is killed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from libs.common.clock import SystemClock
from libs.common.contracts.telemetry import Quality
from libs.common.errors import InvalidInput
from libs.common.profiles import ProfileCatalogue
from services.ingest.drivers.mqtt import MqttLine
from services.ingest.drivers.mqtt_link import Broker
from services.ingest.drivers.port import Address
from tests.conftest import ROOT
from tests.peers.environments import peer_python
from tests.peers.mosquitto import Mosquitto
from tests.unit.ingest.telling_world import FakeSink, told_by

pytestmark = pytest.mark.integration

METER = ProfileCatalogue.load().get("example_sparkplug_meter")
DEVICE = Address("meter-1", "plant/gateway/m1", METER)
ONE = {"meter-1": DEVICE}


class PeerNode:
    """A node in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def do(self, **order: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(orjson.dumps(order) + b"\n")
        assert await self._line() == b"done\n"

    async def _line(self) -> bytes:
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            return await self.process.stdout.readline()


@asynccontextmanager
async def node(broker: Mosquitto) -> AsyncIterator[PeerNode]:
    process = await asyncio.create_subprocess_exec(
        peer_python("sparkplug"), ROOT / "tests" / "peers" / "sparkplug_node.py", str(broker.port),
        "plant", "gateway", "m1",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    found = PeerNode(process)
    try:
        assert await found._line() == b"ready\n"
        yield found
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    async with Mosquitto(tmp_path / "mosquitto") as found:
        yield found


def line(broker: Mosquitto) -> MqttLine:
    there = Broker("127.0.0.1", broker.port, "wattring-line-1")
    return MqttLine(broker=lambda: there, clock=SystemClock(), max_payload_bytes=65536, answer_within_s=5.0)


def volts(sink: FakeSink) -> list[Any]:
    return [report.raw["voltage_a"] for _, report in sink.told if "voltage_a" in report.raw]


async def test_a_node_that_was_there_before_us_is_asked_for_its_birth(broker: Mosquitto) -> None:
    sink, began = FakeSink(), datetime.now(UTC)
    async with node(broker) as peer, told_by(line(broker), ONE, sink):
        await sink.until(lambda: sink.told, "the birth")
        birth = sink.told[0][1]
        assert birth.raw == {
            "voltage_a": 230.0, "active_power_total": -1200, "energy_active_import": 12.5, "breaker_state": 1,
        }  # fmt: skip
        assert birth.source_time is not None
        assert abs((birth.source_time - began).total_seconds()) < 60
        await peer.do(**{"Voltage/A": 231.5})
        await sink.until(lambda: volts(sink)[-1] == 231.5, "the change")
        assert set(volts(sink)) == {230.0, 231.5}
        assert broker.log().count("Received PUBLISH from plant-gateway (d0, q0, r0, m0, 'spBv1.0/plant/NBIRTH") == 2


async def test_a_gap_is_mended_by_a_new_birth(broker: Mosquitto) -> None:
    sink = FakeSink()
    async with told_by(line(broker), ONE, sink), node(broker) as peer:
        await sink.until(lambda: volts(sink) == [230.0], "the birth")
        await peer.do(skip=3)
        await peer.do(**{"Voltage/A": 232.0})

        def stale() -> list[float | None]:
            return [
                report.raw["voltage_a"] for _, report in sink.told if report.quality.get("voltage_a") is Quality.STALE
            ]

        # Stale, then what came, then all of it with the new birth; the first request is as old as the connection, and
        # on a slow machine it may be answered in between.
        await sink.until(lambda: stale() == [None], "stale")
        await sink.until(lambda: volts(sink)[-1] == 232.0, "the value")
        told = len(sink.told)
        await peer.do(birth=True)
        await sink.until(lambda: len(sink.told) > told, "the birth")
        assert volts(sink)[-1] == 232.0
        assert sink.told[-1][1].raw["breaker_state"] == 1


async def test_a_node_that_is_killed_leaves_stale_values_and_comes_back(broker: Mosquitto) -> None:
    sink = FakeSink()
    async with told_by(line(broker), ONE, sink):
        async with node(broker) as peer:
            await sink.until(lambda: volts(sink) == [230.0], "the birth")
            peer.process.kill()
            await sink.until(lambda: volts(sink) == [230.0, None], "its will")
        assert set(sink.told[-1][1].quality.values()) == {Quality.STALE}
        assert ("meter-1", "sparkplug_death") in sink.failures
        async with node(broker):
            await sink.until(lambda: volts(sink)[-1] == 230.0, "the next birth")


async def test_command_and_read_back(broker: Mosquitto) -> None:
    driver, sink = line(broker), FakeSink()
    async with told_by(driver, ONE, sink), node(broker):
        await sink.until(lambda: sink.told, "the birth")
        session = driver.session(DEVICE)
        # While the node lives, what it said holds: nothing is asked.
        assert (await session.read_points(["breaker_state"])).raw == {"breaker_state": 1}
        await session.write(METER.controls["breaker_open"], None)
        assert (await session.read_points(["breaker_state"])).raw == {"breaker_state": 0}
        await session.write(METER.controls["breaker_close"], None)
        assert (await session.read_points(["breaker_state"])).raw == {"breaker_state": 1}


def test_addresses(tmp_path: Path) -> None:
    driver = MqttLine(broker=lambda: Broker("x", 1, "x"), clock=SystemClock(), max_payload_bytes=1, answer_within_s=1)
    driver.session(Address("m", "plant/gateway", METER))
    for text in (None, "", "gateway", "a/b/c/d", "a/+"):
        with pytest.raises(InvalidInput):
            driver.session(Address("m", text, METER))
