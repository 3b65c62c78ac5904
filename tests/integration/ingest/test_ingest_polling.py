"""From a Modbus server that this project did not write to readings, history, status and back over HTTP."""

import struct
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from libs.common.bus import topics
from tests.integration.ingest.conftest import SITE, Peer, RunningIngest, until

pytestmark = [pytest.mark.integration, pytest.mark.postgres]


def float32(value: float) -> list[int]:
    return list(struct.unpack(">HH", struct.pack(">f", value)))


def fill_dtsu666(peer: Peer, *, voltage: float = 230.1, current: float = 5.0, energy: float = 1234.5) -> None:
    """Put values into the registers that CHINT's manual names for the DTSU666."""
    bank = peer.bank
    bank.set_holding_registers(0x0006, [20, 10])  # ct 20, pt 10 = 1.0
    bank.set_holding_registers(0x000C, [0])
    for address in (0x2000, 0x2002, 0x2004):
        bank.set_holding_registers(address, float32(4000.0))
    for address in (0x2006, 0x2008, 0x200A):
        bank.set_holding_registers(address, float32(voltage * 10))
    for address in (0x200C, 0x200E, 0x2010):
        bank.set_holding_registers(address, float32(current * 1000))
    bank.set_holding_registers(0x2012, float32(3 * voltage * current / 1000 * 10000))
    bank.set_holding_registers(0x2044, float32(5000.0))
    bank.set_holding_registers(0x101E, float32(energy))


async def create_meter(ingest: RunningIngest, endpoint: str, **device: Any) -> None:
    await ingest.create("/api/v1/sites/site-1", SITE)
    await ingest.create("/api/v1/lines/line-1", {"name": "Gateway", "kind": "tcp", "endpoint": endpoint})
    await ingest.create(
        "/api/v1/devices/meter-1",
        {
            "name": "Meter", "kind": "meter_3p", "profile": "chint_dtsu666", "site": "site-1", "line": "line-1",
            "address": "1", "ct_ratio": 20, **device,
        },
    )  # fmt: skip


async def test_meter_is_polled_normalised_stored_and_shown(ingest: RunningIngest, peer: Peer) -> None:
    fill_dtsu666(peer)
    await create_meter(ingest, peer.endpoint)

    async def latest() -> Any:
        return (await ingest.get("/api/v1/readings/latest", site="site-1"))["items"]

    (found,) = await until(latest, "a reading of the meter")
    assert found["device_id"] == "meter-1"
    assert found["points"]["voltage_a"] == pytest.approx(230.1, abs=1e-4)  # V: secondary side, pt 1
    assert found["points"]["current_a"] == pytest.approx(100.0, abs=1e-4)  # 5 A through a ratio of 20
    assert found["points"]["active_power_total"] == pytest.approx(3 * 230.1 * 5 / 1000 * 20, rel=1e-5)
    assert found["points"]["energy_active_import"] == 1234.5  # as the meter shows it
    assert found["energy_ratio"] == 20
    assert found["ct_ratio"] == 20

    readings = await ingest.messages(topics.READINGS)
    assert {message.get("device_id", "heartbeat") for message in readings} == {"meter-1", "heartbeat"}

    async def online() -> Any:
        return [m for m in await ingest.messages(topics.DEVICE_STATUS) if m["connectivity"] == "online"]

    (status, *_) = await until(online, "status online")
    assert (status["device_id"], status["line_id"]) == ("meter-1", "line-1")


async def test_meter_that_stops_answering_is_told_offline_and_never_reads_zero(
    ingest: RunningIngest, peer: Peer, tmp_path: Path
) -> None:
    fill_dtsu666(peer)
    await create_meter(ingest, peer.endpoint)
    await until(lambda: readings_of(ingest, "meter-1"), "a reading")
    peer.stop()

    async def offline() -> Any:
        return [m for m in await ingest.messages(topics.DEVICE_STATUS) if m["connectivity"] == "offline"]

    await until(offline, "status offline")
    page = await ingest.get("/api/v1/readings", device="meter-1")
    assert all(item["points"]["voltage_a"] > 200 for item in page["items"])


async def test_completeness_counts_what_came_against_what_was_due(ingest: RunningIngest, peer: Peer) -> None:
    fill_dtsu666(peer)
    await create_meter(ingest, peer.endpoint)
    await until(lambda: readings_of(ingest, "meter-1"), "a reading")
    now = ingest.platform.clock.now()

    async def counted() -> Any:
        span = {"from": (now - timedelta(hours=1)).isoformat(), "to": (now + timedelta(seconds=5)).isoformat()}
        items = (await ingest.get("/api/v1/completeness", site="site-1", **span))["items"]
        # The device is in the registry since a moment ago: the hour before has no row.
        return items if sum(item["received"] for item in items) >= 5 else None

    items = await until(counted, "five reports counted")
    assert all(item["device_id"] == "meter-1" and 0 < item["report_completeness"] <= 1 for item in items)
    assert all(item["expected"] >= 1 for item in items)


async def readings_of(ingest: RunningIngest, device_id: str) -> Any:
    return (await ingest.get("/api/v1/readings/latest", device=device_id))["items"]
