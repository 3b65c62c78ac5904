"""Helpers for a person who commissions a line: scan, identify, propose a profile, probe registers, trace frames.

Each call answers within its budget; where something is left, ``next`` says where to go on. All of them need the right
to change: they use the line, and raw frames show more than readings do.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import datetime
from typing import Annotated, Literal

import orjson
from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from libs.common.errors import Forbidden
from libs.common.profiles import ProfileCatalogue, Protocol
from libs.common.tokens import Principal
from services.ingest.api.common import Writer, allowed_sites
from services.ingest.domain.commissioning import Look, Looked
from services.ingest.drivers.taps import Passing
from services.ingest.usecases.fieldwork import Fieldwork
from services.ingest.usecases.topology import Topology

MAX_TRACE_S = 600.0
KEEP_ALIVE_S = 5.0
"""An empty line goes out after this long without a frame, so that nobody in between thinks the stream dead. [s]"""
MAX_POINTS = 20

TimeoutS = Annotated[float, Field(default=0.5, gt=0, le=5, description="for each answer")]
BudgetS = Annotated[float, Field(default=15.0, gt=0, le=20, description="nothing further is asked after this")]
UnitId = Annotated[int, Field(ge=0, le=255)]


class Body(BaseModel):
    """Base of the requests."""

    model_config = ConfigDict(extra="forbid")


class ScanRequest(Body):
    """Which Modbus units to look for."""

    first: UnitId = 1
    last: UnitId = 247
    timeout_s: TimeoutS = 0.5
    budget_s: BudgetS = 15.0


class FoundUnit(BaseModel):
    """A unit that answers."""

    unit: int
    exception: int | None
    """Exception that it answers to a read of register 0; null: it has one."""


class ScanAnswer(BaseModel):
    """Units that answered."""

    asked: int
    found: list[FoundUnit]
    next: int | None
    """Unit to go on with; null when all were asked."""


class IdentifyRequest(Body):
    """Who is asked what it is."""

    protocol: Literal["modbus", "dlt645-2007"] = "modbus"
    unit: UnitId | None = Field(default=None, description="of a Modbus device")
    timeout_s: TimeoutS = 0.5


class IdentifyAnswer(BaseModel):
    """What a device says of itself."""

    objects: dict[str, str]
    """Modbus Read Device Identification: vendor, product_code, revision …; empty where the device does not know it."""
    server_id_hex: str | None
    """Modbus Report Server ID, in the maker's own form."""
    address: str | None
    """Of the one DL/T 645 meter on the line."""


class ProposeRequest(Body):
    """The device whose profile is looked for."""

    address: str = Field(max_length=64)
    protocol: Protocol = Protocol.MODBUS
    start: str | None = Field(default=None, max_length=100, description="`next` of the call before")
    budget_s: BudgetS = 15.0


class LookedOut(BaseModel):
    """A point that was tried."""

    point: str
    value: float | None
    look: Look


class ProposalOut(BaseModel):
    """A profile and how well it fits, from -1 to 1."""

    profile: str
    vendor: str
    vendor_zh: str
    model: str
    category: str
    point_count: int
    """How many points it has; of two profiles that fit alike, the one with more explains more of the device."""
    score: float
    points: list[LookedOut]


class ProposeAnswer(BaseModel):
    """Profiles that were tried, the best first."""

    tried: int
    proposals: list[ProposalOut]
    next: str | None


class ProbeRequest(Body):
    """Which points to read at their addresses and beside them."""

    unit: UnitId
    profile: str = Field(max_length=100)
    version: str | None = Field(default=None, max_length=100)
    points: list[str] = Field(default_factory=list, max_length=MAX_POINTS)
    timeout_s: TimeoutS = 0.5


class PlaceOut(BaseModel):
    """What stands at an address."""

    point: str
    offset: int
    address: int
    registers: list[int] | None
    reason: str | None
    by_order: dict[str, float | None]
    """Value in the point's unit, by the order of the bytes."""
    look: Look
    """Of the value in the profile's own order."""


class ProbeAnswer(BaseModel):
    """Points at their addresses and beside them."""

    places: list[PlaceOut]
    offset: int | None
    """At which the values look right; null where that cannot be told."""


def build_router(*, fieldwork: Fieldwork, catalogue: ProfileCatalogue, topology: Topology) -> APIRouter:
    """Return the router."""
    router = APIRouter(prefix="/api/v1/lines/{line_id}", tags=["field"])

    @router.post("/scan")
    async def scan(line_id: str, body: ScanRequest, request: Request, principal: Writer) -> ScanAnswer:
        """Look for Modbus units."""
        _check(line_id, request, principal)
        found = await fieldwork.scan(
            line_id, first=body.first, last=body.last, timeout_s=body.timeout_s, budget_s=body.budget_s
        )
        units = [FoundUnit(unit=one.unit, exception=one.exception) for one in found.found]
        return ScanAnswer(asked=found.asked, found=units, next=found.next)

    @router.post("/identify")
    async def identify(line_id: str, body: IdentifyRequest, request: Request, principal: Writer) -> IdentifyAnswer:
        """Ask a device what it is; DL/T 645 only where one meter is alone on the line."""
        _check(line_id, request, principal)
        if body.protocol == "dlt645-2007":
            address = await fieldwork.meter_address(line_id)
            return IdentifyAnswer(objects={}, server_id_hex=None, address=address)
        unit = 1 if body.unit is None else body.unit
        found = await fieldwork.identify(line_id, unit=unit, timeout_s=body.timeout_s)
        return IdentifyAnswer(objects=found.objects, server_id_hex=found.server_id_hex, address=None)

    @router.post("/propose")
    async def propose(line_id: str, body: ProposeRequest, request: Request, principal: Writer) -> ProposeAnswer:
        """Try the known profiles on a device, and say how well each fits."""
        _check(line_id, request, principal)
        found = await fieldwork.propose(
            line_id, address=body.address, protocol=body.protocol, start=body.start, budget_s=body.budget_s
        )
        proposals = [
            ProposalOut(
                profile=one.profile.name, vendor=one.profile.vendor, vendor_zh=one.profile.vendor_zh,
                model=one.profile.model, category=one.profile.category, score=round(one.score, 3),
                point_count=len(one.profile.points),
                points=[_looked(look) for look in one.looked],
            )
            for one in found.proposals
        ]  # fmt: skip
        return ProposeAnswer(tried=found.tried, proposals=proposals, next=found.next)

    @router.post("/probe")
    async def probe(line_id: str, body: ProbeRequest, request: Request, principal: Writer) -> ProbeAnswer:
        """Read points of a profile at their addresses, one before and one behind, in every order of bytes."""
        _check(line_id, request, principal)
        profile = catalogue.get(body.profile, body.version)
        found = await fieldwork.probe(
            line_id, unit=body.unit, profile=profile, points=body.points, timeout_s=body.timeout_s
        )
        places = [
            PlaceOut(
                point=one.point, offset=one.offset, address=one.address, registers=one.registers, reason=one.reason,
                by_order={order.value: value for order, value in one.by_order.items()}, look=one.looked.look,
            )
            for one in found.places
        ]  # fmt: skip
        return ProbeAnswer(places=places, offset=found.offset)

    @router.get("/trace", response_class=StreamingResponse, responses={200: {"content": {"application/x-ndjson": {}}}})
    async def trace(
        line_id: str,
        request: Request,
        principal: Writer,
        device: Annotated[str | None, Query(max_length=200, description="only this one's; none: the line's")] = None,
        for_s: Annotated[float, Query(gt=0, le=MAX_TRACE_S)] = 60.0,
    ) -> StreamingResponse:
        """Show raw frames as they go by: JSON lines of `at`, `device`, `direction` and `hex`."""
        _check(line_id, request, principal)
        frames = _lines(fieldwork, line_id, device, for_s)
        first = await anext(frames)  # what is wrong is an answer of its own, no broken stream

        async def stream() -> AsyncIterator[bytes]:
            async with aclosing(frames):
                yield first
                async for line in frames:
                    yield line

        return StreamingResponse(stream(), media_type="application/x-ndjson")

    def _check(line_id: str, request: Request, principal: Principal) -> None:
        """Refuse somebody limited to sites on a line that has devices of others, or none."""
        allowed = allowed_sites(principal, topology, request)
        if allowed is None:
            return
        sites = {found.site for found in topology.devices_on(line_id, request.app.state.platform.clock.now())}
        if not sites or not sites <= allowed:
            raise Forbidden(f"line {line_id} is not yours alone", message_zh=f"线路 {line_id} 不在授权范围内")

    return router


async def _lines(fieldwork: Fieldwork, line_id: str, device: str | None, for_s: float) -> AsyncGenerator[bytes, None]:
    """Yield frames as JSON lines, an empty line at first and from time to time."""
    trace = fieldwork.trace(line_id, device_id=device, for_s=for_s, keep_alive_s=KEEP_ALIVE_S)
    async with aclosing(trace):
        async for found in trace:
            yield b"\n" if found is None else _frame(*found)


def _frame(at: datetime, passing: Passing) -> bytes:
    shown = {
        "at": at,
        "device": passing.device or None,
        "direction": "sent" if passing.sent else "received",
        "hex": passing.data.hex(" ").upper() or None,
        "bytes": passing.size,
    }
    return orjson.dumps(shown, option=orjson.OPT_UTC_Z) + b"\n"


def _looked(looked: Looked) -> LookedOut:
    return LookedOut(point=looked.name, value=looked.value, look=looked.look)
