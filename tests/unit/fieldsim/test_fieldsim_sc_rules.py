"""What the centre judges by: the two dialects as data, answers, serial numbers, dialect Y, the report."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import InvalidInput
from libs.fieldsim.sc import draft
from libs.fieldsim.sc.attacks import attacks, forms
from libs.fieldsim.sc.catalogue import CATALOGUE, Evidence, Finding, Rule, Severity, violations
from libs.fieldsim.sc.conformance import Step
from libs.fieldsim.sc.messages import read_local
from libs.fieldsim.sc.replies import Asked, judged
from libs.fieldsim.sc.report import EXIT_CODES, Report, Verdict, unsent_again
from libs.fieldsim.sc.rules import Centre
from libs.fieldsim.sc.soap import BadMessage, element, masked, parse_payload, unwrap
from libs.fieldsim.sc.spec import DRAFT, SPECS, TOWER, Spec, spec_named

NOW = datetime(2025, 3, 8, 6, 5, tzinfo=UTC)  # 14:05 in Asia/Shanghai
FSU, METER = "44010643800017", "44010641600021"
SU = "44010600000000001"
ASKED_T = Asked(FSU, {METER: ("0416104001",)})


def reply(name: str, code: int, info: str) -> str:
    return f"<Response><PK_Type><Name>{name}_ACK</Name><Code>{code + 1}</Code></PK_Type><Info>{info}</Info></Response>"


T_IDS = f"<FsuId>{FSU}</FsuId><FsuCode>{FSU}</FsuCode>"


def semaphore(**changes: str) -> str:
    fields = {"Type": "3", "Id": "0416104001", "MeasuredVal": "228.4", "SetupVal": "0", "Status": "0"} | changes
    return "<TSemaphore " + " ".join(f'{name}="{text}"' for name, text in fields.items() if text != "-") + "/>"


def data(*values: str, ids: str = T_IDS, result: str = "<Result>1</Result>") -> str:
    device = f'<Device Id="{METER}" Code="{METER}">{"".join(values)}</Device>'
    return reply("GET_DATA", 401, f"{ids}{result}<Values><DeviceList>{device}</DeviceList></Values>")


def rules(findings: Sequence[Finding]) -> list[Rule]:
    return [each.rule for each in findings]


class TestCatalogue:
    def test_every_rule_has_its_text_in_both_languages(self) -> None:
        assert set(CATALOGUE) == set(Rule)
        for text in CATALOGUE.values():
            assert text.section
            assert text.title.isascii()
            assert not text.title_zh.isascii()

    def test_what_is_reconstructed_is_no_violation(self) -> None:
        finding = DRAFT.found(Rule.FIELD_ORDER, "a", "甲")
        assert (finding.severity, finding.section) == (Severity.UNCONFIRMED, "13.4")
        assert TOWER.found(Rule.FIELD_ORDER, "a", "甲").severity is Severity.VIOLATION
        assert DRAFT.found(Rule.SERIAL, "a", "甲").evidence is Evidence.NOTES

    def test_codes_are_those_of_the_interface(self) -> None:
        assert sorted(TOWER.codes.values()) == [
            101, 103, 401, 403, 501, 1001, 1301, 1501, 1503, 1601, 1603, 1701, 1801, 1901, 2001,
        ]  # fmt: skip
        assert len(DRAFT.codes) == 22
        assert {DRAFT.codes[name] for name in ("SUREADY", "GET_DATA", "SEND_ALARM", "GET_SUINFO")} == {
            103, 501, 601, 1001,
        }  # fmt: skip

    @pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
    def test_every_command_of_the_centre_has_an_answer_to_judge_by(self, spec: Spec) -> None:
        assert set(spec.replies) == set(spec.from_centre)

    def test_an_unknown_dialect(self) -> None:
        assert spec_named("y") is DRAFT
        with pytest.raises(InvalidInput, match="T, Y"):
            spec_named("Z")


class TestAnswersT:
    def test_a_right_one(self) -> None:
        assert judged(parse_payload(data(semaphore())), "GET_DATA", ASKED_T) == []

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (data(semaphore(Status="7")), [Rule.VALUE]),
            (data(semaphore(Type="8")), [Rule.VALUE]),
            (data(semaphore(MeasuredVal="nan")), [Rule.VALUE]),
            (data(semaphore(MeasuredVal="")), [Rule.VALUE]),
            (data(semaphore(SetupVal="-")), [Rule.VALUE]),
            (data(semaphore(Id="416104001")), [Rule.POINT_ID, Rule.SELECTION, Rule.SELECTION]),
            (data(semaphore(RecordTime="2025/03/08 14:00")), [Rule.TIME_FORM]),
            (data(semaphore(), semaphore()), [Rule.SELECTION]),
            (data(), [Rule.SELECTION]),
            (data(semaphore()).replace("402", "502"), [Rule.NAME_CODE]),
            (data(semaphore()).replace("Response>", "Request>"), [Rule.NAME_CODE]),
            (data(semaphore(), result="<Result>2</Result>"), [Rule.RESULT]),
            (data(semaphore(), ids=f"<FsuCode>{FSU}</FsuCode><FsuId>{FSU}</FsuId>"), [Rule.FIELD_ORDER]),
            (data(semaphore(), ids=f"<FsuId>{FSU}</FsuId>"), [Rule.MISSING_FIELD]),
            (data(semaphore(), ids=f"<FSUID>{FSU}</FSUID><FsuCode>{FSU}</FsuCode>"), []),
            (data(semaphore(), result="<result>1</result>"), [Rule.FIELD_CASE]),
            (data(semaphore()).replace(f'Code="{METER}"', 'Code="21"'), [Rule.DEVICE_ID]),
        ],
    )
    def test_each_rule(self, text: str, expected: list[Rule]) -> None:
        assert rules(judged(parse_payload(text), "GET_DATA", ASKED_T)) == expected

    def test_a_refusal_needs_no_body(self) -> None:
        assert judged(parse_payload(reply("GET_DATA", 401, f"{T_IDS}<Result>0</Result>")), "GET_DATA", ASKED_T) == []

    def test_lengths_are_bytes(self) -> None:
        for user, expected in (("用" * 6 + "ab", []), ("用" * 7, [Rule.FIELD_LENGTH])):
            text = reply("GET_FTP", 1601, f"{T_IDS}<UserName>{user}</UserName><Password/><Result>1</Result>")
            assert rules(judged(parse_payload(text), "GET_FTP", Asked(FSU))) == expected

    def test_history_has_one_value_an_hour_inside_what_was_asked(self) -> None:
        asked = Asked(
            FSU, {METER: ("0416104001",)}, read_local("2025-03-08 12:00:00"), read_local("2025-03-08 14:00:00")
        )

        def history(*times: str) -> list[Rule]:
            text = data(*(semaphore(RecordTime=f"2025-03-08 {time}") for time in times))
            text = text.replace("GET_DATA", "GET_HISDATA").replace("402", "404")
            return rules(judged(parse_payload(text), "GET_HISDATA", asked))

        assert history("12:00:00", "13:00:00", "14:00:00") == []
        assert history("12:00:00", "12:30:00") == [Rule.HISTORY]
        assert history("15:00:00") == [Rule.HISTORY]

    def test_each_order_stands_in_one_of_the_lists(self) -> None:
        asked = Asked(FSU, orders=((METER, "0415202001"),))

        def outcome(result: int, done: str, failed: str) -> list[Rule]:
            lists = f"<SuccessList>{done}</SuccessList><FailList>{failed}</FailList>"
            device = f'<DeviceList><Device Id="{METER}" Code="{METER}">{lists}</Device></DeviceList>'
            text = reply("SET_POINT", 1001, f"{T_IDS}<Result>{result}</Result>{device}")
            return rules(judged(parse_payload(text), "SET_POINT", asked))

        point = "<Id>0415202001</Id>"
        assert outcome(0, "", point) == []
        assert outcome(1, point, "") == []
        assert outcome(1, "", point) == [Rule.ORDER_OUTCOME]
        assert outcome(0, "", "") == [Rule.ORDER_OUTCOME]
        assert outcome(1, point, point) == [Rule.ORDER_OUTCOME, Rule.ORDER_OUTCOME]

    @pytest.mark.parametrize(("cpu", "expected"), [("12.5", []), ("101", [Rule.FIELD_VALUE]), ("", [Rule.FIELD_VALUE])])
    def test_the_heartbeat_has_percentages(self, cpu: str, expected: list[Rule]) -> None:
        status = f"<TFSUStatus><CPUUsage>{cpu}</CPUUsage><MEMUsage>41.0</MEMUsage></TFSUStatus>"
        text = reply("GET_FSUINFO", 1701, f"{T_IDS}{status}<Result>1</Result>")
        assert rules(judged(parse_payload(text), "GET_FSUINFO", Asked(FSU))) == expected


Y_STATUS = "<TSUStatus><CPUUsage>12.5</CPUUsage><MEMUsage>41.0</MEMUsage><SUDateTime>{}</SUDateTime></TSUStatus>"
Y_ALARM = {
    "SerialNo": "0000000731",
    "SUID": SU,
    "DeviceID": "2020001",
    "SPID": "230200050010",
    "StartTime": "2025-03-08 14:02:11",
    "EndTime": "",
    "TriggerVal": "423.7",
    "AlarmLevel": "2",
    "AlarmFlag": "BEGIN",
    "AlarmDesc": "线电压Uab过高",
    "AlarmFriDesc": "1号进线柜 Uab=423.7V 超过420.0V",
}
Y_LOGIN = (
    "<Request><PK_Type><Name>LOGIN</Name><Code>101</Code></PK_Type><Info><UserName>u</UserName><Password>p</Password>"
    f"<SUID>{SU}</SUID><SUIP>10.20.30.40</SUIP><SUPort>8081</SUPort></Info></Request>"
)


class TestY:
    def centre(self, *, ready: bool = True) -> Centre:
        centre = Centre(DRAFT)
        unit, findings = centre.login(parse_payload(Y_LOGIN), NOW)
        assert findings == []
        assert (unit.port, unit.devices, unit.old_registration) == (8081, (), False)
        if ready:
            assert centre.ready(parse_payload(draft.about("SUREADY", SU))) == []
        return centre

    def alarm(self, centre: Centre, **changes: str) -> list[Finding]:
        fields = [element(name, text) for name, text in (Y_ALARM | changes).items() if text != "-"]
        return centre.alarm(element("TAlarm", fields), NOW, answered=True)[1]

    def test_begin_and_end(self) -> None:
        centre = self.centre()
        assert self.alarm(centre) == []
        assert self.alarm(centre, EndTime="2025-03-08 14:04:00", AlarmFlag="END") == []
        assert centre.open_alarms() == []

    def test_two_logins_may_be_close(self) -> None:
        assert self.centre().login(parse_payload(Y_LOGIN), NOW)[1] == []

    def test_the_end_keeps_the_start_and_has_an_end(self) -> None:
        centre = self.centre()
        self.alarm(centre)
        end = {"AlarmFlag": "END", "EndTime": "2025-03-08 14:04:00", "StartTime": "2025-03-08 14:02:12"}
        assert rules(self.alarm(centre, **end)) == [Rule.END_DIFFERS]
        centre = self.centre()
        self.alarm(centre)
        assert rules(self.alarm(centre, AlarmFlag="END")) == [Rule.ALARM_TIME]

    def test_an_alarm_before_sureready_is_only_unconfirmed(self) -> None:
        findings = self.alarm(self.centre(ready=False))
        assert rules(findings) == [Rule.NOT_READY]
        assert violations(findings) == []

    @pytest.mark.parametrize(
        ("changes", "rule"),
        [
            ({"SPID": "23020005001"}, Rule.POINT_ID),
            ({"DeviceID": "20200012"}, Rule.DEVICE_ID),
            ({"SUID": SU[:-1]}, Rule.UNIT_ID),
            ({"AlarmDesc": "高" * 67}, Rule.TEXT),
            ({"AlarmFriDesc": "高" * 67}, Rule.FIELD_LENGTH),
            ({"TriggerVal": "-"}, Rule.MISSING_FIELD),
            ({"SerialNo": "4294967296"}, Rule.SERIAL),
        ],
    )
    def test_rules_of_the_notes_are_rules(self, changes: dict[str, str], rule: Rule) -> None:
        assert rule in rules(violations(self.alarm(self.centre(), **changes)))

    def test_the_examples_are_right(self) -> None:
        ids = f"<SUID>{SU}</SUID><Result>1</Result><FailureCode/>"
        status = reply("GET_SUINFO", 1001, ids + Y_STATUS.format("2025-03-08 14:05:00"))
        assert judged(parse_payload(status), "GET_SUINFO", Asked(SU), DRAFT) == []
        value = (
            '<TSemaphore Type="3" SPID="230200050010" MeasuredVal="396.2" SetupVal="" Status="0"'
            ' RecordTime="2025-03-08 14:05:00"/>'
        )
        values = f'<Values><DeviceList><Device DeviceID="2020001">{value}</Device></DeviceList></Values>'
        asked = Asked(SU, {"2020001": ("230200050010",)})
        assert judged(parse_payload(reply("GET_DATA", 501, ids + values)), "GET_DATA", asked, DRAFT) == []
        account = (
            f"<SUID>{SU}</SUID><UserName>scftp</UserName><Password>x</Password><FTPPort>21</FTPPort><Result>1</Result>"
            "<FailureCode/>"
        )
        assert judged(parse_payload(reply("GET_SUFTP", 801, account)), "GET_SUFTP", Asked(SU), DRAFT) == []
        alarms = "<Values><TAlarmList><TAlarm>"
        alarms += "".join(f"<{name}>{text}</{name}>" for name, text in Y_ALARM.items())
        active = reply(
            "GET_ACTIVEALARM", 603, f"<SUID>{SU}</SUID><Result>1</Result>{alarms}</TAlarm></TAlarmList></Values>"
        )
        assert judged(parse_payload(active), "GET_ACTIVEALARM", Asked(SU), DRAFT) == []

    def test_what_is_guessed_about_an_answer_cannot_be_broken(self) -> None:
        bare = reply("SET_SCIP", 105, f"<SUID>{SU}</SUID><Result>0</Result>")
        findings = judged(parse_payload(bare), "SET_SCIP", Asked(SU), DRAFT)
        assert rules(findings) == [Rule.FAILURE]
        assert violations(findings) == []
        status = reply("GET_SUINFO", 1001, f"<SUID>{SU}</SUID><Result>1</Result>" + Y_STATUS.format("8.3.2025"))
        findings = judged(parse_payload(status), "GET_SUINFO", Asked(SU), DRAFT)
        assert rules(violations(findings)) == [Rule.TIME_FORM]
        words = judged(parse_payload(bare.replace("<Result>0", "<Result>FAILURE")), "SET_SCIP", Asked(SU), DRAFT)
        assert violations(words) == []


class TestSerials:
    def begin(self, centre: Centre, serial: int, point: str = "0416001001", flag: str = "BEGIN") -> list[Rule]:
        fields = {
            "SerialNo": f"{serial:010d}", "Id": point, "FsuId": FSU, "FsuCode": FSU, "DeviceId": METER,
            "DeviceCode": METER, "AlarmTime": f"2025-03-08 14:0{1 if flag == 'BEGIN' else 2}:00", "AlarmLevel": "3",
            "AlarmFlag": flag, "AlarmDesc": f"{serial}/{len(centre.alarms)}/{flag}",
        }  # fmt: skip
        event = element("TAlarm", [element(name, text) for name, text in fields.items()])
        found = centre.alarm(event, NOW, answered=True)[1]
        return [each.rule for each in found if each.rule is not Rule.NOT_LOGGED_IN]

    def test_a_number_comes_again_only_after_the_wrap_and_when_its_alarm_is_over(self) -> None:
        centre = Centre()
        for serial in (1, 2, 3):
            assert self.begin(centre, serial, f"041600100{serial}") == []
        assert self.begin(centre, 1, "0416001001", "END") == []
        assert self.begin(centre, 1) == [Rule.SERIAL_REUSED]
        assert self.begin(centre, 4_294_967_295, "0416001004") == []
        assert self.begin(centre, 0, "0416001005") == []
        assert self.begin(centre, 1) == []
        assert self.begin(centre, 2, "0416001006") == [Rule.SERIAL_REUSED]

    def test_a_point_ends_before_it_begins_again(self) -> None:
        centre = Centre()
        assert self.begin(centre, 1) == []
        assert self.begin(centre, 2) == [Rule.BEGIN_WHILE_OPEN]
        assert TOWER.found(Rule.BEGIN_WHILE_OPEN, "", "").severity is Severity.UNCONFIRMED


class TestWire:
    @pytest.mark.parametrize("form", forms(TOWER.unit_namespace, data()), ids=lambda form: form.title)
    def test_every_form_is_the_same_message(self, form: object) -> None:
        _, text = unwrap(form.body, argument="xmlData")  # type: ignore[attr-defined]
        assert parse_payload(text).name == "GET_DATA_ACK"

    @pytest.mark.parametrize(
        "attack", attacks(TOWER.unit_namespace, data(), "http://127.0.0.1:1/trap/"), ids=lambda attack: attack.title
    )
    def test_every_attack_is_refused_by_our_own_reader(self, attack: object) -> None:
        with pytest.raises(BadMessage):
            parse_payload(unwrap(attack.body, argument="xmlData")[1])  # type: ignore[attr-defined]

    def test_no_password_is_shown(self) -> None:
        text = "<UserName>u</UserName><PaSCword>one</PaSCword><password>two</password><IPSecPWD>three</IPSecPWD>"
        assert not any(word in masked(text) for word in ("one", "two", "three"))
        assert masked("<Password/><Password></Password>") == "<Password/><Password></Password>"

    @given(st.text(max_size=12))
    def test_any_answer_is_judged_and_nothing_breaks(self, text: str) -> None:
        inner = text.replace("&", "").replace("<", "").replace(">", "").encode("utf-8", "ignore").decode()
        try:
            message = parse_payload(data(semaphore()).replace("228.4", inner.replace('"', "")))
        except BadMessage:
            return
        judged(message, "GET_DATA", ASKED_T)


def entry(result: str, fault: str | None, *alarms: tuple[str, str]) -> dict[str, object]:
    return {
        "direction": "in",
        "name": "SEND_ALARM",
        "at": NOW.isoformat(),
        "result": result,
        "fault": fault,
        "alarms": [{"serial": serial, "flag": flag} for serial, flag in alarms],
        "findings": [],
    }


class TestReport:
    def report(self, *steps: Step, heard: Sequence[dict[str, object]] = ()) -> Report:
        return Report(TOWER, FSU, "http://unit/", NOW, NOW + timedelta(seconds=5), steps, heard)

    def step(self, *findings: Finding, answered: bool = True) -> Step:
        return Step("heartbeat", "心跳", "GET_FSUINFO", findings, answered, "1", 1.0, "<Response/>")

    def test_the_verdicts(self) -> None:
        broken = TOWER.found(Rule.RESULT, "no Result", "无Result")
        open_ = TOWER.found(Rule.NOT_RESENT, "a", "甲")
        for report, verdict in (
            (self.report(), Verdict.NOT_REACHED),
            (self.report(self.step(broken, answered=False)), Verdict.NOT_REACHED),
            (self.report(self.step()), Verdict.CONFORMS),
            (self.report(self.step(open_)), Verdict.CONFORMS),
            (self.report(self.step(open_, broken)), Verdict.VIOLATIONS),
        ):
            assert report.verdict is verdict
        assert [EXIT_CODES[each] for each in Verdict] == [0, 1, 3]

    def test_it_says_rule_evidence_section_and_message_in_both_languages(self) -> None:
        told = {**entry("1", None), "findings": [TOWER.found(Rule.TEXT, "41 bytes", "41 字节").as_dict()]}
        report = self.report(self.step(TOWER.found(Rule.RESULT, "no Result", "无Result")), heard=[told])
        facts = orjson.loads(orjson.dumps(report.as_dict()))
        assert (facts["schema"], facts["verdict"], facts["violations"]) == ("wattring-sc-report/1", "violations", 2)
        first, second = facts["findings"]
        assert (first["rule"], first["evidence"], first["section"], first["message"]) == (
            "result", "S", "8.1", "<Response/>",
        )  # fmt: skip
        assert (second["text"], second["text_zh"]) == ("41 bytes", "41 字节")
        assert set(facts["rules"]) == {"result", "text"}
        text = "\n".join(report.lines())
        assert "violates the interface" in text
        assert "不符合" in text
        assert "result [S, section 8.1]" in text
        assert "<Response/>" in text

    def test_what_was_not_acknowledged_has_to_come_again(self) -> None:
        one, two = ("0000000001", "BEGIN"), ("0000000002", "BEGIN")
        lost = [entry("1", "drop", one, two), entry("1", None, one)]
        assert [each.serial for each in unsent_again(lost, TOWER)] == ["0000000002"]
        assert unsent_again([*lost, entry("0", None, two), entry("1", "late", two)], TOWER) == []
