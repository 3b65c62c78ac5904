"""What every kind of figure asks with, and the limits of one question."""

import asyncio
from collections.abc import Sequence
from datetime import date, datetime, time

from libs.common.clock import CIVIL_ZONE
from libs.common.db import Database
from libs.common.ids import SiteId
from services.carbon.boundary import Boundaries, NodeEnergy, SpanEnergy, TooMuchAtOnce
from services.carbon.directory import RegistryDirectory
from services.carbon.domain.levels.comparison import Span
from services.carbon.domain.levels.facts import Denominator, Fact, FactKind, summed, weighted
from services.carbon.tree import Node, NodeKind
from services.carbon.usecases.ports import Audit

SLICES_MAX = 500
"""Groups of one breakdown, and sites or circuits of one ranking."""
SAMPLED_MAX = 200
"""Circuits whose samples one question may read."""


class Asking:
    """What the figures of nodes are asked of."""

    def __init__(self, *, db: Database, boundaries: Boundaries, directory: RegistryDirectory, audit: Audit) -> None:
        self._db = db
        self.boundaries = boundaries
        self._directory = directory
        self._audit = audit

    def sites_of(self, node: Node, first: datetime, last: datetime) -> list[SiteId]:
        """Return the sites that a node consists of within a span."""
        return sorted({site for site, _, _ in self.boundaries.tree.sites(node, first, last)})

    def denominator(self, node: Node, kind: FactKind, span: Span, facts: Sequence[Fact]) -> Denominator:
        """Return what an energy is divided by: entered facts, else of a site what the registry has."""
        mine = [one for one in facts if one.node == node.id and one.kind is kind]
        if kind.is_sum:
            return summed(mine, day_of(span.start), day_of(span.end))
        entered: list[tuple[datetime, datetime, float | None]] = [
            (midnight(one.first_day), midnight(one.end_day), one.value) for one in mine
        ]
        if entered or node.kind is not NodeKind.SITE:
            return weighted(entered, span.start, span.end)
        name = "area_m2" if kind is FactKind.AREA else "persons"
        return weighted(self.boundaries.tree.site_values(SiteId(node.id), name), span.start, span.end)


async def in_span(found: Sequence[NodeEnergy], now: datetime) -> list[SpanEnergy]:
    """Return the energy of the whole span of each."""
    return await asyncio.to_thread(lambda: [one.in_span(now) for one in found])


def check_count(count: int, most: int) -> None:
    """Refuse a question about too many parts.

    Raises:
        TooMuchAtOnce: There are more than ``most``.
    """
    if count > most:
        raise TooMuchAtOnce(
            f"expected at most {most} parts, found {count}; ask for a smaller node",
            message_zh=f"最多 {most} 项,实际 {count} 项;请缩小范围",
        )


def day_of(at: datetime) -> date:
    """Return the civil day of a time."""
    return at.astimezone(CIVIL_ZONE).date()


def midnight(day: date) -> datetime:
    """Return the beginning of a civil day."""
    return datetime.combine(day, time(), CIVIL_ZONE)
