"""HTTP of products and their carbon footprints (产品碳足迹): kept by version, computed with a trace of every flow."""

from datetime import date
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import Field

from libs.common.contracts.base import CalendarDate, Flag, Fraction, Number
from libs.common.errors import NotFound
from libs.common.tokens import Principal
from libs.common.web import Cursor, Limit, Page, read_key_cursor
from services.carbon.api.access import Body, VersionView, View, require_sites, sees_all, visible_page
from services.carbon.api.common import Reader, Text, Writer
from services.carbon.api.projectbody import Key
from services.carbon.api.projects import sites_of
from services.carbon.domain.footprint import (
    AMOUNT_MAX,
    SCRAP_MAX,
    Account,
    AllocationBy,
    Boundary,
    CutOffBy,
    FlowEmission,
    Stage,
)
from services.carbon.loads import LoadDirectory
from services.carbon.store.products import ProductRow
from services.carbon.usecases.footprints import Footprints, KnownFootprint

Amount = Annotated[Number, Field(ge=0, le=AMOUNT_MAX)]
Score = Annotated[int, Field(strict=True, ge=1, le=5)]
Year = Annotated[int, Field(strict=True, ge=1990, le=2100)]
Series = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Province = Annotated[str, Field(pattern=r"^[1-8][0-9]$")]
Unit = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9@._*-]{0,31}$")]
ProductId = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
Version = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]


class DataQualityBody(Body):
    """How well a flow's data fit, each from 1 (best) to 5."""

    technology: Score
    time: Score
    geography: Score
    completeness: Score
    reliability: Score


class FlowBody(Body):
    """What goes into one functional unit, or out of it."""

    flow_id: Key
    stage: Stage
    name: Text
    amount: Amount
    """Net, per functional unit: what gets into the product. [unit]"""
    unit: Unit
    """One that converts to that of the factor: kg, t, kWh, GJ, t*km …"""
    series: Series
    """Of the factor, as the library names it: CFP-ELEC-CN. Its value is chosen by place, year and day."""
    electricity: Flag = False
    """Electricity takes life-cycle factors (CFP-…) only."""
    scrap_rate: Annotated[Number, Field(ge=0, le=SCRAP_MAX)] = 0.0
    """Of the input, what does not get into the product: input = net / (1 - scrap rate). [1]"""
    allocation: Key | None = None
    """Id of the allocation of the process that it belongs to; absent: all of it is this product's."""
    account: Account = Account.FOOTPRINT
    """Everything but footprint stands beside it."""
    province: Province | None = None
    """First two digits of the region code; absent: the factor of the country."""
    year: Year | None = None
    """Of the factor; absent: the product's."""
    supplier: Text | None = None
    primary: Flag
    """Measured at the process itself."""
    quality: DataQualityBody
    source: Text


class AllocationBody(Body):
    """How a process that makes several products is divided among them."""

    allocation_id: Key
    by: AllocationBy
    reason: Text
    """Why the process has no meter of its own, and nothing better is divided by."""
    shares: dict[Key, Fraction] = Field(min_length=1, max_length=50)
    """By product; they sum to 1, and this product is one of them."""


class CutOffBody(Body):
    """A flow that is left out: less than 1 %, and all of them less than 5 %."""

    name: Text
    stage: Stage
    by: CutOffBy
    amount: Amount
    """Mass of the input [kg], or expected emission [kgCO2e], per functional unit."""
    reason: Text


class ProductBody(Body):
    """A product with everything that its footprint is computed from."""

    product_id: Key
    name: Text
    name_zh: Text
    nodes: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(min_length=1, max_length=50)
    """Sites or circuits where it is made."""
    functional_unit: Text
    """What the footprint is of: 1 m2 of board, 20 mm."""
    boundary: Boundary
    year: Year
    """Civil year that the data are of."""
    flows: list[FlowBody] = Field(min_length=1, max_length=500)
    allocations: list[AllocationBody] = Field(default=[], max_length=50)
    cut_offs: list[CutOffBody] = Field(default=[], max_length=200)

    def document(self) -> dict[str, Any]:
        """Return what is stored."""
        return self.model_dump(mode="json", exclude_none=True)


class ReplaceProductBody(Body):
    """Another version of a product."""

    version: Version
    """The version that was read; refused if it is not the latest any more."""
    reason: Text
    product: ProductBody


class ProductView(VersionView):
    """A version of a product."""

    product_id: str
    reason: str
    product: ProductBody = Field(validation_alias="document")


class FlowView(View):
    """What a flow emits per functional unit."""

    flow_id: str
    stage: Stage
    name: str
    account: Account
    net: float
    """In the factor's unit."""
    input: float
    """With what is wasted: net over (1 - scrap rate)."""
    unit: str
    share: float
    """What of it is this product's. [1]"""
    factor_id: str | None
    factor_revision: int | None
    factor_value: float | None
    factor_unit: str | None
    factor_source: str | None
    emission_kg_co2e: float | None
    """Null where no factor applies. [kgCO2e]"""
    primary: bool
    quality: float
    """Mean of its five marks; 1 is the best."""


class StageTotalView(View):
    """What a stage adds to the footprint."""

    stage: Stage
    flows: int
    emission_kg_co2e: float | None


class AccountView(View):
    """What stands beside the footprint, and not in it."""

    account: Account
    emission_kg_co2e: float | None
    """Null where nothing is entered or a part is unknown; an uptake is told as a positive amount. [kgCO2e]"""


class CutOffView(View):
    """What is left out, with its share."""

    name: str
    stage: Stage
    by: CutOffBy
    amount: float
    of: float | None
    """All inputs with a mass [kg], or the footprint [kgCO2e], each with what is left out."""
    share: float | None
    reason: str


class FootprintView(View):
    """What one functional unit of a product emits."""

    product_id: str
    version: int
    known_on: date
    """The day as of which the factors are."""
    functional_unit: str
    boundary: Boundary
    year: int
    footprint_kg_co2e: float | None
    """Per functional unit; unknown as soon as a flow is; offsets are in no part of it. [kgCO2e]"""
    at_least_kg_co2e: float | None
    """What is known of it."""
    stages: list[StageTotalView]
    beside: list[AccountView]
    flows: list[FlowView]
    cut_offs: list[CutOffView]
    cut_off_share: float
    """Sum of the shares that are known. [1]"""
    primary_share: float | None
    """Of the footprint, what rests on primary data. [1]"""
    quality: float | None
    """Mean data quality, weighed by emission; 1 is the best, 5 the worst."""
    marks: list[str]


def build_footprint_router(footprints: Footprints, *, loads: LoadDirectory) -> APIRouter:
    """Return the routes of products and their footprints."""
    router = APIRouter(prefix="/api/v1/emissions/products", tags=["emissions"])

    async def visible(who: Principal, product_id: str, version: int | None = None) -> ProductRow:
        row = await footprints.get(product_id, version)
        require_sites(who, sites_of(loads, row.document["nodes"]), loads)
        return row

    def seen(who: Principal, row: ProductRow) -> bool:
        return sees_all(who, sites_of(loads, row.document["nodes"]), loads)

    @router.get("", summary="Products")
    async def list_products(who: Reader, limit: Limit = 100, cursor: Cursor = None) -> Page[ProductView]:
        found = await footprints.listed(after=read_key_cursor(cursor) or "", limit=limit)
        return visible_page(
            found, limit=limit, seen=lambda row: seen(who, row), key=lambda row: row.product_id, view=ProductView
        )

    @router.post("", status_code=201, summary="Create a product with the flows of its life")
    async def create_product(who: Writer, body: ProductBody) -> ProductView:
        _require_nodes(loads, who, body)
        return ProductView.model_validate(await footprints.create(body.document(), who))

    @router.get("/{product_id}", summary="A product as it is")
    async def read_product(who: Reader, product_id: ProductId) -> ProductView:
        return ProductView.model_validate(await visible(who, product_id))

    @router.get("/{product_id}/history", summary="Every version of a product")
    async def read_product_history(who: Reader, product_id: ProductId) -> list[ProductView]:
        await visible(who, product_id)
        found = await footprints.history(product_id)
        return [ProductView.model_validate(one) for one in found if seen(who, one)]

    @router.put("/{product_id}", summary="Store another version of a product")
    async def replace_product(who: Writer, product_id: ProductId, body: ReplaceProductBody) -> ProductView:
        await visible(who, product_id)
        _require_nodes(loads, who, body.product)
        document = body.product.document()
        found = await footprints.replace(product_id, document, version=body.version, reason=body.reason, who=who)
        return ProductView.model_validate(found)

    @router.get("/{product_id}/footprint", summary="What one functional unit of a product emits, flow by flow")
    async def read_footprint(
        who: Reader,
        product_id: ProductId,
        version: Annotated[int | None, Query(ge=1, le=1_000_000, description="absent: the latest")] = None,
        known_on: Annotated[
            CalendarDate | None, Query(description="factors as known on this day; absent: that of the version itself")
        ] = None,
    ) -> FootprintView:
        return _footprint(await footprints.footprint(await visible(who, product_id, version), known_on))

    return router


def _require_nodes(loads: LoadDirectory, who: Principal, body: ProductBody) -> None:
    """Check that every node of a product is known and the caller's to change.

    Raises:
        NotFound: One is not known.
        Forbidden: One is not the caller's.
    """
    sites = sites_of(loads, body.nodes)
    for node, site in zip(body.nodes, sites, strict=True):
        if site is None:
            raise NotFound(f"there is no site or circuit {node}", message_zh=f"没有局站或回路 {node}")
    require_sites(who, sites, loads)


def _footprint(known: KnownFootprint) -> FootprintView:
    found, product = known.footprint, known.footprint.product
    return FootprintView(
        product_id=product.product_id,
        version=known.row.version,
        known_on=known.known_on,
        functional_unit=product.functional_unit,
        boundary=product.boundary,
        year=product.year,
        footprint_kg_co2e=found.total,
        at_least_kg_co2e=found.at_least,
        stages=[
            StageTotalView(stage=stage, flows=len(found.inside(stage)), emission_kg_co2e=found.stage_total(stage))
            for stage in product.boundary.stages
        ],
        beside=[
            AccountView(account=account, emission_kg_co2e=found.of_account(account))
            for account in Account
            if account is not Account.FOOTPRINT
        ],
        flows=[_flow(one) for one in found.flows],
        cut_offs=[
            CutOffView(
                name=one.cut_off.name,
                stage=one.cut_off.stage,
                by=one.cut_off.by,
                amount=one.cut_off.amount,
                of=one.of,
                share=one.share,
                reason=one.cut_off.reason,
            )
            for one in found.left_out
        ],
        cut_off_share=found.cut_off_share,
        primary_share=found.primary_share,
        quality=found.quality,
        marks=found.marks,
    )


def _flow(one: FlowEmission) -> FlowView:
    factor = one.factor
    return FlowView(
        flow_id=one.flow.flow_id,
        stage=one.flow.stage,
        name=one.flow.name,
        account=one.flow.account,
        net=one.net,
        input=one.input,
        unit=one.unit,
        share=one.share,
        factor_id=None if factor is None else factor.factor_id,
        factor_revision=None if factor is None else factor.revision,
        factor_value=None if factor is None else float(factor.value),
        factor_unit=None if factor is None else factor.unit,
        factor_source=None if factor is None else factor.source,
        emission_kg_co2e=one.emission,
        primary=one.flow.primary,
        quality=one.flow.quality.mean,
    )
