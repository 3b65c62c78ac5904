"""One key: the order is stored first, its commands are made in parts and sent at once; whoever dies in between."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from libs.common.bus import topics
from libs.common.db import Database
from libs.common.lease import LeaseKeeper
from libs.common.testing.clock import FakeClock, settle
from services.control.domain.guards import Policy
from services.control.store import adjustments, areas, lookup
from services.control.store import commands as command_store
from services.control.store import leases as lease_store
from services.control.store import waking as store
from services.control.usecases import waking
from services.control.usecases.isolations import IsolationRequest
from services.control.worker import Singleton, StandByWaking
from tests.integration.control.control_world import SITE, World, database, new_keys
from tests.integration.control.mortal import Fate, Fuse, Mortal
from tests.integration.control.mortal_world import MortalWorld
from tests.integration.control.test_control_rules import switch, wake

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.timeout(120)]

LOADS = ("a", "b", "c", "d", "e")


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


def asleep(world: World, *load_ids: str) -> None:
    for load_id in load_ids:
        world.add_load(load_id).closed = False


async def ons(world: World) -> dict[str, list[tuple[str, str | None]]]:
    """Return (state, hold) of the ONs of wake-up orders, by load."""
    found: dict[str, list[tuple[str, str | None]]] = {}
    async with world.db.read() as conn:
        for row in await conn.fetch("select load_id, state, hold from commands where wake_up_id is not null"):
            found.setdefault(row["load_id"], []).append((row["state"], row["hold"]))
    return found


async def history(world: World, command_id: str) -> list[dict[str, Any]]:
    async with world.db.read() as conn:
        command = await lookup.fetch(conn, command_id)
        assert command is not None
        return [asdict(step) for step in await lookup.fetch_history(conn, command)]


async def command_of(world: World, load_id: str) -> str:
    found = await world.value(
        "select command_id from commands where load_id = $1 order by created_at desc, command_id desc limit 1", load_id
    )
    return str(found)


class TestAnOrder:
    async def test_is_stored_before_any_of_its_commands_and_lets_the_watchdog_wake(self, world: World) -> None:
        world.add_load("a")
        await switch(world, "open", "a")
        await world.turn()
        assert not world.field.breakers["a"].closed
        await wake(world, "a")
        assert await ons(world) == {}
        assert await world.value("select count(*) from wake_up_todo") == 1
        async with world.db.read() as conn:
            assert await lease_store.open_leases(conn) == []
            assert [one.load_id for one in await lease_store.untold_leases(conn, 10)] == ["a"]
        await world.turn()
        assert world.field.breakers["a"].closed
        assert await world.value("select count(*) from wake_up_todo") == 0
        assert await ons(world) == {"a": [("succeeded", None)]}

    async def test_takes_the_oldest_order_first_and_part_by_part(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(waking, "PART", 2)
        asleep(world, *LOADS)
        await wake(world, "c", "d", "e")
        await wake(world, "a", "b")
        seen: list[set[str]] = []
        while await world.scheduler.waking.turn(world.steady.now()):
            seen.append(set(await ons(world)))
        assert seen == [{"c", "d"}, {"c", "d", "e", "a"}, set(LOADS)]
        await world.turn()
        assert all(breaker.closed for breaker in world.field.breakers.values())

    async def test_has_commands_under_one_signature_and_what_is_sent_again_under_its_own(self, world: World) -> None:
        asleep(world, *LOADS)
        await wake(world, *LOADS)
        world.field.holder_alive = False
        await world.turn()
        first = world.events(topics.COMMANDS)
        assert sorted("proof" in sent for sent in first) == [False, True, True, True, True]
        assert len({sent["signature"] for sent in first}) == 2
        world.field.holder_alive = True
        for _ in range(20):
            await world.turn(by_s=5.0)
        again = world.events(topics.COMMANDS)[len(first) :]
        assert {str(sent["command_id"]).rpartition(".")[2] for sent in again} == {"2"}
        assert not any("proof" in sent for sent in again)
        assert await ons(world) == {load_id: [("succeeded", None)] for load_id in LOADS}

    async def test_has_the_life_of_every_other_on(self, world: World) -> None:
        """By its history nobody can tell whether it was stored with its sending or before it, and it says the same."""
        asleep(world, "a", "b")
        await switch(world, "close", "b", reason="storm")
        await wake(world, "a")
        await world.turn()
        mine, theirs = [await history(world, await command_of(world, load_id)) for load_id in ("a", "b")]
        assert [step["state"] for step in mine] == [
            "received", "validated", "scheduled", "dispatched", "accepted", "succeeded",
        ]  # fmt: skip
        assert mine[0]["evidence"].pop("priority") == "emergency"
        assert theirs[0]["evidence"].pop("priority") == "operator"
        mine[1]["evidence"]["device_id"] = "brk-b"
        assert mine == theirs

    async def test_looks_for_the_most_urgent_of_those_in_flight_only(self, world: World) -> None:
        asleep(world, *LOADS)
        await wake(world, *LOADS)
        await world.tick()
        async with world.db.write() as conn:
            for seconds, load_id in enumerate(LOADS):
                at = world.steady.now() + timedelta(seconds=seconds)
                await conn.execute("update commands set next_at = $2 where load_id = $1", load_id, at)
        now = world.steady.now()
        async with world.db.read() as conn:
            assert await command_store.looked_for(conn, now, 2) == list(LOADS[:2])
            assert await command_store.looked_for(conn, now, 10) == list(LOADS)
        async with world.db.write() as conn:  # what is in doubt is looked for in any case
            await conn.execute("update commands set state = 'unknown' where load_id = any($1)", list(LOADS[2:]))
        async with world.db.read() as conn:
            assert set(await command_store.looked_for(conn, now, 4)) == {LOADS[0], *LOADS[2:]}
            assert len(await command_store.looked_for(conn, now, 2)) == 3, "more than two: not all of them"

    async def test_tells_of_a_command_when_it_is_sent(self, world: World) -> None:
        asleep(world, "a")
        wake_up_id = await wake(world, "a")
        await world.tick()
        await world.relay()
        (event,) = world.events(topics.CONTROL_EVENTS)
        assert (event["state"], event["load_id"], event["actor"]) == ("dispatched", "a", "user:duty")
        (sent,) = world.commands
        assert (sent["action"], sent["priority"], sent["attempt"], sent["reason"]) == ("close", 1, 1, "storm")
        assert event["command_id"] == sent["command_id"]
        assert await world.value("select wake_up_id from commands where command_id = $1", sent["command_id"]) == (
            wake_up_id
        )

    async def test_of_before_the_clock_was_put_back_is_late_and_not_early(self, world: World) -> None:
        """An OFF waits for a wake-up that is due; one that seemed to be due in an hour would let it pass."""
        asleep(world, "a")
        await wake(world, "a")
        async with world.db.write() as conn:
            await conn.execute("update wake_up_todo set ordered_at = ordered_at + interval '1 hour'")
        await world.tick()
        now = world.steady.now()
        assert await world.value("select not_before <= $1 and created_at <= $1 from commands", now) is True


class TestWhatStopsIt:
    async def test_an_isolation_between_order_and_command(self, world: World) -> None:
        asleep(world, "a", "b")
        await wake(world, "a", "b")
        request = IsolationRequest(
            load=world.loads.loads["a"],
            owner="li",
            permit="P-1",
            reason="work",
            expires_at=world.clock.now() + timedelta(hours=1),
        )
        isolation = await world.isolations.request(request, "user:a", "api")
        await world.isolations.approve(isolation.isolation_id, "user:b", "api")
        await world.turn()
        assert await ons(world) == {"a": [("scheduled", "isolation")], "b": [("succeeded", None)]}
        assert not world.field.breakers["a"].closed
        told = [(one["kind"], one["phase"]) for one in world.events(topics.CONDITIONS) if one["subject"] == "a"]
        assert ("wake_up_stopped", "begin") in told

    async def test_a_trip_that_is_released_before_its_command_is_made(self, world: World) -> None:
        asleep(world, "a", "b")
        for load_id in ("a", "b"):
            world.field.breakers[load_id].trip_reason = 2
        await wake(world, "a", "b")
        await world.orders.release_trip("a", 2, "looked at", "user:a", "api")
        await world.tick()
        await world.relay()
        assert await ons(world) == {"a": [("dispatched", None)], "b": [("scheduled", "protection_trip")]}
        (sent,) = world.commands
        assert sent["arguments"] == {"released_trip": 2.0}


class TestWhatWaitsForIt:
    async def test_an_off_that_comes_after_the_key(self, world: World) -> None:
        asleep(world, "a")
        await wake(world, "a", suspends=False)
        world.field.breakers["a"].closed = True  # or the guards would refuse it
        await switch(world, "open", "a")
        await world.scheduler.run_due(world.steady.now())
        assert ("open", "scheduled", "device_busy") in await world.states("a")

    async def test_settings_and_the_counts(self, world: World) -> None:
        asleep(world, "a", "b")
        await wake(world, "a")
        now = world.steady.now()
        async with world.db.write() as conn:
            assert await adjustments.fetch_busy(conn, ["brk-a", "brk-b"], now) == {"brk-a"}
            assert await adjustments.fetch_off(conn, ["brk-a", "brk-b"]) == {"brk-a": "a"}
            off = await areas.off_loads(conn, [SITE], pending=False, start=now, end=now + timedelta(hours=1), now=now)
        assert off == {SITE: {"a"}}


class TestTwoProcesses:
    async def test_beside_each_other_make_one_command_of_each(
        self, world: World, twin: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(waking, "PART", 3)
        load_ids = [f"load-{number:02}" for number in range(24)]
        asleep(world, *load_ids)
        await wake(world, *load_ids)

        async def work(one: World) -> None:
            while await one.value("select exists (select from wake_up_todo)"):
                await one.scheduler.waking.turn(one.steady.now())

        await asyncio.gather(work(world), work(twin))
        assert await ons(world) == {load_id: [("dispatched", None)] for load_id in load_ids}
        await world.relay()
        assert sorted(str(one["load_id"]) for one in world.commands) == load_ids

    async def test_what_one_is_taking_is_left_to_it_and_the_next_part_is_taken(
        self, world: World, twin: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(waking, "PART", 2)
        asleep(world, *LOADS)
        await wake(world, *LOADS)
        with suppress(ZeroDivisionError):
            async with twin.db.write() as conn:
                taken = {one.load_id for one in await store.take_todo(conn, twin.steady.now(), 2)}
                assert len(taken) == 2
                while await world.scheduler.waking.turn(world.steady.now()):
                    pass
                assert set(await ons(world)) == set(LOADS) - taken
                raise ZeroDivisionError  # whoever has taken them dies
        assert await world.scheduler.waking.turn(world.steady.now())
        assert set(await ons(world)) == set(LOADS)

    async def test_one_that_waits_for_the_other_leaves_what_is_locked(self, world: World, twin: World) -> None:
        asleep(world, "a", "b")
        await wake(world, "a", "b")
        async with twin.db.write() as conn:
            await conn.execute("select from load_switching where load_id = 'a' for update")
            await world.tick()
            assert set(await ons(world)) == {"b"}
        await world.tick()
        assert set(await ons(world)) == {"a", "b"}

    async def test_is_carried_out_by_who_stands_by_while_nobody_of_ours_schedules(self, world: World) -> None:
        """Who schedules may have just died, or be of a release that does not know of such orders."""
        asleep(world, "a")
        await wake(world, "a")
        committed = asyncio.Event()
        stand_by = StandByWaking(
            clock=world.clock, steady=world.steady, waking=world.scheduler.waking, tick_s=0.5,
            schedules=Singleton(db=world.db, clock=world.clock, owner="b", name="scheduler", ttl_s=6),
            committed=committed.set,
        )  # fmt: skip
        task = asyncio.create_task(stand_by.run(lambda: None))
        try:
            async with asyncio.timeout(30):
                await committed.wait()
        finally:
            task.cancel()
            await asyncio.wait([task])
        assert await ons(world) == {"a": [("dispatched", None)]}

    async def test_is_carried_out_by_two_at_a_time_while_ours_is_sending(self, world: World) -> None:
        asleep(world, "a")
        await wake(world, "a")
        schedules = Singleton(db=world.db, clock=world.clock, owner="b", name="scheduler", ttl_s=6)
        keeper = LeaseKeeper(world.db, world.clock, "b", 6)
        schedules.lease = await keeper.acquire("scheduler")
        stand_by = StandByWaking(
            clock=world.clock, steady=world.steady, waking=world.scheduler.waking, tick_s=0.5, schedules=schedules,
            committed=lambda: None,
        )  # fmt: skip
        task = asyncio.create_task(stand_by.run(lambda: None))
        try:
            await settle()
            assert await ons(world) == {}, "the scheduler does it"
            world.scheduler.waking.is_sending = True
            async with asyncio.timeout(30):
                while not await ons(world):
                    await world.clock.advance(0.5)
                    await asyncio.sleep(0.01)
        finally:
            task.cancel()
            await asyncio.wait([task])
        assert await ons(world) == {"a": [("dispatched", None)]}


async def storm(db: Database, folder: Path, prepare: Callable[[MortalWorld], None]) -> MortalWorld:
    """Press one key for loads that are off, under leases, and follow it; whoever dies, the person asks again."""
    async with db.write() as conn:
        await conn.execute(
            """
            truncate commands, command_history, command_groups, off_leases, load_switching, wake_ups, wake_up_todo,
                     suspensions, outbox cascade
            """
        )
    (folder / "leases.journal").unlink(missing_ok=True)
    clock = FakeClock()
    world = MortalWorld(Mortal(db), clock, new_keys(folder / "keys", clock), Policy(), folder / "leases.journal")
    try:
        for load_id in LOADS:
            world.add_load(load_id)
        await switch(world, "open", *LOADS, restore_in_s=36_000)
        for _ in range(3):  # the watchdog has the leases, the OFFs are sent, they are proven
            await world.live(2.0)
        assert not any(breaker.closed for breaker in world.field.breakers.values())
        # Nobody but the order itself wakes them.
        world.watchdog_up = False
        world.mortal.steps = 0
        prepare(world)
        while await world.value("select count(*) from wake_ups") == 0:
            await world.survive(wake(world, *LOADS))
        for _ in range(4):
            await world.live(1.0)
            assert await world.value(DOUBLED) == 0
        for _ in range(2):
            await world.live(30.0)
    finally:
        world.journal.close()
    return world


DOUBLED = """
    select count(*) from (
        select load_id from (select load_id from commands where wake_up_id is not null
                             union all select load_id from wake_up_todo) t
         group by load_id having count(*) > 1) d
"""


async def all_are_awake(world: MortalWorld) -> None:
    assert {load_id: breaker.closed for load_id, breaker in world.field.breakers.items()} == dict.fromkeys(LOADS, True)
    assert await world.value("select count(*) from wake_up_todo") == 0
    assert await world.value("select count(*) from off_leases where closed_at is null") == 0
    assert await ons(world) == {load_id: [("succeeded", None)] for load_id in LOADS}
    sent: dict[object, object] = {}
    for topic, payload in world.published:
        if topic == topics.COMMANDS:
            assert sent.setdefault(payload["command_id"], payload) == payload


async def test_an_order_survives_being_killed_at_any_step(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waking, "PART", 2)
    db = database(postgres_url)
    await db.open()
    try:
        undisturbed = await storm(db, tmp_path, lambda world: None)
        await all_are_awake(undisturbed)
        steps = undisturbed.mortal.steps
        assert steps >= 6  # the order, three parts, what is told and answered
        for step in range(steps):
            for how in (Fate.DIES_BEFORE, Fate.DIES_AFTER):
                world = await storm(db, tmp_path, _killed_at(step, how))
                assert world.mortal.deaths == 1
                await all_are_awake(world)
    finally:
        await db.close()


def _killed_at(step: int, how: Fate) -> Callable[[MortalWorld], None]:
    def prepare(world: MortalWorld) -> None:
        fuse = Fuse()
        fuse.steps, fuse.how = step, how
        world.mortal.fate = fuse

    return prepare
