"""Years of history are imported beside live traffic: in parts, by a job worker that dies, and no live reading waits."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import orjson
import polars as pl
import pytest

from libs.common.bus import topics
from libs.common.clock import SystemClock
from libs.common.db import Database
from libs.common.jobs import JobWorker
from libs.common.settings import DatabaseSettings
from libs.suite import archives
from libs.suite.archives import import_archive
from libs.suite.words import words_for
from services.ingest.jobs import JOB_HANDLERS
from tests.integration.ingest.conftest import RunningIngest, until

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

METERS = 4
QUARTERS = 1500
START = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=20)
REGISTRY = "schema: registry/1\nvalid_from: 2020-01-01T00:00:00+08:00\n" + "".join(
    ["sites:\n  - {id: s-1, code: S1, name: S, kind: base_station}\ndevices:\n"]
    + [f"  - {{id: m-{n}, name: M, kind: meter_3p, profile: eastron_sdm630, site: s-1}}\n" for n in range(METERS)]
)


class Api:
    """The API of the running ingest, for a thread."""

    def __init__(self, ingest: RunningIngest, socket: Path) -> None:
        self._headers = ingest.headers
        self._client = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://ingest", timeout=60
        )

    def get(self, path: str, **params: Any) -> Any:
        return self._answer(self._client.get(f"/api/v1/{path}", params=params, headers=self._headers()))

    def upload(self, path: str, content: bytes, *, media_type: str, **params: Any) -> Any:
        headers = {**self._headers(), "content-type": media_type}
        return self._answer(self._client.post(f"/api/v1/{path}", content=content, params=params, headers=headers))

    def close(self) -> None:
        self._client.close()

    def _answer(self, answer: httpx.Response) -> Any:
        assert answer.is_success, answer.text
        return answer.json()


@asynccontextmanager
async def job_worker(postgres_url: str) -> AsyncIterator[None]:
    database = Database(DatabaseSettings(url=postgres_url), schema="ingest", role="wattring_ingest")
    await database.open()
    worker = JobWorker(db=database, clock=SystemClock(), handlers=JOB_HANDLERS)
    task = asyncio.create_task(worker.run(lambda: None), name="job worker")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        await database.close()


async def test_archive_goes_in_beside_live_readings_though_its_worker_dies(
    ingest: RunningIngest, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "PART_ROWS", 2000)
    file = tmp_path / "years.parquet"
    rows = [(f"m-{n}", START + timedelta(minutes=15 * k), 100.0 + k) for n in range(METERS) for k in range(QUARTERS)]
    columns = ["device_id", "source_time", "energy_active_import"]
    pl.DataFrame(rows, schema=columns, orient="row").write_parquet(file)
    answer = await ingest.http.post(
        "/api/v1/imports", params={"kind": "registry", "file": "r.yaml"}, content=REGISTRY, headers=ingest.headers()
    )
    assert answer.status_code == 201, answer.text

    api, said = Api(ingest, tmp_path / "ingest-0.sock"), list[str]()
    importing = asyncio.create_task(
        asyncio.to_thread(import_archive, api, file, words=words_for("en"), say=said.append), name="import"
    )
    pushed: list[str] = []
    parked: list[str] = []
    lives = 0
    while not importing.done():
        async with job_worker(postgres_url):
            # Live readings all the while; the job worker dies early, and later again if it takes that long.
            for _ in range(3 if lives == 0 else 200):
                await push_live(ingest, pushed, parked)
                await asyncio.wait([importing], timeout=0.1)
                if importing.done():
                    break
        lives += 1
    counts = await importing
    api.close()
    # A line that was committed and not yet noted when the worker died is taken again; the history has it once.
    assert counts["accepted"] + counts["skipped"] == len(rows)
    assert lives > 1
    assert said[-1].startswith(f"100%: {len(rows):,} rows")

    async def stored() -> Any:
        found: Counter[str] = Counter()
        for number in range(METERS):
            page = await ingest.get(
                "/api/v1/readings", device=f"m-{number}", bucket="1d",
                **{"from": START.isoformat(), "to": (START + timedelta(days=30)).isoformat()},
            )  # fmt: skip
            found[f"m-{number}"] = sum(item["reports"] for item in page["items"])
        return found if sum(found.values()) >= len(rows) + len(pushed) + len(parked) else None

    found = await until(stored, "all of it in the history", within_s=60)
    assert found == {f"m-{n}": QUARTERS + (len(pushed) + len(parked) if n == 0 else 0) for n in range(METERS)}
    live = [message["source_time"] for message in await ingest.messages(topics.READINGS) if "device_id" in message]
    assert [time for time in live if time not in parked] == pushed
    late = {message["source_time"] for message in await ingest.messages(topics.BACKFILL)}
    assert not late & set(pushed)


async def push_live(ingest: RunningIngest, pushed: list[str], parked: list[str]) -> None:
    """Push a reading of now, which is answered when it is safe, and note its time."""
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    body = orjson.dumps({"device_id": "m-0", "source_time": now, "points": {"energy_active_import": 9000.0}})
    answer = await ingest.http.post("/api/v1/readings", content=body, headers=ingest.headers())
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["accepted"] + found["parked"] == 1, found
    # The first may wait a moment until the registry has come round.
    (parked if found["parked"] else pushed).append(now)
