"""The one-line description of an answer: what it means, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import InvalidFile
from libs.common.profiles import ProfileCatalogue, parse_profile
from libs.common.profiles.layout import FieldType, numbers_of, parse_layout, read, without_numbers, write

TEXT = "flag:byte voltage:float module*(current:float user*(value:uint16)) last:int16"
LAYOUT = parse_layout(TEXT)
FIELDS = {
    "flag": FieldType.BYTE,
    "voltage": FieldType.FLOAT,
    "module.current": FieldType.FLOAT,
    "module.user.value": FieldType.UINT16,
    "last": FieldType.INT16,
}


def test_fields_by_their_ways() -> None:
    assert LAYOUT.fields() == FIELDS


def test_values_are_named_by_their_numbers() -> None:
    data = bytes.fromhex("01 AABBCCDD 02 11111111 01 2222 33333333 00 4444")
    found = {value.path: value.content.hex() for value in read(LAYOUT, data)}
    assert found == {
        "flag": "01", "voltage": "aabbccdd", "module[1].current": "11111111", "module[1].user[1].value": "2222",
        "module[2].current": "33333333", "last": "4444",
    }  # fmt: skip


@pytest.mark.parametrize("data", ["", "01", "01 AABBCCDD 01 11111111", "01 AABBCCDD 00 4444 55"])
def test_answer_that_is_longer_or_shorter_is_refused(data: str) -> None:
    with pytest.raises(ValueError, match=r"ends before|more than the layout"):
        read(LAYOUT, bytes.fromhex(data))


def test_rest_may_be_left_open() -> None:
    assert len(read(parse_layout("flag:byte ..."), b"\x01\x02\x03")) == 1


@pytest.mark.parametrize(
    "text",
    [
        "", "flag", "flag:word", "flag:byte flag:byte", "a*(", "a*()", "a*(b:byte", ")", "a:byte )", "a*(... )",
        "... a:byte", "A:byte", "a*(b*(c*(d*(e*(f:byte)))))",
    ],
)  # fmt: skip
def test_what_is_no_layout_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_layout(text)


@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 255))
def test_what_was_written_is_read(modules: int, users: int, byte: int) -> None:
    counts = {"module": modules} | {f"module[{n}].user": users for n in (1, 2, 3)}
    data = write(LAYOUT, counts.__getitem__, lambda way, type_: bytes((byte,)) * type_.size)
    found = read(LAYOUT, data)
    assert len(found) == 3 + modules * (1 + users)
    assert {without_numbers(value.path) for value in found} <= FIELDS.keys()


@given(st.binary(max_size=80), st.text("abc:*().byte float ", max_size=30))
def test_no_bytes_and_no_text_raise_anything_else(data: bytes, text: str) -> None:
    for act in (lambda: read(LAYOUT, data), lambda: parse_layout(text)):
        try:
            act()
        except ValueError:
            pass


def test_numbers_of_a_way() -> None:
    assert numbers_of("module[2].user[11].value") == {"module": 2, "user": 11}


PROFILE = """schema: device-profile/1
vendor: M
vendor_zh: 厂
model: R
category: rectifier
protocol: yd1363
transports: [rs485]
address: 1 to 254
cid1: 0x41
protocol_version: 0x20
confidence: low
tables:
  - {name: analog, cid2: 0x41, layout: "voltage:float module*(current:float)"}
points:
  - {name: voltage_dc, table: analog, field: voltage, scale: 1, unit: V}
alarms:
  - {table: analog, field: "module[*].current", code: "m_{module}", text: a, text_zh: 甲}
source: [none]
"""


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("voltage:float module", "voltage:double module", "tables.0.layout"),
        ("field: voltage,", "field: volts,", "points.0.field"),
        ("field: voltage,", 'field: "module[*].current",', "points.0.field"),
        ("field: voltage,", 'field: "module.current",', "points.0.field"),
        ("table: analog, field: voltage", "table: states, field: voltage", "points.0.table"),
        ('"module[*].current"', '"module[0].current"', "alarms.0.field"),
        ("m_{module}", "m_{panel}", "alarms.0.code"),
        ("text_zh: 甲", "text_zh: 甲, values: {0: fault}", "alarms.0.values"),
        ("text_zh: 甲", "text_zh: 甲, severity: 5", "alarms.0.severity"),
    ],
)
def test_profile_mistakes_are_named(old: str, new: str, field: str) -> None:
    parse_profile(PROFILE, name="r", source="r.yaml")
    with pytest.raises(InvalidFile) as caught:
        parse_profile(PROFILE.replace(old, new), name="r", source="r.yaml")
    fields = [problem.field.replace("[", ".").replace("]", "") for problem in caught.value.problems]
    assert any(found.startswith(field) for found in fields), fields


def test_shipped_profiles_tell_how_far_they_can_be_trusted() -> None:
    confidence = {p.name: p.confidence.value for p in ProfileCatalogue.load() if p.yd1363 is not None}
    assert confidence == {
        "yd1363_ac_panel": "medium", "yd1363_air_conditioner": "low", "yd1363_battery_monitor": "low",
        "yd1363_dc_panel": "medium", "yd1363_environment": "low", "yd1363_lithium_battery": "medium",
        "yd1363_rectifier": "medium",
    }  # fmt: skip
