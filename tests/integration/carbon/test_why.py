"""Why a figure is what it is, over HTTP: each again to the last bit, down to registers, and for nobody else's eyes."""

import random
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from libs.common.ids import DeviceId
from services.carbon.domain.booking import ENERGY_POINT, RegisterReading
from services.carbon.domain.samples import REACTIVE
from tests.integration.carbon.carbon_levels import QUARTER, START
from tests.integration.carbon.why_world import Town, open_town

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

DAY = timedelta(days=1)
SPAN: dict[str, Any] = {"from": START.isoformat(), "to": (START + DAY).isoformat()}
CHANCE = random.Random(17)  # energies without a short binary form


@pytest.fixture
async def town(postgres_url: str, tmp_path: Path) -> AsyncIterator[Town]:
    async with open_town(postgres_url, tmp_path) as found:
        yield found


def odd(count: int, most: float = 5.0) -> list[float | None]:
    return [CHANCE.uniform(0.0, most) for _ in range(count)]


async def measured_day(town: Town) -> None:
    """The feed's meter speaks for half a day; then what hangs beneath it stands in."""
    shown = [1000.0]
    for energy in odd(60):
        shown.append(shown[-1] + (energy or 0.0))
    await town.read("feed", shown)
    await town.book("room-feed", odd(96))
    await town.book("lift", odd(96))
    await town.book("tenant", odd(90), site="site-2")


async def test_energy_is_walked_down_to_registers_and_to_what_stands_in(town: Town) -> None:
    await measured_day(town)
    (row,) = (await town.ask("GET", "/energy", site="site-1", step="day", **SPAN))["periods"]
    walk = town.walk(branches=2, limit=40)  # small pages, so that they are turned
    found = await walk.figure(site="site-1", **SPAN)
    assert found["value"] == row["energy_kwh"]
    assert {"energy", "circuit", "interval"} <= set(walk.seen)
    assert walk.registers >= walk.branches
    assert found["quality"]["interval_completeness"] == row["interval_completeness"]
    assert [(one["id"], one["source"]) for one in found["inputs"]] == [("feed", "meter m-feed")]
    (circuit,) = [one["trace"] for one in found["inputs"]]
    assert "part=feed" in circuit
    beneath = town.walk()
    late = (START + 70 * QUARTER).isoformat()
    parts = await beneath.figure(figure="parts", circuit="feed", start=late)
    assert {one["id"] for one in parts["inputs"]} == {"lift", "room-feed", "tenant"}
    quarter: dict[str, Any] = {"from": late, "to": (START + 71 * QUARTER).isoformat()}
    (one,) = (await town.ask("GET", "/energy", circuit="feed", step="quarter_hour", **quarter))["periods"]
    assert one["energy_kwh"] == parts["value"]
    region = await town.walk().figure(region="gz", **SPAN)
    (whole,) = (await town.ask("GET", "/energy", region="gz", step="day", **SPAN))["periods"]
    assert region["value"] == whole["energy_kwh"]


async def test_late_data_change_a_trace_and_its_old_version_stays_told(town: Town) -> None:
    await town.read("feed", [10.0, 11.0, 12.5, 14.0])
    before = await town.walk().figure(circuit="feed", start=(START + QUARTER).isoformat())
    at = START + 1.5 * QUARTER
    await town.take(RegisterReading(DeviceId("m-feed"), ENERGY_POINT, at, at + 9 * QUARTER, 12.4, 1.0, uncertain=False))
    after = await town.walk().figure(circuit="feed", start=(START + QUARTER).isoformat())
    assert [one["version"] for one in after["versions"]] == [1, 2]
    assert after["value"] != before["value"]
    assert len(after["registers"]) == len(before["registers"]) + 1
    assert after["versions"][0] == before["versions"][0]


async def test_an_interval_within_a_long_gap_says_what_is_measured_of_it(town: Town) -> None:
    await town.read("feed", [10.0, 11.0])
    await town.read("feed", [20.0, 21.0], first=10)
    walk = town.walk()
    inside = [
        await walk.figure(circuit="feed", start=(START + number * QUARTER).isoformat()) for number in range(1, 10)
    ]
    assert {one["marks"][0] for one in inside} == {"estimated_allocated"}
    assert {one["gap"]["energy_kwh"] for one in inside} == {9.0}
    assert sum(one["value"] for one in inside) == pytest.approx(9.0 + 1.0 * 37 / 937)
    before = await walk.figure(circuit="feed", start=START.isoformat())
    assert (before["marks"], before["gap"]) == (["measured"], None)


async def test_emissions_name_each_factor_with_its_revision(town: Town) -> None:
    await measured_day(town)
    (row,) = (await town.ask("GET", "/emissions", organisation="operator", step="day", **SPAN))["periods"]
    walk = town.walk()
    found = await walk.figure(figure="emission", organisation="operator", **SPAN)
    assert found["value"] == row["emission_kg_co2"]
    assert [one["factor_id"] for one in found["factors"]] == row["factor_ids"]
    assert all(one["revision"] >= 1 and one["source"] for one in found["factors"])
    assert {"site_year", "energy", "interval"} <= set(walk.seen)
    assert "provisional_factor" in found["marks"]


async def test_figures_of_levels_are_what_their_routes_say(town: Town) -> None:
    await town.book("feed", odd(96, 9.0))
    await town.book("it", odd(96, 2.0))
    await town.sampled("feed", [100.0 + 0.1 * number for number in range(97)])
    await town.sampled("roof", [7.0 + 0.3 * number for number in range(97)])
    (pue,) = await town.ask("GET", "/energy/pue", site="site-1", step="day", category=1, **SPAN)
    assert pue["reason"] is None
    walk = town.walk()
    found = await walk.figure(figure="pue", site="site-1", category=1, **SPAN)
    assert found["value"] == pue["value"]
    walk.branches = 0  # the last input of each document only
    (profile,) = (await town.ask("GET", "/energy/profile", site="site-1", step="day", **SPAN))["periods"]
    assert (await walk.figure(figure="demand", site="site-1", **SPAN))["value"] == profile["max_kw"]
    assert (await walk.figure(figure="load_factor", site="site-1", **SPAN))["value"] == profile["load_factor"]
    (per,) = await town.ask("GET", "/energy/intensity", site="site-1", step="day", **SPAN)
    intensity = await walk.figure(figure="intensity", site="site-1", kind="area_m2", **SPAN)
    assert intensity["value"] == next(one["value"] for one in per["figures"] if one["per"] == "area_m2")
    (balance,) = await town.ask("GET", "/energy/balance", site="site-1", step="day", **SPAN)
    clean = await walk.figure(figure="clean_share", site="site-1", **SPAN)
    assert clean["value"] == balance["clean_share"]
    roles = await town.ask("GET", "/energy/breakdown", site="site-1", by="role", **SPAN)
    share = await walk.figure(figure="share", site="site-1", role="it_output", **SPAN)
    assert share["value"] == next(one["share"] for one in roles["parts"] if one["key"] == "it_output")
    assert {"consumed", "energy", "demand"} <= set(walk.seen)


async def test_a_balance_is_walked_down_to_registers_of_export(town: Town) -> None:
    await town.book("feed", odd(96, 9.0))
    await town.sampled("feed", [100.0 + 0.1 * number for number in range(97)])
    await town.sampled("roof", [7.0 + 0.3 * number for number in range(97)])
    (balance,) = await town.ask("GET", "/energy/balance", site="site-1", step="day", **SPAN)
    walk = town.walk()
    for flow, name in (("photovoltaics", "pv_kwh"), ("exported", "exported_kwh")):
        found = await walk.figure(figure="flow", site="site-1", flow=flow, **SPAN)
        assert found["value"] == balance[name]
    assert walk.seen.count("delivered") >= 4
    assert walk.registers >= 4
    nothing = await walk.figure(figure="flow", site="site-1", flow="generators", **SPAN)
    assert (nothing["value"], nothing["marks"]) == (0.0, ["nothing_that_delivers"])
    await town.ask("GET", "/energy/trace", status=403, sites=("site-2",), figure="flow", site="site-1", **SPAN)


async def test_completeness_and_imbalance_are_traced(town: Town) -> None:
    await town.book("feed", odd(90))
    await town.book("tenant", odd(96), site="site-2")
    nodes: list[dict[str, Any]] = [{"site": "site-1"}, {"region": "gz"}]
    for one in nodes:
        (row,) = (await town.ask("GET", "/energy", step="day", **one, **SPAN))["periods"]
        found = await town.walk().figure(figure="completeness", **one, **SPAN)
        assert found["value"] == pytest.approx(row["interval_completeness"], rel=1e-12)
    assert 0 < found["value"] < 1
    for point, value in {"current_a": 24.3, "current_b": 20.1, "current_c": 16.7}.items():
        await town.sampled("feed", [value, value / 2], point=point)
    (feed,) = await town.ask("GET", "/energy/imbalance", site="site-1", step="day", **SPAN)
    found = await town.walk().figure(figure="imbalance", circuit="feed", **SPAN)
    assert found["value"] == feed["periods"][0]["deviation_max"]
    assert [one["value"] for one in found["inputs"]] == [24.3, 20.1, 16.7]


async def test_a_virtual_meter_is_traced_by_its_definition_to_its_circuits(town: Town) -> None:
    await town.book("feed", odd(96))
    await town.book("it", odd(90))
    define = "/energy/virtual-meters"
    terms = [{"child": "feed", "factor": 1.0}, {"child": "it", "factor": -0.3}]
    await town.ask("PUT", f"{define}/rest", {"name": "rest", "terms": terms, "allow_partial": True})
    half = {
        "name": "half",
        "terms": [{"child": "rest", "factor": 0.5}, {"child": "it", "factor": 1.0}],
        "constant_kw": 0.4,
    }
    await town.ask("PUT", f"{define}/half", half)
    for name in ("rest", "half"):
        walk = town.walk()
        found = await walk.figure(figure="virtual", id=name, **SPAN)
        assert found["value"] == (await town.ask("GET", f"{define}/{name}", **SPAN))["energy_kwh"]
        assert {"virtual_interval", "interval"} <= set(walk.seen)
    last = (START + 95 * QUARTER).isoformat()
    partial = await town.walk().figure(figure="virtual_interval", id="rest", start=last)
    assert partial["marks"] == ["left_out:it"]
    unknown = await town.walk().figure(figure="virtual_interval", id="half", start=last)
    assert (unknown["value"], unknown["recomputed"]) == (None, True)
    await town.ask("GET", "/energy/trace", status=403, sites=("site-2",), figure="virtual", id="rest", **SPAN)


async def test_a_change_and_a_power_factor_are_traced_too(town: Town) -> None:
    await town.book("feed", odd(96 * 2))
    second: dict[str, Any] = {"from": SPAN["to"], "to": (START + 2 * DAY).isoformat()}
    compared = await town.ask("GET", "/energy/comparison", site="site-1", step="day", at=SPAN["to"])
    walk = town.walk(branches=0)
    for one in compared:
        found = await walk.figure(figure="change", site="site-1", against=one["against"], **second)
        assert found["value"] == one["raw"]["relative"]
    assert any(one["raw"]["relative"] is not None for one in compared)
    for point in REACTIVE:
        await town.sampled("feed", [5.0 + 0.7 * number for number in range(97)], point=point)
    (factor,) = await town.ask("GET", "/energy/power-factor", site="site-1", step="day", **SPAN)
    found = await walk.figure(figure="power_factor", site="site-1", **SPAN)
    assert found["value"] == factor["power_factor"]
    assert found["value"] is not None


async def test_money_is_exact_down_to_the_slots_of_each_band(town: Town) -> None:
    await town.book("feed", odd(96))
    state = {
        "valid_from": "2025-01-01", "site": "site-1", "region": "CN-44", "customer_class": "industrial_commercial",
        "voltage": "1-10kV",
    }  # fmt: skip
    await town.ask("PUT", "/bills/accounts/0320001", state)
    price = {
        "region": "CN-44", "customer_class": "industrial_commercial", "voltage": "1-10kV", "month": "2026-03",
        "base_cny_per_kwh": "0.6", "fixed_cny_per_kwh": "0.03", "source": "price sheet of March",
    }  # fmt: skip
    unknown = await town.walk().figure(figure="cost", site="site-1", **SPAN)
    assert (unknown["value"], unknown["marks"]) == (None, ["no_price: CN-44 industrial_commercial 1-10kV 2026-03"])
    await town.ask("POST", "/tariffs/prices", {"prices": [price]})
    walk = town.walk(branches=0)
    found = await walk.figure(figure="cost", site="site-1", **SPAN)
    cost = await town.ask("GET", "/energy/cost", site="site-1", **SPAN)
    assert round(float(found["value"]), 2) == float(cost["cost_cny"])
    assert {"cost_line", "band_energy", "interval"} <= set(walk.seen)
    target = {
        "name": "March", "node_kind": "site", "node": "site-1", "measure": "cost", "first_day": "2026-03-02",
        "last_day": "2026-03-03", "amount": 3000.0, "reason": "allocation",
    }  # fmt: skip
    for measure in ("cost", "energy", "emission_location_based"):
        kept = await town.ask("POST", "/targets", target | {"measure": measure})
        used = await town.walk(branches=0).figure(figure="target", id=kept["target_id"])
        assert used["value"] is not None
        assert used["value"] == (await town.ask("GET", f"/targets/{kept['target_id']}"))["at_least"]


async def test_a_bill_is_traced_to_its_meters(town: Town) -> None:
    await town.book("feed", odd(96))
    state = {
        "valid_from": "2025-01-01", "site": "site-1", "region": "CN-44", "customer_class": "industrial_commercial",
        "voltage": "1-10kV",
    }  # fmt: skip
    await town.ask("PUT", "/bills/accounts/0320001", state)
    bill = {
        "account_number": "0320001", "number": "B-1", "first_day": "2026-03-02", "last_day": "2026-03-02",
        "energy_kwh": "250", "amount_cny": "150.00", "issued_on": "2026-04-01",
    }  # fmt: skip
    await town.ask("POST", "/bills", bill)
    days: dict[str, Any] = {"from": "2026-03-02", "to": "2026-03-03"}
    (row,) = (await town.ask("GET", "/bills/reconciliation", account="0320001", **days))["items"]
    walk = town.walk(branches=0)
    found = await walk.figure(figure="bill", account="0320001", line="B-1", **SPAN)
    assert float(found["value"]) == pytest.approx(float(row["difference_kwh"]))
    assert found["marks"] == [row["verdict"]]
    assert {"metered", "band_energy", "interval"} <= set(walk.seen)
    gone: dict[str, Any] = {"figure": "bill", "account": "0320001", "line": "B-2", **SPAN}
    assert (await town.ask("GET", "/energy/trace", status=404, **gone))["detail_zh"]
    seen: dict[str, Any] = {**gone, "line": "B-1"}
    await town.ask("GET", "/energy/trace", status=403, sites=("site-2",), **seen)


RECYCLED = {
    "name": "2023",
    "sources": [
        {
            "line_id": "boards", "node": "site-1", "region_code": "51", "start": "2023-01-01T00:00:00+08:00",
            "end": "2024-01-01T00:00:00+08:00", "series": "WASTE-RECYCLE-SOURCE-003", "amount": 1000.0, "unit": "kg",
            "origin": "weighing slip",
        }
    ],
}  # fmt: skip


async def test_what_others_do_not_emit_is_traced_as_frozen(town: Town) -> None:
    kept = await town.ask("POST", "/emissions/avoided/av-1/versions", RECYCLED, status=201)
    walk = town.walk()
    found = await walk.figure(figure="avoided", id="av-1", version=1)
    assert found["value"] == kept["publication"]["total"]["kg_co2e"]
    assert set(walk.seen) == {"avoided", "avoided_line"}


async def test_an_inventory_is_traced_as_frozen(town: Town) -> None:
    await town.book("feed", odd(96))
    day = {"start": START.isoformat(), "end": (START + DAY).isoformat()}
    asked = {
        "name": "a day", "organisation": "operator", "parts": [{"node": "operator", **day}],
        "metered": [{"line_id": "grid"}],
    }  # fmt: skip
    published = await town.ask("POST", "/inventories/inv-1/versions", asked, status=201)
    walk = town.walk()
    for method in ("location", "market"):
        found = await walk.figure(figure="inventory", id="inv-1", version=1, scope2=method)
        assert found["value"] == published["publication"][method]["kg_co2e"]
    assert walk.seen.count("inventory_line") >= 2
    assert "inventory_use" in walk.seen  # the node's share of what its meters said
    coal = await town.walk().figure(figure="standard_coal", id="inv-1", version=1)
    assert coal["value"] == published["publication"]["summary"]["standard_coal"]["value"]
    line = await town.walk().figure(figure="inventory_line", id="inv-1", version=1, line=found["inputs"][0]["id"])
    assert (line["rule"], line["formula"]) == ("product", "E = imported * EF")
    assert [one["kind"] for one in line["inputs"]] == ["parameter", "factor"]
    assert line["factors"][0]["factor_id"] == line["inputs"][1]["id"]


async def test_a_trace_is_for_whoever_may_see_the_figure(town: Town) -> None:
    await measured_day(town)
    at = START.isoformat()
    mine: dict[str, Any] = {"sites": ("site-2",)}
    trace = "/energy/trace"
    hidden: dict[str, Any]
    for hidden in (
        {"site": "site-1", **SPAN},
        {"region": "gz", **SPAN},
        {"figure": "circuit", "site": "site-1", "part": "feed", **SPAN},
        {"figure": "emission", "site": "site-1", **SPAN},
        {"figure": "cost", "site": "site-1", **SPAN},
        {"circuit": "feed", "start": at},
        {"figure": "pue", "site": "site-1", **SPAN},
        {"figure": "inventory", "id": "inv-1", "version": 1},
    ):
        refused = await town.ask("GET", trace, status=403, **mine, **hidden)
        assert refused["detail_zh"]
    # What stands in for the feed is partly of a tenant's site.
    late = (START + 70 * QUARTER).isoformat()
    await town.ask("GET", trace, status=403, sites=("site-1",), figure="parts", circuit="feed", start=late)
    seen = await town.ask("GET", trace, circuit="tenant", start=at, **mine)
    assert seen["versions"]
    await town.ask("GET", trace, status=403, scopes=(), site="site-2", **SPAN)


LACKING: list[tuple[dict[str, Any], str]] = [
    ({"site": "site-1"}, "from, to"),
    ({**SPAN}, "site, circuit"),
    ({"site": "site-1", "circuit": "feed", **SPAN}, "name one of site"),
    ({"site": "site-1", "from": SPAN["to"], "to": SPAN["from"]}, "to: expected a time after from"),
    ({"site": "site-1", "from": "2026-03-01T16:01:00Z", "to": SPAN["to"]}, "starts of quarter hours"),
    ({"figure": "pue", "site": "site-1", "from": SPAN["from"], "to": "2026-03-02T15:45:00Z"}, "one civil"),
    ({"figure": "intensity", "site": "site-1", **SPAN}, "kind"),
    ({"figure": "interval", "site": "site-1", "start": SPAN["from"]}, "circuit, start"),
    ({"figure": "site_year", "site": "site-1", **SPAN}, "of_site"),
    ({"figure": "share", "site": "site-1", **SPAN}, "role, tag"),
    ({"figure": "cost_line", "site": "site-1", "line": "x", **SPAN}, "line: expected a number"),
    ({"figure": "target"}, "id"),
    ({"figure": "inventory", "id": "inv-1"}, "version"),
]


async def test_a_question_that_lacks_something_is_told_what(town: Town) -> None:
    for question, said in LACKING:
        refused = await town.ask("GET", "/energy/trace", status=400, **question)
        assert said in refused["detail"], question
        assert refused["detail_zh"] != refused["detail"]
    gone: dict[str, Any] = {"figure": "circuit", "site": "site-1", "part": "nothing", **SPAN}
    assert (await town.ask("GET", "/energy/trace", status=404, **gone))["detail_zh"]
