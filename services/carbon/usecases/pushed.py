"""Keeping the intervals that a meter tells beside its register, and holding each day of them against it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from libs.common.clock import Clock
from libs.common.db import WriteConn
from libs.common.ids import CircuitId, DeviceId, SiteId
from services.carbon.domain.booking import INTERVAL_POINT, Binding, CircuitFinding, RegisterReading, Told, usable
from services.carbon.domain.pushed import DAY, LOOKED_BACK, AskedDay, PushedDay, days_due
from services.carbon.domain.registers import Finding, FindingKind

NEWS = (LOOKED_BACK + 1) * DAY
"""A day that is longer over is history, which alarms nobody."""


class Directory(Protocol):
    """What has to be known of the registry."""

    def tells_beside(self, device: DeviceId) -> Told | None:
        """Return the intervals that a device tells beside its register, None where it tells none."""

    def circuits_of(self, device: DeviceId) -> Sequence[CircuitId]:
        """Return the circuits that the device measures or has measured."""

    def bindings_of(self, circuit: CircuitId) -> Sequence[Binding]:
        """Return the circuit's meters in the order in which they served."""

    def site_of(self, circuit: CircuitId) -> SiteId | None:
        """Return the circuit's site, None for a circuit that is not known (any more)."""


class Books(Protocol):
    """Where they are kept (``store.intervals``)."""

    async def add_registers(
        self, conn: WriteConn, readings: Sequence[RegisterReading]
    ) -> list[tuple[DeviceId, datetime]]:
        """Store them; return (device, time) of those that are new or different now."""

    async def fetch_last_times(self, conn: WriteConn, points: Mapping[DeviceId, str]) -> dict[DeviceId, datetime]:
        """Return the newest time of each device that has any."""

    async def fetch_pushed_days(self, conn: WriteConn, asked: Sequence[AskedDay]) -> list[PushedDay]:
        """Return what was told and what was counted on each day."""

    async def add_findings(
        self, conn: WriteConn, findings: Sequence[CircuitFinding], found_at: datetime
    ) -> set[tuple[CircuitId, datetime, FindingKind]]:
        """Store findings that are not there yet; return the keys of the new ones."""


class Publisher(Protocol):
    """How a finding becomes known, in the same transaction."""

    async def findings(
        self, conn: WriteConn, site: SiteId, circuit: CircuitId, findings: Sequence[Finding], now: datetime
    ) -> None:
        """Publish findings that a person has to look at."""


class PushedIntervals:
    """Of meters that have a register; those of others are booked (``usecases.intervals``)."""

    def __init__(self, *, directory: Directory, books: Books, publisher: Publisher, clock: Clock) -> None:
        self._directory = directory
        self._books = books
        self._publisher = publisher
        self._clock = clock

    async def take(self, conn: WriteConn, readings: Sequence[RegisterReading]) -> None:
        """Keep intervals, after the registers of the same batch were booked, and look at the days that are over."""
        told: dict[DeviceId, Told] = {}
        for device in {one.device_id for one in readings}:
            beside = self._directory.tells_beside(device)
            if beside is not None:
                told[device] = beside
        mine = [told[one.device_id].moved(one) for one in usable(readings) if one.device_id in told]
        if not mine:
            return
        before = await self._books.fetch_last_times(conn, dict.fromkeys(told, INTERVAL_POINT))
        ends: dict[DeviceId, list[datetime]] = {}
        for device, at in await self._books.add_registers(conn, mine):
            ends.setdefault(device, []).append(at)
        asked = [
            one
            for device, new in ends.items()
            if (period_s := told[device].period_s) is not None
            for day in sorted(days_due(before.get(device), new))
            for one in self._of_day(device, day, period_s)
        ]
        if asked:
            await self._look(conn, asked)

    def _of_day(self, device: DeviceId, day: datetime, period_s: float) -> list[AskedDay]:
        """Return the circuits that a meter served all of a day."""
        return [
            AskedDay(circuit, device, day, period_s)
            for circuit in self._directory.circuits_of(device)
            if any(
                one.device_id == device
                and one.has_register
                and one.valid_from <= day
                and (one.valid_to is None or one.valid_to >= day + DAY)
                for one in self._directory.bindings_of(circuit)
            )
        ]

    async def _look(self, conn: WriteConn, asked: Sequence[AskedDay]) -> None:
        days = await self._books.fetch_pushed_days(conn, asked)
        findings = [found for one in days if (found := one.finding) is not None]
        if not findings:
            return
        now = self._clock.now()
        new = await self._books.add_findings(conn, findings, now)
        for found in findings:
            site = self._directory.site_of(found.circuit_id)
            if found.key in new and site is not None and now - found.at <= NEWS:
                await self._publisher.findings(conn, site, found.circuit_id, [found.finding], now)
