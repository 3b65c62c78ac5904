"""A holder that dies after it has opened a breaker and before it has said so: no wake-up waits for its word."""

from dataclasses import replace

import pytest

from libs.common.contracts.control import Evidence, Result, Stage
from libs.common.ids import CommandId
from tests.integration.control.control_world import SITE, World, received
from tests.integration.control.test_control_rules import plan_in, switch

pytestmark = [pytest.mark.integration, pytest.mark.postgres]


async def open_and_die(world: World) -> None:
    """Let the OFF that is due be accepted and done; nothing more is heard of it."""
    breaker = world.field.breakers["a"]
    breaker.answers = False
    await world.turn(by_s=1)
    assert not breaker.closed
    [command_id] = breaker.executed
    accepted = Result(
        command_id=CommandId(command_id), site_id=SITE, stage=Stage.ACCEPTED, epoch=1, at=world.clock.now(),
        evidence=Evidence(),
    )  # fmt: skip
    await world.handle([received(accepted, 1_000_000)])
    breaker.answers = True


async def test_a_due_wake_up_does_not_wait_for_the_answer_to_its_off(world: World) -> None:
    world.policy = replace(world.policy, min_off_s=10, min_on_s=0)
    world.start()
    breaker = world.add_load("a")
    await plan_in(world, "a", off_in_s=60, off_for_s=20)
    await world.run(59)
    await open_and_die(world)
    assert (await world.states("a"))[0][:2] == ("open", "accepted")
    await world.run(19)
    assert not breaker.closed
    await world.run(2)
    assert breaker.closed, "before the holder closes by itself, and long before the answer is given up"
    await world.run(200)
    assert breaker.closed
    assert breaker.switched == 2
    assert [(action, state) for action, state, _ in await world.states("a")] == [
        ("open", "failed"), ("close", "succeeded"),
    ]  # fmt: skip


async def test_a_wake_up_before_its_time_waits_until_the_off_cannot_be_done_any_more(world: World) -> None:
    """Else the OFF could come after it, and the load would be off until the OFF's own end."""
    breaker = world.add_load("a")
    await switch(world, "open", "a", restore_in_s=3600)
    await open_and_die(world)
    await switch(world, "close", "a")
    await world.run(world.policy.accept_timeout_s - 2)
    assert not breaker.closed
    await world.run(4)
    assert breaker.closed
    await world.run(200)
    assert breaker.closed
    assert breaker.switched == 2
    assert (await world.states("a"))[0][:2] == ("open", "failed"), "and nobody sends it again"
