"""Stores reports: once, whatever comes twice; both, where two differ under one time; and every point's last value."""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta

from libs.common.bus import topics
from libs.common.bus.consumer import PoisonMessage
from libs.common.bus.port import Received
from libs.common.clock import Clock
from libs.common.db import WriteConn
from services.ingest import metrics
from services.ingest.bus import is_heartbeat, parsed
from services.ingest.domain.corrections import was_replaced_by
from services.ingest.domain.latest import OlderPoint, older_points, points_key
from services.ingest.domain.layout import DoesNotFit, Layout, Matrix, empty_layout, values_of
from services.ingest.domain.resolution import rounded
from services.ingest.domain.stored import LayoutKey, StoredReport, by_device, days_of, moved, stored_report
from services.ingest.store import history as store
from services.ingest.store.days import touch_days
from services.ingest.store.history import LatestRow, Row

logger = logging.getLogger(__name__)

AT_A_TIME = 1000
"""Reports made ready between two statements: some ten milliseconds of work, in which nothing else of this process is
done. A backlog comes in batches of thousands, and the polls of that time would all be late."""
MAX_MOVES = 20
"""Different reports of one device under one time and one arrival that are kept; more of them is no device."""
OLD = timedelta(days=2)
"""From its first instant on: no day before yesterday is new. A day is moved to a file a day later at the earliest."""
SENT_AGAIN_WITHIN = timedelta(days=1)
"""A report that stands under its arrival is known again when its sender, who got no answer, sends it again so soon."""
MAX_POINT_SETS = 10_000
"""Different sets of points that are remembered; a device that leaves out others each time must not fill the memory."""

Resolution = Callable[[str | None, str | None], Mapping[str, int]]
"""Profile and version to the points that are rounded, with the digits that they keep behind the point."""


class HistoryHandler:
    """Effects of the group ``ingest.history``; what it remembers are numbers that never change."""

    def __init__(self, clock: Clock, resolution: Resolution = lambda profile, version: {}) -> None:
        self._clock = clock
        self._resolution = resolution
        self._resolutions: dict[LayoutKey, Mapping[str, int]] = {}
        self._numbers: dict[str, int] = {}
        self._layouts: dict[int, Layout] = {}
        self._current: dict[LayoutKey, tuple[int, Layout]] = {}
        self._days: set[datetime] = set()
        self._point_sets: dict[tuple[str, ...], int] = {}

    async def load(self, conn: WriteConn, partitions: frozenset[int]) -> None:
        """Learn the layouts that exist."""
        self._layouts = await store.fetch_layouts(conn)
        # Of several with one key the youngest has the most points.
        self._current = {LayoutKey.of(layout): (number, layout) for number, layout in self._layouts.items()}

    def drop(self, partitions: frozenset[int]) -> None:
        """Forget numbers that a rolled back transaction may have given."""
        self._numbers.clear()
        self._layouts.clear()
        self._current.clear()
        self._days.clear()

    async def handle(self, conn: WriteConn, batch: Sequence[Received]) -> None:
        """Store a batch."""
        began = time.perf_counter()
        for first in range(0, len(batch), AT_A_TIME):
            part = batch[first : first + AT_A_TIME]
            reports = [report for received in part if (report := _report(received)) is not None]
            if reports:
                await self.store(conn, reports)
        metrics.HISTORY_SECONDS.observe(time.perf_counter() - began)

    def committed(self) -> None:
        """Nothing waits for the commit."""

    async def store(self, conn: WriteConn, reports: Sequence[StoredReport]) -> int:
        """Store reports and return how many of them were new."""
        await self._make_room(conn, reports)
        rows = await self._packed(conn, reports)
        stored = await store.insert_rows(conn, rows)
        if stored < len(rows):
            stored += await self._settle_conflicts(conn, reports, rows)
        await self._keep_latest(conn, reports, rows)
        metrics.HISTORY_ROWS.labels("stored").inc(stored)
        metrics.HISTORY_ROWS.labels("duplicate").inc(len(reports) - stored)
        return stored

    async def _make_room(self, conn: WriteConn, reports: Sequence[StoredReport]) -> None:
        days = days_of(reports)
        # A day before yesterday may be on its way to a file: it is taken first, and its partition may be gone since.
        old = sorted(day for day in days if self._clock.now() - day >= OLD)
        if old:
            await touch_days(conn, [day.date() for day in old], self._clock.now())
        for day in sorted((days - self._days).union(old)):
            await store.ensure_partition(conn, day)
        self._days |= days
        unknown = {report.device_id for report in reports} - self._numbers.keys()
        if unknown:
            self._numbers.update(await store.fetch_device_numbers(conn, sorted(unknown)))

    async def _packed(self, conn: WriteConn, reports: Sequence[StoredReport]) -> list[Row]:
        """Return the row of each report, in their order."""
        groups: dict[LayoutKey, list[int]] = defaultdict(list)
        for i, report in enumerate(reports):
            groups[report.layout_key].append(i)
        rows: list[Row | None] = [None] * len(reports)
        for key, members in groups.items():
            number, layout, bodies = await self._pack(conn, key, [reports[i].points for i in members])
            for i, body in zip(members, bodies, strict=True):
                report = reports[i]
                rows[i] = Row(
                    device_no=self._numbers[report.device_id],
                    source_time=report.source_time,
                    received_at=report.received_at,
                    layout_no=number,
                    flags=int(report.flags),
                    body=body,
                    quality=layout.pack_quality(report.quality),
                    extra=report.extra,
                )
        return [row for row in rows if row is not None]

    async def _pack(
        self, conn: WriteConn, key: LayoutKey, reports: Sequence[Mapping[str, float | None]]
    ) -> tuple[int, Layout, list[bytes]]:
        """Return the bodies of reports of one key, and their layout: a wider one when they do not fit."""
        number, layout = self._current.get(key) or (0, empty_layout(**asdict(key)))
        names: set[str] = set()
        for points in reports:
            names.update(points)
        new = sorted(names - layout.known)
        if not new:
            values = self._rounded(key, layout.points, layout.values(reports))
            try:
                return number, layout, layout.pack(values)
            except DoesNotFit:
                pass
        columns = (*layout.points, *new)
        values = self._rounded(key, columns, values_of(columns, reports))
        layout = layout.widened(columns, values)
        number = await store.store_layout(conn, layout)
        self._layouts[number] = layout
        self._current[key] = (number, layout)
        return number, layout, layout.pack(values[:, [columns.index(name) for name in layout.points]])

    def _rounded(self, key: LayoutKey, names: Sequence[str], values: Matrix) -> Matrix:
        if key not in self._resolutions:
            self._resolutions[key] = self._resolution(key.profile, key.profile_version)
        decimals = self._resolutions[key]
        for column, name in enumerate(names):
            if name in decimals:
                values[:, column] = rounded(values[:, column], decimals[name])
        return values

    async def _keep_latest(self, conn: WriteConn, reports: Sequence[StoredReport], rows: Sequence[Row]) -> None:
        """Let ``latest`` hold the last value of every point.

        Nearly always a report holds the same points as the one before it and takes its place. Only where it does
        not, what stands there has to be read and joined with it.
        """
        row_of = {id(report): row for report, row in zip(reports, rows, strict=True)}
        groups = sorted((self._numbers[device_id], group) for device_id, group in by_device(reports).items())
        alike: list[LatestRow] = []
        for _, group in groups:
            youngest, keys = group[-1], {self._key(report) for report in group}
            if len(keys) == 1:
                alike.append(LatestRow(youngest.device_id, youngest.site_id, row_of[id(youngest)], keys.pop()))
        replaced = await store.replace_latest_alike(conn, alike)
        others = {number: group for number, group in groups if number not in replaced}
        if not others:
            return
        standing = await store.fetch_latest_for_update(conn, list(others))
        await self._learn_layouts(conn, [found.row.layout_no for found in standing.values()])
        joined = [
            found
            for number, group in others.items()
            if (found := self._joined(standing.get(number), group, row_of)) is not None
        ]
        await store.upsert_latest(conn, joined)

    def _joined(
        self, standing: LatestRow | None, group: Sequence[StoredReport], row_of: Mapping[int, Row]
    ) -> LatestRow | None:
        """Return what becomes of a device's latest by reports, the youngest last; None when nothing does."""
        youngest = group[-1]
        # Of those with the same points only the youngest says something.
        telling = {self._key(report): report for report in group}
        seen: list[Mapping[str, OlderPoint]] = [self._points_in(row_of[id(report)]) for report in telling.values()]
        if standing is None:
            older = older_points(youngest.points, seen)
            return LatestRow(youngest.device_id, youngest.site_id, row_of[id(youngest)], self._key(youngest), older)
        standing_points = self._points_in(standing.row)
        seen += [standing_points, standing.older]
        corrects = (youngest.extra or {}).get("replaces") is not None
        ahead = standing.row.source_time - youngest.source_time
        if ahead > timedelta() or (ahead == timedelta() and not corrects):
            older = older_points(standing_points, seen)
            return None if older == standing.older else replace(standing, older=older)
        older = older_points(youngest.points, seen)
        return LatestRow(youngest.device_id, youngest.site_id, row_of[id(youngest)], self._key(youngest), older)

    def _key(self, report: StoredReport) -> int:
        names = tuple(report.points)
        key = self._point_sets.get(names)
        if key is None:
            if len(self._point_sets) >= MAX_POINT_SETS:
                self._point_sets.clear()
            key = self._point_sets[names] = points_key(names)
        return key

    def _points_in(self, row: Row) -> dict[str, OlderPoint]:
        layout = self._layouts[row.layout_no]
        flags = layout.unpack_quality(row.quality)
        return {
            name: OlderPoint(None if value != value else value, row.source_time, flags.get(name))
            for name, value in zip(layout.points, layout.unpack([row.body])[0].tolist(), strict=True)
            if value == value or name in flags
        }

    async def _settle_conflicts(self, conn: WriteConn, reports: Sequence[StoredReport], rows: Sequence[Row]) -> int:
        """Keep the reports whose time another report with other content has; return how many were kept.

        A device whose clock stands still sends ever new values under one time: dropping them would lose them all.
        """
        kept = 0
        open_ = [
            (report, row)
            for report, row in zip(reports, rows, strict=True)
            # A correction takes the place of what it names.
            if (report.extra or {}).get("replaces") is None or not await store.replace_row(conn, row)
        ]
        for attempt in range(MAX_MOVES):
            standing = await store.fetch_rows_at(conn, {(row.device_no, row.source_time) for _, row in open_})
            different = [
                report
                for report, row in open_
                if not await self._same(conn, standing.get((row.device_no, row.source_time)), report, row)
            ]
            if not different:
                return kept
            if attempt == 0:
                logger.info("different reports under one time", extra={"reports": len(different)})
            again = [moved(report, attempt) for report in different]
            await self._make_room(conn, again)
            rows = await self._packed(conn, again)
            if attempt == 0:
                again, rows = await self._not_sent_again(conn, again, rows)
            kept += await store.insert_rows(conn, rows)
            metrics.HISTORY_ROWS.labels("moved").inc(len(again))
            open_ = list(zip(again, rows, strict=True))
        logger.error("reports given up: too many differ under one time", extra={"reports": len(open_)})
        return kept

    async def _not_sent_again(
        self, conn: WriteConn, reports: Sequence[StoredReport], rows: Sequence[Row]
    ) -> tuple[list[StoredReport], list[Row]]:
        """Return the reports that do not stand under an earlier arrival already, with their rows.

        A sender that got no answer sends again; the second delivery has another arrival, and is no other report.
        """
        own_times = [str((report.extra or {})["source_time"]) for report in reports]
        wanted = [(row.device_no, own, row.received_at) for row, own in zip(rows, own_times, strict=True)]
        known = await store.fetch_moved(conn, wanted, SENT_AGAIN_WITHIN)
        new: list[tuple[StoredReport, Row]] = []
        for report, row, own in zip(reports, rows, own_times, strict=True):
            standing = known.setdefault((row.device_no, own), [])
            for one in standing:
                if await self._same(conn, one, report, row):
                    break
            else:
                standing.append(row)  # the next one may be the same again
                new.append((report, row))
        return [report for report, _ in new], [row for _, row in new]

    async def _same(self, conn: WriteConn, standing: Row | None, report: StoredReport, row: Row) -> bool:
        """Return whether what stands under a report's time is that report, or a correction of it."""
        if standing is None or standing.same_content(row):
            return standing is not None
        if was_replaced_by(report.extra, standing.extra):
            return True
        if standing.layout_no == row.layout_no:
            return False
        # The layout has grown between two deliveries: compare the values, not the bytes.
        await self._learn_layouts(conn, [standing.layout_no, row.layout_no])
        return self._content(standing) == self._content(row)

    async def _learn_layouts(self, conn: WriteConn, numbers: Sequence[int]) -> None:
        missing = [number for number in set(numbers) if number not in self._layouts]
        if missing:
            self._layouts.update(await store.fetch_layouts(conn, missing))

    def _content(self, row: Row) -> tuple[LayoutKey, dict[str, float], dict[str, str]]:
        layout = self._layouts[row.layout_no]
        values = layout.unpack([row.body])[0]
        points = {name: float(value) for name, value in zip(layout.points, values, strict=True) if value == value}
        return LayoutKey.of(layout), points, {k: str(v) for k, v in layout.unpack_quality(row.quality).items()}


def _report(received: Received) -> StoredReport | None:
    """Return the report in a message, None for a heartbeat.

    Raises:
        PoisonMessage: It is neither.
    """
    if is_heartbeat(received.headers):
        return None
    try:
        return stored_report(parsed(received), backfill=received.topic == topics.BACKFILL)
    except ValueError as exc:
        raise PoisonMessage(received, f"not a reading: {exc}") from exc
