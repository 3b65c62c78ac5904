"""Dialect T against messages written for these tests after the reference page's examples."""

from datetime import UTC, datetime
from typing import Any

import pytest

from services.export.dialects import Dialects
from services.export.dialects import messages as m
from services.export.dialects import xmlsafe as xml
from services.export.dialects.base import MalformedMessage, UnknownCommand, open_message

TOWER = Dialects.shipped().named("T")


FSU = m.UnitRef("44010643800017", "44010643800017")
METER = m.DeviceRef("44010641600021", "44010641600021")


def request(name: str, code: int | None, info: str, *, kind: str | None = None) -> str:
    kind = kind or f"<Name>{name}</Name>" + ("" if code is None else f"<Code>{code}</Code>")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<Request><PK_Type>{kind}</PK_Type><Info>{info}</Info></Request>'


UNIT = "<FsuId>44010643800017</FsuId><FsuCode>44010643800017</FsuCode>"


def read(text: str) -> m.CentreRequest:
    return TOWER.read_request(open_message(xml.parse_text(text)))


def shape(text: str) -> object:
    """Return a document as nested tuples: what counts is structure, order and values, not layout."""

    def of(element: xml.Element) -> object:
        inner = tuple(of(child) for child in element) or (element.text or "").strip()
        return (element.tag, tuple(sorted(element.attrib.items())), inner)

    return of(xml.parse_text(text))


def test_login_is_written_as_the_specification_orders_it() -> None:
    text = TOWER.write_request(
        m.Register(
            unit=FSU,
            facts=m.UnitFacts(
                address="10.20.30.40", vendor="DEMO", type="METER-GW-1", version="1.0.0", dictionary_version="1"
            ),
            devices=(m.DeviceRef(FSU.unit_id, FSU.unit_code), METER),
            username="never sent",
            password="never sent",
        ),
        m.Operation.REGISTER,
    )
    assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>')
    assert shape(text) == shape("""
        <Request><PK_Type><Name>LOGIN</Name><Code>101</Code></PK_Type><Info>
          <UserName/><PaSCword/><FsuId>44010643800017</FsuId><FsuCode>44010643800017</FsuCode>
          <FsuIP>10.20.30.40</FsuIP><MacId/><ImsiId/><NetworkType>4G</NetworkType>
          <LockedNetworkType>LTE</LockedNetworkType><Carrier>CT</Carrier><NMVendor/><NMType/><Reg_Mode>2</Reg_Mode>
          <FSUVendor>DEMO</FSUVendor><FSUType>METER-GW-1</FSUType><FSUClass>INTSTAN</FSUClass>
          <Version>1.0.0</Version><DictVersion>1</DictVersion>
          <DeviceList><Device Id="44010643800017" Code="44010643800017"/>
                      <Device Id="44010641600021" Code="44010641600021"/></DeviceList>
        </Info></Request>""")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("<SCIP>10.20.0.9</SCIP><RightLevel>2</RightLevel>", m.Registered(True, 2, "10.20.0.9")),
        ("<SCIP></SCIP><RightLevel>1</RightLevel>", m.Registered(True, 1, None)),
        ("<SCIP>10.20.0.9</SCIP><RightLevel>0</RightLevel>", m.Registered(False, 0, "10.20.0.9")),
        ("<SCIP>10.20.0.9</SCIP>", m.Registered(False, None, "10.20.0.9")),
        ("<SCIP>10.20.0.9</SCIP><RightLevel>two</RightLevel>", m.Registered(False, None, "10.20.0.9")),
    ],
    ids=["read-write", "no-address", "right-0", "right-missing", "right-unreadable"],
)
def test_login_is_accepted_only_with_a_right(body: str, expected: m.Registered) -> None:
    text = f"<Response><PK_Type><Name>LOGIN_ACK</Name><Code>102</Code></PK_Type><Info>{body}</Info></Response>"
    assert TOWER.read_reply(text, m.Operation.REGISTER) == expected


def alarm(flag: m.AlarmFlag, **changes: Any) -> m.AlarmReport:
    fields: dict[str, Any] = {
        "serial": 731,
        "device": METER,
        "point_id": "0416001001",
        "flag": flag,
        "at": datetime(2025, 3, 8, 6, 2, 11, tzinfo=UTC),
        "began_at": datetime(2025, 3, 8, 6, 2, 11, tzinfo=UTC),
        "level": 3,
        "text": "停电(0.0V)",
    }
    return m.AlarmReport(**{**fields, **changes})


def test_an_alarm_is_written_with_ten_digits_and_local_time() -> None:
    text = TOWER.write_request(m.ReportAlarms(FSU, (alarm(m.AlarmFlag.BEGIN),)), m.Operation.REPORT_ALARMS)
    assert shape(text) == shape("""
        <Request><PK_Type><Name>SEND_ALARM</Name><Code>501</Code></PK_Type><Info><Values><TAlarmList><TAlarm>
          <SerialNo>0000000731</SerialNo><Id>0416001001</Id><FsuId>44010643800017</FsuId>
          <FsuCode>44010643800017</FsuCode><DeviceId>44010641600021</DeviceId><DeviceCode>44010641600021</DeviceCode>
          <AlarmTime>2025-03-08 14:02:11</AlarmTime><AlarmLevel>3</AlarmLevel><AlarmFlag>BEGIN</AlarmFlag>
          <AlarmDesc>停电(0.0V)</AlarmDesc>
        </TAlarm></TAlarmList></Values></Info></Request>""")


@pytest.mark.parametrize(
    ("body", "ok"),
    [("<Result>1</Result>", True), ("<Result>SUCCESS</Result>", True), ("<Result>0</Result>", False),
     ("<Result>FAILURE</Result>", False), ("", False), ("<Result/>", False), ("<result> 1 </result>", True)],
)  # fmt: skip
def test_only_a_clear_yes_acknowledges_an_alarm(body: str, ok: bool) -> None:
    text = f"<Response><PK_Type><Name>SEND_ALARM_ACK</Name><Code>502</Code></PK_Type><Info>{body}</Info></Response>"
    assert TOWER.read_reply(text, m.Operation.REPORT_ALARMS) == m.Outcome(None, ok)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "<Response><PK_Type><Name>LOGIN_ACK</Name><Code>102</Code></PK_Type><Info><Result>1</Result></Info></Response>",
        "<Response><PK_Type><Name>SEND_ALARM_ACK</Name><Code>602</Code></PK_Type><Info><Result>1</Result></Info>"
        "</Response>",
        "<Response><Info><Result>1</Result></Info></Response>",
    ],
    ids=["empty", "blank", "another command", "another dialect's code", "no name"],
)
def test_an_answer_to_another_question_is_none(text: str) -> None:
    with pytest.raises(MalformedMessage):
        TOWER.read_reply(text, m.Operation.REPORT_ALARMS)


def test_a_poll_names_devices_and_points() -> None:
    info = f"""{UNIT}<DeviceList><Device Id="44010641600021" Code="44010641600021">
        <Id>0416104001</Id><Id>0416118001</Id></Device></DeviceList>"""
    selection = m.DeviceSelection(METER, ("0416104001", "0416118001"))
    assert read(request("GET_DATA", 401, info)) == m.ReadPoints(FSU, (selection,))


@pytest.mark.parametrize(
    ("device", "points", "expected"),
    [
        (f'Id="{"9" * 14}" Code="{"9" * 14}"', "<Id>0416104001</Id>", m.DeviceSelection(None, None)),
        (f'Id="" Code="{"9" * 14}"', "", m.DeviceSelection(None, None)),
        ('Id="44010641600021" Code="44010641600021"', f"<Id>{'9' * 10}</Id>", m.DeviceSelection(METER, None)),
        ('id="44010641600021" CODE="44010641600021"', "<ID>0416104001</ID>", m.DeviceSelection(METER, ("0416104001",))),
        ('Id="44010641600021" Code="44010641600021"', "", m.DeviceSelection(METER, ())),
    ],
    ids=["all devices", "all devices by code alone", "all points", "other case", "no point"],
)
def test_wildcards_and_case(device: str, points: str, expected: m.DeviceSelection) -> None:
    info = f"{UNIT}<DeviceList><Device {device}>{points}</Device></DeviceList>"
    asked = read(request("GET_DATA", 401, info))
    assert isinstance(asked, m.ReadPoints)
    assert asked.selection == (expected,)


@pytest.mark.parametrize(
    "text",
    [
        request("GET_FSUINFO", 1701, UNIT),
        request("GET_FSUINFO", 1701, UNIT.replace("FsuId", "FsuID").replace("FsuCode", "FSUCODE")),
        request("GET_FSUINFO", None, UNIT),
        request("GET_FSUINFO", 1701, UNIT, kind="GET_FSUINFO"),
        request("GET_FSUINFO", 1701, UNIT + "<MainVPN>1</MainVPN>"),
        request("GET_ FSUINFO", 1701, UNIT),
        "\ufeff \n" + request("GET_FSUINFO", 1701, UNIT).replace('"1.0"', "“1.0”").replace('"UTF-8"', "“UTF-8”"),
        request("GET_FSUINFO", 1701, UNIT).split("\n", 1)[1],
        request("GET_FSUINFO", 1701, UNIT).replace("UTF-8", "GB2312"),
        request("GET_FSUINFO", 1701, UNIT).replace(
            "<Request>", "<Request><!-- a comment --><PK_Type>GET_FSUINFO</PK_Type>"
        ),
    ],
    ids=["plain", "case of ids", "no code", "plain-text PK_Type", "unknown element", "blank in the name",
         "mark, blanks and curly quotes", "no declaration", "declared in another encoding", "PK_Type twice"],
)  # fmt: skip
def test_every_spelling_seen_in_the_field_is_taken(text: str) -> None:
    assert read(text) == m.ReadStatus(FSU)


@pytest.mark.parametrize(
    ("name", "code"),
    [("GET_DATA", 501), ("SEND_ALARM", 501), ("LOGIN", 101), ("GET_SUINFO", 1001), ("SET_POINT", 401), ("X", 3001)],
)
def test_name_and_code_have_to_belong_together_and_to_be_for_a_unit(name: str, code: int) -> None:
    incoming = open_message(xml.parse_text(request(name, code, UNIT)))
    with pytest.raises(UnknownCommand):
        TOWER.read_request(incoming)
    reply = TOWER.write_reply(incoming, m.Outcome(TOWER.unit_of(incoming), ok=False))
    assert shape(reply) == shape(f"""
        <Response><PK_Type><Name>{name}_ACK</Name><Code>{code + 1}</Code></PK_Type>
        <Info>{UNIT}<Result>0</Result></Info></Response>""")


def test_orders_are_read_point_by_point() -> None:
    point = 'Type="4" Id="0415202001" MeasuredVal="0" SetupVal="1" Status="0"'
    info = f'{UNIT}<Value><DeviceList><Device Id="1" Code="2"><TSemaphore {point}/></Device></DeviceList></Value>'
    orders = (m.PointOrder(m.DeviceRef("1", "2"), "0415202001", 1.0, m.PointType.DO),)
    assert read(request("SET_POINT", 1001, info)) == m.WritePoints(FSU, orders)

    point = 'Type="2" Id="0416002001" Threshold="x" AbsoluteVal="0" RelativeVal="0" Status="3"'
    info = f'{UNIT}<Values><DeviceList><Device Id="1" Code="2"><TThreshold {point}/></Device></DeviceList></Values>'
    orders = (m.PointOrder(m.DeviceRef("1", "2"), "0416002001", None, m.PointType.DI),)
    assert read(request("SET_THRESHOLD", 2001, info)) == m.WriteThresholds(FSU, orders)


def test_time_is_china_time_and_never_guessed() -> None:
    parts = "<Month>03</Month><Day>08</Day><Hour>14</Hour><Minute>05</Minute><Second>00</Second>"
    for year in ("<Years>2025</Years>", "<Year>2025</Year>"):
        check = read(request("TIME_CHECK", 1301, f"<Time>{year}{parts}</Time>"))
        assert check == m.CheckTime(None, datetime(2025, 3, 8, 6, 5, tzinfo=UTC))
    for bad in (parts, f"<Years>25x</Years>{parts}", f"<Years>2025</Years>{parts.replace('03', '13')}"):
        with pytest.raises(MalformedMessage):
            read(request("TIME_CHECK", 1301, f"<Time>{bad}</Time>"))


def test_values_are_written_as_attributes_with_a_state() -> None:
    incoming = open_message(xml.parse_text(request("GET_DATA", 401, UNIT)))
    values = (
        m.PointValue("0416104001", m.PointType.AI, 228.4, m.ValueState.NORMAL),
        m.PointValue("0416118001", m.PointType.AI, None, m.ValueState.INVALID),
        m.PointValue("0416001001", m.PointType.DI, 1.0, m.ValueState.MINOR),
    )
    reply = TOWER.write_reply(incoming, m.PointValues(FSU, ok=True, devices=(m.DeviceValues(METER, values),)))
    assert shape(reply) == shape(f"""
        <Response><PK_Type><Name>GET_DATA_ACK</Name><Code>402</Code></PK_Type><Info>{UNIT}<Result>1</Result>
        <Values><DeviceList><Device Id="44010641600021" Code="44010641600021">
          <TSemaphore Type="3" Id="0416104001" MeasuredVal="228.4" SetupVal="0" Status="0"/>
          <TSemaphore Type="3" Id="0416118001" MeasuredVal="0" SetupVal="0" Status="6"/>
          <TSemaphore Type="2" Id="0416001001" MeasuredVal="1" SetupVal="0" Status="3"/>
        </Device></DeviceList></Values></Info></Response>""")


def test_history_carries_the_time_of_each_value() -> None:
    incoming = open_message(xml.parse_text(request("GET_HISDATA", 403, UNIT)))
    at = datetime(2025, 3, 7, 16, 0, 0, tzinfo=UTC)
    value = m.PointValue("0416104001", m.PointType.AI, 227.9, m.ValueState.NORMAL, recorded_at=at)
    reply = TOWER.write_reply(incoming, m.PointValues(FSU, ok=True, devices=(m.DeviceValues(METER, (value,)),)))
    assert 'RecordTime="2025-03-08 00:00:00"' in reply


def test_refused_orders_stand_in_the_fail_list() -> None:
    incoming = open_message(xml.parse_text(request("SET_POINT", 1001, UNIT)))
    device = m.DeviceOutcome(m.DeviceRef("44010641500003", "44010641500003"), (), ("0415202001",))
    reply = TOWER.write_reply(incoming, m.WriteOutcome(FSU, ok=False, devices=(device,)))
    assert shape(reply) == shape(f"""
        <Response><PK_Type><Name>SET_POINT_ACK</Name><Code>1002</Code></PK_Type><Info>{UNIT}<Result>0</Result>
        <DeviceList><Device Id="44010641500003" Code="44010641500003">
          <SuccessList/><FailList><Id>0415202001</Id></FailList></Device></DeviceList></Info></Response>""")


def test_the_other_replies_keep_the_specification_s_order() -> None:
    def written(name: str, code: int, reply: m.UnitReply) -> object:
        return shape(TOWER.write_reply(open_message(xml.parse_text(request(name, code, UNIT))), reply))

    def expected(name: str, code: int, info: str) -> object:
        kind = f"<PK_Type><Name>{name}</Name><Code>{code}</Code></PK_Type>"
        return shape(f"<Response>{kind}<Info>{info}</Info></Response>")

    assert written("GET_FSUINFO", 1701, m.UnitStatus(FSU, True, 12.5, 41.0)) == expected(
        "GET_FSUINFO_ACK", 1702,
        f"{UNIT}<TFSUStatus><CPUUsage>12.5</CPUUsage><MEMUsage>41.0</MEMUsage></TFSUStatus><Result>1</Result>",
    )  # fmt: skip
    assert written("GET_LOGININFO", 1501, m.Registration(FSU, True, "10.20.0.9", "10.20.0.1", (METER,))) == expected(
        "GET_LOGININFO_ACK", 1502,
        f"{UNIT}<IPSecUser/><IPSecPWD/><IPSecIP>10.20.0.1</IPSecIP><SCIP>10.20.0.9</SCIP><DeviceList>"
        '<Device Id="44010641600021" Code="44010641600021"/></DeviceList><Result>1</Result>',
    )  # fmt: skip
    assert written("GET_FTP", 1601, m.FileAccount(FSU, False)) == expected(
        "GET_FTP_ACK", 1602, f"{UNIT}<UserName/><Password/><Result>0</Result>"
    )
    assert written("TIME_CHECK", 1301, m.Outcome(None, True)) == expected("TIME_CHECK_ACK", 1302, "<Result>1</Result>")
    logout = TOWER.write_request(m.Unregister(FSU), m.Operation.UNREGISTER)
    assert shape(logout) == shape(
        "<Request><PK_Type><Name>LOGOUT</Name><Code>103</Code></PK_Type>"
        "<Info><FsuId>44010643800017</FsuId></Info></Request>"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [(228.4, "228.4"), (0.0, "0"), (-0.00001, "0"), (1234567.125, "1234567.125"), (1e15, "1000000000000000"),
     (0.1 + 0.2, "0.3")],
)  # fmt: skip
def test_numbers_are_plain_digits(value: float, text: str) -> None:
    incoming = open_message(xml.parse_text(request("GET_DATA", 401, UNIT)))
    values = (m.PointValue("0416104001", m.PointType.AI, value, m.ValueState.NORMAL),)
    reply = TOWER.write_reply(incoming, m.PointValues(FSU, ok=True, devices=(m.DeviceValues(METER, values),)))
    assert f'MeasuredVal="{text}"' in reply


def test_texts_fit_forty_bytes_whole_characters_and_no_angles() -> None:
    assert TOWER.fit_text("停电", "(0.0V)") == "停电(0.0V)"
    long = TOWER.fit_text("第1路(市电)电压过低告警与更多的文字说明", "(152.3V)")
    assert long.endswith("(152.3V)")
    assert len(long.encode()) <= 40
    assert "<" not in TOWER.fit_text("a<b>", "")
    assert len(TOWER.fit_text("", "x" * 60).encode()) == 40


def test_kinds_are_told_from_an_unknown_point_s_id() -> None:
    kinds = [
        TOWER.type_of_point(point).value for point in ("0416001001", "0416104001", "0415202001", "0415301001", "x")
    ]
    assert kinds == ["DI", "AI", "DO", "AO", "AI"]
