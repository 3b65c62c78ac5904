"""What energy costs by band: exact, unknown without a price, and by the same total in every way of summing."""

from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import hypothesis.strategies as st
import polars as pl
import pytest
from hypothesis import given, settings

from libs.common.clock import CIVIL_ZONE
from libs.common.errors import InvalidInput
from services.carbon.domain.money import Rounding, to_cents
from services.carbon.domain.tariff.cost import EnergyPrice, cost_range, energy_cost
from services.carbon.domain.tariff.grid import RateGrid, possible_grids, rate_grid, split
from services.carbon.domain.tariff.periods import Band, DayCalendar, Tariff, build_tariffs
from services.carbon.tariff_file import SHIPPED, shipped_rows
from tests.unit.carbon.tariffs import intervals, midnight, price, row, tariff

MARCH = date(2026, 3, 1)
DAY = date(2026, 3, 2)
KNOWN = DayCalendar(known={kind: [(date(2020, 1, 1), date(2030, 1, 1))] for kind in ("holiday", "hot_day", "restday")})
GUANGDONG = build_tariffs(shipped_rows(), source=SHIPPED)["CN-44", "industrial_commercial"]
CHANGING = tariff(
    row(0, 480, Band.VALLEY, "0.38", valid_to=date(2026, 3, 14)),
    row(480, 1440, Band.PEAK, "1.7", valid_to=date(2026, 3, 14)),
    row(0, 1440, Band.FLAT, "1", tariff_id="T-2", valid_from=date(2026, 3, 15)),
)


def cost_of(frame: pl.DataFrame, one: Tariff, *prices: EnergyPrice, first: date = MARCH, days: int = 61):  # type: ignore[no-untyped-def]
    grid = rate_grid(one, first=first, last=first + timedelta(days=days), calendar=KNOWN)
    known = {each.key.month: each for each in prices}
    return energy_cost(split(frame, grid), grid, known.get)


def by_day(frame: pl.DataFrame, grids: list[RateGrid]) -> list[tuple[pl.DataFrame, RateGrid]]:
    return [(split(frame, grid, daily=True), grid) for grid in grids]


def test_a_flat_day_in_guangdong() -> None:
    # 1 kW through a day: peak 10-12, 14-19 = 7 h x 1.7, flat 9 h, valley 0-8 = 8 h x 0.38; base 0.60, fixed 0.05:
    # 7 x (1.02 + 0.05) + 9 x 0.65 + 8 x (0.228 + 0.05) = 7.49 + 5.85 + 2.224.
    found = cost_of(intervals(DAY, [0.25] * 96), GUANGDONG, price("0.60", "0.05"))
    assert found.by_band() == {Band.PEAK: 7, Band.FLAT: 9, Band.VALLEY: 8}
    assert found.cost_cny == Decimal("15.564")
    assert to_cents(found.cost_cny) == Decimal("15.56")
    assert found.average_ratio == pytest.approx(23.94 / 24)
    assert found.shares() == {Band.PEAK: 7 / 24, Band.FLAT: 9 / 24, Band.VALLEY: 8 / 24}


def test_without_a_price_the_cost_is_unknown_and_not_zero() -> None:
    frame = intervals(date(2026, 3, 31), [0.25] * 192)
    found = cost_of(frame, GUANGDONG, price("0.6", "0.05"))
    assert (found.energy_kwh, found.priced_kwh) == (48, 24)
    assert found.cost_cny is None
    assert found.known_cost_cny == Decimal("15.564")
    nothing = cost_of(frame, GUANGDONG)
    assert (nothing.cost_cny, nothing.known_cost_cny) == (None, None)
    assert {line.period for line in nothing.lines} == {MARCH, date(2026, 4, 1)}


def test_zero_energy_without_a_price_costs_an_unknown_amount_too() -> None:
    assert cost_of(intervals(DAY, [0.0] * 96), GUANGDONG).cost_cny is None
    assert cost_of(intervals(DAY, [0.0] * 96), GUANGDONG, price("0.6", "0.05")).cost_cny == 0


def test_unknown_energy_is_counted_and_adds_nothing() -> None:
    found = cost_of(intervals(DAY, [None] * 48 + [1.0] * 48), GUANGDONG, price("1", "0"))
    assert (found.energy_kwh, found.interval_completeness) == (48, 0.5)
    assert found.cost_cny is not None
    assert cost_of(intervals(DAY, [None] * 96), GUANGDONG, price("1", "0")).cost_cny is None


def test_ratios_from_memory_cost_nothing_known_until_a_person_enables_them() -> None:
    one = tariff(row(0, 1440, confidence="periods:verified-1src; ratios:memory-verify"))
    grid = rate_grid(one, first=MARCH, last=date(2026, 4, 1), calendar=KNOWN)
    summed = split(intervals(DAY, [0.25] * 96), grid)
    assert energy_cost(summed, grid, lambda _: price("1", "0")).cost_cny is None
    assert energy_cost(summed, grid, lambda _: price("1", "0"), trusted_only=False).cost_cny == 24


def test_a_month_in_which_the_tariff_changes_is_split_at_the_change() -> None:
    found = cost_of(intervals(date(2026, 3, 14), [0.25] * 192), CHANGING, price("1", "0"))
    assert [(line.rate and line.rate.tariff_id, line.energy_kwh, line.cost_cny) for line in found.lines] == [
        ("T-1", 8, Decimal("3.04")),
        ("T-1", 16, Decimal("27.2")),
        ("T-2", 24, Decimal(24)),
    ]


def test_days_and_months_are_civil() -> None:
    # 15:45 UTC is the last quarter hour of the civil day, 16:00 UTC the first of the next.
    found = cost_of(intervals(date(2026, 3, 31), [0.0] * 95 + [1.0, 3.0]), CHANGING, price("1", "0"))
    assert {line.period: line.energy_kwh for line in found.lines} == {MARCH: 1, date(2026, 4, 1): 3}


def test_energy_outside_of_every_version_has_no_band_and_no_cost() -> None:
    one = tariff(row(0, 1440, valid_to=date(2026, 3, 2)))
    found = cost_of(intervals(DAY, [0.25] * 192), one, price("1", "0"))
    assert found.by_band() == {Band.FLAT: 24, None: 24}
    assert (found.cost_cny, found.known_cost_cny) == (None, 24)
    assert found.shares() == {Band.FLAT: 1.0}


def test_intervals_outside_of_the_grid_keep_their_month_and_have_no_rate() -> None:
    grid = rate_grid(CHANGING, first=DAY, last=date(2026, 3, 3), calendar=KNOWN)
    found = split(intervals(date(2026, 2, 28), [0.25] * 96 * 4), grid)
    assert found.filter(pl.col("rate").is_null()).select("period", "energy_kwh").rows() == [
        (date(2026, 2, 1), 24.0),
        (MARCH, 48.0),
    ]


def test_an_hour_over_a_boundary_is_split_by_time() -> None:
    one = tariff(row(0, 330, Band.VALLEY, "0.5"), row(330, 1440))
    grid = rate_grid(one, first=DAY, last=date(2026, 3, 3), calendar=KNOWN, step_s=3600)
    found = split(intervals(DAY, [1.0] * 24, step_min=60), grid)
    assert {grid.rates[rate].band: energy for rate, energy in found.select("rate", "energy_kwh").iter_rows()} == {
        Band.VALLEY: 5.5,
        Band.FLAT: 18.5,
    }


def test_intervals_off_the_grid_are_refused() -> None:
    grid = rate_grid(CHANGING, first=DAY, last=date(2026, 3, 3), calendar=KNOWN)
    shifted = intervals(DAY, [1.0]).with_columns(pl.col("start").dt.offset_by("7m"))
    with pytest.raises(ValueError, match="begin on the grid"):
        split(shifted, grid)


def test_circuits_are_kept_apart_when_asked() -> None:
    frame = pl.concat(
        [
            intervals(DAY, [energy] * 96).with_columns(pl.lit(name).alias("circuit_id"))
            for name, energy in (("a", 1.0), ("b", 2.0))
        ]
    )
    grid = rate_grid(CHANGING, first=MARCH, last=date(2026, 4, 1), calendar=KNOWN)
    found = split(frame, grid, keys=["circuit_id"])
    assert found["circuit_id"].to_list() == ["a", "a", "b", "b"]
    assert found["energy_kwh"].to_list() == [32.0, 64.0, 64.0, 128.0]


ENERGIES = st.lists(st.one_of(st.none(), st.integers(0, 50_000).map(lambda wh: wh / 1000)), min_size=1, max_size=400)
PRICES = st.decimals("0.0001", "2", places=4)


@settings(max_examples=60)
@given(energies=ENERGIES, base=PRICES, fixed=PRICES, first=st.dates(date(2026, 6, 20), date(2026, 10, 5)))
def test_bands_sum_to_the_total_and_the_cost_is_that_of_an_independent_way(
    energies: list[float | None], base: Decimal, fixed: Decimal, first: date
) -> None:
    months = [price(str(base), str(fixed), date(2026, month, 1)) for month in range(6, 12)]
    found = cost_of(intervals(first, energies), GUANGDONG, *months, first=date(2026, 6, 1), days=180)
    known = [energy for energy in energies if energy is not None]
    assert float(found.energy_kwh) == pytest.approx(sum(known), rel=1e-12, abs=1e-12)
    assert sum(found.by_band().values()) == found.energy_kwh
    assert sum(line.slots for line in found.lines) == len(energies)
    # Independently, hour by hour, from the words of the notice.
    expected, start = Fraction(0), midnight(first)
    for index, energy in enumerate(energies):
        at = (start + timedelta(minutes=15 * index)).astimezone(CIVIL_ZONE)
        if energy is not None:
            expected += Fraction(str(energy)) * (Fraction(str(base)) * guangdong_ratio(at) + Fraction(str(fixed)))
    if not known:
        assert found.cost_cny is None
    else:
        assert found.cost_cny is not None
        assert abs(Fraction(found.cost_cny) - expected) < Fraction(1, 10**7)


def guangdong_ratio(at: datetime) -> Fraction:
    """Notice 2021 no. 331: peak 10-12, 14-19; valley 0-8; sharp = peak x 1.25, July to September 11-12, 15-17."""
    if at.month in (7, 8, 9) and at.hour in (11, 15, 16):
        return Fraction("2.125")
    if at.hour in (10, 11, 14, 15, 16, 17, 18):
        return Fraction("1.7")
    return Fraction("0.38") if at.hour < 8 else Fraction(1)


def test_hot_days_that_nobody_entered_leave_a_range() -> None:
    # March in Guangdong: a hot day makes 11-12 and 15-17 sharp, 3 kWh x (2.125 - 1.7) x 1 CNY a day.
    frame = intervals(DAY, [0.25] * 96 * 2)
    span: dict[str, Any] = {"first": DAY, "last": date(2026, 3, 4)}
    month = price("1", "0")
    unknown = possible_grids(GUANGDONG, calendar=DayCalendar(), **span)
    least, greatest = cost_range(by_day(frame, unknown), lambda _: month) or (None, None)
    assert (least, greatest) == (Decimal("47.88"), Decimal("47.88") + 2 * 3 * Decimal("0.425"))
    half = DayCalendar(known={"hot_day": [(DAY, date(2026, 3, 3))]})
    least, greatest = cost_range(by_day(frame, possible_grids(GUANGDONG, calendar=half, **span)), lambda _: month) or (
        None,
        None,
    )
    assert greatest == Decimal("47.88") + 3 * Decimal("0.425")
    known = possible_grids(GUANGDONG, calendar=KNOWN, **span)
    assert cost_range(by_day(frame, known), lambda _: month) == (Decimal("47.88"), Decimal("47.88"))
    assert cost_range(by_day(frame, known), lambda _: None) is None


@pytest.mark.parametrize(("base", "fixed"), [("62.5", "0"), ("-0.1", "0"), ("0.6", "650"), ("NaN", "0")])
def test_prices_in_fen_or_per_megawatt_hour_are_refused(base: str, fixed: str) -> None:
    with pytest.raises(InvalidInput, match="CNY/kWh"):
        price(base, fixed)


def test_prices_are_of_months() -> None:
    with pytest.raises(InvalidInput, match="first day"):
        price("0.6", "0", month=DAY)


def test_bills_round_half_up_and_standards_half_to_even() -> None:
    assert to_cents(Decimal("0.125")) == Decimal("0.13")
    assert to_cents(Decimal("0.125"), Rounding.HALF_EVEN) == Decimal("0.12")
