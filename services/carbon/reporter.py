"""The loop that puts reports into the queue when they fall due."""

import logging
from collections.abc import Callable

from libs.common.clock import Clock
from libs.common.errors import Unavailable
from services.carbon.usecases.reports import Reports

logger = logging.getLogger(__name__)

BEAT_S = 5.0
"""So often the loop says that it lives while it waits. [s]"""


class ReportSchedule:
    """Looks again and again for what is due."""

    def __init__(self, *, reports: Reports, clock: Clock, poll_s: float) -> None:
        self._reports = reports
        self._clock = clock
        self._poll_s = poll_s

    async def run(self, beat: Callable[[], None]) -> None:
        """Look; never returns."""
        due = self._clock.monotonic()
        while True:
            beat()
            if self._clock.monotonic() >= due:
                try:
                    count = await self._reports.enqueue_due()
                    if count:
                        logger.info("reports have fallen due", extra={"reports": count})
                except Unavailable as exc:
                    logger.warning("reports wait", extra={"reason": exc.message})
                due = self._clock.monotonic() + self._poll_s
            await self._clock.sleep(min(self._poll_s, BEAT_S))
