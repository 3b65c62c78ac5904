"""Plans of set points: what people do with them, and what time does.

A window's begin and its end are orders for many devices (``adjusting``), with everything that holds for these: limits,
one order per device, switching first, read back, told and put on record. A window is one row; the order of a step and
the step itself are one transaction, so that nothing is ordered twice.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from libs.common.contracts.control import CommandAction
from libs.common.db import Database, ReadConn, WriteConn
from libs.common.errors import Conflict, Forbidden, InvalidInput, NotFound, PlatformError
from libs.common.ids import PlanId, new_id
from services.control.domain.adjusting import action_of
from services.control.domain.audit import CLOCKWORK, PLAN, SERVICE, Entry, plan_step
from services.control.domain.plans import (
    InvalidPlan,
    PlanState,
    Preview,
    Schedule,
    WindowInstance,
    ends_at,
    require_transition,
    summary,
)
from services.control.domain.setpointplans import (
    MAX_DEVICES,
    SetpointPlan,
    SetpointWindow,
    WindowState,
    begun,
    check_times,
    finished,
    is_too_late,
)
from services.control.domain.setpoints import SetpointRule
from services.control.store import adjustments as adjustment_store
from services.control.store import orders as order_store
from services.control.store import setpointplans as store
from services.control.store.orders import WakeUp
from services.control.usecases.adjusting import (
    Adjustable,
    Adjusting,
    Devices,
    NotAdjustable,
    SetpointRefused,
    SettingOrder,
    meant,
)
from services.control.usecases.auditing import record
from services.control.usecases.calendars import fetch_days
from services.control.usecases.ports import Loads, SteadyClock
from services.control.usecases.setpoints import fetch_book

logger = logging.getLogger(__name__)

SET_BACK_FOR = timedelta(days=1)
"""A device that is asleep when a window ends is waited for so long."""
POSTPONED = timedelta(seconds=60)
"""A window is tried again after this when what it needs cannot be read; the others go on meanwhile."""
SHOWN = 100
"""Devices that are listed with the reason."""
CheckDevices = Callable[[Sequence[Adjustable]], None]


class AtRest(Conflict):
    """Plans over the device rest: a wake-up order is in force."""

    code = "emergency"
    title_zh = "一键唤醒生效中"


class SetAlready(Conflict):
    """Another plan sets the same point in one of the devices at such a time."""

    code = "setpoint_plan_overlap"
    title_zh = "设定值策略时段重叠"


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants to be set."""

    name: str
    target: Mapping[str, Any]
    point: str
    value: float
    value_after: float
    unit: str | None
    schedule: Schedule
    calendar_ids: tuple[str, ...]
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Amount:
    """What a plan amounts to."""

    preview: Preview
    device_ids: tuple[str, ...]
    rule: SetpointRule | None
    """For which a second person has to approve it."""
    rule_value: float
    """The value that breaks it."""
    rival: tuple[str, str] | None
    """Id and name of a plan in force that forbids it to be approved."""


class SetpointPlans:
    """What becomes of plans of set points."""

    def __init__(
        self,
        *,
        db: Database,
        clock: SteadyClock,
        adjusting: Adjusting,
        devices: Devices,
        loads: Loads,
        two_persons: bool,
    ) -> None:
        """Prepare.

        Args:
            db: Control's database.
            clock: The time.
            adjusting: Takes the orders.
            devices: The registry's devices.
            loads: The registry's loads, whose plans one key lets rest.
            two_persons: Whether whoever drafted a plan may not approve it.
        """
        self._db = db
        self._clock = clock
        self._adjusting = adjusting
        self._devices = devices
        self._loads = loads
        self._two_persons = two_persons

    # What people do.

    async def preview(self, wish: Wish, *, check: CheckDevices = lambda _: None) -> Amount:
        """Return what a plan would amount to, without storing it.

        Raises:
            InvalidPlan: It cannot be followed; every device that cannot be set so is listed.
            NotFound: It means no device.
        """
        async with self._db.read() as conn:
            return await self._amount(conn, self._planned(wish, ""), wish.unit, check)

    async def draft(
        self, wish: Wish, actor: str, door: str, *, check: CheckDevices = lambda _: None
    ) -> tuple[SetpointPlan, Amount]:
        """Store a draft.

        Raises:
            InvalidPlan: It cannot be followed; every device that cannot be set so is listed.
            NotFound: It means no device.
        """
        plan = self._planned(wish, actor)
        async with self._db.write() as conn:
            found = await self._amount(conn, plan, wish.unit, check)
            plan = replace(plan, device_ids=found.device_ids)
            await store.insert(conn, plan)
            await record(conn, plan_step(None, plan, actor, door, "setpoint_plan.draft", plan.created_at))
        return plan, found

    async def approve(
        self, plan_id: str, actor: str, door: str, *, check: CheckDevices = lambda _: None
    ) -> SetpointPlan:
        """Put a draft into force for the devices that it means now, with all its windows.

        Raises:
            NotFound: There is no such plan, or it means no device any more.
            PlanTransitionRefused: It is no draft.
            Forbidden: A rule for set points, or the setting, asks for a second person.
            InvalidPlan: It has become impossible since it was drafted.
            SetAlready: Another plan sets the point in one of the devices at such a time.
        """
        now = self._clock.now()
        async with self._db.write() as conn:
            await store.serialise(conn)
            plan = await self._lock(conn, plan_id)
            require_transition(plan_id, plan.state, PlanState.APPROVED)
            found = await self._amount(conn, plan, None, check)
            if plan.created_by == actor and (self._two_persons or found.rule is not None):
                why = "policy" if found.rule is None else f"rule {found.rule.name}"
                raise Forbidden(
                    f"{why} asks that somebody else than its author approves the plan",
                    message_zh=f"按策略或规则要求({why}),须由制定者以外的人批准",
                )
            if found.rival is not None:
                other, name = found.rival
                raise SetAlready(
                    f"plan {name} ({other}) sets {plan.point} in some of the devices at such a time",
                    message_zh=f"策略 {name}({other})在相同时段设定部分设备的 {plan.point}",
                    plan_id=other,
                )
            approved = replace(
                plan, state=PlanState.APPROVED, approved_by=actor, approved_at=now, device_ids=found.device_ids
            )
            await store.update_state(conn, approved)
            ahead = [one for one in await self._windows(conn, approved) if one.on_at > now]
            await store.insert_windows(conn, plan_id, ahead, now)
            await record(conn, plan_step(plan, approved, actor, door, "setpoint_plan.approve", now))
        return approved

    async def end(self, plan_id: str, reason: str, actor: str, door: str) -> SetpointPlan:
        """End a plan before its time: nothing more is begun; what has begun is set back at the end of its window.

        Raises:
            NotFound: There is no such plan.
            PlanTransitionRefused: It has ended.
        """
        now = self._clock.now()
        async with self._db.write() as conn:
            plan = await self._lock(conn, plan_id)
            require_transition(plan_id, plan.state, PlanState.ENDED)
            ended = replace(plan, state=PlanState.ENDED, ended_by=actor, ended_at=now, end_reason=reason or "ended")
            await store.update_state(conn, ended)
            await store.call_off(conn, plan_id, "plan_ended", now)
            await record(conn, plan_step(plan, ended, actor, door, "setpoint_plan.end", now))
        return ended

    async def export(self, plan_id: str) -> tuple[SetpointPlan, list[WindowInstance]]:
        """Return a plan with all its windows.

        Raises:
            NotFound: There is no such plan.
        """
        async with self._db.read() as conn:
            plan = await store.fetch(conn, plan_id)
            if plan is None:
                raise _no_plan(plan_id)
            return plan, await self._windows(conn, plan)

    # What time does.

    async def tick(self) -> bool:
        """Do what is due, one window in a transaction; return whether there may be more."""
        if not self._devices.is_ready:
            return False  # a device that has not been read yet is not an unknown one
        now = self._clock.now()
        async with self._db.write() as conn:
            for plan, is_over in await store.lock_to_advance(conn, now):
                await self._advance(conn, plan, now, is_over=is_over)
        window: SetpointWindow | None = None
        try:
            async with self._db.write() as conn:
                due = await store.lock_due(conn, now)
                if due is None:
                    return False
                await adjustment_store.serialise_orders(conn)
                plan, window = due
                step = self._begin if window.state is WindowState.PLANNED else self._finish
                after = await step(conn, plan, window, now)
                await store.update_window(conn, after, now)
        except InvalidInput as exc:  # such as a rule of a newer release, which we cannot read
            if window is None:
                raise
            logger.error("window cannot be followed", extra={"plan_id": window.plan_id, "reason": exc.message})
            async with self._db.write() as conn:
                await store.postpone(conn, window, exc.code, now + POSTPONED)
        return True

    async def _advance(self, conn: WriteConn, plan: SetpointPlan, now: datetime, *, is_over: bool) -> None:
        if is_over:
            after = replace(plan, state=PlanState.ENDED, ended_at=now, end_reason="finished")
        else:
            after = replace(plan, state=PlanState.ACTIVE)
        await store.update_state(conn, after)
        action = "setpoint_plan.end" if is_over else "setpoint_plan.activate"
        why = None if is_over else "first_date_reached"
        await record(conn, plan_step(plan, after, CLOCKWORK, SERVICE, action, now, why=why))

    async def _begin(
        self, conn: WriteConn, plan: SetpointPlan, window: SetpointWindow, now: datetime
    ) -> SetpointWindow:
        """Order a window's value in the devices that are free."""
        wanted = window.left or plan.device_ids
        if is_too_late(window, now):
            after = begun(window, (), (), None, "too_late", now)
        else:
            busy = await adjustment_store.fetch_being_set(conn, wanted, plan.point)
            free = [device_id for device_id in wanted if device_id not in busy]
            ordered, group_id, why = await self._order(conn, plan, free, plan.value, window.end_at - now, now)
            after = begun(window, ordered, [one for one in wanted if one in busy], group_id, why, now)
        if after.state is WindowState.SKIPPED:
            await record(conn, _skipped(plan, after, now))
        return after

    async def _finish(
        self, conn: WriteConn, plan: SetpointPlan, window: SetpointWindow, now: datetime
    ) -> SetpointWindow:
        """Order the value after a window in the devices in which its own was ordered, however late it is."""
        for begin in () if window.left else window.begin_groups:
            if await adjustment_store.lock_waiting(conn, group_id=begin):  # nobody may agree to it afterwards
                await self._adjusting.decline(conn, CLOCKWORK, SERVICE, "window_over", group_id=begin)
        wanted = window.left or window.set_in
        busy = await adjustment_store.fetch_being_set(conn, wanted, plan.point)
        free = [device_id for device_id in wanted if device_id not in busy]
        _, group_id, _ = await self._order(conn, plan, free, plan.value_after, SET_BACK_FOR, now, is_end=True)
        return finished(window, [one for one in wanted if one in busy], group_id, now)

    async def _order(
        self,
        conn: WriteConn,
        plan: SetpointPlan,
        device_ids: Sequence[str],
        value: float,
        valid_for: timedelta,
        now: datetime,
        *,
        is_end: bool = False,
    ) -> tuple[list[str], str | None, str]:
        """Order a value; return the devices in which it was taken, the order, and why it was not in the first other."""
        if not device_ids:
            return [], None, ""
        known = {device_id: self._devices.get(device_id) for device_id in device_ids}
        there = [device for device in known.values() if device is not None]
        left_out: list[tuple[str, PlatformError]] = [
            (device_id, _gone(device_id)) for device_id, device in known.items() if device is None
        ]
        if not is_end:
            resting = await self._resting(conn, there)
            there = [device for device in there if device.device_id not in resting]
            left_out += resting.items()
        order = SettingOrder(
            action=CommandAction.SET_POINT, point=plan.point, value=value, unit=None, actor=f"plan:{plan.plan_id}",
            door=PLAN, note=plan.name, valid_for=valid_for, agreed=plan.is_agreed,
        )  # fmt: skip
        target = {"plan_id": plan.plan_id, "device_ids": list(device_ids)}
        made = await self._adjusting.order_many(conn, there, order, target, left_out=left_out)
        why = str(made.group.refused[0]["guard"]) if made.group.refused else ""
        return [one.device_id for one in made.members], made.group.group_id, why

    async def _resting(self, conn: WriteConn, devices: Sequence[Adjustable]) -> dict[str, PlatformError]:
        """Return the devices over which plans rest: by their place, or because a load behind them was woken."""
        orders = await order_store.fetch_suspending(conn)
        if not orders:
            return {}
        ids = {device.device_id for device in devices}
        load_of = {str(load.load_id): str(load.device_id) for load in self._loads.all() if load.device_id in ids}
        suspended = await order_store.fetch_suspended(conn, list(load_of))
        found = {load_of[load_id]: wake_up_id for load_id, wake_up_id in suspended.items()}
        for device in devices:
            order = next((one for one in orders if _covers(one, device)), None)
            if order is not None:
                found[device.device_id] = order.wake_up_id
        return {device_id: _at_rest(device_id, wake_up_id) for device_id, wake_up_id in found.items()}

    # Inside.

    async def _amount(
        self, conn: ReadConn | WriteConn, plan: SetpointPlan, unit: str | None, check: CheckDevices
    ) -> Amount:
        """Return what a plan amounts to.

        Raises:
            InvalidPlan: It cannot be followed.
            NotFound: It means no device.
        """
        check_times(plan.schedule)
        if action_of(plan.point) is not CommandAction.SET_POINT:
            raise InvalidPlan(
                f"point: a plan sets points such as temperature_setpoint, not {plan.point}",
                message_zh=f"point 应为 temperature_setpoint 等设定值,不能是 {plan.point}",
                field="point",
            )
        if ends_at(plan.schedule) <= self._clock.now():
            raise InvalidPlan("last_date: the plan lies in the past", message_zh="策略已过期", field="last_date")
        devices = meant(self._devices, plan.target)
        check(devices)
        if len(devices) > MAX_DEVICES:
            raise InvalidPlan(
                f"a plan sets at most {MAX_DEVICES} devices, found {len(devices)}",
                message_zh=f"一个策略最多设定 {MAX_DEVICES} 个设备,实际为 {len(devices)} 个",
                field="device_ids",
            )
        windows = await self._windows(conn, plan)
        if not windows:
            raise InvalidPlan(
                "the plan has no window: weekdays, exceptions and calendars leave no date",
                message_zh="策略没有任何时段:星期、例外日期和日历排除了所有日期",
                field="exceptions",
            )
        rule, rule_value = await self._rule(conn, plan, unit, devices, windows)
        ids = tuple(device.device_id for device in devices)
        rival = await store.find_rival(conn, replace(plan, device_ids=ids), windows)
        return Amount(summary(windows), ids, rule, rule_value, rival)

    async def _rule(
        self,
        conn: ReadConn | WriteConn,
        plan: SetpointPlan,
        unit: str | None,
        devices: Sequence[Adjustable],
        windows: Sequence[WindowInstance],
    ) -> tuple[SetpointRule | None, float]:
        """Return the first rule for which a second person has to agree, and the value that breaks it.

        Both values are judged at their times.

        Raises:
            InvalidPlan: Devices cannot be set so, or a rule forbids it in one of the windows; they are listed.
        """
        book = await fetch_book(conn)
        steps = [
            (plan.value, _days([one.off_at for one in windows])),
            (plan.value_after, _days([one.on_at for one in windows])),
        ]
        refused: dict[str, PlatformError] = {}
        rule, rule_value = None, plan.value
        for device in devices:
            for value, times in steps:
                order = SettingOrder(
                    action=CommandAction.SET_POINT, point=plan.point, value=value, unit=unit, actor="", door="",
                    note=None, valid_for=timedelta(),
                )  # fmt: skip
                try:
                    found = self._adjusting.try_out(book, device, order, times)
                except (NotAdjustable, SetpointRefused) as exc:
                    refused.setdefault(device.device_id, exc)
                else:
                    if rule is None and found is not None:
                        rule, rule_value = found, value
        if refused:
            first = next(iter(refused.values()))
            raise InvalidPlan(
                f"{len(refused)} device(s) cannot be set so: {first.both.english}",
                message_zh=f"{len(refused)} 个设备不能这样设定:{first.both.chinese}",
                field="value",
                devices=[
                    {"device_id": device_id, "guard": exc.facts.get("guard", exc.code), "value": exc.facts.get("value"),
                     "limit": exc.facts.get("limit"), "message": exc.both.english, "message_zh": exc.both.chinese}
                    for device_id, exc in list(refused.items())[:SHOWN]
                ],
            )  # fmt: skip
        return rule, rule_value

    async def _windows(self, conn: ReadConn | WriteConn, plan: SetpointPlan) -> list[WindowInstance]:
        days = await fetch_days(conn, plan.schedule, plan.calendar_ids)
        return list(days.instances(plan.schedule))

    def _planned(self, wish: Wish, actor: str) -> SetpointPlan:
        return SetpointPlan(
            plan_id=PlanId(new_id()), name=wish.name, state=PlanState.DRAFT, target=wish.target, device_ids=(),
            point=wish.point, value=wish.value, value_after=wish.value_after, schedule=wish.schedule,
            calendar_ids=wish.calendar_ids, created_by=actor, created_at=self._clock.now(), note=wish.note,
        )  # fmt: skip

    async def _lock(self, conn: WriteConn, plan_id: str) -> SetpointPlan:
        plan = await store.lock(conn, plan_id)
        if plan is None:
            raise _no_plan(plan_id)
        return plan


def _days(times: Sequence[datetime]) -> list[datetime]:
    """Return one time of each hour of the year in which there is one: a season begins and ends with a day somewhere."""
    return list({(one.month, one.day, one.hour): one for one in times}.values())


def _covers(order: WakeUp, device: Adjustable) -> bool:
    """Return whether plans over a device rest by an order for its place."""
    places: Mapping[str, Sequence[str]] = {
        "site": [device.site_id], "region": device.region_ids, "device": [device.device_id],
    }  # fmt: skip
    return order.scope == "all" or order.target in places.get(order.scope, ())


def _no_plan(plan_id: str) -> NotFound:
    return NotFound(f"no plan {plan_id}", message_zh=f"没有策略 {plan_id}")


def _gone(device_id: str) -> NotAdjustable:
    return NotAdjustable(
        f"there is no device {device_id}", message_zh=f"设备 {device_id} 不存在", guard="unknown_device"
    )


def _at_rest(device_id: str, wake_up_id: str) -> AtRest:
    return AtRest(
        f"{device_id}: the wake-up order {wake_up_id} is in force until a person releases it",
        message_zh=f"{device_id}:一键唤醒 {wake_up_id} 生效中,须人工解除", guard="emergency", value=wake_up_id,
    )  # fmt: skip


def _skipped(plan: SetpointPlan, window: SetpointWindow, now: datetime) -> Entry:
    """Return the record of a window in which nothing is set."""
    after = {
        "state": window.state, "start_local": window.start_local.isoformat(), "begin_at": window.begin_at,
        "end_at": window.end_at, "group_ids": list(window.begin_groups),
    }  # fmt: skip
    return Entry(
        f"plan:{plan.plan_id}", PLAN, "setpoint_plan.skip", f"plan:{plan.plan_id}", now,
        before={"state": WindowState.PLANNED}, after=after, reason=window.reason, succeeded=False,
    )  # fmt: skip
