"""HTTP of retrofit projects: kept by version, followed stage by stage, measured and assessed."""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from libs.common.clock import CIVIL_ZONE, Clock
from libs.common.contracts.base import CalendarDate, UtcTime
from libs.common.errors import InvalidInput, NotFound
from libs.common.ids import CircuitId, SiteId
from libs.common.tokens import Principal
from libs.common.web import Cursor, Limit, Page, read_key_cursor
from services.carbon.api.access import Body, VersionView, View, require_sites, sees_all, visible_page
from services.carbon.api.common import Reader, Writer
from services.carbon.api.projectbody import Key, Name, ProjectBody, Quantity
from services.carbon.domain.savings.measurement.measured import Adjustment, Basis, Doubt, MeasuredSaving
from services.carbon.domain.savings.measurement.regression import Failing, Model, Shape
from services.carbon.domain.savings.projects.assessment import Yearly
from services.carbon.domain.savings.projects.claims import Claim, Verdict, check
from services.carbon.domain.savings.projects.measures import Measure, Origin, Statement
from services.carbon.domain.savings.projects.project import Economics, Stage
from services.carbon.loads import LoadDirectory
from services.carbon.store.projects import ProjectRow
from services.carbon.usecases.measurements import Measurement
from services.carbon.usecases.projects import AssessedProject, Projects
from services.carbon.usecases.temperatures import OutdoorTemperatures

TEMPERATURES_MAX = 4000
"""Days of one import: more than ten years."""


class ReplaceBody(Body):
    """Another version of a project."""

    version: int = Field(ge=1)
    """The version that was read; refused if it is not the latest any more."""
    reason: Name
    project: ProjectBody


class StageDoneBody(Body):
    """A stage is done."""

    version: int = Field(ge=1)
    """The version of the project that was read."""
    actual: CalendarDate
    person: Name
    evidence: Name
    """Where the document, photo or protocol is."""


class AdjustmentBody(Body):
    """A change that neither the retrofit nor the weather explains."""

    energy_kwh: Quantity
    """Added to the saving. [kWh]"""
    reason: Name
    evidence: Name


class DayTemperature(Body):
    """The mean of a civil day."""

    day: CalendarDate
    mean_c: float = Field(ge=-90, le=60)


class TemperaturesBody(Body):
    """Daily means of a place."""

    source: Name
    """Weather station, service or meter."""
    days: list[DayTemperature] = Field(min_length=1, max_length=TEMPERATURES_MAX)


class TemperatureView(View):
    """The mean of a civil day at a place."""

    day: date
    mean_c: float
    source: str


class ChangedView(View):
    """How many rows are new or say something else than before."""

    changed: int


class ProjectView(VersionView):
    """One version of a project."""

    project_id: str
    reason: str
    project: ProjectBody = Field(validation_alias="document")


class AdjustmentView(View):
    """A recorded adjustment."""

    energy_kwh: float
    reason: str
    author: str
    made_at: UtcTime
    evidence: str


class ModelView(View):
    """The baseline of a regression: daily energy over outdoor temperature, day type and load."""

    shape: Shape
    base_kwh: float
    heating_kwh_per_k: float
    cooling_kwh_per_k: float
    heating_below_c: float | None
    cooling_above_c: float | None
    restday_kwh: float
    load_kwh_per_kwh: float
    t_values: dict[str, float]
    days: int
    r2: float | None
    cv_rmse: float | None
    nmbe: float | None
    autocorrelation: float
    failing: list[Failing]


class MeasuredView(View):
    """A measured saving."""

    basis: Basis
    start: date
    end: date
    saving_kwh: float | None
    baseline_kwh: float | None
    actual_kwh: float | None
    adjustments: list[AdjustmentView]
    days: int
    """Days of the period; of shutdowns their windows."""
    days_known: int
    days_before: int
    completeness: float | None
    fractional_uncertainty: float | None
    """Half-width over the saving, at 68 %."""
    publishable: bool
    doubts: list[Doubt]
    model: ModelView | None
    temperature_sources: list[str]


class EstimateView(View):
    """What the formulas give for a year."""

    quantity: float
    baseline: float | None
    emission_kg_co2e: float
    money_cny: float | None


class MeasureView(View):
    """A measure over a year: the figure that counts, and both figures beside each other."""

    measure_id: str
    name: str
    name_zh: str
    statement: Statement
    origin: Origin
    """Where the figure that counts comes from: a meter outranks the formula."""
    unit: str
    quantity: float
    emission_kg_co2e: float
    money_cny: float | None
    annualised: bool
    """The measured period was no year and was multiplied up by days."""
    publishable: bool
    formula: str
    factor_id: str
    factor_value: float
    estimate: EstimateView
    measured: MeasuredView | None


class EconomicsView(View):
    """Simple and undiscounted: no interest, no price growth, no degradation."""

    investment_cny: float
    yearly_cny: float | None
    yearly_t_co2e: float
    years: int
    payback_years: float | None
    sum_cny: float | None
    net_cny: float | None
    sum_t_co2e: float
    offset_price_cny_per_t: float
    yearly_offset_cny: float
    sum_offset_cny: float


class StageView(View):
    """A stage with its delay."""

    name: str
    name_zh: str
    planned: date
    actual: date | None
    person: str | None
    evidence: str | None
    delay_days: int


class ClaimView(View):
    """A printed figure: a claim and no result, in no sum."""

    claim_id: str
    name: str
    name_zh: str
    kind: str
    printed: float
    unit: str
    source: str
    recomputed: float | None
    """What the printed arithmetic gives."""
    verdict: Verdict


class AssessmentView(View):
    """A project with what is known of it today."""

    project_id: str
    version: int
    measures: list[MeasureView]
    by_statement: dict[Statement, float]
    """Side by side and not summed: what others avoid is no reduction of one's own. [kgCO2e/a]"""
    economics: EconomicsView
    money_unknown: list[str]
    """Measures whose money nobody knows; the yearly money is at least what is stated."""
    measured_share: float | None
    """Of the own emission reduction."""
    stages: list[StageView]
    progress: float | None
    claims: list[ClaimView]


def build_project_router(
    projects: Projects, temperatures: OutdoorTemperatures, *, loads: LoadDirectory, clock: Clock
) -> APIRouter:
    """Return the routes of projects and of the temperatures that their baselines need."""
    router = APIRouter(prefix="/api/v1", tags=["projects"])

    def today() -> date:
        return clock.now().astimezone(CIVIL_ZONE).date()

    async def visible(who: Principal, project_id: str) -> ProjectRow:
        row = await projects.get(project_id)
        require_sites(who, sites_of(loads, row.document["nodes"]), loads)
        return row

    @router.get("/projects", summary="List retrofit projects")
    async def list_projects(who: Reader, limit: Limit = 100, cursor: Cursor = None) -> Page[ProjectView]:
        found = await projects.listed(after=read_key_cursor(cursor) or "", limit=limit)
        return visible_page(
            found,
            limit=limit,
            seen=lambda row: sees_all(who, sites_of(loads, row.document["nodes"]), loads),
            key=lambda row: row.project_id,
            view=ProjectView,
        )

    @router.post("/projects", status_code=201, summary="Create a project")
    async def create_project(who: Writer, body: ProjectBody) -> ProjectView:
        _require_nodes(loads, who, body)
        return ProjectView.model_validate(await projects.create(body.document(), who))

    @router.get("/projects/{project_id}", summary="A project as it is")
    async def read_project(who: Reader, project_id: Key) -> ProjectView:
        return ProjectView.model_validate(await visible(who, project_id))

    @router.get("/projects/{project_id}/history", summary="Every version of a project")
    async def read_history(who: Reader, project_id: Key) -> list[ProjectView]:
        await visible(who, project_id)
        return [ProjectView.model_validate(one) for one in await projects.history(project_id)]

    @router.put("/projects/{project_id}", summary="Store another version of a project")
    async def replace_project(who: Writer, project_id: Key, body: ReplaceBody) -> ProjectView:
        await visible(who, project_id)
        _require_nodes(loads, who, body.project)
        return ProjectView.model_validate(
            await projects.replace(
                project_id, body.project.document(), version=body.version, reason=body.reason, who=who
            )
        )

    @router.post("/projects/{project_id}/stages/{stage}/done", summary="Record that a stage is done")
    async def finish_stage(who: Writer, project_id: Key, stage: Name, body: StageDoneBody) -> ProjectView:
        await visible(who, project_id)
        if body.actual > today():
            raise InvalidInput(
                f"actual: expected today ({today()}) or earlier, found {body.actual}",
                message_zh=f"actual:不能晚于今天({today()}),实际为 {body.actual}",
            )
        return ProjectView.model_validate(
            await projects.finish_stage(
                project_id,
                stage,
                version=body.version,
                actual=body.actual,
                person=body.person,
                evidence=body.evidence,
                who=who,
            )
        )

    @router.post(
        "/projects/{project_id}/measures/{measure_id}/adjustments",
        status_code=201,
        summary="Record a non-routine adjustment",
    )
    async def adjust(who: Writer, project_id: Key, measure_id: Key, body: AdjustmentBody) -> AdjustmentView:
        await visible(who, project_id)
        return _adjustment(
            await projects.adjust(
                project_id,
                measure_id,
                energy_kwh=body.energy_kwh,
                reason=body.reason,
                evidence=body.evidence,
                who=who,
            )
        )

    @router.get("/projects/{project_id}/assessment", summary="What a project saves in a year, and whether it pays")
    async def assessment(who: Reader, project_id: Key) -> AssessmentView:
        await visible(who, project_id)
        return _assessment(await projects.assess(project_id), today())

    @router.put("/savings/temperatures/{place}", summary="Enter or import daily mean outdoor temperatures")
    async def put_temperatures(who: Writer, place: str, body: TemperaturesBody) -> ChangedView:
        _require_place(loads, who, place)
        days = {one.day: one.mean_c for one in body.days}
        if len(days) < len(body.days):
            raise InvalidInput("days: expected each day once", message_zh="days:每天只能出现一次")
        return ChangedView(changed=await temperatures.put(place, days, source=body.source, who=who))

    @router.get("/savings/temperatures/{place}", summary="Daily mean outdoor temperatures of a place")
    async def read_temperatures(
        who: Reader,
        place: str,
        start: Annotated[CalendarDate, Query(alias="from", description="the first day")],
        end: Annotated[CalendarDate, Query(alias="to", description="the day after the last")],
    ) -> list[TemperatureView]:
        _require_place(loads, who, place)
        if not timedelta(0) < end - start <= timedelta(days=TEMPERATURES_MAX):
            raise InvalidInput(
                f"to: expected 1 to {TEMPERATURES_MAX} days after from",
                message_zh=f"to:应在 from 之后 1 至 {TEMPERATURES_MAX} 天内",
            )
        rows = await temperatures.of_place(place, start, end)
        return [TemperatureView(day=day, mean_c=mean_c, source=source) for _, day, mean_c, source in rows]

    return router


def sites_of(loads: LoadDirectory, nodes: Sequence[str]) -> list[SiteId | None]:
    """Return the site of each node; None for one that is not known (any more)."""
    return [SiteId(node) if loads.knows_site(SiteId(node)) else loads.site_of(CircuitId(node)) for node in nodes]


def _require_nodes(loads: LoadDirectory, who: Principal, body: ProjectBody) -> None:
    """Check that every node and circuit of a project is known and the caller's to change.

    Raises:
        NotFound: One is not known.
        Forbidden: One is not the caller's.
    """
    circuits = {one for measure in body.measures for one in measure.circuits}
    circuits |= {one for each in body.measures if each.measurement for one in each.measurement.load_circuits}
    nodes = sorted({*body.nodes, *circuits})
    for node, site in zip(nodes, sites_of(loads, nodes), strict=True):
        if site is None:
            raise NotFound(f"there is no site or circuit {node}", message_zh=f"没有局站或回路 {node}")
    require_sites(who, sites_of(loads, nodes), loads)


def _require_place(loads: LoadDirectory, who: Principal, place: str) -> None:
    """Check that a place is a site or region that is known, and the caller's.

    Raises:
        NotFound: It is not known.
        Forbidden: It is not the caller's.
    """
    if loads.knows_site(SiteId(place)):
        require_sites(who, [SiteId(place)], loads)
        return
    if not loads.knows_region(place):
        raise NotFound(f"there is no site or region {place}", message_zh=f"没有局站或区域 {place}")
    if who.sites is not None and f"region:{place}" not in who.sites:
        require_sites(who, [None], loads)


def _adjustment(one: Adjustment) -> AdjustmentView:
    return AdjustmentView.model_validate(one)


def _assessment(found: AssessedProject, today: date) -> AssessmentView:
    claims = {one.claim_id: one for one in found.project.claims}
    measures = {one.measure_id: one for one in found.project.measures}
    return AssessmentView(
        project_id=found.row.project_id,
        version=found.row.version,
        measures=[
            _measure(measures[one.outcome.measure_id], one, found.measurements.get(one.outcome.measure_id))
            for one in found.assessment.measures
        ],
        by_statement=dict(found.assessment.by_statement),
        economics=economics_view(found.assessment.economics),
        money_unknown=list(found.assessment.money_unknown),
        measured_share=found.assessment.measured_share,
        stages=[_stage(one, today) for one in found.project.stages],
        progress=found.project.progress,
        claims=[claim_view(one, claims) for one in found.project.claims],
    )


def _measure(measure: Measure, one: Yearly, measurement: Measurement | None) -> MeasureView:
    estimate = one.outcome.estimate
    return MeasureView(
        measure_id=measure.measure_id,
        name=measure.name,
        name_zh=measure.name_zh,
        statement=measure.statement,
        origin=one.outcome.origin,
        unit=measure.unit,
        quantity=one.quantity,
        emission_kg_co2e=one.emission_kg,
        money_cny=one.money_cny,
        annualised=one.annualised,
        publishable=one.outcome.publishable,
        formula=measure.saving.text,
        factor_id=measure.factor.factor_id,
        factor_value=measure.factor.value,
        estimate=EstimateView(
            quantity=estimate.quantity,
            baseline=estimate.baseline,
            emission_kg_co2e=estimate.emission_kg,
            money_cny=estimate.money_cny,
        ),
        measured=None if measurement is None else measured_view(measurement.saving, measurement),
    )


def measured_view(saving: MeasuredSaving, measurement: Measurement | None = None) -> MeasuredView:
    """Return a measured saving as it is shown; without what stands behind it where that was not kept."""
    return MeasuredView(
        basis=saving.basis,
        start=saving.start,
        end=saving.end,
        saving_kwh=saving.saving_kwh,
        baseline_kwh=saving.baseline_kwh,
        actual_kwh=saving.actual_kwh,
        adjustments=[_adjustment(one) for one in saving.adjustments],
        days=saving.days,
        days_known=saving.days_known,
        days_before=0 if measurement is None else measurement.days_before,
        completeness=saving.completeness,
        fractional_uncertainty=saving.fractional_uncertainty,
        publishable=saving.publishable,
        doubts=sorted(saving.doubts),
        model=None if measurement is None or measurement.model is None else _model(measurement.model),
        temperature_sources=[] if measurement is None else list(measurement.temperature_sources),
    )


def _model(model: Model) -> ModelView:
    return ModelView(
        shape=model.shape,
        base_kwh=model.base_kwh,
        heating_kwh_per_k=model.heating_kwh_per_k,
        cooling_kwh_per_k=model.cooling_kwh_per_k,
        heating_below_c=model.heating_below_c,
        cooling_above_c=model.cooling_above_c,
        restday_kwh=model.restday_kwh,
        load_kwh_per_kwh=model.load_kwh_per_kwh,
        t_values=dict(model.t_values),
        days=model.days,
        r2=model.r2,
        cv_rmse=model.cv_rmse,
        nmbe=model.nmbe,
        autocorrelation=model.autocorrelation,
        failing=sorted(model.failing),
    )


def economics_view(one: Economics) -> EconomicsView:
    """Return economics as they are shown."""
    return EconomicsView.model_validate(one)


def claim_view(claim: Claim, others: dict[str, Claim]) -> ClaimView:
    """Return a claim with what checking its own arithmetic shows."""
    checked = check(claim, others)
    return ClaimView(
        claim_id=claim.claim_id,
        name=claim.name,
        name_zh=claim.name_zh,
        kind=claim.kind,
        printed=claim.printed,
        unit=claim.unit,
        source=claim.source,
        recomputed=checked.recomputed,
        verdict=checked.verdict,
    )


def _stage(one: Stage, today: date) -> StageView:
    return StageView(
        name=one.name,
        name_zh=one.name_zh,
        planned=one.planned,
        actual=one.actual,
        person=one.person,
        evidence=one.evidence,
        delay_days=one.delay_days(today),
    )
