"""Sums by civil period, with what is missing said beside them."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from libs.common.ids import CircuitId, SiteId
from services.carbon.domain.booking import BookedInterval
from services.carbon.domain.intervals import Grade
from services.carbon.frames import Step, by_period, interval_frame, location_based_emissions

START = datetime(2026, 3, 1, 16, tzinfo=UTC)  # midnight of 2 March in Asia/Shanghai


def booked(minutes: int, energy: float | None, grade: Grade = Grade.MEASURED, circuit: str = "c1") -> BookedInterval:
    return BookedInterval(
        circuit_id=CircuitId(circuit),
        site_id=SiteId("s"),
        start=START + timedelta(minutes=minutes),
        step_s=900,
        version=1,
        energy_kwh=energy,
        grade=grade,
        lower_bound=False,
        uncertain=False,
        computed_at=START,
    )


def test_hours_sum_their_quarters_and_say_how_complete_they_are() -> None:
    frame = interval_frame([booked(0, 1.0), booked(15, 2.0), booked(30, 3.0, Grade.ALLOCATED), booked(60, 4.0)], [])
    found = by_period(
        frame, circuits=1, step=Step.HOUR, start=START, end=START + timedelta(hours=3), now=START + timedelta(days=1)
    )
    assert found["energy_kwh"].to_list() == [6.0, 4.0, None]
    assert found["interval_completeness"].to_list() == [0.5, 0.25, 0.0]
    assert found["estimated_share"].to_list() == [0.5, 0.0, 0.0]
    assert found["provisional"].to_list() == [False, False, False]


def test_the_running_hour_is_provisional() -> None:
    frame = interval_frame([booked(0, 1.0)], [("c1", START + timedelta(minutes=15), 0.4)])
    found = by_period(
        frame,
        circuits=1,
        step=Step.HOUR,
        start=START,
        end=START + timedelta(hours=1),
        now=START + timedelta(minutes=20),
    )
    assert found["energy_kwh"].to_list() == [pytest.approx(1.4)]
    assert found["provisional"].to_list() == [True]
    assert found["interval_completeness"].to_list() == [1.0]


def test_days_are_civil_days() -> None:
    frame = interval_frame([booked(-15, 1.0), booked(0, 2.0)], [])
    found = by_period(
        frame,
        circuits=1,
        step=Step.DAY,
        start=START - timedelta(hours=1),
        end=START + timedelta(hours=1),
        now=START + timedelta(days=3),
    )
    assert found["energy_kwh"].to_list() == [1.0, 2.0]
    assert found["start"].to_list()[1] == START


def test_missing_energy_has_no_emission() -> None:
    found = location_based_emissions(pl.Series([1.0, None, 2.0]), 0.5)
    assert found.to_list() == [0.5, None, 1.0]
