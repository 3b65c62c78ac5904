"""The committed description of the API: what generated clients are made from."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # published without types

from libs.suite.openapi import DOCUMENT, description, main, text, trouble
from libs.suite.openapi_promises import METHODS, broken
from tests.conftest import ROOT

Document = dict[str, Any]


@pytest.fixture(scope="module")
def document() -> Document:
    """Return what the services say, which is what is committed or the first test fails."""
    return description()


def operations(document: Document) -> Iterator[tuple[str, Document]]:
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                yield f"{method.upper()} {path}", item[method]


def test_the_committed_description_is_what_the_services_say(document: Document) -> None:
    found = trouble(ROOT / DOCUMENT, document)
    assert not found, "\n".join(found)


def test_what_takes_something_from_a_client_is_written_only_on_demand(
    document: Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("libs.suite.openapi.description", lambda: document)
    promised = copy.deepcopy(document)
    promised["paths"]["/api/v1/more"] = {"get": {"operationId": "get_more", "responses": {}}}
    file = tmp_path / "openapi.json"
    file.write_text(text(promised), encoding="utf-8")
    assert main(["--file", str(file), "--check"]) == 1
    assert "libs.suite.openapi" in capsys.readouterr().out
    assert main(["--file", str(file)]) == 1
    assert capsys.readouterr().out == "GET /api/v1/more: is gone\n"
    assert json.loads(file.read_text(encoding="utf-8")) == promised
    assert main(["--file", str(file), "--break"]) == 0
    assert json.loads(file.read_text(encoding="utf-8")) == document
    assert main(["--file", str(file), "--check"]) == 0


def test_every_operation_has_an_id_of_its_own_a_tag_and_a_name(document: Document) -> None:
    ids = [operation["operationId"] for _, operation in operations(document)]
    assert len(ids) > 300
    assert len(set(ids)) == len(ids)
    assert document["paths"]["/api/v1/commands/groups/{group_id}"]["get"]["operationId"] == (
        "get_commands_groups_by_group_id"
    )
    assert [place for place, operation in operations(document) if not operation.get("tags")] == []
    assert [place for place, operation in operations(document) if not operation.get("summary")] == []


def test_every_reference_leads_somewhere(document: Document) -> None:
    def references(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    for reference in set(references(document)):
        target: Any = document
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]


def test_problems_are_described_once(document: Document) -> None:
    for place, operation in operations(document):
        for status in ("400", "401", "403", "404", "409", "413", "422", "503"):
            answer = operation["responses"][status]
            assert answer == {"$ref": f"#/components/responses/Problem{status}"} or answer["description"], place
    repeated = json.dumps(document["paths"]).count("application/problem+json")
    assert repeated < 10, "problems with words of their own"


def test_every_body_has_an_example_that_fits_its_schema(document: Document) -> None:
    seen = 0
    for place, operation in operations(document):
        content = operation.get("requestBody", {}).get("content", {})
        shown = dict(_shown(document, content))
        written = {kind for kind, one in content.items() if one["schema"].get("format") != "binary"}
        assert written <= shown.keys(), f"{place}: its body wants an example in its service's api_examples.yaml"
        for kind, example in shown.items():
            assert _wrong(document, content[kind]["schema"], example) == [], place
            seen += 1
    assert seen > 100


def test_examples_of_answers_fit_their_schemas(document: Document) -> None:
    shown = {}
    for place, operation in operations(document):
        for answer in operation["responses"].values():
            for content in answer.get("content", {}).values():
                if "example" in content:
                    shown[place] = _wrong(document, content["schema"], content["example"])
    assert shown.keys() >= {"GET /api/v1/sites", "GET /api/v1/energy", "POST /api/v1/commands"}
    assert {place: wrong for place, wrong in shown.items() if wrong} == {}


def _shown(document: Document, content: Document) -> Iterator[tuple[str, Any]]:
    for kind, one in content.items():
        schema = one["schema"]
        if "$ref" in schema:
            schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        for example in [one["example"]] if "example" in one else schema.get("examples", ()):
            yield kind, example


def _wrong(document: Document, schema: Document, example: Any) -> list[str]:
    whole = {"components": document["components"], **schema}
    return [error.message for error in Draft202012Validator(whole).iter_errors(example)]


# ---- what breaks a client ---------------------------------------------------------------------------------

OLD: Document = {
    "paths": {
        "/api/v1/things": {
            "post": {
                "operationId": "post_things",
                "parameters": [
                    {"in": "query", "name": "q", "required": False, "schema": {"type": "string", "maxLength": 20}}
                ],
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ThingIn"}}},
                },
                "responses": {
                    "201": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}}
                },
            }
        }
    },
    "webhooks": {
        "thing.made": {
            "post": {
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}}
            }
        }
    },
    "components": {
        "schemas": {
            "ThingIn": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string"},
                    "kind": {"enum": ["a", "b"], "type": "string"},
                    "inner": {"$ref": "#/components/schemas/ThingIn"},
                },
            },
            "Thing": {
                "type": "object",
                "required": ["id", "kind"],
                "properties": {
                    "id": {"type": "string"},
                    "kind": {"enum": ["a", "b"], "type": "string"},
                    "size": {"anyOf": [{"type": "number"}, {"type": "null"}]},
                },
            },
        }
    },
}


def _operation(document: Document) -> Document:
    found: Document = document["paths"]["/api/v1/things"]["post"]
    return found


def _of(document: Document, name: str) -> Document:
    found: Document = document["components"]["schemas"][name]
    return found


def _new_required_parameter(document: Document) -> None:
    _operation(document)["parameters"].append({"in": "query", "name": "r", "required": True, "schema": {}})


BREAKS: dict[str, tuple[Callable[[Document], Any], str]] = {
    "path gone": (lambda new: new["paths"].clear(), "POST /api/v1/things: is gone"),
    "id": (lambda new: _operation(new).update(operationId="x"), "operationId post_things is now x"),
    "parameter gone": (lambda new: _operation(new)["parameters"].clear(), "query parameter q is gone"),
    "parameter required": (lambda new: _operation(new)["parameters"][0].update(required=True), "q is now required"),
    "parameter new and required": (_new_required_parameter, "query parameter r is new and required"),
    "parameter shorter": (
        lambda new: _operation(new)["parameters"][0]["schema"].update(maxLength=10), "maxLength was 20, is 10",
    ),
    "answer gone": (lambda new: _operation(new)["responses"].clear(), "answers 201 no more"),
    "type of body gone": (
        lambda new: _operation(new)["requestBody"]["content"].clear(), "body: application/json is gone",
    ),
    "field of request gone": (lambda new: _of(new, "ThingIn")["properties"].pop("kind"), "ThingIn.kind: is gone"),
    "field of request required": (
        lambda new: _of(new, "ThingIn").update(required=["name", "kind"]), "ThingIn.kind: is now required",
    ),
    "word of request gone": (
        lambda new: _of(new, "ThingIn")["properties"]["kind"].update(enum=["a"]), "'b' is taken no more",
    ),
    "type of request": (
        lambda new: _of(new, "ThingIn")["properties"]["name"].update(type="integer"), "was string, is integer",
    ),
    "field of answer gone": (lambda new: _of(new, "Thing")["properties"].pop("size"), "Thing.size: is gone"),
    "field of answer optional": (
        lambda new: _of(new, "Thing").update(required=["id"]), "Thing.kind: is not always there any more",
    ),
    "type of answer": (
        lambda new: _of(new, "Thing")["properties"]["id"].update(type="integer"), "was string, is integer",
    ),
    "answer may be null": (
        lambda new: _of(new, "Thing")["properties"]["size"]["anyOf"].append({"type": "string"}),
        "anyOf string#0 is new in the answer",
    ),
    "callback gone": (lambda new: new["webhooks"].clear(), "callback thing.made: is gone"),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
def test_what_takes_something_from_a_client_is_a_break(name: str) -> None:
    change, said = BREAKS[name]
    new = copy.deepcopy(OLD)
    change(new)
    found = broken(OLD, new)
    assert any(said in what for what in found), found


def test_what_only_adds_is_none() -> None:
    new = copy.deepcopy(OLD)
    new["paths"]["/api/v1/more"] = _operation(new)
    _operation(new)["parameters"].append({"in": "query", "name": "r", "required": False, "schema": {}})
    _operation(new)["parameters"][0]["schema"]["maxLength"] = 40
    _operation(new)["responses"]["202"] = {}
    _of(new, "ThingIn")["properties"] |= {"more": {"type": "string"}}
    _of(new, "ThingIn")["properties"]["kind"]["enum"].append("c")
    _of(new, "Thing")["properties"] |= {"more": {"type": "string"}}
    _of(new, "Thing")["properties"]["kind"]["enum"].append("c")
    _of(new, "Thing")["description"] = "words"
    assert broken(OLD, new) == []
