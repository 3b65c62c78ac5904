"""The database, and with it the embedded bus, goes away and comes back while ingest works."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from libs.common.bus import topics
from tests.integration.ingest.conftest import Peer, RunningIngest, quick, running, until
from tests.integration.ingest.test_ingest_polling import create_meter, fill_dtsu666, readings_of

pytestmark = [pytest.mark.integration, pytest.mark.postgres]


@asynccontextmanager
async def outage(server: str, url: str) -> AsyncIterator[None]:
    """Let nobody into the database, and throw everybody out."""
    name = urlsplit(url).path.removeprefix("/")
    conn = await asyncpg.connect(server, timeout=30)
    try:
        await conn.execute(f'alter database "{name}" allow_connections false')
        await conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", name)
        yield
    finally:
        await conn.execute(f'alter database "{name}" allow_connections true')
        await conn.close(timeout=10)


async def metric(ingest: RunningIngest, name: str) -> int:
    text = (await ingest.http.get("/metrics")).text
    (line,) = [line for line in text.splitlines() if line.startswith(name + " ")]
    return int(float(line.split()[1]))


async def spooled(ingest: RunningIngest) -> int:
    return await metric(ingest, "wattring_ingest_buffer_records")


async def polled(ingest: RunningIngest) -> int:
    return await metric(ingest, 'wattring_ingest_polls_total{outcome="ok",protocol="modbus"}')


async def test_what_was_polled_during_an_outage_is_in_the_history_after_it(
    postgres_server: str, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peer: Peer
) -> None:
    quick(monkeypatch)
    fill_dtsu666(peer)
    async with running(postgres_url, tmp_path) as ingest:
        await create_meter(ingest, peer.endpoint)
        await until(lambda: readings_of(ingest, "meter-1"), "a reading")
        async with outage(postgres_server, postgres_url):
            began, polls = ingest.platform.clock.now(), await polled(ingest)

            async def some_spooled() -> bool:
                return await spooled(ingest) >= 20 and await polled(ingest) >= polls + 4

            await until(some_spooled, "readings and heartbeats in the spool", within_s=40)
            loads = await ingest.http.get("/direct/v1/loads", headers=ingest.headers("watchdog", ("ingest:wake",)))
            assert loads.status_code == 200
            ended = ingest.platform.clock.now()

        async def drained() -> bool:
            return await spooled(ingest) == 0

        await until(drained, "the spool drained", within_s=40)

        async def stored() -> Any:
            response = await ingest.http.get(
                "/api/v1/readings",
                params={"device": "meter-1", "from": began.isoformat(), "to": ended.isoformat()},
                headers=ingest.headers(),
            )
            items = response.json().get("items", []) if response.status_code == 200 else []
            return items if len(items) >= 3 else None

        items = await until(stored, "the readings of the outage", within_s=40)
        assert all(item["points"]["voltage_a"] > 200 for item in items)

        async def live_again() -> bool:
            (latest,) = await readings_of(ingest, "meter-1")
            return datetime.fromisoformat(latest["source_time"]) > ended

        await until(live_again, "live readings after the outage")


async def test_reading_of_a_device_that_stays_unknown_is_rejected(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    monkeypatch.setenv("WATTRING_INGEST__ACCEPTANCE__PARK_S", "1")
    async with running(postgres_url, tmp_path) as ingest:
        now = ingest.platform.clock.now().isoformat()
        body = {"device_id": "nobody", "source_time": now, "points": {"voltage_a": 1.0}}
        answer = await ingest.http.post("/api/v1/readings", json=body, headers=ingest.headers())
        assert answer.json()["parked"] == 1

        async def rejected() -> Any:
            return (await ingest.get("/api/v1/rejected", device="nobody"))["items"]

        (found,) = await until(rejected, "the rejection")
        assert (found["reason"], found["source"]) == ("unknown_device", "service:gateway")
        assert [m["device_id"] for m in await ingest.messages(topics.REJECTED)] == ["nobody"]
