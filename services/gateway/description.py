"""One OpenAPI description of the whole platform, merged from those of the services.

Paths never clash, since each first segment has one owner. Schemas of the same name and content are shared; of the
same name and other content they get the service's name in front.
"""

import copy
from collections.abc import Mapping
from typing import Any

SHARED_TITLE = "Wattring"
INTRODUCTION = """\
Energy data acquisition, alarms, switching, carbon accounting and delivery.

Sign in with `POST /api/v1/auth/sign-in` (a cookie), or send an API key as `Authorization: Bearer wr_…`.
Times are RFC 3339 with offset. Lists page by `cursor`. Errors are `application/problem+json` (RFC 9457), with the
message in English (`detail`) and Chinese (`detail_zh`).
"""


def merge(own: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]], *, version: str) -> dict[str, Any]:
    """Return one description.

    Args:
        own: The gateway's description.
        others: Service to its description.
        version: Of the whole.
    """
    paths: dict[str, Any] = {}
    webhooks: dict[str, Any] = {}
    schemas: dict[str, Any] = {}
    for service, description in {"gateway": own, **others}.items():
        document = copy.deepcopy(dict(description))
        local = document.get("components", {}).get("schemas", {})
        renamed = {
            name: f"{service.capitalize()}{name}"
            for name, schema in local.items()
            if name in schemas and schemas[name] != schema
        }
        _rename(document, renamed)
        for name, schema in document.get("components", {}).get("schemas", {}).items():
            schemas[renamed.get(name, name)] = schema
        for path, item in document.get("paths", {}).items():
            if path.startswith("/api/v1/"):
                paths[path] = _with_security(item, path)
        webhooks |= document.get("webhooks", {})
    return {
        "openapi": "3.1.0",
        "info": {"title": SHARED_TITLE, "version": version, "description": INTRODUCTION},
        "paths": dict(sorted(paths.items())),
        "webhooks": dict(sorted(webhooks.items())),
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "session": {"type": "apiKey", "in": "cookie", "name": "wattring_session"},
                "apiKey": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _with_security(item: dict[str, Any], path: str) -> dict[str, Any]:
    if path != "/api/v1/auth/sign-in":
        for operation in item.values():
            if isinstance(operation, dict):
                operation["security"] = [{"session": []}, {"apiKey": []}]
    return item


def _rename(node: Any, renamed: Mapping[str, str]) -> None:
    """Point references to renamed schemas at their new names."""
    if not renamed:
        return
    if isinstance(node, dict):
        reference = node.get("$ref")
        if isinstance(reference, str):
            name = reference.rpartition("/")[2]
            if name in renamed:
                node["$ref"] = f"#/components/schemas/{renamed[name]}"
        for value in node.values():
            _rename(value, renamed)
    elif isinstance(node, list):
        for value in node:
            _rename(value, renamed)
