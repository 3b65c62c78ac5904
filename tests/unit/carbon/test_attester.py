"""The loop that commits: what it does when it may not, and how much of the processor it leaves to booking."""

import logging
from collections.abc import Callable
from typing import cast

import pytest

from libs.common.clock import Clock
from libs.common.errors import Unavailable
from libs.common.metrics import render
from libs.common.tokens import MissingKey
from services.carbon.attester import REST, AttestingLoop
from services.carbon.usecases.attesting import Attesting, LogDamaged

POLL_S = 1.0


class Over(Exception):
    pass


class Script:
    """What each turn does: raises, or has worked so long and knows whether there is more. It is the clock as well."""

    def __init__(self, *turns: Exception | tuple[float, bool]) -> None:
        self.turns = list(turns)
        self.noted = 0
        self.at_s = 0.0
        self.slept: list[float] = []
        self.stopped: list[bool] = []

    async def note_factors(self, factors: object) -> int:
        self.noted += 1
        return 0

    async def turn(self) -> bool:
        now = self.turns.pop(0)
        if isinstance(now, Exception):
            raise now
        self.at_s += now[0]
        return now[1]

    def monotonic(self) -> float:
        return self.at_s

    async def sleep(self, delay_s: float) -> None:
        self.slept.append(delay_s)
        self.stopped.append("wattring_carbon_attestation_stopped 1.0" in render().decode())
        if not self.turns:
            raise Over

    async def run(self) -> "Script":
        loop = AttestingLoop(
            attesting=cast(Attesting, self), factors=[], clock=cast(Clock, self), poll_s=POLL_S
        )  # fmt: skip
        with pytest.raises(Over):
            await loop.run(lambda: None)
        return self


@pytest.mark.parametrize("kind", [lambda: LogDamaged("the tiles are gone"), lambda: MissingKey("no key of carbon")])
async def test_what_a_person_has_to_mend_stops_the_log_and_says_so_once(
    kind: Callable[[], Exception], caplog: pytest.LogCaptureFixture
) -> None:
    found = await Script(kind(), kind(), (0.0, False)).run()
    assert found.stopped == [True, True, False]
    assert found.slept == [POLL_S] * 3
    errors = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert [one.message for one in errors] == ["attestation stands still"]


async def test_a_database_that_is_away_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    found = await Script(Unavailable("away"), (0.0, False), (0.0, False)).run()
    assert found.stopped == [False] * 3
    assert [one.levelno for one in caplog.records] == [logging.WARNING]
    assert found.noted == 1, "what ships is looked at once"


async def test_a_log_that_is_behind_rests_longer_than_it_works_and_never_longer_than_it_would_idle() -> None:
    found = await Script((0.25, True), (2.0, True), (0.25, False)).run()
    assert found.slept == [REST * 0.25, POLL_S, POLL_S]
