"""Stores reports: once, whatever comes twice; both, where two differ under one time; and the latest of each device."""

import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

from libs.common.bus import topics
from libs.common.bus.consumer import PoisonMessage
from libs.common.bus.port import Received
from libs.common.db import WriteConn
from services.ingest import metrics
from services.ingest.bus import is_heartbeat, parsed
from services.ingest.domain.layout import Layout, layout_for
from services.ingest.domain.stored import (
    LayoutKey,
    StoredReport,
    days_of,
    moved,
    stored_report,
    youngest_per_device,
)
from services.ingest.store import history as store
from services.ingest.store.history import Row

logger = logging.getLogger(__name__)

MAX_MOVES = 20
"""Different reports of one device under one time and one arrival that are kept; more of them is no device."""


class HistoryHandler:
    """Effects of the group ``ingest.history``; what it remembers are numbers that never change."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._layouts: dict[int, Layout] = {}
        self._current: dict[LayoutKey, tuple[int, Layout]] = {}
        self._days: set[datetime] = set()

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
        reports = [report for received in batch if (report := _report(received)) is not None]
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
        newest = youngest_per_device(reports)
        by_device = sorted((self._numbers[device_id], report) for device_id, report in newest.items())
        places = {id(report): i for i, report in enumerate(reports)}
        await store.upsert_latest(
            conn,
            [rows[places[id(report)]] for _, report in by_device],
            [report.site_id for _, report in by_device],
        )
        metrics.HISTORY_ROWS.labels("stored").inc(stored)
        metrics.HISTORY_ROWS.labels("duplicate").inc(len(reports) - stored)
        return stored

    async def _make_room(self, conn: WriteConn, reports: Sequence[StoredReport]) -> None:
        for day in sorted(days_of(reports) - self._days):
            await store.ensure_partition(conn, day)
            self._days.add(day)
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
            number, layout = await self._layout(conn, key, [reports[i] for i in members])
            bodies = layout.pack([reports[i].points for i in members])
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

    async def _layout(self, conn: WriteConn, key: LayoutKey, reports: Sequence[StoredReport]) -> tuple[int, Layout]:
        """Return the layout for reports of one key; one with more points when they bring new ones."""
        names: set[str] = set()
        for report in reports:
            names.update(report.points)
        known = self._current.get(key)
        if known is not None and names <= known[1].known:
            return known
        layout = layout_for(
            [*names, *(known[1].points if known is not None else ())],
            driver=key.driver,
            profile=key.profile,
            profile_version=key.profile_version,
            ct_ratio=key.ct_ratio,
            pt_ratio=key.pt_ratio,
            energy_ratio=key.energy_ratio,
        )
        number = await store.store_layout(conn, layout)
        self._layouts[number] = layout
        self._current[key] = (number, layout)
        return number, layout

    async def _settle_conflicts(self, conn: WriteConn, reports: Sequence[StoredReport], rows: Sequence[Row]) -> int:
        """Keep the reports whose time another report with other content has; return how many were kept.

        A device whose clock stands still sends ever new values under one time: dropping them would lose them all.
        """
        kept = 0
        open_ = list(zip(reports, rows, strict=True))
        for attempt in range(MAX_MOVES):
            standing = await store.fetch_rows_at(conn, {(row.device_no, row.source_time) for _, row in open_})
            different = [
                report
                for report, row in open_
                if not await self._same(conn, standing.get((row.device_no, row.source_time)), row)
            ]
            if not different:
                return kept
            if attempt == 0:
                logger.info("different reports under one time", extra={"reports": len(different)})
            again = [moved(report, attempt) for report in different]
            await self._make_room(conn, again)
            rows = await self._packed(conn, again)
            kept += await store.insert_rows(conn, rows)
            metrics.HISTORY_ROWS.labels("moved").inc(len(again))
            open_ = list(zip(again, rows, strict=True))
        logger.error("reports given up: too many differ under one time", extra={"reports": len(open_)})
        return kept

    async def _same(self, conn: WriteConn, standing: Row | None, row: Row) -> bool:
        """Return whether what stands under a report's time is that report."""
        if standing is None or standing.same_content(row):
            return standing is not None
        if standing.layout_no == row.layout_no:
            return False
        # The layout has grown between two deliveries: compare the values, not the bytes.
        missing = [number for number in (standing.layout_no, row.layout_no) if number not in self._layouts]
        if missing:
            self._layouts.update(await store.fetch_layouts(conn, missing))
        return self._content(standing) == self._content(row)

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
