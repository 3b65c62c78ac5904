"""The watchdog's listener over a real socket: who may speak, what is refused, probes; and a process of few imports."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from libs.common.client import NO_TLS
from libs.common.testing.clock import FakeClock
from libs.common.tokens import KeyRing
from services.control.watchdog.engine import Watchdog
from services.control.watchdog.journal import Journal
from services.control.watchdog.listener import Routes, listening
from services.control.watchdog.settings import WatchdogSettings
from tests.unit.control.test_control_watchdog import Field

LEASE = {
    "command_id": "off-1", "load_id": "a", "device_id": "d", "channel": None, "site_id": "s",
    "restore_at": "2026-03-01T10:00:00+00:00", "restore_in_s": 3600.0, "off_at_most_s": 3600.0, "isolation_id": None,
}  # fmt: skip
PUT: dict[str, Any] = {"epoch": 1, "complete": True, "leases": [LEASE], "ended": [], "released_trips": {}}


class Door:
    def __init__(self, client: httpx.AsyncClient, keys: KeyRing, journal: Journal, silent: list[float]) -> None:
        self.client = client
        self.keys = keys
        self.journal = journal
        self.silent = silent

    async def put(self, body: Any, *, scope: str = "watchdog:leases", audience: str = "watchdog") -> httpx.Response:
        token = self.keys.sign_token("control", audience=audience, scopes=(scope,))
        return await self.client.put("/leases", json=body, headers={"authorization": f"Bearer {token}"})


@asynccontextmanager
async def door(folder: Path, where: str = "inside") -> AsyncIterator[Door]:
    clock = FakeClock()
    KeyRing.create(folder / "keys")
    keys = KeyRing.open(folder / "keys", clock)
    silent = [0.0]
    with Journal(folder / "journal") as journal:
        dog = Watchdog(journal=journal, reach=Field(), clock=clock, boot="b", settings=WatchdogSettings())
        routes = Routes(dog, keys, version="1", stuck_for_s=lambda: silent[0], stuck_after_s=60.0)
        answer = {"anywhere": routes.answer, "inside": routes.answer_inside, "monitoring": routes.answer_monitoring}
        async with listening(answer[where], host="", port=0, uds=folder / "dog.sock"):
            transport = httpx.AsyncHTTPTransport(uds=str(folder / "dog.sock"), verify=NO_TLS)
            async with httpx.AsyncClient(transport=transport, base_url="http://dog") as client:
                yield Door(client, keys, journal, silent)
        await asyncio.sleep(0)


async def test_leases_are_on_disk_when_it_answers(tmp_path: Path) -> None:
    async with door(tmp_path) as found:
        assert (await found.put(PUT)).json() == {"leases": 1}
        with Journal(tmp_path / "journal") as read:
            assert set(read.book.leases) == {"off-1"}


@pytest.mark.parametrize(("changes", "status"), [
    ({"scope": "watchdog:wake"}, 403), ({"audience": "control"}, 401),
])  # fmt: skip
async def test_only_who_may_speaks(tmp_path: Path, changes: dict[str, str], status: int) -> None:
    async with door(tmp_path) as found:
        assert (await found.put(PUT, **changes)).status_code == status
        assert (await found.client.put("/leases", json=PUT)).status_code == 401
        assert (await found.client.get("/leases")).status_code == 401
        assert found.journal.book.leases == {}


@pytest.mark.parametrize("body", [
    [], "x", {}, PUT | {"leases": [{}]}, PUT | {"leases": [LEASE | {"restore_at": "soon"}]}, PUT | {"epoch": "x"},
    PUT | {"released_trips": {"a": "two"}}, PUT | {"leases": None},
])  # fmt: skip
async def test_what_is_not_understood_is_refused_whole(tmp_path: Path, body: Any) -> None:
    async with door(tmp_path) as found:
        answer = await found.put(body)
        assert answer.status_code == 400
        assert answer.headers["content-type"] == "application/problem+json"
        assert found.journal.book.leases == {}
        assert (await found.put(PUT)).status_code == 200


async def test_rubbish_on_the_wire_ends_the_connection_and_nothing_else(tmp_path: Path) -> None:
    async with door(tmp_path) as found:
        reader, writer = await asyncio.open_unix_connection(tmp_path / "dog.sock")
        writer.write(b"\x00\xff rubbish\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400")
        writer.close()
        await writer.wait_closed()
        assert (await found.put(PUT)).status_code == 200


async def test_a_connection_that_stays_open_does_not_hold_up_a_stop_and_is_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with door(tmp_path) as found:
        reader, writer = await asyncio.open_unix_connection(tmp_path / "dog.sock")
        assert (await found.put(PUT)).status_code == 200
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR", "CRITICAL")] == []


async def test_a_replaced_control_process_hears_so(tmp_path: Path) -> None:
    async with door(tmp_path) as found:
        assert (await found.put(PUT | {"epoch": 7})).status_code == 200
        assert (await found.put(PUT | {"epoch": 6})).status_code == 409


async def test_a_full_disk_is_no_acknowledgement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    async with door(tmp_path) as found:
        monkeypatch.setattr("services.control.watchdog.journal.os.fsync", full)
        assert (await found.put(PUT)).status_code == 503
        monkeypatch.undo()
        assert found.journal.book.leases == {}


async def test_strangers_learn_whether_it_lives_and_nothing_else(tmp_path: Path) -> None:
    async with door(tmp_path, "anywhere") as found:
        found.silent[0] = 61.0
        answer = await found.client.get("/readyz")
        assert (answer.status_code, answer.json()) == (503, {"service": "watchdog", "status": "stuck"})
        assert (await found.client.get("/metrics")).status_code == 401
        token = found.keys.sign_token("gateway", audience="watchdog", scopes=("watchdog:read",))
        headers = {"authorization": f"Bearer {token}"}
        assert (await found.client.get("/readyz", headers=headers)).json()["reasons"] == {"loop": "no turn for 61 s"}
        assert (await found.client.get("/metrics", headers=headers)).status_code == 200


async def test_monitoring_sees_the_probes_and_nothing_else(tmp_path: Path) -> None:
    async with door(tmp_path, "monitoring") as found:
        assert (await found.client.get("/readyz")).json()["reasons"] == {}
        assert "wattring_watchdog_leases" in (await found.client.get("/metrics")).text
        assert (await found.put(PUT)).status_code == 404
        assert found.journal.book.leases == {}


async def test_probes_and_what_it_knows(tmp_path: Path) -> None:
    async with door(tmp_path) as found:
        await found.put(PUT)
        assert (await found.client.get("/readyz")).status_code == 200
        found.silent[0] = 61.0
        assert (await found.client.get("/livez")).status_code == 503
        assert "wattring_watchdog_leases 1.0" in (await found.client.get("/metrics")).text
        assert (await found.client.get("/version")).json()["service"] == "watchdog"
        assert (await found.client.get("/nowhere")).status_code == 404
        token = found.keys.sign_token("cli", audience="watchdog", scopes=("watchdog:*",))
        headers = {"authorization": f"Bearer {token}"}
        known = (await found.client.get("/leases", headers=headers)).json()
        assert known["leases"][0]["is_valid"] is True
        ended = await found.client.post("/wake", json={"load_ids": ["a", "unknown"]}, headers=headers)
        assert ended.json() == {"load_ids": ["a"]}
        assert (await found.client.post("/wake", json={"load_ids": "a"}, headers=headers)).status_code == 400


def test_it_loads_neither_framework_nor_database_nor_bus() -> None:
    code = (
        "import sys, services.control.watchdog.__main__\n"
        "print(sorted(m for m in ('fastapi', 'uvicorn', 'asyncpg', 'aiokafka', 'sqlalchemy', 'polars') "
        "if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
