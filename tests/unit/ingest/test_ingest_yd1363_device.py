"""A YD/T 1363.3 session: tables by their layout, alarm bytes as events, refusals, remote control."""

import struct
from collections.abc import Mapping

import pytest

from libs.common.contracts.base import Phase
from libs.common.errors import InvalidInput
from libs.common.profiles import DeviceProfile, ProfileCatalogue, parse_profile
from libs.common.profiles.layout import FieldType, write
from services.ingest.domain.codecs import yd1363
from services.ingest.domain.codecs.yd1363 import Frame
from services.ingest.domain.normalise import Normaliser, Ratios
from services.ingest.drivers.port import Address, DeviceRefused, DeviceSilent, RawReport
from services.ingest.drivers.yd1363 import Yd1363Device
from tests.unit.ingest.line_of_frames import Wire, line_of

PROFILES = ProfileCatalogue.load()
RECTIFIER = PROFILES.get("yd1363_rectifier")
AC_UNIT = PROFILES.get("yd1363_air_conditioner")
BATTERY = PROFILES.get("yd1363_lithium_battery")
SETTABLE = """
schema: device-profile/1
vendor: M
vendor_zh: 厂
model: U
category: ac_unit
protocol: yd1363
transports: [rs485]
address: 1 to 254
cid1: 0x60
protocol_version: 0x21
confidence: low
tables:
  - {name: states, cid2: 0x43, layout: "setpoint:float"}
points:
  - {name: temperature_setpoint, table: states, field: setpoint, scale: 1, unit: degC}
controls:
  - {name: ac_set_temperature, cid2: 0x49, info: "80", value_type: float, min: 16, max: 30}
source: [none]
"""


class Equipment:
    """Answers the tables of a profile from numbers by their ways; refuses what it is told to."""

    def __init__(self, profile: DeviceProfile, address: int = 1, counts: Mapping[str, int] | None = None) -> None:
        assert profile.yd1363 is not None
        self.equipment = profile.yd1363
        self.address = address
        self.counts = dict(counts or {})
        self.values: dict[str, float | None] = {}
        self.refuses: dict[int, int] = {}
        self.asked: list[Frame] = []
        self.more = b""
        self.echo = False

    def __call__(self, request: bytes) -> bytes:
        _, frame = yd1363.scan(request)
        assert frame is not None
        self.asked.append(frame)
        if (frame.address, frame.cid1) != (self.address, self.equipment.cid1):
            return b""
        return (request if self.echo else b"") + yd1363.encode(self.answer(frame))

    def answer(self, frame: Frame) -> Frame:
        head = (frame.version, frame.address, frame.cid1)
        if frame.code in self.refuses:
            return Frame(*head, self.refuses[frame.code])
        for table in self.equipment.tables.values():
            if table.cid2 == frame.code:
                info = write(table.layout, lambda way: self.counts.get(way, 0), self.content)
                return Frame(*head, 0, info + self.more)
        return Frame(*head, 0)

    def content(self, way: str, type_: FieldType) -> bytes:
        value = self.values.get(way, 0.0)
        if value is None:
            return b"\x20" * type_.size
        if type_ is FieldType.FLOAT:
            return struct.pack("<f", value)
        return int(value).to_bytes(type_.size, "big", signed=value < 0)


def device(equipment: Equipment, profile: DeviceProfile = RECTIFIER, address: str = "1") -> tuple[Yd1363Device, Wire]:
    wire = Wire(equipment)
    return Yd1363Device(line_of(wire), Address("r-1", address, profile)), wire


def rectifier(modules: int = 2) -> Equipment:
    found = Equipment(RECTIFIER, counts={"module": modules})
    found.values |= {"voltage": 53.5, "module[1].current": 12.25, "module[2].current": 12.5, "module[2].power": 1.0}
    return found


def points(profile: DeviceProfile, report: RawReport) -> dict[str, float | None]:
    return Normaliser(profile).measure(report.raw, Ratios()).points


def told(report: RawReport) -> dict[str, Phase]:
    return {event.code: event.phase for event in report.events}


async def test_rectifier_with_two_modules() -> None:
    session, _ = device(rectifier())
    report = await session.read()
    found = points(RECTIFIER, report)
    assert (found["voltage_dc"], found["x_yd1363_module_1_current"], found["x_yd1363_module_2_current"]) == (
        53.5, 12.25, 12.5,
    )  # fmt: skip
    assert (found["x_yd1363_module_1_on"], found["x_yd1363_module_2_on"]) == (1, 0)
    assert "x_yd1363_module_3_current" not in found
    assert report.failed == {}


async def test_numbers_that_the_device_does_not_have_are_none() -> None:
    equipment = rectifier()
    equipment.values |= {"voltage": None, "module[1].power": None}
    session, _ = device(equipment)
    found = points(RECTIFIER, await session.read())
    assert found["voltage_dc"] is None
    assert found["x_yd1363_module_1_on"] is None


async def test_alarm_begins_ends_and_is_not_repeated() -> None:
    equipment = rectifier()
    session, _ = device(equipment)
    first = await session.read()
    assert told(first) == {"module_1_fault": Phase.END, "module_2_fault": Phase.END}
    assert (await session.read()).events == ()
    equipment.values["module[2].fault"] = 1
    (event,) = (await session.read()).events
    assert (event.code, event.phase, event.text, event.severity, event.value) == (
        "module_2_fault", Phase.BEGIN, "Rectifier module 2: fault", 2, 1,
    )  # fmt: skip
    assert (await session.read()).events == ()
    equipment.values["module[2].fault"] = 0
    assert told(await session.read()) == {"module_2_fault": Phase.END}


async def test_alarm_that_is_on_at_the_first_look_begins_then() -> None:
    equipment = rectifier()
    equipment.values["module[1].fault"] = 1
    session, _ = device(equipment)
    assert told(await session.read()) == {"module_1_fault": Phase.BEGIN, "module_2_fault": Phase.END}


async def test_alarm_that_turns_into_another_ends_as_the_first() -> None:
    profile = PROFILES.get("yd1363_ac_panel")
    equipment = Equipment(profile, counts={"panel": 1, "panel[1].input": 1})
    session, _ = device(equipment, profile)
    assert all(phase is Phase.END for phase in told(await session.read()).values())
    way = "panel[1].input[1].voltage_a"
    for byte, expected in (
        (1, {"low": Phase.BEGIN}),
        (2, {"low": Phase.END, "high": Phase.BEGIN}),
        (0x85, {"high": Phase.END, "x85": Phase.BEGIN}),
        (0, {"x85": Phase.END}),
        (None, {}),
    ):
        equipment.values[way] = byte
        found = told(await session.read())
        assert found == {f"panel_1_input_1_voltage_a_{name}": phase for name, phase in expected.items()}


async def test_table_that_the_device_does_not_know_is_not_asked_for_again() -> None:
    equipment = rectifier()
    equipment.refuses[0x43] = 0x04
    session, _ = device(equipment)
    report = await session.read()
    assert "invalid CID2" in report.failed["x_yd1363_module_1_on"]
    assert points(RECTIFIER, report)["voltage_dc"] == 53.5
    equipment.asked.clear()
    await session.read()
    assert [frame.code for frame in equipment.asked] == [0x41, 0x44]


async def test_refusal_for_the_moment_is_asked_again() -> None:
    equipment = rectifier()
    equipment.refuses[0x43] = 0xE1
    session, _ = device(equipment)
    assert "operation failed" in (await session.read()).failed["x_yd1363_module_1_on"]
    equipment.refuses.clear()
    assert (await session.read()).failed == {}


async def test_answer_of_another_length_is_refused_and_not_misread() -> None:
    equipment = rectifier()
    equipment.more = b"\x00"
    session, _ = device(equipment)
    with pytest.raises(DeviceRefused, match="1 bytes more than the layout has"):
        await session.read()


async def test_echoes_and_foreign_frames_are_passed_over() -> None:
    equipment = rectifier()
    equipment.echo = True
    session, wire = device(equipment)
    foreign = yd1363.encode(Frame(0x20, 2, 0x41, 0, b"\x00"))
    wire.answer = lambda request: [foreign + equipment(request)[:9], equipment(request)[9:]]
    assert points(RECTIFIER, await session.read())["voltage_dc"] == 53.5


async def test_silence() -> None:
    session, _ = device(Equipment(RECTIFIER, address=2))
    with pytest.raises(DeviceSilent):
        await session.read()


async def test_points_of_one_table_cost_one_question() -> None:
    equipment = rectifier()
    session, _ = device(equipment)
    report = await session.read_points(["x_yd1363_module_1_on"])
    assert report.raw == {"x_yd1363_module_1_on": 0}
    assert [frame.code for frame in equipment.asked] == [0x43]


async def test_battery_in_integers_with_an_offset() -> None:
    equipment = Equipment(BATTERY, counts={"cell": 15, "sensor": 4, "user": 2})
    equipment.values |= {
        "current": -1234.0, "voltage": 5321.0, "cell[1].voltage": 3345.0, "sensor[1].temperature": 2981.0,
    }  # fmt: skip
    session, _ = device(equipment, BATTERY)
    found = points(BATTERY, await session.read())
    assert (found["current_dc"], found["voltage_dc"], found["x_yd1363_cell_1_voltage"]) == (-12.34, 53.21, 3.345)
    assert found["temperature_device"] == 25.0
    assert "x_yd1363_cell_16_voltage" not in found


async def test_remote_control_and_parameters() -> None:
    equipment = Equipment(AC_UNIT)
    session, _ = device(equipment, AC_UNIT)
    assert await session.write(AC_UNIT.controls["ac_off"], None) == "45 1F accepted"
    assert equipment.asked[-1].info == b"\x1f"
    settable = parse_profile(SETTABLE, name="settable", source="test")
    equipment = Equipment(settable)
    session, _ = device(equipment, settable)
    await session.write(settable.controls["ac_set_temperature"], 26.5)
    assert equipment.asked[-1].info == b"\x80" + struct.pack("<f", 26.5)
    with pytest.raises(InvalidInput, match="from 16 to 30, not 31"):
        await session.write(settable.controls["ac_set_temperature"], 31)
    equipment.refuses[0x49] = 0xE0
    with pytest.raises(DeviceRefused, match="no permission"):
        await session.write(settable.controls["ac_set_temperature"], 20)


@pytest.mark.parametrize("text", [None, "", "0", "255", "x"])
def test_what_is_no_address_is_refused(text: str | None) -> None:
    with pytest.raises(InvalidInput, match="no YD/T 1363"):
        Yd1363Device(line_of(Wire(rectifier())), Address("r-1", text, RECTIFIER))


@pytest.mark.parametrize("name", [p.name for p in PROFILES if p.yd1363 is not None])
async def test_shipped_profiles_read_what_their_layout_promises(name: str) -> None:
    profile = PROFILES.get(name)
    assert profile.yd1363 is not None
    groups = ("panel", "module", "cell", "string", "sensor", "battery", "branch", "user", "fuse", "input", "switch")
    equipment = Equipment(profile)
    equipment.counts = {
        f"{outer}{group}": 2 for group in groups for outer in ("", "panel[1].", "panel[2].", "module[1].", "module[2].")
    }
    session, _ = device(equipment, profile)
    report = await session.read()
    assert report.failed == {}
    assert report.raw.keys() >= {point.name for point in profile.yd1363_points() if not point.optional}
