"""Looks at what is to be looked at, at a bounded pace; the pulse of our own listeners; the daily look at cards."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from libs.common.backoff import Backoff
from libs.common.bus import topics
from libs.common.bus.port import Bus, StartAt, TopicPartition
from libs.common.clock import Clock
from libs.common.db import Database
from libs.common.errors import Unavailable
from libs.common.lease import OneHolder
from services.alarm.store import diagnoses as store
from services.alarm.store.diagnoses import Wanted
from services.alarm.usecases.cardcheck import CardCheck
from services.alarm.usecases.localising import Localiser

logger = logging.getLogger(__name__)

LEASE_NAME = "diagnosis"
LEASE_S = 9.0
LOOK_S = 1.0
"""How often the list of what is to be looked at is read. [s]"""
PULSE_S = 5.0
"""How often it is seen whether our listeners beat. [s]"""
CARDS_S = 60.0
"""How often it is seen whether the cards are due. [s]"""


class Looking:
    """Looks at what is due, a bounded number at a time and a minute; one process of the service does it."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        localiser: Localiser,
        owner: str,
        per_minute: int,
        at_a_time: int,
    ) -> None:
        """Prepare.

        Args:
            db: Where the list is.
            clock: Our clock.
            localiser: Looks.
            owner: Names this process in the lease.
            per_minute: Looks that may begin within a minute.
            at_a_time: Looks at the same time.
        """
        self._db = db
        self._clock = clock
        self._localiser = localiser
        self._turn = OneHolder(db=db, clock=clock, owner=owner, name=LEASE_NAME, ttl_s=LEASE_S)
        self._per_minute = per_minute
        self._at_a_time = at_a_time
        self._began: deque[float] = deque()

    async def run(self, beat: Callable[[], None]) -> None:
        """Look for ever; while another process does, stand by."""
        backoff = Backoff(first_s=0.5, cap_s=10.0)
        try:
            while True:
                beat()
                try:
                    busy = await self._turn.hold() and await self.round(beat)
                except Unavailable as exc:
                    if backoff.first:
                        logger.warning("diagnosis waits", extra={"reason": exc.message})
                    await self._clock.sleep(backoff.next_s())
                    continue
                backoff.reset()
                if not busy:
                    await self._clock.sleep(LOOK_S)
        finally:
            await self._turn.let_go()

    async def round(self, beat: Callable[[], None]) -> bool:
        """Look at what is due now; return whether there may be more.

        Raises:
            Unavailable: Our own database is away.
        """
        allowed = min(self._at_a_time, self._left())
        if allowed <= 0:
            return False
        async with self._db.read() as conn:
            due = await store.fetch_due(conn, self._clock.now(), allowed)
        self._began.extend(self._clock.monotonic() for _ in due)
        trouble: list[Unavailable] = []

        async def look(wanted: Wanted) -> None:
            try:
                await self._localiser.look(wanted)
            except Unavailable as exc:
                trouble.append(exc)
            except Exception:  # our mistake; without this one device would end the process again and again
                logger.exception("look failed", extra={"device_id": wanted.device_id})
                await self._localiser.put_off(wanted)
            beat()

        async with asyncio.TaskGroup() as tasks:
            for wanted in due:
                tasks.create_task(look(wanted), name="diagnosis")
        if trouble:
            raise trouble[0]
        return len(due) == allowed

    def _left(self) -> int:
        now = self._clock.monotonic()
        while self._began and now - self._began[0] >= 60.0:
            self._began.popleft()
        return self._per_minute - len(self._began)


class ListenerPulse:
    """Whether ingest gives signs of life: it writes one a second into every partition of the readings."""

    def __init__(self, *, bus: Bus, clock: Clock) -> None:
        """Prepare; nobody can tell before ``run`` has looked."""
        self._bus = bus
        self._clock = clock
        self._ends: dict[TopicPartition, int] | None = None
        self._moved_at = 0.0

    def silent_s(self) -> float | None:
        """Return how long the readings have not moved, None when nobody can tell. [s]"""
        return None if self._ends is None else self._clock.monotonic() - self._moved_at

    async def run(self, beat: Callable[[], None]) -> None:
        """Look for ever; while the bus is away nobody can tell."""
        backoff = Backoff(first_s=0.5, cap_s=10.0)
        while True:
            beat()
            try:
                async with self._bus.tail([topics.READINGS], StartAt.end()) as reader:
                    while True:
                        beat()
                        self.note(dict(await reader.end_offsets()))
                        backoff.reset()
                        await self._clock.sleep(PULSE_S)
            except Unavailable as exc:
                self._ends = None
                logger.debug("the pulse of ingest cannot be felt", extra={"reason": exc.message})
                await self._clock.sleep(backoff.next_s())

    def note(self, ends: dict[TopicPartition, int]) -> None:
        """Note where the readings end now."""
        if self._ends != ends:
            self._ends, self._moved_at = ends, self._clock.monotonic()


async def daily(check: CardCheck, clock: Clock, beat: Callable[[], None]) -> None:
    """Look at all cards once a day, for ever; which process does it is settled in the database."""
    while True:
        beat()
        try:
            await check.run_if_due(beat)
        except Unavailable as exc:
            logger.warning("the look at the cards waits", extra={"reason": exc.message})
        for _ in range(round(CARDS_S / LOOK_S)):
            beat()
            await clock.sleep(LOOK_S)
