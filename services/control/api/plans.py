"""Plans, occurrences and calendars over HTTP."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import date, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Response
from pydantic import Field

from libs.common.clock import CIVIL_ZONE, Clock
from libs.common.contracts.base import CalendarDate, TimeOfDay, UtcTime
from libs.common.contracts.control import OccurrenceState
from libs.common.db import Database
from libs.common.errors import InvalidInput, NotFound
from libs.common.ids import LoadId
from libs.common.tokens import Principal
from libs.common.web import Cursor, From, Limit, Page, To, check_span, read_time_cursor, time_cursor
from services.control.api.common import (
    Model,
    Read,
    ReadOrApp,
    SwitchOrApp,
    View,
    Write,
    WriteOrApp,
    actor_of,
    allowed,
    app_of,
    door_of,
    is_app,
    require_all_sites,
    require_sites,
)
from services.control.domain.calendars import Calendar, DayClass
from services.control.domain.conditions import (
    Band,
    BandTime,
    Condition,
    Conditions,
    Quantity,
    Side,
    TariffCondition,
)
from services.control.domain.overlap import Outcome
from services.control.domain.plans import (
    ALL_WEEKDAYS,
    RANK,
    Plan,
    PlanOptions,
    PlanState,
    Preview,
    Schedule,
    Window,
)
from services.control.domain.refusals import Refusal
from services.control.domain.simulation import NOT_REPLAYED, SimulatedWindow, Total, total
from services.control.domain.stagger import Spread, Stagger
from services.control.domain.targets import Groups
from services.control.files.calendar_file import write_plan
from services.control.library import CHINA
from services.control.store import apps as app_store
from services.control.store import occurrences as occurrence_store
from services.control.store import plans as plan_store
from services.control.store.occurrences import Occurrence
from services.control.usecases.apps import Apps, require_loads, require_own_approval
from services.control.usecases.calendars import fetch_calendars
from services.control.usecases.plans import CheckLoads, Plans
from services.control.usecases.ports import Loads
from services.control.usecases.simulation import Simulated, Simulation


class WindowModel(Model):
    """When the loads are off, on the clock face of the plan's zone."""

    start: TimeOfDay = Field(examples=["23:59:59"])
    """OFF."""
    end: TimeOfDay = Field(examples=["06:00:00"])
    """ON; on the next day unless it is later than ``start``."""


Names = Annotated[tuple[str, ...], Field(max_length=1000)]


class StaggerModel(Model):
    """How the shutdowns of a window are spread; the wake-ups are at its end for all."""

    spread: Spread = Spread.NONE
    within_s: int = Field(default=0, ge=0, le=14_400)
    """Longest delay of a shutdown. [s]"""


class ConditionModel(Model):
    """A quantity on one side of a limit for some time, judged right before the OFF; what is stale is not met."""

    quantity: Quantity
    """``power`` of the load's meter [kW], ``traffic_load`` of the load [%], ``temperature_outdoor`` there [degC]"""
    side: Side = Side.BELOW
    limit: float
    for_s: float = Field(default=0, ge=0, le=14_400)
    """How long without a break. [s]"""


class BandModel(Model):
    """One part of the tariff's day."""

    start: TimeOfDay
    end: TimeOfDay
    """Over midnight when it is not later than ``start``."""
    band: Band


class TariffModel(Model):
    """Only in some bands of the tariff."""

    bands: tuple[Band, ...] = Field(min_length=1, max_length=4)
    table: tuple[BandModel, ...] = Field(min_length=1, max_length=48)
    """The bands of a day, on the clock face of the plan's zone."""


class TimesModel(Model):
    """On which dates, and from when until when."""

    first_date: CalendarDate = Field(examples=["2022-05-01"])
    """First date on which a window starts."""
    last_date: CalendarDate = Field(examples=["2022-06-01"])
    """Last date on which a window starts; the last wake-up may be on the day after."""
    windows: tuple[WindowModel, ...] = Field(min_length=1, max_length=24)
    zone: str = CIVIL_ZONE.key
    """IANA time zone."""
    weekdays: tuple[int, ...] = tuple(sorted(ALL_WEEKDAYS))
    """ISO weekdays on which a window may start, 1 is Monday."""
    exceptions: tuple[CalendarDate, ...] = Field(default=(), max_length=1000)
    """Dates on which none starts."""
    calendar_ids: tuple[str, ...] = Field(default=(), max_length=20)
    """Calendars whose days off are exceptions too."""
    day_class: DayClass = DayClass.ANY
    """``working_days`` or ``days_off``: only on such days of ``working_calendar``, working weekends (调休) observed."""
    working_calendar: str | None = None
    """Calendar that says which days are worked; ``cn-working-days`` unless another is named."""

    def schedule(self) -> Schedule:
        """Return the domain's schedule."""
        return Schedule(
            first_date=self.first_date,
            last_date=self.last_date,
            windows=tuple(Window(window.start, window.end) for window in self.windows),
            zone=self.zone,
            weekdays=frozenset(self.weekdays),
            exceptions=frozenset(self.exceptions),
            day_class=self.day_class,
            working_calendar=self.working_calendar or (None if self.day_class is DayClass.ANY else CHINA),
        )


class ScheduleModel(TimesModel):
    """On which dates which loads are off."""

    load_ids: tuple[str, ...] = Field(default=(), max_length=100_000)
    """Loads to be shut down; one that may never be off is refused and listed, also when a group brings it in."""
    device_ids: Names = ()
    """Breakers: all loads behind them."""
    tags: Names = ()
    """Groups: all loads that carry one of these tags when the plan is approved."""
    site_ids: Names = ()
    region_ids: Names = ()
    excluded_load_ids: tuple[str, ...] = Field(default=(), max_length=100_000)
    """Loads of these groups that are left out."""
    rank: int = Field(default=RANK, ge=1, le=100)
    """Of plans that want a load at the same time the lower rank counts, of one rank the plan approved first."""
    stagger: StaggerModel = StaggerModel()
    conditions: tuple[ConditionModel, ...] = Field(default=(), max_length=10)
    """All of them have to hold right before an OFF."""
    tariff: TariffModel | None = None

    def options(self) -> PlanOptions:
        """Return what the plan says beyond loads and times."""
        return PlanOptions(
            groups=Groups(
                device_ids=self.device_ids,
                tags=self.tags,
                site_ids=self.site_ids,
                region_ids=self.region_ids,
                excluded_load_ids=self.excluded_load_ids,
            ),
            rank=self.rank,
            stagger=Stagger(self.stagger.spread, self.stagger.within_s),
            conditions=Conditions(
                measured=tuple(Condition(one.quantity, one.side, one.limit, one.for_s) for one in self.conditions),
                tariff=None
                if self.tariff is None
                else TariffCondition(
                    frozenset(self.tariff.bands),
                    tuple(BandTime(one.start, one.end, one.band) for one in self.tariff.table),
                ),
                zone=self.zone,
            ),
        )


class PlanIn(ScheduleModel):
    """A plan to be drafted."""

    name: str = Field(min_length=1, max_length=200)
    note: str | None = Field(default=None, max_length=2000)


class EndIn(Model):
    """Why a plan ends."""

    reason: str = Field(default="", max_length=500)


class WindowView(View):
    """One window on one date."""

    start_local: datetime
    """Wall time of the OFF in the plan's zone."""
    off_at: UtcTime
    on_at: UtcTime


class OverlapView(View):
    """Another plan in force over some of the same loads and times."""

    plan_id: str
    name: str
    rank: int
    outcome: Outcome
    """What this plan does in these windows with these loads: it ``yields`` or it ``prevails``."""
    load_ids: list[str]
    """The first hundred loads of both."""
    load_count: int
    windows: int
    """Windows of this plan that touch one of the other."""
    first_at: UtcTime


class StaysOnView(View):
    """A load that a guard keeps on whenever the plan wants it off."""

    load_id: str
    guard: str
    message: str
    message_zh: str


class PreviewView(View):
    """What a schedule amounts to."""

    count: int
    """Windows in all, for each load."""
    first_off_at: UtcTime | None
    last_on_at: UtcTime | None
    windows: list[WindowView]
    """The first hundred."""
    load_ids: list[str]
    """Loads that are meant now."""
    overlaps: list[OverlapView]
    stays_on: list[StaysOnView]
    """The first hundred loads that will be refused night after night: they keep coverage, as policies stand now."""
    stays_on_count: int


class SkippedView(View):
    """Windows that would not have run for one reason."""

    guard: str
    count: int
    message: str
    """Of the first of them, with value and limit."""
    message_zh: str


class TotalView(View):
    """What simulated windows come to."""

    count: int
    """Windows, of each load."""
    switched: int
    """Of these would have run."""
    hours_off: float
    """Hours that loads would have been off."""
    saved_kwh: float | None
    """What is known to have been drawn in them; absent when nothing is known. [kWh]"""
    covered: float | None
    """Share of these hours that values cover, 0 to 1; absent when there are none."""
    skipped: list[SkippedView]
    """Those that would have stayed on, the most frequent reason first."""


class SimulatedLoadView(TotalView):
    """One load of a simulation."""

    load_id: str
    name: str


class SimulatedWindowView(View):
    """One window of one load, as it would have been."""

    load_id: str
    off_at: UtcTime
    """Planned, with the load's own delay."""
    on_at: UtcTime
    went_off_at: UtcTime | None
    """When it would have gone off: later than planned when it had to wait; absent when it would have stayed on."""
    guard: str | None
    """What would have kept it on."""
    message: str | None
    message_zh: str | None
    saved_kwh: float | None
    """Absent when nothing is known of what it drew, and when it would have stayed on. [kWh]"""
    covered: float
    """Share of the time off that values cover, 0 to 1."""


class SimulationView(TotalView):
    """What a plan would have switched and saved in past windows, judged by the registry and the limits of today."""

    ahead: int
    """Windows that are not over yet and are left out."""
    not_replayed: list[str]
    """Guards of which the history of readings tells nothing; with them a plan may switch less."""
    loads: list[SimulatedLoadView]
    windows: list[SimulatedWindowView]


class PlanView(View):
    """A plan and what it amounts to."""

    plan_id: str
    name: str
    state: PlanState
    load_ids: list[str]
    """All loads; of groups those that belonged to them at the approval, of a draft those that do now."""
    load_count: int
    """How many they are, also where they are not listed."""
    named: list[str]
    """Loads that were named one by one."""
    device_ids: list[str]
    tags: list[str]
    site_ids: list[str]
    region_ids: list[str]
    excluded_load_ids: list[str]
    rank: int
    stagger: StaggerModel
    conditions: list[ConditionModel]
    tariff: TariffModel | None
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
    preview: PreviewView | None = None


class OccurrenceView(View):
    """One shutdown of one load by a plan."""

    occurrence_id: str
    plan_id: str
    load_id: str
    start_local: datetime
    off_at: UtcTime
    """When it is to go off."""
    on_at: UtcTime
    """When it is to be on again."""
    state: OccurrenceState
    reason: str
    off_command_id: str | None
    on_command_id: str | None
    went_off_at: UtcTime | None
    """When it was proven off."""
    came_on_at: UtcTime | None
    """When it was proven on."""
    changed_at: UtcTime


class DayModel(Model):
    """A date with the reason for it."""

    day: CalendarDate
    kind: Literal["off", "work"] = "off"
    """A day off, or a Saturday or Sunday that is worked (调休)."""
    label: str = Field(default="", max_length=100)


class CalendarIn(Model):
    """Days off and working weekends; of a working calendar whole years."""

    name: str = Field(min_length=1, max_length=200)
    source: str = Field(min_length=1, max_length=500)
    """Where the dates were taken from, such as the number of the holiday notice."""
    days: tuple[DayModel, ...] = Field(max_length=4000)


class CalendarView(View):
    """A calendar."""

    calendar_id: str
    name: str
    source: str
    days: list[DayModel]
    years: list[int]
    """Years of which it has days; a plan by working days reaches no further."""
    changed_by: str
    changed_at: UtcTime | None
    """Absent of a calendar that ships with Wattring and was not replaced."""


COVERAGE = Refusal("coverage_layer", True, False, True)
ListLoads = Annotated[
    bool,
    Query(alias="loads", description="false: without lists of loads, which may be a hundred thousand for each plan"),
]
CalendarId = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


def build_plan_router(
    plans: Plans, simulation: Simulation, apps: Apps, db: Database, loads: Loads, clock: Clock,
    wake: Callable[[], None], registry: Callable[[], Awaitable[None]],
) -> APIRouter:  # fmt: skip
    """Return the routes of plans, occurrences and calendars.

    ``wake`` hurries the scheduler; ``registry`` raises ``Unavailable`` until all loads are known.
    """
    router = APIRouter(prefix="/api/v1")

    async def may_switch(who: Principal) -> CheckLoads:
        await registry()  # a load that has not been read yet is not an unknown one
        limits = await apps.limits_of(actor_of(who)) if is_app(who) else None

        def check(load_ids: Sequence[LoadId]) -> None:
            about = [loads.get(load_id) for load_id in load_ids]
            require_sites(who, about)
            if is_app(who):
                require_loads(limits, actor_of(who), load_ids, about)

        return check

    async def own_or_none(plan_id: str, who: Principal) -> None:
        """Let an upstream app find its own plans only."""
        if is_app(who):
            async with db.read() as conn:
                owner = (await app_store.fetch_owners(conn, [plan_id])).get(plan_id)
            if owner != actor_of(who):
                raise NotFound(f"no plan {plan_id}", message_zh=f"没有策略 {plan_id}")

    @router.post("/plans", status_code=201, tags=["plans"], summary="Draft a savings plan")
    async def draft(body: PlanIn, who: WriteOrApp) -> PlanView:
        """Store a draft.

        An upstream app's plan (right `control:app`) has the app's loads and windows only and the last rank, and unless
        its limits say otherwise an operator approves it. Shutdowns at sites that have opted out are skipped with
        `opted_out`.
        """
        plan, preview = await plans.draft(
            body.name, body.load_ids, body.schedule(), body.calendar_ids, body.note, actor_of(who), door_of(who),
            options=body.options(), check=await may_switch(who), app=app_of(who),
        )  # fmt: skip
        return plan_view(plan, _shown(preview, who))

    @router.post("/plans/preview", tags=["plans"], summary="See what a plan would amount to, without storing it")
    async def preview(body: ScheduleModel, who: ReadOrApp) -> PreviewView:
        found = await plans.preview(
            body.load_ids, body.schedule(), body.calendar_ids, options=body.options(), check=await may_switch(who)
        )
        return preview_view(_shown(found, who))

    @router.post(
        "/plans/simulate", tags=["plans"], summary="See what a plan would have switched and saved on past days"
    )
    async def simulate(body: ScheduleModel, who: Read) -> SimulationView:
        return simulation_view(
            await simulation.run(
                body.load_ids, body.schedule(), body.calendar_ids, body.options(), check=await may_switch(who)
            )
        )

    @router.get("/plans", tags=["plans"], summary="List plans, the youngest first; of an upstream app its own")
    async def list_plans(
        who: ReadOrApp,
        state: PlanState | None = None,
        loads_listed: ListLoads = True,
        cursor: Cursor = None,
        limit: Limit = 50,
    ) -> Page[PlanView]:
        before = None if cursor is None else read_time_cursor(cursor)
        async with db.read() as conn:
            found = await plan_store.fetch_page(conn, state=None if state is None else state.value, before=before,
                                                limit=limit, app=app_of(who))  # fmt: skip
        cursor_out = time_cursor(found[-1].created_at, found[-1].plan_id) if len(found) == limit else None
        visible = [plan for plan in found if _visible(who, plan, loads)]
        shown = [plan_view(plan, None, loads_listed=loads_listed) for plan in visible]
        return Page(items=shown, next_cursor=cursor_out)

    @router.get("/plans/{plan_id}", tags=["plans"], summary="Read one plan with its calendar")
    async def read_plan(plan_id: str, who: ReadOrApp) -> PlanView:
        await own_or_none(plan_id, who)
        plan, found = await plans.fetch(plan_id)
        if not _visible(who, plan, loads):
            raise NotFound(f"no plan {plan_id}", message_zh=f"没有策略 {plan_id}")
        return plan_view(plan, _shown(found, who))

    @router.get(
        "/plans/{plan_id}/calendar.ics",
        tags=["plans"],
        summary="The plan's windows as an iCalendar file (RFC 5545)",
        response_class=Response,
        responses={200: {"content": {"text/calendar": {"schema": {"type": "string"}}}}},
    )
    async def read_calendar_file(plan_id: str, who: Read) -> Response:
        plan, windows = await plans.export(plan_id)
        if not _visible(who, plan, loads):
            raise NotFound(f"no plan {plan_id}", message_zh=f"没有策略 {plan_id}")
        return Response(
            write_plan(plan, windows, clock.now()),
            media_type="text/calendar; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="{plan.plan_id}.ics"'},
        )

    @router.get(
        "/plans/{plan_id}/simulation",
        tags=["plans"],
        summary="See what a stored plan would have switched and saved on past dates",
    )
    async def simulate_stored(
        plan_id: str, who: Read, first_date: CalendarDate | None = None, last_date: CalendarDate | None = None
    ) -> SimulationView:
        """Dates on which windows start; the last seven unless others are given."""
        plan, _ = await plans.fetch(plan_id)
        if not _visible(who, plan, loads):
            raise NotFound(f"no plan {plan_id}", message_zh=f"没有策略 {plan_id}")
        return simulation_view(await simulation.run_stored(plan_id, first_date, last_date, check=await may_switch(who)))

    @router.post("/plans/{plan_id}/approve", tags=["plans"], summary="Put a draft into force")
    async def approve(plan_id: str, who: SwitchOrApp) -> PlanView:
        await own_or_none(plan_id, who)
        if is_app(who):
            require_own_approval(await apps.limits_of(actor_of(who)), actor_of(who))
        await plans.approve(plan_id, actor_of(who), door_of(who), check=await may_switch(who))
        wake()
        plan, found = await plans.fetch(plan_id)
        return plan_view(plan, _shown(found, who))

    @router.post("/plans/{plan_id}/end", tags=["plans"], summary="End a plan early; what is off wakes as planned")
    async def end(plan_id: str, body: EndIn, who: SwitchOrApp) -> PlanView:
        await own_or_none(plan_id, who)
        plan, found = await plans.fetch(plan_id)
        require_sites(who, [loads.get(load_id) for load_id in plan.load_ids])
        return plan_view(await plans.end(plan_id, body.reason, actor_of(who), door_of(who)), _shown(found, who))

    @router.get("/occurrences", tags=["occurrences"], summary="List shutdowns in the order of their OFF")
    async def list_occurrences(
        who: ReadOrApp,
        site: str | None = None,
        load: str | None = None,
        plan: str | None = None,
        state: OccurrenceState | None = None,
        start: From = None,
        end: To = None,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Page[OccurrenceView]:
        check_span(start, end)
        if is_app(who):
            if plan is None:
                raise InvalidInput(
                    "plan: an upstream app says of which of its plans", message_zh="plan:上层应用须指明其策略"
                )
            await own_or_none(plan, who)
        after = None if cursor is None else read_time_cursor(cursor)
        async with db.read() as conn:
            asked = occurrence_store.Asked(
                plan_id=plan,
                load_ids=_wanted(who, site, load, loads),
                state=None if state is None else state.value,
                start=start,
                end=end,
                after=after,
            )
            found = await occurrence_store.fetch_page(conn, asked, limit)
        cursor_out = time_cursor(found[-1].off_at, found[-1].occurrence_id) if len(found) == limit else None
        return Page(items=[occurrence_view(one) for one in found], next_cursor=cursor_out)

    @router.get("/occurrences/{occurrence_id}", tags=["occurrences"], summary="Read one shutdown")
    async def read_occurrence(occurrence_id: str, who: Read) -> OccurrenceView:
        async with db.read() as conn:
            found = await occurrence_store.fetch(conn, occurrence_id)
        if found is None or not _visible_load(who, found.load_id, loads):
            raise NotFound(f"no occurrence {occurrence_id}", message_zh=f"没有关断记录 {occurrence_id}")
        return occurrence_view(found)

    @router.get("/calendars", tags=["calendars"], summary="List calendars of exceptions")
    async def list_calendars(_: ReadOrApp) -> list[CalendarView]:
        async with db.read() as conn:
            return [calendar_view(calendar) for calendar in await fetch_calendars(conn)]

    @router.put("/calendars/{calendar_id}", tags=["calendars"], summary="Insert or replace a calendar of exceptions")
    async def put_calendar(calendar_id: CalendarId, body: CalendarIn, who: Write) -> CalendarView:
        require_all_sites(who)
        days = {one.day: one.label for one in body.days if one.kind == "off"}
        worked = {one.day: one.label for one in body.days if one.kind == "work"}
        return calendar_view(
            await plans.put_calendar(
                calendar_id, body.name, body.source, days, actor_of(who), door_of(who), working_days=worked
            )
        )

    return router


def _shown(found: Preview, who: Principal) -> Preview:
    """Return what the caller may see of a preview: other people's plans are no matter of an upstream app."""
    return replace(found, overlaps=()) if is_app(who) else found


def _wanted(who: Principal, site: str | None, load_id: str | None, loads: Loads) -> list[str] | None:
    """Return the loads that somebody asks for and may see, None for all."""
    if who.sites is None and site is None:
        return None if load_id is None else [load_id]
    return [
        load.load_id
        for load in loads.all()
        if (site is None or load.site_id == site) and load_id in (None, load.load_id) and allowed(who, load)
    ]


def _visible(who: Principal, plan: Plan, loads: Loads) -> bool:
    return all(_visible_load(who, load_id, loads) for load_id in plan.load_ids)


def _visible_load(who: Principal, load_id: str, loads: Loads) -> bool:
    load = loads.get(load_id)
    return who.sites is None if load is None else allowed(who, load)


def preview_view(found: Preview) -> PreviewView:
    """Return a preview as it is shown."""
    return PreviewView(
        count=found.count,
        first_off_at=found.first_off_at,
        last_on_at=found.last_on_at,
        windows=[
            WindowView(start_local=one.start_local, off_at=one.off_at, on_at=one.on_at) for one in found.instances
        ],
        load_ids=list(found.load_ids),
        overlaps=[
            OverlapView(
                plan_id=one.plan_id,
                name=one.name,
                rank=one.rank,
                outcome=one.outcome,
                load_ids=list(one.load_ids[:100]),
                load_count=len(one.load_ids),
                windows=one.windows,
                first_at=one.first_at,
            )
            for one in found.overlaps
        ],
        stays_on=[
            StaysOnView(load_id=load_id, guard=COVERAGE.guard, message=words[0], message_zh=words[1])
            for load_id in found.stays_on[:100]
            for words in [COVERAGE.words()]
        ],
        stays_on_count=len(found.stays_on),
    )


def _tariff_view(tariff: TariffCondition) -> TariffModel:
    return TariffModel(
        bands=tuple(sorted(tariff.bands)),
        table=tuple(BandModel(start=one.start, end=one.end, band=one.band) for one in tariff.table),
    )


def simulation_view(found: Simulated) -> SimulationView:
    """Return a simulation as it is shown."""
    by_load = {load.load_id: [one for one in found.windows if one.load_id == load.load_id] for load in found.loads}
    return SimulationView(
        **_total(total(found.windows)),
        ahead=found.ahead,
        not_replayed=list(NOT_REPLAYED),
        loads=[
            SimulatedLoadView(**_total(total(by_load[load.load_id])), load_id=load.load_id, name=load.name)
            for load in found.loads
        ],
        windows=[_simulated_window(one) for one in found.windows],
    )


def _total(found: Total) -> dict[str, Any]:
    reasons = sorted(found.skipped.items(), key=lambda one: (-one[1][0], one[0]))
    skipped = [
        SkippedView(guard=guard, count=count, message=words[0], message_zh=words[1])
        for guard, (count, first) in reasons
        for words in [first.words()]
    ]
    return {
        "count": found.count, "switched": found.switched, "hours_off": found.off_s / 3600,
        "saved_kwh": found.saved_kwh, "covered": found.covered, "skipped": skipped,
    }  # fmt: skip


def _simulated_window(one: SimulatedWindow) -> SimulatedWindowView:
    words = (None, None) if one.refusal is None else one.refusal.words()
    return SimulatedWindowView(
        load_id=one.load_id, off_at=one.off_at, on_at=one.on_at, went_off_at=one.went_off_at,
        guard=None if one.refusal is None else one.refusal.guard, message=words[0], message_zh=words[1],
        saved_kwh=one.saved_kwh, covered=one.covered,
    )  # fmt: skip


def plan_view(plan: Plan, found: Preview | None, *, loads_listed: bool = True) -> PlanView:
    """Return a plan as it is shown; without the lists of its loads if so wanted."""
    schedule, groups = plan.schedule, plan.options.groups
    return PlanView(
        plan_id=plan.plan_id,
        name=plan.name,
        state=plan.state,
        load_ids=list(plan.load_ids) if loads_listed else [],
        load_count=len(plan.load_ids),
        named=list(plan.named) if loads_listed else [],
        device_ids=list(groups.device_ids),
        tags=list(groups.tags),
        site_ids=list(groups.site_ids),
        region_ids=list(groups.region_ids),
        excluded_load_ids=list(groups.excluded_load_ids) if loads_listed else [],
        rank=plan.rank,
        conditions=[
            ConditionModel(quantity=one.quantity, side=one.side, limit=one.limit, for_s=one.for_s)
            for one in plan.options.conditions.measured
        ],
        tariff=None if plan.options.conditions.tariff is None else _tariff_view(plan.options.conditions.tariff),
        stagger=StaggerModel(spread=plan.options.stagger.spread, within_s=plan.options.stagger.within_s),
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
        preview=None if found is None else preview_view(found),
    )


def occurrence_view(one: Occurrence) -> OccurrenceView:
    """Return an occurrence as it is shown."""
    return OccurrenceView.model_validate(one, from_attributes=True)


def calendar_view(calendar: Calendar) -> CalendarView:
    """Return a calendar as it is shown."""
    off: Sequence[DayModel] = [DayModel(day=day, label=label) for day, label in calendar.days.items()]
    worked = [DayModel(day=day, kind="work", label=label) for day, label in calendar.working_days.items()]
    return CalendarView(
        calendar_id=calendar.calendar_id,
        name=calendar.name,
        source=calendar.source,
        days=sorted([*off, *worked], key=lambda one: one.day),
        years=sorted(calendar.years),
        changed_by=calendar.changed_by,
        changed_at=calendar.changed_at,
    )
