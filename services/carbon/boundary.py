"""Energy of any boundary over any span: the one way in which the other parts of carbon ask for it."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import polars as pl

from libs.common.clock import Clock
from libs.common.db import Database
from libs.common.errors import InvalidInput, NotFound
from libs.common.ids import CircuitId, SiteId
from services.carbon.domain.intervals import STEP_S
from services.carbon.domain.levels.cover import Branch, Choose, Dimension, Term
from services.carbon.domain.levels.energy import (
    Absence,
    Promise,
    circuits_of,
    energy_by_period,
    energy_in_span,
    node_intervals,
)
from services.carbon.domain.levels.periods import Shift, Step, periods, step_count
from services.carbon.domain.levels.virtual import virtual_by_site, virtual_intervals
from services.carbon.domain.virtual import circuits_behind
from services.carbon.store import levels as store
from services.carbon.store.outages import fetch_outages
from services.carbon.store.virtual import fetch_definitions
from services.carbon.tree import Node, NodeKind, Tree

WEIGHT_DAYS = 28
"""What a circuit usually uses is the median of so many days before the end of what is asked for."""


Asked = tuple[Node, Dimension | Choose | None]
"""A node, or some of its circuits."""


class TooMuchAtOnce(InvalidInput):
    """A question would read or answer more than one request may."""

    code = "too_much_at_once"
    title_zh = "查询范围过大"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one question may be about."""

    days: int
    intervals: int
    """Intervals that may be read: circuits times quarter hours."""
    periods: int
    """Rows of an answer."""


@dataclass(frozen=True, slots=True)
class SpanEnergy:
    """Energy of a span; fields as the columns of ``energy_by_period``."""

    energy_kwh: float | None
    provisional: bool
    interval_completeness: float | None
    usable_share: float | None
    estimated_share: float
    from_parts_share: float


@dataclass(frozen=True)
class NodeEnergy:
    """The intervals that a node's energy is the sum of."""

    node: Node
    start: datetime
    end: datetime
    terms: Sequence[Term]
    intervals: pl.DataFrame
    """See ``domain/levels/energy.py``."""
    weights: Mapping[CircuitId, float]
    """What an interval of each term usually has. [kWh]"""
    absences: Sequence[Absence]
    """Recorded outages."""

    def promise(self, now: datetime, shift: Shift | None = None) -> Promise:
        """Return what is expected of it."""
        return Promise(self.terms, now, self.weights, self.absences, shift)

    def by_period(self, step: Step, now: datetime, shift: Shift | None = None) -> pl.DataFrame:
        """Return the energy by civil period; see ``energy_by_period``."""
        return energy_by_period(self.intervals, self.promise(now, shift), step=step, start=self.start, end=self.end)

    def in_span(self, now: datetime, shift: Shift | None = None) -> SpanEnergy:
        """Return the energy of the whole span."""
        row = energy_in_span(self.intervals, self.promise(now, shift), start=self.start, end=self.end)
        return SpanEnergy(**{name: row[name] for name in SpanEnergy.__slots__})


class Boundaries:
    """Reads only; what it returns is computed from the books at the time of asking."""

    def __init__(self, *, db: Database, tree: Tree, clock: Clock, limits: Limits) -> None:
        self._db = db
        self.tree = tree
        self.clock = clock
        self._limits = limits

    def whole_periods(self, start: datetime, end: datetime, step: Step) -> tuple[datetime, datetime]:
        """Return the span of the civil periods that overlap ``[start, end)``.

        Raises:
            InvalidInput: The span is empty.
            TooMuchAtOnce: It is too long, or has too many periods.
        """
        self.check_span(start, end)
        count = step_count(step, start, end)
        if count > self._limits.periods + 2:
            raise TooMuchAtOnce(
                f"from, to, step: expected at most {self._limits.periods} periods, found about {count}",
                message_zh=f"from、to、step:周期数最多 {self._limits.periods} 个,实际约 {count} 个",
            )
        whole = periods(step, start, end)
        return whole["start"][0], whole["end"][-1]

    def check_span(self, start: datetime, end: datetime) -> None:
        """Refuse a span that is empty or too long.

        Raises:
            InvalidInput: It is empty.
            TooMuchAtOnce: It is too long.
        """
        if end <= start:
            raise InvalidInput("to: expected a time after from", message_zh="to 必须晚于 from")
        if end - start > timedelta(days=self._limits.days):
            raise TooMuchAtOnce(
                f"from, to: expected at most {self._limits.days} days",
                message_zh=f"时间跨度最多 {self._limits.days} 天",
            )

    async def energy(
        self, node: Node, start: datetime, end: datetime, dimension: Dimension | Choose | None = None
    ) -> NodeEnergy:
        """Return the booked energy of a node, or of some of its circuits, in ``[start, end)``.

        Both ends lie on the quarter-hour grid. Spans that follow each other add up: an interval is counted by the
        tree as it was at the interval's start.

        Raises:
            NotFound: There never was such a node.
            TooMuchAtOnce: It consists of more intervals than one question may read.
        """
        return (await self.energies([(node, dimension)], start, end))[0]

    async def energies(self, asked: Sequence[Asked], start: datetime, end: datetime) -> list[NodeEnergy]:
        """Return the same of several nodes, with one read of all of their intervals.

        Raises:
            NotFound: There never was such a node.
            TooMuchAtOnce: They consist of more intervals than one question may read.
        """
        start, end = start.astimezone(UTC), end.astimezone(UTC)  # frames are in UTC
        terms = [self.tree.terms(node, start, end, dimension) for node, dimension in asked]
        every = [term for some in terms for term in some]
        circuits = sorted({*circuits_of(every), *(one for node, _ in asked for one in _behind(node))})
        self.check_size(len(circuits), start, end)
        counted = sorted({term.circuit for term in every})
        sites = sorted({term.site for term in every})
        async with self._db.read() as conn:
            booked = await store.fetch_interval_frame(conn, circuits, start, end)
            weights: dict[CircuitId, float] = {}
            if len(counted) > 1:
                weights = await store.fetch_usual_energy(conn, counted, end - timedelta(days=WEIGHT_DAYS), end)
            outages = await fetch_outages(conn, sites, start, end)
        absences = [Absence(one.site_id, one.circuit_id, one.began_at, one.ended_at) for one in outages]

        def combine() -> list[NodeEnergy]:
            # Each node looks at its own circuits only: a ranking has hundreds of nodes.
            by_circuit = booked.partition_by("circuit_id", as_dict=True)
            found = []
            for (node, _), some in zip(asked, terms, strict=True):
                wanted = _behind(node) or circuits_of(some)
                mine = [by_circuit[circuit,] for circuit in wanted if (circuit,) in by_circuit]
                frame = pl.concat([booked.clear(), *mine])
                if node.kind is NodeKind.VIRTUAL:
                    frame = virtual_intervals(frame, node.id, node.meters, start, end)
                combined = node_intervals(frame, some)
                found.append(NodeEnergy(node, start, end, some, combined, weights, absences))
            return found

        return await asyncio.to_thread(combine)

    async def virtual(self, meter: str) -> Node:
        """Return a virtual meter as a node, whose energy is asked for as that of any other.

        Raises:
            NotFound: There is no such virtual meter.
        """
        async with self._db.read() as conn:
            meters = {one.id: one for one, _, _ in await fetch_definitions(conn)}
        if meter not in meters:
            raise NotFound(f"there is no virtual meter {meter}", message_zh=f"没有虚拟表 {meter}")
        return Node(NodeKind.VIRTUAL, meter, meters)

    async def virtual_by_site(self, node: Node, start: datetime, end: datetime) -> pl.DataFrame:
        """Return what of a virtual meter's energy is of which of its sites; see ``domain/levels/virtual.py``."""
        start, end = start.astimezone(UTC), end.astimezone(UTC)
        circuits = _behind(node)
        self.check_size(len(circuits), start, end)
        alone = [Node(NodeKind.CIRCUIT, circuit) for circuit in circuits]
        terms = [replace(term, parts=()) for one in alone for term in self.tree.terms(one, start, end)]
        async with self._db.read() as conn:
            booked = await store.fetch_interval_frame(conn, circuits, start, end)
        return await asyncio.to_thread(
            lambda: virtual_by_site(node_intervals(booked, terms), node.id, node.meters, start, end)
        )

    def sites(self, node: Node, start: datetime, end: datetime) -> list[tuple[SiteId, datetime, datetime]]:
        """Return the sites that a node lies in or consists of, and when; see ``Tree``."""
        return self.tree.sites(node, start, end)

    def terms(self, node: Node, start: datetime, end: datetime) -> list[Term]:
        """Return the circuits whose sum a node's energy is; see ``Tree``."""
        return self.tree.terms(node, start, end)

    def branches(self, node: Node, start: datetime, end: datetime) -> list[Branch]:
        """Return the circuits of a node; see ``Tree``."""
        return self.tree.branches(node, start, end)

    async def in_pieces(self, terms: Sequence[Term], start: datetime, end: datetime) -> AsyncIterator[pl.DataFrame]:
        """Yield the intervals of terms in ``[start, end)``, both on the grid, as many terms at a time as may be read.

        Each piece is a frame of a node's intervals (``domain/levels/energy.py``); a term is whole in one of them.
        """
        most = max(1, int(self._limits.intervals * STEP_S / (end - start).total_seconds()))
        piece: list[Term] = []
        circuits: set[CircuitId] = set()
        for term in sorted(terms, key=lambda one: (one.site, one.circuit, one.start)):
            if piece and len(circuits) + 1 + len(term.parts) > most:
                yield await self._intervals_of(piece, start, end)
                piece, circuits = [], set()
            piece.append(term)
            circuits |= {term.circuit, *term.parts}
        if piece:
            yield await self._intervals_of(piece, start, end)

    async def _intervals_of(self, terms: Sequence[Term], start: datetime, end: datetime) -> pl.DataFrame:
        async with self._db.read() as conn:
            booked = await store.fetch_interval_frame(conn, circuits_of(terms), start, end)
        return await asyncio.to_thread(node_intervals, booked, terms)

    def check_size(self, circuits: int, start: datetime, end: datetime) -> None:
        """Refuse to read more intervals than one question may.

        Raises:
            TooMuchAtOnce: Those of so many circuits are more.
        """
        intervals = circuits * int((end - start).total_seconds() / STEP_S)
        if intervals > self._limits.intervals:
            raise TooMuchAtOnce(
                f"expected at most {self._limits.intervals} intervals, found {intervals} of {circuits} circuits; "
                "ask for a shorter span or a smaller node",
                message_zh=f"最多查询 {self._limits.intervals} 个区间,实际 {circuits} 个回路共 {intervals} 个;"
                "请缩短时间或缩小范围",
            )


def _behind(node: Node) -> list[CircuitId]:
    """Return the circuits behind a virtual meter; none for any other node."""
    if node.kind is not NodeKind.VIRTUAL:
        return []
    return [CircuitId(one) for one in sorted(circuits_behind(node.id, node.meters))]
