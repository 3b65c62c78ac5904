"""The REST API of callbacks, and what a receiver is sent (OpenAPI ``webhooks``)."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field, field_validator

from libs.common.contracts.alarm import AlarmEvent, Diagnosis
from libs.common.contracts.base import Code, Flag, Number, Payload, PointName, UtcTime
from libs.common.contracts.carbon import AttestationHead, CarbonResult, FinishedReport, Interval
from libs.common.contracts.control import ControlEvent, PlanEvent
from libs.common.contracts.delivery import DeliveryState
from libs.common.contracts.device import DeviceStatus
from libs.common.contracts.examples import EXAMPLES
from libs.common.contracts.telemetry import Reading
from libs.common.db import Database
from libs.common.errors import NotFound
from libs.common.tokens import Principal
from libs.common.web import Cursor, Limit, Page, check_span, read_time_cursor, require, time_cursor
from services.export.callbacks import endpoints, queues
from services.export.callbacks.batches import KINDS, MOST_ITEMS
from services.export.callbacks.sources import SOURCES
from services.export.domain.callbacks import (
    TYPES,
    Choice,
    Endpoint,
    EndpointState,
    NewsType,
    Verdict,
    is_open,
    types_of,
)
from services.export.usecases.administration import Actor
from services.export.usecases.callbacks import CallbackAdministration, Caller, Wish

Reader = Annotated[Principal, Depends(require("export:read"))]
Writer = Annotated[Principal, Depends(require("export:write"))]

TYPES_SHOWN = sorted(each.value for each in TYPES)
STATES_ZH = {EndpointState.ACTIVE: "启用", EndpointState.PAUSED: "已暂停", EndpointState.DISABLED: "已停用"}
Name = Annotated[str, Field(min_length=1, max_length=200)]
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CallbackBody(_Body):
    """An address that is called, and the events that it wants."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "energy-saving app",
                    "url": "https://app.example.com/wattring",
                    "types": ["command.result", "occurrence.overdue"],
                    "only_mine": True,
                },
                {
                    "name": "work orders",
                    "url": "https://10.20.0.9/hooks/alarms",
                    "types": ["alarm.begin", "alarm.end", "diagnosis.begin"],
                    "sites": ["region:440100"],
                },
                {
                    "name": "load forecast",
                    "url": "https://forecast.example.com/readings",
                    "types": ["readings.batch", "intervals.batch"],
                    "points": ["active_power_total", "energy_active_import"],
                    "kinds": ["meter_3p"],
                },
            ]
        }
    )

    name: Name
    url: str = Field(min_length=1, max_length=2000, description="http or https; no account in it")
    types: tuple[NewsType, ...] = Field(min_length=1, max_length=50, description=", ".join(TYPES_SHOWN))
    sites: tuple[str, ...] | None = Field(
        default=None, max_length=1000, description="only these sites or region:<id>; none: all that its owner may see"
    )
    actors: tuple[str, ...] | None = Field(
        default=None,
        max_length=100,
        description="of commands, occurrences and plans only what these ordered, such as key:abc",
    )
    only_mine: Flag = Field(
        default=False, description="of commands, occurrences and plans only what the caller ordered"
    )
    points: tuple[PointName, ...] | None = Field(
        default=None, min_length=1, max_length=200, description="of readings only these points; none: all"
    )
    kinds: tuple[Code, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=100,
        description="of readings and device.status only devices of these kinds, such as meter_3p; none: all",
    )
    concurrency: int = Field(default=8, ge=1, le=32, description="calls at the same time")
    timeout_s: float = Field(default=15.0, ge=0.5, le=60, description="for one call")

    @field_validator("types")
    @classmethod
    def _can_be_chosen(cls, value: tuple[NewsType, ...]) -> tuple[NewsType, ...]:
        if NewsType.TEST in value:
            raise ValueError(f"{NewsType.TEST.value} comes without being chosen")
        return value

    def wish(self, caller: str) -> Wish:
        """Return what the use case takes."""
        actors = (*(self.actors or ()), *([caller] if self.only_mine else []))
        choice = Choice(
            types=frozenset(self.types),
            sites=self.sites,
            actors=tuple(dict.fromkeys(actors)) if actors else None,
            points=None if self.points is None else tuple(dict.fromkeys(self.points)),
            kinds=None if self.kinds is None else tuple(dict.fromkeys(self.kinds)),
        )
        return Wish(name=self.name, url=self.url, choice=choice, concurrency=self.concurrency, timeout_s=self.timeout_s)


class NewCallbackBody(CallbackBody):
    """A new one; whoever administers export may make it for somebody else."""

    owner: str | None = Field(
        default=None, pattern=r"^(user|key):.{1,200}$", description="such as key:abc; default: who asks"
    )


class CallbackView(BaseModel):
    """An endpoint and how it is doing."""

    id: str
    name: str
    owner: str
    url: str
    types: list[NewsType]
    sites: tuple[str, ...] | None
    actors: tuple[str, ...] | None
    points: tuple[str, ...] | None
    kinds: tuple[str, ...] | None
    concurrency: int
    timeout_s: float
    state: EndpointState
    state_zh: str
    state_reason: str | None
    breaker_open: bool
    """Nothing but a probe now and then is sent, since it failed too often."""
    failures: int
    """Since the last success."""
    failing_since: datetime | None
    next_probe_at: datetime | None
    error: str | None
    waiting: int
    oldest_waiting_at: datetime | None
    created_at: datetime
    updated_at: datetime


class CreatedView(CallbackView):
    """With the secret that calls are signed with; it is shown this once."""

    secret: str


class SecretView(BaseModel):
    """The new secret; it is shown this once."""

    secret: str
    previous_until: datetime
    """Until then calls bear a signature with the old one too."""


class RotateBody(_Body):
    """How long the old secret counts."""

    valid_for_s: Number = Field(default=86_400.0, ge=0, le=30 * 86_400.0)


class ReplayBody(_Body):
    """What is sent once more: by the time at which it was queued."""

    start: UtcTime = Field(alias="from")
    end: UtcTime | None = Field(default=None, alias="to", description="not included; default: now")
    states: tuple[Literal["given_up", "delivered"], ...] = Field(default=("given_up",), min_length=1)


class ReplayView(BaseModel):
    """How much was queued again; ask once more from there when it is the most that one replay does (10,000)."""

    queued: int


class TestView(BaseModel):
    """What came of a test."""

    event_id: str
    outcome: Verdict
    status: int | None
    took_s: float
    error: str | None


class AttemptView(BaseModel):
    """One attempt."""

    at: datetime
    outcome: Verdict
    took_s: float
    status: int | None = None
    error: str | None = None


class CallbackDeliveryView(BaseModel):
    """One event on its way to an endpoint."""

    event_id: str
    type: NewsType
    resource: str
    site_id: str
    sequence: int
    state: DeliveryState
    attempts: int
    status: int | None
    error: str | None
    at: datetime
    queued_at: datetime
    finished_at: datetime | None
    log: list[AttemptView]


def build_callbacks_router(administration: CallbackAdministration, db: Database) -> APIRouter:
    """Return the endpoints."""
    router = APIRouter(prefix="/api/v1/callbacks", tags=["callbacks"])

    async def view(endpoint: Endpoint) -> CallbackView:
        async with db.read() as conn:
            waiting = await queues.measure(conn, endpoint.id)
        return _view(endpoint, waiting)

    async def owned(endpoint_id: str, who: Principal) -> Endpoint:
        async with db.read() as conn:
            endpoint = await endpoints.fetch(conn, endpoint_id)
        if endpoint is None or not (_sees_all(who) or endpoint.owner == who.actor):
            raise NotFound(f"no callback {endpoint_id}", message_zh=f"没有回调 {endpoint_id}")
        return endpoint

    @router.get("")
    async def list_callbacks(who: Reader) -> list[CallbackView]:
        """List one's endpoints; whoever administers export sees all."""
        async with db.read() as conn:
            found = await endpoints.fetch_all(conn, None if _sees_all(who) else who.actor)
            waiting = await queues.measure(conn)
        return [_view(each, waiting) for each in found]

    @router.post("", status_code=201)
    async def create_callback(body: NewCallbackBody, who: Writer, request: Request) -> CreatedView:
        """Create an endpoint. The answer holds its secret, which is never shown again."""
        endpoint, secret = await administration.create(body.wish(who.actor), _caller(who, request), owner=body.owner)
        return CreatedView(**_view(endpoint, {}).model_dump(), secret=secret)

    @router.get("/{callback_id}")
    async def get_callback(callback_id: Id, who: Reader) -> CallbackView:
        """Return one endpoint and how it is doing."""
        return await view(await owned(callback_id, who))

    @router.put("/{callback_id}")
    async def change_callback(callback_id: Id, body: CallbackBody, who: Writer, request: Request) -> CallbackView:
        """Change an endpoint; what waits for it is sent to its new address."""
        return await view(await administration.change(callback_id, body.wish(who.actor), _caller(who, request)))

    @router.delete("/{callback_id}", status_code=204)
    async def remove_callback(callback_id: Id, who: Writer, request: Request) -> Response:
        """Remove an endpoint, with what waits for it."""
        await administration.remove(callback_id, _caller(who, request))
        return Response(status_code=204)

    @router.post("/{callback_id}/pause")
    async def pause_callback(callback_id: Id, who: Writer, request: Request) -> CallbackView:
        """Stop calling; what happens meanwhile is queued."""
        return await view(await administration.pause(callback_id, _caller(who, request)))

    @router.post("/{callback_id}/resume")
    async def resume_callback(callback_id: Id, who: Writer, request: Request) -> CallbackView:
        """Call again, also after it was disabled or its breaker opened."""
        return await view(await administration.resume(callback_id, _caller(who, request)))

    @router.post("/{callback_id}/test")
    async def test_callback(callback_id: Id, who: Writer, request: Request) -> TestView:
        """Call now with an event that means nothing, and say what came of it."""
        event_id, outcome = await administration.test(callback_id, _caller(who, request))
        return TestView(
            event_id=event_id,
            outcome=outcome.verdict,
            status=outcome.status,
            took_s=outcome.took_s,
            error=outcome.error,
        )

    @router.post("/{callback_id}/rotate-secret")
    async def rotate_secret(callback_id: Id, body: RotateBody, who: Writer, request: Request) -> SecretView:
        """Replace the secret; for a while calls are signed with both."""
        secret, until = await administration.rotate(callback_id, _caller(who, request), valid_for_s=body.valid_for_s)
        return SecretView(secret=secret, previous_until=until)

    @router.post("/{callback_id}/replay", status_code=202)
    async def replay(callback_id: Id, body: ReplayBody, who: Writer, request: Request) -> ReplayView:
        """Send once more what was queued in a time: what was given up, or everything; under the same ids."""
        check_span(body.start, body.end)
        queued = await administration.replay(
            callback_id, _caller(who, request), start=body.start, end=body.end, states=body.states
        )
        return ReplayView(queued=queued)

    @router.get("/{callback_id}/deliveries")
    async def list_deliveries(
        callback_id: Id, who: Reader, state: DeliveryState | None = None, resource: str | None = None,
        event: str | None = None, limit: Limit = 100, cursor: Cursor = None,
    ) -> Page[CallbackDeliveryView]:  # fmt: skip
        """List what was sent, and every attempt, the youngest first."""
        await owned(callback_id, who)
        before = None if cursor is None else _read_cursor(cursor)
        async with db.read() as conn:
            found = await queues.fetch_log(
                conn, callback_id, state=state, resource=resource, event_id=event, before=before, limit=limit + 1
            )
        shown = found[:limit]
        more = time_cursor(shown[-1].queued_at, str(shown[-1].event_key)) if len(found) > limit else None
        return Page(items=[_delivery(each) for each in shown], next_cursor=more)

    return router


def _read_cursor(cursor: str) -> tuple[datetime, int]:
    at, key = read_time_cursor(cursor)
    return at, int(key) if key.isascii() and key.isdigit() and len(key) < 19 else 0


def _sees_all(who: Principal) -> bool:
    return who.may("export:admin") and who.sites is None


def _caller(who: Principal, request: Request) -> Caller:
    return Caller(actor=Actor(who.actor, request.headers.get("x-request-id")), sites=who.sites, sees_all=_sees_all(who))


def _view(endpoint: Endpoint, waiting: Mapping[tuple[str, Any], queues.Waiting]) -> CallbackView:
    own = [found for (endpoint_id, _), found in waiting.items() if endpoint_id == endpoint.id]
    return CallbackView(
        id=endpoint.id,
        name=endpoint.name,
        owner=endpoint.owner,
        url=endpoint.url,
        types=sorted(endpoint.choice.types),
        sites=endpoint.choice.sites,
        actors=endpoint.choice.actors,
        points=endpoint.choice.points,
        kinds=endpoint.choice.kinds,
        concurrency=endpoint.concurrency,
        timeout_s=endpoint.timeout_s,
        state=endpoint.state,
        state_zh=STATES_ZH[endpoint.state],
        state_reason=endpoint.state_reason,
        breaker_open=is_open(endpoint),
        failures=endpoint.failures,
        failing_since=endpoint.failing_since,
        next_probe_at=endpoint.not_before,
        error=endpoint.error,
        waiting=sum(found.count for found in own),
        oldest_waiting_at=min((found.oldest_at for found in own), default=None),
        created_at=endpoint.created_at,
        updated_at=endpoint.updated_at,
    )


def _delivery(logged: queues.Logged) -> CallbackDeliveryView:
    return CallbackDeliveryView(
        event_id=logged.event_id,
        type=logged.type,
        resource=logged.resource,
        site_id=logged.site_id,
        sequence=logged.sequence,
        state=logged.state,
        attempts=logged.attempts,
        status=logged.status,
        error=logged.error,
        at=logged.at,
        queued_at=logged.queued_at,
        finished_at=logged.finished_at,
        log=[AttemptView.model_validate(each) for each in logged.log],
    )


# ---- what a receiver is sent ----------------------------------------------------------------------------


class CloudEvent(BaseModel):
    """CloudEvents 1.0 in structured JSON; ``data`` is what the topic carries."""

    specversion: Literal["1.0"]
    type: str
    id: str = Field(description="also the header webhook-id; the same when it is sent again, so drop what you know")
    source: str = Field(description="such as /wattring/control")
    time: datetime
    subject: str = Field(description="what it is news of, such as load/l-1")
    datacontenttype: Literal["application/json"]
    sequence: str = Field(
        pattern="^[0-9]{12,}$", description="counts the news of the subject for this endpoint, from 1, without gaps"
    )
    siteid: str
    traceparent: str | None = None


class ControlCallback(CloudEvent):
    """What became of a command or of an occurrence of a plan."""

    data: ControlEvent


class PlanCallback(CloudEvent):
    """A plan was drafted or approved, has begun or ended; its loads are at ``GET /plans/{id}``."""

    data: PlanEvent


class AlarmCallback(CloudEvent):
    """A step in an alarm's life."""

    data: AlarmEvent


class DiagnosisCallback(CloudEvent):
    """A localised cause, with its fault code, evidence and advice."""

    data: Diagnosis


class HeadCallback(CloudEvent):
    """Where the attestation log stands: keep it. Its signature is carbon's own, whoever brings it."""

    data: AttestationHead


class ReportCallback(CloudEvent):
    """A report was made and filed: its files can be fetched, with a key that may."""

    data: FinishedReport


class StatusCallback(CloudEvent):
    """The state of a device: whether it can be heard, its radio link, battery and SIM."""

    data: DeviceStatus


class ResultCallback(CloudEvent):
    """A figure of a node and a period; the highest version holds."""

    data: CarbonResult


class ReadingsBatch(BaseModel):
    """What devices of a site reported, in the order in which it came."""

    site_id: str
    count: int = Field(ge=1, le=MOST_ITEMS)
    readings: list[Reading] = Field(description="drop what you know: device_id and source_time are its name")


class ReadingsCallback(CloudEvent):
    """Many readings of one site."""

    data: ReadingsBatch


class IntervalsBatch(BaseModel):
    """Consumption of circuits of a site; of an interval the highest version holds."""

    site_id: str
    count: int = Field(ge=1, le=MOST_ITEMS)
    intervals: list[Interval]


class IntervalsCallback(CloudEvent):
    """Many intervals of one site."""

    data: IntervalsBatch


class TestData(BaseModel):
    """Nothing to act on."""

    message: str
    message_zh: str


class TestCallback(CloudEvent):
    """The test button was pressed."""

    data: TestData


_LIVES: Mapping[str, Mapping[str, object]] = {
    "command.progress": {"state": "accepted", "action": "close", "occurrence_id": None, "off_at": None},
    "command.result": {"state": "failed", "action": "close", "reason": "not_verified", "occurrence_id": None},
    "occurrence.progress": {"state": "shut_down"},
    "occurrence.result": {"state": "awake"},
    "occurrence.overdue": {"state": "overdue", "reason": "overdue"},
    **{f"plan.{state}": {"state": state, "site_ids": None} for state in ("draft", "approved", "active", "ended")},
    "alarm.update": {"phase": "update", "sequence": 2},
    "alarm.end": {
        "phase": "end", "sequence": 3, "ended_at": "2026-06-01T02:00:00Z", "end_reason": "recovered",
    },
    "diagnosis.update": {"phase": "update"},
    "diagnosis.end": {"phase": "end"},
}  # fmt: skip
"""What differs from the example of the topic."""

_SHAPES: Sequence[tuple[str, type[CloudEvent], type[Payload]]] = (
    ("command", ControlCallback, ControlEvent),
    ("occurrence", ControlCallback, ControlEvent),
    ("plan", PlanCallback, PlanEvent),
    ("alarm", AlarmCallback, AlarmEvent),
    ("diagnosis", DiagnosisCallback, Diagnosis),
    ("attestation", HeadCallback, AttestationHead),
    ("report", ReportCallback, FinishedReport),
    ("device", StatusCallback, DeviceStatus),
    ("carbon", ResultCallback, CarbonResult),
    ("readings", ReadingsCallback, Reading),
    ("backfill", ReadingsCallback, Reading),
    ("intervals", IntervalsCallback, Interval),
)
_LISTS: Mapping[type[CloudEvent], str] = {ReadingsCallback: "readings", IntervalsCallback: "intervals"}
"""Of callbacks that carry many: what their list is called."""
_SAID_BY: Mapping[NewsType, str] = {
    **{each: source.said_by for source in SOURCES.values() for each in source.types},
    **{kind.type: kind.source for kind in KINDS.values()},
}


def describe_webhooks(app: FastAPI) -> None:
    """Describe in the OpenAPI document what a receiver is sent, type by type."""
    for news_type in sorted(NewsType):
        shape: type[CloudEvent] = TestCallback
        data: object = {"message": "it works", "message_zh": "回调正常"}
        for subject, body, payload in _SHAPES:
            if news_type in types_of(subject):
                shape = body
                example = {**EXAMPLES[payload].model_dump(mode="json"), **_LIVES.get(news_type.value, {})}
                data = {name: value for name, value in example.items() if value is not None}
                if shape in _LISTS:
                    data = {"site_id": example["site_id"], "count": 1, _LISTS[shape]: [data]}
        _describe(app, news_type, shape, _example(news_type, _SAID_BY.get(news_type, "export"), data))


def _example(news_type: NewsType, source: str, data: object) -> dict[str, object]:
    return {
        "specversion": "1.0",
        "id": "6f1c2a4e-5b1f-4f57-9a51-2f0f2d1c7c11",
        "source": f"/wattring/{source}",
        "type": news_type.ce_type,
        "subject": f"{news_type.value.partition('.')[0]}/1",
        "time": "2026-03-08T06:02:11Z",
        "datacontenttype": "application/json",
        "sequence": "000000000007",
        "siteid": "site-baiyun-3",
        "data": data,
    }


def _describe(app: FastAPI, news_type: NewsType, shape: type[CloudEvent], example: Mapping[str, object]) -> None:
    async def sent(event: Any) -> None:
        """Answer 2xx within the endpoint's time once you have kept it. Signed as Standard Webhooks 1.0.0 says."""

    sent.__annotations__["event"] = Annotated[
        shape, Body(media_type="application/cloudevents+json", examples=[dict(example)])
    ]
    name = f"callback_{news_type.value.replace('.', '_')}"
    app.webhooks.post(news_type.value, name=name, summary=news_type.ce_type)(sent)
