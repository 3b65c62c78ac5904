"""HTTP of fault localisation (故障定位)."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from libs.common.contracts.base import UtcTime
from libs.common.errors import Forbidden
from libs.common.web import Cursor, Limit, Page, check_span, read_time_cursor, time_cursor
from libs.common.workbook import MEDIA_TYPE
from services.alarm.api.common import Reader, Writer, request_id
from services.alarm.domain.diagnosis.causes import Cause
from services.alarm.faultcodes import FaultCode
from services.alarm.store.diagnoses import DiagnosisFilter
from services.alarm.usecases.diagnoses import Diagnoses, Shown, make_workbook

Id = Annotated[str, Field(min_length=1, max_length=100)]
Receiver = Annotated[str | None, Query(max_length=64, description="whose codes are shown; none: ours")]


class EvidenceReply(BaseModel):
    """One fact behind a diagnosis."""

    name: str
    value: bool | float | str
    at: datetime
    source: str
    decisive: bool = Field(description="whether the cause rests on it")


class SilenceReply(BaseModel):
    """Somebody who was asked and could not tell."""

    source: str
    at: datetime
    reason: str


class CardReply(BaseModel):
    """The device of the fault card, as it was when the diagnosis was last changed."""

    device_name: str
    device_number: str
    iccid: str | None
    device_kind: str
    address: str | None
    station_code: str
    station_name: str
    room_code: str | None
    room_name: str | None


class DiagnosisReply(BaseModel):
    """A diagnosis: the twelve fields of the fault card, its life and its evidence."""

    diagnosis_id: str
    device_id: str
    site_id: str
    card: CardReply
    code: str
    cause: str
    name_zh: str
    name_en: str
    text_zh: str = Field(description="异常信息")
    text_en: str
    advice_zh: str = Field(description="处理建议")
    advice_en: str
    confidence: str
    also_possible: Sequence[str]
    evidence: Sequence[EvidenceReply]
    unreachable: Sequence[SilenceReply]
    began_at: datetime
    changed_at: datetime
    looked_at: datetime
    ended_at: datetime | None
    sequence: int
    alarm_id: str | None
    group_id: str | None = Field(description="the same cause on many devices; the id of its first diagnosis")
    group_size: int | None
    told: bool = Field(description="false: others were told of the group only")
    asked_by: str | None


class CodeReply(BaseModel):
    """A cause with its code and words."""

    cause: str
    code: str = Field(description="of the receiver that was asked for")
    our_code: str
    name_zh: str
    name_en: str
    text_zh: str
    text_en: str
    advice_zh: str
    advice_en: str


class CodesReply(BaseModel):
    """All causes, in order of our codes."""

    receiver: str | None
    items: Sequence[CodeReply]


class CodesBody(BaseModel):
    """Codes of a receiver by cause; causes that are left out keep ours."""

    model_config = ConfigDict(extra="forbid")

    codes: Mapping[str, str] = Field(max_length=100)


class OrderBody(BaseModel):
    """A device to look at now."""

    model_config = ConfigDict(extra="forbid")

    device_id: Id


class OrderReply(BaseModel):
    """What will be looked at; the diagnosis follows in the list of the device."""

    device_id: str
    site_id: str


class DiagnosisWishes(BaseModel):
    """Which diagnoses."""

    model_config = ConfigDict(extra="forbid")

    state: Annotated[str | None, Field(pattern=r"^(open|ended)$")] = None
    site: list[str] | None = Field(default=None, max_length=1000)
    device: Id | None = None
    cause: list[Cause] | None = None
    group: Id | None = None
    start: UtcTime | None = Field(default=None, alias="from", description="begun then or later")
    end: UtcTime | None = Field(default=None, alias="to", description="begun before then")
    receiver: str | None = Field(default=None, max_length=64, description="whose codes are shown; none: ours")

    def wanted(self) -> DiagnosisFilter:
        """Return the filter."""
        check_span(self.start, self.end)
        return DiagnosisFilter(
            open=None if self.state is None else self.state == "open",
            sites=self.site,
            device_id=self.device,
            causes=None if self.cause is None else [cause.value for cause in self.cause],
            group_id=self.group,
            began_from=self.start,
            began_before=self.end,
        )


class DiagnosisQuery(DiagnosisWishes):
    """A page of diagnoses."""

    limit: Limit = 100
    cursor: Cursor = None


def build_diagnoses_router(diagnoses: Diagnoses) -> APIRouter:
    """Return the routes."""
    router = APIRouter(prefix="/api/v1", tags=["diagnoses"])

    @router.get("/diagnoses", summary="Diagnoses, the youngest first")
    async def list_diagnoses(who: Reader, query: Annotated[DiagnosisQuery, Query()]) -> Page[DiagnosisReply]:
        after = None if query.cursor is None else read_time_cursor(query.cursor)
        found = await diagnoses.page(query.wanted(), who, receiver=query.receiver, after=after, limit=query.limit + 1)
        page = [_reply(one) for one in found[: query.limit]]
        more = len(found) > query.limit
        return Page(items=page, next_cursor=time_cursor(page[-1].began_at, page[-1].diagnosis_id) if more else None)

    @router.post("/diagnoses", summary="Look at a device now", status_code=202)
    async def order(body: OrderBody, who: Writer, request: Request) -> OrderReply:
        device = await diagnoses.order(body.device_id, who, request_id(request))
        return OrderReply(device_id=device.device_id, site_id=device.place.site_id)

    @router.get("/diagnoses/codes", summary="Causes with their codes and words")
    async def codes(_: Reader, receiver: Receiver = None) -> CodesReply:
        return _codes(receiver, await diagnoses.codes(receiver))

    @router.put("/diagnoses/codes/{receiver}", summary="Give a receiver codes of its own")
    async def set_codes(receiver: str, body: CodesBody, who: Writer, request: Request) -> CodesReply:
        if who.sites is not None:
            raise Forbidden("codes are for those who see all sites", message_zh="仅不限局站的账号可以修改故障代码")
        return _codes(receiver, await diagnoses.set_codes(receiver, body.codes, who, request_id(request)))

    @router.get(
        "/diagnoses/download",
        summary="Diagnoses as a workbook",
        response_class=Response,
        responses={200: {"content": {MEDIA_TYPE: {}}, "description": "the workbook"}},
    )
    async def download(who: Reader, query: Annotated[DiagnosisWishes, Query()]) -> Response:
        found = await diagnoses.workbook(query.wanted(), who, receiver=query.receiver)
        body = await asyncio.to_thread(make_workbook, found)
        return Response(
            body, media_type=MEDIA_TYPE, headers={"content-disposition": 'attachment; filename="diagnoses.xlsx"'}
        )

    @router.get("/diagnoses/{diagnosis_id}", summary="One diagnosis")
    async def one(diagnosis_id: str, who: Reader, receiver: Receiver = None) -> DiagnosisReply:
        return _reply(await diagnoses.one(diagnosis_id, who, receiver=receiver))

    return router


def _reply(one: Shown) -> DiagnosisReply:
    row, words = one.row, one.words
    return DiagnosisReply(
        diagnosis_id=row.diagnosis_id,
        device_id=row.device_id,
        site_id=row.site_id,
        card=CardReply.model_validate(row.card),
        code=one.code,
        cause=row.cause,
        name_zh=words.name_zh,
        name_en=words.name_en,
        text_zh=words.text_zh,
        text_en=words.text_en,
        advice_zh=words.advice_zh,
        advice_en=words.advice_en,
        confidence=row.confidence,
        also_possible=row.also_possible,
        evidence=[EvidenceReply.model_validate(item) for item in row.evidence],
        unreachable=[SilenceReply.model_validate(item) for item in row.unreachable],
        began_at=row.began_at,
        changed_at=row.changed_at,
        looked_at=row.looked_at,
        ended_at=row.ended_at,
        sequence=row.sequence,
        alarm_id=row.alarm_id,
        group_id=row.group_id,
        group_size=one.group_size,
        told=row.told,
        asked_by=row.asked_by,
    )


def _codes(receiver: str | None, found: Mapping[Cause, tuple[str, FaultCode]]) -> CodesReply:
    items = [
        CodeReply(
            cause=cause.value,
            code=code,
            our_code=words.code,
            name_zh=words.name_zh,
            name_en=words.name_en,
            text_zh=words.text_zh,
            text_en=words.text_en,
            advice_zh=words.advice_zh,
            advice_en=words.advice_en,
        )
        for cause, (code, words) in found.items()
    ]
    return CodesReply(receiver=receiver, items=items)
