"""Ingest as a whole within a test: on a real PostgreSQL, reached over its Unix socket, with Modbus peers beside it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from pyModbusTCP.server import DataBank, ModbusServer  # type: ignore[import-untyped]

from libs.common.bus import open_bus, topics
from libs.common.bus.port import Received, StartAt
from libs.common.client import NO_TLS
from libs.common.clock import SystemClock
from libs.common.runtime import Listener, Platform, Service, serve
from libs.common.settings import CommonSettings
from libs.common.tokens import KeyRing
from services.ingest.main import build


@dataclass
class RunningIngest:
    """A whole ingest, and the ways to it."""

    platform: Platform
    service: Service
    http: httpx.AsyncClient

    def headers(self, issuer: str = "gateway", scopes: tuple[str, ...] = ("*:*",), **claims: Any) -> dict[str, str]:
        token = self.platform.keys.sign_token(issuer, audience="ingest", scopes=scopes, **claims)
        return {"authorization": f"Bearer {token}"}

    async def get(self, path: str, **params: Any) -> Any:
        response = await self.http.get(path, params=params, headers=self.headers())
        assert response.status_code == 200, response.text
        return response.json()

    async def put(self, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
        return await self.http.put(path, json=body, headers={**self.headers(), **headers})

    async def create(self, path: str, body: dict[str, Any]) -> None:
        response = await self.put(path, body)
        assert response.status_code == 201, response.text

    async def messages(self, topic: str) -> list[Any]:
        """Return the JSON of everything on a topic."""
        found: list[Received] = []
        async with self.platform.bus.tail((topic,), StartAt(beginning=True)) as reader:
            ends = await reader.end_offsets()
            while any(reader.positions().get(where, 0) < end for where, end in ends.items()):
                found += await reader.fetch(max_messages=1000, timeout_s=1.0)
        return [orjson.loads(message.value) for message in found if message.value is not None]


async def until(
    condition: Callable[[], Awaitable[Any]], what: str, *, within_s: float = 60.0, every_s: float = 0.1
) -> Any:
    """Return the first true answer of ``condition``; fail when there is none in time."""
    found: Any = None
    try:
        async with asyncio.timeout(within_s):
            while not (found := await condition()):  # noqa: ASYNC110  # the condition is in other processes' hands
                await asyncio.sleep(every_s)
    except TimeoutError:
        pytest.fail(f"not within {within_s:g} s: {what}; last: {found!r}")
    return found


@asynccontextmanager
async def running(
    postgres_url: str, folder: Path, *, instance: str = "0", wait: bool = True, profile_dirs: tuple[Path, ...] = ()
) -> AsyncIterator[RunningIngest]:
    """Run ingest until the block ends; without ``wait`` it need not become ready, only answer."""
    settings = CommonSettings(
        data_dir=folder, database={"url": postgres_url}, instance=instance, drain_s=3.0, profile_dirs=profile_dirs
    )
    clock = SystemClock()
    KeyRing.create(settings.effective_keys_dir)
    platform = Platform(settings, clock, open_bus(settings, clock), KeyRing.open(settings.effective_keys_dir, clock))
    if wait:
        setting_up = open_bus(settings, clock)
        await setting_up.start()
        await setting_up.ensure_topics(topics.specs(settings.bus))
        await setting_up.stop()
    service = build(platform)
    place = Listener(service.app, uds=folder / f"ingest-{instance}.sock")
    stop = asyncio.Event()
    task = asyncio.create_task(serve([service], platform, stop, [place]), name=f"ingest {instance}")
    transport = httpx.AsyncHTTPTransport(uds=str(place.uds), verify=NO_TLS)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://ingest", timeout=30) as http:

            async def ready() -> bool:
                if task.done():
                    task.result()
                try:
                    return (await http.get("/readyz")).status_code == 200 or not wait
                except httpx.HTTPError:
                    return False

            await until(ready, "ingest ready")
            yield RunningIngest(platform, service, http)
    finally:
        stop.set()
        await task


@pytest.fixture
async def ingest(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RunningIngest]:
    """One ingest that polls twice a second and gives up on a device quickly."""
    quick(monkeypatch)
    async with running(postgres_url, tmp_path) as found:
        yield found


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set short times, as an operator would, by the environment."""
    for name, value in {
        "POLLING__INTERVAL_S": "0.5",
        "POLLING__RESPONSE_TIMEOUT_S": "0.3",
        "POLLING__BREAKER_WAITS_S": "[0.5, 1]",
        "POLLING__LEASE_S": "3",
        "SWITCHING__OFF_LEASE_MARGIN_S": "0.5",
        "SWITCHING__CLOCK_SYNC": "assumed",
        "SWITCHING__SETTLE_S": "0.05",
        "SWITCHING__READ_BACK_EVERY_S": "0.1",
        "SWITCHING__VERIFY_WITHIN_S": "2",
        "SWITCHING__METER_WAIT_S": "2",
        "SWITCHING__RESTORE_MARGIN_S": "0.2",
        "SWITCHING__RETRY_FIRST_S": "0.2",
        "ACCEPTANCE__HEARTBEAT_S": "0.2",
    }.items():
        monkeypatch.setenv(f"WATTRING_INGEST__{name}", value)


class Peer:
    """A Modbus TCP server by pyModbusTCP; unit ids are not told apart, so it plays one device."""

    def __init__(self) -> None:
        self.bank = DataBank(h_regs_size=0x6000, i_regs_size=0x2000)
        self.server = ModbusServer("127.0.0.1", port=0, no_block=True, data_bank=self.bank)
        self.server.start()
        self.port: int = self.server._service.server_address[1]

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.server.stop()


@pytest.fixture
def peer() -> Iterator[Peer]:
    """An independent Modbus server."""
    found = Peer()
    yield found
    found.stop()


SITE = {"name": "Baiyun 3", "name_zh": "白云三号", "code": "GZ-BY-0003", "kind": "base_station"}
