"""Figures of any node: curve, shifts, metering levels, breakdown, balance, PUE, intensities, comparisons, ranks."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import Any

import polars as pl

from libs.common.clock import CIVIL_ZONE
from libs.common.contracts.registry import CircuitRole
from libs.common.db import Database
from libs.common.errors import InvalidInput
from libs.common.ids import CircuitId, SiteId
from libs.common.tokens import Principal
from services.carbon.boundary import Asked, Boundaries, NodeEnergy, SpanEnergy, TooMuchAtOnce
from services.carbon.directory import RegistryDirectory
from services.carbon.domain.booking import Binding
from services.carbon.domain.levels.balance import (
    Measured,
    Mix,
    NoPue,
    Pue,
    PueCategory,
    group_pue,
    it_circuits,
    mix,
    pue,
)
from services.carbon.domain.levels.comparison import (
    LIKE_FOR_LIKE,
    Against,
    Benchmark,
    Change,
    Span,
    base_of,
    benchmark,
    change,
    leap_day_in,
    per_day,
    spring,
)
from services.carbon.domain.levels.cover import FINEST_LEVEL, SOURCES, Dimension, Term, only
from services.carbon.domain.levels.curve import load_curve
from services.carbon.domain.levels.energy import SCHEMA, node_intervals, totals
from services.carbon.domain.levels.facts import Denominator, Fact, FactKind, check_apart, summed, weighted
from services.carbon.domain.levels.periods import Shift, Step, periods
from services.carbon.domain.samples import EXPORT, Sample
from services.carbon.store import levels as store
from services.carbon.supply import counting, read_samples, register_frame
from services.carbon.tree import Node, NodeKind
from services.carbon.usecases.ports import Audit, audit_event

SLICES_MAX = 500
"""Groups of one breakdown, and sites or circuits of one ranking."""
SAMPLED_MAX = 200
"""Circuits whose samples one question may read."""
DELIVERING = (CircuitRole.PV, CircuitRole.GENERATOR)


class By(StrEnum):
    """What a node's energy is broken down by."""

    ROLE = "role"
    TAG = "tag"
    USE = "use"
    LEVEL = "level"
    SHIFT = "shift"
    SITE = "site"

    @property
    def is_apart(self) -> bool:
        """Whether the parts are disjoint, so that they add up to the node where all is known."""
        return self in (By.SHIFT, By.SITE)


class Measure(StrEnum):
    """What nodes are ranked by."""

    ENERGY = "energy_kwh"
    PER_AREA = "kwh_per_m2"
    PER_PERSON = "kwh_per_person"


@dataclass(frozen=True)
class Profile:
    """Energy by period with the figures of its load curve, and the same by shift."""

    found: NodeEnergy
    frame: pl.DataFrame
    """Columns of ``energy_by_period`` and of ``load_curve``."""
    shifts: Mapping[str, pl.DataFrame]


@dataclass(frozen=True, slots=True)
class LevelCoverage:
    """How much of a node is metered at one level."""

    level: int
    """4 is 4 and finer."""
    circuits: int
    metered: int
    """Circuits that a meter is bound to at the end of the span."""
    energy: SpanEnergy
    share: float | None
    """Its energy over that of the node, of the quarter hours in which both are known. [1]"""
    quarters: int
    """How many those are."""


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of a breakdown."""

    key: str
    circuits: int
    energy: SpanEnergy
    share: float | None
    """Of the node's energy; null where either is unknown. [1]"""


@dataclass(frozen=True, slots=True)
class BalancePeriod:
    """Where a node's energy came from and went in one period."""

    span: Span
    mix: Mix
    usable: float | None
    """The least of the shares of its parts that are known. [1]"""


@dataclass(frozen=True)
class Exported:
    """What the register of export of a circuit's meters counted, and what it showed around that time."""

    intervals: pl.DataFrame
    """See ``supply.register_frame``."""
    samples: Sequence[tuple[Binding, Sequence[Sample]]]
    rated_kw: float | None


@dataclass(frozen=True)
class Flows:
    """What came into a node, went out of it and was generated in it; None where there is nothing that could be."""

    imported: NodeEnergy
    exported: NodeEnergy | None
    photovoltaics: NodeEnergy | None
    generators: NodeEnergy | None
    by_export: frozenset[str]
    """Circuits whose meters have a register of export: what they delivered is what that counted."""


@dataclass(frozen=True, slots=True)
class PuePeriod:
    """PUE of one period."""

    span: Span
    value: float | None
    pue: Pue | None
    """With its category and reasons; None for a group of sites."""
    sites: int
    left_out: int
    """Sites without a PUE of their own."""
    parts: Sequence[tuple[Node, Pue]] = ()
    """Of a group: the sites that have energies of both kinds."""


@dataclass(frozen=True, slots=True)
class Intensity:
    """Energy over one denominator."""

    kind: FactKind
    energy_kwh: float | None
    """Of the sites that have the denominator."""
    denominator: Denominator
    value: float | None
    left_out: int
    """Sites of the node without the denominator, or without energy."""
    parts: Sequence[tuple[Node, float, Denominator]] = ()
    """The nodes whose energies and denominators were summed; one that is the node itself, where it has both."""


@dataclass(frozen=True, slots=True)
class IntensityPeriod:
    """Intensities of one period."""

    span: Span
    energy: SpanEnergy
    figures: Sequence[Intensity]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A period beside an earlier one."""

    against: Against
    current: Span
    base: Span
    energy: SpanEnergy
    base_energy: SpanEnergy
    raw: Change
    daily: Change
    """Per day of each span."""
    headline_is_daily: bool
    """A leap day lies in one of them."""
    like_for_like: Change
    """Of the sites with enough completeness in both periods."""
    left_out: int
    """Sites that had to be left out of it."""
    spring: Change | None
    """January and February together, for one of the two against its year before."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """One site or circuit of a ranking."""

    rank: int | None
    """1 is the highest; None without a figure. Equal figures share a rank."""
    node: Node
    value: float | None
    energy: SpanEnergy
    peers: str
    """What it is compared with: sites of a kind and class, circuits of a role."""
    benchmark: Benchmark | None


class Levels:
    """Reads and computes; the only thing it writes are facts that people enter."""

    def __init__(self, *, db: Database, boundaries: Boundaries, directory: RegistryDirectory, audit: Audit) -> None:
        self._db = db
        self.boundaries = boundaries
        self._directory = directory
        self._audit = audit

    async def profile(
        self,
        node: Node,
        start: datetime,
        end: datetime,
        *,
        step: Step,
        dimension: Dimension,
        shifts: Sequence[Shift] = (),
    ) -> Profile:
        """Return energy and load curve of a node, or of some of its circuits, by civil period."""
        first, last = self.boundaries.whole_periods(start, end, step)
        found = await self.boundaries.energy(node, first, last, dimension)
        now = self.boundaries.clock.now()

        def compute() -> Profile:
            curve = load_curve(totals(found.intervals, found.terms), step)
            frame = found.by_period(step, now).join(curve, on="start", how="left").sort("start")
            return Profile(found, frame, {one.name: found.by_period(step, now, one) for one in shifts})

        return await asyncio.to_thread(compute)

    async def coverage(self, node: Node, start: datetime, end: datetime) -> list[LevelCoverage]:
        """Return how much of a node's energy each metering level sees, and how many of its circuits have a meter."""
        first, last = self.boundaries.whole_periods(start, end, Step.DAY)
        levels = range(1, FINEST_LEVEL + 1)
        asked: list[Asked] = [(node, None), *((node, Dimension(level=level)) for level in levels)]
        whole, *found = await self.boundaries.energies(asked, first, last)
        branches = [one for one in self.boundaries.tree.branches(node, first, last) if one.role not in SOURCES]
        total = totals(whole.intervals, whole.terms).filter(pl.col("energy_kwh").is_not_null())
        now = self.boundaries.clock.now()
        coverage = []
        for level, one in zip(levels, found, strict=True):
            mine = [branch for branch in branches if min(branch.level, FINEST_LEVEL) == level]
            seen = totals(one.intervals, one.terms).filter(pl.col("energy_kwh").is_not_null())
            both = total.join(seen, on="start", suffix="_seen")
            used, metered = float(both["energy_kwh"].sum()), float(both["energy_kwh_seen"].sum())
            coverage.append(
                LevelCoverage(
                    level=level,
                    circuits=len(mine),
                    metered=sum(self._has_meter(branch.circuit, last) for branch in mine),
                    energy=one.in_span(now),
                    share=metered / used if used else None,
                    quarters=both.height,
                )
            )
        return coverage

    async def breakdown(
        self, node: Node, start: datetime, end: datetime, by: By, shifts: Sequence[Shift] = ()
    ) -> tuple[SpanEnergy, list[Slice]]:
        """Return a node's energy and its parts by a dimension, the largest first."""
        first, last = self.boundaries.whole_periods(start, end, Step.DAY)
        now = self.boundaries.clock.now()
        if by is By.SHIFT:
            if not shifts:
                raise InvalidInput("shifts: expected the shifts to break down by", message_zh="shifts:请给出班次时段")
            found = await self.boundaries.energy(node, first, last)
            whole = found.in_span(now)
            slices = [self._slice(one.name, found, found.in_span(now, one), whole) for one in shifts]
            return whole, sorted(slices, key=_largest_first)
        asked = self._asked(node, by, first, last)
        _check_count(len(asked), SLICES_MAX)
        both = await self.boundaries.energies([(node, None), *asked.values()], first, last)
        whole, *parts = await _in_span(both, now)
        slices = [
            self._slice(key, one, part, whole)
            for key, one, part in zip(asked, both[1:], parts, strict=True)
            if one.terms
        ]
        return whole, sorted(slices, key=_largest_first)

    async def balance(self, node: Node, start: datetime, end: datetime, step: Step) -> list[BalancePeriod]:
        """Return by period where a node's energy came from: grid, photovoltaics, generators; and what went out."""
        first, last = self.boundaries.whole_periods(start, end, step)
        return (await self._balances([node], first, last, step))[0]

    async def pue(
        self, node: Node, start: datetime, end: datetime, *, step: Step, category: PueCategory
    ) -> list[PuePeriod]:
        """Return the PUE of a site or room, or of the sites of a region or organisation together, by period."""
        first, last = self.boundaries.whole_periods(start, end, step)
        nodes = [node]
        if node.kind.is_group:
            nodes = [Node(NodeKind.SITE, site) for site in self._sites(node, first, last)]
            _check_count(len(nodes), SLICES_MAX)
        its: dict[Node, list[CircuitId]] = {}
        without: dict[Node, NoPue] = {}
        for one in nodes:
            circuits = it_circuits(self.boundaries.tree.branches(one, first, last), category)
            if isinstance(circuits, NoPue):
                without[one] = circuits
            else:
                its[one] = circuits
        counted = list(its)
        asked: list[Asked] = [(one, only(*circuits)) for one, circuits in its.items()]
        found = await self.boundaries.energies(asked, first, last) if asked else []
        balances = await self._balances(counted, first, last, step)
        now = self.boundaries.clock.now()
        by_node: dict[Node, list[Pue]] = {}
        for one, energy, balance in zip(counted, found, balances, strict=True):
            by_node[one] = [
                pue(
                    Measured(period.mix.consumed, period.usable),
                    Measured(row["energy_kwh"], row["usable_share"]),
                    category=category,
                    whole_site=one.kind is NodeKind.SITE,
                    days=period.span.days,
                    months=_months(period.span),
                )
                for period, row in zip(balance, energy.by_period(step, now).to_dicts(), strict=True)
            ]
        whole = periods(step, first, last)
        answers = []
        for index, (begin, finish) in enumerate(whole.iter_rows()):
            each = [by_node[one][index] for one in counted]
            if node.kind.is_group:
                value, left_out = group_pue(each)
                left_out += len(nodes) - len(counted)
                parts = tuple(zip(counted, each, strict=True))
                answers.append(PuePeriod(Span(begin, finish), value, None, len(nodes), left_out, parts))
            else:
                only_one = each[0] if each else _no_pue(without[node], node, category)
                answers.append(PuePeriod(Span(begin, finish), only_one.value, only_one, 1, only_one.value is None))
        return answers

    async def intensity(
        self, node: Node, start: datetime, end: datetime, *, step: Step, kinds: Sequence[FactKind]
    ) -> list[IntensityPeriod]:
        """Return a node's energy per m2, person, output value or output by period: sum over sum, by whole sites."""
        first, last = self.boundaries.whole_periods(start, end, step)
        sites = self._sites(node, first, last) if node.kind.is_group else []
        parts = [Node(NodeKind.SITE, site) for site in sites] if sites else [node]
        _check_count(len(parts), SLICES_MAX)
        whole, *found = await self.boundaries.energies([(node, None), *((one, None) for one in parts)], first, last)
        now = self.boundaries.clock.now()
        names = [node.id, *(one.id for one in parts)]
        async with self._db.read() as conn:
            facts = [fact for fact, _ in await store.fetch_facts(conn, names, kinds, _day(first), _day(last))]
        energies = await asyncio.to_thread(lambda: [one.by_period(step, now).to_dicts() for one in found])
        answers = []
        for index, row in enumerate(whole.by_period(step, now).to_dicts()):
            span = Span(row["start"], row["end"])
            figures = []
            for kind in kinds:
                own = self._denominator(node, kind, span, facts)
                if own.value is not None or len(parts) == 1:
                    figures.append(_intensity(kind, [(node, row["energy_kwh"], own)], 0))
                    continue
                each = [
                    (one, energy[index]["energy_kwh"], self._denominator(one, kind, span, facts))
                    for one, energy in zip(parts, energies, strict=True)
                ]
                usable = [one for one in each if one[1] is not None and one[2].value is not None]
                bases = {den.basis for _, _, den in usable}
                left_out = len(each) - len(usable)
                figures.append(_intensity(kind, usable if len(bases) == 1 else [(node, None, own)], left_out))
            answers.append(IntensityPeriod(span, _span_energy(row), figures))
        return answers

    async def comparison(self, node: Node, at: datetime, *, step: Step) -> list[Comparison]:
        """Return the civil period that a time lies in beside the same of a year earlier and the one before."""
        first, last = self.boundaries.whole_periods(at, at + timedelta(microseconds=1), step)
        return [await self._compare(node, Span(first, last), step, against) for against in Against]

    async def ranking(
        self, node: Node, start: datetime, end: datetime, *, measure: Measure, limit: int
    ) -> list[Ranked]:
        """Return the sites of a group, or the circuits directly beneath a site or room, by a measure, highest first.

        Each site has its own energy, what it passes on to others too; so the sum of a ranking may exceed the node's.
        """
        first, last = self.boundaries.whole_periods(start, end, Step.DAY)
        children, peers = self._ranked_of(node, first, last)
        if measure is not Measure.ENERGY and not node.kind.is_group:
            raise InvalidInput(
                f"measure: expected {Measure.ENERGY} for circuits, found {measure}",
                message_zh=f"measure:回路只能按 {Measure.ENERGY} 排名,实际为 {measure}",
            )
        _check_count(len(children), SLICES_MAX)
        found = await self.boundaries.energies([(one, None) for one in children], first, last) if children else []
        now = self.boundaries.clock.now()
        kind = {Measure.PER_AREA: FactKind.AREA, Measure.PER_PERSON: FactKind.PERSONS}.get(measure)
        facts: list[Fact] = []
        if kind is not None:
            async with self._db.read() as conn:
                rows = await store.fetch_facts(conn, [one.id for one in children], [kind], _day(first), _day(last))
            facts = [fact for fact, _ in rows]
        energies = await _in_span(found, now)
        values: list[float | None] = []
        for child, energy in zip(children, energies, strict=True):
            den = None if kind is None else self._denominator(child, kind, Span(first, last), facts).value
            value = energy.energy_kwh
            values.append(value if kind is None else None if value is None or not den else value / den)
        ranked = []
        for index, child in enumerate(children):
            value = values[index]
            others = [
                other
                for position, other in enumerate(values)
                if position != index and other is not None and peers[position] == peers[index]
            ]
            rank = None if value is None else 1 + sum(other is not None and other > value for other in values)
            ranked.append(Ranked(rank, child, value, energies[index], peers[index], benchmark(value, others)))
        return sorted(ranked, key=lambda one: (one.rank is None, one.rank or 0, one.node.id))[:limit]

    async def enter_fact(self, one: Fact, *, who: Principal) -> int:
        """Store a fact, or the next version of one with the same first and last day; return its version.

        Raises:
            FactsOverlap: Another one has some of its days.
        """
        now = self.boundaries.clock.now()
        async with self._db.write() as conn:
            await store.lock_facts(conn, one.node)
            before = await store.fetch_facts(conn, [one.node], [one.kind], one.first_day, one.end_day)
            check_apart(one, (fact for fact, _ in before))
            same = [(fact, version) for fact, version in before if fact.subject == one.subject]
            version = same[0][1] + 1 if same else 1
            await store.add_fact(conn, one, version=version, by=who.actor, at=now)
            event = audit_event(
                who,
                "fact.enter",
                f"fact:{one.node}/{one.kind}",
                now,
                before=_said(same[0][0]) if same else None,
                after={**_said(one), "version": version},
            )
            await self._audit(conn, event)
        return version

    async def facts(self, node: str, first_day: date, end_day: date) -> list[tuple[Fact, int]]:
        """Return what was entered of a node for some days, with versions."""
        async with self._db.read() as conn:
            return await store.fetch_facts(conn, [node], list(FactKind), first_day, end_day)

    def _has_meter(self, circuit: CircuitId, at: datetime) -> bool:
        return any(
            binding.valid_from < at and (binding.valid_to is None or binding.valid_to >= at)
            for binding in self._directory.bindings_of(circuit)
        )

    def _sites(self, node: Node, first: datetime, last: datetime) -> list[SiteId]:
        return sorted({site for site, _, _ in self.boundaries.tree.sites(node, first, last)})

    def _asked(self, node: Node, by: By, first: datetime, last: datetime) -> dict[str, Asked]:
        """Return what to ask for each part of a breakdown."""
        if by is By.SITE:
            return {site: (Node(NodeKind.SITE, site), None) for site in self._sites(node, first, last)}
        branches = self.boundaries.tree.branches(node, first, last)
        if by is By.ROLE:
            roles = sorted({one.role for one in branches})
            return {role.value: (node, Dimension(role=role)) for role in roles}
        if by is By.LEVEL:
            levels = sorted({min(one.level, FINEST_LEVEL) for one in branches})
            return {str(level): (node, Dimension(level=level)) for level in levels}
        if by is By.USE:
            uses = sorted({use for one in branches for use in one.uses})
            return {use: (node, Dimension(use=use)) for use in uses}
        tags = sorted({tag for one in branches for tag in one.tags})
        return {tag: (node, Dimension(tag=tag)) for tag in tags}

    def _slice(self, key: str, found: NodeEnergy, energy: SpanEnergy, whole: SpanEnergy) -> Slice:
        share = None
        if energy.energy_kwh is not None and whole.energy_kwh:
            share = energy.energy_kwh / whole.energy_kwh
        return Slice(key, len({term.circuit for term in found.terms}), energy, share)

    async def _balances(
        self, nodes: Sequence[Node], first: datetime, last: datetime, step: Step
    ) -> list[list[BalancePeriod]]:
        asked: list[Asked] = []
        for node in nodes:
            asked += [(node, None), *((node, Dimension(role=role)) for role in DELIVERING)]
        found = await self.boundaries.energies(asked, first, last) if asked else []
        flows = await self._flows(found, first, last)
        return [self._balance(one, step) for one in flows]

    async def flows(self, node: Node, start: datetime, end: datetime) -> "Flows":
        """Return what came into a node, was generated in it and went out of it, in ``[start, end)`` of the grid."""
        self.boundaries.check_span(start, end)
        asked: list[Asked] = [(node, None), *((node, Dimension(role=role)) for role in DELIVERING)]
        (found,) = await self._flows(await self.boundaries.energies(asked, start, end), start, end)
        return found

    async def export_of(self, circuit: CircuitId, start: datetime, end: datetime) -> "Exported":
        """Return what a circuit's export registers counted in ``[start, end)`` of the grid, and their samples."""
        async with self._db.read() as conn:
            samples = await read_samples(conn, self._directory, [circuit], [EXPORT], start, end)
        return Exported(
            register_frame(self._directory, samples, [circuit], EXPORT, start, end),
            [
                (counting(one, EXPORT), samples.get((one.device_id, EXPORT), ()))
                for one in self._directory.bindings_of(circuit)
                if one.serves_in(start, end)
            ],
            self._directory.rated_kw(circuit),
        )

    async def _flows(self, found: Sequence[NodeEnergy], first: datetime, last: datetime) -> list["Flows"]:
        """Return the flows of nodes, of each of which its feeds, photovoltaics and generators are given in a row."""
        nodes = range(len(found) // 3)
        sourced = [index for index in nodes if found[3 * index + 1].terms or found[3 * index + 2].terms]
        circuits = sorted(
            {term.circuit for index in sourced for one in found[3 * index : 3 * index + 3] for term in one.terms}
        )
        _check_count(len(circuits), SAMPLED_MAX)
        exported = pl.DataFrame(schema=SCHEMA)
        if circuits:
            async with self._db.read() as conn:
                samples = await read_samples(conn, self._directory, circuits, [EXPORT], first, last)
            exported = await asyncio.to_thread(register_frame, self._directory, samples, circuits, EXPORT, first, last)
        answers = []
        for index in nodes:
            feeds, pv, generators = found[3 * index : 3 * index + 3]
            sun, own = (_generated(one, exported) if one.terms else None for one in (pv, generators))
            # Without anything that could deliver nothing goes out.
            out = _with(feeds, exported) if sun or own else None
            answers.append(Flows(feeds, out, sun, own, frozenset(exported["circuit_id"].to_list())))
        return answers

    def _balance(self, flows: "Flows", step: Step) -> list[BalancePeriod]:
        now = self.boundaries.clock.now()
        imported = flows.imported.by_period(step, now).to_dicts()
        none = [{"energy_kwh": 0.0, "usable_share": None}] * len(imported)
        out, sun, own = (
            none if one is None else one.by_period(step, now).to_dicts()
            for one in (flows.exported, flows.photovoltaics, flows.generators)
        )
        balances = []
        for rows in zip(imported, out, sun, own, strict=True):
            shares = [row["usable_share"] for row in rows if row["usable_share"] is not None]
            balances.append(
                BalancePeriod(
                    Span(rows[0]["start"], rows[0]["end"]),
                    mix(*(row["energy_kwh"] for row in rows)),
                    min(shares, default=None),
                )
            )
        return balances

    def _denominator(self, node: Node, kind: FactKind, span: Span, facts: Sequence[Fact]) -> Denominator:
        mine = [one for one in facts if one.node == node.id and one.kind is kind]
        if kind.is_sum:
            return summed(mine, _day(span.start), _day(span.end))
        entered: list[tuple[datetime, datetime, float | None]] = [
            (midnight(one.first_day), midnight(one.end_day), one.value) for one in mine
        ]
        if entered or node.kind is not NodeKind.SITE:
            return weighted(entered, span.start, span.end)
        name = "area_m2" if kind is FactKind.AREA else "persons"
        return weighted(self.boundaries.tree.site_values(SiteId(node.id), name), span.start, span.end)

    async def _compare(self, node: Node, span: Span, step: Step, against: Against) -> Comparison:
        now = self.boundaries.clock.now()
        current, base = base_of(span, step, against, now)
        current = Span(current.start, max(_on_grid(current.end), current.start + timedelta(minutes=15)))
        base = Span(base.start, max(_on_grid(base.end), base.start + timedelta(minutes=15)))
        sites = self._sites(node, base.start, current.end)
        nodes = [Node(NodeKind.SITE, site) for site in sites] if node.kind.is_group else [node]
        _check_count(len(nodes), SLICES_MAX)
        asked: list[Asked] = [(node, None), *((one, None) for one in nodes)]
        mine, *each = await _in_span(await self.boundaries.energies(asked, current.start, current.end), now)
        theirs, *before = await _in_span(await self.boundaries.energies(asked, base.start, base.end), now)
        alike = [
            (one.energy_kwh, other.energy_kwh)
            for one, other in zip(each, before, strict=True)
            if min(one.usable_share or 0.0, other.usable_share or 0.0) >= LIKE_FOR_LIKE
            and one.energy_kwh is not None
            and other.energy_kwh is not None
        ]
        return Comparison(
            against=against,
            current=current,
            base=base,
            energy=mine,
            base_energy=theirs,
            raw=change(mine.energy_kwh, theirs.energy_kwh),
            daily=change(per_day(mine.energy_kwh, current), per_day(theirs.energy_kwh, base)),
            headline_is_daily=leap_day_in(current, base),
            like_for_like=change(
                sum(one for one, _ in alike) if alike else None, sum(other for _, other in alike) if alike else None
            ),
            left_out=len(nodes) - len(alike),
            spring=await self._spring(node, span, now) if against is Against.YEAR else None,
        )

    async def _spring(self, node: Node, span: Span, now: datetime) -> Change | None:
        both = spring(span)
        if both is None or both.end > now:
            return None
        before = Span(both.start.replace(year=both.start.year - 1), both.end.replace(year=both.end.year - 1))
        sums = [(await self.boundaries.energy(node, one.start, one.end)).in_span(now) for one in (both, before)]
        return change(sums[0].energy_kwh, sums[1].energy_kwh)

    def _ranked_of(self, node: Node, first: datetime, last: datetime) -> tuple[list[Node], list[str]]:
        tree = self.boundaries.tree
        if node.kind.is_group:
            sites = self._sites(node, first, last)
            return [Node(NodeKind.SITE, site) for site in sites], [tree.peers_of(site, last) for site in sites]
        feeds = {term.circuit for term in tree.terms(node, first, last)}
        branches = [one for one in tree.branches(node, first, last) if one.parent in feeds and one.role not in SOURCES]
        return [Node(NodeKind.CIRCUIT, one.circuit) for one in branches], [one.role.value for one in branches]


async def _in_span(found: Sequence[NodeEnergy], now: datetime) -> list[SpanEnergy]:
    return await asyncio.to_thread(lambda: [one.in_span(now) for one in found])


def _with(found: NodeEnergy, intervals: pl.DataFrame) -> NodeEnergy:
    """Return a node's terms with other intervals, in which no next level stands in."""
    terms = [_alone(term) for term in found.terms]
    return NodeEnergy(
        found.node, found.start, found.end, terms, node_intervals(intervals, terms), found.weights, found.absences
    )


def _generated(found: NodeEnergy, exported: pl.DataFrame) -> NodeEnergy:
    """Return what sources delivered: by the export register of meters that have one, else by the other."""
    terms = [_alone(term) for term in found.terms]
    delivered = node_intervals(exported, terms)
    others = found.intervals.join(delivered.select("circuit_id").unique(), on="circuit_id", how="anti")
    return NodeEnergy(
        found.node, found.start, found.end, terms, pl.concat([delivered, others]), found.weights, found.absences
    )


def _alone(term: Term) -> Term:
    return replace(term, parts=())


def _intensity(kind: FactKind, parts: Sequence[tuple[Node, float | None, Denominator]], left_out: int) -> Intensity:
    """Return sum over sum of parts; a single part may be unknown."""
    if len(parts) == 1 and (parts[0][1] is None or parts[0][2].value is None):
        return Intensity(kind, parts[0][1], parts[0][2], None, left_out)
    known = [(node, energy or 0.0, den) for node, energy, den in parts]
    energy = math.fsum(one for _, one, _ in known)
    den = math.fsum(one.value or 0.0 for _, _, one in known)
    return Intensity(kind, energy, Denominator(den, None, parts[0][2].basis), energy / den, left_out, known)


def _no_pue(reason: NoPue, node: Node, category: PueCategory) -> Pue:
    unknown = Measured(None, None)
    found = pue(unknown, unknown, category=category, whole_site=node.kind is NodeKind.SITE, days=1.0, months=0.0)
    return Pue(None, reason, found.kind, category, unknown, unknown)


def _span_energy(row: Mapping[str, Any]) -> SpanEnergy:
    return SpanEnergy(**{name: row[name] for name in SpanEnergy.__slots__})


def _largest_first(one: Slice) -> tuple[float, str]:
    return (-(one.energy.energy_kwh or 0.0), one.key)


def _check_count(count: int, most: int) -> None:
    if count > most:
        raise TooMuchAtOnce(
            f"expected at most {most} parts, found {count}; ask for a smaller node",
            message_zh=f"最多 {most} 项,实际 {count} 项;请缩小范围",
        )


def _months(span: Span) -> float:
    first, last = span.start.astimezone(CIVIL_ZONE), span.end.astimezone(CIVIL_ZONE)
    return (last.year - first.year) * 12 + last.month - first.month


def _day(at: datetime) -> date:
    return at.astimezone(CIVIL_ZONE).date()


def midnight(day: date) -> datetime:
    """Return the beginning of a civil day."""
    return datetime.combine(day, time(), CIVIL_ZONE)


def _on_grid(at: datetime) -> datetime:
    return datetime.fromtimestamp(at.timestamp() // 900 * 900, UTC)


def _said(one: Fact) -> dict[str, Any]:
    return {key: value.isoformat() if isinstance(value, date) else value for key, value in asdict(one).items()}
