"""Traces of figures of a load: PUE, consumption, intensities, demand and load factor."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal

import polars as pl

from libs.common.errors import InvalidInput, NotFound
from libs.common.ids import CircuitId
from services.carbon.boundary import NodeEnergy
from services.carbon.domain.intervals import STEP_S, Grade
from services.carbon.domain.levels.balance import PueCategory
from services.carbon.domain.levels.comparison import Change, Span, per_day
from services.carbon.domain.levels.cover import Dimension
from services.carbon.domain.levels.electrical import IMBALANCE_LOAD_MIN
from services.carbon.domain.levels.energy import STEPS_PER_HOUR, known_energy, totals
from services.carbon.domain.levels.facts import Denominator, FactKind
from services.carbon.domain.samples import EXPORT, REGISTERS
from services.carbon.domain.why import FORMULAS, Because, InputKind, Quality, Question, Rule, Why
from services.carbon.queries import Trace, TracedRegister
from services.carbon.tree import Node, NodeKind
from services.carbon.usecases.levels import Comparison, Flows, Levels
from services.carbon.usecases.supply import Supply
from services.carbon.usecases.why.asked import Figure, Flow, Wanted, missing, question, stamp, why

ANY_STANDARD = Decimal("0.90")
"""A power factor itself does not depend on the standard that its bill is adjusted by."""


class RatioWhys:
    """Traces of what ``usecases/levels`` answers; each is of one civil period."""

    def __init__(self, levels: Levels, supply: Supply) -> None:
        self._levels = levels
        self._supply = supply

    async def pue(self, wanted: Wanted) -> Why:
        """Return a PUE as consumption over IT energy; of a group as sum over sum of its sites."""
        start, end = wanted.span
        category = wanted.category or PueCategory.BASIC
        (found,) = await self._levels.pue(wanted.place, start, end, step=wanted.period, category=category)
        if found.pue is None:
            counted = [(node, one) for node, one in found.parts if one.value is not None]
            pairs = [
                self._sides(node, wanted, category, one.total.energy_kwh, one.it.energy_kwh) for node, one in counted
            ]
            marks = [f"sites_left_out:{found.left_out}"] if found.left_out else []
            return why(
                wanted,
                value=found.value,
                unit="1",
                rule=Rule.QUOTIENT_OF_SUMS,
                inputs=[one for pair in pairs for one in pair],
                marks=marks,
                formula=FORMULAS["pue_group"],
            )
        one = found.pue
        return why(
            wanted,
            value=found.value,
            unit="1",
            rule=Rule.AT_LEAST_ONE,
            inputs=self._sides(wanted.place, wanted, category, one.total.energy_kwh, one.it.energy_kwh),
            quality=_least(one.total.usable, one.it.usable),
            marks=[str(one.kind), f"category_{int(category)}", *([] if one.reason is None else [one.reason.value])],
            withheld=one.reason is not None,
        )

    async def consumed(self, wanted: Wanted) -> Why:
        """Return what a node consumed as the balance of what came in, was generated and went out."""
        start, end = wanted.span
        (found,) = await self._levels.balance(wanted.place, start, end, wanted.period)
        mix = found.mix
        registers = "export registers of the meters, else booked intervals of the circuits"
        others = ((Flow.PHOTOVOLTAICS, mix.pv), (Flow.GENERATORS, mix.generator), (Flow.EXPORTED, mix.exported))
        inputs = [
            _energy("imported", mix.imported, wanted.place, start, end),
            *(
                Because(
                    name=flow.value,
                    value=value,
                    unit="kWh",
                    kind=InputKind.FIGURE,
                    id=wanted.place.id,
                    source=registers,
                    question=question(Figure.FLOW, wanted.place, start, end, flow=flow.value),
                )
                for flow, value in others
            ),
        ]
        return why(
            wanted,
            value=mix.consumed,
            unit="kWh",
            rule=Rule.BALANCE,
            inputs=inputs,
            quality=_least(found.usable, found.usable),
        )

    async def flow(self, wanted: Wanted) -> Why:
        """Return what sources of a node delivered, or what went out of it, as the sum of its circuits."""
        if wanted.flow is None:
            raise missing("flow")
        start, end = wanted.grid
        flows = await self._levels.flows(wanted.place, start, end)
        found: NodeEnergy | None = getattr(flows, wanted.flow.value)
        if found is None:
            return why(wanted, value=0.0, unit="kWh", rule=Rule.STATED, inputs=[], marks=["nothing_that_delivers"])
        if wanted.part is not None:
            return _flow_of(wanted, flows, found, wanted.part)
        sums = dict(known_energy(found.intervals, ["circuit_id"]).iter_rows())
        inputs = [
            Because(
                name="energy of a circuit",
                value=sums.get(circuit),
                unit="kWh",
                kind=InputKind.FIGURE,
                id=circuit,
                question=question(Figure.FLOW, wanted.place, start, end, flow=wanted.flow.value, part=circuit),
            )
            for circuit in sorted({term.circuit for term in found.terms})
        ]
        whole = await asyncio.to_thread(found.in_span, self._levels.boundaries.clock.now())
        quality = _least(whole.usable_share, None)
        return why(wanted, value=whole.energy_kwh, unit="kWh", rule=Rule.SUM, inputs=inputs, quality=quality)

    async def delivered(self, wanted: Wanted) -> tuple[Why, Trace]:
        """Return a quarter hour of a circuit by a sampled register, with what it showed around it.

        That is its meter's register of export, or the reactive one that is named.
        """
        if wanted.place.kind is not NodeKind.CIRCUIT:
            raise missing("circuit")
        start, end = wanted.span
        circuit = CircuitId(wanted.place.id)
        point = wanted.point or EXPORT
        if point not in REGISTERS:
            raise InvalidInput(
                f"point: expected one of {', '.join(sorted(REGISTERS))}, found {point}",
                message_zh=f"point:应为 {'、'.join(sorted(REGISTERS))} 之一,实际为 {point}",
            )
        unit = "kWh" if point == EXPORT else "kvarh"
        found = await self._levels.counted_by(circuit, point, start, end)
        registers = [
            TracedRegister(
                one.device_id, row.source_time, row.value, row.ratio, uncertain=False, set_aside=False, manual=False
            )
            for one, rows in found.samples
            for row in rows
        ]
        inputs = [
            Because(
                name="register of export" if point == EXPORT else point,
                value=row.shown,
                unit=unit,
                kind=InputKind.REGISTER,
                id=row.device_id,
                start=row.source_time,
                source=f"ratio {row.ratio:g}",
            )
            for row in registers
        ]
        grade = Grade.MISSING if found.intervals.is_empty() else Grade(found.intervals["grade"][0])
        value = None if found.intervals.is_empty() else found.intervals["energy_kwh"][0]
        below = Trace(circuit, start, end, [], [one for one, _ in found.samples], registers, found.rated_kw)
        return why(wanted, value=value, unit=unit, rule=Rule.REGISTERS, inputs=inputs, marks=[grade.flag]), below

    async def imbalance(self, wanted: Wanted) -> Why:
        """Return the highest current imbalance of a circuit in a period, by the currents of its quarter hour."""
        if wanted.place.kind is not NodeKind.CIRCUIT:
            raise missing("circuit")
        start, end = wanted.span
        (found,) = await self._supply.imbalance(wanted.place, start, end, step=wanted.period)
        row = next(iter(found.frame.to_dicts()), None)
        at = None if row is None else row["deviation_max_at"]
        phases = {} if at is None else await self._supply.currents(CircuitId(wanted.place.id), at)
        inputs = [
            Because(
                name=name,
                value=abs(current),
                unit="A",
                kind=InputKind.REGISTER,
                id=wanted.place.id,
                start=at,
                source="first report of the quarter hour",
            )
            for name, current in phases.items()
        ]
        rated = found.rated_current_a
        marks = [] if rated is None else [f"below {IMBALANCE_LOAD_MIN:.0%} of {rated:g} A there is none"]
        value = None if row is None else row["deviation_max"]
        return why(
            wanted, value=value, unit="1", rule=Rule.DEVIATION, inputs=inputs, marks=marks, withheld=value is None
        )

    async def intensity(self, wanted: Wanted) -> Why:
        """Return an energy over an area, a head count or an output; of a group as sum over sum."""
        if wanted.kind is None:
            raise missing("kind")
        start, end = wanted.span
        (found,) = await self._levels.intensity(wanted.place, start, end, step=wanted.period, kinds=[wanted.kind])
        (one,) = found.figures
        if one.parts:
            pairs = [_over(node, wanted, wanted.kind, energy, den) for node, energy, den in one.parts]
        else:
            pairs = [_over(wanted.place, wanted, wanted.kind, one.energy_kwh, one.denominator)]
        reason = one.denominator.reason
        marks = [f"sites_left_out:{one.left_out}"] if one.left_out else []
        return why(
            wanted,
            value=one.value,
            unit=f"kWh/{_unit(wanted.kind, one.denominator)}",
            rule=Rule.QUOTIENT_OF_SUMS,
            inputs=[each for pair in pairs for each in pair],
            marks=marks if reason is None else [*marks, reason.value],
            withheld=one.value is None,
        )

    async def share(self, wanted: Wanted) -> Why:
        """Return the energy of some circuits over that of their node."""
        start, end = wanted.grid
        if wanted.dimension.is_free and wanted.of_site is None:
            raise missing("role, tag, use, level, of_site")
        boundaries = self._levels.boundaries
        boundaries.check_span(start, end)
        part_of = wanted.place
        if wanted.of_site is not None:
            if wanted.of_site not in {site for site, _, _ in boundaries.sites(wanted.place, start, end)}:
                raise NotFound(
                    f"of_site: {wanted.place.kind} {wanted.place.id} has no site {wanted.of_site}",
                    message_zh=f"of_site:{wanted.place.id} 不包含局站 {wanted.of_site}",
                )
            part_of = Node(NodeKind.SITE, wanted.of_site)
        found = await boundaries.energies([(part_of, wanted.dimension), (wanted.place, None)], start, end)
        now = boundaries.clock.now()
        part, whole = [await asyncio.to_thread(one.in_span, now) for one in found]
        inputs = [
            _energy("E_part", part.energy_kwh, part_of, start, end, wanted.dimension),
            _energy("E", whole.energy_kwh, wanted.place, start, end),
        ]
        value = None
        if part.energy_kwh is not None and whole.energy_kwh:
            value = part.energy_kwh / whole.energy_kwh
        quality = _least(part.usable_share, whole.usable_share)
        return why(wanted, value=value, unit="1", rule=Rule.QUOTIENT, inputs=inputs, quality=quality)

    async def change(self, wanted: Wanted) -> Why:
        """Return the change of a period's energy against the same of a year earlier, or the period before."""
        found = await self._compared(wanted)
        inputs = [
            _energy("E", found.energy.energy_kwh, wanted.place, found.current.start, found.current.end),
            _energy("E_base", found.base_energy.energy_kwh, wanted.place, found.base.start, found.base.end),
        ]
        return _changed(wanted, found, found.raw, inputs)

    async def change_daily(self, wanted: Wanted) -> Why:
        """Return the same per day of each span, which is what counts where one of them has a leap day."""
        found = await self._compared(wanted)
        inputs = [
            Because(
                name=name,
                value=per_day(energy.energy_kwh, span),
                unit="kWh/d",
                kind=InputKind.FIGURE,
                id=wanted.place.id,
                start=span.start,
                question=None
                if energy.energy_kwh is None
                else question(Figure.PER_DAY, wanted.place, span.start, span.end),
            )
            for name, energy, span in (
                ("E/d", found.energy, found.current),
                ("E_base/d_base", found.base_energy, found.base),
            )
        ]
        return _changed(wanted, found, found.daily, inputs)

    async def like_for_like(self, wanted: Wanted) -> Why:
        """Return the change of the sites whose energy is known well enough in both spans."""
        found = await self._compared(wanted)
        inputs = [
            _energy(name, value, node, span.start, span.end)
            for node, now, before in found.alike
            for name, value, span in (("E", now, found.current), ("E_base", before, found.base))
        ]
        reason = found.like_for_like.reason
        marks = [f"sites_left_out:{found.left_out}"] if found.left_out else []
        return why(
            wanted,
            value=found.like_for_like.relative,
            unit="1",
            rule=Rule.CHANGE_OF_SUMS,
            inputs=inputs,
            marks=marks if reason is None else [*marks, reason.value],
            withheld=reason is not None,
        )

    async def _compared(self, wanted: Wanted) -> Comparison:
        start, _ = wanted.span
        compared = await self._levels.comparison(wanted.place, start, step=wanted.period)
        return next(one for one in compared if one.against is wanted.against)

    async def per_day(self, wanted: Wanted) -> Why:
        """Return the energy of a span per day of it."""
        start, end = wanted.grid
        boundaries = self._levels.boundaries
        boundaries.check_span(start, end)
        whole = await asyncio.to_thread(
            (await boundaries.energy(wanted.place, start, end)).in_span, boundaries.clock.now()
        )
        span = Span(start, end)
        inputs = [
            _energy("E", whole.energy_kwh, wanted.place, start, end),
            Because(name="days", value=span.days, unit="d", kind=InputKind.PARAMETER),
        ]
        value = per_day(whole.energy_kwh, span)
        return why(wanted, value=value, unit="kWh/d", rule=Rule.QUOTIENT, inputs=inputs)

    async def clean_share(self, wanted: Wanted) -> Why:
        """Return self-used photovoltaics over consumption."""
        start, end = wanted.span
        (found,) = await self._levels.balance(wanted.place, start, end, wanted.period)
        inputs = [
            Because(
                name="self-used photovoltaics",
                value=found.mix.pv_self_used,
                unit="kWh",
                kind=InputKind.FIGURE,
                id=wanted.place.id,
                source="photovoltaics less what was exported, at least 0",
            ),
            Because(
                name="consumption",
                value=found.mix.consumed,
                unit="kWh",
                kind=InputKind.FIGURE,
                id=wanted.place.id,
                question=question(Figure.CONSUMED, wanted.place, start, end),
            ),
        ]
        quality = _least(found.usable, found.usable)
        return why(wanted, value=found.mix.clean_share, unit="1", rule=Rule.QUOTIENT, inputs=inputs, quality=quality)

    async def power_factor(self, wanted: Wanted) -> Why:
        """Return a power factor by its active and reactive energy."""
        start, end = wanted.span
        period = wanted.period
        (found,) = await self._supply.power_factor(wanted.place, start, end, step=period, standard=ANY_STANDARD)
        quarters = f"of {found.quarters} quarter hours of which both are known"
        inputs = [
            Because(name=name, value=value, unit=unit, kind=InputKind.FIGURE, id=wanted.place.id, source=quarters)
            for name, value, unit in (("Wp", found.active_kwh, "kWh"), ("Wq", found.reactive_kvarh, "kvarh"))
        ]
        return why(
            wanted,
            value=found.power_factor,
            unit="1",
            rule=Rule.OVER_HYPOTENUSE,
            inputs=inputs,
            quality=_least(found.known_share, None),
        )

    async def demand(self, wanted: Wanted) -> Why:
        """Return the highest mean power of a quarter hour as four times its energy."""
        return await self._extreme(wanted, "max")

    async def lowest(self, wanted: Wanted) -> Why:
        """Return the lowest mean power of a quarter hour likewise."""
        return await self._extreme(wanted, "min")

    async def mean_load(self, wanted: Wanted) -> Why:
        """Return the mean power of a period as four times the mean of its known quarter hours."""
        start, end = wanted.span
        found = await self._levels.profile(wanted.place, start, end, step=wanted.period, dimension=wanted.dimension)
        (row,) = found.frame.to_dicts()
        every = await asyncio.to_thread(totals, found.found.intervals, found.found.terms)
        known = every.filter(pl.col("energy_kwh").is_not_null())
        inputs = [
            Because(name="quarter hours", value=STEPS_PER_HOUR, unit="1/h", kind=InputKind.PARAMETER),
            Because(
                name="known quarter hours", value=float(known.height) or None, unit="1", kind=InputKind.PARAMETER,
                source="those of which every circuit is known",
            ),
            *(
                Because(
                    name="energy of a quarter hour",
                    value=energy,
                    unit="kWh",
                    kind=InputKind.FIGURE,
                    id=wanted.place.id,
                    start=at,
                    question=_quarter(wanted, at),
                )
                for at, energy in known.select("start", "energy_kwh").iter_rows()
            ),
        ]  # fmt: skip
        return why(wanted, value=row["mean_kw"], unit="kW", rule=Rule.BY_FACTOR, inputs=inputs)

    async def _extreme(self, wanted: Wanted, which: str) -> Why:
        start, end = wanted.span
        found = await self._levels.profile(wanted.place, start, end, step=wanted.period, dimension=wanted.dimension)
        (row,) = found.frame.to_dicts()
        at, power = row[f"{which}_at"], row[f"{which}_kw"]
        energy = Because(
            name="energy of the quarter hour",
            value=None if power is None else power / STEPS_PER_HOUR,
            unit="kWh",
            kind=InputKind.FIGURE,
            id=wanted.place.id,
            start=at,
            question=None if at is None else _quarter(wanted, at),
        )
        hours = Because(name="quarter hours", value=STEPS_PER_HOUR, unit="1/h", kind=InputKind.PARAMETER)
        return why(wanted, value=power, unit="kW", rule=Rule.PRODUCT, inputs=[hours, energy])

    async def load_factor(self, wanted: Wanted) -> Why:
        """Return mean over highest power of a period."""
        start, end = wanted.span
        found = await self._levels.profile(wanted.place, start, end, step=wanted.period, dimension=wanted.dimension)
        (row,) = found.frame.to_dicts()
        value = row["load_factor"]
        inputs = [
            Because(
                name="mean",
                value=row["mean_kw"],
                unit="kW",
                kind=InputKind.FIGURE,
                id=wanted.place.id,
                source=f"of {row['curve_quarters'] or 0} quarter hours of which all circuits are known",
                question=None
                if row["mean_kw"] is None
                else question(Figure.MEAN_LOAD, wanted.place, start, end, wanted.dimension),
            ),
            Because(
                name="max",
                value=row["max_kw"],
                unit="kW",
                kind=InputKind.FIGURE,
                id=wanted.place.id,
                start=row["max_at"],
                question=question(Figure.DEMAND, wanted.place, start, end, wanted.dimension),
            ),
        ]
        return why(
            wanted, value=value, unit="1", rule=Rule.AT_MOST_ONE, inputs=inputs, withheld=value is None,
            marks=[] if value is not None else ["no_highest_power_above_the_mean"],
        )  # fmt: skip

    def _sides(
        self, node: Node, wanted: Wanted, category: PueCategory, total: float | None, it: float | None
    ) -> list[Because]:
        start, end = wanted.span
        return [
            Because(
                name="E_DC",
                value=total,
                unit="kWh",
                kind=InputKind.FIGURE,
                id=node.id,
                question=None if total is None else question(Figure.CONSUMED, node, start, end),
            ),
            Because(
                name="E_IT",
                value=it,
                unit="kWh",
                kind=InputKind.FIGURE,
                id=node.id,
                question=None if it is None else _it(node, start, end, category),
            ),
        ]


def _flow_of(wanted: Wanted, flows: Flows, found: NodeEnergy, circuit: CircuitId) -> Why:
    """Return one circuit's part of a flow as the sum of its quarter hours."""
    rows = found.intervals.filter(pl.col("circuit_id") == circuit).sort("start")
    by_export = circuit in flows.by_export
    figure = Figure.DELIVERED if by_export else Figure.INTERVAL
    inputs = [
        Because(
            name="energy of a quarter hour",
            value=energy,
            unit="kWh",
            kind=InputKind.INTERVAL,
            id=circuit,
            start=at,
            grade=Grade(grade).flag,
            source="register of export" if by_export else "booked interval",
            question={"figure": figure.value, "circuit": circuit, "start": stamp(at)},
        )
        for at, energy, grade in rows.select("start", "energy_kwh", "grade").iter_rows()
    ]
    (value,) = known_energy(rows, ["circuit_id"])["energy_kwh"].to_list() or (None,)
    return why(wanted, value=value, unit="kWh", rule=Rule.SUM, inputs=inputs)


def _changed(wanted: Wanted, found: Comparison, change: Change, inputs: Sequence[Because]) -> Why:
    """Return a change of the whole node's energy, which is as good as the worse known of both spans."""
    return why(
        wanted,
        value=change.relative,
        unit="1",
        rule=Rule.CHANGE,
        inputs=inputs,
        quality=_least(found.energy.usable_share, found.base_energy.usable_share),
        marks=[] if change.reason is None else [change.reason.value],
        withheld=change.reason is not None,
    )


def _energy(
    name: str, value: float | None, node: Node, start: datetime, end: datetime, dimension: Dimension | None = None
) -> Because:
    asked = question(Figure.ENERGY, node, start, end, dimension, booked="true")
    return Because(
        name=name,
        value=value,
        unit="kWh",
        kind=InputKind.FIGURE,
        id=node.id,
        start=start,
        question=None if value is None else asked,
    )


def _it(node: Node, start: datetime, end: datetime, category: PueCategory) -> Question:
    return question(Figure.ENERGY, node, start, end, category=int(category), booked="true")


def _quarter(wanted: Wanted, at: datetime) -> Question:
    end = at + timedelta(seconds=STEP_S)
    return question(Figure.ENERGY, wanted.place, at, end, wanted.dimension, booked="true")


_UNITS = {
    FactKind.AREA: "m2",
    FactKind.PERSONS: "person",
    FactKind.OUTPUT_VALUE: "1e4 CNY",
    FactKind.VALUE_ADDED: "1e4 CNY",
}


def _unit(kind: FactKind, den: Denominator) -> str:
    return _UNITS.get(kind) or den.basis or "1"


def _over(node: Node, wanted: Wanted, kind: FactKind, energy: float | None, den: Denominator) -> Sequence[Because]:
    start, end = wanted.span
    return (
        _energy("E", energy, node, start, end),
        Because(
            name="D",
            value=den.value,
            unit=_unit(kind, den),
            kind=InputKind.FACT,
            id=f"{node.id}/{kind.value}",
            source="entered facts, weighted by their days; the registry's where none is entered",
        ),
    )


def _least(one: float | None, other: float | None) -> Quality:
    """Return what is known of both sides of a quotient."""
    known = [share for share in (one, other) if share is not None]
    return Quality(
        interval_completeness=None,
        usable_share=min(known, default=None),
        estimated_share=0.0,
        from_parts_share=0.0,
        provisional=False,
    )
