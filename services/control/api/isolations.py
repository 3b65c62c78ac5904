"""Isolations (work permits) and released protection trips over HTTP."""

from collections.abc import Callable

from fastapi import APIRouter
from pydantic import Field

from libs.common.contracts.base import UtcTime
from libs.common.db import Database
from libs.common.tokens import Principal
from services.control.api.commands import CancelIn
from services.control.api.common import (
    Model,
    Read,
    Switch,
    View,
    actor_of,
    door_of,
    is_visible,
    known_load,
    require_sites,
)
from services.control.store import orders as order_store
from services.control.store.orders import Isolation
from services.control.usecases.isolations import IsolationRequest, Isolations
from services.control.usecases.orders import Orders
from services.control.usecases.ports import Loads


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


def build_isolation_router(
    *, isolations: Isolations, orders: Orders, db: Database, loads: Loads, wake: Callable[[], None]
) -> APIRouter:
    """Return the routes of isolations and trip releases; ``wake`` hurries the scheduler."""
    router = APIRouter(prefix="/api/v1/commands")

    @router.get("/isolations", summary="List isolations (work permits)")
    async def list_isolations(who: Read, state: str | None = None) -> list[IsolationView]:
        async with db.read() as conn:
            found = await order_store.fetch_isolations(conn, state=state)
        return [_isolation_view(one) for one in found if is_visible(who, one.load_id, loads)]

    @router.post("/isolations", status_code=201, summary="Request an isolation")
    async def request_isolation(body: IsolationIn, who: Switch) -> IsolationView:
        load = known_load(loads, body.load_id)
        require_sites(who, [load])
        wanted = IsolationRequest(load, body.owner, body.permit, body.reason, body.expires_at)
        return _isolation_view(await isolations.request(wanted, actor_of(who), door_of(who)))

    @router.post("/isolations/{isolation_id}/approve",
                 summary="Put an isolation into force, as the second person")  # fmt: skip
    async def approve_isolation(isolation_id: str, who: Switch) -> IsolationView:
        await _require_isolation_site(who, isolation_id)
        found = await isolations.approve(isolation_id, actor_of(who), door_of(who))
        wake()
        return _isolation_view(found)

    @router.post("/isolations/{isolation_id}/release",
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

    @router.post("/trip-releases", status_code=204,
                 summary="Say that a protection trip has been dealt with")  # fmt: skip
    async def release_trip(body: TripReleaseIn, who: Switch) -> None:
        require_sites(who, [loads.get(body.load_id)])
        await orders.release_trip(body.load_id, body.trip_reason, body.reason, actor_of(who), door_of(who))
        wake()

    return router


def _isolation_view(isolation: Isolation) -> IsolationView:
    return IsolationView.model_validate(isolation, from_attributes=True)
