"""Exchanging a device, coverage, and the registry as a workbook, over HTTP."""

import io
from datetime import timedelta
from typing import Any

import asyncpg
import openpyxl
import pytest

from libs.common.bus import topics
from tests.integration.ingest.conftest import RunningIngest, until
from tests.integration.ingest.test_ingest_registry import upload

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

FILE = """
schema: registry/1
valid_from: 2026-01-01T00:00:00+08:00
regions:
  - {id: region-44, code: 440000, name: Guangdong, name_zh: 广东省}
  - {id: region-4401, code: 440100, name: Guangzhou, parent: region-44}
sites:
  - {id: site-1, code: GZ-1, name: One, kind: base_station, station_class: C, region: region-4401}
  - {id: site-2, code: GZ-2, name: Two, kind: base_station, station_class: C, region: region-44}
  - {id: site-3, code: GZ-3, name: Three, kind: exchange, station_class: A}
lines:
  - {id: line-1, name: Gateway, kind: tcp, endpoint: "127.0.0.1:1"}
devices:
  - {id: meter-1, name: Meter, kind: meter_3p, profile: chint_dtsu666, site: site-1, line: line-1, address: 1,
     ct_ratio: 20, serial: A1}
  - {id: breaker-1, name: Breaker, kind: breaker, profile: lx47le_125, site: site-1, line: line-1, address: 2}
  - {id: meter-3, name: Meter, kind: meter_3p, site: site-3}
circuits:
  - {id: circuit-1, name: Feed, level: 1, role: site_feed, site: site-1}
bindings:
  - {id: binding-1, name: Meter on feed, device: meter-1, circuit: circuit-1, initial_register: 0}
loads:
  - {id: load-1, name: AAU, kind: aau, site: site-1, sector: 1, breaker: {device: breaker-1}}
"""
FIRST = [{"channel": 1, "final": 812.5, "initial": 0.2}]
EXCHANGE: dict[str, Any] = {
    "new": {"id": "meter-1b", "serial": "B2", "ct_ratio": 30},
    "at": "2026-06-01T10:00:00+08:00",
    "registers": FIRST,
    "reason": "broken display",
}


async def replace(ingest: RunningIngest, device: str, body: dict[str, Any], **params: Any) -> Any:
    path = f"/api/v1/devices/{device}/replacement"
    response = await ingest.http.post(path, json=body, params=params, headers=ingest.headers())
    return response.status_code, response.json()


async def test_exchange_ends_and_begins_bindings_with_their_registers(ingest: RunningIngest) -> None:
    await upload(ingest, FILE)
    status, planned = await replace(ingest, "meter-1", EXCHANGE, dry_run=True)
    assert (status, planned["new_bindings"], planned["dry_run"]) == (200, ["meter-1b.1"], True)
    assert (await ingest.http.get("/api/v1/devices/meter-1b", headers=ingest.headers())).status_code == 404

    status, done = await replace(ingest, "meter-1", EXCHANGE)
    assert (status, done["ended_bindings"], done["loads"]) == (200, ["binding-1"], [])
    new = await ingest.get("/api/v1/devices/meter-1b")
    assert (new["line"], new["address"], new["serial"], new["ct_ratio"], new["profile"]) == (
        "line-1", "1", "B2", 30, "chint_dtsu666",
    )  # fmt: skip
    old = (await ingest.get("/api/v1/devices/meter-1/history"))["versions"]
    assert [("line" in version, version.get("decommissioned_at")) for version in old] == [
        (True, None),
        (False, "2026-06-01T02:00:00Z"),
    ]
    ended = (await ingest.get("/api/v1/bindings/binding-1/history"))["versions"][-1]
    assert (ended["final_register"], ended["valid_to"]) == (812.5, "2026-06-01T02:00:00Z")
    begun = await ingest.get("/api/v1/bindings/meter-1b.1")
    assert (begun["device"], begun["circuit"], begun["initial_register"], begun["valid_from"]) == (
        "meter-1b", "circuit-1", 0.2, "2026-06-01T02:00:00Z",
    )  # fmt: skip

    async def told() -> bool:
        return "device.replace" in [audit["action"] for audit in await ingest.messages(topics.AUDIT)]

    await until(told, "the audit event")


async def test_loads_and_circuits_of_a_device_go_over(ingest: RunningIngest) -> None:
    await upload(ingest, FILE)
    await ingest.create(
        "/api/v1/devices/breaker-1.2",
        {"name": "2", "kind": "breaker", "site": "site-1", "parent": "breaker-1", "channel": 2,
         "valid_from": "2026-01-01T00:00:00Z"},
    )  # fmt: skip
    body = {"new": {"id": "breaker-2"}, "at": "2026-06-01T10:00:00+08:00"}
    status, done = await replace(ingest, "breaker-1", body)
    assert (status, done["loads"], done["children"]) == (200, ["load-1"], ["breaker-1.2"])
    history = (await ingest.get("/api/v1/loads/load-1/history"))["versions"]
    assert [version["breaker"]["device"] for version in history] == ["breaker-1", "breaker-2"]


IMPOSSIBLE: list[tuple[str, dict[str, Any], int, str]] = [
    ("meter-9", {}, 404, "there is no device meter-9"),
    ("meter-1", {"registers": []}, 400, "registers of channel 1"),
    (
        "meter-1",
        {"registers": [*EXCHANGE["registers"], {"channel": 2, "final": 1, "initial": 0}]},
        400,
        "channel 2",
    ),
    ("meter-1", {"at": "2199-01-01T00:00:00Z"}, 400, "a time that has passed"),
    ("meter-1", {"at": "2025-01-01T00:00:00Z"}, 404, "there is no device"),
    ("meter-1", {"new": {"id": "meter-1"}}, 400, "an id of its own"),
    ("meter-1", {"new": {"id": "breaker-1"}}, 409, "exists already"),
    ("meter-1", {"new": {"id": "m", "profile": "none"}}, 400, "device profile"),
    ("meter-1", {"new": {"id": "m", "line": "line-9"}}, 400, "line-9"),
]


@pytest.mark.sql
async def test_an_exchange_that_cannot_be_changes_nothing(ingest: RunningIngest) -> None:
    await upload(ingest, FILE)
    for device, changes, status, says in IMPOSSIBLE:
        answer = await replace(ingest, device, {**EXCHANGE, **changes})
        assert answer[0] == status, (changes, answer)
        assert says in answer[1]["detail"]
        assert len((await ingest.get("/api/v1/devices/meter-1/history"))["versions"]) == 1, changes
        assert len((await ingest.get("/api/v1/bindings"))["items"]) == 1, changes


@pytest.mark.sql
async def test_coverage_counts_sites_with_a_meter_that_is_heard(ingest: RunningIngest, postgres_url: str) -> None:
    await upload(ingest, FILE)
    conn = await asyncpg.connect(postgres_url)
    try:
        await conn.execute(
            """
            insert into ingest.device_status (device_id, site_id, connectivity, since, published_at)
            values ('meter-3', 'site-3', 'online', now(), now())
            """
        )
    finally:
        await conn.close()

    async def counted() -> Any:
        found = (await ingest.get("/api/v1/sites/coverage"))["items"]
        return found[0] if found and (found[0]["sites"], found[0]["metered"]) == (3, 2) else None

    assert await until(counted, "the sites") == {
        "group": None, "name": None, "sites": 3, "metered": 2, "live": 1, "ratio": pytest.approx(1 / 3)
    }  # fmt: skip
    by_class = (await ingest.get("/api/v1/sites/coverage", by="class"))["items"]
    assert [(one["group"], one["sites"], one["live"]) for one in by_class] == [("A", 1, 1), ("C", 2, 0)]
    by_city = (await ingest.get("/api/v1/sites/coverage", by="city"))["items"]
    assert [(one["group"], one["sites"], one["live"]) for one in by_city] == [("region-4401", 1, 0), (None, 2, 1)]


async def test_the_workbook_is_exported_changed_and_imported(ingest: RunningIngest) -> None:
    await upload(ingest, FILE)
    response = await ingest.http.get("/api/v1/imports/registry.xlsx", headers=ingest.headers())
    assert response.status_code == 200
    status, same = await upload(ingest, response.content, file="same.xlsx")
    assert (status, same["state"], same["counts"]["changed"], same["counts"]["created"]) == (201, "succeeded", {}, {})
    book = openpyxl.load_workbook(io.BytesIO(response.content))
    page = book["devices"]
    headings = [cell.value for cell in page[1]]
    row = next(row for row in page.iter_rows(min_row=2) if row[0].value == "meter-1")
    row[headings.index("ct_ratio")].value = 40
    row[headings.index("valid_from")].value = (ingest.platform.clock.now() - timedelta(hours=1)).isoformat()
    changed = io.BytesIO()
    book.save(changed)
    for dry_run in (True, False):
        status, found = await upload(ingest, changed.getvalue(), file="changed.xlsx", dry_run=dry_run)
        assert (status, found["counts"]["changed"]) == (201, {"device": 1})
        assert found["changes"] == [
            {"kind": "device", "id": "meter-1", "new": False, "fields": {"ct_ratio": [20.0, 40.0]}}
        ]
    assert (await ingest.get("/api/v1/devices/meter-1"))["ct_ratio"] == 40
    page["B2"].value = None
    book.save(changed := io.BytesIO())
    status, refused = await upload(ingest, changed.getvalue(), file="wrong.xlsx")
    assert (status, refused["facts"]["problems"][0]["line"], refused["facts"]["problems"][0]["field"]) == (
        400,
        2,
        "devices[0].name",
    )


@pytest.mark.sql
async def test_a_table_of_readings_is_tried_and_taken_with_a_list_of_its_wrong_lines(ingest: RunningIngest) -> None:
    await upload(ingest, FILE)
    table = (
        "device_id,source_time,voltage_a\n"
        "meter-3,2026-11-01 12:00,230\nmeter-3,2026-11-01 12:15,x\nnobody,2026-11-01 12:30,230\n"
    )
    args = {"kind": "readings", "file": "old.csv", "timezone": "Asia/Shanghai"}
    status, tried = await upload(ingest, table.encode("gb18030"), dry_run=True, **args)
    assert (status, tried["counts"]) == (201, {"accepted": 1, "rejected": 2})
    expected = [(3, "not_a_number"), (4, "unknown_device")]
    lines = (await ingest.get(f"/api/v1/imports/{tried['id']}/lines"))["items"]
    assert [(line["line"], line["reason"]) for line in lines] == expected
    assert (await ingest.get("/api/v1/rejected"))["items"] == []

    status, found = await upload(ingest, table, **args)
    assert (status, found["counts"]) == (201, {"accepted": 1, "rejected": 2})
    text = (await ingest.http.get(f"/api/v1/imports/{found['id']}/lines.csv", headers=ingest.headers())).text
    assert [row.split(",")[:2] for row in text.splitlines()[1:]] == [["3", "not_a_number"], ["4", "unknown_device"]]

    async def stored() -> Any:
        params = {"device": "meter-3", "from": "2026-11-01T00:00:00Z", "to": "2026-11-02T00:00:00Z"}
        return (await ingest.get("/api/v1/readings", **params))["items"]

    [item] = await until(stored, "the reading")
    assert (item["source_time"], item["points"]) == ("2026-11-01T04:00:00Z", {"voltage_a": 230})
    status, refused = await upload(ingest, table, kind="readings", timezone="Mars/Olympus")
    assert (status, "timezone" in refused["detail"]) == (400, True)
