"""Questions to the history: what a device said, as it was or by buckets, and what all of a site say now."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from libs.common.contracts.telemetry import Quality
from libs.common.db import Database, ReadConn
from services.ingest.domain.buckets import Bucket, bucket_start
from services.ingest.domain.latest import OlderPoint
from services.ingest.domain.layout import Layout
from services.ingest.domain.stored import RowFlag
from services.ingest.store import history as store
from services.ingest.store.history import Row

ROWS_AT_A_TIME = 5000
"""Reports fetched and decoded in one step: some milliseconds of the event loop."""


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

    def __init__(self, db: Database) -> None:
        self._db = db
        self._layouts: dict[int, Layout] = {}

    async def latest(
        self, *, sites: Sequence[str] | None, devices: Sequence[str] | None, after: str | None, limit: int
    ) -> list[StoredReading]:
        """Return the last report of devices, and points that it lacks, by device id, from behind ``after``."""
        async with self._db.read() as conn:
            found = await store.fetch_latest(conn, site_ids=sites, device_ids=devices, after=after, limit=limit)
            await self._learn_layouts(conn, [latest.row for latest in found])
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
        """Return a device's reports in ``[start, end)``, oldest first, from behind ``after``."""
        async with self._db.read() as conn:
            rows = await store.fetch_range(conn, device_id, start=start, end=end, after=after, limit=limit)
            await self._learn_layouts(conn, rows)
        return self._decoded(device_id, rows, points)

    async def buckets(
        self, device_id: str, *, points: Sequence[str] | None, start: datetime, end: datetime, bucket_s: int, limit: int
    ) -> list[Bucket]:
        """Return the buckets that hold reports in ``[start, end)``, at most ``limit``, oldest first.

        A bucket is complete or not there: the last one of a full page is followed by the next page.
        """
        found: list[Bucket] = []
        after: datetime | None = None
        while True:
            async with self._db.read() as conn:
                rows = await store.fetch_range(conn, device_id, start=start, end=end, after=after, limit=ROWS_AT_A_TIME)
                await self._learn_layouts(conn, rows)
            for began, group in itertools.groupby(rows, key=lambda row: bucket_start(row.source_time, bucket_s)):
                if not found or found[-1].start != began:
                    if len(found) == limit:
                        return found
                    found.append(Bucket(began))
                self._add(found[-1], list(group), points)
            if len(rows) < ROWS_AT_A_TIME:
                return found
            after = rows[-1].source_time

    async def completeness(
        self, device_ids: Sequence[str], *, start: datetime, end: datetime
    ) -> Mapping[tuple[str, datetime], int]:
        """Return how many reports each device has in each hour."""
        async with self._db.read() as conn:
            return await store.count_per_hour(conn, device_ids, start=start, end=end)

    def _add(self, bucket: Bucket, rows: Sequence[Row], points: Sequence[str] | None) -> None:
        for number, group in itertools.groupby(rows, key=lambda row: row.layout_no):
            members = list(group)
            layout = self._layouts[number]
            matrix = layout.unpack([row.body for row in members])
            names = [name for name in layout.points if points is None or name in points]
            columns = [layout.points.index(name) for name in names]
            bucket.add(names, matrix[:, columns])

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

    async def _learn_layouts(self, conn: ReadConn, rows: Sequence[Row]) -> None:
        missing = sorted({row.layout_no for row in rows} - self._layouts.keys())
        if missing:
            self._layouts.update(await store.fetch_layouts(conn, missing))


def hours_between(start: datetime, end: datetime) -> list[datetime]:
    """Return the hours that touch ``[start, end)``, as their beginnings."""
    first = start.replace(minute=0, second=0, microsecond=0)
    return [first + timedelta(hours=i) for i in range(int((end - first).total_seconds() // 3600) + 1)
            if first + timedelta(hours=i) < end]  # fmt: skip
