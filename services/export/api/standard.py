"""HTTP of tables 1 to 6 of the data-access standard: what a file of them says, of one site and period, at once."""

from collections.abc import Sequence
from typing import Annotated, Protocol

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, Field

from libs.common.accessstandard import ITEMS
from libs.common.clock import Clock
from libs.common.contracts.base import UtcTime
from libs.common.errors import Forbidden, InvalidInput
from libs.common.recurrence import FIRST_YEAR
from libs.common.tokens import Principal
from libs.common.web import require
from services.export.domain.exports import TABLE_SPANS, Span, last_over
from services.export.exports.standard import StandardTables

ROWS_MAX = 20_000
"""Of one answer; more is a file."""

Reader = Annotated[Principal, Depends(require("export:read"))]
Table = Annotated[int, Path(ge=1, le=6, description="1 to 6")]


class ItemView(BaseModel):
    """A row of a table: what an item is."""

    table: int
    number: int
    category_zh: str
    name_zh: str
    item: str
    kind: str
    unit: str | None
    printed_unit: str = Field(description="as the standard prints it; where it is wrong, `note` says so")
    printed_update: str
    spans: Sequence[Span] = Field(description="how long the periods are that the table is told by")
    owner: str
    note: str | None


class RecordView(BaseModel):
    """One item of one subject over one time."""

    number: int
    item: str
    item_zh: str
    subject: str
    point: str | None = None
    start: UtcTime
    end: UtcTime | None = Field(description="null of what holds until it changes")
    value: float | None = Field(default=None, description="null where it is unknown, which is not zero")
    text: str | None = None
    unit: str | None
    completeness: float | None
    note: str | None = Field(description="why there is no value")


class RecordsView(BaseModel):
    """What a table says of one site and period."""

    table: int
    site: str
    start: UtcTime
    end: UtcTime
    records: list[RecordView]


class Places(Protocol):
    """Where a site lies."""

    def places_of(self, site_id: str) -> frozenset[str]:
        """Return a site and ``region:<id>`` of each region that it lies in."""


def build_standard_router(tables: StandardTables, places: Places, clock: Clock) -> APIRouter:
    """Return the routes."""
    router = APIRouter(prefix="/api/v1/exports/standard", tags=["exports"])

    @router.get("/items", summary="Every item of tables 1 to 6: unit, type and how often it comes")
    async def items(_: Reader) -> list[ItemView]:
        return [
            ItemView(
                table=one.table, number=one.number, category_zh=one.category_zh, name_zh=one.name_zh, item=one.key,
                kind=one.kind, unit=one.unit, printed_unit=one.printed_unit, printed_update=one.printed_update,
                spans=sorted(TABLE_SPANS[one.table]), owner=one.owner, note=one.note or None,
            )
            for one in ITEMS.values()
        ]  # fmt: skip

    @router.get("/tables/{table}", summary="What a table says of a site in the last period that is over")
    async def records(
        who: Reader,
        table: Table,
        site: Annotated[str, Query(min_length=1, max_length=64, description="id of a site")],
        span: Annotated[Span, Query(description="length of the period")],
        at: Annotated[UtcTime | None, Query(description="the period over then; absent: now")] = None,
    ) -> RecordsView:
        """The same rows as exports of the dataset `standard`."""
        if who.sites is not None and not places.places_of(site) & set(who.sites):
            raise Forbidden(f"{who.subject} may not see site {site}", message_zh=f"{who.subject} 无权查看局站 {site}")
        if span not in TABLE_SPANS[table]:
            expected = ", ".join(sorted(TABLE_SPANS[table]))
            raise InvalidInput(
                f"span: table {table} is told by {expected}, found {span}",
                message_zh=f"span:表{table}的周期应为 {expected},实际为 {span}",
            )
        if at is not None and at.year < FIRST_YEAR:
            raise InvalidInput(
                f"at: expected a time since {FIRST_YEAR}", message_zh=f"at:应为 {FIRST_YEAR} 年以后的时间"
            )
        period = last_over(span, clock.now() if at is None else min(at, clock.now()))
        found: list[RecordView] = []
        async for page in tables.pages(table, span, [site], period):
            found += [RecordView.model_validate(row) for row in page]
            if len(found) > ROWS_MAX:
                raise InvalidInput(
                    f"more than {ROWS_MAX} records: have them as a file (PUT /api/v1/exports/…)",
                    message_zh=f"超过 {ROWS_MAX} 条,请使用文件导出",
                )
        return RecordsView(table=table, site=site, start=period.start, end=period.end, records=found)

    return router
