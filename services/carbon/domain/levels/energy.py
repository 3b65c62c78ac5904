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
from datetime import datetime

import polars as pl

from libs.common.ids import CircuitId
from services.carbon.domain.intervals import STEP_S, Grade
from services.carbon.domain.levels.cover import Term
from services.carbon.domain.levels.periods import Step, period_of, periods

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
    standing_in = (
        _inside(intervals.join(parts, on="circuit_id"))
        .filter(pl.col("energy_kwh").is_not_null())
        .join(known.select("term", "start"), on=["term", "start"], how="anti")
        .group_by("term", "whole", "site_id", "start", "expected")
        .agg(
            pl.len().alias("found"),
            pl.col("energy_kwh").sum(),
            pl.max_horizontal(pl.col("grade").max(), pl.lit(int(Grade.INTERPOLATED), pl.Int8)).cast(pl.Int8),
            pl.col("lower_bound").any(),
            pl.col("uncertain").any(),
            pl.col("provisional").any(),
        )
        .filter(pl.col("found") == pl.col("expected"))
        .with_columns(pl.lit(True).alias("from_parts"))
        .rename({"whole": "circuit_id"})
    )
    unknown = own.filter(pl.col("energy_kwh").is_null()).join(
        standing_in.select("term", "start"), on=["term", "start"], how="anti"
    )
    return pl.concat([one.select(NODE_SCHEMA.keys()) for one in (known, standing_in, unknown)]).sort(
        "circuit_id", "start"
    )


def energy_by_period(
    found: pl.DataFrame,
    terms: Sequence[Term],
    *,
    step: Step,
    start: datetime,
    end: datetime,
    now: datetime,
    weights: Mapping[CircuitId, float] | None = None,
) -> pl.DataFrame:
    """Sum a node's intervals by civil period.

    The sum is over what is known; ``interval_completeness`` says how much of the expected that is, so a
    hole is never a silent zero. A period without any known interval has a null energy.

    Args:
        found: Frame of a node's intervals.
        terms: The node's terms; what they promise is what is expected.
        step: Length of a period.
        start: Start of the span, aware; whole periods around it are returned.
        end: End of the span, aware.
        now: The time of asking: a period that ends after it is provisional and only its past is expected.
        weights: Usual energy of an interval of each circuit, by which completeness is weighted [kWh]; None counts
            every circuit alike.

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
    weight = _weights(terms, weights)
    sums = (
        found.with_columns(period_of(step).alias("period"))
        .join(weight, on="circuit_id")
        .group_by("period")
        .agg(
            _sum_known("energy_kwh"),
            pl.col("weight")
            .filter((pl.col("grade") == int(Grade.MEASURED)) & ~pl.col("provisional"))
            .sum()
            .alias("measured"),
            pl.col("weight").filter(pl.col("energy_kwh").is_not_null() & ~pl.col("provisional")).sum().alias("usable"),
            pl.col("energy_kwh").filter(pl.col("grade").is_in([1, 2])).sum().alias("estimated_kwh"),
            pl.col("energy_kwh").filter(pl.col("from_parts")).sum().alias("parts_kwh"),
            pl.col("provisional").any().alias("running"),
            pl.col("lower_bound").any(),
            pl.col("uncertain").any(),
        )
    )
    return (
        whole.with_columns(_expected(whole, terms, now, weight))
        .join(sums, left_on="start", right_on="period", how="left")
        .select(
            "start",
            "end",
            "energy_kwh",
            (pl.col("end") > now).alias("provisional") | pl.col("running").fill_null(False),
            _ratio("measured").alias("interval_completeness"),
            _ratio("usable").alias("usable_share"),
            _share("estimated_kwh").alias("estimated_share"),
            _share("parts_kwh").alias("from_parts_share"),
            pl.col("lower_bound").fill_null(False),
            pl.col("uncertain").fill_null(False),
        )
        .sort("start")
    )


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
    return (
        found.filter(~pl.col("provisional"))
        .group_by("start")
        .agg(
            pl.col("energy_kwh").is_not_null().sum().cast(pl.Int64).alias("known"),
            pl.col("energy_kwh").sum(),
            pl.col("grade").max(),
        )
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


def _sum_known(name: str) -> pl.Expr:
    return pl.when(pl.col(name).is_not_null().any()).then(pl.col(name).sum()).alias(name)


def _ratio(name: str) -> pl.Expr:
    return pl.when(pl.col("expected") > 0).then((pl.col(name).fill_null(0.0) / pl.col("expected")).clip(0.0, 1.0))


def _share(name: str) -> pl.Expr:
    return pl.when(pl.col("energy_kwh") > 0).then(pl.col(name) / pl.col("energy_kwh")).otherwise(0.0)


def _weights(terms: Sequence[Term], weights: Mapping[CircuitId, float] | None) -> pl.DataFrame:
    """Return the weight of each circuit; one whose use is not known weighs as the mean of the others does."""
    circuits = sorted({one.circuit for one in terms})
    usual = {circuit: weights[circuit] for circuit in circuits if weights is not None and circuit in weights}
    mean = sum(usual.values()) / len(usual) if usual else 0.0
    alike = mean <= 0.0  # nothing is used anywhere, or nothing is known: every interval counts the same
    return pl.DataFrame(
        [(circuit, 1.0 if alike else usual.get(circuit, mean)) for circuit in circuits],
        schema={"circuit_id": pl.String, "weight": pl.Float64},
        orient="row",
    )


def _expected(whole: pl.DataFrame, terms: Sequence[Term], now: datetime, weight: pl.DataFrame) -> pl.Series:
    """Return the weight of the intervals that each period should have by now. Shape (periods,)."""
    by_circuit = dict(weight.iter_rows())
    # Terms of one span are counted together: a province has thousands of them, and few spans.
    spans: dict[tuple[datetime, datetime], float] = {}
    for one in terms:
        key = (_ceiled(one.start), _ceiled(one.end))
        spans[key] = spans.get(key, 0.0) + by_circuit[one.circuit]
    total = pl.Series("expected", [0.0] * whole.height, dtype=pl.Float64)
    past_end = pl.min_horizontal(pl.col("end"), pl.lit(now).dt.convert_time_zone("UTC"))
    for (first, last), weighs in spans.items():
        steps = (
            pl.min_horizontal(past_end, pl.lit(last).dt.convert_time_zone("UTC"))
            - pl.max_horizontal(pl.col("start"), pl.lit(first).dt.convert_time_zone("UTC"))
        ).dt.total_seconds() // int(STEP_S)
        total = total + whole.select(steps.clip(0).cast(pl.Float64).alias("expected"))["expected"] * weighs
    return total.alias("expected")


def _ceiled(at: datetime) -> datetime:
    """Return the first interval's start at or after a time."""
    beyond = at.timestamp() % STEP_S
    return at if not beyond else datetime.fromtimestamp(at.timestamp() - beyond + STEP_S, at.tzinfo)
