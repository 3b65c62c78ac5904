"""Quality and load of a supply: power factor and what it costs, imbalance of phases, load of transformers and lines."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal

import polars as pl

from libs.common.clock import CIVIL_ZONE
from libs.common.db import Database
from libs.common.ids import CircuitId, SiteId
from services.carbon.boundary import Asked, Boundaries, NodeEnergy, TooMuchAtOnce
from services.carbon.directory import RegistryDirectory
from services.carbon.domain.intervals import STEP_S
from services.carbon.domain.levels.comparison import Span
from services.carbon.domain.levels.cover import only, topmost
from services.carbon.domain.levels.electrical import (
    LoadRate,
    Rating,
    adjustment,
    billed_power_factor,
    current_imbalance,
    imbalance_by_period,
    load_rate,
    power_factor,
    rated_current_a,
    voltage_unbalance,
)
from services.carbon.domain.levels.energy import circuits_of, node_intervals, totals
from services.carbon.domain.levels.facts import Fact, FactKind, weighted
from services.carbon.domain.levels.periods import Step, period_of, periods
from services.carbon.domain.samples import CURRENTS, LINE_VOLTAGES, REACTIVE, REACTIVE_TOTAL
from services.carbon.store import levels as store
from services.carbon.supply import Samples, phase_frame, read_samples, register_frame
from services.carbon.tree import Node, NodeKind
from services.carbon.usecases.levels import SAMPLED_MAX, midnight

FACT_OF = {Rating.TRANSFORMER: FactKind.TRANSFORMER, Rating.LINE: FactKind.LINE}


@dataclass(frozen=True, slots=True)
class PowerFactorPeriod:
    """Power factor of a node in one period, of the quarter hours in which both energies are known."""

    span: Span
    active_kwh: float | None
    reactive_kvarh: float | None
    """Imported and exported, each by its size. [kvarh]"""
    power_factor: float | None
    billed: Decimal | None
    """Rounded as bills do."""
    adjustment: Decimal | None
    """By which share basic and energy fee are raised; negative lowers them. [1]"""
    quarters: int
    known_share: float | None
    """Quarter hours with both energies over those with active energy. [1]"""


@dataclass(frozen=True)
class CircuitImbalance:
    """Imbalance of one circuit by period; ``frame`` as ``imbalance_by_period`` returns it."""

    circuit: CircuitId
    rated_current_a: float | None
    """Below 5 % of it there is no imbalance; None where the circuit has no rated power and nothing is left out."""
    frame: pl.DataFrame


@dataclass(frozen=True, slots=True)
class PlaceLoad:
    """Load rate of a transformer or line of a site, or of all of its transformers."""

    site: SiteId
    rate: LoadRate


@dataclass(frozen=True)
class Loading:
    """What a transformer or line of a site carried, or all of its transformers, with what that is known by."""

    site: SiteId
    what: Rating
    name: str
    """Empty for all transformers of the site."""
    rated_kva: float | None
    found: NodeEnergy
    samples: Samples = field(repr=False)
    directory: RegistryDirectory = field(repr=False)

    def power(self) -> pl.DataFrame:
        """Return what ``load_rate`` takes."""
        return _power(self.found, self.samples, self.directory)

    def by_circuit(self, at: datetime) -> list[tuple[CircuitId, float | None, float | None]]:
        """Return of a quarter hour each circuit with its active [kWh] and reactive [kvarh] energy."""
        frames = (self.found.intervals, _reactive(self.found, self.samples, self.directory))
        active, reactive = (
            dict(frame.filter(pl.col("start") == at).select("circuit_id", "energy_kwh").iter_rows()) for frame in frames
        )
        here = sorted({term.circuit for term in self.found.terms if term.start <= at < term.end})
        return [(circuit, active.get(circuit), reactive.get(circuit)) for circuit in here]


class Supply:
    """Reads only."""

    def __init__(self, *, db: Database, boundaries: Boundaries, directory: RegistryDirectory) -> None:
        self._db = db
        self.boundaries = boundaries
        self._directory = directory

    async def power_factor(
        self, node: Node, start: datetime, end: datetime, *, step: Step, standard: Decimal
    ) -> list[PowerFactorPeriod]:
        """Return a node's power factor by civil period, and the adjustment of the bill by a standard."""
        first, last = self.boundaries.whole_periods(start, end, step)
        found = await self.boundaries.energy(node, first, last)
        samples = await self._samples(circuits_of(found.terms), [*REACTIVE, REACTIVE_TOTAL], first, last)
        power = await asyncio.to_thread(_power, found, samples, self._directory)
        sums = {
            row["period"]: row
            for row in power.group_by(period_of(step).alias("period"))
            .agg(
                pl.col("energy_kwh").filter(pl.col("reactive_kvarh").is_not_null()).sum(),
                pl.col("reactive_kvarh").sum(),
                (pl.col("energy_kwh").is_not_null() & pl.col("reactive_kvarh").is_not_null()).sum().alias("quarters"),
                pl.col("energy_kwh").is_not_null().sum().alias("active"),
            )
            .to_dicts()
        }
        answers = []
        for begin, finish in periods(step, first, last).iter_rows():
            row = sums.get(begin)
            known = row is not None and row["quarters"] > 0
            active = row["energy_kwh"] if row is not None and known else None
            reactive = row["reactive_kvarh"] if row is not None and known else None
            factor = power_factor(active, reactive)
            billed = None if factor is None else billed_power_factor(factor)
            answers.append(
                PowerFactorPeriod(
                    span=Span(begin, finish),
                    active_kwh=active,
                    reactive_kvarh=reactive,
                    power_factor=factor,
                    billed=billed,
                    adjustment=None if billed is None else adjustment(billed, standard),
                    quarters=0 if row is None else row["quarters"],
                    known_share=row["quarters"] / row["active"] if row is not None and row["active"] else None,
                )
            )
        return answers

    async def imbalance(self, node: Node, start: datetime, end: datetime, *, step: Step) -> list[CircuitImbalance]:
        """Return the three-phase imbalance of each feed of a node by civil period.

        Currents and voltages are those of the first report of each quarter hour.
        """
        first, last = self.boundaries.whole_periods(start, end, step)
        circuits = sorted({term.circuit for term in self.boundaries.tree.terms(node, first, last)})
        samples = await self._samples(circuits, [*CURRENTS, *LINE_VOLTAGES], first, last)
        phases = await asyncio.to_thread(phase_frame, self._directory, samples, circuits, first, last)
        answers = []
        for circuit in circuits:
            mine = phases.filter(pl.col("circuit_id") == circuit)
            rated = rated_current_a(self._directory.rated_kw(circuit))
            currents = current_imbalance(
                mine.select("start", *(pl.col(name).alias(name[-1]) for name in CURRENTS)), rated
            )
            voltage = voltage_unbalance(mine.select(LINE_VOLTAGES).to_numpy().astype(float))
            both = currents.with_columns(pl.Series("voltage", voltage, dtype=pl.Float64).fill_nan(None))
            answers.append(CircuitImbalance(circuit, rated, imbalance_by_period(both, step)))
        return answers

    async def currents(self, circuit: CircuitId, at: datetime) -> dict[str, float]:
        """Return the phase currents of a circuit in the quarter hour that begins at a time, by point. [A]"""
        end = at + timedelta(seconds=STEP_S)
        samples = await self._samples([circuit], CURRENTS, at, end)
        rows = phase_frame(self._directory, samples, [circuit], at, end).to_dicts()
        return {point: row[point] for row in rows for point in CURRENTS if row[point] is not None}

    async def load_rates(self, node: Node, start: datetime, end: datetime) -> list[PlaceLoad]:
        """Return the load rates of the transformers and lines that a node's circuits name.

        Of several transformers of a site together it is total over the sum of ratings, and unknown where one is.
        """
        found = await self.loads(node, start, end)
        return await asyncio.to_thread(
            lambda: [PlaceLoad(one.site, load_rate(one.power(), one.rated_kva, one.what, one.name)) for one in found]
        )

    async def loads(self, node: Node, start: datetime, end: datetime) -> list[Loading]:
        """Return the transformers and lines that a node's circuits name, with what they carried; ``load_rates``."""
        first, last = self.boundaries.whole_periods(start, end, Step.DAY)
        fed: dict[tuple[SiteId, Rating, str], list[CircuitId]] = {}
        branches = self.boundaries.tree.branches(node, first, last)
        for what, named in ((Rating.TRANSFORMER, "transformer"), (Rating.LINE, "line")):
            for site in sorted({branch.site for branch in branches}):
                there = [one for one in branches if one.site == site and getattr(one, named) is not None]
                for name in sorted({getattr(one, named) for one in there}):
                    mine = topmost([one for one in there if getattr(one, named) == name])
                    fed[site, what, name] = [one.circuit for one in mine]
                if what is Rating.TRANSFORMER and len({getattr(one, named) for one in there}) > 1:
                    fed[site, what, ""] = [one.circuit for one in topmost(there)]
        if not fed:
            return []
        asked: list[Asked] = [(Node(NodeKind.SITE, site), only(*mine)) for (site, _, _), mine in fed.items()]
        found = await self.boundaries.energies(asked, first, last)
        circuits = sorted({circuit for mine in fed.values() for circuit in mine})
        samples = await self._samples(circuits, [*REACTIVE, REACTIVE_TOTAL], first, last)
        days = (first.astimezone(CIVIL_ZONE).date(), last.astimezone(CIVIL_ZONE).date())
        async with self._db.read() as conn:
            rows = await store.fetch_facts(conn, sorted({site for site, _, _ in fed}), list(FACT_OF.values()), *days)
        ratings = [fact for fact, _ in rows]
        return [
            Loading(*key, _rated(key, fed, ratings, first, last), one, samples, self._directory)
            for key, one in zip(fed, found, strict=True)
        ]

    async def reactive_of(self, circuit: CircuitId, at: datetime) -> dict[str, float | None]:
        """Return what the reactive registers of a circuit's meters counted in a quarter hour, by point. [kvarh]

        That is each of import and export, or their total where the meter has neither.
        """
        end = at + timedelta(seconds=STEP_S)
        points = [*REACTIVE, REACTIVE_TOTAL]
        samples = await self._samples([circuit], points, at, end)
        found: dict[str, float | None] = {}
        for point in points:
            frame = register_frame(self._directory, samples, [circuit], point, at, end)
            if not frame.is_empty():
                found[point] = frame["energy_kwh"][0]
        both = {point: found[point] for point in REACTIVE if point in found}
        return both or found

    async def _samples(
        self, circuits: Sequence[CircuitId], points: Sequence[str], first: datetime, last: datetime
    ) -> Samples:
        if len(circuits) > SAMPLED_MAX:
            raise TooMuchAtOnce(
                f"expected at most {SAMPLED_MAX} circuits, found {len(circuits)}; ask for a smaller node",
                message_zh=f"最多 {SAMPLED_MAX} 个回路,实际 {len(circuits)} 个;请缩小范围",
            )
        async with self._db.read() as conn:
            return await read_samples(conn, self._directory, circuits, points, first, last)


def _reactive(found: NodeEnergy, samples: Samples, directory: RegistryDirectory) -> pl.DataFrame:
    """Return the reactive energy of a node's circuits as a frame of its intervals. [kvarh]"""
    circuits = sorted({term.circuit for term in found.terms})
    span = (found.start, found.end)
    both = pl.concat([register_frame(directory, samples, circuits, point, *span) for point in REACTIVE])
    rest = [circuit for circuit in circuits if circuit not in set(both["circuit_id"].to_list())]
    reactive = pl.concat(
        [
            # A meter that has both registers is known where both are.
            both.group_by("circuit_id", "start").agg(
                pl.when(pl.col("energy_kwh").is_not_null().all()).then(pl.col("energy_kwh").sum()).alias("energy_kwh"),
                pl.col("grade").max(),
                pl.col("lower_bound").any(),
                pl.col("uncertain").any(),
                pl.col("provisional").any(),
            ),
            register_frame(directory, samples, rest, REACTIVE_TOTAL, *span),
        ]
    )
    return node_intervals(reactive, [replace(term, parts=()) for term in found.terms])


def _power(found: NodeEnergy, samples: Samples, directory: RegistryDirectory) -> pl.DataFrame:
    """Return ``start``, ``energy_kwh``, ``reactive_kvarh`` of a node by quarter hour, null unless all have it."""
    terms = [replace(term, parts=()) for term in found.terms]
    reacted = totals(_reactive(found, samples, directory), terms).select(
        "start", pl.col("energy_kwh").alias("reactive_kvarh")
    )
    return (
        totals(found.intervals, found.terms)
        .select("start", "energy_kwh")
        .join(reacted, on="start", how="left")
        .sort("start")
    )


def _rated(
    key: tuple[SiteId, Rating, str],
    fed: Mapping[tuple[SiteId, Rating, str], object],
    ratings: Sequence[Fact],
    first: datetime,
    last: datetime,
) -> float | None:
    """Return a rating, or the sum of a site's; of a rating that changes the mean over time. [kVA]"""
    site, what, name = key
    names = [name] if name else [one for place, kind, one in fed if (place, kind) == (site, what) and one]
    found = []
    for each in names:
        held: list[tuple[datetime, datetime, float | None]] = [
            (midnight(one.first_day), midnight(one.end_day), one.value)
            for one in ratings
            if (one.node, one.kind, one.subject) == (site, FACT_OF[what], each)
        ]
        value = weighted(held, first, last).value
        if value is None:
            return None
        found.append(value)
    return sum(found)
