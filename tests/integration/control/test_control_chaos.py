"""The chaos of the night in virtual time: twenty nights, each from its seed, and two of them with a thousand units.

What is killed and when comes from the seed alone, and many units mostly repeat what some of them meet: the other nights
have a tenth of them, except in the long form.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from libs.common.db import Database
from tests.conftest import LONG
from tests.integration.control.chaos_night import faults, live_through
from tests.integration.control.control_world import database

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.timeout(300)]

UNITS = 100
MANY_UNITS = 1000
NIGHTS = 20
OF_MANY = range(NIGHTS if LONG else 2)


@pytest.fixture
async def db(postgres_url: str) -> AsyncIterator[Database]:
    found = database(postgres_url)
    await found.open()
    try:
        yield found
    finally:
        await found.close()


@pytest.mark.parametrize(
    ("seed", "units"),
    [(seed, MANY_UNITS) for seed in OF_MANY] + [(seed, UNITS) for seed in range(NIGHTS) if seed not in OF_MANY],
)
async def test_whatever_is_killed_in_the_night_every_unit_wakes_or_somebody_knows(
    db: Database, tmp_path: Path, seed: int, units: int
) -> None:
    night = await live_through(db, tmp_path, seed, units)
    night.world.journal.close()
    assert await faults(night) == []
    assert night.kills.total() > 0
    if seed % 2 == 1:  # else so much may be away at midnight that nothing is switched off, which is right as well
        assert len(night.went_off) > 0.9 * units


async def test_the_judge_sees_what_is_wrong(db: Database, tmp_path: Path) -> None:
    night = await live_through(db, tmp_path, seed=1, units=40)
    night.world.journal.close()
    assert await faults(night) == []
    breakers = night.world.field.breakers
    well = next(load_id for load_id in breakers if load_id not in night.leaving and not breakers[load_id].local_lock)
    breakers[well].closed = False
    assert any(fault.startswith(f"{well}: sleeps") for fault in await faults(night))
    breakers[well].reachable = False
    assert await faults(night) == [f"{well}: out of reach, and no alarm"]
    breakers[well].local_lock = True
    assert len(await faults(night)) == 1
