"""What cannot be is refused over the API, with its reason in both languages, and nothing of it is kept."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.carbon.why_world import Town, open_town

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

YEAR = {"start": "2023-01-01T00:00:00+08:00", "end": "2024-01-01T00:00:00+08:00"}
MARCH: dict[str, Any] = {"from": "2026-03-02T00:00:00+08:00", "to": "2026-03-03T00:00:00+08:00"}
GREEN = {
    "number": "GEC-1", "kind": "certificate", "market": "CN", "vintage": 2023, "technology": "wind",
    "beneficiary": "operator", "cancelled_on": "2024-02-01", "sold_with_power": False, "evidence": "scan.pdf",
}  # fmt: skip
PLACE = {"region": "CN-44", "customer_class": "industrial_commercial", "source": "notice 1 of 2026"}
PRICE = {
    "region": "CN-44", "customer_class": "industrial_commercial", "voltage": "1-10kV", "month": "2026-03",
    "base_cny_per_kwh": "0.6", "fixed_cny_per_kwh": "0.03", "source": "price sheet",
}  # fmt: skip
BILL = {
    "account_number": "0320001", "number": "B-03", "first_day": "2026-03-01", "last_day": "2026-03-31",
    "energy_kwh": "2976", "amount_cny": "1900.00", "issued_on": "2026-04-01",
}  # fmt: skip
STATE = {
    "valid_from": "2025-01-01", "site": "site-1", "region": "CN-44", "customer_class": "industrial_commercial",
    "voltage": "1-10kV",
}  # fmt: skip
WATER = {
    "medium": "water", "account_number": "W-1", "number": "B-03", "first_day": "2026-03-01", "last_day": "2026-03-31",
    "quantity": "120", "unit": "m3", "amount_cny": "480.00", "issued_on": "2026-04-01",
}  # fmt: skip
FACT = {
    "node": "site-1", "kind": "area_m2", "first_day": "2026-03-02", "end_day": "2026-03-03", "value": 100.0,
    "source": "lease",
}  # fmt: skip


def bought(activity: dict[str, Any], category: str = "electricity", **more: object) -> dict[str, Any]:
    source = {
        "line_id": "one", "node": "site-1", "category": category, **YEAR, "activity": activity, "origin": "bill",
    }  # fmt: skip
    parts = [{"node": "operator", **YEAR}]
    return {"name": "2023", "organisation": "operator", "parts": parts, "sources": [source], **more}


def electricity(kwh: float = 10_000.0, **more: Any) -> dict[str, Any]:
    return bought({"kind": "electricity", "imported_kwh": kwh}, **more)


def windows(first_from: str = "00:00", second_from: str = "08:00", to: str = "24:00") -> dict[str, Any]:
    common = {**PLACE, "valid_from": "2026-07-01", "months": list(range(1, 13))}
    return {
        "windows": [
            {**common, "start": first_from, "end": "08:00", "band": "valley", "price_ratio": "0.4"},
            {**common, "start": second_from, "end": to, "band": "peak", "price_ratio": 1.6},
        ],
        "end_previous": True,
    }


def coal(unit: str, amount: float = 1.0) -> dict[str, Any]:
    return {"uses": [{"coeff_id": "ELEC-EQ", "amount": amount, "unit": unit, "origin": "bill"}]}


Case = tuple[str, str, dict[str, Any], int, str, str]
PREVIEW = "/inventories/inv-1/preview"
ONCE, ONCE_ZH = "each of the 24 hours in exactly one band", "24 小时中每一时刻恰属一个时段"
CASES: dict[str, Case] = {
    "unit: energy in MWh where kWh belongs": (
        "POST", "/energy/standard-coal", coal("MWh"), 400, "expected kWh", "kWh",
    ),
    "unit: gas without its condition": (
        "POST", PREVIEW,
        bought({"kind": "fuel", "fuel": "NATGAS", "amount": 1.0, "unit": "m3"}, "stationary_combustion"),
        400, "'m3'", "'m3'",
    ),
    "unit: heat in tonnes": (
        "POST", PREVIEW, bought({"kind": "heat", "amount": 1.0, "unit": "t"}, "heat"), 400,
        "heat: expected an energy", "热量",
    ),
    "unit: a price in fen": (
        "POST", "/tariffs/prices", {"prices": [PRICE | {"base_cny_per_kwh": 61.23}]}, 400, "is it in fen", "是否为分",
    ),
    "unit: a bill in MWh": (
        "POST", "/bills", BILL | {"energy_kwh": "2.976", "parts_cny": {"energy": "1900"}}, 400, "MWh", "兆瓦时",
    ),
    "unit: water in kWh": (
        "POST", "/bills/media", WATER | {"unit": "kWh"}, 400, "one of m3, t for water, found kWh", "之一(水)",
    ),
    "unit: an output without one": (
        "POST", "/energy/facts", FACT | {"kind": "output"}, 400,
        "basis: expected the price base or the unit", "计量单位",
    ),
    "negative: a bill": ("POST", "/bills", BILL | {"energy_kwh": "-1"}, 400, "0", "不小于 0"),
    "negative: a bill of water": ("POST", "/bills/media", WATER | {"quantity": "-1"}, 400, "0 or more m3", "不小于 0"),
    "negative: purchased energy": ("POST", PREVIEW, electricity(-1.0), 422, "imported_kwh", "imported_kwh"),
    "negative: energy of a list": ("POST", "/energy/standard-coal", coal("kWh", -1.0), 422, "amount", "amount"),
    "negative: an area": ("POST", "/energy/facts", FACT | {"value": -1.0}, 400, "value: expected 0 to", "value:应为 0"),
    "tariff: versions that overlap": (
        "PUT", "/tariffs/GD-2026", windows() | {"end_previous": False}, 400, "GD-2021-IC", "GD-2021-IC",
    ),
    "tariff: an hour that no band covers": (
        "PUT", "/tariffs/GD-2026", windows(second_from="09:00"), 400, f"{ONCE}, 08:00-09:00", ONCE_ZH,
    ),
    "tariff: an hour in two bands": (
        "PUT", "/tariffs/GD-2026", windows(second_from="07:00"), 400, f"{ONCE}, 07:00-08:00", ONCE_ZH,
    ),
    "tariff: a day that ends early": (
        "PUT", "/tariffs/GD-2026", windows(to="23:00"), 400, f"{ONCE}, 23:00-24:00", ONCE_ZH,
    ),
    "tariff: a day that begins late": (
        "PUT", "/tariffs/GD-2026", windows(first_from="01:00"), 400, f"{ONCE}, 00:00-01:00", ONCE_ZH,
    ),
    "bill: of an account nobody has": (
        "POST", "/bills", BILL | {"account_number": "9999"}, 404, "9999", "用电户号",
    ),
    "bill: days that another has": (
        "POST", "/bills", BILL | {"number": "B-X", "first_day": "2026-03-31", "last_day": "2026-04-30"}, 409,
        "B-03", "日期重叠",
    ),
    "bill of water: of an account that only the grid company has": (
        "POST", "/bills/media", WATER | {"account_number": "0320001"}, 404, "the water account of a site", "水户号",
    ),
    "bill of water: days that another has": (
        "POST", "/bills/media", WATER | {"number": "B-X", "first_day": "2026-03-31", "last_day": "2026-04-30"}, 409,
        "B-03", "日期重叠",
    ),
    "bill of water: that ends before it begins": (
        "POST", "/bills/media", WATER | {"last_day": "2026-02-01"}, 400, "last_day: expected", "last_day:应为",
    ),
    "cost: of an account nobody has": (
        "GET", "/energy/cost", {"account": "9999", **MARCH}, 404, "9999", "用电户号",
    ),
    "certificate: unknown": ("POST", PREVIEW, electricity(certificates=["GEC-9"]), 404, "GEC-9", "GEC-9"),
    "certificate: named twice": (
        "POST", PREVIEW, electricity(certificates=["GEC-1", "GEC-1"]), 409, "GEC-1", "GEC-1",
    ),
    "certificate: that another inventory uses": (
        "POST", "/inventories/inv-2/versions", electricity(certificates=["GEC-1"]), 409,
        "certificate GEC-1 is used by inv-0 already", "inv-0",
    ),
}  # fmt: skip


@pytest.fixture
async def town(postgres_url: str, tmp_path: Path) -> AsyncIterator[Town]:
    async with open_town(postgres_url, tmp_path) as found:
        await found.ask("PUT", "/bills/accounts/0320001", STATE)
        await found.ask("POST", "/bills", BILL)
        await found.ask("PUT", "/bills/media/water/accounts/W-1", {"site": "site-1"})
        await found.ask("POST", "/bills/media", WATER)
        await found.ask("POST", "/inventories/certificates", GREEN, status=201)
        await found.ask("POST", "/inventories/inv-0/versions", electricity(certificates=["GEC-1"]), status=201)
        yield found


async def test_every_case_is_refused_with_its_reason_in_both_languages_and_nothing_is_kept(town: Town) -> None:
    async def kept() -> list[Any]:
        return [
            await town.ask("GET", "/bills"),
            await town.ask("GET", "/bills/media"),
            await town.ask("GET", "/inventories"),
            await town.ask("GET", "/tariffs", region="CN-44"),
            await town.ask("GET", "/tariffs/prices"),
            await town.ask("GET", "/energy/facts", node="site-1", first_day="2026-01-01", end_day="2027-01-01"),
            len(await town.door.audits()),
        ]

    before = await kept()
    for name, (method, path, body, status, english, chinese) in CASES.items():
        if method == "GET":
            refused = await town.ask(method, path, status=status, **body)
        else:
            refused = await town.ask(method, path, body, status=status)
        assert english in refused["detail"], (name, refused)
        assert chinese in refused["detail_zh"], (name, refused)
        assert refused["detail"] != refused["detail_zh"], name
    assert await kept() == before


async def test_a_pue_below_one_is_no_figure_and_says_what_to_look_for(town: Town) -> None:
    await town.book("feed", [6.0] * 96)
    await town.book("roof", [0.0] * 96)
    await town.sampled("feed", [100.0] * 97)
    await town.sampled("roof", [100.0] * 97)
    await town.book("it", [50.0] * 96)
    (wrong,) = await town.ask("GET", "/energy/pue", site="site-1", step="day", **MARCH)
    assert (wrong["value"], wrong["reason"]) == (None, "below_one")
    assert "a meter's ratio" in wrong["reason_text"]
    assert "电表倍率" in wrong["reason_text_zh"]
    why = await town.ask("GET", "/energy/trace", figure="pue", site="site-1", **MARCH)
    assert (why["value"], why["recomputed"]) == (None, True)
    assert "below_one" in why["marks"]
