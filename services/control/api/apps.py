"""Upstream apps over HTTP: their limits, what an app reads of its own, and the opt-outs of sites."""

from typing import Annotated, Any
from zoneinfo import available_timezones

from fastapi import APIRouter, Path
from pydantic import Field, field_validator

from libs.common.clock import CIVIL_ZONE
from libs.common.contracts.base import Flag, Number, UtcTime
from libs.common.errors import Forbidden, NotFound, WrongValue
from libs.common.web import Cursor, Limit, Page, read_time_cursor, time_cursor
from services.control.api.common import (
    Model,
    Read,
    ReadOrApp,
    Switch,
    View,
    Write,
    actor_of,
    door_of,
    require_all_sites,
    require_sites,
    sites_of,
)
from services.control.api.plans import WindowModel
from services.control.domain.apps import AppAction, AppLimits, OptOut
from services.control.domain.plans import Window
from services.control.store.apps import LimitsRow
from services.control.usecases.apps import Apps
from services.control.usecases.ports import Loads

Caller = Annotated[
    str,
    Path(
        pattern=r"^(key|user|sc):[A-Za-z0-9._@-]{1,80}$",
        description="key:<id of the API key> with the right control:app, or sc:<connection> of a supervision centre",
    ),
]
Ids = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=200)], ...], Field(max_length=100_000)]


class AppLimitsIn(Model):
    """What an upstream app may order; what is not said here it may not, and the rest has the defaults."""

    actions: tuple[AppAction, ...] = Field(max_length=10)
    load_ids: Ids = ()
    """A load is the app's when one of these four lists has it; without any it may switch nothing."""
    tags: Ids = ()
    site_ids: Ids = ()
    region_ids: Ids = ()
    device_ids: Ids = ()
    """Devices in which it may set something (action `settings`), besides those of its sites, regions and tags."""
    max_off: int = Field(strict=True, default=100, ge=0, le=100_000)
    """Loads off at once by its orders and plans."""
    orders_per_hour: int = Field(strict=True, default=60, ge=0, le=100_000)
    """Orders, and drafts of plans."""
    orders_per_day: int = Field(strict=True, default=500, ge=0, le=1_000_000)
    longest_off_s: Number = Field(default=86400, gt=0, le=86400 * 7)
    windows: tuple[WindowModel, ...] = Field(default=(), max_length=24)
    """Times of day that an OFF has to lie within, with its end; none allows any."""
    zone: str = CIVIL_ZONE.key
    plan_approval: Flag = True
    """Whether an operator has to approve its plans; else the app may do so itself."""

    @field_validator("zone")
    @classmethod
    def _known_zone(cls, zone: str) -> str:
        if zone not in available_timezones():
            raise WrongValue("an IANA time zone such as Asia/Shanghai", "IANA 时区,如 Asia/Shanghai")
        return zone

    def limits(self) -> AppLimits:
        """Return the limits as the domain wants them."""
        return AppLimits(
            actions=frozenset(self.actions), load_ids=frozenset(self.load_ids), tags=frozenset(self.tags),
            site_ids=frozenset(self.site_ids), region_ids=frozenset(self.region_ids),
            device_ids=frozenset(self.device_ids), max_off=self.max_off,
            orders_per_hour=self.orders_per_hour, orders_per_day=self.orders_per_day,
            longest_off_s=self.longest_off_s, windows=tuple(Window(one.start, one.end) for one in self.windows),
            zone=self.zone, plan_approval=self.plan_approval,
        )  # fmt: skip


class PutLimitsIn(Model):
    """Limits of an upstream app, with where they come from."""

    limits: AppLimitsIn
    source: str = Field(min_length=1, max_length=500)
    """The agreement or order that says so."""


class RemoveIn(Model):
    """Why an app's limits are taken away."""

    reason: str = Field(min_length=1, max_length=500)


class LimitsView(View):
    """One version of an app's limits."""

    caller: str
    revision: int
    limits: Any
    """Null: taken away."""
    source: str
    changed_by: str
    changed_at: UtcTime


class OwnView(View):
    """What an app may order."""

    caller: str
    limits: Any
    """Null: nothing."""


class OptOutIn(Model):
    """A site takes no part in what upstream apps order, for a time."""

    site_id: str = Field(min_length=1, max_length=200)
    start: UtcTime | None = Field(default=None, alias="from")
    """Now, unless it is said."""
    until: UtcTime
    reason: str = Field(default="", max_length=500)


class EndOptOutIn(Model):
    """Why an opt-out ends early."""

    reason: str = Field(default="", max_length=500)


class OptOutView(View):
    """An opt-out of a site."""

    opt_out_id: str
    site_id: str
    start: UtcTime = Field(serialization_alias="from")
    until: UtcTime
    reason: str
    declared_by: str
    declared_at: UtcTime
    ended_by: str | None
    ended_at: UtcTime | None


def build_app_router(apps: Apps, loads: Loads) -> APIRouter:
    """Return the routes of upstream apps and opt-outs."""
    router = APIRouter(prefix="/api/v1/guards")

    @router.get("/apps", tags=["apps"], summary="What upstream apps may order")
    async def list_limits(who: Read) -> list[LimitsView]:
        require_all_sites(who)
        return [_limits_view(row) for row in await apps.current()]

    @router.get("/apps/me", tags=["apps"], summary="What the asking app may order")
    async def own_limits(who: ReadOrApp) -> OwnView:
        found = await apps.limits_of(actor_of(who))
        return OwnView(caller=actor_of(who), limits=None if found is None else found.as_json())

    @router.get("/apps/{caller}", tags=["apps"], summary="The versions of one app's limits, the youngest first")
    async def read_limits(caller: Caller, who: Read, limit: Limit = 100) -> list[LimitsView]:
        require_all_sites(who)
        found = await apps.versions(caller, limit)
        if not found:
            raise NotFound(f"no limits of {caller}", message_zh=f"{caller} 没有权限设置")
        return [_limits_view(row) for row in found]

    @router.put("/apps/{caller}", tags=["apps"], summary="Set what an upstream app may order, as a new version")
    async def put_limits(caller: Caller, body: PutLimitsIn, who: Write) -> LimitsView:
        require_all_sites(who)
        if caller == actor_of(who):
            raise Forbidden("nobody sets limits for themselves", message_zh="不得为自己设置权限")
        return _limits_view(
            await apps.put_limits(caller, body.limits.limits(), body.source, actor_of(who), door_of(who))
        )

    @router.post("/apps/{caller}/remove", tags=["apps"], summary="Take an app's limits away: it may order nothing")
    async def drop_limits(caller: Caller, body: RemoveIn, who: Write) -> LimitsView:
        require_all_sites(who)
        return _limits_view(await apps.drop_limits(caller, body.reason, actor_of(who), door_of(who)))

    @router.post("/opt-outs", status_code=201, tags=["apps"],
                 summary="Let a site take no part in what upstream apps order")  # fmt: skip
    async def opt_out(body: OptOutIn, who: Switch) -> OptOutView:
        require_sites(who, loads.at_site(body.site_id))
        return _opt_out_view(
            await apps.opt_out(body.site_id, body.start, body.until, body.reason, actor_of(who), door_of(who))
        )

    @router.get("/opt-outs", tags=["apps"], summary="Opt-outs, ended ones too, the youngest first")
    async def list_opt_outs(
        who: Read, site: str | None = None, cursor: Cursor = None, limit: Limit = 100
    ) -> Page[OptOutView]:
        mine = sites_of(who, loads)
        wanted = mine if site is None else [one for one in [site] if mine is None or one in mine]
        before = None if cursor is None else read_time_cursor(cursor)
        found = await apps.opt_outs(wanted, before, limit)
        after = time_cursor(found[-1].declared_at, found[-1].opt_out_id) if len(found) == limit else None
        return Page(items=[_opt_out_view(one) for one in found], next_cursor=after)

    @router.post("/opt-outs/{opt_out_id}/end", tags=["apps"], summary="End an opt-out before its time")
    async def end_opt_out(opt_out_id: str, body: EndOptOutIn, who: Switch) -> OptOutView:
        one = await apps.opt_out_of(opt_out_id)
        require_sites(who, loads.at_site(one.site_id))
        return _opt_out_view(await apps.end_opt_out(opt_out_id, body.reason, actor_of(who), door_of(who)))

    return router


def _limits_view(row: LimitsRow) -> LimitsView:
    return LimitsView.model_validate(row, from_attributes=True)


def _opt_out_view(one: OptOut) -> OptOutView:
    return OptOutView(
        opt_out_id=one.opt_out_id, site_id=one.site_id, start=one.starts_at, until=one.until, reason=one.reason,
        declared_by=one.declared_by, declared_at=one.declared_at, ended_by=one.ended_by, ended_at=one.ended_at,
    )  # fmt: skip
