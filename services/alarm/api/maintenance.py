"""HTTP of maintenance windows."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from libs.common.contracts.base import UtcTime
from libs.common.web import Cursor, Limit, Page, read_time_cursor, time_cursor
from services.alarm.api.common import Reader, Writer, request_id
from services.alarm.store.maintenance import WindowFilter, WindowRow
from services.alarm.usecases.maintenance import Maintenance, WindowRequest


class WindowBody(BaseModel):
    """A maintenance window: alarms raised in it are kept and not told, and plans do not switch. Half-open."""

    model_config = ConfigDict(extra="forbid")

    site_id: str = Field(min_length=1, max_length=100)
    device_ids: list[Annotated[str, Field(min_length=1, max_length=100)]] | None = Field(
        default=None, max_length=1000, description="devices of the site; null: the whole site"
    )
    start: UtcTime = Field(alias="from")
    end: UtcTime = Field(alias="to")
    owner: str | None = Field(default=None, min_length=1, max_length=200, description="who answers for the work")
    reason: str = Field(min_length=1, max_length=1000)


class WindowReply(BaseModel):
    """A maintenance window as it stands."""

    window_id: str
    site_id: str
    device_ids: Sequence[str] | None
    start: datetime = Field(serialization_alias="from")
    end: datetime = Field(serialization_alias="to")
    owner: str
    reason: str
    created_by: str
    created_at: datetime
    changed_by: str
    changed_at: datetime
    called_off_at: datetime | None


class WindowQuery(BaseModel):
    """Which windows."""

    model_config = ConfigDict(extra="forbid")

    site: list[str] | None = Field(default=None, max_length=1000)
    at: UtcTime | None = Field(default=None, description="those that last then and were not called off")
    limit: Limit = 100
    cursor: Cursor = None


def add_maintenance_routes(router: APIRouter, maintenance: Maintenance) -> None:
    """Add the routes of maintenance windows."""

    @router.get(
        "/maintenance-windows", tags=["maintenance-windows"], summary="Maintenance windows, the latest begin first"
    )
    async def list_windows(who: Reader, query: Annotated[WindowQuery, Query()]) -> Page[WindowReply]:
        after = None if query.cursor is None else read_time_cursor(query.cursor)
        wanted = WindowFilter(sites=query.site, at=query.at)
        found = await maintenance.page(wanted, who, after=after, limit=query.limit + 1)
        page = [_reply(row) for row in found[: query.limit]]
        more = len(found) > query.limit
        return Page(items=page, next_cursor=time_cursor(page[-1].start, page[-1].window_id) if more else None)

    @router.post(
        "/maintenance-windows", tags=["maintenance-windows"], summary="Set a maintenance window up", status_code=201
    )
    async def open_window(body: WindowBody, who: Writer, request: Request) -> WindowReply:
        return _reply(await maintenance.open(_wanted(body), who, request_id(request)))

    @router.get("/maintenance-windows/{window_id}", tags=["maintenance-windows"], summary="One maintenance window")
    async def get_window(window_id: str, who: Reader) -> WindowReply:
        return _reply(await maintenance.window(window_id, who))

    @router.put(
        "/maintenance-windows/{window_id}", tags=["maintenance-windows"], summary="Change a window that is not over"
    )
    async def change_window(window_id: str, body: WindowBody, who: Writer, request: Request) -> WindowReply:
        return _reply(await maintenance.change(window_id, _wanted(body), who, request_id(request)))

    @router.delete(
        "/maintenance-windows/{window_id}", tags=["maintenance-windows"], summary="End a window now, or call it off"
    )
    async def call_off_window(window_id: str, who: Writer, request: Request) -> WindowReply:
        return _reply(await maintenance.call_off(window_id, who, request_id(request)))


def _wanted(body: WindowBody) -> WindowRequest:
    return WindowRequest(
        site_id=body.site_id,
        device_ids=body.device_ids,
        starts_at=body.start,
        ends_at=body.end,
        owner=body.owner,
        reason=body.reason,
    )


def _reply(row: WindowRow) -> WindowReply:
    return WindowReply(
        window_id=row.window_id,
        site_id=row.site_id,
        device_ids=row.device_ids,
        start=row.starts_at,
        end=row.ends_at,
        owner=row.owner,
        reason=row.reason,
        created_by=row.created_by,
        created_at=row.created_at,
        changed_by=row.changed_by,
        changed_at=row.changed_at,
        called_off_at=row.called_off_at,
    )
