"""The worked examples of the methods that no other test computes, and the list of where all of them are tested."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from libs.common.clock import CIVIL_ZONE
from libs.common.ids import CircuitId, DeviceId, SiteId
from services.carbon.domain.booking import Binding, Registers, series_of
from services.carbon.domain.coal import KJ_PER_KGCE
from services.carbon.domain.intervals import Grade, align
from services.carbon.domain.levels.cover import Term
from services.carbon.domain.levels.curve import load_curve
from services.carbon.domain.levels.energy import SCHEMA, Promise, energy_by_period, node_intervals, totals
from services.carbon.domain.levels.facts import Denominator, FactKind
from services.carbon.domain.levels.periods import Step
from services.carbon.domain.registers import accumulate
from services.carbon.tree import Node, NodeKind
from services.carbon.usecases.levels.intensities import sum_over_sum

ROOT = Path(__file__).parents[3]
NAMED = re.compile(r"`((?:carbon|common)/test_\w+\.py)::(test_\w+)`")


def named() -> list[tuple[str, str]]:
    return NAMED.findall((ROOT / "docs" / "carbon-examples.md").read_text(encoding="utf-8"))


def test_every_example_of_the_list_is_tested_where_it_says() -> None:
    found = named()
    texts = {path: (ROOT / "tests" / "unit" / path).read_text(encoding="utf-8") for path, _ in found}
    gone = [f"{path}::{name}" for path, name in found if f"def {name}(" not in texts[path]]
    assert gone == []
    assert len(found) > 60


def test_every_section_of_the_methods_that_carbon_computes_has_an_example() -> None:
    rows = re.findall(r"^\| (\d+)\b", (ROOT / "docs" / "carbon-examples.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {int(section) for section in rows} == set(range(23))


Register = tuple[datetime, float, float, bool]


def intervals_of(binding: Binding, rows: list[Register]) -> tuple[list[datetime], list[float]]:
    """Return start and energy of every quarter hour between the first and the last register."""
    found = align(
        accumulate(series_of(binding, Registers.of(rows), None)),
        first=rows[0][0].timestamp(),
        last=rows[-1][0].timestamp(),
    )
    return [datetime.fromtimestamp(at, UTC) for at in found.start], found.energy_kwh.tolist()


def test_a_reading_at_midnight_closes_one_day_and_opens_the_next() -> None:
    """Methods 0: intervals are half-open and labelled by their start, days are those of the civil zone."""
    midnight = datetime(2026, 3, 2, tzinfo=CIVIL_ZONE).astimezone(UTC)
    binding = Binding(DeviceId("m"), midnight - timedelta(days=9), None, None, None)
    hour = timedelta(hours=1)
    rows = [(midnight + number * hour, shown, 1.0, False) for number, shown in ((-1, 96.0), (0, 100.0), (1, 101.0))]
    starts, energies = intervals_of(binding, rows)
    booked = pl.DataFrame(
        [
            ("c", at, energy, int(Grade.MEASURED), False, False, False)
            for at, energy in zip(starts, energies, strict=True)
        ],
        schema=SCHEMA,
        orient="row",
    )
    terms = [Term(CircuitId("c"), SiteId("s"), starts[0], starts[-1] + timedelta(minutes=15))]
    days = energy_by_period(
        node_intervals(booked, terms),
        Promise(terms, midnight + timedelta(days=9)),
        step=Step.DAY,
        start=midnight - timedelta(days=1),
        end=midnight + timedelta(days=1),
    )
    assert days["energy_kwh"].to_list() == [4.0, 1.0]


def test_a_replacement_by_a_meter_of_another_ratio_counts_each_part_by_its_own() -> None:
    """Methods 1.1: E = (final_old - r) k_old + (r' - initial_new) k_new."""
    start = datetime(2026, 3, 2, tzinfo=UTC)
    exchange = start + timedelta(minutes=30)
    old = Binding(DeviceId("old"), start - timedelta(days=9), exchange, None, 110.0)
    new = Binding(DeviceId("new"), exchange, None, 5.0, None)
    series = [
        *series_of(old, Registers.of([(start, 108.0, 40.0, False)]), None),
        *series_of(new, Registers.of([(start + timedelta(minutes=60), 6.5, 60.0, False)]), None),
    ]
    found = align(accumulate(series), first=start.timestamp(), last=(start + timedelta(hours=1)).timestamp())
    assert found.energy_kwh.sum() == pytest.approx((110.0 - 108.0) * 40.0 + (6.5 - 5.0) * 60.0)
    assert found.energy_kwh[:2].sum() == pytest.approx(80.0)


def test_an_intensity_of_a_group_is_sum_over_sum() -> None:
    """Methods 6: 1,000 kWh on 10 m2 and 100 kWh on 100 m2 are 10 kWh/m2, not the mean of 100 and 1."""
    parts = [
        (Node(NodeKind.SITE, "a"), 1000.0, Denominator(10.0, None)),
        (Node(NodeKind.SITE, "b"), 100.0, Denominator(100.0, None)),
    ]
    found = sum_over_sum(FactKind.AREA, parts, 0)
    assert (found.value, found.energy_kwh, found.denominator.value) == (10.0, 1100.0, 110.0)


def test_the_power_of_a_quarter_hour_is_four_times_its_energy() -> None:
    """Methods 22: source 002 calls the energy of fifteen minutes a load in kW; 25 kWh are 100 kW."""
    start = datetime(2026, 3, 1, 16, tzinfo=UTC)
    rows = [("c", start, 25.0, int(Grade.MEASURED), False, False, False)]
    terms = [Term(CircuitId("c"), SiteId("s"), start, start + timedelta(minutes=15))]
    booked = node_intervals(pl.DataFrame(rows, schema=SCHEMA, orient="row"), terms)
    (curve,) = load_curve(totals(booked, terms), Step.DAY).to_dicts()
    assert curve["max_kw"] == 100.0


def test_a_tonne_of_coal_equivalent_is_29_3076_gigajoules() -> None:
    """Methods 22; GB/T 2589-2020: 1 kgce is 29,307.6 kJ."""
    assert KJ_PER_KGCE * 1000 / 1e6 == pytest.approx(29.3076)
