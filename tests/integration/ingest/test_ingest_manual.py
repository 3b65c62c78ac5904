"""Readings that people take: asked about, confirmed, corrected, with a photo, in the history and on the bus."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from libs.common.bus import topics
from tests.integration.ingest.conftest import RunningIngest, until
from tests.integration.ingest.test_ingest_registry import upload

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

NOON = (datetime.now(UTC) - timedelta(days=5)).replace(hour=4, minute=0, second=0, microsecond=0)
FILE = """
schema: registry/1
valid_from: 2026-01-01T00:00:00+08:00
sites:
  - {id: site-1, code: GZ-1, name: One, kind: base_station}
devices:
  - {id: old-1, name: Old meter, kind: meter_3p, site: site-1}
circuits:
  - {id: circuit-1, name: Feed, level: 1, role: site_feed, site: site-1, rated_power_kw: 10}
bindings:
  - {id: binding-1, name: Old meter on feed, device: old-1, circuit: circuit-1}
"""
PHOTO = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


def reading(day: int, register: float, **more: Any) -> dict[str, Any]:
    time = (NOON + timedelta(days=day)).isoformat()
    body = {"device_id": "old-1", "source_time": time, "points": {"energy_active_import": register}, "reader": "Li Lei"}
    return {**body, **more}


async def send(ingest: RunningIngest, body: dict[str, Any], path: str = "", **claims: Any) -> tuple[int, Any]:
    response = await ingest.http.post(f"/api/v1/readings/manual{path}", json=body, headers=ingest.headers(**claims))
    return response.status_code, response.json()


async def ready(ingest: RunningIngest) -> None:
    await upload(ingest, FILE)

    async def known() -> bool:
        status, _ = await send(ingest, reading(0, 1000))
        return status == 201

    await until(known, "the device known")


async def history(ingest: RunningIngest) -> list[Any]:
    params = {"device": "old-1", "from": (NOON - timedelta(days=1)).isoformat(), "to": datetime.now(UTC).isoformat()}
    items: list[Any] = (await ingest.get("/api/v1/readings", **params))["items"]
    return items


async def test_a_reading_that_does_not_fit_is_asked_about_and_taken_when_confirmed(ingest: RunningIngest) -> None:
    await ready(ingest)
    status, asked = await send(ingest, reading(1, 2000))
    assert (status, asked["code"]) == (409, "needs_confirmation")
    [question] = asked["facts"]["questions"]
    assert (question["doubt"], question["known"]["value"]) == ("jump", 1000)
    status, asked = await send(ingest, reading(1, 900))
    assert (status, asked["facts"]["questions"][0]["doubt"]) == (409, "decrease")
    status, taken = await send(ingest, reading(1, 900, confirm=True, note="meter was reset"))
    assert (status, taken["confirmed"][0]["doubt"], taken["recorded_by"]) == (201, "decrease", "service:gateway")

    async def stored() -> Any:
        found = await history(ingest)
        return found if len(found) == 2 else None

    last = (await until(stored, "both in the history"))[-1]
    assert (last["points"], last["quality"]) == ({"energy_active_import": 900}, {"energy_active_import": "manual"})
    assert last["driver"] == "manual"


@pytest.mark.sql
async def test_a_correction_takes_the_place_of_a_wrong_reading_and_keeps_it_on_record(ingest: RunningIngest) -> None:
    await ready(ingest)
    _, wrong = await send(ingest, reading(1, 1120))
    fix = {"points": {"energy_active_import": 1102}, "reader": "Han Meimei", "reason": "two digits swapped"}
    status, fixed = await send(ingest, fix, f"/{wrong['id']}/correction")
    assert (status, fixed["corrects"], fixed["source_time"]) == (201, wrong["id"], wrong["source_time"])

    async def corrected() -> Any:
        found = await history(ingest)
        return found if [item["points"]["energy_active_import"] for item in found] == [1000, 1102] else None

    await until(corrected, "the correction in the history")
    [latest] = (await ingest.get("/api/v1/readings/latest", device="old-1"))["items"]
    assert latest["points"] == {"energy_active_import": 1102}
    kept = await ingest.get(f"/api/v1/readings/manual/{wrong['id']}")
    assert (kept["points"], kept["corrected_by"]) == ({"energy_active_import": 1120}, fixed["id"])
    status, again = await send(ingest, fix, f"/{wrong['id']}/correction")
    assert (status, again["code"]) == (409, "corrected_already")
    told = [one for one in await ingest.messages(topics.BACKFILL) if one.get("replaces")]
    assert [(one["replaces"], one["message_id"]) for one in told] == [(wrong["id"], fixed["id"])]
    audits = [audit["action"] for audit in await ingest.messages(topics.AUDIT)]
    assert audits.count("reading.correct") == 1


@pytest.mark.sql
async def test_a_photo_is_kept_beside_its_reading(ingest: RunningIngest) -> None:
    await ready(ingest)
    status, taken = await send(ingest, reading(1, 1010, photo=base64.b64encode(PHOTO).decode()))
    assert (status, taken["photo_type"]) == (201, "image/png")
    path = f"/api/v1/readings/manual/{taken['id']}/photo"
    answer = await ingest.http.get(path, headers=ingest.headers())
    assert (answer.content, answer.headers["content-type"]) == (PHOTO, "image/png")
    status, refused = await send(ingest, reading(2, 1020, photo=base64.b64encode(b"<svg onload=x>").decode()))
    assert (status, "JPEG" in refused["detail"]) == (400, True)


WRONG: list[tuple[dict[str, Any], int]] = [
    ({"device_id": "nobody"}, 400),
    ({"source_time": "yesterday"}, 400),
    ({"source_time": "2190-01-01T00:00:00Z"}, 400),
    ({"points": {"energy_active_import": "abc"}}, 400),
    ({"points": {"spannung": 1}}, 400),
    ({"points": {}}, 422),
    ({"reader": ""}, 422),
    ({"photo": "?"}, 400),
]


@pytest.mark.sql
async def test_what_is_wrong_is_refused(ingest: RunningIngest) -> None:
    await ready(ingest)
    for changes, status in WRONG:
        assert (await send(ingest, reading(1, 1010, **changes)))[0] == status, changes
        assert len((await ingest.get("/api/v1/readings/manual", device="old-1"))["items"]) == 1, changes


async def test_others_sites_are_neither_read_nor_written(ingest: RunningIngest) -> None:
    await ready(ingest)
    assert (await send(ingest, reading(1, 1010), sites=["site-9"]))[0] == 403
    answer = await ingest.http.get("/api/v1/readings/manual", headers=ingest.headers(sites=["site-9"]))
    assert answer.json()["items"] == []
