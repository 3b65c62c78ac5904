"""Two nights with real processes, each of them killed: short ones. ``make chaos`` has twenty, of a thousand units.

Judged by what is so in the end, with all the time it needs; ``WATTRING_TEST_KILL_SEED`` repeats a plan.
"""

import asyncio
import os
import random
from pathlib import Path

import pytest

from libs.suite.chaos.judge import Books, Unit, faults
from libs.suite.chaos.night import House, Outcome, live_through
from libs.suite.chaos.plan import VICTIMS, draw
from libs.suite.kafka_node import KafkaNodeError
from libs.suite.postgres import PostgresError
from tests.conftest import missing

NIGHTS = 2
UNITS = 60
WINDOW_S = 12.0


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201  # pytest shows it when the test fails


async def nights(folder: Path, seed: int) -> list[Outcome]:
    async with House(folder, UNITS, say) as house:
        found = []
        for number in range(NIGHTS):
            found.append(await live_through(house, seed + number, WINDOW_S, say))
            say(f"{found[-1].went_off} went off, all well after {found[-1].settled_s:.0f} s")
            house.mend()
        return found


@pytest.mark.e2e
@pytest.mark.integration
@pytest.mark.kafka
@pytest.mark.postgres
@pytest.mark.timeout(900)
def test_after_nights_of_kills_every_unit_is_awake_or_somebody_knows(tmp_path: Path) -> None:
    seed = int(os.environ.get("WATTRING_TEST_KILL_SEED") or random.randrange(100_000))
    say(f"again with WATTRING_TEST_KILL_SEED={seed}")
    try:
        outcomes = asyncio.run(nights(tmp_path, seed))
    except (KafkaNodeError, PostgresError) as exc:
        missing(exc.message)
    assert [one.faults for one in outcomes] == [[]] * NIGHTS
    assert all(one.kills > len(VICTIMS) for one in outcomes)


def test_each_victim_dies_in_every_night_and_a_seed_repeats_it() -> None:
    for seed in range(50):
        kills, troubles = draw(seed, 12.0, 100)
        assert {kill.victim for kill in kills} == set(VICTIMS)
        assert {one.what for one in troubles} == {"leaves", "lock", "trip"}
        assert len({one.unit for one in troubles}) == len(troubles)
        assert draw(seed, 12.0, 100) == (kills, troubles)


@pytest.mark.parametrize(
    ("unit", "books", "fault"),
    [
        (Unit("a", True, True, False), Books((), (), (), {}), None),
        (Unit("a", False, True, False), Books((), (), (), {}), "sleeps"),
        (Unit("a", True, True, False), Books({"a"}, (), (), {}), "a command is not over"),
        (Unit("a", True, True, False), Books((), {"a"}, (), {}), "a lease stands"),
        (Unit("a", True, True, False), Books((), (), {"a"}, {}), "an occurrence is not over"),
        (Unit("a", True, True, False), Books((), (), (), {"a": {"wake_up_overdue"}}), "an alarm stands"),
        (Unit("a", False, False, False), Books({"a"}, (), (), {}), "there is no alarm"),
        (Unit("a", True, False, False), Books({"a"}, (), (), {}), "there is no alarm"),
        (Unit("a", False, False, False), Books({"a"}, (), (), {"a": {"wake_up_overdue"}}), None),
        (Unit("a", True, False, False), Books((), (), (), {}), None),
        (Unit("a", False, True, True), Books({"a"}, (), (), {"a": {"wake_up_overdue"}}), "nobody was called"),
        (Unit("a", False, True, True), Books({"a"}, (), (), {"a": {"wake_up_stopped"}}), None),
        (Unit("a", True, True, True), Books((), (), (), {}), None),
    ],
)
def test_the_judge_sees_every_fault(unit: Unit, books: Books, fault: str | None) -> None:
    found = faults([unit], books)
    assert (found == []) if fault is None else (len(found) == 1 and found[0].endswith(fault))
