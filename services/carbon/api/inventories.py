"""HTTP of certificates and inventories: computed, published, and as they would be today."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from services.carbon.api.common import Reader, Writer
from services.carbon.api.inventorybody import InventoryBody
from services.carbon.domain.emissions.certificates import CERTIFICATE_KWH, Certificate, InstrumentKind
from services.carbon.domain.figures import Figure, Mark
from services.carbon.domain.inventory.compute import Result, Total
from services.carbon.domain.inventory.metered import Metered
from services.carbon.domain.inventory.publication import Change, Publication, Restatement
from services.carbon.domain.inventory.uncertainty import Grade
from services.carbon.usecases.inventories import Inventories

InventoryId = Annotated[str, Path(max_length=64)]
Version = Annotated[int, Path(ge=1, le=2_000_000_000)]
Name = Annotated[str, Field(min_length=1, max_length=64)]


class CertificateBody(BaseModel):
    """A green electricity certificate as its registry shows it."""

    model_config = ConfigDict(extra="forbid")

    number: Name
    revision: int = Field(1, ge=1, le=10_000, description="the next one, while no inventory uses the certificate")
    kind: InstrumentKind
    market: Name = Field(description="CN is mainland China, the only one that counts")
    vintage: int = Field(ge=1990, le=2100, description="civil year of generation")
    technology: Name
    beneficiary: Name = Field(description="the organisation that it was cancelled for")
    cancelled_on: date | None = Field(description="null while it is only held: then it covers nothing")
    sold_with_power: bool = Field(description="whether it went to somebody else together with the power")
    kwh: float = Field(CERTIFICATE_KWH, gt=0, le=CERTIFICATE_KWH)
    evidence: Annotated[str, Field(min_length=1, max_length=500)]


class TotalReply(BaseModel):
    """A sum over lines."""

    kg_co2e: float | None = Field(description="of the known lines; null where none is known")
    lines: int
    unknown: Sequence[str] = Field(description="lines that are not in the sum")
    incomplete: Sequence[str] = Field(description="lines that are in it with what is known of them")


class LineReply(BaseModel):
    """One line as published."""

    line_id: str
    location_kg_co2e: float | None
    market_kg_co2e: float | None


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


class PublicationReply(BaseModel):
    """A published version of an inventory; it never changes."""

    inventory_id: str
    version: int
    published_at: datetime
    published_by: str
    known_on: date
    location: TotalReply
    market: TotalReply
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


class ResultReply(BaseModel):
    """An inventory as computed now."""

    location: TotalReply
    market: TotalReply
    by_scope: Mapping[str, TotalReply]
    by_iso_category: Mapping[int, TotalReply]
    by_gb_group: Mapping[str, TotalReply]
    by_gas: Mapping[str, float]
    memo_montreal: TotalReply = Field(description="gases of the Montreal Protocol, in no total")
    biogenic: TotalReply = Field(description="carbon dioxide of biomass, in no total")
    imported_kwh: float | None
    covered_kwh: float
    coverage: float | None
    uncertainty: float | None = Field(description="relative half-width at 95 % of the assessed lines")
    uncertainty_grade: Grade | None
    assessed_share: float = Field(description="share of the total whose uncertainty is known")
    outside: Sequence[str] = Field(description="sources that are not in the boundary and in no total")
    lines: Sequence[ComputedLine]


class PublishedReply(BaseModel):
    """What was published, with the whole of its figures."""

    publication: PublicationReply
    result: ResultReply
    digest: str = Field(description="SHA-256 of the stored statement")


def add_inventory_routes(router: APIRouter, inventories: Inventories) -> None:
    """Add the routes of certificates and published inventories."""

    @router.post(
        "/inventories/certificates", tags=["inventories"], summary="Register a green certificate", status_code=201
    )
    async def register(body: CertificateBody, who: Writer) -> CertificateBody:
        await inventories.enter_certificate(
            Certificate(**body.model_dump(exclude={"revision"})), revision=body.revision, by=who.subject
        )
        return body

    @router.post(
        "/inventories/{inventory_id}/preview", tags=["inventories"], summary="Compute an inventory and keep nothing"
    )
    async def preview(body: InventoryBody, who: Reader, inventory_id: InventoryId) -> ResultReply:
        inputs = body.inputs(await inventories.certificates(body.certificates), by=who.subject)
        return _result(await inventories.preview(inventory_id, inputs))

    @router.post(
        "/inventories/{inventory_id}/versions",
        tags=["inventories"],
        summary="Publish an inventory as its next version; it never changes again",
        status_code=201,
    )
    async def publish(body: InventoryBody, who: Writer, inventory_id: InventoryId) -> PublishedReply:
        inputs = body.inputs(await inventories.certificates(body.certificates), by=who.subject)
        found = await inventories.publish(inventory_id, body.name, inputs, by=who.subject)
        return PublishedReply(
            publication=_publication(found.publication), result=_result(found.result), digest=found.digest
        )

    @router.get(
        "/inventories/{inventory_id}/versions/{version}", tags=["inventories"], summary="A published version, as frozen"
    )
    async def published(_: Reader, inventory_id: InventoryId, version: Version) -> PublicationReply:
        return _publication(await inventories.published(inventory_id, version))

    @router.get(
        "/inventories/{inventory_id}/versions/{version}/restatement",
        tags=["inventories"],
        summary="What a published version would say today",
    )
    async def restatement(
        _: Reader,
        inventory_id: InventoryId,
        version: Version,
        meters: Annotated[bool, Query(description="ask the meters again, so that late data count")] = True,
    ) -> RestatementReply:
        return _restatement(await inventories.restate(inventory_id, version, meters=meters))


def _result(one: Result) -> ResultReply:
    return ResultReply(
        location=_total(one.location),
        market=_total(one.market),
        by_scope={name: _total(value) for name, value in one.by_scope.items()},
        by_iso_category={name: _total(value) for name, value in one.by_iso_category.items()},
        by_gb_group={name: _total(value) for name, value in one.by_gb_group.items()},
        by_gas=one.by_gas,
        memo_montreal=_total(one.memo_montreal),
        biogenic=_total(one.biogenic),
        imported_kwh=one.imported_kwh,
        covered_kwh=one.covered_kwh,
        coverage=one.coverage,
        uncertainty=one.sureness.relative,
        uncertainty_grade=one.sureness.grade,
        assessed_share=one.sureness.covered_share,
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
                location=_figure(line.location.figure),
                market=_figure(line.market.figure),
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


def _figure(one: Figure) -> FigureReply:
    return FigureReply(
        value=one.value,
        unit=one.unit,
        formula=one.formula,
        source=one.source,
        inputs=[
            InputReply(name=each.name, value=each.value, unit=each.unit, origin=each.origin) for each in one.inputs
        ],
        marks=sorted(one.marks),
    )


def _publication(one: Publication) -> PublicationReply:
    return PublicationReply(
        inventory_id=one.inventory_id,
        version=one.version,
        published_at=one.published_at,
        published_by=one.published_by,
        known_on=one.known_on,
        location=_total(one.location),
        market=_total(one.market),
        lines=[
            LineReply(
                line_id=line.line_id,
                location_kg_co2e=line.location_kg_co2e,
                market_kg_co2e=line.market_kg_co2e,
            )
            for line in one.lines
        ],
        factors=[
            UsedFactor(
                factor_id=row.factor_id,
                revision=row.revision,
                value=float(row.value),
                unit=row.unit,
                data_year=row.data_year,
                known_from=row.known_from,
                confidence=row.confidence,
                source=row.source,
            )
            for row in one.used
        ],
        used_digest=one.used_digest,
        table_digest=one.table_digest,
        software=one.software,
    )


def _restatement(one: Restatement) -> RestatementReply:
    return RestatementReply(
        frozen=_publication(one.publication),
        known_on=one.known_on,
        location=_total(one.result.location),
        market=_total(one.result.market),
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


def _total(one: Total) -> TotalReply:
    return TotalReply(kg_co2e=one.kg_co2e, lines=one.lines, unknown=one.unknown, incomplete=one.incomplete)
