"""Dialect T: 《中国铁塔动环监控系统 统一互联B接口技术规范（试行）V1.0》, September 2016.

Names, codes, lengths and enumerations are from the text of the specification and its WSDL. Where text
and practice differ, what is sent follows the structure tables and what is accepted follows both: digits
are sent for levels, ``BEGIN``/``END`` for flags. Two spellings are on the wire as they stand in the
text: ``PaSCword``, and ``Years`` beside ``Month``. The minimum of 180 s between two LOGINs is the text's
(another copy says 120 s).
"""

import re
from collections.abc import Callable
from datetime import datetime
from types import MappingProxyType

from libs.common.clock import CIVIL_ZONE
from services.export.dialects import messages as m
from services.export.dialects import xmlsafe as xml
from services.export.dialects.base import (
    Command,
    Dialect,
    MalformedMessage,
    Service,
    Writer,
    local_time,
    number,
    read_local_time,
    read_orders,
    read_result,
    read_selection,
    read_unit,
    write_devices,
    write_unit,
)

_O = m.Operation

COMMANDS = (
    Command(_O.REGISTER, "LOGIN", 101),
    Command(_O.UNREGISTER, "LOGOUT", 103),
    Command(_O.READ_POINTS, "GET_DATA", 401),
    Command(_O.READ_HISTORY, "GET_HISDATA", 403),
    Command(_O.REPORT_ALARMS, "SEND_ALARM", 501),
    Command(_O.WRITE_POINTS, "SET_POINT", 1001),
    Command(_O.CHECK_TIME, "TIME_CHECK", 1301),
    Command(_O.READ_REGISTRATION, "GET_LOGININFO", 1501),
    Command(_O.WRITE_REGISTRATION, "SET_LOGININFO", 1503),
    Command(_O.READ_FILE_ACCOUNT, "GET_FTP", 1601),
    Command(_O.WRITE_FILE_ACCOUNT, "SET_FTP", 1603),
    Command(_O.READ_STATUS, "GET_FSUINFO", 1701),
    Command(_O.RESTART, "SET_FSUREBOOT", 1801),
    Command(_O.READ_THRESHOLDS, "GET_THRESHOLD", 1901),
    Command(_O.WRITE_THRESHOLDS, "SET_THRESHOLD", 2001),
)

POINT_TYPES = {m.PointType.DI: "2", m.PointType.AI: "3", m.PointType.DO: "4", m.PointType.AO: "5"}
"""EnumType in messages. The fifth digit of a point id numbers the same kinds 0 to 3, in the same order."""

_KINDS = (m.PointType.DI, m.PointType.AI, m.PointType.DO, m.PointType.AO)

ALARM_FIELDS: tuple[tuple[str, Callable[[Dialect, m.UnitRef, m.AlarmReport], str]], ...] = (
    ("SerialNo", lambda _d, _u, alarm: f"{alarm.serial:010d}"),
    ("Id", lambda _d, _u, alarm: alarm.point_id),
    ("FsuId", lambda _d, unit, _a: unit.unit_id),
    ("FsuCode", lambda _d, unit, _a: unit.unit_code),
    ("DeviceId", lambda _d, _u, alarm: alarm.device.device_id),
    ("DeviceCode", lambda _d, _u, alarm: alarm.device.device_code),
    ("AlarmTime", lambda _d, _u, alarm: local_time(alarm.at)),
    ("AlarmLevel", lambda dialect, _u, alarm: dialect.levels[alarm.level]),
    ("AlarmFlag", lambda dialect, _u, alarm: dialect.flags[alarm.flag]),
    ("AlarmDesc", lambda _d, _u, alarm: alarm.text),
)

REGISTER_FACTS: tuple[tuple[str, Callable[[m.Register], str]], ...] = (
    ("UserName", lambda _: ""),  # reserved by the text: present and empty
    ("PaSCword", lambda _: ""),
    ("FsuId", lambda request: request.unit.unit_id),
    ("FsuCode", lambda request: request.unit.unit_code),
    ("FsuIP", lambda request: request.facts.address),
    ("MacId", lambda request: request.facts.mac),
    ("ImsiId", lambda request: request.facts.imsi),
    ("NetworkType", lambda request: request.facts.network_type),
    ("LockedNetworkType", lambda request: request.facts.locked_network_type),
    ("Carrier", lambda request: request.facts.carrier),
    ("NMVendor", lambda request: request.facts.modem_vendor),
    ("NMType", lambda request: request.facts.modem_type),
    ("Reg_Mode", lambda request: request.facts.registration_mode),
    ("FSUVendor", lambda request: request.facts.vendor),
    ("FSUType", lambda request: request.facts.type),
    ("FSUClass", lambda request: request.facts.unit_class),
    ("Version", lambda request: request.facts.version),
    ("DictVersion", lambda request: request.facts.dictionary_version),
)


# ---- bodies of the centre's requests ---------------------------------------------------------------


def _read_history(dialect: Dialect, info: xml.Element) -> m.ReadHistory:
    start = read_local_time(xml.field(info, "StartTime"), "StartTime")
    end = read_local_time(xml.field(info, "EndTime"), "EndTime")
    return m.ReadHistory(read_unit(dialect, info), read_selection(dialect, info), start, end)


def _read_time(dialect: Dialect, info: xml.Element) -> m.CheckTime:
    time = xml.child(info, "Time")
    names = (("Years", "Year"), ("Month",), ("Day",), ("Hour",), ("Minute",), ("Second",))
    parts = [xml.field(time, *spellings) or "" for spellings in names]
    try:
        year, month, day, hour, minute, second = (int(part) for part in parts)
        at = datetime(year, month, day, hour, minute, second, tzinfo=CIVIL_ZONE)
    except ValueError:
        raise MalformedMessage(f"Time: expected Years, Month, Day, Hour, Minute, Second, found {parts}") from None
    unit_id = xml.field(info, dialect.unit_fields[0])
    return m.CheckTime(unit=read_unit(dialect, info) if unit_id else None, time=at)


READERS = {
    _O.READ_POINTS: lambda d, i: m.ReadPoints(read_unit(d, i), read_selection(d, i)),
    _O.READ_HISTORY: _read_history,
    _O.READ_THRESHOLDS: lambda d, i: m.ReadThresholds(read_unit(d, i), read_selection(d, i)),
    _O.WRITE_POINTS: lambda d, i: m.WritePoints(read_unit(d, i), read_orders(d, i, "TSemaphore", "SetupVal")),
    _O.WRITE_THRESHOLDS: lambda d, i: m.WriteThresholds(read_unit(d, i), read_orders(d, i, "TThreshold", "Threshold")),
    _O.CHECK_TIME: _read_time,
    _O.READ_REGISTRATION: lambda d, i: m.ReadRegistration(read_unit(d, i)),
    _O.WRITE_REGISTRATION: lambda d, i: m.WriteRegistration(read_unit(d, i), xml.field(i, "SCIP") or ""),
    _O.READ_FILE_ACCOUNT: lambda d, i: m.ReadFileAccount(read_unit(d, i)),
    _O.WRITE_FILE_ACCOUNT: lambda d, i: m.WriteFileAccount(
        read_unit(d, i), xml.field(i, "UserName") or "", xml.field(i, "Password", "PaSCword") or ""
    ),
    _O.READ_STATUS: lambda d, i: m.ReadStatus(read_unit(d, i)),
    _O.RESTART: lambda d, i: m.Restart(read_unit(d, i)),
}


# ---- bodies of the centre's replies -----------------------------------------------------------------


def _read_registered(_: Dialect, info: xml.Element) -> m.Registered:
    # LOGIN_ACK has no Result: RightLevel 0, or none at all, is the refusal.
    text = xml.field(info, "RightLevel") or ""
    right = int(text) if re.fullmatch(r"[0-9]{1,4}", text) else None
    return m.Registered(accepted=bool(right), right=right, centre_address=xml.field(info, "SCIP") or None)


REPLY_READERS = {
    _O.REGISTER: _read_registered,
    _O.UNREGISTER: lambda _, info: m.Outcome(None, bool(read_result(info))),
    _O.REPORT_ALARMS: lambda _, info: m.Outcome(None, bool(read_result(info))),
}


# ---- bodies that we write --------------------------------------------------------------------------


def _write_register(dialect: Dialect, request: m.Register, info: xml.Element) -> None:
    for name, value in dialect.register_facts:
        xml.add(info, name, value(request))
    write_devices(dialect, info, request.devices)


def _write_alarms(dialect: Dialect, request: m.ReportAlarms, info: xml.Element) -> None:
    alarms = xml.add(xml.add(info, "Values"), "TAlarmList")
    for alarm in request.alarms:
        element = xml.add(alarms, "TAlarm")
        for name, value in dialect.alarm_fields:
            xml.add(element, name, value(dialect, request.unit, alarm))


def _result(info: xml.Element, ok: bool) -> None:
    xml.add(info, "Result", "1" if ok else "0")


def _write_outcome(dialect: Dialect, reply: m.Outcome, info: xml.Element) -> None:
    if reply.unit is not None:
        write_unit(dialect, reply.unit, info)
    _result(info, reply.ok)


def _write_values(dialect: Dialect, reply: m.PointValues, info: xml.Element) -> None:
    write_unit(dialect, reply.unit, info)
    _result(info, reply.ok)
    devices = write_devices(dialect, xml.add(info, "Values"), [each.device for each in reply.devices])
    for (_, element), each in zip(devices, reply.devices, strict=True):
        for value in each.values:
            attributes = {
                "Type": dialect.point_types[value.type],
                "Id": value.point_id,
                "MeasuredVal": number(value.value, dialect.no_value),
                "SetupVal": "0",
                "Status": dialect.states[value.state],
            }
            if value.recorded_at is not None:
                attributes["RecordTime"] = local_time(value.recorded_at)
            xml.add(element, "TSemaphore", **attributes)


def _write_write_outcome(dialect: Dialect, reply: m.WriteOutcome, info: xml.Element) -> None:
    write_unit(dialect, reply.unit, info)
    _result(info, reply.ok)
    devices = write_devices(dialect, info, [each.device for each in reply.devices])
    for (_, element), each in zip(devices, reply.devices, strict=True):
        for name, points in (("SuccessList", each.done), ("FailList", each.failed)):
            listed = xml.add(element, name)
            for point_id in points:
                xml.add(listed, "Id", point_id)


def _write_registration(dialect: Dialect, reply: m.Registration, info: xml.Element) -> None:
    write_unit(dialect, reply.unit, info)
    xml.add(info, "IPSecUser")
    xml.add(info, "IPSecPWD")
    xml.add(info, "IPSecIP", reply.tunnel_address)
    xml.add(info, "SCIP", reply.centre_address)
    write_devices(dialect, info, reply.devices)
    _result(info, reply.ok)


def _write_file_account(dialect: Dialect, reply: m.FileAccount, info: xml.Element) -> None:
    write_unit(dialect, reply.unit, info)
    xml.add(info, "UserName", reply.username)
    xml.add(info, "Password", reply.password)
    _result(info, reply.ok)


def _write_status(dialect: Dialect, reply: m.UnitStatus, info: xml.Element) -> None:
    write_unit(dialect, reply.unit, info)
    status = xml.add(info, "TFSUStatus")
    xml.add(status, "CPUUsage", f"{reply.cpu_percent:.1f}")
    xml.add(status, "MEMUsage", f"{reply.memory_percent:.1f}")
    _result(info, reply.ok)


WRITERS: dict[type, Writer] = {
    m.Register: _write_register,
    m.Unregister: lambda d, request, info: xml.add(info, d.unit_fields[0], request.unit.unit_id),
    m.ReportAlarms: _write_alarms,
    m.Outcome: _write_outcome,
    m.PointValues: _write_values,
    m.WriteOutcome: _write_write_outcome,
    m.Registration: _write_registration,
    m.FileAccount: _write_file_account,
    m.UnitStatus: _write_status,
}


def type_of_point(point_id: str) -> m.PointType:
    """Return the kind that the fifth digit of a point id names; telemetry where it names none."""
    digit = point_id[4:5]
    return _KINDS[int(digit)] if digit in ("0", "1", "2", "3") else m.PointType.AI


TOWER = Dialect(
    name="T",
    title="China Tower B interface V1.0 (2016)",
    commands=COMMANDS,
    centre=Service("http://SCService.chinatowercom.com", "/services/SCService"),
    unit=Service("http://FSUService.chinatowercom.com", "/services/FSUService"),
    readers=READERS,
    reply_readers=REPLY_READERS,
    writers=WRITERS,
    unit_fields=("FsuId", "FsuCode"),
    device_fields=("Id", "Code"),
    point_field="Id",
    device_wildcard="9" * 14,
    point_wildcard="9" * 10,
    point_types=MappingProxyType(POINT_TYPES),
    states=MappingProxyType({state: str(state.value) for state in m.ValueState}),
    levels=MappingProxyType({1: "1", 2: "2", 3: "3", 4: "4"}),
    flags=MappingProxyType({m.AlarmFlag.BEGIN: "BEGIN", m.AlarmFlag.END: "END"}),
    # The field is a float without a null; Status 6 beside it says that the number means nothing.
    no_value="0",
    alarm_fields=ALARM_FIELDS,
    alarm_text_bytes=40,
    unit_id_pattern=re.compile(r"[0-9]{14}"),
    device_id_pattern=re.compile(r"[0-9]{14}"),
    point_id_pattern=re.compile(r"[0-9]{10}"),
    id_rule="unit and device ids and codes have 14 digits, point ids 10 digits",
    id_rule_zh="FSU与设备的ID和编码为14位数字,监控点ID为10位数字",
    register_facts=REGISTER_FACTS,
    login_interval_s=180.0,
    type_of_point=type_of_point,
)
