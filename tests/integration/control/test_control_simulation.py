"""A plan laid over past days, from the history of a real ingest by its direct door; conditions of a real OFF too."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from libs.common.bus import topics
from libs.common.bus.envelope import message
from libs.common.bus.port import Message
from libs.common.contracts.telemetry import Reading
from libs.common.ids import LoadId, SiteId
from services.control.domain.conditions import Condition, Quantity, Side
from services.control.domain.loads import LoadInfo
from services.control.drivers.door import Doors
from services.control.drivers.samples import SampleBoard
from services.control.usecases import simulation
from services.control.usecases.ports import SteadyClock
from tests.integration.control.fake_ingest import START
from tests.integration.control.test_control_api import refused
from tests.integration.control.with_ingest import Both, both
from tests.integration.ingest.conftest import SITE, until

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

HISTORY_S = 300
LOADS = ("a", "b", "c", "d")
"""a: all is known; b: nobody read its breaker in the second night; c: busy in the first; d: never off."""


def plan(first: datetime, last: datetime, *load_ids: str, **changes: Any) -> dict[str, Any]:
    """Return a plan of nights from 16:00 to 18:00 UTC, which is midnight to two in China."""
    return {
        "load_ids": list(load_ids), "first_date": first.date().isoformat(), "last_date": last.date().isoformat(),
        "windows": [{"start": "16:00", "end": "18:00"}], "zone": "UTC", **changes,
    }  # fmt: skip


def nights() -> tuple[datetime, datetime]:
    """Return the starts of two windows that are over, the one after the other."""
    today = datetime.now(UTC).replace(hour=16, minute=0, second=0, microsecond=0)
    return today - timedelta(days=3), today - timedelta(days=2)


def past(first: datetime, second: datetime) -> Iterator[Message]:
    for night in (first, second):
        for step in range(-10, 140 * 60 // HISTORY_S):
            at = night + timedelta(seconds=step * HISTORY_S)
            for load in LOADS:
                kept = not (load == "b" and night == second)
                # The meter of a says nothing in the second hour of the second night.
                known = not (load == "a" and night == second and at >= night + timedelta(hours=1))
                points = {"voltage_a": 230.0} | ({"active_power_total": 1.2} if known else {})
                yield reading(f"breaker-{load}", at, points | ({"breaker_state": 1.0} if kept else {}))
                if step % 3 == 0:
                    busy = load == "c" and night == first
                    yield reading(load, at, {"traffic_load": 60.0 if busy else 2.0})


def reading(device: str, at: datetime, points: dict[str, float]) -> Message:
    report = Reading(
        device_id=device, site_id="site-1", source_time=at, received_at=at, driver="push", points=points
    )  # fmt: skip
    return message(topics.BACKFILL, "site-1", report, source="ingest", time=at)


@asynccontextmanager
async def with_past(
    postgres_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Both, datetime, datetime]]:
    async with both(postgres_url, folder, monkeypatch) as found:
        await register(found)
        first, second = nights()
        reports = list(past(first, second))
        await found.platform.bus.publish(reports, timeout_s=30)

        async def arrived() -> bool:
            since = first - timedelta(hours=1)
            span = {"from": since.isoformat(), "to": (second + timedelta(days=1)).isoformat(), "limit": "1000"}
            counts = [len((await found.ingest.get("/api/v1/readings", device=name, **span))["items"])
                      for name in (*(f"breaker-{load}" for load in LOADS), *LOADS)]  # fmt: skip
            return sum(counts) == len(reports)

        await until(arrived, "the past is in the history")
        await until(lambda: knows(found), "control knows the loads")
        yield found, first, second


async def knows(found: Both) -> bool:
    first, second = nights()
    return (await found.call("POST", "plans/simulate", plan(first, second, *LOADS))).status_code == 200


async def register(found: Both) -> None:
    create, since = found.ingest.create, {"valid_from": START.isoformat()}
    await create("/api/v1/sites/site-1", SITE | since)
    # Nothing listens there: what the devices said lies in the past.
    await create("/api/v1/lines/line-1", {"name": "Port", "kind": "tcp", "endpoint": "127.0.0.1:1", **since})
    for number, load in enumerate(LOADS, 1):
        device, circuit = f"breaker-{load}", f"circuit-{load}"
        await create(
            f"/api/v1/devices/{device}",
            {"name": device, "kind": "breaker", "profile": "lx47le_125", "site": "site-1", "line": "line-1",
             "address": str(number), **since},
        )  # fmt: skip
        body = {"name": load, "level": 3, "role": "load", "site": "site-1", **since}
        await create(f"/api/v1/circuits/{circuit}", body)
        await create(f"/api/v1/bindings/binding-{load}", {"name": load, "device": device, "circuit": circuit, **since})
        await create(
            f"/api/v1/loads/{load}",
            {"name": load, "kind": "aau", "site": "site-1", "sector": load, "breaker": {"device": device},
             "meter": circuit, "coverage_layer": False, "never_off": load == "d", **since},
        )  # fmt: skip


async def what_would_have_been(found: Both, first: datetime, second: datetime) -> None:
    quiet = {"quantity": "traffic_load", "side": "below", "limit": 5.0, "for_s": 1800}
    answer = await found.call("POST", "plans/simulate", plan(first, second, *LOADS, conditions=[quiet]))
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["count"], body["switched"], body["ahead"]) == (8, 4, 0)
    assert {one["guard"]: one["count"] for one in body["skipped"]} == {
        "never_off": 2, "stale_data": 1, "condition_traffic_load": 1,
    }  # fmt: skip
    busy = next(one for one in body["skipped"] if one["guard"] == "condition_traffic_load")
    assert "60" in busy["message"]
    assert "话务负荷" in busy["message_zh"]
    by_load = {one["load_id"]: one for one in body["loads"]}
    assert [by_load[load]["hours_off"] for load in LOADS] == [4, 2, 2, 0]
    # 1.2 kW for two hours; of a's second night only the first hour, and what its last value stood for, is known.
    assert by_load["a"]["saved_kwh"] == pytest.approx(2.4 + 1.2)
    assert by_load["a"]["covered"] == pytest.approx(0.75)
    assert by_load["b"]["saved_kwh"] == by_load["c"]["saved_kwh"] == pytest.approx(2.4)
    assert (by_load["d"]["saved_kwh"], by_load["d"]["covered"]) == (None, None)
    assert body["saved_kwh"] == pytest.approx(8.4)
    assert body["covered"] == pytest.approx(7 / 8)
    stale = next(one for one in body["windows"] if one["guard"] == "stale_data")
    assert (stale["load_id"], stale["went_off_at"], stale["saved_kwh"]) == ("b", None, None)
    assert "active_alarm" in body["not_replayed"]


async def limits(found: Both, first: datetime, second: datetime) -> None:
    async def ask(body: dict[str, Any]) -> Any:
        return await found.call("POST", "plans/simulate", body)

    refused(await ask(plan(first, second, "a", "nowhere")), 400, "load_ids", "nowhere")
    refused(await ask(plan(first, second, *(f"l-{n}" for n in range(101)))), 400, "1 to 100 different loads", "101")
    refused(await ask(plan(first - timedelta(days=300), second, *LOADS)), 400, "1000 loads times windows", "4 x 302")
    ahead = first + timedelta(days=30)
    refused(await ask(plan(ahead, ahead, "a")), 400, "no window of these dates is over")
    refused(await ask(plan(first, second, "a", zone="Mars/Base")), 400, "Mars/Base")
    token = found.headers(sites=("elsewhere",))
    limited = await found.http.post("/api/v1/plans/simulate", json=plan(first, second, "a"), headers=token)
    refused(limited, 403, "site-1")


async def a_stored_plan(found: Both, first: datetime, second: datetime) -> None:
    later = first + timedelta(days=400)
    draft = await found.call("POST", "plans", plan(later, later, "a", "b") | {"name": "nights"})
    plan_id = draft.json()["plan_id"]
    week = await found.get(f"plans/{plan_id}/simulation")
    assert (week["count"], week["switched"]) == (14, 3)
    one = await found.get(
        f"plans/{plan_id}/simulation", first_date=second.date().isoformat(), last_date=second.date().isoformat()
    )
    assert [(window["load_id"], window["guard"]) for window in one["windows"]] == [("a", None), ("b", "stale_data")]
    refused(await found.call("GET", "plans/nowhere/simulation"), 404)
    refused(await found.call("GET", f"plans/{plan_id}/simulation", last_date="0001-01-01"), 400, "1900 to 2199")


async def too_many_at_once(found: Both, first: datetime, second: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    body = plan(first, second, *LOADS)
    answers = await asyncio.gather(*(found.call("POST", "plans/simulate", body) for _ in range(8)))
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) <= {200, 409}
    assert 200 in statuses
    monkeypatch.setattr(simulation, "TIME_LIMIT_S", 0.0)
    late = await found.call("POST", "plans/simulate", body)
    assert refused(late, 503, "fewer loads or days")["code"] == "simulation_too_long"
    monkeypatch.undo()
    assert (await found.call("POST", "plans/simulate", body)).status_code == 200


async def conditions_of_now(found: Both) -> None:
    """The values that conditions of a real OFF compare, by the same door."""
    now = found.platform.clock.now()
    reports = [reading("a", now - timedelta(minutes=minute), {"traffic_load": 3.0}) for minute in (40, 25, 10)]
    await found.platform.bus.publish(reports, timeout_s=30)
    quiet = [Condition(Quantity.TRAFFIC_LOAD, Side.BELOW, 5.0, 1800)]
    loads = {load: LoadInfo(load_id=load, name=load, site_id=SiteId("site-1")) for load in map(LoadId, "ab")}
    async with Doors([str(found.platform.settings.service_urls["ingest"])], found.platform.keys) as doors:
        clock = found.platform.clock

        async def seen() -> bool:
            board = SampleBoard(
                doors, clock, SteadyClock(clock), load_of=lambda load_id: loads.get(LoadId(load_id)),
                devices_of_site=lambda _: ["breaker-a", "breaker-b"],
            )  # fmt: skip
            await board.refresh(dict.fromkeys(loads, quiet))
            assert board.series("b", Quantity.TRAFFIC_LOAD) == []
            return [[one.value for one in series] for series in board.series("a", Quantity.TRAFFIC_LOAD)] == [[3.0] * 3]

        await until(seen, "the traffic of today")


async def test_a_plan_over_past_days(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with with_past(postgres_url, tmp_path, monkeypatch) as (found, first, second):
        await what_would_have_been(found, first, second)
        await limits(found, first, second)
        await a_stored_plan(found, first, second)
        await conditions_of_now(found)
        with pytest.MonkeyPatch.context() as patch:
            await too_many_at_once(found, first, second, patch)
