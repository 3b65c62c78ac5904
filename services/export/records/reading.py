"""Files of records: CSV (UTF-8 or GB 18030) or an Excel workbook, a row per record, columns as in our own files.

Nothing is understood here: a cell becomes a text or a number, a time of Excel, which knows no offset, a civil one.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from typing import Any

from libs.common import workbook
from libs.common.clock import CIVIL_ZONE
from libs.common.errors import InvalidFile, Problem
from libs.common.workbook import Cell, unusable

MAX_FILE_BYTES = 16 << 20
"""A day of quarter hours of some hundred meters. [B]"""
MAX_ROWS = 20_000
"""Of one delivery."""
MAX_COLUMNS = 40
Fields = tuple[int, Mapping[str, Any]]
"""Line, counted from 1 as an editor or Excel shows it, and what stands there by column."""


def read_file(body: bytes, source: str) -> list[Fields]:
    """Return the rows of a file.

    Raises:
        InvalidFile: It is none, too large, or has no headings or rows.
    """
    if len(body) > MAX_FILE_BYTES:
        raise unusable(source, f"at most {MAX_FILE_BYTES} bytes", f"不超过 {MAX_FILE_BYTES} 字节", len(body))
    found = _workbook(body, source) if body.startswith(workbook.MAGIC) else _csv(body, source)
    if not found:
        raise unusable(source, "at least one row below the headings", "标题行以下至少一行数据")
    if len(found) > MAX_ROWS:
        raise unusable(source, f"at most {MAX_ROWS} rows", f"不超过 {MAX_ROWS} 行", len(found))
    return found


def _workbook(body: bytes, source: str) -> list[Fields]:
    sheets = workbook.read_workbook(body, source)
    wanted = [sheet for sheet in sheets if {"table", "subject"} <= set(sheet.columns)]
    if len(wanted) != 1:
        raise unusable(
            source,
            "one sheet with the columns table and subject",
            "恰有一个含 table 与 subject 列的工作表",
            len(wanted),
        )
    return [
        (row.number, {name: _plain(cell) for name, cell in row.cells.items()}) for row in wanted[0].rows if row.cells
    ]


def _plain(cell: Cell) -> str | int | float | bool | None:
    match cell:
        case datetime():
            return (cell if cell.tzinfo is not None else cell.replace(tzinfo=CIVIL_ZONE)).isoformat()
        case date() | time():
            return cell.isoformat()
        case _:
            return cell


def _csv(body: bytes, source: str) -> list[Fields]:
    text = _decoded(body, source)
    if "\x00" in text:
        raise unusable(source, "text without NUL", "不含 NUL 的文本")
    reader = csv.reader(io.StringIO(text, newline=""))
    columns: Sequence[str] = ()
    found: list[Fields] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return found
        except csv.Error as exc:
            problem = Problem(line=line, field="row", expected=f"a row of CSV ({exc})", expected_zh="合法的 CSV 行")
            raise InvalidFile(source, [problem]) from exc
        if not any(cell.strip() for cell in cells):
            continue
        if not columns:
            columns = [cell.strip() for cell in cells]
            _check_columns(columns, source)
        elif len(cells) > len(columns):
            found.append((line, {"": f"{len(cells)} cells"}))  # refused with the others, by its line
        else:
            found.append((line, dict(zip(columns, cells, strict=False))))
        if len(found) > MAX_ROWS:
            return found


def _check_columns(columns: Sequence[str], source: str) -> None:
    if len(columns) > MAX_COLUMNS or len(set(columns)) != len(columns) or not {"table", "subject"} <= set(columns):
        raise unusable(
            source, "headings with table and subject, each once", "标题行含 table 与 subject,各列名不重复", columns[:5]
        )


def _decoded(body: bytes, source: str) -> str:
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            return body.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise unusable(source, "text in UTF-8 or GB 18030, or an Excel workbook", "UTF-8 或 GB 18030 文本,或 Excel 工作簿")
