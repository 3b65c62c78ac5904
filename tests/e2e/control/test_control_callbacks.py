"""The embedded shape, control and export in one process on the bus in PostgreSQL: an app's orders are answered by call.

The receiver is a real HTTP server, the signature is checked by the receivers' library and by hand.
"""

import asyncio
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
from services.control.main import build as build_control
from services.export.main import build as build_export
from tests.integration.control.fake_ingest import FakeBreaker, FakeField, build_ingest, until
from tests.peers.callback_receiver import Call, Receiver, receiver

pytestmark = [pytest.mark.e2e, pytest.mark.integration, pytest.mark.postgres, pytest.mark.timeout(240)]

SETTINGS = {
    "WATTRING_CONTROL__CLOCK_SYNC": "assumed", "WATTRING_CONTROL__WATCHDOG": "absent",
    "WATTRING_CONTROL__MIN_OFF_S": "1", "WATTRING_CONTROL__MIN_ON_S": "0", "WATTRING_CONTROL__TICK_S": "0.1",
    "WATTRING_CONTROL__SETTLE_S": "0.2", "WATTRING_CONTROL__ACCEPT_TIMEOUT_S": "2",
    "WATTRING_CONTROL__OVERDUE_MARGIN_S": "1", "WATTRING_EXPORT__UNIT_PORT": "0", "WATTRING_EXPORT__POLL_S": "0.1",
    "WATTRING_EXPORT__CALLBACKS__ALLOWED": '["127.0.0.1"]',
}  # fmt: skip


@dataclass
class Suite:
    """Two services, a field, and an app with an API key."""

    folder: Path
    platform: Platform
    field: FakeField

    async def call(self, service: str, method: str, path: str, body: Any = None) -> Any:
        token = self.platform.keys.sign_token(
            "gateway", audience=service, subject="app", kind="key", scopes=["control:*", "export:read", "export:write"]
        )
        transport = httpx.AsyncHTTPTransport(uds=str(self.folder / f"{service}.sock"), verify=NO_TLS)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{service}", timeout=30) as client:
            answer = await client.request(method, path, json=body, headers={"authorization": f"Bearer {token}"})
        assert answer.is_success, answer.text
        return answer.json()

    async def plan(self, load_id: str, *, start_in_s: float, length_s: float) -> str:
        start = self.platform.clock.now() + timedelta(seconds=start_in_s, hours=8)
        end = start + timedelta(seconds=length_s)
        body = {
            "name": "night", "load_ids": [load_id], "first_date": start.date().isoformat(),
            "last_date": start.date().isoformat(),
            "windows": [{"start": start.strftime("%H:%M:%S"), "end": end.strftime("%H:%M:%S")}],
        }  # fmt: skip
        plan = await self.call("control", "POST", "/api/v1/plans", body)
        await self.call("control", "POST", f"/api/v1/plans/{plan['plan_id']}/approve")
        return str(plan["plan_id"])

    async def is_ready(self) -> bool:
        body = {"load_ids": ["aau-1"], "first_date": "2099-01-01", "last_date": "2099-01-01",
                "windows": [{"start": "01:00", "end": "02:00"}]}  # fmt: skip
        try:
            await self.call("control", "POST", "/api/v1/plans/preview", body)
            await self.call("export", "GET", "/readyz")
        except (httpx.HTTPError, AssertionError):
            return False
        return True


@asynccontextmanager
async def suite(url: str, folder: Path) -> AsyncIterator[Suite]:
    clock = SystemClock()
    KeyRing.create(folder / "keys")
    urls = {name: f"unix:{folder}/{name}.sock" for name in ("ingest", "control", "export")}
    settings = CommonSettings(
        data_dir=folder, drain_s=2.0, database=DatabaseSettings(url=SecretStr(url)), service_urls=urls
    )
    bus = PgLogBus(settings.database, settings.bus, clock)
    platform = Platform(settings, clock, bus, KeyRing.open(folder / "keys", clock))
    setting_up = PgLogBus(settings.database, settings.bus, clock)
    await setting_up.start()
    await setting_up.ensure_topics(topics.specs(BusSettings()))
    await setting_up.stop()
    field = FakeField({load: FakeBreaker() for load in ("aau-1", "aau-2", "aau-3")})
    services = [build_ingest(platform, field), build_control(platform), build_export(platform)]
    stop = asyncio.Event()
    places = [Listener(service.app, uds=folder / f"{service.name}.sock") for service in services]
    running = asyncio.create_task(serve(services, platform, stop, places))
    try:
        found = Suite(folder, platform, field)
        await until(found.is_ready, "the suite is ready", timeout_s=60)
        yield found
    finally:
        stop.set()
        await running


def of(app: Receiver, subject: str, ce_type: str) -> list[Call]:
    return [call for call in app.accepted if (call.event["subject"], call.event["type"]) == (subject, ce_type)]


async def test_results_and_a_late_wake_up_reach_the_app_signed(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    async with suite(postgres_url, tmp_path) as found, receiver() as app:
        body = {"name": "app", "url": app.url, "types": ["command.result", "occurrence.overdue", "occurrence.result"]}
        secret = (await found.call("export", "POST", "/api/v1/callbacks", body))["secret"]

        restore_at = (found.platform.clock.now() + timedelta(hours=1)).isoformat()
        order = {"action": "open", "load_id": "aau-1", "restore_at": restore_at, "reason": "app"}
        await found.call("control", "POST", "/api/v1/commands", order)
        await app.until(lambda: bool(of(app, "load/aau-1", "wattring.command.result.v1")))
        (switched,) = of(app, "load/aau-1", "wattring.command.result.v1")
        assert (switched.data["state"], switched.data["action"], switched.data["actor"]) == (
            "succeeded", "open", "key:app",
        )  # fmt: skip
        assert switched.data["evidence"]["feedback_value"] == 0.0

        plan_id = await found.plan("aau-2", start_in_s=4, length_s=4)
        breaker = found.field.breakers["aau-2"]
        await until(lambda: not breaker.closed, "off by plan", timeout_s=60)
        found.field.deaf = True
        # Nobody hears commands any more: the plan's wake-up is late, and an order to switch off comes to nothing.
        await found.call("control", "POST", "/api/v1/commands", {**order, "load_id": "aau-3"})
        await app.until(lambda: bool(of(app, "load/aau-2", "wattring.occurrence.overdue.v1")))
        await app.until(lambda: bool(of(app, "load/aau-3", "wattring.command.result.v1")))
        overdue = of(app, "load/aau-2", "wattring.occurrence.overdue.v1")[0].data
        assert (overdue["state"], overdue["plan_id"]) == ("overdue", plan_id)
        (failed,) = of(app, "load/aau-3", "wattring.command.result.v1")
        assert failed.data["state"] in ("failed", "expired")
        assert failed.data["fault_code"]

        found.field.deaf = False
        await app.until(lambda: bool(of(app, "load/aau-2", "wattring.occurrence.result.v1")))
        assert of(app, "load/aau-2", "wattring.occurrence.result.v1")[0].data["state"] == "awake"
        assert all(call.is_signed_with(secret) for call in app.calls)
        for load in found.field.breakers:
            numbers = [int(call.event["sequence"]) for call in app.accepted if call.event["subject"] == f"load/{load}"]
            assert numbers == list(range(1, len(numbers) + 1))
