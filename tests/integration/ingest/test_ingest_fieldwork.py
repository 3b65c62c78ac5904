"""Commissioning helpers over HTTP, on a simulated pair with meters of several makers."""

import asyncio
import struct
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from pyModbusTCP.server import DeviceIdentification  # type: ignore[import-untyped]

from libs.common.clock import SystemClock
from libs.common.db import Database
from libs.common.lease import LeaseKeeper
from libs.common.profiles import ProfileCatalogue
from libs.fieldsim.field import Field
from libs.fieldsim.fieldfile import FieldFile
from services.ingest.drivers.fieldwork import identity
from services.ingest.drivers.modbus_rtu import RtuAsking
from services.ingest.drivers.stream import StreamLine
from tests.integration.ingest.conftest import SITE, Peer, RunningIngest, until
from tests.integration.ingest.test_ingest_modbus import Peer0, opened
from tests.integration.ingest.test_ingest_polling import fill_dtsu666

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

PAIR = {
    "schema": "field/1",
    "loads": [{"id": "load-1", "constant_kw": 3.0, "gain": 0.0}],
    "lines": [{"id": "pair", "framing": "rtu", "absent": "silent"}],
    "devices": [
        {"id": "m-3", "site": "s", "line": "pair", "unit": 3, "profile": "eastron_sdm630", "loads": ["load-1"]},
        {"id": "m-7", "site": "s", "line": "pair", "unit": 7, "profile": "chint_dtsu666", "loads": ["load-1"]},
    ],
}  # fmt: skip


@pytest.fixture
async def pair() -> AsyncIterator[str]:
    """Where a converter listens behind which units 3 (Eastron) and 7 (CHINT) are."""
    field = Field(FieldFile.model_validate(PAIR), clock=SystemClock(), refresh_s=0.0)
    await field.start()
    yield field.endpoints["pair"]
    await field.stop()
    await asyncio.sleep(0.01)


async def create_line(ingest: RunningIngest, endpoint: str, kind: str = "rtu_over_tcp") -> None:
    await ingest.create("/api/v1/lines/line-1", {"name": "Pair", "kind": kind, "endpoint": endpoint,
                                                 "settings": {"quiet_s": 0.02}})  # fmt: skip

    async def known() -> bool:
        return (await ingest.http.post("/api/v1/lines/line-1/scan", json={"first": 200, "last": 200, "timeout_s": 0.01},
                                       headers=ingest.headers())).status_code == 200  # fmt: skip

    await until(known, "the line known to the process")


async def create_meter(ingest: RunningIngest) -> None:
    await ingest.create("/api/v1/sites/site-1", SITE)
    await ingest.create(
        "/api/v1/devices/m-7",
        {
            "name": "M",
            "kind": "meter_3p",
            "profile": "chint_dtsu666",
            "site": "site-1",
            "line": "line-1",
            "address": "7",
        },
    )

    async def polled() -> Any:
        return (await ingest.get("/api/v1/readings/latest", device="m-7"))["items"]

    await until(polled, "the meter polled")


async def post(ingest: RunningIngest, helper: str, **body: Any) -> Any:
    response = await ingest.http.post(f"/api/v1/lines/line-1/{helper}", json=body, headers=ingest.headers())
    assert response.status_code == 200, response.text
    return response.json()


async def test_line_without_devices_is_scanned_in_parts_and_given_back(ingest: RunningIngest, pair: str) -> None:
    await create_line(ingest, pair)
    found: list[int] = []
    first, parts, asked = 1, 0, 0
    while first is not None:
        answer = await post(ingest, "scan", first=first, last=8, timeout_s=0.1, budget_s=0.25)
        found += [unit["unit"] for unit in answer["found"]]
        first, parts, asked = answer["next"], parts + 1, asked + answer["asked"]
    assert (found, asked) == ([3, 7], 8)
    assert parts > 1
    # Nobody keeps the line: a device that is put on it is polled.
    await create_meter(ingest)
    # And while it is polled it can be scanned all the same.
    answer = await post(ingest, "scan", first=6, last=8, timeout_s=0.1)
    assert [unit["unit"] for unit in answer["found"]] == [7]


async def test_profile_that_fits_is_proposed(ingest: RunningIngest, pair: str) -> None:
    await create_line(ingest, pair)
    for unit, profile in ((3, "eastron_sdm630"), (7, "chint_dtsu666")):
        proposals: list[Any] = []
        start = None
        while True:
            answer = await post(ingest, "propose", address=str(unit), start=start)
            proposals += answer["proposals"]
            start = answer["next"]
            if start is None:
                break
        proposals.sort(key=lambda found: (-found["score"], -found["point_count"]))
        assert proposals[0]["profile"] == profile
        assert proposals[0]["score"] > 0.7
        assert {point["look"] for point in proposals[0]["points"]} <= {"fits", "says_nothing"}
        assert {found["profile"] for found in proposals} >= {
            one.name
            for one in ProfileCatalogue.load()
            if one.protocol == "modbus" and not one.name.startswith("example_")
        }


async def test_wrong_base_and_wrong_order_are_shown_and_the_device_says_what_it_is(
    ingest: RunningIngest, peer: Peer
) -> None:
    fill_dtsu666(peer)
    bank = peer.bank
    await create_line(ingest, peer.endpoint, "tcp")
    high, low = struct.unpack(">HH", struct.pack(">f", 2301.0))
    bank.set_holding_registers(0x2006, [low, high])
    answer = await post(ingest, "probe", unit=1, profile="chint_dtsu666", points=["voltage_a"])
    (here,) = [one for one in answer["places"] if one["offset"] == 0]
    assert here["by_order"]["CDAB"] == pytest.approx(230.1, abs=1e-3)
    assert here["look"] == "wrong"

    # The manual counted from 1: everything stands one register further.
    bank.set_holding_registers(0x2006, [high, low])
    words = bank.get_holding_registers(0x2000, 0x60)
    bank.set_holding_registers(0x2000, [0x7F7F])
    bank.set_holding_registers(0x2001, words)
    answer = await post(ingest, "probe", unit=1, profile="chint_dtsu666", points=["voltage_a", "voltage_b"])
    assert answer["offset"] == 1
    (right,) = [one for one in answer["places"] if (one["point"], one["offset"]) == ("voltage_a", 1)]
    assert right["address"] == 0x2007
    assert right["by_order"]["ABCD"] == pytest.approx(230.1, abs=1e-3)
    assert right["look"] == "fits"
    assert {one["look"] for one in answer["places"] if one["offset"] == 0} == {"wrong"}

    peer.server.device_id = DeviceIdentification(
        vendor_name=b"CHINT", product_code=b"DTSU666", major_minor_revision=b"V1.2"
    )
    answer = await post(ingest, "identify", unit=1)
    assert answer["objects"] == {"vendor": "CHINT", "product_code": "DTSU666", "revision": "V1.2"}
    assert answer["server_id_hex"] is None


async def test_identity_over_rtu_is_cut_from_the_stream() -> None:
    async def answer(peer: Peer0, unit: int, pdu: bytes) -> bytes | None:
        if pdu[0] == 0x11:
            return bytes([0x11, 4]) + b"ABC\xff"
        return bytes([0x2B, 0x0E, 1, 1, 0, 0, 2, 0, 3]) + b"ABB" + bytes([1, 2]) + b"B2"

    class Short(Peer0):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while data := await reader.read(100):
                    unit, pdu = data[0], data[1:-2]
                    reply = await answer(self, unit, pdu)
                    assert reply is not None
                    for byte in self.frame(b"", unit, reply):
                        writer.write(bytes([byte]))
                        await writer.drain()
            except ConnectionError:
                pass
            finally:
                writer.close()

    peer = Short("rtu")
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    line = opened(server.sockets[0].getsockname()[1], "rtu")
    assert isinstance(line, StreamLine)
    found = await identity(RtuAsking(line, ""), 5, timeout_s=10)
    assert found.objects == {"vendor": "ABB", "product_code": "B2"}
    assert found.server_id_hex == b"ABC".hex()
    await line.close()
    server.close()
    await asyncio.sleep(0.01)


async def test_frames_of_a_device_are_shown_as_they_go_by(ingest: RunningIngest, pair: str) -> None:
    await create_line(ingest, pair)
    await create_meter(ingest)
    url = "/api/v1/lines/line-1/trace"
    frames: list[Any] = []
    async with (
        asyncio.timeout(30),
        ingest.http.stream("GET", url, params={"device": "m-7", "for_s": 30}, headers=ingest.headers()) as response,
    ):
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if line:
                frames.append(orjson.loads(line))
            if {frame["direction"] for frame in frames} == {"sent", "received"} and len(frames) > 3:
                break
    assert {frame["device"] for frame in frames} == {"m-7"}
    assert all(frame["hex"].startswith("07 03 ") for frame in frames if frame["direction"] == "sent")
    assert all(len(bytes.fromhex(frame["hex"])) == frame["bytes"] for frame in frames)

    response = await ingest.http.get(url, params={"for_s": 0.01}, headers=ingest.headers())
    assert (response.status_code, response.headers["content-type"]) == (200, "application/x-ndjson")


async def test_scan_of_a_line_that_is_changed_meanwhile_ends(ingest: RunningIngest, pair: str) -> None:
    await create_line(ingest, pair)
    await create_meter(ingest)
    headers = ingest.headers()
    body = {"first": 100, "last": 240, "timeout_s": 0.2, "budget_s": 20}
    scanning = asyncio.create_task(
        ingest.http.post("/api/v1/lines/line-1/scan", json=body, headers=headers), name="scanning"
    )
    before = {"if-match": '"1"'}
    line = {"name": "Pair", "kind": "rtu_over_tcp", "endpoint": pair, "settings": {"quiet_s": 0.05}}
    assert (await ingest.put("/api/v1/lines/line-1", line, **before)).status_code == 200
    answer = await scanning
    assert answer.status_code == 503
    assert answer.json()["code"] in ("line_down", "device_silent")  # between two turns, or in the middle of one


async def test_line_of_another_process_is_named(ingest: RunningIngest, pair: str, postgres_url: str) -> None:
    await create_line(ingest, pair)
    db = Database(ingest.platform.settings.database, schema="ingest")
    await db.open()
    try:
        assert await LeaseKeeper(db, SystemClock(), "ingest-other", 60.0).acquire("line/line-1") is not None
        response = await ingest.http.post("/api/v1/lines/line-1/scan", json={}, headers=ingest.headers())
        assert response.status_code == 409
        assert response.json()["code"] == "not_the_holder"
        assert "ingest-other" in response.json()["detail"]
    finally:
        await db.close()


async def test_what_cannot_be_asked_is_refused(ingest: RunningIngest, pair: str) -> None:
    await create_line(ingest, pair)
    headers = ingest.headers()
    missing = await ingest.http.post("/api/v1/lines/line-9/scan", json={}, headers=headers)
    assert (missing.status_code, missing.json()["code"]) == (404, "unknown_line")
    unpolled = await ingest.http.get("/api/v1/lines/line-1/trace", headers=headers)
    assert (unpolled.status_code, unpolled.json()["code"]) == (409, "not_the_holder")
    wrong = await ingest.http.post(
        "/api/v1/lines/line-1/probe", json={"unit": 3, "profile": "eastron_sdm630", "points": ["nothing"]},
        headers=headers,
    )  # fmt: skip
    assert wrong.status_code == 400
    for body in ({"first": 256}, {"timeout_s": 0}, {"budget_s": 21}, {"unit": 1}):
        answer = await ingest.http.post("/api/v1/lines/line-1/scan", json=body, headers=headers)
        assert answer.status_code == 422, body
    reader = ingest.headers(scopes=("ingest:read",))
    assert (await ingest.http.post("/api/v1/lines/line-1/scan", json={}, headers=reader)).status_code == 403
    assert (await ingest.http.get("/api/v1/lines/line-1/trace", headers=reader)).status_code == 403
    limited = ingest.headers(sites=("site-2",))
    assert (await ingest.http.post("/api/v1/lines/line-1/scan", json={}, headers=limited)).status_code == 403
    silent = await ingest.http.post("/api/v1/lines/line-1/propose", json={"address": "99"}, headers=headers)
    assert (silent.status_code, silent.json()["code"]) == (503, "device_silent")
