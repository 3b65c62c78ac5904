"""Judges what a unit answers: name and code, Result, fields, values, times, and whether it is what was asked.

Pure. A refusal (Result 0) has to name the unit and the command and needs no body.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from lxml import etree

from libs.fieldsim.sc.catalogue import Evidence, Finding, Rule
from libs.fieldsim.sc.fields import judged_fields
from libs.fieldsim.sc.messages import ack_name, read_local
from libs.fieldsim.sc.rules import read_event, unit_id_findings
from libs.fieldsim.sc.soap import Message, child
from libs.fieldsim.sc.spec import RESULTS, TOWER, Body, Reply, Spec

INVALID = "6"
"""State of a point that has no valid value."""
THRESHOLD_ATTRIBUTES = ("Type", "Id", "Threshold", "AbsoluteVal", "RelativeVal", "Status")
HOUR_S = 3600


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request wanted, as far as its answer can be held against it."""

    unit_id: str | None = None
    """None: the message names no unit."""
    points: Mapping[str, Sequence[str]] | None = None
    """Device to points, all nines for all; none: it asks for no points."""
    start: datetime | None = None
    end: datetime | None = None
    orders: tuple[tuple[str, str], ...] = ()
    """Device and point of each order."""


def judged(message: Message, name: str, asked: Asked, spec: Spec = TOWER) -> list[Finding]:
    """Return what is wrong with the answer to a request.

    Args:
        message: The answer.
        name: Of the request.
        asked: What it wanted.
        spec: The dialect.
    """
    findings = list(pair(message, name, spec.codes[name], spec))
    reply = spec.replies[name]
    result = message.value("Result")
    if result is None or result not in RESULTS:
        shown = "no Result" if result is None else f"Result {result!r}"
        findings.append(spec.found(Rule.RESULT, f"{shown}, not 0 or 1", f"Result 为 {result!r}，应为0或1"))
    elif result not in ("0", "1"):
        findings.append(
            spec.found(
                Rule.RESULT,
                f"Result {result!r} is a word",
                f"Result {result!r} 应为数字",
                evidence=Evidence.RECONSTRUCTED,
            )
        )
    answering = message.value(spec.unit_names[0])
    if asked.unit_id is not None and answering != asked.unit_id:
        findings.append(
            spec.found(
                Rule.UNIT_ID,
                f"unit {answering!r} answers for {asked.unit_id!r}",
                f"询问 {asked.unit_id!r}，应答为 {answering!r}",
            )
        )
    if not RESULTS.get(result or ""):
        findings += _refused(spec, message, reply)
        if reply.body is Body.OUTCOME and spec.name == "T":
            findings += outcome(spec, message.info, asked, accepted=False)
        return findings
    findings += judged_fields(spec, message.info, reply.fields, reply.evidence)
    findings += _body(spec, message.info, reply, asked)
    return findings


def pair(message: Message, name: str, code: int, spec: Spec) -> Iterator[Finding]:
    """Yield what is wrong with the name and code of an answer."""
    expected = (ack_name(name), code + 1)
    if message.root != "Response" or (message.name, message.code) != expected:
        yield spec.found(
            Rule.NAME_CODE,
            f"{message.root} {message.name} {message.code}, expected {expected}",
            f"应答为 {message.root} {message.name} {message.code}，应为 {expected[0]} {expected[1]}",
        )


def values_of(info: etree._Element, spec: Spec) -> dict[str, list[Mapping[str, str]]]:
    """Return the attributes of every value by device."""
    found: dict[str, list[Mapping[str, str]]] = {}
    for device in info.iter("Device"):
        place = found.setdefault(device.get(spec.device_names[0], ""), [])
        for value in device.iter("TSemaphore", "TThreshold"):
            place.append({str(name): str(text) for name, text in value.attrib.items()})
    return found


def _refused(spec: Spec, message: Message, reply: Reply) -> Iterator[Finding]:
    plain = [each for each in reply.fields if each.name in ("FailureCode", "FailureCause")]
    yield from judged_fields(spec, message.info, plain, reply.evidence)
    if spec.has_failure and not message.value("FailureCode") and message.value("Result") is not None:
        yield spec.found(Rule.FAILURE, "a refusal without FailureCode", "失败应答未带FailureCode")


def _body(spec: Spec, info: etree._Element, reply: Reply, asked: Asked) -> Iterator[Finding]:
    match reply.body:
        case Body.VALUES | Body.HISTORY | Body.THRESHOLDS:
            yield from _values(spec, info, reply, asked)
        case Body.STATUS:
            yield from _status(spec, info)
        case Body.OUTCOME:
            yield from _outcome(spec, info, asked)
        case Body.DEVICES:
            for device in info.iter("Device"):
                yield from _device(spec, device, reply.evidence)
        case Body.ALARMS:
            yield from _alarms(spec, info)
        case Body.OPTIONS:
            for option in info.iter("TConfigOption"):
                lacking = [n for n in ("Type", "SPID", "OptionID") if not (option.get(n) or option.findtext(n))]
                if lacking:
                    names = ", ".join(lacking)
                    yield spec.found(Rule.VALUE, f"TConfigOption without {names}", f"TConfigOption 缺少 {names}")
        case Body.NOTHING:
            pass


# ---- values --------------------------------------------------------------------------------------------------


def _values(spec: Spec, info: etree._Element, reply: Reply, asked: Asked) -> Iterator[Finding]:
    tag = "TThreshold" if reply.body is Body.THRESHOLDS else "TSemaphore"
    times: dict[tuple[str, str], list[datetime]] = {}
    for device in info.iter("Device"):
        yield from _device(spec, device, reply.evidence)
        for value in device:
            if value.tag != tag:
                yield spec.found(
                    Rule.VALUE, f"{value.tag} where {tag} belongs", f"{value.tag} 处应为 {tag}", evidence=reply.evidence
                )
                continue
            yield from _value(spec, value, reply.body)
            if reply.body is Body.HISTORY:
                moment = read_local(value.get("RecordTime", ""))
                if moment is not None:
                    place = (device.get(spec.device_names[0], ""), value.get(spec.point_name, ""))
                    times.setdefault(place, []).append(moment)
    if reply.body is Body.HISTORY:
        yield from _history(spec, times, asked)
    yield from _selection(spec, info, asked, repeated=reply.body is Body.HISTORY)


def _device(spec: Spec, device: etree._Element, evidence: Evidence | None) -> Iterator[Finding]:
    for name in spec.device_names:
        text = device.get(name)
        if text is None:
            yield spec.found(Rule.MISSING_FIELD, f"Device without {name}", f"Device 缺少属性 {name}", evidence=evidence)
        elif not _is_digits(text, spec.device_digits):
            yield spec.found(
                Rule.DEVICE_ID,
                f"Device {name} {text!r} is not {spec.device_digits} digits",
                f"Device {name} {text!r} 不是 {spec.device_digits} 位数字",
                evidence=evidence,
            )


def _value(spec: Spec, value: etree._Element, body: Body) -> Iterator[Finding]:
    wanted = THRESHOLD_ATTRIBUTES if body is Body.THRESHOLDS else spec.value_required
    point_id = value.get(spec.point_name, "")
    lacking = [name for name in wanted if value.get(name) is None]
    if lacking:
        names = ", ".join(lacking)
        yield spec.found(Rule.VALUE, f"point {point_id} without {names}", f"监控点 {point_id} 缺少属性 {names}")
    if not _is_digits(point_id, spec.point_digits):
        yield spec.found(
            Rule.POINT_ID,
            f"{point_id!r} is not {spec.point_digits} digits",
            f"{point_id!r} 不是 {spec.point_digits} 位数字",
        )
    for name, allowed in (("Type", spec.point_types), ("Status", spec.states)):
        text = value.get(name)
        if text is not None and text not in allowed:
            yield spec.found(
                Rule.VALUE,
                f"point {point_id}: {name} {text!r} is none of {' '.join(sorted(allowed))}",
                f"监控点 {point_id}：{name} {text!r} 不在枚举 {' '.join(sorted(allowed))} 之内",
            )
    for name in ("MeasuredVal", "SetupVal", "Threshold", "AbsoluteVal", "RelativeVal"):
        text = value.get(name)
        may_be_empty = name != "MeasuredVal" or value.get("Status") == INVALID
        # The float of dialect T has no empty form; what of Y may be empty is not known.
        if text is None or (text == "" and may_be_empty and spec.name != "T"):
            continue
        if not _is_number(text):
            yield spec.found(
                Rule.VALUE,
                f"point {point_id}: {name} {text!r} is not a number",
                f"监控点 {point_id}：{name} {text!r} 不是数字",
            )
    recorded = value.get("RecordTime")
    if recorded is None and body is Body.HISTORY:
        yield spec.found(Rule.HISTORY, f"point {point_id} without RecordTime", f"监控点 {point_id} 缺少RecordTime")
    elif recorded and read_local(recorded) is None:
        yield spec.found(
            Rule.TIME_FORM,
            f"RecordTime {recorded!r} is not YYYY-MM-DD hh:mm:ss",
            f"RecordTime {recorded!r} 不是YYYY-MM-DD hh:mm:ss",
        )


def _history(spec: Spec, times: Mapping[tuple[str, str], list[datetime]], asked: Asked) -> Iterator[Finding]:
    for (_, point_id), moments in times.items():
        hours = [int(moment.timestamp()) // HOUR_S for moment in moments]
        if spec.name == "T" and len(set(hours)) != len(hours):
            yield spec.found(
                Rule.HISTORY, f"point {point_id} twice in an hour", f"监控点 {point_id} 同一小时内有多个值"
            )
        outside = [m for m in moments if (asked.start and m < asked.start) or (asked.end and m > asked.end)]
        if outside:
            yield spec.found(
                Rule.HISTORY,
                f"point {point_id} at {outside[0]:%Y-%m-%d %H:%M:%S}, outside what was asked",
                f"监控点 {point_id} 的时间 {outside[0]:%Y-%m-%d %H:%M:%S} 不在所询时段内",
            )


def _selection(spec: Spec, info: etree._Element, asked: Asked, *, repeated: bool) -> Iterator[Finding]:
    if asked.points is None:
        return
    found = {
        device: [value.get(spec.point_name, "") for value in values] for device, values in values_of(info, spec).items()
    }
    for device, ids in found.items():
        if not repeated and len(set(ids)) != len(ids):
            yield spec.found(Rule.SELECTION, f"device {device}: a point more than once", f"设备 {device}：监控点重复")
    if "9" * spec.device_digits in asked.points:
        return
    for device in found.keys() - asked.points.keys():
        yield spec.found(Rule.SELECTION, f"device {device} was not asked for", f"未询问设备 {device}")
    if repeated:
        return  # a point without history has no value
    for device, wanted in asked.points.items():
        ids = found.get(device, [])
        if "9" * spec.point_digits in wanted:
            continue
        for point_id in set(wanted) - set(ids):
            yield spec.found(
                Rule.SELECTION,
                f"point {point_id} of device {device} was asked for and is not there",
                f"所询设备 {device} 监控点 {point_id} 未应答",
            )
        for point_id in set(ids) - set(wanted):
            yield spec.found(
                Rule.SELECTION,
                f"point {point_id} of device {device} was not asked for",
                f"未询问设备 {device} 监控点 {point_id}",
            )


# ---- other bodies ----------------------------------------------------------------------------------------------


def _status(spec: Spec, info: etree._Element) -> Iterator[Finding]:
    holder = child(info, spec.status_field)
    if holder is None:
        return
    for name in spec.status:
        found = child(holder, name)
        text = "" if found is None else (found.text or "").strip()
        if found is None:
            yield spec.found(Rule.MISSING_FIELD, f"{name} missing", f"缺少 {name}")
        elif name.endswith("DateTime"):
            if read_local(text) is None:
                yield spec.found(
                    Rule.TIME_FORM,
                    f"{name} {text!r} is not YYYY-MM-DD hh:mm:ss",
                    f"{name} {text!r} 不是YYYY-MM-DD hh:mm:ss",
                )
        elif not (_is_number(text) and 0 <= float(text) <= 100):
            yield spec.found(Rule.FIELD_VALUE, f"{name} {text!r} is not a percentage", f"{name} {text!r} 不是百分数")


def _outcome(spec: Spec, info: etree._Element, asked: Asked) -> Iterator[Finding]:
    if spec.name != "T":
        return  # the body of Y is not public
    yield from outcome(spec, info, asked, accepted=True)


def outcome(spec: Spec, info: etree._Element, asked: Asked, *, accepted: bool) -> Iterator[Finding]:
    """Yield what is wrong with SuccessList and FailList.

    Args:
        spec: The dialect.
        info: Of the answer.
        asked: With the orders.
        accepted: Whether Result is 1.
    """
    done, failed = (
        {
            (device.get(spec.device_names[0], ""), (point.text or "").strip())
            for device in info.iter("Device")
            for holder in device.iter(tag)
            for point in holder
        }
        for tag in ("SuccessList", "FailList")
    )
    for device, point_id in asked.orders:
        times = ((device, point_id) in done) + ((device, point_id) in failed)
        if times != 1:
            yield spec.found(
                Rule.ORDER_OUTCOME,
                f"point {point_id} stands in {times} of SuccessList and FailList",
                f"监控点 {point_id} 在SuccessList与FailList中出现 {times} 次",
            )
    if accepted and failed:
        yield spec.found(Rule.ORDER_OUTCOME, "Result 1 although points failed", "有监控点失败但Result为1")


def _alarms(spec: Spec, info: etree._Element) -> Iterator[Finding]:
    for alarm in info.iter("TAlarm"):
        event = read_event(spec, alarm)
        yield from judged_fields(spec, alarm, spec.alarm)
        yield from unit_id_findings(spec, event.unit_id)
        if event.flag != "BEGIN":
            yield spec.found(
                Rule.FLAG,
                f"alarm {event.serial} is active and has the flag {event.flag!r}",
                f"当前告警 {event.serial} 的标志为 {event.flag!r}",
            )


def _is_digits(text: str, number: int) -> bool:
    return text.isascii() and text.isdecimal() and len(text) == number


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
