"""Tariffs, special days and prices on a real database: versions, imports, and what is refused with which words."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from libs.common.workbook import Cell, Sheet, SheetRow, write_workbook
from services.carbon.bus import audit
from services.carbon.domain.tariff.sheet import calendar_of
from services.carbon.usecases.tariffs import Tariffs
from tests.integration.carbon.carbon_door import Door
from tests.integration.carbon.money_world import SHIPPED, World, open_world

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

YEAR = list(range(1, 13))
GUANGDONG = [row for row in SHIPPED if row.tariff_id == "GD-2021-IC"]
PLACE = {"region": "CN-44", "customer_class": "industrial_commercial", "source": "notice 1 of 2026"}
PRICE = {
    "region": "CN-44",
    "customer_class": "industrial_commercial",
    "voltage": "1-10kV",
    "month": "2026-03",
    "base_cny_per_kwh": "0.6123",
    "fixed_cny_per_kwh": "0.0271",
    "source": "price sheet of March",
}


def windows(start: str = "2026-07-01") -> list[dict[str, object]]:
    return [
        {**PLACE, "valid_from": start, "months": YEAR, "start": "00:00", "end": "08:00", "band": "valley",
         "price_ratio": "0.4"},
        {**PLACE, "valid_from": start, "months": YEAR, "start": "08:00", "end": "24:00", "band": "peak",
         "price_ratio": 1.6},
    ]  # fmt: skip


@pytest.fixture
async def world(postgres_url: str, tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(postgres_url, tmp_path) as found:
        yield found


@pytest.fixture
def door(world: World) -> Door:
    return world.door


@pytest.fixture
def tariffs(world: World) -> Tariffs:
    return world.tariffs


async def test_what_ships_is_listed_and_says_whether_it_is_counted_with(door: Door) -> None:
    [guangdong] = (await door.ask("GET", "/tariffs", region="CN-44"))["items"]
    assert (guangdong["tariff_id"], guangdong["revision"], guangdong["counted_with"]) == ("GD-2021-IC", 0, True)
    assert guangdong["valid_to"] is None
    detail = await door.ask("GET", "/tariffs/GD-2021-IC")
    assert len(detail["rows"]) == guangdong["windows"] == 17
    await door.ask("GET", "/tariffs/NONE", status=404)


async def test_a_new_notice_ends_the_tariff_before_it_and_both_stay_known(door: Door, tariffs: Tariffs) -> None:
    refused = await door.ask("PUT", "/tariffs/GD-2026", {"windows": windows()}, status=400)
    assert "GD-2021-IC" in refused["detail"]
    assert "GD-2021-IC" in refused["detail_zh"]
    assert await door.audits() == []
    taken = await door.ask("PUT", "/tariffs/GD-2026", {"windows": windows(), "end_previous": True})
    assert {one["tariff_id"]: one["revision"] for one in taken["items"]} == {"GD-2026": 1, "GD-2021-IC": 1}
    old = await door.ask("GET", "/tariffs/GD-2021-IC")
    assert old["valid_to"] == "2026-06-30"
    async with tariffs.db.read() as conn:
        book = await tariffs.book(conn)
    mine = book.tariffs["CN-44", "industrial_commercial"]
    before, after = mine.version_on(date(2026, 6, 30)), mine.version_on(date(2026, 7, 1))
    assert before is not None
    assert after is not None
    assert (before.tariff_id, after.tariff_id) == ("GD-2021-IC", "GD-2026")
    assert [event.action for event in await door.audits()] == ["tariff.enter", "tariff.enter"]


async def test_what_a_later_release_ships_gives_way_to_what_a_person_entered(world: World, door: Door) -> None:
    await door.ask("PUT", "/tariffs/GD-2026", {"windows": windows(), "end_previous": True})
    later = [replace(row, tariff_id="GD-NEXT", valid_from=date(2026, 9, 1)) for row in GUANGDONG]
    tariffs = Tariffs(db=world.door.db, clock=world.clock, audit=audit, shipped=later)
    async with tariffs.db.read() as conn:
        book = await tariffs.book(conn)
    holding = book.tariffs["CN-44", "industrial_commercial"].version_on(date(2026, 10, 9))
    assert holding is not None
    assert holding.tariff_id == "GD-2026"


async def test_a_tariff_goes_out_as_a_file_and_comes_back_as_its_next_revision(door: Door) -> None:
    body = await door.ask("GET", "/tariffs/GD-2021-IC/export")
    [taken] = (await door.ask("POST", "/tariffs/imports", content=body, file="gd.csv"))["items"]
    assert (taken["revision"], taken["windows"], taken["entered_by"]) == (1, 17, "user:wang")
    assert (await door.ask("GET", "/tariffs/GD-2021-IC/export")) == body


async def test_a_day_that_is_not_covered_once_is_refused(door: Door) -> None:
    first, second = windows()
    once, once_zh = "each of the 24 hours in exactly one band", "24 小时中每一时刻恰属一个时段"
    cases: list[tuple[dict[str, object], str, str]] = [
        ({"start": "07:00"}, f"{once}, 07:00-08:00", once_zh),
        ({"start": "09:00"}, f"{once}, 08:00-09:00", once_zh),
        ({"end": "24:30"}, "a time from 00:00 to 24:00", "00:00 至 24:00 的时刻"),
        ({"valid_to": "2026-06-01"}, "2026-07-01 or a later day", "不早于 2026-07-01 的日期"),
    ]
    for change, words, words_zh in cases:
        body = {"windows": [first, second | change], "end_previous": True}
        refused = await door.ask("PUT", "/tariffs/GD-2026", body, status=400)
        assert words in refused["detail"], change
        assert words_zh in refused["detail_zh"], change
    await door.ask("GET", "/tariffs/GD-2026", status=404)


async def test_a_tariff_from_memory_counts_once_a_person_answers_for_it(door: Door) -> None:
    unchecked = [one | {"confidence": "memory"} for one in windows()]
    await door.ask("PUT", "/tariffs/GD-2026", {"windows": unchecked, "end_previous": True})
    assert (await door.ask("GET", "/tariffs/GD-2026"))["counted_with"] is False
    confirmed = await door.ask("POST", "/tariffs/GD-2026/confirm", {"reason": "compared with the notice"})
    assert (confirmed["counted_with"], confirmed["revision"]) == (True, 2)
    assert (await door.audits())[-1].reason == "compared with the notice"
    await door.ask("POST", "/tariffs/NONE/confirm", {"reason": "none"}, status=404)


async def test_special_days_of_a_year_are_corrected_as_a_list(door: Door, tariffs: Tariffs) -> None:
    path = "/tariffs/special-days/CN/holiday/2026"
    await door.ask("PUT", path, {"days": ["2026-01-01"], "source": "first notice"})
    second = await door.ask("PUT", path, {"days": ["2026-01-01", "2026-10-01"], "source": "State Council"})
    assert second["version"] == 2
    await door.ask(
        "PUT", "/tariffs/special-days/CN-51/hot_day/2026",
        {"days": ["2026-07-20"], "known_until": "2026-08-01", "source": "weather"},
    )  # fmt: skip
    days = calendar_of(await tariffs.special_days(), "CN-44")
    assert days.kinds_on(date(2026, 10, 1)) == {"holiday"}
    assert days.knows("holiday", date(2026, 5, 4))
    assert not days.knows("hot_day", date(2026, 7, 20))
    sichuan = calendar_of(await tariffs.special_days(), "CN-51")
    assert sichuan.kinds_on(date(2026, 7, 20)) == {"hot_day"}
    assert [sichuan.knows("hot_day", date(2026, 7, 31)), sichuan.knows("hot_day", date(2026, 8, 1))] == [True, False]
    refused = await door.ask("PUT", path, {"days": ["2027-01-01"], "source": "typo"}, status=400)
    assert refused["detail_zh"].startswith("days:应为")


async def test_a_corrected_price_is_a_version_and_the_same_price_is_none(door: Door) -> None:
    basic = {"capacity_cny_per_kva": 23, "demand_cny_per_kw": "32.5", "discount_from_kwh_per_kva": 260}
    first = await door.ask("POST", "/tariffs/prices", {"prices": [PRICE | {"basic": basic}]})
    assert [one["version"] for one in first["items"]] == [1]
    again = await door.ask("POST", "/tariffs/prices", {"prices": [PRICE | {"basic": basic}]})
    assert (again["items"], again["unchanged"]) == ([], 1)
    corrected = PRICE | {"base_cny_per_kwh": "0.6132"}
    await door.ask("POST", "/tariffs/prices", {"prices": [corrected, PRICE | {"month": "2026-04"}]})
    held = (await door.ask("GET", "/tariffs/prices", region="CN-44"))["items"]
    assert [(one["month"], one["version"], one["base_cny_per_kwh"]) for one in held] == [
        ("2026-03", 2, "0.6132"),
        ("2026-04", 1, "0.6123"),
    ]
    every = (await door.ask("GET", "/tariffs/prices", versions=True, to="2026-04-01"))["items"]
    assert [one["version"] for one in every] == [1, 2]
    assert every[0]["basic"]["demand_cny_per_kw"] == "32.5"


async def test_prices_are_imported_from_a_workbook_with_chinese_headings(door: Door) -> None:
    columns = ["区域", "用电类别", "电压等级", "月份", "浮动电价(元/千瓦时)", "固定电价(元/千瓦时)", "单位", "来源"]
    rows: list[list[Cell]] = [
        ["CN-44", "industrial_commercial", "1-10kV", "2026-03", 0.6123, 0.0271, "元/千瓦时", "代理购电公告"],
        ["CN-44", "industrial_commercial", "不满1千伏", date(2026, 3, 1), 0.6623, -0.01, None, "代理购电公告"],
    ]
    sheet = Sheet(
        "电价",
        columns,
        [
            SheetRow(number, {name: cell for name, cell in zip(columns, row, strict=True) if cell is not None})
            for number, row in enumerate(rows, start=2)
        ],
    )
    taken = await door.ask("POST", "/tariffs/prices/imports", content=write_workbook([sheet]), file="prices.xlsx")
    assert [(one["voltage"], one["month"], one["fixed_cny_per_kwh"]) for one in taken["items"]] == [
        ("1-10kV", "2026-03", "0.0271"),
        ("不满1千伏", "2026-03", "-0.01"),
    ]


async def test_wrong_units_and_wrong_rows_are_refused_with_their_place_and_nothing_is_taken(door: Door) -> None:
    head = "region,customer_class,voltage,month,base_cny_per_kwh,fixed_cny_per_kwh,unit,source\n"
    good = "CN-44,ic,1-10kV,2026-03,0.6,0.03,CNY/kWh,sheet\n"
    cases = [
        ("CN-44,ic,1-10kV,2026-04,61.2,0.03,,sheet", 3, "base_cny_per_kwh", "is it in fen"),
        ("CN-44,ic,1-10kV,2026-04,0.6,0.03,CNY/MWh,sheet", 3, "unit", "CNY/kWh"),
        ("CN-44,ic,1-10kV,2026-13,0.6,0.03,,sheet", 3, "month", "a month as 2026-03"),
        ("CN-44,ic,1-10kV,2026-03,0.6,0.03,,sheet", 3, "month", "line 2 has this one"),
        ("CN-44,ic,1-10kV,2026-04,cheap,0.03,,sheet", 3, "base_cny_per_kwh", "a number"),
    ]
    for bad, line, field, words in cases:
        refused = await door.ask(
            "POST", "/tariffs/prices/imports", content=f"{head}{good}{bad}\n".encode(), file="p.csv", status=400
        )
        [problem] = refused["facts"]["problems"]
        assert (problem["line"], problem["field"]) == (line, field), bad
        assert words in problem["expected"], bad
        assert problem["expected_zh"] != problem["expected"] or field == "unit", bad
    strange = head.replace("unit", "price_fen") + good
    refused = await door.ask("POST", "/tariffs/prices/imports", content=strange.encode(), status=400)
    assert "price_fen" in refused["detail"]
    assert (await door.ask("GET", "/tariffs/prices"))["items"] == []
    await door.ask("POST", "/tariffs/prices", {"prices": [PRICE | {"unit": "CNY/MWh"}]}, status=422)
    fen = await door.ask("POST", "/tariffs/prices", {"prices": [PRICE | {"base_cny_per_kwh": 61.23}]}, status=400)
    assert "是否为分" in fen["detail_zh"]


async def test_who_may_not_write_or_is_limited_to_sites_changes_nothing(door: Door) -> None:
    body = {"prices": [PRICE]}
    await door.ask("POST", "/tariffs/prices", body, scopes=("carbon:read",), status=403)
    refused = await door.ask("POST", "/tariffs/prices", body, sites=("site-1",), status=403)
    assert "电价" in refused["detail_zh"]
    await door.ask("PUT", "/tariffs/GD-2026", {"windows": windows()}, sites=("site-1",), status=403)
    assert await door.audits() == []
