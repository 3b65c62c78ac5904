"""Configuration files of Y and M: the shapes that the texts give, and nothing that is not known."""

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from libs.common.errors import InvalidFile
from services.export.dialects import Dialect, Dialects
from services.export.dialects.base import FileLayout
from services.export.dialects.messages import DeviceRef, PointType
from services.export.domain.mapping import MappedDevice, MappedPoint, Mapping, SourceKind
from services.export.files.configuration import files_of
from services.export.orders.neighbours import Held

UNIT = "44010600000000001"


def point(point_id: str, kind: SourceKind, source: str, type_: PointType, name: str | None = None) -> MappedPoint:
    return MappedPoint(
        device_id="m-1", kind=kind, source=source, sc_device_id="2020001", point_id=point_id, type=type_, name=name
    )


MAPPING = Mapping(
    devices=(MappedDevice(ref=DeviceRef("2020001"), name="1号<低压>配电系统"), MappedDevice(ref=DeviceRef("2020002"))),
    points=(
        point("230200050010", SourceKind.POINT, "voltage_ab", PointType.AI, "线电压Uab"),
        point("220200010010", SourceKind.SIGNAL, "0s16002001", PointType.DI, "过压"),
        point("own", SourceKind.POINT, "frequency", PointType.AI),
    ),
)
HELD = {("m-1", "0s16002001"): Held("m-1", "0s16002001", 260.0, "V", 3)}


def of(name: str) -> Dialect:
    return Dialects.shipped().named(name)


def parsed(dialect: str) -> dict[tuple[str, str], ET.Element]:
    return {place: ET.fromstring(content) for place, content in files_of(of(dialect), UNIT, MAPPING, HELD).items()}


def test_y_has_dictionary_options_and_instance() -> None:
    files = parsed("Y")
    assert set(files) == {("", "StdSPDic.xml"), ("", "StdSPConfigOptionDic.xml"), ("", "SUConfigInstance.xml")}
    instance = files["", "SUConfigInstance.xml"]
    assert (instance.tag, instance.attrib) == ("SU", {"ID": UNIT})
    first, second = instance.findall("Device")
    assert (first.get("DeviceName"), first.get("DeviceHLType"), len(first)) == ("1号<低压>配电系统", "2", 3)
    assert len(second) == 0
    signal = first.find("Signal[@SPID='230200050010']")
    assert signal is not None
    assert signal.attrib == {
        "SPID": "230200050010", "SPName": "线电压Uab", "SPType": "3", "AlarmMeanings": "", "NormalMeanings": "",
        "Unit": "V", "OptionID": "1",
    }  # fmt: skip
    dictionary = files["", "StdSPDic.xml"]
    assert [(each.get("DeviceHLType"), each.get("TypeID"), len(each)) for each in dictionary] == [
        ("", "", 1), ("2", "020", 2),
    ]  # fmt: skip
    assert all(each.get("OptionID") is None for each in dictionary.iter("Signal"))
    option = files["", "StdSPConfigOptionDic.xml"].find(".//Signal[@SPID='220200010010']/Option")
    assert option is not None
    assert (option.get("OptionID"), option.get("AlarmLevel"), option.get("AlarmThreshold")) == ("1", "3", "260")
    assert option.get("StartDelay") == ""


def test_m_has_its_devices_in_config() -> None:
    [(place, root)] = parsed("M").items()
    assert place == ("Config", f"devices_{UNIT}.xml")
    assert (root.tag, root.get("Count")) == ("Devices", "2")
    signals = root.find("Device/Signals")
    assert signals is not None
    assert (signals.get("Count"), [each.get("Type") for each in signals]) == ("3", ["3", "4", "3"])
    assert [each.get("Threshold") for each in signals] == ["", "260", ""]


def test_of_other_dialects_no_file_is_public() -> None:
    for name in ("T", "C", "U"):
        assert files_of(of(name), UNIT, MAPPING, HELD) == {}


def test_a_repeated_signal_of_m_has_its_number_apart() -> None:
    repeated = replace(MAPPING, points=(replace(MAPPING.points[0], point_id="092301-002"),))
    [content] = files_of(of("M"), UNIT, repeated, {}).values()
    signal = ET.fromstring(content).find(".//Signal")
    assert signal is not None
    assert (signal.get("ID"), signal.get("SignalNumber")) == ("092301", "002")


def test_a_variant_has_the_folders_and_files_of_its_base_unless_it_says_its_own(tmp_path: Path) -> None:
    said = "evidence: field\nreason: agreed\n"
    (tmp_path / "t.yaml").write_text(f"name: T-GD\ntitle: x\nbase: T\n{said}")
    (tmp_path / "m.yaml").write_text(
        f"name: M-GD\ntitle: x\nbase: M\n{said}"
        "files: {folders: [Conf, up], uploads: up, configuration: {folder: Conf}}\n"
    )
    dialects = Dialects.load(tmp_path)
    assert dialects.named("T-GD").files == of("T").files == FileLayout(folders=("PIC",), login="PIC")
    own = dialects.named("M-GD")
    assert (own.files.folders, own.files.uploads) == (("Conf", "up"), "up")
    assert set(files_of(own, UNIT, MAPPING, HELD)) == {("Conf", f"devices_{UNIT}.xml")}
    (tmp_path / "m.yaml").write_text(f"name: M-GD\ntitle: x\nbase: M\n{said}files: {{uploads: nowhere}}\n")
    with pytest.raises(InvalidFile, match=r"files\.uploads"):
        Dialects.load(tmp_path)
