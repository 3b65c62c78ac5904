"""When a device is read, and when it is left alone."""

from hypothesis import given
from hypothesis import strategies as st

from services.ingest.domain.polling import BreakerLimits, DeviceBreaker, missed_slots, next_slot, offset_s

intervals = st.sampled_from([1.0, 2.0, 5.0, 60.0, 900.0])


@given(st.floats(1.7e9, 1.9e9), intervals, st.text(min_size=1, max_size=20))
def test_next_slot_is_ahead_by_at_most_one_interval_and_on_the_grid(now: float, interval: float, device: str) -> None:
    offset = offset_s(device, interval)
    slot = next_slot(now, interval, offset)
    assert now - 1e-6 < slot <= now + interval + 1e-6
    steps = (slot - offset) / interval
    assert abs(steps - round(steps)) < 1e-6


def test_offsets_are_spread_over_the_interval() -> None:
    tenths = {int(offset_s(f"meter-{i}", 60.0) // 6) for i in range(200)}
    assert tenths == set(range(10))


def test_slots_that_cannot_be_kept_are_counted() -> None:
    assert [missed_slots(100.0, now, 10.0) for now in (99.0, 100.0, 109.9, 110.0, 135.0)] == [0, 0, 0, 1, 3]


def test_silent_device_leaves_the_cycle_is_probed_with_growing_pauses_and_comes_back() -> None:
    breaker = DeviceBreaker(BreakerLimits(failures=2, waits_s=(30.0, 60.0, 120.0)))
    breaker.failed()
    assert not breaker.is_open
    breaker.failed()
    waits: list[float] = []
    for _ in range(5):
        assert breaker.is_open
        waits.append(breaker.wait_s)
        breaker.failed()
    assert waits == [30.0, 60.0, 120.0, 120.0, 120.0]
    breaker.succeeded()
    assert (breaker.is_open, breaker.failures) == (False, 0)
