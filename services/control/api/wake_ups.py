"""One key: wake-up orders over HTTP."""

import logging
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from libs.common.clock import Clock
from libs.common.contracts.base import Flag, UtcTime
from libs.common.contracts.control import CommandState
from libs.common.db import WriteConn
from libs.common.errors import Forbidden, InvalidInput, NotFound, Unavailable
from libs.common.garbage import UNDISTURBED_AT_MOST_S, Undisturbed
from libs.common.ids import new_id
from libs.common.tokens import Principal
from libs.common.web import Cursor, Limit, Page, ProblemDetail, read_time_cursor, time_cursor
from services.control.api.common import (
    LOOK_MAX_AGE_S,
    IdempotencyKey,
    Idempotent,
    Model,
    Read,
    Switch,
    View,
    actor_of,
    allowed,
    door_of,
    is_visible,
    known_load,
    require_all_sites,
    require_sites,
)
from services.control.api.faults import FaultView, fault_view
from services.control.domain.faults import Fault
from services.control.domain.loads import LoadInfo
from services.control.drivers.door import Board, OnRequest
from services.control.store.wakeups import WakeLoad, Which
from services.control.usecases.orders import Orders, WakeOrder, WakeProgress
from services.control.usecases.ports import Loads

logger = logging.getLogger(__name__)

MANY = 300
"""With so many loads the process is left undisturbed while they are woken."""


class Scope(StrEnum):
    """What one key wakes."""

    LOADS = "loads"
    DEVICE = "device"
    SITE = "site"
    REGION = "region"
    ALL = "all"


class WakeUpIn(Model):
    """One key: wake at once, whatever was planned."""

    scope: Scope
    target: str | None = None
    """Device, site or region; nothing for ``all``."""
    load_ids: tuple[str, ...] = Field(default=(), max_length=100_000)
    """For the scope ``loads``."""
    reason: str = Field(default="", max_length=500)
    suspend_plans: Flag = True
    """Plans over these loads rest until the order is released."""


class WakeUpView(View):
    """How far a wake-up is."""

    wake_up_id: str
    scope: str
    target: str
    reason: str
    actor: str
    created_at: UtcTime
    suspends_plans: bool
    released_at: UtcTime | None
    released_by: str | None
    loads: int
    """With a breaker that can be reached."""
    commanded: int
    accepted: int
    """The holder of the line has taken the order, or the load is proven on."""
    verified: int
    held: int
    """Stopped by an isolation, a local lock or a protection trip; a person was called."""
    failed: int
    """Not awake, and ``faults`` says why; tried on all the same."""
    faults: list["FaultCount"]
    """Also of loads that read closed and draw no power, and of those without a breaker, which nobody switched off."""
    state: Literal["running", "done"]


class FaultCount(View):
    """How many loads of an order have one fault."""

    fault: FaultView
    loads: int


class WakeLoadView(View):
    """One load of an order."""

    load_id: str
    name: str | None
    site_id: str | None
    device_id: str | None
    channel: int | None
    state: CommandState
    """Of its wake-up; ``rejected`` where there is no breaker to be closed."""
    awake: bool
    attempts: int
    sent_at: UtcTime | None
    changed_at: UtcTime
    reason: str
    hold: str | None
    fault: FaultView | None
    """Null while nothing is the matter, or nothing is known yet."""


def build_wake_up_router(
    *, orders: Orders, clock: Clock, loads: Loads, board: Board, idempotent: Idempotent, wake: Callable[[], None],
    last_resort: Callable[[Sequence[OnRequest]], None], undisturbed: Undisturbed,
) -> APIRouter:  # fmt: skip
    """Return the routes of wake-ups; ``wake`` hurries the scheduler, ``last_resort`` wakes without a database."""
    router = APIRouter(prefix="/api/v1/wake-ups")

    @router.post("", status_code=202, summary="One key: wake a device, a site or more",
                 responses={202: {"model": WakeUpView}, 422: {"model": ProblemDetail}})  # fmt: skip
    async def order_wake_up(body: WakeUpIn, who: Switch, key: IdempotencyKey = None) -> Response:
        found = _scope(body, loads, who)
        order = WakeOrder(
            scope=body.scope.value, target=body.target or "", loads=tuple(found), actor=actor_of(who),
            door=door_of(who), reason=body.reason, suspends=body.suspend_plans,
        )  # fmt: skip

        if len(order.loads) >= MANY:
            undisturbed.for_s(UNDISTURBED_AT_MOST_S)

        async def work(conn: WriteConn) -> tuple[int, BaseModel]:
            return 202, wake_up_view(await orders.wake(conn, order))

        try:
            answer = await idempotent.run(who, key, body, work, path="/wake-ups")
        except Unavailable as exc:
            return await _past_the_database(order, exc)
        wake()
        return answer

    async def _past_the_database(order: WakeOrder, why: Unavailable) -> Response:
        """Wake by the direct doors alone; plans are not suspended, and this log line is all that remembers it."""
        logger.error(
            "waking past the database",
            extra={"actor": order.actor, "scope": order.scope, "target": order.target, "reason": why.message},
        )
        await board.refresh(LOOK_MAX_AGE_S)
        held = [load.load_id for load in order.loads if board.is_isolated(load.load_id)]
        requests = [
            OnRequest(load.load_id, load.device_id, load.channel, f"one key by {order.actor}", new_id())
            for load in order.loads
            if load.device_id is not None and load.load_id not in held
        ]
        last_resort(requests)
        view = WakeUpView(
            wake_up_id="unrecorded", scope=order.scope, target=order.target, reason=order.reason, actor=order.actor,
            created_at=clock.now(), suspends_plans=False, released_at=None, released_by=None, loads=len(requests),
            commanded=len(requests), accepted=0, verified=0, held=len(held), failed=0, faults=[], state="running",
        )  # fmt: skip
        return Response(view.model_dump_json(), status_code=202, media_type="application/json")

    @router.get("", summary="List wake-up orders, the youngest first")
    async def list_wake_ups(_: Read, cursor: Cursor = None, limit: Limit = 20) -> Page[WakeUpView]:
        found = await orders.page(None if cursor is None else read_time_cursor(cursor), limit)
        last = found[-1].order if len(found) == limit else None
        return Page(
            items=[wake_up_view(one) for one in found],
            next_cursor=None if last is None else time_cursor(last.created_at, last.wake_up_id),
        )

    @router.get("/fault-codes", summary="List the fault codes of switching")
    async def list_fault_codes(_: Read) -> list[FaultView]:
        return [fault_view(fault) for fault in Fault]

    @router.get("/{wake_up_id}", summary="Read how far a wake-up is")
    async def read_wake_up(wake_up_id: str, _: Read) -> WakeUpView:
        return wake_up_view(await orders.progress(wake_up_id))

    @router.get("/{wake_up_id}/loads", summary="List loads of a wake-up, with what is the matter with each")
    async def list_loads(
        wake_up_id: str, who: Read, which: Which = "not_awake", cursor: Cursor = None, limit: Limit = 200
    ) -> Page[WakeLoadView]:
        after = "" if cursor is None else cursor
        found = await orders.wake_up_loads(wake_up_id, which=which, after=after, limit=limit)
        return Page(
            items=[_load_view(one, loads) for one in found if is_visible(who, one.load_id, loads)],
            next_cursor=found[-1].load_id if len(found) == limit else None,
        )

    @router.post("/{wake_up_id}/release", summary="Let the plans over the woken loads go on")
    async def release_wake_up(wake_up_id: str, who: Switch) -> WakeUpView:
        if (await orders.progress(wake_up_id)).order.scope in ("all", "region"):
            require_all_sites(who)
        return wake_up_view(await orders.release(wake_up_id, actor_of(who), door_of(who)))

    return router


def _scope(body: WakeUpIn, loads: Loads, who: Principal) -> Sequence[LoadInfo]:
    """Return the loads that an order means.

    Raises:
        InvalidInput: Scope and target do not fit.
        Forbidden: Some of them are not the caller's.
        NotFound: There are none.
    """
    if (body.scope is Scope.LOADS) != bool(body.load_ids) or (
        (body.scope in (Scope.LOADS, Scope.ALL)) != (body.target is None)
    ):
        raise InvalidInput(
            f"target: the scope {body.scope} needs "
            + {"loads": "load_ids", "all": "no target"}.get(body.scope.value, "the id as target"),
            message_zh=f"target 与 scope={body.scope} 不匹配",
            field="target",
        )
    if body.scope is Scope.LOADS:
        found = [known_load(loads, load_id) for load_id in dict.fromkeys(body.load_ids)]
    else:
        found = [load for load in loads.all() if _in_scope(body, load)]
    if not found:
        raise NotFound(f"no load in {body.scope} {body.target}", message_zh=f"{body.target} 下没有负载")
    if body.scope is Scope.ALL and who.sites is not None:
        # "All" of somebody who has a part of the tree is all of that part.
        found = [load for load in found if allowed(who, load)]
        if not found:
            raise Forbidden(f"{who.subject} may not switch anywhere", message_zh=f"{who.subject} 无任何可操作局站")
    require_sites(who, found)
    return found


def _in_scope(body: WakeUpIn, load: LoadInfo) -> bool:
    match body.scope:
        case Scope.DEVICE:
            return load.device_id == body.target
        case Scope.SITE:
            return load.site_id == body.target
        case Scope.REGION:
            return body.target in load.region_ids
        case _:
            return True


def wake_up_view(progress: WakeProgress) -> WakeUpView:
    """Return an order with its progress."""
    order = progress.order
    return WakeUpView(
        wake_up_id=order.wake_up_id,
        scope=order.scope,
        target=order.target,
        reason=order.reason,
        actor=order.actor,
        created_at=order.created_at,
        suspends_plans=order.suspends,
        released_at=order.released_at,
        released_by=order.released_by,
        loads=progress.loads,
        commanded=progress.commanded,
        accepted=progress.accepted,
        verified=progress.verified,
        held=progress.held,
        failed=progress.failed,
        faults=[
            FaultCount(fault=fault_view(fault), loads=number)
            for fault, number in sorted(progress.faults.items(), key=lambda item: (-item[1], item[0]))
        ],
        state="done" if progress.verified >= progress.loads else "running",
    )


def _load_view(one: WakeLoad, loads: Loads) -> WakeLoadView:
    load = loads.get(one.load_id)
    return WakeLoadView(
        load_id=one.load_id, name=None if load is None else load.name,
        site_id=one.site_id if load is None else load.site_id, device_id=one.device_id, channel=one.channel,
        state=one.state, awake=one.awake, attempts=one.attempts, sent_at=one.sent_at, changed_at=one.changed_at,
        reason=one.reason, hold=None if one.hold is None else one.hold.value,
        fault=None if one.fault is None else fault_view(one.fault),
    )  # fmt: skip
