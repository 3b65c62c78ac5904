"""Configuration files of a unit, made from its mapping, in the shapes that the texts give.

Options (dialect Y): ``StdSPDic.xml``, ``StdSPConfigOptionDic.xml`` and ``SUConfigInstance.xml`` (draft, annexes E.2 to
E.4). A point has one option, whose threshold and level are those that hold in alarm, unless templates of the centre's
own are of it: these then stand there as the centre has them, and the instance names the one in use. Where a point's
id has twelve digits as in the draft, its device type is read from it (level, kind of point, type), as the only public
sample has it.
Devices (dialect M): ``devices_<FSUID>.xml``. What we do not know of a device or signal is left empty, never guessed.
Which of them a unit has, and in which folder, its dialect's file says.
"""

import re
from collections.abc import Mapping, Sequence

from lxml import etree

from libs.common.points import POINTS
from services.export.dialects import Dialect
from services.export.dialects import xmlsafe as xml
from services.export.dialects.base import FileShape
from services.export.dialects.bodies import number
from services.export.dialects.messages import DeviceDetail
from services.export.domain.mapping import MappedPoint, SourceKind
from services.export.domain.mapping import Mapping as UnitMapping
from services.export.domain.options import NO_BOOK, OPTION, Option, OptionBook, in_use
from services.export.orders.neighbours import Held

_DETAILS = {
    "SiteID": DeviceDetail.SITE_ID,
    "RoomID": DeviceDetail.ROOM_ID,
    "SiteName": DeviceDetail.SITE_NAME,
    "RoomName": DeviceDetail.ROOM_NAME,
    "DeviceType": DeviceDetail.TYPE,
    "DeviceSubType": DeviceDetail.SUBTYPE,
    "Model": DeviceDetail.MODEL,
    "Brand": DeviceDetail.BRAND,
    "RatedCapacity": DeviceDetail.RATED_CAPACITY,
    "Version": DeviceDetail.VERSION,
    "BeginRunTime": DeviceDetail.IN_USE_SINCE,
    "DevDescribe": DeviceDetail.DESCRIPTION,
    "ConfRemark": DeviceDetail.REMARK,
}
_SPID = re.compile(r"^([0-9])[0-9]([0-9]{3})[0-9]{7}$")


Thresholds = Mapping[tuple[str, str], Held]
"""What alarm holds, by our device and signal."""


def files_of(
    dialect: Dialect, unit_id: str, mapping: UnitMapping, thresholds: Thresholds, book: OptionBook = NO_BOOK
) -> Mapping[tuple[str, str], bytes]:
    """Return the files of a unit by folder and name; none for a dialect whose files are not public."""
    folder = dialect.files.shape_folder
    match dialect.files.shape:
        case FileShape.OPTIONS:
            return {
                (folder, "StdSPDic.xml"): _dictionary(dialect, mapping),
                (folder, "StdSPConfigOptionDic.xml"): _options(mapping, thresholds, book),
                (folder, "SUConfigInstance.xml"): _instance(dialect, unit_id, mapping, thresholds, book),
            }
        case FileShape.DEVICES:
            return {(folder, f"devices_{unit_id}.xml"): _devices(dialect, mapping, thresholds)}
        case None:
            return {}


def _dictionary(dialect: Dialect, mapping: UnitMapping) -> bytes:
    root = etree.Element("StdSPDic", Name="Wattring", Version="1.0")
    for (level, kind), points in _by_type(mapping).items():
        element = _child(root, "DeviceType", TypeID=kind, DeviceHLType=level, DeviceTypeName="")
        for point in points:
            _child(element, "Signal", **_signal(dialect, point))
    return _document(root)


def _options(mapping: UnitMapping, thresholds: Thresholds, book: OptionBook) -> bytes:
    root = etree.Element("StdSPConfigOptionDic", Name="Wattring", Version="1.0")
    for (level, kind), points in _by_type(mapping).items():
        element = _child(root, "DeviceType", TypeID=kind, DeviceHLType=level)
        for point in points:
            signal = _child(element, "Signal", SPID=point.point_id)
            held = _held(thresholds, point)
            own = Option(
                option_id=OPTION, level=point.level or (None if held is None else held.level),
                threshold=None if held is None else held.threshold,
            )  # fmt: skip
            for one in book.of(point.point_id).values() or (own,):
                _child(
                    signal, "Option", OptionID=one.option_id, AlarmLevel="" if one.level is None else str(one.level),
                    AlarmThreshold=number(one.threshold, ""), StartDelay=number(one.start_delay_s, ""),
                    EndDelay=number(one.end_delay_s, ""), Period=number(one.period_s, ""),
                    AbsoluteVal=number(one.absolute, ""), RelativeVal=number(one.relative, ""),
                    Hysteresis=number(one.hysteresis, ""),
                )  # fmt: skip
    return _document(root)


def _instance(dialect: Dialect, unit_id: str, mapping: UnitMapping, thresholds: Thresholds, book: OptionBook) -> bytes:
    root = etree.Element("SU", ID=unit_id)
    for device in mapping.devices:
        own = [point for point in mapping.points if point.sc_device_id == device.ref.device_id]
        element = _child(
            root, "Device", DeviceID=device.ref.device_id, DeviceName=device.name, Description="",
            DeviceHLType=device.ref.device_id[:1],
        )  # fmt: skip
        for point in own:
            used = in_use(book, point, _held(thresholds, point))
            _child(element, "Signal", **_signal(dialect, point), OptionID=used)
    return _document(root)


def _devices(dialect: Dialect, mapping: UnitMapping, thresholds: Thresholds) -> bytes:
    root = etree.Element("Devices", Count=str(len(mapping.devices)))
    for device in mapping.devices:
        own = [point for point in mapping.points if point.sc_device_id == device.ref.device_id]
        details = {name: device.details.get(detail, "") for name, detail in _DETAILS.items()}
        element = _child(root, "Device", DeviceID=device.ref.device_id, DeviceName=device.name, **details)
        signals = _child(element, "Signals", Count=str(len(own)))
        for point in own:
            held = _held(thresholds, point)
            base, running = dialect.split_point(point.point_id)
            _child(
                signals, "Signal", Type=dialect.point_types[point.type], ID=base, SignalName=point.name or "",
                SignalNumber=running, AlarmLevel=_level(point, held),
                Threshold="" if held is None else number(held.threshold, ""),
                NMAlarmID=point.network_alarm or "",
            )  # fmt: skip
    return _document(root)


def _by_type(mapping: UnitMapping) -> Mapping[tuple[str, str], Sequence[MappedPoint]]:
    """Return the points by level and type of their ids, each id once; ids of another form have neither."""
    found: dict[tuple[str, str], dict[str, MappedPoint]] = {}
    for point in mapping.points:
        form = _SPID.match(point.point_id)
        found.setdefault((form[1], form[2]) if form else ("", ""), {}).setdefault(point.point_id, point)
    return {kind: list(points.values()) for kind, points in sorted(found.items())}


def _signal(dialect: Dialect, point: MappedPoint) -> dict[str, str]:
    known = POINTS.get(point.source) if point.kind is SourceKind.POINT else None
    return {
        "SPID": point.point_id, "SPName": point.name or (known.name_zh if known else ""),
        "SPType": dialect.point_types[point.type], "AlarmMeanings": "", "NormalMeanings": "",
        "Unit": known.unit if known else "",
    }  # fmt: skip


def _level(point: MappedPoint, held: Held | None) -> str:
    level = point.level or (None if held is None else held.level)
    return "" if level is None else str(level)


def _held(thresholds: Thresholds, point: MappedPoint) -> Held | None:
    return thresholds.get((point.device_id, point.source)) if point.kind is SourceKind.SIGNAL else None


def _child(parent: xml.Element, name: str, **attributes: str) -> xml.Element:
    element = etree.SubElement(parent, name)
    for key, text in attributes.items():
        element.set(key, xml.clean(text))
    return element


def _document(root: xml.Element) -> bytes:
    return etree.tostring(root, xml_declaration=True, encoding="UTF-8", pretty_print=True)
