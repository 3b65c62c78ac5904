"""The real alarm beside the real export, on one database and bus."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from libs.common.bus import envelope, topics
from libs.common.bus.pglog import PgLogBus
from libs.common.client import http_client
from libs.common.contracts.registry import Device, DeviceRecord
from libs.common.runtime import Listener, Platform, serve
from services.alarm.main import build as build_alarm
from tests.integration.control.fake_ingest import START
from tests.integration.export.conftest import Export, until


@asynccontextmanager
async def running_alarm(common: Platform, folder: Path) -> AsyncIterator[str]:
    """Run alarm on a platform's database and bus; yields its address."""
    settings = common.settings
    bus = PgLogBus(settings.database, settings.bus, common.clock)
    platform = Platform(settings, common.clock, bus, common.keys)
    service = build_alarm(platform)
    stop = asyncio.Event()
    url = f"unix:{folder}/alarm.sock"
    task = asyncio.create_task(serve([service], platform, stop, [Listener(service.app, uds=folder / "alarm.sock")]))
    try:
        async with http_client(url, "alarm") as http:

            async def ready() -> bool:
                if task.done():
                    task.result()
                try:
                    return (await http.get("/readyz")).status_code == 200
                except httpx.HTTPError:
                    return False

            await until(ready)
        yield url
    finally:
        stop.set()
        await task


def meter() -> DeviceRecord:
    """Return the registry's record of the meter that mappings are of."""
    version = Device(
        id="m-1", name="Meter", kind="meter_3p", profile="chint_dtsu666", site="site-1", line="line-1", address="9",
        valid_from=START, version=1, changed_by="import:test",
    )  # fmt: skip
    return DeviceRecord(kind="device", id="m-1", state="active", versions=(version,))


@asynccontextmanager
async def export_with_alarm(postgres_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Export]:
    """Run both; alarm knows the meter."""
    running = Export(postgres_url, folder, monkeypatch, service_urls={"alarm": f"unix:{folder}/alarm.sock"})
    await running.bus.start()
    try:
        await running.bus.ensure_topics(topics.specs(running.settings.bus))
        platform = Platform(settings=running.settings, clock=running.clock, bus=running.bus, keys=running.keys)
        async with running_alarm(platform, folder):
            record = envelope.message(topics.REGISTRY, "m-1", meter(), source="test", time=datetime.now(UTC))
            await running.bus.publish([record], timeout_s=5)
            await running.start()
            try:
                yield running
            finally:
                await running.stop()
    finally:
        await running.bus.stop()
