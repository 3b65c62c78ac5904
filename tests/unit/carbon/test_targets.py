"""Targets: what is allowed, the pace, how the period will end, and what children were given."""

from datetime import date, timedelta
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from libs.common.errors import InvalidInput
from services.carbon.domain.targets import (
    Adjustment,
    OverAllocated,
    Status,
    Target,
    compliance,
    performance,
    standing,
    unallocated,
)
from tests.unit.carbon.tariffs import figures

START = date(2026, 1, 1)


def target(*amounts: float, days: int = 100, **changed: Any) -> Target:
    fields: dict[str, Any] = {
        "target_id": "q1", "node": "hall-1", "measure": "energy", "unit": "kWh", "start": START,
        "end": START + timedelta(days=days),
        "adjustments": tuple(
            Adjustment(START + timedelta(days=30 * index), amount, "allocation", "a person")
            for index, amount in enumerate(amounts)
        ),
    }  # fmt: skip
    return Target(**(fields | changed))


def day(number: int) -> date:
    return START + timedelta(days=number)


def test_pace_and_gap_by_the_clock_without_history() -> None:
    # 1000 allowed, 400 used after half of the time: pace 0.8, forecast 800, gap 200.
    found = standing(target(1000.0), as_of=day(50), measured=[8.0] * 50, last_year=None)
    assert (found.measured, found.expected_share, found.profile, found.pace) == (400, 0.5, "time", 0.8)
    assert found.forecast is not None
    assert (found.forecast.value, found.gap, found.exhausted_on) == (800, 200, None)
    assert found.status is Status.AMBER  # within, but nothing says how surely


def test_pace_by_last_years_profile() -> None:
    # Last year three quarters were used in the first half, so three quarters of what is allowed is no haste.
    last_year = [15.0] * 50 + [5.0] * 50
    found = standing(target(1000.0), as_of=day(50), measured=[15.0] * 50, last_year=last_year)
    assert (found.expected_share, found.profile, found.pace, found.status) == (0.75, "last_year", 1.0, Status.GREEN)


@pytest.mark.parametrize(("allowed", "status"), [(1200.0, Status.GREEN), (1050.0, Status.AMBER), (999.0, Status.RED)])
def test_the_status_says_whether_the_upper_end_the_forecast_or_neither_fits(allowed: float, status: Status) -> None:
    # 550 measured and 500 ahead. Differences to last year are 3 and -1 in turn: a bias of 1, repeated on 50 days,
    # and a spread of 2 around it: 1050 + 50 + 1.2816 x sqrt(50 x 4) = 1118.1.
    last_year = [10.0] * 100
    measured = [11.0 + 2.0, 11.0 - 2.0] * 25
    found = standing(target(allowed), as_of=day(50), measured=measured, last_year=last_year)
    assert found.forecast is not None
    assert found.forecast.value == pytest.approx(1050)
    assert found.forecast.high == pytest.approx(1050 + 1.2816 * 200**0.5 + 50)
    assert found.status is status


def test_the_day_on_which_it_is_exhausted_may_lie_ahead_or_behind() -> None:
    ahead = standing(target(600.0), as_of=day(50), measured=[10.0] * 50, last_year=None)
    assert (ahead.status, ahead.exhausted_on) == (Status.RED, day(60))
    behind = standing(target(100.0), as_of=day(50), measured=[10.0] * 50, last_year=None)
    assert behind.exhausted_on == day(10)
    exact = standing(target(1000.0), as_of=day(50), measured=[10.0] * 50, last_year=None)
    assert (exact.status, exact.exhausted_on) == (Status.AMBER, None)


def test_at_the_end_the_forecast_is_what_was_measured() -> None:
    found = standing(target(1000.0), as_of=day(200), measured=[10.0] * 100, last_year=[9.0] * 100)
    assert found.forecast is not None
    assert (found.forecast.low, found.forecast.value, found.forecast.high) == (1000, 1000, 1000)
    assert (found.status, found.gap, found.pace) == (Status.GREEN, 0, 1.0)


def test_unknown_days_are_no_saving() -> None:
    found = standing(target(1000.0), as_of=day(50), measured=[8.0] * 25 + [None] * 25, last_year=None)
    assert (found.measured, found.completeness) == (200, 0.5)
    assert found.forecast is not None
    assert found.forecast.value == 800
    by_last_year = standing(target(1000.0), as_of=day(2), measured=[8.0, None], last_year=[7.0] * 100)
    assert by_last_year.forecast is not None
    assert by_last_year.forecast.value == 8 + 99 * 7


def test_nothing_known_is_unknown_and_not_zero() -> None:
    found = standing(target(1000.0), as_of=day(2), measured=[None, None], last_year=None)
    assert (found.measured, found.pace, found.forecast, found.gap, found.status) == (
        None,
        None,
        None,
        None,
        Status.UNKNOWN,
    )


def test_before_the_period_there_is_a_forecast_from_last_year_and_no_pace() -> None:
    found = standing(target(1000.0), as_of=day(-5), measured=[], last_year=[9.0] * 100)
    assert found.forecast is not None
    assert (found.forecast.value, found.pace, found.status) == (900, None, Status.AMBER)


def test_what_is_allowed_is_the_sum_of_the_adjustments_up_to_the_day() -> None:
    one = target(1000.0, -100.0, 50.0)
    assert [one.allowed(day(number)) for number in (-1, 0, 29, 30, 60)] == [0, 1000, 1000, 900, 950]


def test_children_get_at_most_what_there_is_and_the_rest_is_shown() -> None:
    parent = target(1000.0)
    child = target(600.0, target_id="a", parent_id="q1")
    assert unallocated(parent, [child], on=START) == 400
    assert unallocated(parent, [child, target(400.0, target_id="b")], on=START) == 0
    with pytest.raises(OverAllocated, match="1001"):
        unallocated(parent, [child, target(401.0, target_id="b")], on=START)
    with pytest.raises(InvalidInput, match="kgCO2e"):
        unallocated(parent, [target(1.0, unit="kgCO2e")], on=START)
    with pytest.raises(InvalidInput, match="within"):
        unallocated(parent, [target(1.0, days=101)], on=START)


@pytest.mark.parametrize("amounts", [(), (float("nan"),), (100.0, -101.0)])
def test_amounts_that_are_none_are_refused(amounts: tuple[float, ...]) -> None:
    with pytest.raises(InvalidInput, match="adjustments"):
        target(*amounts)


def test_performance_and_reduction() -> None:
    assert performance(200.0, 150.0) == 0.25
    assert performance(200.0, None) is None
    assert performance(0.0, 10.0) is None


def test_only_what_exceeds_a_quota_costs() -> None:
    found = compliance(allowed=1000.0, forecast=1200.0, price_cny=80.0, offset_share=0.05)
    assert figures(found.exceeded, found.offset, found.cost_cny) == (200, pytest.approx(60), 16000)
    assert compliance(allowed=1000.0, forecast=900.0, price_cny=80.0, offset_share=0.05).cost_cny == 0


AMOUNTS = st.lists(st.integers(0, 100).map(float), min_size=30, max_size=30)


@settings(max_examples=60)
@given(measured=AMOUNTS, last_year=AMOUNTS, elapsed=st.integers(0, 30), allowed=st.integers(1, 3000))
def test_the_forecast_is_measured_plus_rest_and_the_statuses_agree_with_it(
    measured: list[float], last_year: list[float], elapsed: int, allowed: int
) -> None:
    found = standing(
        target(float(allowed), days=30), as_of=day(elapsed), measured=list(measured[:elapsed]), last_year=last_year
    )
    assert found.forecast is not None
    assert found.forecast.value == pytest.approx(sum(measured[:elapsed]) + sum(last_year[elapsed:]))
    if found.forecast.low is not None and found.forecast.high is not None:
        assert found.forecast.low <= found.forecast.value <= found.forecast.high
    assert (found.status is Status.RED) == (found.forecast.value > allowed)
    assert (found.exhausted_on is not None) == (found.status is Status.RED)
