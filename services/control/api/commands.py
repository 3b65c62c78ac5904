"""Commands, isolations, wake-ups and guards over HTTP."""

import logging
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field, model_validator

from libs.common.clock import Clock
from libs.common.contracts.base import Flag, UtcTime
from libs.common.contracts.control import CommandAction, CommandState, Priority
from libs.common.db import Database, WriteConn
from libs.common.errors import Forbidden, InvalidInput, NotFound, Unavailable, WrongValue
from libs.common.ids import new_id
from libs.common.tokens import Principal
from libs.common.web import Cursor, Limit, Page, ProblemDetail, read_time_cursor, time_cursor
from services.control.api.common import (
    IdempotencyKey,
    Idempotent,
    Model,
    Read,
    Switch,
    View,
    actor_of,
    allowed,
    door_of,
    require_all_sites,
    require_sites,
)
from services.control.api.guards import GuardView, list_of_guards
from services.control.domain.commands import Command
from services.control.domain.guards import Hold, Policy
from services.control.domain.loads import LoadInfo
from services.control.drivers.door import Board, OnRequest
from services.control.store import commands as store
from services.control.store import orders as order_store
from services.control.store.orders import Isolation
from services.control.usecases.isolations import IsolationRequest, Isolations
from services.control.usecases.orders import Group, Orders, SwitchOrder, WakeOrder, WakeProgress
from services.control.usecases.ports import Loads

logger = logging.getLogger(__name__)

LOOK_MAX_AGE_S = 2.0
"""A reading older than this is looked up again before an OFF is accepted. [s]"""


class CommandIn(Model):
    """Switch loads off or on."""

    action: Literal["open", "close"]
    """``open`` is OFF, ``close`` is ON."""
    load_id: str | None = None
    load_ids: tuple[str, ...] = Field(default=(), max_length=20_000)
    site_id: str | None = None
    """All loads of a site."""
    tag: str | None = None
    """All loads that carry a tag."""
    restore_at: UtcTime | None = None
    """When an OFF ends; every OFF needs it."""
    not_before: UtcTime | None = None
    reason: str | None = Field(default=None, max_length=500)
    priority: Literal["operator", "upstream_app"] = "operator"

    @model_validator(mode="after")
    def _one_target(self) -> "CommandIn":
        given = [self.load_id is not None, bool(self.load_ids), self.site_id is not None, self.tag is not None]
        if sum(given) != 1:
            raise WrongValue(
                "exactly one of load_id, load_ids, site_id and tag", "load_id、load_ids、site_id、tag 中恰好一项"
            )
        return self


class CancelIn(Model):
    """Why a command is called off."""

    reason: str = Field(default="", max_length=500)


class CommandView(View):
    """One command and how far it is."""

    command_id: str
    action: CommandAction
    load_id: str
    site_id: str
    device_id: str
    channel: int | None
    priority: str
    state: CommandState
    reason: str
    hold: Hold | None
    """Why an ON stands still; a person was called."""
    attempt: int
    created_at: UtcTime
    not_before: UtcTime
    not_after: UtcTime | None
    restore_at: UtcTime | None
    sent_at: UtcTime | None
    pair_id: str | None
    """The wake-up of an OFF, the OFF of a wake-up."""
    group_id: str | None
    wake_up_id: str | None
    occurrence_id: str | None
    plan_id: str | None
    isolation_id: str | None
    actor: str
    expected_by: UtcTime | None
    """When the next step is expected."""


class StepView(View):
    """One step in a command's life, with its evidence."""

    at: UtcTime
    state: str
    reason: str
    hold: str | None
    attempt: int
    evidence: Mapping[str, Any]


class CommandDetail(CommandView):
    """A command with its whole life."""

    history: list[StepView]


class RefusedView(View):
    """A load that a guard refused."""

    load_id: str
    guard: str
    value: Any = None
    limit: Any = None


class GroupView(View):
    """What became of a request for one or many loads."""

    group_id: str
    state: CommandState
    """``partial`` when some loads succeeded and others did not or were refused."""
    action: CommandAction
    actor: str
    created_at: UtcTime
    commands: list[CommandView]
    refused: list[RefusedView]


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
    commanded: int
    verified: int
    held: int
    """Stopped by an isolation, a local lock or a protection trip; a person was called."""
    state: Literal["running", "done"]
    unreachable: list[str] = Field(default_factory=list)
    """Loads without a breaker that could be reached; only in the answer to the order itself."""


class IsolationIn(Model):
    """Ask for a load to be kept off under a work permit."""

    load_id: str
    owner: str = Field(min_length=1, max_length=100)
    """Who works there."""
    permit: str = Field(min_length=1, max_length=100)
    """Number of the work permit."""
    reason: str = Field(min_length=1, max_length=500)
    expires_at: UtcTime


class IsolationView(View):
    """A work permit and its state."""

    isolation_id: str
    load_id: str
    site_id: str
    state: str
    owner: str
    permit: str
    reason: str
    requested_by: str
    requested_at: UtcTime
    approved_by: str | None
    approved_at: UtcTime | None
    expires_at: UtcTime
    ended_by: str | None
    ended_at: UtcTime | None
    end_reason: str | None
    off_command_id: str


class TripReleaseIn(Model):
    """A person has dealt with a protection trip; the load may be woken."""

    load_id: str
    trip_reason: int
    reason: str = Field(min_length=1, max_length=500)


def build_command_router(
    *, orders: Orders, isolations: Isolations, db: Database, clock: Clock, loads: Loads, board: Board, policy: Policy,
    idempotent: Idempotent, wake: Callable[[], None], last_resort: Callable[[Sequence[OnRequest]], None],
) -> APIRouter:  # fmt: skip
    """Return the routes of commands, isolations, wake-ups and guards.

    ``wake`` hurries the scheduler, ``last_resort`` wakes without a database.
    """
    router = APIRouter(prefix="/api/v1")

    @router.post("/commands", status_code=202, tags=["commands"], summary="Switch loads off or on",
                 responses={202: {"model": GroupView}, 422: {"model": ProblemDetail}})  # fmt: skip
    async def switch(body: CommandIn, who: Switch, key: IdempotencyKey = None) -> Response:
        load_ids = _targets(body, loads)
        require_sites(who, [loads.get(load_id) for load_id in load_ids])
        if body.action == "open":
            await board.refresh(LOOK_MAX_AGE_S)
        order = SwitchOrder(
            action=CommandAction(body.action), load_ids=load_ids, actor=actor_of(who), door=door_of(who),
            priority=Priority.OPERATOR if body.priority == "operator" else Priority.UPSTREAM_APP,
            not_before=body.not_before, restore_at=body.restore_at, reason=body.reason,
        )  # fmt: skip

        async def work(conn: WriteConn) -> tuple[int, BaseModel]:
            group = await orders.switch(conn, order)
            return (202, group_view(group)) if group.commands else (400, _all_refused(group))

        answer = await idempotent.run(who, key, body, work, path="/commands")
        wake()
        return answer

    @router.get("/commands", tags=["commands"], summary="List commands, the youngest first")
    async def list_commands(
        who: Read,
        site: str | None = None,
        device: str | None = None,
        load: str | None = None,
        plan: str | None = None,
        group: Annotated[str | None, Query(description="of one request for many loads")] = None,
        wake_up: str | None = None,
        state: CommandState | None = None,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Page[CommandView]:
        before = None if cursor is None else read_time_cursor(cursor)
        async with db.read() as conn:
            found = await store.fetch_page(
                conn, site_id=site, device_id=device, load_id=load, plan_id=plan, group_id=group, wake_up_id=wake_up,
                state=None if state is None else state.value, before=before, limit=limit, sites=_sites(who, loads),
            )  # fmt: skip
        cursor_out = time_cursor(found[-1].created_at, found[-1].command_id) if len(found) == limit else None
        return Page(items=[command_view(command) for command in found], next_cursor=cursor_out)

    @router.get("/commands/groups/{group_id}", tags=["commands"], summary="Read what became of a request")
    async def read_group(group_id: str, who: Read) -> GroupView:
        async with db.read() as conn:
            head = await store.fetch_group_head(conn, group_id)
            commands = await store.fetch_group(conn, group_id)
        if head is None or not all(_visible(who, command.load_id, loads) for command in commands):
            raise NotFound(f"no group {group_id}", message_zh=f"没有命令组 {group_id}")
        action = CommandAction(head["action"])
        return group_view(
            Group(group_id, action, head["actor"], head["created_at"], tuple(commands), tuple(head["refused"]))
        )

    @router.get("/commands/isolations", tags=["commands"], summary="List isolations (work permits)")
    async def list_isolations(who: Read, state: str | None = None) -> list[IsolationView]:
        async with db.read() as conn:
            found = await order_store.fetch_isolations(conn, state=state)
        return [_isolation_view(one) for one in found if _visible(who, one.load_id, loads)]

    @router.post("/commands/isolations", status_code=201, tags=["commands"], summary="Request an isolation")
    async def request_isolation(body: IsolationIn, who: Switch) -> IsolationView:
        load = _known(loads, body.load_id)
        require_sites(who, [load])
        wanted = IsolationRequest(load, body.owner, body.permit, body.reason, body.expires_at)
        return _isolation_view(await isolations.request(wanted, actor_of(who), door_of(who)))

    @router.post("/commands/isolations/{isolation_id}/approve", tags=["commands"],
                 summary="Put an isolation into force, as the second person")  # fmt: skip
    async def approve_isolation(isolation_id: str, who: Switch) -> IsolationView:
        await _require_isolation_site(who, isolation_id)
        found = await isolations.approve(isolation_id, actor_of(who), door_of(who))
        wake()
        return _isolation_view(found)

    @router.post("/commands/isolations/{isolation_id}/release", tags=["commands"],
                 summary="End an isolation; the load is woken")  # fmt: skip
    async def release_isolation(isolation_id: str, body: CancelIn, who: Switch) -> IsolationView:
        await _require_isolation_site(who, isolation_id)
        found = await isolations.release(isolation_id, actor_of(who), door_of(who), body.reason)
        wake()
        return _isolation_view(found)

    async def _require_isolation_site(who: Principal, isolation_id: str) -> None:
        async with db.read() as conn:
            found = [one for one in await order_store.fetch_isolations(conn) if one.isolation_id == isolation_id]
        require_sites(who, [loads.get(one.load_id) for one in found])

    @router.post("/commands/trip-releases", status_code=204, tags=["commands"],
                 summary="Say that a protection trip has been dealt with")  # fmt: skip
    async def release_trip(body: TripReleaseIn, who: Switch) -> None:
        require_sites(who, [loads.get(body.load_id)])
        await orders.release_trip(body.load_id, body.trip_reason, body.reason, actor_of(who), door_of(who))
        wake()

    @router.get("/commands/{command_id}", tags=["commands"], summary="Read one command with its whole life")
    async def read_command(command_id: str, who: Read) -> CommandDetail:
        async with db.read() as conn:
            command = await store.fetch(conn, command_id)
            history = await store.fetch_history(conn, command_id)
        if command is None or not _visible(who, command.load_id, loads):
            raise NotFound(f"no command {command_id}", message_zh=f"没有命令 {command_id}")
        steps = [StepView.model_validate(row, from_attributes=True) for row in history]
        return CommandDetail(**dict(command_view(command)), history=steps)

    @router.post("/commands/{command_id}/cancel", tags=["commands"], summary="Call off an OFF that was not sent yet")
    async def cancel(command_id: str, body: CancelIn, who: Switch) -> CommandView:
        async with db.read() as conn:
            command = await store.fetch(conn, command_id)
        if command is not None:
            require_sites(who, [loads.get(command.load_id)])
        return command_view(await orders.cancel(command_id, body.reason, actor_of(who), door_of(who)))

    @router.post("/wake-ups", status_code=202, tags=["wake-ups"], summary="One key: wake a device, a site or more",
                 responses={202: {"model": WakeUpView}, 422: {"model": ProblemDetail}})  # fmt: skip
    async def order_wake_up(body: WakeUpIn, who: Switch, key: IdempotencyKey = None) -> Response:
        found = _scope(body, loads, who)
        order = WakeOrder(
            scope=body.scope.value, target=body.target or "", loads=tuple(found), actor=actor_of(who),
            door=door_of(who), reason=body.reason, suspends=body.suspend_plans,
        )  # fmt: skip

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
            commanded=len(requests), verified=0, held=len(held), state="running",
        )  # fmt: skip
        return Response(view.model_dump_json(), status_code=202, media_type="application/json")

    @router.get("/wake-ups", tags=["wake-ups"], summary="List wake-up orders, the youngest first")
    async def list_wake_ups(_: Read, cursor: Cursor = None, limit: Limit = 20) -> Page[WakeUpView]:
        found = await orders.page(None if cursor is None else read_time_cursor(cursor), limit)
        last = found[-1].order if len(found) == limit else None
        return Page(
            items=[wake_up_view(one) for one in found],
            next_cursor=None if last is None else time_cursor(last.created_at, last.wake_up_id),
        )

    @router.get("/wake-ups/{wake_up_id}", tags=["wake-ups"], summary="Read how far a wake-up is")
    async def read_wake_up(wake_up_id: str, _: Read) -> WakeUpView:
        return wake_up_view(await orders.progress(wake_up_id))

    @router.post(
        "/wake-ups/{wake_up_id}/release", tags=["wake-ups"], summary="Let the plans over the woken loads go on"
    )
    async def release_wake_up(wake_up_id: str, who: Switch) -> WakeUpView:
        if (await orders.progress(wake_up_id)).order.scope in ("all", "region"):
            require_all_sites(who)
        return wake_up_view(await orders.release(wake_up_id, actor_of(who), door_of(who)))

    @router.get("/guards", tags=["guards"], summary="List what forbids an OFF, and what stops an ON")
    async def list_guards(_: Read) -> list[GuardView]:
        return list_of_guards(policy)

    return router


# From requests.


def _targets(body: CommandIn, loads: Loads) -> tuple[str, ...]:
    if body.load_id is not None:
        return (body.load_id,)
    if body.load_ids:
        return body.load_ids
    found = [
        load
        for load in loads.all()
        if (load.site_id == body.site_id if body.site_id is not None else body.tag in load.tags)
    ]
    if not found:
        place = body.site_id or body.tag
        raise NotFound(f"no load at {place}", message_zh=f"{place} 没有负载")
    return tuple(load.load_id for load in found)


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
        found = [_known(loads, load_id) for load_id in dict.fromkeys(body.load_ids)]
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


def _known(loads: Loads, load_id: str) -> LoadInfo:
    load = loads.get(load_id)
    if load is None:
        raise NotFound(f"no load {load_id}", message_zh=f"没有负载 {load_id}")
    return load


def _visible(who: Principal, load_id: str, loads: Loads) -> bool:
    load = loads.get(load_id)
    return who.sites is None if load is None else allowed(who, load)


def _sites(who: Principal, loads: Loads) -> list[str] | None:
    if who.sites is None:
        return None
    return sorted({load.site_id for load in loads.all() if allowed(who, load)})


# Into answers.


def command_view(command: Command) -> CommandView:
    """Return a command as it is shown."""
    return CommandView(
        command_id=command.command_id,
        action=command.action,
        load_id=command.load_id,
        site_id=command.site_id,
        device_id=command.device_id,
        channel=command.channel,
        priority=command.priority.name.lower(),
        state=command.state,
        reason=command.reason,
        hold=command.hold,
        attempt=command.attempt,
        created_at=command.created_at,
        not_before=command.not_before,
        not_after=command.not_after,
        restore_at=command.restore_at,
        sent_at=command.sent_at,
        pair_id=command.pair_id,
        group_id=command.group_id,
        wake_up_id=command.wake_up_id,
        occurrence_id=command.occurrence_id,
        plan_id=command.plan_id,
        isolation_id=command.isolation_id,
        actor=command.actor,
        expected_by=command.next_at,
    )


def group_view(group: Group) -> GroupView:
    """Return a group as it is shown; the wake-ups of its OFFs are reached by ``pair_id``."""
    return GroupView(
        group_id=group.group_id,
        state=group.state,
        action=group.action,
        actor=group.actor,
        created_at=group.created_at,
        commands=[command_view(command) for command in group.commands if command.action is group.action],
        refused=[RefusedView.model_validate(one) for one in group.refused],
    )


def _all_refused(group: Group) -> ProblemDetail:
    first = group.refused[0]
    return ProblemDetail(
        title="GuardRefused",
        status=400,
        code="guard_refused",
        detail=f"no load may be switched: {first['load_id']}: {first['guard']} ({first['value']})",
        detail_zh=f"闭锁条件不满足:{first['load_id']}:{first['guard']}({first['value']})",
        facts={"group_id": group.group_id, "refused": list(group.refused)},
    )


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
        verified=progress.verified,
        held=progress.held,
        state="done" if progress.verified >= progress.loads else "running",
        unreachable=list(progress.unreachable),
    )


def _isolation_view(isolation: Isolation) -> IsolationView:
    return IsolationView.model_validate(isolation, from_attributes=True)
