"""Bills in files: one row per bill."""

from collections.abc import Callable, Hashable, Iterable
from datetime import timedelta
from decimal import Decimal
from typing import TypeVar

from libs.common.errors import InvalidFile, InvalidInput, Problem
from services.carbon.domain.bills import Bill
from services.carbon.domain.tariff.periods import Band
from services.carbon.tablefile import FileRow, RowReader, day, read_rows

T = TypeVar("T")

REQUIRED = ("account_number", "number", "first_day", "last_day", "energy_kwh", "amount_cny", "issued_on")
BANDS = {f"{band.value}_kwh": band for band in Band}
PARTS = {f"{part}_cny": part for part in ("energy", "basic", "power_factor", "funds", "other")}
OPTIONAL = (*BANDS, *PARTS, "note")
NAMES = {
    "户号": "account_number",
    "账单号": "number",
    "起始日": "first_day",
    "截止日": "last_day",
    "电量(千瓦时)": "energy_kwh",
    "金额(元)": "amount_cny",
    "出账日": "issued_on",
    "尖电量(千瓦时)": "sharp_kwh",
    "峰电量(千瓦时)": "peak_kwh",
    "平电量(千瓦时)": "flat_kwh",
    "谷电量(千瓦时)": "valley_kwh",
    "深谷电量(千瓦时)": "deep_valley_kwh",
    "电度电费(元)": "energy_cny",
    "基本电费(元)": "basic_cny",
    "力调电费(元)": "power_factor_cny",
    "基金及附加(元)": "funds_cny",
    "其他(元)": "other_cny",
    "备注": "note",
}


def read_bills(body: bytes, source: str) -> list[tuple[int, Bill]]:
    """Return the bills of a CSV file or a workbook, each with its line; ``last_day`` belongs to the bill.

    Raises:
        InvalidFile: A row cannot be a bill; nothing is taken.
    """
    rows = read_rows(body, source, required=REQUIRED, optional=OPTIONAL, names=NAMES)
    return read_each(rows, source, _bill, lambda bill: (bill.account_number, bill.number))


def read_each(
    rows: Iterable[FileRow], source: str, make: Callable[[RowReader], T | None], key: Callable[[T], Hashable]
) -> list[tuple[int, T]]:
    """Return the bills of rows, each with its line.

    Args:
        rows: Of the file.
        source: Its name, for messages.
        make: Returns the bill of a row; None where the reader has noted why it cannot be one.
        key: What tells a bill from all others.

    Raises:
        InvalidFile: A row cannot be a bill, or is one that is there already; nothing is taken.
    """
    found: dict[Hashable, tuple[int, T]] = {}
    problems: list[Problem] = []
    for raw in rows:
        reader = RowReader(raw)
        bill = make(reader)
        problems += reader.problems
        if bill is None:
            continue
        if key(bill) in found:
            line = found[key(bill)][0]
            problems.append(
                Problem(
                    line=reader.line,
                    field="number",
                    found=raw.cells.get("number"),
                    expected=f"each bill of an account once; line {line} has this one",
                    expected_zh=f"每户每张账单只出现一次,第 {line} 行已有",
                )
            )
        found.setdefault(key(bill), (reader.line, bill))
    if problems:
        raise InvalidFile(source, problems)
    return list(found.values())


def _bill(reader: RowReader) -> Bill | None:
    account_number, number = reader.text("account_number"), reader.text("number")
    first, last = reader.day("first_day"), reader.day("last_day")
    energy, amount = reader.number("energy_kwh"), reader.number("amount_cny")
    issued = reader.read("issued_on", day, first, "a date as 2026-01-31", "日期,如 2026-01-31")
    bands: dict[Band, Decimal] = {band: reader.number(name) for name, band in BANDS.items() if reader.has(name)}
    parts = {part: reader.number(name) for name, part in PARTS.items() if reader.has(name)}
    if reader.problems:
        return None
    try:
        return Bill(
            number=number,
            account_number=account_number,
            start=first,
            end=last + timedelta(days=1),
            energy_kwh=energy,
            amount_cny=amount,
            issued_on=issued,
            energy_by_band=bands,
            parts_cny=parts,
        )
    except InvalidInput as exc:
        reader.problems.append(row_problem(reader.line, exc))
        return None


def row_problem(line: int, refused: InvalidInput) -> Problem:
    """Return why a row was refused, as a place of its file."""
    english, chinese = refused.both
    field, _, expected = english.partition(": expected ")
    expected_zh = chinese.partition(":应为")[2] or chinese
    return Problem(line=line, field=field, expected=expected or english, expected_zh=expected_zh)
