"""Exports at the whole service: put over the API, made by the job worker from another service, brought to ProFTPD."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest
from pydantic import SecretStr

from libs.common.bus import topics
from libs.common.clock import CIVIL_ZONE, SystemClock
from libs.common.db import Database
from libs.common.jobs import JobWorker
from libs.common.settings import DatabaseSettings
from tests.integration.export.conftest import Export, until
from tests.peers.file_servers import PASSWORD, USER, proftpd

pytestmark = [pytest.mark.integration, pytest.mark.postgres]


class Carbon(BaseHTTPRequestHandler):
    """Says one period of energy to whoever asks with a token."""

    asked: ClassVar[list[dict[str, list[str]]]] = []

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        self.asked.append(query)
        period = {
            "start": query["from"][0], "end": query["to"][0], "energy_kwh": 1.25, "provisional": False,
            "interval_completeness": 1.0, "usable_share": 1.0, "estimated_share": 0.0, "lower_bound": False,
            "uncertain": False,
        }  # fmt: skip
        body = json.dumps({"periods": [period]}).encode()
        self.send_response(200 if self.headers["authorization"].startswith("Bearer ") else 401)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def carbon() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Carbon)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
async def service(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, carbon: str
) -> AsyncIterator[Export]:
    monkeypatch.setenv("WATTRING_EXPORT__EXPORTS__ALLOWED", '["127.0.0.1"]')
    found = Export(postgres_url, tmp_path / "data", monkeypatch, service_urls={"carbon": carbon})
    monkeypatch.setenv("WATTRING_DATA_DIR", str(found.settings.data_dir))
    monkeypatch.setenv("WATTRING_SERVICE_URLS", json.dumps({"carbon": carbon}))
    await found.bus.start()
    await found.bus.ensure_topics(topics.specs(found.settings.bus))
    await found.start()
    try:
        yield found
    finally:
        try:
            await found.stop()
        finally:
            await found.bus.stop()


@asynccontextmanager
async def job_worker(url: str) -> AsyncIterator[None]:
    from services.export.jobs import JOB_HANDLERS

    db = Database(DatabaseSettings(url=SecretStr(url)), schema="export")
    await db.open()
    worker = JobWorker(db=db, clock=SystemClock(), handlers=JOB_HANDLERS)
    task = asyncio.create_task(worker.run(lambda: None), name="job worker")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        await db.close()


def body(port: int, **changes: Any) -> dict[str, Any]:
    yesterday = datetime.now(CIVIL_ZONE).date() - timedelta(days=1)
    return {
        "version": 1, "name": "用电量", "dataset": "energy", "form": "xml", "span": "15m", "delay_s": 0,
        "since": yesterday.isoformat(), "make_up_s": 0, "file_name": "e_{start:%Y%m%d%H%M}", "sites": ["s-1"],
        "step": "quarter_hour",
        "destination": {
            "kind": "ftp", "url": f"ftp://127.0.0.1:{port}/inbox", "retry_first_s": 1,
            "account": {"username": USER, "password": PASSWORD},
        },
        **changes,
    }  # fmt: skip


async def test_an_export_is_put_made_and_brought_and_tables_are_told(
    service: Export, postgres_url: str, tmp_path: Path
) -> None:
    await _what_is_wrong_is_refused_with_the_field(service)
    await _the_standards_tables_are_told_over_rest(service)
    async with proftpd(tmp_path / "there") as server, job_worker(postgres_url):
        shown = await service.api("PUT", "/exports/quarters", body(server.port))
        assert shown["has_account"]
        assert PASSWORD not in str(shown)

        async def delivered() -> bool:
            return bool((await service.api("GET", "/exports/quarters/runs?state=delivered"))["items"])

        await until(delivered)
        [run] = (await service.api("GET", "/exports/quarters/runs?state=delivered"))["items"][-1:]
        inbox = server.root / "inbox"
        note = orjson.loads((inbox / run["files"][-1]["name"]).read_bytes())
        assert note["files"][0] == {
            "name": run["files"][0]["name"], "rows": 1, "bytes": run["files"][0]["size_bytes"],
            "sha256": run["files"][0]["sha256"],
        }  # fmt: skip
        assert b"<energy_kwh>1.25</energy_kwh>" in (inbox / run["files"][0]["name"]).read_bytes()
        [missed] = (await service.api("GET", "/exports/quarters/runs?state=given_up"))["items"]
        assert "older than is made up" in missed["error"]
        assert any(one["site"] == ["s-1"] and one["step"] == ["quarter_hour"] for one in Carbon.asked)


async def _what_is_wrong_is_refused_with_the_field(service: Export) -> None:
    for changes, status, words in (
        ({"rule": "FREQ=DAILY"}, 400, "rule"),
        ({"span": "day"}, 400, "FREQ=DAILY"),
        ({"zone": "Mars"}, 400, "zone"),
        ({"file_name": "x"}, 400, "file_name"),
        ({"name": "\x00"}, 400, ""),
        ({"since": "9999-12-31"}, 400, "since"),
        ({"table": 9}, 422, "table"),
        ({"span": "fortnight"}, 422, "span"),
        ({"what": 1}, 422, "what"),
        ({"destination": {"kind": "s3", "url": "https://s3.example"}}, 400, "bucket"),
    ):
        answer = await service.api("PUT", "/exports/quarters", body(1, **changes), status=status)
        assert words in answer["detail"], (changes, answer)
    assert (await service.api("GET", "/exports"))["items"] == []
    await service.api("GET", "/exports/quarters", status=404)
    await service.api("DELETE", "/exports/quarters", status=404)


async def _the_standards_tables_are_told_over_rest(service: Export) -> None:
    items = await service.api("GET", "/exports/standard/items")
    assert len(items) == 55
    assert {"table": 1, "item": "emission_tco2e", "unit": "tCO2e", "printed_unit": "m ³"}.items() <= items[5].items()
    found = await service.api("GET", "/exports/standard/tables/2?site=s-1&span=day&at=2026-03-08T12:00:00Z")
    assert (found["start"], found["end"]) == ("2026-03-06T16:00:00Z", "2026-03-07T16:00:00Z")
    assert [(one["item"], one["value"], one["unit"]) for one in found["records"]] == [("energy_kwh", 1.25, "kWh")]
    answer = await service.api("GET", "/exports/standard/tables/3?site=s-1&span=day", status=400)
    assert "table 3 is told by month" in answer["detail"]
