"""Reports over very many intervals on one core: carbon's own beside the same work in DuckDB and pandas.

A year of 1,000 meters is made into files and read again, piece by piece: energy, completeness, time-of-use split and
location-based emissions by site and month. A day of 50,000 meters is added to what was kept of the day before it, and
the month's report is made of both. Every engine reads the same files in a process of its own that is bound to one core,
and all have to agree. Pandas is given the columns as numpy arrays, file by file: it reads no Parquet by itself.

    python -m libs.suite.bench carbon
    python -m libs.suite.bench_carbon_reports <engine> <folder>        one engine, over files that are there
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as wall_time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from libs.common.clock import CIVIL_ZONE
from libs.common.ids import CircuitId, SiteId
from libs.suite.sitereport import Span, gather, site_report
from services.carbon.domain.factors import Choice, Use
from services.carbon.domain.factors.places import Place
from services.carbon.domain.intervals import Grade
from services.carbon.domain.levels.cover import Term
from services.carbon.domain.levels.emission import FACTORS
from services.carbon.domain.levels.energy import NODE_SCHEMA, Promise
from services.carbon.domain.levels.periods import Step
from services.carbon.domain.tariff.grid import RateGrid, rate_grid
from services.carbon.domain.tariff.periods import DayCalendar, build_tariffs
from services.carbon.library import load_library
from services.carbon.tariff_file import SHIPPED, shipped_rows

A_DAY = 96
TARIFFS = (
    ("CN-44", "industrial_commercial"),
    ("CN-33", "large_industry"),
    ("CN-37", "industrial_commercial"),
    ("CN-11", "two_part"),
)
"""Region and class; each has a quarter of the sites."""
CATEGORIES = NODE_SCHEMA | {"circuit_id": pl.Categorical(), "site_id": pl.Categorical()}
"""Names that repeat for a year are kept as numbers; every engine may make of it what it can."""
AGREE = 1e-9
"""By how much the engines' figures may differ. [1]"""
PEERS = ("duckdb", "pandas")


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is made."""

    name: str
    sites: int
    meters: int
    """Per site."""
    first: date
    days: int
    """That are reported on."""
    kept_days: int
    """Before these, of which only what was gathered is kept."""
    meters_per_file: int
    """Of one tariff, of which each has a quarter of the sites."""

    @property
    def circuits(self) -> int:
        """Meters of all sites."""
        return self.sites * self.meters

    @property
    def rows(self) -> int:
        """Intervals that are read."""
        return self.circuits * self.days * A_DAY


YEAR = Scale("year", 100, 10, date(2025, 1, 1), 365, 0, 25)
DAY = Scale("day", 2000, 25, date(2025, 3, 2), 1, 1, 6250)


@dataclass(frozen=True, slots=True)
class Measured:
    """What one engine took."""

    engine: str
    seconds: float
    cpu_s: float
    peak_mb: float
    """Of the process, with Python and all libraries."""
    version: str


@dataclass(frozen=True, slots=True)
class Compared:
    """All engines on one scale."""

    scale: Scale
    ours: Measured
    others: Sequence[Measured]


def measure(scale: Scale) -> Compared:
    """Make the files, let every engine that is installed make the report, and compare what they say.

    Raises:
        RuntimeError: Two engines differ.
    """
    with tempfile.TemporaryDirectory(prefix="wattring-bench-") as place:
        folder = Path(place)
        make(folder, scale)
        ours, figures = _run("polars", folder)
        others = []
        for engine in PEERS:
            if find_spec(engine) is None:
                continue
            measured, theirs = _run(engine, folder)
            _check(engine, figures, theirs)
            others.append(measured)
    return Compared(scale, ours, others)


def make(folder: Path, scale: Scale) -> None:
    """Write the files of a scale: intervals, and what a report needs besides. The same each time."""
    (folder / "scale.json").write_text(json.dumps(scale.name), encoding="utf-8")
    circuits = [
        (f"circuit-{site * scale.meters + meter:06}", f"site-{site:05}", site * len(TARIFFS) // scale.sites)
        for site in range(scale.sites)
        for meter in range(scale.meters)
    ]
    size_kw = np.random.default_rng(7).uniform(0.5, 40.0, len(circuits))
    pl.DataFrame(
        circuits, schema={"circuit_id": pl.String, "site_id": pl.String, "tariff": pl.Int8}, orient="row"
    ).with_columns(pl.Series("weight", size_kw / 4)).write_parquet(folder / "circuits.parquet")
    for kind, first, days in (
        ("kept", scale.first - timedelta(days=scale.kept_days), scale.kept_days),
        ("rows", scale.first, scale.days),
    ):
        for begin in range(0, len(circuits) if days else 0, scale.meters_per_file):
            some = circuits[begin : begin + scale.meters_per_file]
            frame = _intervals(some, size_kw[begin : begin + len(some)], first, days, seed=begin + days)
            frame.cast(pl.Schema(CATEGORIES)).write_parquet(
                folder / f"{kind}-{some[0][2]}-{begin:06}.parquet", compression="lz4"
            )
    grids = _grids(scale)
    first_s = int(_midnight(_begin(scale)).timestamp())
    pl.concat(
        pl.DataFrame(
            {
                "tariff": pl.Series([number], dtype=pl.Int8).new_from_index(0, grid.code.size),
                "start": pl.Series((first_s + 900 * np.arange(grid.code.size)) * 1_000_000)
                .cast(pl.Datetime("us"))
                .dt.replace_time_zone("UTC"),
                "rate": grid.code,
            }
        )
        for number, grid in enumerate(grids)
    ).with_columns(
        pl.col("start")
        .dt.convert_time_zone(CIVIL_ZONE.key)
        .dt.truncate("1mo")
        .dt.convert_time_zone("UTC")
        .alias("month")
    ).write_parquet(folder / "slots.parquet")
    _factors(scale).write_parquet(folder / "factors.parquet")


def _intervals(
    circuits: Sequence[tuple[str, str, int]], size_kw: Any, first: date, days: int, *, seed: int
) -> pl.DataFrame:
    """Return intervals, one circuit after the other: a daily curve with noise, some estimated or missing."""
    generator = np.random.default_rng(seed)
    count, each = len(circuits), days * A_DAY
    curve = 0.55 + 0.45 * np.sin((np.arange(each) % A_DAY - 30) / A_DAY * 2 * np.pi)
    energy = size_kw[:, None] / 4 * curve * generator.uniform(0.7, 1.3, (count, each))
    chance = generator.random((count, each))
    grade = np.select(
        [chance < 0.003, chance < 0.006, chance < 0.012],
        [int(Grade.MISSING), int(Grade.ALLOCATED), int(Grade.INTERPOLATED)],
        int(Grade.MEASURED),
    ).astype(np.int8)
    start = int(_midnight(first).timestamp()) + 900 * np.arange(each)
    flags = pl.Series([False]).new_from_index(0, count * each)
    return pl.DataFrame(
        {
            "circuit_id": np.repeat([circuit for circuit, _, _ in circuits], each),
            "site_id": np.repeat([site for _, site, _ in circuits], each),
            "start": pl.Series(np.tile(start, count) * 1_000_000).cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
            # Meters count in hundredths of a kilowatt hour.
            "energy_kwh": pl.Series(np.where(grade == Grade.MISSING, np.nan, energy.round(2)).ravel()).fill_nan(None),
            "grade": grade.ravel(),
            "lower_bound": flags,
            "uncertain": flags,
            "provisional": flags,
            "from_parts": flags,
        },
        schema=NODE_SCHEMA,
    )


class Ours:
    """Carbon's own functions, over one tariff after the other."""

    version = f"polars {pl.__version__}"

    def __init__(self, folder: Path, scale: Scale) -> None:
        self._folder = folder
        circuits = pl.read_parquet(folder / "circuits.parquet")
        self._factors = pl.read_parquet(folder / "factors.parquet")
        start, end = _midnight(_begin(scale)), _midnight(_end(scale))
        now = end + timedelta(days=1)
        self._promises = []
        for (_,), some in circuits.partition_by("tariff", as_dict=True, maintain_order=True).items():
            weights = {CircuitId(circuit): weight for circuit, weight in some.select("circuit_id", "weight").rows()}
            terms = [
                Term(CircuitId(circuit), SiteId(site), start, end)
                for circuit, site in some.select("circuit_id", "site_id").rows()
            ]
            self._promises.append(Promise(terms, now, weights))
        self._spans = [Span(Step.MONTH, start, end, grid) for grid in _grids(scale)]
        self._kept = self._gathered("kept") if scale.kept_days else None

    def _gathered(self, kind: str) -> list[pl.DataFrame]:
        return [
            gather(
                map(pl.read_parquet, sorted(self._folder.glob(f"{kind}-{number}-*.parquet"))),
                self._promises[number],
                self._spans[number],
            )
            for number in range(len(TARIFFS))
        ]

    def run(self) -> Callable[[], dict[str, list[float]]]:
        """Make the report; return what tells its figures."""
        found = self._gathered("rows")
        if self._kept is not None:
            found = [pl.concat(pair) for pair in zip(self._kept, found, strict=True)]
        reports = [
            site_report(cells, promise, span, self._factors)
            for cells, promise, span in zip(found, self._promises, self._spans, strict=True)
        ]

        def figures() -> dict[str, list[float]]:
            told = {}
            for one in reports:
                for site, start, *values in one.energy.select(
                    "site_id", "start", "energy_kwh", "interval_completeness", "estimated_share", "emission_kg_co2"
                ).rows():
                    told[f"{site} {start.astimezone(CIVIL_ZONE):%Y-%m}"] = values
                for site, day, rate, energy in one.split.select("site_id", "period", "rate", "energy_kwh").rows():
                    told[f"{site} {day:%Y-%m} {rate}"] = [energy]
            return told

        return figures


class DuckDb:
    """The same in SQL."""

    def __init__(self, folder: Path, scale: Scale) -> None:
        import duckdb

        self.version = f"DuckDB {duckdb.__version__}"
        self._db = duckdb.connect()
        self._db.execute("set threads = 1")
        self._db.execute("set TimeZone = 'Asia/Shanghai'")
        self._folder = folder
        for name in ("circuits", "slots", "factors"):
            self._db.execute(f"create table {name} as from read_parquet('{folder / name}.parquet')")
        self._kept = scale.kept_days > 0
        if self._kept:
            self._gather("kept", "kept")

    def _gather(self, table: str, kind: str) -> None:
        self._db.execute(f"""
            create table {table} as
            select c.site_id, s.month, s.rate,
                   sum(i.energy_kwh) as energy_kwh,
                   sum(i.energy_kwh) filter (where i.grade in (1, 2)) as estimated_kwh,
                   sum(c.weight) filter (where i.grade = 0) as measured
              from read_parquet('{self._folder}/{kind}-*.parquet') i
              join circuits c on c.circuit_id = i.circuit_id
              join slots s on s.tariff = c.tariff and s.start = i.start
             group by all""")  # noqa: S608 - names of our own

    def run(self) -> Callable[[], dict[str, list[float]]]:
        """Make the report; return what tells its figures."""
        self._gather("found", "rows")
        if self._kept:
            self._db.execute("insert into found from kept")
        split = self._db.execute(
            "select site_id, month at time zone 'Asia/Shanghai', rate, sum(energy_kwh) from found group by all"
        ).fetchall()
        energy = self._db.execute("""
            with expected as (
                select c.site_id, s.month, sum(c.weight * s.steps) as expected
                  from circuits c
                  join (select tariff, month, count(*) as steps from slots group by all) s using (tariff)
                 group by all),
            summed as (
                select site_id, month, sum(energy_kwh) as energy_kwh, sum(estimated_kwh) as estimated_kwh,
                       sum(measured) as measured
                  from found group by all)
            select e.site_id, e.month at time zone 'Asia/Shanghai', s.energy_kwh, s.measured / e.expected,
                   s.estimated_kwh / s.energy_kwh, s.energy_kwh * f.factor_kg_per_kwh
              from expected e
              join summed s using (site_id, month)
              join factors f on f.site_id = e.site_id and f.year = year(e.month)""").fetchall()

        def figures() -> dict[str, list[float]]:
            told: dict[str, list[float]] = {f"{site} {month:%Y-%m}": values for site, month, *values in energy}
            return told | {f"{site} {month:%Y-%m} {rate}": [value] for site, month, rate, value in split}

        return figures


class Pandas:
    """The same in data frames."""

    def __init__(self, folder: Path, scale: Scale) -> None:
        import pandas as pd

        self.version = f"pandas {pd.__version__}"
        self._pd = pd
        self._folder = folder
        self._circuits, self._slots, self._factors = (
            self._frame(pl.read_parquet(folder / f"{name}.parquet")) for name in ("circuits", "slots", "factors")
        )
        self._kept = self._gathered("kept") if scale.kept_days else None

    def _frame(self, frame: pl.DataFrame) -> Any:
        return self._pd.DataFrame({name: frame[name].to_numpy() for name in frame.columns})

    def _gathered(self, kind: str) -> Any:
        found = []
        for path in sorted(self._folder.glob(f"{kind}-*.parquet")):
            rows = self._frame(pl.read_parquet(path, columns=["circuit_id", "start", "energy_kwh", "grade"]))
            rows = rows.merge(self._circuits, on="circuit_id").merge(self._slots, on=["tariff", "start"])
            rows["estimated_kwh"] = rows["energy_kwh"].where(rows["grade"].isin([1, 2]))
            rows["measured"] = rows["weight"].where(rows["grade"] == 0)
            sums = rows.groupby(["site_id", "month", "rate"])[["energy_kwh", "estimated_kwh", "measured"]].sum()
            found.append(sums.reset_index())
        return self._pd.concat(found)

    def run(self) -> Callable[[], dict[str, list[float]]]:
        """Make the report; return what tells its figures."""
        found = self._gathered("rows")
        if self._kept is not None:
            found = self._pd.concat([self._kept, found])
        split = found.groupby(["site_id", "month", "rate"], as_index=False)["energy_kwh"].sum()
        steps = self._slots.groupby(["tariff", "month"]).size().rename("steps").reset_index()
        weights = self._circuits.groupby(["site_id", "tariff"], as_index=False)["weight"].sum()
        expected = weights.merge(steps, on="tariff")
        sums = found.groupby(["site_id", "month"], as_index=False)[["energy_kwh", "estimated_kwh", "measured"]].sum()
        energy = sums.merge(expected, on=["site_id", "month"])
        energy["year"] = energy["month"].dt.tz_localize("UTC").dt.tz_convert(CIVIL_ZONE.key).dt.year
        energy = energy.merge(self._factors, on=["site_id", "year"])
        energy["completeness"] = energy["measured"] / (energy["weight"] * energy["steps"])
        energy["estimated"] = energy["estimated_kwh"] / energy["energy_kwh"]
        energy["emission"] = energy["energy_kwh"] * energy["factor_kg_per_kwh"]

        def named(month: Any) -> str:
            return f"{month.tz_localize('UTC').tz_convert(CIVIL_ZONE.key):%Y-%m}"

        def figures() -> dict[str, list[float]]:
            told = {
                f"{row.site_id} {named(row.month)}": [row.energy_kwh, row.completeness, row.estimated, row.emission]
                for row in energy.itertuples()
            }
            return told | {
                f"{row.site_id} {named(row.month)} {row.rate}": [row.energy_kwh] for row in split.itertuples()
            }

        return figures


ENGINES: Mapping[str, Any] = {"polars": Ours, "duckdb": DuckDb, "pandas": Pandas}


def _run(engine: str, folder: Path) -> tuple[Measured, dict[str, list[float]]]:
    """Let one engine make the report in a process on one core."""
    one = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS")
    done = subprocess.run(
        [sys.executable, "-m", "libs.suite.bench_carbon_reports", engine, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | dict.fromkeys(one, "1"),
    )
    told = json.loads(done.stdout)
    return Measured(engine, *told["measured"]), told["figures"]


def _check(engine: str, ours: Mapping[str, Sequence[float]], theirs: Mapping[str, Sequence[float]]) -> None:
    if ours.keys() != theirs.keys():
        raise RuntimeError(f"{engine} has other rows, such as {sorted(ours.keys() ^ theirs.keys())[:3]}")
    for key, values in ours.items():
        if not np.allclose(values, theirs[key], rtol=AGREE, atol=0.0):
            raise RuntimeError(f"{engine} differs at {key}: {values} and {theirs[key]}")


def _begin(scale: Scale) -> date:
    return scale.first - timedelta(days=scale.kept_days)


def _end(scale: Scale) -> date:
    return scale.first + timedelta(days=scale.days)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, wall_time(), CIVIL_ZONE).astimezone(UTC)


def _grids(scale: Scale) -> list[RateGrid]:
    tariffs = build_tariffs(shipped_rows(), source=SHIPPED)
    return [
        rate_grid(tariffs[place], first=_begin(scale), last=_end(scale), calendar=DayCalendar()) for place in TARIFFS
    ]


def _factors(scale: Scale) -> pl.DataFrame:
    """Return the grid factor of every site in the year."""
    library = load_library()
    rows = []
    for site in range(scale.sites):
        region, _ = TARIFFS[site * len(TARIFFS) // scale.sites]
        found = library.choose(
            "grid-average", use=Use.LOCATION_BASED, place=Place(province=region[3:]), year=scale.first.year,
            known_on=date(2026, 6, 1), unit="kgCO2/kWh",
        )  # fmt: skip
        if not isinstance(found, Choice):
            raise RuntimeError(f"no factor for {region}")
        rows.append((f"site-{site:05}", scale.first.year, float(found.factor.value), found.factor.factor_id))
    return pl.DataFrame(rows, schema=FACTORS, orient="row")


def _peak_mb() -> float:
    """Return the most memory that this process has had; ``getrusage`` would tell of the one that started it too."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    return int(found[1]) / 1024 if found else float("nan")


def main() -> int:
    """Make one report in this process and say what it took, and its figures."""
    engine, place = sys.argv[1:]
    folder = Path(place)
    name = json.loads((folder / "scale.json").read_text(encoding="utf-8"))
    scale = {one.name: one for one in (YEAR, DAY)}[name]
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    prepared = ENGINES[engine](folder, scale)
    began, cpu = time.perf_counter(), time.process_time()
    figures = prepared.run()
    took, used = time.perf_counter() - began, time.process_time() - cpu
    peak_mb = _peak_mb()
    sys.stdout.write(json.dumps({"measured": [took, used, peak_mb, prepared.version], "figures": figures()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
