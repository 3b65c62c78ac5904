"""Profiles of products on the device platform: services and parameters in place of registers."""

import pytest

from libs.common.errors import InvalidFile
from libs.common.profiles import (
    AepControl,
    AepEvent,
    AepPoint,
    DeviceProfile,
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
protocol: aep
transports: [nb_iot]
confidence: low
source: [manual]
"""
STATE = 'points: [{name: breaker_state, param: sw, scale: 1, unit: "1"}]\n'


def parse(text: str) -> DeviceProfile:
    return parse_profile(text, name="m1", source="m1.yaml")


def refused(text: str) -> list[tuple[str, str]]:
    with pytest.raises(InvalidFile) as caught:
        parse(text)
    assert all(problem.expected_zh for problem in caught.value.problems)
    return [(problem.field, problem.expected) for problem in caught.value.problems]


def test_the_shipped_example_switches_and_alarms() -> None:
    found = ProfileCatalogue.load().get("aep_breaker_example")
    off, on = found.controls["breaker_open"], found.controls["breaker_close"]
    assert isinstance(off, AepControl)
    assert isinstance(on, AepControl)
    assert (off.service, off.params, off.ttl_s, off.read_back) == (
        "switch_set", {"switch": 0}, 0, ReadBack(points=("breaker_state",), value=0.0),
    )  # fmt: skip
    assert on.ttl_s > 0
    assert found.aep is not None
    overload = next(event for event in found.aep.events if event.code == "overload")
    assert (overload.begin, overload.end, overload.severity, overload.text_zh) == (1.0, 0.0, 2, "过载")
    assert (found.aep.cell_id_param, found.aep.pci_param) == ("cell_id", "pci")
    point = found.points["active_power_a"]
    assert isinstance(point, AepPoint)
    assert (point.service, point.param, point.scale) == ("data_report", "active_power", 0.001)
    assert "active_power_total" in found.points  # a single-phase device: the loader fills the other of the pair


def test_time_and_an_event_that_just_happens() -> None:
    text = HEAD + STATE + "time: {param: t, unit: s}\nevents: [{service: '7', code: x, text: x, text_zh: 某}]\n"
    found = parse(text).aep
    assert found is not None
    assert (found.time_param, found.time_unit) == ("t", "s")
    assert found.events == (AepEvent(service="7", code="x", text="x", text_zh="某"),)


def test_service_written_as_a_number_is_text() -> None:
    point = parse(HEAD + 'points: [{name: breaker_state, service: 8001, param: sw, scale: 1, unit: "1"}]\n').points
    assert isinstance(point["breaker_state"], AepPoint)
    assert point["breaker_state"].service == "8001"


@pytest.mark.parametrize(
    ("text", "field", "says"),
    [
        ('points: [{name: breaker_state, param: a, scale: 1, unit: "1"}, {name: relay_1_state, param: a, scale: 1, '
         'unit: "1"}]', "points[1].param", "a parameter once"),
        (STATE + "controls: [{name: breaker_open, service: s, params: {a: null, b: null}, ttl_s: 0, min: 0, max: 1}]",
         "controls[0].params.b", "at most one parameter"),
        (STATE + "controls: [{name: breaker_open, service: s, params: {}, ttl_s: 0}]",
         "controls[0].params", "at least"),
        (STATE + "controls: [{name: breaker_open, service: s, params: {a: 0}, ttl_s: 864001}]",
         "controls[0].ttl_s", "864000"),
        (STATE + "controls: [{name: valve_open, service: s, params: {a: 0}, ttl_s: 0}]",
         "controls[0].name", "read-back"),
        (STATE + "events: [{service: s, code: c, text: t, text_zh: 某, param: p, begin: 1, end: 1}]",
         "events[0].end", "another value"),
        (STATE + "events: [{service: s, code: c, text: t, text_zh: 某}, {service: s, code: d, text: t, text_zh: 某}]",
         "events[1].service", "each event once"),
        (STATE + "time: {param: p, unit: minutes}", "time.unit", "ms"),
    ],
    ids=["twice", "two open", "no param", "ttl", "no proof", "same value", "event twice", "unit"],
)  # fmt: skip
def test_what_is_wrong_is_named(text: str, field: str, says: str) -> None:
    found = refused(HEAD + text)
    assert [name for name, _ in found] == [field]
    assert says in found[0][1]


def test_bits_of_one_parameter_are_told_apart_by_mask() -> None:
    points = (
        'points: [{name: relay_1_state, param: a, scale: 1, unit: "1", mask: 1}, '
        '{name: relay_2_state, param: a, scale: 1, unit: "1", mask: 2, map: {"0": 0, "2": 1}}]'
    )
    assert set(parse(HEAD + points).points) == {"relay_1_state", "relay_2_state"}
