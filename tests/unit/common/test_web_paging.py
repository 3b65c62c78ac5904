"""Cursors come back as they were given out, and nothing else is one; a span of time has a length."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from libs.common.errors import InvalidInput
from libs.common.web import check_span, key_cursor, read_key_cursor, read_time_cursor, time_cursor

AT = datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=UTC)


@pytest.mark.parametrize("key", ["a", "plan-1:2026-02-03T00:00:00+08:00", "x~y", "a/b@c"])
def test_cursor_comes_back(key: str) -> None:
    assert read_time_cursor(time_cursor(AT, key)) == (AT, key)
    assert read_time_cursor(time_cursor(AT.astimezone(timezone(timedelta(hours=8))), key)) == (AT, key)
    assert read_key_cursor(key_cursor(key)) == key


def test_no_cursor_is_the_beginning() -> None:
    assert read_key_cursor(None) is None


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "~",
        "garbage",
        "'; drop table x;--",
        "../../etc",
        "~a b",
        "~a\x00",
        "~é",
        "~" + "x" * 300,
        time_cursor(AT, "a"),
    ],
)
def test_what_is_no_key_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidInput, match="next_cursor of the page before"):
        read_key_cursor(cursor)


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "~a",
        "garbage",
        "2026-02-03T04:05:06~a",
        "2026-02-03T04:05:06+08:00~a",
        "2026-02-30T04:05:06+00:00~a",
        "2026-W01-1T00:00:00+00:00~a",
        "2026-02-03T04:05:06+00:00~",
        "2026-02-03T04:05:06+00:00~a\n",
        "0001-01-01T00:00:00+00:00~a",
        "9999-12-31T23:59:59+00:00~a",
    ],
)
def test_what_is_no_time_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidInput, match="next_cursor of the page before"):
        read_time_cursor(cursor)


def test_span_has_a_length() -> None:
    check_span(None, AT)
    check_span(AT, None)
    check_span(AT, AT + timedelta(microseconds=1))
    for end in (AT, AT - timedelta(days=1)):
        with pytest.raises(InvalidInput, match="a time after from"):
            check_span(AT, end)
