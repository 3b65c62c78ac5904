"""Booking: registers in, intervals out, in one transaction with the position on the bus.

What a batch changes is computed together: a handful of statements for all of its circuits, however many they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate as accumulated
from typing import Protocol

import numpy as np

from libs.common.clock import Clock
from libs.common.db import WriteConn
from libs.common.ids import CircuitId, DeviceId, SiteId
from services.carbon.domain.batches import CurrentTable, Plain, RegisterTable, settle_plain
from services.carbon.domain.booking import (
    ENERGY_POINT,
    INTERVAL_POINT,
    POWER_POINT,
    Binding,
    BookedInterval,
    Change,
    CircuitFinding,
    CircuitSpan,
    Current,
    RegisterReading,
    Registers,
    Span,
    Told,
    Window,
    changes,
    floor,
    last_boundary,
    series_of,
    uncertain_times,
    usable,
)
from services.carbon.domain.intervals import STEP_S, Grade, Intervals, align, long_gaps
from services.carbon.domain.registers import Cumulative, Finding, FindingKind, accumulate
from services.carbon.domain.shape import DAY_S, LOOK_BACK_DAYS, Shape, usual_shape

REPORTED = frozenset({FindingKind.UNEXPLAINED_DECREASE, FindingKind.IMPOSSIBLE_JUMP})
"""Findings that a person has to look at; the others have a defined answer and are on record."""
NEWS = timedelta(days=1)
"""A finding at a register that is older is history."""


class Directory(Protocol):
    """What booking needs to know of the registry."""

    def circuits_of(self, device: DeviceId) -> Sequence[CircuitId]:
        """Return the circuits that the device measures or has measured."""

    def bindings_of(self, circuit: CircuitId) -> Sequence[Binding]:
        """Return the circuit's meters in the order in which they served."""

    def stands_in(self, device: DeviceId) -> Told | None:
        """Return what of a device without a register that could be booked is booked in its place, else None."""

    def site_of(self, circuit: CircuitId) -> SiteId | None:
        """Return the circuit's site, None for a circuit that is not known (any more)."""

    def rated_kw(self, circuit: CircuitId) -> float | None:
        """Return the circuit's rated power. [kW]"""


class Books(Protocol):
    """Where registers and intervals are kept (``store.intervals``, ``store.media``)."""

    async def add_registers(
        self, conn: WriteConn, readings: Sequence[RegisterReading]
    ) -> list[tuple[DeviceId, datetime]]:
        """Store registers; return (device, source time) of those that are new or were received later than another."""

    async def fetch_last_times(self, conn: WriteConn, points: Mapping[DeviceId, str]) -> dict[DeviceId, datetime]:
        """Return the newest time of each device that has registers of its point."""

    async def fetch_reach(self, conn: WriteConn, windows: Sequence[Window]) -> list[tuple[datetime, datetime | None]]:
        """Return how far the registers of each window can change anything: (from a register, to a register)."""

    async def fetch_registers_of(self, conn: WriteConn, spans: Sequence[Span]) -> RegisterTable:
        """Return the registers of each span."""

    async def mark_set_aside(
        self, conn: WriteConn, marks: Sequence[tuple[DeviceId, datetime, bool]], point: str
    ) -> None:
        """Record which registers the correction sets aside now, and which it uses again."""

    async def lock_circuits(self, conn: WriteConn, circuits: Sequence[CircuitId]) -> None:
        """Keep other recomputations of circuits out until the transaction ends."""

    async def fetch_current_of(self, conn: WriteConn, spans: Sequence[CircuitSpan]) -> CurrentTable:
        """Return the intervals that hold, of each span."""

    async def book(self, conn: WriteConn, intervals: Sequence[BookedInterval]) -> None:
        """Add versions of intervals."""

    async def add_findings(
        self, conn: WriteConn, findings: Sequence[CircuitFinding], found_at: datetime
    ) -> set[tuple[CircuitId, datetime, FindingKind]]:
        """Store findings that are not there yet; return the keys of the new ones."""


class Publisher(Protocol):
    """How what was booked becomes known, in the same transaction (``bus.py``)."""

    async def intervals(self, conn: WriteConn, booked: Sequence[BookedInterval]) -> None:
        """Publish versions of intervals."""

    async def findings(
        self, conn: WriteConn, site: SiteId, circuit: CircuitId, findings: Sequence[Finding], now: datetime
    ) -> None:
        """Publish findings that a person has to look at."""


@dataclass(frozen=True, slots=True)
class _Work:
    """One circuit to recompute."""

    circuit: CircuitId
    site: SiteId
    bindings: Sequence[Binding]
    start: datetime
    """Boundary from which intervals may come out differently."""
    end: datetime | None
    """A trusted register from which on nothing changes; None reads to the last one."""
    until: datetime | None
    """The last register that is new or different."""


class Booking:
    """Keeps the books of a set of devices, of one register point.

    The newest register time of each device is remembered, so that the many registers that close no
    interval cost one insert and nothing else.
    """

    def __init__(self, *, directory: Directory, books: Books, publisher: Publisher, clock: Clock, point: str) -> None:
        self._directory = directory
        self._books = books
        self._publisher = publisher
        self._clock = clock
        self._point = point
        self._newest: dict[DeviceId, datetime] = {}

    @property
    def point(self) -> str:
        """The register that is booked."""
        return self._point

    @property
    def points(self) -> tuple[str, ...]:
        """Of what readings are taken: the register, and where a meter may have none, its power."""
        return (self._point, INTERVAL_POINT, POWER_POINT) if self._point == ENERGY_POINT else (self._point,)

    def forget(self) -> None:
        """Drop what is remembered; the database has the truth."""
        self._newest.clear()

    async def take(self, conn: WriteConn, readings: Sequence[RegisterReading]) -> None:
        """Store registers and book the intervals that they close or change."""
        readings = [ours for one in usable(readings) if (ours := self._booked(one)) is not None]
        if not readings:
            return
        devices = {one.device_id: one.point for one in readings}
        before = {device: self._newest[device] for device in devices if device in self._newest}
        unknown = {device: point for device, point in devices.items() if device not in before}
        if unknown:
            before |= await self._books.fetch_last_times(conn, unknown)
        spans = {device: (newest, floor(newest) + timedelta(seconds=STEP_S)) for device, newest in before.items()}
        told: dict[DeviceId, list[datetime]] = {}
        latest = dict(before)
        for device, at in await self._books.add_registers(conn, readings):
            span = spans.get(device)
            if span is None or not span[0] < at < span[1]:
                told.setdefault(device, []).append(at)
            elif at > latest[device]:
                latest[device] = at  # within the running interval, in order: nothing to book yet
        by_circuit: dict[CircuitId, Change] = {}
        for device, times in told.items():
            last = max(times)
            latest[device] = max(latest.get(device, last), last)
            first = min(times)
            change = Change(floor(min(first, before.get(device, first))), last)
            for circuit in self._directory.circuits_of(device):
                by_circuit[circuit] = by_circuit[circuit].with_(change) if circuit in by_circuit else change
        self._newest |= latest
        await self._recompute(conn, by_circuit)

    def _booked(self, one: RegisterReading) -> RegisterReading | None:
        """Return a reading as it is kept, or None: what stands in for a register counts of a meter without one."""
        if one.point == self._point:
            return one
        told = self._directory.stands_in(one.device_id)
        return None if told is None or told.point != one.point else told.moved(one)

    async def recompute(self, conn: WriteConn, circuit: CircuitId, since: datetime) -> int:
        """Compute a circuit's intervals from a time on and book what differs; return how many versions."""
        return await self._recompute(conn, {circuit: Change(since, None)})

    async def _recompute(self, conn: WriteConn, changed: Mapping[CircuitId, Change]) -> int:
        """Compute what changes of circuits may have changed and book what differs; return how many versions."""
        places = [
            (circuit, site, bindings)
            for circuit in sorted(changed)
            if (site := self._directory.site_of(circuit)) is not None
            and (bindings := self._directory.bindings_of(circuit))
        ]
        if not places:
            return 0
        await self._books.lock_circuits(conn, [circuit for circuit, _, _ in places])
        windows = [_window(bindings, changed[circuit]) for circuit, _, bindings in places]
        reach = await self._books.fetch_reach(conn, windows)
        works = [
            _Work(circuit, site, bindings, floor(first), last, changed[circuit].until)
            for (circuit, site, bindings), (first, last) in zip(places, reach, strict=True)
        ]
        return await self._settle(conn, works)

    async def _settle(self, conn: WriteConn, works: Sequence[_Work]) -> int:
        served = [[one for one in work.bindings if one.serves_in(work.start, work.end)] for work in works]
        spans = [
            Span(one.device_id, max(work.start, one.valid_from), _earlier(one.valid_to, work.end), one.point)
            for work, bindings in zip(works, served, strict=True)
            for one in bindings
        ]
        loaded = await self._books.fetch_registers_of(conn, spans)
        current = await self._books.fetch_current_of(
            conn,
            [CircuitSpan(work.circuit, work.start, None if work.end is None else floor(work.end)) for work in works],
        )
        now = self._clock.now()
        begins = list(accumulated((len(bindings) for bindings in served), initial=0))
        settled, booked = settle_plain(self._plain(works, served, begins), loaded, current, now)
        marks: list[tuple[DeviceId, datetime, bool]] = []
        findings: list[CircuitFinding] = []
        again: list[_Work] = []
        for place, (work, bindings) in enumerate(zip(works, served, strict=True)):
            if place in settled:
                continue
            registers = [(one, loaded[begins[place] + i]) for i, one in enumerate(bindings)]
            rated_kw = self._directory.rated_kw(work.circuit)
            cumulative = accumulate([part for one, rows in registers for part in series_of(one, rows, rated_kw)])
            turned = [mark for one, rows in registers if one.has_register for mark in _marks(one, rows, cumulative)]
            if not _is_settled(work, cumulative, turned):
                again.append(_Work(work.circuit, work.site, work.bindings, work.start, None, None))
                continue
            booked += await self._changes(conn, work, cumulative, registers, current[place], now)
            findings += [CircuitFinding(work.circuit, one) for one in dict.fromkeys(cumulative.findings)]
            marks += turned
        if booked:
            await self._books.book(conn, booked)
            await self._publisher.intervals(conn, booked)
        if marks:
            await self._books.mark_set_aside(conn, marks, self._point)
        if findings:
            await self._note(conn, findings, {work.circuit: work.site for work in works}, now)
        return len(booked) + (await self._settle(conn, again) if again else 0)

    def _plain(self, works: Sequence[_Work], served: Sequence[Sequence[Binding]], begins: Sequence[int]) -> list[Plain]:
        """Return the circuits that one meter served, which is nearly all of them."""
        return [
            Plain(
                work=place,
                span=begins[place],
                circuit_id=work.circuit,
                site_id=work.site,
                binding=bindings[0],
                rated_kw=self._directory.rated_kw(work.circuit),
                start=work.start.timestamp(),
                end=None if work.end is None else work.end.timestamp(),
            )
            for place, (work, bindings) in enumerate(zip(works, served, strict=True))
            if len(bindings) == 1
        ]

    async def _changes(
        self,
        conn: WriteConn,
        work: _Work,
        cumulative: Cumulative,
        registers: Sequence[tuple[Binding, Registers]],
        held: Current,
        now: datetime,
    ) -> list[BookedInterval]:
        """Return the versions to book of one circuit."""
        # What was booked where no register counts any more has to be looked at too, on either side.
        begins, ends = held.start[:1].tolist(), (held.start[-1:] + STEP_S).tolist()
        if cumulative.at.size:
            begins.append(cumulative.at[0] // STEP_S * STEP_S)
        reached = last_boundary(cumulative)
        if reached is not None:
            ends.append(reached)
        if not begins or not ends:
            return []
        first = max(min(begins), work.start.timestamp())
        last = max(ends) if work.end is None else floor(work.end).timestamp()
        computed = align(cumulative, first=first, last=last)
        gaps = long_gaps(cumulative, first=first, last=last)
        if gaps and computed.start.size:
            shapes = await self._usual(conn, work.circuit, gaps, computed)
            computed = align(cumulative, first=first, last=last, shapes=shapes)
        uncertain = [uncertain_times(one, rows) for one, rows in registers]
        return changes(
            computed,
            held,
            circuit_id=work.circuit,
            site_id=work.site,
            uncertain_at=np.sort(np.concatenate(uncertain)) if uncertain else np.empty(0),
            now=now,
        )

    async def _usual(
        self, conn: WriteConn, circuit: CircuitId, gaps: Sequence[float], computed: Intervals
    ) -> dict[float, Shape]:
        """Return what a circuit usually used before each gap, out of what is measured, booked or just computed."""
        earliest = datetime.fromtimestamp(min(gaps), UTC) - timedelta(seconds=LOOK_BACK_DAYS * DAY_S)
        until = datetime.fromtimestamp(float(computed.start[0]), UTC)
        (held,) = await self._books.fetch_current_of(conn, [CircuitSpan(circuit, floor(earliest), until)])
        start = np.concatenate([held.start, computed.start])
        energy = np.concatenate([held.energy_kwh, computed.energy_kwh])
        measured = np.concatenate([held.grade, computed.grade]) == Grade.MEASURED
        return {gap: usual_shape(start, energy, measured, until=gap, step_s=STEP_S) for gap in gaps}

    async def _note(
        self,
        conn: WriteConn,
        findings: Sequence[CircuitFinding],
        sites: Mapping[CircuitId, SiteId],
        now: datetime,
    ) -> None:
        new = await self._books.add_findings(conn, findings, now)
        # What history that is imported or filled in shows is kept with the books and alarms nobody.
        fresh: dict[CircuitId, list[Finding]] = {}
        for one in findings:
            if one.key in new and one.finding.kind in REPORTED and now - one.at <= NEWS:
                fresh.setdefault(one.circuit_id, []).append(one.finding)
        for circuit, found in fresh.items():
            await self._publisher.findings(conn, sites[circuit], circuit, found, now)


def _window(bindings: Sequence[Binding], change: Change) -> Window:
    """Return the meters that served where a change begins and where it ends."""
    before = next((one for one in bindings if one.serves_in(change.since, change.since)), None)
    if before is None:
        before = next((one for one in reversed(bindings) if one.valid_from <= change.since), bindings[0])
    until = change.until
    after = bindings[-1]
    if until is not None:
        after = next((one for one in reversed(bindings) if one.serves_in(until, until)), bindings[-1])
    return Window(before, change.since, after, until)


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    return min((at for at in (one, other) if at is not None), default=None)


def _is_settled(work: _Work, cumulative: Cumulative, turned: Sequence[tuple[DeviceId, datetime, bool]]) -> bool:
    """Return whether nothing changes behind the register that a computation ends at.

    It has to count again, and so has each between the change and it that counted before: else its boundary moves.
    """
    if work.end is None or work.until is None:
        return True
    counts = bool(cumulative.at.size) and bool(cumulative.at[-1] == work.end.timestamp())
    return counts and not any(at > work.until for _, at, _ in turned)


def _marks(binding: Binding, rows: Registers, cumulative: Cumulative) -> list[tuple[DeviceId, datetime, bool]]:
    """Return the registers of a binding that are set aside now and were not, or the other way round."""
    inside = rows.within(binding)
    aside = ~np.isin(rows.at[inside], cumulative.at)
    differ = np.flatnonzero(aside != rows.set_aside[inside])
    at = rows.at[inside]
    return [(binding.device_id, datetime.fromtimestamp(float(at[i]), UTC), bool(aside[i])) for i in differ]
