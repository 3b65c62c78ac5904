"""What a whole project saves in a year and whether it pays, each measure by the better of its two figures.

Claims of the project play no part in it. What is avoided outside (recycling, travel of others) is
stated and is neither in the project's emission nor in its money, nor in the offsets that it makes unnecessary.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.carbon.domain.savings.measurement.measured import MeasuredSaving
from services.carbon.domain.savings.projects.measures import Measure, Origin, Outcome, Statement, outcome
from services.carbon.domain.savings.projects.project import Economics, Project, economics, yearly_money

YEAR_DAYS = 365


@dataclass(frozen=True, slots=True, kw_only=True)
class Yearly:
    """One measure over a year."""

    outcome: Outcome
    """As measured over its own period, or by formula for a year."""
    annualised: bool
    """The measured period was no year, and was multiplied up by days."""
    quantity: float
    """[unit of the measure/a]"""
    emission_kg: float
    """[kgCO2e/a]"""
    money_cny: float | None
    """None where it is unknown. [CNY/a]"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """A project, assessed."""

    measures: tuple[Yearly, ...]
    by_statement: Mapping[Statement, float]
    """What each statement gets, avoided emissions on their own. [kgCO2e/a]"""
    economics: Economics
    money_unknown: tuple[str, ...]
    """Measures whose money nobody knows: the yearly money is at least what is stated."""
    measured_share: float | None
    """Share of the own emission reduction that is measured, 0 to 1; None where there is no reduction."""


def assess(
    project: Project,
    *,
    measured: Mapping[str, Sequence[MeasuredSaving]],
    measured_money_cny: Mapping[str, float],
    years: int,
    offset_price_cny_per_t: float,
) -> Assessment:
    """Return what a project saves in a year, with its economics.

    Args:
        project: The project; its claims are left where they are.
        measured: Measured savings by measure.
        measured_money_cny: What the latest measured saving of a measure is worth over its own period, each interval
            at its tariff.
        years: N of the N-year sums.
        offset_price_cny_per_t: What a tonne of offsets costs.
    """
    found = tuple(
        _yearly(one, measured.get(one.measure_id, ()), measured_money_cny.get(one.measure_id))
        for one in project.measures
    )
    own = [one for one in found if one.outcome.statement is not Statement.AVOIDED]
    own_kg = math.fsum(one.emission_kg for one in own)
    by_meter_kg = math.fsum(one.emission_kg for one in own if one.outcome.origin is Origin.MEASURED)
    by_statement: dict[Statement, float] = {}
    for one in found:
        by_statement[one.outcome.statement] = by_statement.get(one.outcome.statement, 0.0) + one.emission_kg
    return Assessment(
        measures=found,
        by_statement=by_statement,
        economics=economics(
            investment_cny=project.investment_cny,
            yearly_cny=yearly_money([one.money_cny for one in own]),
            yearly_kg_co2e=own_kg,
            years=years,
            offset_price_cny_per_t=offset_price_cny_per_t,
        ),
        money_unknown=tuple(one.outcome.measure_id for one in own if one.money_cny is None),
        measured_share=by_meter_kg / own_kg if own_kg > 0 else None,
    )


def _yearly(measure: Measure, measured: Sequence[MeasuredSaving], money_cny: float | None) -> Yearly:
    counts = outcome(measure, measured)
    if counts.measured is None:
        return Yearly(
            outcome=counts,
            annualised=False,
            quantity=counts.quantity,
            emission_kg=counts.emission_kg,
            money_cny=counts.estimate.money_cny,
        )
    days = (counts.measured.end - counts.measured.start).days
    whole = days in (YEAR_DAYS, YEAR_DAYS + 1)
    times = 1.0 if whole else YEAR_DAYS / days
    return Yearly(
        outcome=counts,
        annualised=not whole,
        quantity=counts.quantity * times,
        emission_kg=counts.emission_kg * times,
        money_cny=None if money_cny is None else money_cny * times,
    )
