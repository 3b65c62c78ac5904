"""Waiting for whichever comes first, an event or a time of the injected clock."""

import asyncio

from libs.common.clock import Clock


async def wait_for(event: asyncio.Event, clock: Clock, delay_s: float) -> None:
    """Return when ``event`` is set, at the latest after ``delay_s``, and leave the event cleared. [s]"""
    if not event.is_set() and delay_s > 0:
        timer = clock.call_later(delay_s, event.set)
        try:
            await event.wait()
        finally:
            timer.cancel()
    event.clear()
