"""Plans of set points over HTTP."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from typing import Any

from fastapi import APIRouter, Response
from pydantic import Field

from libs.common.clock import Clock
from libs.common.contracts.base import Number, UtcTime
from libs.common.db import Database
from libs.common.errors import NotFound
from libs.common.tokens import Principal
from libs.common.web import Cursor, Limit, Page, read_time_cursor, time_cursor
from services.control.api.adjustments import PlaceIn, require_devices
from services.control.api.common import Read, Switch, View, Write, actor_of, door_of
from services.control.api.plans import EndIn, TimesModel, WindowModel
from services.control.directory import RegistryDevices
from services.control.domain.calendars import DayClass
from services.control.domain.plans import PlanState
from services.control.domain.setpointplans import SetpointPlan, SetpointWindow, WindowState
from services.control.domain.setpoints import words
from services.control.files.calendar_file import write_setpoint_plan
from services.control.store import setpointplans as store
from services.control.usecases.adjusting import Adjustable
from services.control.usecases.setpointplans import Amount, CheckDevices, SetpointPlans, Wish


class SetpointScheduleIn(PlaceIn, TimesModel):
    """A value from the begin of each window on and another from its end on, in many devices; nothing is switched."""

    point: str = Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=100, examples=["temperature_setpoint"])
    value: Number
    """From the begin of a window on."""
    value_after: Number
    """From its end on."""
    unit: str | None = None
    """Of both; refused when it is not the point's."""


class SetpointPlanIn(SetpointScheduleIn):
    """A plan of set points to be drafted."""

    name: str = Field(min_length=1, max_length=200)
    note: str | None = Field(default=None, max_length=2000)


class SetpointTimeView(View):
    """One window on one date."""

    start_local: datetime
    """Wall time of the begin in the plan's zone."""
    begin_at: UtcTime
    end_at: UtcTime


class ApprovalRuleView(View):
    """A rule for which a second person has to approve the plan."""

    name: str
    message: str
    message_zh: str


class RivalView(View):
    """A plan in force that sets the same point in one of the devices at such a time."""

    plan_id: str
    name: str


class SetpointPreviewView(View):
    """What a plan of set points amounts to."""

    count: int
    first_begin_at: UtcTime | None
    last_end_at: UtcTime | None
    windows: list[SetpointTimeView]
    """The first hundred."""
    device_ids: list[str]
    """Devices that are meant now."""
    second_person_for: ApprovalRuleView | None
    forbidden_by: RivalView | None
    """As long as it is in force this plan cannot be approved."""


class SetpointPlanView(View):
    """A plan of set points."""

    plan_id: str
    name: str
    state: PlanState
    target: Mapping[str, Any]
    """Which devices are meant, as the plan says it."""
    device_ids: list[str]
    """Those that it meant at the approval; of a draft when it was drafted."""
    point: str
    value: float
    value_after: float
    first_date: date
    last_date: date
    windows: list[WindowModel]
    zone: str
    weekdays: list[int]
    exceptions: list[date]
    calendar_ids: list[str]
    day_class: DayClass
    working_calendar: str | None
    note: str | None
    created_by: str
    created_at: UtcTime
    approved_by: str | None
    approved_at: UtcTime | None
    ended_by: str | None
    ended_at: UtcTime | None
    end_reason: str | None
    preview: SetpointPreviewView | None = None


class SetpointWindowView(SetpointTimeView):
    """How far one window of a plan is."""

    state: WindowState
    reason: str
    set_in: list[str]
    """Devices in which the value was ordered; they are set back at the end."""
    begin_group_ids: list[str]
    """Orders of its begin, at ``/api/v1/commands/settings/groups/…``; those that were refused are listed there."""
    end_group_ids: list[str]
    changed_at: UtcTime


def build_setpoint_plan_router(
    plans: SetpointPlans, db: Database, devices: RegistryDevices, clock: Clock, wake: Callable[[], None]
) -> APIRouter:
    """Return the routes; they come before those of a plan by its id."""
    router = APIRouter(prefix="/api/v1/plans/setpoints", tags=["plans"])

    @router.post("", status_code=201, summary="Draft a plan of set points: a value at a begin, another at its end")
    async def draft(body: SetpointPlanIn, who: Write) -> SetpointPlanView:
        wish = _wish(body, body.name, body.note)
        plan, found = await plans.draft(wish, actor_of(who), door_of(who), check=may_set(who))
        return _view(plan, found)

    @router.post("/preview", summary="See what a plan of set points would amount to, without storing it")
    async def preview(body: SetpointScheduleIn, who: Read) -> SetpointPreviewView:
        return _preview(await plans.preview(_wish(body, "", None), check=may_set(who)))

    @router.get("", summary="List plans of set points, the youngest first")
    async def list_plans(
        who: Read, state: PlanState | None = None, cursor: Cursor = None, limit: Limit = 50
    ) -> Page[SetpointPlanView]:
        before = None if cursor is None else read_time_cursor(cursor)
        async with db.read() as conn:
            found = await store.fetch_page(
                conn, state=None if state is None else state.value, before=before, limit=limit
            )
        cursor_out = time_cursor(found[-1].created_at, found[-1].plan_id) if len(found) == limit else None
        return Page(items=[_view(plan, None) for plan in found if _sees(who, plan)], next_cursor=cursor_out)

    @router.get("/{plan_id}", summary="Read one plan of set points")
    async def read_plan(plan_id: str, who: Read) -> SetpointPlanView:
        return _view(await _visible(plan_id, who), None)

    @router.get("/{plan_id}/windows", summary="The windows of a plan in force and how far each is, with its orders")
    async def list_windows(
        plan_id: str, who: Read, cursor: Cursor = None, limit: Limit = 100
    ) -> Page[SetpointWindowView]:
        await _visible(plan_id, who)
        after = None if cursor is None else read_time_cursor(cursor)[0]
        async with db.read() as conn:
            found = await store.fetch_windows(conn, plan_id, after=after, limit=limit)
        more = time_cursor(found[-1][0].begin_at, plan_id) if len(found) == limit else None
        return Page(items=[_window(one, changed_at) for one, changed_at in found], next_cursor=more)

    @router.get(
        "/{plan_id}/calendar.ics",
        summary="The plan's windows as an iCalendar file (RFC 5545)",
        response_class=Response,
        responses={200: {"content": {"text/calendar": {"schema": {"type": "string"}}}}},
    )
    async def read_calendar_file(plan_id: str, who: Read) -> Response:
        await _visible(plan_id, who)
        plan, windows = await plans.export(plan_id)
        return Response(
            write_setpoint_plan(plan, windows, clock.now()),
            media_type="text/calendar; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="{plan.plan_id}.ics"'},
        )

    @router.post("/{plan_id}/approve", summary="Put a draft into force, for the devices that it means now")
    async def approve(plan_id: str, who: Switch) -> SetpointPlanView:
        await _visible(plan_id, who)
        plan = await plans.approve(plan_id, actor_of(who), door_of(who), check=may_set(who))
        wake()
        return _view(plan, None)

    @router.post("/{plan_id}/end", summary="End a plan early; what has begun is set back at the end of its window")
    async def end(plan_id: str, body: EndIn, who: Switch) -> SetpointPlanView:
        await _visible(plan_id, who)
        return _view(await plans.end(plan_id, body.reason, actor_of(who), door_of(who)), None)

    def may_set(who: Principal) -> CheckDevices:
        def check(concerned: Sequence[Adjustable]) -> None:
            require_devices(who, devices, concerned)

        return check

    async def _visible(plan_id: str, who: Principal) -> SetpointPlan:
        async with db.read() as conn:
            plan = await store.fetch(conn, plan_id)
        if plan is None or not _sees(who, plan):
            raise NotFound(f"no plan {plan_id}", message_zh=f"没有策略 {plan_id}")
        return plan

    def _sees(who: Principal, plan: SetpointPlan) -> bool:
        sites = devices.sites_of(who)
        if sites is None:
            return True
        known = [devices.get(device_id) for device_id in plan.device_ids]
        return all(device is not None and device.site_id in sites for device in known)

    return router


def _wish(body: SetpointScheduleIn, name: str, note: str | None) -> Wish:
    return Wish(
        name=name, target=body.target, point=body.point, value=body.value, value_after=body.value_after, unit=body.unit,
        schedule=body.schedule(), calendar_ids=body.calendar_ids, note=note,
    )  # fmt: skip


def _preview(found: Amount) -> SetpointPreviewView:
    rule, rival = found.rule, found.rival
    said = None if rule is None else words(rule, found.rule_value)
    return SetpointPreviewView(
        count=found.preview.count,
        first_begin_at=found.preview.first_off_at,
        last_end_at=found.preview.last_on_at,
        windows=[
            SetpointTimeView(start_local=one.start_local, begin_at=one.off_at, end_at=one.on_at)
            for one in found.preview.instances
        ],
        device_ids=list(found.device_ids),
        second_person_for=None
        if rule is None or said is None
        else ApprovalRuleView(name=rule.name, message=said[0], message_zh=said[1]),
        forbidden_by=None if rival is None else RivalView(plan_id=rival[0], name=rival[1]),
    )


def _view(plan: SetpointPlan, found: Amount | None) -> SetpointPlanView:
    schedule = plan.schedule
    return SetpointPlanView(
        plan_id=plan.plan_id,
        name=plan.name,
        state=plan.state,
        target=plan.target,
        device_ids=list(plan.device_ids),
        point=plan.point,
        value=plan.value,
        value_after=plan.value_after,
        first_date=schedule.first_date,
        last_date=schedule.last_date,
        windows=[WindowModel(start=window.start, end=window.end) for window in schedule.windows],
        zone=schedule.zone,
        weekdays=sorted(schedule.weekdays),
        exceptions=sorted(schedule.exceptions),
        calendar_ids=list(plan.calendar_ids),
        day_class=schedule.day_class,
        working_calendar=schedule.working_calendar,
        note=plan.note,
        created_by=plan.created_by,
        created_at=plan.created_at,
        approved_by=plan.approved_by,
        approved_at=plan.approved_at,
        ended_by=plan.ended_by,
        ended_at=plan.ended_at,
        end_reason=plan.end_reason,
        preview=None if found is None else _preview(found),
    )


def _window(one: SetpointWindow, changed_at: datetime) -> SetpointWindowView:
    return SetpointWindowView(
        start_local=one.start_local, begin_at=one.begin_at, end_at=one.end_at, state=one.state, reason=one.reason,
        set_in=list(one.set_in), begin_group_ids=list(one.begin_groups), end_group_ids=list(one.end_groups),
        changed_at=changed_at,
    )  # fmt: skip
