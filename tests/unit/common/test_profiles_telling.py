"""Profiles of OPC UA, MQTT and Sparkplug devices: what they say is kept, every mistake has its line."""

import re
from pathlib import Path

import pytest

from libs.common.errors import InvalidFile
from libs.common.profiles import (
    DeviceProfile,
    MqttControl,
    MqttPoint,
    OpcUaControl,
    OpcUaPoint,
    ProfileCatalogue,
    SparkplugControl,
    TimeFormat,
    parse_profile,
)

CATALOGUE = ProfileCatalogue.load()
HEAD = """\
schema: device-profile/1
vendor: Maker
vendor_zh: 厂商
model: M1
category: breaker
protocol: {protocol}
transports: [{transport}]
address: serial number
confidence: high
source: [manual]
"""
MQTT = HEAD.format(protocol="mqtt", transport="mqtt")
OPCUA = HEAD.format(protocol="opcua", transport="opcua")
SPARKPLUG = HEAD.format(protocol="sparkplug-b", transport="mqtt")
REPORTS = 'reports: [{topic: "a/{device}/up"}]\n'
STATE = '{name: breaker_state, path: s, scale: 1, unit: "1", words: {open: 0, closed: 1}}'
NODE_STATE = '{name: breaker_state, node: "nsu=urn:x;s={device}.S", scale: 1, unit: "1"}'


def parse(text: str) -> DeviceProfile:
    return parse_profile(text, name="m1", source="m1.yaml")


def problems(text: str) -> list[tuple[str, str]]:
    with pytest.raises(InvalidFile) as caught:
        parse(text)
    assert all(problem.expected_zh and problem.line for problem in caught.value.problems)
    return [(problem.field, problem.expected) for problem in caught.value.problems]


def test_documented_mqtt_profile_loads() -> None:
    document = Path(__file__).parents[3] / "docs" / "device-profiles.md"
    blocks = re.findall(r"```yaml\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)
    text = blocks[1].replace("points:\n", f"points:\n  - {STATE}\n")
    found = parse(MQTT + text)
    assert found.reports[0].time is not None
    assert found.reports[0].items is not None
    assert isinstance(found.points["voltage_a"], MqttPoint)
    assert found.read_request is not None


def test_shipped_mqtt_example() -> None:
    found = CATALOGUE.get("example_mqtt_meter")
    assert [(report.topic, report.time and report.time.format) for report in found.reports] == [
        ("meters/{device}/up", TimeFormat.UNIX_MS),
        ("meters/{device}/history", TimeFormat.UNIX_MS),
    ]
    state, opening = found.points["breaker_state"], found.controls["breaker_open"]
    assert isinstance(state, MqttPoint)
    assert state.words == {"open": 0, "closed": 1}
    assert isinstance(opening, MqttControl)
    assert opening.reply is not None
    assert (opening.reply.value, opening.read_back.value) == (0, 0.0)


def test_shipped_opcua_and_sparkplug_examples() -> None:
    found = CATALOGUE.get("example_opcua_meter")
    point, control = found.points["current_b"], found.controls["ac_set_temperature"]
    assert isinstance(point, OpcUaPoint)
    assert (point.index, found.publishing_ms) == (1, 500)
    assert isinstance(control, OpcUaControl)
    assert (control.type, control.value, control.max) == ("Int16", None, 30)
    sparkplug = CATALOGUE.get("example_sparkplug_meter").controls["breaker_close"]
    assert isinstance(sparkplug, SparkplugControl)
    assert (sparkplug.metric, sparkplug.value) == ("Breaker/Close", 1.0)


@pytest.mark.parametrize(
    "node", ["ns=2;s=x", "nsu=urn:x", "nsu=urn:x;s=", "nsu=urn:x;s={value}", "s=x", "nsu=urn:x;i=abc", "2:Objects"]
)
def test_a_node_needs_its_namespace_by_uri(node: str) -> None:
    point = f'{{name: breaker_state, node: "{node}", scale: 1, unit: "1"}}'
    ((field, expected),) = problems(f"{OPCUA}points:\n  - {point}\n")
    assert field == "points[0].node"
    assert "nsu=" in expected


@pytest.mark.parametrize(
    "node", ["nsu=urn:x;s={device}.P", "nsu=http://a/b;i=12", "i=2258", "nsu=urn:x;g=0-1", "nsu=urn:x;b=AA=="]
)
def test_nodes_that_are_possible(node: str) -> None:
    parse(f'{OPCUA}points:\n  - {{name: breaker_state, node: "{node}", scale: 1, unit: "1"}}\n')


@pytest.mark.parametrize(
    ("reports", "field"),
    [
        ('[{topic: "a/up"}]', "reports[0].device"),
        ('[{topic: "a/{device}/up", device: sn}]', "reports[0].topic"),
        ('[{topic: "a/{device}/{device}"}]', "reports[0].topic"),
        ('[{topic: "a/{sn}/up"}]', "reports[0].topic"),
        ('[{topic: "a/#/{device}"}]', "reports[0].topic"),
        ('[{topic: "a/b+/{device}"}]', "reports[0].topic"),
        ('[{topic: "$share/g/{device}"}]', "reports[0].topic"),
        ('[{topic: "a/{device}", time: {path: t, format: local}}]', "reports[0].time.zone"),
        ('[{topic: "a/{device}", time: {path: t, format: unix_s, zone: Asia/Shanghai}}]', "reports[0].time.zone"),
        ('[{topic: "a/{device}", time: {path: t, format: local, zone: Mars/Base}}]', "reports[0].time.zone"),
        ('[{topic: "a/{device}", time: {path: "t..x", format: unix_s}}]', "reports[0].time.path"),
        ('[{topic: "a/{device}", time: {path: t, format: epoch}}]', "reports[0].time.format"),
    ],
)
def test_wrong_reports(reports: str, field: str) -> None:
    assert [found for found, _ in problems(f"{MQTT}reports: {reports}\npoints:\n  - {STATE}\n")] == [field]


@pytest.mark.parametrize(
    ("control", "field"),
    [
        ('{name: breaker_open, topic: "a/+/b", payload: x}', "controls[0].topic"),
        ('{name: breaker_open, topic: a, payload: "{other}"}', "controls[0].payload"),
        (
            "{name: breaker_open, topic: a, payload: x, reply: {topic: r, ok: c, value: 0, id: i}}",
            "controls[0].payload",
        ),
        ('{name: set, topic: a, payload: "{value}", read_back: {points: [breaker_state]}}', "controls[0].min"),
        ("{name: set, topic: a, payload: x, read_back: {points: [breaker_state]}}", "controls[0].read_back"),
        ("{name: valve_open, topic: a, payload: x}", "controls[0].name"),
    ],
)
def test_wrong_commands(control: str, field: str) -> None:
    assert [found for found, _ in problems(f"{MQTT}{REPORTS}points:\n  - {STATE}\ncontrols:\n  - {control}\n")] == [
        field
    ]


def test_wrong_values_and_words() -> None:
    both = STATE.replace("words:", 'map: {"0": 1}, words:')
    assert problems(f"{MQTT}{REPORTS}points:\n  - {both}\n") == [("points[0].map", "words or map, not both")]
    control = '{name: breaker_open, node: "i=1", type: Boolean, value: 0.5}'
    found = problems(f"{OPCUA}points:\n  - {NODE_STATE}\ncontrols:\n  - {control}\n")
    assert found == [("controls[0].value", "a whole number for Boolean")]
    point = '{name: breaker_state, metric: M, scale: 1, unit: "1"}'
    control = "{name: breaker_open, metric: M, type: String, value: 0}"
    assert [f for f, _ in problems(f"{SPARKPLUG}points:\n  - {point}\ncontrols:\n  - {control}\n")] == [
        "controls[0].type"
    ]
