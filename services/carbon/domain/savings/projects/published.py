"""A published table of savings: as it was printed, and as it comes out right.

As printed is a set of claims. As corrected is what the same measures give by formulas that cannot save more than was
used, each in the statement where it belongs. Both are kept whole, and every difference has a reason.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from services.carbon.domain.savings.projects.claims import Check, Claim, Difference, check, differences
from services.carbon.domain.savings.projects.measures import Outcome, Statement, emissions_by_statement, outcome
from services.carbon.domain.savings.projects.project import Economics, Project, economics

OFFICE = ("office_paper", "meeting_paper", "meeting_travel")
"""Measures that the printed table adds up as the green office."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedCase:
    """A project whose table somebody published."""

    project: Project
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrected:
    """The corrected table."""

    outcomes: tuple[Outcome, ...]
    by_statement: Mapping[Statement, float]
    """What may be stated, each on its own. [kgCO2e/a]"""
    table_kg: float
    """Sum over all lines, of different statements: it stands beside the printed total and nowhere else. [kgCO2e/a]"""
    economics: Economics


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Both tables and what lies between them."""

    claims: tuple[Claim, ...]
    checks: tuple[Check, ...]
    corrected: Corrected
    differences: tuple[Difference, ...]


def compare(case: PublishedCase) -> Comparison:
    """Return the printed table, the corrected one, and every difference."""
    claims = case.project.claims
    others = {one.claim_id: one for one in claims}
    checks = tuple(check(one, others) for one in claims)
    corrected = _corrected(case)
    return Comparison(
        claims=claims,
        checks=checks,
        corrected=corrected,
        differences=tuple(differences(claims, _figures(case, corrected, checks))),
    )


def _corrected(case: PublishedCase) -> Corrected:
    outcomes = tuple(outcome(one) for one in case.project.measures)
    table_kg = math.fsum(one.emission_kg for one in outcomes)
    return Corrected(
        outcomes=outcomes,
        by_statement=emissions_by_statement(outcomes),
        table_kg=table_kg,
        economics=economics(
            investment_cny=case.project.investment_cny,
            yearly_cny=None,  # the printed parts do not make the printed sum, and what the power saves is not printed
            yearly_kg_co2e=table_kg,
            years=case.project.years,
            offset_price_cny_per_t=case.project.offset_price_cny_per_t,
        ),
    )


def _figures(case: PublishedCase, corrected: Corrected, checks: tuple[Check, ...]) -> dict[str, float | None]:
    """Return the corrected figures by the names that claims refer to."""
    emission = {one.measure_id: one.emission_kg for one in corrected.outcomes}
    found: dict[str, float | None] = {f"emission:{name}": value for name, value in emission.items()}
    found |= {f"money:{one.measure_id}": one.estimate.money_cny for one in corrected.outcomes}
    found |= {f"statement:{name}": value for name, value in corrected.by_statement.items()}
    found |= {f"recomputed:{one.claim_id}": one.recomputed for one in checks}
    return found | {
        "office": math.fsum(emission[name] for name in OFFICE if name in emission),
        "total": corrected.table_kg,
        "investment": case.project.investment_cny,
        "offset": corrected.economics.yearly_offset_cny,
        "tonnes_15": corrected.economics.sum_t_co2e,
        "offset_15": corrected.economics.sum_offset_cny,
    }
