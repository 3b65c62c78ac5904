"""Records that come in, without anybody else: reading, homes, registers, files."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.accessstandard import ITEMS, WrongRecord
from libs.common.contracts.carbon import Medium
from libs.common.errors import InvalidFile
from services.export.domain.records import (
    BILLINGS,
    COST,
    COUNTERS,
    GAUGES,
    Kind,
    Period,
    Placed,
    Refusal,
    Row,
    follow,
    place,
    read_row,
)
from services.export.records.reading import MAX_ROWS, read_file

DAY = {"start": "2026-03-01T00:00:00+08:00", "end": "2026-03-02T00:00:00+08:00"}
MONTH = {"start": "2026-03-01T00:00:00+08:00", "end": "2026-04-01T00:00:00+08:00"}
YEAR = {"start": "2026-01-01T00:00:00+08:00", "end": "2027-01-01T00:00:00+08:00"}
AT = {"start": "2026-03-01T08:00:00+08:00", "end": "2026-03-01T08:00:00+08:00"}
SINCE = {"start": "2026-03-01T08:00:00+08:00"}
KWH = {"table": 2, "item": "energy_kwh", "subject": "044", **DAY, "value": 1, "unit": "kWh"}


@dataclass
class Registry:
    """Knows one of each."""

    devices: Mapping[str, str] = field(default_factory=lambda: {"m-1": "m-1", "access:2:energy_kwh:044": "m-2"})

    def organisation(self, subject: str) -> str | None:
        return "op" if subject in ("op", "某公司") else None

    def site(self, subject: str) -> str | None:
        return "s-1" if subject in ("s-1", "044") else None

    def circuit(self, subject: str) -> str | None:
        return "c-1" if subject == "c-1" else None

    def account(self, table: int, subject: str) -> str | None:
        if self.site(subject) is None:
            return subject
        return {2: "044", 3: "W-1"}.get(table)

    def pushed_device(self, subject: str, tag: str) -> str | None:
        return self.devices.get(subject) or self.devices.get(tag)


def row(**fields: Any) -> Row:
    found = read_row(fields.pop("line", 1), fields)
    assert isinstance(found, Row), found
    return found


def homes(*rows: Row) -> list[tuple[Kind, str, str, float | str]]:
    placed, refused = place(rows, Registry())
    assert refused == []
    return [(one.kind, one.home, one.name, one.value) for one in placed]


def refusals(*rows: Row) -> list[Refusal]:
    return place(rows, Registry())[1]


@pytest.mark.parametrize(
    ("fields", "home"),
    [
        ({"table": 1, "item": "entity_name", "subject": "某公司", **SINCE, "text": "新名"},
         "organisation:op name_zh 新名"),
        ({"table": 1, "item_zh": "成立日期", "subject": "op", **SINCE, "text": "2001-02-03"},
         "organisation:op t1_founded_on 2001-02-03"),
        ({"table": 2, "item": "nature_of_use", "subject": "044", **SINCE, "value": "大工业用电"},
         "site:s-1 t2_nature_of_use 大工业用电"),
        ({"table": 2, "item": "line_voltage_kv", "subject": "s-1", **SINCE, "value": 10000, "unit": "V"},
         "site:s-1 t2_line_voltage_kv 10"),
        ({"table": 6, "item": "supply_path", "subject": "c-1", **SINCE, "text": "A/B"},
         "circuit:c-1 t6_supply_path A/B"),
        ({"table": "3", "item": "water_t", "subject": "m-1", **MONTH, "value": "12.5", "unit": "t"},
         "m-1 water_volume 12.5"),
        ({"table": 2, "item": "energy_kwh", "subject": "044", **DAY, "value": 1.5, "unit": "MWh"},
         "m-2 energy_active_import 1500.0"),
        ({"table": 2, "item": "generation_kw", "subject": "m-1", **AT, "value": 20, "unit": "kW"},
         "m-1 active_power_total -20.0"),
        ({"table": 5, "item": "voltage_v", "subject": "m-1", **AT, "value": 220, "unit": "V"}, "m-1 voltage_a 220.0"),
        ({"table": 5, "item": "current_a", "subject": "m-1", **AT, "value": 2, "unit": "A", "point": "current_c"},
         "m-1 current_c 2.0"),
        ({"table": 1, "item": "emission_tco2e", "subject": "op", **MONTH, "value": 500, "unit": "kg"},
         "organisation:op emission 500.0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_each_record_has_one_home(fields: dict[str, Any], home: str) -> None:
    [(_, place_, name, value)] = homes(row(**fields))
    assert f"{place_} {name} {value}" == home


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"table": 9}, "item: expected an item of table 9"),
        ({"table": True, "item": "x"}, "table: expected 1 to 6"),
        ({"table": 2, "item": "energy"}, "key: expected an item of table 2"),
        ({**KWH, "unit": None}, "energy_kwh: unit: expected kWh, found none"),
        ({**KWH, **AT}, "a whole civil period: day, month"),
        ({**KWH, "value": "much"}, "value: expected a number"),
        ({**KWH, "value": "nan"}, "value: expected a number"),
        ({**KWH, "start": "2026-03-01"}, "start: expected a time with an offset"),
        ({"table": 5, "item": "voltage_v", "subject": "m", "start": AT["start"], "end": "2026-03-01T08:10:00+08:00",
          "value": 1, "unit": "V"}, "at most 300 s"),
        ({"table": 2, "item": "energy_kwh", "what": 1}, "what: expected one of"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_none_is_refused_with_its_place(fields: dict[str, Any], problem: str) -> None:
    found = read_row(7, fields)
    assert isinstance(found, Refusal)
    assert (found.line, problem in found.problem) == (7, True), found.problem
    assert "应为" in found.problem_zh


def test_what_has_no_home_is_refused_by_itself() -> None:
    kwh = {"table": 2, "item": "energy_kwh", **DAY, "value": 1, "unit": "kWh"}
    cost = {"table": 2, "item": "electricity_cost_cny", **MONTH, "value": 1, "unit": "CNY"}
    rows = [
        row(line=1, **kwh, subject="044"),
        row(line=2, **kwh, subject="nobody"),
        row(line=3, **kwh, subject="044"),
        row(line=4, **cost, subject="044"),
        row(line=5, table=4, item="heating_cost_cny", subject="044", **YEAR, value=1, unit="CNY"),
        row(line=6, table=1, item="industry", subject="who", **SINCE, text="I"),
        row(line=7, **kwh, subject="m-1", point="voltage_a"),
        row(line=8, table=5, item="voltage_v", subject="m-1", **AT, value=1, unit="V", point="current_a"),
    ]
    found = {one.line: one.problem for one in refusals(*rows)}
    for line, words in {
        2: "on a line of kind push, by its id or by the tag access:2:energy_kwh:nobody", 3: "once; line 1",
        4: "energy_kwh of the same account and month", 5: "a site with an account number", 6: "one organisation's id",
        7: "point: expected none", 8: "voltage_a, voltage_b",
    }.items():  # fmt: skip
        assert words in found.pop(line)
    assert found == {}


def test_energy_and_cost_of_a_month_are_one_bill_and_energy_alone_is_measured() -> None:
    kwh = row(line=1, table=2, item="energy_kwh", subject="s-1", **MONTH, value=10, unit="kWh")
    cost = row(line=2, table=2, item="electricity_cost_cny", subject="s-1", **MONTH, value=8, unit="CNY")
    other = row(line=3, table=2, item="energy_kwh", subject="044", **MONTH, value=7, unit="kWh")
    assert [(kind, home) for kind, home, _, _ in homes(kwh, cost, other)] == [
        (Kind.BILL, "044"), (Kind.BILL, "044"), (Kind.PERIOD, "m-2"),
    ]  # fmt: skip


def fee(item: str = "water_cost_cny", subject: str = "044", line: int = 1, **more: Any) -> Row:
    table, time = (3, MONTH) if item == "water_cost_cny" else (4, YEAR)
    return row(line=line, table=table, item=item, subject=subject, **{**time, "value": 412.5, "unit": "元", **more})


def heat(month: int, value: float, line: int, subject: str = "H-1") -> Row:
    end = f"{2026 + month // 12}-{month % 12 + 1:02}-01T00:00:00+08:00"
    time = {"start": f"2026-{month:02}-01T00:00:00+08:00", "end": end}
    return row(line=line, table=4, item="heating_kwh", subject=subject, **time, value=value, unit="kWh")


def test_every_fee_of_the_tables_has_a_home() -> None:
    fees = {one.key for one in ITEMS.values() if one.owner == "bills"}
    assert fees == {COST, *BILLINGS}
    for key, billing in BILLINGS.items():
        (table,) = (one.table for one in ITEMS.values() if one.key == key)
        assert ITEMS[table, billing.quantity].owner == "measured"
        assert Medium(billing.medium)


def test_a_fee_is_a_bill_of_its_account_and_says_the_quantity_that_comes_with_it() -> None:
    water = row(line=2, table=3, item="water_t", subject="044", **MONTH, value=120, unit="m3")
    for rows in ((fee(), water), (water, fee())):
        placed, refused = place(rows, Registry())
        [one] = placed
        assert (one.kind, one.home, one.name, one.value, one.quantity, one.beside, refused) == (
            Kind.MEDIUM_BILL, "W-1", "water_cost_cny", 412.5, 120.0, (2,), [],
        )  # fmt: skip
    [alone] = place([fee(subject="W-7")], Registry())[0]
    assert (alone.home, alone.quantity, alone.beside) == ("W-7", None, ())


def test_a_quantity_that_has_a_device_of_its_own_is_measured_too() -> None:
    water = row(line=2, table=3, item="water_t", subject="W-1", **MONTH, value=120, unit="t")
    registry = Registry({"access:3:water_t:W-1": "m-3"})
    placed, refused = place([water, fee(subject="W-1")], registry)
    assert [(one.kind, one.home, one.quantity, one.beside) for one in placed] == [
        (Kind.MEDIUM_BILL, "W-1", 120.0, ()), (Kind.PERIOD, "m-3", None, ()),
    ]  # fmt: skip
    assert refused == []


def test_a_fee_of_a_year_says_the_sum_of_its_months_or_nothing() -> None:
    months = [heat(month, 0.1, line=month) for month in range(1, 13)]
    [one], refused = place([*months, fee("heating_cost_cny", "H-1", line=99)], Registry())
    assert (one.home, one.quantity, one.beside, refused) == ("H-1", 1.2, tuple(range(1, 13)), [])
    hole = [*months[:4], *months[5:], heat(12, 7.0, line=50), fee("heating_cost_cny", "H-1", line=99)]
    [one], refused = place(hole, Registry())
    assert (one.quantity, one.beside) == (None, ())
    assert sorted(each.line for each in refused) == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 50]
    words = {each.line: each.problem for each in refused}
    assert "a device" in words[1] or "one device" in words[1]
    assert "once; line 12" in words[50]


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"unit": "USD"}, "unit: expected CNY, found USD"),
        ({"unit": None}, "unit: expected CNY, found none"),
        (DAY, "a whole civil period: month"),
        (YEAR, "a whole civil period: month"),
        ({"value": "much"}, "value: expected a number"),
    ],
)
def test_a_fee_is_checked_by_its_table(changed: dict[str, Any], problem: str) -> None:
    fields = {"table": 3, "item": "water_cost_cny", "subject": "044", **MONTH, "value": 1, "unit": "CNY"}
    found = read_row(1, fields | changed)
    assert isinstance(found, Refusal)
    assert problem in found.problem
    assert "应为" in found.problem_zh
    heating = read_row(1, {**fields, "table": 4, "item": "heating_cost_cny"})
    assert isinstance(heating, Refusal)
    assert "a whole civil period: year" in heating.problem


@given(st.lists(st.sampled_from(["fee", "water", "year", *range(1, 13)]), max_size=30))
def test_every_row_of_a_bill_is_taken_or_refused_once(kinds: list[str | int]) -> None:
    rows = []
    for line, kind in enumerate(kinds, start=1):
        match kind:
            case "fee":
                rows.append(fee(line=line))
            case "water":
                rows.append(row(line=line, table=3, item="water_t", subject="044", **MONTH, value=1, unit="t"))
            case "year":
                rows.append(fee("heating_cost_cny", "H-1", line=line))
            case _:
                rows.append(heat(int(kind), 1.0, line))
    placed, refused = place(rows, Registry())
    lines = [one.row.line for one in placed] + [line for one in placed for line in one.beside]
    assert sorted([*lines, *(one.line for one in refused)]) == [one.line for one in rows]


def test_every_measured_item_has_a_point() -> None:
    measured = {one.key for one in ITEMS.values() if one.owner == "measured"}
    assert measured == GAUGES.keys() | COUNTERS.keys()


def kwh_from(hours: int, value: float) -> Row:
    start = datetime(2026, 3, 1, tzinfo=UTC) + timedelta(hours=hours)
    found = read_row(1, {
        "table": 5, "item": "energy_kwh", "subject": "m-1", "start": start.isoformat(),
        "end": (start + timedelta(hours=1)).isoformat(), "value": value, "unit": "kWh",
    })  # fmt: skip
    assert isinstance(found, Row)
    return found


@given(st.lists(st.decimals(0, 10_000, places=2), min_size=1, max_size=50))
def test_a_register_shows_every_quantity_again(values: list[Any]) -> None:
    last: Period | None = None
    for hours, value in enumerate(values):
        found = follow(kwh_from(hours, float(value)), last, None)
        assert follow(kwh_from(hours, float(value)), found, found) == found  # what comes again changes nothing
        last = found
    assert last is not None
    assert last.register == float(sum(values))


@pytest.mark.parametrize(("hours", "value"), [(2, 1.0), (0, 1.0), (1, 3.0)], ids=["hole", "before", "other value"])
def test_a_register_has_no_holes_and_is_not_changed(hours: int, value: float) -> None:
    first = follow(kwh_from(1, 2.0), None, None)
    last = follow(kwh_from(2, 2.0), first, None) if hours == 1 else first
    with pytest.raises(WrongRecord):
        follow(kwh_from(hours + (hours == 2), value), last, first if hours == 1 else None)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)


columns = st.sampled_from(["table", "item", "item_zh", "subject", "point", "start", "end", "value", "unit"])
likely = st.sampled_from([1, 2, 5, "energy_kwh", "voltage_v", *DAY.values(), "kWh", "V"])


@given(st.dictionaries(columns, scalars | likely))
def test_nothing_that_is_sent_is_more_than_refused(fields: dict[str, Any]) -> None:
    found = read_row(1, fields)
    if isinstance(found, Row):
        placed, refused = place([found], Registry())
        assert len(placed) + len(refused) == 1


def test_tables_are_read_from_text_and_workbooks() -> None:
    text = "table,item,subject\n\n2,energy_kwh,某户\n1,2,3,4\n"
    for encoding in ("utf-8", "utf-8-sig", "gb18030"):
        assert read_file(text.encode(encoding), "a.csv") == [
            (3, {"table": "2", "item": "energy_kwh", "subject": "某户"}), (4, {"": "4 cells"}),
        ]  # fmt: skip
    refused = read_row(4, {"": "4 cells"})
    assert isinstance(refused, Refusal)
    book = openpyxl.Workbook()
    sheet = book.worksheets[0]
    sheet.append(["table", "item", "subject", "start", "value"])
    sheet.append([2, "address", "044", datetime(2026, 3, 1), "street"])  # noqa: DTZ001 - Excel knows no zones
    body = io.BytesIO()
    book.save(body)
    assert read_file(body.getvalue(), "a.xlsx") == [
        (2, {"table": 2, "item": "address", "subject": "044", "start": "2026-03-01T00:00:00+08:00", "value": "street"})
    ]


@pytest.mark.parametrize(
    "body",
    [b"", b"table\n1\n", b"table,subject\n", b"table,subject,table\n1,2,3\n", b"\xff\xff\xff", b"PK\x03\x04no",
     b"table,subject\n" + b"1,2\n" * (MAX_ROWS + 1)],
)  # fmt: skip
def test_files_that_cannot_be_read_say_why(body: bytes) -> None:
    with pytest.raises(InvalidFile) as caught:
        read_file(body, "a.csv")
    assert "expected" in caught.value.message


@given(st.binary(max_size=200))
def test_no_file_is_more_than_refused(body: bytes) -> None:
    for one in (body, b"table,subject\n" + body):
        try:
            found = read_file(one, "a.csv")
        except InvalidFile:
            continue
        for line, fields in found:
            assert isinstance(read_row(line, fields), Row | Refusal)


def test_one_placed_row_says_its_kind() -> None:
    placed, _ = place([row(table=2, item="address", subject="s-1", **SINCE, text="street")], Registry())
    assert [type(one) for one in placed] == [Placed]
    assert placed[0].name == "address"
