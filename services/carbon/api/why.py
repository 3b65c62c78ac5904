"""HTTP of traces: why a figure is what it is, one question at a time, down to the registers."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field

from libs.common.contracts.base import CalendarDate, UtcTime
from libs.common.contracts.registry import CircuitRole
from libs.common.ids import CircuitId, LoadId, SiteId
from libs.common.tokens import Principal
from services.carbon.api.access import require_sites
from services.carbon.api.common import Reader, asked_node, require_visible, whole_reader
from services.carbon.api.costs import CostStep
from services.carbon.api.figures import UsedFactor, used_reply
from services.carbon.api.levels import COMPARED_DAYS
from services.carbon.api.projects import sites_of
from services.carbon.boundary import Boundaries
from services.carbon.domain.booking import floor
from services.carbon.domain.levels.balance import PueCategory
from services.carbon.domain.levels.comparison import Against
from services.carbon.domain.levels.cover import Dimension
from services.carbon.domain.levels.facts import FactKind
from services.carbon.domain.why import Because, InputKind, Page, Rule, Why
from services.carbon.loads import LoadDirectory
from services.carbon.queries import Trace
from services.carbon.tree import Node, NodeKind
from services.carbon.usecases.shutdowns import ShutdownReport
from services.carbon.usecases.why import (
    EnergyWhys,
    Figure,
    Flow,
    InventoryWhys,
    Method,
    MoneyWhys,
    ProjectWhys,
    RatioWhys,
    SavingWhys,
    StatementWhys,
    VirtualWhys,
    Wanted,
    trace_link,
)
from services.carbon.usecases.why.energy import STEP

INPUTS_MAX = 1_000
"""Inputs of one page."""
QUARTERS = frozenset({Figure.INTERVAL, Figure.PARTS, Figure.DELIVERED, Figure.VIRTUAL_INTERVAL})
"""Figures of one quarter hour, which ``start`` lies in."""
Name = Annotated[str | None, Query(max_length=64)]


class InputReply(BaseModel):
    """A number that went into a figure."""

    name: str
    value: float | Decimal | None = Field(description="null is unknown, not zero; money is exact and written as text")
    unit: str
    kind: InputKind
    id: str = Field(description="of the circuit, register's meter, factor, price sheet, line")
    version: int | None = Field(description="of the interval, factor, price sheet")
    source: str = Field(description="document, notice, meter")
    start: UtcTime | None = Field(description="of an interval or day; time of a register")
    grade: str | None = Field(description="interval_flag; running; set_aside, uncertain or manual of a register")
    trace: str | None = Field(description="what answers why this input is what it is; null where nothing stands behind")


class QualityReply(BaseModel):
    """How well what a figure rests on is known."""

    interval_completeness: float | None
    usable_share: float | None
    estimated_share: float
    from_parts_share: float
    provisional: bool
    lower_bound: bool
    uncertain: bool


class VersionRow(BaseModel):
    """One version of an interval."""

    version: int
    energy_kwh: float | None
    interval_flag: str
    lower_bound: bool
    uncertain: bool
    computed_at: datetime


class RegisterRow(BaseModel):
    """A register as the meter showed it."""

    device_id: str
    source_time: datetime
    shown_kwh: float = Field(description="kW where the binding's point is a power")
    ratio: float
    uncertain: bool
    set_aside: bool
    manual: bool = Field(description="whether a person has read it")


class BindingRow(BaseModel):
    """A meter that served a circuit."""

    device_id: str
    valid_from: UtcTime
    valid_to: UtcTime | None
    point: str = Field(description="what of the meter is booked: its register, or power where it has none")
    initial_register: float | None
    final_register: float | None
    modulus_kwh: float | None = Field(description="first value that its register cannot show [kWh]")
    resets: Sequence[UtcTime] = Field(description="when its register is on record to have been set to zero")


class GapRow(BaseModel):
    """Two registers far apart, with an interval between them."""

    start: datetime
    end: datetime
    energy_kwh: float = Field(description="measured; laid over the gap's intervals as was usual before it, else flat")


class TraceReply(BaseModel):
    """A figure with everything that it was made of; the same document for every figure."""

    figure: Figure
    node: str = Field(description="node, account, or id of a target, inventory or occurrence")
    start: UtcTime | None
    end: UtcTime | None
    value: float | Decimal | None = Field(description="null is unknown, not zero; money is exact and written as text")
    unit: str
    rule: Rule = Field(description="how the value follows from the inputs of all pages")
    formula: str
    source: str = Field(description="standard or method, with its clause")
    marks: Sequence[str] = Field(description="what to know before relying on it, or why it is unknown")
    recomputed: bool | None = Field(
        description="whether the rule gave just this value again out of the inputs; null where a rule needs more than "
        "numbers (registers, frozen formulas)"
    )
    quality: QualityReply | None
    inputs: Sequence[InputReply]
    inputs_total: int
    next: str | None = Field(description="the next page of inputs")
    factors: Sequence[UsedFactor]
    versions: Sequence[VersionRow] = Field(description="of an interval, oldest first; the last one holds")
    bindings: Sequence[BindingRow] = Field(description="meters behind an interval")
    registers: Sequence[RegisterRow] = Field(description="registers behind an interval, of each meter by time")
    gap: GapRow | None = Field(description="of an interval whose registers are far apart: what is known of its energy")
    rated_kw: float | None = Field(description="of the circuit of an interval: the limit of possible steps [kW]")


@dataclass(frozen=True, slots=True)
class Explainers:
    """Who answers which figure."""

    energy: EnergyWhys
    ratios: RatioWhys
    money: MoneyWhys
    inventories: InventoryWhys
    savings: SavingWhys
    projects: ProjectWhys
    statements: StatementWhys
    virtual: VirtualWhys
    boundaries: Boundaries
    loads: LoadDirectory


def asked_why(
    figure: Annotated[
        Figure | None, Query(description="by default an interval where start is given, else energy")
    ] = None,
    site: Name = None,
    circuit: Name = None,
    room: Name = None,
    region: Name = None,
    organisation: Name = None,
    account: Annotated[str | None, Query(max_length=64, description="of a cost, in place of a node")] = None,
    begin: Annotated[UtcTime | None, Query(alias="from", description="start of the figure's span, with offset")] = None,
    to: Annotated[UtcTime | None, Query(description="end of the span, not included, with offset")] = None,
    start: Annotated[UtcTime | None, Query(description="a time in the interval that is asked about")] = None,
    role: CircuitRole | None = None,
    tag: Name = None,
    use: Name = None,
    level: Annotated[int | None, Query(ge=1, le=9)] = None,
    category: Annotated[PueCategory | None, Query(description="of a PUE, or of the circuits that measure IT")] = None,
    booked: Annotated[bool, Query(description="without what is running now, as figures of levels are")] = False,
    part: Annotated[str | None, Query(max_length=64, description="only this circuit of the node")] = None,
    of_site: Annotated[str | None, Query(max_length=64, description="only what the node has at this site")] = None,
    kind: Annotated[FactKind | None, Query(description="what an intensity is per")] = None,
    against: Annotated[Against, Query(description="what a change is against")] = Against.YEAR,
    step: Annotated[CostStep, Query(description="of the lines of a cost")] = CostStep.MONTH,
    line: Annotated[
        str | None,
        Query(
            max_length=64,
            description="number of a line of a cost, saving or statement, or of a bill; id of a line of an "
            "inventory, of a measure, of a meter",
        ),
    ] = None,
    flow: Annotated[Flow | None, Query(description="of a balance")] = None,
    id: Annotated[
        str | None, Query(max_length=64, description="of a target, an inventory, an occurrence, a project, a statement")
    ] = None,
    plan: Annotated[str | None, Query(max_length=64, description="of shutdowns, in place of an occurrence")] = None,
    version: Annotated[
        int | None, Query(ge=1, le=2_000_000_000, description="of an inventory or of avoided emissions")
    ] = None,
    scope2: Annotated[Method, Query(description="by which method an inventory is asked about")] = Method.LOCATION,
    as_of: Annotated[CalendarDate | None, Query(description="of a target; by default today")] = None,
) -> Wanted:
    """Return what a request asks about.

    Raises:
        InvalidInput: It names several nodes.
    """
    node = None
    if any(one is not None for one in (site, circuit, room, region, organisation)):
        node = asked_node(site, circuit, room, region, organisation)
    figure = figure or (Figure.INTERVAL if start is not None else Figure.ENERGY)
    at = start or begin
    if figure in QUARTERS and at is not None:
        begin, to = floor(at), floor(at) + STEP
    return Wanted(
        figure=figure,
        node=node,
        account=account,
        start=begin,
        end=to,
        dimension=Dimension(role=role, tag=tag, use=use, level=level),
        category=category,
        booked=booked,
        part=None if part is None else CircuitId(part),
        of_site=None if of_site is None else SiteId(of_site),
        kind=kind,
        against=against,
        daily=step is CostStep.DAY,
        flow=flow,
        line=line,
        id=id,
        plan=plan,
        version=version,
        method=scope2,
        as_of=as_of,
    )


def asked_inputs(
    first: Annotated[int, Query(ge=0, le=100_000_000, description="the first input shown, counted from 0")] = 0,
    limit: Annotated[int, Query(ge=1, le=INPUTS_MAX, description="inputs of a page")] = 100,
) -> Page:
    """Return which inputs a request asks for."""
    return Page(first, limit)


def build_why_router(explain: Explainers) -> APIRouter:
    """Return the route of traces."""
    router = APIRouter(prefix="/api/v1")

    @router.get(
        "/energy/trace", tags=["energy"], summary="Why a figure is what it is, down to registers, meters and factors"
    )
    async def trace(
        request: Request,
        who: Reader,
        wanted: Annotated[Wanted, Depends(asked_why)],
        page: Annotated[Page, Depends(asked_inputs)],
    ) -> TraceReply:
        found, below = await explained(explain, who, wanted)
        following = page.following(len(found.inputs))
        here = dict(request.query_params)
        more = None if following is None else trace_link({**here, "first": str(following), "limit": str(page.most)})
        return _reply(wanted, found, below, page, more)

    return router


async def explained(explain: Explainers, who: Principal, wanted: Wanted) -> tuple[Why, Trace | None]:
    """Return what was asked about, after checking that the caller may see all of it."""
    if wanted.node is not None:
        start, end = wanted.span
        # What a period is compared with may have had other sites.
        before = timedelta(days=COMPARED_DAYS) if wanted.figure is Figure.CHANGE else timedelta()
        require_visible(who, explain.boundaries, wanted.node, start - before, end)
    explained = await _of_node(explain, who, wanted)
    if explained is not None:
        return explained
    return await _of_document(explain, who, wanted), None


async def _of_node(explain: Explainers, who: Principal, wanted: Wanted) -> tuple[Why, Trace | None] | None:
    """Return why of a figure of energy; None for what people have entered, agreed or published."""
    match wanted.figure:
        case Figure.INTERVAL:
            return await explain.energy.interval(wanted)
        case Figure.DELIVERED:
            return await explain.ratios.delivered(wanted)
        case Figure.PARTS:
            found = await explain.energy.parts(wanted)
            for one in found.inputs:  # what stands in may be of a tenant's site
                require_visible(who, explain.boundaries, Node(NodeKind.CIRCUIT, one.id), *wanted.span)
        case Figure.ENERGY:
            found = await explain.energy.energy(wanted)
        case Figure.CIRCUIT:
            found = await explain.energy.circuit(wanted)
        case Figure.COMPLETENESS:
            found = await explain.energy.completeness(wanted)
        case Figure.EMISSION:
            found = await explain.energy.emission(wanted)
        case Figure.SITE_YEAR:
            found = await explain.energy.site_year(wanted)
        case Figure.CONSUMED:
            found = await explain.ratios.consumed(wanted)
        case Figure.FLOW:
            found = await explain.ratios.flow(wanted)
        case Figure.PUE:
            found = await explain.ratios.pue(wanted)
        case Figure.INTENSITY:
            found = await explain.ratios.intensity(wanted)
        case Figure.SHARE:
            found = await explain.ratios.share(wanted)
        case Figure.CHANGE:
            found = await explain.ratios.change(wanted)
        case Figure.CLEAN_SHARE:
            found = await explain.ratios.clean_share(wanted)
        case Figure.POWER_FACTOR:
            found = await explain.ratios.power_factor(wanted)
        case Figure.IMBALANCE:
            found = await explain.ratios.imbalance(wanted)
        case Figure.DEMAND:
            found = await explain.ratios.demand(wanted)
        case Figure.LOAD_FACTOR:
            found = await explain.ratios.load_factor(wanted)
        case _:
            return None
    return found, None


async def _of_document(explain: Explainers, who: Principal, wanted: Wanted) -> Why:
    """Return why of money, targets, statements and savings; each checks who asks in its own way."""
    match wanted.figure:
        case Figure.COST:
            return await explain.money.cost(who, wanted)
        case Figure.COST_LINE:
            return await explain.money.cost_line(who, wanted)
        case Figure.BAND_ENERGY:
            return await explain.money.band_energy(who, wanted)
        case Figure.BILL:
            return await explain.money.bill(who, wanted)
        case Figure.METERED:
            return await explain.money.metered(who, wanted)
        case Figure.TARGET:
            return await explain.money.target(who, wanted)
        case Figure.VIRTUAL | Figure.VIRTUAL_INTERVAL:
            return await _of_virtual(explain, who, wanted)
        case Figure.SAVING | Figure.SAVING_SHARE | Figure.SAVING_WINDOW:
            return await _of_shutdowns(explain, who, wanted)
        case Figure.PROJECT | Figure.MEASURE:
            return await _of_project(explain, who, wanted)
        case Figure.STATEMENT | Figure.STATEMENT_LINE | Figure.STATEMENT_METER:
            return await _of_contract(explain, who, wanted)
    whole_reader(who)  # of boundaries that may name any site
    match wanted.figure:
        case Figure.INVENTORY:
            return await explain.inventories.inventory(wanted)
        case Figure.INVENTORY_LINE:
            return await explain.inventories.inventory_line(wanted)
        case Figure.STANDARD_COAL:
            return await explain.inventories.standard_coal(wanted)
        case Figure.AVOIDED:
            return await explain.inventories.avoided(wanted)
        case Figure.AVOIDED_LINE:
            return await explain.inventories.avoided_line(wanted)
    raise AssertionError(wanted.figure)


async def _of_virtual(explain: Explainers, who: Principal, wanted: Wanted) -> Why:
    require_visible(who, explain.boundaries, await explain.virtual.node(wanted), *wanted.span)
    if wanted.figure is Figure.VIRTUAL:
        return await explain.virtual.virtual(wanted)
    return await explain.virtual.virtual_interval(wanted)


async def _of_shutdowns(explain: Explainers, who: Principal, wanted: Wanted) -> Why:
    report = await explain.savings.report(wanted)
    _require_loads(explain.loads, who, report)
    match wanted.figure:
        case Figure.SAVING:
            return explain.savings.saving(wanted, report)
        case Figure.SAVING_SHARE:
            return explain.savings.saving_share(wanted, report)
        case _:
            return explain.savings.saving_window(wanted, report)


async def _of_project(explain: Explainers, who: Principal, wanted: Wanted) -> Why:
    require_sites(who, sites_of(explain.loads, await explain.projects.nodes(wanted)), explain.loads)
    found = await explain.projects.assessed(wanted)
    if wanted.figure is Figure.PROJECT:
        return explain.projects.project(wanted, found)
    return explain.projects.measure(wanted, found)


async def _of_contract(explain: Explainers, who: Principal, wanted: Wanted) -> Why:
    shown = await explain.statements.shown(wanted)
    require_sites(who, [explain.loads.site_of(CircuitId(one)) for one in shown.contract.circuits], explain.loads)
    match wanted.figure:
        case Figure.STATEMENT:
            return explain.statements.statement(wanted, shown)
        case Figure.STATEMENT_LINE:
            return explain.statements.statement_line(wanted, shown)
        case _:
            return explain.statements.statement_meter(wanted, shown)


def _require_loads(loads: LoadDirectory, who: Principal, report: ShutdownReport) -> None:
    shown = {part.load_id for one in report.windows for part in one.window.parts}
    shown |= {part.load_id for part in report.running} | set(report.unmetered)
    require_sites(who, sorted({loads.site_of_load(LoadId(load)) or SiteId("") for load in shown}), loads)


def _reply(wanted: Wanted, found: Why, below: Trace | None, page: Page, more: str | None) -> TraceReply:
    by_numbers = found.rule not in (Rule.REGISTERS, Rule.STATED)
    return TraceReply(
        figure=wanted.figure,
        node=found.node,
        start=found.start,
        end=found.end,
        value=found.value,
        unit=found.unit,
        rule=found.rule,
        formula=found.formula,
        source=found.source,
        marks=found.marks,
        recomputed=found.again() == found.value if by_numbers else None,
        quality=None if found.quality is None else QualityReply.model_validate(found.quality, from_attributes=True),
        inputs=[_input(one) for one in page.of(found.inputs)],
        inputs_total=len(found.inputs),
        next=more,
        factors=[used_reply(row) for row in found.factors],
        versions=[] if below is None else _versions(below),
        bindings=[] if below is None else _bindings(below),
        registers=[] if below is None else _registers(below),
        gap=None if below is None else _gap(below),
        rated_kw=None if below is None else below.rated_kw,
    )


def _input(one: Because) -> InputReply:
    return InputReply(
        name=one.name,
        value=one.value,
        unit=one.unit,
        kind=one.kind,
        id=one.id,
        version=one.version,
        source=one.source,
        start=one.start,
        grade=one.grade,
        trace=None if one.question is None else trace_link(one.question),
    )


def _versions(below: Trace) -> list[VersionRow]:
    return [
        VersionRow(
            version=one.version,
            energy_kwh=one.energy_kwh,
            interval_flag=one.grade.flag,
            lower_bound=one.lower_bound,
            uncertain=one.uncertain,
            computed_at=one.computed_at,
        )
        for one in below.versions
    ]


def _bindings(below: Trace) -> list[BindingRow]:
    return [BindingRow.model_validate(one, from_attributes=True) for one in below.bindings]


def _gap(below: Trace) -> GapRow | None:
    gap = below.gap()
    return None if gap is None else GapRow.model_validate(gap, from_attributes=True)


def _registers(below: Trace) -> list[RegisterRow]:
    return [
        RegisterRow(
            device_id=one.device_id,
            source_time=one.source_time,
            shown_kwh=one.shown,
            ratio=one.ratio,
            uncertain=one.uncertain,
            set_aside=one.set_aside,
            manual=one.manual,
        )
        for one in below.registers
    ]
