"""Profiles of devices that speak by themselves: OPC UA, JSON over MQTT, Sparkplug B."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from libs.common.jsonpath import JsonPath, parse_path
from libs.common.profiles.files import (
    PLACEHOLDER,
    ControlFile,
    MqttControlFile,
    MqttFile,
    MqttPointFile,
    MqttReportFile,
    OpcUaControlFile,
    OpcUaFile,
    OpcUaPointFile,
    PointFile,
    SparkplugControlFile,
    SparkplugFile,
    SparkplugPointFile,
    WordedPointFile,
)
from libs.common.profiles.model import (
    Control,
    DeviceProfile,
    MessageTime,
    MqttControl,
    MqttPoint,
    MqttReply,
    MqttReport,
    MqttRequest,
    OpcUaControl,
    OpcUaPoint,
    ProfilePoint,
    ReadBack,
    SparkplugControl,
    SparkplugPoint,
    TimeFormat,
)
from libs.common.yamlfile import Path

TellingFile = OpcUaFile | MqttFile | SparkplugFile
Refuse = Callable[[Path, str, str, object], None]

_WHOLE = re.compile(r"(?:Boolean|S?Byte|U?Int\d+)")


def takes_value(control: ControlFile) -> bool:
    """Return whether a control of these protocols writes the value of its command, not a fixed one."""
    match control:
        case MqttControlFile():
            return "value" in PLACEHOLDER.findall(control.payload)
        case OpcUaControlFile() | SparkplugControlFile():
            return control.value is None
        case _:
            return False


def check_telling(file: TellingFile, refuse: Refuse) -> None:
    """Refuse what one field alone cannot break."""
    for i, point in enumerate(file.points):
        if point.words and point.map:
            refuse(("points", i, "map"), "words or map, not both", "words 与 map 只能取其一", None)
    for i, control in enumerate(file.controls):
        place = ("controls", i)
        if takes_value(control) and (control.min is None or control.max is None):
            both = ("min and max for a value from outside", "取外部值时须有 min 和 max")
            refuse((*place, "min"), *both, control.min)
        if isinstance(control, MqttControlFile):
            _check_reply(place, control, refuse)
        elif isinstance(control, OpcUaControlFile | SparkplugControlFile):
            _check_type(place, control, refuse)
    if isinstance(file, MqttFile):
        for i, report in enumerate(file.reports):
            _check_report(("reports", i), report, refuse)


def _check_type(place: Path, control: OpcUaControlFile | SparkplugControlFile, refuse: Refuse) -> None:
    value = control.value
    if value is not None and _WHOLE.fullmatch(control.type) and not value.is_integer():
        refuse((*place, "value"), f"a whole number for {control.type}", f"整数({control.type})", value)


def _check_report(place: Path, report: MqttReportFile, refuse: Refuse) -> None:
    in_topic = "device" in PLACEHOLDER.findall(report.topic)
    if in_topic == (report.device is not None):
        both = (
            "the device's address once: {device} in the topic, or a path under device",
            "设备地址只取一处:主题中的 {device},或 device 路径",
        )
        refuse((*place, "topic" if in_topic else "device"), *both, report.topic if in_topic else None)
    if report.time is not None and (report.time.zone is not None) != (report.time.format is TimeFormat.LOCAL):
        both = ("a zone for local times, and only for them", "仅本地时间(local)须写时区 zone")
        refuse((*place, "time", "zone"), *both, report.time.zone)


def _check_reply(place: Path, control: MqttControlFile, refuse: Refuse) -> None:
    sends_id = "id" in PLACEHOLDER.findall(control.payload)
    if control.reply is not None and control.reply.id is not None and not sends_id:
        both = ("{id} in it, since the reply is told by it", "{id}(应答按其匹配)")
        refuse((*place, "payload"), *both, control.payload)


def with_telling(common: DeviceProfile, file: TellingFile) -> DeviceProfile:
    """Return a profile with what only its protocol has."""
    profile = replace(common, address_hint=file.address)
    if isinstance(file, OpcUaFile):
        return replace(profile, publishing_ms=file.publishing_ms)
    if isinstance(file, MqttFile):
        request = file.read_request
        return replace(
            profile,
            reports=tuple(_report(report) for report in file.reports),
            read_request=None if request is None else MqttRequest(topic=request.topic, payload=request.payload),
        )
    return profile


def telling_point(point: PointFile, value_map: Mapping[int, float] | None) -> ProfilePoint:
    """Return a point of one of these protocols."""
    if not isinstance(point, WordedPointFile):
        raise TypeError(f"{type(point).__name__} is no point of a known protocol")
    common = ProfilePoint(
        name=point.name,
        unit=point.unit,
        scale=point.scale,
        offset=point.offset,
        mask=point.mask,
        value_map=value_map,
        optional=point.optional,
        slow=point.slow,
        # A number in a message has no width: only the profile's author can know where the register ends.
        modulus=point.modulus,
        note=point.note,
    )
    shared = {name: getattr(common, name) for name in ProfilePoint.__dataclass_fields__}
    match point:
        case OpcUaPointFile():
            return OpcUaPoint(**shared, words=point.words, node=point.node, index=point.index, deadband=point.deadband)
        case MqttPointFile():
            return MqttPoint(**shared, words=point.words, path=parse_path(point.path), as_text=point.as_text)
        case SparkplugPointFile():
            return SparkplugPoint(**shared, words=point.words, metric=point.metric)
        case _:
            raise TypeError(f"{type(point).__name__} is no point of a known protocol")


def telling_control(control: ControlFile, read_back: ReadBack) -> Control:
    """Return a control of one of these protocols."""
    common = Control(
        name=control.name,
        read_back=read_back,
        settle_s=control.settle_s,
        verify_within_s=control.verify_within_s,
        min=control.min,
        max=control.max,
        note=control.note,
    )
    shared = {name: getattr(common, name) for name in Control.__dataclass_fields__}
    match control:
        case OpcUaControlFile():
            return OpcUaControl(**shared, node=control.node, type=control.type, value=control.value)
        case MqttControlFile():
            return MqttControl(**shared, topic=control.topic, payload=control.payload, reply=_reply(control))
        case SparkplugControlFile():
            return SparkplugControl(**shared, metric=control.metric, type=control.type, value=control.value)
        case _:
            raise TypeError(f"{type(control).__name__} is no control of a known protocol")


def _report(report: MqttReportFile) -> MqttReport:
    time = report.time
    return MqttReport(
        topic=report.topic,
        device=_path(report.device),
        items=_path(report.items),
        time=None
        if time is None
        else MessageTime(path=parse_path(time.path), format=time.format, zone=time.zone, optional=time.optional),
        seq=_path(report.seq),
        message_id=_path(report.message_id),
    )


def _reply(control: MqttControlFile) -> MqttReply | None:
    reply = control.reply
    if reply is None:
        return None
    return MqttReply(topic=reply.topic, ok=parse_path(reply.ok), value=reply.value, id=_path(reply.id))


def _path(text: str | None) -> JsonPath | None:
    return None if text is None else parse_path(text)
