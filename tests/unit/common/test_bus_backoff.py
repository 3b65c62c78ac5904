"""Growing waits."""

import random

from libs.common.backoff import Backoff


def test_waits_double_up_to_the_cap_and_vary_by_half() -> None:
    backoff = Backoff(first_s=1.0, cap_s=5.0, rng=random.Random(4))
    waits = [backoff.next_s() for _ in range(6)]
    for wait, limit in zip(waits, (1.0, 2.0, 4.0, 5.0, 5.0, 5.0), strict=True):
        assert limit / 2 <= wait <= limit
    assert len(set(waits)) == 6


def test_after_a_success_it_begins_again() -> None:
    backoff = Backoff(first_s=1.0, cap_s=60.0)
    assert backoff.first
    for _ in range(2000):
        backoff.next_s()
    assert not backoff.first
    backoff.reset()
    assert backoff.first
    assert backoff.next_s() <= 1.0
