"""HTTP of records that come in: tables 1 to 6 of the data-access standard, as JSON or as a file."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from libs.common.contracts.base import Number, UtcTime
from libs.common.db import Database
from libs.common.errors import Forbidden
from libs.common.tokens import Principal
from libs.common.web import Cursor, Limit, Page, key_cursor, read_key_cursor, read_time_cursor, require, time_cursor
from libs.common.workbook import MEDIA_TYPE
from services.export.records import rows
from services.export.records.reading import MAX_ROWS, read_file
from services.export.records.rows import RowState
from services.export.usecases.administration import Actor
from services.export.usecases.records import Deliveries, Told

SHOWN = 1000
"""Refused rows in one answer; the others are under ``…/rows``."""
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]
DeliveryId = Annotated[str, Path(max_length=64, pattern=r"^[0-9A-Za-z-]+$", description="of a delivery")]
FILE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "a row per record, columns as in files of exports of the dataset standard",
        "content": {
            "text/csv": {"schema": {"type": "string"}},
            MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


def _unlimited(who: Principal) -> Principal:
    if who.sites is not None:
        raise Forbidden(
            "only who is not limited to sites may see and deliver records",
            message_zh="只有不限局站的用户可以查看和提交接入数据",
        )
    return who


def _reader(who: Annotated[Principal, Depends(require("export:read"))]) -> Principal:
    return _unlimited(who)


def _writer(who: Annotated[Principal, Depends(require("export:write"))]) -> Principal:
    return _unlimited(who)


Reader = Annotated[Principal, Depends(_reader)]
Writer = Annotated[Principal, Depends(_writer)]
Cell = Annotated[str, Field(max_length=1000, pattern=r"^[^\x00]*$")]
Column = Annotated[str, Field(max_length=40, pattern=r"^[^\x00]*$")]


class DeliveryBody(BaseModel):
    """Records that come together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    delivery: Name = Field(description="the sender's own name of it; the same rows under it are not taken again")
    records: list[dict[Column, Cell | Number | None]] = Field(
        min_length=1, max_length=MAX_ROWS,
        description="table, item, subject, start, end, value (or text), unit; point of voltages and currents",
        examples=[[{
            "table": 2, "item": "energy_kwh", "subject": "0440-1234567", "start": "2026-03-01T00:00:00+08:00",
            "end": "2026-03-02T00:00:00+08:00", "value": 1234.5, "unit": "kWh",
        }]],
    )  # fmt: skip


class RefusedRow(BaseModel):
    """A row that is not taken."""

    line: int = Field(description="place in the delivery from 1; of files as an editor shows it")
    problem: str = Field(description="what, where and what was expected")
    problem_zh: str


class RowView(BaseModel):
    """A row and what came of it."""

    line: int
    fields: Mapping[str, Any]
    state: RowState
    problem: str | None
    problem_zh: str | None


class DeliveryView(BaseModel):
    """A delivery and what came of it."""

    delivery_id: str
    sender: str
    delivery: str
    received_at: UtcTime
    finished_at: UtcTime | None = Field(description="something has come of every row; null while rows wait")
    rows: int
    counts: Mapping[RowState, int]
    attempts: int = Field(description="that found somebody away")
    error: str | None = Field(description="who is waited for")
    refused: Sequence[RefusedRow] = Field(description=f"the first {SHOWN}")


def build_records_router(deliveries: Deliveries, db: Database) -> APIRouter:
    """Return the routes."""
    router = APIRouter(prefix="/api/v1/exports/standard", tags=["exports"])

    async def shown(told: Told) -> DeliveryView:
        one = told.delivery
        async with db.read() as conn:
            refused = await rows.fetch_rows(conn, one.delivery_id, state=RowState.REFUSED, after=0, limit=SHOWN)
        return DeliveryView(
            delivery_id=one.delivery_id, sender=one.sender, delivery=one.name, received_at=one.received_at,
            finished_at=one.finished_at, rows=one.row_count, counts=told.counts, attempts=one.attempts,
            error=one.error,
            refused=[
                RefusedRow(line=row.line, problem=row.problem or "", problem_zh=row.problem_zh or "")
                for row in refused
            ],
        )  # fmt: skip

    def sender_of(who: Principal, request: Request) -> Actor:
        if not who.may("export:admin"):
            deliveries.check_sender(who.actor)
        return Actor(who.actor, request.headers.get("x-request-id"))

    @router.post("/records", status_code=202, summary="Deliver records of tables 1 to 6")
    async def deliver(body: DeliveryBody, who: Writer, request: Request) -> DeliveryView:
        """Each row is taken or refused by itself, with what, where and what was expected; the others go on their way.

        Measured values go to ingest, archives to the registry as versions, bills and emissions to carbon. 202 means
        that the rows are safe; ask under ``deliveries/{delivery_id}`` what came of them.
        """
        actor = sender_of(who, request)
        return await shown(await deliveries.deliver(body.delivery, list(enumerate(body.records, start=1)), actor))

    @router.post("/files", status_code=202, summary="Deliver records as a file", openapi_extra=FILE)
    async def deliver_file(
        who: Writer,
        request: Request,
        name: Annotated[str, Query(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")],
    ) -> DeliveryView:
        """CSV (UTF-8 or GB 18030) or an Excel workbook; ``name`` is the delivery's, otherwise as ``records``."""
        actor = sender_of(who, request)
        return await shown(
            await deliveries.deliver(name, await asyncio.to_thread(read_file, await request.body(), name), actor)
        )

    @router.get("/deliveries", summary="Deliveries of records, the youngest first")
    async def list_deliveries(_: Reader, cursor: Cursor = None, limit: Limit = 50) -> Page[DeliveryView]:
        before = None if cursor is None else read_time_cursor(cursor)
        async with db.read() as conn:
            found = await rows.fetch_deliveries(conn, before=before, limit=limit + 1)
            counts = await rows.count_rows(conn, [one.delivery_id for one in found])
        items = [await shown(Told(one, counts[one.delivery_id])) for one in found[:limit]]
        more = time_cursor(found[limit - 1].received_at, found[limit - 1].delivery_id) if len(found) > limit else None
        return Page(items=items, next_cursor=more)

    @router.get("/deliveries/{delivery_id}", summary="A delivery and what came of it")
    async def get_delivery(delivery_id: DeliveryId, _: Reader) -> DeliveryView:
        return await shown(await deliveries.get(delivery_id))

    @router.get("/deliveries/{delivery_id}/rows", summary="Rows of a delivery, in order")
    async def list_rows(
        delivery_id: DeliveryId,
        _: Reader,
        state: Annotated[RowState | None, Query()] = None,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Page[RowView]:
        text = read_key_cursor(cursor) or "0"
        after = int(text) if text.isdecimal() and len(text) < 10 else 0
        async with db.read() as conn:
            found = await rows.fetch_rows(conn, delivery_id, state=state, after=after, limit=limit + 1)
        items = [
            RowView(line=one.line, fields=one.fields, state=one.state, problem=one.problem, problem_zh=one.problem_zh)
            for one in found[:limit]
        ]
        return Page(items=items, next_cursor=key_cursor(str(items[-1].line)) if len(found) > limit else None)

    return router
