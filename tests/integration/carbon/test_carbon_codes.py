"""Carbon efficiency codes and product footprints on a real database and API: computed, walked down, kept, refused."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from libs.common.ids import CircuitId, SiteId
from services.carbon.domain.booking import BookedInterval
from services.carbon.domain.intervals import Grade
from services.carbon.store.media import MediumBooks
from tests.integration.carbon.carbon_levels import QUARTER, START
from tests.integration.carbon.why_world import Town, open_town

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

SPAN: dict[str, Any] = {"from": START.isoformat(), "to": (START + timedelta(days=1)).isoformat()}
DAY = {"first_day": "2026-03-02", "end_day": "2026-03-03"}
SECTOR: dict[str, Any] = {
    "standard_id": "electronics",
    "kind": "industry",
    "name": "Electronics",
    "name_zh": "电子制造",
    "valid_from": "2026-01-01",
    "benchmark": 0.5,
    "source": "notice of the city",
    "confidence": "verified",
}


@pytest.fixture
async def town(postgres_url: str, tmp_path: Path) -> AsyncIterator[Town]:
    async with open_town(postgres_url, tmp_path) as found:
        yield found


async def enter(town: Town, kind: str, value: float, *, node: str = "site-1", **more: Any) -> None:
    body = {"node": node, "kind": kind, "value": value, "source": f"book of {node}", **DAY, **more}
    await town.ask("POST", "/energy/facts", body, status=201)


async def code(town: Town, **question: Any) -> dict[str, Any]:
    place = {} if "organisation" in question else {"site": "site-1"}
    asked = {**place, "standard": "electronics", **question}
    (found,) = (await town.ask("GET", "/emissions/efficiency", step="day", **asked, **SPAN))["periods"]
    return found  # type: ignore[no-any-return]


async def measured(town: Town) -> None:
    """480 kWh of electricity at site-1, and 2.4 kWh of heat a quarter hour."""
    await town.book("feed", [5.0] * 96)
    async with town.city.db.write() as conn:
        await MediumBooks("heat_energy").book(
            conn,
            [
                BookedInterval(
                    CircuitId("lift"), SiteId("site-1"), START + number * QUARTER, 900, 1, 2.4, Grade.MEASURED,
                    False, False, START,
                )
                for number in range(96)
            ],
        )  # fmt: skip


async def test_a_code_is_computed_and_walked_down_to_its_registers(town: Town) -> None:
    await measured(town)
    await town.ask("POST", "/emissions/efficiency/standards", SECTOR, status=201)
    await enter(town, "value_added", 0.5, basis="current")
    await enter(town, "zero_carbon_kwh", 120.0)
    await enter(town, "sink_kg_co2e", 10.0)
    found = await code(town)
    (emitted,) = (await town.ask("GET", "/emissions", site="site-1", step="day", **SPAN))["periods"]
    electricity = emitted["emission_kg_co2"]
    # 230.4 kWh of heat are 0.82944 GJ at 110 kg; a quarter of the electricity is green.
    heat = 230.4 * 0.0036 * 110.0
    net = 0.75 * electricity + heat - 10.0
    assert found["electricity_kg_co2e"] == electricity
    assert found["media"] == [
        {"point": "heat_energy", "emission_kg_co2e": pytest.approx(heat), "usable_share": 1.0, "unsaid": False}
    ]
    assert found["net_kg_co2e"] == pytest.approx(net)
    assert found["intensity"] == pytest.approx(net / 1000 / 0.5)
    assert found["ratio"] == pytest.approx(net / 1000 / 0.5 / 0.5)
    assert 0.8 < found["ratio"] <= 1.2
    assert (found["level"], found["level_text"], found["level_text_zh"]) == (3, "about average", "中等")
    assert (found["carbon_class"], found["class_text_zh"], found["reason"]) == ("low_carbon", "低碳", None)
    assert (found["usable_share"], found["denominator_sources"]) == (1.0, ["book of site-1"])
    walk = town.walk(branches=3)
    traced = await walk.figure(figure="efficiency", site="site-1", id="electronics", **SPAN)
    assert traced["value"] == found["ratio"]
    assert f"level_{found['level']}" in traced["marks"]
    every = {f"efficiency{rest}" for rest in ("", "_intensity", "_net", "_gross", "_deducted", "_covered")}
    assert every | {"emission", "medium_emission", "medium_site", "medium", "energy"} <= set(walk.seen)


async def test_a_code_that_cannot_be_said_gives_its_reason(town: Town) -> None:
    await measured(town)
    await town.ask("POST", "/emissions/efficiency/standards", SECTOR, status=201)
    assert (await code(town))["reason"] == "not_entered"
    await enter(town, "value_added", -3.0, basis="current")  # a loss is kept as one
    found = await code(town)
    assert (found["reason"], found["denominator"], found["level"], found["intensity"]) == (
        "not_positive", -3.0, None, None,
    )  # fmt: skip
    assert (found["reason_text"], found["reason_text_zh"]) == (
        "value added or area is zero or less", "增加值或面积不大于零",
    )  # fmt: skip
    traced = await town.walk().figure(figure="efficiency_intensity", site="site-1", id="electronics", **SPAN)
    assert (traced["value"], traced["recomputed"]) == (None, True)
    await enter(town, "value_added", 0.5, basis="current")
    assert (await code(town, standard="industry"))["reason"] == "no_benchmark"
    assert (await code(town, standard="building"))["reason"] == "part_of_a_year"
    async with town.city.db.write() as conn:
        await MediumBooks("gas_volume_normal").book(
            conn,
            [
                BookedInterval(
                    CircuitId("lift"), SiteId("site-1"), START, 900, 1, 2.0, Grade.MEASURED, False, False, START
                )
            ],
        )
    assert (await code(town))["reason"] == "medium_unsaid"
    said = await code(town, gas="NATGAS")
    assert said["reason"] == "too_little_known"  # a quarter hour of gas in a day
    assert said["media"][0]["emission_kg_co2e"] == pytest.approx(2 * 2.1622, rel=1e-4)
    year: dict[str, Any] = {"from": "2026-01-01T00:00:00+08:00", "to": "2027-01-01T00:00:00+08:00"}
    (running,) = (await town.ask("GET", "/emissions/efficiency", site="site-1", **year))["periods"]
    assert (running["reason"], running["provisional"]) == ("not_over", True)
    await town.ask("PUT", "/energy/virtual-meters/v", {"name": "V", "terms": [{"child": "feed"}]}, status=200)
    await town.ask("GET", "/energy/trace", status=400, figure="efficiency", virtual="v", id="electronics", **SPAN)
    await town.ask("GET", "/emissions/efficiency", status=400, site="site-1", step="hour", **SPAN)
    await town.ask("GET", "/emissions/efficiency", status=404, site="site-1", standard="none", **SPAN)
    await town.ask("GET", "/emissions/efficiency", status=403, sites=("site-2",), site="site-1", **SPAN)


async def test_a_group_is_divided_by_what_all_of_its_sites_have(town: Town) -> None:
    await measured(town)
    await town.book("tenant", [1.0] * 96, site="site-2")
    await town.ask("POST", "/emissions/efficiency/standards", SECTOR, status=201)
    group = {"organisation": "operator"}
    await enter(town, "value_added", 2.0, basis="current")
    lacking = await code(town, **group)
    assert (lacking["reason"], lacking["denominator_nodes"]) == ("not_entered", ["site-1", "site-2"])
    await enter(town, "value_added", 0.5, node="site-2", basis="current")
    summed = await code(town, **group)
    assert (summed["denominator"], summed["denominator_sources"]) == (2.5, ["book of site-1", "book of site-2"])
    await enter(town, "value_added", 4.0, node="operator", basis="constant-2020")
    own = await code(town, **group)
    assert (own["denominator"], own["basis"], own["denominator_nodes"]) == (4.0, "constant-2020", ["operator"])


async def test_standards_are_entered_corrected_and_never_doubled(town: Town) -> None:
    path = "/emissions/efficiency/standards"
    assert (await town.ask("POST", path, SECTOR, status=201))["version"] == 1
    corrected = await town.ask("POST", path, {**SECTOR, "benchmark": 0.4, "valid_to": "2027-01-01"}, status=201)
    assert (corrected["version"], corrected["benchmark"], corrected["unit"]) == (2, 0.4, "tCO2e/1e4 CNY")
    await town.ask("POST", path, {**SECTOR, "valid_from": "2027-01-01", "levels": [0.5, 0.7, 1, 1.5]}, status=201)
    await town.ask("POST", path, {**SECTOR, "valid_from": "2026-05-01"}, status=409)
    await town.ask("POST", path, {**SECTOR, "standard_id": "industry"}, status=409)
    await town.ask("POST", path, {**SECTOR, "levels": [0.5, 0.7, 1, 1]}, status=400)
    await town.ask("POST", path, {**SECTOR, "name": "a\x00b"}, status=422)
    await town.ask("POST", path, SECTOR, status=403, sites=("site-1",))
    held = [(one["standard_id"], one["version"]) for one in await town.ask("GET", path, on="2026-05-01")]
    assert held == [("industry", 1), ("building", 1), ("electronics", 2)]
    assert len(await town.ask("GET", path)) == 4
    told = [one for one in await town.door.audits() if one.action == "efficiency.standard"]
    assert [one.subject for one in told] == ["efficiency:electronics"] * 3
    assert [(one.before or {}).get("benchmark") for one in told] == [None, 0.5, None]


FACTOR: dict[str, Any] = {
    "factor_id": "OWN-FIBRE-2024",
    "series": "OWN-FIBRE",
    "family": "activity",
    "category": "material",
    "region": "CN",
    "data_year": 2024,
    "value": "0.5",
    "unit": "kgCO2e/kg",
    "gas": "CO2e",
    "source": "declaration of the mill",
    "confidence": "verified",
    "name_en": "Wood fibre",
    "name_zh": "木纤维",
    "evidence": "epd.pdf",
}
GOOD = {"technology": 1, "time": 1, "geography": 2, "completeness": 1, "reliability": 1}
BOARD: dict[str, Any] = {
    "product_id": "board-20",
    "name": "Fibre board",
    "name_zh": "纤维板",
    "nodes": ["site-1"],
    "functional_unit": "1 m2 of board, 20 mm",
    "boundary": "cradle_to_gate",
    "year": 2024,
    "flows": [
        {
            "flow_id": "fibre", "stage": "raw_materials", "name": "Wood fibre", "amount": 12, "unit": "kg",
            "series": "OWN-FIBRE", "scrap_rate": 0.04, "primary": False, "quality": {**GOOD, "time": 3},
            "source": "bill of materials",
        },
        {
            "flow_id": "power", "stage": "manufacturing", "name": "Press", "amount": 8, "unit": "kWh",
            "series": "CFP-ELEC-CN", "electricity": True, "allocation": "press", "primary": True, "quality": GOOD,
            "source": "meter of the press",
        },
    ],
    "allocations": [
        {"allocation_id": "press", "by": "mass", "reason": "one meter", "shares": {"board-20": 0.75, "bark": 0.25}}
    ],
    "cut_offs": [
        {"name": "labels", "stage": "raw_materials", "by": "mass", "amount": 0.05, "reason": "paper of 5 g a board"}
    ],
}  # fmt: skip
PRODUCTS = "/emissions/products"


async def test_a_footprint_is_kept_computed_and_walked_down(town: Town) -> None:
    await town.ask("POST", "/factors", FACTOR, status=201)
    created = await town.ask("POST", PRODUCTS, BOARD, status=201)
    assert (created["version"], created["changed_by"], created["reason"]) == (1, "user:wang", "created")
    found = await town.ask("GET", f"{PRODUCTS}/board-20/footprint")
    # 12.5 kg at 0.5, and three quarters of 8 kWh at 0.5777.
    assert found["footprint_kg_co2e"] == pytest.approx(6.25 + 3.4662)
    assert [one["emission_kg_co2e"] for one in found["stages"]] == [pytest.approx(6.25), None, pytest.approx(3.4662)]
    assert [one["factor_id"] for one in found["flows"]] == ["OWN-FIBRE-2024", "CFP-ELEC-CN-2024"]
    assert found["marks"] == ["no_flows:inbound_transport"]
    assert found["cut_off_share"] == pytest.approx(0.05 / 12.55)
    assert found["primary_share"] == pytest.approx(3.4662 / 9.7162)
    walk = town.walk(branches=3)
    traced = await walk.figure(figure="footprint", id="board-20")
    assert traced["value"] == found["footprint_kg_co2e"]
    assert walk.seen.count("footprint_flow") == walk.seen.count("footprint_input") == 2
    for figure, name in (("footprint_primary", "primary_share"), ("footprint_quality", "quality")):
        assert (await walk.figure(figure=figure, id="board-20"))["value"] == found[name]
    stage = await walk.figure(figure="footprint", id="board-20", line="manufacturing")
    assert stage["value"] == found["stages"][2]["emission_kg_co2e"]
    await town.ask("GET", "/energy/trace", status=400, figure="footprint", id="board-20", line="x")
    await town.ask("GET", "/energy/trace", status=404, figure="footprint_flow", id="board-20", line="x")
    # Before the mill's own factor was entered, nobody knew the whole.
    earlier = await town.ask("GET", f"{PRODUCTS}/board-20/footprint", known_on="2026-01-15")
    assert (earlier["footprint_kg_co2e"], earlier["at_least_kg_co2e"]) == (None, pytest.approx(3.4662))
    assert "no_factor:fibre" in earlier["marks"]
    assert (await walk.figure(figure="footprint", id="board-20", as_of="2026-01-15"))["value"] is None


async def test_a_product_is_versioned_audited_and_seen_by_who_sees_its_sites(town: Town) -> None:
    await town.ask("POST", "/factors", FACTOR, status=201)
    await town.ask("POST", PRODUCTS, BOARD, status=201)
    await town.ask("POST", PRODUCTS, BOARD, status=409)
    less = {**BOARD, "flows": [{**BOARD["flows"][0], "amount": 10}, BOARD["flows"][1]]}
    change = {"version": 1, "reason": "a lighter board", "product": less}
    assert (await town.ask("PUT", f"{PRODUCTS}/board-20", change))["version"] == 2
    await town.ask("PUT", f"{PRODUCTS}/board-20", change, status=409)
    await town.ask("PUT", f"{PRODUCTS}/other", {**change, "product": less}, status=404)
    history = await town.ask("GET", f"{PRODUCTS}/board-20/history")
    assert [one["product"]["flows"][0]["amount"] for one in history] == [12.0, 10.0]
    first = await town.ask("GET", f"{PRODUCTS}/board-20/footprint", version=1)
    assert (first["version"], first["footprint_kg_co2e"]) == (1, pytest.approx(9.7162))
    told = [(one.action, one.subject, one.reason) for one in await town.door.audits() if "product" in one.action]
    assert told == [
        ("product.create", "product:board-20", "created"), ("product.replace", "product:board-20", "a lighter board"),
    ]  # fmt: skip
    others: dict[str, Any] = {"sites": ("site-2",)}
    assert (await town.ask("GET", PRODUCTS, **others))["items"] == []
    assert len((await town.ask("GET", PRODUCTS, sites=("site-1",)))["items"]) == 1
    for path in ("", "/history", "/footprint"):
        await town.ask("GET", f"{PRODUCTS}/board-20{path}", status=403, **others)
    await town.ask("PUT", f"{PRODUCTS}/board-20", {**change, "version": 2}, status=403, **others)
    await town.ask("POST", PRODUCTS, {**BOARD, "product_id": "board-8"}, status=403, **others)
    await town.ask("GET", "/energy/trace", status=403, figure="footprint", id="board-20", **others)
    await town.ask("GET", f"{PRODUCTS}/none", status=404)
    async with town.city.db.write() as conn:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute("update products set reason = 'another'")


async def test_products_that_iso_14067_does_not_allow_are_refused(town: Town) -> None:
    await town.ask("POST", "/factors", FACTOR, status=201)
    fibre, power = BOARD["flows"]
    press = BOARD["allocations"][0]
    for wrong, code in (
        ({"flows": [fibre, {**power, "series": "grid-average"}]}, "wrong_factor_family"),
        ({"flows": [fibre, {**power, "series": "OWN-FIBRE"}]}, "wrong_factor_family"),
        ({"flows": [{**fibre, "series": "OWN-NOTHING"}, power]}, "invalid_input"),
        ({"flows": [{**fibre, "stage": "use"}, power]}, "invalid_input"),
        ({"allocations": [{**press, "shares": {"board-20": 0.75, "bark": 0.2}}]}, "invalid_input"),
        ({"cut_offs": [{**BOARD["cut_offs"][0], "amount": 0.2}]}, "invalid_input"),
    ):
        refused = await town.ask("POST", PRODUCTS, {**BOARD, **wrong}, status=400)
        assert refused["code"] == code, refused
        assert refused["detail_zh"]
    await town.ask("POST", PRODUCTS, {**BOARD, "nodes": ["nowhere"]}, status=404)
    for shape in ({"functional_unit": ""}, {"offsets": 3}, {"flows": [{**fibre, "primary": 1}]}, {"year": "2024"}):
        await town.ask("POST", PRODUCTS, {**BOARD, **shape}, status=422)
