"""A line for the helpers of a person in the field.

The one that this process polls, in turns between polls and commands; or one that nobody holds, because no device is
on it yet, under its lease for as long as it is used.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TypeVar

from libs.common.clock import Clock
from libs.common.contracts.registry import Line
from libs.common.errors import Conflict, InvalidInput, NotFound
from libs.common.lease import Lease, LeaseKeeper
from services.ingest.drivers.factory import open_line
from services.ingest.drivers.means import Means
from services.ingest.drivers.port import LineDown, LineDriver, TellingLine
from services.ingest.drivers.taps import Passing, Tapped
from services.ingest.settings import PollingSettings
from services.ingest.usecases.fieldwork import Frames, LineUse
from services.ingest.usecases.topology import Topology
from services.ingest.worker.line import LineRunner
from services.ingest.worker.lines import LEASE_PREFIX, LineManager
from services.ingest.worker.waiting import wait_for

Result = TypeVar("Result")

MAX_WAITING_FRAMES = 1000
"""Of a listener who does not fetch them; older ones are lost, and counted."""
LOOK_S = 1.0
"""A listener hears within this that the line was given up. [s]"""


class UnknownLine(NotFound):
    """There is no such line."""

    code = "unknown_line"
    title_zh = "线路不存在"


class HeldElsewhere(Conflict):
    """Another process holds the line; it is the one to ask."""

    code = "not_the_holder"
    title_zh = "线路由其他进程持有"


class FieldLines:
    """Implements ``LineAccess``."""

    def __init__(
        self,
        *,
        lines: LineManager,
        topology: Topology,
        keeper: LeaseKeeper,
        means: Means,
        clock: Clock,
        settings: PollingSettings,
    ) -> None:
        self._lines = lines
        self._topology = topology
        self._keeper = keeper
        self._means = means
        self._clock = clock
        self._settings = settings

    @asynccontextmanager
    async def use(self, line_id: str) -> AsyncIterator[LineUse]:
        """Use a line in turns."""
        line = self._line(line_id)
        runner = self._lines.runner(line_id)
        if isinstance(runner, LineRunner):
            yield _Polled(runner, lambda: self._lines.runner(line_id) is not runner)
            return
        driver = open_line(line, self._clock, self._settings, self._means)
        if runner is not None or isinstance(driver, TellingLine):
            raise _not_asked(line)
        lease = await self._keeper.acquire(LEASE_PREFIX + line_id)
        if lease is None:
            raise await self._held_elsewhere(line_id)
        use = _Own(driver, lease, self._keeper)
        try:
            yield use
        finally:
            await driver.close()
            await self._keeper.release(use.lease)

    @asynccontextmanager
    async def listen(self, line_id: str) -> AsyncIterator[Frames]:
        """Listen in on a line."""
        line = self._line(line_id)
        runner = self._lines.runner(line_id)
        if runner is None:
            raise await self._held_elsewhere(line_id)
        if not isinstance(runner, LineRunner) or not isinstance(runner.driver, Tapped):
            raise _not_asked(line)
        frames = _Frames(self._clock, lambda: self._lines.runner(line_id) is not runner)
        runner.driver.taps.add(frames.heard)
        try:
            yield frames
        finally:
            runner.driver.taps.remove(frames.heard)

    def _line(self, line_id: str) -> Line:
        line = self._topology.line(line_id, self._clock.now())
        if line is None:
            raise UnknownLine(f"there is no line {line_id}", message_zh=f"没有线路 {line_id}")
        return line

    async def _held_elsewhere(self, line_id: str) -> Conflict:
        holder = await self._lines.holder_of(line_id)
        if holder is None:
            return HeldElsewhere(
                f"line {line_id} is served by nobody at the moment", message_zh=f"线路 {line_id} 目前没有进程服务"
            )
        return HeldElsewhere(
            f"line {line_id} is held by {holder}; ask there",
            message_zh=f"线路 {line_id} 由 {holder} 持有",
            holder=holder,
        )


class _Polled:
    """A line that is polled by this process."""

    def __init__(self, runner: LineRunner, given_up: Callable[[], bool]) -> None:
        self._runner = runner
        self._given_up = given_up

    async def turn(self, job: Callable[[LineDriver], Awaitable[Result]]) -> Result:
        if self._given_up():
            # Nobody would come to do the job.
            raise LineDown("the line was given up, or its settings have changed; ask again")
        runner = self._runner
        return await runner.first(lambda: job(runner.driver))


class _Own:
    """A line that nobody polls."""

    def __init__(self, driver: LineDriver, lease: Lease, keeper: LeaseKeeper) -> None:
        self.lease = lease
        self._driver = driver
        self._keeper = keeper

    async def turn(self, job: Callable[[LineDriver], Awaitable[Result]]) -> Result:
        renewed = await self._keeper.renew(self.lease)
        if renewed is None:
            raise LineDown("the line was taken by another process")
        self.lease = renewed
        return await job(self._driver)


class _Frames:
    """What goes by, kept until it is fetched."""

    def __init__(self, clock: Clock, given_up: Callable[[], bool]) -> None:
        self._clock = clock
        self._given_up = given_up
        self._waiting: deque[tuple[datetime, Passing]] = deque(maxlen=MAX_WAITING_FRAMES)
        self._arrived = asyncio.Event()
        self.lost = 0

    @property
    def over(self) -> bool:
        return self._given_up() and not self._waiting

    def heard(self, passing: Passing) -> None:
        if len(self._waiting) == MAX_WAITING_FRAMES:
            self.lost += 1
        self._waiting.append((self._clock.now(), passing))
        self._arrived.set()

    async def next(self, timeout_s: float) -> tuple[datetime, Passing] | None:
        if not self._waiting:
            await wait_for(self._arrived, self._clock, min(timeout_s, LOOK_S))
        return self._waiting.popleft() if self._waiting else None


def _not_asked(line: Line) -> InvalidInput:
    return InvalidInput(
        f"line {line.id}: devices on a line of kind {line.kind} speak by themselves and cannot be looked for",
        message_zh=f"线路 {line.id}:{line.kind} 类型线路上的设备主动上报,无法逐个询问",
    )
