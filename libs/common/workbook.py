"""Excel workbooks in and out, within bounds: a workbook is a zip of XML and can be a bomb in both respects.

Every service knows this module and few of its processes ever see a workbook, so openpyxl is loaded with the first one.
"""

import io
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import TypeVar

from libs.common.errors import InvalidFile, Problem

MAGIC = b"PK\x03\x04"
"""How a workbook begins; so does every zip."""
MAX_UNPACKED_BYTES = 256 << 20
"""All parts of a workbook together. [B]"""
MAX_ROWS = 200_000
"""Rows of all sheets together; larger archives come as text."""
MAX_ROW_NUMBER = 1 << 20
"""The last row that Excel has; rows that are left out are walked over one by one."""
MAX_COLUMNS = 600
MAX_CELLS = 20_000_000
"""Cells that are walked over, the empty ones before the last of each row too."""
MAX_ELEMENTS = 4_000_000
"""XML elements of a part before its first row: its texts, its styles. Each takes a hundred bytes while it is read."""
MAX_ROW_ELEMENTS = 150_000
"""XML elements of one row: nine for each of the columns that Excel has."""
MEDIA_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"

_PIECE_BYTES = 1 << 20
_ROW = re.compile(rb"<(?:[A-Za-z0-9]{1,16}:)?row[\s/>]")
_ROW_MARK_BYTES = 24
"""Longest that ``_ROW`` finds, and some more: so much of a piece is looked at again with the next. [B]"""

_T = TypeVar("_T")

Cell = str | int | float | bool | datetime | date | time | None


@dataclass(frozen=True, slots=True)
class SheetRow:
    """One row that is not empty."""

    number: int
    """As Excel shows it, counted from 1."""
    cells: Mapping[str, Cell]
    """By the heading of the column; empty cells are absent."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A sheet whose first row names its columns."""

    title: str
    columns: Sequence[str]
    rows: Sequence[SheetRow]


@dataclass(frozen=True, slots=True)
class Grid:
    """A sheet as it stands, whatever its first rows are."""

    title: str
    rows: Sequence[tuple[int, Sequence[Cell]]]
    """Number as Excel shows it, and the cells from the first column on; empty rows are left out."""


def read_workbook(body: bytes, source: str) -> list[Sheet]:
    """Return the sheets of a workbook; empty ones are left out.

    Raises:
        InvalidFile: It is no workbook, is too large, or a sheet has no usable headings.
    """
    return _opened(body, source, _sheets)


def read_grid(
    body: bytes,
    source: str,
    *,
    is_wanted: Callable[[Sequence[tuple[int, Sequence[Cell]]]], bool],
    look_at: int,
    max_rows: int,
    max_columns: int,
    max_unpacked: int | None = None,
) -> Grid | None:
    """Return the first sheet that is wanted, row by row; None when no sheet is.

    Args:
        body: The workbook.
        source: Its name, for errors.
        is_wanted: Asked with the first rows of each sheet.
        look_at: How many those are.
        max_rows: Of the sheet, empty ones left out.
        max_columns: Of the sheet.
        max_unpacked: All parts of the workbook together; ``MAX_UNPACKED_BYTES`` unless given. [B]

    Raises:
        InvalidFile: It is no workbook, or is too large.
    """

    def found(pages: Iterable[object], source: str) -> Iterator[Grid]:
        walked = cells = 0
        for page in pages:
            rows: list[tuple[int, Sequence[Cell]]] = []
            wide = False
            for number, values in _lines(page):
                walked, cells = walked + 1, cells + len(values)
                if walked > MAX_ROW_NUMBER or cells > MAX_CELLS:
                    raise unusable(source, f"no row behind {MAX_ROW_NUMBER}, and fewer than {MAX_CELLS} cells",
                                   f"行号不超过 {MAX_ROW_NUMBER},单元格不超过 {MAX_CELLS}")  # fmt: skip
                if all(value is None or value == "" for value in values):
                    continue
                wide = wide or any(value is not None for value in values[max_columns:])
                found_here = [None if value is None or value == "" else _plain(value) for value in values[:max_columns]]
                rows.append((number, found_here))
                if len(rows) == look_at and not is_wanted(rows):
                    break
                if len(rows) > max_rows:
                    raise unusable(source, f"at most {max_rows} rows", f"不超过 {max_rows} 行")
            else:
                if rows and is_wanted(rows[:look_at]):
                    if wide:
                        raise unusable(source, f"at most {max_columns} columns", f"不超过 {max_columns} 列")
                    yield Grid(page.title, rows)  # type: ignore[attr-defined]  # has rows, so has a title
                    return

    return next(iter(_opened(body, source, found, max_unpacked)), None)


def _opened(
    body: bytes,
    source: str,
    read: Callable[[Iterable[object], str], Iterator[_T]],
    max_unpacked: int | None = None,
) -> list[_T]:
    import openpyxl

    _check_size(body, source, MAX_UNPACKED_BYTES if max_unpacked is None else max_unpacked)
    try:
        book = openpyxl.load_workbook(io.BytesIO(body), read_only=True, data_only=True, keep_links=False)
    except Exception as exc:  # openpyxl lets many kinds through: KeyError, ValueError, BadZipFile, ParseError …
        raise unusable(source, "an undamaged Excel workbook (.xlsx)", "完好的 Excel 工作簿(.xlsx)", exc) from exc
    try:
        return list(read(book.worksheets, source))
    except InvalidFile:
        raise
    except Exception as exc:  # the same for the sheets, which are read only now
        raise unusable(source, "an undamaged Excel workbook (.xlsx)", "完好的 Excel 工作簿(.xlsx)", exc) from exc
    finally:
        book.close()


def write_workbook(sheets: Iterable[Sheet], widths: Mapping[str, int] | None = None) -> bytes:
    """Return a workbook with a frozen, bold first row and a filter per sheet.

    Texts stay texts: an address with leading zeros is not made a number, and nothing becomes a formula.
    """
    import openpyxl
    from openpyxl.utils import get_column_letter

    from libs.common import workbook_cells as cells

    book = openpyxl.Workbook(write_only=True)
    for sheet in sheets:
        page = book.create_sheet(sheet.title)
        page.freeze_panes = "A2"
        for place, column in enumerate(sheet.columns, start=1):
            letter = get_column_letter(place)
            page.column_dimensions[letter].width = (widths or {}).get(column, max(12, min(len(column) + 4, 40)))
        page.auto_filter.ref = f"A1:{get_column_letter(max(len(sheet.columns), 1))}{len(sheet.rows) + 1}"
        page.append([cells.head(page, column) for column in sheet.columns])
        for row in sheet.rows:
            page.append([cells.cell(page, row.cells.get(column)) for column in sheet.columns])
    found = io.BytesIO()
    book.save(found)
    return found.getvalue()


def write_grid(title: str, heads: Sequence[Sequence[str]], rows: Iterable[Sequence[Cell]]) -> bytes:
    """Return a workbook of one sheet whose first rows are headings, frozen and bold; texts stay texts."""
    import openpyxl
    from openpyxl.utils import get_column_letter

    from libs.common import workbook_cells as cells

    book = openpyxl.Workbook(write_only=True)
    page = book.create_sheet(title)
    page.freeze_panes = f"A{len(heads) + 1}"
    for place in range(1, max(map(len, heads), default=0) + 1):
        page.column_dimensions[get_column_letter(place)].width = 16
    for head in heads:
        page.append([cells.head(page, text) for text in head])
    for row in rows:
        page.append([cells.cell(page, value) for value in row])
    found = io.BytesIO()
    book.save(found)
    return found.getvalue()


def unusable(source: str, expected: str, expected_zh: str, found: object = None) -> InvalidFile:
    """Return the error for a file that cannot be read at all."""
    problem = Problem(line=None, field="file", expected=expected, expected_zh=expected_zh, found=found)
    return InvalidFile(source, [problem])


def _check_size(body: bytes, source: str, most: int) -> None:
    """Look at what a workbook unpacks to before it is parsed.

    Raises:
        InvalidFile: It is no zip, or too much of it would be in memory at once.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            parts = archive.infolist()
            total = sum(part.file_size for part in parts)
            if total > most:
                raise unusable(source, f"at most {most} bytes when unpacked", f"解压后不超过 {most} 字节", total)
            for part in parts:
                with archive.open(part) as unpacked:
                    if not _is_bounded(iter(lambda: unpacked.read(_PIECE_BYTES), b"")):
                        raise unusable(
                            source, "a workbook without millions of cells in one row", "单行单元格数量合理的工作簿",
                            part.filename[:100],
                        )  # fmt: skip
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, RuntimeError, NotImplementedError) as exc:
        # Runtime: it is encrypted; not implemented: packed in a way that this Python does not know.
        raise unusable(source, "an undamaged Excel workbook (.xlsx)", "完好的 Excel 工作簿(.xlsx)", exc) from exc


def _is_bounded(pieces: Iterator[bytes]) -> bool:
    """Return whether neither what stands before the rows of a part nor any row has more elements than memory is for.

    The parser gives memory back at the end of each row, so what counts is the longest of them.
    """
    limit, elements, rest = MAX_ELEMENTS, 0, b""
    for piece in pieces:
        data = rest + piece
        # What could be the beginning of a mark that goes on in the next piece waits for it.
        whole = data.rfind(b"<", max(len(data) - _ROW_MARK_BYTES, 0))
        data, rest = (data, b"") if whole < 0 else (data[:whole], data[whole:])
        at = 0
        for mark in _ROW.finditer(data):
            if elements + data.count(b"<", at, mark.start()) > limit:
                return False
            limit, elements, at = MAX_ROW_ELEMENTS, 0, mark.start()
        elements += data.count(b"<", at)
        if elements > limit:
            return False
    return True


def _sheets(pages: Iterable[object], source: str) -> Iterator[Sheet]:
    left, walked = MAX_ROWS, 0
    for page in pages:
        if not hasattr(page, "iter_rows"):
            continue  # a chart on a sheet of its own
        # Programs other than Excel write sizes that are wrong; rows beyond one would be lost without a word.
        page.reset_dimensions()  # type: ignore[attr-defined]  # has rows, and was opened for reading only
        lines = page.iter_rows(values_only=True, max_col=MAX_COLUMNS)
        head = next(lines, None)
        if head is None or all(value is None for value in head):
            continue
        columns = _columns(head, source, page.title)  # type: ignore[attr-defined]  # has rows, so has a title
        rows: list[SheetRow] = []
        for number, values in enumerate(lines, start=2):
            walked += 1
            if walked > MAX_ROW_NUMBER:
                raise unusable(source, f"no row behind {MAX_ROW_NUMBER}", f"行号不超过 {MAX_ROW_NUMBER}")
            if values.count(None) == len(values):
                continue
            cells = {
                column: _plain(value)
                for column, value in zip(columns, values, strict=False)
                if column and value is not None and value != ""
            }
            if not cells:
                continue
            left -= 1
            if left < 0:
                raise unusable(source, f"at most {MAX_ROWS} rows", f"不超过 {MAX_ROWS} 行")
            rows.append(SheetRow(number, cells))
        yield Sheet(page.title, [column for column in columns if column], rows)  # type: ignore[attr-defined]


def _lines(page: object) -> Iterator[tuple[int, Sequence[object]]]:
    """Yield the number of each row and its cells; nothing of a chart on a sheet of its own."""
    if hasattr(page, "iter_rows"):
        # Programs other than Excel write sizes that are wrong; rows beyond one would be lost without a word.
        page.reset_dimensions()  # type: ignore[attr-defined]  # has rows, and was opened for reading only
        yield from enumerate(page.iter_rows(values_only=True), start=1)


def _columns(head: Sequence[object], source: str, title: str) -> list[str]:
    columns = ["" if value is None else str(value).strip() for value in head]
    twice = next((name for name in columns if name and columns.count(name) > 1), None)
    if twice is not None:
        problem = Problem(
            line=1, field=title, expected=f"each heading once; {twice} stands twice",
            expected_zh=f"每个列名只出现一次,{twice} 重复",
        )  # fmt: skip
        raise InvalidFile(source, [problem])
    return columns


def _plain(value: object) -> Cell:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)  # Excel knows no integers
    if isinstance(value, str):
        return value.strip()
    return value if isinstance(value, bool | int | float | datetime | date | time) else str(value)
