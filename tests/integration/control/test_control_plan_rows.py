"""A plan's occurrences in a real database: all of them or none, distant and near, whatever the loads are called."""

import asyncio
import random
import re
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import asyncpg
import pytest

from services.control.domain.plans import Plan, PlanOptions, Schedule, Window
from services.control.domain.stagger import Spread, Stagger, offsets
from services.control.store import occurrences as occurrence_store
from services.control.store import plans as plan_store
from services.control.store.occurrences import Asked
from services.control.usecases import scheduler
from tests.integration.control.control_world import OCCURRENCES, World
from tests.integration.control.mortal import Fate, Fuse, Killed, Mortal

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

DISTANT = """
    select (select count(*) from distant_shutdowns) + (select count(*) from distant_occurrences)
         + (select count(*) from plan_windows where coalesce(distant_made_at, distant_since) is not null)
"""
NAMES = sorted(["基站-一", "aau.1", 'a"b', "tab\tand\\N", "\U0001f4e1", "z" * 300])


async def as_a_former_release_has_them(world: World, windows: int = 1000) -> None:
    """Put the distant occurrences of that many windows where a release before revision 0017 makes them."""
    async with world.db.write() as conn:
        await conn.execute(
            """
            with moved as (
                update plan_windows set distant_since = distant_made_at, distant_made_at = null
                 where window_no in (select window_no from plan_windows where distant_made_at is not null
                                      order by window_no limit $1)
                returning window_no, plan_no, start_local
            ), gone as (delete from distant_shutdowns d using moved where d.window_no = moved.window_no returning d.*)
            insert into distant_occurrences (plan_no, start_local, off_at, load_id)
            select plan_no, start_local, off_at, load_id
              from moved join gone using (window_no) join plan_loads using (plan_no, load_no)
            """,
            windows,
        )


async def approved(world: World, stagger: Stagger, names: list[str] = NAMES, nights: int = 3) -> Plan:
    """Approve a plan over nights the second of which is a short one: Berlin puts its clocks forward."""
    for name in names:
        world.add_load(name)
    schedule = Schedule(
        date(2026, 3, 28), date(2026, 3, 27) + timedelta(days=nights), (Window(time(1), time(3, 30)),), "Europe/Berlin"
    )
    options = PlanOptions(stagger=stagger)
    plan, _ = await world.plans.draft("p", names, schedule, (), None, "user:a", "api", options=options)
    return await world.plans.approve(plan.plan_id, "user:a", "api")


@pytest.mark.parametrize("near_days", [2, 60])
async def test_every_load_has_its_row_in_every_window(
    world: World, monkeypatch: pytest.MonkeyPatch, near_days: int
) -> None:
    monkeypatch.setattr(scheduler, "NEAR", timedelta(days=near_days))
    stagger = Stagger(Spread.RANDOM, 8400)  # 2 h 20 min of 2 h 30 min, of which one night has an hour less
    plan = await approved(world, stagger)
    assert bool(await world.value("select count(*) from distant_shutdowns")) is (near_days == 2)
    async with world.db.read() as conn:
        windows = await conn.fetch("select * from plan_windows order by start_local")
        found = await occurrence_store.fetch_page(conn, Asked(), 100)
    spread = offsets(plan.plan_id, NAMES, [window["start_local"] for window in windows], stagger)
    expected = []
    for window, of_window in zip(windows, spread.of_windows, strict=True):
        for name, of_load in zip(NAMES, spread.of_loads, strict=True):
            off_at = window["off_at"] + timedelta(seconds=(of_load + of_window) % spread.modulus)
            if off_at < window["on_at"]:
                expected.append(
                    (off_at, window["start_local"], name, window["on_at"], "planned", "", world.clock.now())
                )
    assert [(window["on_at"] - window["off_at"]).total_seconds() for window in windows] == [9000, 5400, 9000]
    assert [
        (one.off_at, one.start_local, one.load_id, one.on_at, one.state, one.reason, one.changed_at) for one in found
    ] == sorted(expected)
    for one in found:
        async with world.db.read() as conn:
            assert await occurrence_store.fetch(conn, one.occurrence_id) == one


@pytest.mark.parametrize("near_days", [2, 60])
async def test_windows_that_exist_are_not_made_again_and_nothing_of_them_is_left(
    world: World, monkeypatch: pytest.MonkeyPatch, near_days: int
) -> None:
    monkeypatch.setattr(scheduler, "NEAR", timedelta(days=near_days))
    plan = await approved(world, Stagger())
    _, found = await world.plans.export(plan.plan_id)
    rows = f"select array_agg((start_local, load_id) order by start_local, load_id) from {OCCURRENCES}"
    before = await world.value(rows)
    assert isinstance(before, list)
    async with world.db.statements() as conn:
        stored = await plan_store.lock(conn, plan.plan_id)
        assert stored is not None
        await conn.execute("delete from plan_windows where start_local < $1", found[2].start_local)
        with pytest.raises(asyncpg.UniqueViolationError):  # of the third window, behind the second
            async with conn.transaction():
                await occurrence_store.insert(
                    conn, plan, stored.plan_no, found[1:], plan.created_at, near_until=plan.created_at + scheduler.NEAR
                )
        assert await conn.fetchval("select count(*) from plan_windows") == 1
    third = [row for row in before if row[0] == found[2].start_local]
    assert await world.value(rows) == (before if near_days == 60 else third)


async def test_a_load_is_in_a_window_once(world: World) -> None:
    await approved(world, Stagger())
    again = [
        "insert into plan_loads select plan_no, 99, load_id from plan_loads",
        "insert into distant_shutdowns select * from distant_shutdowns",
        "insert into plan_windows select plan_no, start_local, off_at, on_at from plan_windows",
    ]
    for one in again:
        with pytest.raises(asyncpg.UniqueViolationError):
            async with world.db.write() as conn:
                await conn.execute(one)


@pytest.mark.parametrize("how", [Fate.DIES_BEFORE, Fate.DIES_AFTER])
async def test_a_crash_at_any_step_of_making_and_bringing_near_changes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, how: Fate
) -> None:
    monkeypatch.setattr(scheduler, "OCCURRENCES_AT_A_TIME", 6)
    monkeypatch.setattr(scheduler.make_occurrences, "__kwdefaults__", {"room": 6})
    plan = await approved(world, Stagger(Spread.EVEN, 600), ["a", "b", "c"], nights=8)
    fuse = Fuse()
    fuse.how = how
    mortal = Mortal(world.db)
    mortal.fate = fuse
    monkeypatch.setattr(world.scheduler, "_db", mortal)
    deaths = 0
    begins = datetime(2026, 3, 28, tzinfo=UTC)
    for now in (world.clock.now(), begins - timedelta(days=1), begins + timedelta(days=3), begins + timedelta(days=9)):
        fuse.steps = 0  # the first step of each round is fatal, and so is each first one behind a death
        busy = True
        while busy:
            try:
                busy = await world.scheduler.advance_plans(now)
                busy |= await world.scheduler.bring_near(now)
            except Killed:
                busy = True
                deaths += 1
                fuse.steps = 1 if deaths % 2 else None
            near = await world.value(
                "select count(*) from plan_windows where distant_made_at is null and off_at >= $1", now + scheduler.NEAR
            )
            assert near == 0
        late = "select count(*) from plan_windows where distant_made_at is not null and off_at < $1"
        assert await world.value(late, now + scheduler.NEAR) == 0
        rows = await world.value(f"select array_agg(load_id order by start_local, load_id) from {OCCURRENCES}")
        assert rows == ["a", "b", "c"] * 8
    assert deaths >= 4
    assert await world.value("select count(*) from distant_shutdowns") == 0
    assert await world.value("select count(*) from plan_occurrences where changed_at <> $1", plan.approved_at) == 0


async def test_nothing_is_begun_while_what_it_may_meet_is_distant(world: World) -> None:
    await approved(world, Stagger(), ["a"])
    await world.clock.advance((datetime(2026, 3, 28, tzinfo=UTC) - world.clock.now()).total_seconds())
    now = world.clock.now()
    assert not await world.scheduler.prepare(now)
    assert await world.value("select count(*) from commands") == 0
    await world.run(60, step_s=10)  # control, back after weeks, brings near what has begun already
    assert not world.field.breakers["a"].closed


@pytest.mark.parametrize("windows", [1, 3])
async def test_what_a_former_release_has_made_comes_near_as_the_rest(world: World, windows: int) -> None:
    await approved(world, Stagger(Spread.EVEN, 600))
    async with world.db.read() as conn:
        before = await occurrence_store.fetch_page(conn, Asked(), 100)
    await as_a_former_release_has_them(world, windows)
    assert await world.value("select count(*) from distant_occurrences") == windows * len(NAMES)
    async with world.db.read() as conn:
        assert await occurrence_store.fetch_page(conn, Asked(), 100) == before
        assert await occurrence_store.fetch(conn, before[0].occurrence_id) == before[0]
    assert not await world.scheduler.bring_near(datetime(2026, 4, 10, tzinfo=UTC))
    async with world.db.read() as conn:
        assert await occurrence_store.fetch_page(conn, Asked(), 100) == before
    assert await world.value("select count(*) from plan_occurrences") == len(before)
    assert await world.value(DISTANT) == 0


async def test_a_plan_that_ends_takes_what_a_former_release_has_made_along(world: World) -> None:
    plan = await approved(world, Stagger())
    await as_a_former_release_has_them(world, 1)
    await world.plans.end(plan.plan_id, "done", "user:a", "api")
    assert await world.value(f"select count(*) from {OCCURRENCES}") == 0
    assert await world.value(DISTANT) == 0
    assert await world.value("select count(*) from plan_loads") == 0


async def test_a_plan_that_ends_while_its_windows_come_near_leaves_nothing_to_begin(world: World) -> None:
    plan = await approved(world, Stagger(), ["a", "b"])
    waiting = "select exists (select from pg_locks where not granted)"
    async with world.db.write() as conn:
        (first, *_) = await occurrence_store.lock_distant(conn, datetime(2026, 4, 1, tzinfo=UTC), 1)
        assert await occurrence_store.bring_near(conn, first) == 2
        ending = asyncio.create_task(world.plans.end(plan.plan_id, "done", "user:a", "api"))
        while not await world.value(waiting):
            assert not ending.done()
    await ending
    assert await world.value(f"select count(*) from {OCCURRENCES}") == 0
    assert await world.value(DISTANT) == 0


async def test_a_plan_that_a_former_release_has_ended_is_not_followed(world: World) -> None:
    await approved(world, Stagger(), ["a", "b"])
    async with world.db.write() as conn:
        await conn.execute("update plans set state = 'ended', ended_by = 'user:a', ended_at = now()")
    async with world.db.read() as conn:
        assert await occurrence_store.fetch_page(conn, Asked(), 10) == []
    assert not await world.scheduler.bring_near(datetime(2026, 4, 1, tzinfo=UTC))
    assert await world.value(f"select count(*) from {OCCURRENCES}") == 0
    assert await world.value(DISTANT) == 0


async def test_a_former_release_finds_every_night_after_what_the_readme_says_for_going_back(world: World) -> None:
    await approved(world, Stagger(Spread.EVEN, 600), nights=5)
    await as_a_former_release_has_them(world, 2)
    ended = await approved(world, Stagger(), nights=2)
    async with world.db.write() as conn:  # as a former release ends a plan, which knows of no distant ones
        await conn.execute("update plans set state = 'ended', ended_by = 'user:a' where plan_id = $1", ended.plan_id)
    async with world.db.read() as conn:
        before = await occurrence_store.fetch_page(conn, Asked(), 1000)
    assert await world.value("select count(*) from plan_occurrences") == 0
    readme = (Path(__file__).parents[3] / "services" / "control" / "README.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```sql\n(.*?)```", readme, re.DOTALL)
    async with world.db.write() as conn:
        await conn.execute(script)
    async with world.db.read() as conn:
        assert await occurrence_store.fetch_page(conn, Asked(), 1000) == before
    # A former release looks into this table alone.
    assert await world.value("select count(*) from plan_occurrences") == len(before) == 5 * len(NAMES)
    assert await world.value(DISTANT) == 0
    assert not await world.scheduler.bring_near(datetime(2026, 4, 10, tzinfo=UTC))
    await world.clock.advance((datetime(2026, 3, 28, 0, 9, tzinfo=UTC) - world.clock.now()).total_seconds())
    await world.run(60, step_s=5)
    assert not any(world.field.breakers[name].closed for name in NAMES)


@pytest.mark.parametrize("seed", range(4))
async def test_pages_are_the_same_whatever_is_distant(world: World, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Plans in parts, on any day, some ended by a person: a page is always what sorting everything would give."""
    draw = random.Random(seed)
    monkeypatch.setattr(scheduler, "OCCURRENCES_AT_A_TIME", draw.choice([1, 5, 1000]))
    names = [f"l{number}" for number in range(5)]
    for name in names:
        world.add_load(name)
    plans = []
    for _ in range(4):
        first = date(2026, 3, 1) + timedelta(days=draw.randrange(6))
        within_s = draw.choice([0, 3600, 14_000])
        start = draw.choice([time(20), time(23), time(23, 30)])
        schedule = Schedule(
            first, first + timedelta(days=draw.randrange(5)), (Window(start, time(6)),), "Asia/Shanghai"
        )
        options = PlanOptions(stagger=Stagger(Spread.RANDOM, within_s) if within_s else Stagger())
        loads = draw.sample(names, draw.randint(1, 5))
        plan, _ = await world.plans.draft("p", loads, schedule, (), None, "user:a", "api", options=options)
        await world.plans.approve(plan.plan_id, "user:a", "api")
        plans.append(plan.plan_id)
    for _ in range(4):
        now = world.clock.now()
        while await world.scheduler.advance_plans(now):
            pass
        while await world.scheduler.bring_near(now):
            pass
        await as_a_former_release_has_them(world, draw.choice([0, 1, 5]))
        if draw.random() < 0.3 and plans:
            await world.plans.end(plans.pop(), "done", "user:a", "api")
        for _ in range(4):
            await _check_pages(
                world, draw, draw.choice([None, *plans]), draw.choice([None, None, draw.sample(names, 2)])
            )
        await world.clock.advance(draw.uniform(0, 40) * 3600)


async def _check_pages(world: World, draw: random.Random, plan_id: str | None, load_ids: list[str] | None) -> None:
    start = draw.choice([None, world.clock.now() + timedelta(hours=draw.uniform(-10, 100))])
    end = draw.choice([None, world.clock.now() + timedelta(hours=draw.uniform(0, 100))])
    async with world.db.read() as conn:
        rows = await conn.fetch(f"select * from {OCCURRENCES} join plans using (plan_no)")
    every = sorted(
        (row["off_at"], row["plan_no"], row["start_local"], row["load_id"])
        for row in rows
        if (plan_id is None or row["plan_id"] == plan_id) and (load_ids is None or row["load_id"] in load_ids)
        and (start is None or row["off_at"] >= start) and (end is None or row["off_at"] < end)
    )  # fmt: skip
    found: list[tuple[datetime, int, datetime, str]] = []
    after, limit = None, draw.choice([1, 3, 10, 100])
    while True:
        asked = Asked(plan_id=plan_id, load_ids=load_ids, start=start, end=end, after=after)
        async with world.db.read() as conn:
            page = await occurrence_store.fetch_page(conn, asked, limit)
        found += [(one.off_at, one.plan_no, one.start_local, one.load_id) for one in page]
        if len(page) < limit:
            break
        after = (page[-1].off_at, page[-1].occurrence_id)
    assert found == every
