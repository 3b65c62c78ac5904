"""The supervision centre without a network: what it reads, what it holds against a unit, what it sends."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from libs.common.errors import InvalidInput
from libs.fieldsim.sc import messages
from libs.fieldsim.sc.catalogue import Finding, Rule, violations
from libs.fieldsim.sc.faults import Fault, FaultQueue, parse_order
from libs.fieldsim.sc.journal import Entry, Journal
from libs.fieldsim.sc.rules import Alarm, AlarmEvent, Centre, name_and_code
from libs.fieldsim.sc.soap import (
    SC_NAMESPACE,
    UNIT_NAMESPACE,
    BadMessage,
    element,
    parse_payload,
    payload,
    reply_envelope,
    request_envelope,
    unwrap,
)

NOW = datetime(2025, 3, 8, 6, 2, 30, tzinfo=UTC)  # 14:02:30 in Asia/Shanghai
UNIT = "44010643800017"
DEVICE = "44010641600021"

LOGIN = f"""<?xml version="1.0" encoding="UTF-8"?>
<Request><PK_Type><Name>LOGIN</Name><Code>101</Code></PK_Type><Info>
<UserName/><PaSCword/><FsuId>{UNIT}</FsuId><FsuCode>{UNIT}</FsuCode><FsuIP>10.20.30.40</FsuIP><MacId/><ImsiId/>
<NetworkType>4G</NetworkType><LockedNetworkType>LTE</LockedNetworkType><Carrier>CT</Carrier><NMVendor/><NMType/>
<Reg_Mode>2</Reg_Mode><FSUVendor>DEMO</FSUVendor><FSUType>METER-GW-1</FSUType><FSUClass>INTSTAN</FSUClass>
<Version>1.0.0</Version><DictVersion>1</DictVersion>
<DeviceList><Device Id="{UNIT}" Code="{UNIT}"/><Device Id="{DEVICE}" Code="{DEVICE}"/></DeviceList>
</Info></Request>"""


def an_alarm(**changes: str) -> etree._Element:
    fields = {
        "SerialNo": "0000000731",
        "Id": "0416001001",
        "FsuId": UNIT,
        "FsuCode": UNIT,
        "DeviceId": DEVICE,
        "DeviceCode": DEVICE,
        "AlarmTime": "2025-03-08 14:02:11",
        "AlarmLevel": "3",
        "AlarmFlag": "BEGIN",
        "AlarmDesc": "停电(0.0V)",
    } | changes
    return element("TAlarm", [element(name, text) for name, text in fields.items() if text != "-"])


def a_centre() -> Centre:
    centre = Centre()
    _, findings = centre.login(parse_payload(LOGIN), NOW - timedelta(minutes=10))
    assert findings == []
    return centre


def rules(found: tuple[AlarmEvent, list[Finding]] | list[Finding]) -> list[Rule]:
    findings = found[1] if isinstance(found, tuple) else found
    return [finding.rule for finding in findings]


class TestSoap:
    def test_a_request_as_the_notes_show_it(self) -> None:
        body = b"""<?xml version="1.0" encoding="UTF-8"?>
<soap:Envelope xmlns:soap="http://schemas.xmlsoap.org/soap/envelope/"
               xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
               xmlns:xsd="http://www.w3.org/2001/XMLSchema">
  <soap:Body soap:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/">
    <ns1:invoke xmlns:ns1="http://FSUService.chinatowercom.com">
      <xmlData xsi:type="xsd:string">&lt;?xml version="1.0"?&gt;&lt;Request&gt;&lt;/Request&gt;</xmlData>
    </ns1:invoke>
  </soap:Body>
</soap:Envelope>"""
        namespace, text = unwrap(body, argument="xmlData")
        assert namespace == UNIT_NAMESPACE
        assert text == '<?xml version="1.0"?><Request></Request>'

    @pytest.mark.parametrize(
        "content",
        [
            "<![CDATA[<Request><a>1 &amp; 2</a></Request>]]>",
            "<Request><a>1 &amp; 2</a></Request>",
            "&lt;Request&gt;&lt;a&gt;1 &amp;amp; 2&lt;/a&gt;&lt;/Request&gt;",
            "\ufeff \n&lt;Request&gt;&lt;a&gt;1 &amp;amp; 2&lt;/a&gt;&lt;/Request&gt;",
        ],
        ids=["cdata", "child elements", "escaped", "byte-order mark"],
    )
    def test_payload_in_every_form(self, content: str) -> None:
        body = (
            '<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Body>'
            f'<x:invoke xmlns:x="{SC_NAMESPACE}"><xmlData>{content}</xmlData></x:invoke></e:Body></e:Envelope>'
        )
        namespace, text = unwrap(body.encode(), argument="xmlData")
        assert namespace == SC_NAMESPACE
        assert etree.fromstring(text).findtext("a") == "1 & 2"

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            (b"", "not well-formed"),
            (b"<a/>", "not a SOAP"),
            (b"\x1f\x8b\x00", "not well-formed"),
            (b'<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Body/></e:Envelope>', "no xmlData"),
            (b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "DTD"),
            (b'<!DOCTYPE a SYSTEM "file:///etc/hostname"><a/>', "DTD"),
        ],
    )
    def test_what_is_no_envelope(self, body: bytes, reason: str) -> None:
        with pytest.raises(BadMessage, match=reason):
            unwrap(body, argument="xmlData")

    def test_entities_do_not_explode(self) -> None:
        layers = "".join(f'<!ENTITY l{n} "{"&l" + str(n - 1) + ";" if n else "x"}{"x" * 50}">' for n in range(30))
        with pytest.raises(BadMessage):
            unwrap(f"<!DOCTYPE a [{layers}]><a>&l29;</a>".encode(), argument="xmlData")

    def test_too_large_is_refused_before_it_is_parsed(self) -> None:
        with pytest.raises(BadMessage, match="at most"):
            unwrap(b"<a>" + b"x" * (5 << 20), argument="xmlData")

    @given(st.binary(max_size=300))
    def test_any_bytes_are_refused_and_nothing_else_breaks(self, body: bytes) -> None:
        with pytest.raises(BadMessage):
            unwrap(body, argument="xmlData")

    @given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=60))
    def test_any_text_survives_the_envelope(self, text: str) -> None:
        sent = payload("Request", "LOGOUT", 103, [element("FsuId", text)])
        for envelope in (request_envelope, reply_envelope):
            argument = "xmlData" if envelope is request_envelope else "invokeReturn"
            _, inner = unwrap(envelope(SC_NAMESPACE, sent), argument=argument)
            assert inner == sent
        assert (parse_payload(sent).value("FsuId") or "") == text.strip()

    def test_a_fault_is_told(self) -> None:
        body = (
            b'<S:Envelope xmlns:S="http://schemas.xmlsoap.org/soap/envelope/"><S:Body><S:Fault>'
            b"<faultcode>S:Client</faultcode><faultstring>Method 'Request' not implemented</faultstring>"
            b"</S:Fault></S:Body></S:Envelope>"
        )
        with pytest.raises(BadMessage, match="not implemented"):
            unwrap(body, argument="invokeReturn")

    def test_a_plain_text_type_is_read(self) -> None:
        message = parse_payload("<Request><PK_Type>LOGIN</PK_Type><Info><FSUID>1</FSUID></Info></Request>")
        assert (message.name, message.code, message.value("FsuId")) == ("LOGIN", None, "1")

    @pytest.mark.parametrize("text", ["", "<Request/>", "<Request><PK_Type/></Request>", "<Info/>", "<"])
    def test_what_is_no_payload(self, text: str) -> None:
        with pytest.raises(BadMessage):
            parse_payload(text)


class TestMessages:
    """The samples of the interface page, section 13.3, element by element."""

    def test_get_data(self) -> None:
        message = parse_payload(messages.get_data(UNIT, {DEVICE: ("0416104001", "0416118001")}))
        assert (message.root, message.name, message.code) == ("Request", "GET_DATA", 401)
        assert etree.tostring(message.info).decode() == (
            f"<Info><FsuId>{UNIT}</FsuId><FsuCode>{UNIT}</FsuCode><DeviceList>"
            f'<Device Id="{DEVICE}" Code="{DEVICE}"><Id>0416104001</Id><Id>0416118001</Id></Device>'
            "</DeviceList></Info>"
        )

    def test_the_wildcard_is_all_nines(self) -> None:
        info = parse_payload(messages.get_data(UNIT)).info
        device = info.find("DeviceList/Device")
        assert device is not None
        assert dict(device.items()) == {"Id": "9" * 14, "Code": "9" * 14}
        assert info.findtext("DeviceList/Device/Id") == "9" * 10

    def test_time_check_is_civil_time(self) -> None:
        info = parse_payload(messages.time_check(NOW)).info
        parts = {child.tag: child.text for child in info.find("Time")}  # type: ignore[union-attr]
        assert parts == {
            "Years": "2025",
            "Month": "03",
            "Day": "08",
            "Hour": "14",
            "Minute": "02",
            "Second": "30",
        }

    def test_set_point_puts_the_order_into_setupval(self) -> None:
        info = parse_payload(messages.set_point(UNIT, DEVICE, "0415202001", 1)).info
        order = info.find("Value/DeviceList/Device/TSemaphore")
        assert order is not None
        assert dict(order.items()) == {
            "Type": "4",
            "Id": "0415202001",
            "MeasuredVal": "0",
            "SetupVal": "1",
            "Status": "0",
        }

    def test_set_threshold(self) -> None:
        info = parse_payload(messages.set_threshold(UNIT, DEVICE, "0416002001", 255)).info
        order = info.find("Value/DeviceList/Device/TThreshold")
        assert order is not None
        assert (order.get("Type"), order.get("Threshold"), order.get("Status")) == ("2", "255", "3")

    def test_get_hisdata_asks_in_civil_time(self) -> None:
        info = parse_payload(messages.get_hisdata(UNIT, NOW, NOW + timedelta(hours=2))).info
        assert (info.findtext("StartTime"), info.findtext("EndTime")) == ("2025-03-08 14:02:30", "2025-03-08 16:02:30")

    def test_every_code_is_that_of_the_interface(self) -> None:
        assert messages.CODES["GET_FSUINFO"] == 1701
        answer = parse_payload(messages.answer("SEND_ALARM", 501, [element("Result", "1")]))
        assert (answer.root, answer.name, answer.code) == ("Response", "SEND_ALARM_ACK", 502)


class TestLogin:
    def test_a_right_one_has_no_findings(self) -> None:
        unit, findings = Centre().login(parse_payload(LOGIN), NOW)
        assert findings == []
        assert (unit.unit_id, unit.ip, unit.devices, unit.old_registration) == (
            UNIT,
            "10.20.30.40",
            (UNIT, DEVICE),
            False,
        )

    @pytest.mark.parametrize(("apart_s", "held"), [(32, True), (179.9, True), (180, False)])
    def test_two_are_180_seconds_apart(self, apart_s: float, held: bool) -> None:
        centre = Centre()
        centre.login(parse_payload(LOGIN), NOW)
        _, findings = centre.login(parse_payload(LOGIN), NOW + timedelta(seconds=apart_s))
        assert rules(findings) == ([Rule.LOGIN_TOO_SOON] if held else [])

    def test_every_field_has_to_be_there(self) -> None:
        shorter = LOGIN.replace("<MacId/>", "").replace("<DictVersion>1</DictVersion>", "")
        _, findings = Centre().login(parse_payload(shorter), NOW)
        assert rules(findings) == [Rule.MISSING_FIELD]
        assert findings[0].text == "MacId, DictVersion missing"

    def test_without_reg_mode_the_old_registration_is_meant(self) -> None:
        unit, findings = Centre().login(parse_payload(LOGIN.replace("<Reg_Mode>2</Reg_Mode>", "")), NOW)
        assert unit.old_registration
        assert findings == []

    def test_a_unit_id_has_fourteen_characters(self) -> None:
        _, findings = Centre().login(parse_payload(LOGIN.replace(UNIT, "4401")), NOW)
        assert Rule.UNIT_ID in rules(findings)

    @pytest.mark.parametrize(
        ("name", "code", "held"),
        [("LOGIN", 101, False), ("LOGIN", 501, True), ("GET_DATA", 401, True), ("LOGIN", None, True), ("", 101, True)],
    )
    def test_name_and_code_belong_together(self, name: str, code: int | None, held: bool) -> None:
        text = f"<Request><PK_Type><Name>{name}</Name><Code>{code or ''}</Code></PK_Type><Info/></Request>"
        assert bool(name_and_code(parse_payload(text), messages.FROM_UNIT)) == held


class TestAlarm:
    def test_begin_and_end_in_order_are_right(self) -> None:
        centre = a_centre()
        event, findings = centre.alarm(an_alarm(), NOW, answered=True)
        assert findings == []
        assert (event.serial, event.flag, event.level, event.text) == ("0000000731", "BEGIN", 3, "停电(0.0V)")
        assert len(centre.open_alarms()) == 1
        end = an_alarm(AlarmFlag="END", AlarmTime="2025-03-08 14:02:25", AlarmDesc="恢复(231.0V)")
        assert rules(centre.alarm(end, NOW, answered=True)) == []
        assert centre.open_alarms() == []

    @pytest.mark.parametrize(
        ("changes", "rule"),
        [
            ({"SerialNo": "731"}, Rule.SERIAL),
            ({"SerialNo": "00000007x1"}, Rule.SERIAL),
            ({"SerialNo": "9999999999"}, Rule.SERIAL),
            ({"SerialNo": "００００００００３１"}, Rule.SERIAL),
            ({"Id": "416001001"}, Rule.POINT_ID),
            ({"DeviceId": "44010641600099"}, Rule.UNKNOWN_DEVICE),
            ({"AlarmTime": "2025-03-08T14:02:11"}, Rule.ALARM_TIME),
            ({"AlarmTime": "2025-03-08 14:12:11"}, Rule.ALARM_TIME),
            ({"AlarmLevel": "5"}, Rule.LEVEL),
            ({"AlarmLevel": "0"}, Rule.LEVEL),
            ({"AlarmFlag": "UPDATE"}, Rule.FLAG),
            ({"AlarmDesc": "电" * 14}, Rule.TEXT),
            ({"AlarmDesc": "U<160V"}, Rule.TEXT),
            ({"DeviceCode": "-"}, Rule.MISSING_FIELD),
            ({"AlarmFlag": "END"}, Rule.END_BEFORE_BEGIN),
            ({"FsuId": "44010643800099"}, Rule.NOT_LOGGED_IN),
        ],
    )
    def test_each_rule(self, changes: dict[str, str], rule: Rule) -> None:
        assert rules(a_centre().alarm(an_alarm(**changes), NOW, answered=True)) == [rule]

    @pytest.mark.parametrize(
        ("level", "flag", "read"),
        [("二级", "开始", (2, "BEGIN")), ("1", "结束", (1, "END")), ("四级", "1", (4, "END"))],
    )
    def test_words_of_the_field_are_read(self, level: str, flag: str, read: tuple[int, str]) -> None:
        event, _ = a_centre().alarm(an_alarm(AlarmLevel=level, AlarmFlag=flag), NOW, answered=True)
        assert (event.level, event.flag) == read

    def test_forty_bytes_are_allowed(self) -> None:
        assert rules(a_centre().alarm(an_alarm(AlarmDesc="电" * 13 + "A"), NOW, answered=True)) == []

    def test_the_same_begin_again_is_a_duplicate_only_after_an_answer(self) -> None:
        centre = a_centre()
        assert rules(centre.alarm(an_alarm(), NOW, answered=False)) == []
        assert rules(centre.alarm(an_alarm(), NOW, answered=True)) == []
        assert rules(centre.alarm(an_alarm(), NOW, answered=True)) == [Rule.DUPLICATE]

    def test_a_number_is_used_once(self) -> None:
        centre = a_centre()
        centre.alarm(an_alarm(), NOW, answered=True)
        other = an_alarm(AlarmTime="2025-03-08 14:02:20")
        assert rules(centre.alarm(other, NOW, answered=True)) == [Rule.SERIAL_REUSED]

    def test_the_same_end_again_is_a_duplicate_only_after_an_answer(self) -> None:
        centre = a_centre()
        centre.alarm(an_alarm(), NOW, answered=True)
        end = an_alarm(AlarmFlag="END", AlarmTime="2025-03-08 14:02:25")
        assert rules(centre.alarm(end, NOW, answered=False)) == []
        assert rules(centre.alarm(end, NOW, answered=True)) == []
        assert rules(centre.alarm(end, NOW, answered=True)) == [Rule.DUPLICATE]

    @pytest.mark.parametrize(
        "changes", [{"Id": "0416001002"}, {"DeviceId": UNIT}, {"AlarmTime": "2025-03-08 14:02:10"}]
    )
    def test_an_end_is_for_what_began(self, changes: dict[str, str]) -> None:
        centre = a_centre()
        centre.alarm(an_alarm(), NOW, answered=True)
        assert rules(centre.alarm(an_alarm(AlarmFlag="END", **changes), NOW, answered=True)) == [Rule.END_DIFFERS]

    def test_after_a_logout_nothing_is_expected(self) -> None:
        centre = a_centre()
        centre.logout(parse_payload(payload("Request", "LOGOUT", 103, [element("FsuId", UNIT)])))
        assert rules(centre.alarm(an_alarm(), NOW, answered=True)) == [Rule.NOT_LOGGED_IN]

    @given(st.lists(st.tuples(st.sampled_from(["BEGIN", "END"]), st.integers(0, 3), st.booleans()), max_size=30))
    def test_only_what_is_out_of_order_is_held_against_a_unit(self, events: Sequence[tuple[str, int, bool]]) -> None:
        """Against a model of three lines: per number one BEGIN, one END, repeats only while unanswered."""
        centre = a_centre()
        heard: dict[tuple[str, int], bool] = {}
        for flag, number, answered in events:
            element_ = an_alarm(SerialNo=f"{number:010d}", AlarmFlag=flag)
            found = rules(violations(centre.alarm(element_, NOW, answered=answered)[1]))
            if flag == "END" and ("BEGIN", number) not in heard:
                assert found == [Rule.END_BEFORE_BEGIN]
                continue
            repeated_after_answer = heard.get((flag, number), False)
            assert found == ([Rule.DUPLICATE] if repeated_after_answer else [])
            heard[flag, number] = repeated_after_answer or answered


class TestFaultQueue:
    def test_orders_are_used_up_in_turn(self) -> None:
        queue = FaultQueue()
        queue.place(parse_order("drop:count=2"))
        queue.place(parse_order("late:command=SEND_ALARM,delay_s=0.5"))
        kinds = [None if (o := queue.take(name)) is None else o.kind for name in ("LOGIN", "SEND_ALARM", "LOGIN")]
        assert kinds == [Fault.DROP, Fault.DROP, None]
        taken = queue.take("SEND_ALARM")
        assert taken is not None
        assert (taken.kind, taken.delay_s) == (Fault.LATE, 0.5)
        assert queue.pending() == []

    def test_for_ever_until_withdrawn(self) -> None:
        queue = FaultQueue()
        queue.place(parse_order("result_0:count=all,taken=false"))
        assert all(queue.take("LOGIN") for _ in range(5))
        assert queue.clear() == 1
        assert queue.take("LOGIN") is None

    @pytest.mark.parametrize("text", ["melt", "drop:count=0", "late:delay_s=x", "drop:colour=red"])
    def test_a_wrong_order_is_refused(self, text: str) -> None:
        with pytest.raises(InvalidInput) as wrong:
            parse_order(text)
        assert wrong.value.message_zh


class TestJournal:
    def entry(self, journal: Journal, name: str = "LOGIN", findings: Sequence[Finding] = ()) -> Entry:
        return Entry(
            sequence=journal.next_sequence(),
            at=NOW,
            direction="in",
            peer="127.0.0.1:1",
            name=name,
            code=101,
            unit_id=UNIT,
            result="1",
            answered=True,
            duration_ms=1.0,
            findings=findings,
        )

    def test_the_next_run_reads_what_the_last_wrote_and_numbers_on(self, tmp_path: Path) -> None:
        path = tmp_path / "journal.jsonl"
        first = Journal(path)
        assert list(first.open()) == []
        first.write(self.entry(first))
        first.write(self.entry(first, findings=[Finding(Rule.SERIAL, "x", "1")]))
        first.close()
        with path.open("ab") as file:
            file.write(b'{"sequence": 3, "torn')
        second = Journal(path)
        assert [entry["sequence"] for entry in second.open()] == [1, 2]
        second.write(self.entry(second, "LOGOUT"))
        second.close()
        lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
        assert [(line["sequence"], line["name"]) for line in lines] == [(1, "LOGIN"), (2, "LOGIN"), (3, "LOGOUT")]
        assert [e["sequence"] for e in second.after(1)] == [2, 3]
        assert [e["sequence"] for e in second.after(name="LOGOUT")] == [3]
        assert [e["sequence"] for e in second.after(findings_only=True)] == [2]
        assert second.after(2)[0]["findings"] == []

    def test_in_memory_only(self) -> None:
        journal = Journal()
        list(journal.open())
        journal.write(self.entry(journal))
        assert journal.after()[0]["at"] == "2025-03-08T06:02:30.000+00:00"
        journal.close()


def test_an_alarm_remembers_its_begin() -> None:
    event, _ = a_centre().alarm(an_alarm(), NOW, answered=True)
    assert Alarm(begin=event, begin_answered=True).end is None
    assert event.as_dict()["text"] == "停电(0.0V)"
