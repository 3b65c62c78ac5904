"""The gateway over real sockets and a real database, with a service behind it that says what it was told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import httpx
import pytest
from fastapi import Depends, Request
from pydantic import SecretStr

from libs.common.bus import topics
from libs.common.bus.pglog import PgLogBus
from libs.common.client import NO_TLS
from libs.common.clock import SystemClock
from libs.common.runtime import Health, Listener, Platform, Service, serve
from libs.common.settings import BusSettings, CommonSettings, DatabaseSettings
from libs.common.tokens import KeyRing, Principal
from libs.common.web import create_app, require
from services.gateway.main import build

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

PASSWORD = "a first password"


def echo_service(platform: Platform) -> Service:
    """A service named alarm that answers with what it sees of a request."""
    health = Health(platform.clock)
    app = create_app("alarm", platform, health, title="Echo")

    @app.get("/api/v1/alarms")
    async def alarms(
        request: Request,
        who: Annotated[Principal, Depends(require("alarm:read"))],
        site: str | None = None,
        level: int | None = None,
    ) -> dict[str, object]:
        return {
            "subject": who.actor,
            "scopes": sorted(who.scopes),
            "sites": who.sites,
            "cookie": request.headers.get("cookie"),
            "query": str(request.query_params),
        }

    @app.post("/api/v1/alarms")
    async def change(request: Request, _: Annotated[Principal, Depends(require("alarm:write"))]) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    return Service(name="alarm", app=app, health=health)


@asynccontextmanager
async def gateway(postgres_url: str, folder: Path) -> AsyncIterator[tuple[httpx.AsyncClient, Platform]]:
    clock = SystemClock()
    KeyRing.create(folder / "keys")
    settings = CommonSettings(
        data_dir=folder,
        drain_s=2.0,
        database=DatabaseSettings(url=SecretStr(postgres_url)),
        service_urls={
            name: f"unix:{folder}/{name}.sock" for name in ("ingest", "alarm", "control", "carbon", "export")
        },
    )
    bus = PgLogBus(settings.database, settings.bus, clock)
    platform = Platform(settings, clock, bus, KeyRing.open(folder / "keys", clock))
    setting_up = PgLogBus(settings.database, settings.bus, clock)
    await setting_up.start()
    await setting_up.ensure_topics(topics.specs(BusSettings()))
    await setting_up.stop()
    services = [build(platform), echo_service(platform)]
    places = [
        Listener(services[0].app, uds=folder / "gateway.sock"),
        Listener(services[1].app, uds=folder / "alarm.sock"),
    ]
    stop = asyncio.Event()
    running = asyncio.create_task(serve(services, platform, stop, places))
    transport = httpx.AsyncHTTPTransport(uds=str(folder / "gateway.sock"), verify=NO_TLS)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            async with asyncio.timeout(30):
                while True:
                    try:
                        if (await client.get("/readyz")).status_code == 200:
                            break
                    except httpx.HTTPError:
                        assert not running.done(), running.exception()
                    await asyncio.sleep(0.05)
            yield client, platform
    finally:
        stop.set()
        await running


@pytest.fixture
async def door(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[httpx.AsyncClient, Platform]]:
    monkeypatch.setenv("WATTRING_GATEWAY__FIRST_PASSWORD", PASSWORD)
    async with gateway(postgres_url, tmp_path) as opened:
        yield opened


async def sign_in(client: httpx.AsyncClient, name: str = "admin", password: str = PASSWORD) -> httpx.Response:
    return await client.post("/api/v1/auth/sign-in", json={"name": name, "password": password})


async def test_nothing_is_open_without_credentials(door: tuple[httpx.AsyncClient, Platform]) -> None:
    client, _ = door
    for path in ("auth/me", "users", "alarms", "live", "readiness", "plans"):
        answer = await client.get(f"/api/v1/{path}")
        assert answer.status_code == 401, path
        assert answer.headers["content-type"] == "application/problem+json"


async def test_a_session_opens_the_services_and_its_cookie_goes_no_further(
    door: tuple[httpx.AsyncClient, Platform],
) -> None:
    client, _ = door
    answer = await sign_in(client)
    assert answer.status_code == 200
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    seen = (await client.get("/api/v1/alarms?site=a&level=1")).json()
    assert seen == {
        "subject": "user:admin",
        "scopes": ["*:*"],
        "sites": None,
        "cookie": None,
        "query": "site=a&level=1",
    }
    assert (await client.post("/api/v1/auth/sign-out")).status_code == 204
    assert (await client.get("/api/v1/alarms")).status_code == 401


async def test_wrong_passwords_are_refused_alike_and_then_throttled(door: tuple[httpx.AsyncClient, Platform]) -> None:
    client, _ = door
    unknown = await sign_in(client, "nobody", "not the password")
    wrong = [await sign_in(client, "admin", "not the password") for _ in range(5)]
    assert {answer.status_code for answer in [unknown, *wrong]} == {401}
    assert unknown.json()["detail"] == wrong[0].json()["detail"]
    throttled = await sign_in(client)
    assert throttled.status_code == 403
    assert throttled.json()["code"] == "too_many_attempts"
    assert "分钟" in throttled.json()["detail_zh"]


async def test_pages_of_other_sites_change_nothing(door: tuple[httpx.AsyncClient, Platform]) -> None:
    client, _ = door
    await sign_in(client)
    strange = {"origin": "http://evil.example"}
    assert (await client.post("/api/v1/alarms", headers=strange)).status_code == 403
    assert (await client.post("/api/v1/alarms", headers={"origin": "http://gateway"})).status_code == 200


async def test_a_viewer_reads_and_changes_nothing(door: tuple[httpx.AsyncClient, Platform]) -> None:
    client, _ = door
    await sign_in(client)
    body = {"name": "watcher", "password": "long enough to pass", "roles": ["viewer"], "sites": ["site-1"]}
    assert (await client.post("/api/v1/users", json=body)).status_code == 201
    assert (await client.post("/api/v1/users", json=body)).status_code == 409
    await sign_in(client, "watcher", "long enough to pass")
    seen = (await client.get("/api/v1/alarms")).json()
    assert (seen["scopes"], seen["sites"]) == (["alarm:read"], ["site-1"])
    refused = await client.post("/api/v1/alarms")
    assert refused.status_code == 403
    assert (await client.get("/api/v1/users")).status_code == 403


async def test_the_last_administrator_stays_one(door: tuple[httpx.AsyncClient, Platform]) -> None:
    client, _ = door
    await sign_in(client)
    answer = await client.put("/api/v1/users/admin", json={"roles": ["viewer"]})
    assert answer.status_code == 400
    assert answer.json()["detail"] == "the last administrator stays one"


async def test_an_api_key_works_until_it_is_revoked(door: tuple[httpx.AsyncClient, Platform]) -> None:
    client, _ = door
    await sign_in(client)
    wrong = await client.post("/api/v1/api-keys", json={"name": "app", "scopes": ["alarm:everything"]})
    assert wrong.status_code == 400
    created = (await client.post("/api/v1/api-keys", json={"name": "app", "scopes": ["alarm:read"]})).json()
    client.cookies.clear()
    bearer = {"authorization": f"Bearer {created['secret']}"}
    assert (await client.get("/api/v1/alarms", headers=bearer)).json()["subject"] == f"key:{created['key_id']}"
    assert (await client.post("/api/v1/alarms", headers=bearer)).status_code == 403
    forged = {"authorization": f"Bearer {created['secret'][:-2]}xx"}
    assert (await client.get("/api/v1/alarms", headers=forged)).status_code == 401
    await sign_in(client)
    listed = (await client.get("/api/v1/api-keys")).text
    assert created["secret"] not in listed
    assert (await client.delete(f"/api/v1/api-keys/{created['key_id']}")).status_code == 204
    client.cookies.clear()
    assert (await client.get("/api/v1/alarms", headers=bearer)).status_code == 401


async def test_a_service_that_is_away_is_said_to_be(door: tuple[httpx.AsyncClient, Platform]) -> None:
    client, _ = door
    await sign_in(client)
    answer = await client.get("/api/v1/plans")
    assert answer.status_code == 503
    assert answer.json()["detail"].startswith("control does not answer")
    readiness = (await client.get("/api/v1/readiness")).json()
    assert readiness["gateway"] == {}
    assert readiness["alarm"] == {}
    assert "process" in readiness["control"]


async def test_unknown_paths_are_not_passed_on(door: tuple[httpx.AsyncClient, Platform]) -> None:
    client, _ = door
    await sign_in(client)
    for path in (
        "nothing-like-this",
        "alarms/",
        "alarms/%2e%2e/%2e%2e/%2e%2e/metrics",
        "alarms/..%2f..%2f..%2fmetrics",
        "alarms/a%00b",
    ):
        answer = await client.get(httpx.URL("http://gateway", raw_path=f"/api/v1/{path}".encode()))
        assert answer.status_code == 404, path
        assert answer.headers["content-type"] == "application/problem+json"


async def test_a_parameter_that_there_is_not_is_refused_where_it_would_change_the_answer(
    door: tuple[httpx.AsyncClient, Platform],
) -> None:
    client, _ = door
    await sign_in(client)
    for path in ("alarms?sites=a", "audit?actr=x"):
        answer = await client.get(f"/api/v1/{path}")
        assert answer.status_code == 422, path
        assert "there is no such parameter" in answer.json()["detail"]
        assert "没有这个参数" in answer.json()["detail_zh"]
    assert (await client.get("/api/v1/users?site=a")).json()["detail"] == "query.site: expected no parameter"


NOT_OURS = (
    "nonsense", "~", "2026-01-01T00:00:00~x", "2026-01-01T00:00:00+00:00~", "0001-01-01T00:00:00+14:00~x",
    "0001-01-01T00:00:00+00:00~x", "9999-12-31T23:59:59+00:00~x", "2026-01-01T00:00:00+00:00~a\x00b", "x" * 5000,
)  # fmt: skip


async def test_a_cursor_that_is_not_ours_is_refused(door: tuple[httpx.AsyncClient, Platform]) -> None:
    client, _ = door
    await sign_in(client)
    for cursor in NOT_OURS:
        answer = await client.get("/api/v1/audit", params={"cursor": cursor})
        assert answer.status_code == 400, (cursor, answer.text)
        assert answer.json()["detail"] == "cursor: expected next_cursor of the page before"


async def test_what_is_done_to_accounts_is_in_the_audit_log(door: tuple[httpx.AsyncClient, Platform]) -> None:
    client, _ = door
    await sign_in(client)
    await client.post("/api/v1/api-keys", json={"name": "app", "scopes": ["alarm:read"]})
    async with asyncio.timeout(20):
        while True:
            items = (await client.get("/api/v1/audit")).json()["items"]
            if {"user.create", "session.begin", "api_key.create"} <= {item["action"] for item in items}:
                break
            await asyncio.sleep(0.05)
    first = (await client.get("/api/v1/audit?limit=1")).json()
    second = (await client.get("/api/v1/audit", params={"limit": 1, "cursor": first["next_cursor"]})).json()
    assert first["items"][0]["entry_id"] != second["items"][0]["entry_id"]


async def test_one_description_of_all_services(door: tuple[httpx.AsyncClient, Platform]) -> None:
    client, _ = door
    description = (await client.get("/api/openapi.json")).json()
    assert {"/api/v1/alarms", "/api/v1/auth/sign-in", "/api/v1/users"} <= description["paths"].keys()
    assert 'href="/docs/alarm"' in (await client.get("/docs")).text
    page = await client.get("/docs/alarm")
    assert "swagger-ui" in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    assert (await client.get("/swagger/swagger-ui-bundle.js")).status_code == 200


async def test_a_service_has_a_description_of_its_own(door: tuple[httpx.AsyncClient, Platform]) -> None:
    client, _ = door
    alarm = (await client.get("/api/openapi/alarm.json")).json()
    assert alarm["paths"].keys() == {"/api/v1/alarms"}
    assert "/api/v1/users" in (await client.get("/api/openapi/gateway.json")).json()["paths"]
    away = await client.get("/api/openapi/carbon.json")
    assert (away.status_code, away.json()["detail_zh"]) == (503, "服务 carbon 没有应答")
    for path in ("/docs/nobody", "/api/openapi/nobody.json"):
        unknown = await client.get(path)
        assert unknown.status_code == 404
        assert "there are gateway, ingest" in unknown.json()["detail"]


async def test_live_push_arrives(door: tuple[httpx.AsyncClient, Platform]) -> None:
    client, platform = door
    await sign_in(client)
    from libs.common.bus.port import Message

    async with client.stream("GET", "/api/v1/live") as stream:
        lines = stream.aiter_lines()
        assert await anext(lines) == "retry: 2000"
        message = Message(topic=topics.ALARM_EVENTS, key="site-1", value=b'{"alarm_id":"a1"}')
        await platform.bus.publish([message], timeout_s=5.0)
        async with asyncio.timeout(20):
            found = [line async for line in take(lines, 3)]
    assert found[-2:] == ["event: alarm.events", 'data: {"alarm_id":"a1"}']


async def take(lines: AsyncIterator[str], count: int) -> AsyncIterator[str]:
    for _ in range(count):
        yield await anext(lines)


async def test_no_user_without_a_first_password(postgres_url: str, tmp_path: Path) -> None:
    async with gateway(postgres_url, tmp_path) as (client, _):
        assert (await sign_in(client, "admin", "admin")).status_code == 401
