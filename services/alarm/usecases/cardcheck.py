"""Once a day all SIM cards are looked at: those that end soon and those that are stopped become findings."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Protocol

from libs.common.bus import outbox
from libs.common.clock import CIVIL_ZONE, Clock
from libs.common.contracts.alarm import AlarmLevel, Condition
from libs.common.contracts.base import JsonObject, Phase
from libs.common.db import Database
from libs.common.errors import PlatformError
from libs.common.ids import DeviceId, SiteId
from services.alarm import bus
from services.alarm.domain.diagnosis.subject import Card
from services.alarm.store import cardchecks as store
from services.alarm.usecases.gathering import Cards

logger = logging.getLogger(__name__)

EXPIRING = "card_expiring"
STOPPED = "card_stopped"
BATCH = 100
"""Cards in one question."""
PACE_S = 0.5
"""Between two questions: two a second leave the quota of the platform to those who ask about a fault. [s]"""
GIVEN_UP_AFTER = timedelta(hours=6)
"""A process that began so long ago and has not ended has died over it: a million cards are asked in two hours."""
_STOPPED_STATES = ("5", "6", "7")


class CardHolders(Protocol):
    """The registry, as far as cards go."""

    def cards(self) -> Iterable[Card]:
        """Return the cards that are in devices."""


@dataclass(frozen=True, slots=True)
class CardFinding:
    """What is wrong with a card."""

    kind: str
    card: Card
    detail: str
    detail_zh: str

    @property
    def key(self) -> str:
        """What begin and end agree on; a card that moves to another site is another finding."""
        return _key(self.kind, self.card)


def _key(kind: str, card: Card) -> str:
    return f"{kind}|{card.site_id}|{card.sim_id}"


def find(cards: Iterable[Card], states: Mapping[str, str], today: date, within: timedelta) -> list[CardFinding]:
    """Return what is wrong with cards today.

    Args:
        cards: Of the registry.
        states: Access number to state, as far as the platform could tell; a card that is absent is not judged.
        today: The civil day.
        within: A card that ends sooner is told of.
    """
    found: list[CardFinding] = []
    for card in cards:
        if card.expires_on is not None and card.expires_on - today <= within:
            over = card.expires_on < today
            found.append(
                CardFinding(
                    EXPIRING,
                    card,
                    f"SIM card {card.iccid} {'ended' if over else 'ends'} on {card.expires_on.isoformat()}",
                    f"物联网卡 {card.iccid} {'已于' if over else '将于'} {card.expires_on.isoformat()} 到期",
                )
            )
        state = states.get(card.number or "")
        if state in _STOPPED_STATES:
            found.append(
                CardFinding(
                    STOPPED,
                    card,
                    f"SIM card {card.iccid} is stopped (state {state})",
                    f"物联网卡 {card.iccid} 已停机（状态 {state}）",
                )
            )
    return found


class CardCheck:
    """Looks at all cards on the first call of a civil day after its hour."""

    def __init__(
        self, *, db: Database, clock: Clock, holders: CardHolders, cards: Cards, hour: int, within: timedelta
    ) -> None:
        """Keep what is needed.

        Args:
            db: Where findings are kept from day to day.
            clock: Our clock.
            holders: The registry.
            cards: The card platform.
            hour: Of the civil day.
            within: A card that ends sooner is told of.
        """
        self._db = db
        self._clock = clock
        self._holders = holders
        self._cards = cards
        self._hour = hour
        self._within = within

    async def run_if_due(self, beat: Callable[[], None]) -> bool:
        """Look at all cards unless it is too early or somebody has done so today; return whether it was done.

        Raises:
            Unavailable: Our own database is away.
        """
        now = self._clock.now()
        local = now.astimezone(CIVIL_ZONE)
        if local.hour < self._hour:
            return False
        async with self._db.write() as conn:
            if not await store.begin_card_check(conn, local.date(), now, given_up_after=GIVEN_UP_AFTER):
                return False
        cards = list(self._holders.cards())
        states = await self._states(cards, beat)
        found = find(cards, states, local.date(), self._within)
        async with self._db.write() as conn:
            before = await store.fetch_last_card_findings(conn, local.date())
            kept = self._kept(before, found, cards, states)
            if not await store.end_card_check(conn, local.date(), len(cards), kept, self._clock.now()):
                return False
            begun = [bus.condition_message(_condition(one, now), now) for one in found if one.key not in before]
            over = [bus.condition_message(_over(key, old, now), now) for key, old in before.items() if key not in kept]
            await outbox.put(conn, [*begun, *over])
        logger.info("cards looked at", extra={"cards": len(cards), "findings": len(found)})
        return True

    async def _states(self, cards: list[Card], beat: Callable[[], None]) -> Mapping[str, str]:
        numbers = sorted({card.number for card in cards if card.number is not None})
        states: dict[str, str] = {}
        for start in range(0, len(numbers), BATCH):
            beat()
            if start:
                await self._clock.sleep(PACE_S)
            try:
                states.update(await self._cards.states(numbers[start : start + BATCH]))
            except PlatformError as exc:
                logger.info("states of cards cannot be told", extra={"reason": exc.message})
                break
        return states

    def _kept(
        self, before: JsonObject, found: list[CardFinding], cards: list[Card], states: Mapping[str, str]
    ) -> JsonObject:
        """Return today's findings, with yesterday's of cards that nobody could tell about today."""
        kept: JsonObject = {one.key: {"site_id": one.card.site_id, "device_id": one.card.device_id} for one in found}
        untold = {_key(STOPPED, card) for card in cards if (card.number or "") not in states}
        return {**{key: value for key, value in before.items() if key in untold}, **kept}


def _condition(one: CardFinding, at: datetime) -> Condition:
    return Condition(
        site_id=SiteId(one.card.site_id),
        source=bus.SOURCE,
        kind=one.kind,
        subject=one.card.sim_id,
        phase=Phase.BEGIN,
        detail=one.detail,
        detail_zh=one.detail_zh,
        at=at,
        level=AlarmLevel.WARNING if one.kind == EXPIRING else AlarmLevel.MINOR,
        device_id=DeviceId(one.card.device_id),
    )


def _over(key: str, value: object, at: datetime) -> Condition:
    kind, _, sim_id = key.split("|", 2)
    where = value if isinstance(value, dict) else {}
    return Condition(
        site_id=SiteId(str(where.get("site_id"))),
        source=bus.SOURCE,
        kind=kind,
        subject=sim_id,
        phase=Phase.END,
        detail="the card is in order",
        detail_zh="物联网卡恢复正常",
        at=at,
        device_id=DeviceId(str(where.get("device_id"))),
    )
