"""Sources of an inventory: one activity of one node over a span, as a meter, a bill or a record tells it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from services.carbon.domain.emissions.certificates import Certificate
from services.carbon.domain.emissions.electricity import Netting
from services.carbon.domain.emissions.knowledge import GwpSet
from services.carbon.domain.emissions.refrigerants import Loss, MassBalance, TopUp
from services.carbon.domain.factors import Place
from services.carbon.domain.inventory.boundary import TOLERANCE, Boundary, CountedTwice, Span
from services.carbon.domain.inventory.categories import Scope, category
from services.carbon.domain.inventory.metered import Metered


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
    """Purchased heat, as energy; see ``emissions.heat``."""

    amount: float | None
    unit: str
    supplier: str | None = None
    kind: Literal["heat"] = "heat"

    def times(self, share: float) -> "HeatUse":
        """Return a share of it."""
        return replace(self, amount=_times(self.amount, share))


@dataclass(frozen=True, slots=True, kw_only=True)
class SteamUse:
    """Purchased steam, as mass; see ``emissions.heat``."""

    mass_t: float | None
    enthalpy_kj_per_kg: float
    """At its pressure and temperature. [kJ/kg]"""
    supplier: str | None = None
    kind: Literal["steam"] = "steam"

    def times(self, share: float) -> "SteamUse":
        """Return a share of it."""
        return replace(self, mass_t=_times(self.mass_t, share))


@dataclass(frozen=True, slots=True, kw_only=True)
class HotWaterUse:
    """Purchased hot water, as mass; see ``emissions.heat``."""

    mass_t: float | None
    temperature_c: float
    supplier: str | None = None
    kind: Literal["hot_water"] = "hot_water"

    def times(self, share: float) -> "HotWaterUse":
        """Return a share of it."""
        return replace(self, mass_t=_times(self.mass_t, share))


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


Activity = ElectricityUse | FuelUse | GasLoss | HeatUse | SteamUse | HotWaterUse | ColdUse | UnitUse


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteredUse:
    """Electricity that meters tell: asked of the intervals whenever the inventory is computed."""

    line_id: str
    """Of the lines that answer it: ``<line_id>:<node>:<number of the span>``."""
    node: str | None = None
    """A node in the boundary; None is every part of it."""
    category: str = "electricity"
    """Code of ``categories``; a tower that others run is in the value chain."""
    supplier: str | None = None
    """See ``ElectricityUse.supplier``."""
    activity_uncertainty: float | None = None
    """Relative half-width at 95 %. [1]"""
    factor_uncertainty: float | None = None
    """Relative half-width at 95 %. [1]"""


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
    within: tuple[str, ...] = ()
    """The nodes that contain the node, as the registry had it when the span began."""
    through: tuple[str, ...] | None = None
    """Nodes of the boundary's parts that count it; None is each that contains the node. The electricity of a site has
    that of its rooms in it, so a metered room is counted by the room's part and not by the site's again."""
    asked: str | None = None
    """The ``MeteredUse`` that it answers; None for what was entered."""
    metered: Metered | None = None
    """What the intervals say, for one that answers a ``MeteredUse``."""

    @property
    def counted_by(self) -> tuple[str, ...]:
        """Nodes whose parts of a boundary count it."""
        return (self.node, *self.within) if self.through is None else self.through


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
    metered: Sequence[MeteredUse] = ()
    """What meters are asked for; the answers are among ``sources``."""
    certificates: Sequence[Certificate] = ()
    """In the order in which they shall be used up."""
    netting: Netting = Netting.NONE
    include_montreal_gases: bool = False
    gwp_set: GwpSet = GwpSet.AR6
    enabled: Sequence[Enabled] = ()


def check_metered(inputs: Inputs) -> None:
    """Refuse electricity that a meter tells and another meter or a bill tells too.

    The electricity of a node has in it that of the nodes inside it, and that of a circuit what hangs beneath it, at
    other sites too. Two bills of one node are two accounts.

    Raises:
        CountedTwice: At some instant more than the whole of a node is counted.
    """
    by_node: dict[str, list[Source]] = {}
    by_circuit: dict[str, list[Source]] = {}
    for source in inputs.sources:
        bought = isinstance(source.activity, ElectricityUse) and category(source.category).scope is Scope.ENERGY
        if bought or source.metered is not None:
            by_node.setdefault(source.node, []).append(source)
        for circuit in source.metered.circuits if source.metered is not None else ():
            by_circuit.setdefault(circuit, []).append(source)
    for source in (one for some in by_node.values() for one in some):
        near = [one for node in (source.node, *source.within) for one in by_node.get(node, ())]
        rivals = {one.line_id: one for one in near if source.metered is not None or one.metered is not None}
        if source.metered is not None:
            circuits = (*source.metered.circuits, *source.metered.above)
            rivals |= {one.line_id: one for circuit in circuits for one in by_circuit.get(circuit, ())}
        _check_shares(source, [one for one in rivals.values() if one is not source], inputs.boundary)


def _check_shares(source: Source, rivals: Sequence[Source], boundary: Boundary) -> None:
    """Refuse that a source and those whose electricity has its own in it are counted more than whole."""
    if not rivals:
        return
    counted = [
        (share, span, one)
        for one in (source, *rivals)
        for share, span in boundary.share_of(one.counted_by, one.span)
    ]  # fmt: skip
    for instant in sorted({span.start for _, span, _ in counted}):
        inside = [(share, one) for share, span, one in counted if span.start <= instant < span.end]
        whole = sum(share for share, _ in inside)
        if whole > 1 + TOLERANCE and any(one is source for _, one in inside):
            names = ", ".join(dict.fromkeys(one.line_id for _, one in inside))
            raise CountedTwice(
                f"electricity of {source.node} is counted {whole:g} times from {instant.isoformat()}: {names}",
                message_zh=f"节点 {source.node} 的用电自 {instant.isoformat()} 起重复计算({whole:g} 次):{names}",
                node=source.node,
            )


def _times(amount: float | None, share: float) -> float | None:
    return None if amount is None else amount * share
