"""Counting for the metrics."""

import logging
from collections.abc import Callable

from libs.common import metrics
from libs.common.clock import Clock
from libs.common.db import Database
from libs.common.errors import Unavailable
from services.alarm.domain.model import LEVELS
from services.alarm.store import alarms as alarms_store

logger = logging.getLogger(__name__)

ACTIVE = metrics.gauge("alarm_active", "Active alarms of the whole installation", ("level", "inhibited"))


class Measure:
    """Counts active alarms for the metrics."""

    def __init__(self, *, db: Database, clock: Clock, every_s: float) -> None:
        """Count every ``every_s`` seconds."""
        self._db = db
        self._clock = clock
        self._every_s = every_s

    async def run(self, beat: Callable[[], None]) -> None:
        """Count for ever; a database that is away is somebody else's news."""
        while True:
            beat()
            try:
                await self.measure()
            except Unavailable as exc:
                logger.debug("active alarms not counted", extra={"reason": exc.message})
            await self._clock.sleep(self._every_s)

    async def measure(self) -> None:
        """Count once.

        Raises:
            Unavailable: The database is away.
        """
        async with self._db.read() as conn:
            counts = await alarms_store.count_active(conn)
        for level in LEVELS:
            for inhibited in (False, True):
                ACTIVE.labels(str(level), str(inhibited).lower()).set(counts.get((level, inhibited), 0))
