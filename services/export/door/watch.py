"""Tells alarm of addresses that are turned away at the units' door again and again, and when they have stopped.

What is being told stands in the database, so that a restart or another replica ends what was begun.
"""

import logging
from collections.abc import Callable
from datetime import timedelta

from libs.common.bus import outbox
from libs.common.clock import Clock
from libs.common.contracts.base import Phase
from libs.common.db import Database
from libs.common.errors import Unavailable
from services.export import bus
from services.export.domain.knocking import LIMIT, MOST_PEERS, QUIET_S, WINDOW_S, Knocking
from services.export.door import rows

logger = logging.getLogger(__name__)

SWEEP_S = 30.0


class Door:
    """Watches who is turned away."""

    def __init__(self, *, db: Database, clock: Clock, committed: Callable[[], None]) -> None:
        """Prepare the watch; ``committed`` is called when something is to be published."""
        self._db = db
        self._clock = clock
        self._committed = committed
        self._knocking = Knocking()

    async def refused(self, peer: str, outcome: str) -> None:
        """Count a message or login that was turned away, and tell when it is one too many.

        Args:
            peer: Address that it came from.
            outcome: Why, as the metrics have it.
        """
        if not self._knocking.refused(peer, self._clock.monotonic()):
            return
        now = self._clock.now()
        english = f"{LIMIT} messages or logins of {peer} were turned away within {WINDOW_S:g} s, the last as {outcome}"
        chinese = f"{WINDOW_S:g} 秒内拒绝来自 {peer} 的报文或登录 {LIMIT} 次，最近一次原因:{outcome}"
        try:
            async with self._db.write() as conn:
                if not await rows.note(conn, peer, now, at_most=MOST_PEERS):
                    return
                news = bus.door_finding(peer, Phase.BEGIN, detail=english, detail_zh=chinese, at=now)
                await outbox.put(conn, [news])
        except Unavailable as exc:
            logger.warning("a finding about the units' door is lost", extra={"peer": peer, "reason": exc.message})
            return
        logger.warning("an address is turned away again and again", extra={"peer": peer, "outcome": outcome})
        self._committed()

    async def run(self, beat: Callable[[], None]) -> None:
        """End what has stopped, for ever."""
        while True:
            beat()
            try:
                await self.sweep()
            except Unavailable as exc:
                logger.debug("the units' door is not swept", extra={"reason": exc.message})
            await self._clock.sleep(SWEEP_S)

    async def sweep(self) -> None:
        """Tell of each address that has been quiet for long enough."""
        now = self._clock.now()
        async with self._db.write() as conn:
            gone = await rows.forget_quiet(conn, now - timedelta(seconds=QUIET_S))
            await outbox.put(
                conn,
                [
                    bus.door_finding(
                        peer,
                        Phase.END,
                        detail=f"{peer} was not turned away for {QUIET_S:g} s",
                        detail_zh=f"{peer} 已有 {QUIET_S:g} 秒未被拒绝",
                        at=now,
                    )
                    for peer in gone
                ],
            )
        if gone:
            self._committed()
