"""Questions to the books: energy and emissions of a node by period, and the trace of one interval."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from libs.common.clock import CIVIL_ZONE, Clock
from libs.common.db import Database, ReadConn
from libs.common.errors import InvalidInput, NotFound
from libs.common.ids import CircuitId, DeviceId, SiteId
from services.carbon.directory import RegistryDirectory
from services.carbon.domain.booking import BookedInterval, floor, series_of
from services.carbon.domain.factors import Choice, EmissionFactor, FactorLibrary, Place, Use
from services.carbon.domain.intervals import STEP_S, partial
from services.carbon.domain.registers import accumulate
from services.carbon.frames import Step, by_period, interval_frame, location_based_emissions
from services.carbon.store import intervals as store
from services.carbon.store import inventories


@dataclass(frozen=True)
class Energy:
    """Energy of a node by period; ``frame`` as ``frames.by_period`` returns it."""

    node: str
    node_kind: str
    step: Step
    circuits: Sequence[CircuitId]
    frame: pl.DataFrame


@dataclass(frozen=True)
class Emissions:
    """Energy with ``emission_kg_co2`` and ``factor_id`` per period, and the factors used."""

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
        clock: Clock,
        factors: Sequence[EmissionFactor],
        point: str,
        days_max: int,
    ) -> None:
        self._db = db
        self._directory = directory
        self._clock = clock
        self._point = point
        self._days_max = days_max
        self.factors = factors

    async def energy(
        self, *, site: str | None, circuit: str | None, start: datetime, end: datetime, step: Step
    ) -> Energy:
        """Return the energy of a site (its feeds) or of one circuit.

        Raises:
            InvalidInput: Not exactly one node, an empty span, or a span that is too long.
            NotFound: There is no such node, or the site has no metered feed.
        """
        self._check_span(start, end)
        circuits, node, kind = self._circuits(site, circuit)
        now = self._clock.now()
        whole = by_period(interval_frame([], []), circuits=1, step=step, start=start, end=end, now=now)
        first, last = whole["start"][0], whole["end"][-1]
        async with self._db.read() as conn:
            booked = await store.fetch_current(conn, circuits, first, last)
            running = [one for each in circuits if (one := await self._running(conn, each, booked, last)) is not None]
        frame = by_period(
            interval_frame(booked, running), circuits=len(circuits), step=step, start=start, end=end, now=now
        )
        return Energy(node, kind, step, circuits, frame)

    async def emissions(
        self, *, site: str | None, circuit: str | None, start: datetime, end: datetime, step: Step
    ) -> Emissions:
        """Return the location-based emissions of a node; the factor is that of each period's civil year."""
        energy = await self.energy(site=site, circuit=circuit, start=start, end=end, step=step)
        place = SiteId(energy.node) if energy.node_kind == "site" else self._directory.site_of(energy.circuits[0])
        grid = Place(None) if place is None else self._directory.place_of(place)
        today = self._clock.now().astimezone(CIVIL_ZONE).date()
        async with self._db.read() as conn:
            library = FactorLibrary([*self.factors, *await inventories.fetch_factors(conn)])
        years = energy.frame["start"].dt.convert_time_zone(CIVIL_ZONE.key).dt.year()
        parts: list[pl.DataFrame] = []
        choices: list[Choice] = []
        for year in sorted(set(years.to_list())):
            part = energy.frame.filter(years == year)
            choice = library.choose(
                "grid-average", use=Use.LOCATION_BASED, place=grid, year=year, known_on=today, unit="kgCO2/kWh"
            )
            if not isinstance(choice, Choice):
                parts.append(
                    part.with_columns(
                        pl.lit(None, pl.Float64).alias("emission_kg_co2"), pl.lit(None, pl.String).alias("factor_id")
                    )
                )
                continue
            choices.append(choice)
            parts.append(
                part.with_columns(
                    location_based_emissions(part["energy_kwh"], float(choice.factor.value)),
                    pl.lit(choice.factor.factor_id).alias("factor_id"),
                )
            )
        unique = list({choice.factor.factor_id: choice for choice in choices}.values())
        return Emissions(energy, pl.concat(parts), unique)

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
                    rows = await store.fetch_trace(conn, binding.device_id, self._point, at, end)
                    registers += [TracedRegister(binding.device_id, *row) for row in rows]
        return Trace(key, at, end, versions, registers)

    async def _running(
        self, conn: ReadConn, circuit: CircuitId, booked: Sequence[BookedInterval], until: datetime
    ) -> tuple[str, datetime, float] | None:
        """Return the running interval of a circuit: what was used since the last booked boundary."""
        now = self._clock.now()
        if until < floor(now):
            return None
        mine = [one for one in booked if one.circuit_id == circuit]
        start = mine[-1].start + timedelta(seconds=STEP_S) if mine else floor(now)
        if start < floor(now) - timedelta(seconds=STEP_S) or start >= until:
            return None
        series = []
        for binding in self._directory.bindings_of(circuit):
            if binding.valid_to is None or binding.valid_to > start:
                rows = await store.fetch_registers(conn, binding.device_id, self._point, start, binding.valid_to)
                series += series_of(binding, rows, self._directory.rated_kw(circuit))
        energy = partial(accumulate(series), start=start.timestamp(), until=now.timestamp())
        return None if energy is None else (circuit, start, energy)

    def _circuits(self, site: str | None, circuit: str | None) -> tuple[Sequence[CircuitId], str, str]:
        if (site is None) == (circuit is None):
            raise InvalidInput("name either site or circuit", message_zh="请指定 site 或 circuit 其中之一")
        if circuit is not None:
            if self._directory.site_of(CircuitId(circuit)) is None:
                raise NotFound(f"there is no circuit {circuit}", message_zh=f"没有回路 {circuit}")
            return [CircuitId(circuit)], circuit, "circuit"
        feeds = self._directory.feeds_of(SiteId(site or ""))
        if not feeds:
            raise NotFound(
                f"site {site} is not known or has no circuit with role site_feed",
                message_zh=f"局站 {site} 不存在,或没有 site_feed 回路",
            )
        return feeds, site or "", "site"

    def _check_span(self, start: datetime, end: datetime) -> None:
        if end <= start:
            raise InvalidInput("to: expected a time after from", message_zh="to 必须晚于 from")
        if end - start > timedelta(days=self._days_max):
            raise InvalidInput(
                f"from, to: expected at most {self._days_max} days", message_zh=f"时间跨度最多 {self._days_max} 天"
            )
