"""The signal table as a file: Excel or CSV in, within bounds, and out again with every heading and cell as it stood."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time

from libs.common import workbook
from libs.common.errors import InvalidFile
from libs.common.workbook import Cell, unusable
from services.alarm.domain.model import CLASSES, Signal, SignalKind
from services.alarm.domain.signal_table import Column, Layout, Meaning, columns_of

MAX_TABLE_BYTES = 4 << 20
"""A table of a province has some thousand rows. [B]"""
MAX_UNPACKED_BYTES = 64 << 20
"""The same as a workbook, unpacked. [B]"""
MAX_TABLE_ROWS = 5_000
MAX_TABLE_COLUMNS = 100
MAX_CELL_CHARS = 2_000
HEADINGS_WITHIN = 10
"""The row of headings is among so many first ones."""
EXACT = 2**53
"""Whole numbers below it are what they seem."""
EXCEL_DIGITS = 15
"""Of a number in a workbook; one with more is written as a text."""
ENCODINGS = ("utf-8-sig", "gb18030")
"""In the order in which they are tried: Chinese Excel writes the second."""
DELIMITERS = ",;\t"
NUMBERS = frozenset(
    {Meaning.LEVEL, Meaning.THRESHOLD, Meaning.START, Meaning.END, Meaning.PERIOD_S, Meaning.PERIOD_MIN,
     Meaning.ABSOLUTE}
)  # fmt: skip
"""Columns that a workbook has as numbers, where they are."""

_WORDS: Mapping[SignalKind, str] = {
    SignalKind.AI: "遥测", SignalKind.DI: "遥信", SignalKind.DO: "遥控", SignalKind.AO: "遥调",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class FileRow:
    """A signal as the file has it."""

    line: int
    """Counted from 1."""
    cells: Mapping[str, str]
    """By the key of the column; empty cells are absent."""


@dataclass(frozen=True, slots=True)
class TableFile:
    """A table as the file has it."""

    layout: Layout
    rows: Sequence[FileRow]


def read_table(body: bytes, source: str) -> TableFile:
    """Return a table from a workbook's first sheet that is one, or from CSV.

    Raises:
        InvalidFile: It is neither, too large, or has no headings.
    """
    if len(body) > MAX_TABLE_BYTES:
        raise unusable(source, f"at most {MAX_TABLE_BYTES} bytes", f"不超过 {MAX_TABLE_BYTES} 字节", len(body))
    if body.startswith(workbook.MAGIC):
        rows = _workbook_rows(body, source)
    else:
        rows = _csv_rows(body, source)
    found = _heading(rows)
    if found is not None:
        return _table(rows, found, source)
    raise unusable(
        source,
        f"headings with {_short(Meaning.NAME)} and {Meaning.CATEGORY} in the first {HEADINGS_WITHIN} rows",
        f"前 {HEADINGS_WITHIN} 行内有包含“{_short(Meaning.NAME)}”与“{Meaning.CATEGORY}”的表头",
    )


def write_csv(layout: Layout, rows: Iterable[Mapping[str, str]]) -> bytes:
    """Return a table as CSV in UTF-8 with a byte order mark, by which Excel knows the encoding."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerows(_heads(layout))
    writer.writerows([cells.get(column.key, "") for column in layout.columns] for cells in rows)
    return text.getvalue().encode("utf-8-sig")


def write_xlsx(layout: Layout, rows: Iterable[Mapping[str, str]], title: str) -> bytes:
    """Return a table as a workbook of one sheet."""
    return workbook.write_grid(
        title, _heads(layout), ([_cell(column, cells) for column in layout.columns] for cells in rows)
    )


def plain_layout() -> Layout:
    """Return the layout of a table that no file gave one: everything that the platform reads, per class."""
    titles: list[str] = []
    for meaning in Meaning:
        if meaning in (Meaning.LEVEL, Meaning.THRESHOLD):
            titles += [f"{meaning}{name}" for name in CLASSES]
        elif meaning is not Meaning.PERIOD_MIN and meaning is not Meaning.MONITORED:
            titles.append(meaning.value)
    return Layout(columns_of(titles), (tuple(titles),))


def plain_cells(signal: Signal, layout: Layout) -> dict[str, str]:
    """Return the cells of a signal that no file gave any, in the layout's columns."""
    found = {column.key: _written(signal, column) for column in layout.columns if column.meaning is not None}
    return {key: text for key, text in found.items() if text}


def _written(signal: Signal, column: Column) -> str:
    match column.meaning:
        case Meaning.NAME:
            return signal.name_zh
        case Meaning.CATEGORY:
            return "阈值" if signal.kind is SignalKind.DI and signal.unit else _WORDS[signal.kind]
        case Meaning.ALARM:
            return signal.alarm_text_zh or ""
        case Meaning.NORMAL:
            return signal.normal_text_zh or ""
        case Meaning.UNIT:
            return signal.unit or ""
        case Meaning.DEVICE:
            return signal.equipment_zh
        case Meaning.LEVEL:
            return _of_class(signal.levels, column)
        case Meaning.THRESHOLD:
            return _of_class(signal.thresholds, column)
        case Meaning.START:
            return _number(signal.start_delay_s)
        case Meaning.END:
            return _number(signal.end_delay_s)
        case Meaning.PERIOD_S:
            return _number(signal.period_s)
        case Meaning.PERIOD_MIN:
            return _number(None if signal.period_s is None else signal.period_s / 60)
        case Meaning.ABSOLUTE:
            return _number(signal.absolute_change)
        case Meaning.REQUIRED:
            return "是" if signal.required else "否"
        case Meaning.CODE:
            return signal.code
        case Meaning.NAME_EN:
            return signal.name_en
        case Meaning.POINTS:
            return " ".join(signal.points)
        case Meaning.TYPE:
            return signal.equipment_type
        case Meaning.NOTE:
            return signal.note or ""
        case _:
            return ""


def _of_class(values: Mapping[str, float], column: Column) -> str:
    if column.station_class is not None:
        return _number(values.get(column.station_class))
    one = {values.get(name) for name in CLASSES}
    return _number(one.pop()) if len(one) == 1 else ""


def _number(value: float | None) -> str:
    if value is None:
        return ""
    number = float(value)
    return str(int(number)) if number.is_integer() and abs(number) < EXACT else repr(number)


def _heads(layout: Layout) -> list[list[str]]:
    width = len(layout.columns)
    return [[*head, *[""] * (width - len(head))] for head in layout.heads]


def _cell(column: Column, cells: Mapping[str, str]) -> Cell:
    text = cells.get(column.key)
    if text is not None and column.meaning in NUMBERS:
        try:
            number = float(text)
        except ValueError:
            return text
        if number.is_integer() and abs(number) < EXACT and text == str(int(number)):
            return int(number)
        exact = math.isfinite(number) and float(f"{number:.{EXCEL_DIGITS}g}") == number
        return number if exact and text == repr(number) else text  # 0.10 stays as it was written
    return text


def _text(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "1" if cell else "0"
    if isinstance(cell, datetime):
        return cell.date().isoformat() if cell.time() == time() else cell.isoformat(" ")
    return cell.isoformat() if isinstance(cell, date | time) else str(cell).strip()


def _workbook_rows(body: bytes, source: str) -> list[tuple[int, list[str]]]:
    """Return the rows of the first sheet that is a table, none when no sheet is one."""
    grid = workbook.read_grid(
        body,
        source,
        is_wanted=lambda rows: _heading(_texts(rows)) is not None,
        look_at=HEADINGS_WITHIN,
        max_rows=MAX_TABLE_ROWS + HEADINGS_WITHIN + 1,
        max_columns=MAX_TABLE_COLUMNS,
        max_unpacked=MAX_UNPACKED_BYTES,
    )
    return [] if grid is None else _texts(grid.rows)


def _texts(rows: Sequence[tuple[int, Sequence[Cell]]]) -> list[tuple[int, list[str]]]:
    return [(number, [_text(cell) for cell in cells]) for number, cells in rows]


def _csv_rows(body: bytes, source: str) -> list[tuple[int, list[str]]]:
    for encoding in ENCODINGS:
        try:
            text = body.decode(encoding)
        except UnicodeDecodeError:
            continue
        break
    else:
        raise unusable(source, "an Excel workbook (.xlsx), or CSV in UTF-8 or GB 18030",
                       "Excel 工作簿(.xlsx),或 UTF-8、GB 18030 编码的 CSV")  # fmt: skip
    if "\x00" in text:
        raise unusable(source, "an Excel workbook (.xlsx) or CSV", "Excel 工作簿(.xlsx)或 CSV")
    head = "\n".join(text.splitlines()[:HEADINGS_WITHIN])
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(DELIMITERS, key=head.count))
    rows: list[tuple[int, list[str]]] = []
    first = 1
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append((first, [cell.strip() for cell in row]))
                if len(rows) > MAX_TABLE_ROWS + HEADINGS_WITHIN + 1:
                    raise _too_many(source)
            first = reader.line_num + 1
    except csv.Error as exc:
        raise unusable(source, "rows of CSV", "合法的 CSV 行", f"{first}: {exc}") from exc
    return rows


def _heading(rows: Sequence[tuple[int, Sequence[str]]]) -> int | None:
    """Return which row names the columns."""
    for place, (_, cells) in enumerate(rows[:HEADINGS_WITHIN]):
        meanings = {column.meaning for column in columns_of(cells[:MAX_TABLE_COLUMNS])}
        if {Meaning.NAME, Meaning.CATEGORY} <= meanings:
            return place
    return None


def _table(rows: Sequence[tuple[int, Sequence[str]]], heading: int, source: str) -> TableFile:
    width = max(_width(cells) for _, cells in rows)
    if width > MAX_TABLE_COLUMNS:
        raise unusable(source, f"at most {MAX_TABLE_COLUMNS} columns", f"不超过 {MAX_TABLE_COLUMNS} 列", width)
    titles = [*rows[heading][1], *[""] * width][:width]
    columns = columns_of(titles)
    name = next(place for place, column in enumerate(columns) if column.meaning is Meaning.NAME)
    first = heading + 1
    if first < len(rows) and _is_heading(rows[first][1], name):
        first += 1  # the names of the same columns in the interface (SPName …)
    signals = rows[first:]
    if len(signals) > MAX_TABLE_ROWS:
        raise _too_many(source)
    heads = tuple(tuple([*cells, *[""] * width][:width]) for _, cells in rows[:first])
    found: list[FileRow] = []
    for line, cells in signals:
        longest = max(map(len, cells))
        if longest > MAX_CELL_CHARS:
            what, what_zh = f"cells of at most {MAX_CELL_CHARS} characters", f"单元格不超过 {MAX_CELL_CHARS} 个字符"
            raise unusable(source, what, what_zh, f"{line}: {longest}")
        found.append(FileRow(line, {column.key: text for column, text in zip(columns, cells, strict=False) if text}))
    return TableFile(Layout(columns, heads), found)


def _too_many(source: str) -> InvalidFile:
    return unusable(source, f"at most {MAX_TABLE_ROWS} rows", f"不超过 {MAX_TABLE_ROWS} 行")


def _width(cells: Sequence[str]) -> int:
    return max((place for place, cell in enumerate(cells, start=1) if cell), default=0)


def _is_heading(cells: Sequence[str], name: int) -> bool:
    column = columns_of(cells[name : name + 1])
    return bool(column) and column[0].meaning is Meaning.NAME


def _short(meaning: Meaning) -> str:
    return meaning.partition("（")[0]
