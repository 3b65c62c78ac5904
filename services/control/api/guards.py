"""The guards over HTTP: what they compare with, what they would say of a load now, and the policies behind them."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from libs.common.contracts.base import UtcTime
from libs.common.errors import NotFound
from libs.common.tokens import Principal
from libs.common.web import Cursor, Limit, Page, read_time_cursor, time_cursor
from services.control.api.common import (
    LOOK_MAX_AGE_S,
    Model,
    Read,
    Switch,
    View,
    actor_of,
    allowed,
    door_of,
    known_load,
    require_all_sites,
    require_sites,
)
from services.control.domain.guards import PROTECTION_TRIPS, Hold, Policy
from services.control.domain.kinds import BY_KIND
from services.control.domain.places import EmergencyMode
from services.control.domain.policies import Scope
from services.control.drivers.door import Board
from services.control.store.policies import PolicyRow
from services.control.usecases.guardrules import Explanation, GuardRules
from services.control.usecases.ports import Loads


class GuardView(View):
    """One guard with the value that it compares with and, for one load, what it would say now."""

    guard: str
    limit: Any
    unit: str | None
    stops: Literal["off", "on"]
    description: str
    description_zh: str
    said_by: str | None = None
    """Which policy sets the limit, such as ``site:s-1``; ``kind:…`` where the kind of the load needs it by itself,
    ``settings`` where neither does."""
    why: str | None = None
    """Why the kind of the load needs it."""
    why_zh: str | None = None
    value: Any = None
    """What the guard sees of the load."""
    refuses: bool | None = None
    """Whether it would refuse an OFF of the load now; absent without a load."""
    is_final: bool | None = None
    """Whether waiting would not help."""
    message: str | None = None
    message_zh: str | None = None


class PolicyIn(Model):
    """What a policy says; it replaces what the same scope and target said before."""

    limits: dict[str, bool | int | float | list[str] | None]
    """Limits by name; those that are not said are left to the more general policies."""
    source: str = Field(min_length=1, max_length=500)
    """Where the limits come from: an order, a rule, a reason."""


class RemoveIn(Model):
    """Why a policy is taken away."""

    reason: str = Field(min_length=1, max_length=500)


class PolicyView(View):
    """One version of a policy."""

    revision: int
    scope: Scope
    target: str
    limits: dict[str, Any] | None
    """Absent: the policy was taken away."""
    source: str
    changed_by: str
    changed_at: UtcTime


class EmergencyIn(Model):
    """Declare emergency mode: nothing is switched off there until a person ends it."""

    scope: Literal["site", "region", "all"]
    target: str = Field(default="", max_length=200)
    """Site or region; empty for all."""
    reason: str = Field(min_length=1, max_length=500)


class EndIn(Model):
    """Why emergency mode ends."""

    reason: str = Field(default="", max_length=500)


class EmergencyView(View):
    """Emergency mode of a place."""

    emergency_id: str
    scope: str
    target: str
    reason: str
    declared_by: str
    declared_at: UtcTime
    ended_by: str | None
    ended_at: UtcTime | None


PLAIN: tuple[tuple[str, str, str], ...] = (
    ("restore_at_missing", "an OFF without a wake-up is an isolation", "无唤醒时间的分闸须走检修隔离"),
    ("never_off", "the load may never be off", "负载禁止关断"),
    ("no_breaker", "the load has no breaker", "负载没有断路器"),
    ("no_sector", "a radio unit without a sector enters no plan", "无扇区的射频单元不得进入策略"),
    ("no_line", "the breaker hangs on no line", "断路器未接入线路"),
    ("unknown_load", "the registry has no such load", "档案中没有该负载"),
    ("emergency", "a wake-up order is in force", "一键唤醒生效中"),
    ("emergency_mode", "a person has declared emergency mode for the place", "应急模式生效中"),
    ("isolation", "a work permit of somebody else is active", "他人的检修隔离生效中"),
    ("already_off", "another OFF of the load is in force", "负载已处于关断状态"),
    ("already_pending", "another OFF of the load is on its way", "负载已有待执行的分闸命令"),
    ("guards_unknown", "what the guards need could not be read", "无法读取闭锁判断所需信息"),
    ("clock_not_synchronised", "our clock cannot be trusted", "平台时钟未同步"),
    ("restarting", "a restart of the device was sent and is not proven over", "设备重启尚未确认结束"),
    ("local_lock", "the breaker is locked at the device", "断路器就地锁定"),
    ("protection_trip", "the breaker shows a protection trip, which would stop the wake-up", "断路器显示保护跳闸"),
    ("watchdog_unreachable", "the watchdog has not acknowledged the lease", "看门狗未确认租约"),
    ("condition_power", "the plan's condition on power is not met", "策略的功率条件不满足"),
    ("condition_traffic_load", "the plan's condition on traffic is not met", "策略的话务负荷条件不满足"),
    ("condition_temperature_outdoor", "the plan's condition on the weather is not met", "策略的室外温度条件不满足"),
    ("condition_tariff_band", "the plan's condition on the tariff is not met", "策略的电价时段条件不满足"),
    ("stale_power", "power is not known well enough for the plan's condition", "功率数据不足以判断策略条件"),
    ("stale_traffic_load", "traffic is not known well enough for the plan's condition", "话务数据不足以判断策略条件"),
    ("stale_temperature_outdoor", "outdoor temperature is not known well enough", "室外温度数据不足以判断策略条件"),
    ("opted_out", "the site has opted out of what upstream apps order", "站点已退出上层应用的关断"),
    ("app_no_limits", "no limits are set for the upstream app", "未为该上层应用设置权限"),
    ("app_action", "the upstream app may not order this", "上层应用无权执行该操作"),
    ("app_load", "the load is not on the upstream app's list", "负载不在上层应用的清单内"),
    ("app_device", "the device to be set is not on the upstream app's list", "待设定的设备不在上层应用的清单内"),
    ("app_max_off", "loads that are off by the upstream app's orders", "上层应用同时关断的负载数"),
    ("app_longest_off", "longest OFF of the upstream app", "上层应用最长关断时长"),
    ("app_window", "times of day at which the upstream app may switch off", "上层应用允许关断的时段"),
    ("app_rate", "orders of the upstream app within an hour and a day", "上层应用每小时、每日下令次数"),
    ("app_plan_approval", "an operator approves plans of upstream apps", "上层应用的策略须由操作员批准"),
)
"""Guards of an OFF that hold or do not: name, English, Chinese."""

LIMITED: tuple[tuple[str, str, str | None, str, str], ...] = (
    ("coverage_layer", "coverage_layer_stays", None, "units of the coverage layer stay on", "覆盖层单元保持开启"),
    ("coverage_sector", "min_on_sector", "1", "radio units of the sector that stay on", "扇区内最少开启射频单元数"),
    ("coverage_site", "min_on_site", "1", "radio units of the site that stay on", "站点内最少开启射频单元数"),
    ("max_off_site", "max_off_site", "1", "loads of the site that are off at once", "站点同时关断负载数上限"),
    ("max_off_region", "max_off_region", "1", "loads of a region that are off at once", "区域同时关断负载数上限"),
    ("command_latency", "max_command_latency_s", "s", "the device hears commands too late", "设备命令时延过长"),
    ("too_little_left", "min_off_s", "s", "minimum off time", "最小关断时长"),
    ("too_late", "off_grace_s", "s", "a late OFF is dropped", "迟到的分闸命令被丢弃"),
    ("min_on_time", "min_on_s", "s", "minimum on time", "最小运行时长"),
    ("stale_data", "stale_after_s", "s", "the breaker was not read recently", "断路器数据过期"),
    ("switches_per_day", "max_offs_per_day", "1", "OFFs of one load in 24 hours", "24 小时内分闸次数"),
    ("maintenance", "maintenance", None, "a maintenance window is open over the load", "维护窗口生效中"),
    (
        "active_alarm",
        "alarm_level",
        "1",
        "an alarm of the site is active: this level or worse",
        "站点存在该级别及以上活动告警",
    ),
    (
        "active_alarm",
        "device_alarm_level",
        "1",
        "the same of the breaker or its meter",
        "断路器或电表存在该级别及以上活动告警",
    ),
    ("active_alarm", "alarm_signals", None, "an alarm with such a signal is active", "存在所列信号的活动告警"),
    ("backup_power", "backup_power_signals", None, "battery or generator feeds the site", "站点由蓄电池或油机供电"),
    ("two_persons", "two_persons", None, "a second person agrees to every order", "每个命令须另一人批准"),
    (
        "two_persons",
        "two_persons_above",
        "1",
        "a second person agrees to orders of more loads",
        "超过该负载数的命令须另一人批准",
    ),
)
"""Guards of an OFF with a limit: name, the limit of a policy, unit, English, Chinese."""


def list_of_guards(policy: Policy, found: Explanation | None = None) -> list[GuardView]:
    """Return every guard with its limit and, given an explanation, what it says of the load."""
    views = [
        _with_load(
            GuardView(guard=guard, limit=None, unit=None, stops="off", description=english, description_zh=chinese),
            found,
        )
        for guard, english, chinese in PLAIN
    ]
    said_by = {} if found is None else found.effective.said_by
    for guard, name, unit, english, chinese in LIMITED:
        speaker = said_by.get(name, "settings")
        kind = BY_KIND.get(speaker.removeprefix("kind:")) if speaker.startswith("kind:") else None
        view = GuardView(
            guard=guard, limit=getattr(policy, name), unit=unit, stops="off", description=english,
            description_zh=chinese, said_by=speaker, why=None if kind is None else f"{kind.why} ({kind.source})",
            why_zh=None if kind is None else kind.why_zh,
        )  # fmt: skip
        views.append(_with_load(view, found))
    holds = (
        (Hold.ISOLATION, None, "a work permit is active", "检修隔离生效中"),
        (Hold.LOCAL_LOCK, None, "the breaker is locked at the device", "断路器就地锁定"),
        (Hold.PROTECTION_TRIP, dict(PROTECTION_TRIPS), "a trip that nobody has released", "保护跳闸未解除"),
    )
    views += [
        GuardView(guard=hold.value, limit=limit, unit=None, stops="on", description=english, description_zh=chinese)
        for hold, limit, english, chinese in holds
    ]
    return views


def _with_load(view: GuardView, found: Explanation | None) -> GuardView:
    if found is None:
        return view
    changes: dict[str, Any] = {"value": found.values.get(view.guard), "refuses": False}
    refusal = next((one for one in found.refusals if one.guard == view.guard), None)
    if refusal is not None:
        english, chinese = refusal.words()
        changes |= {
            "value": refusal.value, "refuses": True, "is_final": refusal.is_final, "message": english,
            "message_zh": chinese,
        }  # fmt: skip
    return view.model_copy(update=changes)


def build_guard_router(rules: GuardRules, loads: Loads, board: Board, settings: Policy) -> APIRouter:
    """Return the routes of the guards."""
    router = APIRouter(prefix="/api/v1/guards", tags=["guards"])

    @router.get("", summary="List what forbids an OFF and stops an ON; of one load: what would be said now")
    async def list_guards(
        who: Read, load: Annotated[str | None, Query(description="explain for this load, with values")] = None
    ) -> list[GuardView]:
        if load is None:
            return list_of_guards(settings)
        about = known_load(loads, load)
        if not allowed(who, about):
            raise NotFound(f"no load {load}", message_zh=f"没有负载 {load}")
        await board.refresh(LOOK_MAX_AGE_S)
        found = await rules.explain(about)
        return list_of_guards(found.effective.policy, found)

    @router.get("/policies", summary="List the policies that hold")
    async def list_policies(_: Read) -> list[PolicyView]:
        return [_policy_view(row) for row in await rules.policies()]

    @router.get("/policies/{scope}/{target}", summary="List the versions of a policy, the youngest first")
    async def list_versions(_: Read, scope: Scope, target: str, limit: Limit = 100) -> list[PolicyView]:
        return [_policy_view(row) for row in await rules.versions(scope, target, limit)]

    @router.put("/policies/{scope}/{target}", summary="Set a policy")
    async def put_policy(scope: Scope, target: str, body: PolicyIn, who: Switch) -> PolicyView:
        _require_scope(who, scope, target, loads)
        return _policy_view(
            await rules.put_policy(scope, target, body.limits, body.source, actor_of(who), door_of(who))
        )

    @router.post("/policies/{scope}/{target}/remove", summary="Take a policy away")
    async def remove_policy(scope: Scope, target: str, body: RemoveIn, who: Switch) -> PolicyView:
        _require_scope(who, scope, target, loads)
        return _policy_view(await rules.drop_policy(scope, target, body.reason, actor_of(who), door_of(who)))

    @router.get("/emergencies", summary="List emergency modes, the youngest first")
    async def list_emergencies(_: Read, cursor: Cursor = None, limit: Limit = 100) -> Page[EmergencyView]:
        found = await rules.emergencies(None if cursor is None else read_time_cursor(cursor), limit)
        following = time_cursor(found[-1].declared_at, found[-1].emergency_id) if len(found) == limit else None
        return Page(items=[_emergency_view(mode) for mode in found], next_cursor=following)

    @router.post("/emergencies", status_code=201, summary="Declare emergency mode: no OFF there until a person ends it")
    async def declare(body: EmergencyIn, who: Switch) -> EmergencyView:
        _require_place(who, body.scope, body.target, loads)
        return _emergency_view(await rules.declare(body.scope, body.target, body.reason, actor_of(who), door_of(who)))

    @router.post("/emergencies/{emergency_id}/end", summary="End emergency mode")
    async def end(emergency_id: str, body: EndIn, who: Switch) -> EmergencyView:
        mode = await rules.emergency(emergency_id)
        _require_place(who, mode.scope, mode.target, loads)
        return _emergency_view(await rules.end_emergency(emergency_id, body.reason, actor_of(who), door_of(who)))

    return router


def _require_scope(who: Principal, scope: Scope, target: str, loads: Loads) -> None:
    """Check that the policy concerns the caller's part of the site tree alone."""
    match scope:
        case Scope.LOAD:
            require_sites(who, [loads.get(target)])
        case Scope.SITE:
            require_sites(who, loads.at_site(target))
        case _:
            require_all_sites(who)


def _require_place(who: Principal, scope: str, target: str, loads: Loads) -> None:
    if scope == "site":
        require_sites(who, loads.at_site(target))
    elif scope == "region":
        require_sites(who, [load for load in loads.all() if target in load.region_ids])
    else:
        require_all_sites(who)


def _policy_view(row: PolicyRow) -> PolicyView:
    return PolicyView(
        revision=row.revision, scope=Scope(row.scope), target=row.target,
        limits=None if row.limits is None else dict(row.limits), source=row.source, changed_by=row.changed_by,
        changed_at=row.changed_at,
    )  # fmt: skip


def _emergency_view(mode: EmergencyMode) -> EmergencyView:
    return EmergencyView.model_validate(mode, from_attributes=True)
