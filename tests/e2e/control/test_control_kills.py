"""Control and the watchdog as real processes, killed with SIGKILL; the database killed too. Radio units wake."""

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
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
from libs.common.migrations import migrate
from libs.common.runtime import Listener, Platform, serve
from libs.common.settings import BusSettings, CommonSettings, DatabaseSettings
from libs.common.tokens import KeyRing
from libs.suite.postgres import EXPENDABLE, EmbeddedPostgres
from tests.integration.control.fake_ingest import FakeBreaker, FakeField, build_ingest, until

pytestmark = [pytest.mark.e2e, pytest.mark.integration, pytest.mark.postgres, pytest.mark.timeout(240)]


@dataclass
class Process:
    """One of ours, as a process that can be killed and started again."""

    name: str
    arguments: list[str]
    environ: dict[str, str]
    log: Path
    running: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self.running = await asyncio.create_subprocess_exec(
                sys.executable, *self.arguments, env=self.environ, stdout=log, stderr=log
            )

    async def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self.running is None:
            return
        if self.running.returncode is None:
            self.running.send_signal(number)
        async with asyncio.timeout(20):
            await self.running.wait()
        self.running = None


@dataclass
class Town:
    """Everything of one test."""

    folder: Path
    server: EmbeddedPostgres
    platform: Platform
    client: httpx.AsyncClient
    control: Process
    watchdog: Process
    field: FakeField = field(default_factory=FakeField)

    async def call(self, method: str, path: str, body: Any = None) -> httpx.Response:
        token = self.platform.keys.sign_token(
            "gateway", audience="control", subject="duty", kind="user", scopes=("control:*",)
        )
        headers = {"authorization": f"Bearer {token}"}
        return await self.client.request(method, path, json=body, headers=headers, timeout=30)

    async def answers(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        """Call until control, which may have been killed, answers so."""
        found: list[Any] = []

        async def answered() -> bool:
            try:
                answer = await self.call(method, path, body)
            except httpx.HTTPError:
                return False
            found[:] = [answer.json()] if answer.status_code == status else []
            return bool(found)

        await until(answered, path, timeout_s=60)
        return found[0]

    async def plan(self, load_id: str, *, start_in_s: float, length_s: float) -> str:
        start = self.platform.clock.now() + timedelta(seconds=start_in_s, hours=8)
        end = start + timedelta(seconds=length_s)
        body = {
            "name": "night", "load_ids": [load_id], "first_date": start.date().isoformat(),
            "last_date": start.date().isoformat(),
            "windows": [{"start": start.strftime("%H:%M:%S"), "end": end.strftime("%H:%M:%S")}],
        }  # fmt: skip
        plan = await self.answers("POST", "/api/v1/plans", body, 201)
        await self.answers("POST", f"/api/v1/plans/{plan['plan_id']}/approve")
        return str(plan["plan_id"])

    async def states(self, plan_id: str) -> list[str]:
        items = (await self.answers("GET", f"/api/v1/occurrences?plan={plan_id}"))["items"]
        return [one["state"] for one in items]

    async def has_loads(self) -> bool:
        body = {"load_ids": ["aau-1"], "first_date": "2099-01-01", "last_date": "2099-01-01",
                "windows": [{"start": "01:00", "end": "02:00"}]}  # fmt: skip
        try:
            return (await self.call("POST", "/api/v1/plans/preview", body)).status_code == 200
        except httpx.HTTPError:
            return False


@asynccontextmanager
async def town(folder: Path, *, host: Mapping[str, str] | None = None) -> AsyncIterator[Town]:
    """Start everything; ``host`` is added to the environment of control and the watchdog."""
    server = EmbeddedPostgres(folder / "postgres", settings=EXPENDABLE)
    await asyncio.to_thread(server.start)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.to_thread, shutil.rmtree, folder / "postgres", ignore_errors=True)
        stack.push_async_callback(asyncio.to_thread, server.stop, timeout_s=10)
        await migrate(server.url, ["bus", "control"], phase="post")
        clock = SystemClock()
        KeyRing.create(folder / "keys")
        urls = {name: f"unix:{folder}/{name}.sock" for name in ("ingest", "control", "watchdog")}
        common = CommonSettings(
            data_dir=folder, drain_s=2.0, database=DatabaseSettings(url=SecretStr(server.url)), service_urls=urls
        )
        bus = PgLogBus(common.database, common.bus, clock)
        platform = Platform(common, clock, bus, KeyRing.open(folder / "keys", clock))
        setting_up = PgLogBus(common.database, common.bus, clock)
        await setting_up.start()
        await setting_up.ensure_topics(topics.specs(BusSettings()))
        await setting_up.stop()
        environ = {
            "PATH": os.environ["PATH"], "DATABASE_URL": server.url, "WATTRING_DATA_DIR": str(folder),
            "WATTRING_SERVICE_URLS": json.dumps(urls), "WATTRING_LOG_FORMAT": "text", **(host or {}),
        }  # fmt: skip
        control = Process(
            "control", ["-m", "services.control"],
            environ | {
                "WATTRING_UDS": f"{folder}/control.sock", "WATTRING_CONTROL__CLOCK_SYNC": "assumed",
                "WATTRING_CONTROL__MIN_OFF_S": "1", "WATTRING_CONTROL__MIN_ON_S": "0",
                "WATTRING_CONTROL__TICK_S": "0.1", "WATTRING_CONTROL__SCHEDULER_LEASE_S": "2",
            },
            folder / "control.log",
        )  # fmt: skip
        watchdog = Process(
            "watchdog", ["-m", "services.control.watchdog"],
            environ | {
                "WATTRING_UDS": f"{folder}/watchdog.sock", "WATTRING_WATCHDOG__LOOK_EVERY_S": "0.1",
                "WATTRING_WATCHDOG__MARGIN_S": "2",
            },
            folder / "watchdog.log",
        )  # fmt: skip
        transport = httpx.AsyncHTTPTransport(uds=str(folder / "control.sock"), verify=NO_TLS)
        client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://control"))
        found = Town(folder, server, platform, client, control, watchdog, FakeField({"aau-1": FakeBreaker()}))
        ingest = build_ingest(platform, found.field)
        stop = asyncio.Event()
        serving = asyncio.create_task(
            serve([ingest], platform, stop, [Listener(ingest.app, uds=folder / "ingest.sock")])
        )

        async def stop_all() -> None:
            stop.set()
            await serving

        stack.push_async_callback(stop_all)
        for process in (control, watchdog):
            stack.push_async_callback(process.kill, signal.SIGTERM)
            await process.start()
        await until(found.has_loads, "control knows the load", timeout_s=60)
        yield found


async def test_control_killed_again_and_again_loses_no_wake_up(tmp_path: Path) -> None:
    async with town(tmp_path) as found:
        breaker = found.field.breakers["aau-1"]
        plan_id = await found.plan("aau-1", start_in_s=6, length_s=18)

        async def kill_it_again(times: int) -> None:
            for _ in range(times):
                await asyncio.sleep(1.5)  # the process' own time, between kills
                await found.control.kill()
                await found.control.start()

        await kill_it_again(2)
        await until(lambda: not breaker.closed, "off", timeout_s=60)
        await kill_it_again(3)
        await until(lambda: breaker.closed and len(breaker.switched) >= 2, "off and on again", timeout_s=60)

        async def over() -> bool:
            return await found.states(plan_id) == ["awake"]

        await until(over, "control knows", timeout_s=60)
        assert len(set(breaker.switched)) == len(breaker.switched)


async def test_with_control_dead_the_watchdog_wakes_from_its_own_file(tmp_path: Path) -> None:
    async with town(tmp_path) as found:
        breaker = found.field.breakers["aau-1"]
        await found.plan("aau-1", start_in_s=4, length_s=12)
        await until(lambda: not breaker.closed, "off", timeout_s=40)
        await found.control.kill()
        for _ in range(3):
            await found.watchdog.kill()
            await found.watchdog.start()
            await asyncio.sleep(1.5)  # it looks ten times a second
        assert not breaker.closed, "woken although its lease stands in the file"
        await until(lambda: breaker.closed, "woken by the watchdog", timeout_s=40)
        assert found.field.door_requests[0]["issuer"] == "watchdog"


async def test_one_key_works_with_the_database_dead(tmp_path: Path) -> None:
    async with town(tmp_path) as found:
        breaker = found.field.breakers["aau-1"]
        restore_at = (found.platform.clock.now() + timedelta(hours=1)).isoformat()
        await found.answers(
            "POST", "/api/v1/commands", {"action": "open", "load_id": "aau-1", "restore_at": restore_at}, 202
        )
        await until(lambda: not breaker.closed, "off", timeout_s=40)
        await asyncio.to_thread(found.server.kill)
        answer = await found.answers("POST", "/api/v1/wake-ups", {"scope": "all", "reason": "storm"}, 202)
        assert (answer["wake_up_id"], answer["commanded"]) == ("unrecorded", 1)
        await until(lambda: breaker.closed, "woken by the door")
        assert found.field.door_requests[0]["issuer"] == "control"
        # When the database is back, control finds out and comes to rest.
        await asyncio.to_thread(found.server.start)

        async def at_rest() -> bool:
            items = (await found.answers("GET", "/api/v1/commands?load=aau-1"))["items"]
            return sorted(one["state"] for one in items) == ["scheduled", "succeeded"]

        await until(at_rest, "control has come back", timeout_s=60)
        assert breaker.closed
