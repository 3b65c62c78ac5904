"""Lengths of buckets, as people write them."""

import pytest

from libs.common.errors import InvalidInput
from services.ingest.domain.buckets import parse_bucket


@pytest.mark.parametrize(("text", "length"), [("30s", 30), ("15m", 900), ("1h", 3600), ("1d", 86400), ("7d", 604800)])
def test_length_of_a_bucket(text: str, length: int) -> None:
    assert parse_bucket(text) == length


@pytest.mark.parametrize("text", ["", "m", "0h", "-1h", "1w", "1.5h", "999d", "h1"])
def test_what_is_no_length_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_bucket(text)
