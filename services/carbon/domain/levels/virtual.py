"""A virtual meter among the levels: what is computed of its circuits, as a frame of intervals of one circuit."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

import numpy as np
import polars as pl

from services.carbon.domain.intervals import STEP_S, Grade, Intervals
from services.carbon.domain.levels.energy import SCHEMA
from services.carbon.domain.virtual import VirtualMeter, circuits_behind, compute

STEP_US = round(STEP_S * 1e6)


def virtual_by_site(
    intervals: pl.DataFrame, meter: str, meters: Mapping[str, VirtualMeter], start: datetime, end: datetime
) -> pl.DataFrame:
    """Return what of a virtual meter is of which site, so that each takes its own factor.

    A virtual meter is linear: with the circuits of all other sites at zero it is what its own site's circuits make of
    it. What it has as a constant belongs to no circuit and is divided by the weights of the sites' circuits.

    Args:
        intervals: As ``virtual_intervals``, with ``site_id``: where each circuit was at that time.
        meter: Which.
        meters: All definitions that it refers to.
        start: Start of the span, on the quarter-hour grid.
        end: End of the span, on the grid.

    Returns:
        ``site_id``, ``circuit_id`` (of the meter), ``start``, ``energy_kwh`` of the quarter hours that are known.
    """
    bare = {name: replace(one, constant_kw=0.0) for name, one in meters.items()}
    factors = circuits_behind(meter, meters)
    keys = ["circuit_id", "start"]
    whole = virtual_intervals(intervals, meter, meters, start, end).filter(pl.col("energy_kwh").is_not_null())
    found = [whole.clear().select(pl.lit("").alias("site_id"), *keys, "energy_kwh")]
    weights: dict[str, float] = {}
    for site in sorted(intervals["site_id"].unique().to_list()):
        mine = intervals.filter(pl.col("site_id") == site)
        others = pl.when(pl.col("energy_kwh").is_null()).then(None)
        own = others.when(pl.col("site_id") == site).then(pl.col("energy_kwh")).otherwise(0.0)
        part = virtual_intervals(intervals.with_columns(own.alias("energy_kwh")), meter, bare, start, end)
        found.append(part.select(pl.lit(site).alias("site_id"), *keys, "energy_kwh").join(whole.select(keys), on=keys))
        weights[site] = sum(abs(factors.get(circuit, 0.0)) for circuit in mine["circuit_id"].unique().to_list())
    parts = pl.concat(found)
    constant = whole.select(*keys, pl.col("energy_kwh").alias("whole")).join(
        parts.group_by(keys).agg(pl.col("energy_kwh").sum().alias("own")), on=keys
    )
    heft = sum(weights.values()) or 1.0
    shares = pl.DataFrame(
        [(site, weight / heft) for site, weight in weights.items()],
        schema={"site_id": pl.String, "share": pl.Float64},
        orient="row",
    )
    has_constant = any(one.constant_kw for one in meters.values())
    rest = (pl.col("whole") - pl.col("own")) * pl.col("share") if has_constant else pl.lit(0.0)
    return (
        parts.join(constant, on=keys)
        .join(shares, on="site_id")
        .select("site_id", *keys, (pl.col("energy_kwh") + rest).alias("energy_kwh"))
        .sort("site_id", "start")
    )


def virtual_intervals(
    intervals: pl.DataFrame, meter: str, meters: Mapping[str, VirtualMeter], start: datetime, end: datetime
) -> pl.DataFrame:
    """Return the intervals of a virtual meter under its own id; null where a part that it needs is unknown.

    Args:
        intervals: Frame of intervals of the circuits behind it.
        meter: Which.
        meters: All definitions that it refers to.
        start: Start of the span, on the quarter-hour grid.
        end: End of the span, on the grid.

    Returns:
        One row for each quarter hour that one of the circuits has a row of.
    """
    steps = max(round((end - start).total_seconds() / STEP_S), 0)
    first_us = round(start.timestamp() * 1e6)
    grid = start.timestamp() + STEP_S * np.arange(steps, dtype=np.float64)
    by_circuit = intervals.partition_by("circuit_id", as_dict=True)
    rows = np.zeros(steps, np.bool_)
    uncertain = np.zeros(steps, np.bool_)
    parts: dict[str, Intervals] = {}
    for name in circuits_behind(meter, meters):
        energy = np.full(steps, np.nan)
        grade = np.full(steps, Grade.MISSING, np.int8)
        lower = np.zeros(steps, np.bool_)
        held = by_circuit.get((name,))
        if held is not None:
            place = (held["start"].dt.epoch("us").to_numpy() - first_us) // STEP_US
            inside = (place >= 0) & (place < steps)
            place = place[inside]
            energy[place] = held["energy_kwh"].fill_null(float("nan")).to_numpy()[inside]
            grade[place] = held["grade"].to_numpy()[inside]
            lower[place] = held["lower_bound"].to_numpy()[inside]
            uncertain[place] |= held["uncertain"].to_numpy()[inside]
            rows[place] = True
        parts[name] = Intervals(grid, energy, grade, lower, STEP_S)
    found = compute(meter, meters, parts.__getitem__)
    return pl.DataFrame(
        {
            "circuit_id": pl.Series([meter] * int(rows.sum()), dtype=pl.String),
            "start": pl.Series(np.rint(grid[rows] * 1e6).astype(np.int64))
            .cast(pl.Datetime("us"))
            .dt.replace_time_zone("UTC"),
            "energy_kwh": pl.Series(found.energy_kwh[rows]).fill_nan(None),
            "grade": found.grade[rows],
            "lower_bound": found.lower_bound[rows],
            "uncertain": uncertain[rows],
            "provisional": np.zeros(int(rows.sum()), np.bool_),
        },
        schema=SCHEMA,
    )
