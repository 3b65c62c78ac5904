"""HTTP of shutdown savings: by site, plan and occurrence, and the outages that make a day no usual one."""

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from libs.common.contracts.base import UtcTime
from libs.common.db import Database
from libs.common.errors import InvalidInput, NotFound
from libs.common.ids import CircuitId, LoadId, SiteId
from libs.common.tokens import Principal
from libs.common.web import check_span
from services.carbon.api.access import Body, View, require_sites, sees
from services.carbon.api.common import Reader, Writer
from services.carbon.domain.factors import Choice
from services.carbon.domain.savings.shutdowns.executed import ExecutedPart
from services.carbon.domain.savings.shutdowns.outages import Outage
from services.carbon.domain.savings.shutdowns.totals import Total
from services.carbon.domain.savings.shutdowns.windows import Mark, Method, Unknown, WindowSaving
from services.carbon.loads import LoadDirectory
from services.carbon.usecases.outages import Outages
from services.carbon.usecases.shutdowns import ShutdownReport, ShutdownSavings

TAGS = ["savings"]
NEIGHBOURS_MAX = 20
"""Sites that traffic moves to; more of them are no first neighbours."""


class TotalView(View):
    """A sum of savings."""

    saving_kwh: float | None
    """Of the windows with a figure; may be negative; null where none has one. [kWh]"""
    standard_error_kwh: float | None
    """Of the sum, from the spread of the clean days. [kWh]"""
    publishable: bool
    """Whether the saving is more than twice its standard error; otherwise it is shown and not claimed."""
    windows: int
    windows_known: int
    completeness: float | None
    """Windows with a figure over all windows, 0 to 1."""
    windows_failed: int
    """Switched off, and still more than half of the usual energy was used."""
    emission_kg_co2: float | None
    """Location-based; null where a factor is unknown. [kgCO2]"""
    money_cny: float | None
    """Each quarter hour at the price of its band; null where an account, a tariff or a price is not entered. [CNY]"""
    methods: list[Method]


class PartView(View):
    """A time in which one load was verifiably off."""

    load_id: str
    off_at: UtcTime
    on_at: UtcTime | None
    occurrence_id: str | None
    """Null for a switching by hand."""
    plan_id: str | None


class WindowView(View):
    """One measured window with every number behind it: saving = baseline - actual - rebound - control."""

    circuit_id: str
    start: UtcTime
    end: UtcTime
    post_end: UtcTime
    """Until when the time after the wake-up was looked at."""
    parts: list[PartView]
    saving_kwh: float | None
    standard_error_kwh: float | None
    reason: Unknown | None
    """Why there is no figure."""
    method: Method | None
    baseline_kwh: float | None
    adjustment_kwh: float
    """Of the baseline, for the weather. [kWh]"""
    actual_kwh: float | None
    post_baseline_kwh: float | None
    post_actual_kwh: float | None
    rebound_kwh: float | None
    """More than usual after the wake-up. [kWh]"""
    control_kwh: float
    clean_days: list[date]
    control_group: list[str]
    successful: bool | None
    marks: list[Mark]
    interval_completeness: float | None
    interval_version: int
    """Highest version of the intervals behind it."""
    emission_kg_co2: float | None
    factor_id: str | None
    money_cny: float | None


class UsedFactor(View):
    """An emission factor that was used."""

    factor_id: str
    value: float
    unit: str
    data_year: int
    source: str
    confidence: str
    provisional: bool
    fallback: bool


class ReportView(View):
    """Savings of a span; a window belongs to the span in which its first load went off."""

    start: UtcTime
    end: UtcTime
    method: str = (
        "measured branch (IPMVP option B): median of the same clock window on clean days, or a control group; "
        "less what was used in the window, more than usual in the hour after, and by the control equipment"
    )
    total: TotalView
    cluster: TotalView | None
    """With the neighbours' difference in the same windows; null where no neighbour was named."""
    by_occurrence: dict[str, TotalView]
    by_plan: dict[str, TotalView]
    by_circuit: dict[str, TotalView]
    by_site: dict[str, TotalView]
    windows: list[WindowView]
    running: list[PartView]
    """Shutdowns that are not over; not in the figures."""
    unmetered: list[str]
    """Loads without a meter, for which nothing is claimed."""
    factors: list[UsedFactor]


class OutageBody(Body):
    """A time in which a site or a circuit had no supply."""

    site: str = Field(max_length=64)
    circuit: str | None = Field(default=None, max_length=64)
    """Absent: the whole site."""
    began_at: UtcTime
    ended_at: UtcTime
    reason: str = Field(min_length=1, max_length=500)


class OutageView(View):
    """A recorded outage."""

    outage_id: str
    site_id: str
    circuit_id: str | None
    began_at: UtcTime
    ended_at: UtcTime
    reason: str
    recorded_by: str
    recorded_at: UtcTime
    withdrawn_by: str | None
    withdrawn_at: UtcTime | None


From = Annotated[UtcTime, Query(alias="from", description="start, RFC 3339 with offset")]
To = Annotated[UtcTime, Query(alias="to", description="end, not included")]
Neighbour = Annotated[
    list[str],
    Query(
        max_length=NEIGHBOURS_MAX,
        description="sites to which the traffic moves: their difference in the same windows makes the cluster",
    ),
]


def build_shutdown_router(
    savings: ShutdownSavings, outages: Outages, *, loads: LoadDirectory, db: Database, days_max: int
) -> APIRouter:
    """Return the routes of shutdown savings; a report covers at most ``days_max`` days."""
    router = APIRouter(prefix="/api/v1/savings", tags=list(TAGS))

    @router.get("/shutdowns", summary="What switching off saved, by site or plan")
    async def shutdowns(
        who: Reader,
        start: From,
        end: To,
        site: Annotated[str | None, Query(max_length=64)] = None,
        plan: Annotated[str | None, Query(max_length=64)] = None,
        neighbour: Neighbour = [],  # noqa: B006  # FastAPI copies it
    ) -> ReportView:
        check_span(start, end)
        if end - start > timedelta(days=days_max):
            raise InvalidInput(f"from, to: expected at most {days_max} days", message_zh=f"时间跨度最多 {days_max} 天")
        if (site is None) == (plan is None):
            raise InvalidInput("name either site or plan", message_zh="请指定 site 或 plan 其中之一")
        if neighbour and site is None:
            raise InvalidInput("neighbour: expected with site only", message_zh="neighbour 只能与 site 一起使用")
        if site is not None:
            for one in (site, *neighbour):
                _require_known(loads, who, SiteId(one))
            async with db.read() as conn:
                found = await savings.of_site(
                    conn, SiteId(site), start=start, end=end, neighbours=[SiteId(one) for one in neighbour]
                )
            return _report(found)
        async with db.read() as conn:
            found = await savings.of_plan(conn, plan or "", start=start, end=end)
        _require_seen(loads, who, found)
        return _report(found)

    @router.get("/shutdowns/{occurrence_id}", summary="What one occurrence saved")
    async def occurrence(who: Reader, occurrence_id: str) -> ReportView:
        async with db.read() as conn:
            found = await savings.of_occurrence(conn, occurrence_id)
        _require_seen(loads, who, found)
        return _report(found)

    @router.get("/outages", summary="Outages of a site")
    async def list_outages(
        who: Reader, start: From, end: To, site: Annotated[str, Query(max_length=64)]
    ) -> list[OutageView]:
        check_span(start, end)
        _require_known(loads, who, SiteId(site))
        return [_outage(one) for one in await outages.of_site(SiteId(site), start, end)]

    @router.post("/outages", status_code=201, summary="Record an outage: its days are no clean ones")
    async def record_outage(who: Writer, body: OutageBody) -> OutageView:
        site, circuit = SiteId(body.site), None if body.circuit is None else CircuitId(body.circuit)
        _require_known(loads, who, site)
        if circuit is not None and loads.site_of(circuit) != site:
            raise InvalidInput(
                f"circuit: expected one of site {site}, found {circuit}", message_zh=f"回路 {circuit} 不属于局站 {site}"
            )
        return _outage(
            await outages.record(
                site=site,
                circuit=circuit,
                began_at=body.began_at,
                ended_at=body.ended_at,
                reason=body.reason,
                who=who,
            )
        )

    @router.post("/outages/{outage_id}/withdraw", summary="Withdraw an outage that was recorded by mistake")
    async def withdraw_outage(who: Writer, outage_id: str) -> OutageView:
        require_sites(who, [(await outages.get(outage_id)).site_id], loads)
        return _outage(await outages.withdraw(outage_id, who))

    return router


def _require_known(loads: LoadDirectory, who: Principal, site: SiteId) -> None:
    """Check that there is such a site, and that the caller may see it.

    Raises:
        NotFound: There is none, or none for the caller.
    """
    if not loads.knows_site(site) or not sees(who, site, loads):
        raise NotFound(f"there is no site {site}", message_zh=f"没有局站 {site}")


def _require_seen(loads: LoadDirectory, who: Principal, report: ShutdownReport) -> None:
    """Check that the caller may see every site of a report; a part of a plan's saving is not the plan's saving.

    Raises:
        Forbidden: They may not.
    """
    shown = {part.load_id for one in report.windows for part in one.window.parts}
    shown |= {part.load_id for part in report.running} | set(report.unmetered)
    require_sites(who, sorted({loads.site_of_load(LoadId(load)) or SiteId("") for load in shown}), loads)


def _report(found: ShutdownReport) -> ReportView:
    return ReportView(
        start=found.start,
        end=found.end,
        total=_total(found.total),
        cluster=None if found.cluster is None else _total(found.cluster),
        by_occurrence=_totals(found.by_occurrence),
        by_plan=_totals(found.by_plan),
        by_circuit=_totals(found.by_circuit),
        by_site=_totals(found.by_site),
        windows=[_window(one) for one in found.windows],
        running=[_part(one) for one in found.running],
        unmetered=list(found.unmetered),
        factors=[_factor(one) for one in found.factors],
    )


def _totals(found: Mapping[str, Total]) -> dict[str, TotalView]:
    return {name: _total(one) for name, one in found.items()}


def _total(one: Total) -> TotalView:
    return TotalView(
        saving_kwh=one.saving_kwh,
        standard_error_kwh=one.standard_error_kwh,
        publishable=one.publishable,
        windows=one.windows,
        windows_known=one.windows_known,
        completeness=one.completeness,
        windows_failed=one.windows_failed,
        emission_kg_co2=one.emission_kg,
        money_cny=one.money_cny,
        methods=sorted(one.methods),
    )


def _part(one: ExecutedPart) -> PartView:
    return PartView(
        load_id=one.load_id,
        off_at=one.off_at,
        on_at=one.on_at,
        occurrence_id=one.occurrence_id,
        plan_id=one.plan_id,
    )


def _window(one: WindowSaving) -> WindowView:
    return WindowView(
        circuit_id=one.circuit_id,
        start=one.window.start,
        end=one.window.end,
        post_end=one.post_end,
        parts=[_part(part) for part in one.window.parts],
        saving_kwh=one.saving_kwh,
        standard_error_kwh=None if one.variance_kwh2 is None else one.variance_kwh2**0.5,
        reason=one.reason,
        method=one.method,
        baseline_kwh=one.baseline_kwh,
        adjustment_kwh=one.adjustment_kwh,
        actual_kwh=one.actual_kwh,
        post_baseline_kwh=one.post_baseline_kwh,
        post_actual_kwh=one.post_actual_kwh,
        rebound_kwh=one.rebound_kwh,
        control_kwh=one.control_kwh,
        clean_days=list(one.days),
        control_group=list(one.peers),
        successful=one.successful,
        marks=sorted(one.marks),
        interval_completeness=one.interval_completeness,
        interval_version=one.version,
        emission_kg_co2=one.emission_kg,
        factor_id=one.factor_id,
        money_cny=one.money_cny,
    )


def _factor(choice: Choice) -> UsedFactor:
    factor = choice.factor
    return UsedFactor(
        factor_id=factor.factor_id,
        value=float(factor.value),
        unit=factor.unit,
        data_year=factor.data_year,
        source=factor.source,
        confidence=factor.confidence,
        provisional=choice.provisional,
        fallback=choice.fallback,
    )


def _outage(one: Outage) -> OutageView:
    return OutageView.model_validate(one)
