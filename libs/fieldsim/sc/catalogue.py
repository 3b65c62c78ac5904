"""What can be held against a unit: each rule with its place in the interface's reference and how sure that place is.

A rule that stands in a text, was seen in the field, or is told by somebody who read the text can be broken. What was
only reconstructed can not: a finding about it is *unconfirmed* and is to be asked of the centre, not of the unit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Evidence(StrEnum):
    """How a statement about the interface is known."""

    TEXT = "S"
    """Read in the stored text of a specification (of the interface, or of SOAP and XML under it)."""
    FIELD = "F"
    """Observed on a real device or in an implementation that runs against a real centre."""
    NOTES = "N"
    """Second-hand: notes of somebody who read the specification."""
    RECONSTRUCTED = "R"
    """By analogy; the provincial centre has to confirm it."""


class Severity(StrEnum):
    """What a finding says about the unit."""

    VIOLATION = "violation"
    UNCONFIRMED = "unconfirmed"


class Rule(StrEnum):
    """The id of a rule."""

    NAME_CODE = "name_code"
    NAMESPACE = "namespace"
    MISSING_FIELD = "missing_field"
    FIELD_ORDER = "field_order"
    FIELD_CASE = "field_case"
    FIELD_LENGTH = "field_length"
    FIELD_VALUE = "field_value"
    UNIT_ID = "unit_id"
    LOGIN_TOO_SOON = "login_too_soon"
    NOT_LOGGED_IN = "not_logged_in"
    NOT_READY = "not_ready"
    SERIAL = "serial"
    SERIAL_REUSED = "serial_reused"
    POINT_ID = "point_id"
    DEVICE_ID = "device_id"
    UNKNOWN_DEVICE = "unknown_device"
    ALARM_TIME = "alarm_time"
    LEVEL = "level"
    FLAG = "flag"
    TEXT = "text"
    BEGIN_WHILE_OPEN = "begin_while_open"
    END_BEFORE_BEGIN = "end_before_begin"
    END_DIFFERS = "end_differs"
    DUPLICATE = "duplicate"
    NOT_RESENT = "not_resent"
    RESULT = "result"
    FAILURE = "failure"
    VALUE = "value"
    TIME_FORM = "time_form"
    HISTORY = "history"
    WILDCARD = "wildcard"
    SELECTION = "selection"
    ORDER_OUTCOME = "order_outcome"
    UNKNOWN_COMMAND = "unknown_command"
    WRONG_PAIR = "wrong_pair"
    WRONG_UNIT = "wrong_unit"
    WIRE_FORM = "wire_form"
    HOSTILE_XML = "hostile_xml"
    TRANSPORT = "transport"


@dataclass(frozen=True, slots=True)
class RuleText:
    """A rule for people."""

    section: str
    """Of the project's reference of the interface (``SOAP``: of its notes on WSDL and SOAP)."""
    evidence: Evidence
    """How it is known in dialect T."""
    title: str
    title_zh: str
    elsewhere: Mapping[str, tuple[str, Evidence]] = field(default_factory=dict)
    """Section and evidence in other dialects, where they differ."""

    def place(self, dialect: str) -> tuple[str, Evidence]:
        """Return section and evidence in a dialect."""
        return self.elsewhere.get(dialect, (self.section, self.evidence))


def _y(section: str, evidence: Evidence) -> dict[str, tuple[str, Evidence]]:
    return {"Y": (section, evidence)}


_S, _F, _N, _R = Evidence.TEXT, Evidence.FIELD, Evidence.NOTES, Evidence.RECONSTRUCTED

CATALOGUE: Mapping[Rule, RuleText] = {
    Rule.NAME_CODE: RuleText(
        "3, 8.1, 10.2",
        _S,
        "Name and Code are a pair of the dialect; an answer has the name with _ACK and the next code",
        "报文名称与编码须为本方言的一对；应答名称加_ACK，编码加1",
        _y("3, 8.2, 10.2", _N),
    ),
    Rule.NAMESPACE: RuleText(
        "SOAP 1, 2",
        _S,
        "a call or answer is in the namespace of the service that is called",
        "调用与应答使用被调用服务的命名空间",
        _y("SOAP 1", _R),
    ),
    Rule.MISSING_FIELD: RuleText(
        "8.1",
        _S,
        "every listed element is there, also when it is empty",
        "所列字段必须出现，可为空的也要出现",
        _y("7.2, 8.2, 13.4", _N),
    ),
    Rule.FIELD_ORDER: RuleText(
        "7.1, 8.1",
        _S,
        "elements come in the order of the table",
        "字段按规范表中的顺序出现",
        _y("13.4", _R),
    ),
    Rule.FIELD_CASE: RuleText(
        "8.1",
        _S,
        "elements are spelt as in the table",
        "字段名大小写与规范表一致",
        _y("7.2, 8.2", _N),
    ),
    Rule.FIELD_LENGTH: RuleText(
        "5",
        _S,
        "a text has no more bytes than its constant allows",
        "字段字节长度不超过规定值",
        _y("5", _N),
    ),
    Rule.FIELD_VALUE: RuleText(
        "6, 8.1",
        _S,
        "a value is one of its enumeration, or has the form of its type",
        "取值属于规定的枚举或类型",
        _y("6", _N),
    ),
    Rule.UNIT_ID: RuleText(
        "5, 4.1",
        _S,
        "a unit names itself by the id it is asked by, in full length",
        "FSU使用自身完整的ID应答",
        _y("5, 9.7", _N),
    ),
    Rule.LOGIN_TOO_SOON: RuleText(
        "4.1, 9.8",
        _S,
        "two LOGINs of a unit are at least 180 s apart",
        "同一FSU两次LOGIN至少间隔180秒",
    ),
    Rule.NOT_LOGGED_IN: RuleText(
        "4.1",
        _S,
        "a unit reports after it has registered",
        "注册成功后才能上报",
        _y("4.2", _N),
    ),
    Rule.NOT_READY: RuleText(
        "4.2",
        _R,
        "a unit declares itself ready (SUREADY) before it reports alarms",
        "上报告警前先发送SUREADY",
    ),
    Rule.SERIAL: RuleText(
        "9.1",
        _S,
        "a serial number is ten decimal digits, 0000000000 to 4294967295",
        "告警序号为10位十进制数，不超过4294967295",
        _y("7.2, 9.1", _N),
    ),
    Rule.SERIAL_REUSED: RuleText(
        "9.1",
        _S,
        "a new alarm takes a new serial number until the numbers have wrapped, and never one that is open",
        "新告警使用新序号；序号回绕前不得重复，未结束的告警序号不得重用",
        _y("9.1", _N),
    ),
    Rule.POINT_ID: RuleText("5", _S, "a point id has its full number of digits", "监控点ID位数正确", _y("5", _N)),
    Rule.DEVICE_ID: RuleText("5", _S, "a device id has its full number of digits", "设备ID位数正确", _y("5", _N)),
    Rule.UNKNOWN_DEVICE: RuleText(
        "8.1",
        _S,
        "what is reported belongs to a device that the LOGIN has listed",
        "上报的设备须在LOGIN设备列表中",
        _y("8.2", _R),
    ),
    Rule.ALARM_TIME: RuleText(
        "5, 7.1",
        _S,
        "a time is YYYY-MM-DD hh:mm:ss, local, and not in the future",
        "时间格式为YYYY-MM-DD hh:mm:ss，且不晚于当前时间",
        _y("5, 7.2", _N),
    ),
    Rule.LEVEL: RuleText("6", _S, "an alarm has a level from 1 to 4", "告警等级为1至4", _y("6", _N)),
    Rule.FLAG: RuleText("6", _S, "an alarm has the flag BEGIN or END", "告警标志为BEGIN或END", _y("6", _N)),
    Rule.TEXT: RuleText(
        "7.1, 9.1",
        _S,
        "a text fits its bytes and has no angle bracket",
        "描述不超过规定字节数且不含尖括号",
        _y("5, 7.2", _N),
    ),
    Rule.BEGIN_WHILE_OPEN: RuleText(
        "9.1",
        _R,
        "a point that is in alarm ends it before it begins another",
        "同一监控点须先结束再产生新告警",
    ),
    Rule.END_BEFORE_BEGIN: RuleText(
        "9.1",
        _S,
        "an END carries the number of a BEGIN that was told before",
        "END的序号须与已上报的BEGIN一致",
        _y("9.1", _N),
    ),
    Rule.END_DIFFERS: RuleText(
        "9.1, 13.2",
        _S,
        "an END is about the point and device of its BEGIN, and not before it",
        "END与BEGIN的设备、监控点一致，时间不早于BEGIN",
        _y("13.4", _R),
    ),
    Rule.DUPLICATE: RuleText(
        "9.1",
        _S,
        "what was acknowledged is not told again",
        "已确认的告警不再重复上报",
        _y("9.1", _R),
    ),
    Rule.NOT_RESENT: RuleText(
        "9.1",
        _R,
        "what was not acknowledged with Result 1 is told again",
        "未收到Result 1的上报须重发",
    ),
    Rule.RESULT: RuleText("8.1", _S, "an answer has a Result, 0 or 1", "应答须有Result，取值0或1", _y("6, 8.2", _N)),
    Rule.FAILURE: RuleText(
        "10.1",
        _R,
        "a refusal carries FailureCode 1 to 23 and FailureCause",
        "失败应答带FailureCode（1至23）与FailureCause",
    ),
    Rule.VALUE: RuleText(
        "6, 7.1",
        _S,
        "a value has all its attributes, a type and a state of the enumerations, and a number",
        "测点值属性齐全，类型与状态属于枚举，数值为数字",
        _y("6, 13.4", _R),
    ),
    Rule.TIME_FORM: RuleText("5", _S, "a time is YYYY-MM-DD hh:mm:ss", "时间格式为YYYY-MM-DD hh:mm:ss", _y("5", _N)),
    Rule.HISTORY: RuleText(
        "9.3",
        _S,
        "history has one value per point and hour, inside what was asked",
        "历史数据每点每小时一个值，且在所询时段内",
        _y("9.3", _R),
    ),
    Rule.WILDCARD: RuleText(
        "8.1",
        _S,
        "all nines mean every device, or every point of a device",
        "全9表示全部设备或设备的全部监控点",
        _y("8.2", _N),
    ),
    Rule.SELECTION: RuleText(
        "9.3",
        _R,
        "what was asked is answered and nothing else; an unknown point has state 6",
        "只应答所询监控点；未知监控点状态为6",
    ),
    Rule.ORDER_OUTCOME: RuleText(
        "9.4",
        _S,
        "each ordered point is in SuccessList or in FailList, and Result says what became of all",
        "每个控制点列入SuccessList或FailList，Result为总体结果",
        _y("9.4", _R),
    ),
    Rule.UNKNOWN_COMMAND: RuleText(
        "8.1, SOAP 4",
        _R,
        "a command that is not known gets a well-formed no: name with _ACK, next code, Result 0",
        "未知命令须给出格式正确的否定应答",
    ),
    Rule.WRONG_PAIR: RuleText(
        "1.2, 10.2",
        _F,
        "a known name with a code that is not its own is refused, and not taken for the code's command",
        "名称与编码不符时须拒绝，不得按编码执行",
        _y("1.2, 10.2", _N),
    ),
    Rule.WRONG_UNIT: RuleText(
        "4.1",
        _S,
        "a request for another unit gets Result 0",
        "请求的FSU ID不符时Result为0",
        _y("9.7", _R),
    ),
    Rule.WIRE_FORM: RuleText(
        "SOAP 4",
        _R,
        "xmlData is taken as escaped text, CDATA and child elements, with any prefix and SOAPAction",
        "xmlData可为转义文本、CDATA或子元素，前缀与SOAPAction任意",
    ),
    Rule.HOSTILE_XML: RuleText(
        "9.7, SOAP 1.1 section 3",
        _S,
        "a document with a DTD or entities, or one too large, is refused; nothing is expanded or fetched",
        "含DTD、实体或过大的报文须拒绝，不展开、不外连",
    ),
    Rule.TRANSPORT: RuleText(
        "2, 3, 9.8",
        _S,
        "one request gets one answer in a SOAP 1.1 envelope, in time",
        "一问一答，SOAP 1.1信封，在限时内",
    ),
}
"""Every rule; none without its text."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    rule: Rule
    text: str
    """What was seen."""
    text_zh: str = ""
    evidence: Evidence = Evidence.TEXT
    section: str = ""
    serial: str | None = None

    @property
    def severity(self) -> Severity:
        """Whether the unit has broken a rule, or the rule has to be confirmed first."""
        return Severity.UNCONFIRMED if self.evidence is Evidence.RECONSTRUCTED else Severity.VIOLATION

    def as_dict(self) -> dict[str, str]:
        """Return it as JSON-ready facts."""
        facts = {
            "rule": self.rule.value,
            "severity": self.severity.value,
            "evidence": self.evidence.value,
            "section": self.section,
            "text": self.text,
            "text_zh": self.text_zh,
        }
        return facts if self.serial is None else {**facts, "serial": self.serial}


def violations(findings: list[Finding]) -> list[Finding]:
    """Return those that break a rule."""
    return [each for each in findings if each.severity is Severity.VIOLATION]
