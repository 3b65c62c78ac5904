"""A node's energy beside an earlier period and beside its peers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from libs.common.errors import InvalidInput
from services.carbon.boundary import Asked, SpanEnergy
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
from services.carbon.domain.levels.cover import SOURCES
from services.carbon.domain.levels.facts import Fact, FactKind
from services.carbon.domain.levels.periods import Step
from services.carbon.store import levels as store
from services.carbon.tree import Node, NodeKind
from services.carbon.usecases.levels.shared import (
    SLICES_MAX,
    Asking,
    check_count,
    day_of,
    in_span,
)


class Measure(StrEnum):
    """What nodes are ranked by."""

    ENERGY = "energy_kwh"
    PER_AREA = "kwh_per_m2"
    PER_PERSON = "kwh_per_person"


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
    alike: Sequence[tuple[Node, float, float]]
    """These sites, each with both energies. [kWh]"""
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


class Comparisons(Asking):
    """Comparisons and rankings; reads only."""

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
        check_count(len(children), SLICES_MAX)
        found = await self.boundaries.energies([(one, None) for one in children], first, last) if children else []
        now = self.boundaries.clock.now()
        kind = {Measure.PER_AREA: FactKind.AREA, Measure.PER_PERSON: FactKind.PERSONS}.get(measure)
        facts: list[Fact] = []
        if kind is not None:
            async with self._db.read() as conn:
                rows = await store.fetch_facts(conn, [one.id for one in children], [kind], day_of(first), day_of(last))
            facts = [fact for fact, _ in rows]
        energies = await in_span(found, now)
        values: list[float | None] = []
        for child, energy in zip(children, energies, strict=True):
            den = None if kind is None else self.denominator(child, kind, Span(first, last), facts).value
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

    async def _compare(self, node: Node, span: Span, step: Step, against: Against) -> Comparison:
        now = self.boundaries.clock.now()
        current, base = base_of(span, step, against, now)
        current = Span(current.start, max(_on_grid(current.end), current.start + timedelta(minutes=15)))
        base = Span(base.start, max(_on_grid(base.end), base.start + timedelta(minutes=15)))
        sites = self.sites_of(node, base.start, current.end)
        nodes = [Node(NodeKind.SITE, site) for site in sites] if node.kind.is_group else [node]
        check_count(len(nodes), SLICES_MAX)
        asked: list[Asked] = [(node, None), *((one, None) for one in nodes)]
        mine, *each = await in_span(await self.boundaries.energies(asked, current.start, current.end), now)
        theirs, *before = await in_span(await self.boundaries.energies(asked, base.start, base.end), now)
        alike = [
            (place, one.energy_kwh, other.energy_kwh)
            for place, one, other in zip(nodes, each, before, strict=True)
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
                math.fsum(one for _, one, _ in alike) if alike else None,
                math.fsum(other for _, _, other in alike) if alike else None,
            ),
            alike=alike,
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
            sites = self.sites_of(node, first, last)
            return [Node(NodeKind.SITE, site) for site in sites], [tree.peers_of(site, last) for site in sites]
        feeds = {term.circuit for term in tree.terms(node, first, last)}
        branches = [one for one in tree.branches(node, first, last) if one.parent in feeds and one.role not in SOURCES]
        return [Node(NodeKind.CIRCUIT, one.circuit) for one in branches], [one.role.value for one in branches]


def _on_grid(at: datetime) -> datetime:
    return datetime.fromtimestamp(at.timestamp() // 900 * 900, UTC)
