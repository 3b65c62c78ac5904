"""Every request is answered as the house answers, whatever it asks and whatever goes wrong."""

import asyncio
import logging
from collections.abc import AsyncIterator, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import httpx
import orjson
import pytest
from fastapi import Body, Depends, FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect

from libs.common import errors, metrics
from libs.common.bus.port import Bus
from libs.common.errors import Bilingual, InvalidFile, PlatformError, Problem
from libs.common.health import Check, Health, Worker
from libs.common.inside import PROBES, Inside
from libs.common.log import current_context
from libs.common.middleware import Envelope
from libs.common.problems import ProblemDetail, problem
from libs.common.serving import Platform
from libs.common.settings import CommonSettings
from libs.common.testing.clock import FakeClock, settle
from libs.common.tokens import InvalidToken, KeyRing, Principal
from libs.common.tracing import current_trace_id, span
from libs.common.web import build_version, create_app, require

LIMIT = 1000


class Reading(BaseModel):
    value: float
    unit: str = Field(max_length=5)


class World:
    """An application with a path for every kind of trouble."""

    def __init__(self, folder: Path) -> None:
        KeyRing.create(folder)
        self.clock = FakeClock(datetime(2026, 3, 1, tzinfo=UTC))
        self.keys = KeyRing.open(folder, self.clock)
        bus: Bus = None  # type: ignore[assignment]  # nothing here publishes
        self.platform = Platform(CommonSettings(data_dir=folder), self.clock, bus, self.keys)
        self.health = Health(self.clock)
        self.health.starting = None
        self.app = create_app("alarm", self.platform, self.health, title="Wattring alarm", max_body_bytes=LIMIT)
        self.raises: Exception = KeyError("unset")
        self.seen: dict[str, Any] = {}
        _add_paths(self, self.app)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(app=self.app), base_url="http://alarm")

    async def get(self, path: str, **headers: str) -> httpx.Response:
        async with self.client() as client:
            return await client.get(path, headers=headers)

    def token(self, scopes: list[str]) -> dict[str, str]:
        return {"authorization": f"Bearer {self.keys.sign_token('gateway', audience='alarm', scopes=scopes)}"}

    async def get_inside(self, path: str, *, probes_only: bool = False) -> httpx.Response:
        inside = httpx.ASGITransport(app=Inside(self.app, probes_only=probes_only))
        async with httpx.AsyncClient(transport=inside, base_url="http://alarm") as client:
            return await client.get(path)


def _add_paths(world: World, app: FastAPI) -> None:
    @app.get("/trouble")
    async def trouble() -> None:
        raise world.raises

    @app.post("/readings")
    async def take(reading: Reading) -> float:
        return reading.value

    @app.post("/files")
    async def file(body: Annotated[bytes, Body(media_type="application/octet-stream")]) -> int:
        return len(body)

    @app.post("/streams")
    async def stream(request: Request) -> int:
        return sum([len(chunk) async for chunk in request.stream()])

    @app.get("/seen")
    async def seen(request: Request) -> Response:
        world.seen = {"trace_id": current_trace_id(), "request_id": request.headers["x-request-id"]}
        return Response(headers={"x-request-id": "the application's own"})

    @app.get("/who")
    async def who(principal: Annotated[Principal, Depends(require("alarm:read"))]) -> str:
        return principal.actor

    @app.get("/direct/loads")
    async def direct() -> str:
        return "open"


@pytest.fixture(scope="module")
def keys_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture
async def world(keys_folder: Path) -> World:
    return World(keys_folder)


def detail_of(answer: httpx.Response) -> dict[str, Any]:
    """Return a problem after looking at what all of them have."""
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    ProblemDetail.model_validate(found)
    assert found["status"] == answer.status_code
    assert found["title"]
    assert found["detail"]
    assert any("\u4e00" <= letter <= "\u9fff" for letter in found["detail_zh"]), found["detail_zh"]
    assert found["instance"] == f"urn:wattring:request:{answer.headers['x-request-id']}"
    return found


# -- errors ---------------------------------------------------------------------------------------


class AlarmAlreadyCleared(errors.Conflict):
    code = "alarm_already_cleared"
    title_zh = "告警已恢复"


@pytest.mark.parametrize(
    ("error", "status", "code", "title"),
    [
        (errors.InvalidInput("wrong", message_zh="有误"), 400, "invalid_input", "Invalid input"),
        (errors.Unauthenticated("who?", message_zh="未登录"), 401, "unauthenticated", "Unauthenticated"),
        (InvalidToken("old", message_zh="过期"), 401, "invalid_token", "Invalid token"),
        (errors.Forbidden("no", message_zh="无权"), 403, "forbidden", "Forbidden"),
        (errors.NotFound("nothing", message_zh="没有"), 404, "not_found", "Not found"),
        (AlarmAlreadyCleared("cleared", message_zh="已恢复"), 409, "alarm_already_cleared", "Alarm already cleared"),
        (errors.Unavailable("away", message_zh="不可用"), 503, "unavailable", "Unavailable"),
        (PlatformError("odd", message_zh="异常"), 500, "platform_error", "Platform error"),
        (errors.Conflict("no Chinese of its own"), 409, "conflict", "Conflict"),
        (
            errors.TooManyRequests("often", message_zh="频繁", retry_after_s=2.2),
            429,
            "too_many_requests",
            "Too many requests",
        ),
    ],
)
async def test_every_kind_of_error_is_a_problem_in_two_languages(
    world: World, error: PlatformError, status: int, code: str, title: str
) -> None:
    world.raises = error
    answer = await world.get("/trouble")
    found = detail_of(answer)
    assert (answer.status_code, found["code"], found["title"], found["detail"]) == (status, code, title, error.message)
    assert error.message_zh is None or found["detail_zh"] == error.message_zh
    assert (answer.headers.get("www-authenticate") == "Bearer") is (status == 401)
    assert answer.headers.get("retry-after") == {503: "2", 429: "3"}.get(status)


async def test_facts_may_have_any_name_and_any_value(world: World) -> None:
    facts: dict[str, Any] = {
        "code": "c", "title": "t", "detail": "d", "detail_zh": "z", "headers": 1, "facts": {}, "status": 1, "type": 2,
        "at": datetime(2026, 3, 1, tzinfo=UTC), "many": {1, 2}, "raw": b"x", "huge": 2**70, "nan": float("nan"),
        "odd": object, "password": "hunter2",
    }  # fmt: skip
    world.raises = errors.Conflict("busy", message_zh="忙", **facts)
    found = detail_of(await world.get("/trouble"))
    assert (found["code"], found["detail"], found["status"]) == ("conflict", "busy", 409)
    assert found["facts"].keys() == facts.keys()
    assert (found["facts"]["code"], found["facts"]["status"], found["facts"]["at"]) == (
        "c", 1, "2026-03-01T00:00:00+00:00",
    )  # fmt: skip
    assert found["facts"]["password"] == "***"


async def test_a_wrong_file_tells_every_place(world: World) -> None:
    world.raises = InvalidFile("sites.yaml", [Problem(line=3, field="lat", expected="a number", found="north")])
    found = detail_of(await world.get("/trouble"))
    assert found["facts"]["problems"][0]["line"] == 3
    assert "sites.yaml:3: lat: expected a number, found 'north'" in found["detail"]


async def test_what_nobody_expected_is_logged_once_with_its_id_and_told_without_a_word_of_it(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.raises = RuntimeError("postgresql://u:hunter2@db/x is odd")
    answer = await world.get("/trouble")
    found = detail_of(answer)
    assert (answer.status_code, found["code"]) == (500, "internal")
    assert "hunter2" not in answer.text
    assert "odd" not in answer.text
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert (vars(record)["path"], vars(record)["method"]) == ("/trouble", "GET")
    assert record.exc_info is not None
    assert record.exc_info[1] is world.raises


async def test_unknown_paths_and_methods(world: World) -> None:
    answer = await world.get("/nothing")
    assert (answer.status_code, detail_of(answer)["code"]) == (404, "http_404")
    async with world.client() as client:
        answer = await client.delete("/readings")
    assert (answer.status_code, detail_of(answer)["code"]) == (405, "http_405")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ('{"value": "hunter2-no-number", "unit": "kilowatts"}', ["body.value", "body.unit"]),
        ('{"unit": "kW"}', ["body.value"]),
        ("[1]", ["body"]),
        ('{"value": 1', ["body.11"]),
        ("", ["body"]),
    ],
)
async def test_a_malformed_body_names_the_fields_and_not_what_was_in_them(
    world: World, body: str, fields: list[str]
) -> None:
    async with world.client() as client:
        answer = await client.post("/readings", content=body, headers={"content-type": "application/json"})
    found = detail_of(answer)
    assert (answer.status_code, found["code"]) == (422, "malformed")
    assert [place["field"] for place in found["facts"]["problems"]] == fields
    assert all(field in found["detail"] and field in found["detail_zh"] for field in fields)
    assert "hunter2" not in answer.text


# -- bodies ---------------------------------------------------------------------------------------


async def chunks(total: int) -> AsyncIterator[bytes]:
    for _ in range(total // 100):
        yield b"x" * 100


@pytest.mark.parametrize("path", ["/readings", "/files", "/streams"])
async def test_a_body_larger_than_allowed_is_refused_by_what_it_declares(world: World, path: str) -> None:
    async with world.client() as client:
        answer = await client.post(path, content=b"x" * (LIMIT + 1), headers={"content-type": "application/json"})
    found = detail_of(answer)
    assert (answer.status_code, found["code"]) == (413, "http_413")
    assert f"larger than {LIMIT} bytes" in found["detail"]


@pytest.mark.parametrize("path", ["/readings", "/files", "/streams"])
async def test_a_body_larger_than_allowed_is_refused_when_it_declares_nothing(world: World, path: str) -> None:
    async with world.client() as client:
        answer = await client.post(path, content=chunks(LIMIT + 100), headers={"content-type": "application/json"})
    assert "content-length" not in answer.request.headers
    assert (answer.status_code, detail_of(answer)["code"]) == (413, "http_413")


@pytest.mark.parametrize("path", ["/files", "/streams"])
async def test_a_body_as_large_as_allowed_passes(world: World, path: str) -> None:
    headers = {"content-type": "application/octet-stream"}
    async with world.client() as client:
        for content in (b"x" * LIMIT, chunks(LIMIT)):
            answer = await client.post(path, content=content, headers=headers)
            assert (answer.status_code, answer.json()) == (200, LIMIT)


# -- ids and traces -------------------------------------------------------------------------------


async def test_a_harmless_id_of_the_caller_is_kept(world: World) -> None:
    answer = await world.get("/seen", **{"x-request-id": "Order-7.a:b_c"})
    assert answer.headers.get_list("x-request-id") == ["Order-7.a:b_c"]
    assert world.seen["request_id"] == "Order-7.a:b_c"


@pytest.mark.parametrize(
    "given_id",
    ["", "x" * 65, "a b", 'a"b', "a\\b", "<script>", "a;b", "caf\u00e9", "a\tb", "{{7*7}}", "%0d%0aset-cookie"],
)
async def test_any_other_id_is_replaced(world: World, given_id: str) -> None:
    async with world.client() as client:
        answer = await client.get("/seen", headers=[(b"x-request-id", given_id.encode("latin-1"))])
    (found,) = answer.headers.get_list("x-request-id")
    assert found != given_id
    assert len(found) == 36
    assert world.seen["request_id"] == found


@given(st.binary(max_size=100))
def test_no_header_of_a_stranger_gets_into_the_log_or_the_answer(given_id: bytes) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await Response("ok")(scope, receive, send)

    sent = asyncio.run(call(Envelope(app, service="x", health=started()), headers=[(b"x-request-id", given_id)]))
    (found,) = [value for name, value in sent[0]["headers"] if name == b"x-request-id"]
    assert set(found) <= set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-")
    assert 1 <= len(found) <= 64


async def test_a_trace_goes_on_through_the_service(world: World) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await world.get("/seen", traceparent=parent)
    assert world.seen["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    await world.get("/seen", traceparent="rubbish")
    assert len(world.seen["trace_id"]) == 32
    with span("of the test"):
        await world.get("/seen")
        assert world.seen["trace_id"] == current_trace_id()


async def test_lines_logged_within_a_request_carry_its_id(world: World) -> None:
    seen: list[Any] = []

    @world.app.get("/context")
    async def context() -> None:
        seen.append(dict(current_context()))

    answer = await world.get("/context")
    assert seen == [{"request_id": answer.headers["x-request-id"]}]


# -- metrics --------------------------------------------------------------------------------------


def counted(method: str, status: str) -> float:
    labels = {"service": "alarm", "method": method, "status": status}
    return REGISTRY.get_sample_value("wattring_http_requests_total", labels) or 0.0


async def test_requests_are_counted_by_method_and_status_and_nothing_else(world: World) -> None:
    before = [counted("GET", "404"), counted("GET", "500"), counted("POST", "413"), counted("other", "405")]
    world.raises = RuntimeError("odd")
    async with world.client() as client:
        for number in range(3):
            await client.get(f"/nothing/{number}")
        await client.get("/trouble")
        await client.post("/files", content=b"x" * (LIMIT + 1))
        for method in ("BREW", "PROPFIND", "X" * 50):
            await client.request(method, "/readings")
    after = [counted("GET", "404"), counted("GET", "500"), counted("POST", "413"), counted("other", "405")]
    assert [new - old for new, old in zip(after, before, strict=True)] == [3, 1, 1, 3]
    page = metrics.render().decode()
    assert "BREW" not in page
    assert "/nothing" not in page


async def test_probes_are_not_counted(world: World) -> None:
    before = counted("GET", "200")
    for path in PROBES:
        assert (await world.get_inside(path)).status_code == 200
    assert counted("GET", "200") == before


async def test_the_metrics_page_is_what_prometheus_reads(world: World) -> None:
    answer = await world.get_inside("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "# TYPE wattring_http_request_duration_seconds histogram" in answer.text


# -- probes ---------------------------------------------------------------------------------------


async def test_before_the_start_the_probes_answer_and_the_api_says_why_it_does_not(world: World) -> None:
    world.health.starting = Bilingual("waiting for bus: away", "等待 bus:不可用")
    answer = await world.get("/seen")
    found = detail_of(answer)
    assert (answer.status_code, found["code"], found["detail"], found["detail_zh"]) == (
        503, "starting", "waiting for bus: away", "等待 bus:不可用",
    )  # fmt: skip
    assert answer.headers["retry-after"]
    ready = await world.get_inside("/readyz")
    assert (ready.status_code, ready.json()) == (
        503,
        {
            "service": "alarm",
            "status": "not ready",
            "reasons": {"process": "waiting for bus: away"},
            "reasons_zh": {"process": "等待 bus:不可用"},
        },
    )
    for path in ("/livez", "/version", "/metrics", "/openapi.json"):
        assert (await world.get_inside(path)).status_code == 200
    assert (await world.get("/direct/loads")).status_code == 503
    world.health.always_open = ("/direct/",)
    assert (await world.get("/direct/loads")).json() == "open"
    assert (await world.get("/seen")).status_code == 503


async def test_readiness_and_liveness_over_http(world: World) -> None:
    async def away() -> None:
        raise errors.Unavailable("no broker", message_zh="没有代理")

    assert (await world.get("/readyz")).json()["status"] == "ready"
    world.health.checks = [Check("bus", away)]
    answer = await world.get_inside("/readyz")
    assert (answer.status_code, answer.json()["reasons"]) == (503, {"bus": "no broker"})
    assert (await world.get("/livez")).status_code == 200
    assert (await world.get("/seen")).status_code == 200  # it may well answer what it can

    async def body(_: object) -> None:
        pass

    world.health.beat(Worker("slow", body, max_silence_s=5))
    await world.clock.advance(6)
    answer = await world.get_inside("/livez")
    assert (answer.status_code, answer.json()) == (503, {"status": "stuck", "stuck": ["slow"]})


async def test_strangers_learn_whether_it_lives_and_works_and_nothing_else(world: World) -> None:
    async def away() -> None:
        raise errors.Unavailable("database db.example:5432/secret-name: no answer", message_zh="数据库没有应答")

    async def body(_: object) -> None:
        pass

    world.health.checks = [Check("database", away)]
    world.health.beat(Worker("slow", body, max_silence_s=5))
    await world.clock.advance(6)
    bare = {"service": "alarm", "status": "not ready"}
    for headers in ({}, {"authorization": "Bearer rubbish"}, world.token(["gateway:read"]), world.token([])):
        answer = await world.get("/readyz", **headers)
        assert (answer.status_code, answer.json()) == (503, bare)
        assert (await world.get("/livez", **headers)).json() == {"status": "stuck"}
    assert detail_of(await world.get("/metrics"))["status"] == 401
    assert detail_of(await world.get("/metrics", authorization="Bearer rubbish"))["status"] == 401
    assert detail_of(await world.get("/metrics", **world.token(["gateway:read"])))["status"] == 403


async def test_services_and_monitoring_are_told_all(world: World) -> None:
    assert (await world.get("/readyz", **world.token(["alarm:read"]))).json()["reasons"] == {}
    assert (await world.get("/metrics", **world.token(["alarm:read"]))).status_code == 200
    assert (await world.get_inside("/seen")).status_code == 200
    for path in PROBES:
        assert (await world.get_inside(path, probes_only=True)).status_code == 200
    answer = await world.get_inside("/seen", probes_only=True)
    assert (answer.status_code, answer.json()["code"]) == (404, "http_404")


async def test_the_version_is_that_of_the_installed_distribution(world: World) -> None:
    assert (await world.get("/version")).json() == {"service": "alarm", "version": build_version("common")}
    assert build_version("no-such-service") == build_version("common") != "0.0.0"


async def test_the_description_names_the_problem_for_every_refusal(world: World) -> None:
    description = (await world.get("/openapi.json")).json()
    responses = description["paths"]["/readings"]["post"]["responses"]
    for status in ("400", "401", "403", "404", "409", "413", "422", "503"):
        schema = responses[status]["content"]["application/problem+json"]["schema"]
        assert schema == {"$ref": "#/components/schemas/ProblemDetail"}
    assert "HTTPValidationError" not in description["components"]["schemas"]


# -- who asks -------------------------------------------------------------------------------------


async def test_only_who_may_gets_in(world: World) -> None:
    keys = world.keys
    token = keys.sign_token("gateway", audience="alarm", subject="wang", kind="user", scopes=["alarm:read"])
    assert (await world.get("/who", authorization=f"Bearer {token}")).json() == "user:wang"
    assert (await world.get("/who", authorization=f"bearer {token}")).json() == "user:wang"
    for header in ("", "Bearer", "Bearer ", f"Basic {token}", token, "Bearer rubbish", f"Bearer {token}x"):
        answer = await world.get("/who", authorization=header)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), header
        detail_of(answer)
    assert (await world.get("/who")).status_code == 401
    elsewhere = keys.sign_token("gateway", audience="control", subject="wang", kind="user", scopes=["*:*"])
    assert (await world.get("/who", authorization=f"Bearer {elsewhere}")).status_code == 401
    weak = keys.sign_token("gateway", audience="alarm", subject="wang", kind="user", scopes=["carbon:read"])
    answer = await world.get("/who", authorization=f"Bearer {weak}")
    assert (answer.status_code, detail_of(answer)["detail"]) == (403, "wang lacks the right alarm:read")
    await world.clock.advance(3600)
    assert (await world.get("/who", authorization=f"Bearer {token}")).status_code == 401


# -- the middleware alone: streams, drains, clients that go away -----------------------------------


def started() -> Health:
    health = Health(FakeClock())
    health.starting = None
    return health


async def call(
    app: Any, *, headers: list[tuple[bytes, bytes]] | None = None, sent: list[MutableMapping[str, Any]] | None = None
) -> list[MutableMapping[str, Any]]:
    """Call an ASGI application once and return what it sent."""
    found = [] if sent is None else sent
    scope = {"type": "http", "method": "GET", "path": "/x", "headers": headers or [], "query_string": b""}

    asked = False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if asked:
            await asyncio.Event().wait()  # the client stays
        asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        found.append(message)

    await app(scope, receive, send)
    return found


async def endless() -> AsyncIterator[bytes]:
    yield b"data: first\n\n"
    await asyncio.Event().wait()


async def test_a_stream_passes_chunk_by_chunk_and_ends_with_the_drain() -> None:
    health, sent = started(), list[MutableMapping[str, Any]]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await StreamingResponse(endless(), media_type="text/event-stream")(scope, receive, send)

    task = asyncio.create_task(call(Envelope(app, service="x", health=health), sent=sent))
    await settle()
    assert [message.get("body") for message in sent] == [None, b"data: first\n\n"]
    assert health.streams == {task}
    health.drain()
    await task
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    assert health.streams == set()
    assert not task.cancelled()


async def test_a_stream_that_begins_while_draining_ends_at_once() -> None:
    health = started()
    health.drain()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await StreamingResponse(endless(), media_type="text/event-stream")(scope, receive, send)

    sent = await asyncio.create_task(call(Envelope(app, service="x", health=health)))
    assert sent[0]["status"] == 200
    assert sent[-1]["more_body"] is False


async def test_a_request_that_the_drain_cuts_short_is_told_so() -> None:
    health, sent = started(), list[MutableMapping[str, Any]]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(call(Envelope(app, service="x", health=health), sent=sent))
    await settle()
    health.drain()
    await settle()
    assert not task.done()  # only live streams are ended at once; others have their time
    task.cancel()  # as the server does when that time is over
    await task
    assert sent[0]["status"] == 503
    assert orjson.loads(sent[1]["body"])["code"] == "draining"


async def test_half_a_document_does_not_end_like_a_whole_one() -> None:
    health = started()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await StreamingResponse(endless(), media_type="text/csv")(scope, receive, send)

    task = asyncio.create_task(call(Envelope(app, service="x", health=health)))
    await settle()
    health.drain()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_that_is_no_drain_passes() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(call(Envelope(app, service="x", health=started())))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_client_that_went_away_is_no_error_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ClientDisconnect

    before = REGISTRY.get_sample_value(
        "wattring_http_requests_total", {"service": "gone", "method": "GET", "status": "499"}
    )
    assert await call(Envelope(app, service="gone", health=started())) == []
    after = REGISTRY.get_sample_value(
        "wattring_http_requests_total", {"service": "gone", "method": "GET", "status": "499"}
    )
    assert (before, after) == (None, 1.0)
    assert not caplog.records


async def test_an_error_after_the_answer_began_is_logged_and_not_answered_twice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"a,b\n"
        raise RuntimeError("odd")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await StreamingResponse(broken())(scope, receive, send)

    sent = await call(Envelope(app, service="x", health=started()))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert [record.getMessage() for record in caplog.records] == ["unexpected error in a request"]


async def test_what_is_no_request_passes_untouched() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    scope = {"type": "lifespan"}
    await Envelope(app, service="x", health=Health(FakeClock()))(scope, None, None)  # type: ignore[arg-type]  # unused
    assert seen == [scope]


async def test_a_problem_can_be_made_by_hand() -> None:
    answer = problem(422, code="reused", title="Reused", detail="again", detail_zh="重复", key="k")
    assert orjson.loads(bytes(answer.body)) == {
        "type": "about:blank", "title": "Reused", "status": 422, "detail": "again", "detail_zh": "重复",
        "code": "reused", "facts": {"key": "k"},
    }  # fmt: skip
