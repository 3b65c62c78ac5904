"""Refrigerants, fire-suppression gas and SF6 that escaped.

    E = loss · GWP

The loss comes from a mass balance of stock and charge, from what was topped up, or, as a fall-back of low quality, from
a leak rate. Blends are weighed by mass from their components, never by a copied number: public tables often show the
blend value of an older assessment report under the name of a newer one.

Source:
    GHG Protocol, refrigeration tool (mass balance, life-cycle stage and screening methods); IPCC AR5, AR6;
    ISO 817 (compositions).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from libs.common.errors import InvalidInput
from services.carbon.domain.emissions.knowledge import Chosen, Emission, Knowledge, product
from services.carbon.domain.emissions.units import not_negative
from services.carbon.domain.figures import Mark

BLENDS: Mapping[str, Mapping[str, float]] = {
    "R404A": {"R125": 0.44, "R143A": 0.52, "R134A": 0.04},
    "R407C": {"R32": 0.23, "R125": 0.25, "R134A": 0.52},
    "R410A": {"R32": 0.50, "R125": 0.50},
    "R507A": {"R125": 0.50, "R143A": 0.50},
}
"""Mass shares of the components of blends (ISO 817). [1]"""
MONTREAL = frozenset({"R22", "R123"})
"""Gases of the Montreal Protocol: the GHG Protocol lists them as memo items outside the totals."""
FORMULA = "E = loss * GWP"
SOURCE = "GHG Protocol, refrigeration and air-conditioning; IPCC 100-year GWP"


class ImplausibleBalance(InvalidInput):
    """More of a gas came out of a balance than went into it."""

    code = "implausible_balance"
    title_zh = "物料平衡不合理"


@dataclass(frozen=True, slots=True, kw_only=True)
class MassBalance:
    """Stock and charge of one gas over a period, all in kg."""

    opening_stock: float
    purchased: float
    sold_or_returned: float
    closing_stock: float
    increase_of_charge: float = 0.0
    """Charge of equipment added minus that of equipment taken away; may be negative."""

    estimated = False

    def loss_kg(self) -> float:
        """Return what escaped.

        Raises:
            ImplausibleBalance: It is negative.
        """
        for name in ("opening_stock", "purchased", "sold_or_returned", "closing_stock"):
            not_negative(name, getattr(self, name))
        loss = math.fsum(
            (self.opening_stock, self.purchased, -self.sold_or_returned, -self.closing_stock, -self.increase_of_charge)
        )
        if loss < -TOLERANCE * max(self.opening_stock, self.purchased, self.closing_stock):
            raise ImplausibleBalance(
                f"mass balance: expected a loss of 0 or more, found {loss:g} kg; look for a purchase or a stock "
                "that is missing",
                message_zh=f"物料平衡:损失量应不小于 0,实际为 {loss:g} kg,请检查是否漏记采购或库存",
                loss_kg=loss,
            )
        return max(loss, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopUp:
    """What servicing added, and what disposal did not recover. [kg]"""

    added: float
    not_recovered: float = 0.0

    estimated = False

    def loss_kg(self) -> float:
        """Return what escaped."""
        not_negative("added", self.added)
        not_negative("not_recovered", self.not_recovered)
        return self.added + self.not_recovered


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakRate:
    """Installed charge times an annual rate: a fall-back of low quality."""

    charge_kg: float
    rate_per_year: float
    """[1/a]"""
    years: float
    """Length of the period. [a]"""

    estimated = True

    def loss_kg(self) -> float:
        """Return what is assumed to have escaped."""
        not_negative("charge_kg", self.charge_kg)
        not_negative("years", self.years)
        if not 0 <= self.rate_per_year <= 1:
            raise InvalidInput(
                f"rate_per_year: expected 0 to 1, found {self.rate_per_year}",
                message_zh=f"年泄漏率:应在 0 到 1 之间,实际为 {self.rate_per_year}",
            )
        return self.charge_kg * self.rate_per_year * self.years


TOLERANCE = 1e-9
"""A balance below zero by less than this share of a weighing is one of zero: shares of weighings in binary. [1]"""

Loss = MassBalance | TopUp | LeakRate


def escaped(
    knowledge: Knowledge, *, gas: str, loss: Loss, origin: str, include_montreal_gases: bool = False
) -> Emission:
    """Return what an escaped gas counts.

    Args:
        knowledge: Factors as of a day, and the edition of the warming potentials.
        gas: ``R32``, ``R410A``, ``SF6``, ``R227EA``, ``R22``.
        loss: How the loss is known.
        origin: Service record, stock book.
        include_montreal_gases: Whether HCFCs are in the total; they are listed as a memo item otherwise.
    """
    lost_kg = loss.loss_kg()
    chosen = Chosen()
    chosen.given("loss", lost_kg, "kg", origin)
    more: set[Mark] = {Mark.ESTIMATE} if loss.estimated else set()
    parts: dict[str, float | None] = {}
    for component, share in BLENDS.get(gas, {gas: 1.0}).items():
        warming = chosen.take(f"GWP {component}", knowledge.warming(component))
        parts[component] = product(lost_kg, share, warming)
    known = [part for part in parts.values() if part is not None]
    total = math.fsum(known) if len(known) == len(parts) else None
    if gas in MONTREAL and not include_montreal_gases:
        outside = chosen.emission({}, 0.0, FORMULA, SOURCE, {*more, Mark.MONTREAL_GAS})
        return Emission(outside.figure, {}, outside.used, outside.absent, memo_kg_co2e=total)
    if gas in MONTREAL:
        more = {*more, Mark.MONTREAL_GAS}
    return chosen.emission(parts, total, FORMULA, SOURCE, more)
