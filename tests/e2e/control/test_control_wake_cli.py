"""``wattring wake`` as a person at the machine uses it, while one thing after the other is away.

Real control, ingest and watchdog as processes on the sockets and keys of an embedded suite's data folder, breakers on
real connections. The API of the gateway is tried in the embedded suite's own test.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from libs.common.bus import topics
from libs.common.bus.pglog import PgLogBus
from libs.common.client import ServiceClient
from libs.common.clock import SystemClock
from libs.common.errors import PlatformError
from libs.common.migrations import migrate
from libs.common.settings import BusSettings, DatabaseSettings
from libs.common.tokens import KeyRing
from libs.suite.breakers import Breaker, BreakerField, registry_of, write_profile
from libs.suite.folders import DataFolder
from libs.suite.postgres import EXPENDABLE, EmbeddedPostgres
from tests.e2e.control.test_control_kills import Process
from tests.integration.control.fake_ingest import until

pytestmark = [pytest.mark.e2e, pytest.mark.integration, pytest.mark.postgres, pytest.mark.timeout(300)]

UNITS = 5
SETTINGS = {
    "WATTRING_INGEST__POLLING__RESPONSE_TIMEOUT_S": "1", "WATTRING_INGEST__POLLING__BREAKER_WAITS_S": "[2]",
    "WATTRING_INGEST__POLLING__INTERVAL_S": "1", "WATTRING_INGEST__POLLING__LEASE_S": "5",
    "WATTRING_INGEST__POLLING__RECONNECT_CAP_S": "2",
    "WATTRING_INGEST__SWITCHING__CLOCK_SYNC": "assumed", "WATTRING_INGEST__SWITCHING__OFF_LEASE_MARGIN_S": "0.5",
    "WATTRING_INGEST__SWITCHING__TIMER_MARGIN_S": "2",
    "WATTRING_INGEST__OUTGOING_ALLOWED": '["127.0.0.0/8"]',
    "WATTRING_CONTROL__CLOCK_SYNC": "assumed", "WATTRING_CONTROL__MIN_OFF_S": "1", "WATTRING_CONTROL__MIN_ON_S": "0",
    "WATTRING_WATCHDOG__MARGIN_S": "600", "WATTRING_WATCHDOG__LOOK_EVERY_S": "0.5", "WATTRING_LOG_FORMAT": "text",
}  # fmt: skip
"""A night of seconds; the watchdog waits, so that what is woken is woken by the command."""


@dataclass
class House:
    """Everything that runs."""

    folder: DataFolder
    server: EmbeddedPostgres
    field: BreakerField
    keys: KeyRing
    environ: dict[str, str]
    processes: dict[str, Process]

    async def wake(self, *arguments: str, wait_s: int = 60) -> tuple[int, str]:
        """Run the command; return its exit code and what it said."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "libs.suite", "--lang", "en", "wake", *arguments, "--wait", str(wait_s),
            env={"PATH": os.environ["PATH"], "WATTRING_DATA_DIR": str(self.folder.root), "PORT": "1"},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await asyncio.wait_for(process.communicate(), 120)
        assert process.returncode is not None
        return process.returncode, said.decode()

    async def call(self, service: str, method: str, path: str, body: Any = None) -> Any:
        url = f"unix:{self.folder.socket(service)}"
        async with ServiceClient(self.keys, url, caller="cli", audience=service, scopes=("*:*",)) as client:
            return await (client.get(path) if method == "GET" else client.post(path, body))

    async def off(self, units: Iterable[int], *, for_s: float = 3600) -> None:
        """Take units off by control, as a person does."""
        wanted = list(units)
        body = {
            "action": "open", "load_ids": [f"aau-{n}" for n in wanted], "reason": "test",
            "restore_at": (datetime.now(UTC) + timedelta(seconds=for_s)).isoformat(),
        }  # fmt: skip

        async def taken() -> bool:
            try:
                return not (await self.call("control", "POST", "/api/v1/commands", body))["refused"]
            except PlatformError:
                return False

        await until(taken, "the OFF is taken", timeout_s=60)
        await until(lambda: not any(self.units[n].closed for n in wanted), "off", timeout_s=60)

    @property
    def units(self) -> list[Breaker]:
        return self.field.breakers

    async def answers(self, service: str, path: str, ready: Any = bool) -> None:
        async def answered() -> bool:
            try:
                return bool(ready(await self.call(service, "GET", path)))
            except PlatformError:
                return False

        await until(answered, f"{service} {path}", timeout_s=90)


@asynccontextmanager
async def house(root: Path, *, timer: bool = False) -> AsyncIterator[House]:
    """Start everything; with ``timer`` the breakers' profile has a timer by which they close by themselves."""
    folder = DataFolder(root)
    folder.create()
    KeyRing.create(folder.keys)
    server = EmbeddedPostgres(root / "postgres", settings=EXPENDABLE)
    field = BreakerField(UNITS)
    await asyncio.to_thread(server.start)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.to_thread, shutil.rmtree, root / "postgres", ignore_errors=True)
        stack.push_async_callback(asyncio.to_thread, server.stop, timeout_s=10)
        await migrate(server.url, ["bus", "ingest", "control"], phase="post")
        bus = PgLogBus(DatabaseSettings(url=SecretStr(server.url)), BusSettings(), SystemClock())
        await bus.start()
        await bus.ensure_topics(topics.specs(BusSettings()))
        await bus.stop()
        await field.start()
        stack.push_async_callback(field.stop)
        write_profile(root / "profiles", timer=timer)
        urls = {name: f"unix:{folder.socket(name)}" for name in ("ingest", "control", "watchdog")}
        environ = {
            **SETTINGS, "PATH": os.environ["PATH"], "DATABASE_URL": server.url, "WATTRING_DATA_DIR": str(root),
            "WATTRING_SERVICE_URLS": json.dumps(urls),
            "WATTRING_PROFILE_DIRS": json.dumps([str(root / "profiles")]),
        }  # fmt: skip
        modules = {"ingest": "services.ingest", "control": "services.control", "watchdog": "services.control.watchdog"}
        processes = {
            name: Process(name, ["-m", module], environ | {"WATTRING_UDS": str(folder.socket(name))}, folder.log(name))
            for name, module in modules.items()
        }
        found = House(folder, server, field, KeyRing.open(folder.keys, SystemClock()), environ, processes)
        for process in processes.values():
            stack.push_async_callback(process.kill, signal.SIGTERM)
            await process.start()
        await found.answers("ingest", "/readyz", lambda answer: answer["status"] == "ready")
        document = registry_of(field, per_site=3)  # JSON is YAML
        document["regions"] = [{"id": "440100", "code": "440100", "name": "Guangzhou"}]
        for site in document["sites"]:
            site["region"] = "440100"
        await found.call("ingest", "POST", "/api/v1/imports?kind=registry&file=test.yaml", document)
        await found.answers("ingest", "/direct/v1/loads", lambda answer: (
            len(answer["loads"]) == UNITS and all(one["breaker_state"] == 1 for one in answer["loads"])
        ))  # fmt: skip
        await found.answers("watchdog", "/leases", lambda answer: answer["is_complete"])
        yield found


async def test_whatever_is_away_the_command_wakes_by_what_is_left_and_says_by_what(tmp_path: Path) -> None:
    async with house(tmp_path / "data") as found:
        # Everything up but a gateway: recorded by control, followed, and the dead one is told with its code.
        await found.off([0, 1, 2])
        found.units[2].reachable = False
        code, said = await found.wake("--site", "s-0", "--reason", "storm", wait_s=20)
        assert code == 1, said
        assert "through the API of control itself" in said
        assert [unit.closed for unit in found.units[:3]] == [True, True, False]
        assert "NOT awake: 1" in said
        assert "aau-2  s-0  brk-2  S01 Device does not answer" in said
        found.units[2].reachable = True
        code, said = await found.wake("--load", "aau-2")
        assert (code, found.units[2].closed) == (0, True), said
        orders = (await found.call("control", "GET", "/api/v1/wake-ups"))["items"]
        assert {one["actor"] for one in orders} == {"service:cli"}
        for order in orders:
            await found.call("control", "POST", f"/api/v1/wake-ups/{order['wake_up_id']}/release")

        # Control and the database are dead: the watchdog, which keeps on.
        await found.off([0, 3, 4])
        await found.processes["control"].kill()
        await asyncio.to_thread(found.server.kill)
        code, said = await found.wake("--site", "s-1")
        assert code == 0, said
        assert "through the watchdog" in said
        assert [found.units[n].closed for n in (0, 3, 4)] == [False, True, True], "the other site stays as it was"

        # The watchdog too: ingest's direct door, started anew without a database, from its own disk.
        await found.processes["watchdog"].kill()
        await found.processes["ingest"].kill()
        await found.processes["ingest"].start()
        await found.answers("ingest", "/direct/v1/places", lambda answer: len(answer["loads"]) == UNITS)
        found.units[1].closed = False
        found.units[1].locked = True
        code, said = await found.wake("--region", "440100")
        assert code == 1, said
        assert "through ingest's direct door" in said
        assert [unit.closed for unit in found.units] == [True, False, True, True, True]
        assert "aau-1  s-0  brk-1  S07 Locked at the device" in said
        found.units[1].locked = False
        code, said = await found.wake("--device", "brk-1")
        assert (code, found.units[1].closed) == (0, True), said
        code, said = await found.wake("--site", "nowhere")
        assert code == 1
        assert "no load in site nowhere" in said

        # Nothing at all: it says what still wakes.
        await found.processes["ingest"].kill()
        code, said = await found.wake("--all")
        assert code == 3, said
        assert "NOTHING that reaches a breaker answers" in said
        assert "wattring up" in said
