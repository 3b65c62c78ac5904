"""Records of tables 1 to 6 of the data-access standard that come in: read, checked, and whose each of them is.

A record goes to one home. Archives are the registry's: three have a field there, all others stand in ``archive`` of the
organisation (table 1), site or circuit (table 6). What is measured at an instant is a report of a device. What is
measured over a period becomes the register of a device: it stands at the sum of all that was taken, so a period has to
begin where the last one ended. Energy and cost of a month of one account are a bill, an emission is a fact of carbon's.
A fee of water, cooling or heating is a bill too, and says its quantity where the delivery has that of all of its time:
the heating of a year is billed once and told month by month.

The device is named by the sender, or by whoever has given it the tag ``access:<table>:<item>:<subject>``; it has to
hang on a line of kind ``push``, so that no record is ever written into the history of a meter that reports itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol

from libs.common.accessstandard import ITEMS, Item, ItemKind, Owner, Record, WrongRecord, checked, item_of
from libs.common.clock import CIVIL_ZONE
from libs.common.units import convert

FIELDS = frozenset({"table", "item", "item_zh", "subject", "point", "start", "end", "value", "text", "unit"})
TOLD = frozenset({"number", "completeness", "note"})
"""Columns of our own files that say nothing here."""
TAG = "access"
METER_ITEMS = frozenset({"metering_point", "supply_path"})
"""Of table 6: what is said of one circuit."""


@dataclass(frozen=True, slots=True)
class Source:
    """Which point of a device an item is."""

    points: tuple[str, ...]
    """The first unless the record names one."""
    unit: str
    """Of the point."""
    factor: float = 1.0


PHASES = ("a", "b", "c", "ab", "bc", "ca")
GAUGES: Mapping[str, Source] = {
    "load_kw": Source(("active_power_total",), "kW"),
    "generation_kw": Source(("active_power_total",), "kW", -1.0),  # power is positive when it is drawn from the grid
    "substation_load_percent": Source(("load_rate",), "%"),
    "line_load_percent": Source(("load_rate",), "%"),
    "voltage_v": Source(tuple(f"voltage_{phase}" for phase in PHASES), "V"),
    "current_a": Source(("current_a", "current_b", "current_c"), "A"),
    "active_power_kw": Source(("active_power_total",), "kW"),
    "reactive_power_var": Source(("reactive_power_total",), "kvar"),
}
"""What holds at the end of its time. One that names no phase is phase a, as with every device of a single phase."""
COUNTERS: Mapping[str, str] = {
    "energy_kwh": "energy_active_import",
    "generation_kwh": "energy_active_export",
    "water_t": "water_volume",
    "gas_m3": "gas_volume",
    "cooling_kwh": "cold_energy",
    "heating_kwh": "heat_energy",
}
"""What is used over a period to the register that it raises; a tonne of water is a cubic metre."""
ENERGY, COST = "energy_kwh", "electricity_cost_cny"


@dataclass(frozen=True, slots=True)
class Billing:
    """What a fee is of, other than electricity."""

    medium: str
    """As carbon names it."""
    quantity: str
    """The item of the same table that says how much was used."""
    unit: str
    """Of that as carbon names it; a tonne of water is a cubic metre."""


BILLINGS: Mapping[str, Billing] = {
    "water_cost_cny": Billing("water", "water_t", "m3"),
    "cooling_cost_cny": Billing("cold", "cooling_kwh", "kWh"),
    "heating_cost_cny": Billing("heat", "heating_kwh", "kWh"),
}
FIELD_OF: Mapping[tuple[int, str], str] = {
    (1, "entity_name"): "name_zh",
    (2, "account_number"): "account_number",
    (2, "address"): "address",
}
"""Archives that have a field of their own in the registry."""


class Kind(StrEnum):
    """What a record's home is."""

    ARCHIVE = "archive"
    GAUGE = "gauge"
    PERIOD = "period"
    BILL = "bill"
    MEDIUM_BILL = "medium_bill"
    EMISSION = "emission"


@dataclass(frozen=True, slots=True)
class Row:
    """A record as it was read, with where it stood."""

    line: int
    record: Record
    point: str | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a row is not taken: what, where, and what was expected."""

    line: int
    problem: str
    problem_zh: str


@dataclass(frozen=True, slots=True)
class Placed:
    """A row and its home."""

    row: Row
    kind: Kind
    home: str
    """``organisation``, ``site`` or ``circuit`` and id (archives, emissions), device id, or account number."""
    name: str
    """Field or key of the archive, point of the device, item of a bill, or ``emission``."""
    value: float | str
    """As its home wants it."""
    quantity: float | None = None
    """Of the bill of a medium; None where the delivery does not have it. [``Billing.unit``]"""
    beside: tuple[int, ...] = ()
    """Lines of that quantity which have no home but the bill."""


class Places(Protocol):
    """The registry, as it is asked where a subject is."""

    def organisation(self, subject: str) -> str | None:
        """Return the one organisation of that id, name or Chinese name."""

    def site(self, subject: str) -> str | None:
        """Return the one site of that id, code or account number."""

    def circuit(self, subject: str) -> str | None:
        """Return the circuit of that id."""

    def account(self, table: int, subject: str) -> str | None:
        """Return the account at the company of a table (2 to 4) that a subject is, or that the site has which it names.

        None where that site has none; a subject that is no site is taken as the number of an account.
        """

    def pushed_device(self, subject: str, tag: str) -> str | None:
        """Return the device of that id, or the only one with that tag, when it hangs on a line of kind push."""


def read_row(line: int, fields: Mapping[str, Any]) -> Row | Refusal:
    """Return a row as checked by its table, or why it is none; texts are stripped, empty ones are none."""
    plain = {name: value.strip() if isinstance(value, str) else value for name, value in fields.items()}
    given = {name: value for name, value in plain.items() if value not in (None, "")}
    strange = sorted(given.keys() - FIELDS - TOLD)
    if strange:
        known = ", ".join(sorted(FIELDS))
        return Refusal(line, f"{strange[0][:50]}: expected one of {known}", f"{strange[0][:50]}:应为 {known} 之一")
    try:
        item = _item(given)
        value = given.get("value", given.get("text"))
        record = checked(
            Record(
                table=item.table, key=item.key, subject=str(given.get("subject", "")),
                start=_time("start", given.get("start")),
                end=None if given.get("end") is None else _time("end", given["end"]),
                value=_number(value) if item.kind is ItemKind.NUMBER else _text(value), unit=_unit(given.get("unit")),
            )
        )  # fmt: skip
    except WrongRecord as exc:
        return Refusal(line, exc.message, exc.message_zh or exc.message)
    point = given.get("point")
    return Row(line, record, None if point is None else str(point))


def _item(given: Mapping[str, Any]) -> Item:
    table = given.get("table")
    if isinstance(table, str) and table.isdecimal() and len(table) == 1:
        table = int(table)
    if isinstance(table, float) and table.is_integer():  # a cell of Excel
        table = int(table)
    if isinstance(table, bool) or not isinstance(table, int):
        raise _wrong("table", "1 to 6", "1 至 6", given.get("table"))
    key, chinese = given.get("item"), given.get("item_zh")
    if key is None:
        key = next((one.key for one in ITEMS.values() if (one.table, one.name_zh) == (table, chinese)), chinese)
    if key is None:
        raise _wrong("item", f"an item of table {table}", f"表{table}中的数据项", None)
    return item_of(table, str(key))


def _time(name: str, value: Any) -> datetime:
    found = value
    if isinstance(value, str):
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            found = None
    if not isinstance(found, datetime) or found.tzinfo is None:
        expected = "a time with an offset, such as 2026-01-31T00:00:00+08:00"
        raise _wrong(name, expected, "带时区偏移的时间,如 2026-01-31T00:00:00+08:00", value)
    try:
        return found.astimezone(UTC)
    except OverflowError as exc:
        raise _wrong(name, "a time of this age", "合理的时间", value) from exc


def _number(value: Any) -> float | str:
    """Return a number, also of a text that is one; anything else is refused with its item by the table."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return float(value) if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53 else _as(value)


def _text(value: Any) -> str:
    match value:
        case str():
            return value
        case datetime():
            return value.date().isoformat()
        case date():
            return value.isoformat()
        case bool() | None:
            return ""
        case int():
            return str(value)  # an account number that Excel took for a number
        case float() if value.is_integer():
            return str(int(value))
        case _:
            return str(value)


def _as(value: Any) -> float | str:
    return value if isinstance(value, float) else str(value)


def _unit(value: Any) -> str | None:
    return None if value is None else str(value)


def place(rows: Sequence[Row], places: Places) -> tuple[list[Placed], list[Refusal]]:
    """Return the home of every row that has one, and why the others have none; what is there twice counts once."""
    placed: list[Placed] = []
    refused: list[Refusal] = []
    seen: dict[tuple[object, ...], int] = {}
    costs = {_month(row) for row in rows if (row.record.table, row.record.key) == (2, COST)}
    energies = {_month(row) for row in rows if (row.record.table, row.record.key) == (2, ENERGY)}
    quantities = _quantities(rows)
    told: set[int] = set()
    # Fees first: what of a quantity has no home but its bill goes with it.
    for row in sorted(rows, key=lambda one: one.record.key not in BILLINGS):
        one = row.record
        first = seen.setdefault((one.table, one.key, one.subject, row.point, one.start, one.end), row.line)
        if row.line in told:
            continue
        try:
            if first != row.line:
                raise _of(row, "", f"once; line {first} has it", f"只出现一次,第 {first} 行已有", "it again")
            if one.key in BILLINGS:
                placed.append(_fee(row, places, quantities))
                told.update(placed[-1].beside)
            else:
                placed.append(_home(row, places, billed=_month(row) in costs & energies))
        except WrongRecord as exc:
            refused.append(Refusal(row.line, exc.message, exc.message_zh or exc.message))
    return placed, refused


def _month(row: Row) -> tuple[str, datetime, datetime | None]:
    return row.record.subject, row.record.start, row.record.end


def _home(row: Row, places: Places, *, billed: bool) -> Placed:
    one = row.record
    item = item_of(one.table, one.key)
    if row.point is not None and item.key not in GAUGES:
        raise _of(row, "point", "none", "无", row.point)
    match item.owner:
        case Owner.REGISTRY:
            name = FIELD_OF.get((one.table, one.key), f"t{one.table}_{one.key}")
            text = f"{one.value:.12g}" if isinstance(one.value, float) else str(one.value)
            return Placed(row, Kind.ARCHIVE, _entity(row, places), name, text)
        case Owner.CARBON:
            return Placed(row, Kind.EMISSION, _entity(row, places), "emission", _float(row) * 1000.0)
        case Owner.BILLS:
            return _bill(row, places, billed=billed)
        case Owner.MEASURED if one.table == 2 and one.key == ENERGY and billed:
            return Placed(row, Kind.BILL, _account(row, places), ENERGY, _float(row))
        case Owner.MEASURED:
            return _measured(row, places)


def _entity(row: Row, places: Places) -> str:
    one = row.record
    if one.table == 1:
        found = places.organisation(one.subject)
        if found is None:
            raise _of(row, "subject", "one organisation's id or name", "唯一单位的编号或名称", one.subject)
        return f"organisation:{found}"
    circuit = places.circuit(one.subject) if one.table == 6 else None
    if circuit is not None:
        return f"circuit:{circuit}"
    found = places.site(one.subject)
    if found is None:
        raise _of(row, "subject", "one site's id, code or account number", "唯一局站的编号、编码或户号", one.subject)
    return f"site:{found}"


def _quantities(rows: Sequence[Row]) -> dict[tuple[int, str, str], dict[datetime, Row]]:
    """Return the rows that say how much was used of what is billed, by table, item, subject and start."""
    wanted = {one.quantity for one in BILLINGS.values()}
    found: dict[tuple[int, str, str], dict[datetime, Row]] = {}
    for row in rows:
        one = row.record
        if one.key in wanted and row.point is None:
            found.setdefault((one.table, one.key, one.subject), {}).setdefault(one.start, row)
    return found


def _fee(row: Row, places: Places, quantities: Mapping[tuple[int, str, str], Mapping[datetime, Row]]) -> Placed:
    """Return the bill that a fee of a medium is, with its quantity where rows say that of all of its time."""
    one, billing = row.record, BILLINGS[row.record.key]
    if row.point is not None:
        raise _of(row, "point", "none", "无", row.point)
    parts = _parts(one, quantities.get((one.table, billing.quantity, one.subject), {}))
    # Decimal, so that a year of months does not gain digits.
    quantity = float(sum(Decimal(repr(_float(part))) for part in parts)) if parts else None
    beside = tuple(part.line for part in parts if _device(part, places) is None)
    return Placed(row, Kind.MEDIUM_BILL, _account(row, places), one.key, _float(row), quantity, beside)


def _parts(fee: Record, said: Mapping[datetime, Row]) -> list[Row]:
    """Return the rows that follow each other through all of a fee's time; none where one of them is missing."""
    end = fee.end or fee.start
    parts: list[Row] = []
    at = fee.start
    while at < end:
        part = said.get(at)
        if part is None or part.record.end is None or part.record.end > end:
            return []
        parts.append(part)
        at = part.record.end
    return parts


def _bill(row: Row, places: Places, *, billed: bool) -> Placed:
    if not billed:
        expected = f"{ENERGY} of the same account and month with it"
        raise _of(row, "item", expected, "同户号、同月的用电量与之一并提供", "the cost alone")
    return Placed(row, Kind.BILL, _account(row, places), COST, _float(row))


def _account(row: Row, places: Places) -> str:
    account = places.account(row.record.table, row.record.subject)
    if account is None:
        raise _of(row, "subject", "a site with an account number", "有户号的局站", row.record.subject)
    return account


def _measured(row: Row, places: Places) -> Placed:
    one = row.record
    device = _device(row, places)
    if device is None:
        tag = _tag(row)
        raise _of(
            row, "subject", f"one device on a line of kind push, by its id or by the tag {tag}",
            f"push 类线路上唯一的设备(设备编号,或带标签 {tag})", one.subject,
        )  # fmt: skip
    counter = COUNTERS.get(one.key)
    if counter is not None:
        return Placed(row, Kind.PERIOD, device, counter, _float(row))
    source = GAUGES[one.key]
    point = row.point or source.points[0]
    if point not in source.points:
        raise _of(row, "point", ", ".join(source.points), "、".join(source.points), point)
    item = item_of(one.table, one.key)
    return Placed(row, Kind.GAUGE, device, point, convert(_float(row), item.unit or "1", source.unit) * source.factor)


def _device(row: Row, places: Places) -> str | None:
    return places.pushed_device(row.record.subject, _tag(row))


def _tag(row: Row) -> str:
    one = row.record
    return f"{TAG}:{one.table}:{one.key}:{one.subject}"


def _float(row: Row) -> float:
    value = row.record.value
    if not isinstance(value, float):
        raise _of(row, "value", "a number", "数值", str(value)[:50])
    return value


@dataclass(frozen=True, slots=True)
class Period:
    """What was taken of a device over a time, and where its register stood then."""

    start: datetime
    end: datetime
    quantity: float
    register: float
    """At the end."""


def follow(row: Row, last: Period | None, same: Period | None) -> Period:
    """Return the period that a row adds behind the last one of its device.

    Args:
        row: With its time.
        last: The youngest of the device; None when there is none.
        same: The one that begins at the same time, when there is one.

    Raises:
        WrongRecord: It differs from what was taken for that time, or leaves or covers what it must not.
    """
    one, quantity = row.record, _float(row)
    end = one.end or one.start
    if same is not None:
        if (same.end, same.quantity) == (end, quantity):
            return same
        expected = f"{same.quantity:g} until {_civil(same.end)}, as was taken for this time"
        raise _of(row, "value", expected, f"{same.quantity:g}(至 {_civil(same.end)},已入库)", f"{quantity:g}")
    if last is not None and one.start != last.end:
        expected = f"{_civil(last.end)}, where the last period ends: a register has no holes"
        raise _of(row, "start", expected, f"{_civil(last.end)}(上一时段结束时间,不得缺漏)", _civil(one.start))
    # Decimal, so that thousands of periods do not gain digits.
    before = Decimal(0) if last is None else Decimal(repr(last.register))
    return Period(one.start, end, quantity, float(before + Decimal(repr(quantity))))


def _civil(at: datetime) -> str:
    return at.astimezone(CIVIL_ZONE).isoformat()


def _of(row: Row, field: str, expected: str, expected_zh: str, found: str) -> WrongRecord:
    item = item_of(row.record.table, row.record.key)
    place = f": {field}" if field else ""
    place_zh = f":{field}" if field else ""
    return WrongRecord(
        f"table {item.table}, {item.key}{place}: expected {expected}, found {found[:100]}",
        message_zh=f"表{item.table} {item.name_zh}{place_zh}:应为{expected_zh},实际为 {found[:100]}",
    )


def _wrong(field: str, expected: str, expected_zh: str, found: object) -> WrongRecord:
    shown = "none" if found is None else repr(found)[:50]
    return WrongRecord(
        f"{field}: expected {expected}, found {shown}", message_zh=f"{field}:应为{expected_zh},实际为 {shown}"
    )
