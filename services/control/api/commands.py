"""Commands over HTTP."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field, model_validator

from libs.common.contracts.base import UtcTime
from libs.common.contracts.control import CommandAction, CommandState, Priority
from libs.common.db import Database, WriteConn
from libs.common.errors import NotFound, WrongValue
from libs.common.tokens import Principal
from libs.common.web import Cursor, Limit, Page, ProblemDetail, read_time_cursor, time_cursor
from services.control.api.common import (
    LOOK_MAX_AGE_S,
    IdempotencyKey,
    Idempotent,
    Model,
    ReadOrApp,
    Switch,
    SwitchOrApp,
    TakeBy,
    View,
    actor_of,
    app_of,
    door_of,
    is_app,
    is_own,
    is_visible,
    require_sites,
    sites_of,
)
from services.control.api.faults import FaultView, fault_view
from services.control.domain.apps import OPTED_OUT
from services.control.domain.commands import Command
from services.control.domain.guards import Hold
from services.control.domain.loads import LoadInfo
from services.control.drivers.door import Board
from services.control.store import lookup
from services.control.usecases.apps import Apps
from services.control.usecases.orders import Group, Orders, SwitchOrder
from services.control.usecases.ports import Loads


class CommandIn(Model):
    """Switch loads off or on."""

    action: Literal["open", "close"]
    """``open`` is OFF, ``close`` is ON."""
    load_id: str | None = None
    load_ids: tuple[str, ...] = Field(default=(), max_length=20_000)
    device_ids: tuple[str, ...] = Field(default=(), max_length=20_000)
    """All loads behind these breakers."""
    site_id: str | None = None
    """All loads of a site."""
    region_id: str | None = None
    """All loads of the sites in a province, city or district."""
    tag: str | None = None
    """All loads that carry a tag."""
    restore_at: UtcTime | None = None
    """When an OFF ends; every OFF needs it."""
    not_before: UtcTime | None = None
    not_after: UtcTime | None = None
    """Until when an OFF may be sent. With it the OFF waits for a device that cannot be reached, and for every other
    guard that may pass; then it is ``expired``, with what it waited for. An ON has none: it is repeated until proven.
    """
    reason: str | None = Field(default=None, max_length=500)
    priority: Literal["operator", "upstream_app"] = "operator"
    """An upstream app's order is always ``upstream_app``."""

    @model_validator(mode="after")
    def _one_target(self) -> "CommandIn":
        given = (self.load_id, self.load_ids or None, self.device_ids or None, self.site_id, self.region_id, self.tag)
        if sum(one is not None for one in given) != 1:
            raise WrongValue(
                "exactly one of load_id, load_ids, device_ids, site_id, region_id and tag",
                "load_id、load_ids、device_ids、site_id、region_id、tag 中恰好一项",
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
    fault: FaultView | None = None
    """What is the matter with it, in words; absent while nothing is."""


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
    """A load that is not switched, and why."""

    load_id: str
    state: Literal["refused", "opted_out"]
    """``opted_out``: its site takes no part in what upstream apps order now; that is an answer and no error."""
    guard: str
    value: Any = None
    limit: Any = None
    message: str = ""
    message_zh: str = ""


class ProgressView(View):
    """How far an order for many is."""

    total: int
    """Of those asked for, the refused ones included."""
    done: int
    """Whose end is known, the refused ones included."""
    succeeded: int
    refused: int
    by_state: Mapping[str, int]
    """How many of those that were taken are in which state."""


class GroupView(View):
    """What became of a request for one or many loads."""

    group_id: str
    state: CommandState
    """``partial`` when some loads succeeded and others did not or were refused."""
    action: CommandAction
    actor: str
    created_at: UtcTime
    expected_by: UtcTime | None
    """When the last result is expected; null when all are there, or when a person has to act first."""
    progress: ProgressView
    commands: list[CommandView]
    refused: list[RefusedView]


def build_command_router(
    *, orders: Orders, apps: Apps, db: Database, loads: Loads, board: Board, idempotent: Idempotent,
    wake: Callable[[], None], registry: Callable[[], Awaitable[None]],
) -> APIRouter:  # fmt: skip
    """Return the routes of commands.

    ``wake`` hurries the scheduler; ``registry`` raises ``Unavailable`` until all loads are known. No ON waits for that.
    """
    router = APIRouter(prefix="/api/v1/commands")

    def shown(group: Group) -> GroupView:
        return group_view(group, orders.expected_by(group))

    @router.post("", status_code=202, summary="Switch loads off or on",
                 responses={202: {"model": GroupView}, 422: {"model": ProblemDetail},
                            409: {"model": ProblemDetail, "description": "Key in use, or `Take-By` is over"},
                            429: {"model": ProblemDetail, "description": "An upstream app ordered too often; "
                                  "`Retry-After` says when it may again"}})  # fmt: skip
    async def switch(body: CommandIn, who: SwitchOrApp, key: IdempotencyKey = None, take_by: TakeBy = None) -> Response:
        """Take an order.

        Of an upstream app (right `control:app`) its limits are asked first: `GET /api/v1/guards/apps/me`. Of places and
        tags it reaches its own loads only. Where sites have opted out the answer is 202 too, with these loads as
        `opted_out` in `refused`, also when it is all of them.
        """
        if body.action == "open":
            await registry()
        limits = await apps.limits_of(actor_of(who)) if is_app(who) else None
        load_ids = _targets(body, loads, (lambda _: True) if not is_app(who) or limits is None else limits.lists)
        require_sites(who, [loads.get(load_id) for load_id in load_ids])
        if body.action == "open":
            await board.refresh(LOOK_MAX_AGE_S)
        order = SwitchOrder(
            action=CommandAction(body.action), load_ids=load_ids, actor=actor_of(who), door=door_of(who),
            priority=Priority.UPSTREAM_APP if is_app(who) or body.priority == "upstream_app" else Priority.OPERATOR,
            not_before=body.not_before, not_after=body.not_after, restore_at=body.restore_at, reason=body.reason,
            by_app=is_app(who), take_by=take_by,
        )  # fmt: skip

        async def work(conn: WriteConn) -> tuple[int, BaseModel]:
            group = await orders.switch(conn, order)
            answered = group.commands or group.opted_out
            return (202, shown(group)) if answered else (400, _all_refused(group))

        answer = await idempotent.run(who, key, body, work, path="/commands")
        wake()
        return answer

    @router.get("", summary="List commands, the youngest first; of an upstream app its own")
    async def list_commands(
        who: ReadOrApp,
        site: str | None = None,
        device: str | None = None,
        load: str | None = None,
        plan: str | None = None,
        group: Annotated[str | None, Query(description="of one request for many loads")] = None,
        wake_up: str | None = None,
        actor: Annotated[str | None, Query(description="who ordered, such as user:… or key:…")] = None,
        state: CommandState | None = None,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Page[CommandView]:
        before = None if cursor is None else read_time_cursor(cursor)
        async with db.read() as conn:
            found = await lookup.fetch_page(
                conn, site_id=site, device_id=device, load_id=load, plan_id=plan, group_id=group, wake_up_id=wake_up,
                state=None if state is None else state.value, before=before, limit=limit, sites=sites_of(who, loads),
                actor=app_of(who) or actor,
            )  # fmt: skip
        cursor_out = time_cursor(found[-1].created_at, found[-1].command_id) if len(found) == limit else None
        return Page(items=[command_view(command) for command in found], next_cursor=cursor_out)

    @router.get("/groups/{group_id}", summary="Read what became of a request")
    async def read_group(group_id: str, who: ReadOrApp) -> GroupView:
        group = await orders.group(group_id)
        if not is_own(who, group.actor) or not all(
            is_visible(who, command.load_id, loads) for command in group.commands
        ):
            raise NotFound(f"no group {group_id}", message_zh=f"没有命令组 {group_id}")
        return shown(group)

    @router.post(
        "/groups/{group_id}/approve", summary="Agree, as the second person, to an order that policy asks it for"
    )
    async def approve_group(group_id: str, who: Switch) -> GroupView:
        await _require_group(group_id, who)
        group = await orders.approve(group_id, actor_of(who), door_of(who))
        wake()
        return shown(group)

    @router.post("/groups/{group_id}/decline", summary="Call off what of an order waits for a second person")
    async def decline_group(group_id: str, body: CancelIn, who: Switch) -> GroupView:
        await _require_group(group_id, who)
        return shown(await orders.decline(group_id, body.reason, actor_of(who), door_of(who)))

    async def _require_group(group_id: str, who: Principal) -> None:
        group = await orders.group(group_id)
        require_sites(who, [loads.get(command.load_id) for command in group.commands])

    @router.get("/{command_id}", summary="Read one command with its whole life")
    async def read_command(command_id: str, who: ReadOrApp) -> CommandDetail:
        async with db.read() as conn:
            command = await lookup.fetch(conn, command_id)
            history = [] if command is None else await lookup.fetch_history(conn, command)
        if command is None or not is_visible(who, command.load_id, loads) or not is_own(who, command.actor):
            raise NotFound(f"no command {command_id}", message_zh=f"没有命令 {command_id}")
        steps = [StepView.model_validate(row, from_attributes=True) for row in history]
        return CommandDetail(**dict(command_view(command)), history=steps)

    @router.post("/{command_id}/cancel", summary="Call off an OFF that was not sent yet")
    async def cancel(command_id: str, body: CancelIn, who: SwitchOrApp) -> CommandView:
        async with db.read() as conn:
            command = await lookup.fetch(conn, command_id)
        if command is not None and not is_own(who, command.actor):
            raise NotFound(f"no command {command_id}", message_zh=f"没有命令 {command_id}")
        if command is not None:
            require_sites(who, [loads.get(command.load_id)])
        return command_view(await orders.cancel(command_id, body.reason, actor_of(who), door_of(who)))

    return router


def _targets(body: CommandIn, loads: Loads, reaches: Callable[[LoadInfo], bool]) -> tuple[str, ...]:
    """Return the loads that are meant; of places and tags those that the caller reaches."""
    if body.load_id is not None:
        return (body.load_id,)
    if body.load_ids:
        return body.load_ids
    devices = set(body.device_ids)
    found = [
        load
        for load in loads.all()
        if reaches(load)
        and (
            load.device_id in devices
            or load.site_id == body.site_id
            or body.region_id in load.region_ids
            or body.tag in load.tags
        )
    ]
    missing = sorted(devices.difference(load.device_id or "" for load in found)) if devices else []
    if not found or missing:
        place = ", ".join(missing[:20]) or body.site_id or body.region_id or body.tag
        raise NotFound(f"no load at {place}", message_zh=f"{place} 没有负载")
    return tuple(load.load_id for load in found)


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
        fault=None if command.fault is None else fault_view(command.fault),
    )


def progress_view(by_state: Mapping[str, int], refused: int) -> ProgressView:
    """Return how far an order for many is."""
    taken = sum(by_state.values())
    ended = sum(count for state, count in by_state.items() if CommandState(state).is_final)
    return ProgressView(
        total=taken + refused, done=ended + refused, succeeded=by_state.get(CommandState.SUCCEEDED.value, 0),
        refused=refused, by_state=by_state,
    )  # fmt: skip


def group_view(group: Group, expected_by: datetime | None) -> GroupView:
    """Return a group as it is shown; the wake-ups of its OFFs are reached by ``pair_id``."""
    return GroupView(
        group_id=group.group_id,
        state=group.state,
        action=group.action,
        actor=group.actor,
        created_at=group.created_at,
        expected_by=expected_by,
        progress=progress_view(group.by_state, len(group.refused)),
        commands=[command_view(command) for command in group.commands if command.action is group.action],
        refused=[_refused_view(one) for one in group.refused],
    )


def _refused_view(one: Mapping[str, Any]) -> RefusedView:
    return RefusedView(state="opted_out" if one["guard"] == OPTED_OUT else "refused", **one)


def _all_refused(group: Group) -> ProblemDetail:
    first = group.refused[0]
    return ProblemDetail(
        title="GuardRefused",
        status=400,
        code="guard_refused",
        detail=f"no load may be switched: {first['load_id']}: {first['guard']}: {first['message']}",
        detail_zh=f"闭锁条件不满足:{first['load_id']}:{first['guard']}:{first['message_zh']}",
        facts={"group_id": group.group_id, "refused": list(group.refused)},
    )
