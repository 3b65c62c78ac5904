"""Telling people: messages are made and sent by one process at a time, under a lease."""

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta

from libs.common.backoff import Backoff
from libs.common.clock import Clock
from libs.common.db import Database
from libs.common.errors import Unavailable
from libs.common.lease import OneHolder
from services.alarm.store import notifications as store
from services.alarm.worker.composing import Composer
from services.alarm.worker.sending import Sender

logger = logging.getLogger(__name__)

LEASE_NAME = "notifications"
LEASE_S = 60.0
ATTEMPT_S = 25.0
"""No attempt takes longer; with less left of the lease none is begun. [s]"""
FORGET_EVERY_S = 60.0
FORGOTTEN_AT_ONCE = 1000


class Teller:
    """Lets messages be made, sent and, in the end, forgotten."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        composer: Composer,
        sender: Sender,
        owner: str,
        keep_s: float,
        every_s: float,
    ) -> None:
        """Keep what is needed.

        Args:
            db: Where messages are.
            clock: Our clock.
            composer: Makes messages.
            sender: Sends them.
            owner: Name of this process in the lease.
            keep_s: How long messages can be looked at. [s]
            every_s: How often it looks. [s]
        """
        self._db = db
        self._clock = clock
        self._composer = composer
        self._sender = sender
        self._keep_s = keep_s
        self._every_s = every_s
        self._turn = OneHolder(db=db, clock=clock, owner=owner, name=LEASE_NAME, ttl_s=LEASE_S)
        self._forgot_at = float("-inf")

    async def run(self, beat: Callable[[], None]) -> None:
        """Tell for ever; while another process holds the lease, stand by."""
        backoff = Backoff(first_s=0.2, cap_s=5.0)
        try:
            async with asyncio.TaskGroup() as sending:
                while True:
                    beat()
                    try:
                        more = await self._turn.hold() and await self._look(sending)
                    except Unavailable as exc:
                        if backoff.first:
                            logger.warning("notifications wait", extra={"reason": exc.message})
                        await self._clock.sleep(backoff.next_s())
                        continue
                    backoff.reset()
                    if not more:
                        await self._clock.sleep(self._every_s)
        finally:
            await self._turn.let_go()

    async def _look(self, sending: asyncio.TaskGroup) -> bool:
        """Make messages and begin to send them; return whether to look again at once."""
        more = await self._composer.flush()
        await self._sender.begin(sending, self._may_send)
        if self._clock.monotonic() - self._forgot_at >= FORGET_EVERY_S:
            self._forgot_at = self._clock.monotonic()
            async with self._db.write() as conn:
                await store.delete_old(conn, self._clock.now() - timedelta(seconds=self._keep_s), FORGOTTEN_AT_ONCE)
        return more

    def _may_send(self) -> bool:
        return self._turn.valid_for_s() > ATTEMPT_S
