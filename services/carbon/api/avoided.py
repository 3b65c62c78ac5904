"""HTTP of avoided emissions: statements of their own, which reduce no inventory."""

from collections.abc import Sequence
from datetime import date, datetime

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from services.carbon.api.common import WholeReader, WholeWriter
from services.carbon.api.figures import (
    STATEMENT,
    AskedPage,
    FigureReply,
    KnownOn,
    StatedReply,
    StatementId,
    StatementVersion,
    TotalReply,
    UsedFactor,
    figure_reply,
    stated_reply,
    statement_reply,
    total_reply,
    used_reply,
)
from services.carbon.api.inventorybody import AvoidedBody
from services.carbon.domain.inventory.publication import AvoidedPublication, FrozenFigure
from services.carbon.domain.statements import StatementKind
from services.carbon.usecases.inventories import Inventories


class AvoidedLine(BaseModel):
    """Something that others did not emit."""

    line_id: str
    figure: FigureReply


class AvoidedReply(BaseModel):
    """Avoided emissions as computed now."""

    total: TotalReply
    lines: Sequence[AvoidedLine]


class AvoidedPublicationReply(AvoidedReply):
    """A published statement of avoided emissions; it never changes."""

    statement_id: str
    version: int
    published_at: datetime
    published_by: str
    known_on: date
    factors: Sequence[UsedFactor]
    used_digest: str = Field(description="SHA-256 of the factors that went into a line")
    table_digest: str = Field(description="SHA-256 of all factors that were known that day")
    software: str


class AvoidedPublishedReply(BaseModel):
    """What was published."""

    publication: AvoidedPublicationReply
    digest: str = Field(description="SHA-256 of the stored statement")


def add_avoided_routes(router: APIRouter, inventories: Inventories) -> None:
    """Add the routes of avoided emissions."""

    @router.get("/emissions/avoided", tags=["avoided"], summary="Published statements of avoided emissions")
    async def listed(_: WholeReader, page: AskedPage) -> Sequence[StatedReply]:
        return [stated_reply(one) for one in await inventories.stated(StatementKind.AVOIDED, page.after, page.limit)]

    @router.post(
        "/emissions/avoided/{statement_id}/preview",
        tags=["avoided"],
        summary="Compute what others did not emit and keep nothing",
    )
    async def preview(
        body: AvoidedBody, _: WholeReader, statement_id: StatementId, known_on: KnownOn = None
    ) -> AvoidedReply:
        found = await inventories.preview_avoided([one.source() for one in body.sources], known_on)
        return AvoidedReply(
            total=total_reply(found.total),
            lines=[
                AvoidedLine(line_id=source.line_id, figure=figure_reply(FrozenFigure.of(emission.figure)))
                for source, emission in found.lines
            ],
        )

    @router.post(
        "/emissions/avoided/{statement_id}/versions",
        tags=["avoided"],
        summary="Publish a statement of avoided emissions as its next version; it never changes again",
        status_code=201,
    )
    async def publish(body: AvoidedBody, who: WholeWriter, statement_id: StatementId) -> AvoidedPublishedReply:
        sources = [one.source() for one in body.sources]
        publication, digest = await inventories.publish_avoided(statement_id, body.name, sources, who=who)
        return AvoidedPublishedReply(publication=_publication(publication), digest=digest)

    @router.get(
        "/emissions/avoided/{statement_id}/versions/{version}", tags=["avoided"], summary="A published statement"
    )
    async def published(
        _: WholeReader, statement_id: StatementId, version: StatementVersion
    ) -> AvoidedPublicationReply:
        return _publication(await inventories.published_avoided(statement_id, version))

    @router.get(
        "/emissions/avoided/{statement_id}/versions/{version}/statement",
        tags=["avoided"],
        summary="The text of a published statement: what its digest is of",
        response_class=Response,
        responses=STATEMENT,
    )
    async def statement(_: WholeReader, statement_id: StatementId, version: StatementVersion) -> Response:
        return statement_reply(*await inventories.statement(StatementKind.AVOIDED, statement_id, version))


def _publication(one: AvoidedPublication) -> AvoidedPublicationReply:
    return AvoidedPublicationReply(
        statement_id=one.statement_id,
        version=one.version,
        published_at=one.published_at,
        published_by=one.published_by,
        known_on=one.known_on,
        total=total_reply(one.total),
        lines=[AvoidedLine(line_id=line.line_id, figure=figure_reply(line.figure)) for line in one.lines],
        factors=[used_reply(row) for row in one.used],
        used_digest=one.used_digest,
        table_digest=one.table_digest,
        software=one.software,
    )
