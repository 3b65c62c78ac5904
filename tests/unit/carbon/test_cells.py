"""Intervals that are alike, added up: as one by one in plain Python, in whatever order and pieces they come."""

import math
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from typing import Any

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings

from libs.common.clock import CIVIL_ZONE
from libs.common.ids import CircuitId, SiteId
from libs.suite.sitereport import Span, gather, site_report
from services.carbon.domain.cells import AT_ONCE, gathered, lay_out, merged, span_of, summed
from services.carbon.domain.intervals import Grade
from services.carbon.domain.levels.cover import Term
from services.carbon.domain.levels.emission import FACTORS, emissions_by_period
from services.carbon.domain.levels.energy import Absence, Promise, energy_by_period, node_intervals
from services.carbon.domain.levels.periods import Shift, Step, period_of
from services.carbon.domain.tariff.grid import rate_grid, split
from services.carbon.domain.tariff.periods import Band, DayCalendar
from tests.unit.carbon.levels_data import HOUSEHOLD, QUARTER, START, frame, household
from tests.unit.carbon.tariffs import row, tariff

DAYS = 3
CIRCUITS = ("a", "b", "c")
SITE_OF = {"a": "s1", "b": "s1", "c": "s2"}
HALF_HOURS = tariff(row(0, 450, Band.VALLEY), row(450, 1020, Band.PEAK, "2"), row(1020, 1440))
FINE = tariff(row(0, 425, Band.VALLEY), row(425, 1440, Band.PEAK, "2"))
"""Its boundary lies within a quarter hour."""

rows_of_intervals = st.lists(
    st.tuples(
        st.sampled_from(CIRCUITS),
        st.integers(0, DAYS * 96 - 1),
        st.one_of(st.none(), st.integers(0, 4000).map(lambda number: number / 300)),
        st.sampled_from(Grade),
    ),
    unique_by=lambda one: one[:2],
    max_size=60,
)


def period_start(at: datetime, step: Step) -> datetime:
    local = at.astimezone(CIVIL_ZONE)
    if step is Step.HOUR:
        return local.replace(minute=0)
    return local.replace(hour=0, minute=0)


@settings(max_examples=40)
@given(rows_of_intervals, st.sampled_from([Step.HOUR, Step.DAY]))
def test_cells_are_the_sums_of_what_is_alike(rows: list[Any], step: Step) -> None:
    layout = lay_out(START, START + timedelta(days=DAYS), period_of(step))
    cells = gathered(frame(rows), layout, by=["circuit_id"], kinds=["grade", "provisional"])
    wanted: dict[Any, list[float | None]] = defaultdict(list)
    for circuit, number, energy, grade in rows:
        wanted[circuit, int(grade), period_start(START + number * QUARTER, step)].append(energy)
    labels = ["circuit_id", "grade", "period", "year", "provisional"]
    found = {(one["circuit_id"], one["grade"], one["period"]): one for one in summed(cells, labels).to_dicts()}
    assert len(found) == cells.height
    assert found.keys() == wanted.keys()
    for key, energies in wanted.items():
        known = [energy for energy in energies if energy is not None]
        assert found[key]["energy_kwh"] == (math.fsum(known) if known else None)
        assert (found[key]["slots"], found[key]["unknown"]) == (len(energies), len(energies) - len(known))
        assert (found[key]["year"], found[key]["provisional"]) == (2026, False)


@settings(max_examples=40)
@given(rows_of_intervals, st.integers(0, 60), st.randoms(use_true_random=False))
def test_order_and_pieces_change_nothing(rows: list[Any], cut: int, chance: Any) -> None:
    layout = lay_out(START, START + timedelta(days=DAYS), period_of(Step.DAY))
    order = ["circuit_id", "period", "grade"]

    def cells(some: list[Any]) -> pl.DataFrame:
        return gathered(frame(some), layout, by=["circuit_id"], kinds=["grade"])

    def energies(found: pl.DataFrame) -> pl.DataFrame:
        return summed(found, order).sort(order)

    whole = cells(sorted(rows, key=lambda one: one[:2]))
    shuffled = list(rows)
    chance.shuffle(shuffled)
    pieces = merged(pl.concat([cells(shuffled[:cut]), cells(shuffled[cut:])]))
    assert pieces.height == whole.height
    assert energies(pieces).equals(energies(whole))


def test_more_rows_than_are_summed_at_once_are_the_same() -> None:
    chance = np.random.default_rng(5)
    count = 2 * AT_ONCE + 77
    energy = pl.Series("energy_kwh", chance.uniform(0, 9, count))
    energy = energy.set(pl.Series(chance.random(count) < 0.01), None)
    times = pl.datetime_range(START, START + (count - 1) * QUARTER, "15m", time_unit="us", eager=True)
    layout = lay_out(START, START + count * QUARTER, period_of(Step.YEAR))
    found = summed(gathered(pl.DataFrame({"start": times, "energy_kwh": energy}), layout), ["period"]).sort("period")
    years = times.dt.convert_time_zone(CIVIL_ZONE.key).dt.year().to_numpy()
    for year, told in zip(np.unique(years), found.to_dicts(), strict=True):
        known = energy.filter(pl.Series(years == year))
        assert told["energy_kwh"] == math.fsum(known.drop_nulls())
        assert (told["slots"], told["unknown"]) == (known.len(), known.null_count())


def test_what_does_not_begin_on_the_grid_is_refused() -> None:
    layout = lay_out(START, START + timedelta(days=1), period_of(Step.DAY))
    odd = frame([("a", 0, 1.0, Grade.MEASURED)]).with_columns(pl.col("start") + timedelta(seconds=1))
    with pytest.raises(ValueError, match="grid of 900 s"):
        gathered(odd, layout)


def test_what_lies_outside_of_the_span_is_left_out() -> None:
    layout = lay_out(START, START + timedelta(days=1), period_of(Step.DAY))
    cells = gathered(frame([("a", number, 1.0, Grade.MEASURED) for number in (-1, 0, 95, 96)]), layout)
    assert summed(cells, ["period"]).select("energy_kwh", "slots").rows() == [(2.0, 2)]


def test_the_span_of_intervals_is_whole_civil_days() -> None:
    assert span_of(frame([("a", 5, 1.0, Grade.MEASURED), ("a", 95, 1.0, Grade.MEASURED)])) == (
        START,
        START + timedelta(days=1),
    )
    begin, end = span_of(frame([]))
    assert begin == end


class TestReport:
    """The report of several sites is what the single functions say of each."""

    PROMISED = tuple(
        Term(CircuitId(circuit), SiteId(site), START, START + timedelta(days=DAYS)) for circuit, site in SITE_OF.items()
    )
    ABSENT = (Absence(SiteId("s1"), CircuitId("b"), START + 3 * QUARTER, START + 9 * QUARTER),)

    @settings(max_examples=25)  # each makes the report and everything that it is held against
    @given(
        rows_of_intervals,
        st.sampled_from([Step.HOUR, Step.DAY, Step.MONTH]),
        st.sampled_from([HALF_HOURS, FINE]),
        st.sampled_from([None, Shift("night", 1320, 360)]),
    )
    def test_it_says_of_each_site_what_is_said_of_it_alone(
        self, rows: list[Any], step: Step, paid: Any, shift: Shift | None
    ) -> None:
        end = START + timedelta(days=DAYS)
        grid = rate_grid(paid, first=date(2026, 3, 1), last=date(2026, 4, 1), calendar=DayCalendar())
        span = Span(step, START, end, grid)
        usual = {CircuitId("a"): 10.0, CircuitId("b"): 1.0}
        now = START + timedelta(days=2, minutes=20)
        promise = Promise(self.PROMISED, now, usual, self.ABSENT, shift)
        factors = pl.DataFrame([("s1", 2026, 0.5, "F1")], schema=FACTORS, orient="row")
        pieces = [node_intervals(frame([one for one in rows if one[0] == circuit]), self.PROMISED) for circuit in "cab"]
        found = site_report(gather(pieces, promise, span), promise, span, factors)
        for site in ("s1", "s2"):
            terms = [one for one in self.PROMISED if one.site == site]
            mine = node_intervals(frame(rows), terms)
            alone = Promise(terms, now, usual, self.ABSENT, shift)
            energy = energy_by_period(mine, alone, step=step, start=START, end=end)
            report = found.energy.filter(pl.col("site_id") == site)
            for name in energy.columns:
                assert _alike(report[name].to_list(), energy[name].to_list()), name
            if shift is not None:
                continue
            emissions = {one["start"]: one for one in emissions_by_period(mine, factors, step).to_dicts()}
            for one in report.to_dicts():
                told = emissions.get(one["start"], {"emission_kg_co2": None, "factor_ids": None})
                assert _alike([one["emission_kg_co2"]], [told["emission_kg_co2"]])
                assert one["factor_ids"] == told["factor_ids"]
            if step is not Step.HOUR:
                parts = split(mine, grid, daily=step is Step.DAY)
                same = found.split.filter(pl.col("site_id") == site).drop("site_id")
                assert same.drop("energy_kwh").equals(parts.drop("energy_kwh"))
                assert _alike(same["energy_kwh"].to_list(), parts["energy_kwh"].to_list())

    def test_a_day_added_to_a_month_is_the_month(self) -> None:
        terms = [
            Term(CircuitId(name), SiteId("home"), datetime(2006, 12, 1, tzinfo=CIVIL_ZONE), START) for name in HOUSEHOLD
        ]
        promise = Promise(terms, START)
        grid = rate_grid(HALF_HOURS, first=date(2006, 12, 1), last=date(2007, 1, 1), calendar=DayCalendar())
        midnight = datetime(2006, 12, 20, tzinfo=CIVIL_ZONE).astimezone(UTC)
        span = Span(Step.MONTH, midnight, midnight + timedelta(days=1), grid)
        factors = pl.DataFrame([("home", 2006, 0.5, "F1")], schema=FACTORS, orient="row")
        whole = node_intervals(pl.concat([household(name) for name in HOUSEHOLD]), terms)
        before, after = whole.filter(pl.col("start") < midnight), whole.filter(pl.col("start") >= midnight)
        kept, added = gather([before], promise, span), gather([after], promise, span)
        once = site_report(gather([whole], promise, span), promise, span, factors)
        twice = site_report(pl.concat([kept, added]), promise, span, factors)
        assert once.energy["energy_kwh"][0] > 0
        for one, other in ((once.energy, twice.energy), (once.split, twice.split)):
            assert one.columns == other.columns
            for name in one.columns:
                assert _alike(one[name].to_list(), other[name].to_list()), name

    def test_without_any_interval_every_site_is_unknown(self) -> None:
        grid = rate_grid(HALF_HOURS, first=date(2026, 3, 1), last=date(2026, 4, 1), calendar=DayCalendar())
        span = Span(Step.DAY, START, START + timedelta(days=1), grid)
        promise = Promise(self.PROMISED, START + timedelta(days=9))
        found = site_report(gather([], promise, span), promise, span, pl.DataFrame(schema=FACTORS))
        assert found.energy.select("site_id", "energy_kwh", "interval_completeness").rows() == [
            ("s1", None, 0.0),
            ("s2", None, 0.0),
        ]
        assert found.split.is_empty()


def _alike(ours: list[Any], theirs: list[Any]) -> bool:
    return len(ours) == len(theirs) and all(
        np.isclose(one, other, rtol=1e-12, atol=0.0) if isinstance(one, float) and isinstance(other, float)
        else one == other
        for one, other in zip(ours, theirs, strict=True)
    )  # fmt: skip
