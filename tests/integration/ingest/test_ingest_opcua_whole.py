"""OPC UA through a whole ingest: into the history, a load switched, and on after the server was away."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from libs.common.contracts.control import CommandAction
from tests.integration.ingest.conftest import SITE, RunningIngest, until
from tests.integration.ingest.test_ingest_opcua import serve
from tests.integration.ingest.test_ingest_switching import door_load, ended, order, send

pytestmark = [pytest.mark.integration, pytest.mark.postgres]


async def test_meter_and_breaker_in_a_server(ingest: RunningIngest, tmp_path: Path) -> None:
    servers = serve(tmp_path / "server")
    server = await asyncio.to_thread(next, servers)
    try:
        entities: dict[str, dict[str, Any]] = {
            "sites/site-1": SITE,
            "lines/line-1": {
                "name": "Server", "kind": "opcua", "endpoint": server.endpoint, "settings": {"security": "none"}
            },
            "devices/breaker-1": {
                "name": "M", "kind": "breaker", "profile": "example_opcua_meter", "site": "site-1", "line": "line-1",
                "address": "m1",
            },
            "circuits/circuit-1": {"name": "AAU", "level": 3, "role": "load", "site": "site-1"},
            "bindings/binding-1": {"name": "own meter", "device": "breaker-1", "circuit": "circuit-1"},
            "loads/load-1": {
                "name": "AAU 1", "kind": "aau", "site": "site-1", "sector": "1", "breaker": {"device": "breaker-1"},
                "meter": "circuit-1",
            },
        }  # fmt: skip
        for path, body in entities.items():
            await ingest.create(f"/api/v1/{path}", body)

        async def voltage(expected: float) -> Any:
            items = (await ingest.get("/api/v1/readings/latest", site="site-1"))["items"]
            return items and items[0]["points"].get("voltage_a") == expected

        await until(lambda: voltage(230.0), "the first reading")
        await until(lambda: door_load(ingest, breaker_state=1), "the breaker read closed")
        await server.set("P", 0)  # what the load's meter will show
        off = await send(ingest, order(ingest, CommandAction.OPEN))
        result = await ended(ingest, off, "verified")
        assert (result["evidence"]["feedback_value"], result["evidence"]["answer"]) == (0, "write: Good")
        assert await server.get("Closed") is False
        answer = await ingest.http.post(
            "/direct/v1/on", json={"load_id": "load-1"}, headers=ingest.headers("watchdog", ("ingest:wake",))
        )
        assert answer.json()["verified"], answer.text
        assert await server.get("Closed") is True

        server.kill()
        await asyncio.to_thread(server.start, shift=True)
        await server.set("Ua", 241.0)
        await until(lambda: voltage(241.0), "values go on after the server was away", within_s=40)
    finally:
        server.kill()
        servers.close()
