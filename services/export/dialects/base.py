"""One dialect as data, and the codec that works from it.

A message is ``Request`` or ``Response`` with ``PK_Type`` (name and code) and ``Info`` (the body). What
differs between dialects is data: names and codes, the shape of every body, id fields, wildcards,
enumerations, texts. Dispatch is on the pair (name, code): the same number means different things in
different dialects, and a unit that looked at the code alone was seen to take a GET_DATA for a SEND_ALARM.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from lxml import etree

from libs.common.errors import InvalidInput
from services.export.dialects import bodies, shapes
from services.export.dialects import messages as m
from services.export.dialects import xmlsafe as xml
from services.export.dialects.bodies import MalformedMessage, cut_utf8
from services.export.dialects.shapes import Part

__all__ = ["Command", "Dialect", "Incoming", "MalformedMessage", "Service", "UnknownCommand", "open_message"]

ACK = "_ACK"
_NAME = re.compile(r"^[A-Za-z0-9_]{1,40}$")
_YES = frozenset({"1", "success", "true", "ok", "成功"})


class UnknownCommand(InvalidInput):
    """A message whose name and code are no command that this side takes."""

    code = "unknown_command"
    title_zh = "未知的B接口命令"


class Evidence(StrEnum):
    """How we know what a dialect's file says."""

    SPECIFICATION = "specification"
    """Read in the stored text of a specification."""
    FIELD = "field"
    """Seen on a real device or in an implementation that runs against a real centre."""
    NOTES = "notes"
    """Second-hand: an implementer's notes on a text that we could not read."""
    RECONSTRUCTED = "reconstructed"
    """By analogy; to be confirmed by the centre before use."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a dialect; its reply has the name with ``_ACK`` and the code plus one."""

    operation: m.Operation
    name: str
    code: int | None
    """None where messages have names only."""
    request: tuple[Part, ...] | None = None
    """Shape of the request's body. None: the command is known, and a unit refuses it."""
    reply: tuple[Part, ...] = ()
    types: frozenset[m.PointType] | None = None
    """Kinds of points that it is about; None all."""
    evidence: Evidence = Evidence.SPECIFICATION
    reason: str = ""
    """Why its shape was made up so, where it was."""


@dataclass(frozen=True, slots=True)
class Service:
    """How one side's SOAP service is named on the wire."""

    namespace: str
    path: str
    name: str = ""
    """Of the ``service`` in the WSDL."""
    port: str = ""
    port_type: str = ""
    binding: str = ""
    encoded: bool = True
    """rpc/encoded, else rpc/literal."""


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


@dataclass(frozen=True, slots=True)
class Mark:
    """How a part of a dialect that is no command is known."""

    part: str
    """Its name in the file."""
    evidence: Evidence
    reason: str


class FileShape(StrEnum):
    """Configuration files that a unit's file server has."""

    OPTIONS = "options"
    """Dictionary, options and instance in three files, as Y's annexes E.2 to E.4 have them."""
    DEVICES = "devices"
    """One file with all devices and their signals, as M has it."""


@dataclass(frozen=True, slots=True)
class FileLayout:
    """Folders and files of a unit's file server, as far as the dialect's text says them."""

    folders: tuple[str, ...] = ()
    login: str = ""
    """Where a session begins, below the account's root."""
    uploads: str = ""
    """Where firmware may be put, when that is permitted; empty is the account's root."""
    shape: FileShape | None = None
    shape_folder: str = ""
    """Where the configuration files lie."""


@dataclass(frozen=True)
class Step:
    """Something that follows a registration that was accepted, before the unit works."""

    operation: m.Operation
    required: bool
    """Without a yes to it the unit is not let in."""


@dataclass(frozen=True)
class Dialect:
    """One variant of the B interface."""

    name: str
    title: str
    evidence: Evidence
    """Of all that has none of its own."""
    reason: str
    marks: tuple[Mark, ...]
    """The same of ids, words, services and registration."""
    dictionary: str | None
    """Public dictionary of signals that its point ids are from."""
    commands: tuple[Command, ...]
    refusal: tuple[Part, ...]
    """Shape of the no that fits any command."""
    centre: Service
    """The service that we call."""
    unit: Service
    """The service that we are."""
    unit_fields: tuple[str, ...]
    """Elements of ``Info`` that name the unit: its id and, where there is one, its code."""
    device_has_code: bool
    device_wildcard: str
    """Device id (in any part) that means all devices; empty: none does."""
    point_wildcard: str
    empty_is_all: bool
    """No device id means all devices, no point ids all points."""
    number_separator: str
    """Between a point's id and its running number in mappings; empty where ids have no such number."""
    no_number: str
    """Running number of a point that there is one of."""
    point_types: Mapping[m.PointType, str]
    states: Mapping[m.ValueState, str]
    levels: Mapping[int, str]
    flags: Mapping[m.AlarmFlag, str]
    results: Mapping[bool, str]
    again: str | None
    """Result that means: log in again."""
    no_value: str
    """What stands for a value that there is none of."""
    no_failure: str
    """What stands as the cause of a failure that there was none of."""
    cause_bytes: int
    """Longest cause of a failure. [B of UTF-8]"""
    alarm_text_bytes: int
    """Longest alarm text. [B of UTF-8]"""
    alarm_detail_bytes: int
    """Longest detail of an alarm; 0 where there is none. [B of UTF-8]"""
    text_with_value: bool
    """Whether the alarm's text carries the value that caused it, because no field does."""
    unit_id_pattern: re.Pattern[str]
    device_id_pattern: re.Pattern[str]
    point_id_pattern: re.Pattern[str]
    id_rule: str
    """What the ids look like, for people."""
    id_rule_zh: str
    kind_place: slice | None
    """Where in a point's id its kind is said."""
    kinds: Mapping[str, m.PointType]
    login_interval_s: float
    """Two registrations of a unit are at least this far apart. [s]"""
    accepted_by_right: bool
    """A registration is accepted by a right above 0, else by its result."""
    steps: tuple[Step, ...] = ()
    files: FileLayout = FileLayout()

    # ---- commands --------------------------------------------------------------------------------

    def spoken(self, operation: m.Operation) -> Sequence[Command]:
        """Return the commands of an operation whose shape is known, one for each set of kinds of points."""
        return [each for each in self.commands if each.operation is operation and each.request is not None]

    def has(self, operation: m.Operation) -> bool:
        """Return whether the dialect has a command for an operation."""
        return any(each.operation is operation for each in self.commands)

    def command(self, operation: m.Operation, types: Collection[m.PointType] | None = None) -> Command:
        """Return the command of an operation; with ``types`` the one that is about these kinds of points.

        Raises:
            UnknownCommand: The dialect has none.
        """
        fitting = (each for each in self.commands if types is None or each.types == types)
        found = next((each for each in fitting if each.operation is operation), None)
        if found is None:
            raise UnknownCommand(f"dialect {self.name} has no command for {operation}")
        return found

    def command_of(self, incoming: Incoming) -> Command:
        """Return the command that a centre's request is.

        A code that is missing is let pass, a wrong one is not.

        Raises:
            UnknownCommand: No command that a unit takes has this name and code.
        """
        found = self.named(incoming)
        if found is None or found.request is None or found.operation in bodies.UPWARD:
            raise UnknownCommand(f"{incoming.name} ({incoming.code}) is no command of dialect {self.name}")
        return found

    def named(self, incoming: Incoming) -> Command | None:
        """Return the command that has this name and code, None when none has."""
        for each in self.commands:
            if xml.same(each.name, incoming.name) and (each.code is None or incoming.code in (None, each.code)):
                return each
        return None

    # ---- the centre's requests and our replies -----------------------------------------------------

    def read_request(self, incoming: Incoming) -> m.CentreRequest:
        """Return what the centre asks.

        Raises:
            UnknownCommand: Name and code are no command of ours.
            MalformedMessage: The body lacks a part, or a part cannot be read.
        """
        command = self.command_of(incoming)
        return bodies.request_of(self, command, shapes.read(command.request or (), incoming.info))

    def unit_of(self, incoming: Incoming) -> m.UnitRef | None:
        """Return the unit that a request names, None when it names none."""
        parts = [xml.field(incoming.info, name) or "" for name in self.unit_fields]
        return m.UnitRef(*parts) if parts[0] else None

    def write_reply(self, incoming: Incoming, reply: m.UnitReply) -> str:
        """Return our reply to a request, known to us or not."""
        code = None if incoming.code is None else incoming.code + 1
        known = self.named(incoming)
        shape = self.refusal
        if known is not None and known.request is not None and _fits(known, reply):
            shape = known.reply
        return self._message("Response", incoming.name + ACK, code, shape, reply)

    # ---- our requests and the centre's replies -----------------------------------------------------

    def write_request(self, request: m.UnitRequest, operation: m.Operation) -> str:
        """Return our request."""
        command = self.command(operation, getattr(request, "types", None))
        return self._message("Request", command.name, command.code, command.request or (), request)

    def read_reply(
        self, text: str, operation: m.Operation, types: Collection[m.PointType] | None = None
    ) -> m.CentreReply:
        """Return what the centre answered to a request of ours; ``types`` are those of the request.

        Raises:
            MalformedXml, MalformedMessage: It is no answer to that request; an empty one counts as that.
        """
        command = self.command(operation, types)
        if not text.strip():
            raise MalformedMessage(f"empty answer to {command.name}: the centre does not know the command")
        incoming = open_message(xml.parse_text(text))
        expected = None if command.code is None else command.code + 1
        right_code = expected is None or incoming.code in (None, expected)
        if not xml.same(incoming.name, command.name + ACK) or not right_code:
            raise MalformedMessage(
                f"expected {command.name}{ACK} ({expected}), found {incoming.name} ({incoming.code})"
            )
        return bodies.reply_of(self, operation, shapes.read(command.reply, incoming.info))

    def _message(
        self, root_name: str, name: str, code: int | None, shape: Sequence[Part], message: m.UnitRequest | m.UnitReply
    ) -> str:
        root = etree.Element(root_name)
        kind = xml.add(root, "PK_Type")
        xml.add(kind, "Name", name)
        if code is not None:
            xml.add(kind, "Code", str(code))
        shapes.write(shape, bodies.facts_of(self, message), xml.add(root, "Info"))
        return xml.document(root)

    def is_yes(self, result: str | None) -> bool:
        """Return whether a ``Result`` in digits or words is a clear yes."""
        return result is not None and (result == self.results[True] or result.casefold() in _YES)

    def is_again(self, result: str | None) -> bool:
        """Return whether a ``Result`` asks for another registration."""
        return self.again is not None and result == self.again

    # ---- ids ---------------------------------------------------------------------------------------

    @property
    def unit_has_code(self) -> bool:
        """Whether a unit has a second id."""
        return len(self.unit_fields) > 1

    def own_unit(self, ref: m.UnitRef) -> m.UnitRef:
        """Return how the unit is named here: without a code where the dialect has none."""
        return ref if self.unit_has_code else m.UnitRef(ref.unit_id)

    def own_device(self, ref: m.DeviceRef) -> m.DeviceRef:
        """Return how the device is named here: without a code where the dialect has none."""
        return ref if self.device_has_code else m.DeviceRef(ref.device_id)

    def check_unit_id(self, value: str) -> bool:
        """Return whether a unit id has the dialect's form."""
        return bool(self.unit_id_pattern.fullmatch(value))

    def check_device_id(self, value: str) -> bool:
        """Return whether a device id has the dialect's form."""
        return bool(self.device_id_pattern.fullmatch(value)) and value != self.device_wildcard

    def check_point_id(self, value: str) -> bool:
        """Return whether a point id has the dialect's form."""
        return bool(self.point_id_pattern.fullmatch(value)) and value != self.point_wildcard

    def split_point(self, point_id: str) -> tuple[str, str]:
        """Return a point's id and its running number apart; the number is empty where the dialect has none."""
        if not self.number_separator:
            return point_id, ""
        base, _, running = point_id.partition(self.number_separator)
        return base, running or self.no_number

    def type_of_point(self, point_id: str) -> m.PointType:
        """Return the kind that a point's id names; telemetry where it names none."""
        if self.kind_place is None:
            return m.PointType.AI
        return self.kinds.get(point_id[self.kind_place], m.PointType.AI)

    # ---- texts -------------------------------------------------------------------------------------

    def fit_text(self, name: str, suffix: str) -> str:
        """Return ``name`` + ``suffix`` within the dialect's length; the name gives way first.

        No ``<`` or ``>`` may stand anywhere in a text.
        """
        return _fit(name, suffix, self.alarm_text_bytes)

    def fit_detail(self, name: str, suffix: str) -> str:
        """Return the same for the detail of an alarm; empty where the dialect has none."""
        return _fit(name, suffix, self.alarm_detail_bytes)


_NO_ANGLES = str.maketrans({"<": "\N{FULLWIDTH LESS-THAN SIGN}", ">": "\N{FULLWIDTH GREATER-THAN SIGN}"})


def _fit(name: str, suffix: str, limit: int) -> str:
    name, suffix = (part.translate(_NO_ANGLES) for part in (name, suffix))
    room = max(limit - len(suffix.encode()), 0)
    return cut_utf8(cut_utf8(name, room) + suffix, limit)


def _fits(command: Command, reply: m.UnitReply) -> bool:
    """Return whether a reply has what the command's own shape wants; a plain no to a poll has not."""
    more = set(shapes.facts_in(command.reply)) - bodies.REFUSAL.facts
    return command.operation not in bodies.UPWARD and not (isinstance(reply, m.Outcome) and more)


def _integer(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,9}", text) else None
