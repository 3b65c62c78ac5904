"""Simulated MQTT meters and the simulated OPC UA server, with the platform's own drivers at the other end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from libs.common.clock import SystemClock
from libs.common.profiles import ProfileCatalogue
from libs.fieldsim.breaker import Breaker
from libs.fieldsim.device import modbus_profile
from libs.fieldsim.electrical import Load, Mains
from libs.fieldsim.events import EventLog
from libs.fieldsim.faults import FaultBoard, TripReason, parse_order
from libs.fieldsim.mqtt import BrokerPlace, MqttMeter, MqttMeters
from libs.fieldsim.opcua import OpcUaPlant
from services.ingest.drivers.mqtt import MqttLine
from services.ingest.drivers.mqtt_link import Broker
from services.ingest.drivers.opcua_open import open_opcua
from services.ingest.drivers.port import Address, DeviceSession, Opening
from tests.peers.mosquitto import Mosquitto, free_port
from tests.unit.ingest.ingest_fakes import MEANS
from tests.unit.ingest.ingest_fakes import line as a_line
from tests.unit.ingest.telling_world import FakeSink, addresses, told_by

pytestmark = pytest.mark.integration

CLOCK = SystemClock()
MQTT_METER = ProfileCatalogue.load().get("example_mqtt_meter")
OPCUA_METER = ProfileCatalogue.load().get("example_opcua_meter")


def breaker(board: FaultBoard) -> Breaker:
    load = Load("load-1", constant_kw=0.9, gain=0.02)
    return Breaker(
        "b-1",
        modbus_profile("lx47le_125"),
        load=load,
        mains=Mains(),
        faults=board,
        events=EventLog(),
        motor_delay_s=0.1,
    )


@asynccontextmanager
async def reporting(broker: Mosquitto, board: FaultBoard, period_s: float = 60.0) -> AsyncIterator[MqttMeter]:
    meter = MqttMeter("SN1", breaker(board))
    place = BrokerPlace(host="127.0.0.1", port=broker.port)
    meters = MqttMeters([meter], broker=place, clock=CLOCK, faults=board, period_s=period_s, redial_s=0.1)
    running = asyncio.create_task(meters.run())
    try:
        yield meter
    finally:
        running.cancel()
        await asyncio.wait([running])


async def becomes(session: DeviceSession, state: int) -> None:
    async with asyncio.timeout(20):
        while (await session.read_points(["breaker_state"])).raw["breaker_state"] != state:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


def mqtt_line(broker: Mosquitto) -> MqttLine:
    there = Broker("127.0.0.1", broker.port, "wattring-line-1")
    return MqttLine(broker=lambda: there, clock=CLOCK, max_payload_bytes=65536, answer_within_s=5.0)


async def test_mqtt_meter_reports_and_obeys(tmp_path: Path) -> None:
    board, sink = FaultBoard(), FakeSink()
    async with Mosquitto(tmp_path / "mosquitto") as broker:
        driver, devices = mqtt_line(broker), addresses(MQTT_METER, **{"meter-1": "SN1"})
        async with told_by(driver, devices, sink), reporting(broker, board):
            await sink.until(lambda: sink.told, "a report")
            raw = sink.told[0][1].raw
            assert raw.keys() == MQTT_METER.points.keys()
            assert raw["breaker_state"] == 1
            assert 200 < (raw["voltage_a"] or 0) < 260
            session = driver.session(devices["meter-1"])
            await session.write(MQTT_METER.controls["breaker_open"], None)
            await becomes(session, 0)
            await session.write(MQTT_METER.controls["breaker_close"], None)
            await becomes(session, 1)


async def test_mqtt_meter_keeps_what_it_cannot_send(tmp_path: Path) -> None:
    board, sink = FaultBoard(), FakeSink()
    async with Mosquitto(tmp_path / "mosquitto") as broker:
        driver, devices = mqtt_line(broker), addresses(MQTT_METER, **{"meter-1": "SN1"})
        async with told_by(driver, devices, sink):
            pass  # the broker keeps for it what it misses from now on
        async with reporting(broker, board, period_s=0.1) as meter:
            async with told_by(driver, devices, sink):
                await sink.until(lambda: sink.told, "a report")
            await broker.stop()
            async with asyncio.timeout(20):
                while len(meter.waiting) < 5:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            await broker.start()
            async with told_by(driver, devices, sink):
                last = meter.count
                await sink.until(lambda: any((report.seq or 0) > last for _, report in sink.told), "live ones again")
        numbers = sorted({report.seq for _, report in sink.told if report.seq is not None})
        assert numbers == list(range(1, numbers[-1] + 1))


async def test_mqtt_meter_with_a_wrong_clock_and_a_broken_contact(tmp_path: Path) -> None:
    board, sink = FaultBoard(), FakeSink()
    for order in ("clock:offset_s=900", "ignore_command"):
        board.place("b-1", parse_order(order), CLOCK.now().timestamp())
    async with Mosquitto(tmp_path / "mosquitto") as broker:
        driver, devices = mqtt_line(broker), addresses(MQTT_METER, **{"meter-1": "SN1"})
        async with told_by(driver, devices, sink), reporting(broker, board):
            await sink.until(lambda: sink.told, "a report")
            report = sink.told[0][1]
            assert report.source_time is not None
            assert (report.source_time - report.received_at).total_seconds() > 800
            session = driver.session(devices["meter-1"])
            assert "taken" in await session.write(MQTT_METER.controls["breaker_open"], None)
            assert (await session.read_points(["breaker_state"])).raw == {"breaker_state": 1}


async def test_opcua_plant_shows_and_obeys(tmp_path: Path) -> None:
    board, sink = FaultBoard(), FakeSink()
    device = breaker(board)
    plant = OpcUaPlant({"m1": device}, clock=CLOCK, faults=board, port=free_port())
    await plant.start()
    running = asyncio.create_task(plant.run())
    try:
        line = a_line(kind="opcua", endpoint=plant.endpoint, settings={"security": "none"})
        driver = open_opcua(Opening(line, CLOCK, replace(MEANS, folder=tmp_path), beside=False))
        address = Address("meter-1", "m1", OPCUA_METER)
        async with told_by(driver, {"meter-1": address}, sink):
            assert sink.told[0][1].raw.keys() == OPCUA_METER.points.keys() - {"temperature_setpoint"}
            session = driver.session(address)
            await session.write(OPCUA_METER.controls["breaker_open"], None)
            await becomes(session, 0)
            await sink.until(lambda: sink.told[-1][1].raw.get("breaker_state") == 0, "the change told")
            await session.write(OPCUA_METER.controls["breaker_close"], None)
            await becomes(session, 1)
            device.trip(TripReason.ARREARS, CLOCK.now().timestamp())
            await becomes(session, 0)
            await session.write(OPCUA_METER.controls["breaker_close"], None)  # what was written last, and yet an order
            await becomes(session, 1)
    finally:
        running.cancel()
        await asyncio.wait([running])
        await plant.stop()
