"""The door for pushes, through the gateway's own HTTP with a service behind it that says what it was told."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated

import httpx
import pytest
from fastapi import Depends, Request, Response
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

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

TOKEN = "a-token-of-thirty-two-characters"
PATH = f"/push/aep/line-1/{TOKEN}"


def echo_ingest(platform: Platform) -> Service:
    """A service named ingest that answers with what it sees of a push."""
    health = Health(platform.clock)
    app = create_app("ingest", platform, health, title="Echo")

    @app.post("/push/aep/{line}/{token}")
    async def push(
        request: Request, who: Annotated[Principal, Depends(require("ingest:push"))], line: str, token: str
    ) -> dict[str, object]:
        headers = sorted(name for name in request.headers if name in ("cookie", "x-forwarded-for", "signature"))
        size = len(await request.body())
        return {"from": who.subject, "scopes": sorted(who.scopes), "path": [line, token], "bytes": size,
                "headers": headers}  # fmt: skip

    @app.post("/push/slow/{line}/{token}")
    async def slow(line: str, token: str) -> Response:
        await asyncio.sleep(0.5)
        return Response(status_code=503)

    return Service(name="ingest", app=app, health=health)


@asynccontextmanager
async def gateway(postgres_url: str, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    clock = SystemClock()
    KeyRing.create(folder / "keys")
    names = ("ingest", "alarm", "control", "carbon", "export")
    settings = CommonSettings(
        data_dir=folder,
        drain_s=2.0,
        database=DatabaseSettings(url=SecretStr(postgres_url)),
        service_urls={name: f"unix:{folder}/{name}.sock" for name in names},
    )
    bus = PgLogBus(settings.database, settings.bus, clock)
    platform = Platform(settings, clock, bus, KeyRing.open(folder / "keys", clock))
    setting_up = PgLogBus(settings.database, settings.bus, clock)
    await setting_up.start()
    await setting_up.ensure_topics(topics.specs(BusSettings()))
    await setting_up.stop()
    services = [build(platform), echo_ingest(platform)]
    places = [
        Listener(services[0].app, host="127.0.0.1", port=0),
        Listener(services[0].app, uds=folder / "gateway.sock"),
        Listener(services[1].app, uds=folder / "ingest.sock"),
    ]
    stop = asyncio.Event()
    running = asyncio.create_task(serve(services, platform, stop, places))
    try:
        transport = httpx.AsyncHTTPTransport(uds=str(folder / "gateway.sock"), verify=NO_TLS)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", timeout=20) as client:
            async with asyncio.timeout(30):
                while True:
                    try:
                        if (await client.get("/readyz")).status_code == 200:
                            break
                    except httpx.HTTPError:
                        assert not running.done(), running.exception()
                    await asyncio.sleep(0.05)
            yield client
    finally:
        stop.set()
        await running


Opened = Callable[..., "asyncio.Future[httpx.AsyncClient]"]


@pytest.fixture
async def opened(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Opened]:
    """Opens the gateway with settings of the door."""
    async with AsyncExitStack() as stack:

        async def start(**settings: str) -> httpx.AsyncClient:
            for name, value in settings.items():
                monkeypatch.setenv(f"WATTRING_GATEWAY__PUSH__{name.upper()}", value)
            return await stack.enter_async_context(gateway(postgres_url, tmp_path))

        yield start  # type: ignore[misc]


async def test_the_door_is_closed_unless_it_is_opened(opened: Opened) -> None:
    client = await opened()
    assert (await client.post(PATH, content=b"{}")).status_code == 404


async def test_a_push_goes_through_without_an_account_and_with_the_address_it_came_from(
    opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        client = await opened(enabled="true")
        answer = await client.post(PATH, content=b"[1]", headers={"cookie": "a=b", "signature": "s"})
        assert answer.status_code == 200
        assert answer.json() == {
            "from": "local", "scopes": ["ingest:push"], "path": ["line-1", TOKEN], "bytes": 3, "headers": ["signature"],
        }  # fmt: skip
        for path in (f"/push/aep/line-1/{TOKEN}/a/b", "/push/aep/li%6Ee/..", "/push//x", "/push/aep/a%2Fb/c", "/push/"):
            assert (await client.post(path, content=b"{}")).status_code == 404, path
        assert (await client.get(PATH)).status_code in (404, 405)
        assert (await client.post("/api/v1/push/aep/line-1/x")).status_code == 401
    ours = [record for record in caplog.records if record.name.startswith(("libs.", "services."))]
    assert ours
    assert TOKEN not in "".join(f"{record.getMessage()} {vars(record)}" for record in ours)


async def test_what_comes_is_bounded_in_size_time_and_number(opened: Opened) -> None:
    client = await opened(enabled="true", body_max_bytes="1024", body_within_s="0.3", at_once_max="1")
    assert (await client.post(PATH, content=b"x" * 1024)).status_code == 200
    answer = await client.post(PATH, content=b"x" * 1025)
    assert (answer.status_code, "larger than 1024 bytes" in answer.json()["detail"]) == (400, True)

    async def drip() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b"x"
            await asyncio.sleep(0.2)

    answer = await client.post(PATH, content=drip())
    assert (answer.status_code, "too slowly" in answer.json()["detail"]) == (400, True)
    two = await asyncio.gather(*(client.post("/push/slow/line-1/x", content=b"{}") for _ in range(2)))
    details = sorted("too many" in each.text for each in two)
    assert ([each.status_code for each in two], details) == ([503, 503], [False, True])
