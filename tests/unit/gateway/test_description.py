"""One description of the API from those of the services."""

from libs.common.web import PROBLEMS
from services.gateway.description import merge


def document(path: str, schema: dict[str, object]) -> dict[str, object]:
    body = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Page"}}}}
    return {
        "paths": {path: {"get": {"responses": {"200": body}}}, "/livez": {"get": {}}},
        "components": {"schemas": {"Page": schema}},
    }


def reference(merged: dict[str, object], path: str) -> str:
    operation = merged["paths"][path]["get"]  # type: ignore[index]
    return str(operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"])


def test_equal_schemas_are_shared_and_different_ones_get_the_services_name() -> None:
    own = document("/api/v1/users", {"type": "object"})
    same = document("/api/v1/alarms", {"type": "object"})
    other = document("/api/v1/plans", {"type": "array"})
    merged = merge({"gateway": own, "alarm": same, "control": other}, version="1")
    assert set(merged["components"]["schemas"]) == {"Page", "ControlPage"}
    assert reference(merged, "/api/v1/alarms").endswith("/Page")
    assert reference(merged, "/api/v1/plans").endswith("/ControlPage")
    assert own["components"]["schemas"] == {"Page": {"type": "object"}}  # type: ignore[index]


def test_only_public_paths_are_described_and_all_but_sign_in_need_credentials() -> None:
    own = document("/api/v1/auth/sign-in", {})
    merged = merge({"gateway": own, "alarm": document("/api/v1/alarms", {})}, version="1")
    assert sorted(merged["paths"]) == ["/api/v1/alarms", "/api/v1/auth/sign-in"]
    assert "security" not in merged["paths"]["/api/v1/auth/sign-in"]["get"]
    assert merged["paths"]["/api/v1/alarms"]["get"]["security"]


def test_what_receivers_of_callbacks_are_sent_is_described_too() -> None:
    export = document("/api/v1/callbacks", {"type": "array"})
    reference = {"$ref": "#/components/schemas/Page"}
    export["webhooks"] = {"alarm.begin": {"post": {"requestBody": {"content": {"x": {"schema": dict(reference)}}}}}}
    merged = merge({"gateway": document("/api/v1/users", {"type": "object"}), "export": export}, version="1")
    body = merged["webhooks"]["alarm.begin"]["post"]["requestBody"]
    assert body["content"]["x"]["schema"] == {"$ref": "#/components/schemas/ExportPage"}
    assert "/api/v1/callbacks" in merged["paths"]


def test_a_name_that_one_service_has_twice_gets_its_modules() -> None:
    own = document("/api/v1/users", {"type": "object"})
    twice = {"services__control__api__plans__EndIn": {"type": "object"}, "services__control__api__guards__EndIn": {}}
    own["components"]["schemas"] |= twice  # type: ignore[index]
    own["components"]["schemas"]["Page"] = {  # type: ignore[index]
        "discriminator": {"mapping": {"end": "#/components/schemas/services__control__api__plans__EndIn"}},
        "oneOf": [{"$ref": "#/components/schemas/services__control__api__plans__EndIn"}],
    }
    schemas = merge({"gateway": own}, version="1")["components"]["schemas"]
    assert schemas.keys() == {"Page", "PlansEndIn", "GuardsEndIn"}
    assert schemas["Page"]["discriminator"]["mapping"] == {"end": "#/components/schemas/PlansEndIn"}
    assert schemas["PlansEndIn"]["title"] == "PlansEndIn"
    assert schemas["Page"]["oneOf"] == [{"$ref": "#/components/schemas/PlansEndIn"}]


def test_problems_are_described_once_unless_an_operation_has_words_of_its_own() -> None:
    own = document("/api/v1/users", {})
    answers = own["paths"]["/api/v1/users"]["get"]["responses"]  # type: ignore[index]
    answers |= {"404": dict(PROBLEMS[404]), "409": PROBLEMS[409] | {"description": "the name is taken"}}
    merged = merge({"gateway": own}, version="1")
    answers = merged["paths"]["/api/v1/users"]["get"]["responses"]
    assert answers["404"] == {"$ref": "#/components/responses/Problem404"}
    assert answers["409"]["description"] == "the name is taken"
    assert merged["components"]["responses"]["Problem404"] == PROBLEMS[404]


def test_objects_that_are_written_out_get_a_name_once_and_differing_ones_stay() -> None:
    site: dict[str, object] = {"title": "Site", "type": "object", "properties": {"id": {"type": "string"}}}

    def described(path: str, schema: dict[str, object]) -> dict[str, object]:
        found = document(path, {})
        answer = {"content": {"application/json": {"schema": schema}}}
        found["paths"][path]["get"]["responses"]["200"] = answer  # type: ignore[index]
        return found

    many: dict[str, object] = {"type": "array", "items": dict(site)}
    other: dict[str, object] = {**site, "properties": {}}
    merged = merge(
        {
            "gateway": described("/api/v1/users", dict(site)),
            "alarm": described("/api/v1/alarms", many),
            "control": described("/api/v1/plans", other),
        },
        version="1",
    )
    assert merged["components"]["schemas"]["Site"] == site
    assert reference(merged, "/api/v1/users").endswith("/Site")
    shown = merged["paths"]["/api/v1/alarms"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert shown == {"type": "array", "items": {"$ref": "#/components/schemas/Site"}}
    shown = merged["paths"]["/api/v1/plans"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert shown == other
