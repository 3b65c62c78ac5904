"""HTTP of orders that set something inside devices: set points, thresholds, reporting periods, clocks, restarts."""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, Self

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field, model_validator

from libs.common.contracts.base import Number, UtcTime
from libs.common.contracts.control import CommandAction, CommandState
from libs.common.db import Database, WriteConn
from libs.common.errors import Forbidden, NotFound, WrongValue
from libs.common.tokens import Principal
from libs.common.web import Cursor, Limit, Page, ProblemDetail, read_time_cursor, time_cursor
from services.control.api.commands import CancelIn, ProgressView, progress_view
from services.control.api.common import (
    IdempotencyKey,
    Idempotent,
    Model,
    Read,
    ReadOrApp,
    Switch,
    SwitchOrApp,
    View,
    actor_of,
    door_of,
    is_app,
    is_own,
)
from services.control.directory import RegistryDevices
from services.control.domain.adjusting import REPORT_PERIOD, Adjustment, action_of, expected_end
from services.control.domain.commands import group_state
from services.control.store import adjustments as store
from services.control.store.adjustments import SettingGroup
from services.control.usecases.adjusting import (
    MAX_GROUP,
    Adjustable,
    Adjusting,
    GroupState,
    SettingOrder,
    known_device,
    meant,
)
from services.control.usecases.apps import admit_setting

Action = Literal["set_point", "set_threshold", "set_sampling_period", "set_clock", "restart"]
VALUELESS = ("set_clock", "restart")


class OrderIn(Model):
    """What is to be set."""

    action: Action | None = None
    """Absent: what the point says. ``set_clock`` and ``restart`` take neither point nor value."""
    point: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9_]*$", max_length=100)
    """``temperature_setpoint`` and the like: a set point; ``setting_overvoltage`` and the like: a protection threshold;
    ``setting_report_period``: how often it reports."""
    value: Number | None = None
    unit: str | None = None
    """Of the value; refused when it is not the point's."""
    valid_for_s: float = Field(strict=True, default=3600.0, gt=0, le=604_800)
    """A device that sleeps is waited for so long. [s]"""
    reason: str | None = Field(default=None, max_length=500)

    @model_validator(mode="after")
    def _says_what(self) -> "OrderIn":
        if self.action in VALUELESS:
            if (self.point, self.value, self.unit) != (None, None, None):
                raise WrongValue(
                    f"neither point, value nor unit with {self.action}", f"{self.action} 不带 point、value、unit"
                )
            return self
        if self.asked_point is None or self.value is None:
            raise WrongValue(
                "point and value, or action set_clock or restart", "point 与 value,或动作 set_clock、restart"
            )
        expected = action_of(self.asked_point).value
        if self.action not in (None, expected):
            raise WrongValue(f"action {expected} for {self.asked_point}", f"{self.asked_point} 对应动作 {expected}")
        return self

    @property
    def asked_point(self) -> str | None:
        """The point, where the action says it too."""
        return self.point or (REPORT_PERIOD if self.action == "set_sampling_period" else None)


class SettingIn(OrderIn):
    """Set something in one device."""

    device_id: str = Field(min_length=1, max_length=100)


class PlaceIn(Model):
    """Many devices: exactly one of the four places, narrowed by kind and profile."""

    device_ids: tuple[str, ...] = Field(default=(), max_length=MAX_GROUP)
    site_id: str | None = None
    """All devices of a site."""
    region_id: str | None = None
    """All devices of the sites in a province, city or district."""
    tag: str | None = None
    """All devices that carry a tag."""
    kind: str | None = None
    """Of these, those of this kind: ``ac_unit``, ``breaker``, ``meter_3p`` …"""
    profile: str | None = None
    """Of these, those of this profile."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        given = (self.device_ids or None, self.site_id, self.region_id, self.tag)
        if sum(one is not None for one in given) != 1:
            raise WrongValue(
                "exactly one of device_ids, site_id, region_id and tag",
                "device_ids、site_id、region_id、tag 中恰好一项",
            )
        return self

    @property
    def target(self) -> dict[str, Any]:
        """What was said of the devices."""
        said = {name: getattr(self, name) for name in ("device_ids", "site_id", "region_id", "tag", "kind", "profile")}
        return {name: list(value) if name == "device_ids" else value for name, value in said.items() if value}


class SettingGroupIn(PlaceIn, OrderIn):
    """Set something in many devices: exactly one of the four places, narrowed by kind and profile."""


class SettingView(View):
    """One order and how far it is."""

    setting_id: str
    action: CommandAction
    device_id: str
    site_id: str
    point: str | None
    """Null of a clock or a restart."""
    value: float | None
    """What it is to be."""
    found: float | None
    """What was read back last; of a clock how far it is ahead of ours. [s]"""
    found_at: UtcTime | None
    state: CommandState
    reason: str
    attempt: int
    created_at: UtcTime
    not_after: UtcTime
    expected_by: UtcTime | None
    """When the result is expected; null when it is over, or when a person has to act first."""
    actor: str
    group_id: str | None
    """The order for many that it belongs to."""


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


class RefusedSettingView(View):
    """A device that was refused."""

    device_id: str
    guard: str
    """What refuses: ``device_range``, ``no_control``, ``load_off``, the name of a rule for set points …"""
    value: Any = None
    limit: Any = None
    source: str | None = None
    """Where the rule comes from."""
    source_zh: str | None = None
    said_by: str | None = None
    """Which policy says the rule."""
    message: str = ""
    message_zh: str = ""


class SettingGroupBrief(View):
    """An order for many, in short."""

    group_id: str
    state: CommandState
    """``partial`` when some devices succeeded and others did not or were refused."""
    action: CommandAction
    point: str | None
    value: float | None
    target: Mapping[str, Any]
    """Which devices were meant, as the order says it."""
    actor: str
    reason: str | None
    created_at: UtcTime
    progress: ProgressView


class SettingGroupView(SettingGroupBrief):
    """An order for many, with every device."""

    expected_by: UtcTime | None
    """When the last result is expected; null when all are there, or when a person has to act first."""
    settings: list[SettingView]
    refused: list[RefusedSettingView]


def build_adjustment_router(
    *, adjusting: Adjusting, db: Database, devices: RegistryDevices, idempotent: Idempotent, wake: Callable[[], None]
) -> APIRouter:
    """Return the routes; they come before those of a command by its id."""
    router = APIRouter(prefix="/api/v1/commands/settings", tags=["commands"])

    @router.post(
        "", status_code=202, response_model=SettingView,
        summary="Set a point of a device, its reporting period or its clock, or restart it",
    )  # fmt: skip
    async def order_setting(body: SettingIn, who: SwitchOrApp, idempotency_key: IdempotencyKey = None) -> Response:
        """Of an upstream app (right `control:app`) its limits are asked first: action `settings`, and the device."""
        device = known_device(devices, body.device_id)
        require_devices(who, devices, [device])

        async def work(conn: WriteConn) -> tuple[int, BaseModel]:
            if is_app(who):
                await admit_setting(
                    conn, actor_of(who), device.device_id, site_id=device.site_id, tags=device.tags,
                    region_ids=device.region_ids, now=idempotent.clock.now(),
                )  # fmt: skip
            return 202, _view(await adjusting.order(conn, device, _order(body, who)))

        answer = await idempotent.run(who, idempotency_key, body, work, path="/commands/settings")
        wake()
        return answer

    @router.get("", summary="What was set in devices, the youngest first")
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

    @router.post(
        "/groups", status_code=202, summary="Set the same in many devices: by ids, site, region or tag",
        responses={202: {"model": SettingGroupView}, 422: {"model": ProblemDetail}},
    )  # fmt: skip
    async def order_group(body: SettingGroupIn, who: Switch, idempotency_key: IdempotencyKey = None) -> Response:
        found = meant(devices, body.target)
        require_devices(who, devices, found)

        async def work(conn: WriteConn) -> tuple[int, BaseModel]:
            made = await adjusting.order_many(conn, found, _order(body, who), body.target)
            return (202, _group_view(made)) if made.members else (400, _all_refused(made))

        answer = await idempotent.run(who, idempotency_key, body, work, path="/commands/settings/groups")
        wake()
        return answer

    @router.get("/groups", summary="Orders for many devices, the youngest first, and how far they are")
    async def list_groups(who: Read, limit: Limit = 50, cursor: Cursor = None) -> Page[SettingGroupBrief]:
        before = None if cursor is None else read_time_cursor(cursor)
        async with db.read() as conn:
            found = await store.fetch_groups(conn, sites=devices.sites_of(who), before=before, limit=limit + 1)
        page = [SettingGroupBrief(**_brief(group, states)) for group, states in found[:limit]]
        more = len(found) > limit
        return Page(items=page, next_cursor=time_cursor(page[-1].created_at, page[-1].group_id) if more else None)

    @router.get("/groups/{group_id}", summary="One order for many devices: progress, every device, the refused ones")
    async def get_group(group_id: str, who: Read) -> SettingGroupView:
        async with db.read() as conn:
            found = await adjusting.group(conn, group_id)
        if not _sees(who, found.members):
            raise NotFound(f"no group {group_id}", message_zh=f"没有设置命令组 {group_id}")
        return _group_view(found)

    @router.post("/groups/{group_id}/approve", summary="Agree, as the second person, to what a rule asks it for")
    async def approve_group(group_id: str, who: Switch) -> SettingGroupView:
        async with db.write() as conn:
            _require_members(who, (await adjusting.group(conn, group_id)).members)
            await adjusting.approve(conn, actor_of(who), door_of(who), group_id=group_id)
            found = await adjusting.group(conn, group_id)
        wake()
        return _group_view(found)

    @router.post("/groups/{group_id}/decline", summary="Call off what of an order waits for a second person")
    async def decline_group(group_id: str, body: CancelIn, who: Switch) -> SettingGroupView:
        async with db.write() as conn:
            _require_members(who, (await adjusting.group(conn, group_id)).members)
            await adjusting.decline(conn, actor_of(who), door_of(who), body.reason, group_id=group_id)
            return _group_view(await adjusting.group(conn, group_id))

    @router.get("/{setting_id}", summary="One order with its whole life")
    async def get_setting(setting_id: str, who: ReadOrApp) -> SettingDetail:
        return await _detail(setting_id, who)

    @router.post("/{setting_id}/approve", summary="Agree, as the second person, to a value that a rule asks it for")
    async def approve_setting(setting_id: str, who: Switch) -> SettingDetail:
        await _detail(setting_id, who)
        async with db.write() as conn:
            await adjusting.approve(conn, actor_of(who), door_of(who), adjustment_id=setting_id)
        wake()
        return await _detail(setting_id, who)

    @router.post("/{setting_id}/decline", summary="Call off an order that waits for a second person")
    async def decline_setting(setting_id: str, body: CancelIn, who: Switch) -> SettingDetail:
        await _detail(setting_id, who)
        async with db.write() as conn:
            await adjusting.decline(conn, actor_of(who), door_of(who), body.reason, adjustment_id=setting_id)
        return await _detail(setting_id, who)

    async def _detail(setting_id: str, who: Principal) -> SettingDetail:
        async with db.read() as conn:
            one = await store.fetch(conn, setting_id)
            steps = await store.fetch_steps(conn, setting_id)
        if one is None or not _sees(who, [one]) or not is_own(who, one.actor):
            raise NotFound(f"there is no order {setting_id}", message_zh=f"设置命令 {setting_id} 不存在")
        history = [
            SettingStepView(at=step.at, state=step.state, reason=step.reason, attempt=step.attempt, found=step.found)
            for step in steps
        ]
        return SettingDetail(**_view(one).model_dump(), history=history)

    def _require_members(who: Principal, members: Sequence[Adjustment]) -> None:
        if not _sees(who, members):
            raise Forbidden(f"{who.subject} may not change these devices", message_zh=f"{who.subject} 无权操作这些设备")

    def _sees(who: Principal, members: Sequence[Adjustment]) -> bool:
        sites = devices.sites_of(who)
        return sites is None or (bool(members) and all(one.site_id in sites for one in members))

    return router


def require_devices(who: Principal, devices: RegistryDevices, concerned: Sequence[Adjustable]) -> None:
    """Check that all devices lie in the caller's part of the site tree.

    Raises:
        Forbidden: One does not.
    """
    sites = devices.sites_of(who)
    elsewhere = next((one for one in concerned if sites is not None and one.site_id not in sites), None)
    if elsewhere is not None:
        raise Forbidden(
            f"{who.subject} may not change devices of site {elsewhere.site_id}",
            message_zh=f"{who.subject} 无权操作局站 {elsewhere.site_id}",
        )


def _order(body: OrderIn, who: Principal) -> SettingOrder:
    point = body.asked_point
    return SettingOrder(
        action=CommandAction(body.action) if point is None and body.action else action_of(point or ""),
        point=point, value=body.value, unit=body.unit, actor=actor_of(who), door=door_of(who), note=body.reason,
        valid_for=timedelta(seconds=body.valid_for_s),
    )  # fmt: skip


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
        expected_by=expected_end(one),
        actor=one.actor,
        group_id=one.group_id,
    )


def _brief(group: SettingGroup, by_state: Mapping[str, int]) -> dict[str, Any]:
    states = [CommandState(state) for state in by_state] + [CommandState.REJECTED] * bool(group.refused)
    return {
        "group_id": group.group_id, "state": group_state(states), "action": group.action, "point": group.point,
        "value": group.value, "target": group.target, "actor": group.actor, "reason": group.note,
        "created_at": group.created_at, "progress": progress_view(by_state, len(group.refused)),
    }  # fmt: skip


def _group_view(found: GroupState) -> SettingGroupView:
    return SettingGroupView(
        **_brief(found.group, found.by_state),
        expected_by=found.expected_by,
        settings=[_view(one) for one in found.members],
        refused=[RefusedSettingView.model_validate(one) for one in found.group.refused],
    )


def _all_refused(found: GroupState) -> ProblemDetail:
    first = found.group.refused[0]
    return ProblemDetail(
        title="SettingRefused",
        status=400,
        code="setting_refused",
        detail=f"nothing is set in any device: {first['message']}",
        detail_zh=f"没有可设置的设备:{first['message_zh']}",
        facts={"group_id": found.group.group_id, "refused": [dict(one) for one in found.group.refused]},
    )
