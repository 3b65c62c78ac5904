"""Sources of an inventory: one activity of one node over a span, as a meter, a bill or a record tells it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from services.carbon.domain.emissions.certificates import Certificate
from services.carbon.domain.emissions.electricity import Netting
from services.carbon.domain.emissions.knowledge import GwpSet
from services.carbon.domain.emissions.refrigerants import Loss, MassBalance, TopUp
from services.carbon.domain.factors import Place
from services.carbon.domain.inventory.boundary import Boundary, Span


@dataclass(frozen=True, slots=True, kw_only=True)
class ElectricityUse:
    """Purchased electricity; None is unknown."""

    imported_kwh: float | None
    exported_kwh: float | None = 0.0
    own_pv_kwh: float | None = 0.0
    own_pv_certificates_sold: bool = False
    supplier: str | None = None
    """Whose factor counts in the market-based method for what no certificate covers, if it has evidence."""
    kind: Literal["electricity"] = "electricity"

    def times(self, share: float) -> "ElectricityUse":
        """Return a share of it."""
        return replace(
            self,
            imported_kwh=_times(self.imported_kwh, share),
            exported_kwh=_times(self.exported_kwh, share),
            own_pv_kwh=_times(self.own_pv_kwh, share),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FuelUse:
    """A fuel that was burnt; see ``emissions.fuels.burn``."""

    fuel: str
    amount: float | None
    unit: str
    density_kg_per_l: float | None = None
    ncv: float | None = None
    biogenic_share: float = 0.0
    kind: Literal["fuel"] = "fuel"

    def times(self, share: float) -> "FuelUse":
        """Return a share of it."""
        return replace(self, amount=_times(self.amount, share))


@dataclass(frozen=True, slots=True, kw_only=True)
class GasLoss:
    """A gas that escaped; see ``emissions.refrigerants.escaped``."""

    gas: str
    loss: Loss
    kind: Literal["gas_loss"] = "gas_loss"

    def times(self, share: float) -> "GasLoss":
        """Return a share of it."""
        loss = self.loss
        if isinstance(loss, MassBalance):
            return replace(
                self,
                loss=MassBalance(
                    opening_stock=loss.opening_stock * share,
                    purchased=loss.purchased * share,
                    sold_or_returned=loss.sold_or_returned * share,
                    closing_stock=loss.closing_stock * share,
                    increase_of_charge=loss.increase_of_charge * share,
                ),
            )
        if isinstance(loss, TopUp):
            return replace(self, loss=TopUp(added=loss.added * share, not_recovered=loss.not_recovered * share))
        return replace(self, loss=replace(loss, charge_kg=loss.charge_kg * share))


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatUse:
    """Purchased heat or steam, as energy; see ``emissions.heat``."""

    amount: float | None
    unit: str
    supplier: str | None = None
    kind: Literal["heat"] = "heat"

    def times(self, share: float) -> "HeatUse":
        """Return a share of it."""
        return replace(self, amount=_times(self.amount, share))


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdUse:
    """Purchased cold whose supplier states no factor; see ``emissions.heat``."""

    cold_kwh: float | None
    cop: float
    kind: Literal["cold"] = "cold"

    def times(self, share: float) -> "ColdUse":
        """Return a share of it."""
        return replace(self, cold_kwh=_times(self.cold_kwh, share))


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitUse:
    """Anything with a factor per unit; see ``emissions.activity``."""

    series: str
    amount: float | None
    unit: str
    supplier: str | None = None
    kind: Literal["unit"] = "unit"

    def times(self, share: float) -> "UnitUse":
        """Return a share of it."""
        return replace(self, amount=_times(self.amount, share))


Activity = ElectricityUse | FuelUse | GasLoss | HeatUse | ColdUse | UnitUse


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One activity of one node over a span within one civil year."""

    line_id: str
    """Unique in the inventory."""
    node: str
    place: Place
    category: str
    """Code of ``categories``."""
    span: Span
    activity: Activity
    origin: str
    """Meter, bill, fuel card, service record."""
    completeness: float | None = None
    """Measured intervals over expected ones, where intervals stand behind it. [1]"""
    estimated_share: float = 0.0
    """Of the amount. [1]"""
    activity_uncertainty: float | None = None
    """Relative half-width at 95 %. [1]"""
    factor_uncertainty: float | None = None
    """Relative half-width at 95 %. [1]"""


@dataclass(frozen=True, slots=True)
class Enabled:
    """A row of doubted confidence that a person allowed for this inventory."""

    factor_id: str
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Everything an inventory is computed from but the factors, so that it can be computed again with others."""

    boundary: Boundary
    sources: Sequence[Source]
    certificates: Sequence[Certificate] = ()
    """In the order in which they shall be used up."""
    netting: Netting = Netting.NONE
    include_montreal_gases: bool = False
    gwp_set: GwpSet = GwpSet.AR6
    enabled: Sequence[Enabled] = ()


def _times(amount: float | None, share: float) -> float | None:
    return None if amount is None else amount * share
