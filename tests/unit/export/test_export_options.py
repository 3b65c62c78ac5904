"""Option templates of a centre's dictionary: the file read, which option a point uses, what the unit's files say."""

import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.errors import InvalidFile, InvalidInput
from services.export.dialects import Dialects
from services.export.dialects.messages import DeviceRef, DeviceSelection, OptionOrder, PointType
from services.export.dialects.xmlsafe import MalformedXml
from services.export.domain.mapping import MappedDevice, MappedPoint, Mapping, SourceKind
from services.export.domain.options import (
    NO_BOOK,
    Option,
    OptionBook,
    agrees,
    contradictory,
    in_use,
    options_of,
    templated,
)
from services.export.files.configuration import files_of
from services.export.option_book import read_option_book
from services.export.orders.neighbours import Held

Y = Dialects.shipped().named("Y")
ALARM, MEASURED, PLAIN = "220200010010", "230200050010", "220200010020"
FILE = f"""<?xml version="1.0" encoding="UTF-8"?>
<StdSPConfigOptionDic Name="demo options" Version="1.2">
  <DeviceType TypeID="020" DeviceHLType="2">
    <Signal SPID="{ALARM}">
      <Option OptionID="1" AlarmLevel="2" AlarmThreshold="420.0" StartDelay="60" EndDelay="20"
              Period="300" AbsoluteVal="5" RelativeVal="" Hysteresis="4"/>
      <Option OptionID="B" AlarmThreshold="430"/>
    </Signal>
    <Signal SPID="{MEASURED}"><Option OptionID="7" Period="3600"/><Option OptionID="8" AlarmThreshold="1"/></Signal>
  </DeviceType>
</StdSPConfigOptionDic>
"""


def book(text: str = FILE, *, ignores_storage: bool = False) -> OptionBook:
    return read_option_book(text.encode(), "dic.xml", Y, ignores_storage=ignores_storage)


def point(point_id: str, kind: SourceKind, source: str, type_: PointType = PointType.DI) -> MappedPoint:
    return MappedPoint(device_id="m-1", kind=kind, source=source, sc_device_id="2020001", point_id=point_id, type=type_)


SIGNAL = point(ALARM, SourceKind.SIGNAL, "0s16002001")
TABLE = Mapping(
    devices=(MappedDevice(ref=DeviceRef("2020001")),),
    points=(
        SIGNAL,
        point(MEASURED, SourceKind.POINT, "voltage_ab", PointType.AI),
        point(PLAIN, SourceKind.SIGNAL, "0s16003001"),
    ),
)


def held(**changes: Any) -> Held:
    fields: dict[str, Any] = {
        "device_id": "m-1", "signal": "0s16002001", "threshold": 420.0, "unit": "V", "level": 2, "hysteresis": 4.0,
        "start_delay_s": 60.0, "end_delay_s": 20.0,
    }  # fmt: skip
    return Held(**{**fields, **changes})


def test_the_file_is_read_as_the_notes_have_it() -> None:
    found = book()
    assert (found.name, found.version) == ("demo options", "1.2")
    assert found.of(ALARM) == {
        "1": Option(
            option_id="1", level=2, threshold=420.0, start_delay_s=60.0, end_delay_s=20.0, hysteresis=4.0,
            period_s=300.0, absolute=5.0,
        ),
        "B": Option(option_id="B", threshold=430.0),
    }  # fmt: skip
    assert found.of("220200019999") == {}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ((f'SPID="{ALARM}"', 'SPID="22"'), "4: SPID: expected a SUID has 17 characters"),
        (('OptionID="B"', 'OptionID="1"'), "7: OptionID: expected each option of a signal once"),
        (('OptionID="B"', ""), "7: OptionID: expected 1 to 20 characters"),
        (('AlarmLevel="2"', 'AlarmLevel="URGENT"'), "AlarmLevel: expected one of 1, 2, 3, 4, or nothing"),
        (('AlarmThreshold="430"', 'AlarmThreshold="nan"'), "7: AlarmThreshold: expected a number, or nothing"),
        (('StartDelay="60"', 'StartDelay="soon"'), "StartDelay: expected a number, or nothing, found 'soon'"),
        ((f'SPID="{MEASURED}"', f'SPID="{ALARM}"'), "9: SPID: expected the same options wherever the signal stands"),
        (("StdSPConfigOptionDic", "StdSPDic"), "expected StdSPConfigOptionDic"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(change: tuple[str, str], expected: str) -> None:
    with pytest.raises(InvalidFile) as caught:
        book(FILE.replace(*change))
    shown = [str(problem).strip() for problem in caught.value.problems]
    assert any(expected in text for text in shown), shown
    assert all(problem.text_zh() for problem in caught.value.problems)


def test_hostile_files_are_refused() -> None:
    bomb = '<!DOCTYPE a [<!ENTITY x "y">]><StdSPConfigOptionDic Name="&x;"/>'
    for text in (bomb, "<a", "", "x" * (5 << 20)):
        with pytest.raises(MalformedXml):
            book(text)
    many = "".join(f'<Option OptionID="{number}"/>' for number in range(20_001))
    with pytest.raises(InvalidFile, match="20000"):
        book(f'<StdSPConfigOptionDic><Signal SPID="{ALARM}">{many}</Signal></StdSPConfigOptionDic>')


WORDS = st.sampled_from(["StdSPConfigOptionDic", "Signal", "Option", "DeviceType", "x"])
VALUES = st.sampled_from([ALARM, "1", "", "-1", "1e999", "NaN", "NULL", "二级"])


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(WORDS, WORDS, st.dictionaries(st.sampled_from(["SPID", "OptionID", "AlarmLevel", "Period"]), VALUES)),
        max_size=5,
    )
)
def test_any_document_is_read_or_refused(parts: list[tuple[str, str, dict[str, str]]]) -> None:
    root = ET.Element("StdSPConfigOptionDic")
    for outer, inner, attributes in parts:
        ET.SubElement(ET.SubElement(root, outer, attributes), inner, attributes)
    try:
        found = book(ET.tostring(root, encoding="unicode"))
    except InvalidInput:
        return
    for options in found.options.values():
        assert all(name == one.option_id for name, one in options.items())


def test_the_option_in_use_is_the_one_that_holds() -> None:
    ignoring = book(ignores_storage=True)
    assert in_use(ignoring, SIGNAL, held()) == "1"
    assert in_use(ignoring, SIGNAL, held(threshold=430.0)) == "B"
    for other in (held(threshold=425.0), held(start_delay_s=61.0), held(level=3), None):
        assert in_use(ignoring, SIGNAL, other) == ""
    assert in_use(ignoring, replace(SIGNAL, level=2), held(level=3)) == "1", "the centre's own level counts"
    assert in_use(book(), SIGNAL, held()) == "", "it says another way of storing than there is"
    # A measured point has no alarm: of its templates those that say nothing of one can be.
    measured = TABLE.points[1]
    assert in_use(book(), measured, None) == "7"
    assert not book().can_be(book().of(MEASURED)["8"], measured)
    assert in_use(NO_BOOK, SIGNAL, None) == "1"
    assert agrees(Option(option_id="x"), SIGNAL, held())


def test_points_without_templates_keep_their_one_option() -> None:
    everything = (DeviceSelection(None, None),)
    known = {("m-1", "0s16002001"): held(threshold=430.0)}
    [found] = options_of(TABLE, everything, book(), known)
    assert {one.point_id: one.option_id for one in found.options} == {ALARM: "B", MEASURED: "7", PLAIN: "1"}
    [found] = options_of(TABLE, everything, book(), {})
    assert {one.point_id for one in found.options} == {MEASURED, PLAIN}, "what uses none of its templates is left out"
    assert templated(TABLE, everything, book()) == [SIGNAL]
    device = DeviceRef("2020001")
    orders = [OptionOrder(device, ALARM, "1"), OptionOrder(device, ALARM, "B"), OptionOrder(device, PLAIN, "1")]
    assert contradictory([*orders, orders[2]]) == {("2020001", ALARM)}


def test_the_unit_s_files_have_the_centre_s_templates_and_name_the_one_in_use() -> None:
    known = {("m-1", "0s16002001"): held(threshold=430.0), ("m-1", "0s16003001"): held(threshold=7.0)}
    made = files_of(Y, "44010600000000001", TABLE, known, book())
    written = read_option_book(made["", "StdSPConfigOptionDic.xml"], "made", Y, ignores_storage=False)
    assert {name: written.of(name) for name in (ALARM, MEASURED)} == dict(book().options)
    assert [one.threshold for one in written.of(PLAIN).values()] == [7.0]
    instance = ET.fromstring(made["", "SUConfigInstance.xml"])
    used = {one.get("SPID"): one.get("OptionID") for one in instance.iter("Signal")}
    assert used == {ALARM: "B", MEASURED: "7", PLAIN: "1"}
