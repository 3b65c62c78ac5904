"""What the registry's bodies look like, for the OpenAPI page: each kind has the fields of its own class."""

from typing import Any

from libs.common.contracts.registry import ENTITY_TYPES, EntityKind

SET_BY_US = ("version", "changed_by", "state")
"""Fields that a body need not and cannot set; a version that is given is compared, like ``If-Match``."""


def entity_schema(kind: EntityKind) -> dict[str, Any]:
    """Return the JSON Schema of one entity, as the API shows it."""
    schema = ENTITY_TYPES[kind].model_json_schema(mode="serialization")
    schema.setdefault("additionalProperties", True)  # so that FastAPI adds no words of its own
    inlined: dict[str, Any] = _inlined(schema, schema.pop("$defs", {}))
    return inlined


def put_body(kind: EntityKind) -> dict[str, Any]:
    """Return what OpenAPI says about the body of a PUT."""
    schema = entity_schema(kind)
    schema["title"] = f"{schema['title']}Body"
    schema["properties"] = {name: part for name, part in schema["properties"].items() if name not in SET_BY_US}
    optional = {*SET_BY_US, "id", "valid_from"}
    schema["required"] = [name for name in schema.get("required", ()) if name not in optional]
    return _body(schema)


def page_of(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a page of items."""
    return {
        "title": f"{schema['title']}Page",
        "type": "object",
        "required": ["items"],
        "properties": {
            "items": {"type": "array", "items": schema},
            "next_cursor": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
    }


def answer(schema: dict[str, Any], description: str) -> dict[str, Any]:
    """Return what OpenAPI says about an answer."""
    return {"description": description, "content": {"application/json": {"schema": schema}}}


REPORT: dict[str, Any] = {
    "type": "object",
    "required": ["device_id", "source_time", "points"],
    "properties": {
        "device_id": {"type": "string", "maxLength": 64},
        "source_time": {"type": "string", "format": "date-time", "description": "RFC 3339 with an offset"},
        "points": {
            "type": "object",
            "description": "point name to number, null for none",
            "additionalProperties": {"anyOf": [{"type": "number"}, {"type": "null"}]},
        },
        "units": {
            "type": "object",
            "description": "point name to the unit that its number is in, where that is not the canonical one",
            "additionalProperties": {"type": "string"},
        },
        "quality": {"type": "object", "additionalProperties": {"type": "string"}},
        "seq": {"type": "integer"},
        "message_id": {"type": "string"},
    },
}

TRAFFIC: dict[str, Any] = {
    "type": "object",
    "description": "the traffic of a load, by load_id, or by network_element_id and sector",
    "required": ["source_time", "points"],
    "properties": {
        "load_id": {"type": "string"},
        "network_element_id": {"type": ["string", "integer"]},
        "sector": {"type": ["string", "integer"]},
        "source_time": {"type": "string", "format": "date-time"},
        "points": {
            "type": "object",
            "required": ["traffic_load"],
            "properties": {"traffic_load": {"type": ["number", "null"], "description": "[%]"}},
            "additionalProperties": False,
        },
    },
}
PUSHED: dict[str, Any] = {"anyOf": [REPORT, TRAFFIC]}
PUSH_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"anyOf": [REPORT, TRAFFIC, {"type": "array", "items": PUSHED, "maxItems": 1000}]}
            },
            "application/gzip": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
REPLAY_BODY: dict[str, Any] = {"requestBody": {"required": False, "content": {"application/json": {"schema": REPORT}}}}
FILE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "the file: a registry as YAML or Excel workbook, or readings with one JSON object a line",
        "content": {
            "application/yaml": {"schema": {"type": "string"}},
            "application/x-ndjson": {"schema": {"type": "string"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _inlined(part: Any, definitions: dict[str, Any]) -> Any:
    """Return a schema without references: they would point into the page and not into the schema."""
    if isinstance(part, dict):
        name = part.get("$ref")
        if isinstance(name, str):
            return _inlined(definitions[name.rpartition("/")[2]], definitions)
        return {key: _inlined(value, definitions) for key, value in part.items()}
    if isinstance(part, list):
        return [_inlined(value, definitions) for value in part]
    return part
