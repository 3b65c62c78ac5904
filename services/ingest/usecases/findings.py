"""Findings of ingest about itself: said once when they begin and once when they end, and not lost on the way."""

import logging
from collections import deque
from collections.abc import Callable, Mapping

from libs.common.backoff import Backoff
from libs.common.bus import envelope, topics
from libs.common.bus.port import Bus, Message
from libs.common.clock import Clock
from libs.common.contracts.alarm import AlarmLevel, Condition, ConditionKind
from libs.common.contracts.base import PLATFORM_SITE, Phase
from libs.common.errors import Unavailable
from libs.common.ids import DeviceId, LoadId, SiteId
from services.ingest.bus import SOURCE

logger = logging.getLogger(__name__)

PUBLISH_TIMEOUT_S = 2.0
LOOK_S = 1.0
MAX_WAITING = 10_000
"""Findings kept while the bus is away; the oldest go first, and what still holds is found again after a restart."""


class Findings:
    """What holds now, and the news of it that have not been published yet."""

    def __init__(self, *, bus: Bus, clock: Clock, instance: str) -> None:
        self._bus = bus
        self._clock = clock
        self._instance = instance
        self._holding: set[tuple[str, str]] = set()
        self._waiting: deque[Message] = deque(maxlen=MAX_WAITING)
        # A former process may have died while it said so.
        self._spool_said: bool | None = None

    def begin(
        self,
        kind: str,
        subject: str,
        detail: str,
        *,
        detail_zh: str | None = None,
        site_id: str = PLATFORM_SITE,
        level: AlarmLevel | None = None,
        device_id: str | None = None,
        load_id: str | None = None,
        values: Mapping[str, float | str | bool] | None = None,
    ) -> None:
        """Say that something is wrong; nothing happens when that was said already."""
        if (kind, subject) in self._holding:
            return
        self._holding.add((kind, subject))
        self._say(kind, subject, Phase.BEGIN, detail, detail_zh, site_id, level, device_id, load_id, values)

    def end(
        self,
        kind: str,
        subject: str,
        detail: str,
        *,
        detail_zh: str | None = None,
        site_id: str = PLATFORM_SITE,
        device_id: str | None = None,
        load_id: str | None = None,
        unsaid: bool = False,
    ) -> None:
        """Say that it is over; nothing happens when it was not said, unless ``unsaid`` (a former process may have)."""
        if (kind, subject) not in self._holding and not unsaid:
            return
        self._holding.discard((kind, subject))
        self._say(kind, subject, Phase.END, detail, detail_zh, site_id, None, device_id, load_id, None)

    def spool_full(self, detail: str) -> None:
        """Reports are refused from now on."""
        if self._spool_said is not True:
            logger.error("reports are refused", extra={"reason": detail})
        self._spool_said = True
        self.begin(
            ConditionKind.SPOOL_FULL, f"ingest/{self._instance}", detail,
            detail_zh="本地缓存已满,拒收上报数据", level=AlarmLevel.CRITICAL,
        )  # fmt: skip

    def spool_accepts(self) -> None:
        """Reports are taken again."""
        if self._spool_said is False:
            return
        first, self._spool_said = self._spool_said is None, False
        self.end(
            ConditionKind.SPOOL_FULL, f"ingest/{self._instance}", "reports are taken again",
            detail_zh="恢复接收上报数据", unsaid=first,
        )  # fmt: skip

    def line_down(self, line_id: str, site_id: str, detail: str) -> None:
        """A line cannot be reached."""
        self.begin(
            ConditionKind.LINE_DOWN, line_id, detail, detail_zh="线路不通", site_id=site_id, level=AlarmLevel.MAJOR
        )

    def line_up(self, line_id: str, site_id: str) -> None:
        """A line answers again."""
        self.end(ConditionKind.LINE_DOWN, line_id, "the line answers again", detail_zh="线路恢复", site_id=site_id)

    def clock_wrong(self, device_id: str, site_id: str, skew_s: float) -> None:
        """A device's own clock is too far off to be used."""
        self.begin(
            ConditionKind.DEVICE_CLOCK_SKEW, device_id, f"the device's clock is off by {skew_s:+.0f} s",
            detail_zh=f"设备时钟偏差 {skew_s:+.0f} 秒", site_id=site_id, level=AlarmLevel.WARNING, device_id=device_id,
            values={"skew_s": skew_s},
        )  # fmt: skip

    def clock_right(self, device_id: str, site_id: str) -> None:
        """A device's own clock can be used again."""
        self.end(
            ConditionKind.DEVICE_CLOCK_SKEW, device_id, "the device's clock is right again",
            detail_zh="设备时钟恢复正常", site_id=site_id, device_id=device_id,
        )  # fmt: skip

    async def run(self, beat: Callable[[], None]) -> None:
        """Publish what was said, in order, for ever."""
        backoff = Backoff(first_s=0.5, cap_s=5.0)
        while True:
            beat()
            if not self._waiting:
                await self._clock.sleep(LOOK_S)
                continue
            batch = list(self._waiting)
            try:
                await self._bus.publish(batch, timeout_s=PUBLISH_TIMEOUT_S)
            except Unavailable as exc:
                if backoff.first:
                    logger.warning("findings wait for the bus", extra={"reason": exc.message})
                await self._clock.sleep(backoff.next_s())
                continue
            backoff.reset()
            published = {id(message) for message in batch}
            while self._waiting and id(self._waiting[0]) in published:
                self._waiting.popleft()

    def _say(
        self,
        kind: str,
        subject: str,
        phase: Phase,
        detail: str,
        detail_zh: str | None,
        site_id: str,
        level: AlarmLevel | None,
        device_id: str | None,
        load_id: str | None,
        values: Mapping[str, float | str | bool] | None,
    ) -> None:
        now = self._clock.now()
        condition = Condition(
            site_id=SiteId(site_id),
            source=SOURCE,
            kind=kind,
            subject=subject,
            phase=phase,
            detail=detail,
            detail_zh=detail_zh,
            at=now,
            level=level,
            device_id=None if device_id is None else DeviceId(device_id),
            load_id=None if load_id is None else LoadId(load_id),
            values=values,
        )
        self._waiting.append(envelope.message(topics.CONDITIONS, site_id, condition, source=SOURCE, time=now))
