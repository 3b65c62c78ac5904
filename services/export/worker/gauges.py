"""The worker that measures the queues: what waits for which destination, and since when."""

import logging
from collections.abc import Callable

from libs.common import metrics
from libs.common.clock import Clock
from libs.common.db import Database
from libs.common.errors import Unavailable
from services.export.domain.delivery import values_by_state
from services.export.feeds import destinations
from services.export.store import deliveries as delivery_store
from services.export.store import units as unit_store

logger = logging.getLogger(__name__)

MEASURE_S = 5.0

WAITING = metrics.gauge("export_deliveries_waiting", "Deliveries that wait, by state", ("destination", "state"))
OLDEST = metrics.gauge("export_oldest_pending_seconds", "Age of the oldest delivery that waits", ("destination",))
BATCHES = metrics.gauge(
    "export_feed_batches_waiting", "Closed batches that a destination was not told", ("destination",)
)
UNITS = metrics.gauge("export_units", "Units of a centre, by phase", ("destination", "phase"))


class Gauges:
    """Keeps the gauges of this process."""

    def __init__(self, *, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._destinations: set[str] = set()

    async def run(self, beat: Callable[[], None]) -> None:
        """Measure for ever."""
        while True:
            beat()
            try:
                await self.measure()
            except Unavailable as exc:
                logger.debug("queues not measured", extra={"reason": exc.message})
            await self._clock.sleep(MEASURE_S)

    async def measure(self) -> None:
        """Measure once; a destination without anything waiting falls back to 0."""
        async with self._db.read() as conn:
            waiting = await delivery_store.waiting(conn)
            units = await unit_store.count_units(conn)
            batches = await destinations.waiting(conn)
        self._destinations |= {connection_id for connection_id, _ in units}
        now = self._clock.now()
        for destination in self._destinations:
            counts, oldest = waiting.get(destination, ({}, now))
            for state, count in values_by_state(counts).items():
                WAITING.labels(destination, state).set(count)
            OLDEST.labels(destination).set(max((now - oldest).total_seconds(), 0.0))
        BATCHES.clear()
        for destination, count in batches.items():
            BATCHES.labels(destination).set(max(count, 0))
        UNITS.clear()
        for (destination, phase), count in units.items():
            UNITS.labels(destination, phase).set(count)
