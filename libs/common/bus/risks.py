"""A service that is so far behind that retention will overtake it says so as a finding, of which alarm makes an alarm.

Only the embedded log knows (``Bus.at_risk``); of Kafka the broker's tools do.
"""

import logging
from collections.abc import Callable, Sequence

from libs.common.backoff import Backoff
from libs.common.bus import envelope, topics
from libs.common.bus.port import AtRisk, Bus
from libs.common.clock import Clock
from libs.common.contracts.alarm import AlarmLevel, Condition, ConditionKind
from libs.common.contracts.base import PLATFORM_SITE, Phase
from libs.common.errors import Unavailable

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 30.0
"""Between two looks; what is at risk has a quarter of its retention left, which is half an hour of readings. [s]"""
PUBLISH_TIMEOUT_S = 2.0


class RiskWatch:
    """Says when a service's groups are about to lose messages, and when that is over."""

    def __init__(self, bus: Bus, clock: Clock, service: str) -> None:
        """Watch the groups whose names begin with the service's."""
        self._bus = bus
        self._clock = clock
        self._service = service
        self._said: frozenset[tuple[str, str]] | None = None
        """Groups and topics that were said to be at risk; None before the first look: a former process may have died
        while it said so, and the end of what never began is no news."""

    async def run(self, beat: Callable[[], None]) -> None:
        """Look again and again; an absent bus is waited for."""
        backoff = Backoff(first_s=1.0, cap_s=LOOK_EVERY_S)
        while True:
            beat()
            try:
                await self.look()
            except Unavailable as exc:
                if backoff.first:
                    logger.warning("cannot tell what retention threatens", extra={"reason": exc.message})
                await self._clock.sleep(backoff.next_s())
            else:
                backoff.reset()
                await self._clock.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Look once, and publish what has changed.

        Raises:
            BusUnavailable: It cannot be told, or not be published.
        """
        risks = [risk for risk in await self._bus.at_risk() if risk.group.startswith(f"{self._service}.")]
        places = frozenset((risk.group, risk.topic) for risk in risks)
        if places == self._said:
            return
        now = self._clock.now()
        finding = Condition(
            site_id=PLATFORM_SITE,
            source=self._service,
            kind=ConditionKind.RETENTION_RISK,
            subject=self._service,
            phase=Phase.BEGIN if risks else Phase.END,
            at=now,
            level=AlarmLevel.MAJOR if risks else None,
            **_in_words(risks),
        )
        message = envelope.message(topics.CONDITIONS, PLATFORM_SITE, finding, source=self._service, time=now)
        await self._bus.publish([message], timeout_s=PUBLISH_TIMEOUT_S)
        self._said = places


def _in_words(risks: Sequence[AtRisk]) -> dict[str, str]:
    if not risks:
        return {"detail": "all messages are read in time again", "detail_zh": "消息均可及时读取"}
    places = ", ".join(sorted({f"{risk.group} ({risk.topic})" for risk in risks}))
    records = sum(risk.records for risk in risks)
    left_s = min((risk.left_s for risk in risks if risk.left_s is not None), default=None)
    soon, soon_zh = ("", "") if left_s is None else (f" in {left_s / 60:.0f} min", f",{left_s / 60:.0f} 分钟后开始过期")
    return {
        "detail": f"{places}: {records} messages are not read and the first expire{soon}",
        "detail_zh": f"{places}:{records} 条消息尚未读取{soon_zh or ',即将过期'}",
    }
