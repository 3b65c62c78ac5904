"""The loop of a worker: a round of work, a wait for whoever wakes it; growing waits while the database is away."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NoReturn

from libs.common.backoff import Backoff
from libs.common.clock import Clock
from libs.common.errors import Unavailable

logger = logging.getLogger(__name__)

FIRST_S = 0.2
CAP_S = 5.0
"""Waits while something is away grow from the one to the other. [s]"""


class Rounds:
    """Rounds of one worker: at once when it is woken, else every so often."""

    def __init__(self, clock: Clock, *, worker: str, every_s: float) -> None:
        """Prepare.

        Args:
            clock: Whose time is waited while something is away.
            worker: Its name in the log.
            every_s: A round begins this long after the last one when nobody wakes the worker. [s]
        """
        self._clock = clock
        self._worker = worker
        self._every_s = every_s
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Have a round begin now; said within a round, another follows it at once."""
        self._wake.set()

    async def run(self, work: Callable[[], Awaitable[bool]], beat: Callable[[], None] = lambda: None) -> NoReturn:
        """Do rounds until cancelled.

        Args:
            work: One round; returns whether there is more, for which the next one does not wait. When something that
                it needs is away (``Unavailable``) it is done again, later and later.
            beat: Called before every round.

        Raises:
            Exception: What ``work`` raises besides.
        """
        backoff = Backoff(first_s=FIRST_S, cap_s=CAP_S)
        while True:
            beat()
            self._wake.clear()
            try:
                more = await work()
            except Unavailable as exc:
                if backoff.first:
                    logger.warning("waits", extra={"worker": self._worker, "reason": exc.message})
                await self._clock.sleep(backoff.next_s())
                continue
            backoff.reset()
            if not more:
                await self._wait()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._every_s):
                await self._wake.wait()
        except TimeoutError:
            return
