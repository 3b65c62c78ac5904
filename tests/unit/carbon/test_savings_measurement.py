"""Days out of the books, savings by quarter hour, agreed prices, and plans by which something can be measured."""

from dataclasses import replace
from datetime import date, datetime, time, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.clock import CIVIL_ZONE
from libs.common.errors import InvalidInput
from services.carbon.domain.savings.measurement.days import days_between, opening, saving_by_slot, slots_of
from services.carbon.domain.savings.measurement.measured import Adjustment, Basis, Doubt, by_windows
from services.carbon.domain.savings.measurement.plan import MeasurementPlan, Period
from services.carbon.domain.savings.measurement.prices import AgreedPrices, PriceBand
from services.carbon.domain.savings.shutdowns.executed import ExecutedPart, MeasuredWindow
from services.carbon.domain.savings.shutdowns.windows import Method, WindowSaving

FIRST = date(2022, 5, 1)
AT = opening(FIRST)


def frame(rows: list[tuple[str, datetime, float | None]]) -> pl.DataFrame:
    schema: dict[str, pl.DataType | type[pl.DataType]] = {
        "circuit_id": pl.String,
        "start": pl.Datetime("us", "UTC"),
        "energy_kwh": pl.Float64,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def quarters(circuit: str, energy: list[float | None]) -> list[tuple[str, datetime, float | None]]:
    return [(circuit, AT + timedelta(minutes=15 * index), one) for index, one in enumerate(energy)]


def test_a_quarter_hour_is_known_only_where_every_circuit_is() -> None:
    rows = [*quarters("a", [1.0] * 192), *quarters("b", [2.0] * 100 + [None] + [2.0] * 91)]
    found = slots_of(frame(rows), ["a", "b"], FIRST, FIRST + timedelta(days=2))
    assert found.shape == (2, 96)
    assert found[0].sum() == pytest.approx(288.0)
    assert np.isnan(found[1, 4])
    assert np.isnan(found).sum() == 1


def test_days_are_civil_days() -> None:
    found = slots_of(frame(quarters("a", [1.0] * 96)), ["a"], FIRST, FIRST + timedelta(days=1))
    assert not np.isnan(found).any()
    before = slots_of(frame(quarters("a", [1.0] * 96)), ["a"], FIRST - timedelta(days=1), FIRST)
    assert np.isnan(before).all()
    assert days_between(FIRST, FIRST + timedelta(days=2)) == (FIRST, FIRST + timedelta(days=1))


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=4),
    st.lists(st.floats(0, 5), min_size=1, max_size=4),
    st.floats(-50, 50),
)
def test_quarter_hours_sum_to_the_saving(baseline: list[float], actual: list[float], adjustment: float) -> None:
    days = min(len(baseline), len(actual))
    used = np.repeat(np.array(actual[:days])[:, None], 96, axis=1)
    before = np.tile(np.linspace(0.0, 2.0, 96), (3, 1))
    found = saving_by_slot(np.array(baseline[:days]), used, before, adjustment_kwh=adjustment)
    assert found.sum() == pytest.approx(sum(baseline[:days]) - used.sum() + adjustment, abs=1e-7)


def test_a_day_that_is_not_known_saves_nothing_and_costs_nothing() -> None:
    used = np.full((2, 96), 0.5)
    used[1, 7] = np.nan
    found = saving_by_slot(np.array([96.0, 96.0]), used, np.full((2, 96), 1.0))
    assert np.isnan(found[1]).all()
    assert np.nansum(found) == pytest.approx(48.0)


def prices(*hours: tuple[time, time | None]) -> AgreedPrices:
    valley = PriceBand(band="valley", price_cny_per_kwh=0.3, hours=((time(0), time(8)),))
    return AgreedPrices(
        prices_id="c1",
        version=1,
        source="contract, clause 5",
        bands=(valley, PriceBand(band="flat", price_cny_per_kwh=0.8, hours=hours)),
    )


def test_saved_energy_is_worth_the_price_of_its_hour() -> None:
    saving = np.zeros((3, 96))
    saving[:, 4] = 2.0  # at one in the morning
    saving[0, 95] = 1.0
    saving[1, 50] = np.nan
    agreed = prices((time(8), None))
    assert agreed.money_cny(saving) == pytest.approx(6 * 0.3 + 1 * 0.8)
    assert [(band.band, energy) for band, energy in agreed.split(saving)] == [("valley", 6.0), ("flat", 1.0)]


@pytest.mark.parametrize(
    ("hours", "message"),
    [
        (((time(9), None),), "wrong at 08:00"),
        (((time(7), None),), "wrong at 07:00"),
        (((time(8, 5), None),), "on quarter hours"),
        ((), "wrong at 08:00"),
    ],
    ids=["gap", "overlap", "off the grid", "nothing"],
)
def test_prices_cover_the_day_once(hours: tuple[tuple[time, time | None], ...], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        prices(*hours)


def test_a_price_in_fen_is_refused() -> None:
    with pytest.raises(InvalidInput, match="is it in fen"):
        replace(
            prices((time(8), None)), bands=(PriceBand(band="flat", price_cny_per_kwh=65.0, hours=((time(0), None),)),)
        )


AFTER = Period(start=date(2022, 6, 1), end=date(2022, 7, 1))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"basis": Basis.REGRESSION}, "expected a period"),
        ({"basis": Basis.SHUTDOWN, "before": Period(start=FIRST, end=date(2022, 5, 8))}, "expected none"),
        ({"basis": Basis.COMPARISON, "before": Period(start=FIRST, end=date(2022, 6, 2))}, "on or before 2022-06-01"),
        (
            {"basis": Basis.COMPARISON, "before": Period(start=FIRST, end=date(2022, 5, 8)), "driver_after": 0.0},
            "above 0",
        ),
    ],
)
def test_a_plan_by_which_nothing_can_be_measured_is_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        MeasurementPlan(after=AFTER, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("end", [FIRST, FIRST + timedelta(days=1101)])
def test_a_period_has_days_and_not_too_many(end: date) -> None:
    with pytest.raises(InvalidInput, match="1 to 1100 days"):
        Period(start=FIRST, end=end)


def window(saving: float | None, day: int) -> WindowSaving:
    off = datetime(2022, 6, day, tzinfo=CIVIL_ZONE)
    part = ExecutedPart("aau", off, off + timedelta(hours=6), f"o{day}", "p1")
    return WindowSaving(
        circuit_id="branch",
        window=MeasuredWindow(off, off + timedelta(hours=6), (part,)),
        post_end=off + timedelta(hours=7),
        saving_kwh=saving,
        variance_kwh2=None if saving is None else 1.0,
        method=Method.CLEAN_DAYS,
        baseline_kwh=None if saving is None else 12.0,
        actual_kwh=None if saving is None else 12.0 - saving,
    )


def test_shutdown_windows_make_a_measured_saving() -> None:
    correction = Adjustment(energy_kwh=-2.0, reason="a fan was added", author="user:li", made_at=AT, evidence="photo 7")
    found = by_windows([window(10.0, 1), window(8.0, 2)], start=AFTER.start, end=AFTER.end, adjustments=[correction])
    assert (found.saving_kwh, found.baseline_kwh, found.actual_kwh) == (16.0, 24.0, 6.0)
    assert found.fractional_uncertainty == pytest.approx(0.9944579 * 2**0.5 / 16.0)
    assert found.publishable
    incomplete = by_windows([window(10.0, 1), window(None, 2)], start=AFTER.start, end=AFTER.end)
    assert incomplete.completeness == 0.5
    assert incomplete.doubts == {Doubt.COVERAGE}
    assert by_windows([], start=AFTER.start, end=AFTER.end).saving_kwh is None


@pytest.mark.parametrize("start", [date(1, 1, 1), date(9999, 1, 1)])
def test_a_period_is_of_our_times(start: date) -> None:
    with pytest.raises(InvalidInput, match="from 1900 to 2199"):
        Period(start=start, end=start + timedelta(days=1))
