"""The dialects as data, from the centre's side: what a unit may say and how it has to look.

Written from the interface's reference, apart from the unit's side on purpose: a misreading then shows. Dialect T is
China Tower's of 2016, Y the draft of 2024 whose text is known in parts only; what is not known is left out or marked.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum, auto

from libs.common.errors import InvalidInput
from libs.fieldsim.sc.catalogue import CATALOGUE, Evidence, Finding, Rule

IPV4 = re.compile(r"(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)(?:\.(?!$)|$)){4}")
RESULTS = {"0": False, "1": True, "FAILURE": False, "SUCCESS": True}
"""Results as they are read; words are one implementer's."""


@dataclass(frozen=True, slots=True)
class Field:
    """One element of a message."""

    name: str
    max_bytes: int | None = None
    """Of its text in UTF-8; none: no constant names it. [B]"""
    values: frozenset[str] | None = None
    """What it may be; none: anything. An empty text is always allowed here, presence is another rule."""
    form: re.Pattern[str] | None = None
    required: bool = True
    evidence: Evidence | None = None
    """How it is known that it belongs there; none: as the dialect's rule says."""


class Body(StrEnum):
    """What an answer holds besides its plain fields."""

    NOTHING = auto()
    VALUES = auto()
    HISTORY = auto()
    THRESHOLDS = auto()
    OPTIONS = auto()
    OUTCOME = auto()
    DEVICES = auto()
    STATUS = auto()
    ALARMS = auto()


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one request of the centre."""

    fields: tuple[Field, ...]
    """Children of ``Info``, in order."""
    body: Body = Body.NOTHING
    evidence: Evidence | None = None
    """How the answer as a whole is known; none: as the dialect's rules say."""


@dataclass(frozen=True, slots=True)
class Spec:
    """A dialect."""

    name: str
    title: str
    from_unit: Mapping[str, int]
    """Code of each request that a unit sends; its answer carries the next number."""
    from_centre: Mapping[str, int]
    sc_namespace: str
    unit_namespace: str
    unit_path: str
    unit_names: tuple[str, ...]
    """Elements that name a unit, its id first."""
    unit_digits: int
    device_digits: int
    point_digits: int
    device_names: tuple[str, ...]
    """Attributes that name a device, its id first."""
    point_name: str
    login: tuple[Field, ...]
    alarm: tuple[Field, ...]
    began_field: str
    ended_field: str
    """Which field of an alarm says when: the same for both in T, two in Y."""
    alarm_device: str
    alarm_text_bytes: int
    value_required: tuple[str, ...]
    point_types: frozenset[str]
    status_field: str
    status: tuple[str, ...]
    replies: Mapping[str, Reply]
    heartbeat: str
    read_values: str
    login_interval: timedelta | None
    """None: not stated."""
    states: frozenset[str] = frozenset("0123456")
    namespaces_public: bool = True
    login_lists_devices: bool = True
    has_failure: bool = False
    """Answers carry FailureCode and FailureCause."""
    secrets: frozenset[str] = field(default_factory=lambda: frozenset({"pascword", "password", "ipsecpwd"}))

    @property
    def codes(self) -> Mapping[str, int]:
        """Code of every request."""
        return {**self.from_unit, **self.from_centre}

    def found(
        self, rule: Rule, text: str, text_zh: str, *, evidence: Evidence | None = None, serial: str | None = None
    ) -> Finding:
        """Return a finding with the rule's place in this dialect.

        Args:
            rule: Which.
            text: What was seen.
            text_zh: The same in Chinese.
            evidence: How this case of the rule is known, when it is known worse than the rule.
            serial: Of the alarm that it is about.
        """
        section, known = CATALOGUE[rule].place(self.name)
        return Finding(rule, text, text_zh, evidence or known, section, serial)


def _fields(*names: str, evidence: Evidence | None = None, required: bool = True) -> tuple[Field, ...]:
    return tuple(Field(name, evidence=evidence, required=required) for name in names)


def _one_of(*values: str) -> frozenset[str]:
    return frozenset(values)


_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
_NUMBER = re.compile(r"[0-9]{1,10}")
_RESULT = Field("Result")
_USER, _PASSWORD = Field("UserName", 20), Field("Password", 20)

# ---- T: China Tower 2016, sections 5 to 8.1 ----------------------------------------------------------------

_T_UNIT = (Field("FsuId", 14), Field("FsuCode", 14))
_T_PLAIN = Reply((*_T_UNIT, _RESULT))
_T_VALUES = (*_T_UNIT, _RESULT, Field("Values"))
_T_OUTCOME = Reply((*_T_UNIT, _RESULT, Field("DeviceList")), Body.OUTCOME)

TOWER = Spec(
    name="T",
    title="China Tower 2016",
    from_unit={"LOGIN": 101, "LOGOUT": 103, "SEND_ALARM": 501},
    from_centre={
        "GET_DATA": 401,
        "GET_HISDATA": 403,
        "SET_POINT": 1001,
        "TIME_CHECK": 1301,
        "GET_LOGININFO": 1501,
        "SET_LOGININFO": 1503,
        "GET_FTP": 1601,
        "SET_FTP": 1603,
        "GET_FSUINFO": 1701,
        "SET_FSUREBOOT": 1801,
        "GET_THRESHOLD": 1901,
        "SET_THRESHOLD": 2001,
    },
    sc_namespace="http://SCService.chinatowercom.com",
    unit_namespace="http://FSUService.chinatowercom.com",
    unit_path="/services/FSUService",
    unit_names=("FsuId", "FsuCode"),
    unit_digits=14,
    device_digits=14,
    point_digits=10,
    device_names=("Id", "Code"),
    point_name="Id",
    login=(
        Field("UserName", 20),
        Field("PaSCword", 20),
        *_T_UNIT,
        Field("FsuIP", 15, form=IPV4),
        Field("MacId", 15),
        Field("ImsiId", 15),
        # NETWORKTYPE_LEN 2 contradicts its own values; the values count.
        Field("NetworkType", values=_one_of("2G", "3G", "4G")),
        Field(
            "LockedNetworkType",
            values=_one_of(
                "AUTO", "GSM", "CDMA", "WCDMA", "TDSCDMA", "EVDO", "LTE", "GSM_TDSCDMA", "GSM_WCDMA", "CDMA_EVDO"
            ),
        ),
        Field("Carrier", 2, _one_of("CT", "CM", "CU")),
        Field("NMVendor", 20),
        Field("NMType", 20),
        Field("Reg_Mode", 2, _one_of("1", "2"), required=False),
        Field("FSUVendor", 20),
        Field("FSUType", 20),
        Field("FSUClass", values=_one_of("INTSTAN", "DISSTAN", "IHIEXTER", "IIHIEXTER", "ILOEXTER", "IILOEXTER")),
        Field("Version", 20),
        Field("DictVersion", 1, _one_of("1", "2")),
        Field("DeviceList"),
    ),
    alarm=_fields(
        "SerialNo", "Id", "FsuId", "FsuCode", "DeviceId", "DeviceCode", "AlarmTime", "AlarmLevel", "AlarmFlag",
        "AlarmDesc",
    ),
    began_field="AlarmTime",
    ended_field="AlarmTime",
    alarm_device="DeviceId",
    alarm_text_bytes=40,
    value_required=("Type", "Id", "MeasuredVal", "SetupVal", "Status"),
    point_types=frozenset({"0", "1", "2", "3", "4", "5", "9"}),
    status_field="TFSUStatus",
    status=("CPUUsage", "MEMUsage"),
    replies={
        "GET_DATA": Reply(_T_VALUES, Body.VALUES),
        "GET_HISDATA": Reply(_T_VALUES, Body.HISTORY),
        "GET_THRESHOLD": Reply(_T_VALUES, Body.THRESHOLDS),
        "SET_POINT": _T_OUTCOME,
        "SET_THRESHOLD": _T_OUTCOME,
        "TIME_CHECK": Reply((_RESULT,)),
        "GET_LOGININFO": Reply(
            (
                *_T_UNIT,
                Field("IPSecUser", 20),
                Field("IPSecPWD", 20),
                Field("IPSecIP", 15),
                Field("SCIP", 15),
                Field("DeviceList"),
                _RESULT,
            ),
            Body.DEVICES,
        ),
        "SET_LOGININFO": _T_PLAIN,
        "GET_FTP": Reply((*_T_UNIT, _USER, _PASSWORD, _RESULT)),
        "SET_FTP": _T_PLAIN,
        "GET_FSUINFO": Reply((*_T_UNIT, Field("TFSUStatus"), _RESULT), Body.STATUS),
        "SET_FSUREBOOT": _T_PLAIN,
    },
    heartbeat="GET_FSUINFO",
    read_values="GET_DATA",
    login_interval=timedelta(seconds=180),
)  # fmt: skip

# ---- Y: the draft of 2024, sections 5 to 7.2, 8.2, 13.4 -------------------------------------------------------

_R = Evidence.RECONSTRUCTED
_Y_UNIT = (Field("SUID", 17),)
_Y_FAILURE = (
    Field("FailureCode", form=re.compile(r"[1-9]|1\d|2[0-3]"), required=False),
    Field("FailureCause", 40, required=False),
)
_Y_PLAIN = Reply((*_Y_UNIT, _RESULT, *_Y_FAILURE))
_Y_GUESSED = Reply((*_Y_UNIT, _RESULT, *_Y_FAILURE), evidence=_R)
_Y_VALUES = (*_Y_UNIT, _RESULT, *_Y_FAILURE, Field("Values"))

DRAFT = Spec(
    name="Y",
    title="YD/T draft of 2024",
    from_unit={
        "LOGIN": 101,
        "SUREADY": 103,
        "ASK_SCHEMECONFIG": 201,
        "ASK_FACTORYCONFIG": 301,
        "SEND_FACTORYCONFIG": 303,
        "SEND_ALARM": 601,
    },
    from_centre={
        "SET_SCIP": 105,
        "GET_SCHEMECONFIG": 203,
        "SET_SCHEMECONFIG": 205,
        "GET_FACTORYCONFIG": 305,
        "SET_FACTORYCONFIG": 307,
        "GET_SPCONFIGOPTION": 401,
        "SET_SPCONFIGOPTION": 403,
        "GET_DATA": 501,
        "ASK_TODAYHISDATA": 503,
        "GET_ACTIVEALARM": 603,
        "SET_RMCTRLCMD": 701,
        "GET_SUFTP": 801,
        "SET_SUFTP": 803,
        "SET_TIME": 901,
        "GET_SUINFO": 1001,
        "SET_SUREBOOT": 1101,
    },
    # Not public; the annexes are said to be those of T except for the service's name.
    sc_namespace="http://SCService.chinatowercom.com",
    unit_namespace="http://SUService.chinatowercom.com",
    namespaces_public=False,
    unit_path="/services/SUService",
    unit_names=("SUID",),
    unit_digits=17,
    device_digits=7,
    point_digits=12,
    device_names=("DeviceID",),
    point_name="SPID",
    login=(
        Field("UserName", 20, evidence=_R),
        Field("Password", 20, evidence=_R),
        *_Y_UNIT,
        Field("SUIP", 15, form=IPV4),
        Field("SUPort", form=_NUMBER),
    ),
    alarm=(
        *_fields("SerialNo", "SUID", "DeviceID", "SPID", "StartTime"),
        Field("EndTime", required=False),
        *_fields("TriggerVal", "AlarmLevel", "AlarmFlag", "AlarmDesc"),
        Field("AlarmFriDesc", 200),
    ),
    began_field="StartTime",
    ended_field="EndTime",
    alarm_device="DeviceID",
    alarm_text_bytes=200,
    value_required=("Type", "SPID", "MeasuredVal", "Status"),
    point_types=frozenset({"1", "2", "3", "4", "5", "6"}),
    status_field="TSUStatus",
    status=("CPUUsage", "MEMUsage", "SUDateTime"),
    replies={
        "GET_SUINFO": Reply((*_Y_UNIT, _RESULT, *_Y_FAILURE, Field("TSUStatus")), Body.STATUS),
        "GET_DATA": Reply(_Y_VALUES, Body.VALUES, _R),
        "ASK_TODAYHISDATA": Reply(_Y_VALUES, Body.HISTORY, _R),
        "GET_ACTIVEALARM": Reply((*_Y_UNIT, _RESULT, *_Y_FAILURE, Field("Values", evidence=_R)), Body.ALARMS),
        "SET_RMCTRLCMD": Reply((*_Y_UNIT, _RESULT, *_Y_FAILURE), Body.OUTCOME, _R),
        "GET_SPCONFIGOPTION": Reply((*_Y_UNIT, _RESULT, *_Y_FAILURE), Body.OPTIONS, _R),
        "SET_SPCONFIGOPTION": _Y_GUESSED,
        "GET_SUFTP": Reply(
            (*_Y_UNIT, _USER, _PASSWORD, Field("FTPPort", form=_NUMBER), _RESULT, *_Y_FAILURE)
        ),
        "SET_SUFTP": _Y_GUESSED,
        "SET_TIME": _Y_PLAIN,
        "SET_SUREBOOT": _Y_GUESSED,
        "SET_SCIP": _Y_GUESSED,
        "GET_SCHEMECONFIG": _Y_GUESSED,
        "SET_SCHEMECONFIG": _Y_GUESSED,
        "GET_FACTORYCONFIG": _Y_GUESSED,
        "SET_FACTORYCONFIG": _Y_GUESSED,
    },
    heartbeat="GET_SUINFO",
    read_values="GET_DATA",
    login_interval=None,
    login_lists_devices=False,
    has_failure=True,
)  # fmt: skip

SPECS: Mapping[str, Spec] = {spec.name: spec for spec in (TOWER, DRAFT)}


def spec_named(name: str) -> Spec:
    """Return a dialect.

    Raises:
        InvalidInput: It is none that the centre speaks.
    """
    try:
        return SPECS[name.upper()]
    except KeyError:
        known = ", ".join(SPECS)
        raise InvalidInput(
            f"dialect {name!r}: the centre speaks {known}", message_zh=f"方言 {name!r} 不支持，可选：{known}"
        ) from None


def required(fields: Sequence[Field]) -> list[str]:
    """Return the names of the fields that have to be there."""
    return [each.name for each in fields if each.required]
