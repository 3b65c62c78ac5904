"""HTTP of alarms and their history."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from libs.common.contracts.base import UtcTime
from libs.common.web import (
    Cursor,
    Limit,
    Page,
    check_span,
    read_time_cursor,
    time_cursor,
)
from services.alarm.api.common import Reader, Writer, request_id
from services.alarm.domain.reporting import ReportState, centre_reports, overall
from services.alarm.usecases.alarms import AlarmDetail, Alarms, ListedAlarm
from services.alarm.views import AlarmFilter, DeliveryRow


class DeliveryReply(BaseModel):
    """Where the delivery of one event to one centre or subscriber stands (上报状态)."""

    destination: str
    item: str
    item_kind: str | None
    state: str
    attempts: int
    at: datetime
    error: str | None


class CentreReportReply(BaseModel):
    """Where an alarm stands with one centre or subscriber."""

    destination: str
    state: ReportState
    begin_reported_at: datetime | None = Field(description="when it acknowledged the begin; null while it has not")
    end_reported_at: datetime | None = Field(description="when it acknowledged the end")
    error: str | None = Field(description="of what it has not acknowledged")


class DiagnosisReply(BaseModel):
    """Where the diagnosis of the alarm's device stands (分析状态)."""

    state: Literal["none", "waiting", "found", "closed"] = Field(
        description="waiting: the device is to be looked at; closed: it was found and is over"
    )
    diagnosis_id: str | None
    cause: str | None
    confidence: str | None
    began_at: datetime | None
    ended_at: datetime | None


class AlarmReply(BaseModel):
    """An alarm as it stands."""

    alarm_id: str
    state: Literal["active", "ended"]
    site_id: str
    device_id: str | None
    rule_id: str | None
    rule_version: int | None
    subject: str | None
    circuit_id: str | None
    signal: str
    signal_name: str | None
    signal_name_zh: str | None
    level: int
    sequence: int
    began_at: datetime = Field(description="when the condition first held, in the device's time")
    raised_at: datetime = Field(description="when it was decided, by our clock")
    ended_at: datetime | None = Field(description="when the condition stopped holding, in the device's time")
    closed_at: datetime | None
    end_reason: str | None
    inhibited_by: str | None = Field(description="what keeps it from being told; null when it is told")
    point: str | None
    value: float | None
    threshold: float | None
    unit: str | None
    detail: str | None
    detail_zh: str | None
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    assigned_to: str | None
    flapping: bool = Field(description="it came and went so often that its end waits until it has stayed away")
    shelved_until: datetime | None
    shelved_by: str | None
    deliveries: Sequence[DeliveryReply]
    report_state: ReportState = Field(description="上报状态: as with the centre where it stands worst")
    reports: Sequence[CentreReportReply] = Field(description="by centre, with its time")
    diagnosis: DiagnosisReply


class NoteReply(BaseModel):
    """What somebody wrote about an alarm."""

    at: datetime
    actor: str
    note: str


class AlarmDetailReply(AlarmReply):
    """An alarm with its events and notes."""

    events: Sequence[Mapping[str, JsonValue]] = Field(description="as published on alarm.events")
    notes: Sequence[NoteReply]


class AcknowledgeBody(BaseModel):
    """What to write when taking an alarm up."""

    model_config = ConfigDict(extra="forbid")

    note: str | None = Field(default=None, min_length=1, max_length=4000)


class NoteBody(BaseModel):
    """A note."""

    model_config = ConfigDict(extra="forbid")

    note: str = Field(min_length=1, max_length=4000)


class AssignBody(BaseModel):
    """Who is to see to an alarm."""

    model_config = ConfigDict(extra="forbid")

    to: str | None = Field(min_length=1, max_length=200, description="a person or a team; null: nobody")
    note: str | None = Field(default=None, min_length=1, max_length=4000)


class ClearBody(BaseModel):
    """Why an alarm is ended by hand (清除)."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=1, max_length=4000)


class ShelveBody(BaseModel):
    """How long an alarm is put aside, and why."""

    model_config = ConfigDict(extra="forbid")

    until: UtcTime
    reason: str = Field(min_length=1, max_length=4000)


class AlarmQuery(BaseModel):
    """Which alarms."""

    model_config = ConfigDict(extra="forbid")

    state: Literal["active", "ended", "all"] = "all"
    site: list[str] | None = Field(default=None, max_length=1000)
    device: str | None = None
    signal: str | None = Field(default=None, description="code of the signal table")
    level: list[Annotated[int, Field(ge=1, le=4)]] | None = None
    acknowledged: bool | None = None
    inhibited: bool | None = None
    assigned_to: str | None = None
    flapping: bool | None = None
    start: UtcTime | None = Field(default=None, alias="from", description="began then or later, RFC 3339 with offset")
    end: UtcTime | None = Field(default=None, alias="to", description="began earlier")
    limit: Limit = 100
    cursor: Cursor = None


def add_alarm_routes(router: APIRouter, alarms: Alarms) -> None:
    """Add the routes of alarms."""

    @router.get("/alarms", tags=["alarms"], summary="Active alarms and history, the youngest first")
    async def list_alarms(who: Reader, query: Annotated[AlarmQuery, Query()]) -> Page[AlarmReply]:
        check_span(query.start, query.end)
        after = None if query.cursor is None else read_time_cursor(query.cursor)
        wanted = AlarmFilter(
            active=None if query.state == "all" else query.state == "active",
            sites=query.site,
            device_id=query.device,
            signal=query.signal,
            levels=query.level,
            acknowledged=query.acknowledged,
            inhibited=query.inhibited,
            began_from=query.start,
            began_before=query.end,
            assigned_to=query.assigned_to,
            flapping=query.flapping,
        )
        found = await alarms.page(wanted, who, after=after, limit=query.limit + 1)
        page = [AlarmReply(**_alarm(one)) for one in found[: query.limit]]
        more = len(found) > query.limit
        return Page(items=page, next_cursor=time_cursor(page[-1].began_at, page[-1].alarm_id) if more else None)

    @router.get("/alarms/{alarm_id}", tags=["alarms"], summary="One alarm with its events, notes and deliveries")
    async def get_alarm(alarm_id: str, who: Reader) -> AlarmDetailReply:
        return _detail(await alarms.detail(alarm_id, who))

    @router.post("/alarms/{alarm_id}/acknowledge", tags=["alarms"], summary="Take an alarm up, with a note if wanted")
    async def acknowledge(
        alarm_id: str, who: Writer, request: Request, body: AcknowledgeBody | None = None
    ) -> AlarmDetailReply:
        note = None if body is None else body.note
        return _detail(await alarms.acknowledge(alarm_id, who, note, request_id(request)))

    @router.post("/alarms/{alarm_id}/notes", tags=["alarms"], summary="Write something about an alarm", status_code=201)
    async def add_note(alarm_id: str, who: Writer, request: Request, body: NoteBody) -> AlarmDetailReply:
        return _detail(await alarms.add_note(alarm_id, who, body.note, request_id(request)))

    @router.post("/alarms/{alarm_id}/assign", tags=["alarms"], summary="Say who sees to an alarm")
    async def assign(alarm_id: str, who: Writer, request: Request, body: AssignBody) -> AlarmDetailReply:
        return _detail(await alarms.assign(alarm_id, who, body.to, body.note, request_id(request)))

    @router.post(
        "/alarms/{alarm_id}/clear",
        tags=["alarms"],
        summary="End an active alarm by hand; it arms again once its condition has been false",
        status_code=202,
    )
    async def clear(alarm_id: str, who: Writer, request: Request, body: ClearBody) -> AlarmDetailReply:
        return _detail(await alarms.clear(alarm_id, who, body.reason, request_id(request)))

    @router.post(
        "/alarms/{alarm_id}/shelve",
        tags=["alarms"],
        summary="Put an active alarm, and what its rule raises on the device, aside for some time",
        status_code=202,
    )
    async def shelve(alarm_id: str, who: Writer, request: Request, body: ShelveBody) -> AlarmDetailReply:
        return _detail(await alarms.shelve(alarm_id, who, body.until, body.reason, request_id(request)))

    @router.delete("/alarms/{alarm_id}/shelf", tags=["alarms"], summary="Take an alarm off its shelf", status_code=202)
    async def unshelve(alarm_id: str, who: Writer, request: Request) -> AlarmDetailReply:
        return _detail(await alarms.unshelve(alarm_id, who, request_id(request)))


def _alarm(listed: ListedAlarm) -> dict[str, object]:
    reports = centre_reports(listed.deliveries)
    return {
        **asdict(listed.alarm),
        "state": "active" if listed.alarm.ended_at is None else "ended",
        "deliveries": [_delivery(one) for one in listed.deliveries],
        "report_state": overall(reports),
        "reports": [CentreReportReply(**asdict(one)) for one in reports],
        "diagnosis": DiagnosisReply(**asdict(listed.diagnosis)),
    }


def _delivery(row: DeliveryRow) -> DeliveryReply:
    return DeliveryReply(
        destination=row.destination,
        item=row.item,
        item_kind=row.item_kind,
        state=row.state,
        attempts=row.attempts,
        at=row.at,
        error=row.error,
    )


def _detail(detail: AlarmDetail) -> AlarmDetailReply:
    return AlarmDetailReply(
        **_alarm(detail.listed),
        events=detail.events,
        notes=[NoteReply(at=note.at, actor=note.actor, note=note.note) for note in detail.notes],
    )
