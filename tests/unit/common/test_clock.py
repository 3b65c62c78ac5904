"""The machine's clocks behind the port, and times without a zone."""

from datetime import UTC, datetime, timedelta, timezone, tzinfo

import pytest

from libs.common.clock import CIVIL_ZONE, SystemClock, require_aware


class NoOffset(tzinfo):
    """A zone that does not know its offset makes a time naive, whatever ``tzinfo`` says."""

    def utcoffset(self, _: datetime | None) -> None:
        return None

    dst = utcoffset

    def tzname(self, _: datetime | None) -> str:
        return "nowhere"


def test_wall_time_is_aware_and_in_utc() -> None:
    assert SystemClock().now().utcoffset() == timedelta(0)


async def test_monotonic_time_does_not_step_back_and_a_negative_sleep_is_none() -> None:
    clock = SystemClock()
    before = clock.monotonic()
    await clock.sleep(-5.0)
    assert clock.monotonic() >= before


@pytest.mark.parametrize("naive", [datetime(2026, 3, 1), datetime(2026, 3, 1, tzinfo=NoOffset())])  # noqa: DTZ001
def test_a_time_without_an_offset_is_never_guessed(naive: datetime) -> None:
    with pytest.raises(ValueError, match=r"installed_at has no time zone: 2026-03-01"):
        require_aware(naive, "installed_at")


def test_an_aware_time_is_brought_to_utc() -> None:
    local = datetime(2026, 3, 1, 8, 0, tzinfo=timezone(timedelta(hours=8)))
    found = require_aware(local, "at")
    assert found == datetime(2026, 3, 1, 0, 0, tzinfo=UTC)
    assert found.utcoffset() == timedelta(0)


def test_civil_days_are_those_of_shanghai() -> None:
    assert datetime(2026, 3, 1, 17, 0, tzinfo=UTC).astimezone(CIVIL_ZONE).day == 2
