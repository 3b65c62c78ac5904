"""Answers wait for wake-ups that are still being sent, and not for ever."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from libs.common.testing.clock import FakeClock
from services.control.worker import ANSWERS_WAIT_S, WakeUpsFirst


def world(*, is_sending: bool) -> tuple[WakeUpsFirst, SimpleNamespace, FakeClock, list[float]]:
    clock, heard = FakeClock(), list[float]()
    waking = SimpleNamespace(is_sending=is_sending)
    first = WakeUpsFirst(clock=clock, waking=cast(Any, waking), heard=lambda: heard.append(clock.monotonic()))
    return first, waking, clock, heard


async def test_answers_go_at_once_where_nothing_is_being_sent() -> None:
    first, _, _, heard = world(is_sending=False)
    await first.wait()
    assert heard


async def test_answers_go_as_soon_as_all_is_sent() -> None:
    first, waking, clock, heard = world(is_sending=True)
    waits = asyncio.create_task(first.wait())
    await clock.advance(ANSWERS_WAIT_S / 2)
    assert not waits.done()
    assert heard, "the bus is known to work all the same"
    waking.is_sending = False
    await clock.advance(0.1)
    assert waits.done()


async def test_a_flood_without_end_holds_answers_up_for_so_long_only() -> None:
    first, _, clock, heard = world(is_sending=True)
    waits = asyncio.create_task(first.wait())
    await clock.advance(ANSWERS_WAIT_S + 0.1)
    assert waits.done()
    assert heard[-1] - heard[0] >= ANSWERS_WAIT_S
