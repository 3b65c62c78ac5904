"""A report as an Excel workbook: a sheet per chapter, numbers as numbers, native charts, sheets of reasons and traces.

Beside each figure stands its completeness, and the number of its reason is a link to the sheet of reasons.
"""

import io
import re
from datetime import date, datetime
from typing import Any

import openpyxl
from openpyxl.chart import BarChart, LineChart, Reference
from openpyxl.comments import Comment
from openpyxl.styles import Alignment, Border, Font, PatternFill, Side
from openpyxl.utils import get_column_letter, quote_sheetname
from openpyxl.worksheet.hyperlink import Hyperlink
from openpyxl.worksheet.properties import PageSetupProperties
from openpyxl.worksheet.worksheet import Worksheet

from libs.common.clock import CIVIL_ZONE
from services.carbon.domain.reports import words
from services.carbon.domain.reports.content import (
    Cell,
    Chart,
    ChartKind,
    Column,
    ColumnKind,
    Language,
    Quantity,
    Report,
    Section,
    Table,
)
from services.carbon.reports import shown
from services.carbon.reports.shown import Numbering

TITLE_MAX = 31
"""Characters of a sheet's name in Excel."""
CHART_ROWS_MAX = 400
"""Rows that a chart shows; more are a smear."""
CHART_HEIGHT_CM, CHART_WIDTH_CM = 7.5, 18
CHART_ROWS = 16
"""Rows of cells that a chart covers."""
CELL_MAX = 32_767
"""Characters of one cell in Excel."""
WIDTH_MIN, WIDTH_MAX = 9, 42

_NOT_XML = re.compile("[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\ufffe\\uffff]")
_TITLE, _CHAPTER, _BOLD = Font(bold=True, size=16), Font(bold=True, size=13), Font(bold=True)
_SMALL, _LINK = Font(size=8, color="666666"), Font(size=8, color="1F5FA8", underline="single")
_HEAD = PatternFill("solid", fgColor="DDE7F0")
_DOUBT = PatternFill("solid", fgColor="FFF3D6")
_LINE = Border(bottom=Side(style="hair", color="BBBBBB"))
_TOP = Alignment(vertical="top", wrap_text=True)


def write_excel(report: Report, language: Language, digest: str) -> bytes:
    """Return a report as a workbook (.xlsx).

    Args:
        report: What it says.
        language: In which language.
        digest: SHA-256 of the filed content, printed at its head.
    """
    book = openpyxl.Workbook()
    numbering = Numbering.of(report)
    first = book.worksheets[0]
    names = _names(report, language)
    first.title = names["*head"]
    _head(first, report, language, digest)
    for section in report.sections:
        _section(book.create_sheet(names[section.key]), section, language, numbering, names["*reasons"])
    _reasons(book.create_sheet(names["*reasons"]), report, language, numbering)
    _traces(book.create_sheet(names["*traces"]), report, language)
    book.properties.title = _plain_text(language.of(report.title))
    book.properties.creator = report.software
    book.properties.created = book.properties.modified = report.made_at.replace(tzinfo=None)
    found = io.BytesIO()
    book.save(found)
    return found.getvalue()


def _names(report: Report, language: Language) -> dict[str, str]:
    """Return a name for each sheet that Excel takes and that no other has."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    chapters = [(one.key, one.title) for one in report.sections]
    wanted = [("*head", shown.CONTENTS), *chapters, ("*reasons", shown.REASONS), ("*traces", shown.TRACES)]
    for key, title in wanted:
        plain = "".join(" " if sign in "[]:*?/\\'" else sign for sign in _plain_text(language.of(title)))
        plain = plain[:TITLE_MAX].strip() or key
        name, count = plain, 1
        while name.casefold() in taken:
            count += 1
            name = f"{plain[: TITLE_MAX - 4]} {count}"
        taken.add(name.casefold())
        found[key] = name
    return found


def _head(page: Worksheet, report: Report, language: Language, digest: str) -> None:
    page.sheet_view.showGridLines = False
    _put(page, 1, 1, language.of(report.title)).font = _TITLE
    row = 3
    for label, value in shown.head(report, language, digest):
        _put(page, row, 1, label).font = _BOLD
        _put(page, row, 2, value)
        row += 1
    _put(page, row, 1, language.of(shown.QUESTION)).font = _BOLD
    _put(page, row, 2, report.question).alignment = _TOP
    _put(page, row + 2, 1, language.of(shown.EVERY_FIGURE))
    page.column_dimensions["A"].width, page.column_dimensions["B"].width = 26, 90


def _section(page: Worksheet, section: Section, language: Language, numbering: Numbering, reasons: str) -> None:
    page.sheet_view.showGridLines = False
    _put(page, 1, 1, language.of(section.title)).font = _CHAPTER
    row = 2
    for paragraph in section.paragraphs:
        _put(page, row, 1, language.of(paragraph))
        row += 1
    widths: dict[int, int] = {}
    for table in section.tables:
        row = _table(page, row + 1, table, language, numbering, reasons, widths)
    for place, width in widths.items():
        page.column_dimensions[get_column_letter(place)].width = max(WIDTH_MIN, min(width + 2, WIDTH_MAX))
    page.page_setup.orientation, page.page_setup.fitToWidth, page.page_setup.fitToHeight = "landscape", 1, 0
    page.sheet_properties.pageSetUpPr = PageSetupProperties(fitToPage=True)


def _table(
    page: Worksheet,
    row: int,
    table: Table,
    language: Language,
    numbering: Numbering,
    reasons: str,
    widths: dict[int, int],
) -> int:
    """Write a table from a row on; return the first free row after it and its chart."""
    _put(page, row, 1, language.of(table.title)).font = _BOLD
    heads, places = _heads(table, language)
    top = row + 1
    for place, text in enumerate(heads, start=1):
        cell = _put(page, top, place, text)
        cell.font, cell.fill, cell.alignment = _BOLD, _HEAD, _TOP
        widths[place] = max(widths.get(place, 0), min(_width(text), 16))
    for at, cells in enumerate(table.rows, start=top + 1):
        for column, cell, place in zip(table.columns, cells, places, strict=True):
            if isinstance(cell, Quantity):
                _figure(page, at, place, cell, column, language, numbering, reasons)
                widths[place] = max(widths.get(place, 0), len(shown.number(cell, column, language)))
                continue
            text = shown.plain(cell, column, language)
            _plain(page, at, place, cell, column, text)
            widths[place] = max(widths.get(place, 0), _width(text))
    end = top + len(table.rows)
    if table.chart is not None and table.rows:
        _chart(page, table, table.chart, language, top, places)
        return end + CHART_ROWS + 2
    return end + 2


def _heads(table: Table, language: Language) -> tuple[list[str], list[int]]:
    """Return the headings, and at which place each column of the table begins: a figure has three."""
    heads: list[str] = []
    places: list[int] = []
    for column in table.columns:
        places.append(len(heads) + 1)
        heads.append(shown.heading(column, language))
        if column.kind is ColumnKind.FIGURE:
            heads += [language.of(shown.COMPLETENESS), language.of(shown.WHY)]
    return heads, places


def _figure(
    page: Worksheet,
    row: int,
    place: int,
    one: Quantity,
    column: Column,
    language: Language,
    numbering: Numbering,
    reasons: str,
) -> None:
    value = _put(page, row, place, language.of(shown.UNKNOWN) if one.value is None else one.value)
    decimals = "." + "0" * column.digits if column.digits else ""
    value.number_format = f"0{decimals}%" if column.percent else f"#,##0{decimals}"
    value.alignment, value.border = Alignment(horizontal="right"), _LINE
    known = _put(page, row, place + 1, "–" if one.completeness is None else one.completeness)
    known.number_format, known.font, known.border = "0.0%", _SMALL, _LINE
    known.alignment = Alignment(horizontal="right")
    number = numbering.reasons[one.why]
    why = _put(page, row, place + 2, f"[{number}]")
    why.hyperlink = Hyperlink(ref=why.coordinate, location=f"{quote_sheetname(reasons)}!A{number + 1}")
    why.font, why.border = _LINK, _LINE
    if one.marks:
        value.fill = _DOUBT
        value.comment = Comment(numbering.said(one.marks, language), "Wattring")


def _plain(page: Worksheet, row: int, place: int, cell: Cell, column: Column, text: str) -> None:
    value: str | int | date | datetime | None = text or None
    form = "@"
    if isinstance(cell, str) and column.kind is ColumnKind.DAY:
        value, form = date.fromisoformat(cell), "yyyy-mm-dd"
    elif isinstance(cell, str) and column.kind is ColumnKind.TIME:
        # Excel knows no zones; what stands there is civil time, as everywhere in the report.
        value, form = datetime.fromisoformat(cell).astimezone(CIVIL_ZONE).replace(tzinfo=None), "yyyy-mm-dd hh:mm"
    elif isinstance(cell, int):
        value, form = cell, "0" if text == str(cell) else "#,##0"
    found = _put(page, row, place, value)
    found.number_format, found.border, found.alignment = form, _LINE, _TOP


def _chart(page: Worksheet, table: Table, chart: Chart, language: Language, top: int, places: list[int]) -> None:
    last = top + min(len(table.rows), CHART_ROWS_MAX)
    drawing: BarChart | LineChart = BarChart() if chart.kind is ChartKind.BAR else LineChart()
    drawing.title = _plain_text(language.of(chart.title))
    drawing.height, drawing.width = CHART_HEIGHT_CM, CHART_WIDTH_CM
    drawing.style = 10
    drawing.legend = None if len(chart.series) == 1 else drawing.legend
    drawing.x_axis.delete = drawing.y_axis.delete = False
    drawing.y_axis.number_format = "#,##0"
    for key in chart.series:
        place = places[table.place(key)]
        drawing.add_data(Reference(page, min_col=place, min_row=top, max_row=last), titles_from_data=True)
    along = places[table.place(chart.along)]
    drawing.set_categories(Reference(page, min_col=along, min_row=top + 1, max_row=last))
    page.add_chart(drawing, f"A{top + len(table.rows) + 2}")


def _reasons(page: Worksheet, report: Report, language: Language, numbering: Numbering) -> None:
    heads = ["#", *(language.of(one) for one in (shown.FORMULA, shown.SOURCE, shown.TOLD_AT, shown.ORIGINS))]
    for place, text in enumerate(heads, start=1):
        cell = _put(page, 1, place, text)
        cell.font, cell.fill = _BOLD, _HEAD
    for one in report.reasons:
        row = numbering.reasons[one.key] + 1
        origins = "\n".join(one.origins)
        told = (f"[{row - 1}]", language.of(one.formula), one.source, one.path, origins)
        for place, text in enumerate(told, start=1):
            _put(page, row, place, text).alignment = _TOP
    page.freeze_panes = "A2"
    for letter, width in zip("ABCDE", (6, 60, 34, 60, 70), strict=True):
        page.column_dimensions[letter].width = width
    row = len(report.reasons) + 3
    if numbering.marks:
        _put(page, row, 2, language.of(shown.MARKS)).font = _BOLD
        for at, mark in enumerate(numbering.marks, start=row + 1):
            _put(page, at, 2, language.of(words.mark(mark)))


def _traces(page: Worksheet, report: Report, language: Language) -> None:
    heads = (shown.TABLE, shown.ROW, shown.FIGURE, shown.VALUE, shown.ANSWERED_AT)
    for place, one in enumerate(heads, start=1):
        cell = _put(page, 1, place, language.of(one))
        cell.font, cell.fill = _BOLD, _HEAD
    for row, each in enumerate(shown.traces(report, language), start=2):
        for place, text in enumerate((each.table, each.row, each.column, each.figure, each.path), start=1):
            _put(page, row, place, text)
    page.freeze_panes = "A2"
    for letter, width in zip("ABCDE", (24, 28, 24, 18, 110), strict=True):
        page.column_dimensions[letter].width = width


def _put(page: Worksheet, row: int, place: int, value: str | float | date | datetime | None) -> Any:
    """Write a cell; a text stays a text, so that none becomes a formula."""
    if isinstance(value, str):
        value = _plain_text(value)
        if len(value) > CELL_MAX:
            value = value[: CELL_MAX - 1] + "…"
    cell = page.cell(row=row, column=place, value=value)
    if isinstance(value, str):
        cell.data_type = "s"
    return cell


def _plain_text(text: str) -> str:
    """Return a text without what no XML can hold."""
    return _NOT_XML.sub("", text)


def _width(text: str) -> int:
    """Return how wide a text is, Chinese signs counted twice."""
    return max((sum(2 if ord(sign) > 0x2E7F else 1 for sign in line) for line in text.splitlines()), default=0)
