"""Comprehensive energy consumption in kilograms of standard coal (kgce).

    E = Σ consumption_i · k_i − Σ exported_j · k_j

Electricity has two values: the equivalent one (3,600 kJ/kWh) for totals, and the equal-value one, the coal that thermal
power took on average that year, which is a dated parameter. Totals of different bases are never added. Working media
(water, compressed air) count only where the declared boundary includes them; energy made inside the boundary is counted
once, at its input.

Source:
    GB/T 2589-2020, clauses 4 to 6, appendices A and B.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from libs.common.errors import InvalidInput, NotFound
from services.carbon.domain.factors.model import DOUBTED, TRUSTED
from services.carbon.domain.figures import Figure, Input, Mark

KJ_PER_KGCE = 29_307.6
"""7,000 kcal at 4.1868 kJ. [kJ/kgce]"""
SOURCE = "GB/T 2589-2020"
EDITION = 2020
"""Coefficients of older editions are used only when the edition is asked for."""
ELECTRICITY = "electricity"
WORKING_MEDIUM = "working_medium"


class Basis(StrEnum):
    """What a kgce of electricity or of a working medium stands for."""

    EQUIVALENT = "equivalent"
    """Its own heat."""
    EQUAL_VALUE = "equal-value"
    """The primary energy that it took to make it."""
    DEFINITION = "definition"


@dataclass(frozen=True, slots=True)
class CoalCoefficient:
    """How much standard coal a unit of an energy carrier is."""

    coeff_id: str
    name_en: str
    name_zh: str
    kind: str
    """``electricity``, ``heat``, ``fuel``, ``working_medium``, ``definition``."""
    unit: str
    kgce_per_unit: Decimal | None
    """None for one that has to be given for each year. [kgce/unit]"""
    basis: Basis
    source: str
    edition: int
    confidence: str
    note: str

    @property
    def trusted(self) -> bool:
        """Whether it may be used without a person's decision."""
        return self.confidence.startswith(TRUSTED) and not self.confidence.startswith(DOUBTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class StockBalance:
    """What was used of something that is stored."""

    opening: float
    purchased: float
    closing: float
    transferred_out: float = 0.0

    @property
    def consumed(self) -> float:
        """Opening stock + purchases − closing stock − transfers out.

        Raises:
            InvalidInput: The balance is negative: more is left than there ever was.
        """
        amount = self.opening + self.purchased - self.closing - self.transferred_out
        if min(self.opening, self.purchased, self.closing, self.transferred_out) < 0 or amount < 0:
            raise InvalidInput(
                f"stock balance: expected amounts of 0 or more that leave 0 or more, found {self.opening} + "
                f"{self.purchased} - {self.closing} - {self.transferred_out}",
                message_zh=f"库存平衡:各项及结果应不小于 0,实际为 {self.opening} + {self.purchased} - "
                f"{self.closing} - {self.transferred_out}",
            )
        return amount


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyUse:
    """An amount of an energy carrier that was consumed, or sent out of the boundary."""

    coeff_id: str
    amount: float | None
    """None where it is unknown. [unit of the coefficient]"""
    unit: str
    origin: str
    exported: bool = False
    made_inside: bool = False
    """Made inside the boundary from energy that is listed itself: the generator's electricity beside its diesel."""
    renewable_on_site: bool = False
    ncv_kj: float | None = None
    """Measured net calorific value per unit, where the supplier states it. [kJ/unit]"""


@dataclass(frozen=True, slots=True)
class CoalTotal:
    """Comprehensive energy consumption on one basis."""

    total: Figure
    basis: Basis
    lines: Sequence[Figure]
    on_site_renewables: Figure
    """Reported separately; in the total only when asked."""


class CoalTable:
    """The coefficients of one edition, with what a person has enabled or given."""

    def __init__(
        self,
        coefficients: Iterable[CoalCoefficient],
        *,
        edition: int = EDITION,
        enabled: frozenset[str] = frozenset(),
        equal_value_kgce_per_kwh: float | None = None,
    ) -> None:
        """Take coefficients.

        Args:
            coefficients: As shipped.
            edition: Of the standard; rows of other editions are not used.
            enabled: Ids that a person has enabled although they are not trusted.
            equal_value_kgce_per_kwh: The published average coal rate of thermal power of the year. [kgce/kWh]
        """
        self._by_id = {one.coeff_id: one for one in coefficients if one.edition == edition}
        self._edition = edition
        self._enabled = enabled
        self._equal_value = equal_value_kgce_per_kwh

    def total(
        self,
        uses: Sequence[EnergyUse],
        *,
        basis: Basis = Basis.EQUIVALENT,
        working_media: bool = False,
        include_on_site_renewables: bool = False,
    ) -> CoalTotal:
        """Return the comprehensive consumption of a boundary.

        One unknown amount or coefficient makes the total unknown; the lines say which.

        Args:
            uses: What was consumed and sent out.
            basis: Of electricity.
            working_media: Whether the declared boundary includes working media.
            include_on_site_renewables: Whether the total includes them.

        Raises:
            NotFound: There is no such coefficient in the edition.
            InvalidInput: An amount is negative or in another unit than its coefficient.
        """
        lines = [self._line(use, basis, working_media) for use in uses]
        counted: list[float | None] = []
        renewables: list[float | None] = []
        for use, line in zip(uses, lines, strict=True):
            if use.made_inside or (self._find(use.coeff_id).kind == WORKING_MEDIUM and not working_media):
                continue
            signed = None if line.value is None else (-line.value if use.exported else line.value)
            if use.renewable_on_site:
                renewables.append(signed)
            if not use.renewable_on_site or include_on_site_renewables:
                counted.append(signed)
        formula = "E = sum(consumption_i * k_i) - sum(exported_j * k_j)"
        inputs = [Input(use.coeff_id, line.value, "kgce", use.origin) for use, line in zip(uses, lines, strict=True)]
        marks = frozenset(mark for line in lines for mark in line.marks)
        return CoalTotal(
            Figure(_sum(counted), "kgce", formula, SOURCE, inputs, marks),
            basis,
            lines,
            Figure(_sum(renewables), "kgce", "sum of renewable energy made on site", SOURCE, []),
        )

    def _line(self, use: EnergyUse, basis: Basis, working_media: bool) -> Figure:
        coefficient = self._find(use.coeff_id)
        if use.unit != coefficient.unit:
            raise InvalidInput(
                f"{use.coeff_id}: expected {coefficient.unit}, found {use.unit}",
                message_zh=f"{use.coeff_id}:单位应为 {coefficient.unit},实际为 {use.unit}",
            )
        if use.amount is not None and use.amount < 0:
            raise InvalidInput(
                f"{use.coeff_id}: expected an amount of 0 or more, found {use.amount}; mark what leaves as exported",
                message_zh=f"{use.coeff_id}:数量应不小于 0,实际为 {use.amount};外供请标记为 exported",
            )
        k, origin = self._kgce_per_unit(coefficient, basis, use.ncv_kj)
        marks = set()
        if use.amount is None:
            marks.add(Mark.UNKNOWN_INPUT)
        if k is None:
            marks.add(Mark.NO_FACTOR)
        if use.made_inside:
            marks.add(Mark.CONVERTED_INSIDE)
        if coefficient.kind == WORKING_MEDIUM and not working_media:
            marks.add(Mark.OUTSIDE_BOUNDARY)
        if not coefficient.trusted and coefficient.coeff_id in self._enabled:
            marks.add(Mark.ENABLED_BY_PERSON)
        return Figure(
            None if use.amount is None or k is None else use.amount * k,
            "kgce",
            "consumption * k",
            SOURCE,
            [
                Input("consumption", use.amount, use.unit, use.origin),
                Input("k", k, f"kgce/{use.unit}", origin),
            ],
            frozenset(marks),
        )

    def _kgce_per_unit(
        self, coefficient: CoalCoefficient, basis: Basis, ncv_kj: float | None
    ) -> tuple[float | None, str]:
        if coefficient.kind == ELECTRICITY and basis is Basis.EQUAL_VALUE:
            return self._equal_value, "parameter: coal rate of thermal power of the year"
        if ncv_kj is not None:
            return ncv_kj / KJ_PER_KGCE, "measured heat value / 29307.6 kJ per kgce"
        if not coefficient.trusted and coefficient.coeff_id not in self._enabled:
            return None, f"coefficient {coefficient.coeff_id} ({coefficient.confidence}) is not enabled"
        value = coefficient.kgce_per_unit
        return None if value is None else float(value), f"coefficient {coefficient.coeff_id} ({coefficient.edition})"

    def _find(self, coeff_id: str) -> CoalCoefficient:
        found = self._by_id.get(coeff_id)
        if found is None:
            raise NotFound(
                f"there is no coefficient {coeff_id} in edition {self._edition}",
                message_zh=f"{self._edition} 版中没有折标系数 {coeff_id}",
            )
        return found


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) if len(known) == len(values) else None
