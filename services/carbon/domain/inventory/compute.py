"""From sources to the lines and totals of an inventory. A pure function of the inputs and of what was known on a day.

A sum over lines of which some are unknown is the sum of the known ones, and says which are missing; it is never
silently taken for the whole. Biogenic carbon dioxide, gases of the Montreal Protocol and avoided emissions are in
no total.

Source:
    GHG Protocol Corporate Standard; ISO 14064-1:2018, clauses 5 and 6.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeVar, assert_never

from libs.common.clock import CIVIL_ZONE
from libs.common.errors import InvalidInput
from services.carbon.domain.emissions.activity import activity
from services.carbon.domain.emissions.certificates import Allocation, Certificate, spread
from services.carbon.domain.emissions.electricity import (
    COUNTRY,
    UNIT,
    Covered,
    Netting,
    Purchase,
    location_based,
    market_based,
)
from services.carbon.domain.emissions.fuels import burn
from services.carbon.domain.emissions.heat import purchased_cold, purchased_heat, purchased_hot_water, purchased_steam
from services.carbon.domain.emissions.knowledge import Emission, Knowledge
from services.carbon.domain.emissions.refrigerants import escaped
from services.carbon.domain.factors import Choice, EmissionFactor, Use
from services.carbon.domain.figures import Mark
from services.carbon.domain.inventory import uncertainty
from services.carbon.domain.inventory.boundary import Boundary, Span
from services.carbon.domain.inventory.categories import Category, Scope, category
from services.carbon.domain.inventory.metered import WHOLE
from services.carbon.domain.inventory.sources import (
    Activity,
    ColdUse,
    ElectricityUse,
    FuelUse,
    GasLoss,
    HeatUse,
    HotWaterUse,
    Inputs,
    Source,
    SteamUse,
    UnitUse,
)

SUPPLIER_SERIES = "grid-supplier"
"""Factors of suppliers of electricity."""
SEED = 32150
"""Of simulations of uncertainty, so that one can be repeated."""
Key = TypeVar("Key", int, str)


class SpansTwoYears(InvalidInput):
    """A source lies in two civil years, which have different factors."""

    code = "spans_two_years"
    title_zh = "跨年度活动数据"


@dataclass(frozen=True, slots=True)
class Line:
    """One source within the boundary."""

    source: Source
    """As counted: its share, and its span within the boundary."""
    category: Category
    share: float
    """Of the node. [1]"""
    year: int
    location: Emission
    market: Emission
    """The same as ``location`` for everything but electricity."""
    allocations: Sequence[Allocation] = ()

    @property
    def marks(self) -> frozenset[Mark]:
        """What a reader has to know of either figure."""
        return self.location.figure.marks | self.market.figure.marks


@dataclass(frozen=True, slots=True)
class Total:
    """A sum over lines."""

    kg_co2e: float | None
    """Of the known lines; None where none is known, or there is none at all. [kgCO2e]"""
    lines: int
    unknown: tuple[str, ...] = ()
    """Ids of lines that are not in the sum."""
    incomplete: tuple[str, ...] = ()
    """Ids of lines that are in it with what is known of them."""

    @property
    def whole(self) -> bool:
        """Whether nothing is missing."""
        return not self.unknown and not self.incomplete


@dataclass(frozen=True, slots=True)
class Sureness:
    """How sure a total is, of the lines whose uncertainty is known."""

    relative: float | None
    """Half-width at 95 %. [1]"""
    grade: uncertainty.Grade | None
    covered_share: float
    """Share of the total whose uncertainty is known. [1]"""
    simulation: uncertainty.Simulation | None
    """In place of the formula, where that no longer holds because the width is too large."""


@dataclass(frozen=True, slots=True)
class Result:
    """An inventory."""

    lines: Sequence[Line]
    location: Total
    market: Total
    by_scope: Mapping[str, Total]
    """``1``, ``2_location``, ``2_market``, ``3``."""
    by_iso_category: Mapping[int, Total]
    """Of the location-based method."""
    by_gb_group: Mapping[str, Total]
    by_gas: Mapping[str, float]
    """Of known lines, location-based. [kgCO2e]"""
    memo_montreal: Total
    biogenic: Total
    """[kgCO2]"""
    imported_kwh: float | None
    covered_kwh: float
    coverage: float | None
    """Covered over imported electricity; None where nothing was imported or that is unknown. [1]"""
    sureness: Sureness
    used: Sequence[EmissionFactor]
    """Every factor that went into a line, by id."""
    outside: Sequence[str]
    """Ids of sources whose node or time is not in the boundary; they are in no total."""


def compute(inputs: Inputs, knowledge: Knowledge) -> Result:
    """Return the inventory.

    Args:
        inputs: Boundary (checked by ``check_boundary``), sources, certificates (checked by ``check_certificates``).
        knowledge: The library as of a day; the person's choices and the warming potentials are those of the inputs.

    Raises:
        InvalidInput: Two lines of one id, an unknown category, a source over two civil years, a wrong unit, a negative
            amount, an activity that its category cannot be of.
        WrongFamily: A factor of another family was asked for.
    """
    check_lines(inputs.sources)
    known = replace(knowledge, enabled=frozenset(one.factor_id for one in inputs.enabled), gwp_set=inputs.gwp_set)
    pieces = [piece for source in inputs.sources for piece in _within(source, inputs.boundary)]
    allocations = _allocate(pieces, inputs.certificates, inputs.netting)
    lines = [_line(piece, known, inputs, allocations.get(piece.source.line_id, ())) for piece in pieces]
    inside = {piece.source.line_id.split("/")[0] for piece in pieces}
    return _summed(lines, [source.line_id for source in inputs.sources if source.line_id not in inside])


def civil_year(span: Span) -> int:
    """Return the civil year that a span lies in.

    Raises:
        SpansTwoYears: It lies in two.
    """
    first = span.start.astimezone(CIVIL_ZONE).year
    last = (span.end - timedelta(microseconds=1)).astimezone(CIVIL_ZONE).year
    if last != first:
        raise SpansTwoYears(
            f"span {span.start.isoformat()} to {span.end.isoformat()}: expected one civil year, "
            f"found {first} to {last}; split it at the new year",
            message_zh=f"{span.start.isoformat()} 至 {span.end.isoformat()}:应在同一年度内,"
            f"实际为 {first} 至 {last},请按年拆分",
        )
    return first


def total(lines: Iterable[tuple[str, float | None]], incomplete: Iterable[str] = ()) -> Total:
    """Return the sum of what is known, and what is not. The order of lines does not matter.

    Args:
        lines: Ids and amounts.
        incomplete: Ids of those whose amount is of a part only.
    """
    pairs = list(lines)
    part = set(incomplete)
    known = [value for _, value in pairs if value is not None]
    return Total(
        math.fsum(known) if known else None,
        len(pairs),
        tuple(sorted(line_id for line_id, value in pairs if value is None)),
        tuple(sorted(line_id for line_id, value in pairs if value is not None and line_id in part)),
    )


@dataclass(frozen=True, slots=True)
class _Piece:
    """What of a source is in the boundary."""

    source: Source
    share: float
    apportioned: bool
    """Whether it is a part of the source's time."""

    @property
    def purchased_electricity(self) -> ElectricityUse | None:
        """The electricity of scope 2, which alone certificates can cover."""
        use = self.source.activity
        scope = category(self.source.category).scope
        return use if isinstance(use, ElectricityUse) and scope is Scope.ENERGY else None


def _within(source: Source, boundary: Boundary) -> list[_Piece]:
    """Return the pieces of a source that are in the boundary, each with its node's share.

    A piece shorter than the source takes its part in proportion to time, and the line says so: a monthly bill says
    nothing of two hours of it. Energy from intervals is asked for by the span itself and arrives whole.
    """
    pieces = boundary.share_of(source.counted_by, source.span)
    found = []
    for number, (share, span) in enumerate(pieces, start=1):
        time_share = span.seconds / source.span.seconds
        found.append(
            _Piece(
                replace(
                    source,
                    line_id=source.line_id if len(pieces) == 1 else f"{source.line_id}/{number}",
                    span=span,
                    activity=source.activity.times(share * time_share),
                    estimated_share=source.estimated_share if span == source.span else 1.0,
                ),
                share,
                apportioned=span != source.span,
            )
        )
    return found


def _allocate(
    pieces: Sequence[_Piece], certificates: Sequence[Certificate], netting: Netting
) -> dict[str, list[Allocation]]:
    """Cover the electricity of each year with that year's certificates, in the order of lines."""
    found: dict[str, list[Allocation]] = {}
    for vintage in sorted({one.vintage for one in certificates}):
        needs = {
            piece.source.line_id: need
            for piece in pieces
            if (use := piece.purchased_electricity) is not None
            and civil_year(piece.source.span) == vintage
            and (need := _need(use, netting)) is not None
        }
        mine = [one for one in certificates if one.vintage == vintage]
        for one in spread(mine, needs):
            found.setdefault(one.line, []).append(one)
    return found


def _need(use: ElectricityUse, netting: Netting) -> float | None:
    """Return what certificates can cover of a line. [kWh]"""
    sold = use.own_pv_kwh if use.own_pv_certificates_sold else 0.0
    exported = use.exported_kwh if netting is Netting.GUIDELINE else 0.0
    if use.imported_kwh is None or sold is None or exported is None:
        return None
    return max(0.0, use.imported_kwh - exported) + sold


def _line(piece: _Piece, knowledge: Knowledge, inputs: Inputs, allocations: Sequence[Allocation]) -> Line:
    source = piece.source
    year = civil_year(source.span)
    kind = category(source.category)
    _check_category(source, kind)
    if (use := piece.purchased_electricity) is not None:
        covered = [Covered(one.kwh, origin=f"certificate {one.number}") for one in allocations]
        need = _need(use, inputs.netting)
        rest = None if need is None else need - math.fsum(one.kwh for one in allocations)
        if use.supplier is not None and rest is not None and rest > 0 and _has_factor(knowledge, use.supplier, year):
            covered.append(Covered(rest, SUPPLIER_SERIES, use.supplier, f"supplier {use.supplier}"))
        purchase = Purchase(
            imported_kwh=use.imported_kwh,
            exported_kwh=use.exported_kwh,
            own_pv_kwh=use.own_pv_kwh,
            own_pv_certificates_sold=use.own_pv_certificates_sold,
            covered=covered,
            origin=source.origin,
        )
        location = location_based(knowledge, purchase, place=source.place, year=year, netting=inputs.netting)
        market = market_based(knowledge, purchase, place=source.place, year=year, netting=inputs.netting)
    else:
        location = market = _emission(source, source.activity, year, knowledge, inputs)
    marks = _marks(piece)
    if marks:
        location, market = _marked(location, marks), _marked(market, marks)
    return Line(source, kind, piece.share, year, location, market, tuple(allocations))


def _has_factor(knowledge: Knowledge, supplier: str, year: int) -> bool:
    """Return whether a supplier's own factor counts; what it sold is uncovered otherwise."""
    found = knowledge.choose(
        SUPPLIER_SERIES, use=Use.MARKET_INSTRUMENT, place=COUNTRY, year=year, unit=UNIT, supplier=supplier
    )
    return isinstance(found, Choice)


def _emission(source: Source, use: Activity, year: int, knowledge: Knowledge, inputs: Inputs) -> Emission:
    match use:
        case ElectricityUse():
            purchase = Purchase(imported_kwh=use.imported_kwh, origin=source.origin)
            return location_based(knowledge, purchase, place=source.place, year=year)
        case FuelUse():
            return burn(
                knowledge,
                fuel=use.fuel,
                amount=use.amount,
                unit=use.unit,
                year=year,
                origin=source.origin,
                place=source.place,
                density_kg_per_l=use.density_kg_per_l,
                ncv=use.ncv,
                biogenic_share=use.biogenic_share,
            )
        case GasLoss():
            return escaped(
                knowledge,
                gas=use.gas,
                loss=use.loss,
                origin=source.origin,
                include_montreal_gases=inputs.include_montreal_gases,
            )
        case HeatUse():
            return purchased_heat(
                knowledge,
                amount=use.amount,
                unit=use.unit,
                year=year,
                place=source.place,
                origin=source.origin,
                supplier=use.supplier,
            )
        case SteamUse():
            return purchased_steam(
                knowledge,
                mass_t=use.mass_t,
                enthalpy_kj_per_kg=use.enthalpy_kj_per_kg,
                year=year,
                place=source.place,
                origin=source.origin,
                supplier=use.supplier,
            )
        case HotWaterUse():
            return purchased_hot_water(
                knowledge,
                mass_t=use.mass_t,
                temperature_c=use.temperature_c,
                year=year,
                place=source.place,
                origin=source.origin,
                supplier=use.supplier,
            )
        case ColdUse():
            return purchased_cold(
                knowledge, cold_kwh=use.cold_kwh, cop=use.cop, year=year, place=source.place, origin=source.origin
            )
        case UnitUse():
            return activity(
                knowledge,
                series=use.series,
                amount=use.amount,
                unit=use.unit,
                year=year,
                place=source.place,
                origin=source.origin,
                use=Use.VALUE_CHAIN,
                supplier=use.supplier,
            )
        case _:
            assert_never(use)


def _summed(lines: Sequence[Line], outside: Sequence[str]) -> Result:
    purchases = [
        (line, line.source.activity)
        for line in lines
        if line.category.scope is Scope.ENERGY and isinstance(line.source.activity, ElectricityUse)
    ]
    known_imports = [use.imported_kwh for _, use in purchases if use.imported_kwh is not None]
    imported = math.fsum(known_imports) if len(known_imports) == len(purchases) else None
    covered = math.fsum(line.market.facts.get("covered_kwh") or 0.0 for line, _ in purchases)
    gases: dict[str, list[float]] = {}
    for line in lines:
        for gas, kg in line.location.by_gas.items():
            if kg is not None:
                gases.setdefault(gas, []).append(kg)
    used = {(row.factor_id, row.revision): row for line in lines for row in (*line.location.used, *line.market.used)}
    scopes = _grouped(lines, lambda line: int(line.category.scope))
    return Result(
        lines=lines,
        location=_location(lines),
        market=_market(lines),
        by_scope={
            "1": _location(scopes.get(1, ())),
            "2_location": _location(scopes.get(2, ())),
            "2_market": _market(scopes.get(2, ())),
            "3": _location(scopes.get(3, ())),
        },
        by_iso_category={
            iso: _location(group) for iso, group in _grouped(lines, lambda line: int(line.category.iso)).items()
        },
        by_gb_group={
            name: _location(group) for name, group in _grouped(lines, lambda line: line.category.gb.value).items()
        },
        by_gas={gas: math.fsum(parts) for gas, parts in sorted(gases.items())},
        memo_montreal=total((line.source.line_id, line.location.memo_kg_co2e) for line in lines),
        biogenic=total((line.source.line_id, line.location.biogenic_kg_co2) for line in lines),
        imported_kwh=imported,
        covered_kwh=covered,
        coverage=min(1.0, covered / imported) if imported else None,
        sureness=_sureness(lines),
        used=[used[key] for key in sorted(used)],
        outside=outside,
    )


def _location(lines: Sequence[Line]) -> Total:
    return total(((line.source.line_id, line.location.figure.value) for line in lines), _incomplete(lines))


def _market(lines: Sequence[Line]) -> Total:
    return total(((line.source.line_id, line.market.figure.value) for line in lines), _incomplete(lines))


def _incomplete(lines: Sequence[Line]) -> list[str]:
    return [line.source.line_id for line in lines if Mark.INCOMPLETE in line.location.figure.marks]


def _marks(piece: _Piece) -> set[Mark]:
    """Return what has to be said of a piece, whatever it emitted."""
    found = {Mark.APPORTIONED} if piece.apportioned else set()
    meters = piece.source.metered
    if meters is not None:
        found |= {Mark.APPORTIONED} if meters.apportioned_kwh else set()
        found |= {Mark.INCOMPLETE} if meters.usable < WHOLE and meters.energy_kwh is not None else set()
        found |= {Mark.RUNNING} if meters.until < piece.source.span.end else set()
    return found


def _grouped(lines: Sequence[Line], key: Callable[[Line], Key]) -> dict[Key, list[Line]]:
    """Return lines by a key, in the order of keys."""
    found: dict[Key, list[Line]] = {}
    for line in lines:
        found.setdefault(key(line), []).append(line)
    return dict(sorted(found.items()))


def uncertain_lines(lines: Sequence[Line]) -> list[uncertainty.Uncertain]:
    """Return the lines whose uncertainty is known, keyed by the factors that they share."""
    return [
        uncertainty.Uncertain(
            line.location.figure.value,
            line.source.activity_uncertainty,
            line.source.factor_uncertainty,
            "+".join(sorted(row.factor_id for row in line.location.used)),
        )
        for line in lines
        if line.location.figure.value is not None
        and line.source.activity_uncertainty is not None
        and line.source.factor_uncertainty is not None
    ]


def _sureness(lines: Sequence[Line]) -> Sureness:
    uncertain = uncertain_lines(lines)
    relative = uncertainty.of_total(uncertain)
    whole = math.fsum(abs(line.location.figure.value or 0.0) for line in lines)
    covered = math.fsum(abs(one.emission_kg_co2e) for one in uncertain)
    return Sureness(
        relative,
        None if relative is None else uncertainty.grade(relative),
        covered / whole if whole else 0.0,
        uncertainty.simulate(uncertain, seed=SEED)
        if relative is not None and relative > uncertainty.LINEAR_LIMIT
        else None,
    )


def _marked(emission: Emission, marks: set[Mark]) -> Emission:
    return replace(emission, figure=replace(emission.figure, marks=emission.figure.marks | marks))


def check_lines(sources: Sequence[Source]) -> None:
    """Refuse two lines of one id, an id that names pieces, and an empty span.

    Raises:
        InvalidInput: There is one.
    """
    seen: set[str] = set()
    for source in sources:
        if source.line_id in seen:
            raise InvalidInput(
                f"line {source.line_id}: expected a new id", message_zh=f"清单行 {source.line_id}:编号重复"
            )
        seen.add(source.line_id)
        if "/" in source.line_id:
            raise InvalidInput(
                f"line {source.line_id}: expected an id without a slash, which names the pieces of a line",
                message_zh=f"清单行 {source.line_id}:编号不能含斜杠(斜杠用于分段)",
            )
        if source.span.end <= source.span.start:
            raise InvalidInput(
                f"line {source.line_id}: expected an end after its start",
                message_zh=f"清单行 {source.line_id}:结束时间应晚于开始时间",
            )


_SCOPES: dict[str, tuple[Scope, ...]] = {
    "electricity": (Scope.ENERGY, Scope.VALUE_CHAIN),
    "fuel": (Scope.DIRECT, Scope.VALUE_CHAIN),
    "gas_loss": (Scope.DIRECT, Scope.VALUE_CHAIN),
    "heat": (Scope.ENERGY, Scope.VALUE_CHAIN),
    "steam": (Scope.ENERGY, Scope.VALUE_CHAIN),
    "hot_water": (Scope.ENERGY, Scope.VALUE_CHAIN),
    "cold": (Scope.ENERGY, Scope.VALUE_CHAIN),
    "unit": (Scope.VALUE_CHAIN,),
}
"""Whose emission an activity can be: a leased tower's power is its landlord's scope 2, its tenant's scope 3."""


def _check_category(source: Source, kind: Category) -> None:
    allowed = _SCOPES[source.activity.kind]
    if kind.scope not in allowed:
        scopes = ", ".join(str(int(scope)) for scope in allowed)
        raise InvalidInput(
            f"line {source.line_id}: {source.activity.kind} can be of scope {scopes}, found category {kind.code} "
            f"of scope {int(kind.scope)}",
            message_zh=f"清单行 {source.line_id}:{source.activity.kind} 可归入范围 {scopes},实际类别 {kind.code} "
            f"属于范围 {int(kind.scope)}",
        )
