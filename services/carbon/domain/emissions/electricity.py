"""Purchased electricity by both methods of scope 2, shown side by side.

Location-based: E = kWh imported · EF of the grid that the site draws from. Certificates change nothing.

Market-based, per line (site and period):

    uncovered = max(0, imported − covered)
    E = Σ kWh_j · EF_j + uncovered · EF_residual, never below zero

One's own photovoltaic power that was used on site counts zero in both methods as long as its certificates were not
sold; where they were, its energy counts as uncovered in the market-based one. Exported power is not subtracted,
except where the statement follows the Chinese guideline's net purchase.

Source:
    GHG Protocol Scope 2 Guidance (2015), chapters 6 and 7; MEE corporate accounting guidelines (net purchase).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from services.carbon.domain.emissions.knowledge import Chosen, Emission, Knowledge, product
from services.carbon.domain.emissions.units import not_negative
from services.carbon.domain.factors import Absence, Choice, Place, Use
from services.carbon.domain.figures import Mark

SOURCE = "GHG Protocol Scope 2 Guidance (2015)"
UNIT = "kgCO2/kWh"
COUNTRY = Place(None)


class Netting(StrEnum):
    """Whether exported power is subtracted from imported."""

    NONE = "none"
    """GHG Protocol."""
    GUIDELINE = "guideline"
    """Net purchase of the Chinese corporate guideline: import − export."""


@dataclass(frozen=True, slots=True)
class Covered:
    """Energy that an instrument covers."""

    kwh: float
    series: str = "ELEC-MB-GEC"
    """Factor of it: certificates and green power, or ``grid-supplier``."""
    supplier: str | None = None
    origin: str = "certificates"


@dataclass(frozen=True, slots=True, kw_only=True)
class Purchase:
    """Electricity of one site and one period within a civil year."""

    imported_kwh: float | None
    """From the grid or a landlord; None where it is unknown. [kWh]"""
    exported_kwh: float | None = 0.0
    own_pv_kwh: float | None = 0.0
    """Made and used on site. [kWh]"""
    own_pv_certificates_sold: bool = False
    covered: Sequence[Covered] = ()
    """In the order in which they shall be used up."""
    origin: str


def grid_factor(knowledge: Knowledge, *, place: Place, year: int) -> Choice | Absence:
    """Return the average factor of the grid that a place draws from. [kgCO2/kWh]"""
    return knowledge.choose("grid-average", use=Use.LOCATION_BASED, place=place, year=year, unit=UNIT)


def location_based(
    knowledge: Knowledge, purchase: Purchase, *, place: Place, year: int, netting: Netting = Netting.NONE
) -> Emission:
    """Return the location-based emission of a purchase.

    Raises:
        InvalidInput: A negative amount.
    """
    _check(purchase)
    chosen = Chosen()
    energy = _drawn(chosen, purchase, netting)
    factor = chosen.take("EF", grid_factor(knowledge, place=place, year=year))
    total = product(energy, factor)
    formula = "E = imported * EF" if netting is Netting.NONE else "E = (imported - exported) * EF"
    return chosen.emission({"CO2": total}, total, formula, f"{SOURCE}, ch. 6")


def market_based(
    knowledge: Knowledge,
    purchase: Purchase,
    *,
    place: Place,
    year: int,
    netting: Netting = Netting.NONE,
) -> Emission:
    """Return the market-based emission of a purchase, never below zero.

    ``facts``: ``covered_kwh``, ``uncovered_kwh``, ``surplus_kwh`` (certified energy beyond consumption, which covers
    nothing) and ``coverage`` (covered over imported, None where nothing was imported).

    Raises:
        InvalidInput: A negative amount.
    """
    _check(purchase)
    chosen = Chosen()
    drawn = _drawn(chosen, purchase, netting)
    # An export beyond the import is no negative emission here.
    need = None if drawn is None else max(0.0, drawn)
    if purchase.own_pv_certificates_sold:
        chosen.given("own PV, certificates sold", purchase.own_pv_kwh, "kWh", purchase.origin)
        need = None if need is None or purchase.own_pv_kwh is None else need + purchase.own_pv_kwh
    parts: list[float | None] = []
    covered = surplus = 0.0
    for one in purchase.covered:
        used = 0.0 if need is None else min(one.kwh, need - covered)
        chosen.given("covered", one.kwh, "kWh", one.origin)
        if used > 0:
            found = knowledge.choose(
                one.series, use=Use.MARKET_INSTRUMENT, place=COUNTRY, year=year, unit=UNIT, supplier=one.supplier
            )
            parts.append(product(used, chosen.take("EF_j", found)))
        covered += used
        surplus += one.kwh - used
    uncovered = None if need is None else max(0.0, need - covered)
    more: set[Mark] = set()
    if uncovered != 0.0:
        residual = knowledge.choose("grid-residual", use=Use.MARKET_RESIDUAL, place=COUNTRY, year=year, unit=UNIT)
        if _not_of_year(residual, year):
            # A year without a residual factor of its own takes the national average, and the figure says so.
            average = knowledge.choose("grid-average", use=Use.MARKET_RESIDUAL, place=COUNTRY, year=year, unit=UNIT)
            if isinstance(average, Choice):
                residual = average
                more.add(Mark.AVERAGE_FOR_RESIDUAL)
        parts.append(product(uncovered, chosen.take("EF_residual", residual)))
    if surplus > 0:
        more.add(Mark.SURPLUS_CERTIFICATES)
    known = [part for part in parts if part is not None]
    total = max(0.0, math.fsum(known)) if len(known) == len(parts) and need is not None else None
    emission = chosen.emission(
        {"CO2": total}, total, "E = sum(kWh_j * EF_j) + uncovered * EF_residual", f"{SOURCE}, ch. 7", more
    )
    imported = purchase.imported_kwh
    facts: dict[str, float | None] = {
        "covered_kwh": None if need is None else covered,
        "uncovered_kwh": uncovered,
        "surplus_kwh": None if need is None else surplus,
        "coverage": min(1.0, covered / imported) if need is not None and imported else None,
    }
    return Emission(emission.figure, emission.by_gas, emission.used, emission.absent, facts=facts)


def _drawn(chosen: Chosen, purchase: Purchase, netting: Netting) -> float | None:
    """Return the energy that counts as drawn from the grid. [kWh]"""
    chosen.given("imported", purchase.imported_kwh, "kWh", purchase.origin)
    if netting is Netting.NONE or purchase.imported_kwh is None:
        return purchase.imported_kwh
    chosen.given("exported", purchase.exported_kwh, "kWh", purchase.origin)
    return None if purchase.exported_kwh is None else purchase.imported_kwh - purchase.exported_kwh


def _not_of_year(found: Choice | Absence, year: int) -> bool:
    return isinstance(found, Absence) or found.factor.data_year != year


def _check(purchase: Purchase) -> None:
    not_negative("imported", purchase.imported_kwh)
    not_negative("exported", purchase.exported_kwh)
    not_negative("own PV", purchase.own_pv_kwh)
    for one in purchase.covered:
        not_negative("covered", one.kwh)
