"""One key, as it is watched: commanded, accepted, verified, and what is the matter with each load that is not awake."""

from collections.abc import Mapping

import pytest

from libs.common.bus import topics
from services.control.domain.faults import Fault
from services.control.faultcodes import fault_codes
from services.control.store.wakeups import Which
from services.control.usecases.orders import WakeOrder, WakeProgress
from tests.integration.control.control_world import World
from tests.integration.control.test_control_rules import plan_in

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]


async def one_key(world: World, *load_ids: str) -> str:
    loads = tuple(load for load_id in load_ids if (load := world.loads.get(load_id)) is not None)
    async with world.db.write() as conn:
        return (await world.orders.wake(conn, WakeOrder("loads", "", loads, "user:a", "api", "storm"))).order.wake_up_id


def figures(progress: WakeProgress) -> tuple[int, int, int, int, int, int]:
    return (
        progress.loads, progress.commanded, progress.accepted, progress.verified, progress.held, progress.failed,
    )  # fmt: skip


async def faults(world: World, wake_up_id: str, which: Which = "not_awake") -> Mapping[str, Fault | None]:
    found = await world.orders.wake_up_loads(wake_up_id, which=which, after="", limit=1000)
    return {one.load_id: one.fault for one in found}


async def test_each_load_that_is_not_awake_says_what_is_the_matter_with_it(world: World) -> None:
    for load_id in ("dead", "fine", "locked", "stuck", "tripped", "unlit"):
        world.add_load(load_id).closed = False
    world.add_load("nobody", device_id=None)
    field = world.field.breakers
    field["dead"].reachable = False
    field["locked"].local_lock = True
    field["tripped"].trip_reason = 2
    field["unlit"].draws_kw = 0.0
    field["stuck"].answers = False
    wake_up_id = await one_key(world, *world.loads.loads)
    assert figures(await world.orders.progress(wake_up_id)) == (6, 0, 0, 0, 0, 0)
    await world.tick()
    # Where a lock or a trip is known, nothing is sent.
    assert figures(await world.orders.progress(wake_up_id)) == (6, 4, 0, 0, 2, 2)
    await world.turn()
    progress = await world.orders.progress(wake_up_id)
    # "stuck" has closed, and its answer was lost on the way: it is awake, and nobody knows yet.
    assert figures(progress) == (6, 4, 3, 2, 2, 3)
    assert progress.faults == {
        Fault.NO_ANSWER: 1, Fault.LOCAL_LOCK: 1, Fault.PROTECTION_TRIP: 1, Fault.NO_POWER: 1, Fault.NO_BREAKER: 1,
    }  # fmt: skip
    assert await faults(world, wake_up_id) == {
        "dead": Fault.NO_ANSWER, "locked": Fault.LOCAL_LOCK, "stuck": None,
        "tripped": Fault.PROTECTION_TRIP,
    }  # fmt: skip
    assert (await faults(world, wake_up_id, "held")).keys() == {"locked", "tripped"}
    assert (await faults(world, wake_up_id, "failed")).keys() == {"dead", "locked", "tripped"}
    assert await faults(world, wake_up_id, "unreachable") == {"nobody": Fault.NO_BREAKER}
    assert (await faults(world, wake_up_id, "all"))["unlit"] is Fault.NO_POWER


async def test_a_dead_load_stays_reported_while_it_is_tried_and_until_it_is_awake(world: World) -> None:
    dead = world.add_load("dead")
    dead.closed = dead.reachable = False
    wake_up_id = await one_key(world, "dead")
    await world.turn()
    for _ in range(40):
        await world.turn(by_s=1)
        progress = await world.orders.progress(wake_up_id)
        assert (progress.failed, progress.faults) == (1, {Fault.NO_ANSWER: 1})
    dead.reachable = True
    await world.run(65)
    assert figures(await world.orders.progress(wake_up_id)) == (1, 1, 1, 1, 0, 0)
    told = [one for one in world.events(topics.CONTROL_EVENTS) if one["load_id"] == "dead"]
    codes = [one.get("fault_code") for one in told]
    assert fault_codes()[Fault.NO_ANSWER].code in codes
    assert codes[-1] is None
    assert told[-1]["state"] == "succeeded"


async def test_an_overdue_night_says_what_is_the_matter_with_its_load(world: World) -> None:
    """An upstream app hears of its occurrence, not only of the command that brings it to an end."""
    breaker = world.add_load("a")
    await plan_in(world, "a", off_in_s=60, off_for_s=400)
    await world.run(120, step_s=5)
    assert not breaker.closed
    breaker.reachable = False
    await world.run(500, step_s=5)
    (overdue,) = [one for one in world.events(topics.CONTROL_EVENTS) if one["state"] == "overdue"]
    assert overdue["fault_code"] == fault_codes()[Fault.NO_ANSWER].code
    breaker.reachable = True
    await world.run(70)
    last = [one for one in world.events(topics.CONTROL_EVENTS) if one["state"] == "awake"][-1]
    assert "fault_code" not in last


async def test_silence_is_reported_before_its_answer_is_given_up(world: World) -> None:
    """Somebody holds the line, has taken the order, and then says nothing; for another one nobody does."""
    world.add_load("silent").answers = False
    world.field.breakers["silent"].closed = False
    world.add_load("untaken").closed = False
    world.field.door_open = False
    wake_up_id = await one_key(world, "silent", "untaken")
    await world.tick()
    async with world.db.write() as conn:
        await conn.execute(
            "update commands set state = 'accepted' where load_id = 'silent' and wake_up_id = $1", wake_up_id
        )
    await world.clock.advance(14)
    assert (await world.orders.progress(wake_up_id)).failed == 0
    await world.clock.advance(2)
    assert await faults(world, wake_up_id) == {"silent": Fault.NO_ANSWER, "untaken": Fault.NOT_TAKEN}


async def test_an_order_that_control_does_not_get_to_is_reported_too(world: World) -> None:
    world.add_load("a").closed = False
    wake_up_id = await one_key(world, "a")
    await world.clock.advance(16)
    assert await faults(world, wake_up_id, "failed") == {"a": Fault.NOT_SENT}
    await world.turn()
    assert await faults(world, wake_up_id) == {}


async def test_the_list_comes_in_pages_and_orders_are_counted_apart(world: World) -> None:
    for number in range(7):
        world.add_load(f"load-{number}").closed = False
    first = await one_key(world, *(f"load-{number}" for number in range(7)))
    await world.turn()
    second = await one_key(world, "load-0", "load-1")
    listed = {one.order.wake_up_id: figures(one) for one in await world.orders.page(None, 10)}
    assert listed == {first: (7, 7, 7, 7, 0, 0), second: (2, 0, 0, 0, 0, 0)}
    seen: list[str] = []
    while page := await world.orders.wake_up_loads(first, which="all", after=seen[-1] if seen else "", limit=3):
        seen += [one.load_id for one in page]
    assert seen == [f"load-{number}" for number in range(7)]
