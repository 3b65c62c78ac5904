"""The registry over HTTP and by file: versions, references, conflicts, removal, the record on the topic."""

import asyncio
import base64
import gzip
from datetime import timedelta
from typing import Any

import orjson
import pytest

from libs.common.bus import topics
from libs.common.clock import SystemClock
from libs.common.db import Database
from libs.common.jobs import JobWorker
from libs.common.settings import DatabaseSettings
from services.ingest.jobs import JOB_HANDLERS
from tests.integration.ingest.conftest import SITE, RunningIngest, until

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

FILE = """
schema: registry/1
valid_from: 2026-01-01T00:00:00+08:00
sites:
  - {id: site-1, code: GZ-1, name: One, kind: base_station}
lines:
  - {id: line-1, name: Gateway, kind: tcp, endpoint: "127.0.0.1:1"}
devices:
  - {id: meter-1, name: Meter, kind: meter_3p, profile: chint_dtsu666, site: site-1, line: line-1, address: 1,
     ct_ratio: 20}
circuits:
  - {id: circuit-1, name: Feed, level: 1, role: site_feed, site: site-1}
bindings:
  - {id: binding-1, name: Meter on feed, device: meter-1, circuit: circuit-1}
"""


async def upload(ingest: RunningIngest, body: str | bytes, **params: Any) -> Any:
    response = await ingest.http.post("/api/v1/imports", params=params, content=body, headers=ingest.headers("cli"))
    return response.status_code, response.json()


async def test_put_creates_then_versions_and_the_topic_has_the_whole_history(ingest: RunningIngest) -> None:
    await ingest.create("/api/v1/sites/site-1", SITE)
    response = await ingest.put("/api/v1/sites/site-1", {**SITE, "name": "Renamed"}, **{"If-Match": '"1"'})
    assert (response.status_code, response.headers["etag"], response.json()["version"]) == (200, '"2"', 2)
    history = await ingest.get("/api/v1/sites/site-1/history")
    assert [version["name"] for version in history["versions"]] == ["Baiyun 3", "Renamed"]
    assert history["versions"][0]["valid_to"] == history["versions"][1]["valid_from"]

    async def published() -> Any:
        records = await ingest.messages(topics.REGISTRY)
        return records if records and len(records[-1]["versions"]) == 2 else None

    records = await until(published, "both versions in one record")
    assert [version["name"] for version in records[-1]["versions"]] == ["Baiyun 3", "Renamed"]
    audits = await ingest.messages(topics.AUDIT)
    assert [(audit["actor"], audit["action"], audit["subject"]) for audit in audits] == [
        ("service:gateway", "site.put", "site:site-1"),
        ("service:gateway", "site.put", "site:site-1"),
    ]
    assert (audits[1]["before"]["name"], audits[1]["after"]["name"]) == ("Baiyun 3", "Renamed")


async def test_stale_version_is_a_conflict_and_changes_nothing(ingest: RunningIngest) -> None:
    await ingest.create("/api/v1/sites/site-1", SITE)
    await ingest.put("/api/v1/sites/site-1", {**SITE, "name": "B"})
    response = await ingest.put("/api/v1/sites/site-1", {**SITE, "name": "C"}, **{"If-Match": '"1"'})
    assert (response.status_code, response.json()["code"]) == (409, "version_conflict")
    response = await ingest.put("/api/v1/sites/site-1", {**SITE, "name": "C"}, **{"If-None-Match": "*"})
    assert response.status_code == 409
    assert (await ingest.get("/api/v1/sites/site-1"))["name"] == "B"


async def test_the_same_again_is_no_new_version(ingest: RunningIngest) -> None:
    await ingest.create("/api/v1/sites/site-1", SITE)
    response = await ingest.put("/api/v1/sites/site-1", SITE)
    assert (response.status_code, response.json()["version"]) == (200, 1)


async def test_wrong_entity_is_refused_with_its_field(ingest: RunningIngest) -> None:
    for body, field in (
        ({**SITE, "colour": "red"}, "colour"),
        ({**SITE, "kind": "castle"}, "kind"),
        ({**SITE, "region": "nowhere"}, "region"),
        ({name: value for name, value in SITE.items() if name != "code"}, "code"),
    ):
        response = await ingest.put("/api/v1/sites/site-1", body)
        assert response.status_code == 400, body
        assert field in response.json()["detail"]
        assert (await ingest.get("/api/v1/sites"))["items"] == [], body


@pytest.mark.sql
async def test_what_is_in_use_cannot_be_removed_and_what_is_removed_keeps_its_history(ingest: RunningIngest) -> None:
    await ingest.create("/api/v1/sites/site-1", SITE)
    await ingest.create("/api/v1/rooms/room-1", {"name": "Room", "code": "01", "site": "site-1"})
    refused = await ingest.http.delete("/api/v1/sites/site-1", headers=ingest.headers())
    assert (refused.status_code, refused.json()["facts"]["referring"]) == (409, ["room room-1"])
    for path in ("rooms/room-1", "sites/site-1"):
        assert (await ingest.http.delete(f"/api/v1/{path}", headers=ingest.headers())).status_code == 204
    assert (await ingest.get("/api/v1/sites"))["items"] == []
    assert [item["id"] for item in (await ingest.get("/api/v1/sites", state="removed"))["items"]] == ["site-1"]

    async def removed() -> bool:
        records = await ingest.messages(topics.REGISTRY)
        return any(record["id"] == "site-1" and record["state"] == "removed" for record in records)

    await until(removed, "the removal on the topic")
    await ingest.put("/api/v1/sites/site-1", SITE)
    assert (await ingest.get("/api/v1/sites/site-1/history"))["state"] == "active"


async def test_list_is_paged_and_filtered(ingest: RunningIngest) -> None:
    for number in range(5):
        await ingest.create(f"/api/v1/sites/site-{number}", {**SITE, "code": f"C{number}"})
        await ingest.create(f"/api/v1/rooms/room-{number}", {"name": "R", "code": "1", "site": f"site-{number}"})
    first = await ingest.get("/api/v1/sites", limit=2)
    second = await ingest.get("/api/v1/sites", limit=2, cursor=first["next_cursor"])
    third = await ingest.get("/api/v1/sites", limit=2, cursor=second["next_cursor"])
    assert [[item["id"] for item in page["items"]] for page in (first, second, third)] == [
        ["site-0", "site-1"],
        ["site-2", "site-3"],
        ["site-4"],
    ]
    assert third["next_cursor"] is None
    assert [item["id"] for item in (await ingest.get("/api/v1/rooms", site="site-3"))["items"]] == ["room-3"]
    assert [item["id"] for item in (await ingest.get("/api/v1/sites", q="c4"))["items"]] == ["site-4"]


async def test_somebody_limited_to_a_site_sees_and_changes_only_that(ingest: RunningIngest) -> None:
    for number in (1, 2):
        await ingest.create(f"/api/v1/sites/site-{number}", {**SITE, "code": f"C{number}"})
    limited = ingest.headers(scopes=("ingest:read", "ingest:write"), kind="user", sites=("site-1",))
    listed = await ingest.http.get("/api/v1/sites", headers=limited)
    assert [item["id"] for item in listed.json()["items"]] == ["site-1"]
    assert (await ingest.http.get("/api/v1/sites/site-2", headers=limited)).status_code == 404
    body = {**SITE, "name": "Mine"}
    assert (await ingest.http.put("/api/v1/sites/site-2", json=body, headers=limited)).status_code == 403
    assert (await ingest.http.put("/api/v1/sites/site-1", json=body, headers=limited)).status_code == 200


async def test_file_is_taken_whole_and_a_second_time_changes_nothing(ingest: RunningIngest) -> None:
    status, found = await upload(ingest, FILE, file="registry.yaml", dry_run="true")
    assert (status, found["state"], found["counts"]["created"]["device"]) == (201, "succeeded", 1)
    assert (await ingest.get("/api/v1/devices"))["items"] == []
    status, found = await upload(ingest, FILE, file="registry.yaml")
    assert sum(found["counts"]["created"].values()) == 5
    device = await ingest.get("/api/v1/devices/meter-1")
    assert (device["ct_ratio"], device["changed_by"]) == (20, "import:registry.yaml")
    _, found = await upload(ingest, gzip.compress(FILE.encode()), file="registry.yaml.gz")
    assert (found["counts"]["created"], sum(found["counts"]["unchanged"].values())) == ({}, 5)


async def test_file_with_a_mistake_says_where_and_imports_nothing(ingest: RunningIngest) -> None:
    broken = FILE.replace("kind: base_station", "kind: castle").replace("ct_ratio: 20", "ct_ratio: none")
    status, found = await upload(ingest, broken, file="registry.yaml")
    assert (status, found["code"]) == (400, "invalid_file")
    problems = found["facts"]["problems"]
    assert [(problem["line"], problem["field"]) for problem in problems] == [
        (5, "sites[0].kind"),
        (10, "devices[0].ct_ratio"),
    ]
    for path in ("sites", "devices", "lines", "circuits"):
        assert (await ingest.get(f"/api/v1/{path}"))["items"] == []
    failed = await ingest.get(f"/api/v1/imports/{found['facts']['import_id']}")
    assert (failed["state"], failed["problems"]) == ("failed", problems)


def line(at: str, voltage: object, **fields: Any) -> bytes:
    return orjson.dumps({"device_id": "meter-1", "source_time": at, "points": {"voltage_a": voltage}, **fields})


@pytest.mark.sql
async def test_archive_of_readings_goes_in_and_wrong_lines_are_on_record(
    ingest: RunningIngest, postgres_url: str
) -> None:
    await upload(ingest, FILE, file="registry.yaml")
    lines = [line(f"2026-01-02T{hour:02}:{minute:02}:00Z", 230.0) for hour in range(20) for minute in range(60)]
    lines[3] = line("2026-01-02T00:03:00Z", "230")
    lines[4] = line("yesterday", 230.0)
    lines[5] = line("2026-01-02T00:05:00Z", 230.0, device_id="nobody")
    lines[6] = line("2199-01-02T00:06:00Z", 230.0)
    lines[7] = line("2026-01-02T00:07:00Z", 230.0, units={"voltage_a": "kWh"})
    lines[8] = line("2026-01-02T00:08:00Z", 230.0).replace(b"230.0", b"NaN")
    lines[9] = b"{"
    lines[10] = line("2026-01-02T00:10:00Z", 0.23, units={"voltage_a": "kV"})
    status, found = await upload(ingest, b"\n".join(lines), kind="readings", file="archive.ndjson")
    assert (status, found["state"]) == (202, "queued")  # too large to be done at once

    database = Database(DatabaseSettings(url=postgres_url), schema="ingest", role="wattring_ingest")
    await database.open()
    worker = asyncio.create_task(
        JobWorker(db=database, clock=SystemClock(), handlers=JOB_HANDLERS).run(lambda: None), name="job worker"
    )

    async def done() -> Any:
        shown = await ingest.get(f"/api/v1/imports/{found['id']}")
        return shown if shown["state"] == "succeeded" else None

    try:
        shown = await until(done, "the import")
    finally:
        worker.cancel()
        await asyncio.wait([worker])
        await database.close()
    assert shown["counts"] == {"accepted": 1193, "rejected": 7}
    assert [(problem["line"], problem["field"]) for problem in shown["problems"]] == [
        (4, "not_a_number"),
        (5, "unreadable_time"),
        (6, "unknown_device"),
        (7, "future_time"),
        (8, "wrong_unit"),
        (9, "not_a_number"),
        (10, "undecodable"),
    ]

    async def stored() -> Any:
        page = await ingest.get(
            "/api/v1/readings",
            device="meter-1",
            bucket="1d",
            **{"from": "2026-01-01T00:00:00Z", "to": "2026-01-04T00:00:00Z"},
        )
        return page["items"] if sum(item["reports"] for item in page["items"]) == 1193 else None

    buckets = await until(stored, "all lines in the history")
    assert {item["points"]["voltage_a"]["max"] for item in buckets} == {230.0}  # 0.23 kV too

    async def rejected() -> Any:
        items = (await ingest.get("/api/v1/rejected", source="import:archive.ndjson"))["items"]
        return items if len(items) == 7 else None

    assert {item["reason"] for item in await until(rejected, "the rejected lines")} == {
        "not_a_number", "unreadable_time", "unknown_device", "future_time", "wrong_unit", "undecodable",
    }  # fmt: skip
    assert all(message["device_id"] == "meter-1" for message in await ingest.messages(topics.BACKFILL))


async def push(ingest: RunningIngest, body: bytes) -> Any:
    response = await ingest.http.post("/api/v1/readings", content=body, headers=ingest.headers())
    assert response.status_code == 200, response.text
    return response.json()


async def test_pushed_reading_is_live_and_bad_ones_are_rejected_with_their_bytes(ingest: RunningIngest) -> None:
    await upload(ingest, FILE, file="registry.yaml")

    async def known() -> bool:
        return any(record["id"] == "meter-1" for record in await ingest.messages(topics.REGISTRY))

    await until(known, "the device on the topic")
    nothing = await ingest.http.post("/api/v1/readings", content=b" ", headers=ingest.headers())
    assert (nothing.status_code, nothing.json()["facts"]["reason"]) == (400, "undecodable")
    now = SystemClock().now().isoformat()
    good, bad = line(now, 231.5), line(now, 231.5, units={"voltage_a": "A"})

    async def pushed() -> Any:
        answer = await push(ingest, b"[" + good + b"," + bad + b"]")
        return answer if answer["accepted"] + answer["duplicate"] == 1 else None

    answer = await until(pushed, "the push to be taken")
    assert (answer["rejected"], answer["problems"][0]["index"], answer["problems"][0]["reason"]) == (1, 1, "wrong_unit")

    async def rejected() -> Any:
        return (await ingest.get("/api/v1/rejected", reason="wrong_unit"))["items"]

    (found, *_) = await until(rejected, "the rejection")
    assert base64.b64decode(found["raw_base64"]) == orjson.dumps(orjson.loads(bad))

    # As it was it is refused again; mended it is taken, and that is noted.
    replay = f"/api/v1/rejected/{found['id']}/replay"
    again = await ingest.http.post(replay, headers=ingest.headers())
    assert (again.status_code, again.json()["rejected"]) == (200, 1)
    later = (SystemClock().now() + timedelta(seconds=1)).isoformat()
    mended = await ingest.http.post(replay, content=line(later, 231.5), headers=ingest.headers())
    assert mended.json()["accepted"] == 1
    listed = (await ingest.get("/api/v1/rejected", reason="wrong_unit"))["items"]
    assert [item["id"] for item in listed if item["replayed_at"] is not None] == [found["id"]]
    assert (await ingest.http.post("/api/v1/rejected/nothing/replay", headers=ingest.headers())).status_code == 404


async def test_reading_of_an_unknown_device_waits_for_it(
    ingest: RunningIngest,
) -> None:
    answer = await push(ingest, line(SystemClock().now().isoformat(), 231.5))
    assert (answer["parked"], answer["rejected"]) == (1, 0)
    await upload(ingest, FILE, file="registry.yaml")

    async def latest() -> Any:
        return (await ingest.get("/api/v1/readings/latest", device="meter-1"))["items"]

    (found,) = await until(latest, "the parked reading")
    assert found["points"] == {"voltage_a": 231.5}


async def test_openapi_page_shows_the_fields_of_every_kind_and_can_be_read_by_itself(ingest: RunningIngest) -> None:
    page = (await ingest.http.get("/openapi.json")).json()
    put = page["paths"]["/api/v1/devices/{entity_id}"]["put"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"profile", "line", "address", "ct_ratio", "period_s"} <= put["properties"].keys()
    assert put["required"] == ["name", "kind", "site"]
    load = page["paths"]["/api/v1/loads/{entity_id}"]["get"]["responses"]["200"]["content"]["application/json"][
        "schema"
    ]
    assert "device" in str(load["properties"]["breaker"])
    references = [part.split('"')[0] for part in orjson.dumps(page).decode().split('"$ref":"')[1:]]
    assert {reference.rpartition("/")[0] for reference in references} <= {"#/components/schemas"}
    assert {reference.rpartition("/")[2] for reference in references} <= page["components"]["schemas"].keys()
