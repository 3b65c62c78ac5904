"""Profiles of devices behind IEC 60870-5-101 and -104: information objects in place of registers."""

import pytest

from libs.common.errors import InvalidFile
from libs.common.profiles import (
    ChangeEvent,
    DeviceProfile,
    Iec60870Control,
    Iec60870Point,
    ObjectType,
    ProfileCatalogue,
    ReadBack,
    parse_profile,
)

HEAD = """\
schema: device-profile/1
vendor: Maker
vendor_zh: 厂商
model: M1
category: breaker
protocol: iec60870-5
transports: [tcp]
address: common address
confidence: low
source: [manual]
"""
STATE = 'points: [{name: breaker_state, ioa: 1, type: double, scale: 1, unit: "1"}]\n'


def parse(text: str) -> DeviceProfile:
    return parse_profile(text, name="m1", source="m1.yaml")


def refused(text: str) -> list[tuple[str, str]]:
    with pytest.raises(InvalidFile) as caught:
        parse(text)
    assert all(problem.expected_zh for problem in caught.value.problems)
    return [(problem.field, problem.expected) for problem in caught.value.problems]


def test_the_shipped_breaker_switches_and_tells_events() -> None:
    found = ProfileCatalogue.load().get("iec60870_breaker_example")
    off, on = found.controls["breaker_open"], found.controls["breaker_close"]
    assert isinstance(off, Iec60870Control)
    assert isinstance(on, Iec60870Control)
    assert (off.object_address, off.type, off.value, off.select) == (0x6001, ObjectType.DOUBLE, 1, True)
    assert (on.object_address, on.value, on.read_back) == (0x6001, 2, ReadBack(("breaker_state",), 1.0))
    state = found.points["breaker_state"]
    assert isinstance(state, Iec60870Point)
    assert state.value_map == {1: 0.0, 2: 1.0}  # 0 and 3 are no positions
    assert state.event == ChangeEvent("breaker_state", "breaker moved", "断路器变位")
    lock = found.points["breaker_local_lock"]
    assert isinstance(lock, Iec60870Point)
    assert lock.event == ChangeEvent("local_lock", "breaker locked at the device", "断路器就地锁定", 3, 1)


def test_a_set_point_takes_the_commands_value_between_limits() -> None:
    found = parse(
        HEAD + "points: [{name: temperature_setpoint, ioa: 9, type: scaled, scale: 0.1, offset: 5, unit: degC}]\n"
        "controls: [{name: ac_set_temperature, ioa: 6, type: scaled, value: null, min: 16, max: 30, select: false}]\n"
    )
    control = found.controls["ac_set_temperature"]
    assert isinstance(control, Iec60870Control)
    assert (control.value, control.min, control.max, control.select) == (None, 16, 30, False)
    assert found.points["temperature_setpoint"].offset == 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            'points: [{name: breaker_state, ioa: 1, type: double, scale: 1, unit: "1"},'
            ' {name: door_state, ioa: 1, type: single, scale: 1, unit: "1"}]\n',
            [("points[1].ioa", "an object once; breaker_state is it too")],
        ),
        (
            "points: [{name: voltage_a, ioa: 1, type: float, scale: 1, unit: V, mask: 1}]\n",
            [("points[0].type", "a whole number where mask or map is used")],
        ),
        (
            "points: [{name: voltage_a, ioa: 1, type: float, scale: 1, unit: V, event: {text: a, text_zh: b}}]\n",
            [("points[0].type", "single or double where changes are events")],
        ),
        (
            STATE + "controls: [{name: breaker_open, ioa: 6, type: double, value: 0}]\n",
            [("controls[0].value", "1 or 2")],
        ),
        (
            "points: [{name: temperature_setpoint, ioa: 9, type: scaled, scale: 1, unit: degC}]\n"
            "controls: [{name: ac_set_temperature, ioa: 6, type: scaled, value: null}]\n",
            [("controls[0].value", "null, with min and max: a set point takes the command's value")],
        ),
    ],
    ids=["object twice", "mask on a float", "event of a float", "no position", "set point without limits"],
)  # fmt: skip
def test_what_cannot_be_is_refused(text: str, expected: list[tuple[str, str]]) -> None:
    assert refused(HEAD + text) == expected
