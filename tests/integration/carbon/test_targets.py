"""Targets on a real database: set, adjusted, held against the books, and told so that alarm raises them."""

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from libs.common.bus import topics
from libs.common.bus.port import Received
from libs.common.contracts.alarm import Condition
from libs.common.contracts.base import Phase
from libs.common.contracts.carbon import CarbonResult
from libs.common.db import Database
from libs.common.settings import DatabaseSettings
from services.alarm.worker.targets import TargetsHandler
from services.carbon.domain.levels.periods import Step
from services.carbon.tree import Node, NodeKind
from tests.integration.carbon.money_world import ACCOUNT, NINE, ONE, OTHER, PRICE, SITE, STATE, TWO, World, open_world

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

MARCH, APRIL = date(2026, 3, 1), date(2026, 4, 1)
MARCH_ON: dict[str, Any] = {"from": "2026-03-01T00:00:00+08:00"}
BUDGET: dict[str, Any] = {
    "name": "April",
    "node_kind": "site",
    "node": SITE,
    "measure": "energy",
    "first_day": "2026-04-01",
    "last_day": "2026-04-30",
    "amount": 3000.0,
    "reason": "allocation",
}


@pytest.fixture
async def world(postgres_url: str, tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(postgres_url, tmp_path) as found:
        yield found


async def create(world: World, status: int = 200, **changed: object) -> Any:
    return await world.door.ask("POST", "/targets", BUDGET | changed, status=status)


async def stand(world: World, target: Any, **params: Any) -> Any:
    return await world.door.ask("GET", f"/targets/{target['target_id']}", **params)


def at(world: World, day: int, month: int = 4) -> None:
    world.clock.set_wall(datetime(2026, month, day, 4, tzinfo=UTC))


async def published(world: World) -> list[tuple[CarbonResult, str]]:
    async with world.door.db.read() as conn:
        rows = await conn.fetch("select key, value from outbox where topic = $1 order by id", topics.CARBON_RESULTS)
    return [(CarbonResult.from_json(row["value"]), row["key"]) for row in rows]


async def test_pace_forecast_and_gap_of_a_site(world: World) -> None:
    await world.use(ONE, APRIL, date(2026, 4, 11), lambda _: 0.75)
    await world.use(TWO, APRIL, date(2026, 4, 11), lambda _: 0.25)
    at(world, 11)
    target = await create(world)
    assert (target["granularity"], target["unit"], target["adjustments"][0]["author"]) == ("month", "kWh", "user:wang")
    found = await stand(world, target, price_cny=80, offset_share=0.05)
    # 96 kWh on each of ten days; a third of the month is over; 2880 at its end by the mean so far.
    assert found["measured"] == pytest.approx(960)
    assert found["expected_share"] == pytest.approx(1 / 3)
    assert found["pace"] == pytest.approx(0.96)
    assert (found["forecast"]["value"], found["forecast"]["method"]) == (pytest.approx(2880), "mean_so_far")
    assert (found["gap"], found["status"], found["exceeded"]) == (pytest.approx(120), "amber", False)
    assert (found["completeness"], found["interval_completeness"], found["performance"]) == (1, 1, None)
    assert found["compliance"] == {"exceeded": 0, "offset": 0, "cost_cny": 0}
    path = f"/targets/{target['target_id']}/adjustments"
    await world.door.ask("POST", path, {"on": "2026-04-05", "amount": -500.0, "reason": "a tenant left"})
    less = await stand(world, target, price_cny=2, offset_share=0.1)
    assert (less["allowed"], less["status"], less["exhausted_on"]) == (2500, "red", "2026-04-27")
    assert less["compliance"]["cost_cny"] == pytest.approx(760)
    earlier = await stand(world, target, as_of="2026-04-04")
    assert (earlier["allowed"], earlier["measured"]) == (3000, pytest.approx(288))
    assert [event.action for event in await world.door.audits()] == ["target.set", "target.adjust"]


async def test_last_years_profile_and_days_that_are_unknown(world: World) -> None:
    # 52 weeks before: twice as much in the first half of the month, on the same weekdays.
    await world.use(ONE, date(2025, 4, 2), date(2025, 5, 2), lambda when: 2.0 if when < _civil(2025, 4, 17) else 1.0)
    await world.use(ONE, APRIL, date(2026, 4, 16), lambda when: None if when.day == 3 else 2.0)
    await world.use(TWO, date(2025, 4, 2), date(2025, 5, 2), lambda _: 0.0)
    await world.use(TWO, APRIL, date(2026, 4, 16), lambda _: 0.0)
    at(world, 16)
    found = await stand(world, await create(world, amount=4400.0))
    assert (found["profile"], found["expected_share"]) == ("last_year", pytest.approx(2 / 3))
    assert found["completeness"] == pytest.approx(14 / 15)
    assert found["measured"] == pytest.approx(14 * 192)
    # The unknown day is expected as last year, so that a hole does not look like saving.
    assert (found["forecast"]["value"], found["forecast"]["method"]) == (pytest.approx(4320), "seasonal_naive")
    assert found["status"] == "green"


async def test_emissions_and_money_of_a_site_and_nothing_where_nothing_is_known(world: World) -> None:
    await world.use(ONE, MARCH, APRIL, lambda _: 1.0)
    await world.use(TWO, MARCH, APRIL, lambda _: 0.0)
    month: dict[str, Any] = {"first_day": "2026-03-01", "last_day": "2026-03-31"}
    money = await create(world, measure="cost", amount=2000.0, **month)
    unknown = await stand(world, money)
    assert (unknown["measured"], unknown["status"], unknown["exceeded"]) == (None, "unknown", None)
    await world.door.ask("PUT", f"/bills/accounts/{ACCOUNT}", STATE)
    await world.door.ask("POST", "/tariffs/prices", {"prices": [PRICE]})
    cost = await world.door.ask("GET", "/energy/cost", site=SITE, to="2026-04-01T00:00:00+08:00", **MARCH_ON)
    spent = await stand(world, money)
    assert spent["measured"] == pytest.approx(float(cost["cost_cny"]), abs=0.006)
    assert spent["performance"] == pytest.approx((2000 - spent["measured"]) / 2000)
    carbon = await create(world, measure="emission_location_based", amount=1e6, **month)
    emitted = await stand(world, carbon)
    emissions = await world.queries.emissions(
        node=Node(NodeKind.SITE, SITE),
        start=datetime(2026, 2, 28, 16, tzinfo=UTC),
        end=datetime(2026, 3, 31, 16, tzinfo=UTC),
        step=Step.MONTH,
    )
    assert emitted["measured"] == pytest.approx(emissions.frame["emission_kg_co2"][0])
    assert emitted["target"]["unit"] == "kgCO2"


async def test_parts_of_a_target_never_sum_to_more_and_are_ranked(world: World) -> None:
    await world.use(ONE, APRIL, date(2026, 4, 11), lambda _: 1.0)
    await world.use(TWO, APRIL, date(2026, 4, 11), lambda _: 0.0)
    await world.use(NINE, APRIL, date(2026, 4, 11), lambda _: 2.0)
    at(world, 11)
    shop = await create(world, node_kind="organisation", node="shop", amount=10_000.0, owner="manager Li")
    mine: dict[str, Any] = {"parent": shop["target_id"]}
    one = await create(world, amount=4000.0, **mine)
    await create(world, node=OTHER, amount=5000.0, **mine)
    path = f"/targets/{one['target_id']}/adjustments"
    more = {"on": "2026-04-02", "amount": 1001.0, "reason": "more"}
    refused = await world.door.ask("POST", path, more, status=409)
    assert refused["code"] == "over_allocated"
    less = {"on": "2026-04-02", "amount": -1001.0, "reason": "less"}
    await world.door.ask("POST", f"/targets/{shop['target_id']}/adjustments", less, status=409)
    found = await stand(world, shop)
    assert (found["unallocated"], len(found["children"])) == (1000, 2)
    assert found["measured"] == pytest.approx(10 * 96 * 3)
    ranked = (await world.door.ask("GET", f"/targets/{shop['target_id']}/children"))["items"]
    assert [one["target"]["node"] for one in ranked] == [OTHER, SITE]
    assert [one["forecast"]["value"] for one in ranked] == [pytest.approx(5760), pytest.approx(2880)]
    part: dict[str, Any] = {"node_kind": "circuit", "node": ONE, "amount": 100.0, "parent": one["target_id"]}
    await create(world, **part)
    wrong = await create(world, **(part | {"node": NINE}), status=400)
    assert "parent:应为" in wrong["detail_zh"]
    page = await world.door.ask("GET", "/targets", limit=2)
    rest = await world.door.ask("GET", "/targets", cursor=page["next_cursor"])
    assert len(page["items"]) + len(rest["items"]) == 4
    assert len((await world.door.ask("GET", "/targets", parent=shop["target_id"]))["items"]) == 2


async def test_what_cannot_be_a_target_is_refused_in_both_languages(world: World) -> None:
    await create(world)
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({"unit": "MWh", "node": OTHER}, 400, "单位应为 kWh"),
        ({"amount": -1.0, "node": OTHER}, 400, "合计应不小于 0"),
        ({"last_day": "2026-03-01", "node": OTHER}, 400, "last_day:应不早于"),
        ({"last_day": "2028-03-01", "node": OTHER}, 400, "last_day"),
        ({"node": "nowhere"}, 404, "nowhere"),
        ({"node_kind": "virtual", "node": "meter-1"}, 400, "虚拟表没有定额"),
        ({"parent": "nothing", "node": OTHER}, 404, "定额 nothing"),
        ({"amount": 1.0}, 409, "已有"),
        ({"measure": "water", "node": OTHER}, 422, "measure"),
    ]
    for changed, status, words in cases:
        refused = await create(world, status=status, **changed)
        assert words in refused["detail_zh"], (changed, refused)
    await create(world, first_day="2026-04-01", last_day="2026-04-10")  # another kind of period
    assert len((await world.door.ask("GET", "/targets", on="2026-04-20"))["items"]) == 1


async def test_who_is_limited_to_sites_sees_and_sets_only_theirs(world: World) -> None:
    ask = world.door.ask
    target = await create(world)
    path = f"/targets/{target['target_id']}"
    await ask("GET", path, sites=(OTHER,), status=404)
    assert (await ask("GET", "/targets", sites=(OTHER,)))["items"] == []
    assert len((await ask("GET", "/targets", sites=("region:gd",)))["items"]) == 1
    await ask("POST", "/targets", BUDGET | {"measure": "cost"}, sites=(OTHER,), status=403)
    adjustment = {"on": "2026-04-02", "amount": 1.0, "reason": "more"}
    await ask("POST", f"{path}/adjustments", adjustment, sites=(OTHER,), status=403)
    await ask("POST", f"{path}/adjustments", adjustment, scopes=("carbon:read",), status=403)
    late = await ask("POST", f"{path}/adjustments", adjustment | {"on": "2026-05-01"}, status=400)
    assert "on:应在" in late["detail_zh"]


async def test_what_is_news_is_told_once_and_alarm_raises_it(world: World, postgres_url: str) -> None:
    await world.use(ONE, APRIL, date(2026, 4, 21), lambda _: 1.0)
    await world.use(TWO, APRIL, date(2026, 4, 21), lambda _: 0.0)
    target = await create(world, amount=1500.0)

    async def tell() -> int:
        return await world.targets.publish_due(lambda: None)

    at(world, 11)
    assert await tell() == 2
    assert await tell() == 0
    [(measured, key), (forecast, _)] = await published(world)
    assert (measured.measure, measured.target_exceeded) == ("energy", False)
    assert measured.value == pytest.approx(960)
    assert (forecast.measure, forecast.target_exceeded) == ("energy_forecast", True)
    assert forecast.value == pytest.approx(2880)
    assert (key, measured.site_id, measured.completeness, measured.provisional) == (SITE, SITE, 1, True)
    at(world, 21)
    await tell()
    path = f"/targets/{target['target_id']}/adjustments"
    await world.door.ask("POST", path, {"on": "2026-04-21", "amount": 2000.0, "reason": "a new hall"})
    await tell()
    results = await published(world)
    assert [(one.measure, one.version, one.target_exceeded) for one, _ in results[2:]] == [
        ("energy", 2, True), ("energy", 3, False), ("energy_forecast", 2, False),
    ]  # fmt: skip
    conditions = await raised(postgres_url, results)
    assert [(one.phase, one.subject) for one in conditions] == [
        (Phase.BEGIN, "site-1/energy_forecast/month"),
        (Phase.BEGIN, "site-1/energy/month"),
        (Phase.END, "site-1/energy/month"),
        (Phase.END, "site-1/energy_forecast/month"),
    ]
    assert {one.site_id for one in conditions} == {SITE}
    at(world, 30, month=6)
    assert await tell() == 0  # long settled


async def raised(postgres_url: str, results: list[tuple[CarbonResult, str]]) -> list[Condition]:
    """Return what alarm puts onto the topic of conditions for these results."""
    received = [
        Received(
            topic=topics.CARBON_RESULTS, partition=0, offset=index, key=key, value=one.to_json(), headers=(),
            appended_at=one.computed_at or datetime(2026, 4, 1, tzinfo=UTC),
        )
        for index, (one, key) in enumerate(results)
    ]  # fmt: skip
    db = Database(DatabaseSettings(url=SecretStr(postgres_url)), schema="alarm", role="wattring_alarm")
    await db.open()
    try:
        async with db.write() as conn:
            handler = TargetsHandler(wake=lambda: None)
            for one in received:
                await handler.handle(conn, [one])
            rows = await conn.fetch("select value from outbox where topic = $1 order by id", topics.CONDITIONS)
    finally:
        await db.close()
    return [Condition.from_json(row["value"]) for row in rows]


def _civil(year: int, month: int, day: int) -> datetime:
    return datetime.fromisoformat(f"{year}-{month:02d}-{day:02d}T00:00:00+08:00")
