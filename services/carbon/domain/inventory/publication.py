"""Statements that stay as they were, and what they would say today.

A published inventory is frozen with its inputs, its figures and the digest of the factors that were known. When a
better factor or late data arrive, the restated figures stand next to the frozen ones with the difference of each
line; the frozen ones are never changed. Avoided emissions are a statement of their own and reduce no line.

Source:
    The platform's energy methods, section 3.4; GHG Protocol Corporate Standard, chapter 5 (recalculation).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from libs.common.errors import InvalidInput
from services.carbon.domain.coal import CoalCoefficient
from services.carbon.domain.emissions.activity import activity
from services.carbon.domain.emissions.knowledge import Emission, Knowledge
from services.carbon.domain.factors import EmissionFactor, FactorLibrary, Use
from services.carbon.domain.factors.library import digest_of
from services.carbon.domain.figures import Figure, Input, Mark
from services.carbon.domain.inventory.coal import coal_of
from services.carbon.domain.inventory.compute import Result, Sureness, Total, check_lines, civil_year, compute, total
from services.carbon.domain.inventory.sources import Inputs, Source, UnitUse

SIGNIFICANT = 0.05
"""A change of the total by more than this share asks for a restated base year. [1]"""

SAME = 1e-12
"""Figures that differ by less than this share are the same. [1]"""


class NotByUnit(InvalidInput):
    """An avoided emission is an amount with a factor per unit."""

    code = "not_by_unit"
    title_zh = "避免排放数据不符"


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenFigure:
    """A figure as published, with its reasons."""

    value: float | None
    unit: str
    formula: str
    source: str
    inputs: Sequence[Input]
    marks: Sequence[Mark]
    """In the order of their names."""

    @classmethod
    def of(cls, one: Figure) -> "FrozenFigure":
        """Return a figure as it is written down."""
        return cls(
            value=one.value,
            unit=one.unit,
            formula=one.formula,
            source=one.source,
            inputs=tuple(one.inputs),
            marks=tuple(sorted(one.marks)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """One line as published."""

    line_id: str
    category: str
    share: float
    """Of the node. [1]"""
    location: FrozenFigure
    market: FrozenFigure
    by_gas: Mapping[str, float | None]
    """Location-based. [kgCO2e]"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The totals of an inventory beside the two main ones; see ``compute.Result``."""

    by_scope: Mapping[str, Total]
    by_iso_category: Mapping[int, Total]
    by_gb_group: Mapping[str, Total]
    by_gas: Mapping[str, float]
    memo_montreal: Total
    biogenic: Total
    imported_kwh: float | None
    covered_kwh: float
    coverage: float | None
    sureness: Sureness
    standard_coal: FrozenFigure
    """Comprehensive energy consumption, equivalent values. [kgce]"""
    outside: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """One published version of an inventory."""

    inventory_id: str
    version: int
    published_at: datetime
    published_by: str
    known_on: date
    """The day as of which factors were chosen."""
    inputs: Inputs
    lines: Sequence[Frozen]
    location: Total
    market: Total
    summary: Summary
    used: Sequence[EmissionFactor]
    used_digest: str
    """Of the factors that went into a line."""
    table_digest: str
    """Of all factors that were known that day."""
    software: str


@dataclass(frozen=True, slots=True)
class Change:
    """One line as published and as it would be today."""

    line_id: str
    frozen_kg_co2e: float | None
    restated_kg_co2e: float | None
    because: Sequence[str]
    """Ids of factors, or ``activity``, that differ."""

    @property
    def difference_kg_co2e(self) -> float | None:
        """Restated minus frozen; None when one of them is unknown."""
        if self.frozen_kg_co2e is None or self.restated_kg_co2e is None:
            return None
        return self.restated_kg_co2e - self.frozen_kg_co2e


@dataclass(frozen=True, slots=True)
class Restatement:
    """What a publication would say as known on a later day."""

    publication: Publication
    known_on: date
    result: Result
    table_digest: str
    changes: Sequence[Change]
    """Lines that differ, location-based."""
    market_changes: Sequence[Change]

    @property
    def difference_kg_co2e(self) -> float | None:
        """Restated total minus frozen one, location-based; None where a line of either is unknown."""
        before, after = self.publication.location, self.result.location
        if before.kg_co2e is None or after.kg_co2e is None or before.unknown or after.unknown:
            return None
        return after.kg_co2e - before.kg_co2e

    @property
    def significant(self) -> bool | None:
        """Whether the total moved by more than five per cent; None when that is not known."""
        before, moved = self.publication.location.kg_co2e, self.difference_kg_co2e
        if before is None or moved is None:
            return None
        return abs(moved) > SIGNIFICANT * abs(before)


@dataclass(frozen=True, slots=True)
class Avoided:
    """What others did not emit, in a statement of its own."""

    lines: Sequence[tuple[Source, Emission]]
    total: Total


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenAvoided:
    """One line of a statement of avoided emissions, as published."""

    line_id: str
    figure: FrozenFigure


@dataclass(frozen=True, slots=True, kw_only=True)
class AvoidedPublication:
    """One published version of a statement of avoided emissions."""

    statement_id: str
    version: int
    published_at: datetime
    published_by: str
    known_on: date
    sources: Sequence[Source]
    lines: Sequence[FrozenAvoided]
    total: Total
    used: Sequence[EmissionFactor]
    used_digest: str
    table_digest: str
    software: str


def publish(
    inputs: Inputs,
    library: FactorLibrary,
    *,
    inventory_id: str,
    version: int,
    known_on: date,
    at: datetime,
    by: str,
    software: str,
    coal: Sequence[CoalCoefficient],
) -> tuple[Publication, Result]:
    """Return an inventory frozen as of a day, and the whole of it."""
    result = compute(inputs, Knowledge(library, known_on))
    frozen = [
        Frozen(
            line_id=line.source.line_id,
            category=line.category.code,
            share=line.share,
            location=FrozenFigure.of(line.location.figure),
            market=FrozenFigure.of(line.market.figure),
            by_gas=line.location.by_gas,
        )
        for line in result.lines
    ]
    publication = Publication(
        inventory_id=inventory_id,
        version=version,
        published_at=at,
        published_by=by,
        known_on=known_on,
        inputs=inputs,
        lines=frozen,
        location=result.location,
        market=result.market,
        summary=Summary(
            by_scope=result.by_scope,
            by_iso_category=result.by_iso_category,
            by_gb_group=result.by_gb_group,
            by_gas=result.by_gas,
            memo_montreal=result.memo_montreal,
            biogenic=result.biogenic,
            imported_kwh=result.imported_kwh,
            covered_kwh=result.covered_kwh,
            coverage=result.coverage,
            sureness=result.sureness,
            standard_coal=FrozenFigure.of(coal_of(inputs, result.lines, coal).total),
            outside=result.outside,
        ),
        used=tuple(result.used),
        used_digest=digest_of(result.used),
        table_digest=library.digest(known_on),
        software=software,
    )
    return publication, result


def restate(
    publication: Publication, library: FactorLibrary, known_on: date, inputs: Inputs | None = None
) -> Restatement:
    """Return what a publication would say as known on a day.

    Args:
        publication: As published.
        library: All factors that there are.
        known_on: Usually today.
        inputs: Activity data as they are now; None keeps those that were published.
    """
    now = inputs or publication.inputs
    result = compute(now, Knowledge(library, known_on))
    before = {row.line_id: row for row in publication.lines}
    after = {line.source.line_id: line for line in result.lines}
    old = {(row.factor_id, row.revision, row.value) for row in publication.used}
    moved: dict[str, bool] = {}
    if inputs is not None:
        published = {source.line_id: source for source in publication.inputs.sources}
        current = {source.line_id: source for source in inputs.sources}
        moved = {name: published.get(name) != current.get(name) for name in {*published, *current}}

    def changes(market: bool) -> list[Change]:
        found = []
        for name in sorted({*before, *after}):
            frozen = before.get(name)
            line = after.get(name)
            was = None if frozen is None else (frozen.market if market else frozen.location).value
            emission = None if line is None else (line.market if market else line.location)
            is_now = None if emission is None else emission.figure.value
            if _same(was, is_now):
                continue
            because = [
                row.factor_id
                for row in (() if emission is None else emission.used)
                if (row.factor_id, row.revision, row.value) not in old
            ]
            if frozen is None or line is None or moved.get(name.split("/")[0], False):
                because.append("activity")
            found.append(Change(name, was, is_now, tuple(sorted(set(because)))))
        return found

    return Restatement(publication, known_on, result, library.digest(known_on), changes(False), changes(True))


def _same(one: float | None, other: float | None) -> bool:
    """Return whether two figures are one; the order in which a database adds is no difference."""
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=SAME)


def avoided(sources: Sequence[Source], knowledge: Knowledge) -> Avoided:
    """Return the statement of avoided emissions; it has no boundary of an inventory and reduces none.

    Raises:
        InvalidInput: A source of another kind than an amount with a factor per unit.
        WrongFamily: A factor that is not made for it.
    """
    check_lines(sources)
    lines: list[tuple[Source, Emission]] = []
    for source in sources:
        use = source.activity
        if not isinstance(use, UnitUse):
            raise NotByUnit(
                f"avoided emission {source.line_id}: expected an amount with a factor per unit, found {use.kind}",
                message_zh=f"避免排放 {source.line_id}:应为带单位因子的数量,实际为 {use.kind}",
            )
        lines.append(
            (
                source,
                activity(
                    knowledge,
                    series=use.series,
                    amount=use.amount,
                    unit=use.unit,
                    year=civil_year(source.span),
                    place=source.place,
                    origin=source.origin,
                    use=Use.AVOIDED,
                    supplier=use.supplier,
                ),
            )
        )
    return Avoided(lines, total((source.line_id, emission.figure.value) for source, emission in lines))


def publish_avoided(
    sources: Sequence[Source],
    library: FactorLibrary,
    *,
    statement_id: str,
    version: int,
    known_on: date,
    at: datetime,
    by: str,
    software: str,
) -> AvoidedPublication:
    """Return a statement of avoided emissions frozen as of a day."""
    found = avoided(sources, Knowledge(library, known_on))
    used = {(row.factor_id, row.revision): row for _, emission in found.lines for row in emission.used}
    rows = [used[key] for key in sorted(used)]
    return AvoidedPublication(
        statement_id=statement_id,
        version=version,
        published_at=at,
        published_by=by,
        known_on=known_on,
        sources=sources,
        lines=[
            FrozenAvoided(line_id=source.line_id, figure=FrozenFigure.of(emission.figure))
            for source, emission in found.lines
        ],
        total=found.total,
        used=rows,
        used_digest=digest_of(rows),
        table_digest=library.digest(known_on),
        software=software,
    )
