"""Tables of a report for programs: CSV, Parquet and Arrow, every figure with its completeness, reason, marks and trace.

A figure column ``energy_kwh`` is followed by ``energy_kwh_completeness``, ``…_why``, ``…_marks`` and ``…_trace``.
Nothing is rounded. Times are UTC, days are dates.
"""

import io
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from enum import StrEnum

import polars as pl

from services.carbon.domain.reports.content import Cell, Column, ColumnKind, Language, Quantity, Table, Text

MARK_SEPARATOR = ";"
_TYPES: dict[ColumnKind, type[pl.DataType] | pl.DataType] = {
    ColumnKind.TEXT: pl.String,
    ColumnKind.DAY: pl.Date,
    ColumnKind.TIME: pl.Datetime("us", "UTC"),
    ColumnKind.COUNT: pl.Int64,
}
FORMULA_START = r"^[=+\-@\t\r]"
"""A text that begins with one of these would be a formula where a spreadsheet opens the CSV."""


class TableFormat(StrEnum):
    """What a table is handed out as."""

    CSV = "csv"
    PARQUET = "parquet"
    ARROW = "arrow"
    """Arrow IPC file (Feather version 2)."""

    @property
    def media_type(self) -> str:
        """As registered with IANA, or as its project says."""
        return {
            "csv": "text/csv; charset=utf-8",
            "parquet": "application/vnd.apache.parquet",
            "arrow": "application/vnd.apache.arrow.file",
        }[self.value]


def frame_of(table: Table, language: Language) -> pl.DataFrame:
    """Return a table as a frame; see the head of the module."""
    columns: list[pl.Series] = []
    for place, column in enumerate(table.columns):
        cells = [row[place] for row in table.rows]
        if column.kind is ColumnKind.FIGURE:
            columns += _figures(column, cells)
        else:
            values = [_plain(column, cell, language) for cell in cells]
            columns.append(pl.Series(column.key, values, dtype=_TYPES[column.kind]))
    return pl.DataFrame(columns)


def write_arrow(table: Table, language: Language) -> bytes:
    """Return a table as a compressed Arrow file, which ``convert`` makes the others of."""
    found = io.BytesIO()
    frame_of(table, language).write_ipc(found, compression="zstd")
    return found.getvalue()


def convert(body: bytes, form: TableFormat) -> bytes:
    """Return an Arrow file in another format: without Python in between, for it happens beside other requests."""
    if form is TableFormat.ARROW:
        return body
    frame = pl.read_ipc(io.BytesIO(body))
    found = io.BytesIO()
    if form is TableFormat.PARQUET:
        frame.write_parquet(found, compression="zstd")
        return found.getvalue()
    texts = [name for name, kind in frame.schema.items() if kind == pl.String]
    safe = frame.with_columns(_no_formula(name) for name in texts)
    # A mark of order at the start is how Excel knows that Chinese in a CSV is UTF-8.
    safe.write_csv(found, include_bom=True)
    return found.getvalue()


def _figures(column: Column, cells: Sequence[Cell]) -> list[pl.Series]:
    figures = [cell if isinstance(cell, Quantity) else None for cell in cells]

    def each(suffix: str, of: Callable[[Quantity], object], kind: type[pl.DataType]) -> pl.Series:
        values = [None if one is None else of(one) for one in figures]
        return pl.Series(f"{column.key}{suffix}", values, dtype=kind)

    return [
        each("", lambda one: one.value, pl.Float64),
        each("_completeness", lambda one: one.completeness, pl.Float64),
        each("_why", lambda one: one.why, pl.String),
        each("_marks", lambda one: MARK_SEPARATOR.join(one.marks), pl.String),
        each("_trace", lambda one: one.trace, pl.String),
    ]


def _plain(column: Column, cell: Cell, language: Language) -> str | int | date | datetime | None:
    match cell:
        case Text():
            return language.of(cell)
        case str() if column.kind is ColumnKind.DAY:
            return date.fromisoformat(cell)
        case str() if column.kind is ColumnKind.TIME:
            return datetime.fromisoformat(cell).astimezone(UTC)
        case str() | int() | None:
            return cell
    raise TypeError(f"column {column.key}: a figure where there is none")


def _no_formula(name: str) -> pl.Expr:
    text = pl.col(name)
    return pl.when(text.str.contains(FORMULA_START)).then(pl.lit("'") + text).otherwise(text).alias(name)
