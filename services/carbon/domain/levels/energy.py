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
from numpy.typing import NDArray

from libs.common.clock import CIVIL_ZONE
from libs.common.ids import CircuitId, SiteId
from services.carbon.domain.cells import Layout, gathered, lay_out, sum_of_circuits
from services.carbon.domain.intervals import STEP_S, Grade
from services.carbon.domain.levels.cover import Term
from services.carbon.domain.levels.periods import Shift, Step, in_shift, period_of, periods
from services.carbon.domain.sums import rounded, rounded_sums

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
_DUE: dict[str, pl.DataType | type[pl.DataType]] = {
    "circuit_id": pl.String,
    "site_id": pl.String,
    "first": _TIME,
    "end": _TIME,
    "sign": pl.Int64,
}
_KINDS = ("grade", "lower_bound", "uncertain", "provisional", "from_parts", "due")
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
    whole = periods(step, start, end)
    cells = energy_cells(found, lay_out(whole["start"][0], whole["end"][-1], period_of(step)), promise)
    return energy_of(cells, promise, whole)


def energy_in_span(found: pl.DataFrame, promise: Promise, *, start: datetime, end: datetime) -> dict[str, Any]:
    """Return the one row of ``energy_by_period`` for a span whose ends lie on the quarter-hour grid."""
    whole = pl.DataFrame({"start": [start], "end": [end]}, schema=dict.fromkeys(("start", "end"), _TIME))
    cells = energy_cells(found, lay_out(start, end, pl.lit(start).cast(_TIME)), promise)
    return energy_of(cells, promise, whole).row(0, named=True)


def energy_cells(found: pl.DataFrame, layout: Layout, promise: Promise) -> pl.DataFrame:
    """Return the cells (``domain/cells.py``) of a node's intervals, with all that energy and completeness need.

    Circuits and sites may be categories too, as in columnar files, which are faster to compare.
    """
    if promise.shift is not None:
        found = found.filter(in_shift(promise.shift))
    due = found.with_columns(_is_due(promise.absences).alias("due"))
    cells = gathered(due, layout, by=["circuit_id", "site_id"], kinds=_KINDS)
    return cells.with_columns(pl.col("circuit_id", "site_id").cast(pl.String))


def energy_of(
    cells: pl.DataFrame, promise: Promise, whole: pl.DataFrame, *, by_site: bool = False, per_step: int = 1
) -> pl.DataFrame:
    """Return what ``energy_by_period`` returns from the cells of the intervals.

    Args:
        cells: As ``energy_cells`` returns them, of one piece or merged.
        promise: What is expected of the node.
        whole: The periods: ``start``, ``end``, one after the other.
        by_site: Whether every site of the terms is a node of its own, with its ``site_id`` as first column.
        per_step: Slots of an interval.
    """
    by = ["site_id"] if by_site else []
    weights = _weights(promise, by)
    weight = pl.col("weight") / per_step
    due = pl.col("due") & ~pl.col("provisional")
    promised = cells.join(weights, on=[*by, "circuit_id"]).with_columns(rounded().alias("cell_kwh"))
    sums = (
        promised.group_by(*by, "period")
        .agg(
            (weight * pl.col("slots")).filter(due & (pl.col("grade") == int(Grade.MEASURED))).sum().alias("measured"),
            (weight * (pl.col("slots") - pl.col("unknown"))).filter(due).sum().alias("usable"),
            pl.col("cell_kwh").filter(pl.col("grade").is_in([1, 2])).sum().alias("estimated_kwh"),
            pl.col("cell_kwh").filter(pl.col("from_parts")).sum().alias("parts_kwh"),
            pl.col("provisional").any().alias("running"),
            pl.col("lower_bound").any(),
            pl.col("uncertain").any(),
        )
        .join(sum_of_circuits(promised, [*by, "period"]), on=[*by, "period"], how="left")
    )
    return (
        _expected(whole, promise, weights, by)
        .join(sums, left_on=[*by, "start"], right_on=[*by, "period"], how="left")
        .select(
            *by,
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
        .sort(*by, "start")
    )


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
    for circuit, weight in _weights(promise, []).iter_rows():
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


def energy_of_years(found: pl.DataFrame) -> pl.DataFrame:
    """Return the known energy of each site in each civil year, by both: ``site_id``, ``year``, ``energy_kwh``."""
    year = pl.col("start").dt.convert_time_zone(CIVIL_ZONE.key).dt.year().alias("year")
    return known_energy(found.with_columns(year), ["site_id", "year"]).sort("site_id", "year")


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


def _is_due(absences: Sequence[Absence]) -> pl.Expr:
    """Return whether an interval is expected."""
    absent = [
        ((pl.col("site_id") == one.site) if one.circuit is None else (pl.col("circuit_id") == one.circuit))
        & (pl.col("start") >= one.start)
        & (pl.col("start") < one.end)
        for one in absences
    ]
    return ~pl.any_horizontal(absent) if absent else pl.lit(True)


def _weights(promise: Promise, by: Sequence[str]) -> pl.DataFrame:
    """Return the weight of each circuit of each node: the columns of ``by``, ``circuit_id``, ``weight``, sorted.

    One whose use is not known weighs as the mean of the others of its node does.
    """
    node = [*by, "circuit_id"]
    usual = pl.DataFrame(
        {"circuit_id": list(promise.weights), "usual": list(promise.weights.values())},
        schema={"circuit_id": pl.String, "usual": pl.Float64},
    )
    mean = pl.col("usual").mean().over(by) if by else pl.col("usual").mean()
    return (
        pl.DataFrame(
            {"circuit_id": [one.circuit for one in promise.terms], "site_id": [one.site for one in promise.terms]},
            schema={"circuit_id": pl.String, "site_id": pl.String},
        )
        .select(node)
        .unique()
        .sort(node)
        .join(usual, on="circuit_id", how="left", maintain_order="left")
        .with_columns(mean.alias("mean"))
        .select(
            *node,
            # Nothing is used anywhere, or nothing is known: every interval counts the same.
            pl.when(pl.col("mean") > 0.0).then(pl.coalesce("usual", "mean")).otherwise(1.0).alias("weight"),
        )
    )


def _expected(whole: pl.DataFrame, promise: Promise, weights: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """Return the weight of the intervals that each node should have by now in each period.

    A term that begins adds the rest of its period, and every later one as a whole; one that ends takes them away.

    Returns:
        The columns of ``by``, ``start``, ``end``, ``expected``, for each node every period.
    """
    edges = np.append(whole["start"].dt.epoch("s").to_numpy(), whole["end"].dt.epoch("s").to_numpy()[-1:])
    edges = (edges - edges[0]) // int(STEP_S)
    counted = _counted(promise, whole["start"][0], int(edges[-1]))
    nodes = weights.select(by).unique(maintain_order=True).with_row_index("node") if by else None
    due = _due(promise, whole["start"][0], int(edges[-1])).join(weights, on=[*by, "circuit_id"], how="left")
    number = np.zeros(due.height, np.int64)
    if nodes is not None:
        number = due.join(nodes, on=by, how="left", maintain_order="left")["node"].to_numpy().astype(np.int64)
    weight = due["weight"].to_numpy() * due["sign"].to_numpy()
    expected = np.zeros((1 if nodes is None else nodes.height, edges.size - 1))
    begun = np.zeros((expected.shape[0], edges.size))  # what is in force from the start of each period on
    for changes, column in ((weight, "first"), (-weight, "end")):
        at = due[column].to_numpy()
        period = np.clip(np.searchsorted(edges, at, side="right") - 1, 0, edges.size - 2)
        np.add.at(expected, (number, period), changes * (counted[edges[period + 1]] - counted[at]))
        np.add.at(begun, (number, period + 1), changes)
    expected += begun[:, :-1].cumsum(axis=1) * np.diff(counted[edges])
    heaviest = float(np.abs(weight).max(initial=0.0))
    expected[np.abs(expected) < ROUNDING * heaviest] = 0.0  # what differences of sums leave
    spans = whole.select("start", "end")
    every = spans if nodes is None else nodes.select(by).join(spans, how="cross")
    return every.with_columns(pl.Series("expected", expected.ravel()))


def _counted(promise: Promise, first: datetime, count: int) -> NDArray[np.int64]:
    """Return how many intervals before each of a span are over and of the shift. Shape (count + 1,)."""
    over = (promise.now - first).total_seconds() // STEP_S
    counts = np.arange(count) < over
    if promise.shift is not None:
        starts = pl.from_epoch(pl.Series("start", int(first.timestamp()) + int(STEP_S) * np.arange(count)), "s")
        inside = pl.DataFrame({"start": starts.dt.replace_time_zone("UTC")}).select(in_shift(promise.shift))
        counts &= inside.to_series().to_numpy()
    return np.append(0, counts.cumsum())


def _due(promise: Promise, first: datetime, count: int) -> pl.DataFrame:
    """Return when each circuit is expected, and where an absence takes that back.

    Returns:
        ``circuit_id``, ``site_id``, ``first``, ``end`` as numbers of intervals from ``first`` on, ``count`` at most,
        and ``sign``: 1, or -1 where it is taken back.
    """
    rows = [(one.circuit, one.site, one.start, one.end, 1) for one in promise.terms]
    rows += [
        (one.circuit, one.site, max(one.start, absence.start), min(one.end, absence.end), -1)
        for absence in promise.absences
        for one in promise.terms
        if one.site == absence.site and absence.circuit in (None, one.circuit)
    ]
    step_us = int(STEP_S) * 1_000_000
    since = pl.col("first", "end").dt.epoch("us") - int(first.timestamp()) * 1_000_000
    number = ((since + (step_us - 1)) // step_us).clip(0, count)  # the first interval at or after the time
    due = pl.DataFrame(rows, schema=_DUE, orient="row").with_columns(number)
    return due.filter(pl.col("first") < pl.col("end"))


def _ceiled(at: datetime) -> datetime:
    """Return the first interval's start at or after a time."""
    beyond = at.timestamp() % STEP_S
    return at if not beyond else datetime.fromtimestamp(at.timestamp() - beyond + STEP_S, at.tzinfo)
