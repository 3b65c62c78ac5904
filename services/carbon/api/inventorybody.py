"""What is asked of an inventory over HTTP: boundary, sources, certificates by number, and what a person decided."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from libs.common.contracts.base import Flag, UtcTime
from services.carbon.domain.emissions.certificates import Certificate
from services.carbon.domain.emissions.electricity import Netting
from services.carbon.domain.emissions.knowledge import GwpSet
from services.carbon.domain.emissions.refrigerants import LeakRate, Loss, MassBalance, TopUp
from services.carbon.domain.factors import Place
from services.carbon.domain.inventory.boundary import Approach, Boundary, Exclusion, Part, Span
from services.carbon.domain.inventory.sources import (
    Activity,
    ColdUse,
    ElectricityUse,
    Enabled,
    FuelUse,
    GasLoss,
    HeatUse,
    HotWaterUse,
    Inputs,
    MeteredUse,
    Source,
    SteamUse,
    UnitUse,
)

PARTS_MAX = 20_000
"""As many sites as an operator of a province has, and some."""
SOURCES_MAX = 100_000
METERED_MAX = 1_000
AVOIDED_MAX = 10_000
CERTIFICATES_MAX = 100_000

Name = Annotated[str, Field(min_length=1, max_length=64)]
Text = Annotated[str, Field(min_length=1, max_length=500)]
Amount = Annotated[float, Field(strict=True, ge=0, le=1e15, allow_inf_nan=False)]
Known = Annotated[Amount | None, Field(description="null where it is unknown, which is not zero")]
Share = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]


class Body(BaseModel):
    """A part of a request: a misspelt field is refused."""

    model_config = ConfigDict(extra="forbid")


class ElectricityBody(Body):
    """Purchased electricity. [kWh]"""

    kind: Literal["electricity"]
    imported_kwh: Known
    exported_kwh: Known = 0.0
    own_pv_kwh: Known = 0.0
    own_pv_certificates_sold: Flag = False
    supplier: Name | None = None

    def activity(self) -> Activity:
        """Return it in the domain's words."""
        return ElectricityUse(**self.model_dump(exclude={"kind"}))


class FuelBody(Body):
    """A fuel that was burnt."""

    kind: Literal["fuel"]
    fuel: Annotated[str, Field(pattern=r"^[A-Z0-9-]{1,30}$", description="DIESEL, PETROL, NATGAS, LPG …")]
    amount: Known
    unit: Name = Field(description="kg, t, L, Nm3 (0 °C), m3@20C, 1e4Nm3 or GJ")
    density_kg_per_l: Amount | None = Field(None, description="from the delivery ticket [kg/L]")
    ncv: Amount | None = Field(None, description="measured, GJ/t or GJ/1e4Nm3")
    biogenic_share: Share = 0.0

    def activity(self) -> Activity:
        """Return it in the domain's words."""
        return FuelUse(**self.model_dump(exclude={"kind"}))


class BalanceBody(Body):
    """Stock and charge of a gas. [kg]"""

    method: Literal["mass_balance"]
    opening_stock: Amount
    purchased: Amount
    sold_or_returned: Amount
    closing_stock: Amount
    increase_of_charge: Annotated[float, Field(strict=True, ge=-1e15, le=1e15, allow_inf_nan=False)] = 0.0

    def loss(self) -> Loss:
        """Return it in the domain's words."""
        return MassBalance(**self.model_dump(exclude={"method"}))


class TopUpBody(Body):
    """What servicing added and disposal did not recover. [kg]"""

    method: Literal["top_up"]
    added: Amount
    not_recovered: Amount = 0.0

    def loss(self) -> Loss:
        """Return it in the domain's words."""
        return TopUp(**self.model_dump(exclude={"method"}))


class LeakRateBody(Body):
    """Charge times an annual rate: an estimate."""

    method: Literal["leak_rate"]
    charge_kg: Amount
    rate_per_year: Share
    years: Annotated[float, Field(strict=True, ge=0, le=100, allow_inf_nan=False)]

    def loss(self) -> Loss:
        """Return it in the domain's words."""
        return LeakRate(**self.model_dump(exclude={"method"}))


class GasBody(Body):
    """A gas that escaped."""

    kind: Literal["gas_loss"]
    gas: Annotated[str, Field(pattern=r"^[A-Z0-9-]{1,30}$", description="R32, R410A, SF6, R227EA …")]
    loss: Annotated[BalanceBody | TopUpBody | LeakRateBody, Field(discriminator="method")]

    def activity(self) -> Activity:
        """Return it in the domain's words."""
        return GasLoss(gas=self.gas, loss=self.loss.loss())


class HeatBody(Body):
    """Purchased heat, as energy."""

    kind: Literal["heat"]
    amount: Known
    unit: Name
    supplier: Name | None = None

    def activity(self) -> Activity:
        """Return it in the domain's words."""
        return HeatUse(**self.model_dump(exclude={"kind"}))


class SteamBody(Body):
    """Purchased steam, as mass."""

    kind: Literal["steam"]
    mass_t: Known
    enthalpy_kj_per_kg: Annotated[float, Field(strict=True, gt=0, le=5000, allow_inf_nan=False)]
    supplier: Name | None = None

    def activity(self) -> Activity:
        """Return it in the domain's words."""
        return SteamUse(**self.model_dump(exclude={"kind"}))


class HotWaterBody(Body):
    """Purchased hot water, as mass."""

    kind: Literal["hot_water"]
    mass_t: Known
    temperature_c: Annotated[float, Field(strict=True, ge=20, le=200, allow_inf_nan=False)]
    supplier: Name | None = None

    def activity(self) -> Activity:
        """Return it in the domain's words."""
        return HotWaterUse(**self.model_dump(exclude={"kind"}))


class ColdBody(Body):
    """Purchased cold whose supplier states no factor."""

    kind: Literal["cold"]
    cold_kwh: Known
    cop: Annotated[float, Field(strict=True, gt=0, le=100, allow_inf_nan=False)]

    def activity(self) -> Activity:
        """Return it in the domain's words."""
        return ColdUse(**self.model_dump(exclude={"kind"}))


class UnitBody(Body):
    """Anything with a factor per unit."""

    kind: Literal["unit"]
    series: Name = Field(description="of the factor, for example WATER-SOURCE-003")
    amount: Known
    unit: Name
    supplier: Name | None = None

    def activity(self) -> Activity:
        """Return it in the domain's words."""
        return UnitUse(**self.model_dump(exclude={"kind"}))


class SourceBody(Body):
    """One activity of one node within one civil year."""

    line_id: Annotated[str, Field(pattern=r"^[^/\x00]{1,64}$")]
    node: Name
    region_code: Annotated[str | None, Field(pattern=r"^[0-9]{2,6}$", description="GB/T 2260")] = None
    category: Name
    start: UtcTime
    end: UtcTime
    activity: Annotated[
        ElectricityBody | FuelBody | GasBody | HeatBody | SteamBody | HotWaterBody | ColdBody | UnitBody,
        Field(discriminator="kind"),
    ]
    origin: Text = Field(description="meter, bill, fuel card, service record")
    completeness: Share | None = None
    estimated_share: Share = 0.0
    activity_uncertainty: Amount | None = Field(None, description="relative half-width at 95 %")
    factor_uncertainty: Amount | None = Field(None, description="relative half-width at 95 %")

    def source(self) -> Source:
        """Return it in the domain's words."""
        return Source(
            line_id=self.line_id,
            node=self.node,
            place=Place.of_code(self.region_code),
            category=self.category,
            span=Span(self.start, self.end),
            activity=self.activity.activity(),
            origin=self.origin,
            completeness=self.completeness,
            estimated_share=self.estimated_share,
            activity_uncertainty=self.activity_uncertainty,
            factor_uncertainty=self.factor_uncertainty,
        )


class MeteredBody(Body):
    """Electricity that the intervals of the boundary's meters tell."""

    line_id: Annotated[str, Field(pattern=r"^[^/\x00]{1,64}$")]
    node: Name | None = Field(None, description="a circuit, room, site, organisation or region; null is every part")
    category: Name = "electricity"
    supplier: Name | None = None
    activity_uncertainty: Amount | None = Field(None, description="relative half-width at 95 %")
    factor_uncertainty: Amount | None = Field(None, description="relative half-width at 95 %")


class PartBody(Body):
    """A node, or a share of it, for some time."""

    node: Name
    start: UtcTime
    end: UtcTime
    share: Annotated[float, Field(strict=True, gt=0, le=1, allow_inf_nan=False)] = 1.0
    share_reason: Annotated[str, Field(max_length=500)] = ""


class ExclusionBody(Body):
    """Something that belongs to the boundary and is not quantified."""

    subject: Text
    reason: Text
    significance: Share | None = None


class EnabledBody(Body):
    """A row of doubted confidence that the caller allows."""

    factor_id: Name
    reason: Text


class InventoryBody(Body):
    """Everything an inventory is computed from but the factors."""

    name: Text
    organisation: Name
    approach: Approach = Approach.OPERATIONAL_CONTROL
    parts: Annotated[Sequence[PartBody], Field(min_length=1, max_length=PARTS_MAX)]
    exclusions: Annotated[Sequence[ExclusionBody], Field(max_length=1000)] = ()
    sources: Annotated[Sequence[SourceBody], Field(max_length=SOURCES_MAX)] = ()
    metered: Annotated[
        Sequence[MeteredBody],
        Field(max_length=METERED_MAX, description="what meters are asked for; missing intervals are never zero"),
    ] = ()
    certificates: Annotated[
        Sequence[Name],
        Field(max_length=CERTIFICATES_MAX, description="numbers, in the order in which they are used up"),
    ] = ()
    netting: Netting = Netting.NONE
    include_montreal_gases: Flag = False
    gwp_set: GwpSet = GwpSet.AR6
    enabled: Annotated[Sequence[EnabledBody], Field(max_length=1000)] = ()

    def inputs(self, certificates: Sequence[Certificate], *, by: str) -> Inputs:
        """Return it in the domain's words; who enables doubted rows is who asks."""
        return Inputs(
            boundary=Boundary(
                self.organisation,
                self.approach,
                [Part(one.node, Span(one.start, one.end), one.share, one.share_reason) for one in self.parts],
                [Exclusion(one.subject, one.reason, one.significance) for one in self.exclusions],
            ),
            sources=[one.source() for one in self.sources],
            metered=[MeteredUse(**one.model_dump()) for one in self.metered],
            certificates=list(certificates),
            netting=self.netting,
            include_montreal_gases=self.include_montreal_gases,
            gwp_set=self.gwp_set,
            enabled=[Enabled(one.factor_id, by, one.reason) for one in self.enabled],
        )


class AvoidedSourceBody(Body):
    """Something that others did not emit: an amount with a factor per unit."""

    line_id: Annotated[str, Field(pattern=r"^[^/\x00]{1,64}$")]
    node: Name
    region_code: Annotated[str | None, Field(pattern=r"^[0-9]{2,6}$", description="GB/T 2260")] = None
    start: UtcTime
    end: UtcTime
    series: Name = Field(description="of the factor, for example WASTE-RECYCLE-SOURCE-003")
    amount: Known
    unit: Name
    supplier: Name | None = None
    origin: Text = Field(description="weighing slip, record, count")

    def source(self) -> Source:
        """Return it in the domain's words."""
        return Source(
            line_id=self.line_id,
            node=self.node,
            place=Place.of_code(self.region_code),
            category="other",
            span=Span(self.start, self.end),
            activity=UnitUse(series=self.series, amount=self.amount, unit=self.unit, supplier=self.supplier),
            origin=self.origin,
        )


class AvoidedBody(Body):
    """What a statement of avoided emissions is computed from."""

    name: Text
    sources: Annotated[Sequence[AvoidedSourceBody], Field(min_length=1, max_length=AVOIDED_MAX)]
