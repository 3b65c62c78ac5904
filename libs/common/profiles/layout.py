"""What an answer of YD/T 1363.3 holds, in one line: fields by type, and groups that a count byte repeats.

``flag:byte voltage:float module*(current:float user*(value:float))`` is a byte, a number, and then one byte that says
how many modules follow, each a number and a counted list of numbers. A value is named by its way through the groups:
``voltage``, ``module[1].current``, ``module[2].user[1].value``; numbers begin with 1. ``...`` at the end lets a device
add what nobody has named; without it an answer of another length is refused, because a layout that does not fit
gives plausible numbers in wrong places.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

MAX_DEPTH = 4
_TOKEN = re.compile(
    r"\s*(?:(?P<field>[a-z][a-z0-9_]*):(?P<type>[a-z0-9]+)|(?P<group>[a-z][a-z0-9_]*)\*\(|(?P<end>\))|(?P<rest>\.{3}))"
)
_INDEX = re.compile(r"\[(?:[1-9][0-9]*|\*)\]")


class FieldType(StrEnum):
    """How a value is written."""

    BYTE = "byte"
    INT16 = "int16"
    """Two's complement, the highest byte first."""
    UINT16 = "uint16"
    FLOAT = "float"
    """IEEE 754, the lowest byte first."""

    @property
    def size(self) -> int:
        """[B]"""
        return {FieldType.BYTE: 1, FieldType.FLOAT: 4}.get(self, 2)


@dataclass(frozen=True, slots=True)
class Field:
    """One value."""

    name: str
    type: FieldType


@dataclass(frozen=True, slots=True)
class Group:
    """Values that are repeated as often as the byte in front of them says."""

    name: str
    items: tuple["Field | Group", ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """All of an answer."""

    items: tuple[Field | Group, ...]
    open_end: bool = False

    def fields(self) -> Mapping[str, FieldType]:
        """Return every field by its way without numbers: ``module.user.value``."""
        return dict(_fields(self.items, ""))


@dataclass(frozen=True, slots=True)
class Value:
    """A value that was found."""

    path: str
    type: FieldType
    content: bytes


def parse_layout(text: str) -> Layout:
    """Return the layout that a text describes.

    Raises:
        ValueError: It is none; the message says where.
    """
    items, open_end, at = _parse(text, 0, 0)
    if text[at:].strip():
        raise ValueError(f"nothing more expected at {text[at:].strip()[:20]!r}")
    return Layout(items, open_end)


def without_numbers(path: str) -> str:
    """Return ``module.current`` for ``module[1].current`` and for ``module[*].current``."""
    return _INDEX.sub("", path)


def numbers_of(path: str) -> dict[str, int]:
    """Return ``{"module": 2, "user": 1}`` for ``module[2].user[1].value``."""
    return {name: int(number) for name, number in re.findall(r"([a-z][a-z0-9_]*)\[([1-9][0-9]*)\]", path)}


def read(layout: Layout, data: bytes) -> list[Value]:
    """Return the values in an answer, in their order.

    Raises:
        ValueError: The answer is longer or shorter than the layout.
    """
    found: list[Value] = []
    end = _read(layout.items, data, 0, "", found)
    if end < len(data) and not layout.open_end:
        raise ValueError(f"{len(data) - end} bytes more than the layout has")
    return found


def write(layout: Layout, count: Callable[[str], int], content: Callable[[str, FieldType], bytes]) -> bytes:
    """Return an answer.

    Args:
        layout: Of the answer.
        count: How often the group of this way (``module``, ``module[2].user``) is repeated.
        content: Bytes of the value of this way.
    """
    return b"".join(_write(layout.items, "", count, content))


def _parse(text: str, at: int, depth: int) -> tuple[tuple[Field | Group, ...], bool, int]:
    if depth > MAX_DEPTH:
        raise ValueError(f"groups in groups deeper than {MAX_DEPTH}")
    items: list[Field | Group] = []
    while text[at:].strip():
        token = _TOKEN.match(text, at)
        if token is None:
            raise ValueError(f"expected name:type, name*( ... ) or '...' at {text[at:].strip()[:20]!r}")
        at = token.end()
        if token["rest"] is not None:
            if depth:
                raise ValueError("'...' only at the very end")
            return tuple(items), True, at
        if token["end"] is not None:
            if not depth or not items:
                raise ValueError("a group is empty" if depth else "')' without a group")
            return tuple(items), False, at
        name = token["field"] or token["group"]
        if any(item.name == name for item in items):
            raise ValueError(f"{name} twice")
        if token["field"] is not None:
            if token["type"] not in list(FieldType):
                raise ValueError(f"{token['type']} is no type; expected {', '.join(FieldType)}")
            items.append(Field(name, FieldType(token["type"])))
        else:
            inner, _, at = _parse(text, at, depth + 1)
            items.append(Group(name, inner))
    if depth:
        raise ValueError("')' is missing")
    if not items:
        raise ValueError("a layout without fields")
    return tuple(items), False, at


def _fields(items: Sequence[Field | Group], way: str) -> Iterator[tuple[str, FieldType]]:
    for item in items:
        if isinstance(item, Field):
            yield way + item.name, item.type
        else:
            yield from _fields(item.items, f"{way}{item.name}.")


def _read(items: Sequence[Field | Group], data: bytes, at: int, way: str, found: list[Value]) -> int:
    for item in items:
        size = item.type.size if isinstance(item, Field) else 1
        content = data[at : at + size]
        if len(content) < size:
            raise ValueError(f"the answer of {len(data)} bytes ends before {way}{item.name}")
        at += size
        if isinstance(item, Field):
            found.append(Value(way + item.name, item.type, content))
            continue
        for number in range(1, content[0] + 1):
            at = _read(item.items, data, at, f"{way}{item.name}[{number}].", found)
    return at


def _write(
    items: Sequence[Field | Group], way: str, count: Callable[[str], int], content: Callable[[str, FieldType], bytes]
) -> Iterator[bytes]:
    for item in items:
        if isinstance(item, Field):
            yield content(way + item.name, item.type)
            continue
        times = count(way + item.name)
        yield bytes((times,))
        for number in range(1, times + 1):
            yield from _write(item.items, f"{way}{item.name}[{number}].", count, content)
