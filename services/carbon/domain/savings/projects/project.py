"""A retrofit project: its measures, what it costs and brings, and how far its stages are.

Payback and sums are simple ones, as the contracts of the trade have them: without interest, price growth or
degradation, and named so.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise

from libs.common.errors import InvalidInput
from services.carbon.domain.savings.measurement.prices import AgreedPrices
from services.carbon.domain.savings.projects.claims import Claim, check
from services.carbon.domain.savings.projects.measures import Measure

KG_PER_T = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Investment:
    """Money that was or will be spent on a project."""

    name: str
    amount_cny: float
    spent_on: date | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.amount_cny) and self.amount_cny >= 0):
            raise InvalidInput(
                f"investment {self.name}: expected 0 or more CNY, found {self.amount_cny:g}",
                message_zh=f"投资 {self.name} 应为不小于 0 的金额",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One step of a project, with who did it when and what shows it."""

    name: str
    name_zh: str
    planned: date
    actual: date | None = None
    person: str | None = None
    evidence: str | None = None
    """Where the document, photo or protocol is."""

    def __post_init__(self) -> None:
        """Refuse a finished stage that nobody answers for.

        Raises:
            InvalidInput: A stage with an actual date lacks its person or its evidence.
        """
        if self.actual is None:
            return
        for name, value in (("person", self.person), ("evidence", self.evidence)):
            if not (value or "").strip():
                raise InvalidInput(
                    f"stage {self.name}: {name}: expected one for a stage that is done, found none",
                    message_zh=f"阶段 {self.name_zh} 已完成,但缺少{'责任人' if name == 'person' else '证据'}",
                )

    def delay_days(self, today: date) -> int:
        """Return by how many days the stage is late, 0 if it is not; an open one counts up to today. [d]"""
        return max(((self.actual or today) - self.planned).days, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A retrofit project.

    ``claims`` are figures that somebody printed. They are kept beside the measures, marked, and enter no sum.
    """

    project_id: str
    name: str
    name_zh: str
    nodes: tuple[str, ...]
    """Sites or circuits that it is about."""
    measures: tuple[Measure, ...]
    investments: tuple[Investment, ...] = ()
    stages: tuple[Stage, ...] = ()
    claims: tuple[Claim, ...] = ()
    prices: AgreedPrices | None = None
    """What measured savings are worth; None: their money is unknown, and never 0."""
    years: int = 15
    """N of the N-year sums."""
    offset_price_cny_per_t: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            InvalidInput: A measure, stage or claim is there twice, a claim adds up what is not there or has no value,
                or a stage was done before the one ahead of it.
        """
        for kind, names in (
            ("measure", [one.measure_id for one in self.measures]),
            ("stage", [one.name for one in self.stages]),
            ("claim", [one.claim_id for one in self.claims]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise InvalidInput(
                    f"project {self.project_id}: {kind} {', '.join(twice)}: expected each once",
                    message_zh=f"项目 {self.project_id}:{', '.join(twice)} 重复",
                )
        claims = {one.claim_id: one for one in self.claims}
        for one in self.claims:
            unknown = sorted(set(one.parts) - claims.keys())
            if unknown:
                raise InvalidInput(
                    f"project {self.project_id}: claim {one.claim_id}: parts: expected claims, found {unknown[0]}",
                    message_zh=f"项目 {self.project_id}:公开数据 {one.claim_id} 的组成项 {unknown[0]} 不存在",
                )
            check(one, claims)
        done = [one for one in self.stages if one.actual is not None]
        for earlier, later in pairwise(done):
            if later.actual and earlier.actual and later.actual < earlier.actual:
                raise InvalidInput(
                    f"project {self.project_id}: stage {later.name}: expected a date from {earlier.actual} on "
                    f"(stage {earlier.name}), found {later.actual}",
                    message_zh=f"项目 {self.project_id}:阶段 {later.name_zh} 早于其前一阶段 {earlier.name_zh}",
                )

    @property
    def investment_cny(self) -> float:
        """All that is spent. [CNY]"""
        return math.fsum(one.amount_cny for one in self.investments)

    @property
    def progress(self) -> float | None:
        """Stages that are done over all stages, 0 to 1; None without stages."""
        done = sum(1 for one in self.stages if one.actual is not None)
        return done / len(self.stages) if self.stages else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Economics:
    """What a project costs and brings, simple and undiscounted."""

    investment_cny: float
    yearly_cny: float | None
    """Money saved in a year; None where it is unknown. [CNY/a]"""
    yearly_t_co2e: float
    years: int
    payback_years: float | None
    """Investment over yearly money; None where nothing is saved. [a]"""
    sum_cny: float | None
    """Yearly money times the years, before the investment. [CNY]"""
    net_cny: float | None
    """The same less the investment. [CNY]"""
    sum_t_co2e: float
    offset_price_cny_per_t: float
    yearly_offset_cny: float
    """What offsetting the same emission would have cost. [CNY/a]"""
    sum_offset_cny: float


def economics(
    *,
    investment_cny: float,
    yearly_cny: float | None,
    yearly_kg_co2e: float,
    years: int,
    offset_price_cny_per_t: float,
) -> Economics:
    """Return a project's simple economics.

    Args:
        investment_cny: All that is spent.
        yearly_cny: Money saved in a year, None where it is unknown.
        yearly_kg_co2e: Emission reduced in a year.
        years: N of the N-year sums, 1 or more.
        offset_price_cny_per_t: What a tonne of offsets costs.

    Raises:
        InvalidInput: ``years`` is below 1, or a price is negative.
    """
    if years < 1:
        raise InvalidInput(f"years: expected 1 or more, found {years}", message_zh="年数应不小于 1")
    if offset_price_cny_per_t < 0:
        raise InvalidInput(
            f"offset price: expected 0 or more, found {offset_price_cny_per_t:g}", message_zh="抵消价格不能为负"
        )
    tonnes = yearly_kg_co2e / KG_PER_T
    return Economics(
        investment_cny=investment_cny,
        yearly_cny=yearly_cny,
        yearly_t_co2e=tonnes,
        years=years,
        payback_years=investment_cny / yearly_cny if yearly_cny is not None and yearly_cny > 0 else None,
        sum_cny=None if yearly_cny is None else yearly_cny * years,
        net_cny=None if yearly_cny is None else yearly_cny * years - investment_cny,
        sum_t_co2e=tonnes * years,
        offset_price_cny_per_t=offset_price_cny_per_t,
        yearly_offset_cny=tonnes * offset_price_cny_per_t,
        sum_offset_cny=tonnes * years * offset_price_cny_per_t,
    )


def yearly_money(parts: Sequence[float | None]) -> float | None:
    """Return the sum of the measures' yearly money, None if it is unknown of every one. [CNY/a]"""
    known = [one for one in parts if one is not None]
    return math.fsum(known) if known else None
