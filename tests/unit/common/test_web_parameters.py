"""A query parameter that an operation does not have is refused, whatever router the operation comes from."""

from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Query, Request
from pydantic import BaseModel, ConfigDict

from libs.common.clock import SystemClock
from libs.common.runtime import Health
from libs.common.web import create_app


class Wanted(BaseModel):
    """Parameters as a model."""

    model_config = ConfigDict(extra="forbid")
    colour: str | None = None


@pytest.fixture
def app() -> FastAPI:
    health = Health(SystemClock())
    health.starting = None
    platform: Any = None  # nothing here asks for it
    app = create_app("alarm", platform, health, title="Things")
    inner = APIRouter(prefix="/things")

    @inner.get("")
    async def all_things(site: str | None = None, limit: int = 1) -> dict[str, Any]:
        return {"site": site, "limit": limit}

    @inner.get("/best")
    async def best(since: int | None = None) -> dict[str, Any]:
        return {"since": since}

    @inner.get("/{thing_id}")
    async def one(thing_id: str) -> dict[str, Any]:
        return {"id": thing_id}

    @inner.post("/{thing_id}")
    async def change(thing_id: str, force: bool = False) -> dict[str, Any]:
        return {"force": force}

    @inner.put("/{thing_id}")
    async def put(thing_id: str, body: dict[str, Any]) -> dict[str, Any]:
        return {"fields": sorted(body)}

    @inner.post("", openapi_extra={"requestBody": {"content": {"application/json": {"schema": {}}}}})
    async def raw(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    outer = APIRouter(prefix="/api/v1")
    outer.include_router(inner)
    app.include_router(outer)

    @app.get("/api/v1/modelled")
    async def modelled(wanted: Annotated[Wanted, Query()]) -> Wanted:
        return wanted

    @app.get("/api/v1/others/{path:path}", include_in_schema=False)
    async def passed_on(request: Request, path: str) -> dict[str, str]:
        return dict(request.query_params)

    return app


async def ask(app: FastAPI, path: str, method: str = "GET", body: bytes | None = None) -> httpx.Response:
    headers = {} if body is None else {"content-type": "application/json"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        return await client.request(method, f"/api/v1/{path}", content=body, headers=headers)


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("things?site=a&limit=2", "GET"),
        ("things/best?since=1", "GET"),
        ("things/a?force=true", "POST"),
        ("modelled?colour=red", "GET"),
        ("others/x?anything=1", "GET"),
    ],
)
async def test_what_an_operation_has_is_taken(app: FastAPI, path: str, method: str) -> None:
    assert (await ask(app, path, method)).status_code == 200


@pytest.mark.parametrize(
    ("path", "method", "expected"),
    [
        ("things?sites=a", "GET", "query.sites: expected site, there is no such parameter"),
        ("things?zzz=a", "GET", "query.zzz: expected one of limit, site"),
        ("things/best?quality=a", "GET", "query.quality: expected one of since"),
        ("things/a?site=a", "GET", "query.site: expected no parameter"),
        ("things/a?forse=true", "POST", "query.forse: expected force, there is no such parameter"),
        ("modelled?color=red", "GET", "query.color: expected colour, there is no such parameter"),
    ],
)
async def test_what_it_does_not_have_is_refused_by_name(app: FastAPI, path: str, method: str, expected: str) -> None:
    answer = await ask(app, path, method)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["code"], body["detail"]) == ("malformed", expected)
    assert body["facts"]["problems"][0]["field"] == expected.partition(":")[0]
    assert "应为" in body["detail_zh"]


async def test_wrong_value_is_said_in_both_languages(app: FastAPI) -> None:
    body = (await ask(app, "things?limit=many")).json()
    assert body["detail"] == "query.limit: expected a whole number"
    assert body["detail_zh"] == "query.limit:应为整数"


async def test_path_with_a_slash_too_many_is_no_path_and_leads_nowhere(app: FastAPI) -> None:
    answer = await ask(app, "things/")
    assert answer.status_code == 404
    assert answer.json()["detail_zh"] == "没有该路径"


@pytest.mark.parametrize(
    "body",
    [
        rb'{"a": "\ud800"}',
        rb'{"a": {"b": ["x \uDFFF"]}}',
        rb'{"\ud83d": 1}',
        b'{"a": 9223372036854775808}',
        b'{"a": [-9223372036854775809]}',
        b'{"a": 1' + b"0" * 400 + b"}",
    ],
)
async def test_json_that_nothing_behind_can_carry_is_refused(app: FastAPI, body: bytes) -> None:
    answer = await ask(app, "things/a", "PUT", body)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("body: expected JSON with whole characters")


@pytest.mark.parametrize(
    "body",
    [
        rb'{"a": "\ud83d\ude00 \\ud800"}',
        b'{"a": 9223372036854775807, "b": -9223372036854775808}',
        b'{"iccid": "89860322482004123456", "share": 0.33333333333333333333}',
    ],
)
async def test_json_that_only_looks_so_is_taken(app: FastAPI, body: bytes) -> None:
    assert (await ask(app, "things/a", "PUT", body)).status_code == 200


async def test_body_that_an_operation_reads_itself_is_left_to_it(app: FastAPI) -> None:
    assert (await ask(app, "things", "POST", rb'{"a": "\ud800"}')).json() == {"bytes": 15}
