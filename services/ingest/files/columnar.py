"""Readings as a Parquet file: the columns of ``files/table.py``, read a part at a time.

A few kilobytes of Parquet can unfold to any number of rows and to texts of any length, so both are bounded before
anything of it becomes an object.
"""

import io
from collections.abc import Iterator, Mapping
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
from polars.exceptions import PanicException, PolarsError

from libs.common.errors import InvalidFile
from libs.common.workbook import unusable
from services.ingest.files.table import TableRow, sheet_reports

MAGIC = b"PAR1"
MAX_ROWS = 10_000_000
"""Of one file; more come in parts."""
MAX_COLUMNS = 600
MAX_TEXT_CHARS = 300
"""No device, time or point is longer; what is cut there is refused for what is left."""
CELLS_AT_A_TIME = 1_000_000
"""A row group is decoded anew for each part of it, so that parts are not small."""
DICTS_AT_A_TIME = 2_000
DAMAGE = (PolarsError, PanicException, OSError)
"""What polars raises for a damaged file; its second is no ``Exception``."""


def parquet_reports(body: bytes, source: str, zone: ZoneInfo | None) -> Iterator[TableRow]:
    """Return the reports of a Parquet file; rows are counted from 1.

    Args:
        body: The file.
        source: Its name.
        zone: Of times without an offset; without it they are refused, not guessed.

    Raises:
        InvalidFile: It is damaged, too large, or its columns cannot be used. Damage behind the columns shows while it
            is read.
    """
    try:
        frame = pl.scan_parquet(io.BytesIO(body))
        schema = frame.collect_schema()
        rows = int(frame.select(pl.len()).collect().item())
    except DAMAGE as exc:
        raise _damaged(source, exc) from exc
    if rows > MAX_ROWS:
        raise unusable(source, f"at most {MAX_ROWS} rows", f"不超过 {MAX_ROWS} 行", rows)
    if len(schema) > MAX_COLUMNS:
        raise unusable(source, f"at most {MAX_COLUMNS} columns", f"不超过 {MAX_COLUMNS} 列", len(schema))
    plain = frame.select(_plain(name, kind, source) for name, kind in schema.items())
    return sheet_reports(schema.names(), _rows(plain, rows, len(schema), source), source, zone)


def _plain(name: str, kind: pl.DataType, source: str) -> pl.Expr:
    """Return a column as texts, times or numbers. Raises ``InvalidFile`` where it holds something else."""
    column = pl.col(name)
    if kind == pl.String:
        return column.str.head(MAX_TEXT_CHARS)
    if isinstance(kind, pl.Categorical | pl.Enum):
        return column.cast(pl.String).str.head(MAX_TEXT_CHARS)
    if isinstance(kind, pl.Decimal):
        return column.cast(pl.Float64)
    if isinstance(kind, pl.Datetime):
        # As text: Parquet has years that Python has not, and one of them must not spoil its neighbours.
        return column.dt.cast_time_unit("us").dt.to_string("iso:strict")
    if kind.is_numeric() or isinstance(kind, pl.Boolean | pl.Null):
        return column
    raise unusable(source, f"{name}: texts, times or numbers", f"{name} 列应为文本、时间或数值", kind)


def _rows(frame: pl.LazyFrame, total: int, columns: int, source: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    at_a_time = max(CELLS_AT_A_TIME // max(columns, 1), 1)
    for begin in range(0, total, at_a_time):
        try:
            part = frame.slice(begin, at_a_time).collect()
        except DAMAGE as exc:
            raise _damaged(source, exc) from exc
        number = begin
        for rows in part.iter_slices(DICTS_AT_A_TIME):
            yield from enumerate(rows.to_dicts(), number + 1)
            number += rows.height


def _damaged(source: str, exc: BaseException) -> InvalidFile:
    return unusable(source, "an undamaged Parquet file", "完好的 Parquet 文件", str(exc)[:200])
