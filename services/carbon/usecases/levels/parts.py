"""The energy of a node by time and by part: curve, shifts, metering levels, breakdown."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import polars as pl

from libs.common.errors import InvalidInput
from libs.common.ids import CircuitId
from services.carbon.boundary import Asked, NodeEnergy, SpanEnergy
from services.carbon.domain.levels.cover import FINEST_LEVEL, SOURCES, Dimension
from services.carbon.domain.levels.curve import load_curve
from services.carbon.domain.levels.energy import totals
from services.carbon.domain.levels.periods import Shift, Step
from services.carbon.tree import Node, NodeKind
from services.carbon.usecases.levels.shared import (
    SLICES_MAX,
    Asking,
    check_count,
    in_span,
)


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


class Parts(Asking):
    """Curves, coverage and breakdowns; reads only."""

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
        if node.kind is NodeKind.VIRTUAL and by is not By.SHIFT:
            raise InvalidInput(
                f"by: expected shift of a virtual meter, which has no circuits of its own, found {by}",
                message_zh=f"by:虚拟表只能按班次(shift)分解,实际为 {by}",
            )
        if by is By.SHIFT:
            if not shifts:
                raise InvalidInput("shifts: expected the shifts to break down by", message_zh="shifts:请给出班次时段")
            found = await self.boundaries.energy(node, first, last)
            whole = found.in_span(now)
            slices = [self._slice(one.name, found, found.in_span(now, one), whole) for one in shifts]
            return whole, sorted(slices, key=_largest_first)
        asked = self._asked(node, by, first, last)
        check_count(len(asked), SLICES_MAX)
        both = await self.boundaries.energies([(node, None), *asked.values()], first, last)
        whole, *parts = await in_span(both, now)
        slices = [
            self._slice(key, one, part, whole)
            for key, one, part in zip(asked, both[1:], parts, strict=True)
            if one.terms
        ]
        return whole, sorted(slices, key=_largest_first)

    def _has_meter(self, circuit: CircuitId, at: datetime) -> bool:
        return any(
            binding.valid_from < at and (binding.valid_to is None or binding.valid_to >= at)
            for binding in self._directory.bindings_of(circuit)
        )

    def _asked(self, node: Node, by: By, first: datetime, last: datetime) -> dict[str, Asked]:
        """Return what to ask for each part of a breakdown."""
        if by is By.SITE:
            return {site: (Node(NodeKind.SITE, site), None) for site in self.sites_of(node, first, last)}
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


def _largest_first(one: Slice) -> tuple[float, str]:
    return (-(one.energy.energy_kwh or 0.0), one.key)
