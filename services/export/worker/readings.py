"""The worker that keeps latest values: a tail of ``telemetry.readings`` into memory, hourly samples into the database.

Why memory and not a table: a poll may arrive at any replica and must be answered from the newest values at
once, and writing every reading a second time would cost more than all else that export does. The cache is
rebuilt from the bus, which holds the last reports of whatever reports often, and from the hourly samples for
what reports seldom. Why not a group: every replica needs every device that is mapped.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import timedelta

from libs.common.bus import topics
from libs.common.bus.port import Bus, Received, StartAt
from libs.common.bus.tail import Tail
from libs.common.clock import Clock
from libs.common.db import Database
from libs.common.errors import Unavailable
from services.export import bus as messages
from services.export.domain.latest import LatestReadings
from services.export.store import keeping as keeping_store
from services.export.store import mappings as mapping_store
from services.export.store import samples as sample_store

logger = logging.getLogger(__name__)

SEED_S = 7200.0
"""How far back samples are still values: the age at which the slowest point (energy, 1 h) is stale. [s]"""
FLUSH_S = 5.0
"""How often samples are written and the list of mapped devices is read again. [s]"""
PRUNE_S = 600.0
PRUNE_ROWS = 5000
STATES_KEPT_S = 8 * 86400.0
"""Ended alarms are remembered longer than the bus keeps their events, so that a repeat is known. [s]"""


class ReadingsCache:
    """Follows the readings of mapped devices."""

    def __init__(
        self,
        *,
        bus: Bus,
        db: Database,
        clock: Clock,
        look_back_s: float,
        sample_retention_s: float,
        delivery_retention_s: float,
    ) -> None:
        """Prepare the workers.

        Args:
            bus: Where readings come from.
            db: The service's database.
            clock: For ages and waiting.
            look_back_s: How far back the bus is read at the start and for newly mapped devices. [s]
            sample_retention_s: Age at which samples are deleted. [s]
            delivery_retention_s: Age at which finished deliveries are deleted. [s]
        """
        self.latest = LatestReadings()
        self._bus = bus
        self._db = db
        self._clock = clock
        self._look_back_s = look_back_s
        self._sample_retention_s = sample_retention_s
        self._delivery_retention_s = delivery_retention_s
        self._devices: frozenset[str] | None = None
        self._tail: Tail | None = None
        self._known = asyncio.Event()
        self._was_ready = False

    @property
    def ready(self) -> bool:
        """Whether the cache has once held what the bus held; what is mapped later fills in behind."""
        self._was_ready = self._was_ready or (self._tail is not None and self._tail.ready)
        return self._was_ready

    async def follow(self, beat: Callable[[], None]) -> None:
        """Read for ever; begins again further back when devices are mapped that were not followed."""
        while True:
            beat()
            self._known.clear()
            if self._devices is None:
                await _wait(self._known, 1.0)
                continue
            since = self._clock.now() - timedelta(seconds=self._look_back_s)
            tail = Tail(
                bus=self._bus,
                clock=self._clock,
                topics=[topics.READINGS],
                start=StartAt(since=since),
                handle=self._take,
            )
            self._tail = tail
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(tail.run(beat), name="export readings tail")
                await self._known.wait()
                reading.cancel()

    async def keep_samples(self, beat: Callable[[], None]) -> None:
        """Write samples, follow the mapping and delete what has been kept long enough; for ever."""
        pruned_at = float("-inf")
        while True:
            beat()
            try:
                await self.refresh()
                await self.flush()
                if self._clock.monotonic() - pruned_at >= PRUNE_S:
                    await self._prune()
                    pruned_at = self._clock.monotonic()
            except Unavailable as exc:
                logger.warning("samples wait for the database", extra={"reason": exc.message})
            await self._clock.sleep(FLUSH_S)

    async def refresh(self) -> None:
        """Follow exactly the devices that are mapped now."""
        async with self._db.read() as conn:
            devices = frozenset(await mapping_store.mapped_devices(conn))
            before = self._devices
            if devices == before:
                return
            new = devices - (before or frozenset())
            now = self._clock.now()
            samples = await sample_store.fetch_samples(conn, new, now - timedelta(seconds=SEED_S), now) if new else []
        self.latest.keep(devices)
        self.latest.seed(samples)
        self._devices = devices
        if before is None or new:
            # What the new devices last reported is on the bus: read it again from there.
            self._known.set()

    async def flush(self) -> None:
        """Write the samples that were taken."""
        samples = self.latest.take_samples()
        if not samples:
            return
        try:
            async with self._db.write() as conn:
                await sample_store.save_samples(conn, samples)
        except Unavailable:
            self.latest.give_back(samples)
            raise

    async def _prune(self) -> None:
        now = self._clock.now()
        async with self._db.write() as conn:
            gone = await keeping_store.prune(
                conn,
                deliveries_before=now - timedelta(seconds=self._delivery_retention_s),
                samples_before=now - timedelta(seconds=self._sample_retention_s),
                states_before=now - timedelta(seconds=STATES_KEPT_S),
                limit=PRUNE_ROWS,
            )
        if gone:
            logger.info("old rows deleted", extra={"rows": gone})

    async def _take(self, batch: Sequence[Received]) -> None:
        for received in batch:
            if received.value is None:
                continue
            device_id, parsed = messages.device_of(received.value)
            if device_id is None or not self.latest.holds(device_id):
                continue
            reading = messages.read_reading(parsed)
            if reading is not None:
                self.latest.observe(reading)


async def _wait(event: asyncio.Event, limit_s: float) -> None:
    try:
        async with asyncio.timeout(limit_s):
            await event.wait()
    except TimeoutError:
        return
