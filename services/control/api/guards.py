"""The guards with their values, as people read them."""

from typing import Any, Literal

from fastapi import APIRouter

from services.control.api.common import Read, View
from services.control.domain.guards import PROTECTION_TRIPS, Hold, Policy


class GuardView(View):
    """One guard with the value that it compares with."""

    guard: str
    limit: Any
    unit: str | None
    stops: Literal["off", "on"]
    description: str
    description_zh: str


PLAIN: tuple[tuple[str, str, str], ...] = (
    ("restore_at_missing", "an OFF without a wake-up is an isolation", "无唤醒时间的分闸须走检修隔离"),
    ("never_off", "the load may never be off", "负载禁止关断"),
    ("no_breaker", "the load has no breaker", "负载没有断路器"),
    ("no_sector", "a radio unit without a sector enters no plan", "无扇区的射频单元不得进入策略"),
    ("no_line", "the breaker hangs on no line", "断路器未接入线路"),
    ("unknown_load", "the registry has no such load", "档案中没有该负载"),
    ("emergency", "a wake-up order is in force", "一键唤醒生效中"),
    ("isolation", "a work permit of somebody else is active", "他人的检修隔离生效中"),
    ("already_off", "another OFF of the load is in force", "负载已处于关断状态"),
    ("already_pending", "another OFF of the load is on its way", "负载已有待执行的分闸命令"),
    ("clock_not_synchronised", "our clock cannot be trusted", "平台时钟未同步"),
    ("local_lock", "the breaker is locked at the device", "断路器就地锁定"),
    ("protection_trip", "the breaker shows a protection trip, which would stop the wake-up", "断路器显示保护跳闸"),
    ("watchdog_unreachable", "the watchdog has not acknowledged the lease", "看门狗未确认租约"),
)
"""Guards of an OFF that hold or do not: name, English, Chinese."""


def list_of_guards(policy: Policy) -> list[GuardView]:
    """Return every guard with its value."""
    measured: tuple[tuple[str, float, str, str, str], ...] = (
        (
            "command_latency",
            policy.max_command_latency_s,
            "s",
            "the device hears commands too late",
            "设备命令时延过长",
        ),
        ("too_little_left", policy.min_off_s, "s", "minimum off time", "最小关断时长"),
        ("too_late", policy.off_grace_s, "s", "a late OFF is dropped", "迟到的分闸命令被丢弃"),
        ("min_on_time", policy.min_on_s, "s", "minimum on time", "最小运行时长"),
        ("stale_data", policy.stale_after_s, "s", "the breaker was not read recently", "断路器数据过期"),
        ("switches_per_day", policy.max_offs_per_day, "1", "OFFs of one load in 24 hours", "24 小时内分闸次数"),
    )
    found = [
        GuardView(guard=guard, limit=None, unit=None, stops="off", description=english, description_zh=chinese)
        for guard, english, chinese in PLAIN
    ]
    found += [
        GuardView(guard=guard, limit=limit, unit=unit, stops="off", description=english, description_zh=chinese)
        for guard, limit, unit, english, chinese in measured
    ]
    holds = (
        (Hold.ISOLATION, None, "a work permit is active", "检修隔离生效中"),
        (Hold.LOCAL_LOCK, None, "the breaker is locked at the device", "断路器就地锁定"),
        (Hold.PROTECTION_TRIP, dict(PROTECTION_TRIPS), "a trip that nobody has released", "保护跳闸未解除"),
    )
    found += [
        GuardView(guard=hold.value, limit=limit, unit=None, stops="on", description=english, description_zh=chinese)
        for hold, limit, english, chinese in holds
    ]
    return found


def build_guard_router(policy: Policy) -> APIRouter:
    """Return the route of the guards."""
    router = APIRouter(prefix="/api/v1", tags=["guards"])

    @router.get("/guards", summary="List what forbids an OFF, and what stops an ON")
    async def list_guards(_: Read) -> list[GuardView]:
        return list_of_guards(policy)

    return router
