"""Electricity of a boundary from intervals: any span, also one that begins inside a quarter of an hour.

An interval that a span cuts gives its part in proportion to time. A hole is never a zero: the sum is over what is
known, beside the share of the span that it covers, and where of any circuit less than half of the span is known, or
no meter tells anything, there is no figure at all. Time in which a node has no circuit that could tell is a hole too.

The completeness of several circuits is weighed by the energy that each of them may be expected to have used, so that
the hole of a large one is not hidden by many small ones.

Source:
    The platform's energy methods, sections 0 and 2.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

import polars as pl

from libs.common.clock import CIVIL_ZONE
from services.carbon.domain.intervals import STEP_S, Grade
from services.carbon.domain.inventory.boundary import Boundary, Span
from services.carbon.domain.levels.cover import Term
from services.carbon.domain.sums import rounded_sums

LEAST_USABLE = 0.5
"""Below this share of the expected intervals there is no figure. [1]"""
WHOLE = 1 - 1e-9
"""A share that is one but for the sums that it comes from. [1]"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metered:
    """Energy of some circuits over a span."""

    energy_kwh: float | None
    """Of what is known; None where of a circuit less than half is, or none is metered. [kWh]"""
    completeness: float
    """Measured intervals over expected ones, by time, weighed by energy. [1]"""
    usable: float
    """Measured and estimated intervals over expected ones, likewise. [1]"""
    estimated_share: float
    """Share of the energy that was interpolated, allocated, or that the next level stood in for. [1]"""
    apportioned_kwh: float
    """Energy of intervals that the span cuts. [kWh]"""
    circuits: tuple[str, ...]
    above: tuple[str, ...]
    """What the circuits hang beneath: whose energy has theirs in it."""
    unknown: tuple[str, ...]
    """Circuits of which less than half is known."""
    until: datetime
    """Up to when it was asked; before the end of a span that is not over."""


@dataclass(frozen=True, slots=True)
class CircuitSum:
    """What the intervals of one circuit say of a span, each with the part of it that lies inside."""

    energy_kwh: float
    """Of the known ones. [kWh]"""
    estimated_kwh: float
    apportioned_kwh: float
    measured_s: float
    """Time that measured intervals cover. [s]"""
    usable_s: float
    """Time that known intervals cover. [s]"""


CircuitKey = tuple[str, str]
"""Site and circuit: a circuit that moves is told apart."""
NOTHING = CircuitSum(0.0, 0.0, 0.0, 0.0, 0.0)


def on_grid(span: Span) -> Span:
    """Return the whole intervals that a span overlaps."""
    return Span(_floored(span.start), _ceiled(span.end))


def sums_of(intervals: pl.DataFrame, span: Span) -> dict[CircuitKey, CircuitSum]:
    """Sum a node's intervals (frame of ``domain/levels/energy.py``) over a span; a circuit without any is left out."""
    step = pl.duration(seconds=int(STEP_S))
    first, last = _utc(span.start), _utc(span.end)
    inside = (
        pl.min_horizontal(pl.col("start") + step, last) - pl.max_horizontal(pl.col("start"), first)
    ).dt.total_microseconds() / 1e6
    known = pl.col("energy_kwh").is_not_null() & ~pl.col("provisional")
    whole = pl.col("inside_s") == STEP_S
    part = pl.when(whole).then(pl.col("energy_kwh")).otherwise(pl.col("energy_kwh") * pl.col("inside_s") / STEP_S)
    keys = ["site_id", "circuit_id"]
    inner = (
        intervals.with_columns(inside.alias("inside_s"))
        .filter((pl.col("inside_s") > 0) & known)
        .with_columns(part.alias("kwh"))
    )
    rows = (
        inner.group_by(keys)
        .agg(
            pl.col("kwh").filter(pl.col("grade") != int(Grade.MEASURED)).sum().alias("estimated_kwh"),
            pl.col("kwh").filter(pl.col("inside_s") < STEP_S).sum().alias("apportioned_kwh"),
            pl.col("inside_s").filter(pl.col("grade") == int(Grade.MEASURED)).sum().alias("measured_s"),
            pl.col("inside_s").sum().alias("usable_s"),
        )
        .join(rounded_sums(inner, "kwh", keys), on=keys)
        .select(*keys, "kwh", "estimated_kwh", "apportioned_kwh", "measured_s", "usable_s")
    )
    return {(site, circuit): CircuitSum(*sums) for site, circuit, *sums in rows.iter_rows()}


def metered(terms: Sequence[Term], sums: Mapping[CircuitKey, CircuitSum], span: Span) -> Metered:
    """Return the energy of terms over a span.

    Args:
        terms: What is summed, by circuit and time.
        sums: Of this span, those of the terms' circuits among them.
        span: Half-open, not empty.
    """
    expected = _expected_s(terms, span)
    told = {key: sums.get(key, NOTHING) for key in expected}
    unknown = [key for key, seconds in expected.items() if told[key].usable_s < LEAST_USABLE * seconds]
    energy = math.fsum(one.energy_kwh for one in told.values())
    weights = _weights(expected, told)
    covered = _covered_s(terms, span) / span.seconds

    def weighed(seconds: dict[CircuitKey, float]) -> float:
        parts = [weights[key] * min(1.0, seconds[key] / expected[key]) for key in expected]
        return covered * math.fsum(parts) / math.fsum(weights.values()) if parts else 0.0

    return Metered(
        energy_kwh=energy if expected and not unknown and covered >= LEAST_USABLE else None,
        completeness=weighed({key: one.measured_s for key, one in told.items()}),
        usable=weighed({key: one.usable_s for key, one in told.items()}),
        estimated_share=math.fsum(one.estimated_kwh for one in told.values()) / energy if energy else 0.0,
        apportioned_kwh=math.fsum(one.apportioned_kwh for one in told.values()),
        circuits=tuple(sorted({circuit for _, circuit in expected})),
        above=tuple(sorted({above for term in terms for above in term.above})),
        unknown=tuple(sorted({circuit for _, circuit in unknown})),
        until=span.end,
    )


def spans_of(boundary: Boundary, through: Sequence[str]) -> list[Span]:
    """Return the spans of a boundary's parts, cut where one begins or ends and at each civil new year.

    Args:
        boundary: Of the inventory.
        through: Nodes of the parts that are asked for.
    """
    inside = [part.span for part in boundary.parts if part.node in through]
    cuts = sorted({instant for one in inside for instant in (one.start, one.end)})
    pieces = [Span(*pair) for pair in pairwise(cuts)]
    return [year for piece in pieces if any(one.overlap(piece) for one in inside) for year in by_civil_year(piece)]


def by_civil_year(span: Span) -> Sequence[Span]:
    """Return a span cut at each new year of civil time; factors are of years."""
    found = []
    start = span.start
    while start < span.end:
        local = start.astimezone(CIVIL_ZONE)
        end = min(span.end, datetime(local.year + 1, 1, 1, tzinfo=CIVIL_ZONE))
        found.append(Span(start, end))
        start = end
    return found


def _expected_s(terms: Sequence[Term], span: Span) -> dict[CircuitKey, float]:
    """Return for how much of a span each circuit should have intervals: those that begin within a term. [s]"""
    found: dict[CircuitKey, float] = {}
    for term in terms:
        common = Span(_ceiled(term.start) if term.start > span.start else term.start, _ceiled(term.end)).overlap(span)
        if common is not None:
            key = (term.site, term.circuit)
            found[key] = found.get(key, 0.0) + common.seconds
    return found


def _covered_s(terms: Sequence[Term], span: Span) -> float:
    """Return for how much of a span any circuit could tell. [s]"""
    inside = [common for term in terms if (common := Span(term.start, term.end).overlap(span)) is not None]
    covered, reached = 0.0, span.start
    for one in sorted(inside, key=lambda one: one.start):
        start = max(one.start, reached)
        if one.end > start:
            covered += (one.end - start).total_seconds()
            reached = one.end
    return covered


def _weights(expected: Mapping[CircuitKey, float], told: Mapping[CircuitKey, CircuitSum]) -> dict[CircuitKey, float]:
    """Return what each circuit may be expected to have used; of which nothing is known, as the mean of the others."""
    likely = {key: one.energy_kwh / one.usable_s * expected[key] for key, one in told.items() if one.usable_s > 0}
    if not math.fsum(likely.values()):
        return dict(expected)
    mean = math.fsum(likely.values()) / len(likely)
    return {key: likely.get(key, mean) for key in expected}


def _floored(at: datetime) -> datetime:
    return datetime.fromtimestamp(at.timestamp() // STEP_S * STEP_S, UTC)


def _ceiled(at: datetime) -> datetime:
    floored = _floored(at)
    return at if floored == at else datetime.fromtimestamp(floored.timestamp() + STEP_S, UTC)


def _utc(at: datetime) -> pl.Expr:
    return pl.lit(at.astimezone(UTC)).dt.convert_time_zone("UTC").dt.cast_time_unit("us")
