"""Whether a new schema of a topic can stand beside the old one, decided on the JSON Schemas alone.

A topic is read by older and newer programs than the one that writes, and old messages stay on it. So a
``.v1`` schema may only gain optional fields, in any object at any depth. Everything else that changes what a
message may be is refused: what is narrowed refuses messages that are on the topic already, what is widened
lets messages through that an older reader refuses. Words for people (title, description, examples) are free.
"""

from collections.abc import Sequence
from typing import TypeAlias

from pydantic import JsonValue

Schema: TypeAlias = dict[str, JsonValue]

_WORDS = frozenset(
    {"title", "description", "examples", "default", "$defs", "$schema", "$id", "$comment", "discriminator"}
)
_SETS = ("enum", "type")
_CHILDREN = ("items", "additionalProperties", "propertyNames", "contains", "not", "if", "then", "else")
_CHOICES = ("anyOf", "oneOf", "allOf")
_MAPS = ("properties", "patternProperties")


def incompatibilities(old: Schema, new: Schema) -> list[str]:
    """Return what makes ``new`` unable to stand beside ``old``, as ``place: what``; empty when nothing does."""
    return _Comparison(old, new).run()


class _Comparison:
    def __init__(self, old: Schema, new: Schema) -> None:
        self._old_root = old
        self._new_root = new
        self._found: list[str] = []
        self._open: set[tuple[str, str]] = set()

    def run(self) -> list[str]:
        self._schemas(self._old_root, self._new_root, "message")
        return self._found

    def _refuse(self, place: str, what: str) -> None:
        self._found.append(f"{place}: {what}")

    def _schemas(self, old: JsonValue, new: JsonValue, place: str) -> None:
        if isinstance(old, bool) or isinstance(new, bool):
            if old != new:
                self._refuse(place, f"changed from {old} to {new}")
            return
        names = (_reference(old), _reference(new))
        if names[0] and names[1]:
            if names in self._open:
                return  # a definition that refers to itself
            self._open.add((names[0], names[1]))
        self._objects(_resolve(old, self._old_root), _resolve(new, self._new_root), place)
        if names[0] and names[1]:
            self._open.discard((names[0], names[1]))

    def _objects(self, old: Schema, new: Schema, place: str) -> None:
        handled = {*_WORDS, *_SETS, *_CHILDREN, *_CHOICES, *_MAPS, "const", "required"}
        self._values(old, new, place)
        self._required(old, new, place)
        for keyword in _MAPS:
            self._fields(_mapping(old, keyword), _mapping(new, keyword), place)
        for keyword in _CHILDREN:
            self._child(old.get(keyword), new.get(keyword), f"{place}.{keyword}")
        for keyword in _CHOICES:
            self._choices(old.get(keyword), new.get(keyword), place, keyword)
        for keyword in sorted((old.keys() | new.keys()) - handled):
            if old.get(keyword) != new.get(keyword):
                self._refuse(place, f"{keyword} changed from {old.get(keyword)!r} to {new.get(keyword)!r}")

    def _values(self, old: Schema, new: Schema, place: str) -> None:
        """Compare the types and the values that are listed; a const is a list of one."""
        for name, before, after in (
            ("type", _listed(old, "type"), _listed(new, "type")),
            ("value", _listed(old, "enum", "const"), _listed(new, "enum", "const")),
        ):
            if before is None and after is None:
                continue
            if before is None or after is None:
                self._refuse(place, f"{name} {'is now fixed' if before is None else 'is no longer fixed'}")
                continue
            for gone in sorted(before - after):
                self._refuse(place, f"{name} {gone} removed")
            for added in sorted(after - before):
                self._refuse(place, f"{name} {added} added, which older readers refuse")

    def _required(self, old: Schema, new: Schema, place: str) -> None:
        before, after = _listed(old, "required") or set(), _listed(new, "required") or set()
        for name in sorted(after - before):
            self._refuse(f"{place}.{name}", "is now required")
        for name in sorted(before - after):
            self._refuse(f"{place}.{name}", "is no longer required")

    def _fields(self, old: Schema, new: Schema, place: str) -> None:
        for name in sorted(old.keys() - new.keys()):
            self._refuse(f"{place}.{name}", "removed")
        for name in sorted(old.keys() & new.keys()):
            self._schemas(old[name], new[name], f"{place}.{name}")
        # A new field is allowed; that it is not required has been seen to above.

    def _child(self, old: JsonValue, new: JsonValue, place: str) -> None:
        if old is None and new is None:
            return
        if old is None or new is None:
            self._refuse(place, "added" if old is None else "removed")
            return
        self._schemas(old, new, place)

    def _choices(self, old: JsonValue, new: JsonValue, place: str, keyword: str) -> None:
        before = {self._choice_name(item, self._old_root): item for item in _sequence(old)}
        after = {self._choice_name(item, self._new_root): item for item in _sequence(new)}
        for name in sorted(before.keys() - after.keys()):
            self._refuse(place, f"{keyword} {name} removed")
        for name in sorted(after.keys() - before.keys()):
            self._refuse(place, f"{keyword} {name} added, which older readers refuse")
        for name in sorted(before.keys() & after.keys()):
            self._schemas(before[name], after[name], f"{place}<{name}>")

    def _choice_name(self, item: JsonValue, root: Schema) -> str:
        """Return what tells one choice from the others: its definition, else its type, else all of it."""
        schema = _resolve(item, root)
        title = schema.get("title")
        if _reference(item) is not None:
            return str(title or _reference(item))
        if "type" in schema:
            items = schema.get("items")
            return f"{schema['type']} of {self._choice_name(items, root)}" if items else str(schema["type"])
        return repr({key: value for key, value in sorted(schema.items()) if key not in _WORDS})


def _reference(schema: JsonValue) -> str | None:
    """Return the name of the definition that a schema is, None when it is written out."""
    reference = schema.get("$ref") if isinstance(schema, dict) else None
    return str(reference) if reference is not None else None


def _resolve(schema: JsonValue, root: Schema) -> Schema:
    """Return the schema that a reference stands for; what stands beside the reference counts too."""
    if not isinstance(schema, dict):
        return {}
    reference = schema.get("$ref")
    if reference is None:
        return schema
    target: JsonValue = root
    for part in str(reference).removeprefix("#/").split("/"):
        target = target.get(part) if isinstance(target, dict) else None
    if not isinstance(target, dict):
        raise ValueError(f"{reference} does not exist")
    return {**target, **{key: value for key, value in schema.items() if key != "$ref"}}


def _mapping(schema: Schema, keyword: str) -> Schema:
    value = schema.get(keyword)
    return value if isinstance(value, dict) else {}


def _sequence(value: JsonValue) -> Sequence[JsonValue]:
    return value if isinstance(value, list) else []


def _listed(schema: Schema, *keywords: str) -> set[str] | None:
    """Return the values that the first of the keywords that is there lists, as text; None when none is."""
    for keyword in keywords:
        if keyword in schema:
            value = schema[keyword]
            return {
                repr(item) if keyword != "required" else str(item)
                for item in (value if isinstance(value, list) else [value])
            }
    return None
