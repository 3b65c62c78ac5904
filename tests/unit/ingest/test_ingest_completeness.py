"""How many reports are expected: as many as there are slots, whatever hours and periods are."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.registry import Device
from services.ingest.domain.completeness import Duty, Loss, expected, hours_between, in_use_within, losses
from services.ingest.domain.polling import next_slot

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def duty(interval_s: float, begins: float = 0.0, ends: float = 10 * 86400.0, device: str = "m-1") -> Duty:
    return Duty(device, "s-1", NOON.timestamp() + begins, NOON.timestamp() + ends, interval_s, "modbus")


@given(
    st.sampled_from([0.5, 1, 7, 60, 300, 900, 3600, 5400, 86400]),
    st.integers(0, 7200),
    st.integers(1, 7200),
    st.text("abc", min_size=1, max_size=4),
)
def test_expected_are_the_polls_that_would_have_been_made(interval: float, begins: int, lasts: int, name: str) -> None:
    found = duty(interval, begins, begins + lasts, name)
    hours = [NOON.timestamp() + 3600 * number for number in range(5)]
    counted = [0] * 5
    slot = next_slot(found.begins - interval / 2, interval, found.offset)
    while slot < found.begins:
        slot = next_slot(slot + interval / 100, interval, found.offset)
    while slot < found.ends:
        counted[int((slot - hours[0]) // 3600)] += 1
        slot = next_slot(slot + interval / 100, interval, found.offset)
    # A slot that lies on the border but for a rounding may be counted on either side of it.
    assert np.abs(expected([found], hours)[0] - counted).max() <= 1
    assert abs(int(expected([found], hours).sum()) - sum(counted)) <= 1


def test_whole_hour_has_exactly_its_polls() -> None:
    hours = [NOON.timestamp()]
    duties = [duty(60.0, device=f"m-{number}") for number in range(50)]
    assert set(expected(duties, hours)[:, 0].tolist()) == {60}
    assert expected([duty(60.0, ends=-1.0)], hours).tolist() == [[0]]
    assert expected([duty(86400.0)], [NOON.timestamp() + 3600 * n for n in range(24)]).sum() == 1


def test_too_many_in_one_hour_do_not_make_up_for_another() -> None:
    duties = [duty(60.0), duty(3600.0)]
    wanted, got = np.array([[60, 60], [1, 1]]), np.array([[90, 30], [2, 0]])
    assert losses(duties, wanted, got) == [Loss(120, 90), Loss(2, 2)]  # but a report an hour may come a little late
    assert losses(duties, wanted, got)[0].ratio == pytest.approx(0.25)
    assert Loss().ratio is None
    assert Loss(3, 1).plus(Loss(1, 1)) == Loss(4, 2)


def test_device_is_expected_from_the_latest_of_its_beginnings_to_the_earliest_of_its_ends() -> None:
    device = Device.model_validate(
        {
            "id": "m-1", "name": "M", "version": 1, "changed_by": "test", "kind": "meter_3p", "site": "s-1",
            "valid_from": NOON, "installed_at": NOON + HOUR, "decommissioned_at": NOON + 3 * HOUR,
        }
    )  # fmt: skip
    assert in_use_within(device, NOON - HOUR, NOON + 9 * HOUR) == (NOON + HOUR, NOON + 3 * HOUR)
    assert in_use_within(device, NOON + 2 * HOUR, NOON + 9 * HOUR) == (NOON + 2 * HOUR, NOON + 3 * HOUR)
    assert in_use_within(device, NOON + 3 * HOUR, NOON + 9 * HOUR) is None


def test_hours_that_touch_a_span() -> None:
    assert hours_between(NOON, NOON + HOUR) == [NOON]
    minute = timedelta(minutes=1)
    assert hours_between(NOON + minute, NOON + HOUR + minute) == [NOON, NOON + HOUR]
    assert len(hours_between(NOON, NOON + 31 * 24 * HOUR)) == 744
