"""Energy per m2, person and output, and the facts that people enter for it."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any

from libs.common.tokens import Principal
from services.carbon.boundary import SpanEnergy
from services.carbon.domain.levels.comparison import (
    Span,
)
from services.carbon.domain.levels.facts import Denominator, Fact, FactKind, check_apart
from services.carbon.domain.levels.periods import Step
from services.carbon.store import levels as store
from services.carbon.tree import Node, NodeKind
from services.carbon.usecases.levels.shared import (
    SLICES_MAX,
    Asking,
    check_count,
    day_of,
)
from services.carbon.usecases.ports import audit_event


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


class Intensities(Asking):
    """Intensities; the only thing that is written are facts that people enter."""

    async def intensity(
        self, node: Node, start: datetime, end: datetime, *, step: Step, kinds: Sequence[FactKind]
    ) -> list[IntensityPeriod]:
        """Return a node's energy per m2, person, output value or output by period: sum over sum, by whole sites."""
        first, last = self.boundaries.whole_periods(start, end, step)
        sites = self.sites_of(node, first, last) if node.kind.is_group else []
        parts = [Node(NodeKind.SITE, site) for site in sites] if sites else [node]
        check_count(len(parts), SLICES_MAX)
        whole, *found = await self.boundaries.energies([(node, None), *((one, None) for one in parts)], first, last)
        now = self.boundaries.clock.now()
        names = [node.id, *(one.id for one in parts)]
        async with self._db.read() as conn:
            facts = [fact for fact, _ in await store.fetch_facts(conn, names, kinds, day_of(first), day_of(last))]
        energies = await asyncio.to_thread(lambda: [one.by_period(step, now).to_dicts() for one in found])
        answers = []
        for index, row in enumerate(whole.by_period(step, now).to_dicts()):
            span = Span(row["start"], row["end"])
            figures = []
            for kind in kinds:
                own = self.denominator(node, kind, span, facts)
                if own.value is not None or len(parts) == 1:
                    figures.append(sum_over_sum(kind, [(node, row["energy_kwh"], own)], 0))
                    continue
                each = [
                    (one, energy[index]["energy_kwh"], self.denominator(one, kind, span, facts))
                    for one, energy in zip(parts, energies, strict=True)
                ]
                usable = [one for one in each if one[1] is not None and one[2].value is not None]
                bases = {den.basis for _, _, den in usable}
                left_out = len(each) - len(usable)
                figures.append(sum_over_sum(kind, usable if len(bases) == 1 else [(node, None, own)], left_out))
            answers.append(IntensityPeriod(span, _span_energy(row), figures))
        return answers

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


def sum_over_sum(kind: FactKind, parts: Sequence[tuple[Node, float | None, Denominator]], left_out: int) -> Intensity:
    """Return sum over sum of parts; a single part may be unknown."""
    if len(parts) == 1 and (parts[0][1] is None or parts[0][2].value is None):
        return Intensity(kind, parts[0][1], parts[0][2], None, left_out)
    known = [(node, energy or 0.0, den) for node, energy, den in parts]
    energy = math.fsum(one for _, one, _ in known)
    den = math.fsum(one.value or 0.0 for _, _, one in known)
    return Intensity(kind, energy, Denominator(den, None, parts[0][2].basis), energy / den, left_out, known)


def _said(one: Fact) -> dict[str, Any]:
    return {key: value.isoformat() if isinstance(value, date) else value for key, value in asdict(one).items()}


def _span_energy(row: Mapping[str, Any]) -> SpanEnergy:
    return SpanEnergy(**{name: row[name] for name in SpanEnergy.__slots__})
