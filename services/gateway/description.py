"""One OpenAPI description of the whole platform, merged from those of the services.

Paths never clash, since each first segment has one owner. Schemas of the same name and content are shared; of the
same name and other content they get the service's name in front, or the module's where one service has two. What
every operation may answer in place of what was asked is described once.
"""

import copy
from collections.abc import Mapping
from http.client import responses
from typing import Any

from libs.common.web import PROBLEMS

SHARED_TITLE = "Wattring"
_PUBLIC = "/api/v1/"
_REFERENCE = "#/components/schemas/"
INTRODUCTION = """\
Energy data acquisition, alarms, switching, carbon accounting and delivery.

Sign in with `POST /api/v1/auth/sign-in` (a cookie), or send an API key as `Authorization: Bearer wr_…`.
Times are RFC 3339 with offset. Lists page by `cursor`. Errors are `application/problem+json` (RFC 9457), with the
message in English (`detail`) and Chinese (`detail_zh`).
"""


def merge(descriptions: Mapping[str, Mapping[str, Any]], *, version: str) -> dict[str, Any]:
    """Return one description.

    Args:
        descriptions: Service to its description; of two schemas of one name the earlier keeps it.
        version: Of the whole.
    """
    paths: dict[str, Any] = {}
    webhooks: dict[str, Any] = {}
    schemas: dict[str, Any] = {}
    for service, description in descriptions.items():
        document = copy.deepcopy(dict(description))
        _name(document, _readable_names(document))
        local = _schemas(document)
        _name(
            document,
            {
                name: f"{service.capitalize()}{name}"
                for name, schema in local.items()
                if name in schemas and schemas[name] != schema
            },
        )
        schemas |= _schemas(document)
        for path, item in document.get("paths", {}).items():
            if path.startswith(_PUBLIC):
                paths[path] = _with_security(_with_tag(item, path), path)
        webhooks |= {name: _only_success(item) for name, item in document.get("webhooks", {}).items()}
    _described_once(paths)
    _named_once([*paths.values()], schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": SHARED_TITLE, "version": version, "description": INTRODUCTION},
        "paths": dict(sorted(paths.items())),
        "webhooks": dict(sorted(webhooks.items())),
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "responses": {_problem(status): answer for status, answer in PROBLEMS.items()},
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


def _with_tag(item: dict[str, Any], path: str) -> dict[str, Any]:
    """Sort what says nothing of itself by the noun in its path; generated clients make a module of each tag."""
    for operation in item.values():
        if isinstance(operation, dict):
            operation.setdefault("tags", [path.removeprefix(_PUBLIC).partition("/")[0]])
    return item


def _described_once(paths: Mapping[str, Any]) -> None:
    """Put a reference in the place of each problem that an operation has no words of its own for."""
    for item in paths.values():
        for operation in item.values():
            answers = operation.get("responses", {}) if isinstance(operation, dict) else {}
            for status, standard in PROBLEMS.items():
                answer = answers.get(str(status), {})
                plain = answer.get("description") in (standard["description"], responses[status])
                if plain and answer["content"] == standard["content"]:
                    answers[str(status)] = {"$ref": f"#/components/responses/{_problem(status)}"}


def _named_once(node: Any, schemas: dict[str, Any]) -> None:
    """Give objects that are written out where they are used, and have a title, a place among the schemas.

    A generated client would have a class for each place otherwise. What stands beside a reference and says all of it
    takes its place.
    """
    for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
        if not isinstance(value, dict | list):
            continue
        _named_once(value, schemas)
        if isinstance(value, dict) and isinstance(value.get("properties"), dict):
            value.pop("$ref", None)
            title = value.get("title")
            if isinstance(title, str) and title.isidentifier() and schemas.setdefault(title, value) == value:
                node[key] = {"$ref": f"{_REFERENCE}{title}"}


def _only_success(item: dict[str, Any]) -> dict[str, Any]:
    """Leave out what a receiver answers besides 2xx: those words are for those whom we answer."""
    for operation in item.values():
        if isinstance(operation, dict) and "responses" in operation:
            answers = operation["responses"]
            operation["responses"] = {status: one for status, one in answers.items() if status.startswith("2")}
    return item


def _problem(status: int) -> str:
    return f"Problem{status}"


def _schemas(document: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document.get("components", {}).get("schemas", {})
    return found


def _readable_names(document: Mapping[str, Any]) -> dict[str, str]:
    """Return other names for those that pydantic made of two classes of one name in a service.

    Such a name is the whole place of the class, or says whether it is sent or answered; a page goes by what is on it.
    """
    found = {}
    for name, schema in _schemas(document).items():
        if name.startswith("services__"):
            found[name] = _readable(name)
        elif name.startswith("libs__common__web__Page_"):
            item = schema["properties"]["items"]["items"]["$ref"].removeprefix(_REFERENCE)
            found[name] = f"Page_{_readable(item)}_"
        elif name.endswith(("-Input", "-Output")):
            found[name] = name.replace("-", "")
    return found


def _readable(name: str) -> str:
    """Return module and class of a whole place."""
    if not name.startswith("services__"):
        return name
    module, _, own = name.rpartition("__")
    return f"{module.rpartition('__')[2].title().replace('_', '')}{own}"


def _name(document: dict[str, Any], renamed: Mapping[str, str]) -> None:
    """Give schemas other names, where they stand, in their titles (generated clients go by them) and in references."""
    _rename(document, renamed)
    if renamed:
        local = _schemas(document)
        named = {
            renamed.get(name, name): schema | {"title": renamed[name]} if name in renamed else schema
            for name, schema in local.items()
        }
        if len(named) < len(local):
            raise ValueError(f"two schemas of one name among {sorted(renamed.values())}")
        local.clear()
        local |= named


def _rename(node: Any, renamed: Mapping[str, str]) -> None:
    """Point references to renamed schemas at their new names, those of a discriminator too."""
    if not renamed or not isinstance(node, dict | list):
        return
    for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
        if isinstance(value, str) and value.startswith(_REFERENCE):
            name = value.removeprefix(_REFERENCE)
            node[key] = f"{_REFERENCE}{renamed.get(name, name)}"
        else:
            _rename(value, renamed)
