"""Polls after switchings: at once, and spread when ten thousand were switched."""

from collections.abc import Collection
from typing import Any, cast

from libs.common.testing.clock import FakeClock
from services.ingest.settings import PollingSettings
from services.ingest.worker.reach import SOON_AT_ONCE, SOON_PER_S, LineReach


class Runner:
    """Notes when it is to poll."""

    def __init__(self) -> None:
        self.after_s: list[float] = []

    def poll_soon(self, device_ids: Collection[str], *, after_s: float = 0.0) -> None:
        self.after_s += [after_s for _ in device_ids]


class Lines:
    """One line for everybody."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def runner(self, line_id: str) -> Runner:
        return self._runner


async def test_a_few_are_polled_at_once_and_many_in_turn() -> None:
    clock, runner = FakeClock(), Runner()
    reach = LineReach(
        lines=cast(Any, Lines(runner)), clock=clock, settings=PollingSettings(), means=cast(Any, None)
    )  # fmt: skip
    for n in range(1000):
        reach.poll_soon("line-1", [f"d-{n}"])
    assert runner.after_s[:SOON_AT_ONCE] == [0.0] * SOON_AT_ONCE
    assert runner.after_s == sorted(runner.after_s)
    assert abs(runner.after_s[-1] - (1000 - SOON_AT_ONCE) / SOON_PER_S) < 1e-6
    await clock.advance(60.0)
    reach.poll_soon("line-1", ["d-0"])
    assert runner.after_s[-1] == 0.0
