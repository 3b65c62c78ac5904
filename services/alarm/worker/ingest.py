"""Ingest itself is watched by our own clock: the partitions' clocks stand still while it is silent."""

import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Protocol

from libs.common.backoff import Backoff
from libs.common.bus import envelope, topics
from libs.common.bus.port import Message
from libs.common.clock import Clock
from libs.common.contracts.alarm import Condition, ConditionKind
from libs.common.contracts.base import PLATFORM_SITE, Phase
from libs.common.errors import Unavailable
from services.alarm import bus as payloads
from services.alarm.domain.beats import Beats
from services.alarm.domain.model import from_us

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0
PUBLISH_TIMEOUT_S = 2.0


class Publisher(Protocol):
    """What is needed of the bus."""

    async def publish(self, messages: Sequence[Message], *, timeout_s: float) -> None:
        """Return once the messages are durable."""


class IngestWatch:
    """Says of each process of ingest when it falls silent, and when it beats again."""

    def __init__(
        self, *, bus: Publisher, clock: Clock, beats: Beats, caught_up: Callable[[], bool], silent_s: float
    ) -> None:
        """Watch.

        Args:
            bus: Where findings are published.
            clock: Ours.
            beats: What judging has seen of heartbeats.
            caught_up: Whether judging has seen all there is; old heartbeats of a backlog say nothing.
            silent_s: A heartbeat older than this is silence. [s]
        """
        self._bus = bus
        self._clock = clock
        self._beats = beats
        self._caught_up = caught_up
        self._silent_s = silent_s
        self._said: dict[str, bool] = {}
        """Process to whether it was said to be silent. One that is not in it may have been by a process before us."""

    async def run(self, beat: Callable[[], None]) -> None:
        """Look again and again; an absent bus is waited for."""
        backoff = Backoff(first_s=1.0, cap_s=30.0)
        while True:
            beat()
            try:
                await self.look()
            except Unavailable as exc:
                if backoff.first:
                    logger.warning("cannot tell whether ingest is silent", extra={"reason": exc.message})
                await self._clock.sleep(backoff.next_s())
            else:
                backoff.reset()
                await self._clock.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Look once, and publish what has changed.

        Raises:
            BusUnavailable: It cannot be published.
        """
        if not self._caught_up():
            return
        now = self._clock.now()
        newest = self._beats.newest_us()
        self._said = {instance: silent for instance, silent in self._said.items() if instance in newest}
        for instance, (beat_us, counts) in sorted(newest.items()):
            beat_at = from_us(beat_us)
            silent = counts and now - beat_at > timedelta(seconds=self._silent_s)
            if self._said.get(instance) is silent:
                continue
            finding = Condition(
                site_id=PLATFORM_SITE,
                source=payloads.SOURCE,
                kind=ConditionKind.INGEST_SILENT,
                subject=instance,
                phase=Phase.BEGIN if silent else Phase.END,
                at=beat_at,
                detail=_detail(instance, silent, counts, self._silent_s),
                detail_zh=_detail_zh(instance, silent, counts, self._silent_s),
            )
            message = envelope.message(topics.CONDITIONS, PLATFORM_SITE, finding, source=payloads.SOURCE, time=now)
            await self._bus.publish([message], timeout_s=PUBLISH_TIMEOUT_S)
            self._said[instance] = silent


def _detail(instance: str, silent: bool, counts: bool, silent_s: float) -> str:
    if not counts:
        return f"{instance} has been away for so long, while others beat, that it counts as taken away"
    if silent:
        return f"no heartbeat of {instance} for {silent_s:g} s; its devices are not called silent on that account"
    return f"{instance} beats again"


def _detail_zh(instance: str, silent: bool, counts: bool, silent_s: float) -> str:
    if not counts:
        return f"{instance} 长时间无心跳而其他采集进程正常,视为已撤下"
    if silent:
        return f"{instance} 已超过 {silent_s:g} 秒无心跳,期间不据此判定设备失联"
    return f"{instance} 心跳已恢复"
