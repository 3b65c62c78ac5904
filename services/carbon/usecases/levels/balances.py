"""Where a node's energy came from and went: balance with photovoltaics and generators, flows, PUE."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import polars as pl

from libs.common.clock import CIVIL_ZONE
from libs.common.contracts.registry import CircuitRole
from libs.common.ids import CircuitId
from services.carbon.boundary import Asked, NodeEnergy
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
    Span,
)
from services.carbon.domain.levels.cover import Dimension, Term, only
from services.carbon.domain.levels.energy import SCHEMA, node_intervals
from services.carbon.domain.levels.periods import Step, periods
from services.carbon.domain.samples import EXPORT, Sample
from services.carbon.supply import counting, read_samples, register_frame
from services.carbon.tree import Node, NodeKind
from services.carbon.usecases.levels.shared import (
    SAMPLED_MAX,
    SLICES_MAX,
    Asking,
    check_count,
)

DELIVERING = (CircuitRole.PV, CircuitRole.GENERATOR)


@dataclass(frozen=True, slots=True)
class BalancePeriod:
    """Where a node's energy came from and went in one period."""

    span: Span
    mix: Mix
    usable: float | None
    """The least of the shares of its parts that are known. [1]"""


@dataclass(frozen=True)
class Counted:
    """What a sampled register of a circuit's meters counted, and what it showed around that time."""

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


class Balances(Asking):
    """Balances and PUE; reads only."""

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
            nodes = [Node(NodeKind.SITE, site) for site in self.sites_of(node, first, last)]
            check_count(len(nodes), SLICES_MAX)
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

    async def flows(self, node: Node, start: datetime, end: datetime) -> "Flows":
        """Return what came into a node, was generated in it and went out of it, in ``[start, end)`` of the grid."""
        self.boundaries.check_span(start, end)
        asked: list[Asked] = [(node, None), *((node, Dimension(role=role)) for role in DELIVERING)]
        (found,) = await self._flows(await self.boundaries.energies(asked, start, end), start, end)
        return found

    async def counted_by(self, circuit: CircuitId, point: str, start: datetime, end: datetime) -> "Counted":
        """Return what a sampled register of a circuit's meters counted in ``[start, end)`` of the grid."""
        async with self._db.read() as conn:
            samples = await read_samples(conn, self._directory, [circuit], [point], start, end)
        return Counted(
            register_frame(self._directory, samples, [circuit], point, start, end),
            [
                (counting(one, point), samples.get((one.device_id, point), ()))
                for one in self._directory.bindings_of(circuit)
                if one.serves_in(start, end)
            ],
            self._directory.rated_kw(circuit),
        )

    async def _balances(
        self, nodes: Sequence[Node], first: datetime, last: datetime, step: Step
    ) -> list[list[BalancePeriod]]:
        asked: list[Asked] = []
        for node in nodes:
            asked += [(node, None), *((node, Dimension(role=role)) for role in DELIVERING)]
        found = await self.boundaries.energies(asked, first, last) if asked else []
        flows = await self._flows(found, first, last)
        return [self._balance(one, step) for one in flows]

    async def _flows(self, found: Sequence[NodeEnergy], first: datetime, last: datetime) -> list["Flows"]:
        """Return the flows of nodes, of each of which its feeds, photovoltaics and generators are given in a row."""
        nodes = range(len(found) // 3)
        sourced = [index for index in nodes if found[3 * index + 1].terms or found[3 * index + 2].terms]
        circuits = sorted(
            {term.circuit for index in sourced for one in found[3 * index : 3 * index + 3] for term in one.terms}
        )
        check_count(len(circuits), SAMPLED_MAX)
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


def _no_pue(reason: NoPue, node: Node, category: PueCategory) -> Pue:
    unknown = Measured(None, None)
    found = pue(unknown, unknown, category=category, whole_site=node.kind is NodeKind.SITE, days=1.0, months=0.0)
    return Pue(None, reason, found.kind, category, unknown, unknown)


def _months(span: Span) -> float:
    first, last = span.start.astimezone(CIVIL_ZONE), span.end.astimezone(CIVIL_ZONE)
    return (last.year - first.year) * 12 + last.month - first.month
