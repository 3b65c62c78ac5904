"""Figures that somebody printed, kept as they stand, and what is wrong with them.

A claim is not a result: it has the printed number and the printed arithmetic, is marked as a claim wherever it is
shown, and enters no sum of savings. What can be checked is checked, and every difference to the corrected table is
listed with its reason.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from services.carbon.domain.savings.projects.formula import Formula, Parameter, values_of


class ClaimKind(StrEnum):
    """What a printed figure stands for."""

    LINE = "line"
    SUBTOTAL = "subtotal"
    TOTAL = "total"
    MONEY = "money"
    ECONOMICS = "economics"


class Verdict(StrEnum):
    """What checking a claim's own arithmetic showed."""

    AGREES = "agrees"
    """The printed arithmetic gives the printed number, to its last digit."""
    DIFFERS = "differs"
    NOT_SHOWN = "not_shown"
    """No arithmetic was printed: there is nothing to check."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One printed figure."""

    claim_id: str
    name: str
    name_zh: str
    kind: ClaimKind
    printed: float
    unit: str
    decimals: int
    """Decimal places that were printed; the arithmetic agrees if it is within half of the last."""
    source: str
    formula: Formula | None = None
    parameters: Mapping[str, Parameter] | None = None
    parts: tuple[str, ...] = ()
    """Of a subtotal or total: the claims that were added up."""
    reason: str = ""
    """Why the corrected table differs, where it does."""
    reason_zh: str = ""
    corrected_by: str | None = None
    """What stands for it in the corrected table; None where nothing there is the same thing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A claim, checked by its own arithmetic."""

    claim_id: str
    printed: float
    recomputed: float | None
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Where the printed and the corrected table say different things."""

    claim_id: str
    name: str
    name_zh: str
    printed: float
    corrected: float | None
    """None where the claim cannot be supported by anything that was printed."""
    delta: float | None
    """Corrected minus printed."""
    unit: str
    reason: str
    reason_zh: str


def check(claim: Claim, others: Mapping[str, Claim]) -> Check:
    """Return whether a claim follows from its own formula or from the claims that it adds up.

    Args:
        claim: The claim.
        others: The claims of the same table by id.
    """
    if claim.parts:
        recomputed: float | None = math.fsum(others[part].printed for part in claim.parts)
    elif claim.formula is not None:
        recomputed = claim.formula.value(values_of(claim.parameters or {}))
    else:
        recomputed = None
    if recomputed is None:
        return Check(claim_id=claim.claim_id, printed=claim.printed, recomputed=None, verdict=Verdict.NOT_SHOWN)
    agrees = abs(recomputed - claim.printed) <= 0.5 * 10**-claim.decimals * (1 + 1e-9)
    return Check(
        claim_id=claim.claim_id,
        printed=claim.printed,
        recomputed=recomputed,
        verdict=Verdict.AGREES if agrees else Verdict.DIFFERS,
    )


def differences(claims: Sequence[Claim], corrected: Mapping[str, float | None]) -> list[Difference]:
    """Return every place where the corrected table differs from the printed one by more than printing.

    Args:
        claims: The printed table.
        corrected: The corrected figures by ``Claim.corrected_by``; None for what nothing supports.
    """
    found: list[Difference] = []
    for claim in claims:
        right = corrected.get(claim.corrected_by) if claim.corrected_by is not None else None
        if right is not None and abs(right - claim.printed) <= 0.5 * 10**-claim.decimals * (1 + 1e-9):
            continue
        found.append(
            Difference(
                claim_id=claim.claim_id,
                name=claim.name,
                name_zh=claim.name_zh,
                printed=claim.printed,
                corrected=right,
                delta=None if right is None else right - claim.printed,
                unit=claim.unit,
                reason=claim.reason,
                reason_zh=claim.reason_zh,
            )
        )
    return found
