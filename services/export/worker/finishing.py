"""A call that is under way when we are stopped: it is given a moment, since one that is cut off is made again."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

GRACE_S = 2.0
"""A call that is under way when we are stopped may still be answered within this. [s]"""


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Do the work; when cancelled meanwhile, give it ``GRACE_S`` to end before it is cut."""
    task = asyncio.create_task(work, name="call")
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=GRACE_S)
        raise
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
        elif not task.cancelled():
            task.exception()  # what was raised after we were cancelled has been seen
