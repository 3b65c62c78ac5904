"""Readings as a Parquet file: the columns of ``files/table.py``, read a part at a time."""

import io
from collections.abc import Iterator, Mapping
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
from polars.exceptions import PolarsError

from services.ingest.files.table import TableRow, sheet_reports
from services.ingest.files.workbook import unusable

MAGIC = b"PAR1"
ROWS_AT_A_TIME = 100_000
"""A row group is decoded anew for each part of it, so that parts are not small."""
DICTS_AT_A_TIME = 2_000


def parquet_reports(body: bytes, source: str, zone: ZoneInfo | None) -> Iterator[TableRow]:
    """Return the reports of a Parquet file; rows are counted from 1.

    Args:
        body: The file.
        source: Its name.
        zone: Of times without an offset; without it they are refused, not guessed.

    Raises:
        InvalidFile: It is damaged, or its columns cannot be used. Damage behind the columns shows while it is read.
    """
    try:
        columns = list(pl.read_parquet_schema(io.BytesIO(body)))
    except (PolarsError, OSError) as exc:
        raise _damaged(source, exc) from exc
    return sheet_reports(columns, _rows(body, source), source, zone)


def _rows(body: bytes, source: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    frame = pl.scan_parquet(io.BytesIO(body))
    begin = 0
    while True:
        try:
            part = frame.slice(begin, ROWS_AT_A_TIME).collect()
        except (PolarsError, OSError) as exc:
            raise _damaged(source, exc) from exc
        for rows in part.iter_slices(DICTS_AT_A_TIME):
            yield from enumerate(rows.to_dicts(), begin + 1)
            begin += rows.height
        if part.height < ROWS_AT_A_TIME:
            return


def _damaged(source: str, exc: Exception) -> Exception:
    return unusable(source, "an undamaged Parquet file", "完好的 Parquet 文件", str(exc)[:200])
