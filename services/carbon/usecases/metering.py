"""Metered electricity of an inventory: the intervals of a boundary's nodes become activities of it."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

import polars as pl

from libs.common.clock import Clock
from libs.common.errors import InvalidInput, NotFound
from libs.common.ids import SiteId
from services.carbon.domain.booking import floor
from services.carbon.domain.factors import Place
from services.carbon.domain.intervals import STEP_S
from services.carbon.domain.inventory.boundary import Boundary, Span, check_boundary
from services.carbon.domain.inventory.metered import CircuitKey, CircuitSum, metered, on_grid, spans_of, sums_of
from services.carbon.domain.inventory.sources import ElectricityUse, Inputs, MeteredUse, Source, check_metered
from services.carbon.domain.levels.cover import SOURCES, Branch, Term, clip
from services.carbon.domain.levels.energy import circuits_of
from services.carbon.tree import Node, NodeKind

DAYS_MAX = 3_700
"""Longest boundary whose meters are asked: ten years. [days]"""
NAMED = 10
"""Circuits that an origin names; the line itself has them all."""


class OutsideBoundary(InvalidInput):
    """A metered node is in no part of the boundary."""

    code = "outside_boundary"
    title_zh = "节点不在边界内"


class SpanNotOver(InvalidInput):
    """A span that is not over cannot be published: its meters have not told all yet."""

    code = "span_not_over"
    title_zh = "核算期未结束"


class TooLargeInventory(InvalidInput):
    """An inventory would read more intervals than one request may."""

    code = "too_large_inventory"
    title_zh = "核算范围过大"


class Nodes(Protocol):
    """What an inventory needs to know of the registry (``topology.Topology``)."""

    def node(self, name: str) -> Node | None:
        """Return the node that has an id, None where there never was one."""

    def ancestors_of(self, name: str, when: datetime) -> Sequence[str]:
        """Return the nodes that contain a node, nearest first."""

    def place_of(self, name: str, when: datetime) -> Place:
        """Return where a node lies."""


class Energy(Protocol):
    """What the energy of nodes is made of (``boundary.Boundaries``)."""

    def sites(self, node: Node, start: datetime, end: datetime) -> list[tuple[SiteId, datetime, datetime]]:
        """Return the sites that a node lies in or consists of, and when."""

    def terms(self, node: Node, start: datetime, end: datetime) -> list[Term]:
        """Return the circuits whose sum a node's energy is."""

    def branches(self, node: Node, start: datetime, end: datetime) -> list[Branch]:
        """Return the circuits of a node."""

    def in_pieces(self, terms: Sequence[Term], start: datetime, end: datetime) -> AsyncIterator[pl.DataFrame]:
        """Yield the intervals of terms, some terms at a time."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One line to be: a node, or what of a group lies at one site, over a span."""

    use: MeteredUse
    name: str
    """Node of the line."""
    through: tuple[str, ...]
    span: Span
    terms: tuple[Term, ...]


class Metering:
    """Asks the meters of a boundary."""

    def __init__(self, *, nodes: Nodes, energy: Energy, clock: Clock, intervals_max: int) -> None:
        self._nodes = nodes
        self._energy = energy
        self._clock = clock
        self._intervals_max = intervals_max

    async def answer(self, inputs: Inputs) -> Inputs:
        """Return inputs whose sources are those that were entered, and what the meters say now.

        Raises:
            InvalidInput: The boundary is wrong, or a metered node is not in it.
            CountedTwice: Electricity would be counted twice: by two meters, or by a meter and a bill.
            NotFound: The registry never had a metered node.
            TooLargeInventory: More intervals would be read than one request may.
        """
        boundary = inputs.boundary

        def above(name: str) -> Sequence[str]:
            return self._nodes.ancestors_of(name, boundary.span.start)

        check_boundary(boundary, above)
        found = [self._located(source) for source in inputs.sources if source.asked is None]
        wanted = await self._wanted(inputs.metered, boundary)
        self._check_size(wanted)
        sums = await self._sums(wanted)
        numbers: dict[tuple[str, str], int] = {}
        for one in wanted:
            number = numbers[one.use.line_id, one.name] = numbers.get((one.use.line_id, one.name), 0) + 1
            found.append(self._source(one, sums[one], number))
        answered = replace(inputs, sources=found)
        check_boundary(boundary, above, [source.node for source in found])
        check_metered(answered)
        return answered

    def check_over(self, inputs: Inputs) -> None:
        """Refuse to freeze what meters have not told yet.

        Raises:
            SpanNotOver: A metered span ends in the future.
        """
        for source in inputs.sources:
            if source.metered is not None and source.metered.until < source.span.end:
                raise SpanNotOver(
                    f"line {source.line_id}: expected a span that is over, found an end at "
                    f"{source.span.end.isoformat()}",
                    message_zh=f"清单行 {source.line_id}:核算期应已结束,实际结束时间为 {source.span.end.isoformat()}",
                    line_id=source.line_id,
                )

    def _located(self, source: Source) -> Source:
        """Return a source with what the registry knows of its node; what was entered comes first."""
        when = source.span.start
        entered = source.place.province is not None
        return replace(
            source,
            within=tuple(self._nodes.ancestors_of(source.node, when)),
            place=source.place if entered else self._nodes.place_of(source.node, when),
        )

    async def _wanted(self, uses: Sequence[MeteredUse], boundary: Boundary) -> list[_Wanted]:
        if not uses:
            return []
        days = boundary.span.seconds / 86400
        if days > DAYS_MAX or sum(use.node is None for use in uses) > 1:
            raise TooLargeInventory(
                f"metered: expected a boundary of at most {DAYS_MAX} days and one line without a node, "
                f"found {days:.0f} days and {len(uses)} lines",
                message_zh=f"计量电量:边界最长 {DAYS_MAX} 天,且至多一行不指定节点,实际为 {days:.0f} 天、{len(uses)} 行",
            )
        found: list[_Wanted] = []
        for use in uses:
            for node, through in self._reached(use, boundary):
                for span in spans_of(boundary, through):
                    found += self._of_node(use, node, through, span)
                await asyncio.sleep(0)  # a province has thousands of parts, and others wait
        return found

    def _reached(self, use: MeteredUse, boundary: Boundary) -> list[tuple[Node, tuple[str, ...]]]:
        """Return the nodes that a line asks the meters of, each with the parts that count it."""
        parts = list(dict.fromkeys(part.node for part in boundary.parts))
        reached: list[tuple[str, tuple[str, ...]]] = [(name, (name,)) for name in parts]
        if use.node is not None:
            containing = {use.node, *self._nodes.ancestors_of(use.node, boundary.span.start)}
            through = tuple(name for name in parts if name in containing)
            if not through:
                raise OutsideBoundary(
                    f"line {use.line_id}: node {use.node} is in no part of the boundary",
                    message_zh=f"清单行 {use.line_id}:节点 {use.node} 不在边界内",
                    node=use.node,
                )
            reached = [(use.node, through)]
        found: list[tuple[Node, tuple[str, ...]]] = []
        for name, through in reached:
            node = self._nodes.node(name)
            if node is None:
                raise NotFound(
                    f"line {use.line_id}: there is no circuit, room, site, organisation or region {name}",
                    message_zh=f"清单行 {use.line_id}:没有回路、机房、局站、组织或区域 {name}",
                    node=name,
                )
            found.append((node, through))
        return found

    def _of_node(self, use: MeteredUse, node: Node, through: tuple[str, ...], span: Span) -> list[_Wanted]:
        # An interval is counted by the tree as it was at its start, also one that the span cuts.
        grid = on_grid(span)
        terms: dict[str, list[Term]] = {}
        for term in self._energy.terms(node, grid.start, grid.end):
            terms.setdefault(term.site, []).append(term)
        if not node.kind.is_group:
            return [_Wanted(use, node.id, through, span, tuple(term for some in terms.values() for term in some))]
        found: list[_Wanted] = []
        for site, start, end in self._energy.sites(node, grid.start, grid.end):
            here = Span(start, end).overlap(span)
            # What another site of the group passes on is in that site's energy already.
            passed_on = site not in terms and self._energy.terms(Node(NodeKind.SITE, site), start, end)
            if here is not None and not passed_on:
                found.append(_Wanted(use, site, through, here, tuple(clip(terms.get(site, ()), start, end))))
        return found

    def _check_size(self, wanted: Sequence[_Wanted]) -> None:
        count = sum(len(circuits_of(one.terms)) * int(one.span.seconds / STEP_S) for one in wanted)
        if count > self._intervals_max:
            raise TooLargeInventory(
                f"metered: expected at most {self._intervals_max} intervals, found {count}; "
                "ask for a shorter span or fewer nodes",
                message_zh=f"计量电量:最多读取 {self._intervals_max} 个区间,实际 {count} 个,请缩短时间或减少节点",
            )

    async def _sums(self, wanted: Sequence[_Wanted]) -> dict[_Wanted, Mapping[CircuitKey, CircuitSum]]:
        """Return what the intervals of each line's span say, by site and circuit."""
        found: dict[_Wanted, Mapping[CircuitKey, CircuitSum]] = {}
        for lines in _passes(wanted):
            span, sums = lines[0].span, dict[CircuitKey, CircuitSum]()
            past = self._past(span)
            terms = list(dict.fromkeys(term for one in lines for term in one.terms))
            if past is not None and terms:
                grid = on_grid(past)
                async for piece in self._energy.in_pieces(terms, grid.start, grid.end):
                    sums |= await asyncio.to_thread(sums_of, piece, past)
            found |= dict.fromkeys(lines, sums)
        return found

    def _source(self, one: _Wanted, sums: Mapping[CircuitKey, CircuitSum], number: int) -> Source:
        past = self._past(one.span)
        found = metered(one.terms, sums, past or one.span)
        if past is None:
            found = replace(found, until=one.span.start)
        when = one.span.start
        # What one's own plant sent out, and what of it was used, no register of the grid tells.
        own = None if self._has_plant(one) else 0.0
        return Source(
            line_id=f"{one.use.line_id}:{one.name}:{number}",
            node=one.name,
            place=self._nodes.place_of(one.name, when),
            category=one.use.category,
            span=one.span,
            activity=ElectricityUse(
                imported_kwh=found.energy_kwh, exported_kwh=own, own_pv_kwh=own, supplier=one.use.supplier
            ),
            origin=_origin(found.circuits),
            completeness=found.completeness,
            estimated_share=found.estimated_share,
            activity_uncertainty=one.use.activity_uncertainty,
            factor_uncertainty=one.use.factor_uncertainty,
            within=tuple(self._nodes.ancestors_of(one.name, when)),
            through=one.through,
            asked=one.use.line_id,
            metered=found,
        )

    def _has_plant(self, one: _Wanted) -> bool:
        node = self._nodes.node(one.name)
        return node is not None and any(
            branch.role in SOURCES for branch in self._energy.branches(node, one.span.start, one.span.end)
        )

    def _past(self, span: Span) -> Span | None:
        """Return what of a span is over, None when it has not begun."""
        end = min(span.end, floor(self._clock.now()))
        return Span(span.start, end) if end > span.start else None


def _passes(wanted: Sequence[_Wanted]) -> list[list[_Wanted]]:
    """Return the lines of each span together, but apart where they mean different times of one circuit."""
    found: dict[Span, list[tuple[dict[CircuitKey, frozenset[Term]], list[_Wanted]]]] = {}
    for one in wanted:
        keys: dict[CircuitKey, set[Term]] = {}
        for term in one.terms:
            keys.setdefault((term.site, term.circuit), set()).add(term)
        mine = {key: frozenset(terms) for key, terms in keys.items()}
        passes = found.setdefault(one.span, [])
        for taken, lines in passes:
            if all(taken.get(key, terms) == terms for key, terms in mine.items()):
                taken |= mine
                lines.append(one)
                break
        else:
            passes.append((mine, [one]))
    return [lines for passes in found.values() for _, lines in passes]


def _origin(circuits: Sequence[str]) -> str:
    if not circuits:
        return "no metered circuit"
    more = f" and {len(circuits) - NAMED} more" if len(circuits) > NAMED else ""
    return f"intervals of circuit {', '.join(circuits[:NAMED])}{more}"
