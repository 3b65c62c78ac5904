"""HTTP of the factor library."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel

from services.carbon.api.common import Reader
from services.carbon.domain.factors import EmissionFactor
from services.carbon.queries import Queries


class FactorReply(BaseModel):
    """One row of the factor library."""

    factor_id: str
    category: str
    region: str
    data_year: int
    value: float
    unit: str
    source: str
    source_year: int | None
    confidence: str
    trusted: bool
    name_en: str
    name_zh: str


def add_factor_routes(router: APIRouter, queries: Queries) -> None:
    """Add the routes of the factor library."""

    @router.get("/factors", tags=["factors"], summary="The factor library")
    async def factors(_: Reader, region: Annotated[str | None, Query(max_length=20)] = None) -> Sequence[FactorReply]:
        return [FactorReply(**factor_fields(one)) for one in queries.factors if region is None or one.region == region]


def factor_fields(factor: EmissionFactor) -> dict[str, Any]:
    """Return the fields of a factor's reply."""
    return {
        "factor_id": factor.factor_id,
        "category": factor.category,
        "region": factor.region,
        "data_year": factor.data_year,
        "value": float(factor.value),
        "unit": factor.unit,
        "source": factor.source,
        "source_year": factor.source_year,
        "confidence": factor.confidence,
        "trusted": factor.trusted,
        "name_en": factor.name_en,
        "name_zh": factor.name_zh,
    }
