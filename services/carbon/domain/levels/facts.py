"""What energy is divided by: areas, persons, output, ratings; entered by people, or told by the registry.

Source:
    The platform's energy methods, sections 6 and 11.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum

from libs.common.errors import Conflict, InvalidInput

VALUE_MAX = 1e12
"""Beyond it somebody has taken the wrong unit."""


class FactKind(StrEnum):
    """What is known of a node for some days."""

    AREA = "area_m2"
    """Floor area in use. [m2]"""
    PERSONS = "persons"
    """Mean head count. [1]"""
    OUTPUT_VALUE = "output_value"
    """Of the whole span. [10^4 CNY]"""
    OUTPUT = "output"
    """Of the whole span, in the unit that ``basis`` says."""
    TRANSFORMER = "transformer_kva"
    """Rating of the transformer ``subject``. [kVA]"""
    LINE = "line_kva"
    """Rating of the power line ``subject``. [kVA]"""
    REPORTED_EMISSION = "reported_emission_kg_co2e"
    """What an authority has on file for the whole span, beside what is calculated here; never added to it. [kgCO2e]"""
    VALUE_ADDED = "value_added"
    """Of the whole span (工业增加值); the only one that may be negative. [10^4 CNY]"""
    ZERO_CARBON_ELECTRICITY = "zero_carbon_kwh"
    """Of what was imported in the whole span, what certificates or contracts make free of carbon. [kWh]"""
    SINK = "sink_kg_co2e"
    """What was taken out of the air in the whole span, by evidence. [kgCO2e]"""

    @property
    def is_sum(self) -> bool:
        """Whether it is of the whole span, so that spans add up; the others hold throughout theirs."""
        return self.needs_basis or self in _OF_WHOLE_SPANS

    @property
    def needs_basis(self) -> bool:
        """Whether series of different bases must not be mixed."""
        return self in (FactKind.OUTPUT_VALUE, FactKind.OUTPUT, FactKind.VALUE_ADDED)

    @property
    def lowest(self) -> float:
        """The lowest value that it may have: a loss makes a value added negative."""
        return -VALUE_MAX if self is FactKind.VALUE_ADDED else 0.0

    @property
    def needs_subject(self) -> bool:
        """Whether a node can have several."""
        return self in (FactKind.TRANSFORMER, FactKind.LINE)


_OF_WHOLE_SPANS = (FactKind.REPORTED_EMISSION, FactKind.ZERO_CARBON_ELECTRICITY, FactKind.SINK)


class FactsOverlap(Conflict):
    """A day would have two values."""

    code = "facts_overlap"
    title_zh = "数据时段重叠"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A value of a node for civil days ``[first_day, end_day)``."""

    node: str
    kind: FactKind
    subject: str = ""
    """Name of the transformer or line."""
    first_day: date
    end_day: date
    value: float
    basis: str = ""
    """``current``, ``constant-2020`` … of values, the unit of outputs: only the same compare and add up."""
    source: str

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            InvalidInput: No days, a value out of its limits, a basis or a subject missing.
        """
        if self.end_day <= self.first_day:
            raise InvalidInput(
                f"end_day: expected a day after {self.first_day}, found {self.end_day}",
                message_zh=f"end_day:应晚于 {self.first_day},实际为 {self.end_day}",
            )
        if not self.kind.lowest <= self.value <= VALUE_MAX:
            raise InvalidInput(
                f"value: expected {self.kind.lowest:g} to {VALUE_MAX:g}, found {self.value:g}",
                message_zh=f"value:应为 {self.kind.lowest:g} 至 {VALUE_MAX:g},实际为 {self.value:g}",
            )
        if self.kind.needs_basis and not self.basis:
            raise InvalidInput(
                f"basis: expected the price base or the unit of {self.kind}, found nothing",
                message_zh=f"basis:{self.kind} 须说明价格基准或计量单位",
            )
        if self.kind.needs_subject and not self.subject:
            raise InvalidInput(
                f"subject: expected the name that circuits give for {self.kind}, found nothing",
                message_zh=f"subject:{self.kind} 须填写回路中登记的名称",
            )


class NoDenominator(StrEnum):
    """Why there is nothing to divide by."""

    NOT_ENTERED = "not_entered"
    """Some day of the span has no value."""
    ZERO = "zero"
    MIXED_BASES = "mixed_bases"
    CUT = "cut"
    """The span cuts what is a sum over its own span."""


@dataclass(frozen=True, slots=True)
class Denominator:
    """What to divide by, or why there is nothing."""

    value: float | None
    reason: NoDenominator | None
    basis: str = ""


def check_apart(new: Fact, before: Iterable[Fact]) -> None:
    """Refuse a fact whose days another one of its node, kind and subject has already, unless it replaces just that.

    Raises:
        FactsOverlap: It does.
    """
    for one in before:
        same_span = (one.first_day, one.end_day) == (new.first_day, new.end_day)
        if (
            (one.node, one.kind, one.subject) == (new.node, new.kind, new.subject)
            and not same_span
            and one.first_day < new.end_day
            and new.first_day < one.end_day
        ):
            raise FactsOverlap(
                f"{new.kind} of {new.node}: {new.first_day} to {new.end_day} overlaps {one.first_day} to {one.end_day}",
                message_zh=f"{new.node} 的 {new.kind}:{new.first_day} 至 {new.end_day} 与 {one.first_day} 至 "
                f"{one.end_day} 重叠",
            )


def weighted(spans: Sequence[tuple[datetime, datetime, float | None]], start: datetime, end: datetime) -> Denominator:
    """Return the mean over time of what held in parts of ``[start, end)``: sum(A_i d_i) / sum(d_i).

    Args:
        spans: (from, to, value), which do not overlap; None is unknown.
        start: Start of the span.
        end: End of the span.
    """
    total, covered = 0.0, timedelta()
    for first, last, value in spans:
        length = min(last, end) - max(first, start)
        if value is not None and length > timedelta():
            total += value * (length / (end - start))
            covered += length
    if covered < end - start:
        return Denominator(None, NoDenominator.NOT_ENTERED)
    return Denominator(total, None) if total > 0 else Denominator(None, NoDenominator.ZERO)


def summed(facts: Sequence[Fact], first_day: date, end_day: date) -> Denominator:
    """Return the sum of facts that tile the days ``[first_day, end_day)``, to divide by."""
    found = tiled(facts, first_day, end_day)
    if found.value is not None and found.value <= 0:
        return Denominator(None, NoDenominator.ZERO, found.basis)
    return found


def tiled(facts: Sequence[Fact], first_day: date, end_day: date) -> Denominator:
    """Return the same sum, which may be zero or less."""
    inside = sorted((one for one in facts if one.first_day < end_day and one.end_day > first_day), key=_first_day)
    if len({one.basis for one in inside}) > 1:
        return Denominator(None, NoDenominator.MIXED_BASES)
    if inside and (inside[0].first_day < first_day or inside[-1].end_day > end_day):
        return Denominator(None, NoDenominator.CUT, inside[0].basis)
    covered = sum((one.end_day - one.first_day).days for one in inside)
    if covered < (end_day - first_day).days:
        return Denominator(None, NoDenominator.NOT_ENTERED)
    return Denominator(math.fsum(one.value for one in inside), None, inside[0].basis if inside else "")


def _first_day(one: Fact) -> date:
    return one.first_day
