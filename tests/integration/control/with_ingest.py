"""A real ingest and a real control, each behind its own socket, on one database and one bus."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from libs.common.bus import open_bus
from libs.common.client import NO_TLS
from libs.common.clock import SystemClock
from libs.common.runtime import Listener, Platform, serve
from libs.common.tokens import KeyRing
from services.alarm.main import build as build_alarm
from services.control.main import build
from tests.integration.ingest.conftest import RunningIngest, quick, running, until

CONTROL: Mapping[str, str] = {
    "CLOCK_SYNC": "assumed", "WATCHDOG": "absent", "MIN_OFF_S": "1", "MIN_ON_S": "0", "TICK_S": "0.1",
    "SETTLE_S": "0.2",
}  # fmt: skip


@dataclass
class Both:
    """The two services, and a person who may do everything."""

    ingest: RunningIngest
    platform: Platform
    http: httpx.AsyncClient
    """To control."""

    def headers(self, who: str = "duty", **claims: Any) -> dict[str, str]:
        token = self.platform.keys.sign_token(
            "gateway", audience="control", subject=who, kind="user", scopes=("control:*",), **claims
        )
        return {"authorization": f"Bearer {token}"}

    async def call(self, method: str, path: str, body: Any = None, **params: str) -> httpx.Response:
        return await self.http.request(method, f"/api/v1/{path}", json=body, params=params, headers=self.headers())

    async def alarms(self, **params: str) -> list[dict[str, Any]]:
        """Return what alarm lists."""
        token = self.platform.keys.sign_token("gateway", audience="alarm", subject="duty", kind="user", scopes=("*:*",))
        transport = httpx.AsyncHTTPTransport(uds=f"{self.platform.settings.data_dir}/alarm.sock", verify=NO_TLS)
        async with httpx.AsyncClient(transport=transport, base_url="http://alarm", timeout=60) as client:
            headers = {"authorization": f"Bearer {token}"}
            answer = await client.get("/api/v1/alarms", params=params, headers=headers)
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    async def get(self, path: str, **params: str) -> Any:
        response = await self.call("GET", path, **params)
        assert response.status_code == 200, response.text
        return response.json()


@asynccontextmanager
async def both(
    postgres_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *, alarm: bool = False
) -> AsyncIterator[Both]:
    """Run ingest and control until the block ends, and alarm beside them if it is asked for."""
    quick(monkeypatch)
    # Nobody takes lines over here, and on a slow machine a short lease is often too old for an OFF.
    monkeypatch.setenv("WATTRING_INGEST__POLLING__LEASE_S", "30")
    for name, value in CONTROL.items():
        monkeypatch.setenv(f"WATTRING_CONTROL__{name}", value)
    async with running(postgres_url, folder) as ingest:
        settings = ingest.platform.settings.model_copy(
            update={"service_urls": {"ingest": f"unix:{folder}/ingest-0.sock"}, "instance": "control"}
        )
        clock = SystemClock()
        keys = KeyRing.open(settings.effective_keys_dir, clock)
        platform = Platform(settings, clock, open_bus(settings, clock), keys)
        services = [build(platform), *([build_alarm(platform)] if alarm else [])]
        places = [Listener(service.app, uds=folder / f"{service.name}.sock") for service in services]
        place = places[0]
        stop = asyncio.Event()
        task = asyncio.create_task(serve(services, platform, stop, places), name="control")
        transport = httpx.AsyncHTTPTransport(uds=str(place.uds), verify=NO_TLS)
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://control", timeout=60) as http:

                async def ready() -> bool:
                    if task.done():
                        task.result()
                    try:
                        return (await http.get("/readyz")).status_code == 200
                    except httpx.HTTPError:
                        return False

                await until(ready, "control ready")
                yield Both(ingest, platform, http)
        finally:
            stop.set()
            await task
