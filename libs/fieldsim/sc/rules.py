"""What the centre expects of a unit, and what it holds against it.

Pure: messages in, findings out, the state of units and alarms in plain objects. A finding never refuses by itself;
the server decides what it answers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from lxml import etree

from libs.fieldsim.sc.messages import CODES, read_local
from libs.fieldsim.sc.soap import Message, child

LOGIN_INTERVAL = timedelta(seconds=180)
"""Two LOGINs of a unit are at least this far apart (dialect T)."""
SERIAL_DIGITS = 10
SERIAL_MAX = 4_294_967_295
POINT_ID_DIGITS = 10
UNIT_ID_CHARS = 14
MAX_TEXT_BYTES = 40
FUTURE_TOLERANCE = timedelta(minutes=5)

LOGIN_FIELDS = (
    "UserName",
    "PaSCword",
    "FsuId",
    "FsuCode",
    "FsuIP",
    "MacId",
    "ImsiId",
    "NetworkType",
    "LockedNetworkType",
    "Carrier",
    "NMVendor",
    "NMType",
    "FSUVendor",
    "FSUType",
    "FSUClass",
    "Version",
    "DictVersion",
    "DeviceList",
)
"""Every element of LOGIN that has to be there; ``Reg_Mode`` may be left out."""
ALARM_FIELDS = (
    "SerialNo",
    "Id",
    "FsuId",
    "FsuCode",
    "DeviceId",
    "DeviceCode",
    "AlarmTime",
    "AlarmLevel",
    "AlarmFlag",
    "AlarmDesc",
)

_LEVELS: Mapping[str, int] = {
    "1": 1,
    "2": 2,
    "3": 3,
    "4": 4,
    "一级": 1,
    "二级": 2,
    "三级": 3,
    "四级": 4,
}
_FLAGS: Mapping[str, str] = {
    "BEGIN": "BEGIN",
    "END": "END",
    "开始": "BEGIN",
    "结束": "END",
    "0": "BEGIN",
    "1": "END",
}


class Rule(StrEnum):
    """What can be held against a unit."""

    NAME_CODE = "name_code"
    """Name and Code do not belong together, or the message is not one that a unit sends."""
    NAMESPACE = "namespace"
    """The call is in another namespace than that of the service called."""
    MISSING_FIELD = "missing_field"
    UNIT_ID = "unit_id"
    """Not 14 characters, or another unit than the one that speaks."""
    LOGIN_TOO_SOON = "login_too_soon"
    NOT_LOGGED_IN = "not_logged_in"
    SERIAL = "serial"
    """Not ten decimal digits up to 4294967295."""
    SERIAL_REUSED = "serial_reused"
    """A BEGIN with a number that another alarm of the unit has."""
    POINT_ID = "point_id"
    UNKNOWN_DEVICE = "unknown_device"
    """Not in the device list of the LOGIN."""
    ALARM_TIME = "alarm_time"
    LEVEL = "level"
    FLAG = "flag"
    TEXT = "text"
    """Longer than 40 bytes, or with an angle bracket."""
    END_BEFORE_BEGIN = "end_before_begin"
    END_DIFFERS = "end_differs"
    """The END names another point or device than its BEGIN, or a time before it."""
    DUPLICATE = "duplicate"
    """The same event again although it was acknowledged."""
    RESULT = "result"
    """An answer without Result, or for the wrong unit."""
    TRANSPORT = "transport"
    """No answer, or none that can be read."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    rule: Rule
    text: str
    serial: str | None = None

    def as_dict(self) -> dict[str, str]:
        """Return it as JSON-ready facts."""
        facts = {"rule": self.rule.value, "text": self.text}
        return facts if self.serial is None else {**facts, "serial": self.serial}


@dataclass(frozen=True, slots=True)
class AlarmEvent:
    """A BEGIN or an END as it was reported."""

    unit_id: str
    serial: str
    point_id: str
    device_id: str
    flag: str
    """BEGIN, END or what stood there."""
    level: int | None
    time_text: str
    text: str

    def as_dict(self) -> dict[str, object]:
        """Return it as JSON-ready facts."""
        return {
            "unit_id": self.unit_id,
            "serial": self.serial,
            "point_id": self.point_id,
            "device_id": self.device_id,
            "flag": self.flag,
            "level": self.level,
            "time": self.time_text,
            "text": self.text,
        }


@dataclass(slots=True)
class Alarm:
    """The life of one alarm as the centre heard of it."""

    begin: AlarmEvent
    begin_answered: bool
    end: AlarmEvent | None = None
    end_answered: bool = False


@dataclass(slots=True)
class Unit:
    """A unit that has registered."""

    unit_id: str
    logged_in_at: datetime
    ip: str
    old_registration: bool
    """It expects SET_LOGININFO after LOGIN_ACK."""
    devices: tuple[str, ...]
    online: bool = True


@dataclass(slots=True)
class Centre:
    """All that the centre remembers."""

    units: dict[str, Unit] = field(default_factory=dict)
    alarms: dict[tuple[str, str], Alarm] = field(default_factory=dict)
    """By unit id and serial number."""

    def open_alarms(self) -> list[Alarm]:
        """Return the alarms that have begun and not ended."""
        return [alarm for alarm in self.alarms.values() if alarm.end is None]

    def login(self, message: Message, now: datetime) -> tuple[Unit, list[Finding]]:
        """Register a unit."""
        info = message.info
        findings = _missing(info, LOGIN_FIELDS)
        unit_id = message.value("FsuId") or ""
        findings += _unit_id(unit_id)
        known = self.units.get(unit_id)
        if known is not None and now - known.logged_in_at < LOGIN_INTERVAL:
            apart_s = (now - known.logged_in_at).total_seconds()
            findings.append(Finding(Rule.LOGIN_TOO_SOON, f"{apart_s:.1f} s after the last LOGIN, 180 s are the least"))
        devices = child(info, "DeviceList")
        unit = Unit(
            unit_id=unit_id,
            logged_in_at=now,
            ip=message.value("FsuIP") or "",
            old_registration=(message.value("Reg_Mode") or "1") == "1",
            devices=() if devices is None else tuple(device.get("Id", "") for device in devices),
        )
        self.units[unit_id] = unit
        return unit, findings

    def logout(self, message: Message) -> list[Finding]:
        """Strike a unit off; the sample of the standard names none, then all of one centre are meant."""
        unit_id = message.value("FsuId")
        for unit in self.units.values():
            if unit_id in (None, "", unit.unit_id):
                unit.online = False
        return []

    def alarm(self, element: etree._Element, now: datetime, *, answered: bool) -> tuple[AlarmEvent, list[Finding]]:
        """Take one alarm event.

        Args:
            element: The ``TAlarm``.
            now: When it came.
            answered: Whether its sender is going to get our acknowledgement; if not, it may send it again.
        """
        event = _event(element)
        findings = [*_missing(element, ALARM_FIELDS), *self._checked(event, element, now)]
        if event.flag == "BEGIN":
            findings += self._begin(event, answered)
        elif event.flag == "END":
            findings += self._end(event, answered)
        return event, [Finding(f.rule, f.text, event.serial) for f in findings]

    def _checked(self, event: AlarmEvent, element: etree._Element, now: datetime) -> Iterable[Finding]:
        yield from _unit_id(event.unit_id)
        unit = self.units.get(event.unit_id)
        if unit is None:
            yield Finding(Rule.NOT_LOGGED_IN, f"alarm of unit {event.unit_id!r}, which has not logged in")
        elif not unit.online:
            yield Finding(Rule.NOT_LOGGED_IN, f"alarm of unit {event.unit_id!r} after its LOGOUT")
        elif event.device_id not in unit.devices:
            yield Finding(Rule.UNKNOWN_DEVICE, f"device {event.device_id!r} is not in the LOGIN's list")
        if not _is_serial(event.serial):
            yield Finding(Rule.SERIAL, f"{event.serial!r} is not ten decimal digits up to {SERIAL_MAX}")
        if not (event.point_id.isdecimal() and len(event.point_id) == POINT_ID_DIGITS):
            yield Finding(Rule.POINT_ID, f"{event.point_id!r} is not ten digits")
        moment = read_local(event.time_text)
        if moment is None:
            yield Finding(Rule.ALARM_TIME, f"{event.time_text!r} is not YYYY-MM-DD hh:mm:ss")
        elif moment > now + FUTURE_TOLERANCE:
            yield Finding(Rule.ALARM_TIME, f"{event.time_text} is in the future")
        if event.level is None:
            yield Finding(Rule.LEVEL, f"{_text(element, 'AlarmLevel')!r} is not a level from 1 to 4")
        if event.flag not in ("BEGIN", "END"):
            yield Finding(Rule.FLAG, f"{event.flag!r} is neither BEGIN nor END")
        if len(event.text.encode()) > MAX_TEXT_BYTES:
            yield Finding(Rule.TEXT, f"{len(event.text.encode())} bytes, at most {MAX_TEXT_BYTES}")
        if "<" in event.text or ">" in event.text:
            yield Finding(Rule.TEXT, "an angle bracket in a text")

    def _begin(self, event: AlarmEvent, answered: bool) -> Iterable[Finding]:
        key = (event.unit_id, event.serial)
        known = self.alarms.get(key)
        if known is None:
            self.alarms[key] = Alarm(begin=event, begin_answered=answered)
            return
        if known.begin != event:
            yield Finding(Rule.SERIAL_REUSED, f"began before as {known.begin.text!r} at {known.begin.time_text}")
        elif known.begin_answered:
            yield Finding(Rule.DUPLICATE, "this BEGIN was acknowledged before")
        known.begin_answered = known.begin_answered or answered

    def _end(self, event: AlarmEvent, answered: bool) -> Iterable[Finding]:
        known = self.alarms.get((event.unit_id, event.serial))
        if known is None:
            yield Finding(Rule.END_BEFORE_BEGIN, "no BEGIN with this number was heard")
            return
        if known.end is not None:
            if known.end == event and not known.end_answered:
                known.end_answered = answered
            else:
                yield Finding(Rule.DUPLICATE, f"it ended before, at {known.end.time_text}")
            return
        known.end, known.end_answered = event, answered
        begin = known.begin
        if (event.point_id, event.device_id) != (begin.point_id, begin.device_id):
            yield Finding(
                Rule.END_DIFFERS,
                f"BEGIN was for point {begin.point_id} of device {begin.device_id}, "
                f"END is for point {event.point_id} of device {event.device_id}",
            )
        began, ended = read_local(begin.time_text), read_local(event.time_text)
        if began is not None and ended is not None and ended < began:
            yield Finding(Rule.END_DIFFERS, f"it ended at {event.time_text}, before it began at {begin.time_text}")


def name_and_code(message: Message, expected: Iterable[str]) -> list[Finding]:
    """Return what is wrong with the pair that tells a message's kind."""
    if message.name not in expected:
        return [Finding(Rule.NAME_CODE, f"{message.name or 'no name'} ({message.code}) is not expected here")]
    if message.code != CODES[message.name]:
        return [Finding(Rule.NAME_CODE, f"{message.name} carries code {message.code}, it has {CODES[message.name]}")]
    return []


def _event(element: etree._Element) -> AlarmEvent:
    flag = _text(element, "AlarmFlag")
    return AlarmEvent(
        unit_id=_text(element, "FsuId"),
        serial=_text(element, "SerialNo"),
        point_id=_text(element, "Id"),
        device_id=_text(element, "DeviceId"),
        flag=_FLAGS.get(flag, flag),
        level=_LEVELS.get(_text(element, "AlarmLevel")),
        time_text=_text(element, "AlarmTime"),
        text=_text(element, "AlarmDesc"),
    )


def _text(element: etree._Element, name: str) -> str:
    found = child(element, name)
    return "" if found is None else (found.text or "").strip()


def _missing(element: etree._Element, names: Iterable[str]) -> list[Finding]:
    absent = [name for name in names if child(element, name) is None]
    return [Finding(Rule.MISSING_FIELD, f"{', '.join(absent)} missing")] if absent else []


def _unit_id(unit_id: str) -> list[Finding]:
    if len(unit_id) == UNIT_ID_CHARS:
        return []
    return [Finding(Rule.UNIT_ID, f"{unit_id!r} has {len(unit_id)} characters, a unit id has {UNIT_ID_CHARS}")]


def _is_serial(text: str) -> bool:
    ascii_digits = text.isascii() and text.isdecimal() and len(text) == SERIAL_DIGITS
    return ascii_digits and int(text) <= SERIAL_MAX
