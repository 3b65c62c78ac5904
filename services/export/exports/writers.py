"""Rows become a file, batch by batch: what is in memory is one batch, however large the file gets.

The same columns and rows give, by format:

    csv      RFC 4180 in UTF-8 without a mark of order; times in the plan's civil time with offset; missing is empty
    xlsx     numbers as numbers, civil times without offset; a further sheet where one is full; units on the last sheet
    parquet  times as instants in UTC, compressed with zstd
    xml      <export><columns><column key unit/>…</columns><row><key>value</key>…</row>…</export>; missing is absent

A text that begins like a formula is not one: in xlsx it is stored as text, in csv an apostrophe stands before it.
"""

import math
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import date, datetime
from pathlib import Path
from typing import Any, BinaryIO, Self
from zoneinfo import ZoneInfo

import openpyxl
import polars as pl
from lxml import etree
from openpyxl.cell import WriteOnlyCell
from openpyxl.worksheet._write_only import WriteOnlyWorksheet

from services.export.domain.exports import Column, ColumnKind, FileForm, Row, Value

SHEET_ROWS = 1_048_576
"""Of one sheet in Excel, its head among them."""
CELL_MAX = 32_767
"""Characters of one cell in Excel."""
PART_ROWS = 50_000
"""Rows of a row group in Parquet."""
FORMULA_START = r"^[=+\-@\t\r]"
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_TYPES: Mapping[ColumnKind, type[pl.DataType] | pl.DataType] = {
    ColumnKind.TEXT: pl.String,
    ColumnKind.NUMBER: pl.Float64,
    ColumnKind.COUNT: pl.Int64,
    ColumnKind.TIME: pl.Datetime("us", "UTC"),
    ColumnKind.DAY: pl.Date,
    ColumnKind.FLAG: pl.Boolean,
}


class FileWriter(ABC):
    """Writes one file; blocking, so it is called in a thread. The file is whole once the context has ended well."""

    def __init__(self, path: Path, columns: Sequence[Column], zone: ZoneInfo) -> None:
        self.path = path
        self.columns = tuple(columns)
        self.zone = zone
        self.rows = 0

    def __enter__(self) -> Self:
        """Begin the file."""
        self._begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End it, or let go of what is open."""
        self._end(whole=kind is None)

    def add(self, rows: Sequence[Row]) -> None:
        """Write rows; a column that a row lacks is missing there."""
        if rows:
            self._add(rows)
            self.rows += len(rows)

    @abstractmethod
    def _begin(self) -> None: ...

    @abstractmethod
    def _add(self, rows: Sequence[Row]) -> None: ...

    @abstractmethod
    def _end(self, *, whole: bool) -> None: ...

    def _frame(self, rows: Sequence[Row]) -> pl.DataFrame:
        series = []
        for column in self.columns:
            values = [_finite(row.get(column.key)) for row in rows]
            series.append(pl.Series(column.key, values, dtype=_TYPES[column.kind]))
        return pl.DataFrame(series)

    def _shown(self, value: Value) -> str:
        match value:
            case bool():
                return "true" if value else "false"
            case datetime():
                return value.astimezone(self.zone).isoformat()
            case date():
                return value.isoformat()
            case _:
                return str(value)


class CsvWriter(FileWriter):
    """See the head of the module."""

    def _begin(self) -> None:
        self._file: BinaryIO = self.path.open("wb")
        self._frame([]).write_csv(self._file, include_header=True)

    def _add(self, rows: Sequence[Row]) -> None:
        frame = self._frame(rows)
        shown = []
        for column in self.columns:
            one = pl.col(column.key)
            if column.kind is ColumnKind.TEXT:
                guarded = pl.when(one.str.contains(FORMULA_START)).then(pl.lit("'") + one).otherwise(one)
                shown.append(guarded.alias(column.key))
            elif column.kind is ColumnKind.TIME:
                shown.append(one.dt.convert_time_zone(self.zone.key).dt.to_string("iso:strict"))
            else:
                shown.append(one)
        frame.select(shown).write_csv(self._file, include_header=False)

    def _end(self, *, whole: bool) -> None:
        self._file.close()


class ParquetWriter(FileWriter):
    """See the head of the module: parts beside the file, put together without having them in memory."""

    def _begin(self) -> None:
        self._folder = self.path.with_name(self.path.name + ".parts")
        self._folder.mkdir()
        self._waiting: list[Row] = []
        self._parts: list[Path] = []

    def _add(self, rows: Sequence[Row]) -> None:
        self._waiting += rows
        if len(self._waiting) >= PART_ROWS:
            self._flush()

    def _flush(self) -> None:
        part = self._folder / f"{len(self._parts):06}.parquet"
        self._frame(self._waiting).write_parquet(part, compression="zstd")
        self._parts.append(part)
        self._waiting = []

    def _end(self, *, whole: bool) -> None:
        try:
            if whole:
                if self._waiting or not self._parts:
                    self._flush()
                pl.scan_parquet(self._parts, glob=False).sink_parquet(self.path, compression="zstd")
        finally:
            shutil.rmtree(self._folder)


class ExcelWriter(FileWriter):
    """See the head of the module."""

    def _begin(self) -> None:
        self._book = openpyxl.Workbook(write_only=True)
        self._sheet = self._new_sheet()
        self._in_sheet = 1

    def _new_sheet(self) -> WriteOnlyWorksheet:
        sheet: WriteOnlyWorksheet = self._book.create_sheet(f"rows {len(self._book.worksheets) + 1}")
        sheet.freeze_panes = "A2"
        sheet.append([column.key for column in self.columns])
        return sheet

    def _add(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if self._in_sheet >= SHEET_ROWS:
                self._sheet, self._in_sheet = self._new_sheet(), 1
            self._sheet.append([self._cell(_finite(row.get(column.key))) for column in self.columns])
            self._in_sheet += 1

    def _cell(self, value: Value) -> Any:
        if isinstance(value, datetime):
            return value.astimezone(self.zone).replace(tzinfo=None)  # Excel knows no zones
        if not isinstance(value, str):
            return value
        plain = _NOT_XML.sub("", value)[:CELL_MAX]
        if not plain.startswith("="):
            return plain
        cell = WriteOnlyCell(self._sheet, plain)
        cell.data_type = "s"
        return cell

    def _end(self, *, whole: bool) -> None:
        if not whole:  # its temporary files go when it is saved, and not before
            self._book.save(self.path)
            self.path.unlink()
            return
        legend: WriteOnlyWorksheet = self._book.create_sheet("columns")
        legend.append(["key", "unit", "name_zh", "kind"])
        for column in self.columns:
            kind = f"{column.kind} ({self.zone.key})" if column.kind is ColumnKind.TIME else column.kind.value
            legend.append([column.key, column.unit, column.name_zh, kind])
        self._book.save(self.path)


class XmlWriter(FileWriter):
    """See the head of the module."""

    def _begin(self) -> None:
        self._stack = ExitStack()
        self._xml = self._stack.enter_context(etree.xmlfile(str(self.path), encoding="utf-8"))
        self._xml.write_declaration()
        self._stack.enter_context(self._xml.element("export"))
        with self._xml.element("columns"):
            for column in self.columns:
                facts = {"key": column.key, "kind": column.kind.value, "unit": column.unit, "name_zh": column.name_zh}
                self._xml.write(etree.Element("column", {key: value for key, value in facts.items() if value}))

    def _add(self, rows: Sequence[Row]) -> None:
        for row in rows:
            element = etree.Element("row")
            for column in self.columns:
                value = _finite(row.get(column.key))
                if value is not None:
                    etree.SubElement(element, column.key).text = _NOT_XML.sub("", self._shown(value))
            self._xml.write(element)

    def _end(self, *, whole: bool) -> None:
        self._stack.close()


def _finite(value: Value) -> Value:
    """Return a value, none for a number that is none: no format has one word for it."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


WRITERS: Mapping[FileForm, type[FileWriter]] = {
    FileForm.CSV: CsvWriter,
    FileForm.EXCEL: ExcelWriter,
    FileForm.PARQUET: ParquetWriter,
    FileForm.XML: XmlWriter,
}
