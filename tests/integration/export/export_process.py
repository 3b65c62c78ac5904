"""Export as a process of its own, to be killed."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from libs.common.client import NO_TLS
from libs.common.clock import Clock, SystemClock
from libs.common.testing.bus import until
from libs.common.tokens import KeyRing


class Process:
    """Export as a process of its own.

    Args:
        url: Its database.
        folder: For its data, its socket and its log.
        clock: By which its callers' tokens are made; the host's unless its host is played another time.
        environ: More of its environment.
    """

    def __init__(
        self, url: str, folder: Path, *, clock: Clock | None = None, environ: Mapping[str, str] | None = None
    ) -> None:
        self._folder = folder
        self._environ = {
            "PATH": os.environ["PATH"], "DATABASE_URL": url, "WATTRING_DATA_DIR": str(folder),
            "WATTRING_UDS": f"{folder}/export.sock", "WATTRING_LOG_FORMAT": "text",
            "WATTRING_EXPORT__UNIT_PORT": "0", "WATTRING_EXPORT__POLL_S": "0.1",
            "WATTRING_EXPORT__CALLBACKS__ALLOWED": json.dumps(["127.0.0.1"]), **(environ or {}),
        }  # fmt: skip
        self._running: asyncio.subprocess.Process | None = None
        KeyRing.create(folder / "keys")
        self._keys = KeyRing.open(folder / "keys", clock or SystemClock())

    @property
    def log(self) -> str:
        """What it has written so far."""
        return (self._folder / "export.log").read_text(encoding="utf-8")

    async def start(self) -> None:
        with (self._folder / "export.log").open("ab") as log:
            self._running = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services.export", env=self._environ, stdout=log, stderr=log
            )

    async def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self._running is not None:
            if self._running.returncode is None:
                self._running.send_signal(number)
            await self._running.wait()
            self._running = None

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """Return what it answers, None when it refuses."""
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
async def process(
    url: str, folder: Path, *, clock: Clock | None = None, environ: Mapping[str, str] | None = None
) -> AsyncIterator[Process]:
    """Run one until the block ends; its arguments are those of ``Process``."""
    found = Process(url, folder, clock=clock, environ=environ)
    await found.start()
    try:
        await until(found.is_ready, within_s=90)
        yield found
    finally:
        await found.kill(signal.SIGTERM)
