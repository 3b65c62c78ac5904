"""Retrofit projects on a real database and API: kept by version, measured from the books, assessed; published cases."""

import math
from collections.abc import AsyncIterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from libs.common.bus import topics
from libs.common.clock import CIVIL_ZONE
from services.carbon.domain.savings.measurement.days import opening
from tests.integration.carbon.savings_world import NIGHT, World, night, open_world, registry
from tests.integration.carbon.why_walk import Walk

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

BEFORE, AFTER = date(2022, 3, 1), date(2022, 5, 1)
FACTOR = {"factor_id": "GRID-44-2022", "value": 0.4403, "unit": "kgCO2/kWh", "source": "MEE 2025 No. 47"}


@pytest.fixture
async def world(postgres_url: str, tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(postgres_url, tmp_path, registry()) as found:
        yield found


def parameter(value: float, unit: str) -> dict[str, Any]:
    return {"value": value, "unit": unit, "source": "survey"}


def period(start: date, days: int) -> dict[str, str]:
    return {"start": start.isoformat(), "end": (start + timedelta(days=days)).isoformat()}


def lighting(**more: Any) -> dict[str, Any]:
    return {
        "measure_id": "lighting",
        "name": "Lamps",
        "name_zh": "照明",
        "statement": "electricity",
        "unit": "kWh",
        "saving": "lamps * power_kw * (hours_before - hours_after) * days",
        "baseline": "lamps * power_kw * hours_before * days",
        "money": "lamps * power_kw * (hours_before - hours_after) * days * price",
        "parameters": {
            "lamps": parameter(100, "lamp"),
            "power_kw": parameter(0.01, "kW"),
            "hours_before": parameter(24, "h/d"),
            "hours_after": parameter(6, "h/d"),
            "days": parameter(300, "d/a"),
            "price": parameter(0.8, "CNY/kWh"),
        },
        "factor": FACTOR,
        **more,
    }


def project(*measures: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "project_id": "retrofit-1",
        "name": "Retrofit of a base station",
        "name_zh": "基站节能改造",
        "nodes": ["site-1"],
        "measures": list(measures or (lighting(),)),
        "investments": [{"name": "Lamps", "amount_cny": 20000, "spent_on": "2022-04-20"}],
        "stages": [
            {"name": "survey", "name_zh": "勘察", "planned": "2022-03-01"},
            {"name": "acceptance", "name_zh": "验收", "planned": "2022-05-01"},
        ],
        "years": 10,
        "offset_price_cny_per_t": 100,
        **more,
    }


FLAT: dict[str, Any] = {
    "prices_id": "c1",
    "version": 1,
    "source": "contract, clause 5",
    "bands": [
        {"band": "valley", "price_cny_per_kwh": 0.3, "hours": [["00:00", "08:00"]]},
        {"band": "flat", "price_cny_per_kwh": 0.8, "hours": [["08:00", "24:00"]]},
    ],
}


CLAIM: dict[str, Any] = {
    "claim_id": "total",
    "name": "Printed total",
    "name_zh": "合计",
    "kind": "total",
    "printed": 233297.6,
    "unit": "kg",
    "decimals": 1,
}


async def test_a_project_is_kept_with_every_version_and_who_made_it(world: World) -> None:
    first = await world.ask("POST", "/projects", project(), status=201)
    assert (first["version"], first["changed_by"]) == (1, "user:li")
    await world.ask("POST", "/projects", project(), status=409)
    body = {"version": 1, "reason": "another name", "project": project(name="Lamps of a base station")}
    second = await world.ask("PUT", "/projects/retrofit-1", body, subject="wang")
    assert (second["version"], second["changed_by"]) == (2, "user:wang")
    stale = await world.ask("PUT", "/projects/retrofit-1", body, status=409)
    assert stale["code"] == "project_changed"
    assert stale["detail_zh"]
    history = await world.ask("GET", "/projects/retrofit-1/history")
    assert [one["project"]["name"] for one in history] == ["Retrofit of a base station", "Lamps of a base station"]
    listed = await world.ask("GET", "/projects")
    assert [(one["project_id"], one["version"]) for one in listed["items"]] == [("retrofit-1", 2)]
    async with world.db.read() as conn:
        assert await conn.fetchval("select count(*) from outbox where topic = $1", topics.AUDIT) == 2


async def test_stages_have_planned_and_actual_date_person_and_evidence(world: World) -> None:
    await world.ask("POST", "/projects", project(), status=201)
    done = {"version": 1, "actual": "2022-03-11", "person": "Chen", "evidence": "protocol 12"}
    found = await world.ask("POST", "/projects/retrofit-1/stages/survey/done", done)
    assert found["version"] == 2
    stages = (await world.ask("GET", "/projects/retrofit-1/assessment"))["stages"]
    assert (stages[0]["actual"], stages[0]["person"], stages[0]["evidence"], stages[0]["delay_days"]) == (
        "2022-03-11",
        "Chen",
        "protocol 12",
        10,
    )
    assert stages[1]["actual"] is None
    assert stages[1]["delay_days"] > 0
    early = done | {"version": 2, "actual": "2022-03-01"}
    reply = await world.ask("POST", "/projects/retrofit-1/stages/acceptance/done", early, status=400)
    assert "survey" in reply["detail"]
    await world.ask("POST", "/projects/retrofit-1/stages/opening/done", done | {"version": 2}, status=404)
    late = done | {"version": 2, "actual": "2999-01-01"}
    await world.ask("POST", "/projects/retrofit-1/stages/acceptance/done", late, status=400)


async def test_a_formula_with_named_parameters_gives_money_payback_and_offset_cost(world: World) -> None:
    await world.ask("POST", "/projects", project(), status=201)
    found = await world.ask("GET", "/projects/retrofit-1/assessment")
    (measure,) = found["measures"]
    saved = 100 * 0.01 * 18 * 300
    assert (measure["origin"], measure["quantity"]) == ("formula", pytest.approx(saved))
    economics = found["economics"]
    assert economics["yearly_cny"] == pytest.approx(saved * 0.8)
    assert economics["payback_years"] == pytest.approx(20000 / (saved * 0.8))
    assert economics["sum_cny"] == pytest.approx(10 * saved * 0.8)
    assert economics["yearly_offset_cny"] == pytest.approx(saved * 0.4403 / 1000 * 100)
    assert found["by_statement"] == {"electricity": pytest.approx(saved * 0.4403)}


async def test_a_saving_above_its_baseline_is_refused(world: World) -> None:
    wrong = lighting(saving="lamps * power_kw * hours_before * (hours_before / hours_after) * days")
    reply = await world.ask("POST", "/projects", project(wrong), status=400)
    assert reply["code"] == "saving_above_baseline"
    assert "lighting" in reply["detail_zh"]
    await world.ask("GET", "/projects/retrofit-1", status=404)


async def test_what_a_document_may_not_say(world: World) -> None:
    wrong: list[tuple[dict[str, Any], int]] = [
        (project(lighting(saving="lamps * __import__('os')")), 400),
        (project(lighting(parameters={})), 400),
        (project(nodes=["nowhere"]), 404),
        (project(prices=FLAT | {"bands": FLAT["bands"][:1]}), 400),
        (project(lighting(circuits=["branch-1"], measurement={"basis": "regression", "after": period(AFTER, 7)})), 400),
        (project(lighting(measurement={"basis": "shutdown", "after": period(AFTER, 7)})), 400),
        (project() | {"surprise": 1}, 422),
        (project(claims=[CLAIM | {"parts": ["nothing"]}]), 400),
        (project(lighting(saving="lamps * 900000 * 900000 * 900000", baseline=None, money=None)), 400),
        (project(prices=FLAT | {"bands": [FLAT["bands"][0] | {"hours": [["24:00", "24:00"]]}]}), 422),
    ]
    for body, status in wrong:
        reply = await world.ask("POST", "/projects", body, status=status)
        assert reply["detail_zh"]
    assert (await world.ask("GET", "/projects"))["items"] == []


async def measured_project(world: World, **plan: Any) -> None:
    """A branch that used 48 kWh a day for 60 days and three quarters of it, less at night, for 30 days."""
    await world.book("branch-1", opening(BEFORE), [0.5] * 96 * 61)
    await world.book("branch-1", opening(AFTER), ([0.25] * 32 + [0.4375] * 64) * 30)
    measurement = {"basis": "comparison", "before": period(BEFORE, 61), "after": period(AFTER, 30), **plan}
    measure = lighting(circuits=["branch-1"], measurement=measurement)
    await world.ask("POST", "/projects", project(measure, prices=FLAT), status=201)


async def test_a_measured_saving_outranks_the_formula_and_has_its_own_money(world: World) -> None:
    await measured_project(world)
    (measure,) = (await world.ask("GET", "/projects/retrofit-1/assessment"))["measures"]
    night_kwh, day_kwh = 30 * 32 * 0.25, 30 * 64 * 0.0625
    measured = measure["measured"]
    assert measured["saving_kwh"] == pytest.approx(night_kwh + day_kwh)
    assert (measured["completeness"], measured["days_before"], measured["doubts"]) == (1.0, 61, [])
    assert (measure["origin"], measure["annualised"]) == ("measured", True)
    assert measure["quantity"] == pytest.approx((night_kwh + day_kwh) * 365 / 30)
    assert measure["estimate"]["quantity"] == pytest.approx(5400)
    assert measure["money_cny"] == pytest.approx((night_kwh * 0.3 + day_kwh * 0.8) * 365 / 30)


async def test_a_comparison_is_scaled_by_its_driver_and_adjusted_by_a_person(world: World) -> None:
    await measured_project(world, driver="hours of operation", driver_before=24.0, driver_after=20.0)
    path = "/projects/retrofit-1/measures/lighting/adjustments"
    change = {"energy_kwh": 12.5, "reason": "a camera was added", "evidence": "work order 9"}
    one = await world.ask("POST", path, change, status=201, subject="wang")
    assert one["author"] == "user:wang"
    (measure,) = (await world.ask("GET", "/projects/retrofit-1/assessment"))["measures"]
    baseline, actual = 30 * 48.0 * 20 / 24, 30 * 36.0
    assert measure["measured"]["baseline_kwh"] == pytest.approx(baseline)
    assert measure["measured"]["saving_kwh"] == pytest.approx(baseline - actual + 12.5)
    assert [row["evidence"] for row in measure["measured"]["adjustments"]] == ["work order 9"]
    await world.ask("POST", path, change | {"evidence": " "}, status=400)
    await world.ask("POST", path.replace("lighting", "other"), change, status=404)


async def test_days_that_the_meter_does_not_know_are_no_zeros(world: World) -> None:
    await measured_project(world)
    await world.book("branch-1", opening(AFTER) + timedelta(days=3), [None], version=2)
    (measure,) = (await world.ask("GET", "/projects/retrofit-1/assessment"))["measures"]
    assert measure["measured"]["days_known"] == 29
    assert measure["measured"]["saving_kwh"] == pytest.approx(29 * 12.0)


async def test_a_regression_takes_the_weather_out(world: World) -> None:
    start, days = date(2021, 4, 1), 365
    warm = [20.0 + 10.0 * math.sin(2 * math.pi * day / 365) for day in range(days + 31)]
    used = [40.0 + 2.0 * max(0.0, each - 18.0) for each in warm]
    energy = [day / 96 for day in used[:days] for _ in range(96)]
    await world.book("branch-1", opening(start), energy)
    after = start + timedelta(days=days)
    # Afterwards it uses 10 kWh a day less than the weather would have it.
    await world.book("branch-1", opening(after), [(day - 10.0) / 96 for day in used[days:] for _ in range(96)])
    rows = [{"day": (start + timedelta(days=index)).isoformat(), "mean_c": each} for index, each in enumerate(warm)]
    body = {"source": "station 59287", "days": rows}
    assert (await world.ask("PUT", "/savings/temperatures/gd", body))["changed"] == len(rows)
    assert (await world.ask("PUT", "/savings/temperatures/gd", body))["changed"] == 0
    kept = await world.ask(
        "GET", "/savings/temperatures/gd", start=start.isoformat(), end=(start + timedelta(days=1)).isoformat()
    )
    assert kept == [{"day": start.isoformat(), "mean_c": 20.0, "source": "station 59287"}]
    plan = {"basis": "regression", "before": period(start, days), "after": period(after, 31)}
    measure = lighting(circuits=["branch-1"], measurement=plan)
    await world.ask("POST", "/projects", project(measure), status=201)
    (found,) = (await world.ask("GET", "/projects/retrofit-1/assessment"))["measures"]
    assert found["measured"]["saving_kwh"] == pytest.approx(310.0, rel=0.01)
    assert found["measured"]["temperature_sources"] == ["station 59287"]
    model = found["measured"]["model"]
    assert (model["shape"], model["failing"]) == ("cooling", [])
    assert model["cooling_kwh_per_k"] == pytest.approx(2.0, rel=0.02)
    assert model["cooling_above_c"] == pytest.approx(18.0, abs=0.5)
    assert found["money_cny"] is None  # nobody has agreed on prices: unknown, and not 0


async def test_a_regression_without_temperatures_says_what_is_missing(world: World) -> None:
    await measured_project(world, basis="regression")
    reply = await world.ask("GET", "/projects/retrofit-1/assessment", status=400)
    assert reply["code"] == "no_baseline"
    assert "气温" in reply["detail_zh"]


async def test_shutdowns_of_a_branch_are_a_measured_saving_too(world: World) -> None:
    first = NIGHT - timedelta(days=21)
    energy = [0.5] * 96 * 24
    energy[21 * 96 : 21 * 96 + 24] = [0.05] * 24
    await world.book("branch-1", first, energy)
    events = night(NIGHT - timedelta(seconds=1), NIGHT + timedelta(hours=6), "o1")
    await world.tell(events)
    await world.consume(len(events))
    plan = {"basis": "shutdown", "after": period((NIGHT - timedelta(days=1)).astimezone(CIVIL_ZONE).date(), 2)}
    await world.ask(
        "POST", "/projects", project(lighting(circuits=["branch-1"], measurement=plan), prices=FLAT), status=201
    )
    (found,) = (await world.ask("GET", "/projects/retrofit-1/assessment"))["measures"]
    assert found["measured"]["basis"] == "shutdown"
    assert found["measured"]["saving_kwh"] == pytest.approx(24 * 0.45)
    assert found["money_cny"] == pytest.approx(24 * 0.45 * 0.3 * 365 / 2)


async def test_who_may_see_and_change_projects(world: World) -> None:
    await world.ask("POST", "/projects", project(), scopes=("carbon:read",), status=403)
    await world.ask("POST", "/projects", project(), sites=("site-2",), status=403)
    await world.ask("POST", "/projects", project(), sites=("site-1",), status=201)
    await world.ask("GET", "/projects/retrofit-1", sites=("site-2",), status=403)
    assert (await world.ask("GET", "/projects", sites=("site-2",)))["items"] == []
    await world.ask("PUT", "/savings/temperatures/gd", {"source": "x", "days": []}, status=422)
    rows = {"source": "x", "days": [{"day": "2022-01-01", "mean_c": 3}]}
    await world.ask("PUT", "/savings/temperatures/gd", rows, sites=("site-1",), status=403)
    await world.ask("PUT", "/savings/temperatures/atlantis", rows, status=404)


async def test_a_published_table_is_shown_as_printed_and_as_corrected(world: World) -> None:
    (case,) = await world.ask("GET", "/savings/published")
    found = await world.ask("GET", f"/savings/published/{case['case_id']}")
    printed = {one["claim_id"]: one for one in found["as_printed"]}
    assert printed["total"]["printed"] == 233297.6
    assert found["corrected_table_kg_co2e"] == pytest.approx(175452.8, abs=0.05)
    assert all(one["reason"] and one["reason_zh"] for one in found["differences"])
    await world.ask("GET", "/savings/published/nothing", status=404)


async def test_claims_of_a_project_are_marked_and_in_no_sum(world: World) -> None:
    before = project()
    await world.ask("POST", "/projects", before, status=201)
    plain = await world.ask("GET", "/projects/retrofit-1/assessment")
    body = {"version": 1, "reason": "claims", "project": before | {"claims": [CLAIM], "source": "leaflet"}}
    await world.ask("PUT", "/projects/retrofit-1", body)
    found = await world.ask("GET", "/projects/retrofit-1/assessment")
    assert [(one["printed"], one["verdict"]) for one in found["claims"]] == [(233297.6, "not_shown")]
    assert (found["economics"], found["by_statement"]) == (plain["economics"], plain["by_statement"])


async def test_a_project_is_traced_to_its_measures_and_their_formulas(world: World) -> None:
    await world.ask("POST", "/projects", project(), status=201)
    assessed = await world.ask("GET", "/projects/retrofit-1/assessment")
    walk = Walk(world.ask)
    found = await walk.figure(figure="project", id="retrofit-1")
    assert found["value"] == pytest.approx(assessed["economics"]["yearly_t_co2e"] * 1000)
    assert set(walk.seen) == {"project", "measure"}
    one = await walk.figure(figure="measure", id="retrofit-1", line="lighting")
    assert [row["value"] for row in one["inputs"]] == [pytest.approx(5400.0), 0.4403]
    assert "formula: lamps * power_kw * (hours_before - hours_after) * days" in one["marks"]
    assert "lamps = 100 lamp, survey" in one["marks"]
    asked: dict[str, Any] = {"figure": "project", "id": "retrofit-1"}
    assert (await world.ask("GET", "/energy/trace", sites=("elsewhere",), status=403, **asked))["detail_zh"]
    gone: dict[str, Any] = {**asked, "figure": "measure", "line": "windows"}
    assert (await world.ask("GET", "/energy/trace", status=404, **gone))["detail_zh"]
