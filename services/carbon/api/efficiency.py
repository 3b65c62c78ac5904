"""HTTP of carbon efficiency codes (碳效码): levels of nodes by period, and what they are held against."""

from collections.abc import Sequence
from datetime import date
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from libs.common.contracts.base import CalendarDate, Number, UtcTime
from services.carbon.api.access import Body, View
from services.carbon.api.common import AskedNode, From, Reader, Text, To, WholeWriter, require_visible
from services.carbon.api.media import Fuel
from services.carbon.api.projectbody import Key
from services.carbon.domain.efficiency import (
    BENCHMARK_MAX,
    BENCHMARK_MIN,
    CarbonClass,
    Kind,
    NoCode,
    Standard,
)
from services.carbon.domain.levels.facts import FactKind
from services.carbon.domain.levels.periods import Step
from services.carbon.tree import NodeKind
from services.carbon.usecases.efficiency import Efficiency, NodeCode
from services.carbon.usecases.media import Assumed

Limit = Annotated[Number, Field(gt=0, le=BENCHMARK_MAX)]
StandardId = Annotated[
    str,
    Query(
        pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$",
        description="id of the sector average or quota; industry and building have limits alone",
    ),
]


class StandardBody(Body):
    """A sector average or a quota, for civil days ``[valid_from, valid_to)``."""

    standard_id: Key
    kind: Kind
    name: Text
    name_zh: Text
    valid_from: CalendarDate
    valid_to: CalendarDate | None = None
    """Absent: until another row says otherwise."""
    benchmark: Number | None = Field(default=None, ge=BENCHMARK_MIN, le=BENCHMARK_MAX)
    """Sector average [t per 10^4 CNY], quota of a building [kg per m2 in a year]."""
    levels: list[Limit] | None = Field(default=None, min_length=4, max_length=4)
    """The upper ends of levels 1 to 4 of K; absent: those of the shipped scheme. [1]"""
    classes: list[Limit] | None = Field(default=None, min_length=2, max_length=2)
    """The upper ends of low and medium carbon, of industry; absent: those of the shipped scheme. [t per 10^4 CNY]"""
    source: Text
    confidence: Text
    """verified-… is used; from memory or doubtful gives no level."""


class StandardView(View):
    """A row as it holds."""

    standard_id: str
    kind: Kind
    name: str
    name_zh: str
    valid_from: date
    valid_to: date | None
    benchmark: float | None
    unit: str
    levels: list[float]
    """Empty: those of the shipped scheme."""
    classes: list[float]
    source: str
    confidence: str
    trusted: bool
    """Whether levels are given by it."""
    version: int


class CodeMedium(View):
    """What one register of another medium emitted."""

    point: str
    emission_kg_co2e: float | None
    usable_share: float | None
    unsaid: bool
    """Nobody says what the medium is: there is no code then."""


class CodeView(View):
    """The code of one civil period."""

    start: UtcTime
    end: UtcTime
    level: int | None
    """1 the best to 5; null where there is none."""
    level_text: str | None
    level_text_zh: str | None
    carbon_class: CarbonClass | None
    class_text: str | None
    class_text_zh: str | None
    ratio: float | None
    """K: the intensity over the sector average or quota. [1]"""
    intensity: float | None
    """L. [unit]"""
    unit: str
    reason: NoCode | None
    """Why there is no level."""
    reason_text: str | None
    reason_text_zh: str | None
    emission_kg_co2e: float | None
    """All that was emitted: electricity by location, and every other medium. [kgCO2e]"""
    electricity_kg_co2e: float | None
    media: list[CodeMedium]
    zero_carbon_kwh: float
    """Entered for the period; what there was no consumption for covers nothing. [kWh]"""
    zero_carbon_kg_co2e: float | None
    sinks_kg_co2e: float
    net_kg_co2e: float | None
    """What is divided; at least zero."""
    denominator: float | None
    """Value added [10^4 CNY], or area [m2]."""
    per: FactKind
    basis: str
    """Price base of a value added."""
    denominator_sources: list[str]
    """None where an area is the registry's."""
    denominator_nodes: list[str]
    benchmark: float | None
    benchmark_version: int | None
    benchmark_source: str | None
    levels: list[float]
    """The upper ends of levels 1 to 4."""
    classes: list[float]
    provisional: bool
    interval_completeness: float | None
    """The least of electricity and all other media."""
    usable_share: float | None
    estimated_share: float
    """Of the electricity."""
    factors: list[str]
    marks: list[str]


class CodesReply(View):
    """Codes of a node by period."""

    node: str
    node_kind: NodeKind
    standard: str
    kind: Kind
    step: Step
    periods: list[CodeView]


def build_efficiency_router(efficiency: Efficiency) -> APIRouter:
    """Return the routes of carbon efficiency codes."""
    router = APIRouter(prefix="/api/v1", tags=["emissions"])

    @router.get(
        "/emissions/efficiency", summary="Carbon efficiency code of a node: level, class, and why there is none"
    )
    async def codes(
        who: Reader,
        node: AskedNode,
        start: From,
        end: To,
        step: Step = Step.YEAR,
        standard: StandardId = Kind.INDUSTRY.value,
        gas: Fuel = None,
        fuel: Fuel = None,
        cop: Annotated[float | None, Query(gt=0, le=30, description="of the plant that made the cold [1]")] = None,
        steam_kj_per_kg: Annotated[float | None, Query(ge=84, le=4000, description="enthalpy of the steam")] = None,
    ) -> CodesReply:
        require_visible(who, efficiency.boundaries, node, start, end)
        assumed = Assumed(gas, fuel, cop, steam_kj_per_kg)
        found = await efficiency.codes(node, start, end, step=step, standard_id=standard, assumed=assumed)
        return CodesReply(
            node=node.id,
            node_kind=node.kind,
            standard=standard,
            kind=(await efficiency.standards_of(standard))[0].kind,
            step=step,
            periods=[_code(one) for one in found],
        )

    @router.get("/emissions/efficiency/standards", summary="Sector averages, quotas and limits, shipped ones first")
    async def standards(
        _: Reader,
        on: Annotated[CalendarDate | None, Query(description="that hold on this civil day")] = None,
    ) -> Sequence[StandardView]:
        return [_standard(one) for one in await efficiency.standards(on)]

    @router.post(
        "/emissions/efficiency/standards",
        status_code=201,
        summary="Enter a sector average or a quota, or its correction",
    )
    async def enter(who: WholeWriter, body: StandardBody) -> StandardView:
        given = body.model_dump(exclude={"levels", "classes"})
        one = Standard(**given, levels=tuple(body.levels or ()), classes=tuple(body.classes or ()))
        return _standard(await efficiency.enter(one, who=who))

    return router


def _standard(one: Standard) -> StandardView:
    return StandardView(
        standard_id=one.standard_id,
        kind=one.kind,
        name=one.name,
        name_zh=one.name_zh,
        valid_from=one.valid_from,
        valid_to=one.valid_to,
        benchmark=one.benchmark,
        unit=one.kind.unit,
        levels=list(one.levels),
        classes=list(one.classes),
        source=one.source,
        confidence=one.confidence,
        trusted=one.trusted,
        version=one.version,
    )


def _code(one: NodeCode) -> CodeView:
    code, balance = one.code, one.code.balance
    row = code.yardstick.row
    level = None if code.level is None else code.level.text
    named = None if code.carbon_class is None else code.carbon_class.text
    reason = None if code.reason is None else code.reason.text
    return CodeView(
        start=one.span.start,
        end=one.span.end,
        level=code.level,
        level_text=None if level is None else level.english,
        level_text_zh=None if level is None else level.chinese,
        carbon_class=code.carbon_class,
        class_text=None if named is None else named.english,
        class_text_zh=None if named is None else named.chinese,
        ratio=code.ratio,
        intensity=code.intensity,
        unit=code.kind.unit,
        reason=code.reason,
        reason_text=None if reason is None else reason.english,
        reason_text_zh=None if reason is None else reason.chinese,
        emission_kg_co2e=balance.gross,
        electricity_kg_co2e=balance.electricity,
        media=[CodeMedium.model_validate(each) for each in one.media],
        zero_carbon_kwh=balance.zero_carbon.amount,
        zero_carbon_kg_co2e=balance.covered,
        sinks_kg_co2e=balance.sinks.amount,
        net_kg_co2e=balance.net,
        denominator=code.denominator.value,
        per=code.kind.per,
        basis=code.denominator.basis,
        denominator_sources=list(one.sources),
        denominator_nodes=[node.id for node in one.nodes],
        benchmark=None if row is None else row.benchmark,
        benchmark_version=None if row is None else row.version,
        benchmark_source=None if row is None else row.source,
        levels=list(code.yardstick.levels),
        classes=list(code.yardstick.classes),
        provisional=one.energy["provisional"],
        interval_completeness=one.interval_completeness,
        usable_share=one.usable_share,
        estimated_share=one.energy["estimated_share"],
        factors=list(one.factors),
        marks=list(code.marks),
    )
