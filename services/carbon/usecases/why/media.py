"""Traces of other media than electricity: quantities down to their registers, and what they emitted."""

import polars as pl

from libs.common.errors import NotFound
from libs.common.ids import CircuitId, SiteId
from services.carbon.domain.booking import floor
from services.carbon.domain.emissions.knowledge import Emission
from services.carbon.domain.intervals import Grade
from services.carbon.domain.levels.energy import known_energy
from services.carbon.domain.why import Because, InputKind, Rule, Why, recomputed
from services.carbon.queries import Trace
from services.carbon.tree import NodeKind
from services.carbon.usecases.media import Emitted, MediaUses, point_of
from services.carbon.usecases.why.asked import Figure, Wanted, missing, question, stamp, why


class MediaWhys:
    """Traces of what ``usecases/media.py`` answers; the register is named by ``point``."""

    def __init__(self, media: MediaUses) -> None:
        self._media = media

    async def medium(self, wanted: Wanted) -> Why:
        """Return what a node, or what of it lies at one site, used as the sum of its circuits."""
        start, end = wanted.grid
        point = wanted.text("point")
        found = await self._media.summed(wanted.place, point, start, end)
        rows = _rows(found.intervals, wanted.of_site)
        sums = dict(known_energy(rows, ["circuit_id"]).iter_rows())
        inputs = [
            Because(
                name="quantity of a circuit",
                value=sums.get(circuit),
                unit=found.of.unit,
                kind=InputKind.FIGURE,
                id=circuit,
                question=question(
                    Figure.MEDIUM_CIRCUIT, wanted.place, start, end, part=circuit, point=point, of_site=wanted.of_site
                ),
            )
            for circuit in sorted({term.circuit for term in found.terms if wanted.of_site in (None, term.site)})
        ]
        value = recomputed(Rule.SUM, [one.value for one in inputs])
        return why(wanted, value=value, unit=found.of.unit, rule=Rule.SUM, inputs=inputs)

    async def medium_circuit(self, wanted: Wanted) -> Why:
        """Return a circuit's part of it as the sum of its intervals."""
        start, end = wanted.grid
        point, circuit = wanted.text("point"), wanted.text("part")
        found = await self._media.summed(wanted.place, point, start, end)
        rows = _rows(found.intervals, wanted.of_site).filter(pl.col("circuit_id") == circuit).sort("start")
        if rows.is_empty():
            raise NotFound(
                f"part: {wanted.place.kind} {wanted.place.id} has no circuit {circuit} in its sum of {point}",
                message_zh=f"part:{wanted.place.id} 的 {point} 合计中没有回路 {circuit}",
            )
        inputs = [
            Because(
                name="quantity of an interval",
                value=quantity,
                unit=found.of.unit,
                kind=InputKind.INTERVAL,
                id=circuit,
                start=at,
                grade=Grade(grade).flag,
                question={
                    "figure": Figure.MEDIUM_INTERVAL.value, "circuit": circuit, "start": stamp(at), "point": point,
                },
            )
            for at, quantity, grade in rows.select("start", "energy_kwh", "grade").iter_rows()
        ]  # fmt: skip
        (value,) = known_energy(rows, ["circuit_id"])["energy_kwh"].to_list() or (None,)
        return why(wanted, value=value, unit=found.of.unit, rule=Rule.SUM, inputs=inputs)

    async def medium_interval(self, wanted: Wanted) -> tuple[Why, Trace]:
        """Return an interval of a medium with its versions, meters and registers."""
        if wanted.place.kind is not NodeKind.CIRCUIT or wanted.start is None:
            raise missing("circuit, start")
        point = wanted.text("point")
        of = point_of(point)
        trace = await self._media.trace(CircuitId(wanted.place.id), point, floor(wanted.start))
        newest = trace.versions[-1]
        inputs = [
            Because(
                name="register",
                value=row.shown,
                unit=of.unit,
                kind=InputKind.REGISTER,
                id=row.device_id,
                start=row.source_time,
                grade=next((name for name in ("set_aside", "uncertain", "manual") if getattr(row, name)), None),
                source=f"ratio {row.ratio:g}",
            )
            for row in trace.registers
        ]
        marks = [name for name in ("lower_bound", "uncertain") if getattr(newest, name)]
        found = why(
            wanted, value=newest.energy_kwh, unit=of.unit, rule=Rule.REGISTERS, inputs=inputs,
            marks=[newest.grade.flag, *marks],
        )  # fmt: skip
        return found, trace

    async def medium_emission(self, wanted: Wanted) -> Why:
        """Return what a medium emitted in a civil period as the sum over the node's sites."""
        start, end = wanted.span
        found, by_site = await self._emitted(wanted)
        inputs = [
            Because(
                name="emission of a site",
                value=one.figure.value,
                unit=one.figure.unit,
                kind=InputKind.FIGURE,
                id=site,
                question=dict(question(Figure.MEDIUM_SITE, wanted.place, start, end, point=wanted.point, of_site=site))
                | assumed_of(wanted),
            )
            for site, one in sorted(by_site.items())
        ]
        return why(
            wanted,
            value=recomputed(Rule.WHOLE_SUM, [one.value for one in inputs]),
            unit="kgCO2e",
            rule=Rule.WHOLE_SUM,
            inputs=inputs,
            marks=_marks(found, list(by_site.values())),
            factors=list({one.factor_id: one for each in by_site.values() for one in each.used}.values()),
        )

    async def medium_site(self, wanted: Wanted) -> Why:
        """Return what a medium emitted at one site: formula, inputs and factors of the emission methods."""
        start, end = wanted.span
        site = wanted.of_site
        if site is None:
            raise missing("of_site")
        found, by_site = await self._emitted(wanted)
        one = by_site.get(site)
        if one is None:
            raise NotFound(
                f"of_site: {wanted.place.kind} {wanted.place.id} used none of {wanted.point} at {site}",
                message_zh=f"of_site:{wanted.place.id} 在局站 {site} 没有 {wanted.point} 的用量",
            )
        of = found.use.of
        used = {row.factor_id: row for row in one.used}
        asked = question(Figure.MEDIUM, wanted.place, start, end, point=of.point, of_site=site)
        inputs = []
        for each in one.figure.inputs:
            factor = next((row for name, row in used.items() if each.origin.startswith(f"factor {name} r")), None)
            is_use = each.origin == f"registers {of.point}" and each.unit == of.unit
            kind = InputKind.FIGURE if is_use else InputKind.PARAMETER
            inputs.append(
                Because(
                    name=each.name,
                    value=each.value,
                    unit=each.unit,
                    kind=kind if factor is None else InputKind.FACTOR,
                    id=site if factor is None else factor.factor_id,
                    version=None if factor is None else factor.revision,
                    source=each.origin,
                    question=asked if is_use and each.value is not None else None,
                )
            )
        return why(
            wanted,
            value=one.figure.value,
            unit=one.figure.unit,
            rule=Rule.STATED,
            inputs=inputs,
            marks=_marks(found, [one]),
            factors=list(one.used),
            formula=(one.figure.formula, one.figure.source),
        )

    async def _emitted(self, wanted: Wanted) -> tuple[Emitted, dict[SiteId, Emission]]:
        """Return what a medium emitted in the period that is asked about, by site; empty where it cannot be said."""
        start, end = wanted.span
        point = wanted.text("point")
        uses = await self._media.used(wanted.place, start, end, wanted.period)
        use = next((one for one in uses if one.of.point == point), None)
        if use is None:
            raise NotFound(
                f"{wanted.place.kind} {wanted.place.id} has nothing booked of {point} in the span",
                message_zh=f"{wanted.place.id} 在该时段没有 {point} 的计量数据",
            )
        (found,) = await self._media.emitted([use], wanted.assumed)
        sites = [SiteId(site) for site in use.sites["site_id"].to_list()]
        every = [one for some in found.by_period.values() for one in some]
        return found, dict(zip(sites, every, strict=True)) if every else {}


def _rows(intervals: pl.DataFrame, site: SiteId | None) -> pl.DataFrame:
    return intervals if site is None else intervals.filter(pl.col("site_id") == site)


def assumed_of(wanted: Wanted) -> dict[str, str]:
    """Return what a question assumes of a medium, as query parameters."""
    one = wanted.assumed
    numbers = {"cop": one.cop, "steam_kj_per_kg": one.steam_kj_per_kg}
    said = {name: None if value is None else repr(value) for name, value in numbers.items()}
    every = {"gas": one.gas, "fuel": one.fuel, **said}
    return {name: value for name, value in every.items() if value is not None}


def _marks(found: Emitted, emissions: list[Emission]) -> list[str]:
    marks = sorted({mark.value for one in emissions for mark in one.figure.marks})
    return marks if found.why is None else [*marks, found.why[0]]
