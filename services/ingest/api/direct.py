"""The direct door: closes loads and says what their switches read, while bus and database are away.

It can only close. Who may use it are control, the watchdog and the command line of this machine, by their own keys.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Literal, Protocol

import orjson
from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from libs.common.clock import Clock
from libs.common.contracts.base import UtcTime
from libs.common.contracts.control import Evidence, Stage
from libs.common.errors import Conflict, Forbidden
from libs.common.ids import new_id
from libs.common.tokens import Principal
from libs.common.web import require
from services.ingest.domain.switching import LOCK_POINT, TRIP_POINT, OffLease, Switch, switch_of
from services.ingest.store.offbook import OffBook
from services.ingest.usecases.boards import LastSeen, Seen
from services.ingest.usecases.orders import LineHolder, NotSwitchable, Orders
from services.ingest.usecases.places import places_of
from services.ingest.usecases.readings import Readings
from services.ingest.usecases.topology import Topology

MAX_SAMPLED = 200
"""Devices of one question."""
MAX_SAMPLES = 5000
"""Reports of one device in one answer: more than four hours of one every 5 s."""
CALLERS = frozenset({"watchdog", "control", "cli"})
"""``cli`` is the command line of this machine, whose key only the account that runs the suite can read."""
IN_LINE_S = 30.0
"""So long an ON that was taken up is waited for before the door does the same beside it. [s]"""
MAX_NAMED = 500
"""Loads that are asked for by name: more of them are as quickly told with all others. [1]"""
LOADS_AT_A_TIME = 500
"""Written before the event loop gets its turn: some milliseconds."""

Waker = Annotated[Principal, Depends(require("ingest:wake"))]


class Lines(LineHolder, Protocol):
    """Who holds which line."""

    async def holder_of(self, line_id: str) -> str | None:
        """Return who else holds a line now; None when nobody does, or when that cannot be known."""


class NotTheHolder(Conflict):
    """Another process holds the line and lives; it is the one to ask."""

    code = "not_the_holder"
    title_zh = "线路由其他进程持有"


class OnRequest(BaseModel):
    """Which load, or which switch, is to be closed."""

    model_config = ConfigDict(extra="ignore")

    load_id: str | None = None
    device_id: str | None = None
    channel: int | None = Field(default=None, ge=1, le=256)
    reason: str = Field(default="", max_length=500)
    request_id: str | None = Field(default=None, max_length=100)
    released_trip: int | None = None
    """Trip reason that a person has released."""


class OnAnswer(BaseModel):
    """What was done; a load that does not read closed is tried again by the holder itself."""

    request_id: str
    device_id: str
    channel: int | None
    stage: Stage
    verified: bool
    reason: str | None
    detail: str | None
    evidence: Evidence
    in_line_s: float | None = None
    """An ON for this switch was taken up so long ago and is waiting for its turn, or at work: nothing was added to it.
    None otherwise. [s]"""


class OffLeaseOut(BaseModel):
    """By which right a load is off."""

    command_id: str
    restore_at: datetime | None
    off_at_most_s: float | None
    isolation_id: str | None
    stored_at: datetime
    wake: bool
    """It is being closed at the moment."""


class LoadOut(BaseModel):
    """What one load's switch reads."""

    load_id: str
    device_id: str
    site_id: str
    channel: int | None
    breaker_state: Literal[0, 1] | None
    """0 open, 1 closed, None never read by this process."""
    read_at: datetime | None
    age_s: float | None
    local_lock: bool | None
    trip_reason: int | None
    held: bool
    """Whether this process holds the line."""
    off_lease: OffLeaseOut | None


class LoadsOut(BaseModel):
    """All loads that can be switched."""

    loads: list[LoadOut]


class PlaceOut(BaseModel):
    """Where a load is."""

    load_id: str
    name: str
    device_id: str
    channel: int | None
    site_id: str
    site_name: str
    region_ids: tuple[str, ...]
    """The site's region and those above it."""


class PlacesOut(BaseModel):
    """All loads that have a switch, also of a registry that was read from this machine's disk."""

    loads: list[PlaceOut]


class SamplesRequest(BaseModel):
    """Of which devices, or loads, which points are wanted."""

    model_config = ConfigDict(extra="ignore")

    device_ids: tuple[str, ...] = Field(min_length=1, max_length=MAX_SAMPLED)
    points: tuple[str, ...] = Field(min_length=1, max_length=10)
    start: UtcTime
    end: UtcTime


class SampleOut(BaseModel):
    """One value."""

    device_id: str
    point: str
    at: datetime
    value: float


class SamplesOut(BaseModel):
    """Values by device, oldest first."""

    samples: list[SampleOut]


def build_router(
    *,
    orders: Orders,
    book: OffBook,
    seen: LastSeen,
    topology: Topology,
    lines: Lines,
    readings: Readings,
    clock: Clock,
) -> APIRouter:
    """Return the router."""
    router = APIRouter(prefix="/direct/v1", tags=["direct door"])

    @router.post("/on")
    async def on(body: OnRequest, principal: Waker) -> OnAnswer:
        """Close, whatever else is the matter, and answer what the switch reads then.

        An ON that was taken up a moment ago and is still in line is not joined by a second one; how long it has been
        there is the answer.
        """
        _check(principal)
        device_id, channel = _switch(body)
        await _leave_to_holder(device_id)
        request_id = body.request_id or new_id()
        waits_s = orders.waits_s(device_id, channel)
        if waits_s is not None and waits_s < IN_LINE_S:
            return OnAnswer(
                request_id=request_id, device_id=device_id, channel=channel, stage=Stage.ACCEPTED, verified=False,
                reason="in_line", detail=f"taken up {waits_s:.1f} s ago", evidence=Evidence(), in_line_s=waits_s,
            )  # fmt: skip
        closed = await orders.close_now(
            device_id=device_id,
            channel=channel,
            command_id=request_id,
            reason=body.reason or principal.subject,
            released_trip=body.released_trip,
        )
        return OnAnswer(
            request_id=request_id,
            device_id=device_id,
            channel=channel,
            stage=closed.stage,
            verified=closed.verified,
            reason=closed.reason,
            detail=closed.detail,
            evidence=closed.evidence,
        )

    @router.get("/loads", response_model=LoadsOut)
    async def loads(
        principal: Waker,
        load: Annotated[list[str] | None, Query(max_length=MAX_NAMED, description="only these")] = None,
    ) -> Response:
        """Return what each load's switch reads now, how old that is, and by which right it is off.

        It is asked once a second while switching goes on, for ten thousand loads as well: so the answer is written
        without models, and the event loop gets its turn in between.
        """
        _check(principal)
        now = clock.now()
        switches: dict[tuple[int, int | None], Switch | None] = {}
        found: list[dict[str, object]] = []
        for number, (load_id, (device_id, channel)) in enumerate(_places(load, now).items(), start=1):
            if number % LOADS_AT_A_TIME == 0:
                await asyncio.sleep(0)
            lease = book.get(device_id, channel)
            target = orders.target_of(device_id, now) or (None if lease is None else orders.target_from(lease))
            if target is None:
                continue
            kind = id(target.profile), channel
            if kind not in switches:
                switches[kind] = switch_of(target.profile, channel)
            switch = switches[kind]
            if switch is None:
                continue
            found.append(
                {
                    "load_id": load_id,
                    "device_id": target.device_id,
                    "site_id": target.site_id,
                    "channel": channel,
                    "held": lines.lease(target.line.id) is not None,
                    "off_lease": None if lease is None else _off_lease(lease),
                    **_reading(seen.of(target.device_id), switch, seen),
                }
            )
        return Response(orjson.dumps({"loads": found}, option=orjson.OPT_UTC_Z), media_type="application/json")

    @router.get("/places")
    async def places(principal: Waker) -> PlacesOut:
        """Return where each load is, so that sites and regions can be woken while all else is away."""
        _check(principal)
        found = places_of(topology, clock.now())
        return PlacesOut(loads=[PlaceOut(**asdict(place)) for place in found])

    @router.post("/samples")
    async def samples(body: SamplesRequest, principal: Waker) -> SamplesOut:
        """Return good values out of the history, for the conditions of plans.

        Unlike the rest of this door it needs the database: without it nothing is known, and nothing is switched off.
        A device with more reports than one answer holds is left out.
        """
        _check(principal)
        found: list[SampleOut] = []
        for device_id in body.device_ids:
            reports = await readings.range(
                device_id, points=body.points, start=body.start, end=body.end, after=None, limit=MAX_SAMPLES
            )
            if len(reports) == MAX_SAMPLES:
                continue
            found += [
                SampleOut(device_id=device_id, point=point, at=report.source_time, value=value)
                for report in reports
                for point, value in report.points.items()
                if value is not None and not ((flag := report.quality.get(point)) is not None and flag.is_bad)
            ]
        return SamplesOut(samples=found)

    def _places(named: Sequence[str] | None, now: datetime) -> dict[str, tuple[str, int | None]]:
        """Return device and channel of the loads, of all there are when none are named."""
        wanted = None if named is None else frozenset(named)
        places: dict[str, tuple[str, int | None]] = {
            lease.load_id: (lease.device_id, lease.channel)
            for lease in book.all()
            if lease.load_id is not None and (wanted is None or lease.load_id in wanted)
        }
        known = topology.loads(now) if wanted is None else [topology.load(one, now) for one in sorted(wanted)]
        places |= {
            load.id: (load.breaker.device, load.breaker.channel)
            for load in known
            if load is not None and load.breaker is not None
        }
        return places

    async def _leave_to_holder(device_id: str) -> None:
        """Raise ``NotTheHolder`` when another process has the line: it is the one to ask, and it lives."""
        device = topology.device(device_id, clock.now())
        if device is None or device.line is None or lines.lease(device.line) is not None:
            return
        holder = await lines.holder_of(device.line)
        if holder is not None:
            raise NotTheHolder(
                f"line {device.line} is held by {holder}",
                message_zh=f"线路 {device.line} 由 {holder} 持有",
                holder=holder,
            )

    def _switch(body: OnRequest) -> tuple[str, int | None]:
        if body.device_id is not None:
            return body.device_id, body.channel
        load = None if body.load_id is None else topology.load(body.load_id, clock.now())
        if load is None or load.breaker is None:
            raise NotSwitchable(
                f"there is no switch of load {body.load_id}", message_zh=f"负载 {body.load_id} 没有可控开关"
            )
        return load.breaker.device, load.breaker.channel

    return router


def _check(principal: Principal) -> None:
    if principal.kind != "service" or principal.subject not in CALLERS:
        raise Forbidden(
            "the direct door is for control, the watchdog and the command line of this machine",
            message_zh="直连接口仅限 control、watchdog 与本机命令行使用",
        )


def _off_lease(lease: OffLease) -> dict[str, object]:
    return {name: getattr(lease, name) for name in OffLeaseOut.model_fields}


def _reading(read: Seen | None, switch: Switch, seen: LastSeen) -> dict[str, object]:
    if read is None:
        return {"breaker_state": None, "read_at": None, "age_s": None, "local_lock": None, "trip_reason": None}
    state = switch.state(read.points)
    lock, trip = read.points.get(LOCK_POINT), read.points.get(TRIP_POINT)
    return {
        "breaker_state": state,
        "read_at": None if state is None else read.received_at,
        "age_s": None if state is None else seen.age_s(read),
        "local_lock": None if lock is None else lock == 1,
        "trip_reason": None if trip is None else int(trip),
    }
