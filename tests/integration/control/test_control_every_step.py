"""One night, killed at every single step: each transaction, before and after its commit, and each message published.

The model test draws its crashes; here every one there is has its turn.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from libs.common.bus import topics
from libs.common.db import Database
from libs.common.testing.clock import FakeClock
from services.control.domain.guards import Policy
from services.control.domain.plans import Schedule, Window
from tests.integration.control.control_world import Breaker, database, local, new_keys
from tests.integration.control.mortal import Fate, Fuse, Mortal
from tests.integration.control.mortal_world import MortalWorld

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.timeout(300)]

POLICY = Policy(min_off_s=60, min_on_s=0)
TURN_S = 20.0
TURNS = 16
AWAKE_BY_TURN = 12
"""The window is over after six turns, and the watchdog's margin after nine; then it wakes by itself."""


def reliable(breaker: Breaker, turn: int) -> None:
    """Answer always."""


def silent_at_its_off(breaker: Breaker, turn: int) -> None:
    """Say nothing while it is switched off, so that it has to be looked at."""
    breaker.answers = turn not in (1, 2)


async def night(
    db: Database, folder: Path, behave: Callable[[Breaker, int], None], prepare: Callable[[MortalWorld], None]
) -> MortalWorld:
    """Live through a window of 100 s, and a while longer."""
    async with db.write() as conn:
        await conn.execute(
            """
            truncate plans, occurrences, commands, command_history, command_groups, off_leases, load_switching, outbox,
                     wake_ups, wake_up_todo cascade
            """
        )
    (folder / "leases.journal").unlink(missing_ok=True)
    clock = FakeClock()
    world = MortalWorld(Mortal(db), clock, new_keys(folder / "keys", clock), POLICY, folder / "leases.journal")
    breaker = world.add_load("a")
    start, end = local(clock, 20), local(clock, 120)
    schedule = Schedule(start.date(), start.date(), (Window(start.time(), end.time()),), "Asia/Shanghai")
    plan, _ = await world.plans.draft("night", ["a"], schedule, (), None, "user:a", "api")
    await world.plans.approve(plan.plan_id, "user:b", "api")
    world.mortal.steps = 0
    prepare(world)
    try:
        for turn in range(TURNS):
            behave(breaker, turn)
            await world.live(TURN_S)
            if turn >= AWAKE_BY_TURN:
                assert breaker.closed
    finally:
        world.journal.close()
    return world


async def all_is_well(world: MortalWorld) -> None:
    assert world.field.breakers["a"].closed
    assert await world.value("select count(*) from commands where not is_final") == 0
    assert await world.value("select count(*) from off_leases where closed_at is null") == 0
    assert await world.value("select count(*) from wake_up_todo") == 0
    assert set(await world.occurrence_states()) <= {"awake", "skipped"}
    sent: dict[object, object] = {}
    for topic, payload in world.published:
        if topic == topics.COMMANDS:
            assert sent.setdefault(payload["command_id"], payload) == payload


@pytest.mark.parametrize("behave", [reliable, silent_at_its_off])
async def test_a_night_survives_being_killed_at_any_step(
    postgres_url: str, tmp_path: Path, behave: Callable[[Breaker, int], None]
) -> None:
    db = database(postgres_url)
    await db.open()
    try:
        undisturbed = await night(db, tmp_path, behave, lambda world: None)
        await all_is_well(undisturbed)
        assert undisturbed.field.breakers["a"].switched == 2
        steps, messages = undisturbed.mortal.steps, len(undisturbed.published)
        assert steps > 10
        assert messages > 10
        for step in range(steps):
            for how in (Fate.DIES_BEFORE, Fate.DIES_AFTER):
                await all_is_well(await night(db, tmp_path, behave, _killed_at(step, how)))
        for message in range(messages):
            await all_is_well(await night(db, tmp_path, behave, _killed_publishing(message)))
    finally:
        await db.close()


def _killed_at(step: int, how: Fate) -> Callable[[MortalWorld], None]:
    def prepare(world: MortalWorld) -> None:
        fuse = Fuse()
        fuse.steps, fuse.how = step, how
        world.mortal.fate = fuse

    return prepare


def _killed_publishing(number: int) -> Callable[[MortalWorld], None]:
    def prepare(world: MortalWorld) -> None:
        left = iter([*[False] * number, True])
        world.dies_publishing = lambda: next(left, False)

    return prepare
