"""A plan's occurrences in a real database: all of them or none, whatever the loads are called."""

from datetime import date, time, timedelta

import asyncpg
import pytest

from services.control.domain.plans import PlanOptions, Schedule, Window
from services.control.domain.stagger import Spread, Stagger, offsets
from services.control.store import occurrences as occurrence_store
from services.control.store import plans as plan_store
from tests.integration.control.control_world import World

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

NAMES = sorted(["基站-一", "aau.1", 'a"b', "tab\tand\\N", "\U0001f4e1", "z" * 300])


async def approved(world: World, stagger: Stagger) -> str:
    """Approve a plan over three nights, the second of which is a short one: Berlin puts its clocks forward."""
    for name in NAMES:
        world.add_load(name)
    schedule = Schedule(date(2026, 3, 28), date(2026, 3, 30), (Window(time(1), time(3, 30)),), "Europe/Berlin")
    plan, _ = await world.plans.draft(
        "p", NAMES, schedule, (), None, "user:a", "api", options=PlanOptions(stagger=stagger)
    )
    await world.plans.approve(plan.plan_id, "user:a", "api")
    return plan.plan_id


async def test_every_load_has_its_row_in_every_window(world: World) -> None:
    stagger = Stagger(Spread.RANDOM, 8400)  # 2 h 20 min of 2 h 30 min, of which one night has an hour less
    plan_id = await approved(world, stagger)
    async with world.db.read() as conn:
        windows = await conn.fetch("select * from plan_windows order by start_local")
        rows = await conn.fetch("select * from plan_occurrences order by start_local, load_id")
    spread = offsets(plan_id, NAMES, [window["start_local"] for window in windows], stagger)
    expected = []
    for window, of_window in zip(windows, spread.of_windows, strict=True):
        for name, of_load in zip(NAMES, spread.of_loads, strict=True):
            off_at = window["off_at"] + timedelta(seconds=(of_load + of_window) % spread.modulus)
            if off_at < window["on_at"]:
                expected.append(
                    (window["start_local"], name, off_at, window["on_at"], "planned", "", world.clock.now())
                )
    assert [(window["on_at"] - window["off_at"]).total_seconds() for window in windows] == [9000, 5400, 9000]
    keys = ("start_local", "load_id", "off_at", "on_at", "state", "reason", "changed_at")
    assert [tuple(row[key] for key in keys) for row in rows] == expected


async def test_windows_that_exist_are_not_made_again_and_nothing_of_them_is_left(world: World) -> None:
    plan_id = await approved(world, Stagger())
    async with world.db.write() as conn:
        stored = await plan_store.lock(conn, plan_id)
    assert stored is not None
    days = list(await world.value("select array_agg(start_local order by start_local) from plan_windows"))  # type: ignore[call-overload]
    async with world.db.statements() as conn:
        await conn.execute("delete from plan_windows where start_local > $1", days[0])
        await conn.execute("delete from plan_occurrences where start_local < $1", days[2])
        _, found = await world.plans.export(plan_id)
        with pytest.raises(asyncpg.UniqueViolationError):  # of the third window's rows, behind the second's
            async with conn.transaction():
                await occurrence_store.insert(conn, stored.plan, stored.plan_no, found[1:], world.clock.now())
        assert await conn.fetchval("select count(*) from plan_occurrences") == len(NAMES)
        assert await conn.fetchval("select count(*) from plan_windows") == 1
