"""Upstream apps: what they may order, how often; what people say about them; what sites opt out of."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from libs.common.db import Database, WriteConn
from libs.common.errors import Forbidden, InvalidInput, NotFound, TooManyRequests
from libs.common.ids import new_id
from services.control.domain.apps import OPTED_OUT, AppAction, AppJudge, AppLimits, OptOut
from services.control.domain.audit import Entry
from services.control.domain.loads import LoadInfo
from services.control.domain.plans import WindowInstance
from services.control.domain.refusals import Refusal
from services.control.store import apps as store
from services.control.store.apps import LimitsRow
from services.control.usecases.auditing import record
from services.control.usecases.ports import Loads, SteadyClock

MAX_APPS = 1000
"""Callers that ever had limits."""
LONGEST_OPT_OUT = timedelta(days=366)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


class NotAllowedToApp(Forbidden):
    """The app's limits forbid it."""

    code = "app_limit"
    title_zh = "超出应用权限"


class TooManyOrders(TooManyRequests):
    """The app has ordered as often as its limits allow."""

    code = "app_rate"
    title_zh = "应用下令过于频繁"


# What the limits say of an order.


async def admit(conn: WriteConn, caller: str, action: AppAction, site_ids: Collection[str], now: datetime) -> AppJudge:
    """Return the judge of an app's order, or of its plan; until the end of the transaction no other one is counted.

    Raises:
        NotAllowedToApp: It has no limits, or they do not have the action.
        TooManyOrders: It has ordered too often.
    """
    await store.lock_caller(conn, caller)
    found = await store.fetch_limits(conn, {caller})
    limits = require_action(found.get(caller), caller, action)
    orders = await store.fetch_orders(conn, caller, now - DAY)
    for name, limit, span in (
        ("orders_per_hour", limits.orders_per_hour, HOUR),
        ("orders_per_day", limits.orders_per_day, DAY),
    ):
        within = [at for at in orders if at > now - span]
        if len(within) >= limit:
            wait_s = DAY.total_seconds() if limit == 0 else (within[-limit] + span - now).total_seconds()
            refusal = Refusal("app_rate", len(within), limit, False)
            english, chinese = refusal.words()
            raise TooManyOrders(
                f"{name}: {english}", message_zh=chinese, guard="app_rate", limit_name=name, value=len(within),
                limit=limit, retry_after_s=max(wait_s, 1.0),
            )  # fmt: skip
    return AppJudge(
        limits={caller: limits},
        opt_outs=await store.opt_outs_at(conn, site_ids, now),
        off=await store.count_off(conn, {caller}),
    )


def require_action(limits: AppLimits | None, caller: str, action: AppAction) -> AppLimits:
    """Return an app's limits when they have the action.

    Raises:
        NotAllowedToApp: There are none, or they do not.
    """
    if limits is not None and action in limits.actions:
        return limits
    if limits is None:
        raise _forbidden(Refusal("app_no_limits", caller, None, True))
    raise _forbidden(Refusal("app_action", action.value, ", ".join(sorted(limits.actions)) or "-", True))


def require_loads(
    limits: AppLimits | None, caller: str, load_ids: Sequence[str], loads: Sequence[LoadInfo | None]
) -> None:
    """Check that all loads of an app's plan are the app's.

    Raises:
        NotAllowedToApp: Some are not, or it has no plans.
    """
    known = require_action(limits, caller, AppAction.PLANS)
    strange = [load_id for load_id, load in zip(load_ids, loads, strict=True) if load is None or not known.lists(load)]
    if strange:
        raise _forbidden(Refusal("app_load", len(strange), len(load_ids) - len(strange), True))


def require_spans(judge: AppJudge, caller: str, windows: Sequence[WindowInstance]) -> None:
    """Check that every shutdown of an app's plan has the length and the time of day that it may have.

    Raises:
        NotAllowedToApp: One has not.
    """
    limits = judge.limits.get(caller)
    refusals = (None if limits is None else limits.span_refusal(one.off_at, one.on_at) for one in windows)
    if (found := next((one for one in refusals if one is not None), None)) is not None:
        raise _forbidden(found)


async def admit_setting(
    conn: WriteConn, caller: str, device_id: str, *, site_id: str, tags: Collection[str], region_ids: Collection[str],
    now: datetime,
) -> None:  # fmt: skip
    """Check that an app may set something in a device now.

    Raises:
        NotAllowedToApp: Its limits do not have the action or the device, or the site has opted out.
        TooManyOrders: It has ordered too often.
    """
    judge = await admit(conn, caller, AppAction.SETTINGS, {site_id}, now)
    limits = judge.limits[caller]
    if limits is None or not limits.lists_device(device_id, site_id=site_id, tags=tags, region_ids=region_ids):
        raise _forbidden(Refusal("app_device", device_id, None, True))
    opted = next((one for one in judge.opt_outs if one.meets(site_id, now, now + timedelta(seconds=1))), None)
    if opted is not None:
        raise _forbidden(Refusal(OPTED_OUT, opted.opt_out_id, opted.until.isoformat(), True))


def require_own_approval(limits: AppLimits | None, caller: str) -> None:
    """Check that an app may approve its own plans.

    Raises:
        NotAllowedToApp: It may not.
    """
    if require_action(limits, caller, AppAction.PLANS).plan_approval:
        raise _forbidden(Refusal("app_plan_approval", True, False, True))


def _forbidden(refusal: Refusal) -> NotAllowedToApp:
    english, chinese = refusal.words()
    return NotAllowedToApp(english, message_zh=chinese, guard=refusal.guard, value=refusal.value, limit=refusal.limit)


async def judge_agreed(conn: WriteConn, caller: str, site_ids: Collection[str], now: datetime) -> AppJudge:
    """Return the judge of an order that is agreed to now; one that is no app's is measured by opt-outs only."""
    await store.lock_caller(conn, caller)
    return AppJudge(
        limits=await store.fetch_limits(conn, {caller}),
        opt_outs=await store.opt_outs_at(conn, site_ids, now),
        off=await store.count_off(conn, {caller}),
    )


async def judge_again(conn: WriteConn, callers: Collection[str], site_ids: Collection[str], now: datetime) -> AppJudge:
    """Return the judge of orders that were accepted earlier and are about to be sent; locks nothing."""
    return AppJudge(
        limits=await store.fetch_limits(conn, callers), opt_outs=await store.opt_outs_at(conn, site_ids, now)
    )


async def judge_planned(
    conn: WriteConn, callers: Collection[str], site_ids: Collection[str], now: datetime
) -> AppJudge:
    """Return the judge of shutdowns by apps' plans that are about to begin; waits for no order of theirs."""
    locked = await store.lock_callers(conn, callers)
    known = await store.fetch_limits(conn, callers)
    return AppJudge(
        # A plan of an app is one also when nobody has ever set limits for it.
        limits={caller: known.get(caller) for caller in callers},
        opt_outs=await store.opt_outs_at(conn, site_ids, now),
        off=await store.count_off(conn, callers),
        busy=frozenset(set(callers) - locked),
    )


# What people say.


class Apps:
    """Limits of apps, and opt-outs of sites."""

    def __init__(self, *, db: Database, clock: SteadyClock, loads: Loads) -> None:
        self._db = db
        self._clock = clock
        self._loads = loads

    async def put_limits(self, caller: str, limits: AppLimits, source: str, actor: str, door: str) -> LimitsRow:
        """Set what an app may order; it holds from the next order, and for what is about to be sent.

        Raises:
            InvalidInput: There are too many apps.
        """
        return await self._change(caller, limits, source, actor, door)

    async def drop_limits(self, caller: str, reason: str, actor: str, door: str) -> LimitsRow:
        """Take an app's limits away: it may order nothing, and nothing of what it has ordered is switched off any more.

        Raises:
            NotFound: It has none.
        """
        return await self._change(caller, None, reason, actor, door)

    async def _change(self, caller: str, limits: AppLimits | None, source: str, actor: str, door: str) -> LimitsRow:
        now = self._clock.now()
        async with self._db.write() as conn:
            await store.lock_caller(conn, caller)
            versions = await store.fetch_versions(conn, caller, 1)
            before = versions[0].limits if versions else None
            if limits is None and before is None:
                raise NotFound(f"no limits of {caller}", message_zh=f"{caller} 没有权限设置")
            if not versions and await store.count_callers(conn) >= MAX_APPS:
                raise InvalidInput(
                    f"there are limits of {MAX_APPS} apps already", message_zh=f"已有 {MAX_APPS} 个应用的权限设置"
                )
            after = None if limits is None else limits.as_json()
            row = await store.insert_limits(conn, caller, after, source, actor, now)
            action = "app_limits.remove" if limits is None else "app_limits.set"
            await record(
                conn, Entry(actor, door, action, f"app:{caller}", now, before=before, after=after, reason=source)
            )
        return row

    async def limits_of(self, caller: str) -> AppLimits | None:
        """Return what an app may order; None is nothing."""
        async with self._db.read() as conn:
            return (await store.fetch_limits(conn, {caller})).get(caller)

    async def current(self) -> list[LimitsRow]:
        """Return the limits of all apps."""
        async with self._db.read() as conn:
            return await store.fetch_current(conn)

    async def versions(self, caller: str, limit: int) -> list[LimitsRow]:
        """Return the versions of one app's limits, the youngest first."""
        async with self._db.read() as conn:
            return await store.fetch_versions(conn, caller, limit)

    async def opt_out(
        self, site_id: str, start: datetime | None, until: datetime, reason: str, actor: str, door: str
    ) -> OptOut:
        """Let a site take no part in what apps order; what is off is woken at its time.

        Raises:
            InvalidInput: There is no such site, or the time has no length, is over or too long.
        """
        now = self._clock.now()
        starts_at = now if start is None else start
        if not self._loads.at_site(site_id):
            raise InvalidInput(
                f"site_id: expected a site with loads, not {site_id!r}",
                message_zh=f"site_id 应为有负载的站点,收到 {site_id!r}",
                field="site_id",
            )
        if not max(starts_at, now) < until <= starts_at + LONGEST_OPT_OUT:
            raise InvalidInput(
                f"until: expected a time to come, after from, and at most {LONGEST_OPT_OUT.days} days later",
                message_zh=f"until 应为将来的时间,晚于 from 且相距不超过 {LONGEST_OPT_OUT.days} 天",
                field="until",
            )
        one = OptOut(new_id(), site_id, starts_at, until, reason, actor, now)
        async with self._db.write() as conn:
            await store.insert_opt_out(conn, one)
            entry = Entry(
                actor, door, "opt_out.declare", f"site:{site_id}", now, after=_facts(one), reason=reason or None
            )
            await record(conn, entry)
        return one

    async def end_opt_out(self, opt_out_id: str, reason: str, actor: str, door: str) -> OptOut:
        """End an opt-out before its time; ending one that was ended is no error.

        Raises:
            NotFound: There is none.
        """
        now = self._clock.now()
        async with self._db.write() as conn:
            one = await store.fetch_opt_out(conn, opt_out_id)
            if one is None:
                raise NotFound(f"no opt-out {opt_out_id}", message_zh=f"没有退出记录 {opt_out_id}")
            if not await store.end_opt_out(conn, opt_out_id, actor, now):
                return one
            ended = replace(one, ended_by=actor, ended_at=now)
            entry = Entry(
                actor, door, "opt_out.end", f"site:{one.site_id}", now, before=_facts(one), after=_facts(ended),
                reason=reason or None,
            )  # fmt: skip
            await record(conn, entry)
        return ended

    async def opt_out_of(self, opt_out_id: str) -> OptOut:
        """Return an opt-out.

        Raises:
            NotFound: There is none.
        """
        async with self._db.read() as conn:
            one = await store.fetch_opt_out(conn, opt_out_id)
        if one is None:
            raise NotFound(f"no opt-out {opt_out_id}", message_zh=f"没有退出记录 {opt_out_id}")
        return one

    async def opt_outs(
        self, site_ids: Collection[str] | None, before: tuple[datetime, str] | None, limit: int
    ) -> list[OptOut]:
        """Return opt-outs, ended ones too, the youngest first."""
        async with self._db.read() as conn:
            return await store.fetch_opt_outs(conn, site_ids=site_ids, before=before, limit=limit)


def _facts(one: OptOut) -> Mapping[str, object]:
    return {
        "opt_out_id": one.opt_out_id,
        "site_id": one.site_id,
        "from": one.starts_at,
        "until": one.until,
        "ended_at": one.ended_at,
    }
