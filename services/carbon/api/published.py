"""HTTP of published cases: the table as printed, the table as corrected, and every difference with its reason."""

from fastapi import APIRouter

from services.carbon.api.access import View
from services.carbon.api.common import Reader
from services.carbon.api.projects import ClaimView, EconomicsView, claim_view, economics_view
from services.carbon.documents.projects import PUBLISHED, load_published
from services.carbon.domain.savings.projects.measures import Outcome, Statement
from services.carbon.domain.savings.projects.published import PublishedCase, compare


class CaseView(View):
    """A published case."""

    case_id: str
    name: str
    name_zh: str
    source: str


class CorrectedLine(View):
    """One measure, as its corrected formula gives it."""

    measure_id: str
    name: str
    name_zh: str
    statement: Statement
    formula: str
    quantity: float
    unit: str
    emission_kg_co2e: float
    money_cny: float | None
    factor_id: str
    factor_value: float


class DifferenceView(View):
    """Where the two tables say different things, and why."""

    claim_id: str
    name: str
    name_zh: str
    printed: float
    corrected: float | None
    """Null where nothing that was printed supports the claim."""
    delta: float | None
    """Corrected minus printed."""
    unit: str
    reason: str
    reason_zh: str


class ComparisonView(View):
    """Both tables of a published case."""

    case: CaseView
    as_printed: list[ClaimView]
    """Claims: kept as they stand, checked by their own arithmetic, in no sum of savings."""
    as_corrected: list[CorrectedLine]
    by_statement: dict[Statement, float]
    """What may be stated, each on its own. [kgCO2e/a]"""
    corrected_table_kg_co2e: float
    """Sum over all lines of different statements: it stands beside the printed total and nowhere else. [kgCO2e/a]"""
    economics: EconomicsView
    differences: list[DifferenceView]


def build_published_router() -> APIRouter:
    """Return the routes of published cases."""
    router = APIRouter(prefix="/api/v1/savings/published", tags=["savings"])

    @router.get("", summary="Published cases that ship with Wattring")
    async def cases(_: Reader) -> list[CaseView]:
        return [_case(case_id, load_published(case_id)) for case_id in PUBLISHED]

    @router.get("/{case_id}", summary="A published table as printed, as corrected, and every difference")
    async def case(_: Reader, case_id: str) -> ComparisonView:
        return _comparison(case_id, load_published(case_id))

    return router


def _case(case_id: str, found: PublishedCase) -> CaseView:
    return CaseView(case_id=case_id, name=found.project.name, name_zh=found.project.name_zh, source=found.source)


def _comparison(case_id: str, found: PublishedCase) -> ComparisonView:
    both = compare(found)
    claims = {one.claim_id: one for one in both.claims}
    measures = {one.measure_id: one for one in found.project.measures}
    return ComparisonView(
        case=_case(case_id, found),
        as_printed=[claim_view(one, claims) for one in both.claims],
        as_corrected=[
            _line(
                one,
                measures[one.measure_id].name,
                measures[one.measure_id].name_zh,
                measures[one.measure_id].saving.text,
            )
            for one in both.corrected.outcomes
        ],
        by_statement=dict(both.corrected.by_statement),
        corrected_table_kg_co2e=both.corrected.table_kg,
        economics=economics_view(both.corrected.economics),
        differences=[DifferenceView.model_validate(one) for one in both.differences],
    )


def _line(one: Outcome, name: str, name_zh: str, formula: str) -> CorrectedLine:
    return CorrectedLine(
        measure_id=one.measure_id,
        name=name,
        name_zh=name_zh,
        statement=one.statement,
        formula=formula,
        quantity=one.quantity,
        unit=one.unit,
        emission_kg_co2e=one.emission_kg,
        money_cny=one.estimate.money_cny,
        factor_id=one.factor.factor_id,
        factor_value=one.factor.value,
    )
