"""Commands on a real database: who gives way to whom, one at a time, not before and not after, recovery, evidence."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from libs.common.bus import topics
from libs.common.contracts.control import CommandAction, Evidence, Priority, Result, Stage
from libs.common.errors import InvalidInput
from libs.common.ids import CommandId, DeviceId
from services.control.store import loads as load_store
from services.control.store import lookup
from services.control.usecases.local import LocalActions
from services.control.usecases.orders import Group, OrderTooLate, SwitchOrder
from tests.integration.control.control_world import SITE, World, received
from tests.integration.control.fake_ingest import until

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

P = Priority


async def order(world: World, action: str, *load_ids: str, **changes: object) -> Group:
    now = world.clock.now()
    wanted = SwitchOrder(
        **{  # type: ignore[arg-type]
            "action": CommandAction(action), "load_ids": load_ids, "actor": "user:duty", "door": "api",
            "priority": P.OPERATOR, "restore_at": now + timedelta(hours=2) if action == "open" else None, **changes,
        }
    )  # fmt: skip
    async with world.db.write() as conn:
        return await world.orders.switch(conn, wanted)


async def history(world: World, command_id: str) -> list[Any]:
    async with world.db.read() as conn:
        command = await lookup.fetch(conn, command_id)
        assert command is not None
        return list(await lookup.fetch_history(conn, command))


def sent(world: World) -> list[tuple[object, object]]:
    """Return action and id of every command that has left since the last delivery."""
    return [(raw["action"], raw["command_id"]) for raw in world.commands]


class TestTakenInTime:
    """Whoever gave up waiting for an OFF to be taken may have ordered otherwise since."""

    async def test_an_off_whose_load_was_somebody_else_s_for_too_long_is_not_taken(self, world: World) -> None:
        world.add_load("aau-1")
        take_by = world.clock.now() + timedelta(seconds=5)
        async with world.db.write() as holder:
            await load_store.lock_loads(holder, ["aau-1"])
            late = asyncio.create_task(order(world, "open", "aau-1", take_by=take_by))

            async def waits() -> bool:
                async with world.db.read() as conn:
                    return bool(await conn.fetchval("select count(*) from pg_locks where not granted"))

            await until(waits, "waiting for the lock")
            await world.clock.advance(5.1)
        with pytest.raises(OrderTooLate, match="Take-By"):
            await late
        async with world.db.read() as conn:
            assert await conn.fetchval("select count(*) from commands") == 0
            assert await conn.fetchval("select count(*) from command_groups") == 0

    async def test_until_then_it_is_taken_and_an_on_is_taken_always(self, world: World) -> None:
        for name in ("aau-1", "aau-2"):
            world.add_load(name)
        now = world.clock.now()
        assert len((await order(world, "open", "aau-1", take_by=now)).commands) == 1
        assert len((await order(world, "close", "aau-2", take_by=now - timedelta(hours=1))).commands) == 1


class TestPriorities:
    """The lower number is the higher priority: emergency, local, operator, schedule, upstream app."""

    async def test_of_two_offs_a_strictly_higher_one_takes_the_place(self, world: World) -> None:
        names = {(old, new): f"{old.name}-{new.name}".lower() for old in P for new in P}
        for name in names.values():
            world.add_load(name)
        soon = world.clock.now() + timedelta(seconds=60)
        first: dict[str, str] = {}
        for old in P:
            group = await order(world, "open", *(names[old, new] for new in P), priority=old, not_before=soon)
            first |= {command.load_id: command.command_id for command in group.commands if command.is_off}
        await world.clock.advance(1)
        won: dict[tuple[Priority, Priority], bool] = {}
        for new in P:
            group = await order(world, "open", *(names[old, new] for old in P), priority=new, not_before=soon)
            taken = {command.load_id for command in group.commands}
            refused = {str(one["load_id"]): one for one in group.refused}
            for old in P:
                name = names[old, new]
                won[old, new] = name in taken
                if name in refused:
                    assert (refused[name]["guard"], refused[name]["value"]) == ("already_pending", first[name])
        assert won == {
            (P.EMERGENCY, P.EMERGENCY): False, (P.EMERGENCY, P.LOCAL): False, (P.EMERGENCY, P.OPERATOR): False,
            (P.EMERGENCY, P.SCHEDULE): False, (P.EMERGENCY, P.UPSTREAM_APP): False,
            (P.LOCAL, P.EMERGENCY): True, (P.LOCAL, P.LOCAL): False, (P.LOCAL, P.OPERATOR): False,
            (P.LOCAL, P.SCHEDULE): False, (P.LOCAL, P.UPSTREAM_APP): False,
            (P.OPERATOR, P.EMERGENCY): True, (P.OPERATOR, P.LOCAL): True, (P.OPERATOR, P.OPERATOR): False,
            (P.OPERATOR, P.SCHEDULE): False, (P.OPERATOR, P.UPSTREAM_APP): False,
            (P.SCHEDULE, P.EMERGENCY): True, (P.SCHEDULE, P.LOCAL): True, (P.SCHEDULE, P.OPERATOR): True,
            (P.SCHEDULE, P.SCHEDULE): False, (P.SCHEDULE, P.UPSTREAM_APP): False,
            (P.UPSTREAM_APP, P.EMERGENCY): True, (P.UPSTREAM_APP, P.LOCAL): True, (P.UPSTREAM_APP, P.OPERATOR): True,
            (P.UPSTREAM_APP, P.SCHEDULE): True, (P.UPSTREAM_APP, P.UPSTREAM_APP): False,
        }  # fmt: skip
        # What gave way has ended with its wake-up, and nothing has been sent of it.
        for pair, name in names.items():
            ends = (await world.states(name))[:2]
            expected = [("open", "superseded", "superseded"), ("close", "cancelled", "off_not_sent")]
            assert (ends == expected) is won[pair], pair

    async def test_an_on_ends_offs_of_its_own_and_of_lower_priority(self, world: World) -> None:
        names = {(old, new): f"{old.name}-{new.name}".lower() for old in P for new in P}
        for name in names.values():
            world.add_load(name)
        for old in P:
            soon = world.clock.now() + timedelta(seconds=60)
            await order(world, "open", *(names[old, new] for new in P), priority=old, not_before=soon)
        await world.clock.advance(1)
        for new in P:
            await order(world, "close", *(names[old, new] for old in P), priority=new)
        ended = {pair: (await world.states(name))[0][1] == "superseded" for pair, name in names.items()}
        e, lo, op, sc, up = P
        assert ended == {
            (e, e): True, (e, lo): False, (e, op): False, (e, sc): False, (e, up): False,
            (lo, e): True, (lo, lo): True, (lo, op): False, (lo, sc): False, (lo, up): False,
            (op, e): True, (op, lo): True, (op, op): True, (op, sc): False, (op, up): False,
            (sc, e): True, (sc, lo): True, (sc, op): True, (sc, sc): True, (sc, up): False,
            (up, e): True, (up, lo): True, (up, op): True, (up, sc): True, (up, up): True,
        }  # fmt: skip

    async def test_one_device_is_switched_once_at_a_time_the_most_urgent_first(self, world: World) -> None:
        """Five channels of one relay board, ordered in the wrong order."""
        for priority in P:
            world.add_load(priority.name.lower(), device_id=DeviceId("board"), channel=int(priority))
        for priority in reversed(P):
            await order(world, "close", priority.name.lower(), priority=priority)
        turns: list[list[object]] = []
        for _ in range(8):
            await world.clock.advance(1.1)
            await world.tick()
            await world.relay()
            turns.append([raw["load_id"] for raw in world.commands])
            in_flight = await world.value(
                "select count(*) from commands where state in ('dispatched', 'accepted', 'verifying')"
            )
            assert in_flight == len(turns[-1])
            world.deliver()
            await world.answer()
        # An emergency waits for nobody; of the others there is one at a time.
        assert [turn for turn in turns if turn] == [
            ["emergency"],
            ["local"],
            ["operator"],
            ["schedule"],
            ["upstream_app"],
        ]

    async def test_an_off_waits_for_a_wake_up_of_whatever_priority(self, world: World) -> None:
        world.add_load("a", device_id=DeviceId("board"), channel=1)
        world.add_load("b", device_id=DeviceId("board"), channel=2)
        await order(world, "close", "a", priority=P.UPSTREAM_APP)
        await world.tick()
        await order(world, "open", "b", priority=P.OPERATOR)
        await world.tick()
        await world.relay()
        assert [raw["load_id"] for raw in world.commands] == ["a"]
        assert (await world.states("b"))[0] == ("open", "scheduled", "device_busy")
        world.deliver()
        await world.answer()
        await world.run(2)
        assert not world.field.breakers["b"].closed


class TestLocal:
    """Somebody at the device closes what we have switched off."""

    async def off_and(self, world: World) -> LocalActions:
        world.add_load("a")
        await order(world, "open", "a")
        await world.run(3)
        assert not world.field.breakers["a"].closed
        return LocalActions(db=world.db, clock=world.steady, switching=world.switching, readings=world)

    async def test_a_closing_at_the_device_ends_the_off_with_a_wake_up_of_its_own(self, world: World) -> None:
        local = await self.off_and(world)
        assert await local.has_leases()
        assert await local.look() == 0
        world.field.close(world.field.breakers["a"])
        assert await local.look() == 0, "read closed within the settle time after it was proven off"
        await world.clock.advance(5)
        assert await local.look() == 1
        assert await local.look() == 0, "once is enough"
        await world.run(3)
        assert [one[:2] for one in await world.states("a")] == [
            ("open", "succeeded"), ("close", "superseded"), ("close", "succeeded"),
        ]  # fmt: skip
        assert not await local.has_leases()
        row = await world.value("select priority || ' ' || actor from commands order by created_at desc limit 1")
        assert row == f"{int(P.LOCAL)} local"
        assert world.field.breakers["a"].switched == 2, "nothing was switched against anybody"
        (audit,) = [one for one in world.events(topics.AUDIT) if one["actor"] == "local"]
        assert (audit["door"], audit["subject"]) == ("look", "load:a")

    async def test_an_isolated_load_is_left_to_those_who_work_on_it(self, world: World) -> None:
        local = await self.off_and(world)
        async with world.db.write() as conn:
            await conn.execute("update off_leases set isolation_id = 'i'")
        world.field.close(world.field.breakers["a"])
        await world.clock.advance(5)
        assert await local.look() == 0

    async def test_a_wake_up_at_work_is_no_local_closing(self, world: World) -> None:
        local = await self.off_and(world)
        await order(world, "close", "a")
        world.field.close(world.field.breakers["a"])
        await world.clock.advance(5)
        assert await local.look() == 0

    async def test_an_opening_at_the_device_puts_no_wake_up_off(self, world: World) -> None:
        breaker = world.add_load("a")
        breaker.closed, breaker.trip_reason = False, 10
        await order(world, "close", "a", priority=P.UPSTREAM_APP)
        await world.run(3)
        assert breaker.closed


class TestTimes:
    async def test_an_off_that_may_wait_waits_until_its_own_end_and_expires_with_the_reason(self, world: World) -> None:
        breaker = world.add_load("a")
        breaker.reachable = False
        until = world.clock.now() + timedelta(seconds=120)
        group = await order(world, "open", "a", not_after=until)
        assert group.commands[0].not_after == until
        await world.run(100, step_s=10)
        assert (await world.states("a"))[0] == ("open", "scheduled", "stale_data")
        await world.run(40, step_s=10)
        assert await world.states("a") == [("open", "expired", "stale_data"), ("close", "cancelled", "off_not_sent")]
        last = (await history(world, group.commands[0].command_id))[-1]
        assert (last.evidence["guard"], last.evidence["not_after"]) == ("stale_data", until.isoformat())

    async def test_without_an_end_of_its_own_what_cannot_be_done_is_refused_at_once(self, world: World) -> None:
        world.add_load("a").reachable = False
        group = await order(world, "open", "a")
        assert [one["guard"] for one in group.refused] == ["stale_data"]

    async def test_not_before_is_kept_by_offs_and_ons(self, world: World) -> None:
        breaker = world.add_load("a")
        await order(world, "open", "a", not_before=world.clock.now() + timedelta(seconds=60))
        await world.run(50, step_s=10)
        assert breaker.closed
        await world.run(20, step_s=5)
        assert not breaker.closed
        await order(world, "close", "a", not_before=world.clock.now() + timedelta(seconds=60))
        await world.run(50, step_s=10)
        assert not breaker.closed
        await world.run(20, step_s=5)
        assert breaker.closed

    @pytest.mark.parametrize(("action", "after_s"), [("close", 60), ("open", 601), ("open", 0), ("open", -5)])
    async def test_an_end_that_no_order_can_have_is_refused(self, world: World, action: str, after_s: float) -> None:
        world.add_load("a")
        with pytest.raises(InvalidInput, match="not_after") as refused:
            await order(world, action, "a", not_after=world.clock.now() + timedelta(seconds=after_s))
        assert "not_after" in str(refused.value.message_zh)


class TestCrash:
    """Everything that control knew in memory is gone; what the field has said meanwhile is lost too."""

    async def restart(self, world: World, after_s: float) -> None:
        world.field.results.clear()
        world.commands.clear()
        await world.clock.advance(after_s)
        world.start()
        await world.scheduler.recover()
        await world.tick()
        await world.tick()
        await world.relay()

    @pytest.mark.parametrize("stage", [None, Stage.ACCEPTED, Stage.EXECUTED, Stage.UNKNOWN])
    @pytest.mark.parametrize("action", ["open", "close"])
    async def test_what_was_in_flight_is_read_back_before_anything_is_repeated(
        self, world: World, action: str, stage: Stage | None
    ) -> None:
        breaker = world.add_load("a")
        breaker.closed = action == "open"
        (command, *_) = (await order(world, action, "a")).commands
        await world.tick()
        if stage is not None:
            said = Result(
                command_id=command.command_id, site_id=SITE, stage=stage, epoch=1, at=world.clock.now(),
                evidence=Evidence(),
            )  # fmt: skip
            await world.handle([received(said, 0)])
        await world.relay()
        breaker.reachable = False  # the door has no fresh reading
        await self.restart(world, after_s=50)
        first = sent(world)
        if action == "close" and stage is None:
            # Nobody took it, so an ON is sent again, under another id; an OFF is not.
            assert (await world.states("a"))[0][2] == "not_accepted"
        else:
            assert first == [("read_back", f"{command.command_id}.r1-1")]
            assert (await world.states("a"))[0][:2] == (action, "unknown")
        breaker.reachable = True
        await world.run(8)
        assert breaker.closed is (action == "close")
        assert (await world.states("a"))[0][:2] == (action, "succeeded")

    async def test_doubt_is_looked_at_at_once_whatever_was_planned_before(self, world: World) -> None:
        breaker = world.add_load("a")
        (command, *_) = (await order(world, "open", "a")).commands
        await world.tick()
        breaker.reachable = False
        await world.clock.advance(13)
        await world.tick()
        async with world.db.write() as conn:
            await conn.execute(
                "update commands set next_at = $1 where state = 'unknown'", world.clock.now() + timedelta(minutes=4)
            )
        await world.relay()
        await self.restart(world, after_s=0)
        assert sent(world) == [("read_back", f"{command.command_id}.r1-1")]


class TestEvidence:
    async def test_every_step_says_what_it_rests_on(self, world: World) -> None:
        world.add_load("a")
        group = await order(world, "open", "a", reason="works")
        await world.run(3)
        steps = await history(world, group.commands[0].command_id)
        assert [step.state for step in steps] == [
            "received", "validated", "scheduled", "dispatched", "accepted", "succeeded",
        ]  # fmt: skip
        assert all(step.evidence for step in steps)
        assert steps[0].evidence["actor"] == "user:duty"
        assert steps[0].evidence["note"] == "works"
        assert steps[3].evidence["attempt"] == 1
        assert (steps[4].evidence["stage"], steps[4].evidence["epoch"]) == ("accepted", 1)
        assert (steps[5].evidence["feedback_point"], steps[5].evidence["feedback_value"]) == ("breaker_state", 0.0)

    async def test_late_answers_are_kept_and_change_nothing_but_what_they_must(self, world: World) -> None:
        breaker = world.add_load("a")
        breaker.closed = False
        (command, *_) = (await order(world, "close", "a")).commands
        await world.tick()
        breaker.answers = False
        await world.run(15)
        assert (await world.states("a"))[-1][:2] == ("close", "succeeded"), "proven by the door"
        for number, stage in enumerate((Stage.ACCEPTED, Stage.FAILED)):
            said = Result(
                command_id=CommandId(command.command_id), site_id=SITE, stage=stage, epoch=1, at=world.clock.now(),
                evidence=Evidence(answer="too late"), reason="not_followed" if stage is Stage.FAILED else None,
            )  # fmt: skip
            await world.handle([received(said, number)])
        last = (await history(world, command.command_id))[-1]
        assert (last.state, last.reason) == ("succeeded", "late_answer")
        assert (last.evidence["stage"], last.evidence["answer"], last.evidence["sending"]) == ("failed", "too late", 1)
        assert (await world.states("a"))[-1][:2] == ("close", "succeeded")


async def statements(work: Callable[[], Awaitable[object]], monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how many statements a piece of work sends to the database."""
    count = 0

    def counted(name: str) -> None:
        inner = getattr(asyncpg.Connection, name)

        async def outer(self: asyncpg.Connection, *args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            return await inner(self, *args, **kwargs)

        patch.setattr(asyncpg.Connection, name, outer)

    with monkeypatch.context() as patch:
        for name in ("execute", "executemany", "fetch", "fetchrow", "fetchval"):
            counted(name)
        await work()
    return count


async def test_many_commands_move_on_with_the_statements_of_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(41):
        world.add_load(f"load-{number}")

    async def whole(*load_ids: str) -> list[int]:
        """Switch loads off and on and return the statements of each step."""
        counts = [await statements(lambda: order(world, "open", *load_ids), monkeypatch)]
        counts.append(await statements(lambda: world.scheduler.run_due(world.clock.now()), monkeypatch))
        await world.relay()
        world.deliver()
        while world.field.results:
            # Of each load the first: a set holds one answer of a load.
            seen: dict[str, Result] = {}
            for one in list(world.field.results):
                if one.command_id not in seen:
                    seen[one.command_id] = one
                    world.field.results.remove(one)
            batch = [received(one, number) for number, one in enumerate(seen.values())]
            counts.append(await statements(lambda batch=batch: world.handle(batch), monkeypatch))  # type: ignore[misc]
        await world.relay()
        return counts

    one = await whole("load-0")
    assert await whole(*(f"load-{number}" for number in range(1, 41))) == one
