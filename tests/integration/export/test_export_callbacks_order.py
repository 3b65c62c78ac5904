"""The order of each resource, drawn: whatever the receivers answer, however senders come and go."""

import asyncio
import os
import random
from pathlib import Path

import pytest

from libs.common.contracts.control import CommandState
from services.export.domain.callbacks import RETRY_S
from tests.integration.export.callback_world import ADMIN, World, control, received, world
from tests.peers.callback_receiver import Call, Say, receiver

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

LOADS = 3
FAULTS = {"ok": Say(), "500": Say(500), "404": Say(404), "drop": Say(fault="drop"), "429": Say(429)}

RUNS = 6
Step = tuple[str, int]


def draw(rng: random.Random) -> tuple[list[Step], list[str]]:
    """Return what happens, and what the receiver answers at first."""
    kinds = ["event"] * 5 + ["urgent"] * 2 + ["wait", "restart"]
    arguments = {"event": range(LOADS), "urgent": range(LOADS), "wait": (3, 70, 400), "restart": range(2)}
    steps = [(kind, rng.choice(arguments[kind])) for kind in rng.choices(kinds, k=rng.randrange(4, 16))]
    return steps, rng.choices(sorted(FAULTS), k=rng.randrange(12))


async def live(found: World, plan: list[Step], said: list[str], name: str) -> None:
    """Let a plan happen, then time pass until everything is over, and look at what came."""
    left = list(said)

    def script(_: Call) -> Say:
        return FAULTS[left.pop(0)] if left else Say()

    async with receiver(script) as app:
        endpoint, secret = await found.endpoint(app.url)
        owners = [f"{name}-a", f"{name}-b"]
        for owner in owners:
            found.start(owner)
        told: dict[str, list[str]] = {}
        for number, (what, argument) in enumerate(plan):
            if what in ("event", "urgent"):
                state = CommandState.FAILED if what == "urgent" else CommandState.SUCCEEDED
                event_id = f"{name}-{number}"
                told.setdefault(f"load/l-{argument}", []).append(event_id)
                event = control(state, load=f"l-{argument}")
                await found.tell(received(event, event_id=event_id, at=found.clock.now()))
            elif what == "wait":
                await found.advance(argument)
            else:
                await found.stop(owners[argument])
                found.start(owners[argument])
        wanted = sum(len(ids) for ids in told.values())
        async with asyncio.timeout(60):
            while sum(each.finished_at is not None for each in await found.log(endpoint)) < wanted:
                await found.advance(RETRY_S[1] * 1.3)
                await asyncio.sleep(0.02)
        await found.check_books()
        for owner in owners:
            await found.stop(owner)
        # The first time that each was taken, in order; a repetition under the same id is the receiver's to drop.
        for resource, ids in told.items():
            came = list(dict.fromkeys(call.id for call in app.accepted if call.event["subject"] == resource))
            given_up = {each.event_id for each in await found.log(endpoint) if each.state.value == "given_up"}
            assert came == [event_id for event_id in ids if event_id not in given_up]
            numbers = {call.id: int(call.event["sequence"]) for call in app.calls if call.event["subject"] == resource}
            assert all(numbers[event_id] == place for place, event_id in enumerate(ids, start=1) if event_id in numbers)
        assert all(call.is_signed_with(secret, fresh=False) for call in app.calls)
        await found.administration.remove(endpoint.id, ADMIN)


async def test_each_resource_is_told_in_order_and_all_of_it(postgres_url: str, tmp_path: Path) -> None:
    seed = int(os.environ.get("WATTRING_TEST_SEED") or random.randrange(1_000_000))
    print(f"again with WATTRING_TEST_SEED={seed}")  # noqa: T201  # pytest shows it when the test fails
    rng = random.Random(seed)
    async with world(postgres_url, tmp_path) as found:
        for number in range(RUNS):
            steps, answers = draw(rng)
            print(steps, answers)  # noqa: T201
            await live(found, steps, answers, f"run-{number}")
