"""YAML as files of ours are written in it: the plain part of YAML 1.2, with the line of every value.

Parsed without guessing: duplicate keys, anchors and tags are refused, ``no`` and ``on`` are text, ``1e-05``
is a number, and digits with a leading zero stay text, because they are an address and not an octal number.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, get_args

import yaml
from pydantic import BaseModel, JsonValue, ValidationError
from pydantic_core import ErrorDetails

from libs.common.errors import InvalidFile, Problem
from libs.common.expected import expected

Path = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)

MAX_BYTES = 8 << 20
"""A larger document is refused before it is parsed. [B]"""
MAX_DEPTH = 40

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAB_FIRST = re.compile(r"^ *\t")
_INT = re.compile(r"^[-+]?(0|[1-9][0-9]*)$")
_HEX = re.compile(r"^0x[0-9A-Fa-f]+$")
_FLOAT = re.compile(r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$")
_LEADING_ZERO = re.compile(r"^[-+]?0[0-9]+$")
_WORDS: Mapping[str, JsonValue] = {"": None, "~": None, "null": None, "true": True, "false": False}


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """A parsed document and where each of its values stood."""

    source: str
    """File name, for messages."""
    data: JsonValue
    lines: Mapping[Path, int]
    """Line of each value, the first is 1."""
    texts: Mapping[Path, str] = field(repr=False)
    """Each scalar as it was written."""

    def line(self, path: Path) -> int | None:
        """Return the line of a value, or of the nearest thing around it."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return None

    def problem(self, path: Path, expected: str, expected_zh: str, found: object = None) -> Problem:
        """Return a problem at a value."""
        return Problem(
            line=self.line(path), field=field_name(path), expected=expected, expected_zh=expected_zh, found=found
        )


def field_name(path: Path) -> str:
    """Return a path as people write it: ``points[3].unit``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "document"


def plain_scalar(text: str) -> JsonValue:
    """Return what a text means that stands there without quotes."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.match(text):
        return int(text)
    if _HEX.match(text):
        return int(text, 16)
    if _FLOAT.match(text) and not _LEADING_ZERO.match(text):
        return float(text)
    return text


def parse_yaml(text: str, source: str) -> YamlDocument:
    """Parse one document.

    Raises:
        InvalidFile: Not YAML, or of a part of it that is not allowed; with line and path.
    """
    if len(text.encode()) > MAX_BYTES:
        raise _broken(source, None, f"at most {MAX_BYTES} bytes", f"不超过 {MAX_BYTES} 字节")
    try:
        _refuse_what_is_not_plain(text, source)
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line = None if mark is None else mark.line + 1
        if line is not None and any(map(_TAB_FIRST.match, text.splitlines()[line - 1 : line])):
            raise _broken(source, line, "spaces before the field, not tabs", "用空格缩进,不用制表符") from exc
        raise _broken(source, line, "YAML", "合法的 YAML", exc.problem) from exc
    except yaml.YAMLError as exc:
        raise _broken(source, None, "YAML", "合法的 YAML", exc) from exc
    reader = _Reader(source)
    data = None if node is None else reader.value(node, ())
    if reader.problems:
        raise InvalidFile(source, reader.problems)
    return YamlDocument(source=source, data=data, lines=reader.lines, texts=reader.texts)


def validate(
    model: type[Model], document: YamlDocument, path: Path = (), *, defaults: Mapping[str, JsonValue] | None = None
) -> tuple[Model | None, list[Problem]]:
    """Return the part of the document at ``path`` as a model, or what is wrong with it.

    A field that the model does not have is wrong, also where the model itself would ignore it. Where the model
    wants text and the file has a bare number, the text is taken as written: ``address: 12`` is ``"12"``,
    ``version: 1.10`` is ``"1.10"``.

    Args:
        model: What is expected.
        document: The file.
        path: Where in it.
        defaults: Fields that the file leaves out.
    """
    data = _at(document.data, path)
    unknown = list(_unknown_fields(document, model, data, path))
    if isinstance(data, dict):
        data = {**(defaults or {}), **data}
    for _ in range(2):
        try:
            found = model.model_validate(data)
        except ValidationError as exc:
            errors = exc.errors(include_url=False)
        else:
            return (None, unknown) if unknown else (found, [])
        texts = {
            tuple(error["loc"]): document.texts[place]
            for error in errors
            if error["type"] == "string_type" and (place := path + tuple(error["loc"])) in document.texts
            if error["input"] is not None and not isinstance(error["input"], bool)
        }
        if not texts:
            break
        for place, text in texts.items():
            data = _replaced(data, place, text)
    wrong = [_problem(document, path, error) for error in errors if error["type"] != "extra_forbidden"]
    return None, unknown + wrong


def _at(data: JsonValue, path: Path) -> JsonValue:
    for part in path:
        data = data[part]  # type: ignore[index]  # the caller has walked the path
    return data


def _replaced(data: JsonValue, path: Sequence[str | int], value: JsonValue) -> JsonValue:
    """Return the data with another value at a place; what is not on the way is shared."""
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(data, dict) and isinstance(head, str):
        return {**data, head: _replaced(data[head], rest, value)} if head in data else data
    if isinstance(data, list) and isinstance(head, int):
        return [_replaced(item, rest, value) if i == head else item for i, item in enumerate(data)]
    return data


def _problem(document: YamlDocument, path: Path, error: ErrorDetails) -> Problem:
    found = error["input"]
    nothing = error["type"] == "missing" or isinstance(found, dict | list)
    return document.problem(path + tuple(error["loc"]), *expected(error), None if nothing else found)


def _unknown_fields(document: YamlDocument, model: type[BaseModel], data: JsonValue, path: Path) -> Iterator[Problem]:
    """Yield a problem for each field that the model, or a model inside it, does not have."""
    if not isinstance(data, dict):
        return
    fields = {info.alias or name: info for name, info in model.model_fields.items()}
    for name, value in data.items():
        info = fields.get(name)
        if info is None:
            yield document.problem((*path, name), *_one_of(name, fields), name)
            continue
        inner = _model_in(info.annotation)
        if inner is None:
            continue
        if isinstance(value, list):
            for i, item in enumerate(value):
                yield from _unknown_fields(document, inner, item, (*path, name, i))
        else:
            yield from _unknown_fields(document, inner, value, (*path, name))


def _one_of(name: str, known: Iterable[str]) -> tuple[str, str]:
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"{near[0]}, there is no such field", f"{near[0]},没有这个字段"
    names = ", ".join(sorted(known))
    return f"one of the fields {names}", f"下列字段之一:{names}"


def _model_in(annotation: object) -> type[BaseModel] | None:
    """Return the first model that a type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)


def _refuse_what_is_not_plain(text: str, source: str) -> None:
    """Refuse anchors, tags and deep nesting on the stream of events, before anything is built from it."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
        line = None if event.start_mark is None else event.start_mark.line + 1
        if depth > MAX_DEPTH:
            raise _broken(source, line, f"at most {MAX_DEPTH} levels", f"不超过 {MAX_DEPTH} 层")
        if anchor is not None or tag not in (None, "!"):
            plain = ("plain YAML without anchors, aliases and tags", "不含锚点、别名和标签的普通 YAML")
            raise _broken(source, line, *plain, anchor or tag)


def _broken(source: str, line: int | None, expected: str, expected_zh: str, found: object = None) -> InvalidFile:
    return InvalidFile(
        source, [Problem(line=line, field="document", expected=expected, expected_zh=expected_zh, found=found)]
    )


class _Reader:
    """Turns nodes into plain values and notes where they stood."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines: dict[Path, int] = {}
        self.texts: dict[Path, str] = {}
        self.problems: list[Problem] = []

    def value(self, node: yaml.Node, path: Path) -> JsonValue:
        self.lines[path] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*path, i)) for i, child in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)  # noqa: S101  # the third and last kind of node
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, JsonValue]:
        found: dict[str, JsonValue] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._refuse(key_node, path, "a plain key", "普通的键")
                continue
            key = key_node.value
            if key in found:
                line = self.lines[(*path, key)]
                once = (f"{key!r} once; it stands on line {line} too", f"只出现一次,{key!r} 已在第 {line} 行")
                self._refuse(key_node, (*path, key), *once)
                continue
            found[key] = self.value(value_node, (*path, key))
            self.lines[(*path, key)] = key_node.start_mark.line + 1
        return found

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> JsonValue:
        text: str = node.value
        self.texts[path] = text
        if node.style in ("'", '"', "|", ">"):
            return text
        return plain_scalar(text)

    def _refuse(self, node: yaml.Node, path: Path, expected: str, expected_zh: str) -> None:
        line = node.start_mark.line + 1
        self.problems.append(Problem(line=line, field=field_name(path), expected=expected, expected_zh=expected_zh))
