"""Results of commands on their way to control: over the bus, or kept on disk while that is away.

Nobody waits for them: what happens at a breaker must not depend on who can be told about it. They tell of devices and
of no change in the database, so it has no part in this.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial

from libs.common.backoff import Backoff
from libs.common.bus import envelope, topics
from libs.common.bus.port import Bus, Message, MessageRefused
from libs.common.clock import Clock
from libs.common.contracts.control import CommandAction, Evidence, Result, Stage
from libs.common.errors import Unavailable
from libs.common.ids import CommandId, DeviceId, LineId, SiteId
from services.ingest import metrics
from services.ingest.bus import SOURCE, pack, unpack
from services.ingest.spool import Spool, SpoolFull

logger = logging.getLogger(__name__)

PUBLISH_TIMEOUT_S = 2.0
LOOK_S = 0.5
MAX_WAITING = 10_000
BATCH = 2_000
ON_THE_WAY = frozenset({Stage.ACCEPTED, Stage.EXECUTED})
QUIETLY = ON_THE_WAY | {Stage.VERIFIED}
"""They are in the command's history, and control logs how a command ended; this log needs what did not work."""
FLOOD = 300
"""So many closings are on their way untold: it is a flood."""
HELD_IN_A_FLOOD_S = 20.0
"""What is told instead of ``HELD_S`` as long as closings of the flood are proven. [s]"""
GATHERED_S = 0.1
"""In a flood what there is to tell is told together, after this: proofs come by the hundred a second, and a transaction
for two or three of them costs us, the database, the bus and control as much as one for thirty. [s]"""
HELD_S = 2.0
"""What a closing is at on its way is told after this, unless it is proven by then: of ten thousand at once that leaves
one message of three, and each costs both sides. Of an opening everything is told at once. [s]"""


class Results:
    """What has to be told about commands."""

    def __init__(self, *, bus: Bus, kept: Spool, clock: Clock, instance: str) -> None:
        self._bus = bus
        self._kept = kept
        self._clock = clock
        self._instance = instance
        self._waiting: list[Message] = []
        self._held: dict[str, tuple[float, Callable[[], Result]]] = {}
        """By command, the oldest first: since when it is held, and the latest of what it is at."""
        self._proven_at = float("-inf")
        """When a closing was last proven, by the monotonic clock. [s]"""
        self._wake = asyncio.Event()

    def emit(
        self,
        command_id: str,
        stage: Stage,
        *,
        site_id: str,
        device_id: str,
        line_id: str,
        epoch: int,
        action: CommandAction | None = None,
        evidence: Evidence | None = None,
        reason: str | None = None,
        detail: str | None = None,
    ) -> None:
        """Tell one stage of a command; returns at once."""
        # Of ten thousand closings most of what is held is never told, and so never made.
        result = partial(
            Result,
            command_id=CommandId(command_id),
            site_id=SiteId(site_id),
            stage=stage,
            evidence=evidence or Evidence(),
            epoch=epoch,
            at=self._clock.now(),
            device_id=DeviceId(device_id),
            line_id=LineId(line_id),
            action=action,
            reason=reason,
            detail=detail,
            instance=self._instance,
        )
        metrics.COMMANDS.labels(action or "restore", stage).inc()
        logger.log(
            logging.DEBUG if stage in QUIETLY else logging.INFO,
            "command at the line",
            extra={"command_id": command_id, "device_id": device_id, "stage": stage, "reason": reason},
        )
        before = self._held.pop(command_id, (0.0, None))[1]
        if action is CommandAction.CLOSE and stage in ON_THE_WAY:
            self._held[command_id] = (self._clock.monotonic(), result)
            return
        if action is CommandAction.CLOSE and stage is Stage.VERIFIED:
            self._proven_at = self._clock.monotonic()
        if before is not None and stage is not Stage.VERIFIED:
            self._waiting.append(_message(before()))
        self._waiting.append(_message(result()))
        self._wake.set()

    async def run(self, beat: Callable[[], None]) -> None:
        """Publish, for ever."""
        async with self._kept:
            try:
                await self._run(beat)
            finally:
                # Whoever starts next tells what we could not, also what others have to tell as they stop.
                await asyncio.sleep(0)
                self._let_go(float("inf"))
                await self._keep(self._waiting)

    async def _run(self, beat: Callable[[], None]) -> None:
        backoff = Backoff(first_s=0.2, cap_s=3.0)
        while True:
            beat()
            if not self._kept.records:
                await self._wait()
                if len(self._held) >= FLOOD:
                    await self._clock.sleep(GATHERED_S)
            self._let_go(self._clock.monotonic())
            await self._take_over()
            if not self._kept.records:
                continue
            try:
                await self._drain()
                backoff.reset()
            except Unavailable as exc:
                if backoff.first:
                    logger.warning("results are kept until the bus is back", extra={"reason": exc.message})
                await self._clock.sleep(backoff.next_s())

    def _let_go(self, now: float) -> None:
        """Tell what has been held for long enough."""
        is_flood = len(self._held) >= FLOOD and now - self._proven_at < HELD_S
        held_s = HELD_IN_A_FLOOD_S if is_flood else HELD_S
        while self._held:
            command_id, (since, result) = next(iter(self._held.items()))
            if since + held_s > now:
                return
            del self._held[command_id]
            self._waiting.append(_message(result()))

    async def _take_over(self) -> None:
        """Give what waits to the bus, or to the disk; behind older results on disk when there are some."""
        batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
        if not batch:
            return
        if not self._kept.records:
            try:
                await self._publish(batch)
            except asyncio.CancelledError:
                self._waiting = [*batch, *self._waiting]  # twice is harmless, never is not
                raise
            except Unavailable as exc:
                logger.warning(
                    "the bus is away, results are kept on disk", extra={"results": len(batch), "reason": exc.message}
                )
            else:
                return
        if not await self._keep(batch):
            # Without disk and bus they stay in memory; control finds out by reading back.
            self._waiting = [*batch, *self._waiting][-MAX_WAITING:]
            await self._clock.sleep(LOOK_S)

    async def _keep(self, batch: Sequence[Message]) -> bool:
        """Put messages on disk; return whether they are there."""
        try:
            await self._kept.append([pack(message) for message in batch])
        except SpoolFull as exc:
            logger.error("results cannot be kept on disk", extra={"reason": exc.message, "results": len(batch)})
            return False
        return True

    async def _drain(self) -> None:
        """Publish what is on disk."""
        records = await self._kept.read(BATCH)
        if records:
            await self._publish([unpack(record.payload) for record in records])
            await self._kept.advance(records[-1].sequence + 1)

    async def _publish(self, messages: Sequence[Message]) -> None:
        """Publish, all but what the bus will never take: control finds out about that one by reading back.

        Raises:
            BusUnavailable: Some of them may not be there.
        """
        left = messages
        while left:
            try:
                await self._bus.publish(left, timeout_s=PUBLISH_TIMEOUT_S)
                return
            except MessageRefused as exc:
                refused = exc.refused
                logger.error("the bus takes a result never", extra={"result": str(refused.value)[:500]})
                left = [message for message in left if message is not refused]

    async def _wait(self) -> None:
        if self._waiting:
            return
        try:
            async with asyncio.timeout(LOOK_S):
                await self._wake.wait()
        except TimeoutError:
            return
        finally:
            self._wake.clear()


def _message(result: Result) -> Message:
    return envelope.message(
        topics.RESULTS,
        result.site_id,
        result,
        source=SOURCE,
        time=result.at,
        event_id=f"{result.command_id}/{result.stage}/{result.at.timestamp():.6f}",
        subject=result.device_id,
    )
