"""Why of load rates, curves, other media, basic fees, accruals, forecasts and what virtual meters emit, over HTTP."""

import random
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from libs.common.ids import CircuitId, SiteId
from services.carbon.domain.booking import BookedInterval
from services.carbon.domain.intervals import Grade
from services.carbon.domain.samples import REACTIVE
from services.carbon.store.media import MediumBooks
from tests.integration.carbon.carbon_levels import QUARTER, START, city
from tests.integration.carbon.why_world import Town, open_town

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

DAY = timedelta(days=1)
SPAN: dict[str, Any] = {"from": START.isoformat(), "to": (START + DAY).isoformat()}
MONTH: dict[str, Any] = {"from": (START - DAY).isoformat(), "to": (START + 30 * DAY).isoformat()}
ACCOUNT = "0320001"
STATE = {
    "valid_from": "2025-01-01", "site": "site-1", "region": "CN-44", "customer_class": "industrial_commercial",
    "voltage": "1-10kV", "transformers": [{"rated_kva": 315}], "contract_kw": 4, "basic_mode": "capacity",
}  # fmt: skip
LAST_YEAR = datetime(2025, 1, 1, tzinfo=UTC)
CHANCE = random.Random(23)  # energies without a short binary form


@pytest.fixture
async def town(postgres_url: str, tmp_path: Path) -> AsyncIterator[Town]:
    async with open_town(postgres_url, tmp_path) as found:
        yield found


def odd(count: int, most: float = 5.0) -> list[float | None]:
    return [CHANCE.uniform(0.0, most) for _ in range(count)]


async def rated(town: Town, kind: str, subject: str, value: float) -> None:
    fact = {
        "node": "site-1", "kind": kind, "subject": subject, "value": value, "first_day": "2026-01-01",
        "end_day": "2027-01-01", "source": "nameplate",
    }  # fmt: skip
    await town.ask("POST", "/energy/facts", fact, status=201)


async def test_load_rates_are_traced_to_active_and_reactive_registers(town: Town) -> None:
    await town.book("feed", odd(96))
    for point in REACTIVE:
        await town.sampled("feed", [5.0 + 0.7 * number for number in range(97)], point=point)
    await rated(town, "transformer_kva", "T1", 23.0)
    await rated(town, "line_kva", "L1", 17.0)
    rates = {one["what"]: one for one in await town.ask("GET", "/energy/load-rates", site="site-1", **SPAN)}
    walk = town.walk(branches=0)
    for what, name in (("transformer", "T1"), ("line", "L1")):
        asked: dict[str, Any] = {"site": "site-1", "rating": what, "line": name, **SPAN}
        assert (await walk.figure(figure="load_rate", **asked))["value"] == rates[what]["max_rate"]
        assert (await walk.figure(figure="load_mean", **asked))["value"] == rates[what]["mean_rate"]
        for band in ("light", "normal", "heavy", "overload"):
            assert (await walk.figure(figure="load_time", band=band, **asked))["value"] == rates[what][band]
    assert {"load_quarter", "apparent", "reactive", "delivered"} <= set(walk.seen)
    assert walk.registers >= 2
    one = {"figure": "apparent", "site": "site-1", "rating": "line", "line": "L1", "at": SPAN["from"]}
    beneath = town.walk()
    assert (await beneath.figure(**one, **SPAN))["rule"] == "apparent"
    assert "interval" in beneath.seen
    gone: dict[str, Any] = {"figure": "load_rate", "site": "site-1", "rating": "line", "line": "L9", **SPAN}
    assert (await town.ask("GET", "/energy/trace", status=404, **gone))["detail_zh"]
    await town.ask("GET", "/energy/trace", status=403, sites=("site-2",), **{**gone, "line": "L1"})


async def test_a_power_factor_that_nobody_measured_is_named_in_the_trace(town: Town) -> None:
    await town.book("feed", odd(40))
    await rated(town, "transformer_kva", "T1", 23.0)
    (rate,) = (one for one in await town.ask("GET", "/energy/load-rates", site="site-1", **SPAN) if one["name"] == "T1")
    found = await town.walk().figure(figure="load_rate", site="site-1", rating="transformer", line="T1", **SPAN)
    assert found["value"] == rate["max_rate"]
    assert found["marks"] == ["assumed_power_factor:0.9"]
    assert found["quality"]["usable_share"] == pytest.approx(40 / 96)


async def test_lowest_mean_and_daily_change_are_traced(town: Town) -> None:
    await town.book("feed", odd(96 * 2))
    second: dict[str, Any] = {"from": SPAN["to"], "to": (START + 2 * DAY).isoformat()}
    (row,) = (await town.ask("GET", "/energy/profile", site="site-1", step="day", **second))["periods"]
    walk = town.walk(branches=0)
    assert (await walk.figure(figure="lowest", site="site-1", **second))["value"] == row["min_kw"]
    assert (await walk.figure(figure="mean_load", site="site-1", **second))["value"] == row["mean_kw"]
    for one in await town.ask("GET", "/energy/comparison", site="site-1", step="day", at=SPAN["to"]):
        found = await walk.figure(figure="change_daily", site="site-1", against=one["against"], **second)
        assert found["value"] == one["daily"]["relative"]
    assert "per_day" in walk.seen


async def test_media_are_traced_to_their_intervals_and_factors(town: Town) -> None:
    for circuit, site, count in (("feed", "site-1", 96), ("tenant", "site-2", 90)):
        booked = [
            BookedInterval(
                CircuitId(circuit), SiteId(site), START + number * QUARTER, 900, 1, quantity, Grade.MEASURED, False,
                False, START,
            )
            for number, quantity in enumerate(odd(count))
        ]  # fmt: skip
        async with town.city.db.write() as conn:
            await MediumBooks("gas_volume_normal").book(conn, booked)
    asked: dict[str, Any] = {"region": "gz", "point": "gas_volume_normal", **SPAN}
    (gas,) = (await town.ask("GET", "/energy/media", region="gz", step="day", **SPAN))["media"]
    walk = town.walk()
    assert (await walk.figure(figure="medium", **asked))["value"] == gas["periods"][0]["quantity"]
    assert {"medium_circuit", "medium_interval"} <= set(walk.seen)
    (emitted,) = (await town.ask("GET", "/emissions/media", region="gz", step="day", gas="NATGAS", **SPAN))["media"]
    walk = town.walk()
    found = await walk.figure(figure="medium_emission", gas="NATGAS", **asked)
    assert found["value"] is not None
    assert found["value"] == emitted["periods"][0]["emission_kg_co2e"]
    assert {"medium_site", "medium"} <= set(walk.seen)
    unsaid = await town.walk().figure(figure="medium_emission", **asked)
    assert (unsaid["value"], unsaid["marks"]) == (None, ["say with gas= what the gas is"])
    await town.ask("GET", "/energy/trace", status=403, sites=("site-2",), figure="medium", **asked)
    wrong = await town.ask("GET", "/energy/trace", status=400, figure="medium", **{**asked, "point": "beer"})
    assert wrong["detail_zh"]


async def test_a_virtual_meter_over_two_sites_takes_the_factor_of_each(town: Town) -> None:
    await town.book("feed", odd(96))
    await town.book("tenant", odd(90), site="site-2")
    terms = [{"child": "feed", "factor": 1.0}, {"child": "tenant", "factor": -0.5}]
    await town.ask("PUT", "/energy/virtual-meters/own", {"name": "own", "terms": terms, "constant_kw": 0.3})
    reply = await town.ask("GET", "/energy/virtual-meters/own/emissions", step="day", **SPAN)
    (row,) = reply["periods"]
    whole = await town.ask("GET", "/energy/virtual-meters/own", **SPAN)
    assert sum(one["energy_kwh"] for one in reply["sites"]) == pytest.approx(whole["energy_kwh"])
    assert [one["site"] for one in reply["sites"]] == ["site-1", "site-2"]
    assert sum(one["share"] for one in reply["sites"]) == pytest.approx(1.0)
    assert all(one["factor_id"].startswith("GRID-44") for one in reply["sites"])
    walk = town.walk()
    found = await walk.figure(figure="virtual_emission", id="own", **SPAN)
    assert found["value"] == row["emission_kg_co2"]
    assert row["emission_kg_co2"] == pytest.approx(sum(one["emission_kg_co2"] for one in reply["sites"]))
    assert {"virtual_year", "virtual_site"} <= set(walk.seen)


async def test_a_virtual_meter_of_one_site_is_traced_to_its_quarter_hours(town: Town) -> None:
    await town.book("feed", odd(96))
    await town.ask("PUT", "/energy/virtual-meters/half", {"name": "half", "terms": [{"child": "feed", "factor": 0.5}]})
    reply = await town.ask("GET", "/energy/virtual-meters/half/emissions", step="day", **SPAN)
    walk = town.walk()
    found = await walk.figure(figure="virtual_emission", id="half", **SPAN)
    assert found["value"] == reply["periods"][0]["emission_kg_co2"]
    assert {"virtual_year", "virtual", "virtual_interval", "interval"} <= set(walk.seen)
    assert [one["share"] for one in reply["sites"]] == [1.0]
    hidden: dict[str, Any] = {"figure": "virtual_emission", "id": "half", **SPAN}
    await town.ask("GET", "/energy/trace", status=403, sites=("site-2",), **hidden)


async def test_a_virtual_meter_is_a_node_of_the_other_routes(town: Town) -> None:
    await town.book("feed", odd(96))
    await town.ask("PUT", "/energy/virtual-meters/half", {"name": "half", "terms": [{"child": "feed", "factor": 0.5}]})
    own = await town.ask("GET", "/energy/virtual-meters/half", **SPAN)
    asked: dict[str, Any] = {"virtual": "half", **SPAN}
    for path in ("/energy", "/emissions", "/energy/profile"):
        (row,) = (await town.ask("GET", path, step="day", **asked))["periods"]
        assert row["energy_kwh"] == own["energy_kwh"]
    (balance,) = await town.ask("GET", "/energy/balance", step="day", **asked)
    assert (balance["consumed_kwh"], balance["pv_kwh"]) == (own["energy_kwh"], 0.0)
    parts = await town.ask("GET", "/energy/breakdown", by="shift", shifts="day=08:00-20:00,night=20:00-08:00", **asked)
    assert parts["energy"]["energy_kwh"] == own["energy_kwh"]
    assert (await town.ask("GET", "/energy/breakdown", status=400, by="role", **asked))["detail_zh"]
    compared = await town.ask("GET", "/energy/comparison", virtual="half", step="day", at=SPAN["from"])
    assert {one["energy"]["energy_kwh"] for one in compared} == {own["energy_kwh"]}
    walk = town.walk()
    for figure in ("energy", "emission", "demand", "consumed"):
        found = await walk.figure(figure=figure, **asked)
        assert found["value"] is not None
    assert {"virtual_interval", "interval"} <= set(walk.seen)
    await town.ask("GET", "/energy", status=403, sites=("site-2",), **asked)
    await town.ask("GET", "/energy/trace", status=403, sites=("site-2",), **asked)
    await town.ask("GET", "/energy", status=404, **{**asked, "virtual": "none"})
    assert (await town.ask("GET", "/energy", status=400, site="site-1", **asked))["detail_zh"]


async def test_basic_fees_and_accruals_are_traced_to_the_days_and_quarter_hours(town: Town) -> None:
    await town.book("feed", odd(31 * 96), first=-96)
    await town.ask("PUT", f"/bills/accounts/{ACCOUNT}", STATE)
    price = {
        "region": "CN-44", "customer_class": "industrial_commercial", "voltage": "1-10kV", "month": "2026-03",
        "base_cny_per_kwh": "0.6", "fixed_cny_per_kwh": "0.03", "source": "price sheet of March",
        "basic": {"capacity_cny_per_kva": 20, "demand_cny_per_kw": 32},
    }  # fmt: skip
    await town.ask("POST", "/tariffs/prices", {"prices": [price]})
    days: dict[str, Any] = {"from": "2026-03-01", "to": "2026-04-01"}
    (fees,) = (await town.ask("GET", "/demand/basic-tariff", account=ACCOUNT, **days))["months"]
    asked: dict[str, Any] = {"account": ACCOUNT, **MONTH}
    walk = town.walk(branches=0)
    for mode in ("capacity", "actual_demand", "contract_demand"):
        found = await walk.figure(figure="basic_fee", mode=mode, **asked)
        assert round(float(found["value"]), 2) == float(fees[f"{mode}_cny"])
    assert {"basic_month", "account_demand", "energy", "interval"} <= set(walk.seen)
    plan = await town.walk(branches=0).figure(figure="basic_fee", **asked)
    assert plan["inputs"][0]["name"] == f"2026-03 by {fees['cheapest']}"

    bill = {
        "account_number": ACCOUNT, "number": "B-1", "first_day": "2026-02-20", "last_day": "2026-03-02",
        "energy_kwh": "250", "amount_cny": "150.00", "issued_on": "2026-04-01",
    }  # fmt: skip
    await town.ask("POST", "/bills", bill)
    rows = (await town.ask("GET", "/bills/accruals", account=ACCOUNT, **days))["items"]
    (row,) = [one for one in rows if one["month"].startswith("2026-03")]
    walk = town.walk(branches=0)
    for figure, name in (
        ("accrual", "open_cny"), ("accrued_energy", "open_kwh"), ("billed", "billed_kwh"),
        ("billed_money", "billed_cny"),
    ):  # fmt: skip
        found = await walk.figure(figure=figure, as_of="2026-04-01", **asked)
        assert float(found["value"]) == pytest.approx(float(row[name]), abs=0.005), figure
    assert [one["id"] for one in found["inputs"]] == ["B-1", "B-1"]
    assert {"cost", "metered", "band_energy"} <= set(walk.seen)
    for figure in ("basic_fee", "accrual"):
        await town.ask("GET", "/energy/trace", status=403, sites=("site-2",), figure=figure, **asked)


async def test_a_forecast_is_the_days_so_far_and_those_of_last_year(town: Town) -> None:
    known = [one for one in city() if one.id in ("site-1", "feed")]
    await town.city.change(*(one.model_copy(update={"valid_from": LAST_YEAR}) for one in known))
    first = date(2026, 3, 2)
    year = -364 * 96
    await town.book("feed", odd(4 * 96), first=year)
    await town.book("feed", odd(2 * 96))
    target = {
        "name": "March", "node_kind": "site", "node": "site-1", "measure": "energy", "first_day": first.isoformat(),
        "last_day": (first + 3 * DAY).isoformat(), "amount": 900.0, "reason": "allocation",
    }  # fmt: skip
    kept = (await town.ask("POST", "/targets", target))["target_id"]
    on = (first + 2 * DAY).isoformat()
    said = await town.ask("GET", f"/targets/{kept}", as_of=on)
    assert said["forecast"]["method"] == "seasonal_naive"
    walk = town.walk(branches=4)
    expected = {
        "forecast": said["forecast"]["value"], "forecast_low": said["forecast"]["low"],
        "forecast_high": said["forecast"]["high"], "target_gap": said["gap"], "target_pace": said["pace"],
        "target_measured": said["measured"],
    }  # fmt: skip
    for figure, value in expected.items():
        assert (await walk.figure(figure=figure, id=kept, as_of=on))["value"] == value
    assert value is not None
    assert "forecast_half" in walk.seen
    await town.ask("GET", "/energy/trace", status=404, sites=("site-2",), figure="forecast", id=kept)
