"""Intervals for tests of levels: built by hand, and those of one really measured household."""

import csv
import gzip
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files

import numpy as np
import polars as pl

from libs.common.clock import CIVIL_ZONE
from services.carbon.domain.intervals import Grade, align
from services.carbon.domain.levels.energy import SCHEMA
from services.carbon.domain.registers import Series, accumulate

START = datetime(2026, 3, 1, 16, tzinfo=UTC)
"""Midnight of Monday, 2 March in the civil zone."""
QUARTER = timedelta(minutes=15)

HOUSEHOLD = ("feed", "kitchen", "laundry", "heater", "rest")
"""The feed, three circuits with a meter, and everything else behind the feed."""

Row = tuple[str, int, float | None, Grade]


def frame(rows: Sequence[Row], *, provisional: bool = False) -> pl.DataFrame:
    """Return intervals of (circuit, quarter after START, energy [kWh], grade)."""
    return pl.DataFrame(
        [
            (circuit, START + number * QUARTER, energy, int(grade), False, False, provisional)
            for circuit, number, energy, grade in rows
        ],
        schema=SCHEMA,
        orient="row",
    )


def measured(circuit: str, energies: Sequence[float | None], first: int = 0) -> list[Row]:
    """Return rows of one circuit; None is booked as missing."""
    return [
        (circuit, first + index, energy, Grade.MISSING if energy is None else Grade.MEASURED)
        for index, energy in enumerate(energies)
    ]


@cache
def household_minutes() -> Mapping[str, list[tuple[float, float]]]:
    """Return (time [s], energy until then [Wh]) of the household's feed and of what is behind it.

    Source: UCI Machine Learning Repository 235 (Hebrail and Berard, CC BY 4.0), one minute means; its local times are
    taken as civil ones. Four minutes are missing.
    """
    packed = (files("libs.fieldsim") / "data" / "uci_household_power_200612.csv.gz").read_bytes()
    found: dict[str, list[tuple[float, float]]] = {
        name: [] for name in ("feed", "kitchen", "laundry", "heater", "rest")
    }
    sums = dict.fromkeys(found, 0.0)
    for row in csv.DictReader(gzip.decompress(packed).decode().splitlines()):
        at = datetime.fromisoformat(row["time_local"]).replace(tzinfo=CIVIL_ZONE).timestamp()
        if not found["feed"]:
            for name in found:
                found[name].append((at, 0.0))
        subs = [float(row[f"sub_metering_{number}_wh"]) for number in (1, 2, 3)]
        feed = float(row["global_active_power_kw"]) * 1000 / 60
        for name, energy in zip(found, (feed, *subs, feed - sum(subs)), strict=True):
            sums[name] += energy
            found[name].append((at + 60, sums[name]))
    return found


@cache
def household(name: str) -> pl.DataFrame:
    """Return the booked intervals of one of the household's circuits, made as carbon makes them."""
    rows = household_minutes()[name]
    at = np.array([row[0] for row in rows])
    # "Everything else" is a difference of rounded figures and falls by parts of a watt-hour at times.
    shown = np.maximum.accumulate(np.array([row[1] for row in rows]) / 1000)
    cumulative = accumulate([Series(at=at, shown_kwh=shown)])
    found = align(cumulative, first=float(at[0] // 900 * 900), last=float(at[-1] // 900 * 900))
    return pl.DataFrame(
        {
            "circuit_id": [name] * found.start.size,
            "start": pl.Series((found.start * 1_000_000).astype(np.int64))
            .cast(pl.Datetime("us"))
            .dt.replace_time_zone("UTC"),
            "energy_kwh": pl.Series(found.energy_kwh).fill_nan(None),
            "grade": found.grade,
            "lower_bound": found.lower_bound,
            "uncertain": np.zeros(found.start.size, np.bool_),
            "provisional": np.zeros(found.start.size, np.bool_),
        },
        schema=SCHEMA,
    )


def register_kwh(name: str, at: datetime) -> float:
    """Return what a meter of the circuit would show at a time: linear between two minutes. [kWh]"""
    rows = household_minutes()[name]
    wanted = at.timestamp()
    right = bisect_left(rows, (wanted, float("-inf")))
    (t1, e1), (t0, e0) = rows[right], rows[max(right - 1, 0)]
    return (e1 if t1 == wanted else e0 + (e1 - e0) * (wanted - t0) / (t1 - t0)) / 1000
