"""Costs, bills and the basic fee on a real database: the same figures by hand, and unknown where nothing is known."""

from collections.abc import AsyncIterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from services.carbon.domain.intervals import Grade
from tests.integration.carbon.money_world import ACCOUNT, LISTED, ONE, PRICE, SITE, STATE, SUB, TWO, World, open_world
from tests.unit.carbon.tariffs import figures

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

MARCH, APRIL = date(2026, 3, 1), date(2026, 4, 1)
SPAN: dict[str, Any] = {"from": "2026-03-01T00:00:00+08:00", "to": "2026-04-01T00:00:00+08:00"}
RATIOS = {"peak": Decimal("1.7"), "flat": Decimal(1), "valley": Decimal("0.38")}
"""Guangdong, other than July to September."""


@pytest.fixture
async def world(postgres_url: str, tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(postgres_url, tmp_path) as found:
        yield found


def band_of(hour: int) -> str:
    """Guangdong 2021 by hand: peak 10-12 and 14-19, valley 0-8."""
    if hour in (10, 11) or 14 <= hour < 19:
        return "peak"
    return "valley" if hour < 8 else "flat"


def days(first: str, last: str | None = None) -> dict[str, Any]:
    return {"from": first} if last is None else {"from": first, "to": last}


async def enter(world: World, number: str = ACCOUNT, **changed: object) -> dict[str, int]:
    found: dict[str, int] = await world.door.ask("PUT", f"/bills/accounts/{number}", STATE | changed)
    return found


async def hot_days(world: World, *dates: str) -> None:
    path = "/tariffs/special-days/CN-44/hot_day/2026"
    await world.door.ask("PUT", path, {"days": dates, "source": "weather bureau"})


def bill(**changed: object) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "account_number": ACCOUNT, "number": "B-03", "first_day": "2026-03-01", "last_day": "2026-03-31",
        "energy_kwh": "2976", "amount_cny": "1900.00", "issued_on": "2026-04-01",
    }  # fmt: skip
    return fields | changed


class TestCost:
    async def test_a_month_by_band_is_what_a_person_would_compute(self, world: World) -> None:
        await world.use(ONE, MARCH, APRIL, lambda at: 0.25 + 0.01 * at.hour)
        await world.use(TWO, MARCH, APRIL, lambda _: 0.5)
        await enter(world)
        await hot_days(world)
        await world.door.ask("POST", "/tariffs/prices", {"prices": [PRICE]})
        found = await world.door.ask("GET", "/energy/cost", site=SITE, **SPAN)
        by_band = dict.fromkeys(RATIOS, Decimal(0))
        for hour in range(24):
            by_band[band_of(hour)] += 31 * 4 * (Decimal("0.75") + Decimal("0.01") * hour)
        by_hand = sum(energy * (Decimal("0.6") * RATIOS[band] + Decimal("0.03")) for band, energy in by_band.items())
        assert Decimal(found["cost_cny"]) == round(by_hand, 2)
        assert found["cost_cny"] == found["least_cny"] == found["greatest_cny"] == found["known_cost_cny"]
        assert {one["band"]: round(Decimal(one["energy_kwh"]), 6) for one in found["bands"]} == by_band
        assert sum(one["share"] for one in found["bands"]) == pytest.approx(1)
        assert found["interval_completeness"] == 1
        assert found["unknown"] == []
        line = found["lines"][0]
        assert (line["tariff_id"], line["price_version"], line["account_number"]) == ("GD-2021-IC", 1, ACCOUNT)
        assert line["tariff_source"].startswith("粤发改价格")
        days = await world.door.ask("GET", "/energy/cost", site=SITE, step="day", **SPAN)
        assert len({one["period"] for one in days["lines"]}) == 31
        assert days["cost_cny"] == found["cost_cny"]

    async def test_without_account_price_or_checked_tariff_a_cost_is_unknown_and_says_why(self, world: World) -> None:
        await world.use(ONE, MARCH, APRIL, lambda _: 1.0)

        async def why() -> tuple[list[str], Any]:
            found = await world.door.ask("GET", "/energy/cost", circuit=ONE, **SPAN)
            assert found["energy_kwh"] == "2976.0"
            assert all(one["text"] != one["text_zh"] for one in found["unknown"])
            return [one["reason"] for one in found["unknown"]], found["cost_cny"]

        assert await why() == (["no_account"], None)
        await enter(world, customer_class="nobody")
        assert await why() == (["no_tariff"], None)
        await enter(world)
        assert await why() == (["no_price"], None)
        await world.door.ask("POST", "/tariffs/prices", {"prices": [PRICE]})
        assert (await why())[0] == []
        rows = (await world.door.ask("GET", "/tariffs/GD-2021-IC"))["rows"]
        unchecked = [row | {"confidence": "memory"} for row in rows]
        await world.door.ask("PUT", "/tariffs/GD-2021-IC", {"windows": unchecked})
        assert await why() == (["unchecked"], None)
        await world.door.ask("POST", "/tariffs/GD-2021-IC/confirm", {"reason": "compared"})
        assert (await why())[0] == []

    async def test_a_hole_is_no_zero_and_a_month_without_a_price_leaves_the_whole_unknown(self, world: World) -> None:
        await world.use(ONE, date(2026, 2, 28), APRIL, lambda at: None if at.day == 2 else 1.0)
        await enter(world, circuits=[ONE])
        await world.door.ask("POST", "/tariffs/prices", {"prices": [PRICE]})
        march = await world.door.ask("GET", "/energy/cost", account=ACCOUNT, **SPAN)
        assert march["energy_kwh"] == "2880.0"
        assert march["interval_completeness"] == pytest.approx(30 / 31)
        assert march["cost_cny"] is not None
        longer = await world.door.ask(
            "GET", "/energy/cost", account=ACCOUNT, **SPAN | {"from": "2026-02-28T00:00:00+08:00"}
        )
        assert longer["cost_cny"] is None
        assert longer["known_cost_cny"] == march["cost_cny"]
        assert [one["reason"] for one in longer["unknown"]] == ["no_price"]
        assert "2026-02" in longer["unknown"][0]["text_zh"]

    async def test_a_circuit_costs_by_the_account_of_the_feed_above_it(self, world: World) -> None:
        await world.use(SUB, MARCH, APRIL, lambda _: 1.0)
        await enter(world, circuits=[ONE], voltage="35kV")
        await enter(world, "0320009", circuits=[TWO])
        await world.door.ask("POST", "/tariffs/prices", {"prices": [PRICE]})
        found = await world.door.ask("GET", "/energy/cost", circuit=SUB, **SPAN)
        assert {one["account_number"] for one in found["lines"]} == {"0320009"}
        assert found["cost_cny"] is not None

    async def test_a_changed_account_splits_the_month_at_the_change(self, world: World) -> None:
        await world.use(ONE, MARCH, APRIL, lambda _: 1.0)
        await enter(world, circuits=[ONE])
        await enter(world, circuits=[ONE], valid_from="2026-03-11", voltage="35kV")
        cheaper = PRICE | {"voltage": "35kV", "base_cny_per_kwh": "0.5"}
        await world.door.ask("POST", "/tariffs/prices", {"prices": [PRICE, cheaper]})
        found = await world.door.ask("GET", "/energy/cost", account=ACCOUNT, **SPAN)
        energy: dict[str, Decimal] = {}
        for line in found["lines"]:
            price = line["base_cny_per_kwh"]
            energy[price] = energy.get(price, Decimal(0)) + Decimal(line["energy_kwh"])
        assert energy == {"0.6": 960, "0.5": 2016}

    async def test_what_has_not_happened_yet_costs_nothing_yet(self, world: World) -> None:
        await world.use(ONE, APRIL, date(2026, 4, 3), lambda _: 1.0)
        await enter(world, circuits=[ONE])
        found = await world.door.ask(
            "GET",
            "/energy/cost",
            account=ACCOUNT,
            **days("2026-04-01T00:00:00+08:00", "2026-05-01T00:00:00+08:00"),
        )
        assert found["end"] == "2026-04-02T04:00:00Z"
        assert found["energy_kwh"] == "144.0"
        await world.door.ask(
            "GET", "/energy/cost", account=ACCOUNT, status=400,
            **days("2026-05-01T00:00:00+08:00", "2026-06-01T00:00:00+08:00"),
        )  # fmt: skip

    async def test_special_days_nobody_has_entered_leave_a_range(self, world: World) -> None:
        await world.use(ONE, MARCH, APRIL, lambda _: 1.0)
        await enter(world, circuits=[ONE])
        await world.door.ask("POST", "/tariffs/prices", {"prices": [PRICE]})
        found = await world.door.ask("GET", "/energy/cost", account=ACCOUNT, **SPAN)
        assert found["cost_cny"] == found["least_cny"]
        # Each hot day has three hours sharp (11-12 and 15-17), which are peak otherwise: 12 kWh more at 0.425 * 0.6.
        hot = 12 * Decimal("0.425") * Decimal("0.6")
        assert Decimal(found["greatest_cny"]) - Decimal(found["least_cny"]) == pytest.approx(
            31 * hot, abs=Decimal("0.011")
        )
        await hot_days(world, "2026-03-20", "2026-03-21")
        known = await world.door.ask("GET", "/energy/cost", account=ACCOUNT, **SPAN)
        assert known["cost_cny"] == known["least_cny"] == known["greatest_cny"]
        assert Decimal(known["cost_cny"]) - Decimal(found["cost_cny"]) == pytest.approx(2 * hot, abs=Decimal("0.011"))
        assert {line["day_type"] for line in known["lines"]} == {"all", "hot_day"}

    async def test_nodes_that_are_not_there_and_sites_of_others_are_refused(self, world: World) -> None:
        ask = world.door.ask
        await ask("GET", "/energy/cost", site="nowhere", status=404, **SPAN)
        await ask("GET", "/energy/cost", circuit="nothing", status=404, **SPAN)
        await ask("GET", "/energy/cost", account="nobody", status=404, **SPAN)
        await ask("GET", "/energy/cost", status=400, **SPAN)
        await ask("GET", "/energy/cost", site=SITE, circuit=ONE, status=400, **SPAN)
        await ask("GET", "/energy/cost", site=SITE, sites=("site-2",), status=403, **SPAN)
        await ask("GET", "/energy/cost", site=SITE, status=400, **SPAN | {"from": "2020-01-01T00:00:00+08:00"})


class TestBills:
    async def test_a_bill_beside_its_meters_by_band(self, world: World) -> None:
        await world.use(ONE, MARCH, APRIL, lambda _: 1.0)
        await enter(world, circuits=[ONE])
        await world.door.ask("POST", "/tariffs/prices", {"prices": [PRICE]})
        await world.door.ask("POST", "/bills", bill())
        [found] = (
            await world.door.ask("GET", "/bills/reconciliation", account=ACCOUNT, **days("2026-03-01", "2026-04-01"))
        )["items"]
        assert (found["verdict"], found["difference_kwh"], found["interval_completeness"]) == ("agrees", "0.0", 1)
        assert {band: Decimal(kwh) for band, kwh in found["metered_by_band"].items()} == {
            "peak": 868, "flat": 1116, "valley": 992,
        }  # fmt: skip
        by_hand = 868 * Decimal("1.05") + 1116 * Decimal("0.63") + 992 * Decimal("0.258")
        assert Decimal(found["expected_cny"]) == round(by_hand, 2)
        await world.door.ask("POST", "/bills", bill(energy_kwh="3100"))
        [corrected] = (
            await world.door.ask("GET", "/bills/reconciliation", account=ACCOUNT, **days("2026-03-15", "2026-03-16"))
        )["items"]
        assert figures(corrected["verdict"], Decimal(corrected["difference_kwh"])) == ("billed_more", 124)
        versions = (await world.door.ask("GET", f"/bills/{ACCOUNT}/B-03"))["items"]
        assert [(one["version"], one["energy_kwh"]) for one in versions] == [(1, "2976"), (2, "3100")]

    async def test_what_is_not_billed_yet_is_accrued_in_the_month_of_its_use(self, world: World) -> None:
        await world.use(ONE, MARCH, date(2026, 4, 2), lambda _: 1.0)
        await enter(world, circuits=[ONE])
        await world.door.ask(
            "POST", "/tariffs/prices", {"prices": [PRICE, PRICE | {"month": "2026-04", "base_cny_per_kwh": "0.7"}]}
        )
        await world.door.ask("POST", "/bills", bill(last_day="2026-03-20", energy_kwh="1920", amount_cny="1200"))
        found = await world.door.ask("GET", "/bills/accruals", site=SITE, **days("2026-03-01"))
        march, april = found["items"]
        assert figures(march["month"], march["open_days"], Decimal(march["open_kwh"]), march["billed_cny"]) == (
            "2026-03", 11, 1056, "1200.00",
        )  # fmt: skip
        day = 28 * Decimal("1.05") + 36 * Decimal("0.63") + 32 * Decimal("0.258")
        assert Decimal(march["open_cny"]) == round(11 * day, 2)
        assert figures(april["open_days"], Decimal(april["open_kwh"]), april["age_days"]) == (1, 96, 1)
        assert found["next_cursor"] is None

    async def test_an_account_that_only_the_registry_names_has_bills_and_no_known_cost(self, world: World) -> None:
        await world.door.ask("POST", "/bills", bill(account_number=LISTED))
        [found] = (
            await world.door.ask("GET", "/bills/reconciliation", account=LISTED, **days("2026-03-01", "2026-04-01"))
        )["items"]
        assert (found["verdict"], found["metered_kwh"], found["expected_cny"]) == ("not_comparable", None, None)

    async def test_bills_that_cannot_be_are_refused_in_both_languages_and_nothing_is_kept(self, world: World) -> None:
        await enter(world)
        await world.door.ask("POST", "/bills", bill())
        cases: list[tuple[dict[str, Any], int, str]] = [
            ({"account_number": "9999"}, 404, "用电户号"),
            ({"number": "B-X", "first_day": "2026-03-31"}, 409, "日期重叠"),
            ({"number": "B-X", "energy_kwh": "-1"}, 400, "不小于 0"),
            ({"number": "B-X", "last_day": "2026-02-01"}, 400, "last_day:应为"),
            ({"number": "B-X", "energy_kwh": "2.976", "parts_cny": {"energy": "1900"}}, 400, "兆瓦时"),
            ({"number": "B-X", "energy_by_band": {"peak": "1"}}, 400, "各项之和"),
            ({"number": "B-X", "energy_mwh": "2.976"}, 422, "energy_mwh"),
            ({"number": "B-X", "energy_by_band": {"noon": "2976"}}, 422, "energy_by_band"),
        ]
        for changed, status, words in cases:
            refused = await world.door.ask("POST", "/bills", bill(**changed), status=status)
            assert words in refused["detail_zh"], (changed, refused)
            assert refused["detail"] != refused["detail_zh"]
        assert len((await world.door.ask("GET", "/bills"))["items"]) == 1

    async def test_a_file_of_bills_is_taken_whole_or_not_at_all(self, world: World) -> None:
        await enter(world)
        head = "户号,账单号,起始日,截止日,电量(千瓦时),金额(元),出账日,峰电量(千瓦时),谷电量(千瓦时)\n"
        good = f"{ACCOUNT},B-01,2026-01-01,2026-01-31,3000,2000,2026-02-05,2000,1000\n"
        wrong = "9999,B-02,2026-02-01,2026-02-28,3000,2000,2026-03-05,,\n"
        both = f"{ACCOUNT},B-02,2026-01-31,2026-02-28,3000,2000,2026-03-05,,\n"
        negative = f"{ACCOUNT},B-02,2026-02-01,2026-02-28,-3000,2000,2026-03-05,,\n"

        async def load(*rows: str, status: int = 200, first: str = head) -> Any:
            content = "".join((first, *rows)).encode("gb18030")
            return await world.door.ask("POST", "/bills/imports", content=content, file="bills.csv", status=status)

        for bad, field in ((wrong, "account_number"), (both, "first_day"), (negative, "energy_kwh")):
            refused = await load(good, bad, status=400)
            assert [(one["line"], one["field"]) for one in refused["facts"]["problems"]] == [(3, field)]
        refused = await load(good, status=400, first=head.replace("电量(千瓦时),金额", "电量(兆瓦时),金额"))
        assert "energy_kwh" in refused["detail_zh"]
        assert (await world.door.ask("GET", "/bills"))["items"] == []
        assert await load(good) == {"bills": 1, "corrected": 0}
        assert await load(good) == {"bills": 1, "corrected": 1}
        [stored] = (await world.door.ask("GET", "/bills", account=ACCOUNT))["items"]
        assert stored["energy_by_band"] == {"peak": "2000", "valley": "1000"}

    async def test_accounts_share_no_circuit_and_are_those_of_ones_own_sites(self, world: World) -> None:
        path = "/bills/accounts/0320009"
        await enter(world)
        refused = await world.door.ask("PUT", path, STATE, status=409)
        assert ACCOUNT in refused["detail_zh"]
        await enter(world, circuits=[ONE])
        await world.door.ask("PUT", path, STATE | {"circuits": [ONE, TWO]}, status=409)
        await world.door.ask("PUT", path, STATE)  # takes what is left
        await world.door.ask("PUT", path, STATE | {"circuits": ["feed-9"]}, status=400)
        await world.door.ask("PUT", path, STATE | {"site": "nowhere"}, status=404)
        await world.door.ask("PUT", path, STATE | {"transformers": [{"rated_kva": 0}]}, status=400)
        await world.door.ask("PUT", path, STATE | {"circuits": [TWO]}, sites=("site-2",), status=403)
        await world.door.ask("PUT", path, STATE | {"circuits": [TWO]})
        assert len((await world.door.ask("GET", "/bills/accounts", site=SITE))["items"]) == 2
        assert (await world.door.ask("GET", "/bills/accounts", sites=("site-2",)))["items"] == []
        await world.door.ask("POST", "/bills", bill(), sites=("site-2",), status=403)


class TestBasicTariff:
    async def test_capacity_or_demand_by_hand(self, world: World) -> None:
        def kwh(at: datetime) -> float:
            if at.month == 2 and (at.day, at.hour, at.minute) == (3, 9, 15):
                return 100.0
            return 50.0 if (at.day, at.hour, at.minute) == (5, 10, 30) else 10.0

        await world.use(ONE, date(2026, 1, 1), APRIL, kwh)
        transformers = [{"rated_kva": 630}, {"rated_kva": 630, "sealed": True}]
        await enter(world, circuits=[ONE], transformers=transformers, contract_kw=250, basic_mode="capacity")
        basic = {"capacity_cny_per_kva": 20, "demand_cny_per_kw": 32}
        prices: list[dict[str, Any]] = [
            PRICE | {"month": month, "basic": basic} for month in ("2026-01", "2026-02", "2026-03")
        ]
        await world.door.ask("POST", "/tariffs/prices", {"prices": prices})
        span = days("2026-01-01", "2026-04-01")
        found = await world.door.ask("GET", "/demand/basic-tariff", account=ACCOUNT, hold_months=1, **span)
        assert (found["obligation"], found["current_mode"]) == ("two_part", "capacity")
        rows = [
            (one["month"], one["demand_kw"], one["capacity_cny"], one["actual_demand_cny"], one["contract_demand_cny"])
            for one in found["months"]
        ]
        # 630 kVA at 20; 200 and 400 kW at 32; a contract of 250 kW allows 262.5, twice what is above is added.
        assert rows == [
            ("2026-01", "200.0", "12600.00", "6400.00", "8000.00"),
            ("2026-02", "400.0", "12600.00", "12800.00", "16800.00"),
            ("2026-03", "200.0", "12600.00", "6400.00", "8000.00"),
        ]
        assert found["months"][1]["demand_at"] == "2026-02-03T01:15:00Z"
        assert found["months"][0]["break_even_kw"] == "393.75"
        assert found["totals_cny"] == {
            "capacity": "37800.00", "actual_demand": "25600.00", "contract_demand": "32800.00",
        }  # fmt: skip
        assert (found["plan"], found["plan_cny"]) == (["actual_demand", "capacity", "actual_demand"], "25400.00")
        held = await world.door.ask("GET", "/demand/basic-tariff", account=ACCOUNT, hold_months=3, **span)
        assert (held["plan"], held["plan_cny"]) == (["actual_demand"] * 3, "25600.00")
        assert held["current_cny"] == "37800.00"

    async def test_an_incomplete_month_is_not_compared_and_allocated_steps_are_no_demand(self, world: World) -> None:
        await enter(world, circuits=[ONE])
        refused = await world.door.ask(
            "GET", "/demand/basic-tariff", account=ACCOUNT, status=400, **days("2026-02-01", "2026-03-01")
        )
        assert "变压器" in refused["detail_zh"]
        await world.use(ONE, MARCH, APRIL, lambda at: None if at.day < 10 else 10.0)
        await world.use(ONE, date(2026, 2, 1), MARCH, lambda _: 90.0, Grade.ALLOCATED)
        await enter(world, circuits=[ONE], transformers=[{"rated_kva": 200}])
        span = days("2026-02-01", "2026-04-01")
        found = await world.door.ask("GET", "/demand/basic-tariff", account=ACCOUNT, **span)
        assert [one["demand_kw"] for one in found["months"]] == [None, None]
        assert found["months"][1]["demand_completeness"] == pytest.approx(22 / 31)
        assert (found["compared_months"], found["plan_cny"], found["obligation"]) == (0, None, "may_choose")
        late = await world.door.ask(
            "GET", "/demand/basic-tariff", account=ACCOUNT, status=400, **(span | days("2026-02-01", "2026-05-01"))
        )
        assert "须已结束" in late["detail_zh"]
