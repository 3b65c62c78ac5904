"""The controlling station: one connection on which stations are interrogated, listened to and commanded.

Clock first, then an interrogation, then again at regular times: what is told in between keeps the picture, the
interrogation mends it. Each station is asked one thing at a time; commands do not wait for the questions.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol
from zoneinfo import ZoneInfo

from libs.common.clock import Clock
from libs.common.clocksync import clock_state
from libs.common.contracts.telemetry import RejectReason
from libs.common.errors import InvalidInput
from libs.common.profiles import Iec60870Control, Iec60870Point, ObjectType
from services.ingest.domain.polling import next_slot, offset_s
from services.ingest.drivers.iec60870.asdu import (
    CLOCK_SYNCHRONISATION,
    COUNTER_INTERROGATION,
    COUNTERS,
    COUNTERS_FREEZE,
    END_OF_INITIALISATION,
    GENERAL_RESET,
    INTERROGATION,
    READ,
    REFUSALS,
    RESET_PROCESS,
    SELECT,
    STATION,
    TIMED,
    Asdu,
    Cause,
    Information,
    Undecodable,
    Widths,
    command_element,
    decode,
    encode,
)
from services.ingest.drivers.iec60870.intake import Intake, Known
from services.ingest.drivers.iec60870.objects import Directory, Place
from services.ingest.drivers.iec60870.times import encode_time
from services.ingest.drivers.port import DeviceRefused, DeviceSilent, LineDown, LineSink

logger = logging.getLogger(__name__)

SILENT_ROUNDS = 2
"""Rounds of questions in a row during which nothing at all came, after which the connection is made anew."""

Question = Callable[[], Awaitable[None]]


class Link(Protocol):
    """What carries ASDUs to and from the stations of a line."""

    async def send(self, asdu: bytes, station: int) -> None:
        """Send an ASDU to a station; on return it is on its way.

        Raises:
            LineDown: The line is gone.
            DeviceSilent: The station does not confirm it; it may have it all the same.
        """

    async def receive(self) -> bytes:
        """Return the next ASDU of any station.

        Raises:
            LineDown: The line is gone.
            Undecodable: What came is none; the next one may be.
        """

    def on_back(self, listener: Callable[[int], None]) -> None:
        """Call ``listener`` with every station that was lost and is there again, on a line that goes on without it."""

    async def close(self) -> None:
        """Disconnect; what was not sent is not sent any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How the stations of a line are spoken to."""

    originator: int = 0
    zone: ZoneInfo
    """What their clocks are set to."""
    use_times: bool = True
    """Believe their time tags."""
    interrogation_s: float = 60.0
    """Between two general interrogations. [s]"""
    counter_interrogation_s: float = 60.0
    """Between two counter interrogations, at whole multiples of the clock. [s]"""
    freeze_counters: bool = False
    """Freeze them, without reset, before each of these."""
    clock_sync_s: float = 3600.0
    """Between two settings of the clock; 0 leaves it alone. [s]"""
    confirm_s: float = 10.0
    """For a confirmation. [s]"""
    cyclic: frozenset[ObjectType] = frozenset()
    """Types that are told in turn and are no part of an interrogation."""
    terminate_s: float = 20.0
    """From a confirmed command to its end; from the last value of an interrogation to its end. [s]"""


@dataclass(slots=True)
class _Station:
    """What goes on with one station."""

    interrogation: "_Shared"
    counters: "_Shared"
    commanding: asyncio.Lock = field(default_factory=asyncio.Lock)
    again: asyncio.Event = field(default_factory=asyncio.Event)
    """It has started anew and is to be asked everything."""
    told_at: float = float("-inf")
    """When its last values came. [s]"""
    clock_due_at: float = float("-inf")


class Master:
    """One connection, from the moment that it stands until it is lost."""

    def __init__(
        self,
        link: Link,
        *,
        widths: Widths,
        directory: Directory,
        sink: LineSink,
        clock: Clock,
        habits: Habits,
    ) -> None:
        self._link = link
        self._widths = widths
        self._directory = directory
        self._sink = sink
        self._clock = clock
        self._habits = habits
        self._intake = Intake(directory=directory, sink=sink, clock=clock, zone=habits.zone, use_times=habits.use_times)
        self._stations: dict[int, _Station] = {}
        self._exchanges: dict[tuple[int, int, int], asyncio.Queue[Asdu | None]] = {}
        self._arrivals: dict[tuple[int, int], asyncio.Event] = {}
        self._heard_at = clock.monotonic()
        self._lost = False
        for station in directory.stations:
            self._station(station)
        link.on_back(self._begin_again)

    async def run(self, *, ask: bool) -> None:
        """Listen until the connection is lost, and ask meanwhile; with ``ask`` false only when told to.

        Raises:
            LineDown: It is lost.
        """
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen(), name="iec60870 listen")
                if ask:
                    for station in sorted(self._directory.stations):
                        group.create_task(self._keep_asking(station), name=f"iec60870 station {station}")
        except ExceptionGroup as exc:
            down, others = exc.split(LineDown)
            if others is not None or down is None:
                raise
            raise _first(down) from exc
        finally:
            self._lost = True
            for answers in self._exchanges.values():
                answers.put_nowait(None)
            for found in self._stations.values():
                await found.interrogation.stop()
                await found.counters.stop()

    # what stations tell

    async def _listen(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._intake.flush_in_s()):
                    data = await self._link.receive()
            except TimeoutError:
                await self._intake.flush()
                continue
            except Undecodable as exc:
                await self._reject(exc.raw, exc)
                continue
            self._heard_at = self._clock.monotonic()
            try:
                asdu = decode(data, self._widths)
            except Undecodable as exc:
                await self._reject(bytes(data), exc)
                continue
            await self._take(asdu)

    async def _reject(self, data: bytes, exc: Undecodable) -> None:
        self._heard_at = self._clock.monotonic()
        type_id = data[0] if data else None
        await self._intake.reject(RejectReason.UNDECODABLE, data, str(exc), once_for=("undecodable", type_id))

    async def _take(self, asdu: Asdu) -> None:
        if asdu.value_type is not None:
            if asdu.common_address in self._stations:
                self._stations[asdu.common_address].told_at = self._clock.monotonic()
            await self._intake.take(asdu)
            for said in asdu.objects:
                arrived = self._arrivals.get((asdu.common_address, said.address))
                if arrived is not None:
                    arrived.set()
            return
        if asdu.type_id == END_OF_INITIALISATION:
            logger.info("station has started anew", extra={"station": asdu.common_address})
            self._begin_again(asdu.common_address)
            return
        if asdu.type_id in (INTERROGATION, COUNTER_INTERROGATION) and asdu.cause == Cause.TERMINATION:
            await self._intake.flush()
        for said in asdu.objects:
            answers = self._exchanges.get((asdu.type_id, asdu.common_address, said.address))
            if answers is not None:
                answers.put_nowait(asdu)
            else:
                # Late, or meant for another master.
                logger.debug("answer that nobody waits for", extra={"type": asdu.type_id, "cause": asdu.cause})

    def _begin_again(self, station: int) -> None:
        """Ask a station everything: what it told before may be old, and what it was asked it has forgotten."""
        for (_, asked, _), answers in self._exchanges.items():
            if asked == station:
                answers.put_nowait(None)
        found = self._stations.get(station)
        if found is not None:
            found.clock_due_at = float("-inf")
            found.again.set()

    # questions

    async def _keep_asking(self, station: int) -> None:
        found = self._station(station)
        counters = self._directory.has_counters(station)
        interrogation_s, counter_s = self._habits.interrogation_s, self._habits.counter_interrogation_s
        offset = offset_s(f"station {station}", interrogation_s)
        interrogate_at = count_at = float("-inf")
        silent = 0
        while True:
            began = self._clock.monotonic()
            found.again.clear()
            await self._set_clock(station, found)
            answered = []
            wall = self._clock.now().timestamp()
            if wall >= interrogate_at:
                answered.append(await self._ask(station, found.interrogation.fresh))
                interrogate_at = next_slot(self._clock.now().timestamp(), interrogation_s, offset)
            if counters and wall >= count_at:
                answered.append(await self._ask(station, found.counters.fresh))
                count_at = next_slot(self._clock.now().timestamp(), counter_s, 0.0)
            silent = silent + 1 if answered and not any(answered) and self._heard_at < began else 0
            if silent >= SILENT_ROUNDS:
                raise LineDown(f"connected, but station {station} does not answer and nothing else is told")
            due = min(interrogate_at, count_at) if counters else interrogate_at
            try:
                async with asyncio.timeout(max(due - self._clock.now().timestamp(), 0.0)):
                    await found.again.wait()
                interrogate_at = count_at = float("-inf")
            except TimeoutError:
                pass

    async def _ask(self, station: int, question: Question) -> bool:
        """Ask, and return whether the station answered."""
        try:
            await question()
        except DeviceSilent as exc:
            self._note_failure(station, "timeout", exc.message)
            return False
        except DeviceRefused as exc:
            self._note_failure(station, exc.code, exc.message)
        return True

    def _note_failure(self, station: int, reason: str, detail: str) -> None:
        logger.info("station does not answer as it should", extra={"station": station, "reason": detail})
        for device_id in self._directory.devices_of(station):
            self._sink.failed(device_id, reason)

    async def _set_clock(self, station: int, found: _Station) -> None:
        """Tell the station the time, when that is due and our own clock is one to go by."""
        now, state = self._clock.monotonic(), clock_state()
        if not self._habits.clock_sync_s or now < found.clock_due_at or (state is not None and not state.synchronised):
            return
        found.clock_due_at = now + self._habits.clock_sync_s
        try:
            await self.synchronise(station)
        except (DeviceSilent, DeviceRefused) as exc:
            logger.info("station does not take the time", extra={"station": station, "reason": exc.message})

    async def synchronise(self, station: int) -> None:
        """Tell a station the time (C_CS_NA_1).

        Raises:
            LineDown: Nothing was sent.
            DeviceSilent: It was sent, and no confirmation came.
            DeviceRefused: The station said no.
        """
        self._check()
        with self._expect(CLOCK_SYNCHRONISATION, station, 0) as answers:
            time = encode_time(self._clock.now(), self._habits.zone)
            await self._send(CLOCK_SYNCHRONISATION, station, Information(0, time))
            await self._confirmed(answers, f"station {station}: clock synchronisation", None)
            self._intake.clock_is_set(station)

    async def restart(self, station: int) -> None:
        """Let a station begin anew (C_RP_NA_1, general reset). Raises as ``synchronise``."""
        self._check()
        async with self._station(station).commanding:
            with self._expect(RESET_PROCESS, station, 0) as answers:
                await self._send(RESET_PROCESS, station, Information(0, GENERAL_RESET))
                await self._confirmed(answers, f"station {station}: reset process", GENERAL_RESET)

    async def _interrogate(self, station: int) -> None:
        with self._expect(INTERROGATION, station, 0) as answers:
            what = f"station {station}: interrogation"
            await self._send(INTERROGATION, station, Information(0, STATION))
            await self._confirmed(answers, what, STATION)
            await self._told_everything(station, answers, what, STATION)

    async def _count(self, station: int) -> None:
        with self._expect(COUNTER_INTERROGATION, station, 0) as answers:
            what = f"station {station}: counter interrogation"
            if self._habits.freeze_counters:
                await self._send(COUNTER_INTERROGATION, station, Information(0, COUNTERS_FREEZE))
                await self._confirmed(answers, f"{what} (freeze)", COUNTERS_FREEZE)
            await self._send(COUNTER_INTERROGATION, station, Information(0, COUNTERS))
            await self._confirmed(answers, what, COUNTERS)
            await self._told_everything(station, answers, what, COUNTERS)

    async def _told_everything(
        self, station: int, answers: "asyncio.Queue[Asdu | None]", what: str, element: bytes
    ) -> None:
        """Wait for the end of an interrogation; a station that tells none has ended when nothing more comes.

        Raises:
            DeviceSilent: Nothing came at all.
        """
        found = self._station(station)
        began = self._clock.monotonic()
        while True:
            left_s = max(found.told_at, began) + self._habits.terminate_s - self._clock.monotonic()
            try:
                answer = await self._answer(answers, left_s, what)
            except DeviceSilent:
                if max(found.told_at, began) + self._habits.terminate_s > self._clock.monotonic():
                    continue  # more has come meanwhile
                if found.told_at < began:
                    raise
                logger.debug("interrogation without an end", extra={"station": station})
                return
            if answer.cause == Cause.TERMINATION and answer.objects[0].element == element:
                return

    async def read(self, place: Place, points: Collection[Iec60870Point], *, single: bool) -> Mapping[str, Known]:
        """Return what a device's objects say now; those that said nothing are absent.

        Args:
            place: Of the device.
            points: Which of its objects.
            single: The station answers the read command.

        Raises:
            LineDown, DeviceSilent, DeviceRefused: Nothing was read.
        """
        self._check()
        began = self._clock.monotonic()
        found = self._station(place.station)
        if single:
            await self._read_each(place, points)
        else:
            cyclic = [point for point in points if point.type in self._habits.cyclic]
            turns = [self._arrival(place, point) for point in cyclic]
            if any(point.type is not ObjectType.COUNTER and point not in cyclic for point in points):
                await found.interrogation.fresh()
            if any(point.type is ObjectType.COUNTER for point in points):
                await found.counters.fresh()
            await self._await_all(turns)
        said = {point.name: self._intake.known(place.station, place.offset + point.object_address) for point in points}
        return {name: known for name, known in said.items() if known is not None and known.monotonic >= began}

    def _arrival(self, place: Place, point: Iec60870Point) -> asyncio.Event:
        """Return what says that an object has been told from now on."""
        arrived = self._arrivals.setdefault((place.station, place.offset + point.object_address), asyncio.Event())
        arrived.clear()
        return arrived

    async def _await_all(self, turns: Collection[asyncio.Event]) -> None:
        """Wait for values that come in their turn, as long as for a confirmation."""
        try:
            async with asyncio.timeout(self._habits.confirm_s):
                for arrived in turns:
                    await arrived.wait()
        except TimeoutError:
            pass

    async def _read_each(self, place: Place, points: Collection[Iec60870Point]) -> None:
        for address in sorted({place.offset + point.object_address for point in points}):
            arrived = self._arrivals.setdefault((place.station, address), asyncio.Event())
            arrived.clear()
            with self._expect(READ, place.station, address) as answers:
                await self._send(READ, place.station, Information(address, b""), cause=Cause.REQUEST)
                refused = asyncio.create_task(
                    self._answer(answers, self._habits.confirm_s, f"station {place.station}: read {address}"),
                    name="iec60870 read",
                )
                told = asyncio.create_task(arrived.wait(), name="iec60870 read")
                try:
                    await asyncio.wait({refused, told}, return_when=asyncio.FIRST_COMPLETED)
                    if not told.done():
                        _raise_if_refused(refused.result(), f"station {place.station}: read {address}")
                finally:
                    for task in (refused, told):
                        task.cancel()
                    await asyncio.wait({refused, told})
                    if not refused.cancelled():
                        refused.exception()

    # commands

    async def command(self, place: Place, control: Iec60870Control, raw: float) -> str:
        """Do a command and return how the station answered.

        Args:
            place: Of the device.
            control: Of its profile.
            raw: Value of the command: 1 or 2 of a double one, 0 or 1 of a single one, or of the set point.

        Raises:
            InvalidInput: The value does not fit the command.
            LineDown: Nothing was sent.
            DeviceSilent: It was sent, and not all of the answers came.
            DeviceRefused: The station said no.
        """
        self._check()
        address = place.offset + control.object_address
        what = f"station {place.station}: {control.name} at {address}"
        try:
            type_id, operate = command_element(control.type, raw, qualifier=control.qualifier, select=False)
            _, select = command_element(control.type, raw, qualifier=control.qualifier, select=True)
        except ValueError as exc:
            raise InvalidInput(f"{what}: {exc}") from exc
        type_id += TIMED if control.timed else 0
        async with self._station(place.station).commanding:
            self._check()
            with self._expect(type_id, place.station, address) as answers:
                if control.select:
                    await self._send(type_id, place.station, self._tagged(control, address, select))
                    await self._confirmed(answers, f"{what}: select", select)
                await self._send(type_id, place.station, self._tagged(control, address, operate))
                await self._confirmed(answers, f"{what}: operate", operate)
                if not control.termination:
                    return "confirmed"
                await self._terminated(answers, what, operate)
                return "confirmed and terminated"

    def _tagged(self, control: Iec60870Control, address: int, element: bytes) -> Information:
        time = encode_time(self._clock.now(), self._habits.zone) if control.timed else b""
        return Information(address, element, time)

    async def _terminated(self, answers: "asyncio.Queue[Asdu | None]", what: str, element: bytes) -> None:
        deadline = self._clock.monotonic() + self._habits.terminate_s
        while True:
            left_s = deadline - self._clock.monotonic()
            answer = await self._answer(answers, left_s, f"{what}: end of the command")
            if answer.cause == Cause.TERMINATION and _without_select(answer.objects[0].element) == element:
                if answer.negative:
                    raise DeviceRefused(f"{what}: ended without success")
                return

    async def _confirmed(self, answers: "asyncio.Queue[Asdu | None]", what: str, element: bytes | None) -> None:
        """Wait for the confirmation of what was sent: the one that repeats ``element``, where that is told.

        Raises:
            DeviceSilent, DeviceRefused: As of the station.
        """
        deadline = self._clock.monotonic() + self._habits.confirm_s
        while True:
            answer = await self._answer(answers, deadline - self._clock.monotonic(), what)
            if element is not None and answer.objects[0].element != element:
                continue  # a late answer to something else
            _raise_if_refused(answer, what)
            if answer.cause == Cause.ACTIVATION_CONFIRMED:
                return

    async def _answer(self, answers: "asyncio.Queue[Asdu | None]", timeout_s: float, what: str) -> Asdu:
        try:
            async with asyncio.timeout(max(timeout_s, 0.0)):
                answer = await answers.get()
        except TimeoutError:
            raise DeviceSilent(f"{what}: no answer in time") from None
        if answer is None:
            raise DeviceSilent(f"{what}: the connection was lost before the answer")
        return answer

    # sending

    @contextmanager
    def _expect(self, type_id: int, station: int, address: int) -> Iterator["asyncio.Queue[Asdu | None]"]:
        """Keep the answers to one question while it is open."""
        key = (type_id, station, address)
        answers: asyncio.Queue[Asdu | None] = asyncio.Queue()
        self._exchanges[key] = answers
        try:
            yield answers
        finally:
            if self._exchanges.get(key) is answers:
                del self._exchanges[key]

    async def _send(self, type_id: int, station: int, said: Information, *, cause: Cause = Cause.ACTIVATION) -> None:
        """Send one ASDU; what cannot go out in time, since the peer acknowledges nothing, must not go out later.

        Raises:
            LineDown: Nothing was sent.
            DeviceSilent: It could not be sent in time; it may still have been. The connection is given up, so that it
                is not sent later.
        """
        self._check()
        asdu = Asdu(type_id, cause, station, (said,), originator=self._habits.originator)
        try:
            async with asyncio.timeout(self._habits.confirm_s):
                await self._link.send(encode(asdu, self._widths), station)
        except TimeoutError:
            await self._link.close()
            raise DeviceSilent(f"station {station}: what is sent is not acknowledged") from None

    def _check(self) -> None:
        if self._lost:
            raise LineDown("the connection was lost")

    def _station(self, station: int) -> _Station:
        found = self._stations.get(station)
        if found is None:
            found = self._stations[station] = _Station(
                interrogation=_Shared(lambda: self._interrogate(station)),
                counters=_Shared(lambda: self._count(station)),
            )
        return found


class _Shared:
    """A question that several may want asked at the same time: who comes while it runs shares the next one."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def fresh(self) -> None:
        """Return once the question has been asked and answered since now; raises what asking raises."""
        if self._next is None:
            self._next = asyncio.create_task(self._after(self._running), name="iec60870 question")
        await asyncio.shield(self._next)

    async def _after(self, before: "asyncio.Task[None] | None") -> None:
        if before is not None:
            await asyncio.wait([before])
        self._running, self._next = self._next, None
        await self._question()

    async def stop(self) -> None:
        """Ask no more."""
        tasks = [task for task in (self._running, self._next) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()


def _without_select(element: bytes) -> bytes:
    """Return a command's element as it operates; lib60870 ends a selected command with the select bit still set."""
    return element[:-1] + bytes([element[-1] & ~SELECT])


def _raise_if_refused(answer: Asdu, what: str) -> None:
    if answer.cause in REFUSALS:
        raise DeviceRefused(f"{what}: {REFUSALS[answer.cause]}")
    if answer.negative:
        raise DeviceRefused(f"{what}: negative confirmation")


def _first(group: BaseExceptionGroup[LineDown]) -> LineDown:
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found
