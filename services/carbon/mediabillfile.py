"""Bills of other media in files: one row per bill, any media in one file."""

from datetime import timedelta

from libs.common.contracts.carbon import Medium
from libs.common.errors import InvalidInput
from services.carbon.billfile import read_each, row_problem
from services.carbon.domain.mediabills import NAMES_ZH, MediumBill
from services.carbon.tablefile import RowReader, day, read_rows

REQUIRED = ("medium", "account_number", "number", "first_day", "last_day", "amount_cny", "issued_on")
OPTIONAL = ("quantity", "unit", "note")
NAMES = {
    "介质": "medium",
    "户号": "account_number",
    "账单号": "number",
    "起始日": "first_day",
    "截止日": "last_day",
    "用量": "quantity",
    "单位": "unit",
    "金额(元)": "amount_cny",
    "出账日": "issued_on",
    "备注": "note",
}
MEDIA = {medium.value: medium for medium in Medium} | {name: medium for medium, name in NAMES_ZH.items()}


def read_medium_bills(body: bytes, source: str) -> list[tuple[int, MediumBill]]:
    """Return the bills of a CSV file or a workbook, each with its line; ``last_day`` belongs to the bill.

    Raises:
        InvalidFile: A row cannot be a bill; nothing is taken.
    """
    rows = read_rows(body, source, required=REQUIRED, optional=OPTIONAL, names=NAMES)
    return read_each(rows, source, _bill, lambda bill: (bill.medium, bill.account_number, bill.number))


def _bill(reader: RowReader) -> MediumBill | None:
    known, known_zh = ", ".join(Medium), "、".join(NAMES_ZH.values())
    medium = reader.read("medium", MEDIA.__getitem__, Medium.WATER, f"one of {known}", f"{known_zh} 之一")
    account_number, number = reader.text("account_number"), reader.text("number")
    first, last = reader.day("first_day"), reader.day("last_day")
    quantity = reader.number("quantity") if reader.has("quantity") else None
    unit = reader.text("unit") if reader.has("unit") else None
    amount = reader.number("amount_cny")
    issued = reader.read("issued_on", day, first, "a date as 2026-01-31", "日期,如 2026-01-31")
    if reader.problems:
        return None
    try:
        return MediumBill(
            medium=medium,
            account_number=account_number,
            number=number,
            start=first,
            end=last + timedelta(days=1),
            quantity=quantity,
            unit=unit,
            amount_cny=amount,
            issued_on=issued,
        )
    except InvalidInput as exc:
        reader.problems.append(row_problem(reader.line, exc))
        return None
