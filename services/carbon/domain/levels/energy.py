"""Energy of a node from the intervals of its terms, with its completeness beside it.

Frame of intervals, as they are booked: one row per circuit and quarter hour.

    circuit_id: String
    start: Datetime[us, UTC]     start of the interval
    energy_kwh: Float64 [kWh]    null where it is unknown
    grade: Int8                  0 measured, 1 interpolated, 2 allocated, 3 missing
    lower_bound: Boolean         a register was reset inside
    uncertain: Boolean           a register behind it was flagged
    provisional: Boolean         the interval is still running

Frame of a node's intervals: the same for its terms, each with ``site_id: String`` and ``from_parts: Boolean``, whether
the sum of the next level stands in for the circuit.

Source:
    The platform's energy methods, sections 0 to 2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from libs.common.ids import CircuitId, SiteId
from services.carbon.domain.intervals import STEP_S, Grade
from services.carbon.domain.levels.cover import Term
from services.carbon.domain.levels.periods import Shift, Step, in_shift, period_of, periods
from services.carbon.domain.sums import rounded_sums

SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "circuit_id": pl.String,
    "start": pl.Datetime("us", "UTC"),
    "energy_kwh": pl.Float64,
    "grade": pl.Int8,
    "lower_bound": pl.Boolean,
    "uncertain": pl.Boolean,
    "provisional": pl.Boolean,
}
_TERMS: dict[str, pl.DataType | type[pl.DataType]] = {
    "term": pl.UInt32,
    "circuit_id": pl.String,
    "site_id": pl.String,
    "term_start": pl.Datetime("us", "UTC"),
    "term_end": pl.Datetime("us", "UTC"),
}
NODE_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "circuit_id": pl.String,
    "site_id": pl.String,
    "start": pl.Datetime("us", "UTC"),
    "energy_kwh": pl.Float64,
    "grade": pl.Int8,
    "lower_bound": pl.Boolean,
    "uncertain": pl.Boolean,
    "provisional": pl.Boolean,
    "from_parts": pl.Boolean,
}
_TIME = pl.Datetime("us", "UTC")
ROUNDING = 1e-9
"""Sums of weights that differ by less than this share of the largest are equal."""
STEPS_PER_HOUR = 3600 / STEP_S


def running_frame(running: Sequence[tuple[CircuitId, datetime, float]]) -> pl.DataFrame:
    """Return the frame of intervals that still run: (circuit, start, energy so far [kWh])."""
    rows = [(circuit, start, energy, int(Grade.MEASURED), False, False, True) for circuit, start, energy in running]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def circuits_of(terms: Sequence[Term]) -> list[CircuitId]:
    """Return every circuit whose intervals the terms may need."""
    return sorted({circuit for term in terms for circuit in (term.circuit, *term.parts)})


def node_intervals(intervals: pl.DataFrame, terms: Sequence[Term]) -> pl.DataFrame:
    """Return the intervals of a node's terms, with the next level standing in where it is complete.

    What stands in is an estimate at best: nobody measured whether the next level is all there is.
    """
    wanted = pl.DataFrame(
        [(index, one.circuit, one.site, one.start, one.end) for index, one in enumerate(terms)],
        schema=_TERMS,
        orient="row",
    )
    own = _inside(intervals.join(wanted, on="circuit_id")).with_columns(pl.lit(False).alias("from_parts"))
    parts = pl.DataFrame(
        [
            (index, part, one.circuit, one.site, one.start, one.end, len(one.parts))
            for index, one in enumerate(terms)
            for part in one.parts
        ],
        schema={
            "term": pl.UInt32,
            "circuit_id": pl.String,
            "whole": pl.String,
            "site_id": pl.String,
            "term_start": pl.Datetime("us", "UTC"),
            "term_end": pl.Datetime("us", "UTC"),
            "expected": pl.UInt32,
        },
        orient="row",
    )
    if parts.is_empty():
        return own.select(NODE_SCHEMA.keys()).sort("circuit_id", "start")
    known = own.filter(pl.col("energy_kwh").is_not_null())
    below = (
        _inside(intervals.join(parts, on="circuit_id"))
        .filter(pl.col("energy_kwh").is_not_null())
        .join(known.select("term", "start"), on=["term", "start"], how="anti")
    )
    standing_in = (
        below.group_by("term", "whole", "site_id", "start", "expected")
        .agg(
            pl.len().alias("found"),
            pl.max_horizontal(pl.col("grade").max(), pl.lit(int(Grade.INTERPOLATED), pl.Int8)).cast(pl.Int8),
            pl.col("lower_bound").any(),
            pl.col("uncertain").any(),
            pl.col("provisional").any(),
        )
        .filter(pl.col("found") == pl.col("expected"))
        .join(rounded_sums(below, "energy_kwh", ["term", "start"]), on=["term", "start"])
        .with_columns(pl.lit(True).alias("from_parts"))
        .rename({"whole": "circuit_id"})
    )
    unknown = own.filter(pl.col("energy_kwh").is_null()).join(
        standing_in.select("term", "start"), on=["term", "start"], how="anti"
    )
    return pl.concat([one.select(NODE_SCHEMA.keys()) for one in (known, standing_in, unknown)]).sort(
        "circuit_id", "start"
    )


@dataclass(frozen=True, slots=True)
class Absence:
    """A time in which nothing is expected of a site or one of its circuits: a recorded outage."""

    site: SiteId
    circuit: CircuitId | None
    """None for all circuits of the site."""
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Promise:
    """What intervals a node should have, and how much each of them weighs."""

    terms: Sequence[Term]
    now: datetime
    """The time of asking: a period that ends after it is provisional and only its past is expected."""
    weights: Mapping[CircuitId, float] = field(default_factory=dict)
    """Usual energy of an interval of each circuit, by which completeness is weighted; empty counts all alike. [kWh]"""
    absences: Sequence[Absence] = ()
    shift: Shift | None = None
    """Only the quarter hours of this part of the day."""


def energy_by_period(
    found: pl.DataFrame, promise: Promise, *, step: Step, start: datetime, end: datetime
) -> pl.DataFrame:
    """Sum a node's intervals by civil period.

    The sum is over what is known; ``interval_completeness`` says how much of the expected that is, so a
    hole is never a silent zero. A period without any known interval has a null energy.

    Args:
        found: Frame of a node's intervals.
        promise: What is expected of it.
        step: Length of a period.
        start: Start of the span, aware; whole periods around it are returned.
        end: End of the span, aware.

    Returns:
        One row per period that overlaps the span, sorted by ``start``:

        start, end: Datetime[us, UTC]
        energy_kwh: Float64 [kWh], null when unknown
        provisional: Boolean
        interval_completeness: Float64 [1], measured intervals over expected ones; null where none is expected
        usable_share: Float64 [1], intervals with an energy over expected ones; null where none is expected
        estimated_share: Float64 [1], share of the energy that was interpolated, allocated or stood in for
        from_parts_share: Float64 [1], share of the energy that the next level stood in for
        lower_bound, uncertain: Boolean
    """
    return _summed(found, promise, periods(step, start, end), period_of(step))


def energy_in_span(found: pl.DataFrame, promise: Promise, *, start: datetime, end: datetime) -> dict[str, Any]:
    """Return the one row of ``energy_by_period`` for a span whose ends lie on the quarter-hour grid."""
    whole = pl.DataFrame({"start": [start], "end": [end]}, schema=dict.fromkeys(("start", "end"), _TIME))
    inside = (pl.col("start") >= start) & (pl.col("start") < end)
    return _summed(found.filter(inside), promise, whole, pl.lit(start).cast(_TIME)).row(0, named=True)


def due_by_circuit(
    found: pl.DataFrame, promise: Promise, *, start: datetime, end: datetime
) -> list[tuple[CircuitId, float, int, int]]:
    """Return (circuit, weight [kWh], measured intervals, expected ones) of a span of the grid, by circuit.

    ``interval_completeness`` of the span is the sum of weight times measured over that of weight times expected.
    """
    step_s, first_s = int(STEP_S), start.timestamp()
    count = max(int((min(end, promise.now).timestamp() - first_s) // step_s), 0)

    def inside(one: Term | Absence) -> slice:
        return slice(*(max(0, int(-(-(at.timestamp() - first_s) // step_s))) for at in (one.start, one.end)))

    measured = found.filter(~pl.col("provisional") & (pl.col("grade") == int(Grade.MEASURED)))
    places = {
        circuit: ((rows["start"].dt.epoch("s").to_numpy() - first_s) // step_s).astype(np.int64)
        for (circuit,), rows in measured.partition_by("circuit_id", as_dict=True).items()
    }
    answers = []
    for circuit, weight in _weights(promise.terms, promise.weights).items():
        due = np.zeros(count, np.bool_)
        for term in (one for one in promise.terms if one.circuit == circuit):
            due[inside(term)] = True
            for absence in promise.absences:
                if absence.site == term.site and absence.circuit in (None, circuit):
                    due[inside(absence)] = False
        at = places.get(circuit, np.empty(0, np.int64))
        at = at[(at >= 0) & (at < count)]
        answers.append((circuit, weight, int(due[at].sum()), int(due.sum())))
    return answers


def known_energy(found: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """Return the known energy of each group: the sum of its circuits' sums, each of them rounded once.

    Args:
        found: ``circuit_id``, ``energy_kwh: Float64 [kWh]``, and the columns of ``by``.
        by: Columns that make a group.

    Returns:
        The columns of ``by`` and ``energy_kwh``; groups in which nothing is known are left out.
    """
    if "circuit_id" in by:
        return rounded_sums(found, "energy_kwh", by)
    return rounded_sums(rounded_sums(found, "energy_kwh", [*by, "circuit_id"]), "energy_kwh", by)


def totals(found: pl.DataFrame, terms: Sequence[Term]) -> pl.DataFrame:
    """Return a node's energy by quarter hour, null unless every term in force has one.

    Returns:
        One row per quarter hour that any term has, sorted by ``start``:

        start: Datetime[us, UTC]
        energy_kwh: Float64 [kWh], null where a term is unknown
        grade: Int8, the worst of the terms
    """
    edges = pl.DataFrame(
        [(_ceiled(one.start), 1) for one in terms] + [(_ceiled(one.end), -1) for one in terms],
        schema={"start": pl.Datetime("us", "UTC"), "change": pl.Int64},
        orient="row",
    )
    in_force = (
        edges.group_by("start")
        .agg(pl.col("change").sum())
        .sort("start")
        .select("start", pl.col("change").cum_sum().alias("expected"))
    )
    booked = found.filter(~pl.col("provisional"))
    return (
        booked.group_by("start")
        .agg(pl.col("energy_kwh").is_not_null().sum().cast(pl.Int64).alias("known"), pl.col("grade").max())
        .join(rounded_sums(booked, "energy_kwh", ["start"]), on="start", how="left")
        .sort("start")
        .join_asof(in_force, on="start", strategy="backward")
        .select(
            "start",
            pl.when(pl.col("known") == pl.col("expected")).then(pl.col("energy_kwh")).alias("energy_kwh"),
            "grade",
        )
    )


def every_interval(found: pl.DataFrame, terms: Sequence[Term], *, start: datetime, end: datetime) -> pl.DataFrame:
    """Return a row for every quarter hour that a node's terms promise in ``[start, end)``.

    Args:
        found: Frame of a node's intervals.
        terms: The node's terms.
        start: On the grid.
        end: On the grid.

    Returns:
        ``circuit_id``, ``start``, ``energy_kwh``, ``grade``, sorted by circuit and start; what was never booked
        is missing.
    """
    promised = [
        pl.DataFrame(
            {
                "start": pl.datetime_range(
                    first, last, interval=f"{int(STEP_S)}s", closed="left", time_unit="us", time_zone="UTC", eager=True
                )
            }
        ).select(pl.lit(one.circuit, pl.String).alias("circuit_id"), "start")
        for one in terms
        if (first := max(_ceiled(one.start), start)) < (last := min(_ceiled(one.end), end))
    ]
    if not promised:
        return pl.DataFrame(schema={name: SCHEMA[name] for name in ("circuit_id", "start", "energy_kwh", "grade")})
    return (
        pl.concat(promised)
        .join(found.select("circuit_id", "start", "energy_kwh", "grade"), on=["circuit_id", "start"], how="left")
        .with_columns(pl.col("grade").fill_null(int(Grade.MISSING)))
        .sort("circuit_id", "start")
    )


def _inside(joined: pl.DataFrame) -> pl.DataFrame:
    return joined.filter((pl.col("start") >= pl.col("term_start")) & (pl.col("start") < pl.col("term_end")))


def _ratio(name: str) -> pl.Expr:
    return pl.when(pl.col("expected") > 0.0).then((pl.col(name).fill_null(0.0) / pl.col("expected")).clip(0.0, 1.0))


def _share(name: str) -> pl.Expr:
    return pl.when(pl.col("energy_kwh") > 0).then(pl.col(name) / pl.col("energy_kwh")).otherwise(0.0)


def _summed(found: pl.DataFrame, promise: Promise, whole: pl.DataFrame, period: pl.Expr) -> pl.DataFrame:
    """Sum intervals by the periods of ``whole``; ``period`` gives the period's start of a row."""
    weights = _weights(promise.terms, promise.weights)
    weight = pl.DataFrame(list(weights.items()), schema={"circuit_id": pl.String, "weight": pl.Float64}, orient="row")
    if promise.shift is not None:
        found = found.filter(in_shift(promise.shift))
    due = _is_due(promise.absences) & ~pl.col("provisional")
    found = found.with_columns(period.alias("period")).join(weight, on="circuit_id")
    sums = (
        found.group_by("period")
        .agg(
            pl.col("weight").filter(due & (pl.col("grade") == int(Grade.MEASURED))).sum().alias("measured"),
            pl.col("weight").filter(due & pl.col("energy_kwh").is_not_null()).sum().alias("usable"),
            pl.col("energy_kwh").filter(pl.col("grade").is_in([1, 2])).sum().alias("estimated_kwh"),
            pl.col("energy_kwh").filter(pl.col("from_parts")).sum().alias("parts_kwh"),
            pl.col("provisional").any().alias("running"),
            pl.col("lower_bound").any(),
            pl.col("uncertain").any(),
        )
        .join(known_energy(found, ["period"]), on="period", how="left")
    )
    return (
        whole.join(_expected(whole, promise, weights, period), on="start", how="left")
        .join(sums, left_on="start", right_on="period", how="left")
        .select(
            "start",
            "end",
            "energy_kwh",
            (pl.col("end") > promise.now).alias("provisional") | pl.col("running").fill_null(False),
            _ratio("measured").alias("interval_completeness"),
            _ratio("usable").alias("usable_share"),
            _share("estimated_kwh").alias("estimated_share"),
            _share("parts_kwh").alias("from_parts_share"),
            pl.col("lower_bound").fill_null(False),
            pl.col("uncertain").fill_null(False),
        )
        .sort("start")
    )


def _is_due(absences: Sequence[Absence]) -> pl.Expr:
    """Return whether an interval is expected."""
    absent = [
        ((pl.col("site_id") == one.site) if one.circuit is None else (pl.col("circuit_id") == one.circuit))
        & (pl.col("start") >= one.start)
        & (pl.col("start") < one.end)
        for one in absences
    ]
    return ~pl.any_horizontal(absent) if absent else pl.lit(True)


def _weights(terms: Sequence[Term], usual: Mapping[CircuitId, float]) -> dict[CircuitId, float]:
    """Return the weight of each circuit; one whose use is not known weighs as the mean of the others does."""
    circuits = sorted({one.circuit for one in terms})
    known = [usual[circuit] for circuit in circuits if circuit in usual]
    mean = sum(known) / len(known) if known else 0.0
    if mean <= 0.0:  # nothing is used anywhere, or nothing is known: every interval counts the same
        return dict.fromkeys(circuits, 1.0)
    return {circuit: usual.get(circuit, mean) for circuit in circuits}


def _expected(
    whole: pl.DataFrame, promise: Promise, weights: Mapping[CircuitId, float], period: pl.Expr
) -> pl.DataFrame:
    """Return the weight of the intervals that each period should have by now: ``start``, ``expected``."""
    first, last = whole["start"].min(), whole["end"].max()
    assert isinstance(first, datetime)  # noqa: S101  # there is at least one period
    assert isinstance(last, datetime)  # noqa: S101
    first_s, step_s = first.timestamp(), int(STEP_S)
    count = int((min(last, promise.now).timestamp() - first_s) // step_s)
    count = max(count, 0)
    changes = np.zeros(count + 1)
    due = [(one.start, one.end, weights[one.circuit]) for one in promise.terms]
    for absence in promise.absences:
        due += [
            (max(one.start, absence.start), min(one.end, absence.end), -weights[one.circuit])
            for one in promise.terms
            if one.site == absence.site and absence.circuit in (None, one.circuit)
        ]
    for start, end, weight in due:
        if start < end:
            at = np.clip([-(-(edge.timestamp() - first_s) // step_s) for edge in (start, end)], 0, count).astype(int)
            changes[at[0]] += weight
            changes[at[1]] -= weight
    running = changes.cumsum()[:-1]
    running[np.abs(running) < ROUNDING * max(weights.values(), default=0.0)] = 0.0  # what differences of sums leave
    starts = pl.from_epoch(pl.Series("start", int(first_s) + step_s * np.arange(count)), "s")
    grid = pl.DataFrame({"start": starts.dt.cast_time_unit("us").dt.replace_time_zone("UTC"), "expected": running})
    if promise.shift is not None:
        grid = grid.filter(in_shift(promise.shift))
    counted = grid.select(period.alias("period"), "expected").group_by("period").agg(pl.col("expected").sum())
    return counted.rename({"period": "start"})


def _ceiled(at: datetime) -> datetime:
    """Return the first interval's start at or after a time."""
    beyond = at.timestamp() % STEP_S
    return at if not beyond else datetime.fromtimestamp(at.timestamp() - beyond + STEP_S, at.tzinfo)
