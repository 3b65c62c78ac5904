"""Carbon efficiency codes of nodes (碳效码), and the sector averages and quotas that they are held against."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any

from libs.common.contracts.carbon import Medium
from libs.common.db import Database
from libs.common.errors import Conflict, InvalidInput, NotFound
from libs.common.tokens import Principal
from services.carbon.directory import RegistryDirectory
from services.carbon.domain.efficiency import (
    Balance,
    Circumstances,
    Code,
    Deduction,
    Kind,
    Standard,
    check_apart,
    code_of,
    deduction,
    yardstick,
)
from services.carbon.domain.levels.comparison import Span
from services.carbon.domain.levels.facts import Denominator, Fact, FactKind, NoDenominator, tiled
from services.carbon.domain.levels.periods import Step
from services.carbon.queries import Queries
from services.carbon.store import efficiency as store
from services.carbon.store import levels as levels_store
from services.carbon.tree import Node, NodeKind
from services.carbon.usecases.levels.shared import SLICES_MAX, Asking, check_count, day_of
from services.carbon.usecases.media import Assumed, Emitted, MediaUses
from services.carbon.usecases.ports import Audit, audit_event

DEDUCTIONS = (FactKind.ZERO_CARBON_ELECTRICITY, FactKind.SINK)


class ShippedStandard(Conflict):
    """The id is that of a scheme that ships with the platform."""

    code = "shipped_standard"
    title_zh = "平台内置方案"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedMedium:
    """What one register of another medium than electricity emitted in a period."""

    point: str
    emission_kg_co2e: float | None
    usable_share: float | None
    interval_completeness: float | None
    unsaid: bool
    """Nobody says what the medium is, or how it was made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCode:
    """The code of a node for one period, with what is known of it."""

    node: Node
    span: Span
    standard_id: str
    code: Code
    nodes: Sequence[Node]
    """Whose value added or area was summed: the node itself, or its sites."""
    sources: Sequence[str]
    """Of the value added or area; none where the registry has it."""
    energy: Mapping[str, Any]
    """The row of ``energy_by_period``."""
    media: Sequence[UsedMedium]
    """Each other medium that was used, but water, which emits nothing where it is used."""
    usable_share: float | None
    """The least of electricity and all media. [1]"""
    interval_completeness: float | None
    factors: Sequence[str]


class Efficiency(Asking):
    """Codes are computed when they are asked for; the only thing that is written are standards that people enter."""

    def __init__(
        self,
        *,
        db: Database,
        queries: Queries,
        media: MediaUses,
        directory: RegistryDirectory,
        shipped: Sequence[Standard],
        audit: Audit,
    ) -> None:
        super().__init__(db=db, boundaries=queries.boundaries, directory=directory, audit=audit)
        self._queries = queries
        self._media = media
        self._shipped = shipped

    async def codes(
        self, node: Node, start: datetime, end: datetime, *, step: Step, standard_id: str, assumed: Assumed
    ) -> list[NodeCode]:
        """Return the code of a node by civil period.

        Raises:
            NotFound: There is no such node or standard, or nothing of the node can be metered.
            InvalidInput: The node is a virtual meter, a period is shorter than a day, the span is empty or too long, or
                what is assumed of a medium does not fit it.
        """
        if node.kind is NodeKind.VIRTUAL:
            raise InvalidInput(
                "virtual: expected another node; a sum of circuits has neither value added nor area",
                message_zh="virtual:虚拟表没有增加值或面积,请改用其他节点",
            )
        if step in (Step.QUARTER_HOUR, Step.HOUR):
            raise InvalidInput(
                f"step: expected day, week, month or year, found {step}",
                message_zh=f"step:应为 day、week、month 或 year,实际为 {step}",
            )
        rows = await self.standards_of(standard_id)
        kind = rows[0].kind
        first, last = self.boundaries.whole_periods(start, end, step)
        sites = self.sites_of(node, first, last) if node.kind.is_group else []
        parts = [Node(NodeKind.SITE, site) for site in sites] or [node]
        check_count(len(parts), SLICES_MAX)
        emissions = await self._queries.emissions(node=node, start=first, end=last, step=step)
        emitted = await self._media.emitted(await self._media.used(node, first, last, step), assumed)
        names = [node.id, *(one.id for one in parts)]
        async with self._db.read() as conn:
            found = await levels_store.fetch_facts(conn, names, [kind.per, *DEDUCTIONS], day_of(first), day_of(last))
        facts = [fact for fact, _ in found]
        by_start = [
            (one, {row["start"]: row for row in one.use.frame.to_dicts()})
            for one in emitted
            if one.use.of.medium is not Medium.WATER
        ]
        codes = []
        for row in emissions.frame.to_dicts():
            span = Span(row["start"], row["end"])
            days = day_of(span.start), day_of(span.end)
            media = [_medium(one, periods.get(span.start), span.start) for one, periods in by_start]
            used = [one for one in media if one is not None]
            nodes, denominator = self._denominator(node, parts, kind, span, facts)
            balance = Balance(
                electricity=row["emission_kg_co2"],
                energy_kwh=row["energy_kwh"],
                media=tuple((one.point, one.emission_kg_co2e) for one in used),
                zero_carbon=_deducted(node, parts, FactKind.ZERO_CARBON_ELECTRICITY, facts, days),
                sinks=_deducted(node, parts, FactKind.SINK, facts, days),
            )
            usable = _least([row["usable_share"], *(one.usable_share for one in used)])
            code = code_of(
                kind=kind,
                balance=balance,
                denominator=denominator,
                against=yardstick(rows, self._shipped, days[0], date.fromordinal(days[1].toordinal() - 1)),
                found=Circumstances(
                    over=span.end <= self.boundaries.clock.now(),
                    whole_year=step is Step.YEAR,
                    unsaid=tuple(one.point for one in used if one.unsaid),
                    usable_share=usable,
                ),
            )
            codes.append(
                NodeCode(
                    node=node,
                    span=span,
                    standard_id=standard_id,
                    code=code,
                    nodes=nodes,
                    sources=_sources(nodes, kind.per, facts, days),
                    energy=row,
                    media=used,
                    usable_share=usable,
                    interval_completeness=_least(
                        [row["interval_completeness"], *(one.interval_completeness for one in used)]
                    ),
                    factors=sorted({*(row["factor_ids"] or []), *_factors(emitted, span.start)}),
                )
            )
        return codes

    async def standards_of(self, standard_id: str) -> list[Standard]:
        """Return the rows of an id, by first day.

        Raises:
            NotFound: There are none.
        """
        shipped = [one for one in self._shipped if one.standard_id == standard_id]
        if shipped:
            return shipped
        async with self._db.read() as conn:
            found = await store.fetch_standards(conn, standard_id)
        if not found:
            raise NotFound(f"there is no efficiency standard {standard_id}", message_zh=f"没有碳效基准 {standard_id}")
        return found

    async def standards(self, on: date | None) -> list[Standard]:
        """Return all rows, shipped ones first; those that hold on a day, or all."""
        async with self._db.read() as conn:
            own = await store.fetch_standards(conn, on=on)
        return [*(one for one in self._shipped if on is None or one.holds_on(on)), *own]

    async def enter(self, one: Standard, *, who: Principal) -> Standard:
        """Store a row, or the next version of the one with its id and first day.

        Raises:
            ShippedStandard: The id is that of a shipped scheme.
            StandardsOverlap: Another row of the id has some of its days.
            InvalidInput: The other rows of the id are of another kind.
        """
        if any(each.standard_id == one.standard_id for each in self._shipped):
            raise ShippedStandard(
                f"{one.standard_id} ships with the platform; enter averages and quotas under an id of your own",
                message_zh=f"{one.standard_id} 为平台内置方案,请以自有编号填报平均值或定额",
            )
        now = self.boundaries.clock.now()
        async with self._db.write() as conn:
            await store.lock_standards(conn)
            before = await store.fetch_standards(conn, one.standard_id)
            check_apart(one, before)
            former = next((each for each in before if each.valid_from == one.valid_from), None)
            row = replace(one, version=1 if former is None else former.version + 1)
            await store.add_standard(conn, row, by=who.actor, at=now)
            event = audit_event(
                who,
                "efficiency.standard",
                f"efficiency:{row.standard_id}",
                now,
                before=None if former is None else _said(former),
                after=_said(row),
            )
            await self._audit(conn, event)
        return row

    def _denominator(
        self, node: Node, parts: Sequence[Node], kind: Kind, span: Span, facts: Sequence[Fact]
    ) -> tuple[Sequence[Node], Denominator]:
        """Return what is divided by: the node's own, else the sum of its sites', of which none may be missing."""
        own = self._own(node, kind, span, facts)
        if own.reason is not NoDenominator.NOT_ENTERED or parts == [node]:
            return [node], own
        each = [self._own(one, kind, span, facts) for one in parts]
        lacking = next((one for one in each if one.value is None), None)
        if lacking is not None:
            return parts, lacking
        if len({one.basis for one in each}) > 1:
            return parts, Denominator(None, NoDenominator.MIXED_BASES)
        return parts, Denominator(math.fsum(one.value or 0.0 for one in each), None, each[0].basis)

    def _own(self, node: Node, kind: Kind, span: Span, facts: Sequence[Fact]) -> Denominator:
        if kind is Kind.BUILDING:
            return self.denominator(node, FactKind.AREA, span, facts)
        mine = [one for one in facts if one.node == node.id and one.kind is kind.per]
        return tiled(mine, day_of(span.start), day_of(span.end))


def _medium(found: Emitted, row: Mapping[str, Any] | None, start: datetime) -> UsedMedium | None:
    """Return what a medium emitted in a period; None where nothing of it was used or expected."""
    if row is None or row["quantity"] == 0.0 or (row["quantity"] is None and row["usable_share"] is None):
        return None
    values = [one.figure.value for one in found.by_period.get(start, ())]
    known = [value for value in values if value is not None]
    return UsedMedium(
        point=found.use.of.point,
        emission_kg_co2e=math.fsum(known) if known and len(known) == len(values) else None,
        usable_share=row["usable_share"],
        interval_completeness=row["interval_completeness"],
        unsaid=found.why is not None,
    )


def _factors(emitted: Sequence[Emitted], start: datetime) -> set[str]:
    return {factor.factor_id for one in emitted for each in one.by_period.get(start, ()) for factor in each.used}


def _deducted(
    node: Node, parts: Sequence[Node], kind: FactKind, facts: Sequence[Fact], days: tuple[date, date]
) -> Deduction:
    """Return what is taken off by facts of the node itself, else by those of its sites."""
    mine = [one for one in facts if one.kind is kind]
    own = deduction([one for one in mine if one.node == node.id], *days)
    if own.sources or own.cut:
        return own
    names = {one.id for one in parts}
    return deduction([one for one in mine if one.node in names], *days)


def _sources(nodes: Sequence[Node], kind: FactKind, facts: Sequence[Fact], days: tuple[date, date]) -> list[str]:
    names = {one.id for one in nodes}
    mine = [one for one in facts if one.kind is kind and one.node in names]
    return sorted({one.source for one in mine if one.first_day < days[1] and one.end_day > days[0]})


def _least(shares: Sequence[float | None]) -> float | None:
    return min((share for share in shares if share is not None), default=None)


def _said(one: Standard) -> dict[str, Any]:
    return {
        "kind": one.kind.value,
        "version": one.version,
        "valid_from": one.valid_from.isoformat(),
        "valid_to": None if one.valid_to is None else one.valid_to.isoformat(),
        "benchmark": one.benchmark,
        "levels": list(one.levels),
        "classes": list(one.classes),
        "source": one.source,
        "confidence": one.confidence,
    }
