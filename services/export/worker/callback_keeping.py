"""The worker that measures the queues of callbacks, and ends what has waited or been kept for long enough."""

import logging
from collections.abc import Callable
from datetime import timedelta

from libs.common import metrics
from libs.common.clock import Clock
from libs.common.db import Database
from libs.common.errors import Unavailable
from services.export.callbacks import endpoints, queues
from services.export.domain.callbacks import Lane

logger = logging.getLogger(__name__)

MEASURE_S = 5.0
TIDY_S = 60.0
ROWS = 5000
"""Ended or deleted at a time. [rows]"""

PENDING = metrics.gauge("webhook_pending", "Callbacks that wait", ("lane",))
OLDEST = metrics.gauge("webhook_oldest_pending_seconds", "Age of the oldest callback that waits", ("lane",))
ENDPOINTS = metrics.gauge("webhook_endpoints", "Endpoints, by state", ("state",))
GIVEN_UP = metrics.counter("webhook_given_up_total", "Callbacks given up unsent", ("reason",))


class CallbackKeeper:
    """Keeps the gauges, and the bounds."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        max_age_s: float,
        max_waiting: int,
        retention_s: float,
        batch_age_s: float,
        max_batches: int,
    ) -> None:
        """Prepare the worker.

        Args:
            db: The service's database.
            clock: For times and waiting.
            max_age_s: What could not be delivered for so long is given up. [s]
            max_waiting: What waits for one endpoint beyond this is given up, the oldest first.
            retention_s: Age at which the log is deleted. [s]
            batch_age_s: Both for batches, since they are readings a second time. [s]
            max_batches: So many batches may wait for one endpoint, besides everything else.
        """
        self._db = db
        self._clock = clock
        self._max_age = timedelta(seconds=max_age_s)
        self._max_waiting = max_waiting
        self._retention = timedelta(seconds=retention_s)
        self._batch_age = timedelta(seconds=batch_age_s)
        self._max_batches = max_batches

    async def run(self, beat: Callable[[], None]) -> None:
        """Measure and tidy for ever."""
        tidied_at = float("-inf")
        while True:
            beat()
            try:
                await self.measure()
                if self._clock.monotonic() - tidied_at >= TIDY_S:
                    await self.tidy()
                    tidied_at = self._clock.monotonic()
            except Unavailable as exc:
                logger.debug("callbacks not measured", extra={"reason": exc.message})
            await self._clock.sleep(MEASURE_S)

    async def measure(self) -> None:
        """Measure once."""
        async with self._db.read() as conn:
            waiting = await queues.measure(conn)
            states = await endpoints.count_by_state(conn)
        now = self._clock.now()
        for lane in Lane:
            of_lane = [found for (_, each), found in waiting.items() if each is lane]
            name = lane.name.lower()
            PENDING.labels(name).set(sum(found.count for found in of_lane))
            oldest_at = min((found.oldest_at for found in of_lane), default=now)
            OLDEST.labels(name).set(max((now - oldest_at).total_seconds(), 0.0))
        for state, count in states.items():
            ENDPOINTS.labels(state.value).set(count)

    async def tidy(self) -> None:
        """Give up what is too old or too much, and delete what has been kept long enough; a portion of each."""
        now = self._clock.now()
        old = surplus = 0
        bounds = ((False, self._max_age, self._max_waiting), (True, self._batch_age, self._max_batches))
        for batches, max_age, max_waiting in bounds:
            async with self._db.write() as conn:
                old += await queues.give_up_old(
                    conn, now - max_age, batches=batches, limit=ROWS,
                    reason="it could not be delivered for too long", now=now,
                )  # fmt: skip
            async with self._db.write() as conn:
                surplus += await queues.give_up_beyond(
                    conn, max_waiting, batches=batches, limit=ROWS, reason="too much waited for the endpoint", now=now
                )
        async with self._db.write() as conn:
            gone = await queues.prune(
                conn, before=now - self._retention, batches_before=now - self._batch_age, limit=ROWS
            )
        GIVEN_UP.labels("age").inc(old)
        GIVEN_UP.labels("surplus").inc(surplus)
        if old or surplus:
            logger.warning("callbacks given up", extra={"too_old": old, "too_many": surplus})
        if gone:
            logger.info("old callbacks deleted", extra={"rows": gone})
