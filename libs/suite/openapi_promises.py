"""Whether a client made for an older description of the API still works with a newer one.

Requests and answers are looked at apart: what a client may send must still be taken, and what it reads must still be
there. A new operation, a new optional parameter or field of a request, a new field of an answer are no break; nor is a
new word in a list of an answer's words, which clients are told to expect. Words for people are free.
"""

from collections.abc import Iterator, Mapping
from typing import Any

METHODS = ("get", "put", "post", "patch", "delete")
_LIMITS = {
    "maxLength": 1, "maxItems": 1, "maximum": 1, "exclusiveMaximum": 1,
    "minLength": -1, "minItems": -1, "minimum": -1, "exclusiveMinimum": -1,
}  # fmt: skip
"""Limits of what is sent; a promise is kept while they move this way."""

Node = Mapping[str, Any]


def broken(old: Node, new: Node) -> list[str]:
    """Return what a client of the old description loses, as ``METHOD path: what``; empty when nothing."""
    return sorted(set(_Comparison(old, new).run()))


class _Comparison:
    def __init__(self, old: Node, new: Node) -> None:
        self._old, self._new = old, new
        self._open: set[tuple[str, str, bool]] = set()

    def run(self) -> Iterator[str]:
        for path, item in self._old["paths"].items():
            for method in METHODS:
                if method in item:
                    present = self._new["paths"].get(path, {}).get(method)
                    for what in ["is gone"] if present is None else self._operation(item[method], present):
                        yield f"{method.upper()} {path}: {what}"
        for name, item in self._old.get("webhooks", {}).items():
            present = self._new.get("webhooks", {}).get(name)
            if present is None:
                yield f"callback {name}: is gone"
                continue
            # What a receiver reads.
            for what in self._contents(item["post"].get("requestBody"), present["post"].get("requestBody"), sent=False):
                yield f"callback {name}: {what}"

    def _operation(self, old: Node, new: Node) -> Iterator[str]:
        if old.get("operationId") != new.get("operationId"):
            yield f"operationId {old.get('operationId')} is now {new.get('operationId')}"
        yield from self._parameters(old, new)
        before, after = old.get("requestBody"), new.get("requestBody")
        if after is not None and after.get("required") and not (before or {}).get("required"):
            yield "the body is now required"
        if before is not None and after is None:
            yield "the body is gone"
        yield from self._contents(before, after, sent=True)
        for status, answer in old["responses"].items():
            if not status.startswith("2"):
                continue  # clients read the code of any problem
            if status not in new["responses"]:
                yield f"answers {status} no more"
                continue
            there = self._whole(answer, self._old), self._whole(new["responses"][status], self._new)
            yield from self._contents(*there, sent=False)

    def _parameters(self, old: Node, new: Node) -> Iterator[str]:
        before, after = self._named(old, self._old), self._named(new, self._new)
        for key, parameter in before.items():
            where = f"{key[0]} parameter {key[1]}"
            if key not in after:
                yield f"{where} is gone"
                continue
            if after[key].get("required") and not parameter.get("required"):
                yield f"{where} is now required"
            yield from self._schemas(parameter.get("schema", {}), after[key].get("schema", {}), where, sent=True)
        for key, parameter in after.items():
            if key not in before and parameter.get("required"):
                yield f"{key[0]} parameter {key[1]} is new and required"

    def _named(self, operation: Node, root: Node) -> dict[tuple[str, str], Node]:
        found = (self._whole(one, root) for one in operation.get("parameters", ()))
        return {(one["in"], one["name"]): one for one in found}

    def _contents(self, old: Node | None, new: Node | None, *, sent: bool) -> Iterator[str]:
        before, after = (old or {}).get("content", {}), (new or {}).get("content", {})
        place = "body" if sent else "answer"
        for kind, content in before.items():
            if kind not in after:
                yield f"{place}: {kind} is gone"
                continue
            yield from self._schemas(content.get("schema", {}), after[kind].get("schema", {}), place, sent=sent)

    def _schemas(self, old: Any, new: Any, place: str, *, sent: bool) -> Iterator[str]:
        if not isinstance(old, Mapping) or not isinstance(new, Mapping):
            if old != new and sent == (new is False):
                yield f"{place}: is now {new}"
            return
        pair = (str(old.get("$ref")), str(new.get("$ref")), sent)
        if "$ref" in old and "$ref" in new:
            if pair in self._open:
                return  # seen, or a definition that refers to itself
            self._open.add(pair)
            place = pair[0].rpartition("/")[2]  # the same wherever it is used
        before, after = self._whole(old, self._old), self._whole(new, self._new)
        yield from self._values(before, after, place, sent=sent)
        yield from self._fields(before, after, place, sent=sent)
        for keyword in ("items", "additionalProperties"):
            if keyword in before and keyword in after:
                yield from self._schemas(before[keyword], after[keyword], f"{place}.*", sent=sent)
        yield from self._choices(before, after, place, sent=sent)

    def _values(self, old: Node, new: Node, place: str, *, sent: bool) -> Iterator[str]:
        if old.get("type") != new.get("type") and ("type" in new if sent else "type" in old):
            yield f"{place}: was {old.get('type')}, is {new.get('type')}"
        for keyword in ("format", "pattern"):
            if old.get(keyword) != new.get(keyword) and (keyword in new if sent else keyword in old):
                yield f"{place}: {keyword} was {old.get(keyword)}, is {new.get(keyword)}"
        words = _words(old), _words(new)
        if sent and words[1] is not None:
            if words[0] is None:
                yield f"{place}: is now one of {sorted(map(str, words[1]))}"
            else:
                yield from (f"{place}: {word!r} is taken no more" for word in words[0] if word not in words[1])
        if not sent or "type" not in old:
            return
        for limit, way in _LIMITS.items():
            if limit in new and (limit not in old or (new[limit] - old[limit]) * way < 0):
                yield f"{place}: {limit} was {old.get(limit)}, is {new[limit]}"

    def _fields(self, old: Node, new: Node, place: str, *, sent: bool) -> Iterator[str]:
        before, after = old.get("properties", {}), new.get("properties", {})
        needed = set(old.get("required", ())), set(new.get("required", ()))
        if sent:
            yield from (f"{place}.{name}: is now required" for name in sorted(needed[1] - needed[0]))
        else:
            yield from (f"{place}.{name}: is not always there any more" for name in sorted(needed[0] - needed[1]))
        for name, schema in before.items():
            if name not in after:
                yield f"{place}.{name}: is gone"
            else:
                yield from self._schemas(schema, after[name], f"{place}.{name}", sent=sent)

    def _choices(self, old: Node, new: Node, place: str, *, sent: bool) -> Iterator[str]:
        """Compare alternatives by what tells them apart; a request may have more of them, an answer fewer."""
        for keyword in ("anyOf", "oneOf", "allOf"):
            before, after = self._told_apart(old, keyword, self._old), self._told_apart(new, keyword, self._new)
            gone, added = sorted(before.keys() - after.keys()), sorted(after.keys() - before.keys())
            for name in gone if sent or not after else []:
                yield f"{place}: {keyword} {name} is gone"
            for name in added if not sent and before else []:
                yield f"{place}: {keyword} {name} is new in the answer"
            for name in before.keys() & after.keys():
                yield from self._schemas(before[name], after[name], place, sent=sent)

    def _told_apart(self, node: Node, keyword: str, root: Node) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for one in node.get(keyword, ()):
            whole = self._whole(one, root)
            name = str(whole.get("title") or whole.get("const") or whole.get("type") or sorted(whole))
            found[f"{name}#{len([key for key in found if key.partition('#')[0] == name])}"] = one
        return found

    @staticmethod
    def _whole(node: Node, root: Node) -> Node:
        """Return what a reference stands for; what stands beside the reference counts too."""
        if "$ref" not in node:
            return node
        target: Any = root
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return {**target, **{key: value for key, value in node.items() if key != "$ref"}}


def _words(schema: Node) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    words = schema.get("enum")
    return None if words is None else list(words)
