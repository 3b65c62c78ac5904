"""Many reports as few: the fast way gives what the slow way gives."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import groupby
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.domain.series import Series, bucket_starts, downsampled, joined, microseconds, moment

NAMES = ("voltage_a", "current_a", "energy_active_import")
SHANGHAI = ZoneInfo("Asia/Shanghai")
DAY = datetime(2026, 3, 1, tzinfo=UTC)

Reports = Mapping[datetime, Mapping[str, float | None]]
VALUES = st.dictionaries(st.sampled_from(NAMES), st.floats(-1e6, 1e6, allow_nan=False), max_size=len(NAMES))
TIMES = st.integers(0, 3 * 86400 * 10).map(lambda tenths: DAY + timedelta(seconds=tenths / 10))


def series_of(reports: Reports, names: tuple[str, ...] = NAMES) -> Series:
    times = sorted(reports)
    values = [[reports[time].get(name, math.nan) for name in names] for time in times]
    return Series(
        np.array([microseconds(time) for time in times], dtype=np.int64),
        names,
        np.array(values, dtype=np.float64).reshape(len(times), len(names)),
    )


def slow_start(when: datetime, length_s: int) -> datetime:
    """Count from midnight in Shanghai on 1970-01-01, as a person would."""
    local = when.astimezone(SHANGHAI).replace(tzinfo=None)
    passed = local - datetime(1970, 1, 1)  # noqa: DTZ001 - civil time
    return (local - passed % timedelta(seconds=length_s)).replace(tzinfo=SHANGHAI).astimezone(UTC)


def slow_buckets(reports: Reports, length_s: int) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    for start, group in groupby(sorted(reports), key=lambda time: slow_start(time, length_s)):
        times = list(group)
        points = {}
        for name in NAMES:
            values = [value for time in times if (value := reports[time].get(name)) is not None]
            if values:
                points[name] = (len(values), min(values), max(values), math.fsum(values) / len(values), values[-1])
        found.append((start, len(times), points))
    return found


@given(st.dictionaries(TIMES, VALUES, max_size=40), st.sampled_from([1, 30, 900, 3600, 7200, 86400, 7 * 86400]))
def test_buckets_are_those_of_a_slow_reference(reports: Reports, length_s: int) -> None:
    found = downsampled(series_of(reports), length_s)
    expected = slow_buckets(reports, length_s)
    assert [(bucket.start, bucket.reports) for bucket in found] == [one[:2] for one in expected]
    for bucket, (_, _, points) in zip(found, expected, strict=True):
        assert {
            name: (one.count, one.minimum, one.maximum, pytest.approx(one.mean, abs=1e-6), one.last)
            for name, one in bucket.points.items()
        } == points


@given(st.lists(st.dictionaries(TIMES, VALUES, max_size=10), max_size=4))
def test_joined_series_are_in_order_and_the_later_part_stands(parts: list[Reports]) -> None:
    together: dict[datetime, Mapping[str, float | None]] = {}
    for part in parts:
        together.update(part)
    found = joined([series_of(part) for part in parts])
    assert [moment(int(time)) for time in found.times] == sorted(together)
    expected = series_of(together, found.names)
    assert np.array_equal(found.values, expected.values, equal_nan=True)


def test_joined_series_may_have_different_points_and_be_asked_for_some() -> None:
    first = series_of({DAY: {"voltage_a": 1.0}}, ("voltage_a",))
    second = series_of({DAY + timedelta(seconds=1): {"current_a": 2.0, "voltage_a": 3.0}}, ("current_a", "voltage_a"))
    assert np.array_equal(joined([first, second]).values, [[1.0, math.nan], [3.0, 2.0]], equal_nan=True)
    assert np.array_equal(joined([first, second], ["current_a"]).values, [[math.nan], [2.0]], equal_nan=True)
    assert len(joined([])) == 0


def test_day_begins_at_midnight_in_shanghai() -> None:
    # 2026-03-01 00:30 in Shanghai is the last day of February in UTC.
    when = datetime(2026, 2, 28, 16, 30, tzinfo=UTC)
    times = np.array([microseconds(when - timedelta(hours=1)), microseconds(when)])
    assert [moment(int(start)) for start in bucket_starts(times, 86400)] == [
        datetime(2026, 2, 27, 16, 0, tzinfo=UTC),
        datetime(2026, 2, 28, 16, 0, tzinfo=UTC),
    ]
