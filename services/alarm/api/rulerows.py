"""HTTP of the tables of device events and of energy rules."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field

from services.alarm.api.common import Reader, Writer, request_id
from services.alarm.domain.energy import EnergyScope
from services.alarm.rulerows import ENERGY, EVENTS, RULE_ID, EnergyRow, EventRow, Kept, Place
from services.alarm.usecases.rulerows import RuleRows

RowId = Annotated[str, Path(pattern=RULE_ID)]
ScopeId = Annotated[str, Path(min_length=1, max_length=100, description="of scope all: all")]
Reason = Annotated[str | None, Query(max_length=1000)]


class EventRowReply(EventRow):
    """A row of device events as it holds."""

    rule_id: str
    version: int = Field(description="of the rules as a whole when the row was last changed; 0: as shipped")
    changed_by: str | None = Field(description="null: as shipped")


class EnergyRowReply(EnergyRow):
    """A row of energy rules as it holds."""

    rule_id: str
    scope: EnergyScope
    scope_id: str
    threshold_unit: str
    version: int = Field(description="of the rules as a whole when the row was last changed; 0: as shipped")
    changed_by: str | None = Field(description="null: as shipped")


class EventRowsReply(BaseModel):
    """All rows of device events."""

    items: Sequence[EventRowReply]


class EnergyRowsReply(BaseModel):
    """All rows of energy rules."""

    items: Sequence[EnergyRowReply]


def build_rule_rows_router(rows: RuleRows) -> APIRouter:
    """Return the routes; they come before those of a rule by its id, which would take their paths for one."""
    router = APIRouter(prefix="/api/v1")

    @router.get("/alarm-rules/device-events", tags=["alarm-rules"], summary="Which event of a device is which signal")
    async def list_event_rows(_: Reader) -> EventRowsReply:
        return EventRowsReply(items=[_event(kept) for kept in await rows.rows(EVENTS)])

    @router.put("/alarm-rules/device-events/{rule_id}", tags=["alarm-rules"], summary="Add or change such a row")
    async def put_event_row(
        rule_id: RowId, body: EventRow, who: Writer, request: Request, reason: Reason = None
    ) -> EventRowReply:
        kept = await rows.put(EVENTS, Place(rule_id), body, who, reason=reason, request_id=request_id(request))
        return _event(kept)

    @router.delete(
        "/alarm-rules/device-events/{rule_id}",
        tags=["alarm-rules"],
        summary="Take such a row out, a shipped one too",
        status_code=204,
    )
    async def remove_event_row(rule_id: RowId, who: Writer, request: Request, reason: Reason = None) -> Response:
        await rows.remove(EVENTS, Place(rule_id), who, reason=reason, request_id=request_id(request))
        return Response(status_code=204)

    @router.get("/alarm-rules/energy", tags=["alarm-rules"], summary="Rules over energy and water")
    async def list_energy_rows(_: Reader) -> EnergyRowsReply:
        return EnergyRowsReply(items=[_energy(kept) for kept in await rows.rows(ENERGY)])

    @router.put(
        "/alarm-rules/energy/{rule_id}/{scope}/{scope_id}",
        tags=["alarm-rules"],
        summary="Add or change an energy rule for everything, a site or a circuit",
    )
    async def put_energy_row(
        rule_id: RowId,
        scope: EnergyScope,
        scope_id: ScopeId,
        body: EnergyRow,
        who: Writer,
        request: Request,
        reason: Reason = None,
    ) -> EnergyRowReply:
        place = _place(rule_id, scope, scope_id)
        return _energy(await rows.put(ENERGY, place, body, who, reason=reason, request_id=request_id(request)))

    @router.delete(
        "/alarm-rules/energy/{rule_id}/{scope}/{scope_id}",
        tags=["alarm-rules"],
        summary="Take an energy rule out, a shipped one too",
        status_code=204,
    )
    async def remove_energy_row(
        rule_id: RowId,
        scope: EnergyScope,
        scope_id: ScopeId,
        who: Writer,
        request: Request,
        reason: Reason = None,
    ) -> Response:
        place = _place(rule_id, scope, scope_id)
        await rows.remove(ENERGY, place, who, reason=reason, request_id=request_id(request))
        return Response(status_code=204)

    return router


def _place(rule_id: str, scope: EnergyScope, scope_id: str) -> Place:
    return Place(rule_id, scope, "" if scope is EnergyScope.ALL else scope_id)


def _event(kept: Kept[EventRow]) -> EventRowReply:
    return EventRowReply(
        **kept.row.model_dump(), rule_id=kept.place.rule_id, version=kept.version, changed_by=kept.changed_by
    )


def _energy(kept: Kept[EnergyRow]) -> EnergyRowReply:
    return EnergyRowReply(
        **kept.row.model_dump(),
        rule_id=kept.place.rule_id,
        scope=kept.place.scope,
        scope_id=kept.place.scope_id or "all",
        threshold_unit=kept.row.unit,
        version=kept.version,
        changed_by=kept.changed_by,
    )
