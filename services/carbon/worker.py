"""The loops of carbon: booking what arrives, and recomputing what the registry changed."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from libs.common import metrics
from libs.common.bus import outbox
from libs.common.bus.outbox import OutboxRelay
from libs.common.bus.port import Received
from libs.common.clock import Clock
from libs.common.db import Database, WriteConn
from libs.common.errors import Unavailable
from libs.common.ids import CircuitId, SiteId
from libs.common.runtime import wait_beating
from services.carbon.bus import finding_messages, interval_messages, reports, switchings
from services.carbon.directory import MediumDirectory, RegistryDirectory
from services.carbon.domain.booking import INTERVAL_POINT, BookedInterval, RegisterReading
from services.carbon.domain.media import MEDIA, MediumPoint
from services.carbon.domain.registers import Finding
from services.carbon.domain.samples import Earliest
from services.carbon.store import intervals as store
from services.carbon.store import levels as levels_store
from services.carbon.store import switchings as switchings_store
from services.carbon.store.media import MediumBooks
from services.carbon.usecases.intervals import Booking
from services.carbon.usecases.pushed import PushedIntervals
from services.carbon.usecases.targets import Targets

logger = logging.getLogger(__name__)

BEAT_S = 5.0
"""So often a loop that has long pauses says that it lives. [s]"""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""A circuit without intervals is checked from the first register on."""

BOOKED = metrics.counter("carbon_intervals_booked_total", "Versions of intervals booked", ("grade",))
REGISTERS = metrics.counter("carbon_registers_total", "Registers taken")
SWITCHINGS = metrics.counter("carbon_switchings_total", "Proved switchings taken, those told twice counted twice")


class OutboxPublisher:
    """Publishes by the outbox, so that what is booked and what is said never differ."""

    def __init__(self, medium: MediumPoint | None = None) -> None:
        self._medium = medium

    async def intervals(self, conn: WriteConn, booked: Sequence[BookedInterval]) -> None:
        """Publish versions of intervals."""
        for grade, count in Counter(one.grade for one in booked).items():
            BOOKED.labels(grade.flag).inc(count)
        await outbox.put(conn, interval_messages(booked, self._medium))

    async def findings(
        self, conn: WriteConn, site: SiteId, circuit: CircuitId, findings: Sequence[Finding], now: datetime
    ) -> None:
        """Publish findings that a person has to look at."""
        await outbox.put(conn, finding_messages(site, circuit, findings, now, self._medium))


class BookingHandler:
    """Effects of readings: see ``consumer.EffectHandler``."""

    def __init__(self, bookings: Sequence[Booking], pushed: PushedIntervals, relay: OutboxRelay) -> None:
        self._bookings = {point: one for one in bookings for point in one.points}
        self._pushed = pushed
        self._relay = relay
        self._earliest = Earliest()

    async def load(self, conn: WriteConn, partitions: frozenset[int]) -> None:
        """Nothing is kept between batches but what the database gives again."""
        self.drop(partitions)

    def drop(self, partitions: frozenset[int]) -> None:
        """Forget what was remembered of devices."""
        for booking in {*self._bookings.values()}:
            booking.forget()
        self._earliest.forget()

    async def handle(self, conn: WriteConn, batch: Sequence[Received]) -> None:
        """Book a batch."""
        readings, samples = reports(batch)
        of: dict[Booking, list[RegisterReading]] = {}
        for one in readings:
            of.setdefault(self._bookings[one.point], []).append(one)
        for booking, found in of.items():
            await booking.take(conn, found)
        if told := [one for one in readings if one.point == INTERVAL_POINT]:
            await self._pushed.take(conn, told)
        if samples and (picked := self._earliest.pick(samples)):
            await levels_store.add_samples(conn, picked)
        REGISTERS.inc(len(readings))

    def committed(self) -> None:
        """Let the relay publish at once."""
        self._relay.wake()


class SwitchingsHandler:
    """Effects of control's events: what they prove is kept; see ``consumer.EffectHandler``."""

    async def load(self, conn: WriteConn, partitions: frozenset[int]) -> None:
        """Nothing is kept in memory."""

    def drop(self, partitions: frozenset[int]) -> None:
        """Nothing is kept in memory."""

    async def handle(self, conn: WriteConn, batch: Sequence[Received]) -> None:
        """Keep what a batch proves."""
        proved = switchings(batch)
        if proved:
            await switchings_store.add_switchings(conn, proved)
            SWITCHINGS.inc(len(proved))

    def committed(self) -> None:
        """Nobody waits for it."""


class Recomputation:
    """Recomputes circuits when the registry says something new about them, and all of them once at the start.

    A reading may arrive before its meter is bound to a circuit, and a binding, a ratio or a rated power
    may be corrected long after; the books follow.
    """

    def __init__(
        self, *, db: Database, directory: RegistryDirectory, bookings: Sequence[Booking], relay: OutboxRelay,
        clock: Clock, poll_s: float,
    ) -> None:  # fmt: skip
        self._db = db
        self._directory = directory
        self._bookings = bookings
        self._relay = relay
        self._clock = clock
        self._poll_s = poll_s

    async def run(self, beat: Callable[[], None]) -> None:
        """Work off what the registry changes; never returns."""
        await wait_beating(self._directory.ready, beat)
        checked = False
        while True:
            beat()
            try:
                if not checked:
                    await self._mark_all()
                    checked = True
                await self._mark_changed()
                while await self._recompute_one():
                    beat()
            except Unavailable as exc:
                logger.warning("recomputation waits", extra={"reason": exc.message})
            await self._clock.sleep(self._poll_s)

    async def _mark_all(self) -> None:
        async with self._db.write() as conn:
            starts = await store.fetch_last_starts(conn)
            await store.mark_dirty(
                conn, {circuit: starts.get(circuit, EPOCH) for circuit in self._directory.circuits()}
            )

    async def _mark_changed(self) -> None:
        changed = self._directory.take_changed()
        if not changed:
            return
        try:
            async with self._db.write() as conn:
                await store.mark_dirty(conn, changed)
        except Unavailable:
            self._directory.put_back(changed)
            raise

    async def _recompute_one(self) -> bool:
        async with self._db.write() as conn:
            taken = await store.take_dirty(conn)
            if taken is None:
                return False
            circuit, since = taken
            devices = list({one.device_id for one in self._directory.bindings_of(circuit)})
            points = await store.fetch_points(conn, devices, [point for one in self._bookings for point in one.points])
            booked = 0
            for booking in self._bookings:
                if not points.isdisjoint(booking.points):
                    booked += await booking.recompute(conn, circuit, since)
        if booked:
            self._relay.wake()
        await asyncio.sleep(0)
        return True


class TargetWatch:
    """Holds the running targets against the books again and again, and publishes what is news."""

    def __init__(
        self, *, targets: Targets, directory: RegistryDirectory, relay: OutboxRelay, clock: Clock, poll_s: float
    ) -> None:
        self._targets = targets
        self._directory = directory
        self._relay = relay
        self._clock = clock
        self._poll_s = poll_s

    async def run(self, beat: Callable[[], None]) -> None:
        """Watch; never returns."""
        await wait_beating(self._directory.ready, beat)
        due = self._clock.monotonic()
        while True:
            beat()
            if self._clock.monotonic() >= due:
                try:
                    if await self._targets.publish_due(beat):
                        self._relay.wake()
                except Unavailable as exc:
                    logger.warning("targets wait", extra={"reason": exc.message})
                due = self._clock.monotonic() + self._poll_s
            await self._clock.sleep(min(self._poll_s, BEAT_S))


def build_pushed(directory: RegistryDirectory, clock: Clock) -> PushedIntervals:
    """Return what holds the intervals that meters form themselves against their registers."""
    return PushedIntervals(directory=directory, books=store, publisher=OutboxPublisher(), clock=clock)


def build_bookings(directory: RegistryDirectory, clock: Clock, *, point: str) -> list[Booking]:
    """Return the bookings of energy and of every other medium.

    Args:
        directory: The registry.
        clock: When versions are computed.
        point: The register of energy.
    """
    return [
        Booking(directory=directory, books=store, publisher=OutboxPublisher(), clock=clock, point=point),
        *(
            Booking(
                directory=MediumDirectory(directory, one.point),
                books=MediumBooks(one.point),
                publisher=OutboxPublisher(one),
                clock=clock,
                point=one.point,
            )
            for one in MEDIA.values()
        ),
    ]
