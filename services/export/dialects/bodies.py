"""Neutral messages to the facts of a body and back: what every dialect has in common.

``KINDS`` says which facts the body of each operation can hold; a dialect's file gives them their places.
Facts are texts as they stand on the wire: numbers, times and enumerations have been put into the dialect's
words here.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from libs.common.clock import CIVIL_ZONE
from libs.common.errors import InvalidInput
from services.export.dialects import messages as m
from services.export.dialects.messages import Operation
from services.export.dialects.shapes import Facts

if TYPE_CHECKING:
    from services.export.dialects.base import Command, Dialect


class MalformedMessage(InvalidInput):
    """Well-formed XML that is no message of the dialect: a part is missing or cannot be read."""

    code = "malformed_message"
    title_zh = "B接口报文有误"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Facts that can be said in one place, and the lists with what their items can say besides."""

    facts: frozenset[str]
    lists: Mapping[str, "Vocabulary"] = field(default_factory=dict)


def _says(*facts: str, **lists: Vocabulary) -> Vocabulary:
    return Vocabulary(frozenset(facts), lists)


_UNIT = ("unit.id", "unit.code")
_POINT = ("point.id", "point.base", "point.number")
_DEVICE = ("device.id", "device.code")
_OUTCOME = (*_UNIT, "result", "failure.code", "failure.cause")
_VALUE = _says(*_POINT, "point.type", "value", "state", "recorded_at")
_THRESHOLD = _says(*_POINT, "point.type", "threshold", "absolute", "relative", "level", "alarm.network_id")
_ALARM = _says(
    *_UNIT, *_DEVICE, *_POINT, "alarm.serial", "alarm.at", "alarm.began_at", "alarm.ended_at", "alarm.level",
    "alarm.flag", "alarm.text", "alarm.detail", "alarm.value", "alarm.network_id",
)  # fmt: skip
_DELAY = _says(*_POINT, "point.type", "delay.begin", "delay.end")
_RULE = _says(*_POINT, "point.type", "absolute", "relative", "interval", "reference")
_DESCRIBED = _says(
    *_DEVICE, "device.name", "device.signals", *(f"device.{detail}" for detail in m.DeviceDetail),
    signals=_says(*_POINT, "point.type", "point.name", "threshold", "level", "alarm.network_id"),
)  # fmt: skip
_TIME = ("time.year", "time.month", "time.day", "time.hour", "time.minute", "time.second", "time.text")
_FACTS = tuple(f"facts.{name}" for name in m.UnitFacts.__dataclass_fields__)

_ASKED = _says(*_UNIT, devices=_says(*_DEVICE, points=_says(*_POINT)))
_ORDERS = _says(*_UNIT, devices=_says(*_DEVICE, orders=_says(*_POINT, "point.type", "value")))
_NAMED = _says(*_UNIT)
_DONE = _says(*_OUTCOME)
_VALUES = _says(*_OUTCOME, devices=_says(*_DEVICE, values=_VALUE))
_WRITTEN = _says(*_OUTCOME, devices=_says(*_DEVICE, done=_says(*_POINT), failed=_says(*_POINT)))
_ACCOUNT = ("account.username", "account.password", "account.port")

KINDS: Mapping[Operation, tuple[Vocabulary, Vocabulary]] = {
    Operation.REGISTER: (
        _says(*_UNIT, *_FACTS, "account.username", "account.password", "account.password_md5", devices=_says(*_DEVICE)),
        _says(*_OUTCOME, "right", "centre.address"),
    ),
    Operation.REPORT_ALARMS: (_says(*_UNIT, alarms=_ALARM), _DONE),
    Operation.READ_POINTS: (_ASKED, _VALUES),
    Operation.READ_HISTORY: (Vocabulary(_ASKED.facts | {"start", "end"}, _ASKED.lists), _VALUES),
    Operation.WRITE_POINTS: (_ORDERS, _WRITTEN),
    Operation.READ_THRESHOLDS: (_ASKED, _says(*_OUTCOME, devices=_says(*_DEVICE, thresholds=_THRESHOLD))),
    Operation.WRITE_THRESHOLDS: (_ORDERS, _WRITTEN),
    Operation.CHECK_TIME: (_says(*_UNIT, *_TIME), _DONE),
    Operation.READ_TIME: (_NAMED, _says(*_OUTCOME, *_TIME)),
    Operation.READ_REGISTRATION: (
        _NAMED,
        _says(*_OUTCOME, *_FACTS, "centre.address", "tunnel.address", devices=_says(*_DEVICE)),
    ),
    Operation.WRITE_REGISTRATION: (_says(*_UNIT, "centre.address", devices=_says(*_DEVICE)), _DONE),
    Operation.WRITE_LOGIN_ACCOUNT: (_says(*_UNIT, "account.username", "account.password"), _DONE),
    Operation.READ_FILE_ACCOUNT: (_NAMED, _says(*_OUTCOME, *_ACCOUNT)),
    Operation.WRITE_FILE_ACCOUNT: (_says(*_UNIT, *_ACCOUNT), _DONE),
    Operation.READ_STATUS: (_NAMED, _says(*_OUTCOME, "status.cpu", "status.memory", "status.time")),
    Operation.READ_ALARMS: (_NAMED, _says(*_OUTCOME, alarms=_ALARM)),
    Operation.SET_HEARTBEAT: (_says(*_UNIT, "interval"), _DONE),
    Operation.RESTART: (_NAMED, _DONE),
    Operation.READ_OPTIONS: (
        _says(*_UNIT, *_DEVICE, *_POINT),
        _says(*_OUTCOME, devices=_says(*_DEVICE, options=_says(*_POINT, "point.type", "option"))),
    ),
    Operation.WRITE_OPTIONS: (
        _says(*_UNIT, devices=_says(*_DEVICE, orders=_says(*_POINT, "point.type", "option"))),
        _WRITTEN,
    ),
    Operation.READ_DELAYS: (_ASKED, _says(*_OUTCOME, devices=_says(*_DEVICE, delays=_DELAY))),
    Operation.WRITE_DELAYS: (_says(*_UNIT, devices=_says(*_DEVICE, orders=_DELAY)), _WRITTEN),
    Operation.READ_STORAGE: (_ASKED, _says(*_OUTCOME, devices=_says(*_DEVICE, rules=_RULE))),
    Operation.WRITE_STORAGE: (_says(*_UNIT, devices=_says(*_DEVICE, orders=_RULE)), _WRITTEN),
    Operation.READ_DEVICES: (_says(*_UNIT, *_DEVICE), _says(*_OUTCOME, devices=_DESCRIBED)),
    Operation.WRITE_DEVICES: (
        _says(*_UNIT, devices=_DESCRIBED),
        _says(*_OUTCOME, done=_says(*_DEVICE), failed=_says(*_DEVICE)),
    ),
    Operation.SEND_DEVICES: (_says(*_UNIT, devices=_DESCRIBED), _DONE),
    Operation.SEND_POINTS: (_says(*_UNIT, devices=_says(*_DEVICE, values=_VALUE)), _DONE),
    Operation.SEND_HISTORY: (_says(*_UNIT, devices=_says(*_DEVICE, values=_VALUE)), _DONE),
    Operation.UNREGISTER: (_NAMED, _DONE),
    Operation.ASK_SCHEME: (_NAMED, _DONE),
    Operation.READY: (_NAMED, _DONE),
}
"""Facts of the request and of the reply, per operation. An operation that is not here is known and refused."""

UPWARD = frozenset(
    {
        Operation.REGISTER,
        Operation.UNREGISTER,
        Operation.REPORT_ALARMS,
        Operation.ASK_SCHEME,
        Operation.READY,
        Operation.ASK_FACTORY,
        Operation.SEND_FACTORY,
        Operation.SEND_DEVICES,
        Operation.SEND_POINTS,
        Operation.SEND_HISTORY,
        Operation.SEND_PAST_ALARMS,
    }
)
"""What a unit asks of its centre; all else a centre asks of its units."""

REFUSAL = _DONE
"""Facts of the no that fits any command."""


# ---- what we say --------------------------------------------------------------------------------------


def facts_of(dialect: "Dialect", message: m.UnitRequest | m.UnitReply) -> dict[str, Any]:
    """Return the facts of a request or reply of ours."""
    unit = message.unit
    facts: dict[str, Any] = {
        "unit.id": None if unit is None else unit.unit_id,
        "unit.code": None if unit is None else unit.unit_code,
    }
    ok = getattr(message, "ok", None)
    if ok is not None:
        facts |= {
            "result": dialect.results[ok],
            "failure.code": None,  # only the two ends of the one known list of codes are public
            "failure.cause": dialect.no_failure
            if ok
            else cut_utf8(getattr(message, "reason", ""), dialect.cause_bytes),
        }
    return {**facts, **_SAYS[type(message)](dialect, message)}


def _register(_: "Dialect", message: m.Register) -> Facts:
    return {
        **_facts(message.facts),
        "account.username": message.username,
        "account.password": message.password,
        # The text of dialect M asks for it; it protects nothing.
        "account.password_md5": hashlib.md5(message.password.encode(), usedforsecurity=False).hexdigest(),
        "devices": [_device(each) for each in message.devices],
    }


def _alarms(dialect: "Dialect", message: m.ReportAlarms | m.ActiveAlarms) -> Facts:
    return {"alarms": [_alarm(dialect, message.unit, each) for each in message.alarms]}


def _alarm(dialect: "Dialect", unit: m.UnitRef, alarm: m.AlarmReport) -> Facts:
    return {
        "unit.id": unit.unit_id,
        "unit.code": unit.unit_code,
        **_device(alarm.device),
        **_point(dialect, alarm.point_id),
        "alarm.serial": f"{alarm.serial:010d}",
        "alarm.at": local_time(alarm.at),
        "alarm.began_at": local_time(alarm.began_at),
        "alarm.ended_at": local_time(alarm.at) if alarm.flag is m.AlarmFlag.END else None,
        "alarm.level": dialect.levels[alarm.level],
        "alarm.flag": dialect.flags[alarm.flag],
        "alarm.text": alarm.text,
        "alarm.detail": alarm.detail or alarm.text,
        "alarm.value": number(alarm.value, dialect.no_value),
        "alarm.network_id": alarm.network_alarm,
    }


def _values(dialect: "Dialect", message: m.PointValues | m.ReportPoints) -> Facts:
    return {
        "devices": [
            {**_device(each.device), "values": [_value(dialect, value) for value in each.values]}
            for each in message.devices
        ]
    }


def _value(dialect: "Dialect", value: m.PointValue) -> Facts:
    return {
        **_point(dialect, value.point_id),
        "point.type": dialect.point_types[value.type],
        "value": number(value.value, dialect.no_value),
        "state": dialect.states[value.state],
        "recorded_at": None if value.recorded_at is None else local_time(value.recorded_at),
    }


def _thresholds(dialect: "Dialect", message: m.Thresholds) -> Facts:
    return {
        "devices": [
            {
                **_device(each.device),
                "thresholds": [
                    {
                        **_point(dialect, one.point_id),
                        "point.type": dialect.point_types[one.type],
                        "threshold": number(one.value, dialect.no_value),
                        "absolute": number(one.absolute, dialect.no_value),
                        "relative": number(one.relative, dialect.no_value),
                        "level": str(one.level),
                        "alarm.network_id": one.network_alarm,
                    }
                    for one in each.thresholds
                ],
            }
            for each in message.devices
        ]
    }


def _write_outcome(dialect: "Dialect", message: m.WriteOutcome) -> Facts:
    return {
        "devices": [
            {
                **_device(each.device),
                "done": [_point(dialect, point) for point in each.done],
                "failed": [_point(dialect, point) for point in each.failed],
            }
            for each in message.devices
        ]
    }


def _described(dialect: "Dialect", message: m.DeviceDescriptions | m.ReportDevices) -> Facts:
    return {
        "devices": [
            {
                **_device(each.device),
                "device.name": each.name,
                "device.signals": str(len(each.signals)),
                **{f"device.{detail}": each.details.get(detail, "") for detail in m.DeviceDetail},
                "signals": [
                    {
                        **_point(dialect, one.point_id),
                        "point.type": dialect.point_types[one.type],
                        "point.name": one.name,
                        "threshold": number(one.threshold, ""),
                        "level": "" if one.level is None else dialect.levels[one.level],
                        "alarm.network_id": one.network_alarm,
                    }
                    for one in each.signals
                ],
            }
            for each in message.devices
        ]
    }


def _devices_written(_: "Dialect", message: m.DevicesWritten) -> Facts:
    return {"done": [_device(each) for each in message.done], "failed": [_device(each) for each in message.failed]}


def _options(dialect: "Dialect", message: m.PointOptions) -> Facts:
    return {
        "devices": [
            {
                **_device(each.device),
                "options": [
                    {
                        **_point(dialect, one.point_id),
                        "point.type": dialect.point_types[one.type],
                        "option": one.option_id,
                    }
                    for one in each.options
                ],
            }
            for each in message.devices
        ]
    }


def _delays(dialect: "Dialect", message: m.Delays) -> Facts:
    return {
        "devices": [
            {
                **_device(each.device),
                "delays": [
                    {
                        **_point(dialect, one.point_id),
                        "point.type": dialect.point_types[one.type],
                        "delay.begin": number(one.begin_s, ""),
                        "delay.end": number(one.end_s, ""),
                    }
                    for one in each.delays
                ],
            }
            for each in message.devices
        ]
    }


def _rules(dialect: "Dialect", message: m.StorageRules) -> Facts:
    return {
        "devices": [
            {
                **_device(each.device),
                "rules": [
                    {
                        **_point(dialect, one.point_id),
                        "point.type": dialect.point_types[one.type],
                        "absolute": None,
                        "relative": None,
                        "interval": str(one.interval_min),
                        "reference": local_time(one.reference),
                    }
                    for one in each.rules
                ],
            }
            for each in message.devices
        ]
    }


def _facts(facts: m.UnitFacts) -> Facts:
    return {f"facts.{name}": str(getattr(facts, name)) for name in m.UnitFacts.__dataclass_fields__}


def _registration(_: "Dialect", message: m.Registration) -> Facts:
    return {
        **_facts(message.facts),
        "centre.address": message.centre_address,
        "tunnel.address": message.tunnel_address,
        "devices": [_device(each) for each in message.devices],
    }


def _account(_: "Dialect", message: m.FileAccount) -> Facts:
    return {
        "account.username": message.username,
        "account.password": message.password,
        "account.port": str(message.port),
    }


def _status(_: "Dialect", message: m.UnitStatus) -> Facts:
    return {
        "status.cpu": f"{message.cpu_percent:.1f}",
        "status.memory": f"{message.memory_percent:.1f}",
        "status.time": None if message.time is None else local_time(message.time),
    }


def _unit_time(_: "Dialect", message: m.UnitTime) -> Facts:
    at = message.time.astimezone(CIVIL_ZONE)
    parts = ("%Y", "%m", "%d", "%H", "%M", "%S")
    return {
        **{name: at.strftime(part) for name, part in zip(_TIME, parts, strict=False)},
        "time.text": local_time(message.time),
    }


def _nothing_more(_: "Dialect", __: object) -> Facts:
    return {}


_SAYS: Mapping[type, Callable[["Dialect", Any], Facts]] = {
    m.Register: _register,
    m.ReportAlarms: _alarms,
    m.ActiveAlarms: _alarms,
    m.PointValues: _values,
    m.ReportPoints: _values,
    m.Thresholds: _thresholds,
    m.WriteOutcome: _write_outcome,
    m.Registration: _registration,
    m.PointOptions: _options,
    m.StorageRules: _rules,
    m.Delays: _delays,
    m.DeviceDescriptions: _described,
    m.ReportDevices: _described,
    m.DevicesWritten: _devices_written,
    m.FileAccount: _account,
    m.UnitStatus: _status,
    m.UnitTime: _unit_time,
    m.Unregister: _nothing_more,
    m.Announce: _nothing_more,
    m.Outcome: _nothing_more,
}


def _device(device: m.DeviceRef) -> Facts:
    return {"device.id": device.device_id, "device.code": device.device_code}


def _point(dialect: "Dialect", point_id: str) -> Facts:
    base, running = dialect.split_point(point_id)
    return {"point.id": point_id, "point.base": base, "point.number": running}


# ---- what a centre says ---------------------------------------------------------------------------------


def request_of(dialect: "Dialect", command: "Command", facts: Facts) -> m.CentreRequest:
    """Return the request that a body's facts are.

    Raises:
        MalformedMessage: A part is missing or cannot be read.
    """
    named = facts.get("unit.id") not in (None, "", dialect.no_value)
    match command.operation:  # what may name no unit
        case Operation.CHECK_TIME:
            return m.CheckTime(_unit(dialect, facts) if named else None, _time(facts))
        case Operation.SET_HEARTBEAT:
            return _heartbeat(_unit(dialect, facts) if named else None, facts)
        case Operation.WRITE_LOGIN_ACCOUNT:
            account = facts.get("account.username") or "", facts.get("account.password") or ""
            return m.WriteLoginAccount(_unit(dialect, facts) if named else None, *account)
    unit = _unit(dialect, facts)
    if command.operation is Operation.READ_POINTS:
        return m.ReadPoints(unit, _selection(dialect, facts), command.types)
    return _ASKS[command.operation](dialect, unit, facts)


def _read_history(dialect: "Dialect", unit: m.UnitRef, facts: Facts) -> m.ReadHistory:
    if "start" not in facts:  # the dialect asks for the current day only
        return m.ReadHistory(unit, _selection(dialect, facts), None, None)
    start, end = (read_local_time(facts.get(name), name) for name in ("start", "end"))
    return m.ReadHistory(unit, _selection(dialect, facts), start, end)


def _heartbeat(unit: m.UnitRef | None, facts: Facts) -> m.SetHeartbeat:
    seconds = _float(facts.get("interval"))
    if seconds is None or seconds <= 0:
        raise MalformedMessage(f"interval: expected seconds above 0, found {facts.get('interval')!r}")
    return m.SetHeartbeat(unit, seconds)


def _write_account(_: "Dialect", unit: m.UnitRef, facts: Facts) -> m.WriteFileAccount:
    port = facts.get("account.port")
    return m.WriteFileAccount(
        unit,
        facts.get("account.username") or "",
        facts.get("account.password") or "",
        int(port) if port and re.fullmatch(r"[0-9]{1,5}", port) else None,
    )


_ASKS: Mapping[Operation, Callable[["Dialect", m.UnitRef, Facts], m.CentreRequest]] = {
    Operation.READ_HISTORY: _read_history,
    Operation.READ_THRESHOLDS: lambda dialect, unit, facts: m.ReadThresholds(unit, _selection(dialect, facts)),
    Operation.WRITE_POINTS: lambda dialect, unit, facts: m.WritePoints(unit, _orders(dialect, facts)),
    Operation.WRITE_THRESHOLDS: lambda dialect, unit, facts: m.WriteThresholds(unit, _orders(dialect, facts)),
    Operation.READ_TIME: lambda _, unit, __: m.ReadTime(unit),
    Operation.READ_REGISTRATION: lambda _, unit, __: m.ReadRegistration(unit),
    Operation.WRITE_REGISTRATION: lambda _, unit, facts: m.WriteRegistration(unit, facts.get("centre.address") or ""),
    Operation.READ_FILE_ACCOUNT: lambda _, unit, __: m.ReadFileAccount(unit),
    Operation.WRITE_FILE_ACCOUNT: _write_account,
    Operation.READ_STATUS: lambda _, unit, __: m.ReadStatus(unit),
    Operation.READ_ALARMS: lambda _, unit, __: m.ReadAlarms(unit),
    Operation.RESTART: lambda _, unit, __: m.Restart(unit),
    Operation.READ_OPTIONS: lambda dialect, unit, facts: m.ReadOptions(
        unit, _selection(dialect, {"devices": [{**facts, "points": [facts]}]})
    ),
    Operation.READ_DELAYS: lambda dialect, unit, facts: m.ReadDelays(unit, _selection(dialect, facts)),
    Operation.WRITE_DELAYS: lambda dialect, unit, facts: m.WriteDelays(unit, _delay_orders(dialect, facts)),
    Operation.READ_STORAGE: lambda dialect, unit, facts: m.ReadStorage(unit, _selection(dialect, facts)),
    Operation.WRITE_STORAGE: lambda dialect, unit, facts: m.WriteStorage(unit, _rule_orders(dialect, facts)),
    Operation.WRITE_OPTIONS: lambda dialect, unit, facts: m.WriteOptions(unit, _option_orders(dialect, facts)),
    Operation.READ_DEVICES: lambda _, unit, facts: m.ReadDevices(unit, _device_ref(facts)),
    Operation.WRITE_DEVICES: lambda dialect, unit, facts: m.WriteDevices(unit, _device_orders(dialect, facts)),
}


def reply_of(dialect: "Dialect", operation: Operation, facts: Facts) -> m.CentreReply:
    """Return the answer to a request of ours that a body's facts are."""
    result = facts.get("result")
    reason = facts.get("failure.cause") or ""
    if operation is not Operation.REGISTER:
        return m.Outcome(None, dialect.is_yes(result), reason, log_in_again=dialect.is_again(result))
    text = facts.get("right") or ""
    right = int(text) if re.fullmatch(r"[0-9]{1,4}", text) else None
    accepted = bool(right) if dialect.accepted_by_right else dialect.is_yes(result)
    return m.Registered(accepted, right, facts.get("centre.address") or None, reason)


def _unit(dialect: "Dialect", facts: Facts) -> m.UnitRef:
    if not facts.get("unit.id"):
        raise MalformedMessage(f"{dialect.unit_fields[0]}: missing")
    return m.UnitRef(facts["unit.id"], facts.get("unit.code") or "")


def _device_ref(facts: Facts) -> m.DeviceRef:
    return m.DeviceRef(facts.get("device.id") or "", facts.get("device.code") or "")


def _point_id(dialect: "Dialect", facts: Facts) -> str:
    base, running = facts.get("point.base"), facts.get("point.number")
    if not base:
        return facts.get("point.id") or ""
    return base if running in (None, "", dialect.no_number) else f"{base}{dialect.number_separator}{running}"


def _selection(dialect: "Dialect", facts: Facts) -> tuple[m.DeviceSelection, ...]:
    """Return which points are asked for; wildcards become None."""
    everything = (m.DeviceSelection(device=None, points=None),)
    if dialect.empty_is_all and not facts["devices"]:
        return everything
    selection = []
    for each in facts["devices"]:
        device = _device_ref(each)
        if dialect.device_wildcard and dialect.device_wildcard in (device.device_id, device.device_code):
            return everything
        if dialect.empty_is_all and not device.device_id:
            return everything
        points = tuple(point for one in each["points"] if (point := _point_id(dialect, one)))
        every_point = dialect.point_wildcard in points if dialect.point_wildcard else False
        every_point = every_point or (dialect.empty_is_all and not points)
        selection.append(m.DeviceSelection(device, None if every_point else points))
    return tuple(selection)


def _orders(dialect: "Dialect", facts: Facts) -> tuple[m.PointOrder, ...]:
    types = {text: kind for kind, text in dialect.point_types.items()}
    orders = []
    for each in facts["devices"]:
        for order in each["orders"]:
            point_id = _point_id(dialect, order)
            if not point_id:
                raise MalformedMessage("the id of a point that is to be set: missing")
            kind = types.get(order.get("point.type") or "")
            orders.append(m.PointOrder(_device_ref(each), point_id, _float(order.get("value")), kind))
    return tuple(orders)


def _rule_orders(dialect: "Dialect", facts: Facts) -> tuple[m.RuleOrder, ...]:
    orders = []
    for each in facts["devices"]:
        for order in each["orders"]:
            point_id = _point_id(dialect, order)
            if not point_id:
                raise MalformedMessage("the id of a point whose storage is ordered: missing")
            numbers = (_float(order.get(name)) for name in ("interval", "absolute", "relative"))
            orders.append(m.RuleOrder(_device_ref(each), point_id, *numbers))
    return tuple(orders)


def _delay_orders(dialect: "Dialect", facts: Facts) -> tuple[m.DelayOrder, ...]:
    orders = []
    for each in facts["devices"]:
        for order in each["orders"]:
            point_id = _point_id(dialect, order)
            if not point_id:
                raise MalformedMessage("the id of a signal whose delays are ordered: missing")
            texts = [order.get(name) for name in ("delay.begin", "delay.end")]
            begin_s, end_s = (_float(text) for text in texts)
            unreadable = any(text and _float(text) is None for text in texts)
            orders.append(m.DelayOrder(_device_ref(each), point_id, begin_s, end_s, unreadable))
    return tuple(orders)


def _option_orders(dialect: "Dialect", facts: Facts) -> tuple[m.OptionOrder, ...]:
    orders = []
    for each in facts["devices"]:
        for order in each["orders"]:
            point_id = _point_id(dialect, order)
            if not point_id:
                raise MalformedMessage("the id of a point whose option is to be chosen: missing")
            orders.append(m.OptionOrder(_device_ref(each), point_id, order.get("option") or ""))
    return tuple(orders)


def _device_orders(dialect: "Dialect", facts: Facts) -> tuple[m.DeviceOrder, ...]:
    orders = []
    for each in facts["devices"]:
        if not each.get("device.id"):
            raise MalformedMessage("the id of a device that is to be described: missing")
        details = {
            detail: text for detail in m.DeviceDetail if (text := _said(dialect, each, f"device.{detail}")) is not None
        }
        signals = tuple(_signal_order(dialect, one) for one in each["signals"])
        orders.append(m.DeviceOrder(_device_ref(each), _said(dialect, each, "device.name"), details, signals))
    return tuple(orders)


def _signal_order(dialect: "Dialect", facts: Facts) -> m.SignalOrder:
    point_id = _point_id(dialect, facts)
    if not point_id:
        raise MalformedMessage("the id of a signal that is to be described: missing")
    types = {text: kind for kind, text in dialect.point_types.items()}
    levels = {text: level for level, text in dialect.levels.items()}
    type_, threshold, level = (_said(dialect, facts, name) for name in ("point.type", "threshold", "level"))
    number_said = _float(threshold)
    wrong = {
        "type": bool(type_) and type_ not in types,
        "threshold": bool(threshold) and number_said is None,
        "level": bool(level) and level not in levels,
    }
    return m.SignalOrder(
        point_id=point_id,
        type=types.get(type_ or ""),
        name=_said(dialect, facts, "point.name"),
        threshold=number_said,
        level=levels.get(level or ""),
        network_alarm=_said(dialect, facts, "alarm.network_id"),
        unreadable=next((name for name, found in wrong.items() if found), ""),
    )


def _said(dialect: "Dialect", facts: Facts, name: str) -> str | None:
    """Return a text that may be left out; what stands for a value that there is none of is an empty one."""
    text: str | None = facts.get(name)
    return "" if text is not None and text == dialect.no_value else text


def _time(facts: Facts) -> datetime:
    if facts.get("time.text"):
        return read_local_time(facts["time.text"], "time")
    parts = [facts.get(name) or "" for name in _TIME[:6]]
    try:
        year, month, day, hour, minute, second = (int(part) for part in parts)
        return datetime(year, month, day, hour, minute, second, tzinfo=CIVIL_ZONE)
    except ValueError:
        raise MalformedMessage(f"time: expected year, month, day, hour, minute, second, found {parts}") from None


# ---- texts ----------------------------------------------------------------------------------------------


def cut_utf8(text: str, limit: int) -> str:
    """Return as many whole characters of the text as fit into ``limit`` bytes of UTF-8."""
    return text.encode()[:limit].decode(errors="ignore")


def number(value: float | None, missing: str) -> str:
    """Return a value as text: plain digits, at most four decimals, never an exponent."""
    if value is None:
        return missing
    text = f"{value:.4f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


@lru_cache(maxsize=1024)  # a device's values have one time, and a large answer has thousands of values
def local_time(value: datetime) -> str:
    """Return ``YYYY-MM-DD hh:mm:ss`` in China's civil time."""
    return value.astimezone(CIVIL_ZONE).strftime("%Y-%m-%d %H:%M:%S")


def read_local_time(text: str | None, what: str) -> datetime:
    """Return an instant from such a text.

    Raises:
        MalformedMessage: It is no such text; nothing is guessed.
    """
    try:
        plain = (text or "").replace("T", " ").replace("/", "-")
        return datetime.strptime(plain, "%Y-%m-%d %H:%M:%S").replace(tzinfo=CIVIL_ZONE)
    except ValueError:
        raise MalformedMessage(f"{what}: expected YYYY-MM-DD hh:mm:ss, found {text!r}") from None


def _float(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None
