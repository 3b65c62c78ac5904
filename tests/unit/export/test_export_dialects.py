"""Every dialect against written examples, its own shape read back, and files that are wrong.

The examples of Y, M and C are the reference page's; ids are made up. What is reconstructed there is so here.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from libs.common.errors import InvalidFile, InvalidInput
from libs.common.yamlfile import parse_yaml
from services.export.dialects import Dialect, Dialects, shapes, soap
from services.export.dialects import messages as m
from services.export.dialects import xmlsafe as xml
from services.export.dialects.base import Command, Evidence, MalformedMessage, UnknownCommand, open_message
from services.export.dialects.bodies import UPWARD
from services.export.dialects.files import parse_dialect_file, read_dialect
from services.export.dialects.shapes import Part
from services.export.domain.latest import with_numbers
from services.export.domain.mapping import MappedDevice, MappedPoint, SourceKind
from services.export.domain.mapping import Mapping as UnitMapping

ALL = Dialects.shipped()
Y, M, C, U = (ALL.named(name) for name in "YMCU")
SU = m.UnitRef("44010600000000001")
FEEDER = m.DeviceRef("2020001")
AT = datetime(2025, 3, 8, 6, 2, 11, tzinfo=UTC)
COMMANDS = [(dialect, command) for dialect in ALL for command in dialect.commands if command.request is not None]


def message(root: str, name: str, code: int | None, info: str) -> str:
    kind = f"<Name>{name}</Name>" + ("" if code is None else f"<Code>{code}</Code>")
    return f"<{root}><PK_Type>{kind}</PK_Type><Info>{info}</Info></{root}>"


def read(dialect: Dialect, name: str, code: int | None, info: str) -> m.CentreRequest:
    return dialect.read_request(open_message(xml.parse_text(message("Request", name, code, info))))


def shape(text: str) -> object:
    def of(element: xml.Element) -> object:
        inner = tuple(of(child) for child in element) or (element.text or "").strip()
        return (element.tag, tuple(element.attrib.items()), inner)

    return of(xml.parse_text(text))


def replied(dialect: Dialect, name: str, code: int | None, info: str, reply: m.UnitReply) -> object:
    incoming = open_message(xml.parse_text(message("Request", name, code, info)))
    return shape(dialect.write_reply(incoming, reply))


def alarm(flag: m.AlarmFlag, device: m.DeviceRef, point_id: str, **changes: Any) -> m.AlarmReport:
    fields: dict[str, Any] = {
        "serial": 731, "device": device, "point_id": point_id, "flag": flag, "at": AT, "began_at": AT, "level": 2,
        "text": "线电压Uab过高", "value": 423.7, "detail": "1号进线柜 Uab=423.7V 超过420.0V",
    }  # fmt: skip
    return m.AlarmReport(**{**fields, **changes})


# ---- Y --------------------------------------------------------------------------------------------------


def test_y_logs_in_with_account_and_address() -> None:
    request = m.Register(SU, m.UnitFacts(address="10.20.30.40", port=8080), (FEEDER,), "site-account", "see-9.7")
    assert shape(Y.write_request(request, m.Operation.REGISTER)) == shape(message("Request", "LOGIN", 101, """
        <UserName>site-account</UserName><Password>see-9.7</Password><SUID>44010600000000001</SUID>
        <SUIP>10.20.30.40</SUIP><SUPort>8080</SUPort>"""))  # fmt: skip


@pytest.mark.parametrize(
    ("body", "accepted", "reason"),
    [
        ("<SUID>1</SUID><Result>1</Result><FailureCode/><FailureCause/>", True, ""),
        ("<Result>SUCCESS</Result>", True, ""),
        ("<Result>0</Result><FailureCode>1</FailureCode><FailureCause>USERNAME_ERROR</FailureCause>", False,
         "USERNAME_ERROR"),
        ("<SUID>1</SUID>", False, ""),
    ],
    ids=["digit", "word", "refused with a cause", "no result"],
)  # fmt: skip
def test_y_is_let_in_by_result(body: str, accepted: bool, reason: str) -> None:
    reply = Y.read_reply(message("Response", "LOGIN_ACK", 102, body), m.Operation.REGISTER)
    assert reply == m.Registered(accepted, None, None, reason)


def test_y_asks_for_its_configuration_and_says_that_it_is_ready() -> None:
    for operation, name, code in (
        (m.Operation.ASK_SCHEME, "ASK_SCHEMECONFIG", 201), (m.Operation.READY, "SUREADY", 103)
    ):  # fmt: skip
        written = Y.write_request(m.Announce(SU), operation)
        assert shape(written) == shape(message("Request", name, code, "<SUID>44010600000000001</SUID>"))
    text = message("Response", "SUREADY_ACK", 104, "<SUID>1</SUID><Result>1</Result><FailureCode/><FailureCause/>")
    assert Y.read_reply(text, m.Operation.READY) == m.Outcome(None, True)
    assert [(step.operation, step.required) for step in Y.steps] == [
        (m.Operation.ASK_SCHEME, False),
        (m.Operation.READY, True),
    ]


def test_y_answers_a_poll() -> None:
    info = """<SUID>44010600000000001</SUID><DeviceList><Device DeviceID="2020001">
        <SPID>230200050010</SPID></Device></DeviceList>"""
    selection = (m.DeviceSelection(FEEDER, ("230200050010",)),)
    assert read(Y, "GET_DATA", 501, info) == m.ReadPoints(SU, selection)
    value = m.PointValue("230200050010", m.PointType.AI, 396.2, m.ValueState.NORMAL, AT)
    reply = m.PointValues(SU, True, (m.DeviceValues(FEEDER, (value,)),))
    assert replied(Y, "GET_DATA", 501, info, reply) == shape(message("Response", "GET_DATA_ACK", 502, """
        <SUID>44010600000000001</SUID><Result>1</Result><FailureCode/><Values><DeviceList>
        <Device DeviceID="2020001"><TSemaphore Type="3" SPID="230200050010" MeasuredVal="396.2" SetupVal="" Status="0"
        RecordTime="2025-03-08 14:02:11"/></Device></DeviceList></Values>"""))  # fmt: skip


@pytest.mark.parametrize(
    ("device", "points", "expected"),
    [("9999999", "230200050010", m.DeviceSelection(None, None)),
     ("2020001", "9" * 12, m.DeviceSelection(FEEDER, None))],
    ids=["all devices", "all points"],
)  # fmt: skip
def test_y_s_wildcards_are_nines(device: str, points: str, expected: m.DeviceSelection) -> None:
    listed = f'<DeviceList><Device DeviceID="{device}"><SPID>{points}</SPID></Device></DeviceList>'
    asked = read(Y, "ASK_TODAYHISDATA", 503, f"<SUID>1</SUID>{listed}")
    assert asked == m.ReadHistory(m.UnitRef("1"), (expected,), None, None)


@pytest.mark.parametrize("flag", list(m.AlarmFlag))
def test_y_s_alarm_keeps_its_start_and_ends_with_an_end(flag: m.AlarmFlag) -> None:
    ended = flag is m.AlarmFlag.END
    at = datetime(2025, 3, 8, 6, 5, tzinfo=UTC) if ended else AT
    reported = m.ReportAlarms(SU, (alarm(flag, FEEDER, "230200050010", at=at),))
    end_time = "<EndTime>2025-03-08 14:05:00</EndTime>" if ended else "<EndTime/>"
    body = f"""<SUID>44010600000000001</SUID><Values><TAlarmList><TAlarm><SerialNo>0000000731</SerialNo>
        <SUID>44010600000000001</SUID><DeviceID>2020001</DeviceID><SPID>230200050010</SPID>
        <StartTime>2025-03-08 14:02:11</StartTime>{end_time}<TriggerVal>423.7</TriggerVal>
        <AlarmLevel>2</AlarmLevel><AlarmFlag>{flag.name}</AlarmFlag><AlarmDesc>线电压Uab过高</AlarmDesc>
        <AlarmFriDesc>1号进线柜 Uab=423.7V 超过420.0V</AlarmFriDesc></TAlarm></TAlarmList></Values>"""
    written = Y.write_request(reported, m.Operation.REPORT_ALARMS)
    assert shape(written) == shape(message("Request", "SEND_ALARM", 601, body))


def test_y_lists_active_alarms() -> None:
    assert read(Y, "GET_ACTIVEALARM", 603, "<SUID>1</SUID>") == m.ReadAlarms(m.UnitRef("1"))
    reply = m.ActiveAlarms(SU, True, (alarm(m.AlarmFlag.BEGIN, FEEDER, "230200050010"),))
    sent = xml.parse_text(Y.write_request(m.ReportAlarms(SU, reply.alarms), m.Operation.REPORT_ALARMS))
    incoming = open_message(xml.parse_text(message("Request", "GET_ACTIVEALARM", 603, "<SUID>1</SUID>")))
    answered = xml.parse_text(Y.write_reply(incoming, reply))
    assert answered.findtext("PK_Type/Code") == "604"
    assert [child.tag for child in answered[1]] == ["SUID", "Result", "Values"]
    assert etree.tostring(answered[1][2]) == etree.tostring(sent[1][1])


def test_y_s_heartbeat_tells_the_clock() -> None:
    reply = m.UnitStatus(SU, True, 12.5, 41.0, datetime(2025, 3, 8, 6, 5, tzinfo=UTC))
    answered = replied(Y, "GET_SUINFO", 1001, "<SUID>1</SUID>", reply)
    assert answered == shape(message("Response", "GET_SUINFO_ACK", 1002, """
        <SUID>44010600000000001</SUID><Result>1</Result><FailureCode/><TSUStatus><CPUUsage>12.5</CPUUsage>
        <MEMUsage>41.0</MEMUsage><SUDateTime>2025-03-08 14:05:00</SUDateTime></TSUStatus>"""))  # fmt: skip


def test_y_s_orders_and_account() -> None:
    order = '<TSemaphore Type="4" SPID="140200010010" MeasuredVal="" SetupVal="0" Status="0"/>'
    listed = f'<Value><DeviceList><Device DeviceID="1020001">{order}</Device></DeviceList></Value>'
    orders = (m.PointOrder(m.DeviceRef("1020001"), "140200010010", 0.0, m.PointType.DO),)
    assert read(Y, "SET_RMCTRLCMD", 701, f"<SUID>1</SUID>{listed}") == m.WritePoints(m.UnitRef("1"), orders)
    body = "<SUID>1</SUID><UserName>u</UserName><Password>p</Password><FTPPort>2121</FTPPort>"
    assert read(Y, "SET_SUFTP", 803, body) == m.WriteFileAccount(m.UnitRef("1"), "u", "p", 2121)
    reply = m.FileAccount(SU, True, "scftp", "not-a-real-one", 21)
    assert replied(Y, "GET_SUFTP", 801, "<SUID>1</SUID>", reply) == shape(message("Response", "GET_SUFTP_ACK", 802, """
        <SUID>44010600000000001</SUID><UserName>scftp</UserName><Password>not-a-real-one</Password>
        <FTPPort>21</FTPPort><Result>1</Result><FailureCode/>"""))  # fmt: skip
    assert read(Y, "SET_SCIP", 105, "<SUID>1</SUID><SCIP>10.0.0.9</SCIP>") == m.WriteRegistration(
        m.UnitRef("1"), "10.0.0.9"
    )


def test_y_s_time_comes_in_parts_or_as_a_stamp() -> None:
    parts = "<Month>03</Month><Day>08</Day><Hour>14</Hour><Minute>02</Minute><Second>11</Second>"
    for time in (f"<Time><Years>2025</Years>{parts}</Time>", "<TTime>2025-03-08 14:02:11</TTime>"):
        assert read(Y, "SET_TIME", 901, f"<SUID>1</SUID>{time}") == m.CheckTime(m.UnitRef("1"), AT)


def test_y_s_options_are_asked_point_by_point_and_by_wildcard() -> None:
    def asked(device: str, point: str) -> m.CentreRequest:
        return read(Y, "GET_SPCONFIGOPTION", 401, f"<SUID>1</SUID><DeviceID>{device}</DeviceID><SPID>{point}</SPID>")

    one, every = (m.DeviceSelection(FEEDER, points) for points in (("230200050010",), None))
    assert asked("2020001", "230200050010") == m.ReadOptions(m.UnitRef("1"), (one,))
    assert asked("2020001", "9" * 12) == m.ReadOptions(m.UnitRef("1"), (every,))
    assert asked("9999999", "9" * 12) == m.ReadOptions(m.UnitRef("1"), (m.DeviceSelection(None, None),))
    used = (m.DeviceOptions(FEEDER, (m.PointOption("230200050010", m.PointType.AI, "1"),)),)
    reply = m.PointOptions(SU, True, used)
    assert replied(Y, "GET_SPCONFIGOPTION", 401, "<SUID>1</SUID>", reply) == shape(
        message("Response", "GET_SPCONFIGOPTION_ACK", 402, """<SUID>44010600000000001</SUID><Result>1</Result>
        <FailureCode/><FailureCause/><Values><DeviceList><Device DeviceID="2020001">
        <TConfigOption Type="3" SPID="230200050010" OptionID="1"/></Device></DeviceList></Values>""")
    )  # fmt: skip
    order = '<TConfigOption Type="3" SPID="230200050010" OptionID="2"/>'
    body = f'<SUID>1</SUID><Value><DeviceList><Device DeviceID="2020001">{order}</Device></DeviceList></Value>'
    wanted = (m.OptionOrder(FEEDER, "230200050010", "2"),)
    assert read(Y, "SET_SPCONFIGOPTION", 403, body) == m.WriteOptions(m.UnitRef("1"), wanted)
    with pytest.raises(MalformedMessage):
        read(Y, "SET_SPCONFIGOPTION", 403, body.replace('SPID="230200050010"', ""))


@pytest.mark.parametrize("name", ["GET_FACTORYCONFIG", "SET_SCHEMECONFIG", "SEND_ALARM", "NOBODY_KNOWS"])
def test_y_refuses_with_a_cause(name: str) -> None:
    code = next((each.code for each in Y.commands if each.name == name), 3001)
    incoming = open_message(xml.parse_text(message("Request", name, code, "<SUID>1</SUID>")))
    with pytest.raises(UnknownCommand):
        Y.read_request(incoming)
    said = m.Outcome(Y.unit_of(incoming), False, "unknown command")
    assert shape(Y.write_reply(incoming, said)) == shape(message("Response", f"{name}_ACK", (code or 0) + 1, """
        <SUID>1</SUID><Result>0</Result><FailureCode/><FailureCause>unknown command</FailureCause>"""))  # fmt: skip


# ---- M, C, U --------------------------------------------------------------------------------------------


def test_m_has_names_only_and_hashes_the_password() -> None:
    request = m.Register(m.UnitRef("44010600017"), m.UnitFacts(address="10.1.1.1", mac="aa"), (), "cm", "secret")
    assert shape(M.write_request(request, m.Operation.REGISTER)) == shape(message("Request", "LOGIN", None, """
        <UserName>cm</UserName><PassWord>5ebe2294ecd0e0f08eab7690d2a6ee69</PassWord><FSUID>44010600017</FSUID>
        <FSUIP>10.1.1.1</FSUIP><FSUMAC>aa</FSUMAC><FSUVER>1.0</FSUVER>"""))  # fmt: skip
    text = message("Response", "LOGIN_ACK", None, "<Result>0</Result><FailureCause>no such FSU</FailureCause>")
    assert M.read_reply(text, m.Operation.REGISTER) == m.Registered(False, None, None, "no such FSU")


@pytest.mark.parametrize(
    ("dialect", "own"),
    [
        (M, "NMAlarmID |EventValue 262.3|SignalNumber 000|AlarmRemark "),
        (C, "EventValue 262.3|AlarmRemark1 |AlarmRemark2 "),
    ],
    ids=["M", "C"],
)
def test_m_and_c_report_the_value_in_a_field_of_its_own(dialect: Dialect, own: str) -> None:
    one = alarm(m.AlarmFlag.BEGIN, m.DeviceRef("00001"), "092004", level=3, text="交流电压 过高告警", value=262.3)
    written = dialect.write_request(m.ReportAlarms(m.UnitRef("44010600017"), (one,)), m.Operation.REPORT_ALARMS)
    root = xml.parse_text(written)
    assert root.find("PK_Type/Code") is None
    assert root.findtext("Info/FSUID") == "44010600017"
    written_fields = [f"{field.tag} {field.text or ''}" for field in next(root.iter("TAlarm"))]
    shared = ["SerialNo 0000000731", "ID 092004", "DeviceID 00001", "AlarmTime 2025-03-08 14:02:11", "AlarmLevel 3",
              "AlarmFlag BEGIN", "AlarmDesc 交流电压 过高告警"]  # fmt: skip
    assert [field for field in written_fields if field in shared] == shared
    assert [field for field in written_fields if field not in shared] == own.split("|")


def test_m_s_running_numbers_and_empty_wildcards() -> None:
    asked = read(M, "GET_DATA", None, '<FSUID>1</FSUID><DeviceList><Device ID="00001"><ID/></Device></DeviceList>')
    assert asked == m.ReadPoints(m.UnitRef("1"), (m.DeviceSelection(m.DeviceRef("00001"), None),))
    asked = read(M, "GET_DATA", None, '<FSUID>1</FSUID><DeviceList><Device ID=""/></DeviceList>')
    assert asked == m.ReadPoints(m.UnitRef("1"), (m.DeviceSelection(None, None),))
    values = (
        m.PointValue("092301-002", m.PointType.AI, 228.4, m.ValueState.NORMAL, AT),
        m.PointValue("092004", m.PointType.DI, 1.0, m.ValueState.MAJOR, AT),
        m.PointValue("092302", m.PointType.AI, None, m.ValueState.INVALID),
    )
    reply = m.PointValues(m.UnitRef("1"), True, (m.DeviceValues(m.DeviceRef("00001"), values),))
    time = 'Time="2025-03-08 14:02:11"'
    answered = replied(M, "GET_DATA", None, "<FSUID>1</FSUID>", reply)
    assert answered == shape(message("Response", "GET_DATA_ACK", None, f"""
        <FSUID>1</FSUID><Result>1</Result><Values><DeviceList><Device ID="00001">
        <TSemaphore Type="3" ID="092301" SignalNumber="002" MeasuredVal="228.4" SetupVal="NULL" Status="0" {time}/>
        <TSemaphore Type="4" ID="092004" SignalNumber="000" MeasuredVal="1" SetupVal="NULL" Status="0" {time}/>
        <TSemaphore Type="3" ID="092302" SignalNumber="000" MeasuredVal="NULL" SetupVal="NULL" Status="1" Time=""/>
        </Device></DeviceList></Values><FailureCause>NULL</FailureCause>"""))  # fmt: skip
    order = '<TSemaphore Type="1" ID="092101" SignalNumber="003" SetupVal="1"/>'
    listed = f'<Value><DeviceList><Device ID="00001">{order}</Device></DeviceList></Value>'
    orders = (m.PointOrder(m.DeviceRef("00001"), "092101-003", 1.0, m.PointType.DO),)
    assert read(M, "SET_POINT", None, f"<FSUID>1</FSUID>{listed}") == m.WritePoints(m.UnitRef("1"), orders)


def test_m_takes_the_heartbeat_s_interval_and_never_guesses_it() -> None:
    body = "<FSUID>1</FSUID><Interval>{}</Interval>"
    assert read(M, "UPDATE_FSUINFO_INTERVAL", None, body.format(300)) == m.SetHeartbeat(m.UnitRef("1"), 300.0)
    for wrong in ("", "-1", "0", "soon", "nan", "1e999"):
        with pytest.raises(MalformedMessage):
            read(M, "UPDATE_FSUINFO_INTERVAL", None, body.format(wrong))


def test_m_s_orders_are_answered_by_id_and_number() -> None:
    device = m.DeviceRef("00001")
    outcome = m.WriteOutcome(m.UnitRef("1"), False, (m.DeviceOutcome(device, ("092101-003",), ("092102",)),))
    done = '<SuccessList><{0} ID="092101"{1}/></SuccessList><FailList><{0} ID="{3}"{2}/></FailList>'
    for dialect, first, second, other in (
        (M, ' SignalNumber="003"', ' SignalNumber="000"', "092102"),
        (C, "", "", "092102"),
    ):
        if dialect is C:
            outcome = m.WriteOutcome(m.UnitRef("1"), False, (m.DeviceOutcome(device, ("092101",), ("092102",)),))
        lists = done.format("TSignalMeasurementId", first, second, other)
        for name in ("SET_POINT", "SET_THRESHOLD"):
            assert replied(dialect, name, None, "<FSUID>1</FSUID>", outcome) == shape(
                message("Response", f"{name}_ACK", None, f"""<FSUID>1</FSUID><Result>0</Result><FailureCause/>
                <DeviceList><Device ID="00001">{lists}</Device></DeviceList>""")
            )  # fmt: skip


@pytest.mark.parametrize(
    ("dialect", "own"),
    [
        (M, 'SignalNumber="001" Threshold="260" AlarmLevel="3" NMAlarmID=""'),
        (C, 'Threshold="260" AbsoluteVal="0" RelativeVal="0" Status="3" Period=""'),
    ],
    ids=["M", "C"],
)
def test_m_and_c_tell_and_take_thresholds(dialect: Dialect, own: str) -> None:
    point = "092004-001" if dialect is M else "092004"
    value = m.ThresholdValue(point, m.PointType.DI, 260.0, 3)
    reply = m.Thresholds(m.UnitRef("1"), True, (m.DeviceThresholds(m.DeviceRef("00001"), (value,)),))
    kind = dialect.point_types[m.PointType.DI]
    assert replied(dialect, "GET_THRESHOLD", None, "<FSUID>1</FSUID>", reply) == shape(
        message("Response", "GET_THRESHOLD_ACK", None, f"""<Result>1</Result><FSUID>1</FSUID>
        <FailureCause>NULL</FailureCause><Values><DeviceList><Device ID="00001">
        <TThreshold Type="{kind}" ID="092004" {own}/></Device></DeviceList></Values>""")
    )  # fmt: skip
    number = ' SignalNumber="001"' if dialect is M else ""
    order = f'<TThreshold Type="{kind}" ID="092004"{number} Threshold="255"/>'
    listed = f'<Value><DeviceList><Device ID="00001">{order}</Device></DeviceList></Value>'
    wanted = m.PointOrder(m.DeviceRef("00001"), point, 255.0, m.PointType.DI)
    assert read(dialect, "SET_THRESHOLD", None, f"<FSUID>1</FSUID>{listed}") == m.WriteThresholds(
        m.UnitRef("1"), (wanted,)
    )


def test_m_describes_its_devices_and_says_no_account() -> None:
    signals = (
        m.SignalDescription("092301-002", m.PointType.AI, "A相电压"),
        m.SignalDescription("092004", m.PointType.DI, "过压", 260.0, 3),
    )
    devices = (m.DeviceDescription(m.DeviceRef("00001"), "1号<低压>柜", signals),)
    empty = 'DeviceType="" DeviceSubType="" Model="" Brand="" RatedCapacity="" Version="" BeginRunTime=""'
    described = f"""<Values><Device DeviceID="00001" DeviceName="1号&lt;低压&gt;柜" SiteID="" RoomID="" SiteName=""
        RoomName="" {empty} DevDescribe="" ConfRemark=""><Signals Count="2">
        <Signal Type="3" ID="092301" SignalName="A相电压" SignalNumber="002" AlarmLevel="" Threshold="" NMAlarmID=""/>
        <Signal Type="4" ID="092004" SignalName="过压" SignalNumber="000" AlarmLevel="3" Threshold="260" NMAlarmID=""/>
        </Signals></Device></Values>"""
    sent = M.write_request(m.ReportDevices(m.UnitRef("1"), devices), m.Operation.SEND_DEVICES)
    assert shape(sent) == shape(message("Request", "SEND_DEV_CONF_DATA", None, f"<FSUID>1</FSUID>{described}"))
    asked = "<FSUID>1</FSUID><DeviceID>00001</DeviceID>"
    assert read(M, "GET_DEV_CONF", None, asked) == m.ReadDevices(m.UnitRef("1"), m.DeviceRef("00001"))
    reply = m.DeviceDescriptions(m.UnitRef("1"), True, devices)
    assert replied(M, "GET_DEV_CONF", None, asked, reply) == shape(
        message("Response", "GET_DEV_CONF_ACK", None,
                f"<Result>1</Result><FailureCause>NULL</FailureCause>{described}")
    )  # fmt: skip
    registration = m.Registration(m.UnitRef("1"), True, facts=m.UnitFacts(address="10.1.1.1", mac="aa"))
    assert replied(M, "GET_LOGININFO", None, "<FSUID>1</FSUID>", registration) == shape(
        message("Response", "GET_LOGININFO_ACK", None, """<UserName/><PassWord/><FSUID>1</FSUID>
        <FSUIP>10.1.1.1</FSUIP><FSUMAC>aa</FSUMAC><FSUVER>1.0</FSUVER><SiteID/><SiteName/><RoomID/><RoomName/>
        <Result>1</Result><FailureCause>NULL</FailureCause>""")
    )  # fmt: skip


DETAILS = (
    'SiteID="{}" RoomID="" SiteName="" RoomName="{}" DeviceType="" DeviceSubType="" Model="" Brand="{}" '
    'RatedCapacity="" Version="" BeginRunTime="" DevDescribe="" ConfRemark=""'
)


def test_m_s_centre_describes_devices_and_hears_of_each() -> None:
    signal = '<Signal Type="{}" ID="092004" SignalName="过压" SignalNumber="001" AlarmLevel="{}" {} NMAlarmID="{}"/>'
    signals = signal.format(4, 2, 'Thresbhold="265"', "6" * 14) + signal.format(9, 7, 'Threshold="high"', "NULL")
    details = DETAILS.format("440106", "NULL", "")
    described = f"""<FSUID>1</FSUID><Values><Device DeviceID="00001" DeviceName="一号柜" {details}>
        <Signals Count="2">{signals}</Signals></Device><Device DeviceID="00002"/></Values>"""
    known = m.SignalOrder("092004-001", m.PointType.DI, "过压", 265.0, 2, "6" * 14)
    unread = m.SignalOrder("092004-001", None, "过压", None, None, "", unreadable="type")
    asked = read(M, "SET_DEV_CONF_DATA", None, described)
    assert isinstance(asked, m.WriteDevices)
    first, second = asked.orders
    assert (first.device, first.name, first.signals) == (m.DeviceRef("00001"), "一号柜", (known, unread))
    assert first.details == dict.fromkeys(m.DeviceDetail, "") | {m.DeviceDetail.SITE_ID: "440106"}
    assert second == m.DeviceOrder(m.DeviceRef("00002"))
    outcome = m.DevicesWritten(m.UnitRef("1"), False, (first.device,), (second.device,), "not mapped")
    assert replied(M, "SET_DEV_CONF_DATA", None, described, outcome) == shape(
        message("Response", "SET_DEV_CONF_DATA_ACK", None, """<FSUID>1</FSUID><Result>0</Result>
        <FailureCause>not mapped</FailureCause><SuccessList><Device ID="00001"/></SuccessList>
        <FailList><Device ID="00002"/></FailList>""")
    )  # fmt: skip
    for wrong in (described.replace('DeviceID="00002"', ""), described.replace('ID="092004"', 'ID=""')):
        with pytest.raises(MalformedMessage):
            read(M, "SET_DEV_CONF_DATA", None, wrong)


def test_m_s_centre_gives_an_account_and_an_interval_to_all_its_units() -> None:
    account = "<UserName>cmcc</UserName><PassWord>se&lt;cret</PassWord>"
    given = read(M, "SET_LOGININFO", None, account)
    assert given == m.WriteLoginAccount(None, "cmcc", "se<cret")
    assert "se<cret" not in repr(given)
    named = read(M, "SET_LOGININFO", None, f"<FSUID>1</FSUID>{account}")
    assert named == m.WriteLoginAccount(m.UnitRef("1"), "cmcc", "se<cret")
    assert replied(M, "SET_LOGININFO", None, account, m.Outcome(None, True)) == shape(
        message("Response", "SET_LOGININFO_ACK", None, "<Result>1</Result><FailureCause>NULL</FailureCause>")
    )
    for nobody in ("<FSUID>NULL</FSUID>", "<FSUID/>", ""):
        every = f"{nobody}<Interval>300</Interval>"
        assert read(M, "UPDATE_FSUINFO_INTERVAL", None, every) == m.SetHeartbeat(None, 300.0)


@pytest.mark.parametrize("dialect", [M, C], ids=["M", "C"])
def test_the_network_s_id_of_an_alarm_is_said_where_the_dialect_has_one(dialect: Dialect) -> None:
    one = alarm(m.AlarmFlag.END, m.DeviceRef("00001"), "092004", network_alarm="60000000000001")
    value = m.ThresholdValue("092004", m.PointType.DI, 260.0, 3, network_alarm="60000000000001")
    thresholds = m.Thresholds(m.UnitRef("1"), True, (m.DeviceThresholds(m.DeviceRef("00001"), (value,)),))
    asked = open_message(xml.parse_text(message("Request", "GET_THRESHOLD", None, "<FSUID>1</FSUID>")))
    sent = dialect.write_request(m.ReportAlarms(m.UnitRef("1"), (one,)), m.Operation.REPORT_ALARMS)
    for text in (sent, dialect.write_reply(asked, thresholds)):
        assert ("60000000000001" in text) == (dialect is M)


def test_m_s_storage_rules_are_asked_and_ordered_by_id_and_number() -> None:
    device = '<Device ID="00001">{}</Device>'
    listed = device.format('<TSignalMeasurementId ID="092301" SignalNumber="002"/>')
    asked = read(M, "GET_STORAGERULE", None, f"<FSUID>1</FSUID><DeviceList>{listed}</DeviceList>")
    selection = (m.DeviceSelection(m.DeviceRef("00001"), ("092301-002",)),)
    assert asked == m.ReadStorage(m.UnitRef("1"), selection)
    rule = m.StorageRule("092301-002", m.PointType.AI, 60, AT)
    reply = m.StorageRules(m.UnitRef("1"), True, (m.DeviceRules(m.DeviceRef("00001"), (rule,)),))
    said = (
        '<TStorageRule Type="3" ID="092301" SignalNumber="002" AbsoluteVal="" RelativeVal="" StorageInterval="60" '
        'StorageRefTime="2025-03-08 14:02:11"/>'
    )
    assert replied(M, "GET_STORAGERULE", None, "<FSUID>1</FSUID>", reply) == shape(
        message("Response", "GET_STORAGERULE_ACK", None, f"""<Result>1</Result><FailureCause>NULL</FailureCause>
        <Values><DeviceList>{device.format(said)}</DeviceList></Values>""")
    )  # fmt: skip
    ordered = f"<FSUID>1</FSUID><Value><DeviceList>{device.format(said)}</DeviceList></Value>"
    order = m.RuleOrder(m.DeviceRef("00001"), "092301-002", 60.0)
    assert read(M, "SET_STORAGERULE", None, ordered) == m.WriteStorage(m.UnitRef("1"), (order,))


def test_an_id_of_m_without_its_number_means_every_point_that_has_it() -> None:
    rows = tuple(
        MappedPoint(device_id="m-1", kind=SourceKind.POINT, source="voltage_a", sc_device_id="00001",
                    point_id=point, type=m.PointType.AI)
        for point in ("092301-001", "092301-002", "092304")
    )  # fmt: skip
    table = UnitMapping(devices=(MappedDevice(ref=m.DeviceRef("00001")),), points=rows)
    asked = (m.DeviceSelection(m.DeviceRef("00001"), ("092301", "092304", "092309")),)
    [found] = with_numbers(table, asked, M)
    assert found.points == ("092301-001", "092301-002", "092304", "092309")
    assert with_numbers(table, asked, U) == asked


def test_c_is_told_to_log_in_again() -> None:
    text = message("Response", "SEND_ALARM_ACK", None, "<Result>2</Result><FailureCause/>")
    assert C.read_reply(text, m.Operation.REPORT_ALARMS) == m.Outcome(None, False, "", log_in_again=True)
    assert M.read_reply(text, m.Operation.REPORT_ALARMS) == m.Outcome(None, False)
    assert C.point_types == {m.PointType.DI: "0", m.PointType.AI: "1", m.PointType.DO: "2", m.PointType.AO: "3"}


def test_u_is_literal_and_asks_by_kind() -> None:
    body = (
        '<SUId>1</SUId><SURId>2</SURId><DeviceList><Device Id="41901" Rid="r"><Signal Id="101"/></Device></DeviceList>'
    )
    asked = read(U, "GET_DIDATA", 301, body)
    selection = (m.DeviceSelection(m.DeviceRef("41901", "r"), ("101",)),)
    assert asked == m.ReadPoints(m.UnitRef("1", "2"), selection, frozenset({m.PointType.DI}))
    value = m.PointValue("101", m.PointType.DI, 1.0, m.ValueState.MAJOR, AT)
    reply = m.PointValues(m.UnitRef("1", "2"), True, (m.DeviceValues(m.DeviceRef("41901", "r"), (value,)),))
    assert replied(U, "GET_DIDATA", 301, body, reply) == shape(message("Response", "GET_DIDATA_ACK", 302, """
        <SUId>1</SUId><SURId>2</SURId><Result>1</Result><DeviceList><Device Id="41901" Rid="r">
        <Signal Id="101" RecordTime="2025-03-08 14:02:11">1</Signal></Device></DeviceList>"""))  # fmt: skip
    called = soap.write_request("<a/>", U.centre)
    assert b"encodingStyle" not in called
    assert b"xsi:type" not in called
    assert b'use="literal"' in soap.wsdl(U.unit, "http://127.0.0.1/")


def test_u_pushes_values_by_kind_and_those_of_before_with_their_times() -> None:
    unit, device = m.UnitRef("1", "2"), m.DeviceRef("41901", "r")
    for kind, operation, name, code in (
        (m.PointType.AI, m.Operation.SEND_POINTS, "SEND_AIDATA", 203),
        (m.PointType.DI, m.Operation.SEND_POINTS, "SEND_DIDATA", 303),
        (m.PointType.AI, m.Operation.SEND_HISTORY, "SEND_HISAIDATA", 205),
        (m.PointType.DI, m.Operation.SEND_HISTORY, "SEND_HISDIDATA", 305),
    ):
        value = m.PointValue("101", kind, 228.4, m.ValueState.NORMAL, AT)
        request = m.ReportPoints(unit, (m.DeviceValues(device, (value,)),), frozenset({kind}))
        assert shape(U.write_request(request, operation)) == shape(message("Request", name, code, """
            <SUId>1</SUId><SURId>2</SURId><DeviceList><Device Id="41901" Rid="r">
            <Signal Id="101" RecordTime="2025-03-08 14:02:11">228.4</Signal></Device></DeviceList>"""))  # fmt: skip
        text = message("Response", f"{name}_ACK", code + 1, "<Result>1</Result>")
        assert U.read_reply(text, operation, frozenset({kind})) == m.Outcome(None, True)
    assert [each.name for each in U.spoken(m.Operation.SEND_HISTORY)] == ["SEND_HISAIDATA", "SEND_HISDIDATA"]
    assert U.command(m.Operation.SEND_PAST_ALARMS).request is None


def test_u_s_alarm_properties_are_delays() -> None:
    unit, device = m.UnitRef("1", "2"), m.DeviceRef("41901", "r")
    listed = '<SUId>1</SUId><SURId>2</SURId><DeviceList><Device Id="41901" Rid="r">{}</Device></DeviceList>'
    asked = listed.format('<Signal Id="10A"/>')
    assert read(U, "GET_AlarmProperty", 1101, asked) == m.ReadDelays(unit, (m.DeviceSelection(device, ("10A",)),))
    held = m.Delays(unit, True, (m.DeviceDelays(device, (m.SignalDelays("10A", m.PointType.DI, 60.0, 20.0),)),))
    told = """<SUId>1</SUId><SURId>2</SURId><Result>1</Result><DeviceList><Device Id="41901" Rid="r">
        <Signal Id="10A"><BDelay>60</BDelay><EDelay>20</EDelay></Signal></Device></DeviceList>"""
    expected_reply = shape(message("Response", "GET_AlarmProperty_ACK", 1102, told))
    assert replied(U, "GET_AlarmProperty", 1101, asked, held) == expected_reply
    for signal, expected in (
        ('<Signal Id="10A"><BDelay>45</BDelay><EDelay/></Signal>', m.DelayOrder(device, "10A", 45.0, None)),
        ('<Signal Id="10A" EDelay="15"/>', m.DelayOrder(device, "10A", None, 15.0)),
        ('<Signal Id="10A" BDelay="soon" EDelay="1"/>', m.DelayOrder(device, "10A", None, 1.0, unreadable=True)),
    ):
        assert read(U, "SET_AlarmProperty", 1103, listed.format(signal)) == m.WriteDelays(unit, (expected,))
    with pytest.raises(MalformedMessage):
        read(U, "SET_AlarmProperty", 1103, listed.format("<Signal/>"))


def test_u_s_alarms_are_read_and_its_centre_s_address_is_set() -> None:
    one = alarm(m.AlarmFlag.BEGIN, m.DeviceRef("41901", "r"), "101", level=3, text="过压")
    reply = m.ActiveAlarms(m.UnitRef("1", "2"), True, (one,))
    body = "<SUId>1</SUId><SURId>2</SURId>"
    assert read(U, "GET_ALARM", 601, body) == m.ReadAlarms(m.UnitRef("1", "2"))
    told = xml.parse_text(
        U.write_reply(open_message(xml.parse_text(message("Request", "GET_ALARM", 601, body))), reply)
    )
    sent = xml.parse_text(U.write_request(m.ReportAlarms(m.UnitRef("1", "2"), (one,)), m.Operation.REPORT_ALARMS))
    assert [etree.tostring(each) for each in told.iter("TAlarm")] == [
        etree.tostring(each) for each in sent.iter("TAlarm")
    ]
    assert read(U, "SET_IP", 105, f"{body}<SCIP>10.0.0.9</SCIP>") == m.WriteRegistration(
        m.UnitRef("1", "2"), "10.0.0.9"
    )


# ---- every dialect --------------------------------------------------------------------------------------


def test_what_was_made_up_says_so_and_why() -> None:
    marked = [(dialect, command) for dialect, command in COMMANDS if command.evidence is Evidence.RECONSTRUCTED]
    assert {dialect.name for dialect, _ in marked} == {"Y", "C", "U"}
    for dialect, command in marked:
        assert command.reason or dialect.evidence is Evidence.RECONSTRUCTED, (dialect.name, command.name)
    named = {command.name for command in Y.commands if command.evidence is Evidence.RECONSTRUCTED}
    assert {"LOGIN", "GET_DATA", "ASK_TODAYHISDATA", "SET_RMCTRLCMD", "SET_SCIP", "SET_SUREBOOT"} <= named
    assert {mark.part for mark in Y.marks if mark.evidence is Evidence.RECONSTRUCTED} == {
        "centre", "unit", "ids", "words", "login"
    }  # fmt: skip
    assert all(
        mark.reason for dialect in (Y, M, C, U) for mark in dialect.marks if mark.evidence is Evidence.RECONSTRUCTED
    )
    assert not [command for command in ALL.named("T").commands if command.evidence is not Evidence.SPECIFICATION]


REFUSED = {
    "Y": {"GET_SCHEMECONFIG", "SET_SCHEMECONFIG", "ASK_FACTORYCONFIG", "SEND_FACTORYCONFIG", "GET_FACTORYCONFIG",
          "SET_FACTORYCONFIG"},
    "U": {"SEND_HISALARM", "GET_SUPORT"},
}  # fmt: skip


def test_what_has_no_shape_is_named_with_the_reason_and_all_else_is_spoken() -> None:
    for dialect in ALL:
        bare = {each for each in dialect.commands if each.request is None}
        assert {each.name for each in bare} == REFUSED.get(dialect.name, set())
        assert all(each.reason for each in bare)


def test_the_same_number_is_another_command_elsewhere() -> None:
    for code, names in {
        1001: ("GET_SUINFO", "SET_POINT", "SET_SUREBOOT"),
        501: ("GET_DATA", "SEND_ALARM", "GET_DO"),
    }.items():
        for dialect, own in zip((Y, ALL.named("T"), U), names, strict=True):
            for name in names:
                found = dialect.named(open_message(xml.parse_text(message("Request", name, code, ""))))
                assert (found is not None) == (name == own)


FACT = st.one_of(
    st.none(), st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=8).map(str.strip)
)


def facts_for(draw: st.DrawFn, parts: Sequence[Part]) -> dict[str, Any]:
    """Draw facts that a shape can carry, item by item of its lists."""
    facts: dict[str, Any] = {}
    for part in parts:
        if part.each is not None:
            facts[part.each] = [facts_for(draw, part.parts) for _ in range(draw(st.integers(0, 2)))]
        elif part.parts:
            facts.update(facts_for(draw, part.parts))
        elif part.fact is not None:
            facts[part.fact] = draw(FACT)
    return facts


def without_none(facts: Any) -> Any:
    """An element that is always there says an empty text where there is no value."""
    if isinstance(facts, Mapping):
        return {name: without_none(value) for name, value in facts.items()}
    if isinstance(facts, list):
        return [without_none(each) for each in facts]
    return facts or ""


@given(data=st.data(), place=st.sampled_from(COMMANDS), reply=st.booleans())
def test_every_shape_is_read_as_it_was_written(
    data: st.DataObject, place: tuple[Dialect, Command], reply: bool
) -> None:
    dialect, command = place
    parts = command.reply if reply else command.request or ()
    facts = data.draw(st.composite(lambda draw: facts_for(draw, parts))())
    info = etree.Element("Info")
    shapes.write(parts, facts, info)
    again = xml.parse_text(xml.document(info))
    assert without_none(shapes.read(parts, again)) == without_none(facts), (dialect.name, command.name)


TEXTS = st.one_of(
    st.sampled_from(["1", "9999999", "9" * 12, "9" * 14, "", "NULL", "nan", "1e999", "2025-03-08 00:00:00", "-1"]),
    st.text(max_size=12).map(xml.clean),
)


def escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


@st.composite
def trees(draw: st.DrawFn, words: Sequence[str], depth: int = 3) -> str:
    names = draw(st.lists(st.sampled_from(words), unique=True, max_size=2))
    attributes = "".join(f' {name}="{escaped(draw(TEXTS))}"' for name in names)
    inner = escaped(draw(TEXTS))
    if depth:
        inner += "".join(draw(st.lists(trees(words, depth=depth - 1), max_size=3)))
    tag = draw(st.sampled_from(words))
    return f"<{tag}{attributes}>{inner}</{tag}>"


def words_of(dialect: Dialect) -> list[str]:
    found: set[str] = set()

    def walk(parts: Sequence[Part]) -> None:
        for part in parts:
            if part.name != shapes.TEXT:
                found.add(part.name)
            walk(part.parts)

    for command in dialect.commands:
        walk(command.request or ())
    return sorted(found)


WORDS = {dialect.name: words_of(dialect) for dialect in ALL}


@settings(max_examples=40)
@given(data=st.data(), place=st.sampled_from(COMMANDS))
def test_hostile_bodies_are_answered_or_refused_in_every_dialect(
    data: st.DataObject, place: tuple[Dialect, Command]
) -> None:
    dialect, command = place
    info = "".join(data.draw(st.lists(trees(WORDS[dialect.name]), max_size=3)))
    incoming = open_message(xml.parse_text(message("Request", command.name, command.code, info)))
    try:
        dialect.read_request(incoming)
    except InvalidInput:
        pass
    else:
        assert command.operation not in UPWARD
    # Whatever is asked, a well-formed no can be said.
    xml.parse_text(dialect.write_reply(incoming, m.Outcome(dialect.unit_of(incoming), False, "why <not>")))


@settings(max_examples=40)
@given(data=st.data(), place=st.sampled_from([each for each in COMMANDS if each[1].operation in UPWARD]))
def test_any_answer_of_a_centre_is_read_or_refused(data: st.DataObject, place: tuple[Dialect, Command]) -> None:
    dialect, command = place
    words = ["Result", "FailureCause", "RightLevel", "SCIP", "SUID", "x"]
    info = "".join(data.draw(st.lists(trees(words), max_size=3)))
    code = None if command.code is None else command.code + 1
    text = message("Response", f"{command.name}_ACK", code, info)
    reply = dialect.read_reply(text, command.operation, command.types)
    assert isinstance(reply, m.Registered if command.operation is m.Operation.REGISTER else m.Outcome)


@pytest.mark.parametrize("dialect", list(ALL), ids=lambda dialect: dialect.name)
def test_documents_with_a_dtd_are_refused_at_every_service(dialect: Dialect) -> None:
    bomb = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + message("Request", "X", None, "&x;")
    for body in (soap.write_request(bomb, dialect.unit), soap.write_request("<a>", dialect.unit)):
        with pytest.raises(InvalidInput):
            soap.read_request(body)


# ---- files and variants ---------------------------------------------------------------------------------

VARIANT = """
name: T-GD
title: a province's variant of T
base: T
reason: as agreed with the centre on a date
evidence: field
unit: {path: /services/GdService}
login: {interval_s: 120}
pieces:
  unit:
    change:
      - {after: FsuCode, add: [{Province: "=GD"}]}
commands:
  LOGIN:
    request:
      change:
        - {after: Version, add: [{Internet_mode: "=1"}]}
        - {drop: DictVersion}
        - {replace: PaSCword, with: [{PassWord: account.password}]}
  SEND_ALARM:
    request:
      change:
        - {drop: Values/TAlarmList/TAlarm/AlarmDesc}
  SET_FSUREBOOT: null
"""


def test_a_variant_is_a_few_lines(tmp_path: Path) -> None:
    (tmp_path / "gd.yaml").write_text(VARIANT, encoding="utf-8")
    own = Dialects.load(tmp_path).named("T-GD")
    unit = m.UnitRef("44010643800017", "44010643800017")
    root = xml.parse_text(own.write_request(m.Register(unit, m.UnitFacts(), (), "u", "p"), m.Operation.REGISTER))
    names = [child.tag for child in root[1]]
    assert names[:5] == ["UserName", "PassWord", "FsuId", "FsuCode", "Province"]
    assert names[-3:] == ["Version", "Internet_mode", "DeviceList"]
    assert root.findtext("Info/PassWord") == "p"
    text = own.write_request(m.ReportAlarms(unit, (alarm(m.AlarmFlag.END, FEEDER, "1"),)), m.Operation.REPORT_ALARMS)
    assert "AlarmDesc" not in text
    assert "<Province>GD</Province>" in text
    assert not own.has(m.Operation.RESTART)
    assert (own.login_interval_s, own.unit.path, own.unit.namespace) == (
        120.0, "/services/GdService", "http://FSUService.chinatowercom.com"
    )  # fmt: skip
    # The base is what it was.
    assert "Province" not in ALL.named("T").write_request(m.Unregister(unit), m.Operation.UNREGISTER)


@pytest.mark.parametrize(
    ("change", "line", "expected"),
    [
        (("base: T", "base: X"), 4, "base: expected the name of another dialect, found 'X'"),
        (("base: T", "base: T-GD"), 4, "base: expected the name of another dialect"),
        (("{after: Version,", "{after: Vision,"), 17, "expected an element of the base's body, found 'Vision'"),
        (("account.password", "alarm.text"), 15, "expected one of account.password, "),
        (("interval_s: 120", "interval_s: 0"), 8, "login.interval_s: expected"),
        (("unit: {path:", "unit: {paths:"), 7, "unit.paths: expected path, there is no such field"),
        (("{drop: DictVersion}", "{drops: DictVersion}"), 18, "expected {after: element, add: [...]}"),
        (("name: T-GD", "name: a b"), 2, "name: expected name: letters"),
        (("SEND_ALARM:\n", "LOGIN2: {operation: register, code: x}\n  SEND_ALARM:\n"), 20, "LOGIN2.code: expected"),
        (("Province: \"=GD\"", "'a b': unit.id"), 10, "expected the name of an element"),
        (("Province: \"=GD\"", "'$x'"), 0, "plain YAML"),
    ],
    ids=["unknown base", "own base", "nothing to change", "fact that is not there", "number", "field", "form", "name",
         "code", "element", "not YAML"],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said_with_its_place(
    tmp_path: Path, change: tuple[str, str], line: int, expected: str
) -> None:
    file = tmp_path / "gd.yaml"
    file.write_text(VARIANT.replace(*change, 1), encoding="utf-8")
    with pytest.raises(InvalidFile) as caught:
        Dialects.load(tmp_path)
    shown = [str(problem).strip() for problem in caught.value.problems]
    assert str(file) in caught.value.message
    if line:
        assert any(re.match(f"{line}: ", text) and expected in text for text in shown), shown
        assert all(problem.text_zh() for problem in caught.value.problems)


def test_a_folder_that_is_none_and_names_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile):
        Dialects.load(tmp_path / "absent")
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(VARIANT, encoding="utf-8")
    with pytest.raises(InvalidFile, match="T-GD"):
        Dialects.load(tmp_path)
    with pytest.raises(InvalidInput, match="known are C, M, T, U, Y"):
        ALL.named("Z")


SHIPPED = files("services.export.dialects").joinpath("tower.yaml").read_text(encoding="utf-8")
BASES = {"T": parse_yaml(SHIPPED, "tower.yaml").data}


@settings(max_examples=40)
@given(st.text(max_size=200), st.sampled_from(["name: A\n", "name: A\nbase: T\n", "name: A\nbase: T\ncommands:\n  "]))
def test_any_text_as_a_file_is_read_or_refused(text: str, head: str) -> None:
    try:
        read_dialect(parse_dialect_file(head + text, "a.yaml", lambda name: BASES[name]))
    except InvalidFile:
        return
