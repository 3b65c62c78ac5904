"""The generated documents: present, true, valid by their own standards, and compatible with the last release."""

import copy
import gzip
import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # published without types
import orjson
import pytest
import yaml

from libs.common.bus import topics
from libs.common.contracts import generate
from libs.common.contracts.base import Payload
from libs.common.contracts.catalogue import CATALOGUE, TopicContract
from libs.common.contracts.examples import EXAMPLES, example_of
from libs.common.contracts.telemetry import Reading

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
MEND = "run: python -m libs.common.contracts.generate"


@cache
def asyncapi_document() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DOCS / "asyncapi.yaml").read_text(encoding="utf-8"))
    return document


@cache
def asyncapi_validator() -> jsonschema.Draft7Validator:
    text = gzip.decompress((ROOT / "tests/data/asyncapi/schema-3.0.0.json.gz").read_bytes())
    return jsonschema.Draft7Validator(json.loads(text))


def test_committed_documents_are_those_of_the_models() -> None:
    assert generate.drift(DOCS) == [], MEND


def test_released_promises_are_kept() -> None:
    assert generate.broken_promises(DOCS) == []


def test_every_topic_has_a_released_schema() -> None:
    released = {path.stem for path in (DOCS / "schemas" / "baseline").glob("*.json")}
    assert released == set(topics.ALL)


def test_drift_is_noticed_in_every_shape(tmp_path: Path) -> None:
    shutil.copytree(DOCS / "schemas", tmp_path / "schemas")
    for document in ("asyncapi.yaml", "events.md"):
        shutil.copy(DOCS / document, tmp_path)
    (tmp_path / "schemas" / f"{topics.READINGS}.json").unlink()
    (tmp_path / "schemas" / f"{topics.COMMANDS}.json").write_text("{}")
    (tmp_path / "schemas" / "wattring.old.v1.json").write_text("{}")
    assert sorted(generate.drift(tmp_path)) == [
        f"schemas/{topics.COMMANDS}.json: differs from the models",
        "schemas/wattring.old.v1.json: not generated from a topic any more",
        f"schemas/{topics.READINGS}.json: missing",
    ]
    generate.write(tmp_path)
    assert generate.drift(tmp_path) == []


def test_broken_promise_stops_check_and_freeze(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--docs", str(tmp_path)]
    assert generate.main([*arguments, "--freeze"]) == 0
    assert generate.main([*arguments, "--check"]) == 0
    baseline = tmp_path / "schemas" / "baseline"
    promised = json.loads((baseline / f"{topics.READINGS}.json").read_text())
    promised["$defs"]["Reading"]["properties"]["voltage"] = {"type": "number"}
    (baseline / f"{topics.READINGS}.json").write_text(json.dumps(promised))
    (baseline / "wattring.gone.v1.json").write_text("{}")
    assert generate.main([*arguments, "--check"]) == 1
    assert generate.main([*arguments, "--freeze"]) == 1
    said = capsys.readouterr().out
    assert "wattring.telemetry.readings.v1: message<Reading>.voltage: removed" in said
    assert "wattring.gone.v1: the topic is gone" in said
    assert generate.main([*arguments, "--freeze", "--break"]) == 0
    (baseline / "wattring.gone.v1.json").unlink()
    assert generate.main([*arguments, "--check"]) == 0


@pytest.mark.parametrize("contract", CATALOGUE, ids=lambda contract: contract.area)
def test_examples_satisfy_the_schema_of_their_topic(contract: TopicContract) -> None:
    schema = json.loads((DOCS / "schemas" / f"{contract.name}.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    for payload in contract.payloads:
        example = orjson.loads(EXAMPLES[payload].to_json())
        validator.validate(example)
        for name, info in payload.model_fields.items():
            if info.is_required():
                without = {key: value for key, value in example.items() if key != (info.alias or name)}
                assert not validator.is_valid(without), f"{payload.__name__} without {name}"


@pytest.mark.parametrize(
    ("topic", "payload", "changes"),
    [
        (topics.COMMANDS, "Command", {"restore_at": None}),
        (topics.ALARM_EVENTS, "AlarmEvent", {"end_reason": None}),
        (topics.CONTROL_EVENTS, "ControlEvent", {"command_id": None, "occurrence_id": None}),
        (topics.CONTROL_EVENTS, "ControlEvent", {"load_id": None, "device_id": None}),
        (topics.INTERVALS, "Interval", {"energy_kwh": None}),
    ],
)
def test_schema_states_what_depends_on_another_field(topic: str, payload: str, changes: dict[str, None]) -> None:
    example = next(orjson.loads(e.to_json()) for cls, e in EXAMPLES.items() if cls.__name__ == payload)
    schema = json.loads((DOCS / "schemas" / f"{topic}.json").read_text(encoding="utf-8"))
    without = {key: value for key, value in example.items() if key not in changes}
    assert not jsonschema.Draft202012Validator(schema).is_valid(without)


def test_asyncapi_is_valid_by_its_specification() -> None:
    errors = [f"{list(e.absolute_path)}: {e.message}" for e in asyncapi_validator().iter_errors(asyncapi_document())]
    assert errors == []


@pytest.mark.parametrize(
    "path",
    [
        ("info", "title"),
        ("channels", "telemetry.readings", "bindings", "kafka", "partitions"),
        ("operations", "ingest.send.telemetry.readings", "action"),
        ("components", "messages", "telemetry.readings.Reading", "payload"),
        ("servers", "kafka", "protocol"),
    ],
    ids="/".join,
)
def test_validator_reaches_into_the_document(path: tuple[str, ...]) -> None:
    """The specification's schema is not satisfied by anything: a wrong value at these places is found."""
    document = copy.deepcopy(asyncapi_document())
    node = document
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = [0]
    assert not asyncapi_validator().is_valid(document)


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        found = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return found.union(*(references(value) for key, value in node.items() if key != "examples"))
    if isinstance(node, list):
        return set().union(*(references(value) for value in node))
    return set()


def test_every_reference_in_the_document_leads_somewhere() -> None:
    document = asyncapi_document()
    for reference in references(document):
        node: Any = document
        for part in reference.removeprefix("#/").split("/"):
            assert part in node, reference
            node = node[part]


def test_document_shows_every_topic_with_its_writers_and_readers() -> None:
    document = asyncapi_document()
    assert {channel["address"] for channel in document["channels"].values()} == set(topics.ALL)
    operations = {
        (operation["tags"][0]["name"], operation["action"], operation["channel"]["$ref"].removeprefix("#/channels/"))
        for operation in document["operations"].values()
    }
    expected = {(s, "send", c.area) for c in CATALOGUE for s in c.writers}
    expected |= {(s, "receive", c.area) for c in CATALOGUE for s in c.readers}
    assert operations == expected


def test_examples_in_the_document_satisfy_its_own_schemas() -> None:
    document = asyncapi_document()
    for name, message in document["components"]["messages"].items():
        schema = {**message["payload"], "components": document["components"]}
        for example in message["examples"]:
            jsonschema.Draft7Validator(schema).validate(example["payload"])
        assert message["bindings"]["kafka"]["key"]["type"] == "string", name


def test_heartbeat_has_its_own_type_in_the_document() -> None:
    messages = asyncapi_document()["components"]["messages"]
    types = {
        name: messages[f"telemetry.readings.{name}"]["headers"]["allOf"][1]["properties"]["ce_type"]["const"]
        for name in ("Reading", "Heartbeat")
    }
    assert types == {"Reading": topics.READINGS, "Heartbeat": "wattring.telemetry.heartbeat.v1"}


def test_example_is_asked_for_by_its_class() -> None:
    assert isinstance(example_of(Reading), Reading)
    with pytest.raises(KeyError):
        example_of(Payload)
