"""Two ingest processes and one database: lines are shared, and a dead holder's are taken over within its lease."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from libs.common.bus import open_bus, topics
from libs.common.client import NO_TLS
from libs.common.clock import SystemClock
from libs.common.settings import CommonSettings
from libs.common.tokens import KeyRing
from tests.integration.ingest.conftest import SITE, Peer, quick, until
from tests.integration.ingest.test_ingest_polling import fill_dtsu666

Running = tuple[subprocess.Popen[bytes], httpx.AsyncClient]

pytestmark = [pytest.mark.integration, pytest.mark.postgres]


@asynccontextmanager
async def process(
    url: str, folder: Path, instance: str
) -> AsyncIterator[tuple[subprocess.Popen[bytes], httpx.AsyncClient]]:
    """Run ``python -m services.ingest`` as a process of its own, behind a Unix socket."""
    socket = folder / f"{instance}.sock"
    environ = {
        **os.environ,
        "DATABASE_URL": url,
        "WATTRING_DATA_DIR": str(folder),
        "WATTRING_INSTANCE": instance,
        "WATTRING_UDS": str(socket),
        "WATTRING_SERVICE_URLS": f'{{"ingest": "unix:{socket}"}}',
    }
    log = (folder / f"{instance}.log").open("wb")
    running = subprocess.Popen([sys.executable, "-m", "services.ingest"], env=environ, stdout=log, stderr=log)  # noqa: ASYNC220
    try:
        transport = httpx.AsyncHTTPTransport(uds=str(socket), verify=NO_TLS)
        async with httpx.AsyncClient(transport=transport, base_url="http://ingest") as http:

            async def ready() -> bool:
                assert running.poll() is None, (folder / f"{instance}.log").read_text()[-3000:]
                try:
                    return (await http.get("/readyz")).status_code == 200
                except httpx.HTTPError:
                    return False

            await until(ready, f"{instance} ready", within_s=40)
            yield running, http
    finally:
        if running.poll() is None:
            running.terminate()
        running.wait(20)
        log.close()


def lines_held(text: str) -> int:
    (line,) = [line for line in text.splitlines() if line.startswith("wattring_ingest_lines_held ")]
    return int(float(line.split()[1]))


async def test_lines_are_shared_and_those_of_a_killed_process_are_taken_over(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peer: Peer
) -> None:
    quick(monkeypatch)
    fill_dtsu666(peer)
    KeyRing.create(tmp_path / "keys")
    settings = CommonSettings(data_dir=tmp_path, database={"url": postgres_url})
    clock = SystemClock()
    bus = open_bus(settings, clock)
    await bus.start()
    await bus.ensure_topics(topics.specs(settings.bus))
    await bus.stop()
    token = KeyRing.open(tmp_path / "keys", clock).sign_token("cli", audience="ingest", scopes=("*:*",), ttl_s=300)
    headers = {"authorization": f"Bearer {token}"}

    async with process(postgres_url, tmp_path, "one") as (first, http_one):

        async def put(path: str, body: dict[str, Any]) -> None:
            response = await http_one.put(f"/api/v1/{path}", json=body, headers=headers)
            assert response.status_code == 201, response.text

        await put("sites/site-1", SITE)
        for number in range(4):
            await put(f"lines/line-{number}", {"name": "L", "kind": "tcp", "endpoint": peer.endpoint})
            await put(
                f"devices/meter-{number}",
                {"name": "M", "kind": "meter_3p", "profile": "chint_dtsu666", "site": "site-1",
                 "line": f"line-{number}", "address": "1"},
            )  # fmt: skip

        async def held(http: httpx.AsyncClient) -> int:
            return lines_held((await http.get("/metrics")).text)

        async def all_held() -> bool:
            return await held(http_one) == 4

        await until(all_held, "all lines with the only process")
        async with process(postgres_url, tmp_path, "two") as (_, http_two):

            async def shared() -> bool:
                return (await held(http_one), await held(http_two)) == (2, 2)

            await until(shared, "half of the lines with each", within_s=30)
            first.send_signal(signal.SIGKILL)

            async def taken_over() -> bool:
                return await held(http_two) == 4

            await until(taken_over, "the dead process's lines taken over", within_s=15)
