"""One description of the API from those of the services."""

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
    merged = merge(own, {"alarm": same, "control": other}, version="1")
    assert set(merged["components"]["schemas"]) == {"Page", "ControlPage"}
    assert reference(merged, "/api/v1/alarms").endswith("/Page")
    assert reference(merged, "/api/v1/plans").endswith("/ControlPage")
    assert own["components"]["schemas"] == {"Page": {"type": "object"}}  # type: ignore[index]


def test_only_public_paths_are_described_and_all_but_sign_in_need_credentials() -> None:
    merged = merge(document("/api/v1/auth/sign-in", {}), {"alarm": document("/api/v1/alarms", {})}, version="1")
    assert sorted(merged["paths"]) == ["/api/v1/alarms", "/api/v1/auth/sign-in"]
    assert "security" not in merged["paths"]["/api/v1/auth/sign-in"]["get"]
    assert merged["paths"]["/api/v1/alarms"]["get"]["security"]


def test_what_receivers_of_callbacks_are_sent_is_described_too() -> None:
    export = document("/api/v1/callbacks", {"type": "array"})
    reference = {"$ref": "#/components/schemas/Page"}
    export["webhooks"] = {"alarm.begin": {"post": {"requestBody": {"content": {"x": {"schema": dict(reference)}}}}}}
    merged = merge(document("/api/v1/users", {"type": "object"}), {"export": export}, version="1")
    body = merged["webhooks"]["alarm.begin"]["post"]["requestBody"]
    assert body["content"]["x"]["schema"] == {"$ref": "#/components/schemas/ExportPage"}
    assert "/api/v1/callbacks" in merged["paths"]
