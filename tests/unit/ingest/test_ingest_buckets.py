"""Buckets begin at civil midnight, and their statistics are those of the values in them."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from libs.common.errors import InvalidInput
from services.ingest.domain.buckets import Bucket, bucket_start, parse_bucket


@pytest.mark.parametrize(("text", "length"), [("30s", 30), ("15m", 900), ("1h", 3600), ("1d", 86400), ("7d", 604800)])
def test_length_of_a_bucket(text: str, length: int) -> None:
    assert parse_bucket(text) == length


@pytest.mark.parametrize("text", ["", "m", "0h", "-1h", "1w", "1.5h", "999d", "h1"])
def test_what_is_no_length_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_bucket(text)


def test_day_begins_at_midnight_in_shanghai() -> None:
    # 2026-03-01 00:30 in Shanghai is the last day of February in UTC.
    when = datetime(2026, 2, 28, 16, 30, tzinfo=UTC)
    assert bucket_start(when, 86400) == datetime(2026, 2, 28, 16, 0, tzinfo=UTC)
    assert bucket_start(when - timedelta(hours=1), 86400) == datetime(2026, 2, 27, 16, 0, tzinfo=UTC)
    assert bucket_start(when, 900) == when


def test_statistics_leave_out_what_is_no_value() -> None:
    bucket = Bucket(datetime(2026, 3, 1, tzinfo=UTC))
    bucket.add(["a", "b"], np.array([[1.0, np.nan], [np.nan, np.nan]]))
    bucket.add(["a", "b"], np.array([[3.0, np.nan]]))
    found = bucket.points["a"]
    assert (found.minimum, found.maximum, found.mean, found.last, found.count) == (1.0, 3.0, 2.0, 3.0, 2)
    assert (list(bucket.points), bucket.reports) == (["a"], 3)
