"""HTTP of the factor library: what is known on a day, every revision of a row, and own factors."""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from libs.common.contracts.base import Flag
from services.carbon.api.common import Reader, WholeWriter
from services.carbon.api.figures import KnownOn
from services.carbon.domain.factors import EmissionFactor, Family
from services.carbon.usecases.inventories import Inventories

FactorId = Annotated[str, Path(max_length=64)]
Text = Annotated[str, Field(min_length=1, max_length=500)]
Name = Annotated[str, Field(min_length=1, max_length=64)]


class FactorReply(BaseModel):
    """One revision of one row of the factor library."""

    factor_id: str
    revision: int
    series: str = Field(description="what it is a value of; rows of one series differ by place and year only")
    family: Family = Field(description="families are never mixed: an average is no margin and no footprint")
    category: str
    region: str
    data_year: int = Field(description="the year that the factor describes")
    value: float
    unit: str
    gas: str
    source: str
    source_year: int | None
    known_from: date = Field(description="the civil day from which it counts as known")
    confidence: str
    trusted: bool = Field(description="whether it is used without a person's decision")
    withdrawn: bool
    evidence: str | None
    supplier: str | None
    entered_by: str | None
    name_en: str
    name_zh: str


class FactorBody(BaseModel):
    """An own factor, or the next revision of one."""

    model_config = ConfigDict(extra="forbid")

    factor_id: Name
    revision: int = Field(1, strict=True, ge=1, le=10_000)
    series: Name = Field(description="for example grid-average, grid-supplier, FUEL-DIESEL-DENSITY")
    family: Family
    category: Name
    region: Annotated[str, Field(pattern=r"^(CN|CN-[0-9]{2}|CN-[A-Z][a-z]+|GLOBAL)$")]
    data_year: int = Field(strict=True, ge=1990, le=2100)
    value: Decimal = Field(ge=0, max_digits=20, decimal_places=10)
    unit: Name
    gas: Name
    source: Text
    source_year: int | None = Field(None, strict=True, ge=1990, le=2100)
    confidence: Name = Field(description="verified-… is used by itself; anything from memory has to be enabled")
    name_en: Text
    name_zh: Text
    withdrawn: Flag = Field(False, description="takes the row back from today on")
    evidence: Text | None = Field(None, description="the document that stands behind it; needed but for a withdrawal")
    supplier: Name | None = None


def add_factor_routes(router: APIRouter, inventories: Inventories) -> None:
    """Add the routes of the factor library."""

    @router.get("/factors", tags=["factors"], summary="The factor library as known on a day, by default today")
    async def factors(
        _: Reader,
        region: Annotated[str | None, Query(max_length=20)] = None,
        series: Annotated[str | None, Query(max_length=64)] = None,
        known_on: KnownOn = None,
    ) -> Sequence[FactorReply]:
        library = await inventories.library()
        return [
            FactorReply(**factor_fields(row))
            for row in library.known_on(known_on or inventories.today())
            if region in (None, row.region) and series in (None, row.series)
        ]

    @router.get("/factors/{factor_id}", tags=["factors"], summary="All revisions of a factor, oldest first")
    async def revisions(_: Reader, factor_id: FactorId) -> Sequence[FactorReply]:
        return [FactorReply(**factor_fields(row)) for row in await inventories.revisions(factor_id)]

    @router.post("/factors", tags=["factors"], summary="Add an own factor or a revision of one", status_code=201)
    async def enter(body: FactorBody, who: WholeWriter) -> FactorReply:
        # The day from which it is known is that of its entry; the use case sets it.
        row = EmissionFactor(**body.model_dump(), known_from=inventories.today())
        return FactorReply(**factor_fields(await inventories.enter_factor(row, who=who)))


def factor_fields(factor: EmissionFactor) -> dict[str, Any]:
    """Return what a reply says of a factor."""
    return {
        "factor_id": factor.factor_id,
        "revision": factor.revision,
        "series": factor.series,
        "family": factor.family,
        "category": factor.category,
        "region": factor.region,
        "data_year": factor.data_year,
        "value": float(factor.value),
        "unit": factor.unit,
        "gas": factor.gas,
        "source": factor.source,
        "source_year": factor.source_year,
        "known_from": factor.known_from,
        "confidence": factor.confidence,
        "trusted": factor.trusted,
        "withdrawn": factor.withdrawn,
        "evidence": factor.evidence,
        "supplier": factor.supplier,
        "entered_by": factor.entered_by,
        "name_en": factor.name_en,
        "name_zh": factor.name_zh,
    }
