"""Dialect files: YAML that says how one variant of the B interface speaks, and the reader of it.

A file describes a dialect whole, or names its ``base`` and what differs: fields replace the base's, a
command that is ``null`` is taken away, and a body may be changed in places instead of being written anew::

    name: GD
    base: T
    commands:
      LOGIN:
        request:
          change:
            - {after: Version, add: [{Internet_mode: "=1"}]}
            - {drop: DictVersion}

A body is a list of elements in their order. ``FsuId: unit.id`` is an element with a fact, ``"@Id"`` an
attribute, ``"."`` the element's own text, ``"=text"`` a text that always stands there, ``""`` an element that
is always empty, a list the children. ``{each: devices, of: [...]}`` repeats the element. ``Version|Vervion``
is written the first way and read both ways; ``RecordTime?`` is left out where there is no value. ``$name``
stands for the elements of that name under ``pieces``.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from libs.common.errors import InvalidFile, Problem
from libs.common.yamlfile import Path, YamlDocument, parse_yaml, validate
from services.export.dialects import messages as m
from services.export.dialects.base import Command, Dialect, Evidence, FileLayout, FileShape, Mark, Service, Step
from services.export.dialects.bodies import KINDS, REFUSAL, UPWARD, Vocabulary
from services.export.dialects.shapes import TEXT, Part

NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,19}$")
_ELEMENT = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,59}$")


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _is_pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as exc:
        raise ValueError(f"not a regular expression: {exc}") from None
    return text


_Pattern = Annotated[str, AfterValidator(_is_pattern)]


class ServiceFile(_File):
    """One side's SOAP service."""

    namespace: str = Field(min_length=1, max_length=200)
    path: str = Field(pattern=r"^/[A-Za-z0-9/_.-]{1,100}$")
    service: str = ""
    port: str = ""
    port_type: str = ""
    binding: str = ""
    style: Literal["encoded", "literal"] = "encoded"
    evidence: Evidence | None = None
    reason: str = ""


class UnitIdFile(_File):
    """How units are named."""

    fields: list[str] = Field(min_length=1, max_length=2)
    pattern: _Pattern


class DeviceIdFile(_File):
    """How devices are named."""

    pattern: _Pattern
    wildcard: str = ""
    has_code: bool = False


class PointIdFile(_File):
    """How points are named."""

    pattern: _Pattern
    wildcard: str = ""
    number_separator: str = Field(default="", max_length=1)
    no_number: str = ""
    kind_place: int | None = Field(default=None, ge=1, le=40)
    kinds: dict[str, m.PointType] = {}


class IdsFile(_File):
    """Ids and wildcards."""

    unit: UnitIdFile
    device: DeviceIdFile
    point: PointIdFile
    empty_is_all: bool = False
    rule: str
    rule_zh: str
    evidence: Evidence | None = None
    reason: str = ""


class StatesFile(_File):
    """State of a value."""

    normal: str
    critical: str
    major: str
    minor: str
    hint: str
    invalid: str


class ResultsFile(_File):
    """Result of a command."""

    no: str
    yes: str
    again: str | None = None


class WordsFile(_File):
    """Enumerations and fixed texts."""

    point_types: dict[m.PointType, str]
    states: StatesFile
    levels: dict[int, str]
    flags: dict[Literal["begin", "end"], str]
    results: ResultsFile
    no_value: str
    no_failure: str = ""
    cause_bytes: int = Field(default=40, ge=0, le=1000)
    evidence: Evidence | None = None
    reason: str = ""


class AlarmFile(_File):
    """Texts of alarms."""

    text_bytes: int = Field(ge=1, le=2000)
    detail_bytes: int = Field(default=0, ge=0, le=2000)
    text_with_value: bool = True


class StepFile(_File):
    """What follows a registration."""

    operation: m.Operation
    required: bool = False


class LoginFile(_File):
    """Registration."""

    accepted_by: Literal["right", "result"]
    interval_s: float = Field(gt=0, le=86_400)
    then: list[StepFile] = []
    evidence: Evidence | None = None
    reason: str = ""


class CommandFile(_File):
    """One command."""

    operation: m.Operation
    code: int | None = Field(default=None, ge=0, le=99_999)
    request: JsonValue = None
    reply: JsonValue = None
    types: list[m.PointType] | None = None
    evidence: Evidence | None = None
    reason: str = ""


class ConfigurationFile(_File):
    """Configuration files that are made from the mapping."""

    shape: FileShape
    folder: str = ""


_Folder = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,60}$")]


class FilesFile(_File):
    """The unit's file server."""

    folders: list[_Folder] = Field(default=[], max_length=20)
    login: str = ""
    uploads: str = ""
    configuration: ConfigurationFile | None = None
    evidence: Evidence | None = None
    reason: str = ""


class DialectFile(_File):
    """A dialect; the commands are looked at one by one."""

    name: str = Field(pattern=NAME.pattern)
    title: str = Field(min_length=1, max_length=200)
    base: str | None = None
    evidence: Evidence
    reason: str = ""
    dictionary: Literal["tower"] | None = None
    """Public dictionary of signals that a mapping can be proposed from."""
    centre: ServiceFile
    unit: ServiceFile
    ids: IdsFile
    words: WordsFile
    alarms: AlarmFile
    login: LoginFile
    files: FilesFile | None = None
    """None: no folder and no file is known."""
    pieces: dict[str, JsonValue] = {}
    """Lists of elements that several bodies have in common."""
    refusal: JsonValue
    commands: dict[str, JsonValue]


def read_dialect(document: YamlDocument) -> Dialect:
    """Return the dialect that a document describes, its base's fields already in it.

    Raises:
        InvalidFile: It is wrong; every place is listed with line, field and what was expected.
    """
    if not isinstance(document.data, dict):
        raise InvalidFile(document.source, [document.problem((), "fields and their values", "字段及其取值")])
    file, problems = validate(DialectFile, document)
    reader = _Bodies(document)
    commands: list[Command] = []
    refusal: tuple[Part, ...] = ()
    if file is not None:
        reader.pieces = file.pieces
        commands = [each for name, raw in file.commands.items() if (each := _command(reader, file, name, raw))]
        refusal = reader.body(file.refusal, ("refusal",), REFUSAL)
        problems += [*reader.problems, *_contradictions(document, file, commands)]
    if file is None or problems:
        raise InvalidFile(document.source, sorted(problems, key=lambda problem: problem.line or 0))
    return _dialect(file, commands, refusal)


def _command(reader: "_Bodies", file: DialectFile, name: str, raw: JsonValue) -> Command | None:
    path: Path = ("commands", name)
    if raw is None:  # taken away by a variant
        return None
    if not _ELEMENT.match(name):
        reader.wrong(path, "a command's name: letters, digits, _", "命令名:字母、数字、_", name)
        return None
    if not isinstance(raw, dict):
        reader.wrong(path, "fields of a command, or null", "命令的字段,或 null")
        return None
    found, problems = validate(CommandFile, reader.document, path)
    reader.problems += problems
    if found is None:
        return None
    kinds = KINDS.get(found.operation)
    if kinds is None and found.request is not None:
        reader.wrong(
            (*path, "request"),
            f"nothing: {found.operation} is known and refused",
            f"无:{found.operation} 只识别并拒绝",
        )
        return None
    said, answered = kinds or (REFUSAL, REFUSAL)
    return Command(
        operation=found.operation,
        name=name,
        code=found.code,
        request=None if found.request is None else reader.body(found.request, (*path, "request"), said),
        reply=() if found.reply is None else reader.body(found.reply, (*path, "reply"), answered),
        types=None if found.types is None else frozenset(found.types),
        evidence=found.evidence or file.evidence,
        reason=found.reason,
    )


def _contradictions(document: YamlDocument, file: DialectFile, commands: Sequence[Command]) -> list[Problem]:
    """Return what fields say that cannot hold together."""
    problems = []

    def wrong(path: Path, expected: str, expected_zh: str, found: object = None) -> None:
        problems.append(document.problem(path, expected, expected_zh, found))

    if set(file.words.point_types) != set(m.PointType):
        wrong(("words", "point_types"), "one number each for DI, AI, DO, AO", "DI、AI、DO、AO 各一个取值")
    if set(file.words.levels) != {1, 2, 3, 4}:
        wrong(("words", "levels"), "a word each for 1, 2, 3, 4", "1、2、3、4 各一个取值")
    if set(file.words.flags) != {"begin", "end"}:
        wrong(("words", "flags"), "begin and end", "begin 与 end")
    operations = {each.operation: each for each in commands}
    for operation in (m.Operation.REGISTER, m.Operation.REPORT_ALARMS, *(step.operation for step in file.login.then)):
        if operation not in operations or operations[operation].request is None:
            expected = f"a command with request and reply whose operation is {operation}"
            wrong(("commands",), expected, f"缺少操作为 {operation} 且含 request 与 reply 的命令")
    for each in commands:
        if each.request is not None and not each.reply:
            wrong(("commands", each.name), "reply beside request", "有 request 就要有 reply")
        if each.operation in UPWARD and each.reply and each.operation is not m.Operation.REGISTER:
            said = {part.fact for part in each.reply}
            if "result" not in said:
                wrong(("commands", each.name, "reply"), "a part that holds result", "含 result 的部分")
    if file.files is not None:
        named = {"login": file.files.login, "uploads": file.files.uploads}
        if file.files.configuration is not None:
            named["configuration"] = file.files.configuration.folder
        for field, folder in named.items():
            if folder and folder not in file.files.folders:
                wrong(("files", field), "empty, or one of folders", "为空或 folders 中的一个", folder)
    codes: dict[tuple[str, int | None], str] = {}
    for each in commands:
        other = codes.setdefault((each.name.casefold(), each.code), each.name)
        if other != each.name:
            wrong(
                ("commands", each.name), f"another name or code than {other}", f"与 {other} 名称、编码不同", each.code
            )
    return problems


def _dialect(file: DialectFile, commands: Sequence[Command], refusal: tuple[Part, ...]) -> Dialect:
    words, ids = file.words, file.ids
    place = ids.point.kind_place
    return Dialect(
        name=file.name,
        title=file.title,
        evidence=file.evidence,
        reason=file.reason,
        marks=_marks(file),
        dictionary=file.dictionary,
        commands=tuple(commands),
        refusal=refusal,
        centre=_service(file.centre),
        unit=_service(file.unit),
        unit_fields=tuple(ids.unit.fields),
        device_has_code=ids.device.has_code,
        device_wildcard=ids.device.wildcard,
        point_wildcard=ids.point.wildcard,
        empty_is_all=ids.empty_is_all,
        number_separator=ids.point.number_separator,
        no_number=ids.point.no_number,
        point_types=words.point_types,
        states={m.ValueState[name.upper()]: text for name, text in words.states.model_dump().items()},
        levels=words.levels,
        flags={m.AlarmFlag(name): text for name, text in words.flags.items()},
        results={False: words.results.no, True: words.results.yes},
        again=words.results.again,
        no_value=words.no_value,
        no_failure=words.no_failure,
        cause_bytes=words.cause_bytes,
        alarm_text_bytes=file.alarms.text_bytes,
        alarm_detail_bytes=file.alarms.detail_bytes,
        text_with_value=file.alarms.text_with_value,
        unit_id_pattern=re.compile(ids.unit.pattern),
        device_id_pattern=re.compile(ids.device.pattern),
        point_id_pattern=re.compile(ids.point.pattern),
        id_rule=ids.rule,
        id_rule_zh=ids.rule_zh,
        kind_place=None if place is None else slice(place - 1, place),
        kinds=ids.point.kinds,
        login_interval_s=file.login.interval_s,
        accepted_by_right=file.login.accepted_by == "right",
        steps=tuple(Step(each.operation, each.required) for each in file.login.then),
        files=_layout(file.files),
    )


def _layout(file: FilesFile | None) -> FileLayout:
    if file is None:
        return FileLayout()
    made = file.configuration
    return FileLayout(
        folders=tuple(file.folders),
        login=file.login,
        uploads=file.uploads,
        shape=None if made is None else made.shape,
        shape_folder="" if made is None else made.folder,
    )


def _marks(file: DialectFile) -> tuple[Mark, ...]:
    parts: dict[str, ServiceFile | IdsFile | WordsFile | LoginFile | FilesFile] = {
        "centre": file.centre,
        "unit": file.unit,
        "ids": file.ids,
        "words": file.words,
        "login": file.login,
    }
    if file.files is not None:
        parts["files"] = file.files
    return tuple(Mark(name, part.evidence or file.evidence, part.reason or file.reason) for name, part in parts.items())


def _service(file: ServiceFile) -> Service:
    return Service(
        namespace=file.namespace,
        path=file.path,
        name=file.service,
        port=file.port,
        port_type=file.port_type,
        binding=file.binding,
        encoded=file.style == "encoded",
    )


class _Bodies:
    """Reads bodies and notes what is wrong with them."""

    def __init__(self, document: YamlDocument) -> None:
        self.document = document
        self.pieces: Mapping[str, JsonValue] = {}
        self.problems: list[Problem] = []
        self._inside: list[str] = []

    def wrong(self, path: Path, expected: str, expected_zh: str, found: object = None) -> None:
        problem = self.document.problem(path, expected, expected_zh, found)
        if problem not in self.problems:  # a piece is read wherever it stands
            self.problems.append(problem)

    def body(self, raw: JsonValue, path: Path, words: Vocabulary) -> tuple[Part, ...]:
        """Return the parts of a body; ``words`` are the facts that can be said in it."""
        if not isinstance(raw, list):
            self.wrong(path, "a list of elements", "元素列表", None if isinstance(raw, dict) else raw)
            return ()
        parts: list[Part] = []
        for place, item in enumerate(raw):
            if isinstance(item, str) and item.startswith("$"):
                parts += self._piece(item[1:], (*path, place), words)
                continue
            if not isinstance(item, dict) or len(item) != 1:
                self.wrong((*path, place), "one element with its value", "一个元素及其取值")
                continue
            ((key, value),) = item.items()
            part = self._part(key, value, (*path, place, key), words)
            if part is not None:
                parts.append(part)
        return tuple(parts)

    def _piece(self, name: str, path: Path, words: Vocabulary) -> tuple[Part, ...]:
        if name not in self.pieces or name in self._inside:
            known = ", ".join(sorted(set(self.pieces) - set(self._inside))) or "nothing"
            self.wrong(path, f"$ and one of {known}", f"$ 后为下列之一:{known}", f"${name}")
            return ()
        self._inside.append(name)
        try:
            return self.body(self.pieces[name], ("pieces", name), words)
        finally:
            self._inside.pop()

    def _part(self, key: str, value: JsonValue, path: Path, words: Vocabulary) -> Part | None:
        optional, attribute = key.endswith("?"), key.startswith("@")
        name, *spellings = key.removesuffix("?").removeprefix("@").split("|")
        if name != TEXT and not all(map(_ELEMENT.match, (name, *spellings))):
            self.wrong(path, "the name of an element, @ before an attribute", "元素名,属性前加 @", key)
            return None
        bare = Part(name, tuple(spellings), attribute, optional)
        if isinstance(value, dict):
            return self._repeated(bare, value, path, words)
        if isinstance(value, list):
            return replace(bare, parts=self.body(value, path, words))
        if value is None or value == "":
            return bare
        if not isinstance(value, str):
            self.wrong(path, "a fact, a list, or a text after =", "事实名、列表,或 = 后的文本", value)
            return None
        if value.startswith("="):
            return replace(bare, text=value[1:])
        if value not in words.facts:
            known = ", ".join(sorted(words.facts))
            self.wrong(path, f"one of {known}", f"下列之一:{known}", value)
            return None
        return replace(bare, fact=value)

    def _repeated(self, bare: Part, value: Mapping[str, JsonValue], path: Path, words: Vocabulary) -> Part | None:
        each, of = value.get("each"), value.get("of")
        if set(value) != {"each", "of"} or not isinstance(each, str):
            self.wrong(path, "{each: a list, of: its elements}", "{each: 列表名, of: 元素}")
            return None
        inner = words.lists.get(each)
        if inner is None:
            known = ", ".join(sorted(words.lists)) or "nothing here"
            self.wrong((*path, "each"), f"one of {known}", f"下列之一:{known}", each)
            return None
        around = Vocabulary(words.facts | inner.facts, inner.lists)
        return replace(bare, each=each, parts=self.body(of, (*path, "of"), around))


# ---- variants -----------------------------------------------------------------------------------------


def parse_dialect_file(text: str, source: str, base_of: Callable[[str], JsonValue]) -> YamlDocument:
    """Return a dialect file with its base's fields in it.

    Args:
        text: The file.
        source: What to call it in messages.
        base_of: Gives the whole data of a dialect by its name.

    Raises:
        InvalidFile: No YAML, its base is not known, or a change has nothing to change.
        KeyError: ``base_of`` knows no such name.
    """
    document = parse_yaml(text, source)
    if not isinstance(document.data, dict) or document.data.get("base") is None:
        return document
    name = document.data["base"]
    try:
        base = base_of(str(name))
    except KeyError:
        raise InvalidFile(
            source, [document.problem(("base",), "the name of another dialect", "另一方言的名称", name)]
        ) from None
    problems: list[Problem] = []
    data = _merged(base, document.data, (), document, problems)
    if problems:
        raise InvalidFile(source, problems)
    return replace(document, data=data)


def _merged(base: JsonValue, own: JsonValue, path: Path, document: YamlDocument, problems: list[Problem]) -> JsonValue:
    if isinstance(own, dict) and set(own) == {"change"} and isinstance(base, list):
        changes = own["change"]
        if not isinstance(changes, list):
            problems.append(document.problem((*path, "change"), "a list of changes", "修改列表"))
            return base
        for place, change in enumerate(changes):
            base = _changed(base, change, (*path, "change", place), document, problems)
        return base
    if not isinstance(own, dict) or not isinstance(base, dict):
        return own
    merged = dict(base)
    for key, value in own.items():
        merged[key] = _merged(base.get(key), value, (*path, key), document, problems)
    return merged


def _changed(
    body: Sequence[JsonValue], change: JsonValue, path: Path, document: YamlDocument, problems: list[Problem]
) -> list[JsonValue]:
    """Return a body with one change: something added after an element, dropped, or put in an element's place."""
    forms = ({"after", "add"}, {"first"}, {"drop"}, {"replace", "with"})
    if not isinstance(change, dict) or set(change) not in forms:
        expected = "{after: element, add: [...]}, {first: [...]}, {drop: element} or {replace: element, with: [...]}"
        problems.append(document.problem(path, expected, expected.replace("element", "元素")))
        return list(body)
    if "first" in change:
        added = change["first"]
        return [*(added if isinstance(added, list) else [added]), *body]
    where = change.get("after") or change.get("drop") or change.get("replace")
    new = change.get("add") or change.get("with") or []
    done = _at_element(list(body), str(where).split("/"), new if isinstance(new, list) else [new], "after" in change)
    if done is None:
        problems.append(document.problem(path, "an element of the base's body", "基础方言报文中的元素", where))
        return list(body)
    return done


def _at_element(
    body: list[JsonValue], names: Sequence[str], new: Sequence[JsonValue], keep: bool
) -> list[JsonValue] | None:
    """Return the body with ``new`` after (or in place of) the element at the path; None when there is none."""
    for place, item in enumerate(body):
        if not isinstance(item, dict) or len(item) != 1:
            continue
        ((key, value),) = item.items()
        if key.removesuffix("?").removeprefix("@").split("|")[0] != names[0].removeprefix("@"):
            continue
        if len(names) == 1:
            return [*body[: place + keep], *new, *body[place + 1 :]]
        inner = value.get("of") if isinstance(value, dict) else value
        changed = _at_element(inner, names[1:], new, keep) if isinstance(inner, list) else None
        if changed is not None:
            whole: JsonValue = {**value, "of": changed} if isinstance(value, dict) else changed
            return [*body[:place], {key: whole}, *body[place + 1 :]]
    return None
