"""Carbon's streaming part: registers through booking into PostgreSQL, late ones too, and a day up to its emissions.

python -m libs.suite.bench carbon
"""

import math
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from libs.common.bus import topics
from libs.common.bus.port import Received
from libs.common.clock import SystemClock
from libs.common.contracts.telemetry import Reading
from libs.common.db import Database
from libs.common.garbage import GarbageKeeper
from libs.common.ids import CircuitId, DeviceId, SiteId
from libs.common.migrations import migrate
from libs.common.settings import DatabaseSettings
from libs.suite.postgres import EmbeddedPostgres
from libs.suite.sitereport import Span, gather, site_report
from services.carbon.bus import reports
from services.carbon.domain.booking import ENERGY_POINT, Binding, RegisterReading, Registers, series_of
from services.carbon.domain.intervals import align
from services.carbon.domain.levels.cover import Term
from services.carbon.domain.levels.emission import FACTORS
from services.carbon.domain.levels.energy import Promise, node_intervals
from services.carbon.domain.levels.periods import Step
from services.carbon.domain.registers import accumulate
from services.carbon.domain.tariff.grid import rate_grid
from services.carbon.domain.tariff.periods import DayCalendar, build_tariffs
from services.carbon.store import intervals as store
from services.carbon.store.levels import fetch_interval_frame
from services.carbon.tariff_file import SHIPPED, shipped_rows
from services.carbon.usecases.intervals import Booking
from services.carbon.worker import OutboxPublisher

METERS = 2_000
MINUTES = 46
"""Each meter says its register once a minute."""
BATCH_MINUTES = 5
"""So many minutes of all meters are one batch."""
MONTH_DAYS = 30
DAY_METERS = 500
"""Their day is booked hour by hour, up to hourly emissions by site: what MyEMS was measured with."""
START = datetime(2026, 3, 1, tzinfo=UTC)
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Streaming:
    """What was measured."""

    parsed_per_s: float
    """Reports read from JSON, one register each. [1/s]"""
    corrected_per_s: float
    """Registers of one meter and month, a minute apart, corrected and aligned by the domain alone. [1/s]"""
    booked_per_s: float
    """Registers through booking into the database, committed, all processes together. [1/s]"""
    core_per_s: float
    """The same by the processor's time of carbon's own process. [1/s]"""
    month_ms: float
    """A month of late quarter-hourly registers of one meter in a batch: each interval gets a new version."""
    register_ms: float
    """One late register in the middle of that month."""
    binding_ms: float
    """The whole month computed again, as after a corrected binding, with nothing to book."""
    day_per_s: float
    """Registers of a day, a minute apart, through booking and from the books to emissions, all processes. [1/s]"""
    day_core_per_s: float
    """The same by the processor's time of carbon's own process. [1/s]"""

    @property
    def whole_per_s(self) -> float:
        """From the bytes of a report to the committed books, by carbon's own processor time. [1/s]"""
        return 1.0 / (1.0 / self.parsed_per_s + 1.0 / self.core_per_s)


class Field:
    """A registry in which each meter measures a circuit."""

    rated_power_kw = 40.0

    def circuits_of(self, device: DeviceId) -> Sequence[CircuitId]:
        """Return the circuit of a meter."""
        return [CircuitId(f"c{device[1:]}")]

    def bindings_of(self, circuit: CircuitId) -> Sequence[Binding]:
        """Return the meter of a circuit."""
        return [Binding(DeviceId(f"m{circuit[1:]}"), LONG_AGO, None, None, None, 1e6)]

    def stands_in(self, device: DeviceId) -> None:
        """Return None: each has a register."""

    def site_of(self, circuit: CircuitId) -> SiteId:
        """Return the site of a circuit."""
        return SiteId(f"s{int(circuit[1:]) % 50}")

    def rated_kw(self, circuit: CircuitId) -> float:
        """Return the rated power of a circuit. [kW]"""
        return self.rated_power_kw


async def measure() -> Streaming:
    """Book on a database of its own, with garbage collected as in a service."""
    garbage = GarbageKeeper()
    garbage.begin()
    try:
        parsed, corrected = _parse(), _correct()
        async with _database() as db:
            booked, core = await _stream(db)
            month_ms, register_ms, binding_ms = await _late(db)
            day, day_core = await _whole_day(db)
    finally:
        garbage.end()
    return Streaming(parsed, corrected, booked, core, month_ms, register_ms, binding_ms, day, day_core)


@asynccontextmanager
async def _database() -> AsyncIterator[Database]:
    with tempfile.TemporaryDirectory(prefix="wattring-bench-") as place, EmbeddedPostgres(Path(place)) as server:
        await migrate(server.url, phase="post")
        db = Database(DatabaseSettings(url=server.url), schema="carbon", role="wattring_carbon")
        await db.open()
        try:
            yield db
        finally:
            await db.close()


def _booking() -> Booking:
    return Booking(directory=Field(), books=store, publisher=OutboxPublisher(), clock=SystemClock(), point=ENERGY_POINT)


def _reading(meter: int, minute: float) -> RegisterReading:
    at = START + timedelta(minutes=minute)
    return RegisterReading(
        DeviceId(f"m{meter}"), ENERGY_POINT, at, at, 1000.0 + 0.1 * minute, ratio=1.0, uncertain=False
    )


def _parse() -> float:
    payload = Reading(
        device_id=DeviceId("m1"), site_id=SiteId("s1"), source_time=START, received_at=START, driver="modbus",
        points={ENERGY_POINT: 1234.5, "voltage_a": 230.1, "active_power_total": 3.2}, energy_ratio=40.0,
    )  # fmt: skip
    one = Received(
        topic=topics.READINGS, partition=0, offset=0, key="s1", value=payload.to_json(), headers=(), appended_at=START
    )
    batch = [one] * 100_000
    began = time.process_time()
    found, _ = reports(batch)
    return len(found) / (time.process_time() - began)


def _correct() -> float:
    minutes = np.arange(MONTH_DAYS * 1440, dtype=np.float64)
    at = START.timestamp() + 60.0 * minutes
    no = np.zeros(at.size, np.bool_)
    registers = Registers(at, 1000.0 + 0.01 * minutes, np.ones(at.size), no, no, no)
    binding = Field().bindings_of(CircuitId("c1"))[0]
    began, rounds = time.process_time(), 20
    for _ in range(rounds):
        align(accumulate(series_of(binding, registers, 40.0)), first=float(at[0]), last=float(at[-1] // 900 * 900))
    return rounds * at.size / (time.process_time() - began)


async def _stream(db: Database) -> tuple[float, float]:
    booking, count, wall_s, core_s = _booking(), 0, 0.0, 0.0
    for first in range(0, MINUTES, BATCH_MINUTES):
        batch = [
            _reading(meter, minute)
            for minute in range(first, min(first + BATCH_MINUTES, MINUTES))
            for meter in range(METERS)
        ]
        began, core = time.perf_counter(), time.process_time()
        async with db.write() as conn:
            await booking.take(conn, batch)
        wall_s += time.perf_counter() - began
        core_s += time.process_time() - core
        count += len(batch)
    return count / wall_s, count / core_s


async def _late(db: Database) -> tuple[float, float, float]:
    """Return how long a late month, a late register and a computation without news take. [ms]"""
    quarters = MONTH_DAYS * 96
    months, registers, bindings = [], [], []
    for meter in range(METERS, METERS + 5):
        booking = _booking()
        async with db.write() as conn:
            await booking.take(conn, [_reading(meter, 0.0), _reading(meter, 15.0 * quarters)])
        late = [_reading(meter, 15.0 * i) for i in range(1, quarters) if i != quarters // 2]
        months.append(await _took(db, booking, late))
        registers.append(await _took(db, booking, [_reading(meter, 15.0 * (quarters // 2))]))
        began = time.perf_counter()
        async with db.write() as conn:
            await booking.recompute(conn, CircuitId(f"c{meter}"), LONG_AGO)
        bindings.append(time.perf_counter() - began)
    return _median_ms(months), _median_ms(registers), _median_ms(bindings)


async def _whole_day(db: Database) -> tuple[float, float]:
    """Return how many registers a second become hourly energy and emissions by site. [1/s]"""
    booking, field, first = _booking(), Field(), METERS + 1000
    meters = range(first, first + DAY_METERS)
    circuits = [CircuitId(f"c{meter}") for meter in meters]
    tariff = build_tariffs(shipped_rows(), source=SHIPPED)["CN-44", "industrial_commercial"]
    end = START + timedelta(days=1)
    after = end.date() + timedelta(days=1)
    grid = rate_grid(tariff, first=START.date(), last=after, calendar=DayCalendar())
    span = Span(Step.HOUR, START, end, grid)
    terms = [Term(circuit, field.site_of(circuit), START, end) for circuit in circuits]
    promise = Promise(terms, end)
    factors = pl.DataFrame(
        [(site, START.year, 0.5, "bench") for site in {term.site for term in terms}], schema=FACTORS, orient="row"
    )
    count, wall_s, core_s = 0, 0.0, 0.0
    for hour in range(25):
        minutes = range(60 * hour, 60 * hour + 60 if hour < 24 else 60 * hour + 1)
        batch = [_reading(meter, minute) for minute in minutes for meter in meters]
        began, core = time.perf_counter(), time.process_time()
        async with db.write() as conn:
            await booking.take(conn, batch)
        wall_s += time.perf_counter() - began
        core_s += time.process_time() - core
        count += len(batch)
    began, core = time.perf_counter(), time.process_time()
    async with db.read() as conn:
        booked = await fetch_interval_frame(conn, circuits, START, end)
    report = site_report(gather([node_intervals(booked, terms)], promise, span), promise, span, factors)
    wall_s += time.perf_counter() - began
    core_s += time.process_time() - core
    emitted = math.fsum(report.energy["emission_kg_co2"])
    used = 0.5 * DAY_METERS * 0.1 * 1440
    if abs(emitted - used) > 1e-6 * used:
        raise RuntimeError(f"emissions of the day: expected {used} kg, found {emitted} kg")
    return count / wall_s, count / core_s


def _median_ms(took_s: Sequence[float]) -> float:
    return 1000.0 * float(np.median(took_s))


async def _took(db: Database, booking: Booking, batch: Sequence[RegisterReading]) -> float:
    began = time.perf_counter()
    async with db.write() as conn:
        await booking.take(conn, batch)
    return time.perf_counter() - began
