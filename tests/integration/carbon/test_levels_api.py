"""Figures of levels over HTTP, on a real database: each with its completeness, none from what is not known."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from libs.common.contracts.registry import Binding, CircuitRole
from libs.common.ids import CircuitId, DeviceId
from services.carbon.api.levels import build_levels_router
from services.carbon.bus import audit
from services.carbon.directory import RegistryDirectory
from services.carbon.domain.booking import ENERGY_POINT
from services.carbon.domain.samples import EXPORT, Sample
from services.carbon.store import levels as store
from services.carbon.usecases.levels import Levels
from services.carbon.usecases.supply import Supply
from tests.integration.carbon.carbon_door import Door, open_door
from tests.integration.carbon.carbon_levels import COMMON, QUARTER, START, City, circuit, city, open_city

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

DAY = timedelta(days=1)
SPAN = {"from": START.isoformat(), "to": (START + DAY).isoformat()}
HALF_DAY = 48


def bound(name: str) -> Binding:
    return Binding(id=f"b-{name}", name=name, device=DeviceId(f"m-{name}"), circuit=CircuitId(name), **COMMON)


class Town:
    """A city with its API."""

    def __init__(self, city: City, door: Door) -> None:
        self.city, self.door, self.book = city, door, city.book

    async def get(self, path: str, *, status: int = 200, sites: tuple[str, ...] | None = None, **params: Any) -> Any:
        span: dict[str, Any] = {} if path in ("facts", "comparison") else dict(SPAN)
        return await self.door.ask("GET", f"/energy/{path}", status=status, sites=sites, **{**span, **params})

    async def sample(self, name: str, point: str, values: list[float], *, first: datetime = START) -> None:
        async with self.city.db.write() as conn:
            await store.add_samples(
                conn,
                [
                    Sample(DeviceId(f"m-{name}"), point, first + number * QUARTER, value, 1.0)
                    for number, value in enumerate(values)
                ],
            )

    async def enter(self, kind: str, value: float, *, status: int = 201, **more: str) -> Any:
        body = {
            "node": "site-1", "kind": kind, "first_day": "2026-03-02", "end_day": "2026-03-03", "value": value,
            "source": "lease", **more,
        }  # fmt: skip
        return await self.door.ask("POST", "/energy/facts", body, status=status)


@pytest.fixture
async def town(postgres_url: str, tmp_path: Path) -> AsyncIterator[Town]:
    entities = [*city(), *(bound(name) for name in ("feed", "roof", "it"))]
    async with open_city(postgres_url, [[one] for one in entities]) as found:
        directory = RegistryDirectory(found.view, None, found.clock, point=ENERGY_POINT)  # type: ignore[arg-type]
        levels = Levels(db=found.db, boundaries=found.boundaries, directory=directory, audit=audit)
        supply = Supply(db=found.db, boundaries=found.boundaries, directory=directory)
        routers = [build_levels_router(levels, supply)]
        async with open_door(found.db, tmp_path, found.clock, routers) as door:
            yield Town(found, door)


async def test_profile_breakdown_and_coverage_of_a_site(town: Town) -> None:
    await town.book("feed", [10.0] * 47 + [20.0] + [4.0] * 48)
    await town.book("room-feed", [6.0] * 96)
    await town.book("it", [4.0] * 96)
    await town.book("cool", [2.0] * HALF_DAY)
    await town.book("lift", [1.0] * 96)
    found = await town.get("profile", site="site-1", shifts="day=08:00-20:00,night=20:00-08:00")
    (row,) = found["periods"]
    assert found["circuits"] == ["feed"]
    assert row["energy_kwh"] == 47 * 10 + 20 + 48 * 4
    assert (row["max_kw"], row["min_kw"], row["max_at"]) == (80.0, 16.0, "2026-03-02T03:45:00Z")
    assert row["load_factor"] == pytest.approx(row["energy_kwh"] / 24 / 80)
    assert {name: rows[0]["energy_kwh"] for name, rows in found["shifts"].items()} == {
        "day": 15 * 10 + 20 + 32 * 4,
        "night": 32 * 10 + 16 * 4,
    }
    cooling = await town.get("profile", site="site-1", role="cooling")
    assert (cooling["circuits"], cooling["periods"][0]["interval_completeness"]) == (["cool"], 0.5)

    roles = await town.get("breakdown", site="site-1", by="role")
    assert not roles["parts_add_up"]
    assert {one["key"]: one["energy"]["energy_kwh"] for one in roles["parts"]} == {
        "site_feed": 682.0, "room_feed": 576.0, "it_output": 384.0, "load": 96.0, "cooling": 96.0, "pv": None,
    }  # fmt: skip
    uses = await town.get("breakdown", room="room-1", by="use")
    assert [one["key"] for one in uses["parts"]] == ["cooling"]
    shifts = await town.get("breakdown", site="site-1", by="shift", shifts="day=08:00-20:00,night=20:00-08:00")
    assert shifts["parts_add_up"]
    assert sum(one["share"] for one in shifts["parts"]) == pytest.approx(1.0)

    levels = {one["level"]: one for one in await town.get("coverage", site="site-1")}
    assert {level: (one["circuits"], one["metered"]) for level, one in levels.items()} == {
        1: (1, 1), 2: (2, 0), 3: (2, 1), 4: (0, 0),
    }  # fmt: skip
    assert levels[1]["share"] == 1.0
    assert levels[2]["share"] == pytest.approx(7 * 96 / 682)
    assert levels[3]["quarters"] == HALF_DAY
    assert levels[4]["share"] is None


async def test_balance_and_pue_with_photovoltaics(town: Town) -> None:
    await town.book("feed", [6.0] * 96)
    await town.book("it", [5.0] * 96)
    # The roof's meter counts what it delivers as exported, 2 kWh a quarter hour, and half of it goes out.
    await town.sample("roof", EXPORT, [100.0 + 2.0 * number for number in range(97)])
    await town.sample("feed", EXPORT, [7.0 + 1.0 * number for number in range(97)])
    (row,) = await town.get("balance", site="site-1", step="day")
    assert (row["imported_kwh"], row["exported_kwh"], row["pv_kwh"]) == (576.0, pytest.approx(96), pytest.approx(192))
    assert row["pv_self_used_kwh"] == pytest.approx(96)
    assert row["consumed_kwh"] == pytest.approx(672)
    assert (row["clean_share"], row["self_use_rate"]) == (pytest.approx(96 / 672), pytest.approx(0.5))
    assert row["usable_share"] == 1.0
    (pue,) = await town.get("pue", site="site-1", step="day", category=1)
    assert pue["value"] == pytest.approx(672 / 480)
    assert (pue["kind"], pue["category"], pue["reason"]) == ("iPUE", 1, None)
    assert (await town.get("pue", site="site-1", step="day", category=2))[0]["reason"] == "category_incomplete"
    (city,) = await town.get("pue", region="gz", step="day")
    assert (city["value"], city["sites"], city["left_out"]) == (pytest.approx(1.4), 2, 1)

    await town.book("it", [50.0] * 96, version=2)
    (wrong,) = await town.get("pue", site="site-1", step="day")
    assert (wrong["value"], wrong["reason"]) == (None, "below_one")


async def test_unknown_export_leaves_the_balance_unknown_and_no_source_leaves_none(town: Town) -> None:
    await town.book("feed", [6.0] * 96)
    await town.book("roof", [2.0] * 96)
    await town.book("tenant", [1.0] * 96, site="site-2")
    (row,) = await town.get("balance", site="site-1", step="day")
    assert (row["pv_kwh"], row["exported_kwh"], row["consumed_kwh"]) == (192.0, None, None)
    (row,) = await town.get("balance", site="site-2", step="day")
    assert (row["exported_kwh"], row["consumed_kwh"], row["clean_share"]) == (0.0, 96.0, 0.0)


async def test_intensities_take_the_registry_and_what_people_entered(town: Town) -> None:
    await town.book("feed", [1.0] * 96)
    await town.book("tenant", [1.0] * 96, site="site-2")

    async def figures(**node: Any) -> dict[str, Any]:
        (row,) = await town.get("intensity", step="day", **node)
        return {one["per"]: one for one in row["figures"]}

    found = await figures(site="site-1")
    assert {per: one["value"] for per, one in found.items()} == {
        "area_m2": 0.96, "persons": 24.0, "output_value": None, "output": None,
    }  # fmt: skip
    assert found["output"]["reason"] == "not_entered"
    await town.enter("area_m2", 48.0)
    again = await town.enter("area_m2", 50.0)
    assert again["version"] == 2
    await town.enter("output_value", 4.0, basis="constant-2020")
    found = await figures(site="site-1")
    assert (found["area_m2"]["value"], found["output_value"]["value"]) == (1.92, 24.0)
    assert found["output_value"]["basis"] == "constant-2020"
    group = await figures(region="gz")  # site-2 has no area: its energy is not divided by the area of site-1
    assert (group["area_m2"]["value"], group["area_m2"]["left_out"]) == (1.92, 1)

    refused = await town.enter("area_m2", 9.0, status=409, end_day="2026-03-09")
    assert "重叠" in refused["detail_zh"]
    await town.enter("area_m2", -1.0, status=400)
    await town.enter("area_m2", 1.0, status=422, first_day="20260302")  # seconds, or a date: nothing is guessed
    entered = await town.get("facts", node="site-1", first_day="2026-03-01", end_day="2026-04-01")
    assert [(one["kind"], one["value"], one["version"]) for one in entered] == [
        ("area_m2", 50.0, 2), ("output_value", 4.0, 1),
    ]  # fmt: skip
    assert [event.action for event in await town.door.audits()] == ["fact.enter"] * 3


async def test_comparison_ranking_and_who_may_see_them(town: Town) -> None:
    await town.book("feed", [2.0] * 96)
    await town.book("feed", [1.0] * HALF_DAY, first=-96)
    await town.book("lift", [1.0] * 96)
    await town.book("room-feed", [3.0] * 96)
    await town.book("tenant", [1.0] * 96, site="site-2")
    at = (START + DAY / 2).isoformat()
    year, before = await town.get("comparison", site="site-1", step="day", at=at)
    assert (year["against"], year["raw"]["reason"]) == ("year_on_year", "no_base")
    assert before["raw"] == {"value": 192.0, "base": 48.0, "absolute": 144.0, "relative": 3.0, "reason": None}
    assert before["base_energy"]["interval_completeness"] == 0.5
    assert before["like_for_like"]["value"] is None  # half of yesterday is missing
    assert before["left_out"] == 1

    sites = await town.get("ranking", region="gz")
    assert [(one["rank"], one["node"], one["value"]) for one in sites] == [(1, "site-1", 192.0), (2, "site-2", 96.0)]
    by_area = await town.get("ranking", region="gz", measure="kwh_per_m2")
    assert [(one["rank"], one["node"], one["value"]) for one in by_area] == [
        (1, "site-1", 1.92),
        (None, "site-2", None),
    ]
    branches = await town.get("ranking", site="site-1")
    assert [(one["rank"], one["node"]) for one in branches] == [(1, "room-feed"), (2, "lift")]
    assert (await town.get("ranking", site="site-1", measure="kwh_per_m2", status=400))["detail_zh"].startswith(
        "measure"
    )

    assert await town.get("ranking", site="site-1", sites=("region:gz",))
    await town.get("ranking", region="gz", sites=("site-1",), status=403)
    await town.get("profile", site="site-1", circuit="it", status=400)
    await town.get("profile", site="nowhere", status=404)
    await town.get("profile", site="site-1", to=(START + 1000 * DAY).isoformat(), status=400)


async def test_power_factor_imbalance_and_load_rates(town: Town) -> None:
    await town.book("feed", [4.0] * 96)
    await town.sample("feed", "energy_reactive_import", [10.0 + 2.0 * number for number in range(97)])
    await town.sample("feed", "energy_reactive_export", [5.0 + 1.0 * number for number in range(97)])
    (row,) = await town.get("power-factor", site="site-1", step="day")
    assert (row["active_kwh"], row["reactive_kvarh"]) == (384.0, pytest.approx(288.0))
    assert (row["power_factor"], row["billed"]) == (pytest.approx(0.8), 0.8)
    assert (row["adjustment"], row["known_share"], row["quarters"]) == (0.05, 1.0, 96)
    (better,) = await town.get("power-factor", site="site-1", step="day", standard="0.80")
    assert better["adjustment"] == 0.0
    (nothing,) = await town.get("power-factor", room="room-1", step="day")
    assert (nothing["power_factor"], nothing["adjustment"]) == (None, None)

    for point, value in {"current_a": 24.0, "current_b": 20.0, "current_c": 16.0}.items():
        await town.sample("feed", point, [value, value / 1000])
    for point, value in {"voltage_ab": 400.0, "voltage_bc": 400.0, "voltage_ca": 400.0}.items():
        await town.sample("feed", point, [value])
    (feed,) = await town.get("imbalance", site="site-1")
    assert feed["rated_current_a"] == pytest.approx(151.93, abs=0.01)
    (day,) = feed["periods"]
    assert (day["deviation_max"], day["spread_max"]) == (pytest.approx(0.2), pytest.approx(1 / 3))
    assert day["deviation_mean"] == pytest.approx(0.2)  # the second sample is below 5 % of the rated current
    assert day["voltage_max"] == pytest.approx(0.0, abs=1e-7)

    rates = {one["what"]: one for one in await town.get("load-rates", site="site-1")}
    assert (rates["transformer"]["name"], rates["transformer"]["max_rate"]) == ("T1", None)
    await town.enter("transformer_kva", 40.0, subject="T1")
    await town.enter("line_kva", 16.0, subject="L1")
    rates = {one["what"]: one for one in await town.get("load-rates", site="site-1")}
    assert rates["transformer"]["max_rate"] == pytest.approx(0.5)
    assert (rates["line"]["max_rate"], rates["line"]["overload_episodes"]) == (pytest.approx(1.25), 1)
    assert rates["line"]["assumed_power_factor"] is None


async def test_two_transformers_are_rated_by_the_sum_of_their_ratings(town: Town) -> None:
    await town.city.change(
        circuit("feed-2", 1, CircuitRole.SITE_FEED, transformer="T2"),
    )
    await town.book("feed", [9.0] * 96)
    await town.book("feed-2", [4.5] * 96)
    await town.enter("transformer_kva", 80.0, subject="T1")
    await town.enter("transformer_kva", 40.0, subject="T2")
    rates = {one["name"]: one for one in await town.get("load-rates", site="site-1") if one["what"] == "transformer"}
    assert {name: one["max_rate"] for name, one in rates.items()} == {
        "": pytest.approx(60 / 120), "T1": pytest.approx(40 / 80), "T2": pytest.approx(20 / 40),
    }  # fmt: skip
    assert rates[""]["assumed_power_factor"] == 0.9
