"""The generic push: gzip in all its forms, and the traffic of loads on the bus for whoever decides about them."""

import gzip
from collections.abc import Sequence
from typing import Any, cast

import httpx
import orjson
import pytest

from libs.common.bus import topics
from libs.common.contracts.registry import record_of
from libs.common.db import Database
from libs.common.profiles import ProfileCatalogue
from libs.common.settings import DatabaseSettings
from libs.common.testing.clock import FakeClock
from services.ingest.domain.report import Rejection, Report
from services.ingest.usecases.acceptor import Acceptor
from services.ingest.usecases.addresses import LoadNames
from services.ingest.usecases.submissions import Submissions
from services.ingest.usecases.topology import Topology
from tests.integration.ingest.conftest import SITE, RunningIngest, until
from tests.unit.ingest.ingest_fakes import device

pytestmark = [pytest.mark.integration, pytest.mark.postgres]


async def push(ingest: RunningIngest, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return await ingest.http.post("/api/v1/readings", content=content, headers={**ingest.headers(), **headers})


async def test_the_traffic_of_loads_is_taken_by_their_names_and_published_under_them(ingest: RunningIngest) -> None:
    await ingest.create("/api/v1/sites/site-1", SITE)
    await ingest.create("/api/v1/sites/site-2", {**SITE, "code": "GZ-2"})
    for number, site in ((1, "site-1"), (2, "site-1"), (3, "site-2")):
        await ingest.create(
            f"/api/v1/loads/load-{number}",
            {"name": f"AAU {number}", "kind": "aau", "site": site, "network_element_id": f"ne-{site}",
             "sector": str(number)},
        )  # fmt: skip

    async def known() -> bool:
        answer = (
            await push(ingest, {"load_id": "load-3", "source_time": _now(ingest), "points": {"traffic_load": 1}})
        ).json()
        return bool(answer["rejected"] == 0)

    await until(known, "the loads to be known")
    when = _now(ingest)
    batch = [
        {"load_id": "load-1", "source_time": when, "points": {"traffic_load": 12.5}},
        {"network_element_id": "ne-site-1", "sector": 2, "source_time": when, "points": {"traffic_load": 0.25},
         "units": {"traffic_load": "1"}},
        {"network_element_id": "ne-site-1", "source_time": when, "points": {"traffic_load": 3}},
        {"load_id": "no-such", "source_time": when, "points": {"traffic_load": 3}},
        {"load_id": "load-1", "source_time": when, "points": {"voltage_a": 230}},
    ]  # fmt: skip
    answer = (await push(ingest, batch)).json()
    assert (answer["accepted"], answer["rejected"]) == (2, 3)
    assert [(one["index"], one["reason"]) for one in answer["problems"]] == [
        (2, "unknown_device"), (3, "unknown_device"), (4, "unknown_point"),
    ]  # fmt: skip
    found = {
        m["load_id"]: m for m in await ingest.messages(topics.READINGS) if m.get("load_id") in ("load-1", "load-2")
    }
    assert {name: one["points"]["traffic_load"] for name, one in found.items()} == {"load-1": 12.5, "load-2": 25.0}
    assert all(one["device_id"] == one["load_id"] and one["site_id"] == "site-1" for one in found.values())
    limited = ingest.headers(sites=["site-2"], subject="key-1", kind="key")
    answer = (await ingest.http.post("/api/v1/readings", json=batch[0], headers=limited)).json()
    assert (answer["accepted"], answer["rejected"]) == (0, 1)  # a key of another site

    async def stored() -> Any:
        return (await ingest.get("/api/v1/readings", device="load-1"))["items"]

    (kept,) = await until(stored, "the history")
    assert kept["points"] == {"traffic_load": 12.5}


async def test_gzip_of_several_members_is_read_to_its_end_and_nothing_else_may_stand_behind_it(
    ingest: RunningIngest,
) -> None:
    await ingest.create("/api/v1/sites/site-1", SITE)
    await ingest.create("/api/v1/devices/meter-1", {"name": "Meter", "kind": "meter", "site": "site-1"})
    batch = [
        {"device_id": "meter-1", "source_time": _now(ingest), "points": {"voltage_a": 200.0 + n}} for n in range(50)
    ]
    body = orjson.dumps(batch)
    packed = gzip.compress(body[:100]) + gzip.compress(body[100:])
    answer = (await push(ingest, packed)).json()
    assert answer["accepted"] + answer["late"] + answer["duplicate"] + answer["parked"] == 50
    for wrong, says in (
        (packed + b"rest", "behind the gzip"),
        (packed[:-9], "cut off"),
        (gzip.compress(b" " * (17 << 20)), "larger than"),
    ):
        refused = await push(ingest, wrong)
        assert (refused.status_code, says in refused.json()["detail"]) == (400, True), refused.text


def _now(ingest: RunningIngest) -> str:
    return ingest.platform.clock.now().isoformat()


async def test_report_waits_as_long_as_the_registry_is_not_read(postgres_url: str) -> None:
    """Found by the soak: the bus was away for longer than a report of an unknown device waits."""
    clock, known = FakeClock(), Topology()
    door, read = Door(), [False]
    database = Database(DatabaseSettings(url=postgres_url), schema="ingest", role="wattring_ingest")
    await database.open()
    try:
        submissions = Submissions(
            acceptor=cast(Acceptor, door), topology=known, loads=LoadNames(known), catalogue=ProfileCatalogue.load(),
            db=database, clock=clock, park_s=60, complete=lambda: read[0],
        )  # fmt: skip
        report = {"device_id": "meter-1", "source_time": clock.now().isoformat(), "points": {"voltage_a": 230.1}}
        strange = {**report, "device_id": "meter-2"}
        answer = await submissions.submit([orjson.dumps(report), orjson.dumps(strange)], source="test")
        assert (answer.parked, answer.rejected) == (2, 0)
        await clock.advance(3600.0)
        assert await submissions.settle_once() == 0
        known.put(record_of([device(id="meter-1", profile="chint_dtsu666")]))
        assert await submissions.settle_once() == 1
        assert [one.device_id for one in door.accepted] == ["meter-1"]
        read[0] = True
        assert await submissions.settle_once() == 1
        assert [one.device_id for one in door.rejected] == ["meter-2"]
    finally:
        await database.close()


class Door:
    """Notes what it is given."""

    def __init__(self) -> None:
        self.accepted: list[Report] = []
        self.rejected: list[Rejection] = []

    async def accept(self, reports: Sequence[Report]) -> list[Any]:
        self.accepted += reports
        return []

    async def reject(self, rejections: Sequence[Rejection]) -> None:
        self.rejected += rejections
