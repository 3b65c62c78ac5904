"""The simulators of MQTT meters and of an OPC UA server, as an integrator starts them, read by a whole ingest."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from libs.common.contracts.control import CommandAction
from tests.integration.fieldsim.test_fieldsim_process import running
from tests.integration.ingest.conftest import SITE, RunningIngest, quick, until
from tests.integration.ingest.conftest import running as running_ingest
from tests.integration.ingest.test_ingest_switching import door_load, ended, order, send
from tests.peers.mosquitto import Mosquitto, free_port

pytestmark = [pytest.mark.integration, pytest.mark.postgres]


@pytest.fixture
async def ingest(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RunningIngest]:
    """One whose leases last: three processes start beside it, and without a fresh lease nothing is switched off."""
    quick(monkeypatch)
    monkeypatch.setenv("WATTRING_INGEST__POLLING__LEASE_S", "30")
    async with running_ingest(postgres_url, tmp_path) as found:
        yield found


def device(profile: str, line: str, address: str) -> dict[str, Any]:
    return {
        "name": address, "kind": "breaker", "profile": profile, "site": "site-1", "line": line, "address": address
    }  # fmt: skip


async def test_two_lines_of_simulated_meters_by_the_shipped_profiles(ingest: RunningIngest, tmp_path: Path) -> None:
    meters = ("--meters", "2", "--motor-delay-s", "0.1")
    async with (
        Mosquitto(tmp_path / "mosquitto") as broker,
        running(
            tmp_path / "mqtt.json", "mqtt", "--broker", broker.endpoint, "--period-s", "1", *meters
        ) as (_, by_mqtt),
        running(tmp_path / "opcua.json", "opcua", "--port", str(free_port()), *meters) as (_, by_opcua),
    ):  # fmt: skip
        entities: dict[str, dict[str, Any]] = {
            "sites/site-1": SITE,
            "lines/line-1": {
                "name": "S", "kind": "opcua", "endpoint": by_opcua["endpoint"],
                "settings": {"security": "none", "read_every_s": 1},
            },
            "lines/line-2": {"name": "B", "kind": "mqtt", "endpoint": by_mqtt["broker"]},
            **{
                f"devices/breaker-{n}": device(told["profile"], line, address)
                for n, (told, line, address) in enumerate((
                    (by_opcua, "line-1", by_opcua["addresses"][0]), (by_opcua, "line-1", by_opcua["addresses"][1]),
                    (by_mqtt, "line-2", by_mqtt["addresses"][0]), (by_mqtt, "line-2", by_mqtt["addresses"][1]),
                ), start=1)
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

        async def latest() -> Any:
            items = (await ingest.get("/api/v1/readings/latest", site="site-1"))["items"]
            found = {item["device_id"]: item["points"] for item in items}
            return found if len(found) == 4 else None

        for device_id, points in (await until(latest, "all four report", within_s=40)).items():
            assert 200 < points["voltage_a"] < 260, device_id
            assert 0.8 < points["active_power_total"] < 1.5, device_id  # of 0.9 kW and a share of a measured curve
            assert points["breaker_state"] == 1, device_id
        await until(lambda: door_load(ingest, breaker_state=1), "the breaker read closed")
        off = await send(ingest, order(ingest, CommandAction.OPEN))
        assert (await ended(ingest, off, "verified"))["evidence"]["meter_power_kw"] == 0
        on = await send(ingest, order(ingest, CommandAction.CLOSE))
        assert (await ended(ingest, on, "verified"))["evidence"]["feedback_value"] == 1
