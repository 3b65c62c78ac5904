"""Traces of virtual meters: quarter hours, the definition, and what its parts were."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from libs.common.errors import InvalidInput
from services.carbon.domain.booking import floor
from services.carbon.domain.intervals import STEP_S, Grade
from services.carbon.domain.levels.energy import energy_of_years
from services.carbon.domain.virtual import circuits_behind
from services.carbon.domain.why import Because, InputKind, Quality, Rule, Why, recomputed
from services.carbon.queries import Emissions, Queries
from services.carbon.tree import Node
from services.carbon.usecases.virtual import Part, VirtualMeters
from services.carbon.usecases.why.asked import Figure, Wanted, missing, question, stamp, why
from services.carbon.usecases.why.energy import factor_of, marks_of, number, of_year, years_of


class VirtualWhys:
    """Traces of what virtual meters say."""

    def __init__(self, meters: VirtualMeters, queries: Queries) -> None:
        self._meters = meters
        self._queries = queries

    async def node(self, wanted: Wanted) -> Node:
        """Return a virtual meter as a node, for who asks to be checked against its sites."""
        return await self._meters.node(wanted.text("id"))

    async def virtual(self, wanted: Wanted) -> Why:
        """Return what a virtual meter says of a span as the sum of its quarter hours."""
        start, end = wanted.grid
        meter = wanted.text("id")
        found = await self._meters.read(meter, start, end)
        rows = found.intervals
        inputs = [
            Because(
                name="energy of a quarter hour",
                value=float(energy) if np.isfinite(energy) else None,
                unit="kWh",
                kind=InputKind.FIGURE,
                id=meter,
                start=datetime.fromtimestamp(float(at), UTC),
                grade=Grade(int(grade)).flag,
                question={
                    "figure": Figure.VIRTUAL_INTERVAL.value,
                    "id": meter,
                    "start": stamp(datetime.fromtimestamp(float(at), UTC)),
                },
            )
            for at, energy, grade in zip(rows.start, rows.energy_kwh, rows.grade, strict=True)
        ]
        total = found.total
        quality = Quality(
            interval_completeness=total.measured_share,
            usable_share=total.known_share,
            estimated_share=0.0,
            from_parts_share=0.0,
            provisional=False,
        )
        return why(wanted, value=total.energy_kwh, unit="kWh", rule=Rule.SUM, inputs=inputs, quality=quality)

    async def virtual_emission(self, wanted: Wanted) -> Why:
        """Return what a virtual meter emitted in a civil period as the sum over its sites and civil years."""
        found = await self._emissions(wanted)
        start, end = wanted.span
        inputs = [
            Because(
                name=f"emission of {one.year}",
                value=None if one.choice is None else one.energy_kwh * float(one.choice.factor.value),
                unit="kgCO2",
                kind=InputKind.FIGURE,
                id=one.site,
                source="no factor of the grid" if one.choice is None else one.choice.factor.factor_id,
                question=question(
                    Figure.VIRTUAL_YEAR, None, *of_year(start, end, one.year), id=wanted.id, of_site=one.site
                ),
            )
            for one in found.by_site
        ]
        (row,) = found.frame.to_dicts()
        return why(
            wanted,
            value=row["emission_kg_co2"],
            unit="kgCO2",
            rule=Rule.WHOLE_SUM,
            inputs=inputs,
            marks=marks_of(found.choices),
            factors=[one.factor for one in found.choices],
        )

    async def virtual_year(self, wanted: Wanted) -> Why:
        """Return what of a virtual meter's energy is of one site, within a civil year, times the factor of its grid."""
        start, end = wanted.grid
        if wanted.of_site is None or len(years_of(start, end)) != 1:
            raise InvalidInput(
                "of_site, from, to: expected a site of the meter and a span within one civil year",
                message_zh="of_site、from、to:应为虚拟表的局站与同一自然年内的时段",
            )
        node = await self.node(wanted)
        intervals, sites = await self._queries.at_sites(await self._queries.found(node, start, end))
        year = years_of(start, end)[0]
        energies = {(site, one): energy for site, one, energy in energy_of_years(intervals).iter_rows()}
        energy = energies.get((wanted.of_site, year))
        choice = (await self._queries.grid_choices([wanted.of_site], [year])).get((wanted.of_site, year))
        figure, of_site = (Figure.VIRTUAL_SITE, wanted.of_site) if len(sites) > 1 else (Figure.VIRTUAL, None)
        inputs = [
            Because(
                name="A",
                value=energy,
                unit="kWh",
                kind=InputKind.FIGURE,
                id=wanted.of_site,
                question=None if energy is None else question(figure, None, start, end, id=wanted.id, of_site=of_site),
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

    async def virtual_site(self, wanted: Wanted) -> Why:
        """Return what of a virtual meter's energy is of one of its sites, as the sum of its quarter hours."""
        start, end = wanted.grid
        if wanted.of_site is None:
            raise missing("of_site")
        node = await self.node(wanted)
        frame = await self._queries.boundaries.virtual_by_site(node, start, end)
        rows = frame.filter(pl.col("site_id") == wanted.of_site).sort("start")
        behind = circuits_behind(node.id, node.meters)
        circuits = ", ".join(f"{factor:+g} {circuit}" for circuit, factor in behind.items())
        inputs = [
            Because(
                name="the site's part of a quarter hour",
                value=energy,
                unit="kWh",
                kind=InputKind.INTERVAL,
                id=node.id,
                start=at,
                source=f"by {circuits}, those of other sites at zero; a constant by the weights of the sites' circuits",
            )
            for at, energy in rows.select("start", "energy_kwh").iter_rows()
        ]
        value = number(recomputed(Rule.SUM, [one.value for one in inputs]))
        return why(wanted, value=value, unit="kWh", rule=Rule.SUM, inputs=inputs)

    async def _emissions(self, wanted: Wanted) -> Emissions:
        start, end = wanted.span
        return await self._queries.emissions(node=await self.node(wanted), start=start, end=end, step=wanted.period)

    async def virtual_interval(self, wanted: Wanted) -> Why:
        """Return a quarter hour of a virtual meter by its definition; an unknown part may be left out if it says so."""
        at, meter = floor(wanted.span[0]), wanted.text("id")
        found = await self._meters.read(meter, at, at + timedelta(seconds=STEP_S))
        (energy,) = found.intervals.energy_kwh
        defined, parts = await self._meters.parts(meter, at)
        one = defined.meter
        counted = [part for part in parts if part.energy_kwh is not None or not one.allow_partial]
        constant = Because(
            name="constant",
            value=one.constant_kw * STEP_S / 3600.0,
            unit="kWh",
            kind=InputKind.PARAMETER,
            id=meter,
            version=defined.version,
            source=f"{one.constant_kw:g} kW of the definition",
        )
        inputs = [constant]
        for part in counted:
            inputs += _pair(part, at, meter, defined.version)
        value = float(energy) if np.isfinite(energy) else None
        marks = [f"left_out:{part.term.child}" for part in parts if part not in counted]
        return why(
            wanted, value=value, unit="kWh", rule=Rule.WEIGHTED, inputs=inputs, marks=marks, withheld=value is None
        )


def _pair(part: Part, at: datetime, meter: str, version: int) -> list[Because]:
    """Return the factor of a part and its energy."""
    child = part.term.child
    if part.is_virtual:
        asked = {"figure": Figure.VIRTUAL_INTERVAL.value, "id": child, "start": stamp(at)}
    else:
        asked = dict(question(Figure.INTERVAL)) | {"circuit": child, "start": stamp(at)}
    return [
        Because(name="factor", value=part.term.factor, unit="1", kind=InputKind.PARAMETER, id=meter, version=version),
        Because(
            name=child,
            value=part.energy_kwh,
            unit="kWh",
            kind=InputKind.FIGURE if part.is_virtual else InputKind.INTERVAL,
            id=child,
            start=at,
            question=None if part.energy_kwh is None else asked,
        ),
    ]
