"""Counts of what is off at once, and of what stays on, under orders at the same moment and over replicas."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from libs.common.contracts.control import CommandAction, Priority
from services.control.domain.guards import Policy
from services.control.domain.policies import Scope
from services.control.store import areas
from services.control.usecases.guardrules import GuardRules
from services.control.usecases.orders import Group, SwitchOrder
from tests.integration.control.control_world import SITE, World, database
from tests.integration.control.fake_ingest import until
from tests.integration.control.test_control_rules import plan_in, switch

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

PATIENCE_S = 30.0


@pytest.fixture
async def twin(world: World, postgres_url: str) -> AsyncIterator[World]:
    """Another replica on the same database, with the same field."""
    db = database(postgres_url)
    await db.open()
    try:
        other = World(db, world.clock, world.keys, Policy())
        other.loads, other.field = world.loads, world.field
        other.start()
        yield other
    finally:
        await db.close()


def rules(world: World) -> GuardRules:
    return GuardRules(db=world.db, clock=world.steady, loads=world.loads, guards=world.guards, orders=world.orders)


async def say(world: World, scope: str, target: str, **limits: object) -> None:
    await rules(world).put_policy(Scope(scope), target, limits, "test", "user:a", "api")


def add_units(world: World, *load_ids: str, **changes: object) -> None:
    for load_id in load_ids:
        world.add_load(load_id, **{"kind": "aau", "is_radio": True, "sector": "1", **changes})


def off_order(world: World, *load_ids: str) -> SwitchOrder:
    return SwitchOrder(
        action=CommandAction.OPEN, load_ids=load_ids, actor="user:duty", door="api", priority=Priority.OPERATOR,
        restore_at=world.clock.now() + timedelta(hours=1),
    )  # fmt: skip


async def off_now(world: World) -> list[str]:
    return sorted(load_id for load_id, breaker in world.field.breakers.items() if not breaker.closed)


class TestOneAfterTheOther:
    async def test_a_group_is_cut_at_the_limit_and_says_why(self, world: World) -> None:
        add_units(world, "a", "b", "c", "d")
        await say(world, "site", SITE, max_off_site=2)
        group = await switch(world, "open", "a", "b", "c", "d")
        assert [command.load_id for command in group.commands] == ["a", "b"]
        assert [(one["load_id"], one["guard"], one["value"], one["limit"]) for one in group.refused] == [
            ("c", "max_off_site", 3, 2), ("d", "max_off_site", 3, 2),
        ]  # fmt: skip
        assert "3 loads of the site" in str(group.refused[0]["message"])
        assert "上限 2 个" in str(group.refused[0]["message_zh"])

    async def test_a_load_counts_until_it_is_proven_on(self, world: World) -> None:
        add_units(world, "a", "b")
        await say(world, "site", SITE, max_off_site=1)
        await switch(world, "open", "a")
        await world.run(5)
        world.field.breakers["a"].reachable = False
        await switch(world, "close", "a")
        await world.run(30)
        assert (await switch(world, "open", "b")).refused[0]["guard"] == "max_off_site"
        world.field.breakers["a"].reachable = True
        await world.run(120)
        assert (await switch(world, "open", "b")).refused == ()

    async def test_units_that_cover_the_sector_stay_on(self, world: World) -> None:
        add_units(world, "a", "b", "c")
        add_units(world, "x", sector="2")
        await say(world, "default", "-", min_on_sector=1)
        group = await switch(world, "open", "a", "b", "c", "x")
        assert [command.load_id for command in group.commands] == ["a", "b"]
        assert [one["guard"] for one in group.refused] == ["coverage_sector", "coverage_sector"]

    async def test_a_unit_that_somebody_opened_by_hand_covers_nothing(self, world: World) -> None:
        add_units(world, "a", "b")
        await say(world, "default", "-", min_on_site=1)
        world.field.breakers["b"].closed = False
        assert (await switch(world, "open", "a")).refused[0]["guard"] == "coverage_site"

    async def test_the_coverage_layer_stays(self, world: World) -> None:
        add_units(world, "a", keeps_coverage=True)
        refused = (await switch(world, "open", "a")).refused[0]
        assert refused["guard"] == "coverage_layer"
        await say(world, "load", "a", coverage_layer_stays=False)
        assert (await switch(world, "open", "a")).refused == ()

    async def test_regions_are_counted_over_their_sites(self, world: World) -> None:
        add_units(world, "a")
        add_units(world, "b", site_id="site-2")
        add_units(world, "c", site_id="site-3", region_ids=("440300",))
        await say(world, "region", "440100", max_off_region=1)
        group = await switch(world, "open", "a", "b", "c")
        assert [command.load_id for command in group.commands] == ["a", "c"]
        assert [(one["load_id"], one["guard"], one["value"]) for one in group.refused] == [("b", "max_off_region", 2)]
        await world.run(5)
        assert (await switch(world, "open", "b")).refused[0]["guard"] == "max_off_region"

    async def test_an_order_for_later_counts_what_is_off_then(self, world: World) -> None:
        add_units(world, "a", "b")
        await say(world, "site", SITE, max_off_site=1)
        await switch(world, "open", "a", restore_in_s=600)
        await world.run(5)
        early = await switch(world, "open", "b", not_before=world.clock.now() + timedelta(seconds=300))
        assert early.refused[0]["guard"] == "max_off_site"
        late = await switch(world, "open", "b", not_before=world.clock.now() + timedelta(seconds=900))
        assert late.refused == ()


class TestAtTheSameMoment:
    async def test_of_two_orders_the_second_waits_and_sees_the_first(self, world: World, twin: World) -> None:
        add_units(world, "a", "b")
        await say(world, "site", SITE, max_off_site=1)

        async def second() -> Group:
            async with twin.db.write() as conn:
                return await twin.orders.switch(conn, off_order(twin, "b"))

        async with world.db.write() as conn:
            first = await world.orders.switch(conn, off_order(world, "a"))
            running = asyncio.create_task(second())
            await until(
                lambda: running.done() or _somebody_waits(world), "the second order waits", timeout_s=PATIENCE_S
            )
            assert not running.done(), "the second order passed on a count that was about to change"
        assert [command.load_id for command in first.commands] == ["a"]
        assert (await running).refused[0]["guard"] == "max_off_site"

    async def test_many_orders_over_two_replicas_keep_to_the_limits(self, world: World, twin: World) -> None:
        names = [f"u{number}" for number in range(12)]
        for number, name in enumerate(names):
            add_units(world, name, site_id=f"site-{number % 3}")
        await say(world, "default", "-", max_off_site=2)
        await say(world, "region", "440100", max_off_region=4)

        async def order(replica: World, name: str) -> None:
            async with replica.db.write() as conn:
                await replica.orders.switch(conn, off_order(replica, name))

        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            for number, name in enumerate(names):
                group.create_task(order(world if number % 2 else twin, name))
        await world.run(5)
        off = await off_now(world)
        assert len(off) == 4
        for site in range(3):
            assert len([name for name in off if int(name[1:]) % 3 == site]) <= 2

    async def test_two_schedulers_that_send_keep_to_the_limit(self, world: World, twin: World) -> None:
        names = ["a", "b", "c", "d", "e"]
        add_units(world, *names)
        await plan_in(world, *names, off_in_s=60, off_for_s=3600)
        await world.turn(by_s=31)
        await say(world, "site", SITE, max_off_site=2)
        await world.clock.advance(30)
        for _ in range(3):
            await asyncio.gather(world.tick(), twin.tick())
            await world.turn(by_s=1)
        assert len(await off_now(world)) == 2
        sent = await world.value("select count(*) from commands where action = 'open' and attempt > 0")
        assert sent == 2
        waiting = {reason for action, state, reason in await world.states("a") if action == "open" and state != "x"}
        assert waiting <= {"", "max_off_site", "device_busy"}

    async def test_a_wake_up_does_not_wait_for_who_counts(self, world: World, twin: World) -> None:
        add_units(world, "a", "b")
        await say(world, "site", SITE, max_off_site=2)
        await switch(world, "open", "a", restore_in_s=400)
        await world.run(5)
        await switch(world, "open", "b", not_before=world.clock.now() + timedelta(seconds=390))
        await world.clock.advance(396)
        async with twin.db.write() as conn:
            await areas.lock_areas(conn, [f"site:{SITE}"], wait=True)
            async with asyncio.timeout(PATIENCE_S):
                await world.tick()
            states = await world.states("b")
            assert (states[0][1], states[0][2]) == ("scheduled", "guards_unknown")
            assert ("close", "dispatched", "") in await world.states("a")
        await world.turn(by_s=2)
        assert (await world.states("b"))[0][1] != "scheduled"


async def _somebody_waits(world: World) -> bool:
    """Return whether a transaction of this database waits for a lock."""
    return bool(
        await world.value(
            """
            select exists (select from pg_locks l join pg_stat_activity a using (pid)
                            where not l.granted and a.datname = current_database())
            """
        )
    )
