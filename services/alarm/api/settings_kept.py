"""HTTP of what devices are set to, and where that differs from the platform."""

from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel, Field

from libs.common.db import Database
from libs.common.points import POINTS
from libs.common.web import Cursor, Limit, Page, key_cursor, read_key_cursor
from services.alarm.api.common import Reader
from services.alarm.domain.model import from_us
from services.alarm.domain.settings_kept import DeviceSetting
from services.alarm.store import settings_kept as settings_store
from services.alarm.usecases.ports import Directory

SEPARATOR = "\n"
"""Between device and point in a cursor; neither holds one."""


class DeviceSettingReply(BaseModel):
    """A point of a device that the platform has set, or wanted to set."""

    device_id: str
    site_id: str
    point: str
    name_zh: str | None
    unit: str | None
    wanted: float | None = Field(description="what the platform ordered last; null when the order was refused")
    ordered_at: datetime = Field(description="when control last said something of the order")
    order_id: str = Field(description="GET commands/settings/{order_id} has its life")
    state: str = Field(description="of the last order")
    reason: str
    found: float | None = Field(description="what the device said last, read back or reported")
    found_at: datetime | None
    differs: bool | None = Field(description="the device is set to something else; null: not known")


def build_settings_router(db: Database, directory: Directory) -> APIRouter:
    """Return the routes; they come before those of a rule by its id."""
    router = APIRouter(prefix="/api/v1")

    @router.get(
        "/alarm-rules/device-settings",
        tags=["alarm-rules"],
        summary="What devices are set to beside what the platform has ordered, with a mark where they differ",
    )
    async def list_settings(
        who: Reader,
        device: str | None = None,
        differs: bool | None = None,
        limit: Limit = 200,
        cursor: Cursor = None,
    ) -> Page[DeviceSettingReply]:
        key = read_key_cursor(cursor)
        after = None if key is None else (key.partition(SEPARATOR)[0], key.partition(SEPARATOR)[2])
        allowed = directory.sites_of(who)
        sites = None if allowed is None else sorted(allowed)
        async with db.read() as conn:
            found = await settings_store.fetch_page(conn, device_id=device, sites=sites, after=after, limit=limit + 1)
        page = found[:limit]
        items = [_reply(one) for one in page if differs is None or one.differs is differs]
        last = f"{page[-1].device_id}{SEPARATOR}{page[-1].point}" if len(found) > limit else None
        return Page(items=items, next_cursor=None if last is None else key_cursor(last))

    return router


def _reply(one: DeviceSetting) -> DeviceSettingReply:
    point = POINTS.get(one.point)
    return DeviceSettingReply(
        device_id=one.device_id,
        site_id=one.site_id,
        point=one.point,
        name_zh=None if point is None else point.name_zh,
        unit=None if point is None else point.unit,
        wanted=one.wanted,
        ordered_at=from_us(one.ordered_us),
        order_id=one.order_id,
        state=one.state,
        reason=one.reason,
        found=one.found,
        found_at=None if one.found_us is None else from_us(one.found_us),
        differs=one.differs,
    )
