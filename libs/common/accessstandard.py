"""Tables 1 to 6 of the data-access standard: what each item is, in which unit, how often it comes, whose it is.

A record is one item of one subject over one time. What comes in is checked against its row here and leaves in the
row's unit; what goes out is made from the same rows, so that a file of ours can be read by whoever knows the tables.

Source:
    ``data/access_standard.csv``: T/CES draft, clauses 6.3 to 6.6, tables 1 to 6; see its header.
"""

import csv
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import cache
from importlib.resources import files

from libs.common.clock import CIVIL_ZONE
from libs.common.errors import InvalidInput
from libs.common.units import UnknownUnit, convert

TABLES = range(1, 7)
TEXT_MAX = 500
"""Characters of a name, an address or a word."""
FIRST_YEAR, LAST_YEAR = 1900, 2199
_ALIKE = {"m ³": "m3", "元": "CNY", "￥": "CNY", "RMB": "CNY", "tCO2": "tCO2e", "kgCO2": "kgCO2e"}
_EMISSIONS_IN_T = {"tCO2e": 1.0, "kgCO2e": 0.001, "t": 1.0, "kg": 0.001}
_MAY_BE_NEGATIVE = frozenset({"load_kw", "current_a", "active_power_kw", "reactive_power_var", "line_load_percent"})
"""What flows back; a bill may be a credit."""
_CREDIT_CODE = re.compile("[0-9A-HJ-NP-RT-UW-Y]{18}")
_CREDIT_SIGNS = "0123456789ABCDEFGHJKLMNPQRTUWXY"


class WrongRecord(InvalidInput):
    """A record is not what its row of the table says."""

    code = "access_record"
    title_zh = "数据不符合接入规范"


class ItemKind(StrEnum):
    """What a value is."""

    TEXT = "text"
    CODE = "code"
    """A unified social credit code."""
    DAY = "day"
    NUMBER = "number"


class Owner(StrEnum):
    """Where records of an item belong."""

    REGISTRY = "registry"
    """Archives, kept by version (ingest)."""
    MEASURED = "measured"
    """Readings (ingest)."""
    BILLS = "bills"
    CARBON = "carbon"


class Update(StrEnum):
    """How often an item comes."""

    ON_CHANGE = "on_change"
    DAY = "day"
    MONTH = "month"
    YEAR = "year"


@dataclass(frozen=True, slots=True)
class Item:
    """A row of a table."""

    table: int
    number: int
    category_zh: str
    name_zh: str
    key: str
    kind: ItemKind
    printed_unit: str
    unit: str | None
    printed_update: str
    updates: frozenset[Update]
    """Civil periods that it may be of; empty where ``within_s`` says how often."""
    within_s: int | None
    """At least so often. [s]"""
    owner: Owner
    note: str

    @property
    def is_archive(self) -> bool:
        """Whether it holds from a time until it changes."""
        return self.updates == {Update.ON_CHANGE}


@dataclass(frozen=True, slots=True)
class Record:
    """One item of one subject over one time."""

    table: int
    key: str
    subject: str
    """User, site or metering point, as the sender names it."""
    start: datetime
    """Of an archive: since when it holds."""
    end: datetime | None
    """Not included; none of an archive."""
    value: float | str | date
    unit: str | None = None


def item_of(table: int, key: str) -> Item:
    """Return a row by its table and key.

    Raises:
        WrongRecord: There is none.
    """
    found = ITEMS.get((table, key))
    if found is None:
        raise _wrong("key", f"an item of table {table}", f"表{table}中的数据项", f"{table}/{key}")
    return found


def checked(record: Record) -> Record:
    """Return a record as its row has it: in the row's unit, over a time that the row allows.

    Raises:
        WrongRecord: It is not what the row says; the message names table, item and field.
    """
    item = item_of(record.table, record.key)
    if not record.subject.strip() or len(record.subject) > TEXT_MAX:
        raise _of(item, "subject", "a name", "名称", record.subject[:50])
    if record.start.tzinfo is None or (record.end is not None and record.end.tzinfo is None):
        raise _of(item, "start, end", "times with an offset", "带时区的时间", record.start.isoformat())
    _check_time(item, record.start, record.end)
    value = _value(item, record.value, record.unit)
    return Record(record.table, record.key, record.subject.strip(), record.start, record.end, value, item.unit)


def _check_time(item: Item, start: datetime, end: datetime | None) -> None:
    if not FIRST_YEAR <= start.year <= LAST_YEAR:
        raise _of(item, "start", f"a year from {FIRST_YEAR} to {LAST_YEAR}", "合理的年份", start.isoformat())
    if item.is_archive:
        if end is not None:
            raise _of(item, "end", "none: it holds until it changes", "无结束时间(有变化更新)", end.isoformat())
        return
    if end is None or end < start:
        raise _of(item, "end", "a time after start", "晚于开始的时间", "none" if end is None else end.isoformat())
    if item.within_s is not None:  # what is measured at an instant ends when it begins
        if end - start > timedelta(seconds=item.within_s):
            length = f"at most {item.within_s} s ({item.printed_update})"
            raise _of(item, "start, end", length, f"不超过 {item.within_s} 秒", f"{(end - start).total_seconds():g} s")
        return
    local = start.astimezone(CIVIL_ZONE)
    if not any(_begins(local, one) and _next(local, one) == end for one in item.updates):
        names = ", ".join(sorted(item.updates))
        found = f"{start.isoformat()} to {end.isoformat()}"
        raise _of(item, "start, end", f"a whole civil period: {names}", f"完整的自然周期({item.printed_update})", found)


def _begins(local: datetime, update: Update) -> bool:
    first = local.time() == time() and (update is Update.DAY or local.day == 1)
    return first and (update is not Update.YEAR or local.month == 1)


def _next(local: datetime, update: Update) -> datetime:
    day = local.date()
    match update:
        case Update.DAY:
            day += timedelta(days=1)
        case Update.MONTH:
            day = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
        case _:
            day = date(day.year + 1, 1, 1)
    return datetime.combine(day, time(), CIVIL_ZONE).astimezone(UTC)


def _value(item: Item, value: float | str | date, unit: str | None) -> float | str | date:
    match item.kind:
        case ItemKind.NUMBER:
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise _of(item, "value", "a number", "数值", repr(value)[:50])
            return _number(item, float(value), unit)
        case ItemKind.DAY:
            found = _day(value)
            if found is None:
                raise _of(item, "value", "a date such as 2026-01-31", "日期,如 2026-01-31", repr(value)[:50])
            return found
        case _:
            text = value.strip() if isinstance(value, str) else ""
            if not text or len(text) > TEXT_MAX:
                raise _of(item, "value", f"a text of 1 to {TEXT_MAX} characters", "文本", repr(value)[:50])
            if item.kind is ItemKind.CODE and not is_credit_code(text):
                raise _of(item, "value", "18 characters that GB 32100 allows", "符合 GB 32100 的 18 位代码", text[:50])
            return text


def _day(value: float | str | date) -> date | None:
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    try:
        return date.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _number(item: Item, value: float, unit: str | None) -> float:
    wanted = item.unit or "1"
    if unit is None or not unit.strip():
        raise _of(item, "unit", wanted, wanted, "none")
    found = _converted(item, value, _ALIKE.get(unit.strip(), unit.strip()), wanted)
    if not math.isfinite(found):
        raise _of(item, "value", "a number", "数值", f"{value:g} {unit[:20]}")
    if found < 0 and item.key not in _MAY_BE_NEGATIVE and item.owner is not Owner.BILLS:
        raise _of(item, "value", "no number below 0", "不小于 0 的数值", f"{value:g}")
    return found


def _converted(item: Item, value: float, unit: str, wanted: str) -> float:
    if unit == wanted:
        return value
    if wanted == "tCO2e" and unit in _EMISSIONS_IN_T:
        return value * _EMISSIONS_IN_T[unit]
    if item.key == "water_t" and unit in ("m3", "m³", "立方米"):
        return value  # a tonne of water is a cubic metre
    try:
        return convert(value, unit, wanted)
    except UnknownUnit as exc:
        raise _of(item, "unit", wanted, wanted, unit[:50]) from exc


def is_credit_code(text: str) -> bool:
    """Return whether a text is a unified social credit code: GB 32100-2015, check character by modulus 31."""
    if not _CREDIT_CODE.fullmatch(text):
        return False
    total = sum(_CREDIT_SIGNS.index(sign) * pow(3, place, 31) for place, sign in enumerate(text[:17]))
    return _CREDIT_SIGNS[(31 - total % 31) % 31] == text[17]


def _of(item: Item, field: str, expected: str, expected_zh: str, found: str) -> WrongRecord:
    where, where_zh = f"table {item.table}, {item.key}: {field}", f"表{item.table} {item.name_zh}:{field}"
    return _wrong(where, expected, expected_zh, found, where_zh)


def _wrong(field: str, expected: str, expected_zh: str, found: str, field_zh: str | None = None) -> WrongRecord:
    return WrongRecord(
        f"{field}: expected {expected}, found {found}",
        message_zh=f"{field_zh or field}:应为{expected_zh},实际为 {found}",
    )


@cache
def _load() -> Mapping[tuple[int, str], Item]:
    text = files("libs.common").joinpath("data/access_standard.csv").read_text(encoding="utf-8")
    found: dict[tuple[int, str], Item] = {}
    category = ""
    for row in csv.DictReader(line for line in text.splitlines() if not line.startswith("#")):
        category = row["category_zh"] or category
        within = int(row["update"]) if row["update"].isdigit() else None
        item = Item(
            table=int(row["table"]),
            number=int(row["number"]),
            category_zh=category,
            name_zh=row["name_zh"],
            key=row["key"],
            kind=ItemKind(row["kind"]),
            printed_unit=row["printed_unit"],
            unit=row["unit"] or None,
            printed_update=row["printed_update"],
            updates=frozenset() if within is not None else frozenset(Update(one) for one in row["update"].split()),
            within_s=within,
            owner=Owner(row["owner"]),
            note=row["note"],
        )
        found[item.table, item.key] = item
    return found


ITEMS: Mapping[tuple[int, str], Item] = _load()
"""Every row by its table and key."""
