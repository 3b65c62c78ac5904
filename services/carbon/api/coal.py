"""HTTP of standard coal: the coefficients of GB/T 2589, and the comprehensive consumption of what somebody lists."""

from collections.abc import Sequence
from typing import Annotated, Self

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator

from libs.common.contracts.base import Flag
from libs.common.errors import WrongValue
from services.carbon.api.common import Reader
from services.carbon.api.figures import FigureReply, figure_reply
from services.carbon.domain.coal import EDITION, Basis, CoalCoefficient, CoalTable, EnergyUse, StockBalance
from services.carbon.domain.inventory.publication import FrozenFigure

USES_MAX = 10_000

Name = Annotated[str, Field(min_length=1, max_length=64)]
Amount = Annotated[float, Field(strict=True, ge=0, le=1e15, allow_inf_nan=False)]


class CoefficientReply(BaseModel):
    """How much standard coal a unit of an energy carrier is."""

    coeff_id: str
    name_en: str
    name_zh: str
    kind: str
    unit: str
    kgce_per_unit: float | None = Field(description="null for one that has to be given for each year")
    basis: Basis
    source: str
    edition: int
    confidence: str
    trusted: bool = Field(description="whether it is used without a person's decision")
    note: str


class StockBody(BaseModel):
    """Stock of an energy carrier, in its unit."""

    model_config = ConfigDict(extra="forbid")

    opening: Amount
    purchased: Amount
    closing: Amount
    transferred_out: Amount = 0.0


class UseBody(BaseModel):
    """An amount of an energy carrier that was consumed, or sent out of the boundary."""

    model_config = ConfigDict(extra="forbid")

    coeff_id: Name
    amount: Amount | None = Field(
        None, description="null where it is unknown, which is not zero, or where stock is given"
    )
    stock: StockBody | None = Field(None, description="in place of the amount: opening + purchased - closing - out")
    unit: Name
    origin: Annotated[str, Field(min_length=1, max_length=500)]
    exported: Flag = False
    made_inside: Flag = Field(False, description="made inside from energy that is listed itself: counted at its input")
    renewable_on_site: Flag = False
    ncv_kj: Amount | None = Field(None, description="measured heat value, kJ per unit; natural gas needs it")

    @model_validator(mode="after")
    def _one_amount(self) -> Self:
        if self.amount is not None and self.stock is not None:
            raise WrongValue("either amount or stock", "amount 与 stock 只能填写其一")
        return self

    def use(self) -> EnergyUse:
        """Return it in the domain's words."""
        fields = self.model_dump(exclude={"stock"})
        if self.stock is not None:
            fields["amount"] = StockBalance(**self.stock.model_dump()).consumed
        return EnergyUse(**fields)


class CoalBody(BaseModel):
    """What a comprehensive consumption is computed from."""

    model_config = ConfigDict(extra="forbid")

    uses: Annotated[Sequence[UseBody], Field(min_length=1, max_length=USES_MAX)]
    basis: Basis = Basis.EQUIVALENT
    edition: int = Field(EDITION, strict=True, ge=1980, le=2100)
    working_media: Flag = Field(False, description="whether the boundary includes water, compressed air, nitrogen")
    include_on_site_renewables: Flag = False
    equal_value_kgce_per_kwh: Annotated[float | None, Field(strict=True, gt=0, le=10, allow_inf_nan=False)] = Field(
        None, description="published coal rate of thermal power of the year, for the basis equal-value"
    )
    enabled: Annotated[Sequence[Name], Field(max_length=1000)] = ()


class CoalReply(BaseModel):
    """Comprehensive energy consumption on one basis; totals of different bases are never added."""

    basis: Basis
    total: FigureReply
    lines: Sequence[FigureReply]
    on_site_renewables: FigureReply


def add_coal_routes(router: APIRouter, coefficients: Sequence[CoalCoefficient]) -> None:
    """Add the routes of standard coal."""

    @router.get("/energy/standard-coal", tags=["energy"], summary="Coefficients of standard coal (GB/T 2589)")
    async def listed(
        _: Reader, edition: Annotated[int, Query(ge=1980, le=2100)] = EDITION
    ) -> Sequence[CoefficientReply]:
        return [
            CoefficientReply(
                coeff_id=one.coeff_id,
                name_en=one.name_en,
                name_zh=one.name_zh,
                kind=one.kind,
                unit=one.unit,
                kgce_per_unit=None if one.kgce_per_unit is None else float(one.kgce_per_unit),
                basis=one.basis,
                source=one.source,
                edition=one.edition,
                confidence=one.confidence,
                trusted=one.trusted,
                note=one.note,
            )
            for one in coefficients
            if one.edition == edition
        ]

    @router.post("/energy/standard-coal", tags=["energy"], summary="Comprehensive energy consumption (GB/T 2589)")
    async def total(_: Reader, body: CoalBody) -> CoalReply:
        table = CoalTable(
            coefficients,
            edition=body.edition,
            enabled=frozenset(body.enabled),
            equal_value_kgce_per_kwh=body.equal_value_kgce_per_kwh,
        )
        found = table.total(
            [one.use() for one in body.uses],
            basis=body.basis,
            working_media=body.working_media,
            include_on_site_renewables=body.include_on_site_renewables,
        )
        return CoalReply(
            basis=found.basis,
            total=figure_reply(FrozenFigure.of(found.total)),
            lines=[figure_reply(FrozenFigure.of(line)) for line in found.lines],
            on_site_renewables=figure_reply(FrozenFigure.of(found.on_site_renewables)),
        )
