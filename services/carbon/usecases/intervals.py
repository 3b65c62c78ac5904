"""Booking: registers in, intervals out, in one transaction with the position on the bus."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

from libs.common.clock import Clock
from libs.common.db import WriteConn
from libs.common.ids import CircuitId, DeviceId, SiteId
from services.carbon.domain.booking import (
    Binding,
    BookedInterval,
    RegisterReading,
    affected_since,
    changes,
    floor,
    last_boundary,
    series_of,
)
from services.carbon.domain.intervals import align
from services.carbon.domain.registers import Finding, FindingKind, accumulate

Rows = list[tuple[datetime, float, float, bool]]

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

    def site_of(self, circuit: CircuitId) -> SiteId | None:
        """Return the circuit's site, None for a circuit that is not known (any more)."""

    def rated_kw(self, circuit: CircuitId) -> float | None:
        """Return the circuit's rated power. [kW]"""


class Books(Protocol):
    """Where registers and intervals are kept (``store.intervals``)."""

    async def add_registers(
        self, conn: WriteConn, readings: Sequence[RegisterReading]
    ) -> list[tuple[DeviceId, datetime]]:
        """Store registers that are not there yet; return (device, source time) of the new ones."""

    async def fetch_last_times(self, conn: WriteConn, devices: Sequence[DeviceId]) -> dict[DeviceId, datetime]:
        """Return the newest register time of each device that has one."""

    async def fetch_registers(
        self, conn: WriteConn, device: DeviceId, point: str, start: datetime, end: datetime | None
    ) -> Rows:
        """Return (time, shown, ratio, uncertain), from the last trusted register before ``start`` on."""

    async def mark_set_aside(
        self,
        conn: WriteConn,
        device: DeviceId,
        point: str,
        start: datetime,
        end: datetime,
        set_aside: Sequence[datetime],
    ) -> None:
        """Record which registers of a span the correction set aside."""

    async def lock_circuit(self, conn: WriteConn, circuit: CircuitId) -> None:
        """Keep other recomputations of the circuit out until the transaction ends."""

    async def fetch_current(
        self, conn: WriteConn, circuits: Sequence[CircuitId], start: datetime, end: datetime
    ) -> list[BookedInterval]:
        """Return the intervals that hold, of ``[start, end)``."""

    async def book(self, conn: WriteConn, intervals: Sequence[BookedInterval]) -> None:
        """Add versions of intervals."""

    async def add_findings(
        self,
        conn: WriteConn,
        circuit: CircuitId,
        findings: Sequence[tuple[datetime, str, float, float]],
        found_at: datetime,
    ) -> list[datetime]:
        """Store findings that are not there yet; return the times of the new ones."""


class Publisher(Protocol):
    """How what was booked becomes known, in the same transaction (``bus.py``)."""

    async def intervals(self, conn: WriteConn, booked: Sequence[BookedInterval]) -> None:
        """Publish versions of intervals."""

    async def findings(
        self, conn: WriteConn, site: SiteId, circuit: CircuitId, findings: Sequence[Finding], now: datetime
    ) -> None:
        """Publish findings that a person has to look at."""


class Booking:
    """Keeps the books of a set of devices.

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

    def forget(self) -> None:
        """Drop what is remembered; the database has the truth."""
        self._newest.clear()

    async def take(self, conn: WriteConn, readings: Sequence[RegisterReading]) -> None:
        """Store registers and book the intervals that they close or change."""
        if not readings:
            return
        devices = {reading.device_id for reading in readings}
        before = {device: self._newest[device] for device in devices if device in self._newest}
        before |= await self._books.fetch_last_times(conn, [device for device in devices if device not in before])
        new = await self._books.add_registers(conn, readings)
        since: dict[CircuitId, datetime] = {}
        for device, at in new:
            newest = before.get(device)
            self._newest[device] = max(self._newest.get(device, at), at, newest or at)
            if newest is not None and at > newest and floor(at) == floor(newest):
                continue  # within the running interval, in order: nothing to book yet
            start = affected_since(at if newest is None else min(at, newest))
            for circuit in self._directory.circuits_of(device):
                since[circuit] = min(since.get(circuit, start), start)
        for circuit in sorted(since):
            await self.recompute(conn, circuit, since[circuit])

    async def recompute(self, conn: WriteConn, circuit: CircuitId, since: datetime) -> int:
        """Compute a circuit's intervals from a time on and book what differs; return how many versions."""
        site = self._directory.site_of(circuit)
        if site is None:
            return 0
        await self._books.lock_circuit(conn, circuit)
        loaded = await self._load(conn, circuit, since)
        rated_kw = self._directory.rated_kw(circuit)
        cumulative = accumulate([one for binding, rows in loaded for one in series_of(binding, rows, rated_kw)])
        until = last_boundary(cumulative)
        if until is None:
            return 0
        now = self._clock.now()
        end = datetime.fromtimestamp(until, UTC)
        current = {one.start: one for one in await self._books.fetch_current(conn, [circuit], floor(since), end)}
        # What was booked before the first register that counts now has to be looked at too.
        first = min(floor(datetime.fromtimestamp(float(cumulative.at[0]), UTC)), *current, end)
        computed = align(cumulative, first=max(first, floor(since)).timestamp(), last=until)
        uncertain = sorted(at.timestamp() for _, rows in loaded for at, _, _, flagged in rows if flagged)
        booked = changes(computed, current, circuit_id=circuit, site_id=site, uncertain_at=uncertain, now=now)
        if booked:
            await self._books.book(conn, booked)
            await self._publisher.intervals(conn, booked)
        await self._note(conn, circuit, site, cumulative.findings, now)
        accepted = {float(at) for at in cumulative.at}
        for binding, rows in loaded:
            if rows:
                aside = [at for at, *_ in rows if at.timestamp() not in accepted]
                await self._books.mark_set_aside(conn, binding.device_id, self._point, rows[0][0], rows[-1][0], aside)
        return len(booked)

    async def _load(self, conn: WriteConn, circuit: CircuitId, since: datetime) -> list[tuple[Binding, Rows]]:
        """Return the registers of each of the circuit's meters that served after ``since``."""
        loaded = []
        for binding in self._directory.bindings_of(circuit):
            if binding.valid_to is not None and binding.valid_to < since:
                continue
            start = max(since, binding.valid_from)
            rows = await self._books.fetch_registers(conn, binding.device_id, self._point, start, binding.valid_to)
            loaded.append((binding, rows))
        return loaded

    async def _note(
        self, conn: WriteConn, circuit: CircuitId, site: SiteId, findings: Sequence[Finding], now: datetime
    ) -> None:
        if not findings:
            return
        rows = [
            (datetime.fromtimestamp(one.at, UTC), one.kind.value, one.previous_kwh, one.shown_kwh) for one in findings
        ]
        new = set(await self._books.add_findings(conn, circuit, rows, now))
        # What history that is imported or filled in shows is kept with the books and alarms nobody.
        fresh = [
            one
            for one, row in zip(findings, rows, strict=True)
            if row[0] in new and one.kind in REPORTED and now - row[0] <= NEWS
        ]
        if fresh:
            await self._publisher.findings(conn, site, circuit, fresh, now)
