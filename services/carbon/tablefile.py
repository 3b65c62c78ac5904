"""Tables that people import: CSV or an Excel workbook in, rows of texts out; what cannot be read names its place."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import TypeVar

from libs.common import workbook
from libs.common.errors import InvalidFile, Problem
from libs.common.workbook import Cell, unusable

MAX_FILE_BYTES = 4 << 20
"""A month of bills of some thousand accounts. [B]"""
MAX_FILE_ROWS = 5_000
MAX_CELL_CHARS = 500
_MIDNIGHT = ("1 day, 0:00:00", "1900-01-01T00:00:00")
"""What Excel's 24:00 is read as."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FileRow:
    """One row that is not empty."""

    line: int
    """Counted from 1, as an editor or Excel shows it."""
    cells: Mapping[str, str]
    """By column; empty cells are absent."""


def read_rows(
    body: bytes,
    source: str,
    *,
    required: Sequence[str],
    optional: Sequence[str] | None = None,
    names: Mapping[str, str] | None = None,
) -> list[FileRow]:
    """Return the rows of a CSV file (UTF-8 or GB 18030) or of a workbook's first sheet.

    Args:
        body: The file.
        source: Its name, for messages.
        required: Columns that have to be there.
        optional: Columns that may be; any other is refused, so that nothing is left unread without a word. None
            lets other columns stand there for people.
        names: Other headings for the same columns, for example Chinese ones.

    Raises:
        InvalidFile: It is neither, too large, or its columns are not these.
    """
    if len(body) > MAX_FILE_BYTES:
        raise unusable(source, f"at most {MAX_FILE_BYTES} bytes", f"不超过 {MAX_FILE_BYTES} 字节", len(body))
    is_book = body.startswith(workbook.MAGIC)
    columns, rows = _workbook(body, source) if is_book else _csv(body, source)
    known = {name: (names or {}).get(name, name) for name in columns}
    _check_columns(list(known.values()), source, required, optional)
    found = [FileRow(row.line, {known[name]: text for name, text in row.cells.items()}) for row in rows if row.cells]
    if not found:
        raise unusable(source, "at least one row", "至少一行数据")
    if len(found) > MAX_FILE_ROWS:
        raise unusable(source, f"at most {MAX_FILE_ROWS} rows", f"不超过 {MAX_FILE_ROWS} 行", len(found))
    return found


class RowReader:
    """Reads the cells of one row and notes what cannot be read."""

    def __init__(self, row: FileRow) -> None:
        self._row = row
        self.problems: list[Problem] = []

    @property
    def line(self) -> int:
        """Where the row stands."""
        return self._row.line

    def has(self, name: str) -> bool:
        """Return whether a cell is filled in."""
        return name in self._row.cells

    def text(self, name: str) -> str:
        """Return a cell, which may not be empty."""
        return self.read(name, str, "", "a text", "文字")

    def number(self, name: str) -> Decimal:
        """Return a cell as an exact number."""
        return self.read(name, finite, Decimal(0), "a number", "数值")

    def day(self, name: str) -> date:
        """Return a cell as a date."""
        return self.read(name, day, date(2000, 1, 1), "a date as 2026-01-31", "日期,如 2026-01-31")

    def read(self, name: str, convert: Callable[[str], T], instead: T, expected: str, expected_zh: str) -> T:
        """Return a cell, or ``instead`` when it cannot be read."""
        text = self._row.cells.get(name, "")
        try:
            if text:
                return convert(text)
        except (ValueError, KeyError, InvalidOperation):
            pass
        self.wrong(name, expected, expected_zh)
        return instead

    def wrong(self, name: str, expected: str, expected_zh: str) -> None:
        """Note that a cell is not what was expected."""
        found = self._row.cells.get(name)
        self.problems.append(
            Problem(line=self.line, field=name, expected=expected, expected_zh=expected_zh, found=found)
        )


def finite(text: str) -> Decimal:
    """Return an exact number.

    Raises:
        ValueError: It is none, or has no end.
    """
    try:
        number = Decimal(text)
    except InvalidOperation as exc:
        raise ValueError(text) from exc
    if not number.is_finite() or abs(number.adjusted()) > 20:
        raise ValueError(text)
    return number


def day(text: str) -> date:
    """Return a date of our times.

    Raises:
        ValueError: It is none.
    """
    found = date.fromisoformat(text)
    if not 1990 <= found.year < 2200:
        raise ValueError(text)
    return found


def _check_columns(
    columns: Sequence[str], source: str, required: Sequence[str], optional: Sequence[str] | None
) -> None:
    missing = [name for name in required if name not in columns]
    if missing:
        listed = ", ".join(missing)
        raise InvalidFile(
            source,
            [Problem(line=1, field="columns", expected=f"columns {listed} too", expected_zh=f"还须有列 {listed}")],
        )
    strange = [] if optional is None else [name for name in columns if name not in (*required, *optional)]
    if strange or len(set(columns)) < len(columns):
        listed = ", ".join((*required, *(optional or ())))
        raise InvalidFile(
            source,
            [
                Problem(
                    line=1,
                    field="columns",
                    expected=f"each column once, of {listed}",
                    expected_zh=f"每列只出现一次,且为下列之一:{listed}",
                    found=", ".join(strange or columns),
                )
            ],
        )


def _csv(body: bytes, source: str) -> tuple[list[str], list[FileRow]]:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        try:
            text = body.decode("gb18030")
        except UnicodeDecodeError as exc:
            raise unusable(source, "text in UTF-8 or GB 18030", "UTF-8 或 GB 18030 编码的文本") from exc
    try:
        lines = csv.reader(io.StringIO(text, newline=""), strict=True)
        head = [name.strip() for name in next(lines, [])]
        rows = []
        for values in lines:
            if any(value.strip() for value in values[len(head) :]):
                problem = Problem(
                    line=lines.line_num, field="row", expected=f"at most {len(head)} cells",
                    expected_zh=f"不超过 {len(head)} 个单元格", found=len(values),
                )  # fmt: skip
                raise InvalidFile(source, [problem])
            cells = {name: value.strip() for name, value in zip(head, values, strict=False) if name and value.strip()}
            rows.append(FileRow(lines.line_num, _bounded(cells, lines.line_num, source)))
            if len(rows) > MAX_FILE_ROWS:
                break
    except csv.Error as exc:
        raise unusable(source, "CSV with a heading", "带表头的 CSV", exc) from exc
    return [name for name in head if name], rows


def _workbook(body: bytes, source: str) -> tuple[list[str], list[FileRow]]:
    sheets = workbook.read_workbook(body, source)
    if not sheets:
        raise unusable(source, "a sheet with a heading", "带表头的工作表")
    first = sheets[0]
    rows = [
        FileRow(
            row.number,
            _bounded({name: text for name, cell in row.cells.items() if (text := _text(cell))}, row.number, source),
        )
        for row in first.rows[: MAX_FILE_ROWS + 1]
    ]
    return list(first.columns), rows


def _bounded(cells: dict[str, str], line: int, source: str) -> dict[str, str]:
    for name, text in cells.items():
        if len(text) > MAX_CELL_CHARS or any(char < " " for char in text):
            problem = Problem(
                line=line, field=name, expected=f"at most {MAX_CELL_CHARS} characters of one line",
                expected_zh=f"不超过 {MAX_CELL_CHARS} 个字符,且不换行", found=text[:50],
            )  # fmt: skip
            raise InvalidFile(source, [problem])
    return cells


def _text(cell: Cell) -> str:
    """Return a cell of a workbook as a CSV would have it."""
    if isinstance(cell, datetime):
        text = cell.isoformat()
        return "24:00" if text in _MIDNIGHT else text.removesuffix("T00:00:00")
    if isinstance(cell, time):
        return cell.strftime("%H:%M")
    text = cell.isoformat() if isinstance(cell, date) else str(cell)
    return "24:00" if text in _MIDNIGHT else text.strip()
