"""Questions to the books: energy and emissions of a node by period, and the trace of one interval."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from libs.common.clock import CIVIL_ZONE, Clock
from libs.common.db import Database, ReadConn
from libs.common.errors import NotFound
from libs.common.ids import CircuitId, DeviceId, SiteId
from services.carbon.boundary import Boundaries, NodeEnergy
from services.carbon.directory import RegistryDirectory
from services.carbon.domain.booking import Binding, BookedInterval, Registers, Span, floor, series_of
from services.carbon.domain.factors import Absence, Choice, EmissionFactor, FactorLibrary, Place, Use
from services.carbon.domain.intervals import STEP_S, align, long_gaps, partial
from services.carbon.domain.levels.cover import Choose, Dimension
from services.carbon.domain.levels.emission import FACTORS, emissions_by_period
from services.carbon.domain.levels.energy import energy_of_years, node_intervals, running_frame
from services.carbon.domain.levels.periods import Step
from services.carbon.domain.registers import Cumulative, accumulate
from services.carbon.store import intervals as store
from services.carbon.store import inventories
from services.carbon.tree import NAMES_ZH, NOWHERE, Node, NodeKind

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
    by_site: Sequence["SiteEmission"] = ()
    """Of a virtual meter over several sites: whose energy took which factor."""


@dataclass(frozen=True, slots=True)
class SiteEmission:
    """One site's part of a virtual meter in a civil year."""

    site: SiteId
    year: int
    energy_kwh: float
    choice: Choice | None
    """None where the site's grid has no factor."""


@dataclass(frozen=True, slots=True)
class TracedRegister:
    """A stored register; see ``RegisterReading``."""

    device_id: DeviceId
    source_time: datetime
    shown: float
    ratio: float
    uncertain: bool
    set_aside: bool
    manual: bool


@dataclass(frozen=True, slots=True)
class Gap:
    """Two registers far apart: the total between them is measured, and how it lies over the intervals is not."""

    start: datetime
    end: datetime
    energy_kwh: float


@dataclass(frozen=True)
class Trace:
    """What stands behind one interval."""

    circuit: CircuitId
    start: datetime
    end: datetime
    versions: Sequence[BookedInterval]
    bindings: Sequence[Binding]
    registers: Sequence[TracedRegister]
    """From the last trusted one before the interval to the ones after it that confirm what came."""
    rated_kw: float | None
    """Of the circuit; what is above it is no energy but a wrong register. [kW]"""

    def again(self) -> float | None:
        """Return the interval's energy as its meters and registers give it; None where that is unknown. [kWh]

        Within a long gap that is its total laid flat over it; it is booked as usual before it (``domain/shape.py``).
        """
        aligned = align(self._cumulative(), first=self.start.timestamp(), last=self.end.timestamp())
        energy = float(aligned.energy_kwh[0])
        return None if math.isnan(energy) else energy

    def gap(self) -> Gap | None:
        """Return the long gap that the interval lies in or touches, None where its registers are near."""
        corrected = self._cumulative()
        begins = long_gaps(corrected, first=self.start.timestamp(), last=self.end.timestamp())
        if not begins:
            return None
        first = int(np.flatnonzero(corrected.at == begins[0])[0])
        since, until = (datetime.fromtimestamp(float(at), UTC) for at in corrected.at[first : first + 2])
        return Gap(since, until, float(corrected.energy_kwh[first + 1] - corrected.energy_kwh[first]))

    def _cumulative(self) -> Cumulative:
        return accumulate(
            [
                one
                for binding in self.bindings
                for one in series_of(
                    binding,
                    Registers.of(
                        [
                            (row.source_time, row.shown, row.ratio, row.uncertain)
                            for row in self.registers
                            if row.device_id == binding.device_id
                        ]
                    ),
                    self.rated_kw,
                )
            ]
        )


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
        found = await self.found(node, first, last)
        circuits = sorted({term.circuit for term in found.terms})
        return Energy(node, step, circuits, found, await asyncio.to_thread(found.by_period, step, self._clock.now()))

    async def found(
        self, node: Node, start: datetime, end: datetime, which: Dimension | Choose | None = None
    ) -> NodeEnergy:
        """Return the intervals that the energy of a node is the sum of, with what is running now.

        Both ends lie on the quarter-hour grid.

        Raises:
            NotFound: There is no such node, or nothing of it can be metered.
        """
        found = await self.boundaries.energy(node, start, end, which)
        if not found.terms:
            raise NotFound(
                f"{node.kind} {node.id} has no circuit that its energy could be measured by",
                message_zh=f"{NAMES_ZH[node.kind]} {node.id} 没有可计量其电量的回路",
            )
        circuits = sorted({term.circuit for term in found.terms})
        if end > floor(self._clock.now()) and len(circuits) <= RUNNING_MAX:
            running = await self._running_of(found, circuits, end)
            found = replace(found, intervals=pl.concat([found.intervals, node_intervals(running, found.terms)]))
        return found

    async def emissions(self, *, node: Node, start: datetime, end: datetime, step: Step) -> Emissions:
        """Return the location-based emissions of a node: by the grid of each site, and each interval's civil year."""
        energy = await self.energy(node=node, start=start, end=end, step=step)
        first, last = (at.astimezone(CIVIL_ZONE).year for at in (energy.found.start, energy.found.end))
        intervals, sites = await self.at_sites(energy.found)
        choices = await self.grid_choices(sites, range(first, last + 1))
        rows = [
            (site, year, float(choice.factor.value), choice.factor.factor_id)
            for (site, year), choice in choices.items()
        ]
        factors = pl.DataFrame(rows, schema=FACTORS, orient="row")
        emitted = await asyncio.to_thread(emissions_by_period, intervals, factors, step)
        frame = energy.frame.join(emitted, on="start", how="left").sort("start")
        used = set(frame["factor_ids"].explode().drop_nulls().to_list())
        unique = {choice.factor.factor_id: choice for choice in choices.values() if choice.factor.factor_id in used}
        used_here = [unique[factor_id] for factor_id in sorted(unique)]
        if node.kind is not NodeKind.VIRTUAL:
            return Emissions(energy, frame, used_here)
        parts = [
            SiteEmission(site, year, energy_kwh, choices.get((site, year)))
            for site, year, energy_kwh in energy_of_years(intervals).iter_rows()
        ]
        return Emissions(energy, frame, used_here, parts)

    async def at_sites(self, found: NodeEnergy) -> tuple[pl.DataFrame, list[SiteId]]:
        """Return the intervals of a node by the site whose grid they draw from, and the sites.

        A virtual meter over several sites is divided among them: there is no grid of their sum.
        """
        sites = sorted({term.site for term in found.terms})
        if found.node.kind is not NodeKind.VIRTUAL or sites != [NOWHERE]:
            return found.intervals, sites
        inside = sorted({site for site, _, _ in self.boundaries.sites(found.node, found.start, found.end)})
        return await self.boundaries.virtual_by_site(found.node, found.start, found.end), inside

    async def grid_choices(self, sites: Sequence[SiteId], years: Sequence[int]) -> dict[tuple[SiteId, int], Choice]:
        """Return the location-based factor of each site's grid in each civil year, where there is one."""
        today = self._clock.now().astimezone(CIVIL_ZONE).date()
        async with self._db.read() as conn:
            library = FactorLibrary([*self.factors, *await inventories.fetch_factors(conn)])
        answers: dict[tuple[Place, int], Choice | Absence] = {}
        found: dict[tuple[SiteId, int], Choice] = {}
        for site in sites:
            grid = self._directory.place_of(site)
            for year in years:
                answer = answers.get((grid, year))
                if answer is None:
                    answer = answers[grid, year] = library.choose(
                        "grid-average", use=Use.LOCATION_BASED, place=grid, year=year, known_on=today, unit="kgCO2/kWh"
                    )
                if isinstance(answer, Choice):
                    found[site, year] = answer
        return found

    async def trace(self, circuit: str, start: datetime) -> Trace:
        """Return the versions of one interval, the meters that served, and the registers that it was computed from.

        Raises:
            NotFound: The interval was never booked.
        """
        at = floor(start)
        key = CircuitId(circuit)
        end = at + timedelta(seconds=STEP_S)
        registers: list[TracedRegister] = []
        bindings: list[Binding] = []
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
                    bindings.append(binding)
        return Trace(key, at, end, versions, bindings, registers, self._directory.rated_kw(key))

    def meters_of(self, circuit: CircuitId, start: datetime, end: datetime) -> list[DeviceId]:
        """Return the meters that served a circuit within ``[start, end)``, in their order."""
        return [
            one.device_id
            for one in self._directory.bindings_of(circuit)
            if one.valid_from < end and (one.valid_to is None or one.valid_to > start)
        ]

    async def versions(self, circuit: CircuitId, start: datetime, end: datetime) -> dict[datetime, int]:
        """Return the version that holds of each booked interval of a circuit."""
        async with self._db.read() as conn:
            return {one.start: one.version for one in await store.fetch_current(conn, [circuit], start, end)}

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
