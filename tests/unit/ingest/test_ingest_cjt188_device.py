"""A CJ/T 188 session: units that travel with their values, clocks, valves, and answers that are not ours."""

import dataclasses
from collections.abc import Callable

import pytest

from libs.common.clock import CIVIL_ZONE
from libs.common.errors import InvalidInput
from libs.common.profiles import DeviceProfile, ProfileCatalogue
from services.ingest.domain.codecs import bcd, cjt188
from services.ingest.domain.codecs.cjt188 import Frame, Function
from services.ingest.domain.normalise import Normaliser, Ratios
from services.ingest.drivers.cjt188 import Cjt188Device
from services.ingest.drivers.port import Address, BadAnswer, DeviceRefused, DeviceSilent, RawReport
from tests.unit.ingest.line_of_frames import Wire, line_of

WATER: DeviceProfile = ProfileCatalogue.load().get("cjt188_water_meter")
HEAT: DeviceProfile = ProfileCatalogue.load().get("cjt188_heat_meter")
ADDRESS = "00112233445566"
TIME = bytes.fromhex("30 59 06 02 06 26 20")


def water(volume: int, unit: int = 0x2C, status: str = "0000") -> bytes:
    settled = bcd.encode(1000, 4) + bytes((unit,))
    return bcd.encode(volume, 4) + bytes((unit,)) + settled + TIME + bytes.fromhex(status)


def meter(data: bytes, address: str = ADDRESS, kind: int = 0x10) -> Callable[[bytes], bytes]:
    def answer(request: bytes) -> bytes:
        _, frame = cjt188.scan(request)
        assert frame is not None
        if not cjt188.matches(frame.address, address):
            return b""
        return cjt188.encode(Frame(kind, address, frame.control | 0x80, frame.data[:3] + data))

    return answer


def device(answer: Callable[[bytes], bytes], profile: DeviceProfile = WATER) -> tuple[Cjt188Device, Wire]:
    wire = Wire(answer)
    return Cjt188Device(line_of(wire), Address("w-1", ADDRESS, profile)), wire


def points(profile: DeviceProfile, report: RawReport) -> dict[str, float | None]:
    return Normaliser(profile).measure(report.raw, Ratios()).points


async def test_water_meter_of_the_vector() -> None:
    session, _ = device(meter(water(123456)))
    report = await session.read()
    found = points(WATER, report)
    assert (found["water_volume"], found["water_volume_settlement"], found["valve_state"]) == (1234.56, 10.0, 1.0)
    assert report.texts == {"meter_datetime": "2026-06-02 06:59:30"}
    assert report.device_time is not None
    assert report.device_time.tzinfo is CIVIL_ZONE
    assert report.failed == {}


@pytest.mark.parametrize(("code", "volume"), [(0x2C, 1234.56), (0x29, 1.23456), (0x2B, 123.456), (0x2A, 12.3456)])
async def test_volume_is_converted_by_the_unit_that_came(code: int, volume: float) -> None:
    session, _ = device(meter(water(123456, code)))
    assert points(WATER, await session.read())["water_volume"] == pytest.approx(volume)


@pytest.mark.parametrize("code", [0x0A, 0x05, 0xFF], ids=["disputed", "an energy", "unknown"])
async def test_volume_in_a_unit_that_cannot_be_is_no_number(code: int) -> None:
    session, _ = device(meter(water(123456, code)))
    report = await session.read()
    assert "water_volume" not in report.raw
    assert "water_volume" in report.failed
    assert points(WATER, report)["valve_state"] == 1


def heat(energy_unit: int) -> bytes:
    each = [(1, energy_unit), (200, energy_unit), (150, 0x17), (12345, 0x35), (777, 0x2C)]
    numbers = b"".join(bcd.encode(number, 4) + bytes((unit,)) for number, unit in each)
    return numbers + bcd.encode(6512, 3) + bcd.encode(4012, 3) + bcd.encode(4321, 3) + TIME + b"\x00\x00"


@pytest.mark.parametrize(("unit", "kwh"), [(0x05, 2.0), (0x08, 2000.0), (0x11, 555.5555555)])
async def test_heat_meter_in_kwh_mwh_and_gj(unit: int, kwh: float) -> None:
    session, _ = device(meter(heat(unit), kind=0x21), HEAT)
    found = points(HEAT, await session.read())
    assert found["heat_energy"] == pytest.approx(kwh)
    assert (found["heat_power"], found["flow_rate"], found["water_volume"]) == (1.5, 1.2345, 7.77)
    assert (found["temperature_supply"], found["temperature_return"], found["working_hours"]) == (65.12, 40.12, 4321)


async def test_some_points_only() -> None:
    session, _ = device(meter(water(123456, status="0100")))
    assert (await session.read_points(["valve_state"])).raw == {"valve_state": 1}  # raw: mapped to closed
    assert points(WATER, await session.read_points(["valve_state"])) == {"valve_state": 0}


async def test_late_and_foreign_answers_are_passed_over() -> None:
    session, wire = device(meter(water(123456)))

    def crowded(request: bytes) -> bytes:
        _, frame = cjt188.scan(request)
        assert frame is not None
        late = cjt188.encode(Frame(0x10, ADDRESS, 0x81, frame.data[:2] + b"\x00" + water(1)))
        foreign = cjt188.encode(Frame(0x10, "00112233445567", 0x81, frame.data[:3] + water(2)))
        return request + late + foreign + meter(water(123456))(request)

    wire.answer = crowded
    assert (await session.read()).raw["water_volume"] == 123456


async def test_silence_refusal_and_an_answer_cut_short() -> None:
    session, wire = device(meter(water(1), address="00112233445567"))
    with pytest.raises(DeviceSilent):
        await session.read()
    wire.answer = lambda request: cjt188.encode(Frame(0x10, ADDRESS, 0xC1, b"\x01\x02\x03"))
    with pytest.raises(DeviceRefused, match="01 02 03"):
        await session.read()
    wire.answer = meter(water(1)[:2])
    with pytest.raises(BadAnswer, match="ends before it") as caught:
        await session.read()
    assert caught.value.facts["raw"]


async def test_valve_is_closed_and_the_answer_told() -> None:
    session, wire = device(meter(b"\x01\x00"))
    assert await session.write(WATER.controls["valve_close"], None) == "write A017 accepted"
    _, frame = cjt188.scan(wire.sent[0])
    assert frame is not None
    assert (frame.function, frame.identifier, frame.data[3:]) == (Function.WRITE, 0xA017, b"\x99")


async def test_identifier_of_the_2018_edition_is_sent_the_other_way_round() -> None:
    session, wire = device(meter(water(123456)), dataclasses.replace(WATER, read_di=0x1F90))
    assert (await session.read()).raw["water_volume"] == 123456
    assert b"\x90\x1f" in wire.sent[0]


@pytest.mark.parametrize("text", [None, "", "xyz", "1" * 15])
def test_what_is_no_address_is_refused(text: str | None) -> None:
    with pytest.raises(InvalidInput, match="no CJ/T 188 address"):
        Cjt188Device(line_of(Wire(meter(b""))), Address("w-1", text, WATER))
