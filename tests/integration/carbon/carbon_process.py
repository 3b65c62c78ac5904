"""Carbon as a process of its own, to be killed and started again."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from libs.common.client import NO_TLS
from libs.common.clock import SystemClock
from libs.common.tokens import KeyRing


class Process:
    """Carbon as a process of its own, behind a gateway that we play."""

    def __init__(self, url: str, folder: Path, **environ: str) -> None:
        self.folder = folder
        self._environ = {
            "PATH": os.environ["PATH"], "DATABASE_URL": url, "WATTRING_DATA_DIR": str(folder),
            "WATTRING_UDS": f"{folder}/carbon.sock", "WATTRING_LOG_FORMAT": "text",
            "WATTRING_CARBON__ATTEST_POLL_S": "0.05", "WATTRING_CARBON__ATTEST_HEAD_EVERY_S": "1", **environ,
        }  # fmt: skip
        self._running: asyncio.subprocess.Process | None = None
        KeyRing.create(folder / "keys")
        self._keys = KeyRing.open(folder / "keys", SystemClock())

    async def start(self) -> None:
        with (self.folder / "carbon.log").open("ab") as log:
            self._running = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services.carbon", env=self._environ, stdout=log, stderr=log
            )

    async def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self._running is not None:
            self._running.send_signal(number)
            await self._running.wait()
            self._running = None

    async def get(
        self, path: str, *, sites: tuple[str, ...] | None = None, scopes: tuple[str, ...] = ("carbon:read",),
        **params: Any,
    ) -> httpx.Response:  # fmt: skip
        token = self._keys.sign_token(
            "gateway", audience="carbon", subject="auditor", kind="user", scopes=scopes, sites=sites
        )
        transport = httpx.AsyncHTTPTransport(uds=f"{self.folder}/carbon.sock", verify=NO_TLS)
        async with httpx.AsyncClient(transport=transport, base_url="http://carbon", timeout=60) as client:
            headers = {"authorization": f"Bearer {token}"}
            return await client.get(f"/api/v1/attestations/{path}", params=params, headers=headers)

    async def document(self, path: str, **params: Any) -> Any:
        answer = await self.get(path, **params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def is_ready(self) -> bool:
        transport = httpx.AsyncHTTPTransport(uds=f"{self.folder}/carbon.sock", verify=NO_TLS)
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://carbon", timeout=10) as client:
                return (await client.get("/readyz")).status_code == 200
        except httpx.HTTPError:
            return False


@asynccontextmanager
async def process(url: str, folder: Path, **environ: str) -> AsyncIterator[Process]:
    """Start carbon; end it with the block."""
    found = Process(url, folder, **environ)
    await found.start()
    try:
        yield found
    finally:
        await found.end(signal.SIGTERM)
