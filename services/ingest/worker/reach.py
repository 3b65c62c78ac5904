"""A way to a device for orders: through the line that this process holds, or by a connection of its own for once.

A line belongs to its holder. But a load that is to be woken is worth a second connection: an ON needs no lease, and
the holder of the line may be dead or out of reach.
"""

import logging
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime
from functools import partial
from typing import TypeVar

from libs.common.clock import Clock
from libs.common.errors import PlatformError
from services.ingest.domain.normalise import Normaliser, Normalisers
from services.ingest.drivers.factory import open_line
from services.ingest.drivers.means import Means
from services.ingest.drivers.port import Address, LineDown, TellingLine
from services.ingest.settings import PollingSettings
from services.ingest.usecases.reach import Handle, Points, Target
from services.ingest.worker.lines import LineManager, Runner
from services.ingest.worker.rush import Rush
from services.ingest.worker.telling import TellingRunner, connected

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

SOON_PER_S = 100
SOON_AT_ONCE = 100
"""After a switching its device is polled: so many at once, and then so many a second."""


class LineReach:
    """Ways to devices over lines; implements ``Reach``."""

    def __init__(
        self, *, lines: LineManager, clock: Clock, settings: PollingSettings, means: Means, rush: Rush | None = None
    ) -> None:
        self._lines = lines
        self._rush = rush or Rush(clock)
        self._clock = clock
        self._settings = settings
        self._means = means
        self._normalisers = Normalisers()
        self._poll_free_at = float("-inf")

    async def use(
        self, target: Target, job: Callable[[Handle], Awaitable[Result]], *, alone: bool, only_looks: bool = False
    ) -> Result:
        """Do ``job`` with the device, before any poll of its line."""
        address = Address(target.device_id, target.address, target.profile)
        normaliser = self._normalisers.of(target.profile)
        runner = self._lines.runner(target.line.id)
        if runner is not None:
            work = partial(self._with, runner, address, normaliser, job)
            with self._rush.order():
                if only_looks and isinstance(runner, TellingRunner):
                    return await runner.look(work)
                return await runner.first(work)
        if not alone:
            raise LineDown(f"line {target.line.id} is not held by this process")
        driver = open_line(target.line, self._clock, self._settings, self._means, beside=True)
        if isinstance(driver, TellingLine):
            async with connected(driver, address):
                return await job(Handle(driver.session(address), normaliser))
        try:
            return await job(Handle(driver.session(address), normaliser))
        finally:
            await driver.close()

    @staticmethod
    async def _with(
        runner: Runner, address: Address, normaliser: Normaliser, job: Callable[[Handle], Awaitable[Result]]
    ) -> Result:
        return await job(Handle(runner.session(address), normaliser, isinstance(runner, TellingRunner)))

    async def read_polled(self, device_id: str, names: Collection[str]) -> tuple[Points, datetime] | None:
        """Read points of a device on a line of this process, now."""
        runner = self._lines.runner_of(device_id)
        if runner is None:
            return None
        try:
            return await runner.read_now(device_id, names)
        except PlatformError as exc:
            logger.debug("meter does not answer", extra={"device_id": device_id, "reason": exc.message})
            return None

    async def pause(self, target: Target, delay_s: float, *, since: float) -> None:
        """Wait before the next look at a device, or until it has spoken."""
        runner = self._lines.runner(target.line.id)
        if isinstance(runner, TellingRunner):
            await runner.pause(target.device_id, delay_s, since=since)
        else:
            await self._clock.sleep(delay_s)

    def poll_soon(self, line_id: str, device_ids: Collection[str]) -> None:
        """Let the next polls of these devices be soon: at once, unless so many are asked for that they would be in
        the way of the switching itself."""
        runner = self._lines.runner(line_id)
        if runner is None:
            return
        now = self._clock.monotonic()
        self._poll_free_at = max(self._poll_free_at, now) + len(device_ids) / SOON_PER_S
        runner.poll_soon(device_ids, after_s=max(self._poll_free_at - now - SOON_AT_ONCE / SOON_PER_S, 0.0))
