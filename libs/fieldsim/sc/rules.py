"""What the centre expects of a unit, and what it holds against it.

Pure: messages in, findings out, the state of units and alarms in plain objects. A finding never refuses by itself;
the server decides what it answers.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from lxml import etree

from libs.fieldsim.sc.catalogue import Finding, Rule
from libs.fieldsim.sc.fields import judged_fields
from libs.fieldsim.sc.messages import read_local
from libs.fieldsim.sc.soap import Message, child
from libs.fieldsim.sc.spec import TOWER, Spec

SERIAL_DIGITS = 10
SERIAL_MAX = 4_294_967_295
SERIAL_HALF = 1 << 31
"""A step back by more than this is the counter's wrap."""
FUTURE_TOLERANCE = timedelta(minutes=5)

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
    """When it began, of an END when it ended."""
    text: str
    began_text: str = ""
    """When it began, of an END of a dialect that repeats it there."""

    def as_dict(self) -> dict[str, object]:
        """Return it as JSON-ready facts."""
        facts: dict[str, object] = {
            "unit_id": self.unit_id,
            "serial": self.serial,
            "point_id": self.point_id,
            "device_id": self.device_id,
            "flag": self.flag,
            "level": self.level,
            "time": self.time_text,
            "text": self.text,
        }
        return {**facts, "began": self.began_text} if self.began_text else facts


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
    """As its LOGIN lists them; a dialect may list none."""
    online: bool = True
    port: int | None = None
    """Where it says it listens; none: it does not say."""
    ready: bool = False
    """It has declared itself ready (dialect Y)."""


@dataclass(slots=True)
class Counter:
    """What is known of a unit's serial numbers."""

    last: int
    wrapped: bool = False

    def take(self, number: int) -> None:
        """Note the number of a new alarm."""
        self.wrapped = self.wrapped or self.last - number > SERIAL_HALF
        self.last = number


@dataclass(slots=True)
class Centre:
    """All that the centre remembers."""

    spec: Spec = TOWER
    units: dict[str, Unit] = field(default_factory=dict)
    alarms: dict[tuple[str, str], Alarm] = field(default_factory=dict)
    """By unit id and serial number."""
    counters: dict[str, Counter] = field(default_factory=dict)
    open_points: dict[tuple[str, str, str], str] = field(default_factory=dict)
    """Serial of the alarm that holds, by unit, device and point."""

    def open_alarms(self) -> list[Alarm]:
        """Return the alarms that have begun and not ended."""
        return [alarm for alarm in self.alarms.values() if alarm.end is None]

    def login(self, message: Message, now: datetime) -> tuple[Unit, list[Finding]]:
        """Register a unit."""
        spec, info = self.spec, message.info
        findings = list(judged_fields(spec, info, spec.login))
        unit_id = message.value(spec.unit_names[0]) or ""
        findings += unit_id_findings(spec, unit_id)
        known = self.units.get(unit_id)
        if known is not None and spec.login_interval is not None and now - known.logged_in_at < spec.login_interval:
            apart_s, least_s = (now - known.logged_in_at).total_seconds(), spec.login_interval.total_seconds()
            findings.append(
                spec.found(
                    Rule.LOGIN_TOO_SOON,
                    f"{apart_s:.1f} s after the last LOGIN, {least_s:g} s are the least",
                    f"距上次LOGIN仅 {apart_s:.1f} 秒，至少应间隔 {least_s:g} 秒",
                )
            )
        devices = child(info, "DeviceList")
        named = () if devices is None else tuple(device.get(spec.device_names[0], "") for device in devices)
        for device_id in named:
            findings += _digits(spec, Rule.DEVICE_ID, device_id, spec.device_digits)
        port = message.value("SUPort") or ""
        unit = Unit(
            unit_id=unit_id,
            logged_in_at=now,
            ip=message.value("FsuIP") or message.value("SUIP") or "",
            old_registration=spec.name == "T" and (message.value("Reg_Mode") or "1") == "1",
            devices=named,
            port=int(port) if port.isascii() and port.isdecimal() else None,
        )
        self.units[unit_id] = unit
        return unit, findings

    def logout(self, message: Message) -> list[Finding]:
        """Strike a unit off; the sample of the standard names none, then all of one centre are meant."""
        unit_id = message.value(self.spec.unit_names[0])
        for unit in self.units.values():
            if unit_id in (None, "", unit.unit_id):
                unit.online = False
        return []

    def ready(self, message: Message) -> list[Finding]:
        """Take a unit's word that it is ready (dialect Y)."""
        unit_id = message.value(self.spec.unit_names[0]) or ""
        unit = self.units.get(unit_id)
        if unit is not None:
            unit.ready = True
        return [*unit_id_findings(self.spec, unit_id), *self._registered(unit_id)]

    def asked(self, message: Message) -> list[Finding]:
        """Judge any other message that names its unit."""
        unit_id = message.value(self.spec.unit_names[0]) or ""
        return [*unit_id_findings(self.spec, unit_id), *self._registered(unit_id)]

    def alarm(self, element: etree._Element, now: datetime, *, answered: bool) -> tuple[AlarmEvent, list[Finding]]:
        """Take one alarm event.

        Args:
            element: The ``TAlarm``.
            now: When it came.
            answered: Whether its sender is going to get our acknowledgement; if not, it may send it again.
        """
        event = read_event(self.spec, element)
        findings = [*judged_fields(self.spec, element, self.spec.alarm), *self._checked(event, element, now)]
        if event.flag == "BEGIN":
            findings += self._begin(event, answered)
        elif event.flag == "END":
            findings += self._end(event, answered)
        return event, [replace(each, serial=event.serial) for each in findings]

    def remember(self, event: AlarmEvent, *, answered: bool) -> None:
        """Take an event over from an earlier run; what was wrong with it was said then."""
        if event.flag in ("BEGIN", "END"):
            for _ in (self._begin if event.flag == "BEGIN" else self._end)(event, answered):
                pass

    def _registered(self, unit_id: str) -> Iterator[Finding]:
        unit = self.units.get(unit_id)
        if unit is None:
            yield self.spec.found(
                Rule.NOT_LOGGED_IN, f"unit {unit_id!r} has not logged in", f"FSU {unit_id!r} 尚未注册"
            )
        elif not unit.online:
            yield self.spec.found(
                Rule.NOT_LOGGED_IN, f"unit {unit_id!r} speaks after its LOGOUT", f"FSU {unit_id!r} 注销后仍在上报"
            )

    def _checked(self, event: AlarmEvent, element: etree._Element, now: datetime) -> Iterator[Finding]:
        spec = self.spec
        yield from unit_id_findings(spec, event.unit_id)
        yield from self._registered(event.unit_id)
        unit = self.units.get(event.unit_id)
        if unit is not None and unit.devices and event.device_id not in unit.devices:
            yield spec.found(
                Rule.UNKNOWN_DEVICE,
                f"device {event.device_id!r} is not in the LOGIN's list",
                f"设备 {event.device_id!r} 不在LOGIN设备列表中",
            )
        if unit is not None and "SUREADY" in spec.from_unit and not unit.ready:
            yield spec.found(Rule.NOT_READY, "an alarm before SUREADY", "SUREADY之前上报告警")
        if not _is_serial(event.serial):
            yield spec.found(
                Rule.SERIAL,
                f"{event.serial!r} is not ten decimal digits up to {SERIAL_MAX}",
                f"{event.serial!r} 不是不超过 {SERIAL_MAX} 的10位十进制数",
            )
        yield from _digits(spec, Rule.POINT_ID, event.point_id, spec.point_digits)
        yield from _digits(spec, Rule.DEVICE_ID, event.device_id, spec.device_digits)
        yield from self._times(event, now)
        level = _text(element, "AlarmLevel")
        if event.level is None:
            yield spec.found(Rule.LEVEL, f"{level!r} is not a level from 1 to 4", f"告警等级 {level!r} 不在1至4之内")
        if event.flag not in ("BEGIN", "END"):
            yield spec.found(
                Rule.FLAG, f"{event.flag!r} is neither BEGIN nor END", f"告警标志 {event.flag!r} 不是BEGIN或END"
            )
        length = len(event.text.encode())
        if length > spec.alarm_text_bytes:
            yield spec.found(
                Rule.TEXT,
                f"{length} bytes, at most {spec.alarm_text_bytes}",
                f"{length} 字节，最多 {spec.alarm_text_bytes} 字节",
            )
        if any(bracket in str(text) for text in element.itertext() for bracket in "<>"):
            yield spec.found(Rule.TEXT, "an angle bracket in a text", "文本中含尖括号")

    def _times(self, event: AlarmEvent, now: datetime) -> Iterator[Finding]:
        for text in filter(None, (event.time_text or "none", event.began_text)):
            moment = read_local(text)
            if moment is None:
                yield self.spec.found(
                    Rule.ALARM_TIME, f"{text!r} is not YYYY-MM-DD hh:mm:ss", f"{text!r} 不是YYYY-MM-DD hh:mm:ss"
                )
            elif moment > now + FUTURE_TOLERANCE:
                yield self.spec.found(Rule.ALARM_TIME, f"{text} is in the future", f"{text} 晚于当前时间")

    def _begin(self, event: AlarmEvent, answered: bool) -> Iterator[Finding]:
        spec = self.spec
        key = (event.unit_id, event.serial)
        known = self.alarms.get(key)
        if known is not None and known.begin == event:
            if known.begin_answered:
                yield spec.found(Rule.DUPLICATE, "this BEGIN was acknowledged before", "该BEGIN已被确认")
            known.begin_answered = known.begin_answered or answered
            return
        number = int(event.serial) if _is_serial(event.serial) else None
        counter = self.counters.get(event.unit_id)
        if number is not None and counter is None:
            counter = self.counters[event.unit_id] = Counter(number)
        elif number is not None and counter is not None:
            counter.take(number)
        if known is not None and not (known.end is not None and counter is not None and counter.wrapped):
            yield spec.found(
                Rule.SERIAL_REUSED,
                f"began before as {known.begin.text!r} at {known.begin.time_text}",
                f"该序号已用于 {known.begin.time_text} 的 {known.begin.text!r}",
            )
            known.begin_answered = known.begin_answered or answered
            return
        self.alarms[key] = Alarm(begin=event, begin_answered=answered)
        place = (event.unit_id, event.device_id, event.point_id)
        still = self.open_points.get(place)
        if still is not None:
            yield spec.found(
                Rule.BEGIN_WHILE_OPEN,
                f"point {event.point_id} of device {event.device_id} is still in alarm {still}",
                f"设备 {event.device_id} 监控点 {event.point_id} 的告警 {still} 尚未结束",
            )
        self.open_points[place] = event.serial

    def _end(self, event: AlarmEvent, answered: bool) -> Iterator[Finding]:
        spec = self.spec
        known = self.alarms.get((event.unit_id, event.serial))
        if known is None:
            yield spec.found(Rule.END_BEFORE_BEGIN, "no BEGIN with this number was heard", "未收到该序号的BEGIN")
            return
        if known.end is not None:
            if known.end == event and not known.end_answered:
                known.end_answered = answered
            else:
                yield spec.found(
                    Rule.DUPLICATE,
                    f"it ended before, at {known.end.time_text}",
                    f"该告警已于 {known.end.time_text} 结束",
                )
            return
        known.end, known.end_answered = event, answered
        begin = known.begin
        place = (begin.unit_id, begin.device_id, begin.point_id)
        if self.open_points.get(place) == event.serial:
            del self.open_points[place]
        if (event.point_id, event.device_id) != (begin.point_id, begin.device_id):
            yield spec.found(
                Rule.END_DIFFERS,
                f"BEGIN was for point {begin.point_id} of device {begin.device_id}, "
                f"END is for point {event.point_id} of device {event.device_id}",
                f"BEGIN为设备 {begin.device_id} 监控点 {begin.point_id}，"
                f"END为设备 {event.device_id} 监控点 {event.point_id}",
            )
        if event.began_text and event.began_text != begin.time_text:
            yield spec.found(
                Rule.END_DIFFERS,
                f"the END says it began at {event.began_text}, the BEGIN said {begin.time_text}",
                f"END中开始时间为 {event.began_text}，BEGIN为 {begin.time_text}",
            )
        began, ended = read_local(begin.time_text), read_local(event.time_text)
        if began is not None and ended is not None and ended < began:
            yield spec.found(
                Rule.END_DIFFERS,
                f"it ended at {event.time_text}, before it began at {begin.time_text}",
                f"结束时间 {event.time_text} 早于开始时间 {begin.time_text}",
            )


def name_and_code(message: Message, expected: Iterable[str], spec: Spec = TOWER) -> list[Finding]:
    """Return what is wrong with the pair that tells a message's kind."""
    if message.name not in expected:
        name = message.name or "no name"
        return [
            spec.found(
                Rule.NAME_CODE,
                f"{name} ({message.code}) is not expected here",
                f"此处不应出现 {name}（{message.code}）",
            )
        ]
    code = spec.codes[message.name]
    if message.code != code:
        return [
            spec.found(
                Rule.NAME_CODE,
                f"{message.name} carries code {message.code}, it has {code}",
                f"{message.name} 的编码为 {message.code}，应为 {code}",
            )
        ]
    return []


def read_event(spec: Spec, element: etree._Element) -> AlarmEvent:
    """Return what a ``TAlarm`` says."""
    flag = _text(element, "AlarmFlag")
    read_flag = _FLAGS.get(flag, flag)
    is_end = read_flag == "END"
    return AlarmEvent(
        unit_id=_text(element, spec.unit_names[0]),
        serial=_text(element, "SerialNo"),
        point_id=_text(element, spec.point_name),
        device_id=_text(element, spec.alarm_device),
        flag=read_flag,
        level=_LEVELS.get(_text(element, "AlarmLevel")),
        time_text=_text(element, spec.ended_field if is_end else spec.began_field),
        text=_text(element, "AlarmDesc"),
        began_text=_text(element, spec.began_field) if is_end and spec.began_field != spec.ended_field else "",
    )


def unit_id_findings(spec: Spec, unit_id: str) -> Iterator[Finding]:
    """Yield what is wrong with a unit's id by itself."""
    if len(unit_id) != spec.unit_digits:
        yield spec.found(
            Rule.UNIT_ID,
            f"{unit_id!r} has {len(unit_id)} characters, a unit id has {spec.unit_digits}",
            f"{unit_id!r} 有 {len(unit_id)} 个字符，应为 {spec.unit_digits} 个",
        )


def _text(element: etree._Element, name: str) -> str:
    found = child(element, name)
    return "" if found is None else (found.text or "").strip()


def _digits(spec: Spec, rule: Rule, text: str, number: int) -> Iterator[Finding]:
    if not (text.isascii() and text.isdecimal() and len(text) == number):
        yield spec.found(rule, f"{text!r} is not {number} digits", f"{text!r} 不是 {number} 位数字")


def _is_serial(text: str) -> bool:
    ascii_digits = text.isascii() and text.isdecimal() and len(text) == SERIAL_DIGITS
    return ascii_digits and int(text) <= SERIAL_MAX
