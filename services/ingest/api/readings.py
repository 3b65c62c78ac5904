"""What devices said, over HTTP: latest, range, buckets, completeness; and what was not understood."""

import base64
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel
from starlette.background import BackgroundTask

from libs.common.contracts.base import UtcTime
from libs.common.contracts.registry import EntityKind
from libs.common.contracts.telemetry import Quality
from libs.common.db import Database
from libs.common.errors import InvalidInput
from libs.common.web import (
    Cursor,
    From,
    Limit,
    Page,
    To,
    check_span,
    key_cursor,
    read_key_cursor,
    read_time_cursor,
    time_cursor,
)
from services.ingest.api.common import Reader, allowed_sites, sees_device
from services.ingest.domain.buckets import parse_bucket
from services.ingest.domain.completeness import Loss
from services.ingest.domain.gaps import GapKind, GapState
from services.ingest.store import gaps as gap_store
from services.ingest.store import rejected as rejected_store
from services.ingest.usecases.downloads import Downloads, check_size, temporary_file
from services.ingest.usecases.loss import By, Losses, Scope
from services.ingest.usecases.readings import Readings, StoredReading
from services.ingest.usecases.registry import unknown
from services.ingest.usecases.topology import Topology

LATEST_SPAN = timedelta(days=1)
MAX_COMPLETENESS = timedelta(days=31)
MAX_DOWNLOAD_DEVICES = 100
PARQUET = "application/vnd.apache.parquet"
FILES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "a line or row per report: device_id, source_time, received_at, late, moved, quality (JSON "
        "object of the points that are not good), then the points",
        "content": {
            "text/csv": {"schema": {"type": "string"}},
            PARQUET: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


Since = Annotated[UtcTime, Query(alias="from", description="start, RFC 3339 with offset")]
Until = Annotated[UtcTime, Query(alias="to", description="end, not included")]


class ReadingOut(BaseModel):
    """One report."""

    device_id: str
    source_time: datetime
    received_at: datetime
    driver: str
    points: Mapping[str, float | None]
    """In canonical units; energy registers as the meter shows them."""
    quality: Mapping[str, Quality]
    """Only points that are not good."""
    site_id: str | None = None
    profile: str | None = None
    ct_ratio: float | None = None
    pt_ratio: float | None = None
    energy_ratio: float | None = None
    """What energy registers still have to be multiplied with; absent is 1."""
    late: bool = False
    moved: bool = False
    """Another report has its time; it stands under the time of its arrival."""
    times: Mapping[str, datetime] | None = None
    """Of the latest: points that the last report did not hold, and when they had the value that is shown."""


class StatisticsOut(BaseModel):
    """One point in one bucket."""

    min: float
    max: float
    mean: float
    last: float
    count: int


class BucketOut(BaseModel):
    """All points in one bucket ``[start, end)``."""

    start: datetime
    end: datetime
    reports: int
    points: Mapping[str, StatisticsOut]


class CompletenessOut(BaseModel):
    """How many of the reports of one device in one hour have come."""

    device_id: str
    site_id: str
    hour: datetime
    expected: int
    received: int
    report_completeness: float
    """Received ÷ expected, at most 1."""


class LossOut(BaseModel):
    """Expected against received."""

    expected: int
    received: int
    """Of those expected; what came too often is not counted."""
    missing: int
    loss_ratio: float | None
    """Missing ÷ expected; null where nothing was expected."""
    report_completeness: float | None
    """Received ÷ expected."""


class GroupLossOut(LossOut):
    """What is added up under one key: a device, a site, a region or a protocol."""

    key: str
    devices: int


class LossSummaryOut(BaseModel):
    """What share of the reports is missing."""

    by: By
    total: LossOut
    groups: int
    """How many keys there are; ``items`` are the worst of them."""
    items: list[GroupLossOut]


class GapOut(BaseModel):
    """A stretch without reports of one device."""

    id: str
    device_id: str
    site_id: str
    line_id: str | None
    kind: GapKind
    began_at: datetime
    """Time of the last report before it."""
    ended_at: datetime | None
    """Time of the first report after it; null while there is none."""
    missing: int
    """Reports that were expected in it, or that the device's own numbers leave out."""
    recovered: int
    """Reports of it that came later."""
    state: GapState
    reason: str | None
    """How it was filled (``memory``, ``late``) or why not: ``no_memory``, ``nothing_remembered``, ``not_reached``,
    ``not_in_use``, or the last refusal of the device."""
    asked_until: datetime | None
    attempts: int
    found_at: datetime
    settled_at: datetime | None


class RejectedOut(BaseModel):
    """Something that was not taken."""

    id: str
    received_at: datetime
    reason: str
    source: str
    device_id: str | None
    site_id: str | None
    line_id: str | None
    driver: str | None
    detail: str | None
    detail_zh: str | None
    content_type: str | None
    truncated: bool
    raw_base64: str
    replayed_at: datetime | None
    """When it was sent again, as it was or mended, and was taken."""


def build_router(*, readings: Readings, loss: Losses, topology: Topology, db: Database) -> APIRouter:
    """Return the router."""
    router = APIRouter(prefix="/api/v1", tags=["readings"])
    downloads = Downloads(readings)

    @router.get("/readings/latest", response_model_exclude_none=True)
    async def latest(
        request: Request,
        principal: Reader,
        site: Annotated[list[str] | None, Query()] = None,
        device: Annotated[list[str] | None, Query()] = None,
        cursor: Cursor = None,
        limit: Limit = 200,
    ) -> Page[ReadingOut]:
        """Return the last value of every point of each device of some sites, or of some devices."""
        allowed = allowed_sites(principal, topology, request)
        sites = site
        if allowed is not None:
            sites = sorted(allowed if site is None else allowed & set(site))
        found = await readings.latest(sites=sites, devices=device, after=read_key_cursor(cursor), limit=limit + 1)
        items = [_reading(reading) for reading in found[:limit]]
        return Page(items=items, next_cursor=key_cursor(items[-1].device_id) if len(found) > limit else None)

    @router.get("/readings", response_model_exclude_none=True)
    async def range_of(
        request: Request,
        principal: Reader,
        device: Annotated[str, Query(description="device id")],
        start: From = None,
        end: To = None,
        points: Annotated[str | None, Query(description="names, separated by commas; all without")] = None,
        bucket: Annotated[str | None, Query(description="30s, 15m, 1h, 1d: min, max, mean and last of each")] = None,
        cursor: Cursor = None,
        limit: Limit = 500,
    ) -> Page[ReadingOut | BucketOut]:
        """Return the reports of a device in ``[from, to)``, or statistics per bucket; the last day without times."""
        if not sees_device(device, allowed_sites(principal, topology, request), topology):
            raise unknown(EntityKind.DEVICE, device)
        until = end or request.app.state.platform.clock.now()
        since = start or until - LATEST_SPAN
        check_span(since, until)
        names = _names(points)
        after = None if cursor is None else read_time_cursor(cursor)[0]
        if bucket is None:
            found = await readings.range(device, points=names, start=since, end=until, after=after, limit=limit + 1)
            items: list[ReadingOut | BucketOut] = [_reading(reading) for reading in found[:limit]]
            more = time_cursor(found[limit - 1].source_time, device) if len(found) > limit else None
            return Page(items=items, next_cursor=more)
        length_s = parse_bucket(bucket)
        buckets = await readings.buckets(
            device, points=names, start=max(since, after or since), end=until, bucket_s=length_s, limit=limit + 1
        )
        shown: list[ReadingOut | BucketOut] = [
            BucketOut(
                start=found.start,
                end=found.start + timedelta(seconds=length_s),
                reports=found.reports,
                points={
                    name: StatisticsOut(min=one.minimum, max=one.maximum, mean=one.mean, last=one.last, count=one.count)
                    for name, one in sorted(found.points.items())
                },
            )
            for found in buckets[:limit]
        ]
        more = time_cursor(buckets[limit].start, device) if len(buckets) > limit else None
        return Page(items=shown, next_cursor=more)

    @router.get("/readings/download", responses=FILES, response_class=Response)
    async def download(
        request: Request,
        principal: Reader,
        device: Annotated[list[str], Query(min_length=1, max_length=MAX_DOWNLOAD_DEVICES, description="device ids")],
        start: Since,
        end: Until,
        points: Annotated[str | None, Query(description="names, separated by commas; all without")] = None,
        file_format: Annotated[Literal["csv", "parquet"], Query(alias="format")] = "csv",
    ) -> Response:
        """Return the reports of devices in ``[from, to)`` as one file, by device and time; times are UTC."""
        allowed = allowed_sites(principal, topology, request)
        for one in device:
            if not sees_device(one, allowed, topology):
                raise unknown(EntityKind.DEVICE, one)
        check_span(start, end)
        check_size(device, start, end)
        columns = await downloads.columns(device, _names(points))
        name = f"readings-{start:%Y%m%dT%H%M%SZ}-{end:%Y%m%dT%H%M%SZ}.{file_format}"
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        if file_format == "csv":
            pieces = downloads.csv(device, columns=columns, start=start, end=end)
            return StreamingResponse(pieces, media_type="text/csv; charset=utf-8", headers=headers)
        stack = ExitStack()
        path = stack.enter_context(temporary_file())
        try:
            await downloads.parquet(path, device, columns=columns, start=start, end=end)
        except BaseException:
            stack.close()
            raise
        return FileResponse(path, media_type=PARQUET, headers=headers, background=BackgroundTask(stack.close))

    @router.get("/completeness")
    async def completeness(
        request: Request,
        principal: Reader,
        start: Since,
        end: Until,
        site: str | None = None,
        device: str | None = None,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Page[CompletenessOut]:
        """Return reports received ÷ expected per device and hour that touches ``[from, to)``; a page is of devices."""
        _check_completeness(start, end)
        scope = Scope(
            sites=allowed_sites(principal, topology, request), site=site, device=device, after=read_key_cursor(cursor)
        )
        found, more = await loss.hourly(scope, start, end, limit=limit)
        items = [
            CompletenessOut(
                device_id=one.device_id,
                site_id=one.site_id,
                hour=one.hour,
                expected=one.loss.expected,
                received=one.received,
                report_completeness=one.loss.completeness or 0.0,
            )
            for one in found
        ]
        return Page(items=items, next_cursor=key_cursor(items[-1].device_id) if more else None)

    @router.get("/completeness/summary")
    async def summary(
        request: Request,
        principal: Reader,
        start: Since,
        end: Until,
        by: By = By.SITE,
        site: str | None = None,
        region: Annotated[str | None, Query(description="a region, and those within it")] = None,
        limit: Limit = 100,
    ) -> LossSummaryOut:
        """Return what share of the reports of ``[from, to)`` is missing: whole, and by key, the worst first."""
        _check_completeness(start, end)
        scope = Scope(sites=allowed_sites(principal, topology, request), site=site, region=region)
        total, groups = await loss.summary(by, scope, start, end)
        worst = sorted(groups.items(), key=lambda item: (-(item[1].loss.ratio or 0.0), item[0]))
        return LossSummaryOut(
            by=by,
            total=_loss(total),
            groups=len(groups),
            items=[
                GroupLossOut(key=key, devices=len(group.devices), **_loss(group.loss).model_dump())
                for key, group in worst[:limit]
            ],
        )

    @router.get("/completeness/gaps")
    async def gaps(
        request: Request,
        principal: Reader,
        start: From = None,
        end: To = None,
        site: str | None = None,
        device: str | None = None,
        state: GapState | None = None,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Page[GapOut]:
        """Return stretches without reports that touch ``[from, to)``, the youngest first, and what came of them."""
        check_span(start, end)
        allowed = allowed_sites(principal, topology, request)
        sites = None if allowed is None else sorted(allowed)
        if site is not None:
            sites = [site] if allowed is None or site in allowed else []
        async with db.read() as conn:
            found = await gap_store.fetch_page(
                conn,
                start=start,
                end=end,
                sites=sites,
                device_id=device,
                state=state,
                before=None if cursor is None else read_time_cursor(cursor),
                limit=limit + 1,
            )
        items = [GapOut(**{name: getattr(gap, name) for name in GapOut.model_fields}) for gap in found[:limit]]
        more = time_cursor(found[limit - 1].began_at, found[limit - 1].id) if len(found) > limit else None
        return Page(items=items, next_cursor=more)

    @router.get("/rejected")
    async def rejected(
        request: Request,
        principal: Reader,
        reason: str | None = None,
        source: str | None = None,
        device: str | None = None,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Page[RejectedOut]:
        """Return what was not understood, the youngest first, with its bytes."""
        allowed = allowed_sites(principal, topology, request)
        before = None if cursor is None else read_time_cursor(cursor)
        async with db.read() as conn:
            rows = await rejected_store.fetch_page(
                conn,
                reason=reason,
                source=source,
                device_id=device,
                sites=None if allowed is None else sorted(allowed),
                before=before,
                limit=limit + 1,
            )
        items = [
            RejectedOut(
                **{name: getattr(row, name) for name in RejectedOut.model_fields if name != "raw_base64"},
                raw_base64=base64.b64encode(row.raw).decode(),
            )
            for row in rows[:limit]
        ]
        more = time_cursor(rows[limit - 1].received_at, rows[limit - 1].id) if len(rows) > limit else None
        return Page(items=items, next_cursor=more)

    return router


def _reading(found: StoredReading) -> ReadingOut:
    return ReadingOut(
        device_id=found.device_id,
        source_time=found.source_time,
        received_at=found.received_at,
        driver=found.driver,
        points={**{name: point.value for name, point in found.older.items()}, **found.points},
        quality={
            **{name: point.quality for name, point in found.older.items() if point.quality is not None},
            **found.quality,
        },
        times={name: point.source_time for name, point in found.older.items()} or None,
        site_id=found.site_id,
        profile=found.profile,
        ct_ratio=found.ct_ratio,
        pt_ratio=found.pt_ratio,
        energy_ratio=found.energy_ratio,
        late=found.late,
        moved=found.moved,
    )


def _names(points: str | None) -> list[str] | None:
    return None if points is None else [name.strip() for name in points.split(",") if name.strip()]


def _check_completeness(start: datetime, end: datetime) -> None:
    check_span(start, end)
    if end - start > MAX_COMPLETENESS:
        raise InvalidInput(
            f"from, to: expected a span of at most {MAX_COMPLETENESS.days} days",
            message_zh=f"from、to:时间范围最多 {MAX_COMPLETENESS.days} 天",
        )


def _loss(found: Loss) -> LossOut:
    return LossOut(
        expected=found.expected,
        received=found.received,
        missing=found.expected - found.received,
        loss_ratio=found.ratio,
        report_completeness=found.completeness,
    )
