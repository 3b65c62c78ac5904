"""HTTP of targets and budgets: set, adjusted, and how they stand."""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, Field

from libs.common.contracts.base import CalendarDate
from libs.common.contracts.carbon import Granularity
from libs.common.web import Cursor, Limit, Page, key_cursor, read_key_cursor
from services.carbon.api.common import Body, Reader, Text, Writer, request_id
from services.carbon.domain.targets import Adjustment, Status
from services.carbon.store.targets import StoredTarget
from services.carbon.tree import Node, NodeKind
from services.carbon.usecases.figures import Measure
from services.carbon.usecases.targets import Targets, TargetStanding

AMOUNT_MAX = 1e15
"""Beyond it is no amount of anything. [kWh, kgCO2 or CNY]"""
Amount = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-AMOUNT_MAX, le=AMOUNT_MAX)]
TargetId = Annotated[str, Path(max_length=64)]
AsOf = Annotated[
    CalendarDate | None, Query(description="the first civil day that is not counted; absent, or later than it: today")
]


class TargetBody(Body):
    """What a node may use, emit or spend in a period."""

    name: Text
    node_kind: NodeKind
    node: Text = Field(description="its id")
    measure: Measure
    unit: Text | None = Field(
        default=None, description="kWh, kgCO2 or CNY, as the measure has it; any other is refused"
    )
    first_day: CalendarDate
    last_day: CalendarDate = Field(description="belongs to the period")
    amount: Amount = Field(ge=0, description="what is allowed [kWh, kgCO2 or CNY]")
    reason: Text
    parent: Text | None = Field(default=None, description="id of the target that this one is a part of")
    owner: Text | None = Field(default=None, description="who answers for it")


class AdjustmentBody(Body):
    """A change of what is allowed, from a day on."""

    on: CalendarDate
    amount: Amount = Field(description="added to what was allowed; less than 0 takes away")
    reason: Text


class AdjustmentReply(BaseModel):
    """A change of what is allowed; the first is the allocation itself."""

    on: date
    amount: float
    reason: str
    author: str


class TargetReply(BaseModel):
    """A target."""

    target_id: str
    name: str
    node_kind: NodeKind
    node: str
    measure: str
    unit: str
    granularity: Granularity
    first_day: date
    last_day: date
    allowed: float = Field(description="by all adjustments")
    adjustments: Sequence[AdjustmentReply]
    parent: str | None
    owner: str | None


class ForecastReply(BaseModel):
    """How the period is expected to end."""

    value: float
    low: float | None = Field(description="of an 80 % interval; null: history is too short to say")
    high: float | None
    method: str


class ComplianceReply(BaseModel):
    """What exceeding the target would cost."""

    exceeded: float
    offset: float = Field(description="the part that offsets may cover")
    cost_cny: float


class StandingReply(BaseModel):
    """How a target stands at a day."""

    target: TargetReply
    as_of: date
    allowed: float = Field(description="by the adjustments up to the day")
    measured: float | None = Field(description="of the days that are known; null: none is, which is not zero")
    at_least: float | None = Field(description="all that is known, incomplete days too")
    exceeded: bool | None = Field(description="more than allowed is used for certain; null: nothing is known")
    completeness: float = Field(description="share of the past days that are known, 0 to 1")
    interval_completeness: float = Field(description="share of the past days' intervals that are known, 0 to 1")
    expected_share: float = Field(description="of the amount, by now: last year's profile, or that of the time")
    profile: str
    pace: float | None = Field(description="measured over what is expected by now; above 1 is too fast")
    forecast: ForecastReply | None
    gap: float | None = Field(description="allowed minus forecast; below 0 it will not do")
    status: Status
    exhausted_on: date | None = Field(description="the first day at whose end more is used than allowed")
    performance: float | None = Field(description="(allowed - measured) / allowed once the period is over")
    unallocated: float | None = Field(description="what children have not been given; null without children")
    children: Sequence[str]
    compliance: ComplianceReply | None = Field(description="where a price is asked with")


class StandingsReply(BaseModel):
    """How the children of a target stand, those first that used the greatest share of what they may."""

    items: Sequence[StandingReply]


def add_target_routes(router: APIRouter, targets: Targets) -> None:
    """Add the routes."""

    @router.get("/targets", tags=["targets"], summary="Targets and budgets")
    async def list_targets(
        who: Reader,
        node: Annotated[str | None, Query(max_length=64, description="of this node")] = None,
        parent: Annotated[str | None, Query(max_length=64, description="parts of this target")] = None,
        on: Annotated[CalendarDate | None, Query(description="that hold on this day")] = None,
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> Page[TargetReply]:
        found = await targets.page(
            who, node=node, parent=parent, on=on, after=read_key_cursor(cursor) or "", limit=limit
        )
        after = found[-1].target.target_id if len(found) == limit else None
        return Page(items=[_target(one) for one in found], next_cursor=None if after is None else key_cursor(after))

    @router.post("/targets", tags=["targets"], summary="Allow a node an amount in a period")
    async def create_target(body: TargetBody, request: Request, who: Writer) -> TargetReply:
        stored = await targets.create(
            who,
            name=body.name,
            node=Node(body.node_kind, body.node),
            measure=body.measure,
            unit=body.unit,
            first=body.first_day,
            end=body.last_day + timedelta(days=1),
            amount=body.amount,
            reason=body.reason,
            parent_id=body.parent,
            owner=body.owner,
            request_id=request_id(request),
        )
        return _target(stored)

    @router.get("/targets/{target_id}", tags=["targets"], summary="How a target stands: pace, forecast, gap, status")
    async def get_target(
        target_id: TargetId,
        who: Reader,
        as_of: AsOf = None,
        price_cny: Annotated[
            float | None, Query(ge=0, le=1e6, allow_inf_nan=False, description="of an allowance [CNY/unit]")
        ] = None,
        offset_share: Annotated[
            float, Query(ge=0, le=1, allow_inf_nan=False, description="that offsets may cover")
        ] = 0.0,
    ) -> StandingReply:
        found = await targets.standing(who, target_id, as_of=as_of)
        reply = _standing(found)
        cost = None if price_cny is None else targets.compliance(found, price_cny=price_cny, offset_share=offset_share)
        if cost is not None:
            reply.compliance = ComplianceReply(exceeded=cost.exceeded, offset=cost.offset, cost_cny=cost.cost_cny)
        return reply

    @router.get("/targets/{target_id}/children", tags=["targets"], summary="How the parts of a target stand, ranked")
    async def get_children(target_id: TargetId, who: Reader, as_of: AsOf = None) -> StandingsReply:
        return StandingsReply(items=[_standing(one) for one in await targets.children(who, target_id, as_of=as_of)])

    @router.post("/targets/{target_id}/adjustments", tags=["targets"], summary="Change what is allowed, from a day on")
    async def adjust_target(target_id: TargetId, body: AdjustmentBody, request: Request, who: Writer) -> TargetReply:
        adjustment = Adjustment(body.on, body.amount, body.reason, who.actor)
        return _target(await targets.adjust(who, target_id, adjustment, request_id=request_id(request)))


def _target(stored: StoredTarget) -> TargetReply:
    target = stored.target
    return TargetReply(
        target_id=target.target_id,
        name=stored.name,
        node_kind=stored.node_kind,
        node=target.node,
        measure=target.measure,
        unit=target.unit,
        granularity=stored.granularity,
        first_day=target.start,
        last_day=target.end - timedelta(days=1),
        allowed=target.allowed(date.max),
        adjustments=[
            AdjustmentReply(on=one.on, amount=one.amount, reason=one.reason, author=one.author)
            for one in target.adjustments
        ],
        parent=target.parent_id,
        owner=stored.owner,
    )


def _standing(found: TargetStanding) -> StandingReply:
    standing, forecast = found.standing, found.standing.forecast
    return StandingReply(
        target=_target(found.stored),
        as_of=standing.as_of,
        allowed=standing.allowed,
        measured=standing.measured,
        at_least=found.at_least,
        exceeded=found.exceeded,
        completeness=standing.completeness,
        interval_completeness=found.interval_completeness,
        expected_share=standing.expected_share,
        profile=standing.profile,
        pace=standing.pace,
        forecast=None
        if forecast is None
        else ForecastReply(value=forecast.value, low=forecast.low, high=forecast.high, method=forecast.method),
        gap=standing.gap,
        status=standing.status,
        exhausted_on=standing.exhausted_on,
        performance=found.performance,
        unallocated=found.unallocated,
        children=[one.target.target_id for one in found.children],
        compliance=None,
    )
