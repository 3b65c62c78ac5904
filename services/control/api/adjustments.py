"""HTTP of orders that set something inside devices."""

from collections.abc import Callable, Sequence
from datetime import timedelta

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from libs.common.contracts.base import UtcTime
from libs.common.contracts.control import CommandAction, CommandState
from libs.common.db import Database, WriteConn
from libs.common.errors import Forbidden, NotFound
from libs.common.tokens import Principal
from libs.common.web import Cursor, Limit, Page, read_time_cursor, time_cursor
from services.control.api.common import IdempotencyKey, Idempotent, Model, Read, Switch, View, actor_of, door_of
from services.control.directory import DeviceInfo, RegistryDevices
from services.control.domain.adjusting import Adjustment
from services.control.store import adjustments as store
from services.control.usecases.adjusting import Adjusting


class SettingIn(Model):
    """Set a point of a device."""

    device_id: str = Field(min_length=1, max_length=100)
    point: str = Field(pattern=r"^setting_[a-z0-9_]+$")
    """``setting_overvoltage`` and the like: a protection threshold; ``setting_report_period``: how often it reports."""
    value: float = Field(allow_inf_nan=False)
    unit: str | None = None
    """Of the value; refused when it is not the point's."""
    valid_for_s: float = Field(default=3600.0, gt=0, le=604_800)
    """A device that sleeps is waited for so long. [s]"""
    reason: str | None = Field(default=None, max_length=500)


class SettingView(View):
    """One order and how far it is."""

    setting_id: str
    action: CommandAction
    device_id: str
    site_id: str
    point: str
    value: float
    """What it is to be."""
    found: float | None
    """What was read back last."""
    found_at: UtcTime | None
    state: CommandState
    reason: str
    attempt: int
    created_at: UtcTime
    not_after: UtcTime
    expected_by: UtcTime | None
    """When the next step is expected."""
    actor: str


class SettingStepView(View):
    """One step in an order's life."""

    at: UtcTime
    state: str
    reason: str
    attempt: int
    found: float | None


class SettingDetail(SettingView):
    """An order with its whole life."""

    history: list[SettingStepView]


def build_adjustment_router(
    *, adjusting: Adjusting, db: Database, devices: RegistryDevices, idempotent: Idempotent, wake: Callable[[], None]
) -> APIRouter:
    """Return the routes; they come before those of a command by its id."""
    router = APIRouter(prefix="/api/v1", tags=["commands"])

    @router.post(
        "/commands/settings", summary="Write a threshold or a reporting period into a device", status_code=202,
        response_model=SettingView,
    )  # fmt: skip
    async def order_setting(body: SettingIn, who: Switch, idempotency_key: IdempotencyKey = None) -> Response:
        device = devices.get(body.device_id)
        if device is None:
            raise NotFound(f"there is no device {body.device_id}", message_zh=f"设备 {body.device_id} 不存在")
        _require(who, device)

        async def work(conn: WriteConn) -> tuple[int, BaseModel]:
            made = await adjusting.order(
                conn, device, point=body.point, value=body.value, unit=body.unit, actor=actor_of(who),
                door=door_of(who), note=body.reason, valid_for=timedelta(seconds=body.valid_for_s),
            )  # fmt: skip
            return 202, _view(made)

        answer = await idempotent.run(who, idempotency_key, body, work, path="/commands/settings")
        wake()
        return answer

    @router.get("/commands/settings", summary="What was set in devices, the youngest first")
    async def list_settings(
        who: Read, device: str | None = None, limit: Limit = 200, cursor: Cursor = None
    ) -> Page[SettingView]:
        before = None if cursor is None else read_time_cursor(cursor)
        async with db.read() as conn:
            found = await store.fetch_page(
                conn, device_id=device, sites=devices.sites_of(who), before=before, limit=limit + 1
            )
        page = [_view(one) for one in found[:limit]]
        more = len(found) > limit
        return Page(items=page, next_cursor=time_cursor(page[-1].created_at, page[-1].setting_id) if more else None)

    @router.get("/commands/settings/{setting_id}", summary="One order with its whole life")
    async def get_setting(setting_id: str, who: Read) -> SettingDetail:
        async with db.read() as conn:
            one = await store.fetch(conn, setting_id)
            steps = await store.fetch_steps(conn, setting_id)
        sites = devices.sites_of(who)
        if one is None or (sites is not None and one.site_id not in sites):
            raise NotFound(f"there is no order {setting_id}", message_zh=f"设置命令 {setting_id} 不存在")
        history = [
            SettingStepView(at=step.at, state=step.state, reason=step.reason, attempt=step.attempt, found=step.found)
            for step in steps
        ]
        return SettingDetail(**_view(one).model_dump(), history=history)

    def _require(who: Principal, device: DeviceInfo) -> None:
        sites: Sequence[str] | None = devices.sites_of(who)
        if sites is not None and device.site_id not in sites:
            raise Forbidden(
                f"{who.subject} may not change devices of site {device.site_id}",
                message_zh=f"{who.subject} 无权操作局站 {device.site_id}",
            )

    return router


def _view(one: Adjustment) -> SettingView:
    return SettingView(
        setting_id=one.adjustment_id,
        action=one.action,
        device_id=one.device_id,
        site_id=one.site_id,
        point=one.point,
        value=one.value,
        found=one.found,
        found_at=one.found_at,
        state=one.state,
        reason=one.reason,
        attempt=one.attempt,
        created_at=one.created_at,
        not_after=one.not_after,
        expected_by=one.next_at,
        actor=one.actor,
    )
