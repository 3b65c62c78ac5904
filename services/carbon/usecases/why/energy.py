"""Traces of energies and emissions: figure, circuits, intervals, registers."""

import asyncio
from collections.abc import Iterable
from datetime import datetime, timedelta

import polars as pl

from libs.common.clock import CIVIL_ZONE
from libs.common.errors import InvalidInput, NotFound
from libs.common.ids import CircuitId, SiteId
from services.carbon.boundary import NodeEnergy, SpanEnergy
from services.carbon.domain.booking import INTERVAL_POINT, POWER_POINT, floor
from services.carbon.domain.factors import Choice
from services.carbon.domain.intervals import STEP_S, Grade
from services.carbon.domain.levels.balance import NoPue, it_circuits
from services.carbon.domain.levels.cover import Choose, Dimension, only
from services.carbon.domain.levels.energy import due_by_circuit, energy_of_years, known_energy
from services.carbon.domain.why import Because, InputKind, Number, Quality, Rule, Why, recomputed
from services.carbon.queries import Queries, Trace
from services.carbon.tree import Node, NodeKind
from services.carbon.usecases.why.asked import Figure, Wanted, question, stamp, why

RUNNING = "running"
NAMES = {POWER_POINT: "power", INTERVAL_POINT: "energy of the meter's own interval"}
"""What stands in for a register; everything else that is booked is one."""
REGISTER_GRADES = ("set_aside", "uncertain", "manual")
"""What is told of a register, the gravest first."""
STEP = timedelta(seconds=STEP_S)


class EnergyWhys:
    """Traces out of the books of intervals."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries

    async def energy(self, wanted: Wanted) -> Why:
        """Return the energy of a node as the sum of its circuits'."""
        found = await self._found(wanted)
        start, end = wanted.span
        sums = dict(known_energy(_rows(found, wanted), ["circuit_id"]).iter_rows())
        more = _selection(wanted)
        inputs = [
            Because(
                name="energy of a circuit",
                value=sums.get(circuit),
                unit="kWh",
                kind=InputKind.FIGURE,
                id=circuit,
                source=", ".join(f"meter {one}" for one in self._queries.meters_of(circuit, start, end)),
                question=question(Figure.CIRCUIT, wanted.place, start, end, wanted.dimension, part=circuit, **more),
            )
            for circuit in sorted({term.circuit for term in found.terms if _is_of(term.site, wanted)})
        ]
        if wanted.of_site is not None:
            value = dict(known_energy(found.intervals, ["site_id"]).iter_rows()).get(wanted.of_site)
            return why(wanted, value=value, unit="kWh", rule=Rule.SUM, inputs=inputs)
        whole = await self._whole(found)
        return why(
            wanted, value=whole.energy_kwh, unit="kWh", rule=Rule.SUM, inputs=inputs, quality=_quality(found, whole)
        )

    async def completeness(self, wanted: Wanted) -> Why:
        """Return the share of a node's intervals that is measured, each circuit weighed by what it usually uses."""
        found = await self._found(wanted)
        start, end = wanted.span
        now = self._queries.boundaries.clock.now()
        counted = await asyncio.to_thread(due_by_circuit, found.intervals, found.promise(now), start=start, end=end)
        inputs = [
            Because(
                name=f"{name}: weight of {count} intervals",
                value=weight * count,
                unit="kWh",
                kind=InputKind.PARAMETER,
                id=circuit,
                source=f"each weighs what the circuit usually uses, {weight:g} kWh",
            )
            for circuit, weight, measured, expected in counted
            for name, count in (("measured", measured), ("expected", expected))
        ]
        value = number(recomputed(Rule.QUOTIENT_OF_SUMS, [one.value for one in inputs]))
        quality = _quality(found, await self._whole(found))
        return why(wanted, value=value, unit="1", rule=Rule.QUOTIENT_OF_SUMS, inputs=inputs, quality=quality)

    async def circuit(self, wanted: Wanted) -> Why:
        """Return a circuit's part of a node's energy as the sum of its intervals."""
        found = await self._found(wanted)
        if wanted.part is None or wanted.part not in {term.circuit for term in found.terms}:
            raise NotFound(
                f"part: {wanted.place.kind} {wanted.place.id} has no circuit {wanted.part} in its sum",
                message_zh=f"part:{wanted.place.id} 的合计中没有回路 {wanted.part}",
            )
        start, end = wanted.span
        rows = _rows(found, wanted).filter(pl.col("circuit_id") == wanted.part).sort("start")
        versions = await self._queries.versions(wanted.part, start, end)
        inputs = [
            Because(
                name="energy of an interval",
                value=energy,
                unit="kWh",
                kind=InputKind.INTERVAL,
                id=wanted.part,
                version=None if from_parts or running else versions.get(at),
                start=at,
                grade=RUNNING if running else Grade(grade).flag,
                question=None if running else _of_interval(wanted.part, at, parts=from_parts),
            )
            for at, energy, grade, running, from_parts in rows.select(
                "start", "energy_kwh", "grade", "provisional", "from_parts"
            ).iter_rows()
        ]
        (value,) = known_energy(rows, ["circuit_id"])["energy_kwh"].to_list() or (None,)
        return why(wanted, value=value, unit="kWh", rule=Rule.SUM, inputs=inputs)

    async def parts(self, wanted: Wanted) -> Why:
        """Return a quarter hour of a circuit as the sum of the next level, which stands in for its meter."""
        start, end = _quarter(wanted)
        node = wanted.place
        found = await self._queries.found(node, start, end)
        circuits = sorted({part for term in found.terms for part in term.parts})
        inputs = []
        for circuit in circuits:
            part = await self._queries.boundaries.energy(Node(NodeKind.CIRCUIT, circuit), start, end, _alone(circuit))
            own = part.intervals.filter(~pl.col("from_parts"))
            inputs.append(
                Because(
                    name="energy of an interval",
                    value=own["energy_kwh"][0] if own.height else None,
                    unit="kWh",
                    kind=InputKind.INTERVAL,
                    id=circuit,
                    start=start,
                    grade=Grade(own["grade"][0]).flag if own.height else Grade.MISSING.flag,
                    question=_of_interval(circuit, start, parts=False) if own.height else None,
                )
            )
        value = number(recomputed(Rule.WHOLE_SUM, [one.value for one in inputs]))
        return why(wanted, value=value, unit="kWh", rule=Rule.WHOLE_SUM, inputs=inputs)

    async def interval(self, wanted: Wanted) -> tuple[Why, Trace]:
        """Return an interval with all its versions, its meters, and the registers that it was computed from."""
        start, _ = _quarter(wanted)
        trace = await self._queries.trace(wanted.place.id, start)
        newest = trace.versions[-1]
        named = {one.device_id: NAMES.get(one.point, "register") for one in trace.bindings}
        inputs = [
            Because(
                name=named[row.device_id],
                value=row.shown,
                unit="kW" if named[row.device_id] == NAMES[POWER_POINT] else "kWh",
                kind=InputKind.REGISTER,
                id=row.device_id,
                start=row.source_time,
                grade=next((name for name in REGISTER_GRADES if getattr(row, name)), None),
                source=f"ratio {row.ratio:g}",
            )
            for row in trace.registers
        ]
        marks = [name for name in ("lower_bound", "uncertain") if getattr(newest, name)]
        found = why(
            wanted,
            value=newest.energy_kwh,
            unit="kWh",
            rule=Rule.REGISTERS,
            inputs=inputs,
            marks=[newest.grade.flag, *marks],
        )
        return found, trace

    async def emission(self, wanted: Wanted) -> Why:
        """Return location-based emissions as the sum over sites and civil years."""
        found = await self._found(wanted)
        start, end = wanted.span
        choices = await self._choices(found)
        inputs = []
        for site, year, energy in energy_of_years(found.intervals).iter_rows():
            choice = choices.get((site, year))
            inputs.append(
                Because(
                    name=f"emission of {year}",
                    value=None if choice is None else energy * float(choice.factor.value),
                    unit="kgCO2",
                    kind=InputKind.FIGURE,
                    id=site,
                    source="no factor of the grid" if choice is None else choice.factor.factor_id,
                    question=question(Figure.SITE_YEAR, wanted.place, *of_year(start, end, year), of_site=site),
                )
            )
        value = number(recomputed(Rule.WHOLE_SUM, [one.value for one in inputs]))
        used = {choice.factor.factor_id: choice for choice in choices.values()}
        return why(
            wanted,
            value=value,
            unit="kgCO2",
            rule=Rule.WHOLE_SUM,
            inputs=inputs,
            quality=_quality(found, await self._whole(found)),
            marks=marks_of(used.values()),
            factors=[used[name].factor for name in sorted(used)],
        )

    async def site_year(self, wanted: Wanted) -> Why:
        """Return one site's energy within a civil year times the factor of its grid."""
        if wanted.of_site is None:
            raise InvalidInput("of_site: expected a site of the node", message_zh="of_site:应为该节点的局站")
        found = await self._found(wanted)
        start, end = wanted.span
        year = start.astimezone(CIVIL_ZONE).year
        if (end - timedelta(microseconds=1)).astimezone(CIVIL_ZONE).year != year:
            raise InvalidInput("from, to: expected one civil year", message_zh="from、to:应在同一自然年内")
        rows = {(site, one): energy for site, one, energy in energy_of_years(found.intervals).iter_rows()}
        energy = rows.get((wanted.of_site, year))
        choice = (await self._choices(found)).get((wanted.of_site, year))
        inputs = [
            Because(
                name="A",
                value=energy,
                unit="kWh",
                kind=InputKind.FIGURE,
                id=wanted.of_site,
                question=question(Figure.ENERGY, wanted.place, start, end, of_site=wanted.of_site),
            ),
            factor_of("EF", choice),
        ]
        return why(
            wanted,
            value=number(recomputed(Rule.PRODUCT, [one.value for one in inputs])),
            unit="kgCO2",
            rule=Rule.PRODUCT,
            inputs=inputs,
            marks=marks_of([] if choice is None else [choice]),
            factors=[] if choice is None else [choice.factor],
        )

    async def _found(self, wanted: Wanted) -> NodeEnergy:
        start, end = wanted.grid
        self._queries.boundaries.check_span(start, end)
        if wanted.booked:
            return await self._queries.boundaries.energy(wanted.place, start, end, self._which(wanted))
        return await self._queries.found(wanted.place, start, end, self._which(wanted))

    def _which(self, wanted: Wanted) -> Dimension | Choose:
        """Return which circuits are meant: those of a dimension, or those that measure IT at a category."""
        if wanted.category is None:
            return wanted.dimension
        branches = self._queries.boundaries.tree.branches(wanted.place, *wanted.span)
        circuits = it_circuits(branches, wanted.category)
        if isinstance(circuits, NoPue):
            raise NotFound(
                f"category: {wanted.place.kind} {wanted.place.id} has none, {circuits}",
                message_zh=f"category:{wanted.place.id} 无该级 IT 计量({circuits})",
            )
        return only(*circuits)

    async def _choices(self, found: NodeEnergy) -> dict[tuple[SiteId, int], Choice]:
        years = range(found.start.astimezone(CIVIL_ZONE).year, found.end.astimezone(CIVIL_ZONE).year + 1)
        return await self._queries.grid_choices(sorted({term.site for term in found.terms}), years)

    async def _whole(self, found: NodeEnergy) -> SpanEnergy:
        return await asyncio.to_thread(found.in_span, self._queries.boundaries.clock.now())


def _quality(found: NodeEnergy, one: SpanEnergy) -> Quality:
    return Quality(
        interval_completeness=one.interval_completeness,
        usable_share=one.usable_share,
        estimated_share=one.estimated_share,
        from_parts_share=one.from_parts_share,
        provisional=one.provisional,
        lower_bound=bool(found.intervals["lower_bound"].any()),
        uncertain=bool(found.intervals["uncertain"].any()),
    )


def factor_of(name: str, choice: Choice | None) -> Because:
    """Return a factor as an input."""
    if choice is None:
        return Because(name=name, value=None, unit="kgCO2/kWh", kind=InputKind.FACTOR, source="no factor of the grid")
    factor = choice.factor
    return Because(
        name=name,
        value=float(factor.value),
        unit=factor.unit,
        kind=InputKind.FACTOR,
        id=factor.factor_id,
        version=factor.revision,
        source=factor.source,
    )


def marks_of(choices: Iterable[Choice]) -> list[str]:
    """Return what has to be known of factors before relying on them."""
    found: set[str] = set()
    for choice in choices:
        found |= {"provisional_factor"} if choice.provisional else set()
        found |= {"wider_area"} if choice.fallback else set()
    return sorted(found)


def _is_of(site: SiteId, wanted: Wanted) -> bool:
    return wanted.of_site in (None, site)


def _rows(found: NodeEnergy, wanted: Wanted) -> pl.DataFrame:
    rows = found.intervals
    return rows if wanted.of_site is None else rows.filter(pl.col("site_id") == wanted.of_site)


def _selection(wanted: Wanted) -> dict[str, str | int | None]:
    return {
        "category": None if wanted.category is None else int(wanted.category),
        "of_site": wanted.of_site,
        "booked": "true" if wanted.booked else None,
    }


def of_year(start: datetime, end: datetime, year: int) -> tuple[datetime, datetime]:
    """Return what of a span lies in a civil year."""
    first, last = (datetime(one, 1, 1, tzinfo=CIVIL_ZONE) for one in (year, year + 1))
    return max(start, first), min(end, last)


def _of_interval(circuit: str, at: datetime, *, parts: bool) -> dict[str, str]:
    figure = Figure.PARTS if parts else Figure.INTERVAL
    return {"figure": figure.value, "circuit": circuit, "start": stamp(at)}


def _quarter(wanted: Wanted) -> tuple[datetime, datetime]:
    """Return the quarter hour that the question is about.

    Raises:
        InvalidInput: It names no circuit, or no start.
    """
    if wanted.place.kind is not NodeKind.CIRCUIT or wanted.start is None:
        raise InvalidInput("circuit, start: expected for an interval", message_zh="circuit、start:查询区间电量时必填")
    start = floor(wanted.start)
    return start, start + STEP


def _alone(circuit: str) -> Choose:
    return only(CircuitId(circuit))


def years_of(start: datetime, end: datetime) -> list[int]:
    """Return the civil years that a span has a part of."""
    last = (end - timedelta(microseconds=1)).astimezone(CIVIL_ZONE).year
    return list(range(start.astimezone(CIVIL_ZONE).year, last + 1))


def number(value: Number | None) -> float | None:
    """Return what a rule gave as a float."""
    return None if value is None else float(value)
