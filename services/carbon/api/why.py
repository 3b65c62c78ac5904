"""HTTP of traces: why a figure is what it is, one question at a time, down to the registers."""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from libs.common.ids import CircuitId, LoadId, SiteId
from libs.common.tokens import Principal
from services.carbon.api.access import require_sites
from services.carbon.api.common import Reader, require_visible, whole_reader
from services.carbon.api.levels import COMPARED_DAYS
from services.carbon.api.projects import sites_of
from services.carbon.api.whyasked import asked_inputs, asked_why
from services.carbon.api.whyreply import TraceReply, trace_reply
from services.carbon.boundary import Boundaries
from services.carbon.domain.why import Page, Why
from services.carbon.loads import LoadDirectory
from services.carbon.queries import Trace
from services.carbon.tree import Node, NodeKind
from services.carbon.usecases.shutdowns import ShutdownReport
from services.carbon.usecases.why import (
    EfficiencyWhys,
    EnergyWhys,
    FeeWhys,
    Figure,
    FootprintWhys,
    InventoryWhys,
    LoadWhys,
    MediaWhys,
    MediumBillWhys,
    MoneyWhys,
    ProjectWhys,
    RatioWhys,
    SavingWhys,
    StatementWhys,
    TargetWhys,
    VirtualWhys,
    Wanted,
    trace_link,
)

SHUTDOWNS = frozenset(figure for figure in Figure if figure is Figure.SAVING or figure.startswith("saving_"))
FEES = frozenset(
    {
        Figure.BASIC_FEE, Figure.BASIC_MONTH, Figure.ACCOUNT_DEMAND, Figure.ACCRUAL, Figure.ACCRUED_ENERGY,
        Figure.BILLED, Figure.BILLED_MONEY,
    }
)  # fmt: skip
"""Figures of an account."""
VIRTUAL = {Figure.ENERGY: Figure.VIRTUAL, Figure.EMISSION: Figure.VIRTUAL_EMISSION}
"""What answers the same of a virtual meter, which has a definition and no circuits of its own."""
CHANGES = frozenset({Figure.CHANGE, Figure.CHANGE_DAILY, Figure.LIKE_FOR_LIKE})
EFFICIENCY = frozenset(figure for figure in Figure if figure.startswith("efficiency"))
FOOTPRINT = frozenset(figure for figure in Figure if figure.startswith("footprint"))
TARGETS = frozenset(
    {
        Figure.TARGET, Figure.TARGET_MEASURED, Figure.FORECAST, Figure.FORECAST_HALF, Figure.FORECAST_LOW,
        Figure.FORECAST_HIGH, Figure.TARGET_GAP, Figure.TARGET_PACE,
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Explainers:
    """Who answers which figure."""

    energy: EnergyWhys
    ratios: RatioWhys
    supply: LoadWhys
    media: MediaWhys
    money: MoneyWhys
    medium_bills: MediumBillWhys
    fees: FeeWhys
    targets: TargetWhys
    inventories: InventoryWhys
    savings: SavingWhys
    projects: ProjectWhys
    statements: StatementWhys
    efficiency: EfficiencyWhys
    footprints: FootprintWhys
    virtual: VirtualWhys
    boundaries: Boundaries
    loads: LoadDirectory


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
        return trace_reply(wanted, found, below, page, more)

    return router


async def explained(explain: Explainers, who: Principal, wanted: Wanted) -> tuple[Why, Trace | None]:
    """Return what was asked about, after checking that the caller may see all of it."""
    if wanted.node is not None and wanted.node.kind is NodeKind.VIRTUAL:
        node = await explain.boundaries.virtual(wanted.node.id)
        wanted = replace(wanted, node=node, id=node.id, figure=VIRTUAL.get(wanted.figure, wanted.figure))
    if wanted.node is not None:
        start, end = wanted.span
        # What a period is compared with may have had other sites.
        before = timedelta(days=COMPARED_DAYS) if wanted.figure in CHANGES else timedelta()
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
        case Figure.MEDIUM_INTERVAL:
            return await explain.media.medium_interval(wanted)
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
        case Figure.LOWEST:
            found = await explain.ratios.lowest(wanted)
        case Figure.MEAN_LOAD:
            found = await explain.ratios.mean_load(wanted)
        case Figure.CHANGE_DAILY:
            found = await explain.ratios.change_daily(wanted)
        case Figure.PER_DAY:
            found = await explain.ratios.per_day(wanted)
        case Figure.LIKE_FOR_LIKE:
            found = await explain.ratios.like_for_like(wanted)
        case _:
            of_supply = await _of_supply(explain, wanted)
            return None if of_supply is None else (of_supply, None)
    return found, None


async def _of_supply(explain: Explainers, wanted: Wanted) -> Why | None:
    """Return why of a load rate, of another medium or of a carbon efficiency code; None for anything else."""
    match wanted.figure:
        case Figure.LOAD_RATE:
            return await explain.supply.load_rate(wanted)
        case Figure.LOAD_MEAN:
            return await explain.supply.load_mean(wanted)
        case Figure.LOAD_TIME:
            return await explain.supply.load_time(wanted)
        case Figure.LOAD_QUARTER:
            return await explain.supply.load_quarter(wanted)
        case Figure.APPARENT:
            return await explain.supply.apparent(wanted)
        case Figure.REACTIVE:
            return await explain.supply.reactive(wanted)
        case Figure.MEDIUM:
            return await explain.media.medium(wanted)
        case Figure.MEDIUM_CIRCUIT:
            return await explain.media.medium_circuit(wanted)
        case Figure.MEDIUM_EMISSION:
            return await explain.media.medium_emission(wanted)
        case Figure.MEDIUM_SITE:
            return await explain.media.medium_site(wanted)
        case figure if figure in EFFICIENCY:
            return await _of_efficiency(explain, wanted)
    return None


async def _of_efficiency(explain: Explainers, wanted: Wanted) -> Why:
    match wanted.figure:
        case Figure.EFFICIENCY:
            return await explain.efficiency.efficiency(wanted)
        case Figure.EFFICIENCY_INTENSITY:
            return await explain.efficiency.efficiency_intensity(wanted)
        case Figure.EFFICIENCY_NET:
            return await explain.efficiency.efficiency_net(wanted)
        case Figure.EFFICIENCY_GROSS:
            return await explain.efficiency.efficiency_gross(wanted)
        case Figure.EFFICIENCY_DEDUCTED:
            return await explain.efficiency.efficiency_deducted(wanted)
        case _:
            return await explain.efficiency.efficiency_covered(wanted)


async def _of_document(explain: Explainers, who: Principal, wanted: Wanted) -> Why:
    """Return why of money, targets, statements and savings; each checks who asks in its own way."""
    match wanted.figure:
        case Figure.COST:
            return await explain.money.cost(who, wanted)
        case Figure.COST_LINE:
            return await explain.money.cost_line(who, wanted)
        case Figure.BAND_ENERGY:
            return await explain.money.band_energy(who, wanted)
        case Figure.TARIFF_ENERGY:
            return await explain.money.tariff_energy(who, wanted)
        case Figure.TARIFF_COST:
            return await explain.money.tariff_cost(who, wanted)
        case Figure.BILL:
            return await explain.money.bill(who, wanted)
        case Figure.METERED:
            return await explain.money.metered(who, wanted)
        case Figure.MEDIUM_BILL:
            return await explain.medium_bills.medium_bill(who, wanted)
        case Figure.MEDIUM_METERED:
            return await explain.medium_bills.medium_metered(who, wanted)
        case Figure.VIRTUAL | Figure.VIRTUAL_INTERVAL | Figure.VIRTUAL_EMISSION:
            return await _of_virtual(explain, who, wanted)
        case Figure.VIRTUAL_YEAR | Figure.VIRTUAL_SITE:
            return await _of_virtual(explain, who, wanted)
        case figure if figure in SHUTDOWNS:
            return await _of_shutdowns(explain, who, wanted)
        case Figure.PROJECT | Figure.MEASURE:
            return await _of_project(explain, who, wanted)
        case Figure.STATEMENT | Figure.STATEMENT_LINE | Figure.STATEMENT_METER | Figure.STATEMENT_SAVING:
            return await _of_contract(explain, who, wanted)
        case figure if figure in FOOTPRINT:
            return await _of_product(explain, who, wanted)
        case figure if figure in FEES:
            return await _of_account(explain, who, wanted)
        case figure if figure in TARGETS:
            return await _of_target(explain, who, wanted)
    whole_reader(who)  # of boundaries that may name any site
    match wanted.figure:
        case Figure.INVENTORY:
            return await explain.inventories.inventory(wanted)
        case Figure.INVENTORY_LINE:
            return await explain.inventories.inventory_line(wanted)
        case Figure.INVENTORY_USE:
            return await explain.inventories.inventory_use(wanted)
        case Figure.STANDARD_COAL:
            return await explain.inventories.standard_coal(wanted)
        case Figure.AVOIDED:
            return await explain.inventories.avoided(wanted)
        case Figure.AVOIDED_LINE:
            return await explain.inventories.avoided_line(wanted)
    raise AssertionError(wanted.figure)


async def _of_virtual(explain: Explainers, who: Principal, wanted: Wanted) -> Why:
    require_visible(who, explain.boundaries, await explain.virtual.node(wanted), *wanted.span)
    match wanted.figure:
        case Figure.VIRTUAL:
            return await explain.virtual.virtual(wanted)
        case Figure.VIRTUAL_INTERVAL:
            return await explain.virtual.virtual_interval(wanted)
        case Figure.VIRTUAL_EMISSION:
            return await explain.virtual.virtual_emission(wanted)
        case Figure.VIRTUAL_YEAR:
            return await explain.virtual.virtual_year(wanted)
        case _:
            return await explain.virtual.virtual_site(wanted)


async def _of_account(explain: Explainers, who: Principal, wanted: Wanted) -> Why:
    match wanted.figure:
        case Figure.BASIC_FEE:
            return await explain.fees.basic_fee(who, wanted)
        case Figure.BASIC_MONTH:
            return await explain.fees.basic_month(who, wanted)
        case Figure.ACCOUNT_DEMAND:
            return await explain.fees.account_demand(who, wanted)
        case Figure.ACCRUAL:
            return await explain.fees.accrual(who, wanted)
        case Figure.ACCRUED_ENERGY:
            return await explain.fees.accrued_energy(who, wanted)
        case Figure.BILLED:
            return await explain.fees.billed(who, wanted)
        case _:
            return await explain.fees.billed_money(who, wanted)


async def _of_target(explain: Explainers, who: Principal, wanted: Wanted) -> Why:
    match wanted.figure:
        case Figure.TARGET:
            return await explain.targets.target(who, wanted)
        case Figure.TARGET_MEASURED:
            return await explain.targets.target_measured(who, wanted)
        case Figure.FORECAST:
            return await explain.targets.forecast(who, wanted)
        case Figure.FORECAST_HALF:
            return await explain.targets.forecast_half(who, wanted)
        case Figure.FORECAST_LOW:
            return await explain.targets.forecast_low(who, wanted)
        case Figure.FORECAST_HIGH:
            return await explain.targets.forecast_high(who, wanted)
        case Figure.TARGET_GAP:
            return await explain.targets.target_gap(who, wanted)
        case _:
            return await explain.targets.target_pace(who, wanted)


async def _of_shutdowns(explain: Explainers, who: Principal, wanted: Wanted) -> Why:
    report = await explain.savings.report(wanted)
    _require_loads(explain.loads, who, report)
    match wanted.figure:
        case Figure.SAVING:
            return explain.savings.saving(wanted, report)
        case Figure.SAVING_SHARE:
            return explain.savings.saving_share(wanted, report)
        case Figure.SAVING_BASELINE:
            return explain.savings.saving_baseline(wanted, report)
        case Figure.SAVING_EMISSION:
            return explain.savings.saving_emission(wanted, report)
        case Figure.SAVING_WINDOW_EMISSION:
            return explain.savings.saving_window_emission(wanted, report)
        case Figure.SAVING_MONEY:
            return explain.savings.saving_money(wanted, report)
        case Figure.SAVING_ERROR:
            return explain.savings.saving_error(wanted, report)
        case Figure.SAVING_REBOUND:
            return explain.savings.saving_rebound(wanted, report)
        case Figure.SAVING_USUAL:
            return explain.savings.saving_usual(wanted, report)
        case Figure.SAVING_USUAL_AFTER:
            return explain.savings.saving_usual_after(wanted, report)
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
        case Figure.STATEMENT_SAVING:
            return explain.statements.statement_saving(wanted, shown)
        case _:
            return explain.statements.statement_meter(wanted, shown)


async def _of_product(explain: Explainers, who: Principal, wanted: Wanted) -> Why:
    row = await explain.footprints.product(wanted)
    require_sites(who, sites_of(explain.loads, row.document["nodes"]), explain.loads)
    known = await explain.footprints.known(wanted, row)
    match wanted.figure:
        case Figure.FOOTPRINT:
            return explain.footprints.footprint(wanted, known)
        case Figure.FOOTPRINT_FLOW:
            return explain.footprints.footprint_flow(wanted, known)
        case Figure.FOOTPRINT_INPUT:
            return explain.footprints.footprint_input(wanted, known)
        case Figure.FOOTPRINT_PRIMARY:
            return explain.footprints.footprint_primary(wanted, known)
        case _:
            return explain.footprints.footprint_quality(wanted, known)


def _require_loads(loads: LoadDirectory, who: Principal, report: ShutdownReport) -> None:
    shown = {part.load_id for one in report.windows for part in one.window.parts}
    shown |= {part.load_id for part in report.running} | set(report.unmetered)
    require_sites(who, sorted({loads.site_of_load(LoadId(load)) or SiteId("") for load in shown}), loads)
