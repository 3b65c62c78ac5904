"""Why a figure is what it is: one document for all figures, from which each can be computed again to the last bit.

A trace names its rule, and lists what went into it. An input that is a figure itself says which question explains it,
so that a reader walks down: figure, circuits, intervals, registers. What is long is read in pages; the figure is that
of all pages together.

The rules are few on purpose: a checker needs these dozen lines of arithmetic, and no program of ours.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_FLOOR, Decimal
from enum import StrEnum
from statistics import fmean, median
from typing import assert_never

from services.carbon.domain.factors import EmissionFactor
from services.carbon.domain.money import CENT, exact, total

Number = float | Decimal
"""Energies and emissions are floats, money is exact decimals."""


class Rule(StrEnum):
    """How a figure follows from its inputs; only a sum leaves unknown ones out, anything else is unknown then."""

    SUM = "sum"
    """Of the known inputs, rounded once (``math.fsum``; exactly where they are decimals)."""
    CENTS = "cents"
    """The exact sum of decimals, rounded to 0.01, halves upwards; unknown as soon as one input is."""
    WHOLE_SUM = "whole_sum"
    """The same, unknown as soon as one input is."""
    PRODUCT = "product"
    """From left to right; exactly where all are decimals."""
    QUOTIENT = "quotient"
    """The first by the second; unknown where that is zero."""
    AT_LEAST_ONE = "at_least_one"
    """The same, and no less than one: meters of the same energy differ by their rounding."""
    AT_MOST_ONE = "at_most_one"
    """The same, and no more than one."""
    QUOTIENT_OF_SUMS = "quotient_of_sums"
    """Sum of every other input from the first on, by the sum of every other from the second on."""
    EXCESS = "excess"
    """The first less the second, and no less than zero."""
    BALANCE = "balance"
    """First, second and third less the fourth, and no less than zero."""
    WEIGHTED = "weighted"
    """The first, then plus the product of each pair that follows, from left to right."""
    DIFFERENCE = "difference"
    """The first less all others, from left to right; exactly where all are decimals."""
    CHANGE = "change"
    """The first less the second, by the size of the second."""
    CHANGE_OF_SUMS = "change_of_sums"
    """The same of the sum of every other input from the first on, against that of every other from the second on."""
    DEVIATION = "deviation"
    """Three times the largest of three less their sum, by the sum, which is taken from left to right."""
    OVER_HYPOTENUSE = "over_hypotenuse"
    """The first by the root of both squares (``math.hypot``)."""
    BAND_COST = "band_cost"
    """energy * (base * ratio + fixed), in exact decimals."""
    MEDIAN = "median"
    """The middle one; of an even number the mean of the two in the middle."""
    MEAN = "mean"
    """Sum (``math.fsum``) by count."""
    HIGHEST = "highest"
    """The greatest of the known ones."""
    APPARENT = "apparent"
    """The first times the root of (P * P + Q * Q): P is the sum of every other input from the second on, Q that of
    every other from the third on."""
    BY_FACTOR = "by_factor"
    """The first times the sum of all from the third on, by the second."""
    CONTRACT_DEMAND = "contract_demand"
    """price * (contract + multiple * max(demand - tolerance * contract, 0)), in exact decimals; the inputs are in the
    order contract, multiple, demand, tolerance, price."""
    ROOT_OF_SUM = "root_of_sum"
    """The root of the sum (``math.fsum``)."""
    HALF_WIDTH = "half_width"
    """z * root(n * v) + n * |m| of the inputs z, n and differences: m is their mean, v the mean of their squared
    deviations from it."""
    REGISTERS = "registers"
    """Corrected register at the end less the one at the start, times the ratio; of a meter without register, power by
    trapezoids; see ``domain/registers.py``."""
    STATED = "stated"
    """By the formula of a frozen statement, which is text; its inputs are in their own units."""


class InputKind(StrEnum):
    """What an input is."""

    FIGURE = "figure"
    INTERVAL = "interval"
    REGISTER = "register"
    FACTOR = "factor"
    PRICE = "price"
    TARIFF = "tariff"
    FACT = "fact"
    """Entered by a person: an area, a head count, an output."""
    BILL = "bill"
    PARAMETER = "parameter"


Question = Mapping[str, str]
"""Query parameters of ``GET energy/trace`` that explain an input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Because:
    """One number that a figure is made of."""

    name: str
    value: Number | None
    """None where it is unknown, which is not zero."""
    unit: str
    kind: InputKind
    id: str = ""
    """Of the circuit, factor, price sheet, fact."""
    version: int | None = None
    source: str = ""
    """Document, notice, method."""
    start: datetime | None = None
    grade: str | None = None
    """``interval_flag`` of an interval."""
    question: Question | None = None
    """None where nothing stands behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How well what a figure rests on is known; columns of ``energy_by_period``."""

    interval_completeness: float | None
    usable_share: float | None
    estimated_share: float
    from_parts_share: float
    provisional: bool
    lower_bound: bool = False
    uncertain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """A figure with everything that it was made of."""

    figure: str
    node: str
    start: datetime | None = None
    end: datetime | None = None
    value: Number | None
    unit: str
    rule: Rule
    formula: str
    source: str
    """Standard or method, with its clause."""
    inputs: Sequence[Because]
    quality: Quality | None = None
    marks: Sequence[str] = ()
    """What a reader has to know before relying on it; reasons why it is unknown."""
    withheld: bool = False
    """There is no figure although inputs are known: ``marks`` say why."""
    factors: Sequence[EmissionFactor] = ()

    def again(self) -> Number | None:
        """Return the figure as its inputs give it; None where that is unknown.

        Raises:
            NotByInputs: The rule needs more than the inputs.
        """
        return None if self.withheld else recomputed(self.rule, [one.value for one in self.inputs])


class NotByInputs(ValueError):
    """A rule whose figure cannot be computed from numbers alone."""


def recomputed(rule: Rule, values: Sequence[Number | None]) -> Number | None:
    """Return what a rule makes of its inputs; None where the result is unknown.

    Raises:
        NotByInputs: The rule needs more than numbers: the times of registers, the formula of a statement.
    """
    known = [value for value in values if value is not None]
    if rule is Rule.SUM:
        return _sum(known) if known else None
    if rule is Rule.HIGHEST:
        return max(known, default=None)
    if rule in (Rule.REGISTERS, Rule.STATED):
        raise NotByInputs(f"{rule} is not computed from numbers alone")
    return _of_known(rule, known) if len(known) == len(values) else None


def _of_known(rule: Rule, values: Sequence[Number]) -> Number | None:
    match rule:
        case Rule.WHOLE_SUM:
            return _sum(values) if values else None
        case Rule.CENTS:
            return _cents(values) if values else None
        case Rule.PRODUCT if all(isinstance(value, Decimal) for value in values):
            with exact():
                return math.prod(Decimal(value) for value in values)
        case Rule.PRODUCT:
            return math.prod(float(value) for value in values)
        case Rule.QUOTIENT:
            return _quotient(values)
        case Rule.AT_LEAST_ONE:
            quotient = _quotient(values)
            return None if quotient is None else max(1.0, quotient)
        case Rule.AT_MOST_ONE:
            quotient = _quotient(values)
            return None if quotient is None else min(1.0, quotient)
        case Rule.QUOTIENT_OF_SUMS:
            return _quotient([_sum(values[::2]), _sum(values[1::2])]) if values else None
        case Rule.EXCESS:
            used, usual = (float(value) for value in values)
            return max(0.0, used - usual)
        case Rule.BALANCE:
            imported, pv, generator, exported = (float(value) for value in values)
            return max(0.0, imported + pv + generator - exported)
        case Rule.DIFFERENCE if all(isinstance(value, Decimal) for value in values):
            with exact():
                first_exact, *others_exact = (Decimal(value) for value in values)
                return first_exact - total(others_exact)
        case Rule.DIFFERENCE:
            first, *others = (float(value) for value in values)
            for other in others:
                first -= other
            return first
        case Rule.WEIGHTED:
            whole, *pairs = (float(value) for value in values)
            for factor, part in zip(pairs[::2], pairs[1::2], strict=True):
                whole += factor * part
            return whole
        case Rule.CHANGE:
            value, base = (float(value) for value in values)
            return (value - base) / abs(base) if base else None
        case Rule.CHANGE_OF_SUMS:
            if not values:
                return None
            value, base = math.fsum(values[::2]), math.fsum(values[1::2])
            return (value - base) / abs(base) if base else None
        case Rule.DEVIATION:
            phases = [float(value) for value in values]
            whole = sum(phases)
            return (3.0 * max(phases) - whole) / whole if whole > 0 else None
        case Rule.OVER_HYPOTENUSE:
            active, reactive = (float(value) for value in values)
            return active / math.hypot(active, reactive) if active > 0 else None
        case Rule.MEDIAN:
            return median(float(value) for value in values) if values else None
        case Rule.MEAN:
            return math.fsum(values) / len(values) if values else None
        case Rule.APPARENT:
            times, active, reactive = float(values[0]), math.fsum(values[1::2]), math.fsum(values[2::2])
            return times * math.sqrt(active * active + reactive * reactive)
        case Rule.BY_FACTOR:
            times, factor = (float(value) for value in values[:2])
            return times * math.fsum(values[2:]) / factor
        case Rule.CONTRACT_DEMAND:
            contract, multiple, demand, tolerance, price = (Decimal(value) for value in values)
            with exact():
                return price * (contract + multiple * max(demand - tolerance * contract, Decimal(0)))
        case Rule.ROOT_OF_SUM:
            return math.sqrt(math.fsum(values)) if values else None
        case Rule.HALF_WIDTH:
            z, count, *differences = (float(value) for value in values)
            bias = fmean(differences)
            spread = fmean([(one - bias) ** 2 for one in differences])
            return z * math.sqrt(count * spread) + abs(bias) * count
        case Rule.BAND_COST:
            energy_kwh, floating, ratio, fixed = (Decimal(value) for value in values)
            with exact():
                return energy_kwh * (floating * ratio + fixed)
        case Rule.SUM | Rule.HIGHEST | Rule.REGISTERS | Rule.STATED:
            raise AssertionError(rule)
        case _:
            assert_never(rule)


def _sum(values: Sequence[Number]) -> Number:
    decimals = [value for value in values if isinstance(value, Decimal)]
    if decimals and len(decimals) == len(values):
        return total(decimals)
    return math.fsum(values)


def _cents(values: Sequence[Number]) -> Decimal:
    with exact():
        return (total(Decimal(value) for value in values) + CENT / 2).quantize(CENT, ROUND_FLOOR)


def _quotient(values: Sequence[Number]) -> float | None:
    above, below = (float(value) for value in values)
    return above / below if below else None


@dataclass(frozen=True, slots=True)
class Page:
    """Which inputs of a trace are shown."""

    first: int
    most: int

    def of(self, inputs: Sequence[Because]) -> Sequence[Because]:
        """Return the inputs of the page."""
        return inputs[self.first : self.first + self.most]

    def following(self, count: int) -> int | None:
        """Return where the page after this one begins, None after the last."""
        after = self.first + self.most
        return after if after < count else None


FORMULAS: Mapping[str, tuple[str, str]] = {
    "energy": ("E = sum of the circuits' energies", "energy methods, sections 0 to 2; ISO 50001, energy metering"),
    "circuit": ("E_c = sum of the intervals' energies", "energy methods, section 1.2"),
    "parts": ("E_i = sum of the next metering level, all of it known", "energy methods, section 1.3 (virtual meters)"),
    "interval": (
        "E_i = (corrected register at end - corrected register at start) * ratio",
        "energy methods, sections 1.1 and 1.2",
    ),
    "emission": ("E = sum of A * EF by site and civil year", "GHG Protocol Scope 2 Guidance (2015), ch. 6"),
    "site_year": ("E = A * EF", "GHG Protocol Scope 2 Guidance (2015), ch. 6"),
    "band_energy": ("E_b = sum of the slots at this rate", "energy methods, section 9"),
    "cost": ("C = sum of the lines' costs", "energy methods, section 9"),
    "cost_line": ("C = energy * (base * ratio + fixed)", "energy methods, section 9"),
    "pue": ("PUE = E_DC / E_IT, at least 1", "energy methods, section 13; ISO/IEC 30134-2:2016"),
    "pue_group": ("PUE = sum of E_DC / sum of E_IT", "energy methods, section 13; ISO/IEC 30134-2:2016"),
    "consumed": (
        "E = imported + photovoltaics + generators - exported, at least 0",
        "energy methods, sections 5 and 13",
    ),
    "intensity": ("e = sum of E / sum of D", "energy methods, section 6"),
    "load_factor": ("LF = mean / max", "energy methods, section 11"),
    "change": ("change = (E - E_base) / |E_base|", "energy methods, section 7"),
    "change_daily": ("change = (E/d - E_base/d_base) / |E_base/d_base|", "energy methods, section 7"),
    "like_for_like": ("change = (sum of E - sum of E_base) / |sum of E_base|", "energy methods, section 7"),
    "per_day": ("E/d = energy / days", "energy methods, section 7"),
    "share": ("s = E_part / E", "energy methods, section 9"),
    "clean_share": ("s = self-used photovoltaics / consumption", "energy methods, section 5"),
    "power_factor": ("PF = Wp / sqrt(Wp^2 + Wq^2)", "energy methods, section 12"),
    "demand": ("P = 4 * E_15min, the highest of the span", "energy methods, section 11"),
    "target": ("used = sum of the days", "energy methods, sections 16 and 17"),
    "inventory": ("E = sum of the lines", "GHG Protocol Corporate Standard; ISO 14064-1:2018, clauses 5 and 6"),
    "inventory_use": ("A = energy of the node * share", "GHG Protocol Corporate Standard, ch. 3"),
    "completeness": (
        "c = sum of the circuits' measured weights / sum of their expected ones",
        "energy methods, section 2: weighed by what a circuit usually uses",
    ),
    "flow": ("E = sum of the circuits' energies", "energy methods, sections 5 and 13"),
    "delivered": (
        "E_i = (corrected register of export at end - the same at start) * ratio",
        "energy methods, sections 1.1 and 1.2",
    ),
    "virtual": ("E = sum of the quarter hours", "energy methods, section 1.3 (virtual meters)"),
    "virtual_interval": ("E_i = constant + sum of factor * E_part", "energy methods, section 1.3 (virtual meters)"),
    "imbalance": ("(I_max - I_mean) / I_mean = (3 I_max - I_sum) / I_sum", "energy methods, section 12"),
    "metered": ("E = sum of the energies of the cost's lines", "energy methods, section 1.3"),
    "bill": ("billed - metered", "energy methods, section 1.3"),
    "medium_bill": ("billed - metered", "energy methods, section 1.3"),
    "medium_metered": ("Q = use of the circuit or site in the unit of the bill", "energy methods, sections 0 to 2"),
    "avoided": (
        "E = sum of the lines",
        "energy methods, section 4: reduces no inventory",
    ),
    "standard_coal": ("E = sum of the lines", "GB/T 2589-2020"),
    "project": ("E = sum of the project's own measures", "energy methods, section 14"),
    "measure": ("E = saving in a year * EF", "energy methods, section 14"),
    "statement": ("money = sum of the bands' money, in fen", "GB/T 24915; the contract's prices"),
    "statement_line": ("money = saved energy * price", "the contract's prices"),
    "statement_meter": (
        "E = (register at the end - register at the start) * ratio, with at most one rollover",
        "energy methods, section 1.1",
    ),
    "mean_load": ("P = 4 * mean of E_15min", "energy methods, section 11"),
    "lowest": ("P = 4 * E_15min, the lowest of the span", "energy methods, section 11"),
    "load_rate": ("beta = S / S_rated, the highest quarter hour", "energy methods, section 11"),
    "load_mean": ("beta = mean of the quarter hours' S / S_rated", "energy methods, section 11"),
    "load_time": ("t = quarter hours within the band / quarter hours", "energy methods, section 11"),
    "load_quarter": ("beta = S / S_rated", "energy methods, section 11"),
    "apparent": ("S = 4 * sqrt(E^2 + Q^2); 4 * E / PF where no reactive energy is known", "energy methods, section 11"),
    "reactive": ("Q = sum of the meter's reactive registers", "energy methods, section 12"),
    "basic_fee": ("F = sum of the months' fees", "energy methods, section 10"),
    "basic_month": ("F = capacity or demand * price", "energy methods, section 10"),
    "account_demand": ("P = 4 * E of the highest quarter hour", "energy methods, sections 10 and 11"),
    "accrual": ("C = sum of the costs of days without a bill", "energy methods, section 9"),
    "accrued_energy": ("E = sum of the energies of days without a bill", "energy methods, section 9"),
    "tariff_energy": ("E = sum of the lines of the band", "energy methods, section 9"),
    "tariff_cost": ("C = sum of the lines of the band", "energy methods, section 9"),
    "billed_money": ("sum of the month's days' parts of bills", "energy methods, section 9"),
    "billed": ("sum of the month's days' parts of bills", "energy methods, section 9"),
    "medium": ("Q = sum of the circuits' quantities", "energy methods, sections 0 to 2"),
    "medium_circuit": ("Q_c = sum of the intervals' quantities", "energy methods, section 1.2"),
    "medium_interval": (
        "Q_i = (corrected register at end - corrected register at start) * ratio",
        "energy methods, sections 1.1 and 1.2",
    ),
    "medium_emission": ("E = sum over the sites", "GHG Protocol Corporate Standard; energy methods, section 4"),
    "medium_site": ("E = A * EF", "GHG Protocol Corporate Standard; energy methods, section 4"),
    "virtual_emission": ("E = sum of A * EF by site and civil year", "GHG Protocol Scope 2 Guidance (2015), ch. 6"),
    "virtual_year": ("E = A * EF", "GHG Protocol Scope 2 Guidance (2015), ch. 6"),
    "virtual_site": (
        "A = sum over the site's circuits of factor * E, and its part of the constant",
        "energy methods, section 1.3 (virtual meters)",
    ),
    "forecast": ("F = days known + days expected", "energy methods, section 16"),
    "target_measured": ("used = sum of the days of which enough is known", "energy methods, sections 16 and 17"),
    "forecast_low": ("F_low = F - h", "energy methods, section 16"),
    "forecast_high": ("F_high = F + h", "energy methods, section 16"),
    "forecast_half": (
        "h = z * sqrt(n * v) + n * |m|, by the differences to last year's days so far",
        "energy methods, section 16",
    ),
    "target_gap": ("gap = allowed - forecast", "energy methods, section 17"),
    "target_pace": ("pace = measured / (allowed * expected share)", "energy methods, section 17"),
    "saving_baseline": ("B = middle of the days + adjustment to the weather", "energy methods, section 15"),
    "saving_emission": ("E = sum of the windows' savings * EF", "energy methods, section 15"),
    "saving_window_emission": ("E = saving * EF * share", "energy methods, section 15"),
    "saving_money": ("C = sum of the windows', each quarter hour at its own price", "energy methods, section 15"),
    "saving_error": ("s = root of the sum of the windows' variances", "energy methods, section 15"),
    "saving_usual": ("U = median of the clean days, or mean of days scaled by a group", "energy methods, section 15"),
    "saving_usual_after": ("the same of the time after the window", "energy methods, section 15"),
    "saving_rebound": ("R = max(used after - usual after, 0)", "energy methods, section 15"),
    "statement_saving": ("S = baseline - used", "GB/T 24915; the contract's method"),
    "saving": ("S = sum of the windows' savings", "energy methods, section 15"),
    "saving_share": ("S = saving of the window * share", "energy methods, section 15, rule 6"),
    "efficiency": ("K = L / average of the sector, or quota per area", "energy methods, section 18"),
    "efficiency_intensity": ("L = net / value added, or net / area", "energy methods, section 18"),
    "efficiency_net": ("net = max(emitted - zero-carbon electricity - sinks, 0)", "energy methods, section 18"),
    "efficiency_gross": ("E = electricity by location + all other media", "energy methods, sections 4 and 18"),
    "efficiency_deducted": ("D = zero-carbon electricity + sinks", "energy methods, section 18"),
    "efficiency_covered": ("E = covered energy * emission / energy of the period", "energy methods, section 18"),
    "footprint": ("PCF = sum of the flows", "ISO 14067:2018; energy methods, section 19"),
    "footprint_flow": ("E = input * share of this product * EF", "ISO 14067:2018; energy methods, section 19"),
    "footprint_input": ("input = net / (1 - scrap rate)", "ISO 14067:2018; energy methods, section 19"),
    "footprint_primary": (
        "p = sum of the flows of primary data / sum of the flows",
        "ISO 14067:2018; energy methods, section 19",
    ),
    "footprint_quality": (
        "q = sum of E * data quality / sum of E, from 1 (best) to 5",
        "ISO 14067:2018; energy methods, section 19",
    ),
    "saving_window": ("S = baseline - actual - rebound - control", "energy methods, section 15"),
}
"""Formula and source of each kind of figure."""
