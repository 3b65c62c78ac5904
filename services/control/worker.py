"""Long-running loops: the scheduler, telling the watchdog, looking at the breakers, the wake-ups' second path."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta

import asyncpg

from libs.common.backoff import Backoff
from libs.common.clock import Clock
from libs.common.clocksync import clock_state
from libs.common.db import Database
from libs.common.errors import Unavailable
from libs.common.garbage import UNDISTURBED_AT_MOST_S, Undisturbed
from libs.common.lease import Lease, LeaseKeeper
from libs.common.runtime import Beat
from services.control import metrics
from services.control.drivers.door import Board, Doors, OnRequest
from services.control.drivers.samples import SampleBoard
from services.control.drivers.watchdog import Watchdog
from services.control.store import commands as store
from services.control.store import leases as lease_store
from services.control.store import loads as load_store
from services.control.store import plans as plan_store
from services.control.usecases.adjusting import Adjusting
from services.control.usecases.auditing import Linker
from services.control.usecases.local import LocalActions
from services.control.usecases.ports import SteadyClock
from services.control.usecases.scheduler import Scheduler
from services.control.usecases.setpointplans import SetpointPlans
from services.control.usecases.waking import Waking

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
"""How often the breakers are looked at while a command is due or in flight. [s]"""
LOCAL_LOOK_EVERY_S = 30.0
"""How often what is off is looked at for somebody on the spot having closed it. [s]"""
LOOK_SHARE = 5
"""With many breakers a look is work for both sides: after one that took some time, so many times that time passes."""
LOOK_BY_NAME = 500
"""Up to so many breakers are looked at by name; for more of them the doors tell of all they have. Of ONs in flight, of
which the lines tell by themselves, no more than these are looked at, the most urgent ones. [1]"""
LOOK_AT_LEAST_EVERY_S = 4.0
"""Well before what was read is too old to be believed. [s]"""
SAMPLES_AHEAD = timedelta(seconds=15)
"""So long before an OFF its plan's conditions are looked into."""
SNAPSHOT_EVERY_S = 60.0
"""How often the watchdog is told everything, in case it lost something. [s]"""
TELL_EVERY_S = 0.5
TELL_BATCH = 2000
LINK_EVERY_S = 1.0
"""How often the audit's chain is made longer. [s]"""
SECOND_PATH_EVERY_S = 1.0
SECOND_PATH_BATCH = 100
UNANSWERED = timedelta(seconds=2)
"""An emergency that is not answered within this goes by the second path as well."""
UNANSWERED_IN_A_FLOOD = timedelta(seconds=25)
"""The same while answers to others come in: ten thousand of them take their time, and asking twice makes it longer. By
then ingest has told what it has taken up, in a flood too."""
ANSWERS_WAIT_S = 6.0
ANSWERS_LOOK_S = 0.05
"""How long answers wait while wake-ups are being sent, and how often they look whether they still must. [s]"""
LAST_RESORT_S = 600.0
"""How long a wake-up that nothing but memory knows of is tried. [s]"""

TRANSIENT = (Unavailable, asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.QueryCanceledError)
"""The next tick may succeed."""


class KernelClock:
    """Whether the kernel calls its clock synchronised."""

    def problem(self) -> str | None:
        """Return why the clock may not be trusted; None when it may."""
        state = clock_state()
        if state is None:
            return "the kernel does not tell whether the clock is synchronised"
        if not state.synchronised:
            return "the kernel says that the clock is not synchronised"
        return None


class Singleton:
    """A loop that one replica runs at a time, under a lease; the others stand by."""

    def __init__(self, *, db: Database, clock: Clock, owner: str, name: str, ttl_s: float) -> None:
        self._keeper = LeaseKeeper(db, clock, owner, ttl_s)
        self._clock = clock
        self._name = name
        self._ttl_s = ttl_s
        self.lease: Lease | None = None

    async def run(
        self,
        beat: Beat,
        *,
        started: Callable[[Lease], Awaitable[None]],
        turn: Callable[[Lease], Awaitable[bool]],
        every_s: float,
        wake: asyncio.Event | None = None,
    ) -> None:
        """Call ``started`` when the lease is taken and ``turn`` again and again, at once while it returns True."""
        backoff = Backoff(first_s=0.1, cap_s=2.0)
        try:
            while True:
                beat()
                busy = False
                try:
                    if await self._hold(started) and self.lease is not None:
                        busy = await turn(self.lease)
                except TRANSIENT as exc:
                    if backoff.first:
                        logger.warning("waits", extra={"worker": self._name, "reason": str(exc)})
                    await self._clock.sleep(backoff.next_s())
                    continue
                backoff.reset()
                if not busy:
                    await self._pause(every_s, wake)
        finally:
            await self._let_go()

    async def _pause(self, every_s: float, wake: asyncio.Event | None) -> None:
        if wake is None:
            await self._clock.sleep(every_s)
            return
        try:
            async with asyncio.timeout(every_s):
                await wake.wait()
        except TimeoutError:
            return
        finally:
            wake.clear()

    async def _hold(self, started: Callable[[Lease], Awaitable[None]]) -> bool:
        lease = self.lease
        if lease is not None and lease.valid_for_s() > self._ttl_s / 2:
            return True
        renewed = None if lease is None else await self._keeper.renew(lease)
        if renewed is not None:
            self.lease = renewed
            return True
        self.lease = None
        taken = await self._keeper.acquire(self._name)
        if taken is None:
            return False
        await started(taken)
        self.lease = taken
        return True

    async def _let_go(self) -> None:
        if self.lease is None:
            return
        try:
            async with asyncio.timeout(1.0):
                await self._keeper.release(self.lease)
        except (Unavailable, TimeoutError):
            logger.debug("lease left to run out", extra={"worker": self._name})


class AdjustLoop:
    """Sends what is to be set inside devices, and what plans set there, while this replica holds its lease."""

    def __init__(
        self, adjusting: Adjusting, plans: SetpointPlans, singleton: Singleton, *, tick_s: float, wake: asyncio.Event
    ) -> None:
        self._adjusting = adjusting
        self._plans = plans
        self._singleton = singleton
        self._tick_s = tick_s
        self._wake = wake

    async def run(self, beat: Beat) -> None:
        """Tick until cancelled."""
        await self._singleton.run(beat, started=self._start, turn=self._turn, every_s=self._tick_s, wake=self._wake)

    async def _start(self, lease: Lease) -> None:
        """Nothing is to be recovered: what is due is in the database."""

    async def _turn(self, lease: Lease) -> bool:
        more = await self._plans.tick()
        return await self._adjusting.tick() or more


class AuditLoop:
    """Makes the audit's chain, while this replica holds its lease; what was done many times at once waits a little."""

    def __init__(self, linker: Linker, singleton: Singleton, *, waits: Callable[[], bool]) -> None:
        self._linker = linker
        self._singleton = singleton
        self._waits = waits

    async def run(self, beat: Beat) -> None:
        """Link until cancelled."""
        await self._singleton.run(beat, started=self._start, turn=self._turn, every_s=LINK_EVERY_S)

    async def _start(self, lease: Lease) -> None:
        """Nothing is to be recovered: what waits is in the database."""

    async def _turn(self, lease: Lease) -> bool:
        return not self._waits() and await self._linker.turn()


class SchedulerLoop:
    """Ticks the scheduler while this replica holds its lease."""

    def __init__(
        self, scheduler: Scheduler, singleton: Singleton, *, undisturbed: Undisturbed, tick_s: float,
        committed: Callable[[], None], wake: asyncio.Event,
    ) -> None:  # fmt: skip
        self._scheduler = scheduler
        self._undisturbed = undisturbed
        self._singleton = singleton
        self._tick_s = tick_s
        self._committed = committed
        self.wake = wake

    async def run(self, beat: Beat) -> None:
        """Run for ever."""
        await self._singleton.run(beat, started=self._started, turn=self._turn, every_s=self._tick_s, wake=self.wake)

    async def _started(self, _: Lease) -> None:
        await self._scheduler.recover()

    async def _turn(self, _: Lease) -> bool:
        busy = await self._scheduler.tick()
        if busy:
            self._undisturbed.for_s(UNDISTURBED_AT_MOST_S)
        self._committed()
        return busy


class WakeUpsFirst:
    """Keeps answers waiting while wake-ups are being sent: an ON that has not left us is more urgent than any answer.

    Of a hundred thousand wake-ups the first are answered long before the last is sent, so the answers do not wait for
    all of them.
    """

    def __init__(self, *, clock: Clock, waking: Waking, heard: Callable[[], None]) -> None:
        """Prepare; ``heard`` is called when there are answers."""
        self._clock = clock
        self._waking = waking
        self._heard = heard

    async def wait(self) -> None:
        """Return when no wake-up of an order is left to be sent, at the latest after ``ANSWERS_WAIT_S``."""
        self._heard()
        until = self._clock.monotonic() + ANSWERS_WAIT_S
        while self._waking.is_sending and self._clock.monotonic() < until:
            await self._clock.sleep(ANSWERS_LOOK_S)
            self._heard()


class StandByWaking:
    """Carries out wake-up orders beside whoever schedules.

    That may be another replica, of a former release even, which does not know of orders that have no commands yet.
    While the scheduler of this process is sending, two at a time do it here: the one decides and signs while the
    database stores what the other has decided.
    """

    def __init__(
        self, *, clock: Clock, steady: SteadyClock, waking: Waking, schedules: Singleton, tick_s: float,
        committed: Callable[[], None],
    ) -> None:  # fmt: skip
        self._clock = clock
        self._steady = steady
        self._waking = waking
        self._schedules = schedules
        self._tick_s = tick_s
        self._committed = committed

    async def run(self, beat: Beat) -> None:
        """Run for ever."""
        while True:
            beat()
            busy = False
            try:
                if self._schedules.lease is None or self._waking.is_sending:
                    busy = await self._waking.turn(self._steady.now())
                    self._committed()
            except TRANSIENT as exc:
                logger.debug("wake-ups wait", extra={"reason": str(exc)})
            if not busy:
                await self._clock.sleep(self._tick_s)


class LeasePusher:
    """Tells the watchdog every change of the OFF leases, and all of them now and then."""

    def __init__(
        self, *, db: Database, clock: Clock, steady: SteadyClock, watchdog: Watchdog, singleton: Singleton,
        wake_scheduler: asyncio.Event,
    ) -> None:  # fmt: skip
        self._db = db
        self._clock = clock
        self._steady = steady
        self._watchdog = watchdog
        self._singleton = singleton
        self._wake_scheduler = wake_scheduler
        self._told_all_at = float("-inf")

    async def run(self, beat: Beat) -> None:
        """Run for ever."""
        await self._singleton.run(beat, started=self._started, turn=self.turn, every_s=TELL_EVERY_S)

    async def _started(self, _: Lease) -> None:
        self._told_all_at = float("-inf")

    async def turn(self, lease: Lease) -> bool:
        """Tell what is new; returns whether there may be more."""
        complete = self._clock.monotonic() - self._told_all_at > SNAPSHOT_EVERY_S
        async with self._db.read() as conn:
            untold = await lease_store.untold_leases(conn, TELL_BATCH)
            if not untold and not complete:
                return False
            leases = (
                await lease_store.open_leases(conn) if complete else [one for one in untold if one.closed_at is None]
            )
            released = await load_store.released_trips(conn)
        ended = [one.command_id for one in untold if one.closed_at is not None]
        await self._watchdog.tell(
            epoch=lease.epoch, complete=complete, leases=leases, ended=ended, released_trips=released,
            now=self._steady.now(),
        )  # fmt: skip
        told = {one.command_id: one for one in (*untold, *leases)}
        async with self._db.write() as write:
            await lease_store.mark_told(write, list(told.values()))
        if complete:
            self._told_all_at = self._clock.monotonic()
            metrics.OPEN_LEASES.set(len(leases))
        metrics.UNTOLD_LEASES.set(0 if len(untold) < TELL_BATCH else TELL_BATCH)
        # An OFF may be waiting for exactly this.
        self._wake_scheduler.set()
        return len(untold) == TELL_BATCH


class LookLoop:
    """Keeps the board fresh while commands are due or in flight, and looks now and then at what is off."""

    def __init__(
        self, *, db: Database, clock: Clock, steady: SteadyClock, board: Board, scheduler: Scheduler,
        schedules: Singleton, local: LocalActions, wake_scheduler: asyncio.Event,
    ) -> None:  # fmt: skip
        self._db = db
        self._clock = clock
        self._steady = steady
        self._board = board
        self._scheduler = scheduler
        self._schedules = schedules
        self._local = local
        self._wake_scheduler = wake_scheduler
        self._local_at = float("-inf")

    async def run(self, beat: Beat) -> None:
        """Run for ever."""
        while True:
            beat()
            took_s = 0.0
            try:
                async with self._db.read() as conn:
                    wanted = await store.looked_for(conn, self._steady.now(), LOOK_BY_NAME)
                if wanted:
                    began = self._clock.monotonic()
                    named = set(wanted) if len(wanted) <= LOOK_BY_NAME else None
                    await self._board.refresh(LOOK_EVERY_S / 2, named)
                    took_s = self._clock.monotonic() - began
                if self._schedules.lease is None:
                    # Whoever stands by follows the clock too, for its API and for the day when it takes over.
                    await self._scheduler.believe_clock(self._steady.now())
                elif self._clock.monotonic() - self._local_at >= LOCAL_LOOK_EVERY_S:
                    await self._look_for_local()
            except TRANSIENT as exc:
                logger.debug("no look", extra={"reason": str(exc)})
            await self._clock.sleep(min(max(LOOK_EVERY_S, LOOK_SHARE * took_s), LOOK_AT_LEAST_EVERY_S))

    async def _look_for_local(self) -> None:
        self._local_at = self._clock.monotonic()
        if not await self._local.has_leases():
            return
        await self._board.refresh(LOOK_EVERY_S / 2)
        if await self._local.look():
            self._wake_scheduler.set()


class SampleLoop:
    """Fetches what conditions of plans compare, for the loads that are about to go off; slow answers delay no look."""

    def __init__(self, *, db: Database, clock: Clock, steady: SteadyClock, samples: SampleBoard) -> None:
        self._db = db
        self._clock = clock
        self._steady = steady
        self._samples = samples

    async def run(self, beat: Beat) -> None:
        """Run for ever."""
        while True:
            beat()
            try:
                async with self._db.read() as conn:
                    asked = await plan_store.fetch_asked(conn, self._steady.now() + SAMPLES_AHEAD)
                await self._samples.refresh({load_id: found.measured for load_id, found in asked.items()})
            except Unavailable as exc:
                logger.debug("no samples", extra={"reason": exc.message})
            await self._clock.sleep(LOOK_EVERY_S)


class LastResort:
    """Wakes by the direct doors alone what was ordered while the database was away; it lives in memory."""

    def __init__(self, *, clock: Clock, doors: Doors) -> None:
        self._clock = clock
        self._doors = doors
        self._waiting: list[tuple[float, OnRequest]] = []
        self._wake = asyncio.Event()

    def take(self, requests: Sequence[OnRequest]) -> None:
        """Take wake-ups over; returns at once."""
        until = self._clock.monotonic() + LAST_RESORT_S
        self._waiting += [(until, request) for request in requests]
        self._wake.set()

    async def run(self, beat: Beat) -> None:
        """Run for ever."""
        backoff = Backoff(first_s=1.0, cap_s=10.0)
        while True:
            beat()
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._wake.wait()
            except TimeoutError:
                continue
            self._wake.clear()
            while self._waiting:
                beat()
                if await self._turn():
                    await self._clock.sleep(backoff.next_s())
                else:
                    backoff.reset()

    async def _turn(self) -> bool:
        """Try the first of what waits; returns whether some failed."""
        now = self._clock.monotonic()
        batch, self._waiting = self._waiting[:SECOND_PATH_BATCH], self._waiting[SECOND_PATH_BATCH:]
        failed = set(await self._doors.on_many([request for _, request in batch]))
        again = [(until, request) for until, request in batch if request.load_id in failed and until > now]
        for until, request in batch:
            if request.load_id in failed and until <= now:
                logger.error("wake-up given up; the watchdog goes on", extra={"load_id": request.load_id})
        self._waiting += again
        return bool(failed)


class SecondPath:
    """Sends wake-ups that the bus did not carry through by the direct door as well.

    The door executes and reads back; what it did is seen on the board or in the results, so that its answer is
    only logged. An ON that arrives by both ways closes a closed breaker.
    """

    def __init__(
        self, *, db: Database, steady: SteadyClock, doors: Doors, singleton: Singleton,
        answers_come: Callable[[], bool],
    ) -> None:  # fmt: skip
        """Prepare; ``answers_come`` says whether the lines have answered anything within the last seconds."""
        self._db = db
        self._steady = steady
        self._doors = doors
        self._singleton = singleton
        self._answers_come = answers_come
        self._tried: set[str] = set()

    async def run(self, beat: Beat) -> None:
        """Run for ever."""
        await self._singleton.run(beat, started=self._started, turn=self._turn, every_s=SECOND_PATH_EVERY_S)

    async def _started(self, _: Lease) -> None:
        self._tried.clear()

    async def _turn(self, _: Lease) -> bool:
        async with self._db.read() as conn:
            stuck = await store.stuck_wake_ups(conn, self._unanswered_since(), SECOND_PATH_BATCH)
            released = await load_store.released_trips(conn, {command.load_id for command in stuck})
        self._tried &= {command.wire_id for command in stuck}
        todo = [command for command in stuck if command.wire_id not in self._tried]
        self._tried |= {command.wire_id for command in todo}
        await self._doors.on_many(
            [
                OnRequest(
                    load_id=command.load_id, device_id=command.device_id, channel=command.channel,
                    reason=f"control: {command.reason or 'wake-up'}", request_id=command.wire_id,
                    released_trip=released.get(command.load_id),
                )
                for command in todo
            ]
        )  # fmt: skip
        return False

    def _unanswered_since(self) -> datetime:
        return self._steady.now() - (UNANSWERED_IN_A_FLOOD if self._answers_come() else UNANSWERED)
