"""Control as a service over real sockets, the bus in PostgreSQL, the watchdog as a process, a field that answers."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from libs.common.bus import topics
from libs.common.bus.pglog import PgLogBus
from libs.common.client import NO_TLS
from libs.common.clock import SystemClock
from libs.common.runtime import Listener, Platform, serve
from libs.common.settings import BusSettings, CommonSettings, DatabaseSettings
from libs.common.tokens import KeyRing
from services.control import worker
from services.control.main import build
from tests.integration.control.fake_ingest import FakeBreaker, FakeField, build_ingest, until

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

LOADS = ("aau-1", "aau-2", "aau-3", "hospital")


@dataclass
class Installation:
    client: httpx.AsyncClient
    platform: Platform
    field: FakeField
    folder: Path
    urls: dict[str, str]

    def headers(self, scopes: tuple[str, ...] = ("control:*",), who: str = "duty", **extra: str) -> dict[str, str]:
        token = self.platform.keys.sign_token("gateway", audience="control", subject=who, kind="user", scopes=scopes)
        return {"authorization": f"Bearer {token}", **extra}

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        return await self.client.request(method, path, json=body, headers=self.headers() | headers, timeout=20)

    async def get(self, path: str) -> Any:
        response = await self.call("GET", path)
        assert response.status_code == 200, response.text
        return response.json()


@asynccontextmanager
async def installation(
    postgres_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *, watchdog: bool, replicas: int = 1
) -> AsyncIterator[Installation]:
    for name, value in {
        "CLOCK_SYNC": "assumed", "MIN_OFF_S": "1", "MIN_ON_S": "0", "TICK_S": "0.1",
        "WATCHDOG": "required" if watchdog else "absent", "MAX_OFFS_PER_DAY": "100", "SETTLE_S": "0.2",
        "ACCEPT_TIMEOUT_S": "2",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"WATTRING_CONTROL__{name}", value)
    clock = SystemClock()
    KeyRing.create(folder / "keys")
    urls = {name: f"unix:{folder}/{name}.sock" for name in ("ingest", "control", "watchdog")}
    settings = CommonSettings(
        data_dir=folder, drain_s=2.0, database=DatabaseSettings(url=SecretStr(postgres_url)), service_urls=urls
    )
    bus = PgLogBus(settings.database, settings.bus, clock)
    platform = Platform(settings, clock, bus, KeyRing.open(folder / "keys", clock))
    setting_up = PgLogBus(settings.database, settings.bus, clock)
    await setting_up.start()
    await setting_up.ensure_topics(topics.specs(BusSettings()))
    await setting_up.stop()
    field = FakeField({load_id: FakeBreaker() for load_id in LOADS})
    others = [
        Platform(settings.model_copy(update={"instance": str(number)}), clock, bus, platform.keys)
        for number in range(1, replicas)
    ]
    services = [build_ingest(platform, field), build(platform), *(build(other) for other in others)]
    places = [Listener(service.app, uds=folder / f"{service.name}.sock") for service in services[:2]]
    stop = asyncio.Event()
    running = asyncio.create_task(serve(services, platform, stop, places))
    transport = httpx.AsyncHTTPTransport(uds=str(folder / "control.sock"), verify=NO_TLS)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://control") as client:
            found = Installation(client, platform, field, folder, urls)

            async def ready() -> bool:
                try:
                    return (await client.get("/readyz")).status_code == 200
                except httpx.HTTPError:
                    return False

            await until(ready, "control is ready")
            await until(lambda: _has_loads(found), "the registry has arrived")
            yield found
    finally:
        stop.set()
        await running


async def _has_loads(found: Installation) -> bool:
    body = {"load_ids": ["aau-1"], "first_date": "2099-01-01", "last_date": "2099-01-01",
            "windows": [{"start": "01:00", "end": "02:00"}]}  # fmt: skip
    return (await found.call("POST", "/api/v1/plans/preview", body)).status_code == 200


@asynccontextmanager
async def watchdog_process(found: Installation, **settings: str) -> AsyncIterator[asyncio.subprocess.Process]:
    environ = {
        "PATH": os.environ["PATH"], "WATTRING_DATA_DIR": str(found.folder),
        "WATTRING_UDS": f"{found.folder}/watchdog.sock",
        "WATTRING_SERVICE_URLS": json.dumps(found.urls), "WATTRING_LOG_FORMAT": "text",
        "WATTRING_WATCHDOG__LOOK_EVERY_S": "0.1", "WATTRING_WATCHDOG__MARGIN_S": "1",
        **{f"WATTRING_WATCHDOG__{name.upper()}": value for name, value in settings.items()},
    }  # fmt: skip
    with (found.folder / "watchdog.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.control.watchdog", env=environ, stderr=log, stdout=log
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(10):
            await process.wait()


def plan_body(found: Installation, *load_ids: str, start_in_s: float, length_s: float) -> dict[str, Any]:
    start = found.platform.clock.now() + timedelta(seconds=start_in_s, hours=8)
    end = start + timedelta(seconds=length_s)
    return {
        "name": "demo", "load_ids": list(load_ids), "first_date": start.date().isoformat(),
        "last_date": start.date().isoformat(),
        "windows": [{"start": start.strftime("%H:%M:%S"), "end": end.strftime("%H:%M:%S")}],
    }  # fmt: skip


async def test_a_plan_by_http_switches_off_and_wakes_with_the_watchdog_knowing_first(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with installation(postgres_url, tmp_path, monkeypatch, watchdog=True) as found:
        drafted = await found.call("POST", "/api/v1/plans", plan_body(found, "aau-1", start_in_s=2, length_s=12))
        assert drafted.status_code == 201, drafted.text
        plan = drafted.json()
        assert plan["state"] == "draft"
        assert plan["preview"]["count"] == 1
        approved = await found.call("POST", f"/api/v1/plans/{plan['plan_id']}/approve")
        assert approved.json()["state"] == "approved"

        # Nothing is switched off while the watchdog does not know of it.
        async def waits_for_watchdog() -> bool:
            items = (await found.get("/api/v1/commands?load=aau-1"))["items"]
            return any(one["reason"] == "watchdog_unreachable" for one in items)

        await until(waits_for_watchdog, "the OFF waits for the watchdog")
        assert found.field.breakers["aau-1"].closed

        async with watchdog_process(found):
            await until(lambda: not found.field.breakers["aau-1"].closed, "off")
            await until(lambda: found.field.breakers["aau-1"].closed, "on again")

            async def awake() -> bool:
                items = (await found.get(f"/api/v1/occurrences?plan={plan['plan_id']}"))["items"]
                return [one["state"] for one in items] == ["awake"]

            await until(awake, "the occurrence is over")
    assert found.field.refused_signatures == 0
    assert found.field.door_requests == []


async def test_the_watchdog_wakes_what_reads_open_without_a_lease(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        installation(postgres_url, tmp_path, monkeypatch, watchdog=True) as found,
        watchdog_process(found),
    ):
        found.field.deaf = True
        found.field.breakers["aau-2"].closed = False
        await until(lambda: found.field.breakers["aau-2"].closed, "woken by the door")
    assert found.field.door_requests[0]["load_id"] == "aau-2"
    assert found.field.door_requests[0]["issuer"] == "watchdog"


async def test_a_hand_at_the_breaker_ends_the_off_in_force(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "LOCAL_LOOK_EVERY_S", 0.3)
    async with installation(postgres_url, tmp_path, monkeypatch, watchdog=False) as found:
        breaker = found.field.breakers["aau-1"]
        restore_at = (found.platform.clock.now() + timedelta(hours=1)).isoformat()
        order = {"action": "open", "load_id": "aau-1", "restore_at": restore_at}
        assert (await found.call("POST", "/api/v1/commands", order)).status_code == 202

        async def commands() -> list[tuple[str, str, str]]:
            items = (await found.get("/api/v1/commands?load=aau-1"))["items"]
            return sorted((one["action"], one["priority"], one["state"]) for one in items)

        async def off() -> bool:
            return ("open", "operator", "succeeded") in await commands()

        await until(off, "proven off")
        breaker.closed = True

        async def over() -> bool:
            return await commands() == [
                ("close", "local", "succeeded"), ("close", "operator", "superseded"), ("open", "operator", "succeeded"),
            ]  # fmt: skip

        await until(over, "the closing is known and the planned wake-up over")


async def test_one_key_goes_by_the_door_when_the_bus_does_not_carry_it(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with installation(postgres_url, tmp_path, monkeypatch, watchdog=False) as found:
        found.field.deaf = True
        found.field.breakers["aau-3"].closed = False
        order = {"scope": "loads", "load_ids": ["aau-3"], "reason": "storm"}
        answer = (await found.call("POST", "/api/v1/wake-ups", order)).json()
        await until(lambda: found.field.breakers["aau-3"].closed, "woken by the door")

        async def done() -> bool:
            return bool((await found.get(f"/api/v1/wake-ups/{answer['wake_up_id']}"))["state"] == "done")

        await until(done, "seen by a look")
        assert found.field.door_requests[0]["issuer"] == "control"
        assert found.field.door_requests[0]["load_id"] == "aau-3"
