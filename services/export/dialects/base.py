"""One dialect as data, and the codec that works from it.

A message is ``Request`` or ``Response`` with ``PK_Type`` (name and code) and ``Info`` (the body). What
differs between dialects is data here: names and codes, id fields, wildcards, enumerations, texts. A body
that is shaped differently replaces its reader or writer in the dialect's own file. Dispatch is on the
pair (name, code): the same number means different things in different dialects, and a unit that looked
at the code alone was seen to take a GET_DATA for a SEND_ALARM.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from lxml import etree

from libs.common.clock import CIVIL_ZONE
from libs.common.errors import InvalidInput
from services.export.dialects import messages as m
from services.export.dialects import xmlsafe as xml

ACK = "_ACK"
_NAME = re.compile(r"^[A-Za-z0-9_]{1,40}$")


class MalformedMessage(InvalidInput):
    """Well-formed XML that is no message of the dialect: a part is missing or cannot be read."""

    code = "malformed_message"
    title_zh = "B接口报文有误"


class UnknownCommand(InvalidInput):
    """A message whose name and code are no command that this side takes."""

    code = "unknown_command"
    title_zh = "未知的B接口命令"


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a dialect; its reply has the name with ``_ACK`` and the code plus one."""

    operation: m.Operation
    name: str
    code: int | None


@dataclass(frozen=True, slots=True)
class Service:
    """How one side's SOAP service is named on the wire."""

    namespace: str
    path: str


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message taken apart as far as every dialect agrees."""

    name: str
    code: int | None
    info: xml.Element = field(repr=False)


def open_message(root: xml.Element) -> Incoming:
    """Take a payload apart; accepts every spelling of ``PK_Type`` that was seen in the field.

    Raises:
        MalformedMessage: There is no command name in it.
    """
    name: str | None = None
    code: str | None = None
    # SET_FTP is printed with a second, plain-text PK_Type; the one with children is the real one.
    for kind in sorted(xml.children(root, "PK_Type"), key=len, reverse=True):
        name = xml.field(kind, "Name") or (None if len(kind) else xml.text_of(kind))
        code = xml.field(kind, "Code")
        if name:
            break
    name = re.sub(r"\s+", "", name or "")  # some samples print a blank inside the name
    if not _NAME.match(name):
        raise MalformedMessage("PK_Type/Name: expected the name of a command")
    info = xml.child(root, "Info")
    return Incoming(name=name, code=_integer(code), info=etree.Element("Info") if info is None else info)


Reader = Callable[["Dialect", xml.Element], Any]
Writer = Callable[["Dialect", Any, xml.Element], object]


@dataclass(frozen=True)
class Dialect:
    """One variant of the B interface."""

    name: str
    title: str
    commands: tuple[Command, ...]
    centre: Service
    """The service that we call."""
    unit: Service
    """The service that we are."""
    readers: Mapping[m.Operation, Reader]
    """Bodies of the centre's requests."""
    reply_readers: Mapping[m.Operation, Reader]
    """Bodies of the centre's replies."""
    writers: Mapping[type, Writer]
    """Bodies of our requests and replies."""
    unit_fields: tuple[str, ...]
    """Elements that hold the parts of a ``UnitRef``."""
    device_fields: tuple[str, ...]
    """Attributes that hold the parts of a ``DeviceRef``."""
    point_field: str
    device_wildcard: str
    """Device id (in any part) that means all devices."""
    point_wildcard: str
    point_types: Mapping[m.PointType, str]
    states: Mapping[m.ValueState, str]
    levels: Mapping[int, str]
    flags: Mapping[m.AlarmFlag, str]
    no_value: str
    """What stands for a value that there is none of."""
    alarm_fields: tuple[tuple[str, Callable[["Dialect", m.UnitRef, m.AlarmReport], str]], ...]
    """Elements of one reported alarm, in order."""
    alarm_text_bytes: int
    """Longest alarm text. [B of UTF-8]"""
    unit_id_pattern: re.Pattern[str]
    device_id_pattern: re.Pattern[str]
    point_id_pattern: re.Pattern[str]
    id_rule: str
    """What the ids look like, for people."""
    id_rule_zh: str
    register_facts: tuple[tuple[str, Callable[[m.Register], str]], ...]
    """Elements of a registration before its device list, in order."""
    login_interval_s: float
    """Two registrations of a unit are at least this far apart. [s]"""
    type_of_point: Callable[[str], m.PointType]
    """What kind a point is, told from its id alone (for points that we do not know)."""

    # ---- commands --------------------------------------------------------------------------------

    def command(self, operation: m.Operation) -> Command:
        """Return the command of an operation.

        Raises:
            UnknownCommand: The dialect has none.
        """
        found = next((each for each in self.commands if each.operation is operation), None)
        if found is None:
            raise UnknownCommand(f"dialect {self.name} has no command for {operation}")
        return found

    def command_of(self, incoming: Incoming) -> Command:
        """Return the command that a centre's request is.

        A code that is missing is let pass, a wrong one is not.

        Raises:
            UnknownCommand: No command that a unit takes has this name and code.
        """
        for each in self.commands:
            right_code = incoming.code is None or incoming.code == each.code
            if xml.same(each.name, incoming.name) and right_code and each.operation in self.readers:
                return each
        raise UnknownCommand(f"{incoming.name} ({incoming.code}) is no command of dialect {self.name}")

    # ---- the centre's requests and our replies -----------------------------------------------------

    def read_request(self, incoming: Incoming) -> m.CentreRequest:
        """Return what the centre asks.

        Raises:
            UnknownCommand: Name and code are no command of ours.
            MalformedMessage: The body lacks a part, or a part cannot be read.
        """
        request: m.CentreRequest = self.readers[self.command_of(incoming).operation](self, incoming.info)
        return request

    def unit_of(self, incoming: Incoming) -> m.UnitRef | None:
        """Return the unit that a request names, None when it names none."""
        parts = [xml.field(incoming.info, name) or "" for name in self.unit_fields]
        return m.UnitRef(*parts) if parts[0] else None

    def write_reply(self, incoming: Incoming, reply: m.UnitReply) -> str:
        """Return our reply to a request, known to us or not."""
        code = None if incoming.code is None else incoming.code + 1
        return self._message("Response", incoming.name + ACK, code, reply)

    # ---- our requests and the centre's replies -----------------------------------------------------

    def write_request(self, request: m.UnitRequest, operation: m.Operation) -> str:
        """Return our request."""
        command = self.command(operation)
        return self._message("Request", command.name, command.code, request)

    def read_reply(self, text: str, operation: m.Operation) -> m.CentreReply:
        """Return what the centre answered to a request of ours.

        Raises:
            MalformedXml, MalformedMessage: It is no answer to that request; an empty one counts as that.
        """
        command = self.command(operation)
        if not text.strip():
            raise MalformedMessage(f"empty answer to {command.name}: the centre does not know the command")
        incoming = open_message(xml.parse_text(text))
        expected = None if command.code is None else command.code + 1
        if not xml.same(incoming.name, command.name + ACK) or incoming.code not in (None, expected):
            raise MalformedMessage(
                f"expected {command.name}{ACK} ({expected}), found {incoming.name} ({incoming.code})"
            )
        reply: m.CentreReply = self.reply_readers[operation](self, incoming.info)
        return reply

    def _message(self, root_name: str, name: str, code: int | None, message: Any) -> str:
        root = etree.Element(root_name)
        kind = xml.add(root, "PK_Type")
        xml.add(kind, "Name", name)
        if code is not None:
            xml.add(kind, "Code", str(code))
        self.writers[type(message)](self, message, xml.add(root, "Info"))
        return xml.document(root)

    # ---- checks of configuration -------------------------------------------------------------------

    def check_unit_id(self, value: str) -> bool:
        """Return whether a unit id has the dialect's form."""
        return bool(self.unit_id_pattern.fullmatch(value))

    def check_device_id(self, value: str) -> bool:
        """Return whether a device id has the dialect's form."""
        return bool(self.device_id_pattern.fullmatch(value)) and value != self.device_wildcard

    def check_point_id(self, value: str) -> bool:
        """Return whether a point id has the dialect's form."""
        return bool(self.point_id_pattern.fullmatch(value)) and value != self.point_wildcard

    def fit_text(self, name: str, suffix: str) -> str:
        """Return ``name`` + ``suffix`` within the dialect's length; the name gives way first.

        No ``<`` or ``>`` may stand anywhere in a text.
        """
        name, suffix = (part.translate(_NO_ANGLES) for part in (name, suffix))
        room = max(self.alarm_text_bytes - len(suffix.encode()), 0)
        return cut_utf8(cut_utf8(name, room) + suffix, self.alarm_text_bytes)


_NO_ANGLES = str.maketrans({"<": "\N{FULLWIDTH LESS-THAN SIGN}", ">": "\N{FULLWIDTH GREATER-THAN SIGN}"})


def cut_utf8(text: str, limit: int) -> str:
    """Return as many whole characters of the text as fit into ``limit`` bytes of UTF-8."""
    return text.encode()[:limit].decode(errors="ignore")


# ---- pieces that bodies are made of -----------------------------------------------------------------


def number(value: float | None, missing: str) -> str:
    """Return a value as text: plain digits, at most four decimals, never an exponent."""
    if value is None:
        return missing
    text = f"{value:.4f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


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


def read_result(info: xml.Element) -> bool | None:
    """Return ``Result`` in digits or words; None when it is missing."""
    text = xml.field(info, "Result")
    if text is None or text == "":
        return None
    return text.casefold() in ("1", "success", "true", "ok", "成功")


def read_unit(dialect: Dialect, info: xml.Element) -> m.UnitRef:
    """Return the unit that a body names.

    Raises:
        MalformedMessage: It names none.
    """
    parts = [xml.field(info, name) or "" for name in dialect.unit_fields]
    if not parts[0]:
        raise MalformedMessage(f"{dialect.unit_fields[0]}: missing")
    return m.UnitRef(*parts)


def write_unit(dialect: Dialect, unit: m.UnitRef, info: xml.Element) -> None:
    """Write the unit's id elements."""
    for name, text in zip(dialect.unit_fields, (unit.unit_id, unit.unit_code), strict=False):
        xml.add(info, name, text)


def write_devices(
    dialect: Dialect, parent: xml.Element, devices: Sequence[m.DeviceRef]
) -> list[tuple[m.DeviceRef, xml.Element]]:
    """Write a device list and return each device with its element."""
    listed = xml.add(parent, "DeviceList")
    written = []
    for device in devices:
        parts = (device.device_id, device.device_code)
        element = etree.SubElement(listed, "Device")
        for name, text in zip(dialect.device_fields, parts, strict=False):
            element.set(name, xml.clean(text))
        written.append((device, element))
    return written


def read_selection(dialect: Dialect, info: xml.Element) -> tuple[m.DeviceSelection, ...]:
    """Return which points are asked for; wildcards become None."""
    selection = []
    for element in xml.children(_device_list(info), "Device"):
        device = _read_device(dialect, element)
        if dialect.device_wildcard in (device.device_id, device.device_code):
            return (m.DeviceSelection(device=None, points=None),)
        # The device's own Id is an attribute; the children of that name are points.
        points = tuple(text for each in xml.children(element, dialect.point_field) if (text := xml.text_of(each)))
        selection.append(m.DeviceSelection(device, None if dialect.point_wildcard in points else points))
    return tuple(selection)


def read_orders(dialect: Dialect, info: xml.Element, element_name: str, value_name: str) -> tuple[m.PointOrder, ...]:
    """Return the values that are to be set."""
    orders = []
    for element in xml.children(_device_list(info), "Device"):
        device = _read_device(dialect, element)
        for each in xml.children(element, element_name):
            point_id = xml.field(each, dialect.point_field)
            if not point_id:
                raise MalformedMessage(f"{element_name}/{dialect.point_field}: missing")
            orders.append(m.PointOrder(device, point_id, _float(xml.field(each, value_name))))
    return tuple(orders)


def _device_list(info: xml.Element) -> xml.Element:
    inside = xml.child(info, "Value", "Values")
    found = xml.child(info, "DeviceList")
    found = xml.child(inside, "DeviceList") if found is None else found
    return etree.Element("DeviceList") if found is None else found


def _read_device(dialect: Dialect, element: xml.Element) -> m.DeviceRef:
    values = {etree.QName(str(key)).localname.casefold(): str(text).strip() for key, text in element.attrib.items()}
    return m.DeviceRef(*(values.get(name.casefold(), "") for name in dialect.device_fields))


def _integer(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,9}", text) else None


def _float(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None
