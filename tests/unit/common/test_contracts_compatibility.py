"""The checker of schema changes: only new optional fields pass."""

import copy
from typing import Any

import pytest

from libs.common.contracts.catalogue import CATALOGUE
from libs.common.contracts.compatibility import incompatibilities
from libs.common.contracts.generate import topic_schema

SCHEMA: dict[str, Any] = {
    "title": "Thing",
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]+$"},
        "size": {"anyOf": [{"type": "number", "minimum": 0}, {"type": "null"}]},
        "state": {"$ref": "#/$defs/State"},
        "kind": {"const": "thing"},
        "parts": {"type": "array", "items": {"$ref": "#/$defs/Part"}},
        "values": {"type": "object", "additionalProperties": {"type": "number"}},
    },
    "required": ["name", "state"],
    "$defs": {
        "State": {"enum": ["on", "off"], "type": "string", "title": "State"},
        "Part": {
            "type": "object",
            "title": "Part",
            "properties": {"id": {"type": "string"}, "parts": {"type": "array", "items": {"$ref": "#/$defs/Part"}}},
            "required": ["id"],
        },
    },
}


def changed(*path: str, to: object) -> dict[str, Any]:
    new = copy.deepcopy(SCHEMA)
    node = new
    for part in path[:-1]:
        node = node[part]
    if to is ...:
        del node[path[-1]]
    else:
        node[path[-1]] = to
    return new


@pytest.mark.parametrize(
    "new",
    [
        pytest.param(SCHEMA, id="nothing"),
        pytest.param(changed("properties", "colour", to={"type": "string"}), id="optional field"),
        pytest.param(
            changed("$defs", "Part", "properties", "weight", to={"type": "number"}), id="optional field deep inside"
        ),
        pytest.param(changed("description", to="Words are free"), id="description"),
        pytest.param(changed("properties", "name", "title", to="Other"), id="title of a field"),
        pytest.param(changed("$defs", "Unused", to={"type": "string"}), id="definition"),
    ],
)
def test_what_everybody_can_live_with_passes(new: dict[str, Any]) -> None:
    assert incompatibilities(SCHEMA, new) == []


@pytest.mark.parametrize(
    ("new", "complaint"),
    [
        (changed("required", to=["name", "state", "size"]), "message.size: is now required"),
        (changed("required", to=["name"]), "message.state: is no longer required"),
        (changed("properties", "name", to=...), "message.name: removed"),
        (changed("properties", "name", "type", to="number"), "message.name: type 'string' removed"),
        (changed("properties", "name", "type", to=["string", "null"]), "message.name: type 'null' added"),
        (changed("properties", "name", "pattern", to="^[a-y]+$"), "message.name: pattern changed"),
        (changed("properties", "name", "maxLength", to=10), "message.name: maxLength changed from None"),
        (changed("properties", "size", to={"type": "number"}), "message.size: anyOf number removed"),
        (
            changed("properties", "size", "anyOf", to=[{"type": "number", "minimum": 1}, {"type": "null"}]),
            "message.size<number>: minimum changed from 0 to 1",
        ),
        (
            changed("properties", "size", "anyOf", to=[*SCHEMA["properties"]["size"]["anyOf"], {"type": "string"}]),
            "message.size: anyOf string added",
        ),
        (changed("$defs", "State", "enum", to=["on"]), "message.state: value 'off' removed"),
        (changed("$defs", "State", "enum", to=["on", "off", "x"]), "message.state: value 'x' added"),
        (changed("properties", "kind", to={"const": "other"}), "message.kind: value 'thing' removed"),
        (changed("properties", "kind", to={}), "message.kind: value is no longer fixed"),
        (
            changed("$defs", "Part", "required", to=["id", "parts"]),
            "message.parts.items.parts: is now required",
        ),
        (changed("$defs", "Part", "properties", "id", to={"type": "integer"}), "type 'string' removed"),
        (changed("properties", "parts", "items", to=...), "message.parts.items: removed"),
        (
            changed("properties", "values", "additionalProperties", to={"type": "integer"}),
            "message.values.additionalProperties: type 'number' removed",
        ),
        (changed("properties", "values", "additionalProperties", to=False), "changed from"),
        (changed("additionalProperties", to=False), "message.additionalProperties: added"),
        (changed("allOf", to=[{"required": ["size"]}]), "added, which older readers refuse"),
        (changed("type", to=...), "message: type is no longer fixed"),
    ],
)
def test_what_breaks_a_reader_is_named_with_its_place(new: dict[str, Any], complaint: str) -> None:
    found = incompatibilities(SCHEMA, new)
    assert any(complaint in line for line in found), found


def test_new_required_field_is_refused_although_new_fields_are_allowed() -> None:
    new = changed("properties", "colour", to={"type": "string"})
    new["required"] = [*new["required"], "colour"]
    assert incompatibilities(SCHEMA, new) == ["message.colour: is now required"]


def test_definition_may_be_written_out_or_renamed() -> None:
    new = changed("properties", "state", to=SCHEMA["$defs"]["State"])
    assert incompatibilities(SCHEMA, new) == []


def test_dangling_reference_is_an_error() -> None:
    new = changed("properties", "state", to={"$ref": "#/$defs/Gone"})
    with pytest.raises(ValueError, match="Gone"):
        incompatibilities(SCHEMA, new)


@pytest.mark.parametrize("contract", CATALOGUE, ids=lambda contract: contract.area)
def test_every_field_of_every_topic_is_under_the_check(contract: Any) -> None:
    """Removing any one field anywhere in a topic's schema is noticed."""
    old = topic_schema(contract)
    objects = [("$defs", name) for name, schema in old["$defs"].items() if "properties" in schema]
    for _, name in objects:
        for field in old["$defs"][name]["properties"]:
            new = copy.deepcopy(old)
            del new["$defs"][name]["properties"][field]
            assert incompatibilities(old, new), f"{name}.{field}"
