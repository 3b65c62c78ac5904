"""HTTP of certificates and inventories: computed, published, and as they would be today."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from libs.common.contracts.base import CalendarDate, Flag
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
from services.carbon.api.inventorybody import InventoryBody
from services.carbon.domain.emissions.certificates import CERTIFICATE_KWH, Certificate, InstrumentKind
from services.carbon.domain.inventory.boundary import Approach
from services.carbon.domain.inventory.compute import Result, Sureness
from services.carbon.domain.inventory.metered import Metered
from services.carbon.domain.inventory.publication import Change, FrozenFigure, Publication, Restatement, Summary
from services.carbon.domain.inventory.uncertainty import Grade
from services.carbon.domain.statements import StatementKind
from services.carbon.usecases.inventories import Inventories

Name = Annotated[str, Field(min_length=1, max_length=64)]


class CertificateBody(BaseModel):
    """A green electricity certificate as its registry shows it."""

    model_config = ConfigDict(extra="forbid")

    number: Name
    revision: int = Field(
        1, strict=True, ge=1, le=10_000, description="the next one, while no inventory uses the certificate"
    )
    kind: InstrumentKind
    market: Name = Field(description="CN is mainland China, the only one that counts")
    vintage: int = Field(strict=True, ge=1990, le=2100, description="civil year of generation")
    technology: Name
    beneficiary: Name = Field(description="the organisation that it was cancelled for")
    cancelled_on: CalendarDate | None = Field(description="null while it is only held: then it covers nothing")
    sold_with_power: Flag = Field(description="whether it went to somebody else together with the power")
    kwh: float = Field(CERTIFICATE_KWH, strict=True, allow_inf_nan=False, gt=0, le=CERTIFICATE_KWH)
    evidence: Annotated[str, Field(min_length=1, max_length=500)]


class SurenessReply(BaseModel):
    """How sure a total is, of the lines whose uncertainty is known."""

    relative: float | None = Field(description="half-width at 95 %")
    grade: Grade | None = Field(description="high to 5 %, good to 15 %, fair to 30 %, poor beyond")
    assessed_share: float = Field(description="share of the total whose uncertainty is known")
    low_kg_co2e: float | None = Field(description="2.5th percentile, simulated where the width is beyond the formula")
    high_kg_co2e: float | None
    seed: int | None


class LineReply(BaseModel):
    """One line as published."""

    line_id: str
    category: str
    share: float
    location: FigureReply
    market: FigureReply
    by_gas: Mapping[str, float | None]


class SummaryReply(BaseModel):
    """The totals of an inventory beside the two main ones."""

    by_scope: Mapping[str, TotalReply]
    by_iso_category: Mapping[int, TotalReply]
    by_gb_group: Mapping[str, TotalReply]
    by_gas: Mapping[str, float]
    memo_montreal: TotalReply = Field(description="gases of the Montreal Protocol, in no total")
    biogenic: TotalReply = Field(description="carbon dioxide of biomass, in no total")
    imported_kwh: float | None
    covered_kwh: float
    coverage: float | None
    uncertainty: SurenessReply
    standard_coal: FigureReply = Field(description="comprehensive energy consumption, GB/T 2589, equivalent values")
    outside: Sequence[str] = Field(description="sources that are not in the boundary and in no total")


class ExclusionReply(BaseModel):
    """What belongs to the boundary and is not quantified."""

    subject: str
    reason: str
    significance: float | None


class PublicationReply(BaseModel):
    """A published version of an inventory; it never changes."""

    inventory_id: str
    version: int
    published_at: datetime
    published_by: str
    known_on: date
    organisation: str
    approach: Approach
    exclusions: Sequence[ExclusionReply]
    location: TotalReply
    market: TotalReply
    summary: SummaryReply
    lines: Sequence[LineReply]
    factors: Sequence[UsedFactor]
    used_digest: str = Field(description="SHA-256 of the factors that went into a line")
    table_digest: str = Field(description="SHA-256 of all factors that were known that day")
    software: str


class ChangeReply(BaseModel):
    """A line as published and as it would be today."""

    line_id: str
    frozen_kg_co2e: float | None
    restated_kg_co2e: float | None
    difference_kg_co2e: float | None
    because: Sequence[str] = Field(description="factors that differ, or activity")


class RestatementReply(BaseModel):
    """What a published version would say today, beside what it says."""

    frozen: PublicationReply
    known_on: date
    location: TotalReply
    market: TotalReply
    difference_kg_co2e: float | None = Field(description="location-based; null unless both totals are whole")
    significant: bool | None = Field(description="whether the total moved by more than five per cent")
    changes: Sequence[ChangeReply]
    market_changes: Sequence[ChangeReply]
    table_digest: str


class MetersReply(BaseModel):
    """What the intervals of a line say."""

    energy_kwh: float | None = Field(description="of the whole node; null where less than half of a circuit is known")
    completeness: float
    usable: float = Field(description="measured and estimated intervals over expected ones")
    estimated_share: float
    circuits: Sequence[str]
    unknown: Sequence[str] = Field(description="circuits of which less than half is known")
    until: datetime


class ComputedLine(BaseModel):
    """One source within the boundary."""

    line_id: str
    node: str
    share: float
    start: datetime
    end: datetime
    category: str
    scope: int
    iso_category: int
    gb_group: str
    location: FigureReply
    market: FigureReply
    by_gas: Mapping[str, float | None]
    origin: str
    completeness: float | None = Field(description="measured intervals over expected ones; null for what was entered")
    estimated_share: float = Field(description="share of the amount that was interpolated, allocated or apportioned")
    meters: MetersReply | None


class ResultReply(SummaryReply):
    """An inventory as computed now."""

    location: TotalReply
    market: TotalReply
    lines: Sequence[ComputedLine]


class PublishedReply(BaseModel):
    """What was published."""

    publication: PublicationReply
    digest: str = Field(description="SHA-256 of the stored statement")


def add_inventory_routes(router: APIRouter, inventories: Inventories) -> None:
    """Add the routes of certificates and published inventories."""

    @router.post(
        "/inventories/certificates",
        tags=["inventories"],
        summary="Register a green certificate, or what its registry says of it now",
        status_code=201,
    )
    async def register(body: CertificateBody, who: WholeWriter) -> CertificateBody:
        one = Certificate(**body.model_dump(exclude={"revision"}))
        await inventories.enter_certificate(one, revision=body.revision, who=who)
        return body

    @router.get("/inventories", tags=["inventories"], summary="Published inventories, by id and version")
    async def listed(_: WholeReader, page: AskedPage) -> Sequence[StatedReply]:
        return [stated_reply(one) for one in await inventories.stated(StatementKind.INVENTORY, page.after, page.limit)]

    @router.post(
        "/inventories/{inventory_id}/preview", tags=["inventories"], summary="Compute an inventory and keep nothing"
    )
    async def preview(
        body: InventoryBody, who: WholeReader, inventory_id: StatementId, known_on: KnownOn = None
    ) -> ResultReply:
        inputs = body.inputs(await inventories.certificates(body.certificates), by=who.actor)
        result, coal = await inventories.preview(inventory_id, inputs, known_on)
        return _result(result, figure_reply(FrozenFigure.of(coal.total)))

    @router.post(
        "/inventories/{inventory_id}/versions",
        tags=["inventories"],
        summary="Publish an inventory as its next version; it never changes again",
        status_code=201,
    )
    async def publish(body: InventoryBody, who: WholeWriter, inventory_id: StatementId) -> PublishedReply:
        inputs = body.inputs(await inventories.certificates(body.certificates), by=who.actor)
        found = await inventories.publish(inventory_id, body.name, inputs, who=who)
        return PublishedReply(publication=_publication(found.publication), digest=found.digest)

    @router.get(
        "/inventories/{inventory_id}/versions/{version}", tags=["inventories"], summary="A published version, as frozen"
    )
    async def published(_: WholeReader, inventory_id: StatementId, version: StatementVersion) -> PublicationReply:
        return _publication(await inventories.published(inventory_id, version))

    @router.get(
        "/inventories/{inventory_id}/versions/{version}/statement",
        tags=["inventories"],
        summary="The text of a published version: what its digest is of, with everything that it was made from",
        response_class=Response,
        responses=STATEMENT,
    )
    async def statement(_: WholeReader, inventory_id: StatementId, version: StatementVersion) -> Response:
        return statement_reply(*await inventories.statement(StatementKind.INVENTORY, inventory_id, version))

    @router.get(
        "/inventories/{inventory_id}/versions/{version}/restatement",
        tags=["inventories"],
        summary="What a published version would say today",
    )
    async def restatement(
        _: WholeReader,
        inventory_id: StatementId,
        version: StatementVersion,
        meters: Annotated[bool, Query(description="ask the meters again, so that late data count")] = True,
    ) -> RestatementReply:
        return _restatement(await inventories.restate(inventory_id, version, meters=meters))


def _result(one: Result, coal: FigureReply) -> ResultReply:
    return ResultReply(
        location=total_reply(one.location),
        market=total_reply(one.market),
        by_scope={name: total_reply(value) for name, value in one.by_scope.items()},
        by_iso_category={name: total_reply(value) for name, value in one.by_iso_category.items()},
        by_gb_group={name: total_reply(value) for name, value in one.by_gb_group.items()},
        by_gas=one.by_gas,
        memo_montreal=total_reply(one.memo_montreal),
        biogenic=total_reply(one.biogenic),
        imported_kwh=one.imported_kwh,
        covered_kwh=one.covered_kwh,
        coverage=one.coverage,
        uncertainty=_sureness(one.sureness),
        standard_coal=coal,
        outside=one.outside,
        lines=[
            ComputedLine(
                line_id=line.source.line_id,
                node=line.source.node,
                share=line.share,
                start=line.source.span.start,
                end=line.source.span.end,
                category=line.category.code,
                scope=int(line.category.scope),
                iso_category=int(line.category.iso),
                gb_group=line.category.gb.value,
                location=figure_reply(FrozenFigure.of(line.location.figure)),
                market=figure_reply(FrozenFigure.of(line.market.figure)),
                by_gas=line.location.by_gas,
                origin=line.source.origin,
                completeness=line.source.completeness,
                estimated_share=line.source.estimated_share,
                meters=None if line.source.metered is None else _meters(line.source.metered),
            )
            for line in one.lines
        ],
    )


def _meters(one: Metered) -> MetersReply:
    return MetersReply(
        energy_kwh=one.energy_kwh,
        completeness=one.completeness,
        usable=one.usable,
        estimated_share=one.estimated_share,
        circuits=one.circuits,
        unknown=one.unknown,
        until=one.until,
    )


def _summary(one: Summary) -> SummaryReply:
    return SummaryReply(
        by_scope={name: total_reply(value) for name, value in one.by_scope.items()},
        by_iso_category={name: total_reply(value) for name, value in one.by_iso_category.items()},
        by_gb_group={name: total_reply(value) for name, value in one.by_gb_group.items()},
        by_gas=one.by_gas,
        memo_montreal=total_reply(one.memo_montreal),
        biogenic=total_reply(one.biogenic),
        imported_kwh=one.imported_kwh,
        covered_kwh=one.covered_kwh,
        coverage=one.coverage,
        uncertainty=_sureness(one.sureness),
        standard_coal=figure_reply(one.standard_coal),
        outside=one.outside,
    )


def _sureness(one: Sureness) -> SurenessReply:
    return SurenessReply(
        relative=one.relative,
        grade=one.grade,
        assessed_share=one.covered_share,
        low_kg_co2e=None if one.simulation is None else one.simulation.low,
        high_kg_co2e=None if one.simulation is None else one.simulation.high,
        seed=None if one.simulation is None else one.simulation.seed,
    )


def _publication(one: Publication) -> PublicationReply:
    return PublicationReply(
        inventory_id=one.inventory_id,
        version=one.version,
        published_at=one.published_at,
        published_by=one.published_by,
        known_on=one.known_on,
        organisation=one.inputs.boundary.organisation,
        approach=one.inputs.boundary.approach,
        exclusions=[
            ExclusionReply(subject=each.subject, reason=each.reason, significance=each.significance)
            for each in one.inputs.boundary.exclusions
        ],
        location=total_reply(one.location),
        market=total_reply(one.market),
        summary=_summary(one.summary),
        lines=[
            LineReply(
                line_id=line.line_id,
                category=line.category,
                share=line.share,
                location=figure_reply(line.location),
                market=figure_reply(line.market),
                by_gas=line.by_gas,
            )
            for line in one.lines
        ],
        factors=[used_reply(row) for row in one.used],
        used_digest=one.used_digest,
        table_digest=one.table_digest,
        software=one.software,
    )


def _restatement(one: Restatement) -> RestatementReply:
    return RestatementReply(
        frozen=_publication(one.publication),
        known_on=one.known_on,
        location=total_reply(one.result.location),
        market=total_reply(one.result.market),
        difference_kg_co2e=one.difference_kg_co2e,
        significant=one.significant,
        changes=[_change(change) for change in one.changes],
        market_changes=[_change(change) for change in one.market_changes],
        table_digest=one.table_digest,
    )


def _change(one: Change) -> ChangeReply:
    return ChangeReply(
        line_id=one.line_id,
        frozen_kg_co2e=one.frozen_kg_co2e,
        restated_kg_co2e=one.restated_kg_co2e,
        difference_kg_co2e=one.difference_kg_co2e,
        because=one.because,
    )
