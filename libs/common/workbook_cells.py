"""The cells of workbooks that we write: headings, and values of which none becomes a formula."""

from datetime import datetime

from openpyxl.cell import Cell as BookCell
from openpyxl.cell import WriteOnlyCell
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
from openpyxl.styles import Alignment, Font, PatternFill
from openpyxl.worksheet.worksheet import Worksheet

from libs.common.workbook import Cell

_HEAD = Font(bold=True)
_HEAD_FILL = PatternFill("solid", fgColor="DDE7F0")


def head(page: Worksheet, text: str) -> BookCell:
    """Return the heading of a column, bold on a tint."""
    found = WriteOnlyCell(page, ILLEGAL_CHARACTERS_RE.sub("", text))
    found.data_type = "s"  # not a formula either
    found.font, found.fill, found.alignment = _HEAD, _HEAD_FILL, Alignment(vertical="center")
    return found


def cell(page: Worksheet, value: Cell) -> BookCell | None:
    """Return the cell of a value; times with an offset and texts stand as texts."""
    if value is None:
        return None
    if isinstance(value, datetime) and value.tzinfo is not None:
        value = value.isoformat()
    found = WriteOnlyCell(page, ILLEGAL_CHARACTERS_RE.sub("", value) if isinstance(value, str) else value)  # type: ignore[arg-type]  # its stubs know no date
    if isinstance(value, str):
        found.data_type = "s"  # a text that begins with = is no formula
        found.number_format = "@"
    return found
