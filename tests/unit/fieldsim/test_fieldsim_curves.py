"""Curves: what is measured is played, and energy is the integral of power to the last digit."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.fieldsim.curves import (
    CYCLE_ORIGIN_S,
    DAY_S,
    Curve,
    Track,
    bridge,
    dwelling,
    frequency_hz,
    weather,
)

SHANGHAI = ZoneInfo("Asia/Shanghai")

samples = st.lists(st.integers(-10_000, 10_000), min_size=1, max_size=40)
curves = st.builds(
    lambda values, step_s, origin_s: Curve.through(values, step_s=step_s, origin_s=origin_s),
    samples,
    st.integers(1, 600),
    st.integers(-10_000, 10_000),
)
times = st.floats(-1e6, 1e6, allow_nan=False)


def civil(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=SHANGHAI).timestamp()


def quadrature(curve: Curve, from_s: float, to_s: float) -> float:
    """Area under the line by its corners: exact for straight pieces, and written without looking at the code."""
    corners = [from_s]
    number = int((from_s - curve.origin_s) // curve.step_s) + 1
    while (corner := curve.origin_s + number * curve.step_s) < to_s:
        corners.append(corner)
        number += 1
    corners.append(to_s)
    return sum((b - a) * (curve.at(a) + curve.at(b)) / 2 for a, b in pairwise(corners))


@given(curve=curves, start=times, length=st.floats(0, 5_000))
def test_integral_is_the_area_under_the_line(curve: Curve, start: float, length: float) -> None:
    expected = quadrature(curve, start, start + length)
    assert curve.integral(start, start + length) == pytest.approx(expected, rel=1e-6, abs=1e-3)


@given(curve=curves, a=times, b=times, c=times)
def test_integrals_add_up(curve: Curve, a: float, b: float, c: float) -> None:
    whole = curve.integral(a, c)
    assert curve.integral(a, b) + curve.integral(b, c) == pytest.approx(whole, rel=1e-9, abs=1e-4)


@given(curve=curves, time_s=st.integers(-100_000, 100_000), cycles=st.integers(-5, 5))
def test_curve_repeats(curve: Curve, time_s: int, cycles: int) -> None:
    assert curve.at(time_s + cycles * curve.period_s) == pytest.approx(curve.at(time_s), abs=1e-9)


@given(gain=st.floats(0, 5), constant=st.floats(0, 5), start=st.integers(0, DAY_S), step=st.floats(0, 4000))
def test_energy_register_never_falls(gain: float, constant: float, start: int, step: float) -> None:
    track = Track(dwelling().active_power, gain, constant, shift_s=1234.5)
    now_s = 1_790_000_000.0 + start
    assert track.integral(0.0, now_s + step) >= track.integral(0.0, now_s)


def test_measured_minutes_are_played_at_their_labels() -> None:
    """2006-12-18 00:00 and 2006-12-24 18:30 of the file, on the same weekday and time in Shanghai."""
    curves = dwelling()
    monday = civil("2026-11-16 00:00")  # a Monday, an even number of weeks after the origin
    assert (monday - CYCLE_ORIGIN_S) % (14 * DAY_S) in (0, 7 * DAY_S)
    first = monday if (monday - CYCLE_ORIGIN_S) % (14 * DAY_S) == 0 else monday + 7 * DAY_S
    assert curves.active_power.at(first) == 0.278
    assert curves.voltage.at(first) == 246.17
    assert curves.active_power.at(first + 6 * DAY_S + 18.5 * 3600) == 0.49


def test_two_whole_weeks_are_played() -> None:
    assert dwelling().active_power.period_s == 14 * DAY_S
    assert datetime.fromtimestamp(CYCLE_ORIGIN_S, SHANGHAI).strftime("%A %H:%M") == "Monday 00:00"


def test_nights_stay_nights() -> None:
    """Between two and five in Shanghai the dwelling sleeps, between six and nine in the evening it does not."""
    power = dwelling().active_power
    days = [datetime(2026, 11, 2, tzinfo=SHANGHAI) + timedelta(days=n) for n in range(14)]
    night_kwh = sum(power.integral(d.timestamp() + 2 * 3600, d.timestamp() + 5 * 3600) for d in days)
    evening_kwh = sum(power.integral(d.timestamp() + 18 * 3600, d.timestamp() + 21 * 3600) for d in days)
    assert evening_kwh > 2.5 * night_kwh


def test_missing_minutes_are_bridged_by_a_line() -> None:
    """2006-12-21 11:23 and 11:24 have no row; 11:22 and 11:25 have."""
    power = dwelling().active_power
    hole = (3 * 24 + 11) * 60 + 22
    before, first, second, after = (power.samples[hole + n] for n in range(4))
    assert first == pytest.approx(before + (after - before) / 3, abs=1)
    assert second == pytest.approx(before + 2 * (after - before) / 3, abs=1)


def test_bridge_closes_the_cycle() -> None:
    assert bridge({1: 10, 3: 30}, 4) == [20, 10, 20, 30]


def test_bridge_needs_something() -> None:
    with pytest.raises(ValueError, match="nothing"):
        bridge({}, 4)


def test_a_curve_needs_a_sample() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Curve.through([], step_s=60)


def test_weather_is_the_measured_night_and_a_bridge_over_the_day() -> None:
    """The first row of the file is 00:00 UTC, 17:00 at the mast: -7.6 degC and 52.7 %."""
    air = weather()
    assert air.temperature.period_s == DAY_S
    assert air.temperature.at(civil("2026-05-05 17:00")) == -7.6
    assert air.humidity.at(civil("2026-05-05 17:00")) == 52.7
    noon, later = (air.temperature.at(civil(f"2026-05-05 {clock}")) for clock in ("12:00", "13:00"))
    assert later - noon == pytest.approx((-7.6 - -14.7) / 8, abs=0.02)  # 08:59 to 17:00 in a straight line


@given(st.floats(0, 2e9))
def test_frequency_stays_near_fifty(time_s: float) -> None:
    assert abs(frequency_hz(time_s) - 50.0) <= 0.03


def test_the_same_instant_gives_the_same_value_in_any_zone() -> None:
    utc = datetime(2026, 11, 20, 4, 30, tzinfo=UTC)
    local = utc.astimezone(SHANGHAI)
    assert dwelling().active_power.at(utc.timestamp()) == dwelling().active_power.at(local.timestamp())
