"""HTTP of levels: figures of any node, from circuit to organisation, each with its completeness."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from libs.common.contracts.base import CalendarDate, Number, UtcTime
from libs.common.contracts.registry import CircuitRole
from libs.common.tokens import Principal
from services.carbon.api.access import Body, View
from services.carbon.api.common import AskedNode, From, Reader, To, Writer, asked_place, require_visible
from services.carbon.domain.levels.balance import PueCategory
from services.carbon.domain.levels.comparison import Against, NoChange
from services.carbon.domain.levels.cover import Dimension
from services.carbon.domain.levels.electrical import LoadRate, Rating
from services.carbon.domain.levels.facts import Fact, FactKind
from services.carbon.domain.levels.periods import Shift, Step, parse_shifts
from services.carbon.tree import Node, NodeKind
from services.carbon.usecases.levels import By, Intensity, Levels, Measure, Profile
from services.carbon.usecases.ports import refuse_limited
from services.carbon.usecases.supply import Supply

TAGS: list[str | Enum] = ["energy"]
ANSWERED_MAX = 500
COMPARED_DAYS = 800
"""A year to date begins at most so long after the year that it is compared with began. [d]"""


class EnergyView(View):
    """Energy of a span with what stands behind it."""

    energy_kwh: float | None
    """Null where it is unknown, which is not zero. [kWh]"""
    provisional: bool
    """The span is not over."""
    interval_completeness: float | None
    """Measured intervals over expected ones, weighted by usual use, 0 to 1."""
    usable_share: float | None
    """The same of measured and estimated intervals."""
    estimated_share: float
    """Share of the energy that was interpolated, allocated or stood in for."""
    from_parts_share: float
    """Share of the energy that the next metering level stood in for."""


class ProfilePeriod(EnergyView):
    """Energy and load curve of one period."""

    start: UtcTime
    end: UtcTime
    max_kw: float | None
    """Highest mean power of a quarter hour: the demand. A billing meter's sliding demand is this or more. [kW]"""
    max_at: UtcTime | None
    min_kw: float | None
    min_at: UtcTime | None
    mean_kw: float | None
    load_factor: float | None
    """Mean over max; null where max is not known or zero."""
    peak_valley_rate: float | None
    """(max - min) over max."""
    utilisation_h: float | None
    """Energy over max. [h]"""
    curve_quarters: int | None
    """Quarter hours in which every feed is known."""


class ShiftPeriod(EnergyView):
    """Energy of one shift in one period."""

    start: UtcTime
    end: UtcTime


class ProfileReply(View):
    """Energy and load curve of a node, or of some of its circuits."""

    node: str
    node_kind: NodeKind
    step: Step
    circuits: list[str]
    """What was summed; none of them lies within another."""
    periods: list[ProfilePeriod]
    shifts: dict[str, list[ShiftPeriod]]


class CoverageView(View):
    """How much of a node one metering level sees."""

    level: int
    """1 whole unit, 2 main line, 3 key equipment, 4 and finer."""
    circuits: int
    metered: int
    energy: EnergyView
    share: float | None
    """Its energy over the node's, of the quarter hours in which both are known."""
    quarters: int


class SliceView(View):
    """A part of a breakdown."""

    key: str
    circuits: int
    energy: EnergyView
    share: float | None


class BreakdownReply(View):
    """A node's energy and its parts."""

    by: By
    parts_add_up: bool
    """Whether the parts are disjoint; roles, tags, uses and levels lie within each other."""
    energy: EnergyView
    parts: list[SliceView]


class BalanceView(View):
    """Where energy came from and went in one period. [kWh]"""

    start: UtcTime
    end: UtcTime
    imported_kwh: float | None
    exported_kwh: float | None
    pv_kwh: float | None
    generator_kwh: float | None
    pv_self_used_kwh: float | None
    consumed_kwh: float | None
    clean_share: float | None
    """Self-used photovoltaics over consumption."""
    self_use_rate: float | None
    usable_share: float | None
    """The least of the shares of its parts that are known."""


class MeasuredView(View):
    """One side of a PUE."""

    energy_kwh: float | None
    usable: float | None


class PueView(View):
    """PUE of one period, or why there is none."""

    start: UtcTime
    end: UtcTime
    value: float | None
    reason: str | None
    """``below_one`` means that circuits have a wrong role or a meter a wrong ratio."""
    reason_text: str | None
    reason_text_zh: str | None
    kind: str | None
    """PUE over twelve months, iPUE over less, pPUE of a part of a building; null for a group."""
    category: int
    """Where IT is measured: 1 UPS or rectifier output, 2 PDU output, 3 IT equipment input."""
    total: MeasuredView | None
    it: MeasuredView | None
    sites: int
    left_out: int
    """Sites without a PUE; a group's is sum over sum of the others."""


class IntensityView(View):
    """Energy over one denominator, in kWh per unit."""

    per: FactKind
    value: float | None
    energy_kwh: float | None
    denominator: float | None
    basis: str
    """Price base of an output value, unit of an output."""
    reason: str | None
    """Why there is no denominator."""
    left_out: int
    """Sites that lack it."""


class IntensityPeriodView(View):
    """Intensities of one period; part-year periods are not annualised."""

    start: UtcTime
    end: UtcTime
    energy: EnergyView
    figures: list[IntensityView]


class ChangeView(View):
    """A figure beside its base."""

    value: float | None
    base: float | None
    absolute: float | None
    relative: float | None
    """(value - base) over the size of the base, a fraction."""
    reason: NoChange | None


class SpanView(View):
    """``[start, end)``."""

    start: UtcTime
    end: UtcTime


class ComparisonView(View):
    """A period beside an earlier one."""

    against: Against
    current: SpanView
    base: SpanView
    energy: EnergyView
    base_energy: EnergyView
    raw: ChangeView
    daily: ChangeView
    headline_is_daily: bool
    """A leap day lies in one of them: look at the figure per day."""
    like_for_like: ChangeView
    left_out: int
    spring: ChangeView | None
    """January and February together, since Spring Festival moves between them."""


class BenchmarkView(View):
    """Where a figure stands among its peers."""

    peers: int
    median: float
    lower_quartile: float
    upper_quartile: float
    share_below: float
    above_median: float | None


class RankedView(View):
    """One row of a ranking."""

    rank: int | None
    node: str
    node_kind: NodeKind
    value: float | None
    energy: EnergyView
    peers: str
    benchmark: BenchmarkView | None
    """Null with fewer than five peers."""


class PowerFactorView(View):
    """Power factor of one period and what it does to the bill."""

    start: UtcTime
    end: UtcTime
    active_kwh: float | None
    reactive_kvarh: float | None
    power_factor: float | None
    billed: float | None
    """Rounded to two decimals, halves up."""
    adjustment: float | None
    """By which share basic and energy fee are raised; negative lowers them; null where it is not known."""
    quarters: int
    """Quarter hours with active and reactive energy; only these are counted."""
    known_share: float | None


class ImbalancePeriod(View):
    """Imbalance of one circuit in one period, of the first report of each quarter hour. [1]"""

    start: UtcTime
    deviation_max: float | None
    """(I_max - I_mean) over I_mean; null below 5 % of the rated current."""
    deviation_max_at: UtcTime | None
    deviation_mean: float | None
    spread_max: float | None
    """(I_max - I_min) over I_max."""
    spread_max_at: UtcTime | None
    spread_mean: float | None
    voltage_max: float | None
    """Negative over positive sequence of the line voltages (GB/T 15543)."""
    voltage_max_at: UtcTime | None
    voltage_mean: float | None
    samples: int


class ImbalanceView(View):
    """Imbalance of one circuit."""

    circuit: str
    rated_current_a: float | None
    periods: list[ImbalancePeriod]


class LoadRateView(View):
    """How far a transformer or line was loaded. [1]"""

    site: str
    what: Rating
    name: str
    """Empty for all transformers of the site together."""
    rated_kva: float | None
    max_rate: float | None
    max_at: UtcTime | None
    mean_rate: float | None
    light: float | None
    """Share of the time below 30 %."""
    normal: float | None
    heavy: float | None
    """Share of the time above 80 %."""
    overload: float | None
    overload_episodes: int
    """Times of two quarter hours and more above the rating."""
    assumed_power_factor: float | None
    """Stood in where no reactive energy is known; null where it did not have to."""
    quarters: int


class FactBody(Body):
    """What energy is divided by, for civil days ``[first_day, end_day)``."""

    node: str = Field(min_length=1, max_length=64)
    kind: FactKind
    subject: str = Field(default="", max_length=100)
    """Name of the transformer or line as circuits give it."""
    first_day: CalendarDate
    end_day: CalendarDate
    value: Number
    basis: str = Field(default="", max_length=40)
    """Price base of an output value (``current``, ``constant-2020``), unit of an output."""
    source: str = Field(min_length=1, max_length=200)


class FactView(FactBody):
    """A fact as it holds."""

    version: int


Role = Annotated[CircuitRole | None, Query(description="only circuits with this role")]
Tag = Annotated[str | None, Query(description="only circuits with this tag", max_length=64)]
UseName = Annotated[str | None, Query(description="only circuits with the tag use:<name>", max_length=64)]
Level = Annotated[int | None, Query(description="only circuits of this metering level; 4 is 4 and finer", ge=1, le=9)]
Category = Annotated[PueCategory, Query(description="IT is measured at 1 UPS output, 2 PDU output, 3 IT input")]
Standard = Annotated[
    Literal["0.90", "0.85", "0.80"], Query(description="power factor that the class of the customer has to keep")
]
Shifts = Annotated[
    str | None,
    Query(description="parts of the day, such as day=08:00-20:00,night=20:00-08:00", max_length=400),
]


def build_levels_router(levels: Levels, supply: Supply) -> APIRouter:
    """Return the routes of levels."""
    router = APIRouter(prefix="/api/v1")
    Place = Annotated[Node, Depends(asked_place(levels.boundaries))]  # noqa: N806  # a type

    def check(who: Principal, node: Node, start: datetime, end: datetime) -> None:
        levels.boundaries.check_span(start, end)
        require_visible(who, levels.boundaries, node, start, end)

    @router.get("/energy/profile", tags=TAGS, summary="Energy, load curve and demand of a node or some of its circuits")
    async def profile(
        who: Reader, node: Place, start: From, end: To, step: Step = Step.DAY, role: Role = None, tag: Tag = None,
        use: UseName = None, level: Level = None, shifts: Shifts = None,
    ) -> ProfileReply:  # fmt: skip
        check(who, node, start, end)
        found = await levels.profile(
            node,
            start,
            end,
            step=step,
            dimension=Dimension(role=role, tag=tag, use=use, level=level),
            shifts=_shifts(shifts),
        )
        return profile_reply(node, step, found)

    @router.get("/energy/coverage", tags=TAGS, summary="How much of a node each metering level sees")
    async def coverage(who: Reader, node: AskedNode, start: From, end: To) -> Sequence[CoverageView]:
        check(who, node, start, end)
        return [CoverageView.model_validate(one) for one in await levels.coverage(node, start, end)]

    @router.get("/energy/breakdown", tags=TAGS, summary="A node's energy by role, tag, use, level, shift or site")
    async def breakdown(
        who: Reader, node: Place, start: From, end: To, by: By, shifts: Shifts = None
    ) -> BreakdownReply:
        check(who, node, start, end)
        whole, parts = await levels.breakdown(node, start, end, by, _shifts(shifts))
        return BreakdownReply(
            by=by,
            parts_add_up=by.is_apart,
            energy=EnergyView.model_validate(whole),
            parts=[SliceView.model_validate(one) for one in parts],
        )

    @router.get("/energy/balance", tags=TAGS, summary="Grid, photovoltaics, generators, self-use, export, clean share")
    async def balance(who: Reader, node: Place, start: From, end: To, step: Step = Step.MONTH) -> Sequence[BalanceView]:
        check(who, node, start, end)
        return [
            BalanceView(
                start=one.span.start,
                end=one.span.end,
                imported_kwh=one.mix.imported,
                exported_kwh=one.mix.exported,
                pv_kwh=one.mix.pv,
                generator_kwh=one.mix.generator,
                pv_self_used_kwh=one.mix.pv_self_used,
                consumed_kwh=one.mix.consumed,
                clean_share=one.mix.clean_share,
                self_use_rate=one.mix.self_use_rate,
                usable_share=one.usable,
            )
            for one in await levels.balance(node, start, end, step)
        ]

    @router.get("/energy/pue", tags=TAGS, summary="PUE with its category, or why there is none")
    async def pue(
        who: Reader, node: AskedNode, start: From, end: To, step: Step = Step.MONTH,
        category: Category = PueCategory.BASIC,
    ) -> Sequence[PueView]:  # fmt: skip
        check(who, node, start, end)
        found = await levels.pue(node, start, end, step=step, category=category)
        reasons = [None if one.pue is None or one.pue.reason is None else one.pue.reason.text for one in found]
        return [
            PueView(
                start=one.span.start,
                end=one.span.end,
                value=one.value,
                reason=None if one.pue is None else one.pue.reason,
                reason_text=None if text is None else text.english,
                reason_text_zh=None if text is None else text.chinese,
                kind=None if one.pue is None else one.pue.kind,
                category=category,
                total=None if one.pue is None else MeasuredView.model_validate(one.pue.total),
                it=None if one.pue is None else MeasuredView.model_validate(one.pue.it),
                sites=one.sites,
                left_out=one.left_out,
            )
            for one, text in zip(found, reasons, strict=True)
        ]

    @router.get("/energy/intensity", tags=TAGS, summary="Energy per m2, person, output value and output")
    async def intensity(
        who: Reader, node: Place, start: From, end: To, step: Step = Step.MONTH
    ) -> Sequence[IntensityPeriodView]:
        check(who, node, start, end)
        kinds = (FactKind.AREA, FactKind.PERSONS, FactKind.OUTPUT_VALUE, FactKind.OUTPUT)
        return [
            IntensityPeriodView(
                start=one.span.start,
                end=one.span.end,
                energy=EnergyView.model_validate(one.energy),
                figures=[IntensityView(per=figure.kind, **_intensity(figure)) for figure in one.figures],
            )
            for one in await levels.intensity(node, start, end, step=step, kinds=kinds)
        ]

    @router.get("/energy/comparison", tags=TAGS, summary="A period beside that of a year earlier and the one before")
    async def comparison(
        who: Reader,
        node: Place,
        at: Annotated[UtcTime, Query(description="a time within the period")],
        step: Step = Step.MONTH,
    ) -> Sequence[ComparisonView]:
        # What it is compared with may have had other sites.
        require_visible(who, levels.boundaries, node, at - timedelta(days=COMPARED_DAYS), at + timedelta(days=1))
        return [ComparisonView.model_validate(one) for one in await levels.comparison(node, at, step=step)]

    @router.get(
        "/energy/ranking", tags=TAGS, summary="Sites of a group, or circuits beneath a node, beside their peers"
    )
    async def ranking(
        who: Reader, node: AskedNode, start: From, end: To, measure: Measure = Measure.ENERGY,
        limit: Annotated[int, Query(ge=1, le=ANSWERED_MAX)] = 50,
    ) -> Sequence[RankedView]:  # fmt: skip
        check(who, node, start, end)
        return [
            RankedView(
                rank=one.rank,
                node=one.node.id,
                node_kind=one.node.kind,
                value=one.value,
                energy=EnergyView.model_validate(one.energy),
                peers=one.peers,
                benchmark=None if one.benchmark is None else BenchmarkView.model_validate(one.benchmark),
            )
            for one in await levels.ranking(node, start, end, measure=measure, limit=limit)
        ]

    @router.get("/energy/power-factor", tags=TAGS, summary="Power factor by period, and the adjustment of the bill")
    async def power_factor(
        who: Reader, node: AskedNode, start: From, end: To, step: Step = Step.MONTH, standard: Standard = "0.90"
    ) -> Sequence[PowerFactorView]:
        check(who, node, start, end)
        found = await supply.power_factor(node, start, end, step=step, standard=Decimal(standard))
        return [
            PowerFactorView(
                start=one.span.start,
                end=one.span.end,
                active_kwh=one.active_kwh,
                reactive_kvarh=one.reactive_kvarh,
                power_factor=one.power_factor,
                billed=None if one.billed is None else float(one.billed),
                adjustment=None if one.adjustment is None else float(one.adjustment),
                quarters=one.quarters,
                known_share=one.known_share,
            )
            for one in found
        ]

    @router.get("/energy/imbalance", tags=TAGS, summary="Three-phase imbalance of a node's feeds")
    async def imbalance(
        who: Reader, node: AskedNode, start: From, end: To, step: Step = Step.DAY
    ) -> Sequence[ImbalanceView]:
        check(who, node, start, end)
        return [
            ImbalanceView(
                circuit=one.circuit,
                rated_current_a=one.rated_current_a,
                periods=[ImbalancePeriod(**row) for row in one.frame.to_dicts()],
            )
            for one in await supply.imbalance(node, start, end, step=step)
        ]

    @router.get("/energy/load-rates", tags=TAGS, summary="Load rates of the transformers and lines of a node")
    async def load_rates(who: Reader, node: AskedNode, start: From, end: To) -> Sequence[LoadRateView]:
        check(who, node, start, end)
        found = await supply.load_rates(node, start, end)
        return [
            LoadRateView(site=one.site, **{name: getattr(one.rate, name) for name in LoadRate.__slots__})
            for one in found
        ]

    @router.post("/energy/facts", tags=TAGS, status_code=201, summary="Enter an area, head count, output or rating")
    async def enter(who: Writer, body: FactBody) -> FactView:
        refuse_limited(who, "facts of nodes", "节点数据")
        version = await levels.enter_fact(Fact(**body.model_dump()), who=who)
        return FactView(**body.model_dump(), version=version)

    @router.get("/energy/facts", tags=TAGS, summary="What was entered of a node")
    async def facts(
        who: Reader,
        node: Annotated[str, Query(max_length=64)],
        first_day: Annotated[CalendarDate, Query(description="the first civil day")],
        end_day: Annotated[CalendarDate, Query(description="the civil day after the last")],
    ) -> Sequence[FactView]:
        refuse_limited(who, "facts of nodes", "节点数据")
        found = await levels.facts(node, first_day, end_day)
        return [FactView.model_validate({**_fields(one), "version": version}) for one, version in found[:ANSWERED_MAX]]

    return router


def profile_reply(node: Node, step: Step, found: Profile) -> ProfileReply:
    """Return what is said of a profile."""
    return ProfileReply(
        node=node.id,
        node_kind=node.kind,
        step=step,
        circuits=sorted({term.circuit for term in found.found.terms}),
        periods=[ProfilePeriod(**row) for row in found.frame.to_dicts()],
        shifts={name: [ShiftPeriod(**row) for row in frame.to_dicts()] for name, frame in found.shifts.items()},
    )


def _shifts(text: str | None) -> list[Shift]:
    return [] if text is None else parse_shifts(text)


def _intensity(figure: Intensity) -> dict[str, Any]:
    den = figure.denominator
    return {
        "value": figure.value,
        "energy_kwh": figure.energy_kwh,
        "denominator": den.value,
        "basis": den.basis,
        "reason": den.reason,
        "left_out": figure.left_out,
    }


def _fields(one: Fact) -> dict[str, Any]:
    return {name: getattr(one, name) for name in Fact.__slots__}
