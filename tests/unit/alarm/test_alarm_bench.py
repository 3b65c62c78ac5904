"""The benchmark judges what it says it judges; how fast is for ``make bench`` to tell."""

from services.alarm.bench import ONE_IN, measure


def test_the_mix_raises_and_ends_alarms() -> None:
    result = measure(rounds=12, devices=ONE_IN)
    assert result.steps >= 4
    assert result.points_per_s > 0
