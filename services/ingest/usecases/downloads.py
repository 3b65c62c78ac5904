"""The history as a file for others: reports of some devices as CSV, or as Parquet.

CSV is sent as it is read, a page at a time. A Parquet file has its index at the end and is made on disk first. Either
way only a page is in memory.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from libs.common.errors import InvalidInput
from libs.common.points import is_point_name
from services.ingest.domain.cold import ROW_GROUP
from services.ingest.store import frames
from services.ingest.usecases.readings import Readings

PAGE_REPORTS = 10_000
MAX_DEVICE_DAYS = 4000
"""At a report a minute that is 5.8 million reports."""
COLUMNS = ("device_id", "source_time", "received_at", "late", "moved", "quality")


class Downloads:
    """Makes files of the history."""

    def __init__(self, readings: Readings) -> None:
        self._readings = readings

    async def columns(self, devices: Sequence[str], points: Sequence[str] | None) -> list[str]:
        """Return the columns of a file: what is asked for, or every point that one of the devices ever reported.

        Raises:
            InvalidInput: What is asked for is no point.
        """
        if points is not None:
            for name in points:
                if not is_point_name(name):
                    raise InvalidInput(
                        f"points: expected names of points, found {name!r}", message_zh=f"points:{name!r} 不是测点名称"
                    )
            return [*COLUMNS, *dict.fromkeys(points)]
        found: set[str] = set()
        latest = await self._readings.latest(sites=None, devices=devices, after=None, limit=len(devices))
        for one in latest:
            found.update(one.points, one.older)
        return [*COLUMNS, *sorted(found)]

    async def csv(
        self, devices: Sequence[str], *, columns: Sequence[str], start: datetime, end: datetime
    ) -> AsyncIterator[bytes]:
        """Yield a CSV file in pieces: a head line, then reports by device and time, times in UTC.

        Raises:
            ColdUnavailable: Some reports lie in a file that cannot be read; what was sent so far is not the whole.
        """
        yield (",".join(columns) + "\n").encode()
        async for page in self._pages(devices, columns, start=start, end=end):
            yield await asyncio.to_thread(_csv, page)

    async def parquet(
        self, path: Path, devices: Sequence[str], *, columns: Sequence[str], start: datetime, end: datetime
    ) -> None:
        """Write a Parquet file, by device and time.

        Raises:
            ColdUnavailable: Some reports lie in a file that cannot be read.
        """
        with tempfile.TemporaryDirectory(prefix="wattring-download-") as folder:
            pieces = [Path(folder) / "000000.arrow"]
            await asyncio.to_thread(_empty(columns).write_ipc, pieces[0])
            async for page in self._pages(devices, columns, start=start, end=end):
                pieces.append(Path(folder) / f"{len(pieces):06d}.arrow")
                await asyncio.to_thread(page.write_ipc, pieces[-1])
            await asyncio.to_thread(_parquet, pieces, path)

    async def _pages(
        self, devices: Sequence[str], columns: Sequence[str], *, start: datetime, end: datetime
    ) -> AsyncIterator[pl.DataFrame]:
        points = [name for name in columns if name not in COLUMNS]
        for device_id in sorted(devices):
            after: datetime | None = None
            last = False
            while not last:
                frame, last = await self._readings.frame(
                    device_id, points=points, start=start, end=end, after=after, limit=PAGE_REPORTS
                )
                if frame.is_empty():
                    break
                after = frame["source_time"][-1]
                yield _shown(frame, columns)


def check_size(devices: Sequence[str], start: datetime, end: datetime) -> None:
    """Refuse what is too much for one file.

    Raises:
        InvalidInput: It is.
    """
    days = (end - start) / timedelta(days=1) * len(devices)
    if days > MAX_DEVICE_DAYS:
        raise InvalidInput(
            f"device, from, to: expected at most {MAX_DEVICE_DAYS} days over all devices, found {days:.0f}",
            message_zh=f"device、from、to:各设备天数合计最多 {MAX_DEVICE_DAYS},实际 {days:.0f}",
        )


@contextmanager
def temporary_file() -> Iterator[Path]:
    """Yield the path of a file that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="wattring-download-") as folder:
        yield Path(folder) / "readings.parquet"


def _shown(frame: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    points = [name for name in columns if name not in COLUMNS]
    frame = frames.with_points(frame, points).with_columns(
        (pl.col("source_time") + pl.duration(microseconds=pl.col("lag_us"))).alias("received_at"),
        # 230.1 and not 230.10000610351562.
        *[pl.Series(name, frames.matrix_of(frame, [name])[:, 0]).fill_nan(None) for name in points],
    )
    return frame.select(*columns)


def _empty(columns: Sequence[str]) -> pl.DataFrame:
    return _shown(pl.DataFrame(schema=frames.META), columns)


def _csv(page: pl.DataFrame) -> bytes:
    return page.write_csv(include_header=False, datetime_format="%Y-%m-%dT%H:%M:%S%.6fZ").encode()


def _parquet(pieces: Sequence[Path], path: Path) -> None:
    pl.concat([pl.scan_ipc(piece) for piece in pieces]).sink_parquet(
        path, compression="zstd", row_group_size=ROW_GROUP, maintain_order=True
    )
