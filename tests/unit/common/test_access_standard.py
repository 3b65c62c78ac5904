"""Tables 1 to 6 of the data-access standard: every row as printed, what is wrong in print, and what is taken."""

from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.accessstandard import (
    ITEMS,
    TABLES,
    Item,
    ItemKind,
    Owner,
    Record,
    Update,
    WrongRecord,
    checked,
    is_credit_code,
    item_of,
)
from libs.common.clock import CIVIL_ZONE
from libs.common.units import UNITS, unit_of

PRINTED = """
1  1 主体名称 - 有变化更新
1  2 成立日期 - 有变化更新
1  3 法定代表人姓名 - 有变化更新
1  4 统一社会信用代码 - 有变化更新
1  5 行业分类 - 有变化更新
1  6 二氧化碳排放量 m³ 按月
2  1 用户编号 - 有变化更新
2  2 用户名称 - 有变化更新
2  3 用电地址 - 有变化更新
2  4 用电性质 kV 有变化更新
2  5 用电量 kWh 按日、按月
2  6 用电负荷 kW ≤15分钟
2  7 发电量 kWh 按日、按月
2  8 发电功率 kW ≤1小时
2  9 电费 元 按月
2 10 变电站名称 - 有变化更新
2 11 变电站电压等级 kV 有变化更新
2 12 变电站容量 kVA 有变化更新
2 13 变电站负载率 % ≤15分钟
2 14 线路名称 - 有变化更新
2 15 线路电压等级 kV 有变化更新
2 16 线路容量 kVA 有变化更新
2 17 线路所属变电站 - 有变化更新
2 18 线路负载率 % ≤15分钟
3  1 销根号 - 有变化更新
3  2 用户名称 - 有变化更新
3  3 用水地址 - 有变化更新
3  4 用水性质 - 有变化更新
3  5 用水量 t 按月
3  6 水费 元 按月
4  1 客户编号 - 有变化更新
4  2 用户名称 - 有变化更新
4  3 用能地址 - 有变化更新
4  4 用能性质 - 有变化更新
4  5 供冷量 kWh 按月
4  6 供热量 kWh 按月
4  7 供冷费 元 按年
4  8 供热费 元 按年
5  1 用户名称 - 有变化更新
5  2 用户地址 - 有变化更新
5  3 代运维厂商 - 有变化更新
5  4 电压 V ≤5分钟
5  5 电流 A ≤5分钟
5  6 有功功率 kW ≤5分钟
5  7 无功功率 Var ≤5分钟
5  8 用电量 kWh ≤1小时
6  1 用户名称 - 有变化更新
6  2 用户地址 - 有变化更新
6  4 供能路径 - 有变化更新
6  5 采集点名称 - 有变化更新
6  6 用电量 kWh 按日
6  7 用水量 t 按日
6  8 用气量 m³ 按日
6  9 用冷量 kWh 按日
6 10 用热量 kWh 按日
"""
ROWS = [line.split() for line in PRINTED.strip().splitlines()]
UPDATES: dict[str, tuple[set[Update], int | None]] = {
    "有变化更新": ({Update.ON_CHANGE}, None),
    "按日、按月": ({Update.DAY, Update.MONTH}, None),
    "按日": ({Update.DAY}, None),
    "按月": ({Update.MONTH}, None),
    "按年": ({Update.YEAR}, None),
    "≤1小时": (set(), 3600),
    "≤15分钟": (set(), 900),
    "≤5分钟": (set(), 300),
}
UNITS_MEANT = {"m³": "m3", "元": "CNY", "Var": "var", "-": None}
MISPRINTED = {(1, 6): "tCO2e", (2, 4): None}
"""An emission in cubic metres, and a word in kilovolts."""
MIDNIGHT = datetime(2026, 3, 1, tzinfo=CIVIL_ZONE)


def test_the_tables_have_every_row_that_is_printed_and_no_other() -> None:
    assert [(str(one.table), str(one.number), one.name_zh) for one in ITEMS.values()] == [
        tuple(row[:3]) for row in ROWS
    ]
    assert {one.table for one in ITEMS.values()} == set(TABLES)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}.{row[1]}")
def test_a_row_has_the_unit_the_type_and_the_rate_that_are_printed(row: list[str]) -> None:
    [item] = [one for one in ITEMS.values() if [str(one.table), str(one.number)] == row[:2]]
    assert item.printed_unit.replace(" ", "") == row[3]
    assert item.printed_update.replace(" ", "") == row[4]
    assert (set(item.updates), item.within_s) == UPDATES[row[4]]
    assert item.unit == MISPRINTED.get((item.table, item.number), UNITS_MEANT.get(row[3], row[3]))
    assert (item.kind is ItemKind.NUMBER) == (item.unit is not None)
    assert item.unit in (None, "CNY", "tCO2e") or item.unit in UNITS


def test_rows_belong_where_their_category_says() -> None:
    owners = {
        "工商档案": {Owner.REGISTRY}, "用户档案": {Owner.REGISTRY}, "环境监测": {Owner.CARBON},
        "能源计量": {Owner.MEASURED}, "能源计费": {Owner.BILLS}, "电力设施": {Owner.REGISTRY, Owner.MEASURED},
    }  # fmt: skip
    for item in ITEMS.values():
        assert item.owner in owners[item.category_zh], item
        assert item.is_archive == (item.owner is Owner.REGISTRY), item
    assert {item.owner for item in ITEMS.values()} == set(Owner)


def record(item: Item, value: float | str | date = 1.0, unit: str | None = "") -> Record:
    end: datetime | None = None
    if item.within_s is not None:
        end = MIDNIGHT + timedelta(seconds=item.within_s)
    elif not item.is_archive:
        days = {Update.DAY: date(2026, 3, 2), Update.MONTH: date(2026, 4, 1), Update.YEAR: date(2027, 1, 1)}
        end = datetime.combine(days[max(item.updates)], time(), CIVIL_ZONE)
    start = datetime(2026, 1, 1, tzinfo=CIVIL_ZONE) if item.updates == {Update.YEAR} else MIDNIGHT
    return Record(item.table, item.key, "s-1", start, end, value, item.unit if unit == "" else unit)


def sample(item: Item) -> float | str | date:
    samples: dict[ItemKind, float | str] = {
        ItemKind.NUMBER: 12.5,
        ItemKind.DAY: "2019-05-01",
        ItemKind.CODE: "91350100M000100Y43",
        ItemKind.TEXT: " 大工业用电 ",
    }
    return samples[item.kind]


@pytest.mark.parametrize("item", ITEMS.values(), ids=lambda item: f"{item.table}.{item.key}")
def test_each_item_is_taken_in_its_unit_and_refused_in_one_of_something_else(item: Item) -> None:
    taken = checked(record(item, sample(item)))
    assert taken.unit == item.unit
    expected = {ItemKind.NUMBER: 12.5, ItemKind.DAY: date(2019, 5, 1), ItemKind.CODE: "91350100M000100Y43"}
    assert taken.value == expected.get(item.kind, "大工业用电")
    assert checked(taken) == taken
    if item.kind is ItemKind.NUMBER:
        for unit in ("Hz", "", None, "m3" if item.unit == "tCO2e" else "furlong"):
            with pytest.raises(WrongRecord, match="unit"):
                checked(replace(record(item), unit=unit))
        for value in (float("nan"), float("inf"), True, "12.5"):
            with pytest.raises(WrongRecord, match="value"):
                checked(record(item, value))
    else:
        for value in (1.0, "", "x" * 501):
            with pytest.raises(WrongRecord, match="value"):
                checked(record(item, value))


@pytest.mark.parametrize(
    ("table", "key", "value", "unit", "expected"),
    [
        (2, "energy_kwh", 1.5, "MWh", 1500.0),
        (2, "energy_kwh", 1.5, "千瓦时", 1.5),
        (2, "load_kw", 1500.0, "W", 1.5),
        (2, "electricity_cost_cny", -3.5, "元", -3.5),
        (2, "substation_load_percent", 0.63, "1", 63.0),
        (3, "water_t", 7.25, "m³", 7.25),
        (3, "water_t", 7250.0, "kg", 7.25),
        (5, "reactive_power_var", 1.5, "kvar", 1500.0),
        (6, "gas_m3", 2.0, "m ³", 2.0),
        (1, "emission_tco2e", 1500.0, "kgCO2e", 1.5),
        (1, "emission_tco2e", 1.5, "tCO2", 1.5),
    ],
)
def test_other_units_of_the_same_quantity_are_converted(
    table: int, key: str, value: float, unit: str, expected: float
) -> None:
    taken = checked(record(item_of(table, key), value, unit))
    assert taken.value == pytest.approx(expected)
    assert taken.unit == item_of(table, key).unit


@pytest.mark.parametrize(
    ("table", "key", "start", "end"),
    [
        (2, "energy_kwh", MIDNIGHT, MIDNIGHT + timedelta(hours=23)),
        (2, "energy_kwh", MIDNIGHT + timedelta(hours=1), MIDNIGHT + timedelta(hours=25)),
        (3, "water_t", MIDNIGHT, MIDNIGHT + timedelta(days=1)),
        (4, "cooling_cost_cny", MIDNIGHT, datetime(2026, 4, 1, tzinfo=CIVIL_ZONE)),
        (2, "load_kw", MIDNIGHT, MIDNIGHT + timedelta(minutes=16)),
        (2, "load_kw", MIDNIGHT, MIDNIGHT - timedelta(minutes=15)),
        (6, "energy_kwh", MIDNIGHT, MIDNIGHT),
        (2, "load_kw", MIDNIGHT, None),
        (5, "voltage_v", MIDNIGHT, MIDNIGHT + timedelta(minutes=15)),
        (2, "address", MIDNIGHT, MIDNIGHT + timedelta(days=1)),
        (2, "load_kw", datetime(1026, 3, 1, tzinfo=UTC), datetime(1026, 3, 1, 0, 15, tzinfo=UTC)),
        (2, "load_kw", datetime(2026, 3, 1), datetime(2026, 3, 1, 0, 15)),  # noqa: DTZ001 - without an offset
    ],
)
def test_a_time_that_the_update_rate_does_not_allow_is_refused(
    table: int, key: str, start: datetime, end: datetime | None
) -> None:
    item = item_of(table, key)
    with pytest.raises(WrongRecord, match=f"table {table}, {key}: (start|end)"):
        checked(replace(record(item, sample(item)), start=start, end=end))


def test_energy_of_a_month_and_of_a_day_are_both_of_table_2() -> None:
    item = item_of(2, "energy_kwh")
    for end in (datetime(2026, 3, 2, tzinfo=CIVIL_ZONE), datetime(2026, 4, 1, tzinfo=CIVIL_ZONE)):
        assert checked(replace(record(item), end=end)).end == end


def test_what_is_used_is_not_negative_and_what_flows_may_be() -> None:
    with pytest.raises(WrongRecord, match="below 0"):
        checked(record(item_of(6, "energy_kwh"), -1.0))
    assert checked(record(item_of(5, "active_power_kw"), -1.0)).value == -1.0


def test_an_item_that_is_in_no_table_is_refused() -> None:
    for table, key in ((7, "energy_kwh"), (6, "nothing"), (0, "")):
        with pytest.raises(WrongRecord):
            item_of(table, key)
    with pytest.raises(WrongRecord, match="subject"):
        checked(replace(record(item_of(6, "energy_kwh")), subject=" "))


def test_credit_codes_have_their_check_character() -> None:
    assert is_credit_code("91350100M000100Y43")  # the example of GB 32100-2015
    for wrong in ("91350100M000100Y44", "91350100M000100Y4", "91350100I000100Y43", "", "91350100m000100y43"):
        assert not is_credit_code(wrong)


@given(st.sampled_from(list(ITEMS.values())), st.floats() | st.text(max_size=20), st.none() | st.text(max_size=8))
def test_whatever_comes_is_taken_or_refused_with_a_reason(item: Item, value: float | str, unit: str | None) -> None:
    try:
        taken = checked(record(item, value, unit))
    except WrongRecord as exc:
        assert item.name_zh in (exc.message_zh or "")  # noqa: PT017 - a refusal is one of two good ends
    else:
        assert taken.unit == item.unit


def test_units_that_senders_write_are_known() -> None:
    assert {unit_of(one).symbol for one in ("Var", "KWH", "吨", "立方米")} == {"var", "kWh", "t", "m3"}
