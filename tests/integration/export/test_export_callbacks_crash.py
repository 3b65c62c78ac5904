"""Callbacks over the deaths of others: export killed between a call and its record, the database away."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest
from pydantic import SecretStr

from libs.common.bus import envelope, topics
from libs.common.bus.pglog import PgLogBus
from libs.common.client import NO_TLS
from libs.common.clock import SystemClock
from libs.common.contracts.control import CommandState
from libs.common.errors import Unavailable
from libs.common.settings import BusSettings, DatabaseSettings
from libs.common.testing.bus import until
from libs.common.tokens import KeyRing
from tests.integration.export.callback_world import control, world
from tests.peers.callback_receiver import Say, receiver

pytestmark = [pytest.mark.integration, pytest.mark.postgres]


class Process:
    """Export as a process of its own."""

    def __init__(self, url: str, folder: Path) -> None:
        self._folder = folder
        self._environ = {
            "PATH": os.environ["PATH"], "DATABASE_URL": url, "WATTRING_DATA_DIR": str(folder),
            "WATTRING_UDS": f"{folder}/export.sock", "WATTRING_LOG_FORMAT": "text",
            "WATTRING_EXPORT__UNIT_PORT": "0", "WATTRING_EXPORT__POLL_S": "0.1",
            "WATTRING_EXPORT__CALLBACKS__ALLOWED": json.dumps(["127.0.0.1"]),
        }  # fmt: skip
        self._running: asyncio.subprocess.Process | None = None
        KeyRing.create(folder / "keys")
        self._keys = KeyRing.open(folder / "keys", SystemClock())

    async def start(self) -> None:
        with (self._folder / "export.log").open("ab") as log:
            self._running = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services.export", env=self._environ, stdout=log, stderr=log
            )

    async def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self._running is not None:
            self._running.send_signal(number)
            await self._running.wait()
            self._running = None

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        token = self._keys.sign_token("gateway", audience="export", subject="app", kind="key", scopes=["export:*"])
        transport = httpx.AsyncHTTPTransport(uds=f"{self._folder}/export.sock", verify=NO_TLS)
        async with httpx.AsyncClient(transport=transport, base_url="http://export", timeout=30) as client:
            answer = await client.request(method, path, json=body, headers={"authorization": f"Bearer {token}"})
        return answer.json() if answer.is_success else None

    async def is_ready(self) -> bool:
        try:
            return await self.call("GET", "/readyz") is not None
        except httpx.HTTPError:
            return False


@asynccontextmanager
async def process(url: str, folder: Path) -> AsyncIterator[Process]:
    found = Process(url, folder)
    await found.start()
    try:
        await until(found.is_ready)
        yield found
    finally:
        await found.kill(signal.SIGTERM)


async def test_killed_between_the_call_and_its_record_it_calls_again_under_the_same_id(
    postgres_url: str, tmp_path: Path
) -> None:
    bus = PgLogBus(DatabaseSettings(url=SecretStr(postgres_url)), BusSettings(), SystemClock())
    await bus.start()
    try:
        await bus.ensure_topics(topics.specs(BusSettings()))
        async with process(postgres_url, tmp_path) as export, receiver(lambda _: Say(fault="hold")) as app:
            body = {"name": "app", "url": app.url, "types": ["command.result"]}
            created = await export.call("POST", "/api/v1/callbacks", body)
            event = control(CommandState.FAILED)
            message = envelope.message(topics.CONTROL_EVENTS, "s-1", event, source="control", time=event.at)
            await bus.publish([message], timeout_s=10)
            await app.has(1)
            await export.kill()
            app.script = lambda _: Say()
            # Its successor, under its name, need not wait for the end of the claim.
            await export.start()
            await app.took(1)
            assert [call.id for call in app.calls] == [app.calls[0].id] * 2
            assert {call.event["sequence"] for call in app.calls} == {"000000000001"}
            assert all(call.is_signed_with(created["secret"]) for call in app.calls)
    finally:
        await bus.stop()


@pytest.mark.sql
async def test_with_the_database_away_what_was_taken_is_remembered_and_not_sent_twice(
    postgres_server: str, postgres_url: str, tmp_path: Path
) -> None:
    name = urlsplit(postgres_url).path.removeprefix("/")
    admin = await asyncpg.connect(postgres_server)
    try:
        async with world(postgres_url, tmp_path) as found, receiver(lambda _: Say(fault="hold")) as app:
            endpoint, _ = await found.endpoint(app.url)
            found.start()
            await found.tell(control(CommandState.FAILED))
            await app.has(1)
            await admin.execute(f'alter database "{name}" allow_connections false')
            await admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", name)
            app.gate.set()
            await app.took(1)
            await until(lambda: found.clock.sleeping > 0)  # it waits for the database
            await found.clock.advance(30)
            await admin.execute(f'alter database "{name}" allow_connections true')

            async def written() -> bool:
                await found.clock.advance(5)
                try:
                    return [each.state.value for each in await found.log(endpoint)] == ["delivered"]
                except Unavailable:  # a session that was ended is still in the pool
                    return False

            await until(written)
            assert len(app.calls) == 1
            await found.check_books()
    finally:
        await admin.close()
