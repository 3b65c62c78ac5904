"""The figures of a report beside DuckDB, which is given the measured file, the shipped tables and the methods.

The SQL is written from the platform's energy methods (1.2 alignment and flags, 2 completeness, 3.4 choice of a factor,
5 location-based, 9 time of use) and shares nothing with carbon. Of the really measured household one site has the feed
and another has what hangs behind it; some registers are lost, and one outage is recorded.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from importlib.resources import files
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest

from libs.common.clock import CIVIL_ZONE
from libs.common.ids import CircuitId, SiteId
from libs.suite.sitereport import Span, gather, site_report
from services.carbon.domain.factors import Choice, Use
from services.carbon.domain.factors.places import Place
from services.carbon.domain.intervals import align
from services.carbon.domain.levels.cover import Term
from services.carbon.domain.levels.emission import FACTORS
from services.carbon.domain.levels.energy import SCHEMA, Absence, Promise, node_intervals
from services.carbon.domain.levels.periods import Step
from services.carbon.domain.registers import Series, accumulate
from services.carbon.domain.tariff.grid import rate_grid
from services.carbon.domain.tariff.periods import DayCalendar, build_tariffs
from services.carbon.library import load_library
from services.carbon.tariff_file import SHIPPED, shipped_rows
from tests.unit.carbon.levels_data import household_minutes

SITES = {"south": ("feed",), "east": ("kitchen", "laundry", "heater", "rest")}
PLACES = {
    "south": ("44", "GD-2021-IC", "industrial_commercial"),
    "east": ("31", "SH-2022-2P", "two_part_large_industry"),
}
KNOWN_ON = date(2026, 6, 1)
MEASURED_ON = date(2006, 12, 16)
"""The first day of the file; the reports begin the day after."""

LOST = {  # registers that never came: (first, last) as days and minutes after MEASURED_ON
    "heater": ((4, 367), (4, 802)),  # a morning, which is allocated
    "rest": ((0, 0), (2, 0)),  # it begins late
    "kitchen": ((6, 561), (6, 579)),  # around 9:30, where it is interpolated
}
OUTAGE = ("rest", (9, 60), (9, 180))

INTERVALS = """
create table minutes as
select epoch(time_local + to_days($days))::bigint - 28800 as at_s,
       global_active_power_kw / 60 as feed,
       sub_metering_1_wh / 1000 as kitchen, sub_metering_2_wh / 1000 as laundry, sub_metering_3_wh / 1000 as heater
  from read_csv($household, header = true);

create table registers as
with used as (
    unpivot (select *, feed - kitchen - laundry - heater as rest from minutes)
         on feed, kitchen, laundry, heater, rest into name circuit value kwh),
running as (
    select circuit, at_s + 60 as at_s, sum(kwh) over (partition by circuit order by at_s) as kwh from used
    union all
    select circuit, min(at_s), 0 from used group by circuit),
shown as (
    select circuit, at_s, max(kwh) over (partition by circuit order by at_s) as kwh from running)
select s.* from shown s
 where not exists (from lost l where l.circuit = s.circuit and s.at_s between l.first_s and l.last_s);

create table edges as
with grid as (select c.circuit, unnest(generate_series(c.start_s, c.end_s, 900)) as at_s from circuits c),
before as (
    select g.circuit, g.at_s, r.at_s as t0, r.kwh as e0
      from grid g asof left join registers r on r.circuit = g.circuit and g.at_s >= r.at_s)
select b.circuit, b.at_s, b.t0, r.at_s as t1,
       case when r.at_s = b.t0 then b.e0 else b.e0 + (r.kwh - b.e0) * (b.at_s - b.t0) / (r.at_s - b.t0) end as kwh,
       case when b.t0 is null or r.at_s is null then 3
            when r.at_s - b.t0 > 2 * 900 then 2
            when least(b.at_s - b.t0, r.at_s - b.at_s) <= 0.1 * 900 then 0
            else 1 end as flag
  from before b asof left join registers r on r.circuit = b.circuit and b.at_s <= r.at_s;

create table intervals as
select c.site, a.circuit, a.at_s, b.kwh - a.kwh as kwh, greatest(a.flag, b.flag) as flag,
       make_timestamp((a.at_s + 28800) * 1000000) as civil,
       exists (from outages o where o.circuit = a.circuit and a.at_s >= o.first_s and a.at_s < o.last_s) as outage
  from edges a
  join edges b on b.circuit = a.circuit and b.at_s = a.at_s + 900
  join circuits c on c.circuit = a.circuit;

create table weights as select circuit, median(kwh) as weight from intervals group by circuit;
"""

BY_PERIOD = """
with factor as (
    select s.site, y.year, arg_max(f.value, f.year) as factor
      from (select distinct site, province from circuits) s
      cross join (select distinct year(civil) as year from intervals) y
      join read_csv($factors, all_varchar = true) t on t.factor_id like 'GRID-' || s.province || '-%'
      cross join lateral (select t.value::double as value, t.year::int as year) f
     where f.year <= y.year
       and coalesce(t.known_from::date, make_date(t.source_year::int, 12, 31)) <= $known_on
       and regexp_matches(t.confidence, '^(verified|derived|definition|source)')
       and not regexp_matches(t.confidence, '^(derived-from-memory|source-doubtful)')
     group by all)
select i.site, epoch(date_trunc($step, i.civil))::bigint - 28800 as start_s,
       sum(i.kwh) as kwh,
       coalesce(sum(w.weight) filter (where i.flag = 0 and not i.outage), 0)
           / nullif(sum(w.weight) filter (where not i.outage), 0) as complete,
       coalesce(sum(w.weight) filter (where i.flag < 3 and not i.outage), 0)
           / nullif(sum(w.weight) filter (where not i.outage), 0) as usable,
       coalesce(sum(i.kwh) filter (where i.flag in (1, 2)), 0) / sum(i.kwh) as estimated,
       sum(i.kwh * f.factor) as kg
  from intervals i join weights w using (circuit)
  left join factor f on f.site = i.site and f.year = year(i.civil)
 group by all order by 1, 2
"""

BY_BAND = """
with rows as (
    select *, string_split(months, ';') as in_months,
           split_part("start", ':', 1)::int * 60 + split_part("start", ':', 2)::int as first_min,
           split_part("end", ':', 1)::int * 60 + split_part("end", ':', 2)::int as last_min
      from read_csv($tariffs, all_varchar = true)),
placed as (
    select i.site, i.civil, i.circuit, i.kwh, r.band, r.price_ratio::double as ratio,
           row_number() over (partition by i.circuit, i.civil order by r.day_type = 'all') as choice
      from intervals i
      join circuits c on c.circuit = i.circuit
      left join special d on d.day = i.civil::date and d.tariff_id = c.tariff_id
      left join rows r
        on r.tariff_id = c.tariff_id
       and (r.day_type = 'all' or r.day_type = d.day_type)
       and i.civil::date >= r.valid_from::date and i.civil::date <= coalesce(r.valid_to::date, date '9999-12-31')
       and list_contains(r.in_months, month(i.civil)::varchar)
       and hour(i.civil) * 60 + minute(i.civil) >= r.first_min
       and hour(i.civil) * 60 + minute(i.civil) < r.last_min)
select site, date_trunc($step, civil)::date as period, band, ratio, sum(kwh) as kwh
  from placed where choice = 1
 group by all having sum(kwh) is not null order by all
"""


class World:
    """The household, moved to another year, in both ways of telling."""

    def __init__(self, first: date) -> None:
        self.moved = first - MEASURED_ON
        self.start = self.at(1, 0)
        self.end = self.at(17, 0)
        self.special = {"holiday": frozenset({date(2023, 1, 1), date(2026, 1, 1)})}
        days = [first + timedelta(days=number) for number in range(18)]
        self.special["restday"] = frozenset(day for day in days if day.weekday() >= 5) - self.special["holiday"]

    def at(self, days: int, minutes: int) -> datetime:
        """Return a time in the civil zone, so many days after the first of the file."""
        midnight = datetime.combine(MEASURED_ON + self.moved, time(), CIVIL_ZONE).astimezone(UTC)
        return midnight + timedelta(days=days, minutes=minutes)

    def duck(self) -> duckdb.DuckDBPyConnection:
        """Return a database with the intervals of all circuits."""
        db = duckdb.connect()
        db.execute("set threads = 1")
        # The rows of a grid are estimated as few, and for few rows the joins by time would look at all registers.
        db.execute("set asof_loop_join_threshold = 0")
        db.execute(
            "create table circuits"
            " (circuit text, site text, province text, tariff_id text, start_s bigint, end_s bigint)"
        )
        for site, circuits in SITES.items():
            province, tariff_id, _ = PLACES[site]
            span = (int(self.start.timestamp()), int(self.end.timestamp()))
            for circuit in circuits:
                db.execute(
                    "insert into circuits values (?, ?, ?, ?, ?, ?)", [circuit, site, province, tariff_id, *span]
                )
        spans = {"lost": LOST.items(), "outages": [(OUTAGE[0], OUTAGE[1:])]}
        for table, rows in spans.items():
            db.execute(f"create table {table} (circuit text, first_s bigint, last_s bigint)")
            for circuit, (first, last) in rows:
                edges = [int(self.at(*edge).timestamp()) for edge in (first, last)]
                db.execute(f"insert into {table} values (?, ?, ?)", [circuit, *edges])
        db.execute("create table special (tariff_id text, day date, day_type text)")
        for kind, days in self.special.items():
            for day in days:
                db.execute("insert into special values ('SH-2022-2P', ?, ?)", [day, kind])
        packed = str(files("libs.fieldsim") / "data" / "uci_household_power_200612.csv.gz")
        for statement in INTERVALS.strip().removesuffix(";").split(";\n"):
            given = {"days": self.moved.days, "household": packed} if "$days" in statement else None
            db.execute(statement, given)
        return db

    def booked(self, circuit: str) -> pl.DataFrame:
        """Return a circuit's intervals, made as carbon makes them."""
        rows = np.array(household_minutes()[circuit])
        at, kwh = rows[:, 0] + self.moved.total_seconds(), np.maximum.accumulate(rows[:, 1] / 1000)
        if circuit in LOST:
            first, last = (self.at(*edge).timestamp() for edge in LOST[circuit])
            kept = (at < first) | (at > last)
            at, kwh = at[kept], kwh[kept]
        first_s, last_s = self.start.timestamp(), self.end.timestamp()
        found = align(accumulate([Series(at=at, shown_kwh=kwh)]), first=first_s, last=last_s)
        false = np.zeros(found.start.size, np.bool_)
        times = pl.Series((found.start * 1_000_000).astype(np.int64)).cast(pl.Datetime("us"))
        return pl.DataFrame(
            {
                "circuit_id": [circuit] * found.start.size,
                "start": times.dt.replace_time_zone("UTC"),
                "energy_kwh": pl.Series(found.energy_kwh).fill_nan(None),
                "grade": found.grade,
                "lower_bound": found.lower_bound,
                "uncertain": false,
                "provisional": false,
            },
            schema=SCHEMA,
        )

    def report(self, site: str, step: Step) -> tuple[pl.DataFrame, dict[tuple[Any, ...], float]]:
        """Return carbon's report of a site, its circuits in pieces, and the energy by period, band and ratio."""
        province, _, customer_class = PLACES[site]
        circuits = [CircuitId(circuit) for circuit in SITES[site]]
        booked = {circuit: self.booked(circuit) for circuit in circuits}
        terms = [Term(circuit, SiteId(site), self.start, self.end) for circuit in circuits]
        usual = {circuit: _median(frame) for circuit, frame in booked.items()}
        outage = Absence(SiteId("east"), CircuitId(OUTAGE[0]), self.at(*OUTAGE[1]), self.at(*OUTAGE[2]))
        promise = Promise(terms, self.end + timedelta(days=1), usual, [outage])
        tariff = build_tariffs(shipped_rows(), source=SHIPPED)[f"CN-{province}", customer_class]
        last = (self.end + timedelta(days=1)).astimezone(CIVIL_ZONE).date()
        grid = rate_grid(tariff, first=MEASURED_ON + self.moved, last=last, calendar=DayCalendar(self.special))
        span = Span(step, self.start, self.end, grid)
        pieces = (node_intervals(booked[term.circuit], [term]) for term in terms)
        found = site_report(gather(pieces, promise, span), promise, span, self._factors(site))
        bands: dict[tuple[Any, ...], float] = {}
        for day, code, energy in found.split.select("period", "rate", "energy_kwh").rows():
            rate = None if code is None else grid.rates[code]
            key = (day, rate and rate.band.value, rate and float(rate.ratio))
            if energy is not None:
                bands[key] = bands.get(key, 0.0) + energy
        return found.energy, bands

    def _factors(self, site: str) -> pl.DataFrame:
        library = load_library()
        rows = []
        for year in {self.start.astimezone(CIVIL_ZONE).year, self.end.astimezone(CIVIL_ZONE).year}:
            found = library.choose(
                "grid-average", use=Use.LOCATION_BASED, place=Place(PLACES[site][0]), year=year, known_on=KNOWN_ON,
                unit="kgCO2/kWh",
            )  # fmt: skip
            assert isinstance(found, Choice)
            rows.append((site, year, float(found.factor.value), found.factor.factor_id))
        return pl.DataFrame(rows, schema=FACTORS, orient="row")


def _median(frame: pl.DataFrame) -> float:
    found = frame["energy_kwh"].median()
    assert isinstance(found, float)
    return found


def same(ours: Any, theirs: Any) -> bool:
    if ours is None or theirs is None:
        return ours is theirs
    return bool(np.isclose(ours, theirs, rtol=1e-9, atol=0.0))


@pytest.fixture(scope="module", params=[date(2022, 12, 16), date(2025, 12, 16)], ids=["2022", "2025"])
def world(request: pytest.FixtureRequest) -> World:
    return World(request.param)


@pytest.fixture(scope="module")
def duck(world: World) -> Iterator[duckdb.DuckDBPyConnection]:
    with world.duck() as db:
        yield db


@pytest.mark.parametrize("step", [Step.HOUR, Step.DAY, Step.MONTH])
@pytest.mark.parametrize("site", SITES)
def test_energy_completeness_and_emissions_by_site(
    world: World, duck: duckdb.DuckDBPyConnection, site: str, step: Step
) -> None:
    factors = str(files("services.carbon") / "data" / "emission_factors.csv")
    given = {"step": step.value, "factors": factors, "known_on": KNOWN_ON}
    theirs = {start: row for name, start, *row in duck.execute(BY_PERIOD, given).fetchall() if name == site}
    energy, _ = world.report(site, step)
    columns = ("energy_kwh", "interval_completeness", "usable_share", "estimated_share", "emission_kg_co2")
    ours = {int(start.timestamp()): row for start, *row in energy.select("start", *columns).rows()}
    assert ours.keys() == theirs.keys()
    strange = {
        (start, name): (mine, other)
        for start, row in ours.items()
        for name, mine, other in zip(columns, row, theirs[start], strict=True)
        if not same(mine, other)
    }
    assert strange == {}


@pytest.mark.parametrize("step", [Step.DAY, Step.MONTH])
@pytest.mark.parametrize("site", SITES)
def test_energy_by_band(world: World, duck: duckdb.DuckDBPyConnection, site: str, step: Step) -> None:
    tariffs = str(files("services.carbon") / "data" / "tou_tariffs.csv")
    rows = duck.execute(BY_BAND, {"step": step.value, "tariffs": tariffs}).fetchall()
    theirs: Mapping[Any, float] = {(day, band, ratio): kwh for name, day, band, ratio, kwh in rows if name == site}
    _, ours = world.report(site, step)
    assert ours.keys() == theirs.keys()
    assert [key for key, kwh in ours.items() if not same(kwh, theirs[key])] == []


def test_the_data_has_all_that_is_to_be_told_apart(duck: duckdb.DuckDBPyConnection) -> None:
    flags = dict(duck.execute("select flag, count(*) from intervals group by all").fetchall())
    assert flags.keys() == {0, 1, 2, 3}
    assert duck.execute("select count(*) from intervals where outage").fetchone() == (8,)
    assert duck.execute("select count(distinct year(civil)) from intervals").fetchone() == (2,)
