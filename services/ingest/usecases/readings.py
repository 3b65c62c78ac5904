"""Questions to the history: what a device said, as it was or by buckets, and what all of a site say now.

A day lies in a partition of PostgreSQL, in a file, or, when late data have come for a cold day, in both.
"""

import asyncio
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import numpy as np
import orjson
import polars as pl

from libs.common.contracts.telemetry import Quality
from libs.common.db import Database, ReadConn
from services.ingest.domain.buckets import Bucket
from services.ingest.domain.corrections import takes_place_of, was_replaced_by
from services.ingest.domain.latest import OlderPoint
from services.ingest.domain.layout import Layout
from services.ingest.domain.series import Series, downsampled, joined, moment
from services.ingest.domain.stored import RowFlag
from services.ingest.store import frames
from services.ingest.store import history as store
from services.ingest.store.coldfiles import ColdFiles, ColdUnavailable, reading
from services.ingest.store.days import fetch_files_of_device
from services.ingest.store.frames import Block, Oddity, unpacked
from services.ingest.store.history import PackedBlock, Row, times_of

ROWS_AT_A_TIME = 10_000
"""Reports made into columns in one step: some milliseconds of the event loop."""


@dataclass(frozen=True, slots=True)
class StoredReading:
    """One report out of the history."""

    device_id: str
    source_time: datetime
    received_at: datetime
    driver: str
    profile: str | None
    ct_ratio: float | None
    pt_ratio: float | None
    energy_ratio: float | None
    points: Mapping[str, float | None]
    quality: Mapping[str, Quality]
    late: bool
    moved: bool
    site_id: str | None = None
    extra: Mapping[str, object] | None = None
    older: Mapping[str, OlderPoint] = field(default_factory=dict)
    """Of the latest report: the last values of points that it does not hold."""


class Readings:
    """Reads the history."""

    def __init__(self, db: Database, files: ColdFiles | None = None) -> None:
        self._db = db
        self._files = files
        self._layouts: dict[int, Layout] = {}

    async def latest(
        self, *, sites: Sequence[str] | None, devices: Sequence[str] | None, after: str | None, limit: int
    ) -> list[StoredReading]:
        """Return the last report of devices, and points that it lacks, by device id, from behind ``after``."""
        async with self._db.read() as conn:
            found = await store.fetch_latest(conn, site_ids=sites, device_ids=devices, after=after, limit=limit)
            await self._learn_layouts(conn, [latest.row.layout_no for latest in found])
        return [
            replace(reading, site_id=latest.site_id, older=latest.older)
            for latest in found
            for reading in self._decoded(latest.device_id, [latest.row], None)
        ]

    async def range(
        self,
        device_id: str,
        *,
        points: Sequence[str] | None,
        start: datetime,
        end: datetime,
        after: datetime | None,
        limit: int,
    ) -> list[StoredReading]:
        """Return a device's reports in ``[start, end)``, oldest first, from behind ``after``.

        Raises:
            ColdUnavailable: Some of them lie in a file that cannot be read.
        """
        # The partition first, then the files: a day that is moved in between is found twice, and taken once.
        async with self._db.read() as conn:
            rows = await store.fetch_range(conn, device_id, start=start, end=end, after=after, limit=limit)
            await self._learn_layouts(conn, [row.layout_no for row in rows])
        hot = self._decoded(device_id, rows, points)
        horizon = hot[-1].source_time if len(hot) == limit else None
        frame = await self._cold(device_id, points, start=start, end=end, after=after, upto=horizon, limit=limit)
        if frame is None:
            return hot
        cold = _readings_of(frame)
        if len(cold) == limit:  # what lies behind has not been looked at
            hot = [reading for reading in hot if reading.source_time <= cold[-1].source_time]
        return _taken_once(cold, hot)[:limit]

    async def buckets(
        self, device_id: str, *, points: Sequence[str] | None, start: datetime, end: datetime, bucket_s: int, limit: int
    ) -> list[Bucket]:
        """Return the buckets that hold reports in ``[start, end)``, at most ``limit``, oldest first.

        A bucket is complete or not there: the last one of a full page is followed by the next page.

        Raises:
            ColdUnavailable: Some reports lie in a file that cannot be read.
        """
        found: list[Bucket] = []
        after: datetime | None = None
        while True:
            series, last = await self._page(device_id, points, start=start, end=end, after=after)
            buckets = downsampled(series, bucket_s)
            if found and buckets and found[-1].start == buckets[0].start:  # it goes on from the page before
                found[-1] = found[-1].followed_by(buckets.pop(0))
            found += buckets
            if last or len(found) > limit:
                return found[:limit]
            after = moment(int(series.times[-1]))

    async def frame(
        self,
        device_id: str,
        *,
        points: Sequence[str] | None,
        start: datetime,
        end: datetime,
        after: datetime | None,
        limit: int,
    ) -> tuple[pl.DataFrame, bool]:
        """Return a device's reports as ``range`` does, as rows of a table (``store/frames.py``), and whether it is all.

        Raises:
            ColdUnavailable: Some of them lie in a file that cannot be read.
        """
        async with self._db.read() as conn:
            blocks = await store.fetch_series(conn, device_id, start=start, end=end, after=after, limit=limit)
            await self._learn_layouts(conn, [block.layout_no for block in blocks])
            read = [unpacked(block, device_id) for block in blocks]
            times = [moment(int(time)) for block in read for time in (block.times[0], block.times[-1])]
            odd = await store.fetch_odd(conn, device_id, first=min(times), last=max(times)) if times else []
        oddities = [Oddity(device_id, row.source_time, row.layout_no, row.quality, row.extra) for row in odd]
        full = sum(len(block.times) for block in read) == limit
        horizon = max(times) if full else None
        cold = await self._cold(device_id, points, start=start, end=end, after=after, upto=horizon, limit=limit)
        frame = await asyncio.to_thread(self._frame, read, oddities, cold, points, limit)
        return frame.head(limit), not full and (cold is None or len(cold) < limit)

    def _frame(
        self,
        blocks: Sequence[Block],
        oddities: Sequence[Oddity],
        cold: pl.DataFrame | None,
        points: Sequence[str] | None,
        limit: int,
    ) -> pl.DataFrame:
        known = {name for block in blocks for name in self._layouts[block.layout_no].points}
        hot = frames.frame_of(blocks, oddities, self._layouts, sorted(known))
        hot = hot.select(*frames.META, *[name for name in sorted(known) if points is None or name in points])
        if cold is None:
            return hot
        if len(cold) == limit:  # what lies behind has not been looked at
            hot = hot.filter(pl.col("source_time") <= cold["source_time"].max())
        return frames.merged(cold, hot)

    async def _page(
        self, device_id: str, points: Sequence[str] | None, *, start: datetime, end: datetime, after: datetime | None
    ) -> tuple[Series, bool]:
        """Return the next reports as columns, and whether they are the last."""
        async with self._db.read() as conn:
            blocks = await store.fetch_series(conn, device_id, start=start, end=end, after=after, limit=ROWS_AT_A_TIME)
            await self._learn_layouts(conn, [block.layout_no for block in blocks])
        hot = joined([self._series(block) for block in blocks], points)
        full = len(hot) == ROWS_AT_A_TIME
        horizon = moment(int(hot.times[-1])) if full else None
        frame = await self._cold(
            device_id, points, start=start, end=end, after=after, upto=horizon, limit=ROWS_AT_A_TIME
        )
        if frame is None:
            return hot, not full
        cold = await asyncio.to_thread(frames.series_of, frame)
        if len(cold) == ROWS_AT_A_TIME:
            full = True
            hot = hot.slice(0, int(np.searchsorted(hot.times, cold.times[-1], side="right")))
        # Of two reports with one time the one in the file stands; if the other differs, it comes in with the next move.
        return joined([hot, cold]), not full

    async def _cold(
        self,
        device_id: str,
        points: Sequence[str] | None,
        *,
        start: datetime,
        end: datetime,
        after: datetime | None,
        upto: datetime | None,
        limit: int,
    ) -> pl.DataFrame | None:
        """Return a device's first ``limit`` reports out of files, up to ``upto`` and that included; None: no file."""
        first = start if after is None else max(start, after)
        last = end if upto is None else upto
        async with self._db.read() as conn:
            files = await fetch_files_of_device(conn, device_id, first.date(), last.date())
        if not files:
            return None
        if self._files is None:
            raise ColdUnavailable(
                f"reports of {files[0].day} lie in files, and WATTRING_INGEST__HISTORY__COLD__URL does not say where",
                message_zh="部分历史数据存于冷数据文件,但未配置 WATTRING_INGEST__HISTORY__COLD__URL",
            )
        wanted = (
            (pl.col("device_id") == device_id)
            & (pl.col("source_time") >= start)
            & (pl.col("source_time") < end)
            & (pl.col("source_time") <= last)
            & (pl.lit(True) if after is None else pl.col("source_time") > after)
        )
        found: list[pl.DataFrame] = []
        missing = limit
        for file in files:
            part = await asyncio.to_thread(_read, self._files, file.name, wanted, points, missing)
            found.append(part)
            missing -= len(part)
            if missing == 0:
                break
        return pl.concat(found, how="diagonal")

    def _series(self, block: PackedBlock) -> Series:
        layout, times = self._layouts[block.layout_no], times_of(block.times)
        return Series(times, layout.points, layout.unpack_blob(block.bodies, len(times)))

    def _decoded(self, device_id: str, rows: Sequence[Row], points: Sequence[str] | None) -> list[StoredReading]:
        found: list[StoredReading] = []
        for number, group in itertools.groupby(rows, key=lambda row: row.layout_no):
            members = list(group)
            layout = self._layouts[number]
            for row, values in zip(members, layout.unpack([row.body for row in members]).tolist(), strict=True):
                quality = layout.unpack_quality(row.quality)
                found.append(
                    StoredReading(
                        device_id=device_id,
                        source_time=row.source_time,
                        received_at=row.received_at,
                        driver=layout.driver,
                        profile=layout.profile,
                        ct_ratio=layout.ct_ratio,
                        pt_ratio=layout.pt_ratio,
                        energy_ratio=layout.energy_ratio,
                        points={
                            name: None if value != value else value
                            for name, value in zip(layout.points, values, strict=True)
                            # A point without value and without flag was not in the report.
                            if (value == value or name in quality) and (points is None or name in points)
                        },
                        quality={name: flag for name, flag in quality.items() if points is None or name in points},
                        late=bool(row.flags & RowFlag.BACKFILL),
                        moved=bool(row.flags & RowFlag.MOVED),
                        extra=row.extra,
                    )
                )
        return found

    async def _learn_layouts(self, conn: ReadConn, numbers: Iterable[int]) -> None:
        missing = sorted(set(numbers) - self._layouts.keys())
        if missing:
            self._layouts.update(await store.fetch_layouts(conn, missing))


def _taken_once(cold: Sequence[StoredReading], hot: Sequence[StoredReading]) -> list[StoredReading]:
    """Return reports of files and of partitions in order, as they will lie when the partitions have been moved."""
    found = {one.source_time: one for one in cold}
    for one in hot:
        at = one.source_time
        standing = found.get(at)
        if standing is not None and takes_place_of(one.extra, standing.extra):
            found[at] = one
            continue
        if standing is not None and was_replaced_by(one.extra, standing.extra):
            continue
        while at in found and not _same(found[at], one):
            at += timedelta(microseconds=1)
        if at not in found:
            found[at] = one if at == one.source_time else replace(one, source_time=at, moved=True)
    return [found[time] for time in sorted(found)]


def _same(one: StoredReading, other: StoredReading) -> bool:
    return (one.driver, one.profile, one.points, one.quality) == (
        other.driver, other.profile, other.points, other.quality,
    )  # fmt: skip


def _read(files: ColdFiles, name: str, wanted: pl.Expr, points: Sequence[str] | None, limit: int) -> pl.DataFrame:
    with reading(name):
        scanned = files.scan(name)
        columns = scanned.collect_schema().names()
        kept = [column for column in columns if column in frames.META or points is None or column in points]
        return scanned.filter(wanted).select(kept).head(limit).collect()


def _readings_of(frame: pl.DataFrame) -> list[StoredReading]:
    """Return a device's reports out of files."""
    names = frames.points_of(frame.columns)
    values = frames.matrix_of(frame, names).tolist()
    found: list[StoredReading] = []
    for row, numbers in zip(frame.select(*frames.META).iter_rows(named=True), values, strict=True):
        quality = {name: Quality(flag) for name, flag in orjson.loads(row["quality"] or b"{}").items()}
        found.append(
            StoredReading(
                device_id=row["device_id"],
                source_time=row["source_time"],
                received_at=row["source_time"] + timedelta(microseconds=row["lag_us"]),
                driver=row["driver"],
                profile=row["profile"],
                ct_ratio=row["ct_ratio"],
                pt_ratio=row["pt_ratio"],
                energy_ratio=row["energy_ratio"],
                points={
                    name: None if value != value else value
                    for name, value in zip(names, numbers, strict=True)
                    if value == value or name in quality
                },
                quality={name: flag for name, flag in quality.items() if name in names},
                late=row["late"],
                moved=row["moved"],
                extra=None if row["extra"] is None else orjson.loads(row["extra"]),
            )
        )
    return found
