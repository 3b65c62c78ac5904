"""Questions to the books: energy and emissions of a node by period, and the trace of one interval."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import polars as pl

from libs.common.clock import CIVIL_ZONE, Clock
from libs.common.db import Database, ReadConn
from libs.common.errors import NotFound
from libs.common.ids import CircuitId, DeviceId
from services.carbon.boundary import Boundaries, NodeEnergy
from services.carbon.directory import RegistryDirectory
from services.carbon.domain.booking import BookedInterval, Span, floor, series_of
from services.carbon.domain.factors import Choice, EmissionFactor, FactorLibrary, Place, Use
from services.carbon.domain.intervals import STEP_S, partial
from services.carbon.domain.levels.emission import FACTORS, emissions_by_period
from services.carbon.domain.levels.energy import node_intervals, running_frame
from services.carbon.domain.levels.periods import Step
from services.carbon.domain.registers import accumulate
from services.carbon.store import intervals as store
from services.carbon.store import inventories
from services.carbon.tree import NAMES_ZH, Node

RUNNING_MAX = 50
"""Of nodes with more feeds than this, what is running now is not looked at."""


@dataclass(frozen=True)
class Energy:
    """Energy of a node by period; ``frame`` as ``energy_by_period`` returns it."""

    node: Node
    step: Step
    circuits: Sequence[CircuitId]
    found: NodeEnergy
    """What was summed."""
    frame: pl.DataFrame


@dataclass(frozen=True)
class Emissions:
    """Energy with ``emission_kg_co2`` and ``factor_ids`` per period, and the factors used."""

    energy: Energy
    frame: pl.DataFrame
    choices: Sequence[Choice]


@dataclass(frozen=True, slots=True)
class TracedRegister:
    """A stored register; see ``RegisterReading``."""

    device_id: DeviceId
    source_time: datetime
    shown: float
    ratio: float
    uncertain: bool
    set_aside: bool


@dataclass(frozen=True)
class Trace:
    """What stands behind one interval."""

    circuit: CircuitId
    start: datetime
    end: datetime
    versions: Sequence[BookedInterval]
    registers: Sequence[TracedRegister]


class Queries:
    """Reads only; what it returns is computed from the books at the time of asking."""

    def __init__(
        self,
        *,
        db: Database,
        directory: RegistryDirectory,
        boundaries: Boundaries,
        clock: Clock,
        factors: Sequence[EmissionFactor],
        point: str,
    ) -> None:
        self._db = db
        self._directory = directory
        self._clock = clock
        self._point = point
        self.boundaries = boundaries
        self.factors = factors

    async def energy(self, *, node: Node, start: datetime, end: datetime, step: Step) -> Energy:
        """Return the energy of a node by civil period, with what is running now.

        Raises:
            InvalidInput: An empty span, or one that is too long.
            NotFound: There is no such node, or nothing of it can be metered.
        """
        first, last = self.boundaries.whole_periods(start, end, step)
        found = await self.boundaries.energy(node, first, last)
        if not found.terms:
            raise NotFound(
                f"{node.kind} {node.id} has no circuit that its energy could be measured by",
                message_zh=f"{NAMES_ZH[node.kind]} {node.id} 没有可计量其电量的回路",
            )
        circuits = sorted({term.circuit for term in found.terms})
        now = self._clock.now()
        if last > floor(now) and len(circuits) <= RUNNING_MAX:
            running = await self._running_of(found, circuits, last)
            found = replace(found, intervals=pl.concat([found.intervals, node_intervals(running, found.terms)]))
        return Energy(node, step, circuits, found, await asyncio.to_thread(found.by_period, step, now))

    async def emissions(self, *, node: Node, start: datetime, end: datetime, step: Step) -> Emissions:
        """Return the location-based emissions of a node: by the grid of each site, and each interval's civil year."""
        energy = await self.energy(node=node, start=start, end=end, step=step)
        today = self._clock.now().astimezone(CIVIL_ZONE).date()
        async with self._db.read() as conn:
            library = FactorLibrary([*self.factors, *await inventories.fetch_factors(conn)])
        first, last = (at.astimezone(CIVIL_ZONE).year for at in (energy.found.start, energy.found.end))
        choices: dict[tuple[Place, int], Choice] = {}
        rows: list[tuple[str, int, float, str]] = []
        for site in sorted({term.site for term in energy.found.terms}):
            grid = self._directory.place_of(site)
            for year in range(first, last + 1):
                choice = choices.get((grid, year)) or library.choose(
                    "grid-average", use=Use.LOCATION_BASED, place=grid, year=year, known_on=today, unit="kgCO2/kWh"
                )
                if isinstance(choice, Choice):
                    choices[grid, year] = choice
                    rows.append((site, year, float(choice.factor.value), choice.factor.factor_id))
        factors = pl.DataFrame(rows, schema=FACTORS, orient="row")
        emitted = await asyncio.to_thread(emissions_by_period, energy.found.intervals, factors, step)
        frame = energy.frame.join(emitted, on="start", how="left").sort("start")
        used = set(frame["factor_ids"].explode().drop_nulls().to_list())
        unique = {choice.factor.factor_id: choice for choice in choices.values() if choice.factor.factor_id in used}
        return Emissions(energy, frame, [unique[factor_id] for factor_id in sorted(unique)])

    async def trace(self, circuit: str, start: datetime) -> Trace:
        """Return the versions of one interval and the registers around it.

        Raises:
            NotFound: The interval was never booked.
        """
        at = floor(start)
        key = CircuitId(circuit)
        end = at + timedelta(seconds=STEP_S)
        registers: list[TracedRegister] = []
        async with self._db.read() as conn:
            versions = await store.fetch_versions(conn, key, at)
            if not versions:
                raise NotFound(
                    f"circuit {circuit} has no interval at {at.isoformat()}",
                    message_zh=f"回路 {circuit} 在 {at.isoformat()} 没有区间电量",
                )
            for binding in self._directory.bindings_of(key):
                if binding.valid_from <= end and (binding.valid_to is None or binding.valid_to >= at):
                    rows = await store.fetch_trace(conn, binding.device_id, binding.point, at, end)
                    registers += [TracedRegister(binding.device_id, *row) for row in rows]
        return Trace(key, at, end, versions, registers)

    async def _running_of(self, found: NodeEnergy, circuits: Sequence[CircuitId], until: datetime) -> pl.DataFrame:
        """Return what the circuits have used since their last booked boundary."""
        newest = dict(
            found.intervals.filter(~pl.col("from_parts")).group_by("circuit_id").agg(pl.col("start").max()).iter_rows()
        )
        async with self._db.read() as conn:
            running = [
                one
                for each in circuits
                if (one := await self._running(conn, each, newest.get(each), until)) is not None
            ]
        return running_frame(running)

    async def _running(
        self, conn: ReadConn, circuit: CircuitId, newest: datetime | None, until: datetime
    ) -> tuple[CircuitId, datetime, float] | None:
        """Return the running interval of a circuit: what was used since the last booked boundary."""
        now = self._clock.now()
        start = floor(now) if newest is None else newest + timedelta(seconds=STEP_S)
        if start < floor(now) - timedelta(seconds=STEP_S) or start >= until:
            return None
        bindings = [one for one in self._directory.bindings_of(circuit) if one.valid_to is None or one.valid_to > start]
        spans = [Span(one.device_id, start, one.valid_to, one.point) for one in bindings]
        registers = await store.fetch_registers_of(conn, spans)
        rated_kw = self._directory.rated_kw(circuit)
        series = [
            part for one, rows in zip(bindings, registers, strict=True) for part in series_of(one, rows, rated_kw)
        ]
        energy = partial(accumulate(series), start=start.timestamp(), until=now.timestamp())
        return None if energy is None else (circuit, start, energy)
