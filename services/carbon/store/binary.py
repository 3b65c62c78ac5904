"""Rows of ``COPY … (format binary)`` as arrays: rows by the hundred thousand are never Python objects.

Source:
    PostgreSQL manual, COPY, file formats, binary format. All columns have a fixed length here and none is null.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from libs.common.db import ReadConn, WriteConn

_HEADER = 19
"""Signature (11), flags (4) and length of the extension (4), which is always 0. [bytes]"""
_TRAILER = 2
_EPOCH_US = 946_684_800_000_000
"""PostgreSQL counts from 2000-01-01. [us since 1970]"""

Rows = NDArray[np.void]


def row_type(*columns: tuple[str, str]) -> np.dtype[np.void]:
    """Return the layout of rows whose columns are (name, numpy type in network order)."""
    fields: list[tuple[str, str]] = [("fields", ">i2")]
    for name, kind in columns:
        fields += [(f"{name}_length", ">i4"), (name, kind)]
    return np.dtype(fields)


async def copy_rows(conn: ReadConn | WriteConn, rows: np.dtype[np.void], query: str, *args: Any) -> Rows:
    """Return what a query selects; its columns are those of ``rows``, in their order, and never null."""
    received = bytearray()

    async def take(chunk: bytes) -> None:
        received.extend(chunk)

    await conn.copy_from_query(query, *args, output=take, format="binary")
    count = (len(received) - _HEADER - _TRAILER) // rows.itemsize
    return np.frombuffer(received, dtype=rows, offset=_HEADER, count=count)


def seconds(times: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return times of the binary format. [s since the epoch]"""
    return (times.astype(np.int64) + _EPOCH_US) / 1e6


def grouped(rows: Rows, by: str, then: str, groups: int) -> tuple[Rows, NDArray[np.int64]]:
    """Return rows in the order of their groups, and where each group begins and the last one ends.

    Args:
        rows: Of which ``by`` counts from 1 on.
        by: The column with the number of the group.
        then: The column to sort each group by.
        groups: How many groups there are.
    """
    numbers = rows[by].astype(np.int64)
    order = np.lexsort((rows[then].astype(np.int64), numbers))
    return rows[order], np.searchsorted(numbers[order], np.arange(1, groups + 2))
