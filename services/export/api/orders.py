"""HTTP of what a centre may order, and of what it has ordered."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from libs.common.contracts.base import Number
from libs.common.db import Database
from libs.common.errors import Forbidden
from libs.common.tokens import Principal
from libs.common.web import Cursor, Limit, Page, read_time_cursor, require, time_cursor
from services.export.domain.permits import (
    ANSWER_AT_MOST_S,
    LONGEST_OFF_S,
    NOTHING,
    OrderKind,
    OrderState,
    Permits,
    PointRule,
    Success,
    SwitchingOrder,
)
from services.export.orders import journal
from services.export.orders.permits import PermitsRow
from services.export.usecases.administration import Actor
from services.export.usecases.permits import PermitAdministration

Reader = Annotated[Principal, Depends(require("export:read"))]
Admin = Annotated[Principal, Depends(require("export:admin"))]
Pattern = Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9*?._-]+$")]


class SiteTree(Protocol):
    """Which sites a user's limits mean."""

    def sites_within(self, limits: Sequence[str]) -> list[str]:
        """Return the sites of limits such as ``region:440100``."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PointRuleBody(_Body):
    """Points that may be ordered, and how their values are read."""

    device: Pattern = Field(default="*", description="device id at the centre; * and ? stand for any text, character")
    point: Pattern = Field(default="*", description="point id at the centre, the same way")
    off_value: Number | None = Field(default=0.0, description="value that means OFF; null: it cannot switch off")
    on_value: Number | None = Field(default=1.0, description="value that means ON; null: it cannot switch on")
    load_id: str | None = Field(
        default=None, min_length=1, max_length=200, description="load that is meant; null: what hangs on the point"
    )
    unit: str | None = Field(
        default=None, min_length=1, max_length=20, description="unit of the centre's thresholds; null: not checked"
    )


class PermitsBody(_Body):
    """What a centre may order; what is not said here it may not."""

    kinds: tuple[OrderKind, ...] = Field(default=(), max_length=10)
    points: tuple[PointRuleBody, ...] = Field(
        default=(), max_length=1000, description="the first that covers a point counts; uncovered points are refused"
    )
    off_at_most_s: Number | None = Field(
        default=None, ge=60, le=LONGEST_OFF_S, description="an OFF ends so long after its order; needed for switch_off"
    )
    success: Success = Field(
        default=Success.ACCEPTED,
        description="what Success tells the centre: control has taken the order, or the feedback has proven it",
    )
    answer_within_s: Number = Field(default=4.0, ge=0.5, le=ANSWER_AT_MOST_S)
    same_within_s: Number = Field(default=60.0, ge=0, le=3600, description="the same order within this is one command")

    def permits(self) -> Permits:
        """Return the permits as the domain wants them."""
        plain = self.model_dump(exclude={"kinds", "points"})
        rules = tuple(PointRule(**rule.model_dump()) for rule in self.points)
        return Permits(**plain, kinds=frozenset(self.kinds), points=rules)


class PutPermitsBody(_Body):
    """What a centre may order, with where that comes from."""

    permits: PermitsBody
    source: str = Field(min_length=1, max_length=500, description="agreement or order that says so")


class PermitsView(BaseModel):
    """One version of what a centre may order."""

    connection_id: str
    revision: int = Field(description="0: nobody has ever permitted anything")
    permits: Any
    source: str
    changed_by: str
    changed_at: datetime | None


class OrderView(BaseModel):
    """A switching that a centre has ordered."""

    id: str = Field(description="idempotency key at control")
    connection_id: str
    unit_id: str
    site_id: str | None
    sc_device_id: str
    point_id: str
    kind: OrderKind
    value: float
    load_id: str | None
    device_id: str | None = Field(description="of an adjustment, with setting")
    setting: str | None
    restore_at: datetime | None
    peer: str
    received_at: datetime
    state: OrderState = Field(description="as it was when the centre was answered last; control has the command")
    group_id: str | None = Field(
        description="`GET /api/v1/commands/groups/{group_id}`, of an adjustment `…/settings/{group_id}`"
    )
    reason: str | None
    repeats: int = Field(description="how often the centre has said it again")


def build_orders_router(administration: PermitAdministration, db: Database, tree: SiteTree) -> APIRouter:
    """Return the routes."""
    router = APIRouter(prefix="/api/v1/sc-connections/{connection_id}", tags=["sc-connections"])

    @router.get("/permits", summary="What a centre may order")
    async def read_permits(connection_id: str, _: Reader) -> PermitsView:
        """Return what the centre may order now: nothing, unless somebody has said otherwise."""
        found = await administration.versions(connection_id, 1)
        return _view(found[0]) if found else _nothing(connection_id)

    @router.get("/permits/versions", summary="Every version of what a centre may order, the youngest first")
    async def read_versions(connection_id: str, _: Reader, limit: Limit = 100) -> list[PermitsView]:
        return [_view(row) for row in await administration.versions(connection_id, limit)]

    @router.put("/permits", summary="Set what a centre may order, as a new version")
    async def put_permits(connection_id: str, body: PutPermitsBody, who: Admin, request: Request) -> PermitsView:
        """Set what the centre may order. Empty `kinds` take everything away. What it may switch, how many and how often
        is said at control too: `PUT /api/v1/guards/apps/sc:{connection_id}`; without that it may switch nothing."""
        if who.sites is not None:
            raise Forbidden(
                "only users who are not limited to sites may change permits",
                message_zh="只有不限局站的用户可以修改下令权限",
            )
        actor = Actor(who.actor, request.headers.get("x-request-id"))
        return _view(await administration.put(connection_id, body.permits.permits(), body.source, actor))

    @router.get("/orders", summary="Switchings that a centre has ordered, the youngest first")
    async def list_orders(
        connection_id: str, who: Reader, cursor: Cursor = None, limit: Limit = 100
    ) -> Page[OrderView]:
        before = None if cursor is None else read_time_cursor(cursor)
        sites = None if who.sites is None else tree.sites_within(who.sites)
        async with db.read() as conn:
            found = await journal.fetch_page(conn, connection_id=connection_id, sites=sites, before=before, limit=limit)
        after = time_cursor(found[-1].received_at, found[-1].id) if len(found) == limit else None
        return Page(items=[_order_view(order) for order in found], next_cursor=after)

    return router


def _view(row: PermitsRow) -> PermitsView:
    return PermitsView(
        connection_id=row.connection_id, revision=row.revision, permits=row.permits.as_json(), source=row.source,
        changed_by=row.changed_by, changed_at=row.changed_at,
    )  # fmt: skip


def _nothing(connection_id: str) -> PermitsView:
    return PermitsView(
        connection_id=connection_id, revision=0, permits=NOTHING.as_json(), source="", changed_by="", changed_at=None
    )


def _order_view(order: SwitchingOrder) -> OrderView:
    return OrderView.model_validate(order, from_attributes=True)
