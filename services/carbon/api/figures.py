"""What replies about figures and published statements share."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Annotated, Any

from fastapi import Depends, Path, Query, Response
from pydantic import BaseModel, Field

from libs.common.contracts.base import CalendarDate
from services.carbon.domain.factors import EmissionFactor
from services.carbon.domain.figures import Mark
from services.carbon.domain.inventory.compute import Total
from services.carbon.domain.inventory.publication import FrozenFigure
from services.carbon.domain.statements import Stated

PAGE_MAX = 1_000
DIGEST = "X-Statement-SHA256"
VERSION_MAX = 2_000_000_000
"""Fits the database's integer."""
StatementId = Annotated[str, Path(max_length=64)]
StatementVersion = Annotated[int, Path(ge=1, le=VERSION_MAX)]
STATEMENT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "canonical JSON, whose SHA-256 is in the header",
        "content": {"application/json": {"schema": {"type": "object"}}},
        "headers": {DIGEST: {"schema": {"type": "string"}}},
    }
}
KnownOn = Annotated[
    CalendarDate | None, Query(description="civil day; what was published later is not known. By default today")
]


class TotalReply(BaseModel):
    """A sum over lines."""

    kg_co2e: float | None = Field(description="of the known lines; null where none is known")
    lines: int
    unknown: Sequence[str] = Field(description="lines that are not in the sum")
    incomplete: Sequence[str] = Field(description="lines that are in it with what is known of them")


class InputReply(BaseModel):
    """A number that went into a figure."""

    name: str
    value: float | None
    unit: str
    origin: str


class FigureReply(BaseModel):
    """A figure with its reasons."""

    value: float | None
    unit: str
    formula: str
    source: str
    inputs: Sequence[InputReply]
    marks: Sequence[Mark] = Field(description="what to know before relying on it")


class UsedFactor(BaseModel):
    """A factor that went into a line."""

    factor_id: str
    revision: int
    value: float
    unit: str
    data_year: int
    known_from: date
    confidence: str
    source: str


class StatedReply(BaseModel):
    """A published version, without its content."""

    id: str
    version: int
    name: str
    digest: str = Field(description="SHA-256 of the stored statement")
    table_digest: str
    known_on: date
    published_at: datetime
    published_by: str


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is asked for."""

    after: tuple[str, int] | None
    limit: int


def asked_page(
    after: Annotated[str | None, Query(max_length=64, description="id of the last one of the page before")] = None,
    after_version: Annotated[int, Query(ge=0, le=VERSION_MAX, description="its version")] = 0,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 100,
) -> Page:
    """Return the page that a request asks for."""
    return Page(None if after is None else (after, after_version), limit)


AskedPage = Annotated[Page, Depends(asked_page)]


def total_reply(one: Total) -> TotalReply:
    """Return a sum over lines."""
    return TotalReply(kg_co2e=one.kg_co2e, lines=one.lines, unknown=one.unknown, incomplete=one.incomplete)


def figure_reply(one: FrozenFigure) -> FigureReply:
    """Return a figure with its reasons."""
    return FigureReply(
        value=one.value,
        unit=one.unit,
        formula=one.formula,
        source=one.source,
        inputs=[
            InputReply(name=each.name, value=each.value, unit=each.unit, origin=each.origin) for each in one.inputs
        ],
        marks=one.marks,
    )


def used_reply(row: EmissionFactor) -> UsedFactor:
    """Return a factor that went into a line."""
    return UsedFactor(
        factor_id=row.factor_id,
        revision=row.revision,
        value=float(row.value),
        unit=row.unit,
        data_year=row.data_year,
        known_from=row.known_from,
        confidence=row.confidence,
        source=row.source,
    )


def stated_reply(one: Stated) -> StatedReply:
    """Return how a published version is listed."""
    return StatedReply(
        id=one.statement_id,
        version=one.version,
        name=one.name,
        digest=one.digest,
        table_digest=one.table_digest,
        known_on=one.known_on,
        published_at=one.published_at,
        published_by=one.published_by,
    )


def statement_reply(text: str, digest: str) -> Response:
    """Return the text of a published statement as it is stored."""
    return Response(text, media_type="application/json", headers={DIGEST: digest})
